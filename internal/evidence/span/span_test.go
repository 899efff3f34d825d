package span

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
)

// corpus reads Tempo's JSON: OTLP but for the key "batches" and base64 ids.
func corpus(tb testing.TB) ptrace.Traces {
	tb.Helper()
	text, err := os.ReadFile("testdata/bookinfo_trace.json")
	if err != nil {
		tb.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(text, &doc); err != nil {
		tb.Fatal(err)
	}
	hexIDs(doc)
	doc["resourceSpans"] = doc["batches"]
	delete(doc, "batches")
	if text, err = json.Marshal(doc); err != nil {
		tb.Fatal(err)
	}
	traces, err := (&ptrace.JSONUnmarshaler{}).UnmarshalTraces(text)
	if err != nil {
		tb.Fatal(err)
	}
	return traces
}

func hexIDs(v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, child := range v {
			if s, ok := child.(string); ok && (k == "traceId" || k == "spanId" || k == "parentSpanId") {
				if id, err := base64.StdEncoding.DecodeString(s); err == nil {
					v[k] = hex.EncodeToString(id)
				}
			}
			hexIDs(child)
		}
	case []any:
		for _, child := range v {
			hexIDs(child)
		}
	}
}

func TestCorpus(t *testing.T) {
	var got strings.Builder
	n := 0
	for _, rs := range corpus(t).ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				e, ok := FromSpan(rs.Resource(), s)
				if !ok {
					t.Fatalf("span %s is no evidence", s.SpanID())
				}
				if e.Source != evidence.SourceProxySpan {
					t.Errorf("span %s of a proxy is %q", s.SpanID(), e.Source)
				}
				evidencetest.RoundTrip(t, &e)
				got.WriteString(evidencetest.Render(&e))
				n++
			}
		}
	}
	if n != 8 {
		t.Errorf("%d spans", n)
	}
	evidencetest.Golden(t, "testdata/bookinfo_trace.golden", got.String())
}

func read(t *testing.T, kind ptrace.SpanKind, resource, attributes map[string]any) evidence.Evidence {
	t.Helper()
	r, s := pcommon.NewResource(), ptrace.NewSpan()
	if err := r.Attributes().FromRaw(resource); err != nil {
		t.Fatal(err)
	}
	if err := s.Attributes().FromRaw(attributes); err != nil {
		t.Fatal(err)
	}
	s.SetKind(kind)
	s.SetSpanID(pcommon.SpanID{1})
	e, ok := FromSpan(r, s)
	if !ok {
		t.Fatal("no evidence")
	}
	evidencetest.RoundTrip(t, &e)
	if strings.Contains(evidencetest.Render(&e), "SECRET") {
		t.Errorf("a secret is kept: %s", evidencetest.Render(&e))
	}
	return e
}

// TestOldAndNewNames: the same call in both generations of names is the same
// evidence.
func TestOldAndNewNames(t *testing.T) {
	resource := map[string]any{"service.name": "orders", "service.namespace": "shop", "service.version": "v1", "k8s.pod.name": "orders-1",
		"container.image.repo_digests": []any{"registry.example/orders@sha256:abc"}}
	for name, both := range map[string][2]map[string]any{
		"server": {
			{"http.method": "GET", "http.target": "/orders/1?q=SECRET", "http.route": "/orders/{id}", "http.status_code": 200, "http.flavor": "1.1",
				"net.host.name": "orders", "net.host.port": 8080, "http.client_ip": "192.0.2.1", "net.sock.peer.addr": "192.0.2.9", "net.sock.peer.port": 4711},
			{"http.request.method": "GET", "url.path": "/orders/1", "url.query": "q=SECRET", "http.route": "/orders/{id}", "http.response.status_code": 200,
				"network.protocol.version": "1.1", "server.address": "orders", "server.port": 8080, "client.address": "192.0.2.1",
				"network.peer.address": "192.0.2.9", "network.peer.port": 4711},
		},
		"client": {
			{"http.method": "POST", "http.url": "http://u:SECRET@orders:8080/orders?q=SECRET", "http.status_code": "503", "net.peer.name": "orders", "net.peer.port": 8080, "http.resend_count": 1},
			{"http.request.method": "POST", "url.full": "http://u:SECRET@orders:8080/orders?q=SECRET", "http.response.status_code": 503, "server.address": "orders", "server.port": 8080, "http.request.resend_count": 1},
		},
		"rpc": {
			{"rpc.system": "grpc", "rpc.service": "shop.Orders", "rpc.method": "Cancel", "rpc.grpc.status_code": 7},
			{"rpc.system.name": "grpc", "rpc.method": "shop.Orders/Cancel", "rpc.response.status_code": "PERMISSION_DENIED"},
		},
	} {
		kind := ptrace.SpanKindServer
		if name == "client" {
			kind = ptrace.SpanKindClient
		}
		old, current := read(t, kind, resource, both[0]), read(t, kind, resource, both[1])
		a, b := evidencetest.Render(&old), evidencetest.Render(&current)
		if a != b {
			t.Errorf("%s: old\n%snew\n%s", name, a, b)
		}
		if name == "rpc" && (old.Path != "/shop.Orders/Cancel" || old.GRPCStatus != "7") {
			t.Errorf("rpc: %q %q", old.Path, old.GRPCStatus)
		}
		if name == "client" && (old.To.Address != "orders" || old.Host != "orders:8080" || old.Status != 503 || old.From.Workload.Name != "orders") {
			t.Errorf("client: %+v", old)
		}
		if name == "server" && (old.To.Workload.ImageDigest != "sha256:abc" || old.PeerAddress != "192.0.2.9" || old.From.Port != 0) {
			t.Errorf("server: %+v", old)
		}
	}
}

