package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/meshaudit/meshaudit/internal/cli"
	"github.com/meshaudit/meshaudit/internal/witness"
	"github.com/meshaudit/meshaudit/seal"
)

var update = flag.Bool("update", false, "write what the commands print into the scripts and into docs/cli.md")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"meshaudit": func() { os.Exit(cli.Main()) },
		"mkstore":   func() { os.Exit(mkstore()) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error {
			env.Setenv("COLUMNS", "")
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			env.Setenv("ADDRESS", l.Addr().String()) // free, for a witness
			if err := l.Close(); err != nil {
				return err
			}
			return copyFile(filepath.Join("testdata", "shop.jsonl"), filepath.Join(env.WorkDir, "shop.jsonl"))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
			"flip":  flip,
			"reach": reach,
			"name":  nameWitness,
		},
		RequireExplicitExec: true,
		UpdateScripts:       *update,
	})
}

// exits N COMMAND… runs a command whose exit code must be N.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits N COMMAND ...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		got = failed.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%v: exit code %d, want %d", args[1:], got, want)
	}
}

// reach ADDRESS waits until something listens there.
func reach(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: reach ADDRESS")
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", args[0])
		if err == nil {
			ts.Check(c.Close())
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%v", err)
		}
	}
}

// name TRUST PUB URL adds a witness, and where it is, to a trust file.
func nameWitness(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: name TRUST PUB URL")
	}
	trust := ts.ReadFile(args[0]) + strings.TrimSpace(ts.ReadFile(args[1])) + " " + args[2] + "\n"
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(trust), 0o600))
}

// flip STORE ENTRY header|body changes one bit of an entry of the store's first
// log.
func flip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: flip STORE ENTRY header|body")
	}
	number, err := strconv.ParseUint(args[1], 10, 64)
	ts.Check(err)
	ts.Check(flipBit(ts.MkAbs(args[0]), number, args[2]))
}

