package meshauditprocessor

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processortest"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/meshaudit/meshaudit/internal/clerk"
	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/otlp"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/processor/meshauditprocessor/internal/metadata"
	"github.com/meshaudit/meshaudit/processor/meshauditprocessor/internal/metadatatest"
	"github.com/meshaudit/meshaudit/seal"
)

// sink is a next consumer that can refuse.
type sink struct {
	consumertest.LogsSink
	traces consumertest.TracesSink

	mu     sync.Mutex
	refuse func(plog.Logs) error // of logs
	deny   error                 // of traces
}

func (s *sink) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	s.mu.Lock()
	refuse := s.refuse
	s.mu.Unlock()
	if refuse != nil {
		if err := refuse(ld); err != nil {
			return err
		}
	}
	return s.LogsSink.ConsumeLogs(ctx, ld)
}

func (s *sink) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	s.mu.Lock()
	deny := s.deny
	s.mu.Unlock()
	if deny != nil {
		return deny
	}
	return s.traces.ConsumeTraces(ctx, td)
}

func (s *sink) refusing(f func(plog.Logs) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = f
}

// records are the audit records that came out, evidence and findings not
// included.
func (s *sink) records() []plog.LogRecord {
	return slices.DeleteFunc(s.those(true), func(lr plog.LogRecord) bool { return lr.EventName() == semconv.EventFinding })
}

func (s *sink) findings() []plog.LogRecord {
	return slices.DeleteFunc(s.those(true), func(lr plog.LogRecord) bool { return lr.EventName() != semconv.EventFinding })
}

func (s *sink) evidence() []plog.LogRecord { return s.those(false) }

func (s *sink) those(records bool) []plog.LogRecord {
	var out []plog.LogRecord
	for _, ld := range s.AllLogs() {
		for _, rl := range ld.ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, lr := range sl.LogRecords().All() {
					if _, wire := lr.Attributes().Get(semconv.EvidenceID); wire != records {
						out = append(out, lr)
					}
				}
			}
		}
	}
	return out
}

type pair struct {
	sink   *sink
	cfg    *Config
	traces processor.Traces
	logs   processor.Logs
}

func newPair(t *testing.T, cfg *Config) *pair {
	t.Helper()
	return newPairWith(t, cfg, processortest.NewNopSettings(metadata.Type))
}

func newPairWith(t *testing.T, cfg *Config, set processor.Settings) *pair {
	t.Helper()
	p := &pair{sink: new(sink), cfg: cfg}
	f := NewFactory()
	set.ID = testID
	var err error
	p.traces, err = f.CreateTraces(t.Context(), set, cfg, p.sink)
	require.NoError(t, err)
	p.logs, err = f.CreateLogs(t.Context(), set, cfg, p.sink)
	require.NoError(t, err)
	return p
}

func (p *pair) start(t *testing.T) {
	t.Helper()
	require.NoError(t, p.traces.Start(t.Context(), componenttest.NewNopHost()))
	require.NoError(t, p.logs.Start(t.Context(), componenttest.NewNopHost()))
}

func (p *pair) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, p.traces.Shutdown(t.Context()))
	require.NoError(t, p.logs.Shutdown(t.Context()))
}

func attr(t *testing.T, lr plog.LogRecord, name string) string {
	t.Helper()
	v, ok := lr.Attributes().Get(name)
	if !ok {
		return ""
	}
	return v.AsString()
}

// logOf is what one of our receivers makes of evidence.
func logOf(all ...evidence.Evidence) plog.Logs {
	ld := plog.NewLogs()
	sl := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty()
	for i := range all {
		otlp.Encode(&all[i], sl.LogRecords().AppendEmpty())
	}
	return ld
}

func mustID(s string) evidence.Identity {
	return evidence.Identity{ID: spiffeid.RequireFromString(s), Proof: evidence.ProofMTLSSAN, From: "tls.peer.san"}
}

func calleeReport(position string, change func(*evidence.Evidence)) evidence.Evidence {
	e := evidence.Evidence{
		Source: evidence.SourceEnvoyALS, Role: evidence.RoleCallee, Final: true, Position: position,
		Start: time.Now().UnixNano(), End: time.Now().Add(time.Millisecond).UnixNano(),
		Method: "GET", Path: "/reviews/0", Status: 200,
		From: evidence.Party{Identities: []evidence.Identity{mustID("spiffe://example.org/a")}},
		To:   evidence.Party{Identities: []evidence.Identity{mustID("spiffe://example.org/b")}, Workload: evidence.Workload{Name: "b", Version: "v2"}},
	}
	if change != nil {
		change(&e)
	}
	return e
}

