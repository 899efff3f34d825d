// Package records tests what the parts make together: a source's own bytes go
// through its receiver and the processor, and the record that comes out is
// looked at. One test for each event name that is no call.
package records

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processortest"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/processor/meshauditprocessor"
	"github.com/meshaudit/meshaudit/receiver/k8sauditreceiver"
	"github.com/meshaudit/meshaudit/receiver/opadecisionlogreceiver"
)

// A pipeline is the processor and what came out behind it.
type pipeline struct {
	sink consumertest.LogsSink
	logs processor.Logs
}

func start(t *testing.T) *pipeline {
	t.Helper()
	p := new(pipeline)
	f := meshauditprocessor.NewFactory()
	cfg := f.CreateDefaultConfig()
	require.NoError(t, confmap.NewFromStringMap(map[string]any{"window": "200ms", "settle": "10ms"}).Unmarshal(cfg))
	var err error
	p.logs, err = f.CreateLogs(context.Background(), processortest.NewNopSettings(f.Type()), cfg, &p.sink)
	require.NoError(t, err)
	require.NoError(t, p.logs.Start(context.Background(), componenttest.NewNopHost()))
	return p
}

// stop returns the records by event name, and checks that nothing sealed holds
// what was planted.
func (p *pipeline) stop(t *testing.T) map[string][]map[string]any {
	t.Helper()
	require.NoError(t, p.logs.Shutdown(context.Background()))
	out := map[string][]map[string]any{}
	for _, ld := range p.sink.AllLogs() {
		text, err := new(plog.JSONMarshaler).MarshalLogs(ld)
		require.NoError(t, err)
		require.NotContains(t, string(text), "SECRET")
		for _, rl := range ld.ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, lr := range sl.LogRecords().All() {
					if _, wire := lr.Attributes().Get(semconv.EvidenceID); !wire {
						out[lr.EventName()] = append(out[lr.EventName()], lr.Attributes().AsRaw())
					}
				}
			}
		}
	}
	return out
}

// serve starts a receiver and returns where it listens.
func serve(t *testing.T, f receiver.Factory, next consumer.Logs, settings map[string]any) string {
	t.Helper()
	l, err := net.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	endpoint := l.Addr().String()
	require.NoError(t, l.Close())
	cfg := f.CreateDefaultConfig()
	settings["endpoint"] = endpoint
	require.NoError(t, confmap.NewFromStringMap(settings).Unmarshal(cfg))
	r, err := f.CreateLogs(context.Background(), receivertest.NewNopSettings(f.Type()), component.Config(cfg), next)
	require.NoError(t, err)
	require.NoError(t, r.Start(context.Background(), componenttest.NewNopHost()))
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		require.NoError(t, r.Shutdown(context.Background()))
	})
	return "http://" + endpoint
}

