//go:build spire

package spire

import (
	"bytes"
	"context"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
)

// TestRealSPIREAuditLog: what operators and workloads do to a running SPIRE is in
// its logs, every line of which is evidence or nothing of ours.
func TestRealSPIREAuditLog(t *testing.T) {
	const collector, orders = "spiffe://example.org/ns/mesh/sa/collector", "spiffe://example.org/ns/shop/sa/orders"
	s := evidencetest.StartSPIRE(t, collector)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(s.Addr)))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if svid, err := source.GetX509SVID(); err != nil || svid.ID.String() != collector {
		t.Fatalf("%v, %v", svid, err)
	}
	s.Server(t, "x509", "mint", "-spiffeID", orders, "-ttl", "5m")
	s.Server(t, "jwt", "mint", "-spiffeID", orders, "-audience", "x", "-ttl", "5m")
	created := s.Server(t, "entry", "create", "-parentID", "spiffe://example.org/agent", "-spiffeID", orders, "-selector", "unix:uid:4711")
	entry := regexp.MustCompile(`Entry ID\s*: (\S+)`).FindStringSubmatch(created)
	if entry == nil {
		t.Fatal(created)
	}
	s.Server(t, "entry", "update", "-entryID", entry[1], "-parentID", "spiffe://example.org/agent", "-spiffeID", orders, "-selector", "unix:uid:4712")
	s.Server(t, "entry", "delete", "-entryID", entry[1])

	read := func() (all []string) {
		for _, name := range []string{s.ServerLog, s.AgentLog} {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			end := bytes.LastIndexByte(b, '\n') // of the last whole line
			for line := range bytes.Lines(b[:end+1]) {
				line = bytes.TrimSpace(line)
				e, err := Decode(line)
				switch {
				case errors.Is(err, ErrNoAudit):
				case err != nil:
					t.Errorf("%s: %v", line, err)
				default:
					evidencetest.RoundTrip(t, &e)
					if a := e.Act; a != nil {
						all = append(all, strings.Join([]string{e.Event.String(), a.Action, a.Outcome, a.TargetID, a.Change.Name, a.Change.Verb}, " "))
					}
				}
			}
		}
		return all
	}
	var all []string
	for _, want := range []string{
		"mesh.identity.issue " + orders,
		"mesh.identity.issue " + collector,
		"mesh.config.change create " + orders, // the entry has no id yet
		"mesh.config.change update " + entry[1],
		"mesh.config.change delete " + entry[1],
	} {
		words := strings.Fields(want)
		for !slices.ContainsFunc(all, func(got string) bool {
			return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(got, w) })
		}) {
			if ctx.Err() != nil {
				t.Fatalf("not in the logs: %s; what is:\n%s", want, strings.Join(all, "\n"))
			}
			time.Sleep(100 * time.Millisecond) // a log may be written after the answer
			all = read()
		}
	}
}
