package correlate

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// What several say of one workload adds up; of two workloads, or two versions of
// one, nothing is mixed.
func TestMergeWorkload(t *testing.T) {
	proxy := evidence.Workload{Name: "orders", Namespace: "shop", Version: "v1"}
	inPod := func(w evidence.Workload, pod string) evidence.Workload { w.PodName = pod; return w }
	app := evidence.Workload{Name: "orders", Namespace: "shop", Version: "1.4.2", ImageDigest: "sha256:ab"}
	for name, tc := range map[string]struct{ first, second, want evidence.Workload }{
		"adds up": {proxy, evidence.Workload{Name: "orders", Node: "n1", ImageDigest: "sha256:ab"},
			evidence.Workload{Name: "orders", Namespace: "shop", Version: "v1", Node: "n1", ImageDigest: "sha256:ab"}},
		"one pod, two names of its version": {inPod(proxy, "orders-1"), inPod(app, "orders-1"),
			evidence.Workload{Name: "orders", Namespace: "shop", Version: "v1", PodName: "orders-1", ImageDigest: "sha256:ab"}},
		"one pod, two names of its workload": {
			inPod(evidence.Workload{Name: "payments", Namespace: "shop"}, "payments-v1-x"),
			inPod(evidence.Workload{Name: "payments-v1", Kind: "Deployment", Namespace: "shop", Version: "v1"}, "payments-v1-x"),
			evidence.Workload{Name: "payments", Namespace: "shop", Version: "v1", PodName: "payments-v1-x"}},
		"two versions":      {proxy, app, proxy},
		"another pod":       {inPod(proxy, "orders-1"), inPod(evidence.Workload{Node: "n2"}, "orders-2"), inPod(proxy, "orders-1")},
		"another name":      {proxy, evidence.Workload{Name: "payments", Node: "n2"}, proxy},
		"another namespace": {proxy, evidence.Workload{Name: "orders", Namespace: "bank", Node: "n2"}, proxy},
	} {
		t.Run(name, func(t *testing.T) {
			got := tc.first
			mergeWorkload(&got, &tc.second)
			require.Equal(t, tc.want, got)
		})
	}
}