func post(t *testing.T, url, content string) {
	t.Helper()
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Post(url, "application/json", strings.NewReader(content))
	require.NoError(t, err)
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

// has checks some attributes of a record.
func has(t *testing.T, record map[string]any, want map[string]any) {
	t.Helper()
	for name, v := range want {
		require.Equal(t, v, record[name], "%s of %v", name, record)
	}
}

func file(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("../../internal/evidence/" + name)
	require.NoError(t, err)
	return string(b)
}

// TestOPAStatus posts what OPA's status plugin does.
func TestOPAStatus(t *testing.T) {
	p := start(t)
	url := serve(t, opadecisionlogreceiver.NewFactory(), p.logs, map[string]any{})
	for range 3 {
		post(t, url+"/status", `{"labels":{"id":"opa-1","cluster":"east"},"bundles":{"authz":{"name":"authz","active_revision":"git-1","last_successful_activation":"2026-11-24T10:00:00Z"},
			"broken":{"name":"broken","code":"bundle_error","message":"SECRET","http_code":"404"}}}`)
	}
	got := p.stop(t)["mesh.config.change"]
	require.Len(t, got, 2)
	slices.SortFunc(got, func(a, b map[string]any) int {
		return strings.Compare(a["audit.outcome"].(string), b["audit.outcome"].(string))
	})
	has(t, got[1], map[string]any{
		"audit.action": "activate bundle", "audit.outcome": "success", "audit.target.id": "authz", "mesh.change.group": "opa",
		"mesh.change.revision": "git-1", "mesh.change.verb": "activate", "mesh.cluster": "east", "audit.actor.type": "system",
	})
	has(t, got[0], map[string]any{"audit.outcome": "failure", "audit.target.id": "broken", "http.response.status_code": int64(404)})
}

// TestKubernetes posts an EventList as an API server does: both stages of a
// policy change under another's name, an exec, a kubelet's token request, a
// token that was refused, a denied read, and reads of controllers.
func TestKubernetes(t *testing.T) {
	p := start(t)
	url := serve(t, k8sauditreceiver.NewFactory(), p.logs, map[string]any{"cluster": "east", "trust_domain": "cluster.local"})
	change := `"auditID":"c","verb":"patch","user":{"username":"system:serviceaccount:ops:deployer","extra":{"authentication.kubernetes.io/pod-name":["deployer-1"],"x":["Bearer SECRET"]}},
		"impersonatedUser":{"username":"alice","groups":["admins"]},"userAgent":"SECRET","requestURI":"/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/orders?token=SECRET",
		"objectRef":{"apiGroup":"security.istio.io","resource":"authorizationpolicies","namespace":"shop","name":"orders"},"requestReceivedTimestamp":"2026-11-24T10:00:00.000001Z"`
	post(t, url+"/k8s-audit", `{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[
		{"stage":"RequestReceived",`+change+`},
		{"stage":"ResponseComplete",`+change+`,"responseStatus":{"code":200},"requestObject":{"spec":{"token":"SECRET"}},"responseObject":{"metadata":{"resourceVersion":"7"},"spec":{"token":"SECRET"}},
			"annotations":{"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":"RBAC: allowed by ClusterRoleBinding \"admins\" of ClusterRole \"admin\" to Group \"admins\""}},
		`+file(t, "k8saudit/testdata/exec_pod.json")+`,
		{"auditID":"t","stage":"ResponseComplete","verb":"create","user":{"username":"system:node:n1"},"objectRef":{"resource":"serviceaccounts","subresource":"token","namespace":"shop","name":"orders"},"responseStatus":{"code":201},"responseObject":{"status":{"token":"SECRET"}}},
		{"auditID":"u","stage":"ResponseComplete","verb":"get","user":{},"requestURI":"/api?SECRET","responseStatus":{"code":401,"reason":"Unauthorized"}},
		{"auditID":"d","stage":"ResponseComplete","verb":"list","user":{"username":"dev"},"objectRef":{"resource":"secrets","namespace":"shop"},"responseStatus":{"code":403,"reason":"Forbidden"},"annotations":{"authorization.k8s.io/decision":"forbid"}},
		{"auditID":"r","stage":"ResponseComplete","verb":"list","user":{"username":"system:node:n1"},"objectRef":{"resource":"pods"},"responseStatus":{"code":200}}
	]}`)
	got := p.stop(t)

	require.Len(t, got["mesh.config.change"], 1, "both stages are one record")
	has(t, got["mesh.config.change"][0], map[string]any{
		"user.id": "alice", "mesh.change.impersonator": "system:serviceaccount:ops:deployer", "audit.actor.type": "user",
		"audit.action": "patch authorizationpolicies", "audit.outcome": "success", "audit.target.id": "shop/orders",
		"mesh.change.group": "security.istio.io", "mesh.change.resource": "authorizationpolicies", "mesh.change.namespace": "shop",
		"mesh.change.name": "orders", "mesh.change.verb": "patch", "mesh.change.revision": "7",
		"mesh.source.pod.name": "deployer-1", "mesh.source.spiffe.id": "spiffe://cluster.local/ns/ops/sa/deployer", "mesh.source.identity.proof": "claimed",
		"mesh.authz.engine": "k8s_rbac", "mesh.authz.policy.id": "ClusterRoleBinding/admins", "mesh.cluster": "east", "mesh.evidence.state": "complete",
	})
	require.Len(t, got["mesh.config.change"][0]["mesh.change.diff_sha256"], 64)
	require.Len(t, got["mesh.config.change"][0]["mesh.attestations"], 2)
	has(t, got["mesh.operator.action"][0], map[string]any{
		"user.id": "minikube-user", "audit.action": "create pods/exec", "audit.target.type": "pods/exec", "audit.outcome": "success",
		"audit.target.id": "default/nginx-deployment-7998647bdf-phvq7", "client.address": "192.168.99.1",
	})
	has(t, got["mesh.identity.issue"][0], map[string]any{
		"user.id": "system:node:n1", "audit.actor.type": "system", "audit.target.id": "shop/orders", "audit.outcome": "success",
	})
	has(t, got["mesh.authn"][0], map[string]any{
		"audit.outcome": "failure", "mesh.authz.engine": "k8s_authn", "mesh.authz.decision": "deny",
	})
	has(t, got["mesh.authz"][0], map[string]any{
		"user.id": "dev", "audit.action": "list secrets", "mesh.authz.decision": "deny", "mesh.authz.default_deny": true, "audit.outcome": "failure",
	})
	has(t, got["mesh.finding"][0], map[string]any{"mesh.finding.kind": "policy_changed", "user.id": "alice"})
	n := 0
	for _, records := range got {
		n += len(records)
	}
	require.Equal(t, 6, n, "a kubelet's reads make no record: %v", got)
}
