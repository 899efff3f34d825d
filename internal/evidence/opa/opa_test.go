package opa

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
	"github.com/meshaudit/meshaudit/internal/evidence/jsonscan"
	"github.com/meshaudit/meshaudit/internal/evidence/token"
)

// inputs are the corpus's CheckRequest inputs, each made an event.
func inputs(tb testing.TB) []string {
	tb.Helper()
	f, err := os.Open("testdata/check_requests.jsonl")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	var events []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		events = append(events, fmt.Sprintf(
			`{"decision_id":"d-%d","path":"envoy/authz/allow","timestamp":"2026-11-23T00:10:13.341841857Z","result":true,"input":%s}`,
			len(events), lines.Text()))
	}
	if len(events) < 30 {
		tb.Fatalf("%d inputs in the corpus", len(events))
	}
	return events
}

// all reads an upload: events and their errors.
func all(r io.Reader) (events []string, errs []error) {
	reader := jsonscan.NewReader(r, 1<<20)
	for {
		event, err := reader.Next()
		if err == io.EOF {
			return events, errs
		}
		events, errs = append(events, string(event)), append(errs, err)
	}
}

func TestCorpus(t *testing.T) {
	upload := "[" + strings.Join(inputs(t), ",\n") + "]"
	events, errs := all(strings.NewReader(upload))
	if len(events) != len(inputs(t)) {
		t.Fatalf("%d events of %d", len(events), len(inputs(t)))
	}
	var got strings.Builder
	for i, event := range events {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		e, err := Decode([]byte(event))
		if err != nil {
			t.Fatalf("%s: %v", event, err)
		}
		evidencetest.RoundTrip(t, &e)
		got.WriteString(evidencetest.Render(&e))
	}
	for _, secret := range []string{"cGFzc3dvcmQ", "firstname", "a=1"} {
		if strings.Contains(got.String(), secret) {
			t.Errorf("%q of the input is kept", secret)
		}
	}
	evidencetest.Golden(t, "testdata/check_requests.golden", got.String())
}

func TestSample(t *testing.T) {
	upload, err := os.Open("testdata/decision-log-sample.json")
	if err != nil {
		t.Fatal(err)
	}
	defer upload.Close()
	events, errs := all(upload)
	if len(events) != 1 || errs[0] != nil {
		t.Fatalf("%d events, %v", len(events), errs)
	}
	e, err := Decode([]byte(events[0]))
	if err != nil {
		t.Fatal(err)
	}
	evidencetest.Golden(t, "testdata/decision-log-sample.golden", evidencetest.Render(&e))
}

func bearer(claims string) string {
	b64 := base64.RawURLEncoding.EncodeToString
	return "Bearer " + b64([]byte(`{"alg":"none"}`)) + "." + b64([]byte(claims)) + ".SECRET"
}

