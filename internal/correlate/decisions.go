package correlate

import (
	"slices"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// Which decisions are about an action.

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
		if log == nil || log.keys[byDecision] == 0 {
			continue
		}
		if add(TierDecisionID, c.sharing(buf[:0], byDecision, log)) || at == calleeLog {
			return // what the callee's report names is waited for, not replaced
		}
	}
	lead := j.lead()
	if d, several := c.decisionBySpan(j); d != nil && !c.nearerAttempt(j, d) {
		j.set(d, TierSpan)
		j.several = j.several || several
		return
	}
	if lead.place.callee() || lead.place == callerLog {
		if d, several := c.mate(lead, decision); d != nil && c.mayDecide(d, lead) && !j.askedElsewhere(d) {
			j.set(d, TierRequest)
			j.trust(lead.identified() && d.identified())
			j.several = j.several || several
		}
	}
}

// mayDecide says whether a decision, by what it tells, may be about p's call.
func (c *Correlator) mayDecide(d, p *piece) bool {
	return c.overlap(p, d) && !unlike(p, d) && !otherAddresses(p, d) && !otherRequest(p, d)
}

// nearerAttempt says whether a decision asked from the caller's span is about
// another attempt of the call, which is nearer to it in time.
func (c *Correlator) nearerAttempt(j *joined, d *piece) bool {
	lead, log := j.lead(), j.slots[callerLog]
	var buf [16]*piece
	rivals := c.onOrUnder(buf[:0], d.trace, d.parent)
	if log != nil {
		fitting := c.candidates(nil, log, lead.place, maxChain)
		rivals = append(rivals, fitting...)
	}
	for _, q := range rivals {
		if !q.place.callee() || !q.final || j.slots[q.place] == q {
			continue
		}
		rival := c.calleeLead(q)
		if rival != lead && rival.keys[byDecision] == 0 && !unlike(rival, d) && !otherAddresses(rival, d) &&
			nearer(d, rival, lead) {
			return true
		}
	}
	return false
}

// decisionOf finds the decision that a log names and that knows its caller's span.
func (c *Correlator) decisionOf(log *piece) *piece {
	var buf [8]*piece
	found := slices.DeleteFunc(c.sharing(buf[:0], byDecision, log), func(q *piece) bool {
		return q.place != decision || q.keys[byParent] == 0
	})
	if log.keys[byDecision] == 0 || len(found) == 0 {
		return nil
	}
	return slices.MinFunc(found, compare)
}

// askedElsewhere says whether a decision was asked from another span than the
// action's callers'.
func (j *joined) askedElsewhere(d *piece) bool {
	if d.keys[byParent] == 0 {
		return false
	}
	known := false
	for _, p := range j.callers() {
		if p != nil && p.hasNode() && p.trace == d.trace {
			if p.span == d.parent {
				return false
			}
			known = true
		}
	}
	return known
}

// decisionBySpan finds the decision, which no log names, that knows of a span
// of the action: its own span is one of them, or it was asked with the
// caller's. Of several, as with retries, the nearest in time.
func (c *Correlator) decisionBySpan(j *joined) (best *piece, several bool) {
	var buf [16]*piece
	for _, p := range j.slots[:decision] {
		if p == nil || !p.hasNode() {
			continue
		}
		found := c.onOrUnder(buf[:0], p.trace, p.span)
		if p.place.callee() && p.parent != (evidence.SpanID{}) {
			found = c.under(found, p.trace, p.parent)
		}
		lead := j.lead()
		for _, d := range found {
			if d.place != decision || d == best || len(c.named(d)) > 0 || !c.mayDecide(d, lead) {
				continue
			}
			several = several || best != nil
			if best == nil || nearer(lead, d, best) {
				best = d
			}
		}
	}
	return best, several
}
