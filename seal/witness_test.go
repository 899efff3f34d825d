package seal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// testWitness is an honest witness of one log, in memory, until it is told to
// be something else.
type testWitness struct {
	Witness
	key *WitnessKey
	now func() time.Time

	mu     sync.Mutex
	mode   string // down, slow, garbage, forged, liar, mute, foreign
	size   uint64
	root   Hash
	note   []byte
	asked  int
	served int // cosignatures
}

func newTestWitness(t testing.TB, name string) *testWitness {
	t.Helper()
	k, err := GenerateWitnessKey(name)
	if err != nil {
		t.Fatal(err)
	}
	w, err := NewWitness(k.VerifierKey(), "https://"+name)
	if err != nil {
		t.Fatal(err)
	}
	return &testWitness{Witness: w, key: k, now: time.Now}
}

func (w *testWitness) set(mode string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mode = mode
}

func (w *testWitness) add(ctx context.Context, old uint64, proof []Hash, checkpoint []byte) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	switch w.mode {
	case "down":
		return nil, errors.New("connection refused")
	case "slow":
		w.mu.Unlock()
		<-ctx.Done()
		w.mu.Lock()
		return nil, ctx.Err()
	case "garbage":
		return []byte("— " + w.Name() + " not base64\n\x00"), nil
	case "mute":
		return nil, nil
	case "foreign":
		other := newTestWitness(quiet{}, "example.org/other")
		return []byte(other.key.Cosign(textOf(checkpoint), w.now())), nil
	case "forged":
		line := w.key.Cosign("another text\n1\n", w.now())
		return []byte(line), nil
	case "liar":
		return nil, &WitnessConflict{w.size + 1<<40}
	case "refuses":
		return nil, &WitnessRefusal{Status: 403, Text: "no"}
	}
	c, err := openCheckpoint(checkpoint, nil)
	if err != nil {
		return nil, &WitnessRefusal{Status: 400, Text: err.Error()}
	}
	if old != w.size {
		return nil, &WitnessConflict{w.size}
	}
	switch {
	case old > c.Size:
		return nil, &WitnessRefusal{Status: 400}
	case old == c.Size && old > 0 && (c.Root != w.root || len(proof) > 0):
		return nil, &WitnessRefusal{Status: 422}
	case old > 0 && old < c.Size:
		p := make(tlog.TreeProof, len(proof))
		for i := range p {
			p[i] = tlog.Hash(proof[i])
		}
		if err := tlog.CheckTree(p, int64(c.Size), tlog.Hash(c.Root), int64(old), tlog.Hash(w.root)); err != nil {
			return nil, &WitnessRefusal{Status: 422, Text: err.Error()}
		}
	}
	line := w.key.Cosign(textOf(checkpoint), w.now())
	w.size, w.root, w.note = c.Size, c.Root, []byte(string(checkpoint)+line)
	w.served++
	return []byte(line), nil
}

func textOf(checkpoint []byte) string {
	text, _, _ := strings.Cut(string(checkpoint), "\n\n")
	return text + "\n"
}

type quiet struct{ testing.TB }

func (quiet) Helper()           {}
func (quiet) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// testClient reaches test witnesses by name.
type testClient map[string]*testWitness

func (c testClient) AddCheckpoint(ctx context.Context, w *Witness, old uint64, proof []Hash, checkpoint []byte) ([]byte, error) {
	return c[w.Name()].add(ctx, old, proof, checkpoint)
}

func (c testClient) Checkpoint(_ context.Context, wi *Witness, origin string) ([]byte, error) {
	w := c[wi.Name()]
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.mode == "down" || w.mode == "slow":
		return nil, errors.New("connection refused")
	case w.note == nil || w.mode == "unseeing" || w.mode == "liar":
		return nil, ErrUnseen
	}
	return w.note, nil
}

