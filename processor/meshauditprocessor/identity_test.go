package meshauditprocessor

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
	"github.com/meshaudit/meshaudit/internal/inventory"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/internal/trustbundle"
)

// What a reporter's own certificate proves stands on the record, and on the
// evidence that is sealed.
func TestReporterProves(t *testing.T) {
	const (
		orders  = "spiffe://example.org/ns/shop/sa/orders"
		client1 = "spiffe://example.org/ns/shop/sa/frontend"
	)
	claim := func(id string, proof evidence.Proof, from string) evidence.Party {
		return evidence.Party{Identities: []evidence.Identity{{ID: spiffeid.RequireFromString(id), Proof: proof, From: from}}}
	}
	for name, tc := range map[string]struct {
		reporter            string // "": not authenticated
		from                string // where the source was stated
		source, destination evidence.Proof
	}{
		"the workload's own sidecar":             {orders, evidence.FromXFCC, evidence.ProofClaimed, evidence.ProofSVID},
		"a proxy that stands for many":           {"spiffe://example.org/ns/istio-system/sa/ztunnel", evidence.FromXFCC, evidence.ProofClaimed, evidence.ProofMTLSSAN},
		"a gateway whose XFCC is taken":          {"spiffe://example.org/ns/ingress/sa/gateway", evidence.FromXFCC, evidence.ProofXFCC, evidence.ProofMTLSSAN},
		"and held a certificate":                 {"spiffe://example.org/ns/ingress/sa/gateway", evidence.FromXFCCCertificate, evidence.ProofSVID, evidence.ProofMTLSSAN},
		"and held one that proves nothing":       {"spiffe://example.org/ns/ingress/sa/gateway", evidence.FromXFCCCertificate + ": expired", evidence.ProofClaimed, evidence.ProofMTLSSAN},
		"a certificate in anybody's XFCC":        {orders, evidence.FromXFCCCertificate, evidence.ProofClaimed, evidence.ProofSVID},
		"another header, from a trusted gateway": {"spiffe://example.org/ns/ingress/sa/gateway", "header.x-spiffe-id", evidence.ProofClaimed, evidence.ProofMTLSSAN},
		"nobody knows who":                       {"", evidence.FromXFCCCertificate, evidence.ProofClaimed, evidence.ProofMTLSSAN},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := createDefaultConfig()
				cfg.Identity.XFCCTrusted = []string{"*/sa/gateway"}
				require.NoError(t, cfg.Validate())
				p := newPair(t, cfg)
				p.start(t)
				reporter := evidence.Reporter{Address: "10.0.0.1"}
				if tc.reporter != "" {
					reporter.SPIFFEID, reporter.Authenticated = spiffeid.RequireFromString(tc.reporter), true
				}
				ctx := client.NewContext(t.Context(), client.Info{Auth: reporter})
				require.NoError(t, p.logs.ConsumeLogs(ctx, logOf(evidence.Evidence{
					Source: evidence.SourceEnvoyALS, Role: evidence.RoleCallee, Final: true, Start: time.Now().UnixNano(), Method: "GET", Path: "/x",
					From: claim(client1, evidence.ProofClaimed, tc.from), To: claim(orders, evidence.ProofMTLSSAN, "tls.local.san"),
				})))
				time.Sleep(5 * time.Second)
				synctest.Wait()
				records := p.sink.records()
				require.Len(t, records, 1)
				require.Equal(t, tc.source.String(), attr(t, records[0], semconv.SourceIdentityProof))
				require.Equal(t, tc.destination.String(), attr(t, records[0], semconv.DestinationIdentityProof))
				require.Equal(t, tc.source.String(), attr(t, p.sink.evidence()[0], semconv.SourceIdentityProof), "and it is sealed so")
				p.stop(t)
			})
		})
	}
}

