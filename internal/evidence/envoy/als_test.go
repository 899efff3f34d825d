package envoy

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	als "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
)

const (
	frontend = "spiffe://example.org/ns/shop/sa/frontend"
	orders   = "spiffe://example.org/ns/shop/sa/orders"

	traceID     = "4bf92f3577b34da6a3ce929d0e0e4736"
	spanID      = "00f067aa0ba902b7"
	traceparent = "00-" + traceID + "-" + spanID + "-01"
)

func structOf(tb testing.TB, fields map[string]any) *structpb.Struct {
	tb.Helper()
	s, err := structpb.NewStruct(fields)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func socketAddress(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

func certificateOf(uris ...string) *als.TLSProperties_CertificateProperties {
	p := &als.TLSProperties_CertificateProperties{}
	for _, uri := range uris {
		p.SubjectAltName = append(p.SubjectAltName, &als.TLSProperties_CertificateProperties_SubjectAltName{
			San: &als.TLSProperties_CertificateProperties_SubjectAltName_Uri{Uri: uri},
		})
	}
	return p
}

// denied is a full entry: a sidecar refused a request by policy.
func deniedEntry(tb testing.TB) *als.HTTPAccessLogEntry {
	return &als.HTTPAccessLogEntry{
		CommonProperties: &als.AccessLogCommon{
			StartTime:                     timestamppb.New(time.Unix(1763856000, 5)),
			TimeToLastDownstreamTxByte:    durationpb.New(3 * time.Millisecond),
			Duration:                      durationpb.New(4 * time.Millisecond),
			UpstreamCluster:               "inbound|8080||",
			RouteName:                     "default",
			StreamId:                      "7d0f",
			AccessLogType:                 als.AccessLogType_DownstreamEnd,
			DownstreamRemoteAddress:       socketAddress("192.0.2.1", 4711),
			DownstreamDirectRemoteAddress: socketAddress("192.0.2.9", 4712),
			DownstreamLocalAddress:        socketAddress("10.0.0.1", 8080),
			ResponseFlags:                 &als.ResponseFlags{UnauthorizedDetails: &als.ResponseFlags_Unauthorized{}},
			Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
				filters[filterRBAC]: structOf(tb, map[string]any{"shadow_effective_policy_id": "x", "shadow_engine_result": "allowed"}),
				filters[filterJWT]:  structOf(tb, map[string]any{"payload": map[string]any{"sub": "alice", "iss": "https://idp", "email": "SECRET"}}),
			}},
			TlsProperties: &als.TLSProperties{
				TlsVersion: als.TLSProperties_TLSv1_3, TlsCipherSuite: wrapperspb.UInt32(0x1301), TlsSniHostname: "orders",
				PeerCertificateProperties: certificateOf(frontend), LocalCertificateProperties: certificateOf(orders), TlsSessionId: "SECRET",
			},
			CustomTags: map[string]string{"peer_cert_sha256": strings.Repeat("AB", 32), "other": "SECRET"},
		},
		ProtocolVersion: als.HTTPAccessLogEntry_HTTP2,
		Request: &als.HTTPRequestProperties{
			RequestMethod: corev3.RequestMethod_DELETE, Path: "/orders/1?token=SECRET", Authority: "user:SECRET@orders:8080", RequestId: "b1",
			UserAgent: "SECRET", Referer: "http://x/?SECRET", ForwardedFor: "SECRET",
			RequestHeaders: map[string]string{
				"traceparent": traceparent, "cookie": "SECRET", "authorization": "Bearer SECRET",
				"x-spiffe-id":             "spiffe://evil.example/admin",
				"x-forwarded-client-cert": "URI=spiffe://example.org/far,By=" + orders + ";URI=" + frontend,
			},
		},
		Response: &als.HTTPResponseProperties{
			ResponseCode: wrapperspb.UInt32(403), ResponseHeaders: map[string]string{"set-cookie": "SECRET"},
			ResponseCodeDetails: "rbac_access_denied_matched_policy[ns[shop]-policy[deny[all]]-rule[0]]",
		},
	}
}

func sidecar() *Node {
	n := ParseNodeID("sidecar~10.0.0.1~orders-1.shop~shop.svc.cluster.local")
	return &n
}

func TestFullEntry(t *testing.T) {
	e := HTTP(sidecar(), deniedEntry(t))
	got := evidencetest.Render(&e)
	if strings.Contains(got, "SECRET") {
		t.Errorf("a secret is kept:\n%s", got)
	}
	evidencetest.RoundTrip(t, &e)
	evidencetest.Golden(t, "testdata/denied.golden", got)
}

// TestNothingIsNeeded: every message and every field can be absent.
func TestNothingIsNeeded(t *testing.T) {
	for n := 0; ; n++ {
		e, left := deniedEntry(t), n
		if !clearField(e.ProtoReflect(), &left) {
			if n < 50 {
				t.Fatalf("only %d fields were absent in turn", n)
			}
			break
		}
		for _, node := range []*Node{sidecar(), {}} {
			HTTP(node, e)
			TCP(node, &als.TCPAccessLogEntry{CommonProperties: e.GetCommonProperties()})
		}
	}
	for _, entry := range []*als.HTTPAccessLogEntry{nil, {}, {CommonProperties: &als.AccessLogCommon{TlsProperties: &als.TLSProperties{}}}} {
		if e := HTTP(&Node{}, entry); e.Source != evidence.SourceEnvoyALS || !e.Final {
			t.Errorf("an empty entry is %+v", e)
		}
	}
	if e := TCP(&Node{}, &als.TCPAccessLogEntry{}); e.Role != evidence.RoleCallee {
		t.Errorf("an empty TCP entry is %+v", e)
	}
}

