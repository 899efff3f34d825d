package verifiernode_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// first is a line of verify.mjs about a bad object.
var first = regexp.MustCompile(`^ +(tampering|incomplete) \(([a-z]+)\): (?:(\S+) at (\d+): )?`)

// TestVectors asks the second verifier about every golden vector: its exit code and the first bad object must
// be those that expect.json states. The package seal asks its own.
func TestVectors(t *testing.T) {
	n := startNode(t)
	names := must2(filepath.Glob("../../seal/testdata/vectors/*/expect.json"))
	if len(names) < 100 {
		t.Fatalf("%d vectors", len(names))
	}
	type answered struct {
		Exit  int `json:"exit"`
		First *struct {
			Class  string `json:"class"`
			File   string `json:"file"`
			Offset int    `json:"offset"`
		} `json:"first"`
	}
	for _, name := range names {
		dir := filepath.Dir(name)
		var e struct {
			AsOf    time.Time `json:"as_of"`
			Auditor answered  `json:"with_auditor"`
			Alone   answered  `json:"without_auditor"`
		}
		if err := json.Unmarshal(must(os.ReadFile(name)), &e); err != nil {
			t.Fatal(err)
		}
		q := question{store: filepath.Join(dir, "store"), trust: filepath.Join(dir, "trust"), auditor: filepath.Join(dir, "auditor.key"), asOf: e.AsOf}
		if since := filepath.Join(dir, "since"); exists(since) {
			q.since = since
		}
		if accepted := filepath.Join(dir, "accepted"); exists(accepted) {
			q.accepted = accepted
		}
		for _, want := range []answered{e.Auditor, e.Alone} {
			got := n.ask(t, q)
			bad := func(what string) {
				t.Errorf("%s, auditor %v: %s\n%s", filepath.Base(dir), q.auditor != "", what, strings.Join(head(got.Lines), "\n"))
			}
			if got.Exit != want.Exit {
				bad(fmt.Sprintf("exit %d, want %d", got.Exit, want.Exit))
			} else if want.First != nil && want.First.File != "" {
				bad := bad
				for _, line := range got.Lines {
					m := first.FindStringSubmatch(line)
					if m == nil || m[1] != want.First.Class {
						continue
					}
					if m[3] == want.First.File && m[4] == strconv.Itoa(want.First.Offset) {
						bad = nil
					}
					break
				}
				if bad != nil {
					bad(fmt.Sprintf("the first bad object is not %s at %d", want.First.File, want.First.Offset))
				}
			}
			q.auditor = ""
		}
	}
	t.Logf("%d vectors", len(names))
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}
