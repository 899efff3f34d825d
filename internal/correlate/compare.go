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
	return (!a.from.differs(b.from) || a.ofClient(b)) && (!a.to.differs(b.to) || a.ofService(b) || a.resends > 0 || b.resends > 0)
}

// ofClient says whether the caller's proxy was called by whom the callee names as the
// client: a header told of that one, and nobody of the caller's own address.
func (p *piece) ofClient(q *piece) bool {
	return p.client != 0 && p.client == q.client && p.from.mayBe(q.from)
}

// ofService says whether the caller called the service in whose place a waypoint was
// asked.
func (p *piece) ofService(q *piece) bool {
	return p.service != 0 && p.service == q.service && p.to.mayBe(q.to)
}

// mayBe says whether neither identities nor pods tell two statements about a party apart.
func (p party) mayBe(q party) bool {
	return !p.isNot(q) && (p.pod == 0 || q.pod == 0 || p.pod == q.pod)
}

// elsewhere says whether two statements from one place, a policy engine's and its
// proxy's, tell of other addresses. Identities in a policy's input are claims.
func elsewhere(a, b *piece) bool {
	return a.from.address != 0 && b.from.address != 0 && a.from.address != b.from.address ||
		a.to.address != 0 && b.to.address != 0 && a.to.address != b.to.address
}

// otherRequest says whether a decision is about another request than its callee's proxy
// tells of, which asked for it under the id that it logs.
func otherRequest(p, d *piece) bool {
	return (p.place == calleeLog || p.place == calleeProxy) && bonded(p, d)&notOther == 0
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

// fit says how well two pieces tell of one action by tier request or connection;
// more is better.
type fit uint8

const (
	unfit fit = iota
	// One party's address differs, and nothing else is known of it: the caller's,
	// where the callee sees that of a gateway or a node, or the callee's, where the
	// caller tried more than once and names the last.
	perhaps
	// The same identities at other addresses, or the ends of a tunnel.
	roughly
	well
)

// fit compares two pieces of the same request or trace, method and path (the caller
// has seen to that) by parties and time.
func (c *Correlator) fit(a, b *piece) (how fit, identified bool) {
	switch {
	case a.trace != b.trace && a.trace != (evidence.TraceID{}) && b.trace != (evidence.TraceID{}):
		return unfit, false
	case a.connection || b.connection:
		switch {
		case !a.connection || !b.connection || foreign(a, b) || apart(a, b) > c.hash.bucket || !a.sameEnds(b):
			return unfit, false
		case a.samePort(b):
			return well, true
		}
		return roughly, false
	case !c.overlap(a, b) || a.mirrored != b.mirrored:
		return unfit, false
	}
	how = roughly
	if agree(a, b) {
		how = well
	}
	if a.place == calleeLog && b.place == calleeProxy || a.place == calleeProxy && b.place == calleeLog {
		// One proxy's log and span: its name for itself must be the same, or its pod,
		// for a line of text has no such name.
		if (a.reporter == 0 || a.reporter != b.reporter) && (a.to.pod == 0 || a.to.pod != b.to.pod) {
			return unfit, false
		}
		return how, false
	}
	from, byFrom := a.from.matches(b.from, false)
	to, byTo := a.to.matches(b.to, true)
	from, to = from || a.ofClient(b), to || a.ofService(b)
	if foreign(a, b) && !(from && byFrom && to && byTo) {
		return unfit, false
	}
	switch {
	case from && to:
		return how, byFrom && byTo
	case !from && !to, !from && byFrom, !to && byTo, !(a.place == callerLog && b.place.callee() || a.place.callee() && b.place == callerLog):
		return unfit, false
	case !to && a.resends == 0 && b.resends == 0:
		return unfit, false
	}
	return perhaps, false
}

// bond is what tells, besides parties and time, whether two pieces of one request or
// trace are of one call; of more is the greater.
type bond uint8

const (
	onePort  bond = 1 << iota // they do not tell of two connections
	notOther                  // or of two request ids
	oneID                     // they tell of one
	tight    = onePort | notOther | oneID
)

// bonded compares two pieces of like method and path. A connection carries one call
// after the other, or several at once; a caller that tries again tells of its last.
func bonded(a, b *piece) (of bond) {
	x, y := a.keys[byRequest-1], b.keys[byRequest-1]
	switch {
	case a.connection: // has no request id, and fit has seen to its ports
		return tight
	case x == y && x != 0:
		of = oneID | notOther
	case x == 0 || y == 0:
		of = notOther
	}
	if a.resends > 0 || b.resends > 0 || a.from.port == 0 || b.from.port == 0 || a.from.port == b.from.port || a.from.address != b.from.address {
		of |= onePort
	}
	return of
}

// rank orders what fits: of one request id before all, then by fit, then the rest.
func rank(how fit, of bond) int {
	return int(of&oneID)<<8 | int(how)<<4 | int(of)
}

// foreign says whether two pieces are of two clusters: there one address or pod's name
// may be of two pods.
func foreign(a, b *piece) bool { return a.cluster != 0 && b.cluster != 0 && a.cluster != b.cluster }

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
	callee := a
	if b.place.callee() {
		callee = b
	}
	sides, proxies := a.place.caller() != b.place.caller(), a.reporter != b.reporter
	return unlike(a, b) ||
		// What came in and what went out, unless a pod calls itself, or what two proxies
		// say of one side.
		a.byProxy() && b.byProxy() && sides != proxies && !(sides && callee.toItself()) ||
		a.place.caller() && b.place.caller() && a.from.pod != 0 && b.from.pod != 0 && a.from.pod != b.from.pod
}

// toItself says whether a pod calls itself.
func (p *piece) toItself() bool {
	return p.from.address != 0 && p.from.address == p.to.address || p.from.pod != 0 && p.from.pod == p.to.pod
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

// clocks is how far those of two nodes may be apart: either may be off, and the other
// way than the other.
func (c *Correlator) clocks() int64 { return 2 * int64(c.cfg.ClockSkew) }

// overlap says whether two pieces may be of one time, given how far clocks are
// apart.
func (c *Correlator) overlap(a, b *piece) bool {
	return a.start <= b.end+c.clocks() && b.start <= a.end+c.clocks()
}

// apart is how far two reports are apart in time: when they began, and when they
// ended, where both tell. Of several attempts the first begins with the call, and the
// last ends with it.
func apart(a, b *piece) int64 {
	begin, end := abs(a.start-b.start), abs(a.end-b.end)
	switch {
	case a.end == a.start || b.end == b.start || a.place == decision || b.place == decision:
		return begin
	case a.resends > 0 || b.resends > 0:
		return min(begin, end)
	}
	return max(begin, end)
}

func abs(d int64) int64 { return max(d, -d) }

// nearer says whether a is nearer to p than b is; of two as near it is the first.
func nearer(p, a, b *piece) bool {
	d, e := apart(p, a), apart(p, b)
	return d < e || d == e && a.before(b)
}

// rounding is how far times of one clock may be off: some proxies tell begin and
// duration in milliseconds.
const rounding = int64(2 * time.Millisecond)
