package sealedlogexporter

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumererror"

	"github.com/meshaudit/meshaudit/exporter/sealedlogexporter/internal/metadatatest"
	"github.com/meshaudit/meshaudit/internal/witness"
	"github.com/meshaudit/meshaudit/seal"
)

// runWitness is a witness of cfg's log; it answers 503 while down is set.
func runWitness(t *testing.T, cfg *Config, down *atomic.Bool) WitnessConfig {
	t.Helper()
	key, err := seal.GenerateWitnessKey("example.org/witness")
	must(t, err)
	_, err = seal.CreateTrialKeys(cfg.keysDirectory(), cfg.Origin)
	must(t, err)
	trust, err := seal.ReadTrust(filepath.Join(cfg.keysDirectory(), seal.TrustFile))
	must(t, err)
	w, err := witness.Open(witness.Config{Key: key, Logs: trust, State: t.TempDir()})
	must(t, err)
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if down.Load() {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.ServeHTTP(rw, r)
	}))
	t.Cleanup(func() { srv.Close(); must(t, w.Close()) })
	wc := WitnessConfig{VerifierKey: key.VerifierKey()}
	wc.Endpoint = srv.URL
	file, err := os.OpenFile(filepath.Join(cfg.keysDirectory(), seal.TrustFile), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = file.WriteString("witness " + wc.VerifierKey + " " + wc.Endpoint + "\n")
	must(t, err)
	must(t, file.Close())
	return wc
}

// With ack: witnessed a witness that is down makes senders try again; with ack:
// stored they do not notice. Both are seen in metrics and as status.
func TestWitnesses(t *testing.T) {
	for _, ack := range []string{ackStored, ackWitnessed} {
		t.Run(ack, func(t *testing.T) {
			cfg, ctx := testConfig(t), context.Background()
			must(t, os.MkdirAll(filepath.Dir(cfg.keysDirectory()), 0o755))
			var down atomic.Bool
			cfg.Witnesses.List = []WitnessConfig{runWitness(t, cfg, &down)}
			cfg.Witnesses.Ack, cfg.Witnesses.Timeout = ack, 500*time.Millisecond
			must(t, cfg.Validate())
			tel := componenttest.NewTelemetry()
			l, err := NewFactory().CreateLogs(ctx, metadatatest.NewSettings(tel), cfg)
			must(t, err)
			h := &host{Host: componenttest.NewNopHost()}
			must(t, l.Start(ctx, h))
			must(t, l.ConsumeLogs(ctx, logs(2)))

			down.Store(true)
			err = l.ConsumeLogs(ctx, logs(3))
			if ack == ackWitnessed {
				require.ErrorContains(t, err, "durable, but not witnessed")
				assert.False(t, consumererror.IsPermanent(err))
			} else {
				must(t, err)
			}
			require.Eventually(t, func() bool { return h.last() == componentstatus.StatusRecoverableError }, 10*time.Second, 10*time.Millisecond)

			down.Store(false)
			require.Eventually(t, func() bool { return h.last() == componentstatus.StatusOK }, 10*time.Second, 10*time.Millisecond)
			must(t, l.ConsumeLogs(ctx, logs(1)))
			must(t, l.Shutdown(ctx))

			r := verify(t, cfg)
			assert.Equal(t, seal.ExitProven, r.ExitCode(), "%v", r.Logs[0].Findings)
			assert.EqualValues(t, 6, r.Logs[0].Records)
			require.NotNil(t, r.Logs[0].Witnessed)
			assert.Equal(t, r.Logs[0].Entries, r.Logs[0].Witnessed.Size)
			failures, err := tel.GetMetric("otelcol_sealed_log_witness_failures")
			must(t, err)
			assert.NotNil(t, failures)
			missing, err := tel.GetMetric("otelcol_sealed_log_witnesses_missing")
			must(t, err)
			assert.NotNil(t, missing)
			must(t, tel.Shutdown(ctx))
		})
	}
}

// A store that was rolled back does not start while its witness remembers more.
func TestRolledBackStoreDoesNotStart(t *testing.T) {
	cfg := testConfig(t)
	must(t, os.MkdirAll(filepath.Dir(cfg.keysDirectory()), 0o755))
	cfg.Witnesses.List = []WitnessConfig{runWitness(t, cfg, new(atomic.Bool))}
	run(t, cfg)
	copied := *cfg
	copied.Directory = filepath.Join(t.TempDir(), "run", "store")
	must(t, os.CopyFS(filepath.Dir(copied.Directory), os.DirFS(filepath.Dir(cfg.Directory))))
	for _, secret := range []string{seal.LogKeyFile, seal.ChainKeyFile, seal.AuditorKeyFile} {
		must(t, os.Chmod(filepath.Join(copied.keysDirectory(), secret), 0o600))
	}
	run(t, cfg)
	l, err := NewFactory().CreateLogs(context.Background(), metadatatest.NewSettings(componenttest.NewTelemetry()), &copied)
	must(t, err)
	err = l.Start(context.Background(), componenttest.NewNopHost())
	assert.ErrorContains(t, err, "has seen")
	assert.ErrorContains(t, err, "meshaudit verify --witness")
	must(t, l.Shutdown(context.Background()))
}
