package correlate

import (
	"container/list"
	"crypto/sha256"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// Config of a Correlator. All durations are of the clock that Add and Advance
// are given.
type Config struct {
	Window     time.Duration // from an action's first piece to its record
	LateWindow time.Duration // after that, evidence still amends the record
	// Settle is how long a piece waits for others of its action before an
	// expectation that is met lets the record leave. 0: at once, and what
	// comes a moment later is an amendment.
	Settle          time.Duration
	ClockSkew       time.Duration // between two nodes, either way
	MaxPending      int           // pieces that wait for their record, and so actions
	MaxPendingBytes int           // all that is kept, records not yet taken included

	// What a record is expected to hold. A decision that the callee's report
	// names by id is always expected.
	ExpectCallee, ExpectCaller, ExpectVerdict bool
}

// action is what is kept of a record that has left: to what late evidence
// belongs, and what it is compared with.
type action struct {
	id                            RecordID
	members                       []evidence.ID
	callee                        bool // has the callee's report
	source, destination           spiffeid.ID
	sourceProof, destinationProof evidence.Proof
	decided                       evidence.Decision
	initiator                     string
	start                         int64
	recovered                     bool // of before a restart: what else was known then is not
	state                         State
	reason                        string
}

func (a *action) has(id evidence.ID) bool {
	for i := range a.members {
		if a.members[i] == id {
			return true
		}
	}
	return false
}

// Stats counts what a correlator did since it was made; Pending* and Bytes are
// what it holds now.
type Stats struct {
	Evidence   uint64 // pieces taken, duplicates not included
	Duplicates uint64 // pieces that were known already
	Unrelated  uint64 // pieces that tell of no call
	Unjoined   uint64 // interim reports whose final one did not come
	LeftEarly  uint64 // actions that left because of a bound
	Forgotten  uint64 // pieces forgotten before their late window was over
	Dropped    uint64 // records dropped because they could not be handed over
	Pending    int    // pieces that wait for their record
	Kept       int    // all pieces, those that wait for late evidence included
	Ready      int    // records that wait to be taken
	Bytes      int
}

// Correlator joins evidence into records. It is safe for concurrent use.
type Correlator struct {
	cfg  Config
	hash hasher

	delivering sync.Mutex // held while records are handed over: keeps their order

	mu         sync.Mutex // guards all below
	index      index
	workflows  map[evidence.TraceID]*workflow
	now        int64
	recovering bool                 // nothing leaves: what has left before is not yet known
	recovered  map[RecordID]*action // while recovering

	// The queue of pieces in order of arrival, and the first piece that has
	// not settled and that has not reached its deadline.
	oldest, newest, unsettled, undue *piece

	ready      list.List // of *Record
	readyBytes int
	queueBytes int
	stats      Stats
}

// New makes a correlator. cfg must be valid: positive bounds and windows.
func New(cfg Config) *Correlator {
	return &Correlator{cfg: cfg, hash: newHasher(cfg.ClockSkew), index: make(index), workflows: make(map[evidence.TraceID]*workflow)}
}

// Add takes evidence that is sealed, at the time now. Its content is copied.
// Records that are due become ready.
func (c *Correlator) Add(now time.Time, batch []evidence.Evidence) {
	// Hashing and packing need no lock.
	pieces := make([]*piece, 0, len(batch))
	var scratch []byte
	for i := range batch {
		e := &batch[i]
		at := placeOf(e)
		if at == noPlace {
			continue
		}
		p := c.hash.newPiece(e, at)
		p.packed, scratch = packed(scratch, e)
		pieces = append(pieces, p)
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = max(c.now, now.UnixNano())
	c.stats.Unrelated += uint64(len(batch) - len(pieces))
	for _, p := range pieces {
		if c.find(p.id) != nil {
			c.stats.Duplicates++
			continue
		}
		c.insert(p)
	}
	c.advance()
}

func (c *Correlator) find(id evidence.ID) *piece {
	q := c.index[c.hash.id(id)]
	for q != nil && q.id != id {
		q = q.chain[byID]
	}
	return q
}

func (c *Correlator) insert(p *piece) {
	p.arrived = c.now
	c.index.insert(byID, c.hash.id(p.id), p)
	for i, key := range p.keys {
		c.index.insert(lookup(i+1), key, p)
	}
	if c.newest == nil {
		c.oldest = p
	} else {
		c.newest.next = p
	}
	c.newest = p
	if c.unsettled == nil {
		c.unsettled = p
	}
	if c.undue == nil {
		c.undue = p
	}
	c.stats.Evidence++
	c.stats.Pending++
	c.stats.Kept++
	c.queueBytes += p.bytes()
	if p.user {
		c.names(p)
	}
}

// Advance moves time to now; records that are due become ready.
func (c *Correlator) Advance(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = max(c.now, now.UnixNano())
	c.advance()
}

// Flush lets everything leave that waits, complete or as partial with reason
// shutdown.
func (c *Correlator) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.undue != nil {
		c.due(ReasonShutdown)
	}
}

// Stats returns the counters.
func (c *Correlator) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Ready = c.ready.Len()
	s.Bytes = c.queueBytes + c.readyBytes
	return s
}

