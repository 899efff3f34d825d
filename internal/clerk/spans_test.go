package clerk

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/meshaudit/meshaudit/internal/semconv"
)

// counter counts.
type counter struct {
	noop.Int64Counter
	n atomic.Int64
}

func (c *counter) Add(_ context.Context, n int64, _ ...metric.AddOption) { c.n.Add(n) }

// spansOf is one request with spans of kind; the ids go on from first.
func spansOf(first, n int, kind ptrace.SpanKind) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.SetSchemaUrl("https://example.org/resource")
	rs.Resource().Attributes().PutStr("service.name", "b")
	ss := rs.ScopeSpans().AppendEmpty()
	ss.SetSchemaUrl("https://example.org/scope")
	ss.Scope().SetName("http")
	for i := range n {
		s := ss.Spans().AppendEmpty()
		s.SetTraceID(pcommon.TraceID{1})
		s.SetSpanID(pcommon.SpanID{byte((first + i) >> 8), byte(first + i), 1})
		s.SetKind(kind)
		s.SetName(strings.Repeat("n", 500))
		s.Attributes().PutStr("http.request.method", "GET")
		s.Attributes().PutStr("url.path", "/x")
		s.SetStartTimestamp(pcommon.NewTimestampFromTime(time.Now()))
	}
	return td
}

// holding is a clerk that holds spans, and what becomes of them.
type holding struct {
	*Clerk
	dropped counter

	mu     sync.Mutex
	out    []ptrace.Traces
	refuse error
}

func (h *holding) refusing(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refuse = err
}

func hold(t *testing.T, maxBytes int, permanent error) *holding {
	h := &holding{}
	c, err := newClerk(new(observed), nil)
	require.NoError(t, err)
	c.telemetry.DroppedSpans = &h.dropped
	c.permanent = func(err error) bool { return err == permanent }
	h.Clerk = c
	require.True(t, c.Record(t.Context(), func(context.Context, plog.Logs) error { return nil }, nil))
	c.HoldSpans(func(_ context.Context, td ptrace.Traces) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.refuse == nil {
			h.out = append(h.out, td)
		}
		return h.refuse
	}, maxBytes)
	return h
}

func (h *holding) send(t *testing.T, td ptrace.Traces) {
	require.NoError(t, h.Traces(t.Context(), nil, td, func(_ context.Context, td ptrace.Traces) error {
		td.ResourceSpans().RemoveIf(func(ptrace.ResourceSpans) bool { return true }) // who takes it may do that
		return nil
	}))
}

func (h *holding) close(t *testing.T) {
	require.NoError(t, h.ReleaseSpans(t.Context()))
	require.NoError(t, h.Stop(t.Context()))
	h.Close()
	require.Zero(t, h.HeldSpansBytes())
}

func (h *holding) all() []ptrace.Traces {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.out)
}

func (h *holding) count() (n int) {
	for _, td := range h.all() {
		n += td.SpanCount()
	}
	return n
}

// At half of the bound the spans that wait longest go, none is dropped, and all
// keep what they came under.
func TestHeldSpansLeaveEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hold(t, 100_000, nil)
		for i := range 20 {
			h.send(t, spansOf(10*i, 10, ptrace.SpanKindClient)) // a caller's alone: waits the whole window
			synctest.Wait()
			require.LessOrEqual(t, h.HeldSpansBytes(), int64(75_000))
		}
		require.Greater(t, h.count(), 100)
		require.Less(t, h.count(), 200)
		time.Sleep(20 * time.Second)
		require.Equal(t, 200, h.count())
		require.Zero(t, h.dropped.n.Load())
		require.Zero(t, h.HeldSpansBytes())
		next := byte(0)
		for _, td := range h.all() {
			for _, rs := range td.ResourceSpans().All() {
				require.Equal(t, "https://example.org/resource", rs.SchemaUrl())
				require.Equal(t, map[string]any{"service.name": "b"}, rs.Resource().Attributes().AsRaw())
				ss := rs.ScopeSpans().At(0)
				require.Equal(t, "https://example.org/scope", ss.SchemaUrl())
				require.Equal(t, "http", ss.Scope().Name())
				for _, s := range ss.Spans().All() {
					require.Equal(t, next, s.SpanID()[1], "in order, each once")
					next++
				}
			}
		}
		h.close(t)
	})
}

// What is refused is offered again within the bound; beyond it what was offered
// longest goes, counted.
func TestRefusedSpans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		never := errors.New("never")
		h := hold(t, 100_000, never)
		h.refusing(errors.New("busy"))
		h.send(t, spansOf(0, 50, ptrace.SpanKindInternal)) // nothing to wait for
		time.Sleep(time.Minute)
		require.Zero(t, h.dropped.n.Load())
		h.send(t, spansOf(50, 200, ptrace.SpanKindInternal))
		time.Sleep(time.Minute)
		require.LessOrEqual(t, h.HeldSpansBytes(), int64(100_000))
		require.Greater(t, h.dropped.n.Load(), int64(100))
		h.refusing(nil)
		time.Sleep(time.Minute)
		require.EqualValues(t, 250, int64(h.count())+h.dropped.n.Load())
		out := h.all()
		last := out[len(out)-1].ResourceSpans()
		spans := last.At(last.Len() - 1).ScopeSpans().At(0).Spans()
		require.Equal(t, pcommon.SpanID{0, 249, 1}, spans.At(spans.Len()-1).SpanID(), "the newest are there")

		before := h.dropped.n.Load()
		h.refusing(never)
		h.send(t, spansOf(300, 5, ptrace.SpanKindInternal))
		time.Sleep(time.Second)
		require.Equal(t, before+5, h.dropped.n.Load())
		require.Zero(t, h.HeldSpansBytes())

		// At the end it is tried for as long as there is time.
		h.refusing(errors.New("busy"))
		h.send(t, spansOf(400, 5, ptrace.SpanKindServer))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		require.ErrorContains(t, h.ReleaseSpans(ctx), "5 spans are dropped, as evidence they are sealed: busy")
		require.Equal(t, before+10, h.dropped.n.Load())
		h.close(t)
	})
}

// A span that is sent again while it waits goes once; what was refused as
// evidence not at all.
func TestHeldSpansGoOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hold(t, 100_000, nil)
		td := spansOf(0, 1, ptrace.SpanKindServer)
		refused := errors.New("disk full")
		require.ErrorIs(t, h.Traces(t.Context(), nil, td, func(context.Context, ptrace.Traces) error { return refused }), refused)
		require.Zero(t, h.HeldSpansBytes())
		for range 2 {
			td := spansOf(0, 1, ptrace.SpanKindServer)
			h.send(t, td)
		}
		time.Sleep(3 * time.Second)
		require.Equal(t, 1, h.count())
		v, ok := h.all()[0].ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes().Get(semconv.CallRecordID)
		require.True(t, ok)
		require.Len(t, v.Str(), 64)
		h.close(t)
	})
}
