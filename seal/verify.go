package seal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// VerifyOptions are what a verifier knows and wants.
type VerifyOptions struct {
	Trust   *Trust      // nil: the best answer is ExitIncomplete
	Auditor *AuditorKey // nil: the HMAC chain is not checked
	AsOf    time.Time   // when the log should have been fresh; zero: now

	// Since is an older published checkpoint of a log of the store, kept
	// elsewhere. The log must still hold exactly what it states; what was
	// incomplete before it was reviewed when it was taken, and is a note.
	Since []byte

	// Accepted is a list of reviewed incompletenesses, signed by a reviewer of
	// the trust file, see SignAccepted. They are notes; tampering never is.
	Accepted []byte

	// WitnessClient, if set, asks the witnesses of the trust file that have a
	// URL what they have seen.
	WitnessClient WitnessClient

	// CheckTimestamp, if set, checks the timestamps beside the log: a token
	// and the checkpoint's text that it must be about. Its error is
	// ErrUnknownAuthority for a token that is whole.
	CheckTimestamp func(token, text []byte) (Timestamp, error)

	// Progress, if set, is told how many bytes were read of how many.
	Progress func(done, total int64)
}

// Verify checks all logs of the store in a directory, see [Store.Verify].
func Verify(ctx context.Context, root string, opts VerifyOptions) (*Report, error) {
	return Dir(root).Verify(ctx, opts)
}

// Verify checks all logs of a store. An error means that the verifier itself
// failed; everything it found is in the report. Memory does not grow with the
// log.
func (s Store) Verify(ctx context.Context, opts VerifyOptions) (*Report, error) {
	return verifyStore(ctx, s.FS, s.Root, opts)
}

