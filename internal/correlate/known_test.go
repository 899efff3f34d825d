package correlate

import (
	"encoding/binary"
	"strconv"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/stretchr/testify/require"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

func BenchmarkKnown(b *testing.B) {
	c := New(Config{Window: time.Hour, Settle: time.Hour, LateWindow: time.Hour, MaxPending: 1 << 20, MaxPendingBytes: 1 << 40, ExpectCallee: true})
	nodes := make([]Node, 1000)
	for i := range 100_000 {
		e := calleeALS(strconv.Itoa(i), mtls("a", "b"), decided(strconv.Itoa(i)))
		binary.BigEndian.PutUint64(e.TraceID[:], uint64(i)+1)
		e.SpanID = evidence.SpanID{2}
		d := opa("d"+strconv.Itoa(i), decided(strconv.Itoa(i)))
		c.Add(t0, []evidence.Evidence{e, d})
		if i < len(nodes) {
			nodes[i] = Node{Trace: e.TraceID, Span: evidence.SpanID{3}, Parent: evidence.SpanID{2}, Callee: true}
		}
	}
	b.ReportAllocs()
	before := cpuTime()
	for b.Loop() {
		if all := c.Known(nodes); all[0].Decided != evidence.Allow {
			b.Fatal(all[0])
		}
	}
	b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/float64(b.N)/float64(len(nodes)), "cpu-ns/span")
}

// What is known of a call is found from each of its spans: while its pieces
// wait, and when its record has left.
func TestKnown(t *testing.T) {
	node := func(span, parent byte, callee, proxy bool) Node {
		return Node{evidence.TraceID{1}, evidence.SpanID{span}, evidence.SpanID{parent}, callee, proxy}
	}
	// The application calls in span 1, its proxy in 2, the callee's proxy takes it
	// in 3, and the callee in 4.
	client, outbound, inbound, server := node(1, 0, false, false), node(2, 1, false, true), node(3, 2, true, true), node(4, 3, true, false)
	span := func(name string, n Node) evidence.Evidence {
		kind, of := evidence.SpanClient, appSpan
		if n.Callee {
			kind = evidence.SpanServer
		}
		if n.Proxy {
			of = proxySpan
		}
		return of(name, kind, trace(1, n.Span[0], n.Parent[0]))
	}
	proven := func(name string) Proven {
		return Proven{spiffeid.RequireFromString(td + name), evidence.ProofMTLSSAN}
	}
	both := Known{Source: proven("a"), Destination: proven("b")}
	denied := both
	denied.Decided = evidence.Deny
	log := calleeALS("log", trace(1, 3, 2), mtls("a", "b"), decided("d"))
	verdict := opa("d", decided("d"), verdict(evidence.Deny, "opa"))
	all := []Node{client, outbound, inbound, server}
	for name, tc := range map[string]struct {
		known []evidence.Evidence
		want  Known
		from  []Node
	}{
		"a log and its decision":      {[]evidence.Evidence{log, verdict}, denied, []Node{outbound, inbound, server}},
		"down through two proxies":    {[]evidence.Evidence{log, verdict, span("x", outbound)}, denied, all},
		"a log of the incoming span":  {[]evidence.Evidence{calleeALS("log", trace(1, 0, 2), mtls("a", "b"))}, both, []Node{outbound}},
		"the caller's log":            {[]evidence.Evidence{callerALS("log", trace(1, 2, 1), mtls("a", "b"))}, both, []Node{outbound, inbound}},
		"up through the callee's":     {[]evidence.Evidence{callerALS("log", trace(1, 2, 1), mtls("a", "b")), span("x", inbound)}, both, []Node{server}},
		"claims are not proven":       {[]evidence.Evidence{calleeALS("log", trace(1, 3, 2), claims(td+"a", "header"))}, Known{}, all},
		"nothing":                     {nil, Known{}, all},
		"the same span of another":    {[]evidence.Evidence{calleeALS("log", trace(2, 3, 2), mtls("a", "b"))}, Known{}, all},
		"two attempts, two verdicts":  {[]evidence.Evidence{log, verdict, calleeALS("again", trace(1, 5, 2), mtls("a", "b"), func(e *evidence.Evidence) { e.Verdict = &evidence.Verdict{Decision: evidence.Allow} })}, both, []Node{outbound}},
		"two names with one proof":    {[]evidence.Evidence{log, calleeALS("again", trace(1, 5, 2), mtls("x", "b"))}, Known{Destination: proven("b")}, []Node{outbound}},
		"the call that this one made": {[]evidence.Evidence{calleeALS("log", trace(1, 5, 4), mtls("b", "c"))}, Known{}, []Node{server, inbound}},
		"the call that made this one": {[]evidence.Evidence{appSpan("above", evidence.SpanServer, trace(1, 2, 9), mtls("x", "a"))}, Known{}, []Node{inbound, server}},
	} {
		t.Run(name, func(t *testing.T) {
			c := New(testConfig())
			c.Add(t0, tc.known)
			for _, n := range tc.from {
				got := c.Known([]Node{{}, n})
				if tc.want == (Known{}) {
					require.Nil(t, got, "%v", n)
					continue
				}
				require.Equal(t, []Known{{}, tc.want}, got, "%v", n)
			}
			// Then the record leaves, and the content is gone.
			c.Advance(t0.Add(time.Minute))
			records := drain(t, c)
			for _, n := range tc.from {
				got := c.Known([]Node{n})
				if tc.want == (Known{}) {
					continue
				}
				want := tc.want
				if len(records) == 1 {
					want.Record = records[0].ID
				}
				require.Equal(t, []Known{want}, got, "after, %v", n)
			}
		})
	}
}
