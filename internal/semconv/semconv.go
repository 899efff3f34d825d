// Package semconv holds the names of the audit record, schema version 1, and
// of the evidence that it rests on. docs/audit-record.md is the schema; where
// OpenTelemetry has a semantic convention its name is used, names below
// "mesh." are ours.
package semconv

// SchemaVersion is the value of AuditSchemaVersion.
const SchemaVersion = 1

// Event names: what one log record states.
const (
	EventRequest        = "mesh.request"
	EventConnection     = "mesh.connection"
	EventHandshake      = "mesh.handshake"
	EventAuthn          = "mesh.authn"
	EventAuthz          = "mesh.authz"
	EventConfigChange   = "mesh.config.change"
	EventOperatorAction = "mesh.operator.action"
	EventIdentityIssue  = "mesh.identity.issue"
	EventEvidenceGap    = "mesh.evidence.gap"
	EventFinding        = "mesh.finding"
	EventAmendment      = "mesh.amendment"
	// EventEvidence marks a piece of evidence that one of our receivers
	// made; evidence from other receivers keeps the event name it came with.
	EventEvidence = "mesh.evidence"
)

// The record, its actor, action and target.
const (
	AuditRecordID      = "audit.record.id"
	AuditSchemaVersion = "audit.schema.version"
	AuditActorID       = "audit.actor.id"
	AuditActorType     = "audit.actor.type"
	AuditAction        = "audit.action"
	AuditOutcome       = "audit.outcome"
	AuditTargetID      = "audit.target.id"
	AuditTargetType    = "audit.target.type"
	UserID             = "user.id"
	UserRoles          = "user.roles"

	HTTPRequestMethod       = "http.request.method"
	HTTPResponseStatusCode  = "http.response.status_code"
	HTTPRequestResendCount  = "http.request.resend_count"
	HTTPRoute               = "http.route"
	URLPath                 = "url.path"
	RPCSystem               = "rpc.system"
	RPCService              = "rpc.service"
	RPCMethod               = "rpc.method"
	RPCGRPCStatusCode       = "rpc.grpc.status_code"
	MessagingSystem         = "messaging.system"
	MessagingDestination    = "messaging.destination.name"
	ServerAddress           = "server.address"
	ServerPort              = "server.port"
	ClientAddress           = "client.address"
	ClientPort              = "client.port"
	NetworkPeerAddress      = "network.peer.address"
	NetworkPeerPort         = "network.peer.port"
	NetworkTransport        = "network.transport"
	NetworkProtocolName     = "network.protocol.name"
	NetworkProtocolVersion  = "network.protocol.version"
	TLSEstablished          = "tls.established"
	TLSProtocolVersion      = "tls.protocol.version"
	TLSCipher               = "tls.cipher"
	TLSClientHashSHA256     = "tls.client.hash.sha256"
	TLSClientIssuer         = "tls.client.issuer"
	TLSClientNotAfter       = "tls.client.not_after"
	MTLSOutcome             = "mesh.mtls.outcome"
	MTLSClientSerial        = "mesh.mtls.client_serial" // lower case hex, without leading zeros
	MTLSFailureReason       = "mesh.mtls.failure_reason"
	SecurityRuleName        = "security_rule.name"
	SecurityRuleVersion     = "security_rule.version"
	MeshCluster             = "mesh.cluster"
	MeshDuration            = "mesh.duration" // nanoseconds
	MeshHops                = "mesh.hops"
	MeshAttestations        = "mesh.attestations"
	MeshConflicts           = "mesh.conflicts"
	MeshAmends              = "mesh.amends"
	MeshEvidenceState       = "mesh.evidence.state"        // complete, partial, ambiguous
	MeshEvidenceStateReason = "mesh.evidence.state_reason" // why not complete: deadline, overload, shutdown
	MeshFindingKind         = "mesh.finding.kind"
)

// A finding.
const (
	FindingID       = "mesh.finding.id"       // of kind and subject: the same each time it is stated
	FindingSubject  = "mesh.finding.subject"  // what it is about
	FindingSeverity = "mesh.finding.severity" // info, low, medium, high, critical
	FindingCount    = "mesh.finding.count"    // of records that showed it since FindingFirst
	FindingFirst    = "mesh.finding.first"    // unix nanoseconds
	FindingLast     = "mesh.finding.last"     // unix nanoseconds
	FindingRecords  = "mesh.finding.records"  // ids of records that it rests on, the first few
)

