package correlate

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// hop gives the evidence of one call: both sidecars' reports, both proxies'
// spans, as a mesh of 1000 workloads gives it.
func hop(i uint64, dst []evidence.Evidence) []evidence.Evidence {
	client := callerALS("x", mtls(fmt.Sprint("ns/shop/sa/w", i%1000), fmt.Sprint("ns/shop/sa/w", i%997)), reporter("sidecar~10.0.0.1~a-v1-abcde.shop~shop.svc.cluster.local"))
	server := calleeALS("x", mtls(fmt.Sprint("ns/shop/sa/w", i%1000), fmt.Sprint("ns/shop/sa/w", i%997)), reporter("sidecar~10.0.0.2~b-v1-abcde.shop~shop.svc.cluster.local"), status(200))
	in := proxySpan("x", evidence.SpanServer)
	out := proxySpan("x", evidence.SpanClient)
	for k, e := range []*evidence.Evidence{&client, &server, &in, &out} {
		binary.BigEndian.PutUint64(e.ID[:], i)
		e.ID[8] = byte(k)
		binary.BigEndian.PutUint64(e.TraceID[:], i/4+1)
		e.RequestID = fmt.Sprintf("e4e8c177-3962-9359-945e-%012x", i/4)
		binary.BigEndian.PutUint64(e.SpanID[:], 2*i+1)
		if e == &server || e == &in {
			binary.BigEndian.PutUint64(e.SpanID[:], 2*i+2)
		}
		if e == &in {
			binary.BigEndian.PutUint64(e.ParentSpanID[:], 2*i+1)
		}
		e.To.Workload = evidence.Workload{Name: "b", Namespace: "shop", Version: "v1"}
	}
	return append(dst, client, server, in, out)
}

// cpuTime is what the process has used, the garbage collector included: it
// does not depend on what else runs on the machine.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCorrelate measures the CPU time from evidence to record: four pieces
// each action, with so many pieces pending all the time.
func BenchmarkCorrelate(b *testing.B) {
	for _, pending := range []int{1_000, 10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint("pending=", pending), func(b *testing.B) {
			cfg := testConfig()
			cfg.MaxPending, cfg.MaxPendingBytes = 2*pending, 4<<30
			cfg.LateWindow = 0
			// Time advances so that pending pieces are within the settling time,
			// a tenth of the window.
			step := cfg.Settle / time.Duration(pending)
			cfg.Window = cfg.Settle
			c := New(cfg)
			now := t0
			var batch []evidence.Evidence
			i := uint64(0)
			var took time.Duration // making the evidence is not counted
			feed := func(pieces int) {
				for n := 0; n < pieces; n += len(batch) {
					batch = batch[:0]
					for len(batch) < 256 {
						batch = hop(i, batch)
						i++
					}
					now = now.Add(step * 256)
					start := cpuTime()
					c.Add(now, batch)
					_, _ = c.Deliver(500, func([]*Record) error { return nil })
					took += cpuTime() - start
				}
			}
			feed(pending + pending/4)
			took = 0
			b.ResetTimer()
			feed(b.N)
			b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "cpu-ns/piece")
			b.ReportMetric(float64(b.N)/took.Seconds(), "pieces/cpu-s")
			if kept := c.Stats().Kept; kept < pending/2 {
				b.Fatalf("only %d pieces are kept", kept)
			}
		})
	}
}

// BenchmarkMemory measures what a pending piece costs on the heap, beside what
// the correlator accounts for it.
func BenchmarkMemory(b *testing.B) {
	const pieces = 400_000
	cfg := testConfig()
	cfg.MaxPending, cfg.MaxPendingBytes = 2*pieces, 4<<30
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		c := New(cfg)
		var batch []evidence.Evidence
		for i := range uint64(pieces / 4) {
			batch = hop(i, batch[:0])
			c.Add(t0, batch)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/pieces, "B/piece")
		b.ReportMetric(float64(c.Stats().Bytes)/pieces, "accounted-B/piece")
		runtime.KeepAlive(c)
	}
}
