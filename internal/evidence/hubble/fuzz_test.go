package hubble

import (
	"bytes"
	"os"
	"testing"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
)

func corpusLines(tb testing.TB) [][]byte {
	tb.Helper()
	var lines [][]byte
	for _, path := range corpus {
		text, err := os.ReadFile(path)
		if err != nil {
			tb.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			lines = append(lines, bytes.TrimSpace(line))
		}
	}
	return lines
}

func FuzzDecode(f *testing.F) {
	for _, line := range corpusLines(f) {
		f.Add(line)
	}
	for _, line := range traps {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) { evidencetest.FuzzLine(t, Decode, line) })
}

func BenchmarkDecode(b *testing.B) {
	lines := corpusLines(b)
	size := 0
	for _, line := range lines {
		size += len(line)
	}
	defer evidencetest.Rate(b, size)()
	b.ReportAllocs()
	var dst []evidence.Evidence
	for b.Loop() {
		for _, line := range lines {
			var err error
			if dst, err = Decode(dst[:0], &evidencetest.Origin, line); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(len(lines)*b.N)/b.Elapsed().Seconds(), "lines/s")
}
