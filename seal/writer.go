package seal

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Config says what a Writer writes, where and under which keys.
type Config struct {
	Root     string // the store; the log is a directory in it
	Origin   string
	LogKey   LogKey
	Chain    ChainStore
	Auditors []Recipient // at least one

	// FreshChain draws a new chain key at every start instead of keeping
	// one in Chain: for a writer without a disk of its own. Who has the log
	// key can then replace whole epochs, which otherwise the chain shows.
	FreshChain bool

	// Identity, if set, vouches for the log key in every open. Without a
	// valid SVID no epoch begins.
	Identity Identity

	// PreviousLogKey, if set, is the key that LogKey replaces: a log that it
	// signed is handed over at start, and Rotated told of it. After that it
	// is not needed any more.
	PreviousLogKey LogKey
	Rotated        func(Rotation)

	Heartbeat       time.Duration // 0: 60 s; whole seconds
	SegmentMaxBytes int64         // 0: 64 MiB; a segment ends at the group that passes it
	MaxPendingBytes int64         // 0: 64 MiB of requests that wait; more wait outside

	// SegmentMaxAge ends a segment file so long after it was begun, whether
	// anything follows or not. 0: never.
	SegmentMaxAge time.Duration

	// Linger is the least time from one commit of requests to the next: each
	// gathers what arrives meanwhile. 0: none. It bounds how many objects
	// a writer makes whose files are objects.
	Linger time.Duration

	// EpochMaxAge ends an epoch and begins the next, under the next chain
	// key. Pruning cuts between epochs. 0: only at a start.
	EpochMaxAge time.Duration

	// Retention says what to prune. Zero values keep everything.
	Retention Retention

	// Quarantine lets a start go on after damage in the last group that a
	// crash does not explain; without it, such a log is refused.
	Quarantine bool

	// Witnesses cosign what is published, through WitnessClient. nil: none.
	Witnesses     *WitnessPolicy
	WitnessClient WitnessClient

	// WitnessTimeout bounds how long witnesses may take. 0: 5 s.
	WitnessTimeout time.Duration

	// AckWitnessed makes Append return only when a checkpoint that covers
	// its request bears enough cosignatures.
	AckWitnessed bool

	// Witnessed, if set, is told after every submission.
	Witnessed func(Witnessing)

	// Stamp, if set, has the text of a published checkpoint timestamped and
	// returns the token; at start, then every StampEvery, as long as the log
	// grows. Stamped, if set, is told of every attempt. Nothing waits for it.
	Stamp      func(ctx context.Context, text []byte) (token []byte, err error)
	StampEvery time.Duration // 0: 1 h
	Stamped    func(size uint64, err error)

	FS  FS               // nil: OS
	Now func() time.Time // nil: time.Now

	// Observe, if set, is told of every commit, and Fault of every error
	// from which the writer goes on by itself: nil once it has recovered.
	Observe func(Commit)
	Fault   func(error)

	publishEvery, retryAfter, maintainEvery time.Duration // for tests
}

// Commit describes one commit group.
type Commit struct {
	Entries, Records int
	PlainBytes       int64 // of the requests
	StoredBytes      int64 // written
	Took             time.Duration
	Err              error
}

// ErrClosed: the writer is closed.
var ErrClosed = errors.New("sealed log is closed")

// FaultError: the group could not be made durable, the writer has not yet
// recovered from such a failure, or too few witnesses cosigned. The request may
// be sent again.
type FaultError struct{ Err error }

func (e *FaultError) Error() string {
	return "sealed log: not acknowledged, send again: " + e.Err.Error()
}
func (e *FaultError) Unwrap() error { return e.Err }

