// Package opa tests the OPA decision log receiver against OPA itself, which
// uploads with its decision_logs plugin. It is a module of its own, and the
// agent below it another, to keep OPA out of what users of the receiver pull
// in.
package opa

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/meshaudit/meshaudit/internal/docblock"
	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/otlp"
	"github.com/meshaudit/meshaudit/receiver/opadecisionlogreceiver"
)

// A sink is the next consumer; while refusing it answers every offer with a
// retryable error.
type sink struct {
	mu       sync.Mutex
	refusing bool
	refusals int
	got      map[string]evidence.Evidence // by decision id
	changes  []evidence.Evidence          // of bundles
	dropped  map[string]int64             // by reason
	raw      int
	changed  chan struct{}
}

func newSink() *sink {
	return &sink{got: map[string]evidence.Evidence{}, dropped: map[string]int64{}, changed: make(chan struct{}, 1000)}
}

func (*sink) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (s *sink) ConsumeLogs(_ context.Context, logs plog.Logs) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}()
	if s.refusing {
		s.refusals++
		return errors.New("busy")
	}
	for _, lr := range logs.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
		if g, ok := otlp.DecodeGap(lr); ok {
			s.dropped[g.Reason] += g.Count
			continue
		}
		e, ok := otlp.Decode(lr)
		if !ok {
			s.raw++
			continue
		}
		if e.Source == evidence.SourceOPAStatus {
			s.changes = append(s.changes, e)
			continue
		}
		s.got[e.DecisionID] = e
	}
	return nil
}

func (s *sink) refuse(refusing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusing = refusing
}

func (s *sink) wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		s.mu.Lock()
		done := ok()
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-s.changed:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func start(t *testing.T, endpoint string, next consumer.Logs) receiver.Logs {
	t.Helper()
	factory := opadecisionlogreceiver.NewFactory()
	cfg := factory.CreateDefaultConfig()
	if err := confmap.NewFromStringMap(map[string]any{"endpoint": endpoint, "token": "s3cret"}).Unmarshal(cfg); err != nil {
		t.Fatal(err)
	}
	set := receivertest.NewNopSettings(component.MustNewType("opa_decision_log"))
	r, err := factory.CreateLogs(context.Background(), set, cfg, next)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(context.Background(), componenttest.NewNopHost()); err != nil {
		t.Fatal(err)
	}
	return r
}

func stop(t *testing.T, r receiver.Logs) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := r.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// An agent is OPA as a process, uploading every second.
type agent struct {
	in  io.WriteCloser
	out *bufio.Scanner
}

func newAgent(t *testing.T, endpoint string, limit ...string) *agent {
	t.Helper()
	program := build(t)
	cmd := exec.Command(program, append([]string{"http://" + endpoint, "s3cret"}, limit...)...)
	cmd.Stderr = t.Output()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("agent: %v", err)
		}
	})
	return &agent{in, bufio.NewScanner(out)}
}

// build builds the agent; the go command caches what it can.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "agent")
	cmd := exec.Command("go", "build", "-o", program, ".")
	cmd.Dir = "agent"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, out)
	}
	return program
}

// decide asks for a decision and returns its id.
func (a *agent) decide(t *testing.T, path, method string) string {
	t.Helper()
	if _, err := fmt.Fprintln(a.in, path, method); err != nil {
		t.Fatal(err)
	}
	if !a.out.Scan() {
		t.Fatalf("the agent gave no decision: %v", a.out.Err())
	}
	return a.out.Text()
}

// What the documentation shows of OPA's configuration OPA takes, and knows each
// option in it.
func TestConfigsInDocs(t *testing.T) {
	blocks, err := docblock.Of("../..", docblock.OPA)
	if err != nil {
		t.Fatal(err)
	}
	program := build(t)
	check := func(config string) ([]byte, error) {
		cmd := exec.Command(program, "config")
		cmd.Stdin = strings.NewReader(config)
		return cmd.CombinedOutput()
	}
	for _, b := range blocks {
		if out, err := check(b.Text); err != nil {
			t.Errorf("%s: %v: %s", &b, err, out)
		}
		wrong := strings.Replace(b.Text, "max_delay_seconds", "max_delay", 1)
		if out, err := check(wrong); err == nil || !strings.Contains(string(out), "decision_logs.reporting.max_delay") {
			t.Errorf("%s: an option that OPA does not know: %v: %s", &b, err, out)
		}
	}
}

