package k8saudit

import (
	"bytes"
	"path"
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/jsonscan"
)

// DefaultConfigMaps and DefaultSecrets hold the configuration and the roots of
// trust of common meshes.
var (
	DefaultConfigMaps = []string{
		"istio-system/istio", "linkerd/linkerd-config", "kube-system/cilium-config",
		"kube-system/aws-auth", "kube-system/extension-apiserver-authentication", "spire*/spire-*",
	}
	DefaultSecrets = []string{
		"istio-system/cacerts", "istio-system/istio-ca-secret", "linkerd/linkerd-identity-issuer", "kube-system/cilium-ca",
	}
)

// groups are the API groups of policy and of the mesh: a write to any of their
// resources, but for their status and those that never mean a person's or a
// controller's intent, is a configuration change.
var groups = []string{
	"*.istio.io", "gateway.networking.k8s.io", "*.gateway.networking.k8s.io", "policy.linkerd.io", "linkerd.io", "multicluster.linkerd.io",
	"workload.linkerd.io", "cilium.io", "kuma.io", "spire.spiffe.io", "spiffeid.spiffe.io", "gateway.envoyproxy.io",
	"rbac.authorization.k8s.io", "admissionregistration.k8s.io", "policy.networking.k8s.io", "kyverno.io", "policies.kyverno.io",
	"templates.gatekeeper.sh", "constraints.gatekeeper.sh", "config.gatekeeper.sh", "certificates.k8s.io", "cert-manager.io",
	"trust.cert-manager.io", "apiregistration.k8s.io",
}

// state are resources of those groups by which agents tell what is.
var state = map[string]bool{
	"ciliumendpoints": true, "ciliumidentities": true, "ciliumnodes": true, "ciliumendpointslices": true, "ciliumpodippools": true,
	"dataplanes": true, "dataplaneinsights": true, "meshinsights": true, "serviceinsights": true, "zoneinsights": true, "zoneingresses": true,
	"zoneingressinsights": true, "zoneegressinsights": true, "zoneegresses": true, "updaterequests": true,
	"certificaterequests": true, "certificatesigningrequests": true,
}

// resources are those of other groups, GROUP/RESOURCE, that are policy or a
// workload's identity.
var resources = map[string]bool{
	"networking.k8s.io/networkpolicies": true, "networking.k8s.io/ingresses": true, "networking.k8s.io/ingressclasses": true,
	"/serviceaccounts": true, "/namespaces": true, "extensions/networkpolicies": true, "policy/podsecuritypolicies": true,
}

// actions are the subresources by which an operator acts on a workload.
var actions = map[string]bool{
	"pods/exec": true, "pods/attach": true, "pods/portforward": true, "pods/proxy": true, "pods/ephemeralcontainers": true,
	"pods/log": true, "pods/eviction": true, "services/proxy": true, "nodes/proxy": true, "serviceaccounts/token": true,
	"certificatesigningrequests/approval": true,
}

// workloads are written by operators; what the control plane itself writes of
// them follows from that.
var workloads = map[string]bool{
	"/pods": true, "/replicationcontrollers": true, "apps/deployments": true, "apps/statefulsets": true, "apps/daemonsets": true,
	"apps/replicasets": true, "batch/jobs": true, "batch/cronjobs": true, "extensions/deployments": true, "extensions/daemonsets": true,
}

// classify says what the event is about, and whether it makes a record.
func (d *Decoder) classify(a *audit, e *evidence.Evidence) {
	observed := func(event evidence.Event) { e.Event, e.Role = event, evidence.RoleObserver }
	resource := a.resource
	if a.sub != "" {
		resource += "/" + a.sub
	}
	dry := a.dryRun()
	switch {
	case a.unauthenticated(), a.login.decision != "":
		observed(evidence.EventAuthn)
	case resource == "serviceaccounts/token" && isNode(a.user.name),
		resource == "certificatesigningrequests/status" && a.writes() && a.code < 400:
		observed(evidence.EventIdentityIssue)
	case actions[resource],
		a.resource == "certificatesigningrequests" && a.sub == "" && a.writes() && !isNode(a.user.name),
		a.group+"/"+resource == "/secrets" && d.reads(a):
		observed(evidence.EventOperatorAction)
	case a.writes() && !dry && d.policy(a):
		observed(evidence.EventConfigChange)
		c := &e.Act.Change
		c.Group, c.Resource, c.Namespace, c.Name, c.Verb = a.group, resource, a.namespace, a.name, a.verb
		describe(a, e)
	case a.writes() && !dry && a.sub != "status" && a.sub != "binding" && workloads[a.group+"/"+a.resource] && !isControlPlane(a.user.name),
		a.as.name != "":
		observed(evidence.EventOperatorAction)
	case e.Verdict != nil && e.Verdict.Decision == evidence.Deny:
		observed(evidence.EventAuthz)
	}
}

