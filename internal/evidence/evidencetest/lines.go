package evidencetest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// Origin is that of the lines of Corpus.
var Origin = evidence.Origin{
	Workload: evidence.Workload{PodName: "pod-1", Namespace: "ns", Name: "app", Node: "node-1"},
	Cluster:  "east",
	Time:     1_763_856_000_000_000_000,
}

// Corpus decodes a file's lines and compares with the file's golden one: how
// many lines became how much evidence and which were refused and why, then the
// evidence. Every line must be one or the other, and every piece must survive
// its record.
func Corpus(t *testing.T, path string, decode evidence.Decoder) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var body, refused strings.Builder
	lines, decoded, pieces := 0, 0, 0
	for line := range bytes.Lines(text) {
		lines++
		got, err := decode(nil, &Origin, bytes.TrimRight(line, "\r\n"))
		if (err == nil) == (len(got) == 0) {
			t.Errorf("%s line %d: %d pieces and error %v", path, lines, len(got), err)
		}
		if err != nil {
			fmt.Fprintf(&refused, "line %d refused: %s: %v\n", lines, evidence.RefusalReason(err), err)
			continue
		}
		decoded++
		for i := range got {
			pieces++
			RoundTrip(t, &got[i])
			body.WriteString(Render(&got[i]))
		}
	}
	if lines == 0 {
		t.Fatalf("%s is empty", path)
	}
	Golden(t, path+".golden", fmt.Sprintf("%d lines, %d decoded, %d pieces\n%s%s", lines, decoded, pieces, &refused, &body))
}

// Lines are those of the files.
func Lines(tb testing.TB, paths ...string) (lines [][]byte) {
	tb.Helper()
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			tb.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			lines = append(lines, bytes.TrimRight(line, "\r\n"))
		}
	}
	return lines
}

// One decodes a line that is one piece of evidence.
func One(t *testing.T, decode evidence.Decoder, line string) evidence.Evidence {
	t.Helper()
	got, err := decode(nil, &Origin, []byte(line))
	if err != nil || len(got) != 1 {
		t.Fatalf("%d pieces, %v, of %s", len(got), err, line)
	}
	RoundTrip(t, &got[0])
	return got[0]
}

// BenchmarkLines measures a decoder.
func BenchmarkLines(b *testing.B, decode evidence.Decoder, lines [][]byte) {
	b.Helper()
	size := 0
	for _, line := range lines {
		size += len(line)
	}
	defer Rate(b, size)()
	b.ReportAllocs()
	var dst []evidence.Evidence
	for b.Loop() {
		for _, line := range lines {
			var err error
			if dst, err = decode(dst[:0], &Origin, line); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(len(lines)*b.N)/b.Elapsed().Seconds(), "lines/s")
}

// FuzzLine is what holds for every line: it is refused with a known reason or
// gives evidence that survives its record, bounded and without query strings,
// and twice the same.
func FuzzLine(t *testing.T, decode evidence.Decoder, line []byte) {
	t.Helper()
	before := bytes.Clone(line)
	got, err := decode(nil, &Origin, line)
	if !bytes.Equal(before, line) {
		t.Fatal("the decoder changed its input")
	}
	if err != nil {
		if len(got) != 0 || len(err.Error()) > 4096 {
			t.Fatalf("%d pieces with an error of %d bytes", len(got), len(err.Error()))
		}
		return
	}
	again, err := decode(nil, &Origin, line)
	if err != nil || len(again) != len(got) {
		t.Fatalf("the second time: %d pieces, %v", len(again), err)
	}
	for i := range got {
		if strings.ContainsAny(got[i].Path, "?#") {
			t.Fatalf("path %q", got[i].Path)
		}
		if a, b := Render(&got[i]), Render(&again[i]); a != b {
			t.Fatalf("the second time %s, first %s", b, a)
		}
		RoundTrip(t, &got[i])
	}
}

// BadLines are hostile lines that no decoder may do more with than refuse.
func BadLines() map[string][]byte {
	return map[string][]byte{
		"empty":            {},
		"blank":            []byte("   "),
		"a comment":        []byte("# comment"),
		"nul":              {0},
		"invalid UTF-8":    []byte("{\"\xff\":\"\xfe\"}"),
		"deep array":       bytes.Repeat([]byte("["), 10_000),
		"deep object":      append(bytes.Repeat([]byte(`{"flow":`), 10_000), bytes.Repeat([]byte("}"), 10_000)...),
		"1 MiB of a":       bytes.Repeat([]byte("a"), 1<<20),
		"1 MiB of spaces":  bytes.Repeat([]byte(" "), 1<<20),
		"1 MiB of quotes":  bytes.Repeat([]byte(`"`), 1<<20),
		"1 MiB of pairs":   bytes.Repeat([]byte("a=b "), 1<<18),
		"1 MiB of escapes": append([]byte(`{"a":"`), bytes.Repeat([]byte(`\u0041`), 170_000)...),
	}
}

// Hostile checks that a decoder makes nothing of BadLines, and that in good
// lines, JSON objects that it decodes, a member that it does not know does no
// harm, whatever it holds: it is passed over, or the line is refused as
// malformed, in bounded memory.
func Hostile(t *testing.T, decode evidence.Decoder, good ...string) {
	t.Helper()
	for name, line := range BadLines() {
		if got, err := decode(nil, &Origin, line); err == nil || len(got) != 0 {
			t.Errorf("%s: %d pieces, error %v", name, len(got), err)
		}
	}
	for _, line := range good {
		plain := One(t, decode, line)
		for name, m := range map[string]struct {
			member  string
			refused bool
		}{
			"arrays nested deeply":   {strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000), true},
			"objects nested deeply":  {strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000), true},
			"a NUL":                  {"\"\x00\"", true},
			"a number that is none":  {"1e", true},
			"an integer beyond 2^53": {"9007199254740993", false},
			"an integer beyond 2^64": {strings.Repeat("9", 1000), false},
			"a large exponent":       {"1e999999999", false},
			"invalid UTF-8":          {"\"\xff\xfe\xc3\"", false},
			"half a surrogate":       {`"\ud800"`, false},
			"the same key twice":     {`1,"unknown member":2`, false},
			"1 MiB":                  {`"` + strings.Repeat("a", 1<<20) + `"`, false},
			"1 MiB of escapes":       {`"` + strings.Repeat(`\u0041`, 1<<20/6) + `"`, false},
		} {
			hostile := []byte(`{"unknown member":` + m.member + "," + strings.TrimLeft(line, " {"))
			HeapStaysBelow(t, 16<<20, func() {
				got, err := decode(nil, &Origin, hostile)
				switch {
				case name == "the same key twice" && errors.Is(err, evidence.ErrMalformed): // that may be refused
				case m.refused && !errors.Is(err, evidence.ErrMalformed), !m.refused && err != nil:
					t.Errorf("%s: %v", name, err)
				case !m.refused && (len(got) != 1 || Render(&got[0]) != Render(&plain)):
					t.Errorf("%s: %+v", name, got)
				}
			})
		}
	}
}
