package distribution

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// With beside-existing.yaml a backend that is down, or that takes connections
// and never answers, is the existing pipeline's trouble: the audit path
// acknowledges and seals as if it were not there.
func TestBesideExistingBackendFails(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()

	for name, backend := range map[string]string{
		"refuses":       freePorts(t, 1)[0],
		"never answers": silent.Addr().String(),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			store, keys := filepath.Join(dir, "store"), filepath.Join(dir, "keys")
			const origin = "test.example/beside"
			makeKeys(t, keys, origin)

			ports := freePorts(t, 5)
			existing, audit, als, health, metrics := ports[0], ports[1], ports[2], ports[3], ports[4]
			p := start(t, collectorBinary(t), configurations+"/beside-existing.yaml", health,
				"BACKEND_ENDPOINT="+backend,
				"MESHAUDIT_STORE="+store,
				"MESHAUDIT_ORIGIN="+origin,
				"MESHAUDIT_KEYS="+keys,
				"MESHAUDIT_AUDITOR="+filepath.Join(keys, "auditor.pub"),
				"MESHAUDIT_EXISTING_ENDPOINT="+existing,
				"MESHAUDIT_AUDIT_ENDPOINT="+audit,
				"MESHAUDIT_AUDIT_LOOPBACK="+audit,
				"MESHAUDIT_ALS_ENDPOINT="+als,
				"MESHAUDIT_HEALTH_ENDPOINT="+health,
				"MESHAUDIT_METRICS_PORT="+port(metrics),
			)

			// To the audit path directly: acknowledged, so sealed.
			conn := dial(t, audit)
			began := time.Now()
			for i := range 20 {
				if err := sendCall(t.Context(), conn, fmt.Sprintf("direct %d", i)); err != nil {
					t.Fatalf("the audit path refuses: %v", err)
				}
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("20 acknowledgements took %v", took)
			}
			// To the existing pipeline: its copy reaches the audit log.
			if err := sendCall(t.Context(), dial(t, existing), "copied"); err != nil {
				t.Fatalf("the existing pipeline refuses: %v", err)
			}
			copied := traceIDOf("copied").String()
			eventually(t, 30*time.Second, func() string {
				if !strings.Contains(sealedRecords(t, store, "*"), copied) {
					return "the copy of the existing pipeline's span is not in the audit log"
				}
				return ""
			})
			p.stop(t)

			sealed := sealedRecords(t, store, "*")
			for i := range 20 {
				if trace := traceIDOf(fmt.Sprintf("direct %d", i)).String(); !strings.Contains(sealed, trace) {
					t.Errorf("call %d is acknowledged and not in the log", i)
				}
			}
			verify(t, store, keys, 0)
		})
	}
}
