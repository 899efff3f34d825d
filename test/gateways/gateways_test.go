package gateways

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/meshaudit/meshaudit/internal/docblock"
	"github.com/meshaudit/meshaudit/internal/query"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/seal"
)

// window is long enough for a resize in the midst of it.
const window = 5 * time.Second

// An agent is one with the documentation's configuration.
type agent struct {
	*process
	conn      *grpc.ClientConn
	decisions string // where OPA uploads
}

// newAgent differs from the documentation in addresses, and lists the gateways
// where that asks DNS: what the exporter does with the answer is the same.
func newAgent(t *testing.T, gateways ...*gateway) *agent {
	t.Helper()
	var endpoints []string
	for _, g := range gateways {
		endpoints = append(endpoints, g.endpoint)
	}
	otlp, als, opa := freeAddress(t), freeAddress(t), freeAddress(t)
	here := fmt.Sprintf(`
receivers:
  otlp: {protocols: {grpc: {endpoint: %q}}}
  envoy_access_log: {endpoint: %q}
  opa_decision_log: {endpoint: %q}
exporters:
  load_balancing:
    protocol: {otlp: {tls: {insecure: true, ca_file: "", cert_file: "", key_file: ""}}}
    resolver: {dns: null, static: {hostnames: [%s]}}
service: {telemetry: {metrics: {level: none}, logs: {level: fatal}}}
`, otlp, als, opa, strings.Join(endpoints, ", "))
	a := &agent{process: run(t, documented(t, "mode: tag"), here), decisions: "http://" + opa + "/logs"}
	a.conn = dial(t, otlp)
	return a
}

// documented is the documentation's configuration that holds something.
func documented(t *testing.T, something string) string {
	t.Helper()
	blocks, err := docblock.Of("../..", docblock.Contrib)
	must(t, err)
	i := slices.IndexFunc(blocks, func(b docblock.Block) bool { return strings.Contains(b.Text, something) })
	if i < 0 {
		t.Fatalf("nothing is documented with %q", something)
	}
	return blocks[i].Text
}

