// Package verifiernode_test holds the Go verifier and the one in this folder, which was written from the
// format's page alone, against each other: on every log, whole or broken, they must give one answer.
package verifiernode_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshaudit/meshaudit/seal"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
)

const (
	origin     = "example.org/meshaudit/edge-0"
	crashChild = "VERIFIER_NODE_CRASH_DIR" // set in the process that is to be killed
)

// start is when the logs of these tests begin.
var start = time.Unix(1_763_856_000, 0).UTC()

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashChild); dir != "" {
		writeUntilKilled(dir)
	}
	os.Exit(m.Run())
}

// ---- the two verifiers

// node is a process that answers as verify.mjs does.
type node struct {
	in  io.Writer
	out *bufio.Reader
}

type answer struct {
	Exit  int      `json:"exit"`
	Lines []string `json:"lines"`
}

func requireNode(t *testing.T) {
	t.Helper()
	for _, script := range must2(filepath.Glob("*.mjs")) {
		must(os.ReadFile(script)) // so that a cached result ends when a script changes
	}
	// CI has no expected skips: it installs what it needs, or fails.
	skip := t.Skipf
	if os.Getenv("CI") != "" {
		skip = t.Fatalf
	}
	if _, err := exec.LookPath("zstd"); err != nil {
		skip("the second verifier needs the zstd command; Debian: apt-get install zstd")
	}
	v, err := exec.CommandContext(t.Context(), "node", "--version").Output()
	if err != nil {
		skip("the second verifier needs Node 20.12 or newer")
	}
	var major, minor int
	if _, err := fmt.Sscanf(string(v), "v%d.%d", &major, &minor); err != nil {
		t.Fatalf("node --version: %q", v)
	}
	if major < 20 || major == 20 && minor < 12 {
		skip("the second verifier needs Node 20.12 or newer, this is %s", bytes.TrimSpace(v))
	}
}

func startNode(t *testing.T) *node {
	t.Helper()
	requireNode(t)
	cmd := exec.Command("node", "jobs.mjs")
	cmd.Stderr = os.Stderr
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
			t.Errorf("node: %v", err)
		}
	})
	return &node{in: in, out: bufio.NewReader(out)}
}

// question is what both verifiers are asked. Empty file names: not given.
type question struct {
	store, trust, auditor, since string
	asOf                         time.Time
	accepted                     string
}

func (n *node) ask(t *testing.T, q question) answer {
	t.Helper()
	args := []string{q.store, "--as-of", q.asOf.Format(time.RFC3339Nano)}
	if q.trust != "" {
		args = append(args, "--trust", q.trust)
	}
	if q.auditor != "" {
		args = append(args, "--auditor", q.auditor)
	}
	if q.since != "" {
		args = append(args, "--since", q.since)
	}
	if q.accepted != "" {
		args = append(args, "--accepted", q.accepted)
	}
	line, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.in.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
	reply, err := n.out.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var a answer
	if err := json.Unmarshal(reply, &a); err != nil {
		t.Fatal(err)
	}
	return a
}

func askGo(t *testing.T, q question) (a answer) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			a = answer{Exit: goPanic, Lines: []string{fmt.Sprintf("panic: %v", r)}}
		}
	}()
	opts := seal.VerifyOptions{AsOf: q.asOf}
	if q.trust != "" {
		trust, err := seal.ReadTrust(q.trust)
		if err != nil {
			t.Fatal(err)
		}
		opts.Trust = trust
	}
	if q.auditor != "" {
		key, err := seal.ReadAuditorKey(q.auditor)
		if err != nil {
			t.Fatal(err)
		}
		opts.Auditor = &key
	}
	if q.accepted != "" {
		opts.Accepted = must(os.ReadFile(q.accepted))
	}
	r, err := seal.Verify(t.Context(), q.store, opts)
	if err != nil {
		return answer{Exit: seal.ExitFailed, Lines: []string{err.Error()}}
	}
	a.Exit = r.ExitCode()
	for _, f := range r.Findings {
		a.Lines = append(a.Lines, f.String())
	}
	for _, l := range r.Logs {
		for _, f := range l.Findings {
			a.Lines = append(a.Lines, fmt.Sprintf("%s %s %s", f.Class, f.Axis, f))
		}
	}
	return a
}

const (
	anyExit = -1
	goPanic = -2
)

// agree asks both, and fails unless they answer want, or, if that is anyExit, the same. It returns the answer.
func (n *node) agree(t *testing.T, name string, q question, want int) int {
	t.Helper()
	g, j := askGo(t, q), n.ask(t, q)
	if g.Exit != j.Exit || want != anyExit && g.Exit != want {
		t.Errorf("%s: exit %d by Go, %d by Node, want %d\nGo:   %s\nNode: %s", name, g.Exit, j.Exit, want,
			strings.Join(head(g.Lines), "\n      "), strings.Join(head(j.Lines), "\n      "))
	}
	return j.Exit
}

func head(lines []string) []string { return lines[:min(len(lines), 8)] }

// ---- logs

// site is a writer with its store and its keys.
type site struct {
	dir string
	now time.Time // of the writer's clock
	cfg seal.Config
}

func (s *site) path(elem ...string) string { return filepath.Join(append([]string{s.dir}, elem...)...) }
func (s *site) log(elem ...string) string {
	return filepath.Join(append([]string{seal.LogDir(s.path("store"), origin)}, elem...)...)
}

