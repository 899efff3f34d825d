package opadecisionlogreceiver

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
	"github.com/meshaudit/meshaudit/internal/trustbundle"
	"github.com/meshaudit/meshaudit/receiver/internal/endpoint/endpointtest"
	"github.com/meshaudit/meshaudit/receiver/opadecisionlogreceiver/internal/metadata"
)

// A JWT-SVID in the policy's input is verified at the time of the decision, and
// nothing of it is handed on.
func TestJWTSVIDInInput(t *testing.T) {
	const frontend = "spiffe://example.org/ns/shop/sa/frontend"
	ca, stranger := evidencetest.NewCA(t), evidencetest.NewCA(t)
	file := filepath.Join(t.TempDir(), "bundle.json")
	bundle, err := ca.Bundle(t, "example.org").Marshal()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, bundle, 0o600))
	decided := time.Now().Add(-time.Hour) // OPA uploads late
	expires := decided.Add(time.Minute)
	for name, tc := range map[string]struct {
		token string
		proof evidence.Proof
		from  string
	}{
		"good":              {ca.JWT(t, frontend, "orders", expires, nil), evidence.ProofJWTSVID, "jwt_svid"},
		"for somebody else": {ca.JWT(t, frontend, "billing", expires, nil), evidence.ProofClaimed, "jwt_svid: audience"},
		"forged":            {stranger.JWT(t, frontend, "orders", expires, nil), evidence.ProofClaimed, "jwt_svid: authority"},
		"expired":           {ca.JWT(t, frontend, "orders", decided.Add(-time.Minute), nil), evidence.ProofClaimed, "jwt_svid: expired"},
	} {
		t.Run(name, func(t *testing.T) {
			next := &endpointtest.Sink{}
			url := serve(t, next, func(cfg *Config) {
				cfg.Identity.TrustBundles.Files = []trustbundle.File{{TrustDomain: "example.org", Path: file}}
				cfg.Identity.JWTAudiences = []string{"orders"}
			})
			next.Answer = func(records []plog.LogRecord) error {
				for _, lr := range records {
					for name, v := range lr.Attributes().All() {
						require.NotContains(t, v.AsString(), tc.token, name)
					}
				}
				return nil
			}
			status, _ := endpointtest.Post(t, url+"/logs", fmt.Sprintf(
				`[{"decision_id":"1","path":"mesh/authz","result":true,"timestamp":%q,"input":{"attributes":{"request":{"http":{"headers":{"authorization":"Bearer %s"}}}}}}]`,
				decided.Format(time.RFC3339Nano), tc.token))
			require.Equal(t, 200, status)
			require.Len(t, next.Got, 1)
			ids := next.Got[0].From.Identities
			require.Len(t, ids, 1)
			require.Equal(t, frontend, ids[0].ID.String()+ids[0].Invalid)
			require.Equal(t, tc.proof, ids[0].Proof)
			require.Equal(t, tc.from, ids[0].From)
			require.Equal(t, name == "forged", ids[0].Invalid != "", "what is false contradicts")
			require.Equal(t, frontend, next.Got[0].User)
		})
	}
}

func TestBundleThatCannotBeRead(t *testing.T) {
	cfg := createDefaultConfig().(*Config)
	cfg.NetAddr.Endpoint = "localhost:0"
	cfg.Identity.TrustBundles.Files = []trustbundle.File{{TrustDomain: "example.org", Path: filepath.Join(t.TempDir(), "none")}}
	r, err := newReceiver(cfg, receivertest.NewNopSettings(metadata.Type), &endpointtest.Sink{})
	require.NoError(t, err)
	require.ErrorContains(t, r.Start(t.Context(), componenttest.NewNopHost()), "`identity`: `trust_bundles`: trust bundle of example.org")
	require.NoError(t, r.Shutdown(t.Context()))
}
