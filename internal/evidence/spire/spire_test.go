package spire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
	"github.com/meshaudit/meshaudit/internal/evidence/jsonscan"
)

var files = []string{"audit_entries.jsonl", "server-1.13.jsonl", "agent-1.13.log"}

func lines(tb testing.TB, name string) [][]byte {
	tb.Helper()
	return evidencetest.Lines(tb, "testdata/"+name)
}

// text writes a JSON line as logrus's text formatter does.
func text(tb testing.TB, line []byte) []byte {
	tb.Helper()
	if line[0] != '{' {
		return line
	}
	var fields map[string]any
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	if err := d.Decode(&fields); err != nil {
		tb.Fatal(err)
	}
	var names []string
	for n := range fields {
		names = append(names, n)
	}
	slices.Sort(names)
	var b bytes.Buffer
	for _, n := range names {
		v := fmt.Sprint(fields[n])
		if v == "" || strings.Trim(v, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/@^+") != "" {
			v = strconv.Quote(v)
		}
		fmt.Fprintf(&b, " %s=%s", n, v)
	}
	return b.Bytes()[1:]
}

// TestCorpus: every line decodes, in JSON and in text alike; the golden files
// hold what becomes of each, and how many of a file make which record.
func TestCorpus(t *testing.T) {
	var counts, all strings.Builder
	for _, name := range files {
		n := make(map[string]int)
		list := lines(t, name)
		for i, line := range list {
			e, err := Decode(line)
			if err != nil {
				t.Fatalf("%s:%d: %v", name, i+1, err)
			}
			evidencetest.RoundTrip(t, &e)
			other, err := Decode(text(t, line))
			if err != nil || evidencetest.Render(&other) != evidencetest.Render(&e) {
				t.Fatalf("%s:%d: as text %v\n%s\nas JSON\n%s", name, i+1, err, evidencetest.Render(&other), evidencetest.Render(&e))
			}
			what := "none"
			if e.Role != evidence.RoleNone {
				what = e.Event.String()
				fmt.Fprintf(&all, "%s:%d %s", name, i+1, evidencetest.Render(&e))
			}
			n[what]++
		}
		fmt.Fprintf(&counts, "%s: %d lines, %v\n", name, len(list), n)
	}
	evidencetest.Golden(t, "testdata/counts.golden", counts.String())
	evidencetest.Golden(t, "testdata/corpus.golden", all.String())
}

func read(t *testing.T, service, method, fields string) evidence.Evidence {
	t.Helper()
	e, err := Decode([]byte(`{"type":"audit","msg":"API accessed","time":"2026-11-24T10:00:00Z","service":"` + service + `","method":"` + method + `"` + fields + `}`))
	if err != nil {
		t.Fatal(err)
	}
	evidencetest.RoundTrip(t, &e)
	return e
}

func TestClassify(t *testing.T) {
	const ok, failed, denied = `,"status":"success"`, `,"status":"error","status_code":"Internal"`, `,"status":"error","status_code":7`
	for _, tt := range []struct{ service, method, fields, want string }{
		{"svid.v1.SVID", "BatchNewX509SVID", ok, "mesh.identity.issue"},
		{"svid.v1.SVID", "MintJWTSVID", failed, "mesh.identity.issue"},
		{"agent.v1.Agent", "AttestAgent", ok, "mesh.identity.issue"},
		{"agent.v1.Agent", "AttestAgent", failed, "mesh.authn"},
		{"agent.v1.Agent", "CreateJoinToken", ok, "mesh.operator.action"},
		{"agent.v1.Agent", "BanAgent", ok, "mesh.config.change"},
		{"agent.v1.Agent", "ListAgents", ok, "none"},
		{"agent.v1.Agent", "ListAgents", denied, "mesh.authn"},
		{"entry.v1.Entry", "BatchCreateEntry", ok, "mesh.config.change"},
		{"entry.v1.Entry", "BatchDeleteEntry", denied, "mesh.authn"},
		{"entry.v1.Entry", "SyncAuthorizedEntries", ok, "none"},
		{"bundle.v1.Bundle", "GetBundle", ok, "none"},
		{"bundle.v1.Bundle", "BatchSetFederatedBundle", ok, "mesh.config.change"},
		{"trustdomain.v1.TrustDomain", "BatchCreateFederationRelationship", ok, "mesh.config.change"},
		{"localauthority.v1.LocalAuthority", "RevokeX509Authority", ok, "mesh.config.change"},
		{"localauthority.v1.LocalAuthority", "GetX509AuthorityState", ok, "none"},
		{"logger.v1.Logger", "SetLogLevel", ok, "mesh.operator.action"},
		{"some.v1.Thing", "New", ok, "none"},
	} {
		e := read(t, tt.service, tt.method, tt.fields)
		got := "none"
		if e.Role == evidence.RoleObserver {
			got = e.Event.String()
		}
		if got != tt.want {
			t.Errorf("%s/%s%s: %s, want %s", tt.service, tt.method, tt.fields, got, tt.want)
		}
	}
}

