package objectstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/meshaudit/meshaudit/seal"
)

var _ seal.ObjectFS = (*Bucket)(nil)

var errAbsent = fs.ErrNotExist

// Direct: files are objects.
func (b *Bucket) Direct() bool { return true }

// Rename is not for objects.
func (b *Bucket) Rename(oldName, _ string) error {
	return &os.PathError{Op: "rename", Path: oldName, Err: errors.ErrUnsupported}
}

// MkdirAll does nothing: names are enough.
func (b *Bucket) MkdirAll(string, fs.FileMode) error { return nil }

// SyncDir does nothing: a name is durable with its object.
func (b *Bucket) SyncDir(string) error { return nil }

// Lock locks nothing: two writers are kept apart by who comes second to a name.
func (b *Bucket) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

// info describes an object or a directory.
type info struct {
	name string
	size int64
	time time.Time
	dir  bool
}

func (i info) Name() string               { return i.name }
func (i info) Size() int64                { return i.size }
func (i info) IsDir() bool                { return i.dir }
func (i info) ModTime() time.Time         { return i.time }
func (i info) Sys() any                   { return nil }
func (i info) Type() fs.FileMode          { return i.Mode().Type() }
func (i info) Info() (fs.FileInfo, error) { return i, nil }
func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o755
	}
	return 0o644
}

// Stat describes an object, or a directory if there are names in it.
func (b *Bucket) Stat(name string) (fs.FileInfo, error) {
	key, i := b.key(name), info{name: path.Base(b.key(name))}
	err := fs.ErrNotExist
	if key != b.cfg.Prefix {
		err = b.try("stat", name, func(ctx context.Context) error {
			o, err := b.core.StatObject(ctx, b.cfg.Bucket, key, minio.StatObjectOptions{})
			i.size, i.time = o.Size, o.LastModified
			return err
		})
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return i, err
	}
	names, err := b.list("stat", name, "", 1)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, &os.PathError{Op: "stat", Path: b.name + "/" + name, Err: fs.ErrNotExist}
	}
	i.dir = true
	return i, nil
}