func flipBit(store string, entry uint64, part string) error {
	origins, err := seal.Origins(store)
	if err != nil {
		return err
	}
	l, err := seal.OpenLog(store, origins[0])
	if err != nil {
		return err
	}
	var at int64
	var name string
	if err := l.Entries(context.Background(), func(*seal.Header) bool { return true }, func(e *seal.Entry) error {
		if e.Header.Entry == entry {
			name = filepath.Join(seal.LogDir(store, l.Origin), "segment", e.Segment)
			at = e.Offset + 30 // in the line that names the origin
			if part == "body" {
				at = e.Offset + e.Size - 1
			}
		}
		return nil
	}); err != nil {
		return err
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	b[at] ^= 1
	return os.WriteFile(name, b, 0o600)
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}

// mkstore [-crash] STORE KEYS FILE seals the records of FILE in STORE with the
// writer's keys, for the auditor and with the witnesses of the trust file in KEYS, the first batch of a new log at
// 2025-11-23T10:00:02Z, and one each second after that. With -crash the log is
// left as it is when the machine stops.
func mkstore() int {
	args := os.Args[1:]
	crash := len(args) > 0 && args[0] == "-crash"
	if crash {
		args = args[1:]
	}
	if err := makeStore(args[0], args[1], args[2], crash); err != nil {
		fmt.Fprintln(os.Stderr, "mkstore:", err)
		return 1
	}
	return 0
}

func makeStore(store, keys, file string, crash bool) error {
	requests, err := readRequests(file)
	if err != nil {
		return err
	}
	logKey, err := seal.ReadLogKey(filepath.Join(keys, seal.LogKeyFile))
	if err != nil {
		return err
	}
	auditor, err := seal.ReadRecipient(filepath.Join(keys, seal.AuditorPubFile))
	if err != nil {
		return err
	}
	trust, err := seal.ReadTrust(filepath.Join(keys, seal.TrustFile))
	if err != nil {
		return err
	}
	var now atomic.Int64 // the writer asks from another goroutine
	now.Store(time.Date(2025, 11, 23, 10, 0, 1, 0, time.UTC).UnixNano())
	if l, err := seal.OpenLog(store, logKey.Name()); err == nil {
		if err := l.Entries(context.Background(), func(*seal.Header) bool { return true }, func(e *seal.Entry) error {
			now.Store(int64(e.Sealed) + int64(time.Second))
			return nil
		}); err != nil {
			return err
		}
	}
	w, err := seal.Open(seal.Config{
		Root: store, Origin: logKey.Name(), LogKey: logKey,
		Chain:     seal.ChainFile{FS: seal.OS, Path: filepath.Join(keys, seal.ChainKeyFile)},
		Auditors:  []seal.Recipient{auditor},
		Witnesses: trust.Witnesses, WitnessClient: &witness.Client{},
		Now: func() time.Time { return time.Unix(0, now.Load()) },
	})
	if err != nil {
		return err
	}
	for _, r := range requests {
		now.Add(int64(time.Second))
		if err := w.Append(context.Background(), r.signal, r.message); err != nil {
			return err
		}
	}
	if crash {
		return nil // this process ends without a close entry
	}
	return w.Close(context.Background())
}

type request struct {
	signal  seal.Signal
	message []byte
}

// testRecord is one line of a file of records; a line --- begins a new batch.
type testRecord struct {
	Event      string         `json:"event"`
	SpanName   string         `json:"spanName"` // it is a span
	Time       time.Time      `json:"time"`
	Trace      string         `json:"trace"`
	Span       string         `json:"span"`
	Body       string         `json:"body"`
	Attributes map[string]any `json:"attributes"`
}

func readRequests(file string) ([]request, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all []request
	for _, batch := range bytes.Split(b, []byte("\n---\n")) {
		logs, spans := plog.NewLogs(), ptrace.NewTraces()
		res := logs.ResourceLogs().AppendEmpty()
		res.Resource().Attributes().PutStr("service.name", "meshaudit")
		sl := res.ScopeLogs().AppendEmpty()
		sl.Scope().SetName("test")
		ss := spans.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty()
		lines := bufio.NewScanner(bytes.NewReader(batch))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var r testRecord
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
				return nil, fmt.Errorf("%s: %w in %s", file, err, lines.Text())
			}
			if err := r.put(sl, ss); err != nil {
				return nil, err
			}
		}
		if spans.SpanCount() > 0 {
			msg, err := new(ptrace.ProtoMarshaler).MarshalTraces(spans)
			if err != nil {
				return nil, err
			}
			all = append(all, request{seal.SignalTraces, msg})
			continue
		}
		msg, err := new(plog.ProtoMarshaler).MarshalLogs(logs)
		if err != nil {
			return nil, err
		}
		all = append(all, request{seal.SignalLogs, msg})
	}
	return all, nil
}

func (r *testRecord) put(sl plog.ScopeLogs, ss ptrace.ScopeSpans) error {
	var trace pcommon.TraceID
	var span pcommon.SpanID
	if _, err := hex.Decode(trace[:], []byte(r.Trace)); err != nil {
		return err
	}
	if _, err := hex.Decode(span[:], []byte(r.Span)); err != nil {
		return err
	}
	at := pcommon.NewTimestampFromTime(r.Time)
	attributes := whole(r.Attributes).(map[string]any)
	if r.SpanName != "" {
		s := ss.Spans().AppendEmpty()
		s.SetName(r.SpanName)
		s.SetTraceID(trace)
		s.SetSpanID(span)
		s.SetStartTimestamp(at)
		s.SetEndTimestamp(at)
		return s.Attributes().FromRaw(attributes)
	}
	l := sl.LogRecords().AppendEmpty()
	l.SetEventName(r.Event)
	if r.Body != "" {
		l.Body().SetStr(r.Body)
	}
	if !r.Time.IsZero() {
		l.SetTimestamp(at)
	}
	l.SetTraceID(trace)
	l.SetSpanID(span)
	return l.Attributes().FromRaw(attributes)
}

// whole makes integers of the numbers that are whole, but not of a confidence.
func whole(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			if k != "mesh.join.confidence" {
				v[k] = whole(v[k])
			}
		}
	case []any:
		for i := range v {
			v[i] = whole(v[i])
		}
	case float64:
		if v == math.Trunc(v) {
			return int64(v)
		}
	}
	return v
}
