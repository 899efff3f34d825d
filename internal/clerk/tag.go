package clerk

import (
	"encoding/hex"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// route tags evidence with what leads all evidence of its action to one gateway.
func (in *intake) route(e *evidence.Evidence, trace pcommon.TraceID, m pcommon.Map) {
	if in.tag {
		m.PutStr(semconv.EvidenceRoute, routeOf(e, trace))
	}
}

// unroute removes a sender's own route from a resource or scope, where the
// exporter would look first.
func (in *intake) unroute(m pcommon.Map) int {
	if in.tag && m.Remove(semconv.EvidenceRoute) {
		return 1
	}
	return 0
}

// routeOf is the trace id, else the request id, else who calls whom where, in
// that order as far as it is stated; else the evidence's own id.
func routeOf(e *evidence.Evidence, trace pcommon.TraceID) string {
	switch {
	case !trace.IsEmpty():
		return hex.EncodeToString(trace[:])
	case e.TraceID != (evidence.TraceID{}):
		return hex.EncodeToString(e.TraceID[:])
	case e.RequestID != "":
		return e.RequestID
	}
	route := strings.Join([]string{name(&e.From), name(&e.To), first(e.To.Address, e.Host)}, ">")
	if route == ">>" {
		return e.ID.String()
	}
	return route
}

// name is a party's strongest identity.
func name(p *evidence.Party) string {
	for _, id := range p.Identities {
		if !id.ID.IsZero() {
			return id.ID.String()
		}
	}
	return ""
}
