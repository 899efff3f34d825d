package correlate

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

var t0 = time.Unix(1_700_000_000, 0)

func testConfig() Config {
	return Config{
		Window: 10 * time.Second, LateWindow: 10 * time.Minute, Settle: time.Second,
		ClockSkew: 2 * time.Second, MaxPending: 1000, MaxPendingBytes: 64 << 20, ExpectCallee: true,
	}
}

// ev builds evidence for tests: a name, which makes the id, and options.
type option func(*evidence.Evidence)

func ev(name string, role evidence.Role, source evidence.Source, opts ...option) evidence.Evidence {
	e := evidence.Evidence{
		ID: sha256.Sum256([]byte(name)), Role: role, Source: source, Final: true,
		Start: t0.UnixNano(), End: t0.Add(10 * time.Millisecond).UnixNano(),
		Method: "GET", Path: "/reviews/0", Position: name,
	}
	for _, o := range opts {
		o(&e)
	}
	return e
}

func calleeALS(name string, opts ...option) evidence.Evidence {
	return ev(name, evidence.RoleCallee, evidence.SourceEnvoyALS, opts...)
}
func callerALS(name string, opts ...option) evidence.Evidence {
	return ev(name, evidence.RoleCaller, evidence.SourceEnvoyALS, opts...)
}
func opa(name string, opts ...option) evidence.Evidence {
	return ev(name, evidence.RoleDecision, evidence.SourceOPA, append([]option{func(e *evidence.Evidence) {
		e.End = e.Start
		e.Verdict = &evidence.Verdict{Engine: "opa", Decision: evidence.Allow, Enforced: true, PolicyID: "mesh/allow", PolicyRevision: "7"}
	}}, opts...)...)
}
func proxySpan(name string, kind evidence.SpanKind, opts ...option) evidence.Evidence {
	return ev(name, roleOf(kind), evidence.SourceProxySpan, append([]option{spanKind(kind)}, opts...)...)
}
func appSpan(name string, kind evidence.SpanKind, opts ...option) evidence.Evidence {
	return ev(name, roleOf(kind), evidence.SourceSpan, append([]option{spanKind(kind)}, opts...)...)
}
func roleOf(kind evidence.SpanKind) evidence.Role {
	switch kind {
	case evidence.SpanServer, evidence.SpanConsumer:
		return evidence.RoleCallee
	case evidence.SpanClient, evidence.SpanProducer:
		return evidence.RoleCaller
	}
	return evidence.RoleNone
}
func spanKind(k evidence.SpanKind) option { return func(e *evidence.Evidence) { e.SpanKind = k } }
func trace(t, span, parent byte) option {
	return func(e *evidence.Evidence) {
		e.TraceID[0], e.SpanID[0], e.ParentSpanID[0] = t, span, parent
	}
}
func request(id string) option     { return func(e *evidence.Evidence) { e.RequestID = id } }
func decided(id string) option     { return func(e *evidence.Evidence) { e.DecisionID = id } }
func stream(id string) option      { return func(e *evidence.Evidence) { e.StreamID = id } }
func reporter(n string) option     { return func(e *evidence.Evidence) { e.Reporter.Node = n } }
func interim(e *evidence.Evidence) { e.Final = false }
func status(n int) option          { return func(e *evidence.Evidence) { e.Status = n } }
func resends(n int) option         { return func(e *evidence.Evidence) { e.ResendCount = n } }
func path(p string) option         { return func(e *evidence.Evidence) { e.Path = p } }
func host(h string) option         { return func(e *evidence.Evidence) { e.Host = h } }
func pod(name string) option { // the caller's
	return func(e *evidence.Evidence) {
		e.From.Workload = evidence.Workload{PodName: name, Namespace: "shop"}
	}
}
func calledPod(name string) option {
	return func(e *evidence.Evidence) {
		e.To.Workload = evidence.Workload{PodName: name, Namespace: "shop"}
	}
}
func at(d time.Duration) option {
	return func(e *evidence.Evidence) { e.Start += int64(d); e.End += int64(d) }
}
func identity(s string, proof evidence.Proof, from string) evidence.Identity {
	id, err := spiffeid.FromString(s)
	if err != nil {
		return evidence.Identity{Invalid: s, Proof: proof, From: from}
	}
	return evidence.Identity{ID: id, Proof: proof, From: from}
}

const td = "spiffe://example.org/"

// mtls states both parties as a proxy that terminated mTLS does.
func mtls(from, to string) option {
	return func(e *evidence.Evidence) {
		e.From.Identities = []evidence.Identity{identity(td+from, evidence.ProofMTLSSAN, "tls.peer.san")}
		e.To.Identities = []evidence.Identity{identity(td+to, evidence.ProofMTLSSAN, "tls.local.san")}
	}
}
func addresses(from, to string) option {
	return func(e *evidence.Evidence) { e.From.Address, e.To.Address, e.To.Port = from, to, 9080 }
}
func connected(port uint16) option {
	return func(e *evidence.Evidence) { addresses("10.0.0.1", "10.0.0.2")(e); e.From.Port, e.To.Port = port, 8080 }
}
func claims(s, from string) option {
	return func(e *evidence.Evidence) {
		e.From.Identities = append(e.From.Identities, identity(s, evidence.ProofClaimed, from))
	}
}
func verdict(d evidence.Decision, engine string) option {
	return func(e *evidence.Evidence) {
		e.Verdict = &evidence.Verdict{Engine: engine, Decision: d, Enforced: true}
	}
}

func drain(t testing.TB, c *Correlator) []*Record {
	var out []*Record
	_, err := c.Deliver(7, func(rs []*Record) error { out = append(out, rs...); return nil })
	require.NoError(t, err)
	return out
}

// show renders a record for comparison: event, state, tier, evidence names.
func show(r *Record, names map[evidence.ID]string) string {
	var cited []string
	for _, a := range r.Attestations {
		cited = append(cited, names[a.ID])
	}
	slices.Sort(cited)
	reason := r.Reason
	if reason != "" {
		reason = "/" + reason
	}
	return fmt.Sprintf("%s %s%s %s: %s", r.EventName, r.State, reason, r.Join.Method, strings.Join(cited, " "))
}

func showAll(rs []*Record, batch []evidence.Evidence) []string {
	names := map[evidence.ID]string{}
	for i := range batch {
		names[batch[i].ID] = batch[i].Position
	}
	var out []string
	for _, r := range rs {
		out = append(out, show(r, names))
	}
	slices.Sort(out)
	return out
}

