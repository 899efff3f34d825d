package objectstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshaudit/meshaudit/seal"
)

// Journal is a writer's file system on a local disk whose complete segments are
// sent to a bucket, in order, and removed here once they are there.
//
// What recovery works on stays local: the last segment that was sent and all
// after it, the tiles, what recoveries cut off. Older segments are read from
// the bucket. Removals and overwritings reach the bucket after all that was
// sealed before them.
type Journal struct {
	seal.FS
	cfg    JournalConfig
	log    string // the log's directory, local
	dir    string // and in the bucket
	closed func() uint64

	work sync.Mutex // one upload or overwriting at a time

	mu     sync.Mutex
	next   uint64            // segments before it are in the bucket
	seen   uint64            // and before this one, as somebody who asked was told
	doomed map[string]uint64 // segments to be removed there; the entry that must be there before, 0: see removeDoomed

	// Owned by what Start starts.
	probed bool
	known  bool     // next is
	tiles  []uint64 // per level: full tiles in the bucket

	cosigned     []cosigned // published since, newest last, and not yet sent
	lastCosigned uint64     // size of the last one sent

	pending   atomic.Int64
	cancel    context.CancelFunc
	done      chan struct{}
	finishing chan struct{}
	finish    sync.Once
}

// cosigned is a checkpoint that witnesses cosigned.
type cosigned struct {
	size uint64
	note []byte
}

// JournalConfig says what a Journal is between.
type JournalConfig struct {
	Root   string // the local directory
	Origin string
	Bucket *Bucket

	KeepLocal time.Duration // how long segments stay here after their last entry
	MaxBytes  int64         // of what is not yet sent; Full reports it

	// Fault is told of every failure to send, and nil when it has passed;
	// Uploaded of every segment that arrived. Both are called by one
	// goroutine.
	Fault    func(error)
	Uploaded func(bytes int64)

	every time.Duration // for tests; 0: one second
}

var _ seal.ObjectFS = (*Journal)(nil)

// journalFile, in the local root, marks it as a journal and names the store.
const journalFile = "journal"

// NewJournal makes the file system for seal.Open. If the bucket is reached and
// must not be used, it says why; if it is not reached, that is left to Start.
func NewJournal(cfg JournalConfig) (*Journal, error) {
	if cfg.every == 0 {
		cfg.every = time.Second
	}
	j := &Journal{FS: seal.OS, cfg: cfg, log: seal.LogDir(cfg.Root, cfg.Origin), dir: seal.LogDir(".", cfg.Origin),
		doomed: map[string]uint64{}, done: make(chan struct{}), finishing: make(chan struct{})}
	var refused *RefusedError
	switch err := cfg.Bucket.Probe(); {
	case errors.As(err, &refused):
		return nil, err
	case err != nil:
		cfg.Fault(err)
	default:
		j.probed = true
	}
	if err := os.MkdirAll(cfg.Root, 0o755); err != nil {
		return nil, err
	}
	return j, os.WriteFile(filepath.Join(cfg.Root, journalFile), []byte(cfg.Bucket.cfg.Name()+"\n"), 0o644)
}

// Direct: files are written to the local disk.
func (j *Journal) Direct() bool { return false }

// remote is the name in the bucket of what may be there and not here: a segment
// or a full tile.
func (j *Journal) remote(name string) (string, bool) {
	rel, err := filepath.Rel(j.log, name)
	if err != nil {
		return "", false
	}
	rel = filepath.ToSlash(rel)
	isSegment := strings.HasPrefix(rel, "segment/") && strings.HasSuffix(rel, ".seal")
	isTile := strings.HasPrefix(rel, "tile/") && !strings.Contains(rel, ".p")
	return path.Join(j.dir, rel), isSegment || isTile
}

func (j *Journal) isDoomed(name string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, doomed := j.doomed[name]
	return doomed
}

// OpenFile opens the local file or, to read what is not here, the object.
func (j *Journal) OpenFile(name string, flag int, perm fs.FileMode) (seal.File, error) {
	f, err := j.FS.OpenFile(name, flag, perm)
	if remote, ok := j.remote(name); ok && errors.Is(err, fs.ErrNotExist) && flag == os.O_RDONLY && !j.isDoomed(remote) {
		return j.cfg.Bucket.OpenFile(remote, flag, perm)
	}
	return f, err
}

