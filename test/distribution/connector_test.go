package distribution

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // what exporters compress with
)

// tracing is a tracing backend: it keeps the id of the record that each trace's
// span names.
type tracing struct {
	ptraceotlp.UnimplementedGRPCServer
	mu      sync.Mutex
	records map[string]string
}

func (b *tracing) Export(_ context.Context, r ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, rs := range r.Traces().ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				v, _ := s.Attributes().Get("mesh.call.record.id")
				b.records[s.TraceID().String()] = v.Str()
			}
		}
	}
	return ptraceotlp.NewExportResponse(), nil
}

func (b *tracing) recordOf(call string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.records[traceIDOf(call).String()]
}

func startTracing(t *testing.T) (b *tracing, address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b = &tracing{records: make(map[string]string)}
	server := grpc.NewServer()
	ptraceotlp.RegisterGRPCServer(server, b)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return b, listener.Addr().String()
}

// connectorEnv is what connector.yaml wants, with a store of its own.
func connectorEnv(t *testing.T) (env []string, store, keys, otlp, health string) {
	t.Helper()
	dir := t.TempDir()
	store, keys = filepath.Join(dir, "store"), filepath.Join(dir, "keys")
	const origin = "test.example/connector"
	makeKeys(t, keys, origin)
	ports := freePorts(t, 5)
	return []string{
		"MESHAUDIT_STORE=" + store,
		"MESHAUDIT_ORIGIN=" + origin,
		"MESHAUDIT_KEYS=" + keys,
		"MESHAUDIT_AUDITOR=" + filepath.Join(keys, "auditor.pub"),
		"MESHAUDIT_OTLP_ENDPOINT=" + ports[0],
		"MESHAUDIT_ALS_ENDPOINT=" + ports[1],
		"MESHAUDIT_OPA_ENDPOINT=" + ports[2],
		"MESHAUDIT_HEALTH_ENDPOINT=" + ports[3],
		"MESHAUDIT_METRICS_PORT=" + port(ports[4]),
	}, store, keys, ports[0], ports[3]
}

// With connector.yaml what is acknowledged is sealed, in whatever pipeline it
// came, and every call has its record, once: also those whose evidence was
// sealed when the collector was killed. A call's span reaches the tracing backend
// with the id of its record.
func TestConnector(t *testing.T) {
	env, store, keys, otlp, health := connectorEnv(t)
	backend, address := startTracing(t)
	env = append(env, "BACKEND_ENDPOINT="+address)
	const calls = 20
	call := func(i int) string { return fmt.Sprintf("connected %d", i) }
	send := func(from, to int) {
		conn := dial(t, otlp)
		for i := from; i < to; i++ {
			if err := sendCall(t.Context(), conn, call(i)); err != nil {
				t.Fatalf("spans are refused: %v", err)
			}
			if err := sendLogs(t.Context(), conn, call(i)); err != nil {
				t.Fatalf("logs are refused: %v", err)
			}
		}
	}
	recorded := func() string {
		records := sealedRecords(t, store, "mesh.request")
		for i := range calls {
			switch n := strings.Count(records, `"trace_id":"`+traceIDOf(call(i)).String()); {
			case n == 0:
				return fmt.Sprintf("call %d has no record", i)
			case n > 1:
				t.Fatalf("call %d has %d records", i, n)
			}
		}
		return ""
	}
	p := start(t, collectorBinary(t), configurations+"/connector.yaml", health, env...)
	send(0, calls/2)
	p.kill(t) // within the window
	p = start(t, collectorBinary(t), configurations+"/connector.yaml", health, env...)
	send(calls/2, calls)
	eventually(t, time.Minute, recorded)
	eventually(t, time.Minute, func() string {
		records := sealedRecords(t, store, "mesh.request")
		for i := calls / 2; i < calls; i++ { // before the kill they are in memory alone
			id := backend.recordOf(call(i))
			if id == "" {
				return fmt.Sprintf("the span of call %d came with no record", i)
			}
			if !strings.Contains(records, id) {
				t.Fatalf("the span of call %d names the record %s, which is not in the log", i, id)
			}
		}
		return ""
	})
	p.stop(t)
	if missing := recorded(); missing != "" {
		t.Error(missing)
	}
	verify(t, store, keys, 2) // a crash is incomplete, and never more
}
