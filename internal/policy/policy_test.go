package policy

import (
	"slices"
	"testing"
	"time"
)

func TestGoverns(t *testing.T) {
	istio := Change{Group: "security.istio.io", Resource: "authorizationpolicies", Namespace: "shop", Name: "orders", At: 10}
	bundle := Change{Group: "opa", Resource: "bundle", Name: "mesh", Revision: "r=7", At: 10}
	route := Change{Group: "networking.istio.io", Resource: "virtualservices", Namespace: "shop", Name: "orders", Revision: "7", At: 10}
	entry := Change{Group: "spire", Resource: "entry", Name: "web", Revision: "7", At: 10}
	own := Change{Group: "acme", Resource: "policy", Name: "orders", Revision: "7", At: 10}
	config := Change{Resource: "configmaps", Namespace: "shop", Name: "orders", Revision: "7", At: 10}
	cilium := Change{Group: "cilium.io", Resource: "ciliumnetworkpolicies", Namespace: "shop", Name: "orders", Revision: "71234", At: 10}
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
		"a route's revision":     {route, Decision{Engine: "opa", Revision: "7", At: 11}, false},
		"SPIRE's revision":       {entry, Decision{Engine: "opa", Revision: "7", At: 11}, false},
		"and of nobody known":    {config, Decision{Revision: "7", At: 11}, false},
		"its own revision":       {own, Decision{Engine: "acme", Revision: "7", At: 11}, true},
		"and another":            {own, Decision{Engine: "acme", ID: "orders", Revision: "8", At: 11}, false},
		"Kubernetes counts else": {config, Decision{Engine: "acme", Namespace: "shop", ID: "orders", Revision: "8", At: 11}, true},
		"a path like a bundle":   {bundle, Decision{Engine: "opa", ID: "mesh", At: 11}, false},
		"a node's count of all":  {cilium, Decision{Engine: "cilium", Namespace: "shop", ID: "orders", Revision: "node-1/7", At: 11}, true},
		"and equal by chance":    {cilium, Decision{Engine: "cilium", Namespace: "shop", ID: "other", Revision: "71234", At: 11}, false},
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

// A change may not have reached what decides, and clocks differ: near it the time
// proves nothing.
func TestSettled(t *testing.T) {
	const changed = int64(time.Hour)
	for name, tc := range map[string]struct {
		decision Decision
		after    time.Duration
		want     bool
	}{
		"10 ms after it":             {Decision{Engine: "envoy_rbac", ID: "orders"}, 10 * time.Millisecond, false},
		"long after it":              {Decision{Engine: "envoy_rbac", ID: "orders"}, Settling, true},
		"the revision is named":      {Decision{Engine: "opa", Revision: "r7"}, 10 * time.Millisecond, true},
		"a node's count of all":      {Decision{Engine: "cilium", ID: "orders", Revision: "node-1/7"}, 10 * time.Millisecond, false},
		"what revision, who can say": {Decision{Engine: "acme", Revision: "r7"}, 10 * time.Millisecond, false},
	} {
		t.Run(name, func(t *testing.T) {
			tc.decision.At = changed + int64(tc.after)
			if got := tc.decision.Settled(changed); got != tc.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