// An outage refuses nobody.
func TestDecision(t *testing.T) {
	for _, tt := range []struct {
		method, code string
		want         evidence.Decision
	}{
		{"AttestAgent", "7", evidence.Deny},
		{"AttestAgent", `"InvalidArgument"`, evidence.Deny}, // join token expired
		{"RenewAgent", "16", evidence.Deny},
		{"ListAgents", "7", evidence.Deny},
		{"AttestAgent", "13", evidence.Error},
		{"AttestAgent", `"Unknown"`, evidence.Error}, // rate limit
		{"RenewAgent", `"Unavailable"`, evidence.Error},
		{"RenewAgent", `""`, evidence.Error},
	} {
		e := read(t, "agent.v1.Agent", tt.method, `,"status":"error","status_code":`+tt.code)
		if v := e.Verdict; e.Event != evidence.EventAuthn || v == nil || v.Decision != tt.want {
			t.Errorf("%s %s: %+v, want %s", tt.method, tt.code, v, tt.want)
		}
	}
}

func TestFields(t *testing.T) {
	e := read(t, "svid.v1.SVID", "BatchNewX509SVID", `,"status":"success","caller_id":"spiffe://example.org/spire/agent/a","caller_addr":"10.0.0.1:4711","authorized_as":"agent",
		"spiffe_id":"spiffe://example.org/w","entry_id":"e1","request_id":"r","expires_at":1795395021,"csr":"SECRET"`)
	if id := e.From.Identities[0]; id.ID.String() != "spiffe://example.org/spire/agent/a" || id.Proof != evidence.ProofMTLSSAN || e.From.Port != 4711 {
		t.Errorf("%+v", e.From)
	}
	if e.Act.TargetID != "spiffe://example.org/w" || e.Act.NotAfter != 1795395021 || e.Position != "r/e1" || e.Actor.Roles[0] != "authorized_as:agent" {
		t.Errorf("%+v %q", e.Act, e.Position)
	}
	if e := read(t, "svid.v1.SVID", "MintX509SVID", `,"status":"success","expires_at":"2026-11-23T00:50:21Z"`); e.Act.NotAfter != 1795395021 {
		t.Errorf("%+v", e.Act)
	}
	create := func(fields string) evidence.Evidence {
		return read(t, "entry.v1.Entry", "BatchCreateEntry", `,"status":"success","caller_uid":0,"caller_gid":0,"caller_path":"/opt/spire-server","entry_id":"e1","spiffe_id":"spiffe://example.org/w","selectors":"unix:uid:1"`+fields)
	}
	e = create(`,"expires_at":0`)
	if c := e.Act.Change; c.Resource != "entry" || c.Verb != "create" || c.Name != "e1" || len(c.DiffSHA256) != 64 || e.Act.NotAfter != 0 || e.User != "unix:uid:0" || e.Actor.Roles[1] != "unix:path:/opt/spire-server" {
		t.Errorf("%+v %+v", c, e.Actor)
	}
	// printf 'entry_id=e1\nselectors=unix:uid:1\nspiffe_id=spiffe://example.org/w\n' | sha256sum
	if got := create("").Act.Change.DiffSHA256; got != "c7ad11fc133865e340fbcb0fbaed97daa8f3549091bd88d64983f01b4e80eb08" {
		t.Errorf("digest %s", got)
	}
	if create(`,"request_id":"other"`).Act.Change.DiffSHA256 != create("").Act.Change.DiffSHA256 || create(`,"admin":true`).Act.Change.DiffSHA256 == create("").Act.Change.DiffSHA256 {
		t.Error("the digest is not of the content")
	}
}

