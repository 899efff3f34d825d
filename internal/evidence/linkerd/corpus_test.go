package linkerd

import (
	"testing"

	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
)

var corpus = []string{"testdata/linkerd_apache.log", "testdata/linkerd_json.jsonl"}

func TestCorpus(t *testing.T) {
	for _, path := range corpus {
		evidencetest.Corpus(t, path, Decode)
	}
}

func TestHostile(t *testing.T) { evidencetest.Hostile(t, Decode, traps[4]) }

func FuzzDecode(f *testing.F) {
	for _, line := range evidencetest.Lines(f, corpus...) {
		f.Add(line)
	}
	for _, line := range traps {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) { evidencetest.FuzzLine(t, Decode, line) })
}

func BenchmarkDecode(b *testing.B) {
	evidencetest.BenchmarkLines(b, Decode, evidencetest.Lines(b, corpus...))
}