// Certificates in what others' receivers bring: verified, never sealed, and
// without effect unless the configuration believes who nobody knows.
func TestCertificatesOfOthers(t *testing.T) {
	const frontend = "spiffe://example.org/ns/shop/sa/frontend"
	ca, stranger := evidencetest.NewCA(t), evidencetest.NewCA(t)
	of := func(ca *evidencetest.CA) string {
		return evidencetest.PEM(ca.IssueFor(t, frontend, time.Time{}, time.Now().Add(time.Hour)).Certificate[0])
	}
	line := func(cert string) plog.Logs {
		return linesOf("/x", map[string]string{semconv.EvidenceSource: "envoy_text"},
			`{"start_time":"2026-03-01T10:00:00.000Z","method":"GET","path":"/x","response_code":200,"response_flags":"-","downstream_peer_uri_san":"`+frontend+`","downstream_peer_cert":"`+cert+`"}`)
	}
	otlp := func(cert string) plog.Logs {
		ld := plog.NewLogs()
		rl := ld.ResourceLogs().AppendEmpty()
		rl.Resource().Attributes().PutStr("log_name", "otel")
		rl.Resource().Attributes().PutStr("node_name", "sidecar~10.0.0.1~orders.shop~x")
		lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
		lr.SetTimestamp(pcommon.NewTimestampFromTime(time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)))
		lr.Body().SetStr("GET /x 200")
		lr.Attributes().PutStr("downstream_peer_uri_san", frontend)
		lr.Attributes().PutStr("downstream_peer_cert", cert)
		return ld
	}
	refused := func(cert string) plog.Logs {
		ld := otlp(cert)
		ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes().PutStr("downstream_transport_failure_reason", "TLS_error:CERTIFICATE_VERIFY_FAILED")
		return ld
	}
	span := func(cert string) plog.Logs { // as much of a span as a log can be
		ld := otlp("-")
		ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes().PutStr("x_forwarded_client_cert", `Cert="`+cert+`";URI=`+frontend)
		return ld
	}
	for name, tc := range map[string]struct {
		logs      func(string) plog.Logs
		cert      string
		bundles   bool
		believe   bool
		want      evidence.Proof
		from      string // of the claim that is left of the certificate
		conflicts bool
	}{
		"a line's":                            {logs: line, cert: of(ca), bundles: true, believe: true, want: evidence.ProofSVID},
		"a line's, from nobody":               {logs: line, cert: of(ca), bundles: true, want: evidence.ProofMTLSSAN, from: "tls.peer.certificate: unauthenticated"},
		"a line's, without bundles":           {logs: line, cert: of(ca), want: evidence.ProofMTLSSAN},
		"a line's, forged":                    {logs: line, cert: of(stranger), bundles: true, believe: true, want: evidence.ProofMTLSSAN, from: "tls.peer.certificate: authority", conflicts: true},
		"Envoy's over OTLP":                   {logs: otlp, cert: of(ca), bundles: true, believe: true, want: evidence.ProofSVID},
		"Envoy's over OTLP, from nobody":      {logs: otlp, cert: of(ca), bundles: true, want: evidence.ProofMTLSSAN, from: "tls.peer.certificate: unauthenticated"},
		"of a handshake that failed":          {logs: refused, cert: of(ca), bundles: true, believe: true, want: evidence.ProofClaimed},
		"in a header that nobody vouches for": {logs: span, cert: of(ca), bundles: true, believe: true, want: evidence.ProofMTLSSAN},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := createDefaultConfig()
				if tc.bundles {
					cfg.Identity.TrustBundles.Files = []trustbundle.File{{TrustDomain: "example.org", Path: ca.File(t)}}
				}
				cfg.Identity.UnauthenticatedCertificates = tc.believe
				require.NoError(t, confmap.Validate(cfg))
				s := run(t, cfg, func() plog.Logs { return tc.logs(tc.cert) })
				require.Len(t, s.records(), 1)
				record, sealed := s.records()[0], s.evidence()[0]
				require.Equal(t, frontend, attr(t, record, semconv.SourceSPIFFEID))
				require.Equal(t, tc.want.String(), attr(t, record, semconv.SourceIdentityProof))
				if tc.want == evidence.ProofSVID {
					require.Equal(t, "svid", attr(t, sealed, semconv.SourceIdentityProof), "and it is sealed so")
				}
				if tc.from != "" {
					require.Contains(t, attr(t, sealed, semconv.EvidenceClaims), tc.from)
				}
				_, conflicts := record.Attributes().Get(semconv.MeshConflicts)
				require.Equal(t, tc.conflicts, conflicts)
				require.Equal(t, tc.conflicts, len(s.findings()) == 1, "a contradiction is a finding")
				outcome := "mutual"
				if tc.want == evidence.ProofClaimed {
					outcome = "failed"
				}
				require.Equal(t, outcome, attr(t, record, semconv.MTLSOutcome))
				if tc.want == evidence.ProofSVID {
					require.Len(t, attr(t, record, semconv.TLSClientHashSHA256), 64)
					require.NotEmpty(t, attr(t, record, semconv.TLSClientNotAfter))
				}
				for _, ld := range s.AllLogs() {
					b, err := (&plog.JSONMarshaler{}).MarshalLogs(ld)
					require.NoError(t, err)
					require.NotContains(t, string(b), "BEGIN", "a certificate's bytes are sealed")
				}
			})
		})
	}
}