// clearField clears the nth of the fields that are set in m and below.
func clearField(m protoreflect.Message, n *int) (cleared bool) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if *n--; *n < 0 {
			m.Clear(fd)
			cleared = true
		} else if fd.Message() != nil && !fd.IsList() && !fd.IsMap() {
			cleared = clearField(v.Message(), n)
		}
		return !cleared
	})
	return cleared
}

func TestRole(t *testing.T) {
	router := ParseNodeID("router~10.0.0.9~gw.istio-system~x")
	plain := ParseNodeID("edge-proxy-1")
	for _, tt := range []struct {
		name  string
		stand stand
		want  evidence.Role
	}{
		{"inbound cluster", stand{node: sidecar(), cluster: "inbound|8080||"}, evidence.RoleCallee},
		{"outbound cluster", stand{node: sidecar(), cluster: "outbound|80||a.b.svc.cluster.local"}, evidence.RoleCaller},
		{"outbound passthrough", stand{node: sidecar(), cluster: "PassthroughCluster"}, evidence.RoleCaller},
		{"outbound passthrough, its name for statistics", stand{node: sidecar(), cluster: "PassthroughCluster;"}, evidence.RoleCaller},
		{"blocked outbound", stand{node: sidecar(), cluster: "BlackHoleCluster"}, evidence.RoleCaller},
		{"inbound passthrough", stand{node: sidecar(), cluster: "InboundPassthroughClusterIpv4"}, evidence.RoleCallee},
		{"waypoint", stand{node: &Node{Type: "waypoint"}, cluster: "inbound-vip|80|http|a.b.svc.cluster.local"}, evidence.RoleCallee},
		{"gateway forwards", stand{node: &router, cluster: "outbound|80||a", hasUpstream: true}, evidence.RoleCaller},
		{"gateway answers", stand{node: &router}, evidence.RoleCallee},
		{"gateway denies after routing", stand{node: &router, cluster: "outbound|80||a", details: "rbac_access_denied"}, evidence.RoleCallee},
		{"listener states it", stand{node: sidecar(), cluster: "outbound|80||a", listener: inbound}, evidence.RoleCallee},
		{"denied, no cluster", stand{node: sidecar(), localAddress: "10.1.1.1", details: "ext_authz_denied"}, evidence.RoleCallee},
		{"client certificate", stand{node: sidecar(), localAddress: "10.1.1.1", peerCertificate: true}, evidence.RoleCallee},
		{"captured outbound", stand{node: sidecar(), localAddress: "10.1.1.1"}, evidence.RoleCaller},
		{"own address", stand{node: sidecar(), localAddress: "10.0.0.1"}, evidence.RoleCallee},
		{"plain envoy", stand{node: &plain, cluster: "orders", hasUpstream: true}, evidence.RoleCallee},
	} {
		if got := tt.stand.role(); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// What a proxy could not bring where it should go has both its ends.
func TestNotDelivered(t *testing.T) {
	const failure = "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end"
	tunnel := TCP(&Node{Type: waypoint}, &als.TCPAccessLogEntry{CommonProperties: &als.AccessLogCommon{
		UpstreamCluster: "connect_originate", UpstreamTransportFailureReason: failure,
		UpstreamRemoteAddress: socketAddress("10.0.0.2", 15008), DownstreamLocalAddress: socketAddress("10.0.0.2", 80),
	}})
	if tunnel.Role != evidence.RoleCaller || tunnel.Event != evidence.EventHandshake || tunnel.TLS.FailureReason != failure ||
		tunnel.To.Address != "10.0.0.2" || tunnel.To.Port != 80 {
		t.Errorf("a tunnel: %s", evidencetest.Render(&tunnel))
	}
	nowhere := TCP(sidecar(), &als.TCPAccessLogEntry{CommonProperties: &als.AccessLogCommon{
		UpstreamCluster: "BlackHoleCluster", DownstreamRemoteAddress: socketAddress("10.0.0.1", 4000), DownstreamLocalAddress: socketAddress("192.0.2.7", 443),
	}})
	if nowhere.Role != evidence.RoleCaller || nowhere.From.Address != "10.0.0.1" || nowhere.To.Address != "192.0.2.7" || nowhere.To.Port != 443 {
		t.Errorf("blocked: %s", evidencetest.Render(&nowhere))
	}
}

func TestDetails(t *testing.T) {
	for _, tt := range []struct {
		details, flags string
		want           evidence.Verdict
	}{
		{"rbac_access_denied_matched_policy[ns[shop]-policy[deny]-rule[0]]", "",
			evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Deny, Enforced: true, PolicyNamespace: "shop", PolicyID: "deny", Reason: "rule[0]"}},
		{"rbac_access_denied_matched_policy[none]", "",
			evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Deny, Enforced: true, DefaultDeny: true}},
		{"rbac_access_denied_matched_policy[my[odd]policy]", "",
			evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Deny, Enforced: true, PolicyID: "my[odd]policy"}},
		{"rbac_access_denied_matched_policy[ns[a", "",
			evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Deny, Enforced: true, PolicyID: "ns[a"}},
		{"rbac_access_denied", "", evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Deny, Enforced: true}},
		{"ext_authz_denied", "UAEX", evidence.Verdict{Engine: engineExtAuthz, Decision: evidence.Deny, Enforced: true}},
		{"", "DC,UAEX", evidence.Verdict{Engine: engineExtAuthz, Decision: evidence.Deny, Enforced: true}},
		{"ext_authz_error", "UAEX", evidence.Verdict{Engine: engineExtAuthz, Decision: evidence.Error, Enforced: true, Reason: "ext_authz_error"}},
		{"jwt_authn_access_denied{Jwt_is_missing}", "",
			evidence.Verdict{Engine: engineJWT, Decision: evidence.Deny, Enforced: true, Reason: "Jwt_is_missing"}},
	} {
		got := verdictOf(tt.details, tt.flags)
		if got == nil || *got != tt.want {
			t.Errorf("%q %q: %+v, want %+v", tt.details, tt.flags, got, tt.want)
		}
	}
	if got := verdictOf("via_upstream", "UT"); got != nil {
		t.Errorf("via_upstream gives a verdict: %+v", got)
	}
}

