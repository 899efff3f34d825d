package distribution

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const configurations = repository + "/distributions/otelcol-meshaudit"

// What the shipped configurations want from the environment.
var configEnv = []string{
	"MESHAUDIT_DATA=/var/lib/meshaudit",
	"MESHAUDIT_STORE=/var/lib/meshaudit/store",
	"MESHAUDIT_ORIGIN=example.org/meshaudit/east-1",
	"MESHAUDIT_KEYS=/etc/meshaudit/keys",
	"MESHAUDIT_AUDITOR=/etc/meshaudit/auditor.pub",
	"OPA_TOKEN=secret",
	"OPA_UPLOAD_TOKEN=secret",
	"K8S_AUDIT_TOKEN=secret",
	"TLS_DIR=/etc/meshaudit/tls",
	"BACKEND_ENDPOINT=backend.example:4317",
}

func validate(t *testing.T, configs ...string) (string, error) {
	t.Helper()
	args := []string{"validate"}
	for _, config := range configs {
		args = append(args, "--config", config)
		if text, err := os.ReadFile(config); err == nil && strings.Contains(string(text), "use_v2: true") {
			args = append(args, "--feature-gates=+extension.healthcheck.useComponentStatus") // as is told beside it
		}
	}
	cmd := exec.CommandContext(t.Context(), collectorBinary(t), args...)
	cmd.Env = append(os.Environ(), configEnv...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestConfigsAreValid(t *testing.T) {
	files, err := filepath.Glob(configurations + "/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 3 {
		t.Fatalf("found %d configurations in %s, there must be at least 3", len(files), configurations)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			if out, err := validate(t, file); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}

// The same check must refuse what is wrong, and say so in the user's words.
func TestConfigFaultsAreNamed(t *testing.T) {
	for want, config := range map[string]string{
		"`directory` is required": `
receivers: {otlp: {protocols: {grpc: }}}
exporters: {sealed_log: {keys: {create: true}}}
service: {pipelines: {logs: {receivers: [otlp], exporters: [sealed_log]}}}
`,
		"`origin`": `
receivers: {otlp: {protocols: {grpc: }}}
exporters: {sealed_log: {directory: store, origin: "Not An Origin"}}
service: {pipelines: {logs: {receivers: [otlp], exporters: [sealed_log]}}}
`,
	} {
		out, err := validate(t, writeFile(t, "config.yaml", "%s", config))
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("got %v, want %q in\n%s", err, want, out)
		}
	}
}
