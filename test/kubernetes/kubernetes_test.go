// Package kubernetes tests the Kubernetes audit receiver against a real
// kube-apiserver, by its webhook and by its log file. It is a module of its
// own, and the API server below it another: building that takes minutes, so
// that `make nightly` runs it, not `make test`.
package kubernetes

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
	"github.com/meshaudit/meshaudit/internal/evidence/k8saudit"
	"github.com/meshaudit/meshaudit/internal/evidence/otlp"
	"github.com/meshaudit/meshaudit/receiver/k8sauditreceiver"
)

const policy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: RequestResponse
  resources: [{group: security.istio.io}, {group: rbac.authorization.k8s.io}, {group: "", resources: [configmaps]}]
- level: Metadata
`

const webhook = `
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://localhost:%s/k8s-audit", certificate-authority: "%s"}}]
users: [{name: u, user: {client-certificate: "%s", client-key: "%s", token: hooktoken}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`

// reporter is who the API server is to the webhook.
const reporter = "spiffe://example.org/kube-apiserver"

const tokens = `admintoken,admin,admin-uid,"system:masters"
devtoken,dev,dev-uid,"devs"
`

// A sink is the next consumer; while refusing it answers with a retryable error.
type sink struct {
	mu       sync.Mutex
	refusing bool
	refusals int
	got      []evidence.Evidence
	raw      int
}

func (*sink) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (s *sink) ConsumeLogs(_ context.Context, logs plog.Logs) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refusing {
		s.refusals++
		return errors.New("busy")
	}
	for _, lr := range logs.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
		if e, ok := otlp.Decode(lr); ok {
			s.got = append(s.got, e)
		} else {
			s.raw++
		}
	}
	return nil
}

func (s *sink) refuse(refusing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusing = refusing
}

// find waits for evidence that fits.
func (s *sink) find(t *testing.T, what string, fits func(*evidence.Evidence) bool) evidence.Evidence {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		s.mu.Lock()
		for i := range s.got {
			if fits(&s.got[i]) {
				defer s.mu.Unlock()
				return s.got[i]
			}
		}
		s.mu.Unlock()
	}
	t.Fatalf("waited in vain for %s", what)
	return evidence.Evidence{}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func receive(t *testing.T, endpoint string, ca *evidencetest.CA, next consumer.Logs) {
	t.Helper()
	cert, key := ca.Files(t, ca.Issue(t, "spiffe://example.org/collector"))
	f := k8sauditreceiver.NewFactory()
	cfg := f.CreateDefaultConfig()
	if err := confmap.NewFromStringMap(map[string]any{
		"endpoint": endpoint, "token": "hooktoken", "cluster": "east", "trust_domain": "cluster.local", "config_maps": []any{"shop/mesh-*"},
		"tls": map[string]any{"cert_file": cert, "key_file": key, "client_ca_file": ca.File(t)},
	}).Unmarshal(cfg); err != nil {
		t.Fatal(err)
	}
	r, err := f.CreateLogs(context.Background(), receivertest.NewNopSettings(component.MustNewType("k8s_audit")), cfg, next)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(context.Background(), componenttest.NewNopHost()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := r.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
}

// An api is a running API server.
type api struct {
	url, log string
	client   *http.Client
}

// build builds the API server. It may take longer than certificates are valid.
func build(t *testing.T) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "apiserver")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2 "+
		"-X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37", "-o", program, ".")
	build.Dir, build.Env = "apiserver", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the API server: %v\n%s", err, out)
	}
	return program
}

func start(t *testing.T, program, webhookEndpoint string, ca *evidencetest.CA) *api {
	t.Helper()
	dir := t.TempDir()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	sa := write("sa.key", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	cert, certKey := ca.Files(t, ca.Issue(t, reporter))
	_, hookPort, _ := net.SplitHostPort(webhookEndpoint)
	endpoint := freePort(t)
	_, port, _ := net.SplitHostPort(endpoint)
	a := &api{url: "https://" + endpoint, log: filepath.Join(dir, "audit.log"), client: &http.Client{
		Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	}}
	cmd := exec.Command(program, filepath.Join(dir, "etcd"), "http://"+freePort(t), "http://"+freePort(t),
		"--bind-address=127.0.0.1", "--secure-port="+port, "--cert-dir="+filepath.Join(dir, "certs"),
		"--service-account-key-file="+sa, "--service-account-signing-key-file="+sa, "--service-account-issuer=https://kubernetes.default.svc",
		"--authorization-mode=RBAC", "--token-auth-file="+write("tokens.csv", tokens), "--service-cluster-ip-range=10.0.0.0/24",
		"--endpoint-reconciler-type=none", "--audit-policy-file="+write("policy.yaml", policy),
		"--audit-webhook-config-file="+write("hook.yaml", fmt.Sprintf(webhook, hookPort, ca.File(t), cert, certKey)),
		"--audit-webhook-batch-max-wait=1s", "--audit-webhook-initial-backoff=1s", "--audit-log-path="+a.log)
	output := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(output.String()[max(0, output.Len()-4000):])
		}
	})
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if resp, _ := a.do(context.Background(), "admintoken", "GET", "/api/v1/namespaces/default", ""); resp == http.StatusOK {
			return a
		}
		if time.Now().After(deadline) {
			t.Fatalf("the API server does not get ready:\n%s", output)
		}
	}
}

func (a *api) do(ctx context.Context, token, method, path, body string, headers ...string) (int, []byte) {
	req, err := http.NewRequestWithContext(ctx, method, a.url+path, strings.NewReader(body))
	if err != nil {
		return 0, nil
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, b
}

func (a *api) must(t *testing.T, want int, token, method, path, body string, headers ...string) []byte {
	t.Helper()
	code, b := a.do(t.Context(), token, method, path, body, headers...)
	if code != want {
		t.Fatalf("%s %s: %d, want %d: %s", method, path, code, want, b)
	}
	return b
}

const crd = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"authorizationpolicies.security.istio.io"},
	"spec":{"group":"security.istio.io","scope":"Namespaced","names":{"plural":"authorizationpolicies","singular":"authorizationpolicy","kind":"AuthorizationPolicy"},
	"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`

func TestAPIServer(t *testing.T) {
	program := build(t)
	next, endpoint := new(sink), freePort(t)
	ca := evidencetest.NewCA(t)
	receive(t, endpoint, ca, next)
	a := start(t, program, endpoint, ca)

	const ns, policies = "/api/v1/namespaces/shop", "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies"
	a.must(t, 201, "admintoken", "POST", "/api/v1/namespaces", `{"metadata":{"name":"shop"}}`)
	a.must(t, 201, "admintoken", "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if code, b := a.do(t.Context(), "admintoken", "GET", policies, ""); code == 200 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the resource is not served: %d %s", code, b)
		}
	}

	// A change of policy, under another's name, while the pipeline refuses.
	next.refuse(true)
	a.must(t, 201, "admintoken", "POST", policies+"?fieldManager=SECRET", `{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{"generateName":"orders-"},"spec":{"action":"DENY","x":"SECRET"}}`,
		"Impersonate-User", "alice", "Impersonate-Group", "system:masters")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		next.mu.Lock()
		refusals := next.refusals
		next.mu.Unlock()
		if refusals >= 3 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d refusals", refusals)
		}
	}
	next.refuse(false)
	change := next.find(t, "the change of policy", func(e *evidence.Evidence) bool {
		return e.Event == evidence.EventConfigChange && e.Act.Change.Resource == "authorizationpolicies"
	})
	if c := change.Act.Change; change.User != "alice" || change.Actor.Impersonator != "admin" || c.Group != "security.istio.io" || c.Namespace != "shop" ||
		!strings.HasPrefix(c.Name, "orders-") || c.Verb != "create" || len(c.DiffSHA256) != 64 || c.Revision == "" || change.Act.Outcome != "success" ||
		change.Cluster != "east" || change.Reporter.SPIFFEID.String() != reporter {
		t.Errorf("%+v %+v", change, change.Act)
	}

	// A workload's bound token.
	a.must(t, 201, "admintoken", "POST", ns+"/serviceaccounts", `{"metadata":{"name":"orders"}}`)
	pod := a.must(t, 201, "admintoken", "POST", ns+"/pods", `{"metadata":{"name":"orders-1"},"spec":{"serviceAccountName":"orders","automountServiceAccountToken":false,"containers":[{"name":"c","image":"i","env":[{"name":"A","value":"SECRET"}]}]}}`)
	var object struct{ Metadata struct{ UID string } }
	var request struct{ Status struct{ Token string } }
	if err := json.Unmarshal(pod, &object); err != nil {
		t.Fatal(err)
	}
	b := a.must(t, 201, "admintoken", "POST", ns+"/serviceaccounts/orders/token", `{"spec":{"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"orders-1","uid":"`+object.Metadata.UID+`"}}}`)
	if err := json.Unmarshal(b, &request); err != nil || request.Status.Token == "" {
		t.Fatalf("%v: %s", err, b)
	}
	a.must(t, 403, request.Status.Token, "GET", ns+"/secrets", "")
	denied := next.find(t, "the workload's denial", func(e *evidence.Evidence) bool {
		return e.Event == evidence.EventAuthz && e.User == "system:serviceaccount:shop:orders"
	})
	if w := denied.From.Workload; w.PodName != "orders-1" || w.PodUID != object.Metadata.UID || w.Namespace != "shop" || len(denied.Actor.Token.IDHash) != 64 ||
		denied.From.Identities[0].ID.String() != "spiffe://cluster.local/ns/shop/sa/orders" || denied.Verdict.Engine != k8saudit.EngineRBAC || !denied.Verdict.DefaultDeny {
		t.Errorf("%+v %+v", denied.From, denied.Verdict)
	}
	issued := next.find(t, "the token request", func(e *evidence.Evidence) bool { return e.Act.TargetType == "serviceaccounts/token" })
	if issued.Event != evidence.EventOperatorAction || issued.User != "admin" || issued.Act.TargetID != "shop/orders" {
		t.Errorf("%+v %+v", issued, issued.Act)
	}

	// An operator's exec, which fails for want of a node; a token that is none;
	// what nobody needs a record of.
	a.do(t.Context(), "admintoken", "POST", ns+"/pods/orders-1/exec?command=SECRET&container=c&stdin=true", "")
	run := next.find(t, "the exec", func(e *evidence.Evidence) bool { return e.Act.TargetType == "pods/exec" })
	if run.Event != evidence.EventOperatorAction || run.User != "admin" || run.Act.TargetID != "shop/orders-1" || run.Path != ns+"/pods/orders-1/exec" {
		t.Errorf("%+v %+v", run, run.Act)
	}
	a.must(t, 401, "nonsense", "GET", ns+"/pods", "")
	unknown := next.find(t, "the refused token", func(e *evidence.Evidence) bool { return e.Status == 401 })
	if unknown.Event != evidence.EventAuthn || unknown.Act.Outcome != "failure" || unknown.Verdict.Engine != k8saudit.EngineAuthn {
		t.Errorf("%+v", unknown)
	}
	a.must(t, 201, "admintoken", "POST", ns+"/configmaps", `{"metadata":{"name":"mesh-config"},"data":{"a":"b"}}`)
	next.find(t, "the ConfigMap", func(e *evidence.Evidence) bool {
		return e.Event == evidence.EventConfigChange && e.Act.Change.Name == "mesh-config"
	})
	a.must(t, 403, "devtoken", "GET", ns+"/secrets", "")
	next.find(t, "the developer's denial", func(e *evidence.Evidence) bool { return e.User == "dev" && e.Event == evidence.EventAuthz })

	next.mu.Lock()
	defer next.mu.Unlock()
	if next.raw != 0 {
		t.Errorf("%d events were not decoded", next.raw)
	}
	for i := range next.got {
		lr := plog.NewLogRecord()
		otlp.Encode(&next.got[i], lr)
		if text := fmt.Sprint(lr.Attributes().AsRaw()); strings.Contains(text, "SECRET") || strings.Contains(text, request.Status.Token) {
			t.Errorf("a secret is kept: %s", text)
		}
	}
	a.file(t, next.got)
}

// file reads the log backend's file: every line decodes, and is the evidence
// that the webhook gave.
func (a *api) file(t *testing.T, got []evidence.Evidence) {
	t.Helper()
	f, err := os.Open(a.log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	positions := make(map[string]bool)
	d := k8saudit.New(k8saudit.Options{})
	n := 0
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 4<<20)
	for ; lines.Scan(); n++ {
		all, err := d.Line(nil, new(evidence.Origin), lines.Bytes())
		if err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		positions[all[0].Position] = true
	}
	if n < 50 || lines.Err() != nil {
		t.Fatalf("%d lines, %v", n, lines.Err())
	}
	for i := range got {
		if !positions[got[i].Position] {
			t.Errorf("%s came by the webhook and is not in the file", got[i].Position)
		}
	}
	t.Logf("%d lines in the file, %d events by the webhook", n, len(got))
}