// Writer appends to one log. Appends from many goroutines are committed in
// groups, with one write and one fsync each: Append returns when the request
// is durable and under a signed checkpoint.
type Writer struct {
	cfg    Config
	dir    string
	lock   io.Closer
	budget budget

	verifier note.Verifier // of cfg.LogKey
	previous note.Verifier // of cfg.PreviousLogKey, nil if there is none

	mu     sync.Mutex
	filled [][]*pending          // groups of encoded batches, each of one request
	shared [signalCount]*pending // small requests that share an entry, not yet encoded
	refuse error                 // set while the writer accepts nothing
	sealed []unwitnessed         // durable groups that wait for witnesses, in order

	kick     chan struct{} // something waits
	closing  chan struct{}
	closed   sync.Once
	done     chan struct{} // the committer has stopped
	closeErr error

	erasing chan struct{} // held by the Erase that is under way
	orders  chan *order   // from it to the committer

	// Owned by the committer.
	log       *logState
	nameless  bool // an epoch waits for an SVID
	publisher publisher
	pruned    time.Time // when the retention was last applied

	pruneFailed bool
	committed   time.Time // when the last group of requests was begun

	stopped    chan error    // why to stop for good
	closedTo   atomic.Uint64 // see Closed
	witnesses  *witnesses    // nil: none
	unwiped    []place       // ordered to be erased, not yet overwritten
	wipeFrom   time.Time     // when it makes sense to try again: a lock ends
	recoveries uint64
}

// pending is a batch that waits to be committed.
type pending struct {
	sig     Signal
	msgs    [][]byte // requests, until encoded
	bytes   int
	held    int64 // of the budget
	records int
	sealed  *sealedBatch
	done    chan struct{}
	err     error
}

// Open opens a log for writing, recovers it from whatever a crash left, and
// begins a new epoch.
func Open(cfg Config) (*Writer, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	w := &Writer{
		cfg:     cfg,
		dir:     LogDir(cfg.Root, cfg.Origin),
		budget:  budget{free: cfg.MaxPendingBytes, max: cfg.MaxPendingBytes},
		kick:    make(chan struct{}, 1),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
		stopped: make(chan error, 1),
		erasing: make(chan struct{}, 1),
		orders:  make(chan *order),
	}
	var err error
	if w.verifier, err = note.NewVerifier(cfg.LogKey.VerifierKey()); err != nil {
		return nil, err
	}
	if p := cfg.PreviousLogKey; p != nil {
		if w.previous, err = note.NewVerifier(p.VerifierKey()); err != nil {
			return nil, err
		}
	}
	if err := w.prepareDir(); err != nil {
		return nil, err
	}
	if w.lock, err = cfg.FS.Lock(filepath.Join(w.dir, lockName)); errors.Is(err, ErrLocked) {
		return nil, fmt.Errorf("%s: %w; give every exporter an `origin` of its own", w.dir, err)
	} else if err != nil {
		return nil, err
	}
	w.witnesses = newWitnesses(w)
	if w.log, err = w.begin(nil); err != nil {
		return nil, errors.Join(err, w.lock.Close())
	}
	w.publisher.witnesses, w.publisher.witnessed = w.witnesses, w.submitted
	w.publisher.stamper = startStamper(&w.cfg, w.dir)
	w.closedTo.Store(w.log.closed())
	w.publisher.start(cfg.FS, w.dir, w.publishFault)
	go w.run()
	return w, nil
}

