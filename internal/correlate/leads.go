package correlate

import (
	"slices"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// From a piece to the actions that it is part of: the way back from what gather
// collects.

// leads appends to dst, which is empty, the leads of the actions that p is part of: one, or
// for a caller's piece one for each attempt that it covers.
func (c *Correlator) leads(dst []*piece, p *piece) []*piece {
	switch p.place {
	case decision:
		return c.leadsOfDecision(dst, p)
	case observed:
		return append(dst, c.stages(p)[0])
	}
	return c.leadsOfCall(dst, p)
}

// including appends to list those of more that are none and not in it.
func including(list []*piece, more ...*piece) []*piece {
	for _, p := range more {
		if p != nil && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list
}

// leadsOfCall is leads of a callee's or a caller's piece.
func (c *Correlator) leadsOfCall(dst []*piece, p *piece) []*piece {
	if p.place.callee() {
		return including(dst, c.calleeLead(p))
	}
	if !p.final {
		if p = c.finalOf(p); p == nil {
			return dst
		}
	}
	var buf [16]*piece
	if p.hasNode() {
		for _, q := range c.at(buf[:0], p.trace, p.span) {
			if q.place.callee() {
				dst = including(dst, c.calleeLead(q))
			}
		}
		for _, q := range c.under(buf[:0], p.trace, p.span) {
			switch {
			case q.place.callee():
				dst = including(dst, c.calleeLead(q))
			case q.place == decision:
				for _, log := range c.named(q) {
					dst = including(dst, c.calleeLead(log))
				}
			case q.place == callerProxy && p.place == callerApp:
				dst = including(dst, c.leadsOfCall(nil, q)...)
			}
		}
	}
	bySpans := len(dst)
	for _, q := range c.fitting(p) {
		dst = including(dst, c.calleeLead(q))
	}
	if p.place == callerApp {
		if log := c.around(p, callerLog); log != nil {
			dst = including(dst, c.leadsOfCall(nil, log)...)
		}
	}
	// What only fits may have another, and on a node that several calls share
	// not all are p's.
	unsure := p.place == callerApp || len(dst) > min(bySpans, 1) || len(dst) == 1 && contradict(dst[0], p)
	for _, q := range c.at(buf[:0], p.trace, p.span) {
		unsure = unsure || q != p && q.place.caller() && (q.place == p.place || contradict(q, p))
	}
	if unsure {
		dst = slices.DeleteFunc(dst, func(lead *piece) bool { return !c.takes(lead, p) })
	}
	if len(dst) == 0 {
		dst = including(dst, c.callerLead(p))
	}
	return dst
}

// leadsOfDecision gives those of the logs that name d, else of what takes it, else d.
func (c *Correlator) leadsOfDecision(dst []*piece, d *piece) []*piece {
	for _, q := range c.named(d) {
		dst = including(dst, c.leadsOfCall(nil, q)...)
	}
	if len(dst) > 0 {
		return dst
	}
	for _, q := range c.near(d) {
		for _, lead := range c.leadsOfCall(nil, q) {
			if j := c.gather(lead); j != nil && j.slots[decision] == d {
				dst = including(dst, lead)
			}
		}
	}
	if len(dst) == 0 {
		dst = append(dst, d)
	}
	return dst
}

// takes says whether lead's action has a caller's piece.
func (c *Correlator) takes(lead, p *piece) bool {
	var j joined
	c.sides(&j, lead)
	q := j.slots[p.place]
	return q != nil && (q == p || sameReport(q, p))
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

// fitting gives the callees' reports that may have taken the caller's log on p's node
// by tier request.
func (c *Correlator) fitting(p *piece) (out []*piece) {
	var callers [8]*piece
	logs := append(callers[:0], p)
	if p.hasNode() {
		logs, _, _ = c.callersAt(callers[:0], p.trace, p.span)
	}
	for _, log := range logs {
		if log.place != callerLog || !c.unbound(log, log) {
			continue
		}
		for q := range c.alike(log) {
			if (q.place == calleeLog || q.place == calleeProxy) && q.final && c.fit(log, q) > unfit {
				out = including(out, q)
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
	var buf [8]*piece
	logs, proxies, _ := c.callersAt(buf[:0], p.trace, p.span)
	logs, proxies = consistent(p, logs), consistent(p, proxies)
	switch {
	case len(logs) > 0:
		return logs[0]
	case len(proxies) > 0:
		return proxies[0]
	}
	return p
}