// A receiver that is told no offers what we have written on already once more: it
// is the same evidence, and what bears its id and is not the same is not.
func TestCertificatesAfterARefusal(t *testing.T) {
	const frontend = "spiffe://example.org/ns/shop/sa/frontend"
	ca := evidencetest.NewCA(t)
	cert := evidencetest.PEM(ca.Issue(t, frontend).Certificate[0])
	synctest.Test(t, func(t *testing.T) {
		cfg := createDefaultConfig()
		cfg.Identity.TrustBundles.Files = []trustbundle.File{{TrustDomain: "example.org", Path: ca.File(t)}}
		cfg.Identity.UnauthenticatedCertificates = true
		p := newPair(t, cfg)
		p.start(t)
		ld := linesOf("/x", map[string]string{semconv.EvidenceSource: "envoy_text"},
			`{"start_time":"2026-03-01T10:00:00.000Z","method":"GET","path":"/x","response_code":200,"response_flags":"-","downstream_peer_cert":"`+cert+`"}`)
		lr := ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
		forged := func() plog.Logs {
			other := plog.NewLogs()
			ld.CopyTo(other)
			other.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes().PutStr(semconv.URLPath, "/other")
			return other
		}
		p.sink.refusing(func(plog.Logs) error { return errors.New("not now") })
		require.Error(t, p.logs.ConsumeLogs(t.Context(), ld))
		id := attr(t, lr, semconv.EvidenceID)
		require.Error(t, p.logs.ConsumeLogs(t.Context(), ld), "twice")
		p.sink.refusing(nil)
		require.NoError(t, p.logs.ConsumeLogs(t.Context(), forged()))
		require.NoError(t, p.logs.ConsumeLogs(t.Context(), ld))
		time.Sleep(time.Minute)
		p.stop(t)
		sealed := p.sink.evidence()
		require.Len(t, sealed, 2)
		require.Equal(t, "mtls_san", attr(t, sealed[0], semconv.SourceIdentityProof))
		require.NotEqual(t, id, attr(t, sealed[0], semconv.EvidenceID))
		require.Equal(t, "svid", attr(t, sealed[1], semconv.SourceIdentityProof))
		require.Equal(t, id, attr(t, sealed[1], semconv.EvidenceID))
	})
}

