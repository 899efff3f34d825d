package correlate

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

func user(name string, roles ...string) option {
	return func(e *evidence.Evidence) {
		e.User = name
		e.Actor = &evidence.Actor{Roles: roles, Delegation: []evidence.Delegate{{Issuer: "iss", Subject: "agent"}},
			Token: evidence.Token{AuthorizedParty: name + "'s client"}}
	}
}

// A user calls the gateway, which calls a service, which calls the next with a
// token of its own user.
func workflowOf3() []evidence.Evidence {
	return []evidence.Evidence{
		calleeALS("entry", trace(1, 1, 0), user("alice", "buyer")),
		calleeALS("inner", trace(1, 2, 1), at(10*time.Millisecond)),
		calleeALS("same user", trace(1, 3, 2), at(15*time.Millisecond), user("alice")),
		calleeALS("other user", trace(1, 4, 3), at(20*time.Millisecond), user("robot")),
		calleeALS("other trace", trace(2, 5, 0), at(-time.Second)),
	}
}

// initiators folds what records and amendments say, by the record's evidence.
func initiators(rs []*Record, all []evidence.Evidence) map[string]string {
	names, of := map[evidence.ID]string{}, map[RecordID]string{}
	for _, e := range all {
		names[e.ID] = e.Position
	}
	out := map[string]string{}
	for _, r := range rs {
		id := r.ID
		if r.EventName == semconv.EventAmendment {
			id = r.Amends
		} else {
			of[id] = names[r.Attestations[0].ID]
		}
		if r.Initiator != nil {
			out[of[id]] = r.Initiator.ID + " " + r.Initiator.Derived + " by " + names[r.Initiator.Evidence]
		}
	}
	return out
}

var wantInitiators = map[string]string{
	"entry": "alice carried by entry", "inner": "alice inherited by entry",
	"same user": "alice carried by same user", "other user": "alice inherited by entry",
}

func TestInitiator(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := workflowOf3()
		c := New(testConfig())
		shuffled := shuffle(t, all)
		for i := range shuffled {
			c.Add(t0.Add(time.Duration(i)*time.Millisecond), shuffled[i:i+1])
		}
		c.Advance(t0.Add(time.Minute))
		var rs []*Record
		_, _ = c.Deliver(100, func(b []*Record) error { rs = append(rs, b...); return nil })
		require.Len(t, rs, len(all), "no amendments")
		require.Equal(t, wantInitiators, initiators(rs, all))
		for _, r := range rs {
			// By which client a hop was called its own token says, if it has one.
			if r.User == "" {
				require.Nil(t, r.Actor)
			} else {
				require.Equal(t, r.User+"'s client", r.Actor.Token.AuthorizedParty)
			}
			if r.Initiator != nil && r.Initiator.Derived == Inherited {
				require.Equal(t, []string{"buyer"}, r.Initiator.Roles)
				require.Equal(t, "agent", r.Initiator.Delegation[0].Subject)
			}
		}
		c.Advance(t0.Add(time.Hour))
		assertForgotten(t, c)
	})
}

