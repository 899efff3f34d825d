package seal

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
)

// An erase entry takes the place of a batch's sections: it holds the records
// that are left, with their salts, and the leaf hashes of those that are gone,
// and so still leads to the root that the batch's header states. Once it is
// durable, what it replaces is overwritten with zeros.

// content is what there is of a batch: all of its records, or what an erase
// left of them.
type content struct {
	sig    Signal
	msg    []byte  // the records that are left
	salts  []byte  // theirs, 16 bytes each
	erased []Range // positions that are gone
	leaves []byte  // their leaf hashes, 32 bytes each
}

// hash gives the leaf hashes of all n records, those that are gone included.
// What stands in the hasher's index is of those that are left.
func (c *content) hash(h *batchHasher, n uint64) ([]Hash, error) {
	gone := size(c.erased)
	switch {
	case len(c.erased) > 0 && c.erased[len(c.erased)-1].Last >= n:
		return nil, fmt.Errorf("position %d is erased, the batch has %d records", c.erased[len(c.erased)-1].Last, n)
	case uint64(len(c.leaves)) != gone*sha256.Size:
		return nil, fmt.Errorf("%d bytes of leaf hashes for %d erased records", len(c.leaves), gone)
	case uint64(len(c.salts)) != (n-gone)*saltBytes:
		return nil, fmt.Errorf("%d bytes of salts for %d records that are left", len(c.salts), n-gone)
	}
	left, err := countRecords(c.msg)
	if err == nil && uint64(left) != n-gone {
		err = fmt.Errorf("%d records are left where %d should be", left, n-gone)
	}
	if err != nil {
		return nil, err
	}
	if err := h.hash(c.sig, &saltStream{buf: c.salts}, c.msg); err != nil {
		return nil, err
	}
	all, kept, leaves := make([]Hash, 0, n), h.leaves, c.leaves
	for _, r := range c.erased {
		run := int(r.First) - len(all)
		all, kept = append(all, kept[:run]...), kept[run:]
		for range r.Last - r.First + 1 {
			all, leaves = append(all, Hash(leaves)), leaves[sha256.Size:]
		}
	}
	return append(all, kept...), nil
}

// size is how many positions ranges have.
func size(rs []Range) (n uint64) {
	for _, r := range rs {
		n += r.Last - r.First + 1
	}
	return n
}

// contains reports whether ranges, ascending, have a position.
func contains(rs []Range, position uint64) bool {
	_, found := slices.BinarySearchFunc(rs, position, func(r Range, p uint64) int {
		switch {
		case r.Last < p:
			return -1
		case r.First > p:
			return 1
		}
		return 0
	})
	return found
}

// union is all positions of both, ascending, adjacent ones joined.
func union(a, b []Range) []Range {
	all := slices.Concat(a, b)
	slices.SortFunc(all, func(x, y Range) int { return cmp.Compare(x.First, y.First) })
	joined := all[:0]
	for _, r := range all {
		if n := len(joined); n > 0 && r.First <= joined[n-1].Last+1 {
			joined[n-1].Last = max(joined[n-1].Last, r.Last)
			continue
		}
		joined = append(joined, r)
	}
	return joined
}

// without is c without the records at more positions, of a batch of n records.
func (c *content) without(more []Range, n uint64, h *batchHasher) (*content, error) {
	all, err := c.hash(h, n)
	if err != nil {
		return nil, err
	}
	rest := &content{sig: c.sig, erased: union(c.erased, more)}
	if last := rest.erased[len(rest.erased)-1].Last; last >= n {
		return nil, fmt.Errorf("there is no record %d in it, it has %d", last, n)
	}
	for _, r := range rest.erased {
		for p := r.First; p <= r.Last; p++ {
			rest.leaves = append(rest.leaves, all[p][:]...)
		}
	}
	position, salts := uint64(0), c.salts
	rest.msg, err = withoutRecords(c.msg, func() bool {
		for contains(c.erased, position) {
			position++
		}
		gone := contains(rest.erased, position)
		position++
		if !gone {
			rest.salts = append(rest.salts, salts[:saltBytes]...)
		}
		salts = salts[saltBytes:]
		return gone
	})
	return rest, err
}

