package mapped

import (
	"errors"
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
		"trace_id": `body["trace"]`, "act.action": `Concat(["read", body["object"]], " ")`,
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
