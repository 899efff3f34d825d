package correlate

import (
	"iter"
	"math"
	"slices"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// Who else may be of a piece's call: what stands on its node or shares a key, which
// of that fits best, and whether something else may do as well.

// at appends to dst the pieces that stand on a node of a trace.
func (c *Correlator) at(dst []*piece, t evidence.TraceID, s evidence.SpanID) []*piece {
	for q := c.index.first(byNode, c.hash.span(byNode, t, s)); q != nil; q = c.index.next(q, byNode) {
		if q.trace == t && q.span == s {
			dst = append(dst, q)
		}
	}
	return dst
}

// under appends to dst the pieces whose parent is a node of a trace.
func (c *Correlator) under(dst []*piece, t evidence.TraceID, s evidence.SpanID) []*piece {
	for q := c.index.first(byParent, c.hash.span(byParent, t, s)); q != nil; q = c.index.next(q, byParent) {
		if q.trace == t && q.parent == s {
			dst = append(dst, q)
		}
	}
	return dst
}

// onOrUnder appends to dst the pieces that stand on a node of a trace or whose parent it is.
func (c *Correlator) onOrUnder(dst []*piece, t evidence.TraceID, s evidence.SpanID) []*piece {
	return c.under(c.at(dst, t, s), t, s)
}

// sharing appends to dst the other pieces with p's key of this kind.
func (c *Correlator) sharing(dst []*piece, kind lookup, p *piece) []*piece {
	key := p.keys[kind]
	if key == 0 {
		return dst
	}
	keys := [...]uint64{key, key - bucketStep, key + bucketStep}
	for _, key := range keys[:p.buckets()] {
		for q := c.index.first(kind, key); q != nil; q = c.index.next(q, kind) {
			if q != p {
				dst = append(dst, q)
			}
		}
	}
	return dst
}

// alike gives the other pieces of p's request or trace with its method and path, or of
// connections between the same two ends, each once.
func (c *Correlator) alike(p *piece) iter.Seq[*piece] {
	return func(yield func(*piece) bool) {
		var buf [16]*piece
		for _, q := range c.sharing(buf[:0], byRequest, p) {
			if !yield(q) {
				return
			}
		}
		for _, q := range c.sharing(buf[:0], byTrace, p) {
			if given := p.keys[byRequest] != 0 && p.meets(byRequest, q); !given && !yield(q) {
				return
			}
		}
	}
}

// candidates appends to dst, which is empty, the reports of a place that fit p best
// by tier request or connection, one for each call: of a caller's log the attempts.
// Of more than most it gives any, one too many.
func (c *Correlator) candidates(dst []*piece, p *piece, at place, most int) []*piece {
	first := 0 // rank of those in dst
	for q := range c.alike(p) {
		if q.place != at || !q.final && at != decision {
			continue
		}
		how := c.fit(p, q)
		nth := rank(how, bonded(p, q))
		if how == unfit || nth < first || !c.unbound(p, q) {
			continue
		}
		if nth > first {
			dst, first = dst[:0], nth
		}
		switch i := slices.IndexFunc(dst, func(k *piece) bool { return sameReport(k, q) }); {
		case i < 0:
			dst = append(dst, q)
		case q.before(dst[i]):
			dst[i] = q
		}
		if first == rank(well, tight) && len(dst) > most {
			break
		}
	}
	return dst
}

// nearest finds of the pieces of a place that fit p best the nearest in time, and
// whether there was more than one.
func (c *Correlator) nearest(p *piece, at place) (best *piece, doubt bool) {
	var buf [8]*piece
	all := c.candidates(buf[:0], p, at, 2*maxChain)
	if len(all) == 0 {
		return nil, false
	}
	best = nearestOf(p, all)
	return best, len(all) > 1 || p.crowded || best.crowded
}

// tighter says whether a caller's log is bonded tighter to another report than to p, which
// it fits.
func (c *Correlator) tighter(log, p *piece) bool {
	var buf [8]*piece
	best := c.candidates(buf[:0], log, p.place, maxAlike)
	return len(best) > 0 && bonded(log, best[0]) > bonded(log, p)
}

// unbound says whether q may still be p's by tier request, that is, no stronger
// tier binds q to another action; of p itself, to any.
func (c *Correlator) unbound(p, q *piece) bool {
	switch {
	case p.place == calleeProxy && q.place == calleeLog:
		return !q.hasNode()
	case p.place == calleeLog && q.place == calleeProxy:
		var buf [8]*piece
		logs, _, _ := c.calleesAt(buf[:0], q.trace, q.span)
		return len(logs) == 0
	case q.place == callerLog && q.hasNode() && q.resends == 0:
		return !c.leadsToOther(p, q)
	case p.place == decision:
		return q.keys[byDecision] == 0 && !c.spanned(p)
	case q.place == decision:
		// A log that names a decision has it or waits for it; a decision
		// that a log names is that log's.
		return p.keys[byDecision] == 0 && len(c.named(q)) == 0 && !c.spanned(q)
	}
	return true
}

// leadsToOther says whether spans lead from a caller's log, which tells of one attempt,
// to a callee's report, or to a decision that another log than p names.
func (c *Correlator) leadsToOther(p, log *piece) bool {
	var buf, callers [8]*piece
	beneath := c.under(buf[:0], log.trace, log.span)
	if len(beneath) == 0 {
		return false
	}
	logs, _, _ := c.callersAt(callers[:0], log.trace, log.span)
	alone := len(logs) < 2 // else what is beneath may be another's
	for _, k := range beneath {
		if k.place.callee() && !contradict(log, k) && (alone || agree(log, k)) ||
			k.place == decision && alone && slices.ContainsFunc(c.named(k), func(q *piece) bool {
				return q != p && !contradict(log, q) && agree(log, q)
			}) {
			return true
		}
	}
	return false
}

// spanned says whether spans bind decision d to a call: a callee's piece stands
// on a node that d knows of, or beneath the one from which it was asked.
func (c *Correlator) spanned(d *piece) bool {
	var buf [8]*piece
	found := c.at(buf[:0], d.trace, d.span)
	if d.keys[byParent] != 0 {
		found = c.onOrUnder(found, d.trace, d.parent)
	}
	return slices.ContainsFunc(found, func(q *piece) bool { return q.place.callee() })
}

// maxAlike bounds the alike calls, or attempts of one, that are told apart; more are
// in doubt without a look, so that who repeats a request id costs little.
const maxAlike = 5

// assign settles which caller's log is p's where several calls are alike: each report
// of the callers fits each of the callees, and no caller tells of fewer attempts than
// it must have made. Of all ways to share out the callees' reports it takes that in
// which the begin and end of each call differ the most evenly from those of its attempts:
// the clocks may be apart. It is sure if every attempt is there, all are
// of two proxies, and in no other way each callee's report lies within its caller's
// with the two clocks set right.
func (c *Correlator) assign(p *piece) (log *piece, sure bool) {
	var room, space, scratch [maxAlike + 1]*piece
	callers := c.candidates(room[:0], p, callerLog, maxAlike)
	if len(callers) < 2 || len(callers) > maxAlike {
		return nil, false
	}
	callees := c.candidates(space[:0], callers[0], p.place, maxAlike)
	if len(callees) < len(callers) || len(callees) > maxAlike {
		return nil, false
	}
	slices.SortFunc(callers, compare)
	slices.SortFunc(callees, compare)
	// Reports of connections between the same two ends are of the same two proxies.
	sure = p.connection || p.reporter != 0 && callers[0].reporter != 0
	attempts := 0
	for _, k := range callers {
		of := c.candidates(scratch[:0], k, p.place, maxAlike)
		if k.crowded || !sameSet(of, callees) {
			return nil, false
		}
		sure = sure && k.reporter == callers[0].reporter
		attempts += 1 + int(k.resends)
	}
	own := -1
	for i, q := range callees {
		of := c.candidates(scratch[:0], q, callerLog, maxAlike)
		if q.crowded || !sameSet(of, callers) {
			return nil, false
		}
		if q == p || sameReport(q, p) {
			own = i
		}
		sure = sure && q.reporter == p.reporter
	}
	if own < 0 {
		return nil, false
	}
	ways, least, fits := 0, 0.0, false
	shareOut(callees, callers, func(of []int) {
		spread, possible := uneven(callees, callers, of)
		if possible {
			ways++
		}
		if log == nil || spread < least {
			log, least, fits = callers[of[own]], spread, possible
		}
	})
	return log, sure && len(callees) == attempts && fits && ways == 1
}

// uneven measures how unevenly begins and ends of calls differ from those of their
// attempts, callers[of[i]] being that of callees[i]; it says whether with one difference of
// the clocks all attempts lie within their calls.
func uneven(callees, callers []*piece, of []int) (spread float64, possible bool) {
	clocks := callers[0].start - callees[0].start // about how far they are apart
	sum, squares, low, high := 0.0, 0.0, int64(math.MinInt64), int64(math.MaxInt64)
	for n, k := range callers {
		first, last := int64(math.MaxInt64), int64(math.MinInt64)
		for i, q := range callees {
			if of[i] == n {
				first, last = min(first, q.start), max(last, q.end)
			}
		}
		begin, end := k.start-first-clocks, k.end-last-clocks
		sum += float64(begin) + float64(end)
		squares += float64(begin)*float64(begin) + float64(end)*float64(end)
		low, high = max(low, begin-rounding), min(high, end+rounding)
	}
	return squares - sum*sum/float64(2*len(callers)), low <= high
}

func sameSet(a, b []*piece) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(p *piece) bool { return !slices.Contains(b, p) })
}

// shareOut calls f with each way to give every callee's report to a caller's, each of
// which gets one, and at most as many as it tells of attempts.
func shareOut(callees, callers []*piece, f func(of []int)) {
	of := make([]int, len(callees))
	got := make([]int, len(callers))
	var next func(i, without int)
	next = func(i, without int) {
		switch {
		case without > len(callees)-i: // not enough are left
		case i == len(callees):
			f(of)
		default:
			for n, k := range callers {
				if got[n] > int(k.resends) {
					continue
				}
				left := without
				if got[n] == 0 {
					left--
				}
				of[i] = n
				got[n]++
				next(i+1, left)
				got[n]--
			}
		}
	}
	next(0, len(callers))
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
	q, doubt := c.nearest(p, at)
	if q == nil || !c.unbound(q, p) {
		return nil, false
	}
	back, backDoubt := c.nearest(q, p.place)
	if back != p && (back == nil || !sameReport(back, p)) {
		return nil, false
	}
	return q, doubt || backDoubt
}