func decisionReport(id string) evidence.Evidence {
	return evidence.Evidence{
		Source: evidence.SourceOPA, Role: evidence.RoleDecision, Final: true, Position: id, DecisionID: id,
		Start:   time.Now().UnixNano(),
		Verdict: &evidence.Verdict{Engine: "opa", Decision: evidence.Deny, Enforced: true, PolicyID: "mesh/allow", PolicyRevision: "7", DecisionID: id},
	}
}

// ours is the context of a receiver of this process.
func ours(ctx context.Context) context.Context {
	return client.NewContext(ctx, client.Info{Auth: evidence.Reporter{
		SPIFFEID: spiffeid.RequireFromString("spiffe://example.org/proxy"), Authenticated: true, Address: "10.0.0.9", CertSHA256: "ab",
	}})
}

func TestRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := createDefaultConfig()
		cfg.Cluster = "edge-0"
		p := newPair(t, cfg)
		p.start(t)
		start := time.Now()
		require.NoError(t, p.logs.ConsumeLogs(ours(t.Context()), logOf(
			calleeReport("1", func(e *evidence.Evidence) {
				e.DecisionID = "d"
				e.Status = 403
				e.TLS = evidence.TLS{Known: true, Established: true, Mutual: true, Version: "1.3"}
				e.From.Address, e.PeerAddress, e.PeerPort = "203.0.113.1", "10.0.0.1", 4000
			}),
			decisionReport("d"),
		)))
		time.Sleep(2 * time.Second) // in the test's own time
		rs := p.sink.records()
		require.Len(t, rs, 1)
		r := rs[0]
		assert.Equal(t, semconv.EventRequest, r.EventName())
		assert.Equal(t, pcommon.NewTimestampFromTime(start), r.Timestamp())
		assert.NotZero(t, r.ObservedTimestamp())
		assert.Equal(t, plog.SeverityNumberWarn, r.SeverityNumber())
		for name, want := range map[string]string{
			"audit.schema.version": "1", "audit.actor.id": "spiffe://example.org/a", "audit.actor.type": "service",
			"audit.action": "GET /reviews/0", "audit.outcome": "failure", "audit.target.id": "spiffe://example.org/b",
			"mesh.source.spiffe.id": "spiffe://example.org/a", "mesh.source.identity.proof": "mtls_san",
			"mesh.destination.spiffe.id": "spiffe://example.org/b", "mesh.destination.workload.version": "v2",
			"mesh.duration": "1000000", "http.response.status_code": "403", "tls.protocol.version": "1.3", "mesh.mtls.outcome": "mutual",
			"mesh.authz.engine": "opa", "mesh.authz.decision": "deny", "mesh.authz.enforced": "true",
			"mesh.authz.policy.id": "mesh/allow", "mesh.authz.policy.revision": "7", "mesh.authz.decision.id": "d",
			"security_rule.name": "mesh/allow", "security_rule.version": "7",
			"mesh.join.method": "decision_id", "mesh.join.confidence": "1", "mesh.join.decision_id": "d",
			"mesh.evidence.state": "complete", "mesh.cluster": "edge-0", "mesh.conflicts": "",
			"client.address": "203.0.113.1", "network.peer.address": "10.0.0.1", "network.peer.port": "4000",
		} {
			assert.Equal(t, want, attr(t, r, name), name)
		}
		attestations, _ := r.Attributes().Get(semconv.MeshAttestations)
		require.Equal(t, 2, attestations.Slice().Len())
		var cited []string
		for _, a := range attestations.Slice().All() {
			id, _ := a.Map().Get("id")
			digest, _ := a.Map().Get("digest")
			assert.Len(t, digest.Str(), 64)
			assert.NotEqual(t, strings.Repeat("0", 64), digest.Str())
			cited = append(cited, id.Str())
			who, _ := a.Map().Get("reporter.spiffe.id")
			assert.Equal(t, "spiffe://example.org/proxy", who.Str())
		}
		var sealed []string
		for _, e := range p.sink.evidence() {
			sealed = append(sealed, attr(t, e, semconv.EvidenceID))
			assert.Equal(t, "true", attr(t, e, semconv.EvidenceReporterAuthenticated))
		}
		assert.ElementsMatch(t, sealed, cited)
		p.stop(t)
		assert.Len(t, p.sink.records(), 1)
	})
}

