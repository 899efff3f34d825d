package meshauditprocessor

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meshaudit/meshaudit/internal/clerk"
	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/findings"
	"github.com/meshaudit/meshaudit/internal/semconv"
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
