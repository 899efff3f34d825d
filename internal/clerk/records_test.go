package clerk

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// An amendment states nothing that it does not know, so that it never takes
// back what its record states.
func TestAmendmentThatKnowsLittle(t *testing.T) {
	attributes := func(r *correlate.Record) (names []string) {
		lr := plog.NewLogRecord()
		writeRecord(r, lr, "")
		for name := range lr.Attributes().All() {
			names = append(names, name)
		}
		slices.Sort(names)
		return names
	}
	record := &correlate.Record{EventName: semconv.EventRequest, ID: correlate.RecordID{1}}
	assert.Subset(t, attributes(record), []string{semconv.AuditOutcome, semconv.JoinMethod, semconv.MeshHops, semconv.SourcePrefix + semconv.SuffixIdentityProof})

	record.EventName, record.Amends = semconv.EventAmendment, correlate.RecordID{2}
	record.Initiator = &correlate.Initiator{ID: "alice", Derived: "inherited"}
	assert.Equal(t, []string{
		semconv.AuditRecordID, semconv.AuditSchemaVersion, semconv.MeshAmends, semconv.MeshAttestations, semconv.MeshEvidenceState,
		semconv.InitiatorDerived, semconv.InitiatorEvidence, semconv.InitiatorID,
	}, attributes(record))
}
