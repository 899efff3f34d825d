package correlate

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// model says which pieces belong to one action, all at once and by looking at
// every pair: no index, no time, no order. It is the specification of what the
// correlator joins. An action is the set of its pieces' names. Connections and
// requests never join.
func model(all []evidence.Evidence, skew time.Duration) [][]string {
	isConnection := func(e evidence.Evidence) bool { return e.Event == evidence.EventConnection }
	connections := slices.DeleteFunc(slices.Clone(all), func(e evidence.Evidence) bool { return !isConnection(e) })
	requests := slices.DeleteFunc(slices.Clone(all), isConnection)
	actions := append(modelConnections(connections, skew), modelRequests(requests, skew)...)
	slices.SortFunc(actions, slices.Compare)
	return actions
}

// modelConnections: the two sides' reports of a connection are one action if
// each is the other's nearest of those that fit.
func modelConnections(all []evidence.Evidence, skew time.Duration) [][]string {
	samePort := func(a, b evidence.Evidence) bool { return a.From.Port == b.From.Port }
	proven := func(e evidence.Evidence) bool { return len(e.From.Identities) > 0 && len(e.To.Identities) > 0 }
	apart := func(a, b evidence.Evidence) int64 {
		return max(a.Start-b.Start, b.Start-a.Start, a.End-b.End, b.End-a.End)
	}
	fits := func(a, b evidence.Evidence) bool {
		if a.Role == b.Role || apart(a, b) > int64(skew+connectionSetup) {
			return false
		}
		if proven(a) && proven(b) && (a.From.Identities[0].ID != b.From.Identities[0].ID || a.To.Identities[0].ID != b.To.Identities[0].ID) {
			return false
		}
		// A tunnel has a source port of its own on its far side, and a port of
		// its own that the near side may tell as the destination's.
		tunnelPort := a.To.Port == 15008 || b.To.Port == 15008
		return a.From.Address == b.From.Address && a.To.Address == b.To.Address &&
			(a.To.Port == b.To.Port || tunnelPort) && (samePort(a, b) || proven(a) && proven(b))
	}
	nearest := func(a evidence.Evidence) (string, bool) {
		fitting := slices.DeleteFunc(slices.Clone(all), func(b evidence.Evidence) bool { return !fits(a, b) })
		slices.SortFunc(fitting, func(b, c evidence.Evidence) int {
			if samePort(a, b) != samePort(a, c) {
				if samePort(a, b) {
					return -1
				}
				return 1
			}
			return cmp.Or(cmp.Compare(apart(a, b), apart(a, c)), cmp.Compare(b.Start, c.Start),
				strings.Compare(string(b.ID[:]), string(c.ID[:])))
		})
		if len(fitting) == 0 {
			return "", false
		}
		return fitting[0].Position, true
	}
	var actions [][]string
	for _, e := range all {
		names := []string{e.Position}
		if other, ok := nearest(e); ok {
			i := slices.IndexFunc(all, func(o evidence.Evidence) bool { return o.Position == other })
			if back, _ := nearest(all[i]); back == e.Position {
				names = append(names, other)
			}
		}
		slices.Sort(names)
		actions = append(actions, names)
	}
	slices.SortFunc(actions, slices.Compare)
	return slices.CompactFunc(actions, slices.Equal)
}

