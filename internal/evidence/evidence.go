// Package evidence defines one piece of evidence: what one reporter (a proxy,
// a policy engine, an application) states about one action in the mesh.
//
// A source's decoder parses its bytes once into an Evidence; past that
// boundary there are no string identities. The package knows no collector and
// no wire format: decoders live in its sub-packages, internal/evidence/otlp
// turns an Evidence into an OpenTelemetry log record and back.
package evidence

import (
	"cmp"
	"encoding/hex"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ID names a piece of evidence: SHA-256 over the source kind, the source's own
// position and the redacted content. A resend has the same ID; two identical
// genuine lines, which differ in position, have two.
type ID [32]byte

func (id ID) String() string {
	var b [2 * len(id)]byte // so that there is one allocation, not two
	hex.Encode(b[:], id[:])
	return string(b[:])
}

// Source says which kind of system reported, and so which decoder read it.
type Source string

const (
	SourceEnvoyALS  Source = "envoy_als"    // Envoy's gRPC access log service, v3
	SourceEnvoyOTLP Source = "envoy_otlp"   // Envoy's or Istio's OpenTelemetry access log
	SourceOPA       Source = "opa_decision" // OPA's decision log
	SourceSpan      Source = "span"         // an OpenTelemetry span of an application
	SourceProxySpan Source = "envoy_span"   // an Envoy or Istio proxy's span
	SourceEnvoyText Source = "envoy_text"   // Envoy's or Istio's access log lines, text or JSON
	SourceZtunnel   Source = "ztunnel"      // Istio ambient's node proxy, its log lines
	SourceLinkerd   Source = "linkerd"      // the Linkerd proxy's access log lines
	SourceHubble    Source = "hubble"       // Cilium Hubble's exported flows
	SourceK8sAudit  Source = "k8s_audit"    // the Kubernetes API server's audit events
	SourceSPIRE     Source = "spire_audit"  // SPIRE server's and agent's audit log
	SourceOPAStatus Source = "opa_status"   // OPA's status reports: bundles activated
	SourceMapped    Source = "mapped"       // a source that the configuration describes
	SourceOpaque    Source = "opaque"       // sealed, not understood
)

// Event says what a statement is about. The zero value is a request.
type Event uint8

const (
	EventRequest        Event = iota
	EventConnection           // one connection, without requests seen in it
	EventHandshake            // a TLS handshake that failed or was refused
	EventAuthn                // who somebody is was decided: a token refused, a login failed
	EventAuthz                // a decision with no request to hang it on
	EventConfigChange         // of what decides: policy, routes, trust, rights
	EventOperatorAction       // an operator acts on a workload: exec, port-forward, a token request
	EventIdentityIssue        // an identity was given to a workload
)

// Role is the reporter's part in the action.
type Role uint8

const (
	RoleNone     Role = iota // not a statement about one call
	RoleCallee               // the called side: inbound proxy, server span
	RoleCaller               // the calling side: outbound proxy, client span
	RoleDecision             // the policy engine
	RoleObserver             // reports an event that is no call: a change, an issued identity
)

// Proof says how well an identity is proven; stronger is greater.
type Proof uint8

const (
	ProofNone    Proof = iota // nobody said so
	ProofClaimed              // the workload or a header says so
	ProofIP                   // looked up by address
	ProofJWTSVID              // a JWT-SVID, validated
	ProofXFCC                 // forwarded by a trusted proxy
	ProofMTLSSAN              // stated by the proxy that terminated mTLS
	ProofSVID                 // a certificate seen and verified against the trust bundle
)

// Identity is one statement about who a party is. Exactly one of ID and
// Invalid is set.
type Identity struct {
	ID      spiffeid.ID
	Invalid string // what was stated, bounded, where it is no SPIFFE ID
	Proof   Proof
	From    string // where it was stated: tls.peer.san, header.x-spiffe-id, service.name …
}

// Workload is the exact workload version behind a party. Empty fields are
// unknown.
type Workload struct {
	Name, Namespace, Kind, Version, Revision string
	PodName, PodUID, Node, ImageDigest       string
}

// Party is the caller (source) or the callee (destination) of an action.
type Party struct {
	Identities []Identity // strongest first, stable; statements that disagree are kept
	Workload   Workload
	Address    string // IP or host name
	Port       uint16 // 0: unknown
}

// name is the strongest identity that is a SPIFFE ID, "" without one.
func (p *Party) name() string {
	for i := range p.Identities {
		if id := p.Identities[i].ID; !id.IsZero() {
			return id.String()
		}
	}
	return ""
}

// Decision is a policy verdict.
type Decision string

const (
	Allow        Decision = "allow"
	Deny         Decision = "deny"
	Error        Decision = "error"
	NotEvaluated Decision = "not_evaluated"
)

// Verdict is what a policy engine decided, or what an enforcement point says
// that it enforced.
type Verdict struct {
	Engine          string // opa, envoy_rbac, envoy_ext_authz …
	Decision        Decision
	Enforced        bool // false: dry run
	DefaultDeny     bool // denied because no policy allowed it
	Reason          string
	PolicyID        string
	PolicyNamespace string
	PolicyRevision  string
	DecisionID      string
}

// Actor is what a source states of who acts, beyond Evidence.User.
type Actor struct {
	Type         string     // user, service, system; "": a user, if there is one
	Roles        []string   // the user's roles or groups
	Impersonator string     // who acts under the user's name
	Delegation   []Delegate // RFC 8693 act claims, outermost (who acts now) first
	Token        Token
}

// Delegate is one party of a delegation chain.
type Delegate struct{ Issuer, Subject string }

// Token is what is kept of the token by which the actor was authenticated.
type Token struct {
	Issuer, Audience string
	AuthorizedParty  string // azp, else client_id: the client to which the token was issued
	JKT              string // RFC 9449 thumbprint of the key that the token is bound to
	X5T              string // RFC 8705 thumbprint, base64url, of the certificate that it is bound to
	IDHash           string // hex SHA-256 of the token's jti
	Bound            string // dpop, mtls, none; "": not stated
	// Whether what the token is bound to was there, by a DPoP proof or the client's
	// certificate in the evidence: verified, "valid, token unknown", "other
	// certificate", or failed: WHY; "": neither is there.
	Proof string
}

// Act is what was done to what, where it is no call between two parties.
type Act struct {
	Action               string // in the source's own words, e.g. "patch authorizationpolicies"
	Outcome              string // success, failure; "": unknown
	TargetID, TargetType string
	NotAfter             int64 // of an identity that was issued, unix seconds; 0: not stated
	Change               Change
}

// Change names the object that was changed.
type Change struct {
	Group, Resource, Namespace, Name, Verb string
	DiffSHA256                             string // hex, of what the source shows of the change
	Revision                               string // of the policy that is in force from now on
}

// TLS is what the reporter saw of the downstream connection.
type TLS struct {
	Known          bool // the reporter states whether TLS was there
	Established    bool
	Version        string // 1.2, 1.3
	Cipher         string
	ClientSHA256   string // hex, of the peer's certificate
	ClientSerial   string // of the peer's certificate, as Serial gives it
	ClientIssuer   string // its distinguished name, in the source's own form
	ClientNotAfter int64  // unix seconds, 0: unknown
	Mutual         bool   // a peer certificate was presented
	FailureReason  string
}

// Reporter is who delivered the evidence to us.
type Reporter struct {
	SPIFFEID      spiffeid.ID // verified; zero if there was none
	CertSHA256    string      // hex, of the verified client certificate
	Authenticated bool
	Address       string
	Node          string // what it calls itself; a claim
}

// TraceID and SpanID are the W3C identifiers; zero means none.
type (
	TraceID [16]byte
	SpanID  [8]byte
)

// SpanKind tells how a span's or a proxy's edge to its parent is to be read.
type SpanKind uint8

const (
	SpanUnset SpanKind = iota
	SpanInternal
	SpanServer
	SpanClient
	SpanProducer
	SpanConsumer
)

// Evidence is one reporter's statement about one action. The zero value of a
// field means: the source does not say.
type Evidence struct {
	ID       ID
	Digest   [32]byte // SHA-256 of the redacted content; zero until the processor has it
	Source   Source
	Event    Event
	Role     Role
	Final    bool   // false: an interim report (a started or periodic access log entry)
	Position string // the source's own unique position, e.g. decision id, stream id and entry
	Reporter Reporter

	Start, End   int64 // unix nanoseconds; End 0: unknown
	TraceID      TraceID
	SpanID       SpanID // of the span, or of the proxy's span that the access log entry names
	ParentSpanID SpanID
	SpanKind     SpanKind

	StreamID   string // the proxy's, unique per request per proxy
	RequestID  string // x-request-id: names a whole tree of calls
	DecisionID string // the decision's own id, or the one that the access log names

	From, To Party // mesh.source.*, mesh.destination.*
	// The physical peer of the reporter's downstream connection, where the
	// source tells it apart from the client (From.Address may come from
	// X-Forwarded-For).
	PeerAddress string
	PeerPort    uint16

	Method, Path, Route, Host        string // Path without query string
	RPCSystem, RPCService, RPCMethod string
	Topic, MessagingSystem           string // a message's destination, and kafka, rabbitmq …
	Protocol                         string // HTTP/1.1, HTTP/2 …
	Status                           int    // HTTP status, 0: none
	GRPCStatus                       string // decimal, "": none
	StatusDetail                     string // Envoy's response_code_details, an error type
	ResponseFlags                    string // Envoy's short flags, comma separated
	ResendCount                      int
	Failed                           bool // the source says error without a status (span status, reset)

	User    string // authenticated end user, where the source carries one
	Cluster string
	TLS     TLS
	Verdict *Verdict
	Actor   *Actor // nil: nothing beyond User is stated
	Act     *Act   // nil for calls

	// Shown is what the source carries of the caller's credentials themselves,
	// nil for nothing. Whoever decoded verifies it, and takes it away before the
	// evidence goes on: nothing writes it.
	Shown *Credentials
}

// AppendRoute appends to b what all evidence of an action has in common, as far as it is stated, for whoever
// spreads evidence: its trace id in hex, else its request id, else who calls whom where; else, of what
// tells none of these, its own id. An observer's event without a trace id goes by its stream id, which its stages share.
func (e *Evidence) AppendRoute(b []byte) []byte {
	switch {
	case e.TraceID != (TraceID{}):
		return hex.AppendEncode(b, e.TraceID[:])
	case e.Role == RoleObserver && e.StreamID != "":
		return append(b, e.StreamID...)
	case e.RequestID != "":
		id, rest := CutRequestID(e.RequestID)
		return append(append(b, id...), rest...)
	}
	from, to, where := e.From.name(), e.To.name(), cmp.Or(e.To.Address, e.Host)
	if from == "" && to == "" && where == "" {
		return hex.AppendEncode(b, e.ID[:])
	}
	for _, s := range [...]string{from, ">", to, ">", where} {
		b = append(b, s...)
	}
	return b
}

// Credentials are what a caller proves itself by. They belong to the process
// that decoded them.
type Credentials struct {
	Peer Certificate // by which the downstream connection's peer authenticated itself to the reporter
	XFCC Certificate // of the nearest element of x-forwarded-client-cert
	JWT  string      // a token that calls itself a JWT-SVID
}

// A Certificate is one in PEM, URL-encoded or not, as proxies write it.
type Certificate struct {
	Leaf, Chain string // Chain: leaf first, or what lies above it
	Hash        string // hex SHA-256 that was stated with it; "": none
}

// Given reports whether there is one.
func (c *Certificate) Given() bool { return c.Leaf != "" || c.Chain != "" }

// String keeps credentials out of whatever prints evidence.
func (*Credentials) String() string { return "credentials" }

// Where an identity was stated, where what is behind it is more than its name.
const (
	FromXFCC            = "header.x-forwarded-client-cert"
	FromXFCCCertificate = "header.x-forwarded-client-cert.certificate" // a verified certificate in it
	FromPeerCertificate = "tls.peer.certificate"
	FromJWTSVID         = "jwt_svid"
	FromReporter        = "reporter.svid"
)

// Bounds of lists in a piece of evidence.
const (
	MaxRoles     = 32
	MaxDelegates = 16
)
