package seal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// memObjects is an object store in memory, over a memFS: every file is created
// by its Sync, whole and durable, or not at all.
type memObjects struct{ *memFS }

// LockedUntil is as the test says.
func (m memObjects) LockedUntil(name string) (time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.retained[name], nil
}

func (memObjects) Direct() bool                              { return true }
func (memObjects) MkdirAll(string, fs.FileMode) error        { return nil }
func (memObjects) SyncDir(string) error                      { return nil }
func (memObjects) Lock(string) (io.Closer, error)            { return io.NopCloser(nil), nil }
func (memObjects) Rename(o, _ string) error                  { return fmt.Errorf("%s: an object is not renamed", o) }
func (memObjects) Strays(string, func(string, string)) error { return nil }

// Overwrite replaces an object at once: it is there whole, or not at all.
func (m memObjects) Overwrite(name string, b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if until := m.retained[name]; until.After(time.Now()) {
		return &LockedError{name, until}
	}
	do, err := m.op()
	if do {
		node := &inode{data: b, synced: b}
		m.files[name], m.disk[name] = node, node
	}
	return err
}

func (m memObjects) Tail(dir string) ([]fs.DirEntry, error) {
	names, err := m.ReadDir(dir)
	return names[max(0, len(names)-2):], err
}

func (m memObjects) ReadDir(dir string) (es []fs.DirEntry, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := map[string]bool{}
	for name, n := range m.files {
		rel, ok := strings.CutPrefix(name, dir+"/")
		if !ok {
			continue
		}
		first, _, below := strings.Cut(rel, "/")
		if !seen[first] {
			seen[first] = true
			es = append(es, memInfo{first, int64(len(n.data)), below})
		}
	}
	slices.SortFunc(es, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return es, m.read()
}

func (m memObjects) Stat(name string) (fs.FileInfo, error) {
	if es, err := m.ReadDir(name); len(es) > 0 || err != nil {
		return memInfo{filepath.Base(name), 0, true}, err
	}
	return m.memFS.Stat(name)
}

func (m memObjects) Remove(name string) error {
	err := m.memFS.Remove(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files[name] == nil {
		delete(m.disk, name)
	}
	return err
}

func (m memObjects) OpenFile(name string, flag int, _ fs.FileMode) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if flag&(os.O_WRONLY|os.O_RDWR) != 0 {
		return &memObject{memFile: memFile{fs: m.memFS, name: name, node: &inode{}}}, nil
	}
	n := m.files[name]
	if n == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &memFile{fs: m.memFS, name: name, node: n}, m.read()
}

type memObject struct{ memFile }

func (o *memObject) Write(b []byte) (int, error) {
	o.node.data = append(o.node.data, b...)
	return len(b), nil
}

func (o *memObject) Sync() error {
	o.fs.mu.Lock()
	defer o.fs.mu.Unlock()
	if there := o.fs.files[o.name]; there != nil {
		if string(there.data) != string(o.node.data) {
			return &ForkError{o.name}
		}
		return o.fs.read()
	}
	do, err := o.fs.op()
	if do {
		o.node.synced = o.node.data
		o.fs.files[o.name], o.fs.disk[o.name] = o.node, o.node
	}
	return err
}

// Two writers with copies of the same keys: the one that comes second to a name
// stops for good, and says why.
func TestFork(t *testing.T) {
	k := newTestKeys(t)
	m := newMemFS()
	open := func() *Writer {
		cfg := k.memConfig(newMemFS()) // a chain key of its own
		cfg.FS = memObjects{m}
		w, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	one := open()
	if err := one.Append(t.Context(), SignalLogs, testRequest(1, "a")); err != nil {
		t.Fatal(err)
	}
	cfg := k.memConfig(newMemFS())
	key := k.chain.Next()
	if err := cfg.Chain.Replace(key); err != nil {
		t.Fatal(err)
	}
	cfg.FS = memObjects{m}
	two, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var fork *ForkError
	if err := one.Append(t.Context(), SignalLogs, testRequest(1, "b")); !errors.As(err, new(*FaultError)) && !errors.As(err, &fork) {
		t.Fatalf("the first writer wrote on: %v", err)
	}
	for errors.As(one.Append(t.Context(), SignalLogs, testRequest(1, "c")), new(*FaultError)) {
		// It is told when it tries to begin anew, twice.
	}
	for range 2 { // for good
		if err := one.Append(t.Context(), SignalLogs, testRequest(1, "c")); !errors.As(err, &fork) || errors.As(err, new(*FaultError)) {
			t.Fatalf("want a fork, got %v", err)
		}
	}
	if err := one.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := one.Append(t.Context(), SignalLogs, testRequest(1, "c")); !errors.As(err, &fork) {
		t.Fatalf("after Close: want a fork, got %v", err)
	}
	if err := two.Append(t.Context(), SignalLogs, testRequest(1, "d")); err != nil {
		t.Fatal(err)
	}
	if err := two.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A start whose last tiles were not written needs the headers of a few entries,
// not of the log; and no partial tile.
func TestRestoreWithoutLastTiles(t *testing.T) {
	k := newTestKeys(t)
	m := newMemFS()
	cfg := k.memConfig(m)
	cfg.FS, cfg.EpochMaxAge = memObjects{m}, 0
	w, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1100 {
		if err := w.Append(t.Context(), SignalLogs, testRequest(1, fmt.Sprint("r", i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name := range m.files {
		if strings.Contains(name, ".p/") || strings.HasSuffix(name, "/tile/0/003") {
			delete(m.files, name)
		}
	}
	read := &countingObjects{memObjects: memObjects{m}}
	cfg.FS = read
	if w, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := read.opened.Load(); n > 2*tileWidth+50 {
		t.Errorf("%d objects were read to restore a tree of 1100 entries", n)
	}
	if m.files[filepath.Join(LogDir("/store", testOrigin), "tile/0/003")] == nil {
		t.Error("the missing tile was not written again")
	}
}

// A record is proven without a published checkpoint and without partial tiles.
func TestProveFromObjects(t *testing.T) {
	k := newTestKeys(t)
	m := newMemFS()
	cfg := k.memConfig(m)
	cfg.FS, cfg.EpochMaxAge = memObjects{m}, 0
	w, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close(t.Context())
	for i := range 600 {
		if err := w.Append(t.Context(), SignalLogs, testRequest(1, fmt.Sprint("r", i))); err != nil {
			t.Fatal(err)
		}
	}
	l, err := Store{memObjects{m}, "/store"}.OpenLog(testOrigin)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range []uint64{1, 255, 256, 511, 512, 600} {
		proof, err := l.Prove(t.Context(), entry, 0)
		if err != nil {
			t.Fatalf("entry %d: %v", entry, err)
		}
		p, err := CheckProof(proof, k.trust)
		if err != nil || p.Number != entry-1 || p.Checkpoint.Size != 601 {
			t.Errorf("entry %d: record %d under %d entries: %v", entry, p.Number, p.Checkpoint.Size, err)
		}
	}
	if _, err := l.Prove(t.Context(), 601, 0); err == nil {
		t.Error("an entry that is not there is proven")
	}
}

type countingObjects struct {
	memObjects
	opened atomic.Int64 // several segments are read at once
}

func (c *countingObjects) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	if strings.HasSuffix(name, segmentSuffix) && flag&os.O_WRONLY == 0 {
		c.opened.Add(1)
	}
	return c.memObjects.OpenFile(name, flag, perm)
}

// A segment ends by age even if nothing follows, and says so.
func TestSegmentMaxAge(t *testing.T) {
	cfg := newTestKeys(t).memConfig(newMemFS())
	cfg.SegmentMaxAge = 300 * time.Millisecond
	w, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Append(t.Context(), SignalLogs, testRequest(1, "a")); err != nil {
		t.Fatal(err)
	}
	if c := w.Closed(); c != 0 {
		t.Errorf("segments are complete before entry %d, want 0", c)
	}
	for deadline := time.Now().Add(10 * time.Second); w.Closed() != 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("segments are complete before entry %d, want 2", w.Closed())
		}
	}
	if err := w.Append(t.Context(), SignalLogs, testRequest(1, "b")); err != nil {
		t.Fatal(err)
	}
	if firsts, _, err := segments(cfg.FS, w.dir); err != nil || !slices.Equal(firsts, []uint64{0, 2}) {
		t.Errorf("segments begin at %v, want 0 and 2: %v", firsts, err)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Linger bounds how often requests are committed, not how long one waits alone.
func TestLinger(t *testing.T) {
	const linger = 200 * time.Millisecond
	var commits atomic.Int32
	cfg := newTestKeys(t).memConfig(newMemFS())
	cfg.Linger = linger
	cfg.Observe = func(Commit) { commits.Add(1) }
	w, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * linger)
	start := time.Now()
	if err := w.Append(t.Context(), SignalLogs, testRequest(1, "alone")); err != nil || time.Since(start) > linger/2 {
		t.Errorf("a request alone waited %v: %v", time.Since(start), err)
	}
	done := make(chan error)
	for i := range 50 {
		go func() {
			time.Sleep(time.Duration(i) * linger / 20)
			done <- w.Append(t.Context(), SignalLogs, testRequest(1, fmt.Sprint(i)))
		}()
	}
	for range 50 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n, most := commits.Load(), int32(time.Since(start)/linger)+2; n < 3 || n > most {
		t.Errorf("%v of requests took %d commits, want 3 to %d", time.Since(start), n, most)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
