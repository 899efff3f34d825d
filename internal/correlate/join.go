package correlate

import (
	"slices"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// Tier is by what a piece was joined; a stronger tier is less.
type Tier uint8

const (
	TierNone Tier = iota // alone
	TierDecisionID
	TierSpan
	TierStream
	TierRequest
	TierConnection
)

func (t Tier) String() string {
	return [...]string{"none", "decision_id", "span", "stream", "request", "connection"}[t]
}

// Confidence of a join by request: both parties proven by SPIFFE ID, or only
// told by address or pod. Of one by connection: both tell of one source port, or
// only of the same two ends of a tunnel. The other tiers are exact identifiers.
const (
	confidenceIdentified = 0.9
	confidenceAddressed  = 0.7
)

// member is a piece of an action and how it joined.
type member struct {
	*piece
	tier Tier
}

// joined is what belongs to one action, as far as it is known now.
type joined struct {
	slots      [places]*piece
	tiers      [places]Tier
	more       []member // interim reports, repeats by another channel, further decisions
	several    bool     // some join took one of several that fitted as well
	certain    bool     // the caller's log is the only one possible of several
	asked      bool     // what leads to the caller is where the decision was asked from
	doubt      bool     // something speaks against some join
	confidence float64
}

func (j *joined) set(p *piece, t Tier) {
	if p != nil && j.slots[p.place] == nil {
		j.slots[p.place], j.tiers[p.place] = p, t
	}
}

// lead is the strongest piece: callee's report, caller's report, decision.
func (j *joined) lead() *piece { return strongest(j.slots[:]) }

// callees and callers give the slots of one side.
func (j *joined) callees() []*piece { return j.slots[calleeLog : calleeApp+1] }
func (j *joined) callers() []*piece { return j.slots[callerLog : callerApp+1] }

// called says whether there is a piece of the caller's.
func (j *joined) called() bool { return strongest(j.callers()) != nil }

// calleeLead is the strongest of the callee's pieces, nil without any.
func (j *joined) calleeLead() *piece { return strongest(j.callees()) }

func strongest(slots []*piece) *piece {
	for _, p := range slots {
		if p != nil {
			return p
		}
	}
	return nil
}

// all calls f for every piece, strongest place first.
func (j *joined) all(f func(member)) {
	for at, p := range j.slots {
		if p != nil {
			f(member{p, j.tiers[at]})
		}
	}
	for _, m := range j.more {
		f(m)
	}
}

func (j *joined) trust(identified bool) {
	if identified {
		j.confidence = min(j.confidence, confidenceIdentified)
	} else {
		j.confidence = min(j.confidence, confidenceAddressed)
	}
}

// gather collects all pieces of the action that lead leads, as known now, and says
// whether something speaks against that. It is a function of the set of pieces, not of
// their order.
func (c *Correlator) gather(lead *piece) *joined {
	j := new(joined)
	c.sides(j, lead)
	switch {
	case j.lead() == nil: // an interim report, whose final one is not there
		return nil
	case lead.place == observed:
		for _, q := range c.stages(lead) {
			if q != lead {
				j.more = append(j.more, member{q, TierStream})
			}
		}
		return j
	case lead.place != decision:
		c.decisions(j)
		c.interim(j)
	}
	j.doubt = c.doubtful(j)
	slices.SortFunc(j.more, func(a, b member) int { return compare(a.piece, b.piece) })
	if len(j.more) > maxMore {
		j.more = j.more[:maxMore]
	}
	return j
}

// sides fills j with what belongs to the action of lead but for decisions and interim
// reports: the callee's pieces and the caller's.
func (c *Correlator) sides(j *joined, lead *piece) {
	j.confidence = 1
	switch {
	case lead.place.callee():
		c.callee(j, lead)
		if j.calleeLead() != nil {
			c.caller(j)
		}
	case lead.place.caller():
		j.set(c.firstOf(lead), TierNone)
		if lead.hasNode() {
			c.callerAt(j, lead.trace, lead.span, TierSpan)
		}
		c.application(j)
		j.tiers[j.lead().place] = TierNone
	default:
		j.set(lead, TierNone)
	}
}

// maxMore bounds the attestations of an action beyond its places.
const maxMore = 16

// callee fills j with the callee's pieces of the action that p, one of them, is
// part of.
func (c *Correlator) callee(j *joined, p *piece) {
	if p.place == calleeLog && !p.final {
		if p = c.finalOf(p); p == nil {
			return
		}
	}
	if !p.hasNode() { // then its proxy's span, which it joins by request, knows the node
		var proxy *piece
		if p.place == calleeLog {
			p = c.firstOf(p)
			proxy, _ = c.mate(p, calleeProxy)
		}
		if proxy == nil {
			j.set(p, TierNone)
			return
		}
		p = proxy
	}
	var room [16]*piece
	n := c.calleesOn(room[:], p)
	n, j.several = n.ofOnePod(p)
	own := n.with(p)
	if i := slices.IndexFunc(own, func(q *piece) bool { return q == p || sameReport(p, q) }); i >= 0 {
		p = own[i] // the first report of it
	}
	lead := n.leadOf(p)
	for _, list := range n {
		q, several := matching(lead, n.with(lead), list)
		j.set(q, TierSpan)
		j.several = j.several || several
	}
	if j.slots[p.place] != p { // lead has another
		j.slots = [places]*piece{}
		j.set(p, TierSpan)
	}
	if proxy := j.slots[calleeProxy]; proxy != nil && len(n[0]) == 0 {
		log, several := c.mate(proxy, calleeLog)
		if log != nil {
			j.set(log, TierNone)
			j.tiers[calleeProxy] = TierRequest // to the log, which leads
			j.trust(false)
			j.several = j.several || several
		}
	}
	j.tiers[j.calleeLead().place] = TierNone
}

// callees are what stands on one node of a trace: logs, the proxy's spans, the
// application's spans. Several of a kind are of several attempts.
type callees [3][]*piece

// calleesOn gives what stands on the node of p, a callee's piece, in the memory of
// room. A span that is alone on its own may be of a proxy or an application that keeps to the node above.
func (c *Correlator) calleesOn(room []*piece, p *piece) callees {
	half := len(room) / 2
	logs, proxies, apps := c.calleesAt(room[:0:half], p.trace, p.span)
	alone := p.place == calleeApp && len(proxies) == 0 || p.place == calleeProxy && len(apps) == 0
	if alone && len(logs) == 0 && p.keys[byParent] != 0 {
		l, x, a := c.calleesAt(room[half:half], p.trace, p.parent)
		if len(l)+len(x) > 0 && (slices.Contains(a, p) || slices.Contains(x, p)) {
			logs, proxies, apps = l, x, a
		}
	}
	return callees{logs, proxies, apps}
}

// ofOnePod leaves out what is of other pods than p: several on one node are each of a
// call of its own. It says whether something is left of which no pod is known.
func (n callees) ofOnePod(p *piece) (left callees, unsure bool) {
	logs := n[0]
	if p.to.pod == 0 || len(logs) == 0 || len(logs) == 1 && (!logs[0].onIncoming || logs[0].waypoint) {
		return n, false
	}
	for i, list := range n {
		n[i] = slices.DeleteFunc(list, func(q *piece) bool { return q.to.pod != 0 && q.to.pod != p.to.pod && !sameReport(q, p) })
		unsure = unsure || slices.ContainsFunc(n[i], func(q *piece) bool { return q.to.pod == 0 })
	}
	return n, unsure
}

// with gives p and those beside it.
func (n callees) with(p *piece) []*piece { return n[p.place-calleeLog] }

// leadOf gives the strongest piece of p's attempt.
func (n callees) leadOf(p *piece) *piece {
	for _, list := range n {
		if q, _ := matching(p, n.with(p), list); q != nil {
			return q
		}
	}
	return p
}

// calleeLead is the strongest of the callee's pieces of the action that p, one of them,
// is part of.
func (c *Correlator) calleeLead(p *piece) *piece {
	var j joined
	c.callee(&j, p)
	return j.calleeLead()
}

// matching gives of a list the piece that belongs to p, one of its own: each is the
// other's nearest. It is one of several unless it alone lies within p, or p within it; so
// is what lies within p and is nearer to another, or was not at the time of p.
func matching(p *piece, own, list []*piece) (q *piece, several bool) {
	switch {
	case len(list) == 0 || len(own) == 0: // the chain that p was to join is full
		return nil, false
	case list[0].place == p.place:
		return p, false
	}
	q = nearestOf(p, list)
	for _, x := range own {
		several = several || x != p && together(x, q)
	}
	for _, x := range list {
		several = several || x != q && together(p, x)
	}
	if nearestOf(q, own) != p {
		return nil, several || together(p, q)
	}
	return q, several || len(own)+len(list) > 2 && !together(p, q) || !overlap(p, q)
}

// together says whether one of two reports lies within the other in time.
func together(a, b *piece) bool {
	in := func(a, b *piece) bool { return a.start >= b.start-rounding && a.end <= b.end+rounding }
	return in(a, b) || in(b, a)
}

// overlap says whether two reports by one clock may be of one time.
func overlap(a, b *piece) bool { return a.start <= b.end+rounding && b.start <= a.end+rounding }

// caller adds what the caller's side says about the callee's pieces in j: what spans
// lead to, else what the decision that the callee's log names was asked from; without a
// log among that the one which fits best; and the application's span around it.
func (c *Correlator) caller(j *joined) {
	lead := j.calleeLead()
	if lead.connection {
		c.callerByConnection(j, lead)
		return
	}
	if node := j.node(); node != nil {
		c.callerAt(j, node.trace, j.parent(), TierSpan)
		c.callerAt(j, node.trace, node.span, TierSpan)
	}
	if log := j.slots[calleeLog]; log != nil && !j.called() {
		if d := c.decisionOf(log); d != nil {
			c.callerAt(j, d.trace, d.parent, TierSpan)
			j.asked = j.called()
		}
	}
	if j.slots[callerLog] == nil && lead.place != calleeApp {
		c.callerByRequest(j, lead)
	}
	c.application(j)
}

// node is where the callee stands in the trace, nil if it doesn't: where its proxy
// does, else its application.
func (j *joined) node() *piece {
	log := j.slots[calleeLog]
	switch {
	case j.slots[calleeProxy] != nil:
		return j.slots[calleeProxy]
	case log != nil && log.hasNode():
		return log
	}
	return j.slots[calleeApp]
}

// parent is the caller's node, as far as the callee's pieces tell of it.
func (j *joined) parent() evidence.SpanID {
	node, app := j.node(), j.slots[calleeApp]
	switch {
	case node == nil:
		return evidence.SpanID{}
	case node.place == calleeProxy, node.place == calleeLog && node.parent != (evidence.SpanID{}):
		return node.parent
	case app != nil && app.parent != node.span:
		return app.parent
	}
	return evidence.SpanID{}
}

// callerByRequest adds the caller's log that fits lead best, and what stands on its node. A
// log on another node than the caller's spans is of another call.
func (c *Correlator) callerByRequest(j *joined, lead *piece) {
	log, several := c.nearest(lead, callerLog)
	if several {
		if of, certain := c.assign(lead); of != nil {
			log, several, j.certain = of, !certain, certain
		}
	}
	if log == nil || log.hasNode() && j.called() || c.tighter(log, lead) {
		return
	}
	j.set(log, TierRequest)
	j.trust(lead.identified() && log.identified())
	j.several = j.several || several
	if log.hasNode() {
		c.callerAt(j, log.trace, log.span, TierRequest)
	}
}

// callerByConnection adds the caller's report of a connection. A connection is not tried
// again, so both must choose each other.
func (c *Correlator) callerByConnection(j *joined, lead *piece) {
	log, several := c.mate(lead, callerLog)
	if log == nil {
		return
	}
	if several {
		of, certain := c.assign(lead)
		several = of != log || !certain
	}
	j.set(log, TierConnection)
	j.trust(lead.samePort(log))
	j.several = several
}

// callerAt adds the caller's pieces of one node, and the application's span above the
// proxy's.
func (c *Correlator) callerAt(j *joined, t evidence.TraceID, s evidence.SpanID, by Tier) {
	if s == (evidence.SpanID{}) {
		return
	}
	var buf, over [8]*piece
	logs, proxies, apps := c.callersAt(buf[:0], t, s)
	lead := j.lead()
	logs, proxies, apps = consistent(lead, logs), consistent(lead, proxies), consistent(lead, apps)
	log := j.slots[callerLog]
	if log == nil && len(logs) > 0 {
		log = c.bestOf(j, lead, logs)
		j.set(log, by)
	}
	if log != nil {
		proxies, apps = consistent(log, proxies), consistent(log, apps)
	}
	if len(proxies) > 0 {
		j.set(proxies[0], by)
	}
	if len(apps) > 0 {
		j.set(apps[0], by)
	}
	if len(proxies) > 0 && proxies[0].keys[byParent] != 0 {
		if _, _, above := c.callersAt(over[:0], t, proxies[0].parent); len(above) > 0 {
			j.set(above[0], by)
		}
	}
}

// bestOf takes of several callers' logs on one node that which fits lead best.
func (c *Correlator) bestOf(j *joined, lead *piece, logs []*piece) (best *piece) {
	if len(logs) == 1 {
		return logs[0]
	}
	how := func(log *piece) fit { return c.fit(lead, log) }
	most := 0
	for _, log := range logs {
		nth := rank(how(log), bonded(lead, log))
		if best == nil || nth > most || nth == most && apart(lead, log) < apart(lead, best) {
			best, most = log, nth
		}
	}
	several := how(best) == unfit || slices.ContainsFunc(logs, func(log *piece) bool {
		return log != best && how(log) > unfit && bonded(lead, log) >= bonded(lead, best)
	})
	if several {
		if of, certain := c.assign(lead); of != nil && slices.Contains(logs, of) {
			best, several, j.certain = of, !certain, certain
		}
	}
	j.several = j.several || several
	return best
}

// application adds the caller's application's span where its proxy's, which stands
// between that and the log, is not there: the only one of the same pod, trace,
// method and path around the log, which must be the only one in it.
func (c *Correlator) application(j *joined) {
	log := j.slots[callerLog]
	if log == nil || j.slots[callerProxy] != nil || j.slots[callerApp] != nil {
		return
	}
	if app := c.around(log, callerApp); app != nil && c.around(app, callerLog) == log {
		j.set(app, TierRequest)
		j.trust(false)
	}
}

// interim adds interim reports and repeats of the two access logs.
func (c *Correlator) interim(j *joined) {
	var buf [8]*piece
	for _, at := range [...]place{calleeLog, callerLog} {
		log := j.slots[at]
		if log == nil {
			continue
		}
		for _, q := range c.sharing(buf[:0], byStream, log) {
			if sameReport(q, log) {
				j.more = append(j.more, member{q, TierStream})
			}
		}
		for _, q := range c.sharing(buf[:0], byNode, log) {
			if q.place == at && !q.final && q.keys[byStream] == 0 && sameProxy(q, log) {
				j.more = append(j.more, member{q, TierSpan})
			}
		}
	}
}

// calleesAt gives the callee's pieces of one node, in memory that follows dst: its
// logs and proxy spans, and the application spans on it or directly beneath it. A
// proxy that answers by itself logs the span that came in, above its own.
func (c *Correlator) calleesAt(dst []*piece, t evidence.TraceID, s evidence.SpanID) (logs, proxies, apps []*piece) {
	found := c.at(dst, t, s)[len(dst):]
	n := len(found)
	logs, proxies, apps = byPlace(found, calleeLog)
	if len(logs) > 0 && logs[0].onIncoming && len(proxies) == 0 {
		found = c.under(found, t, s)
		proxies = slices.DeleteFunc(found[n:], func(q *piece) bool {
			return q.place != calleeProxy || !slices.ContainsFunc(logs, func(log *piece) bool { return c.answered(log, q) })
		})
		slices.SortFunc(proxies, compare)
		n = len(found)
	}
	if len(apps) == 0 && len(logs)+len(proxies) > 0 {
		apps = slices.DeleteFunc(c.under(found, t, s)[n:], func(q *piece) bool { return q.place != calleeApp })
		slices.SortFunc(apps, compare)
	}
	return logs, proxies, apps
}

// callersAt gives the caller's pieces of one node, in memory that follows dst.
func (c *Correlator) callersAt(dst []*piece, t evidence.TraceID, s evidence.SpanID) (logs, proxies, apps []*piece) {
	return byPlace(c.at(dst, t, s)[len(dst):], callerLog)
}

// answered says whether a log that stands on the span that came in, and the span
// of a proxy beneath that, are one proxy's about one request, which it answered by itself.
func (c *Correlator) answered(log, proxy *piece) bool {
	if !log.onIncoming || log.reporter == 0 || !sameProxy(log, proxy) || !overlap(log, proxy) {
		return false
	}
	var buf [8]*piece
	return !slices.ContainsFunc(c.at(buf[:0], proxy.trace, proxy.span), func(q *piece) bool { return q.place == calleeLog })
}

// byPlace parts what stands on one node, in order: one side's logs, its first place,
// and the spans of its proxy and its application.
func byPlace(found []*piece, log place) (logs, proxies, apps []*piece) {
	found = slices.DeleteFunc(found, func(q *piece) bool { return q.place < log || q.place > log+2 })
	slices.SortFunc(found, func(a, b *piece) int {
		if a.place != b.place {
			return int(a.place) - int(b.place)
		}
		return compare(a, b)
	})
	from := func(at place) int {
		n, _ := slices.BinarySearchFunc(found, at, func(q *piece, at place) int { return int(q.place) - int(at) })
		return n
	}
	proxy, app := from(log+1), from(log+2)
	return firstReports(found[:proxy:proxy]), found[proxy:app:app], found[app:]
}

// sameProxy says whether two logs on one node may be of one proxy's request: a span
// that others forwarded is told to several.
func sameProxy(a, b *piece) bool { return a.reporter == b.reporter && !unlike(a, b) }

// finalOf finds the final entry that an interim one belongs to.
func (c *Correlator) finalOf(p *piece) *piece {
	var buf [8]*piece
	var found []*piece
	for _, q := range c.sharing(buf[:0], byStream, p) {
		if q.final && sameReport(p, q) {
			found = append(found, q)
		}
	}
	if len(found) == 0 && p.keys[byStream] == 0 {
		for _, q := range c.sharing(buf[:0], byNode, p) {
			if q.final && q.place == p.place && sameProxy(p, q) {
				found = append(found, q)
			}
		}
	}
	if found = firstReports(found); len(found) == 0 {
		return nil
	}
	return found[0]
}

// firstOf gives the report that stands for p's request of its proxy.
func (c *Correlator) firstOf(p *piece) *piece {
	var buf [8]*piece
	for _, q := range c.sharing(buf[:0], byStream, p) {
		if q.final && sameReport(p, q) && q.before(p) {
			p = q
		}
	}
	return p
}

// around finds the only application's span around a caller's log, or the only log
// within a span, that no span binds to another.
func (c *Correlator) around(p *piece, at place) *piece {
	if p.from.pod == 0 || p.connection {
		return nil
	}
	var buf, beneath [16]*piece
	var only *piece
	for _, q := range c.sharing(buf[:0], byTrace, p) {
		if q.place != at || q.from.pod != p.from.pod || !q.final || only != nil && sameReport(q, only) {
			continue
		}
		log, app := p, q
		if at == callerLog {
			log, app = q, p
		}
		if app.start > log.start+rounding || app.end < log.end-rounding {
			continue
		}
		for _, k := range c.onOrUnder(c.at(beneath[:0], log.trace, log.span), app.trace, app.span) {
			if k.place == callerProxy || k.place.callee() || k.place == callerLog && k.span == app.span {
				return nil // spans say whose it is
			}
		}
		if only != nil {
			return nil
		}
		only = q
	}
	return only
}