func (c *Config) complete() error {
	if c.FS == nil {
		c.FS = OS
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = 60 * time.Second
	}
	if c.StampEvery == 0 {
		c.StampEvery = time.Hour
	}
	if c.publishEvery == 0 {
		c.publishEvery = publishEvery
	}
	if c.maintainEvery == 0 {
		c.maintainEvery = time.Minute
	}
	if c.retryAfter == 0 {
		c.retryAfter = 100 * time.Millisecond
	}
	if c.SegmentMaxBytes == 0 {
		c.SegmentMaxBytes = 64 << 20
	}
	if c.WitnessTimeout == 0 {
		c.WitnessTimeout = 5 * time.Second
	}
	if c.MaxPendingBytes == 0 {
		c.MaxPendingBytes = 64 << 20
	}
	if err := ValidOrigin(c.Origin); err != nil {
		return err
	}
	if c.FreshChain && c.Chain == nil {
		c.Chain = new(freshChain)
	}
	switch {
	case c.LogKey == nil || c.Chain == nil:
		return errors.New("a writer needs a log key and a chain key; make them with: meshaudit keygen writer")
	case c.LogKey.Name() != c.Origin:
		return fmt.Errorf("the log key is for origin %q, this log's origin is %q", c.LogKey.Name(), c.Origin)
	case c.PreviousLogKey != nil && c.PreviousLogKey.Name() != c.Origin:
		return fmt.Errorf("the previous log key is for origin %q, this log's origin is %q", c.PreviousLogKey.Name(), c.Origin)
	case len(c.Auditors) == 0:
		return errors.New("a writer needs an auditor's public key, or nobody can ever check the HMAC chain; make one with: meshaudit keygen auditor")
	case !c.Witnesses.empty() && c.WitnessClient == nil:
		return errors.New("a writer with witnesses needs a client to reach them")
	case c.AckWitnessed && c.Witnesses.empty():
		return errors.New("a writer without witnesses cannot wait for them")
	case c.Heartbeat < time.Second || c.Heartbeat%time.Second != 0:
		return fmt.Errorf("heartbeat must be whole seconds, got %v", c.Heartbeat)
	}
	return nil
}

// prepareDir makes the log's directories, durably.
func (w *Writer) prepareDir() error {
	if direct(w.cfg.FS) {
		return nil
	}
	for _, d := range []string{segmentDir, tornDir} {
		if err := mkdirAll(w.cfg.FS, filepath.Join(w.dir, d)); err != nil {
			return err
		}
	}
	return nil
}

// mkdirAll makes a directory and what is missing above it, durably.
func mkdirAll(fsys FS, dir string) error {
	if _, err := fsys.Stat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := mkdirAll(fsys, parent); err != nil {
			return err
		}
	}
	if err := fsys.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return fsys.SyncDir(parent)
}

// Append seals one OTLP export request and returns when it is durable. An
// error that is no *FaultError, nor one of ctx, cannot be helped by sending
// the same request again. After an error of ctx the request may have been
// sealed or not.
func (w *Writer) Append(ctx context.Context, sig Signal, msg []byte) error {
	shared := len(msg) < shareBelowBytes
	records, err := 0, error(nil)
	if shared {
		records, err = checkRequest(sig, msg)
	} else {
		records, err = countRecords(msg) // encoding checks the rest
	}
	if err != nil || records == 0 {
		return err
	}
	// The bytes are given back when the batch is done with, not when its
	// caller loses patience: a disk that hangs must not let memory grow.
	if err := w.budget.acquire(ctx, int64(len(msg))); err != nil {
		return err
	}
	if shared {
		return w.appendShared(ctx, sig, msg, records)
	}
	return w.appendOwn(ctx, sig, msg, records)
}

func countRecords(msg []byte) (records int, err error) {
	err = EachRecord(msg, func(Record) error {
		records++
		return nil
	})
	return records, err
}

// checkRequest counts a request's records and refuses what cannot be sealed,
// before it could spoil an entry that it shares.
func checkRequest(sig Signal, msg []byte) (records int, err error) {
	var x index
	err = EachRecord(msg, func(r Record) error {
		records++
		return x.add(sig, r.Bytes)
	})
	return records, err
}

