package correlate

import (
	"crypto/sha256"
	"slices"
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// draft is a record that is to be written.
type draft struct {
	action ref
	amends bool
	next   uint32 // the next draft of the same action: its number and one
	state  State
	reason string

	joined *joined
	cites  []citation

	// Of an amendment that adds no evidence: "doubt", or "initiator" and who
	// that is; and the evidence because of which it is made.
	what      string
	because   evidence.ID
	trace     evidence.TraceID
	initiator *Initiator

	record *Record
}

// citation is a piece that a record cites, with its content.
type citation struct {
	*piece
	tier    Tier
	content []byte
}

// drafts of a pass, in the order in which their records leave.
type drafts struct {
	all   []draft
	first []uint32 // of each action: its number
	cites []citation
	desks [maxWorkers]desk
}

// draft adds what is to be written of the action r. It waits for the action's
// draft before.
func (c *Correlator) draft(r ref, d draft) {
	n := uint32(len(c.drafts.all))
	a := c.actions.at(r)
	if a.draft == 0 {
		c.drafts.first = append(c.drafts.first, n)
	} else {
		c.drafts.all[a.draft-1].next = n + 1
	}
	a.draft = n + 1
	d.action = r
	c.drafts.all = append(c.drafts.all, d)
}

// write makes the records of all drafts. Those of one action follow each other:
// each is compared with what the ones before said.
func (c *Correlator) write() {
	d := &c.drafts
	c.workers.do(len(d.first), func(worker, i, end int) {
		for ; i < end; i++ {
			c.records(d.first[i], &d.desks[worker])
		}
	})
	c.ready.add(d.all)
	for i := range d.all {
		c.actions.at(d.all[i].action).draft = 0
	}
	clear(d.all)
	clear(d.cites)
	d.all, d.first, d.cites = d.all[:0], d.first[:0], d.cites[:0]
	c.ahead.clear()
	c.queue.release(c.undue)
	c.bury()
}

// records writes the drafts of one action, of which n is the first.
func (c *Correlator) records(n uint32, w *desk) {
	for d := &c.drafts.all[n]; ; d = &c.drafts.all[d.next-1] {
		c.record(d, w)
		if d.next == 0 {
			return
		}
	}
}

// desk is where a worker writes records, one after the other.
type desk struct {
	evidence   []evidence.Evidence
	statements []statement
	content    []byte
	ids        ids
}

// read unpacks what a record cites. What it gives is valid until the next; but
// strings, and what pointers lead to, may be kept.
func (w *desk) read(cites []citation) []statement {
	w.content = w.content[:0]
	for _, m := range cites {
		w.content = append(w.content, m.content...)
	}
	content := string(w.content)
	w.evidence = slices.Grow(w.evidence[:0], len(cites))[:len(cites)]
	clear(w.evidence)
	w.statements, w.ids.list = w.statements[:0], w.ids.list[:0]
	for i, m := range cites {
		e := &w.evidence[i]
		e.ID, e.Start, e.End, e.Role = m.id, m.start, m.end, m.place.role()
		e.TraceID, e.SpanID, e.ParentSpanID, e.SpanKind = m.trace, m.span, m.parent, m.spanKind
		if err := unpack(content[:len(m.content)], e, &w.ids); err != nil {
			panic(err) // we packed it
		}
		content = content[len(m.content):]
		e.Final = m.final
		w.statements = append(w.statements, statement{e, m.place, m.tier})
	}
	return w.statements
}

// record writes the record of a draft, if it says anything.
func (c *Correlator) record(d *draft, w *desk) {
	a := c.actions.at(d.action)
	if d.joined == nil {
		d.record = c.amendment(a, d)
		return
	}
	r := &Record{State: d.state, Reason: d.reason}
	all := w.read(d.cites)
	if d.amends {
		merge(r, all, &a.stated)
	} else {
		merge(r, all, nil)
	}
	r.Initiator = c.initiator(r, all)
	j := d.joined
	j.all(func(m member) { r.Join.Method = max(r.Join.Method, m.tier) })
	r.Join.Confidence = j.confidence
	if d.state == Ambiguous {
		r.Join.Confidence /= 2
	}
	if d.amends {
		r.EventName = semconv.EventAmendment
		r.Amends = a.id
		r.ID = amendmentID(a.id, all)
	} else {
		r.EventName = eventName(all)
		r.ID = recordID(all[0].ID)
		a.id = r.ID
	}
	c.note(a, r, w)
	d.record = r
}

// amendment makes one that adds no evidence, nil if it says nothing new.
func (c *Correlator) amendment(a *action, d *draft) *Record {
	s := &a.stated
	if d.initiator != nil {
		who := c.hash.initiator(d.initiator)
		if !a.awaits(who) {
			return nil
		}
		s.initiator = who
	}
	h := sha256.New()
	h.Write([]byte(d.what))
	if d.initiator != nil && d.initiator.Ambiguous {
		h.Write([]byte(" ambiguous"))
	}
	h.Write(a.id[:])
	h.Write(d.because[:])
	r := &Record{
		EventName: semconv.EventAmendment, ID: RecordID(h.Sum(nil)), Amends: a.id,
		Start: a.start, End: a.start, TraceID: d.trace, State: d.state, Reason: d.reason, Initiator: d.initiator,
	}
	r.Source.ID, r.Source.Proof = value(s.source), s.sourceProof
	r.Destination.ID, r.Destination.Proof = value(s.destination), s.destinationProof
	r.Join.Confidence = 1
	r.Upshot.Ambiguous = d.state == Ambiguous
	r.Fold(s.upshot)
	s.upshot = r.Upshot
	return r
}

// note keeps of a record what late evidence is compared with.
func (c *Correlator) note(a *action, r *Record, w *desk) {
	k := &a.stated
	if id := r.Source.ID; !id.IsZero() {
		k.source, k.sourceProof = w.ids.shared(id), r.Source.Proof
	}
	if id := r.Destination.ID; !id.IsZero() {
		k.destination, k.destinationProof = w.ids.shared(id), r.Destination.Proof
	}
	if v := r.Verdict; v != nil && (k.decided == "" || v.Enforced || k.dryRun) {
		if v.Decision != k.decided {
			k.decided = evidence.Decision(strings.Clone(string(v.Decision)))
		}
		k.dryRun = !v.Enforced
	}
	if r.Initiator != nil {
		k.initiator = c.hash.initiator(r.Initiator)
	}
	r.Fold(k.upshot)
	k.upshot = r.Upshot
}

// eventName is what the strongest statement that says more than "a request"
// is about.
func eventName(all []statement) string {
	if all[0].place == decision {
		return semconv.EventAuthz
	}
	for _, s := range all {
		if s.Event != evidence.EventRequest {
			return s.Event.String()
		}
	}
	return semconv.EventRequest
}