// Who is nearer to the root of a trace than others set it going, whatever the clocks
// say; where neither spans, nor a proxy's own clock, nor clocks that are further apart
// than nodes' may be tell who that is, it is said.
func TestWhoIsNearestToTheRoot(t *testing.T) {
	node := func(name string) option { return func(e *evidence.Evidence) { e.Reporter.Node = name } }
	entry := calleeALS("entry", trace(1, 1, 0), user("alice"), node("a"))
	behind := at(-time.Second)
	for name, tc := range map[string]struct {
		rest []evidence.Evidence
		want string
	}{
		"beneath it by a clock that is behind": {[]evidence.Evidence{calleeALS("b", trace(1, 2, 1), node("b"), user("robot"), behind)}, "alice false"},
		"beneath it by a hop between": {[]evidence.Evidence{
			calleeALS("b", trace(1, 2, 1), node("b"), behind), calleeALS("c", trace(1, 3, 2), node("c"), user("robot"), behind),
		}, "alice false"},
		"the hop between is not known": {[]evidence.Evidence{calleeALS("c", trace(1, 3, 2), node("c"), user("robot"), behind)}, "robot true"},
		"called from within it": {[]evidence.Evidence{
			callerALS("out", trace(1, 5, 0), node("a"), at(time.Microsecond)), calleeALS("c", trace(1, 3, 5), node("c"), user("robot"), behind),
		}, "alice false"},
		"called by it": {[]evidence.Evidence{callerALS("out", trace(1, 1, 0), node("g"), user("robot"), at(time.Second))}, "robot false"},
		"of one clock": {[]evidence.Evidence{calleeALS("c", trace(1, 3, 2), node("a"), user("robot"), at(time.Second))}, "alice false"},
		"long after":   {[]evidence.Evidence{calleeALS("c", trace(1, 3, 2), node("c"), user("robot"), at(time.Minute))}, "alice false"},
		"soon after":   {[]evidence.Evidence{calleeALS("c", trace(1, 3, 2), node("c"), user("robot"), at(time.Second))}, "alice true"},
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				all := append([]evidence.Evidence{entry}, tc.rest...)
				c := New(testConfig())
				for _, e := range shuffle(t, all) {
					c.Add(t0, []evidence.Evidence{e})
				}
				c.Advance(t0.Add(2 * time.Minute))
				var rs []*Record
				_, _ = c.Deliver(100, func(b []*Record) error { rs = append(rs, b...); return nil })
				for _, r := range rs {
					require.Equal(t, tc.want, fmt.Sprint(r.Initiator.ID, " ", r.Initiator.Ambiguous))
				}
				c.Advance(t0.Add(time.Hour))
				require.Zero(t, c.Stats().Bytes)
				require.Zero(t, c.workflows.contested)
			})
		})
	}
}

// Whenever evidence comes, records folded with their amendments name the same
// initiator; each record is amended only for another one than it names.
func TestLateInitiatorAmends(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := workflowOf3()
		c := New(testConfig())
		var rs []*Record
		now := t0
		for _, e := range shuffle(t, all) {
			now = now.Add(time.Duration(rapid.IntRange(0, 8000).Draw(t, "wait")) * time.Millisecond)
			c.Add(now, []evidence.Evidence{e})
			c.Advance(now)
		}
		c.Advance(now.Add(time.Minute))
		_, _ = c.Deliver(100, func(b []*Record) error { rs = append(rs, b...); return nil })
		got := initiators(rs, all)
		require.Len(t, got, 4)
		for name, by := range got {
			require.Contains(t, by, "alice", name)
		}
		type who struct {
			user      string
			ambiguous bool
		}
		last, ids := map[RecordID]who{}, map[RecordID]bool{}
		for _, r := range rs {
			require.False(t, ids[r.ID])
			ids[r.ID] = true
			if r.EventName == semconv.EventAmendment {
				says := who{r.Initiator.ID, r.Initiator.Ambiguous}
				require.NotEqual(t, last[r.Amends], says)
				last[r.Amends] = says
			} else if r.Initiator != nil {
				last[r.ID] = who{r.Initiator.ID, r.Initiator.Ambiguous}
			}
		}
		for _, says := range last {
			require.Equal(t, who{"alice", false}, says)
		}
		c.Advance(now.Add(time.Hour))
		assertForgotten(t, c)
	})
}