// bookinfo reads the trace as Tempo gives it: another top-level key, and ids in
// base64.
func bookinfo(t *testing.T) ptrace.Traces {
	t.Helper()
	b, err := os.ReadFile("testdata/bookinfo_trace.json")
	require.NoError(t, err)
	var doc map[string]any
	require.NoError(t, json.Unmarshal(b, &doc))
	doc["resourceSpans"] = doc["batches"]
	delete(doc, "batches")
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			for k, e := range v {
				if s, ok := e.(string); ok && slices.Contains([]string{"traceId", "spanId", "parentSpanId"}, k) {
					id, err := base64.StdEncoding.DecodeString(s)
					require.NoError(t, err)
					v[k] = hex.EncodeToString(id)
				} else {
					walk(e)
				}
			}
		}
	}
	walk(doc)
	b, err = json.Marshal(doc)
	require.NoError(t, err)
	td, err := (&ptrace.JSONUnmarshaler{}).UnmarshalTraces(b)
	require.NoError(t, err)
	return td
}

func TestBookinfo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, createDefaultConfig())
		p.start(t)
		require.NoError(t, p.traces.ConsumeTraces(t.Context(), bookinfo(t)))
		time.Sleep(2 * time.Second)
		p.stop(t)

		var got []string
		for _, r := range p.sink.records() {
			attestations, _ := r.Attributes().Get(semconv.MeshAttestations)
			assert.Equal(t, 2, attestations.Slice().Len())
			assert.Equal(t, "span", attr(t, r, semconv.JoinMethod))
			assert.Equal(t, "complete", attr(t, r, semconv.MeshEvidenceState))
			assert.Equal(t, "3ba55609c3cde49649cd77d1f9dcd936", r.TraceID().String())
			got = append(got, attr(t, r, semconv.SourcePrefix+semconv.SuffixWorkloadName)+" -> "+
				attr(t, r, semconv.DestinationPrefix+semconv.SuffixWorkloadName)+" "+attr(t, r, semconv.URLPath)+" "+attr(t, r, semconv.AuditOutcome))
		}
		slices.Sort(got)
		assert.Equal(t, []string{
			"istio-ingressgateway -> productpage /productpage success",
			"productpage -> details /details/0 success",
			"productpage -> reviews /reviews/0 success",
			"reviews -> ratings /ratings/0 success",
		}, got)
	})
}

func TestRefusedEvidenceIsNotCorrelated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, createDefaultConfig())
		p.start(t)
		refused := errors.New("no space")
		p.sink.refusing(func(plog.Logs) error { return refused })
		report := calleeReport("1", nil)
		require.ErrorIs(t, p.logs.ConsumeLogs(t.Context(), logOf(report)), refused)
		p.sink.deny = refused
		require.ErrorIs(t, p.traces.ConsumeTraces(t.Context(), bookinfo(t)), refused)
		p.sink.refusing(nil)
		time.Sleep(time.Minute)
		assert.Empty(t, p.sink.AllLogs())

		// The sender sends it again, and once too often.
		require.NoError(t, p.logs.ConsumeLogs(t.Context(), logOf(report)))
		require.NoError(t, p.logs.ConsumeLogs(t.Context(), logOf(report)))
		time.Sleep(time.Minute)
		p.stop(t)
		assert.Len(t, p.sink.records(), 1)
		ev := p.sink.evidence()
		require.Len(t, ev, 2)
		assert.Equal(t, attr(t, ev[0], semconv.EvidenceID), attr(t, ev[1], semconv.EvidenceID))
	})
}

func TestRefusedRecordsAreOfferedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel := componenttest.NewTelemetry()
		p := newPairWith(t, createDefaultConfig(), metadatatest.NewSettings(tel))
		p.start(t)
		isRecord := func(ld plog.Logs) bool {
			return ld.ResourceLogs().At(0).ScopeLogs().At(0).Scope().Name() == metadata.ScopeName
		}
		var offers atomic.Int64
		p.sink.refusing(func(ld plog.Logs) error {
			if isRecord(ld) {
				offers.Add(1)
				return errors.New("busy")
			}
			return nil
		})
		require.NoError(t, p.logs.ConsumeLogs(t.Context(), logOf(calleeReport("1", nil),
			calleeReport("2", func(e *evidence.Evidence) { e.Path = "/too/large" }))))
		time.Sleep(time.Minute)
		assert.Empty(t, p.sink.records())
		assert.Greater(t, offers.Load(), int64(5))
		assert.Less(t, offers.Load(), int64(30), "offers become rare")

		// One of the two is refused for good: it goes, the other does not.
		p.sink.refusing(func(ld plog.Logs) error {
			for _, lr := range ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
				if isRecord(ld) && attr(t, lr, semconv.URLPath) == "/too/large" {
					return consumererror.NewPermanent(errors.New("too large"))
				}
			}
			return nil
		})
		time.Sleep(time.Minute)
		require.Len(t, p.sink.records(), 1)
		assert.Equal(t, "/reviews/0", attr(t, p.sink.records()[0], semconv.URLPath))
		metadatatest.AssertEqualMeshauditRecordsDropped(t, tel, []metricdata.DataPoint[int64]{{Value: 1}}, metricdatatest.IgnoreTimestamp())
		p.stop(t)
		require.NoError(t, tel.Shutdown(t.Context()))
	})
}

func TestShutdownFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, createDefaultConfig())
		p.start(t)
		require.NoError(t, p.logs.ConsumeLogs(t.Context(), logOf(calleeReport("1", func(e *evidence.Evidence) { e.DecisionID = "d" }))))
		require.NoError(t, p.logs.Shutdown(t.Context()))
		rs := p.sink.records()
		require.Len(t, rs, 1)
		assert.Equal(t, "partial", attr(t, rs[0], semconv.MeshEvidenceState))
		assert.Equal(t, "shutdown", attr(t, rs[0], semconv.MeshEvidenceStateReason))

		// The traces face runs on: evidence is sealed, no record.
		require.NoError(t, p.traces.ConsumeTraces(t.Context(), bookinfo(t)))
		assert.Equal(t, 8, p.sink.traces.SpanCount())
		require.NoError(t, p.traces.Shutdown(t.Context()))
		assert.Len(t, p.sink.records(), 1)
		assert.ErrorIs(t, p.traces.ConsumeTraces(t.Context(), bookinfo(t)), clerk.ErrStopped)
		assert.ErrorIs(t, p.logs.ConsumeLogs(t.Context(), plog.NewLogs()), clerk.ErrStopped)
	})
}

func TestPipelines(t *testing.T) {
	host := componenttest.NewNopHost()
	set := processortest.NewNopSettings(metadata.Type)
	set.ID = testID
	f := NewFactory()
	t.Run("no logs pipeline", func(t *testing.T) {
		tr, err := f.CreateTraces(t.Context(), set, createDefaultConfig(), consumertest.NewNop())
		require.NoError(t, err)
		assert.ErrorContains(t, tr.Start(t.Context(), host), "add meshaudit/test to the processors of a logs pipeline")
		require.NoError(t, tr.Shutdown(t.Context()))
	})
	t.Run("two logs pipelines", func(t *testing.T) {
		cfg := createDefaultConfig()
		a, err := f.CreateLogs(t.Context(), set, cfg, consumertest.NewNop())
		require.NoError(t, err)
		b, err := f.CreateLogs(t.Context(), set, cfg, consumertest.NewNop())
		require.NoError(t, err)
		require.NoError(t, a.Start(t.Context(), host))
		assert.ErrorContains(t, b.Start(t.Context(), host), "is in more than one logs pipeline")
		require.NoError(t, b.Shutdown(t.Context()))
		require.NoError(t, a.ConsumeLogs(t.Context(), plog.NewLogs()), "the first is not harmed")
		require.NoError(t, a.Shutdown(t.Context()))
		require.NoError(t, a.Shutdown(t.Context()), "twice")
	})
	t.Run("several traces pipelines, one clerk", func(t *testing.T) {
		cfg := createDefaultConfig()
		p := newPair(t, cfg)
		other, err := f.CreateTraces(t.Context(), set, cfg, consumertest.NewNop())
		require.NoError(t, err)
		p.start(t)
		require.NoError(t, other.Start(t.Context(), host))
		one, err := other.(*tracesFace).Clerk()
		require.NoError(t, err)
		for _, f := range []interface{ Clerk() (*clerk.Clerk, error) }{p.traces.(*tracesFace), p.logs.(*logsFace)} {
			c, err := f.Clerk()
			require.NoError(t, err)
			assert.Same(t, one, c)
		}
		require.NoError(t, other.Shutdown(t.Context()))
		require.NoError(t, other.Shutdown(t.Context()))
		p.stop(t)

		// And once more, as after a reload with the same configuration.
		p.start(t)
		p.stop(t)
	})
}

