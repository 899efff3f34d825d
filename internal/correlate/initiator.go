package correlate

import (
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// Initiator is who set a trace going: the user whom the statement of a user nearest
// to its root names, the entry hop's. Other hops inherit him.
type Initiator struct {
	ID         string
	Roles      []string
	Delegation []evidence.Delegate
	// Derived says how this hop is his: Carried, a token or the like on this
	// very hop names him, or Inherited through the trace, which anybody who
	// forwards its id can join.
	Derived  string
	Evidence evidence.ID // that names him
	// Another user may be nearer to the root: neither spans nor clocks tell.
	Ambiguous bool
}

const (
	Carried   = "carried"
	Inherited = "inherited"
)

// maxLeft bounds the records of one trace that a later, earlier beginning
// amends.
const maxLeft = 64

// workflow is what is known of one trace: whom it names as users, and the records
// that have left. It lives as long as a piece that names a user, or leads one of those
// records, is kept.
type workflow struct {
	mentions    []mention // the earliest, in order
	named       []*named  // of each user the earliest mention
	pieces      uint32
	records     uint32 // how many have left
	first, last ref    // of their actions
}

// maxMentions bounds the statements of a user that are kept of one trace.
const maxMentions = 16

// mention is what is kept of a piece that names a user.
type mention struct {
	start, end   int64
	id           evidence.ID
	span, parent evidence.SpanID
	reporter     uint64
	user         uint32 // hash
	place        place
}

// named is a user as his earliest mention names him. Its content outlives the piece.
type named struct {
	user   uint32
	id     evidence.ID
	packed string
	cached atomic.Pointer[Initiator] // of packed
}

// workflows finds them by trace.
type workflows struct {
	of        map[evidence.TraceID]ref
	all       arena[workflow]
	contested int // how many name several users
}

// workflowBytes is a workflow's cost: itself and its map entry, in a map that is
// half full.
const workflowBytes = int(unsafe.Sizeof(workflow{})) + 40

func (w *workflow) bytes() int {
	bytes := cap(w.mentions) * int(unsafe.Sizeof(mention{}))
	for _, n := range w.named {
		bytes += int(unsafe.Sizeof(*n)) + len(n.packed)
	}
	return bytes
}

func (w *workflow) contested() bool { return len(w.named) > 1 }

// workflow finds or makes that of a piece's trace, for one more piece.
func (c *Correlator) workflow(p *piece) *workflow {
	r := c.workflows.of[p.trace]
	if r == 0 {
		r = c.workflows.all.add()
		c.workflows.of[p.trace] = r
		c.bytes += workflowBytes
	}
	w := c.workflows.all.at(r)
	if p.workflow == 0 {
		p.workflow = r
		w.pieces++
	}
	return w
}

// names notes a piece that names a user.
func (c *Correlator) names(p *piece) {
	w := c.workflow(p)
	c.bytes -= w.bytes()
	contested := w.contested()
	x := mention{p.start, p.end, p.id, p.span, p.parent, p.reporter, p.user, p.place}
	i, _ := slices.BinarySearchFunc(w.mentions, p, func(y mention, p *piece) int {
		return compare(&piece{start: y.start, id: y.id}, p)
	})
	if w.mentions = slices.Insert(w.mentions, i, x); len(w.mentions) > maxMentions {
		w.mentions = w.mentions[:maxMentions]
	}
	by := func(y mention) bool { return y.user == x.user }
	if slices.IndexFunc(w.mentions, by) == i {
		w.named = slices.DeleteFunc(w.named, func(n *named) bool { return n.user == x.user })
		w.named = append(w.named, &named{user: x.user, id: x.id, packed: string(c.queue.contentOf(p))})
	}
	w.named = slices.DeleteFunc(w.named, func(n *named) bool {
		return !slices.ContainsFunc(w.mentions, func(y mention) bool { return y.user == n.user })
	})
	c.bytes += w.bytes()
	if !contested && w.contested() {
		c.workflows.contested++
	} else if contested && !w.contested() {
		c.workflows.contested--
	}
}

// begins gives who set a trace going, nil if nobody is named: of those above whom
// no other is named the earliest.
func (c *Correlator) begins(t evidence.TraceID) *Initiator {
	w := c.workflows.all.at(c.workflows.of[t])
	if w == nil || len(w.named) == 0 {
		return nil
	}
	if !w.contested() {
		return w.named[0].initiator()
	}
	first, doubt := w.mentions[0], false
	found := false
	for i := range w.mentions {
		switch x := &w.mentions[i]; {
		case c.beneath(w, t, x):
		case !found:
			first, found = *x, true
		case x.user != first.user && x.start-first.start <= c.clocks() && (x.reporter == 0 || x.reporter != first.reporter):
			doubt = true
		}
	}
	n := w.named[slices.IndexFunc(w.named, func(n *named) bool { return n.user == first.user })]
	i := *n.initiator()
	i.Ambiguous = doubt || !found
	return &i
}

// maxAbove bounds the way up a trace.
const maxAbove = 64

// beneath says whether a mention is known to be beneath another user's: spans lead up
// to that, or a proxy made the call from within the one that it took.
func (c *Correlator) beneath(w *workflow, t evidence.TraceID, x *mention) bool {
	other := func(is func(y *mention) bool) bool {
		return slices.ContainsFunc(w.mentions, func(y mention) bool { return y.user != x.user && is(&y) })
	}
	if x.place.callee() && other(func(y *mention) bool { return y.span == x.span && y.span != evidence.SpanID{} && y.place.caller() }) {
		return true
	}
	node, above := x.span, x.parent
	for range maxAbove {
		var buf [8]*piece
		for _, p := range c.at(buf[:0], t, node) {
			if p.parent != (evidence.SpanID{}) && (above == evidence.SpanID{} || string(p.parent[:]) < string(above[:])) {
				above = p.parent
			}
			if p.place.caller() && p.reporter != 0 && other(func(y *mention) bool {
				return y.place.callee() && y.reporter == p.reporter && y.start <= p.start+rounding && p.end <= y.end+rounding
			}) {
				return true
			}
		}
		if above == (evidence.SpanID{}) {
			return false
		}
		if other(func(y *mention) bool { return y.span == above }) {
			return true
		}
		node, above = above, evidence.SpanID{}
	}
	return false
}

// forgetWorkflow drops a trace's state with its last piece.
func (c *Correlator) forgetWorkflow(p *piece) {
	w := c.workflows.all.at(p.workflow)
	if w.pieces--; w.pieces > 0 {
		return
	}
	for r := w.first; r != 0; r = c.actions.at(r).next {
		c.abandon(r)
	}
	c.bytes -= workflowBytes + w.bytes()
	if w.contested() {
		c.workflows.contested--
	}
	c.workflows.all.remove(p.workflow)
	delete(c.workflows.of, p.trace)
}

func (n *named) initiator() *Initiator {
	if i := n.cached.Load(); i != nil {
		return i
	}
	var e evidence.Evidence
	if err := unpack(n.packed, &e, new(ids)); err != nil {
		panic(err) // we packed it
	}
	e.ID = n.id
	i := initiatorOf(&e, Inherited)
	n.cached.Store(i) // two workers may do so; they say the same
	return i
}

func initiatorOf(e *evidence.Evidence, derived string) *Initiator {
	i := &Initiator{ID: e.User, Derived: derived, Evidence: e.ID}
	if e.Actor != nil {
		i.Roles, i.Delegation = e.Actor.Roles, e.Actor.Delegation
	}
	return i
}

// initiator tells who set off the action of r, as far as is known now.
func (c *Correlator) initiator(r *Record, all []statement) *Initiator {
	if r.Act != nil {
		return nil // no call; its actor acts himself
	}
	first := c.begins(r.TraceID)
	for _, s := range all {
		if s.User != "" && (first == nil || s.User == first.ID) {
			i := initiatorOf(s.Evidence, Carried)
			i.Ambiguous = first != nil && first.Ambiguous
			return i
		}
	}
	return first
}

// remember keeps a record that has left with its trace.
func (c *Correlator) remember(r ref, j *joined) {
	var in *piece
	j.all(func(m member) {
		if in == nil && m.trace != (evidence.TraceID{}) {
			in = m.piece
		}
	})
	if in != nil && j.slots[observed] == nil {
		c.left(r, in)
	}
}

// left keeps a record of p's trace with it.
func (c *Correlator) left(r ref, p *piece) {
	w := c.workflow(p)
	c.actions.at(r).traced = true
	if w.records == maxLeft {
		return
	}
	if w.records++; w.first == 0 {
		w.first = r
	} else {
		c.actions.at(w.last).next = r
	}
	w.last = r
	c.actions.at(r).users++
}

// inherit amends the records of p's trace that left before it was known who
// set the trace going. A piece that names a user, or tells which of several is above
// the others, has had time to meet others.
func (c *Correlator) inherit(p *piece) {
	w := c.workflows.all.at(c.workflows.of[p.trace])
	if w == nil || p.user == 0 && !w.contested() {
		return
	}
	i := c.begins(p.trace)
	if i == nil {
		return
	}
	who := c.hash.initiator(i)
	for r := w.first; r != 0; {
		a := c.actions.at(r)
		if a.draft != 0 || a.awaits(who) {
			c.draft(r, draft{
				amends: true, what: "initiator", because: i.Evidence, trace: p.trace, initiator: i,
				state: a.state, reason: a.reason,
			})
		}
		r = a.next
	}
}