func TestJoins(t *testing.T) {
	const (
		server, client = evidence.SpanServer, evidence.SpanClient
	)
	ab := mtls("a", "b")
	tests := []struct {
		name     string
		evidence []evidence.Evidence
		want     []string
	}{
		{"one report", []evidence.Evidence{calleeALS("log")}, []string{"mesh.request complete none: log"}},

		{"both sidecars, by request", []evidence.Evidence{
			callerALS("client", request("r"), ab, at(-1500*time.Millisecond)), // the clocks differ
			calleeALS("server", request("r"), ab),
		}, []string{"mesh.request complete request: client server"}},

		{"both sidecars, plaintext, by request and addresses", []evidence.Evidence{
			callerALS("client", request("r"), addresses("10.0.0.1", "10.0.0.2")),
			calleeALS("server", request("r"), addresses("10.0.0.1", "10.0.0.2")),
		}, []string{"mesh.request complete request: client server"}},

		{"both sidecars, no word on who", []evidence.Evidence{
			callerALS("client", request("r")), calleeALS("server", request("r")),
		}, []string{"mesh.request complete none: server", "mesh.request partial/deadline none: client"}},

		{"clocks too far apart", []evidence.Evidence{
			callerALS("client", request("r"), ab, at(-5*time.Second)), calleeALS("server", request("r"), ab),
		}, []string{"mesh.request complete none: server", "mesh.request partial/deadline none: client"}},

		{"a request id names a whole tree", []evidence.Evidence{
			calleeALS("reviews", request("r"), mtls("page", "reviews")),
			calleeALS("details", request("r"), mtls("page", "details"), path("/details/0")),
			callerALS("to ratings", request("r"), mtls("reviews", "ratings"), path("/ratings/0")),
			calleeALS("ratings", request("r"), mtls("reviews", "ratings"), path("/ratings/0")),
			callerALS("to reviews", request("r"), mtls("page", "reviews")),
		}, []string{
			"mesh.request complete none: details",
			"mesh.request complete request: ratings to ratings",
			"mesh.request complete request: reviews to reviews",
		}},

		{"the same request id, other parties", []evidence.Evidence{
			callerALS("client", request("r"), mtls("a", "c")), calleeALS("server", request("r"), ab),
		}, []string{"mesh.request complete none: server", "mesh.request partial/deadline none: client"}},

		{"the same request id, other traces", []evidence.Evidence{
			callerALS("client", request("r"), ab, trace(1, 0, 0)), calleeALS("server", request("r"), ab, trace(2, 0, 0)),
		}, []string{"mesh.request complete none: server", "mesh.request partial/deadline none: client"}},

		{"two equal calls with one request id are in doubt", []evidence.Evidence{
			callerALS("client 1", request("r"), ab), calleeALS("server 1", request("r"), ab, at(1*time.Millisecond)),
			callerALS("client 2", request("r"), ab, at(100*time.Millisecond)), calleeALS("server 2", request("r"), ab, at(101*time.Millisecond)),
		}, []string{
			"mesh.request ambiguous/several_candidates request: client 1 server 1",
			"mesh.request ambiguous/several_candidates request: client 2 server 2",
		}},

		{"a retry to another pod, each attempt numbered", []evidence.Evidence{
			callerALS("client", request("r"), addresses("10.0.0.1", "10.0.0.3"), resends(1), lasting(20*time.Millisecond)),
			calleeALS("try 1", request("r"), addresses("10.0.0.1", "10.0.0.2"), status(503)),
			calleeALS("try 2", request("r"), addresses("10.0.0.1", "10.0.0.3"), resends(1), at(5*time.Millisecond)),
		}, []string{"mesh.request complete request: client try 1", "mesh.request complete request: client try 2"}},

		{"and not", []evidence.Evidence{
			callerALS("client", request("r"), addresses("10.0.0.1", "10.0.0.3"), resends(1), lasting(20*time.Millisecond)),
			calleeALS("try 1", request("r"), addresses("10.0.0.1", "10.0.0.2"), status(503)),
			calleeALS("try 2", request("r"), addresses("10.0.0.1", "10.0.0.3"), at(5*time.Millisecond)),
		}, []string{"mesh.request ambiguous/several_candidates request: client try 1", "mesh.request complete request: client try 2"}},

		{"three retries of others under one trace and request id", []evidence.Evidence{
			callerALS("client", request("r"), ab, trace(1, 0, 0)), calleeALS("server", request("r"), ab, trace(1, 0, 0)),
			callerALS("to c", request("r"), mtls("a", "c"), trace(1, 0, 0), resends(1)),
			callerALS("to d", request("r"), mtls("a", "d"), trace(1, 0, 0), resends(1)),
			callerALS("to e", request("r"), mtls("a", "e"), trace(1, 0, 0), resends(1)),
		}, []string{
			"mesh.request complete request: client server",
			"mesh.request partial/deadline none: to c", "mesh.request partial/deadline none: to d", "mesh.request partial/deadline none: to e",
		}},

		{"two equal calls in a trace told apart by request ids", []evidence.Evidence{
			callerALS("client 1", request("r"), ab, trace(1, 0, 0)), calleeALS("server 1", request("r"), ab, trace(1, 0, 0), at(3*time.Millisecond)),
			callerALS("client 2", request("s"), ab, trace(1, 0, 0), at(2*time.Millisecond)), calleeALS("server 2", request("s"), ab, trace(1, 0, 0), at(1*time.Millisecond)),
		}, []string{
			"mesh.request complete request: client 1 server 1",
			"mesh.request complete request: client 2 server 2",
		}},

		{"a call of a trace that another request id tells apart", []evidence.Evidence{
			callerALS("client 1", request("r"), ab, trace(1, 0, 0)), calleeALS("server 1", request("r"), ab, trace(1, 0, 0)),
			callerALS("client 2", request("s"), ab, trace(1, 0, 0)),
		}, []string{"mesh.request complete request: client 1 server 1", "mesh.request partial/deadline none: client 2"}},

		{"a gateway gives the request an id of its own", []evidence.Evidence{
			callerALS("client", request("r"), ab, trace(1, 0, 0)), calleeALS("server", request("s"), ab, trace(1, 0, 0)),
		}, []string{"mesh.request complete request: client server"}},

		{"a request id in which each proxy says why it traces", []evidence.Evidence{
			callerALS("client", request("6b29fc40-ca47-4067-b31d-00dd010662da"), ab), calleeALS("server", request("6b29fc40-ca47-9067-b31d-00dd010662da"), ab),
		}, []string{"mesh.request complete request: client server"}},

		{"two equal calls with one request id told apart by their connections", []evidence.Evidence{
			callerALS("client 1", request("r"), ab, connected(40001)), calleeALS("server 1", request("r"), ab, connected(40001), at(3*time.Millisecond)),
			callerALS("client 2", request("r"), ab, connected(40002), at(2*time.Millisecond)), calleeALS("server 2", request("r"), ab, connected(40002), at(1*time.Millisecond)),
		}, []string{
			"mesh.request complete request: client 1 server 1",
			"mesh.request complete request: client 2 server 2",
		}},

		{"one connection may carry both", []evidence.Evidence{
			callerALS("client 1", request("r"), ab, connected(40001)), calleeALS("server 1", request("r"), ab, connected(40001), at(3*time.Millisecond)),
			callerALS("client 2", request("r"), ab, connected(40001), at(2*time.Millisecond)), calleeALS("server 2", request("r"), ab, connected(40001), at(1*time.Millisecond)),
		}, []string{
			"mesh.request ambiguous/several_candidates request: client 1 server 2",
			"mesh.request ambiguous/several_candidates request: client 2 server 1",
		}},

		{"and each lost one side's report: a decision that no log names is nearer to the caller's", []evidence.Evidence{
			callerALS("client 1", request("r"), ab, connected(40001)), opa("decision 1", request("r"), ab, connected(40001), decided("1"), at(3*time.Millisecond)),
			calleeALS("server 2", request("r"), ab, connected(40001), decided("2"), at(50*time.Millisecond)),
			opa("decision 2", request("r"), ab, connected(40001), decided("2"), at(50*time.Millisecond)),
		}, []string{
			"mesh.authz partial/deadline none: decision 1",
			"mesh.request ambiguous/several_candidates request: client 1 decision 2 server 2",
		}},

		{"and it is of the next call", []evidence.Evidence{
			callerALS("client 1", request("r"), ab, connected(40001)), opa("decision 2", request("r"), ab, connected(40001), decided("2"), at(50*time.Millisecond)),
			calleeALS("server 1", request("r"), ab, connected(40001), decided("1")),
			opa("decision 1", request("r"), ab, connected(40001), decided("1")),
		}, []string{
			"mesh.authz partial/deadline none: decision 2",
			"mesh.request complete request: client 1 decision 1 server 1",
		}},

		{"two equal calls told apart by spans", []evidence.Evidence{
			callerALS("client 1", request("r"), ab, trace(1, 1, 0)), calleeALS("server 1", request("r"), ab, trace(1, 2, 0)),
			callerALS("client 2", request("r"), ab, trace(1, 3, 0)), calleeALS("server 2", request("r"), ab, trace(1, 4, 0)),
			proxySpan("in 1", server, trace(1, 2, 1)), proxySpan("in 2", server, trace(1, 4, 3)),
		}, []string{
			"mesh.request complete span: client 1 in 1 server 1",
			"mesh.request complete span: client 2 in 2 server 2",
		}},

		{"a retry by request: both attempts cite the caller", []evidence.Evidence{
			callerALS("client", request("r"), ab, resends(1)),
			calleeALS("try 1", request("r"), ab, status(503)), calleeALS("try 2", request("r"), ab, status(200), at(5*time.Millisecond)),
		}, []string{"mesh.request complete request: client try 1", "mesh.request complete request: client try 2"}},

		{"a retry by spans", []evidence.Evidence{
			proxySpan("out", client, trace(1, 1, 0)),
			proxySpan("in 1", server, trace(1, 2, 1)), proxySpan("in 2", server, trace(1, 3, 1)),
			calleeALS("log 1", trace(1, 2, 0)), calleeALS("log 2", trace(1, 3, 0)),
		}, []string{"mesh.request complete span: in 1 log 1 out", "mesh.request complete span: in 2 log 2 out"}},

		{"a retry whose logs share the client's span", []evidence.Evidence{
			appSpan("out", client, trace(1, 1, 0)),
			calleeALS("log 1", trace(1, 1, 0), stream("s1")), calleeALS("log 2", trace(1, 1, 0), stream("s2")),
		}, []string{"mesh.request complete span: log 1 out", "mesh.request complete span: log 2 out"}},

		{"the four spans of one hop", []evidence.Evidence{
			appSpan("app out", client, trace(1, 1, 0)), proxySpan("proxy out", client, trace(1, 2, 1)),
			proxySpan("proxy in", server, trace(1, 3, 2)), appSpan("app in", server, trace(1, 4, 3)),
			callerALS("client", trace(1, 2, 0)), calleeALS("server", trace(1, 3, 0)),
		}, []string{"mesh.request complete span: app in app out client proxy in proxy out server"}},

		{"a proxy that answers by itself logs what came in", []evidence.Evidence{
			proxySpan("out", client, trace(1, 1, 0)), proxySpan("in", server, trace(1, 2, 1), reporter("q")),
			calleeALS("denied", trace(1, 0, 1), reporter("q"), status(403), decided("d")), opa("d", decided("d"), trace(1, 0, 1)),
		}, []string{"mesh.request complete span: d denied in out"}},

		{"two attempts, the second of which a proxy answers by itself", []evidence.Evidence{
			proxySpan("out", client, trace(1, 1, 0)),
			proxySpan("in 1", server, trace(1, 2, 1), reporter("q 1")), calleeALS("log 1", trace(1, 0, 2), reporter("q 1"), status(503)),
			proxySpan("in 2", server, trace(1, 3, 1), reporter("q 2"), at(20*time.Millisecond)),
			calleeALS("log 2", trace(1, 0, 1), reporter("q 2"), status(403), at(20*time.Millisecond)),
		}, []string{"mesh.request complete span: in 1 log 1 out", "mesh.request complete span: in 2 log 2 out"}},

		{"a proxy's line of text, of a request through a gateway, and its span", []evidence.Evidence{
			proxySpan("out", client, trace(1, 1, 0)),
			proxySpan("in", server, trace(1, 2, 1), reporter("sidecar~q"), request("r"), calledPod("q")),
			calleeALS("line", reporter("q"), request("r"), calledPod("q"), addresses("203.0.113.7", "10.0.0.2")),
		}, []string{"mesh.request complete request: in line out"}},

		{"interim reports on a span that was forwarded", []evidence.Evidence{
			calleeALS("b", trace(1, 0, 1), reporter("b"), path("/b")),
			calleeALS("c", trace(1, 0, 1), reporter("c"), path("/c")), calleeALS("c so far", trace(1, 0, 1), reporter("c"), path("/c"), interim),
		}, []string{"mesh.request complete none: b", "mesh.request complete span: c c so far"}},

		{"from server to client is the next hop", []evidence.Evidence{
			proxySpan("in", server, trace(1, 1, 0)), proxySpan("out", client, trace(1, 2, 1)),
			appSpan("app", server, trace(1, 3, 1)), appSpan("app out", client, trace(1, 4, 3)),
			proxySpan("next in", server, trace(1, 5, 2)),
		}, []string{
			"mesh.request complete span: app in",
			"mesh.request complete span: next in out",
			"mesh.request partial/deadline none: app out",
		}},

		{"client spans beside each other", []evidence.Evidence{
			appSpan("one", client, trace(1, 2, 1)), appSpan("two", client, trace(1, 3, 1)),
			appSpan("work", evidence.SpanInternal, trace(1, 1, 9)),
		}, []string{"mesh.request partial/deadline none: one", "mesh.request partial/deadline none: two"}},

		{"one application span, two calls through the proxy", []evidence.Evidence{
			appSpan("app", client, trace(1, 1, 0)),
			proxySpan("out 1", client, trace(1, 2, 1)), proxySpan("out 2", client, trace(1, 3, 1)),
			proxySpan("in 1", server, trace(1, 4, 2)), proxySpan("in 2", server, trace(1, 5, 3)),
		}, []string{"mesh.request complete span: app in 1 out 1", "mesh.request complete span: app in 2 out 2"}},

		{"an egress gateway's client span is another hop", []evidence.Evidence{
			proxySpan("sidecar", client, trace(1, 1, 0)), proxySpan("gateway", client, trace(1, 2, 1)),
		}, []string{"mesh.request partial/deadline none: gateway", "mesh.request partial/deadline none: sidecar"}},

		{"the decision that the log names", []evidence.Evidence{
			opa("decision", decided("d")), calleeALS("log", decided("d")), opa("another", decided("e")),
		}, []string{"mesh.authz partial/deadline none: another", "mesh.request complete decision_id: decision log"}},

		{"a decision by request", []evidence.Evidence{
			opa("decision", decided("d"), request("r"), ab), calleeALS("log", request("r"), ab),
		}, []string{"mesh.request complete request: decision log"}},

		{"a decision asked with the caller's span", []evidence.Evidence{
			opa("decision", decided("d"), trace(1, 0, 1)), calleeALS("log", trace(1, 0, 1)),
			opa("earlier", decided("e"), trace(1, 0, 1), at(-time.Minute)),
		}, []string{"mesh.authz partial/deadline none: earlier", "mesh.request complete span: decision log"}},

		{"proxies that do not trace: all name the caller's span", []evidence.Evidence{
			appSpan("app out", client, trace(1, 1, 0)), callerALS("client", trace(1, 1, 0)),
			calleeALS("server", trace(1, 0, 1), request("r"), decided("d")), appSpan("app in", server, trace(1, 2, 1)),
			opa("decision", decided("d"), trace(1, 9, 1)),
		}, []string{"mesh.request complete span: app in app out client decision server"}},

		{"a callee's log that names its proxy's span by the forwarded header", []evidence.Evidence{
			proxySpan("in", server, trace(1, 2, 1)), appSpan("app in", server, trace(1, 3, 2)),
			calleeALS("server", trace(1, 0, 2)), callerALS("client", trace(1, 1, 0)),
		}, []string{"mesh.request complete span: app in client in server"}},

		{"a log that knows its span and its parent", []evidence.Evidence{
			calleeALS("server", trace(1, 2, 1)), callerALS("client", trace(1, 1, 0)),
		}, []string{"mesh.request complete span: client server"}},

		{"a decision about another path", []evidence.Evidence{
			opa("decision", decided("d"), request("r"), ab, path("/other")), calleeALS("log", request("r"), ab),
		}, []string{"mesh.authz partial/deadline none: decision", "mesh.request complete none: log"}},

		{"an interim entry alone", []evidence.Evidence{calleeALS("begun", stream("s"), interim)}, nil},

		{"a request that Hubble saw no response of", []evidence.Evidence{
			ev("request", evidence.RoleCallee, evidence.SourceHubble, stream("s"), reporter("n"), interim),
		}, []string{"mesh.request partial/deadline none: request"}},

		{"Hubble's request with its response", []evidence.Evidence{
			ev("request", evidence.RoleCallee, evidence.SourceHubble, stream("s"), reporter("n"), interim),
			ev("response", evidence.RoleCallee, evidence.SourceHubble, stream("s"), reporter("n")),
		}, []string{"mesh.request complete stream: request response"}},

		{"interim entries with the final one", []evidence.Evidence{
			calleeALS("begun", stream("s"), reporter("n"), interim), calleeALS("end", stream("s"), reporter("n")),
			calleeALS("other proxy's", stream("s"), reporter("m"), interim),
		}, []string{"mesh.request complete stream: begun end"}},

		{"one entry over two channels", []evidence.Evidence{
			calleeALS("als", stream("s"), reporter("n")),
			ev("otlp", evidence.RoleCallee, evidence.SourceEnvoyOTLP, stream("s"), reporter("n")),
		}, []string{"mesh.request complete stream: als otlp"}},

		{"a mirrored request is another, which its sender does not report", []evidence.Evidence{
			callerALS("client", request("r"), ab), calleeALS("server", request("r"), ab),
			calleeALS("copy", request("r"), ab, host("b-shadow:8080")),
		}, []string{"mesh.request complete none: copy", "mesh.request complete request: client server"}},

		{"a retry at another pod: the caller names the last", []evidence.Evidence{
			callerALS("client", request("r"), addresses("1", "3"), resends(1)),
			calleeALS("try 1", request("r"), addresses("1", "2"), status(503)), calleeALS("try 2", request("r"), addresses("1", "3"), at(5*time.Millisecond)),
		}, []string{"mesh.request ambiguous/several_candidates request: client try 1", "mesh.request complete request: client try 2"}},

		{"a caller behind a node's address, and no word on who: the only one that calls that pod", []evidence.Evidence{
			callerALS("client", request("r"), addresses("10.0.0.1", "2")), callerALS("another", request("r"), addresses("10.0.0.1", "3")),
			calleeALS("server", request("r"), addresses("192.168.0.1", "2"), at(time.Millisecond)),
		}, []string{"mesh.request ambiguous/several_candidates request: client server", "mesh.request partial/deadline none: another"}},

		{"two alike calls, one tried again: begin and end tell whose attempts are whose", []evidence.Evidence{
			callerALS("client 1", request("r"), ab, lasting(50*time.Millisecond)), calleeALS("server 1", request("r"), ab, at(2*time.Millisecond), lasting(47*time.Millisecond)),
			callerALS("client 2", request("r"), ab, resends(1), at(time.Millisecond), lasting(80*time.Millisecond)),
			calleeALS("server 2, try 1", request("r"), ab, at(time.Millisecond), lasting(9*time.Millisecond)),
			calleeALS("server 2, try 2", request("r"), ab, at(11*time.Millisecond), lasting(69*time.Millisecond)),
		}, []string{
			"mesh.request ambiguous/several_candidates request: client 1 server 1",
			"mesh.request ambiguous/several_candidates request: client 2 server 2, try 1",
			"mesh.request ambiguous/several_candidates request: client 2 server 2, try 2",
		}},

		{"alike calls, one tried again, and clocks apart: certain if all is there", []evidence.Evidence{
			callerALS("client 1", request("r"), ab, reporter("a"), at(61*time.Millisecond), lasting(20*time.Millisecond)),
			calleeALS("server 1", request("r"), ab, reporter("b"), at(1791*time.Millisecond), lasting(19*time.Millisecond)),
			callerALS("client 2", request("r"), ab, reporter("a"), resends(1), lasting(56*time.Millisecond)),
			calleeALS("server 2, try 1", request("r"), ab, reporter("b"), at(1730*time.Millisecond), lasting(16*time.Millisecond)),
			calleeALS("server 2, try 2", request("r"), ab, reporter("b"), at(1732*time.Millisecond), lasting(53*time.Millisecond)),
		}, []string{
			"mesh.request complete request: client 1 server 1",
			"mesh.request complete request: client 2 server 2, try 1",
			"mesh.request complete request: client 2 server 2, try 2",
		}},

		{"more reports than the caller tells of attempts", []evidence.Evidence{
			callerALS("client", request("r"), ab, resends(1)), calleeALS("try 1", request("r"), ab), calleeALS("try 2", request("r"), ab, at(2*time.Millisecond)),
			calleeALS("of another, whose report is lost", request("r"), ab, at(-20*time.Millisecond)),
		}, []string{
			"mesh.request ambiguous/several_candidates request: client of another, whose report is lost",
			"mesh.request ambiguous/several_candidates request: client try 1",
			"mesh.request ambiguous/several_candidates request: client try 2",
		}},

		{"a callee that took longer than its caller waited", []evidence.Evidence{
			callerALS("client", request("r"), ab), calleeALS("server", request("r"), ab, lasting(time.Second)),
		}, []string{"mesh.request ambiguous/several_candidates request: client server"}},

		{"the same identities, other pods", []evidence.Evidence{
			callerALS("client", request("r"), ab, addresses("1", "2")), calleeALS("server", request("r"), ab, addresses("1", "3")),
		}, []string{"mesh.request ambiguous/several_candidates request: client server"}},

		{"two alike calls, of two proxies, beside each other: told apart by when they ended", []evidence.Evidence{
			callerALS("client 1", request("r"), ab, reporter("a"), lasting(50*time.Millisecond)), calleeALS("server 1", request("r"), ab, reporter("b"), at(1500*time.Millisecond), lasting(49*time.Millisecond)),
			callerALS("client 2", request("r"), ab, reporter("a"), lasting(80*time.Millisecond)), calleeALS("server 2", request("r"), ab, reporter("b"), at(1500*time.Millisecond), lasting(79*time.Millisecond)),
		}, []string{"mesh.request complete request: client 1 server 1", "mesh.request complete request: client 2 server 2"}},

		{"three alike calls, one report lost", []evidence.Evidence{
			callerALS("client 1", request("r"), ab, reporter("a")), calleeALS("server 1", request("r"), ab, reporter("b")),
			callerALS("client 2", request("r"), ab, reporter("a"), at(time.Second)), calleeALS("server 2", request("r"), ab, reporter("b"), at(time.Second)),
			calleeALS("server 3", request("r"), ab, reporter("b"), at(2*time.Second)),
		}, []string{
			"mesh.request ambiguous/several_candidates request: client 1 server 1",
			"mesh.request ambiguous/several_candidates request: client 2 server 2",
			"mesh.request ambiguous/several_candidates request: client 2 server 3",
		}},

		{"a span id that proxies pass on and an application forwards names a whole tree", []evidence.Evidence{
			callerALS("to b", trace(1, 1, 0), addresses("1", "2"), reporter("a")), calleeALS("b", trace(1, 0, 1), addresses("1", "2"), reporter("b")),
			callerALS("to c", trace(1, 1, 0), addresses("2", "3"), reporter("b")), calleeALS("c", trace(1, 0, 1), addresses("2", "3"), reporter("c")),
			callerALS("to d", trace(1, 1, 0), addresses("2", "4"), reporter("b"), path("/d")), calleeALS("d", trace(1, 0, 1), addresses("2", "4"), reporter("d"), path("/d")),
		}, []string{"mesh.request complete span: b to b", "mesh.request complete span: c to c", "mesh.request complete span: d to d"}},

		{"what is left of a call on such a span is not another's", []evidence.Evidence{
			callerALS("to b", trace(1, 1, 0), addresses("1", "2"), reporter("a")), calleeALS("b", trace(1, 0, 1), addresses("1", "2"), reporter("b")),
			calleeALS("d", trace(1, 0, 1), addresses("2", "4"), reporter("d"), path("/d")), callerALS("to e", trace(1, 1, 0), addresses("2", "5"), reporter("b"), path("/e")),
		}, []string{"mesh.request complete none: d", "mesh.request complete span: b to b", "mesh.request partial/deadline none: to e"}},

		{"two pods of one workload on such a span: whose caller's report is lost is in doubt", []evidence.Evidence{
			callerALS("client 1", trace(1, 1, 0), addresses("1", "2"), reporter("a")), calleeALS("server 1", trace(1, 0, 1), addresses("1", "2"), reporter("b1")),
			calleeALS("server 2", trace(1, 0, 1), addresses("1", "3"), reporter("b2")),
		}, []string{
			"mesh.request ambiguous/several_candidates span: client 1 server 2", "mesh.request complete span: client 1 server 1",
		}},

		{"the decision that the log names knows who asked", []evidence.Evidence{
			callerALS("client", trace(1, 1, 0)), calleeALS("server", trace(1, 2, 0), decided("d")), opa("decision", decided("d"), trace(1, 0, 1)),
		}, []string{"mesh.request complete span: client decision server"}},

		{"a decision that spans bind to a call whose log is lost", []evidence.Evidence{
			proxySpan("in 1", server, trace(1, 2, 1)), opa("decision", decided("d"), trace(1, 0, 1), ab),
			calleeALS("server 2", trace(1, 4, 0), ab), proxySpan("in 2", server, trace(1, 4, 3)),
		}, []string{"mesh.request complete span: decision in 1", "mesh.request complete span: in 2 server 2"}},

		{"a decision asked from a span that stands for a whole tree", []evidence.Evidence{
			callerALS("to orders", trace(1, 1, 0), path("/orders")), calleeALS("orders", trace(1, 0, 1), path("/orders")),
			callerALS("to charges", trace(1, 1, 0), path("/charges")), calleeALS("charges", trace(1, 0, 1), path("/charges")),
			opa("decision", decided("d"), trace(1, 0, 1), path("/charges")),
		}, []string{"mesh.request complete span: charges decision to charges", "mesh.request complete span: orders to orders"}},

		{"a decision asked from a span that another's caller passed on", []evidence.Evidence{
			opa("decision", decided("d"), trace(1, 0, 1), request("r"), ab), calleeALS("server 1", trace(1, 2, 0), request("r"), ab, decided("d")),
			callerALS("client 2", trace(1, 1, 0), request("r"), ab, at(50*time.Millisecond)), calleeALS("server 2", trace(1, 3, 0), request("r"), ab, at(50*time.Millisecond)),
		}, []string{
			"mesh.request ambiguous/several_candidates none: server 2",
			"mesh.request ambiguous/several_candidates span: client 2 decision server 1",
		}},

		{"a decision nearer to another call from the span that asked", []evidence.Evidence{
			calleeALS("server 1", trace(1, 2, 0), request("r"), ab, lasting(15*time.Millisecond)), proxySpan("in 1", server, trace(1, 2, 1), lasting(15*time.Millisecond)),
			opa("decision", decided("d"), trace(1, 0, 1), request("r"), ab, at(16*time.Millisecond)),
			calleeALS("server 2", trace(1, 3, 0), request("r"), ab, at(16*time.Millisecond)),
		}, []string{
			"mesh.request ambiguous/several_candidates span: decision in 1 server 1",
			"mesh.request complete none: server 2",
		}},

		{"a decision about another request from the span that asked", []evidence.Evidence{
			callerALS("client", trace(1, 1, 0), request("r"), ab), calleeALS("server", trace(1, 0, 1), request("r"), ab, at(time.Millisecond)),
			opa("decision", decided("d"), trace(1, 0, 1), request("s"), ab, at(2*time.Millisecond)),
		}, []string{"mesh.authz partial/deadline none: decision", "mesh.request complete span: client server"}},

		{"a decision made when the call was over", []evidence.Evidence{
			calleeALS("server", request("r"), ab), opa("decision", decided("d"), request("r"), ab, at(11*time.Millisecond)),
		}, []string{"mesh.request ambiguous/several_candidates request: decision server"}},

		{"a decision made shortly after a short call by another clock", []evidence.Evidence{
			calleeALS("server", request("r"), ab, lasting(time.Millisecond)), opa("decision", decided("d"), request("r"), ab, at(4*time.Millisecond)),
		}, []string{"mesh.request complete request: decision server"}},

		{"a decision nearer to an attempt of which only the application's span is there", []evidence.Evidence{
			calleeALS("try 1", trace(1, 0, 1), request("r"), ab, lasting(3*time.Millisecond)), appSpan("app 1", server, trace(1, 2, 1), lasting(3*time.Millisecond)),
			opa("decision", decided("d"), request("r"), ab, at(4*time.Millisecond)), appSpan("app 2", server, trace(1, 3, 1), at(4*time.Millisecond)),
		}, []string{
			"mesh.request ambiguous/several_candidates none: app 2",
			"mesh.request ambiguous/several_candidates request: app 1 decision try 1",
		}},

		{"an application's span that began about when the first attempt was over", []evidence.Evidence{
			calleeALS("try 1", trace(1, 0, 1), request("r"), ab, lasting(8*time.Millisecond)), appSpan("app 2", server, trace(1, 2, 1), at(9*time.Millisecond), lasting(37*time.Millisecond)),
			callerALS("client", trace(1, 1, 0), request("r"), ab, lasting(46*time.Millisecond), resends(1)),
		}, []string{"mesh.request ambiguous/several_candidates span: app 2 client try 1"}},

		{"an application's span that began when the proxy was done", []evidence.Evidence{
			calleeALS("server", trace(1, 0, 1), request("r"), ab), appSpan("app", server, trace(1, 2, 1), at(20*time.Millisecond)),
		}, []string{"mesh.request ambiguous/several_candidates span: app server"}},

		{"a caller on another span than the one that came in", []evidence.Evidence{
			callerALS("client", trace(1, 1, 0), request("r"), ab), calleeALS("server", trace(1, 0, 2), request("r"), ab),
		}, []string{"mesh.request ambiguous/several_candidates request: client server"}},

		{"both attempts of a caller, and another call on its span", []evidence.Evidence{
			callerALS("client", trace(1, 1, 0), request("r"), addresses("10.0.0.1", "10.0.0.3"), resends(1), lasting(20*time.Millisecond)),
			calleeALS("try 1", request("r"), trace(1, 2, 0), addresses("10.0.0.1", "10.0.0.3"), status(503)),
			calleeALS("try 2", request("r"), trace(1, 3, 0), addresses("10.0.0.1", "10.0.0.3"), at(10*time.Millisecond)),
			calleeALS("another", request("r"), trace(1, 0, 1), addresses("10.0.0.1", "10.0.0.4"), at(10*time.Millisecond)),
		}, []string{
			"mesh.request ambiguous/several_candidates request: client try 1",
			"mesh.request ambiguous/several_candidates request: client try 2",
			"mesh.request ambiguous/several_candidates span: another client",
		}},

		{"more attempts than a caller tells of, as decisions asked from its span say", []evidence.Evidence{
			callerALS("client", trace(1, 1, 0), request("r"), addresses("10.0.0.1", "10.0.0.3"), resends(1), lasting(20*time.Millisecond)),
			opa("decision 1", decided("d1"), trace(1, 0, 1), request("r")), calleeALS("try 1", trace(1, 2, 0), request("r"), addresses("10.0.0.1", "10.0.0.2"), decided("d1")),
			opa("decision 2", decided("d2"), trace(1, 0, 1), request("r")), calleeALS("try 2", trace(1, 3, 0), request("r"), addresses("10.0.0.1", "10.0.0.3"), decided("d2")),
			opa("decision 3", decided("d3"), trace(1, 0, 1), request("r")), calleeALS("try 3", trace(1, 4, 0), request("r"), addresses("10.0.0.1", "10.0.0.3"), decided("d3"), at(10*time.Millisecond)),
		}, []string{
			"mesh.request ambiguous/several_candidates span: client decision 1 try 1",
			"mesh.request ambiguous/several_candidates span: client decision 2 try 2",
			"mesh.request ambiguous/several_candidates span: client decision 3 try 3",
		}},

		{"a third attempt, of which only the decision is there", []evidence.Evidence{
			callerALS("client", trace(1, 1, 0), request("r"), ab, addresses("10.0.0.1", "10.0.0.4"), resends(1), lasting(20*time.Millisecond)),
			calleeALS("try 1", request("r"), ab, addresses("10.0.0.1", "10.0.0.2")), calleeALS("try 2", request("r"), ab, addresses("10.0.0.1", "10.0.0.3")),
			opa("decision", decided("d"), trace(1, 0, 1), request("r"), ab, addresses("10.0.0.1", "10.0.0.4")),
		}, []string{
			"mesh.authz ambiguous/several_candidates none: decision",
			"mesh.request ambiguous/several_candidates request: client try 1",
			"mesh.request ambiguous/several_candidates request: client try 2",
		}},

		{"a decision about another connection, perhaps", []evidence.Evidence{
			calleeALS("server", trace(1, 0, 1), request("r"), ab, connected(40001)), opa("decision", decided("d"), trace(1, 0, 1), request("r"), ab, connected(40002)),
		}, []string{"mesh.request ambiguous/several_candidates span: decision server"}},

		{"equal calls on a span that stands for a whole tree, each with its request id", []evidence.Evidence{
			callerALS("client 1", trace(1, 1, 0), request("r"), ab), calleeALS("server 1", trace(1, 0, 1), request("r"), ab),
			callerALS("client 2", trace(1, 1, 0), request("s"), ab), calleeALS("server 2", trace(1, 0, 1), request("s"), ab),
		}, []string{"mesh.request complete span: client 1 server 1", "mesh.request complete span: client 2 server 2"}},

		{"equal calls on a span that stands for a whole tree, one after the other on one connection", []evidence.Evidence{
			callerALS("client 1", trace(1, 1, 0), request("r"), ab, connected(40001), reporter("m")),
			callerALS("client 2", trace(1, 1, 0), request("r"), ab, connected(40001), reporter("m"), at(20*time.Millisecond)),
			calleeALS("server 1", trace(1, 0, 1), request("r"), ab, connected(40001), reporter("n"), at(20*time.Millisecond)), // its clock is ahead
			calleeALS("server 2", trace(1, 0, 1), request("r"), ab, connected(40001), reporter("n"), at(40*time.Millisecond)),
		}, []string{"mesh.request complete span: client 1 server 1", "mesh.request complete span: client 2 server 2"}},

		{"equal calls on a span that stands for a whole tree, at the same time on one connection", []evidence.Evidence{
			callerALS("client 1", trace(1, 1, 0), request("r"), ab, connected(40001), reporter("m")),
			callerALS("client 2", trace(1, 1, 0), request("r"), ab, connected(40001), reporter("m"), at(time.Millisecond)),
			calleeALS("server 1", trace(1, 0, 1), request("r"), ab, connected(40001), reporter("n"), at(time.Millisecond)),
			calleeALS("server 2", trace(1, 0, 1), request("r"), ab, connected(40001), reporter("n"), at(2*time.Millisecond)),
		}, []string{
			"mesh.request ambiguous/several_candidates span: client 1 server 1",
			"mesh.request ambiguous/several_candidates span: client 2 server 2",
		}},

		{"a retry to another pod, each attempt numbered, in a trace", []evidence.Evidence{
			callerALS("client", request("r"), trace(1, 1, 0), addresses("10.0.0.1", "10.0.0.3"), resends(1), lasting(20*time.Millisecond)),
			calleeALS("try 1", request("r"), trace(1, 0, 0), addresses("10.0.0.1", "10.0.0.2"), status(503)),
			calleeALS("try 2", request("r"), trace(1, 0, 0), addresses("10.0.0.1", "10.0.0.3"), resends(1), at(5*time.Millisecond)),
		}, []string{"mesh.request complete request: client try 1", "mesh.request complete request: client try 2"}},

		{"an attempt at another call's pod, on a span that stands for a whole tree", []evidence.Evidence{
			callerALS("to orders", trace(1, 1, 0), request("r"), ab, path("/orders")), calleeALS("orders", trace(1, 0, 1), request("r"), ab, path("/orders")),
			callerALS("client", trace(1, 1, 0), request("r"), addresses("10.0.0.1", "10.0.0.3"), resends(1), lasting(40*time.Millisecond)),
			calleeALS("try 2", request("r"), addresses("10.0.0.1", "10.0.0.3"), at(20*time.Millisecond)),
			callerALS("another", trace(1, 1, 0), request("r"), connected(40001)), calleeALS("server", request("r"), connected(40001)),
			calleeALS("try 1", request("r"), connected(40002), status(503)),
		}, []string{
			"mesh.request ambiguous/several_candidates none: try 1",
			"mesh.request ambiguous/several_candidates request: another server",
			"mesh.request complete request: client try 2",
			"mesh.request complete span: orders to orders",
		}},

		{"a pod calls itself by a span that was passed on to it", []evidence.Evidence{
			callerALS("client", trace(1, 1, 0), request("r"), addresses("10.0.0.1", "10.0.0.2"), reporter("m"), lasting(60*time.Millisecond)),
			proxySpan("out", client, trace(1, 1, 0), request("r"), addresses("10.0.0.1", "10.0.0.2"), reporter("m"), lasting(60*time.Millisecond)),
			calleeALS("server", trace(1, 0, 1), request("r"), addresses("10.0.0.1", "10.0.0.2"), reporter("n"), lasting(60*time.Millisecond)),
			callerALS("to itself", trace(1, 1, 0), request("r"), addresses("10.0.0.2", "10.0.0.2"), reporter("n"), at(20*time.Millisecond)),
			calleeALS("itself", trace(1, 0, 1), request("r"), addresses("10.0.0.2", "10.0.0.2"), reporter("n"), at(20*time.Millisecond)),
		}, []string{"mesh.request ambiguous/several_candidates span: itself to itself", "mesh.request complete span: client out server"}},

		{"a retry at the pod that calls, by one proxy", []evidence.Evidence{
			callerALS("client", trace(1, 1, 0), request("r"), addresses("10.0.0.1", "10.0.0.1"), reporter("n"), resends(1), lasting(20*time.Millisecond)),
			proxySpan("out", client, trace(1, 1, 0), request("r"), addresses("10.0.0.1", "10.0.0.1"), reporter("n"), lasting(20*time.Millisecond)),
			calleeALS("server", trace(1, 2, 0), request("r"), addresses("10.0.0.1", "10.0.0.1"), reporter("n"), at(5*time.Millisecond)),
			proxySpan("in", server, trace(1, 2, 1), request("r"), addresses("10.0.0.1", "10.0.0.1"), reporter("n"), at(5*time.Millisecond)),
			proxySpan("before", server, trace(1, 3, 1), request("r"), addresses("10.0.0.1", "10.0.0.2"), reporter("m")),
		}, []string{"mesh.request complete span: before client out", "mesh.request complete span: client in out server"}},

		{"applications' spans where proxies do not trace", []evidence.Evidence{
			callerALS("client", request("r"), ab, pod("a-1"), trace(1, 0, 0)), calleeALS("server", request("r"), ab, calledPod("b-1"), trace(1, 0, 0)),
			appSpan("app out", client, request("r"), ab, pod("a-1"), trace(1, 1, 0)), appSpan("app in", server, request("r"), ab, calledPod("b-1"), trace(1, 2, 9)),
		}, []string{"mesh.request complete none: app in", "mesh.request complete request: app out client server"}},

		{"and their logs name no trace", []evidence.Evidence{
			callerALS("client", request("r"), ab, pod("a-1")), calleeALS("server", request("r"), ab, calledPod("b-1")),
			appSpan("app out", client, request("r"), ab, pod("a-1"), trace(1, 1, 0)), appSpan("app in", server, request("r"), ab, calledPod("b-1"), trace(1, 2, 1)),
		}, []string{"mesh.request complete request: client server", "mesh.request complete span: app in app out"}},

		{"an application's span around its proxy's log, whose span is lost", []evidence.Evidence{
			appSpan("app out", client, trace(1, 1, 0), pod("a-1")), appSpan("another", client, trace(1, 5, 0), pod("a-1"), path("/other")),
			callerALS("client", trace(1, 2, 0), pod("a-1")), proxySpan("in", server, trace(1, 3, 2)), calleeALS("server", trace(1, 3, 0)),
		}, []string{"mesh.request complete request: app out client in server", "mesh.request partial/deadline none: another"}},

		{"a proxy's log without span id and its span", []evidence.Evidence{
			calleeALS("log", request("r"), reporter("n")),
			proxySpan("in", server, trace(1, 2, 1), request("r"), reporter("n")),
			proxySpan("out", client, trace(1, 1, 0), request("r"), reporter("m")),
		}, []string{"mesh.request complete request: in log out"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// Every rotation and its mirror: the order must not matter.
			for shift := range tt.evidence {
				for _, mirrored := range []bool{false, true} {
					batch := slices.Concat(tt.evidence[shift:], tt.evidence[:shift])
					if mirrored {
						slices.Reverse(batch)
					}
					c := New(testConfig())
					for i := range batch {
						c.Add(t0.Add(time.Duration(i)*time.Millisecond), batch[i:i+1])
					}
					c.Add(t0.Add(100*time.Millisecond), batch) // a resend
					c.Advance(t0.Add(time.Minute))
					got := showAll(drain(t, c), batch)
					assert.Equal(t, tt.want, got, "shift %d mirrored %v", shift, mirrored)
					s := c.Stats()
					assert.Zero(t, s.Pending)
					assert.EqualValues(t, s.Evidence, s.Duplicates)
				}
			}
		})
	}
}

