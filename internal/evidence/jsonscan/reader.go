package jsonscan

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"strings"
)

const readBytes = 32 << 10

// ErrTooLarge: an event is longer than what is read; what is returned with it
// is its beginning.
var ErrTooLarge = errors.New("event is larger than what is read")

// ErrStream: the array itself is broken (cut off, something between the
// events); what is returned with it is the beginning of what could not be
// told apart. The events before it are good; there are none after it.
var ErrStream = errors.New("not a JSON array of events")

// A Reader splits an upload, a JSON array or an object with one, into events
// while it is read. Memory is bounded by one event. It does not check the
// events: their decoder does, so one bad event does not take its neighbours
// along.
type Reader struct {
	r        *bufio.Reader
	event    []byte
	total    int // length of the event, of which event holds at most maxBytes
	maxBytes int
	list     string // the member that holds the events, quoted; "": none
	inList   bool
	state    state
}

type state uint8

const (
	atStart state = iota
	inArray       // before the first event
	between       // after an event
	done
)

// NewReader reads events of at most maxEventBytes from an array; an object is
// one event.
func NewReader(r io.Reader, maxEventBytes int) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, readBytes), maxBytes: maxEventBytes}
}

// NewListReader reads events of at most maxEventBytes from an object's member
// list, an array, and passes over its other members. An object without it is
// one event, and an array is one of events.
func NewListReader(r io.Reader, maxEventBytes int, list string) *Reader {
	out := NewReader(r, maxEventBytes)
	out.list = `"` + list + `"`
	return out
}

// Next returns the next event's bytes, valid until the next call. io.EOF is the
// proper end. ErrTooLarge belongs to one event, reading goes on after it;
// ErrStream ends the stream, and so does an error of the underlying reader,
// which is returned as it is (wrapped), with what there was of the event.
func (r *Reader) Next() ([]byte, error) {
	r.event, r.total = r.event[:0], 0
	if r.state == done {
		return nil, io.EOF
	}
	ch, err := r.byte()
	if r.state == atStart {
		switch {
		case err == io.EOF:
			r.state = done
			return nil, fmt.Errorf("%w: empty body", ErrStream)
		case err != nil:
			return r.broken(err)
		case ch == '{':
			if found, event, err := r.envelope(); !found {
				return event, err
			}
			ch = '['
		case ch != '[':
			return r.rest(ch)
		}
		r.state = inArray
		ch, err = r.byte()
	}
	switch {
	case err != nil:
		return r.broken(err)
	case ch == ']':
		return r.finish()
	case r.state == between:
		if ch != ',' {
			return r.rest(ch)
		}
		if ch, err = r.byte(); err != nil {
			return r.broken(err)
		}
	}
	r.state = between
	return r.element(ch)
}

// byte returns the next byte that is no space.
func (r *Reader) byte() (byte, error) {
	for {
		ch, err := r.r.ReadByte()
		if err != nil || (ch != ' ' && ch != '\t' && ch != '\n' && ch != '\r') {
			return ch, err
		}
	}
}

// keep adds to the event, as far as there is room.
func (r *Reader) keep(b ...byte) {
	r.total += len(b)
	if room := r.maxBytes - len(r.event); room > 0 {
		r.event = append(r.event, b[:min(room, len(b))]...)
	}
}

// envelope reads an object, whose brace was read, up to the array that holds the
// events, if it has one; else the object is the one event.
func (r *Reader) envelope() (found bool, event []byte, err error) {
	if r.list == "" {
		_ = r.r.UnreadByte() // never fails after a byte that was read
		if err := r.value(); err != nil {
			event, err := r.fault(err)
			return false, event, err
		}
	} else {
		r.keep('{')
		if found, err := r.members(); found || err != nil {
			event, err := r.fault(err)
			return found, event, err
		}
	}
	r.state = done
	if ch, err := r.byte(); err != io.EOF {
		if err != nil {
			return false, r.event, err
		}
		return false, r.event, fmt.Errorf("%w: %q follows the event", ErrStream, ch)
	}
	return false, r.event, r.tooLarge()
}

// members reads members up to the object's end, or up to the array that holds
// the events.
func (r *Reader) members() (found bool, err error) {
	for n := 0; ; n++ {
		ch, err := r.byte()
		switch {
		case err != nil:
			return false, err
		case ch == '}':
			r.keep(ch)
			return false, nil
		case n > 0 || r.inList:
			if ch != ',' {
				return false, unexpected(ch)
			}
			r.keep(ch)
			if ch, err = r.byte(); err != nil {
				return false, err
			}
		}
		if ch != '"' {
			return false, unexpected(ch)
		}
		_ = r.r.UnreadByte() // never fails after a byte that was read
		at := len(r.event)
		if err := r.value(); err != nil {
			return false, err
		}
		isList := string(r.event[at:]) == r.list
		if ch, err = r.byte(); err != nil {
			return false, err
		}
		if ch != ':' {
			return false, unexpected(ch)
		}
		r.keep(ch)
		if ch, err = r.byte(); err != nil {
			return false, err
		}
		if isList && r.inList {
			return false, fmt.Errorf("%w: a second member %s", ErrStream, r.list)
		}
		if isList && ch == '[' {
			r.inList = true
			r.event, r.total = r.event[:0], 0
			return true, nil
		}
		if strings.IndexByte(",:}]", ch) >= 0 {
			return false, unexpected(ch)
		}
		_ = r.r.UnreadByte()
		if err := r.value(); err != nil {
			return false, err
		}
	}
}

