package correlate_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// A mesh is simulated as it is, knows what belongs together, and shares nothing
// with the model: workloads that scale up and down, calls in trees, nodes with
// clocks of their own, reports that are lost, late, rounded, or told twice.
const (
	workloads     = 1000
	mostReplicas  = 4
	nodes         = 300
	podLife       = 2 * time.Minute
	nodeLife      = 20 * time.Minute
	treesEach     = 60 // a second
	tunnelsEach   = 60 // connections through ambient tunnels, a second
	pSkewed       = 0.01
	maxSkew       = 2 * time.Second
	pRetry        = 0.05
	pStream       = 0.003
	pLost         = 0.005
	pTwice        = 0.01 // reports delivered again, up to a minute later
	pDecided      = 0.3
	pLateDecision = 0.1
	pUntraced     = 0.3 // trees that have a request id only

	// In a mesh with traps also:
	pNAT       = 0.02 // nodes behind whose address their pods' calls are seen
	pHedged    = 0.1  // retries that do not wait for the first to fail
	pUnreached = 0.2  // first attempts of retries that reach nobody
	pFanOut    = 0.03 // calls made two or three times beside each other
	pMirrored  = 0.01
	pLate      = 0.003 // reports up to a minute late
)

// What a workload is like follows from its number, so that it does not change.
type workload int

func (w workload) instrumented() bool { return w%10 != 3 } // its application makes spans
func (w workload) bare() bool         { return w%20 == 7 } // has no proxy
func (w workload) millis() bool       { return w%4 == 1 }  // its proxy logs lines of text, with times in milliseconds
func (w workload) tracing() bool      { return w%3 != 0 }  // its proxy makes spans; else its log names the span that came in
func (w workload) identities() bool   { return w%2 == 0 }  // its proxy states the upstream's SANs
func (w workload) waypoint() bool     { return w%25 == 11 && !w.bare() }
func (w workload) namesDecision() bool {
	return w%3 != 1 // in its log
}
func (w workload) decisionsTraced() bool { return w%5 != 2 }
func (w workload) sampled() float64 { // of the trees that begin here
	if w%2 == 0 {
		return 0.1
	}
	return 0.5
}
func (w workload) replicas(now time.Duration) int {
	return 1 + (int(w)+int(now/time.Minute))%mostReplicas
}

type node struct {
	ip   string
	born time.Duration
	skew time.Duration
	nat  bool
}

type pod struct {
	workload
	name, ip  string
	born      time.Duration
	node      *node
	id        spiffeid.ID
	nextPort  uint16
	reporter  string
	idle      map[string][]uint16 // connections to others, by name, that wait for the next call
	waypoint_ *pod
}

// action is what really happened once, on one hop.
type action struct {
	identified bool // has a trace or request id
	end        time.Duration
	kept       []*fact
	lost       []*fact
}

// fact is a piece of evidence, and what became of it.
type fact struct {
	id      evidence.ID
	at      time.Duration // that it is told for the first time
	of      []*action
	records []*folded
	final   bool
	seen    sight
}

// sight is what a fact says, for whoever looks for a reason.
type sight struct {
	source               evidence.Source
	role                 evidence.Role
	trace                evidence.TraceID
	span, parent         evidence.SpanID
	start, end           int64
	method, path         string
	request, decision    string
	resends              int
	from, to, host, node string
}

func (s *sight) String() string {
	return fmt.Sprintf("%s of %s: %s %d.%06d for %d us, request %s trace %x span %x under %x, %s to %s, decision %q resends %d %s %s",
		s.source, s.role, s.path, s.start/1e9%1e5, s.start%1e9/1000, (s.end-s.start)/1000, s.request, s.trace[:3], s.span[:3], s.parent[:3],
		s.from, s.to, s.decision, s.resends, s.host, s.node)
}

