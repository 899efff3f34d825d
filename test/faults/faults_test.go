// Package faults_test runs the sealed_log exporter in a process of its own under strace, which fails or kills it
// in the n-th system call of one kind on the files of its log, for every n. Whatever happens: what the exporter
// acknowledged is in the log after the next start, and verify says proven or incomplete, never tampering.
package faults_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/exporter/sealedlogexporter"
	"github.com/meshaudit/meshaudit/seal"
)

const (
	origin    = "example.org/faults"
	childDir  = "MESHAUDIT_FAULTS_CHILD" // set in the process that strace runs
	sweepSize = "MESHAUDIT_FAULTS"       // "all": every n
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		// Each acknowledgement is a line, written after it and by one
		// write: the ledger is what the client knows.
		err := work(dir, "child", 3*time.Second, true, func(id string) { fmt.Println(id) })
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// ---- the workload

func newExporter(dir string, retain bool) (exporter.Logs, error) {
	f := sealedlogexporter.NewFactory()
	cfg := f.CreateDefaultConfig().(*sealedlogexporter.Config)
	cfg.Directory, cfg.Origin = filepath.Join(dir, "store"), origin
	cfg.Keys.Create = true
	cfg.SegmentMaxBytes = 16 << 10 // so that segments rotate; a configuration must give 1 MiB
	if retain {
		cfg.Retention.MaxBytes = 150 << 10 // one epoch of two
	}
	return f.CreateLogs(context.Background(), exportertest.NewNopSettings(f.Type()), cfg)
}

// work is a life of the exporter: it starts on what is there, senders send
// requests small and large, again until each is acknowledged or patience
// ends, and it is shut down.
func work(dir, name string, patience time.Duration, retain bool, acked func(id string)) error {
	e, err := newExporter(dir, retain)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := e.Start(ctx, componenttest.NewNopHost()); err != nil {
		return errors.Join(err, e.Shutdown(ctx))
	}
	var senders sync.WaitGroup
	for sender := range 3 {
		senders.Go(func() {
			for i := range 5 {
				id := fmt.Sprintf("%s-%d-%d", name, sender, i)
				for ctx.Err() == nil {
					if e.ConsumeLogs(ctx, request(id, i%2 == 1)) == nil {
						acked(id)
						break
					}
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
	senders.Wait()
	return errors.Join(ctx.Err(), e.Shutdown(ctx))
}

func request(id string, large bool) plog.Logs {
	d := plog.NewLogs()
	r := d.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	r.Attributes().PutStr("audit.record.id", id)
	if large { // by itself in an entry, and it does not compress
		b := make([]byte, 17<<10)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		r.Body().SetEmptyBytes().FromRaw(b)
	}
	return d
}

// newVictim is a store with a past: an epoch to prune, and one that ended in a
// crash, with a torn tail, before anything of it was published.
func newVictim(t *testing.T) string {
	t.Helper()
	dir := realDir(t, t.TempDir())
	past := func(name string) {
		if err := work(dir, name, time.Minute, false, func(string) {}); err != nil {
			t.Fatal(err)
		}
	}
	published := filepath.Join(dir, "published")
	past("first")
	copyTree(t, logDir(dir), published)
	past("second")
	for _, derived := range []string{"tile", "checkpoint"} {
		if err := os.RemoveAll(filepath.Join(logDir(dir), derived)); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(published, derived), filepath.Join(logDir(dir), derived)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(published); err != nil {
		t.Fatal(err)
	}
	segments, err := filepath.Glob(filepath.Join(logDir(dir), "segment", "*.seal"))
	if err != nil || len(segments) < 4 {
		t.Fatalf("%d segments: %v", len(segments), err)
	}
	last := segments[len(segments)-1]
	b, err := os.ReadFile(last)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(last, b[:len(b)-100], 0o644); err != nil { // within the last checkpoint
		t.Fatal(err)
	}
	return dir
}

// realDir is dir as strace sees it, without symbolic links.
func realDir(t *testing.T, dir string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func logDir(dir string) string { return seal.LogDir(filepath.Join(dir, "store"), origin) }

// logFiles are the names that a log may come to have, for strace: it takes no
// patterns.
func logFiles(dir string) (names []string) {
	l := logDir(dir)
	add := func(elem ...string) { names = append(names, filepath.Join(append([]string{l}, elem...)...)) }
	for _, d := range []string{"", "segment", "torn", "tile", "tile/0", "tile/0/000.p", "lock", "checkpoint", "checkpoint.tmp"} {
		add(d)
	}
	for i := range 120 {
		name := seal.SegmentName(uint64(i))
		add("segment", name)
		add("segment", name+".tmp")
		add("tile/0/000.p", strconv.Itoa(i))
		add("tile/0/000.p", strconv.Itoa(i)+".tmp")
	}
	torn, _ := filepath.Glob(filepath.Join(l, "torn", "*"))
	names = append(names, torn...)
	for _, k := range []string{"keys", "keys/chain.key", "keys/chain.key.tmp", "store"} {
		names = append(names, filepath.Join(dir, k))
	}
	return names
}

// ---- judgement

// ledger is what was acknowledged.
type ledger map[string]bool

// verify proves the store with all keys, and fails unless the answer is proven
// or incomplete as a crash leaves it; if the log may not have begun, also if
// there is none.
func verify(t *testing.T, dir, what string, maybeNone bool) (exit int, ok bool) {
	t.Helper()
	trust, err := seal.ReadTrust(filepath.Join(dir, "keys", seal.TrustFile))
	if err != nil {
		t.Fatal(err)
	}
	auditor, err := seal.ReadAuditorKey(filepath.Join(dir, "keys", seal.AuditorKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	r, err := seal.Verify(t.Context(), filepath.Join(dir, "store"), seal.VerifyOptions{Trust: trust, Auditor: &auditor})
	if err != nil {
		t.Errorf("%s: verify: %v", what, err)
		return seal.ExitFailed, false
	}
	ok = r.ExitCode() != seal.ExitTampering
	for _, l := range r.Logs {
		ok = ok && (l.TagsProven || maybeNone && l.Entries == 0)
		for _, f := range l.Findings {
			ok = ok && (f.Class == seal.Note || f.Class == seal.Incomplete && f.Axis == seal.Completeness)
		}
	}
	if !ok || len(r.Logs) != 1 && !maybeNone {
		t.Errorf("%s: a fault is reported as something else: %v", what, r.Findings)
		for _, l := range r.Logs {
			t.Errorf("tags proven: %v; %v", l.TagsProven, l.Findings)
		}
		ok = false
	}
	return r.ExitCode(), ok
}

// restart starts the exporter on what is left, lets it work, and looks for all
// that was ever acknowledged.
func restart(t *testing.T, dir, what string, acked ledger) (ok bool) {
	t.Helper()
	var mu sync.Mutex
	err := work(dir, "after", time.Minute, false, func(id string) { mu.Lock(); acked[id] = true; mu.Unlock() })
	if err != nil {
		t.Errorf("%s: the exporter does not start again: %v", what, err)
		return false
	}
	_, ok = verify(t, dir, what+", restarted", false)
	l, err := seal.OpenLog(filepath.Join(dir, "store"), origin)
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	err = l.Entries(t.Context(), nil, func(e *seal.Entry) error {
		if e.Kind != seal.KindBatch {
			return nil
		}
		_, msg, err := e.Body()
		for _, id := range idPattern.FindAll(msg, -1) {
			have[string(id)] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for id := range acked {
		if !have[id] {
			lost++
			ok = false
		}
	}
	if lost > 0 {
		t.Errorf("%s: %d of %d acknowledged records are not in the log", what, lost, len(acked))
	}
	return ok
}

var idPattern = regexp.MustCompile(`(child|after)-\d+-\d+`)

// ---- strace

// inCI skips a test for want of something, but not in CI, which has it all.
func inCI(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

func requireStrace(t *testing.T) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "strace", "-f", "-qq", "-o", os.DevNull, "true").CombinedOutput(); err != nil {
		inCI(t, "strace must be installed and allowed to trace: %v %s", err, out)
	}
}

// fault is what happens in a system call.
type fault struct {
	call, what string
	onward     bool // in all that follow, too
	fresh      bool // at the first start of all
}

func (f fault) String() string {
	s := f.call + " " + f.what
	if f.fresh {
		s = "first " + s
	}
	if f.onward {
		return s + " from"
	}
	return s + " at"
}

const kill = "signal=SIGKILL"

var faults = []fault{
	{call: "fsync", what: "error=EIO"}, {call: "fsync", what: "error=EIO", onward: true},
	{call: "write", what: "error=ENOSPC"}, {call: "write", what: "error=ENOSPC", onward: true},
	{call: "write", what: "error=EIO"},
	{call: "openat", what: "error=ENOSPC"}, {call: "openat", what: "error=EMFILE"},
	{call: "renameat", what: "error=ENOSPC"}, {call: "renameat", what: "error=EIO"},
	{call: "unlinkat", what: "error=EIO"},
	{call: "close", what: "error=EIO"}, {call: "flock", what: "error=ENOLCK"},
	{call: "read", what: "error=EIO"}, {call: "pread64", what: "error=EIO"},
	{call: "newfstatat", what: "error=EIO"}, {call: "getdents64", what: "error=EIO"},
	{call: "fsync", what: kill}, {call: "write", what: kill}, {call: "openat", what: kill},
	{call: "renameat", what: kill}, {call: "unlinkat", what: kill},
	{call: "close", what: kill}, {call: "flock", what: kill}, {call: "read", what: kill},
	{call: "pread64", what: kill}, {call: "newfstatat", what: kill}, {call: "getdents64", what: kill},
	{call: "mkdirat", what: "error=ENOSPC", fresh: true}, {call: "openat", what: "error=ENOSPC", fresh: true},
	{call: "fsync", what: "error=EIO", fresh: true},
	{call: "mkdirat", what: kill, fresh: true}, {call: "openat", what: kill, fresh: true}, {call: "flock", what: kill, fresh: true},
	{call: "write", what: kill, fresh: true}, {call: "fsync", what: kill, fresh: true}, {call: "renameat", what: kill, fresh: true},
}

// outcome of one run under strace.
type outcome struct {
	fired  bool // the n-th call was reached
	killed bool
	ended  bool // by itself, with everything acknowledged
	acked  ledger
}

func underStrace(t *testing.T, dir string, f fault, n int) outcome {
	t.Helper()
	trace := filepath.Join(dir, "trace")
	when := strconv.Itoa(n)
	if f.onward {
		when += "+"
	}
	args := []string{"-f", "-qq", "-o", trace, "-e", "trace=" + f.call, "-e", "inject=" + f.call + ":" + f.what + ":when=" + when}
	for _, name := range logFiles(dir) {
		args = append(args, "-P", name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "strace", append(args, os.Args[0])...)
	cmd.Env = append(os.Environ(), childDir+"="+dir, "GOMAXPROCS=1") // strace counts by thread: few threads, long sweeps
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	o := outcome{acked: ledger{}}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		o.acked[lines.Text()] = true
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		t.Errorf("%v %d: the exporter hangs", f, n)
	}
	o.ended = err == nil
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	o.killed = status.Signaled() && status.Signal() == syscall.SIGKILL
	log, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	o.fired = o.killed || bytes.Contains(log, []byte("(INJECTED)"))
	return o
}

// TestSystemCalls sweeps n for every fault until the workload no longer
// reaches the n-th call.
func TestSystemCalls(t *testing.T) {
	requireStrace(t)
	old, fresh := newVictim(t), realDir(t, t.TempDir())
	if _, err := seal.CreateTrialKeys(filepath.Join(fresh, "keys"), origin); err != nil {
		t.Fatal(err)
	}
	step := sampled
	if os.Getenv(sweepSize) == "all" {
		step = 1
	}
	for i, f := range faults {
		t.Run(strings.NewReplacer(" ", "_", "=", "_").Replace(f.String()), func(t *testing.T) {
			t.Parallel()
			victim := old
			if f.fresh {
				victim = fresh
			}
			runs, killed, lived, acked := 0, 0, 0, 0
			exits := map[int]int{}
			for n := 1 + i%step; ; n += step {
				dir, err := os.MkdirTemp("", "meshaudit-faults-")
				if err != nil {
					t.Fatal(err)
				}
				dir = realDir(t, dir)
				copyTree(t, victim, dir)
				what := fmt.Sprintf("%v %d", f, n)
				o := underStrace(t, dir, f, n)
				if o.fired {
					runs++
					acked += len(o.acked)
					if o.killed {
						killed++
					}
					if o.ended {
						lived++
					}
					exit, ok := verify(t, dir, what, f.fresh && len(o.acked) == 0)
					exits[exit]++
					if !restart(t, dir, what, o.acked) || !ok {
						t.Fatalf("the store is kept in %s", dir)
					}
				}
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
				if !o.fired {
					if !o.ended {
						t.Fatalf("%s: nothing was injected, and the exporter failed", what)
					}
					break
				}
			}
			t.Logf("%d faults, stride %d: %d processes killed, %d went on to the end, %d records acknowledged, none lost, verify %v",
				runs, step, killed, lived, acked, exits)
			if f.what == kill && killed != runs {
				t.Errorf("%d of %d were killed", killed, runs)
			}
		})
	}
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, path[len(from):])
		if d.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		src, err := os.Open(path)
		if err != nil {
			return err
		}
		defer src.Close()
		dst, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(dst, src)
		return errors.Join(err, dst.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestFullDisk fills a real file system. The exporter refuses, acknowledges
// nothing that is not there, and goes on by itself when there is room again.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		inCI(t, "a small file system must be mounted, as root: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	e, err := newExporter(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context(), componenttest.NewNopHost()); err != nil {
		t.Fatal(err)
	}
	acked := ledger{}
	send := func(i int) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		id := fmt.Sprintf("child-0-%d", i)
		err := e.ConsumeLogs(ctx, request(id, true))
		if err == nil {
			acked[id] = true
		}
		return err
	}
	i := 0
	for ; send(i) == nil; i++ {
		if i > 100 {
			t.Fatal("more is acknowledged than the disk holds")
		}
	}
	filled := len(acked)
	for range 3 { // still full
		if i++; send(i) == nil {
			t.Log("a request fitted after all")
		}
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for i++; send(i) != nil; i++ {
		if time.Now().After(deadline) {
			t.Fatal("there is room again, and the exporter still refuses")
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err := e.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	verify(t, dir, "full disk", false)
	restart(t, dir, "full disk", acked)
	t.Logf("%d requests acknowledged until the disk was full, %d in all, none lost", filled, len(acked))
}
