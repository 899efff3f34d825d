package envoy

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
)

// logOf makes what a collector gets: a resource and a record with labels.
func logOf(tb testing.TB, resource, attributes map[string]any) (pcommon.Resource, plog.LogRecord) {
	tb.Helper()
	r, lr := pcommon.NewResource(), plog.NewLogRecord()
	if err := r.Attributes().FromRaw(resource); err != nil {
		tb.Fatal(err)
	}
	if err := lr.Attributes().FromRaw(attributes); err != nil {
		tb.Fatal(err)
	}
	return r, lr
}

var envoyResource = map[string]any{
	"log_name": "mesh-audit", "zone_name": "-", "cluster_name": "orders.shop",
	"node_name": "sidecar~10.0.0.1~orders-1.shop~shop.svc.cluster.local",
}

// referenceLabels are those of the reference configuration.
func referenceLabels() map[string]any {
	return map[string]any{
		"trace_id": traceID, "request_id": "b1", "traceparent": traceparent,
		"peer_spiffe_id": frontend, "local_spiffe_id": orders, "peer_cert_serial": "12", "peer_cert_sha256": strings.Repeat("ab", 32),
		"tls_version": "TLSv1.3", "response_code_details": "via_upstream", "response_flags": "-",
		"rbac_shadow_result": "-", "rbac_shadow_policy": "-", "ext_authz": `{"decision_id":"d-1"}`, "stream_id": "7d0f",
	}
}

func TestReferenceFormat(t *testing.T) {
	r, lr := logOf(t, envoyResource, referenceLabels())
	lr.Body().SetStr("DELETE /orders/1?token=SECRET 200\n")
	lr.SetTimestamp(1763856000000000005)
	e, ok := FromOTLPLog(r, lr)
	if !ok {
		t.Fatal("not recognised")
	}
	evidencetest.RoundTrip(t, &e)
	got := evidencetest.Render(&e)
	if strings.Contains(got, "SECRET") {
		t.Error("a secret is kept")
	}
	evidencetest.Golden(t, "testdata/otlp_reference.golden", got)
}

// TestStartToTheNanosecond: the record's own time is the request's start too, and a label tells
// only its millisecond. A receiver that parsed a line sets when that was written.
func TestStartToTheNanosecond(t *testing.T) {
	start := time.Date(2026, 11, 23, 10, 0, 0, 123_000_000, time.UTC)
	for _, tc := range []struct{ after, want time.Duration }{
		{0, 0}, {456_789, 456_789}, {time.Millisecond - 1, time.Millisecond - 1}, {time.Millisecond, 0}, {-1, 0}, {time.Second, 0},
	} {
		r, lr := logOf(t, envoyResource, map[string]any{
			"start_time": "2026-11-23T10:00:00.123Z", "duration": "7", "response_flags": "-", "response_code_details": "via_upstream",
		})
		lr.SetTimestamp(pcommon.NewTimestampFromTime(start.Add(tc.after)))
		e, ok := FromOTLPLog(r, lr)
		if want := start.Add(tc.want).UnixNano(); !ok || e.Start != want || e.End != want+int64(7*time.Millisecond) {
			t.Errorf("%v after: %v start %d, end %d, want %d", tc.after, ok, e.Start, e.End, want)
		}
	}
}

// TestIstioText is what Istio sends without a format of one's own: the text
// format as the body.
func TestIstioText(t *testing.T) {
	r, lr := logOf(t, envoyResource, nil)
	lr.Body().SetStr(`[2026-11-23T10:00:00.000Z] "GET /a?token=SECRET HTTP/1.1" 403 - rbac_access_denied_matched_policy[ns[shop]-policy[p]-rule[0]] - "-" 0 19 3 - "-" "SECRET" "r-1" "orders:80" "-" inbound|80|| - 10.0.0.1:80 10.0.0.2:4000 - default` + "\n")
	e, ok := FromOTLPLog(r, lr)
	if !ok {
		t.Fatal("not recognised")
	}
	evidencetest.RoundTrip(t, &e)
	if e.Source != evidence.SourceEnvoyOTLP || e.Method != "GET" || e.Path != "/a" || e.Status != 403 || e.Role != evidence.RoleCallee || e.RequestID != "r-1" ||
		e.Verdict == nil || e.Verdict.PolicyID != "p" || e.From.Address != "10.0.0.2" || strings.Contains(evidencetest.Render(&e), "SECRET") {
		t.Error(evidencetest.Render(&e))
	}
	lr.Body().SetStr("started\n")
	if e, ok := FromOTLPLog(r, lr); !ok || e.Method != "" || e.Path != "" {
		t.Errorf("another text: %v %+v", ok, e)
	}
}

