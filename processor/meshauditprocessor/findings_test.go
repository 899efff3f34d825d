package meshauditprocessor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/meshaudit/meshaudit/internal/clerk"
	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/otlp"
	"github.com/meshaudit/meshaudit/internal/findings"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/processor/meshauditprocessor/internal/metadatatest"
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

// faults shows each kind of finding in one piece of evidence or a few.
func faults() map[findings.Kind]plog.Logs {
	callee := func(change func(*evidence.Evidence)) plog.Logs { return logOf(calleeReport("a", change)) }
	denied := decisionReport("d")
	denied.Method, denied.Path = "GET", "/reviews/0"
	var shared []evidence.Evidence
	for i, address := range []string{"10.0.0.1", "10.0.0.9", "10.0.0.1"} {
		shared = append(shared, calleeReport(string(rune('a'+i)), func(e *evidence.Evidence) {
			e.Start += int64(i) * int64(time.Millisecond)
			e.From.Address, e.TLS = address, evidence.TLS{Known: true, Established: true, Mutual: true, ClientSHA256: "ab"}
		}))
	}
	gap := plog.NewLogs()
	otlp.EncodeGap(&evidence.Gap{Source: evidence.SourceEnvoyALS, Position: "g", Reason: "shutdown", Count: 5},
		gap.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty())
	return map[findings.Kind]plog.Logs{
		findings.DeniedButServed:       logOf(calleeReport("a", func(e *evidence.Evidence) { e.DecisionID = "d" }), denied),
		findings.ServedWithoutDecision: callee(func(e *evidence.Evidence) { e.Path = "/admin/x" }),
		findings.IdentityConflict: callee(func(e *evidence.Evidence) {
			e.From.AddIdentity(evidence.ParseIdentity("spiffe://example.org/evil", evidence.ProofClaimed, "header.x-spiffe-id"))
		}),
		findings.Plaintext:        callee(func(e *evidence.Evidence) { e.TLS.Known = true }),
		findings.SharedCredential: logOf(shared...),
		findings.UnknownTrustDomain: callee(func(e *evidence.Evidence) {
			e.From.Identities = []evidence.Identity{mustID("spiffe://other.example/a")}
		}),
		findings.ExpiredCertificate: callee(func(e *evidence.Evidence) {
			e.Event, e.Method, e.Path, e.Status = evidence.EventConnection, "", "", 0
			e.TLS = evidence.TLS{Known: true, Established: true, Mutual: true, ClientSHA256: "ab", ClientNotAfter: time.Now().Add(-time.Hour).Unix()}
		}),
		findings.EvidenceGap: gap,
		findings.PolicyChanged: logOf(evidence.Evidence{
			Source: evidence.SourceK8sAudit, Role: evidence.RoleObserver, Event: evidence.EventConfigChange, Final: true, Position: "c", Start: time.Now().UnixNano(), User: "alice",
			Act: &evidence.Act{Action: "patch authorizationpolicies", Outcome: "success", Change: evidence.Change{Group: "security.istio.io", Resource: "authorizationpolicies", Namespace: "shop", Name: "orders", Verb: "patch"}},
		}),
	}
}

// Each kind can be switched off, made as urgent as one likes, and kept to some
// records; by default it is there.
func TestEachKindIsConfigured(t *testing.T) {
	for kind, byDefault := range findings.Kinds {
		for name, tc := range map[string]struct {
			cfg  clerk.FindingConfig
			want findings.Severity // "": no finding
		}{
			"by default":         {clerk.FindingConfig{}, byDefault},
			"off":                {clerk.FindingConfig{Off: true}, ""},
			"of a severity":      {clerk.FindingConfig{Severity: findings.Low}, findings.Low},
			"where it is":        {clerk.FindingConfig{Condition: `attributes["audit.record.id"] != nil`}, byDefault},
			"not where it isn't": {clerk.FindingConfig{Condition: `attributes["audit.record.id"] == nil`}, ""},
		} {
			if tc.cfg.Condition != "" && kind == findings.EvidenceGap {
				continue // rests on no record
			}
			t.Run(string(kind)+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					cfg := createDefaultConfig()
					cfg.Findings.MustDecide, cfg.Findings.TrustDomains = []string{"/admin/*"}, []string{"example.org"}
					cfg.Findings.Kinds = map[findings.Kind]clerk.FindingConfig{kind: tc.cfg}
					require.NoError(t, cfg.Validate())
					p := newPair(t, cfg)
					p.start(t)
					require.NoError(t, p.logs.ConsumeLogs(ours(t.Context()), faults()[kind]))
					time.Sleep(time.Minute)
					p.stop(t)
					found := p.sink.findings()
					if tc.want == "" {
						require.Empty(t, found)
						return
					}
					require.Len(t, found, 1)
					require.Equal(t, string(kind), attr(t, found[0], semconv.MeshFindingKind))
					require.Equal(t, string(tc.want), attr(t, found[0], semconv.FindingSeverity))
					require.Equal(t, string(tc.want), found[0].SeverityText())
				})
			})
		}
	}
}

// A finding in doubt is counted with the severity that it states: it wakes nobody.
func TestFindingInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel := componenttest.NewTelemetry()
		p := newPairWith(t, createDefaultConfig(), metadatatest.NewSettings(tel))
		p.start(t)
		// Its connection may have begun before the certificate ended.
		expired := calleeReport("a", func(e *evidence.Evidence) {
			e.TLS = evidence.TLS{Known: true, Established: true, Mutual: true, ClientSHA256: "ab", ClientNotAfter: time.Now().Add(-time.Hour).Unix()}
		})
		require.NoError(t, p.logs.ConsumeLogs(t.Context(), logOf(expired)))
		time.Sleep(time.Minute)
		p.stop(t)
		require.Len(t, p.sink.findings(), 1)
		require.Equal(t, "low", p.sink.findings()[0].SeverityText())
		got, err := tel.GetMetric("otelcol_meshaudit_findings")
		require.NoError(t, err)
		for _, d := range got.Data.(metricdata.Sum[int64]).DataPoints {
			severity, _ := d.Attributes.Value("severity")
			kind, _ := d.Attributes.Value("kind")
			want := int64(0)
			if kind.AsString() == "expired_certificate" && severity.AsString() == "low" {
				want = 1
			}
			require.Equal(t, want, d.Value, d.Attributes)
		}
		require.NoError(t, tel.Shutdown(context.Background()))
	})
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
