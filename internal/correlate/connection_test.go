package correlate

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
	"github.com/meshaudit/meshaudit/internal/evidence/ztunnel"
)

// connection is what a proxy or the network reports of a connection.
func connection(name string, role evidence.Role, opts ...option) evidence.Evidence {
	return ev(name, role, evidence.SourceZtunnel, append([]option{func(e *evidence.Evidence) {
		e.Event, e.Method, e.Path, e.Protocol = evidence.EventConnection, "", "", "tcp"
	}, ends("10.0.0.1", 40000)}, opts...)...)
}

func ends(from string, port uint16) option {
	return func(e *evidence.Evidence) {
		e.From.Address, e.From.Port, e.To.Address, e.To.Port = from, port, "10.0.0.9", 80
	}
}
func lasting(d time.Duration) option {
	return func(e *evidence.Evidence) { e.End = e.Start + int64(d) }
}
func toPort(n uint16) option   { return func(e *evidence.Evidence) { e.To.Port = n } }
func to(address string) option { return func(e *evidence.Evidence) { e.To.Address = address } }

func cluster(name string) option { return func(e *evidence.Evidence) { e.Cluster = name } }

// Of two clusters with one range of addresses, only identities and spans join.
func TestClusters(t *testing.T) {
	const out, in = evidence.RoleCaller, evidence.RoleCallee
	ab := mtls("a", "b")
	where := addresses("10.0.0.1", "10.0.0.2")
	for name, tt := range map[string]struct {
		evidence []evidence.Evidence
		want     []string
	}{
		"a connection": {[]evidence.Evidence{connection("out", out, ab, cluster("east")), connection("in", in, ab, cluster("west"))},
			[]string{"mesh.connection complete none: in", "mesh.connection partial/deadline none: out"}},
		"a connection that one side places": {[]evidence.Evidence{connection("out", out, ab, cluster("east")), connection("in", in, ab)},
			[]string{"mesh.connection complete connection: in out"}},
		"a request by addresses": {[]evidence.Evidence{
			callerALS("out", request("r"), where, cluster("east")), calleeALS("in", request("r"), where, cluster("west")),
		}, []string{"mesh.request complete none: in", "mesh.request partial/deadline none: out"}},
		"a request by identities": {[]evidence.Evidence{
			callerALS("out", request("r"), ab, cluster("east")), calleeALS("in", request("r"), ab, cluster("west")),
		}, []string{"mesh.request complete request: in out"}},
		"a request by spans": {[]evidence.Evidence{
			callerALS("out", trace(1, 2, 0), where, cluster("east")), calleeALS("in", trace(1, 3, 2), where, cluster("west")),
		}, []string{"mesh.request complete span: in out"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := New(testConfig())
			c.Add(t0, tt.evidence)
			c.Advance(t0.Add(time.Minute))
			assert.Equal(t, tt.want, showAll(drain(t, c), tt.evidence))
		})
	}
}