// witnessed adds witnesses to a configuration.
func (k *testKeys) witnessed(t testing.TB, cfg Config, quorum int, ws ...*testWitness) (Config, *Trust) {
	t.Helper()
	client := testClient{}
	var list []Witness
	lines := ""
	for _, w := range ws {
		client[w.Name()] = w
		list = append(list, w.Witness)
		lines += fmt.Sprintf("witness %s %s\n", w.VerifierKey, w.URL)
	}
	var err error
	if cfg.Witnesses, err = NewWitnessPolicy(list, quorum); err != nil {
		t.Fatal(err)
	}
	cfg.WitnessClient, cfg.WitnessTimeout, cfg.publishEvery = client, 2*time.Second, time.Second
	trust, err := ParseTrust([]byte(TrustLines(k.log.VerifierKey(), testOrigin, k.chain.Commitment()) + lines + fmt.Sprintf("quorum %d\n", cfg.Witnesses.Quorum)))
	if err != nil {
		t.Fatal(err)
	}
	return cfg, trust
}

// severed is a way to the witnesses that can be cut.
type severed struct {
	WitnessClient
	cut atomic.Bool
}

func (s *severed) AddCheckpoint(ctx context.Context, w *Witness, old uint64, proof []Hash, checkpoint []byte) ([]byte, error) {
	if s.cut.Load() {
		return nil, errors.New("no route")
	}
	return s.WitnessClient.AddCheckpoint(ctx, w, old, proof, checkpoint)
}

func (s *severed) Checkpoint(ctx context.Context, w *Witness, origin string) ([]byte, error) {
	if s.cut.Load() {
		return nil, errors.New("no route")
	}
	return s.WitnessClient.Checkpoint(ctx, w, origin)
}

func threeWitnesses(t testing.TB) []*testWitness {
	return []*testWitness{newTestWitness(t, "example.org/w/a"), newTestWitness(t, "example.org/w/b"), newTestWitness(t, "example.org/w/c")}
}

func verifyWitnessed(t testing.TB, m FS, opts VerifyOptions) *Report {
	t.Helper()
	r, err := verifyStore(context.Background(), m, "/store", opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// bubble runs a test on a fake clock, with pools of its own: what they hold has
// channels, which must not leave a bubble.
func bubble(t *testing.T, f func(*testing.T)) {
	e, d := batchEncoders, batchDecoders
	batchEncoders, batchDecoders = &sync.Pool{New: e.New}, &sync.Pool{New: d.New}
	defer func() { batchEncoders, batchDecoders = e, d }()
	synctest.Test(t, f)
}

// What is published bears the cosignatures of all witnesses, over several
// growths and restarts, and verify says that it is witnessed.
func TestPublishedIsWitnessed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		k, m, ws := newTestKeys(t), newMemFS(), threeWitnesses(t)
		cfg, trust := k.witnessed(t, k.memConfig(m), 0, ws...)
		for range 3 {
			w := openWriter(t, cfg)
			for i := range 5 {
				if err := w.Append(context.Background(), SignalLogs, testRequest(300, fmt.Sprint("r", i))); err != nil {
					t.Fatal(err)
				}
				time.Sleep(1500 * time.Millisecond)
			}
			closeWriter(t, w)
		}
		for _, w := range ws {
			if w.served < 6 {
				t.Fatalf("%s cosigned %d times in three lives", w.Name(), w.served)
			}
		}
		r := verifyWitnessed(t, m, VerifyOptions{Trust: trust, Auditor: &k.auditor})
		if r.ExitCode() != ExitProven {
			t.Fatalf("%v %v", r.Findings, r.Logs[0].Findings)
		}
		got := r.Logs[0].Witnessed
		if got == nil || got.Size != r.Logs[0].Entries || len(got.By) != 3 || got.Asked {
			t.Fatalf("witnessed %+v of %d entries", got, r.Logs[0].Entries)
		}
		// Asked, they say the same.
		r = verifyWitnessed(t, m, VerifyOptions{Trust: trust, Auditor: &k.auditor, WitnessClient: cfg.WitnessClient})
		if r.ExitCode() != ExitProven || !r.Logs[0].Witnessed.Asked {
			t.Fatalf("%v %v", r.Findings, r.Logs[0].Findings)
		}
		// Without the cosignatures it is only incomplete, and asking helps.
		edit(checkpointFile, func(b []byte) []byte {
			head, sigs, _ := strings.Cut(string(b), "\n\n")
			return []byte(head + "\n\n" + strings.SplitAfter(sigs, "\n")[0])
		})(m)
		r = verifyWitnessed(t, m, VerifyOptions{Trust: trust})
		if r.ExitCode() != ExitIncomplete || r.Logs[0].Axis(Witnessed) != Incomplete {
			t.Fatalf("stripped of cosignatures: %v", r.Logs[0].Findings)
		}
		r = verifyWitnessed(t, m, VerifyOptions{Trust: trust, WitnessClient: cfg.WitnessClient})
		if r.ExitCode() != ExitProven {
			t.Fatalf("stripped of cosignatures, but asked: %v", r.Logs[0].Findings)
		}
	})
}

