package k8saudit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
	"github.com/meshaudit/meshaudit/internal/evidence/jsonscan"
)

var decoder = New(Options{TrustDomain: "cluster.local"})

// files are the corpus, one event or list each.
func files(tb testing.TB) []string {
	tb.Helper()
	names, err := filepath.Glob("testdata/*.json")
	if err != nil || len(names) != 25 {
		tb.Fatalf("%d files, %v", len(names), err)
	}
	return names
}

// events splits a file.
func events(tb testing.TB, name string) [][]byte {
	tb.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	r := jsonscan.NewListReader(bytes.NewReader(b), 1<<20, "items")
	var out [][]byte
	for {
		event, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			tb.Fatalf("%s: %v", name, err)
		}
		out = append(out, bytes.Clone(event))
	}
}

// TestCorpus: every event decodes; the golden files hold what becomes of each,
// and how many of a file make which record.
func TestCorpus(t *testing.T) {
	var counts, all strings.Builder
	for _, name := range files(t) {
		n := make(map[string]int)
		list := events(t, name)
		for _, event := range list {
			e, err := decoder.Decode(event)
			if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, event)
			}
			evidencetest.RoundTrip(t, &e)
			what := "none"
			if e.Role != evidence.RoleNone {
				what = e.Event.String()
			}
			n[what]++
			if what != "none" || len(list) == 1 {
				fmt.Fprintf(&all, "%s %s", filepath.Base(name), evidencetest.Render(&e))
			}
		}
		fmt.Fprintf(&counts, "%s: %d events, %v\n", filepath.Base(name), len(list), n)
	}
	evidencetest.Golden(t, "testdata/counts.golden", counts.String())
	evidencetest.Golden(t, "testdata/corpus.golden", all.String())
}

func event(fields string) []byte {
	return []byte(`{"auditID":"a1","stage":"ResponseComplete","requestReceivedTimestamp":"2026-11-24T10:00:00.000001Z","stageTimestamp":"2026-11-24T10:00:00.5Z",` + fields + `}`)
}

func read(t *testing.T, fields string) evidence.Evidence {
	t.Helper()
	e, err := decoder.Decode(event(fields))
	if err != nil {
		t.Fatalf("%s: %v", fields, err)
	}
	evidencetest.RoundTrip(t, &e)
	return e
}

