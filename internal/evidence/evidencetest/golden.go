// Package evidencetest helps the decoders' tests: golden files of evidence as
// the attributes that are sealed.
package evidencetest

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/otlp"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// Render writes the evidence's record, one attribute a line, sorted.
func Render(e *evidence.Evidence) string {
	lr := plog.NewLogRecord()
	otlp.Encode(e, lr)
	lines := make([]string, 0, lr.Attributes().Len())
	for name, v := range lr.Attributes().All() {
		lines = append(lines, fmt.Sprintf("  %s = %s\n", name, v.AsString()))
	}
	slices.Sort(lines)
	return fmt.Sprintf("%s trace %s span %s\n%s", lr.Timestamp().AsTime().Format("2006-01-02T15:04:05.999999999Z"),
		lr.TraceID(), lr.SpanID(), strings.Join(lines, ""))
}

// Golden compares got with the file, or writes it with -update.
func Golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) == got {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range max(len(g), len(w)) {
		var a, b string
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			t.Fatalf("%s line %d:\n got %q\nwant %q\n(-update writes it anew)", path, i+1, a, b)
		}
	}
}

// RoundTrip checks that the evidence comes back from its record unchanged.
func RoundTrip(t *testing.T, e *evidence.Evidence) {
	t.Helper()
	lr := plog.NewLogRecord()
	otlp.Encode(e, lr)
	back, ok := otlp.Decode(lr)
	if !ok {
		t.Fatalf("the record of %q is not evidence", e.Position)
	}
	again := plog.NewLogRecord()
	otlp.Encode(&back, again)
	if got, want := Render(&back), Render(e); got != want || !again.Attributes().Equal(lr.Attributes()) {
		t.Fatalf("round trip:\n got %s\nwant %s", got, want)
	}
}
