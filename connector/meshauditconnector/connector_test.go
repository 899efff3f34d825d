package meshauditconnector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/connector/connectortest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pipeline"
	"go.opentelemetry.io/collector/processor/processortest"
	"pgregory.net/rapid"

	"github.com/meshaudit/meshaudit/connector/meshauditconnector/internal/metadata"
	"github.com/meshaudit/meshaudit/internal/clerk"
	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/otlp"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/processor/meshauditprocessor"
	"github.com/meshaudit/meshaudit/seal"
)

var (
	logsEvidence   = pipeline.NewIDWithName(pipeline.SignalLogs, "evidence")
	tracesEvidence = pipeline.NewIDWithName(pipeline.SignalTraces, "evidence")
	tracesEnriched = pipeline.NewIDWithName(pipeline.SignalTraces, "enriched")
	logsRecords    = pipeline.NewIDWithName(pipeline.SignalLogs, "records")
	testID         = component.MustNewIDWithName("meshaudit", "test")
	nopHost        = componenttest.NewNopHost()
)

func newConfig() *Config {
	cfg := createDefaultConfig()
	cfg.Evidence = []pipeline.ID{logsEvidence, tracesEvidence}
	cfg.Records = []pipeline.ID{logsRecords}
	return cfg
}

// sink is the first consumer of a pipeline, which can refuse. It keeps bytes,
// as an exporter does.
type sink struct {
	mu     sync.Mutex
	refuse func() error
	got    [][]byte
}

func (*sink) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (s *sink) take(b []byte, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		return err
	}
	if s.refuse != nil {
		if err := s.refuse(); err != nil {
			return err
		}
	}
	s.got = append(s.got, b)
	return nil
}

func (s *sink) ConsumeLogs(_ context.Context, ld plog.Logs) error {
	return s.take((&plog.ProtoMarshaler{}).MarshalLogs(ld))
}

func (s *sink) ConsumeTraces(_ context.Context, td ptrace.Traces) error {
	return s.take((&ptrace.ProtoMarshaler{}).MarshalTraces(td))
}

func (s *sink) refusing(f func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = f
}

func (s *sink) all() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

func (s *sink) logs(t require.TestingT) (all []plog.LogRecord) {
	for _, b := range s.all() {
		ld, err := (&plog.ProtoUnmarshaler{}).UnmarshalLogs(b)
		require.NoError(t, err)
		for _, rl := range ld.ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, lr := range sl.LogRecords().All() {
					all = append(all, lr)
				}
			}
		}
	}
	return all
}

func (s *sink) spans(t require.TestingT) (all []ptrace.Span) {
	for _, b := range s.all() {
		td, err := (&ptrace.ProtoUnmarshaler{}).UnmarshalTraces(b)
		require.NoError(t, err)
		for _, rs := range td.ResourceSpans().All() {
			for _, ss := range rs.ScopeSpans().All() {
				for _, s := range ss.Spans().All() {
					all = append(all, s)
				}
			}
		}
	}
	return all
}

// records are the audit records among the logs, findings not included.
func (s *sink) records(t require.TestingT) []plog.LogRecord {
	return slices.DeleteFunc(s.logs(t), func(lr plog.LogRecord) bool { return lr.EventName() == semconv.EventFinding })
}

// collector has all faces of a connector, and the pipelines behind it.
type collector struct {
	cfg     *Config
	sinks   map[pipeline.ID]*sink
	logs    connector.Logs
	traces  connector.Traces
	toLogs  connector.Traces
	metrics connector.Metrics
}

func newCollector(t require.TestingT, cfg *Config, pipelines ...pipeline.ID) *collector {
	if pipelines == nil {
		pipelines = slices.Concat(cfg.Evidence, cfg.Records, cfg.Spans)
	}
	c := &collector{cfg: cfg, sinks: make(map[pipeline.ID]*sink)}
	logs, traces := make(map[pipeline.ID]consumer.Logs), make(map[pipeline.ID]consumer.Traces)
	for _, id := range pipelines {
		c.sinks[id] = new(sink)
		if id.Signal() == pipeline.SignalLogs {
			logs[id] = c.sinks[id]
		} else {
			traces[id] = c.sinks[id]
		}
	}
	f := NewFactory()
	set := connectortest.NewNopSettings(metadata.Type)
	set.ID = testID
	ctx := context.Background()
	var err error
	if len(traces) > 0 {
		c.traces, err = f.CreateTracesToTraces(ctx, set, cfg, connector.NewTracesRouter(traces))
		require.NoError(t, err)
	}
	if len(logs) > 0 {
		router := connector.NewLogsRouter(logs)
		c.logs, err = f.CreateLogsToLogs(ctx, set, cfg, router)
		require.NoError(t, err)
		c.toLogs, err = f.CreateTracesToLogs(ctx, set, cfg, router)
		require.NoError(t, err)
		c.metrics, err = f.CreateMetricsToLogs(ctx, set, cfg, router)
		require.NoError(t, err)
	}
	return c
}