// TestClassify: which events make which record.
func TestClassify(t *testing.T) {
	const none = "none"
	const alice, kubelet = `"user":{"username":"alice"},`, `"user":{"username":"system:node:n1","groups":["system:nodes"]},`
	ref := func(group, resource, sub, namespace, name string) string {
		return fmt.Sprintf(`"objectRef":{"apiGroup":%q,"resource":%q,"subresource":%q,"namespace":%q,"name":%q}`, group, resource, sub, namespace, name)
	}
	for _, tt := range []struct{ fields, want string }{
		{alice + `"verb":"get",` + ref("", "pods", "", "shop", "p"), none},
		{alice + `"verb":"create",` + ref("", "pods", "exec", "shop", "p"), "mesh.operator.action"},
		{alice + `"verb":"get",` + ref("", "pods", "exec", "shop", "p"), "mesh.operator.action"},
		{alice + `"verb":"get",` + ref("", "pods", "attach", "shop", "p"), "mesh.operator.action"},
		{alice + `"verb":"create",` + ref("", "pods", "portforward", "shop", "p"), "mesh.operator.action"},
		{alice + `"verb":"patch",` + ref("", "pods", "ephemeralcontainers", "shop", "p"), "mesh.operator.action"},
		{alice + `"verb":"get",` + ref("", "services", "proxy", "shop", "p"), "mesh.operator.action"},
		{alice + `"verb":"get",` + ref("", "nodes", "proxy", "", "n1"), "mesh.operator.action"},
		{alice + `"verb":"create",` + ref("", "serviceaccounts", "token", "shop", "orders"), "mesh.operator.action"},
		{kubelet + `"verb":"create",` + ref("", "serviceaccounts", "token", "shop", "orders"), "mesh.identity.issue"},
		{alice + `"verb":"update",` + ref("certificates.k8s.io", "certificatesigningrequests", "approval", "", "c"), "mesh.operator.action"},
		{alice + `"verb":"update",` + ref("certificates.k8s.io", "certificatesigningrequests", "status", "", "c"), "mesh.identity.issue"},
		{kubelet + `"verb":"create",` + ref("certificates.k8s.io", "certificatesigningrequests", "", "", "c"), none},
		{alice + `"verb":"create",` + ref("certificates.k8s.io", "certificatesigningrequests", "", "", "c"), "mesh.operator.action"},
		{alice + `"impersonatedUser":{"username":"bob"},"verb":"list",` + ref("", "pods", "", "shop", ""), "mesh.operator.action"},
		{alice + `"verb":"patch",` + ref("apps", "deployments", "", "shop", "orders"), "mesh.operator.action"},
		{alice + `"verb":"patch",` + ref("apps", "deployments", "scale", "shop", "orders"), "mesh.operator.action"},
		{`"user":{"username":"system:serviceaccount:kube-system:deployment-controller"},"verb":"create",` + ref("apps", "replicasets", "", "shop", "orders-1"), none},
		{`"user":{"username":"system:kube-scheduler"},"verb":"create",` + ref("", "pods", "", "shop", "p"), none},
		{`"user":{"username":"system:serviceaccount:kube-system:tiller"},"verb":"create",` + ref("", "pods", "", "shop", "p"), "mesh.operator.action"},
		{`"user":{"username":"system:serviceaccount:shop:replicaset-controller"},"verb":"create",` + ref("", "pods", "", "shop", "p"), "mesh.operator.action"},
		{`"user":{"username":"system:serviceaccount:kube-system:replicaset-controller"},"verb":"create",` + ref("", "pods", "", "shop", "p"), none},
		{kubelet + `"verb":"patch",` + ref("", "pods", "status", "shop", "p"), none},
		// A deletion's options are those of its body, if it has one.
		{alice + `"level":"Request","verb":"delete","requestObject":{"kind":"DeleteOptions","dryRun":["All"]},"responseStatus":{"code":200},` + ref("security.istio.io", "authorizationpolicies", "", "shop", "p"), none},
		{alice + `"level":"Request","verb":"deletecollection","requestObject":{"dryRun":["All"]},` + ref("security.istio.io", "authorizationpolicies", "", "shop", ""), none},
		{alice + `"level":"Request","verb":"delete","requestObject":{"kind":"DeleteOptions","dryRun":[]},` + ref("security.istio.io", "authorizationpolicies", "", "shop", "p"), "mesh.config.change"},
		{alice + `"level":"Request","verb":"delete","requestURI":"/x?dryRun=All","requestObject":{"kind":"DeleteOptions"},` + ref("security.istio.io", "authorizationpolicies", "", "shop", "p"), "mesh.config.change"},
		{alice + `"level":"Metadata","verb":"delete","requestURI":"/x?dryRun=All",` + ref("security.istio.io", "authorizationpolicies", "", "shop", "p"), "mesh.config.change"},
		{alice + `"level":"RequestResponse","verb":"delete","requestURI":"/x?dryRun=All",` + ref("security.istio.io", "authorizationpolicies", "", "shop", "p"), none},
		{alice + `"level":"RequestResponse","verb":"delete","requestURI":"/x?dryRun=All","annotations":{"audit.k8s.io/truncated":"true"},` + ref("security.istio.io", "authorizationpolicies", "", "shop", "p"), "mesh.config.change"},
		{alice + `"level":"Request","verb":"create","requestObject":{"dryRun":["All"]},` + ref("security.istio.io", "authorizationpolicies", "", "shop", "p"), "mesh.config.change"},
		{alice + `"verb":"update",` + ref("workload.linkerd.io", "externalworkloads", "", "shop", "p"), "mesh.config.change"},
		{alice + `"verb":"update",` + ref("workload.linkerd.io", "externalworkloads", "status", "shop", "p"), none},
		// What a proxied service answers.
		{alice + `"verb":"get","responseStatus":{"code":401},"annotations":{"authorization.k8s.io/decision":"allow"},` + ref("", "services", "proxy", "shop", "p"), "mesh.operator.action"},
		{alice + `"verb":"get","responseStatus":{"code":403},"annotations":{"authorization.k8s.io/decision":"allow"},` + ref("", "pods", "proxy", "shop", "p"), "mesh.operator.action"},
		{`"verb":"get","responseStatus":{"code":401},` + ref("", "services", "proxy", "shop", "p"), "mesh.authn"},
		{alice + `"verb":"create",` + ref("security.istio.io", "authorizationpolicies", "", "shop", "p"), "mesh.config.change"},
		{alice + `"requestURI":"/apis/security.istio.io/v1/authorizationpolicies?a=b&dryRun=All","verb":"create",` + ref("security.istio.io", "authorizationpolicies", "", "shop", "p"), none},
		{alice + `"verb":"update",` + ref("security.istio.io", "authorizationpolicies", "status", "shop", "p"), none},
		{alice + `"verb":"get",` + ref("security.istio.io", "authorizationpolicies", "", "shop", "p"), none},
		{alice + `"verb":"create",` + ref("security.istio.io.evil.example", "x", "", "shop", "p"), none},
		{alice + `"verb":"deletecollection",` + ref("gateway.networking.k8s.io", "httproutes", "", "shop", ""), "mesh.config.change"},
		{alice + `"verb":"create",` + ref("policy.linkerd.io", "servers", "", "shop", "p"), "mesh.config.change"},
		{alice + `"verb":"create",` + ref("cilium.io", "ciliumnetworkpolicies", "", "shop", "p"), "mesh.config.change"},
		{alice + `"verb":"create",` + ref("cilium.io", "ciliumendpoints", "", "shop", "p"), none},
		{alice + `"verb":"create",` + ref("kuma.io", "meshtrafficpermissions", "", "shop", "p"), "mesh.config.change"},
		{alice + `"verb":"create",` + ref("spire.spiffe.io", "clusterspiffeids", "", "", "p"), "mesh.config.change"},
		{alice + `"verb":"create",` + ref("rbac.authorization.k8s.io", "clusterroles", "", "", "p"), "mesh.config.change"},
		{alice + `"verb":"delete",` + ref("admissionregistration.k8s.io", "validatingwebhookconfigurations", "", "", "p"), "mesh.config.change"},
		{alice + `"verb":"delete",` + ref("networking.k8s.io", "networkpolicies", "", "shop", "p"), "mesh.config.change"},
		{alice + `"verb":"create",` + ref("", "serviceaccounts", "", "shop", "p"), "mesh.config.change"},
		{alice + `"verb":"patch",` + ref("", "configmaps", "", "istio-system", "istio"), "mesh.config.change"},
		{alice + `"verb":"patch",` + ref("", "configmaps", "", "shop", "istio"), none},
		{alice + `"verb":"patch",` + ref("", "secrets", "", "istio-system", "cacerts"), "mesh.config.change"},
		{alice + `"verb":"get",` + ref("", "secrets", "", "istio-system", "cacerts"), "mesh.operator.action"},
		{alice + `"verb":"get",` + ref("", "secrets", "", "shop", "x"), none},
		{alice + `"verb":"list",` + ref("", "secrets", "", "istio-system", ""), "mesh.operator.action"},
		{alice + `"verb":"watch",` + ref("", "secrets", "", "", ""), "mesh.operator.action"},
		{alice + `"verb":"list",` + ref("", "secrets", "", "istio-system", "cacerts"), "mesh.operator.action"},
		{alice + `"verb":"list",` + ref("", "secrets", "", "istio-system", "x"), none},
		{alice + `"verb":"list",` + ref("", "secrets", "", "shop", ""), none},
		{`"user":{"username":"system:serviceaccount:istio-system:istiod"},"verb":"watch",` + ref("", "secrets", "", "", ""), none},
		{`"user":{"username":"system:apiserver"},"verb":"list",` + ref("", "secrets", "", "", ""), none},
		{alice + `"verb":"deletecollection",` + ref("", "secrets", "", "istio-system", ""), "mesh.config.change"},
		{alice + `"verb":"deletecollection",` + ref("", "configmaps", "", "istio-system", ""), "mesh.config.change"},
		{alice + `"verb":"deletecollection",` + ref("", "configmaps", "", "shop", ""), none},
		{alice + `"verb":"create",` + ref("", "secrets", "", "istio-system", ""), none},
		{`"user":{"username":"system:anonymous"},"verb":"get","responseStatus":{"code":401,"reason":"Unauthorized"},` + ref("", "pods", "", "shop", ""), "mesh.authn"},
		{alice + `"verb":"list","responseStatus":{"code":403,"reason":"Forbidden"},"annotations":{"authorization.k8s.io/decision":"forbid"},` + ref("", "secrets", "", "shop", ""), "mesh.authz"},
		{alice + `"verb":"create","responseStatus":{"code":403},"annotations":{"authorization.k8s.io/decision":"forbid"},` + ref("", "pods", "exec", "shop", "p"), "mesh.operator.action"},
	} {
		e := read(t, tt.fields)
		got := none
		if e.Role == evidence.RoleObserver {
			got = e.Event.String()
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.fields, got, tt.want)
		}
	}
	more := New(Options{ConfigMaps: []string{"shop/*-policy"}, Groups: []string{"*.acme.example"}})
	for _, fields := range []string{
		alice + `"verb":"patch",` + ref("", "configmaps", "", "shop", "opa-policy"), alice + `"verb":"patch",` + ref("x.acme.example", "gates", "", "shop", "p"),
	} {
		if e, err := more.Decode(event(fields)); err != nil || e.Event != evidence.EventConfigChange {
			t.Errorf("%s: %v %v", fields, e.Event, err)
		}
	}
}