func modelRequests(all []evidence.Evidence, skew time.Duration) [][]string {
	var actions [][]string
	used := map[string]bool{}
	action := func(members ...[]evidence.Evidence) {
		var names []string
		for _, e := range slices.Concat(members...) {
			if !slices.Contains(names, e.Position) {
				names = append(names, e.Position)
			}
			used[e.Position] = true
		}
		slices.Sort(names)
		actions = append(actions, names)
	}
	where := func(keep func(e evidence.Evidence) bool) []evidence.Evidence {
		return slices.DeleteFunc(slices.Clone(all), func(e evidence.Evidence) bool { return !keep(e) })
	}

	// 1. The callee's side. Each proxy node, that is a log or a proxy's span,
	// with the application's span beneath it, is one action; so is an
	// application's span beneath none.
	type node struct {
		t evidence.TraceID
		s evidence.SpanID
	}
	at := func(e evidence.Evidence) node { return node{e.TraceID, e.SpanID} }
	above := func(e evidence.Evidence) node { return node{e.TraceID, e.ParentSpanID} }
	isApp := func(e evidence.Evidence) bool { return e.Source == evidence.SourceSpan }
	var callees [][]evidence.Evidence
	for _, e := range where(func(e evidence.Evidence) bool { return e.Role == evidence.RoleCallee && !isApp(e) }) {
		if slices.ContainsFunc(slices.Concat(callees...), func(o evidence.Evidence) bool { return o.Position == e.Position }) {
			continue
		}
		if e.SpanID == (evidence.SpanID{}) {
			callees = append(callees, []evidence.Evidence{e})
			continue
		}
		callees = append(callees, where(func(o evidence.Evidence) bool {
			return o.Role == evidence.RoleCallee && (isApp(o) && above(o) == at(e) || !isApp(o) && at(o) == at(e))
		}))
	}
	for _, e := range where(func(e evidence.Evidence) bool { return e.Role == evidence.RoleCallee && isApp(e) }) {
		if !slices.ContainsFunc(slices.Concat(callees...), func(o evidence.Evidence) bool { return o.Position == e.Position }) {
			callees = append(callees, []evidence.Evidence{e})
		}
	}

	// 2. The caller's side of a node: what stands on it, and the application's
	// span above the proxy's.
	callersAt := func(n node) []evidence.Evidence {
		on := where(func(o evidence.Evidence) bool {
			return o.Role == evidence.RoleCaller && at(o) == n && n.s != evidence.SpanID{}
		})
		for _, o := range on {
			if o.Source == evidence.SourceProxySpan {
				on = append(on, where(func(p evidence.Evidence) bool {
					return p.Role == evidence.RoleCaller && isApp(p) && at(p) == above(o)
				})...)
			}
		}
		return on
	}
	decided := func(of []evidence.Evidence) []evidence.Evidence {
		return where(func(d evidence.Evidence) bool {
			return d.Role == evidence.RoleDecision && slices.ContainsFunc(of, func(e evidence.Evidence) bool {
				return e.DecisionID != "" && e.DecisionID == d.DecisionID
			})
		})
	}
	// leadOf is the callee's strongest report: its log, else its proxy's span.
	leadOf := func(c []evidence.Evidence) evidence.Evidence {
		for _, e := range c {
			if e.Source == evidence.SourceEnvoyALS {
				return e
			}
		}
		return c[0]
	}
	isLog := func(e evidence.Evidence) bool { return e.Source == evidence.SourceEnvoyALS }
	// Whether a caller's and a callee's report may tell of one call by tier request.
	fits := func(o, l evidence.Evidence) bool {
		return (o.RequestID != "" && o.RequestID == l.RequestID || o.TraceID != evidence.TraceID{} && o.TraceID == l.TraceID) &&
			o.Method == l.Method && o.Path == l.Path &&
			(o.TraceID == evidence.TraceID{} || l.TraceID == evidence.TraceID{} || o.TraceID == l.TraceID) &&
			len(o.From.Identities) > 0 && len(l.From.Identities) > 0 &&
			o.From.Identities[0].ID == l.From.Identities[0].ID && o.To.Identities[0].ID == l.To.Identities[0].ID &&
			o.Start <= max(l.Start, l.End)+int64(skew) && l.Start <= max(o.Start, o.End)+int64(skew)
	}
	ordered := func(of []evidence.Evidence) []evidence.Evidence {
		slices.SortFunc(of, func(a, b evidence.Evidence) int {
			return cmp.Or(cmp.Compare(a.Start, b.Start), strings.Compare(string(a.ID[:]), string(b.ID[:])))
		})
		return of
	}
	// The callers' logs that fit a callee's report and that spans, or a decision
	// that a log names, do not bind to another.
	callersOf := func(l evidence.Evidence) []evidence.Evidence {
		return ordered(where(func(o evidence.Evidence) bool {
			bound := o.SpanID != evidence.SpanID{} && o.ResendCount == 0 && slices.ContainsFunc(all, func(k evidence.Evidence) bool {
				return above(k) == at(o) && (k.Role == evidence.RoleCallee || k.Role == evidence.RoleDecision &&
					slices.ContainsFunc(all, func(x evidence.Evidence) bool {
						return x.Role == evidence.RoleCallee && x.DecisionID == k.DecisionID && x.Position != l.Position
					}))
			})
			return o.Role == evidence.RoleCaller && isLog(o) && !bound && fits(o, l)
		}))
	}
	calleesOf := func(o evidence.Evidence, l evidence.Evidence) []evidence.Evidence { // of l's kind
		return ordered(where(func(k evidence.Evidence) bool {
			return k.Role == evidence.RoleCallee && k.Source == l.Source && fits(o, k)
		}))
	}
	same := func(a, b []evidence.Evidence) bool {
		return slices.EqualFunc(a, b, func(x, y evidence.Evidence) bool { return x.Position == y.Position })
	}
	// How far apart two reports are: when they began and ended; of a call that was
	// tried again the attempts begin or end with it.
	apart := func(a, b evidence.Evidence) int64 {
		begin, end := max(a.Start-b.Start, b.Start-a.Start), max(a.End-b.End, b.End-a.End)
		switch {
		case a.Role == evidence.RoleDecision || b.Role == evidence.RoleDecision:
			return begin
		case a.ResendCount+b.ResendCount > 0:
			return min(begin, end)
		}
		return max(begin, end)
	}
	nearest := func(to evidence.Evidence, of []evidence.Evidence) []evidence.Evidence {
		slices.SortStableFunc(of, func(a, b evidence.Evidence) int { return cmp.Compare(apart(to, a), apart(to, b)) })
		return of
	}
	// Of the callers' logs that fit, l's is the nearest. Where each fits each report of
	// as many alike calls, or more, they are shared out so that begins and ends of
	// each call and its attempts lie closest.
	callerOf := func(l evidence.Evidence) (evidence.Evidence, bool) {
		fitting := callersOf(l)
		if len(fitting) == 0 {
			return evidence.Evidence{}, false
		}
		alike := calleesOf(fitting[0], l)
		share := len(fitting) > 1 && len(alike) <= maxAlike
		for _, o := range fitting {
			share = share && same(calleesOf(o, l), alike)
		}
		for _, k := range alike {
			share = share && same(callersOf(k), fitting)
		}
		best, least := nearest(l, slices.Clone(fitting))[0], math.Inf(1)
		var try func(of []int)
		try = func(of []int) {
			if len(of) < len(alike) {
				for n := range fitting {
					try(append(slices.Clone(of), n))
				}
				return
			}
			cost, own := 0.0, evidence.Evidence{}
			for n, o := range fitting {
				var begins, ends []int64
				for i, k := range alike {
					if of[i] != n {
						continue
					}
					begins, ends = append(begins, k.Start), append(ends, k.End)
					if k.Position == l.Position {
						own = o
					}
				}
				if len(begins) == 0 || len(begins) > 1+o.ResendCount {
					return
				}
				begin, end := float64(o.Start-slices.Min(begins)), float64(o.End-slices.Max(ends))
				cost += begin*begin + end*end
			}
			if cost < least {
				best, least = own, cost
			}
		}
		if share {
			try(nil)
		}
		return best, true
	}
	// The decision of an action: that which its callee's log names, else of those
	// that no log names and that were asked from its spans the nearest, unless
	// that is nearer to another attempt.
	decisions := func(of []evidence.Evidence, lead evidence.Evidence) []evidence.Evidence {
		if lead.Role == evidence.RoleCallee && lead.DecisionID != "" {
			return decided([]evidence.Evidence{lead})
		}
		found := ordered(where(func(d evidence.Evidence) bool {
			return d.Role == evidence.RoleDecision && d.ParentSpanID != evidence.SpanID{} && d.Path == lead.Path &&
				!slices.ContainsFunc(all, func(k evidence.Evidence) bool {
					return k.Role == evidence.RoleCallee && k.DecisionID == d.DecisionID
				}) &&
				slices.ContainsFunc(of, func(e evidence.Evidence) bool {
					return e.SpanID != evidence.SpanID{} && (at(e) == above(d) || e.Role == evidence.RoleCallee && above(e) == above(d))
				}) &&
				lead.Start <= max(d.Start, d.End)+int64(skew) && d.Start <= max(lead.Start, lead.End)+int64(skew)
		}))
		if len(found) == 0 {
			return nil
		}
		d := nearest(lead, found)[0]
		for _, c := range callees {
			k := leadOf(c)
			reached := func(e evidence.Evidence) bool {
				return above(e) == above(d) || at(e) == above(d) || slices.ContainsFunc(of, func(o evidence.Evidence) bool {
					return lead.Role == evidence.RoleCallee && o.Role == evidence.RoleCaller && isLog(o) && slices.ContainsFunc(calleesOf(o, lead), func(x evidence.Evidence) bool { return x.Position == e.Position })
				})
			}
			if k.Position != lead.Position && k.DecisionID == "" && slices.ContainsFunc(c, reached) && nearest(d, ordered([]evidence.Evidence{k, lead}))[0].Position == k.Position {
				return nil
			}
		}
		return found[:1]
	}
	for _, c := range callees {
		lead := leadOf(c)
		var callers []evidence.Evidence
		for _, e := range c {
			callers = append(callers, callersAt(above(e))...)
		}
		if len(callers) == 0 {
			// The decision that the log names knows from which span it was asked.
			for _, d := range decided([]evidence.Evidence{lead}) {
				callers = append(callers, callersAt(above(d))...)
			}
		}
		// 3. With no caller's log by spans: the nearest one of the same
		// request, parties, method, path and time.
		if !slices.ContainsFunc(callers, isLog) && !isApp(c[0]) {
			log, found := callerOf(lead)
			if found && (len(callers) == 0 || log.SpanID == evidence.SpanID{}) {
				callers = append(callers, log)
				callers = append(callers, callersAt(at(log))...)
			}
		}
		action(c, callers, decisions(slices.Concat(c, callers), lead))
	}

	// 4. What is left of the callers: each proxy node with the application
	// above, then applications' spans; then decisions.
	for _, last := range []bool{false, true} {
		for _, e := range where(func(e evidence.Evidence) bool { return e.Role == evidence.RoleCaller && isApp(e) == last }) {
			if !used[e.Position] {
				of := append([]evidence.Evidence{e}, callersAt(at(e))...)
				action(of, decisions(of, leadOf(of)))
			}
		}
	}
	for _, d := range where(func(e evidence.Evidence) bool { return e.Role == evidence.RoleDecision }) {
		if !used[d.Position] {
			action([]evidence.Evidence{d})
		}
	}
	return actions
}

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

