package meshauditprocessor

import (
	"fmt"
	"hash/fnv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/meshaudit/meshaudit/internal/clerk"
	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/processor/meshauditprocessor/internal/metadata"
)

// gateways are collectors behind a balancer that routes by attribute.
type gateways struct {
	all  []*pair
	live int // the first so many take evidence
}

// to picks the highest of all hashes, so that a resize moves few routes.
func (g *gateways) to(t *testing.T, m pcommon.Map) *pair {
	v, ok := m.Get(semconv.EvidenceRoute)
	require.True(t, ok, "all evidence has a route")
	var best *pair
	most := uint64(0)
	for i, p := range g.all[:g.live] {
		h := fnv.New64a()
		fmt.Fprint(h, i, v.Str())
		if x := h.Sum64() * 0x9e3779b97f4a7c15; best == nil || x > most {
			best, most = p, x
		}
	}
	return best
}

func (g *gateways) logs(t *testing.T, ld plog.Logs) {
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				one := plog.NewLogs()
				to := one.ResourceLogs().AppendEmpty()
				rl.Resource().CopyTo(to.Resource())
				lr.CopyTo(to.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty())
				require.NoError(t, g.to(t, lr.Attributes()).logs.ConsumeLogs(t.Context(), one))
			}
		}
	}
}

func (g *gateways) traces(t *testing.T, td ptrace.Traces) {
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				one := ptrace.NewTraces()
				to := one.ResourceSpans().AppendEmpty()
				rs.Resource().CopyTo(to.Resource())
				s.CopyTo(to.ScopeSpans().AppendEmpty().Spans().AppendEmpty())
				require.NoError(t, g.to(t, s.Attributes()).traces.ConsumeTraces(t.Context(), one))
			}
		}
	}
}

// An agent tags; three gateways correlate, and in the midst of a window a
// fourth joins: every piece is cited, and every record is there once.
func TestGatewaysAreResized(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const actions = 200
		g := &gateways{live: 3}
		for range 4 {
			p := newPair(t, createDefaultConfig())
			p.start(t)
			g.all = append(g.all, p)
		}
		cfg := createDefaultConfig()
		cfg.Mode = modeTag
		agent := newPair(t, cfg)
		agent.start(t)

		server := func(i int) ptrace.Traces {
			td := ptrace.NewTraces()
			rs := td.ResourceSpans().AppendEmpty()
			rs.Resource().Attributes().PutStr("service.name", "b")
			s := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
			s.SetTraceID(pcommon.TraceID{byte(i), 1})
			s.SetSpanID(pcommon.SpanID{byte(i), 3})
			s.SetParentSpanID(pcommon.SpanID{byte(i), 2}) // the callee's proxy
			s.SetKind(ptrace.SpanKindServer)
			s.Attributes().PutStr("http.request.method", "GET")
			s.Attributes().PutStr("url.path", "/reviews/0")
			s.SetStartTimestamp(pcommon.NewTimestampFromTime(time.Now()))
			return td
		}
		report := func(i int, role evidence.Role) plog.Logs {
			return logOf(calleeReport(fmt.Sprint(i, role), func(e *evidence.Evidence) {
				e.TraceID, e.SpanID, e.Role = evidence.TraceID{byte(i), 1}, evidence.SpanID{byte(i), 1}, role
				if role == evidence.RoleCallee {
					e.SpanID, e.ParentSpanID = evidence.SpanID{byte(i), 2}, e.SpanID
				}
			}))
		}
		for i := range actions {
			require.NoError(t, agent.logs.ConsumeLogs(ours(t.Context()), report(i, evidence.RoleCaller)))
		}
		forward := func() {
			for _, ld := range agent.sink.AllLogs() {
				g.logs(t, ld)
			}
			for _, td := range agent.sink.traces.AllTraces() {
				g.traces(t, td)
			}
		}
		forward()
		tagged := agent.sink.evidence()
		require.Len(t, tagged, actions)
		agent.sink.LogsSink.Reset()
		agent.sink.traces.Reset()
		time.Sleep(3 * time.Second)

		g.live = 4
		for i := range actions {
			require.NoError(t, agent.logs.ConsumeLogs(ours(t.Context()), report(i, evidence.RoleCallee)))
			require.NoError(t, agent.traces.ConsumeTraces(t.Context(), server(i)))
		}
		forward()
		tagged = append(tagged, agent.sink.evidence()...)
		agent.stop(t)
		require.Empty(t, agent.sink.records(), "an agent makes no records")
		time.Sleep(time.Minute)

		cited, ids := map[string]bool{}, map[string]bool{}
		whole := 0
		for n, p := range g.all {
			p.stop(t)
			require.NotEmpty(t, p.sink.records(), "gateway %d", n)
			for _, lr := range p.sink.records() {
				id := attr(t, lr, semconv.AuditRecordID)
				require.False(t, ids[id], "record ids are unique over all gateways")
				ids[id] = true
				all, _ := lr.Attributes().Get(semconv.MeshAttestations)
				for _, a := range all.Slice().All() {
					v, _ := a.Map().Get(semconv.AttestationID)
					cited[v.Str()] = true
				}
				if all.Slice().Len() == 3 {
					whole++
				}
			}
		}
		for _, lr := range tagged {
			require.True(t, cited[attr(t, lr, semconv.EvidenceID)], "a gateway names evidence as the agent did, and cites it")
		}
		require.Len(t, cited, 3*actions)
		t.Log(whole, "of", actions, "actions came to one gateway whole")
		require.Greater(t, whole, actions*6/10)
		require.Less(t, whole, actions, "the resize moved some")
	})
}

// A tagging processor needs no logs pipeline, and may be in several.
func TestTagNeedsNoRecordsPipeline(t *testing.T) {
	cfg := createDefaultConfig()
	cfg.Mode = modeTag
	set := processortest.NewNopSettings(metadata.Type)
	set.ID = testID
	f := NewFactory()
	traces, err := f.CreateTraces(t.Context(), set, cfg, consumertest.NewNop())
	require.NoError(t, err)
	require.NoError(t, traces.Start(t.Context(), componenttest.NewNopHost()))
	for range 2 {
		logs, err := f.CreateLogs(t.Context(), set, cfg, consumertest.NewNop())
		require.NoError(t, err)
		require.NoError(t, logs.Start(t.Context(), componenttest.NewNopHost()))
		require.NoError(t, logs.Shutdown(t.Context()))
	}
	require.NoError(t, traces.Shutdown(t.Context()))

	cfg.RecoverFrom = clerk.RecoverConfig{Directory: "/x", Origin: "o"}
	require.ErrorContains(t, cfg.Validate(), "`recover_from` belongs to the gateways")
}
