package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/meshaudit/meshaudit/exporter/sealedlogexporter"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/processor/meshauditprocessor"
)

// Lag: from the last piece of an action's evidence, accepted, which is sealed
// and synced, to its record, which is too. The processor with its defaults and the
// exporter, in one process with the load: the most that they take, and then the
// lag at a part of that.

// lagPart of what is the most is the load under which lag is measured.
const lagPart = 0.7

// silentEvery so manyth action is one of which the called side says nothing: its
// record waits for the end of the window.
const silentEvery = 20

// lagResult is what the child measured.
type lagResult struct {
	Most, Rate float64       // pieces of evidence a second
	CPU        float64       // of all cores, at Rate, the load's own included
	Window     time.Duration // of the processor
	Complete   lags
	Partial    lags
}

// lags of the records of one state.
type lags struct {
	Records       int
	P50, P99, Max time.Duration
}

func newLags(of []time.Duration) lags {
	if len(of) == 0 {
		return lags{}
	}
	slices.Sort(of)
	at := func(p float64) time.Duration { return of[min(len(of)-1, int(p*float64(len(of))))] }
	return lags{len(of), at(0.5), at(0.99), of[len(of)-1]}
}

func benchLag(ctx context.Context, s settings) (*lagResult, error) {
	progress("lag of records, %v", s.lag)
	dir, err := os.MkdirTemp(s.dir, "lag-")
	if err != nil {
		return nil, err
	}
	r := new(lagResult)
	err = doInChild(ctx, task{Role: "lag", Dir: dir, For: s.lag, Window: s.lagWindow, Profile: s.profileFile("lag")}, r)
	return r, errors.Join(err, os.RemoveAll(dir))
}

// An action is told of by both proxies' access logs and both applications'
// spans; a request carries one kind of them for so many actions.
const (
	actionsOfRequest = 100
	piecesOfAction   = 4
)

// lagSenders take turns at the pipeline, as the connections of a receiver do.
const lagSenders = 32

// pipeline is the processor before the exporter.
type pipeline struct {
	traces consumer.Traces
	logs   consumer.Logs
	stop   func() error

	accepted []atomic.Int64 // by action: when its last piece was, unix nanoseconds
	next     atomic.Int64   // action
	mu       sync.Mutex
	complete []time.Duration
	partial  []time.Duration
	records  atomic.Int64
}

func newPipeline(ctx context.Context, dir string, window time.Duration, actions int) (*pipeline, error) {
	p := &pipeline{accepted: make([]atomic.Int64, actions)}
	ef := sealedlogexporter.NewFactory()
	ecfg, err := configure(ef.CreateDefaultConfig(), map[string]any{
		"directory": filepath.Join(dir, "store"), "origin": origin, "keys": map[string]any{"create": true},
	})
	if err != nil {
		return nil, err
	}
	eset := exportertest.NewNopSettings(ef.Type())
	sealTraces, err := ef.CreateTraces(ctx, eset, ecfg)
	if err != nil {
		return nil, err
	}
	sealLogs, err := ef.CreateLogs(ctx, eset, ecfg)
	if err != nil {
		return nil, err
	}
	watched, err := consumer.NewLogs(func(ctx context.Context, ld plog.Logs) error {
		err := sealLogs.ConsumeLogs(ctx, ld)
		if err == nil {
			p.sealed(ld)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	pf := meshauditprocessor.NewFactory()
	pset := processortest.NewNopSettings(pf.Type())
	// With room for all that waits under full load: no record leaves early.
	pcfg, err := configure(pf.CreateDefaultConfig(), map[string]any{
		"window": window.String(), "settle": (window / 10).String(), // as 1s is to 10s
		"late_window": "0s", "max_pending": 4_000_000, "max_pending_bytes": 4 << 30,
	})
	if err != nil {
		return nil, err
	}
	traces, err := pf.CreateTraces(ctx, pset, pcfg, sealTraces)
	if err != nil {
		return nil, err
	}
	logs, err := pf.CreateLogs(ctx, pset, pcfg, watched)
	if err != nil {
		return nil, err
	}
	p.traces, p.logs = traces, logs
	p.stop = func() error {
		return errors.Join(traces.Shutdown(ctx), logs.Shutdown(ctx), sealTraces.Shutdown(ctx), sealLogs.Shutdown(ctx))
	}
	host := componenttest.NewNopHost()
	return p, errors.Join(sealTraces.Start(ctx, host), sealLogs.Start(ctx, host), logs.Start(ctx, host), traces.Start(ctx, host))
}

// sealed looks for records in what the exporter has acknowledged.
func (p *pipeline) sealed(ld plog.Logs) {
	now := time.Now().UnixNano()
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				if lr.EventName() != semconv.EventRequest {
					if _, ok := lr.Attributes().Get(semconv.EvidenceID); ok {
						return // evidence and records come apart
					}
					continue
				}
				p.records.Add(1)
				trace := lr.TraceID()
				action := binary.BigEndian.Uint64(trace[8:])
				accepted := p.accepted[action].Load()
				if accepted == 0 {
					continue // of the load that sought the most
				}
				state, _ := lr.Attributes().Get(semconv.MeshEvidenceState)
				p.mu.Lock()
				if state.Str() == "complete" {
					p.complete = append(p.complete, time.Duration(now-accepted))
				} else {
					p.partial = append(p.partial, time.Duration(now-accepted))
				}
				p.mu.Unlock()
			}
		}
	}
}

