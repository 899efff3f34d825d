package resource

import (
	"testing"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

func TestRead(t *testing.T) {
	for name, tc := range map[string]struct {
		attributes map[string]any
		want       evidence.Workload
	}{
		"a deployment's pod": {
			map[string]any{
				"k8s.replicaset.name": "orders-5d9", "k8s.deployment.name": "orders", "k8s.namespace.name": "shop", "k8s.pod.name": "orders-5d9-x",
				"k8s.pod.uid": "u", "k8s.node.name": "n1", "service.version": "1.4", "container.image.repo_digests": []any{"r/orders@sha256:ab", "r/other@sha256:cd"},
			},
			evidence.Workload{Name: "orders", Kind: "Deployment", Namespace: "shop", PodName: "orders-5d9-x", PodUID: "u", Node: "n1", Version: "1.4", ImageDigest: "sha256:ab"},
		},
		"a cron job's":                  {map[string]any{"k8s.job.name": "bill-1", "k8s.cronjob.name": "bill"}, evidence.Workload{Name: "bill", Kind: "CronJob"}},
		"digests as text":               {map[string]any{"container.image.repo_digests": `["r@sha256:ab"]`}, evidence.Workload{ImageDigest: "sha256:ab"}},
		"nothing stated, nothing taken": {map[string]any{"k8s.pod.name": "", "service.name": "x", "k8s.container.name": "c"}, evidence.Workload{PodName: "kept"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := pcommon.NewMap()
			if err := m.FromRaw(tc.attributes); err != nil {
				t.Fatal(err)
			}
			w := evidence.Workload{PodName: tc.want.PodName}
			if Read(m, &w); w != tc.want {
				t.Errorf("got %+v", w)
			}
		})
	}
}