func TestRoles(t *testing.T) {
	for kind, want := range map[ptrace.SpanKind]evidence.Role{
		ptrace.SpanKindServer: evidence.RoleCallee, ptrace.SpanKindClient: evidence.RoleCaller, ptrace.SpanKindInternal: evidence.RoleNone,
		ptrace.SpanKindProducer: evidence.RoleNone, ptrace.SpanKindConsumer: evidence.RoleNone, ptrace.SpanKindUnspecified: evidence.RoleNone,
	} {
		if e := read(t, kind, nil, map[string]any{"http.method": "GET"}); e.Role != want {
			t.Errorf("%v: %v", kind, e.Role)
		}
	}
	e := read(t, ptrace.SpanKindUnspecified, nil, map[string]any{"component": "proxy", "node_id": "n", "upstream_cluster": "inbound|80||"})
	if e.Role != evidence.RoleCallee || e.Source != evidence.SourceProxySpan {
		t.Errorf("an old proxy's span: %v %v", e.Role, e.Source)
	}
}

// TestMessaging: who publishes calls who processes.
func TestMessaging(t *testing.T) {
	for _, tt := range []struct {
		kind      ptrace.SpanKind
		operation string
		want      evidence.Role
	}{
		{ptrace.SpanKindProducer, "send", evidence.RoleCaller},
		{ptrace.SpanKindClient, "send", evidence.RoleCaller},
		{ptrace.SpanKindConsumer, "process", evidence.RoleCallee},
		{ptrace.SpanKindConsumer, "receive", evidence.RoleNone},
		{ptrace.SpanKindClient, "receive", evidence.RoleNone},
		{ptrace.SpanKindClient, "settle", evidence.RoleNone},
	} {
		e := read(t, tt.kind, nil, map[string]any{"messaging.system": "kafka", "messaging.destination.name": "orders.created",
			"messaging.operation.type": tt.operation, "messaging.message.body": "SECRET"})
		if e.Role != tt.want || e.Topic != "orders.created" || e.MessagingSystem != "kafka" {
			t.Errorf("%v %s: role %v, topic %q of %q", tt.kind, tt.operation, e.Role, e.Topic, e.MessagingSystem)
		}
	}
}

func TestIdentitiesAreClaims(t *testing.T) {
	e := read(t, ptrace.SpanKindServer,
		map[string]any{"service.name": "spiffe://example.org/not-an-identity", "spiffe.id": "spiffe://example.org/orders"},
		map[string]any{
			"peer.spiffe.id": "nonsense", "http.request.header.x-spiffe-id": []any{"spiffe://example.org/header"},
			"http.request.header.x_forwarded_client_cert": "URI=spiffe://example.org/xfcc", "http.request.header.cookie": []any{"SECRET"},
			"http.request.header.x-request-id": []any{"r1"},
		})
	if len(e.To.Identities) != 1 || e.To.Identities[0].ID.Path() != "/orders" || e.To.Workload.Name != "spiffe://example.org/not-an-identity" {
		t.Errorf("own: %+v, name %q", e.To.Identities, e.To.Workload.Name)
	}
	if len(e.From.Identities) != 3 || e.From.Identities[0].Invalid != "nonsense" || e.RequestID != "r1" {
		t.Errorf("peer: %+v, request id %q", e.From.Identities, e.RequestID)
	}
	for _, id := range append(e.From.Identities, e.To.Identities...) {
		if id.Proof != evidence.ProofClaimed {
			t.Errorf("%+v is more than a claim", id)
		}
	}
}

