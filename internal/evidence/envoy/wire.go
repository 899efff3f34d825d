package envoy

import (
	"encoding/binary"
	"errors"
	"math"
	"time"
)

// The wire form of an access log message, read without building it: a proxy
// sends thousands of entries a second, of which most fields are not kept. All
// strings are parts of the message.

var errWire = errors.New("no access log message: malformed protobuf")

// A wire reads one protobuf message:
//
//	for w.more() {
//		switch f := w.next(); f.tag {
//
// After the first error bad is set, and there is no more.
type wire struct {
	s   string
	i   int // what was read; s is not shortened, for that would write a pointer each time
	bad bool
}

// A field is one field as it came. Its tag is its number and type; s is its
// value if it is of bytesType, v if it is of varintType or fixed64Type.
type field struct {
	tag uint64
	v   uint64
	s   string
}

// Wire types, to be joined with a field's number: 3<<3 | bytesType.
const (
	varintType  = 0
	fixed64Type = 1
	bytesType   = 2 // strings and messages too
	fixed32Type = 5
)

func (w *wire) more() bool { return w.i < len(w.s) && !w.bad }

// next reads a field, of tag 0 at an error. Groups are an error: nothing here has
// ever had one.
func (w *wire) next() (f field) {
	s, i := w.s, w.i
	// Most tags and lengths are of one byte, and nearly all of two.
	tag := uint64(s[i])
	i++
	if tag >= 0x80 {
		if i == len(s) || s[i] >= 0x80 {
			return w.anyNext()
		}
		tag = tag&0x7f | uint64(s[i])<<7
		i++
	}
	if i == len(s) || tag < 1<<3 {
		return w.anyNext()
	}
	v := uint64(s[i])
	i++
	if v >= 0x80 {
		if i == len(s) || s[i] >= 0x80 {
			return w.anyNext()
		}
		v = v&0x7f | uint64(s[i])<<7
		i++
	}
	f.tag = tag
	switch tag & 7 {
	case varintType:
		f.v = v
	case bytesType:
		if v > uint64(len(s)-i) {
			return w.anyNext()
		}
		f.s = s[i : i+int(v)]
		i += int(v)
	default:
		return w.anyNext()
	}
	w.i = i
	return f
}

// anyNext is next for every field.
func (w *wire) anyNext() (f field) {
	f.tag = w.varint()
	if number := f.tag >> 3; number == 0 || number > 1<<29-1 {
		w.bad = true
	}
	switch f.tag & 7 {
	case varintType:
		f.v = w.varint()
	case bytesType:
		f.s = w.take(w.varint())
	case fixed64Type:
		if b := w.take(8); !w.bad {
			f.v = binary.LittleEndian.Uint64([]byte(b))
		}
	case fixed32Type:
		w.take(4)
	default:
		w.bad = true
	}
	if w.bad {
		return field{}
	}
	return f
}

func (w *wire) varint() uint64 {
	if w.i < len(w.s) && w.s[w.i] < 0x80 { // as most are
		w.i++
		return uint64(w.s[w.i-1])
	}
	return w.longVarint()
}

func (w *wire) longVarint() uint64 {
	var v uint64
	s := w.s[w.i:]
	for n := 0; n < len(s) && n < 10; n++ {
		c := s[n]
		v |= uint64(c&0x7f) << (7 * n)
		if c < 0x80 {
			w.i += n + 1
			return v
		}
	}
	w.bad = true
	return 0
}

func (w *wire) take(n uint64) string {
	if w.bad || n > uint64(len(w.s)-w.i) {
		w.bad = true
		return ""
	}
	w.i += int(n)
	return w.s[w.i-int(n) : w.i]
}

// require makes w bad unless a message within it was whole.
func (w *wire) require(whole bool) { w.bad = w.bad || !whole }

// pair reads an entry of a map with string keys.
func (w *wire) pair(message string) (key, value string) {
	in := wire{s: message}
	for in.more() {
		switch f := in.next(); f.tag {
		case 1<<3 | bytesType:
			key = f.s
		case 2<<3 | bytesType:
			value = f.s
		}
	}
	w.require(!in.bad)
	return key, value
}

// wrapped reads a wrapper such as UInt32Value, whose number is where a clock has
// its seconds.
func (w *wire) wrapped(message string) uint64 {
	v, _ := w.clock(message)
	return uint64(v)
}

// clock reads a Timestamp or a Duration: an entry has nine, whose numbers are
// long.
func (w *wire) clock(message string) (seconds int64, nanos int32) {
	in := wire{s: message}
	for in.more() {
		switch in.s[in.i] {
		case 1<<3 | varintType:
			in.i++
			seconds = int64(in.varint())
		case 2<<3 | varintType:
			in.i++
			nanos = int32(in.varint())
		default:
			in.next()
		}
	}
	w.require(!in.bad)
	return seconds, nanos
}

// length is a Duration in nanoseconds, cut to what fits.
func (w *wire) length(message string) int64 {
	seconds, nanos := w.clock(message)
	switch limit := int64(math.MaxInt64/time.Second) - 1; {
	case seconds > limit:
		return math.MaxInt64
	case seconds < -limit:
		return math.MinInt64
	}
	return seconds*int64(time.Second) + int64(nanos)
}
