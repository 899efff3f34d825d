package seal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Published checkpoints can be timestamped by an RFC 3161 authority: it proves
// that a log was there, through some entry, at some time, to those who trust
// nobody's clock in this house. What is stamped is the checkpoint's text, which a
// verifier computes from the entries; the tokens are kept beside the log. The
// protocol is not this package's business: see Config.Stamp and
// VerifyOptions.CheckTimestamp.

const (
	timestampDir    = "timestamp"
	timestampSuffix = ".tsr"

	// maxTimestampBytes bounds a token with its certificates.
	maxTimestampBytes = 64 << 10

	// stampTimeout bounds one request, stampRetry how soon a failed one is
	// made again.
	stampTimeout = 30 * time.Second
	stampRetry   = time.Minute

	// timestampSlack is how far the clocks of a writer and an authority may
	// differ.
	timestampSlack = 5 * time.Minute
)

func timestampName(size uint64) string {
	return fmt.Sprintf("%s/%020d%s", timestampDir, size, timestampSuffix)
}

// stamper has the newest published checkpoint timestamped now and then, beside
// everything else.
type stamper struct {
	cfg    *Config
	dir    string
	newest chan Checkpoint // of one
	cancel context.CancelFunc
	done   chan struct{}
	last   uint64 // size
}

func startStamper(cfg *Config, dir string) *stamper {
	if cfg.Stamp == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &stamper{cfg: cfg, dir: dir, newest: make(chan Checkpoint, 1), cancel: cancel, done: make(chan struct{})}
	go s.run(ctx)
	return s
}

func (s *stamper) stop() {
	if s != nil {
		s.cancel()
		<-s.done
	}
}

// offer supersedes what is not yet taken; the publisher alone calls it.
func (s *stamper) offer(note []byte) {
	if s == nil {
		return
	}
	c, err := openCheckpoint(note, nil)
	if err != nil {
		return // ours
	}
	for {
		select {
		case s.newest <- c:
			return
		default:
		}
		select {
		case <-s.newest:
		default:
		}
	}
}

func (s *stamper) run(ctx context.Context) {
	defer close(s.done)
	for {
		var c Checkpoint
		select {
		case c = <-s.newest:
		case <-ctx.Done():
			return
		}
		wait := s.cfg.StampEvery
		if c.Size > s.last {
			err := s.stamp(ctx, c)
			if ctx.Err() != nil {
				return
			}
			if s.cfg.Stamped != nil {
				s.cfg.Stamped(c.Size, err)
			}
			if err == nil {
				s.last = c.Size
			} else {
				wait = min(wait, stampRetry)
				select {
				case s.newest <- c: // unless there is a newer one
				default:
				}
			}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func (s *stamper) stamp(ctx context.Context, c Checkpoint) error {
	name := filepath.Join(s.dir, filepath.FromSlash(timestampName(c.Size)))
	if _, err := s.cfg.FS.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stampTimeout)
	defer cancel()
	token, err := s.cfg.Stamp(ctx, []byte(c.text()))
	if err != nil {
		return err
	}
	if len(token) > maxTimestampBytes {
		return fmt.Errorf("a token of %d bytes, at most %d are kept", len(token), maxTimestampBytes)
	}
	if direct(s.cfg.FS) {
		return createObject(s.cfg.FS, name, token)
	}
	if err := mkdirAll(s.cfg.FS, filepath.Dir(name)); err != nil {
		return err
	}
	return replaceFile(s.cfg.FS, name, token, 0o644)
}

// --- verification ---

// Timestamp is what a token says.
type Timestamp struct {
	Time time.Time
	By   string // the authority
}

// ErrUnknownAuthority: a token is whole, but by nobody who is trusted.
var ErrUnknownAuthority = errors.New("no trusted authority made this timestamp")

// Timestamped is the last checkpoint that a trusted authority timestamped.
type Timestamped struct {
	Timestamp
	Entries uint64 // that were there then
}

// timestamps is what a verification knows of the tokens of a log.
type timestamps struct {
	sizes []uint64 // ascending; those that the walk has not yet come to
}

// findTimestamps lists the tokens, before the segments are listed: a token is
// never ahead of them.
func (v *verification) findTimestamps() error {
	names, err := v.fs.ReadDir(filepath.Join(v.dir, timestampDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, n := range names {
		var size uint64
		digits := strings.TrimLeft(strings.TrimSuffix(n.Name(), timestampSuffix), "0")
		if size, err = number(digits); err == nil && n.Type().IsRegular() && size > 0 && timestampDir+"/"+n.Name() == timestampName(size) {
			v.stamps.sizes = append(v.stamps.sizes, size)
		} else if !strings.HasSuffix(n.Name(), tmpSuffix) {
			v.foundAt(timestampDir+"/"+n.Name(), 0, 0, Tampering, Integrity, "find out who put it there, and move it away", "this file does not belong into a log")
		}
	}
	slices.Sort(v.stamps.sizes)
	return nil
}

// timestamp checks the token for a checkpoint of the log, if there is one.
func (v *verification) timestamp(c Checkpoint) error {
	s := &v.stamps
	for len(s.sizes) > 0 && s.sizes[0] < c.Size {
		if s.sizes[0] > v.tree.size-v.entries { // else it was pruned
			v.foundAt(timestampName(s.sizes[0]), 0, s.sizes[0], Tampering, Integrity, nextIsolate, fmt.Sprintf("a timestamp for %d entries, and the log has no commit there", s.sizes[0]))
		}
		s.sizes = s.sizes[1:]
	}
	if len(s.sizes) == 0 || s.sizes[0] != c.Size {
		return nil
	}
	s.sizes = s.sizes[1:]
	if v.opts.CheckTimestamp == nil {
		return nil
	}
	name := timestampName(c.Size)
	token, err := readFile(v.fs, filepath.Join(v.dir, filepath.FromSlash(name)), maxTimestampBytes)
	if err != nil {
		return err
	}
	at, err := v.opts.CheckTimestamp(token, []byte(c.text()))
	switch sealed := time.Unix(0, int64(v.walk.sealed)); {
	case errors.Is(err, ErrUnknownAuthority):
		v.foundAt(name, 0, c.Size-1, Note, Witnessed, "", fmt.Sprintf("the timestamp for %d entries: %v", c.Size, err))
	case err != nil:
		v.foundAt(name, 0, c.Size-1, Tampering, Integrity, nextIsolate, fmt.Sprintf("the timestamp for %d entries is not of this log: %v", c.Size, err))
	default:
		v.report.Timestamped = &Timestamped{at, c.Size}
		if at.Time.Add(timestampSlack).Before(sealed) {
			v.foundAt(name, 0, c.Size-1, Incomplete, Order, "check the host's clock", fmt.Sprintf("%s timestamped %d entries at %s, before the last of them was sealed by the writer's clock", at.By, c.Size, at.Time.UTC().Format(time.RFC3339)))
		}
	}
	return nil
}

func (v *verification) concludeTimestamps() {
	for _, size := range v.stamps.sizes {
		if size > v.covered {
			v.foundAt(timestampName(size), 0, v.covered, Tampering, Completeness, nextIsolate, fmt.Sprintf("%d entries were timestamped, the log has %d: it was cut", size, v.covered))
		}
	}
	if v.opts.CheckTimestamp != nil && v.report.Timestamped == nil {
		v.found(Incomplete, Witnessed, "configure the writer's `timestamps`, or remove the `tsa` lines from the trust file", "no timestamp by a trusted authority")
	}
}
