package hubble

import (
	"testing"

	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
)

var corpus = []string{"testdata/flows_http.jsonl", "testdata/flows_tcp.jsonl"}

func TestCorpus(t *testing.T) {
	for _, path := range corpus {
		evidencetest.Corpus(t, path, Decode)
	}
}

func TestBadLines(t *testing.T) {
	for name, line := range evidencetest.BadLines() {
		if got, err := Decode(nil, &evidencetest.Origin, line); err == nil || len(got) != 0 {
			t.Errorf("%s: %d pieces, error %v", name, len(got), err)
		}
	}
}