// send sends all evidence of some actions; timed, their lag counts.
func (p *pipeline) send(ctx context.Context, src *actionSource, timed bool) error {
	first := p.next.Add(actionsOfRequest) - actionsOfRequest
	if first+actionsOfRequest > int64(len(p.accepted)) {
		return errors.New("the load is more than was expected")
	}
	now := time.Now()
	for _, server := range []bool{false, true} {
		td, err := src.spans(uint64(first), server, now)
		if err != nil {
			return err
		}
		if err := p.traces.ConsumeTraces(ctx, td); err != nil {
			return err
		}
		ld, err := src.logs(uint64(first), server, now)
		if err != nil {
			return err
		}
		if timed && server {
			// A record may be sealed before this goroutine runs again; then the
			// lag would count from 0. Set before, the lag counts the sealing of
			// the last piece too.
			at := time.Now().UnixNano()
			for i := range actionsOfRequest {
				p.accepted[first+int64(i)].Store(at)
			}
		}
		if err := p.logs.ConsumeLogs(ctx, ld); err != nil {
			return err
		}
	}
	return nil
}

// lag is what the child does.
func lag(job task) (*lagResult, error) {
	ctx := context.Background()
	p, err := newPipeline(ctx, job.Dir, job.Window, int((job.For+2*job.Window).Seconds()+20)*100_000)
	if err != nil {
		return nil, err
	}
	r, err := p.measure(ctx, job.For, job.Window)
	return r, errors.Join(err, p.stop())
}

func (p *pipeline) measure(ctx context.Context, d, window time.Duration) (*lagResult, error) {
	src, err := newActionSource()
	if err != nil {
		return nil, err
	}
	r := &lagResult{Window: window}

	// The most: what is sealed of records while senders wait for nothing but
	// their acknowledgement. It begins when the first silent ones have left.
	warm := window + window/10
	seek := min(max(d/4, time.Second), 10*time.Second)
	began := time.Now()
	var group sync.WaitGroup
	errs := make([]error, lagSenders)
	for i := range lagSenders {
		group.Go(func() {
			for time.Since(began) < warm+seek && errs[i] == nil {
				errs[i] = p.send(ctx, src, false)
			}
		})
	}
	time.Sleep(warm)
	recorded, sent, at := p.records.Load(), p.next.Load(), time.Now()
	time.Sleep(seek)
	took := time.Since(at).Seconds()
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	// If records fell behind, the most is what records were made of.
	r.Most = piecesOfAction * min(float64(p.records.Load()-recorded), float64(p.next.Load()-sent)) / took

	// Let it come to rest, then so many requests a second.
	time.Sleep(warm)
	interval := time.Duration(float64(lagSenders*actionsOfRequest*piecesOfAction) / (lagPart * r.Most) * float64(time.Second))
	timedFrom := p.next.Load()
	began, used := time.Now(), cpuTime()
	for i := range lagSenders {
		group.Go(func() {
			due := began.Add(interval * time.Duration(i) / lagSenders)
			for due.Sub(began) < d && errs[i] == nil {
				time.Sleep(time.Until(due)) // late, it hurries: the load is what it is
				errs[i] = p.send(ctx, src, true)
				due = due.Add(interval)
			}
		})
	}
	group.Wait()
	took = time.Since(began).Seconds()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	timed := int(p.next.Load() - timedFrom)
	r.Rate = piecesOfAction * float64(timed) / took
	r.CPU = (cpuTime() - used).Seconds() / took
	for deadline := time.Now().Add(4 * window); p.timed() < timed; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%d of %d actions have a record", p.timed(), timed)
		}
	}
	r.Complete, r.Partial = newLags(p.complete), newLags(p.partial)
	return r, nil
}

// timed is how many records' lag is known.
func (p *pipeline) timed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.complete) + len(p.partial)
}

// actionSource makes requests: encoded once, decoded anew for each, with ids and
// times of their own.
type actionSource struct{ span, log [2][]byte }