func (c *collector) faces() []component.Component {
	return []component.Component{c.logs, c.traces, c.toLogs, c.metrics}
}

func (c *collector) start(t require.TestingT) {
	for _, f := range c.faces() {
		require.NoError(t, f.Start(context.Background(), nopHost))
	}
}

func (c *collector) stop(t require.TestingT) {
	for _, f := range c.faces() {
		require.NoError(t, f.Shutdown(context.Background()))
	}
}

func attr(lr plog.LogRecord, name string) string {
	v, ok := lr.Attributes().Get(name)
	if !ok {
		return ""
	}
	return v.AsString()
}

func logOf(all ...evidence.Evidence) plog.Logs {
	ld := plog.NewLogs()
	sl := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty()
	for i := range all {
		otlp.Encode(&all[i], sl.LogRecords().AppendEmpty())
	}
	return ld
}

// report is the callee's access log of call n; server its application's span.
func report(n byte, change func(*evidence.Evidence)) evidence.Evidence {
	id := func(s string) []evidence.Identity {
		return []evidence.Identity{{ID: spiffeid.RequireFromString(s), Proof: evidence.ProofMTLSSAN, From: "tls.peer.san"}}
	}
	e := evidence.Evidence{
		Source: evidence.SourceEnvoyALS, Role: evidence.RoleCallee, Final: true, Position: fmt.Sprint(n),
		Start: time.Now().UnixNano(), End: time.Now().Add(time.Millisecond).UnixNano(), Method: "GET", Path: "/reviews/0", Status: 200,
		TraceID: evidence.TraceID{n, 1}, SpanID: evidence.SpanID{n, 2},
		From: evidence.Party{Identities: id("spiffe://example.org/a")},
		To:   evidence.Party{Identities: id("spiffe://example.org/b"), Workload: evidence.Workload{Name: "b", Version: "v2"}},
		TLS:  evidence.TLS{Known: true, Established: true, Mutual: true},
	}
	if change != nil {
		change(&e)
	}
	return e
}

func server(n byte) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.name", "b")
	ss := rs.ScopeSpans().AppendEmpty()
	ss.Scope().SetName("http")
	s := ss.Spans().AppendEmpty()
	s.SetName("GET /reviews")
	s.SetTraceID(pcommon.TraceID{n, 1})
	s.SetSpanID(pcommon.SpanID{n, 3})
	s.SetParentSpanID(pcommon.SpanID{n, 2}) // the callee's proxy
	s.SetKind(ptrace.SpanKindServer)
	s.Attributes().PutStr("http.request.method", "GET")
	s.Attributes().PutStr("url.path", "/reviews/0")
	s.SetStartTimestamp(pcommon.NewTimestampFromTime(time.Now()))
	s.SetEndTimestamp(pcommon.NewTimestampFromTime(time.Now().Add(time.Millisecond)))
	return td
}

// ours is the context of a receiver of this process.
func ours(ctx context.Context) context.Context {
	return client.NewContext(ctx, client.Info{Auth: evidence.Reporter{
		SPIFFEID: spiffeid.RequireFromString("spiffe://example.org/proxy"), Authenticated: true, Address: "10.0.0.9", CertSHA256: "ab",
	}})
}