func TestActor(t *testing.T) {
	e := read(t, `"verb":"patch","sourceIPs":["6.6.6.6","10.0.0.9"],
		"user":{"username":"system:serviceaccount:ops:deployer","uid":"u","groups":["system:serviceaccounts"],"extra":{
			"authentication.kubernetes.io/pod-name":["deployer-1"],"authentication.kubernetes.io/pod-uid":["pu"],
			"authentication.kubernetes.io/node-name":["n1"],"authentication.kubernetes.io/credential-id":["JTI=j1"],"x":["SECRET"]}},
		"impersonatedUser":{"username":"alice","groups":["admins"]},
		"objectRef":{"apiGroup":"security.istio.io","resource":"authorizationpolicies","namespace":"shop","name":"orders"},
		"responseStatus":{"code":200},"annotations":{"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":"RBAC: allowed by RoleBinding \"ops/shop\" of Role \"editor\" to User \"alice\""}`)
	if e.User != "alice" || e.Actor.Impersonator != "system:serviceaccount:ops:deployer" || e.Actor.Type != "user" || e.Actor.Roles[0] != "admins" {
		t.Errorf("%q %+v", e.User, e.Actor)
	}
	if w := e.From.Workload; w.PodName != "deployer-1" || w.PodUID != "pu" || w.Node != "n1" || w.Namespace != "ops" {
		t.Errorf("%+v", w)
	}
	if id := e.From.Identities; len(id) != 1 || id[0].ID.String() != "spiffe://cluster.local/ns/ops/sa/deployer" || id[0].Proof != evidence.ProofClaimed {
		t.Errorf("%+v", id)
	}
	if e.From.Address != "6.6.6.6" || e.PeerAddress != "10.0.0.9" || e.StreamID != "a1" || e.Position != "a1/ResponseComplete" || e.End-e.Start != 499999000 {
		t.Errorf("%+v", e)
	}
	if v := *e.Verdict; v != (evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Allow, Enforced: true, PolicyID: "RoleBinding/ops", PolicyNamespace: "shop", Reason: v.Reason}) {
		t.Errorf("%+v", v)
	}
	if len(e.Actor.Token.IDHash) != 64 || strings.Contains(e.Actor.Token.IDHash, "j1") {
		t.Errorf("%+v", e.Actor.Token)
	}
	// A token is known by its id from when it was given out.
	for _, annotation := range []string{"authentication.kubernetes.io/issued-credential-id", "authentication.k8s.io/issued-credential-id"} {
		issued := read(t, `"verb":"create","user":{"username":"alice"},"objectRef":{"resource":"serviceaccounts","subresource":"token","namespace":"ops","name":"deployer"},"annotations":{"`+annotation+`":"JTI=j1"}`)
		if issued.Act.Change.DiffSHA256 != e.Actor.Token.IDHash || issued.Act.TargetID != "ops/deployer" || issued.Actor.Token.IDHash != "" {
			t.Errorf("%+v", issued.Act)
		}
	}
	if other := read(t, `"verb":"create","objectRef":{"resource":"pods"},"annotations":{"authentication.kubernetes.io/issued-credential-id":"JTI=j1"}`); other.Act.Change.DiffSHA256 != "" {
		t.Errorf("%+v", other.Act)
	}
	cert := read(t, `"verb":"get","user":{"username":"system:admin","extra":{"authentication.kubernetes.io/credential-id":["X509SHA256=`+strings.Repeat("ab", 32)+`"]}}`)
	if cert.TLS.ClientSHA256 != strings.Repeat("ab", 32) || !cert.TLS.Mutual || cert.Actor.Type != "system" {
		t.Errorf("%+v", cert.TLS)
	}
}

