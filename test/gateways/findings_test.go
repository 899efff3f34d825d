package gateways

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"google.golang.org/grpc"

	"github.com/meshaudit/meshaudit/internal/semconv"
)

// alerts is a backend that takes what is sent to it.
type alerts struct {
	plogotlp.UnimplementedGRPCServer
	got chan string // event name, kind and id
}

func (a *alerts) Export(_ context.Context, req plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	for _, rl := range req.Logs().ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				kind, _ := lr.Attributes().Get(semconv.MeshFindingKind)
				id, _ := lr.Attributes().Get(semconv.FindingID)
				a.got <- lr.EventName() + " " + kind.AsString() + " " + id.AsString()
			}
		}
	}
	return plogotlp.NewExportResponse(), nil
}

// With the documented configuration the routing connector sends what is
// critical to the backend, and nothing else.
func TestFindingsAreRouted(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	backend, server := &alerts{got: make(chan string, 1000)}, grpc.NewServer()
	plogotlp.RegisterGRPCServer(server, backend)
	go func() { _ = server.Serve(l) }() // ends with Stop
	t.Cleanup(server.Stop)

	otlp, als, opa, dir := freeAddress(t), freeAddress(t), freeAddress(t), t.TempDir()
	a := &agent{decisions: "http://" + opa + "/logs", process: run(t, documented(t, "routing:"), fmt.Sprintf(`
receivers:
  otlp: {protocols: {grpc: {endpoint: %q}}}
  envoy_access_log: {endpoint: %q}
  opa_decision_log: {endpoint: %q}
processors:
  meshaudit: {settle: 500ms}
exporters:
  sealed_log: {directory: %q, origin: example.org/findings, keys: {directory: %q, create: true}}
  otlp_grpc/alerts: {endpoint: %q, tls: {insecure: true}}
service:
  pipelines:
    traces: {receivers: [otlp], processors: [meshaudit], exporters: [sealed_log]}
    logs: {receivers: [otlp, envoy_access_log, opa_decision_log]}
  telemetry: {metrics: {level: none}, logs: {level: fatal}}
`, otlp, als, opa, filepath.Join(dir, "store"), filepath.Join(dir, "keys"), l.Addr()))}
	a.conn = dial(t, otlp)

	calls := newCalls(7, 20)
	calls[3].denied = true
	must(t, a.caller(t.Context(), calls), a.callee(t.Context(), calls))
	var first string
	select {
	case first = <-backend.got:
		if !strings.HasPrefix(first, semconv.EventFinding+" denied_but_served ") {
			t.Errorf("the backend got %q", first)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the backend got nothing")
	}
	a.stop(t)
	close(backend.got)
	for again := range backend.got { // an amended record shows it once more
		if again != first {
			t.Errorf("the backend got %q too", again)
		}
	}
}
