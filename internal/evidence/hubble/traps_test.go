package hubble

import (
	"errors"
	"strings"
	"testing"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
)

const (
	head    = `{"flow":{"time":"2025-03-01T10:00:00.5Z","uuid":"u-1","IP":{"source":"10.0.0.1","destination":"10.0.0.2"},"l4":{"TCP":{"source_port":40000,"destination_port":80,"flags":{"SYN":true}}},"source":{"identity":3418,"namespace":"x","pod_name":"a-1","workloads":[{"name":"a","kind":"Deployment"}]},"destination":{"identity":11615,"namespace":"y","pod_name":"b-1"},"Type":"L3_L4","node_name":"n1","traffic_direction":"INGRESS","is_reply":false,`
	verdict = head + `"event_type":{"type":5},`
)

var traps = []string{
	verdict + `"verdict":"FORWARDED","auth_type":"SPIRE","ingress_allowed_by":[{"name":"allow-a","namespace":"y","kind":"CiliumNetworkPolicy"}]}}`,
	verdict + `"verdict":"DROPPED","drop_reason_desc":"POLICY_DENIED"}}`,
	verdict + `"verdict":"DROPPED","drop_reason_desc":"POLICY_DENY","ingress_denied_by":[{"name":"no-a","namespace":"y"}]}}`,
	verdict + `"verdict":"AUDIT"}}`,
	verdict + `"verdict":"DROPPED","auth_type":"SPIRE","drop_reason_desc":"AUTH_REQUIRED"}}`,
	head + `"event_type":{"type":1},"verdict":"DROPPED","drop_reason_desc":"CT_TRUNCATED_OR_INVALID_HEADER"}}`,
	head + `"event_type":{"type":4},"verdict":"FORWARDED"}}`,
	strings.Replace(head, `"is_reply":false`, `"is_reply":true`, 1) + `"event_type":{"type":4},"verdict":"FORWARDED"}}`,
	strings.Replace(head, "L3_L4", "L7", 1) + `"event_type":{"type":129},"verdict":"FORWARDED","l7":{"type":"REQUEST","dns":{"query":"secret.example.org."}}}}`,
	strings.Replace(head, "L3_L4", "L7", 1) + `"event_type":{"type":129},"verdict":"DROPPED","l7":{"type":"REQUEST","http":{"method":"GET","url":"http://u:p@b/x?token=t","protocol":"HTTP/1.1","headers":[{"key":"Cookie","value":"s"},{"key":"X-Request-Id","value":"r-1"}]}}}}`,
	strings.Replace(verdict, `"identity":3418`, `"identity":2`, 1) + `"verdict":"FORWARDED","auth_type":"SPIRE"}}`,
}

func one(t *testing.T, line string) evidence.Evidence {
	t.Helper()
	return evidencetest.One(t, Decode, line)
}

func TestVerdicts(t *testing.T) {
	for i, want := range []*evidence.Verdict{
		{Engine: Engine, Decision: evidence.Allow, Enforced: true, PolicyID: "allow-a", PolicyNamespace: "y", Reason: "CiliumNetworkPolicy y/allow-a"},
		{Engine: Engine, Decision: evidence.Deny, Enforced: true, DefaultDeny: true, Reason: "POLICY_DENIED"},
		{Engine: Engine, Decision: evidence.Deny, Enforced: true, Reason: "POLICY_DENY", PolicyID: "no-a", PolicyNamespace: "y"},
		{Engine: Engine, Decision: evidence.Deny, Reason: "audit mode"},
		{Engine: Engine, Decision: evidence.Deny, Enforced: true, Reason: "AUTH_REQUIRED"},
		nil, nil,
	} {
		e := one(t, traps[i])
		if (e.Verdict == nil) != (want == nil) || want != nil && *e.Verdict != *want {
			t.Errorf("%d: %+v, want %+v", i, e.Verdict, want)
		}
		if e.Role != evidence.RoleCallee || e.Event != evidence.EventConnection || e.Position != "u-1" {
			t.Errorf("%d: %v %v %q", i, e.Role, e.Event, e.Position)
		}
	}
}

