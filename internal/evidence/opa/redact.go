package opa

import (
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/jsonscan"
)

// MaxRawBytes bounds the text of an event that could not be decoded.
const MaxRawBytes = 64 << 10

const redacted = "***"

// Redact makes an event that could not be decoded fit to be sealed: of JSON, be
// it broken, it keeps the structure, numbers, the keys, and the values of the
// keys below; every other string, and what stands outside strings and is no
// JSON, becomes ***. It returns at most maxBytes bytes and how many values it
// replaced.
func Redact(raw []byte, maxBytes int) (string, int) {
	r := redactor{in: raw, max: maxBytes}
	r.run()
	return evidence.Text(r.out.String(), maxBytes), r.count
}

// keptValue says which keys' values are kept: they name the decision and never
// hold what a request carried.
func keptValue(key string) bool {
	switch key {
	case "decision_id", "batch_decision_id", "timestamp", "revision", "version", "trace_id", "span_id", "method":
		return true
	}
	return false
}

const maxKeptBytes = 128 // of a key or of a kept value

type redactor struct {
	in    []byte
	i     int
	max   int
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
	c := jsonscan.New([]byte(s))
	if ch := c.Peek(); ch != '-' && (ch < '0' || ch > '9') {
		return false
	}
	c.Skip()
	return c.End() == nil
}

// quoted passes over a string, a key if a colon follows.
func (r *redactor) quoted() {
	c := jsonscan.At(r.in, r.i)
	c.Skip()
	if c.Err() != nil { // it does not end, or is none
		r.out.WriteString(redacted)
		r.count++
		r.i = len(r.in)
		return
	}
	text := string(r.in[r.i+1 : c.Offset()-1])
	r.i = c.Offset()
	isKey := c.Peek() == ':'
	if (isKey && plain(text)) || (!isKey && keptValue(r.key) && plain(text)) {
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
// times. A token has dots and is longer than that.
func plain(s string) bool {
	if len(s) > maxKeptBytes {
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
