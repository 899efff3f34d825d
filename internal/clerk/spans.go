package clerk

import (
	"container/list"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/zap"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// passing is one span of a request, and what it stands under.
type passing struct {
	rs         ptrace.ResourceSpans
	ss         ptrace.ScopeSpans
	span       ptrace.Span
	id         evidence.ID
	node       correlate.Node
	correlated bool
}

func (in *intake) pass(rs ptrace.ResourceSpans, ss ptrace.ScopeSpans, s ptrace.Span, e *evidence.Evidence, correlated bool) {
	if in.enrich || in.holder.Load() != nil {
		in.spans = append(in.spans, passing{rs, ss, s, e.ID, correlate.Node{
			Trace: e.TraceID, Span: e.SpanID, Parent: e.ParentSpanID,
			Callee: e.Role == evidence.RoleCallee, Proxy: e.Source == evidence.SourceProxySpan,
		}, correlated})
	}
}

// stripCall takes away what only the clerk may say, on what leaves.
func stripCall(m pcommon.Map) {
	m.RemoveIf(func(name string, _ pcommon.Value) bool { return strings.HasPrefix(name, semconv.CallPrefix) })
}

// writeCall writes on a span what is known of its call, if anything is.
func writeCall(m pcommon.Map, k *correlate.Known) bool {
	if *k == (correlate.Known{}) {
		return false
	}
	w := writer{m}
	if p := k.Source; !p.ID.IsZero() {
		w.PutStr(semconv.CallSourceSPIFFEID, p.ID.String())
		w.PutStr(semconv.CallSourceIdentityProof, p.Proof.String())
	}
	if p := k.Destination; !p.ID.IsZero() {
		w.PutStr(semconv.CallDestinationSPIFFEID, p.ID.String())
		w.PutStr(semconv.CallDestinationIdentityProof, p.Proof.String())
	}
	w.str(semconv.CallAuthzDecision, string(k.Decided))
	if k.Record != (correlate.RecordID{}) {
		w.PutStr(semconv.CallRecordID, k.Record.String())
	}
	return true
}

// enriched writes on the spans what is known already of their calls, and says
// on how many. Nothing is waited for.
func (in *intake) enriched() (n int64) {
	if !in.enrich || !in.recording.Load() {
		return 0
	}
	nodes, of := make([]correlate.Node, 0, len(in.spans)), make([]ptrace.Span, 0, len(in.spans))
	for i := range in.spans {
		if p := &in.spans[i]; p.correlated {
			nodes, of = append(nodes, p.node), append(of, p.span)
		}
	}
	if len(nodes) == 0 {
		return 0
	}
	for i, k := range in.correlator.Known(nodes) {
		if writeCall(of[i].Attributes(), &k) {
			n++
		}
	}
	return n
}

// A group is what spans of one request stand under.
type group struct {
	spans ptrace.ResourceSpans // none; a resource, and one scope
	bytes int
	held  int // spans
}

// held is a span that waits: for the record of its call, or to be taken.
type held struct {
	group *group
	id    evidence.ID
	node  correlate.Node
	waits bool   // for a record
	span  []byte // OTLP
	due   time.Time
	known correlate.Known
}

// heldBytes is what a span costs beyond its bytes: the struct, its place in a list
// and in a map; groupBytes is a group's share, and groupFactor how much larger
// its attributes are than as bytes.
const (
	heldBytes   = 448
	groupBytes  = 512
	groupFactor = 3
)

func (s *held) bytes() int { return heldBytes + len(s.span) }

// copies copies the spans as they are sealed.
func (in *intake) copies() []*held {
	out := make([]*held, 0, len(in.spans))
	var marshaler ptrace.ProtoMarshaler
	one := ptrace.NewTraces()
	spans := one.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans()
	var g *group
	for i := range in.spans {
		p := &in.spans[i]
		if g == nil || p.ss != in.spans[i-1].ss {
			under := ptrace.NewTraces()
			g = &group{spans: under.ResourceSpans().AppendEmpty()}
			p.rs.Resource().CopyTo(g.spans.Resource())
			g.spans.SetSchemaUrl(p.rs.SchemaUrl())
			ss := g.spans.ScopeSpans().AppendEmpty()
			p.ss.Scope().CopyTo(ss.Scope())
			ss.SetSchemaUrl(p.ss.SchemaUrl())
			g.bytes = groupBytes + groupFactor*marshaler.TracesSize(under)
		}
		p.span.CopyTo(spans.AppendEmpty())
		b, err := marshaler.MarshalTraces(one)
		spans.RemoveIf(func(ptrace.Span) bool { return true })
		if err != nil {
			continue // what can't be written can't leave either
		}
		out = append(out, &held{group: g, id: p.id, node: p.node, waits: p.correlated, span: b})
	}
	return out
}

// holder keeps copies of spans until the record of their call has left, and
// hands them on with what that says. Two goroutines never hand on at once: that
// which runs, and, when it has ended, that which stops it.
type holder struct {
	*Clerk
	delivery
	offer func(context.Context, ptrace.Traces) error
	max   int
	wait  time.Duration // for a record
	came  chan struct{} // tells the delivery that spans are ready

	mu      sync.Mutex
	waiting map[evidence.ID]*list.Element
	order   list.List // of *held that wait, by due
	going   list.List // of *held, to go
	// bytes is all that is held, waits what of it waits for records.
	bytes, waits int
}

// HoldSpans begins to hold a copy of each span that Traces takes, until
// ReleaseSpans: until the record of its call has left, or that should have
// happened. Then it goes to out, with what is known of the call. At half of
// maxBytes the spans that wait longest go without waiting further; beyond
// maxBytes those are dropped that out refuses, or has not taken, for longest.
func (c *Clerk) HoldSpans(out func(context.Context, ptrace.Traces) error, maxBytes int) {
	h := &holder{
		Clerk: c, offer: out, max: maxBytes, wait: c.cfg.Window + c.cfg.Settle + time.Second,
		came: make(chan struct{}, 1), waiting: make(map[evidence.ID]*list.Element),
	}
	h.delivery = delivery{
		wake: h.came, atOnce: 1, ready: h.isReady, before: h.release, deliver: h.handOn,
		refused: func(err error) {
			c.logger.Warn("spans are refused; they are kept and offered again, as far as there is room", zap.Error(err))
		},
	}
	h.start()
	c.holder.Store(h)
}

// ReleaseSpans lets all spans that are held go, as long as ctx allows; then none
// is held any more.
func (c *Clerk) ReleaseSpans(ctx context.Context) error {
	h := c.holder.Swap(nil)
	if h == nil {
		return nil
	}
	h.end(ctx)
	return h.stop(ctx)
}

// HeldSpansBytes is the memory of what is held.
func (c *Clerk) HeldSpansBytes() int64 {
	h := c.holder.Load()
	if h == nil {
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return int64(h.bytes)
}

// hold takes copies of spans whose evidence is sealed.
func (h *holder) hold(copies []*held, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range copies {
		if h.waiting[s.id] != nil {
			continue // sent again
		}
		h.bytes += s.bytes()
		if s.group.held++; s.group.held == 1 {
			h.bytes += s.group.bytes
		}
		if !s.waits {
			h.going.PushBack(s)
			continue
		}
		s.due = now.Add(h.wait)
		h.waits += s.bytes()
		h.waiting[s.id] = h.order.PushBack(s)
	}
	for h.waits > h.max/2 {
		h.leave(h.order.Front(), correlate.Known{})
	}
	h.bound()
	h.wakeUp()
}

// leave makes a span that waits ready to go.
func (h *holder) leave(e *list.Element, k correlate.Known) {
	s := h.order.Remove(e).(*held)
	delete(h.waiting, s.id)
	h.waits -= s.bytes()
	s.waits, s.known = false, k
	h.going.PushBack(s)
}

// bound drops what is ready for longest while there is too much.
func (h *holder) bound() {
	n := int64(0)
	for ; h.bytes > h.max && h.going.Len() > 0; n++ {
		h.gone(h.going.Remove(h.going.Front()).(*held))
	}
	if n > 0 {
		h.telemetry.DroppedSpans.Add(context.Background(), n)
	}
}

// gone takes what a span costs off.
func (h *holder) gone(s *held) {
	h.bytes -= s.bytes()
	if s.group.held--; s.group.held == 0 {
		h.bytes -= s.group.bytes
	}
}

func (h *holder) wakeUp() {
	select {
	case h.came <- struct{}{}:
	default:
	}
}

// left lets the spans go that records cite which have left.
func (h *holder) left(records []*correlate.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var late []*held // whose call's record may say more than the amendment
	var nodes []correlate.Node
	for _, r := range records {
		k := correlate.Known{Record: r.ID, Source: provenBy(&r.Source), Destination: provenBy(&r.Destination)}
		if r.Verdict != nil {
			k.Decided = r.Verdict.Decision
		}
		amends := r.Amends != (correlate.RecordID{})
		if amends {
			k.Record = r.Amends
		}
		for i := range r.Attestations {
			e := h.waiting[r.Attestations[i].ID]
			if e == nil {
				continue
			}
			if s := e.Value.(*held); amends && k.Decided == "" {
				late, nodes = append(late, s), append(nodes, s.node)
			}
			h.leave(e, k)
		}
	}
	if len(late) > 0 {
		for i, k := range h.correlator.Known(nodes) {
			late[i].known.Decided = k.Decided
		}
	}
	h.wakeUp()
}

func provenBy(p *correlate.Party) correlate.Proven {
	if p.Proof <= evidence.ProofClaimed {
		return correlate.Proven{}
	}
	return correlate.Proven{ID: p.ID, Proof: p.Proof}
}

// release lets the spans go whose time is over, with what is known by then.
func (h *holder) release(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var over []*list.Element
	var nodes []correlate.Node
	for e := h.order.Front(); e != nil && !e.Value.(*held).due.After(now); e = e.Next() {
		over, nodes = append(over, e), append(nodes, e.Value.(*held).node)
	}
	if len(over) == 0 {
		return
	}
	known := h.correlator.Known(nodes)
	for i, e := range over {
		var k correlate.Known
		if known != nil {
			k = known[i]
		}
		h.leave(e, k)
	}
}

// stop hands all on that is held.
func (h *holder) stop(ctx context.Context) error {
	h.release(time.Now().Add(h.wait))
	err := h.deliverAll(ctx, h.handOn)
	if err == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.telemetry.DroppedSpans.Add(context.Background(), int64(h.going.Len()))
	return fmt.Errorf("%d spans are dropped, as evidence they are sealed: %w", h.going.Len(), err)
}

func (h *holder) isReady() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.going.Len()
}

// handOn hands on what is ready. What will never be taken is dropped.
func (h *holder) handOn(ctx context.Context) error {
	for {
		batch := h.take()
		if len(batch) == 0 {
			return nil
		}
		td, enriched := tracesOf(batch)
		err := h.offer(ctx, td)
		switch {
		case err == nil:
			h.telemetry.EnrichedSpans.Add(ctx, enriched)
		case h.permanent(err):
			h.telemetry.DroppedSpans.Add(ctx, int64(len(batch)))
			h.logger.Error("spans are refused for good and dropped; as evidence they are sealed", zap.Error(err))
		default:
			h.putBack(batch)
			return err
		}
		h.mu.Lock()
		for _, s := range batch {
			h.gone(s)
		}
		h.mu.Unlock()
	}
}

func (h *holder) take() (batch []*held) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(batch) < batchSize && h.going.Len() > 0 {
		batch = append(batch, h.going.Remove(h.going.Front()).(*held))
	}
	return batch
}

func (h *holder) putBack(batch []*held) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := len(batch) - 1; i >= 0; i-- {
		h.going.PushFront(batch[i])
	}
	h.bound()
}

// tracesOf makes one request of spans, under what they came under.
func tracesOf(batch []*held) (td ptrace.Traces, enriched int64) {
	td = ptrace.NewTraces()
	var unmarshaler ptrace.ProtoUnmarshaler
	under := make(map[*group]ptrace.SpanSlice)
	for _, s := range batch {
		spans, ok := under[s.group]
		if !ok {
			rs := td.ResourceSpans().AppendEmpty()
			s.group.spans.CopyTo(rs)
			spans = rs.ScopeSpans().At(0).Spans()
			under[s.group] = spans
		}
		one, err := unmarshaler.UnmarshalTraces(s.span)
		if err != nil {
			panic(err) // we marshalled it
		}
		span := spans.AppendEmpty()
		one.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).MoveTo(span)
		if writeCall(span.Attributes(), &s.known) {
			enriched++
		}
	}
	return td, enriched
}