// Every way in which a witness can fail: the quorum holds with one of them, is
// reported as missed with two, and no cosignature that is not the witness's own
// is ever stored.
func TestFailingWitnesses(t *testing.T) {
	for mode, reason := range map[string]string{"down": "unreachable", "slow": "unreachable", "garbage": "invalid", "mute": "invalid",
		"foreign": "invalid", "forged": "invalid", "liar": "conflict", "refuses": "refused"} {
		t.Run(mode, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				k, m, ws := newTestKeys(t), newMemFS(), threeWitnesses(t)
				cfg, trust := k.witnessed(t, k.memConfig(m), 2, ws...)
				var mu sync.Mutex
				var last Witnessing
				cfg.Witnessed = func(r Witnessing) { mu.Lock(); defer mu.Unlock(); last = r }
				w := openWriter(t, cfg)
				ws[0].set(mode)
				step := func(name string, enough bool) {
					t.Helper()
					if err := w.Append(context.Background(), SignalLogs, testRequest(1, name)); err != nil {
						t.Fatal(err) // ack: stored
					}
					time.Sleep(5 * time.Second)
					mu.Lock()
					defer mu.Unlock()
					if last.Enough() != enough {
						t.Fatalf("%s: %+v", name, last)
					}
					found := len(last.Failures) == 0
					for _, f := range last.Failures {
						found = found || f.Witness == ws[0].Name() && (f.Reason == reason || f.Reason == "slow")
					}
					if mode != "slow" && !found || len(last.Failures) == 0 && mode != "slow" {
						t.Fatalf("%s: failures %v", name, last.Failures)
					}
				}
				step("one fails", true)
				ws[1].set(mode)
				step("two fail", false)
				r := verifyWitnessed(t, m, VerifyOptions{Trust: trust})
				for _, f := range r.Logs[0].Findings {
					if f.Class == Tampering {
						t.Fatalf("%v", f)
					}
				}
				ws[0].set("")
				ws[1].set("")
				time.Sleep(5 * time.Second) // nothing new was sealed
				mu.Lock()
				enough := last.Enough()
				mu.Unlock()
				if !enough {
					t.Error("they are well again, and are not asked")
				}
				closeWriter(t, w)
				if r := verifyWitnessed(t, m, VerifyOptions{Trust: trust}); r.ExitCode() != ExitProven {
					t.Fatalf("%v", r.Logs[0].Findings)
				}
			})
		})
	}
}

