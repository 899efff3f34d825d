package correlate_test

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

var (
	simulated = flag.Duration("accuracy.time", 20*time.Second, "how long a time in the mesh TestAccuracy simulates")
	seed      = flag.Uint64("accuracy.seed", 1, "of TestAccuracy's first mesh")
	shards    = flag.Int("accuracy.shards", 1, "of the correlator; several do not join what names a trace id with what does not")
	seeds     = flag.Uint64("accuracy.seeds", 1, "how many meshes TestAccuracy simulates")
)

// score counts pairs of pieces that are in one record, and those that belong
// into one.
type score struct{ made, right, real int }

func (s score) String() string {
	return fmt.Sprintf("precision %.5f, recall %.5f of %d joins", s.precision(), s.recall(), s.real)
}
func (s score) precision() float64 { return float64(s.right) / float64(max(s.made, 1)) }
func (s score) recall() float64    { return float64(s.right) / float64(max(s.real, 1)) }

// folded is a record with its amendments.
type folded struct {
	id    correlate.RecordID
	cites []*fact
	last  time.Duration   // that any of them was told
	state correlate.State // as the last of them says
	tier  correlate.Tier  // as the first does
	event string
}

func (f *folded) marked() bool { return f.state != correlate.Complete }

// judge compares what is joined with what belongs together.
type judge struct {
	t               *testing.T
	all, identified score
	records         map[correlate.RecordID]*folded
	order           []*folded // records that are not judged yet

	unmarkedWrong, unmarkedMissing int // pairs
	lookalikes                     int // records: wrong, unmarked, and nothing could tell
	states                         map[string]int
	calls, ambiguous               int
}

func (j *judge) take(m *mesh, batch []*correlate.Record) {
	for _, r := range batch {
		id := r.ID
		if r.EventName == semconv.EventAmendment {
			id = r.Amends
		}
		f := j.records[id]
		if f == nil {
			f = &folded{id: id, tier: r.Join.Method, event: r.EventName}
			j.records[id] = f
			j.order = append(j.order, f)
		}
		f.state = r.State
		for _, a := range r.Attestations {
			fact := m.facts[a.ID]
			if !slices.Contains(fact.records, f) {
				fact.records = append(fact.records, f)
				f.cites = append(f.cites, fact)
				f.last = max(f.last, fact.at)
			}
		}
	}
}

// judge counts what is of before a time, after which nothing more came of it, and
// forgets it.
func (j *judge) judge(m *mesh, before time.Duration) {
	j.order = slices.DeleteFunc(j.order, func(f *folded) bool {
		if f.last >= before {
			return false
		}
		j.record(f)
		delete(j.records, f.id)
		return true
	})
	m.actions = slices.DeleteFunc(m.actions, func(a *action) bool {
		if a.end >= before {
			return false
		}
		j.action(a)
		return true
	})
	const margin = 12 * time.Minute // actions' pieces are needed as long as one of them is
	maps.DeleteFunc(m.told, func(minute time.Duration, facts []*fact) bool {
		if minute >= before-margin {
			return false
		}
		for _, f := range facts {
			if len(f.records) == 0 && f.final {
				j.t.Errorf("in no record: %v", &f.seen)
			}
			delete(m.facts, f.id)
		}
		return true
	})
}

func (j *judge) count(identified bool, f func(*score)) {
	f(&j.all)
	if identified {
		f(&j.identified)
	}
}

func together(a, b *fact) bool {
	return slices.ContainsFunc(a.of, func(x *action) bool { return slices.Contains(b.of, x) })
}

// record judges what a record cites.
func (j *judge) record(f *folded) {
	j.states[fmt.Sprint(f.event, " ", f.state, " ", f.tier)]++
	j.calls++
	if f.state == correlate.Ambiguous {
		j.ambiguous++
	}
	wrong := 0
	for i, a := range f.cites {
		for _, b := range f.cites[i+1:] {
			right := together(a, b)
			if !right {
				wrong++
			}
			first := a.records[slices.IndexFunc(a.records, func(r *folded) bool { return slices.Contains(b.records, r) })]
			if first != f {
				continue // counted there
			}
			j.count(a.of[0].identified, func(s *score) {
				s.made++
				if right {
					s.right++
				}
			})
		}
	}
	switch {
	case wrong == 0 || f.marked():
	case f.lookalike():
		j.lookalikes++
		j.explain(j.lookalikes, "nothing tells that these are not one", f.cites...)
	default:
		j.unmarkedWrong += wrong
		j.explain(j.unmarkedWrong+j.unmarkedMissing, "wrong, not marked", f.cites...)
	}
}

