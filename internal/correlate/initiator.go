package correlate

import "github.com/meshaudit/meshaudit/internal/evidence"

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
	pieces int
	start  int64       // of the earliest piece that names a user
	id     evidence.ID // its id, zero if there is none yet
	packed string      // its content, which outlives the piece
	left   []*action
	cached *Initiator // of packed
}

// workflowBytes is a workflow's cost beyond packed: the struct, its map entry, and
// a few records.
const workflowBytes = 96 + 40 + 64

func (w *workflow) bytes() int { return workflowBytes + len(w.packed) }

// workflow finds or makes that of a trace, for one more piece.
func (c *Correlator) workflow(p *piece) *workflow {
	w := c.workflows[p.trace]
	if w == nil {
		w = new(workflow)
		c.workflows[p.trace] = w
		c.queueBytes += w.bytes()
	}
	if !p.inWorkflow {
		p.inWorkflow = true
		w.pieces++
	}
	return w
}

// names notes a piece that names a user.
func (c *Correlator) names(p *piece) {
	w := c.workflow(p)
	first := piece{start: w.start, id: w.id}
	if w.id == (evidence.ID{}) || p.before(&first) {
		c.queueBytes += len(p.packed) - len(w.packed)
		w.start, w.id, w.packed, w.cached = p.start, p.id, p.packed, nil
	}
}

// forgetWorkflow drops a trace's state with its last piece.
func (c *Correlator) forgetWorkflow(p *piece) {
	w := c.workflows[p.trace]
	if w.pieces--; w.pieces == 0 {
		c.queueBytes -= w.bytes()
		delete(c.workflows, p.trace)
	}
}

func (w *workflow) initiator() *Initiator {
	if w.cached == nil && w.packed != "" {
		var e evidence.Evidence
		if err := unpack(w.packed, &e); err != nil {
			panic(err) // we packed it
		}
		e.ID = w.id
		w.cached = initiatorOf(&e, Inherited)
	}
	return w.cached
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
	if w := c.workflows[r.TraceID]; w != nil {
		first = w.initiator()
	}
	for _, s := range all {
		if s.User != "" && (first == nil || s.User == first.ID) {
			return initiatorOf(s.Evidence, Carried)
		}
	}
	return first
}

// remember keeps a record that has left with its trace.
func (c *Correlator) remember(a *action, j *joined) {
	var in *piece
	j.all(func(m member) {
		if in == nil && m.trace != (evidence.TraceID{}) {
			in = m.piece
		}
	})
	if in != nil && j.slots[observed] == nil {
		c.left(a, in)
	}
}

// left keeps a record of p's trace with it.
func (c *Correlator) left(a *action, p *piece) {
	if w := c.workflow(p); len(w.left) < maxLeft {
		w.left = append(w.left, a)
	}
}

// inherit amends the records of p's trace that left before it was known who
// set the trace going. A piece that names a user has had time to meet others.
func (c *Correlator) inherit(p *piece) {
	w := c.workflows[p.trace]
	if w == nil || c.recovering {
		return
	}
	i := w.initiator()
	for _, a := range w.left {
		// What a record from before a restart names may rest on evidence that
		// was not read again.
		if a.initiator == i.ID || a.recovered && a.initiator != "" {
			continue
		}
		a.initiator = i.ID
		r := a.amendment("initiator", i.Evidence)
		r.TraceID, r.Initiator = p.trace, i
		c.emit(r)
	}
}