// Statements about who a party is that disagree: each is kept on the record, and
// is a finding.
func TestConflictsAreRecordedAndRaised(t *testing.T) {
	const (
		frontend = "spiffe://example.org/ns/shop/sa/frontend"
		orders   = "spiffe://example.org/ns/shop/sa/orders"
		evil     = "spiffe://example.org/ns/evil/sa/evil"
	)
	says := func(p *evidence.Party, id string, proof evidence.Proof, from string) {
		p.AddIdentity(evidence.ParseIdentity(id, proof, from))
	}
	callee := func(change func(*evidence.Evidence)) evidence.Evidence {
		return calleeReport("1", func(e *evidence.Evidence) {
			e.From, e.To = evidence.Party{}, evidence.Party{}
			says(&e.From, frontend, evidence.ProofMTLSSAN, "tls.peer.san")
			says(&e.To, orders, evidence.ProofMTLSSAN, "tls.local.san")
			e.TraceID, e.SpanID = evidence.TraceID{1}, evidence.SpanID{1}
			change(e)
		})
	}
	caller := func(change func(*evidence.Evidence)) evidence.Evidence {
		e := callee(func(*evidence.Evidence) {})
		e.Role, e.Position = evidence.RoleCaller, "2"
		change(&e)
		return e
	}
	nothing := func(*evidence.Evidence) {}
	for name, tc := range map[string]struct {
		evidence                 []evidence.Evidence
		field, kept, other, from string
	}{
		"a header from outside says who it is": {
			[]evidence.Evidence{callee(func(e *evidence.Evidence) { says(&e.From, evil, evidence.ProofClaimed, "header.x-spiffe-id") })},
			semconv.SourceSPIFFEID, frontend, evil, "header.x-spiffe-id",
		},
		"so does XFCC": {
			[]evidence.Evidence{callee(func(e *evidence.Evidence) { says(&e.From, evil, evidence.ProofClaimed, evidence.FromXFCC) })},
			semconv.SourceSPIFFEID, frontend, evil, evidence.FromXFCC,
		},
		"the two sidecars disagree": {
			[]evidence.Evidence{callee(nothing), caller(func(e *evidence.Evidence) {
				e.To.Identities = nil
				says(&e.To, evil, evidence.ProofMTLSSAN, "tls.upstream.peer.san")
			})},
			semconv.DestinationSPIFFEID, evil, orders, "tls.local.san", // who ended the connection to it saw its certificate
		},
		"a token of another workload": {
			[]evidence.Evidence{callee(func(e *evidence.Evidence) { says(&e.From, evil, evidence.ProofJWTSVID, evidence.FromJWTSVID) })},
			semconv.SourceSPIFFEID, frontend, evil, evidence.FromJWTSVID,
		},
		"a forged certificate": {
			[]evidence.Evidence{callee(func(e *evidence.Evidence) {
				e.From.AddIdentity(evidence.Identity{Invalid: frontend, Proof: evidence.ProofClaimed, From: evidence.FromPeerCertificate + ": authority"})
			})},
			semconv.SourceSPIFFEID, frontend, frontend, "tls.peer.certificate: authority",
		},
		"service.name says another than the certificate": {
			[]evidence.Evidence{callee(func(e *evidence.Evidence) { e.From.Workload.Name = "payments" })},
			semconv.SourcePrefix + semconv.SuffixWorkloadName, "payments", "frontend", "identity.workloads",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := createDefaultConfig()
				cfg.Identity.Workloads = []inventory.Entry{{ID: "spiffe://example.org/ns/{namespace}/sa/{name}", Version: "1.4.2", ImageDigest: "sha256:0a"}}
				require.NoError(t, confmap.Validate(cfg))
				p := newPair(t, cfg)
				p.start(t)
				require.NoError(t, p.logs.ConsumeLogs(ours(t.Context()), logOf(tc.evidence...)))
				time.Sleep(time.Minute)
				synctest.Wait()
				records, found := p.sink.records(), p.sink.findings()
				require.Len(t, records, 1)
				list, ok := records[0].Attributes().Get(semconv.MeshConflicts)
				require.True(t, ok)
				require.Equal(t, 1, list.Slice().Len(), "%v", list.Slice().AsRaw())
				conflict := list.Slice().At(0).Map().AsRaw()
				require.Equal(t, []any{tc.field, tc.kept, tc.other, tc.from}, []any{conflict["field"], conflict["kept"], conflict["other"], conflict["from"]})
				require.Len(t, found, 1)
				require.Equal(t, "identity_conflict", attr(t, found[0], semconv.MeshFindingKind))
				require.Contains(t, found[0].Body().Str(), tc.other)
				p.stop(t)
			})
		})
	}
}