func TestConnections(t *testing.T) {
	const out, in = evidence.RoleCaller, evidence.RoleCallee
	ab := mtls("a", "b")
	for name, tt := range map[string]struct {
		evidence []evidence.Evidence
		want     []string
	}{
		"through a tunnel, which has a source port of its own": {[]evidence.Evidence{
			connection("out", out, ab, toPort(15008)), connection("in", in, ab, ends("10.0.0.1", 59115), at(-1500*time.Millisecond)),
		}, []string{"mesh.connection complete connection: in out"}},

		"plaintext: one source port": {[]evidence.Evidence{
			connection("out", out), connection("in", in),
		}, []string{"mesh.connection complete connection: in out"}},

		"plaintext: another source port": {[]evidence.Evidence{
			connection("out", out), connection("in", in, ends("10.0.0.1", 40001)),
		}, []string{"mesh.connection complete none: in", "mesh.connection partial/deadline none: out"}},

		"only one side knows who": {[]evidence.Evidence{
			connection("out", out), connection("in", in, ab),
		}, []string{"mesh.connection complete connection: in out"}},

		"others by identity, pod, address or time": {[]evidence.Evidence{
			connection("out", out, ab), connection("identity", in, mtls("c", "b")),
			connection("address", in, ab, to("10.0.0.8")), connection("source", in, ab, ends("10.0.0.2", 40000)),
			connection("port", in, ab, toPort(81)), connection("time", in, ab, at(4*time.Second)),
		}, []string{
			"mesh.connection complete none: address", "mesh.connection complete none: identity", "mesh.connection complete none: port",
			"mesh.connection complete none: source", "mesh.connection complete none: time", "mesh.connection partial/deadline none: out",
		}},

		"the source port tells pooled connections apart": {[]evidence.Evidence{
			connection("out 1", out), connection("in 1", in, ab, at(30*time.Millisecond)),
			connection("out 2", out, ends("10.0.0.1", 40001), at(20*time.Millisecond)), connection("in 2", in, ab, ends("10.0.0.1", 40001), at(time.Millisecond)),
		}, []string{"mesh.connection complete connection: in 1 out 1", "mesh.connection complete connection: in 2 out 2"}},

		"pooled in a tunnel: only one pairing is possible between two clocks": {[]evidence.Evidence{
			connection("out 1", out, ab), connection("in 1", in, ab, ends("10.0.0.1", 50001), at(time.Millisecond)),
			connection("out 2", out, ab, ends("10.0.0.1", 40001), at(100*time.Millisecond)), connection("in 2", in, ab, ends("10.0.0.1", 50002), at(101*time.Millisecond)),
		}, []string{"mesh.connection complete connection: in 1 out 1", "mesh.connection complete connection: in 2 out 2"}},

		"pooled in a tunnel: the nearest, in doubt": {[]evidence.Evidence{
			connection("out 1", out, ab), connection("in 1", in, ab, ends("10.0.0.1", 50001), at(500*time.Microsecond)),
			connection("out 2", out, ab, ends("10.0.0.1", 40001), at(2*time.Millisecond)), connection("in 2", in, ab, ends("10.0.0.1", 50002), at(2500*time.Microsecond)),
		}, []string{
			"mesh.connection ambiguous/several_candidates connection: in 1 out 1",
			"mesh.connection ambiguous/several_candidates connection: in 2 out 2",
		}},

		"one of two was lost": {[]evidence.Evidence{
			connection("out", out, ab), connection("in 1", in, ab, ends("10.0.0.1", 50001), at(time.Millisecond)),
			connection("in 2", in, ab, ends("10.0.0.1", 50002), at(100*time.Millisecond)),
		}, []string{
			"mesh.connection ambiguous/several_candidates connection: in 1 out",
			"mesh.connection ambiguous/several_candidates none: in 2",
		}},

		"pooled in a tunnel, told apart by when they ended": {[]evidence.Evidence{
			connection("out 1", out, ab), connection("in 1", in, ab, ends("10.0.0.1", 50001), at(time.Millisecond)),
			connection("out 2", out, ab, ends("10.0.0.1", 40001), lasting(time.Minute)), connection("in 2", in, ab, ends("10.0.0.1", 50002), lasting(time.Minute)),
		}, []string{"mesh.connection complete connection: in 1 out 1", "mesh.connection complete connection: in 2 out 2"}},

		"opened, then complete": {[]evidence.Evidence{
			connection("opened", out, ab, interim), connection("out", out, ab), connection("in", in, ab, ends("10.0.0.1", 50001)),
		}, []string{"mesh.connection complete connection: in opened out"}},

		"the network's flows of one connection": {[]evidence.Evidence{
			connection("syn", out, stream("tcp/1")), connection("verdict", out, stream("tcp/1")), connection("in", in, stream("tcp/1")),
			connection("the port again, later", out, stream("tcp/1"), at(time.Minute)),
		}, []string{
			"mesh.connection complete connection: in syn verdict",
			"mesh.connection partial/deadline none: the port again, later",
		}},

		"a request on a connection is another thing": {[]evidence.Evidence{
			connection("out", out), calleeALS("request", ends("10.0.0.1", 40000)),
		}, []string{"mesh.connection partial/deadline none: out", "mesh.request complete none: request"}},
	} {
		t.Run(name, func(t *testing.T) {
			for shift := range tt.evidence {
				batch := slices.Concat(tt.evidence[shift:], tt.evidence[:shift])
				c := New(testConfig())
				for i := range batch {
					c.Add(t0.Add(time.Duration(i)*time.Millisecond), batch[i:i+1])
				}
				c.Advance(t0.Add(time.Minute))
				assert.Equal(t, tt.want, showAll(drain(t, c), batch), "shift %d", shift)
				c.Advance(t0.Add(time.Hour))
				assertForgotten(t, c)
			}
		})
	}
}

func TestConnectionConfidence(t *testing.T) {
	for port, want := range map[uint16]float64{40000: confidenceIdentified, 50000: confidenceAddressed} {
		c := New(testConfig())
		c.Add(t0, []evidence.Evidence{
			connection("out", evidence.RoleCaller, mtls("a", "b")),
			connection("in", evidence.RoleCallee, mtls("a", "b"), ends("10.0.0.1", port)),
		})
		c.Advance(t0.Add(time.Minute))
		rs := drain(t, c)
		require.Len(t, rs, 1)
		assert.Equal(t, want, rs[0].Join.Confidence)
		assert.Equal(t, TierConnection, rs[0].Join.Method)
	}
}

// More connections than a chain holds: every one gives a record, and none that
// may be wrong or alone for want of room claims to be sure.
func TestCrowdedTunnelIsInDoubt(t *testing.T) {
	cfg := testConfig()
	cfg.MaxPending = 1 << 20
	c := New(cfg)
	for i := range 4 * maxChain {
		c.Add(t0, []evidence.Evidence{
			connection(fmt.Sprint("out ", i), evidence.RoleCaller, mtls("a", "b"), ends("10.0.0.1", uint16(10000+i))),
			connection(fmt.Sprint("in ", i), evidence.RoleCallee, mtls("a", "b"), ends("10.0.0.1", uint16(30000+i))),
		})
	}
	c.Advance(t0.Add(time.Minute))
	cited := 0
	for _, r := range drain(t, c) {
		cited += len(r.Attestations)
		require.Equal(t, Ambiguous, r.State)
	}
	require.Equal(t, 8*maxChain, cited)
}