// unexpectedByte ends the stream: what is left from it on is returned.
type unexpectedByte byte

func (u unexpectedByte) Error() string { return fmt.Sprintf("unexpected %q", byte(u)) }

func unexpected(ch byte) error { return unexpectedByte(ch) }

// fault gives up on the stream for an error of what is beneath or within it.
func (r *Reader) fault(err error) ([]byte, error) {
	var ch unexpectedByte
	switch {
	case err == nil:
		return nil, nil
	case errors.As(err, &ch):
		return r.rest(byte(ch))
	case errors.Is(err, ErrStream):
		r.state = done
		return r.event, err
	}
	return r.broken(err)
}

func (r *Reader) tooLarge() error {
	if r.total <= r.maxBytes {
		return nil
	}
	return fmt.Errorf("%w: %d bytes, at most %d are read", ErrTooLarge, r.total, r.maxBytes)
}

// finish looks that nothing follows the array, and in an object what does.
func (r *Reader) finish() ([]byte, error) {
	if r.inList {
		if _, err := r.members(); err != nil {
			return r.fault(err)
		}
		r.event, r.total = r.event[:0], 0
	}
	ch, err := r.byte()
	if err == nil {
		return r.rest(ch)
	}
	r.state = done
	if err != io.EOF {
		return r.broken(err)
	}
	return nil, io.EOF
}

// element gathers one element, which begins with ch.
func (r *Reader) element(ch byte) ([]byte, error) {
	if ch == ',' || ch == ':' || ch == '}' {
		return r.rest(ch)
	}
	_ = r.r.UnreadByte() // never fails after a byte that was read
	if err := r.value(); err != nil {
		return r.broken(err)
	}
	return r.event, r.tooLarge()
}

// value gathers one value to its end: the matching bracket, or for a scalar what
// ends it.
func (r *Reader) value() error {
	depth, inString, before := 0, false, r.total
	for {
		if _, err := r.r.Peek(1); err != nil {
			if err == io.EOF && depth == 0 && !inString && r.total > before {
				return nil // a scalar at the very end; the array's end is missing
			}
			return err
		}
		buf, _ := r.r.Peek(r.r.Buffered())
		n, ended := scan(buf, &depth, &inString)
		if n < len(buf) && !ended && n == 0 {
			// A backslash at the buffer's end: its partner is not here yet.
			var err error
			if buf, err = r.r.Peek(2); err != nil {
				r.keep(buf...)
				_, _ = r.r.Discard(len(buf))
				return err
			}
			n = 2
		}
		r.keep(buf[:n]...)
		_, _ = r.r.Discard(n) // never fails: it is buffered
		if ended {
			return nil
		}
	}
}

// scan goes over buf until the value's end and returns the number of bytes
// that belong to it. Without an end that is all of buf, except for a backslash
// at its end.
func scan(buf []byte, depth *int, inString *bool) (n int, ended bool) {
	for i := 0; i < len(buf); i++ {
		if *inString {
			if i += unquoted(buf[i:]); i == len(buf) {
				return len(buf), false
			}
			if buf[i] == '\\' {
				if i+1 == len(buf) {
					return i, false
				}
				i++
				continue
			}
			*inString = false
			if *depth == 0 {
				return i + 1, true
			}
			continue
		}
		switch buf[i] {
		case '"':
			*inString = true
		case '{', '[':
			*depth++
		case '}', ']':
			if *depth == 0 {
				return i, true // a scalar, ended by its container
			}
			if *depth--; *depth == 0 {
				return i + 1, true
			}
		case ',':
			if *depth == 0 {
				return i, true
			}
		}
	}
	return len(buf), false
}

// unquoted is the length of b's beginning without a quote or a backslash.
func unquoted(b []byte) int {
	i := 0
	for ; i+8 <= len(b); i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		if special := zeroBytes(w^each*'"') | zeroBytes(w^each*'\\'); special != 0 {
			return i + bits.TrailingZeros64(special)/8
		}
	}
	for ; i < len(b) && b[i] != '"' && b[i] != '\\'; i++ {
	}
	return i
}

// rest gives up on the stream: it returns the beginning of what is left, from
// ch on.
func (r *Reader) rest(ch byte) ([]byte, error) {
	r.state = done
	r.event = append(r.event[:0], ch)
	room := io.LimitReader(r.r, int64(r.maxBytes-1))
	var buf [512]byte
	for {
		n, err := room.Read(buf[:])
		r.event = append(r.event, buf[:n]...)
		if err != nil {
			break
		}
	}
	return r.event, fmt.Errorf("%w: unexpected %q", ErrStream, ch)
}

func (r *Reader) broken(err error) ([]byte, error) {
	r.state = done
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return r.event, fmt.Errorf("%w: it is cut off", ErrStream)
	}
	return r.event, fmt.Errorf("read events: %w", err)
}