// Istio's proxies tag their spans with what dry-run policies would have done.
func TestDryRun(t *testing.T) {
	const deny, allow, policy = "deny_policy.", "allow_policy.", "ns[foo]-policy[deny-path-headers]-rule[0]"
	for _, tt := range []struct {
		tags map[string]string
		want *evidence.Verdict
	}{
		{map[string]string{deny + "name": policy, deny + "result": "denied"},
			&evidence.Verdict{Engine: "envoy_rbac", Decision: evidence.Deny, PolicyNamespace: "foo", PolicyID: "deny-path-headers", Reason: "rule[0]"}},
		{map[string]string{allow + "result": "denied"}, &evidence.Verdict{Engine: "envoy_rbac", Decision: evidence.Deny, DefaultDeny: true}},
		{map[string]string{deny + "result": "allowed", allow + "result": "denied"}, &evidence.Verdict{Engine: "envoy_rbac", Decision: evidence.Deny, DefaultDeny: true}},
		{map[string]string{deny + "name": policy, deny + "result": "denied", allow + "name": "p", allow + "result": "allowed"},
			&evidence.Verdict{Engine: "envoy_rbac", Decision: evidence.Deny, PolicyNamespace: "foo", PolicyID: "deny-path-headers", Reason: "rule[0]"}},
		{map[string]string{deny + "name": policy, deny + "result": "denied", allow + "result": "denied"},
			&evidence.Verdict{Engine: "envoy_rbac", Decision: evidence.Deny, PolicyNamespace: "foo", PolicyID: "deny-path-headers", Reason: "rule[0]"}},
		{map[string]string{allow + "name": "p", allow + "result": "allowed"}, &evidence.Verdict{Engine: "envoy_rbac", Decision: evidence.Allow, PolicyID: "p"}},
		{map[string]string{deny + "name": policy, deny + "result": "unknown"}, nil},
		{nil, nil},
	} {
		for _, component := range []string{"proxy", "app"} {
			s := ptrace.NewSpan()
			s.SetSpanID([8]byte{1})
			s.Attributes().PutStr("component", component)
			s.Attributes().PutStr("node_id", "sidecar~10.0.0.1~a.foo~foo.svc.cluster.local")
			for name, v := range tt.tags {
				s.Attributes().PutStr("istio.authorization.dry_run."+name, v)
			}
			e, _ := FromSpan(pcommon.NewResource(), s)
			want := tt.want
			if component == "app" {
				want = nil // it decides nothing
			}
			if (e.Verdict == nil) != (want == nil) || want != nil && *e.Verdict != *want {
				t.Errorf("%s %v: %+v, want %+v", component, tt.tags, e.Verdict, want)
			}
		}
	}
}

func TestNumbers(t *testing.T) {
	for _, v := range []any{"200", 200, 200.0} {
		if e := read(t, ptrace.SpanKindServer, nil, map[string]any{"http.status_code": v}); e.Status != 200 {
			t.Errorf("%T %v: status %d", v, v, e.Status)
		}
	}
	for _, v := range []any{"x", -1, 1e300, 1000, true, []any{200}, "99999999999999999999"} {
		if e := read(t, ptrace.SpanKindServer, nil, map[string]any{"http.status_code": v}); e.Status != 0 {
			t.Errorf("%T %v: status %d", v, v, e.Status)
		}
	}
}

func TestNoSpanID(t *testing.T) {
	if _, ok := FromSpan(pcommon.NewResource(), ptrace.NewSpan()); ok {
		t.Error("a span without id is evidence")
	}
}

func FuzzFromSpan(f *testing.F) {
	f.Add(`{"service.name":"x"}`, `{"http.method":"GET","http.url":"http://h/p?q"}`, 2)
	f.Add(`{"container.image.repo_digests":["a@b"]}`, `{"component":"proxy","node_id":"router~a~b.c~d","upstream_cluster":"outbound|1|s|h"}`, 3)
	f.Add(`{"spiffe.id":["x"]}`, `{"http.request.header.x-forwarded-client-cert":[[]],"rpc.method":"/","rpc.grpc.status_code":"OK"}`, 1)
	f.Fuzz(func(t *testing.T, resource, attributes string, kind int) {
		var r, a map[string]any
		if json.Unmarshal([]byte(resource), &r) != nil || json.Unmarshal([]byte(attributes), &a) != nil {
			return
		}
		res, s := pcommon.NewResource(), ptrace.NewSpan()
		if res.Attributes().FromRaw(r) != nil || s.Attributes().FromRaw(a) != nil {
			return
		}
		s.SetKind(ptrace.SpanKind(kind % 6))
		s.SetSpanID(pcommon.SpanID{1})
		e, ok := FromSpan(res, s)
		if !ok {
			t.Fatal("no evidence")
		}
		if strings.ContainsAny(e.Path, "?#") {
			t.Fatalf("path %q", e.Path)
		}
		evidencetest.RoundTrip(t, &e)
	})
}

func BenchmarkFromSpan(b *testing.B) {
	rs := corpus(b).ResourceSpans().At(1)
	s := rs.ScopeSpans().At(0).Spans().At(0)
	b.ReportAllocs()
	for b.Loop() {
		FromSpan(rs.Resource(), s)
	}
}
