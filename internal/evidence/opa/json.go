package opa

import (
	"errors"
	"unicode/utf16"
	"unicode/utf8"
)

// A cursor walks over one JSON value once, without building it: what is not
// asked for is checked and skipped. It accepts exactly what encoding/json
// calls valid, to a bounded depth. After an error every method returns
// nothing, so that a walk ends.
//
// Strings come back as Go strings with invalid UTF-8 replaced; numbers keep the
// digits with which they were written, so that 64-bit ids stay exact.
type cursor struct {
	b     []byte
	i     int
	depth int
	err   error
	first bool // no element of the innermost open container was read yet
	key   []byte
}

var (
	errSyntax = errors.New("not valid JSON")
	errDepth  = errors.New("nested too deeply")
)

func (c *cursor) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	c.i = len(c.b)
}

func (c *cursor) space() {
	for c.i < len(c.b) {
		switch c.b[c.i] {
		case ' ', '\t', '\n', '\r':
			c.i++
		default:
			return
		}
	}
}

// peek returns the next value's first byte, 0 at the end.
func (c *cursor) peek() byte {
	c.space()
	if c.i == len(c.b) {
		return 0
	}
	return c.b[c.i]
}

func (c *cursor) open() {
	c.i++
	c.first = true
	if c.depth++; c.depth > maxDepth {
		c.fail(errDepth)
	}
}

func (c *cursor) close() {
	c.i++
	c.first = false
	c.depth--
}

// object enters an object; any other value is skipped and false.
//
//	if c.object() {
//		for c.next() {
//			switch string(c.key) {
//			case "name":
//				name = c.string()
//			default:
//				c.skip()
//			}
//		}
//	}
func (c *cursor) object() bool {
	if c.peek() != '{' {
		c.skip()
		return false
	}
	c.open()
	return c.err == nil
}

// next moves to the innermost object's next member and reads its key, which
// is valid until the next call; false at the object's end.
func (c *cursor) next() bool {
	if c.err != nil {
		return false
	}
	switch ch := c.peek(); {
	case ch == '}':
		c.close()
		return false
	case c.first:
		c.first = false
	case ch == ',':
		c.i++
	default:
		c.fail(errSyntax)
		return false
	}
	if c.peek() != '"' {
		c.fail(errSyntax)
		return false
	}
	raw, escaped := c.scanString()
	c.key = raw
	if escaped {
		c.key = unquote(raw)
	}
	if c.peek() != ':' {
		c.fail(errSyntax)
		return false
	}
	c.i++
	return c.err == nil
}

// array enters an array; any other value is skipped and false.
func (c *cursor) array() bool {
	if c.peek() != '[' {
		c.skip()
		return false
	}
	c.open()
	return c.err == nil
}

// element moves to the innermost array's next element; false at its end.
func (c *cursor) element() bool {
	if c.err != nil {
		return false
	}
	switch ch := c.peek(); {
	case ch == ']':
		c.close()
		return false
	case c.first:
		c.first = false
	case ch == ',':
		c.i++
	default:
		c.fail(errSyntax)
		return false
	}
	return true
}

// string returns a string value; any other value is skipped and "".
func (c *cursor) string() string {
	if c.peek() != '"' {
		c.skip()
		return ""
	}
	raw, escaped := c.scanString()
	if escaped {
		raw = unquote(raw)
	}
	return string(raw)
}

// scalar returns a string, or a number as it is written; any other value is
// skipped and "".
func (c *cursor) scalar() string {
	switch ch := c.peek(); {
	case ch == '"':
		return c.string()
	case ch == '-' || (ch >= '0' && ch <= '9'):
		start := c.i
		c.number()
		return string(c.b[start:c.i])
	}
	c.skip()
	return ""
}

// boolean returns a boolean; ok is false for any other value, which is skipped.
func (c *cursor) boolean() (value, ok bool) {
	ch := c.peek()
	c.skip()
	return ch == 't', (ch == 't' || ch == 'f') && c.err == nil
}

// skip checks and passes over one value.
func (c *cursor) skip() {
	switch ch := c.peek(); {
	case ch == '"':
		c.scanString()
	case ch == '{':
		c.open()
		for c.next() {
			c.skip()
		}
	case ch == '[':
		c.open()
		for c.element() {
			c.skip()
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
		c.fail(errSyntax)
	}
}

func (c *cursor) literal(s string) {
	if len(c.b)-c.i < len(s) || string(c.b[c.i:c.i+len(s)]) != s {
		c.fail(errSyntax)
		return
	}
	c.i += len(s)
}

func (c *cursor) digits() bool {
	start := c.i
	for c.i < len(c.b) && c.b[c.i] >= '0' && c.b[c.i] <= '9' {
		c.i++
	}
	return c.i > start
}

func (c *cursor) number() {
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
		c.fail(errSyntax)
	}
}

// scanString passes over a string and returns what stands between its quotes.
func (c *cursor) scanString() (raw []byte, escaped bool) {
	c.i++
	start := c.i
	for i := start; i < len(c.b); i++ {
		switch ch := c.b[i]; {
		case ch == '"':
			c.i = i + 1
			return c.b[start:i], escaped
		case ch < ' ':
			c.fail(errSyntax)
			return nil, false
		case ch == '\\':
			escaped = true
			n := escapeLength(c.b[i+1:])
			if n == 0 {
				c.fail(errSyntax)
				return nil, false
			}
			i += n
		case ch >= utf8.RuneSelf:
			escaped = true // unquote looks whether it is valid
		}
	}
	c.fail(errSyntax)
	return nil, false
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

// end checks that nothing but space follows.
func (c *cursor) end() error {
	if c.err == nil {
		if c.space(); c.i < len(c.b) {
			c.fail(errSyntax)
		}
	}
	return c.err
}
