package manifests

import (
	"strings"
	"testing"

	"github.com/meshaudit/meshaudit/internal/docblock"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/apis/audit/validation"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"
)

func blocks(t *testing.T, kind docblock.Kind) []docblock.Block {
	t.Helper()
	of, err := docblock.Of("../..", kind)
	if err != nil {
		t.Fatal(err)
	}
	return of
}

// auditPolicy reads a policy as the API server does, and refuses what that only
// warns of: fields that it does not know.
func auditPolicy(text string) (*auditinternal.Policy, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{auditinternal.AddToScheme, auditv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	policy := new(auditinternal.Policy)
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDecoder()
	if _, _, err := decoder.Decode([]byte(text), nil, policy); err != nil {
		return nil, err
	}
	return policy, validation.ValidatePolicy(policy).ToAggregate()
}

func TestAuditPolicies(t *testing.T) {
	for _, b := range blocks(t, docblock.AuditPolicy) {
		policy, err := auditPolicy(b.Text)
		if err != nil {
			t.Errorf("%s: %v", &b, err)
			continue
		}
		if len(policy.Rules) == 0 {
			t.Errorf("%s: no rules", &b)
		}
		for wrong, right := range map[string]string{"level: Metadate": "level: Metadata", "omitStage:": "omitStages:"} {
			if _, err := auditPolicy(strings.Replace(b.Text, right, wrong, 1)); err == nil {
				t.Errorf("%s: %q is taken", &b, wrong)
			}
		}
	}
}

// The webhook's kubeconfig: the API server's client must find a cluster and a
// user by the current context. The files that it names are not there.
func TestKubeconfigs(t *testing.T) {
	for _, b := range blocks(t, docblock.Kubeconfig) {
		if err := yaml.UnmarshalStrict([]byte(b.Text), new(clientcmdapi.Config)); err != nil {
			t.Errorf("%s: %v", &b, err)
		}
		config, err := clientcmd.Load([]byte(b.Text))
		if err != nil {
			t.Errorf("%s: %v", &b, err)
			continue
		}
		context := config.Contexts[config.CurrentContext]
		if context == nil || config.Clusters[context.Cluster] == nil || config.AuthInfos[context.AuthInfo] == nil {
			t.Errorf("%s: the current context %q is of no cluster or no user", &b, config.CurrentContext)
			continue
		}
		if server := config.Clusters[context.Cluster].Server; !strings.HasPrefix(server, "https://") {
			t.Errorf("%s: %s", &b, server)
		}
	}
}

// Of other projects' charts there is no definition here: their values are one
// document, each key once.
func TestHelmValues(t *testing.T) {
	for _, b := range blocks(t, docblock.HelmValues) {
		var values map[string]any
		if err := yaml.UnmarshalStrict([]byte(b.Text), &values); err != nil {
			t.Errorf("%s: %v", &b, err)
		}
		if len(values) == 0 {
			t.Errorf("%s: no values", &b)
		}
	}
}
