package correlate

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// change is one stage of a configuration change, as an API server audits it.
func change(name, auditID string, opts ...option) evidence.Evidence {
	return ev(name, evidence.RoleObserver, evidence.SourceK8sAudit, append([]option{stream(auditID), func(e *evidence.Evidence) {
		e.Event, e.Method, e.Path, e.User = evidence.EventConfigChange, "", "", "alice"
		e.Actor = &evidence.Actor{Type: "user", Roles: []string{"admins"}}
		e.Act = &evidence.Act{Action: "patch authorizationpolicies", Outcome: "success", Change: evidence.Change{Resource: "authorizationpolicies", Name: "orders", Verb: "patch"}}
	}}, opts...)...)
}

// What is no call gives a record of its own kind, with its actor and act, and
// waits for nothing; its earlier and later stages are part of it.
func TestObservedEvents(t *testing.T) {
	for name, tc := range map[string]struct {
		pieces []evidence.Evidence
		state  State
		cited  int
	}{
		"alone":                                       {[]evidence.Evidence{change("a", "1")}, Complete, 1},
		"received first, then done":                   {[]evidence.Evidence{change("a", "1", interim), change("b", "1")}, Complete, 2},
		"done, then received":                         {[]evidence.Evidence{change("b", "1"), change("a", "1", interim)}, Complete, 2},
		"only received: partial":                      {[]evidence.Evidence{change("a", "1", interim)}, Partial, 1},
		"begun and ended: one record":                 {[]evidence.Evidence{change("a", "1"), change("b", "1", at(time.Second))}, Complete, 2},
		"a call with that stream id is another thing": {[]evidence.Evidence{change("a", "1"), callerALS("c", stream("1"), at(-time.Hour))}, Complete, 1},
	} {
		t.Run(name, func(t *testing.T) {
			c := New(testConfig())
			c.Add(t0, tc.pieces)
			c.Advance(t0.Add(time.Minute))
			var changes []*Record
			for _, r := range drain(t, c) {
				if r.EventName == semconv.EventConfigChange {
					changes = append(changes, r)
				}
			}
			require.Len(t, changes, 1)
			r := changes[0]
			require.Equal(t, tc.state, r.State)
			require.Len(t, r.Attestations, tc.cited)
			require.Equal(t, "alice", r.User)
			require.Equal(t, []string{"admins"}, r.Actor.Roles)
			require.Equal(t, "orders", r.Act.Change.Name)
			require.Equal(t, Success, r.Outcome)
			require.Zero(t, c.Stats().Unjoined)
		})
	}
}

// A stage that comes after its record has left amends it.
func TestLateStageAmends(t *testing.T) {
	c := New(testConfig())
	c.Add(t0, []evidence.Evidence{change("a", "1")})
	c.Advance(t0.Add(5 * time.Second))
	first := drain(t, c)
	require.Len(t, first, 1)
	c.Add(t0.Add(30*time.Second), []evidence.Evidence{change("b", "1", at(30*time.Second))})
	c.Advance(t0.Add(2 * time.Minute))
	late := drain(t, c)
	require.Len(t, late, 1)
	require.Equal(t, semconv.EventAmendment, late[0].EventName)
	require.Equal(t, first[0].ID, late[0].Amends)
}

// A token that was refused at a proxy is that, whatever the caller's report says.
func TestEventOfACall(t *testing.T) {
	c := New(testConfig())
	c.Add(t0, []evidence.Evidence{
		callerALS("caller", trace(1, 1, 0)),
		calleeALS("callee", trace(1, 2, 1), func(e *evidence.Evidence) { e.Event, e.Status = evidence.EventAuthn, 401 }),
	})
	c.Advance(t0.Add(time.Minute))
	rs := drain(t, c)
	require.Len(t, rs, 1)
	require.Equal(t, semconv.EventAuthn, rs[0].EventName)
}

// A message that two workloads process is two actions of one publisher.
func TestMessage(t *testing.T) {
	topic := func(e *evidence.Evidence) {
		e.Method, e.Path, e.Topic, e.MessagingSystem = "", "", "orders.created", "kafka"
	}
	c := New(testConfig())
	c.Add(t0, []evidence.Evidence{
		appSpan("published", evidence.SpanProducer, trace(1, 1, 0), topic),
		appSpan("billing", evidence.SpanConsumer, trace(1, 2, 1), topic, at(time.Minute)),
		appSpan("mail", evidence.SpanConsumer, trace(1, 3, 1), topic, at(2*time.Minute)),
	})
	c.Advance(t0.Add(time.Minute))
	rs := drain(t, c)
	require.Len(t, rs, 2)
	for _, r := range rs {
		require.Equal(t, Complete, r.State)
		require.Equal(t, TierSpan, r.Join.Method)
		require.Equal(t, "orders.created", r.Topic)
		require.Len(t, r.Attestations, 2)
	}
}