// Logs and spans of one call become one record, in its own pipeline.
func TestRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCollector(t, newConfig())
		c.start(t)
		require.NoError(t, c.logs.ConsumeLogs(ours(t.Context()), logOf(report(1, nil))))
		require.NoError(t, c.traces.ConsumeTraces(t.Context(), server(1)))
		require.NoError(t, c.toLogs.ConsumeTraces(t.Context(), server(1)), "as the Collector hands them to both")
		assert.Len(t, c.sinks[logsEvidence].all(), 1, "before the sender is told")
		assert.Len(t, c.sinks[tracesEvidence].all(), 1)
		time.Sleep(2 * time.Second) // in the test's own time
		c.stop(t)

		rs := c.sinks[logsRecords].logs(t)
		require.Len(t, rs, 1)
		assert.Equal(t, semconv.EventRequest, rs[0].EventName())
		assert.Equal(t, "spiffe://example.org/a", attr(rs[0], semconv.SourceSPIFFEID))
		assert.Equal(t, "complete", attr(rs[0], semconv.MeshEvidenceState))
		cited, _ := rs[0].Attributes().Get(semconv.MeshAttestations)
		assert.Equal(t, 2, cited.Slice().Len())
		assert.Len(t, c.sinks[logsEvidence].logs(t), 1, "records are none of its business")
	})
}

// Whatever order the Collector stops the faces in, every record leaves, and no
// face is asked for what it has not.
func TestEveryOrderOfStopping(t *testing.T) {
	for i := range 24 {
		synctest.Test(t, func(t *testing.T) {
			cfg := newConfig()
			cfg.Spans = []pipeline.ID{tracesEnriched}
			c := newCollector(t, cfg)
			faces := c.faces()
			for n, j := len(faces), i; n > 1; n-- { // the i-th permutation
				faces[n-1], faces[j%n] = faces[j%n], faces[n-1]
				j /= n
			}
			for _, f := range faces {
				require.NoError(t, f.Start(t.Context(), nopHost))
			}
			require.NoError(t, c.logs.ConsumeLogs(t.Context(), logOf(report(1, nil))))
			require.NoError(t, c.traces.ConsumeTraces(t.Context(), server(2)))
			for range 2 { // and a second time
				for _, f := range faces {
					require.NoError(t, f.Shutdown(t.Context()))
				}
			}
			require.Len(t, c.sinks[logsRecords].records(t), 2)
			require.Len(t, c.sinks[tracesEnriched].spans(t), 1)
			require.ErrorIs(t, c.logs.ConsumeLogs(t.Context(), logOf(report(3, nil))), clerk.ErrStopped)
			require.ErrorIs(t, c.traces.ConsumeTraces(t.Context(), server(3)), clerk.ErrStopped)
		})
	}
}

// What one evidence pipeline refuses is refused: the sender hears it, as it was
// said, and nothing is correlated.
func TestRefusedEvidence(t *testing.T) {
	second := pipeline.NewIDWithName(pipeline.SignalLogs, "second")
	for name, refusal := range map[string]error{"retryable": errors.New("disk full"), "permanent": consumererror.NewPermanent(errors.New("too large"))} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := newConfig()
				cfg.Evidence = append(cfg.Evidence, second)
				c := newCollector(t, cfg)
				c.start(t)
				c.sinks[second].refusing(func() error { return refusal })
				c.sinks[tracesEvidence].refusing(func() error { return refusal })
				send := func() (error, error) {
					return c.logs.ConsumeLogs(t.Context(), logOf(report(1, func(e *evidence.Evidence) { e.Start, e.End = 1, 2 }))), c.traces.ConsumeTraces(t.Context(), server(2))
				}
				for _, err := range func() []error { a, b := send(); return []error{a, b} }() {
					require.ErrorIs(t, err, refusal)
					require.Equal(t, name == "permanent", consumererror.IsPermanent(err))
				}
				time.Sleep(time.Minute)
				require.Empty(t, c.sinks[logsRecords].all())

				c.sinks[second].refusing(nil)
				c.sinks[tracesEvidence].refusing(nil)
				a, b := send()
				require.NoError(t, errors.Join(a, b))
				time.Sleep(time.Minute)
				c.stop(t)
				require.Len(t, c.sinks[logsRecords].records(t), 2)
				ids := c.sinks[logsEvidence].logs(t)
				require.Len(t, ids, 2)
				require.Equal(t, attr(ids[0], semconv.EvidenceID), attr(ids[1], semconv.EvidenceID), "sent again it is the same")
			})
		})
	}
}