// appendOwn encodes a large request here, beside the commit in flight, as one
// entry or, if it is larger than an entry, as several in one group.
func (w *Writer) appendOwn(ctx context.Context, sig Signal, msg []byte, records int) error {
	parts := [][]byte{msg}
	if len(msg) > maxSectionBytes-seedBytes-zstdOverhead || records > maxEntryRecords {
		var err error
		if parts, err = split(msg, maxSectionBytes-seedBytes-zstdOverhead, maxEntryRecords); err != nil {
			w.budget.release(int64(len(msg)))
			return err
		}
	}
	group := make([]*pending, len(parts))
	var err error
	for i, m := range parts {
		group[i] = &pending{sig: sig, msgs: [][]byte{m}, bytes: len(m), done: make(chan struct{})}
		err = cmp.Or(err, group[i].encode())
	}
	group[0].held = int64(len(msg))
	if err == nil {
		err = w.enqueue(group)
	}
	if err != nil {
		w.budget.release(int64(len(msg)))
		return err
	}
	for _, p := range group {
		if err := p.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// zstdOverhead is by how much a body that does not compress may grow.
const zstdOverhead = 4096

func (p *pending) encode() (err error) {
	p.sealed, err = encodeBatch(p.sig, p.msgs, func(b []byte) { rand.Read(b) })
	p.msgs = nil
	return err
}

func (p *pending) wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// appendShared puts a small request into the signal's shared entry. Who fills
// it up encodes it; else the committer does when it takes it.
func (w *Writer) appendShared(ctx context.Context, sig Signal, msg []byte, records int) error {
	w.mu.Lock()
	if err := w.refuse; err != nil {
		w.mu.Unlock()
		w.budget.release(int64(len(msg)))
		return err
	}
	p := w.shared[sig]
	if p == nil {
		p = &pending{sig: sig, done: make(chan struct{})}
		w.shared[sig] = p
	}
	p.msgs = append(p.msgs, msg)
	p.bytes += len(msg)
	p.held += int64(len(msg))
	p.records += records
	full := p.bytes >= shareUntilBytes || p.records >= maxEntryRecords/2
	if full {
		w.shared[sig] = nil
	}
	w.mu.Unlock()
	if !full {
		w.wake()
		return p.wait(ctx)
	}
	err := p.encode()
	if err == nil {
		err = w.enqueue([]*pending{p})
	}
	if err != nil {
		w.settle(p, err) // the others in it wait too
	}
	return p.wait(ctx)
}

func (w *Writer) enqueue(group []*pending) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse != nil {
		return w.refuse
	}
	w.filled = append(w.filled, group)
	w.wake()
	return nil
}

func (w *Writer) wake() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// settle tells a batch's callers how it ended.
func (w *Writer) settle(p *pending, err error) {
	p.err = err
	close(p.done)
	w.budget.release(p.held)
}

// take gives the batches of the next commit group: what is encoded, up to
// groupMaxBytes, and the shared entries as they stand.
func (w *Writer) take() []*pending {
	w.mu.Lock()
	var group []*pending
	size, n := 0, 0
	for ; n < len(w.filled) && size < groupMaxBytes; n++ {
		for _, p := range w.filled[n] {
			size += p.bytes
		}
		group = append(group, w.filled[n]...)
	}
	w.filled = w.filled[n:]
	if n > 0 && len(w.filled) == 0 {
		w.filled = nil
	}
	shared := w.shared
	w.shared = [signalCount]*pending{}
	w.mu.Unlock()
	for _, p := range shared {
		if p == nil {
			continue
		}
		if err := p.encode(); err != nil {
			w.settle(p, err)
			continue
		}
		group = append(group, p)
	}
	return group
}

// run is the committer: the only goroutine that touches the log.
func (w *Writer) run() {
	defer close(w.done)
	beat := time.NewTimer(w.cfg.Heartbeat)
	defer beat.Stop()
	publish := time.NewTimer(w.cfg.publishEvery) // the open is not published yet
	defer publish.Stop()
	w.publisher.scheduled = true
	maintain := time.NewTicker(w.cfg.maintainEvery)
	defer maintain.Stop()
	aged := time.NewTimer(0)
	defer aged.Stop()
	committed := func() {
		beat.Reset(w.cfg.Heartbeat)
		if w.log == nil {
			return
		}
		w.closedTo.Store(w.log.closed()) // after a recovery, or a new epoch
		if w.cfg.SegmentMaxAge > 0 && w.log.segment != nil {
			aged.Reset(w.cfg.SegmentMaxAge - w.cfg.Now().Sub(w.log.started))
		}
		if !w.publisher.scheduled {
			w.publisher.scheduled = true
			publish.Reset(w.cfg.publishEvery)
		}
		if w.cfg.AckWitnessed { // callers wait for it
			w.publisher.offer(w.log)
		}
	}
	w.maintain()
	committed()
	// Without a log, the writer was closed while it tried to recover.
	for closing := false; !closing && w.log != nil; {
		select {
		case <-w.kick:
		case <-beat.C:
			_ = w.commit(nil, &Header{Kind: KindBeat}) // a recovery seals an open
			committed()
		case <-publish.C:
			w.publisher.offer(w.log)
		case <-w.publisher.short:
			if !w.publisher.scheduled {
				w.publisher.scheduled = true
				publish.Reset(w.cfg.publishEvery)
			}
		case <-maintain.C:
			if w.maintain() {
				committed()
			}
		case <-aged.C:
			if w.log.segmentIsOld() {
				w.log.abandon() // all of it is durable
				w.closedTo.Store(w.log.closed())
			}
		case cause := <-w.stopped:
			w.stop(cause)
			continue
		case o := <-w.orders:
			w.erase(o)
			committed()
		case <-w.closing:
			closing = true
		}
		for w.linger(); w.log != nil; w.linger() {
			group := w.take()
			if len(group) == 0 {
				break
			}
			_ = w.commit(group, nil) // its callers know
			committed()
		}
	}
	w.closeErr = w.finish()
}

// commit makes one group durable and tells its callers. If that fails, the
// writer has recovered, or is closing, when commit returns the error.
func (w *Writer) commit(group []*pending, other *Header) error {
	err := w.tryCommit(group, other)
	if err != nil {
		w.recover(err.Err)
		return err
	}
	return nil
}

// tryCommit is commit but for the recovery, which must follow an error.
func (w *Writer) tryCommit(group []*pending, other *Header, sections ...[]byte) *FaultError {
	start := w.cfg.Now()
	c := Commit{Entries: len(group)}
	if other != nil {
		c.Entries++
	}
	for _, p := range group {
		c.Records += int(p.sealed.records)
		c.PlainBytes += int64(p.bytes)
	}
	c.StoredBytes, c.Err = w.log.commit(group, other, uint64(start.UnixNano()), sections...)
	var fault *FaultError
	var err error // nil where fault is
	if c.Err != nil {
		fault = &FaultError{c.Err}
		err = fault
		w.setRefuse(err)
	} else {
		w.closedTo.Store(w.log.closed())
	}
	if err == nil && w.cfg.AckWitnessed && len(group) > 0 {
		w.awaitWitnesses(w.log.tree.size, group)
	} else {
		for _, p := range group {
			w.settle(p, err)
		}
	}
	c.Took = w.cfg.Now().Sub(start)
	if w.cfg.Observe != nil {
		w.cfg.Observe(c)
	}
	return fault
}

// linger waits until the next group of requests may be begun. What is waiting
// then goes into it.
func (w *Writer) linger() {
	wait := w.cfg.Linger - time.Since(w.committed)
	if w.cfg.Linger > 0 && wait > 0 && w.waiting() {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-w.closing:
		}
	}
	w.committed = time.Now()
}