// Who acts, beyond user.id, and what was changed.
const (
	ActorDelegation   = "mesh.actor.delegation" // maps iss, sub; outermost first
	ActorTokenIssuer  = "mesh.actor.token.iss"
	ActorTokenAud     = "mesh.actor.token.aud"
	ActorTokenAZP     = "mesh.actor.token.azp" // or client_id: the client to which the token was issued
	ActorTokenJKT     = "mesh.actor.token.jkt"
	ActorTokenX5T     = "mesh.actor.token.x5t" // base64url SHA-256 of the certificate that the token is bound to
	ActorTokenJTIHash = "mesh.actor.token.jti_hash"
	ActorTokenBound   = "mesh.actor.token.bound" // dpop, mtls, none
	ActorTokenProof   = "mesh.actor.token.proof" // verified, "valid, token unknown", "other certificate", failed: WHY

	// Who set the trace going of which the action is a part.
	InitiatorID         = "mesh.initiator.id"
	InitiatorRoles      = "mesh.initiator.roles"
	InitiatorDelegation = "mesh.initiator.delegation" // as ActorDelegation
	InitiatorDerived    = "mesh.initiator.derived"    // carried, inherited
	InitiatorEvidence   = "mesh.initiator.evidence.id"
	InitiatorAmbiguous  = "mesh.initiator.ambiguous" // true; else it is not there

	ChangeGroup        = "mesh.change.group"
	ChangeResource     = "mesh.change.resource"
	ChangeNamespace    = "mesh.change.namespace"
	ChangeName         = "mesh.change.name"
	ChangeVerb         = "mesh.change.verb"
	ChangeDiffSHA256   = "mesh.change.diff_sha256"
	ChangeRevision     = "mesh.change.revision" // of the policy that is in force from now on
	ChangeImpersonator = "mesh.change.impersonator"

	// IdentityNotAfter is until when an identity that was issued is valid, unix
	// seconds: with its SPIFFE ID it is the tls.client.not_after of its use.
	IdentityNotAfter = "mesh.identity.not_after"

	// Keys of the maps in ActorDelegation.
	DelegateIssuer  = "iss"
	DelegateSubject = "sub"
)

// Values of MTLSOutcome.
const (
	MTLSMutual     = "mutual"      // both sides presented a certificate
	MTLSServerOnly = "server_only" // TLS, the client presented none
	MTLSPlaintext  = "plaintext"
	MTLSFailed     = "failed" // the handshake failed or was refused
)

// MTLSPeerPresented is true if the peer presented a certificate in a handshake
// that failed.
const MTLSPeerPresented = "mesh.mtls.peer_presented"

// Both parties: prefix "mesh.source." or "mesh.destination." and one of the
// suffixes.
const (
	SourcePrefix      = "mesh.source."
	DestinationPrefix = "mesh.destination."

	SuffixSPIFFEID          = "spiffe.id"
	SuffixIdentityProof     = "identity.proof"
	SuffixIdentityFrom      = "identity.from" // where it was stated: tls.peer.san …
	SuffixWorkloadName      = "workload.name"
	SuffixWorkloadNamespace = "workload.namespace"
	SuffixWorkloadKind      = "workload.kind"
	SuffixWorkloadVersion   = "workload.version"
	SuffixWorkloadRevision  = "workload.revision"
	SuffixPodName           = "pod.name"
	SuffixPodUID            = "pod.uid"
	SuffixNode              = "node"
	SuffixImageDigest       = "image.digest"
	SuffixWorkloadGiven     = "workload.configured" // fields that the configuration states

	SourceSPIFFEID           = SourcePrefix + SuffixSPIFFEID
	SourceIdentityProof      = SourcePrefix + SuffixIdentityProof
	DestinationSPIFFEID      = DestinationPrefix + SuffixSPIFFEID
	DestinationIdentityProof = DestinationPrefix + SuffixIdentityProof
)

// The verdict.
const (
	AuthzEngine          = "mesh.authz.engine"
	AuthzDecision        = "mesh.authz.decision" // allow, deny, error, not_evaluated
	AuthzEnforced        = "mesh.authz.enforced"
	AuthzDefaultDeny     = "mesh.authz.default_deny"
	AuthzReason          = "mesh.authz.reason"
	AuthzPolicyID        = "mesh.authz.policy.id"
	AuthzPolicyNamespace = "mesh.authz.policy.namespace"
	AuthzPolicyRevision  = "mesh.authz.policy.revision"
	AuthzDecisionID      = "mesh.authz.decision.id"

	// The last known change of the policy that decided.
	AuthzChangeRecord    = "mesh.authz.policy.change.record"    // id of the mesh.config.change record
	AuthzChangeBy        = "mesh.authz.policy.change.by"        // the operator
	AuthzChangeTime      = "mesh.authz.policy.change.time"      // unix nanoseconds
	AuthzChangeAmbiguous = "mesh.authz.policy.change.ambiguous" // so near it that the policy before may have decided
)

