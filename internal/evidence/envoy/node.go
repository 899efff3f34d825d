package envoy

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// A Node is what a proxy says about itself, read once per stream. All of it is
// a claim of the proxy.
type Node struct {
	ID       string // as sent, bounded
	Type     string // Istio's: sidecar, router, waypoint …; "": not Istio's form
	IP       string
	Cluster  string // the cluster (of machines), not Envoy's service cluster
	Workload evidence.Workload
}

// ReadNode reads an access log stream's node; nil gives the zero Node.
func ReadNode(n *corev3.Node) Node {
	if n == nil {
		return Node{}
	}
	node := ParseNodeID(n.GetId())
	if md, err := proto.Marshal(n.GetMetadata()); err == nil {
		node.metadata(protoStruct(md))
	}
	if node.Workload.Name == "" {
		// Envoy's --service-cluster names the service that it stands for; Istio
		// makes it NAME.NAMESPACE.
		cluster := evidence.Text(n.GetCluster(), evidence.MaxName)
		node.Workload.Name = strings.TrimSuffix(cluster, "."+node.Workload.Namespace)
	}
	return node
}

// ParseNodeID reads Istio's node id, TYPE~IP~POD.NAMESPACE~DNS-DOMAIN. Any
// other id is kept as it is.
func ParseNodeID(id string) Node {
	node := Node{ID: evidence.Text(id, evidence.MaxName)}
	kind, rest, ok := strings.Cut(node.ID, "~")
	if !ok {
		return node
	}
	ip, rest, ok := strings.Cut(rest, "~")
	if !ok {
		return node
	}
	pod, _, ok := strings.Cut(rest, "~")
	if !ok {
		return node
	}
	node.Type, node.IP = kind, ip
	// A pod's name holds no dot, unless it is made by hand: its namespace,
	// which never does, is what follows the last one.
	if i := strings.LastIndexByte(pod, '.'); i >= 0 {
		node.Workload.PodName, node.Workload.Namespace = pod[:i], pod[i+1:]
	} else {
		node.Workload.PodName = pod
	}
	return node
}

func (n *Node) metadata(md protoStruct) {
	workload(md, &n.Workload)
	n.Cluster = md.text("CLUSTER_ID")
	if ns := md.text("CONFIG_NAMESPACE"); n.Workload.Namespace == "" {
		n.Workload.Namespace = ns
	}
	if pod := md.text("POD_NAME"); n.Workload.PodName == "" {
		n.Workload.PodName = pod
	}
	set(&n.Workload.Node, md.text("NODE_NAME"))
}

// workload reads Istio's workload metadata: a node's, and the peer objects that
// proxies exchange, whose fields newer ones name otherwise.
func workload(md protoStruct, w *evidence.Workload) {
	labels := md.object("LABELS")
	ownerKind, ownerName := owner(md.text("OWNER"))

	set(&w.PodName, first(md.text("NAME"), md.text("name")))
	set(&w.Namespace, first(md.text("NAMESPACE"), md.text("namespace")))
	set(&w.Kind, first(ownerKind, ownerKinds[md.text("type")+"s"]))
	set(&w.Name, first(md.text("WORKLOAD_NAME"), md.text("workload"), ownerName,
		labels.text("service.istio.io/canonical-name"), labels.text("app"), md.text("service"), md.text("app")))
	set(&w.Version, first(labels.text("version"), labels.text("app.kubernetes.io/version"), md.text("version")))
	set(&w.Revision, first(labels.text("service.istio.io/canonical-revision"), md.text("revision")))
}

// owner reads Istio's OWNER, kubernetes://apis/apps/v1/namespaces/NS/deployments/NAME.
func owner(s string) (kind, name string) {
	rest, ok := strings.CutPrefix(s, "kubernetes://")
	if !ok {
		return "", ""
	}
	i := strings.LastIndexByte(rest, '/')
	if i < 0 {
		return "", ""
	}
	name, rest = rest[i+1:], rest[:i]
	plural := rest[strings.LastIndexByte(rest, '/')+1:]
	return ownerKinds[plural], name
}

var ownerKinds = map[string]string{
	"pods":                   "Pod",
	"deployments":            "Deployment",
	"replicasets":            "ReplicaSet",
	"statefulsets":           "StatefulSet",
	"daemonsets":             "DaemonSet",
	"jobs":                   "Job",
	"cronjobs":               "CronJob",
	"replicationcontrollers": "ReplicationController",
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// set overwrites dst only with something.
func set(dst *string, v string) {
	if v != "" {
		*dst = v
	}
}
