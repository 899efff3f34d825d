package distribution

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// A world is a simulated mesh: services whose pods live minutes and take over
// each other's addresses, on nodes whose clocks are off, and what they all send.
// Times are since its beginning, by the true clock.
type world struct {
	*rand.Rand
	begin    time.Time
	length   time.Duration
	services []*service
	gateways []*service
	nodes    []*node
	conns    map[[2]*pod]*tunnel
	ports    map[string]int // source ports of pooled connections
	stamps   map[int64]bool // when entries began: no two at once, so that they are found again
	policies []*policy
	entered  map[string]*piece // of each trace: what names its user

	actions []*action
	pieces  []*piece
	events  []event
	traps   map[string]int
}

type node struct {
	name string
	off  time.Duration // its clock from the true one
	json bool          // how its ztunnel logs
}

// How a service is in the mesh, and how its proxies report.
const (
	byALS     = "als"
	byOTLP    = "otlp"
	byText    = "text"
	byJSON    = "json"
	byZtunnel = "ztunnel"
	unmeshed  = "unmeshed"
)

type service struct {
	namespace, name    string
	vip                string
	port               int
	mesh               string
	proxyTraces        bool // its proxies trace
	appTraces          bool // its application makes spans
	forwards           bool // its application passes trace context and request id on
	opa, opaNamed      bool // asks OPA; and its access log names the decision
	grpc, tcp          bool
	gateway            bool
	waypoint           *service
	calls              []*service
	pods               []*pod
	trustDomain        string
	rbac               *policy // an authorization policy that denies some paths
	periodic, failOpen bool
}

func (s *service) id() string {
	return "spiffe://" + cmp.Or(s.trustDomain, "cluster.local") + "/ns/" + s.namespace + "/sa/" + s.name
}
func (s *service) host() string { return s.name + "." + s.namespace + ".svc.cluster.local" }
func (s *service) sidecar() bool {
	return s.mesh != byZtunnel && s.mesh != unmeshed
}

type pod struct {
	*service
	name, ip   string
	node       *node
	born, dies time.Duration
}

func (p *pod) String() string {
	return fmt.Sprintf("%s (%s %s, proxy traces %v, application traces %v, forwards %v)", p.name, p.mesh, p.ip, p.proxyTraces, p.appTraces, p.forwards)
}

type policy struct {
	namespace, name string
	by              string // who changed it
}

// An action is what really happened once on one hop.
type action struct {
	n                 int
	kind              string // request, connection
	from, to          *pod   // from is nil: outside
	method, path      string
	start             time.Duration
	trace             string
	peer              string // the caller's identity, if a proxy of the callee states it
	decided, engine   string
	initiator         string
	status            int
	plaintext         bool
	spoofed           bool
	deniedButServed   bool
	callee, caller    *piece // the proxies' final reports
	pieces            []*piece
	retried, parallel bool
	entry             bool // from outside, through the gateway
}

// A piece is one piece of evidence, and the actions that it is of.
type piece struct {
	n              int
	what           string
	key            string // by which it is found in the log
	actions        []*action
	lost           bool
	interim        bool
	trace, request string
}

// An event is something that is sent, at some time, over a channel by somebody.
type event struct {
	at      time.Duration
	channel string
	sender  any
	load    any
}

func (w *world) chance(p float64) bool { return w.Float64() < p }
func (w *world) between(a, b time.Duration) time.Duration {
	return a + time.Duration(w.Float64()*float64(b-a))
}
func (w *world) hex(bytes int) string {
	b := make([]byte, bytes)
	for i := range b {
		b[i] = byte(w.Uint32())
	}
	return hex.EncodeToString(b)
}
func (w *world) uuid() string {
	h := w.hex(16)
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-9" + h[17:20] + "-" + h[20:]
}
func (w *world) pick(s []*service) *service { return s[w.IntN(len(s))] }

