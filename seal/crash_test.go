package seal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// ledger is what a client knows of what it sent.
type ledger struct {
	mu     sync.Mutex
	acked  []string
	erased []string // and so must not be found
	asked  []string // to be erased, and may be
	seq    int
	what   string // is done to the writer

	objects bool // the store is one of objects
}

// fs is the store's file system over m.
func (l *ledger) fs(m *memFS) FS {
	if l.objects {
		return memObjects{m}
	}
	return m
}

const rounds = 2

// scenario is a life of a writer: starts, appends large and small, several
// signals, segments that rotate, a clean close, a second start. It gives up at
// the first error of Open.
func (l *ledger) scenario(cfg Config) error {
	cfg.FS = l.fs(cfg.FS.(*memFS))
	for range 2 {
		w, err := Open(cfg)
		if err != nil {
			return err
		}
		for range rounds {
			var wg sync.WaitGroup
			for i, n := range []int{1, 3, 120, 1} {
				l.seq++
				name := fmt.Sprintf("r%d", l.seq)
				wg.Go(func() {
					err := w.Append(context.Background(), SignalLogs, testRequest(n, name))
					var fault *FaultError
					switch {
					case err == nil:
						l.mu.Lock()
						for j := range n {
							l.acked = append(l.acked, fmt.Sprintf("%s-%d", name, j))
						}
						l.mu.Unlock()
					case !errors.As(err, &fault) && !errors.Is(err, ErrClosed):
						panic(fmt.Sprint("not retryable: ", i, err))
					}
				})
			}
			wg.Wait()
		}
		l.eraseSome(w)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		err = w.Close(ctx)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// eraseSome erases records of the newest batch and of the oldest, of which
// some may be erased already.
func (l *ledger) eraseSome(w *Writer) {
	log := &Log{Origin: testOrigin, dir: w.dir, fs: w.cfg.FS}
	var batches []Erasure
	names := map[uint64][]string{}
	err := log.Entries(context.Background(), nil, func(e *Entry) error {
		if e.Kind != KindBatch {
			return nil
		}
		_, msg, err := e.Body()
		if err != nil {
			return err
		}
		i := 0
		erasure := Erasure{Entry: e.Header.Entry, Root: e.Root}
		err = EachRecord(msg, func(r Record) error {
			if i < 2 || i == 7 {
				erasure.Positions = append(erasure.Positions, e.Number(i)-e.FirstRecord)
				names[e.Header.Entry] = append(names[e.Header.Entry], idOf(r))
			}
			i++
			return nil
		})
		batches = append(batches, erasure)
		return err
	})
	if err != nil || len(batches) < 3 {
		return // the power is gone, or all was pruned
	}
	for _, b := range []Erasure{batches[len(batches)-1], batches[0]} {
		l.asked = append(l.asked, names[b.Entry]...)
		if err := w.Erase(context.Background(), []Erasure{b}, "test", "crash"); err == nil {
			l.erased = append(l.erased, names[b.Entry]...)
		}
	}
}

// crashConfig also ends epochs and prunes them while the writer lives.
func (k *testKeys) crashConfig(m *memFS) Config {
	cfg := k.memConfig(m)
	cfg.EpochMaxAge, cfg.maintainEvery = 4*time.Millisecond, 3*time.Millisecond
	return cfg
}

func (k *testKeys) memConfig(m *memFS) Config {
	const chain = "/keys/chain"
	if _, err := m.Stat(chain); err != nil {
		b, _ := k.chain.MarshalText()
		node := &inode{b, b}
		m.dirs["/keys"] = true
		m.files[chain], m.disk[chain] = node, node
	}
	return Config{Root: "/store", Origin: testOrigin, LogKey: k.log, Chain: ChainFile{m, chain},
		Auditors: []Recipient{k.auditor.Recipient()}, FS: m, SegmentMaxBytes: 20 << 10,
		publishEvery: time.Millisecond, retryAfter: time.Millisecond}
}

// check restarts a writer on what a crash left, adds one more record, and
// compares the log with the ledger.
func (l *ledger) check(t *testing.T, k *testKeys, m *memFS) {
	t.Helper()
	l.verify(t, k, m)
	cfg := k.memConfig(m)
	cfg.FS = l.fs(m)
	w, err := Open(cfg)
	if err != nil {
		t.Fatalf("%s: the log does not open: %v", l.what, err)
	}
	if err := w.Append(context.Background(), SignalLogs, testRequest(1, "last")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	have := map[string]int{}
	log := &Log{Origin: testOrigin, dir: LogDir("/store", testOrigin), fs: l.fs(m)}
	for _, id := range recordIDsOf(t, log) {
		have[id]++
	}
	for _, id := range l.erased {
		if have[id] > 0 {
			t.Fatalf("%s: record %s was erased and is in the log", l.what, id)
		}
	}
	for _, id := range append(l.acked, "last-0") {
		if have[id] == 0 && !slices.Contains(l.asked, id) {
			t.Fatalf("%s: record %s was acknowledged and is not in the log", l.what, id)
		}
	}
	if r := l.verify(t, k, m); !r.Logs[0].TagsProven {
		t.Fatalf("%s: the HMAC chain is not proven", l.what)
	}
}

// verify fails if what a crash or a fault left is called tampering.
func (l *ledger) verify(t *testing.T, k *testKeys, m *memFS) *Report {
	t.Helper()
	r, err := verifyStore(context.Background(), l.fs(m), "/store", VerifyOptions{Trust: k.trust, Auditor: &k.auditor})
	if err != nil {
		t.Fatal(err)
	}
	if r.ExitCode() == ExitTampering {
		for _, log := range r.Logs {
			t.Errorf("%v", log.Findings)
		}
		t.Fatalf("%s: reported as tampering: %v", l.what, r.Findings)
	}
	return r
}

// Power is cut, or an operation fails, at every operation of a start that
// prunes: nothing is pruned without its order in the log, nor before the leaf
// hashes of what goes are in the tiles.
func TestPruneAtEveryOperation(t *testing.T) {
	t.Parallel()
	k, base := newTestKeys(t), newMemFS()
	cfg := k.memConfig(base)
	cfg.publishEvery = time.Hour // at a close alone
	for i := range 2 {
		w := openWriter(t, cfg)
		for range 3 {
			if err := w.Append(context.Background(), SignalLogs, testRequest(20, fmt.Sprint("old", i))); err != nil {
				t.Fatal(err)
			}
		}
		if i == 1 {
			base = base.restart(keepAll, nil) // killed, and nothing of this epoch is published
		}
		closeWriter(t, w)
	}
	for at, pruned := 1, false; ; at++ {
		for _, crash := range []bool{false, true} {
			for _, persist := range []bool{false, true} {
				m := base.restart(keepAll, nil)
				m.at, m.crash, m.persist = at, crash, persist
				l := &ledger{what: fmt.Sprintf("operation %d, crash %v, persisted %v", at, crash, persist)}
				cfg := k.memConfig(m)
				cfg.Retention, cfg.maintainEvery = Retention{MaxBytes: 1}, time.Millisecond
				w, err := Open(cfg)
				if err == nil {
					for range 5 {
						_ = w.Append(context.Background(), SignalLogs, testRequest(1, "x"))
						time.Sleep(time.Millisecond)
					}
					_ = w.Close(context.Background())
				}
				if firsts, _, _ := segments(m, logDir); len(firsts) > 0 && firsts[0] > 0 {
					pruned = true
				}
				done := at > m.ops && !m.crashed
				l.check(t, k, m.restart(loseAll, nil))
				if done && crash && persist {
					if !pruned {
						t.Fatal("nothing was ever pruned")
					}
					t.Logf("%d operations", at)
					return
				}
			}
		}
	}
}

// Power is cut, or the process killed, at every operation of the file system:
// no acknowledged record is lost, the log opens again, and verify calls it a
// crash.
func TestCrashAtEveryOperation(t *testing.T) {
	t.Parallel()
	k := newTestKeys(t)
	total := countOps(t, k, false)
	for _, mode := range []afterCrash{loseAll, keepAll, loseSome} {
		t.Run(fmt.Sprint("mode", mode), func(t *testing.T) {
			t.Parallel()
			k.crashSweep(t, mode, total, false)
		})
	}
}

// The same where every group is an object: the process dies at every request,
// before or after it took effect.
func TestCrashAtEveryRequest(t *testing.T) {
	t.Parallel()
	k := newTestKeys(t)
	k.crashSweep(t, loseAll, countOps(t, k, true), true)
}

func (k *testKeys) crashSweep(t *testing.T, mode afterCrash, total int, objects bool) {
	for at := 1; at <= total; at += sweepStep {
		for _, persist := range []bool{false, true} {
			m := newMemFS()
			m.at, m.persist, m.crash = at, persist, true
			l := &ledger{objects: objects, what: fmt.Sprintf("mode %d, operation %d of %d, persisted %v", mode, at, total, persist)}
			_ = l.scenario(k.crashConfig(m)) // the power goes somewhere in it
			l.check(t, k, m.restart(mode, rand.New(rand.NewPCG(uint64(at), uint64(mode)))))
		}
	}
}

// One operation fails and the process lives on: it recovers by itself, goes on
// acknowledging, and what it acknowledged is there.
func TestFaultAtEveryOperation(t *testing.T) { testFaults(t, false) }

// A request fails for good, whether it took effect or not.
func TestFaultAtEveryRequest(t *testing.T) { testFaults(t, true) }

func testFaults(t *testing.T, objects bool) {
	t.Parallel()
	k := newTestKeys(t)
	total := countOps(t, k, objects)
	for at := 1; at <= total; at += sweepStep {
		for _, persist := range []bool{false, true} {
			m := newMemFS()
			m.at, m.persist = at, persist
			l := &ledger{objects: objects, what: fmt.Sprintf("operation %d of %d, persisted %v", at, total, persist)}
			err := l.scenario(k.crashConfig(m))
			if err != nil && !strings.Contains(err.Error(), errInjected.Error()) {
				t.Fatalf("%s: %v", l.what, err)
			}
			if err == nil && len(l.acked) < rounds*125 {
				t.Fatalf("%s: only %d records acknowledged after one fault", l.what, len(l.acked))
			}
			l.check(t, k, m.restart(loseAll, nil))
		}
	}
}

// countOps is how many operations the scenario takes, about: the publisher
// works beside the commits.
func countOps(t *testing.T, k *testKeys, objects bool) int {
	m := newMemFS()
	l := &ledger{objects: objects, what: "no fault"}
	if err := l.scenario(k.crashConfig(m)); err != nil {
		t.Fatal(err)
	}
	l.check(t, k, m.restart(loseAll, nil))
	return m.ops
}
