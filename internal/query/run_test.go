package query

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/seal"
)

var start = time.Date(2025, 11, 23, 10, 0, 0, 0, time.UTC)

// testLog writes a log; its clock is set by the test.
type testLog struct {
	t   *testing.T
	w   *seal.Writer
	now atomic.Int64 // unix nanoseconds
}

func newTestLog(t *testing.T, store, origin string) *testLog {
	t.Helper()
	keys := t.TempDir()
	if _, err := seal.CreateWriterKeys(keys, origin); err != nil {
		t.Fatal(err)
	}
	auditor, err := seal.CreateAuditorKey(keys, "x25519")
	if err != nil {
		t.Fatal(err)
	}
	key, err := seal.ReadLogKey(filepath.Join(keys, seal.LogKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	l := &testLog{t: t}
	l.now.Store(start.UnixNano())
	l.w, err = seal.Open(seal.Config{
		Root: store, Origin: origin, LogKey: key, Auditors: []seal.Recipient{auditor},
		Chain: seal.ChainFile{FS: seal.OS, Path: filepath.Join(keys, seal.ChainKeyFile)},
		Now:   func() time.Time { return time.Unix(0, l.now.Load()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *testLog) close() {
	l.t.Helper()
	if err := l.w.Close(context.Background()); err != nil {
		l.t.Fatal(err)
	}
}

// append seals one batch, sealed after the start.
func (l *testLog) append(sealed time.Duration, records ...func(plog.LogRecord)) {
	l.t.Helper()
	d := plog.NewLogs()
	scope := d.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty()
	for _, set := range records {
		r := scope.LogRecords().AppendEmpty()
		r.SetEventName(semconv.EventRequest)
		set(r)
	}
	msg, err := new(plog.ProtoMarshaler).MarshalLogs(d)
	if err != nil {
		l.t.Fatal(err)
	}
	l.send(sealed, seal.SignalLogs, msg)
}

func (l *testLog) send(sealed time.Duration, sig seal.Signal, msg []byte) {
	l.t.Helper()
	l.now.Store(start.Add(sealed).UnixNano())
	if err := l.w.Append(context.Background(), sig, msg); err != nil {
		l.t.Fatal(err)
	}
}

// record names a record, which happened at this time; -1: it does not say.
func record(name string, at time.Duration, attributes ...string) func(plog.LogRecord) {
	return func(r plog.LogRecord) {
		r.Body().SetStr(name)
		if at >= 0 {
			r.SetTimestamp(pcommon.NewTimestampFromTime(start.Add(at)))
		}
		for i := 0; i < len(attributes); i += 2 {
			r.Attributes().PutStr(attributes[i], attributes[i+1])
		}
	}
}

func event(name string, set func(plog.LogRecord)) func(plog.LogRecord) {
	return func(r plog.LogRecord) { set(r); r.SetEventName(name) }
}

func run(t *testing.T, store string, q Query) ([]string, Stats, error) {
	t.Helper()
	if err := q.Validate(); err != nil {
		t.Fatal(err)
	}
	var names []string
	stats, err := q.Run(t.Context(), seal.Dir(store), func(r *Record) error {
		switch r.Signal {
		case seal.SignalLogs:
			names = append(names, r.Log.Body().AsString())
		case seal.SignalTraces:
			names = append(names, r.Span.Name())
		case seal.SignalMetrics:
			names = append(names, r.Metric.Name())
		}
		return nil
	})
	return names, stats, err
}

func globs(t *testing.T, parse func(string) (Glob, error), patterns ...string) []Glob {
	t.Helper()
	var all []Glob
	for _, p := range patterns {
		g, err := parse(p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, g)
	}
	return all
}

const (
	frontend = "spiffe://example.org/ns/shop/sa/frontend"
	orders   = "spiffe://example.org/ns/shop/sa/orders"
)

func id(n int) string { return fmt.Sprintf("%064x", 0xabc000+n) }

// oneLog is a store with every kind of record that the flags tell apart.
func oneLog(t *testing.T) string {
	store := filepath.Join(t.TempDir(), "store")
	l := newTestLog(t, store, "example.org/a")
	defer l.close()
	l.append(time.Second,
		record("call", 0, semconv.AuditRecordID, id(1), semconv.SourceSPIFFEID, frontend, semconv.DestinationSPIFFEID, orders,
			semconv.URLPath, "/orders/1", semconv.AuthzDecision, "allow"),
		func(r plog.LogRecord) {
			record("denied", time.Minute, semconv.AuditRecordID, id(2), semconv.SourceSPIFFEID, orders, semconv.URLPath, "/payments", semconv.AuthzDecision, "deny")(r)
			r.SetTraceID(pcommon.TraceID{1})
		},
		event(semconv.EventEvidence, record("evidence", 0, semconv.EvidenceID, id(7))),
		event("", record("foreign", 0)),
		// What a sender calls an audit record is evidence of that, no more.
		record("forged", 0, semconv.EvidenceID, id(9), semconv.AuthzDecision, "allow"),
	)
	l.append(10*time.Second, event(semconv.EventAmendment, record("amendment", 5*time.Minute, semconv.AuditRecordID, id(3), semconv.MeshAmends, id(1),
		semconv.RPCService, "shop.Orders", semconv.RPCMethod, "Get")))
	l.append(20*time.Second, record("timeless", -1, semconv.HTTPRoute, "/x/{id}"), record("old", 2*time.Second))

	spans := ptrace.NewTraces()
	s := spans.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	s.SetName("a span")
	s.SetTraceID(pcommon.TraceID{1})
	s.SetStartTimestamp(pcommon.NewTimestampFromTime(start))
	msg, err := new(ptrace.ProtoMarshaler).MarshalTraces(spans)
	if err != nil {
		t.Fatal(err)
	}
	l.send(30*time.Second, seal.SignalTraces, msg)

	metrics := pmetric.NewMetrics()
	metrics.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty().SetName("a metric")
	if msg, err = new(pmetric.ProtoMarshaler).MarshalMetrics(metrics); err != nil {
		t.Fatal(err)
	}
	l.send(40*time.Second, seal.SignalMetrics, msg)
	return store
}

func TestRun(t *testing.T) {
	store := oneLog(t)
	ids := func(p ...string) []Glob { return globs(t, ParseIDGlob, p...) }
	text := func(p ...string) []Glob { return globs(t, ParseGlob, p...) }
	audit := []string{"call", "denied", "amendment", "timeless", "old"}
	for name, tc := range map[string]struct {
		q      Query
		want   []string
		opened uint64
	}{
		"default":            {Query{}, audit, 5},
		"everything":         {Query{Events: text("*")}, []string{"call", "denied", "evidence", "foreign", "forged", "amendment", "timeless", "old", "a span", "a metric"}, 5},
		"one event":          {Query{Events: text("mesh.amendment")}, []string{"amendment"}, 5},
		"events":             {Query{Events: text("mesh.am*", "span")}, []string{"amendment", "a span"}, 5},
		"exact source":       {Query{From: ids(frontend)}, []string{"call"}, 1},
		"sources":            {Query{From: ids(frontend, orders)}, []string{"call", "denied"}, 1},
		"source by glob":     {Query{From: ids("*/sa/orders")}, []string{"denied"}, 5},
		"both ends":          {Query{From: ids(frontend), To: ids(orders)}, []string{"call"}, 1},
		"contradiction":      {Query{From: ids(orders), To: ids(frontend)}, nil, 1},
		"unknown":            {Query{From: ids("spiffe://example.org/nobody")}, nil, 0},
		"path":               {Query{Paths: text("/orders/*")}, []string{"call"}, 5},
		"route":              {Query{Paths: text("/x/{id}")}, []string{"timeless"}, 5},
		"rpc":                {Query{Paths: text("/shop.Orders/*")}, []string{"amendment"}, 5},
		"verdicts":           {Query{Verdicts: []string{"deny", "error"}}, []string{"denied"}, 5},
		"no verdict":         {Query{Verdicts: []string{VerdictNone}}, []string{"amendment", "timeless", "old"}, 5},
		"trace":              {Query{Traces: []pcommon.TraceID{{1}}}, []string{"denied"}, 2},
		"trace, all":         {Query{Traces: []pcommon.TraceID{{1}}, Events: text("*")}, []string{"denied", "a span"}, 2},
		"id and amendment":   {Query{IDs: []string{id(1)}}, []string{"call", "amendment"}, 2},
		"beginning of an id": {Query{IDs: []string{id(2)[:63]}}, []string{"call", "denied", "evidence", "forged", "amendment"}, 5},
		"evidence by id":     {Query{IDs: []string{id(7)}}, []string{"evidence"}, 1},
		"id of an event":     {Query{IDs: []string{id(7)}, Events: text("mesh.request")}, nil, 1},
		"limit":              {Query{Limit: 2}, []string{"call", "denied"}, 1},
		"since":              {Query{Since: start.Add(time.Minute)}, []string{"denied", "amendment"}, 2},
		"until":              {Query{Until: start.Add(2 * time.Second)}, []string{"call"}, 2},
		// What states no time counts when it was sealed, at 20 s; its batch's
		// header states the time of another record.
		"timeless": {Query{Since: start.Add(15 * time.Second), Until: start.Add(25 * time.Second)}, []string{"timeless"}, 2},
		"bounds":   {Query{Since: start, Until: start.Add(time.Nanosecond)}, []string{"call"}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			got, stats, err := run(t, store, tc.q)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if stats.Opened != tc.opened {
				t.Errorf("%d of %d batches were opened, want %d", stats.Opened, stats.Batches, tc.opened)
			}
			if stats.Records != uint64(len(tc.want)) {
				t.Errorf("counted %d records", stats.Records)
			}
		})
	}
}

func TestRecordNumbers(t *testing.T) {
	var numbers []uint64
	q := Query{Events: globs(t, ParseGlob, "*")}
	if _, err := q.Run(t.Context(), seal.Dir(oneLog(t)), func(r *Record) error { numbers = append(numbers, r.Number); return nil }); err != nil {
		t.Fatal(err)
	}
	if want := []uint64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}; !reflect.DeepEqual(numbers, want) {
		t.Errorf("records are numbered %v", numbers)
	}
}

// Logs are merged in the order of sealing, and one that is damaged ends alone.
func TestSeveralLogs(t *testing.T) {
	store := filepath.Join(t.TempDir(), "store")
	a, b := newTestLog(t, store, "example.org/a"), newTestLog(t, store, "example.org/b")
	for i := range 4 {
		l := a
		if i%2 == 1 {
			l = b
		}
		l.append(time.Duration(i)*time.Second, record(fmt.Sprint(i), 0))
	}
	a.close()
	b.close()
	got, _, err := run(t, store, Query{})
	if err != nil || strings.Join(got, "") != "0123" {
		t.Fatalf("got %q, %v", got, err)
	}
	got, _, err = run(t, store, Query{Origins: globs(t, ParseGlob, "*/b")})
	if err != nil || strings.Join(got, "") != "13" {
		t.Fatalf("of b alone: %q, %v", got, err)
	}
	if _, _, err := run(t, store, Query{Origins: globs(t, ParseGlob, "*/c")}); err == nil || !strings.Contains(err.Error(), "it holds example.org/a, example.org/b") {
		t.Errorf("unknown origin: %v", err)
	}

	// The last byte of b's second batch.
	log, err := seal.OpenLog(store, "example.org/b")
	if err != nil {
		t.Fatal(err)
	}
	var damaged *seal.Entry
	if err := log.Entries(t.Context(), nil, func(e *seal.Entry) error {
		if e.Kind == seal.KindBatch {
			damaged = e
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(seal.LogDir(store, "example.org/b"), "segment", damaged.Segment)
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	content[damaged.Offset+damaged.Size-1] ^= 1
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	got, _, err = run(t, store, Query{})
	var damage *DamageError
	if !errors.As(err, &damage) || damage.Origin != "example.org/b" || !strings.Contains(err.Error(), damaged.Segment) || !strings.Contains(err.Error(), "meshaudit verify") {
		t.Errorf("the damage is not named: %v", err)
	}
	if strings.Join(got, "") != "012" {
		t.Errorf("all that can be read is not there: %q", got)
	}

	// A file that cannot be read is no damage.
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(name, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err = run(t, store, Query{}); errors.As(err, &damage) {
		t.Errorf("taken for damage: %v", err)
	}
}

func TestCallerAndContextEndARun(t *testing.T) {
	store := oneLog(t)
	stop := errors.New("stop")
	n := 0
	_, err := new(Query).Run(t.Context(), seal.Dir(store), func(*Record) error { n++; return stop })
	if err != stop || n != 1 {
		t.Errorf("after %d records: %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var damage *DamageError
	if _, err := new(Query).Run(ctx, seal.Dir(store), func(*Record) error { return nil }); !errors.Is(err, context.Canceled) || errors.As(err, &damage) {
		t.Errorf("got %v", err)
	}
}

func TestNoStore(t *testing.T) {
	if _, _, err := run(t, filepath.Join(t.TempDir(), "nowhere"), Query{}); err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, _, err := run(t, t.TempDir(), Query{}); err == nil || !strings.Contains(err.Error(), "no log in") {
		t.Errorf("got %v", err)
	}
}

func TestValidate(t *testing.T) {
	err := (&Query{Verdicts: []string{"maybe"}, Since: start, Until: start, Limit: -1}).Validate()
	for _, want := range []string{"maybe", "until must be after since", "negative"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not said: %v", want, err)
		}
	}
}