func newWorld(seed uint64, services int, length time.Duration) *world {
	w := &world{
		Rand: rand.New(rand.NewPCG(seed, 1)), length: length,
		begin: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC),
		conns: map[[2]*pod]*tunnel{}, ports: map[string]int{}, stamps: map[int64]bool{}, entered: map[string]*piece{}, traps: map[string]int{},
	}
	for i := range max(3, services/8) {
		n := &node{name: fmt.Sprintf("worker-%d", i), json: i%2 == 0}
		if w.chance(0.15) {
			n.off = w.between(-time.Second, time.Second)
		} else {
			n.off = w.between(-2*time.Millisecond, 2*time.Millisecond)
		}
		w.nodes = append(w.nodes, n)
	}
	namespaces := []string{"shop", "pay", "media", "search"}
	for i := range services {
		s := &service{
			namespace: namespaces[i%len(namespaces)], name: fmt.Sprintf("svc-%d", i), port: 8080,
			vip:         fmt.Sprintf("10.96.%d.%d", i/250, i%250+1),
			proxyTraces: w.chance(0.8), appTraces: w.chance(0.6), forwards: w.chance(0.85),
		}
		switch f := float64(i%20) / 20; {
		case f < 0.5:
			s.mesh = byALS
		case f < 0.65:
			s.mesh = byOTLP
		case f < 0.7:
			s.mesh = byText
		case f < 0.75:
			s.mesh = byJSON
		case f < 0.95:
			s.mesh = byZtunnel
		default:
			s.mesh = unmeshed
		}
		if s.sidecar() {
			s.grpc, s.tcp = w.chance(0.2), w.chance(0.06)
			s.opa = !s.tcp && (s.mesh == byALS || s.mesh == byOTLP) && w.chance(0.4)
			s.opaNamed = w.chance(0.85)
			s.periodic = s.grpc && w.chance(0.5)
			if !s.tcp && w.chance(0.3) {
				s.rbac = &policy{namespace: s.namespace, name: "deny-" + s.name}
				w.policies = append(w.policies, s.rbac)
			}
			s.failOpen = s.opa && w.chance(0.1)
		}
		if s.mesh == byZtunnel {
			s.grpc = false
		}
		w.services = append(w.services, s)
	}
	// Waypoints stand before half of the ambient services.
	var waypoints []*service
	for _, s := range w.services {
		if s.mesh == byZtunnel && w.chance(0.5) {
			s.waypoint = &service{namespace: s.namespace, name: "waypoint-" + s.name, port: 15008,
				mesh: []string{byText, byJSON, byALS}[len(waypoints)%3], proxyTraces: len(waypoints)%3 == 2}
			waypoints = append(waypoints, s.waypoint)
		}
	}
	gateway := &service{namespace: "istio-system", name: "istio-ingressgateway", port: 8080, mesh: byALS, proxyTraces: true, gateway: true}
	w.gateways = []*service{gateway}
	for i, s := range w.services {
		plane := func(o *service) bool {
			return o != s && (o.mesh == byZtunnel) == (s.mesh == byZtunnel) && o.mesh != unmeshed || o != s && s.sidecar() && o.mesh == unmeshed
		}
		for range 1 + w.IntN(4) {
			if o := w.services[(i+1+w.IntN(len(w.services)))%len(w.services)]; plane(o) {
				s.calls = append(s.calls, o)
			}
		}
	}
	w.deploy(slices.Concat(w.services, waypoints, w.gateways))
	return w
}