func verifyStore(ctx context.Context, fsys FS, root string, opts VerifyOptions) (*Report, error) {
	start := time.Now()
	if opts.AsOf.IsZero() {
		opts.AsOf = start
	}
	r := new(Report)
	since, err := opts.since()
	if err != nil {
		return nil, err
	}
	accepted, err := opts.accepted()
	if err != nil {
		return nil, err
	}
	origins, err := origins(fsys, root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	strange, err := strangeFiles(fsys, root, origins)
	if err != nil {
		return nil, err
	}
	if err := r.strays(fsys, root); err != nil {
		return nil, err
	}
	if len(origins) == 0 {
		// Without any log it is more likely no store than one that was tampered with.
		what, next := "no log was found in "+Store{fsys, root}.String(), "check the path; if a log was here, it is gone: restore it, then verify again"
		if slices.Contains(strange, segmentDir) {
			what, next = Store{fsys, root}.String()+" is the directory of one log, not a store", "verify the directory that it is in"
		}
		r.Findings = append(r.Findings, Finding{Class: Incomplete, Axis: Completeness, What: what, Next: next})
	} else {
		for _, s := range strange {
			r.Findings = append(r.Findings, Finding{Class: Tampering, Axis: Integrity, What: fmt.Sprintf("%s is no log; a store holds nothing else", s)})
		}
	}
	if opts.Trust != nil {
		for _, o := range opts.Trust.Origins() {
			if slices.Contains(origins, o) {
				continue
			}
			if f := opts.missingLog(ctx, o); f != nil {
				r.Findings = append(r.Findings, *f)
			} else {
				r.Findings = append(r.Findings, Finding{Class: Incomplete, Axis: Completeness, What: fmt.Sprintf("the log of %s is missing: the trust file expects it", o), Next: "restore it from a copy, or remove its lines from the trust file if it never wrote here"})
			}
		}
	}
	if since != nil && !slices.Contains(origins, since.Origin) {
		r.Findings = append(r.Findings, Finding{Class: Tampering, Axis: Completeness, What: fmt.Sprintf("the log of %s is gone: the older checkpoint states %d entries", since.Origin, since.Size), Next: "restore it from a copy"})
	}
	for _, o := range origins {
		v := &verification{opts: &opts, dir: LogDir(root, o), fs: fsys, report: &LogReport{Origin: o}, accepted: accepted}
		if since != nil && since.Origin == o {
			v.since = since
		}
		if err := v.run(ctx); err != nil {
			return nil, fmt.Errorf("log of %s: %w", o, err)
		}
		r.Logs = append(r.Logs, v.report)
	}
	r.Took = time.Since(start)
	return r, nil
}

// since reads the older checkpoint, which must be signed by a trusted key.
func (o *VerifyOptions) since() (*Checkpoint, error) {
	if o.Since == nil {
		return nil, nil
	}
	c, err := openCheckpoint(o.Since, nil)
	if err != nil {
		return nil, fmt.Errorf("the older checkpoint: %w", err)
	}
	key := o.Trust.key(c.Origin, c.Size)
	if key == nil {
		return nil, fmt.Errorf("the older checkpoint: %w for %s", ErrNoKey, c.Origin)
	}
	if _, err := openCheckpoint(o.Since, key.verifier); err != nil {
		return nil, fmt.Errorf("the older checkpoint is not signed by the trusted key of %s", c.Origin)
	}
	return &c, nil
}

// strangeFiles are the names in a store's root that belong to no log.
func strangeFiles(fsys FS, root string, origins []string) (strange []string, err error) {
	names, err := fsys.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, n := range names {
		switch {
		case slices.Contains(origins, strings.ReplaceAll(n.Name(), "%2F", "/")):
		case n.Name() == ProbeDir && direct(fsys):
		case n.Name() == "lost+found", strings.HasSuffix(n.Name(), tmpSuffix):
		case n.IsDir() && unbegun(fsys, filepath.Join(root, n.Name())):
		default:
			strange = append(strange, n.Name())
		}
	}
	return strange, err
}

// unbegun reports whether a directory is a log whose first start a crash cut
// short: nothing is in it but what comes before the first segment.
func unbegun(fsys FS, dir string) bool {
	names, err := fsys.ReadDir(dir)
	for _, n := range names {
		if n.Name() != lockName && n.Name() != tornDir {
			return false
		}
	}
	return err == nil
}

// verification is the state of checking one log.
type verification struct {
	opts   *VerifyOptions
	dir    string
	fs     FS
	report *LogReport
	total  int64

	mu     sync.Mutex // of report.Findings and firstBad
	jobs   chan func()
	memory budget   // of batches that are worked on
	at     uint64   // first entry of the segment at hand
	where  struct { // the frame at hand
		segment string
		offset  int64
		entry   uint64 // the next one, as the frames before say
	}
	firstBad struct {
		entry uint64
		set   bool
	}

	walk        walker
	tree        *tree
	tiles       []uint64 // per level: full tiles compared
	keys        *ratchet // of the epoch, with the auditor's key
	chain       ChainKey // of the epoch
	haveChain   bool
	tagsLost    bool // some epoch could not be checked
	unpinnable  bool // the first chain is fresh, as the trust file says
	heartbeat   uint64
	last        *Header
	signers     signers
	stamps      timestamps
	failed      error               // to read what is beside the segments
	torn        map[Torn]tornAt     // announced by opens: the entry that did
	pruned      uint64              // the first entry kept, as ordered
	first       uint64              // the first entry that is there
	erasures    map[uint64]*erasure // by target
	lastErase   *Header
	beforeWiped provenTo // as of the first batch that is overwritten
	partly      int      // batches that are neither whole nor zeros
	manyAfter   int64    // two checkpoints or more follow this offset of the last segment
	strange     []string // names in the log\'s directory that do not belong
	halted      bool     // the walk could not begin
	entries     uint64   // walked, whether a checkpoint follows or not
	records     uint64
	covered     uint64      // size of the tree at the last checkpoint
	proven      []provenTo  // the last few checkpoints before the first bad object
	published   *Checkpoint // in the checkpoint file
	publishedAs string      // its name
	since       *Checkpoint // kept elsewhere
	sinceSeen   bool        // the log has the root that it states
	accepted    map[Subject]Acceptance

	testimonies []*testimony // of witnesses
	unasked     []string     // witnesses that gave no answer, and why
}

// tornAt is the open that announced what was cut off.
type tornAt struct {
	entry uint64
	leaf  Hash
}

// provenTo is what a good checkpoint covers.
type provenTo struct{ entries, records, sealed uint64 }

// maxProven is how many checkpoints are remembered: workers that judge bodies
// are never that far behind the walk.
const maxProven = 1024

// found records a finding at the frame at hand.
func (v *verification) found(class Class, axis Axis, next, format string, args ...any) {
	v.foundAt(v.where.segment, v.where.offset, v.where.entry, class, axis, next, fmt.Sprintf(format, args...))
}

func (v *verification) foundAt(segment string, offset int64, entry uint64, class Class, axis Axis, next, what string) {
	v.add(Finding{Class: class, Axis: axis, Segment: segment, Offset: offset, What: what, Next: next}, entry)
}

// add records a finding about an entry.
func (v *verification) add(f Finding, entry uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if f.Class == Incomplete && (f.Axis == Completeness || f.Axis == Order) && v.since != nil && entry < v.since.Size {
		f.Class, f.What = Note, f.What+" (before the older checkpoint)"
	}
	v.report.worst[f.Axis] = max(v.report.worst[f.Axis], f.Class)
	if f.Class == Tampering && (!v.firstBad.set || entry < v.firstBad.entry) {
		v.firstBad.entry, v.firstBad.set = entry, true
	}
	fs := v.report.Findings
	if n := len(fs); n >= 2*maxFindings || n >= maxFindings && f.Class < Tampering {
		v.report.Omitted++
		// What is accepted must not hide what is not.
		if i := slices.IndexFunc(fs, func(o Finding) bool { return o.Class < f.Class }); i >= 0 {
			fs[i] = f
		}
		return
	}
	v.report.Findings = append(fs, f)
}

const (
	nextOtherKey = "compare the trust file with what `meshaudit keygen writer` printed for this writer; if it is the right one, " + nextIsolate

	nextIsolate = "keep this store as it is, as evidence; restore the segment from a copy and verify that"
	nextCrash   = "find out why the writer stopped at that time; what it acknowledged is in the log unless its host was taken over"
)

func (v *verification) run(ctx context.Context) error {
	var err error
	if v.strange, err = v.strangeInLog(); err != nil {
		return err
	}
	if err := v.findTimestamps(); err != nil {
		return err
	}
	firsts, strange, err := segments(v.fs, v.dir)
	if err != nil {
		return err
	}
	v.report.Segments = len(firsts)
	v.torn, v.erasures = map[Torn]tornAt{}, map[uint64]*erasure{}
	if err := v.readPublished(ctx); err != nil {
		return err
	}
	for _, s := range strange {
		v.foundAt(s, 0, 0, Tampering, Integrity, "find out who put it there, and move it away", "this file does not belong into a log")
	}
	if v.total, err = segmentBytes(v.fs, v.dir); err != nil {
		return err
	}
	stop := v.startWorkers()
	err = v.segments(ctx, firsts)
	stop()
	if err != nil {
		return err
	}
	if err := cmp.Or(v.failed, v.conclude()); err != nil {
		return err
	}
	sortFindings(v.report.Findings)
	return nil
}

// verifyMemory is how many bytes of batches, as stored and uncompressed, are
// worked on at once: one as large as can be, or dozens of usual ones.
const verifyMemory = 24 << 20

// startWorkers runs what needs no order beside the walk. No more bodies wait
// than are worked on, which bounds memory.
func (v *verification) startWorkers() (stop func()) {
	v.jobs = make(chan func())
	v.memory = budget{free: verifyMemory, max: verifyMemory}
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for job := range v.jobs {
				job()
			}
		})
	}
	return func() { close(v.jobs); wg.Wait() }
}