// waiting reports whether requests wait, and fewer than fill a group.
func (w *Writer) waiting() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	size, any := 0, false
	for _, g := range w.filled {
		for _, p := range g {
			size, any = size+p.bytes, true
		}
	}
	for _, p := range w.shared {
		any = any || p != nil
	}
	return any && size < groupMaxBytes
}

// Stop makes the writer refuse everything from now on, with cause, and write
// nothing more: two writers are at this log.
func (w *Writer) Stop(cause error) {
	select {
	case w.stopped <- cause:
	default: // it is stopped already
	}
}

// forGood reports whether an error is what to say for ever.
func forGood(err error) bool {
	var fork *ForkError
	var contradiction *ContradictionError
	return errors.As(err, &fork) || errors.As(err, &contradiction)
}

// stop is Stop, in the committer.
func (w *Writer) stop(cause error) {
	w.setRefuse(cause)
	w.log.abandon()
	w.log = nil
	w.fault(cause)
}

// Closed is the entry before which all segments are complete: they are not
// written to again.
func (w *Writer) Closed() uint64 { return w.closedTo.Load() }

// publishFault is told of what the publisher could not write.
func (w *Writer) publishFault(err error) {
	var fork *ForkError
	if errors.As(err, &fork) {
		w.Stop(err)
		return
	}
	w.fault(err)
}