// All policies that decided are named, of what kind and at which revision.
func TestPolicies(t *testing.T) {
	for rest, want := range map[string]evidence.Verdict{
		`"verdict":"FORWARDED","egress_allowed_by":[{"name":"b","namespace":"y","labels":["k8s:io.cilium.k8s.policy.name=b"],"revision":"12","kind":"NetworkPolicy"}],"ingress_allowed_by":[{"name":"all","revision":"12","kind":"CiliumClusterwideNetworkPolicy"}]}}`: {
			Decision: evidence.Allow, PolicyID: "b", PolicyNamespace: "y", PolicyRevision: "n1/12", Reason: "NetworkPolicy y/b, CiliumClusterwideNetworkPolicy all"},
		`"verdict":"DROPPED","drop_reason_desc":"POLICY_DENY","ingress_allowed_by":[{"name":"a","namespace":"y"}],"ingress_denied_by":[{"name":"no-a","namespace":"y","revision":3},{"name":"no-b","namespace":"y"}]}}`: {
			Decision: evidence.Deny, PolicyID: "no-a", PolicyNamespace: "y", PolicyRevision: "n1/3", Reason: "POLICY_DENY: y/no-a, y/no-b"},
		`"verdict":"DROPPED","drop_reason_desc":"POLICY_DENY","ingress_denied_by":[{"name":"no-a","namespace":"y"}],"ingress_allowed_by":[{"name":"a","namespace":"y"}]}}`: {
			Decision: evidence.Deny, PolicyID: "no-a", PolicyNamespace: "y", Reason: "POLICY_DENY"},
		`"verdict":"DROPPED","drop_reason_desc":"POLICY_DENY","ingress_denied_by":[{},{"kind":"x"}]}}`: {Decision: evidence.Deny, Reason: "POLICY_DENY"},
		`"verdict":"DROPPED","drop_reason_desc":"POLICY_DENIED","egress_allowed_by":[{"name":"out","namespace":"x","kind":"NetworkPolicy"}]}}`: {
			Decision: evidence.Deny, DefaultDeny: true, Reason: "POLICY_DENIED"},
	} {
		want.Engine, want.Enforced = Engine, true
		if e := one(t, verdict+rest); *e.Verdict != want {
			t.Errorf("%s: %+v", rest, e.Verdict)
		}
	}
	many := one(t, verdict+`"verdict":"FORWARDED","ingress_allowed_by":[`+strings.Repeat(`{"name":"a"},`, 1000)+`{"name":"z"}]}}`)
	if r := many.Verdict.Reason; strings.Count(r, "a") != maxPolicies || strings.Contains(r, "z") {
		t.Errorf("a thousand: %q", r)
	}
}

// An identity is derived only where the flow says that Cilium authenticated.
func TestDerivedIdentities(t *testing.T) {
	e := one(t, traps[0])
	if id := e.From.Identities; len(id) != 1 || id[0].ID.String() != "spiffe://spiffe.cilium/identity/3418" || id[0].Proof != evidence.ProofIP || id[0].From != "cilium.identity" {
		t.Errorf("derived %+v", id)
	}
	for _, i := range []int{1, 3, 4, 6} {
		if e := one(t, traps[i]); len(e.From.Identities)+len(e.To.Identities) != 0 {
			t.Errorf("%d: made up %+v %+v", i, e.From.Identities, e.To.Identities)
		}
	}
	if e := one(t, traps[10]); len(e.From.Identities) != 0 || len(e.To.Identities) != 1 {
		t.Errorf("the reserved identity world: %+v", e.From.Identities)
	}
}