func TestRecordFields(t *testing.T) {
	c := New(testConfig())
	c.Add(t0, []evidence.Evidence{
		callerALS("client", trace(1, 2, 0), mtls("a", "b"), reporter("sidecar~a"), stream("sa"), func(e *evidence.Evidence) {
			e.From.Workload = evidence.Workload{Name: "a-v1", Namespace: "shop", Version: "v1"}
		}),
		calleeALS("server", trace(1, 3, 0), mtls("a", "b"), reporter("sidecar~b"), stream("sb"), status(403), decided("d"), func(e *evidence.Evidence) {
			e.To.Workload = evidence.Workload{Name: "b-v2", PodName: "b-v2-1"}
			e.TLS = evidence.TLS{Known: true, Established: true, Version: "1.3", Mutual: true}
		}),
		proxySpan("in", evidence.SpanServer, trace(1, 3, 2)),
		opa("decision", decided("d"), func(e *evidence.Evidence) {
			e.Verdict.Decision, e.Verdict.DecisionID, e.User = evidence.Deny, "d", "alice"
		}),
	})
	c.Advance(t0.Add(time.Second))
	rs := drain(t, c)
	require.Len(t, rs, 1)
	r := rs[0]
	server := sha256.Sum256([]byte("server"))
	assert.Equal(t, RecordID(sha256.Sum256(server[:])), r.ID)
	assert.Equal(t, Complete, r.State)
	assert.Equal(t, TierSpan, r.Join.Method, "the weakest tier used")
	assert.Equal(t, 1.0, r.Join.Confidence)
	assert.Equal(t, td+"a", r.Source.ID.String())
	assert.Equal(t, td+"b", r.Destination.ID.String())
	assert.Equal(t, evidence.ProofMTLSSAN, r.Source.Proof)
	assert.Equal(t, "v1", r.Source.Workload.Version)
	assert.Equal(t, "b-v2-1", r.Destination.Workload.PodName)
	assert.Equal(t, Failure, r.Outcome)
	assert.Equal(t, "alice", r.User)
	assert.Equal(t, &evidence.Verdict{Engine: "opa", Decision: evidence.Deny, Enforced: true, PolicyID: "mesh/allow", PolicyRevision: "7", DecisionID: "d"}, r.Verdict)
	assert.Equal(t, "1.3", r.TLS.Version)
	assert.Empty(t, r.Conflicts)
	assert.Equal(t, []Hop{
		{ID: r.Source.ID, Role: "source", Node: "sidecar~a", StreamID: "sa"},
		{ID: r.Destination.ID, Role: "destination", Node: "sidecar~b", StreamID: "sb"},
	}, r.Hops)
	require.Len(t, r.Attestations, 4)
	assert.Equal(t, evidence.ID(server), r.Attestations[0].ID, "the anchor comes first")
}

