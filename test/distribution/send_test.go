package distribution

import (
	"context"
	"crypto/sha256"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
)

// ledgerID is the attribute by which the tests find a log record again.
const ledgerID = "test.ledger.id"

// sendLogs sends one request of log records with these ids; nil means that
// they are acknowledged.
func sendLogs(ctx context.Context, conn *grpc.ClientConn, ids ...string) error {
	logs := plog.NewLogs()
	resource := logs.ResourceLogs().AppendEmpty()
	resource.Resource().Attributes().PutStr("service.name", "ledger")
	records := resource.ScopeLogs().AppendEmpty().LogRecords()
	for _, id := range ids {
		record := records.AppendEmpty()
		record.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
		record.Body().SetStr("entry")
		record.Attributes().PutStr(ledgerID, id)
	}
	_, err := plogotlp.NewGRPCClient(conn).Export(ctx, plogotlp.NewExportRequestFromLogs(logs))
	return err
}

// traceIDOf gives the trace of a call by its name.
func traceIDOf(call string) pcommon.TraceID {
	sum := sha256.Sum256([]byte(call))
	return pcommon.TraceID(sum[:16])
}

// sendCall sends the server span of one call as an application reports it;
// nil means that it is acknowledged.
func sendCall(ctx context.Context, conn *grpc.ClientConn, call string) error {
	traces := ptrace.NewTraces()
	resource := traces.ResourceSpans().AppendEmpty()
	resource.Resource().Attributes().PutStr("service.name", "orders")
	span := resource.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	trace := traceIDOf(call)
	span.SetTraceID(trace)
	span.SetSpanID(pcommon.SpanID(trace[:8]))
	span.SetKind(ptrace.SpanKindServer)
	span.SetName("GET /orders/{id}")
	now := time.Now()
	span.SetStartTimestamp(pcommon.NewTimestampFromTime(now.Add(-time.Millisecond)))
	span.SetEndTimestamp(pcommon.NewTimestampFromTime(now))
	span.Attributes().PutStr("http.request.method", "GET")
	span.Attributes().PutStr("url.path", "/orders/1001")
	span.Attributes().PutInt("http.response.status_code", 200)
	_, err := ptraceotlp.NewGRPCClient(conn).Export(ctx, ptraceotlp.NewExportRequestFromTraces(traces))
	return err
}
