package distribution

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

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
// sealed when the collector was killed.
func TestConnector(t *testing.T) {
	env, store, keys, otlp, health := connectorEnv(t)
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
	p.stop(t)
	if missing := recorded(); missing != "" {
		t.Error(missing)
	}
	verify(t, store, keys, 2) // a crash is incomplete, and never more
}
