package objectstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/meshaudit/meshaudit/seal"
)

// OpenFile opens an object for reading or, with os.O_WRONLY, begins a new one.
func (b *Bucket) OpenFile(name string, flag int, _ fs.FileMode) (seal.File, error) {
	if flag&(os.O_WRONLY|os.O_RDWR) != 0 {
		return &newFile{b: b, name: name}, nil
	}
	return b.open(name)
}

// What is asked for at once: little at first, as often only a header is read;
// more, the longer the reading goes on.
const (
	firstRange = 256 << 10
	lastRange  = 16 << 20
)

// file reads one version of an object by ranges.
type file struct {
	b    *Bucket
	name string
	size int64
	etag string
	info info

	// Reading in sequence.
	body  io.ReadCloser // nil: nothing is asked for
	until int64         // where the body ends
	pos   int64
	step  int64

	mu    sync.Mutex
	chunk []byte // last read by ReadAt
	at    int64
}

func (b *Bucket) open(name string) (*file, error) {
	f := &file{b: b, name: name, size: -1, step: firstRange, info: info{name: path.Base(b.key(name))}}
	if err := f.request(); err != nil {
		return nil, err
	}
	return f, nil
}

// get asks for the bytes from from up to until. The caller's context bounds the
// whole answer.
func (f *file) get(ctx context.Context, from, until int64) (io.ReadCloser, error) {
	var opts minio.GetObjectOptions
	opts.Set("Range", fmt.Sprintf("bytes=%d-%d", from, until-1))
	if f.etag != "" {
		if err := opts.SetMatchETag(f.etag); err != nil {
			return nil, err
		}
	}
	body, o, header, err := f.b.core.GetObject(ctx, f.b.cfg.Bucket, f.b.key(f.name), opts)
	if status(err) == http.StatusRequestedRangeNotSatisfiable && from == 0 {
		f.size = 0
		return io.NopCloser(strings.NewReader("")), nil
	}
	if err != nil {
		return nil, err
	}
	size := o.Size
	if r := header.Get("Content-Range"); r != "" {
		var start int64
		_, total, _ := strings.Cut(r, "/")
		size, err = strconv.ParseInt(total, 10, 64)
		if _, e := fmt.Sscanf(r, "bytes %d-", &start); err != nil || e != nil || start != from || size < 0 {
			return nil, errors.Join(fmt.Errorf("the store answers with range %q where from %d on was asked for", r, from), body.Close())
		}
	} else if from != 0 {
		return nil, errors.Join(errors.New("the store does not answer with ranges"), body.Close())
	}
	if f.size < 0 {
		f.size, f.etag, f.info.time = size, o.ETag, o.LastModified
		f.info.size = size
	} else if size != f.size {
		return nil, errors.Join(errors.New("the object changed while it was read"), body.Close())
	}
	return body, nil
}

// request asks for what comes next. The body lives as long as the bucket, or
// until it is closed.
func (f *file) request() error {
	return f.b.try("open", f.name, func(context.Context) error {
		until := f.pos + f.step
		if f.size >= 0 {
			until = min(until, f.size)
		}
		ctx, cancel := context.WithTimeout(f.b.ctx, requestTimeout+lastRange/bytesPerSecond*time.Second)
		body, err := f.get(ctx, f.pos, until)
		if err != nil {
			cancel()
			return err
		}
		f.body, f.until = cancelled{body, cancel}, min(until, f.size)
		f.step = min(2*f.step, lastRange)
		return nil
	})
}

type cancelled struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c cancelled) Close() error {
	err := c.ReadCloser.Close()
	c.cancel()
	return err
}

func (f *file) Read(p []byte) (int, error) {
	for failed := 0; ; failed++ {
		if f.pos >= f.size {
			return 0, io.EOF
		}
		if f.body == nil {
			if err := f.request(); err != nil {
				return 0, err
			}
		}
		n, err := f.body.Read(p[:min(int64(len(p)), f.until-f.pos)])
		f.pos += int64(n)
		if err != nil || f.pos == f.until {
			_ = f.body.Close() // it was read, or has failed
			f.body = nil
		}
		if n > 0 || len(p) == 0 {
			return n, nil // a connection that broke is made again
		}
		if failed == attempts {
			return 0, f.b.pathError("read", f.name, err)
		}
	}
}

func (f *file) ReadAt(p []byte, off int64) (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n < len(p) {
		at := off + int64(n)
		if at >= f.size {
			return n, io.EOF
		}
		if at < f.at || at >= f.at+int64(len(f.chunk)) {
			until := min(f.size, at+max(firstRange, int64(len(p)-n)))
			if err := f.readChunk(at, until); err != nil {
				return n, err
			}
		}
		n += copy(p[n:], f.chunk[at-f.at:])
	}
	return n, nil
}

func (f *file) readChunk(from, until int64) error {
	f.chunk = nil
	return f.b.try("read", f.name, func(ctx context.Context) error {
		body, err := f.get(ctx, from, until)
		if err != nil {
			return err
		}
		defer body.Close()
		chunk := make([]byte, until-from)
		if _, err := io.ReadFull(body, chunk); err != nil {
			return err
		}
		f.chunk, f.at = chunk, from
		return nil
	})
}

func (f *file) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *file) Sync() error                { return nil }

func (f *file) Write([]byte) (int, error) {
	return 0, &os.PathError{Op: "write", Path: f.name, Err: fs.ErrPermission}
}

func (f *file) Close() error {
	if f.body == nil {
		return nil
	}
	err := f.body.Close()
	f.body = nil
	return err
}
