package opa

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// A shape is what a value says, whatever it answers.
type shape uint8

const (
	absent shape = iota
	isTrue
	isFalse
	empty   // a list or object without members
	filled  // any other list or object
	unclear // anything else, and what is stated twice
)

// A question is what a name asks for.
type question uint8

const (
	unknown  question = iota
	mayIt             // allow
	mayItNot          // deny
)

// A name that asks for a verdict: a path's last element, or a member of the
// result.
type name int8

const (
	allow name = iota
	allowed
	deny
	denied
	violation
	violations
	names
)

func parseName(s string) (name, bool) {
	switch s {
	case "allow":
		return allow, true
	case "allowed":
		return allowed, true
	case "deny":
		return deny, true
	case "denied":
		return denied, true
	case "violation":
		return violation, true
	case "violations":
		return violations, true
	}
	return names, false
}

func (n name) asks() question {
	switch {
	case n <= allowed:
		return mayIt
	case n < names:
		return mayItNot
	}
	return unknown
}

func asks(s string) question {
	n, _ := parseName(s)
	return n.asks()
}

// answers is the verdict that s is to q, NotEvaluated if it is none.
func (s shape) answers(q question) evidence.Decision {
	switch {
	case q == mayIt && s == isTrue, q == mayItNot && (s == isFalse || s == empty):
		return evidence.Allow
	case q == mayIt && s == isFalse, q == mayItNot && (s == isTrue || s == filled):
		return evidence.Deny
	}
	return evidence.NotEvaluated
}

// An answer is what an event says of its decision.
type answer struct {
	whole   shape
	why     string       // the first of the result, if it is a list
	members [names]shape // of the result, by name
	// masked: the result as a whole, or a member that decides; inside: any part.
	masked, inside bool
	envoy          bool // the input is Envoy's
	// The result is what a Kubernetes API server's admission asks for, and what its
	// response.allowed says.
	review   bool
	response shape
}

// result reads the result. Before 1.0 OPA's documentation showed the string
// "true".
func (d *decoder) result() {
	a := &d.answer
	switch d.c.Peek() {
	case '{':
		d.members()
	case '"':
		switch d.c.String() {
		case "true":
			a.whole = isTrue
		case "false":
			a.whole = isFalse
		default:
			a.whole = unclear
		}
	default:
		a.whole, a.why = d.shape()
	}
}

func (d *decoder) members() {
	c, a := &d.c, &d.answer
	if !c.Object() {
		return
	}
	a.whole = empty
	for c.Next() {
		a.whole = filled
		switch string(c.Key) {
		case "reason", "message", "reason_message":
			d.setReason(d.text())
			continue
		case "reasons":
			d.setReason(d.firstText())
			continue
		case "kind":
			a.review = d.text() == "AdmissionReview"
			continue
		case "response":
			d.response()
			continue
		}
		n, ok := parseName(string(c.Key))
		switch {
		case !ok:
			c.Skip()
		case a.members[n] != absent:
			c.Skip()
			a.members[n] = unclear // readers differ on which of the two counts
		default:
			var why string
			if a.members[n], why = d.shape(); n.asks() == mayItNot {
				d.setReason(why)
			}
		}
	}
}

// response reads that of an AdmissionReview.
func (d *decoder) response() {
	c, a := &d.c, &d.answer
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "allowed":
			if s, _ := d.shape(); a.response == absent {
				a.response = s
			} else {
				a.response = unclear
			}
		case "status":
			d.setReason(d.message())
		default:
			c.Skip()
		}
	}
}

// shape reads a value, and the first of a list.
func (d *decoder) shape() (s shape, first string) {
	c := &d.c
	switch c.Peek() {
	case '[':
		if first = d.firstText(); first == "" {
			return empty, ""
		}
		return filled, first
	case '{':
		s = unclear
		if c.Object() {
			s = empty
		}
		for c.Next() {
			c.Skip()
			s = filled
		}
		return s, ""
	}
	v, ok := c.Bool()
	switch {
	case !ok:
		return unclear, ""
	case v:
		return isTrue, ""
	}
	return isFalse, ""
}

// erased notes what a mask removed of the result, or put into it.
func (d *decoder) erased() {
	c, a := &d.c, &d.answer
	if !c.Array() {
		return
	}
	for c.Element() {
		rest, ok := strings.CutPrefix(c.String(), "/result")
		if !ok || rest != "" && rest[0] != '/' {
			continue
		}
		a.inside = true
		name, _, _ := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
		a.masked = a.masked || rest == "" || asks(name) != unknown
	}
}

// decide states the verdict, and names what was asked.
func (d *decoder) decide() {
	v, a := &d.verdict, &d.answer
	asked := asks(v.PolicyID[strings.LastIndexByte(v.PolicyID, '/')+1:])
	path := v.PolicyID != ""
	if !path && d.query != "" {
		v.PolicyID, asked = query(d.query)
	}
	v.Decision = evidence.NotEvaluated
	switch {
	case d.hasError:
		v.Decision = evidence.Error
		return
	case a.masked, a.inside && asked == mayItNot:
		// What is there of it may be what the mask put there.
		d.setReason("the result is masked in the decision log")
		return
	case a.whole == absent: // also if the policy is not loaded
		d.setReason("the result is undefined")
		return
	case a.whole == isTrue || a.whole == isFalse:
		if asked == unknown && a.envoy { // opa-envoy-plugin takes it so
			asked = mayIt
		}
		v.Decision = a.whole.answers(asked)
	case asked == mayItNot && path:
		v.Decision = a.whole.answers(asked)
		d.setReason(a.why)
	case a.review && !a.inside:
		v.Decision = a.response.answers(mayIt)
	default:
		v.Decision = a.memberVerdict()
	}
	if v.Decision == evidence.NotEvaluated {
		d.setReason("the result is no verdict")
	}
}

// memberVerdict is the verdict of the result's members: one that denies is
// enough, and none may leave it open.
func (a *answer) memberVerdict() evidence.Decision {
	verdict, open := evidence.NotEvaluated, false
	for n, s := range a.members {
		if s == absent {
			continue
		}
		switch s.answers(name(n).asks()) {
		case evidence.Deny:
			return evidence.Deny
		case evidence.Allow:
			verdict = evidence.Allow
		default:
			open = true
		}
	}
	if open {
		return evidence.NotEvaluated
	}
	return verdict
}

// query is what is kept of an ad-hoc query, whose text is its client's: the
// query itself if it is a plain reference, data.a.b, else its hash. And what it
// asks for.
func query(q string) (id string, asked question) {
	if !isReference(q) {
		sum := sha256.Sum256([]byte(q))
		return "sha256:" + hex.EncodeToString(sum[:]), unknown
	}
	return q, asks(q[strings.LastIndexByte(q, '.')+1:])
}

func isReference(q string) bool {
	if len(q) > evidence.MaxName || !strings.HasPrefix(q, "data.") {
		return false
	}
	for name := range strings.SplitSeq(q, ".") {
		if name == "" || name[0] >= '0' && name[0] <= '9' || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
			return false
		}
	}
	return true
}
