package meshauditprocessor

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/meshaudit/meshaudit/internal/clerk"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
	"github.com/meshaudit/meshaudit/internal/evidence/k8saudit"
	"github.com/meshaudit/meshaudit/internal/evidence/mapped"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/processor/meshauditprocessor/internal/metadatatest"
)

// linesOf is what file_log sends: each line with its path and offset. Attributes
// are added to each record.
func linesOf(path string, attributes map[string]string, lines ...string) plog.Logs {
	ld := plog.NewLogs()
	sl := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty()
	for i, line := range lines {
		lr := sl.LogRecords().AppendEmpty()
		lr.SetObservedTimestamp(1)
		lr.Body().SetStr(line)
		lr.Attributes().PutStr("log.file.path", path)
		lr.Attributes().PutInt("log.file.record_offset", int64(100*i))
		for k, v := range attributes {
			lr.Attributes().PutStr(k, v)
		}
	}
	return ld
}

// corpusLine is line n (from 1) of a decoder's corpus.
func corpusLine(t *testing.T, path string, n int) string {
	t.Helper()
	b, err := os.ReadFile("../../internal/evidence/" + path)
	require.NoError(t, err)
	return strings.TrimSpace(string(bytes.Split(b, []byte("\n"))[n-1]))
}

const (
	ztunnelLog = "ztunnel/testdata/kiali_ztunnel.log"
	ztunnelPod = "/var/log/pods/istio-system_ztunnel-x7k2p_0d9d/istio-proxy/0.log"
)

// run sends logs through a processor of its own and gives what left.
func run(t *testing.T, cfg *Config, send ...func() plog.Logs) *sink {
	t.Helper()
	p := newPair(t, cfg)
	p.start(t)
	for _, s := range send {
		require.NoError(t, p.logs.ConsumeLogs(t.Context(), s()))
	}
	time.Sleep(time.Minute)
	p.stop(t)
	return p.sink
}

func withSources(s ...clerk.SourceConfig) *Config {
	cfg := createDefaultConfig()
	cfg.Sources = s
	return cfg
}

// Every event name that a line can give, from a real line to the record.
func TestLineToRecord(t *testing.T) {
	for _, tt := range lineToRecord {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				line := tt.line
				if tt.corpus != "" {
					line = corpusLine(t, tt.corpus, tt.number)
				}
				s := run(t, withSources(), func() plog.Logs {
					return linesOf("/x", map[string]string{semconv.EvidenceSource: tt.decoder}, line)
				})
				require.Len(t, s.evidence(), 1)
				require.Len(t, s.records(), 1)
				got := s.records()[0]
				assert.Equal(t, tt.event, got.EventName())
				for name, want := range tt.want {
					assert.Equal(t, want, attr(t, got, name), name)
				}
			})
		})
	}
}

type lineCase struct {
	name, decoder, line, corpus string
	number                      int
	event                       string
	want                        map[string]string
}