// Who connected is what the callee's outermost report says: its application sees
// its own proxy connect.
func TestWhoConnected(t *testing.T) {
	for name, tc := range map[string]struct{ client, peer, want string }{
		"as the client says":      {"10.0.0.1", "", ""},
		"another than the client": {"203.0.113.1", "10.0.0.1", "10.0.0.1"},
		"only the application":    {"", "", "127.0.0.6"},
	} {
		t.Run(name, func(t *testing.T) {
			c := New(testConfig())
			c.Add(t0, []evidence.Evidence{
				calleeALS("server", trace(1, 3, 0), func(e *evidence.Evidence) { e.From.Address, e.PeerAddress = tc.client, tc.peer }),
				appSpan("in", evidence.SpanServer, trace(1, 4, 3), func(e *evidence.Evidence) { e.PeerAddress = "127.0.0.6" }),
			})
			c.Advance(t0.Add(time.Second))
			rs := drain(t, c)
			require.Len(t, rs, 1)
			require.Len(t, rs[0].Attestations, 2)
			require.Equal(t, tc.want, rs[0].PeerAddress)
		})
	}
}

// Of a call that lasted longer than evidence is kept, nobody knows an attempt that ended
// long ago.
func TestForgottenAttempt(t *testing.T) {
	cfg := testConfig()
	c := New(cfg)
	long := lasting(cfg.LateWindow + time.Minute)
	c.Add(t0, []evidence.Evidence{calleeALS("try 1", request("r"), mtls("a", "b"))})
	now := t0.Add(cfg.Window + cfg.LateWindow + 2*time.Minute)
	c.Advance(now)
	c.Add(now, []evidence.Evidence{calleeALS("try 2", request("r"), mtls("a", "b"), long), callerALS("client", request("r"), mtls("a", "b"), resends(1), long)})
	c.Advance(now.Add(time.Minute))
	rs := drain(t, c)
	require.Len(t, rs, 2)
	assert.Equal(t, Complete, rs[0].State)
	assert.Equal(t, Ambiguous, rs[1].State)
}

