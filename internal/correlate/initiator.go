package correlate

import (
	"sync/atomic"
	"unsafe"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// Initiator is who set a trace going: the user whom its earliest statement of
// a user names, the entry hop's. Other hops inherit him.
type Initiator struct {
	ID         string
	Roles      []string
	Delegation []evidence.Delegate
	// Derived says how this hop is his: Carried, a token or the like on this
	// very hop names him, or Inherited through the trace, which anybody who
	// forwards its id can join.
	Derived  string
	Evidence evidence.ID // that names him
}

const (
	Carried   = "carried"
	Inherited = "inherited"
)

// maxLeft bounds the records of one trace that a later, earlier beginning
// amends.
const maxLeft = 64

// workflow is what is known of one trace: who began it, and the records that
// have left. It lives as long as a piece that names a user, or leads one of those
// records, is kept.
type workflow struct {
	named       *named // nil: nobody
	pieces      uint32
	left        uint32 // how many records have
	first, last ref    // of their actions
}

// named is the earliest statement of a user in a trace. Its content outlives the
// piece.
type named struct {
	start  int64
	id     evidence.ID
	packed string
	cached atomic.Pointer[Initiator] // of packed
}

// workflows finds them by trace.
type workflows struct {
	of  map[evidence.TraceID]ref
	all arena[workflow]
}

// workflowBytes is a workflow's cost: itself and its map entry, in a map that is
// half full.
const workflowBytes = int(unsafe.Sizeof(workflow{})) + 40

func (n *named) bytes() int {
	if n == nil {
		return 0
	}
	return int(unsafe.Sizeof(*n)) + len(n.packed)
}

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
	if w.named != nil && !p.before(&piece{start: w.named.start, id: w.named.id}) {
		return
	}
	c.bytes -= w.named.bytes()
	w.named = &named{start: p.start, id: p.id, packed: string(c.queue.contentOf(p))}
	c.bytes += w.named.bytes()
}

// forgetWorkflow drops a trace's state with its last piece.
func (c *Correlator) forgetWorkflow(p *piece) {
	w := c.workflows.all.at(p.workflow)
	if w.pieces--; w.pieces > 0 {
		return
	}
	for r := w.first; r != 0; r = c.actions.at(r).left {
		c.abandon(r)
	}
	c.bytes -= workflowBytes + w.named.bytes()
	c.workflows.all.remove(p.workflow)
	delete(c.workflows.of, p.trace)
}

// initiator is nil if nobody was named.
func (n *named) initiator() *Initiator {
	if n == nil {
		return nil
	}
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
	var first *Initiator
	if w := c.workflows.all.at(c.workflows.of[r.TraceID]); w != nil {
		first = w.named.initiator()
	}
	for _, s := range all {
		if s.User != "" && (first == nil || s.User == first.ID) {
			return initiatorOf(s.Evidence, Carried)
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
	if w.left == maxLeft {
		return
	}
	if w.left++; w.first == 0 {
		w.first = r
	} else {
		c.actions.at(w.last).left = r
	}
	w.last = r
	c.actions.at(r).users++
}

// inherit amends the records of p's trace that left before it was known who
// set the trace going. A piece that names a user has had time to meet others.
func (c *Correlator) inherit(p *piece) {
	if p.workflow == 0 {
		return
	}
	w := c.workflows.all.at(p.workflow)
	i := w.named.initiator()
	who := c.hash.initiator(i.ID)
	for r := w.first; r != 0; {
		a := c.actions.at(r)
		if a.draft != 0 || a.awaits(who) {
			c.draft(r, draft{
				amends: true, what: "initiator", because: i.Evidence, trace: p.trace, initiator: i,
				state: a.state, reason: a.reason,
			})
		}
		r = a.left
	}
}