// ReadDir lists what is in a directory, sorted; nothing if nothing is.
func (b *Bucket) ReadDir(name string) (names []fs.DirEntry, err error) {
	for after := ""; ; {
		more, err := b.list("readdir", name, after, page)
		if err != nil {
			return nil, err
		}
		names = append(names, more...)
		if len(more) < page {
			break
		}
		if after = more[page-1].Name(); more[page-1].IsDir() {
			after += "/\U0010FFFF" // past all that is in it
		}
	}
	slices.SortFunc(names, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return names, nil
}

const page = 1000 // names in an answer, at most

// list lists the names in a directory that come after one, up to limit, in the
// order of their keys.
func (b *Bucket) list(op, dir, after string, limit int) (names []fs.DirEntry, err error) {
	prefix := b.under(dir)
	opts := minio.ListObjectsOptions{Prefix: prefix, MaxKeys: limit}
	if after != "" {
		opts.StartAfter = prefix + after
	}
	err = b.try(op, dir, func(ctx context.Context) error {
		names = nil
		for o := range b.core.ListObjectsIter(ctx, b.cfg.Bucket, opts) {
			if o.Err != nil {
				return o.Err
			}
			rel := strings.TrimPrefix(o.Key, prefix)
			i := info{name: strings.TrimSuffix(rel, "/"), size: o.Size, time: o.LastModified, dir: strings.HasSuffix(rel, "/")}
			if i.name == "" || strings.Contains(i.name, "/") {
				continue
			}
			if names = append(names, i); len(names) == limit {
				break
			}
		}
		return nil
	})
	return names, err
}

// Tail finds the last names of a directory whose names begin with 20 digits, in
// a number of requests that grows with the logarithm of how many there are. It
// is one request for up to a thousand.
func (b *Bucket) Tail(dir string) ([]fs.DirEntry, error) {
	last, err := b.list("readdir", dir, "", page)
	if err != nil || len(last) < page {
		return last, err
	}
	// Between low, which is there, and high, after which there is none.
	low, ok := number(last[len(last)-1].Name())
	if !ok {
		return b.ReadDir(dir)
	}
	high := uint64(0) // not known
	for step := uint64(page); ; step *= 2 {
		if high == 0 && low+step < low {
			high = ^uint64(0)
		}
		from := low // the next page
		if high != 0 {
			from = low + (high-low)/2
		} else if step > page {
			from = low + step
		}
		names, err := b.list("readdir", dir, fmt.Sprintf("%020d~", from), page)
		switch {
		case err != nil:
			return nil, err
		case len(names) > 0 && len(names) < page:
			return names, nil
		case len(names) == page:
			last = names
			if low, ok = number(last[page-1].Name()); !ok {
				return b.ReadDir(dir)
			}
		case from == low:
			return last, nil
		default:
			high = from
		}
	}
}

func number(name string) (uint64, bool) {
	if len(name) < 20 {
		return 0, false
	}
	n, err := strconv.ParseUint(name[:20], 10, 64)
	return n, err == nil
}

// version is one version of an object, or a delete marker.
type version struct {
	id     string
	latest bool
	marker bool
	time   time.Time
}

// versions calls fn with all versions of each object below a prefix, the newest
// first.
func (b *Bucket) versions(op, name, prefix string, fn func(key string, all []version) error) error {
	for after, more := "", true; more; {
		var fromCaller error
		err := b.try(op, name, func(ctx context.Context) error {
			key, all, listed := "", []version(nil), 0
			done := func() bool {
				if key != "" {
					fromCaller = fn(key, all)
					after = key
				}
				return fromCaller != nil
			}
			opts := minio.ListObjectsOptions{Prefix: prefix, Recursive: true, WithVersions: true, StartAfter: after, MaxKeys: page}
			for o := range b.core.ListObjectsIter(ctx, b.cfg.Bucket, opts) {
				if code(o.Err) == "NotImplemented" {
					break // a store that keeps no versions
				}
				if o.Err != nil {
					return o.Err
				}
				if o.Key != key {
					if done() || listed >= page {
						return nil
					}
					key, all = o.Key, nil
				}
				all = append(all, version{o.VersionID, o.IsLatest, o.IsDeleteMarker, o.LastModified})
				listed++
			}
			more = false
			done()
			return nil
		})
		if err = errors.Join(fromCaller, err); err != nil {
			return err
		}
	}
	return nil
}

// Strays reports older versions and delete markers.
func (b *Bucket) Strays(dir string, fn func(name, what string)) error {
	return b.versions("list versions of", dir, b.under(dir), func(key string, all []version) error {
		name := key
		if b.cfg.Prefix != "" {
			name = strings.TrimPrefix(key, b.cfg.Prefix+"/")
		}
		old := 0
		for _, v := range all {
			switch {
			case v.marker:
				fn(name, "a delete marker of "+v.time.UTC().Format(time.RFC3339)+" is on this object: somebody removed it")
			case !v.latest:
				old++
			}
		}
		if old > 0 && !all[0].marker {
			fn(name, fmt.Sprintf("this object has %d older versions, which somebody overwrote", old))
		} else if old > 1 {
			fn(name, fmt.Sprintf("this object has %d versions, of which somebody wrote all but the first", old))
		}
		return nil
	})
}

// versionsOf are all versions of one object.
func (b *Bucket) versionsOf(op, name string) (of []version, err error) {
	key := b.key(name)
	stop := errors.New("stop")
	err = b.versions(op, name, key, func(k string, all []version) error {
		if k == key {
			of = all
		}
		if k >= key {
			return stop
		}
		return nil
	})
	if errors.Is(err, stop) {
		err = nil
	}
	return of, err
}

// LockedUntil is until when the store's lock keeps an object.
func (b *Bucket) LockedUntil(name string) (time.Time, error) {
	until, err := b.lockedVersion(name, "")
	if until.Before(time.Now()) {
		until = time.Time{}
	}
	return until, err
}

// Remove removes every version of an object.
func (b *Bucket) Remove(name string) error {
	all, err := b.versionsOf("remove", name)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return &os.PathError{Op: "remove", Path: b.name + "/" + name, Err: fs.ErrNotExist}
	}
	for _, v := range slices.Backward(all) { // oldest first, markers last
		if err := b.removeVersion(name, v.id); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bucket) removeVersion(name, id string) error {
	err := b.try("remove", name, func(ctx context.Context) error {
		err := b.core.RemoveObject(ctx, b.cfg.Bucket, b.key(name), minio.RemoveObjectOptions{VersionID: id})
		if isAbsent(err) {
			return nil
		}
		return err
	})
	if err == nil {
		return nil
	}
	if until, e := b.lockedVersion(name, id); e == nil && until.After(time.Now()) {
		return &seal.LockedError{Name: b.name + "/" + name, Until: until}
	}
	return err
}

// lockedVersion is until when a version is locked, zero if the store does not
// say. It asks for the headers: for retention itself stores answer differently.
func (b *Bucket) lockedVersion(name, id string) (until time.Time, err error) {
	err = b.try("stat", name, func(ctx context.Context) error {
		o, err := b.core.StatObject(ctx, b.cfg.Bucket, b.key(name), minio.StatObjectOptions{VersionID: id})
		if err != nil {
			return err
		}
		if s := o.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"); s != "" {
			until, err = time.Parse(time.RFC3339, s)
		}
		return err
	})
	return until, err
}

// Overwrite puts content in the place of an object and removes its older
// versions. Until that is done Strays reports them; doing it again ends it.
func (b *Bucket) Overwrite(name string, content []byte) error {
	until, err := b.LockedUntil(name)
	if err != nil {
		return err
	}
	there, err := b.same(name, digestOf(content))
	if err != nil {
		return err
	}
	if !there {
		if !until.IsZero() {
			return &seal.LockedError{Name: b.name + "/" + name, Until: until}
		}
		if err := b.put(name, content); err != nil {
			return err
		}
	}
	all, err := b.versionsOf("overwrite", name)
	if err != nil {
		return err
	}
	for _, v := range all {
		if v.latest {
			continue
		}
		if err := b.removeVersion(name, v.id); err != nil {
			return err
		}
	}
	return nil
}