// advance moves the three cursors, then enforces the bounds.
func (c *Correlator) advance() {
	if c.recovering {
		// The oldest have most likely left before the restart.
		for c.stats.Pending > c.cfg.MaxPending || c.queueBytes > c.cfg.MaxPendingBytes {
			if c.undue == c.oldest {
				c.undue = c.oldest.next
			}
			c.claim(c.oldest)
			c.forget()
			c.stats.Forgotten++
		}
		return
	}
	for c.unsettled != nil && c.unsettled.arrived+int64(c.cfg.Settle) <= c.now {
		p := c.unsettled
		c.unsettled = p.next
		c.settled(p)
	}
	for c.undue != nil && c.undue.arrived+int64(c.cfg.Window) <= c.now {
		c.due(ReasonDeadline)
	}
	for c.oldest != nil && c.oldest != c.undue && c.oldest.arrived+int64(c.cfg.Window+c.cfg.LateWindow) <= c.now {
		c.forget()
	}
	for c.stats.Pending > c.cfg.MaxPending {
		c.due(ReasonOverload)
	}
	for c.queueBytes+c.readyBytes > c.cfg.MaxPendingBytes {
		switch {
		case c.oldest != nil && c.oldest != c.undue:
			c.forget()
			c.stats.Forgotten++
		case c.undue != nil:
			c.due(ReasonOverload)
		case c.ready.Len() > 0:
			c.readyBytes -= c.ready.Remove(c.ready.Front()).(*Record).bytes()
			c.stats.Dropped++
		default:
			return
		}
	}
}

// settled looks at a piece that had time to meet the others: its actions leave if
// they hold what is expected, and those that have left are amended.
func (c *Correlator) settled(p *piece) {
	if p.user {
		defer c.inherit(p)
	}
	if p.claimed && p.place.callee() {
		return // a caller's piece may belong to a second attempt, which has left
	}
	var buf [4]*piece
	for _, lead := range c.leads(buf[:0], p) {
		if lead.action != nil && lead.action.has(p.id) {
			continue
		}
		j := c.gather(lead)
		if j != nil && (c.actionOf(j) != nil || c.met(j)) {
			c.leave(j, "")
		}
	}
}