func TestTheWireIsNotBelieved(t *testing.T) {
	forged := func() plog.Logs {
		e := calleeReport("1", func(e *evidence.Evidence) {
			e.From.Identities[0].Proof = evidence.ProofSVID
			e.Reporter = evidence.Reporter{SPIFFEID: spiffeid.RequireFromString("spiffe://example.org/forged"), Authenticated: true, Node: "n"}
			e.To.AddIdentity(evidence.Identity{ID: spiffeid.RequireFromString("spiffe://example.org/x"), Proof: evidence.ProofSVID})
		})
		ld := logOf(e)
		lr := ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
		lr.At(0).Attributes().PutStr(semconv.EvidenceID, "made up")
		record := lr.AppendEmpty()
		record.SetEventName(semconv.EventRequest)
		record.Attributes().PutStr(semconv.AuditRecordID, strings.Repeat("0", 64))
		return ld
	}
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, createDefaultConfig())
		p.start(t)
		ctx := client.NewContext(t.Context(), client.Info{Addr: &net.TCPAddr{}})
		require.NoError(t, p.logs.ConsumeLogs(ctx, forged()))
		time.Sleep(2 * time.Second)
		p.stop(t)
		ev := p.sink.evidence()
		require.Len(t, ev, 2, "a record from outside is evidence, not a record")
		assert.Len(t, attr(t, ev[0], semconv.EvidenceID), 64)
		assert.Equal(t, "mtls_san", attr(t, ev[0], semconv.SourceIdentityProof))
		assert.NotContains(t, attr(t, ev[0], semconv.EvidenceClaims), "svid")
		for name := range ev[0].Attributes().All() {
			assert.False(t, strings.HasPrefix(name, "mesh.evidence.reporter."), name)
		}
		assert.Equal(t, "opaque", attr(t, ev[1], semconv.EvidenceSource))
		rs := p.sink.records()
		require.Len(t, rs, 1)
		assert.Equal(t, "mtls_san", attr(t, rs[0], semconv.SourceIdentityProof))
		assert.NotContains(t, attr(t, rs[0], semconv.MeshAttestations), "forged")
	})
}

func TestRedactionInThePipeline(t *testing.T) {
	const secret = "hunter2hunter2"
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, createDefaultConfig())
		p.start(t)
		td := bookinfo(t)
		for _, rs := range td.ResourceSpans().All() {
			rs.Resource().Attributes().PutStr("process.command_line", secret)
			for _, s := range rs.ScopeSpans().At(0).Spans().All() {
				s.Attributes().PutStr("http.request.header.authorization", secret)
				s.Attributes().PutStr("http.url", "http://u:"+secret+"@reviews:9080/reviews/0?token="+secret)
				s.Status().SetMessage(secret)
			}
		}
		require.NoError(t, p.traces.ConsumeTraces(t.Context(), td))
		ld := logOf(calleeReport("1", nil))
		lr := ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
		lr.Body().SetStr(secret)
		lr.Attributes().PutStr("x", secret)
		lr.Attributes().PutStr(semconv.URLPath, "/a?"+secret)
		require.NoError(t, p.logs.ConsumeLogs(t.Context(), ld))
		time.Sleep(2 * time.Second)
		p.stop(t)

		var out strings.Builder
		for _, td := range p.sink.traces.AllTraces() {
			b, err := (&ptrace.ProtoMarshaler{}).MarshalTraces(td)
			require.NoError(t, err)
			out.Write(b)
		}
		for _, ld := range p.sink.AllLogs() {
			b, err := (&plog.ProtoMarshaler{}).MarshalLogs(ld)
			require.NoError(t, err)
			out.Write(b)
		}
		assert.NotContains(t, out.String(), secret)
		assert.Len(t, p.sink.records(), 5)
		s := p.sink.traces.AllTraces()[0].ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
		n, ok := s.Attributes().Get(semconv.EvidenceRedacted)
		require.True(t, ok)
		assert.Positive(t, n.Int())
	})
}

