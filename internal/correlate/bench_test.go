package correlate

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// load gives the evidence of calls, one after the other: both sidecars' reports,
// both proxies' spans, as a mesh of 1000 workloads gives it. A trace has four
// calls.
type load struct {
	calls [1000][4]evidence.Evidence
	next  uint64
	batch []evidence.Evidence
}

func newLoad() *load {
	l := new(load)
	for i := range l.calls {
		who := mtls(fmt.Sprint("ns/shop/sa/w", i), fmt.Sprint("ns/shop/sa/w", i*7%997))
		l.calls[i] = [4]evidence.Evidence{
			callerALS("x", who, reporter("sidecar~10.0.0.1~a-v1-abcde.shop~shop.svc.cluster.local")),
			calleeALS("x", who, reporter("sidecar~10.0.0.2~b-v1-abcde.shop~shop.svc.cluster.local"), status(200)),
			proxySpan("x", evidence.SpanServer),
			proxySpan("x", evidence.SpanClient),
		}
		for k := range l.calls[i] {
			l.calls[i][k].To.Workload = evidence.Workload{Name: "b", Namespace: "shop", Version: "v1"}
		}
	}
	return l
}

// take gives so many pieces of evidence, valid until the next time.
func (l *load) take(n int) []evidence.Evidence {
	l.batch = l.batch[:0]
	for ; len(l.batch) < n; l.next++ {
		requestID := fmt.Sprintf("e4e8c177-3962-9359-945e-%012x", l.next/4)
		for k, e := range l.calls[l.next%uint64(len(l.calls))] {
			binary.BigEndian.PutUint64(e.ID[:], l.next)
			e.ID[8] = byte(k)
			binary.BigEndian.PutUint64(e.TraceID[:], l.next/4+1)
			e.RequestID = requestID
			span := 2*l.next + 1
			if e.Role == evidence.RoleCallee {
				span++
			}
			binary.BigEndian.PutUint64(e.SpanID[:], span)
			if e.SpanKind == evidence.SpanServer {
				binary.BigEndian.PutUint64(e.ParentSpanID[:], span-1)
			}
			l.batch = append(l.batch, e)
		}
	}
	return l.batch
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
// each action, with so many pieces pending all the time, or kept for what comes
// late after their record has left. It begins when memory has grown to what it stays.
func BenchmarkCorrelate(b *testing.B) {
	for _, pending := range []int{1_000, 10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint("pending=", pending), func(b *testing.B) { benchmark(b, pending, 0) })
	}
	b.Run("left=1000000", func(b *testing.B) { benchmark(b, 10_000, 990_000) })
}

func benchmark(b *testing.B, pending, left int) {
	cfg := testConfig()
	cfg.MaxPending, cfg.MaxPendingBytes = 2*pending, 4<<30
	// Time advances so that pending pieces are within the settling time.
	step := cfg.Settle / time.Duration(pending)
	cfg.Window = cfg.Settle
	cfg.LateWindow = time.Duration(left) * step
	c := New(cfg)
	now := t0
	load := newLoad()
	var took time.Duration // making the evidence is not counted
	feed := func(pieces int) {
		for n := 0; n < pieces; n += len(load.batch) {
			load.take(256)
			now = now.Add(step * 256)
			start := cpuTime()
			c.Add(now, load.batch)
			_, _ = c.Deliver(500, func([]*Record) error { return nil })
			took += cpuTime() - start
		}
	}
	feed(3 * (pending + left))
	took = 0
	b.ReportAllocs()
	pieces := 0
	for b.Loop() {
		if pieces%256 == 0 {
			feed(256)
		}
		pieces++
	}
	b.ReportMetric(float64(took.Nanoseconds())/float64(pieces), "cpu-ns/piece")
	b.ReportMetric(float64(pieces)/took.Seconds(), "pieces/cpu-s")
	if kept := c.Stats().Kept; kept < (pending+left)/2 {
		b.Fatalf("only %d pieces are kept", kept)
	}
}

// BenchmarkAdders measures how many pieces per second so many receivers at once
// can add to so many shards, and what CPU time that takes. Each makes evidence of its own, which is
// counted, as a decoder's work would be: were it made before, the garbage collector
// would be busy with it.
func BenchmarkAdders(b *testing.B) {
	for _, of := range []struct{ adders, shards int }{{1, 1}, {2, 1}, {2, 2}, {4, 4}} {
		adders := of.adders
		b.Run(fmt.Sprintf("%d,shards=%d", adders, of.shards), func(b *testing.B) {
			const pending, batch = 100_000, 512
			cfg := testConfig()
			cfg.Window, cfg.Settle, cfg.LateWindow = time.Second, time.Second, 0
			cfg.MaxPending, cfg.MaxPendingBytes = 4*pending, 4<<30
			c := NewSharded(cfg, of.shards)
			b.ReportAllocs()
			var added atomic.Int64
			var deliver sync.WaitGroup
			done := make(chan struct{})
			deliver.Go(func() {
				for {
					select {
					case <-done:
						return
					case <-time.After(time.Millisecond):
						_, _ = c.Deliver(500, func([]*Record) error { return nil })
					}
				}
			})
			loads := make([]*load, adders)
			for i := range loads {
				loads[i] = newLoad()
				loads[i].next = uint64(i) << 40
			}
			add := func(each int) {
				var adding sync.WaitGroup
				for _, load := range loads {
					adding.Go(func() {
						for range each / batch {
							now := t0.Add(time.Duration(added.Add(batch)) * cfg.Settle / pending)
							c.Add(now, load.take(batch))
						}
					})
				}
				adding.Wait()
				c.Advance(t0)
			}
			add(4 * pending / adders)
			b.ResetTimer()
			start := cpuTime()
			add(b.N / adders)
			took := cpuTime() - start
			b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "cpu-ns/piece")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pieces/s")
			close(done)
			deliver.Wait()
		})
	}
}

// BenchmarkMemory measures what a piece costs on the heap while it is pending and
// when it has left, beside what the correlator accounts for it.
func BenchmarkMemory(b *testing.B) {
	for _, left := range []bool{false, true} {
		b.Run(fmt.Sprint("left=", left), func(b *testing.B) {
			const pieces = 400_000
			cfg := testConfig()
			cfg.MaxPending, cfg.MaxPendingBytes = 2*pieces, 4<<30
			for b.Loop() {
				var before, after runtime.MemStats
				load := newLoad()
				load.take(256)
				runtime.GC()
				runtime.ReadMemStats(&before)
				c := New(cfg)
				for i := 0; i < pieces; i += len(load.batch) {
					now := t0
					if left {
						now = now.Add(time.Duration(i) * 100 * time.Microsecond)
					}
					c.Add(now, load.take(256))
					_, _ = c.Deliver(500, func([]*Record) error { return nil })
				}
				runtime.GC()
				runtime.GC() // pools are emptied by the second
				runtime.ReadMemStats(&after)
				b.ReportMetric((float64(after.HeapAlloc)-float64(before.HeapAlloc))/pieces, "B/piece")
				b.ReportMetric(float64(c.Stats().Bytes)/pieces, "accounted-B/piece")
				runtime.KeepAlive(c)
				runtime.KeepAlive(load)
			}
		})
	}
}
