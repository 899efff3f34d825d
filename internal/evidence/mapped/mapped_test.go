package mapped

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
)

func decoderOf(tb testing.TB, cases []Case) evidence.Decoder {
	tb.Helper()
	m, err := New(cases)
	if err != nil {
		tb.Fatal(err)
	}
	return func(dst []evidence.Evidence, from *evidence.Origin, line []byte) ([]evidence.Evidence, error) {
		ld := plog.NewLogs()
		rl := ld.ResourceLogs().AppendEmpty()
		rl.Resource().Attributes().PutStr("service.name", "pdp")
		sl := rl.ScopeLogs().AppendEmpty()
		lr := sl.LogRecords().AppendEmpty()
		lr.Body().SetStr(string(line))
		return m.Decode(dst, from, rl, sl, lr)
	}
}

// pdp is a policy engine that nobody else has.
var pdp = []Case{{
	When: []string{`body["kind"] == "verdict"`, `resource.attributes["service.name"] == "pdp"`},
	Fields: map[string]string{
		"event": `"mesh.authz"`, "role": `"decision"`, "position": `body["id"]`, "start": `body["at"]`, "duration": `body["ns"]`,
		"from.identity": `body["subject"]["ids"]`, "from.address": `body["subject"]["ip"]`, "to.workload.name": `body["object"]`,
		"verdict.engine": `"house"`, "verdict.decision": `body["ok"]`, "verdict.enforced": `body["enforced"]`,
		"path": `body["uri"]`, "host": `body["uri"]`, "user.id": `body["user"]`, "user.roles": `body["groups"]`, "detail": `body["big"]`,
		"trace_id": `body["trace"]`, "tls.client.serial": `body["serial"]`, "tls.client.issuer": `body["issuer"]`, "act.action": `Concat(["read", body["object"]], " ")`,
	},
	IdentityProof: "jwt_svid",
}}

const decision = `{"kind":"verdict","id":"7","at":"2026-11-23T10:00:00.5Z","ns":1000,"ok":false,"enforced":false,"object":"orders","uri":"https://u:p@shop/x?token=t","user":"eve","groups":["a","b"],"big":9007199254740993,"trace":"0af7651916cd43dd8448eb211c80319c","subject":{"ip":"10.0.0.1:5","ids":["spiffe://example.org/a","not one"]},"token":"s3cr3t"}`

func TestMapping(t *testing.T) {
	got, err := decoderOf(t, pdp)(nil, &evidencetest.Origin, []byte(decision))
	if err != nil || len(got) != 1 {
		t.Fatalf("%d, %v", len(got), err)
	}
	e := &got[0]
	evidencetest.RoundTrip(t, e)
	if e.Event != evidence.EventAuthz || e.Role != evidence.RoleDecision || e.Position != "7" || e.End-e.Start != 1000 ||
		e.Path != "/x" || e.Host != "shop" || e.User != "eve" || len(e.Actor.Roles) != 2 || e.StatusDetail != "9007199254740993" ||
		e.Act.Action != "read orders" || e.TraceID == (evidence.TraceID{}) || e.From.Port != 5 || e.To.Workload.Name != "orders" {
		t.Error(evidencetest.Render(e))
	}
	if v := e.Verdict; v.Engine != "house" || v.Decision != evidence.Deny || v.Enforced {
		t.Errorf("%+v", v)
	}
	if id := e.From.Identities; len(id) != 2 || id[0].Proof != evidence.ProofJWTSVID || id[1].Invalid != "not one" {
		t.Errorf("%+v", id)
	}
	if strings.Contains(evidencetest.Render(e), "s3cr3t") {
		t.Error("what no field names is kept")
	}
}