// Two hops: an agent's processor and a gateway's give the same evidence ids.
func TestEvidenceIDsAreStable(t *testing.T) {
	ids := func(in ptrace.Traces) (out []string) {
		for _, rs := range in.ResourceSpans().All() {
			for _, s := range rs.ScopeSpans().At(0).Spans().All() {
				v, _ := s.Attributes().Get(semconv.EvidenceID)
				out = append(out, v.Str())
			}
		}
		return out
	}
	// through gives what a processor makes of spans.
	through := func(td ptrace.Traces) ptrace.Traces {
		p := newPair(t, createDefaultConfig())
		p.start(t)
		defer p.stop(t)
		require.NoError(t, p.traces.ConsumeTraces(t.Context(), td))
		return p.sink.traces.AllTraces()[0]
	}
	once := through(bookinfo(t))
	first := ids(once)
	slices.Sort(first)
	assert.Len(t, slices.Compact(slices.Clone(first)), 8, "eight spans, eight ids")

	again := ptrace.NewTraces()
	once.CopyTo(again)
	twice := through(again)
	assert.Equal(t, once, twice, "nothing is redacted twice")

	fresh := bookinfo(t)
	fresh.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).SetEndTimestamp(1)
	third := ids(through(fresh))
	slices.Sort(third)
	assert.NotEqual(t, first, third)
}

func TestRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := newPair(t, createDefaultConfig())
		before.start(t)
		require.NoError(t, before.logs.ConsumeLogs(t.Context(), logOf(calleeReport("left", nil))))
		time.Sleep(2 * time.Second)
		require.Len(t, before.sink.records(), 1)
		require.NoError(t, before.logs.ConsumeLogs(t.Context(), logOf(calleeReport("waiting", func(e *evidence.Evidence) { e.DecisionID = "d" }))))
		require.NoError(t, before.traces.ConsumeTraces(t.Context(), bookinfo(t)))
		// Here it crashes: what was sealed is what the sink has now.
		sealedLogs, sealedTraces := slices.Clone(before.sink.AllLogs()), slices.Clone(before.sink.traces.AllTraces())
		before.stop(t)

		cfg := createDefaultConfig()
		cfg.RecoverFrom = clerk.RecoverConfig{Directory: "store", Origin: "o"}
		after := newPair(t, cfg)
		var windows []time.Duration
		after.logs.(*logsFace).replay = func(_ context.Context, dir, origin string, window time.Duration, fn func(seal.Signal, time.Time, []byte) error) error {
			assert.Equal(t, []any{"store", "o"}, []any{dir, origin})
			windows = append(windows, window)
			for _, ld := range sealedLogs {
				b, err := (&plog.ProtoMarshaler{}).MarshalLogs(ld)
				require.NoError(t, err)
				require.NoError(t, fn(seal.SignalLogs, time.Now(), b))
			}
			for _, td := range sealedTraces {
				b, err := (&ptrace.ProtoMarshaler{}).MarshalTraces(td)
				require.NoError(t, err)
				require.NoError(t, fn(seal.SignalTraces, time.Now(), b))
			}
			return fn(seal.SignalMetrics, time.Now(), nil)
		}
		after.start(t)
		assert.Equal(t, []time.Duration{4 * cfg.Window, 2 * cfg.Window}, windows, "records, then evidence")
		// The decision comes after the restart; the sender repeats the report.
		require.NoError(t, after.logs.ConsumeLogs(t.Context(), logOf(decisionReport("d"), calleeReport("left", func(e *evidence.Evidence) {
			e.Start -= int64(2 * time.Second)
			e.End -= int64(2 * time.Second)
		}))))
		time.Sleep(20 * time.Second)
		after.stop(t)
		rs := after.sink.records()
		require.Len(t, rs, 5, "four hops and the waiting one; what has left does not come again")
		for _, r := range rs {
			assert.Equal(t, semconv.EventRequest, r.EventName())
			assert.Equal(t, "complete", attr(t, r, semconv.MeshEvidenceState))
			if attr(t, r, semconv.AuthzDecision) != "" {
				assert.Equal(t, "decision_id", attr(t, r, semconv.JoinMethod))
			}
		}
	})
}