func TestVerdict(t *testing.T) {
	for fields, want := range map[string]evidence.Verdict{
		`"responseStatus":{"code":401,"reason":"Unauthorized"}`:                                                                                                            {Engine: EngineAuthn, Decision: evidence.Deny, Reason: "Unauthorized"},
		`"responseStatus":{"code":403},"annotations":{"authorization.k8s.io/decision":"forbid","authorization.k8s.io/reason":""}`:                                          {Engine: EngineRBAC, Decision: evidence.Deny, DefaultDeny: true},
		`"responseStatus":{"code":403},"annotations":{"authorization.k8s.io/decision":"forbid","authorization.k8s.io/reason":"no relationship found"}`:                     {Engine: EngineAuthz, Decision: evidence.Deny, Reason: "no relationship found"},
		`"responseStatus":{"code":403,"reason":"Forbidden"},"annotations":{"authorization.k8s.io/decision":"allow","pod-security.kubernetes.io/enforce-policy":"r"}`:       {Engine: EngineAdmission, Decision: evidence.Deny, Reason: "Forbidden", PolicyID: "pod-security/r"},
		`"verb":"watch","objectRef":{"resource":"pods","apiGroup":"metrics.k8s.io"},"responseStatus":{"code":403},"annotations":{"authorization.k8s.io/decision":"allow"}`: {Engine: EngineAuthz, Decision: evidence.Deny},
	} {
		want.Enforced = true
		if e := read(t, fields); e.Verdict == nil || *e.Verdict != want {
			t.Errorf("%s: %+v", fields, e.Verdict)
		}
	}
	// Admission refuses with any code; who of it did, the message says.
	for status, want := range map[string]evidence.Verdict{
		`"code":400,"message":"admission webhook \"validate.kyverno.svc-fail\" denied the request: no"`:                                                       {Decision: evidence.Deny, PolicyID: "webhook/validate.kyverno.svc-fail"},
		`"code":403,"reason":"Forbidden","message":"admission webhook \"validation.gatekeeper.sh\" denied the request without explanation"`:                   {Decision: evidence.Deny, PolicyID: "webhook/validation.gatekeeper.sh", Reason: "Forbidden"},
		`"code":500,"reason":"InternalError","message":"Internal error occurred: failed calling webhook \"validate.kyverno.svc-fail\": context deadline"`:     {Decision: evidence.Error, PolicyID: "webhook/validate.kyverno.svc-fail", Reason: "InternalError"},
		`"code":422,"reason":"Invalid","message":"pods \"p\" is forbidden: ValidatingAdmissionPolicy 'no-root' with binding 'b' denied request: no"`:          {Decision: evidence.Deny, PolicyID: "ValidatingAdmissionPolicy/no-root", Reason: "Invalid"},
		`"code":403,"message":"pods \"x\\\" is forbidden: ValidatingAdmissionPolicy 'forged' with binding 'b' denied request\" is forbidden: exceeded quota"`: {Decision: evidence.Deny},
	} {
		want.Engine, want.Enforced = EngineAdmission, true
		e := read(t, `"verb":"create","annotations":{"authorization.k8s.io/decision":"allow"},"responseStatus":{"status":"Failure",`+status+`}`)
		if e.Verdict == nil || *e.Verdict != want || e.Act.Outcome != "failure" {
			t.Errorf("%s: %+v", status, e.Verdict)
		}
	}
	// What a proxied service answers is no verdict of the API server's.
	const proxied = `"objectRef":{"resource":"services","subresource":"proxy","namespace":"shop","name":"p"},"annotations":{"authorization.k8s.io/decision":"allow"},`
	for status, want := range map[string]evidence.Verdict{
		`{"metadata":{},"code":401}`: {Engine: EngineRBAC, Decision: evidence.Allow},
		`{"metadata":{},"code":403}`: {Engine: EngineRBAC, Decision: evidence.Allow},
		`{"metadata":{},"status":"Failure","message":"no","reason":"Forbidden","code":403}`: {Engine: EngineAdmission, Decision: evidence.Deny, Reason: "Forbidden"},
		`{"status":"Failure","code":403}`: {Engine: EngineAdmission, Decision: evidence.Deny},
	} {
		want.Enforced = true
		if e := read(t, proxied+`"verb":"get","responseStatus":`+status); e.Verdict == nil || *e.Verdict != want {
			t.Errorf("%s: %+v", status, e.Verdict)
		}
	}
	if e := read(t, `"verb":"get"`); e.Verdict != nil {
		t.Errorf("%+v", e.Verdict)
	}
}

