package seal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
)

// erasure is what verify keeps of one erased batch until the log's end: about
// 250 bytes, however large the batch.
type erasure struct {
	facts facts // of the batch's header; records is 0 until it was read
	batch place
	state wiped // of the batch

	by      uint64 // the newest erase; 0: none yet
	newest  place
	current wiped // its state
	rebuilt facts // computed from it; records is 0 if it could not be
	erased  uint64
	leaf    Hash // of the newest erase

	damage error // of the batch, until an erase is known; then of that

	old []place // superseded erases that were not overwritten when they were read
}

func (v *verification) erasure(target uint64) *erasure {
	e := v.erasures[target]
	if e == nil {
		e = new(erasure)
		v.erasures[target] = e
	}
	return e
}

func (v *verification) place(f *frame) place {
	return place{v.at, f.offset, f.offset + int64(len(f.text)) + 1, f.offset + f.size}
}

// maxPartly is how many batches may be neither whole nor zeros until it is known
// whether an erase ordered that. Crashes leave one; a rewritten log any number.
const maxPartly = 100

// wipedBatch notes a batch whose sections do not match their hashes, which is
// right if an erase ordered that: wait for it, unless there are too many.
func (v *verification) wipedBatch(f *frame, state wiped, damage error) bool {
	if state == partly {
		if v.partly++; v.partly > maxPartly {
			return false
		}
	}
	if len(v.proven) > 0 && v.beforeWiped.entries == 0 {
		v.beforeWiped = v.proven[len(v.proven)-1]
	}
	e := v.erasure(f.Entry)
	e.facts, e.batch, e.state, e.damage = factsOf(f.Header), v.place(f), state, damage
	return true
}

// unordered reports whether something is overwritten, and no erase so far
// ordered that.
func (v *verification) unordered() bool {
	for _, e := range v.erasures {
		if e.by == 0 || e.current != intact {
			return true
		}
	}
	return false
}

