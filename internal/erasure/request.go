package erasure

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/meshaudit/meshaudit/seal"
)

// A request is a file that appears, whole, in a directory that the writer of a
// log looks into. The writer answers with a file beside it and removes the
// request. Who may write to the directory may erase.

const (
	requestSuffix = ".request"
	answerSuffix  = ".answer"
	tmpSuffix     = ".tmp"

	// maxRequestBytes bounds a request: a million positions.
	maxRequestBytes = 16 << 20

	// lookEvery is how often both sides look.
	lookEvery = time.Second
)

// Request asks for an erasure in one log.
type Request struct {
	Version  int           `json:"version"` // 1
	Origin   string        `json:"origin"`
	By       string        `json:"by"`
	Reason   string        `json:"reason"`
	Erasures []wireErasure `json:"erasures"`
}

type wireErasure struct {
	Entry     uint64   `json:"entry"`
	Root      string   `json:"root"`
	Positions []uint64 `json:"positions"`
}

type answer struct {
	Error string `json:"error,omitempty"`
}

// NewRequest asks for what l lists; for what is ordered already, if that is
// nothing.
func NewRequest(l Log, by, reason string) *Request {
	r := &Request{Version: 1, Origin: l.Origin, By: by, Reason: reason, Erasures: []wireErasure{}}
	for _, e := range l.Erasures {
		r.Erasures = append(r.Erasures, wireErasure{e.Entry, base64.StdEncoding.EncodeToString(e.Root[:]), e.Positions})
	}
	return r
}

// ParseRequest parses a request strictly.
func ParseRequest(b []byte) (*Request, error) {
	if len(b) > maxRequestBytes {
		return nil, fmt.Errorf("a request has at most %d bytes", maxRequestBytes)
	}
	var r Request
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the request")
	}
	if r.Version != 1 {
		return nil, fmt.Errorf("request of version %d, this knows 1", r.Version)
	}
	if _, err := r.list(); err != nil {
		return nil, err
	}
	return &r, seal.ValidOrigin(r.Origin)
}

func (r *Request) list() ([]seal.Erasure, error) {
	var all []seal.Erasure
	for _, e := range r.Erasures {
		root, err := base64.StdEncoding.Strict().DecodeString(e.Root)
		if err != nil || len(root) != len(seal.Hash{}) {
			return nil, fmt.Errorf("entry %d: the root is not 32 bytes in base64", e.Entry)
		}
		all = append(all, seal.Erasure{Entry: e.Entry, Root: seal.Hash(root), Positions: e.Positions})
	}
	return all, nil
}

// CheckDir makes sure that not everyone may put requests into dir.
func CheckDir(dir string) error {
	fi, err := os.Stat(dir)
	switch {
	case err != nil:
		return err
	case !fi.IsDir():
		return fmt.Errorf("%s is no directory", dir)
	case fi.Mode().Perm()&0o002 != 0:
		return fmt.Errorf("%s: mode %04o lets everyone on this machine erase; run: chmod o-w %s", dir, fi.Mode().Perm(), dir)
	}
	return nil
}

// Ask puts a request into dir and waits for its answer. After an error of ctx
// it may have been carried out or not; if it was not begun, it is taken back.
func Ask(ctx context.Context, dir string, r *Request) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(b) > maxRequestBytes {
		return fmt.Errorf("these are too many records for one request: %d bytes, at most %d; erase fewer at once", len(b), maxRequestBytes)
	}
	name := filepath.Join(dir, rand.Text())
	if err := put(name+requestSuffix, b); err != nil {
		return err
	}
	for {
		b, err := read(name + answerSuffix)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		default:
			var a answer
			if err := json.Unmarshal(b, &a); err != nil {
				return fmt.Errorf("%s: %w", name+answerSuffix, err)
			}
			err := os.Remove(name + answerSuffix)
			if a.Error != "" {
				err = errors.New(a.Error)
			}
			return err
		}
		select {
		case <-time.After(lookEvery / 5):
		case <-ctx.Done():
			_ = os.Remove(name + requestSuffix) // it may be answered by now
			return fmt.Errorf("no answer in %s: is `erase_requests` of the exporter that writes %s this directory? %w", dir, r.Origin, ctx.Err())
		}
	}
}

// Serve carries out the requests for a log that appear in dir, until ctx is
// done. done is told of each, and of every fault of the directory.
func Serve(ctx context.Context, dir, origin string, erase func(ctx context.Context, e []seal.Erasure, by, reason string) error, done func(*Request, error)) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
		names, err := os.ReadDir(dir)
		if err != nil {
			done(nil, err)
			continue
		}
		for _, n := range names {
			base, ok := strings.CutSuffix(n.Name(), requestSuffix)
			if !ok || ctx.Err() != nil {
				continue
			}
			name := filepath.Join(dir, base)
			r, err := serve(ctx, name+requestSuffix, origin, erase)
			if ctx.Err() != nil {
				return // it is carried out after the next start
			}
			done(r, err)
			var a answer
			if err != nil {
				a.Error = err.Error()
			}
			b, _ := json.Marshal(a) // a string is always encoded
			if err := errors.Join(put(name+answerSuffix, b), os.Remove(name+requestSuffix)); err != nil {
				done(nil, err)
			}
		}
	}
}

func serve(ctx context.Context, file, origin string, erase func(context.Context, []seal.Erasure, string, string) error) (*Request, error) {
	b, err := read(file)
	if err != nil {
		return nil, err
	}
	r, err := ParseRequest(b)
	if err != nil {
		return nil, fmt.Errorf("malformed request: %w", err)
	}
	if r.Origin != origin {
		return r, fmt.Errorf("the request is for the log of %s, this one is of %s", r.Origin, origin)
	}
	list, err := r.list()
	if err != nil {
		return r, err
	}
	return r, erase(ctx, list, r.By, r.Reason)
}

// read reads a regular, bounded file.
func read(name string) ([]byte, error) {
	fi, err := os.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRequestBytes+1))
	if err == nil && len(b) > maxRequestBytes {
		err = fmt.Errorf("%s has more than %d bytes", name, maxRequestBytes)
	}
	return b, err
}

// put makes a file appear whole.
func put(name string, b []byte) error {
	_ = os.Remove(name + tmpSuffix)
	// Exclusive: who may put requests here must not lead us to another file.
	f, err := os.OpenFile(name+tmpSuffix, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(name+tmpSuffix, name)
}

// Count is how many records a request names.
func (r *Request) Count() int {
	n := 0
	for _, e := range r.Erasures {
		n += len(slices.Compact(slices.Sorted(slices.Values(e.Positions))))
	}
	return n
}