// due takes the oldest piece whose deadline has not come and lets its actions
// leave as they are.
func (c *Correlator) due(reason string) {
	p := c.undue
	if c.unsettled == p {
		c.unsettled = p.next
		if p.user {
			defer c.inherit(p)
		}
	}
	c.undue = p.next
	waited := !p.claimed
	if waited && p.lone && c.finalOf(p) == nil {
		p.final = true // nothing more came
	}
	if waited || !p.place.callee() {
		var buf [4]*piece
		for _, lead := range c.leads(buf[:0], p) {
			if lead.action != nil && lead.action.has(p.id) {
				continue
			}
			if j := c.gather(lead); j != nil {
				c.leave(j, reason)
			}
		}
	}
	if waited && !p.claimed && (p.final || p.place == decision) {
		j := &joined{confidence: 1, doubt: true} // no action takes what leads to it
		j.set(p, TierNone)
		c.leave(j, reason)
	}
	if waited && reason == ReasonOverload {
		c.stats.LeftEarly++
	}
	if waited && !p.claimed {
		// Its final report may come as late as a stream is long.
		c.stats.Unjoined++
		c.claim(p)
		return
	}
	// Others of its action had their chance: the content is not needed again.
	c.queueBytes -= len(p.packed)
	p.packed = ""
}

func (c *Correlator) claim(p *piece) {
	if !p.claimed {
		p.claimed = true
		c.stats.Pending--
	}
}

// forget drops the oldest piece, which has left.
func (c *Correlator) forget() {
	p := c.oldest
	c.oldest = p.next
	if c.oldest == nil {
		c.newest = nil
	}
	if c.unsettled == p {
		c.unsettled = p.next
	}
	c.index.remove(byID, c.hash.id(p.id), p)
	for i, key := range p.keys {
		c.index.remove(lookup(i+1), key, p)
	}
	if p.inWorkflow {
		c.forgetWorkflow(p)
	}
	c.stats.Kept--
	c.queueBytes -= p.bytes()
}

// met says whether all that is expected is there.
func (c *Correlator) met(j *joined) bool {
	if p := j.slots[observed]; p != nil {
		return p.final
	}
	callee := j.calleeLead()
	if c.cfg.ExpectCallee && callee == nil {
		return false
	}
	if c.cfg.ExpectCaller && j.slots[callerLog] == nil && j.slots[callerProxy] == nil && j.slots[callerApp] == nil {
		return false
	}
	if log := j.slots[calleeLog]; log != nil && log.lone {
		return false
	}
	if log := j.slots[calleeLog]; log != nil && log.keys[byDecision-1] != 0 && j.slots[decision] == nil {
		return false
	}
	if c.cfg.ExpectVerdict {
		verdict := false
		j.all(func(m member) { verdict = verdict || m.place == decision || m.verdict })
		return verdict
	}
	return true
}

// actionOf finds the record that j's pieces have left with. A record that
// left without the callee's report takes the first that comes.
func (c *Correlator) actionOf(j *joined) *action {
	for _, at := range [...]place{calleeLog, calleeProxy, calleeApp} {
		if p := j.slots[at]; p != nil && p.action != nil {
			return p.action
		}
	}
	callee := j.calleeLead() != nil
	for _, at := range [...]place{callerLog, callerProxy, callerApp, decision, observed} {
		if p := j.slots[at]; p != nil && p.action != nil && !(callee && p.action.callee) {
			return p.action
		}
	}
	if j.slots[observed] != nil {
		for _, m := range j.more { // an earlier stage may have left as the record
			if m.action != nil {
				return m.action
			}
		}
	}
	return nil
}

