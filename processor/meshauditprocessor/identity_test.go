package meshauditprocessor

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
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
				require.Equal(t, "mutual", attr(t, record, semconv.MTLSOutcome))
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