var lineToRecord = []lineCase{
	{
		name: "a connection", decoder: "ztunnel", corpus: ztunnelLog, number: 2, event: semconv.EventConnection,
		want: map[string]string{
			semconv.SourceSPIFFEID: "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account",
			semconv.MTLSOutcome:    "mutual",
		},
	},
	{
		name: "a connection that policy rejected", decoder: "ztunnel", event: semconv.EventConnection,
		line: "2025-03-01T10:00:00.000001Z\terror\taccess\tconnection complete\tsrc.addr=10.0.0.1:40000 src.workload=\"a\" src.namespace=\"x\" src.identity=\"spiffe://cluster.local/ns/x/sa/a\" dst.addr=10.0.0.2:15008 dst.hbone_addr=10.0.0.2:80 dst.workload=\"b\" dst.namespace=\"y\" dst.identity=\"spiffe://cluster.local/ns/y/sa/b\" direction=\"inbound\" bytes_sent=0 bytes_recv=0 duration=\"0ms\" error=\"connection closed due to policy rejection: explicitly denied by: y/no-a\"",
		want: map[string]string{semconv.AuthzDecision: "deny", semconv.AuthzPolicyID: "no-a", semconv.AuthzPolicyNamespace: "y"},
	},
	{
		name: "a handshake that failed", decoder: "ztunnel", event: semconv.EventHandshake,
		line: "2025-03-01T10:00:00.000001Z\twarn\taccess\tconnection failed\tsrc.addr=10.0.0.1:40000 dst.addr=10.0.0.2:15008 direction=\"inbound\" error=\"tls handshake error: Custom { kind: InvalidData, error: InvalidCertificate(UnknownIssuer) }\"",
		want: map[string]string{semconv.MTLSOutcome: "failed", semconv.TLSEstablished: "false"},
	},
	{
		name: "a caller that met a stranger", decoder: "ztunnel", event: semconv.EventHandshake,
		line: "2025-03-01T10:00:00.000001Z\terror\taccess\tconnection complete\tsrc.addr=10.0.0.1:40000 src.workload=\"a\" src.namespace=\"x\" src.identity=\"spiffe://cluster.local/ns/x/sa/a\" dst.addr=10.0.0.2:15008 dst.hbone_addr=10.0.0.2:80 dst.workload=\"b\" dst.namespace=\"y\" dst.identity=\"spiffe://cluster.local/ns/y/sa/b\" direction=\"outbound\" bytes_sent=0 bytes_recv=0 duration=\"3ms\" error=\"io error: invalid peer certificate: identity verification error: peer did not present the expected SAN (spiffe://cluster.local/ns/y/sa/b), got spiffe://cluster.local/ns/y/sa/evil\"",
		want: map[string]string{
			semconv.MTLSOutcome: "failed", semconv.TLSEstablished: "false",
			semconv.DestinationSPIFFEID: "spiffe://cluster.local/ns/y/sa/b", semconv.DestinationIdentityProof: "ip",
		},
	},
	{
		name: "a dry run", decoder: "ztunnel", event: semconv.EventAuthz,
		line: "2025-03-01T10:00:00.000001Z\tinfo\tstate:inbound{id=5 peer=10.0.0.1:40000}\tdry-run: deny policy match\tpolicy=\"y/no-a\"",
		want: map[string]string{semconv.AuthzDecision: "deny", semconv.AuthzEnforced: "false", semconv.AuthzPolicyID: "no-a"},
	},
	{
		name: "a denial in Envoy's text", decoder: "envoy_text", corpus: "envoy/testdata/istio_text.log", number: 3, event: semconv.EventRequest,
		want: map[string]string{semconv.AuthzPolicyID: "no-[curl]", semconv.AuthzPolicyNamespace: "foo", semconv.HTTPResponseStatusCode: "403"},
	},
	{
		name: "a refused token", decoder: "envoy_text", corpus: "envoy/testdata/istio_text.log", number: 4, event: semconv.EventAuthn,
		want: map[string]string{semconv.AuthzEngine: "envoy_jwt_authn", semconv.AuthzReason: "Jwt_is_missing"},
	},
	{
		name: "a handshake that the upstream refused", decoder: "envoy_text", corpus: "envoy/testdata/istio_text.log", number: 5, event: semconv.EventHandshake,
		want: map[string]string{semconv.MTLSOutcome: "failed"},
	},
	{
		name: "a TCP connection", decoder: "envoy_text", corpus: "envoy/testdata/istio_text.log", number: 6, event: semconv.EventConnection,
		want: map[string]string{semconv.ServerAddress: "10.44.1.40"},
	},
	{
		name: "Istio's JSON", decoder: "envoy_text", corpus: "envoy/testdata/istio_text.log", number: 12, event: semconv.EventRequest,
		want: map[string]string{semconv.URLPath: "/reviews/0"},
	},
	{
		name: "Pomerium's decision", decoder: "pomerium", event: semconv.EventAuthz,
		line: `{"level":"info","service":"authorize","request-id":"r-1","method":"GET","path":"/admin?x=1","host":"app.example.org","ip":"192.0.2.7","user":"google/1","email":"eve@example.org","allow":false,"deny-why-true":["user-unauthorized"],"time":"2026-11-23T10:00:00.5Z","message":"authorize check"}`,
		want: map[string]string{semconv.AuthzDecision: "deny", semconv.AuthzEngine: "pomerium", semconv.UserID: "eve@example.org"},
	},
	{
		name: "Pomerium's request", decoder: "pomerium", event: semconv.EventRequest,
		line: `{"level":"info","service":"envoy","upstream-cluster":"app","method":"GET","authority":"app.example.org","path":"/a?b","user-agent":"x","forwarded-for":"192.0.2.7","request-id":"r-1","duration":12.5,"size":9,"response-code":200,"response-code-details":"via_upstream","time":"2026-11-23T10:00:00.5Z","message":"http-request"}`,
		want: map[string]string{semconv.URLPath: "/a", semconv.HTTPResponseStatusCode: "200"},
	},
	{
		name: "a failed login", decoder: "oauth2_proxy", event: semconv.EventAuthn,
		line: `192.0.2.7:4000 - 3fb1 - eve@example.org [2026/11/23 10:00:00] [AuthFailure] Invalid authentication via OAuth2: unauthorized`,
		want: map[string]string{semconv.AuthzDecision: "deny", semconv.AuthzEngine: "oauth2_proxy", semconv.UserID: "eve@example.org"},
	},
	{
		name: "oauth2-proxy's request", decoder: "oauth2_proxy", event: semconv.EventRequest,
		line: `192.0.2.7:4000 - 3fb1 - eve@example.org [2026/11/23 10:00:00] app.example.org GET - "/oauth2/auth?token=s3cr3t" HTTP/1.1 "curl/8" 202 0 0.001`,
		want: map[string]string{semconv.URLPath: "/oauth2/auth", semconv.HTTPResponseStatusCode: "202"},
	},
	{
		name: "Linkerd's request", decoder: "linkerd", corpus: "linkerd/testdata/linkerd_json.jsonl", number: 2, event: semconv.EventRequest,
		want: map[string]string{semconv.HTTPRequestMethod: "POST", semconv.HTTPResponseStatusCode: "303"},
	},
	{
		name: "Linkerd's denial", decoder: "linkerd", event: semconv.EventAuthz,
		line: `{"timestamp":"2025-03-01T10:00:00.5Z","level":"INFO","fields":{"message":"Request denied","server.group":"policy.linkerd.io","server.kind":"server","server.name":"web","route.group":"","route.kind":"default","route.name":"default","client.tls":"Some(Established { client_id: Some(ClientId(Dns(Name(\"a.x.serviceaccount.identity.linkerd.cluster.local\")))), negotiated_protocol: None })","client.ip":"10.0.0.1"},"target":"linkerd_app_inbound::policy::http"}`,
		want: map[string]string{semconv.AuthzDecision: "deny", semconv.AuthzPolicyID: "server/web/default/default"},
	},
	{
		name: "Hubble's response", decoder: "hubble", corpus: "hubble/testdata/flows_http.jsonl", number: 4, event: semconv.EventRequest,
		want: map[string]string{semconv.HTTPRequestMethod: "GET", semconv.HTTPResponseStatusCode: "503"},
	},
	{
		name: "SPIRE's issued identity", decoder: "spire_audit", corpus: "spire/testdata/server-1.13.jsonl", number: 12, event: semconv.EventIdentityIssue,
		want: map[string]string{
			semconv.AuditTargetID: "spiffe://example.org/ns/shop/sa/orders", semconv.IdentityNotAfter: "1795395021", semconv.AuditOutcome: "success",
			semconv.SourceSPIFFEID:      "spiffe://example.org/spire/agent/join_token/6b7c0a5f-8fe5-4c38-92d6-f3b5fd892816",
			semconv.SourceIdentityProof: "mtls_san",
		},
	},
	{
		name: "SPIRE's new entry", decoder: "spire_audit", corpus: "spire/testdata/server-1.13.jsonl", number: 4, event: semconv.EventConfigChange,
		want: map[string]string{
			semconv.AuditTargetID: "spiffe://example.org/ns/shop/sa/frontend", semconv.ChangeResource: "entry", semconv.ChangeVerb: "create",
			semconv.UserID: "unix:uid:0", semconv.AuditAction: "entry.v1.Entry/BatchCreateEntry",
		},
	},
	{
		name: "SPIRE's join token", decoder: "spire_audit", corpus: "spire/testdata/server-1.13.jsonl", number: 3, event: semconv.EventOperatorAction,
		want: map[string]string{semconv.AuditAction: "agent.v1.Agent/CreateJoinToken", semconv.UserID: "unix:uid:0"},
	},
	{
		name: "an agent that SPIRE refused", decoder: "spire_audit", event: semconv.EventAuthn,
		line: `time="2026-11-24T10:00:00Z" level=info msg="API accessed" type=audit service=agent.v1.Agent method=AttestAgent status=error status_code=PermissionDenied status_message="failed to attest: agent is banned" caller_addr="10.0.0.1:4711" agent_id="spiffe://example.org/spire/agent/x"`,
		want: map[string]string{semconv.AuthzDecision: "deny", semconv.AuthzEngine: "spire", semconv.AuditOutcome: "failure", semconv.ClientAddress: "10.0.0.1"},
	},
	{
		name: "a decision on OPA's console", decoder: "opa_decision", event: semconv.EventAuthz,
		line: `{"decision_id":"d-1","input":{"method":"GET","path":"/a?token=SECRET"},"labels":{"id":"opa-1"},"level":"info","msg":"Decision Log","path":"mesh/authz/allow","result":false,"time":"2026-11-24T10:00:00Z","timestamp":"2026-11-24T10:00:00.5Z","type":"openpolicyagent.org/decision_logs"}`,
		want: map[string]string{semconv.AuthzDecision: "deny", semconv.AuthzPolicyID: "mesh/authz/allow", semconv.JoinDecisionID: "d-1"},
	},
	{
		name: "a line as a container runtime wrote it", decoder: "envoy_text", event: semconv.EventRequest,
		line: `2026-11-24T10:00:00.123456789Z stdout F [2026-11-24T10:00:00.000Z] "GET /a HTTP/1.1" 200 - 0 1 2 3 "-" "-" "r-1" "a" "10.0.0.1:80"`,
		want: map[string]string{semconv.URLPath: "/a", semconv.JoinRequestID: "r-1"},
	},
	{
		name: "an exec by Kubernetes' audit file", decoder: "k8s_audit", corpus: "k8saudit/testdata/exec_pod.json", number: 1, event: semconv.EventOperatorAction,
		want: map[string]string{semconv.UserID: "minikube-user", semconv.AuditTargetType: "pods/exec"},
	},
}

