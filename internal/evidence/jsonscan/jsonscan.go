// Package jsonscan reads JSON that others send, in bounded memory: a Reader
// splits an upload into events while it arrives, a Cursor walks over one event
// once, without building it, and Redact makes one that could not be decoded fit
// to be sealed. The decoders of sources that speak JSON share it.
package jsonscan

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

// A Cursor walks over one JSON value once, without building it: what is not
// asked for is checked and skipped. It accepts exactly what encoding/json
// calls valid, to a bounded depth. After an error every method returns
// nothing, so that a walk ends.
//
// Strings come back as Go strings with invalid UTF-8 replaced; numbers keep the
// digits with which they were written, so that 64-bit ids stay exact.
//
// The zero Cursor reads nothing; New makes one.
type Cursor struct {
	b      []byte
	copied string // b, if its strings are parts of one copy
	i      int
	depth  int
	err    error
	failed int
	first  bool // no element of the innermost open container was read yet
	// Key is that of the member that Next moved to, valid until the next call.
	Key    []byte
	keyEnd int // where it ends in b; -1: it is written with escapes
}

// MaxDepth is deeper than any event of a source, and shallow enough for a walk
// that recurses.
const MaxDepth = 128

var (
	ErrSyntax = errors.New("not valid JSON")
	ErrDepth  = errors.New("nested too deeply")
)

// New returns a cursor at b's beginning. What it returns as bytes aliases b.
func New(b []byte) Cursor { return Cursor{b: b} }

// maxCopied bounds what one kept string can hold in memory.
const maxCopied = 4 << 10

// NewCopied is New for a value most of whose strings are kept: String and
// Scalar return parts of one copy of b. A longer b than 4 KiB is not copied,
// lest one short string keep much in memory.
func NewCopied(b []byte) Cursor {
	c := New(b)
	if len(b) <= maxCopied {
		c.copied = string(b)
	}
	return c
}

// Offset is where the cursor stands; after an error, where that was seen.
func (c *Cursor) Offset() int {
	if c.err != nil {
		return c.failed
	}
	return c.i
}

// Err is the first error.
func (c *Cursor) Err() error { return c.err }

func (c *Cursor) fail(err error) {
	if c.err == nil {
		c.err, c.failed = err, c.i
	}
	c.i = len(c.b)
}

// Peek returns the next value's first byte, 0 at the end.
func (c *Cursor) Peek() byte {
	if c.i < len(c.b) && c.b[c.i] > ' ' { // as it nearly always is
		return c.b[c.i]
	}
	return c.space()
}

// space passes over space and is Peek.
func (c *Cursor) space() byte {
	for ; c.i < len(c.b); c.i++ {
		switch ch := c.b[c.i]; ch {
		case ' ', '\t', '\n', '\r':
		default:
			return ch
		}
	}
	return 0
}

func (c *Cursor) open() {
	c.i++
	c.first = true
	if c.depth++; c.depth > MaxDepth {
		c.fail(ErrDepth)
	}
}

func (c *Cursor) close() {
	c.i++
	c.first = false
	c.depth--
}

// Object enters an object; any other value is skipped and false.
//
//	if c.Object() {
//		for c.Next() {
//			switch string(c.Key) {
//			case "name":
//				name = c.String()
//			default:
//				c.Skip()
//			}
//		}
//	}
func (c *Cursor) Object() bool {
	if c.Peek() != '{' {
		c.Skip()
		return false
	}
	c.open()
	return c.err == nil
}

// Next moves to the innermost object's next member and reads its key, which
// is valid until the next call; false at the object's end.
func (c *Cursor) Next() bool {
	if c.err != nil {
		return false
	}
	switch ch := c.Peek(); {
	case ch == '}':
		c.close()
		return false
	case c.first:
		c.first = false
	case ch == ',':
		c.i++
	default:
		c.fail(ErrSyntax)
		return false
	}
	if c.Peek() != '"' {
		c.fail(ErrSyntax)
		return false
	}
	raw, escaped := c.scanString()
	c.Key, c.keyEnd = raw, c.i-1
	if escaped {
		c.Key, c.keyEnd = unquote(raw), -1
	}
	if c.Peek() != ':' {
		c.fail(ErrSyntax)
		return false
	}
	c.i++
	return c.err == nil
}

