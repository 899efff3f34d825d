package envoy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Bounds of a format.
const (
	maxFormat    = 16 << 10
	maxOperators = 128
	maxSteps     = 4096 // that are tried to take a line apart
)

// A Format takes lines apart that Envoy wrote by an access log format string.
//
// Envoy escapes nothing. What a client puts into a header that the format
// shows can look like the end of the field and like further fields. So a line
// is taken apart twice, with every field as short and as long as the rest
// permits: a field that is not the same both times is not stated.
type Format struct {
	literals  []string // before, between and behind the operators
	operators []operator
}

// An operator is one command operator of a format and the label that it gives.
type operator struct {
	label  string // "": dropped
	header string // the request header to read, instead of a label
	kind   kind
	layout string // of a time, in Go's form; "": RFC 3339
}

// kind says which characters a value can have.
type kind uint8

const (
	free    kind = iota // any: a client's or a policy author's text
	word                // no space
	details             // no space but within brackets
)

// CompileFormat reads a format string as of Envoy's text_format.
func CompileFormat(s string) (*Format, error) {
	if len(s) > maxFormat {
		return nil, fmt.Errorf("format has %d bytes, at most %d are read", len(s), maxFormat)
	}
	var f Format
	var literal strings.Builder
	s = strings.TrimRight(s, "\r\n")
	for i := 0; i < len(s); {
		if s[i] != '%' {
			literal.WriteByte(s[i])
			i++
			continue
		}
		if strings.HasPrefix(s[i:], "%%") {
			literal.WriteByte('%')
			i += 2
			continue
		}
		op, n, err := parseOperator(s[i:])
		if err != nil {
			return nil, fmt.Errorf("format byte %d: %w", i, err)
		}
		if len(f.operators) > 0 && literal.Len() == 0 {
			return nil, fmt.Errorf("format byte %d: nothing stands between two operators, so their values can't be told apart", i)
		}
		f.literals = append(f.literals, literal.String())
		literal.Reset()
		if f.operators = append(f.operators, op); len(f.operators) > maxOperators {
			return nil, fmt.Errorf("format has more than %d operators", maxOperators)
		}
		i += n
	}
	if len(f.operators) == 0 {
		return nil, errors.New("format has no operator, such as %START_TIME%")
	}
	f.literals = append(f.literals, literal.String())
	return &f, nil
}

// parseOperator reads %NAME(PARAMETERS):LENGTH% from the beginning of s.
func parseOperator(s string) (operator, int, error) {
	i := 1
	for i < len(s) && (s[i] >= 'A' && s[i] <= 'Z' || s[i] >= '0' && s[i] <= '9' || s[i] == '_') {
		i++
	}
	name := s[1:i]
	if name == "" {
		return operator{}, 0, errors.New("% begins an operator, such as %START_TIME%; a percent sign is %%")
	}
	parameters := ""
	if i < len(s) && s[i] == '(' {
		depth, start := 0, i+1
		for ; i < len(s); i++ {
			if s[i] == '(' {
				depth++
			} else if s[i] == ')' {
				if depth--; depth == 0 {
					break
				}
			}
		}
		if i == len(s) {
			return operator{}, 0, fmt.Errorf("the parenthesis of %%%s does not close", name)
		}
		parameters = s[start:i]
		i++
	}
	if i < len(s) && s[i] == ':' {
		digits := i + 1
		for i++; i < len(s) && s[i] >= '0' && s[i] <= '9'; i++ {
		}
		if i == digits {
			return operator{}, 0, fmt.Errorf("a length must follow the colon of %%%s", name)
		}
	}
	if i == len(s) || s[i] != '%' {
		return operator{}, 0, fmt.Errorf("%%%s does not end with a percent sign", name)
	}
	op, err := compileOperator(name, parameters)
	return op, i + 1, err
}

// A place is where a value stands in a line.
type place struct{ from, to int }

// fields takes a line apart. What is not certain has from -1. It is false if
// the line is not of the format.
func (f *Format) fields(line string, out []place) bool {
	line = strings.TrimRight(line, "\r\n")
	s := splitter{f: f, line: line, out: out, budget: maxSteps}
	if !strings.HasPrefix(line, f.literals[0]) {
		return false
	}
	if !s.bound() {
		return false
	}
	shortest := s.step(0, len(f.literals[0]))
	if !shortest && s.budget > 0 {
		return false
	}
	if shortest && (s.only() || s.compare()) {
		return true
	}
	// There are too many ways to try.
	return s.beginning(out)
}

// only reports whether every value ends where it must at the latest: so there is
// no longer one.
func (s *splitter) only() bool {
	for i := range s.out {
		if s.out[i].to != s.latest[i] {
			return false
		}
	}
	return true
}

// compare takes the line apart again with every value as long as can be, and
// leaves only what is the same; false: there are too many ways to try.
func (s *splitter) compare() bool {
	var buf [maxOperators]place
	out := s.out
	s.out, s.longest, s.budget = buf[:len(out)], true, maxSteps
	if !s.step(0, len(s.f.literals[0])) {
		return false
	}
	sure := len(out)
	for i := range s.out {
		if out[i] != s.out[i] {
			out[i].from, sure = -1, min(sure, i)
		}
	}
	if sure < len(out) {
		s.ending(out, sure)
	}
	return true
}

type splitter struct {
	f       *Format
	line    string
	out     []place
	longest bool
	budget  int
	latest  [maxOperators]int // where the value of an operator must end at the latest
}