// TestResponseFlagsAreComplete: each flag that the protocol knows has its own
// short name.
func TestResponseFlagsAreComplete(t *testing.T) {
	seen := map[string]protoreflect.Name{}
	fields := (&als.ResponseFlags{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := &als.ResponseFlags{}
		fd := fields.Get(i)
		if fd.Message() != nil {
			f.UnauthorizedDetails = &als.ResponseFlags_Unauthorized{}
		} else {
			f.ProtoReflect().Set(fd, protoreflect.ValueOfBool(true))
		}
		name := flagsOf(t, f)
		if name == "" || strings.Contains(name, ",") || seen[name] != "" {
			t.Errorf("%s is %q, as is %q", fd.Name(), name, seen[name])
		}
		seen[name] = fd.Name()
	}
	both := &als.ResponseFlags{UpstreamRetryLimitExceeded: true, UpstreamConnectionFailure: true}
	if got := flagsOf(t, both); got != "UF,URX" {
		t.Errorf("two flags are %q", got)
	}
}

func flagsOf(t *testing.T, f *als.ResponseFlags) string {
	var e entry
	if !e.responseFlags(string(marshal(f))) {
		t.Fatal("refused")
	}
	return flagText(e.flags)
}

// changed changes a copy of the full entry.
func changed(t *testing.T, change func(*als.HTTPAccessLogEntry, *als.AccessLogCommon)) evidence.Evidence {
	t.Helper()
	e := proto.CloneOf(deniedEntry(t))
	e.CommonProperties.Metadata = nil
	e.CommonProperties.ResponseFlags = nil
	e.Response.ResponseCodeDetails = "via_upstream"
	change(e, e.CommonProperties)
	got := HTTP(sidecar(), e)
	evidencetest.RoundTrip(t, &got)
	return got
}

func TestTraceContextByRole(t *testing.T) {
	want := evidence.SpanID{0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7}
	callee := changed(t, func(*als.HTTPAccessLogEntry, *als.AccessLogCommon) {})
	if callee.ParentSpanID != want || callee.SpanID != (evidence.SpanID{}) || callee.TraceID[0] != 0x4b {
		t.Errorf("callee: parent %x, span %x, trace %x", callee.ParentSpanID, callee.SpanID, callee.TraceID)
	}
	caller := changed(t, func(_ *als.HTTPAccessLogEntry, c *als.AccessLogCommon) { c.UpstreamCluster = "outbound|80||a" })
	if caller.SpanID != want || caller.ParentSpanID != (evidence.SpanID{}) {
		t.Errorf("caller: span %x, parent %x", caller.SpanID, caller.ParentSpanID)
	}
	own := changed(t, func(_ *als.HTTPAccessLogEntry, c *als.AccessLogCommon) {
		c.CustomTags = map[string]string{"trace_id": traceID, "span_id": spanID}
	})
	if own.SpanID != want || own.ParentSpanID != (evidence.SpanID{}) {
		t.Errorf("callee with its own span: span %x, parent %x", own.SpanID, own.ParentSpanID)
	}
	b3 := changed(t, func(e *als.HTTPAccessLogEntry, _ *als.AccessLogCommon) {
		e.Request.RequestHeaders = map[string]string{"X-B3-TraceId": traceID, "X-B3-SpanId": spanID, "x-b3-parentspanid": "1111111111111111"}
	})
	if b3.ParentSpanID != want || b3.TraceID[0] != 0x4b {
		t.Errorf("b3: parent %x, trace %x", b3.ParentSpanID, b3.TraceID)
	}
}

func TestTraps(t *testing.T) {
	t.Run("stream id that is the request id", func(t *testing.T) {
		e := changed(t, func(_ *als.HTTPAccessLogEntry, c *als.AccessLogCommon) { c.StreamId = "b1" })
		if e.StreamID != "" || e.RequestID != "b1" {
			t.Errorf("stream id %q, request id %q", e.StreamID, e.RequestID)
		}
	})
	t.Run("interim entries are not final", func(t *testing.T) {
		for kind := range als.AccessLogType_name {
			kind := als.AccessLogType(kind)
			e := changed(t, func(_ *als.HTTPAccessLogEntry, c *als.AccessLogCommon) { c.AccessLogType = kind })
			want := kind == als.AccessLogType_NotSet || strings.HasSuffix(kind.String(), "End")
			if e.Final != want {
				t.Errorf("%v: final %v", kind, e.Final)
			}
			if finalName(kind.String()) != want {
				t.Errorf("label %v: final %v", kind, !want)
			}
		}
		e := changed(t, func(_ *als.HTTPAccessLogEntry, c *als.AccessLogCommon) {
			//lint:ignore SA1019 sent by older Envoys
			c.IntermediateLogEntry = true
		})
		if e.Final {
			t.Error("an intermediate entry is final")
		}
	})
	t.Run("Istio's principal", func(t *testing.T) {
		e := changed(t, func(_ *als.HTTPAccessLogEntry, c *als.AccessLogCommon) {
			c.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
				filters[filterIstioAuthn]: structOf(t, map[string]any{"request.auth.principal": "https://idp.example/alice"}),
			}}
		})
		if e.User != "alice" || e.Actor.Token.Issuer != "https://idp.example" {
			t.Errorf("%q of %v", e.User, e.Actor)
		}
	})
	t.Run("tokens", func(t *testing.T) {
		fingerprint := sha256.Sum256([]byte("certificate"))
		x5t := base64.RawURLEncoding.EncodeToString(fingerprint[:])
		read := func(metadata, peer, certificate string) evidence.Evidence {
			return changed(t, func(_ *als.HTTPAccessLogEntry, c *als.AccessLogCommon) {
				var payloads map[string]any
				if err := json.Unmarshal([]byte(metadata), &payloads); err != nil {
					t.Fatal(err)
				}
				c.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{filters[filterJWT]: structOf(t, payloads)}}
				c.CustomTags = map[string]string{"peer_cert_sha256": certificate}
				c.TlsProperties.PeerCertificateProperties = certificateOf(peer)
			})
		}
		const bound = `{"p":{"sub":"alice","azp":"web","cnf":{"x5t#S256":%q}}}`
		matches, differs := fmt.Sprintf(bound, x5t), fmt.Sprintf(bound, "t")
		certificate := hex.EncodeToString(fingerprint[:])
		for name, tc := range map[string]struct {
			metadata, peer, certificate string
			user, kind                  string
			want                        evidence.Token
		}{
			"a user by a client":            {`{"p":{"sub":"alice","azp":"web","client_id":"x"}}`, frontend, "", "alice", "", evidence.Token{AuthorizedParty: "web", Bound: "none"}},
			"the client itself":             {`{"header":{"alg":"ES256"},"p":{"iss":"i","client_id":"job"}}`, frontend, "", "job", "service", evidence.Token{Issuer: "i", AuthorizedParty: "job", Bound: "none"}},
			"at the top":                    {`{"azp":"job"}`, frontend, "", "job", "service", evidence.Token{AuthorizedParty: "job", Bound: "none"}},
			"a subject before clients":      {`{"a":{"azp":"a"},"b":{"sub":"z","azp":"b"}}`, frontend, "", "z", "", evidence.Token{AuthorizedParty: "b", Bound: "none"}},
			"the client's certificate":      {matches, "", certificate, "alice", "", evidence.Token{AuthorizedParty: "web", X5T: x5t, Bound: "mtls", Proof: "verified"}},
			"another client's":              {differs, "", certificate, "alice", "", evidence.Token{AuthorizedParty: "web", X5T: "t", Bound: "mtls", Proof: "failed: x5t"}},
			"behind a gateway":              {differs, frontend, certificate, "alice", "", evidence.Token{AuthorizedParty: "web", X5T: "t", Bound: "mtls", Proof: "other certificate"}},
			"its certificate is not stated": {matches, frontend, "", "alice", "", evidence.Token{AuthorizedParty: "web", X5T: x5t, Bound: "mtls"}},
		} {
			e := read(tc.metadata, tc.peer, tc.certificate)
			if e.Actor == nil || e.User != tc.user || e.Actor.Type != tc.kind || e.Actor.Token != tc.want {
				t.Errorf("%s: user %q, %+v; want %+v", name, e.User, e.Actor, tc.want)
			}
		}
	})
	t.Run("header spoofing is a claim", func(t *testing.T) {
		e := changed(t, func(*als.HTTPAccessLogEntry, *als.AccessLogCommon) {})
		ids := e.From.Identities
		if len(ids) != 3 || ids[0].ID.String() != frontend || ids[0].Proof != evidence.ProofMTLSSAN {
			t.Fatalf("identities %+v", ids)
		}
		for _, id := range ids[1:] {
			if id.Proof != evidence.ProofClaimed {
				t.Errorf("a header's identity %v has proof %v", id.ID, id.Proof)
			}
		}
		// Only the nearest hop's element speaks of the caller.
		if ids[2].ID.String() != frontend {
			t.Errorf("x-forwarded-client-cert gave %v", ids[2])
		}
	})
	t.Run("decision id", func(t *testing.T) {
		for name, md := range map[string]map[string]any{
			"top":    {"decision_id": "d-1"},
			"nested": {"ext_authz": map[string]any{"opa": map[string]any{"decision_id": "d-1"}}},
			"camel":  {"decisionId": "d-1"},
		} {
			e := changed(t, func(_ *als.HTTPAccessLogEntry, c *als.AccessLogCommon) {
				c.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{filters[filterExtAuthz]: structOf(t, md)}}
			})
			if e.DecisionID != "d-1" || e.Verdict == nil || e.Verdict.Decision != evidence.Allow || e.Verdict.DecisionID != "d-1" {
				t.Errorf("%s: decision %q, verdict %+v", name, e.DecisionID, e.Verdict)
			}
		}
		e := changed(t, func(en *als.HTTPAccessLogEntry, c *als.AccessLogCommon) {
			en.Response.ResponseCodeDetails = "ext_authz_denied"
			c.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{filters[filterExtAuthz]: structOf(t, map[string]any{"decision_id": "d-2"})}}
		})
		if e.Verdict == nil || e.Verdict.Decision != evidence.Deny || e.Verdict.DecisionID != "d-2" {
			t.Errorf("denied: %+v", e.Verdict)
		}
	})
	t.Run("dry run", func(t *testing.T) {
		e := changed(t, func(_ *als.HTTPAccessLogEntry, c *als.AccessLogCommon) {
			c.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{filters[filterRBAC]: structOf(t, map[string]any{
				"istio_dry_run_allow_shadow_engine_result":       "allowed",
				"istio_dry_run_deny_shadow_engine_result":        "denied",
				"istio_dry_run_deny_shadow_effective_policy_id":  "ns[shop]-policy[p]-rule[1]",
				"istio_dry_run_allow_shadow_effective_policy_id": "ns[shop]-policy[q]-rule[0]",
			})}}
		})
		want := evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Deny, PolicyNamespace: "shop", PolicyID: "p", Reason: "rule[1]"}
		if e.Verdict == nil || *e.Verdict != want {
			t.Errorf("%+v, want %+v", e.Verdict, want)
		}
	})
	t.Run("a retry", func(t *testing.T) {
		e := changed(t, func(_ *als.HTTPAccessLogEntry, c *als.AccessLogCommon) {
			c.UpstreamCluster, c.UpstreamRequestAttemptCount = "outbound|80||a", 3
		})
		if e.ResendCount != 2 {
			t.Errorf("resend count %d", e.ResendCount)
		}
	})
	t.Run("failed upstream handshake", func(t *testing.T) {
		e := changed(t, func(en *als.HTTPAccessLogEntry, c *als.AccessLogCommon) {
			c.UpstreamCluster = "outbound|8080|v1|orders.shop.svc.cluster.local"
			c.UpstreamTransportFailureReason = "TLS_error:CERTIFICATE_VERIFY_FAILED"
			c.ResponseFlags = &als.ResponseFlags{UpstreamConnectionFailure: true}
			en.Response.ResponseCode = nil
		})
		if !e.Failed || e.TLS.Established || e.TLS.FailureReason == "" || e.ResponseFlags != "UF" {
			t.Errorf("%+v", e)
		}
		if want := (evidence.Workload{Name: "orders", Namespace: "shop", Kind: "Service", Version: "v1"}); e.To.Workload != want {
			t.Errorf("destination %+v", e.To.Workload)
		}
	})
	t.Run("upstream identity by custom tag", func(t *testing.T) {
		e := changed(t, func(_ *als.HTTPAccessLogEntry, c *als.AccessLogCommon) {
			c.UpstreamCluster = "outbound|80||a"
			c.TlsProperties = nil
			c.CustomTags = map[string]string{"upstream_peer_uri_san": orders, "upstream_local_uri_san": frontend, "peer_spiffe_id": "spiffe://x/y"}
		})
		if len(e.To.Identities) != 1 || e.To.Identities[0].ID.String() != orders || e.From.Identities[0].ID.String() != frontend {
			t.Errorf("to %+v, from %+v", e.To.Identities, e.From.Identities)
		}
		if !e.TLS.Established || !e.TLS.Mutual {
			t.Errorf("TLS %+v", e.TLS)
		}
	})
	t.Run("peer metadata", func(t *testing.T) {
		peer, err := anypb.New(structOf(t, map[string]any{
			"WORKLOAD_NAME": "frontend-v2", "NAMESPACE": "shop", "NAME": "frontend-v2-abc",
			"OWNER":  "kubernetes://apis/apps/v1/namespaces/shop/deployments/frontend-v2",
			"LABELS": map[string]any{"version": "v2", "service.istio.io/canonical-revision": "v2"},
		}))
		if err != nil {
			t.Fatal(err)
		}
		e := changed(t, func(_ *als.HTTPAccessLogEntry, c *als.AccessLogCommon) {
			c.FilterStateObjects = map[string]*anypb.Any{"wasm.downstream_peer": peer, "other": {TypeUrl: "type.googleapis.com/no.Such"}}
		})
		want := evidence.Workload{Name: "frontend-v2", Namespace: "shop", Kind: "Deployment", Version: "v2", Revision: "v2", PodName: "frontend-v2-abc"}
		if e.From.Workload != want {
			t.Errorf("%+v", e.From.Workload)
		}
		if peer, err = anypb.New(structOf(t, map[string]any{
			"workload": "frontend-v2", "namespace": "shop", "name": "frontend-v2-abc", "type": "deployment", "cluster": "east",
			"service": "frontend", "revision": "v2", "app": "frontend", "version": "v2",
		})); err != nil {
			t.Fatal(err)
		}
		e = changed(t, func(_ *als.HTTPAccessLogEntry, c *als.AccessLogCommon) {
			c.FilterStateObjects = map[string]*anypb.Any{"downstream_peer": peer}
		})
		if e.From.Workload != want {
			t.Errorf("newer names: %+v", e.From.Workload)
		}
	})
	t.Run("an endpoint behind a tunnel", func(t *testing.T) {
		internal := func(endpoint string) *corev3.Address {
			return &corev3.Address{Address: &corev3.Address_EnvoyInternalAddress{EnvoyInternalAddress: &corev3.EnvoyInternalAddress{
				AddressNameSpecifier: &corev3.EnvoyInternalAddress_ServerListenerName{ServerListenerName: "connect_originate"}, EndpointId: endpoint,
			}}}
		}
		e := changed(t, func(_ *als.HTTPAccessLogEntry, c *als.AccessLogCommon) {
			c.UpstreamCluster = "outbound|80||orders.shop.svc.cluster.local;"
			c.UpstreamRemoteAddress, c.UpstreamLocalAddress = internal("10.0.0.7:8080"), internal("")
		})
		if e.To.Address != "10.0.0.7" || e.To.Port != 8080 || e.To.Workload.Name != "orders" || e.From.Address != sidecar().IP {
			t.Errorf("from %+v to %+v", e.From, e.To)
		}
	})
	t.Run("a waypoint's request out of a tunnel", func(t *testing.T) {
		state := func(id string) *anypb.Any {
			v, err := anypb.New(wrapperspb.String(id))
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		entry, node := deniedEntry(t), sidecar()
		node.Type = "waypoint"
		c := entry.CommonProperties
		c.TlsProperties, c.CustomTags, c.UpstreamCluster = nil, nil, "inbound-vip|80|http|orders.shop.svc.cluster.local;"
		e := HTTP(node, entry)
		if e.Role != evidence.RoleCallee || e.TLS.Known {
			t.Errorf("%v, TLS %+v: nothing is known of the tunnel", e.Role, e.TLS)
		}
		if want := (evidence.Workload{Name: "orders", Namespace: "shop", Kind: "Service"}); e.To.Workload != want {
			t.Errorf("it was asked for %+v", e.To.Workload)
		}
		c.FilterStateObjects = map[string]*anypb.Any{"io.istio.peer_principal": state(frontend), "io.istio.local_principal": state(orders)}
		e = HTTP(node, entry)
		if !e.TLS.Established || !e.TLS.Mutual || len(e.From.Identities) == 0 || e.From.Identities[0].ID.String() != frontend ||
			e.From.Identities[0].Proof != evidence.ProofMTLSSAN || len(e.To.Identities) == 0 || e.To.Identities[0].ID.String() != orders {
			t.Errorf("TLS %+v, from %+v, to %+v", e.TLS, e.From.Identities, e.To.Identities)
		}
	})
	t.Run("times that do not fit", func(t *testing.T) {
		for _, start := range []*timestamppb.Timestamp{{Seconds: 253402300799}, {Seconds: -62135596800}, {Nanos: -1}} {
			e := changed(t, func(_ *als.HTTPAccessLogEntry, c *als.AccessLogCommon) { c.StartTime = start })
			if e.Start != 0 {
				t.Errorf("%v gave %d", start, e.Start)
			}
		}
	})
	t.Run("gRPC", func(t *testing.T) {
		e := changed(t, func(en *als.HTTPAccessLogEntry, _ *als.AccessLogCommon) {
			en.Request.Path = "/shop.Orders/Cancel"
			en.Response.ResponseTrailers = map[string]string{"grpc-status": "7"}
		})
		if e.GRPCStatus != "7" || e.RPCSystem != "grpc" || e.RPCService != "shop.Orders" || e.RPCMethod != "Cancel" {
			t.Errorf("%q %q %q %q", e.GRPCStatus, e.RPCSystem, e.RPCService, e.RPCMethod)
		}
	})
}

