//go:build spire

package evidencetest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// SPIRE is a real server and agent of the trust domain example.org.
type SPIRE struct {
	Addr                  string // of the Workload API
	BundlePEM, BundleJSON string // files, as at the beginning
	Endpoint              string // URL of the server's bundle endpoint, https_spiffe
	ServerLog, AgentLog   string // files; the server's has its audit log
	bin, socket           string
}

// StartSPIRE runs the binaries in MESHAUDIT_SPIRE until the test ends, with this
// process registered as id.
func StartSPIRE(tb testing.TB, id string) *SPIRE {
	tb.Helper()
	s := &SPIRE{bin: os.Getenv("MESHAUDIT_SPIRE")}
	if s.bin == "" {
		tb.Fatal("run: make spire")
	}
	dir, err := os.MkdirTemp("", "spire-") // short: sockets live in it
	must(tb, err)
	tb.Cleanup(func() { must(tb, os.RemoveAll(dir)) })
	path := func(elem ...string) string { return filepath.Join(append([]string{dir}, elem...)...) }
	port, federation := freePort(tb), freePort(tb)
	s.Endpoint = fmt.Sprintf("https://127.0.0.1:%d", federation)
	s.socket = path("server.sock")
	server := path("server.conf")
	must(tb, os.WriteFile(server, fmt.Appendf(nil, `server {
  bind_address = "127.0.0.1"
  bind_port = "%d"
  socket_path = %q
  trust_domain = "example.org"
  data_dir = %q
  ca_ttl = "1h"
  log_format = "json"
  audit_log_enabled = true
  federation {
    bundle_endpoint {
      address = "127.0.0.1"
      port = %d
      profile "https_spiffe" {}
    }
  }
}
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = %q } }
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
}
`, port, s.socket, path("server"), federation, path("server.sqlite3")), 0o600))
	for _, d := range []string{"server", "agent", "public"} {
		must(tb, os.Mkdir(path(d), 0o700))
	}
	s.ServerLog, s.AgentLog = path("server.log"), path("agent.log")
	background(tb, s.ServerLog, filepath.Join(s.bin, "spire-server"), "run", "-config", server)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if exec.Command(filepath.Join(s.bin, "spire-server"), "healthcheck", "-socketPath", s.socket).Run() == nil {
			break
		}
		if time.Now().After(deadline) {
			tb.Fatal("spire-server does not become healthy")
		}
	}
	s.BundlePEM, s.BundleJSON = path("bundle.pem"), path("bundle.json")
	must(tb, os.WriteFile(s.BundlePEM, []byte(s.Server(tb, "bundle", "show")), 0o600))
	must(tb, os.WriteFile(s.BundleJSON, []byte(s.Server(tb, "bundle", "show", "-format", "spiffe")), 0o600))
	const node = "spiffe://example.org/agent"
	_, token, _ := strings.Cut(s.Server(tb, "token", "generate", "-spiffeID", node), "Token: ")
	token = strings.Fields(token)[0]
	s.Server(tb, "entry", "create", "-parentID", node, "-spiffeID", id, "-selector", fmt.Sprintf("unix:uid:%d", os.Getuid()), "-x509SVIDTTL", "60")

	agent := path("agent.conf")
	must(tb, os.WriteFile(agent, fmt.Appendf(nil, `agent {
  data_dir = %q
  server_address = "127.0.0.1"
  server_port = "%d"
  socket_path = %q
  trust_bundle_path = %q
  trust_domain = "example.org"
  log_level = "DEBUG"
}
plugins {
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
  WorkloadAttestor "unix" { plugin_data {} }
}
`, path("agent"), port, path("public", "agent.sock"), s.BundlePEM), 0o600))
	background(tb, s.AgentLog, filepath.Join(s.bin, "spire-agent"), "run", "-config", agent, "-joinToken", token)
	s.Addr = "unix://" + path("public", "agent.sock")
	return s
}

// Server runs a command of spire-server's and gives what it prints.
func (s *SPIRE) Server(tb testing.TB, args ...string) string {
	tb.Helper()
	out, err := exec.Command(filepath.Join(s.bin, "spire-server"), append(args, "-socketPath", s.socket)...).CombinedOutput()
	if err != nil {
		tb.Fatalf("spire-server %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func freePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(tb, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func background(tb testing.TB, log, name string, args ...string) {
	tb.Helper()
	f, err := os.Create(log)
	must(tb, err)
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = f, f
	must(tb, cmd.Start())
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		must(tb, f.Close())
		if tb.Failed() {
			if b, err := os.ReadFile(log); err == nil {
				tb.Logf("%s:\n%s", filepath.Base(log), b)
			}
		}
	})
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