// Records that are refused are kept, and evidence goes on.
func TestRefusedRecordsAreOfferedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCollector(t, newConfig())
		c.start(t)
		offers := 0
		c.sinks[logsRecords].refusing(func() error { offers++; return errors.New("busy") })
		require.NoError(t, c.logs.ConsumeLogs(t.Context(), logOf(report(1, nil))))
		time.Sleep(time.Minute)
		require.NoError(t, c.logs.ConsumeLogs(t.Context(), logOf(report(2, nil))))
		c.sinks[logsRecords].refusing(nil)
		assert.Greater(t, offers, 5)
		assert.Empty(t, c.sinks[logsRecords].all())
		time.Sleep(time.Minute)
		c.stop(t)
		assert.Len(t, c.sinks[logsRecords].records(t), 2)
	})
}

func TestPipelines(t *testing.T) {
	other := pipeline.NewIDWithName(pipeline.SignalLogs, "other")
	tracesOther := pipeline.NewIDWithName(pipeline.SignalTraces, "other")
	both := []pipeline.ID{logsEvidence, tracesEvidence, logsRecords}
	for name, tc := range map[string]struct {
		change    func(*Config)
		pipelines []pipeline.ID
		face      func(*collector) component.Component
		want      string // "": starts
	}{
		"as they are": {nil, both, func(c *collector) component.Component { return c.logs }, ""},
		"evidence and records in one": {func(c *Config) { c.Records = []pipeline.ID{logsEvidence} }, []pipeline.ID{logsEvidence, tracesEvidence},
			func(c *collector) component.Component { return c.logs }, ""},
		"unknown for records": {func(c *Config) { c.Records = []pipeline.ID{other} }, both, func(c *collector) component.Component { return c.metrics },
			"`records` names logs/other, which does not receive from meshaudit/test: add meshaudit/test to the receivers of that pipeline"},
		"unknown for evidence": {func(c *Config) { c.Evidence[0] = other }, both, func(c *collector) component.Component { return c.logs },
			"`evidence` names logs/other, which does not receive from meshaudit/test"},
		"unknown for spans' evidence": {func(c *Config) { c.Evidence[1] = tracesOther }, both, func(c *collector) component.Component { return c.traces },
			"`evidence` names traces/other, which does not receive from meshaudit/test"},
		"named nowhere": {nil, append([]pipeline.ID{other}, both...), func(c *collector) component.Component { return c.logs },
			"logs/other receives from meshaudit/test and would get nothing: name it in `evidence` or `records`"},
		"spans' named nowhere": {nil, append([]pipeline.ID{tracesOther}, both...), func(c *collector) component.Component { return c.traces },
			"traces/other receives from meshaudit/test and would get nothing: name it in `evidence` or `spans`"},
		"unknown for spans": {func(c *Config) { c.Spans = []pipeline.ID{tracesOther} }, both, func(c *collector) component.Component { return c.traces },
			"`spans` names traces/other, which does not receive from meshaudit/test"},
		"nothing seals logs": {func(c *Config) { c.Evidence = c.Evidence[1:] }, []pipeline.ID{tracesEvidence, logsRecords}, func(c *collector) component.Component { return c.logs },
			"logs come to meshaudit/test, but `evidence` names no logs pipeline to seal them"},
		"nothing seals spans": {func(c *Config) { c.Evidence = c.Evidence[:1] }, both, func(c *collector) component.Component { return c.traces },
			"spans come to meshaudit/test, but `evidence` names no traces pipeline to seal them"},
		"spans go nowhere": {func(c *Config) { c.Evidence = c.Evidence[:1] }, []pipeline.ID{logsEvidence, logsRecords}, func(c *collector) component.Component { return c.toLogs },
			"spans come to meshaudit/test, but it is the receiver of no traces pipeline to seal them"},
		"no spans come": {nil, []pipeline.ID{logsEvidence, logsRecords}, func(c *collector) component.Component { return c.logs },
			"traces/evidence is named, but no spans come: add meshaudit/test to the exporters of a traces pipeline, or take it out"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := newConfig()
			if tc.change != nil {
				tc.change(cfg)
			}
			f := tc.face(newCollector(t, cfg, tc.pipelines...))
			err := f.Start(t.Context(), nopHost)
			if tc.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, tc.want)
			}
			require.NoError(t, f.Shutdown(t.Context()))
		})
	}
}