// withoutRecords is a request without those records for which gone, asked in
// order, returns true. Scopes and resources without a record go too; all other
// bytes stay as they are.
func withoutRecords(msg []byte, gone func() bool) ([]byte, error) {
	var out []byte
	err := eachField(msg, func(f field, _ []byte) error {
		var resource []byte
		scopes := 0
		err := eachField(f.val, func(f field, raw []byte) error {
			if f.tag != 2 {
				resource = append(resource, raw...)
				return nil
			}
			var scope []byte
			records := 0
			err := eachField(f.val, func(f field, raw []byte) error {
				if f.tag == 2 && gone() {
					return nil
				}
				if f.tag == 2 {
					records++
				}
				scope = append(scope, raw...)
				return nil
			})
			if records > 0 {
				scopes++
				resource = appendBytesField(resource, 2, scope)
			}
			return err
		})
		if scopes > 0 {
			out = appendBytesField(out, 1, resource)
		}
		return err
	})
	return out, err
}

// eachField calls fn for every field of a message, with its bytes.
func eachField(msg []byte, fn func(f field, raw []byte) error) error {
	for len(msg) > 0 {
		f, err := nextField(msg)
		if err != nil {
			return err
		}
		if err := fn(f, msg[:f.size]); err != nil {
			return err
		}
		msg = msg[f.size:]
	}
	return nil
}

// encodeErase makes the sections of an erase.
func (e *batchEncoder) encodeErase(c *content) ([]Section, [][]byte, error) {
	if err := e.hasher.hash(c.sig, &saltStream{buf: c.salts}, c.msg); err != nil {
		return nil, nil, err
	}
	var nonce [nonceBytes]byte
	rand.Read(nonce[:])
	stored := [][]byte{e.hasher.filter.append(nil, nonce, e.hasher.index.keys), e.zstd.EncodeAll(c.msg, nil), c.salts, c.leaves}
	sections := make([]Section, len(stored))
	for i, name := range sectionsOf[KindErase] {
		n := uint64(len(stored[i]))
		if n > maxSectionBytes {
			return nil, nil, fmt.Errorf("section %s would have %d bytes, at most %d are allowed", name, n, maxSectionBytes)
		}
		sections[i] = Section{name, EncodingRaw, n, n, sha256.Sum256(stored[i])}
	}
	sections[0].Encoding = EncodingBloom
	sections[1].Encoding, sections[1].Plain = c.sig.encoding(), uint64(len(c.msg))
	return sections, stored, nil
}

// openErase gives what an erase keeps. The result is valid until the next
// call.
func (d *batchDecoder) openErase(h *Header, sections [][]byte) (*content, error) {
	sig, err := signalOf(h.Sections[1].Encoding)
	if err != nil {
		return nil, err
	}
	msg, err := d.decompress(&h.Sections[1], sections[1])
	return &content{sig, msg, sections[2], h.Erase.Erased, sections[3]}, err
}

// facts are what a batch's header says of its records, and what can be said of
// them from an erase.
type facts struct {
	root     Hash
	records  uint64
	min, max uint64 // event times; from an erase: of those that are left
	sig      Signal
}

func factsOf(h *Header) (f facts) {
	f = facts{root: h.Root, records: h.Records, min: h.TimeMin, max: h.TimeMax}
	f.sig, _ = signalOf(h.Sections[1].Encoding) // a parsed header has a known one
	return f
}

// verifyErase recomputes what an erase says of its own body, and what its
// target must have said.
func (d *batchDecoder) verifyErase(h *Header, sections [][]byte) (f facts, err error) {
	c, err := d.openErase(h, sections)
	if err != nil {
		return f, err
	}
	n := uint64(len(c.salts)/saltBytes) + size(c.erased)
	if n > maxEntryRecords {
		return f, fmt.Errorf("%d records in a batch, at most %d are allowed", n, maxEntryRecords)
	}
	leaves, err := c.hash(&d.hasher, n)
	if err != nil {
		return f, err
	}
	x := &d.hasher.index
	if err := d.checkFilter(sections[0], x.keys); err != nil {
		return f, err
	}
	return facts{merkleRoot(leaves), n, x.min, x.max, c.sig}, nil
}

