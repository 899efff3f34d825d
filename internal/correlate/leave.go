package correlate

import "slices"

// met says whether all that is expected is there.
func (c *Correlator) met(j *joined) bool {
	if p := j.slots[observed]; p != nil {
		return p.final
	}
	if log := j.slots[callerLog]; c.cfg.ExpectCallee && j.calleeLead() == nil && (log == nil || !log.unsent) {
		return false
	}
	if c.cfg.ExpectCaller && !j.called() {
		return false
	}
	if log := j.slots[calleeLog]; log != nil && (log.interimOnly || log.keys[byDecision] != 0 && j.slots[decision] == nil) {
		return false
	}
	if c.cfg.ExpectVerdict {
		verdict := false
		j.all(func(m member) { verdict = verdict || m.place == decision || m.verdict })
		return verdict
	}
	return true
}

// actionOf finds the record that j's pieces have left with. A record that
// left without the callee's report takes the first that comes.
func (c *Correlator) actionOf(j *joined) ref {
	for _, p := range j.callees() {
		if p != nil && p.action != 0 {
			return p.action
		}
	}
	callee := j.calleeLead() != nil
	for _, p := range j.slots[callerLog:] {
		if p != nil && p.action != 0 && !(callee && c.actions.at(p.action).callee) {
			return p.action
		}
	}
	if j.slots[observed] != nil {
		for _, m := range j.more { // an earlier stage may have left as the record
			if m.action != 0 {
				return m.action
			}
		}
	}
	return 0
}

// leave lets j's record leave, or an amendment of it with what is new. reason is
// "" if the expectation is met.
func (c *Correlator) leave(j *joined, reason string) {
	r := c.actionOf(j)
	a := c.actions.at(r)
	first, gone := len(c.drafts.cites), false
	j.all(func(m member) {
		if a != nil && a.has(m.keys[byID]) {
			return
		}
		content := c.queue.contentOf(m.piece)
		if content == nil {
			gone = true // with the record of another attempt, which cites it
			return
		}
		c.drafts.cites = append(c.drafts.cites, citation{m.piece, m.tier, content})
	})
	d := draft{joined: j, cites: c.drafts.cites[first:len(c.drafts.cites):len(c.drafts.cites)]}
	if len(d.cites) == 0 {
		return
	}
	doubt := j.doubt
	if p := j.slots[decision]; p != nil && p.action != 0 && p.action != r {
		// Another record has it. Only one that names it can be sure of it.
		c.doubt(p.action, p)
		doubt = doubt || j.tiers[decision] != TierDecisionID
	}
	if a != nil {
		d.amends = true
		doubt = doubt || c.replaced(a, j)
		if !a.traced {
			c.remember(r, j) // of which trace it is may be known only now
		}
	} else {
		r = c.addAction()
		a = c.actions.at(r)
		a.start = d.cites[0].start
		c.remember(r, j)
	}
	switch {
	case doubt:
		d.state, d.reason = Ambiguous, ReasonCandidates
	case gone || !c.met(j):
		d.state, d.reason = Partial, reason
		if reason == "" {
			d.reason = ReasonDeadline // an amendment that does not complete it
		}
	}
	a.state, a.reason = d.state, d.reason
	c.adopt(r, j)
	c.draft(r, d)
	c.contest(r, j)
}

// adopt makes j's pieces parts of the action r: what is only its own names it,
// and all have left.
func (c *Correlator) adopt(r ref, j *joined) {
	a := c.actions.at(r)
	callee := j.calleeLead() != nil
	a.callee = a.callee || callee
	j.all(func(m member) {
		keep(&a.source, m.from.spiffe)
		keep(&a.destination, m.to.spiffe)
		if c.queue.contentOf(m.piece) != nil {
			c.bytes += a.cite(m.keys[byID])
		}
		if m.place.callee() || m.place == decision || !callee && (m.place.caller() || m.piece == j.lead()) {
			c.point(m.piece, r)
		}
		c.claim(m.piece)
	})
}

// replaced says whether a cites what would not join it now.
func (c *Correlator) replaced(a *action, j *joined) bool {
	if len(j.more) == maxMore {
		return false // perhaps it was left out
	}
	return a.any(func(name uint64) bool {
		in := c.index.first(byID, name) == nil // it is forgotten
		j.all(func(m member) { in = in || m.keys[byID] == name })
		return !in
	})
}

// doubt amends a record that has left as ambiguous, because of a piece.
func (c *Correlator) doubt(r ref, p *piece) {
	a := c.actions.at(r)
	if a.state == Ambiguous {
		return
	}
	a.state, a.reason = Ambiguous, ReasonCandidates
	c.draft(r, draft{amends: true, what: "doubt", because: p.id, trace: p.trace, state: a.state, reason: a.reason})
}

// maxContested bounds the records that one more is compared with.
const maxContested = 16

// contest amends as ambiguous what has left in no doubt and would not now: records
// of the same request or trace, method and path, whose evidence j's contests.
func (c *Correlator) contest(own ref, j *joined) {
	var buf [maxChain]*piece
	seen := make([]ref, 0, maxContested)
	walked := make([]uint64, 0, 8) // keys whose pieces were all looked at, but for j's own
	for _, at := range [...]place{calleeLog, calleeProxy, callerLog, decision} {
		p := j.slots[at]
		if p == nil {
			continue
		}
		for _, kind := range [...]lookup{byRequest, byTrace} {
			key := p.keys[kind]
			if slices.Contains(walked, key) {
				continue
			}
			if p.action == own {
				walked = append(walked, key)
			}
			for _, q := range c.sharing(buf[:0], kind, p) {
				r := q.action
				if r == 0 || r == own || slices.Contains(seen, r) {
					continue
				}
				if a := c.actions.at(r); a.state == Ambiguous || a.otherwise(c.actions.at(own)) {
					continue
				}
				if len(seen) == maxContested {
					return
				}
				seen = append(seen, r)
				if c.contested(r, q) {
					c.doubt(r, p)
				}
			}
		}
	}
}

// contested says whether what r, a record that q is part of, cites would be joined in
// doubt or otherwise now.
func (c *Correlator) contested(r ref, q *piece) bool {
	var buf [8]*piece
	return slices.ContainsFunc(c.leads(buf[:0], q), func(lead *piece) bool {
		if lead.action != r {
			return false
		}
		j := c.actionLedBy(lead)
		return j != nil && (j.doubt || c.replaced(c.actions.at(r), j))
	})
}