// The file of Kubernetes' audit log takes what the webhook's receiver does.
func TestKubernetesSettings(t *testing.T) {
	const event = `{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"a-1","stage":"ResponseComplete","verb":"update","user":{"username":"system:serviceaccount:ci:deployer"},` +
		`"objectRef":{"resource":"configmaps","namespace":"shop","name":"opa-policy","apiVersion":"v1"},"responseStatus":{"code":200},"requestReceivedTimestamp":"2026-11-24T10:00:00.5Z"}`
	const path = "/srv/audit.log"
	settings := map[string]any{"sources": []any{map[string]any{
		"match": map[string]any{"path": path}, "decoder": "k8s_audit",
		"cluster": "east", "trust_domain": "cluster.local", "config_maps": []any{"shop/opa-*"}, "groups": []any{"*.acme.example"},
	}}}
	synctest.Test(t, func(t *testing.T) {
		cfg := withSources()
		require.NoError(t, confmap.NewFromStringMap(settings).Unmarshal(cfg))
		require.NoError(t, cfg.Validate())
		group := strings.NewReplacer("a-1", "a-2", `"resource":"configmaps"`, `"apiGroup":"mesh.acme.example","resource":"rules"`).Replace(event)
		s := run(t, cfg, func() plog.Logs { return linesOf(path, nil, event, group) })
		require.Len(t, s.records(), 2)
		for _, lr := range s.records() {
			assert.Equal(t, semconv.EventConfigChange, lr.EventName())
			assert.Equal(t, "east", attr(t, lr, semconv.MeshCluster))
			assert.Equal(t, "spiffe://cluster.local/ns/ci/sa/deployer", attr(t, lr, semconv.SourceSPIFFEID))
		}
		s = run(t, withSources(clerk.SourceConfig{Match: clerk.MatchConfig{Path: path}, Decoder: "k8s_audit"}), func() plog.Logs { return linesOf(path, nil, event, group) })
		assert.Empty(t, s.records(), "without the settings it is no change")
	})
}

func TestIdentityOfLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := corpusLine(t, ztunnelLog, 1)
		twice := func() plog.Logs { return linesOf(ztunnelPod, nil, line, line) }
		s := run(t, withSources(), twice, twice)
		got := s.evidence()
		require.Len(t, got, 4)
		id := func(i int) string { return attr(t, got[i], semconv.EvidenceID) }
		assert.NotEqual(t, id(0), id(1), "two equal lines are two")
		assert.Equal(t, id(0), id(2), "the same line read again is the same")
		assert.Equal(t, id(1), id(3))
		assert.Len(t, s.records(), 2)
		assert.Equal(t, ztunnelPod+":100", attr(t, got[1], semconv.EvidencePosition))
		assert.Empty(t, got[0].Body().AsString())
	})
}

// A receiver that is told no offers what we have changed already once more.
func TestRetryOfTheSameLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ld := linesOf(ztunnelPod, nil, corpusLine(t, ztunnelLog, 1), "# a comment", "2025-03-01T10:00:00Z\tinfo\tstate\tstarted\t")
		preset := linesOf("/x", map[string]string{semconv.EvidenceSource: "pomerium"}, `{"message":"other"}`)
		preset.ResourceLogs().MoveAndAppendTo(ld.ResourceLogs())
		same := func() plog.Logs { return ld }
		s := run(t, withSources(), same, same)
		got := s.evidence()
		require.Len(t, got, 8)
		for i := range 4 {
			assert.Equal(t, attr(t, got[i], semconv.EvidenceID), attr(t, got[i+4], semconv.EvidenceID))
			assert.NotEqual(t, "opaque", attr(t, got[i+4], semconv.EvidenceSource))
		}
		assert.Len(t, s.records(), 1)
	})
}

