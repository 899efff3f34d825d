package correlate

import (
	"slices"
	"time"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// What two pieces say of each other: whether they may be reports of one call, and
// how near they are.

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

// rounding is how far times of one clock may be off: some proxies tell begin and
// duration in milliseconds.
const rounding = int64(2 * time.Millisecond)