func TestStages(t *testing.T) {
	for stage, final := range map[string]bool{"RequestReceived": false, "ResponseStarted": true, "ResponseComplete": true, "Panic": true} {
		e, err := decoder.Decode([]byte(`{"auditID":"a","stage":"` + stage + `"}`))
		if err != nil || e.Final != final || e.StreamID != "a" || e.Failed != (stage == "Panic") {
			t.Errorf("%s: %+v %v", stage, e, err)
		}
	}
}

// TestDigest: what only the server or a tool adds changes nothing, content does.
func TestDigest(t *testing.T) {
	const ref = `"verb":"update","user":{"username":"alice"},"objectRef":{"apiGroup":"security.istio.io","resource":"authorizationpolicies","namespace":"shop"}`
	digest := func(request, response string) evidence.Change {
		t.Helper()
		fields := ref
		if request != "" {
			fields += `,"requestObject":` + request
		}
		if response != "" {
			fields += `,"responseObject":` + response
		}
		return read(t, fields).Act.Change
	}
	plain := digest("", `{"metadata":{"name":"p"},"spec":{"action":"DENY","b":12345678901234567890}}`)
	// printf '%s' '{"response":{"metadata":{"name":"p"},"spec":{"action":"DENY","b":12345678901234567890}}}' | sha256sum
	if want := "b5811f03264868429a8cc9f18c66cd066c62adba27050d7a382e5b550844d1b4"; plain.DiffSHA256 != want || plain.Name != "p" {
		t.Errorf("%+v, want %s", plain, want)
	}
	noisy := digest("", `{"spec":{"b":12345678901234567890,"action":"DENY"},"status":{"x":1},"metadata":{"uid":"u","resourceVersion":"7","generation":3,"creationTimestamp":"t","managedFields":[{}],"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}"},"name":"p"}}`)
	if noisy.DiffSHA256 != plain.DiffSHA256 || noisy.Revision != "7" {
		t.Errorf("%+v", noisy)
	}
	for _, other := range []evidence.Change{
		digest("", `{"metadata":{"name":"p"},"spec":{"action":"DENY","b":12345678901234567891}}`),
		digest(`[{"op":"remove","path":"/spec"}]`, `{"metadata":{"name":"p"},"spec":{"action":"DENY","b":12345678901234567890}}`),
	} {
		if other.DiffSHA256 == plain.DiffSHA256 || other.DiffSHA256 == "" {
			t.Errorf("%+v", other)
		}
	}
	if none := digest("", ""); none.DiffSHA256 != "" {
		t.Errorf("%+v", none)
	}
	// A digest of a secret's data could be guessed.
	secret := func(object string) string {
		return read(t, `"verb":"update","objectRef":{"resource":"secrets","namespace":"istio-system","name":"cacerts"},"requestObject":`+object).Act.Change.DiffSHA256
	}
	if a, b := secret(`{"type":"Opaque","data":{"k":"YQ=="},"stringData":{"k":"a"}}`), secret(`{"type":"Opaque","data":{"k":"Yg=="}}`); a != b || a == "" {
		t.Errorf("%s and %s tell secrets apart", a, b)
	}
	if a, b := secret(`[{"op":"add","path":"/data/k","value":"YQ=="}]`), secret(`{"items":[{"data":{"k":"YQ=="}}]}`); a != "" || b != secret(`{"items":[]}`) {
		t.Errorf("%q %q", a, b)
	}
}

