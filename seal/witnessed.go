package seal

import (
	"fmt"
	"time"
)

// unwitnessed is a group that is durable and not yet acknowledged: it waits for
// a checkpoint of at least its size that enough witnesses cosigned.
type unwitnessed struct {
	size  uint64
	group []*pending
	timer *time.Timer
}

// awaitWitnesses acknowledges a group when it is witnessed, or gives up on it
// in time.
func (w *Writer) awaitWitnesses(size uint64, group []*pending) {
	for _, p := range group {
		p.sealed = nil // it is on the disk
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sealed = append(w.sealed, unwitnessed{size, group, time.AfterFunc(w.cfg.WitnessTimeout, func() {
		w.giveUp(size, fmt.Errorf("too few witnesses within %v", w.cfg.WitnessTimeout))
	})})
}

// takeSealed takes the groups that a checkpoint of size covers.
func (w *Writer) takeSealed(size uint64) []unwitnessed {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for n < len(w.sealed) && w.sealed[n].size <= size {
		w.sealed[n].timer.Stop()
		n++
	}
	taken := w.sealed[:n:n]
	w.sealed = w.sealed[n:]
	return taken
}

// giveUp tells callers that their requests are durable and not witnessed.
func (w *Writer) giveUp(size uint64, why error) {
	for _, u := range w.takeSealed(size) {
		for _, p := range u.group {
			w.settle(p, &FaultError{fmt.Errorf("it is durable, but not witnessed: %w", why)})
		}
	}
}

// submitted is told how the witnesses answered.
func (w *Writer) submitted(r Witnessing) {
	if r.Enough() {
		for _, u := range w.takeSealed(r.Size) {
			for _, p := range u.group {
				w.settle(p, nil)
			}
		}
	}
	if w.cfg.Witnessed != nil {
		w.cfg.Witnessed(r)
	}
}

// checkAgainstWitnesses refuses a log that is shorter than what its witnesses
// have seen.
func (w *Writer) checkAgainstWitnesses(end *logEnd) error {
	root, own := end.tree.root(), end.note
	if own == nil { // nothing is there: where there should be something, a witness knows
		var err error
		if own, err = (Checkpoint{w.cfg.Origin, 0, root}).sign(w.cfg.LogKey); err != nil {
			return err
		}
	}
	return w.witnesses.check(end.tree.size, root, own)
}
