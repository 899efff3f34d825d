package seal

import (
	"fmt"
	"path/filepath"
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
	if age := w.cfg.EpochMaxAge; age > 0 && w.cfg.Now().Sub(w.log.began) >= age {
		if err := w.rotateEpoch(); err != nil {
			w.setRefuse(&FaultError{err})
			w.recover(err)
			return true
		}
	}
	if err := w.prune(); err != nil {
		w.fault(fmt.Errorf("prune: %w", err))
	}
	return w.log == nil || w.log.entry != before
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
	next, err := w.openEpoch(w.log, key, AfterClean, nil)
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
	w.commit(nil, &Header{Kind: KindPrune, Prune: &PruneLines{First: first, Policy: w.cfg.Retention.policy()}})
	if w.refused() != nil {
		return w.refused()
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

func (w *Writer) refused() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refuse
}

// pruneUpTo finds the first entry to keep, and the segments before it.
func (w *Writer) pruneUpTo() (first uint64, gone []uint64, err error) {
	r := w.cfg.Retention
	if r == (Retention{}) {
		return 0, nil, nil
	}
	firsts, _, err := segments(w.cfg.FS, w.dir)
	if err != nil {
		return 0, nil, err
	}
	kept := int64(0) // bytes, if it were cut in front of segment cut
	sizes := make([]int64, len(firsts))
	for i, s := range firsts {
		fi, err := w.cfg.FS.Stat(filepath.Join(w.dir, segmentDir, segmentName(s)))
		if err != nil {
			return 0, nil, err
		}
		sizes[i] = fi.Size()
		kept += sizes[i]
	}
	cut := 0
	for i := 1; i < len(firsts); i++ {
		open, err := w.segmentOpen(firsts[i])
		if err != nil {
			return 0, nil, err
		}
		if open == nil {
			continue
		}
		tooOld := r.MaxAge > 0 && w.cfg.Now().Sub(time.Unix(0, int64(open.Sealed))) >= r.MaxAge
		tooLarge := r.MaxBytes > 0 && kept > r.MaxBytes
		if !tooOld && !tooLarge {
			break
		}
		for ; cut < i; cut++ { // all before this epoch goes
			kept -= sizes[cut]
		}
	}
	return firsts[cut], firsts[:cut], nil
}

// segmentOpen is the open that a segment starts with, nil if it continues an
// epoch.
func (w *Writer) segmentOpen(first uint64) (*Header, error) {
	f, err := openRead(w.cfg.FS, filepath.Join(w.dir, segmentDir, segmentName(first)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fm, err := newFrameReader(f, 0).next()
	if err != nil {
		return nil, err
	}
	if fm.Kind != KindOpen {
		return nil, nil
	}
	return fm.Header, nil
}
