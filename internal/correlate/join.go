package correlate

import (
	"math"
	"slices"
	"time"

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
	for q := c.index.first(c.hash.span(byNode, t, s)); q != nil; q = c.index.next(q, byNode) {
		if q.trace == t && q.span == s && q.keys[byNode-1] != 0 {
			dst = append(dst, q)
		}
	}
	return dst
}

// under appends to dst the pieces whose parent is a node of a trace.
func (c *Correlator) under(dst []*piece, t evidence.TraceID, s evidence.SpanID) []*piece {
	for q := c.index.first(c.hash.span(byParent, t, s)); q != nil; q = c.index.next(q, byParent) {
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
		for q := c.index.first(key); q != nil; q = c.index.next(q, kind) {
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

// agree says whether two statements about one call do not disagree on who was
// called by whom: not by address either, which a gateway between them may change. A
// caller that tried more than once names the last it called.
func agree(a, b *piece) bool {
	return !differ(a, b) || (a.resends > 0 || b.resends > 0) && !a.from.differs(b.from)
}

func differ(a, b *piece) bool { return a.from.differs(b.from) || a.to.differs(b.to) }

// elsewhere says whether two statements from one place, a policy engine's and its
// proxy's, tell of other addresses. Identities in a policy's input are claims.
func elsewhere(a, b *piece) bool {
	return a.from.address != 0 && b.from.address != 0 && a.from.address != b.from.address ||
		a.to.address != 0 && b.to.address != 0 && a.to.address != b.to.address
}

func (p party) differs(q party) bool {
	return p.isNot(q) || p.address != 0 && q.address != 0 && p.address != q.address
}

// isNot says whether two statements name different identities.
func (p party) isNot(q party) bool { return p.spiffe != 0 && q.spiffe != 0 && p.spiffe != q.spiffe }

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

// calleesAt gives the callee's pieces of one node, in memory that follows dst: its
// logs and proxy spans, and the application spans on it or directly beneath it.
func (c *Correlator) calleesAt(dst []*piece, t evidence.TraceID, s evidence.SpanID) (logs, proxies, apps []*piece) {
	found := c.at(dst, t, s)[len(dst):]
	n := len(found)
	logs, proxies, apps = byPlace(found, calleeLog)
	if len(apps) == 0 && len(logs)+len(proxies) > 0 {
		apps = slices.DeleteFunc(c.under(found, t, s)[n:], func(q *piece) bool { return q.place != calleeApp })
		slices.SortFunc(apps, compare)
	}
	return logs, proxies, apps
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
	if p.place == calleeApp && len(logs)+len(proxies) == 0 && p.keys[byParent-1] != 0 {
		l, x, a := c.calleesAt(above[:0], p.trace, p.parent)
		if len(l)+len(x) > 0 && slices.Contains(a, p) {
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
	if a.mirrored != b.mirrored {
		return false, false
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
	if p.isNot(q) {
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

// contradict says whether a caller's and a callee's piece, or two of one side, can't
// be of one call though they stand on one node: a span id that a proxy only
// passes on, or an application forwards, names more than one call.
func contradict(a, b *piece) bool {
	return unlike(a, b) ||
		// What came in and what went out, or what two proxies say of one side.
		a.byProxy() && b.byProxy() && (a.reporter == b.reporter) == (a.place.caller() != b.place.caller()) ||
		a.place.caller() && b.place.caller() && a.from.pod != 0 && b.from.pod != 0 && a.from.pod != b.from.pod
}

// byProxy says whether a proxy reports, and says which.
func (p *piece) byProxy() bool {
	return p.reporter != 0 && p.place != calleeApp && p.place != callerApp && p.place != decision
}

// unlike says whether two pieces of one trace tell of different methods or paths.
func unlike(a, b *piece) bool {
	x, y := a.keys[byTrace-1], b.keys[byTrace-1]
	return a.mirrored != b.mirrored || x != 0 && y != 0 && x != y
}

// overlap says whether two pieces may be of one time, given how far clocks are
// apart.
func (c *Correlator) overlap(a, b *piece) bool {
	skew := int64(c.cfg.ClockSkew)
	return a.start <= b.end+skew && b.start <= a.end+skew
}

// nearest finds the piece of a place that fits p best by tier request or
// connection, and whether there was more than one. What agrees on the addresses
// beats what only tells of the same identities; a connection with the same source
// port those that only go the same way.
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
				better, worse := agree(p, q) && !agree(p, best), agree(p, best) && !agree(p, q)
				if p.connection {
					better, worse = byID && !identified, identified && !byID
				}
				if better {
					best, identified, doubt = q, byID, false
				}
				if better || worse {
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
	var buf, callers [8]*piece
	switch {
	case q.place == calleeLog && p.place == calleeProxy:
		return !q.hasNode()
	case q.place == calleeProxy && p.place == calleeLog:
		logs, _, _ := c.calleesAt(buf[:0], q.trace, q.span)
		return len(logs) == 0
	case q.place == callerLog && q.hasNode() && q.resends == 0:
		beneath := c.under(buf[:0], q.trace, q.span)
		if len(beneath) == 0 {
			return true
		}
		logs, _, _ := c.callersAt(callers[:0], q.trace, q.span)
		alone := len(logs) < 2 // else what is beneath may be another's
		for _, k := range beneath {
			if k.place.callee() && !contradict(q, k) && (alone || agree(q, k)) ||
				k.place == decision && alone && slices.ContainsFunc(c.named(k), func(log *piece) bool {
					return log != p && !contradict(q, log) && agree(q, log)
				}) {
				return false
			}
		}
	case q.place == decision && p.place != decision:
		// A log that names a decision has it or waits for it; a decision
		// that a log names is that log's.
		return p.keys[byDecision-1] == 0 && len(c.named(q)) == 0 && !c.spanned(q)
	case p.place == decision:
		return q.keys[byDecision-1] == 0 && !c.spanned(p)
	}
	return true
}

// spanned says whether spans bind decision d to a call: a callee's piece stands
// on a node that d knows of, or beneath the one from which it was asked.
func (c *Correlator) spanned(d *piece) bool {
	var buf [8]*piece
	found := c.at(buf[:0], d.trace, d.span)
	if d.keys[byParent-1] != 0 {
		found = c.under(c.at(found, d.trace, d.parent), d.trace, d.parent)
	}
	return slices.ContainsFunc(found, func(q *piece) bool { return q.place.callee() })
}

// bound says whether a caller's log or span may be p's although it is bound to
// another action, or too far away in time. parented: spans tell beneath which p is.
func (c *Correlator) bound(p *piece, parented bool) bool {
	var buf, beneath [16]*piece
	retried := 0
	for _, kind := range [...]lookup{byRequest, byTrace} {
		for _, q := range c.sharing(buf[:0], kind, p) {
			switch q.place {
			case callerLog:
				if q.resends > 0 {
					retried++
				}
				if retried > maxAlike || c.lacksAttempt(q, p) {
					return true // the clocks may be further apart than they should, and a gateway between
				}
				if !q.final || c.free(p, q) {
					continue
				}
			case callerProxy, callerApp:
				// A retry's span, of which p did not say that it is its parent.
				if !parented && !p.told && q.parent != p.span && (q.place == callerApp || agree(p, q)) && c.overlap(p, q) &&
					slices.ContainsFunc(c.under(beneath[:0], q.trace, q.span), func(k *piece) bool { return k.place == p.place || k.place == calleeProxy }) {
					return true
				}
				continue
			default:
				continue
			}
			if fits, _ := c.fits(p, q); fits {
				return true
			}
		}
	}
	return false
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
	found := c.candidates(log, at, maxAlike)
	if log.hasNode() {
		var buf [16]*piece
		for _, q := range c.at(c.under(buf[:0], log.trace, log.span), log.trace, log.span) {
			of := []*piece{q}
			if q.place == decision {
				of = c.named(q)
			}
			for _, q := range of {
				if q.place == at && !slices.Contains(found, q) {
					found = append(found, q)
				}
			}
		}
	}
	return len(found) <= int(log.resends)
}

// triedElsewhere finds the nearest caller's log that may tell of attempts of
// which p is one, though it names another address: the last attempt's callee's, or
// its own where p sees a gateway's between them.
func (c *Correlator) triedElsewhere(p *piece) (best *piece) {
	var buf [16]*piece
	for _, kind := range [...]lookup{byRequest, byTrace} {
		for _, q := range c.sharing(buf[:0], kind, p) {
			if q.place == callerLog && q.final && c.mayHaveTried(q, p) &&
				(best == nil || distance(p, q) < distance(p, best) || distance(p, q) == distance(p, best) && q.before(best)) {
				best = q
			}
		}
	}
	return best
}

// wanted says whether p, which has a caller's log, may as well be an attempt that
// another tells of.
func (c *Correlator) wanted(p, log *piece) bool {
	var buf [16]*piece
	looked := 0
	for _, kind := range [...]lookup{byRequest, byTrace} {
		for _, q := range c.sharing(buf[:0], kind, p) {
			if q.place != callerLog || q.resends == 0 || !q.final || q == log || sameReport(q, log) {
				continue
			}
			if looked++; looked > maxAlike || c.mayHaveTried(q, p) {
				return true
			}
		}
	}
	return false
}

// mayHaveTried says whether a caller's log tells of several attempts, of which p,
// at another address, may be one.
func (c *Correlator) mayHaveTried(log, p *piece) bool {
	if log.place != callerLog || !p.place.callee() || log.resends == 0 || log.connection || p.connection || log.mirrored != p.mirrored || !c.overlap(log, p) ||
		log.trace != p.trace && log.trace != (evidence.TraceID{}) && p.trace != (evidence.TraceID{}) {
		return false
	}
	from, known := log.from.matches(p.from, false)
	to, stated := log.to.matches(p.to, true)
	// One of both may be another address, of which nothing else is known.
	return from != to && (from || !known) && (to || !stated)
}

// candidates gives the reports of a place that fit p best by tier request, one for
// each call: of a caller's log the attempts. Of more than most it gives any, one
// too many.
func (c *Correlator) candidates(p *piece, at place, most int) []*piece {
	var buf [16]*piece
	var out []*piece
	for _, kind := range [...]lookup{byRequest, byTrace} {
		for _, q := range c.sharing(buf[:0], kind, p) {
			if q.place != at || !q.final || !c.free(p, q) ||
				slices.ContainsFunc(out, func(k *piece) bool { return k == q || sameReport(k, q) }) {
				continue
			}
			if fits, _ := c.fits(p, q); fits {
				if out = append(out, q); len(out) > most {
					return out
				}
			}
		}
	}
	disagree := func(q *piece) bool { return !agree(p, q) }
	if slices.ContainsFunc(out, func(q *piece) bool { return agree(p, q) }) {
		out = slices.DeleteFunc(out, disagree)
	}
	return out
}

// maxAlike bounds the alike calls, or attempts of one, that are told apart; more are
// in doubt without a look, so that who repeats a request id costs little.
const maxAlike = 5

// pair settles which caller's log is p's where several calls are alike: as many
// callers' reports as callees', each of which fits each. Of all ways to pair them
// it takes that in which they lie closest; how far the clocks are apart does not
// change which. It is sure if in no other way each callee's report lies within its
// caller's with the two clocks set right, where all are of two proxies.
func (c *Correlator) pair(p *piece) (log *piece, sure bool) {
	callers := c.candidates(p, callerLog, maxAlike)
	if len(callers) < 2 || len(callers) > maxAlike {
		return nil, false
	}
	callees := c.candidates(callers[0], p.place, maxAlike)
	if len(callees) != len(callers) {
		return nil, false
	}
	slices.SortFunc(callers, compare)
	slices.SortFunc(callees, compare)
	sure = p.reporter != 0 && callers[0].reporter != 0
	for i, k := range callers {
		if k.resends > 0 || k.crowded || callees[i].crowded ||
			!sameSet(c.candidates(k, p.place, maxAlike), callees) || !sameSet(c.candidates(callees[i], callerLog, maxAlike), callers) {
			return nil, false
		}
		sure = sure && k.reporter == callers[0].reporter && callees[i].reporter == p.reporter
	}
	of := slices.IndexFunc(callees, func(q *piece) bool { return q == p || sameReport(q, p) })
	if of < 0 {
		return nil, false
	}
	ways, least := 0, 0.0
	orders(len(callers), func(order []int) {
		cost, low, high := 0.0, int64(math.MinInt64), int64(math.MaxInt64)
		for i, n := range order {
			begin, end := callers[n].start-callees[i].start, callers[n].end-callees[i].end
			cost += float64(begin)*float64(begin) + float64(end)*float64(end)
			low, high = max(low, begin-rounding), min(high, end+rounding)
		}
		if low <= high {
			ways++
		}
		if log == nil || cost < least {
			log, least = callers[order[of]], cost
		}
	})
	return log, sure && ways == 1
}

// rounding is how far times of one clock may be off: some proxies tell begin and
// duration in milliseconds.
const rounding = int64(2 * time.Millisecond)

func sameSet(a, b []*piece) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(p *piece) bool { return !slices.Contains(b, p) })
}

// orders calls f with 0 … n-1 in every order, the lexically first first.
func orders(n int, f func([]int)) {
	order := make([]int, 0, n)
	var next func()
	next = func() {
		if len(order) == n {
			f(order)
			return
		}
		for i := range n {
			if !slices.Contains(order, i) {
				order = append(order, i)
				next()
				order = order[:len(order)-1]
			}
		}
	}
	next()
}

// lag is how much later than its caller's a callee's proxy may notice that a call
// is over; asking is how far a policy engine's clock may be from that of the proxy
// which asks it.
const (
	lag    = int64(20 * time.Millisecond)
	asking = int64(5 * time.Millisecond)
)

// overclaimed says whether what fits a caller's log can't all be its: there are
// more reports than attempts that it tells of, or by one callee's clock they took
// longer than the whole call.
func (c *Correlator) overclaimed(log *piece, at place) bool {
	all := c.candidates(log, at, maxAlike)
	n := len(all)
	if n > maxAlike {
		return true
	}
	if log.resends > 0 {
		var buf [16]*piece
		looked := 0
		for _, kind := range [...]lookup{byRequest, byTrace} {
			for _, q := range c.sharing(buf[:0], kind, log) {
				if q.place != at || !q.final || !c.mayHaveTried(log, q) {
					continue
				}
				if looked++; looked > maxAlike {
					return true
				}
				if len(c.candidates(q, callerLog, 0)) == 0 && c.triedElsewhere(q) == log {
					n++
				}
			}
		}
	}
	if log.crowded || n > 1+int(log.resends) {
		return true
	}
	for _, p := range all {
		first, last := p.start, p.end
		for _, q := range all {
			if q.crowded || q != p && q.reporter == p.reporter && p.reporter != 0 && q.start+rounding < p.end && p.start+rounding < q.end {
				return true // or the next attempt did not wait for the one before
			}
			if q.reporter == p.reporter && p.reporter != 0 {
				first, last = min(first, q.start), max(last, q.end)
			}
		}
		if log.end > log.start && last-first > log.end-log.start+lag {
			return true
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
		fitting := slices.DeleteFunc(append(room[:0], logs...), func(p *piece) bool { fits, _ := c.fits(lead, p); return !fits })
		j.doubt = j.doubt || len(logs) > 1 && len(fitting) != 1 || len(fitting) == 0 && (lead.told && lead.span == s && !agree(lead, logs[0]) ||
			lead.to.differs(logs[0].to) && (logs[0].resends == 0 || lead.from.differs(logs[0].from)))
		for _, p := range logs {
			j.doubt = j.doubt || len(fitting) == 1 && p != fitting[0] && c.mayHaveTried(p, lead)
		}
		if len(fitting) > 0 {
			logs = fitting
		}
		slices.SortStableFunc(logs, func(a, b *piece) int {
			return int(min(max(distance(lead, a)-distance(lead, b), -1), 1))
		})
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
				// It may be a span that others were called from as well.
				j.doubt = j.doubt || slices.ContainsFunc(c.candidates(k, lead.place, maxAlike), func(q *piece) bool { return q != lead && c.forlorn(q) })
			}
			linked = j.slots[callerLog] != nil || j.slots[callerProxy] != nil || j.slots[callerApp] != nil
		}
	}
	if !linked && lead.place == calleeApp {
		j.doubt = j.doubt || c.bound(lead, true) // its proxy's reports are lost
	}
	if j.slots[callerLog] == nil && lead.place != calleeApp {
		log, identified, doubt := c.nearest(lead, callerLog)
		sure := false
		switch {
		case lead.connection:
		case log == nil:
			log, doubt = c.triedElsewhere(lead), true
		case doubt:
			if paired, certain := c.pair(lead); paired != nil {
				log, sure = paired, certain
				doubt = !sure
			}
		}
		if lead.connection {
			c.connection(j, lead, log, identified, doubt)
			return
		}
		if log == nil || linked && log.hasNode() {
			// A log on another node than the spans is of another call. With
			// no caller at all it may be this one's: of a retry that it does
			// not tell of.
			j.doubt = j.doubt || !linked && c.bound(lead, proxy != nil || parent != evidence.SpanID{})
			return
		}
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
	return len(c.candidates(p, callerLog, 0)) == 0
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
	retried := log != nil && log.resends > 0
	// It is made while the call lasts.
	untimely := func(d *piece) bool {
		return lead.place.callee() && (d.start < lead.start-asking || d.start > lead.end+asking)
	}
	if d, doubt := c.decisionBySpan(j); d != nil && !c.nearerAttempt(j, d) {
		j.set(d, TierSpan)
		j.doubt = j.doubt || doubt || retried || untimely(d)
		return
	}
	if lead.place.callee() || lead.place == callerLog {
		if d, doubt := c.mate(lead, decision); d != nil && !elsewhere(lead, d) && !j.askedElsewhere(d) {
			_, identified := c.fits(lead, d)
			j.set(d, TierRequest)
			j.trust(identified)
			j.doubt = j.doubt || doubt || retried || untimely(d) || slices.ContainsFunc(c.candidates(d, callerLog, maxAlike), func(q *piece) bool {
				return log != nil && q != log && !sameReport(q, log)
			})
		}
	}
}

// nearerAttempt says whether a decision asked from the caller's span is about
// another attempt of the call, which is nearer to it in time.
func (c *Correlator) nearerAttempt(j *joined, d *piece) bool {
	lead, log := j.lead(), j.slots[callerLog]
	var buf [16]*piece
	rivals := c.at(c.under(buf[:0], d.trace, d.parent), d.trace, d.parent)
	if log != nil {
		rivals = append(rivals, c.candidates(log, lead.place, maxChain)...)
	}
	for _, q := range rivals {
		if !q.place.callee() || !q.final || j.slots[q.place] == q {
			continue
		}
		var other joined
		c.callee(&other, q)
		rival := other.calleeLead()
		if rival != lead && rival.keys[byDecision-1] == 0 && !unlike(rival, d) && !elsewhere(rival, d) &&
			(distance(rival, d) < distance(lead, d) || distance(rival, d) == distance(lead, d) && rival.before(lead)) {
			return true
		}
	}
	return false
}

// decisionOf finds the decision that a log names and that knows its caller's span.
func (c *Correlator) decisionOf(log *piece) *piece {
	var buf [8]*piece
	found := slices.DeleteFunc(c.sharing(buf[:0], byDecision, log), func(q *piece) bool {
		return q.place != decision || q.keys[byParent-1] == 0
	})
	if log.keys[byDecision-1] == 0 || len(found) == 0 {
		return nil
	}
	return slices.MinFunc(found, compare)
}

// askedElsewhere says whether a decision was asked from another span than the
// action's callers'.
func (j *joined) askedElsewhere(d *piece) bool {
	if d.keys[byParent-1] == 0 {
		return false
	}
	known := false
	for _, at := range [...]place{callerLog, callerProxy, callerApp} {
		if p := j.slots[at]; p != nil && p.hasNode() && p.trace == d.trace {
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
			if d.place != decision || d == best || unlike(lead, d) || elsewhere(lead, d) || len(c.named(d)) > 0 || !c.overlap(lead, d) {
				continue
			}
			doubt = doubt || best != nil || d.parent != (evidence.SpanID{}) && c.attemptedFrom(d)
			if best == nil || distance(lead, d) < distance(lead, best) ||
				distance(lead, d) == distance(lead, best) && d.before(best) {
				best = d
			}
		}
	}
	return best, doubt
}

// attemptedFrom says whether several calls were made from the span that asked for
// a decision.
func (c *Correlator) attemptedFrom(d *piece) bool {
	var buf [16]*piece
	var n [places]int
	for _, q := range c.at(c.under(buf[:0], d.trace, d.parent), d.trace, d.parent) {
		if q.place.callee() && q.final && q.mirrored == d.mirrored {
			if n[q.place]++; n[q.place] > 1 {
				return true
			}
		}
	}
	return false
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
				case q.place == decision:
					for _, log := range c.named(q) {
						add(calleeOf(log))
					}
				case q.place == callerProxy && p.place == callerApp:
					dst = c.leads(dst, q)
				}
			}
		}
		for _, q := range c.claimants(p) {
			add(q)
		}
		if log := c.around(p, callerLog); p.place == callerApp && log != nil {
			dst = c.leads(dst, log)
		}
		// On a node that several calls share not all are p's.
		several := p.place == callerApp || len(dst) > 1 || len(dst) == 1 && contradict(dst[0], p)
		for _, q := range c.at(buf[:0], p.trace, p.span) {
			several = several || q != p && q.place.caller() && (q.place == p.place || contradict(q, p))
		}
		if several {
			dst = slices.DeleteFunc(dst, func(lead *piece) bool { return !c.takes(lead, p) })
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

// takes says whether lead's action has a caller's piece.
func (c *Correlator) takes(lead, p *piece) bool {
	j := joined{confidence: 1}
	if lead.place.callee() {
		c.callee(&j, lead)
		c.caller(&j)
	} else {
		j = *c.gather(lead)
	}
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

// claimants gives the leads of the actions that took the caller's log on p's
// node by tier request.
func (c *Correlator) claimants(p *piece) []*piece {
	var buf [16]*piece
	var callers [8]*piece
	logs := append(callers[:0], p)
	if p.hasNode() {
		logs, _, _ = c.callersAt(callers[:0], p.trace, p.span)
	}
	var out []*piece
	for _, log := range logs {
		if log.place != callerLog || !c.free(log, log) {
			continue
		}
		for _, kind := range [...]lookup{byRequest, byTrace} {
			for _, q := range c.sharing(buf[:0], kind, log) {
				if q.place != calleeLog && q.place != calleeProxy || !q.final || slices.Contains(out, q) {
					continue
				}
				if ok, _ := c.fits(log, q); !ok && !c.mayHaveTried(log, q) {
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
	var buf [8]*piece
	logs, proxies, _ := c.callersAt(buf[:0], p.trace, p.span)
	other := func(q *piece) bool { return contradict(p, q) }
	logs, proxies = slices.DeleteFunc(logs, other), slices.DeleteFunc(proxies, other)
	switch {
	case len(logs) > 0:
		return logs[0]
	case len(proxies) > 0:
		return proxies[0]
	}
	return p
}