// question asks about the store right after its last entry, with everything that can be given.
func (s *site) question() question {
	return question{store: s.path("store"), trust: s.path("keys", "trust"), auditor: s.path("keys", "auditor.key"), asOf: s.now}
}

// newSite makes keys and a configuration with two auditors, one of either suite.
func newSite(t *testing.T, change func(*seal.Config)) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), now: start}
	s.prepare(func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	})
	if change != nil {
		change(&s.cfg)
	}
	return s
}

func (s *site) prepare(check func(error)) {
	_, err := seal.CreateTrialKeys(s.path("keys"), origin)
	check(err)
	if _, err := os.Stat(s.path("second")); errors.Is(err, fs.ErrNotExist) {
		_, err = seal.CreateAuditorKey(s.path("second"), "x25519")
		check(err)
		first, err := os.ReadFile(s.path("keys", "chain.key"))
		check(err)
		check(os.WriteFile(s.path("second", "chain.key"), first, 0o600))
		logKey, err := os.ReadFile(s.path("keys", "log.key"))
		check(err)
		check(os.WriteFile(s.path("second", "log.key"), logKey, 0o600))
	}
	key, err := seal.ReadLogKey(s.path("keys", "log.key"))
	check(err)
	a, err := seal.ReadRecipient(s.path("keys", "auditor.pub"))
	check(err)
	b, err := seal.ReadRecipient(s.path("second", "auditor.pub"))
	check(err)
	s.cfg = seal.Config{
		Root: s.path("store"), Origin: origin, LogKey: key,
		Chain:     seal.ChainFile{FS: seal.OS, Path: s.path("keys", "chain.key")},
		Auditors:  []seal.Recipient{a, b},
		Heartbeat: time.Hour,
		Now:       func() time.Time { return s.now },
	}
}

// request is an OTLP request.
type request struct {
	signal  seal.Signal
	message []byte
}

