package correlate

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

func calledBy(address string, port uint16) option {
	return func(e *evidence.Evidence) { e.PeerAddress, e.PeerPort = address, port }
}

func service(name string) option {
	return func(e *evidence.Evidence) {
		e.To.Workload = evidence.Workload{Name: name, Namespace: "shop", Kind: "Service"}
	}
}

// TestClientBeforeGateway: behind a gateway the callee names as its client whom a header tells,
// not who connected. The gateway's report says that it was called by that very client.
func TestClientBeforeGateway(t *testing.T) {
	const client, gateway, pod = "203.0.113.7", "10.0.0.9", "10.0.0.2"
	callee := calleeALS("callee", request("r"), addresses(client, pod))
	for name, tc := range map[string]struct {
		caller evidence.Evidence
		state  State
	}{
		"it called the gateway":             {callerALS("gateway", request("r"), addresses(gateway, pod), calledBy(client, 4000)), Complete},
		"the caller's address is not known": {callerALS("gateway", request("r"), addresses("", pod), calledBy(client, 4000)), Complete},
		"another did":                       {callerALS("gateway", request("r"), addresses(gateway, pod), calledBy("203.0.113.8", 4000)), Ambiguous},
		"to the caller too a header says so": {
			callerALS("gateway", request("r"), addresses(gateway, pod), calledBy(client, 0)), Ambiguous},
	} {
		c := New(testConfig())
		c.Add(t0, []evidence.Evidence{tc.caller, callee})
		c.Advance(t0.Add(time.Minute))
		rs := drain(t, c)
		require.Len(t, rs, 1, name)
		assert.Len(t, rs[0].Attestations, 2, name)
		assert.Equal(t, tc.state, rs[0].State, name)
	}

	// Two callers that were called by it: which of them called is not known.
	c := New(testConfig())
	c.Add(t0, []evidence.Evidence{
		callerALS("one", request("r"), addresses(gateway, pod), calledBy(client, 4000), reporter("a")),
		callerALS("other", request("r"), addresses("10.0.0.8", pod), calledBy(client, 4001), reporter("b")), callee,
	})
	c.Advance(t0.Add(time.Minute))
	for _, r := range drain(t, c) {
		assert.Equal(t, Ambiguous, r.State)
	}
}

// TestServiceOfWaypoint: who calls through a waypoint connects to that, which tells the address of
// the service that it was asked for. Both name the service.
func TestServiceOfWaypoint(t *testing.T) {
	caller := callerALS("caller", request("r"), addresses("10.0.0.1", "10.0.0.7"), service("orders"), func(e *evidence.Evidence) { e.To.Port = portHBONE })
	waypoint := calleeALS("waypoint", request("r"), addresses("10.0.0.1", "10.96.0.9"), service("orders"), reporter("waypoint~10.0.0.7~wp.shop~d"))
	c := New(testConfig())
	c.Add(t0, []evidence.Evidence{caller, waypoint})
	c.Advance(t0.Add(time.Minute))
	rs := drain(t, c)
	require.Len(t, rs, 1)
	assert.Equal(t, Complete, rs[0].State)
	assert.Equal(t, evidence.Workload{Name: "orders", Namespace: "shop", Kind: "Service"}, rs[0].Destination.Workload)
	assert.Equal(t, []any{"10.96.0.9", uint16(9080)}, []any{rs[0].Destination.Address, rs[0].Destination.Port}, "a tunnel's end is not what was called")

	service("payments")(&waypoint)
	c = New(testConfig())
	c.Add(t0, []evidence.Evidence{caller, waypoint})
	c.Advance(t0.Add(time.Minute))
	require.Len(t, drain(t, c), 2, "another service")
}

// TestSentToNobody: of a request that the caller's proxy answered by itself nobody else reports.
func TestSentToNobody(t *testing.T) {
	flags := func(s string) option { return func(e *evidence.Evidence) { e.ResponseFlags = s } }
	at := func(address string) option { return func(e *evidence.Evidence) { e.To.Address = address } }
	for name, tc := range map[string]struct {
		caller evidence.Evidence
		state  State
	}{
		"no healthy host":      {callerALS("a", flags("UH")), Complete},
		"a fault":              {callerALS("b", flags("DI,FI")), Complete},
		"no answer":            {callerALS("c", flags("UC")), Partial},
		"after it tried":       {callerALS("d", flags("UH"), resends(2)), Partial},
		"it had chosen a host": {callerALS("e", flags("UH"), at("10.0.0.2")), Partial},
		"nothing stated":       {callerALS("f"), Partial},
	} {
		c := New(testConfig())
		c.Add(t0, []evidence.Evidence{tc.caller})
		c.Advance(t0.Add(2 * time.Second)) // settled, and not due
		if tc.state == Complete {
			rs := drain(t, c)
			require.Len(t, rs, 1, name)
			assert.Equal(t, Complete, rs[0].State, name)
			continue
		}
		require.Empty(t, drain(t, c), name)
		c.Advance(t0.Add(time.Minute))
		rs := drain(t, c)
		require.Len(t, rs, 1, name)
		assert.Equal(t, Partial, rs[0].State, name)
	}
}