func TestDecode(t *testing.T) {
	read := func(t *testing.T, fields string) evidence.Evidence {
		t.Helper()
		e, err := Decode([]byte(`{"decision_id":"d",` + fields + `}`))
		if err != nil {
			t.Fatalf("%s: %v", fields, err)
		}
		evidencetest.RoundTrip(t, &e)
		if got := evidencetest.Render(&e); strings.Contains(got, "SECRET") {
			t.Errorf("%s: a secret is kept:\n%s", fields, got)
		}
		return e
	}
	for fields, want := range map[string]evidence.Verdict{
		`"path":"authz/allow","result":true`:                         {Decision: evidence.Allow, PolicyID: "authz/allow"},
		`"path":"authz/allowed","result":false`:                      {Decision: evidence.Deny, PolicyID: "authz/allowed"},
		`"path":"allow","result":"true"`:                             {Decision: evidence.Allow, PolicyID: "allow"},
		`"result":{"allow":true}`:                                    {Decision: evidence.Allow},
		`"result":{"allowed":false,"http_status":403,"reason":"no"}`: {Decision: evidence.Deny, Reason: "no"},
		`"result":{"allow":true,"allowed":false}`:                    {Decision: evidence.Deny},
		`"result":{"allow":true,"deny":["too late"]}`:                {Decision: evidence.Deny, Reason: "too late"},
		`"result":{"deny":[{"msg":"x"}]}`:                            {Decision: evidence.Deny, Reason: "x"},
		`"result":{"deny":[{"code":1,"message":"m","msg":"x"},"y"]}`: {Decision: evidence.Deny, Reason: "m"},
		`"result":{"deny":[{"code":1}]}`:                             {Decision: evidence.Deny, Reason: "…"},
		`"path":"authz/deny","result":[{}]`:                          {Decision: evidence.Deny, Reason: "…", PolicyID: "authz/deny"},
		// What a Kubernetes API server asks for.
		`"path":"system/main","result":{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"allowed":false,"status":{"code":403,"message":"no"},"uid":"u"}}`: {
			Decision: evidence.Deny, Reason: "no", PolicyID: "system/main"},
		`"path":"system/main","result":{"response":{"uid":"u","allowed":true},"kind":"AdmissionReview"}`: {Decision: evidence.Allow, PolicyID: "system/main"},
		`"result":{"kind":"AdmissionReview","response":{"allowed":true,"allowed":false}}`:                {Decision: evidence.NotEvaluated, Reason: "the result is no verdict"},
		`"result":{"kind":"AdmissionReview","response":{}}`:                                              {Decision: evidence.NotEvaluated, Reason: "the result is no verdict"},
		`"result":{"response":{"allowed":true}}`:                                                         {Decision: evidence.NotEvaluated, Reason: "the result is no verdict"},
		`"result":{"kind":"AdmissionReview","response":{"allowed":true}},"masked":["/result/response"]`:  {Decision: evidence.NotEvaluated, Reason: "the result is no verdict"},
		`"result":{"deny":[]}`:                                      {Decision: evidence.Allow},
		`"result":{"deny":true}`:                                    {Decision: evidence.Deny},
		`"result":{"allow":true,"deny":{"x":true}}`:                 {Decision: evidence.Deny},
		`"result":{"allow":true,"deny":{}}`:                         {Decision: evidence.Allow},
		`"result":{"allow":true,"violations":["v"],"denied":false}`: {Decision: evidence.Deny, Reason: "v"},
		`"result":{"allow":true,"deny":null}`:                       {Decision: evidence.NotEvaluated, Reason: "the result is no verdict"},
		`"result":{"allow":"yes","deny":[]}`:                        {Decision: evidence.NotEvaluated, Reason: "the result is no verdict"},
		`"result":{"allow":false,"deny":null}`:                      {Decision: evidence.Deny},
		`"result":{"deny":true,"deny":false}`:                       {Decision: evidence.NotEvaluated, Reason: "the result is no verdict"},
		`"result":{"allow":true,"allow":true}`:                      {Decision: evidence.NotEvaluated, Reason: "the result is no verdict"},
		// What the path asks for.
		`"path":"authz/deny","result":true`:                          {Decision: evidence.Deny, PolicyID: "authz/deny"},
		`"path":"/authz/denied","result":false`:                      {Decision: evidence.Allow, PolicyID: "authz/denied"},
		`"result":["no"],"path":"authz/deny"`:                        {Decision: evidence.Deny, PolicyID: "authz/deny", Reason: "no"},
		`"path":"authz/violation","result":[]`:                       {Decision: evidence.Allow, PolicyID: "authz/violation"},
		`"path":"authz/violations","result":{"x":{"reason":"y"}}`:    {Decision: evidence.Deny, PolicyID: "authz/violations"},
		`"path":"authz/deny","result":{"allow":true}`:                {Decision: evidence.Deny, PolicyID: "authz/deny"},
		`"path":"authz/deny","result":{}`:                            {Decision: evidence.Allow, PolicyID: "authz/deny"},
		`"path":"authz/deny","labels":{}`:                            {Decision: evidence.NotEvaluated, PolicyID: "authz/deny", Reason: "the result is undefined"},
		`"path":"authz/deny","error":{"code":"opa_undefined_error"}`: {Decision: evidence.NotEvaluated, PolicyID: "authz/deny", Reason: "the result is undefined"},
		`"path":"authz/deny","error":{"code":"e","message":"m"}`:     {Decision: evidence.Error, PolicyID: "authz/deny", Reason: "e: m"},
		`"path":"authz/deny","result":"message"`:                     {Decision: evidence.NotEvaluated, PolicyID: "authz/deny", Reason: "the result is no verdict"},
		`"path":"authz/deny","result":null`:                          {Decision: evidence.NotEvaluated, PolicyID: "authz/deny", Reason: "the result is no verdict"},
		`"path":"authz/deny","erased":["/result"]`:                   {Decision: evidence.NotEvaluated, PolicyID: "authz/deny", Reason: "the result is masked in the decision log"},
		`"path":"authz/deny","result":{},"erased":["/result/x"]`:     {Decision: evidence.NotEvaluated, PolicyID: "authz/deny", Reason: "the result is masked in the decision log"},
		`"path":"authz/is_blocked","result":true`:                    {Decision: evidence.NotEvaluated, PolicyID: "authz/is_blocked", Reason: "the result is no verdict"},
		`"result":true`: {Decision: evidence.NotEvaluated, Reason: "the result is no verdict"},
		`"path":"authz/main","result":true,"input":{"attributes":{"request":{}}}`:         {Decision: evidence.Allow, PolicyID: "authz/main"},
		`"path":"authz/main","result":false,"input":{"attributes":{"request":{}}}`:        {Decision: evidence.Deny, PolicyID: "authz/main"},
		`"path":"authz/allow","result":["SECRET"]`:                                        {Decision: evidence.NotEvaluated, PolicyID: "authz/allow", Reason: "the result is no verdict"},
		`"path":"authz/deny_admin/allow","result":false,"masked":["/input/x"]`:            {Decision: evidence.Deny, PolicyID: "authz/deny_admin/allow"},
		`"query":"data.istio.authz.allow","result":false`:                                 {Decision: evidence.Deny, PolicyID: "data.istio.authz.allow"},
		`"query":"data.authz.deny","result":true`:                                         {Decision: evidence.Deny, PolicyID: "data.authz.deny"},
		`"query":"data.authz.deny","result":[{}]`:                                         {Decision: evidence.NotEvaluated, PolicyID: "data.authz.deny", Reason: "the result is no verdict"}, // bindings
		`"query":"data.authz.deny","labels":{}`:                                           {Decision: evidence.NotEvaluated, PolicyID: "data.authz.deny", Reason: "the result is undefined"},
		`"result":{"roles":["a"]}`:                                                        {Decision: evidence.NotEvaluated, Reason: "the result is no verdict"},
		`"result":42`:                                                                     {Decision: evidence.NotEvaluated, Reason: "the result is no verdict"},
		`"labels":{}`:                                                                     {Decision: evidence.NotEvaluated, Reason: "the result is undefined"},
		`"erased":["/result"]`:                                                            {Decision: evidence.NotEvaluated, Reason: "the result is masked in the decision log"},
		`"result":{"allow":true},"error":{"code":"eval_internal_error","message":"boom"}`: {Decision: evidence.Error, Reason: "eval_internal_error: boom"},
		`"error":{"code":"opa_undefined_error","message":"undefined"},"path":"/mesh/x"`:   {Decision: evidence.NotEvaluated, Reason: "the result is undefined", PolicyID: "mesh/x"},
		`"result":{"allow":true},"masked":["/result/allow"]`:                              {Decision: evidence.NotEvaluated, Reason: "the result is masked in the decision log"},
		`"result":{"deny":[]},"masked":["/result/deny"]`:                                  {Decision: evidence.NotEvaluated, Reason: "the result is masked in the decision log"},
		`"result":{"deny":[]},"erased":["/result/deny/0"]`:                                {Decision: evidence.NotEvaluated, Reason: "the result is masked in the decision log"},
		`"result":{"allow":true},"erased":["/result/violations"]`:                         {Decision: evidence.NotEvaluated, Reason: "the result is masked in the decision log"},
		`"result":{"allow":true},"erased":["/result/reason","/results"]`:                  {Decision: evidence.Allow},
		`"result":{"allow":true},"rule_labels":[{"id":"R1","n":2},7,{"x":{}}]`:            {Decision: evidence.Allow, Reason: "rules id=R1, n=2"},
		`"result":{"allow":true},"nd_builtin_cache":{"http.send":{"[{\"headers\":\"SECRET\"}]":"SECRET"}},"intermediate_results":{"a":"SECRET"},"mapped_result":"SECRET","custom":{"a":"SECRET"},"request_context":{"http":{"headers":{"cookie":["SECRET"]}}}`: {Decision: evidence.Allow},
		`"error":null,"result":{"allow":true}`:                                                 {Decision: evidence.Allow},
		`"result":{"allow":true},"path":"mesh/authz","bundles":{"b":{"revision":"git-1"}}`:     {Decision: evidence.Allow, PolicyID: "mesh/authz", PolicyRevision: "git-1"},
		`"result":{"allow":true},"bundles":{"b":{"revision":"2"},"a":{"revision":"1"},"c":{}}`: {Decision: evidence.Allow, PolicyRevision: "a=1,b=2"},
		`"result":{"allow":true},"revision":"W3s","query":"data.x"`:                            {Decision: evidence.Allow, PolicyRevision: "W3s", PolicyID: "data.x"},
	} {
		want.Engine, want.Enforced, want.DecisionID = Engine, true, "d"
		if got := read(t, fields); got.Verdict == nil || *got.Verdict != want {
			t.Errorf("%s: %+v, want %+v", fields, got.Verdict, want)
		}
	}

	// A query's text is its client's.
	for query, want := range map[string]string{
		`data`:               "sha256:3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7",
		`data.authz.v1.a_ll`: "data.authz.v1.a_ll",
		`data.authz.allow with input as {"user":"a","password":"SECRET"}`: "",
		`input.token as "SECRET"`:              "",
		`data.authz["SECRET"]`:                 "",
		`data.x == "SECRET"`:                   "",
		`data.SECRET.0x`:                       "",
		`data.SECRET.`:                         "",
		`data.` + strings.Repeat("SECRET", 99): "",
	} {
		got := read(t, fmt.Sprintf(`"query":%q,"result":true`, query)).Verdict.PolicyID
		if want == "" {
			want = fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(query)))
		}
		if got != want {
			t.Errorf("%s: policy %q, want %q", query, got, want)
		}
	}

	t.Run("batch", func(t *testing.T) {
		if e := read(t, `"batch_decision_id":"b","result":true`); e.Position != "b/d" || e.DecisionID != "d" {
			t.Errorf("position %q, decision %q", e.Position, e.DecisionID)
		}
	})
	t.Run("two wire shapes", func(t *testing.T) {
		v2 := read(t, `"input":{"version":"v2","attributes":{"request":{"time":"2026-11-23T00:00:00.5Z","http":{"id":13359530607844510314}},
			"source":{"address":{"Address":{"SocketAddress":{"address":"192.0.2.1","PortSpecifier":{"PortValue":4711}}}},"principal":"`+"spiffe://a.b/c"+`"}}}`)
		v3 := read(t, `"input":{"version":{"encoding":"encoding/json","ext_authz":"v3"},"attributes":{"request":{"time":{"seconds":1795392000,"nanos":500000000},"http":{"id":"13359530607844510314"}},
			"source":{"address":{"socketAddress":{"address":"192.0.2.1","portValue":4711}},"principal":"`+"spiffe://a.b/c"+`"}}}`)
		a, b := evidencetest.Render(&v2), evidencetest.Render(&v3)
		if a != b {
			t.Errorf("v2\n%sv3\n%s", a, b)
		}
		if v2.StreamID != "13359530607844510314" || v2.From.Port != 4711 || v2.Start != 1795392000500000000 {
			t.Errorf("%+v", v2)
		}
		if id := v2.From.Identities; len(id) != 1 || id[0].Proof != evidence.ProofClaimed {
			t.Errorf("identities %+v", id)
		}
	})
	t.Run("plain input", func(t *testing.T) {
		e := read(t, `"input":{"method":"GET","path":["salary","bob"],"user":{"name":"alice","password":"SECRET"},"token":"SECRET","source":"SECRET"}`)
		if e.Method != "GET" || e.Path != "/salary/bob" || e.User != "alice" || len(e.From.Identities) != 0 {
			t.Errorf("%+v", e)
		}
	})
	t.Run("headers", func(t *testing.T) {
		e := read(t, `"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7","input":{"attributes":{"request":{"http":{"path":"/a?SECRET","host":"h","headers":{
			"x-request-id":"r1","cookie":"SECRET","x-spiffe-id":"spiffe://evil.example/x","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-1111111111111111-01"}}}}}`)
		if e.RequestID != "r1" || e.SpanID[0] != 0 || e.SpanID[1] != 0xf0 || e.ParentSpanID[0] != 0x11 || e.Path != "/a" {
			t.Errorf("%+v", e)
		}
		if id := e.From.Identities; len(id) != 1 || id[0].Proof != evidence.ProofClaimed {
			t.Errorf("identities %+v", id)
		}
	})
	t.Run("tokens", func(t *testing.T) {
		jwt := fmt.Sprintf(`"input":{"attributes":{"request":{"http":{"headers":{"Authorization":%q}}}}}`, bearer(`{"sub":"alice","email":"SECRET"}`))
		if e := read(t, jwt+`,"result":true`); e.User != "alice" {
			t.Errorf("allowed: user %q", e.User)
		}
		unverified := fmt.Sprintf(`"input":{"attributes":{"request":{"http":{"headers":{"Authorization":%q}}}}},"result":true`,
			bearer(`{"client_id":"job","cnf":{"x5t#S256":"t","jkt":"k"}}`))
		if e := read(t, unverified); e.User != "job" || e.Actor.Type != "service" || e.Actor.Token != (evidence.Token{AuthorizedParty: "job"}) {
			t.Errorf("allowed, a client: user %q, %+v", e.User, e.Actor)
		}
		if e := read(t, jwt+`,"path":"deny"`); e.User != "" {
			t.Errorf("an undefined denial names %q by an unverified token", e.User)
		}
		if e := read(t, jwt+`,"result":false`); e.User != "" {
			t.Errorf("a denied request names %q by an unverified token", e.User)
		}
		verified := `"result":false,"input":{"attributes":{"metadataContext":{"filterMetadata":{"envoy.filters.http.jwt_authn":{"payload":{"iss":"https://idp","sub":"bob","azp":"web","aud":["api","x"],"jti":"SECRET","email":"SECRET","scope":"SECRET","groups":["a"],"act":{"sub":"svc","act":{"sub":"gw"}},"cnf":{"x5t#S256":"t1"}}},"x":{"sub":"no"}}}}}`
		e := read(t, verified)
		if e.User != "bob" || e.Actor.Token.Issuer != "https://idp" || e.Actor.Token.Audience != "api" || e.Actor.Token.Bound != "mtls" ||
			e.Actor.Token.AuthorizedParty != "web" || e.Actor.Token.X5T != "t1" || e.Actor.Token.Proof != "" ||
			len(e.Actor.Delegation) != 2 || e.Actor.Delegation[0].Subject != "svc" || e.Actor.Roles[0] != "a" {
			t.Errorf("verified: user %q, %+v", e.User, e.Actor)
		}
		if e := read(t, strings.Replace(verified, `"x5t#S256":"t1"`, `"jkt":"k1"`, 1)); e.Actor.Token.Bound != "dpop" || e.Actor.Token.JKT != "k1" {
			t.Errorf("%+v", e.Actor.Token)
		}
		if e := read(t, strings.Replace(verified, `{"payload":{`, `{"fields":{"payload":{`, 1)+`}`); e.User != "bob" {
			t.Errorf("deeper: user %q", e.User)
		}
		proof := `"result":false,"input":{"attributes":{"request":{"http":{"method":"GET","path":"/","host":"h","headers":{"dpop":"SECRET","authorization":"DPoP SECRET"}}}}}`
		if e := read(t, proof); e.Actor == nil || e.Actor.Token.Proof != "failed: malformed" {
			t.Errorf("%+v", e.Actor)
		}
		// A proof counts for a token whose claims were verified, not for one that only says what it is bound to.
		b64 := base64.RawURLEncoding.EncodeToString
		public, private, _ := ed25519.GenerateKey(nil)
		jwk := fmt.Sprintf(`{"crv":"Ed25519","kty":"OKP","x":%q}`, b64(public))
		thumbprint := sha256.Sum256([]byte(jwk))
		jwt = bearer(fmt.Sprintf(`{"sub":"alice","cnf":{"jkt":%q}}`, b64(thumbprint[:])))
		ath := sha256.Sum256([]byte(strings.TrimPrefix(jwt, "Bearer ")))
		signed := b64([]byte(`{"typ":"dpop+jwt","alg":"EdDSA","jwk":`+jwk+`}`)) + "." +
			b64(fmt.Appendf(nil, `{"jti":"1","htm":"GET","htu":"https://h/","iat":1795392000,"ath":%q}`, b64(ath[:])))
		signed += "." + b64(ed25519.Sign(private, []byte(signed)))
		for claims, want := range map[string]evidence.Token{
			``: {Proof: token.ProofTokenUnknown},
			fmt.Sprintf(`{"sub":"bob","cnf":{"jkt":%q}}`, b64(thumbprint[:])): {JKT: b64(thumbprint[:]), Bound: "dpop", Proof: token.ProofVerified},
			`{"sub":"bob"}`: {Bound: "none", Proof: "failed: unbound"},
		} {
			verified := ""
			if claims != "" {
				verified = `"metadataContext":{"filterMetadata":{"envoy.filters.http.jwt_authn":{"p":` + claims + `}}},`
			}
			e := read(t, fmt.Sprintf(`"result":true,"path":"allow","timestamp":"2026-11-23T00:00:00Z","input":{"attributes":{%s"request":{"http":{"method":"GET","path":"/","host":"h","headers":{"dpop":%q,"authorization":%q}}}}}`,
				verified, signed, jwt))
			if e.Actor == nil || e.Actor.Token != want {
				t.Errorf("%s: %+v, want %+v", claims, e.Actor, want)
			}
		}
		for _, bad := range []string{"Bearer x", "Bearer a.b.c", "Basic " + bearer("{}")[7:], "Bearer " + strings.Repeat("a", 20000) + ".x.y", "Bearer"} {
			if got, ok := bearerClaims(bad); ok {
				t.Errorf("bearerClaims(%.30q) = %+v", bad, got)
			}
		}
	})
}