// Killed in the midst of a window, a collector starts again from what is
// sealed: each call has its record, once.
func TestRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := newCollector(t, newConfig())
		before.start(t)
		require.NoError(t, before.logs.ConsumeLogs(t.Context(), logOf(report(1, nil))))
		time.Sleep(2 * time.Second)
		require.Len(t, before.sinks[logsRecords].records(t), 1)
		require.NoError(t, before.logs.ConsumeLogs(t.Context(), logOf(report(2, func(e *evidence.Evidence) { e.DecisionID = "d" }))))
		require.NoError(t, before.traces.ConsumeTraces(t.Context(), server(2)))
		require.NoError(t, before.traces.ConsumeTraces(t.Context(), server(3)))
		sealed := map[pipeline.ID][][]byte{} // here it is killed
		for id, s := range before.sinks {
			sealed[id] = s.all()
		}
		before.stop(t)

		cfg := newConfig()
		cfg.RecoverFrom = clerk.RecoverConfig{Directory: "store", Origin: "o"}
		after := newCollector(t, cfg)
		replays := 0
		replay := func(_ context.Context, dir, origin string, window time.Duration, fn func(seal.Signal, time.Time, []byte) error) error {
			replays++
			assert.Equal(t, []any{"store", "o", time.Duration(6-2*replays) * cfg.Window}, []any{dir, origin, window})
			for _, id := range []pipeline.ID{logsEvidence, logsRecords, tracesEvidence} {
				for _, b := range sealed[id] {
					sig := seal.SignalLogs
					if id.Signal() == pipeline.SignalTraces {
						sig = seal.SignalTraces
					}
					require.NoError(t, fn(sig, time.Now(), b))
				}
			}
			return nil
		}
		after.logs.(*logsFace).replay = replay
		after.toLogs.(*tracesRecordsFace).replay = replay
		after.metrics.(*metricsFace).replay = replay
		after.start(t)
		assert.Equal(t, 2, replays, "by the first face alone: the records, then the evidence")
		time.Sleep(20 * time.Second)
		after.stop(t)
		ids := map[string]bool{attr(before.sinks[logsRecords].records(t)[0], semconv.AuditRecordID): true}
		rs := after.sinks[logsRecords].records(t)
		require.Len(t, rs, 2)
		for _, r := range rs {
			require.False(t, ids[attr(r, semconv.AuditRecordID)])
			ids[attr(r, semconv.AuditRecordID)] = true
		}
	})
}

// The same evidence, through a processor and through a connector, is sealed as
// the same bytes.
func TestSealsWhatTheProcessorSeals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pf := meshauditprocessor.NewFactory()
		set := processortest.NewNopSettings(metadata.Type)
		set.ID = testID
		pcfg := pf.CreateDefaultConfig()
		var logs, traces sink
		ctx := context.Background()
		pl, err := pf.CreateLogs(ctx, set, pcfg, &logs)
		require.NoError(t, err)
		pt, err := pf.CreateTraces(ctx, set, pcfg, &traces)
		require.NoError(t, err)
		require.NoError(t, errors.Join(pl.Start(ctx, nopHost), pt.Start(ctx, nopHost)))
		c := newCollector(t, newConfig())
		c.start(t)

		for range rapid.IntRange(1, 5).Draw(t, "requests") {
			ctx := ctx
			if rapid.Bool().Draw(t, "ours") {
				ctx = ours(ctx)
			}
			n := rapid.Byte().Draw(t, "call")
			extra := rapid.MapOfN(rapid.SampledFrom([]string{"http.request.header.authorization", "url.path", "mesh.evidence.id", "mesh.source.identity.proof", "mesh.call.record.id", "tenant"}),
				rapid.StringN(0, 20, -1), 0, 3).Draw(t, "attributes")
			if rapid.Bool().Draw(t, "spans") {
				one := server(n)
				for k, v := range extra {
					one.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes().PutStr(k, v)
				}
				other := ptrace.NewTraces()
				one.CopyTo(other)
				require.NoError(t, errors.Join(pt.ConsumeTraces(ctx, one), c.traces.ConsumeTraces(ctx, other)))
				continue
			}
			one := logOf(report(n, nil))
			for k, v := range extra {
				one.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes().PutStr(k, v)
			}
			other := plog.NewLogs()
			one.CopyTo(other)
			require.NoError(t, errors.Join(pl.ConsumeLogs(ctx, one), c.logs.ConsumeLogs(ctx, other)))
		}
		sealedLogs, sealedTraces := logs.all(), traces.all() // before records leave
		require.NoError(t, errors.Join(pt.Shutdown(ctx), pl.Shutdown(ctx)))
		c.stop(t)
		require.Equal(t, sealedLogs, c.sinks[logsEvidence].all())
		// The processor's spans carry what was known of their calls besides.
		var without [][]byte
		for _, b := range sealedTraces {
			td, err := (&ptrace.ProtoUnmarshaler{}).UnmarshalTraces(b)
			require.NoError(t, err)
			td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes().RemoveIf(func(name string, _ pcommon.Value) bool {
				return strings.HasPrefix(name, semconv.CallPrefix)
			})
			b, err := (&ptrace.ProtoMarshaler{}).MarshalTraces(td)
			require.NoError(t, err)
			without = append(without, b)
		}
		require.Equal(t, without, c.sinks[tracesEvidence].all())
		ids := func(records []plog.LogRecord) (ids []string) {
			for _, r := range records {
				if id := attr(r, semconv.AuditRecordID); id != "" && r.EventName() != semconv.EventFinding && attr(r, semconv.EvidenceID) == "" {
					ids = append(ids, id)
				}
			}
			slices.Sort(ids)
			return ids
		}
		require.Equal(t, ids(logs.logs(t)), ids(c.sinks[logsRecords].logs(t)))
	})
}

