//go:build spire

package sealedlogexporter

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/meshaudit/meshaudit/seal"
)

// startSPIRE runs a server and an agent of the binaries in MESHAUDIT_SPIRE, with
// this process registered as id. It returns the Workload API's address and the
// trust bundle in both of its forms.
func startSPIRE(t *testing.T, id string) (address, bundlePEM, bundleJSON string) {
	t.Helper()
	bin := os.Getenv("MESHAUDIT_SPIRE")
	require.NotEmpty(t, bin, "run: make spire")
	dir, err := os.MkdirTemp("", "spire-") // short: sockets live in it
	require.NoError(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	path := func(elem ...string) string { return filepath.Join(append([]string{dir}, elem...)...) }
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	must(t, l.Close())

	server := path("server.conf")
	must(t, os.WriteFile(server, fmt.Appendf(nil, `server {
  bind_address = "127.0.0.1"
  bind_port = "%d"
  socket_path = %q
  trust_domain = "example.org"
  data_dir = %q
  ca_ttl = "1h"
}
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = %q } }
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
}
`, port, path("server.sock"), path("server"), path("server.sqlite3")), 0o600))
	must(t, os.Mkdir(path("server"), 0o700))
	must(t, os.Mkdir(path("agent"), 0o700))
	must(t, os.Mkdir(path("public"), 0o700))
	background(t, path("server.log"), filepath.Join(bin, "spire-server"), "run", "-config", server)
	cli := func(args ...string) string {
		out, err := exec.Command(filepath.Join(bin, "spire-server"), append(args, "-socketPath", path("server.sock"))...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	require.Eventually(t, func() bool {
		return exec.Command(filepath.Join(bin, "spire-server"), "healthcheck", "-socketPath", path("server.sock")).Run() == nil
	}, time.Minute, 200*time.Millisecond)
	bundlePEM, bundleJSON = path("bundle.pem"), path("bundle.json")
	must(t, os.WriteFile(bundlePEM, []byte(cli("bundle", "show")), 0o600))
	must(t, os.WriteFile(bundleJSON, []byte(cli("bundle", "show", "-format", "spiffe")), 0o600))
	const node = "spiffe://example.org/agent"
	_, token, _ := strings.Cut(cli("token", "generate", "-spiffeID", node), "Token: ")
	token = strings.Fields(token)[0]
	cli("entry", "create", "-parentID", node, "-spiffeID", id, "-selector", fmt.Sprintf("unix:uid:%d", os.Getuid()), "-x509SVIDTTL", "60")

	agent := path("agent.conf")
	must(t, os.WriteFile(agent, fmt.Appendf(nil, `agent {
  data_dir = %q
  server_address = "127.0.0.1"
  server_port = "%d"
  socket_path = %q
  trust_bundle_path = %q
  trust_domain = "example.org"
}
plugins {
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
  WorkloadAttestor "unix" { plugin_data {} }
}
`, path("agent"), port, path("public", "agent.sock"), bundlePEM), 0o600))
	background(t, path("agent.log"), filepath.Join(bin, "spire-agent"), "run", "-config", agent, "-joinToken", token)
	return "unix://" + path("public", "agent.sock"), bundlePEM, bundleJSON
}

func background(t *testing.T, log, name string, args ...string) {
	t.Helper()
	f, err := os.Create(log)
	require.NoError(t, err)
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = f, f
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		must(t, f.Close())
		if t.Failed() {
			if b, err := os.ReadFile(log); err == nil {
				t.Logf("%s:\n%s", filepath.Base(log), b)
			}
		}
	})
}

// A real SPIRE vouches for a log over two SVIDs; each form of its bundle will do.
func TestRealSPIREVouches(t *testing.T) {
	const id = "spiffe://example.org/ns/mesh/sa/collector"
	address, bundlePEM, bundleJSON := startSPIRE(t, id)
	cfg := testConfig(t)
	cfg.SPIFFE.WorkloadAPI = address
	cfg.Keys.Chain = "fresh"
	run(t, cfg)
	time.Sleep(70 * time.Second) // the first SVID has expired
	run(t, cfg)
	for _, bundle := range []string{bundlePEM, bundleJSON} {
		for pattern, want := range map[string]int{"spiffe://example.org/ns/*/sa/collector": seal.ExitProven, "spiffe://example.org/ns/shop/*": seal.ExitTampering} {
			must(t, os.WriteFile(filepath.Join(cfg.keysDirectory(), seal.TrustFile), []byte("spiffe "+pattern+" "+bundle), 0o600))
			r := verify(t, cfg)
			assert.Equal(t, want, r.ExitCode(), "%s %s: %v", bundle, pattern, r.Logs[0].Findings)
		}
	}
}