func (a *audit) writes() bool {
	switch a.verb {
	case "create", "update", "patch", "delete", "deletecollection":
		return true
	}
	return false
}

// reads tells whether the event reads a Secret that is named, alone or with
// others. Controllers list and watch all the time.
func (d *Decoder) reads(a *audit) bool {
	switch a.verb {
	case "list", "watch":
		if _, _, ok := serviceAccount(a.user.name); ok || isControlPlane(a.user.name) {
			return false
		}
	case "get":
	default:
		return false
	}
	return a.among(d.secrets)
}

// policy tells whether the event's object is policy, trust, or a mesh's
// configuration.
func (d *Decoder) policy(a *audit) bool {
	switch {
	case a.sub == "status" || a.sub != "" && a.sub != "finalize" && a.sub != "scale":
		return false
	case a.group == "" && a.resource == "configmaps":
		return a.among(d.configMaps)
	case a.group == "" && a.resource == "secrets":
		return a.among(d.secrets)
	case resources[a.group+"/"+a.resource]:
		return true
	case a.group == "" || state[a.resource]:
		return false
	}
	for _, g := range d.groups {
		if suffix, ok := strings.CutPrefix(g, "*"); ok && strings.HasSuffix(a.group, suffix) || g == a.group {
			return true
		}
	}
	return false
}

// among tells whether the event's object is one that the patterns,
// NAMESPACE/NAME, name, or its objects may have one among them.
func (a *audit) among(patterns []string) bool {
	several := a.name == "" && (a.verb == "list" || a.verb == "watch" || a.verb == "deletecollection")
	for _, p := range patterns {
		object := a.namespace + "/" + a.name
		if several {
			p, _, _ = strings.Cut(p, "/")
			object = a.namespace
		}
		if ok, err := path.Match(p, object); ok && err == nil || several && a.namespace == "" {
			return true
		}
	}
	return false
}

// dryRun tells whether nothing is to be stored. A deletion's options stand in
// its body, and in its query only if it has no body, as far as the level shows
// that: one that may have been carried out is none.
func (a *audit) dryRun() bool {
	switch {
	case a.verb != "delete" && a.verb != "deletecollection":
		return dryRunQuery(a.uri)
	case len(a.request) > 0:
		return dryRunOptions(a.request)
	}
	return (a.level == "Request" || a.level == "RequestResponse") && !a.truncated && dryRunQuery(a.uri)
}

const dryRunAll = "All"

// Of a query string only this is looked at.
func dryRunQuery(uri []byte) bool {
	_, query, _ := bytes.Cut(uri, []byte("?"))
	for len(query) > 0 {
		var pair []byte
		pair, query, _ = bytes.Cut(query, []byte("&"))
		if string(pair) == "dryRun="+dryRunAll {
			return true
		}
	}
	return false
}

func dryRunOptions(object []byte) (dry bool) {
	c := jsonscan.New(object)
	if !c.Object() {
		return false
	}
	for c.Next() {
		if string(c.Key) != "dryRun" {
			c.Skip()
			continue
		}
		if !c.Array() {
			continue
		}
		for c.Element() {
			dry = dry || c.String() == dryRunAll
		}
	}
	return dry
}

func isNode(user string) bool { return strings.HasPrefix(user, "system:node:") }

// controllers are the service accounts by which kube-controller-manager writes
// workloads. Others of their namespace are whoever may use it.
var controllers = map[string]bool{
	"cronjob-controller": true, "daemon-set-controller": true, "deployment-controller": true, "device-taint-eviction-controller": true,
	"generic-garbage-collector": true, "horizontal-pod-autoscaler": true, "job-controller": true, "namespace-controller": true,
	"node-controller": true, "persistent-volume-binder": true, "pod-garbage-collector": true, "replicaset-controller": true,
	"replication-controller": true, "statefulset-controller": true, "storage-version-migrator-controller": true,
	"taint-eviction-controller": true, "ttl-after-finished-controller": true,
}

// isControlPlane tells the users of Kubernetes itself.
func isControlPlane(user string) bool {
	if namespace, name, ok := serviceAccount(user); ok {
		return namespace == "kube-system" && controllers[name]
	}
	return isNode(user) || strings.HasPrefix(user, "system:kube-") || user == "system:apiserver"
}
