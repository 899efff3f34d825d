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
	ClockSkew       time.Duration // between two nodes, either way
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
	mu         sync.Mutex // guards all below
	queue      queue
	index      index
	actions    arena[action]
	workflows  workflows
	now        int64
	recovering bool             // nothing leaves: what has left before is not yet known
	recovered  map[RecordID]ref // while recovering

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
	c.workers = workers{n: min(runtime.GOMAXPROCS(0), maxWorkers), share: minShare}
	c.workflows.of = make(map[evidence.TraceID]ref)
	return c
}

// Add takes evidence that is sealed, at the time now. Its content is copied.
// Records that are due become ready. If somebody else is at work Add does not
// wait, unless much evidence does already: it is looked at next, and Advance does
// not return before.
func (c *Correlator) Add(now time.Time, batch []evidence.Evidence) {
	c.inbox.put(c.hash.parcel(now, batch))
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

// BeginRecovery holds everything back until EndRecovery: evidence from before
// a restart is added, and Recover tells what became of it.
func (c *Correlator) BeginRecovery() {
	c.mu.Lock()
	defer c.unlock()
	c.recovering, c.recovered = true, make(map[RecordID]ref)
}

// EndRecovery lets records leave again.
func (c *Correlator) EndRecovery(now time.Time) {
	c.mu.Lock()
	defer c.unlock()
	for _, r := range c.recovered {
		c.abandon(r)
	}
	c.recovering, c.recovered = false, nil
	c.bury()
	c.pass(now.UnixNano())
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

// Recover tells of a record that is out already, before a restart: the pieces it
// cites, as far as they were added again, have left with it. If it names no
// initiator, one who becomes known amends it.
func (c *Correlator) Recover(past Past) {
	c.mu.Lock()
	defer c.unlock()
	c.pass(c.now) // the pieces may wait in the inbox
	r := c.recovered[past.ID]
	if r == 0 {
		r = c.addAction()
		c.recovered[past.ID] = r
		a := c.actions.at(r)
		a.id, a.recovered = past.ID, true
		a.users++ // until recovery ends
	}
	a := c.actions.at(r)
	a.callee = a.callee || past.Upshot.Callee
	a.state, a.reason = past.State, past.Reason
	a.stated.upshot = a.stated.upshot.and(past.Upshot)
	if past.Initiator != "" {
		a.stated.initiator = c.hash.initiator(past.Initiator)
	}
	for _, e := range past.Cites {
		p := c.find(e)
		if p == nil {
			continue
		}
		c.bytes += a.cite(p.name)
		if p.place.callee() || !a.callee {
			c.point(p, r)
		}
		if a.start == 0 && p.trace != (evidence.TraceID{}) && p.place != observed {
			a.start = p.start
			c.left(r, p)
		}
		c.claim(p)
	}
	c.bury()
}

// Deliver hands ready records to send, at most limit at a time and in order,
// until there are none or send fails; then the records that it did not take are
// kept for the next time, within the same bound. It returns how many were
// taken. send is called without locks held.
func (c *Correlator) Deliver(limit int, send func([]*Record) error) (int, error) {
	c.ready.delivering.Lock()
	defer c.ready.delivering.Unlock()
	for taken := 0; ; {
		batch := c.ready.take(limit)
		if len(batch) == 0 {
			return taken, nil
		}
		if err := send(batch); err != nil {
			c.ready.putBack(batch)
			c.mu.Lock()
			defer c.unlock()
			c.advance()
			return taken, err
		}
		taken += len(batch)
	}
}