// What the decoders of this repository state, a mapping can state too.
func TestFields(t *testing.T) {
	read := func(fields map[string]string, line string) (*evidence.Evidence, error) {
		got, err := decoderOf(t, []Case{{Fields: fields}})(nil, &evidencetest.Origin, []byte(line))
		if err != nil {
			return nil, err
		}
		evidencetest.RoundTrip(t, &got[0])
		return &got[0], nil
	}
	handshake := map[string]string{
		"event": `"mesh.handshake"`, "role": `"callee"`, "tls.failure_reason": `body["why"]`, "tls.version": `body["v"]`, "tls.cipher": `body["c"]`,
		"tls.client.sha256": `body["fp"]`, "tls.client.not_after": `body["until"]`, "tls.mutual": `body["cert"]`, "tls.client.serial": `body["serial"]`, "tls.client.issuer": `body["issuer"]`, "tls.established": `body["up"]`,
	}
	fp := strings.Repeat("aB:", 31) + "aB"
	e, err := read(handshake, `{"why":"unknown CA","v":"TLSv1.3","c":"TLS_AES_128_GCM_SHA256","fp":"`+fp+`","serial":"0B:8b","issuer":"CN=ca","until":1795395021,"cert":true,"up":true}`)
	want := evidence.TLS{Known: true, Version: "1.3", Cipher: "TLS_AES_128_GCM_SHA256", ClientSHA256: strings.Repeat("ab", 32), ClientSerial: "b8b", ClientIssuer: "CN=ca", ClientNotAfter: 1795395021, Mutual: true, FailureReason: "unknown CA"}
	if err != nil || e.Event != evidence.EventHandshake || e.TLS != want {
		t.Errorf("a handshake that failed: %v, %+v", err, e)
	}
	if e, err := read(handshake, `{"cert":true,"until":"2026-11-23T00:50:21Z","fp":"","serial":""}`); err != nil || e.TLS != (evidence.TLS{Known: true, Established: true, Mutual: true, ClientNotAfter: 1795395021}) {
		t.Errorf("mTLS: %v, %+v", err, e)
	}
	if e, err := read(handshake, `{"up":false}`); err != nil || e.TLS != (evidence.TLS{Known: true}) {
		t.Errorf("plaintext: %v, %+v", err, e)
	}

	actor := map[string]string{"actor.delegation": `body["act"]`, "actor.token.jkt": `body["jkt"]`, "actor.token.bound": `body["bound"]`, "actor.token.jti": `body["jti"]`}
	chain := []evidence.Delegate{{Issuer: "https://i", Subject: "now"}, {Subject: "before"}}
	for _, act := range []string{
		`{"iss":"https://i","sub":"now","act":{"sub":"before","act":"x"}}`,
		`[{"iss":"https://i","sub":"now"},{"sub":"before"},{}]`,
		`[{"iss":"https://i","sub":"now"},"before"]`,
	} {
		e, err := read(actor, `{"act":`+act+`,"jkt":"k","bound":"dpop","jti":"s3cr3t"}`)
		if err != nil || !slices.Equal(e.Actor.Delegation, chain) {
			t.Fatalf("%s: %v, %+v", act, err, e)
		}
		// printf s3cr3t | sha256sum
		if k := e.Actor.Token; k.JKT != "k" || k.Bound != "dpop" || k.IDHash != "4e738ca5563c06cfd0018299933d58db1dd8bf97f6973dc99bf6cdc64b5550bd" {
			t.Errorf("%+v", k)
		}
	}
	bound := map[string]string{"user.id": `body["sub"]`, "actor.token.azp": `body["azp"]`, "actor.token.x5t": `body["x5t"]`, "actor.token.bound": `body["bound"]`,
		"tls.client.sha256": `body["fp"]`}
	const x5t = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s" // of 32 times 0xab
	wantToken := evidence.Token{AuthorizedParty: "web", X5T: x5t, Bound: "mtls", Proof: "verified"}
	if e, err := read(bound, `{"sub":"alice","azp":"web","x5t":"`+x5t+`","bound":"mtls","fp":"`+fp+`"}`); err != nil || e.User != "alice" || e.Actor.Token != wantToken {
		t.Errorf("a token bound to the client's certificate: %v, %+v", err, e)
	}
	if e, err := read(bound, `{"azp":"web","x5t":"t","bound":"mtls","fp":"`+fp+`"}`); err != nil || e.User != "" || e.Actor.Token.Proof != "failed: x5t" {
		t.Errorf("a token bound to another: %v, %+v", err, e)
	}
	if e, err := read(actor, `{"act":"now"}`); err != nil || len(e.Actor.Delegation) != 1 || e.Actor.Delegation[0].Subject != "now" {
		t.Errorf("one subject: %v, %+v", err, e)
	}
	deep := strings.Repeat(`{"sub":"a","act":`, 20) + `{}` + strings.Repeat("}", 20)
	if e, err := read(actor, `{"act":`+deep+`}`); err != nil || len(e.Actor.Delegation) != evidence.MaxDelegates {
		t.Errorf("a long chain: %v, %+v", err, e)
	}

	message := map[string]string{"rpc.system": `"grpc"`, "rpc.service": `body["s"]`, "rpc.method": `body["m"]`, "messaging.system": `"kafka"`, "messaging.destination": `body["topic"]`,
		"from.image.digest": `body["image"]`, "to.workload.revision": `body["rev"]`, "act.change.diff_sha256": `body["diff"]`, "act.not_after": `body["until"]`, "resend_count": `body["n"]`}
	e, err = read(message, `{"s":"shop.Orders","m":"List","topic":"orders?token=s3cr3t","image":"sha256:1","rev":7,"diff":"d","until":5,"n":2}`)
	if err != nil || e.RPCSystem != "grpc" || e.RPCService != "shop.Orders" || e.RPCMethod != "List" || e.MessagingSystem != "kafka" || e.Topic != "orders" ||
		e.From.Workload.ImageDigest != "sha256:1" || e.To.Workload.Revision != "7" || e.Act.Change.DiffSHA256 != "d" || e.Act.NotAfter != 5 || e.ResendCount != 2 {
		t.Errorf("%v, %+v", err, e)
	}

	for _, line := range []string{`{"fp":"abc"}`, `{"fp":"zz"}`, `{"cert":"perhaps"}`, `{"until":"tomorrow"}`, `{"serial":"0x1"}`, `{"serial":11}`, `{"serial":1.5e9}`, `{"serial":123456789012345678901234567890}`, `{"serial":["0b"]}`} {
		if _, err := read(handshake, line); !errors.Is(err, evidence.ErrMalformed) {
			t.Errorf("%s: %v", line, err)
		}
	}
	if _, err := read(actor, `{"bound":"rope"}`); !errors.Is(err, evidence.ErrMalformed) {
		t.Errorf("a binding that is none: %v", err)
	}
}

