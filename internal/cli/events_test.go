package cli

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/meshaudit/meshaudit/internal/semconv"
)

// The page of the audit record names the events that there are.
func TestDocumentedEvents(t *testing.T) {
	page, err := os.ReadFile("../../docs/audit-record.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "\nEventName: ")
	text, _, _ = strings.Cut(text, "\n\n")
	var got []string
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(text, -1) {
		got = append(got, m[1])
	}
	want := slices.DeleteFunc(slices.Clone(events), func(e string) bool { return e == semconv.EventEvidence })
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("docs/audit-record.md names the events\n%q, the code\n%q", got, want)
	}
}
