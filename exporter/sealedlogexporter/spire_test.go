//go:build spire

package sealedlogexporter

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
	"github.com/meshaudit/meshaudit/seal"
)

// A real SPIRE vouches for a log over two SVIDs; each form of its bundle will do.
func TestRealSPIREVouches(t *testing.T) {
	const id = "spiffe://example.org/ns/mesh/sa/collector"
	spire := evidencetest.StartSPIRE(t, id)
	cfg := testConfig(t)
	cfg.SPIFFE.WorkloadAPI = spire.Addr
	cfg.Keys.Chain = "fresh"
	run(t, cfg)
	time.Sleep(70 * time.Second) // the first SVID has expired
	run(t, cfg)
	for _, bundle := range []string{spire.BundlePEM, spire.BundleJSON} {
		for pattern, want := range map[string]int{"spiffe://example.org/ns/*/sa/collector": seal.ExitProven, "spiffe://example.org/ns/shop/*": seal.ExitTampering} {
			must(t, os.WriteFile(filepath.Join(cfg.keysDirectory(), seal.TrustFile), []byte("spiffe "+pattern+" "+bundle), 0o600))
			r := verify(t, cfg)
			assert.Equal(t, want, r.ExitCode(), "%s %s: %v", bundle, pattern, r.Logs[0].Findings)
		}
	}
}
