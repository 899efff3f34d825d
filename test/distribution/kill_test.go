package distribution

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
)

// ledger is what the collector has acknowledged, kept on the sender's side.
type ledger struct {
	mu    sync.Mutex
	logs  []string // ids of log records
	calls []string // names of calls whose span was sent
}

func (l *ledger) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.logs) + len(l.calls)
}

// check compares what was acknowledged with what is in the store: every call has its
// record, once, and no log record is lost.
func (l *ledger) check(t *testing.T, store string) (lost int) {
	t.Helper()
	times := map[string]int{}
	for _, id := range recordPattern.FindAllString(sealedRecords(t, store, "mesh.request"), -1) {
		times[id]++
	}
	if len(times) < len(l.calls) {
		t.Errorf("found %d records of %d calls", len(times), len(l.calls))
	}
	for id, n := range times {
		if n > 1 {
			t.Errorf("%d records of one call: %s", n, id)
		}
	}

	sealed := matches(sealedRecords(t, store, "*"), ledgerPattern)
	for _, id := range l.logs {
		if !sealed[id] {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d acknowledged log records are not in the log", lost, len(l.logs))
	}
	return lost
}

// load sends from many senders until ctx ends or the collector is gone.
func (l *ledger) load(ctx context.Context, conn *grpc.ClientConn, round int) *sync.WaitGroup {
	const logSenders, callSenders, batch = 6, 2, 10
	var senders sync.WaitGroup
	for sender := range logSenders {
		senders.Go(func() {
			for n := 0; ; n++ {
				var ids []string
				for i := range batch {
					ids = append(ids, fmt.Sprintf("ledger-%d-%d-%d", round, sender, n*batch+i))
				}
				if sendLogs(ctx, conn, ids...) != nil {
					return
				}
				l.mu.Lock()
				l.logs = append(l.logs, ids...)
				l.mu.Unlock()
			}
		})
	}
	for sender := range callSenders {
		senders.Go(func() {
			for n := 0; ; n++ {
				call := fmt.Sprintf("call-%d-%d-%d", round, sender, n)
				if sendCall(ctx, conn, call) != nil {
					return
				}
				l.mu.Lock()
				l.calls = append(l.calls, call)
				l.mu.Unlock()
			}
		})
	}
	return &senders
}

var (
	ledgerPattern = regexp.MustCompile(`ledger-\d+-\d+-\d+`)
	tracePattern  = regexp.MustCompile(`\b[0-9a-f]{32}\b`)
	recordPattern = regexp.MustCompile(`"audit\.record\.id":"[0-9a-f]{64}"`)
)

// underLoad configures a collector that recovers from its own log.
func underLoad(t *testing.T) (store, keys, config string, ports []string) {
	t.Helper()
	dir := t.TempDir()
	store, keys = filepath.Join(dir, "store"), filepath.Join(dir, "keys")
	ports = freePorts(t, 2)
	config = writeFile(t, "config.yaml", `
receivers: {otlp: {protocols: {grpc: {endpoint: %[1]q}}}}
processors:
  meshaudit:
    recover_from: {directory: %[2]q, origin: test.example/kill9}
    redaction: {allow: [test.ledger.id]}
exporters:
  sealed_log: {directory: %[2]q, origin: test.example/kill9, keys: {create: true}}
extensions: {health_check: {endpoint: %[3]q}}
service:
  extensions: [health_check]
  pipelines:
    traces: {receivers: [otlp], processors: [meshaudit], exporters: [sealed_log]}
    logs: {receivers: [otlp], processors: [meshaudit], exporters: [sealed_log]}
  telemetry: {metrics: {level: none}}
`, ports[0], store, ports[1])
	return store, keys, config, ports
}

// The collector is killed under load, again and again. What it acknowledged is
// in the log, verify takes the crashes for what they are, and calls whose
// evidence was sealed before a crash get their record after it, once.
func TestKill9UnderLoad(t *testing.T) {
	kills := 3
	if value := os.Getenv("MESHAUDIT_KILLS"); value != "" {
		var err error
		if kills, err = strconv.Atoi(value); err != nil || kills < 1 {
			t.Fatalf("MESHAUDIT_KILLS must be a positive number, got %q", value)
		}
	}

	store, keys, config, ports := underLoad(t)
	var acknowledged ledger
	for round := range kills {
		p := start(t, collectorBinary(t), config, ports[1])
		ctx, cancel := context.WithCancel(t.Context())
		before := acknowledged.size()
		senders := acknowledged.load(ctx, dial(t, ports[0]), round)
		eventually(t, 30*time.Second, func() string {
			if acknowledged.size() < before+500 {
				return "the collector acknowledges too little to be under load"
			}
			return ""
		})
		// At any moment of a commit, not only at the one where we look.
		<-time.After(time.Duration(rand.IntN(200_000)) * time.Microsecond)
		p.kill(t)
		cancel()
		senders.Wait()
	}

	p := start(t, collectorBinary(t), config, ports[1])
	eventually(t, 2*time.Minute, func() string {
		recorded := matches(sealedRecords(t, store, "mesh.request"), tracePattern)
		missing := 0
		for _, call := range acknowledged.calls {
			if !recorded[traceIDOf(call).String()] {
				missing++
			}
		}
		if missing > 0 {
			return fmt.Sprintf("%d of %d calls whose evidence is sealed have no record", missing, len(acknowledged.calls))
		}
		return ""
	})
	p.stop(t)

	lost := acknowledged.check(t, store)
	answer := verify(t, store, keys, 0, 2)
	t.Logf("%d kills; %d log records and %d calls acknowledged, %d log records lost, verify answers %d",
		kills, len(acknowledged.logs), len(acknowledged.calls), lost, answer)
}

// The configuration is read again under load, as often as somebody changes it: the
// collector closes its log and goes on with it. Nothing is lost, nothing is recorded
// twice, and nothing looks like a crash.
func TestReloadUnderLoad(t *testing.T) {
	const reloads = 3
	store, keys, config, ports := underLoad(t)
	var acknowledged ledger
	p := start(t, collectorBinary(t), config, ports[1])
	for round := range reloads + 1 {
		ctx, cancel := context.WithCancel(t.Context())
		before := acknowledged.size()
		senders := acknowledged.load(ctx, dial(t, ports[0]), round)
		eventually(t, time.Minute, func() string {
			if acknowledged.size() < before+500 {
				return fmt.Sprintf("after %d reloads the collector acknowledges too little to be under load", round)
			}
			return ""
		})
		if round < reloads {
			if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			eventually(t, time.Minute, func() string {
				log, err := os.ReadFile(p.log)
				if n := strings.Count(string(log), "Everything is ready"); err != nil || n < round+2 {
					return fmt.Sprintf("the collector became ready %d times after %d reloads, %v", n, round+1, err)
				}
				return ""
			})
		}
		cancel()
		senders.Wait()
	}
	p.stop(t)
	lost := acknowledged.check(t, store)
	verify(t, store, keys, 0)
	t.Logf("%d reloads; %d log records and %d calls acknowledged, %d log records lost", reloads, len(acknowledged.logs), len(acknowledged.calls), lost)
}
