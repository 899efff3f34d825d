package linkerd

import (
	"errors"
	"testing"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
)

var traps = []string{
	`10.42.0.63:51160 spiffe://example.org/vm/a - [2022-08-23T20:28:20.071809491Z] "GET http://webapp:7000/x?token=s3cr3t HTTP/2.0" 200`,
	`10.42.0.63:51160 - - [2022-08-23T20:28:20.071809491Z] "GET /x HTTP/1.1"`,
	`[     5.1s]  INFO ThreadId(01) inbound:server{port=8080}: linkerd_app_inbound::policy::http: Request denied server.group=policy.linkerd.io server.kind=server server.name=web route.group= route.kind=default route.name=default client.tls=Some(Established { client_id: Some(ClientId(Dns(Name("a.x.serviceaccount.identity.linkerd.cluster.local")))), negotiated_protocol: None }) client.ip=10.0.0.1`,
	`[     5.1s]  INFO ThreadId(01) inbound: linkerd_app_inbound::policy::tcp: Connection denied server.group=policy.linkerd.io server.kind=server server.name=web tls=None(NoClientHello) client=10.0.0.1:4000`,
	`{"client.addr":"10.42.0.70:32996","client.id":"-","host":"u:p@webapp:7000","method":"GET","status":200,"timestamp":"2022-08-23T20:33:42.3Z","total_ns":"1","trace_id":"0af7651916cd43dd8448eb211c80319c","uri":"/a#b","version":"HTTP/1.1"}`,
	`{"client.addr":"10.42.0.70:32996","client.id":"-","method":"GET","status":200,"timestamp":"2022-08-23T20:33:42.3Z","trace_id":"2f0e...-request","uri":"/a"}`,
	`[     5.1s]  INFO ThreadId(01) inbound:server{port=8080}: linkerd_app_inbound::policy::http: Request allowed server.group=policy.linkerd.io server.kind=server server.name=web route.group= route.kind=default route.name=default client.tls=Some(Established { client_id: Some(ClientId(Dns(Name("a.x.serviceaccount.identity.linkerd.cluster.local")))), negotiated_protocol: None }) client.ip=10.0.0.1 authz.group= authz.kind=default authz.name=audit`,
	`{"timestamp":"[     5.1s]","level":"INFO","fields":{"message":"Request allowed","server.group":"policy.linkerd.io","server.kind":"server","server.name":"web","client.tls":"None(NoClientHello)","client.ip":"10.0.0.1","authz.group":"","authz.kind":"default","authz.name":"audit"},"target":"linkerd_app_inbound::policy::tcp","threadId":"ThreadId(1)"}`,
}

func one(t *testing.T, line string) evidence.Evidence {
	t.Helper()
	return evidencetest.One(t, Decode, line)
}

func TestAccess(t *testing.T) {
	if e := one(t, traps[0]); e.From.Identities[0].ID.String() != "spiffe://example.org/vm/a" || e.Path != "/x" || e.Host != "webapp:7000" || e.Protocol != "HTTP/2" {
		t.Errorf("a SPIFFE ID: %+v", e)
	}
	if e := one(t, traps[1]); !e.Failed || e.Status != 0 || e.TLS.Known || len(e.From.Identities) != 0 {
		t.Errorf("no response, unmeshed: %+v", e)
	}
	if e := one(t, traps[4]); e.TraceID == (evidence.TraceID{}) || e.RequestID != "" || e.Host != "webapp:7000" || e.Path != "/a" {
		t.Errorf("trace id: %+v", e)
	}
	if e := one(t, traps[5]); e.RequestID != "2f0e...-request" {
		t.Errorf("request id: %+v", e)
	}
}

func TestPolicy(t *testing.T) {
	e := one(t, traps[2])
	if v := e.Verdict; v.Decision != evidence.Deny || v.PolicyID != "server/web/default/default" || v.PolicyNamespace != "ns" {
		t.Errorf("verdict %+v", v)
	}
	if id := e.From.Identities; len(id) != 1 || id[0].Invalid != "a.x.serviceaccount.identity.linkerd.cluster.local" || e.From.Address != "10.0.0.1" {
		t.Errorf("client %+v", e.From)
	}
	if e.Start != evidencetest.Origin.Time {
		t.Errorf("the line has no time of its own: %d", e.Start)
	}
	if e := one(t, traps[3]); e.From.Port != 4000 || e.Verdict.PolicyID != "server/web" || e.TLS.Known {
		t.Errorf("a connection: %+v", e)
	}
}

// In audit mode the proxy lets pass, and logs, what no policy authorizes.
func TestAudit(t *testing.T) {
	for i, id := range map[int]string{6: "server/web/default/default", 7: "server/web"} {
		e := one(t, traps[i])
		if v := e.Verdict; v.Decision != evidence.Deny || v.Enforced || !v.DefaultDeny || v.PolicyID != id || e.From.Address != "10.0.0.1" {
			t.Errorf("%s", evidencetest.Render(&e))
		}
	}
}

func TestRefusals(t *testing.T) {
	for line, want := range map[string]error{
		`[     0.1s]  INFO ThreadId(01) linkerd2_proxy: release 2.3`:                                                    evidence.ErrNotEvidence,
		`{"timestamp":"x","level":"INFO","fields":{"message":"hello"},"target":"linkerd2_proxy"}`:                       evidence.ErrNotEvidence,
		`10.42.0.1:43682 - - [yesterday] "GET /ping HTTP/1.1" 200`:                                                      evidence.ErrMalformed,
		`10.42.0.1:43682 - - [2022-08-23T20:28:23Z] "GET /ping HTTP/1.1" 2x0`:                                           evidence.ErrMalformed,
		`{"client.addr":"1.1.1.1:1","client.id":"a","client.id":"b","method":"GET","timestamp":"2022-08-23T20:28:23Z"}`: evidence.ErrMalformed,
	} {
		if _, err := Decode(nil, &evidencetest.Origin, []byte(line)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", line, err, want)
		}
	}
}