// deploy lets pods live, each in the place of one that died. Who is born takes
// the address that was freed last.
func (w *world) deploy(services []*service) {
	var all []*pod
	for _, s := range services {
		for range 1 + w.IntN(3) {
			for at := -w.between(0, time.Minute); at < w.length+time.Minute; {
				p := &pod{service: s, node: w.nodes[w.IntN(len(w.nodes))], born: at}
				p.name = s.name + "-" + w.hex(5) + "-" + w.hex(2)
				p.dies = at + w.between(time.Minute, 3*time.Minute)
				if s.gateway || s.port == 15008 {
					p.dies = at + 24*time.Hour
				}
				at = p.dies
				s.pods, all = append(s.pods, p), append(all, p)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b *pod) int { return cmp.Compare(a.born, b.born) })
	var free []string
	var dying []*pod
	for i, p := range all {
		for len(dying) > 0 && dying[0].dies+2*time.Second < p.born {
			free, dying = append(free, dying[0].ip), dying[1:]
		}
		if len(free) > 0 {
			p.ip, free = free[len(free)-1], free[:len(free)-1]
		} else {
			p.ip = fmt.Sprintf("10.244.%d.%d", i/250, i%250+1)
		}
		at, _ := slices.BinarySearchFunc(dying, p, func(a, b *pod) int { return cmp.Compare(a.dies, b.dies) })
		dying = slices.Insert(dying, at, p)
	}
}

// podOf is a pod that serves at that time, and a while on.
func (w *world) podOf(s *service, at time.Duration) *pod {
	var alive []*pod
	for _, p := range s.pods {
		if p.born <= at && at < p.dies-time.Second {
			alive = append(alive, p)
		}
	}
	if len(alive) == 0 {
		for _, p := range s.pods {
			if p.born <= at && at < p.dies {
				return p
			}
		}
		return s.pods[0]
	}
	return alive[w.IntN(len(alive))]
}

// A context is what a request carries along.
type headers struct {
	trace, span, request string
	sampled              bool
	user                 string // who set the trace going
	spoofs               string
}

func (h headers) traceparent() string {
	if h.trace == "" {
		return ""
	}
	flags := "-00"
	if h.sampled {
		flags = "-01"
	}
	return "00-" + h.trace + "-" + h.span + flags
}

func (w *world) stamp(n *node, at time.Duration) time.Time {
	t := w.begin.Add(at + n.off).Truncate(time.Microsecond)
	for w.stamps[t.UnixNano()] {
		t = t.Add(1)
	}
	w.stamps[t.UnixNano()] = true
	return t
}

// port is a source port of a connection in a pool.
func (w *world) portOf(from *pod, to string, slot int) int {
	key := fmt.Sprint(from.name, to, slot)
	if w.ports[key] == 0 {
		w.ports[key] = 32768 + w.IntN(28000)
	}
	return w.ports[key]
}

func (w *world) newAction(kind string, from, to *pod, at time.Duration) *action {
	a := &action{n: len(w.actions), kind: kind, from: from, to: to, start: at}
	w.actions = append(w.actions, a)
	return a
}

// piece notes a piece of evidence, half a percent of which are lost.
func (w *world) piece(what, key string, actions ...*action) *piece {
	p := &piece{n: len(w.pieces), what: what, key: key, actions: actions, lost: w.chance(0.005)}
	w.pieces = append(w.pieces, p)
	for _, a := range actions {
		a.pieces = append(a.pieces, p)
	}
	return p
}

func (w *world) send(p *piece, at time.Duration, channel string, sender, load any) {
	if !p.lost {
		w.events = append(w.events, event{at, channel, sender, load})
	}
}

// flush is when a buffer of so long is sent that is filled at that time.
func (w *world) flush(at, every time.Duration) time.Duration {
	return at.Truncate(every) + every + w.between(0, 50*time.Millisecond)
}

// run lets the mesh work.
func (w *world) run(rate float64) {
	for at := time.Duration(0); at < w.length; at += time.Duration(w.ExpFloat64() / rate * float64(time.Second)) {
		if s := w.pick(w.services); s.mesh != unmeshed && w.chance(0.5) {
			w.enter(s, at)
		} else { // a job of the service's own
			w.work(w.podOf(s, at), at, headers{}, 0)
		}
	}
	for _, c := range w.conns {
		w.hangUp(c)
	}
	w.changePolicies()
	slices.SortStableFunc(w.events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
}

// enter is a request from outside through the ingress gateway, with a user's token.
func (w *world) enter(to *service, at time.Duration) {
	if to.tcp {
		return
	}
	g := w.podOf(w.gateways[0], at)
	h := headers{trace: w.hex(16), request: w.uuid(), sampled: w.chance(0.3), user: fmt.Sprintf("user-%d", w.IntN(50))}
	w.call(g, to, at, h, 0, true)
}

// work is what an application does for a request, or by itself.
func (w *world) work(p *pod, at time.Duration, h headers, depth int) time.Duration {
	at += w.between(time.Millisecond, 20*time.Millisecond)
	if depth > 3 {
		return at
	}
	for _, to := range p.calls {
		if !w.chance(0.5) {
			continue
		}
		times := 1
		if w.chance(0.04) && !to.tcp {
			times, w.traps["parallel calls"] = 2+w.IntN(2), w.traps["parallel calls"]+1
		}
		end := at
		before := len(w.actions)
		for range times {
			end = max(end, w.call(p, to, at+w.between(0, 300*time.Microsecond), h, depth+1, false))
		}
		if times > 1 {
			for _, a := range w.actions[before:] {
				a.parallel = true
			}
		}
		at = end + w.between(100*time.Microsecond, time.Millisecond)
	}
	return at
}
