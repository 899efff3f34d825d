package correlate

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/meshaudit/meshaudit/internal/evidence"
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
		if a.Role == b.Role || a.Cluster != "" && b.Cluster != "" && a.Cluster != b.Cluster || apart(a, b) > int64(skew+connectionSetup) {
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
			o.Start <= max(l.Start, l.End)+int64(2*skew) && l.Start <= max(o.Start, o.End)+int64(2*skew)
	}
	ordered := func(of []evidence.Evidence) []evidence.Evidence {
		slices.SortFunc(of, func(a, b evidence.Evidence) int {
			return cmp.Or(cmp.Compare(a.Start, b.Start), strings.Compare(string(a.ID[:]), string(b.ID[:])))
		})
		return of
	}
	// Of those that fit, the ones of the same request id, if there are any, else those
	// that do not state another.
	closest := func(of []evidence.Evidence, l evidence.Evidence) []evidence.Evidence {
		for _, bonded := range []func(evidence.Evidence) bool{
			func(o evidence.Evidence) bool { return o.RequestID != "" && o.RequestID == l.RequestID },
			func(o evidence.Evidence) bool { return o.RequestID == "" || l.RequestID == "" },
		} {
			if some := slices.DeleteFunc(slices.Clone(of), func(o evidence.Evidence) bool { return !bonded(o) }); len(some) > 0 {
				return some
			}
		}
		return of
	}
	// The callers' logs that fit a callee's report and that spans, or a decision
	// that a log names, do not bind to another.
	callersOf := func(l evidence.Evidence) []evidence.Evidence {
		return closest(ordered(where(func(o evidence.Evidence) bool {
			bound := o.SpanID != evidence.SpanID{} && o.ResendCount == 0 && slices.ContainsFunc(all, func(k evidence.Evidence) bool {
				return above(k) == at(o) && (k.Role == evidence.RoleCallee || k.Role == evidence.RoleDecision &&
					slices.ContainsFunc(all, func(x evidence.Evidence) bool {
						return x.Role == evidence.RoleCallee && x.DecisionID == k.DecisionID && x.Position != l.Position
					}))
			})
			return o.Role == evidence.RoleCaller && isLog(o) && !bound && fits(o, l)
		})), l)
	}
	calleesOf := func(o evidence.Evidence, l evidence.Evidence) []evidence.Evidence { // of l's kind
		return closest(ordered(where(func(k evidence.Evidence) bool {
			return k.Role == evidence.RoleCallee && k.Source == l.Source && fits(o, k)
		})), o)
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
	// calls differ the most evenly from those of their attempts.
	callerOf := func(l evidence.Evidence) (evidence.Evidence, bool) {
		fitting := callersOf(l)
		if len(fitting) == 0 {
			return evidence.Evidence{}, false
		}
		alike := calleesOf(fitting[0], l)
		share := len(fitting) > 1 && len(alike) <= maxAlike &&
			slices.ContainsFunc(alike, func(k evidence.Evidence) bool { return k.Position == l.Position })
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
			sum, squares, own := 0.0, 0.0, evidence.Evidence{}
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
				clocks := fitting[0].Start - alike[0].Start
				begin, end := float64(o.Start-slices.Min(begins)-clocks), float64(o.End-slices.Max(ends)-clocks)
				sum, squares = sum+(begin+end), squares+(begin*begin+end*end)
			}
			if spread := squares - sum*sum/float64(2*len(fitting)); spread < least {
				best, least = own, spread
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
			other := lead.Role == evidence.RoleCallee && !isApp(lead) && lead.RequestID != "" && d.RequestID != "" && lead.RequestID != d.RequestID
			return d.Role == evidence.RoleDecision && d.ParentSpanID != evidence.SpanID{} && d.Path == lead.Path && !other &&
				!slices.ContainsFunc(all, func(k evidence.Evidence) bool {
					return k.Role == evidence.RoleCallee && k.DecisionID == d.DecisionID
				}) &&
				slices.ContainsFunc(of, func(e evidence.Evidence) bool {
					return e.SpanID != evidence.SpanID{} && (at(e) == above(d) || e.Role == evidence.RoleCallee && above(e) == above(d))
				}) &&
				lead.Start <= max(d.Start, d.End)+int64(2*skew) && d.Start <= max(lead.Start, lead.End)+int64(2*skew)
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
			bonded := func(k evidence.Evidence) bool { return k.RequestID == log.RequestID }
			if found && (bonded(lead) || !slices.ContainsFunc(calleesOf(log, lead), bonded)) &&
				(len(callers) == 0 || log.SpanID == evidence.SpanID{}) {
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