// segments walks all segments in order; it ends at the first frame whose
// successor cannot be found.
func (v *verification) segments(ctx context.Context, firsts []uint64) error {
	v.walk = walker{origin: v.report.Origin}
	v.tree = new(tree)
	if len(firsts) == 0 {
		return nil
	}
	v.first = firsts[0]
	if first := firsts[0]; first > 0 {
		v.walk.entry = first
		t, err := storedTree(v.fs, v.dir, first)
		if err != nil {
			v.foundAt(segmentDir+"/"+segmentName(first), 0, 0, Incomplete, Completeness, "restore the tiles from a copy: of what was pruned nothing else is left",
				fmt.Sprintf("the entries before %d are gone, and so are the tiles that a prune leaves (%v): nothing after them can be checked", first, err))
			v.halted = true
			return nil
		}
		v.tree = t
		for level := range v.tree.levels {
			v.tiles = append(v.tiles, first>>(8*uint(level+1)))
		}
	}
	for i := 0; i < len(firsts); i++ {
		first := firsts[i]
		v.at, v.where.segment, v.where.offset = first, segmentDir+"/"+segmentName(first), 0
		if first != v.walk.entry {
			v.found(Tampering, Completeness, nextIsolate, "a segment is missing: entries %d to %d", v.walk.entry, first-1)
			return nil
		}
		if ok, err := v.segment(ctx, first, i == len(firsts)-1); !ok || err != nil {
			return err
		}
		if i == len(firsts)-1 && v.unordered() {
			// A batch was erased while the log was read; its erase may be
			// in a segment begun since.
			now, _, err := segments(v.fs, v.dir)
			if err != nil {
				return err
			}
			if slices.Contains(now, v.walk.entry) {
				firsts = append(firsts, v.walk.entry)
			}
		}
	}
	return nil
}

