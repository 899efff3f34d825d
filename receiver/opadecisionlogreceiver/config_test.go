package opadecisionlogreceiver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"

	"github.com/meshaudit/meshaudit/receiver/opadecisionlogreceiver/internal/metadata"
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
	require.Equal(t, "localhost:8182", defaults.NetAddr.Endpoint)
	require.Equal(t, "/logs", defaults.Path)
	require.Empty(t, defaults.Token)

	all := load(t, "all")
	require.NoError(t, confmap.Validate(all))
	require.Equal(t, "/v1/opa/decisions", all.Path)
	require.Equal(t, 500, all.BatchSize)
	require.EqualValues(t, 1<<30, all.MaxUploadBytes)
	require.Equal(t, "[REDACTED]", all.Token.String())

	all.StatusPath = all.Path + "/below"
	require.ErrorContains(t, confmap.Validate(all), "`status_path`")
	all.StatusPath = ""
	require.NoError(t, confmap.Validate(all))

	// Every fault at once.
	err := confmap.Validate(load(t, "bad"))
	for _, field := range []string{"`endpoint` must be HOST:PORT, got \"localhost\"", "`token` is empty", "`path`", "`status_path`", "`batch_size`", "`max_event_bytes`", "`max_upload_bytes`", "`compression_algorithms`"} {
		require.ErrorContains(t, err, field)
	}
}

// TestREADME: the example is a valid configuration.
func TestREADME(t *testing.T) {
	text, err := os.ReadFile("README.md")
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