// A line that tells of losses is sealed as one that gave no evidence, and a gap is
// stated: the same one if the line comes again, also changed by the first attempt.
func TestLossesInLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ld := linesOf("/var/run/cilium/hubble/events.log", map[string]string{semconv.EvidenceSource: "hubble"},
			`{"lost_events":{"source":"PERF_EVENT_RING_BUFFER","num_events_lost":"5","cpu":2},"node_name":"node-a","time":"2023-11-14T22:13:20Z"}`)
		same := func() plog.Logs { return ld }
		s := run(t, withSources(), same, same)
		lines := s.evidence()
		require.Len(t, lines, 2)
		assert.Equal(t, "loss", attr(t, lines[0], semconv.EvidenceError))
		assert.Equal(t, "hubble", attr(t, lines[1], semconv.EvidenceSource))
		assert.Equal(t, attr(t, lines[0], semconv.EvidenceID), attr(t, lines[1], semconv.EvidenceID))
		gaps := slices.DeleteFunc(s.records(), func(lr plog.LogRecord) bool { return lr.EventName() != semconv.EventEvidenceGap })
		require.Len(t, gaps, 2)
		for _, gap := range gaps {
			assert.Equal(t, attr(t, gaps[0], semconv.AuditRecordID), attr(t, gap, semconv.AuditRecordID))
			assert.Equal(t, "5", attr(t, gap, semconv.GapCount))
			assert.Equal(t, "perf_event_ring_buffer", attr(t, gap, semconv.GapReason))
			assert.Equal(t, "node-a", attr(t, gap, semconv.EvidenceReporterNode))
			assert.Equal(t, "1700000000000000000", attr(t, gap, semconv.GapSince))
		}
		findings := s.findings()
		require.NotEmpty(t, findings)
		assert.Equal(t, "evidence_gap", attr(t, findings[0], semconv.MeshFindingKind))
	})
}

