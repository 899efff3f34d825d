package envoy

import (
	"strconv"
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/token"
	"github.com/meshaudit/meshaudit/internal/evidence/xfcc"
)

// HeaderSPIFFEID is a header by which some applications name their caller.
const HeaderSPIFFEID = "x-spiffe-id"

// A Trace is what request headers say about the trace.
type Trace struct {
	ID   evidence.TraceID
	Span evidence.SpanID
}

// Headers gathers the request headers that are read. All others are dropped
// unread: cookies, authorization and what applications put there.
type Headers struct {
	trace, b3    Trace
	b3TraceID    string
	b3SpanID     string
	RequestID    string
	AttemptCount int // x-envoy-attempt-count, 1 for the first
	GRPC         bool
	xfcc         string
	spiffeID     string

	// Read for the proof of possession alone; neither is kept.
	dpop, authorization string
}

// Add takes one header; its name may be in any case.
func (h *Headers) Add(name, value string) {
	if len(name) > len(xfcc.Header) {
		return // longer than every name that is read
	}
	switch strings.ToLower(name) {
	case "traceparent":
		h.trace.ID, h.trace.Span, _ = evidence.ParseTraceparent(value)
	case "b3":
		h.b3.ID, h.b3.Span, _ = evidence.ParseB3(value)
	case "x-b3-traceid":
		h.b3TraceID = value
	case "x-b3-spanid":
		h.b3SpanID = value
	case "x-request-id":
		h.RequestID = evidence.Text(value, evidence.MaxName)
	case "x-envoy-attempt-count":
		if n, err := strconv.ParseUint(value, 10, 16); err == nil {
			h.AttemptCount = int(n)
		}
	case "content-type":
		h.GRPC = strings.HasPrefix(value, "application/grpc")
	case xfcc.Header:
		h.xfcc = value
	case HeaderSPIFFEID:
		h.spiffeID = value
	case "dpop":
		h.dpop = value
	case "authorization":
		h.authorization = value
	}
}

// Proof verifies the DPoP proof among the headers, if there is one, for e's
// request.
func (h *Headers) Proof(e *evidence.Evidence) { token.ApplyProof(e, h.dpop, h.authorization) }

// Trace returns the trace context: traceparent, else b3, else x-b3-*. Zero if
// there is none.
func (h *Headers) Trace() Trace {
	if h.trace != (Trace{}) {
		return h.trace
	}
	if h.b3 != (Trace{}) {
		return h.b3
	}
	trace, ok1 := evidence.ParseTraceID(h.b3TraceID)
	span, ok2 := evidence.ParseSpanID(h.b3SpanID)
	if !ok1 || !ok2 {
		return Trace{}
	}
	return Trace{trace, span}
}

// Claims adds what the headers say about the caller. A header is a claim,
// never a proof. Of x-forwarded-client-cert only the last element speaks of the
// request's own caller; one that does not parse is itself such a statement. A
// certificate and a JWT-SVID among them are shown to whoever verifies them.
func (h *Headers) Claims(e *evidence.Evidence) {
	from := &e.From
	from.AddIdentity(evidence.ParseIdentity(h.spiffeID, evidence.ProofClaimed, "header."+HeaderSPIFFEID))
	if jwt, ok := token.JWTSVID(h.authorization); ok {
		shown(e).JWT = jwt
	}
	if h.xfcc == "" {
		return
	}
	const where = evidence.FromXFCC
	elements, err := xfcc.Parse(h.xfcc)
	if err != nil {
		from.AddIdentity(evidence.Identity{Invalid: "unreadable " + xfcc.Header, Proof: evidence.ProofClaimed, From: where})
		return
	}
	nearest := &elements[len(elements)-1]
	for _, uri := range nearest.URI {
		from.AddIdentity(evidence.ParseIdentity(uri, evidence.ProofClaimed, where))
	}
	if c := (evidence.Certificate{Leaf: nearest.Cert, Chain: nearest.Chain, Hash: nearest.Hash}); c.Given() {
		shown(e).XFCC = c
	}
}

// shown is where e keeps credentials.
func shown(e *evidence.Evidence) *evidence.Credentials {
	if e.Shown == nil {
		e.Shown = new(evidence.Credentials)
	}
	return e.Shown
}

// applyTrace sets the trace context that the headers carry, after the role is
// known; the package comment says why so.
func applyTrace(e *evidence.Evidence, t Trace) {
	if t == (Trace{}) {
		return
	}
	if e.TraceID == (evidence.TraceID{}) {
		e.TraceID = t.ID
	}
	switch {
	case e.TraceID != t.ID: // of another trace
	case e.Role == evidence.RoleCaller:
		e.SpanID = t.Span // what the callee was told
	case e.SpanID != t.Span: // else it is the proxy's own span
		e.ParentSpanID = t.Span
	}
}

// RPC reads service and method from a gRPC request's path, /SERVICE/METHOD.
func RPC(e *evidence.Evidence) {
	rest, ok := strings.CutPrefix(e.Path, "/")
	if !ok {
		return
	}
	service, method, ok := strings.Cut(rest, "/")
	if !ok || service == "" || method == "" || strings.Contains(method, "/") {
		return
	}
	e.RPCSystem, e.RPCService, e.RPCMethod = "grpc", service, method
}
