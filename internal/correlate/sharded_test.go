package correlate

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// drawTraces draws the evidence of a few traces, all of which names them.
func drawTraces(t *rapid.T) (all []evidence.Evidence) {
	for n := range byte(rapid.IntRange(1, 6).Draw(t, "traces")) {
		for _, e := range drawMesh(t, true) {
			if e.TraceID == (evidence.TraceID{}) {
				continue
			}
			e.ID[31], e.TraceID[0], e.RequestID = n, n+1, ""
			e.Position = fmt.Sprint("trace ", n, ": ", e.Position)
			if e.DecisionID != "" {
				e.DecisionID = e.Position
			}
			all = append(all, e)
		}
	}
	return all
}

// Of evidence that names its trace, several shards make the records that one makes.
func TestShardsOfTraces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := drawTraces(t)
		cfg := testConfig()
		cfg.Settle = time.Duration(rapid.IntRange(0, 3).Draw(t, "settle")) * time.Second
		one, several := New(cfg), NewSharded(cfg, rapid.IntRange(1, 4).Draw(t, "shards"))
		now := t0
		for sent := shuffle(t, append(all, all...)); len(sent) > 0; {
			n := rapid.IntRange(1, len(sent)).Draw(t, "batch")
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "wait")) * time.Millisecond)
			one.Advance(now)
			several.Advance(now)
			one.Add(now, sent[:n])
			several.Add(now, sent[:n])
			sent = sent[n:]
			var nodes []Node
			for i := range all {
				nodes = append(nodes, Node{Trace: all[i].TraceID, Span: all[i].SpanID, Parent: all[i].ParentSpanID, Callee: placeOf(&all[i]).callee()})
			}
			require.Equal(t, one.Known(nodes), several.Known(nodes))
		}
		one.Advance(now.Add(time.Minute))
		several.Advance(now.Add(time.Minute))
		require.Equal(t, one.Ready(), several.Ready())
		var of, ofSeveral []*Record
		_, _ = one.Deliver(100, func(rs []*Record) error { of = append(of, rs...); return nil })
		taken, err := several.Deliver(3, func(rs []*Record) error { ofSeveral = append(ofSeveral, rs...); return nil })
		require.NoError(t, err)
		require.Equal(t, len(of), taken)
		require.ElementsMatch(t, showAll(of, all), showAll(ofSeveral, all))
		require.Equal(t, one.Stats(), several.Stats())
	})
}

// traces gives the callee's reports of so many traces.
func traces(n byte) (all []evidence.Evidence) {
	for i := range n {
		all = append(all, calleeALS(fmt.Sprint(i), trace(i+1, 1, 0)))
	}
	return all
}

func TestShardsShareTheBounds(t *testing.T) {
	cfg := testConfig()
	cfg.MaxPending = 10
	s := NewSharded(cfg, 3)
	s.Add(t0, traces(100))
	st := s.Stats()
	assert.LessOrEqual(t, st.Pending, 12)
	assert.EqualValues(t, 100, st.Evidence)
	assert.EqualValues(t, 100, st.LeftEarly+uint64(st.Pending))
	assert.Equal(t, int(st.LeftEarly), s.Ready())
}

func TestShardsRecover(t *testing.T) {
	all := traces(20)
	before := NewSharded(testConfig(), 4)
	before.Add(t0, all[:10])
	before.Flush()
	after := NewSharded(testConfig(), 4) // which spread evidence otherwise
	_, err := before.Deliver(3, func(rs []*Record) error {
		for _, r := range rs {
			after.Recover(Past{ID: r.ID, Cites: []evidence.ID{r.Attestations[0].ID}, Upshot: r.Upshot})
		}
		return nil
	})
	require.NoError(t, err)
	after.Add(t0, all)
	after.Recovered()
	after.Flush()
	assert.Equal(t, 10, after.Ready())
	after.Advance(t0.Add(time.Hour))
	_, _ = after.Deliver(100, func([]*Record) error { return nil })
	for _, c := range after.shards {
		assertForgotten(t, c)
	}
}

func TestShardsKeepWhatIsRefused(t *testing.T) {
	s := NewSharded(testConfig(), 4)
	s.Add(t0, traces(20))
	s.Flush()
	refusal := errors.New("full")
	calls, taken := 0, 0
	n, err := s.Deliver(2, func(rs []*Record) error {
		if calls++; calls == 4 {
			return refusal
		}
		taken += len(rs)
		return nil
	})
	require.ErrorIs(t, err, refusal)
	assert.Equal(t, taken, n)
	assert.Equal(t, 20-taken, s.Ready())
}

