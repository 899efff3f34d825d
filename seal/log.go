package seal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Log reads one writer's log, without its lock and without trust: what it
// returns is proven by Verify only. It goes as far as the last checkpoint, so
// that a log can be read while it is being written.
type Log struct {
	Origin string
	dir    string
	fs     FS

	mu     sync.Mutex
	erases map[uint64]place // the newest erase of each batch, where one was met
}

// OpenLog opens the log of origin in a directory's store for reading.
func OpenLog(root, origin string) (*Log, error) { return Dir(root).OpenLog(origin) }

// OpenLog opens the log of origin for reading.
func (s Store) OpenLog(origin string) (*Log, error) {
	if err := ValidOrigin(origin); err != nil {
		return nil, err
	}
	l := &Log{Origin: origin, dir: LogDir(s.Root, origin), fs: s.FS}
	if _, err := l.fs.Stat(filepath.Join(l.dir, segmentDir)); err != nil {
		return nil, fmt.Errorf("no log of %s in this store: %w", origin, err)
	}
	return l, nil
}

// Entry is one entry of a log, as read.
type Entry struct {
	*Header
	Segment string // file name
	Offset  int64  // of the entry in its segment, in bytes
	Size    int64  // header and sections as stored, in bytes

	// Erasure is the erase that took records out of this batch, nil if none
	// did. The header is still the whole batch's; see Number.
	Erasure *Header

	first uint64 // entry of the segment
	text  []byte
	parts [][]byte // the sections; of an erased batch those of its erase
}

// LeafHash is the entry's leaf in the log's Merkle tree.
func (e *Entry) LeafHash() Hash { return leafHash(e.text) }

// Filter is a batch's filter.
func (e *Entry) Filter() Filter {
	if e.Kind != KindBatch || len(e.parts) == 0 {
		return nil
	}
	return e.parts[0]
}

// Body decompresses a batch's body: one OTLP export request, without what was
// erased.
func (e *Entry) Body() (Signal, []byte, error) {
	if e.Kind != KindBatch || len(e.parts) < 2 {
		return 0, nil, fmt.Errorf("entry %d (%s) has no body that was read", e.Header.Entry, e.Kind)
	}
	s := &e.Sections[1]
	sig, err := signalOf(s.Encoding)
	if err != nil {
		return 0, nil, err
	}
	d := batchDecoders.Get().(*batchDecoder)
	defer batchDecoders.Put(d)
	var msg []byte
	if e.Erasure == nil {
		_, msg, err = d.open(s, e.parts[1])
	} else {
		msg, err = d.decompress(&e.Erasure.Sections[1], e.parts[1])
	}
	if err != nil {
		return 0, nil, fmt.Errorf("entry %d: %w", e.Header.Entry, err)
	}
	return sig, slices.Clone(msg), nil
}

// ErrStop, returned from a callback, ends a walk without an error.
var ErrStop = errors.New("stop")

// Entries calls fn for every entry through the last checkpoint, in order. An
// entry for which skip returns true comes without its sections, cheaply.
// Damage ends the walk with an error that names the place.
func (l *Log) Entries(ctx context.Context, skip func(*Header) bool, fn func(*Entry) error) error {
	_, err := l.EntriesFrom(ctx, Place{}, skip, fn)
	return err
}

// Place is behind a checkpoint of a log. The zero Place is the beginning.
type Place struct {
	segment uint64 // its first entry
	offset  int64
}

// EntriesFrom is Entries from a place on; it returns the next, behind the last
// checkpoint that was read, from which a later call goes on. That a log which
// is followed so no longer reaches where it did is damage.
func (l *Log) EntriesFrom(ctx context.Context, from Place, skip func(*Header) bool, fn func(*Entry) error) (to Place, err error) {
	firsts, _, err := segments(l.fs, l.dir)
	if err != nil {
		return from, err
	}
	if n := len(firsts); from != (Place{}) && (n == 0 || firsts[n-1] < from.segment) {
		return from, fmt.Errorf("segment %s and all that followed it are gone; run: meshaudit verify", segmentName(from.segment))
	}
	to = from
	for i, first := range firsts {
		switch {
		case first < from.segment:
			continue
		case first != to.segment:
			to = Place{segment: first}
		}
		to.offset, err = l.segment(ctx, to, i == len(firsts)-1, skip, fn)
		if err == ErrStop {
			return to, nil
		} else if err != nil {
			return to, err
		}
	}
	return to, nil
}