// A record that left before a restart is amended too once its user is known; but
// not if it names one: who that was may rest on what was not read again.
func TestLateInitiatorAfterRestart(t *testing.T) {
	all := workflowOf3()
	inner, entry := all[1], all[0]
	for name, past := range map[string][]Past{
		"names nobody":                   {{State: Partial, Reason: ReasonDeadline}},
		"names somebody":                 {{Initiator: "bob"}},
		"an amendment names somebody":    {{}, {Initiator: "bob"}},
		"an amendment says who, no more": {{State: Partial, Reason: ReasonDeadline}, {Upshot: Upshot{Callee: true}, State: Complete}},
	} {
		t.Run(name, func(t *testing.T) {
			c := New(testConfig())
			record := recordID(inner.ID)
			named, last := "", Past{}
			for i, p := range past {
				p.ID = record
				if i == 0 {
					p.Upshot.Callee, p.Cites = true, []evidence.ID{inner.ID}
				}
				c.Recover(p)
				named, last = named+p.Initiator, p
			}
			c.Add(t0, []evidence.Evidence{inner})
			c.Recovered()
			c.Add(t0.Add(time.Second), []evidence.Evidence{entry})
			c.Advance(t0.Add(time.Minute))
			var amendments []*Record
			for _, r := range drain(t, c) {
				if r.Amends == record {
					amendments = append(amendments, r)
				}
			}
			if named != "" {
				require.Empty(t, amendments)
				return
			}
			require.Len(t, amendments, 1)
			assert.Equal(t, "alice", amendments[0].Initiator.ID)
			assert.Equal(t, Inherited, amendments[0].Initiator.Derived)
			assert.Equal(t, last.State, amendments[0].State)
			assert.Equal(t, last.Reason, amendments[0].Reason)
			c.Advance(t0.Add(time.Hour))
			assertForgotten(t, c)
			require.Zero(t, c.Stats().Bytes)
		})
	}
}

// A record that learns only from late evidence of which trace it is learns later
// who set that going.
func TestInitiatorOfALateTrace(t *testing.T) {
	where := addresses("10.0.0.1", "10.0.0.2")
	c := New(testConfig())
	now := t0
	for _, e := range []evidence.Evidence{
		callerALS("line", request("r"), where),
		calleeALS("log", request("r"), where, trace(1, 0, 3)),
		calleeALS("entry", path("/entry"), trace(1, 9, 0), user("alice")),
	} {
		c.Add(now, []evidence.Evidence{e})
		now = now.Add(15 * time.Second)
		c.Advance(now)
	}
	rs := drain(t, c)
	require.Len(t, rs, 4)
	last := rs[3]
	assert.Equal(t, rs[0].ID, last.Amends)
	require.NotNil(t, last.Initiator)
	assert.Equal(t, "alice", last.Initiator.ID)
}

func TestInitiatorWithoutTrace(t *testing.T) {
	c := New(testConfig())
	c.Add(t0, []evidence.Evidence{calleeALS("log", user("alice")), change("change", "audit-1")})
	c.Advance(t0.Add(time.Minute))
	for _, r := range drain(t, c) {
		if r.EventName == semconv.EventConfigChange {
			assert.Nil(t, r.Initiator)
			continue
		}
		require.NotNil(t, r.Initiator)
		assert.Equal(t, Carried, r.Initiator.Derived)
	}
}

// An amendment says of the record only who set it going.
func TestInitiatorAmendment(t *testing.T) {
	c := New(testConfig())
	c.Add(t0, []evidence.Evidence{calleeALS("inner", trace(1, 2, 0), mtls("a", "b"), decided("d"))})
	c.Advance(t0.Add(11 * time.Second))
	first := drain(t, c)
	require.Len(t, first, 1)
	require.Equal(t, Partial, first[0].State)
	entry := calleeALS("entry", trace(1, 1, 0), user("alice"), at(-time.Millisecond))
	c.Add(t0.Add(12*time.Second), []evidence.Evidence{entry})
	c.Add(t0.Add(13*time.Second), []evidence.Evidence{entry})
	c.Advance(t0.Add(15 * time.Second))
	rs := drain(t, c)
	require.Len(t, rs, 2)
	for _, r := range rs {
		if r.EventName != semconv.EventAmendment {
			continue
		}
		assert.Equal(t, first[0].ID, r.Amends)
		assert.Equal(t, Partial, r.State, "it completes nothing")
		assert.Equal(t, td+"a", r.Source.ID.String())
		assert.Empty(t, r.Attestations, "the entry's evidence attests another action")
		assert.Equal(t, entry.ID, r.Initiator.Evidence)
		assert.Equal(t, t0.UnixNano(), r.Start)
	}
}
