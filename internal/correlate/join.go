package correlate

import (
	"cmp"
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

// calleesAt gives the callee's pieces of one node, in memory that follows dst: its
// logs and proxy spans, and the application spans on it or directly beneath it. A
// proxy that answers by itself logs the span that came in, above its own.
func (c *Correlator) calleesAt(dst []*piece, t evidence.TraceID, s evidence.SpanID) (logs, proxies, apps []*piece) {
	found := c.at(dst, t, s)[len(dst):]
	n := len(found)
	logs, proxies, apps = byPlace(found, calleeLog)
	if len(logs) > 0 && logs[0].told && len(proxies) == 0 {
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

// answered says whether a log that stands on the span that came in, and the span
// of a proxy beneath that, are one proxy's about one request.
func (c *Correlator) answered(log, proxy *piece) bool {
	var buf [8]*piece
	return log.told && log.reporter != 0 && log.reporter == proxy.reporter && !unlike(log, proxy) &&
		log.start <= proxy.end+rounding && proxy.start <= log.end+rounding &&
		!slices.ContainsFunc(c.at(buf[:0], proxy.trace, proxy.span), func(q *piece) bool { return q.place == calleeLog })
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
	n := [2]int{}
	for i, last := range [...]place{log, log + 1} {
		for n[i] < len(found) && found[n[i]].place <= last {
			n[i]++
		}
	}
	return firstReports(found[:n[0]:n[0]]), found[n[0]:n[1]:n[1]], found[n[1]:]
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
	var buf, above [8]*piece
	logs, proxies, apps := c.calleesAt(buf[:0], p.trace, p.span)
	alone := p.place == calleeApp && len(proxies) == 0 || p.place == calleeProxy && len(apps) == 0
	if alone && len(logs) == 0 && p.keys[byParent-1] != 0 {
		l, x, a := c.calleesAt(above[:0], p.trace, p.parent)
		if len(l)+len(x) > 0 && (slices.Contains(a, p) || slices.Contains(x, p)) {
			logs, proxies, apps = l, x, a
		}
	}
	if p.to.pod != 0 && (len(logs) > 1 || len(logs) == 1 && logs[0].told) {
		// Reports of several pods on one node: each of its own call.
		elsewhere := func(q *piece) bool { return q.to.pod != 0 && q.to.pod != p.to.pod && !sameReport(q, p) }
		logs, proxies, apps = slices.DeleteFunc(logs, elsewhere), slices.DeleteFunc(proxies, elsewhere), slices.DeleteFunc(apps, elsewhere)
		for _, q := range slices.Concat(logs, proxies, apps) {
			j.doubt = j.doubt || q.to.pod == 0
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
	if filled > 1 && max(len(logs), len(proxies), len(apps)) > 1 && !apartInTime(logs, proxies, apps) {
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

// apartInTime says whether what one pod tells of several attempts is told apart by
// when: the spans within each report, and within no other.
func apartInTime(logs []*piece, spans ...[]*piece) bool {
	for _, list := range spans {
		if len(list) > 0 && len(list) != len(logs) {
			return false
		}
		for i, span := range list {
			for k, log := range logs {
				if within := span.start >= log.start-rounding && span.end <= log.end+rounding; within != (i == k) {
					return false
				}
			}
		}
	}
	return len(logs) > 0
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

// callersAt gives the caller's pieces of one node, in memory that follows dst.
func (c *Correlator) callersAt(dst []*piece, t evidence.TraceID, s evidence.SpanID) (logs, proxies, apps []*piece) {
	return byPlace(c.at(dst, t, s)[len(dst):], callerLog)
}

// callerAt adds the caller's pieces of one node, and the application's span
// above the proxy's.
func (c *Correlator) callerAt(j *joined, t evidence.TraceID, s evidence.SpanID, by Tier) {
	if s == (evidence.SpanID{}) {
		return
	}
	var buf, over, room [8]*piece
	logs, proxies, apps := c.callersAt(buf[:0], t, s)
	lead := j.lead()
	if lead != nil {
		other := func(p *piece) bool { return contradict(lead, p) }
		logs, proxies, apps = slices.DeleteFunc(logs, other), slices.DeleteFunc(proxies, other), slices.DeleteFunc(apps, other)
	}
	if lead != nil && len(logs) > 0 && j.slots[callerLog] == nil {
		fitting := slices.DeleteFunc(append(room[:0], logs...), func(p *piece) bool { how, _ := c.fit(lead, p); return how <= perhaps })
		j.doubt = j.doubt || len(logs) > 1 && len(fitting) != 1 || len(fitting) == 0 && (lead.told && lead.span == s && !agree(lead, logs[0]) ||
			lead.to.differs(logs[0].to) && (logs[0].resends == 0 || lead.from.differs(logs[0].from)))
		for _, p := range logs {
			how, _ := c.fit(lead, p)
			j.doubt = j.doubt || len(fitting) == 1 && p != fitting[0] && how == perhaps
		}
		if len(fitting) > 0 {
			logs = fitting
		}
		slices.SortStableFunc(logs, func(a, b *piece) int { return cmp.Compare(apart(lead, a), apart(lead, b)) })
	}
	log := j.slots[callerLog]
	if log == nil && len(logs) > 0 {
		log = logs[0]
	}
	if log != nil {
		other := func(p *piece) bool { return contradict(log, p) }
		proxies, apps = slices.DeleteFunc(proxies, other), slices.DeleteFunc(apps, other)
	} else if lead != nil && lead.place == calleeLog && len(proxies) > 0 {
		j.doubt = j.doubt || !agree(lead, proxies[0])
	}
	if lead != nil && lead.told && lead.span == s {
		j.doubt = j.doubt || c.shared(lead, logs, proxies, apps)
	}
	for _, list := range [...][]*piece{logs, proxies, apps} {
		if len(list) > 0 {
			j.set(list[0], by)
		}
	}
	if len(proxies) > 0 && proxies[0].keys[byParent-1] != 0 {
		if _, _, above := c.callersAt(over[:0], t, proxies[0].parent); len(above) > 0 {
			j.set(above[0], by)
		}
	}
}

// shared says whether some of the caller's pieces on the node of which a callee was
// told may be of another call there: the log of more reports than it tells of
// attempts, a span of one with another destination.
func (c *Correlator) shared(lead *piece, logs, proxies, apps []*piece) bool {
	var buf [8]*piece
	all, _, _ := c.calleesAt(buf[:0], lead.trace, lead.span)
	for i, list := range [...][]*piece{logs, proxies, apps} {
		if len(list) == 0 {
			continue
		}
		n, others := 0, false
		for _, q := range all {
			if !contradict(list[0], q) && agree(list[0], q) {
				n++
				others = others || unlike(lead, q) || lead.to.isNot(q.to)
			}
		}
		if i == 0 && n > 1+int(list[0].resends) || others {
			return true
		}
	}
	return false
}

// caller adds what the caller's side says about the callee's pieces in j.
func (c *Correlator) caller(j *joined) {
	c.callerReports(j)
	c.application(j)
}

func (c *Correlator) callerReports(j *joined) {
	lead := j.calleeLead()
	proxy, app, log := j.slots[calleeProxy], j.slots[calleeApp], j.slots[calleeLog]
	node := app // the callee's node: its proxy's, else the application's
	switch {
	case proxy != nil:
		node = proxy
	case log != nil && log.hasNode():
		node = log
	}
	var parent evidence.SpanID // the caller's node, as far as it is known
	if node != nil {
		switch {
		case proxy != nil:
			parent = proxy.parent
		case node.place == calleeLog && node.parent != (evidence.SpanID{}):
			parent = node.parent
		case app != nil && app.parent != node.span:
			parent = app.parent
		}
		c.callerAt(j, node.trace, parent, TierSpan)
		c.callerAt(j, node.trace, node.span, TierSpan)
	}
	linked := j.slots[callerLog] != nil || j.slots[callerProxy] != nil || j.slots[callerApp] != nil
	if !linked && log != nil {
		// The decision that the log names knows from which span it was asked.
		if d := c.decisionOf(log); d != nil && (node == nil || d.parent != node.span) {
			c.callerAt(j, d.trace, d.parent, TierSpan)
			if k := j.slots[callerLog]; k != nil && k.resends == 0 {
				alike, _ := c.candidates(nil, k, lead.place, maxAlike)
				// It may be a span that others were called from as well.
				j.doubt = j.doubt || slices.ContainsFunc(alike, func(q *piece) bool { return q != lead && c.forlorn(q) })
			}
			linked = j.slots[callerLog] != nil || j.slots[callerProxy] != nil || j.slots[callerApp] != nil
		}
	}
	if !linked && lead.place == calleeApp {
		j.doubt = j.doubt || c.bound(lead, true) // its proxy's reports are lost
	}
	if j.slots[callerLog] == nil && lead.place != calleeApp {
		log, how, doubt := c.nearest(lead, callerLog)
		if lead.connection {
			c.connection(j, lead, log, how, doubt)
			return
		}
		sure := false
		if paired, certain := c.assign(lead); paired != nil {
			log, sure = paired, certain
			doubt = !sure
		}
		doubt = doubt || how == perhaps
		if log == nil || linked && log.hasNode() {
			// A log on another node than the spans is of another call. With
			// no caller at all it may be this one's: of a retry that it does
			// not tell of.
			j.doubt = j.doubt || !linked && c.bound(lead, proxy != nil || parent != evidence.SpanID{})
			return
		}
		_, identified := c.fit(lead, log)
		j.set(log, TierRequest)
		j.trust(identified)
		j.doubt = j.doubt || doubt || !agree(lead, log) || !sure && c.overclaimed(log, lead.place) || c.wanted(lead, log) ||
			log.hasNode() && parent != (evidence.SpanID{}) && log.span != parent
		if log.hasNode() {
			c.callerAt(j, log.trace, log.span, TierRequest)
		}
	}
}

// forlorn says whether neither spans nor a request id lead from a callee's log to a
// caller's.
func (c *Correlator) forlorn(p *piece) bool {
	var buf [8]*piece
	if p.told || p.parent != (evidence.SpanID{}) {
		return false
	}
	if p.hasNode() {
		if _, proxies, _ := c.calleesAt(buf[:0], p.trace, p.span); len(proxies) > 0 {
			return false
		}
	}
	found, _ := c.candidates(nil, p, callerLog, 0)
	return len(found) == 0
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
		for _, k := range c.at(c.under(c.at(beneath[:0], log.trace, log.span), app.trace, app.span), app.trace, app.span) {
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

// connection adds the caller's report of a connection. A connection is not
// tried again, so both must choose each other. A callee's report that nobody
// chose, though some fitted, is in doubt; so is what shares a full chain.
func (c *Correlator) connection(j *joined, lead, log *piece, how fit, doubt bool) {
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
	j.trust(how == well)
	j.doubt = j.doubt || doubt || backDoubt || how < well && (c.crowd(lead) || c.crowd(log))
}

// crowd says whether a chain by which a connection's other report would be
// found is full, so that it may have been left out.
func (c *Correlator) crowd(p *piece) bool {
	if p.crowded {
		return true
	}
	for _, key := range [...]uint64{p.keys[byTrace-1], p.keys[byTrace-1] - bucketStep, p.keys[byTrace-1] + bucketStep} {
		n := 0
		for q := c.index.first(key); q != nil && p.keys[byTrace-1] != 0; q = c.index.next(q, byTrace) {
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
		j.set(c.firstOf(lead), TierNone)
		if lead.hasNode() {
			c.callerAt(j, lead.trace, lead.span, TierSpan)
		}
		c.application(j)
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