// orderedErase notes an erase, and computes from its sections what the batch
// must have held.
func (v *verification) orderedErase(f *frame, state wiped, damage error) {
	target := f.Erase.Target
	if target >= f.Entry {
		v.found(Tampering, Erasures, nextIsolate, "%s erases entry %d, which is yet to come", f.name(), target)
		return
	}
	e := v.erasure(target)
	if e.by != 0 {
		if e.current != zeroed {
			e.old = append(e.old, e.newest)
		}
		before, err := v.headerAt(e.newest)
		if err != nil || before.Kind != KindErase {
			v.found(Tampering, Erasures, nextIsolate, "entry %d, which %s supersedes, cannot be read again: %v", e.by, f.name(), err)
		} else if !slices.Equal(union(before.Erase.Erased, f.Erase.Erased), f.Erase.Erased) {
			v.found(Tampering, Erasures, nextIsolate, "%s leaves out records of entry %d that entry %d erased", f.name(), target, e.by)
		}
	}
	v.mu.Lock()
	e.by, e.newest, e.current, e.damage, e.rebuilt, e.erased = f.Entry, v.place(f), state, damage, facts{}, size(f.Erase.Erased)
	e.leaf = leafHash(f.text)
	v.mu.Unlock()
	v.lastErase = f.Header
	if state != intact {
		return
	}
	segment, offset := v.where.segment, v.where.offset
	size := int64(f.Sections[1].Plain)
	for _, s := range f.Sections {
		size += int64(s.Stored)
	}
	_ = v.memory.acquire(context.Background(), size) // the workers give it back
	v.jobs <- func() {
		defer v.memory.release(size)
		d := batchDecoders.Get().(*batchDecoder)
		defer batchDecoders.Put(d)
		defer d.shrink()
		rebuilt, err := d.verifyErase(f.Header, f.sections)
		if err != nil {
			v.foundAt(segment, offset, f.Entry, Tampering, Erasures, nextIsolate, fmt.Sprintf("%s: %v", f.name(), err))
			return
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		if e.by == f.Entry {
			e.rebuilt = rebuilt
		}
	}
}

// headerAt reads a frame's header again.
func (v *verification) headerAt(p place) (*Header, error) {
	f, err := openRead(v.fs, filepath.Join(v.dir, segmentDir, segmentName(p.segment)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fr := newFrameReader(io.NewSectionReader(f, p.offset, p.to-p.offset), p.offset)
	fr.skip = onlyHeaders
	fm, err := fr.next()
	if err != nil {
		return nil, err
	}
	return fm.Header, nil
}

// concludeErasures compares batches with their erases, once all are known.
func (v *verification) concludeErasures() error {
	if err := v.readTargets(); err != nil {
		return err
	}
	records, batches := uint64(0), 0
	for _, target := range slices.Sorted(maps.Keys(v.erasures)) {
		e := v.erasures[target]
		at := func(p place, entry uint64, class Class, next, format string, args ...any) {
			v.foundAt(segmentDir+"/"+segmentName(p.segment), p.offset, entry, class, Erasures, next, fmt.Sprintf(format, args...))
		}
		pruned := target < v.first
		if e.by == 0 && e.state == partly {
			v.foundAt(segmentDir+"/"+segmentName(e.batch.segment), e.batch.offset, target, Tampering, Integrity, nextIsolate, e.damage.Error())
			continue
		}
		if e.by == 0 {
			v.foundAt(segmentDir+"/"+segmentName(e.batch.segment), e.batch.offset, target, Tampering, Integrity, nextIsolate, fmt.Sprintf("entry %d is overwritten with zeros, and no erase ordered that", target))
			continue
		}
		records, batches = records+e.erased, batches+1
		switch {
		case e.current == zeroed:
			at(e.newest, e.by, Tampering, nextIsolate, "entry %d is overwritten with zeros, and no later erase of entry %d supersedes it", e.by, target)
		case e.current == partly:
			at(e.newest, e.by, Tampering, nextIsolate, "%v", e.damage)
		case pruned || e.rebuilt.records == 0: // the latter is reported
		case e.facts.records == 0:
			at(e.newest, e.by, Tampering, nextIsolate, "entry %d erases records of entry %d, which is no batch", e.by, target)
			continue
		default:
			if err := e.rebuilt.leadsTo(&e.facts); err != nil {
				at(e.newest, e.by, Tampering, nextIsolate, "entry %d is no erase of entry %d: %v", e.by, target, err)
			}
		}
		undone := e.old
		if !pruned && e.state != zeroed {
			undone = append(undone, e.batch)
		}
		for _, p := range undone {
			// It may have been done since it was read.
			if zero, err := p.isZero(v.fs, v.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			} else if err == nil && !zero {
				v.reviewable(segmentDir+"/"+segmentName(p.segment), p.offset, e.by, e.leaf, Erasures, CodeEraseUndone, nextErase,
					fmt.Sprintf("an erasure of entry %d is ordered by entry %d, not done: this is not yet overwritten", target, e.by))
			}
		}
	}
	if batches > 0 {
		h := v.lastErase
		v.report.ErasedRecords, v.report.ErasedBatches = records, batches
		v.found(Note, Erasures, "", "%d records of %d batches were erased, the last on %s by %q, because %q", records, batches, at(h.Sealed), h.Erase.By, h.Erase.Reason)
	}
	return nil
}

const nextErase = "start the writer, or run: meshaudit erase STORE --finish"

// readTargets reads the headers of erased batches that the walk found whole.
func (v *verification) readTargets() error {
	var targets []uint64
	for target, e := range v.erasures {
		if e.facts.records == 0 && target >= v.first {
			targets = append(targets, target)
		}
	}
	if len(targets) == 0 {
		return nil
	}
	firsts, _, err := segments(v.fs, v.dir)
	if err != nil {
		return err
	}
	slices.Sort(targets)
	for i, first := range firsts {
		n := len(targets)
		if i+1 < len(firsts) {
			n, _ = slices.BinarySearch(targets, firsts[i+1])
		}
		if n == 0 {
			continue
		}
		if err := v.readTargetsIn(first, targets[:n]); err != nil {
			return err
		}
		targets = targets[n:]
	}
	return nil
}

func (v *verification) readTargetsIn(first uint64, targets []uint64) error {
	f, err := openRead(v.fs, filepath.Join(v.dir, segmentDir, segmentName(first)))
	if err != nil {
		return err
	}
	defer f.Close()
	fr := newFrameReader(f, 0)
	fr.skip = onlyHeaders
	for len(targets) > 0 {
		fm, err := fr.next()
		var failed *readError
		if errors.As(err, &failed) {
			return err
		}
		if err != nil {
			return nil // the walk has said so
		}
		if fm.Kind == KindCheckpoint || fm.Entry != targets[0] {
			continue
		}
		if fm.Kind == KindBatch {
			e := v.erasures[fm.Entry]
			e.facts = factsOf(fm.Header)
			e.batch = place{first, fm.offset, fm.offset + int64(len(fm.text)) + 1, fm.offset + fm.size}
		}
		targets = targets[1:]
	}
	return nil
}
