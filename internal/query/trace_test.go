package query

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/seal"
)

var traced = pcommon.TraceID{1, 2, 3}

func spanID(n byte) (id pcommon.SpanID) {
	if n != 0 {
		id = pcommon.SpanID{n}
	}
	return id
}

// seen is evidence with an id, on a span beneath another.
func seen(id string, span, parent byte) func(plog.LogRecord) {
	return event(semconv.EventEvidence, func(r plog.LogRecord) {
		r.SetTraceID(traced)
		r.SetSpanID(spanID(span))
		r.Attributes().PutStr(semconv.EvidenceID, id)
		if above := spanID(parent); !above.IsEmpty() {
			r.Attributes().PutStr(semconv.EvidenceParentSpanID, hex.EncodeToString(above[:]))
		}
	})
}

// call is a record from one workload to another that rests on evidence: ROLE ID ….
func call(id, from, to string, at, took time.Duration, evidence ...string) func(plog.LogRecord) {
	return func(r plog.LogRecord) {
		record(id, at, semconv.AuditRecordID, id)(r)
		r.SetTraceID(traced)
		if from != "" {
			r.Attributes().PutStr(semconv.SourceSPIFFEID, "spiffe://x/"+from)
		}
		if to != "" {
			r.Attributes().PutStr(semconv.DestinationSPIFFEID, "spiffe://x/"+to)
		}
		r.Attributes().PutInt(semconv.MeshDuration, int64(took))
		all := r.Attributes().PutEmptySlice(semconv.MeshAttestations)
		for i := 0; i < len(evidence); i += 2 {
			m := all.AppendEmpty().SetEmptyMap()
			m.PutStr("role", evidence[i])
			m.PutStr(semconv.AttestationID, evidence[i+1])
		}
	}
}

// about is a finding or an amendment.
func about(name string, r func(plog.LogRecord), attribute string, value any) func(plog.LogRecord) {
	return event(name, func(lr plog.LogRecord) {
		r(lr)
		if err := lr.Attributes().FromRaw(map[string]any{semconv.AuditRecordID: lr.Body().Str(), attribute: value, semconv.FindingID: attribute}); err != nil {
			panic(err)
		}
		lr.SetTraceID(traced)
	})
}

func readTrace(t *testing.T, records ...func(plog.LogRecord)) string {
	t.Helper()
	store := t.TempDir()
	l := newTestLog(t, store, "example.org/a")
	l.append(time.Second, records...)
	l.close()
	trace, err := ReadTrace(t.Context(), seal.Dir(store), nil, traced)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	var tell func(calls []*Call, depth int)
	tell = func(calls []*Call, depth int) {
		for _, c := range calls {
			line := strings.Repeat(">", depth) + c.ID
			if c.ByTime {
				line += "~"
			}
			for _, r := range c.Said {
				line += " +" + r.Log.Body().Str()
			}
			out = append(out, line)
			tell(c.Calls, depth+1)
		}
	}
	tell(trace.Calls, 0)
	return strings.Join(out, "; ")
}

const ms = time.Millisecond

