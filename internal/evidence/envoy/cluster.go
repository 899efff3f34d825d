package envoy

import (
	"strconv"
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// An upstream is what the name of an Envoy cluster tells by Istio's
// convention, DIRECTION|PORT|SUBSET|HOST, of a waypoint inbound-vip|PORT|PROTOCOL/SUBSET|HOST.
type upstream struct {
	direction       direction
	port            uint16
	subset, service string
	namespace       string
}

type direction uint8

const (
	unknownDirection direction = iota
	inbound
	outbound
)

func parseCluster(name string) upstream {
	var u upstream
	var rest, sep string
	if u.direction, rest, sep = clusterDirection(name); sep == "" {
		return u
	}
	port, rest, _ := strings.Cut(rest, sep)
	if n, err := strconv.ParseUint(port, 10, 16); err == nil {
		u.port = uint16(n)
	}
	subset, host, _ := strings.Cut(rest, sep)
	if strings.HasPrefix(name, waypointCluster) {
		_, subset, _ = strings.Cut(subset, "/")
	}
	u.subset = evidence.Text(subset, evidence.MaxName)
	u.service, u.namespace = serviceName(evidence.Text(host, evidence.MaxName))
	return u
}

// clusterDirection reads a cluster name's first part. sep divides the rest; "":
// there is none.
func clusterDirection(name string) (d direction, rest, sep string) {
	name = plainName(name)
	switch {
	case strings.HasPrefix(name, "InboundPassthroughCluster"), name == "inbound_passthrough":
		return inbound, "", ""
	case captured(name), tunnel(name):
		return outbound, "", ""
	}
	sep = "|"
	if !strings.Contains(name, sep) {
		sep = "_." // outbound_.9080_.v1_.reviews…, as a stat-safe or SNI name
	}
	dir, rest, ok := strings.Cut(name, sep)
	switch {
	case !ok:
	case dir == "inbound", dir == "inbound-vip":
		return inbound, rest, sep
	case dir == "outbound":
		return outbound, rest, sep
	}
	return unknownDirection, "", ""
}

// captured: what a sidecar captured is no service that it knows.
func captured(cluster string) bool {
	cluster = plainName(cluster)
	return cluster == "PassthroughCluster" || cluster == "BlackHoleCluster"
}

// tunnel: Istio's clusters by which a proxy opens HBONE tunnels. They log what could
// not be opened.
func tunnel(cluster string) bool {
	switch plainName(cluster) {
	case "connect_originate", "inner_connect_originate", "outer_connect_originate":
		return true
	}
	return false
}

// behindTunnel: a waypoint's requests come out of an HBONE tunnel, of whose TLS its
// access log says nothing.
func behindTunnel(node *Node, cluster string) bool {
	return node.Type == waypoint || node.Type == "" && strings.HasPrefix(cluster, waypointCluster)
}

// waypointCluster is how the name of a cluster begins that only waypoints have: that of a
// service in whose place they are asked.
const waypointCluster = "inbound-vip|"

// asked is what a proxy was asked for: its own workload, but of a waypoint the service
// in whose place it was.
func asked(node *Node, cluster string) (w evidence.Workload) {
	if u := parseCluster(cluster); u.service != "" && behindTunnel(node, cluster) {
		u.destination(&w)
		return w
	}
	return node.Workload
}

// plainName of a cluster: Istio ends the name for statistics, which Envoy prefers to
// log, with a semicolon.
func plainName(cluster string) string { return strings.TrimSuffix(cluster, ";") }

// serviceName splits a Kubernetes service's host name,
// SERVICE.NAMESPACE.svc.DOMAIN; any other host is a service without namespace.
func serviceName(host string) (service, namespace string) {
	service, rest, ok := strings.Cut(host, ".")
	if !ok {
		return host, ""
	}
	namespace, rest, ok = strings.Cut(rest, ".")
	if !ok || (rest != "svc" && !strings.HasPrefix(rest, "svc.")) {
		return host, ""
	}
	return service, namespace
}

// Destination fills in what a caller's upstream cluster says about the callee:
// a Kubernetes service, not yet a workload.
func (u upstream) destination(w *evidence.Workload) {
	if u.service == "" {
		return
	}
	*w = evidence.Workload{Name: u.service, Namespace: u.namespace, Kind: "Service"}
	// A subset is named by the mesh's operator, most often after the version.
	w.Version = u.subset
}

// A stand is where a proxy stands in a call, gathered from what one of its
// reports says.
type stand struct {
	node            *Node
	cluster         string // Envoy's upstream cluster name
	hasUpstream     bool   // an upstream host was chosen
	details         string // response_code_details
	peerCertificate bool   // the downstream presented one
	localAddress    string // the downstream connection's own address
	listener        direction
}

// role decides which side of the call the report is about; the first rule that
// applies:
//
//  1. the listener's direction, where a custom tag or label states it;
//  2. a gateway (router~) that answered without an upstream, even if a cluster
//     had been chosen, is the callee; so is a proxy that does not say that it is
//     a sidecar and denied by a policy: Istio's sidecars enforce none outbound;
//  3. Istio's cluster name: inbound is the callee, outbound or a tunnel the caller;
//  4. a gateway with an upstream is the caller;
//  5. a policy's denial or a client certificate: the callee, for sidecars
//     enforce and terminate on the inbound side;
//  6. a sidecar whose connection was not accepted on its pod's own address
//     was reached through an outbound capture: the caller;
//  7. otherwise the callee: an access log states what the proxy was asked.
func (s *stand) role() evidence.Role {
	if s.listener == unknownDirection && !s.hasUpstream && (s.node.Type == "router" || s.node.Type == "" && refusedBy(s.details) != "") {
		return evidence.RoleCallee
	}
	dir := s.listener
	if dir == unknownDirection {
		dir, _, _ = clusterDirection(s.cluster)
	}
	switch {
	case dir == inbound:
		return evidence.RoleCallee
	case dir == outbound:
		return evidence.RoleCaller
	case s.node.Type == "router":
		return evidence.RoleCaller
	case s.peerCertificate || refusedBy(s.details) != "":
		return evidence.RoleCallee
	case s.node.Type == "sidecar" && s.localAddress != "" && s.node.IP != "" && s.localAddress != s.node.IP:
		return evidence.RoleCaller
	}
	return evidence.RoleCallee
}

// RoleOfCluster tells the side from Istio's cluster name alone: the callee for
// inbound, the caller for outbound, RoleNone for any other.
func RoleOfCluster(cluster string) evidence.Role {
	switch d, _, _ := clusterDirection(cluster); d {
	case inbound:
		return evidence.RoleCallee
	case outbound:
		return evidence.RoleCaller
	}
	return evidence.RoleNone
}

// Destination fills in what a caller's upstream cluster says about the callee.
func Destination(cluster string, w *evidence.Workload) {
	parseCluster(cluster).destination(w)
}

// routeTemplate is an Envoy route's name where it is what http.route means, a
// template of paths. Most are not: Istio calls every inbound route "default".
func routeTemplate(name string) string {
	if !strings.HasPrefix(name, "/") {
		return ""
	}
	return evidence.Text(name, evidence.MaxName)
}
