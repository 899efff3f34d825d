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
	doubt      bool     // more than one piece fitted some join
	confidence float64
}

func (j *joined) set(p *piece, t Tier) {
	if p != nil && j.slots[p.place] == nil {
		j.slots[p.place], j.tiers[p.place] = p, t
	}
}

// lead is the strongest piece: callee's report, caller's report, decision.
func (j *joined) lead() *piece {
	for _, at := range anchorOrder {
		if p := j.slots[at]; p != nil {
			return p
		}
	}
	return nil
}

// calleeLead is the strongest of the callee's pieces, nil without any.
func (j *joined) calleeLead() *piece {
	for _, at := range [...]place{calleeLog, calleeProxy, calleeApp} {
		if p := j.slots[at]; p != nil {
			return p
		}
	}
	return nil
}

// all calls f for every piece, strongest place first.
func (j *joined) all(f func(member)) {
	for _, at := range anchorOrder {
		if p := j.slots[at]; p != nil {
			f(member{p, j.tiers[at]})
		}
	}
	for _, m := range j.more {
		f(m)
	}
}

// anchorOrder ranks the places: an access log is a report, a span is
// weaker, and a decision tells of an action that may not have happened.
var anchorOrder = [...]place{calleeLog, calleeProxy, calleeApp, callerLog, callerProxy, callerApp, decision, observed}

// at appends to dst the pieces that stand on a node of a trace.
func (c *Correlator) at(dst []*piece, t evidence.TraceID, s evidence.SpanID) []*piece {
	for q := c.index[c.hash.span(byNode, t, s)]; q != nil; q = q.chain[byNode] {
		if q.trace == t && q.span == s && q.keys[byNode-1] != 0 {
			dst = append(dst, q)
		}
	}
	return dst
}

// under appends to dst the pieces whose parent is a node of a trace.
func (c *Correlator) under(dst []*piece, t evidence.TraceID, s evidence.SpanID) []*piece {
	for q := c.index[c.hash.span(byParent, t, s)]; q != nil; q = q.chain[byParent] {
		if q.trace == t && q.parent == s && q.keys[byParent-1] != 0 {
			dst = append(dst, q)
		}
	}
	return dst
}

// sharing appends to dst the other pieces with p's key of this kind.
func (c *Correlator) sharing(dst []*piece, kind lookup, p *piece) []*piece {
	key := p.keys[kind-1]
	if key == 0 {
		return dst
	}
	keys := [...]uint64{key, key - bucketStep, key + bucketStep}
	for _, key := range keys[:p.buckets()] {
		for q := c.index[key]; q != nil; q = q.chain[kind] {
			if q != p && q.keys[kind-1] == key {
				dst = append(dst, q)
			}
		}
	}
	return dst
}

// sameReport says whether two logs are one proxy's statements about one
// request: an interim and the final entry, or one entry over two channels.
func sameReport(a, b *piece) bool {
	if a.place != b.place || a.connection != b.connection || a.keys[byStream-1] == 0 || !a.meets(byStream, b) {
		return false
	}
	if a.connection {
		// Without a stream id two final lines are two connections.
		return a.sameEnds(b) && (a.streamID || !a.final || !b.final)
	}
	if a.reporter != 0 && a.reporter == b.reporter {
		return true
	}
	own, other := a.to, b.to
	if a.place == callerLog {
		own, other = a.from, b.from
	}
	same, _ := own.matches(other, true)
	return same
}

// matches compares two statements about one party by the strongest thing that
// both say. Nothing in common is no match.
func (p party) matches(q party, port bool) (match, identified bool) {
	switch {
	case p.spiffe != 0 && q.spiffe != 0:
		return p.spiffe == q.spiffe, true
	case p.pod != 0 && q.pod != 0:
		return p.pod == q.pod, false
	case p.address != 0 && q.address != 0:
		return p.address == q.address && (!port || p.port == 0 || q.port == 0 || p.port == q.port), false
	}
	return false, false
}

