package query

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/semconv"
)

// policyLog holds decisions, and changes as their sources report them: Kubernetes'
// audit at RequestResponse, with resource versions, OPA's status, SPIRE's.
func policyLog(t *testing.T) (store string, ids map[string]string) {
	store, ids = filepath.Join(t.TempDir(), "store"), map[string]string{}
	l := newTestLog(t, store, "example.org/a")
	defer l.close()
	var all []func(plog.LogRecord)
	add := func(name, kind string, at time.Duration, attributes ...string) {
		ids[name] = id(len(all))
		all = append(all, event(kind, record(name, at, append(attributes, semconv.AuditRecordID, ids[name])...)))
	}
	changed := func(name string, at time.Duration, object, revision string, more ...string) {
		o := strings.Split(object, " ")
		add(name, semconv.EventConfigChange, at, append(more, semconv.ChangeGroup, o[0], semconv.ChangeResource, o[1],
			semconv.ChangeNamespace, o[2], semconv.ChangeName, o[3], semconv.ChangeRevision, revision)...)
	}
	decided := func(name string, at time.Duration, engine string, attributes ...string) {
		add(name, semconv.EventRequest, at, append(attributes, semconv.AuthzEngine, engine, semconv.AuthzDecision, "deny")...)
	}
	named := []string{semconv.AuthzPolicyNamespace, "shop", semconv.AuthzPolicyID, "orders"}
	const orders, route = "security.istio.io authorizationpolicies shop orders", "networking.istio.io virtualservices shop orders"

	changed("alice", 0, orders, "100")
	decided("d1", time.Minute, "envoy_rbac", named...)
	changed("carol", 90*time.Second, route, "150")
	changed("bob", 2*time.Minute, orders, "200")
	decided("d2", 3*time.Minute, "envoy_rbac", named...)

	changed("r3", 10*time.Minute, "opa bundle  mesh", "3")
	changed("spire", 11*time.Minute, "spire entry  web", "3")
	changed("mallory", 12*time.Minute, route, "3")
	decided("o3", 13*time.Minute, "opa", semconv.AuthzPolicyID, "mesh/allow", semconv.AuthzPolicyRevision, "3")
	changed("r4", 14*time.Minute, "opa bundle  mesh", "4")
	decided("late o3", 15*time.Minute, "opa", semconv.AuthzPolicyID, "mesh/allow", semconv.AuthzPolicyRevision, "3")
	decided("o4", 15*time.Minute, "opa", semconv.AuthzPolicyID, "mesh/allow", semconv.AuthzPolicyRevision, "mesh=4")

	// Nobody's clock is exact, and a change takes time to reach the proxies.
	const refunds = "security.istio.io authorizationpolicies shop refunds"
	refund := []string{semconv.AuthzPolicyNamespace, "shop", semconv.AuthzPolicyID, "refunds"}
	changed("first", 20*time.Minute, refunds, "301")
	decided("before", 30*time.Minute-6*time.Second, "envoy_rbac", refund...)
	decided("just before", 30*time.Minute-time.Second, "envoy_rbac", refund...)
	changed("second", 30*time.Minute, refunds, "302")
	decided("just after", 30*time.Minute+10*time.Millisecond, "envoy_rbac", refund...)
	decided("after", 30*time.Minute+6*time.Second, "envoy_rbac", refund...)
	changed("r5", 31*time.Minute, "opa bundle  mesh", "5")
	decided("o4 just after", 31*time.Minute+time.Millisecond, "opa", semconv.AuthzPolicyRevision, "mesh=4")

	// Nothing allowed it: every policy that applies has a part in that.
	none := func(name, engine string, attributes ...string) {
		decided(name, 40*time.Minute, engine, attributes...)
		set := all[len(all)-1]
		all[len(all)-1] = func(r plog.LogRecord) { set(r); r.Attributes().PutBool(semconv.AuthzDefaultDeny, true) }
	}
	changed("root", 32*time.Minute, "security.istio.io authorizationpolicies istio-system all", "401")
	changed("bank", 33*time.Minute, "security.istio.io authorizationpolicies bank all", "402")
	changed("role", 34*time.Minute, "rbac.authorization.k8s.io roles bank all", "403")
	none("none", "envoy_rbac", semconv.DestinationPrefix+semconv.SuffixWorkloadNamespace, "bank")
	none("none at ztunnel", "ztunnel_rbac", semconv.DestinationSPIFFEID, "spiffe://example.org/ns/bank/sa/ledger")
	none("none anywhere", "envoy_rbac")
	none("none of Cilium", "cilium", semconv.DestinationPrefix+semconv.SuffixWorkloadNamespace, "bank")

	// One policy's name in two clusters. What only one has may govern the other, as
	// with one control plane for both.
	in := func(cluster string, attributes ...string) []string {
		return append([]string{semconv.MeshCluster, cluster, semconv.AuthzPolicyNamespace, "shop", semconv.AuthzPolicyID}, attributes...)
	}
	const carts = "security.istio.io authorizationpolicies shop carts"
	changed("east", 50*time.Minute, carts, "501", semconv.MeshCluster, "east")
	changed("west", 51*time.Minute, carts, "51", semconv.MeshCluster, "west")
	decided("in east", 52*time.Minute, "envoy_rbac", in("east", "carts")...)
	decided("in west", 52*time.Minute, "envoy_rbac", in("west", "carts")...)
	decided("in north", 52*time.Minute, "envoy_rbac", in("north", "carts")...)
	l.append(time.Hour, all...)
	return store, ids
}

func TestPolicies(t *testing.T) {
	store, ids := policyLog(t)
	named := func(list string) (all []string) {
		for name := range strings.SplitSeq(list, ", ") {
			if ids[name] == "" {
				t.Fatalf("no record %q", name)
			}
			all = append(all, ids[name])
		}
		return all
	}
	for _, tc := range []struct{ change, of, want string }{
		{change: "alice", want: "d1"},
		{change: "bob", want: "d2"},
		{change: "alice, bob", want: "d1, d2"},
		{change: "carol"},
		{of: "d1", want: "alice"},
		{of: "d2", want: "alice, bob"},

		{change: "r3", want: "o3, late o3"},
		{change: "r4", want: "o4, o4 just after"},
		{change: "spire"},
		{change: "mallory"},
		{of: "o3", want: "r3"},
		{of: "late o3", want: "r3"},
		{of: "o4", want: "r4"},

		{change: "first", want: "before, just before, just after"},
		{change: "second", want: "just before, just after, after"},
		{of: "before", want: "first"},
		{of: "just before", want: "first, second"},
		{of: "after", want: "first, second"},
		{change: "r5"},
		{of: "o4 just after", want: "r4"},

		{change: "bank", want: "none, none at ztunnel"},
		{change: "root", want: "none, none at ztunnel"},
		{change: "role"},
		{of: "none", want: "root, bank"},
		{of: "none at ztunnel", want: "root, bank"},
		{of: "none anywhere"},
		{of: "none of Cilium"},

		{change: "east", want: "in east, in north"},
		{change: "west", want: "in west, in north"},
		{of: "in east", want: "east"},
		{of: "in west", want: "west"},
		{of: "in north", want: "east, west"},
	} {
		var q Query
		if tc.change != "" {
			q.Changes = named(tc.change)
		}
		if tc.of != "" {
			q.PolicyOf = named(tc.of)
		}
		got, _, err := run(t, store, q)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		if tc.want != "" {
			want = strings.Split(tc.want, ", ")
		}
		if !slices.Equal(got, want) {
			t.Errorf("changes %q, policy of %q: got %q, want %q", tc.change, tc.of, got, want)
		}
	}
}