// segment walks one segment. It is not ok if the walk cannot go on after it.
func (v *verification) segment(ctx context.Context, first uint64, isLast bool) (ok bool, err error) {
	f, err := openRead(v.fs, filepath.Join(v.dir, segmentDir, segmentName(first)))
	if err != nil {
		return false, err
	}
	defer f.Close()
	fr := newFrameReader(f, 0)
	kept := int64(0) // through the last checkpoint
	before := v.report.Bytes
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		v.where.offset, v.where.entry = fr.offset, v.walk.entry
		fm, err := fr.next()
		var failed *readError
		switch {
		case errors.As(err, &failed):
			return false, err
		case err == io.EOF && kept == fr.offset:
			return true, nil
		case err == nil || errors.Is(err, errSectionHash):
		default:
			return false, v.tail(f, kept, isLast, err)
		}
		if e := v.walk.step(fm); e != nil {
			v.found(Tampering, Order, nextIsolate, "%v", e)
			return false, nil
		}
		if err != nil {
			// Is it the last commit, half written?
			if fm.Kind != KindCheckpoint || !isLast {
				if tailErr, was := v.tornTail(f, kept, isLast, err); was || tailErr != nil {
					return false, tailErr
				}
			}
			switch state := wipedFrame(fm); {
			case fm.Kind == KindErase:
				v.orderedErase(fm, state, err)
			case fm.Kind != KindBatch || !v.wipedBatch(fm, state, err):
				v.found(Tampering, Integrity, nextIsolate, "%v", err)
			}
			v.frameHeader(fm)
			continue
		}
		v.frameHeader(fm)
		v.frameSections(fm)
		if fm.Kind == KindCheckpoint {
			kept = fr.offset
			v.report.Bytes = before + kept
			if v.opts.Progress != nil {
				v.opts.Progress(v.report.Bytes, v.total)
			}
		}
	}
}

// frameHeader checks what a frame's header says.
func (v *verification) frameHeader(f *frame) {
	if f.Kind == KindCheckpoint {
		return
	}
	v.tree.push(leafHash(f.text))
	v.compareTiles()
	switch f.Kind {
	case KindOpen:
		v.openEntry(f)
	case KindPrune:
		if f.Prune.First > f.Entry {
			v.found(Tampering, Completeness, nextIsolate, "%s keeps entries from %d on, which is yet to come", f.name(), f.Prune.First)
		}
		v.pruned = max(v.pruned, f.Prune.First)
		v.found(Note, Completeness, "", "entries before %d were pruned on %s, by the policy %q", f.Prune.First, at(f.Sealed), f.Prune.Policy)
	}
	if v.keys != nil {
		if v.keys.tag(f.text[:len(f.text)-tagAndSumBytes]) != f.Tag {
			v.found(Tampering, Integrity, "the writer's machine or its log key was in other hands: trust nothing after the last proven entry", "%s has a wrong tag: it was not sealed by the holder of the chain key", f.name())
		}
	}
	v.witnessEntry(f.Header)
	v.entries++
	v.records += f.Records
	v.last = f.Header
}

