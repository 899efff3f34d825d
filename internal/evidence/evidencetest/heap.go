package evidencetest

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// HeapStaysBelow runs f and fails if the heap in use grows by more than that
// meanwhile. It is looked at every few milliseconds. What is garbage counts
// until it is collected, which is done often meanwhile.
func HeapStaysBelow(t *testing.T, most int64, f func()) {
	t.Helper()
	inUse := func() int64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	runtime.GC()
	before, peak := inUse(), int64(0)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(5 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-quit:
				return
			case <-ticker.C:
				peak = max(peak, inUse())
			}
		}
	}()
	f()
	close(quit)
	<-done
	if grown := max(peak, inUse()) - before; grown > most {
		t.Errorf("the heap grew by %d MiB, more than %d", grown>>20, most>>20)
	}
}
