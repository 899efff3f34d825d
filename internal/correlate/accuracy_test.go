package correlate_test

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

var (
	simulated = flag.Duration("accuracy.time", 20*time.Second, "how long a time in the mesh TestAccuracy simulates")
	seed      = flag.Uint64("accuracy.seed", 1, "of TestAccuracy's mesh")
)

// A mesh is simulated as it is, knows what belongs together, and shares nothing
// with the model: workloads that scale up and down, calls in trees, proxies
// with clocks of their own, reports that are lost and late.
const (
	workloads     = 1000
	replicas      = 2
	podLife       = 2 * time.Minute
	treesEach     = 60 // a second
	tunnelsEach   = 60 // connections through ambient tunnels, a second
	pSkewed       = 0.01
	pRetry        = 0.05
	pLost         = 0.005
	pDecided      = 0.3
	pLateDecision = 0.1
	pSampled      = 0.5 // spans; the ids are in the logs all the same
	pUntraced     = 0.3 // trees that have a request id only
)

type pod struct {
	workload  int
	name, ip  string
	born      time.Duration
	skew      time.Duration
	id        spiffeid.ID
	nextPort  uint16
	reporter  string
	namespace string
}

// action is what really happened once, on one hop.
type action struct{ identified bool } // has a trace or request id

type mesh struct {
	rnd     *rand.Rand
	pods    [workloads][replicas]*pod
	count   uint64
	arrives map[time.Duration][]evidence.Evidence // by tenths of a second
	truth   map[evidence.ID][]*action
}

var epoch = time.Unix(1_800_000_000, 0)

func (m *mesh) chance(p float64) bool { return m.rnd.Float64() < p }

func (m *mesh) upTo(d time.Duration) time.Duration { return time.Duration(m.rnd.Int64N(int64(d))) }