// epoch seals requests and ends the epoch with a close.
func (s *site) epoch(t *testing.T, requests ...request) {
	t.Helper()
	s.now = s.now.Add(time.Second)
	w, err := seal.Open(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range requests {
		if err := w.Append(t.Context(), r.signal, r.message); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func logsOf(n, size int) request {
	d := plog.NewLogs()
	for r := range 2 {
		rl := d.ResourceLogs().AppendEmpty()
		rl.Resource().Attributes().PutStr("service.name", "shop")
		rl.SetSchemaUrl("https://opentelemetry.io/schemas/1.37.0")
		sl := rl.ScopeLogs().AppendEmpty()
		sl.Scope().SetName("envoy")
		for i := range n/2 + r*(n%2) {
			l := sl.LogRecords().AppendEmpty()
			l.SetObservedTimestamp(pcommon.NewTimestampFromTime(start))
			if i%3 > 0 {
				l.SetTimestamp(pcommon.NewTimestampFromTime(start.Add(-time.Duration(i) * time.Millisecond)))
				l.SetTraceID(pcommon.TraceID{1, byte(r), byte(i), byte(i >> 8)})
			}
			l.Body().SetStr(strings.Repeat(strconv.Itoa(i*7919), size))
			l.Attributes().PutStr("audit.record.id", fmt.Sprintf("%d-%d", r, i))
			l.Attributes().PutStr("mesh.source.spiffe.id", "spiffe://example.org/ns/shop/sa/"+strconv.Itoa(i%5))
			l.Attributes().PutStr("user.id", "Zoë")
			l.Attributes().PutInt("mesh.join.request_id", 7)
			l.Attributes().PutEmptySlice("mesh.amends").AppendEmpty().SetStr("x")
		}
	}
	return request{seal.SignalLogs, must(plogotlp.NewExportRequestFromLogs(d).MarshalProto())}
}

func tracesOf(n int) request {
	d := ptrace.NewTraces()
	ss := d.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty()
	for i := range n {
		s := ss.Spans().AppendEmpty()
		s.SetTraceID(pcommon.TraceID{2, byte(i / 3)})
		s.SetSpanID(pcommon.SpanID{byte(i)})
		s.SetStartTimestamp(pcommon.NewTimestampFromTime(start.Add(-time.Minute)))
		s.SetEndTimestamp(pcommon.NewTimestampFromTime(start.Add(time.Duration(i))))
		s.Attributes().PutStr("mesh.join.decision_id", strconv.Itoa(i))
		s.Events().AppendEmpty().SetTimestamp(1)
	}
	return request{seal.SignalTraces, must(ptraceotlp.NewExportRequestFromTraces(d).MarshalProto())}
}

// collisions is a request with two user ids whose filter keys have one hash. With five more, a filter that
// counts them twice is 64 bits longer.
func collisions() request {
	d := plog.NewLogs()
	ls := d.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
	a, b := "\x7a\x4c\xa5\x77\xdf\x6a\xef\x7a", "\x62\x4c\xc6\x1f\xa3\x69\xcd\x66"
	if seal.FilterKey("user_id", a) != seal.FilterKey("user_id", b) {
		panic("not one hash")
	}
	for _, id := range []string{a, b, "1", "2", "3", "4", "5"} {
		ls.AppendEmpty().Attributes().PutStr("user.id", id)
	}
	return request{seal.SignalLogs, must(plogotlp.NewExportRequestFromLogs(d).MarshalProto())}
}

func metricsOf() request {
	d := pmetric.NewMetrics()
	ms := d.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics()
	at := func(i int) pcommon.Timestamp { return pcommon.NewTimestampFromTime(start.Add(time.Duration(i))) }
	ms.AppendEmpty().SetEmptyGauge().DataPoints().AppendEmpty().SetTimestamp(at(1))
	ms.AppendEmpty().SetEmptySum().DataPoints().AppendEmpty().SetTimestamp(at(2))
	ms.AppendEmpty().SetEmptyHistogram().DataPoints().AppendEmpty().SetTimestamp(at(-3))
	ms.AppendEmpty().SetEmptyExponentialHistogram().DataPoints().AppendEmpty().SetTimestamp(at(4))
	ms.AppendEmpty().SetEmptySummary().DataPoints().AppendEmpty().SetTimestamp(at(5))
	ms.AppendEmpty().SetName("empty")
	return request{seal.SignalMetrics, must(pmetricotlp.NewExportRequestFromMetrics(d).MarshalProto())}
}

// ---- crashes

// writeUntilKilled seals until the process is killed, and prints a line for each request that was acknowledged.
func writeUntilKilled(dir string) {
	s := &site{dir: dir, now: start}
	check := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	s.prepare(check)
	w, err := seal.Open(s.cfg)
	check(err)
	for i := 0; ; i++ {
		r := logsOf(50+i%200, 20)
		check(w.Append(context.Background(), r.signal, r.message))
		fmt.Println("sealed")
	}
}

// crash lets another process write to the site's log and kills it once it has sealed n requests.
func (s *site) crash(t *testing.T, n int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crashChild+"="+s.dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for range n {
		if !lines.Scan() {
			t.Fatal("the writer ended by itself")
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the writer was not killed")
	}
}

// ---- tests

func TestWholeLogs(t *testing.T) {
	n := startNode(t)
	other := newSite(t, nil)
	small := []request{logsOf(7, 3), tracesOf(9), metricsOf()}
	for name, make := range map[string]func(*testing.T) *site{
		"one epoch": func(t *testing.T) *site {
			s := newSite(t, nil)
			s.epoch(t, small...)
			return s
		},
		"empty epochs": func(t *testing.T) *site {
			s := newSite(t, nil)
			s.epoch(t)
			s.epoch(t)
			return s
		},
		"three epochs, many segments": func(t *testing.T) *site {
			s := newSite(t, func(c *seal.Config) { c.SegmentMaxBytes = 8 << 10 })
			for range 3 {
				s.epoch(t, slices.Repeat(small, 4)...)
			}
			return s
		},
		"more than one tile": func(t *testing.T) *site {
			s := newSite(t, nil)
			s.epoch(t, slices.Repeat(small, 90)...)
			s.epoch(t, slices.Repeat(small, 90)...)
			return s
		},
		"keys with one hash": func(t *testing.T) *site {
			s := newSite(t, nil)
			s.epoch(t, collisions())
			return s
		},
		"large batches": func(t *testing.T) *site {
			s := newSite(t, nil)
			s.epoch(t, logsOf(70_000, 1), logsOf(2000, 3000), tracesOf(3000))
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := make(t)
			q := s.question()
			n.agree(t, "as it is", q, seal.ExitProven)
			n.agree(t, "without the auditor", question{store: q.store, trust: q.trust, asOf: q.asOf}, seal.ExitProven)
			if name != "three epochs, many segments" {
				return
			}
			ask := func(name string, want int, change func(*question)) {
				q := q
				change(&q)
				n.agree(t, name, q, want)
			}
			ask("other suite", seal.ExitProven, func(q *question) { q.auditor = s.path("second", "auditor.key") })
			ask("another auditor", seal.ExitIncomplete, func(q *question) { q.auditor = other.question().auditor })
			ask("without trust", seal.ExitIncomplete, func(q *question) { q.trust = "" })
			ask("another's trust", seal.ExitTampering, func(q *question) { q.trust = other.question().trust })
			ask("too late", seal.ExitIncomplete, func(q *question) { q.asOf = q.asOf.Add(2*time.Hour + time.Second) })
			ask("just in time", seal.ExitProven, func(q *question) { q.asOf = q.asOf.Add(2 * time.Hour) })
			ask("in the past", seal.ExitProven, func(q *question) { q.asOf = q.asOf.Add(-24 * time.Hour) })
			trust := string(must(os.ReadFile(q.trust)))
			for name, c := range map[string]struct {
				trust string
				want  int
			}{
				"key alone":        {firstLine(trust, "log "), seal.ExitIncomplete},
				"pin alone":        {firstLine(trust, "chain "), seal.ExitIncomplete},
				"another pin":      {firstLine(trust, "log ") + "chain " + origin + " " + strings.Repeat("A", 43) + "=\n", seal.ExitTampering},
				"nothing":          {"# nothing\n", seal.ExitIncomplete},
				"one log too many": {trust + "log " + otherLog(t) + "\n", seal.ExitIncomplete},
				"key until later":  {strings.TrimSpace(firstLine(trust, "log ")) + " until 1000000\n" + firstLine(trust, "chain "), seal.ExitProven},
				"key until before": {strings.TrimSpace(firstLine(trust, "log ")) + " until 1\n" + firstLine(trust, "chain "), seal.ExitTampering},
			} {
				q := q
				q.trust = filepath.Join(t.TempDir(), "trust")
				if err := os.WriteFile(q.trust, []byte(c.trust), 0o600); err != nil {
					t.Fatal(err)
				}
				n.agree(t, name, q, c.want)
			}
		})
	}
}

func otherLog(t *testing.T) string {
	t.Helper()
	_, vkey, err := seal.GenerateLogKey("example.org/other")
	if err != nil {
		t.Fatal(err)
	}
	return vkey
}

func firstLine(text, prefix string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			return line
		}
	}
	return ""
}

func TestPrunedLog(t *testing.T) {
	n := startNode(t)
	s := newSite(t, func(c *seal.Config) { c.Retention = seal.Retention{MaxBytes: 64 << 10} })
	for range 12 {
		s.epoch(t, slices.Repeat([]request{logsOf(30, 20)}, 8)...)
	}
	if _, err := os.Stat(s.log("segment", fmt.Sprintf("%020d.seal", 0))); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("nothing was pruned: %v", err)
	}
	q := s.question()
	n.agree(t, "pruned", q, seal.ExitProven)
	q.auditor = ""
	n.agree(t, "pruned, without the auditor", q, seal.ExitProven)
	segments := must2(filepath.Glob(s.log("segment", "*.seal")))
	for _, gone := range segments {
		s.without(t, gone, func() { n.agree(t, "without "+filepath.Base(gone), s.question(), seal.ExitTampering) })
	}
	s.without(t, s.log("tile"), func() { n.agree(t, "without tiles", s.question(), seal.ExitIncomplete) })
}