// Both directions of the real lines of one moment.
func TestZtunnelPairs(t *testing.T) {
	text, err := os.ReadFile("../evidence/ztunnel/testdata/kiali_ztunnel.log")
	require.NoError(t, err)
	var batch []evidence.Evidence
	for line := range strings.Lines(string(text)) {
		if batch, err = ztunnel.Decode(batch, &evidencetest.Origin, []byte(line)); err != nil {
			require.ErrorIs(t, err, evidence.ErrNotEvidence)
		}
	}
	for i := range batch {
		batch[i].ID[0], batch[i].ID[1], batch[i].Position = byte(i), 1, fmt.Sprint(i)
	}
	c := New(testConfig())
	c.Add(t0, batch)
	c.Advance(t0.Add(time.Minute))
	pairs := 0
	for _, r := range drain(t, c) {
		if r.Join.Method != TierConnection {
			continue // alone, or a line that the log has twice
		}
		pairs++
		assert.NotZero(t, r.Source.ID)
		assert.NotZero(t, r.Destination.ID)
		assert.Empty(t, r.Conflicts)
		assert.NotEqual(t, uint16(portHBONE), r.Destination.Port)
	}
	t.Log(pairs, "pairs of", len(batch), "lines")
	require.GreaterOrEqual(t, pairs, 3)
}

// A waypoint is asked in the callee's place: three stations.
func TestWaypointHops(t *testing.T) {
	batch := []evidence.Evidence{
		appSpan("client", evidence.SpanClient, trace(1, 1, 0), reporter("client-pod")),
		proxySpan("waypoint span", evidence.SpanServer, trace(1, 2, 1), reporter("waypoint~10.0.0.7~wp.shop~x")),
		calleeALS("waypoint log", trace(1, 2, 0), mtls("a", "waypoint"), reporter("waypoint~10.0.0.7~wp.shop~x"), stream("s"), addresses("10.0.0.1", "10.0.0.7"),
			func(e *evidence.Evidence) { e.To.Workload.PodName = "wp" }),
		appSpan("server", evidence.SpanServer, trace(1, 3, 2), reporter("b-pod"), func(e *evidence.Evidence) {
			e.To.Workload = evidence.Workload{Name: "b", Version: "v2"}
			e.To.Identities = []evidence.Identity{identity(td+"b", evidence.ProofClaimed, "spiffe.id")}
		}),
	}
	c := New(testConfig())
	c.Add(t0, batch)
	c.Advance(t0.Add(time.Minute))
	rs := drain(t, c)
	require.Len(t, rs, 1)
	r := rs[0]
	assert.Equal(t, td+"a", r.Source.ID.String())
	assert.Equal(t, td+"b", r.Destination.ID.String())
	assert.Equal(t, evidence.ProofClaimed, r.Destination.Proof, "nobody saw its certificate")
	assert.Equal(t, evidence.Workload{Name: "b", Version: "v2"}, r.Destination.Workload)
	assert.Empty(t, r.Destination.Address, "the waypoint's is not the destination's")
	assert.Empty(t, r.Conflicts)
	waypoint := batch[2].To.Identities[0].ID
	assert.Equal(t, []Hop{
		{ID: r.Source.ID, Role: "source", Node: "client-pod"},
		{ID: waypoint, Role: "waypoint", Node: "waypoint~10.0.0.7~wp.shop~x", StreamID: "s"},
		{ID: r.Destination.ID, Role: "destination", Node: "b-pod"},
	}, r.Hops)

	// The access log service names no span of the waypoint's own, but its pod.
	batch[2].SpanID, batch[2].ParentSpanID = evidence.SpanID{}, batch[2].SpanID
	batch[2].To.Workload.Namespace = "shop"
	batch[3].To.Workload.PodName, batch[3].To.Workload.Namespace = "b-1", "shop"
	c = New(testConfig())
	c.Add(t0, batch)
	c.Advance(t0.Add(time.Minute))
	rs = drain(t, c)
	require.Len(t, rs, 1)
	require.Len(t, rs[0].Hops, 3)
	assert.Equal(t, "b-1", rs[0].Destination.Workload.PodName)
	assert.Equal(t, Complete, rs[0].State)

	// With nothing from beyond it the waypoint is as far as the evidence goes.
	c = New(testConfig())
	c.Add(t0, batch[:3])
	c.Advance(t0.Add(time.Minute))
	rs = drain(t, c)
	require.Len(t, rs, 1)
	require.Len(t, rs[0].Hops, 2)
	assert.Equal(t, waypoint, rs[0].Destination.ID)
}