func TestAgent(t *testing.T) {
	for line, want := range map[string]string{
		`time="2026-11-24T10:00:00Z" level=debug msg="Fetched X.509 SVID" count=1 method=FetchX509SVID pid=42 registered=true service=WorkloadAPI spiffe_id="spiffe://example.org/w" subsystem_name=endpoints ttl=3599.1`: "mesh.identity.issue",
		`time="2026-11-24T10:00:00Z" level=error msg="No identity issued" method=FetchX509SVID pid=42 registered=false service=WorkloadAPI subsystem_name=endpoints`:                                                      "mesh.authn",
		`{"level":"info","msg":"Node attestation was successful","spiffe_id":"spiffe://example.org/spire/agent/a","subsystem_name":"attestor"}`:                                                                           "mesh.identity.issue",
	} {
		e, err := Decode([]byte(line))
		if err != nil || e.Event.String() != want || e.Role != evidence.RoleObserver || (want == "mesh.authn") != (e.Verdict != nil) {
			t.Errorf("%s: %+v, %v", line, e, err)
		}
	}
}

// What an agent refuses, and what it could not find out.
func TestAgentRefuses(t *testing.T) {
	for line, want := range map[string]evidence.Verdict{
		`level=warning msg="Failed to validate JWT" audience=aud error="token has expired" method=ValidateJWTSVID pid=42 service=WorkloadAPI subsystem_name=endpoints`: {
			Decision: evidence.Deny, Reason: "JWT-SVID not valid"},
		`level=error msg="Workload attestation failed" error="rpc error" method=FetchX509SVID pid=42 service=WorkloadAPI subsystem_name=endpoints`: {
			Decision: evidence.Error, Reason: "workload attestation failed"},
		`level=error msg="Failed to attest the workload" error="rpc error" method=StreamSecrets pid=42 service=SDS.v3 subsystem_name=endpoints`: {
			Decision: evidence.Error, Reason: "workload attestation failed"},
	} {
		want.Engine, want.Enforced = Engine, true
		e, err := Decode([]byte(`time="2026-11-24T10:00:00Z" ` + line))
		if err != nil || e.Event != evidence.EventAuthn || e.Role != evidence.RoleObserver || *e.Verdict != want || e.Act.Outcome != "failure" || e.User != "unix:pid:42" {
			t.Errorf("%s: %+v, %v", line, e, err)
		}
	}
}

func TestSecrets(t *testing.T) {
	e := read(t, "agent.v1.Agent", "AttestAgent", `,"status":"error","status_code":"Internal","status_message":"Bearer SECRET","csr":"SECRET","error":"SECRET","selectors":"SECRET","token":"SECRET","x":{"y":"SECRET"},"reason":"SECRET"`)
	if got := evidencetest.Render(&e); strings.Contains(got, "SECRET") {
		t.Error(got)
	}
}

func TestRefused(t *testing.T) {
	many := "type=audit"
	for i := range 200 {
		many += fmt.Sprintf(" f%d=x", i)
	}
	for in, want := range map[string]error{
		``: ErrNoAudit, `{}`: ErrNoAudit, `hello`: ErrNoAudit, `INFO[0000] API accessed type=audit`: ErrNoAudit,
		`{"type":"audit","msg":"other"}`:                                  ErrNoAudit,
		`{"type":"audit","msg":"API accessed","status":"a","status":"b"}`: ErrBroken,
		`type=audit msg="API acc`:                                         ErrBroken,
		many:                                                              ErrBroken,
		`{"type":"audit"`:                                                 jsonscan.ErrSyntax,
		`{"x":` + strings.Repeat("[", 10000) + strings.Repeat("]", 10000) + `}`: jsonscan.ErrDepth,
	} {
		if e, err := Decode([]byte(in)); !errors.Is(err, want) {
			t.Errorf("%.60s: %+v, %v; want %v", in, e, err, want)
		}
	}
}

func TestHostile(t *testing.T) {
	evidencetest.Hostile(t, Line, string(lines(t, "server-1.13.jsonl")[0]))
}

func FuzzDecode(f *testing.F) {
	for _, name := range files {
		for _, line := range lines(f, name) {
			f.Add(line)
			f.Add(text(f, line))
		}
	}
	f.Fuzz(func(t *testing.T, line []byte) { evidencetest.FuzzLine(t, Line, line) })
}

func BenchmarkDecode(b *testing.B) {
	evidencetest.BenchmarkLines(b, Line, lines(b, "server-1.13.jsonl"))
}
