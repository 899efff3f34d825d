package clerk

import (
	"slices"
	"strconv"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/otlp"
	"github.com/meshaudit/meshaudit/internal/policy"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// recordsToLogs writes records as log records, by docs/audit-record.md.
func (c *Clerk) recordsToLogs(batch []*correlate.Record, observed time.Time) plog.Logs {
	ld, records := c.newRecords()
	records.EnsureCapacity(len(batch))
	for _, r := range batch {
		lr := records.AppendEmpty()
		lr.SetObservedTimestamp(pcommon.NewTimestampFromTime(observed))
		writeRecord(r, lr, c.cfg.Cluster)
	}
	return ld
}

// newRecords makes a request for records of ours.
func (c *Clerk) newRecords() (plog.Logs, plog.LogRecordSlice) {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", "meshaudit")
	sl := rl.ScopeLogs().AppendEmpty()
	sl.Scope().SetName(c.scope)
	return ld, sl.LogRecords()
}

// writer puts only what is stated.
type writer struct{ pcommon.Map }

func (w writer) str(name, v string) {
	if v != "" {
		w.PutStr(name, v)
	}
}

func (w writer) num(name string, v int64) {
	if v != 0 {
		w.PutInt(name, v)
	}
}

func writeRecord(r *correlate.Record, lr plog.LogRecord, cluster string) {
	lr.SetEventName(r.EventName)
	lr.SetTimestamp(pcommon.Timestamp(r.Start))
	lr.SetTraceID(pcommon.TraceID(r.TraceID))
	lr.SetSpanID(pcommon.SpanID(r.SpanID))
	severity(r, lr)

	w := writer{lr.Attributes()}
	w.EnsureCapacity(40)
	// An amendment that does not know does not say so: the record may know.
	amends := r.Amends != (correlate.RecordID{})
	w.PutStr(semconv.AuditRecordID, r.ID.String())
	w.PutInt(semconv.AuditSchemaVersion, semconv.SchemaVersion)
	if amends {
		w.PutStr(semconv.MeshAmends, r.Amends.String())
	}
	writeActor(w, r)
	if r.Actor != nil {
		otlp.EncodeActor(r.Actor, w.Map)
	}
	if r.Act != nil {
		otlp.EncodeAct(r.Act, w.Map)
	}
	if i := r.Initiator; i != nil {
		w.PutStr(semconv.InitiatorID, i.ID)
		otlp.EncodeRoles(w.Map, semconv.InitiatorRoles, i.Roles)
		otlp.EncodeDelegation(w.Map, semconv.InitiatorDelegation, i.Delegation)
		w.PutStr(semconv.InitiatorDerived, i.Derived)
		w.PutStr(semconv.InitiatorEvidence, i.Evidence.String())
		if i.Ambiguous {
			w.PutBool(semconv.InitiatorAmbiguous, true)
		}
	}
	if !amends || r.Outcome != correlate.Unknown {
		w.PutStr(semconv.AuditOutcome, r.Outcome.String())
	}
	w.num(semconv.MeshDuration, r.End-r.Start)

	w.str(semconv.HTTPRequestMethod, r.Method)
	w.str(semconv.URLPath, r.Path)
	w.str(semconv.HTTPRoute, r.Route)
	w.str(semconv.RPCSystem, r.RPCSystem)
	w.str(semconv.RPCService, r.RPCService)
	w.str(semconv.RPCMethod, r.RPCMethod)
	w.str(semconv.MessagingSystem, r.MessagingSystem)
	w.str(semconv.MessagingDestination, r.Topic)
	w.num(semconv.HTTPResponseStatusCode, int64(r.Status))
	if r.GRPCStatus != "" {
		if n, err := strconv.ParseInt(r.GRPCStatus, 10, 64); err == nil {
			w.PutInt(semconv.RPCGRPCStatusCode, n)
		}
	}
	w.num(semconv.HTTPRequestResendCount, int64(r.ResendCount))
	if name, version, ok := protocol(r.Protocol); ok {
		w.PutStr(semconv.NetworkProtocolName, name)
		w.str(semconv.NetworkProtocolVersion, version)
	}

	if r.Act == nil { // else there are no two parties and no hop between them
		writeParty(w, &r.Source, otlp.SourceNames, amends)
		writeParty(w, &r.Destination, otlp.DestinationNames, amends)
		if !amends || len(r.Hops) > 0 {
			writeHops(w, r.Hops)
		}
	} else if !r.Source.ID.IsZero() || r.Source.Workload != (evidence.Workload{}) {
		writeParty(w, &r.Source, otlp.SourceNames, amends)
	}
	w.str(semconv.ClientAddress, r.Source.Address)
	w.num(semconv.ClientPort, int64(r.Source.Port))
	w.str(semconv.ServerAddress, first(r.Destination.Address, r.Host))
	w.num(semconv.ServerPort, int64(r.Destination.Port))
	w.str(semconv.NetworkPeerAddress, r.PeerAddress)
	w.num(semconv.NetworkPeerPort, int64(r.PeerPort))
	if r.Source.Address != "" || r.Destination.Address != "" {
		w.PutStr(semconv.NetworkTransport, "tcp")
	}
	w.str(semconv.MeshCluster, first(r.Cluster, cluster))

	writeTLS(w, &r.TLS)
	if r.Verdict != nil {
		writeVerdict(w, r.Verdict)
	}
	if c := r.PolicyChange; c != nil {
		w.PutStr(semconv.AuthzChangeRecord, c.Record.String())
		w.str(semconv.AuthzChangeBy, c.By)
		w.PutInt(semconv.AuthzChangeTime, c.Time)
		if near := !settled(r); near || amends {
			w.PutBool(semconv.AuthzChangeAmbiguous, near)
		}
	}
	if !amends || len(r.Attestations) > 0 {
		w.PutStr(semconv.JoinMethod, r.Join.Method.String())
		w.PutDouble(semconv.JoinConfidence, r.Join.Confidence)
	}
	w.str(semconv.JoinRequestID, r.Join.RequestID)
	w.str(semconv.JoinStreamID, r.Join.StreamID)
	w.str(semconv.JoinDecisionID, r.Join.DecisionID)
	w.PutStr(semconv.MeshEvidenceState, r.State.String())
	w.str(semconv.MeshEvidenceStateReason, r.Reason)
	writeAttestations(w, r.Attestations)
	writeConflicts(w, r.Conflicts)
}

// severity: what someone may want to look at is a warning.
func severity(r *correlate.Record, lr plog.LogRecord) {
	denied := r.Verdict != nil && (r.Verdict.Decision == evidence.Deny || r.Verdict.Decision == evidence.Error)
	contradicted := slices.ContainsFunc(r.Conflicts, func(c correlate.Conflict) bool { return !c.Outside() })
	if denied || contradicted || r.State == correlate.Ambiguous {
		lr.SetSeverityNumber(plog.SeverityNumberWarn)
		lr.SetSeverityText("WARN")
		return
	}
	lr.SetSeverityNumber(plog.SeverityNumberInfo)
	lr.SetSeverityText("INFO")
}

func writeActor(w writer, r *correlate.Record) {
	w.str(semconv.UserID, r.User)
	switch {
	case r.User != "":
		w.PutStr(semconv.AuditActorID, r.User)
		w.PutStr(semconv.AuditActorType, "user")
	case r.Actor != nil && r.Actor.Token.AuthorizedParty != "": // nobody says for whom
		w.PutStr(semconv.AuditActorID, r.Actor.Token.AuthorizedParty)
		w.PutStr(semconv.AuditActorType, "service")
	case !r.Source.ID.IsZero():
		w.PutStr(semconv.AuditActorID, r.Source.ID.String())
		w.PutStr(semconv.AuditActorType, "service")
	case r.Source.Workload.Name != "":
		w.PutStr(semconv.AuditActorID, qualified(r.Source.Workload))
		w.PutStr(semconv.AuditActorType, "service")
	}
	switch {
	case r.Method != "":
		w.PutStr(semconv.AuditAction, joined(r.Method, first(r.Route, r.Path)))
	case r.RPCMethod != "":
		w.PutStr(semconv.AuditAction, joined(r.RPCService, r.RPCMethod))
	case r.Topic != "":
		w.PutStr(semconv.AuditAction, joined("publish", r.Topic))
	}
	if target := first(r.Destination.ID.String(), qualified(r.Destination.Workload), r.Host, r.Destination.Address); target != "" {
		w.PutStr(semconv.AuditTargetID, target)
		w.PutStr(semconv.AuditTargetType, "service")
	}
}

func qualified(wl evidence.Workload) string {
	if wl.Name == "" || wl.Namespace == "" {
		return wl.Name
	}
	return wl.Namespace + "/" + wl.Name
}

func joined(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + " " + b
}

func first(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}

// protocol splits Envoy's HTTP/1.1.
func protocol(s string) (name, version string, ok bool) {
	const http = "HTTP/"
	if len(s) > len(http) && s[:len(http)] == http {
		return "http", s[len(http):], true
	}
	return s, "", s != ""
}

func writeParty(w writer, p *correlate.Party, name *otlp.PartyNames, amends bool) {
	w.str(name.ID, p.ID.String())
	if !amends || p.Proof != evidence.ProofNone {
		w.PutStr(name.Proof, p.Proof.String())
	}
	w.str(name.From, p.From)
	name.EncodeWorkload(w.Map, &p.Workload)
	if len(p.Configured) > 0 {
		list := w.PutEmptySlice(name.Configured)
		for _, suffix := range p.Configured {
			list.AppendEmpty().SetStr(suffix)
		}
	}
}

func writeTLS(w writer, t *evidence.TLS) {
	if !t.Known {
		return
	}
	w.PutBool(semconv.TLSEstablished, t.Established)
	w.str(semconv.TLSProtocolVersion, t.Version)
	w.str(semconv.TLSCipher, t.Cipher)
	w.str(semconv.TLSClientHashSHA256, t.ClientSHA256)
	w.str(semconv.MTLSClientSerial, t.ClientSerial)
	w.str(semconv.TLSClientIssuer, t.ClientIssuer)
	w.num(semconv.TLSClientNotAfter, t.ClientNotAfter)
	w.str(semconv.MTLSFailureReason, t.FailureReason)
	switch {
	case t.FailureReason != "":
		w.PutStr(semconv.MTLSOutcome, semconv.MTLSFailed)
	case t.Mutual:
		w.PutStr(semconv.MTLSOutcome, semconv.MTLSMutual)
	case t.Established:
		w.PutStr(semconv.MTLSOutcome, semconv.MTLSServerOnly)
	default:
		w.PutStr(semconv.MTLSOutcome, semconv.MTLSPlaintext)
	}
}

func writeVerdict(w writer, v *evidence.Verdict) {
	w.str(semconv.AuthzEngine, v.Engine)
	w.str(semconv.AuthzDecision, string(v.Decision))
	w.PutBool(semconv.AuthzEnforced, v.Enforced)
	if v.DefaultDeny {
		w.PutBool(semconv.AuthzDefaultDeny, true)
	}
	w.str(semconv.AuthzReason, v.Reason)
	w.str(semconv.AuthzPolicyID, v.PolicyID)
	w.str(semconv.AuthzPolicyNamespace, v.PolicyNamespace)
	w.str(semconv.AuthzPolicyRevision, v.PolicyRevision)
	w.str(semconv.AuthzDecisionID, v.DecisionID)
	w.str(semconv.SecurityRuleName, v.PolicyID)
	w.str(semconv.SecurityRuleVersion, v.PolicyRevision)
}

// settled says whether the record was decided under its policy's change for certain.
func settled(r *correlate.Record) bool {
	d := policy.Decision{At: r.Start}
	if v := r.Verdict; v != nil {
		d.Engine, d.Revision = v.Engine, v.PolicyRevision
	}
	return d.Settled(r.PolicyChange.Time)
}

func writeHops(w writer, hops []correlate.Hop) {
	list := w.PutEmptySlice(semconv.MeshHops)
	list.EnsureCapacity(len(hops))
	for _, h := range hops {
		m := writer{list.AppendEmpty().SetEmptyMap()}
		m.str("spiffe.id", h.ID.String())
		m.PutStr("role", h.Role)
		m.str("node", h.Node)
		m.str("stream_id", h.StreamID)
	}
}

func writeAttestations(w writer, all []correlate.Attestation) {
	list := w.PutEmptySlice(semconv.MeshAttestations)
	list.EnsureCapacity(len(all))
	for i := range all {
		a := &all[i]
		m := writer{list.AppendEmpty().SetEmptyMap()}
		m.EnsureCapacity(8)
		m.PutStr(semconv.AttestationID, a.ID.String())
		m.PutStr("digest", evidence.ID(a.Digest).String())
		m.PutStr("source", string(a.Source))
		m.PutStr(semconv.AttestationRole, a.Role.String())
		m.PutInt("time", a.Time)
		m.PutStr("join", a.Joined.String())
		if !a.Final {
			m.PutBool("final", false)
		}
		m.PutBool("reporter.authenticated", a.Reporter.Authenticated)
		m.str("reporter.spiffe.id", a.Reporter.SPIFFEID.String())
		m.str("reporter.cert.sha256", a.Reporter.CertSHA256)
		m.str("reporter.address", a.Reporter.Address)
		m.str("reporter.node", a.Reporter.Node)
	}
}

func writeConflicts(w writer, all []correlate.Conflict) {
	if len(all) == 0 {
		return
	}
	list := w.PutEmptySlice(semconv.MeshConflicts)
	list.EnsureCapacity(len(all))
	for _, c := range all {
		m := writer{list.AppendEmpty().SetEmptyMap()}
		m.PutStr("field", c.Field)
		m.str("kept", c.Kept)
		m.str("other", c.Other)
		if c.KeptProof != evidence.ProofNone {
			m.PutStr("kept.proof", c.KeptProof.String())
		}
		if c.OtherProof != evidence.ProofNone {
			m.PutStr("other.proof", c.OtherProof.String())
		}
		m.str("from", c.From)
		if c.Evidence != (evidence.ID{}) {
			m.PutStr("evidence.id", c.Evidence.String())
		}
	}
}