// On a span that has left: what others showed of the call that it is a part of.
// Written here alone; what comes with such a name is dropped, and it is no part
// of the evidence.
const (
	CallPrefix                   = "mesh.call."
	CallSourceSPIFFEID           = "mesh.call.source.spiffe.id"
	CallSourceIdentityProof      = "mesh.call.source.identity.proof"
	CallDestinationSPIFFEID      = "mesh.call.destination.spiffe.id"
	CallDestinationIdentityProof = "mesh.call.destination.identity.proof"
	CallAuthzDecision            = "mesh.call.authz.decision"
	CallRecordID                 = "mesh.call.record.id" // audit.record.id of the call's record
)

// How the pieces were joined.
const (
	JoinMethod     = "mesh.join.method"
	JoinConfidence = "mesh.join.confidence"
	JoinRequestID  = "mesh.join.request_id"
	JoinStreamID   = "mesh.join.stream_id"
	JoinDecisionID = "mesh.join.decision_id"
)

// On every piece of evidence. EvidenceReporter* are written only from what a
// receiver of this process saw of its peer, never taken from the wire.
const (
	EvidencePrefix                = "mesh.evidence."
	EvidenceID                    = "mesh.evidence.id"       // 64 hex digits
	EvidenceSource                = "mesh.evidence.source"   // the source kind, e.g. envoy_als
	EvidenceEvent                 = "mesh.evidence.event"    // what it is about, as a record's event name; absent: mesh.request
	EvidenceRole                  = "mesh.evidence.role"     // callee, caller, decision, observer, none
	EvidencePosition              = "mesh.evidence.position" // the source's own unique position
	EvidenceFinal                 = "mesh.evidence.final"    // false: not the last word on this request
	EvidenceRoute                 = "mesh.evidence.route"    // where an agent sends it: what leads all evidence of an action to one gateway
	EvidenceRedacted              = "mesh.evidence.redacted" // number of values dropped or hashed by the allow-list
	EvidenceRaw                   = "mesh.evidence.raw"      // true: could not be decoded, body is what came
	EvidenceError                 = "mesh.evidence.error"    // why it could not be decoded
	EvidenceBodySHA256            = "mesh.evidence.body.sha256"
	EvidenceReporterSPIFFEID      = "mesh.evidence.reporter.spiffe.id"
	EvidenceReporterAuthenticated = "mesh.evidence.reporter.authenticated"
	EvidenceReporterAddress       = "mesh.evidence.reporter.address"
	EvidenceReporterCertSHA256    = "mesh.evidence.reporter.cert.sha256"
	EvidenceReporterNode          = "mesh.evidence.reporter.node" // what the reporter calls itself, e.g. Envoy's node id
	// Statements about an identity that are weaker than the one on
	// mesh.source.spiffe.id: an array of maps id, proof, party, from.
	EvidenceClaims = "mesh.evidence.claims"

	// What one reporter states about the call, beyond the audit record's own
	// attributes.
	EvidenceParentSpanID = "mesh.evidence.parent_span_id" // 16 hex digits
	EvidenceSpanKind     = "mesh.evidence.span_kind"      // internal, server, client, producer, consumer
	EvidenceFailed       = "mesh.evidence.failed"         // true: an error without a status
	EvidenceDetail       = "mesh.evidence.detail"         // Envoy's response_code_details, an error type
	EvidenceFlags        = "mesh.evidence.response_flags" // Envoy's short flags, comma separated
	EvidenceHost         = "mesh.evidence.host"           // the request's authority, as the caller asked for it

	// Keys of the maps in MeshAttestations that are read back.
	AttestationID   = "id"   // of a piece of evidence
	AttestationRole = "role" // in which it tells of the action

	// Keys of the maps in EvidenceClaims.
	ClaimID      = "id"      // a SPIFFE ID
	ClaimInvalid = "invalid" // what was stated, where it is no SPIFFE ID
	ClaimProof   = "proof"
	ClaimParty   = "party" // source or destination
	ClaimFrom    = "from"

	// A gap: evidence that is known to be lost before it could be sealed.
	GapCount  = "mesh.evidence.gap.count"
	GapReason = "mesh.evidence.gap.reason"
	GapSince  = "mesh.evidence.gap.since" // unix nanoseconds of the first loss
	GapUntil  = "mesh.evidence.gap.until" // unix nanoseconds of the last loss
)
