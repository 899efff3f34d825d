package seal

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// memFS is a file system in memory that keeps apart what a program sees and
// what would survive a power cut: data once its file was synced, names once
// their directory was. It can fail or crash at its n-th operation.
type memFS struct {
	mu    sync.Mutex
	files map[string]*inode // what the program sees, by clean path
	disk  map[string]*inode // names that are durable
	dirs  map[string]bool
	locks map[string]bool

	ops     int  // counted so far
	at      int  // the operation that fails, from 1; 0: none
	persist bool // and takes effect all the same
	crash   bool // and so do all after it
	crashed bool

	retained map[string]time.Time // of objects: until when a lock keeps them
}

type inode struct {
	data   []byte
	synced []byte
}

func newMemFS() *memFS {
	return &memFS{files: map[string]*inode{}, disk: map[string]*inode{}, dirs: map[string]bool{"/": true}, locks: map[string]bool{}}
}

var (
	errInjected = errors.New("injected fault")
	errPower    = errors.New("power is gone")
)

// op counts an operation that changes something. do reports whether it takes
// effect.
func (m *memFS) op() (do bool, err error) {
	if m.crashed {
		return false, errPower
	}
	m.ops++
	if m.ops != m.at {
		return true, nil
	}
	if m.crash {
		m.crashed = true
		return m.persist, errPower
	}
	return m.persist, errInjected
}

func (m *memFS) read() error {
	if m.crashed {
		return errPower
	}
	return nil
}

type memFile struct {
	fs   *memFS
	name string
	node *inode
	pos  int
}

func (m *memFS) OpenFile(name string, flag int, _ fs.FileMode) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.read(); err != nil {
		return nil, err
	}
	n := m.files[name]
	switch {
	case n == nil && flag&os.O_CREATE == 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case n != nil && flag&os.O_EXCL != 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	case !m.dirs[filepath.Dir(name)]:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case n == nil:
		do, err := m.op()
		if do {
			n = &inode{}
			m.files[name] = n
		}
		if err != nil {
			return nil, err
		}
	case flag&os.O_TRUNC != 0:
		do, err := m.op()
		if do {
			n.data = nil
		}
		if err != nil {
			return nil, err
		}
	}
	return &memFile{fs: m, name: name, node: n}, nil
}

func (f *memFile) Write(b []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	do, err := f.fs.op()
	n := len(b)
	if err != nil && !do && len(b) > 1 {
		n, do = len(b)/2, true // a short write
	}
	if do {
		f.node.data = append(f.node.data[:f.pos:f.pos], b[:n]...)
		f.pos += n
	}
	return n, err
}

// WriteAt overwrites what is there.
func (f *memFile) WriteAt(b []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	do, err := f.fs.op()
	n := len(b)
	if err != nil && !do && len(b) > 1 {
		n, do = len(b)/2, true
	}
	if do {
		f.node.data = slices.Clone(f.node.data) // readers hold what they have
		copy(f.node.data[off:], b[:n])
	}
	return n, err
}

func (f *memFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	do, err := f.fs.op()
	if do {
		f.node.synced = slices.Clone(f.node.data)
	}
	return err
}

func (f *memFile) Read(b []byte) (int, error) {
	n, err := f.ReadAt(b, int64(f.pos))
	f.pos += n
	if n > 0 {
		err = nil
	}
	return n, err
}

func (f *memFile) ReadAt(b []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.read(); err != nil {
		return 0, err
	}
	if off >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(b, f.node.data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) Close() error { return nil }

type memInfo struct {
	name string
	size int64
	dir  bool
}

func (i memInfo) Name() string               { return i.name }
func (i memInfo) Size() int64                { return i.size }
func (i memInfo) IsDir() bool                { return i.dir }
func (i memInfo) ModTime() time.Time         { return time.Time{} }
func (i memInfo) Sys() any                   { return nil }
func (i memInfo) Type() fs.FileMode          { return i.Mode().Type() }
func (i memInfo) Info() (fs.FileInfo, error) { return i, nil }
func (i memInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o755
	}
	return 0o600
}

func (f *memFile) Stat() (fs.FileInfo, error) { return f.fs.Stat(f.name) }