func TestTrace(t *testing.T) {
	for name, c := range map[string]struct {
		records []func(plog.LogRecord)
		want    string
	}{
		"spans say what led to what, clocks or not": {[]func(plog.LogRecord){
			call("c", "b", "c", -50*ms, ms, "callee", "c1", "caller", "c0"),
			call("b", "a", "b", 0, 9*ms, "callee", "b1"),
			seen("b1", 2, 1), seen("app", 3, 2), seen("c0", 4, 3), seen("c1", 5, 4),
		}, "b; >c"},
		"a span that is passed on": {[]func(plog.LogRecord){
			call("b", "a", "b", 0, 9*ms, "callee", "b1"), call("c", "b", "c", ms, ms, "callee", "c1"), call("d", "c", "d", ms, ms, "callee", "d1"),
			seen("b1", 2, 0), seen("c1", 2, 0), seen("d1", 2, 0),
		}, "b; >c; >>d"},
		"attempts of one call": {[]func(plog.LogRecord){
			call("b", "a", "b", 0, 9*ms, "callee", "b1"),
			call("c1", "b", "c", ms, ms, "callee", "c1", "caller", "c0"), call("c2", "b", "c", 2*ms, ms, "callee", "c2", "caller", "c0"),
			seen("b1", 2, 1), seen("c0", 3, 2), seen("c1", 4, 3), seen("c2", 5, 3),
		}, "b; >c1; >c2"},
		"without spans, by parties and time: the last that was under way": {[]func(plog.LogRecord){
			call("b", "a", "b", 0, 20*ms), call("b2", "a", "b", 5*ms, 10*ms), call("c", "b", "c", 6*ms, ms), call("d", "b", "d", 17*ms, ms),
			call("late", "b", "e", 30*ms, ms), call("other", "x", "y", 7*ms, ms),
		}, "b; >d~; b2; >c~; other; late"},
		"nobody knows how long it took": {[]func(plog.LogRecord){
			call("b", "a", "b", 0, 0), call("c", "b", "c", time.Second, ms),
		}, "b; >c~"},
		"a span that leads to another workload's call does not count": {[]func(plog.LogRecord){
			call("b", "a", "b", 0, 9*ms, "callee", "b1"), call("c", "z", "c", ms, ms, "caller", "c0"),
			seen("b1", 2, 1), seen("c0", 3, 2),
		}, "b; c"},
		"attempts that share a span, of parties that nobody names": {[]func(plog.LogRecord){
			call("b", "", "", 0, ms, "callee", "b1"), call("b2", "", "", 2*ms, ms, "callee", "b2"),
			seen("b1", 2, 1), seen("b2", 2, 1),
		}, "b; b2"},
		"at one time": {[]func(plog.LogRecord){
			call("c", "b", "c", 0, ms), call("z", "a", "b", 0, ms),
		}, "z; >c~"},
		"in a circle": {[]func(plog.LogRecord){
			call("b", "a", "b", 0, 9*ms, "callee", "b1", "caller", "b0"), call("c", "b", "a", ms, ms, "callee", "c1", "caller", "c0"),
			seen("b0", 1, 4), seen("b1", 2, 1), seen("c0", 3, 2), seen("c1", 4, 3),
		}, "c; >b"},
		"twice, amended, and with a finding that is stated twice": {[]func(plog.LogRecord){
			call("b", "a", "b", 0, 9*ms), call("b", "a", "b", 0, 9*ms), call("c", "x", "c", ms, ms),
			about(semconv.EventAmendment, record("more", 0), semconv.MeshAmends, "b"),
			about(semconv.EventFinding, record("once", 0), semconv.FindingRecords, []any{"b", "c", "gone"}),
			about(semconv.EventFinding, record("twice", 0), semconv.FindingRecords, []any{"b", "b", "c"}),
		}, "b +more +twice; c +twice"},
		"what makes no sense": {[]func(plog.LogRecord){
			seen("", 1, 1), seen("b1", 1, 1), seen("b1", 0, 0),
			func(r plog.LogRecord) {
				seen("x", 1, 0)(r)
				r.Attributes().PutStr(semconv.EvidenceParentSpanID, strings.Repeat("ab", 100))
				r.Attributes().PutStr(semconv.AuditRecordID, "forged")
			},
			func(r plog.LogRecord) {
				call("b", "a", "b", 0, -ms, "callee", "b1")(r)
				r.Attributes().PutStr(semconv.MeshAttestations, "none")
			},
		}, "b"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := readTrace(t, c.records...); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// Of a long trace the beginning is told, and that it is no more than that.
func TestLongTrace(t *testing.T) {
	store := t.TempDir()
	l := newTestLog(t, store, "example.org/a")
	l.append(time.Second, call("b", "a", "b", 0, ms), call("c", "b", "c", 0, ms))
	l.append(2*time.Second, call("d", "c", "d", 0, ms))
	l.close()
	trace, err := readBeginning(t.Context(), seal.Dir(store), nil, traced, 2)
	if err == nil || !strings.Contains(err.Error(), "the rest is not shown") || len(trace.Calls) != 1 || len(trace.Calls[0].Calls) != 1 {
		t.Error(trace.Calls, err)
	}
}

// However many calls a trace has, each led to the next or all were made one after the other,
// the tree is made in time that grows with their number.
func TestLargeTrace(t *testing.T) {
	const many = 50_000
	for name, who := range map[string]func(int) (from, to string){
		"deep":              func(i int) (string, string) { return fmt.Sprint(i), fmt.Sprint(i + 1) },
		"nobody under way":  func(i int) (string, string) { return [2]string{"a", "b"}[i*2/many], "b" },
		"everyone the same": func(int) (string, string) { return "a", "a" },
	} {
		t.Run(name, func(t *testing.T) {
			tr := &tree{byID: map[string]*Call{}}
			for i := range many {
				from, to := who(i)
				r := &Record{Entry: &seal.Entry{}, Under: &Under{Resource: pcommon.NewResource(), Scope: pcommon.NewInstrumentationScope()}, Signal: seal.SignalLogs, Log: plog.NewLogRecord()}
				r.Log.Attributes().PutStr(semconv.AuditRecordID, fmt.Sprint(i))
				r.Log.Attributes().PutStr(semconv.SourceSPIFFEID, from)
				r.Log.Attributes().PutStr(semconv.DestinationSPIFFEID, to)
				if name == "nobody under way" {
					r.Log.Attributes().PutInt(semconv.MeshDuration, 1)
				}
				r.Attributes, r.Time = r.Log.Attributes(), time.Unix(int64(i), 0)
				tr.add(r)
				f := &Record{Entry: r.Entry, Under: r.Under, Signal: seal.SignalLogs, Event: semconv.EventFinding, Log: plog.NewLogRecord()}
				f.Log.Attributes().PutStr(semconv.AuditRecordID, fmt.Sprint("finding ", i))
				f.Log.Attributes().PutStr(semconv.FindingID, fmt.Sprint(i))
				f.Attributes = f.Log.Attributes()
				tr.add(f)
			}
			roots, depth := tr.grow(), 0
			for next := roots; len(next) > 0; next = next[0].Calls {
				depth++
			}
			wantRoots, wantDepth := 1, many
			if name == "nobody under way" {
				wantRoots, wantDepth = many, 1
			}
			if len(roots) != wantRoots || depth != wantDepth {
				t.Errorf("%d roots, %d deep, want %d, %d", len(roots), depth, wantRoots, wantDepth)
			}
		})
	}
}

func TestTraceOf(t *testing.T) {
	store := t.TempDir()
	l := newTestLog(t, store, "example.org/a")
	under := func(n byte, id string) func(plog.LogRecord) {
		return func(r plog.LogRecord) {
			record("", 0, semconv.AuditRecordID, id+strings.Repeat("0", idDigits-len(id)))(r)
			if n != 0 {
				r.SetTraceID(pcommon.TraceID{n})
			}
		}
	}
	l.append(time.Second, under(1, "aa01"), under(1, "aa02"), under(2, "bb01"), under(3, "bb01ff"), under(0, "cc01"), seen("ee01", 2, 1))
	l.close()
	for id, want := range map[string]string{
		"aa01":                              "01000000000000000000000000000000",
		"aa0":                               "01000000000000000000000000000000", // two records of it
		"ee01":                              hex.EncodeToString(traced[:]),
		"0123456789abcdef0123456789abcdef":  "0123456789abcdef0123456789abcdef",
		"bb01":                              "bb01 is the beginning of ids in 2 traces",
		"aa01" + strings.Repeat("0", 60):    "01000000000000000000000000000000",
		"cc01":                              "cc01" + strings.Repeat("0", 60) + " names no trace id",
		strings.Repeat("0", 32):             "no trace, record or evidence 0",
		"dd01":                              "no trace, record or evidence dd01",
		"0123456789abcdef0123456789abcdef0": "no trace, record or evidence",
	} {
		got, err := TraceOf(t.Context(), seal.Dir(store), nil, id)
		if say := fmt.Sprint(got, err); err == nil && got.String() != want || err != nil && !strings.Contains(say, want) {
			t.Errorf("%s: got %s, want %s", id, say, want)
		}
	}
}
