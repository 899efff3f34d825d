package correlate

import (
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// Node is where a span stands in its trace.
type Node struct {
	Trace        evidence.TraceID
	Span, Parent evidence.SpanID
	Callee       bool // else it is the caller's
	Proxy        bool // else it is an application's
}

// Known is what is known of one call. Zero fields are not.
type Known struct {
	Source, Destination Proven
	Decided             evidence.Decision
	Record              RecordID // that has left
}

// Proven is an identity that is better than claimed.
type Proven struct {
	ID    spiffeid.ID
	Proof evidence.Proof
}

// Known says what is known of the call that each span is a part of, by trace
// and span ids alone; the spans need not be evidence themselves. It is silent
// about what is told in two ways, as of several attempts. It is nil if nothing
// is known of any.
func (c *Correlator) Known(spans []Node) []Known {
	c.mu.Lock()
	defer c.unlock()
	c.pass(c.now) // what was added may wait in the inbox
	var all []Known
	for i := range spans {
		if k := c.known(&spans[i]); k != (Known{}) {
			if all == nil {
				all = make([]Known, len(spans))
			}
			all[i] = k
		}
	}
	return all
}

func (c *Correlator) known(n *Node) Known {
	if n.Trace == (evidence.TraceID{}) || n.Span == (evidence.SpanID{}) {
		return Known{}
	}
	var s told
	caller, callee := place.caller, place.callee
	proxy := func(p place) bool { return p == calleeLog || p == calleeProxy }
	if n.Callee {
		c.hear(&s, c.at(nil, n.Trace, n.Span), callee)
		above := c.at(nil, n.Trace, n.Parent)
		if !n.Proxy { // its own proxy may stand between
			for _, p := range c.hear(&s, above, proxy) {
				c.hear(&s, c.at(nil, n.Trace, p.parent), caller)
			}
		}
		c.hear(&s, above, caller)
		return s.known()
	}
	c.hear(&s, c.at(nil, n.Trace, n.Span), func(place) bool { return true })
	beneath := c.under(nil, n.Trace, n.Span)
	c.hear(&s, beneath, callee)
	if !n.Proxy {
		for _, p := range c.hear(&s, beneath, caller) {
			c.hear(&s, c.at(nil, n.Trace, p.span), callee)
			c.hear(&s, c.under(nil, n.Trace, p.span), callee)
		}
	}
	return s.known()
}

// hear takes what the pieces in some places say, and what was decided about
// them, and returns those pieces.
func (c *Correlator) hear(s *told, pieces []*piece, at func(place) bool) []*piece {
	pieces = slices.DeleteFunc(slices.Clone(pieces), func(p *piece) bool { return !at(p.place) })
	for _, p := range pieces {
		c.tell(s, p)
		for _, d := range c.sharing(nil, byDecision, p) {
			c.tell(s, d)
		}
	}
	return pieces
}

// tell adds what a piece says, or the record that it has left with.
func (c *Correlator) tell(s *told, p *piece) {
	if a := c.actions.at(p.action); a != nil {
		s.source.say(Proven{value(a.stated.source), a.stated.sourceProof})
		s.destination.say(Proven{value(a.stated.destination), a.stated.destinationProof})
		s.decided.say(a.stated.decided)
		s.record.say(a.id)
		return
	}
	content := c.queue.contentOf(p)
	if content == nil {
		return
	}
	var e evidence.Evidence
	if err := unpack(string(content), &e, &c.drafts.desks[0].ids); err != nil {
		panic(err) // we packed it
	}
	for _, i := range e.From.Identities {
		s.source.say(Proven{i.ID, i.Proof})
	}
	for _, i := range e.To.Identities {
		s.destination.say(Proven{i.ID, i.Proof})
	}
	if e.Verdict != nil {
		s.decided.say(e.Verdict.Decision)
	}
}

// told is what several pieces say.
type told struct {
	source, destination identified
	decided             agreed[evidence.Decision]
	record              agreed[RecordID]
}

func (s *told) known() Known {
	return Known{s.source.value(), s.destination.value(), s.decided.value(), s.record.value()}
}

// agreed is a value unless two were said.
type agreed[T comparable] struct {
	said  T
	doubt bool
}

func (a *agreed[T]) say(v T) {
	var zero T
	if v != zero {
		a.doubt = a.doubt || a.said != zero && a.said != v
		a.said = v
	}
}

func (a *agreed[T]) value() (v T) {
	if !a.doubt {
		v = a.said
	}
	return v
}

// identified is the best proven identity.
type identified struct{ agreed[Proven] }

func (i *identified) say(p Proven) {
	if p.ID.IsZero() || p.Proof <= evidence.ProofClaimed || p.Proof < i.said.Proof {
		return
	}
	if p.Proof > i.said.Proof {
		i.agreed = agreed[Proven]{}
	}
	i.agreed.say(p)
}