func TestFlows(t *testing.T) {
	if e := one(t, traps[7]); e.Role != evidence.RoleNone || e.From.Address != "10.0.0.2" {
		t.Errorf("a reply: %v from %s", e.Role, e.From.Address)
	}
	if e := one(t, traps[8]); e.Role != evidence.RoleNone || strings.Contains(evidencetest.Render(&e), "secret") {
		t.Errorf("DNS: %s", evidencetest.Render(&e))
	}
	e := one(t, traps[9])
	if !e.Final || e.Path != "/x" || e.Host != "b" || e.RequestID != "r-1" || e.Verdict.Decision != evidence.Deny {
		t.Errorf("a request that was denied: %s", evidencetest.Render(&e))
	}
	if e := one(t, traps[0]); e.From.Workload.Name != "a" || e.From.Workload.Kind != "Deployment" || e.To.Workload.Node != "n1" {
		t.Errorf("workloads: %+v %+v", e.From.Workload, e.To.Workload)
	}
}

// Whom a connection was meant for: the service that was called, or the one name
// that the address was looked up by.
func TestHost(t *testing.T) {
	for rest, want := range map[string]string{
		`"destination_names":["api.example.org"]}}`:                                                                                              "api.example.org",
		`"destination_names":["a.example.org","b.example.org"]}}`:                                                                                "",
		`"destination_names":["a.example.org"],"destination_service":{"name":"orders","namespace":"shop"},"source_names":["b"]}}`:                "orders.shop",
		`"is_reply":true,"source_service":{"name":"orders","namespace":"shop"},"destination_names":["client.example.org"]}}`:                     "orders.shop",
		`"destination_service":{},"destination_names":[],"l7":{"type":"REQUEST","http":{"method":"GET","url":"http://user:p@b.example.org/"}}}}`: "b.example.org",
	} {
		if e := one(t, verdict+`"verdict":"FORWARDED",`+rest); e.Host != want {
			t.Errorf("%s: %q", rest, e.Host)
		}
	}
}

// What a policy denied makes a record, whatever the protocol and however few
// fields the exporter was told to write.
func TestDenials(t *testing.T) {
	l7 := func(rest string) string {
		return strings.Replace(head, "L3_L4", "L7", 1) + `"event_type":{"type":129},` + rest
	}
	for name, tt := range map[string]struct {
		line  string
		role  evidence.Role
		event evidence.Event
	}{
		"DNS":         {l7(`"verdict":"DROPPED","l7":{"type":"REQUEST","dns":{"query":"a.example."}}}}`), evidence.RoleCallee, evidence.EventConnection},
		"Kafka fetch": {l7(`"verdict":"DROPPED","l7":{"type":"REQUEST","kafka":{"api_key":"fetch","topic":"t"}}}}`), evidence.RoleCallee, evidence.EventConnection},
		"no direction": {
			strings.Replace(head, `"traffic_direction":"INGRESS",`, "", 1) + `"verdict":"DROPPED","drop_reason_desc":"POLICY_DENIED"}}`,
			evidence.RoleDecision, evidence.EventAuthz,
		},
		"a number": {head + `"verdict":"DROPPED","drop_reason":133}}`, evidence.RoleCallee, evidence.EventConnection},
	} {
		if e := one(t, tt.line); e.Role != tt.role || e.Event != tt.event || e.Verdict == nil || e.Verdict.Decision != evidence.Deny {
			t.Errorf("%s: %s", name, evidencetest.Render(&e))
		}
	}
	if e := one(t, head+`"verdict":"DROPPED","drop_reason":132}}`); e.Verdict != nil {
		t.Errorf("the network's reason: %+v", e.Verdict)
	}
}

// What the command line printed once: the flow alone.
func TestBareFlow(t *testing.T) {
	line := traps[0]
	got, want := one(t, line[len(`{"flow":`):len(line)-1]), one(t, line)
	if evidencetest.Render(&got) != evidencetest.Render(&want) {
		t.Errorf("%s", evidencetest.Render(&got))
	}
}

