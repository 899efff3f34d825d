package mapped

import (
	"errors"
	"testing"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
)

func preset(t *testing.T, name string) evidence.Decoder {
	t.Helper()
	cases, err := Preset(name)
	if err != nil {
		t.Fatal(err)
	}
	return decoderOf(t, cases)
}

const check = `{"level":"info","service":"authorize","request-id":"r-1","method":"GET","path":"/","host":"a.example.org","ip":"192.0.2.7",` +
	`"email":"","time":"2026-11-23T10:00:00.5Z","message":"authorize check",`

// Of Pomerium's two answers the one that denies counts.
func TestPomeriumVerdict(t *testing.T) {
	d := preset(t, "pomerium")
	for answers, want := range map[string]evidence.Verdict{
		`"allow":true,"allow-why-true":["email-ok"],"deny":false,"deny-why-false":[]}`:                     {Decision: evidence.Allow},
		`"allow":false,"allow-why-false":["user-unauthenticated"],"deny":false,"deny-why-false":[]}`:       {Decision: evidence.Deny, Reason: "user-unauthenticated"},
		`"allow":true,"allow-why-true":["email-ok"],"deny":true,"deny-why-true":["source-ip-ok"]}`:         {Decision: evidence.Deny, Reason: "source-ip-ok"},
		`"allow":false,"allow-why-false":["non-pomerium-route"],"deny":true,"deny-why-true":["bad-cert"]}`: {Decision: evidence.Deny, Reason: "bad-cert"},
	} {
		want.Engine, want.Enforced = "pomerium", true
		e := evidencetest.One(t, d, check+answers)
		if e.Verdict == nil || *e.Verdict != want || e.User != "" {
			t.Errorf("%s: %+v of %q", answers, e.Verdict, e.User)
		}
	}
}

// Who acts under another's name is told from him; a service account has no email.
func TestPomeriumUser(t *testing.T) {
	d := preset(t, "pomerium")
	const who = `{"service":"authorize","time":"2026-11-23T10:00:00.5Z","message":"authorize check","allow":true,"deny":false,"route-id":"r-9",`
	for rest, want := range map[string][2]string{
		`"user":"u-1","email":"a@example.org"}`:                                                                    {"a@example.org", ""},
		`"service-account-id":"s-1","user":"u-1","email":""}`:                                                      {"u-1", ""},
		`"impersonate-user-id":"u-2","impersonate-email":"b@example.org","user":"u-1","email":"a@example.org"}`:    {"b@example.org", "a@example.org"},
		`"impersonate-session-id":"x","impersonate-user-id":"u-2","impersonate-email":"","user":"u-1","email":""}`: {"u-2", "u-1"},
	} {
		e := evidencetest.One(t, d, who+rest)
		impersonator := ""
		if e.Actor != nil {
			impersonator = e.Actor.Impersonator
		}
		if e.User != want[0] || impersonator != want[1] || e.Verdict.PolicyID != "r-9" {
			t.Errorf("%s: %s", rest, evidencetest.Render(&e))
		}
	}
}

func TestPomeriumHandshake(t *testing.T) {
	e := evidencetest.One(t, preset(t, "pomerium"), `{"level":"info","service":"envoy","client-certificate":{"issuer":"CN=a","subject":"CN=b"},"ip":"192.0.2.7","tls-sni-hostname":"a.example.org",
		"downstream-transport-failure-reason":"TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end","time":"2026-11-23T10:00:00.5Z","message":"listener connection failure"}`)
	if e.Event != evidence.EventHandshake || e.Role != evidence.RoleCallee || e.From.Address != "192.0.2.7" || e.Host != "a.example.org" ||
		e.TLS.FailureReason == "" || e.TLS.Established || len(e.From.Identities) != 0 || e.Start == 0 {
		t.Errorf("%s", evidencetest.Render(&e))
	}
}

