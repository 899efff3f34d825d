package seal

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"
)

// Retention bounds what a log keeps. It is applied between epochs: a log keeps
// at least its newest one.
type Retention struct {
	MaxAge   time.Duration // 0: no bound
	MaxBytes int64         // of segments; 0: no bound
}

func (r Retention) policy() string {
	var p []string
	if r.MaxAge > 0 {
		p = append(p, fmt.Sprintf("max_age %v", r.MaxAge))
	}
	if r.MaxBytes > 0 {
		p = append(p, fmt.Sprintf("max_bytes %d", r.MaxBytes))
	}
	return strings.Join(p, ", ")
}

// maintain ends an epoch that is old enough and prunes what need not be kept.
// It reports whether it sealed anything.
func (w *Writer) maintain() bool {
	before := w.log.entry
	if age := w.cfg.EpochMaxAge; age > 0 && w.cfg.Now().Sub(w.log.began) >= age && w.hasIdentity() {
		if err := w.rotateEpoch(); err != nil {
			w.setRefuse(&FaultError{err})
			w.recover(err)
			return true
		}
	}
	if err := w.prune(); err != nil {
		w.fault(fmt.Errorf("prune: %w", err))
		w.pruned, w.pruneFailed = time.Time{}, true
	} else if w.pruneFailed {
		w.fault(nil)
		w.pruneFailed = false
	}
	if err := w.wipe(); err != nil {
		w.fault(fmt.Errorf("erase: %w", err))
	}
	return w.log == nil || w.log.entry != before
}

// hasIdentity reports whether an epoch can be opened: an epoch that is too old
// is better than none.
func (w *Writer) hasIdentity() bool {
	if w.cfg.Identity == nil {
		return true
	}
	_, _, err := w.cfg.svid(w.cfg.Now())
	if err != nil {
		w.fault(fmt.Errorf("no new epoch until there is a valid SVID; this one goes on: %w", err))
	} else if w.nameless {
		w.fault(nil)
	}
	w.nameless = err != nil
	return err == nil
}

// rotateEpoch closes the epoch and opens the next one, in a new segment.
func (w *Writer) rotateEpoch() error {
	if _, err := w.log.commit(nil, &Header{Kind: KindClose}, uint64(w.cfg.Now().UnixNano())); err != nil {
		return err
	}
	key, err := w.cfg.Chain.Load()
	if err != nil {
		return err
	}
	if key.Epoch != w.log.epoch+1 {
		return fmt.Errorf("the chain key is at epoch %d while epoch %d ends: another process uses it", key.Epoch, w.log.epoch)
	}
	next, err := w.openEpoch(w.log, key, w.cfg.LogKey, AfterClean, nil)
	if err != nil {
		return err
	}
	w.log.abandon()
	w.log = next
	return nil
}

