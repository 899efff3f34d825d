package evidence

import "github.com/meshaudit/meshaudit/internal/semconv"

// The names by which levels and kinds are written on records. Each list is
// indexed by the constant it names.
var (
	proofNames = [...]string{"none", "claimed", "ip", "jwt_svid", "xfcc", "mtls_san", "svid"}
	roleNames  = [...]string{"none", "callee", "caller", "decision", "observer"}
	eventNames = [...]string{
		semconv.EventRequest, semconv.EventConnection, semconv.EventHandshake, semconv.EventAuthn,
		semconv.EventAuthz, semconv.EventConfigChange, semconv.EventOperatorAction, semconv.EventIdentityIssue,
	}
	spanKindNames = [...]string{"", "internal", "server", "client", "producer", "consumer"}
)

func name(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return "unknown"
}

func parseName(names []string, s string) (uint8, bool) {
	for i, n := range names {
		if n == s {
			return uint8(i), true
		}
	}
	return 0, false
}

func (p Proof) String() string { return name(proofNames[:], int(p)) }

// ParseProof is the inverse of Proof.String.
func ParseProof(s string) (Proof, bool) {
	i, ok := parseName(proofNames[:], s)
	return Proof(i), ok
}

func (r Role) String() string { return name(roleNames[:], int(r)) }

// ParseRole is the inverse of Role.String.
func ParseRole(s string) (Role, bool) {
	i, ok := parseName(roleNames[:], s)
	return Role(i), ok
}

// String is the event name of a record of this event.
func (e Event) String() string { return name(eventNames[:], int(e)) }

// ParseEvent is the inverse of Event.String.
func ParseEvent(s string) (Event, bool) {
	i, ok := parseName(eventNames[:], s)
	return Event(i), ok
}

// String returns the kind in lower case, "" for SpanUnset.
func (k SpanKind) String() string { return name(spanKindNames[:], int(k)) }

// ParseSpanKind is the inverse of SpanKind.String.
func ParseSpanKind(s string) (SpanKind, bool) {
	i, ok := parseName(spanKindNames[:], s)
	return SpanKind(i), ok
}

// Known reports whether s is one of the sources that a decoder reads;
// SourceOpaque is not.
func (s Source) Known() bool {
	switch s {
	case SourceEnvoyALS, SourceEnvoyOTLP, SourceEnvoyText, SourceZtunnel, SourceLinkerd, SourceHubble,
		SourceOPA, SourceOPAStatus, SourceSpan, SourceProxySpan, SourceK8sAudit, SourceSPIRE, SourceMapped:
		return true
	}
	return false
}
