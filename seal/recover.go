package seal

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// begin finds the end of the log, cuts off what a crash or a fault left after
// the last checkpoint, and opens a new epoch there. before is the state that
// a fault made void, nil at start.
func (w *Writer) begin(before *logState) (*logState, error) {
	cfg := &w.cfg
	if err := removeTemporary(cfg.FS, filepath.Join(w.dir, segmentDir)); err != nil {
		return nil, err
	}
	limit := segmentLimit{}
	if before != nil && !direct(cfg.FS) { // an object is there, durably, or not
		limit = segmentLimit{true, before.first, before.synced}
	}
	end, err := w.findEnd(limit)
	if err != nil {
		return nil, err
	}
	published, err := w.checkAgainstCheckpointFile(end)
	if err != nil {
		return nil, err
	}
	if n := len(end.cuts); n > 0 && end.cuts[n-1].clean && end.last != nil && end.last.Kind == KindClose && published == end.tree.size {
		end.cuts = end.cuts[:n-1] // only what is durable was published
	}
	if before == nil && w.witnesses != nil {
		if err := w.checkAgainstWitnesses(end); err != nil {
			return nil, err
		}
	}
	key, err := w.chainKey(end)
	if err != nil {
		return nil, err
	}
	torn, err := w.cut(end)
	if err != nil {
		return nil, fmt.Errorf("cut off the damaged tail: %w", err)
	}
	if end.erase != nil && end.last.Kind != KindClose {
		// Before the next epoch's segment is the last one. What cannot be
		// overwritten now is tried again, and does not keep the log shut.
		if err := w.resumeErase(end.erase.Erase.Target); err != nil {
			w.fault(fmt.Errorf("erase: %w", err))
		}
	}
	after := AfterCrash
	switch {
	case end.last == nil:
		after = AfterFirst
	case end.signed == bySuccessor:
		after = AfterRotation
	case end.last.Kind == KindClose:
		after = AfterClean
	case before != nil:
		after = AfterFault
	}
	at := &logState{tree: end.tree, entry: end.tree.size, record: end.record, prev: end.prev}
	if end.signed == byPrevious {
		return w.handOver(at, key, after, torn)
	}
	return w.openEpoch(at, key, cfg.LogKey, after, torn)
}

// openEpoch begins the epoch of key, signed by log, behind what at describes.
func (w *Writer) openEpoch(at *logState, key ChainKey, log LogKey, after After, torn []Torn) (*logState, error) {
	cfg := &w.cfg
	now := cfg.Now()
	s := &logState{cfg: cfg, dir: w.dir, signers: []note.Signer{log}, tree: at.tree, entry: at.entry, record: at.record, prev: at.prev,
		epoch: key.Epoch, keys: key.ratchet(), began: now, sealed: uint64(now.UnixNano())}
	open := &OpenLines{
		Signer: log.VerifierKey(), Chain: key.Commitment(), After: after, Torn: torn,
		HeartbeatSeconds: uint64(cfg.Heartbeat / time.Second),
	}
	if c, ok := cfg.Chain.(*freshChain); ok {
		open.Fresh = key.Epoch == c.first
	}
	for _, a := range cfg.Auditors {
		e, err := key.escrow(cfg.Origin, a)
		if err != nil {
			return nil, err
		}
		open.Escrows = append(open.Escrows, e)
	}
	h := &Header{Kind: KindOpen, Open: open}
	var sections [][]byte
	if cfg.Identity != nil {
		chain, svidKey, err := cfg.svid(now)
		if err != nil {
			return nil, err
		}
		s.place(h)
		if sections, err = h.vouch(chain, svidKey); err != nil {
			return nil, err
		}
	}
	s.appendEntry(h, sections...)
	header := len(s.buf)
	for _, b := range sections {
		header -= len(b)
	}
	if header > maxHeaderBytes {
		return nil, fmt.Errorf("an open with %d auditors does not fit a header", len(cfg.Auditors))
	}
	if err := s.write(s.entry - 1); err != nil {
		s.abandon()
		return nil, err
	}
	if err := cfg.Chain.Replace(key.Next()); err != nil {
		s.abandon()
		return nil, err
	}
	return s, nil
}

