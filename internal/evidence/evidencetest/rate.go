package evidencetest

import (
	"runtime"
	"syscall"
	"testing"
	"time"
)

// Rate reports MB/s of CPU time, which other work on the machine does not
// change much: call it at the benchmark's start and what it returns at its
// end. It counts the garbage collector too, beside a heap of a small collector's
// size: with the few kilobytes of a benchmark it would never stop.
func Rate(b *testing.B, bytesPerLoop int) (done func()) {
	b.SetBytes(int64(bytesPerLoop))
	heap := make([]byte, 64<<20)
	before := cpuTime(b)
	return func() {
		used := cpuTime(b) - before
		runtime.KeepAlive(heap)
		b.ReportMetric(float64(bytesPerLoop)*float64(b.N)/1e6/used.Seconds(), "MB/cpu-s")
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