type mesh struct {
	rnd     *rand.Rand
	traps   bool
	nodes   [nodes]*node
	pods    [workloads][mostReplicas]*pod
	gateway [3]*pod
	count   uint64
	arrives map[time.Duration][]*evidence.Evidence // by tenths of a second
	facts   map[evidence.ID]*fact
	told    map[time.Duration][]*fact // by minutes
	actions []*action
	pieces  int
}

func newMesh(seed uint64, traps bool) *mesh {
	m := &mesh{
		traps: traps, rnd: rand.New(rand.NewPCG(seed, 1)), arrives: map[time.Duration][]*evidence.Evidence{}, facts: map[evidence.ID]*fact{},
		told: map[time.Duration][]*fact{},
	}
	for i := range m.gateway {
		m.gateway[i] = m.newPod(0, 0)
		m.gateway[i].name = fmt.Sprint("ingress-", i)
		m.gateway[i].id = spiffeid.RequireFromString("spiffe://example.org/ns/istio-system/sa/ingress")
		m.gateway[i].reporter = fmt.Sprintf("router~%s~%s.istio-system~istio-system.svc.cluster.local", m.gateway[i].ip, m.gateway[i].name)
	}
	return m
}

var epoch = time.Unix(1_800_000_000, 0)

func (m *mesh) chance(p float64) bool { return m.rnd.Float64() < p }

func (m *mesh) trap(p float64) bool { return m.traps && m.chance(p) }

func (m *mesh) upTo(d time.Duration) time.Duration { return time.Duration(m.rnd.Int64N(int64(d))) }

func (m *mesh) action(identified bool) *action {
	a := &action{identified: identified}
	m.actions = append(m.actions, a)
	return a
}

// nodeAt picks a node; one that is old was replaced meanwhile.
func (m *mesh) nodeAt(now time.Duration) *node {
	at := &m.nodes[m.rnd.IntN(nodes)]
	if n := *at; n != nil && now-n.born < nodeLife {
		return n
	}
	m.count++
	n := &node{ip: fmt.Sprintf("192.168.%d.%d", m.count>>8&255, m.count&255), born: now, nat: m.trap(pNAT)}
	if *at == nil {
		n.born -= m.upTo(nodeLife)
	}
	if m.chance(pSkewed) {
		n.skew = m.upTo(2*maxSkew) - maxSkew
	}
	*at = n
	return n
}

func (m *mesh) newPod(w workload, now time.Duration) *pod {
	m.count++
	n := m.count
	p := &pod{
		workload: w, name: fmt.Sprintf("w%d-%x", w, n), born: now, node: m.nodeAt(now),
		// Addresses are used again, minutes later, as a node's are.
		ip: fmt.Sprintf("10.%d.%d.%d", n>>13&31, n>>6&127, n&63), nextPort: 32768 + uint16(m.rnd.IntN(20000)),
		id:   spiffeid.RequireFromString(fmt.Sprintf("spiffe://example.org/ns/shop/sa/w%d", w)),
		idle: map[string][]uint16{},
	}
	p.reporter = fmt.Sprintf("sidecar~%s~%s.shop~shop.svc.cluster.local", p.ip, p.name)
	return p
}

// podOf picks a replica; one that is old was replaced meanwhile.
func (m *mesh) podOf(w workload, now time.Duration) *pod {
	at := &m.pods[w][m.rnd.IntN(w.replicas(now))]
	if p := *at; p != nil && now-p.born < podLife {
		return p
	}
	born := now
	if *at == nil {
		born -= m.upTo(podLife)
	}
	p := m.newPod(w, now)
	p.born = born
	if w.waypoint() {
		p.waypoint_ = m.newPod(w, now)
		p.waypoint_.reporter = fmt.Sprintf("waypoint~%s~wp-%s.shop~shop.svc.cluster.local", p.waypoint_.ip, p.name)
	}
	*at = p
	return p
}

func (p *pod) port() uint16 {
	p.nextPort++
	if p.nextPort < 32768 {
		p.nextPort = 32768
	}
	return p.nextPort
}