// TestIstioJSON is Istio's default JSON format, parsed by a receiver.
func TestIstioJSON(t *testing.T) {
	const line = `{"authority":"reviews:9080","bytes_received":0,"bytes_sent":295,"connection_termination_details":null,
"downstream_local_address":"10.47.247.180:9080","downstream_remote_address":"10.44.2.54:58356","duration":7,"method":"GET","path":"/reviews/0?q=SECRET",
"protocol":"HTTP/1.1","request_id":"0ac1feff","requested_server_name":null,"response_code":200,"response_code_details":"via_upstream",
"response_flags":"-","route_name":"default","start_time":"2026-11-23T00:00:00.123Z","upstream_cluster":"outbound|9080|v2|reviews.default.svc.cluster.local",
"upstream_host":"10.44.6.66:9080","upstream_local_address":"10.44.2.54:41234","upstream_service_time":"6","upstream_transport_failure_reason":null,
"user_agent":"SECRET","x_forwarded_for":"SECRET"}`
	var fields map[string]any
	if err := json.Unmarshal([]byte(line), &fields); err != nil {
		t.Fatal(err)
	}
	inAttributes, lr := logOf(t, map[string]any{"k8s.pod.name": "productpage-1", "k8s.namespace.name": "default", "k8s.deployment.name": "productpage"}, fields)
	e, ok := FromOTLPLog(inAttributes, lr)
	if !ok {
		t.Fatal("not recognised")
	}
	evidencetest.RoundTrip(t, &e)
	got := evidencetest.Render(&e)
	if strings.Contains(got, "SECRET") {
		t.Error("a secret is kept")
	}
	evidencetest.Golden(t, "testdata/otlp_istio_json.golden", got)

	r, body := logOf(t, inAttributes.Attributes().AsRaw(), nil)
	if err := body.Body().SetEmptyMap().FromRaw(fields); err != nil {
		t.Fatal(err)
	}
	e, ok = FromOTLPLog(r, body)
	if !ok || evidencetest.Render(&e) != got {
		t.Errorf("as a map body: %v\n%s", ok, evidencetest.Render(&e))
	}
}