func TestWhichSource(t *testing.T) {
	line := corpusLine(t, ztunnelLog, 1)
	z := func(m clerk.MatchConfig) *Config {
		return withSources(clerk.SourceConfig{Match: m, Decoder: "ztunnel"})
	}
	resource := func(ld plog.Logs, name, value string) plog.Logs {
		ld.ResourceLogs().At(0).Resource().Attributes().PutStr(name, value)
		return ld
	}
	for _, tt := range []struct {
		name string
		cfg  *Config
		logs plog.Logs
		want string
	}{
		{"nothing", withSources(), linesOf("/x", nil, line), "opaque"},
		{"the built-in path", withSources(), linesOf(ztunnelPod, nil, line), "ztunnel"},
		{"the attribute", withSources(), linesOf("/x", map[string]string{semconv.EvidenceSource: "ztunnel"}, line), "ztunnel"},
		{"the resource's attribute", withSources(), resource(linesOf("/x", nil, line), semconv.EvidenceSource, "ztunnel"), "ztunnel"},
		{"an attribute that names no decoder", withSources(), linesOf("/x", map[string]string{semconv.EvidenceSource: "envoy_als"}, line), "opaque"},
		{"the list before the built-in ones", withSources(clerk.SourceConfig{Match: clerk.MatchConfig{Path: "/var/*"}, Decoder: "opaque"}), linesOf(ztunnelPod, nil, line), "opaque"},
		{"a path", z(clerk.MatchConfig{Path: "/logs/*.log"}), linesOf("/logs/a/b.log", nil, line), "ztunnel"},
		{"another path", z(clerk.MatchConfig{Path: "/logs/*.log"}), linesOf("/logs/b.txt", nil, line), "opaque"},
		{"a resource that is not kept", z(clerk.MatchConfig{Resource: map[string]string{"my.kind": "zt*"}}), resource(linesOf("/x", nil, line), "my.kind", "ztunnel"), "ztunnel"},
		{"one of two conditions", z(clerk.MatchConfig{Path: "/x", Scope: "a"}), linesOf("/x", nil, line), "opaque"},
		{"an event name", z(clerk.MatchConfig{EventName: "*"}), linesOf("/x", nil, line), "ztunnel"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := run(t, tt.cfg, func() plog.Logs { return tt.logs })
				require.Len(t, s.evidence(), 1)
				assert.Equal(t, tt.want, attr(t, s.evidence()[0], semconv.EvidenceSource))
			})
		})
	}
}

func TestSourceFaults(t *testing.T) {
	cfg := withSources(
		clerk.SourceConfig{Decoder: "ztunnel"},
		clerk.SourceConfig{Match: clerk.MatchConfig{Path: "/x"}, Decoder: "zebra"},
		clerk.SourceConfig{Match: clerk.MatchConfig{Resource: map[string]string{"a": ""}}, Decoder: "linkerd"},
		clerk.SourceConfig{Match: clerk.MatchConfig{Path: "/x"}, Decoder: "envoy_text", Format: "%NOPE"},
		clerk.SourceConfig{Match: clerk.MatchConfig{Path: "/x"}, Decoder: "hubble", Format: "%DURATION%"},
		clerk.SourceConfig{Match: clerk.MatchConfig{Path: "/x"}, Decoder: "mapped", Mapping: []mapped.Case{{
			When: []string{"body =="}, Fields: map[string]string{"colour": "body", "user.id": "body[", "role": "Nope()"}, IdentityProof: "svid",
		}}},
		clerk.SourceConfig{Match: clerk.MatchConfig{Path: "/x"}, Decoder: "mapped"},
		clerk.SourceConfig{Match: clerk.MatchConfig{Path: "/x"}, Decoder: "k8s_audit", Kubernetes: k8saudit.Options{ConfigMaps: []string{"opa"}, Groups: []string{"*"}}},
		clerk.SourceConfig{Match: clerk.MatchConfig{Path: "/x"}, Decoder: "ztunnel", Kubernetes: k8saudit.Options{Cluster: "east"}},
	)
	err := cfg.Validate()
	require.Error(t, err)
	for _, want := range []string{"sources::0", "must have a condition", "sources::1", `"zebra"`, "hubble", "sources::2", "match::resource::a", "sources::3", "does not end", "sources::4", "are of the decoder envoy_text",
		"sources::5", "`when`", "fields::colour", "verdict.decision", "fields::user.id", "fields::role", "identity_proof", "sources::6", "must have a case",
		"sources::7", "`config_maps`", "`groups`", "sources::8", "of the decoder k8s_audit"} {
		assert.ErrorContains(t, err, want)
	}
}