// connect takes an idle connection to another pod, or makes one; it is given back
// when the call has ended.
func (p *pod) connect(to *pod) (port uint16, done func()) {
	if idle := p.idle[to.name]; len(idle) > 0 {
		port, p.idle[to.name] = idle[len(idle)-1], idle[:len(idle)-1]
	} else {
		port = p.port()
	}
	return port, func() { p.idle[to.name] = append(p.idle[to.name], port) }
}

// reported sends a piece, of these actions, unless it gets lost.
func (m *mesh) reported(e evidence.Evidence, by *pod, start, end, after time.Duration, of ...*action) {
	clock := epoch.Add(by.node.skew)
	from, to := clock.Add(start), clock.Add(end)
	if by.millis() && e.Source == evidence.SourceEnvoyALS {
		e.Source = evidence.SourceEnvoyText
		to = from.Truncate(time.Millisecond).Add(to.Sub(from).Truncate(time.Millisecond))
		from = from.Truncate(time.Millisecond)
	}
	e.Start, e.End = from.UnixNano(), to.UnixNano()
	f := &fact{of: of, final: e.Final, seen: sight{
		e.Source, e.Role, e.TraceID, e.SpanID, e.ParentSpanID, e.Start, e.End, e.Method, e.Path, e.RequestID, e.DecisionID,
		e.ResendCount, address(e.From), address(e.To), e.Host, e.Reporter.Node,
	}}
	if m.chance(pLost) {
		for _, a := range of {
			a.lost = append(a.lost, f)
		}
		return
	}
	m.count++
	binary.BigEndian.PutUint64(e.ID[:], m.count)
	binary.BigEndian.PutUint64(e.ID[8:], m.rnd.Uint64())
	if m.trap(pLate) {
		after += m.upTo(time.Minute)
	}
	f.id, f.at = e.ID, end+after
	m.pieces++
	m.facts[e.ID] = f
	minute := f.at.Truncate(time.Minute)
	m.told[minute] = append(m.told[minute], f)
	for _, a := range of {
		a.kept = append(a.kept, f)
		a.end = max(a.end, end)
	}
	m.deliver(&e, f.at)
	if m.chance(pTwice) {
		m.deliver(&e, f.at+m.upTo(time.Minute))
	}
}

func (m *mesh) deliver(e *evidence.Evidence, at time.Duration) {
	tick := at.Truncate(100*time.Millisecond) + 100*time.Millisecond
	m.arrives[tick] = append(m.arrives[tick], e)
}

func address(p evidence.Party) string { return fmt.Sprint(p.Address, ":", p.Port) }

func (m *mesh) flush() time.Duration { return m.upTo(time.Second) } // as Envoy does

func (m *mesh) newID(b []byte) {
	for i := range b {
		b[i] = byte(1 + m.rnd.IntN(255))
	}
}

func party(p *pod, port uint16, proven bool) evidence.Party {
	party := evidence.Party{Address: p.ip, Port: port}
	if proven {
		party.Identities = []evidence.Identity{{ID: p.id, Proof: evidence.ProofMTLSSAN, From: "tls.peer.san"}}
	}
	return party
}

// request is what goes from hop to hop.
type request struct {
	id      string
	trace   evidence.TraceID
	sampled bool
}