// Spread over the window, a record folded with its amendments is that of the
// model, and each evidence id is cited.
func TestFoldedRecordsDoNotDependOnTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := drawMesh(t, false)
		cfg := testConfig()
		cfg.Settle = time.Duration(rapid.IntRange(0, 3).Draw(t, "settle")) * time.Second
		c := New(cfg)
		now := t0
		for _, e := range shuffle(t, all) {
			now = now.Add(time.Duration(rapid.IntRange(0, 9000/max(len(all), 1)).Draw(t, "wait")) * time.Millisecond)
			c.Advance(now)
			c.Add(now, []evidence.Evidence{e})
		}
		c.Advance(now.Add(time.Minute))
		var rs []*Record
		_, _ = c.Deliver(100, func(b []*Record) error { rs = append(rs, b...); return nil })
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
		c := New(cfg)
		now := t0
		for _, e := range shuffle(t, all) {
			now = now.Add(time.Duration(rapid.IntRange(0, 20000/max(len(all), 1)).Draw(t, "wait")) * time.Millisecond)
			c.Advance(now)
			c.Add(now, []evidence.Evidence{e})
		}
		c.Advance(now.Add(time.Minute))
		var rs []*Record
		_, _ = c.Deliver(100, func(b []*Record) error { rs = append(rs, b...); return nil })
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