func TestNode(t *testing.T) {
	n := ReadNode(&corev3.Node{
		Id: "sidecar~10.0.0.1~orders.v1.example-1.shop~shop.svc.cluster.local", Cluster: "orders.shop",
		Metadata: structOf(t, map[string]any{
			"NAME": "orders-1", "NAMESPACE": "shop", "WORKLOAD_NAME": "orders", "CLUSTER_ID": "east", "NODE_NAME": "worker-3",
			"OWNER":  "kubernetes://apis/apps/v1/namespaces/shop/deployments/orders",
			"LABELS": map[string]any{"app": "orders", "version": "v1", "service.istio.io/canonical-name": "orders", "service.istio.io/canonical-revision": "r1"},
		}),
	})
	want := evidence.Workload{Name: "orders", Namespace: "shop", Kind: "Deployment", Version: "v1", Revision: "r1", PodName: "orders-1", Node: "worker-3"}
	if n.Workload != want || n.Cluster != "east" || n.Type != "sidecar" || n.IP != "10.0.0.1" {
		t.Errorf("%+v", n)
	}
	for id, want := range map[string]Node{
		"plain": {ID: "plain"},
		"a~b":   {ID: "a~b"},
		"router~10.0.0.1~gw.istio-system~d": {ID: "router~10.0.0.1~gw.istio-system~d", Type: "router", IP: "10.0.0.1",
			Workload: evidence.Workload{PodName: "gw", Namespace: "istio-system"}},
		"": {},
	} {
		if got := ParseNodeID(id); got != want {
			t.Errorf("ParseNodeID(%q) = %+v", id, got)
		}
	}
}

