package main

import (
	"bytes"
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/semconv"
)

func TestMain(m *testing.M) {
	if serveAsChild() {
		return
	}
	os.Exit(m.Run())
}

// All of it, for as short as makes sense: every exporter acknowledges, what
// sealed_log acknowledged is in its log, the log verifies, the report is whole.
func TestShortRun(t *testing.T) {
	s := defaults()
	s.rounds, s.warm, s.window = 1, 50*time.Millisecond, 300*time.Millisecond
	s.loads = []load{{2, 1000}, {4, 1}}
	s.alone, s.records, s.entries = 200*time.Millisecond, 20_000, 300
	s.pending, s.held, s.lag, s.lagWindow = []int{800}, time.Second, time.Second, time.Second
	s.profile = t.TempDir()
	parent := t.TempDir()
	var out bytes.Buffer
	if err := runIn(t.Context(), parent, s, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| 2 × 1000 | sealed_log |", "| 4 × 1 | file |", "| 4 × 1 | sealed_log, queue, batch |", "HMAC-SHA256", "20000 records, 1000 an entry", "300 records, 1 an entry", "| 800 | ", "| partial: the called side never reports | ", "verify ≤ 64 MiB", "start after a crash, the tiles lost < 30 s"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("report lacks %q:\n%s", want, out.String())
		}
	}
	if names, err := os.ReadDir(parent); err != nil || len(names) != 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
	if names, err := os.ReadDir(s.profile); err != nil || len(names) != 2*len(exporters)+1+3+1+2*(1+len(startCases)) {
		t.Errorf("%d profiles, %v", len(names), err)
	}
}

// The names in sealingParts are those of functions in package seal: after a
// renaming there their time would silently count as the rest.
func TestPartsAreFunctionsOfSeal(t *testing.T) {
	files, err := filepath.Glob("../seal/*.go")
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]bool{}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			name := "seal." + fn.Name.Name
			if fn.Recv != nil {
				name = "seal.(" + types.ExprString(fn.Recv.List[0].Type) + ")." + fn.Name.Name
			}
			declared[name] = true
		}
	}
	for _, p := range sealingParts {
		for _, call := range p.calls {
			if strings.HasPrefix(call, "seal.") && !declared[call] {
				t.Errorf("%q: there is no %s", p.name, call)
			}
		}
	}
}