// Name is Key as a string that stays.
func (c *Cursor) Name() string {
	if c.keyEnd < 0 {
		return string(c.Key)
	}
	return c.text(c.keyEnd-len(c.Key), c.keyEnd)
}

// Array enters an array; any other value is skipped and false.
func (c *Cursor) Array() bool {
	if c.Peek() != '[' {
		c.Skip()
		return false
	}
	c.open()
	return c.err == nil
}

// Element moves to the innermost array's next element; false at its end.
func (c *Cursor) Element() bool {
	if c.err != nil {
		return false
	}
	switch ch := c.Peek(); {
	case ch == ']':
		c.close()
		return false
	case c.first:
		c.first = false
	case ch == ',':
		c.i++
	default:
		c.fail(ErrSyntax)
		return false
	}
	return true
}

// String returns a string value; any other value is skipped and "".
func (c *Cursor) String() string {
	if c.Peek() != '"' {
		c.Skip()
		return ""
	}
	raw, escaped := c.scanString()
	if escaped {
		return string(unquote(raw))
	}
	return c.text(c.i-1-len(raw), c.i-1)
}

// text is b[from:to] as a string.
func (c *Cursor) text(from, to int) string {
	if c.copied != "" {
		return c.copied[from:to]
	}
	return string(c.b[from:to])
}

// Bytes is String without a copy: it may alias the input.
func (c *Cursor) Bytes() []byte {
	if c.Peek() != '"' {
		c.Skip()
		return nil
	}
	raw, escaped := c.scanString()
	if escaped {
		raw = unquote(raw)
	}
	return raw
}

// Raw checks and passes over one value and returns it as it is written, an
// alias of the input; nil after an error.
func (c *Cursor) Raw() []byte {
	c.Peek()
	start := c.i
	c.Skip()
	if c.err != nil {
		return nil
	}
	return c.b[start:c.i]
}

// Scalar returns a string, or a number as it is written; any other value is
// skipped and "".
func (c *Cursor) Scalar() string {
	switch ch := c.Peek(); {
	case ch == '"':
		return c.String()
	case ch == '-' || (ch >= '0' && ch <= '9'):
		start := c.i
		c.number()
		return c.text(start, c.i)
	}
	c.Skip()
	return ""
}

// Bool returns a boolean; ok is false for any other value, which is skipped.
func (c *Cursor) Bool() (value, ok bool) {
	ch := c.Peek()
	c.Skip()
	return ch == 't', (ch == 't' || ch == 'f') && c.err == nil
}

// Skip checks and passes over one value.
func (c *Cursor) Skip() {
	switch ch := c.Peek(); {
	case ch == '"':
		c.scanString()
	case ch == '{':
		c.open()
		for c.Next() {
			c.Skip()
		}
	case ch == '[':
		c.open()
		for c.Element() {
			c.Skip()
		}
	case ch == 't':
		c.literal("true")
	case ch == 'f':
		c.literal("false")
	case ch == 'n':
		c.literal("null")
	case ch == '-' || (ch >= '0' && ch <= '9'):
		c.number()
	default:
		c.fail(ErrSyntax)
	}
}

func (c *Cursor) literal(s string) {
	if len(c.b)-c.i < len(s) || string(c.b[c.i:c.i+len(s)]) != s {
		c.fail(ErrSyntax)
		return
	}
	c.i += len(s)
}

func (c *Cursor) digits() bool {
	start := c.i
	for c.i < len(c.b) && c.b[c.i] >= '0' && c.b[c.i] <= '9' {
		c.i++
	}
	return c.i > start
}