// HTTP and TCP decode one entry as it comes over the wire.
func HTTP(node *Node, entry *als.HTTPAccessLogEntry) evidence.Evidence {
	n := *node
	return decoded(&n, KindHTTP, &alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{
		HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: []*als.HTTPAccessLogEntry{entry}},
	}})
}

func TCP(node *Node, entry *als.TCPAccessLogEntry) evidence.Evidence {
	n := *node
	return decoded(&n, KindTCP, &alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_TcpLogs{
		TcpLogs: &alsv3.StreamAccessLogsMessage_TCPAccessLogEntries{LogEntry: []*als.TCPAccessLogEntry{entry}},
	}})
}

func decoded(node *Node, kind string, m *alsv3.StreamAccessLogsMessage) evidence.Evidence {
	all, kinds, err := decodeAll(node, marshal(m))
	if err != nil || len(all) != 1 || kinds[0] != kind {
		panic(fmt.Sprint(err, kinds))
	}
	return all[0]
}

// decodeAll copies what Decode gives.
func decodeAll(node *Node, message []byte) (all []evidence.Evidence, kinds []string, err error) {
	err = Decode(node, string(message), func(kind string, entries []Entry) {
		for i := range entries {
			e := entries[i].Evidence
			e.From.Identities = slices.Clone(e.From.Identities)
			e.To.Identities = slices.Clone(e.To.Identities)
			all, kinds = append(all, e), append(kinds, kind)
		}
	})
	return all, kinds, err
}

func marshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

// FuzzDecode feeds whole messages.
func FuzzDecode(f *testing.F) {
	for _, path := range corpus(f) {
		f.Add(marshal(message(f, path)))
	}
	f.Add(marshal(&alsv3.StreamAccessLogsMessage{
		Identifier: &alsv3.StreamAccessLogsMessage_Identifier{Node: &corev3.Node{Id: "x"}},
		LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{
			LogEntry: []*als.HTTPAccessLogEntry{deniedEntry(f)},
		}},
	}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var node Node
		all, _, err := decodeAll(&node, b)
		if err != nil {
			return
		}
		var again Node
		second, _, _ := decodeAll(&again, b)
		for i := range all {
			e := &all[i]
			if strings.ContainsAny(e.Path, "?#") {
				t.Fatalf("path %q", e.Path)
			}
			evidencetest.RoundTrip(t, e)
			// Maps have no order; what is read of them must not depend on one.
			if evidencetest.Render(e) != evidencetest.Render(&second[i]) {
				t.Fatalf("read twice:\n%s%s", evidencetest.Render(e), evidencetest.Render(&second[i]))
			}
		}
		var m alsv3.StreamAccessLogsMessage
		if proto.Unmarshal(b, &m) == nil && len(m.GetHttpLogs().GetLogEntry()) > len(all) {
			t.Fatal("an entry that protobuf reads is missing")
		}
	})
}