// action judges what belongs to an action.
func (j *judge) action(a *action) {
	for i, x := range a.kept {
		for _, y := range a.kept[i+1:] {
			shared := slices.IndexFunc(x.of, func(of *action) bool { return slices.Contains(y.of, of) })
			if x.of[shared] != a {
				continue // a pair of the caller's, counted with the first attempt
			}
			j.count(a.identified, func(s *score) { s.real++ })
			together := slices.ContainsFunc(x.records, func(r *folded) bool { return slices.Contains(y.records, r) })
			marked := slices.ContainsFunc(slices.Concat(x.records, y.records), (*folded).marked)
			if !together && !marked && len(x.records) > 0 && len(y.records) > 0 {
				j.unmarkedMissing++
				j.explain(j.unmarkedWrong+j.unmarkedMissing, "missing, not marked", x, y)
			}
		}
	}
}

// explain prints facts with all that is known of their actions, for the first few of a kind.
func (j *judge) explain(nth int, what string, facts ...*fact) {
	if nth > 30 {
		return
	}
	j.t.Log(what + ", those with a *:")
	var actions []*action
	for _, f := range facts {
		for _, a := range f.of {
			if !slices.Contains(actions, a) {
				actions = append(actions, a)
			}
		}
	}
	for i, a := range actions {
		for _, k := range a.kept {
			states := "in no record"
			for n, r := range k.records {
				if n == 0 {
					states = ""
				}
				states += fmt.Sprint(r.state, " ", r.tier, ",")
			}
			star := ' '
			if slices.Contains(facts, k) {
				star = '*'
			}
			j.t.Logf("%c %d %x %s %v", star, i, k.id[6:8], states, &k.seen)
		}
		for _, k := range a.lost {
			j.t.Logf("  %d lost %v", i, &k.seen)
		}
	}
}

// lookalike says whether a wrong record is one that nobody could tell from a right
// one: of two calls that are alike one lost all that the caller's side told,
// and the other all that the callee's side did. What is left of both is in this
// record, is what one call leaves, and takes no longer. Clocks may be as far
// apart as the times are.
func (f *folded) lookalike() bool {
	attempts := func(c *fact) []*folded { // that cite c
		return c.records
	}
	var nodes []evidence.SpanID // of the caller's proxy
	for _, c := range f.cites {
		if c.seen.role == evidence.RoleCaller && c.seen.source != evidence.SourceSpan {
			nodes = append(nodes, c.seen.span)
		}
	}
	for _, c := range f.cites {
		if c.seen.role == evidence.RoleDecision && slices.ContainsFunc(c.of[0].kept, func(k *fact) bool {
			return k.seen.role == evidence.RoleCallee && k.seen.decision == c.seen.decision && !slices.Contains(f.cites, k)
		}) {
			return false // another report names it
		}
		for _, a := range c.of {
			for _, k := range a.kept {
				// All that is left is here, but for what is of another attempt
				// of a caller that tells of several.
				if !slices.Contains(f.cites, k) && !slices.ContainsFunc(k.records, func(r *folded) bool {
					return slices.ContainsFunc(r.cites, func(o *fact) bool {
						return o.seen.role == evidence.RoleCaller && o.seen.resends > 0 && slices.Contains(f.cites, o)
					})
				}) {
					return false
				}
			}
		}
		switch {
		case c.seen.role == evidence.RoleCallee || c.seen.role == evidence.RoleDecision:
			if p := c.seen.parent; p != (evidence.SpanID{}) && c.seen.source != evidence.SourceSpan && len(nodes) > 0 && !slices.Contains(nodes, p) {
				return false // it names its caller
			}
		case c.seen.source == evidence.SourceSpan: // names no attempts
		case len(attempts(c)) > c.seen.resends+1 && len(nodes) > 0:
			return false
		default:
			// By one proxy's clock the attempts end within the call.
			for _, r := range attempts(c) {
				for _, x := range r.cites {
					first, last := x.seen.start, x.seen.end
					for _, r := range attempts(c) {
						for _, y := range r.cites {
							if y.seen.role == x.seen.role && y.seen.node == x.seen.node {
								first, last = min(first, y.seen.start), max(last, y.seen.end)
							}
						}
					}
					if x.seen.role == evidence.RoleCallee && x.seen.node != "" && last-first > c.seen.end-c.seen.start+int64(25*time.Millisecond) {
						return false
					}
				}
			}
		}
	}
	return true
}