func (m *memFS) Stat(name string) (fs.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.read(); err != nil {
		return nil, err
	}
	if m.dirs[name] {
		return memInfo{filepath.Base(name), 0, true}, nil
	}
	if n := m.files[name]; n != nil {
		return memInfo{filepath.Base(name), int64(len(n.data)), false}, nil
	}
	return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
}

func (m *memFS) ReadDir(dir string) ([]fs.DirEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.read(); err != nil {
		return nil, err
	}
	if !m.dirs[dir] {
		return nil, &fs.PathError{Op: "readdir", Path: dir, Err: fs.ErrNotExist}
	}
	var es []fs.DirEntry
	for d := range m.dirs {
		if d != "/" && filepath.Dir(d) == dir {
			es = append(es, memInfo{filepath.Base(d), 0, true})
		}
	}
	for name, n := range m.files {
		if filepath.Dir(name) == dir {
			es = append(es, memInfo{filepath.Base(name), int64(len(n.data)), false})
		}
	}
	slices.SortFunc(es, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return es, nil
}

func (m *memFS) Rename(o, n string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	do, err := m.op()
	if do {
		m.files[n] = m.files[o]
		delete(m.files, o)
	}
	return err
}

func (m *memFS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	do, err := m.op()
	if do {
		delete(m.files, name)
	}
	return err
}

// MkdirAll is durable at once: what a lost directory means is tested by the
// names in it being lost.
func (m *memFS) MkdirAll(name string, _ fs.FileMode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	do, err := m.op()
	for ; do && name != "/"; name = filepath.Dir(name) {
		m.dirs[name] = true
	}
	return err
}

func (m *memFS) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	do, err := m.op()
	if do {
		maps.DeleteFunc(m.disk, func(name string, _ *inode) bool { return filepath.Dir(name) == dir })
		for name, n := range m.files {
			if filepath.Dir(name) == dir {
				m.disk[name] = n
			}
		}
	}
	return err
}

type memLock struct {
	m    *memFS
	name string
}

func (m *memFS) Lock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.read(); err != nil {
		return nil, err
	}
	if m.locks[name] {
		return nil, ErrLocked
	}
	m.locks[name] = true
	if m.files[name] == nil {
		m.files[name] = &inode{}
	}
	return memLock{m, name}, nil
}

func (l memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	delete(l.m.locks, l.name)
	return nil
}

// after says what of the unsynced state a crash leaves.
type afterCrash int

const (
	loseAll  afterCrash = iota // only what was synced
	keepAll                    // everything the program saw: a killed process
	loseSome                   // any part of it, in any order, by blocks
)

// restart is the file system as it is found after the crash.
func (m *memFS) restart(mode afterCrash, rnd *rand.Rand) *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := m.disk
	switch mode {
	case keepAll:
		names = m.files
	case loseSome:
		names = maps.Clone(m.disk)
		for _, name := range slices.Sorted(maps.Keys(m.files)) {
			if rnd.IntN(2) == 0 {
				names[name] = m.files[name]
			}
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if m.files[name] == nil && rnd.IntN(2) == 0 {
				delete(names, name)
			}
		}
	}
	n := newMemFS()
	n.dirs = maps.Clone(m.dirs)
	for name, old := range names {
		data := old.synced
		switch mode {
		case keepAll:
			data = old.data
		case loseSome:
			data = someOf(old, rnd)
		}
		node := &inode{data: slices.Clone(data), synced: slices.Clone(data)}
		n.files[name], n.disk[name] = node, node
	}
	return n
}

// someOf is a file whose unsynced tail is on the disk up to some length, with
// some of its blocks never written, nor some of those that were overwritten.
func someOf(old *inode, rnd *rand.Rand) []byte {
	if len(old.data) < len(old.synced) {
		return old.synced
	}
	data := slices.Clone(old.data[:len(old.synced)+rnd.IntN(len(old.data)-len(old.synced)+1)])
	for i := 0; i < len(old.synced); i += tornBlock {
		if rnd.IntN(2) == 0 {
			copy(data[i:], old.synced[i:min(i+tornBlock, len(old.synced))])
		}
	}
	for i := (len(old.synced) + tornBlock - 1) / tornBlock * tornBlock; i+tornBlock <= len(data); i += tornBlock {
		if rnd.IntN(3) == 0 {
			clear(data[i : i+tornBlock])
		}
	}
	return data
}