func newActionSource() (*actionSource, error) {
	s := new(actionSource)
	for i := range 2 {
		var err error
		if s.span[i], err = new(ptrace.ProtoMarshaler).MarshalTraces(spanRequest(0, i == 1)); err != nil {
			return nil, err
		}
		if s.log[i], err = new(plog.ProtoMarshaler).MarshalLogs(accessLogRequest(i == 1)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// accessLogRequest is a sidecar's OpenTelemetry access log, of the labels of
// docs/sources/istio/mesh.yaml.
func accessLogRequest(callee bool) plog.Logs {
	const frontend, gateway = "spiffe://example.org/ns/shop/sa/frontend", "spiffe://example.org/ns/shop/sa/gateway"
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	node, labels := "sidecar~10.0.0.1~gateway-7c9f4d8b6-x2x7p.shop~shop.svc.cluster.local", map[string]string{
		"upstream_cluster": "outbound|8080||frontend.shop.svc.cluster.local", "upstream_peer_uri_san": frontend, "upstream_local_uri_san": gateway,
	}
	if callee {
		node, labels = "sidecar~10.0.0.2~frontend-7c9f4d8b6-x2x7p.shop~shop.svc.cluster.local", map[string]string{
			"upstream_cluster": "inbound|8080||", "downstream_peer_uri_san": gateway, "downstream_local_uri_san": frontend, "downstream_tls_version": "TLSv1.3",
		}
	}
	for k, v := range map[string]string{"log_name": "meshaudit", "node_name": node, "cluster_name": "frontend.shop"} {
		rl.Resource().Attributes().PutStr(k, v)
	}
	sl := rl.ScopeLogs().AppendEmpty()
	for range actionsOfRequest {
		a := sl.LogRecords().AppendEmpty().Attributes()
		for k, v := range labels {
			a.PutStr(k, v)
		}
		for k, v := range map[string]string{
			"method": "POST", "path": "/api/frontend/4711", "authority": "frontend:8080", "protocol": "HTTP/1.1", "response_code": "200",
			"response_code_details": "via_upstream", "response_flags": "-", "duration": "10", "stream_id": "", "request_id": "", "traceparent": "",
		} {
			a.PutStr(k, v)
		}
	}
	return ld
}

func actionTrace(action uint64) (id pcommon.TraceID) {
	binary.BigEndian.PutUint64(id[:], (action+1)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(id[8:], action)
	return id
}

// actionSpan is the caller's span or the callee's.
func actionSpan(action uint64, server bool) (id pcommon.SpanID) {
	n := 2*action + 1
	if server {
		n++
	}
	binary.BigEndian.PutUint64(id[:], n)
	return id
}

func (s *actionSource) spans(first uint64, server bool, now time.Time) (ptrace.Traces, error) {
	td, err := new(ptrace.ProtoUnmarshaler).UnmarshalTraces(s.span[index(server)])
	if err != nil {
		return td, err
	}
	spans := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans()
	for i, span := range spans.All() {
		action := first + uint64(i)
		span.SetTraceID(actionTrace(action))
		span.SetSpanID(actionSpan(action, server))
		if server {
			span.SetParentSpanID(actionSpan(action, false))
		}
		span.SetStartTimestamp(pcommon.NewTimestampFromTime(now))
		span.SetEndTimestamp(pcommon.NewTimestampFromTime(now.Add(10 * time.Millisecond)))
	}
	if server {
		n := first
		spans.RemoveIf(func(ptrace.Span) bool { n++; return silent(n - 1) })
	}
	return td, nil
}

func (s *actionSource) logs(first uint64, callee bool, now time.Time) (plog.Logs, error) {
	ld, err := new(plog.ProtoUnmarshaler).UnmarshalLogs(s.log[index(callee)])
	if err != nil {
		return ld, err
	}
	records := ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
	for i, lr := range records.All() {
		action := first + uint64(i)
		lr.SetTimestamp(pcommon.NewTimestampFromTime(now))
		a := lr.Attributes()
		a.PutStr("stream_id", fmt.Sprintf("%016x%t", action, callee))
		a.PutStr("request_id", fmt.Sprintf("d0df1a44-8ba2-9d55-9ac9-%012x", action))
		// A proxy passes on its own span; an application's is beneath it.
		a.PutStr("traceparent", fmt.Sprintf("00-%s-%s-01", actionTrace(action), actionSpan(action, false)))
	}
	if callee {
		n := first
		records.RemoveIf(func(plog.LogRecord) bool { n++; return silent(n - 1) })
	}
	return ld, nil
}

func silent(action uint64) bool { return action%silentEvery == 0 }

func index(second bool) int {
	if second {
		return 1
	}
	return 0
}