// tree lets somebody call a workload, which calls others.
func (m *mesh) tree(now time.Duration) {
	first := m.podOf(workload(m.rnd.IntN(workloads)), now)
	r := request{id: fmt.Sprintf("%016x", m.rnd.Uint64())}
	begins := m.rnd.IntN(3)
	if !m.chance(pUntraced) && (begins > 0 || first.instrumented() || first.tracing()) {
		m.newID(r.trace[:])
		r.sampled = m.chance(first.sampled())
	}
	switch path := fmt.Sprint("/api/", m.rnd.IntN(4)); begins {
	case 0: // it begins by itself
		m.calls(first, now, r, evidence.SpanID{}, 0)
	case 1: // at a gateway, one entry of which tells of both sides
		m.call(m.gateway[m.rnd.IntN(len(m.gateway))], first.workload, now, path, r, evidence.SpanID{}, 0)
	case 2: // through something that reports nothing
		var parent evidence.SpanID // of whoever gave the trace its id
		if r.trace != (evidence.TraceID{}) {
			m.newID(parent[:])
		}
		m.attempt(attempt{to: first, start: now, path: path, request: r, parent: parent, from: evidence.Party{Address: fmt.Sprintf("203.0.113.%d", m.rnd.IntN(250)), Port: 443}})
	}
}

// calls makes the calls of one pod and returns when the last one has ended.
func (m *mesh) calls(from *pod, now time.Duration, r request, parent evidence.SpanID, depth int) time.Duration {
	for n := 1 + m.rnd.IntN(2); n > 0 && depth < 3; n-- {
		now += time.Millisecond + m.upTo(5*time.Millisecond)
		// Each workload calls a few others, each in few ways: equal calls in one
		// tree do happen.
		to := workload((int(from.workload)*7 + m.rnd.IntN(3) + 1) % workloads)
		path := fmt.Sprint("/api/", m.rnd.IntN(4))
		side := 1
		if m.trap(pFanOut) { // and beside each other
			side = 2 + m.rnd.IntN(2)
		}
		end := now
		for range side {
			end = max(end, m.call(from, to, now+m.upTo(time.Millisecond), path, r, parent, depth))
		}
		now = end
	}
	return now
}

func (m *mesh) call(from *pod, callee workload, start time.Duration, path string, r request, parent evidence.SpanID, depth int) time.Duration {
	traced := r.trace != evidence.TraceID{}
	gateway := from.workload == 0 && from.name[0] == 'i'
	out, told := parent, parent // the caller's span, and that of which the callee is told
	var app evidence.SpanID
	if traced && from.instrumented() && !gateway {
		m.newID(app[:])
		out, told = app, app
	}
	if traced && !from.bare() && (from.tracing() || gateway) {
		out = evidence.SpanID{}
		m.newID(out[:])
		told = out
	}
	to := m.podOf(callee, start)
	tries, hedged := 1, false
	if m.chance(pRetry) {
		tries, hedged = 2+m.rnd.IntN(10)/9, m.trap(pHedged)
	}
	stream := tries == 1 && m.chance(pStream)
	method := "GET"
	if stream && m.chance(0.5) {
		method, path = "POST", "/shop.Watch/Changes"
	}
	var all []*action
	now := start
	last := start
	var port uint16
	for try := range tries {
		if try > 0 && m.chance(0.5) {
			to = m.podOf(callee, now) // perhaps another
		}
		var done func()
		port, done = from.connect(to)
		if try < tries-1 && m.trap(pUnreached) {
			now += time.Millisecond
			continue
		}
		a := attempt{
			by: from, to: to, start: now, path: path, method: method, request: r, parent: told, depth: depth,
			from: party(from, port, true), fails: try < tries-1,
		}
		if from.node.nat {
			a.from.Address, a.from.Port = from.node.ip, from.port()
		}
		if from.bare() {
			a.from.Identities = nil
		}
		if stream {
			a.lasts = 20*time.Second + m.upTo(8*time.Minute)
		}
		happened, end := m.attempt(a)
		all = append(all, happened)
		last = max(last, end)
		if now = end; hedged {
			now = a.start + 2*time.Millisecond
		}
		done()
	}
	now = last
	if m.trap(pMirrored) { // nobody waits for it
		copied := attempt{
			by: from, to: m.podOf(workload((int(callee)+m.rnd.IntN(2))%workloads), start), start: start, path: path, method: method, request: r, parent: told, depth: 9,
			from: party(from, from.port(), true), host: "shop-shadow",
		}
		if traced && r.sampled && from.tracing() {
			m.newID(copied.parent[:]) // whose span nobody sends
		}
		m.attempt(copied)
	}

	seenTo := to
	if to.waypoint_ != nil {
		seenTo = to.waypoint_
	}
	common := evidence.Evidence{
		Role: evidence.RoleCaller, Final: true, TraceID: r.trace, RequestID: r.id, Host: "shop",
		Method: method, Path: path, Status: 200, From: party(from, port, false), To: party(seenTo, 8080, false),
	}
	if !from.bare() {
		log := common
		log.Source, log.SpanID, log.ResendCount = evidence.SourceEnvoyALS, out, tries-1
		log.StreamID, log.Reporter = fmt.Sprint("out", m.rnd.Uint64()), evidence.Reporter{Node: from.reporter}
		log.From.Workload.PodName, log.From.Workload.Namespace = from.name, "shop"
		if from.identities() && !to.bare() {
			log.From.Identities, log.To.Identities = party(from, 0, true).Identities, party(seenTo, 0, true).Identities
		}
		m.interim(log, from, start, now, all...)
		m.reported(log, from, start, now, m.flush(), all...)
		if r.sampled && (from.tracing() || gateway) {
			span := common
			span.Source, span.SpanKind, span.SpanID, span.ParentSpanID = evidence.SourceProxySpan, evidence.SpanClient, out, app
			span.Reporter, span.From.Port = log.Reporter, 0
			m.reported(span, from, start, now, m.flush(), all...)
		}
	}
	if r.sampled && app != (evidence.SpanID{}) {
		span := common
		span.Source, span.SpanKind, span.SpanID, span.ParentSpanID = evidence.SourceSpan, evidence.SpanClient, app, parent
		span.From, span.To, span.RequestID = evidence.Party{Workload: evidence.Workload{PodName: from.name, Namespace: "shop"}}, evidence.Party{Address: "shop"}, ""
		m.reported(span, from, start, now, m.flush(), all...)
	}
	return now
}

