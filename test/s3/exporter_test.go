package s3

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/exporter/sealedlogexporter"
	"github.com/meshaudit/meshaudit/internal/objectstore"
)

// host passes on the component's status.
type host struct {
	component.Host
	status chan *componentstatus.Event
}

func (h host) Report(e *componentstatus.Event) { h.status <- e }

func (h host) wait(t *testing.T, want componentstatus.Status) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case s := <-h.status:
			if s.Status() == want {
				return
			}
		case <-timeout:
			t.Fatalf("waited in vain for status %v", want)
		}
	}
}

func startExporter(t *testing.T, w *writer, s3 map[string]any) (exporter.Logs, host, error) {
	t.Helper()
	for k, v := range map[string]any{"bucket": w.Bucket.Bucket, "prefix": w.Bucket.Prefix, "endpoint": w.Bucket.Endpoint, "force_path_style": true} {
		s3[k] = v
	}
	config := map[string]any{"origin": origin, "segment_max_age": "1s", "keys": map[string]any{"directory": w.keys()}, "s3": s3}
	if s3["mode"] = "direct"; !w.Direct {
		config["directory"], s3["mode"] = w.root(), "journaled"
	}
	factory := sealedlogexporter.NewFactory()
	cfg := factory.CreateDefaultConfig()
	if err := confmap.NewFromStringMap(config).Unmarshal(cfg); err != nil {
		t.Fatal(err)
	}
	if err := cfg.(interface{ Validate() error }).Validate(); err != nil {
		t.Fatal(err)
	}
	e, err := factory.CreateLogs(t.Context(), exportertest.NewNopSettings(factory.Type()), cfg)
	if err != nil {
		t.Fatal(err)
	}
	h := host{componenttest.NewNopHost(), make(chan *componentstatus.Event, 1000)}
	return e, h, e.Start(t.Context(), h)
}

func logs(id string) plog.Logs {
	l := plog.NewLogs()
	lr := l.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	lr.Attributes().PutStr("audit.record.id", id)
	return l
}

// The exporter, as configured, with a bucket that is away for a while.
func TestExporter(t *testing.T) {
	modes(t, func(t *testing.T, direct bool) {
		p := newProxy(t, gateway, always(pass))
		w := newWriter(t, p.URL, bucket(t, gateway, "lock"), direct)
		e, h, err := startExporter(t, w, map[string]any{"object_lock": map[string]any{"mode": "compliance", "retain": "1h"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.ConsumeLogs(t.Context(), logs("one")); err != nil {
			t.Fatal(err)
		}
		p.set(func(r *http.Request) action {
			if isSegmentPut(r) {
				return slowDown
			}
			return pass
		})
		done := make(chan error, 1)
		go func() { done <- e.ConsumeLogs(context.WithoutCancel(t.Context()), logs("two")) }()
		h.wait(t, componentstatus.StatusRecoverableError)
		if direct {
			select {
			case err := <-done:
				t.Fatalf("answered while the bucket was away: %v", err)
			default:
			}
		}
		p.set(always(pass))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		h.wait(t, componentstatus.StatusOK)
		if err := e.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantExit(t, w.verify(t), 0, "")
		if have := w.records(t); have["one"] != 1 || have["two"] != 1 {
			t.Errorf("records: %v", have)
		}
	})
}

// Two writers with the same keys: the exporter that is late tells its senders a
// permanent error, and its status is one.
func TestExporterFork(t *testing.T) {
	w := newWriter(t, gateway, bucket(t, gateway, "versions"), true)
	one, h, err := startExporter(t, w, map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	defer one.Shutdown(t.Context())
	two := w.mustOpen(t)
	defer two.close(t.Context())
	eventually(t, "a permanent error", func() bool { return consumererror.IsPermanent(one.ConsumeLogs(t.Context(), logs("late"))) })
	h.wait(t, componentstatus.StatusPermanentError)
}

// What is wrong with a bucket keeps the exporter from starting, but not that a
// journal's bucket is away.
func TestExporterStart(t *testing.T) {
	modes(t, func(t *testing.T, direct bool) {
		w := newWriter(t, gateway, bucket(t, gateway, "plain"), direct)
		locked := map[string]any{"object_lock": map[string]any{"mode": "governance", "retain": "1h"}}
		if _, _, err := startExporter(t, w, locked); !errors.As(err, new(*objectstore.RefusedError)) || !strings.Contains(err.Error(), "versioning is off") {
			t.Errorf("an unversioned bucket: %v", err)
		}
		e, _, err := startExporter(t, w, map[string]any{})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.Bucket.Endpoint = newProxy(t, gateway, always(fail)).URL
		e, h, err := startExporter(t, w, map[string]any{})
		if (err != nil) != direct {
			t.Errorf("with a bucket that is away: %v", err)
		}
		if !direct {
			if err := e.ConsumeLogs(t.Context(), logs("one")); err != nil {
				t.Errorf("a journal does not take what the bucket cannot: %v", err)
			}
			h.wait(t, componentstatus.StatusRecoverableError)
		}
		if err := e.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
