package ztunnel

import (
	"errors"
	"strings"
	"testing"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
)

const (
	access = "2025-03-01T10:00:00.5Z\terror\taccess\tconnection complete\tsrc.addr=10.0.0.1:40000 dst.addr=10.0.0.2:15008 direction=\"inbound\" bytes_sent=0 bytes_recv=0 duration=\"500ms\" error="
	early  = "2026-08-20T10:00:00.5Z\twarn\taccess\tconnection failed\tsrc.addr=10.0.0.1:40000 dst.addr=10.0.0.2:15008 direction=\"inbound\" error="
	asJSON = `{"level":"info","time":"2025-03-01T10:00:00.5Z","scope":"access","message":"connection complete","src.addr":"10.0.0.1:40000","src.workload":"a","src.namespace":"x","src.identity":"spiffe://cluster.local/ns/x/sa/a","dst.addr":"10.0.0.2:15008","dst.hbone_addr":"10.0.0.2:80","dst.workload":"b","dst.namespace":"y","dst.identity":"spiffe://cluster.local/ns/y/sa/b","direction":"inbound","bytes_sent":1,"bytes_recv":9007199254740993,"duration":"500ms"}`
)

var traps = []string{
	access + `"connection closed due to policy rejection: allow policies exist, but none allowed"`,
	access + `"connection closed due to policy rejection: explicitly denied by: istio-system/no-a"`,
	early + `"tls handshake error: Custom { kind: InvalidData, error: InvalidCertificate(UnknownIssuer) }"`,
	access + `"quoted \"inside\" and = and src.addr=9.9.9.9:1"`,
	asJSON,
	"2024-04-12T10:17:44.080629Z  INFO access: connection complete src.addr=10.0.0.1:1 dst.addr=10.0.0.2:2 direction=\"outbound\"",
	"2025-03-01T10:00:00.5Z\twarn\taccess\tconnection failed\tsrc.addr=10.0.0.1:40000 dst.addr=10.0.0.2:80 direction=\"inbound\" error=\"workload mismatch\"",
	"2025-03-01T10:00:00.5Z\tinfo\tstate:inbound{id=5 peer=10.0.0.1:40000}\tdry-run: no allow policies match",
	"2026-08-14T13:52:16.4Z\tinfo\tstate:proxy{wl=shop/orders-1}:inbound{id=5 peer=10.0.0.1:40000}\tdeny policy match\tpolicy=\"shop/no-a\"",
	`{"level":"info","time":"2026-08-14T13:52:16.4Z","scope":"ztunnel::state","message":"deny policy match","policy":"shop/no-a","proxy":{"wl":"shop/orders-1"},"inbound":{"id":"5","peer":"10.0.0.1:40000"}}`,
	`2026-08-14T13:52:16.4Z info state:proxy{wl=shop/orders-1}:inbound{id=5 peer=10.0.0.1:40000} deny policy match policy="shop/no-a"`,
}

func one(t *testing.T, line string) evidence.Evidence {
	t.Helper()
	return evidencetest.One(t, Decode, line)
}

func TestFailures(t *testing.T) {
	e := one(t, traps[0])
	if v := e.Verdict; v == nil || v.Decision != evidence.Deny || !v.DefaultDeny || !v.Enforced || e.Event != evidence.EventConnection {
		t.Errorf("no policy allowed: %+v", v)
	}
	if e.End-e.Start != 500_000_000 || e.TLS.Known {
		t.Errorf("from %d to %d, TLS %+v", e.Start, e.End, e.TLS)
	}
	if v := one(t, traps[1]).Verdict; v == nil || v.PolicyNamespace != "istio-system" || v.PolicyID != "no-a" || v.DefaultDeny {
		t.Errorf("denied by a policy: %+v", v)
	}
	if e := one(t, traps[2]); e.Event != evidence.EventHandshake || e.TLS.FailureReason == "" || e.TLS.Established {
		t.Errorf("handshake: %v %+v", e.Event, e.TLS)
	}
	if v := one(t, "2026-08-14T13:52:16.4Z info state no allow policies matched ").Verdict; v == nil || !v.DefaultDeny || !v.Enforced {
		t.Errorf("with spaces, no spans: %+v", v)
	}
	// A peer must not name a source by what it puts into an error.
	if e := one(t, traps[3]); e.From.Address != "10.0.0.1" || e.StatusDetail != `quoted "inside" and = and src.addr=9.9.9.9:1` {
		t.Errorf("quotes: %q %q", e.From.Address, e.StatusDetail)
	}
	if e := one(t, traps[6]); !e.Failed || e.Verdict != nil {
		t.Errorf("an early refusal: %+v", e)
	}
	if v := one(t, traps[7]).Verdict; v == nil || v.Enforced || !v.DefaultDeny {
		t.Errorf("dry run: %+v", v)
	}
	for _, line := range traps[8:11] {
		e := one(t, line)
		if v := e.Verdict; v.Decision != evidence.Deny || v.PolicyID != "no-a" || e.To.Workload.PodName != "orders-1" || e.To.Workload.Namespace != "shop" || e.From.Port != 40000 {
			t.Errorf("%s", evidencetest.Render(&e))
		}
	}
}

