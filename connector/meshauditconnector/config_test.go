package meshauditconnector

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"
	"go.opentelemetry.io/collector/pipeline"
	"go.yaml.in/yaml/v3"

	"github.com/meshaudit/meshaudit/internal/clerk"
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
	assert.Equal(t, newConfig(), load(t, "meshaudit"))
	require.NoError(t, confmap.Validate(newConfig()))

	all := load(t, "meshaudit/all")
	require.NoError(t, confmap.Validate(all))
	want := newConfig()
	want.Window = 20 * time.Second
	want.Cluster = "edge-0"
	want.RecoverFrom = clerk.RecoverConfig{Directory: "/var/lib/meshaudit", Origin: "example.org/meshaudit/edge-0"}
	want.Spans = []pipeline.ID{tracesEnriched}
	want.MaxHeldSpansBytes = 32 << 20
	want.Records = append(want.Records, pipeline.NewIDWithName(pipeline.SignalLogs, "copy"))
	assert.Equal(t, want, all)
}

func TestConfigFaultsAreReportedAtOnce(t *testing.T) {
	err := confmap.Validate(load(t, "meshaudit/empty"))
	assert.ErrorContains(t, err, "`evidence` must name the pipelines that seal the evidence")
	assert.ErrorContains(t, err, "`records` must name the logs pipelines that records go to")
	err = confmap.Validate(load(t, "meshaudit/faults"))
	assert.ErrorContains(t, err, "`evidence` takes logs and traces pipelines, got metrics/evidence")
	assert.ErrorContains(t, err, "`records` takes logs pipelines, got traces/records")
	assert.ErrorContains(t, err, "`spans` takes traces pipelines, got logs/enriched")
	assert.ErrorContains(t, err, "metrics/evidence is in `evidence` and in `spans`")
	assert.ErrorContains(t, err, "`max_held_spans_bytes` must be at least 16777216, got 1")
	assert.ErrorContains(t, err, "`window` must be positive, got 0s")
}

// The connector declares the processor's metrics, whose descriptions must not
// come apart, and its own.
func TestMetricsAreTheProcessors(t *testing.T) {
	declared := func(path string) map[string]any {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		var doc struct {
			Attributes map[string]any
			Telemetry  struct{ Metrics map[string]any }
		}
		require.NoError(t, yaml.Unmarshal(b, &doc))
		require.NotEmpty(t, doc.Telemetry.Metrics)
		return map[string]any{"attributes": doc.Attributes, "metrics": doc.Telemetry.Metrics}
	}
	connectors := declared("metadata.yaml")
	for _, own := range []string{"meshaudit_dropped_spans", "meshaudit_held_spans_bytes"} {
		delete(connectors["metrics"].(map[string]any), own)
	}
	assert.Equal(t, declared("../../processor/meshauditprocessor/metadata.yaml"), connectors)
}