// TestSecrets: what is planted wherever clients write what they want is not kept.
func TestSecrets(t *testing.T) {
	const s = `"Bearer eyJhbGciOiJub25lIn0.SECRET.SECRET"`
	object := `{"kind":"Secret","metadata":{"name":"cacerts","annotations":{"a":` + s + `,"kubectl.kubernetes.io/last-applied-configuration":` + s + `}},"data":{"k":` + s + `},"stringData":{"k":` + s + `}}`
	for ref, uri := range map[string]string{
		`{"resource":"secrets","namespace":"istio-system","name":"cacerts"}`:                                "/api/v1/namespaces/istio-system/secrets",
		`{"apiGroup":"security.istio.io","resource":"authorizationpolicies","namespace":"shop","name":"p"}`: "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies",
		`{"resource":"pods","subresource":"exec","namespace":"shop","name":"p"}`:                            "/api/v1/namespaces/shop/pods/p/exec",
		`{"resource":"services","subresource":"proxy","namespace":"shop","name":"p"}`:                       "/api/v1/namespaces/shop/services/p/proxy/SECRET",
	} {
		e := read(t, `"verb":"create","level":"RequestResponse","userAgent":`+s+`,"requestURI":"`+uri+`?command=SECRET&token=SECRET#SECRET",
			"user":{"username":"alice","uid":`+s+`,"extra":{"scopes":[`+s+`],"authentication.kubernetes.io/credential-id":["JTI=SECRET"]}},
			"objectRef":`+ref+`,"responseStatus":{"code":500,"message":`+s+`,"reason":`+s+`,"details":{"name":`+s+`}},
			"annotations":{"x.example/token":`+s+`,"mutation.webhook.admission.k8s.io/round_0":`+s+`,"pod-security.kubernetes.io/audit-violations":`+s+`},
			"requestObject":`+object+`,"responseObject":`+object+`,"unknown":{"a":[`+s+`]}`)
		if got := evidencetest.Render(&e); strings.Contains(got, "SECRET") || strings.Contains(got, "eyJ") {
			t.Errorf("%s: a secret is kept:\n%s", ref, got)
		}
	}
}