// The calling side logs whom it wanted, whether it reached it or not.
func TestCallerProvesWhatItReached(t *testing.T) {
	line := func(message, rest string) string {
		return "2026-08-20T10:00:00.5Z\terror\taccess\t" + message + "\tsrc.addr=10.0.0.1:4000 src.workload=\"a-1\" src.namespace=\"x\" src.identity=\"spiffe://td/ns/x/sa/a\" " +
			"dst.addr=10.0.0.2:15008 dst.hbone_addr=10.0.0.2:80 dst.workload=\"b-1\" dst.namespace=\"y\" dst.identity=\"spiffe://td/ns/y/sa/b\" direction=\"outbound\" " + rest
	}
	const none, some = `bytes_sent=0 bytes_recv=0 duration="3ms"`, `bytes_sent=12 bytes_recv=0 duration="3ms"`
	for _, c := range []struct {
		line  string
		proof evidence.Proof
		event evidence.Event
	}{
		{line("connection complete", some), evidence.ProofMTLSSAN, evidence.EventConnection},
		{line("connection complete", none), evidence.ProofMTLSSAN, evidence.EventConnection},
		{line("connection complete", none+` error="http status: 401 Unauthorized"`), evidence.ProofMTLSSAN, evidence.EventConnection},
		{line("connection complete", some+` error="receive: io error: Connection reset by peer (os error 104)"`), evidence.ProofMTLSSAN, evidence.EventConnection},
		{line("connection complete", some+` error="io error: received fatal alert: InternalError"`), evidence.ProofMTLSSAN, evidence.EventConnection},
		{line("connection opened", ""), evidence.ProofIP, evidence.EventConnection},
		{line("connection complete", none+` error="io error: Connection refused (os error 111)"`), evidence.ProofIP, evidence.EventConnection},
		{line("connection complete", none+` error="connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008: deadline has elapsed"`), evidence.ProofIP, evidence.EventConnection},
		{line("connection complete", none+` error="connection closed due to connection drain"`), evidence.ProofIP, evidence.EventConnection},
		{line("connection complete", none+` error="io error: invalid peer certificate: identity verification error: peer did not present the expected SAN (spiffe://td/ns/y/sa/b), got spiffe://td/ns/y/sa/evil"`), evidence.ProofIP, evidence.EventHandshake},
		{line("connection complete", none+` error="io error: tls handshake eof"`), evidence.ProofIP, evidence.EventHandshake},
		{line("connection complete", none+` error="h2 failed: received fatal alert: UnknownCA"`), evidence.ProofIP, evidence.EventHandshake},
		{line("connection complete", some+` error="connection closed: peer certificate revoked by CRL"`), evidence.ProofIP, evidence.EventHandshake},
	} {
		e := one(t, c.line)
		stood, refused := c.proof == evidence.ProofMTLSSAN, c.event == evidence.EventHandshake
		if e.Event != c.event || len(e.To.Identities) != 1 || e.To.Identities[0].Proof != c.proof || e.From.Identities[0].Proof != c.proof ||
			e.TLS.Established != stood || e.TLS.Mutual != stood || e.TLS.Known != (stood || refused) || (e.TLS.FailureReason != "") != refused {
			t.Errorf("%s\n%s", c.line, evidencetest.Render(&e))
		}
	}

	// The called side has seen the certificate; a revoked one is a claim.
	inbound := strings.Replace(asJSON, `"duration"`, `"error":"connection closed: peer certificate revoked by CRL","duration"`, 1)
	e := one(t, inbound)
	if e.From.Identities[0].Proof != evidence.ProofClaimed || e.To.Identities[0].Proof != evidence.ProofMTLSSAN || e.TLS.Established || e.TLS.FailureReason == "" {
		t.Errorf("revoked: %s", evidencetest.Render(&e))
	}
}

func TestVariants(t *testing.T) {
	e := one(t, asJSON)
	if e.To.Port != 80 || len(e.From.Identities) != 1 || e.From.Identities[0].Proof != evidence.ProofMTLSSAN || !e.TLS.Mutual {
		t.Errorf("JSON: %+v", e)
	}
	if e := one(t, traps[5]); e.Role != evidence.RoleCaller || e.From.Port != 1 || e.TLS.Established || !e.TLS.Known {
		t.Errorf("with spaces: %+v", e)
	}
}

// Behind a gateway ztunnel knows one identity only, and it logs one only of mTLS.
func TestOneIdentity(t *testing.T) {
	e := one(t, "2026-11-23T10:00:00.5Z\tinfo\taccess\tconnection complete\tsrc.addr=10.0.0.1:4000 src.workload=\"a-1\" src.namespace=\"x\" src.identity=\"spiffe://td/ns/x/sa/a\" "+
		"dst.addr=10.0.0.2:15008 dst.hbone_addr=10.9.0.1:80 dst.service=\"b.y.svc.cluster.local\" direction=\"outbound\" bytes_sent=1 bytes_recv=2 duration=\"13ms\"")
	if !e.TLS.Mutual || !e.TLS.Established || len(e.From.Identities) != 1 || len(e.To.Identities) != 0 {
		t.Errorf("%s", evidencetest.Render(&e))
	}
}

func TestRefusals(t *testing.T) {
	for line, want := range map[string]error{
		"2025-03-01T10:00:00Z\tinfo\tproxy\tlistener established\taddress=[::]:15008": evidence.ErrNotEvidence,
		`{"level":"info","scope":"state","message":"started"}`:                        evidence.ErrNotEvidence,
		access + `"open`:                   evidence.ErrMalformed,
		access + `"a"b`:                    evidence.ErrMalformed,
		access + `"a" src.addr=10.9.9.9:1`: evidence.ErrMalformed,
		asJSON[:len(asJSON)-1] + `,"src.identity":"spiffe://cluster.local/ns/x/sa/z"}`: evidence.ErrMalformed,
		"2025-03-01T10:00:00Z\tinfo\taccess\tconnection complete\tsrc.addr=1.2.3.4:5":  evidence.ErrMalformed,
	} {
		if got, err := Decode(nil, &evidencetest.Origin, []byte(line)); !errors.Is(err, want) || len(got) != 0 {
			t.Errorf("%s: %v, want %v", line, err, want)
		}
	}
}
