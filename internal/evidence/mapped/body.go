package mapped

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/jsonscan"
)

// members are those of a body that a mapping reads; what no expression names is
// checked and passed over. "" stands for all of them.
type members map[string]bool

// named finds where an expression speaks of the body, and of which member.
var named = regexp.MustCompile(`\bbody\b(?:\["([^"\\]+)"\])?`)

// add adds what an expression reads, or more.
func (m members) add(expression string) {
	for _, match := range named.FindAllStringSubmatch(expression, -1) {
		m[match[1]] = true
	}
}

// maxMembers bounds those of one object that is kept: pdata looks through all of
// them for each.
const maxMembers = 256

var (
	errTwice = errors.New("a member is there twice")
	errMany  = fmt.Errorf("an object has more than %d members", maxMembers)
)

// parse makes text, one object, the value v, with the members that are read.
// Integers of 64 bits stay exact; longer ones, which it returns, stay as their digits.
func (m members) parse(text []byte, v pcommon.Value) (long []string, err error) {
	p := parser{Cursor: jsonscan.NewCopied(text), only: m}
	if m[""] {
		p.only = nil
	}
	p.value(v)
	if err := p.End(); err != nil {
		return nil, fmt.Errorf("%w: byte %d: %w", evidence.ErrMalformed, p.Offset(), err)
	}
	if p.fault != nil {
		return nil, fmt.Errorf("%w: %w", evidence.ErrMalformed, p.fault)
	}
	return p.long, nil
}

type parser struct {
	jsonscan.Cursor
	only  members  // of the object that comes next; nil: all
	long  []string // integers of more than 64 bits
	fault error    // the first
}

func (p *parser) value(v pcommon.Value) {
	switch p.Peek() {
	case '{':
		p.object(v.SetEmptyMap())
	case '[':
		s := v.SetEmptySlice()
		if p.Array() {
			for p.Element() {
				p.value(s.AppendEmpty())
			}
		}
	case '"':
		v.SetStr(p.String())
	case 't', 'f':
		b, _ := p.Bool()
		v.SetBool(b)
	case 'n', 0:
		p.Skip()
	default:
		digits := p.Scalar()
		if n, err := strconv.ParseInt(digits, 10, 64); err == nil {
			v.SetInt(n)
		} else if f, err := strconv.ParseFloat(digits, 64); err == nil && strings.ContainsAny(digits, ".eE") {
			v.SetDouble(f)
		} else {
			v.SetStr(digits)
			p.long = append(p.long, digits)
		}
	}
}

func (p *parser) object(m pcommon.Map) {
	only := p.only
	p.only = nil
	m.EnsureCapacity(len(only))
	if !p.Object() {
		return
	}
	for p.Next() {
		if p.fault != nil || only != nil && !only[string(p.Key)] {
			p.Skip()
			continue
		}
		name := p.Name()
		member, again := m.GetOrPutEmpty(name)
		switch {
		case again:
			p.fault = errTwice
		case m.Len() > maxMembers:
			p.fault = errMany
		}
		p.value(member)
	}
}