func dial(t *testing.T, endpoint string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// A gateway correlates and seals, in a log of its own in the store that all of
// them share.
type gateway struct {
	*process
	endpoint, origin string
}

func newGateway(t *testing.T, store, name string) *gateway {
	t.Helper()
	g := &gateway{endpoint: freeAddress(t), origin: "example.org/gateways/" + name}
	g.process = run(t, fmt.Sprintf(`
receivers:
  otlp: {protocols: {grpc: {endpoint: %q}}}
processors:
  meshaudit: {window: %s, settle: 500ms}
exporters:
  sealed_log: {directory: %q, origin: %q, keys: {directory: %q, create: true}}
service:
  pipelines:
    traces: {receivers: [otlp], processors: [meshaudit], exporters: [sealed_log]}
    logs: {receivers: [otlp], processors: [meshaudit], exporters: [sealed_log]}
  telemetry: {metrics: {level: none}, logs: {level: fatal}}
`, g.endpoint, window, store, g.origin, filepath.Join(t.TempDir(), "keys")))
	return g
}

// A call is one action: five pieces of evidence of four sources.
type call struct {
	name   string
	at     time.Time
	trace  pcommon.TraceID
	denied bool // by policy; and served all the same
}

func newCalls(phase byte, n int) []call {
	calls := make([]call, n)
	for i := range calls {
		calls[i] = call{name: fmt.Sprintf("%d-%d", phase, i), at: time.Now(), trace: pcommon.TraceID{phase, byte(i), byte(i >> 8), 0xa7}}
	}
	return calls
}

const frontend, orders = "spiffe://example.org/ns/shop/sa/frontend", "spiffe://example.org/ns/shop/sa/orders"

const sidecar = "sidecar~10.0.0.2~orders-1.shop~shop.svc.cluster.local" // of orders

// spanID of the caller's proxy (1), the callee's proxy (2), the application (3).
func (c *call) spanID(n byte) pcommon.SpanID { return pcommon.SpanID{c.trace[0], c.trace[1], n} }

// report is an OpenTelemetry access log of docs/sources/istio/mesh.yaml.
func (c *call) report(logs plog.Logs, node, cluster string, span byte, labels map[string]string) {
	resource := logs.ResourceLogs().AppendEmpty()
	for k, v := range map[string]string{"log_name": "meshaudit", "node_name": node, "cluster_name": "orders.shop"} {
		resource.Resource().Attributes().PutStr(k, v)
	}
	record := resource.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	record.SetTimestamp(pcommon.NewTimestampFromTime(c.at))
	record.SetTraceID(c.trace) // as Envoy does where it traces
	record.SetSpanID(c.spanID(span))
	a := record.Attributes()
	for k, v := range labels {
		a.PutStr(k, v)
	}
	for k, v := range map[string]string{
		"method": "GET", "path": "/orders/" + c.name, "authority": "orders:8080", "protocol": "HTTP/2", "response_code": "200",
		"response_code_details": "via_upstream", "response_flags": "-", "duration": "7", "request_id": "r-" + c.name,
		"upstream_cluster": cluster, "stream_id": "s-" + c.name + node,
		"traceparent": fmt.Sprintf("00-%s-%s-01", c.trace, c.spanID(span)),
	} {
		a.PutStr(k, v)
	}
}

func (c *call) span(traces ptrace.Traces, service string, kind ptrace.SpanKind, id, parent byte) {
	resource := traces.ResourceSpans().AppendEmpty()
	resource.Resource().Attributes().PutStr("service.name", service)
	// A sender that would choose the gateway.
	resource.Resource().Attributes().PutStr(semconv.EvidenceRoute, "forged-"+service)
	resource.ScopeSpans().AppendEmpty().Scope().Attributes().PutStr(semconv.EvidenceRoute, "forged-"+service)
	s := resource.ScopeSpans().At(0).Spans().AppendEmpty()
	s.SetTraceID(c.trace)
	s.SetSpanID(c.spanID(id))
	if parent != 0 {
		s.SetParentSpanID(c.spanID(parent))
	}
	s.SetKind(kind)
	s.SetName("GET /orders/{id}")
	s.SetStartTimestamp(pcommon.NewTimestampFromTime(c.at))
	s.SetEndTimestamp(pcommon.NewTimestampFromTime(c.at.Add(7 * time.Millisecond)))
	if id != 3 {
		s.Attributes().PutStr("component", "proxy")
		s.Attributes().PutStr("node_id", sidecar)
	}
	s.Attributes().PutStr("http.request.method", "GET")
	s.Attributes().PutStr("url.path", "/orders/"+c.name)
	s.Attributes().PutInt("http.response.status_code", 200)
}

// caller sends what the calling side says, all calls in one request.
func (a *agent) caller(ctx context.Context, calls []call) error {
	logs := plog.NewLogs()
	for _, c := range calls {
		c.report(logs, "sidecar~10.0.0.1~frontend-1.shop~shop.svc.cluster.local", "outbound|8080||orders.shop.svc.cluster.local", 1,
			map[string]string{"upstream_peer_uri_san": orders, "upstream_local_uri_san": frontend, "upstream_host": "10.0.0.2:8080"})
	}
	_, err := plogotlp.NewGRPCClient(a.conn).Export(ctx, plogotlp.NewExportRequestFromLogs(logs))
	return err
}

// callee sends what the called side says: its proxy, its proxy's span, its
// application's, and the decision that its proxy asked for.
func (a *agent) callee(ctx context.Context, calls []call) error {
	logs, traces := plog.NewLogs(), ptrace.NewTraces()
	var decisions []map[string]any
	for _, c := range calls {
		c.report(logs, sidecar, "inbound|8080||", 2,
			map[string]string{"downstream_peer_uri_san": frontend, "downstream_local_uri_san": orders, "tls_version": "TLSv1.3",
				"downstream_remote_address": "10.0.0.1:40000", "downstream_local_address": "10.0.0.2:8080",
				"ext_authz": fmt.Sprintf(`{"decision_id":"d-%s"}`, c.name)})
		c.span(traces, "orders", ptrace.SpanKindServer, 2, 1)
		c.span(traces, "orders", ptrace.SpanKindServer, 3, 2)
		decisions = append(decisions, map[string]any{
			"decision_id": "d-" + c.name, "path": "mesh/authz/allow", "result": !c.denied, "timestamp": c.at.UTC().Format(time.RFC3339Nano),
			"trace_id": c.trace.String(), "labels": map[string]any{"id": "opa-1", "version": "1.22.2"},
			"input": map[string]any{"attributes": map[string]any{
				"source":      map[string]any{"principal": frontend},
				"destination": map[string]any{"principal": orders},
				"request":     map[string]any{"http": map[string]any{"method": "GET", "path": "/orders/" + c.name, "id": "r-" + c.name}},
			}},
		})
	}
	if _, err := plogotlp.NewGRPCClient(a.conn).Export(ctx, plogotlp.NewExportRequestFromLogs(logs)); err != nil {
		return err
	}
	if _, err := ptraceotlp.NewGRPCClient(a.conn).Export(ctx, ptraceotlp.NewExportRequestFromTraces(traces)); err != nil {
		return err
	}
	body, err := json.Marshal(decisions)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.decisions, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("decisions: %s", resp.Status)
	}
	return nil
}

const piecesOfACall = 5

