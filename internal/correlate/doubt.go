package correlate

import (
	"slices"
	"time"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// What speaks against what was joined. Joins take the best there is; here it is asked
// whether something else may be meant. One yes is enough: a join that may be wrong is
// marked.

// doubtful says whether something speaks against what is joined in j.
func (c *Correlator) doubtful(j *joined) bool {
	lead, log := j.lead(), j.slots[callerLog]
	switch {
	case j.several:
		return true
	case lead.connection:
		return c.doubtfulConnection(j, lead)
	case !lead.place.callee():
		return c.contended(lead) || c.doubtfulDecision(j)
	case !j.called():
		parented := lead.place == calleeApp || j.slots[calleeProxy] != nil || j.parent() != evidence.SpanID{}
		return c.fitsBound(lead, parented) || c.doubtfulDecision(j)
	case log != nil && j.tiers[callerLog] == TierRequest && c.doubtfulRequest(j, lead, log):
		return true
	case log != nil && log.resends > 0 && j.slots[calleeApp] != nil && !together(lead, j.slots[calleeApp]):
		return true // the application's span is of an attempt whose log is not there
	}
	// Of a call that lasted so long its first attempts may be forgotten.
	forgotten := log != nil && log.end-log.start > int64(c.cfg.LateWindow) && c.lacksAttempt(log, lead)
	return forgotten || c.doubtfulSpans(j, lead) || c.doubtfulDecision(j)
}

// doubtfulRequest: the caller's log that fits best fits not well, or another call too, or
// spans lead to another.
func (c *Correlator) doubtfulRequest(j *joined, lead, log *piece) bool {
	return c.fit(lead, log) < well && !c.numbered(log, lead.place) ||
		!j.certain && c.overclaimed(log, lead.place) ||
		c.fitsRetry(lead, log) ||
		c.decidedNearer(log, lead) ||
		log.hasNode() && (differ(log.span, j.parent()) || lead.onIncoming && lead.hasNode() && log.span != lead.span)
}

// doubtfulConnection: nothing was joined though something fits, what shares a full
// chain may have been left out of it, or for one side it lasted longer: the ends of a
// tunnel tell no other connection from it.
func (c *Correlator) doubtfulConnection(j *joined, lead *piece) bool {
	if log := j.slots[callerLog]; log != nil && log != lead {
		took, waited := lead.end-lead.start, log.end-log.start // 0: not told
		return !lead.samePort(log) && (c.crowd(lead) || c.crowd(log) || took > 0 && waited > 0 && abs(took-waited) > closing)
	}
	other := callerLog
	if lead.place == callerLog {
		other = calleeLog
	}
	best, _ := c.nearest(lead, other)
	return best != nil || c.crowd(lead)
}

// doubtfulSpans: what spans lead to tells of other parties.
func (c *Correlator) doubtfulSpans(j *joined, lead *piece) bool {
	log, proxy := j.slots[callerLog], j.slots[callerProxy]
	switch {
	case log == nil:
		if proxy != nil && lead.place == calleeLog && !agree(lead, proxy) {
			return true
		}
	case j.tiers[callerLog] == TierSpan:
		if c.otherParties(lead, log) || c.moreThanAttempts(log) {
			return true
		}
		if j.asked && log.resends == 0 {
			// It may be a span that others were called from as well.
			alike := c.candidates(nil, log, lead.place, maxAlike)
			if slices.ContainsFunc(alike, func(q *piece) bool { return q != lead && c.callerless(q, log) }) {
				return true
			}
		}
	}
	return lead.onIncoming && c.shared(j, lead)
}

// otherParties says whether a caller's log to which spans lead does not fit, and calls
// somebody else, other than a retry does.
func (c *Correlator) otherParties(lead, log *piece) bool {
	if c.fit(lead, log) > perhaps {
		return false
	}
	if lead.onIncoming && lead.span == log.span && !agree(lead, log) {
		return true
	}
	return lead.to.differs(log.to) && (log.resends == 0 || lead.from.differs(log.from))
}

// moreThanAttempts says whether more callees' reports stand on or beneath a caller's log,
// or fit it best, than it tells of attempts: its span was passed on, and one of them is of
// another call, whose log is not there.
func (c *Correlator) moreThanAttempts(log *piece) bool {
	var buf [16]*piece
	var found [8]*piece
	reports := c.under(buf[:0], log.trace, log.span)
	if log.resends > 0 { // it names the last it called: what stands on its node may be an attempt
		fitting := c.candidates(found[:0], log, calleeLog, maxAlike)
		reports = append(reports, slices.DeleteFunc(fitting, func(q *piece) bool { return !c.callerless(q, log) })...)
		reports = append(reports, slices.DeleteFunc(c.at(found[:0], log.trace, log.span), func(q *piece) bool { return !agree(log, q) })...)
		for _, d := range reports {
			if d.place == decision {
				reports = append(reports, c.named(d)...)
			}
		}
	}
	beneath := found[:0] // one piece for each report: a log, or the span of a proxy without
	for _, at := range [...]place{calleeLog, calleeProxy} {
		for _, q := range reports {
			if q.place == at && q.final && !contradict(log, q) && !slices.ContainsFunc(beneath, func(k *piece) bool {
				return k == q || sameReport(k, q) || k.span == q.span && k.place != q.place
			}) {
				beneath = append(beneath, q)
			}
		}
	}
	if len(beneath) <= 1+int(log.resends) {
		return false
	}
	logs, _, _ := c.callersAt(found[:0], log.trace, log.span)
	attempts := 0
	for _, k := range logs {
		if k == log || !contradict(log, k) {
			attempts += 1 + int(k.resends)
		}
	}
	return len(beneath) > attempts
}

// doubtfulDecision: a decision that no log names is in doubt where several attempts or
// calls may be what it is about, or if it was not made while the call lasted.
func (c *Correlator) doubtfulDecision(j *joined) bool {
	lead, log, d := j.lead(), j.slots[callerLog], j.slots[decision]
	if d == nil || d == lead || j.tiers[decision] == TierDecisionID {
		return false
	}
	if lead.place == calleeLog && bonded(lead, d)&onePort == 0 {
		return true
	}
	if log != nil && log.resends > 0 ||
		lead.place.callee() && (d.start < lead.start-asking || d.start > max(lead.start+asking, lead.end)) {
		return true
	}
	if lead.onIncoming && c.nearerBeneath(j, d) {
		return true
	}
	if j.tiers[decision] == TierSpan {
		return d.parent != (evidence.SpanID{}) && (c.attemptedFrom(d) || c.nearerCall(lead, d))
	}
	if log == nil {
		return false
	}
	for q := range c.alike(d) {
		if q.place != callerLog || !q.final || q == log || sameReport(q, log) {
			continue
		}
		if c.fit(d, q) > unfit && bonded(d, q) >= bonded(d, log) {
			return true // also if spans bind it: the callee's log that had it may be lost
		}
	}
	return false
}

// nearerBeneath says whether a decision is nearer in time to another callee's span beneath
// the one that came in: to an attempt whose log is not there.
func (c *Correlator) nearerBeneath(j *joined, d *piece) bool {
	var buf [8]*piece
	lead := j.lead()
	return slices.ContainsFunc(c.under(buf[:0], lead.trace, lead.span), func(q *piece) bool {
		return q.place.callee() && j.slots[q.place] != q && !unlike(q, d) && nearer(d, q, lead)
	})
}

// nearerCall says whether a decision is nearer in time to another callee's report, which
// fits it and names none: several are called from the span that asked for it.
func (c *Correlator) nearerCall(lead, d *piece) bool {
	if lead.place != calleeLog {
		return false
	}
	for q := range c.alike(d) {
		if q.place != calleeLog || !q.final || q == lead || sameReport(q, lead) {
			continue
		}
		if q.keys[byDecision] == 0 && c.fit(d, q) > unfit && !otherAddresses(q, d) && nearer(d, q, lead) {
			return true
		}
	}
	return false
}

// lag is how much later than its caller's a callee's proxy may notice that a call
// is over; asking is how far a policy engine's clock may be from that of the proxy
// which asks it.
const (
	lag    = int64(20 * time.Millisecond)
	asking = int64(5 * time.Millisecond)
	// closing is how much longer a tunnel's connection may be for one side than for the other.
	closing = int64(200 * time.Millisecond)
)

// overclaimed says whether what fits a caller's log can't all be its: there are
// more reports than attempts that it tells of, or they took too long.
func (c *Correlator) overclaimed(log *piece, at place) bool {
	var room [8]*piece
	all := c.candidates(room[:0], log, at, maxAlike)
	if len(all) > maxAlike || log.crowded {
		return true
	}
	n := len(all)
	if log.resends > 0 {
		looked := 0
		for q := range c.alike(log) {
			if q.place != at || !q.final || c.fit(log, q) != perhaps || slices.Contains(all, q) {
				continue
			}
			if looked++; looked > maxAlike {
				return true
			}
			if took, _ := c.nearest(q, callerLog); took == log {
				n++
			}
		}
	}
	return n+c.unreported(log, all) > 1+int(log.resends) || overlong(log, all)
}

// unreported counts the decisions asked from a retry's span for attempts at other addresses
// than those of which there are reports.
func (c *Correlator) unreported(log *piece, attempts []*piece) (n int) {
	if log.resends == 0 || !log.hasNode() {
		return 0
	}
	var buf [16]*piece
	for _, d := range c.under(buf[:0], log.trace, log.span) {
		if d.place == decision && !unlike(log, d) && len(c.named(d)) == 0 && !slices.ContainsFunc(attempts, func(q *piece) bool { return !otherAddresses(q, d) }) {
			n++
		}
	}
	return n
}

// decidedNearer says whether a decision about a call on a caller's log's connection with its
// request id, which no log names, is nearer to it than the callee's report, which names
// another: a connection carries one call after the other, and of this one the callee's report
// may be lost.
func (c *Correlator) decidedNearer(log, lead *piece) bool {
	if log.resends > 0 || lead.keys[byDecision] == 0 {
		return false
	}
	for d := range c.alike(log) {
		if d.place == decision && bonded(log, d) == tight && c.fit(log, d) > unfit && len(c.named(d)) == 0 && nearer(log, d, lead) {
			return true
		}
	}
	return false
}

// overlong says whether a caller's attempts, by one callee's clock, overlap or together
// took longer than the whole call.
func overlong(log *piece, attempts []*piece) bool {
	for _, p := range attempts {
		first, last := p.start, p.end
		for _, q := range attempts {
			if q.crowded {
				return true
			}
			if q == p || q.reporter != p.reporter || p.reporter == 0 {
				continue
			}
			if q.start+rounding < p.end && p.start+rounding < q.end {
				return true // the next attempt did not wait for the one before
			}
			first, last = min(first, q.start), max(last, q.end)
		}
		if log.end > log.start && last-first > log.end-log.start+lag {
			return true
		}
	}
	return false
}

// numbered says whether all attempts of which a caller's log tells are reported, and say
// which they are: those that went to another address than the last are its too.
func (c *Correlator) numbered(log *piece, at place) bool {
	var buf, found [16]*piece
	attempts := found[:0]
	for _, q := range c.sharing(buf[:0], byRequest, log) {
		if how := c.fit(log, q); q.place != at || !q.final || how == unfit || slices.ContainsFunc(attempts, func(k *piece) bool { return sameReport(k, q) }) {
			continue
		}
		if q.crowded || slices.ContainsFunc(attempts, func(k *piece) bool { return k.resends == q.resends }) {
			return false
		}
		attempts = append(attempts, q)
	}
	return log.resends > 0 && len(attempts) == 1+int(log.resends) &&
		!slices.ContainsFunc(attempts, func(k *piece) bool { return k.resends > log.resends })
}

// fitsRetry says whether p, which has a caller's log, may as well be an attempt that
// another tells of.
func (c *Correlator) fitsRetry(p, log *piece) bool {
	looked := 0
	for q := range c.alike(p) {
		if q.place != callerLog || q.resends == 0 || !q.final || q == log || sameReport(q, log) {
			continue
		}
		looked++
		if looked > maxAlike || c.fit(p, q) == perhaps && bonded(p, q) >= bonded(p, log) {
			return true
		}
	}
	return false
}

// fitsBound says whether a caller's log or span may be p's although it is bound to
// another action, or too far away in time. parented: spans tell beneath which p is.
func (c *Correlator) fitsBound(p *piece, parented bool) bool {
	retried := 0
	for q := range c.alike(p) {
		switch q.place {
		case callerLog:
			if q.resends > 0 {
				retried++
			}
			if retried > maxAlike || c.lacksAttempt(q, p) {
				return true // the clocks may be further apart than they should, and a gateway between
			}
			if q.final && !c.unbound(p, q) && c.fit(p, q) > perhaps {
				return true
			}
		case callerProxy, callerApp:
			if !parented && c.triedAgain(q, p) {
				return true
			}
		}
	}
	return false
}

// triedAgain says whether a caller's span, beneath which another attempt stands, may be
// p's too: a log need not tell its parent, and the span names the last attempt's pod.
func (c *Correlator) triedAgain(span, p *piece) bool {
	if p.onIncoming || span.parent == p.span || p.from.differs(span.from) || !c.overlap(p, span) {
		return false
	}
	var buf [16]*piece
	return slices.ContainsFunc(c.under(buf[:0], span.trace, span.span), func(q *piece) bool { return q.place == p.place || q.place == calleeProxy })
}

// lacksAttempt says whether a caller's log tells of more attempts than there are
// reports of, and of nobody else than p.
func (c *Correlator) lacksAttempt(log, p *piece) bool {
	if log.resends == 0 || log.from.isNot(p.from) || log.to.isNot(p.to) || log.mirrored != p.mirrored {
		return false
	}
	at := p.place
	if at == calleeApp {
		at = calleeLog
	}
	var room [8]*piece
	found := c.candidates(room[:0], log, at, maxAlike)
	if log.hasNode() {
		var buf [16]*piece
		for _, q := range c.onOrUnder(buf[:0], log.trace, log.span) {
			of := []*piece{q}
			if q.place == decision {
				of = c.named(q)
			}
			for _, q := range of {
				if q.place == at && !unlike(q, log) && !slices.Contains(found, q) {
					found = append(found, q)
				}
			}
		}
	}
	return len(found) <= int(log.resends)
}

// contended says whether a piece that stayed alone did fit an action that
// took another one instead.
func (c *Correlator) contended(p *piece) bool {
	if p.place == callerLog && !c.unbound(p, p) {
		return false
	}
	for _, at := range [...]place{calleeLog, calleeProxy} {
		q, _ := c.nearest(p, at)
		if q == nil || !c.unbound(q, p) {
			continue
		}
		if p.place == decision {
			return true
		}
		var j joined
		c.sides(&j, q)
		if log := j.slots[callerLog]; log != nil && j.tiers[callerLog] == TierRequest && bonded(q, p) >= bonded(q, log) {
			return true
		}
	}
	return false
}

// shared says whether some of the caller's pieces on the node of which a callee was
// told may be of another call there: the log of more reports than it tells of
// attempts, a span of one with another destination.
func (c *Correlator) shared(j *joined, lead *piece) bool {
	var buf [8]*piece
	all, _, _ := c.calleesAt(buf[:0], lead.trace, lead.span)
	for _, p := range j.callers() {
		if p == nil || p.span != lead.span {
			continue
		}
		n, others := 0, false
		for _, q := range all {
			if !contradict(p, q) && agree(p, q) && bonded(q, p) >= bonded(lead, p) {
				n++
				others = others || unlike(lead, q) || lead.to.isNot(q.to)
			}
		}
		if p.place == callerLog && n > 1+int(p.resends) && !j.certain || others {
			return true
		}
	}
	return false
}

// callerless says whether neither spans nor a request id lead from a callee's log to
// another caller's log than this.
func (c *Correlator) callerless(p, log *piece) bool {
	var buf [8]*piece
	if p.onIncoming || p.parent != (evidence.SpanID{}) {
		return false
	}
	if p.hasNode() {
		if _, proxies, _ := c.calleesAt(buf[:0], p.trace, p.span); len(proxies) > 0 {
			return false
		}
	}
	found := c.candidates(nil, p, callerLog, 1)
	return !slices.ContainsFunc(found, func(q *piece) bool { return q != log && !sameReport(q, log) })
}

// attemptedFrom says whether several calls that a decision may be about were made from
// the span that asked for it.
func (c *Correlator) attemptedFrom(d *piece) bool {
	var buf [16]*piece
	var n [places]int
	for _, q := range c.onOrUnder(buf[:0], d.trace, d.parent) {
		if q.place.callee() && q.final && !unlike(q, d) && !otherAddresses(q, d) {
			if n[q.place]++; n[q.place] > 1 {
				return true
			}
		}
	}
	return false
}

// crowd says whether a chain by which a connection's other report would be
// found is full, so that it may have been left out.
func (c *Correlator) crowd(p *piece) bool {
	if p.crowded {
		return true
	}
	key := p.keys[byTrace]
	if key == 0 {
		return false
	}
	for _, key := range [...]uint64{key, key - bucketStep, key + bucketStep} {
		n := 0
		for q := c.index.first(byTrace, key); q != nil; q = c.index.next(q, byTrace) {
			n++
		}
		if n == maxChain {
			return true
		}
	}
	return false
}