// What names no trace meets by request id, whatever digit of it each proxy has changed, and
// the stages of an event that is no call by their stream id.
func TestShardsWithoutTraces(t *testing.T) {
	ab := mtls("a", "b")
	var all []evidence.Evidence
	for i := range 50 {
		id := func(version byte) string { return fmt.Sprintf("6b29fc40-ca47-%c067-b31d-%012d", version, i) }
		all = append(all,
			callerALS(fmt.Sprint("caller ", i), request(id('9')), ab), calleeALS(fmt.Sprint("callee ", i), request(id('a')), ab),
			change(fmt.Sprint("received ", i), fmt.Sprint(i), interim), change(fmt.Sprint("done ", i), fmt.Sprint(i)),
		)
	}
	s := NewSharded(testConfig(), 4)
	s.Add(t0, all)
	s.Flush()
	n, err := s.Deliver(len(all), func(rs []*Record) error {
		for _, r := range rs {
			assert.Len(t, r.Attestations, 2)
		}
		return nil
	})
	require.NoError(t, err)
	assert.Equal(t, len(all)/2, n)
}

// Each shard remembers the records of before a restart whose evidence comes to it again, and no others: else
// they would fill its part of the bounds.
func TestShardsRecoverWithinTheBounds(t *testing.T) {
	cfg := testConfig()
	cfg.MaxPending, cfg.MaxPendingBytes = 1<<20, 4<<20
	for _, shards := range []int{1, 8} {
		s := NewSharded(cfg, shards)
		var all []evidence.Evidence
		for i := range 4 << 20 / 2 / (actionBytes + pieceBytes + 512) {
			e := calleeALS(fmt.Sprint(i), trace(1, 1, 0), func(e *evidence.Evidence) {
				e.TraceID[1], e.TraceID[2] = byte(i), byte(i>>8)
			})
			all = append(all, e)
			s.Recover(Past{ID: RecordID(e.ID), Cites: []evidence.ID{e.ID}, Upshot: Upshot{Callee: true}})
			s.Recover(Past{ID: RecordID(e.ID), Cites: []evidence.ID{{1, byte(i), byte(i >> 8)}}}) // an amendment
		}
		s.Add(t0, all)
		s.Recovered()
		s.Flush()
		assert.Zero(t, s.Ready(), "all have left before")
		st := s.Stats()
		assert.Zero(t, st.Forgotten, "%d shards", shards)
		assert.Equal(t, len(all), st.Kept)
	}
}

// After a restart several shards amend the records that one amends, and as it does.
func TestShardsRecoverAsOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := drawTraces(t)
		if len(all) == 0 {
			return
		}
		before := New(testConfig())
		before.Add(t0, all[:rapid.IntRange(0, len(all)).Draw(t, "before")])
		before.Flush()
		before.Add(t0, all[:rapid.IntRange(0, len(all)).Draw(t, "late")])
		before.Flush()
		one, several := New(testConfig()), NewSharded(testConfig(), rapid.IntRange(1, 8).Draw(t, "shards"))
		_, _ = before.Deliver(100, func(rs []*Record) error {
			for _, r := range rs {
				past := Past{ID: r.ID, State: r.State, Reason: r.Reason, Upshot: r.Upshot}
				if r.Amends != (RecordID{}) {
					past.ID = r.Amends
				}
				for _, a := range r.Attestations {
					past.Cites = append(past.Cites, a.ID)
				}
				one.Recover(past)
				several.Recover(past)
			}
			return nil
		})
		sent := shuffle(t, all)
		half := rapid.IntRange(0, len(sent)).Draw(t, "half")
		for _, batch := range [][]evidence.Evidence{sent[:half], sent[half:]} {
			one.Add(t0, batch)
			several.Add(t0, batch)
		}
		one.Recovered()
		several.Recovered()
		one.Flush()
		several.Flush()
		var of, ofSeveral []*Record
		_, _ = one.Deliver(100, func(rs []*Record) error { of = append(of, rs...); return nil })
		_, _ = several.Deliver(100, func(rs []*Record) error { ofSeveral = append(ofSeveral, rs...); return nil })
		require.ElementsMatch(t, showAll(of, all), showAll(ofSeveral, all))
	})
}
