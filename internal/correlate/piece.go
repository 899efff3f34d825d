package correlate

import (
	"hash/maphash"
	"strings"
	"time"
	"unsafe"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// place is where in an action a piece stands, the strongest first: an access log is a
// report, a span is weaker, and a decision tells of an action that may not have happened.
type place uint8

const (
	noPlace   place = iota // no statement about one call: sealed, not correlated
	calleeLog              // access log of the called side's proxy
	calleeProxy
	calleeApp
	callerLog
	callerProxy
	callerApp
	decision
	observed // an event that is no call
	places   // number of places
)

func (p place) callee() bool { return p >= calleeLog && p <= calleeApp }
func (p place) caller() bool { return p >= callerLog && p <= callerApp }

func (p place) role() evidence.Role {
	switch {
	case p.callee():
		return evidence.RoleCallee
	case p.caller():
		return evidence.RoleCaller
	case p == observed:
		return evidence.RoleObserver
	}
	return evidence.RoleDecision
}

func placeOf(e *evidence.Evidence) place {
	proxySpan, appSpan := e.Source == evidence.SourceProxySpan, e.Source == evidence.SourceSpan
	if e.SpanKind == evidence.SpanInternal {
		return noPlace
	}
	switch e.Role {
	case evidence.RoleDecision:
		return decision
	case evidence.RoleObserver:
		return observed
	case evidence.RoleCallee:
		switch {
		case proxySpan:
			return calleeProxy
		case appSpan:
			return calleeApp
		}
		return calleeLog
	case evidence.RoleCaller:
		switch {
		case proxySpan:
			return callerProxy
		case appSpan:
			return callerApp
		}
		return callerLog
	}
	return noPlace
}

// party is what of a caller or callee joins compare: seeded hashes, 0 for
// unknown.
type party struct {
	spiffe, address, pod uint64
	port                 uint16
}

// lookup names the chains that a piece stands in, one for each kind of key.
type lookup uint8

const (
	byID       lookup = iota
	byNode            // trace and span id: the span's own, or that which an access log names
	byParent          // trace and parent span id
	byDecision        // decision id
	byStream          // stream id; of a connection without one as byRequest
	byRequest         // request id, method, path; of a connection both addresses, source port, time
	byTrace           // trace id, method, path; of a connection through a tunnel both addresses, time
	lookups
)

// piece is one piece of evidence while the correlator knows it. Until it has
// left, the queue has its content; the rest is what joins need. It holds no
// pointer.
type piece struct {
	id           evidence.ID
	trace        evidence.TraceID
	span, parent evidence.SpanID
	start, end   int64 // unix nanoseconds
	arrived      int64 // unix nanoseconds, the correlator's clock

	keys     [lookups]uint64 // odd; 0: not in that chain
	from, to party
	reporter uint64 // hash of the reporter's name for itself

	number        uint64          // in order of arrival
	chain         [lookups]uint32 // how far the next in each chain is, 0: it is the last
	content, size uint32          // where its content lies; size 0: it is gone
	action        ref             // that this piece leads or is an exclusive part of, once it has left
	workflow      ref             // that counts this piece
	looked        uint32          // its number, and one, among the leads of an outlook
	cluster       uint32          // hash of its name, 0: not known
	client        uint32          // hash of the address of whom the caller was called by, as one side has it, 0: not told
	service       uint32          // hash of the service that was called, as a caller or a waypoint tells, 0: not told
	user          uint32          // hash of the user that it names in a trace, 0: none

	place      place
	spanKind   evidence.SpanKind
	final      bool
	verdict    bool  // states a verdict
	resends    uint8 // attempts after the first that it tells of
	mirrored   bool  // by its host a copy of a request; who sent that reports it not
	onIncoming bool  // a callee's log that stands on the span that came in, which others may have forwarded
	waypoint   bool  // a waypoint's, which is asked in the place of a callee behind it
	claimed    bool  // cited by a record or amendment
	crowded    bool  // left out of a chain that was full
	// an interim report that is all there is to say of its request if the final
	// one does not come
	interimOnly bool
	// a report of a connection, and so of no request
	connection bool
	unsent     bool // a caller's log of a call that its proxy sent to nobody
	streamID   bool // a connection's report that names one
	duplicate  bool // known already when it came
	kept       bool // its content is not released when it is due
}

// hasNode says whether the piece names a node of a trace.
func (p *piece) hasNode() bool { return p.keys[byNode] != 0 }

func (p *piece) before(q *piece) bool {
	if p.start != q.start {
		return p.start < q.start
	}
	return string(p.id[:]) < string(q.id[:])
}

// compare orders pieces by when they began.
func compare(a, b *piece) int {
	switch {
	case a.before(b):
		return -1
	case b.before(a):
		return 1
	}
	return 0
}

// bytes is what a piece costs: itself, its part of the index and its content.
func (p *piece) bytes() int { return pieceBytes + int(p.size) }

// pieceBytes is a piece's fixed cost. Of its up to seven keys evidence usually has
// four, and shares every second; their tables are at least a third full.
const pieceBytes = int(unsafe.Sizeof(piece{})) + 2*3*int(unsafe.Sizeof(slot{}))

// hasher makes keys. The seed is random: a sender cannot choose ids that
// collide.
type hasher struct {
	seed maphash.Seed
	// bucket is how far apart, in nanoseconds, two reports of one connection
	// may say that it began, if one of the two clocks is right: nothing else than
	// time tells them from others. A connection's keys hold in which such span of
	// time it began, so that a chain holds only those of about that time: two
	// proxies have thousands of connections in a late window.
	bucket int64
}

func newHasher(skew time.Duration) hasher {
	return hasher{maphash.MakeSeed(), int64(skew + connectionSetup)}
}

// connectionSetup is how long the far side may take to see a connection begin.
const connectionSetup = time.Second

// bucketStep lies between the keys of one connection in neighbouring spans of
// time. It is even: keys are odd, so that none is 0.
const bucketStep = 0x9e3779b97f4a7c16

func (h hasher) ends(kind lookup, start int64, a, b uint64, port uint16) uint64 {
	type ends struct {
		kind lookup
		a, b uint64
		port uint16
	}
	return (maphash.Comparable(h.seed, ends{kind, a, b, port}) | 1) + uint64(start/h.bucket)*bucketStep
}

// buckets is how many spans of time a piece's others may have begun in.
func (p *piece) buckets() int {
	if p.connection {
		return 3
	}
	return 1
}

// meets says whether two pieces have one key of a kind, but for time.
func (p *piece) meets(kind lookup, q *piece) bool {
	d := p.keys[kind] - q.keys[kind]
	return d == 0 || p.connection && (d == bucketStep || -d == bucketStep)
}

func (h hasher) text(kind lookup, parts ...string) uint64 {
	var m maphash.Hash
	m.SetSeed(h.seed)
	_ = m.WriteByte(byte(kind))
	for _, p := range parts {
		_, _ = m.WriteString(p)
		_ = m.WriteByte(0)
	}
	return m.Sum64() | 1 // never 0
}

func (h hasher) span(kind lookup, t evidence.TraceID, s evidence.SpanID) uint64 {
	type spanKey struct {
		kind  lookup
		trace evidence.TraceID
		span  evidence.SpanID
	}
	return maphash.Comparable(h.seed, spanKey{kind, t, s}) | 1
}

func (h hasher) id(id evidence.ID) uint64 { return maphash.Comparable(h.seed, id) | 1 }

// initiator hashes who set a trace going, and whether that is sure.
func (h hasher) initiator(i *Initiator) uint64 {
	if i.Ambiguous {
		return h.text(lookups, i.ID, "ambiguous")
	}
	return h.text(lookups, i.ID)
}

// party hashes what is said about a party. An identity counts from the proof
// least on: what a header claims must not decide what a proxy's report joins.
func (h hasher) party(p *evidence.Party, least evidence.Proof) party {
	out := party{port: p.Port}
	for i := range p.Identities {
		if id := &p.Identities[i]; !id.ID.IsZero() && id.Proof >= least {
			out.spiffe = h.text(lookups, id.ID.String())
			break
		}
	}
	if p.Address != "" {
		out.address = h.text(lookups, strings.ToLower(p.Address))
	}
	switch w := &p.Workload; {
	case w.PodName != "" && w.Namespace != "":
		out.pod = h.text(lookups, w.Namespace, w.PodName)
	case w.PodUID != "": // what also has the name is told apart by that, as by proxies
		out.pod = h.text(lookups, w.PodUID)
	}
	return out
}

// read makes p a piece of e; the content is packed by the caller.
func (h hasher) read(p *piece, e *evidence.Evidence, at place) {
	*p = piece{
		id: e.ID, keys: [lookups]uint64{byID: h.id(e.ID)}, trace: e.TraceID, span: e.SpanID, parent: e.ParentSpanID,
		start: e.Start, end: max(e.Start, e.End),
		waypoint: at.callee() && strings.HasPrefix(e.Reporter.Node, waypointNode),
		place:    at, spanKind: e.SpanKind, final: e.Final, verdict: e.Verdict != nil,
		resends: uint8(min(max(e.ResendCount, 0), 255)), mirrored: mirrored(e.Host),
	}
	if e.User != "" && e.Act == nil && e.TraceID != (evidence.TraceID{}) {
		p.user = uint32(h.text(lookups, e.User)) // never 0
	}
	least := evidence.ProofIP
	if at == decision {
		least = evidence.ProofClaimed // a policy's input is all claims
	}
	p.from, p.to = h.party(&e.From, least), h.party(&e.To, least)
	if p.waypoint { // which states the service that it was asked for
		keep(&p.to.pod, h.podOf(e.Reporter.Node))
	}
	if at.callee() && e.PeerAddress != "" {
		// From.Address may be what a header says; this is who connected.
		p.from.address, p.from.port = h.text(lookups, strings.ToLower(e.PeerAddress)), e.PeerPort
	}
	h.beyond(p, e)
	if at == calleeLog && p.span == (evidence.SpanID{}) {
		// The log names only the span that came in: the caller's, or the
		// proxy's own if that wrote it into the request's headers. Standing
		// there it meets both.
		p.span, p.parent, p.onIncoming = p.parent, evidence.SpanID{}, true
	}
	// Hubble's flow of a request: the response may never come, and no proxy ends
	// what it began.
	p.interimOnly = e.Source == evidence.SourceHubble && !e.Final && e.StreamID != "" && (at == calleeLog || at == callerLog)
	if e.Source == evidence.SourceSpan || e.Source == evidence.SourceProxySpan {
		p.final = true // a span is reported when it has ended
	}
	if e.Cluster != "" {
		p.cluster = uint32(h.text(lookups, e.Cluster)) // never 0
	}
	if e.Reporter.Node != "" {
		p.reporter = h.text(lookups, e.Reporter.Node)
	}
	inTrace := p.trace != evidence.TraceID{}
	if inTrace && p.span != (evidence.SpanID{}) {
		p.keys[byNode] = h.span(byNode, p.trace, p.span)
	}
	if inTrace && p.parent != (evidence.SpanID{}) {
		p.keys[byParent] = h.span(byParent, p.trace, p.parent)
	}
	if e.DecisionID != "" {
		p.keys[byDecision] = h.text(byDecision, e.DecisionID)
	}
	if at != decision && at != observed && e.Method == "" && (e.Event == evidence.EventConnection || e.Event == evidence.EventHandshake) {
		p.connection = true
		h.connection(p, e)
		return
	}
	if e.StreamID != "" && at != decision {
		p.keys[byStream] = h.text(byStream, e.StreamID)
	}
	if e.Method != "" && e.Path != "" {
		if e.RequestID != "" {
			id, rest := evidence.CutRequestID(e.RequestID)
			p.keys[byRequest] = h.text(byRequest, id, rest, e.Method, e.Path)
		}
		if inTrace {
			p.keys[byTrace] = h.text(byTrace, string(e.TraceID[:]), e.Method, e.Path)
		}
	}
}

// beyond reads what else a log tells of the parties than where they are: by whom the
// caller was called itself, and for which service the callee was.
func (h hasher) beyond(p *piece, e *evidence.Evidence) {
	if p.place != callerLog && p.place != calleeLog {
		return
	}
	if to := &e.To.Workload; to.Kind == "Service" && to.Name != "" {
		p.service = uint32(h.text(lookups, "service", to.Namespace, to.Name)) // never 0
	}
	client := ""
	switch {
	case p.place == callerLog && e.PeerPort != 0: // else a header says so, which others behind it have too
		client = e.PeerAddress
	case p.place == calleeLog && e.PeerAddress == "": // else it saw who called
		client = e.From.Address
	}
	if client != "" {
		p.client = uint32(h.text(lookups, "client", strings.ToLower(client))) // never 0
	}
	p.unsent = p.place == callerLog && e.ResendCount == 0 && e.To.Address == "" && unsent(e.ResponseFlags)
}

// unsent says whether Envoy's flags tell that it answered a request by itself: no route,
// cluster or host, one limit or another, a fault, an authorizer's word.
func unsent(flags string) bool {
	for flag := range strings.SplitSeq(flags, ",") {
		switch flag {
		case "NR", "NC", "NFCF", "UH", "UO", "RL", "RLSE", "FI", "IH", "UAEX":
			return true
		}
	}
	return false
}

// waypointNode is how the name of an Istio waypoint for itself begins: waypoint~IP~POD.NAMESPACE~DOMAIN.
const waypointNode = "waypoint~"

// podOf hashes the pod that a waypoint's name for itself names, 0: none.
func (h hasher) podOf(node string) uint64 {
	_, node, _ = strings.Cut(strings.TrimPrefix(node, waypointNode), "~")
	pod, _, _ := strings.Cut(node, "~")
	dot := strings.LastIndexByte(pod, '.')
	if dot < 0 {
		return 0
	}
	return h.text(lookups, pod[dot+1:], pod[:dot])
}

// mirrored: Envoy sends a copy to HOST-shadow.
func mirrored(host string) bool {
	name, _, _ := strings.Cut(host, ":")
	return strings.HasSuffix(name, "-shadow")
}

// connection sets the keys of a connection's report.
func (h hasher) connection(p *piece, e *evidence.Evidence) {
	if p.from.address == 0 || p.to.address == 0 {
		return
	}
	if p.from.port != 0 {
		p.keys[byRequest] = h.ends(byRequest, p.start, p.from.address, p.to.address, p.from.port)
		p.keys[byStream] = h.ends(byStream, p.start, p.from.address, p.to.address, p.from.port)
	}
	if e.StreamID != "" {
		p.streamID = true
		p.keys[byStream] = h.ends(byStream, p.start, h.text(byStream, e.StreamID), 0, 0)
	}
	if p.identified() {
		p.keys[byTrace] = h.ends(byTrace, p.start, p.from.address, p.to.address, 0)
	}
}
