package meshauditprocessor

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"

	"github.com/meshaudit/meshaudit/internal/clerk"
	"github.com/meshaudit/meshaudit/internal/findings"
)

func load(t *testing.T, id string) *Config {
	t.Helper()
	conf, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	sub, err := conf.Sub(id)
	require.NoError(t, err)
	cfg := NewFactory().CreateDefaultConfig()
	require.NoError(t, sub.Unmarshal(cfg))
	return cfg.(*Config)
}

func TestConfig(t *testing.T) {
	def := load(t, "meshaudit")
	assert.Equal(t, createDefaultConfig(), def)
	require.NoError(t, confmap.Validate(def))

	all := load(t, "meshaudit/all")
	require.NoError(t, confmap.Validate(all))
	assert.Equal(t, &Config{Mode: modeCorrelate, shared: new(shared), Config: clerk.Config{
		Window: 20 * time.Second, LateWindow: 15 * time.Minute, Settle: 500 * time.Millisecond, ClockSkew: time.Second,
		MaxPending: 1000, MaxPendingBytes: 64 << 20, Shards: 3, Expect: []string{"callee", "caller", "verdict"}, Cluster: "edge-0",
		Redaction:   clerk.RedactionConfig{Allow: []string{"tenant.id", "shop.*"}, KeepBody: true},
		RecoverFrom: clerk.RecoverConfig{Directory: "/var/lib/meshaudit", Origin: "example.org/meshaudit/edge-0"},
		Identity:    clerk.IdentityConfig{XFCCTrusted: []string{"example.org/ns/ingress/*"}},
		Findings: clerk.FindingsConfig{
			Kinds: map[findings.Kind]clerk.FindingConfig{
				findings.Plaintext:        {Severity: findings.Low, Condition: `attributes["mesh.source.workload.namespace"] != "kube-system"`},
				findings.IdentityConflict: {Off: true},
			},
			TrustDomains: []string{"example.org"}, MustDecide: []string{"/admin/*"}, DecisionWait: 10 * time.Minute, Repeat: 30 * time.Minute, MaxCredentials: 1000,
		},
		Ledger: clerk.LedgerConfig{Lag: 10 * time.Second, StatPrefix: "meshaudit"},
	}}, all)
}

func TestConfigFaultsAreReportedAtOnce(t *testing.T) {
	err := confmap.Validate(load(t, "meshaudit/faults"))
	for _, want := range []string{
		"`mode` knows correlate and tag, got \"both\"", "`window` must be positive, got 0s", "`late_window` must not be negative, got -1s",
		"`settle` must be between 0 and `window`, got 2s", "`clock_skew` must not be negative, got -1s",
		"`max_pending` must be positive, got -1", "`max_pending_bytes` must be at least 1048576, got 1", "`shards` must be between 1 and 64, got 0",
		"`identity::xfcc_trusted`: \"gateway\" matches no SPIFFE ID",
		"`findings::kinds` knows [denied_but_served ", "got \"typo\"", "`findings::kinds::plaintext::severity` must be one of [info low medium high critical], got \"urgent\"",
		"`findings::kinds::plaintext::condition`", "`findings::kinds::evidence_gap::condition`: a gap has no record",
		"`findings::trust_domains`: \"Example.org\" is none", "`findings::trust_domains`: write example.org, got \"spiffe://example.org\"",
		"`findings::decision_wait` needs a unit, as in 10s; got 30ns",
		"`findings::must_decide`: a pattern must not be empty", "`findings::must_decide`: a path begins with / or *, got \"admin/*\"", "`findings::repeat` must be positive, got 0s",
		"`findings::max_credentials` must be positive, got -1",
		"`ledger::lag` must not be negative, got -1s",
		"`expect` knows callee, caller and verdict, got \"callees\"",
		"`redaction::allow` must not allow everything, got \"*\"", "`redaction::allow` takes a * only at the end, got \"a*b\"",
		"`recover_from` needs both `directory` and `origin`",
	} {
		assert.ErrorContains(t, err, want)
	}
}

var testID = component.MustNewIDWithName("meshaudit", "test")
