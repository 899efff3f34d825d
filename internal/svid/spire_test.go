//go:build spire

package svid

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/envoy"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
	"github.com/meshaudit/meshaudit/internal/evidence/opa"
	"github.com/meshaudit/meshaudit/internal/trustbundle"
)

// An X.509-SVID in XFCC and in an access log's line, and a JWT-SVID in OPA's input,
// all minted by a real SPIRE, are verified by its agent's bundles, by its server's
// bundle endpoint, and by a bundle in a file; its authorities are rotated, tainted
// and revoked meanwhile.
func TestRealSPIRECredentials(t *testing.T) {
	const frontend = "spiffe://example.org/ns/shop/sa/frontend"
	spire := evidencetest.StartSPIRE(t, "spiffe://example.org/ns/mesh/sa/collector")
	var outcomes []string
	open := func(bundles trustbundle.Config) *Prover {
		p, err := Open(t.Context(), Config{TrustBundles: bundles, JWTAudiences: []string{"orders"}}, Observer{
			Verified: func(c Credential, r Reason) { outcomes = append(outcomes, string(c)+" "+r.Outcome()) },
			Source:   func(source string, err error) { t.Log(source, err) },
		})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, p.Close()) })
		return p
	}
	byAgent := open(trustbundle.Config{WorkloadAPI: spire.Addr})
	byEndpoint := open(trustbundle.Config{
		Files:     []trustbundle.File{{TrustDomain: "example.org", Path: spire.BundlePEM}}, // to know the endpoint by
		Endpoints: []trustbundle.Endpoint{{TrustDomain: "example.org", URL: spire.Endpoint, SPIFFEID: "spiffe://example.org/spire/server"}},
	})
	byFile := open(trustbundle.Config{Files: []trustbundle.File{{TrustDomain: "example.org", Path: spire.BundleJSON}}})

	// minted is a certificate chain, URL-encoded.
	minted := func() string {
		dir := t.TempDir()
		spire.Server(t, "x509", "mint", "-spiffeID", frontend, "-ttl", "5m", "-write", dir)
		b, err := os.ReadFile(filepath.Join(dir, "svid.pem"))
		require.NoError(t, err)
		var chain [][]byte
		for p, rest := pem.Decode(b); p != nil; p, rest = pem.Decode(rest) {
			chain = append(chain, p.Bytes)
		}
		require.NotEmpty(t, chain)
		return evidencetest.PEM(chain...)
	}
	token := func(audience string) string {
		for _, word := range strings.Fields(spire.Server(t, "jwt", "mint", "-spiffeID", frontend, "-audience", audience, "-ttl", "5m")) {
			if strings.HasPrefix(word, "eyJ") {
				return word
			}
		}
		t.Fatal("no token")
		return ""
	}
	line := func(cert, xfcc string) evidence.Evidence {
		lines, err := envoy.NewLines(`%START_TIME% %RESPONSE_CODE% %DOWNSTREAM_PEER_CERT% "%REQ(X-FORWARDED-CLIENT-CERT)%"`, nil)
		require.NoError(t, err)
		got, err := lines.Decode(nil, new(evidence.Origin), fmt.Appendf(nil, `%s 200 %s "%s"`, time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), cert, xfcc))
		require.NoError(t, err)
		return got[0]
	}
	decision := func(token string) evidence.Evidence {
		e, err := opa.Decode(fmt.Appendf(nil, `{"decision_id":"1","result":true,"timestamp":%q,"input":{"attributes":{"request":{"http":{"headers":{"authorization":"Bearer %s"}}}}}}`,
			time.Now().UTC().Format(time.RFC3339Nano), token))
		require.NoError(t, err)
		return e
	}
	outcome := func(p *Prover, e evidence.Evidence) string {
		outcomes = nil
		p.Prove(&e, true)
		return strings.Join(outcomes, ", ")
	}
	eventually := func(want string, of func() string) {
		t.Helper()
		deadline := time.Now().Add(2 * time.Minute)
		for got := of(); got != want; got = of() {
			if time.Now().After(deadline) {
				t.Fatalf("got %q, want %q", got, want)
			}
			time.Sleep(500 * time.Millisecond)
		}
	}

	cert, jwt := minted(), token("orders")
	eventually("peer_certificate proven, xfcc_certificate proven", func() string {
		return outcome(byAgent, line(cert, `Hash=;Chain="`+cert+`"`))
	})
	require.Equal(t, "peer_certificate proven", outcome(byFile, line(cert, "-")))
	e := line(cert, "-")
	byAgent.Prove(&e, true)
	require.Equal(t, frontend, e.From.Identities[0].ID.String())
	require.Equal(t, evidence.ProofSVID, e.From.Identities[0].Proof)
	for _, p := range []*Prover{byAgent, byFile, byEndpoint} { // by what the endpoint says: the PEM holds no key of a token's
		eventually("jwt_svid proven", func() string { return outcome(p, decision(jwt)) })
	}
	require.Equal(t, "jwt_svid audience", outcome(byAgent, decision(token("billing"))))
	require.Equal(t, "jwt_svid authority", outcome(byAgent, decision(jwt[:len(jwt)-8]+"AAAAAAAA")))

	// New authorities: the agent's bundle has them before anything is issued by
	// them; the file has them not.
	authority := func(kind, which string) string {
		var shown map[string]struct {
			ID string `json:"authority_id"`
		}
		require.NoError(t, json.Unmarshal([]byte(spire.Server(t, "localauthority", kind, "show", "-output", "json")), &shown))
		require.NotEmpty(t, shown[which].ID, "%v", shown)
		return shown[which].ID
	}
	for _, kind := range []string{"x509", "jwt"} {
		spire.Server(t, "localauthority", kind, "prepare")
		spire.Server(t, "localauthority", kind, "activate", "-authorityID", authority(kind, "prepared"))
	}
	newCert, newJWT := minted(), token("orders")
	eventually("peer_certificate proven", func() string { return outcome(byAgent, line(newCert, "-")) })
	eventually("jwt_svid proven", func() string { return outcome(byAgent, decision(newJWT)) })
	require.Equal(t, "peer_certificate proven", outcome(byAgent, line(cert, "-")), "what was issued before still holds")
	require.Equal(t, "peer_certificate authority", outcome(byFile, line(newCert, "-")), "the file is from before")

	// The file is written anew: seen without a restart.
	require.NoError(t, os.WriteFile(spire.BundleJSON, []byte(spire.Server(t, "bundle", "show", "-format", "spiffe")), 0o600))
	eventually("peer_certificate proven", func() string { return outcome(byFile, line(newCert, "-")) })

	// An authority that was revoked vouches for nobody.
	for _, kind := range []string{"x509", "jwt"} {
		old := authority(kind, "old")
		spire.Server(t, "localauthority", kind, "taint", "-authorityID", old)
		spire.Server(t, "localauthority", kind, "revoke", "-authorityID", old)
	}
	eventually("peer_certificate authority", func() string { return outcome(byAgent, line(cert, "-")) })
	eventually("jwt_svid authority", func() string { return outcome(byAgent, decision(jwt)) })
	require.Equal(t, "peer_certificate proven", outcome(byAgent, line(newCert, "-")))
}
