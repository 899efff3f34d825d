// Package otlp writes a piece of evidence as a self-describing OpenTelemetry
// log record and reads it back.
//
// Decode(Encode(e)) is e. Names are those of internal/semconv; a field that the
// source does not state has no attribute. Identities: the first goes to
// mesh.source.spiffe.id (or mesh.destination.spiffe.id) with its proof and
// where it was stated, if it is a SPIFFE ID; all others, and the first if it is
// none, go to mesh.evidence.claims in their order.
//
// Encode is deterministic and does not touch the observed timestamp, the
// severity or the body. Digest is of the record itself and is not written.
package otlp

import (
	"encoding/hex"
	"math"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

const (
	// typicalAttributes is what a sidecar's access log entry gives.
	typicalAttributes = 40

	partySource      = "source"
	partyDestination = "destination"

	httpPrefix = "HTTP/"
	httpName   = "http"
)

// PartyNames are the names of one party's attributes, made once.
type PartyNames struct {
	ID, Proof, From, Configured string

	party, address, port                     string
	name, namespace, kind, version, revision string
	podName, podUID, node, imageDigest       string
}

func namesOf(party, prefix, address, port string) *PartyNames {
	return &PartyNames{
		party: party, address: address, port: port,
		ID:         prefix + semconv.SuffixSPIFFEID,
		Proof:      prefix + semconv.SuffixIdentityProof,
		From:       prefix + semconv.SuffixIdentityFrom,
		Configured: prefix + semconv.SuffixWorkloadGiven,

		name:        prefix + semconv.SuffixWorkloadName,
		namespace:   prefix + semconv.SuffixWorkloadNamespace,
		kind:        prefix + semconv.SuffixWorkloadKind,
		version:     prefix + semconv.SuffixWorkloadVersion,
		revision:    prefix + semconv.SuffixWorkloadRevision,
		podName:     prefix + semconv.SuffixPodName,
		podUID:      prefix + semconv.SuffixPodUID,
		node:        prefix + semconv.SuffixNode,
		imageDigest: prefix + semconv.SuffixImageDigest,
	}
}

// The two parties' names.
var (
	SourceNames      = namesOf(partySource, semconv.SourcePrefix, semconv.ClientAddress, semconv.ClientPort)
	DestinationNames = namesOf(partyDestination, semconv.DestinationPrefix, semconv.ServerAddress, semconv.ServerPort)
)

// Encode writes e to lr: event name mesh.evidence, timestamp, trace and span
// id, and the attributes. Attributes that lr already has are kept unless e
// states them.
func Encode(e *evidence.Evidence, lr plog.LogRecord) {
	lr.SetEventName(semconv.EventEvidence)
	lr.SetTimestamp(pcommon.Timestamp(e.Start))
	lr.SetTraceID(pcommon.TraceID(e.TraceID))
	lr.SetSpanID(pcommon.SpanID(e.SpanID))

	m := lr.Attributes()
	m.EnsureCapacity(m.Len() + typicalAttributes)
	w := writer{m}

	if e.ID != (evidence.ID{}) {
		m.PutStr(semconv.EvidenceID, e.ID.String())
	}
	m.PutStr(semconv.EvidenceSource, string(e.Source))
	if e.Event != evidence.EventRequest {
		m.PutStr(semconv.EvidenceEvent, e.Event.String())
	}
	m.PutStr(semconv.EvidenceRole, e.Role.String())
	m.PutBool(semconv.EvidenceFinal, e.Final)
	w.str(semconv.EvidencePosition, e.Position)
	encodeReporter(w, &e.Reporter)

	if e.End != 0 {
		m.PutInt(semconv.MeshDuration, e.End-e.Start)
	}
	if e.ParentSpanID != (evidence.SpanID{}) {
		m.PutStr(semconv.EvidenceParentSpanID, hex.EncodeToString(e.ParentSpanID[:]))
	}
	w.str(semconv.EvidenceSpanKind, e.SpanKind.String())

	w.str(semconv.JoinStreamID, e.StreamID)
	w.str(semconv.JoinRequestID, e.RequestID)
	w.str(semconv.JoinDecisionID, e.DecisionID)

	encodeParty(w, &e.From, SourceNames)
	encodeParty(w, &e.To, DestinationNames)
	encodeClaims(m, e)
	w.str(semconv.NetworkPeerAddress, e.PeerAddress)
	w.num(semconv.NetworkPeerPort, int64(e.PeerPort))

	w.str(semconv.HTTPRequestMethod, e.Method)
	w.str(semconv.URLPath, e.Path)
	w.str(semconv.HTTPRoute, e.Route)
	w.str(semconv.EvidenceHost, e.Host)
	w.str(semconv.RPCSystem, e.RPCSystem)
	w.str(semconv.RPCService, e.RPCService)
	w.str(semconv.RPCMethod, e.RPCMethod)
	w.str(semconv.MessagingSystem, e.MessagingSystem)
	w.str(semconv.MessagingDestination, e.Topic)
	encodeProtocol(w, e.Protocol)
	w.num(semconv.HTTPResponseStatusCode, int64(e.Status))
	encodeGRPCStatus(w, e.GRPCStatus)
	w.str(semconv.EvidenceDetail, e.StatusDetail)
	w.str(semconv.EvidenceFlags, e.ResponseFlags)
	w.num(semconv.HTTPRequestResendCount, int64(e.ResendCount))
	w.flag(semconv.EvidenceFailed, e.Failed)

	w.str(semconv.UserID, e.User)
	w.str(semconv.MeshCluster, e.Cluster)
	encodeTLS(w, &e.TLS)
	if e.Verdict != nil {
		encodeVerdict(w, e.Verdict)
	}
	if e.Actor != nil {
		EncodeActor(e.Actor, m)
	}
	if e.Act != nil {
		EncodeAct(e.Act, m)
	}
}

// A writer puts only what is stated.
type writer struct{ m pcommon.Map }

func (w writer) str(name, v string) {
	if v != "" {
		w.m.PutStr(name, v)
	}
}

func (w writer) num(name string, v int64) {
	if v != 0 {
		w.m.PutInt(name, v)
	}
}

func (w writer) flag(name string, v bool) {
	if v {
		w.m.PutBool(name, true)
	}
}

func encodeReporter(w writer, r *evidence.Reporter) {
	if !r.SPIFFEID.IsZero() {
		w.m.PutStr(semconv.EvidenceReporterSPIFFEID, r.SPIFFEID.String())
	}
	w.str(semconv.EvidenceReporterCertSHA256, r.CertSHA256)
	w.m.PutBool(semconv.EvidenceReporterAuthenticated, r.Authenticated)
	w.str(semconv.EvidenceReporterAddress, r.Address)
	w.str(semconv.EvidenceReporterNode, r.Node)
}

func encodeParty(w writer, p *evidence.Party, n *PartyNames) {
	if headed(p) {
		id := &p.Identities[0]
		w.m.PutStr(n.ID, id.ID.String())
		w.m.PutStr(n.Proof, id.Proof.String())
		w.str(n.From, id.From)
	}
	n.EncodeWorkload(w.m, &p.Workload)
	w.str(n.address, p.Address)
	w.num(n.port, int64(p.Port))
}

// EncodeWorkload writes what of a party's workload is stated.
func (n *PartyNames) EncodeWorkload(m pcommon.Map, wl *evidence.Workload) {
	w := writer{m}
	w.str(n.name, wl.Name)
	w.str(n.namespace, wl.Namespace)
	w.str(n.kind, wl.Kind)
	w.str(n.version, wl.Version)
	w.str(n.revision, wl.Revision)
	w.str(n.podName, wl.PodName)
	w.str(n.podUID, wl.PodUID)
	w.str(n.node, wl.Node)
	w.str(n.imageDigest, wl.ImageDigest)
}

// headed tells whether the party's first identity stands in attributes of its
// own; all others are claims.
func headed(p *evidence.Party) bool {
	return len(p.Identities) > 0 && !p.Identities[0].ID.IsZero()
}

func claims(p *evidence.Party) []evidence.Identity {
	if headed(p) {
		return p.Identities[1:]
	}
	return p.Identities
}

func encodeClaims(m pcommon.Map, e *evidence.Evidence) {
	from, to := claims(&e.From), claims(&e.To)
	if len(from)+len(to) == 0 {
		return
	}
	list := m.PutEmptySlice(semconv.EvidenceClaims)
	list.EnsureCapacity(len(from) + len(to))
	for i := range from {
		encodeClaim(list.AppendEmpty().SetEmptyMap(), &from[i], partySource)
	}
	for i := range to {
		encodeClaim(list.AppendEmpty().SetEmptyMap(), &to[i], partyDestination)
	}
}

func encodeClaim(m pcommon.Map, id *evidence.Identity, party string) {
	m.EnsureCapacity(4)
	if id.ID.IsZero() {
		m.PutStr(semconv.ClaimInvalid, id.Invalid)
	} else {
		m.PutStr(semconv.ClaimID, id.ID.String())
	}
	m.PutStr(semconv.ClaimProof, id.Proof.String())
	m.PutStr(semconv.ClaimParty, party)
	writer{m}.str(semconv.ClaimFrom, id.From)
}

func encodeProtocol(w writer, protocol string) {
	version, ok := strings.CutPrefix(protocol, httpPrefix)
	if !ok || version == "" {
		w.str(semconv.NetworkProtocolName, protocol)
		return
	}
	w.m.PutStr(semconv.NetworkProtocolName, httpName)
	w.m.PutStr(semconv.NetworkProtocolVersion, version)
}

func encodeGRPCStatus(w writer, status string) {
	if n, err := strconv.ParseUint(status, 10, 31); err == nil && strconv.FormatUint(n, 10) == status {
		w.m.PutInt(semconv.RPCGRPCStatusCode, int64(n))
		return
	}
	w.str(semconv.RPCGRPCStatusCode, status)
}

func encodeTLS(w writer, t *evidence.TLS) {
	if t.Known {
		w.m.PutBool(semconv.TLSEstablished, t.Established)
	}
	w.str(semconv.TLSProtocolVersion, t.Version)
	w.str(semconv.TLSCipher, t.Cipher)
	w.str(semconv.TLSClientHashSHA256, t.ClientSHA256)
	w.str(semconv.MTLSClientSerial, t.ClientSerial)
	w.str(semconv.TLSClientIssuer, t.ClientIssuer)
	w.num(semconv.TLSClientNotAfter, t.ClientNotAfter)
	w.str(semconv.MTLSFailureReason, t.FailureReason)
	switch {
	case t.FailureReason != "":
		w.m.PutStr(semconv.MTLSOutcome, semconv.MTLSFailed)
		w.flag(semconv.MTLSPeerPresented, t.Mutual)
	case t.Mutual:
		w.m.PutStr(semconv.MTLSOutcome, semconv.MTLSMutual)
	case t.Established:
		w.m.PutStr(semconv.MTLSOutcome, semconv.MTLSServerOnly)
	case t.Known:
		w.m.PutStr(semconv.MTLSOutcome, semconv.MTLSPlaintext)
	}
}

func encodeVerdict(w writer, v *evidence.Verdict) {
	// mesh.authz.enforced is always there: it says that there is a verdict.
	w.m.PutBool(semconv.AuthzEnforced, v.Enforced)
	w.str(semconv.AuthzEngine, v.Engine)
	w.str(semconv.AuthzDecision, string(v.Decision))
	w.flag(semconv.AuthzDefaultDeny, v.DefaultDeny)
	w.str(semconv.AuthzReason, v.Reason)
	w.str(semconv.AuthzPolicyID, v.PolicyID)
	w.str(semconv.AuthzPolicyNamespace, v.PolicyNamespace)
	w.str(semconv.AuthzPolicyRevision, v.PolicyRevision)
	w.str(semconv.AuthzDecisionID, v.DecisionID)
}

// Decode reads what Encode wrote. It is false if lr names no source that a
// decoder knows, is marked as raw, or is a gap. Attributes of a wrong type and names that are not ours are
// ignored. It believes what it reads, the reporter included: a record that
// came over the wire must have its mesh.evidence.* attributes removed before.
func Decode(lr plog.LogRecord) (evidence.Evidence, bool) {
	var e evidence.Evidence
	source, ok := lr.Attributes().Get(semconv.EvidenceSource)
	if !ok || !evidence.Source(source.Str()).Known() || lr.EventName() == semconv.EventEvidenceGap {
		return e, false
	}
	if raw, ok := lr.Attributes().Get(semconv.EvidenceRaw); ok && boolean(raw) {
		return e, false
	}
	e.Start = int64(lr.Timestamp())
	e.TraceID = evidence.TraceID(lr.TraceID())
	e.SpanID = evidence.SpanID(lr.SpanID())

	d := decoder{e: &e}
	for name, v := range lr.Attributes().All() {
		d.attribute(name, v)
	}
	d.finish()
	return e, true
}

// A decoder gathers what needs more than one attribute.
type decoder struct {
	e                             *evidence.Evidence
	source, destination           evidence.Identity // the first ones
	claims                        pcommon.Slice
	hasClaims, hasVerdict         bool
	hasDuration                   bool
	duration                      int64
	verdict                       evidence.Verdict
	protocolName, protocolVersion string
}

func (d *decoder) attribute(name string, v pcommon.Value) {
	e := d.e
	switch name {
	case semconv.EvidenceID:
		decodeHex(e.ID[:], v.Str())
	case semconv.EvidenceSource:
		e.Source = evidence.Source(v.Str())
	case semconv.EvidenceEvent:
		e.Event, _ = evidence.ParseEvent(v.Str())
	case semconv.EvidenceRole:
		e.Role, _ = evidence.ParseRole(v.Str())
	case semconv.EvidenceFinal:
		e.Final = boolean(v)
	case semconv.EvidencePosition:
		e.Position = v.Str()
	case semconv.EvidenceReporterSPIFFEID:
		e.Reporter.SPIFFEID, _ = spiffeid.FromString(v.Str())
	case semconv.EvidenceReporterCertSHA256:
		e.Reporter.CertSHA256 = v.Str()
	case semconv.EvidenceReporterAuthenticated:
		e.Reporter.Authenticated = boolean(v)
	case semconv.EvidenceReporterAddress:
		e.Reporter.Address = v.Str()
	case semconv.EvidenceReporterNode:
		e.Reporter.Node = v.Str()
	case semconv.MeshDuration:
		d.hasDuration, d.duration = true, integer(v)
	case semconv.EvidenceParentSpanID:
		decodeHex(e.ParentSpanID[:], v.Str())
	case semconv.EvidenceSpanKind:
		e.SpanKind, _ = evidence.ParseSpanKind(v.Str())
	case semconv.JoinStreamID:
		e.StreamID = v.Str()
	case semconv.JoinRequestID:
		e.RequestID = v.Str()
	case semconv.JoinDecisionID:
		e.DecisionID = v.Str()
	case semconv.EvidenceClaims:
		if v.Type() == pcommon.ValueTypeSlice {
			d.claims, d.hasClaims = v.Slice(), true
		}
	case semconv.NetworkPeerAddress:
		e.PeerAddress = v.Str()
	case semconv.NetworkPeerPort:
		e.PeerPort = port(v)
	case semconv.ClientAddress:
		e.From.Address = v.Str()
	case semconv.ClientPort:
		e.From.Port = port(v)
	case semconv.ServerAddress:
		e.To.Address = v.Str()
	case semconv.ServerPort:
		e.To.Port = port(v)
	case semconv.HTTPRequestMethod:
		e.Method = v.Str()
	case semconv.URLPath:
		e.Path = v.Str()
	case semconv.HTTPRoute:
		e.Route = v.Str()
	case semconv.EvidenceHost:
		e.Host = v.Str()
	case semconv.RPCSystem:
		e.RPCSystem = v.Str()
	case semconv.RPCService:
		e.RPCService = v.Str()
	case semconv.RPCMethod:
		e.RPCMethod = v.Str()
	case semconv.MessagingSystem:
		e.MessagingSystem = v.Str()
	case semconv.MessagingDestination:
		e.Topic = v.Str()
	case semconv.NetworkProtocolName:
		d.protocolName = v.Str()
	case semconv.NetworkProtocolVersion:
		d.protocolVersion = v.Str()
	case semconv.HTTPResponseStatusCode:
		e.Status = int(integer(v))
	case semconv.RPCGRPCStatusCode:
		e.GRPCStatus = v.AsString()
	case semconv.EvidenceDetail:
		e.StatusDetail = v.Str()
	case semconv.EvidenceFlags:
		e.ResponseFlags = v.Str()
	case semconv.HTTPRequestResendCount:
		e.ResendCount = int(integer(v))
	case semconv.EvidenceFailed:
		e.Failed = boolean(v)
	case semconv.UserID:
		e.User = v.Str()
	case semconv.MeshCluster:
		e.Cluster = v.Str()
	default:
		d.group(name, v)
	}
}

func (d *decoder) group(name string, v pcommon.Value) {
	switch {
	case strings.HasPrefix(name, semconv.SourcePrefix):
		decodeParty(&d.e.From.Workload, &d.source, name[len(semconv.SourcePrefix):], v.Str())
	case strings.HasPrefix(name, semconv.DestinationPrefix):
		decodeParty(&d.e.To.Workload, &d.destination, name[len(semconv.DestinationPrefix):], v.Str())
	case strings.HasPrefix(name, "mesh.authz."):
		d.authz(name, v)
	case strings.HasPrefix(name, "tls."), strings.HasPrefix(name, "mesh.mtls."):
		decodeTLS(&d.e.TLS, name, v)
	default:
		d.act(name, v)
	}
}

func decodeParty(w *evidence.Workload, id *evidence.Identity, suffix, s string) {
	switch suffix {
	case semconv.SuffixSPIFFEID:
		id.ID, _ = spiffeid.FromString(s)
	case semconv.SuffixIdentityProof:
		id.Proof, _ = evidence.ParseProof(s)
	case semconv.SuffixIdentityFrom:
		id.From = s
	case semconv.SuffixWorkloadName:
		w.Name = s
	case semconv.SuffixWorkloadNamespace:
		w.Namespace = s
	case semconv.SuffixWorkloadKind:
		w.Kind = s
	case semconv.SuffixWorkloadVersion:
		w.Version = s
	case semconv.SuffixWorkloadRevision:
		w.Revision = s
	case semconv.SuffixPodName:
		w.PodName = s
	case semconv.SuffixPodUID:
		w.PodUID = s
	case semconv.SuffixNode:
		w.Node = s
	case semconv.SuffixImageDigest:
		w.ImageDigest = s
	}
}

func (d *decoder) authz(name string, v pcommon.Value) {
	switch name {
	case semconv.AuthzEnforced:
		d.hasVerdict, d.verdict.Enforced = true, boolean(v)
	case semconv.AuthzEngine:
		d.verdict.Engine = v.Str()
	case semconv.AuthzDecision:
		d.verdict.Decision = evidence.Decision(v.Str())
	case semconv.AuthzDefaultDeny:
		d.verdict.DefaultDeny = boolean(v)
	case semconv.AuthzReason:
		d.verdict.Reason = v.Str()
	case semconv.AuthzPolicyID:
		d.verdict.PolicyID = v.Str()
	case semconv.AuthzPolicyNamespace:
		d.verdict.PolicyNamespace = v.Str()
	case semconv.AuthzPolicyRevision:
		d.verdict.PolicyRevision = v.Str()
	case semconv.AuthzDecisionID:
		d.verdict.DecisionID = v.Str()
	}
}

func decodeTLS(t *evidence.TLS, name string, v pcommon.Value) {
	switch name {
	case semconv.TLSEstablished:
		t.Known, t.Established = true, boolean(v)
	case semconv.TLSProtocolVersion:
		t.Version = v.Str()
	case semconv.TLSCipher:
		t.Cipher = v.Str()
	case semconv.TLSClientHashSHA256:
		t.ClientSHA256 = v.Str()
	case semconv.MTLSClientSerial:
		t.ClientSerial = v.Str()
	case semconv.TLSClientIssuer:
		t.ClientIssuer = v.Str()
	case semconv.TLSClientNotAfter:
		t.ClientNotAfter = integer(v)
	case semconv.MTLSFailureReason:
		t.FailureReason = v.Str()
	case semconv.MTLSOutcome:
		t.Mutual = t.Mutual || v.Str() == semconv.MTLSMutual
	case semconv.MTLSPeerPresented:
		t.Mutual = t.Mutual || boolean(v)
	}
}

func (d *decoder) finish() {
	e := d.e
	if d.hasDuration {
		e.End = e.Start + d.duration
	}
	if d.protocolVersion != "" && d.protocolName == httpName {
		e.Protocol = httpPrefix + d.protocolVersion
	} else {
		e.Protocol = d.protocolName
	}
	if !d.source.ID.IsZero() {
		e.From.Identities = append(e.From.Identities, d.source)
	}
	if !d.destination.ID.IsZero() {
		e.To.Identities = append(e.To.Identities, d.destination)
	}
	if d.hasClaims {
		d.decodeClaims()
	}
	if d.hasVerdict {
		v := d.verdict
		e.Verdict = &v
	}
}

func (d *decoder) decodeClaims() {
	for _, item := range d.claims.All() {
		if item.Type() != pcommon.ValueTypeMap {
			continue
		}
		var id evidence.Identity
		var party string
		for name, v := range item.Map().All() {
			switch name {
			case semconv.ClaimID:
				id.ID, _ = spiffeid.FromString(v.Str())
			case semconv.ClaimInvalid:
				id.Invalid = v.Str()
			case semconv.ClaimProof:
				id.Proof, _ = evidence.ParseProof(v.Str())
			case semconv.ClaimParty:
				party = v.Str()
			case semconv.ClaimFrom:
				id.From = v.Str()
			}
		}
		if id.ID.IsZero() == (id.Invalid == "") {
			continue // neither or both: not ours
		}
		switch party {
		case partySource:
			d.e.From.AddIdentity(id)
		case partyDestination:
			d.e.To.AddIdentity(id)
		}
	}
}

// decodeHex fills dst only if s is exactly its hex form.
func decodeHex(dst []byte, s string) {
	if len(s) != hex.EncodedLen(len(dst)) {
		return
	}
	if _, err := hex.Decode(dst, []byte(s)); err != nil {
		clear(dst)
	}
}

// pdata's getters panic or return zero on a wrong type, depending on the
// getter; these never panic.

func boolean(v pcommon.Value) bool {
	return v.Type() == pcommon.ValueTypeBool && v.Bool()
}

func integer(v pcommon.Value) int64 {
	if v.Type() != pcommon.ValueTypeInt {
		return 0
	}
	return v.Int()
}

func port(v pcommon.Value) uint16 {
	if n := integer(v); n > 0 && n <= math.MaxUint16 {
		return uint16(n)
	}
	return 0
}