func TestRecoveryFromADamagedLogDoesNotStopSealing(t *testing.T) {
	cfg := createDefaultConfig()
	cfg.RecoverFrom = clerk.RecoverConfig{Directory: "store", Origin: "o"}
	p := newPair(t, cfg)
	p.logs.(*logsFace).replay = func(_ context.Context, _, _ string, _ time.Duration, fn func(seal.Signal, time.Time, []byte) error) error {
		return fn(seal.SignalLogs, time.Now(), []byte("no protobuf"))
	}
	p.start(t)
	require.NoError(t, p.logs.ConsumeLogs(t.Context(), logOf(calleeReport("1", nil))))
	p.stop(t)
	assert.Len(t, p.sink.records(), 1)
}

// A span that passes carries what is known of its call by then, apart from its
// own word, and its evidence is what it is without.
func TestSpansCarryWhatIsKnown(t *testing.T) {
	server := func() ptrace.Traces {
		td := ptrace.NewTraces()
		rs := td.ResourceSpans().AppendEmpty()
		rs.Resource().Attributes().PutStr("service.name", "b")
		s := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		s.SetTraceID(pcommon.TraceID{1})
		s.SetSpanID(pcommon.SpanID{3})
		s.SetParentSpanID(pcommon.SpanID{2}) // the callee's proxy
		s.SetKind(ptrace.SpanKindServer)
		s.Attributes().PutStr("http.request.method", "GET")
		s.Attributes().PutStr("url.path", "/reviews/0")
		s.Attributes().PutStr(semconv.CallSourceSPIFFEID, "spiffe://example.org/forged")
		s.Attributes().PutStr(semconv.CallRecordID, strings.Repeat("0", 64))
		s.SetStartTimestamp(1)
		return td
	}
	carried := func(td ptrace.Traces) (call map[string]any, id string) {
		call = map[string]any{}
		for name, v := range td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes().All() {
			switch {
			case strings.HasPrefix(name, semconv.CallPrefix):
				call[name] = v.AsRaw()
			case name == semconv.EvidenceID:
				id = v.Str()
			}
		}
		return call, id
	}
	synctest.Test(t, func(t *testing.T) {
		cfg := createDefaultConfig()
		cfg.Redaction.Allow = []string{"mesh.*"} // does not let it in
		require.NoError(t, cfg.Validate())
		p := newPair(t, cfg)
		p.start(t)
		pass := func() (map[string]any, string) {
			require.NoError(t, p.traces.ConsumeTraces(t.Context(), server()))
			all := p.sink.traces.AllTraces()
			return carried(all[len(all)-1])
		}
		call, id := pass()
		require.Empty(t, call)
		require.NoError(t, p.logs.ConsumeLogs(t.Context(), logOf(calleeReport("1", func(e *evidence.Evidence) {
			e.TraceID, e.SpanID = evidence.TraceID{1}, evidence.SpanID{2}
			e.Verdict = &evidence.Verdict{Engine: "envoy", Decision: evidence.Deny, Enforced: true}
		}))))
		known := map[string]any{
			semconv.CallSourceSPIFFEID: "spiffe://example.org/a", semconv.CallSourceIdentityProof: "mtls_san",
			semconv.CallDestinationSPIFFEID: "spiffe://example.org/b", semconv.CallDestinationIdentityProof: "mtls_san",
			semconv.CallAuthzDecision: "deny",
		}
		call, same := pass()
		require.Equal(t, known, call)
		require.Equal(t, id, same)
		time.Sleep(2 * time.Second)
		require.Len(t, p.sink.records(), 1)
		known[semconv.CallRecordID] = attr(t, p.sink.records()[0], semconv.AuditRecordID)
		call, same = pass()
		require.Equal(t, known, call)
		require.Equal(t, id, same)

		// A second processor, and a restart, see the same evidence.
		all := p.sink.traces.AllTraces()
		again := ptrace.NewTraces()
		all[2].CopyTo(again)
		agent := createDefaultConfig()
		agent.Mode = modeTag
		second := newPair(t, agent)
		second.start(t)
		require.NoError(t, second.traces.ConsumeTraces(t.Context(), again))
		call, same = carried(second.sink.traces.AllTraces()[0])
		second.stop(t)
		require.Empty(t, call)
		require.Equal(t, id, same)

		cfg = createDefaultConfig()
		cfg.RecoverFrom = clerk.RecoverConfig{Directory: "store", Origin: "o"}
		after := newPair(t, cfg)
		after.logs.(*logsFace).replay = func(_ context.Context, _, _ string, _ time.Duration, fn func(seal.Signal, time.Time, []byte) error) error {
			b, err := (&ptrace.ProtoMarshaler{}).MarshalTraces(all[2])
			require.NoError(t, err)
			return fn(seal.SignalTraces, time.Now(), b)
		}
		after.start(t)
		time.Sleep(20 * time.Second)
		after.stop(t)
		p.stop(t)
		digest := func(lr plog.LogRecord) string {
			all, _ := lr.Attributes().Get(semconv.MeshAttestations)
			for _, a := range all.Slice().All() {
				if cited, _ := a.Map().Get(semconv.AttestationID); cited.Str() == id {
					v, _ := a.Map().Get("digest")
					return v.Str()
				}
			}
			return ""
		}
		require.Len(t, after.sink.records(), 1)
		require.NotEmpty(t, digest(p.sink.records()[0]))
		require.Equal(t, digest(p.sink.records()[0]), digest(after.sink.records()[0]))
	})
}