// segment calls fn for the entries of a segment from a place on, and returns how
// far it went: behind a checkpoint.
func (l *Log) segment(ctx context.Context, from Place, last bool, skip func(*Header) bool, fn func(*Entry) error) (offset int64, err error) {
	name := segmentName(from.segment)
	offset = from.offset
	f, err := openRead(l.fs, filepath.Join(l.dir, segmentDir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return offset, nil // pruned since the segments were listed
	}
	if err != nil {
		return offset, err
	}
	defer f.Close()
	var r io.Reader = f
	if offset > 0 {
		info, err := f.Stat()
		if err != nil {
			return offset, err
		}
		if info.Size() < offset {
			return offset, fmt.Errorf("segment %s: it had %d bytes and has %d: it was cut; run: meshaudit verify", name, offset, info.Size())
		}
		r = io.NewSectionReader(f, offset, info.Size()-offset)
	}
	fr := newFrameReader(r, offset)
	fr.skip = skip
	var group []*Entry
	for {
		if err := ctx.Err(); err != nil {
			return offset, err
		}
		at := fr.offset
		f, err := fr.next()
		switch {
		case err == io.EOF || err == errCut && last:
			return offset, nil // what follows the last checkpoint is not ours to show
		case errors.Is(err, errSectionHash) && f.Kind == KindBatch:
			e := l.asEntry(from.segment, f)
			if err := l.erased(ctx, e, err); err != nil {
				return offset, fmt.Errorf("segment %s, offset %d: %w; run: meshaudit verify", name, at, err)
			}
			group = append(group, e)
			continue
		case errors.Is(err, errSectionHash) && f.Kind == KindErase:
			group = append(group, l.asEntry(from.segment, f)) // superseded; nothing reads its sections here
			continue
		case err != nil:
			return offset, fmt.Errorf("segment %s, offset %d: %w; run: meshaudit verify", name, at, err)
		case f.Kind != KindCheckpoint:
			group = append(group, l.asEntry(from.segment, f))
			continue
		}
		for _, e := range group {
			if err := fn(e); err != nil {
				return offset, err
			}
		}
		group, offset = group[:0], fr.offset
	}
}

func (l *Log) asEntry(first uint64, f *frame) *Entry {
	return &Entry{Header: f.Header, Segment: segmentName(first), Offset: f.offset, Size: f.size, first: first, text: f.text, parts: f.sections}
}

// Replay calls fn with the OTLP request of each batch that was sealed within
// window before the newest batch of a log, oldest first. It reads without the
// lock, up to the last checkpoint. A log that does not exist holds nothing.
func (s Store) Replay(ctx context.Context, origin string, window time.Duration, fn func(sig Signal, sealedAt time.Time, message []byte) error) error {
	l, err := s.OpenLog(origin)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	firsts, _, err := segments(l.fs, l.dir)
	if err != nil {
		return err
	}
	// Backwards over the segments' headers, to the first batch in the window.
	var newest uint64
	from := len(firsts)
	for covered := false; from > 0 && !covered; {
		from--
		oldest := uint64(0)
		if _, err := l.segment(ctx, Place{segment: firsts[from]}, from == len(firsts)-1, onlyHeaders, func(e *Entry) error {
			if e.Kind == KindBatch {
				if oldest == 0 {
					oldest = e.Sealed
				}
				newest = max(newest, e.Sealed)
			}
			return nil
		}); err != nil {
			return err
		}
		covered = oldest != 0 && oldest+uint64(window) < newest
	}
	outside := func(h *Header) bool { return h.Kind != KindBatch || h.Sealed+uint64(window) < newest }
	for i := from; i < len(firsts); i++ {
		if _, err := l.segment(ctx, Place{segment: firsts[i]}, i == len(firsts)-1, outside, func(e *Entry) error {
			if outside(e.Header) {
				return nil
			}
			sig, msg, err := e.Body()
			if err != nil {
				return err
			}
			return fn(sig, time.Unix(0, int64(e.Sealed)), msg)
		}); err != nil {
			return err
		}
	}
	return nil
}