// interim tells of long calls when they begin, as some proxies are configured to.
func (m *mesh) interim(log evidence.Evidence, by *pod, start, end time.Duration, of ...*action) {
	if end-start > 10*time.Second && by.workload%2 == 0 {
		log.Final, log.Status = false, 0
		m.reported(log, by, start, start, m.flush(), of...)
	}
}

// attempt is one try of a call, which reaches a pod.
type attempt struct {
	by, to       *pod // by is nil where somebody outside calls
	start        time.Duration
	method, path string
	request
	parent evidence.SpanID // of which the callee is told
	from   evidence.Party
	depth  int
	fails  bool
	lasts  time.Duration
	host   string
}

// attempt lets an attempt happen and tells when it has ended.
func (m *mesh) attempt(t attempt) (*action, time.Duration) {
	a := m.action(true)
	to, traced := t.to, t.trace != evidence.TraceID{}
	began := t.start + 300*time.Microsecond
	end := t.start + time.Millisecond + m.upTo(20*time.Millisecond) + t.lasts
	in, told := t.parent, t.parent
	var app evidence.SpanID
	proxied, tracing := !to.bare(), to.tracing() || to.waypoint_ != nil
	if traced && proxied && tracing {
		in = evidence.SpanID{}
		m.newID(in[:])
		told = in
	}
	if traced && to.instrumented() {
		m.newID(app[:])
	}
	status := 200
	if t.fails {
		status = 503
	} else if t.depth < 2 && t.lasts == 0 {
		beneath := told
		if app != (evidence.SpanID{}) {
			beneath = app
		}
		end = m.calls(to, end, t.request, beneath, t.depth+1)
	}
	proxy := to
	if to.waypoint_ != nil {
		proxy = to.waypoint_
	}
	method := t.method
	if method == "" {
		method = "GET"
	}
	host := t.host
	if host == "" {
		host = "shop"
	}
	common := evidence.Evidence{
		Role: evidence.RoleCallee, Final: true, TraceID: t.trace, RequestID: t.id, Host: host, Method: method, Path: t.path, Status: status,
		From: t.from, To: party(proxy, 8080, false),
	}
	if proxied {
		log := common
		log.Source, log.To = evidence.SourceEnvoyALS, party(proxy, 8080, true)
		log.To.Workload = evidence.Workload{PodName: proxy.name, Namespace: "shop"}
		log.StreamID, log.Reporter = fmt.Sprint("in", m.rnd.Uint64()), evidence.Reporter{Node: proxy.reporter}
		if tracing {
			log.SpanID = in
		} else {
			log.ParentSpanID = in // that came in
		}
		if m.chance(pDecided) {
			id := fmt.Sprint("d", m.rnd.Uint64())
			if to.namesDecision() {
				log.DecisionID = id
			}
			d := evidence.Evidence{
				Source: evidence.SourceOPA, Role: evidence.RoleDecision, Final: true, DecisionID: id, Method: method, Path: t.path, Host: host, RequestID: t.id,
				Verdict: &evidence.Verdict{Engine: "opa", Decision: evidence.Allow, Enforced: true, DecisionID: id},
				From:    evidence.Party{Address: t.from.Address, Port: t.from.Port, Identities: t.from.Identities}, To: party(proxy, 8080, false), // of its input
			}
			if to.decisionsTraced() {
				d.TraceID, d.ParentSpanID = t.trace, t.parent
			}
			after := m.flush()
			if m.chance(pLateDecision) {
				after = 5*time.Minute + m.upTo(5*time.Minute)
			}
			m.reported(d, proxy, began, began, after, a)
		}
		m.interim(log, proxy, began, end, a)
		m.reported(log, proxy, began, end, m.flush(), a)
		if t.sampled && tracing {
			span := common
			span.Source, span.SpanKind, span.SpanID, span.ParentSpanID = evidence.SourceProxySpan, evidence.SpanServer, in, t.parent
			span.From.Identities, span.To.Workload, span.Reporter = nil, log.To.Workload, log.Reporter
			m.reported(span, proxy, began, end, m.flush(), a)
		}
	}
	if t.sampled && app != (evidence.SpanID{}) {
		span := common
		span.Source, span.SpanKind, span.SpanID, span.ParentSpanID = evidence.SourceSpan, evidence.SpanServer, app, told
		span.From, span.RequestID = evidence.Party{}, ""
		span.To = evidence.Party{Workload: evidence.Workload{PodName: to.name, Namespace: "shop"}}
		m.reported(span, to, began+100*time.Microsecond, end-100*time.Microsecond, m.flush(), a)
	}
	a.end = max(a.end, end)
	return a, end + 300*time.Microsecond
}

// tunnel is a connection in ambient mode: both nodes' proxies report it, the far
// one with the tunnel's source port.
func (m *mesh) tunnel(now time.Duration) {
	from := m.podOf(workload(m.rnd.IntN(workloads/10)), now) // few, so that they pool
	to := m.podOf(workload((int(from.workload)+1+m.rnd.IntN(2))%(workloads/10)), now)
	a := m.action(false)
	end := now + m.upTo(5*time.Second)
	e := evidence.Evidence{Source: evidence.SourceZtunnel, Event: evidence.EventConnection, Protocol: "tcp", Final: true}
	e.From, e.To = party(from, from.port(), true), party(to, 3306, true)
	e.From.Workload = evidence.Workload{PodName: from.name, Namespace: "shop"}
	e.To.Workload = evidence.Workload{PodName: to.name, Namespace: "shop"}
	e.Role = evidence.RoleCaller
	m.reported(e, from, now, end, m.flush(), a)
	e.Role, e.From.Port = evidence.RoleCallee, from.port()
	m.reported(e, to, now+m.upTo(3*time.Millisecond), end, m.flush(), a)
}