// podOf picks a replica; one that is old was replaced meanwhile.
func (m *mesh) podOf(workload int, now time.Duration) *pod {
	at := &m.pods[workload][m.rnd.IntN(replicas)]
	if p := *at; p != nil && now-p.born < podLife {
		return p
	}
	m.count++
	n := m.count
	born := now
	if *at == nil {
		born -= m.upTo(podLife)
	}
	p := &pod{
		workload: workload, name: fmt.Sprintf("w%d-%x", workload, n), born: born, namespace: "shop",
		// Addresses are used again, minutes later, as a node's are.
		ip: fmt.Sprintf("10.%d.%d.%d", n>>13&31, n>>6&127, n&63), nextPort: 32768 + uint16(m.rnd.IntN(20000)),
		id: spiffeid.RequireFromString(fmt.Sprintf("spiffe://example.org/ns/shop/sa/w%d", workload)),
	}
	p.reporter = fmt.Sprintf("sidecar~%s~%s.shop~shop.svc.cluster.local", p.ip, p.name)
	if m.chance(pSkewed) {
		p.skew = m.upTo(4*time.Second) - 2*time.Second
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

// reported sends a piece, of these actions, unless it gets lost.
func (m *mesh) reported(e evidence.Evidence, by *pod, start, end, after time.Duration, of ...*action) {
	if m.chance(pLost) {
		return
	}
	m.count++
	binary.BigEndian.PutUint64(e.ID[:], m.count)
	binary.BigEndian.PutUint64(e.ID[8:], m.rnd.Uint64())
	e.Final = true
	e.Start = epoch.Add(start + by.skew).UnixNano()
	e.End = epoch.Add(end + by.skew).UnixNano()
	tick := (end + after).Truncate(100*time.Millisecond) + 100*time.Millisecond
	m.arrives[tick] = append(m.arrives[tick], e)
	m.truth[e.ID] = of
}

func (m *mesh) flush() time.Duration { return m.upTo(time.Second) } // as Envoy does

func (m *mesh) newID(b []byte) {
	for i := range b {
		b[i] = byte(1 + m.rnd.IntN(255))
	}
}

func (m *mesh) party(p *pod, port uint16, proven bool) evidence.Party {
	party := evidence.Party{Address: p.ip, Port: port}
	if proven {
		party.Identities = []evidence.Identity{{ID: p.id, Proof: evidence.ProofMTLSSAN, From: "tls.peer.san"}}
	}
	return party
}

// tree lets a workload call others, which call others.
func (m *mesh) tree(now time.Duration) {
	var trace evidence.TraceID
	traced := !m.chance(pUntraced)
	if traced {
		m.newID(trace[:])
	}
	m.calls(m.podOf(m.rnd.IntN(workloads), now), now, trace, evidence.SpanID{}, fmt.Sprintf("%016x", m.rnd.Uint64()), traced && m.chance(pSampled), 0)
}

// calls makes the calls of one pod and returns when the last one has ended.
func (m *mesh) calls(from *pod, now time.Duration, trace evidence.TraceID, parent evidence.SpanID, request string, sampled bool, depth int) time.Duration {
	for n := 1 + m.rnd.IntN(2); n > 0 && depth < 3; n-- {
		now += time.Millisecond + m.upTo(5*time.Millisecond)
		// Each workload calls a few others, each in few ways: equal calls in one
		// tree do happen.
		to := m.podOf((from.workload*7+m.rnd.IntN(3)+1)%workloads, now)
		path := fmt.Sprint("/api/", m.rnd.IntN(4))
		now = m.call(from, to, now, path, trace, parent, request, sampled, depth)
	}
	return now
}

func (m *mesh) call(from, to *pod, start time.Duration, path string, trace evidence.TraceID, parent evidence.SpanID, request string, sampled bool, depth int) time.Duration {
	traced := trace != evidence.TraceID{}
	var out evidence.SpanID
	if traced {
		m.newID(out[:])
	}
	port := from.port()
	tries := 1
	if m.chance(pRetry) {
		tries = 2
	}
	var all []*action
	now := start
	for try := range tries {
		a := &action{identified: true}
		all = append(all, a)
		began := now + 300*time.Microsecond
		now += time.Millisecond + m.upTo(20*time.Millisecond)
		var in, app evidence.SpanID
		if traced {
			m.newID(in[:])
			m.newID(app[:])
		}
		status := 200
		if try < tries-1 {
			status = 503
		} else if depth < 2 {
			now = m.calls(to, now, trace, app, request, sampled, depth+1)
		}
		log := evidence.Evidence{
			Source: evidence.SourceEnvoyALS, Role: evidence.RoleCallee, TraceID: trace, SpanID: in, RequestID: request,
			Method: "GET", Path: path, Status: status, From: m.party(from, port, true), To: m.party(to, 8080, true),
			StreamID: fmt.Sprint("in", m.rnd.Uint64()), Reporter: evidence.Reporter{Node: to.reporter},
		}
		if m.chance(pDecided) {
			log.DecisionID = fmt.Sprint("d", m.rnd.Uint64())
			d := evidence.Evidence{
				Source: evidence.SourceOPA, Role: evidence.RoleDecision, DecisionID: log.DecisionID, Method: "GET", Path: path, RequestID: request,
				Verdict: &evidence.Verdict{Engine: "opa", Decision: evidence.Allow, Enforced: true, DecisionID: log.DecisionID},
				TraceID: trace, ParentSpanID: out, From: m.party(from, port, false), To: m.party(to, 8080, false), // of its input
			}
			after := m.flush()
			if m.chance(pLateDecision) {
				after = 5*time.Minute + m.upTo(5*time.Minute)
			}
			m.reported(d, to, began, began, after, a)
		}
		m.reported(log, to, began, now, m.flush(), a)
		if sampled {
			span := evidence.Evidence{
				Source: evidence.SourceProxySpan, Role: evidence.RoleCallee, SpanKind: evidence.SpanServer, TraceID: trace, SpanID: in, ParentSpanID: out,
				Method: "GET", Path: path, RequestID: request, Reporter: evidence.Reporter{Node: to.reporter},
			}
			m.reported(span, to, began, now, m.flush(), a)
			span.Source, span.SpanID, span.ParentSpanID, span.Reporter = evidence.SourceSpan, app, in, evidence.Reporter{}
			m.reported(span, to, began, now, m.flush(), a)
		}
		now += 300 * time.Microsecond
	}
	m.reported(evidence.Evidence{
		Source: evidence.SourceEnvoyALS, Role: evidence.RoleCaller, TraceID: trace, SpanID: out, RequestID: request,
		Method: "GET", Path: path, Status: 200, ResendCount: tries - 1, From: m.party(from, port, false), To: m.party(to, 8080, false),
		StreamID: fmt.Sprint("out", m.rnd.Uint64()), Reporter: evidence.Reporter{Node: from.reporter},
	}, from, start, now, m.flush(), all...)
	if sampled {
		m.reported(evidence.Evidence{
			Source: evidence.SourceProxySpan, Role: evidence.RoleCaller, SpanKind: evidence.SpanClient, TraceID: trace, SpanID: out, ParentSpanID: parent,
			Method: "GET", Path: path, RequestID: request, Reporter: evidence.Reporter{Node: from.reporter},
		}, from, start, now, m.flush(), all...)
	}
	return now
}

// tunnel is a connection in ambient mode: both nodes' proxies report it, the far
// one with the tunnel's source port.
func (m *mesh) tunnel(now time.Duration) {
	from := m.podOf(m.rnd.IntN(workloads/10), now) // few, so that they pool
	to := m.podOf((from.workload+1+m.rnd.IntN(2))%(workloads/10), now)
	a := new(action)
	end := now + m.upTo(5*time.Second)
	e := evidence.Evidence{Source: evidence.SourceZtunnel, Event: evidence.EventConnection, Protocol: "tcp"}
	e.From, e.To = m.party(from, from.port(), true), m.party(to, 3306, true)
	e.From.Workload = evidence.Workload{PodName: from.name, Namespace: from.namespace}
	e.To.Workload = evidence.Workload{PodName: to.name, Namespace: to.namespace}
	e.Role = evidence.RoleCaller
	m.reported(e, from, now, end, m.flush(), a)
	e.Role, e.From.Port = evidence.RoleCallee, from.port()
	m.reported(e, to, now+m.upTo(3*time.Millisecond), end, m.flush(), a)
}

// score counts pairs of pieces that are in one record, and those that belong
// into one.
type score struct{ made, right, real, unmarkedWrong, unmarkedMissing int }

func (s score) String() string {
	return fmt.Sprintf("precision %.5f, recall %.5f of %d joins", s.precision(), s.recall(), s.real)
}
func (s score) precision() float64 { return float64(s.right) / float64(max(s.made, 1)) }
func (s score) recall() float64    { return float64(s.right) / float64(max(s.real, 1)) }

type pairing struct{ a, b evidence.ID }

func pairsOf(ids []evidence.ID, f func(pairing)) {
	for i, a := range ids {
		for _, b := range ids[i+1:] {
			if string(a[:]) > string(b[:]) {
				f(pairing{b, a})
			} else {
				f(pairing{a, b})
			}
		}
	}
}

// TestAccuracy compares what is joined with what belongs together. Where a trace
// or request id exists nearly all must be right, and what is wrong or missing
// must be marked, all but one of ten thousand.
func TestAccuracy(t *testing.T) {
	m := &mesh{rnd: rand.New(rand.NewPCG(*seed, 1)), arrives: map[time.Duration][]evidence.Evidence{}, truth: map[evidence.ID][]*action{}}
	c := correlate.New(correlate.Config{
		Window: 10 * time.Second, LateWindow: 10 * time.Minute, Settle: time.Second, ClockSkew: 2 * time.Second,
		MaxPending: 1 << 24, MaxPendingBytes: 8 << 30, ExpectCallee: true,
	})
	type folded struct {
		cites  []evidence.ID
		marked bool // ambiguous, or partial and never completed
	}
	records := map[correlate.RecordID]*folded{}
	states := map[string]int{}
	collect := func() {
		_, _ = c.Deliver(1000, func(batch []*correlate.Record) error {
			for _, r := range batch {
				id := r.ID
				if r.EventName == semconv.EventAmendment {
					id = r.Amends
				}
				f := records[id]
				if f == nil {
					f = new(folded)
					records[id] = f
				}
				f.marked = f.marked || r.State != correlate.Complete
				for _, a := range r.Attestations {
					f.cites = append(f.cites, a.ID)
				}
				states[fmt.Sprint(r.EventName, " ", r.State, " ", r.Join.Method)]++
			}
			return nil
		})
	}
	for now := time.Duration(0); now < *simulated+12*time.Minute; now += 100 * time.Millisecond {
		if now < *simulated {
			for range treesEach / 10 {
				m.tree(now + m.upTo(100*time.Millisecond))
			}
			for range tunnelsEach / 10 {
				m.tunnel(now + m.upTo(100*time.Millisecond))
			}
		}
		batch := m.arrives[now]
		delete(m.arrives, now)
		m.rnd.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })
		c.Add(epoch.Add(now), batch)
		collect()
	}
	c.Flush()
	collect()

	members := map[*action][]evidence.ID{}
	for id, of := range m.truth {
		for _, a := range of {
			members[a] = append(members[a], id)
		}
	}
	var all, identified score
	count := func(identifiable bool, f func(*score)) {
		f(&all)
		if identifiable {
			f(&identified)
		}
	}
	real := map[pairing]bool{} // whether it has an id
	for a, ids := range members {
		pairsOf(ids, func(p pairing) { real[p] = a.identified })
	}
	made := map[pairing]bool{}
	marked := map[evidence.ID]bool{}
	for _, f := range records {
		pairsOf(f.cites, func(p pairing) {
			_, right := real[p]
			if !made[p] {
				made[p] = true
				count(m.truth[p.a][0].identified, func(s *score) {
					s.made++
					if right {
						s.right++
					}
				})
			}
			if !right && !f.marked {
				count(m.truth[p.a][0].identified, func(s *score) { s.unmarkedWrong++ })
			}
		})
		for _, id := range f.cites {
			marked[id] = marked[id] || f.marked
		}
	}
	for p, id := range real {
		count(id, func(s *score) {
			s.real++
			if !made[p] && !marked[p.a] && !marked[p.b] {
				s.unmarkedMissing++
			}
		})
	}
	t.Logf("%v of a mesh, %d pieces of evidence about %d actions", *simulated, len(m.truth), len(members))
	t.Log("all:", all)
	t.Log("with a trace or request id:", identified)
	t.Logf("wrong or missing and not marked: %d and %d", all.unmarkedWrong, all.unmarkedMissing)
	for s, n := range states {
		t.Log(n, s)
	}
	if uncited := len(m.truth) - len(marked); uncited != 0 {
		t.Errorf("%d pieces are in no record", uncited)
	}
	if identified.precision() < 0.999 || identified.recall() < 0.999 {
		t.Errorf("with a trace or request id: %v", identified)
	}
	// Where one report of each of two alike connections is lost, nothing tells
	// that the other two do not belong together.
	if unmarked := all.unmarkedWrong + all.unmarkedMissing; unmarked*10_000 > all.real {
		t.Errorf("%d wrong or missing joins are not marked ambiguous or partial", unmarked)
	}
}
