package evidencetest

import (
	"syscall"
	"testing"
	"time"
)

// Rate reports MB/s of CPU time, which other work on the machine does not
// change much: call it at the benchmark's start and what it returns at its
// end. It counts the garbage collector too.
func Rate(b *testing.B, bytesPerLoop int) (done func()) {
	b.SetBytes(int64(bytesPerLoop))
	before := cpuTime(b)
	return func() {
		used := cpuTime(b) - before
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