// Acknowledged means witnessed: with too few witnesses callers are told to
// send again, in time, and what they sent is there.
func TestAckWitnessed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		k, m, ws := newTestKeys(t), newMemFS(), threeWitnesses(t)
		cfg, trust := k.witnessed(t, k.memConfig(m), 2, ws...)
		cfg.AckWitnessed = true
		w := openWriter(t, cfg)
		ctx := context.Background()
		ws[2].set("slow") // a quorum is enough
		for i := range 20 {
			start := time.Now()
			if err := w.Append(ctx, SignalLogs, testRequest(1, fmt.Sprint("r", i))); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took > 500*time.Millisecond {
				t.Fatalf("acknowledged after %v", took)
			}
			r := verifyWitnessed(t, m, VerifyOptions{Trust: trust, WitnessClient: cfg.WitnessClient})
			if wi := r.Logs[0].Witnessed; wi.Size < uint64(i)+2 {
				t.Fatalf("record %d was acknowledged, and %d entries are witnessed", i, wi.Size)
			}
		}
		ws[1].set("down")
		start := time.Now()
		err := w.Append(ctx, SignalLogs, testRequest(1, "unwitnessed"))
		var fault *FaultError
		if !errors.As(err, &fault) || !strings.Contains(err.Error(), "durable, but not witnessed") {
			t.Fatalf("without a quorum: %v", err)
		}
		if took := time.Since(start); took != cfg.WitnessTimeout {
			t.Fatalf("told after %v", took)
		}
		// One that comes back in time is in time.
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := w.Append(ctx, SignalLogs, testRequest(1, "in time")); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(500 * time.Millisecond)
		ws[1].set("")
		wg.Wait()
		// Closing does not leave callers waiting.
		ws[1].set("down")
		wg.Go(func() {
			if err := w.Append(ctx, SignalLogs, testRequest(1, "closing")); !errors.As(err, &fault) {
				t.Errorf("closed while waiting: %v", err)
			}
		})
		synctest.Wait()
		closeWriter(t, w)
		wg.Wait()
		log := &Log{Origin: testOrigin, dir: LogDir("/store", testOrigin), fs: m}
		ids := strings.Join(recordIDsOf(t, log), " ")
		for _, id := range []string{"r19-0", "unwitnessed-0", "in time-0", "closing-0"} {
			if !strings.Contains(ids, id) {
				t.Errorf("%s is not in the log", id)
			}
		}
	})
}

// A log that was rolled back, wholly or in part, does not open while a witness
// remembers more, nor does a verifier take it for whole.
func TestRolledBackLogIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		k, m, ws := newTestKeys(t), newMemFS(), threeWitnesses(t)
		cfg, trust := k.witnessed(t, k.memConfig(m), 0, ws...)
		life := func(name string) {
			w := openWriter(t, cfg)
			if err := w.Append(context.Background(), SignalLogs, testRequest(1, name)); err != nil {
				t.Fatal(err)
			}
			closeWriter(t, w)
		}
		life("before")
		copied := m.restart(keepAll, nil) // with the chain key: a whole machine's snapshot
		life("after")

		for _, mode := range []string{"", "unseeing"} { // as litewitness is: it tells its size only on submission
			for _, w := range ws {
				w.set(mode)
			}
			cfg := cfg
			cfg.FS, cfg.Chain = copied, ChainFile{copied, "/keys/chain"}
			if w, err := Open(cfg); err == nil {
				closeWriter(t, w)
				t.Fatal("a log that was rolled back was opened")
			} else if !strings.Contains(err.Error(), "has seen") {
				t.Fatal(err)
			}
			r := verifyWitnessed(t, copied, VerifyOptions{Trust: trust, WitnessClient: cfg.WitnessClient})
			if r.ExitCode() != ExitTampering || r.Logs[0].Axis(Completeness) != Tampering {
				t.Fatalf("rolled back, %q: %v", mode, r.Logs[0].Findings)
			}
			if r := verifyWitnessed(t, copied, VerifyOptions{Trust: trust}); r.ExitCode() != ExitProven {
				t.Fatalf("without asking it cannot be told: %v", r.Logs[0].Findings)
			}
		}
		for _, w := range ws {
			w.set("")
		}
		// Gone altogether.
		empty := newMemFS()
		empty.dirs["/store"] = true
		r := verifyWitnessed(t, empty, VerifyOptions{Trust: trust, WitnessClient: cfg.WitnessClient})
		if r.ExitCode() != ExitTampering {
			t.Fatalf("a log that is gone: %v", r.Findings)
		}
		fresh, _ := k.witnessed(t, k.memConfig(empty), 0, ws...)
		if w, err := Open(fresh); err == nil {
			closeWriter(t, w)
			t.Fatal("a log that was removed, with a new chain key, was begun again")
		}
	})
}