func FuzzUnpack(f *testing.F) {
	for _, e := range []evidence.Evidence{
		calleeALS("log", mtls("a", "b"), claims("nonsense", "header.x-spiffe-id"), verdict(evidence.Deny, "envoy_rbac")),
		opa("decision"), change("change", "audit-1"), {},
	} {
		f.Add(string(pack(nil, &e)))
	}
	f.Fuzz(func(t *testing.T, s string) {
		var e evidence.Evidence
		if unpack(s, &e, new(ids)) != nil {
			return
		}
		var again evidence.Evidence
		if err := unpack(string(pack(nil, &e)), &again, new(ids)); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPackKeepsAll(t *testing.T) {
	e := calleeALS("log", mtls("a", "b"), claims("nonsense", "header.x-spiffe-id"), verdict(evidence.Deny, "envoy_rbac"), status(403), resends(2))
	e.Digest = [32]byte{1, 2}
	e.Reporter = evidence.Reporter{SPIFFEID: e.From.Identities[0].ID, Authenticated: true, Address: "10.0.0.1", Node: "n", CertSHA256: "ab"}
	e.TLS = evidence.TLS{Known: true, Established: true, Mutual: true, Version: "1.3", Cipher: "x", ClientSHA256: "cd", ClientNotAfter: -5}
	e.From.Workload = evidence.Workload{Name: "a", Namespace: "b", Kind: "c", Version: "d", Revision: "e", PodName: "f", PodUID: "g", Node: "h", ImageDigest: "i"}
	e.To.Address, e.To.Port, e.User, e.Cluster, e.Host, e.GRPCStatus = "10.0.0.2", 8080, "u", "c", "h", "7"
	for _, s := range stringFields(&e) {
		if s != nil && *s == "" {
			*s = "x"
		}
	}
	e.Event = evidence.EventAuthn
	e.Actor = &evidence.Actor{Roles: []string{"a", "b"}, Delegation: []evidence.Delegate{{Issuer: "i", Subject: "s"}, {Subject: "t"}}}
	for i, s := range actorFields(e.Actor) {
		*s = "actor" + itoa(i+1)
	}
	e.Act = new(evidence.Act)
	for i, s := range actFields(e.Act) {
		*s = "act" + itoa(i+1)
	}
	var got evidence.Evidence
	require.NoError(t, unpack(string(pack(nil, &e)), &got, new(ids)))
	// What stands on the piece itself is not packed.
	got.ID, got.Role, got.Start, got.End = e.ID, e.Role, e.Start, e.End
	require.Equal(t, e, got)
}