// A span leaves after the record of its call, as it was sealed and under what it
// came under, with what the record says.
func TestSpansLeaveAfterTheirRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := newConfig()
		cfg.Spans = []pipeline.ID{tracesEnriched}
		c := newCollector(t, cfg)
		c.start(t)
		out := c.sinks[tracesEnriched]
		recordedFirst := true
		out.refusing(func() error {
			recordedFirst = recordedFirst && len(c.sinks[logsRecords].records(t)) > 0
			return nil
		})
		deny := func(e *evidence.Evidence) {
			e.Verdict = &evidence.Verdict{Engine: "envoy", Decision: evidence.Deny, Enforced: true}
		}
		forged := server(1)
		forged.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes().PutStr(semconv.CallSourceSPIFFEID, "spiffe://example.org/forged")
		require.NoError(t, c.traces.ConsumeTraces(t.Context(), forged))
		time.Sleep(500 * time.Millisecond)
		require.Empty(t, out.all(), "it waits")
		require.NoError(t, c.logs.ConsumeLogs(t.Context(), logOf(report(1, deny))))
		time.Sleep(2 * time.Second)
		require.Len(t, out.spans(t), 1)
		require.True(t, recordedFirst)

		// The next comes when its call's record has left, and goes with the amendment.
		require.NoError(t, c.logs.ConsumeLogs(t.Context(), logOf(report(2, deny))))
		time.Sleep(2 * time.Second)
		require.NoError(t, c.traces.ConsumeTraces(t.Context(), server(2)))
		time.Sleep(2 * time.Second)
		require.Len(t, out.spans(t), 2)

		// An internal one is no part of a call between two, and does not wait.
		internal := server(3)
		internal.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).SetKind(ptrace.SpanKindInternal)
		require.NoError(t, c.traces.ConsumeTraces(t.Context(), internal))
		time.Sleep(200 * time.Millisecond)
		require.Len(t, out.spans(t), 3)
		c.stop(t)

		records := c.sinks[logsRecords].records(t)
		require.Equal(t, []string{semconv.EventRequest, semconv.EventRequest, semconv.EventAmendment}, []string{records[0].EventName(), records[1].EventName(), records[2].EventName()})
		for i, s := range out.spans(t)[:2] {
			got := map[string]any{}
			for name, v := range s.Attributes().All() {
				if strings.HasPrefix(name, semconv.CallPrefix) {
					got[name] = v.AsRaw()
				}
			}
			require.Equal(t, map[string]any{
				semconv.CallSourceSPIFFEID: "spiffe://example.org/a", semconv.CallSourceIdentityProof: "mtls_san",
				semconv.CallDestinationSPIFFEID: "spiffe://example.org/b", semconv.CallDestinationIdentityProof: "mtls_san",
				semconv.CallAuthzDecision: "deny", semconv.CallRecordID: attr(records[i], semconv.AuditRecordID),
			}, got)
		}
		// But for that they are what was sealed, to the byte.
		for i, b := range out.all() {
			td, err := (&ptrace.ProtoUnmarshaler{}).UnmarshalTraces(b)
			require.NoError(t, err)
			td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes().RemoveIf(func(name string, _ pcommon.Value) bool {
				return strings.HasPrefix(name, semconv.CallPrefix)
			})
			b, err = (&ptrace.ProtoMarshaler{}).MarshalTraces(td)
			require.NoError(t, err)
			require.Equal(t, c.sinks[tracesEvidence].all()[i], b)
		}
	})
}