// Two writers with one key: a clone that the witnesses were not there to stop at
// its start stops when it meets them, and acknowledges nothing more.
func TestCloneHalts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		k, m, ws := newTestKeys(t), newMemFS(), threeWitnesses(t)
		cfg, trust := k.witnessed(t, k.memConfig(m), 2, ws...)
		w := openWriter(t, cfg)
		if err := w.Append(context.Background(), SignalLogs, testRequest(1, "common")); err != nil {
			t.Fatal(err)
		}
		closeWriter(t, w)
		clone := cfg
		copied := m.restart(keepAll, nil)
		clone.FS, clone.Chain = copied, ChainFile{copied, "/keys/chain"}
		var mu sync.Mutex
		var faults []error
		clone.Fault = func(err error) { mu.Lock(); defer mu.Unlock(); faults = append(faults, err) }
		original := openWriter(t, cfg)
		way := &severed{WitnessClient: clone.WitnessClient}
		way.cut.Store(true)
		clone.WitnessClient = way
		other := openWriter(t, clone) // cannot ask
		if err := other.Append(context.Background(), SignalLogs, testRequest(1, "clone")); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if err := original.Append(context.Background(), SignalLogs, testRequest(1, fmt.Sprint("original", i))); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
		}
		way.cut.Store(false)
		time.Sleep(20 * time.Second)
		err := other.Append(context.Background(), SignalLogs, testRequest(1, "too late"))
		var fault *FaultError
		var contradiction *ContradictionError
		if !errors.As(err, &fault) || !errors.As(err, &contradiction) {
			t.Errorf("the clone goes on: %v, faults %v", err, faults)
		}
		if err := original.Append(context.Background(), SignalLogs, testRequest(1, "goes on")); err != nil {
			t.Fatal(err)
		}
		closeWriter(t, original)
		closeWriter(t, other)
		r := verifyWitnessed(t, copied, VerifyOptions{Trust: trust, WitnessClient: cfg.WitnessClient})
		if r.ExitCode() != ExitTampering {
			t.Fatalf("the clone's store: %v", r.Logs[0].Findings)
		}
		if r := verifyWitnessed(t, m, VerifyOptions{Trust: trust, WitnessClient: cfg.WitnessClient}); r.ExitCode() != ExitProven {
			t.Fatalf("the original's store: %v", r.Logs[0].Findings)
		}
	})
}

// A history that the holder of all keys wrote anew is not the one that the
// witnesses saw.
func TestRewrittenLogIsDenied(t *testing.T) {
	bubble(t, func(t *testing.T) {
		k, m, ws := newTestKeys(t), newMemFS(), threeWitnesses(t)
		cfg, trust := k.witnessed(t, k.memConfig(m), 0, ws...)
		write := func(cfg Config, name string) {
			w := openWriter(t, cfg)
			for i := range 3 {
				if err := w.Append(context.Background(), SignalLogs, testRequest(1, fmt.Sprint(name, i))); err != nil {
					t.Fatal(err)
				}
			}
			closeWriter(t, w)
		}
		write(cfg, "true")
		forged := newMemFS()
		unwitnessed := k.memConfig(forged)
		write(unwitnessed, "false")
		write(unwitnessed, "and longer")
		r := verifyWitnessed(t, forged, VerifyOptions{Trust: trust, WitnessClient: cfg.WitnessClient})
		if r.ExitCode() != ExitTampering || r.Logs[0].Axis(Integrity) != Tampering {
			t.Fatalf("%v", r.Logs[0].Findings)
		}
		if r := verifyWitnessed(t, forged, VerifyOptions{Trust: trust}); r.ExitCode() != ExitIncomplete {
			t.Fatalf("without asking: %v", r.Logs[0].Findings)
		}
	})
}