func TestDecodeRefuses(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 10000) + "1" + strings.Repeat("}", 10000)
	for event, want := range map[string]error{
		`{"decision_id":"a","decision_id":"b"}`:          errDuplicate,
		`{"decision_id":"a","input":{},"\u0069nput":{}}`: errDuplicate,
		`{}`:                         errNoDecision,
		`{"decision_id":{}}`:         errNoDecision,
		`[]`:                         errNoObject,
		`7`:                          errNoObject,
		``:                           jsonscan.ErrSyntax,
		`{"decision_id":"a"`:         jsonscan.ErrSyntax,
		`{"decision_id":"a",}`:       jsonscan.ErrSyntax,
		`{"decision_id":"a"} x`:      jsonscan.ErrSyntax,
		`{"decision_id":"a\q"}`:      jsonscan.ErrSyntax,
		"{\"decision_id\":\"a\nb\"}": jsonscan.ErrSyntax,
		`{"decision_id":"a","x":01}`: jsonscan.ErrSyntax,
		`{"decision_id":"a","input":` + deep + `}`:        jsonscan.ErrDepth,
		`{"decision_id":"a","x":` + deep + `}`:            jsonscan.ErrDepth,
		`{"decision_id":"a","result":[1,[2,]]}`:           jsonscan.ErrSyntax,
		`{"decision_id":"a","input":{"path":["a","b"}}`:   jsonscan.ErrSyntax,
		`{"decision_id":"a","labels":{"id":"x" "y":"z"}}`: jsonscan.ErrSyntax,
	} {
		if e, err := Decode([]byte(event)); !errors.Is(err, want) {
			t.Errorf("Decode(%.60s) = %+v, %v; want %v", event, e, err, want)
		}
	}
}