// A span that an application passes on stands for several calls. Where more reports are
// beneath it than its callers' logs tell of attempts, a log is missing: which report it
// told of nobody knows.
// What several say of who acts is one actor, unless they tell of two tokens.
func TestActorOfSeveral(t *testing.T) {
	web := evidence.Actor{Token: evidence.Token{AuthorizedParty: "web"}}
	full := evidence.Actor{Roles: []string{"buyer"}, Delegation: []evidence.Delegate{{Subject: "agent"}},
		Token: evidence.Token{Issuer: "idp", AuthorizedParty: "web", JKT: "k", Bound: "dpop", Proof: "verified"}}
	merged := func(t *testing.T, logUser string, log *evidence.Actor, user string, decision *evidence.Actor) *Record {
		by := func(user string, a *evidence.Actor) option {
			return func(e *evidence.Evidence) { e.User, e.Actor = user, a }
		}
		c := New(testConfig())
		c.Add(t0, []evidence.Evidence{calleeALS("log", decided("d"), by(logUser, log)), opa("decision", decided("d"), by(user, decision))})
		c.Advance(t0.Add(time.Hour))
		rs := drain(t, c)
		require.Len(t, rs, 1)
		return rs[0]
	}
	for name, tc := range map[string]struct {
		logUser, user string
		log, decision evidence.Actor
		want          evidence.Actor
	}{
		"the same":            {"alice", "alice", full, full, full},
		"a client alone":      {"", "alice", web, full, full},
		"a proof alone":       {"", "alice", evidence.Actor{Token: evidence.Token{Proof: "valid, token unknown"}}, full, full},
		"a proof that failed": {"alice", "", full, evidence.Actor{Token: evidence.Token{Proof: "failed: htu"}}, full},
		"two judge a proof": {"alice", "alice", evidence.Actor{Token: evidence.Token{Bound: "dpop", Proof: "verified"}},
			evidence.Actor{Roles: []string{"buyer"}, Token: evidence.Token{Bound: "dpop", Proof: "failed: htu"}},
			evidence.Actor{Roles: []string{"buyer"}, Token: evidence.Token{Bound: "dpop", Proof: "verified"}}},
		"of Istio's principal": {"idp/alice", "alice", web, full, full},
		"another user's":       {"bob", "alice", web, full, web},
		"another client's":     {"alice", "alice", evidence.Actor{Token: evidence.Token{AuthorizedParty: "cli"}}, full, evidence.Actor{Token: evidence.Token{AuthorizedParty: "cli"}}},
		"others' roles":        {"alice", "alice", evidence.Actor{Roles: []string{"admin"}}, full, evidence.Actor{Roles: []string{"admin"}}},
		"others' delegation":   {"alice", "alice", full, evidence.Actor{Roles: []string{"buyer"}, Delegation: []evidence.Delegate{{Subject: "x"}}, Token: evidence.Token{Audience: "a"}}, full},
		"to what nobody bound": {"", "", web, evidence.Actor{Token: evidence.Token{Issuer: "idp"}}, evidence.Actor{Token: evidence.Token{Issuer: "idp", AuthorizedParty: "web"}}},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, &tc.want, merged(t, tc.logUser, &tc.log, tc.user, &tc.decision).Actor)
		})
	}
	c := New(testConfig())
	c.Add(t0, []evidence.Evidence{
		calleeALS("log", trace(1, 2, 1), func(e *evidence.Evidence) { e.Actor = &evidence.Actor{Token: evidence.Token{Issuer: "idp"}} }),
		callerALS("gateway", trace(1, 1, 0), func(e *evidence.Evidence) { e.Actor = &web }),
	})
	c.Advance(t0.Add(time.Hour))
	require.Equal(t, evidence.Token{Issuer: "idp"}, drain(t, c)[0].Actor.Token, "the gateway's may be of another token")

	r := merged(t, "idp/alice", nil, "alice", &full)
	require.Equal(t, &full, r.Actor)
	require.Empty(t, r.Conflicts)
	r = merged(t, "bob", nil, "alice", &full)
	require.Nil(t, r.Actor, "alice's roles are not bob's")
	require.Len(t, r.Conflicts, 1)
}