// Stat describes the local file or, if it is not here, the object.
func (j *Journal) Stat(name string) (fs.FileInfo, error) {
	fi, err := j.FS.Stat(name)
	if remote, ok := j.remote(name); ok && errors.Is(err, fs.ErrNotExist) && !j.isDoomed(remote) {
		return j.cfg.Bucket.Stat(remote)
	}
	return fi, err
}

// ReadDir lists a local directory; that of the segments with what is in the
// bucket.
func (j *Journal) ReadDir(name string) ([]fs.DirEntry, error) {
	local, err := j.FS.ReadDir(name)
	if name != filepath.Join(j.log, "segment") || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return local, err
	}
	all, err := j.cfg.Bucket.ReadDir(path.Join(j.dir, "segment"))
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(e fs.DirEntry) bool { return j.isDoomed(path.Join(j.dir, "segment", e.Name())) })
	all = append(local, all...) // what is in both: the local one
	slices.SortStableFunc(all, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return slices.CompactFunc(all, func(a, b fs.DirEntry) bool { return a.Name() == b.Name() }), nil
}

// Tail lists the last segments: local ones if there are any, as the last ones
// always are, but on a new disk.
func (j *Journal) Tail(dir string) ([]fs.DirEntry, error) {
	local, err := j.FS.ReadDir(dir)
	if dir != filepath.Join(j.log, "segment") || len(local) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return local, err
	}
	return j.cfg.Bucket.Tail(path.Join(j.dir, "segment"))
}

// Remove removes a local file, and a segment from the bucket as soon as all is
// there that was sealed before.
func (j *Journal) Remove(name string) error {
	err := j.FS.Remove(name)
	if remote, ok := j.remote(name); ok && strings.HasSuffix(name, ".seal") && (err == nil || errors.Is(err, fs.ErrNotExist)) {
		j.mu.Lock()
		defer j.mu.Unlock()
		// What was not sent is a tail that a recovery cuts off.
		if first, ok := number(filepath.Base(name)); ok && first < max(j.next, j.seen) {
			j.doomed[remote] = 0
		}
		return nil
	}
	return err
}

// Overwrite puts content in the place of a segment, here and in the bucket.
func (j *Journal) Overwrite(name string, content []byte) error {
	j.work.Lock()
	defer j.work.Unlock()
	remote, ok := j.remote(name)
	if !ok {
		return &os.PathError{Op: "overwrite", Path: name, Err: errors.ErrUnsupported}
	}
	if _, err := j.cfg.Bucket.Stat(remote); err == nil {
		if err := j.cfg.Bucket.Overwrite(remote, content); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := j.FS.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	tmp := name + ".tmp"
	f, err := j.FS.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, j.FS.Remove(tmp))
	}
	return errors.Join(j.FS.Rename(tmp, name), j.FS.SyncDir(filepath.Dir(name)))
}

// LockedUntil is until when the bucket keeps a segment. It is an error if it is
// not there yet.
func (j *Journal) LockedUntil(name string) (time.Time, error) {
	remote, _ := j.remote(name)
	until, err := j.cfg.Bucket.LockedUntil(remote)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%s is not yet in the bucket: %w", filepath.Base(name), err)
	}
	if first, ok := number(filepath.Base(name)); ok && err == nil {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.seen = max(j.seen, first+1)
	}
	return until, err
}

// Strays reports those of the bucket.
func (j *Journal) Strays(_ string, fn func(name, what string)) error {
	return j.cfg.Bucket.Strays(j.dir, fn)
}

// Full reports how many bytes wait to be sent if they are more than allowed.
func (j *Journal) Full() error {
	if n := j.pending.Load(); n > j.cfg.MaxBytes {
		return fmt.Errorf("the local journal is full: %d bytes are not yet in %s, the limit (`s3::journal_max_bytes`) is %d; send again when the bucket takes them", n, j.cfg.Bucket.name, j.cfg.MaxBytes)
	}
	return nil
}

// Pending is how many bytes are not yet in the bucket.
func (j *Journal) Pending() int64 { return j.pending.Load() }

// Written adds to what is pending, between two looks at the disk.
func (j *Journal) Written(bytes int64) { j.pending.Add(bytes) }
