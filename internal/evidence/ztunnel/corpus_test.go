package ztunnel

import (
	"testing"

	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
)

var corpus = []string{"testdata/kiali_ztunnel.log"}

func TestCorpus(t *testing.T) {
	for _, path := range corpus {
		evidencetest.Corpus(t, path, Decode)
	}
}

func TestHostile(t *testing.T) {
	evidencetest.Hostile(t, Decode,
		`{"level":"info","time":"2025-03-01T10:00:00.000001Z","scope":"access","message":"connection complete","src.addr":"10.0.0.1:1","dst.addr":"10.0.0.2:2","direction":"inbound"}`)
}

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
