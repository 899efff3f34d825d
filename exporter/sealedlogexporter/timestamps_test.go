package sealedlogexporter

import (
	"context"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/exporter/exportertest"

	"github.com/meshaudit/meshaudit/exporter/sealedlogexporter/internal/metadata"
	"github.com/meshaudit/meshaudit/internal/timestamp"
	"github.com/meshaudit/meshaudit/internal/timestamp/tsatest"
	"github.com/meshaudit/meshaudit/seal"
)

// An authority that is away is seen in the status and blocks nothing; when it is
// back, what is there is timestamped.
func TestTimestamps(t *testing.T) {
	tsa := tsatest.New(t, x509.ExtKeyUsageTimeStamping)
	tsa.Down.Store(true)
	cfg, ctx := testConfig(t), context.Background()
	cfg.Timestamps.Endpoint, cfg.Timestamps.Every = tsa.URL, time.Second
	must(t, cfg.Validate())
	l, err := NewFactory().CreateLogs(ctx, exportertest.NewNopSettings(metadata.Type), cfg)
	must(t, err)
	h := &host{Host: componenttest.NewNopHost()}
	must(t, l.Start(ctx, h))
	require.Eventually(t, func() bool { return h.last() == componentstatus.StatusRecoverableError }, 20*time.Second, 10*time.Millisecond)
	must(t, l.ConsumeLogs(ctx, logs(2)))
	tsa.Down.Store(false)
	require.Eventually(t, func() bool { return h.last() == componentstatus.StatusOK }, 20*time.Second, 10*time.Millisecond)
	must(t, l.Shutdown(ctx))

	b, err := os.ReadFile(filepath.Join(cfg.keysDirectory(), seal.TrustFile))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(cfg.keysDirectory(), seal.TrustFile), append(b, "tsa "+tsa.File+"\n"...), 0o600))
	trust, err := seal.ReadTrust(filepath.Join(cfg.keysDirectory(), seal.TrustFile))
	must(t, err)
	r, err := seal.Verify(ctx, cfg.Directory, seal.VerifyOptions{Trust: trust, CheckTimestamp: timestamp.Checker(trust.Authorities)})
	must(t, err)
	assert.Equal(t, seal.ExitProven, r.ExitCode(), "%v", r.Logs[0].Findings)
	require.NotNil(t, r.Logs[0].Timestamped)
	assert.Equal(t, "CN=Test TSA", r.Logs[0].Timestamped.By)
}