// TestRotatedLog replaces the log key twice. What a trust file knows of that decides the answer.
func TestRotatedLog(t *testing.T) {
	n := startNode(t)
	s := newSite(t, nil)
	s.epoch(t, logsOf(5, 1))
	var keys []string
	var ends []uint64
	for range 2 {
		s.cfg.PreviousLogKey = s.cfg.LogKey
		skey, _, err := seal.GenerateLogKey(origin)
		if err != nil {
			t.Fatal(err)
		}
		s.cfg.LogKey = must2(seal.ParseLogKey(skey))
		s.cfg.Rotated = func(r seal.Rotation) { keys, ends = append(keys, r.Old), append(ends, r.Size) }
		s.epoch(t, logsOf(5, 1))
	}
	keys = append(keys, s.cfg.LogKey.VerifierKey())
	file := must(os.ReadFile(s.path("keys", "trust")))
	_, chain, _ := strings.Cut(string(file), "\n")
	a, b, c := "log "+keys[0], "log "+keys[1], "log "+keys[2]
	untilA, untilB := fmt.Sprintf("%s until %d", a, ends[0]), fmt.Sprintf("%s until %d", b, ends[1])
	for _, tc := range []struct {
		want  int
		lines []string
	}{
		{seal.ExitProven, []string{untilA, untilB, c}},
		{seal.ExitProven, []string{c, untilB, untilA}},
		{seal.ExitIncomplete, []string{a}},
		{seal.ExitIncomplete, []string{untilA, b}},
		{seal.ExitTampering, []string{untilA}},
		{seal.ExitTampering, []string{untilA, c}},
		{seal.ExitTampering, []string{c}},
		{seal.ExitTampering, []string{fmt.Sprintf("%s until %d", a, ends[0]+1), untilB, c}},
	} {
		q := s.question()
		q.trust = s.path("lines")
		if err := os.WriteFile(q.trust, []byte(strings.Join(tc.lines, "\n")+"\n"+chain), 0o600); err != nil {
			t.Fatal(err)
		}
		n.agree(t, strings.Join(tc.lines, ", "), q, tc.want)
	}
}

// TestFreshChain seals without a chain key that outlives the writer.
func TestFreshChain(t *testing.T) {
	n := startNode(t)
	s := newSite(t, func(c *seal.Config) { c.Chain, c.FreshChain = nil, true })
	s.epoch(t, logsOf(5, 1))
	s.epoch(t, logsOf(5, 1))
	file := string(must(os.ReadFile(s.path("keys", "trust"))))
	log, chain, _ := strings.Cut(file, "\n")
	for lines, want := range map[string]int{
		log:                                     seal.ExitIncomplete,
		log + "\n" + chain:                      seal.ExitTampering,
		log + "\nchain " + origin + " fresh":    seal.ExitProven,
		log + "\nchain example.org/other fresh": seal.ExitIncomplete,
	} {
		q := s.question()
		q.trust = s.path("lines")
		if err := os.WriteFile(q.trust, []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
		n.agree(t, lines, q, want)
		q.auditor = ""
		n.agree(t, lines+", without the auditor", q, want)
	}
}

// identity is a writer's SVID.
type identity struct {
	chain []*x509.Certificate
	key   crypto.Signer
}

func (i *identity) SVID() ([]*x509.Certificate, crypto.Signer, error) { return i.chain, i.key, nil }

// certify makes a certificate that is valid for an hour from the tests' start on.
func certify(t *testing.T, c *x509.Certificate, by *identity, key crypto.Signer) *identity {
	t.Helper()
	c.SerialNumber, c.NotBefore, c.NotAfter, c.BasicConstraintsValid = big.NewInt(1), start.Add(-time.Minute), start.Add(time.Hour), true
	i := &identity{key: key}
	if by == nil {
		by = &identity{[]*x509.Certificate{c}, key}
	} else {
		i.chain = by.chain
	}
	cert := must2(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, c, by.chain[0], key.Public(), by.key))))
	i.chain = append([]*x509.Certificate{cert}, i.chain...)
	return i
}

