package correlate

import (
	"sync"
	"sync/atomic"
)

const (
	// maxWorkers of one pass: what it does one after the other then takes
	// as long as the rest.
	maxWorkers = 16
	// minShare is how many pieces are worth a worker of their own: for fewer,
	// waking it and moving to its caches what is in another's costs more than it
	// takes off.
	minShare = 512
)

// workers do parts of a pass at the same time. What comes out does not depend
// on how many there are.
type workers struct {
	n     int
	share int
}

// of gives how many workers n pieces are worth.
func (w workers) of(n int) int { return max(1, min(w.n, n/w.share)) }

// do calls f for stretches of 0 to n, each by one of the workers.
func (w workers) do(n int, f func(worker, from, to int)) {
	many := w.of(n)
	if many == 1 {
		f(0, 0, n)
		return
	}
	stretch := max(1, n/(8*many))
	var next atomic.Int64
	w.each(many, func(worker int) {
		for {
			to := int(next.Add(int64(stretch)))
			if to-stretch >= n {
				return
			}
			f(worker, to-stretch, min(to, n))
		}
	})
}

// each calls f once for each of many workers.
func (w workers) each(many int, f func(worker int)) {
	var others sync.WaitGroup
	for worker := 1; worker < many; worker++ {
		others.Go(func() { f(worker) })
	}
	f(0)
	others.Wait()
}