func TestOPAUploads(t *testing.T) {
	next := newSink()
	endpoint := freePort(t)
	r := start(t, endpoint, next)
	defer stop(t, r)
	opa := newAgent(t, endpoint)

	allowed := opa.decide(t, "/mesh/authz", "GET")
	denied := opa.decide(t, "/mesh/authz", "DELETE")
	plain := opa.decide(t, "/mesh/authz/allow", "GET")
	undefined := opa.decide(t, "/mesh/authz/undefined_rule", "GET")
	next.wait(t, "four decisions", func() bool { return len(next.got) == 4 })

	for id, want := range map[string]evidence.Verdict{
		allowed:   {Decision: evidence.Allow, PolicyID: "mesh/authz"},
		denied:    {Decision: evidence.Deny, PolicyID: "mesh/authz", Reason: "identity not permitted"},
		plain:     {Decision: evidence.Allow, PolicyID: "mesh/authz/allow"},
		undefined: {Decision: evidence.NotEvaluated, PolicyID: "mesh/authz/undefined_rule", Reason: "the result is undefined"},
	} {
		want.Engine, want.Enforced, want.DecisionID, want.PolicyRevision = "opa", true, id, "git-abc123"
		e := next.got[id]
		if *e.Verdict != want {
			t.Errorf("verdict %+v, want %+v", *e.Verdict, want)
		}
		if e.RequestID != "r1" || e.StreamID != "13359530607844510314" || e.Path != "/orders/1" || e.Host != "orders" ||
			e.Reporter.Node != "opa-test" || !e.Reporter.Authenticated || e.Cluster != "east" || e.Start == 0 || e.User != "" {
			t.Errorf("%+v", e)
		}
		if len(e.From.Identities) != 1 || e.From.Identities[0].Proof != evidence.ProofClaimed {
			t.Errorf("identities %+v", e.From.Identities)
		}
	}
	if next.raw != 0 {
		t.Errorf("%d events were not decoded", next.raw)
	}
}

// TestOPARepeats: decisions made while the consumer refuses, and while the
// receiver is gone altogether, all arrive in the end.
func TestOPARepeats(t *testing.T) {
	next := newSink()
	endpoint := freePort(t)
	r := start(t, endpoint, next)
	opa := newAgent(t, endpoint)
	var made []string
	burst := func() {
		for range 50 {
			made = append(made, opa.decide(t, "/mesh/authz", "GET"))
		}
	}
	arrived := func() bool {
		return !slices.ContainsFunc(made, func(id string) bool { _, ok := next.got[id]; return !ok })
	}

	next.refuse(true)
	burst()
	next.wait(t, "two refusals", func() bool { return next.refusals >= 2 })
	if len(next.got) != 0 {
		t.Fatalf("%d decisions were taken while refusing", len(next.got))
	}
	next.refuse(false)
	next.wait(t, "the refused decisions", arrived)

	stop(t, r)
	burst()
	r = start(t, endpoint, next)
	defer stop(t, r)
	burst()
	next.wait(t, "all decisions", arrived)
	if next.raw != 0 || len(next.got) != 150 {
		t.Errorf("%d decisions, %d undecoded", len(next.got), next.raw)
	}
}

// TestOPAReportsBundles: what the status plugin says of bundles, also when its
// first reports were refused, arrives once.
func TestOPAReportsBundles(t *testing.T) {
	next := newSink()
	next.refuse(true)
	endpoint := freePort(t)
	r := start(t, endpoint, next)
	defer stop(t, r)
	opa := newAgent(t, endpoint)
	next.wait(t, "two refusals", func() bool { return next.refusals >= 2 })
	next.refuse(false)
	next.wait(t, "an activation", func() bool { return len(next.changes) >= 1 })
	if _, err := fmt.Fprintln(opa.in, "break"); err != nil {
		t.Fatal(err)
	}
	next.wait(t, "a failure", func() bool {
		return slices.ContainsFunc(next.changes, func(e evidence.Evidence) bool { return e.Act.Outcome == "failure" })
	})
	time.Sleep(3 * time.Second) // some more polls, and so reports
	next.mu.Lock()
	defer next.mu.Unlock()
	// Two reports under way at once may both tell of one change, which has one
	// evidence id; and OPA may give a bundle that is gone more than one error.
	if len(next.changes) > 4 || next.raw != 0 {
		t.Fatalf("%d changes of dozens of reports, %d undecoded", len(next.changes), next.raw)
	}
	for i, e := range next.changes {
		c, outcome := e.Act.Change, e.Act.Outcome
		if e.Event != evidence.EventConfigChange || e.Reporter.Node != "opa-test" || e.Cluster != "east" {
			t.Errorf("%+v", e)
		}
		switch {
		case c.Name != "authz":
			t.Errorf("%+v", c)
		case outcome == "success" && (c.Revision != "git-abc123" || time.Since(time.Unix(0, e.Start)) > time.Minute),
			i == 0 && outcome != "success":
			t.Errorf("%+v %s", c, outcome)
		case outcome != "success" && (outcome != "failure" || e.StatusDetail == ""):
			t.Errorf("%+v %s %s", c, outcome, e.StatusDetail)
		}
	}
}

// TestOPADrops: what OPA drops by its limit of decisions per second it counts,
// and nothing is unaccounted for.
func TestOPADrops(t *testing.T) {
	next := newSink()
	endpoint := freePort(t)
	r := start(t, endpoint, next)
	defer stop(t, r)
	opa := newAgent(t, endpoint, "1")
	made := map[string]bool{}
	for range 40 {
		made[opa.decide(t, "/mesh/authz", "GET")] = true
	}
	next.wait(t, "each decision or its loss", func() bool {
		return len(next.got)+int(next.dropped["dropped_rate_limit"]) == len(made)
	})
	next.mu.Lock()
	defer next.mu.Unlock()
	if len(next.dropped) != 1 || next.dropped["dropped_rate_limit"] == 0 || len(next.got) == 0 {
		t.Errorf("%d decisions, dropped %v", len(next.got), next.dropped)
	}
}
