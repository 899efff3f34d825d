package distribution

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/meshaudit/meshaudit/internal/docblock"
	"go.yaml.in/yaml/v3"
)

// What the documentation leaves out when it shows a part: whatever else a
// pipeline with that part needs.
const rest = `
receivers:
  otlp: {protocols: {grpc: {}}}
  envoy_access_log: {}
  opa_decision_log: {}
processors:
  memory_limiter: {check_interval: 1s, limit_mib: 512}
  meshaudit: {}
exporters:
  sealed_log: {directory: /var/lib/meshaudit/store, origin: example.org/meshaudit/edge-0, keys: {directory: /etc/meshaudit/keys}}
extensions:
  file_storage: {create_directory: true}
`

// complete returns what, merged with the configuration in text, makes it
// whole: a pipeline with its components where it has none, and what is named and
// not configured. It adds nothing to a component that the text configures.
func complete(t *testing.T, text string) string {
	t.Helper()
	type sections map[string]map[string]any
	var shown, known sections
	if err := yaml.Unmarshal([]byte(text), &shown); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(rest), &known); err != nil {
		t.Fatal(err)
	}
	service := shown["service"]
	added := sections{"service": {}}
	pipelines, ok := service["pipelines"].(map[string]any)
	if !ok {
		pipeline := map[string]any{}
		for section, otherwise := range map[string]string{"receivers": "otlp", "processors": "meshaudit", "exporters": "sealed_log"} {
			ids := []any{}
			for _, id := range slices.Sorted(maps.Keys(shown[section])) {
				ids = append(ids, id)
			}
			if len(ids) == 0 {
				ids = []any{otherwise}
			}
			pipeline[section] = ids
		}
		pipelines = map[string]any{"logs": pipeline}
		added["service"]["pipelines"] = pipelines
	}
	extensions, ok := service["extensions"].([]any)
	if !ok {
		for _, id := range slices.Sorted(maps.Keys(shown["extensions"])) {
			extensions = append(extensions, id)
		}
	}
	for _, receiver := range shown["receivers"] {
		if of, ok := receiver.(map[string]any); ok && of["storage"] != nil && !slices.Contains(extensions, of["storage"]) {
			extensions = append(extensions, of["storage"])
		}
	}
	added["service"]["extensions"] = extensions

	name := func(section string, ids any) {
		list, _ := ids.([]any)
		for _, id := range list {
			id, _ := id.(string)
			if _, ok := shown[section][id]; ok {
				continue
			}
			if _, ok := shown["connectors"][id]; ok {
				continue
			}
			config, ok := known[section][id]
			if !ok {
				t.Errorf("%s names %s, which it does not configure and this test does not know", section, id)
			}
			if added[section] == nil {
				added[section] = map[string]any{}
			}
			added[section][id] = config
		}
	}
	for _, p := range pipelines {
		p, _ := p.(map[string]any)
		for _, section := range []string{"receivers", "processors", "exporters"} {
			name(section, p[section])
		}
	}
	name("extensions", extensions)
	b, err := yaml.Marshal(added)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What the documentation shows of a configuration is one that the collector
// takes.
func TestConfigsInDocsAreValid(t *testing.T) {
	blocks, err := docblock.Of(repository, docblock.Collector)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks {
		t.Run(strings.ReplaceAll(b.String(), "/", "_"), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			shown, added := filepath.Join(dir, "shown.yaml"), filepath.Join(dir, "added.yaml")
			for file, text := range map[string]string{shown: b.Text, added: complete(t, b.Text)} {
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if out, err := validate(t, shown, added); err != nil {
				t.Fatalf("%s: %v\n%s\ncompleted with\n%s", &b, err, out, complete(t, b.Text))
			}
		})
	}
}