// Each shard has its part of the bounds, and all evidence of a trace.
func TestShards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := createDefaultConfig()
		cfg.Shards, cfg.MaxPending = 64, 64
		require.NoError(t, cfg.Validate())
		p := newPair(t, cfg)
		p.start(t)
		traced := func(position string) evidence.Evidence {
			return calleeReport(position, func(e *evidence.Evidence) { e.TraceID = evidence.TraceID{1} })
		}
		require.NoError(t, p.logs.ConsumeLogs(t.Context(), logOf(traced("1"), traced("2"))))
		time.Sleep(200 * time.Millisecond)
		assert.Len(t, p.sink.records(), 1, "there is room for one of them to settle")
		p.stop(t)
		assert.Len(t, p.sink.records(), 2)
	})
}

func TestCreatingHasNoSideEffects(t *testing.T) {
	cfg := createDefaultConfig()
	p := newPair(t, cfg)
	_, err := p.logs.(*logsFace).Clerk()
	assert.ErrorIs(t, err, clerk.ErrStopped)
	p.stop(t)
	var _ component.Config = cfg
}

func BenchmarkTraces(b *testing.B) {
	cfg := createDefaultConfig()
	c, err := newClerk(componenttest.NewNopTelemetrySettings(), cfg)
	require.NoError(b, err)
	defer c.Close()
	taken := func(context.Context, ptrace.Traces) error { return nil }
	template := ptrace.NewTraces()
	ss := template.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty()
	for i := range 1000 {
		s := ss.Spans().AppendEmpty()
		s.SetTraceID([16]byte{1, byte(i), byte(i >> 8)})
		s.SetSpanID([8]byte{1, byte(i), byte(i >> 8)})
		s.SetKind(ptrace.SpanKindServer)
		for k, v := range map[string]string{
			"http.request.method": "GET", "url.path": "/reviews/0", "component": "proxy", "guid:x-request-id": "e4e8c177-3962-9359-945e-61e7175cd867",
			"node_id": "sidecar~10.244.0.25~productpage-v1.bookinfo~bookinfo.svc.cluster.local", "peer.address": "10.244.0.25",
			"istio.canonical_service": "reviews", "http.status_code": "200", "user_agent": "curl", "response_size": "123",
		} {
			s.Attributes().PutStr(k, v)
		}
	}
	td := ptrace.NewTraces()
	b.ReportAllocs()
	for b.Loop() {
		template.CopyTo(td)
		require.NoError(b, c.Traces(context.Background(), nil, td, taken))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/span")
}
