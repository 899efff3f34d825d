package envoyaccesslogreceiver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"

	"github.com/meshaudit/meshaudit/receiver/envoyaccesslogreceiver/internal/metadata"
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
	require.Equal(t, "localhost:9001", defaults.NetAddr.Endpoint)
	require.True(t, defaults.RetryOnFailure.Enabled)
	require.Equal(t, 5*time.Minute, defaults.RetryOnFailure.MaxElapsedTime)

	all := load(t, "all")
	require.NoError(t, confmap.Validate(all))
	require.Equal(t, "0.0.0.0:9001", all.NetAddr.Endpoint)
	require.Equal(t, "/etc/meshaudit/bundle.crt", all.TLS.Get().ClientCAFile)
	require.Zero(t, all.RetryOnFailure.MaxElapsedTime)

	bad := load(t, "bad")
	bad.Identity.JWTAudiences = []string{"orders"}
	bad.Identity.TrustBundles.Files = nil
	err := confmap.Validate(bad)
	require.ErrorContains(t, err, "identity: `jwt_audiences` needs `trust_bundles`")
	bad.Identity.TrustBundles.WorkloadAPI = "agent.sock"
	require.ErrorContains(t, confmap.Validate(bad), "identity::trust_bundles: `workload_api`")
	require.True(t, strings.Contains(err.Error(), "initial_interval"), err)
	bad.NetAddr.Endpoint = ""
	require.ErrorContains(t, confmap.Validate(bad), "`endpoint` must be HOST:PORT, got \"\"")
}

// The examples are valid configurations.
func TestREADME(t *testing.T) {
	for _, page := range []string{"README.md", "../../docs/identity.md"} {
		t.Run(page, func(t *testing.T) { testREADME(t, page) })
	}
}

func testREADME(t *testing.T, page string) {
	text, err := os.ReadFile(page)
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
