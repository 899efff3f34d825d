package correlate

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// drawConnections draws both sides' reports of a few connections, some lost,
// through tunnels and not, with skewed clocks, so close that they get confused.
func drawConnections(t *rapid.T) []evidence.Evidence {
	var all []evidence.Evidence
	for i := range rapid.IntRange(0, 6).Draw(t, "connections") {
		start := time.Duration(rapid.IntRange(0, 8000).Draw(t, "start")) * time.Millisecond
		skewed := start + time.Duration(rapid.IntRange(-1000, 1000).Draw(t, "skew"))*time.Millisecond
		from := rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.2"}).Draw(t, "from")
		port := uint16(40000 + i)
		long := lasting(time.Duration(rapid.IntRange(1, 5000).Draw(t, "lasting")) * time.Millisecond)
		near, far := []option{at(start), long, ends(from, port)}, []option{at(skewed), long, ends(from, port)}
		if rapid.Bool().Draw(t, "tunnel") {
			near, far = append(near, mtls("a", "b")), append(far, mtls("a", "b"), ends(from, port+1000))
			if rapid.Bool().Draw(t, "old") {
				near = append(near, toPort(15008))
			}
		}
		there := cluster(rapid.SampledFrom([]string{"", "east", "west"}).Draw(t, "cluster"))
		near = append(near, there)
		if rapid.Bool().Draw(t, "the far side says where") {
			far = append(far, there)
		}
		for _, e := range []evidence.Evidence{
			connection(fmt.Sprint(i, " out"), evidence.RoleCaller, near...),
			connection(fmt.Sprint(i, " in"), evidence.RoleCallee, far...),
		} {
			if rapid.IntRange(0, 9).Draw(t, "kept") < 8 {
				all = append(all, e)
			}
		}
	}
	return all
}

// drawMesh draws the evidence of a few calls, with pieces missing, retries,
// traced and untraced proxies, shared request ids and skewed clocks. Equal calls
// compete for evidence: what comes late may have been another's.
func drawMesh(t *rapid.T, equalCalls bool) []evidence.Evidence {
	var all []evidence.Evidence
	kept := func(e evidence.Evidence) {
		if rapid.IntRange(0, 9).Draw(t, "kept") < 8 {
			all = append(all, e)
		}
	}
	spans := byte(0)
	next := func() byte { spans++; return spans }
	parents := []byte{0}
	for i := range rapid.IntRange(1, 6).Draw(t, "calls") {
		name := func(what string) string { return fmt.Sprintf("%d %s", i, what) }
		start := time.Duration(rapid.IntRange(0, 3000).Draw(t, "start")) * time.Millisecond
		from := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "from")
		common := []option{at(start), mtls(from, "c"), request(rapid.SampledFrom([]string{"r1", "r2"}).Draw(t, "request"))}
		var paths []option
		if !equalCalls {
			paths = []option{path(fmt.Sprint("/", i))}
		}
		common = append(common, paths...)
		with := func(o ...option) []option { return slices.Concat(common, o) }
		skewed := at(time.Duration(rapid.IntRange(-1000, 1000).Draw(t, "skew")) * time.Millisecond)
		tries := rapid.IntRange(1, 2).Draw(t, "tries")
		if !rapid.Bool().Draw(t, "traced") {
			kept(callerALS(name("client"), with(resends(tries-1))...))
			for k := range tries {
				kept(calleeALS(name(fmt.Sprint("server ", k)), with(skewed)...))
			}
			continue
		}
		parent := rapid.SampledFrom(parents).Draw(t, "parent")
		if rapid.Bool().Draw(t, "client app") {
			app := next()
			kept(appSpan(name("app out"), evidence.SpanClient, with(trace(1, app, parent))...))
			parent = app
		}
		out := next()
		kept(proxySpan(name("proxy out"), evidence.SpanClient, with(trace(1, out, parent))...))
		kept(callerALS(name("client"), with(trace(1, out, 0), resends(tries-1))...))
		for k := range tries {
			in := next()
			try := func(what string) string { return name(fmt.Sprint(what, " ", k)) }
			id := try("decision")
			kept(proxySpan(try("proxy in"), evidence.SpanServer, with(trace(1, in, out), skewed)...))
			log := with(trace(1, in, out), skewed)
			if rapid.Bool().Draw(t, "decided") {
				if !equalCalls || rapid.Bool().Draw(t, "names its decision") {
					log = append(log, decided(id))
				}
				asked := byte(0)
				if equalCalls && rapid.Bool().Draw(t, "asked in trace") {
					asked = out
				}
				kept(opa(id, slices.Concat(paths, []option{at(start), decided(id), trace(1, 0, asked)})...))
			}
			kept(calleeALS(try("server"), log...))
			app := next()
			kept(appSpan(try("app in"), evidence.SpanServer, with(trace(1, app, in), skewed)...))
			parents = append(parents, app)
		}
	}
	return all
}