// What is refused is sealed as a hash and counted by source and reason.
func TestRefusedLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel := componenttest.NewTelemetry()
		s := new(sink)
		set := metadatatest.NewSettings(tel)
		core, logged := observer.New(zap.InfoLevel)
		set.Logger = zap.New(core)
		logs, err := NewFactory().CreateLogs(t.Context(), set, withSources(), s)
		require.NoError(t, err)
		require.NoError(t, logs.Start(t.Context(), componenttest.NewNopHost()))
		lines := []string{strings.Repeat("x", 1<<20+1)}
		for _, line := range evidencetest.BadLines() {
			lines = append(lines, string(line))
		}
		require.NoError(t, logs.ConsumeLogs(t.Context(), linesOf("/x", map[string]string{semconv.EvidenceSource: "hubble"}, lines...)))
		require.NoError(t, logs.Shutdown(t.Context()))
		counts := make(map[string]int64)
		m, err := tel.GetMetric("otelcol_meshaudit_refused_lines")
		require.NoError(t, err)
		for _, p := range m.Data.(metricdata.Sum[int64]).DataPoints {
			reason, _ := p.Attributes.Value(attribute.Key("reason"))
			counts[reason.AsString()] += p.Value
		}
		assert.Equal(t, int64(len(lines)), counts["not_evidence"]+counts["malformed"]+counts["too_long"])
		assert.Equal(t, int64(1), counts["too_long"])
		told := make(map[any]int)
		for _, e := range logged.FilterMessageSnippet("A line is refused").All() {
			told[e.ContextMap()["reason"]]++
		}
		assert.Equal(t, map[any]int{"not_evidence": 1, "malformed": 1, "too_long": 1}, told, "of each reason the first is logged")
		assert.Len(t, s.evidence(), len(lines))
		for _, lr := range s.evidence() {
			assert.Empty(t, lr.Body().AsString())
			assert.Equal(t, "hubble", attr(t, lr, semconv.EvidenceSource))
			assert.Equal(t, "true", attr(t, lr, semconv.EvidenceRaw))
			assert.NotEmpty(t, attr(t, lr, semconv.EvidenceError))
		}
		require.NoError(t, tel.Shutdown(t.Context()))
	})
}

// What may be meant as a line and is none is told of, once.
func TestStrayLines(t *testing.T) {
	core, logged := observer.New(zap.InfoLevel)
	set := metadatatest.NewSettings(componenttest.NewTelemetry())
	set.Logger = zap.New(core)
	logs, err := NewFactory().CreateLogs(t.Context(), set, withSources(), new(sink))
	require.NoError(t, err)
	require.NoError(t, logs.Start(t.Context(), componenttest.NewNopHost()))
	for _, ld := range []plog.Logs{
		linesOf("/x", map[string]string{semconv.EvidenceSource: "ztunel"}, "a", "b"),
		linesOf("/y", map[string]string{semconv.EvidenceSource: "ztunle"}, "a"),
		linesOf("/z", nil, "a", "b"),
		linesOf("", map[string]string{semconv.EvidenceSource: "envoy_als"}, "an agent named it"),
		linesOf("", nil, "an application's"),
	} {
		require.NoError(t, logs.ConsumeLogs(t.Context(), ld))
	}
	require.NoError(t, logs.Shutdown(t.Context()))
	told := logged.FilterMessageSnippet("it passes as it is").All()
	require.Len(t, told, 2)
	assert.Equal(t, zap.WarnLevel, told[0].Level)
	assert.Equal(t, map[string]any{"name": "ztunel", "position": "/x:0"}, told[0].ContextMap())
	assert.Equal(t, map[string]any{"position": "/z:0"}, told[1].ContextMap())
}