// What the configuration knows of a workload is on the record where no source
// says it, and marked.
func TestConfiguredWorkloads(t *testing.T) {
	const frontend = "spiffe://example.org/ns/shop/sa/frontend"
	file := filepath.Join(t.TempDir(), "workloads.yaml")
	require.NoError(t, os.WriteFile(file, []byte(`workloads: [{id: "`+frontend+`", namespace: shop, name: frontend, kind: Deployment, version: "2", image_digest: "sha256:0a"}]`), 0o600))
	for name, tc := range map[string]struct {
		stated     evidence.Workload
		want       evidence.Workload
		configured string
		conflicts  int
	}{
		"nothing is stated": {evidence.Workload{}, evidence.Workload{Namespace: "shop", Name: "frontend", Kind: "Deployment", Version: "2", ImageDigest: "sha256:0a"},
			`["workload.namespace","workload.name","workload.kind","workload.version","image.digest"]`, 0},
		"its name is": {evidence.Workload{Namespace: "shop", Name: "frontend", PodName: "p"}, evidence.Workload{Namespace: "shop", Name: "frontend", Kind: "Deployment", Version: "2", ImageDigest: "sha256:0a", PodName: "p"},
			`["workload.kind","workload.version","image.digest"]`, 0},
		"all of it is":                         {evidence.Workload{Namespace: "shop", Name: "frontend", Kind: "Deployment", Version: "2", ImageDigest: "sha256:0a"}, evidence.Workload{Namespace: "shop", Name: "frontend", Kind: "Deployment", Version: "2", ImageDigest: "sha256:0a"}, "", 0},
		"another version: versions do not mix": {evidence.Workload{Name: "frontend", Version: "1"}, evidence.Workload{Namespace: "shop", Name: "frontend", Kind: "Deployment", Version: "1"}, `["workload.namespace","workload.kind"]`, 1},
		"another workload: nothing mixes":      {evidence.Workload{Name: "payments"}, evidence.Workload{Name: "payments"}, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := createDefaultConfig()
				cfg.Identity.WorkloadsFile = file
				p := newPair(t, cfg)
				p.start(t)
				require.NoError(t, p.logs.ConsumeLogs(ours(t.Context()), logOf(calleeReport("1", func(e *evidence.Evidence) {
					e.From = evidence.Party{Workload: tc.stated}
					e.From.AddIdentity(evidence.ParseIdentity(frontend, evidence.ProofMTLSSAN, "tls.peer.san"))
				}))))
				time.Sleep(time.Minute)
				synctest.Wait()
				require.Len(t, p.sink.records(), 1)
				record := p.sink.records()[0]
				get := func(suffix string) string {
					v, ok := record.Attributes().Get(semconv.SourcePrefix + suffix)
					if !ok {
						return ""
					}
					return v.AsString()
				}
				require.Equal(t, tc.want, evidence.Workload{
					Namespace: get(semconv.SuffixWorkloadNamespace), Name: get(semconv.SuffixWorkloadName), Kind: get(semconv.SuffixWorkloadKind),
					Version: get(semconv.SuffixWorkloadVersion), ImageDigest: get(semconv.SuffixImageDigest), PodName: get(semconv.SuffixPodName),
				})
				require.Equal(t, tc.configured, get(semconv.SuffixWorkloadGiven))
				conflicts := 0
				if v, ok := record.Attributes().Get(semconv.MeshConflicts); ok {
					conflicts = v.Slice().Len()
				}
				require.Equal(t, tc.conflicts, conflicts)
				p.stop(t)
			})
		})
	}
}

func TestFileOfWorkloadsThatCannotBeRead(t *testing.T) {
	cfg := createDefaultConfig()
	cfg.Identity.WorkloadsFile = filepath.Join(t.TempDir(), "none")
	p := newPair(t, cfg)
	require.ErrorContains(t, p.logs.Start(t.Context(), componenttest.NewNopHost()), "`identity::workloads_file`")
	require.NoError(t, p.logs.Shutdown(t.Context()))
	cfg.Identity.Workloads = []inventory.Entry{{ID: "x"}}
	require.ErrorContains(t, cfg.Validate(), "`identity::workloads`: entry 0: `id`")
}