func TestRecognition(t *testing.T) {
	for _, tt := range []struct {
		name                 string
		resource, attributes map[string]any
		event                string
		want                 bool
	}{
		{"Envoy's own resource", envoyResource, nil, "", true},
		{"Istio's names", nil, map[string]any{"response_flags": "-", "response_code_details": "x"}, "", true},
		{"flags and cluster", nil, map[string]any{"response_flags": "-", "upstream_cluster": "-"}, "", true},
		{"an application's log", map[string]any{"service.name": "x"}, map[string]any{"method": "GET", "path": "/"}, "", false},
		{"flags alone", nil, map[string]any{"response_flags": "-"}, "", false},
		{"log_name alone", map[string]any{"log_name": "x"}, nil, "", false},
		{"an event", envoyResource, referenceLabels(), "mesh.evidence", false},
	} {
		r, lr := logOf(t, tt.resource, tt.attributes)
		lr.SetEventName(tt.event)
		if _, got := FromOTLPLog(r, lr); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestLabels(t *testing.T) {
	read := func(change map[string]any) evidence.Evidence {
		labels := referenceLabels()
		for k, v := range change {
			labels[k] = v
		}
		r, lr := logOf(t, envoyResource, labels)
		e, ok := FromOTLPLog(r, lr)
		if !ok {
			t.Fatal("not recognised")
		}
		evidencetest.RoundTrip(t, &e)
		return e
	}
	if e := read(map[string]any{"peer_spiffe_id": "-", "tls_version": "-", "peer_cert_sha256": "-", "peer_cert_serial": "-"}); !e.TLS.Known || e.TLS.Established || len(e.From.Identities) != 0 {
		t.Errorf("empty TLS labels are plaintext: %+v", e.TLS)
	}
	if e := read(map[string]any{"peer_cert_serial": "-", "downstream_peer_serial": "0A:1b", "downstream_peer_issuer": "CN=ca"}); e.TLS.ClientSerial != "a1b" || e.TLS.ClientIssuer != "CN=ca" {
		t.Errorf("serial number and issuer: %+v", e.TLS)
	}
	if e := read(map[string]any{"peer_cert_serial": "-0a"}); e.TLS.ClientSerial != "" {
		t.Errorf("a serial number that is none: %q", e.TLS.ClientSerial)
	}
	if e := read(map[string]any{"ext_authz": map[string]any{"opa": map[string]any{"decision_id": "d-9"}}}); e.DecisionID != "d-9" {
		t.Errorf("decision id in a map: %q", e.DecisionID)
	}
	if e := read(map[string]any{"ext_authz": "-", "rbac_shadow_result": "denied", "rbac_shadow_policy": "ns[a]-policy[b]-rule[0]"}); e.Verdict == nil || e.Verdict.Enforced || e.Verdict.PolicyID != "b" {
		t.Errorf("dry run: %+v", e.Verdict)
	}
	if e := read(map[string]any{"user.id": "https://idp.example/alice"}); e.User != "https://idp.example/alice" {
		t.Errorf("user: %q", e.User)
	}
	if e := read(map[string]any{"user.id": "alice", "azp": "web"}); e.User != "alice" || e.Actor == nil || e.Actor.Token != (evidence.Token{AuthorizedParty: "web"}) {
		t.Errorf("client: user %q, %+v", e.User, e.Actor)
	}
	if e := read(map[string]any{"azp": "web"}); e.User != "" || e.Actor.Token.AuthorizedParty != "web" {
		t.Errorf("a client, of which user is not logged: user %q, %+v", e.User, e.Actor)
	}
	if e := read(map[string]any{"azp": "-"}); e.Actor != nil {
		t.Errorf("no client: %+v", e.Actor)
	}
	if e := read(map[string]any{"grpc_status": "Unavailable"}); e.GRPCStatus != "14" {
		t.Errorf("a gRPC status by its name: %q", e.GRPCStatus)
	}
	if e := read(map[string]any{"grpc_status": "-"}); e.GRPCStatus != "" {
		t.Errorf("no gRPC status: %q", e.GRPCStatus)
	}
	if e := read(map[string]any{"access_log_type": "DownstreamPeriodic"}); e.Final {
		t.Error("a periodic entry is final")
	}
	if e := read(map[string]any{"peer_spiffe_id": frontend + "," + orders}); len(e.From.Identities) != 2 {
		t.Errorf("two SANs: %+v", e.From.Identities)
	}
	if e := read(map[string]any{"duration": "999999999999999999"}); e.End != 0 {
		t.Errorf("an absurd duration ends at %d", e.End)
	}
	if e := read(map[string]any{"downstream_remote_address": "[2001:db8::1]:443"}); e.From.Address != "2001:db8::1" || e.From.Port != 443 {
		t.Errorf("IPv6: %q %d", e.From.Address, e.From.Port)
	}
}

// FuzzFromOTLPLog feeds labels, as a JSON object, and a body line.
func FuzzFromOTLPLog(f *testing.F) {
	seed, err := json.Marshal(referenceLabels())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(seed), "GET / 200", envoyResource["node_name"].(string))
	f.Add(`{"response_flags":"UF,URX","upstream_cluster":"outbound|1|s|h.n.svc","start_time":"2026-11-23T00:00:00Z","duration":1}`, "", "router~1~p.n~d")
	f.Add(`{"response_flags":"","upstream_cluster":"","peer_cert_serial":"0A:1b","downstream_peer_issuer":"CN=ca,O=a"}`, "", "")
	f.Add(`{"response_flags":"","upstream_cluster":"","user.id":"alice","azp":"web"}`, "", "")
	f.Add(`{"response_flags":"","upstream_cluster":"","ext_authz":{"com.example":{"decision_id":"d-1"}}}`, "", "")
	f.Add(`{"response_flags":"","response_code_details":"rbac_access_denied_matched_policy[none]","ext_authz":{"a":[1,{}]}}`, "\xff", "")
	f.Fuzz(func(t *testing.T, labels, line, node string) {
		var fields map[string]any
		if json.Unmarshal([]byte(labels), &fields) != nil {
			return
		}
		r, lr := logOf(t, map[string]any{"log_name": "x", "node_name": node}, fields)
		lr.Body().SetStr(line)
		e, ok := FromOTLPLog(r, lr)
		if !ok {
			t.Fatal("not recognised")
		}
		if strings.ContainsAny(e.Path, "?#") {
			t.Fatalf("path %q", e.Path)
		}
		evidencetest.RoundTrip(t, &e)

		// What redaction takes of the decision's metadata leaves its id.
		NameDecision(r, lr)
		lr.Attributes().Remove("ext_authz")
		if named, ok := FromOTLPLog(r, lr); !ok || named.DecisionID != e.DecisionID {
			t.Fatalf("decision %q, named %q", e.DecisionID, named.DecisionID)
		}
	})
}

func TestSplitAddress(t *testing.T) {
	for s, want := range map[string]struct {
		host string
		port uint16
	}{
		"10.0.0.1:80":                           {"10.0.0.1", 80},
		"tcp://10.0.0.1:80":                     {"10.0.0.1", 80},
		"[2001:db8::1]:80":                      {"2001:db8::1", 80},
		"203.0.113.7:0":                         {"203.0.113.7", 0},
		"envoy://connect_originate/10.0.0.1:80": {"10.0.0.1", 80},
		"envoy://internal_client_address/":      {"", 0},
		"/run/pipe":                             {"/run/pipe", 0},
	} {
		if host, port := SplitAddress(s); host != want.host || port != want.port {
			t.Errorf("%s: %q %d", s, host, port)
		}
	}
}

// A waypoint's access log sees no TLS: its requests come out of a tunnel.
func TestWaypointLabelsSayNothingOfTLS(t *testing.T) {
	for id, known := range map[string]bool{"sidecar~10.0.0.1~w.shop~shop.svc.cluster.local": true, "waypoint~10.0.0.1~w.shop~shop.svc.cluster.local": false, "": false} {
		node := ParseNodeID(id) // of a line nobody knows the node's type
		l := labels{tlsStated: true, cluster: "inbound-vip|80|http|orders.shop.svc.cluster.local;"}
		var e evidence.Evidence
		l.evidence(&node, &e)
		if e.TLS.Known != known || e.Role != evidence.RoleCallee {
			t.Errorf("%q: %v, TLS known %v", id, e.Role, e.TLS.Known)
		}
	}
}

// A waypoint states the service in whose place it was asked, and not itself as the destination.
func TestWaypointsService(t *testing.T) {
	const line = `[2026-11-23T10:00:00.000Z] "GET /a HTTP/1.1" 200 - via_upstream - "-" 0 9 2 1 "-" "curl/8" "r-1" "orders:80" "envoy://connect_originate/10.0.0.2:8080" ` +
		`CLUSTER envoy://internal_client_address/ 10.96.0.9:80 10.0.0.1:4000 - default`
	for cluster, want := range map[string]evidence.Workload{
		"inbound-vip|80|http|orders.shop.svc.cluster.local":    {Name: "orders", Namespace: "shop", Kind: "Service"},
		"inbound-vip|80|http/v2|orders.shop.svc.cluster.local": {Name: "orders", Namespace: "shop", Kind: "Service", Version: "v2"},
		"inbound-vip|443|tls|api.example":                      {Name: "api.example", Kind: "Service"},
		"inbound|8080||":                                       evidencetest.Origin.Workload,
	} {
		e := oneLine(t, lines(t, "", nil), strings.Replace(line, "CLUSTER", cluster, 1))
		if e.Role != evidence.RoleCallee || e.To.Workload != want || e.To.Address != "10.96.0.9" {
			t.Errorf("%s: %v, to %+v", cluster, e.Role, e.To)
		}
	}
}

// Its lines name the caller by the filter state that Istio keeps of the tunnel.
func TestWaypointPrincipal(t *testing.T) {
	const request = `[%START_TIME%] "%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL%" %RESPONSE_CODE% %UPSTREAM_CLUSTER_RAW% %DOWNSTREAM_PEER_URI_SAN% `
	const line = `[2026-11-23T10:00:00.000Z] "GET /a HTTP/1.1" 200 inbound-vip|80|http|orders.shop.svc.cluster.local - `
	for format, values := range map[string]string{
		`%FILTER_STATE(io.istio.peer_principal:PLAIN)% %FILTER_STATE(io.istio.local_principal:PLAIN)%`: `spiffe://a/ns/shop/sa/front spiffe://a/ns/shop/sa/waypoint`,
		`%FILTER_STATE(io.istio.peer_principal)% %FILTER_STATE(io.istio.local_principal)%`:             `"spiffe://a/ns/shop/sa/front" "spiffe://a/ns/shop/sa/waypoint"`,
	} {
		e := oneLine(t, lines(t, request+format, nil), line+values)
		if len(e.From.Identities) != 1 || e.From.Identities[0].ID.String() != "spiffe://a/ns/shop/sa/front" || e.From.Identities[0].Proof != evidence.ProofMTLSSAN ||
			len(e.To.Identities) != 1 || e.To.Identities[0].ID.String() != "spiffe://a/ns/shop/sa/waypoint" || !e.TLS.Known || !e.TLS.Established || !e.TLS.Mutual {
			t.Errorf("%s: %s", format, evidencetest.Render(&e))
		}
		if e := oneLine(t, lines(t, request+format, nil), line+"- -"); e.TLS.Known || len(e.From.Identities) != 0 {
			t.Errorf("%s: %s", format, evidencetest.Render(&e))
		}
	}
}
