package seal

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// frame is an entry or a checkpoint as stored.
type frame struct {
	*Header
	text     []byte // the header's text, as hashed and chained
	sections [][]byte
	offset   int64 // in its segment
	size     int64
}

// id is what the next frame's prev line must say.
func (f *frame) id() Hash { return sha256.Sum256(f.text) }

// errCut: the file ends inside a frame that is valid as far as it goes.
var errCut = errors.New("file ends inside a frame")

// frameReader reads the frames of a segment one after the other. It holds no
// more than one frame.
type frameReader struct {
	r      *bufio.Reader
	offset int64
	// skip, if set, says for which frames the sections are passed over
	// instead of being read and checked.
	skip func(*Header) bool
}

func newFrameReader(r io.Reader, offset int64) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, 256<<10), offset: offset}
}

// next reads the next frame. It returns io.EOF between frames, errCut inside
// one, an error that wraps errGrammar for a malformed header, and, together
// with the frame, errSectionHash for stored bytes that are not the ones that
// were sealed.
func (fr *frameReader) next() (*frame, error) {
	text, err := fr.headerText()
	if err != nil {
		return nil, err
	}
	h, err := ParseHeader(text)
	if err != nil {
		return nil, err
	}
	f := &frame{Header: h, text: text, offset: fr.offset, size: int64(len(text)) + 1}
	skip := fr.skip != nil && fr.skip(h)
	var damaged error
	for i := range h.Sections {
		s := &h.Sections[i]
		f.size += int64(s.Stored)
		if skip {
			if _, err := fr.r.Discard(int(s.Stored)); err != nil {
				return nil, cutOr(err)
			}
			continue
		}
		b := make([]byte, s.Stored)
		if _, err := io.ReadFull(fr.r, b); err != nil {
			return nil, cutOr(err)
		}
		if sha256.Sum256(b) != s.Hash {
			damaged = cmp.Or(damaged, fmt.Errorf("%w: section %s of %s", errSectionHash, s.Name, f.name()))
		}
		f.sections = append(f.sections, b)
	}
	fr.offset += f.size
	return f, damaged
}

// errSectionHash: a section's bytes are not the ones that were sealed.
var errSectionHash = errors.New("stored bytes do not match their hash")

func (f *frame) name() string {
	if f.Kind == KindCheckpoint {
		return "checkpoint"
	}
	return fmt.Sprintf("entry %d (%s)", f.Entry, f.Kind)
}

func cutOr(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errCut
	}
	return &readError{err}
}

// readError: the store could not be read, which says nothing about the log.
type readError struct{ err error }

func (e *readError) Error() string { return "read: " + e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

var endOfHeader = []byte("\n\n")

// headerText reads up to and including the empty line, which it does not
// return.
func (fr *frameReader) headerText() ([]byte, error) {
	// Nearly all: a header that is in the buffer already.
	ahead, _ := fr.r.Peek(fr.r.Buffered())
	if n := bytes.Index(ahead, endOfHeader) + 1; n > 0 && n < maxHeaderBytes && bytes.HasPrefix(ahead, []byte(magicFamily)) {
		text := bytes.Clone(ahead[:n])
		_, err := fr.r.Discard(n + 1)
		return text, err
	}
	text := make([]byte, 0, 1024)
	for {
		line, err := fr.r.ReadSlice('\n')
		if len(text)+len(line) > maxHeaderBytes {
			return nil, grammarf("header is longer than %d bytes", maxHeaderBytes)
		}
		if len(line) == 1 && err == nil {
			if len(text) == 0 {
				return nil, grammarf("empty line where a frame belongs")
			}
			return text, nil
		}
		text = append(text, line...)
		switch {
		case err == bufio.ErrBufferFull:
		case err == io.EOF && len(text) == 0:
			return nil, io.EOF
		case err == io.EOF:
			return nil, cutHeader(text)
		case err != nil:
			return nil, &readError{err}
		case len(text) == len(line) && !bytes.HasPrefix(text, []byte(magicFamily)):
			return nil, grammarf("frame does not start with %q", magic)
		}
	}
}

// cutHeader tells a header that the file's end cuts off from garbage: its
// whole lines must be a valid beginning, and the last one the beginning of a
// line.
func cutHeader(text []byte) error {
	i := bytes.LastIndexByte(text, '\n') + 1
	whole, last := text[:i], string(text[i:])
	if !beginsALine(last, len(whole) == 0) {
		return grammarf("%q where a header goes on", clip(last))
	}
	p := parser{rest: whole}
	_, err := p.header()
	if err == nil && (len(p.rest) != 0 || last != "") {
		err = grammarf("unexpected text after the sum line")
	}
	if err == nil || errors.Is(err, errHeaderCut) {
		return errCut
	}
	return err
}

// keysOfLines are all keys that a header's lines start with.
var keysOfLines = []string{"origin", "entry", "epoch", "records", "prev", "sealed", "root", "time", "signer",
	"chain", "escrow", "heartbeat", "after", "torn", "target", "erased", "by", "reason", "first", "policy",
	"section", "tag", "sum"}

// beginsALine reports whether a cut line could become a header's first line,
// or one of the others.
func beginsALine(l string, first bool) bool {
	if first {
		for k := range sectionsOf {
			if strings.HasPrefix(magic+string(k), l) {
				return true
			}
		}
		return false
	}
	for _, k := range keysOfLines {
		if k += " "; strings.HasPrefix(k, l) {
			return true
		}
		if v, ok := strings.CutPrefix(l, k); ok {
			switch k {
			case "by ", "reason ", "policy ": // free text, maybe cut within a character
				return !strings.ContainsFunc(v, unicode.IsControl)
			}
			return strings.Trim(v, valueChars(k[:len(k)-1])) == ""
		}
	}
	return false
}

// valueChars are the characters that may stand in the value of a line, loosely
// so for lines that have several values.
func valueChars(key string) string {
	const digits, letters = "0123456789", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	switch key {
	case "entry", "epoch", "records", "sealed", "time", "heartbeat", "target", "first":
		return digits + " "
	case "prev", "root", "tag":
		return digits + letters + "+/="
	case "sum":
		return digits + "abcdef"
	case "erased":
		return digits + " -"
	}
	return digits + letters + "+/= ._-:"
}
