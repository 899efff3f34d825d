package gateways

import (
	"testing"

	"github.com/meshaudit/meshaudit/internal/docblock"
)

// What the documentation leaves out.
const rest = `
receivers:
  otlp: {protocols: {grpc: {}}}
  envoy_access_log: {}
  opa_decision_log: {}
exporters:
  sealed_log: {directory: /var/lib/meshaudit/store, origin: example.org/meshaudit/edge-0, keys: {directory: /etc/meshaudit/keys}}
`

// What the documentation shows with components that are not in this
// distribution is valid in one that has them.
func TestConfigsInDocsAreValid(t *testing.T) {
	blocks, err := docblock.Of("../..", docblock.Contrib)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks {
		if err := collector(t, rest, b.Text).DryRun(t.Context()); err != nil {
			t.Errorf("%s: %v", &b, err)
		}
	}
}
