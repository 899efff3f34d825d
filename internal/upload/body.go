package upload

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"
)

// ErrTooMuch ends the reading of a body at the bound that NewBody was given.
var ErrTooMuch = errors.New("upload is larger than max_upload_bytes")

// A Body is a request's body, decompressed if it is gzip, of a bounded length. It
// tells a connection that broke from content that is broken, and knows the
// digest of what was received.
type Body struct {
	Broken       error // of the connection
	Decompressed int64 // bytes read so far

	in      io.Reader // what was received
	out     io.Reader // decompressed; nil until the first read
	gzipped bool
	sum     hash.Hash
	most    int64
}

// NewBody reads at most that many bytes, decompressed, of the request's body.
func NewBody(req *http.Request, most int64) *Body {
	b := &Body{sum: sha256.New(), most: most}
	b.in = received{req.Body, b}
	b.gzipped = strings.EqualFold(req.Header.Get("Content-Encoding"), "gzip")
	return b
}

// received reads from the connection.
type received struct {
	io.Reader
	b *Body
}

func (r received) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.b.sum.Write(p[:n])
	var tooLarge *http.MaxBytesError
	if err != nil && !errors.Is(err, io.EOF) && !errors.As(err, &tooLarge) {
		r.b.Broken = err
	}
	return n, err
}

func (b *Body) Read(p []byte) (int, error) {
	if b.out == nil {
		b.out = b.in
		if b.gzipped {
			z, err := gzip.NewReader(b.in)
			if err != nil {
				return 0, fmt.Errorf("decompress: %w", err)
			}
			b.out = z
		}
	}
	if b.Decompressed >= b.most {
		return 0, ErrTooMuch
	}
	n, err := b.out.Read(p[:min(int64(len(p)), b.most-b.Decompressed)])
	b.Decompressed += int64(n)
	return n, err
}

// digest is of what was received so far.
func (b *Body) digest() string { return hex.EncodeToString(b.sum.Sum(nil)) }