// A record is what the tests ask of one, folded with its amendments.
type record struct {
	id, origin, state, reason string
	cites                     []string
}

// sealed is what the logs hold of some calls.
type sealed struct {
	evidence map[string]map[string]int // by call and evidence id: how often sealed
	records  map[string][]record       // by call
}

// read asks by trace, as `meshaudit query --trace` does, in all gateways' logs at
// once.
func read(t *testing.T, store string, calls []call) sealed {
	t.Helper()
	everything, err := query.ParseGlob("*")
	must(t, err)
	q, of := query.Query{Events: []query.Glob{everything}}, map[pcommon.TraceID]string{}
	for _, c := range calls {
		q.Traces, of[c.trace] = append(q.Traces, c.trace), c.name
	}
	s := sealed{map[string]map[string]int{}, map[string][]record{}}
	_, err = q.Run(t.Context(), seal.Dir(store), func(r *query.Record) error {
		call := of[r.TraceID]
		if id := r.Str(semconv.EvidenceID); id != "" {
			if s.evidence[call] == nil {
				s.evidence[call] = map[string]int{}
			}
			s.evidence[call][id]++
			return nil
		}
		rec := record{id: r.Str(semconv.AuditRecordID), origin: r.Entry.Origin, state: r.Str(semconv.MeshEvidenceState), reason: r.Str(semconv.MeshEvidenceStateReason)}
		if all, ok := r.Attributes.Get(semconv.MeshAttestations); ok {
			for _, a := range all.Slice().All() {
				if id, ok := a.Map().Get(semconv.AttestationID); ok {
					rec.cites = append(rec.cites, id.Str())
				}
			}
		}
		if amends := r.Str(semconv.MeshAmends); amends != "" {
			i := slices.IndexFunc(s.records[call], func(of record) bool { return of.id == amends && of.origin == rec.origin })
			if i < 0 {
				return fmt.Errorf("call %s: an amendment of %s, which is not there", call, amends)
			}
			of := &s.records[call][i]
			of.state, of.reason, of.cites = rec.state, rec.reason, append(of.cites, rec.cites...)
			return nil
		}
		s.records[call] = append(s.records[call], rec)
		return nil
	})
	must(t, err)
	return s
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// settle waits until every record has left, and stops all.
func settle(t *testing.T, gateways ...*gateway) {
	t.Helper()
	time.Sleep(window + 700*time.Millisecond)
	for _, g := range gateways {
		g.stop(t)
	}
}

// whole fails unless all evidence of each call is sealed, and cited by its
// records: nothing is lost, however often it was sent and wherever it came to.
func (s *sealed) whole(t *testing.T, calls []call) {
	t.Helper()
	for _, c := range calls {
		if n := len(s.evidence[c.name]); n != piecesOfACall {
			t.Errorf("call %s: %d pieces of evidence are sealed", c.name, n)
		}
		cited := map[string]bool{}
		for _, r := range s.records[c.name] {
			for _, id := range r.cites {
				cited[id] = true
			}
		}
		for id := range s.evidence[c.name] {
			if !cited[id] {
				t.Errorf("call %s: no record cites %s", c.name, id)
			}
		}
		if len(cited) != piecesOfACall {
			t.Errorf("call %s: the records cite %d pieces", c.name, len(cited))
		}
	}
}

// oneWhole fails unless each call has one record that states all of it.
func (s *sealed) oneWhole(t *testing.T, calls []call) (at map[string]int) {
	t.Helper()
	at = map[string]int{}
	for _, c := range calls {
		r := s.records[c.name]
		if len(r) != 1 || r[0].state != "complete" || len(r[0].cites) != piecesOfACall {
			t.Errorf("call %s: %+v", c.name, r)
			continue
		}
		at[r[0].origin]++
	}
	return at
}

// Spans, access logs and decisions of a call are tagged by an agent, and come
// to the same one of three gateways.
func TestEvidenceOfACallComesToOneGateway(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	gateways := []*gateway{newGateway(t, store, "a"), newGateway(t, store, "b"), newGateway(t, store, "c")}
	agents := []*agent{newAgent(t, gateways...), newAgent(t, gateways...)}
	calls := newCalls(1, 300)
	must(t, agents[0].caller(t.Context(), calls), agents[1].callee(t.Context(), calls))
	settle(t, gateways...)
	s := read(t, store, calls)
	s.whole(t, calls)
	at := s.oneWhole(t, calls)
	t.Log(at)
	if len(at) != len(gateways) {
		t.Errorf("not every gateway got calls: %v", at)
	}
}

// A gateway joins in the midst of a window: what each has heard of a call that
// moved is a record, and together they say all.
func TestAGatewayJoins(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	gateways := []*gateway{newGateway(t, store, "a"), newGateway(t, store, "b"), newGateway(t, store, "c"), newGateway(t, store, "d")}
	before, after := newAgent(t, gateways[:3]...), newAgent(t, gateways...)

	calls, repeated, ended := newCalls(2, 200), newCalls(3, 200), newCalls(4, 200)
	ctx := t.Context()
	must(t, before.caller(ctx, slices.Concat(calls, repeated, ended)), before.callee(ctx, ended))
	time.Sleep(window / 10)
	must(t, after.callee(ctx, slices.Concat(calls, repeated)))
	// Senders that missed an acknowledgement send again.
	must(t, after.caller(ctx, slices.Concat(repeated, ended)), after.callee(ctx, ended))
	settle(t, gateways...)

	s := read(t, store, slices.Concat(calls, repeated, ended))
	for name, group := range map[string][]call{"halved": calls, "halved, the first half repeated": repeated, "whole, and repeated": ended} {
		s.whole(t, group)
		moved := 0
		for _, c := range group {
			records := s.records[c.name]
			complete := slices.IndexFunc(records, func(r record) bool { return r.state == "complete" })
			if complete < 0 {
				t.Fatalf("%s: call %s has no complete record: %+v", name, c.name, records)
			}
			if len(records) == 1 {
				continue
			}
			moved++
			if len(records) != 2 {
				t.Fatalf("%s: call %s: %+v", name, c.name, records)
			}
			here, there := records[complete], records[1-complete]
			if here.origin == there.origin {
				t.Errorf("%s: call %s has two records of one gateway: %+v", name, c.name, records)
			}
			switch {
			case group[0].name == ended[0].name:
				// Both know all of it: one record, stated twice.
				if here.id != there.id || there.state != "complete" {
					t.Errorf("%s: call %s: %+v", name, c.name, records)
				}
			case here.id == there.id || there.state != "partial" || there.reason != "deadline" || len(there.cites) != 1:
				t.Errorf("%s: call %s: %+v", name, c.name, records)
			}
		}
		t.Logf("%s: %d of %d calls moved", name, moved, len(group))
		if moved == 0 || moved > len(group)/2 {
			t.Errorf("%s: %d of %d calls moved to the gateway that joined", name, moved, len(group))
		}
	}
}

// A gateway leaves in the midst of a window: what it has heard leaves with it,
// and what an agent still sends to it is refused, and can be sent again.
func TestAGatewayLeaves(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	gateways := []*gateway{newGateway(t, store, "a"), newGateway(t, store, "b"), newGateway(t, store, "c")}
	before, after := newAgent(t, gateways...), newAgent(t, gateways[:2]...)

	calls, late := newCalls(5, 200), newCalls(6, 200)
	ctx := t.Context()
	must(t, before.caller(ctx, calls))
	time.Sleep(window / 10)
	gateways[2].stop(t)
	must(t, after.callee(ctx, calls))

	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	began := time.Now()
	if err := before.caller(ctx, late); status.Code(err) != codes.Unavailable {
		t.Errorf("a call for the gateway that left is answered with %v, which a sender does not repeat", err)
	}
	if err := before.callee(ctx, late); status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
	t.Logf("refused after %v", time.Since(began))
	must(t, after.caller(ctx, late), after.callee(ctx, late))
	settle(t, gateways[:2]...)

	s := read(t, store, slices.Concat(calls, late))
	s.whole(t, calls)
	moved := 0
	for _, c := range calls {
		records := s.records[c.name]
		if len(records) == 1 {
			if records[0].state != "complete" || len(records[0].cites) != piecesOfACall {
				t.Errorf("call %s: %+v", c.name, records)
			}
			continue
		}
		moved++
		left := slices.IndexFunc(records, func(r record) bool { return r.origin == gateways[2].origin })
		if len(records) != 2 || left < 0 || records[left].state != "partial" || records[left].reason != "shutdown" ||
			records[1-left].state != "complete" || len(records[1-left].cites) != piecesOfACall-1 {
			t.Errorf("call %s: %+v", c.name, records)
		}
	}
	t.Logf("%d of %d calls moved", moved, len(calls))
	if moved == 0 || moved > len(calls)*2/3 {
		t.Errorf("%d of %d calls moved from the gateway that left", moved, len(calls))
	}
	// Of the refused request the other gateways had their parts already.
	s.whole(t, late)
	s.oneWhole(t, late)
	repeated := 0
	for _, c := range late {
		for times := range maps.Values(s.evidence[c.name]) {
			if times > 1 {
				repeated++
			}
		}
	}
	t.Logf("%d pieces are sealed twice, under one id", repeated)
	if repeated == 0 {
		t.Error("nothing was repeated")
	}
}
