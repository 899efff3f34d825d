package jsonscan

import (
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

const redacted = "***"

// Redact makes an event that could not be decoded fit to be sealed: of JSON, be
// it broken, it keeps the structure, numbers and the keys; every other string, and what stands outside strings and is no
// JSON, becomes ***. Of the keys for which kept is true, short values made of a
// name's characters stay. It returns at most maxBytes bytes and how many values
// it replaced.
func Redact(raw []byte, maxBytes int, kept func(key string) bool) (string, int) {
	r := redactor{in: raw, max: maxBytes, kept: kept}
	r.run()
	return evidence.Text(r.out.String(), maxBytes), r.count
}

const maxKeptBytes = 128 // of a key or of a kept value

type redactor struct {
	in    []byte
	i     int
	max   int
	kept  func(key string) bool
	out   strings.Builder
	key   string // of the value to come
	count int
	mark  bool // the last thing written is a mark for what is no JSON
}

func (r *redactor) run() {
	for r.i < len(r.in) && r.out.Len() < r.max {
		ch := r.in[r.i]
		switch {
		case ch == '"':
			r.mark = false
			r.quoted()
			continue
		case strings.IndexByte("{}[],: \t\r\n", ch) >= 0:
			if strings.IndexByte("{}[],", ch) >= 0 {
				r.key = "" // a kept value is the string right after its key
			}
			r.out.WriteByte(ch)
			r.mark = false
			r.i++
			continue
		}
		r.bare()
	}
}

// bare passes over a run outside of strings: a number or a literal is kept.
func (r *redactor) bare() {
	start := r.i
	for r.i < len(r.in) && strings.IndexByte("\"{}[],: \t\r\n", r.in[r.i]) < 0 {
		r.i++
	}
	word := string(r.in[start:min(r.i, start+maxKeptBytes)])
	switch {
	case word == "true", word == "false", word == "null", isNumber(word) && len(word) < 24:
		r.out.WriteString(word)
		r.mark = false
	case !r.mark:
		r.out.WriteString(redacted)
		r.count++
		r.mark = true
	}
}

func isNumber(s string) bool {
	c := Cursor{b: []byte(s)}
	if ch := c.Peek(); ch != '-' && (ch < '0' || ch > '9') {
		return false
	}
	c.number()
	return c.End() == nil
}

// quoted passes over a string, a key if a colon follows.
func (r *redactor) quoted() {
	c := Cursor{b: r.in, i: r.i}
	raw, _ := c.scanString()
	if c.err != nil { // it does not end, or is none
		r.out.WriteString(redacted)
		r.count++
		r.i = len(r.in)
		return
	}
	r.i = c.i
	text := string(raw)
	isKey := c.Peek() == ':'
	if (isKey && plain(text)) || (!isKey && r.kept(r.key) && plain(text)) {
		r.out.WriteByte('"')
		r.out.WriteString(text)
		r.out.WriteByte('"')
	} else {
		r.out.WriteString(`"` + redacted + `"`)
		r.count++
	}
	r.key = ""
	if isKey {
		r.key = text
	}
}

// plain tells whether s is short and made of the characters of names, ids and
// times. Most tokens are longer than that; a short one is told by how a JWT (eyJ
// is {" in base64) and an AWS access key begin.
func plain(s string) bool {
	if len(s) > maxKeptBytes || strings.Contains(s, "eyJ") || strings.Contains(s, "AKIA") || strings.Contains(s, "ASIA") {
		return false
	}
	for i := range len(s) {
		ch := s[i]
		if (ch < '0' || ch > '9') && (ch < 'a' || ch > 'z') && (ch < 'A' || ch > 'Z') && strings.IndexByte("_-.:/+", ch) < 0 {
			return false
		}
	}
	return true
}
