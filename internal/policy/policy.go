// Package policy says which change of a policy a decision was made under: by
// the revision that was in force, or by what the policy is called. It knows
// neither records nor evidence, but what is compared of them.
package policy

import (
	"slices"
	"strings"
	"time"
)

// Settling is how long after a change, or before it, nobody can tell by the time
// alone whether a decision was made by what it left: the clocks of those who tell of
// the two may be 2 seconds apart, and some more pass until the change has reached
// what decides by it.
const Settling = 5 * time.Second

// A Change of a policy, or of a bundle of them.
type Change struct {
	Group, Resource, Namespace, Name string
	Cluster                          string // "": not said
	Revision                         string // in force from now on; "": not said
	At                               int64  // unix nanoseconds
}

// A Decision by a policy.
type Decision struct {
	Engine, Namespace, ID string
	Cluster               string // where it was made; "": not said
	// Revision that was in force; of several bundles NAME=REVISION,…
	Revision string
	// DefaultDeny: refused because no policy allowed it, if none is named.
	DefaultDeny bool
	Workload    string // namespace of the workload that was called; "": not known
	At          int64  // unix nanoseconds
}

const authorizationPolicies = "security.istio.io/authorizationpolicies"

// governs are the resources that an engine's policies are, GROUP/RESOURCE or
// GROUP. Other objects may have the same name, or count their revisions as well: a
// route, a role. What an engine that is not known decides by is not known either, but
// that a group called like it is its own.
var governs = map[string][]string{
	"envoy_rbac":     {authorizationPolicies},
	"ztunnel_rbac":   {authorizationPolicies},
	"cilium":         {"cilium.io", "networking.k8s.io/networkpolicies", "policy.networking.k8s.io"},
	"linkerd_policy": {"policy.linkerd.io"},
	"k8s_rbac":       {"rbac.authorization.k8s.io"},
	"k8s_admission":  {"admissionregistration.k8s.io", "kyverno.io", "policies.kyverno.io", "constraints.gatekeeper.sh"},
	"opa":            {"opa/bundle"},
}

// istioRoot is the namespace whose policies apply to the whole mesh, unless
// Istio's meshConfig says otherwise.
const istioRoot = "istio-system"

// Keys are those under which the decisions are found that the change may
// govern: each is one of theirs.
func (c *Change) Keys() (keys []string) {
	if c.Revision != "" {
		keys = append(keys, revisionKey(c.Group, c.Revision))
	}
	if c.Name != "" {
		keys = append(keys, "object\x00"+c.Namespace+"\x00"+c.Name)
	}
	return keys
}

// Keys are those under which the changes are found that govern the decision.
func (d *Decision) Keys() (keys []string) {
	kinds, _ := d.kinds()
	for _, r := range d.revisions() {
		for _, kind := range kinds {
			group, _, _ := strings.Cut(kind, "/")
			keys = append(keys, revisionKey(group, r.revision))
		}
	}
	for _, o := range d.objects() {
		keys = append(keys, "object\x00"+d.Namespace+"\x00"+o.name)
	}
	return keys
}

func revisionKey(group, revision string) string { return group + "revision\x00" + revision }

// Governs says whether the decision was made, as far as it names its policy and by
// the times that are stated, by what the change left. A later change may have come
// between, and it may be abroad.
func (c *Change) Governs(d *Decision) bool {
	return c.At <= d.At && c.decides(d)
}

// MayGovern is Governs for what nobody can say for certain too: the decision comes
// shortly before the change, or is a default deny, which rests on every policy that
// applies to the workload. All of its namespace and of the root may; which do by
// their selectors is not known.
func (c *Change) MayGovern(d *Decision) bool {
	return c.At-int64(Settling) <= d.At && (c.decides(d) || c.applies(d))
}

// Settled says whether it is certain, by time, that a change at that time governs
// the decision rather than one before.
func (d *Decision) Settled(changed int64) bool {
	_, known := governs[d.Engine]
	return known && len(d.revisions()) > 0 || d.At-changed >= int64(Settling)
}

// Names says whether the decision names the revision that the change left. Then it
// was made by that, whatever was changed since.
func (d *Decision) Names(c *Change) bool {
	own, _ := c.own(d)
	return own && c.Revision != "" && slices.ContainsFunc(d.revisions(), func(r revision) bool {
		return r.revision == c.Revision && (r.bundle == "" || r.bundle == c.Name)
	})
}

func (c *Change) decides(d *Decision) bool {
	switch own, known := c.own(d); {
	case known && !own:
		return false
	case own && len(d.revisions()) > 0:
		return d.Names(c)
	}
	return c.Namespace == d.Namespace && slices.ContainsFunc(d.objects(), func(o object) bool {
		return o.name == c.Name && (o.resource == "" || o.resource == c.Resource)
	})
}

// applies tells a policy that may be one of those of which none allowed.
func (c *Change) applies(d *Decision) bool {
	if !d.DefaultDeny || d.ID != "" || d.Workload == "" || !slices.Equal(governs[d.Engine], []string{authorizationPolicies}) {
		return false
	}
	own, _ := c.own(d)
	return own && (c.Namespace == d.Workload || c.Namespace == istioRoot)
}

// own tells a change of what the decision's engine decides by; known, whether that
// is known of the engine.
func (c *Change) own(d *Decision) (own, known bool) {
	kinds, known := d.kinds()
	kind := strings.Trim(c.Group+"/"+c.Resource, "/")
	return slices.ContainsFunc(kinds, func(k string) bool { return k == kind || strings.HasPrefix(kind, k+"/") }), known
}

func (d *Decision) kinds() (kinds []string, known bool) {
	if kinds, known = governs[d.Engine]; !known {
		kinds = []string{d.Engine}
	}
	return kinds, known
}

// Same says whether two changes are of one policy, as far as their clusters are said.
func (c *Change) Same(o *Change) bool { return c.alike(o) && !apart(c.Cluster, o.Cluster) }

// Twin says whether two changes are of policies of one name in two clusters.
func (c *Change) Twin(o *Change) bool { return c.alike(o) && apart(c.Cluster, o.Cluster) }

func (c *Change) alike(o *Change) bool {
	return c.Group == o.Group && c.Resource == o.Resource && c.Namespace == o.Namespace && c.Name == o.Name
}

// Abroad says whether the change was made in another cluster than the decision. It
// governs that only if the decision's own has no such policy: one control plane may
// serve several clusters.
func (c *Change) Abroad(d *Decision) bool { return apart(c.Cluster, d.Cluster) }

func apart(a, b string) bool { return a != "" && b != "" && a != b }

type object struct{ resource, name string }

// objects are what the policy's id names: RoleBinding/NAME, server/NAME/httproute/NAME,
// or just a name. A path in OPA names no bundle.
func (d *Decision) objects() (all []object) {
	switch {
	case d.ID == "", d.Engine == "opa":
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

// revisions are those that the decision names of what changes can say they left. Of
// Kubernetes' objects nobody decides by the revision that the API server gives them:
// Cilium's counts the policies that its node has.
func (d *Decision) revisions() (all []revision) {
	if _, known := governs[d.Engine]; d.Revision == "" || known && d.Engine != "opa" {
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