// firstReports keeps one final log for each request of a proxy, in order.
func firstReports(logs []*piece) []*piece {
	logs = slices.DeleteFunc(logs, func(p *piece) bool { return !p.final })
	slices.SortFunc(logs, compare)
	kept := logs[:0]
	for _, p := range logs {
		if !slices.ContainsFunc(kept, func(q *piece) bool { return sameReport(p, q) }) {
			kept = append(kept, p)
		}
	}
	return kept
}

func compare(a, b *piece) int {
	switch {
	case a.before(b):
		return -1
	case b.before(a):
		return 1
	}
	return 0
}

// calleesAt gives the callee's pieces of one node: its logs and proxy spans, and
// the application spans on it or directly beneath it.
func (c *Correlator) calleesAt(t evidence.TraceID, s evidence.SpanID) (logs, proxies, apps []*piece) {
	var buf [8]*piece
	for _, q := range c.at(buf[:0], t, s) {
		switch q.place {
		case calleeLog:
			logs = append(logs, q)
		case calleeProxy:
			proxies = append(proxies, q)
		case calleeApp:
			apps = append(apps, q)
		}
	}
	if len(apps) == 0 && len(logs)+len(proxies) > 0 {
		for _, q := range c.under(buf[:0], t, s) {
			if q.place == calleeApp {
				apps = append(apps, q)
			}
		}
	}
	logs = firstReports(logs)
	slices.SortFunc(proxies, compare)
	slices.SortFunc(apps, compare)
	return logs, proxies, apps
}

