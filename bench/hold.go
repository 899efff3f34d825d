package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/groupbytraceprocessor"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/processor/meshauditprocessor"
)

// Holding spans until their time: the same spans through meshaudit, which
// redacts and names each, passes it on and makes a record of each call, and
// through contrib's groupbytrace, which holds each and hands it on by trace.
// They come at a steady pace, so as many leave as come, and the number that
// waits is the pace times how long each is held.

// pace is how many spans come a second.
const pace = 20_000

// Who holds.
const (
	meshaudit    = "meshaudit"
	groupbytrace = "groupbytrace"
	nobody       = "nobody" // decoding alone, which is taken off both
)

// held is what one number of pending spans costs, by who holds them, one
// outcome for each round.
type held struct {
	pending int
	scarce  bool // there is not enough memory free
	by      map[string][]holdResult
}

// holdResult is of one process.
type holdResult struct {
	Spans   int
	CPU     time.Duration // while they came, and as many left, the garbage collector included
	Pending int           // of those before them, none of which had left
	Heap    int64         // with these
}

// cpu is per span, in seconds, without decoding.
func (h *held) cpu(by string) float64 {
	of := func(who string) (cpu []float64) {
		for _, r := range h.by[who] {
			cpu = append(cpu, r.CPU.Seconds()/float64(r.Spans))
		}
		return cpu
	}
	return median(of(by)) - median(of(nobody))
}

// heap is per span that waits, in bytes.
func (h *held) heap(by string) float64 {
	var of []float64
	for _, r := range h.by[by] {
		of = append(of, float64(r.Heap)/float64(r.Pending))
	}
	return median(of)
}

// benchHold measures them by turns, each in a process of its own.
func benchHold(ctx context.Context, s settings) ([]held, error) {
	var all []held
	for _, pending := range s.pending {
		h := held{pending: pending, by: map[string][]holdResult{}}
		if free := memoryAvailable(); free > 0 && free < int64(pending)*maxHeldBytes {
			progress("holding %d spans: left out, %d MiB of memory are free", pending, free>>20)
			h.scarce = true
			all = append(all, h)
			continue
		}
		rounds := s.rounds
		if pending >= 1_000_000 {
			rounds = 1
		}
		for round := range rounds {
			for _, by := range []string{nobody, meshaudit, groupbytrace} {
				progress("holding %d spans: %s, round %d", pending, by, round+1)
				var r holdResult
				if err := doInChild(ctx, task{Role: "hold", Exporter: by, Batch: pending, For: s.held,
					Profile: s.profileFile("hold", by, pending)}, &r); err != nil {
					return nil, fmt.Errorf("%s: %w", by, err)
				}
				h.by[by] = append(h.by[by], r)
			}
		}
		all = append(all, h)
	}
	return all, nil
}

// maxHeldBytes is more than either needs for a span.
const maxHeldBytes = 12 << 10

// holder is what is measured.
type holder struct {
	consume func(context.Context, ptrace.Traces) error
	left    func() int // how many spans have left it, or are told of by records that have
	stop    func() error
}

func newHolder(ctx context.Context, by string, spans int, wait time.Duration) (*holder, error) {
	switch by {
	case meshaudit:
		return newCorrelating(ctx, spans, wait)
	case groupbytrace:
		return newGrouping(ctx, spans, wait)
	case nobody:
		return &holder{
			consume: func(context.Context, ptrace.Traces) error { return nil },
			left:    func() int { return 0 },
			stop:    func() error { return nil },
		}, nil
	}
	return nil, fmt.Errorf("%q holds no spans", by)
}

func newGrouping(ctx context.Context, spans int, wait time.Duration) (*holder, error) {
	var n atomic.Int64
	next, err := consumer.NewTraces(func(_ context.Context, td ptrace.Traces) error {
		n.Add(int64(td.SpanCount()))
		return nil
	}, consumer.WithCapabilities(consumer.Capabilities{MutatesData: true}))
	if err != nil {
		return nil, err
	}
	f := groupbytraceprocessor.NewFactory()
	cfg, err := configure(f.CreateDefaultConfig(), map[string]any{"wait_duration": wait.String(), "num_traces": 2*spans/spansOfTrace + pace/spansOfTrace})
	if err != nil {
		return nil, err
	}
	p, err := f.CreateTraces(ctx, processortest.NewNopSettings(f.Type()), cfg, next)
	if err != nil {
		return nil, err
	}
	return &holder{p.ConsumeTraces, func() int { return int(n.Load()) }, func() error { return p.Shutdown(ctx) }}, p.Start(ctx, componenttest.NewNopHost())
}