// prune deletes segments that the retention does not keep. The order, with its
// policy, is sealed first: who finds segments missing finds out why.
func (w *Writer) prune() error {
	first, segments, err := w.pruneUpTo()
	if err != nil || len(segments) == 0 {
		return err
	}
	if _, err := storedTree(w.cfg.FS, w.dir, first); err != nil {
		return nil // the leaf hashes of what goes are not published yet: the next time
	}
	if err := w.commit(nil, &Header{Kind: KindPrune, Prune: &PruneLines{First: first, Policy: w.cfg.Retention.policy()}}); err != nil {
		return err // not durable: recovery may have cut it off
	}
	dir := filepath.Join(w.dir, segmentDir)
	for _, s := range segments { // oldest first: what is left has no gap
		if err := w.cfg.FS.Remove(filepath.Join(dir, segmentName(s))); err != nil {
			return err
		}
		if err := w.cfg.FS.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// pruneUpTo finds the first entry to keep, and the segments before it.
func (w *Writer) pruneUpTo() (first uint64, gone []uint64, err error) {
	r := w.cfg.Retention
	objects, remote := w.cfg.FS.(ObjectFS)
	now := w.cfg.Now()
	if r == (Retention{}) || remote && now.Before(w.pruned.Add(pruneObjectsEvery)) {
		return 0, nil, nil
	}
	w.pruned = now
	firsts, _, err := segments(w.cfg.FS, w.dir)
	if err != nil || len(firsts) == 0 {
		return 0, nil, err
	}
	kept, err := segmentBytes(w.cfg.FS, w.dir) // if it were cut in front of segment i
	if err != nil {
		return 0, nil, err
	}
	var cuts []int // in front of these segments, which begin epochs
	for i := 0; ; {
		next, open, err := w.nextEpoch(firsts, i)
		if err != nil {
			return 0, nil, err
		}
		if open == nil {
			break
		}
		tooOld := r.MaxAge > 0 && now.Sub(time.Unix(0, int64(open.Sealed))) >= r.MaxAge
		tooLarge := r.MaxBytes > 0 && kept > r.MaxBytes
		if !tooOld && !tooLarge {
			break
		}
		for ; i < next; i++ { // all before this epoch goes
			if r.MaxBytes == 0 {
				continue
			}
			fi, err := w.cfg.FS.Stat(filepath.Join(w.dir, segmentDir, segmentName(firsts[i])))
			if err != nil {
				return 0, nil, err
			}
			kept -= fi.Size()
		}
		cuts = append(cuts, next)
	}
	for _, cut := range slices.Backward(cuts) {
		if remote {
			if may, err := w.mayPrune(objects, firsts[cut-1], firsts[cut]); err != nil {
				return 0, nil, err
			} else if !may {
				continue
			}
		}
		return firsts[cut], firsts[:cut], nil
	}
	return 0, nil, nil
}

// pruneObjectsEvery is how often the segments in an object store are looked
// through: a listing takes a request for every thousand.
const pruneObjectsEvery = time.Hour

// mayPrune reports whether the segments through last may go from an object
// store, so that the log begins with entry first: no lock keeps them, and the
// tree up to there can be restored from full tiles alone.
func (w *Writer) mayPrune(objects ObjectFS, last, first uint64) (bool, error) {
	name := filepath.Join(w.dir, segmentDir, segmentName(last))
	until, err := objects.LockedUntil(name)
	if err != nil {
		return false, err
	}
	if until.After(w.cfg.Now()) {
		w.fault(&LockedError{name, until})
		return false, nil
	}
	if first%tileWidth == 0 {
		return true, nil
	}
	full := tile{0, first / tileWidth, make([]Hash, tileWidth)}
	_, err = objects.Stat(filepath.Join(w.dir, filepath.FromSlash(full.path())))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // a few entries more, and it is there
	}
	return err == nil, err
}

// nextEpoch finds the first segment after segment i that begins another epoch,
// and its open; nil if there is none. It reads few segments of many.
func (w *Writer) nextEpoch(firsts []uint64, i int) (next int, open *Header, err error) {
	here, err := w.firstHeader(firsts[i])
	if err != nil {
		return 0, nil, err
	}
	n := sort.Search(len(firsts)-i-1, func(n int) bool {
		h, e := w.firstHeader(firsts[i+1+n])
		if e != nil {
			err = e
			return true
		}
		return h.Epoch > here.Epoch
	})
	next = i + 1 + n
	if err != nil || next == len(firsts) {
		return next, nil, err
	}
	if open, err = w.firstHeader(firsts[next]); err == nil && open.Kind != KindOpen {
		err = fmt.Errorf("segment %s begins epoch %d without an open; run: meshaudit verify", segmentName(firsts[next]), open.Epoch)
	}
	return next, open, err
}

// firstHeader is the header that a segment starts with.
func (w *Writer) firstHeader(first uint64) (*Header, error) {
	f, err := openRead(w.cfg.FS, filepath.Join(w.dir, segmentDir, segmentName(first)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fr := newFrameReader(f, 0)
	fr.skip = func(*Header) bool { return true }
	fm, err := fr.next()
	if err != nil {
		return nil, fmt.Errorf("segment %s: %w", segmentName(first), err)
	}
	return fm.Header, nil
}
