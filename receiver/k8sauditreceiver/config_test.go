package k8sauditreceiver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"

	"github.com/meshaudit/meshaudit/receiver/k8sauditreceiver/internal/metadata"
)

func load(t *testing.T, name string) *Config {
	t.Helper()
	conf, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	sub, err := conf.Sub(component.NewIDWithName(metadata.Type, name).String())
	require.NoError(t, err)
	cfg := NewFactory().CreateDefaultConfig()
	require.NoError(t, sub.Unmarshal(cfg))
	return cfg.(*Config)
}

func TestConfig(t *testing.T) {
	defaults := load(t, "")
	require.NoError(t, confmap.Validate(defaults))
	require.Equal(t, "localhost:8183", defaults.NetAddr.Endpoint)
	require.Equal(t, "/k8s-audit", defaults.Path)
	require.Empty(t, defaults.Token)

	all := load(t, "all")
	require.NoError(t, confmap.Validate(all))
	require.Equal(t, "/audit/east", all.Path)
	require.Equal(t, 400, all.BatchSize)
	require.EqualValues(t, 1<<30, all.MaxUploadBytes)
	require.Equal(t, "[REDACTED]", all.Token.String())

	// Every fault at once.
	err := confmap.Validate(load(t, "bad"))
	for _, field := range []string{"`path`", "`batch_size`", "`max_event_bytes`", "`max_upload_bytes`", "`compression_algorithms`",
		"`trust_domain`", "`config_maps`", "`secrets`", "`groups`"} {
		require.ErrorContains(t, err, field)
	}
}

// TestExamples: those of the documentation are valid configurations.
func TestExamples(t *testing.T) {
	for _, name := range []string{"README.md", "../../docs/sources/kubernetes.md"} {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		_, rest, ok := strings.Cut(string(text), "```yaml\n")
		require.True(t, ok)
		example, _, ok := strings.Cut(rest, "```")
		require.True(t, ok)
		retrieved, err := confmap.NewRetrievedFromYAML([]byte(example))
		require.NoError(t, err)
		conf, err := retrieved.AsConf()
		require.NoError(t, err)
		sub, err := conf.Sub("receivers::" + metadata.Type.String())
		require.NoError(t, err)
		cfg := NewFactory().CreateDefaultConfig()
		require.NoError(t, sub.Unmarshal(cfg))
		require.NoError(t, confmap.Validate(cfg))
		require.NotEqual(t, NewFactory().CreateDefaultConfig(), cfg)
	}
}