// TestDecodeRefuses: what is no message, at any depth, and without a panic.
func TestDecodeRefuses(t *testing.T) {
	whole := marshal(message(t, corpus(t)[0]))
	refused := 0
	for n := range whole {
		var node Node
		if all, _, err := decodeAll(&node, whole[:n]); err != nil && len(all) == 0 {
			refused++
		}
	}
	if refused < len(whole)-10 { // a cut between two fields is a message
		t.Errorf("%d of %d beginnings of a message were refused", refused, len(whole))
	}
	for _, bad := range []string{"\x00", "\x0b\x0c", "\x0a\x05x", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\x12\x02\x0a\x05",
		"\x12\x09\x0a\x07\x0a\x05\x1a\x03\x0a\x05x",            // a local address
		"\x12\x0b\x0a\x09\x0a\x07\x2a\x02\x08\x01\x62\x01\x08", // a duration
	} {
		var node Node
		if _, _, err := decodeAll(&node, []byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// TestNothingIsLeftOver: an entry has nothing of the one whose memory it is read
// into.
func TestNothingIsLeftOver(t *testing.T) {
	node := sidecar()
	http := func(entries ...*als.HTTPAccessLogEntry) []byte {
		return marshal(&alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{
			HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: entries},
		}})
	}
	want := evidence.Evidence{
		Source: evidence.SourceEnvoyALS, Role: evidence.RoleCallee, Final: true,
		Reporter: evidence.Reporter{Node: node.ID}, To: evidence.Party{Workload: node.Workload},
	}
	for range 3 {
		all, _, err := decodeAll(node, http(deniedEntry(t), &als.HTTPAccessLogEntry{}, mutualEntry(), &als.HTTPAccessLogEntry{}))
		if err != nil || len(all) != 4 {
			t.Fatal(len(all), err)
		}
		more, _, err := decodeAll(node, http(&als.HTTPAccessLogEntry{}, &als.HTTPAccessLogEntry{}, &als.HTTPAccessLogEntry{}))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range append(more, all[1], all[3]) {
			if len(e.From.Identities)+len(e.To.Identities) != 0 {
				t.Errorf("identities %v, %v", e.From.Identities, e.To.Identities)
			}
			e.From.Identities, e.To.Identities = nil, nil
			if !reflect.DeepEqual(e, want) {
				t.Fatalf("an empty entry is\n%+v\nwant\n%+v", e, want)
			}
		}
	}
}

// TestBatches: a long message's entries come a batch at a time, each once and in
// their order, up to one that cannot be read.
func TestBatches(t *testing.T) {
	m := &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{}
	for i := range 2*maxBatch + 1 {
		m.LogEntry = append(m.LogEntry, &als.HTTPAccessLogEntry{Request: &als.HTTPRequestProperties{Path: "/" + strconv.Itoa(i)}})
	}
	whole := string(marshal(&alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: m}}))
	tcp := string(marshal(&alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_TcpLogs{
		TcpLogs: &alsv3.StreamAccessLogsMessage_TCPAccessLogEntries{LogEntry: make([]*als.TCPAccessLogEntry, 2)},
	}}))
	for name, tc := range map[string]struct {
		message string
		batches []string
		bad     bool
	}{
		"whole":              {whole, []string{"http 1000", "http 1000", "http 1"}, false},
		"cut":                {whole[:len(whole)-1], nil, true}, // known before an entry is read
		"the last is broken": {strings.Replace(whole, "\x05/2000", "\x06/2000", 1), []string{"http 1000", "http 1000"}, true},
		"of both kinds":      {tcp + whole + tcp, []string{"tcp 2", "http 1000", "http 1000", "http 1", "tcp 2"}, false},
		"and then no field":  {tcp + "\x00", nil, true},
	} {
		var got []string
		n := 0
		err := Decode(sidecar(), tc.message, func(kind string, entries []Entry) {
			got = append(got, fmt.Sprint(kind, " ", len(entries)))
			for i := range entries {
				if kind == KindHTTP && entries[i].Path != "/"+strconv.Itoa(n+i) {
					t.Errorf("%s: entry %d is %s", name, n+i, entries[i].Path)
				}
			}
			if kind == KindHTTP {
				n += len(entries)
			}
		})
		if !slices.Equal(got, tc.batches) || (err != nil) != tc.bad {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// mutualEntry is an ordinary request over mTLS, with a trace.
func mutualEntry() *als.HTTPAccessLogEntry {
	return &als.HTTPAccessLogEntry{
		CommonProperties: &als.AccessLogCommon{
			DownstreamRemoteAddress: socketAddress("10.44.2.56", 43842), DownstreamDirectRemoteAddress: socketAddress("10.44.2.56", 43842),
			DownstreamLocalAddress: socketAddress("10.44.6.66", 9080),
			UpstreamRemoteAddress:  socketAddress("10.44.6.66", 9080), UpstreamLocalAddress: socketAddress("127.0.0.6", 44567),
			TlsProperties: &als.TLSProperties{
				TlsVersion: als.TLSProperties_TLSv1_3, TlsCipherSuite: wrapperspb.UInt32(4866), TlsSniHostname: "outbound_.9080_._.reviews.default.svc.cluster.local",
				PeerCertificateProperties:  certificateOf("spiffe://cluster.local/ns/default/sa/bookinfo-productpage"),
				LocalCertificateProperties: certificateOf("spiffe://cluster.local/ns/default/sa/bookinfo-reviews"),
			},
			StartTime:                   timestamppb.New(time.Unix(1763892000, 123456789)),
			TimeToLastRxByte:            durationpb.New(70 * time.Microsecond),
			TimeToFirstUpstreamTxByte:   durationpb.New(841 * time.Microsecond),
			TimeToLastUpstreamTxByte:    durationpb.New(854 * time.Microsecond),
			TimeToFirstUpstreamRxByte:   durationpb.New(977 * time.Microsecond),
			TimeToLastUpstreamRxByte:    durationpb.New(978 * time.Microsecond),
			TimeToFirstDownstreamTxByte: durationpb.New(979 * time.Microsecond),
			TimeToLastDownstreamTxByte:  durationpb.New(1500 * time.Microsecond),
			Duration:                    durationpb.New(1500 * time.Microsecond),
			UpstreamCluster:             "inbound|9080||", RouteName: "default", StreamId: "0c3e-77a1",
			AccessLogType: als.AccessLogType_DownstreamEnd,
		},
		ProtocolVersion: als.HTTPAccessLogEntry_HTTP11,
		Request: &als.HTTPRequestProperties{
			RequestMethod: corev3.RequestMethod_GET, Scheme: "http", Authority: "reviews:9080", Path: "/reviews/0", UserAgent: "curl/8.7.1",
			RequestId: "d0df1a44-8ba2-9d55-9ac9-4d2b5d3cd3b2", RequestHeadersBytes: 423,
			RequestHeaders: map[string]string{"traceparent": traceparent},
		},
		Response: &als.HTTPResponseProperties{
			ResponseCode: wrapperspb.UInt32(200), ResponseHeadersBytes: 181, ResponseBodyBytes: 295, ResponseCodeDetails: "via_upstream",
		},
	}
}

// BenchmarkDecode decodes messages of 100 entries: of a sidecar's ordinary
// requests (the corpus), of one over mTLS with a trace, and of one with
// everything on it.
func BenchmarkDecode(b *testing.B) {
	ordinary := message(b, "testdata/skywalking_envoy-mesh-server-sidecar.msg.json").GetHttpLogs().GetLogEntry()[0]
	for name, entry := range map[string]*als.HTTPAccessLogEntry{"ordinary": ordinary, "mutual": mutualEntry(), "full": deniedEntry(b)} {
		entries := &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{}
		for range 100 {
			entries.LogEntry = append(entries.LogEntry, entry)
		}
		wire := marshal(&alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: entries}})
		node := sidecar()
		take := func(string, []Entry) {}
		report := func(b *testing.B) {
			b.ReportMetric(float64(b.N*100)/b.Elapsed().Seconds(), "entries/s")
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			defer evidencetest.Rate(b, len(wire))()
			for b.Loop() {
				if err := Decode(node, string(wire), take); err != nil {
					b.Fatal(err)
				}
			}
			report(b)
		})
		b.Run("protobuf alone, "+name, func(b *testing.B) {
			b.ReportAllocs()
			defer evidencetest.Rate(b, len(wire))()
			for b.Loop() {
				var m alsv3.StreamAccessLogsMessage
				if err := proto.Unmarshal(wire, &m); err != nil {
					b.Fatal(err)
				}
			}
			report(b)
		})
	}
}

