package clerk

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/evidence"
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

// To whom a token was issued stands beside who it is about, and acts where it is
// about nobody.
func TestTokenOnRecord(t *testing.T) {
	write := func(user string, a evidence.Actor) map[string]any {
		lr := plog.NewLogRecord()
		writeRecord(&correlate.Record{EventName: semconv.EventRequest, ID: correlate.RecordID{1}, User: user, Actor: &a}, lr, "")
		return lr.Attributes().AsRaw()
	}
	bound := evidence.Token{Issuer: "idp", AuthorizedParty: "web", X5T: "t", Bound: "mtls", Proof: "other certificate"}
	got := write("alice", evidence.Actor{Token: bound})
	for name, want := range map[string]any{
		semconv.UserID: "alice", semconv.AuditActorID: "alice", semconv.AuditActorType: "user",
		"mesh.actor.token.iss": "idp", "mesh.actor.token.azp": "web", "mesh.actor.token.x5t": "t",
		"mesh.actor.token.bound": "mtls", "mesh.actor.token.proof": "other certificate",
	} {
		assert.Equal(t, want, got[name], name)
	}
	got = write("job", evidence.Actor{Type: "service", Token: evidence.Token{AuthorizedParty: "job"}})
	assert.Equal(t, []any{"job", "job", "service"}, []any{got[semconv.UserID], got[semconv.AuditActorID], got[semconv.AuditActorType]})
	got = write("", evidence.Actor{Token: evidence.Token{AuthorizedParty: "web"}})
	assert.Equal(t, []any{nil, "web", "service"}, []any{got[semconv.UserID], got[semconv.AuditActorID], got[semconv.AuditActorType]})
}

// A certificate stands on the record as it was named.
func TestCertificateOnRecord(t *testing.T) {
	lr := plog.NewLogRecord()
	writeRecord(&correlate.Record{EventName: semconv.EventRequest, ID: correlate.RecordID{1}, TLS: evidence.TLS{
		Known: true, Established: true, Mutual: true, ClientSHA256: "ab", ClientSerial: "b8b", ClientIssuer: "CN=ca", ClientNotAfter: 5,
	}}, lr, "")
	got := lr.Attributes().AsRaw()
	for name, want := range map[string]any{
		"tls.client.hash.sha256": "ab", "mesh.mtls.client_serial": "b8b", "tls.client.issuer": "CN=ca", "tls.client.not_after": int64(5), "mesh.mtls.outcome": "mutual",
	} {
		assert.Equal(t, want, got[name], name)
	}
}

// A mesh without SPIFFE IDs names its peers in its own way, which is nothing to look at.
func TestSeverityOfConflicts(t *testing.T) {
	for name, tc := range map[string]struct {
		conflict correlate.Conflict
		want     plog.SeverityNumber
	}{
		"another kind of name": {correlate.Conflict{Other: "web.shop.serviceaccount.identity.linkerd.cluster.local", OtherProof: evidence.ProofMTLSSAN}, plog.SeverityNumberInfo},
		"a broken SPIFFE ID":   {correlate.Conflict{Other: "spiffe://", OtherProof: evidence.ProofMTLSSAN}, plog.SeverityNumberWarn},
		"what a header says":   {correlate.Conflict{Other: "web", OtherProof: evidence.ProofClaimed}, plog.SeverityNumberWarn},
		"somebody else":        {correlate.Conflict{Kept: "spiffe://example.org/a", Other: "web", OtherProof: evidence.ProofMTLSSAN}, plog.SeverityNumberWarn},
	} {
		lr := plog.NewLogRecord()
		severity(&correlate.Record{Conflicts: []correlate.Conflict{tc.conflict}}, lr)
		assert.Equal(t, tc.want, lr.SeverityNumber(), name)
	}
}

// Shortly after a change what was before may have decided: that is not stated as a fact.
func TestChangeJustBefore(t *testing.T) {
	const changed = int64(time.Hour)
	ambiguous := func(amends correlate.RecordID, after time.Duration, v evidence.Verdict) any {
		lr := plog.NewLogRecord()
		writeRecord(&correlate.Record{
			EventName: semconv.EventRequest, ID: correlate.RecordID{1}, Amends: amends, Start: changed + int64(after), Verdict: &v,
			PolicyChange: &correlate.PolicyChange{Record: correlate.RecordID{3}, By: "bob", Time: changed},
		}, lr, "")
		require.Equal(t, "bob", lr.Attributes().AsRaw()[semconv.AuthzChangeBy])
		return lr.Attributes().AsRaw()[semconv.AuthzChangeAmbiguous]
	}
	record, amendment := correlate.RecordID{}, correlate.RecordID{2}
	istio := evidence.Verdict{Engine: "envoy_rbac", PolicyNamespace: "shop", PolicyID: "orders"}
	assert.Equal(t, true, ambiguous(record, 10*time.Millisecond, istio))
	assert.Nil(t, ambiguous(record, time.Minute, istio))
	assert.Nil(t, ambiguous(record, 10*time.Millisecond, evidence.Verdict{Engine: "opa", PolicyRevision: "r7"}), "it says itself what was in force")
	assert.Equal(t, true, ambiguous(amendment, 10*time.Millisecond, istio))
	assert.Equal(t, false, ambiguous(amendment, time.Minute, istio), "its record may say otherwise")
}