// TestVouchedLogs goes by SPIFFE ID and trust bundle.
func TestVouchedLogs(t *testing.T) {
	n := startNode(t)
	authority := func(name string) (root, middle *identity) {
		ca := func(name string) *x509.Certificate {
			return &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}
		}
		root = certify(t, ca(name), nil, must2(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)))
		return root, certify(t, ca(name+" below"), root, must2(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)))
	}
	root, middle := authority("root")
	_, foreign := authority("foreign")
	svid := func(by *identity, id string, key crypto.Signer) *identity {
		return certify(t, &x509.Certificate{URIs: []*url.URL{must2(url.Parse(id))}, KeyUsage: x509.KeyUsageDigitalSignature}, by, key)
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const id = "spiffe://example.org/ns/mesh/sa/collector"
	good := svid(middle, id, must2(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)))
	line := "spiffe spiffe://example.org/ns/*/sa/collector bundle"
	for _, tc := range []struct {
		name string
		ids  []*identity
		line string
		want int
	}{
		{"all key types", []*identity{good, svid(middle, id, edwards), svid(middle, id, must2(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))),
			svid(middle, id, must2(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))), svid(root, id, must2(rsa.GenerateKey(rand.Reader, 2048)))}, line, seal.ExitProven},
		{"of this log", []*identity{good}, line + " example.org/*/edge-0", seal.ExitProven},
		{"of another log", []*identity{good}, line + " example.org/*/edge-1", seal.ExitIncomplete},
		{"none", []*identity{nil}, line, seal.ExitIncomplete},
		{"none later", []*identity{good, nil}, line, seal.ExitIncomplete},
		{"of a foreign CA", []*identity{good, svid(foreign, id, good.key)}, line, seal.ExitIncomplete},
		{"of another workload", []*identity{good, svid(middle, id+"-2", good.key)}, line, seal.ExitTampering},
		{"with another's key", []*identity{{good.chain, middle.key}}, line, seal.ExitTampering},
		{"with another's key, by its log key", []*identity{{good.chain, middle.key}}, "", seal.ExitTampering},
		{"a CA's", []*identity{middle}, line, seal.ExitTampering},
		{"two URIs", []*identity{certify(t, &x509.Certificate{URIs: []*url.URL{good.chain[0].URIs[0], must2(url.Parse(id + "-2"))}, KeyUsage: x509.KeyUsageDigitalSignature}, middle, good.key)}, line, seal.ExitTampering},
		{"by its log key", []*identity{good}, "", seal.ExitProven},
	} {
		s := newSite(t, func(c *seal.Config) {
			if tc.line != "" {
				c.Chain, c.FreshChain = nil, true
			}
		})
		for _, i := range tc.ids {
			s.cfg.Identity = nil
			if i != nil {
				s.cfg.Identity = i
			}
			s.epoch(t, logsOf(3, 1))
		}
		q := s.question()
		if tc.line != "" {
			q.trust = s.path("lines")
			if err := os.WriteFile(q.trust, []byte(tc.line), 0o600); err != nil {
				t.Fatal(err)
			}
			bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.chain[0].Raw})
			if err := os.WriteFile(s.path("bundle"), bundle, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		n.agree(t, tc.name, q, tc.want)
	}
}