// The entries after the last witnessed checkpoint are named as such.
func TestUnwitnessedEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		k, m, ws := newTestKeys(t), newMemFS(), threeWitnesses(t)
		cfg, trust := k.witnessed(t, k.memConfig(m), 0, ws...)
		w := openWriter(t, cfg)
		time.Sleep(3 * time.Second)
		ws[1].set("down")
		if err := w.Append(context.Background(), SignalLogs, testRequest(1, "later")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		r := verifyWitnessed(t, m, VerifyOptions{Trust: trust, WitnessClient: cfg.WitnessClient})
		ws[1].set("")
		asked := verifyWitnessed(t, m, VerifyOptions{Trust: trust, WitnessClient: testClient{ws[0].Name(): ws[0], ws[1].Name(): ws[1], ws[2].Name(): ws[2]}})
		closeWriter(t, w)
		if r.Logs[0].Axis(Witnessed) != Incomplete || r.Logs[0].Witnessed.Size != 0 {
			t.Fatalf("a witness is down: %+v %v", r.Logs[0].Witnessed, r.Logs[0].Findings)
		}
		if asked.Logs[0].Axis(Witnessed) != Incomplete || asked.Logs[0].Witnessed.Size != 1 {
			t.Fatalf("a witness has seen the first entry only: %+v %v", asked.Logs[0].Witnessed, asked.Logs[0].Findings)
		}
	})
}

// Power is cut at every operation: whatever was acknowledged is there and
// witnessed, and the log is never shorter than what a witness saw.
func TestCrashWithWitnesses(t *testing.T) {
	t.Parallel()
	k := newTestKeys(t)
	run := func(at int, persist bool, mode afterCrash) int {
		ws := threeWitnesses(t)[:2]
		m := newMemFS()
		m.at, m.persist, m.crash = at, persist, true
		l := &ledger{what: fmt.Sprintf("mode %d, operation %d, persisted %v", mode, at, persist)}
		cfg, trust := k.witnessed(t, k.crashConfig(m), 1, ws...)
		cfg.AckWitnessed, cfg.publishEvery, cfg.WitnessTimeout = true, time.Millisecond, 20*time.Millisecond
		_ = l.scenario(cfg)
		ops := m.ops
		after := m.restart(mode, rand.New(rand.NewPCG(uint64(at), 7)))
		cfg, _ = k.witnessed(t, k.memConfig(after), 1, ws...)
		l.check(t, k, after) // as if nobody watched
		r := verifyWitnessed(t, after, VerifyOptions{Trust: trust, WitnessClient: cfg.WitnessClient})
		for _, f := range r.Logs[0].Findings {
			if f.Class == Tampering {
				t.Fatalf("%s: %v", l.what, f)
			}
		}
		w, err := Open(cfg) // asks the witnesses
		if err != nil {
			t.Fatalf("%s: %v", l.what, err)
		}
		closeWriter(t, w)
		return ops
	}
	total := run(0, false, keepAll)
	for at := 1; at <= total; at += 3 * sweepStep {
		for _, mode := range []afterCrash{loseAll, loseSome} {
			run(at, at%2 == 0, mode)
		}
	}
}

func TestWitnessKeys(t *testing.T) {
	k, err := GenerateWitnessKey("example.org/witness")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := k.MarshalText()
	again, err := ParseWitnessKey(string(text))
	if err != nil || again.VerifierKey() != k.VerifierKey() {
		t.Fatalf("%v", err)
	}
	at := time.Unix(1700000000, 0)
	log := newTestKeys(t)
	c := Checkpoint{testOrigin, 7, Hash{1}}
	msg, err := c.sign(log.log)
	if err != nil {
		t.Fatal(err)
	}
	msg = append(msg, k.Cosign(c.text(), at)...)
	w, err := NewWitness(k.VerifierKey(), "")
	if err != nil {
		t.Fatal(err)
	}
	p, _ := NewWitnessPolicy([]Witness{w}, 1)
	cs, err := p.cosignatures(msg)
	if err != nil || len(cs) != 1 || !cs[0].Time.Equal(at) {
		t.Fatalf("%v %v", cs, err)
	}
	if _, err := openCheckpoint(msg, mustVerifier(log.log.VerifierKey())); err != nil {
		t.Fatalf("a cosigned checkpoint is still the log's: %v", err)
	}
	// Another time, or another text, is another statement.
	for i := range msg {
		bad := append([]byte(nil), msg...)
		bad[i] ^= 1
		if cs, err := p.cosignatures(bad); err == nil && len(cs) == 1 && textOf(bad) != textOf(msg) {
			t.Fatalf("byte %d altered, and the cosignature holds", i)
		}
	}
	for _, bad := range []string{"", "a+b", "name+00000000+" + strings.Split(k.VerifierKey(), "+")[2], "two words+" + k.VerifierKey(), log.log.VerifierKey(), k.VerifierKey() + "\n", "example.org/w+5A4C2514+BDtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"} {
		if _, err := NewWitness(bad, ""); err == nil {
			t.Errorf("key %q was taken", bad)
		}
	}
	for _, bad := range []string{"ftp://a", "https://", "https://a?b", "no url", "https://a#b"} {
		if _, err := NewWitness(k.VerifierKey(), bad); err == nil {
			t.Errorf("URL %q was taken", bad)
		}
	}
	if _, err := NewWitnessPolicy([]Witness{w, w}, 1); err == nil {
		t.Error("one witness counted twice")
	}
	for _, bad := range []string{"quorum 1\n", "quorum 0\n", "witness " + k.VerifierKey() + "\nquorum 2\n", "witness x\n",
		"witness " + k.VerifierKey() + "\nquorum 1\nquorum 1\n", "witness " + k.VerifierKey() + "\nwitness " + k.VerifierKey() + "\n"} {
		if _, err := ParseTrust([]byte(bad)); err == nil {
			t.Errorf("trust file %q was taken", bad)
		}
	}
}