func shuffle(t *rapid.T, all []evidence.Evidence) []evidence.Evidence {
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	var out []evidence.Evidence
	for _, i := range rapid.Permutation(order).Draw(t, "order") {
		out = append(out, all[i])
	}
	return out
}

// fold gives the actions that came out: records with their amendments.
func fold(rs []*Record, all []evidence.Evidence) [][]string {
	names := map[evidence.ID]string{}
	for i := range all {
		names[all[i].ID] = all[i].Position
	}
	folded := map[RecordID][]string{}
	for _, r := range rs {
		id := r.ID
		if r.EventName == semconv.EventAmendment {
			id = r.Amends
		}
		for _, a := range r.Attestations {
			folded[id] = append(folded[id], names[a.ID])
		}
	}
	var out [][]string
	for _, members := range folded {
		slices.Sort(members)
		out = append(out, slices.Compact(members))
	}
	slices.SortFunc(out, slices.Compare)
	return out
}

// Whatever the order and batches in which evidence arrives before a record
// leaves, the records are those of the model.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := append(drawMesh(t, true), drawConnections(t)...)
		cfg := testConfig()
		want := model(all, cfg.ClockSkew)
		var first []string
		for range 3 {
			shuffled := shuffle(t, all)
			c := New(cfg)
			for i := 0; i < len(shuffled); {
				n := min(rapid.IntRange(1, 5).Draw(t, "batch"), len(shuffled)-i)
				c.Add(t0.Add(time.Duration(i)*time.Millisecond), shuffled[i:i+n])
				i += n
			}
			c.Advance(t0.Add(time.Minute))
			var rs []*Record
			_, _ = c.Deliver(100, func(b []*Record) error { rs = append(rs, b...); return nil })
			require.Equal(t, want, fold(rs, all))
			require.Len(t, rs, len(want), "one record for each action, no amendments")
			shown := showAll(rs, all)
			if first == nil {
				first = shown
			}
			require.Equal(t, first, shown, "states and tiers too")
		}
	})
}

// trickle gives what comes of pieces that arrive in some order, within some
// milliseconds.
func trickle(t *rapid.T, c *Correlator, all []evidence.Evidence, within int) (rs []*Record) {
	now := t0
	for _, e := range shuffle(t, all) {
		now = now.Add(time.Duration(rapid.IntRange(0, within/max(len(all), 1)).Draw(t, "wait")) * time.Millisecond)
		c.Advance(now)
		c.Add(now, []evidence.Evidence{e})
	}
	c.Advance(now.Add(time.Minute))
	_, _ = c.Deliver(100, func(b []*Record) error { rs = append(rs, b...); return nil })
	return rs
}

// Spread over the window, a record folded with its amendments is that of the
// model, and each evidence id is cited.
func TestFoldedRecordsDoNotDependOnTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := drawMesh(t, false)
		cfg := testConfig()
		cfg.Settle = time.Duration(rapid.IntRange(0, 3).Draw(t, "settle")) * time.Second
		rs := trickle(t, New(cfg), all, 9000)
		require.Equal(t, model(all, cfg.ClockSkew), fold(rs, all))
		ids := map[RecordID]bool{}
		for _, r := range rs {
			require.False(t, ids[r.ID], "record ids are unique")
			ids[r.ID] = true
		}
	})
}

// Where calls compete, what leaves first takes what is nearest then. But in the end
// no record that says otherwise than the model says that it is sure.
func TestWhatLateEvidenceContestsIsMarked(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := drawMesh(t, true)
		cfg := testConfig()
		rs := trickle(t, New(cfg), all, 20000)
		names := map[evidence.ID]string{}
		for i := range all {
			names[all[i].ID] = all[i].Position
		}
		cited, state := map[RecordID][]string{}, map[RecordID]State{}
		for _, r := range rs {
			id := r.ID
			if r.EventName == semconv.EventAmendment {
				id = r.Amends
			}
			state[id] = r.State
			for _, a := range r.Attestations {
				cited[id] = append(cited[id], names[a.ID])
			}
		}
		actions := model(all, cfg.ClockSkew)
		for id, members := range cited {
			within := slices.ContainsFunc(actions, func(action []string) bool {
				return !slices.ContainsFunc(members, func(m string) bool { return !slices.Contains(action, m) })
			})
			if !within && state[id] == Complete {
				t.Fatalf("%v are of no one action of %v", members, actions)
			}
		}
	})
}
