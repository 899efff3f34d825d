package distribution

import (
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// makeKeys makes a writer's and an auditor's keys as an operator does.
func makeKeys(t *testing.T, dir, origin string) {
	t.Helper()
	for _, args := range [][]string{
		{"keygen", "writer", "--origin", origin, "--out", dir},
		{"keygen", "auditor", "--out", dir},
	} {
		if out, diag, exit := meshaudit(t, args...); exit != 0 {
			t.Fatalf("meshaudit %v answers %d\n%s%s", args, exit, out, diag)
		}
	}
}

// verify checks a store with its trust file and the auditor's key, and that the
// answer, which it returns, is one of want.
func verify(t *testing.T, store, keys string, want ...int) int {
	t.Helper()
	out, diag, exit := meshaudit(t, "verify", store,
		"--trust", filepath.Join(keys, "trust"), "--auditor", filepath.Join(keys, "auditor.key"))
	if !slices.Contains(want, exit) {
		t.Fatalf("verify answers %d, want %v\n%s%s", exit, want, out, diag)
	}
	return exit
}

// sealedRecords is what is in the store, as JSON: events is a name of an event,
// "*" for everything.
func sealedRecords(t *testing.T, store, events string) string {
	t.Helper()
	out, diag, exit := meshaudit(t, "query", store, "--event", events, "-o", "json")
	if exit != 0 {
		t.Fatalf("query answers %d\n%s", exit, diag)
	}
	return out
}

// matches is the set of what a pattern finds.
func matches(text string, pattern *regexp.Regexp) map[string]bool {
	found := map[string]bool{}
	for _, match := range pattern.FindAllString(text, -1) {
		found[match] = true
	}
	return found
}