// TestAccuracy compares what is joined with what belongs together. Where a trace
// or request id exists nearly all must be right, and all that is wrong or missing
// must be marked, unless nothing could tell it from what is right.
func TestAccuracy(t *testing.T) {
	for s := *seed; s < *seed+*seeds; s++ {
		t.Run(fmt.Sprint("mesh ", s), func(t *testing.T) { simulate(t, newMesh(s, false), 0.999) })
		t.Run(fmt.Sprint("mesh with traps ", s), func(t *testing.T) { simulate(t, newMesh(s, true), 0.995) })
	}
}

func simulate(t *testing.T, m *mesh, least float64) {
	c := correlate.NewSharded(correlate.Config{
		Window: 10 * time.Second, LateWindow: 10 * time.Minute, Settle: time.Second, ClockSkew: maxSkew,
		MaxPending: 1 << 24, MaxPendingBytes: 8 << 30, ExpectCallee: true,
	}, *shards)
	j := &judge{t: t, records: map[correlate.RecordID]*folded{}, states: map[string]int{}}
	take := func(batch []*correlate.Record) error { j.take(m, batch); return nil }
	actions := 0
	var batch []evidence.Evidence
	const tail = 23 * time.Minute // the longest stream, and the latest decision about it
	for now := time.Duration(0); now < *simulated+tail; now += 100 * time.Millisecond {
		if now < *simulated {
			made := len(m.actions)
			for range treesEach / 10 {
				m.tree(now + m.upTo(100*time.Millisecond))
			}
			for range tunnelsEach / 10 {
				m.tunnel(now + m.upTo(100*time.Millisecond))
			}
			actions += len(m.actions) - made
		}
		batch = batch[:0]
		for _, e := range m.arrives[now] {
			batch = append(batch, *e)
		}
		delete(m.arrives, now)
		m.rnd.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })
		c.Add(epoch.Add(now), batch)
		_, _ = c.Deliver(1000, take)
		if now%time.Minute == 0 {
			j.judge(m, now-tail)
		}
	}
	c.Flush()
	_, _ = c.Deliver(1000, take)
	j.judge(m, 1<<62)

	t.Logf("%v of a mesh, %d pieces of evidence about %d actions", *simulated, m.pieces, actions)
	t.Log("all:", j.all)
	t.Log("with a trace or request id:", j.identified)
	t.Logf("ambiguous: %d of %d records, %.2f%%", j.ambiguous, j.calls, 100*float64(j.ambiguous)/float64(j.calls))
	t.Logf("wrong or missing and not marked: %d and %d", j.unmarkedWrong, j.unmarkedMissing)
	t.Logf("records of two calls that look like one, as the rest of both was lost: %d", j.lookalikes)
	for _, s := range slices.Sorted(maps.Keys(j.states)) {
		t.Log(s, j.states[s])
	}
	if j.identified.precision() < least || j.identified.recall() < least && *shards == 1 {
		t.Errorf("with a trace or request id: %v", j.identified)
	}
	if j.unmarkedWrong+j.unmarkedMissing > 0 {
		t.Errorf("%d wrong or missing joins are not marked ambiguous or partial", j.unmarkedWrong+j.unmarkedMissing)
	}
	if j.lookalikes > 3+actions/50_000 {
		t.Errorf("%d of %d actions look like one with another: more than losses explain", j.lookalikes, actions)
	}
}