func TestPartIsTheInnermost(t *testing.T) {
	stack := func(innermostFirst ...string) *profile.Sample {
		s := new(profile.Sample)
		for _, name := range innermostFirst {
			s.Location = append(s.Location, &profile.Location{Line: []profile.Line{{Function: &profile.Function{Name: name}}}})
		}
		return s
	}
	const seal = "github.com/meshaudit/meshaudit/seal."
	for want, s := range map[string]*profile.Sample{
		"hash, tree": stack("crypto/sha256.Sum256", seal+"(*batchHasher).leafHash", seal+"scanScopes", seal+"(*Writer).Append"),
		"scan":       stack(seal+"nextField", seal+"scanScopes", seal+"(*Writer).Append"),
		"compress":   stack("github.com/klauspost/compress/zstd.(*Encoder).EncodeAll", seal+"encodeBatch"),
		"":           stack("runtime.gcBgMarkWorker"),
	} {
		got := ""
		if i := partOf(s); i < len(sealingParts) {
			got = sealingParts[i].name
		}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestEveryRecordIsItsOwn(t *testing.T) {
	const records = 100
	seen := map[string]bool{}
	for seed := range uint64(3) {
		src, err := newSource(seed, records)
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			b := src.request()
			if per := len(b) / records; per < 450 || per > 550 {
				t.Errorf("%d bytes a record", per)
			}
			ld, err := new(plog.ProtoUnmarshaler).UnmarshalLogs(b)
			if err != nil {
				t.Fatal(err)
			}
			if ld.LogRecordCount() != records || ld.ResourceLogs().Len() != resourcesPerRequest {
				t.Fatalf("%d records of %d resources", ld.LogRecordCount(), ld.ResourceLogs().Len())
			}
			for _, rl := range ld.ResourceLogs().All() {
				for _, r := range rl.ScopeLogs().At(0).LogRecords().All() {
					id, _ := r.Attributes().Get(semconv.AuditRecordID)
					request, _ := r.Attributes().Get(semconv.JoinRequestID)
					for _, x := range []string{id.Str(), request.Str(), r.TraceID().String(), r.SpanID().String()} {
						if x == "" || seen[x] {
							t.Fatalf("id %q is not unique", x)
						}
						seen[x] = true
					}
				}
			}
		}
	}
}

func TestCanonicalJSON(t *testing.T) {
	r := plog.NewLogRecord()
	r.SetTimestamp(1)
	r.SetObservedTimestamp(2)
	r.SetEventName("mesh.request")
	r.SetTraceID(pcommon.TraceID{1})
	r.SetSpanID(pcommon.SpanID{2})
	r.Body().SetStr("€")
	r.Attributes().PutStr("url.path", "/a\n<b>")
	r.Attributes().PutDouble("a", 1e21)
	r.Attributes().PutInt("B", 200)
	r.Attributes().PutStr(integrityValue, "not signed")
	// RFC 8785: names sorted by UTF-16 code units, no spaces, ECMAScript
	// numbers, nothing escaped that need not be.
	const want = `{"attributes":{"B":200,"a":1e+21,"url.path":"/a\n<b>"},"body":"€","event_name":"mesh.request",` +
		`"observed_timestamp":2,"span_id":"0200000000000000","timestamp":1,"trace_id":"01000000000000000000000000000000"}`
	got, err := canonicalJSON(r)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestSignaturesAreOfTheRecord(t *testing.T) {
	ed, err := newEd25519Signer()
	if err != nil {
		t.Fatal(err)
	}
	for name, sign := range map[string]signer{"hmac": newHMACSigner(), "ed25519": ed} {
		ld := newRequest(rand.New(rand.NewPCG(1, 1)), 1)
		r := ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
		signature := func() string {
			if err := signRecords(ld, sign); err != nil {
				t.Fatal(err)
			}
			v, _ := r.Attributes().Get(integrityValue)
			return v.Str()
		}
		first := signature()
		if again := signature(); first == "" || again != first {
			t.Errorf("%s: signed again: %q, %q", name, first, again)
		}
		r.Attributes().PutInt(semconv.HTTPResponseStatusCode, 999)
		if edited := signature(); edited == first {
			t.Errorf("%s: an edited record has the same signature", name)
		}
	}
}

func TestPercentile(t *testing.T) {
	var o outcome
	if got := o.percentile(0.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
	for i := range 100 {
		o.Latencies = append(o.Latencies, time.Duration(100-i))
	}
	for p, want := range map[float64]time.Duration{0: 1, 0.5: 51, 0.99: 100, 1: 100} {
		if got := o.percentile(p); got != want.Seconds() {
			t.Errorf("%v: %v, want %v", p, got, want)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		of   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1}, 5}, {[]float64{9, 1, 2}, 2}} {
		if got := median(c.of); got != c.want {
			t.Errorf("of %v: %v, want %v", c.of, got, c.want)
		}
	}
}

func TestOthers(t *testing.T) {
	var at time.Time
	before := busy{all: 10 * time.Second, own: 3 * time.Second, at: at, known: true}
	after := busy{all: 16 * time.Second, own: 8 * time.Second, at: at.Add(time.Second), known: true}
	if got := after.othersSince(before); got <= 0 || got > 1 {
		t.Errorf("%v", got)
	}
	if got := after.othersSince(busy{}); got >= 0 {
		t.Errorf("unknown gives %v", got)
	}
}

func TestAChildsErrorIsTold(t *testing.T) {
	var r verifyResult
	err := doInChild(context.Background(), task{Role: "verify", Dir: t.TempDir()}, &r)
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
}
