package clerk

import (
	"encoding/hex"

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

// routeOf is the route of e, which came under a trace id or none.
func routeOf(e *evidence.Evidence, trace pcommon.TraceID) string {
	if !trace.IsEmpty() {
		return hex.EncodeToString(trace[:])
	}
	return string(e.AppendRoute(nil))
}