// A request and its response are told to be one by what both say of the request.
func TestStages(t *testing.T) {
	const http = `"l7":{"type":"REQUEST","http":{"method":"GET","url":"http://b/x?q=s","headers":[{"key":"X-Request-Id","value":"r-1"}]}}}}`
	const kafka = `"l7":{"type":"REQUEST","kafka":{"api_key":"produce","correlation_id":7,"topic":"orders"}}}}`
	l7 := strings.Replace(head, "L3_L4", "L7", 1) + `"verdict":"FORWARDED",`
	reply := strings.NewReplacer(`"is_reply":false`, `"is_reply":true`, `"source":"10.0.0.1","destination":"10.0.0.2"`, `"source":"10.0.0.2","destination":"10.0.0.1"`,
		`"source_port":40000,"destination_port":80`, `"source_port":80,"destination_port":40000`, `"REQUEST"`, `"RESPONSE","latency_ns":"1000000"`)
	for _, line := range []string{l7 + http, l7 + kafka} {
		request, response := one(t, line), one(t, reply.Replace(line))
		if request.Final || !response.Final || request.StreamID == "" || request.StreamID != response.StreamID ||
			request.Role != evidence.RoleCallee || response.Role != evidence.RoleCallee || response.Start != request.Start-1000000 {
			t.Errorf("%s%s", evidencetest.Render(&request), evidencetest.Render(&response))
		}
	}
	if e := one(t, l7+kafka); e.Event != evidence.EventRequest || e.Topic != "orders" || e.MessagingSystem != "kafka" {
		t.Errorf("a message: %s", evidencetest.Render(&e))
	}
	if e := one(t, l7+strings.Replace(kafka, "produce", "heartbeat", 1)); e.Role != evidence.RoleNone {
		t.Errorf("not a message: %s", evidencetest.Render(&e))
	}
	if e := one(t, l7+strings.Replace(http, "X-Request-Id", "X-Other", 1)); e.StreamID != "" {
		t.Errorf("without an id: %q", e.StreamID)
	}
}

func TestRefusals(t *testing.T) {
	for line, want := range map[string]error{
		`{"agent_event":{"type":"AGENT_STARTED"},"node_name":"n"}`: evidence.ErrNotEvidence,
		`{"lost_events":7,"node_name":"n"}`:                        evidence.ErrNotEvidence,
		verdict + `"verdict":"DROPPED","verdict":"FORWARDED"}}`:    evidence.ErrMalformed,
		verdict + `"source":{}}}`:                                  evidence.ErrMalformed,
		`{"flow":{"time":"x"}}`:                                    evidence.ErrMalformed,
		verdict:                                                    evidence.ErrMalformed,
	} {
		if _, err := Decode(nil, &evidencetest.Origin, []byte(line)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", line, err, want)
		}
	}
}

// Hubble tells of flows that its buffers lost.
func TestLosses(t *testing.T) {
	for line, want := range map[string]evidence.Gap{
		`{"lost_events":{"source":"PERF_EVENT_RING_BUFFER","num_events_lost":"5","cpu":2},"node_name":"n","time":"2023-11-14T22:13:20Z"}`: {
			Reason: "perf_event_ring_buffer", Count: 5, Since: 1_700_000_000e9, Until: 1_700_000_000e9},
		`{"lost_events":{"source":"HUBBLE_RING_BUFFER","num_events_lost":3,"first":"2023-11-14T22:13:20Z","last":"2023-11-14T22:13:21Z"},"node_name":"n"}`: {
			Reason: "hubble_ring_buffer", Count: 3, Since: 1_700_000_000e9, Until: 1_700_000_001e9},
		`{"node_name":"n","lost_events":{"num_events_lost":-1}}`: {},
	} {
		want.Reporter.Node = "n"
		got, err := Decode(nil, &evidencetest.Origin, []byte(line))
		var loss *evidence.Loss
		if !errors.As(err, &loss) || loss.Gap != want || len(got) != 0 {
			t.Errorf("%s: %v, %v, want %v", line, got, err, want)
		}
	}
}