// bound finds the latest end of each value: behind it the literals of those that
// follow must still find room. It is false if they do not.
func (s *splitter) bound() bool {
	end, n := len(s.line), len(s.f.operators)
	if !strings.HasSuffix(s.line, s.f.literals[n]) {
		return false
	}
	for i := n - 1; i >= 0; i-- {
		if end = lastIndex(s.line[:end], s.f.literals[i+1]); end < 0 {
			return false
		}
		s.latest[i] = end
	}
	return end >= len(s.f.literals[0])
}

// step finds the value of operator i, which begins at pos, and those behind it.
func (s *splitter) step(i, pos int) bool {
	if s.budget--; s.budget <= 0 {
		return false
	}
	op, literal := &s.f.operators[i], s.f.literals[i+1]
	if i == len(s.f.operators)-1 {
		end := len(s.line) - len(literal)
		if end < pos || s.line[end:] != literal || pos+op.kind.extent(s.line[pos:end]) != end {
			return false
		}
		s.out[i] = place{pos, end}
		return true
	}
	if op.kind == word && literal != "" && literal[0] == ' ' { // as most are
		at := pos + op.kind.extent(s.line[pos:])
		s.out[i] = place{pos, at}
		return strings.HasPrefix(s.line[at:], literal) && s.step(i+1, at+len(literal))
	}
	// The literal may begin where the value can still go on, but not later
	// than where it must end.
	last := min(pos+op.kind.extent(s.line[pos:]), s.latest[i]) + len(literal)
	if last < pos {
		return false
	}
	for from, to := pos, last; ; {
		var at int
		if s.longest {
			at = lastIndex(s.line[from:to], literal)
		} else {
			at = strings.Index(s.line[from:to], literal)
		}
		if at < 0 {
			return false
		}
		at += from
		s.out[i] = place{pos, at}
		if s.step(i+1, at+len(literal)) {
			return true
		}
		if s.budget <= 0 {
			return false
		}
		if s.longest {
			to = at + len(literal) - 1
		} else {
			from = at + 1
		}
	}
}

// lastIndex is strings.LastIndex, faster for a literal that is rare from its
// first byte on.
func lastIndex(s, literal string) int {
	if literal == "" {
		return len(s)
	}
	for end := len(s); ; {
		at := strings.LastIndexByte(s[:end], literal[0])
		if at < 0 || strings.HasPrefix(s[at:], literal) {
			return at
		}
		end = at
	}
}

// beginning states what precedes the first free value, and the ending.
func (s *splitter) beginning(out []place) bool {
	pos, n := len(s.f.literals[0]), 0
	for ; n < len(out); n++ {
		op, literal := &s.f.operators[n], s.f.literals[n+1]
		window := s.line[pos:min(pos+op.kind.extent(s.line[pos:])+len(literal), len(s.line))]
		at := strings.Index(window, literal)
		if op.kind == free || at < 0 || at != lastIndex(window, literal) {
			break
		}
		out[n] = place{pos, pos + at}
		pos += at + len(literal)
	}
	for i := n; i < len(out); i++ {
		out[i].from = -1
	}
	if n > 0 {
		s.ending(out, n)
	}
	return n > 0
}

// ending states what follows the last free value, from operator n on. The very
// last one may be free: it is a route's name, which no client chooses, and is
// taken to have no space.
func (s *splitter) ending(out []place, n int) {
	end := len(s.line) - len(s.f.literals[len(out)])
	for i := len(out) - 1; i > n; i-- {
		op, literal := &s.f.operators[i], s.f.literals[i]
		if op.kind != word && (i != len(out)-1 || op.label != "route_name") {
			return
		}
		at := lastIndex(s.line[:max(end, 0)], literal)
		if at < 0 {
			return
		}
		from := at + len(literal)
		if strings.IndexByte(s.line[from:end], ' ') >= 0 {
			return
		}
		out[i], end = place{from, end}, at
	}
}

// extent is how long a value at the beginning of s can be.
func (k kind) extent(s string) int {
	switch k {
	case word:
		if i := strings.IndexByte(s, ' '); i >= 0 {
			return i
		}
	case details:
		depth := 0
		for i := range len(s) {
			switch s[i] {
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			case ' ':
				if depth <= 0 {
					return i
				}
			}
		}
	}
	return len(s)
}

// read gives the values of a line to l.
func (f *Format) read(line string, l *labels) bool {
	var buf [maxOperators]place
	fields := buf[:len(f.operators)]
	if !f.fields(line, fields) {
		return false
	}
	for i := range f.operators {
		if fields[i].from >= 0 {
			f.operators[i].set(l, line[fields[i].from:fields[i].to])
		}
	}
	return true
}

// set gives one value to l. An operator without a value writes "-".
func (o *operator) set(l *labels, value string) {
	switch {
	case o.header != "":
		if value != "-" && value != "" {
			l.headers.Add(o.header, value)
		}
	case o.label == "":
	case o.label == labelStart && o.layout != "":
		if t, ok := parseTime(o.layout, value); ok {
			l.start = t
		}
	default:
		l.set(o.label, value)
	}
}

const labelStart = "start_time"

// Layouts of times that are numbers.
const (
	layoutSeconds      = "s"
	layoutMilliseconds = "ms"
)

func parseTime(layout, value string) (int64, bool) {
	switch layout {
	case layoutSeconds:
		d, err := time.ParseDuration(value + "s")
		return int64(d), err == nil && d >= 0
	case layoutMilliseconds:
		ms, err := strconv.ParseUint(value, 10, 43) // until 2248
		return int64(ms) * int64(time.Millisecond), err == nil
	}
	t, err := time.Parse(layout, value)
	if err != nil {
		return 0, false
	}
	return unixNano(t.Unix(), int32(t.Nanosecond())), true
}
