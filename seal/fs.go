package seal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// FS is what a log needs of a file system. OS is the machine's; tests replace
// it with one that fails and crashes. One over an object store is an ObjectFS.
type FS interface {
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	Rename(oldName, newName string) error
	Remove(name string) error
	MkdirAll(name string, perm fs.FileMode) error
	ReadDir(name string) ([]fs.DirEntry, error)
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes the names in a directory durable.
	SyncDir(name string) error
	// Lock takes the exclusive lock on a file that it creates if need be;
	// ErrLocked if another process holds it. Close releases it.
	Lock(name string) (io.Closer, error)
}

// File is an open file of an FS.
type File interface {
	io.ReadWriteCloser
	io.ReaderAt
	Stat() (fs.FileInfo, error)
	Sync() error
}

// ObjectFS is an FS whose files are objects of an object store, or get there.
//
// A file made with OpenFile is sent by Sync, once, and only if no object of its
// name exists: it is whole or absent, and durable when Sync has returned.
// If another object has that name, and not the same content, Sync
// returns a *ForkError. Nothing is renamed, directories are what the names say,
// and the lock of an object store is none: a fork is what keeps two writers
// apart. Remove removes every version, or returns a *LockedError.
type ObjectFS interface {
	FS
	// Direct reports whether files are written as objects. If not, they
	// are written to a local file system, which is where recovery does its
	// work, and sent later.
	Direct() bool
	// Tail lists the last names of a directory, sorted, without listing all
	// of them: at least one, if there is any.
	Tail(dir string) ([]fs.DirEntry, error)
	// Overwrite puts b in the place of an object and removes what was
	// there before: the end of an erasure, and nothing else. It returns a
	// *LockedError if a lock keeps the old version. It may be repeated.
	Overwrite(name string, b []byte) error
	// LockedUntil is until when an object cannot be removed or overwritten,
	// zero if it can be now.
	LockedUntil(name string) (time.Time, error)
	// Strays calls fn for what Overwrite and Remove never leave: every
	// older version of an object, and every delete marker, below a
	// directory.
	Strays(dir string, fn func(name, what string)) error
}

// ForkError: the store holds another object where this writer was about to
// put one: two writers share an origin and its keys, or one of them was
// restored from a copy. The writer stops for good.
type ForkError struct{ Name string }

func (e *ForkError) Error() string {
	return fmt.Sprintf("fork: the store holds another %s than the one this writer made: two writers share this origin and its keys, or one was restored from a copy; stop both, run `meshaudit verify`, and give one of them an origin and keys of its own", e.Name)
}

// LockedError: the store keeps an object, by its lock, until some time.
type LockedError struct {
	Name  string
	Until time.Time
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("%s is locked until %s: it cannot be removed or overwritten before", e.Name, e.Until.UTC().Format(time.RFC3339))
}

// direct reports whether files of fsys are objects, see ObjectFS.
func direct(fsys FS) bool {
	o, ok := fsys.(ObjectFS)
	return ok && o.Direct()
}

// createObject puts b at name, where nothing is, or the same.
func createObject(fsys FS, name string, b []byte) error {
	f, err := fsys.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// OS is the machine's file system.
var OS FS = osFS{}

type osFS struct{}

func (osFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err // not f: a nil *os.File in a File is not nil
	}
	return f, nil
}
func (osFS) Rename(o, n string) error                     { return os.Rename(o, n) }
func (osFS) Remove(name string) error                     { return os.Remove(name) }
func (osFS) MkdirAll(name string, perm fs.FileMode) error { return os.MkdirAll(name, perm) }
func (osFS) ReadDir(name string) ([]fs.DirEntry, error)   { return os.ReadDir(name) }
func (osFS) Stat(name string) (fs.FileInfo, error)        { return os.Stat(name) }

func (osFS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ErrLocked: another process has the log open for writing.
var ErrLocked = errors.New("another writer has this log open")

func (osFS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// readFile reads a whole small file; a larger one than limit is refused.
func readFile(fsys FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: larger than %d bytes", name, limit)
	}
	return b, nil
}

// replaceFile puts b at name so that after a crash either the old or the new
// content is there, whole: a new file, fsync, rename, fsync of the directory.
// An object is created, and never replaced by another.
func replaceFile(fsys FS, name string, b []byte, perm fs.FileMode) error {
	if direct(fsys) {
		return createObject(fsys, name, b)
	}
	tmp := name + tmpSuffix
	f, err := fsys.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, fsys.Remove(tmp))
	}
	if err := fsys.Rename(tmp, name); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(name))
}

// tmpSuffix marks a file that is being written; a reader passes it over and
// the next start removes it.
const tmpSuffix = ".tmp"

// ReplaceFile puts b at name, durably and whole or not at all.
func ReplaceFile(fsys FS, name string, b []byte, perm fs.FileMode) error {
	return replaceFile(fsys, name, b, perm)
}