func TestMoreReportsThanAttempts(t *testing.T) {
	logs := []evidence.Evidence{ // that tell of their parent
		calleeALS("0", trace(1, 2, 1), mtls("a", "b")), calleeALS("1", trace(1, 3, 1), mtls("a", "b"), at(10*time.Millisecond)),
		calleeALS("2", trace(1, 4, 1), mtls("a", "b"), at(20*time.Millisecond)),
	}
	var lines []evidence.Evidence // that do not, and spans that do
	for i, log := range logs {
		span := proxySpan(fmt.Sprint("span ", i), evidence.SpanServer, trace(1, byte(2+i), 1), mtls("a", "b"))
		span.Start, span.End, log.ParentSpanID = log.Start, log.End, evidence.SpanID{}
		lines = append(lines, log, span)
	}
	for name, reports := range map[string][]evidence.Evidence{"logs": logs, "lines and spans": lines} {
		for resent, want := range map[int]State{1: Ambiguous, 2: Complete} {
			t.Run(fmt.Sprint(name, ", sent again ", resent), func(t *testing.T) {
				c := New(testConfig())
				c.Add(t0, append(reports, callerALS("log", trace(1, 1, 0), mtls("a", "b"), lasting(40*time.Millisecond), resends(resent)),
					callerALS("of another call", trace(1, 1, 0), mtls("b", "c"), path("/other"))))
				c.Advance(t0.Add(time.Minute))
				rs := slices.DeleteFunc(drain(t, c), func(r *Record) bool { return r.Path == "/other" })
				require.Len(t, rs, 3)
				for _, r := range rs {
					assert.Equal(t, want, r.State)
				}
			})
		}
	}
}

// What was denied and served all the same was a success, and is a finding. Which of the
// two was told first must not matter.
func TestOutcomeOfWhatWasDenied(t *testing.T) {
	served, refused := calleeALS("log", decided("d"), status(200)), calleeALS("log", decided("d"), status(403))
	deny := opa("decision", decided("d"), verdict(evidence.Deny, "opa"))
	for name, tc := range map[string]struct {
		told []evidence.Evidence
		want []Outcome
	}{
		"at once":            {[]evidence.Evidence{served, deny}, []Outcome{Success}},
		"the decision later": {[]evidence.Evidence{served, deny}, []Outcome{Success, Success}},
		"the call later":     {[]evidence.Evidence{deny, served}, []Outcome{Failure, Success}},
		"refused":            {[]evidence.Evidence{refused, deny}, []Outcome{Failure, Failure}},
		"nobody says":        {[]evidence.Evidence{deny}, []Outcome{Failure}},
	} {
		t.Run(name, func(t *testing.T) {
			c := New(testConfig())
			each := len(tc.told) / len(tc.want)
			for i := 0; i < len(tc.told); i += each {
				c.Add(t0.Add(time.Duration(i)*time.Minute), tc.told[i:i+each])
				c.Advance(t0.Add(time.Duration(i)*time.Minute + 30*time.Second))
			}
			var got []Outcome
			for _, r := range drain(t, c) {
				got = append(got, r.Outcome)
			}
			assert.Equal(t, tc.want, got)
		})
	}
}

func TestConflicts(t *testing.T) {
	one := func(batch ...evidence.Evidence) *Record {
		c := New(testConfig())
		c.Add(t0, batch)
		c.Advance(t0.Add(time.Minute))
		rs := drain(t, c)
		require.Len(t, rs, 1)
		return rs[0]
	}
	t.Run("a spoofed header never wins", func(t *testing.T) {
		r := one(calleeALS("log", claims(td+"admin", "header.x-spiffe-id"), func(e *evidence.Evidence) {
			e.From.Identities = append(e.From.Identities, identity(td+"a", evidence.ProofMTLSSAN, "tls.peer.san"))
		}))
		assert.Equal(t, td+"a", r.Source.ID.String())
		require.Len(t, r.Conflicts, 1)
		assert.Equal(t, Conflict{
			Field: semconv.SourceSPIFFEID, Kept: td + "a", KeptProof: evidence.ProofMTLSSAN,
			Other: td + "admin", OtherProof: evidence.ProofClaimed, From: "header.x-spiffe-id",
			Evidence: sha256.Sum256([]byte("log")),
		}, r.Conflicts[0])
		assert.Equal(t, Complete, r.State, "what is stated differs; the join is not in doubt")
	})
	t.Run("a header that nothing contradicts stays a claim", func(t *testing.T) {
		r := one(calleeALS("log", claims(td+"admin", "header.x-spiffe-id")))
		assert.Equal(t, td+"admin", r.Source.ID.String())
		assert.Equal(t, evidence.ProofClaimed, r.Source.Proof)
	})
	t.Run("an invalid SPIFFE ID", func(t *testing.T) {
		r := one(calleeALS("log", claims("spiffe://Bad Domain/x", "header.x-spiffe-id")))
		assert.True(t, r.Source.ID.IsZero())
		require.Len(t, r.Conflicts, 1)
		assert.Equal(t, "spiffe://Bad Domain/x", r.Conflicts[0].Other)
	})
	t.Run("two sidecars disagree", func(t *testing.T) {
		r := one(
			callerALS("client", trace(1, 1, 0), mtls("x", "b")), calleeALS("server", trace(1, 2, 0), mtls("a", "b")),
			proxySpan("in", evidence.SpanServer, trace(1, 2, 1)))
		assert.Equal(t, td+"a", r.Source.ID.String(), "the callee terminated the connection")
		require.Len(t, r.Conflicts, 1)
		assert.Equal(t, td+"x", r.Conflicts[0].Other)
	})
	t.Run("the log denied, the policy engine allowed", func(t *testing.T) {
		r := one(calleeALS("log", decided("d"), status(403), verdict(evidence.Deny, "envoy_rbac")), opa("opa", decided("d")))
		assert.Equal(t, evidence.Allow, r.Verdict.Decision)
		require.Len(t, r.Conflicts, 1)
		assert.Equal(t, semconv.AuthzDecision, r.Conflicts[0].Field)
		assert.Equal(t, "deny", r.Conflicts[0].Other)
	})
	t.Run("a dry run says otherwise", func(t *testing.T) {
		dry := func(e *evidence.Evidence) {
			e.Verdict = &evidence.Verdict{Engine: "envoy_rbac", Decision: evidence.Deny, PolicyID: "next"}
		}
		log := calleeALS("log", trace(1, 2, 1), verdict(evidence.Allow, "envoy_ext_authz"))
		span := proxySpan("in", evidence.SpanServer, trace(1, 2, 1), dry)
		r := one(log, span)
		assert.Equal(t, &evidence.Verdict{Engine: "envoy_ext_authz", Decision: evidence.Allow, Enforced: true}, r.Verdict)
		assert.Empty(t, r.Conflicts)
		c := New(testConfig())
		for i, e := range []evidence.Evidence{span, log} { // the second amends
			c.Add(t0.Add(time.Duration(i)*time.Minute), []evidence.Evidence{e})
			c.Advance(t0.Add(time.Duration(i+1) * time.Minute))
		}
		rs := drain(t, c)
		require.Len(t, rs, 2)
		for _, r := range rs {
			assert.Empty(t, r.Conflicts)
		}
		assert.Equal(t, evidence.Deny, rs[0].Verdict.Decision)
		assert.Equal(t, evidence.Allow, rs[1].Verdict.Decision)
	})
	t.Run("another's policy lends nothing", func(t *testing.T) {
		rbac := func(e *evidence.Evidence) {
			e.Verdict = &evidence.Verdict{Engine: "envoy_rbac", Decision: evidence.Allow, Enforced: true, PolicyID: "all", PolicyNamespace: "shop"}
		}
		r := one(calleeALS("log", decided("d"), rbac), opa("opa", decided("d")))
		assert.Equal(t, "mesh/allow", r.Verdict.PolicyID)
		assert.Empty(t, r.Verdict.PolicyNamespace)
	})
	t.Run("the log's own verdict", func(t *testing.T) {
		r := one(calleeALS("log", verdict(evidence.Deny, "envoy_rbac")))
		assert.Equal(t, evidence.Deny, r.Verdict.Decision)
		assert.Equal(t, "envoy_rbac", r.Verdict.Engine)
		assert.Equal(t, Failure, r.Outcome)
		assert.Equal(t, Complete, r.State)
	})
	t.Run("a retry's status is no conflict", func(t *testing.T) {
		r := one(callerALS("client", request("r"), mtls("a", "b"), resends(1), status(200)),
			calleeALS("try", request("r"), mtls("a", "b"), status(503)))
		assert.Empty(t, r.Conflicts)
		assert.Zero(t, r.ResendCount, "the first attempt is no retry")
		assert.Equal(t, 503, r.Status)
		r = one(callerALS("client", request("r"), mtls("a", "b"), resends(2)),
			calleeALS("try", request("r"), mtls("a", "b"), resends(1)))
		assert.Equal(t, 1, r.ResendCount)
		r = one(callerALS("client", request("r"), mtls("a", "b"), resends(2)))
		assert.Equal(t, 2, r.ResendCount, "nobody else tells")
	})
	t.Run("the caller saw another status", func(t *testing.T) {
		r := one(callerALS("client", request("r"), mtls("a", "b"), status(504)),
			calleeALS("server", request("r"), mtls("a", "b"), status(200)))
		require.Len(t, r.Conflicts, 1)
		assert.Equal(t, "504", r.Conflicts[0].Other)
	})
}