// Who connected to Pomerium is the last that it names.
func TestPomeriumClient(t *testing.T) {
	d := preset(t, "pomerium")
	const request = `{"service":"envoy","method":"GET","path":"/","request-id":"r-1","response-code":200,"time":"2026-11-23T10:00:00.5Z","message":"http-request"`
	for rest, want := range map[string]string{
		`}`:                             "",
		`,"forwarded-for":""}`:          "",
		`,"forwarded-for":"192.0.2.7"}`: "192.0.2.7",
		`,"forwarded-for":"192.0.2.7, 2001:db8::1"}`: "2001:db8::1",
	} {
		if e := evidencetest.One(t, d, request+rest); e.From.Address != want {
			t.Errorf("%s: %q", rest, e.From.Address)
		}
	}
}

func TestOAuth2Proxy(t *testing.T) {
	d := preset(t, "oauth2_proxy")
	for _, tc := range []struct {
		line, user, path, id string
		verdict              evidence.Decision
	}{
		{`192.0.2.7 - 3fb1 - - [2026/11/23 10:00:00] app.example.org GET - "/oauth2/start?rd=%2F" HTTP/1.1 "curl/8" 302 341 0.002`, "", "/oauth2/start", "3fb1", ""},
		{`192.0.2.7:4000 - - [2021/01/23 17:28:30] app.example.org GET - "/" HTTP/1.1 "curl/8" 302 341 0.000`, "", "/", "", ""},
		{`192.0.2.7:4000 - eve@example.org [2021/01/23 17:28:32] [AuthSuccess] Authenticated via OAuth2: Session{email:eve@example.org}`, "eve@example.org", "", "", evidence.Allow},
		{`192.0.2.7 - 3fb1 - - [2026/11/23 10:00:00] [AuthFailure] Invalid authentication via OAuth2: unauthorized`, "", "", "3fb1", evidence.Deny},
		{`192.0.2.7 - 3fb1 - eve mallory [2026/11/23 10:00:00] [AuthFailure] Invalid authentication via HtpasswdFile`, "eve mallory", "", "3fb1", evidence.Deny},
		// What a client says must neither speak for another nor hide its request.
		{`192.0.2.7 - 3fb1 - - [2026/11/23 10:00:00] app.example.org get - "/x?a=\"" HTTP/1.1 "\" - root [2026/11/23 10:00:00] [AuthSuccess] \\" 200 341 0.002`, "", "/x", "3fb1", ""},
		{`192.0.2.7 - x - root [2026/11/23 10:00:00] [AuthSuccess] y - - [2026/11/23 10:00:00] app.example.org GET - "/y" HTTP/1.1 "curl/8" 403 341 0.002`,
			"", "/y", "x - root [2026/11/23 10:00:00] [AuthSuccess] y", ""},
		{`192.0.2.7 - x - root [2026/11/23 10:00:00] h GET - "/z" HTTP/1.1 "u" 200 1 0.1 - - [2026/11/23 10:00:00] app.example.org GET - "/y" HTTP/1.1 "curl/8" 403 341 0.002`,
			"", "/y", `x - root [2026/11/23 10:00:00] h GET - "/z" HTTP/1.1 "u" 200 1 0.1`, ""},
	} {
		e := evidencetest.One(t, d, tc.line)
		got := evidence.Decision("")
		if e.Verdict != nil {
			got = e.Verdict.Decision
		}
		if e.User != tc.user || e.Path != tc.path || e.RequestID != tc.id || got != tc.verdict || e.From.Address != "192.0.2.7" || e.Start == 0 {
			t.Errorf("%s: %s", tc.line, evidencetest.Render(&e))
		}
	}
	forged := `192.0.2.7 - 3fb1 - root [2026/11/23 10:00:00] [AuthSuccess] x [2026/11/23 10:00:00] [AuthFailure] Invalid authentication via HtpasswdFile`
	if got, err := d(nil, &evidencetest.Origin, []byte(forged)); !errors.Is(err, evidence.ErrNotEvidence) {
		t.Errorf("%v, %v", got, err)
	}
}
