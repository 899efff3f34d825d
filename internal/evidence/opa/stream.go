package opa

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Bounds.
const (
	// DefaultMaxEventBytes is OPA's own default upload size (decompressed it
	// can be more; one event of that size is an input with a large body).
	DefaultMaxEventBytes = 1 << 20

	readBytes = 32 << 10
)

// ErrTooLarge: an event is longer than what is read; what is returned with it
// is its beginning.
var ErrTooLarge = errors.New("event is larger than what is read")

// ErrStream: the array itself is broken (cut off, something between the
// events); what is returned with it is the beginning of what could not be
// told apart. The events before it are good; there are none after it.
var ErrStream = errors.New("not a JSON array of events")

// A Reader splits an upload, a JSON array, into events while it is read. Memory
// is bounded by one event. It does not check the events: Decode does, so one
// bad event does not take its neighbours along.
type Reader struct {
	r        *bufio.Reader
	event    []byte
	maxBytes int
	state    state
}

type state uint8

const (
	atStart state = iota
	inArray       // before the first event
	between       // after an event
	done
)

// NewReader reads events of at most maxEventBytes.
func NewReader(r io.Reader, maxEventBytes int) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, readBytes), maxBytes: maxEventBytes}
}

// Next returns the next event's bytes, valid until the next call. io.EOF is the
// proper end. ErrTooLarge belongs to one event, reading goes on after it;
// ErrStream ends the stream, and so does an error of the underlying reader,
// which is returned as it is (wrapped), with what there was of the event.
func (r *Reader) Next() ([]byte, error) {
	r.event = r.event[:0]
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
		case ch == '{': // one event without an array
			return r.single()
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
	return r.value(ch)
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

func (r *Reader) single() ([]byte, error) {
	event, err := r.value('{')
	r.state = done
	if err != nil {
		return event, err
	}
	if ch, err := r.byte(); err != io.EOF {
		if err != nil {
			return event, err
		}
		return event, fmt.Errorf("%w: %q follows the event", ErrStream, ch)
	}
	return event, nil
}

// finish looks that nothing follows the array.
func (r *Reader) finish() ([]byte, error) {
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

// value gathers one value, which begins with ch, to its end: the matching
// bracket, or for a scalar what ends it.
func (r *Reader) value(ch byte) ([]byte, error) {
	total := 0
	keep := func(b []byte) {
		total += len(b)
		if room := r.maxBytes - len(r.event); room > 0 {
			r.event = append(r.event, b[:min(room, len(b))]...)
		}
	}
	if ch == ',' || ch == ':' || ch == '}' {
		return r.rest(ch)
	}
	if err := r.r.UnreadByte(); err != nil {
		return r.broken(err)
	}
	depth, inString := 0, false
	for {
		if _, err := r.r.Peek(1); err != nil {
			if err == io.EOF && depth == 0 && !inString && total > 0 {
				break // a scalar at the very end; the array's end is missing
			}
			return r.broken(err)
		}
		buf, _ := r.r.Peek(r.r.Buffered())
		n, ended := scan(buf, &depth, &inString)
		if n < len(buf) && !ended && n == 0 {
			// A backslash at the buffer's end: its partner is not here yet.
			var err error
			if buf, err = r.r.Peek(2); err != nil {
				keep(buf)
				_, _ = r.r.Discard(len(buf))
				return r.broken(err)
			}
			n = 2
		}
		keep(buf[:n])
		if _, err := r.r.Discard(n); err != nil {
			return r.broken(err)
		}
		if ended {
			break
		}
	}
	if total > r.maxBytes {
		return r.event, fmt.Errorf("%w: %d bytes, at most %d are read", ErrTooLarge, total, r.maxBytes)
	}
	return r.event, nil
}

// scan goes over buf until the value's end and returns the number of bytes
// that belong to it. Without an end that is all of buf, except for a backslash
// at its end.
func scan(buf []byte, depth *int, inString *bool) (n int, ended bool) {
	for i := 0; i < len(buf); i++ {
		if *inString {
			j := bytes.IndexAny(buf[i:], "\"\\")
			if j < 0 {
				return len(buf), false
			}
			i += j
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