func removeTemporary(fsys FS, dir string) error {
	if direct(fsys) {
		return nil // there is none
	}
	read := fsys.ReadDir
	if o, ok := fsys.(ObjectFS); ok {
		read = o.Tail // what is here
	}
	names, err := read(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if strings.HasSuffix(n.Name(), tmpSuffix) {
			if err := fsys.Remove(filepath.Join(dir, n.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// chainKey loads the key of the epoch to be opened. Anything but the epoch
// after the log's last is a rollback, of the key or of the log.
func (w *Writer) chainKey(end *logEnd) (ChainKey, error) {
	if c, ok := w.cfg.Chain.(*freshChain); ok && !c.begun {
		epoch := uint64(0)
		if end.last != nil {
			epoch = end.last.Epoch + 1
		}
		c.begin(epoch)
	}
	key, err := w.cfg.Chain.Load()
	if err != nil {
		return key, fmt.Errorf("chain key: %w", err)
	}
	if end.last == nil {
		if key.Epoch != 0 {
			return key, fmt.Errorf("the chain key is at epoch %d but the store holds no log of %s: the log was removed, or `directory` or `origin` changed; restore the log, or give a new origin its own keys", key.Epoch, w.cfg.Origin)
		}
		return key, nil
	}
	if key.Epoch == end.last.Epoch {
		// A crash came between a durable open and the key's replacement.
		next := key.Next()
		if err := w.cfg.Chain.Replace(next); err != nil {
			return key, err
		}
		key = next
	}
	if key.Epoch != end.last.Epoch+1 {
		return key, fmt.Errorf("the chain key is at epoch %d, the log's last epoch is %d: one of them was rolled back or restored from a copy; run `meshaudit verify` with an older checkpoint and do not write on until you know which", key.Epoch, end.last.Epoch)
	}
	return key, nil
}

// checkAgainstCheckpointFile refuses a log that is shorter than what it once
// published, and returns how many entries that were.
func (w *Writer) checkAgainstCheckpointFile(end *logEnd) (size uint64, err error) {
	b, name, err := newestCheckpoint(w.cfg.FS, w.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	c, err := openCheckpoint(b, w.verifier)
	if err != nil && w.previous != nil {
		c, err = openCheckpoint(b, w.previous)
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w: not signed by this log key; the log was written under another key (after `keygen rotate`, keep the previous one until the writer has started) or altered; run: meshaudit verify", filepath.Join(w.dir, name), err)
	}
	if c.Size > end.tree.size {
		return 0, fmt.Errorf("the log has %d entries, but %d were published in its checkpoint file: it was cut or rolled back; run `meshaudit verify`, restore the missing segments, or start a log with a new origin", end.tree.size, c.Size)
	}
	return c.Size, nil
}

// logEnd is what a start must know of the log that is there.
type logEnd struct {
	tree   *tree
	prev   Hash    // id of the last kept frame
	last   *Header // last kept entry, nil: the log is empty
	record uint64  // next record number
	signed signed  // its last checkpoint
	note   []byte  // the last checkpoint, signed
	erase  *Header // newest in the last segment, nil: none
	first  uint64  // of the last segment with a whole commit
	cuts   []cut
}

// cut is a segment that must lose its tail.
type cut struct {
	first uint64
	kept  int64 // bytes; 0: the whole file goes
	size  int64
	clean bool // nothing to cut, but its durability is unknown
}

// segmentLimit is, after a fault, how much of which segment was durable.
type segmentLimit struct {
	set   bool
	first uint64
	bytes int64
}

// findEnd reads the last segment that has a checkpoint, strictly.
func (w *Writer) findEnd(limit segmentLimit) (*logEnd, error) {
	firsts, strange, all, err := lastSegments(w.cfg.FS, w.dir)
	if err != nil {
		return nil, err
	}
	if len(strange) > 0 {
		return nil, fmt.Errorf("%s does not belong into a log: run `meshaudit verify`, then move it away", strange[0])
	}
	end := &logEnd{tree: new(tree)}
	for i := len(firsts) - 1; i >= 0 || !all; i-- {
		if i < 0 { // none of the last segments has a whole commit
			before := firsts[0]
			if firsts, _, err = segments(w.cfg.FS, w.dir); err != nil {
				return nil, err
			}
			i, _ = slices.BinarySearch(firsts, before)
			all = true
			continue
		}
		seg, err := w.readTail(firsts[i], limit)
		if err != nil {
			return nil, err
		}
		if seg.damage != nil && direct(w.cfg.FS) {
			return nil, fmt.Errorf("segment %s, offset %d: %w: an object is whole or absent, so no crash left this; run `meshaudit verify`, and start a log with a new origin", segmentName(firsts[i]), seg.kept, seg.damage)
		}
		if seg.damage != nil && len(end.cuts) > 0 {
			return nil, fmt.Errorf("segment %s, offset %d: %w, and a segment follows it: not a torn tail; run: meshaudit verify", segmentName(firsts[i]), seg.kept, seg.damage)
		}
		end.cuts = append(end.cuts, cut{firsts[i], seg.kept, seg.size, seg.kept == seg.size})
		if seg.last == nil {
			continue // a crash came before its first commit was whole
		}
		end.note, end.erase, end.first = seg.note, seg.erase, seg.first
		end.prev, end.last, end.record, end.signed = seg.prev, seg.last, seg.last.FirstRecord+seg.last.Records, seg.signed
		end.tree, err = w.restoreTree(seg)
		return end, err
	}
	return end, nil
}

// segmentTail is the last segment, as far as it is whole.
type segmentTail struct {
	first      uint64
	kept, size int64
	leaves     []Hash
	checkpoint Checkpoint // the last one
	note       []byte     // and signed
	prev       Hash
	last       *Header
	erase      *Header // the newest
	signed     signed  // checkpoint
	damage     error   // why what follows kept is not kept, nil if nothing does
}

// readTail reads a segment through the last checkpoint before its first
// damage, and decides whether what follows is a torn tail.
func (w *Writer) readTail(first uint64, limit segmentLimit) (*segmentTail, error) {
	name := filepath.Join(w.dir, segmentDir, segmentName(first))
	f, err := openRead(w.cfg.FS, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	t := &segmentTail{first: first, size: fi.Size()}
	readable := t.size
	afterFault := limit.set && limit.first <= first
	if afterFault {
		if limit.first < first {
			limit.bytes = 0
		}
		readable = min(readable, limit.bytes)
	}
	walk := walker{origin: w.cfg.Origin, entry: first}
	fr := newFrameReader(io.NewSectionReader(f, 0, readable), 0)
	var leaves []Hash
	var last, erase *Header
	var erased map[uint64]uint64 // see erasedIn; only if it is needed
	for {
		fm, err := fr.next()
		if errors.Is(err, errSectionHash) && fm.Kind != KindCheckpoint {
			if erased == nil {
				erased = erasedIn(io.NewSectionReader(f, 0, readable))
			}
			target := fm.Entry
			if fm.Kind == KindErase {
				target = fm.Erase.Target
			}
			if erased[target] > fm.Entry {
				err = nil // it is overwritten, or was about to be
			}
		}
		if err == nil {
			err = walk.step(fm)
		}
		var failed *readError
		if errors.As(err, &failed) {
			return nil, err // the disk's fault says nothing about the log
		}
		if err != nil {
			if err != io.EOF || t.kept != readable {
				t.damage = err
			}
			break
		}
		if fm.Kind != KindCheckpoint {
			leaves, last = append(leaves, leafHash(fm.text)), fm.Header
			if fm.Kind == KindErase {
				erase = fm.Header
			}
			continue
		}
		c, err := openCheckpoint(fm.sections[0], nil)
		if err != nil {
			t.damage = err
			break
		}
		if c.Size != walk.entry || c.Origin != w.cfg.Origin {
			t.damage = fmt.Errorf("checkpoint for %d entries of %s after entry %d", c.Size, c.Origin, walk.entry)
			break
		}
		t.kept, t.prev = fm.offset+fm.size, fm.id()
		t.leaves, t.last, t.erase = append(t.leaves, leaves...), last, erase
		t.checkpoint, t.note = c, bytes.Clone(fm.sections[0])
		leaves = leaves[:0]
	}
	if t.last != nil {
		if t.signed, err = w.signerOf(t.note); err != nil {
			return nil, fmt.Errorf("segment %s: its last checkpoint is not signed by this log key (%w): configure the key that this log was written under, after `keygen rotate` also the previous one, or another origin", segmentName(first), err)
		}
	}
	if t.damage == nil && t.kept < t.size && !afterFault {
		t.damage = errCut
	}
	if t.damage == nil || afterFault {
		t.damage = nil
		return t, nil
	}
	rest, err := readRange(f, t.kept, t.size)
	if err != nil {
		return nil, err
	}
	where := fmt.Sprintf("segment %s, offset %d: %v", segmentName(first), fr.offset, t.damage)
	if n := len(checkpointsIn(rest)); n > 1 {
		return nil, fmt.Errorf("%s, with %d commits after it: not a torn tail, acknowledged records may be damaged; run `meshaudit verify`, and start a log with a new origin", where, n)
	}
	if !torn(t.damage, rest, t.kept) && !w.cfg.Quarantine {
		return nil, fmt.Errorf("%s: a crash does not leave this; run `meshaudit verify`, then start once with `on_damaged_tail: quarantine` to keep it aside in torn/", where)
	}
	return t, nil
}

// erasedIn gives the newest committed erase of each batch in a segment.
func erasedIn(segment io.Reader) map[uint64]uint64 {
	erased := map[uint64]uint64{}
	fr := newFrameReader(segment, 0)
	fr.skip = onlyHeaders
	var group []*Header
	for {
		fm, err := fr.next()
		switch {
		case err != nil:
			return erased
		case fm.Kind == KindErase:
			group = append(group, fm.Header)
		case fm.Kind == KindCheckpoint:
			for _, h := range group {
				erased[h.Erase.Target] = h.Entry
			}
			group = group[:0]
		}
	}
}

// torn reports whether rest, which follows the last good checkpoint at offset
// at, is what a crash leaves: a valid prefix, or blocks never written.
func torn(damage error, rest []byte, at int64) bool {
	if damage == io.EOF || damage == errCut {
		return true
	}
	for i := (tornBlock - at%tornBlock) % tornBlock; i < int64(len(rest)); i += tornBlock {
		block := rest[i:min(i+tornBlock, int64(len(rest)))] // the last one is cut short by the file's end
		if bytes.Equal(block, zeroBlock[:len(block)]) {
			return true
		}
	}
	return false
}

var zeroBlock [tornBlock]byte

// checkpointStart is what a checkpoint frame begins with.
var checkpointStart = []byte(magic + string(KindCheckpoint) + "\n")

// checkpointsIn finds the whole checkpoint frames in b, wherever they are.
func checkpointsIn(b []byte) (at []int64) {
	for off := 0; ; off += len(checkpointStart) {
		i := bytes.Index(b[off:], checkpointStart)
		if i < 0 {
			return at
		}
		off += i
		if fm, err := newFrameReader(bytes.NewReader(b[off:]), 0).next(); err == nil && fm.Kind == KindCheckpoint {
			at = append(at, int64(off))
		}
	}
}

func readRange(f File, from, to int64) ([]byte, error) {
	return io.ReadAll(io.NewSectionReader(f, from, to-from))
}

// walker checks what a frame says of its place against the frames before it.
type walker struct {
	origin string
	entry  uint64 // next
	epoch  uint64
	record uint64
	sealed uint64
	prev   Hash
	begun  bool // a frame was seen: prev, epoch, record and sealed are known
	closed bool // the last entry was a close
}

// step checks the next frame and moves on.
func (k *walker) step(f *frame) error {
	if f.Origin != k.origin {
		return fmt.Errorf("%s is of origin %s", f.name(), f.Origin)
	}
	if k.begun && f.Prev != k.prev {
		return fmt.Errorf("%s does not follow the frame before it: its prev is another's", f.name())
	}
	if f.Kind != KindCheckpoint {
		switch {
		case f.Entry != k.entry:
			return fmt.Errorf("%s stands where entry %d belongs", f.name(), k.entry)
		case !k.begun && k.entry == 0 && (f.Kind != KindOpen || f.Open.After != AfterFirst || f.Epoch != 0 || f.FirstRecord != 0 || f.Prev != Hash{}):
			return fmt.Errorf("%s begins the log, which must be the open of epoch 0", f.name())
		case k.begun && f.Kind == KindOpen && (f.Epoch != k.epoch+1 || f.Open.After == AfterFirst):
			return fmt.Errorf("%s opens epoch %d after %s, after epoch %d", f.name(), f.Epoch, f.Open.After, k.epoch)
		case k.closed && f.Kind != KindOpen:
			return fmt.Errorf("%s follows the close of its epoch", f.name())
		case k.begun && f.Kind != KindOpen && f.Epoch != k.epoch:
			return fmt.Errorf("%s is of epoch %d, within epoch %d", f.name(), f.Epoch, k.epoch)
		case k.begun && f.FirstRecord != k.record:
			return fmt.Errorf("%s says that record %d is next, it is %d", f.name(), f.FirstRecord, k.record)
		case k.begun && f.Kind != KindOpen && f.Sealed < k.sealed:
			return fmt.Errorf("%s was sealed before the entry in front of it", f.name())
		}
		k.entry, k.epoch, k.record, k.sealed = f.Entry+1, f.Epoch, f.FirstRecord+f.Records, f.Sealed
		k.closed = f.Kind == KindClose
	} else if !k.begun {
		return errors.New("a checkpoint stands where an entry belongs")
	}
	k.prev, k.begun = f.id(), true
	return nil
}

// restoreTree gives the tree at the end of the last segment: its right edge
// from the tiles up to the segment, its leaves from the segment. Tiles that
// were not written, the last ones, are made up for by the headers of the
// entries under them. If the tiles do not lead to the signed root, it is
// computed from all segments' headers.
func (w *Writer) restoreTree(seg *segmentTail) (*tree, error) {
	t, err := storedTree(w.cfg.FS, w.dir, seg.first)
	if err == nil && seg.extend(t) {
		return t, nil
	}
	before, _, err := segments(w.cfg.FS, w.dir)
	if err != nil {
		return nil, err
	}
	i, _ := slices.BinarySearch(before, seg.first)
	before = before[:i]
	first := seg.first // that is kept
	if len(before) > 0 {
		first = before[0]
	}
	for n, size := 0, seg.first&^(tileWidth-1); n < maxTilesMissing && size > first; n, size = n+1, size-tileWidth {
		if t, err = storedTree(w.cfg.FS, w.dir, size); err != nil {
			continue
		}
		if err := w.pushLeaves(t, before, seg.first); err != nil {
			return nil, err
		}
		if t.size == seg.first && seg.extend(t) {
			return t, nil
		}
		break
	}
	t = new(tree)
	if first > 0 { // pruned: what was before is in the tiles only
		if t, err = storedTree(w.cfg.FS, w.dir, first); err != nil {
			return nil, fmt.Errorf("the tiles of what was pruned are gone: %w", err)
		}
	}
	if err := w.pushLeaves(t, before, seg.first); err != nil {
		return nil, err
	}
	if t.size == seg.first && seg.extend(t) {
		return t, nil
	}
	return nil, errors.New("the entries do not lead to the root in the last checkpoint: the log was altered; run: meshaudit verify")
}

// maxTilesMissing is how many of the last tiles may be missing before a start
// reads the whole log: what is not yet published when a writer is killed.
const maxTilesMissing = 64

// extend adds the segment's leaves and compares the last root.
func (s *segmentTail) extend(t *tree) bool {
	for _, l := range s.leaves {
		t.push(l)
	}
	return t.size == s.checkpoint.Size && t.root() == s.checkpoint.Root
}

// pushLeaves adds to a tree the entries that follow, up to an entry, from the
// headers in segments, which it reads side by side.
func (w *Writer) pushLeaves(t *tree, firsts []uint64, until uint64) error {
	from, found := slices.BinarySearch(firsts, t.size)
	if !found && from > 0 {
		from--
	}
	to, _ := slices.BinarySearch(firsts, until)
	type segment struct {
		first  uint64
		leaves []Hash
		err    error
	}
	read := make(chan chan segment, runtime.GOMAXPROCS(0)-1)
	stop := make(chan struct{})
	defer func() {
		close(stop)
		for one := range read {
			<-one
		}
	}()
	go func() {
		defer close(read)
		for _, first := range firsts[from:max(from, to)] {
			one := make(chan segment, 1)
			select {
			case read <- one:
			case <-stop:
				return
			}
			go func() {
				leaves, err := w.segmentLeaves(first)
				one <- segment{first, leaves, err}
			}()
		}
	}()
	for one := range read {
		s := <-one
		if s.err != nil {
			return s.err
		}
		for i, l := range s.leaves {
			if s.first+uint64(i) == t.size {
				t.push(l)
			}
		}
	}
	return nil
}

// segmentLeaves hashes a segment's entries. It reads no more of a header than
// where the next one is: whether the hashes are right, a signed root tells.
func (w *Writer) segmentLeaves(first uint64) (leaves []Hash, err error) {
	f, err := openRead(w.cfg.FS, filepath.Join(w.dir, segmentDir, segmentName(first)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fr := newFrameReader(f, 0)
	for {
		text, err := fr.headerText()
		if err == io.EOF {
			return leaves, nil
		}
		var stored int64
		if err == nil {
			stored, err = storedBytes(text)
		}
		if err == nil {
			_, err = fr.r.Discard(int(stored))
		}
		if err != nil {
			return nil, fmt.Errorf("segment %s, offset %d: %w; run: meshaudit verify", segmentName(first), fr.offset, err)
		}
		fr.offset += int64(len(text)) + 1 + stored
		if !bytes.HasPrefix(text, checkpointStart) {
			leaves = append(leaves, leafHash(text))
		}
	}
}

// storedBytes is how much of sections follows a header.
func storedBytes(header []byte) (n int64, err error) {
	for line := range bytes.Lines(header) {
		if v, ok := bytes.CutPrefix(line, []byte("section ")); ok {
			f := strings.Split(string(v), " ")
			if len(f) != 5 {
				return 0, grammarf("line \"section\" has %d values, expected 5", len(f))
			}
			stored, err := number(f[2])
			if err != nil {
				return 0, err
			}
			if stored > maxSectionBytes {
				return 0, grammarf("section of %d bytes, at most %d are allowed", stored, maxSectionBytes)
			}
			n += int64(stored)
		}
	}
	return n, nil
}

// cut moves every damaged tail aside and makes what stays durable. It returns
// the torn lines of the next open: also those of a recovery that a crash cut
// short.
func (w *Writer) cut(end *logEnd) ([]Torn, error) {
	fsys := w.cfg.FS
	if direct(fsys) {
		return nil, nil // what is there is whole and durable
	}
	for _, c := range end.cuts {
		name := filepath.Join(w.dir, segmentDir, segmentName(c.first))
		f, err := openRead(fsys, name)
		if err != nil {
			return nil, err
		}
		rest, err := readRange(f, c.kept, c.size)
		if err == nil && len(rest) > 0 {
			err = w.keepAside(end.tree.size, c, rest)
		}
		if err == nil && c.kept > 0 {
			// A copy, because a failed or missing fsync leaves it
			// open what of the old file is on the disk.
			err = copyPrefix(fsys, f, c.kept, name)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		if c.kept == 0 {
			if err := fsys.Remove(name); err != nil {
				return nil, err
			}
		}
		if err := fsys.SyncDir(filepath.Dir(name)); err != nil {
			return nil, err
		}
	}
	return w.tornLines(end.tree.size, end.first)
}

// tornName names what was cut off in front of an entry: the entry at which the
// log goes on, the segment and the offset that it was cut from.
func tornName(entry uint64, c cut) string {
	return fmt.Sprintf("%020d-%020d-%d", entry, c.first, c.kept)
}

func (w *Writer) keepAside(entry uint64, c cut, rest []byte) error {
	return replaceFile(w.cfg.FS, filepath.Join(w.dir, tornDir, tornName(entry, c)), rest, 0o644)
}

// tornLines names what was kept aside since the last open: the files whose names
// begin with the next entry. A recovery after a fault may have been cut short
// when it had kept aside a commit that is whole after all; such a file, which no
// open names, is renamed. Its commit is of the last segment.
func (w *Writer) tornLines(entry, first uint64) ([]Torn, error) {
	dir := filepath.Join(w.dir, tornDir)
	names, err := w.cfg.FS.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var lines []Torn
	for _, n := range names {
		of, rest, _ := strings.Cut(n.Name(), "-")
		at, err := strconv.ParseUint(of, 10, 64)
		if err != nil || at < first || at > entry || strings.HasSuffix(n.Name(), tmpSuffix) {
			continue
		}
		b, err := readFile(w.cfg.FS, filepath.Join(dir, n.Name()), 1<<40)
		if err != nil {
			return nil, err
		}
		t := Torn{uint64(len(b)), sha256.Sum256(b)}
		if at == first && at < entry {
			h, err := w.firstHeader(first)
			if err != nil {
				return nil, err
			}
			if h.Open != nil && slices.Contains(h.Open.Torn, t) {
				continue
			}
		}
		if at < entry {
			if err := w.cfg.FS.Rename(filepath.Join(dir, n.Name()), filepath.Join(dir, fmt.Sprintf("%020d-%s", entry, rest))); err != nil {
				return nil, err
			}
			if err := w.cfg.FS.SyncDir(dir); err != nil {
				return nil, err
			}
		}
		lines = append(lines, t)
	}
	return lines, nil
}

func copyPrefix(fsys FS, src File, n int64, name string) error {
	dst, err := fsys.OpenFile(name+tmpSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, io.NewSectionReader(src, 0, n))
	if err == nil {
		err = dst.Sync()
	}
	if err = errors.Join(err, dst.Close()); err != nil {
		return err
	}
	return fsys.Rename(name+tmpSuffix, name)
}
