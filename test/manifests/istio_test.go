// Package manifests checks what docs/sources shows for other programs against
// their own definitions: a field that they do not know fails.
package manifests

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
// knows, wherever a handshake ends: at sidecars, also out of HBONE, and gateways.
func TestEnvoyFilter(t *testing.T) {
	var f networkingv1alpha3.EnvoyFilter
	manifest(t, "handshakes.yaml", true, &f)
	if len(f.ConfigPatches) == 0 {
		t.Fatal("no patches")
	}
	var where []string
	for _, p := range f.ConfigPatches {
		where = append(where, fmt.Sprint(p.ApplyTo, " ", p.Match.GetContext(), " ", p.Match.GetListener().GetPortNumber()))
		j, err := protojson.Marshal(p.Patch.Value)
		if err != nil {
			t.Fatal(err)
		}
		var l listenerv3.Listener
		if err := protojson.Unmarshal(j, &l); err != nil {
			t.Fatal(err)
		}
		if len(l.AccessLog) != 1 || p.Patch.Operation != networkingv1alpha3.EnvoyFilter_Patch_MERGE {
			t.Errorf("%v of %d access logs", p.Patch.Operation, len(l.AccessLog))
		}
		if !proto.Equal(p.Patch, f.ConfigPatches[0].Patch) {
			t.Errorf("%v: another log", p.Match)
		}
	}
	if want := []string{"LISTENER SIDECAR_INBOUND 15006", "LISTENER SIDECAR_INBOUND 15008", "LISTENER GATEWAY 0"}; !slices.Equal(where, want) {
		t.Errorf("%q, want %q", where, want)
	}
}