func (c *Cursor) number() {
	if c.b[c.i] == '-' {
		c.i++
	}
	ok := true
	if c.i < len(c.b) && c.b[c.i] == '0' {
		c.i++
	} else {
		ok = c.digits()
	}
	if ok && c.i < len(c.b) && c.b[c.i] == '.' {
		c.i++
		ok = c.digits()
	}
	if ok && c.i < len(c.b) && (c.b[c.i] == 'e' || c.b[c.i] == 'E') {
		c.i++
		if c.i < len(c.b) && (c.b[c.i] == '+' || c.b[c.i] == '-') {
			c.i++
		}
		ok = c.digits()
	}
	if !ok {
		c.fail(ErrSyntax)
	}
}

// scanString passes over a string and returns what stands between its quotes.
func (c *Cursor) scanString() (raw []byte, escaped bool) {
	b, start := c.b, c.i+1
	for i := start; ; {
		if i = plainEnd(b, i); i >= len(b) {
			c.fail(ErrSyntax)
			return nil, false
		}
		switch ch := b[i]; {
		case ch == '"':
			c.i = i + 1
			return b[start:i], escaped
		case ch == '\\':
			escaped = true
			n := escapeLength(b[i+1:])
			if n == 0 {
				c.fail(ErrSyntax)
				return nil, false
			}
			i += 1 + n
		case ch >= utf8.RuneSelf:
			escaped = true // unquote looks whether it is valid
			i++
		default:
			c.fail(ErrSyntax)
			return nil, false
		}
	}
}

// The same byte in all eight of a word, and each byte's highest bit.
const (
	each    = 0x0101010101010101
	highest = 0x8080808080808080
)

// zeroBytes marks, by its highest bit, the lowest byte of w that is zero;
// above that one it may err.
func zeroBytes(w uint64) uint64 { return (w - each) &^ w & highest }

// plainEnd is where the first quote, backslash, control character or byte beyond
// ASCII is in b, from i on.
func plainEnd(b []byte, i int) int {
	for ; i+8 <= len(b); i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		// Each term marks some of them by its highest bit, exactly up to the first.
		special := (w | (w - each*' ') | (w ^ each*'"' - each) | (w ^ each*'\\' - each)) & highest
		if special != 0 {
			return i + bits.TrailingZeros64(special)/8
		}
	}
	for ; i < len(b); i++ {
		if ch := b[i]; ch < ' ' || ch == '"' || ch == '\\' || ch >= utf8.RuneSelf {
			return i
		}
	}
	return i
}

// escapeLength is the length of the escape after its backslash, 0 if it is none.
func escapeLength(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	switch b[0] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 1
	case 'u':
		if _, ok := hex4(b[1:]); ok {
			return 5
		}
	}
	return 0
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, ch := range b[:4] {
		switch {
		case ch >= '0' && ch <= '9':
			ch -= '0'
		case ch >= 'a' && ch <= 'f':
			ch -= 'a' - 10
		case ch >= 'A' && ch <= 'F':
			ch -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(ch)
	}
	return r, true
}

// unquote resolves the escapes of a string that scanString passed, and replaces
// what is no UTF-8.
func unquote(raw []byte) []byte {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); {
		ch := raw[i]
		switch {
		case ch >= utf8.RuneSelf:
			r, n := utf8.DecodeRune(raw[i:])
			out = utf8.AppendRune(out, r)
			i += n
			continue
		case ch != '\\':
			out = append(out, ch)
			i++
			continue
		}
		i += 2
		switch ch = raw[i-1]; ch {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, _ := hex4(raw[i:])
			i += 4
			if utf16.IsSurrogate(r) {
				r2 := rune(utf8.RuneError)
				if len(raw)-i >= 6 && raw[i] == '\\' && raw[i+1] == 'u' {
					r2, _ = hex4(raw[i+2:])
				}
				if r = utf16.DecodeRune(r, r2); r != utf8.RuneError {
					i += 6
				}
			}
			out = utf8.AppendRune(out, r)
		default:
			out = append(out, ch)
		}
	}
	return out
}

// End checks that nothing but space follows.
func (c *Cursor) End() error {
	if c.err == nil {
		if c.Peek(); c.i < len(c.b) {
			c.fail(ErrSyntax)
		}
	}
	return c.err
}