// TestTimestampedLog: what stands in timestamp/ must belong there.
func TestTimestampedLog(t *testing.T) {
	n := startNode(t)
	s := newSite(t, nil)
	s.epoch(t, logsOf(5, 1))
	s.epoch(t, logsOf(5, 1))
	for name, want := range map[string]int{
		fmt.Sprintf("%020d.tsr", 1): seal.ExitProven, fmt.Sprintf("%020d.tsr", 6): seal.ExitProven, fmt.Sprintf("%020d.tsr", 7): seal.ExitTampering,
		fmt.Sprintf("%020d.tsr", 0): seal.ExitTampering, "1.tsr": seal.ExitTampering, fmt.Sprintf("%020d.tsr.tmp", 9): seal.ExitProven,
	} {
		if err := os.MkdirAll(s.log("timestamp"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.log("timestamp", name), []byte("token"), 0o600); err != nil {
			t.Fatal(err)
		}
		n.agree(t, name, s.question(), want)
		if err := os.RemoveAll(s.log("timestamp")); err != nil {
			t.Fatal(err)
		}
	}
}

func must2[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// without calls fn while path is not there.
func (s *site) without(t *testing.T, path string, fn func()) {
	t.Helper()
	aside := s.path("aside")
	if err := os.Rename(path, aside); err != nil {
		t.Fatal(err)
	}
	fn()
	if err := os.Rename(aside, path); err != nil {
		t.Fatal(err)
	}
}

func TestCrashedLogs(t *testing.T) {
	n := startNode(t)
	for _, acknowledged := range []int{0, 1, 3, 20} {
		t.Run(strconv.Itoa(acknowledged), func(t *testing.T) {
			s := newSite(t, nil)
			s.epoch(t, logsOf(3, 1))
			s.crash(t, acknowledged)
			n.agree(t, "crashed", s.question(), anyExit)
			s.crash(t, acknowledged+1)
			n.agree(t, "crashed twice", s.question(), seal.ExitIncomplete)
			s.epoch(t, tracesOf(3))
			n.agree(t, "closed", s.question(), seal.ExitIncomplete)
		})
	}
}

// TestErasedLogs erases records of logs of every signal, and tampers with what is left.
func TestErasedLogs(t *testing.T) {
	n := startNode(t)
	s := newSite(t, func(c *seal.Config) { c.SegmentMaxBytes = 1 })
	s.epoch(t, logsOf(5, 30), logsOf(7, 3), logsOf(3, 1))
	q := s.question()
	segments := must2(filepath.Glob(s.log("segment", "*")))
	whole := map[string][]byte{}
	for _, f := range segments {
		whole[f] = must(os.ReadFile(f))
	}
	erase := func(entry uint64, positions ...uint64) {
		t.Helper()
		l, err := seal.OpenLog(s.path("store"), origin)
		if err != nil {
			t.Fatal(err)
		}
		e := seal.Erasure{Entry: entry, Positions: positions}
		if err := l.Entries(t.Context(), nil, func(b *seal.Entry) error {
			if b.Header.Entry == entry {
				e.Root = b.Root
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		w, err := seal.Open(s.cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Erase(t.Context(), []seal.Erasure{e}, "dpo@example.org", "Art. 17"); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	erase(1, 1, 2)
	n.agree(t, "erased", q, seal.ExitProven)
	erase(1, 0, 4)
	n.agree(t, "more of the same batch", q, seal.ExitProven)
	erase(2, 0, 1, 2, 3, 4, 5, 6)
	n.agree(t, "a whole batch", q, seal.ExitProven)

	change := func(name, file string, b []byte, want int) {
		t.Helper()
		before := must(os.ReadFile(file))
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		n.agree(t, name, q, want)
		if err := os.WriteFile(file, before, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	change("the batch is back", segments[1], whole[segments[1]], seal.ExitIncomplete)
	for _, f := range must2(filepath.Glob(s.log("segment", "*"))) {
		b := must(os.ReadFile(f))
		if !bytes.HasPrefix(b, []byte("meshaudit-seal/v1 erase")) {
			continue
		}
		body := bytes.Index(b, []byte("\n\n")) + 2
		zero := b[body] == 0 && b[body+1] == 0
		for name, at := range map[string]int{"its header": body - 80, "its filter": body, "its leaves": bytes.Index(b[body:], []byte("meshaudit-seal/v1 checkpoint")) + body - 1} {
			bad := slices.Clone(b)
			bad[at] ^= 1
			want := seal.ExitTampering
			if zero && at >= body {
				want = seal.ExitIncomplete // superseded, and not all zeros
			}
			change(name+" in "+filepath.Base(f), f, bad, want)
		}
		if !zero {
			bad := slices.Clone(b)
			clear(bad[body : bytes.Index(b[body:], []byte("meshaudit-seal/v1 checkpoint"))+body])
			change(filepath.Base(f)+" overwritten", f, bad, seal.ExitTampering)
		}
	}
	n.agree(t, "after", q, seal.ExitProven)
}

// TestAcceptedFindings excuses what a reviewer signed for, and nothing else.
func TestAcceptedFindings(t *testing.T) {
	n := startNode(t)
	s := newSite(t, nil)
	s.epoch(t, logsOf(1, 1))
	s.crash(t, 2)
	s.epoch(t, logsOf(1, 1))
	q := s.question()
	n.agree(t, "a crash", q, seal.ExitIncomplete)
	line, err := seal.CreateReviewerKey(s.path("reviewer"), "alice@example.org")
	if err != nil {
		t.Fatal(err)
	}
	q.trust = s.path("trust")
	if err := os.WriteFile(q.trust, append(must(os.ReadFile(s.path("keys", "trust"))), line...), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := seal.ReadReviewerKey(s.path("reviewer", seal.ReviewerKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	trust, err := seal.ReadTrust(q.trust)
	if err != nil {
		t.Fatal(err)
	}
	r, err := seal.Verify(t.Context(), q.store, seal.VerifyOptions{Trust: trust, AsOf: q.asOf})
	if err != nil {
		t.Fatal(err)
	}
	found, others := r.Reviewable()
	if len(found) == 0 || others != 0 {
		t.Fatalf("%v, and %d others", found, others)
	}
	accept := func(name string, want int, change func(*seal.Subject)) {
		t.Helper()
		var all []seal.Acceptance
		for _, f := range found {
			a := seal.Acceptance{Subject: *f.Subject, Reason: "OOM kill"}
			change(&a.Subject)
			all = append(all, a)
		}
		b, err := seal.SignAccepted(all, key)
		if err != nil {
			t.Fatal(err)
		}
		q.accepted = s.path("accepted")
		if err := os.WriteFile(q.accepted, b, 0o600); err != nil {
			t.Fatal(err)
		}
		n.agree(t, name, q, want)
	}
	accept("accepted", seal.ExitProven, func(*seal.Subject) {})
	accept("of another log", seal.ExitIncomplete, func(x *seal.Subject) { x.Origin = "example.org/other" })
	accept("of another entry", seal.ExitIncomplete, func(x *seal.Subject) { x.Entry++ })
	accept("of another code", seal.ExitIncomplete, func(x *seal.Subject) { x.Code = seal.CodeClock })
	accept("of another axis", seal.ExitIncomplete, func(x *seal.Subject) { x.Axis = seal.Order })
	accept("of a rewritten entry", seal.ExitIncomplete, func(x *seal.Subject) { x.Leaf[0] ^= 1 })
}

// TestTornTails cuts and overwrites the end of a log whose writer was killed before it published anything
// newer, and then lets the writer recover.
func TestTornTails(t *testing.T) {
	n := startNode(t)
	s := newSite(t, nil)
	s.epoch(t, logsOf(3, 1))
	published := must(os.ReadFile(s.log("checkpoint")))
	s.epoch(t, logsOf(40, 5), tracesOf(40))
	segments := must2(filepath.Glob(s.log("segment", "*.seal")))
	last := segments[len(segments)-1]
	whole := must(os.ReadFile(last))
	if err := os.RemoveAll(s.log("tile")); err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(last, bytes.Join(frames(t, whole)[:4], nil))
	n.agree(t, "a group is missing that was published", s.question(), seal.ExitTampering)
	write(s.log("checkpoint"), published)
	n.agree(t, "a group is missing that was not published", s.question(), seal.ExitProven)
	seen := map[int]int{}
	for cut := 0; cut < len(whole); cut += 61 {
		write(last, whole[:cut])
		seen[n.agree(t, fmt.Sprintf("cut at %d", cut), s.question(), anyExit)]++
	}
	for from := 0; from < len(whole); from += 397 {
		for _, size := range []int{100, 512, 1024, 4096, len(whole)} {
			if len(whole)-from < 1024 {
				continue // may hold no whole block of zeros, and the page says too little about what that is
			}
			b := slices.Clone(whole)
			clear(b[from:min(from+size, len(b))])
			write(last, b)
			seen[n.agree(t, fmt.Sprintf("%d zeros at %d", size, from), s.question(), anyExit)]++
		}
	}
	for name, tail := range map[string]string{
		"prefix of a kind":     "meshaudit-seal/v1 ba",
		"prefix of no kind":    "meshaudit-seal/v1 bb",
		"prefix of an origin":  "meshaudit-seal/v1 batch\norigin example.o",
		"prefix of a number":   "meshaudit-seal/v1 batch\norigin " + origin + "\nentry 1",
		"prefix with a zero":   "meshaudit-seal/v1 batch\norigin " + origin + "\nentry 01",
		"prefix of an open":    "meshaudit-seal/v1 open\norigin " + origin + "\nentry 9\nepoch 2\nrecords 0 0\nprev AAAA",
		"newline":              "\n",
		"zeros":                strings.Repeat("\x00", 3000),
		"too few zeros":        strings.Repeat("\x00", 40),
		"a checkpoint's magic": "meshaudit-seal/v1 checkpoint\n",
	} {
		write(last, append(slices.Clone(whole), tail...))
		seen[n.agree(t, name, s.question(), anyExit)]++
	}
	for code := range 3 {
		if code > 0 && seen[code] == 0 {
			t.Errorf("no case with exit %d: %v", code, seen)
		}
	}

	write(last, whole[:len(whole)-700])
	s.epoch(t, metricsOf())
	n.agree(t, "recovered", s.question(), seal.ExitIncomplete)
	torn := must2(filepath.Glob(s.log("torn", "*")))
	if len(torn) != 1 {
		t.Fatalf("torn files: %q", torn)
	}
	kept := must(os.ReadFile(torn[0]))
	s.without(t, torn[0], func() { n.agree(t, "without the torn file", s.question(), anyExit) })
	write(torn[0], append(slices.Clone(kept), 0))
	n.agree(t, "longer torn file", s.question(), seal.ExitTampering)
	write(torn[0], kept)
	elsewhere := s.log("torn", "00000000000000000001-00000000000000000000-5")
	if err := os.Rename(torn[0], elsewhere); err != nil {
		t.Fatal(err)
	}
	n.agree(t, "torn file of another entry", s.question(), seal.ExitTampering)
	if err := os.Rename(elsewhere, torn[0]); err != nil {
		t.Fatal(err)
	}
	write(s.log("torn", "00000000000000000001-00000000000000000000-5"), kept)
	n.agree(t, "torn file of nobody", s.question(), seal.ExitTampering)
}

// frames cuts a segment into its frames.
func frames(t *testing.T, b []byte) [][]byte {
	t.Helper()
	var out [][]byte
	for len(b) > 0 {
		end := bytes.Index(b, []byte("\n\n"))
		if end < 0 {
			t.Fatal("no header")
		}
		size := end + 2
		for _, m := range regexp.MustCompile(`(?m)^section \S+ \S+ (\d+) `).FindAllSubmatch(b[:end], -1) {
			size += must2(strconv.Atoi(string(m[1])))
		}
		out = append(out, b[:size])
		b = b[size:]
	}
	return out
}

func TestTamperedLogs(t *testing.T) {
	n := startNode(t)
	s := newSite(t, nil)
	s.epoch(t, logsOf(20, 2), tracesOf(20))
	s.epoch(t, metricsOf(), logsOf(20, 2))
	s.crash(t, 1)
	s.epoch(t, logsOf(2, 2))
	q := s.question()
	n.agree(t, "before", q, seal.ExitIncomplete)
	var files []string
	for _, pattern := range []string{"checkpoint", "segment/*", "tile/0/*", "tile/0/*/*", "torn/*"} {
		for _, f := range must2(filepath.Glob(s.log(pattern))) {
			if i := must2(os.Stat(f)); i.Mode().IsRegular() {
				files = append(files, f)
			}
		}
	}
	change := func(name, file string, b []byte, want int) {
		t.Helper()
		was := must(os.ReadFile(file))
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		n.agree(t, filepath.Base(file)+": "+name, q, want)
		if err := os.WriteFile(file, was, 0o644); err != nil {
			t.Fatal(err)
		}
	}

	const stride = 67 // bytes; prime, so that every part of a header is hit somewhere
	for _, file := range files {
		whole := must(os.ReadFile(file))
		for at := 0; at < len(whole); at += stride {
			b := slices.Clone(whole)
			b[at] ^= 1 << (at % 8)
			change(fmt.Sprintf("bit %d of byte %d", at%8, at), file, b, seal.ExitTampering)
		}
		change("a byte more", file, append(slices.Clone(whole), 'x'), seal.ExitTampering)
		change("empty", file, nil, seal.ExitTampering)
		if strings.Contains(file, "segment") {
			for cut := 0; cut < len(whole); cut += 331 {
				change(fmt.Sprintf("cut at %d", cut), file, whole[:cut], seal.ExitTampering)
			}
		}
	}

	for _, file := range must2(filepath.Glob(s.log("segment", "*.seal"))) {
		fs := frames(t, must(os.ReadFile(file)))
		for i := range fs {
			change(fmt.Sprintf("frame %d dropped", i), file, bytes.Join(slices.Delete(slices.Clone(fs), i, i+1), nil), seal.ExitTampering)
			change(fmt.Sprintf("frame %d doubled", i), file, bytes.Join(slices.Insert(slices.Clone(fs), i, fs[i]), nil), seal.ExitTampering)
			if i > 0 {
				swapped := slices.Clone(fs)
				swapped[i-1], swapped[i] = swapped[i], swapped[i-1]
				change(fmt.Sprintf("frames %d and %d swapped", i-1, i), file, bytes.Join(swapped, nil), seal.ExitTampering)
			}
		}
		s.without(t, file, func() { n.agree(t, "without "+filepath.Base(file), q, seal.ExitTampering) })
	}
	for _, c := range []struct {
		path string
		want int
	}{
		{"x", seal.ExitTampering}, {"segment/x", seal.ExitTampering}, {"tile/x", seal.ExitTampering}, {"tile/0/001", seal.ExitTampering},
		{"torn/x", seal.ExitTampering}, {"segment/x.tmp", seal.ExitIncomplete}, {"x.tmp", seal.ExitIncomplete}, {"checkpoint.tmp", seal.ExitIncomplete}, {"tile/0/x.tmp", seal.ExitIncomplete}, {"../x", seal.ExitTampering},
	} {
		if err := os.MkdirAll(filepath.Dir(s.log(c.path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.log(c.path), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		n.agree(t, "with "+c.path, q, c.want)
		if err := os.Remove(s.log(c.path)); err != nil {
			t.Fatal(err)
		}
	}
	n.agree(t, "after", q, seal.ExitIncomplete)
	for _, gone := range []string{"checkpoint", "tile", "lock"} {
		s.without(t, s.log(gone), func() { n.agree(t, "without "+gone, q, seal.ExitIncomplete) })
	}
	s.without(t, s.log(), func() { n.agree(t, "without the log", q, seal.ExitIncomplete) })
	s.without(t, s.path("store"), func() { n.agree(t, "without the store", q, seal.ExitIncomplete) })
}

// TestResealedLogs breaks one rule at a time and seals the log again with all of the writer's keys, so that
// no hash and no signature speaks against it but the rule itself.
func TestResealedLogs(t *testing.T) {
	n := startNode(t)
	s := newSite(t, nil)
	s.epoch(t, logsOf(5, 1), logsOf(6, 1))
	s.epoch(t, logsOf(5, 1), logsOf(6, 1))
	list, err := exec.CommandContext(t.Context(), "node", "reseal.mjs", "list").Output()
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	if b, err := exec.CommandContext(t.Context(), "node", "reseal.mjs", s.path("store"), s.path("second"), out).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}

	seen := map[int]int{}
	for i, name := range strings.Split(strings.TrimSpace(string(list)), "\n") {
		q := s.question()
		q.store = filepath.Join(out, strconv.Itoa(i), "store")
		q.auditor = s.path("second", "auditor.key")
		seen[n.agree(t, name, q, anyExit)]++
		q.auditor = ""
		seen[n.agree(t, name+", without the auditor", q, anyExit)]++
	}
	t.Logf("answers: %v", seen)
	for code := range 3 {
		if seen[code] < 5 {
			t.Errorf("answers %v: too few with exit %d", seen, code)
		}
	}
}

// TestCommand runs verify.mjs as its users do.
func TestCommand(t *testing.T) {
	requireNode(t)
	s := newSite(t, nil)
	s.epoch(t, logsOf(5, 1))
	q := s.question()
	asOf := q.asOf.Format(time.RFC3339Nano)
	for _, c := range []struct {
		name string
		args []string
		want int
	}{
		{"all", []string{q.store, "--trust", q.trust, "--auditor", q.auditor, "--as-of", asOf}, seal.ExitProven},
		{"now", []string{q.store, "--trust", q.trust}, seal.ExitIncomplete},
		{"no trust", []string{q.store, "--as-of", asOf}, seal.ExitIncomplete},
		{"no store", []string{s.path("none"), "--trust", q.trust}, seal.ExitIncomplete},
		{"no argument", nil, seal.ExitFailed},
		{"no value", []string{q.store, "--trust"}, seal.ExitFailed},
		{"no file", []string{q.store, "--trust", s.path("none")}, seal.ExitFailed},
		{"no trust file", []string{q.store, "--trust", q.auditor}, seal.ExitFailed},
		{"no key", []string{q.store, "--trust", q.trust, "--auditor", q.trust}, seal.ExitFailed},
		{"no time", []string{q.store, "--trust", q.trust, "--as-of", "yesterday"}, seal.ExitFailed},
	} {
		cmd := exec.CommandContext(t.Context(), "node", append([]string{"verify.mjs"}, c.args...)...)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		if got := cmd.ProcessState.ExitCode(); got != c.want {
			t.Errorf("%s: exit %d, want %d\n%s", c.name, got, c.want, out)
		}
	}
}
