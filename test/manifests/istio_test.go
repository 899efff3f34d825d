// Package manifests checks what docs/sources shows for other programs against
// their own definitions: a field that they do not know fails.
package manifests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	telemetryv1alpha1 "istio.io/api/telemetry/v1alpha1"
	"sigs.k8s.io/yaml"
)

const dir = "../../docs/sources/istio"

// manifest reads a file into m, or what is below spec.
func manifest(t *testing.T, name string, spec bool, m proto.Message) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	j, err := yaml.YAMLToJSONStrict(b)
	if err != nil {
		t.Fatal(err)
	}
	if spec {
		var object struct{ Spec json.RawMessage }
		if err := json.Unmarshal(j, &object); err != nil {
			t.Fatal(err)
		}
		j = object.Spec
	}
	if err := protojson.Unmarshal(j, m); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func TestMeshConfig(t *testing.T) {
	var m meshv1alpha1.MeshConfig
	manifest(t, "mesh.yaml", false, &m)
	providers := map[string]bool{}
	for _, p := range m.ExtensionProviders {
		providers[p.Name] = true
	}
	var spec telemetryv1alpha1.Telemetry
	manifest(t, "telemetry.yaml", true, &spec)
	used := 0
	for _, l := range spec.AccessLogging {
		for _, p := range l.Providers {
			used++
			if !providers[p.Name] {
				t.Errorf("telemetry.yaml uses the provider %s, which mesh.yaml does not have", p.Name)
			}
		}
	}
	for _, l := range spec.Tracing {
		for _, p := range l.Providers {
			used++
			if !providers[p.Name] {
				t.Errorf("telemetry.yaml uses the provider %s, which mesh.yaml does not have", p.Name)
			}
		}
	}
	if used != 3 {
		t.Errorf("%d providers are used", used)
	}
}

// What the EnvoyFilter merges must be a listener's, with a logger that Envoy
// knows.
func TestEnvoyFilter(t *testing.T) {
	var f networkingv1alpha3.EnvoyFilter
	manifest(t, "handshakes.yaml", true, &f)
	if len(f.ConfigPatches) != 1 {
		t.Fatalf("%d patches", len(f.ConfigPatches))
	}
	j, err := protojson.Marshal(f.ConfigPatches[0].Patch.Value)
	if err != nil {
		t.Fatal(err)
	}
	var l listenerv3.Listener
	if err := protojson.Unmarshal(j, &l); err != nil {
		t.Fatal(err)
	}
	if len(l.AccessLog) != 1 {
		t.Errorf("%d access logs", len(l.AccessLog))
	}
}