// newCorrelating holds each call for as long as groupbytrace its trace, and
// remembers nothing of it afterwards, as that does.
func newCorrelating(ctx context.Context, spans int, wait time.Duration) (*holder, error) {
	var records atomic.Int64
	evidence, err := consumer.NewTraces(func(context.Context, ptrace.Traces) error { return nil })
	if err != nil {
		return nil, err
	}
	next, err := consumer.NewLogs(func(_ context.Context, ld plog.Logs) error {
		for _, rl := range ld.ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, lr := range sl.LogRecords().All() {
					if lr.EventName() == semconv.EventRequest {
						records.Add(1)
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	f := meshauditprocessor.NewFactory()
	cfg, err := configure(f.CreateDefaultConfig(), map[string]any{
		"window": wait.String(), "settle": wait.String(), "late_window": "0s", "max_pending": 2*spans + pace, "max_pending_bytes": 16 << 30,
	})
	if err != nil {
		return nil, err
	}
	set := processortest.NewNopSettings(f.Type())
	traces, err := f.CreateTraces(ctx, set, cfg, evidence)
	if err != nil {
		return nil, err
	}
	logs, err := f.CreateLogs(ctx, set, cfg, next)
	if err != nil {
		return nil, err
	}
	host := componenttest.NewNopHost()
	return &holder{
		traces.ConsumeTraces,
		func() int { return 2 * int(records.Load()) }, // a client's span and the server's
		func() error { return errors.Join(traces.Shutdown(ctx), logs.Shutdown(ctx)) },
	}, errors.Join(logs.Start(ctx, host), traces.Start(ctx, host))
}

// hold is what the child does.
func hold(job task) (r holdResult, err error) {
	ctx := context.Background()
	src, err := newSpanSource()
	if err != nil {
		return r, err
	}
	wait := time.Duration(job.Batch) * time.Second / pace
	if job.Exporter == nobody {
		wait = 0
	}
	if err := holdOne(ctx, src, job.Exporter); err != nil {
		return r, err
	}
	runtime.GC()
	before := heapAlloc()
	h, err := newHolder(ctx, job.Exporter, job.Batch, wait)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	due, sent := time.Now(), 0
	feed := func(d time.Duration) error {
		for end := sent + int(d.Seconds()*pace); sent < end; sent += spansOfBlock {
			time.Sleep(time.Until(due))
			due = due.Add(spansOfBlock * time.Second / pace)
			if err := src.block(ctx, h.consume); err != nil {
				return err
			}
		}
		return nil
	}

	if err := feed(wait * 3 / 4); err != nil { // before any leaves
		return r, err
	}
	runtime.GC()
	r.Heap, r.Pending = heapAlloc()-before, sent-h.left()
	if err := feed(wait + time.Second); err != nil { // until they do, and the heap has grown
		return r, err
	}
	used, fed := cpuTime(), sent
	if err := feed(max(wait, job.For)); err != nil {
		return r, err
	}
	r.CPU, r.Spans = cpuTime()-used, sent-fed
	if late := time.Since(due); late > wait/4+time.Second {
		return r, fmt.Errorf("%d spans a second are more than it takes: it is %v behind", pace, late)
	}
	if waits := sent - h.left(); job.Exporter != nobody && (waits < job.Batch*3/4 || waits > job.Batch*5/4+pace/2) {
		return r, fmt.Errorf("%d spans wait, not %d: they leave too early, or are lost", waits, job.Batch)
	}
	return r, nil
}

// holdOne holds some, so that what is made once a process is not counted.
func holdOne(ctx context.Context, src *spanSource, by string) error {
	h, err := newHolder(ctx, by, spansOfBlock, time.Millisecond)
	if err != nil {
		return err
	}
	return errors.Join(src.block(ctx, h.consume), h.stop())
}

func heapAlloc() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A trace is four calls in a chain of five workloads, each call told of by the
// caller's client span and the callee's server span. A request carries one
// workload's spans of many traces, as an SDK batches them: so a trace's spans
// come in as many requests.
const (
	callsOfTrace   = 4
	spansOfTrace   = 2 * callsOfTrace
	tracesOfBlock  = 100
	spansOfBlock   = spansOfTrace * tracesOfBlock
	spansOfRequest = tracesOfBlock
)

// spanSource makes requests: encoded once, decoded anew for each, with ids and
// times of their own.
type spanSource struct {
	requests [spansOfTrace][]byte
	trace    uint64
}

func newSpanSource() (*spanSource, error) {
	s := new(spanSource)
	for i := range s.requests {
		call, server := i/2, i%2 == 1
		var err error
		if s.requests[i], err = new(ptrace.ProtoMarshaler).MarshalTraces(spanRequest(call, server)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func spanRequest(call int, server bool) ptrace.Traces {
	workloads := [callsOfTrace + 1]string{"gateway", "frontend", "checkout", "orders", "payments"}
	own, kind, callee := workloads[call], ptrace.SpanKindClient, workloads[call+1]
	if server {
		own, kind = callee, ptrace.SpanKindServer
	}
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	for k, v := range map[string]string{
		"service.name": own, "service.version": "1.14.2", "k8s.namespace.name": "shop", "k8s.deployment.name": own,
		"k8s.pod.name": own + "-7c9f4d8b6-x2x7p", "k8s.node.name": "node-7", "telemetry.sdk.language": "go", "telemetry.sdk.version": "1.44.0",
	} {
		rs.Resource().Attributes().PutStr(k, v)
	}
	ss := rs.ScopeSpans().AppendEmpty()
	ss.Scope().SetName("go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp")
	for range spansOfRequest {
		span := ss.Spans().AppendEmpty()
		span.SetKind(kind)
		span.SetName("POST /api/" + callee + "/{id}")
		a := span.Attributes()
		a.PutStr("http.request.method", "POST")
		a.PutInt("http.response.status_code", 200)
		a.PutStr("url.path", "/api/"+callee+"/4711")
		a.PutStr("http.route", "/api/"+callee+"/{id}")
		a.PutStr("server.address", callee+".shop.svc.cluster.local")
		a.PutInt("server.port", 8080)
		a.PutStr("network.protocol.version", "1.1")
		a.PutStr("user_agent.original", "Go-http-client/1.1")
	}
	return td
}

// block gives the requests of some traces, one after the other.
func (s *spanSource) block(ctx context.Context, consume func(context.Context, ptrace.Traces) error) error {
	now := time.Now()
	for i, b := range s.requests {
		td, err := new(ptrace.ProtoUnmarshaler).UnmarshalTraces(b)
		if err != nil {
			return err
		}
		spans := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans()
		for n, span := range spans.All() {
			s.name(span, s.trace+uint64(n), i)
			start := now.Add(time.Duration(i) * 100 * time.Microsecond)
			span.SetStartTimestamp(pcommon.NewTimestampFromTime(start))
			span.SetEndTimestamp(pcommon.NewTimestampFromTime(start.Add(10 * time.Millisecond)))
		}
		if err := consume(ctx, td); err != nil {
			return err
		}
	}
	s.trace += tracesOfBlock
	return nil
}

// name gives the i-th span of a trace its ids: a child of the one before.
func (s *spanSource) name(span ptrace.Span, trace uint64, i int) {
	var id pcommon.TraceID
	binary.BigEndian.PutUint64(id[:], (trace+1)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(id[8:], trace)
	span.SetTraceID(id)
	spanID := func(i int) (id pcommon.SpanID) {
		binary.BigEndian.PutUint64(id[:], trace*spansOfTrace+uint64(i)+1)
		return id
	}
	span.SetSpanID(spanID(i))
	if i > 0 {
		span.SetParentSpanID(spanID(i - 1))
	}
}