// FuzzDecode: what is accepted is valid JSON, valid JSON is refused only for a
// reason, and the record round-trips.
func FuzzDecode(f *testing.F) {
	for _, event := range inputs(f) {
		f.Add([]byte(event))
	}
	f.Add([]byte(`{"decision_id":"d","batch_decision_id":"b","error":{"code":"c","message":"m"},"erased":["/result"],"bundles":{"b":{"revision":"r"}}}`))
	f.Add([]byte(`{"decision_id":"d","input":{"user":{"id":1},"source":{"address":{"a":[[]]}},"request":{"time":{"seconds":1e400}}}}`))
	f.Add([]byte(`{"decision_id":"\ud800\udc00\ud800 \u0000"}`))
	f.Fuzz(func(t *testing.T, event []byte) {
		e, err := Decode(event)
		valid := json.Valid(event)
		switch {
		case err == nil && !valid:
			t.Fatalf("%q was accepted", event)
		case errors.Is(err, jsonscan.ErrSyntax) && valid:
			t.Fatalf("%q is JSON: %v", event, err)
		case err != nil:
			jsonscan.Redact(event, 1<<10, Kept)
			return
		}
		if strings.ContainsAny(e.Path, "?#") {
			t.Fatalf("path %q", e.Path)
		}
		var fields struct {
			ID any `json:"decision_id"`
		}
		if json.Unmarshal(event, &fields) == nil {
			if id, ok := fields.ID.(string); ok && len(id) < evidence.MaxName && id != e.DecisionID && !foldsTwice(event) {
				t.Fatalf("decision id %q, encoding/json reads %q", e.DecisionID, id)
			}
		}
		evidencetest.RoundTrip(t, &e)
	})
}

// foldsTwice tells whether encoding/json might have read another key, which it
// compares without regard to case.
func foldsTwice(event []byte) bool {
	var fields map[string]json.RawMessage
	_ = json.Unmarshal(event, &fields)
	n := 0
	for name := range fields {
		if strings.EqualFold(name, "decision_id") {
			n++
		}
	}
	return n > 1
}

// BenchmarkDecode reads an upload of 1000 events as opa-envoy-plugin makes
// them: splitting and decoding.
func BenchmarkDecode(b *testing.B) {
	sample := inputs(b)[33]
	upload := []byte("[" + strings.Repeat(sample+",", 999) + sample + "]")
	defer evidencetest.Rate(b, len(upload))()
	b.ReportAllocs()
	for b.Loop() {
		r := jsonscan.NewReader(bytes.NewReader(upload), 1<<20)
		for {
			event, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			if _, err := Decode(event); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func TestHostile(t *testing.T) {
	evidencetest.Hostile(t, Line, `{"decision_id":"d","result":true,"timestamp":"2026-11-23T10:00:00Z"}`)
}