// openEntry checks how an epoch begins, and takes up its chain.
func (v *verification) openEntry(f *frame) {
	o := f.Open
	if f.offset != 0 {
		v.found(Tampering, Order, nextIsolate, "%s stands within a segment, and every epoch begins one: segments were joined", f.name())
	}
	v.report.Epochs++
	v.heartbeat = o.HeartbeatSeconds
	wasClosed := v.last != nil && v.last.Kind == KindClose
	switch {
	case v.last == nil:
	case wasClosed != (o.After == AfterClean || o.After == AfterRotation):
		v.found(Tampering, Order, nextIsolate, "%s says it comes after %s, the entry before it is %s", f.name(), o.After, v.last.Kind)
	case !wasClosed:
		code := CodeCrash
		if o.After == AfterFault {
			code = CodeFault
		}
		v.reviewableHere(f, Completeness, code, nextCrash, "epoch %d ended by a %s after entry %d, sealed %s: what the writer had not yet acknowledged then is not here", f.Epoch-1, o.After, v.last.Entry, at(v.last.Sealed))
	}
	if v.last != nil && f.Sealed < v.last.Sealed {
		v.reviewableHere(f, Order, CodeClock, "check the host's clock", "the clock stepped back by %v between epochs", time.Duration(v.last.Sealed-f.Sealed))
	}
	for _, t := range o.Torn {
		v.torn[t] = tornAt{f.Entry, leafHash(f.text)}
	}
	v.signer(f)
	if v.opts.Trust != nil && f.Epoch == 0 {
		if pin, ok := v.opts.Trust.Chains[v.report.Origin]; ok {
			v.report.Pinned = true
			if pin != o.Chain {
				v.found(Tampering, Integrity, nextOtherKey, "the chain begins with another key than the pinned one")
			}
		}
	}
	if o.Fresh {
		v.freshChain(f)
	}
	v.takeUpChain(f)
}

// freshChain says that the chain begins at this open. A writer that keeps no
// chain key does that at every start; of any other it is news.
func (v *verification) freshChain(f *frame) {
	if v.signers.vouched != nil {
		return // the SVID's key signed its commitment
	}
	v.report.FreshChains++
	expected := v.opts.Trust != nil && v.opts.Trust.Fresh[v.report.Origin]
	if f.Epoch == 0 { // it would have been pinned
		v.unpinnable = expected
		return
	}
	const what = "the HMAC proof begins anew at %s: who had the log key could have replaced what is before"
	if expected {
		v.found(Note, Completeness, "", what, f.name())
		return
	}
	v.reviewableHere(f, Completeness, CodeFreshChain, "if the writer keeps no chain key (`keys::chain: fresh`), say so in the trust file: chain "+v.report.Origin+" fresh", what, f.name())
}

// takeUpChain opens the escrow of an epoch, if there is an auditor's key.
func (v *verification) takeUpChain(f *frame) {
	v.keys = nil
	if v.opts.Auditor == nil {
		return
	}
	key, err := v.opts.Auditor.openEscrow(f.Header)
	switch {
	case err == errNotEscrowed:
		v.tagsLost, v.haveChain = true, false
		v.reviewableHere(f, Integrity, CodeNotEscrowed, "use the key of an auditor that the writer is configured with", "the chain key of epoch %d was not escrowed to this auditor", f.Epoch)
		return
	case err != nil:
		v.tagsLost, v.haveChain = true, false
		v.found(Tampering, Integrity, nextIsolate, "%s: %v", f.name(), err)
		return
	case v.haveChain && !f.Open.Fresh && v.chain.Next() != key:
		v.found(Tampering, Integrity, nextIsolate, "the chain key of epoch %d does not follow from that of epoch %d", f.Epoch, f.Epoch-1)
	}
	v.chain, v.haveChain = key, true
	r := key.ratchet()
	v.keys = &r
}

// frameSections checks a frame's sections, beside the walk where it can.
func (v *verification) frameSections(f *frame) {
	segment, offset, entry := v.where.segment, v.where.offset, v.where.entry
	switch f.Kind {
	case KindBatch:
		size := int64(f.Sections[0].Stored + f.Sections[1].Stored + f.Sections[1].Plain)
		_ = v.memory.acquire(context.Background(), size) // the workers give it back
		v.jobs <- func() {
			defer v.memory.release(size)
			d := batchDecoders.Get().(*batchDecoder)
			defer batchDecoders.Put(d)
			defer d.shrink()
			if err := d.verify(f.Header, f.sections[0], f.sections[1]); err != nil {
				v.foundAt(segment, offset, entry, Tampering, Integrity, nextIsolate, fmt.Sprintf("%s: %v", f.name(), err))
			}
		}
	case KindErase:
		v.orderedErase(f, intact, nil)
	case KindCheckpoint:
		v.checkpoint(f)
	}
}

