package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/query"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/seal"
)

func testStreams(width int) (*streams, *bytes.Buffer) {
	var b bytes.Buffer
	return &streams{out: bufio.NewWriter(&b), err: &b, width: width}, &b
}

func TestText(t *testing.T) {
	for got, want := range map[string]string{
		count(0): "0", count(999): "999", count(1000): "1 000", count(1234567): "1 234 567",
		counted(1, "entry"): "1 entry", counted(2, "entry"): "2 entries", counted(0, "batch"): "0 batches", counted(1000, "record"): "1 000 records",
		size(0): "0 B", size(1023): "1023 B", size(1024): "1.0 KiB", size(1536): "1.5 KiB", size(1<<20 - 1): "1.0 MiB", size(math.MaxInt64): "8192.0 PiB",
		span(0): "0s", span(1234 * time.Microsecond): "1ms", span(59*time.Second + 999*time.Millisecond): "1m0s", span(50 * time.Hour): "2 days",
		cut("abcdef", 6, false): "abcdef", cut("abcdef", 4, false): "abc…", cut("abcdefghij", 7, true): "ab…ghij", cut("äöü", 2, false): "ä…", cut("abc", 1, true): "…", cut("abc", 0, true): "…",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// What others wrote into a log must not steer a terminal.
func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"/orders/é世":         "/orders/é世",
		"\x1b]0;gotcha\x07":  "\uFFFD]0;gotcha\uFFFD",
		"a\nb\tc\r":          "a\uFFFDb\uFFFDc\uFFFD",
		"\u202egnp.exe":      "\uFFFDgnp.exe",
		"\xff\xfe":           "\uFFFD\uFFFD",
		"\u009b31m \u200bx ": "\uFFFD31m \uFFFDx ",
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	columns := []column{{title: "A"}, {title: "LONG", min: 4}, {title: "N", right: true}, {title: "SPARE", spare: 1}}
	row := func(a, long, n, spare string) []cell {
		return []cell{{text: a}, {text: long}, {text: n}, {text: spare}}
	}
	for width, want := range map[int]string{
		80: "A   LONG        N  SPARE\na1  0123456789  7  s\nbetween\na                  s2\n",
		22: "A   LONG      N  SPARE\na1  0123456…  7  s\nbetween\na                s2\n",
		16: "A   LONG       N\na1  01234567…  7\nbetween\na\n",
		1:  "A   LONG  N\na1  012…  7\n…\na\n",
	} {
		s, out := testStreams(width)
		tb := &table{s: s, columns: columns}
		for _, err := range []error{tb.row(row("a1", "0123456789", "7", "s")...), tb.line("between", plain), tb.row(row("a", "", "", "s2")...), tb.flush(), s.out.Flush()} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if out.String() != want {
			t.Errorf("width %d:\n%s\nwant\n%s", width, out, want)
		}
	}
}

// Rows come out as soon as the widths are known, and memory stays bounded.
func TestTableStreams(t *testing.T) {
	s, out := testStreams(40)
	tb := &table{s: s, columns: []column{{title: "A", min: 3}}}
	for i := range tableWindow + 10 {
		if err := tb.row(cell{text: strings.Repeat("x", i/tableWindow*30+5)}); err != nil {
			t.Fatal(err)
		}
	}
	if len(tb.window) != 0 {
		t.Errorf("%d rows are held back", len(tb.window))
	}
	if err := s.out.Flush(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 1+tableWindow+10 || lines[len(lines)-1] != "xxxx…" {
		t.Errorf("%d lines, the last is %q", len(lines), lines[len(lines)-1])
	}
}

func TestColor(t *testing.T) {
	s, out := testStreams(80)
	s.color = true
	tb := &table{s: s, columns: []column{{title: "A"}, {title: "B"}}}
	if err := tb.row(cell{"deny", red}, cell{text: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := tb.flush(); err != nil {
		t.Fatal(err)
	}
	s.out.Flush()
	if want := "\x1b[2mA\x1b[0m     \x1b[2mB\x1b[0m\n\x1b[31mdeny\x1b[0m  x\n"; out.String() != want {
		t.Errorf("got %q, want %q", out, want)
	}
}

// testRecord is a record as a query gives it.
func testRecord(event string, attributes map[string]any) *query.Record {
	l := plog.NewLogRecord()
	l.SetEventName(event)
	if err := l.Attributes().FromRaw(attributes); err != nil {
		panic(err)
	}
	return &query.Record{
		Entry: &seal.Entry{Header: &seal.Header{Origin: "example.org/a", Entry: 7}}, Number: 42,
		Under: &query.Under{Resource: pcommon.NewResource(), Scope: pcommon.NewInstrumentationScope()},
		Event: event, Time: time.Date(2025, 11, 23, 10, 0, 0, 0, time.UTC), Attributes: l.Attributes(), Log: l,
	}
}

func render(t *testing.T, width int, records ...*query.Record) string {
	t.Helper()
	s, out := testStreams(width)
	tb := newRecordTable(s)
	for _, r := range records {
		if err := tb.record(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := tb.flush(); err != nil {
		t.Fatal(err)
	}
	s.out.Flush()
	return out.String()
}

// Rows come in the order in which things happened, also where more are sealed
// than are held back.
func TestRowsAreInOrder(t *testing.T) {
	var records []*query.Record
	const n = 1536 // a multiple of 64, more than reorderWindow
	for i := range n {
		r := testRecord(semconv.EventRequest, nil)
		r.Time = r.Time.Add(time.Duration(i^63) * time.Minute) // out of order by up to 63 records
		records = append(records, r)
	}
	out := render(t, 160, records...)
	at := time.Date(2025, 11, 23, 10, 0, 0, 0, time.UTC)
	rows := 0
	for _, line := range strings.Split(out, "\n") {
		if clock, _, _ := strings.Cut(line, " "); strings.Count(clock, ":") == 2 {
			if want := at.Format("15:04:05.000"); clock != want {
				t.Fatalf("row %d is at %s, want %s", rows, clock, want)
			}
			at, rows = at.Add(time.Minute), rows+1
		}
	}
	if rows != n || !strings.Contains(out, "\n2025-11-24 UTC\n") {
		t.Errorf("%d rows of %d", rows, n)
	}
}

// Two identities never look the same, whatever their form.
func TestIdentitiesStayApart(t *testing.T) {
	tb := newRecordTable(&streams{})
	seen := map[string]string{}
	for _, id := range []string{
		"spiffe://example.org/ns/shop/sa/orders", // first: its trust domain is home
		"spiffe://other.org/ns/shop/sa/orders",
		"spiffe://example.org/shop/orders",
		"spiffe://shop/orders",
		"spiffe://example.org/ns/shop/sa/orders/x",
		"spiffe://example.org",
		"shop/orders/",
		"example.org",
	} {
		short := tb.identity(id)
		if other, ok := seen[short]; ok {
			t.Errorf("%s and %s are both %q", id, other, short)
		}
		seen[short] = id
	}
	if seen["shop/orders"] == "" {
		t.Errorf("the short form is not used: %v", seen)
	}
}

func TestProofMarks(t *testing.T) {
	for proof, want := range map[evidence.Proof]string{
		evidence.ProofSVID: "a/b ✓✓", evidence.ProofMTLSSAN: "a/b ✓", evidence.ProofXFCC: "a/b ~", evidence.ProofIP: "a/b ~", evidence.ProofClaimed: "a/b ?", evidence.ProofNone: "a/b",
	} {
		out := render(t, 200, testRecord(semconv.EventRequest, map[string]any{
			semconv.DestinationSPIFFEID: "spiffe://example.org/ns/a/sa/b", semconv.DestinationIdentityProof: proof.String()}))
		if !strings.Contains(out, " "+want+"  ") {
			t.Errorf("%v: %q is not in\n%s", proof, want, out)
		}
	}
}

// Every kind of event has a row that says what it is about.
func TestEvents(t *testing.T) {
	for _, tc := range []struct {
		event      string
		attributes map[string]any
		want       string
	}{
		{semconv.EventRequest, map[string]any{semconv.RPCService: "shop.Orders", semconv.RPCMethod: "Get", semconv.RPCGRPCStatusCode: 7, semconv.AuditOutcome: "failure"}, "/shop.Orders/Get  grpc 7 failed"},
		{semconv.EventRequest, map[string]any{semconv.SourcePrefix + semconv.SuffixWorkloadName: "web", semconv.SourcePrefix + semconv.SuffixWorkloadNamespace: "shop"}, "shop/web ?"},
		{semconv.EventRequest, map[string]any{semconv.AuthzDecision: "deny", semconv.AuthzEnforced: false, semconv.AuthzEngine: "envoy_rbac"}, "deny (dry run)  envoy_rbac"},
		{semconv.EventRequest, map[string]any{semconv.AuthzDecision: "deny", semconv.AuthzDefaultDeny: true, semconv.AuthzPolicyNamespace: "ns", semconv.AuthzPolicyID: "p"}, "deny (default)  ns/p"},
		{semconv.EventHandshake, map[string]any{semconv.MTLSFailureReason: "certificate expired"}, "handshake: certificate expired"},
		{semconv.EventConfigChange, map[string]any{semconv.AuditAction: "update"}, "config.change update"},
		{semconv.EventFinding, map[string]any{semconv.MeshFindingKind: "plaintext"}, "finding plaintext"},
		{semconv.EventEvidenceGap, map[string]any{semconv.GapCount: 1, semconv.GapReason: "refused", semconv.EvidenceSource: "envoy_als"}, "1 piece of evidence lost by envoy_als: refused"},
		{semconv.EventEvidence, map[string]any{semconv.EvidenceSource: "opa_decision", semconv.EvidenceID: "0123456789"}, "01234567"},
		{"", nil, "log record"},
		{semconv.EventEvidence, map[string]any{semconv.EvidenceSource: "k8s_audit", semconv.EvidenceError: "no JSON"}, "evidence k8s_audit, refused: no JSON"},
		{"", map[string]any{semconv.EvidenceSource: "mapped", semconv.EvidenceError: "malformed"}, "log record mapped, refused: malformed"},
	} {
		if out := render(t, 200, testRecord(tc.event, tc.attributes)); !strings.Contains(out, tc.want) {
			t.Errorf("%s: %q is not in\n%s", tc.event, tc.want, out)
		}
	}
}

// Attributes of the wrong type, and hostile text in every one of them, give a
// row all the same, without a control character.
func TestHostileRecord(t *testing.T) {
	const evil = "\x1b[2J\u202e\n"
	text, other := map[string]any{}, map[string]any{}
	for _, name := range []string{
		semconv.AuditRecordID, semconv.SourceSPIFFEID, semconv.SourceIdentityProof, semconv.DestinationSPIFFEID, semconv.UserID,
		semconv.HTTPRequestMethod, semconv.URLPath, semconv.HTTPResponseStatusCode, semconv.HTTPRequestResendCount, semconv.RPCGRPCStatusCode,
		semconv.AuditOutcome, semconv.AuthzDecision, semconv.AuthzEnforced, semconv.AuthzDefaultDeny, semconv.AuthzPolicyID,
		semconv.AuthzPolicyRevision, semconv.MeshEvidenceState, semconv.JoinMethod, semconv.JoinConfidence, semconv.MeshAmends,
		semconv.MeshFindingKind, semconv.GapCount, semconv.GapReason, semconv.EvidenceSource, semconv.MeshConflicts, semconv.MeshAttestations,
		semconv.MTLSFailureReason, semconv.AuditAction, semconv.SourcePrefix + semconv.SuffixWorkloadName,
	} {
		text[name] = evil
		other[name] = []any{evil, map[string]any{"field": evil, "kept": []any{}, "other": 1}}
	}
	for _, attributes := range []map[string]any{text, other} {
		for _, event := range []string{semconv.EventRequest, semconv.EventAmendment, semconv.EventFinding, semconv.EventEvidenceGap, semconv.EventEvidence, semconv.EventHandshake, evil} {
			out := render(t, 120, testRecord(event, attributes))
			if strings.ContainsAny(out, "\x1b\u202e") {
				t.Errorf("%s: a control character in %q", event, out)
			}
			if strings.Count(out, "10:00:00.000") != 1 {
				t.Errorf("%s: no row in %q", event, out)
			}
		}
	}
}

func TestConflictLinesAreBounded(t *testing.T) {
	var many []any
	for i := range 20 {
		many = append(many, map[string]any{"field": "user.id", "kept": "alice", "other": fmt.Sprint(i / 2), "from": "span"})
	}
	out := render(t, 160, testRecord(semconv.EventRequest, map[string]any{semconv.MeshConflicts: many}))
	if n := strings.Count(out, "⚠ user.id is alice, but span says"); n != maxConflictLines {
		t.Errorf("%d lines of conflicts:\n%s", n, out)
	}
	if !strings.Contains(out, "and more") {
		t.Errorf("not said that there are more:\n%s", out)
	}
}

func TestRecordJSON(t *testing.T) {
	r := testRecord(semconv.EventRequest, map[string]any{
		"s": "<ä>", "i": int64(1) << 62, "f": 0.5, "nan": math.NaN(), "b": true, "bytes": []byte{1, 2}, "nil": nil, "list": []any{1, map[string]any{"k": "v"}},
	})
	r.TraceID = pcommon.TraceID{1}
	r.Log.SetSeverityNumber(plog.SeverityNumberWarn)
	r.Log.Body().SetStr("text")
	var out bytes.Buffer
	if err := (&jsonSink{w: &out}).record(r); err != nil {
		t.Fatal(err)
	}
	const want = `{"time":"2025-11-23T10:00:00Z","event":"mesh.request","origin":"example.org/a","entry":7,"record":42,"sealed":"1970-01-01T00:00:00Z",` +
		`"signal":"logs","trace_id":"01000000000000000000000000000000","severity":"Warn","body":"text",` +
		`"attributes":{"b":true,"bytes":"AQI=","f":0.5,"i":4611686018427387904,"list":[1,{"k":"v"}],"nan":"NaN","nil":null,"s":"<ä>"}}` + "\n"
	if out.String() != want {
		t.Errorf("got  %swant %s", out.String(), want)
	}
}

// What -o otlp prints is what the Collector's own decoder reads.
func TestOTLPRoundTrip(t *testing.T) {
	a, b := testRecord("mesh.request", map[string]any{"n": 1}), testRecord("mesh.request", map[string]any{"n": 2})
	b.Entry, b.Under = a.Entry, a.Under
	a.Under.Resource.Attributes().PutStr("service.name", "x")
	a.Under.ScopeSchemaURL = "https://example.org/schema"
	c := testRecord("mesh.finding", map[string]any{"n": 3})
	c.Entry = a.Entry
	d := testRecord("mesh.finding", nil)
	var out bytes.Buffer
	sink := &otlpSink{w: &out}
	for _, r := range []*query.Record{a, b, c, d} {
		if err := sink.record(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := sink.flush(); err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n"))
	if len(lines) != 2 {
		t.Fatalf("%d lines for two batches", len(lines))
	}
	got, err := new(plog.JSONUnmarshaler).UnmarshalLogs(lines[0])
	if err != nil {
		t.Fatal(err)
	}
	if got.ResourceLogs().Len() != 2 || got.LogRecordCount() != 3 {
		t.Fatalf("%d resources, %d records", got.ResourceLogs().Len(), got.LogRecordCount())
	}
	scope := got.ResourceLogs().At(0).ScopeLogs().At(0)
	if scope.LogRecords().Len() != 2 || scope.SchemaUrl() != "https://example.org/schema" {
		t.Errorf("the scope is not the one it was: %d records, %q", scope.LogRecords().Len(), scope.SchemaUrl())
	}
	if !reflect.DeepEqual(scope.LogRecords().At(1).Attributes().AsRaw(), map[string]any{"n": int64(2)}) {
		t.Errorf("attributes are %v", scope.LogRecords().At(1).Attributes().AsRaw())
	}
}

// Progress is a line that goes away again, and only on a terminal.
func TestProgress(t *testing.T) {
	s, out := testStreams(80)
	p := &progress{s: s, start: time.Now().Add(-time.Hour)}
	p.show(1<<20, 4<<20)
	p.show(2<<20, 4<<20) // at once again: not shown
	p.clear()
	p.clear()
	if want := "\r\x1b[Kverifying: 25% of 4.0 MiB\r\x1b[K"; out.String() != want {
		t.Errorf("got %q, want %q", out, want)
	}
	out.Reset()
	p = &progress{s: s, start: time.Now().Add(time.Hour)}
	p.show(1, 0)
	p.clear()
	if out.Len() > 0 {
		t.Errorf("shown although nobody waits: %q", out)
	}
}

// The summary for a person at a terminal is on stderr alone.
func TestSummary(t *testing.T) {
	store := testStore(t)
	var out, diag bytes.Buffer
	s := &streams{out: bufio.NewWriter(&out), err: &diag, width: 160, progress: true}
	if code := run(t.Context(), []string{"query", store, "--event", "*", "--limit", "1"}, s); code != exitOK {
		t.Fatalf("exit code %d: %s", code, diag.String())
	}
	for _, want := range []string{"1 record, and there may be more (--limit); 1 of 1 batch had to be opened", "meshaudit verify " + store, legend} {
		if !strings.Contains(diag.String(), want) {
			t.Errorf("%q is not in %q", want, diag.String())
		}
	}
	if strings.Contains(out.String(), "verify") {
		t.Errorf("messages on stdout: %s", out.String())
	}
}

// An interrupted command says so.
func TestInterrupt(t *testing.T) {
	store := testStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, args := range [][]string{{"query", store}, {"show", store}, {"verify", store}} {
		s, out := testStreams(80)
		if code := run(ctx, args, s); code != exitFailed || !strings.Contains(out.String(), "interrupted") {
			t.Errorf("%v: exit code %d, %q", args, code, out)
		}
	}
}

// Every axis and class that the seal package knows has words here.
func TestAnswerIsComplete(t *testing.T) {
	l := &seal.LogReport{Origin: "example.org/a", Trusted: true, Pinned: true, LastSealed: time.Unix(1, 0)}
	a := answer(t.TempDir(), &seal.VerifyOptions{Trust: &seal.Trust{}}, &seal.Report{Logs: []*seal.LogReport{l}})
	if len(a.Logs[0].Axes) != len(seal.Axes()) || a.Answer != isProven {
		t.Errorf("axes %v, answer %s", a.Logs[0].Axes, a.Answer)
	}
	for _, axis := range seal.Axes() {
		if axisWords[axis][a.Logs[0].Axes[axis.String()]] == "" {
			t.Errorf("no words for %v", axis)
		}
	}
	if _, err := json.Marshal(a); err != nil {
		t.Fatal(err)
	}
}

// testStore is a store with one record.
func testStore(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	const origin = "example.org/a"
	if _, err := seal.CreateWriterKeys(dir, origin); err != nil {
		t.Fatal(err)
	}
	auditor, err := seal.CreateAuditorKey(dir, "x25519")
	if err != nil {
		t.Fatal(err)
	}
	key, err := seal.ReadLogKey(filepath.Join(dir, seal.LogKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(dir, "store")
	w, err := seal.Open(seal.Config{Root: store, Origin: origin, LogKey: key, Auditors: []seal.Recipient{auditor},
		Chain: seal.ChainFile{FS: seal.OS, Path: filepath.Join(dir, seal.ChainKeyFile)}})
	if err != nil {
		t.Fatal(err)
	}
	d := plog.NewLogs()
	d.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().SetEventName(semconv.EventRequest)
	msg, err := new(plog.ProtoMarshaler).MarshalLogs(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Append(t.Context(), seal.SignalLogs, msg); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return store
}

func FuzzPrintable(f *testing.F) {
	f.Add("\x1b[31m")
	f.Add("\xff\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		got := printable(s)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 }) {
			t.Fatalf("%q becomes %q", s, got)
		}
		for width := range 8 {
			if n := utf8.RuneCountInString(cut(got, width, len(s)%2 == 0)); n > max(1, width) && n > utf8.RuneCountInString(got) {
				t.Fatalf("%q cut to %d has %d characters", got, width, n)
			}
		}
	})
}
