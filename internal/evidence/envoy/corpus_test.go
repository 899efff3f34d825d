package envoy

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
)

// message reads a file of the corpus: protojson with comment lines; one has a
// closing brace too many behind it.
func message(tb testing.TB, path string) *alsv3.StreamAccessLogsMessage {
	tb.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	var uncommented []byte
	for line := range bytes.Lines(text) {
		if trimmed := bytes.TrimSpace(line); !bytes.HasPrefix(trimmed, []byte("#")) && !bytes.HasPrefix(trimmed, []byte("//")) {
			uncommented = append(uncommented, line...)
		}
	}
	var first json.RawMessage
	if err := json.NewDecoder(bytes.NewReader(uncommented)).Decode(&first); err != nil {
		tb.Fatalf("%s: %v", path, err)
	}
	var m alsv3.StreamAccessLogsMessage
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(first, &m); err != nil {
		tb.Fatalf("%s: %v", path, err)
	}
	return &m
}

func corpus(tb testing.TB) []string {
	tb.Helper()
	files, err := filepath.Glob("testdata/*.msg.json")
	if err != nil || len(files) == 0 {
		tb.Fatalf("no corpus: %v", err)
	}
	return files
}

func TestCorpus(t *testing.T) {
	for _, path := range corpus(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			m := message(t, path)
			node := ReadNode(m.GetIdentifier().GetNode())
			var got strings.Builder
			for _, entry := range m.GetHttpLogs().GetLogEntry() {
				e := HTTP(&node, entry)
				e.Position = "test"
				evidencetest.RoundTrip(t, &e)
				got.WriteString(evidencetest.Render(&e))
			}
			if got.Len() == 0 {
				t.Fatal("no entries")
			}
			evidencetest.Golden(t, strings.TrimSuffix(path, ".msg.json")+".golden", got.String())
		})
	}
}