// leave makes j's record, or amends it with what is new. reason is "" if the
// expectation is met.
func (c *Correlator) leave(j *joined, reason string) {
	a := c.actionOf(j)
	r := &Record{State: Complete}
	var all []statement
	tier, gone := TierNone, false
	j.all(func(m member) {
		if m.tier > tier {
			tier = m.tier
		}
		if a != nil && a.has(m.id) {
			return
		}
		if m.packed == "" {
			gone = true // with the record of another attempt, which cites it
			return
		}
		e := &evidence.Evidence{
			ID: m.id, Start: m.start, End: m.end, TraceID: m.trace, SpanID: m.span,
			ParentSpanID: m.parent, SpanKind: m.spanKind,
		}
		if err := unpack(m.packed, e); err != nil {
			panic(err) // we packed it
		}
		e.Role = m.place.role()
		e.Final = m.final
		all = append(all, statement{e, m.place, m.tier})
	})
	if len(all) == 0 {
		return
	}
	if d := j.slots[decision]; d != nil && d.action != nil && d.action != a {
		// Another record has it. Only one that names it can be sure of it.
		c.doubt(d.action, d)
		j.doubt = j.doubt || j.tiers[decision] != TierDecisionID
	}
	j.doubt = j.doubt || a != nil && c.replaced(a, j)
	merge(r, all, a)
	r.Initiator = c.initiator(r, all)
	r.Join.Method, r.Join.Confidence = tier, j.confidence
	switch {
	case j.doubt:
		r.State, r.Reason = Ambiguous, ReasonCandidates
		r.Join.Confidence /= 2
	case gone || !c.met(j):
		r.State, r.Reason = Partial, reason
		if reason == "" {
			r.Reason = ReasonDeadline // an amendment that does not complete it
		}
	}
	if a == nil {
		r.EventName = eventName(all)
		r.ID = recordID(all[0].ID)
		a = &action{id: r.ID, start: r.Start}
		c.remember(a, j)
	} else {
		r.EventName = semconv.EventAmendment
		r.Amends = a.id
		r.ID = amendmentID(a.id, all)
	}
	a.note(r)
	c.adopt(a, j)
	c.emit(r)
	c.contest(a, j)
}

// replaced says whether a cites what would not join it now.
func (c *Correlator) replaced(a *action, j *joined) bool {
	if len(j.more) == maxMore {
		return false // perhaps it was left out
	}
	for _, id := range a.members {
		if c.find(id) == nil {
			continue
		}
		in := false
		j.all(func(m member) { in = in || m.id == id })
		if !in {
			return true
		}
	}
	return false
}

// doubt amends a record that has left as ambiguous, because of a piece.
func (c *Correlator) doubt(a *action, p *piece) {
	if a.state == Ambiguous {
		return
	}
	a.state, a.reason = Ambiguous, ReasonCandidates
	r := a.amendment("doubt", p.id)
	r.TraceID = p.trace
	c.emit(r)
}

func (c *Correlator) emit(r *Record) {
	c.ready.PushBack(r)
	c.readyBytes += r.bytes()
}

// amendment makes one of a that adds no evidence.
func (a *action) amendment(what string, because evidence.ID) *Record {
	h := sha256.New()
	h.Write([]byte(what))
	h.Write(a.id[:])
	h.Write(because[:])
	r := &Record{
		EventName: semconv.EventAmendment, ID: RecordID(h.Sum(nil)), Amends: a.id,
		Start: a.start, End: a.start, State: a.state, Reason: a.reason,
	}
	r.Source.ID, r.Source.Proof = a.source, a.sourceProof
	r.Destination.ID, r.Destination.Proof = a.destination, a.destinationProof
	r.Join.Confidence = 1
	return r
}

// otherwise says whether two records are of other parties.
func (a *action) otherwise(b *action) bool {
	return a.source != b.source && !a.source.IsZero() && !b.source.IsZero() ||
		a.destination != b.destination && !a.destination.IsZero() && !b.destination.IsZero()
}

// maxContested bounds the records that one more is compared with.
const maxContested = 16