func TestLateDecisionAmends(t *testing.T) {
	c := New(testConfig())
	c.Add(t0, []evidence.Evidence{calleeALS("log", decided("d"), mtls("a", "b"), status(200))})
	c.Advance(t0.Add(9999 * time.Millisecond))
	require.Empty(t, drain(t, c), "the record waits for the decision that its report names")
	c.Advance(t0.Add(10 * time.Second))
	rs := drain(t, c)
	require.Len(t, rs, 1)
	assert.Equal(t, Partial, rs[0].State)
	assert.Equal(t, ReasonDeadline, rs[0].Reason)
	record := rs[0].ID

	// Five minutes later, as OPA does by default; and once more.
	for range 2 {
		c.Add(t0.Add(5*time.Minute), []evidence.Evidence{opa("decision", decided("d"), func(e *evidence.Evidence) { e.Verdict.Decision = evidence.Deny })})
		c.Advance(t0.Add(6 * time.Minute))
	}
	rs = drain(t, c)
	require.Len(t, rs, 1)
	a := rs[0]
	assert.Equal(t, semconv.EventAmendment, a.EventName)
	assert.Equal(t, record, a.Amends)
	assert.NotEqual(t, record, a.ID)
	assert.Equal(t, Complete, a.State, "now all is there")
	assert.Equal(t, evidence.Deny, a.Verdict.Decision)
	assert.Equal(t, "7", a.Verdict.PolicyRevision)
	assert.Equal(t, TierDecisionID, a.Join.Method)
	require.Len(t, a.Attestations, 1, "only what is new")
	assert.Equal(t, td+"a", a.Source.ID.String(), "an amendment says whom it is about")

	// After the late window nothing is known of it.
	c.Advance(t0.Add(20 * time.Minute))
	assert.Zero(t, c.Stats().Kept)
	assert.Zero(t, c.Stats().Bytes)
	assertForgotten(t, c)
}

func TestLateReportAmends(t *testing.T) {
	c := New(testConfig())
	c.Add(t0, []evidence.Evidence{callerALS("client", request("r"), mtls("a", "b"))})
	c.Advance(t0.Add(10 * time.Second))
	first := drain(t, c)
	require.Len(t, first, 1)
	assert.Equal(t, Partial, first[0].State)

	// The callee's report belongs to the same action; a second one does not.
	c.Add(t0.Add(20*time.Second), []evidence.Evidence{calleeALS("server", request("r"), mtls("x", "b"), addresses("1", "2"))})
	c.Add(t0.Add(20*time.Second), []evidence.Evidence{calleeALS("try 1", request("r"), mtls("a", "b"))})
	c.Advance(t0.Add(22 * time.Second))
	c.Add(t0.Add(23*time.Second), []evidence.Evidence{calleeALS("try 2", request("r"), mtls("a", "b"))})
	c.Advance(t0.Add(25 * time.Second))
	rs := drain(t, c)
	require.Len(t, rs, 4)
	assert.Equal(t, semconv.EventRequest, rs[0].EventName, "another source")
	assert.Equal(t, semconv.EventAmendment, rs[1].EventName)
	assert.Equal(t, first[0].ID, rs[1].Amends)
	assert.Equal(t, Complete, rs[1].State)
	assert.Equal(t, semconv.EventRequest, rs[2].EventName, "a retry is another action")
	assert.Equal(t, Ambiguous, rs[2].State, "the caller tells of one attempt")
	assert.Equal(t, first[0].ID, rs[3].Amends, "which was thought to be the first")
	assert.Equal(t, Ambiguous, rs[3].State)
	assert.Empty(t, rs[3].Attestations)
}

// A stream is longer than the window. What its proxies said when it began is cited
// with what they say when it has ended.
func TestLongStream(t *testing.T) {
	c := New(testConfig())
	of := []option{stream("s"), reporter("n"), mtls("a", "b")}
	c.Add(t0, []evidence.Evidence{calleeALS("begun", append(of, interim)...)})
	c.Advance(t0.Add(time.Minute))
	require.Empty(t, drain(t, c))
	c.Add(t0.Add(5*time.Minute), []evidence.Evidence{calleeALS("ended", append(of, lasting(5*time.Minute))...)})
	c.Advance(t0.Add(6 * time.Minute))
	rs := drain(t, c)
	require.Len(t, rs, 1)
	assert.Equal(t, Complete, rs[0].State)
	assert.Len(t, rs[0].Attestations, 2)
	c.Advance(t0.Add(time.Hour))
	assert.Zero(t, c.Stats().Bytes)
}

// The second attempt's report comes when the caller's content is no longer kept:
// its record cannot cite the caller, and says so.
func TestLateAttempt(t *testing.T) {
	c := New(testConfig())
	c.Add(t0, []evidence.Evidence{
		callerALS("client", request("r"), mtls("a", "b"), resends(1)), calleeALS("try 1", request("r"), mtls("a", "b")),
	})
	c.Advance(t0.Add(time.Minute))
	require.Len(t, drain(t, c), 1)
	c.Add(t0.Add(time.Minute), []evidence.Evidence{calleeALS("try 2", request("r"), mtls("a", "b"))})
	c.Advance(t0.Add(2 * time.Minute))
	rs := drain(t, c)
	require.Len(t, rs, 1)
	assert.Equal(t, semconv.EventRequest, rs[0].EventName)
	assert.Equal(t, Partial, rs[0].State)
}

// An application's span above those of two attempts, or calls, comes late: the record of
// each is amended with it, also of one that no callee reports.
func TestLateSpanAboveSeveral(t *testing.T) {
	const server, client = evidence.SpanServer, evidence.SpanClient
	in1, in2 := proxySpan("in 1", server, trace(1, 4, 2)), proxySpan("in 2", server, trace(1, 5, 3))
	out1, out2 := proxySpan("out 1", client, trace(1, 2, 1)), proxySpan("out 2", client, trace(1, 3, 1))
	for name, first := range map[string][]evidence.Evidence{
		"both reported": {out1, out2, in1, in2},
		"the first":     {out1, out2, in1},
		"the second":    {out1, out2, in2},
		"none":          {out1, out2},
	} {
		t.Run(name, func(t *testing.T) {
			c := New(testConfig())
			c.Add(t0, first)
			c.Advance(t0.Add(10 * time.Second))
			records := drain(t, c)
			require.Len(t, records, 2)
			app := appSpan("app", client, trace(1, 1, 0))
			c.Add(t0.Add(11*time.Second), []evidence.Evidence{app})
			c.Advance(t0.Add(30 * time.Second))
			var amended []RecordID
			for _, r := range drain(t, c) {
				require.Len(t, r.Attestations, 1)
				require.Equal(t, app.ID, r.Attestations[0].ID)
				amended = append(amended, r.Amends)
			}
			assert.ElementsMatch(t, []RecordID{records[0].ID, records[1].ID}, amended)
		})
	}
}

// A decision that one record took because no log named it, and then one does.
func TestDecisionThatIsAnothers(t *testing.T) {
	c := New(testConfig())
	c.Add(t0, []evidence.Evidence{callerALS("client", trace(1, 1, 0), resends(1)), calleeALS("try 1", trace(1, 0, 1), reporter("b")), opa("decision", decided("d"), trace(1, 0, 1))})
	c.Advance(t0.Add(10 * time.Second))
	first := drain(t, c)
	require.Len(t, first, 1)
	c.Add(t0.Add(time.Minute), []evidence.Evidence{calleeALS("try 2", trace(1, 0, 1), reporter("c"), decided("d"))})
	c.Advance(t0.Add(2 * time.Minute))
	state := first[0].State
	for _, r := range drain(t, c) {
		if r.Amends == first[0].ID {
			state = r.State
		}
	}
	assert.Equal(t, Ambiguous, state)
}

