package objectstore

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/meshaudit/meshaudit/seal"
)

// newFile is an object that is being made. Sync sends it.
type newFile struct {
	b    *Bucket
	name string
	buf  []byte
	sent bool
}

func (f *newFile) Write(p []byte) (int, error) {
	if f.sent {
		return 0, &os.PathError{Op: "write", Path: f.name, Err: errors.New("an object is written once")}
	}
	f.buf = append(f.buf, p...)
	return len(p), nil
}

// Sync creates the object and returns when that is sure, however often it takes.
func (f *newFile) Sync() error {
	if f.sent {
		return nil
	}
	f.sent = true
	return f.b.Create(f.name, bytes.NewReader(f.buf), int64(len(f.buf)))
}

func (f *newFile) Close() error                      { return nil }
func (f *newFile) Read([]byte) (int, error)          { return 0, errors.ErrUnsupported }
func (f *newFile) ReadAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }
func (f *newFile) Stat() (fs.FileInfo, error) {
	return info{name: f.name, size: int64(len(f.buf))}, nil
}

// digest is what an object must contain.
type digest struct {
	size   int64
	md5    [md5.Size]byte // what S3 checks on arrival, and often the ETag
	sha256 [sha256.Size]byte
}

func digestReader(r io.Reader) (d digest, err error) {
	m, s := md5.New(), sha256.New()
	d.size, err = io.Copy(io.MultiWriter(m, s), r)
	m.Sum(d.md5[:0])
	s.Sum(d.sha256[:0])
	return d, err
}

func digestOf(b []byte) digest {
	d, _ := digestReader(bytes.NewReader(b)) // it cannot fail
	return d
}

// Create makes an object that must not exist, or only with the same content. It
// asks until it knows, or until the bucket is closed.
func (b *Bucket) Create(name string, content io.ReaderAt, size int64) error {
	d, err := digestReader(io.NewSectionReader(content, 0, size))
	if err != nil {
		return err
	}
	opts := b.createOptions(time.Now())
	wait := b.cfg.retryAfter
	for {
		err := b.create(name, content, d, opts)
		var fork *seal.ForkError
		if err == nil || errors.As(err, &fork) {
			if err == nil {
				b.fault(nil)
			}
			return err
		}
		if b.ctx.Err() == nil {
			b.fault(err)
		}
		select {
		case <-time.After(wait):
		case <-b.ctx.Done():
			return err
		}
		wait = min(2*wait, 10*time.Second)
	}
}

// createOptions are what every attempt to create an object sends, unchanged.
func (b *Bucket) createOptions(now time.Time) minio.PutObjectOptions {
	opts := b.putOptions(now)
	opts.SetMatchETagExcept("*")
	return opts
}

func (b *Bucket) putOptions(now time.Time) minio.PutObjectOptions {
	opts := minio.PutObjectOptions{DisableContentSha256: true} // no chunked signature: the digests are known
	if b.cfg.Lock.Mode != "" {
		opts.Mode = b.cfg.Lock.Mode
		opts.RetainUntilDate = now.Add(b.cfg.Lock.Retain).Add(time.Second).Truncate(time.Second)
	}
	return opts
}

// create asks once. If the name is taken it compares.
func (b *Bucket) create(name string, content io.ReaderAt, d digest, opts minio.PutObjectOptions) error {
	_, err := b.send(name, content, d, opts)
	if status(err) != http.StatusPreconditionFailed {
		return err
	}
	same, err := b.same(name, d)
	if err == nil && !same {
		return &seal.ForkError{Name: b.name + "/" + name}
	}
	return err
}

// bytesPerSecond is the slowest that an upload may be.
const bytesPerSecond = 128 << 10

func (b *Bucket) send(name string, content io.ReaderAt, d digest, opts minio.PutObjectOptions) (minio.UploadInfo, error) {
	ctx, cancel := context.WithTimeout(b.ctx, requestTimeout+time.Duration(d.size/bytesPerSecond)*time.Second)
	defer cancel()
	i, err := b.core.PutObject(ctx, b.cfg.Bucket, b.key(name), io.NewSectionReader(content, 0, d.size), d.size,
		base64.StdEncoding.EncodeToString(d.md5[:]), hex.EncodeToString(d.sha256[:]), opts)
	if areExpired(err) {
		b.creds.Expire() // perhaps they were renewed
	}
	if err != nil && status(err) != http.StatusPreconditionFailed {
		err = fmt.Errorf("put %s/%s: %w", b.name, name, b.explain(err))
	}
	return i, err
}

// put puts an object, whatever is there.
func (b *Bucket) put(name string, content []byte) error {
	_, err := b.send(name, bytes.NewReader(content), digestOf(content), b.putOptions(time.Now()))
	return err
}

// same reports whether an object has the given content: by its ETag if that is
// a plain MD5, and else by reading it.
func (b *Bucket) same(name string, d digest) (bool, error) {
	var o minio.ObjectInfo
	if err := b.try("stat", name, func(ctx context.Context) (err error) {
		o, err = b.core.StatObject(ctx, b.cfg.Bucket, b.key(name), minio.StatObjectOptions{})
		return err
	}); err != nil {
		return false, err
	}
	if o.Size != d.size {
		return false, nil
	}
	f, err := b.open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	there, err := digestReader(f)
	return there == d, err
}

// confirm reports whether an object that was just created arrived: the store
// states its size and MD5, or it is read back.
func (b *Bucket) confirm(name string, d digest) error {
	var o minio.ObjectInfo
	if err := b.try("stat", name, func(ctx context.Context) (err error) {
		o, err = b.core.StatObject(ctx, b.cfg.Bucket, b.key(name), minio.StatObjectOptions{})
		return err
	}); err != nil {
		return err
	}
	if o.Size == d.size && o.ETag == hex.EncodeToString(d.md5[:]) {
		return nil
	}
	if same, err := b.same(name, d); err != nil || !same {
		return errors.Join(err, fmt.Errorf("%s/%s is not what was sent", b.name, name))
	}
	return nil
}