// checkpoint checks a signed note against the tree so far.
func (v *verification) checkpoint(f *frame) {
	v.report.Checkpoints++
	v.report.Entries, v.report.Records, v.covered = v.entries, v.records, v.tree.size
	c, err := openCheckpoint(f.sections[0], nil)
	if err != nil {
		v.found(Tampering, Integrity, nextIsolate, "checkpoint: %v", err)
		return
	}
	root := v.tree.root()
	switch {
	case c.Origin != v.report.Origin:
		v.found(Tampering, Integrity, nextIsolate, "checkpoint of another log: %s", c.Origin)
	case c.Size != v.tree.size:
		v.found(Tampering, Completeness, nextIsolate, "checkpoint states %d entries, the log has %d up to here", c.Size, v.tree.size)
	case c.Root != root:
		v.found(Tampering, Integrity, nextIsolate, "the entries do not have the root that the checkpoint for %d entries states", c.Size)
	}
	if p := v.published; p != nil && p.Size == c.Size && p.Root != root {
		v.foundAt(checkpointFile, 0, c.Size, Tampering, Integrity, nextIsolate, fmt.Sprintf("the published checkpoint for %d entries has another root: two histories", c.Size))
	}
	v.witnessCheckpoint(c.Size, root)
	if err := v.timestamp(Checkpoint{v.report.Origin, v.tree.size, root}); err != nil {
		v.failed = cmp.Or(v.failed, err)
	}
	if p := v.since; p != nil && p.Size == c.Size {
		if v.sinceSeen = p.Root == root; !v.sinceSeen {
			v.found(Tampering, Integrity, nextIsolate, "the older checkpoint for %d entries has another root: the log was rewritten", p.Size)
		}
	}
	v.mu.Lock()
	bad := v.firstBad.set
	v.mu.Unlock()
	if !bad {
		if len(v.proven) == maxProven {
			v.proven = append(v.proven[:0], v.proven[maxProven/2:]...)
		}
		v.proven = append(v.proven, provenTo{v.walk.entry, v.walk.record, v.walk.sealed})
	}
	v.signers.note = f.sections[0]
	key := v.key(c.Size)
	if p := v.published; p != nil && c.Size <= p.Size {
		v.signers.published = key
	}
	if key == nil {
		if v.opts.Trust.knows(v.report.Origin) {
			v.found(Tampering, Integrity, nextIsolate, "the checkpoint for %d entries is beyond the bound of every trusted log key", c.Size)
		}
		return
	}
	segment, offset, entry := v.where.segment, v.where.offset, v.where.entry-1 // the last one that it covers
	v.jobs <- func() {
		if _, err := openCheckpoint(f.sections[0], key.verifier); err != nil {
			v.foundAt(segment, offset, entry, Tampering, Integrity, nextIsolate, fmt.Sprintf("the checkpoint for %d entries is not signed by the trusted log key", c.Size))
		}
	}
}

// tail judges what follows the last checkpoint of a segment that does not end
// with it.
func (v *verification) tail(f File, kept int64, isLast bool, damage error) error {
	if err, was := v.tornTail(f, kept, isLast, damage); was || err != nil {
		return err
	}
	if damage == io.EOF || damage == errCut {
		v.found(Tampering, Completeness, nextIsolate, "the segment ends before a checkpoint, and another follows it")
	} else {
		v.found(Tampering, Integrity, nextIsolate, "%v", damage)
	}
	return nil
}

// tornTail reports whether the damage is what a crash leaves at a log's end,
// and records it as such; or whether it is only a commit that is being written
// at this moment.
func (v *verification) tornTail(f File, kept int64, isLast bool, damage error) (error, bool) {
	if !isLast {
		return nil, false
	}
	fi, err := f.Stat()
	if err != nil {
		return err, false
	}
	if fi.Size()-kept > maxSegmentTail || kept < v.manyAfter {
		return nil, false
	}
	rest, err := readRange(f, kept, fi.Size())
	if err != nil {
		return err, false
	}
	checkpoints := checkpointsIn(rest)
	n := len(checkpoints)
	if n > 1 {
		v.manyAfter = kept + checkpoints[n-2]
		return nil, false
	}
	if !torn(damage, rest, kept) {
		return nil, false
	}
	if (damage == io.EOF || damage == errCut) && n == 1 {
		return nil, true // written to its end since it was read: a live log
	}
	v.found(Incomplete, Completeness, nextCrash, "%d bytes after the last checkpoint are no whole commit: a torn tail, or a commit being written", len(rest))
	return nil, true
}