// TestEvents: what an entry is about.
func TestEvents(t *testing.T) {
	denied := deniedEntry(t)
	denied.Response.ResponseCodeDetails = "jwt_authn_access_denied{Jwt_is_expired}"
	upstream := deniedEntry(t)
	upstream.CommonProperties.UpstreamCluster = "outbound|8080||orders.shop.svc.cluster.local"
	upstream.CommonProperties.UpstreamTransportFailureReason = "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end"
	for name, tc := range map[string]struct {
		got  evidence.Evidence
		want evidence.Event
	}{
		"a request":         {HTTP(sidecar(), deniedEntry(t)), evidence.EventRequest},
		"a refused token":   {HTTP(sidecar(), denied), evidence.EventAuthn},
		"a failed upstream": {HTTP(sidecar(), upstream), evidence.EventHandshake},
		"a connection":      {TCP(sidecar(), &als.TCPAccessLogEntry{CommonProperties: deniedEntry(t).CommonProperties}), evidence.EventConnection},
		"a refused client": {TCP(sidecar(), &als.TCPAccessLogEntry{CommonProperties: &als.AccessLogCommon{
			DownstreamTransportFailureReason: "TLS_error:|268436502:SSL routines:OPENSSL_internal:SSLV3_ALERT_CERTIFICATE_EXPIRED:TLS_error_end",
			DownstreamRemoteAddress:          socketAddress("192.0.2.1", 4711), DownstreamLocalAddress: socketAddress("10.0.0.1", 8443),
		}}), evidence.EventHandshake},
		"a client refused at a gateway": {TCP(&Node{Type: "router"}, &als.TCPAccessLogEntry{CommonProperties: &als.AccessLogCommon{
			DownstreamTransportFailureReason: refused, DownstreamRemoteAddress: socketAddress("192.0.2.1", 4711), DownstreamLocalAddress: socketAddress("10.0.0.1", 8443),
		}}), evidence.EventHandshake},
	} {
		if tc.got.Event != tc.want {
			t.Errorf("%s: event %s, want %s", name, tc.got.Event, tc.want)
		}
		if tc.got.Role == evidence.RoleNone {
			t.Errorf("%s: has no role and would give no record", name)
		}
	}
}
