package correlate

import (
	"runtime"
	"sync"
	"time"

	"github.com/meshaudit/meshaudit/internal/evidence"
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
	ClockSkew       time.Duration // by which a node's clock may be off, either way
	MaxPending      int           // pieces that wait for their record, and so actions
	MaxPendingBytes int           // all that is kept, records not yet taken included

	// What a record is expected to hold. A decision that the callee's report
	// names by id is always expected.
	ExpectCallee, ExpectCaller, ExpectVerdict bool
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
	cfg   Config
	hash  hasher
	inbox inbox  // evidence that nobody has looked at yet
	ready outbox // records that wait to be taken

	// Whoever holds mu makes passes over what is in the inbox; see pass.go.
	mu        sync.Mutex // guards all below
	queue     queue
	index     index
	actions   arena[action]
	workflows workflows
	now       int64
	past      past

	// The first piece of the queue that has not settled, and the first that
	// has not reached its deadline, which is never behind that.
	unsettled, undue uint64

	ahead   outlook
	drafts  drafts
	parcels []*parcel
	orphans []ref // actions that nothing points to any more
	workers workers

	bytes int // all but ready records
	stats Stats
}

// New makes a correlator. cfg must be valid: positive bounds and windows.
func New(cfg Config) *Correlator {
	c := &Correlator{cfg: cfg, hash: newHasher(cfg.ClockSkew), queue: newQueue(), unsettled: 1, undue: 1}
	c.index.queue = &c.queue
	c.inbox.init()
	c.ready.away = make(map[RecordID]bool)
	c.workers = workers{n: min(runtime.GOMAXPROCS(0), maxWorkers), share: minShare}
	c.workflows.of = make(map[evidence.TraceID]ref)
	return c
}

// Add takes evidence that is sealed, at the time now. Its content is copied.
// Records that are due become ready. If somebody else is at work Add does not
// wait, unless much evidence does already: it is looked at next, and Advance does
// not return before.
func (c *Correlator) Add(now time.Time, batch []evidence.Evidence) {
	c.add(c.hash.parcel(now, batch, nil))
}

func (c *Correlator) add(p *parcel) {
	c.inbox.put(p)
	c.work()
}

// work makes a pass, unless somebody holds mu: he calls unlock.
func (c *Correlator) work() {
	if c.mu.TryLock() {
		c.pass(c.now)
		c.unlock()
	}
}

// unlock lets go of mu, and has somebody look at what came meanwhile.
func (c *Correlator) unlock() {
	c.mu.Unlock()
	if c.inbox.waiting() {
		go c.work()
	}
}

// Advance moves time to now; records that are due become ready.
func (c *Correlator) Advance(now time.Time) {
	c.mu.Lock()
	defer c.unlock()
	c.pass(now.UnixNano())
}

// Flush lets everything leave that waits, complete or as partial with reason
// shutdown.
func (c *Correlator) Flush() {
	c.mu.Lock()
	defer c.unlock()
	c.pass(c.now)
	c.along(&c.undue, c.queue.end, func() { c.due(ReasonShutdown) })
}

// Stats returns the counters.
func (c *Correlator) Stats() Stats {
	c.mu.Lock()
	defer c.unlock()
	s := c.stats
	var bytes int
	s.Ready, bytes = c.ready.size()
	s.Bytes = c.bytes + bytes
	return s
}

// Past is a record that was out before a restart, or an amendment of one.
type Past struct {
	ID        RecordID // the record's
	Cites     []evidence.ID
	State     State
	Reason    string
	Initiator string // the user's id, "" if it names none
	Upshot    Upshot
}

// Recover tells, after a restart, of a record that is out already. The evidence
// that it cites, added again before Recovered, has left with it. If it names no
// initiator, one who becomes known amends it.
func (c *Correlator) Recover(past Past) {
	c.mu.Lock()
	defer c.unlock()
	if c.past.records == nil {
		c.past.records, c.past.cited = make(map[RecordID]ref), make(map[uint64]citedBefore)
	}
	r := c.past.records[past.ID]
	if r == 0 {
		r = c.addAction()
		c.past.records[past.ID] = r
		a := c.actions.at(r)
		a.id, a.recovered = past.ID, true
		a.users++ // until all is recovered
	}
	a := c.actions.at(r)
	a.callee = a.callee || past.Upshot.Callee
	a.state, a.reason = past.State, past.Reason
	a.stated.upshot = a.stated.upshot.and(past.Upshot)
	if past.Initiator != "" {
		a.stated.initiator = c.hash.initiator(&Initiator{ID: past.Initiator})
	}
	for _, e := range past.Cites {
		name := c.hash.id(e)
		c.bytes += a.cite(name)
		if by, again := c.past.cited[name]; !again || by.callee {
			c.past.cited[name] = citedBefore{r, a.callee}
		}
	}
}

// Recovered ends it: all evidence from before the restart was added.
func (c *Correlator) Recovered() {
	c.mu.Lock()
	defer c.unlock()
	c.pass(c.now)
	for _, r := range c.past.records {
		c.abandon(r)
	}
	c.past = past{}
	c.bury()
}

// past is what was out before a restart, while its evidence is added again.
type past struct {
	records map[RecordID]ref
	cited   map[uint64]citedBefore // by hash of the evidence's id
}

// citedBefore is by which record, and whether that had a callee's report then.
type citedBefore struct {
	action ref
	callee bool
}

// rejoin makes a piece part of the record that it left with before a restart, if
// it did.
func (c *Correlator) rejoin(p *piece) {
	by, ok := c.past.cited[p.keys[byID]]
	if !ok {
		return
	}
	if p.place.callee() || !by.callee {
		c.point(p, by.action)
	}
	a := c.actions.at(by.action)
	if a.start == 0 && p.trace != (evidence.TraceID{}) && p.place != observed {
		a.start = p.start
		c.left(by.action, p)
	}
	c.claim(p)
}

// Deliver hands ready records to send, at most limit at a time and in order,
// until there are none or send fails; then the records that it did not take are
// kept for the next time, within the same bound. It returns how many were
// taken. send is called without locks held. Several may deliver at once: what
// amends a record is handed over after that was taken.
func (c *Correlator) Deliver(limit int, send func([]*Record) error) (taken int, err error) {
	for {
		n, err := c.deliver(limit, send)
		if taken += n; n == 0 || err != nil {
			return taken, err
		}
	}
}

// deliver hands over one batch.
func (c *Correlator) deliver(limit int, send func([]*Record) error) (taken int, err error) {
	batch, bytes := c.ready.take(limit)
	if len(batch) == 0 {
		return 0, nil
	}
	err = send(batch)
	c.ready.back(batch, bytes, err != nil)
	if err != nil {
		c.mu.Lock()
		defer c.unlock()
		c.advance()
		return 0, err
	}
	return len(batch), nil
}

// Ready is how many records wait to be delivered.
func (c *Correlator) Ready() int {
	n, _ := c.ready.size()
	return n
}