// No secret in any field of any source leaves the processor.
func TestSecretsInLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range lineToRecord {
			line := tt.line
			if tt.corpus != "" {
				line = corpusLine(t, tt.corpus, tt.number)
			}
			var planted []string
			if strings.HasPrefix(line, "{") {
				for _, b := range evidencetest.PlantJSON(t, []byte(line)) {
					planted = append(planted, string(b))
				}
			} else {
				planted = evidencetest.PlantText(line)
			}
			noSecret(t, tt.name, linesOf("/x", map[string]string{semconv.EvidenceSource: tt.decoder, "cookie": evidencetest.Secret}, planted...))
		}
	})
}

func noSecret(t *testing.T, name string, ld plog.Logs) {
	t.Helper()
	n := ld.LogRecordCount()
	s := run(t, withSources(), func() plog.Logs { return ld })
	require.GreaterOrEqual(t, len(s.evidence()), n)
	for _, out := range s.AllLogs() {
		b, err := (&plog.JSONMarshaler{}).MarshalLogs(out)
		require.NoError(t, err)
		if i := bytes.Index(bytes.ToLower(b), []byte(evidencetest.Secret)); i >= 0 {
			t.Errorf("%s: a secret left: …%s…", name, b[max(0, i-200):min(len(b), i+50)])
		}
	}
}

// Envoy's OTLP log names the decision in ext_authz's metadata, beside whatever the
// authorizer puts there, which is not sealed.
func TestDecisionNamedInMetadata(t *testing.T) {
	const metadata = `{"opa":{"decision_id":"d","note":"hunter2"}}`
	for name, put := range map[string]func(pcommon.Map){
		"as JSON": func(m pcommon.Map) { m.PutStr("ext_authz", metadata) },
		"as a map": func(m pcommon.Map) {
			opa := m.PutEmptyMap("ext_authz").PutEmptyMap("opa")
			opa.PutStr("decision_id", "d")
			opa.PutStr("note", "hunter2")
		},
		"beside its own label": func(m pcommon.Map) {
			m.PutStr("ext_authz", `{"decision_id":"other"}`)
			m.PutStr("decision_id", "d")
		},
	} {
		for _, in := range []string{"attributes", "body"} {
			t.Run(name+", in the "+in, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := run(t, createDefaultConfig(), func() plog.Logs {
						ld := logOf(decisionReport("d"))
						rl := ld.ResourceLogs().AppendEmpty()
						rl.Resource().Attributes().PutStr("log_name", "otel")
						rl.Resource().Attributes().PutStr("node_name", "sidecar~10.0.0.1~orders-1.shop~x")
						lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
						lr.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
						labels := lr.Attributes()
						if in == "body" {
							labels = lr.Body().SetEmptyMap()
						}
						for k, v := range map[string]string{"method": "GET", "path": "/x", "response_code": "200", "upstream_cluster": "inbound|80||"} {
							labels.PutStr(k, v)
						}
						put(labels)
						return ld
					})
					require.Len(t, s.records(), 1)
					require.Equal(t, "decision_id", attr(t, s.records()[0], semconv.JoinMethod))
					for _, ld := range s.AllLogs() {
						b, err := (&plog.JSONMarshaler{}).MarshalLogs(ld)
						require.NoError(t, err)
						require.NotContains(t, string(b), "hunter2")
					}
				})
			})
		}
	}
}
