package policy

import (
	"slices"
	"testing"
)

func TestGoverns(t *testing.T) {
	istio := Change{Group: "security.istio.io", Resource: "authorizationpolicies", Namespace: "shop", Name: "orders", At: 10}
	bundle := Change{Group: "opa", Resource: "bundle", Name: "mesh", Revision: "r=7", At: 10}
	server := Change{Group: "policy.linkerd.io", Resource: "servers", Namespace: "shop", Name: "web", At: 10}
	for name, tc := range map[string]struct {
		change   Change
		decision Decision
		want     bool
	}{
		"its policy":             {istio, Decision{Engine: "envoy_rbac", Namespace: "shop", ID: "orders", At: 11}, true},
		"before the change":      {istio, Decision{Engine: "envoy_rbac", Namespace: "shop", ID: "orders", At: 9}, false},
		"another namespace":      {istio, Decision{Engine: "envoy_rbac", Namespace: "bank", ID: "orders", At: 11}, false},
		"a role of the name":     {istio, Decision{Engine: "k8s_rbac", Namespace: "shop", ID: "RoleBinding/orders", At: 11}, false},
		"an engine not known":    {istio, Decision{Engine: "acme", Namespace: "shop", ID: "orders", At: 11}, true},
		"no policy named":        {istio, Decision{Engine: "envoy_rbac", Namespace: "shop", At: 11}, false},
		"the revision":           {bundle, Decision{Engine: "opa", ID: "mesh/allow", Revision: "r=7", At: 11}, true},
		"of several bundles":     {bundle, Decision{Engine: "opa", Revision: "data=1,mesh=r=7", At: 11}, true},
		"another's revision":     {bundle, Decision{Engine: "opa", Revision: "data=r=7,mesh=r=6", At: 11}, false},
		"Linkerd's server":       {server, Decision{Engine: "linkerd_policy", Namespace: "shop", ID: "server/web", At: 11}, true},
		"and a route of it":      {server, Decision{Engine: "linkerd_policy", Namespace: "shop", ID: "server/web/httproute/r", At: 11}, true},
		"a route called like it": {server, Decision{Engine: "linkerd_policy", Namespace: "shop", ID: "server/x/httproute/web", At: 11}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.change.Governs(&tc.decision); got != tc.want {
				t.Errorf("got %v", got)
			}
			shared := slices.ContainsFunc(tc.change.Keys(), func(k string) bool { return slices.Contains(tc.decision.Keys(), k) })
			if tc.want && !shared {
				t.Errorf("%q and %q have no key in common", tc.change.Keys(), tc.decision.Keys())
			}
		})
	}
}