// Whatever becomes of the spans' own pipeline, evidence is acknowledged and
// records are made.
func TestSpansPipelineFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := newConfig()
		cfg.Spans = []pipeline.ID{tracesEnriched}
		c := newCollector(t, cfg)
		c.start(t)
		blocked := make(chan struct{})
		c.sinks[tracesEnriched].refusing(func() error { <-blocked; return errors.New("down") })
		for n := range byte(20) {
			require.NoError(t, c.traces.ConsumeTraces(t.Context(), server(n)))
			time.Sleep(time.Second)
		}
		time.Sleep(500 * time.Millisecond)
		require.Len(t, c.sinks[logsRecords].records(t), 20)
		close(blocked)
		time.Sleep(time.Minute)
		require.Empty(t, c.sinks[tracesEnriched].all())
		c.sinks[tracesEnriched].refusing(nil)
		time.Sleep(10 * time.Second)
		require.Len(t, c.sinks[tracesEnriched].spans(t), 20)
		c.stop(t)
	})
}

// Many senders at once, through every face.
func TestConcurrentSenders(t *testing.T) {
	cfg := newConfig()
	cfg.Spans = []pipeline.ID{tracesEnriched}
	c := newCollector(t, cfg)
	c.start(t)
	var senders sync.WaitGroup
	for g := range 4 {
		senders.Go(func() {
			for i := range 50 {
				n := byte(50*g + i)
				assert.NoError(t, c.logs.ConsumeLogs(t.Context(), logOf(report(n, nil))))
				assert.NoError(t, c.traces.ConsumeTraces(t.Context(), server(n)))
				assert.NoError(t, c.toLogs.ConsumeTraces(t.Context(), server(n)))
				assert.NoError(t, c.metrics.ConsumeMetrics(t.Context(), pmetric.NewMetrics()))
			}
		})
	}
	senders.Wait()
	c.stop(t)
	assert.Len(t, c.sinks[logsRecords].records(t), 200)
	assert.Len(t, c.sinks[tracesEnriched].spans(t), 200)
}

// What a proxy wrote and never came is a gap, among the records.
func TestLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCollector(t, newConfig())
		c.start(t)
		counters := func(written int64) pmetric.Metrics {
			md := pmetric.NewMetrics()
			rm := md.ResourceMetrics().AppendEmpty()
			rm.Resource().Attributes().PutStr("k8s.namespace.name", "shop")
			rm.Resource().Attributes().PutStr("k8s.pod.name", "orders-1")
			m := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
			m.SetName("access_logs.grpc_access_log.logs_written")
			m.SetEmptySum().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			p := m.Sum().DataPoints().AppendEmpty()
			p.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
			p.SetIntValue(written)
			return md
		}
		for range 3 {
			require.NoError(t, c.metrics.ConsumeMetrics(t.Context(), counters(10)))
			time.Sleep(15 * time.Second)
		}
		require.NoError(t, c.logs.ConsumeLogs(ours(t.Context()), logOf(report(1, func(e *evidence.Evidence) {
			e.Reporter.Node = "sidecar~10.0.0.1~orders-1.shop~shop.svc.cluster.local"
		}))))
		for range 3 {
			require.NoError(t, c.metrics.ConsumeMetrics(t.Context(), counters(14)))
			time.Sleep(15 * time.Second)
		}
		c.stop(t)
		lost := 0
		for _, r := range c.sinks[logsRecords].records(t) {
			if r.EventName() == semconv.EventEvidenceGap {
				require.Equal(t, "not_received", attr(r, semconv.GapReason))
				n, _ := r.Attributes().Get(semconv.GapCount)
				lost += int(n.Int())
			}
		}
		require.Equal(t, 3, lost)
	})
}