// contest amends as ambiguous what has left in no doubt and would not now: records
// of the same request or trace, method and path, whose evidence j's contests.
func (c *Correlator) contest(own *action, j *joined) {
	var buf, leads [8]*piece
	var seen [maxContested]*action
	looked := 0
	for _, at := range [...]place{calleeLog, calleeProxy, callerLog, decision} {
		p := j.slots[at]
		if p == nil {
			continue
		}
		for _, kind := range [...]lookup{byRequest, byTrace} {
			for _, q := range c.sharing(buf[:0], kind, p) {
				a := q.action
				if a == nil || a == own || a.state == Ambiguous || a.otherwise(own) || slices.Contains(seen[:looked], a) {
					continue
				}
				if looked == maxContested {
					return
				}
				seen[looked] = a
				looked++
				for _, lead := range c.leads(leads[:0], q) {
					if now := c.gather(lead); now != nil && lead.action == a && (now.doubt || c.replaced(a, now)) {
						c.doubt(a, p)
					}
				}
			}
		}
	}
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

// note keeps of a record what late evidence is compared with.
func (a *action) note(r *Record) {
	if !r.Source.ID.IsZero() {
		a.source, a.sourceProof = r.Source.ID, r.Source.Proof
	}
	if !r.Destination.ID.IsZero() {
		a.destination, a.destinationProof = r.Destination.ID, r.Destination.Proof
	}
	if r.Verdict != nil {
		a.decided = r.Verdict.Decision
	}
	if r.Initiator != nil {
		a.initiator = r.Initiator.ID
	}
	a.state, a.reason = r.State, r.Reason
}

// adopt makes j's pieces parts of a: what is only its own names it, and all
// have left.
func (c *Correlator) adopt(a *action, j *joined) {
	callee := j.calleeLead() != nil
	a.callee = a.callee || callee
	j.all(func(m member) {
		if !a.has(m.id) && m.packed != "" {
			a.members = append(a.members, m.id)
		}
		if m.place.callee() || m.place == decision || !callee && (m.place.caller() || m.piece == j.lead()) {
			m.action = a
		}
		c.claim(m.piece)
	})
}

// BeginRecovery holds everything back until EndRecovery: evidence from before
// a restart is added, and Recover tells what became of it.
func (c *Correlator) BeginRecovery() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.recovering, c.recovered = true, make(map[RecordID]*action)
}

// EndRecovery lets records leave again.
func (c *Correlator) EndRecovery(now time.Time) {
	c.mu.Lock()
	c.recovering, c.recovered = false, nil
	c.mu.Unlock()
	c.Advance(now)
}

// Past is a record that was out before a restart, or an amendment of one.
type Past struct {
	ID        RecordID // the record's
	Callee    bool     // it has the callee's report
	Cites     []evidence.ID
	State     State
	Reason    string
	Initiator string // the user's id, "" if it names none
}

// Recover tells of a record that is out already, before a restart: the pieces it
// cites, as far as they were added again, have left with it. If it names no
// initiator, one who becomes known amends it.
func (c *Correlator) Recover(past Past) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.recovered[past.ID]
	if a == nil {
		a = &action{id: past.ID, recovered: true}
		c.recovered[past.ID] = a
	}
	a.callee = a.callee || past.Callee
	a.state, a.reason = past.State, past.Reason
	if past.Initiator != "" {
		a.initiator = past.Initiator
	}
	for _, e := range past.Cites {
		p := c.find(e)
		if p == nil {
			continue
		}
		if !a.has(e) {
			a.members = append(a.members, e)
		}
		if p.place.callee() || !a.callee {
			p.action = a
		}
		if a.start == 0 && p.trace != (evidence.TraceID{}) && p.place != observed {
			a.start = p.start
			c.left(a, p)
		}
		c.claim(p)
	}
}

// Deliver hands ready records to send, at most limit at a time and in order,
// until there are none or send fails; then the records that it did not take are
// kept for the next time, within the same bound. It returns how many were
// taken. send is called without locks held.
func (c *Correlator) Deliver(limit int, send func([]*Record) error) (int, error) {
	c.delivering.Lock()
	defer c.delivering.Unlock()
	for taken := 0; ; {
		batch := c.take(limit)
		if len(batch) == 0 {
			return taken, nil
		}
		if err := send(batch); err != nil {
			c.putBack(batch)
			return taken, err
		}
		taken += len(batch)
	}
}

func (c *Correlator) take(limit int) []*Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	var batch []*Record
	for len(batch) < limit && c.ready.Len() > 0 {
		r := c.ready.Remove(c.ready.Front()).(*Record)
		c.readyBytes -= r.bytes()
		batch = append(batch, r)
	}
	return batch
}

func (c *Correlator) putBack(batch []*Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(batch) - 1; i >= 0; i-- {
		c.ready.PushFront(batch[i])
		c.readyBytes += batch[i].bytes()
	}
	c.advance()
}

func itoa(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}
