package meshauditprocessor

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/client"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
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