// Two alike calls, with one request id, of which one lost the callee's report and
// the other the caller's, leave what one call between nodes with other clocks
// leaves: the same two statements, word for word. So nobody can tell, and both
// give the same record, in no doubt. TestAccuracy counts such records on a line of
// their own. What does tell is told: see the joins in doubt above.
func TestLookalike(t *testing.T) {
	// Calls begin at 0 and 100 ms and take 10; all clocks are right.
	first := callerALS("client of the first", request("r"), mtls("a", "b"))
	second := calleeALS("server of the second", request("r"), mtls("a", "b"), at(100*time.Millisecond))
	twoCalls := []evidence.Evidence{first, second} // the other two were lost
	// One call begins at 0; the callee's clock is 100 ms ahead.
	oneCall := []evidence.Evidence{
		callerALS("client of the first", request("r"), mtls("a", "b")),
		calleeALS("server of the second", request("r"), mtls("a", "b"), at(100*time.Millisecond)),
	}
	require.Equal(t, twoCalls, oneCall)
	c := New(testConfig())
	c.Add(t0, twoCalls)
	c.Advance(t0.Add(time.Minute))
	require.Equal(t, []string{"mesh.request complete request: client of the first server of the second"}, showAll(drain(t, c), twoCalls))

	// Clocks that are known to be better tell.
	cfg := testConfig()
	cfg.ClockSkew = 40 * time.Millisecond
	c = New(cfg)
	c.Add(t0, twoCalls)
	c.Advance(t0.Add(time.Minute))
	require.Len(t, drain(t, c), 2)
}

func TestAmendmentConflicts(t *testing.T) {
	c := New(testConfig())
	c.Add(t0, []evidence.Evidence{calleeALS("server", trace(1, 2, 0), mtls("a", "b")), proxySpan("in", evidence.SpanServer, trace(1, 2, 1))})
	c.Advance(t0.Add(10 * time.Second))
	require.Len(t, drain(t, c), 1)
	c.Add(t0.Add(20*time.Second), []evidence.Evidence{callerALS("client", trace(1, 1, 0), mtls("x", "b"))})
	c.Advance(t0.Add(22 * time.Second))
	rs := drain(t, c)
	require.Len(t, rs, 1)
	require.Len(t, rs[0].Conflicts, 1)
	assert.Equal(t, td+"a", rs[0].Conflicts[0].Kept)
	assert.Equal(t, td+"x", rs[0].Conflicts[0].Other)
}

func TestSettle(t *testing.T) {
	cfg := testConfig()
	cfg.Settle = 0
	c := New(cfg)
	c.Add(t0, []evidence.Evidence{calleeALS("server", trace(1, 2, 0))})
	require.Len(t, drain(t, c), 1, "without settling the record leaves with the batch")
	c.Add(t0.Add(time.Millisecond), []evidence.Evidence{appSpan("app", evidence.SpanServer, trace(1, 3, 2))})
	rs := drain(t, c)
	require.Len(t, rs, 1)
	assert.Equal(t, semconv.EventAmendment, rs[0].EventName)
}

func TestExpect(t *testing.T) {
	for name, tt := range map[string]struct {
		expect func(*Config)
		add    evidence.Evidence
	}{
		"caller":  {func(c *Config) { c.ExpectCaller = true }, callerALS("client", request("r"), mtls("a", "b"))},
		"verdict": {func(c *Config) { c.ExpectVerdict = true }, opa("decision", request("r"), mtls("a", "b"))},
	} {
		t.Run(name, func(t *testing.T) {
			for _, late := range []bool{false, true} {
				cfg := testConfig()
				tt.expect(&cfg)
				c := New(cfg)
				c.Add(t0, []evidence.Evidence{calleeALS("server", request("r"), mtls("a", "b"))})
				c.Advance(t0.Add(9 * time.Second))
				require.Empty(t, drain(t, c))
				if late {
					c.Advance(t0.Add(10 * time.Second))
					rs := drain(t, c)
					require.Len(t, rs, 1)
					assert.Equal(t, Partial, rs[0].State)
					continue
				}
				c.Add(t0.Add(9500*time.Millisecond), []evidence.Evidence{tt.add})
				c.Advance(t0.Add(10 * time.Second))
				rs := drain(t, c)
				require.Len(t, rs, 1)
				assert.Equal(t, Complete, rs[0].State, "met at the deadline")
				assert.Len(t, rs[0].Attestations, 2)
			}
		})
	}
}

func TestOverload(t *testing.T) {
	cfg := testConfig()
	cfg.MaxPending = 3
	c := New(cfg)
	for i := range 5 {
		c.Add(t0, []evidence.Evidence{calleeALS(fmt.Sprint(i), decided(fmt.Sprint(i)))})
		assert.LessOrEqual(t, c.Stats().Pending, 3)
	}
	rs := drain(t, c)
	require.Len(t, rs, 2)
	for i, r := range rs {
		assert.Equal(t, Partial, r.State)
		assert.Equal(t, ReasonOverload, r.Reason)
		assert.Equal(t, evidence.ID(sha256.Sum256([]byte(fmt.Sprint(i)))), r.Attestations[0].ID, "the oldest leaves first")
	}
	assert.EqualValues(t, 2, c.Stats().LeftEarly)
}

func TestBytesBound(t *testing.T) {
	cfg := testConfig()
	cfg.MaxPendingBytes = 20 << 10
	c := New(cfg)
	big := strings.Repeat("x", 1<<20)
	for i := range 200 {
		c.Add(t0, []evidence.Evidence{calleeALS(fmt.Sprint(i), decided(fmt.Sprint(i)), path("/"+big), func(e *evidence.Evidence) { e.StatusDetail = big; e.Host = big })})
		require.LessOrEqual(t, c.Stats().Bytes, cfg.MaxPendingBytes)
	}
	s := c.Stats()
	assert.NotZero(t, s.Dropped, "nobody takes the records")
	assert.EqualValues(t, 200, s.Evidence)
	assert.Equal(t, int(s.LeftEarly), s.Ready+int(s.Dropped))
	c.Flush()
	c.Advance(t0.Add(time.Hour))
	assert.Zero(t, c.Stats().Kept)
}

func TestRefusedRecordsAreKept(t *testing.T) {
	c := New(testConfig())
	var batch []evidence.Evidence
	for i := range 20 {
		batch = append(batch, calleeALS(fmt.Sprint(i)))
	}
	c.Add(t0, batch)
	c.Advance(t0.Add(time.Second))
	refused := errors.New("refused")
	var got []evidence.ID
	calls := 0
	for {
		_, err := c.Deliver(6, func(rs []*Record) error {
			if calls++; calls%2 == 1 {
				return refused
			}
			for _, r := range rs {
				got = append(got, r.Attestations[0].ID)
			}
			return nil
		})
		if err == nil {
			break
		}
		require.ErrorIs(t, err, refused)
	}
	require.Len(t, got, 20)
	for i := range got {
		assert.Equal(t, batch[i].ID, got[i], "in order, each once")
	}
}

func TestFlush(t *testing.T) {
	c := New(testConfig())
	c.Add(t0, []evidence.Evidence{calleeALS("whole"), calleeALS("waiting", decided("d"))})
	c.Flush()
	rs := drain(t, c)
	require.Len(t, rs, 2)
	assert.Equal(t, Complete, rs[0].State)
	assert.Equal(t, Partial, rs[1].State)
	assert.Equal(t, ReasonShutdown, rs[1].Reason)
}

func TestRecovery(t *testing.T) {
	before := New(testConfig())
	batch := []evidence.Evidence{
		calleeALS("left", trace(1, 2, 0)), callerALS("left alone", trace(1, 8, 0)),
		calleeALS("waiting", decided("d")),
	}
	before.Add(t0, batch[:2])
	before.Advance(t0.Add(10 * time.Second))
	left := drain(t, before)
	require.Len(t, left, 2)

	after := New(Config{Window: 10 * time.Second, LateWindow: time.Minute, MaxPending: 10, MaxPendingBytes: 1 << 20, ExpectCallee: true})
	for _, r := range left {
		var cites []evidence.ID
		for _, a := range r.Attestations {
			cites = append(cites, a.ID)
		}
		after.Recover(Past{ID: r.ID, Upshot: r.Upshot, Cites: cites, State: r.State, Reason: r.Reason})
	}
	after.Add(t0, batch)
	after.Advance(t0.Add(5 * time.Second))
	after.Recovered()
	require.Empty(t, drain(t, after), "what has left does not leave again")
	after.Add(t0, batch) // the senders resend what was not acknowledged
	after.Add(t0, []evidence.Evidence{appSpan("in", evidence.SpanServer, trace(1, 3, 2)), proxySpan("other in", evidence.SpanServer, trace(1, 9, 8))})
	after.Advance(t0.Add(10 * time.Second))
	rs := drain(t, after)
	require.Len(t, rs, 3)
	assert.Equal(t, left[0].ID, rs[0].Amends)
	assert.Equal(t, left[1].ID, rs[1].Amends, "the caller's record takes the callee")
	assert.Equal(t, Partial, rs[2].State)
	assert.EqualValues(t, 3, after.Stats().Duplicates)
}

func TestCrowdedKeyIsInDoubtAndBounded(t *testing.T) {
	cfg := testConfig()
	cfg.MaxPending = 1 << 20
	c := New(cfg)
	var batch []evidence.Evidence
	for i := range 3 * maxChain {
		batch = append(batch, calleeALS(fmt.Sprint(i), request("always the same"), mtls("a", "b")))
	}
	batch = append(batch, callerALS("client", request("always the same"), mtls("a", "b")))
	c.Add(t0, batch)
	for n := c.queue.first; n < c.queue.end; n++ {
		for kind, key := range c.queue.at(n).keys {
			n := 0
			for p := c.index.first(lookup(kind), key); p != nil; p = c.index.next(p, lookup(kind)) {
				n++
			}
			require.LessOrEqual(t, n, maxChain)
		}
	}
	c.Advance(t0.Add(time.Minute))
	rs := drain(t, c)
	assert.Len(t, rs, 3*maxChain+1)
	c.Advance(t0.Add(time.Hour))
	assertForgotten(t, c)
}

// assertForgotten checks that nothing is left of what was forgotten.
func assertForgotten(t assert.TestingT, c *Correlator) {
	assert.Zero(t, c.Stats().Bytes)
	assert.Equal(t, c.queue.first, c.queue.end)
	assert.Zero(t, c.actions.used)
	assert.Zero(t, c.workflows.all.used)
	assert.Empty(t, c.workflows.of)
	for i := range c.index.shards {
		assert.Zero(t, c.index.shards[i].used)
	}
}