// leadsTo reports why an erase, of which f was computed, is not one of the
// batch with the facts of.
func (f *facts) leadsTo(of *facts) error {
	switch {
	case f.sig != of.sig:
		return fmt.Errorf("it keeps %s, the batch holds %s", f.sig, of.sig)
	case f.records != of.records:
		return fmt.Errorf("it accounts for %d records, the batch has %d", f.records, of.records)
	case f.root != of.root:
		return errors.New("its records and leaf hashes do not lead to the batch's record root")
	case f.min != 0 && (f.min < of.min || f.max > of.max):
		return fmt.Errorf("its event times span %d to %d, the batch's %d to %d", f.min, f.max, of.min, of.max)
	}
	return nil
}

// --- overwriting ---

// wiped says what is left of a frame's sections.
type wiped uint8

const (
	intact wiped = iota // every hash matches
	partly              // some do not: being overwritten, or altered
	zeroed              // nothing
)

// wipedFrame judges the sections of a frame whose hashes do not all match.
func wipedFrame(f *frame) wiped {
	for _, b := range f.sections {
		if !allZero(b) {
			return partly
		}
	}
	return zeroed
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// place is where an entry's sections are.
type place struct {
	segment  uint64 // its first entry
	offset   int64  // of the frame
	from, to int64  // of the sections
}

func (e *Entry) place() place {
	return place{e.first, e.Offset, e.Offset + int64(len(e.text)) + 1, e.Offset + e.Size}
}

// zero overwrites an entry's sections, durably: in place or, where files are
// objects, by a version of the object that is left alone. It may be repeated.
func (p place) zero(fsys FS, dir string) (err error) {
	name := filepath.Join(dir, segmentDir, segmentName(p.segment))
	if objects, ok := fsys.(ObjectFS); ok {
		b, err := readFile(fsys, name, math.MaxInt32)
		if err != nil {
			return err
		}
		if int64(len(b)) < p.to {
			return fmt.Errorf("segment %s is shorter than it was", segmentName(p.segment))
		}
		clear(b[p.from:p.to])
		return objects.Overwrite(name, b)
	}
	f, err := fsys.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w, ok := f.(io.WriterAt)
	if !ok {
		return fmt.Errorf("segment %s cannot be overwritten", segmentName(p.segment))
	}
	var zeros [64 << 10]byte
	for at := p.from; at < p.to; at += int64(len(zeros)) {
		if _, err := w.WriteAt(zeros[:min(int64(len(zeros)), p.to-at)], at); err != nil {
			return err
		}
	}
	return f.Sync()
}

// isZero reports whether an entry's sections are overwritten.
func (p place) isZero(fsys FS, dir string) (bool, error) {
	f, err := openRead(fsys, filepath.Join(dir, segmentDir, segmentName(p.segment)))
	if err != nil {
		return false, err
	}
	defer f.Close()
	b, err := readRange(f, p.from, p.to)
	return err == nil && int64(len(b)) == p.to-p.from && allZero(b), err
}

// --- the writer ---

// Erasure names records of one batch.
type Erasure struct {
	Entry     uint64   // the batch
	Root      Hash     // its record root, as it was read: it must be that batch
	Positions []uint64 // in it: 0 is its first record
}

// order is an erase on its way to the committer.
type order struct {
	header   *Header // nil: only what is ordered already is to be overwritten
	sections [][]byte
	wipe     []place // once the erase is durable
	as       durable // what it was made for
	done     chan error
}

// durable is how many entries can no longer be lost, and how often the writer
// has recovered: as long as it does not, they stay where they are.
type durable struct{ entries, recoveries uint64 }

// Erase takes records out of the log for good, by whom and for what reason. For
// each batch an erase entry is sealed, which keeps the other records and the
// proofs of them; then what it replaces is overwritten with zeros. When Erase
// returns nil, the log's files hold nothing more of the records than their
// salted hashes. What is erased already is passed over; what an earlier call
// ordered and could not overwrite is overwritten first. An error leaves the
// batches that come after it as they were.
func (w *Writer) Erase(ctx context.Context, erasures []Erasure, by, reason string) error {
	if !validText(by) || !validText(reason) {
		return fmt.Errorf("by whom and for what reason must be 1 to %d bytes of printable UTF-8 each", maxTextBytes)
	}
	want, roots := map[uint64][]Range{}, map[uint64]Hash{}
	for _, e := range erasures {
		roots[e.Entry] = e.Root
		for _, p := range e.Positions {
			want[e.Entry] = append(want[e.Entry], Range{p, p})
		}
	}
	// One at a time, so that the newest erase of a batch is known.
	select {
	case w.erasing <- struct{}{}:
		defer func() { <-w.erasing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	log := &Log{Origin: w.cfg.Origin, dir: w.dir, fs: w.cfg.FS}
	// What can be read may not be durable yet, and be gone after a fault.
	at := &order{done: make(chan error, 1)}
	if err := w.submit(ctx, at); err != nil {
		return err
	}
	batches, err := log.erasable(ctx, want, at.as.entries)
	if err != nil {
		return err
	}
	var locked error // the first one; the others are erased all the same
	for _, b := range batches {
		if root, ok := roots[b.entry]; ok && root != b.root {
			return fmt.Errorf("entry %d is another batch than the one that was read", b.entry)
		}
		o, err := b.order(ctx, log, union(nil, want[b.entry]), by, reason)
		if err == nil && o != nil {
			o.as = at.as
			err = w.submit(ctx, o)
		}
		if err != nil {
			err = fmt.Errorf("entry %d: %w", b.entry, err)
		}
		switch {
		case err == nil:
		case !isLocked(err):
			return err
		case want[b.entry] != nil || len(want) == 0:
			locked = cmp.Or(locked, err)
		}
	}
	return locked
}

// submit hands an order to the committer and waits for the answer. One that has
// nothing to do learns what is durable.
func (w *Writer) submit(ctx context.Context, o *order) error {
	select {
	case w.orders <- o:
		return <-o.done
	case <-w.done:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// erasable is a batch of which records are to be erased, or were.
type erasable struct {
	entry  uint64
	root   Hash
	batch  place
	newest place   // its newest erase, if any
	old    []place // erases that the newest supersedes
	erased []Range // by the newest
}

// erasable finds the batches of which records are wanted, and all that an erase
// targets, in order, among the first entries.
func (l *Log) erasable(ctx context.Context, want map[uint64][]Range, entries uint64) ([]*erasable, error) {
	all := map[uint64]*erasable{}
	for entry := range want {
		all[entry] = &erasable{entry: entry}
	}
	err := l.Entries(ctx, onlyHeaders, func(e *Entry) error {
		if e.Header.Entry >= entries {
			return ErrStop
		}
		if e.Kind != KindErase {
			return nil
		}
		b := all[e.Erase.Target]
		if b == nil {
			b = &erasable{entry: e.Erase.Target}
			all[b.entry] = b
		}
		if b.erased != nil {
			b.old = append(b.old, b.newest)
		}
		b.newest, b.erased = e.place(), e.Erase.Erased
		return nil
	})
	if err != nil {
		return nil, err
	}
	missing := len(all)
	err = l.Entries(ctx, onlyHeaders, func(e *Entry) error {
		if e.Header.Entry >= entries {
			return ErrStop
		}
		b := all[e.Header.Entry]
		if b == nil {
			return nil
		}
		if e.Kind != KindBatch {
			return fmt.Errorf("entry %d is no batch but %s: it holds no records", b.entry, e.Kind)
		}
		b.batch, b.root = e.place(), e.Root
		if missing--; missing == 0 {
			return ErrStop
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var found []*erasable
	for entry, b := range all {
		switch {
		case b.batch != place{}:
			found = append(found, b)
		case want[entry] != nil:
			return nil, fmt.Errorf("the log has no entry %d", entry)
		}
	}
	slices.SortFunc(found, func(a, b *erasable) int { return cmp.Compare(a.entry, b.entry) })
	return found, nil
}

func onlyHeaders(*Header) bool { return true }

// order makes the erase that takes more positions out of a batch, nil if
// nothing is to be done. Without more positions it is one without a header:
// what is ordered is to be done.
func (b *erasable) order(ctx context.Context, log *Log, more []Range, by, reason string) (*order, error) {
	o := &order{done: make(chan error, 1)}
	// Of an object older versions may be left, which its content does not tell.
	_, objects := log.fs.(ObjectFS)
	for _, p := range append(slices.Clone(b.old), b.batch) {
		zero, err := p.isZero(log.fs, log.dir)
		if err != nil {
			return nil, err
		}
		if !zero || objects && len(more) == 0 {
			o.wipe = append(o.wipe, p)
		}
	}
	fresh := slices.ContainsFunc(more, func(r Range) bool {
		for p := r.First; p <= r.Last; p++ {
			if !contains(b.erased, p) {
				return true
			}
		}
		return false
	})
	if !fresh {
		if len(o.wipe) == 0 {
			return nil, nil
		}
		return o, nil
	}
	e, err := log.entry(ctx, b.entry)
	if err != nil {
		return nil, err
	}
	d := batchDecoders.Get().(*batchDecoder)
	defer batchDecoders.Put(d)
	// Not from the batch, if it should still be there: an erase never gives
	// back what the one before it took.
	if b.erased != nil && e.Erasure == nil {
		if err := log.readErase(e, b.newest); err != nil {
			return nil, err
		}
	}
	c, err := e.content(d)
	if err != nil {
		return nil, err
	}
	rest, err := c.without(more, e.Records, &d.hasher)
	if err != nil {
		return nil, err
	}
	enc := batchEncoders.Get().(*batchEncoder)
	defer batchEncoders.Put(enc)
	o.header = &Header{Kind: KindErase, Erase: &EraseLines{b.entry, rest.erased, by, reason}}
	if o.header.Sections, o.sections, err = enc.encodeErase(rest); err != nil {
		return nil, err
	}
	longest := *o.header
	longest.Origin, longest.Entry, longest.Epoch, longest.FirstRecord, longest.Sealed = e.Origin, math.MaxUint64, math.MaxUint64, math.MaxUint64, math.MaxInt64
	if n := len(longest.appendUntagged(nil)) + tagAndSumBytes; n > maxHeaderBytes {
		return nil, fmt.Errorf("%d separate runs of records do not fit a header: erase what is between them too, or the whole batch", len(rest.erased))
	}
	if b.erased != nil {
		o.wipe = append(o.wipe, b.newest)
	}
	return o, nil
}

// erase commits an order, carries it out and says so. It runs in the committer.
func (w *Writer) erase(o *order) {
	now := durable{w.log.entry, w.recoveries}
	if o.header == nil && o.wipe == nil {
		o.as = now
		o.done <- nil
		return
	}
	if o.as.recoveries != now.recoveries {
		o.done <- &FaultError{errors.New("the writer recovered from a fault in the meantime")}
		return
	}
	// An erase is sealed only when those before it are carried out: so a
	// start looks for the newest one alone.
	if err := w.wipe(); err != nil && !isLocked(err) {
		o.done <- fmt.Errorf("an earlier erasure cannot be carried out: %w", err)
		return
	}
	if o.header != nil {
		if err := w.tryCommit(nil, o.header, o.sections...); err != nil {
			o.done <- err
			w.recover(err.Err)
			return
		}
	}
	left, err := w.wipeAll(o.wipe)
	for _, p := range left {
		if !slices.Contains(w.unwiped, p) {
			w.unwiped = append(w.unwiped, p)
		}
	}
	if err != nil {
		w.fault(fmt.Errorf("erase: %w", err))
		err = fmt.Errorf("ordered, not done; the writer tries again, and after a restart does so when asked to finish: %w", err)
	}
	o.done <- err
}

// wipe overwrites what is ordered to be erased, but was not.
func (w *Writer) wipe() error {
	if w.cfg.Now().Before(w.wipeFrom) {
		return nil
	}
	var err error
	w.unwiped, err = w.wipeAll(w.unwiped)
	return err
}

// wipeAll overwrites the sections at some places, and returns those that it
// could not. It goes on behind what a lock keeps.
func (w *Writer) wipeAll(places []place) (left []place, err error) {
	for i, p := range places {
		if _, objects := w.cfg.FS.(ObjectFS); objects && w.log != nil && w.log.segment != nil && p.segment == w.log.first {
			w.log.abandon() // all of it is durable, and an object is replaced whole
			w.closedTo.Store(w.log.closed())
		}
		e := p.zero(w.cfg.FS, w.dir)
		var locked *LockedError
		switch {
		case e == nil, errors.Is(e, os.ErrNotExist): // it was pruned
		case errors.As(e, &locked):
			if left == nil || locked.Until.Before(w.wipeFrom) {
				w.wipeFrom = locked.Until
			}
			left, err = append(left, p), cmp.Or(err, e)
		default:
			return append(left, places[i:]...), e
		}
	}
	return left, err
}

func isLocked(err error) bool {
	var locked *LockedError
	return errors.As(err, &locked)
}

// resumeErase carries out the newest erase, which a crash may have left undone.
func (w *Writer) resumeErase(target uint64) error {
	log := &Log{Origin: w.cfg.Origin, dir: w.dir, fs: w.cfg.FS}
	batches, err := log.erasable(context.Background(), nil, math.MaxUint64)
	if err != nil {
		return err
	}
	for _, b := range batches {
		if b.entry == target {
			w.unwiped = append(b.old, b.batch)
		}
	}
	return w.wipe()
}

// --- reading ---

// Number is the number of the i-th record of a batch's body, over the log's
// life. Where none was erased, it is FirstRecord + i.
func (e *Entry) Number(i int) uint64 {
	position := uint64(i)
	if e.Erasure != nil {
		for _, r := range e.Erasure.Erase.Erased {
			if r.First > position {
				break
			}
			position += r.Last - r.First + 1
		}
	}
	return e.FirstRecord + position
}

// content opens a batch.
func (e *Entry) content(d *batchDecoder) (*content, error) {
	if e.Erasure != nil {
		return d.openErase(e.Erasure, e.parts)
	}
	s := &e.Sections[1]
	sig, err := signalOf(s.Encoding)
	if err != nil {
		return nil, err
	}
	seed, msg, err := d.open(s, e.parts[1])
	if err != nil {
		return nil, err
	}
	salts := make([]byte, e.Records*saltBytes)
	stream := newSaltStream(seed, nil)
	for i := range e.Records {
		copy(salts[i*saltBytes:], stream.next())
	}
	return &content{sig: sig, msg: msg, salts: salts}, nil
}

// erased gives a batch, whose sections are overwritten, what its newest erase
// keeps of it. Where no erase is found, it returns damage.
func (l *Log) erased(ctx context.Context, e *Entry, damage error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	// What was found may be superseded by the time that it is read.
	for again := 0; ; again++ {
		if at, ok := l.erases[e.Header.Entry]; ok {
			if err := l.readErase(e, at); err == nil || again == maxSuperseded {
				return err
			}
		} else if again > 0 {
			return damage
		}
		l.erases = map[uint64]place{}
		err := l.Entries(ctx, onlyHeaders, func(later *Entry) error {
			if later.Kind == KindErase {
				l.erases[later.Erase.Target] = later.place()
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}

// maxSuperseded is how often an erase may be superseded while it is read.
const maxSuperseded = 20

// readErase reads what the erase at a place keeps into its batch.
func (l *Log) readErase(e *Entry, at place) error {
	f, err := openRead(l.fs, filepath.Join(l.dir, segmentDir, segmentName(at.segment)))
	if err != nil {
		return err
	}
	defer f.Close()
	fm, err := newFrameReader(io.NewSectionReader(f, at.offset, at.to-at.offset), at.offset).next()
	if err != nil {
		return fmt.Errorf("segment %s, offset %d: %w; run: meshaudit verify", segmentName(at.segment), at.offset, err)
	}
	if fm.Kind != KindErase || fm.Erase.Target != e.Header.Entry {
		return fmt.Errorf("segment %s, offset %d: %s is no erase of entry %d", segmentName(at.segment), at.offset, fm.name(), e.Header.Entry)
	}
	e.Erasure, e.parts = fm.Header, fm.sections
	return nil
}
