package distribution

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// An ocb user takes one component of meshaudit, by gomod and import, into a
// distribution that has nothing else of it.
func TestOneComponentAlone(t *testing.T) {
	root, err := filepath.Abs(repository)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	builder := writeFile(t, "builder-config.yaml", `
dist:
  name: otelcol-alone
  module: example.com/otelcol-alone
  output_path: %[1]s
receivers:
  - gomod: go.opentelemetry.io/collector/receiver/otlpreceiver v0.158.0
exporters:
  - gomod: github.com/meshaudit/meshaudit v0.1.0
    import: github.com/meshaudit/meshaudit/exporter/sealedlogexporter
extensions:
  - gomod: github.com/open-telemetry/opentelemetry-collector-contrib/extension/healthcheckextension v0.158.0
providers:
  - gomod: go.opentelemetry.io/collector/confmap/provider/envprovider v1.64.0
  - gomod: go.opentelemetry.io/collector/confmap/provider/fileprovider v1.64.0
replaces:
  - github.com/meshaudit/meshaudit => %[2]s
`, dir, root)
	ocb := exec.CommandContext(t.Context(), binary(t, "MESHAUDIT_OCB", "bin/ocb"), "--config", builder)
	if out, err := ocb.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	alone := filepath.Join(dir, "otelcol-alone")

	// What it pulls in is what a stranger would have to trust.
	sum, err := os.ReadFile(filepath.Join(dir, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	for _, heavy := range []string{"open-policy-agent/opa ", "k8s.io/", "aws-sdk-go"} {
		if strings.Contains(string(sum), heavy) {
			t.Errorf("one component pulls in %s", strings.TrimSpace(heavy))
		}
	}

	ports := freePorts(t, 2)
	store := filepath.Join(t.TempDir(), "store")
	config := writeFile(t, "config.yaml", `
receivers: {otlp: {protocols: {grpc: {endpoint: %q}}}}
exporters: {sealed_log: {directory: %q, keys: {create: true}}}
extensions: {health_check: {endpoint: %q}}
service:
  extensions: [health_check]
  pipelines: {logs: {receivers: [otlp], exporters: [sealed_log]}}
  telemetry: {metrics: {level: none}}
`, ports[0], store, ports[1])
	p := start(t, alone, config, ports[1])
	if err := sendLogs(t.Context(), dial(t, ports[0]), "alone"); err != nil {
		t.Fatal(err)
	}
	p.stop(t)
	verify(t, store, filepath.Join(filepath.Dir(store), "keys"), 0)
}
