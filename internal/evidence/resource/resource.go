// Package resource reads what a resource's attributes, as the Kubernetes attributes
// processor or an SDK sets them, say of a workload's exact version. Names that a
// workload gives itself (service.name) are left to who knows what it calls them.
package resource

import (
	"encoding/json"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// kinds of workloads, the one that runs the others first.
var kinds = []struct{ attribute, kind string }{
	{"k8s.deployment.name", "Deployment"}, {"k8s.statefulset.name", "StatefulSet"}, {"k8s.daemonset.name", "DaemonSet"},
	{"k8s.cronjob.name", "CronJob"}, {"k8s.job.name", "Job"}, {"k8s.replicaset.name", "ReplicaSet"},
}

// Read sets what m states, and leaves the rest of w. It returns the cluster's name,
// "" if there is none.
func Read(m pcommon.Map, w *evidence.Workload) (cluster string) {
	owner := len(kinds)
	for name, v := range m.All() {
		switch name {
		case "service.version":
			set(&w.Version, v)
		case "k8s.namespace.name":
			set(&w.Namespace, v)
		case "k8s.pod.name":
			set(&w.PodName, v)
		case "k8s.pod.uid":
			set(&w.PodUID, v)
		case "k8s.node.name":
			set(&w.Node, v)
		case "k8s.cluster.name":
			set(&cluster, v)
		case "container.image.repo_digests":
			if d := digest(v); d != "" {
				w.ImageDigest = d
			}
		default:
			if !strings.HasPrefix(name, "k8s.") {
				continue
			}
			i := slices.IndexFunc(kinds, func(k struct{ attribute, kind string }) bool { return k.attribute == name })
			if s := text(v); i >= 0 && i < owner && s != "" {
				owner, w.Name, w.Kind = i, s, kinds[i].kind
			}
		}
	}
	return cluster
}

func set(dst *string, v pcommon.Value) {
	if s := text(v); s != "" {
		*dst = s
	}
}

func text(v pcommon.Value) string {
	if v.Type() == pcommon.ValueTypeStr {
		return evidence.Text(v.Str(), evidence.MaxName)
	}
	return evidence.Text(v.AsString(), evidence.MaxName)
}

// digest returns the digest of the first REPOSITORY@DIGEST.
func digest(v pcommon.Value) string {
	s := ""
	switch v.Type() {
	case pcommon.ValueTypeSlice:
		if v.Slice().Len() > 0 {
			s = v.Slice().At(0).Str()
		}
	case pcommon.ValueTypeStr:
		s = v.Str()
		if strings.HasPrefix(s, "[") {
			var list []string
			if json.Unmarshal([]byte(evidence.Text(s, evidence.MaxPath)), &list) == nil && len(list) > 0 {
				s = list[0]
			}
		}
	}
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		s = s[i+1:]
	}
	return evidence.Text(s, evidence.MaxName)
}
