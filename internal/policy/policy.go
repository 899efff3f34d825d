// Package policy says which change of a policy a decision was made under: by
// what the policy is called, or by the revision that was in force. It knows
// neither records nor evidence, but what is compared of them.
package policy

import (
	"slices"
	"strings"
)

// A Change of a policy, or of a bundle of them.
type Change struct {
	Group, Resource, Namespace, Name string
	Revision                         string // in force from now on; "": not said
	At                               int64  // unix nanoseconds
}

// A Decision by a policy.
type Decision struct {
	Engine, Namespace, ID string
	// Revision that was in force; of several bundles NAME=REVISION,…
	Revision string
	At       int64 // unix nanoseconds
}

// governs are the resources that an engine's policies are, GROUP/RESOURCE or
// GROUP. Other objects may have the same name: a route, a role. What an engine that
// is not known decides by is not known either.
var governs = map[string][]string{
	"envoy_rbac":     {"security.istio.io/authorizationpolicies"},
	"ztunnel_rbac":   {"security.istio.io/authorizationpolicies"},
	"cilium":         {"cilium.io", "networking.k8s.io/networkpolicies", "policy.networking.k8s.io"},
	"linkerd_policy": {"policy.linkerd.io"},
	"k8s_rbac":       {"rbac.authorization.k8s.io"},
	"k8s_admission":  {"admissionregistration.k8s.io", "kyverno.io", "policies.kyverno.io", "constraints.gatekeeper.sh"},
	"opa":            {"opa"},
}

// Keys are those under which the decisions are found that the change may
// govern: each is one of theirs.
func (c *Change) Keys() (keys []string) {
	if c.Revision != "" {
		keys = append(keys, "revision\x00"+c.Revision)
	}
	if c.Name != "" {
		keys = append(keys, "object\x00"+c.Namespace+"\x00"+c.Name)
	}
	return keys
}

// Keys are those under which the changes are found that may govern the decision.
func (d *Decision) Keys() (keys []string) {
	for _, r := range d.revisions() {
		keys = append(keys, "revision\x00"+r.revision)
	}
	for _, o := range d.objects() {
		keys = append(keys, "object\x00"+d.Namespace+"\x00"+o.name)
	}
	return keys
}

// Governs says whether the decision was made by what the change left. A later
// change may have come between.
func (c *Change) Governs(d *Decision) bool {
	return c.At <= d.At && c.decides(d)
}

func (c *Change) decides(d *Decision) bool {
	if c.Revision != "" && slices.ContainsFunc(d.revisions(), func(r revision) bool {
		return r.revision == c.Revision && (r.bundle == "" || r.bundle == c.Name)
	}) {
		return true
	}
	resources, known := governs[d.Engine]
	if known && !slices.Contains(resources, c.Group) && !slices.Contains(resources, c.Group+"/"+c.Resource) {
		return false
	}
	return c.Namespace == d.Namespace && slices.ContainsFunc(d.objects(), func(o object) bool {
		return o.name == c.Name && (o.resource == "" || o.resource == c.Resource)
	})
}

// Same says whether two changes are of one policy.
func (c *Change) Same(o *Change) bool {
	return c.Group == o.Group && c.Resource == o.Resource && c.Namespace == o.Namespace && c.Name == o.Name
}

type object struct{ resource, name string }

// objects are what the policy's id names: RoleBinding/NAME, server/NAME/httproute/NAME,
// or just a name.
func (d *Decision) objects() (all []object) {
	switch {
	case d.ID == "":
	case d.Engine == "k8s_rbac", d.Engine == "linkerd_policy":
		parts := strings.Split(d.ID, "/")
		for i := 0; i+1 < len(parts); i += 2 {
			all = append(all, object{strings.ToLower(parts[i]) + "s", parts[i+1]})
		}
	default:
		all = append(all, object{"", d.ID})
	}
	return all
}

type revision struct{ bundle, revision string }

func (d *Decision) revisions() (all []revision) {
	if d.Revision == "" {
		return nil
	}
	if !strings.Contains(d.Revision, "=") {
		return []revision{{"", d.Revision}}
	}
	for r := range strings.SplitSeq(d.Revision, ",") {
		if bundle, rev, ok := strings.Cut(r, "="); ok && rev != "" {
			all = append(all, revision{bundle, rev})
		}
	}
	// One bundle's revision may hold "=" itself.
	return append(all, revision{"", d.Revision})
}