func (w *Writer) setRefuse(err error) {
	w.mu.Lock()
	w.refuse = err
	var failed []*pending
	if err != nil {
		// What is queued was encoded for a log that may now be cut.
		for _, g := range w.filled {
			failed = append(failed, g...)
		}
		for _, p := range w.shared {
			if p != nil {
				failed = append(failed, p)
			}
		}
		w.filled, w.shared = nil, [signalCount]*pending{}
	}
	w.mu.Unlock()
	for _, p := range failed {
		w.settle(p, err)
	}
}

func (w *Writer) fault(err error) {
	if w.cfg.Fault != nil {
		w.cfg.Fault(err)
	}
}

// recover rebuilds the log's state from what is known to be durable and opens
// a new epoch, as often as it takes.
func (w *Writer) recover(cause error) {
	var fork *ForkError
	if errors.As(cause, &fork) {
		w.stop(cause)
		return
	}
	w.fault(cause)
	w.recoveries++
	w.log.abandon()
	forks := 0 // one after the other
	for wait := w.cfg.retryAfter; ; wait = min(2*wait, 10*time.Second) {
		log, err := w.begin(w.log)
		if err == nil {
			w.log = log
			w.setRefuse(nil)
			w.fault(nil)
			return
		}
		if forks++; !errors.As(err, &fork) {
			forks = 0
		}
		if forks == 2 { // one may be of an object of this writer's own that it took for lost
			w.stop(err)
			return
		}
		w.fault(err)
		w.setRefuse(&FaultError{err})
		select {
		case <-time.After(wait):
		case o := <-w.orders:
			o.done <- &FaultError{err}
		case <-w.closing:
			w.log = nil
			return
		}
	}
}

func (w *Writer) refused() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refuse
}

// finish ends the epoch and publishes what is left.
func (w *Writer) finish() error {
	if !forGood(w.refused()) {
		w.setRefuse(ErrClosed)
	}
	var err error
	if w.log != nil {
		if err := w.wipe(); err != nil {
			w.fault(fmt.Errorf("erase: %w", err))
		}
		_, err = w.log.commit(nil, &Header{Kind: KindClose}, uint64(w.cfg.Now().UnixNano()))
		if err == nil {
			err = w.publisher.now(w.log)
		}
		w.log.abandon()
		w.closedTo.Store(w.log.closed())
	}
	w.publisher.stop()
	w.giveUp(math.MaxUint64, errors.New("the log was closed"))
	return errors.Join(err, w.lock.Close())
}

// Close seals what waits, ends the epoch with a close entry and releases the
// log. It may be called twice.
func (w *Writer) Close(ctx context.Context) error {
	w.closed.Do(func() { close(w.closing) })
	select {
	case <-w.done:
		return w.closeErr
	case <-ctx.Done():
		return ctx.Err()
	}
}