func TestRefused(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 10000) + "1" + strings.Repeat("}", 10000)
	for in, want := range map[string]error{
		`{}`: ErrNoEvent, `[]`: ErrNoEvent, `7`: ErrNoEvent, `{"auditID":{}}`: ErrNoEvent,
		`{"auditID":"a","kind":"Pod","apiVersion":"v1"}`:                 ErrNoEvent,
		`{"auditID":"a","kind":"Event","apiVersion":"events.k8s.io/v1"}`: ErrNoEvent,
		`{"auditID":"a","auditID":"b"}`:                                  ErrDuplicate,
		`{"auditID":"a","user":{},"\u0075ser":{}}`:                       ErrDuplicate,
		`{"auditID":"a","requestObject":` + deep + `}`:                   jsonscan.ErrDepth,
		`{"auditID":"a"`: jsonscan.ErrSyntax, ``: jsonscan.ErrSyntax, `{"auditID":"a"} x`: jsonscan.ErrSyntax,
		"{\"auditID\":\"\x01\"}": jsonscan.ErrSyntax,
	} {
		if e, err := decoder.Decode([]byte(in)); !errors.Is(err, want) {
			t.Errorf("%.60s: %+v, %v; want %v", in, e, err, want)
		}
	}
	if e, err := decoder.Decode([]byte("{\"auditID\":\"a\xff\",\"responseStatus\":{\"code\":99999999999999999999}}")); err != nil || e.StreamID != "a\ufffd" || e.Status != 0 {
		t.Errorf("%+v, %v", e, err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, name := range files(f) {
		for _, event := range events(f, name)[:1] {
			f.Add(event)
		}
	}
	f.Add(event(`"user":{"username":"system:serviceaccount:a:b","groups":[1,"x"],"extra":{"authentication.kubernetes.io/pod-name":[[],"x"]}},"verb":"create","objectRef":{"apiGroup":"kuma.io","resource":"m"},"requestObject":[1e999,"\ud800"],"responseObject":{"metadata":7}`))
	f.Fuzz(func(t *testing.T, event []byte) {
		e, err := decoder.Decode(event)
		if valid := json.Valid(event); err == nil && !valid || errors.Is(err, jsonscan.ErrSyntax) && valid {
			t.Fatalf("%q: %v, encoding/json says %v", event, err, valid)
		}
		if err != nil {
			return
		}
		if strings.ContainsAny(e.Path, "?#") {
			t.Fatalf("path %q", e.Path)
		}
		evidencetest.RoundTrip(t, &e)
	})
}

// BenchmarkDecode reads what a kube-apiserver posted: splitting and decoding.
func BenchmarkDecode(b *testing.B) {
	upload, err := os.ReadFile("testdata/apiserver-1.37.json")
	if err != nil {
		b.Fatal(err)
	}
	defer evidencetest.Rate(b, len(upload))()
	b.ReportAllocs()
	for b.Loop() {
		r := jsonscan.NewListReader(bytes.NewReader(upload), 1<<20, "items")
		for {
			event, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			if _, err := decoder.Decode(event); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func TestHostile(t *testing.T) {
	evidencetest.Hostile(t, decoder.Line, `{"auditID":"a","stage":"ResponseComplete","verb":"get","user":{"username":"u"},"requestReceivedTimestamp":"2026-11-23T10:00:00Z"}`)
}

// Azure's diagnostic logs have the event within an envelope.
func TestEnvelope(t *testing.T) {
	const event = `{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"a-1","stage":"ResponseComplete","verb":"get","user":{"username":"u"},"requestReceivedTimestamp":"2026-11-23T10:00:00Z"}`
	text, err := json.Marshal(event)
	if err != nil {
		t.Fatal(err)
	}
	want := evidencetest.One(t, decoder.Line, event)
	for _, log := range []string{event, string(text)} {
		got := evidencetest.One(t, decoder.Line, `{"category":"kube-audit","properties":{"pod":"p","log":`+log+`},"time":"2026-11-23T10:00:01Z"}`)
		if evidencetest.Render(&got) != evidencetest.Render(&want) {
			t.Errorf("%s", evidencetest.Render(&got))
		}
	}
	// Several come in one message: a webhook's list, and what an Event Hub makes of Azure's.
	second := strings.Replace(event, "a-1", "a-2", 1)
	for _, line := range []string{
		`{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[` + event + `,{"kind":"Status"},` + second + `]}`,
		`{"records":[{"properties":{"log":` + string(text) + `}},{"category":"guard","properties":{"log":"no event"}},{"properties":{"log":` + second + `}}]}`,
	} {
		got, err := decoder.Line(nil, &evidencetest.Origin, []byte(line))
		if err != nil || len(got) != 2 || got[0].StreamID != "a-1" || got[1].StreamID != "a-2" {
			t.Errorf("%s: %d, %v", line, len(got), err)
		}
	}
	many := `{"items":[` + strings.Repeat(event+",", maxEnclosed) + event + `]}`
	for _, line := range []string{many, `{"items":[` + event + `,{"auditID":"a","auditID":"b"}]}`, `{"items":[{}]}`, `{"records":{}}`, `{"properties":{"log":"no event"}}`, `{"properties":{"log":{}}}`, `{"properties":{}}`, `{"properties":1}`} {
		if got, err := decoder.Line(nil, &evidencetest.Origin, []byte(line)); err == nil || len(got) != 0 {
			t.Errorf("%.200s: %d", line, len(got))
		}
	}
}

// OpenShift's login server writes audit events of its own: who tried stands in an
// annotation, and how it ended may not show in the code.
func TestOpenShiftLogin(t *testing.T) {
	for decision, want := range map[string]string{"allow": "success", "deny": "failure", "error": "failure"} {
		e := evidencetest.One(t, decoder.Line, `{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"l-1","stage":"ResponseComplete","requestURI":"/login/corp","verb":"post",
			"user":{"username":"system:anonymous","groups":["system:unauthenticated"]},"responseStatus":{"metadata":{},"code":302},"requestReceivedTimestamp":"2026-11-23T10:00:00Z",
			"annotations":{"authentication.openshift.io/decision":"`+decision+`","authentication.openshift.io/username":"jane","authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":""}}`)
		if e.Event != evidence.EventAuthn || e.Role != evidence.RoleObserver || e.User != "jane" || e.Actor.Type != "user" || len(e.Actor.Roles) != 0 ||
			e.Act.Outcome != want || *e.Verdict != (evidence.Verdict{Engine: EngineOpenShift, Decision: evidence.Decision(decision), Enforced: true}) {
			t.Errorf("%s", evidencetest.Render(&e))
		}
	}
}