// callee fills j with the callee's pieces of the action that p, one of them, is
// part of. Several reports on one node are several attempts; then the first
// goes with the first span, the second with the second, and that is in doubt.
func (c *Correlator) callee(j *joined, p *piece) {
	if p.place == calleeLog && !p.final {
		if p = c.finalOf(p); p == nil {
			return
		}
	}
	if !p.hasNode() {
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
	logs, proxies, apps := c.calleesAt(p.trace, p.span)
	if p.place == calleeApp && len(logs)+len(proxies) == 0 && p.keys[byParent-1] != 0 {
		l, x, a := c.calleesAt(p.trace, p.parent)
		if len(l)+len(x) > 0 && slices.Contains(a, p) {
			logs, proxies, apps = l, x, a
		}
	}
	i := max(
		slices.Index(proxies, p), slices.Index(apps, p),
		slices.IndexFunc(logs, func(q *piece) bool { return q == p || sameReport(p, q) }))
	filled := 0
	for _, list := range [...][]*piece{logs, proxies, apps} {
		if len(list) > 0 {
			filled++
		}
		if i < len(list) {
			j.set(list[i], TierSpan)
		}
	}
	if filled > 1 && max(len(logs), len(proxies), len(apps)) > 1 {
		j.doubt = true
	}
	if proxy := j.slots[calleeProxy]; proxy != nil && len(logs) == 0 {
		log, doubt := c.mate(proxy, calleeLog)
		if log != nil {
			j.set(log, TierNone)
			j.tiers[calleeProxy] = TierRequest // to the log, which leads
			j.trust(false)
			j.doubt = j.doubt || doubt
		}
	}
	j.tiers[j.calleeLead().place] = TierNone
}

// finalOf finds the final entry that an interim one belongs to.
func (c *Correlator) finalOf(p *piece) *piece {
	var buf [8]*piece
	var found []*piece
	for _, q := range c.sharing(buf[:0], byStream, p) {
		if q.final && sameReport(p, q) {
			found = append(found, q)
		}
	}
	if len(found) == 0 && p.keys[byStream-1] == 0 {
		for _, q := range c.sharing(buf[:0], byNode, p) {
			if q.final && q.place == p.place {
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

// fits says whether two pieces may tell of one action by tier request: the same
// request or trace (the caller has seen to that), parties, method, path and
// overlapping time.
func (c *Correlator) fits(a, b *piece) (fits, identified bool) {
	if a.trace != b.trace && a.trace != (evidence.TraceID{}) && b.trace != (evidence.TraceID{}) {
		return false, false
	}
	if a.connection || b.connection {
		near := apart(a, b) <= c.hash.bucket
		return a.connection && b.connection && near && a.sameEnds(b), a.samePort(b)
	}
	if !c.overlap(a, b) {
		return false, false
	}
	if a.place == calleeLog && b.place == calleeProxy || a.place == calleeProxy && b.place == calleeLog {
		// One proxy's log and span: its name for itself must be the same.
		return a.reporter != 0 && a.reporter == b.reporter, false
	}
	from, byFrom := a.from.matches(b.from, false)
	to, byTo := a.to.matches(b.to, true)
	return from && to, byFrom && byTo
}

// sameEnds says whether two reports of connections tell of the same two ends:
// by address, and by identity and pod where both name one. A tunnel (HBONE)
// has a source port of its own on its far side; only there, where both sides
// state both identities, the source ports may differ.
func (p *piece) sameEnds(q *piece) bool {
	return p.from.isAt(q.from) && p.to.isAt(q.to) && p.to.samePort(q.to) &&
		(p.samePort(q) || p.tunnelled() && q.tunnelled())
}

func (p *piece) samePort(q *piece) bool {
	return p.from.port != 0 && p.from.port == q.from.port && p.from.address == q.from.address
}

func (p *piece) tunnelled() bool { return p.from.spiffe != 0 && p.to.spiffe != 0 }

func (p party) isAt(q party) bool {
	if p.spiffe != 0 && q.spiffe != 0 && p.spiffe != q.spiffe {
		return false
	}
	if p.pod != 0 && q.pod != 0 && p.pod != q.pod {
		return false
	}
	return p.address != 0 && p.address == q.address
}

// samePort: the caller's side of a tunnel may tell only the tunnel's port.
func (p party) samePort(q party) bool {
	return p.port == q.port || p.port == 0 || q.port == 0 || p.port == portHBONE || q.port == portHBONE
}

const portHBONE = 15008

// overlap says whether two pieces may be of one time, given how far clocks are
// apart.
func (c *Correlator) overlap(a, b *piece) bool {
	skew := int64(c.cfg.ClockSkew)
	return a.start <= b.end+skew && b.start <= a.end+skew
}

// nearest finds the piece of a place that fits p best by tier request or
// connection, and whether there was more than one. A connection with the same
// source port beats those that only go the same way.
func (c *Correlator) nearest(p *piece, at place) (best *piece, identified, doubt bool) {
	var buf [16]*piece
	for _, kind := range [...]lookup{byRequest, byTrace} {
		for _, q := range c.sharing(buf[:0], kind, p) {
			if q.place != at || q == best || !q.final && at != decision || !c.free(p, q) {
				continue
			}
			fits, byID := c.fits(p, q)
			if !fits {
				continue
			}
			if best != nil {
				if sameReport(best, q) {
					if q.before(best) {
						best, identified = q, byID
					}
					continue
				}
				if p.connection && byID != identified {
					if byID {
						best, identified, doubt = q, true, false
					}
					continue
				}
				doubt = true
			}
			d, e := apart(p, q), int64(0)
			if best != nil {
				e = apart(p, best)
			}
			if best == nil || d < e || d == e && q.before(best) {
				best, identified = q, byID
			}
		}
	}
	return best, identified, doubt || best != nil && (p.crowded || best.crowded)
}

// apart is how far two reports are apart in time: when they began, and of a
// connection also when it ended, where both tell.
func apart(a, b *piece) int64 {
	d := distance(a, b)
	if a.connection && a.end > a.start && b.end > b.start {
		d = max(d, max(a.end-b.end, b.end-a.end))
	}
	return d
}

func distance(a, b *piece) int64 {
	if d := a.start - b.start; d >= 0 {
		return d
	}
	return b.start - a.start
}

// free says whether q may still be p's by tier request, that is, no stronger
// tier binds q to another action.
func (c *Correlator) free(p, q *piece) bool {
	var buf [8]*piece
	switch {
	case q.place == calleeLog && p.place == calleeProxy:
		return !q.hasNode()
	case q.place == calleeProxy && p.place == calleeLog:
		logs, _, _ := c.calleesAt(q.trace, q.span)
		return len(logs) == 0
	case q.place == callerLog && q.hasNode() && !q.retried:
		for _, k := range c.under(buf[:0], q.trace, q.span) {
			if k.place.callee() {
				return false
			}
		}
	case q.place == decision && p.place != decision:
		// A log that names a decision has it or waits for it; a decision
		// that a log names is that log's.
		return p.keys[byDecision-1] == 0 && len(c.named(q)) == 0
	case p.place == decision:
		return q.keys[byDecision-1] == 0
	}
	return true
}

// bound says whether a caller's log fits p that spans bind to another action.
func (c *Correlator) bound(p *piece) bool {
	var buf [16]*piece
	for _, kind := range [...]lookup{byRequest, byTrace} {
		for _, q := range c.sharing(buf[:0], kind, p) {
			if q.place == callerLog && q.final && !c.free(p, q) {
				if fits, _ := c.fits(p, q); fits {
					return true
				}
			}
		}
	}
	return false
}

// named gives the logs that name decision d.
func (c *Correlator) named(d *piece) []*piece {
	var buf [8]*piece
	return slices.DeleteFunc(c.sharing(buf[:0], byDecision, d), func(q *piece) bool {
		return q.place == decision || !q.final
	})
}

// mate is nearest where both must choose each other.
func (c *Correlator) mate(p *piece, at place) (*piece, bool) {
	q, _, doubt := c.nearest(p, at)
	if q == nil || !c.free(q, p) {
		return nil, false
	}
	back, _, backDoubt := c.nearest(q, p.place)
	if back != p && (back == nil || !sameReport(back, p)) {
		return nil, false
	}
	return q, doubt || backDoubt
}

// callersAt gives the caller's pieces of one node.
func (c *Correlator) callersAt(t evidence.TraceID, s evidence.SpanID) (logs, proxies, apps []*piece) {
	var buf [8]*piece
	for _, q := range c.at(buf[:0], t, s) {
		switch q.place {
		case callerLog:
			logs = append(logs, q)
		case callerProxy:
			proxies = append(proxies, q)
		case callerApp:
			apps = append(apps, q)
		}
	}
	logs = firstReports(logs)
	slices.SortFunc(proxies, compare)
	slices.SortFunc(apps, compare)
	return logs, proxies, apps
}

// callerAt adds the caller's pieces of one node, and the application's span
// above the proxy's.
func (c *Correlator) callerAt(j *joined, t evidence.TraceID, s evidence.SpanID, by Tier) {
	if s == (evidence.SpanID{}) {
		return
	}
	logs, proxies, apps := c.callersAt(t, s)
	if len(logs) > 1 {
		j.doubt = true
		if at := j.calleeLead(); at != nil {
			slices.SortStableFunc(logs, func(a, b *piece) int {
				return int(min(max(distance(at, a)-distance(at, b), -1), 1))
			})
		}
	}
	for _, list := range [...][]*piece{logs, proxies, apps} {
		if len(list) > 0 {
			j.set(list[0], by)
		}
	}
	if len(proxies) > 0 && proxies[0].keys[byParent-1] != 0 {
		if _, _, above := c.callersAt(t, proxies[0].parent); len(above) > 0 {
			j.set(above[0], by)
		}
	}
}

// caller adds what the caller's side says about the callee's pieces in j.
func (c *Correlator) caller(j *joined) {
	lead := j.calleeLead()
	proxy, app, log := j.slots[calleeProxy], j.slots[calleeApp], j.slots[calleeLog]
	node := app // the callee's node: its proxy's, else the application's
	switch {
	case proxy != nil:
		node = proxy
	case log != nil && log.hasNode():
		node = log
	}
	if node != nil {
		switch {
		case proxy != nil:
			c.callerAt(j, proxy.trace, proxy.parent, TierSpan)
		case node.place == calleeLog && node.parent != (evidence.SpanID{}):
			c.callerAt(j, node.trace, node.parent, TierSpan)
		case app != nil && app.parent != node.span:
			c.callerAt(j, app.trace, app.parent, TierSpan)
		}
		c.callerAt(j, node.trace, node.span, TierSpan)
	}
	if j.slots[callerLog] == nil && lead.place != calleeApp {
		log, identified, doubt := c.nearest(lead, callerLog)
		if lead.connection {
			c.connection(j, lead, log, identified, doubt)
			return
		}
		linked := j.slots[callerProxy] != nil || j.slots[callerApp] != nil
		if log == nil || linked && log.hasNode() {
			// A log on another node than the spans is of another call. With
			// no caller at all it may be this one's: of a retry that it does
			// not tell of.
			j.doubt = j.doubt || !linked && c.bound(lead)
			return
		}
		j.set(log, TierRequest)
		j.trust(identified)
		j.doubt = j.doubt || doubt
		if !log.retried {
			// It tells of one attempt, so it can't be this one's and
			// another's.
			_, _, others := c.nearest(log, lead.place)
			j.doubt = j.doubt || others
		}
		if log.hasNode() {
			c.callerAt(j, log.trace, log.span, TierRequest)
		}
	}
}

// connection adds the caller's report of a connection. A connection is not
// tried again, so both must choose each other. A callee's report that nobody
// chose, though some fitted, is in doubt; so is what shares a full chain.
func (c *Correlator) connection(j *joined, lead, log *piece, samePort, doubt bool) {
	if log == nil {
		j.doubt = j.doubt || c.crowd(lead)
		return
	}
	back, _, backDoubt := c.nearest(log, lead.place)
	if back == nil || back != lead && !sameReport(back, lead) {
		j.doubt = true
		return
	}
	j.set(log, TierConnection)
	j.trust(samePort)
	j.doubt = j.doubt || doubt || backDoubt || !samePort && (c.crowd(lead) || c.crowd(log))
}

// crowd says whether a chain by which a connection's other report would be
// found is full, so that it may have been left out.
func (c *Correlator) crowd(p *piece) bool {
	if p.crowded {
		return true
	}
	for _, key := range [...]uint64{p.keys[byTrace-1], p.keys[byTrace-1] - bucketStep, p.keys[byTrace-1] + bucketStep} {
		n := 0
		for q := c.index[key]; q != nil && p.keys[byTrace-1] != 0; q = q.chain[byTrace] {
			n++
		}
		if n == maxChain {
			return true
		}
	}
	return false
}

func (j *joined) trust(identified bool) {
	if identified {
		j.confidence = min(j.confidence, confidenceIdentified)
	} else {
		j.confidence = min(j.confidence, confidenceAddressed)
	}
}

// decisions adds the decisions about the action.
func (c *Correlator) decisions(j *joined) {
	var buf [8]*piece
	add := func(tier Tier, found []*piece) bool {
		found = slices.DeleteFunc(found, func(q *piece) bool { return q.place != decision })
		slices.SortFunc(found, compare)
		for i, d := range found {
			if i == 0 {
				j.set(d, tier)
			} else {
				j.more = append(j.more, member{d, tier})
			}
		}
		return len(found) > 0
	}
	for _, at := range [...]place{calleeLog, callerLog} {
		log := j.slots[at]
		if log == nil || log.keys[byDecision-1] == 0 {
			continue
		}
		if add(TierDecisionID, c.sharing(buf[:0], byDecision, log)) || at == calleeLog {
			return // what the callee's report names is waited for, not replaced
		}
	}
	lead := j.lead()
	// A decision that no log names may be of another attempt, whose log is
	// lost.
	log := j.slots[callerLog]
	retried := log != nil && log.retried
	if d, doubt := c.decisionBySpan(j); d != nil {
		j.set(d, TierSpan)
		j.doubt = j.doubt || doubt || retried
		return
	}
	if lead.place.callee() {
		if d, doubt := c.mate(lead, decision); d != nil {
			_, identified := c.fits(lead, d)
			j.set(d, TierRequest)
			j.trust(identified)
			j.doubt = j.doubt || doubt || retried
		}
	}
}

// decisionBySpan finds the decision, which no log names, that knows of a span
// of the action: its own span is one of them, or it was asked with the
// caller's. Of several, as with retries, the nearest in time.
func (c *Correlator) decisionBySpan(j *joined) (best *piece, doubt bool) {
	var buf [16]*piece
	for _, at := range [...]place{calleeLog, calleeProxy, calleeApp, callerLog, callerProxy, callerApp} {
		p := j.slots[at]
		if p == nil || !p.hasNode() {
			continue
		}
		found := c.under(c.at(buf[:0], p.trace, p.span), p.trace, p.span)
		if at.callee() && p.parent != (evidence.SpanID{}) {
			found = c.under(found, p.trace, p.parent)
		}
		lead := j.lead()
		for _, d := range found {
			if d.place != decision || d == best || len(c.named(d)) > 0 || !c.overlap(lead, d) {
				continue
			}
			doubt = doubt || best != nil
			if best == nil || distance(lead, d) < distance(lead, best) ||
				distance(lead, d) == distance(lead, best) && d.before(best) {
				best = d
			}
		}
	}
	return best, doubt
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
			if q.place == at && !q.final && q.keys[byStream-1] == 0 {
				j.more = append(j.more, member{q, TierSpan})
			}
		}
	}
}

// gather collects all pieces of the action that lead leads, as known now. It
// is a function of the set of pieces, not of their order.
func (c *Correlator) gather(lead *piece) *joined {
	j := &joined{confidence: 1}
	switch {
	case lead.place.callee():
		c.callee(j, lead)
		if j.calleeLead() == nil {
			return nil
		}
		c.caller(j)
	case lead.place.caller():
		if lead.hasNode() {
			c.callerAt(j, lead.trace, lead.span, TierSpan)
			if lead.place == callerLog {
				j.slots[callerLog] = c.firstOf(lead)
			}
		} else {
			j.set(c.firstOf(lead), TierNone)
		}
		j.tiers[j.lead().place] = TierNone
		if c.contended(lead) {
			j.doubt = true
		}
	case lead.place == observed:
		j.set(lead, TierNone)
		for _, q := range c.stages(lead) {
			if q != lead {
				j.more = append(j.more, member{q, TierStream})
			}
		}
		return j
	default:
		j.set(lead, TierNone)
		j.doubt = c.contended(lead)
		return j
	}
	c.decisions(j)
	c.interim(j)
	slices.SortFunc(j.more, func(a, b member) int { return compare(a.piece, b.piece) })
	if len(j.more) > maxMore {
		j.more = j.more[:maxMore]
	}
	return j
}

// contended says whether a piece that stayed alone did fit an action that
// took another one instead.
func (c *Correlator) contended(p *piece) bool {
	if p.place == callerLog && !c.free(p, p) {
		return false
	}
	if p.connection && c.crowd(p) {
		return true
	}
	for _, at := range [...]place{calleeLog, calleeProxy} {
		q, _, _ := c.nearest(p, at)
		if q == nil || !c.free(q, p) {
			continue
		}
		if p.place == decision || p.connection {
			return true
		}
		j := joined{confidence: 1}
		c.callee(&j, q)
		c.caller(&j)
		if j.slots[callerLog] != nil && j.tiers[callerLog] == TierRequest {
			return true
		}
	}
	return false
}

// maxMore bounds the attestations of an action beyond its places.
const maxMore = 16

// leads appends to dst the leads of the actions that p is part of: one, or for
// a caller's piece one for each attempt that it covers.
func (c *Correlator) leads(dst []*piece, p *piece) []*piece {
	add := func(q *piece) {
		if q != nil && !slices.Contains(dst, q) {
			dst = append(dst, q)
		}
	}
	calleeOf := func(q *piece) *piece {
		var j joined
		c.callee(&j, q)
		return j.calleeLead()
	}
	var buf [16]*piece
	switch {
	case p.place.callee():
		add(calleeOf(p))

	case p.place.caller():
		if !p.final {
			if p = c.finalOf(p); p == nil {
				return dst
			}
		}
		if p.hasNode() {
			for _, q := range c.at(buf[:0], p.trace, p.span) {
				if q.place.callee() {
					add(calleeOf(q))
				}
			}
			for _, q := range c.under(buf[:0], p.trace, p.span) {
				switch {
				case q.place.callee():
					add(calleeOf(q))
				case q.place == callerProxy && p.place == callerApp:
					dst = c.leads(dst, q)
				}
			}
		}
		for _, q := range c.claimants(p) {
			add(q)
		}
		if len(dst) == 0 {
			add(c.callerLead(p))
		}

	case p.place == decision:
		for _, q := range c.named(p) {
			dst = c.leads(dst, q)
		}
		if len(dst) > 0 {
			return dst
		}
		for _, q := range c.near(p) {
			for _, lead := range c.leads(nil, q) {
				if j := c.gather(lead); j != nil && j.slots[decision] == p {
					add(lead)
				}
			}
		}
		if len(dst) == 0 {
			add(p)
		}

	case p.place == observed:
		add(c.stages(p)[0])
	}
	return dst
}

// stages gives the reports of one observed event, which share a stream id: those
// that stand for it first, then in order.
func (c *Correlator) stages(p *piece) []*piece {
	var buf [8]*piece
	all := append(slices.DeleteFunc(c.sharing(buf[:0], byStream, p), func(q *piece) bool { return q.place != observed }), p)
	slices.SortFunc(all, func(a, b *piece) int {
		if a.final != b.final {
			if a.final {
				return -1
			}
			return 1
		}
		return compare(a, b)
	})
	return all[:min(len(all), maxMore)]
}

// near gives the pieces that a decision, which no log names, may be about.
func (c *Correlator) near(d *piece) []*piece {
	var near []*piece
	if d.trace != (evidence.TraceID{}) {
		near = c.at(near, d.trace, d.span)
		near = c.at(near, d.trace, d.parent)
		near = c.under(near, d.trace, d.parent)
	}
	near = c.sharing(near, byRequest, d)
	near = c.sharing(near, byTrace, d)
	return slices.DeleteFunc(near, func(q *piece) bool { return q.place == decision || !q.final })
}

// claimants gives the leads of the actions that took the caller's log on p's
// node by tier request.
func (c *Correlator) claimants(p *piece) []*piece {
	logs := []*piece{p}
	if p.hasNode() {
		logs, _, _ = c.callersAt(p.trace, p.span)
	}
	var out []*piece
	var buf [16]*piece
	for _, log := range logs {
		if log.place != callerLog || !c.free(log, log) {
			continue
		}
		for _, kind := range [...]lookup{byRequest, byTrace} {
			for _, q := range c.sharing(buf[:0], kind, log) {
				if q.place != calleeLog && q.place != calleeProxy || !q.final || slices.Contains(out, q) {
					continue
				}
				if ok, _ := c.fits(log, q); !ok {
					continue
				}
				j := joined{confidence: 1}
				c.callee(&j, q)
				lead := j.calleeLead()
				c.caller(&j)
				if took := j.slots[callerLog]; took != nil && (took == log || sameReport(took, log)) && !slices.Contains(out, lead) {
					out = append(out, lead)
				}
			}
		}
	}
	return out
}

// callerLead is the strongest of the caller's pieces on p's node.
func (c *Correlator) callerLead(p *piece) *piece {
	if p.place == callerLog || !p.hasNode() {
		return c.firstOf(p)
	}
	logs, proxies, _ := c.callersAt(p.trace, p.span)
	switch {
	case len(logs) > 0:
		return logs[0]
	case len(proxies) > 0:
		return proxies[0]
	}
	return p
}
