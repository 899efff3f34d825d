package k8saudit

import (
	"bytes"
	"path"
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
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
	"zoneingressinsights": true, "zoneegressinsights": true, "zoneegresses": true, "updaterequests": true, "externalworkloads": true,
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
	dry := dryRun(a.uri)
	switch {
	case a.code == 401:
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

// dryRun tells whether nothing is to be stored. Of a query string only this is
// looked at.
func dryRun(uri []byte) bool {
	_, query, _ := bytes.Cut(uri, []byte("?"))
	for len(query) > 0 {
		var pair []byte
		pair, query, _ = bytes.Cut(query, []byte("&"))
		if string(pair) == "dryRun=All" {
			return true
		}
	}
	return false
}

func isNode(user string) bool { return strings.HasPrefix(user, "system:node:") }

// isControlPlane tells the users of Kubernetes itself.
func isControlPlane(user string) bool {
	return isNode(user) || strings.HasPrefix(user, "system:kube-") || user == "system:apiserver" ||
		strings.HasPrefix(user, "system:serviceaccount:kube-system:")
}