// publishGrace is how long after the first commit a log may be without a
// published checkpoint.
const publishGrace = 10 * publishEvery

// maxSegmentTail bounds what is read at once to judge a tail: more than one
// commit group can be.
const maxSegmentTail = 2 * (groupMaxBytes + maxSectionBytes)

// conclude checks what only the whole log can tell.
func (v *verification) conclude() error {
	r := v.report
	v.where.segment, v.where.offset, v.where.entry = "", 0, v.walk.entry
	v.publishedSignature()
	if v.halted {
		return nil
	}
	if v.signers.byIdentity {
		r.Trusted = r.Trusted && !v.signers.unvouched
	} else if !v.opts.Trust.knows(r.Origin) {
		v.found(Incomplete, Integrity, "give the trust file of this writer with --trust", "nobody vouches for this log: no trusted key for %s was given", r.Origin)
	} else if !r.Pinned && !v.unpinnable && v.pruned == 0 && v.last != nil {
		v.found(Incomplete, Completeness, "add the line that `meshaudit keygen writer` printed: chain "+r.Origin+" …", "the first chain key is not pinned in the trust file")
	}
	if v.last == nil {
		v.found(Incomplete, Completeness, "", "the log holds no whole commit")
	}
	if err := v.concludeErasures(); err != nil {
		return err
	}
	if v.published == nil && v.last != nil && !direct(v.fs) && v.opts.AsOf.Sub(time.Unix(0, int64(v.last.Sealed))) > publishGrace {
		v.foundAt(checkpointFile, 0, v.walk.entry, Incomplete, Completeness, "restore it from a copy; without it a cut tail is not seen", "the published checkpoint is missing")
	}
	if p := v.published; p != nil && p.Size > v.covered {
		v.foundAt(v.publishedAs, 0, v.covered, Tampering, Completeness, nextIsolate, fmt.Sprintf("%d entries were published, the log has %d: it was cut", p.Size, v.covered))
	}
	if p := v.since; p != nil && p.Size > v.covered {
		v.found(Tampering, Completeness, nextIsolate, "the older checkpoint states %d entries, the log has %d: it was cut or rolled back", p.Size, v.covered)
	} else if p != nil && !v.sinceSeen && p.Size > v.tree.size-v.entries {
		v.found(Tampering, Integrity, nextIsolate, "the log has no commit at entry %d, where the older checkpoint was published: it was rewritten", p.Size)
	}
	if gone := v.tree.size - v.entries; gone > v.pruned {
		v.found(Tampering, Completeness, nextIsolate, "entries before %d are missing, and no prune ordered that", gone)
	}
	if v.last != nil {
		silence := v.opts.AsOf.Sub(v.freshAt())
		if limit := 2 * time.Duration(v.heartbeat) * time.Second; silence > limit {
			v.found(Incomplete, Freshness, "if the writer was stopped on purpose, say until when it should reach with --as-of; else find out why it is silent",
				"the last entry was sealed at %s, %v before the time asked for; the writer promises a sign of life every %ds", at(v.last.Sealed), humane(silence), v.heartbeat)
		}
	}
	v.concludeWitnesses()
	v.concludeTimestamps()
	r.TagsProven = v.opts.Auditor != nil && !v.tagsLost && r.Axis(Integrity) < Tampering && r.Axis(Order) < Tampering && v.last != nil
	for _, p := range slices.Backward(append([]provenTo{v.beforeWiped}, v.proven...)) {
		if p.entries == 0 {
			break
		}
		if !v.firstBad.set || p.entries <= v.firstBad.entry {
			r.Proven, r.LastEntry, r.LastRecord = true, p.entries-1, p.records-min(1, p.records)
			r.LastSealed = time.Unix(0, int64(p.sealed)).UTC()
			break
		}
	}
	if err := v.tornFiles(); err != nil {
		return err
	}
	for _, name := range v.strange {
		v.misplaced(name)
	}
	return v.storedTiles()
}

// humane is a duration as a person says it: days where there are days.
func humane(d time.Duration) string {
	if days := int(d.Hours() / 24); days >= 2 {
		return fmt.Sprintf("%d days", days)
	}
	return d.Round(time.Second).String()
}

func at(ns uint64) string { return time.Unix(0, int64(ns)).UTC().Format(time.RFC3339) }
