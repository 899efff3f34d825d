package correlate

import (
	"slices"
	"time"
)

// What two pieces say of each other: whether they may be reports of one call, and
// how near they are.

// sameReport says whether two logs are one proxy's statements about one
// request: an interim and the final entry, or one entry over two channels.
func sameReport(a, b *piece) bool {
	if a.place != b.place || a.connection != b.connection || a.keys[byStream] == 0 || !a.meets(byStream, b) {
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
	return own.matches(other, true)
}

// differ says whether two statements are made, and say two things.
func differ[T comparable](a, b T) bool {
	var none T
	return a != none && b != none && a != b
}

// matches compares two statements about one party by the strongest thing that
// both say. Nothing in common is no match.
func (p party) matches(q party, port bool) bool {
	switch {
	case p.spiffe != 0 && q.spiffe != 0:
		return p.spiffe == q.spiffe
	case p.pod != 0 && q.pod != 0:
		return p.pod == q.pod
	case p.address != 0:
		return p.address == q.address && !(port && differ(p.port, q.port))
	}
	return false
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
	return !p.isNot(q) && !differ(p.pod, q.pod)
}

// otherAddresses says whether two statements from one place, a policy engine's and its
// proxy's, tell of other addresses. Identities in a policy's input are claims.
func otherAddresses(a, b *piece) bool {
	return differ(a.from.address, b.from.address) || differ(a.to.address, b.to.address)
}

// otherRequest says whether a decision is about another request than its callee's proxy
// tells of, which asked for it under the id that it logs.
func otherRequest(p, d *piece) bool {
	return (p.place == calleeLog || p.place == calleeProxy) && bonded(p, d)&notOther == 0
}

func (p party) differs(q party) bool { return p.isNot(q) || differ(p.address, q.address) }

// isNot says whether two statements name different identities.
func (p party) isNot(q party) bool { return differ(p.spiffe, q.spiffe) }

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
func (c *Correlator) fit(a, b *piece) fit {
	switch {
	case differ(a.trace, b.trace):
		return unfit
	case a.connection || b.connection:
		switch {
		case !a.connection || !b.connection || foreign(a, b) || apart(a, b) > c.hash.bucket || !a.sameEnds(b):
			return unfit
		case a.samePort(b):
			return well
		}
		return roughly
	case !c.overlap(a, b) || a.mirrored != b.mirrored:
		return unfit
	}
	how := roughly
	if agree(a, b) {
		how = well
	}
	if a.place == calleeLog && b.place == calleeProxy || a.place == calleeProxy && b.place == calleeLog {
		// One proxy's log and span: its name for itself must be the same, or its pod,
		// for a line of text has no such name.
		if (a.reporter == 0 || a.reporter != b.reporter) && (a.to.pod == 0 || a.to.pod != b.to.pod) {
			return unfit
		}
		return how
	}
	from := a.from.matches(b.from, false) || a.ofClient(b)
	to := a.to.matches(b.to, true) || a.ofService(b)
	switch {
	case foreign(a, b) && !(from && to && a.identified() && b.identified()):
		return unfit
	case from && to:
		return how
	case a.from.isNot(b.from), a.to.isNot(b.to):
		return unfit
	case !(a.place == callerLog && b.place.callee() || a.place.callee() && b.place == callerLog):
		return unfit // no two sides
	case to, from && (a.resends > 0 || b.resends > 0):
		return perhaps
	}
	return unfit
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
	x, y := a.keys[byRequest], b.keys[byRequest]
	switch {
	case a.connection: // has no request id, and fit has seen to its ports
		return tight
	case x == y && x != 0:
		of = oneID | notOther
	case !differ(x, y):
		of = notOther
	}
	if a.resends > 0 || b.resends > 0 || a.from.address != b.from.address || !differ(a.from.port, b.from.port) {
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
func foreign(a, b *piece) bool { return differ(a.cluster, b.cluster) }

// sameEnds says whether two reports of connections tell of the same two ends:
// by address, and by identity and pod where both name one. A tunnel (HBONE)
// has a source port of its own on its far side; only there, where both sides
// state both identities, the source ports may differ.
func (p *piece) sameEnds(q *piece) bool {
	return p.from.isAt(q.from) && p.to.isAt(q.to) && p.to.samePort(q.to) &&
		(p.samePort(q) || p.identified() && q.identified())
}

func (p *piece) samePort(q *piece) bool {
	return p.from.port != 0 && p.from.port == q.from.port && p.from.address == q.from.address
}

// identified says whether a piece states both identities.
func (p *piece) identified() bool { return p.from.spiffe != 0 && p.to.spiffe != 0 }

func (p party) isAt(q party) bool {
	return p.address != 0 && p.address == q.address && p.mayBe(q)
}

// samePort: the caller's side of a tunnel may tell only the tunnel's port.
func (p party) samePort(q party) bool {
	return !differ(p.port, q.port) || p.port == portHBONE || q.port == portHBONE
}

const portHBONE = 15008

// contradict says whether a caller's and a callee's piece, or two of one side, can't
// be of one call though they stand on one node: a span id that a proxy only
// passes on, or an application forwards, names more than one call.
func contradict(a, b *piece) bool {
	switch {
	case unlike(a, b), a.place.caller() && b.place.caller() && differ(a.from.pod, b.from.pod):
		return true
	case !a.byProxy() || !b.byProxy():
		return false
	case a.place.caller() == b.place.caller():
		return a.reporter != b.reporter // of one side
	case a.reporter != b.reporter:
		return false
	}
	// One proxy tells of what came in and of what went out.
	callee := a
	if b.place.callee() {
		callee = b
	}
	return !callee.toItself()
}

// consistent leaves out of a list what contradicts p.
func consistent(p *piece, list []*piece) []*piece {
	return slices.DeleteFunc(list, func(q *piece) bool { return contradict(p, q) })
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
	return a.mirrored != b.mirrored || differ(a.keys[byTrace], b.keys[byTrace])
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

// nearestOf gives the nearest to p of a list, which is not empty.
func nearestOf(p *piece, list []*piece) *piece {
	best := list[0]
	for _, q := range list[1:] {
		if nearer(p, q, best) {
			best = q
		}
	}
	return best
}

// rounding is how far times of one clock may be off: some proxies tell begin and
// duration in milliseconds.
const rounding = int64(2 * time.Millisecond)