func mustVerifier(vkey string) note.Verifier {
	v, err := note.NewVerifier(vkey)
	if err != nil {
		panic(err)
	}
	return v
}

func FuzzCosignatures(f *testing.F) {
	k := newWitnessKey("example.org/w", make([]byte, 32))
	w, _ := NewWitness(k.VerifierKey(), "")
	p, _ := NewWitnessPolicy([]Witness{w}, 1)
	c := Checkpoint{testOrigin, 7, Hash{1}}
	f.Add([]byte(c.text()+"\n"+k.Cosign(c.text(), time.Unix(1, 0))), k.VerifierKey())
	f.Add([]byte("a\n1\nb\n\n— x y\n"), "a+00000000+BA==")
	f.Fuzz(func(t *testing.T, msg []byte, vkey string) {
		if cs, err := p.cosignatures(msg); err == nil && len(cs) > 0 {
			n, err := note.Open(msg, note.VerifierList(w.key))
			if err != nil || len(n.Sigs) != len(cs) {
				t.Fatal(err)
			}
		}
		if w, err := NewWitness(vkey, ""); err == nil && keyText(w.key.name, w.key.hash, w.key.pub) != vkey {
			t.Fatalf("key %q has two texts", vkey)
		}
		_, _ = ParseWitnessKey(vkey)
	})
}

// Where nothing is replaced, every checkpoint that a quorum cosigned is an
// object of its own, the proofs come from memory, and an outage leaves out what
// was not cosigned.
func TestCosignedObjects(t *testing.T) {
	bubble(t, func(t *testing.T) {
		k, ws := newTestKeys(t), threeWitnesses(t)
		m := memObjects{newMemFS()}
		cfg := k.memConfig(m.memFS)
		cfg.FS = m
		cfg, trust := k.witnessed(t, cfg, 2, ws...)
		w := openWriter(t, cfg)
		for i := range 6 {
			mode := ""
			if i == 2 || i == 3 {
				mode = "down"
			}
			ws[0].set(mode)
			ws[1].set(mode)
			if err := w.Append(context.Background(), SignalLogs, testRequest(300, fmt.Sprint("r", i))); err != nil {
				t.Fatal(err)
			}
			time.Sleep(1100 * time.Millisecond)
		}
		closeWriter(t, w)
		names, err := m.ReadDir(logDir + "/" + checkpointFile)
		if err != nil || len(names) < 3 || len(names) > 6 {
			t.Fatalf("cosigned checkpoints %v: %v", names, err)
		}
		r := verifyWitnessed(t, m, VerifyOptions{Trust: trust, Auditor: &k.auditor, WitnessClient: cfg.WitnessClient})
		if r.ExitCode() != ExitProven || r.Logs[0].Witnessed.Size != r.Logs[0].Entries {
			t.Fatalf("%+v %v", r.Logs[0].Witnessed, r.Logs[0].Findings)
		}
	})
}