// README.md has every field.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range setters {
		for _, prefix := range [...]string{"from.", "to."} {
			if side, ok := strings.CutPrefix(name, prefix); ok {
				name = "{from,to}." + side
			}
		}
		if !strings.Contains(string(readme), "`"+name+"`") {
			t.Errorf("README.md has no `%s`", name)
		}
	}
}

func TestRefusals(t *testing.T) {
	d := decoderOf(t, pdp)
	for line, want := range map[string]error{
		`{"kind":"other"}`:                  evidence.ErrNotEvidence,
		`a text`:                            evidence.ErrNotEvidence,
		`{"kind":"verdict"`:                 evidence.ErrMalformed,
		`{"kind":"other","kind":"verdict"}`: evidence.ErrMalformed,
		strings.Replace(decision, `"ok":false`, `"ok":"perhaps"`, 1):        evidence.ErrMalformed,
		strings.Replace(decision, `2026-11-23T10:00:00.5Z`, `yesterday`, 1): evidence.ErrMalformed,
		strings.Repeat(`{"a":`, 10_000) + strings.Repeat("}", 10_000):       evidence.ErrMalformed,
	} {
		if got, err := d(nil, &evidencetest.Origin, []byte(line)); !errors.Is(err, want) || len(got) != 0 {
			t.Errorf("%.60s: %v, want %v", line, err, want)
		}
	}
	evidencetest.Hostile(t, d)
}

// What no expression names is passed over, however much it is.
func TestOnlyWhatIsRead(t *testing.T) {
	var many strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&many, `"%d":1,`, i)
	}
	few := many.String()[:strings.Index(many.String(), `"255":1`)] // 255 members
	const member = `body["of"]["255"]`
	for _, tc := range []struct {
		method, line, want string
		err                error
	}{
		{member, `{` + many.String() + `"of":{"255":"x"}}`, "x", nil},
		{member, `{"other":1,"other":2,"of":{"255":"x"}}`, "x", nil},
		{member, `{"of":{"255":"x"},"of":{"255":"y"}}`, "", evidence.ErrMalformed},
		{member, `{"of":{` + few + `"255":"x"}}`, "x", nil},
		{member, `{"of":{` + few + `"255":"x","256":1}}`, "", evidence.ErrMalformed},
		{member, `{"of":{` + many.String() + `"a":1}}`, "", evidence.ErrMalformed},
		{`ParseKeyValue(body["kv"])["a"]`, `{"kv":"a=x"}`, "x", nil},
		{`Concat([String(body), ""], "")`, `{"a":1,"b":[2]}`, `{"a":1,"b":[2]}`, nil},
		{`log.body["a"]`, `{"a":"x","b":1}`, "x", nil},
		{`body["a\"b"]`, `{"a\"b":"x"}`, "x", nil},
	} {
		got, err := decoderOf(t, []Case{{Fields: map[string]string{"method": tc.method}}})(nil, &evidencetest.Origin, []byte(tc.line))
		switch {
		case !errors.Is(err, tc.err):
			t.Errorf("%s of %.60s: %v", tc.method, tc.line, err)
		case err == nil && got[0].Method != tc.want:
			t.Errorf("%s of %.60s: %q", tc.method, tc.line, got[0].Method)
		}
	}
}

// What a mapping says of every record is looked at before there is one.
func TestConstantsAreChecked(t *testing.T) {
	for _, tc := range []struct{ field, expression, want string }{
		{"role", `"reader"`, "`mapping::0`: `fields::role`: \"reader\" is no role"},
		{"event", ` "mesh.reqest" `, "is no event name"},
		{"verdict.decision", `"maybe"`, "is no decision"},
		{"start", `"yesterday"`, "is no time"},
		{"role", `"callee"`, ""},
		{"verdict.decision", `body["x"]`, ""},
	} {
		_, err := New([]Case{{Fields: map[string]string{tc.field: tc.expression}}})
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %s: %v", tc.field, tc.expression, err)
		}
	}
}

func TestPresetsCompile(t *testing.T) {
	for _, name := range PresetNames {
		cases, err := Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		decoderOf(t, cases)
	}
}

func FuzzMapping(f *testing.F) {
	f.Add([]byte(decision))
	f.Add([]byte(`{"kind":"verdict","ok":true,"serial":"0A:1b","issuer":"CN=ca"}`))
	f.Add([]byte(`{"kind":"verdict","ok":true,"big":123456789012345678901234567890,"subject":[]}`))
	d := decoderOf(f, pdp)
	f.Fuzz(func(t *testing.T, line []byte) { evidencetest.FuzzLine(t, d, line) })
}

func BenchmarkMapping(b *testing.B) {
	d := decoderOf(b, pdp)
	b.SetBytes(int64(len(decision)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d(nil, &evidencetest.Origin, []byte(decision)); err != nil {
			b.Fatal(err)
		}
	}
}
