package meshauditprocessor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/clerk"
	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/findings"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/seal"
)

// A finding leaves as a log record of its own, once, with its severity and the
// record that it rests on; a condition on the record can rule a kind out.
func TestFindings(t *testing.T) {
	for name, tc := range map[string]struct {
		condition string
		want      int
	}{
		"by default":              {"", 1},
		"where the condition is":  {`attributes["mesh.destination.workload.namespace"] == "shop"`, 1},
		"not where it is not":     {`attributes["mesh.destination.workload.namespace"] == "kube-system"`, 0},
		"what can't be evaluated": {`ParseInt(attributes["url.path"], 10) > 3`, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := createDefaultConfig()
				cfg.Findings.Kinds = map[findings.Kind]clerk.FindingConfig{findings.Plaintext: {Severity: findings.High, Condition: tc.condition}}
				require.NoError(t, cfg.Validate())
				p := newPair(t, cfg)
				p.start(t)
				for i := range 3 {
					require.NoError(t, p.logs.ConsumeLogs(t.Context(), logOf(evidence.Evidence{
						Source: evidence.SourceEnvoyALS, Role: evidence.RoleCallee, Final: true, Start: time.Now().UnixNano(), Status: 200,
						Method: "GET", Path: "/x", StreamID: string(rune('a' + i)), TLS: evidence.TLS{Known: true},
						To: evidence.Party{Workload: evidence.Workload{Name: "orders", Namespace: "shop"}},
					})))
				}
				time.Sleep(5 * time.Second)
				synctest.Wait()
				found := p.sink.findings()
				require.Len(t, found, tc.want)
				for _, f := range found {
					require.Equal(t, "plaintext", attr(t, f, semconv.MeshFindingKind))
					require.Equal(t, "high", f.SeverityText())
					require.NotEmpty(t, f.Body().Str())
					require.Contains(t, attr(t, f, semconv.FindingRecords), attr(t, p.sink.records()[0], semconv.AuditRecordID))
				}
				p.stop(t)
			})
		})
	}
}

// A call that was served is found to be denied when its decision comes, be that
// long after its record, or after a restart.
func TestFindingOfALateDecision(t *testing.T) {
	for name, restart := range map[string]bool{"long after": false, "after a restart": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, createDefaultConfig())
				p.start(t)
				trace := evidence.TraceID{1}
				require.NoError(t, p.logs.ConsumeLogs(t.Context(), logOf(calleeReport("a", func(e *evidence.Evidence) {
					e.TraceID, e.ParentSpanID = trace, evidence.SpanID{1}
				}))))
				time.Sleep(30 * time.Second)
				synctest.Wait()
				records := p.sink.records()
				require.Len(t, records, 1)
				require.Empty(t, p.sink.findings())
				if restart {
					p.stop(t)
					sealed := p.sink.AllLogs()
					cfg := createDefaultConfig()
					cfg.RecoverFrom = clerk.RecoverConfig{Directory: "store", Origin: "o"}
					p = newPair(t, cfg)
					p.logs.(*logsFace).replay = func(_ context.Context, _, _ string, _ time.Duration, fn func(seal.Signal, time.Time, []byte) error) error {
						for _, ld := range sealed {
							b, err := (&plog.ProtoMarshaler{}).MarshalLogs(ld)
							require.NoError(t, err)
							require.NoError(t, fn(seal.SignalLogs, time.Now(), b))
						}
						return nil
					}
					p.start(t)
				}
				late := decisionReport("d")
				late.Start -= (30 * time.Second).Nanoseconds()
				late.TraceID, late.ParentSpanID, late.Method, late.Path = trace, evidence.SpanID{1}, "GET", "/reviews/0"
				require.NoError(t, p.logs.ConsumeLogs(t.Context(), logOf(late)))
				time.Sleep(5 * time.Second)
				synctest.Wait()
				amendment := p.sink.records()[len(p.sink.records())-1]
				require.Equal(t, attr(t, records[0], semconv.AuditRecordID), attr(t, amendment, semconv.MeshAmends))
				found := p.sink.findings()
				require.Len(t, found, 1)
				require.Equal(t, "denied_but_served", attr(t, found[0], semconv.MeshFindingKind))
				for _, r := range []plog.LogRecord{records[0], amendment} {
					require.Contains(t, attr(t, found[0], semconv.FindingRecords), attr(t, r, semconv.AuditRecordID))
				}
				p.stop(t)
			})
		})
	}
}

// A path that must be decided, and a decision that comes in time or does not.
func TestFindingOfNoDecision(t *testing.T) {
	for name, late := range map[string]time.Duration{"in time": 5 * time.Second, "too late": 30 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := createDefaultConfig()
				cfg.Findings.MustDecide = []string{"/reviews/*"}
				p := newPair(t, cfg)
				p.start(t)
				undecided := func(position string, trace byte) {
					require.NoError(t, p.logs.ConsumeLogs(t.Context(), logOf(calleeReport(position, func(e *evidence.Evidence) {
						e.TraceID, e.ParentSpanID = evidence.TraceID{trace}, evidence.SpanID{1}
					}))))
				}
				undecided("a", 1)
				decided := decisionReport("d")
				time.Sleep(late)
				decided.Verdict.Decision = evidence.Allow
				decided.TraceID, decided.ParentSpanID, decided.Method, decided.Path = evidence.TraceID{1}, evidence.SpanID{1}, "GET", "/reviews/0"
				require.NoError(t, p.logs.ConsumeLogs(t.Context(), logOf(decided)))
				time.Sleep(30 * time.Second)
				synctest.Wait()
				want := 0
				if late > cfg.Findings.DecisionWait {
					want = 1
				}
				require.Len(t, p.sink.findings(), want)
				undecided("b", 2)
				time.Sleep(5 * time.Second)
				synctest.Wait()
				p.stop(t)
				require.Len(t, p.sink.findings(), want, "its decision may yet come")
			})
		})
	}
}

// A finding comes before the record that shows it, so that a crash between the
// two finds it again, under the same id. One that is refused for good keeps
// nothing else from leaving.
func TestFindingRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plain := func(p *pair) {
			require.NoError(t, p.logs.ConsumeLogs(t.Context(), logOf(calleeReport("a", func(e *evidence.Evidence) {
				e.Start, e.End, e.TLS = 1, 2, evidence.TLS{Known: true}
			}))))
			time.Sleep(20 * time.Second)
			synctest.Wait()
		}
		event := func(ld plog.Logs) string {
			return ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).EventName()
		}
		refusing := func(p *pair, what string, err error) {
			p.sink.refusing(func(ld plog.Logs) error {
				if event(ld) == what {
					return err
				}
				return nil
			})
		}
		p := newPair(t, createDefaultConfig())
		p.start(t)
		refusing(p, semconv.EventRequest, errors.New("full"))
		plain(p)
		found := p.sink.findings()
		require.Len(t, found, 1)
		require.Empty(t, p.sink.records())
		p.sink.refusing(nil)
		p.stop(t)
		require.Len(t, p.sink.records(), 1)

		again := newPair(t, createDefaultConfig())
		again.start(t)
		plain(again)
		require.Equal(t, attr(t, found[0], semconv.AuditRecordID), attr(t, again.sink.findings()[0], semconv.AuditRecordID))
		again.stop(t)

		dropping := newPair(t, createDefaultConfig())
		dropping.start(t)
		refusing(dropping, semconv.EventFinding, consumererror.NewPermanent(errors.New("never")))
		plain(dropping)
		require.Len(t, dropping.sink.records(), 1)
		require.Empty(t, dropping.sink.findings())
		dropping.stop(t)
	})
}
