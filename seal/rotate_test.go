package seal

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
)

func newLogKey(t testing.TB) LogKey {
	t.Helper()
	skey, _, err := GenerateLogKey(testOrigin)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ParseLogKey(skey)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// rotated is a log whose key was replaced twice, and what its writer said of
// that.
type rotated struct {
	*victim
	rotations []Rotation
}

func newRotated(t testing.TB) *rotated {
	t.Helper()
	k, m := newTestKeys(t), newMemFS()
	r := &rotated{victim: &victim{k, m, time.Now().Add(time.Minute)}}
	var previous LogKey
	for i := range 3 {
		cfg := k.memConfig(m)
		if i > 0 {
			previous, cfg.LogKey = k.log, newLogKey(t)
			k.log = cfg.LogKey
		}
		cfg.PreviousLogKey = previous
		cfg.Rotated = func(x Rotation) { r.rotations = append(r.rotations, x) }
		w := openWriter(t, cfg)
		if err := w.Append(context.Background(), SignalLogs, testRequest(2, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		closeWriter(t, w)
	}
	return r
}

// trusting verifies under other lines for log keys; the chain stays pinned.
func (r *rotated) trusting(t testing.TB, m *memFS, lines ...string) *LogReport {
	t.Helper()
	trust, err := ParseTrust([]byte(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	trust.Chains = r.trust.Chains
	report, err := verifyStore(context.Background(), m, "/store", VerifyOptions{Trust: trust, Auditor: &r.auditor, AsOf: r.asOf})
	if err != nil {
		t.Fatal(err)
	}
	return report.Logs[0]
}

func worst(l *LogReport) (c Class) {
	for _, f := range l.Findings {
		c = max(c, f.Class)
	}
	return c
}

// unknownKeys are the lines of a trust file that verify advises to write.
func unknownKeys(l *LogReport) (lines []string) {
	for _, f := range l.Findings {
		if _, advice, ok := strings.Cut(f.Next, "trust file:\n"); ok {
			lines = append(lines, strings.TrimSpace(advice))
		}
	}
	return lines
}

func TestRotation(t *testing.T) {
	r := newRotated(t)
	if len(r.rotations) != 2 {
		t.Fatalf("%d rotations were reported", len(r.rotations))
	}
	first, second := r.rotations[0], r.rotations[1]
	old, middle := "log "+first.Old, fmt.Sprintf("log %s until %d", second.Old, second.Size)
	bounded, newest := fmt.Sprintf("%s until %d", old, first.Size), "log "+second.New
	if first.TrustLines() != bounded+"\nlog "+first.New+"\n" || first.New != second.Old {
		t.Fatalf("%q", first.TrustLines())
	}
	for _, order := range [][]string{{bounded, middle, newest}, {newest, middle, bounded}} {
		if l := r.trusting(t, r.fs, order...); worst(l) != Note || !l.TagsProven || !l.Trusted || l.Epochs != 5 {
			t.Fatalf("%v", l.Findings)
		}
	}

	// A trust file that is out of date proves nothing, and the report says
	// exactly what it lacks.
	l := r.trusting(t, r.fs, old)
	next := strings.Join(unknownKeys(l), "\n")
	if worst(l) != Incomplete || next != bounded+"\nlog "+first.New+"\n"+middle+"\n"+newest {
		t.Fatalf("%v %q", l.Findings, next)
	}
	if l = r.trusting(t, r.fs, bounded, "log "+first.New); worst(l) != Incomplete || len(unknownKeys(l)) != 1 {
		t.Fatalf("%v", l.Findings)
	}

	for name, lines := range map[string][]string{
		"bounded, and no heir":  {bounded},
		"bounded too early":     {fmt.Sprintf("%s until %d", old, first.Size-2), middle, newest},
		"bounded too late":      {fmt.Sprintf("%s until %d", old, first.Size+1), middle, newest},
		"another heir":          {bounded, "log " + newLogKey(t).VerifierKey()},
		"the newest key alone":  {newest},
		"the newest for middle": {bounded, newest},
	} {
		if l := r.trusting(t, r.fs, lines...); worst(l) != Tampering {
			t.Errorf("%s: %v", name, l.Findings)
		}
	}
	if _, err := ParseTrust([]byte(old + "\n" + newest)); err == nil || !strings.Contains(err.Error(), "until SIZE") {
		t.Errorf("two keys without a bound: %v", err)
	}
	if _, err := ParseTrust([]byte(old + "\n" + old)); err != nil {
		t.Errorf("one key twice: %v", err)
	}
}

// A key that takes a log over without being named by the one before it is no
// rotation, whoever trusts it.
func TestKeyReplacedWithoutHandover(t *testing.T) {
	for name, spoil := range map[string]func(old, heir LogKey, close *logState){
		"the old key alone signed": func(old, _ LogKey, s *logState) { s.signers = []note.Signer{old} },
		"the new key alone signed": func(_, heir LogKey, s *logState) { s.signers = []note.Signer{heir} },
		"a third key signed": func(old, _ LogKey, s *logState) {
			s.signers = []note.Signer{old, newLogKey(t)}
		},
		"properly": func(old, heir LogKey, s *logState) { s.signers = []note.Signer{old, heir} },
	} {
		for _, after := range []After{AfterRotation, AfterClean} {
			k, m := newTestKeys(t), newMemFS()
			heir := newLogKey(t)
			cfg := k.memConfig(m)
			w := &Writer{cfg: cfg, dir: logDir}
			if err := w.cfg.complete(); err != nil {
				t.Fatal(err)
			}
			if err := w.prepareDir(); err != nil {
				t.Fatal(err)
			}
			s, err := w.openEpoch(&logState{tree: new(tree)}, k.chain, k.log, AfterFirst, nil)
			if err != nil {
				t.Fatal(err)
			}
			spoil(k.log, heir, s)
			if _, err := s.commit(nil, &Header{Kind: KindClose}, s.sealed); err != nil {
				t.Fatal(err)
			}
			if _, err := w.openEpoch(s, k.chain.Next(), heir, after, nil); err != nil {
				t.Fatal(err)
			}
			r := &rotated{victim: &victim{k, m, time.Now()}}
			want := Tampering
			if name == "properly" && after == AfterRotation {
				want = Note
			}
			l := r.trusting(t, m, fmt.Sprintf("log %s until 2", k.log.VerifierKey()), "log "+heir.VerifierKey())
			if worst(l) != want {
				t.Errorf("%s, after %s: %v", name, after, l.Findings)
			}
		}
	}
}

// Power goes, or an operation fails, at every operation of a rotation: the
// next start continues it, under both keys or, once it was opened, the new one
// alone.
func TestCrashAtEveryOperationOfARotation(t *testing.T) {
	k := newTestKeys(t)
	heir := newLogKey(t)
	life := func(m *memFS) (opened bool) {
		for i := range 2 {
			cfg := k.memConfig(m)
			if i > 0 {
				cfg.LogKey, cfg.PreviousLogKey = heir, k.log
			}
			w, err := Open(cfg)
			if err != nil {
				return false
			}
			err = w.Append(context.Background(), SignalLogs, testRequest(2, fmt.Sprint("r", i)))
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			_ = w.Close(ctx)
			cancel()
			opened = err == nil
		}
		return opened
	}
	whole := newMemFS()
	if !life(whole) {
		t.Fatal("the scenario fails by itself")
	}
	for at := 1; at <= whole.ops; at++ {
		for _, mode := range []afterCrash{loseAll, keepAll, loseSome} {
			for _, persist := range []bool{false, true} {
				what := fmt.Sprintf("operation %d of %d, mode %d, persisted %v", at, whole.ops, mode, persist)
				m := newMemFS()
				m.at, m.persist, m.crash = at, persist, true
				life(m)
				m = m.restart(mode, rand.New(rand.NewPCG(uint64(at), uint64(mode))))
				cfg := k.memConfig(m)
				cfg.LogKey, cfg.PreviousLogKey = heir, k.log
				var last []string
				cfg.Rotated = func(x Rotation) { last = append(last, strings.TrimSpace(x.TrustLines())) }
				w, err := Open(cfg)
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				closeWriter(t, w)
				r := &rotated{victim: &victim{k, m, time.Now()}}
				l := r.trusting(t, m, "log "+k.log.VerifierKey())
				advice := unknownKeys(l)
				switch {
				case l.Epochs == 1 && len(advice) == 0: // the log began with the new key
					advice = []string{"log " + heir.VerifierKey()}
				case len(advice) != 1 || worst(l) != Incomplete || len(last) > 0 && last[0] != advice[0]:
					t.Fatalf("%s: said %q, advised %q: %v", what, last, advice, l.Findings)
				}
				if l = r.trusting(t, m, advice...); worst(l) == Tampering || l.Axis(Integrity) != Note || !l.TagsProven {
					t.Fatalf("%s: %v", what, l.Findings)
				}
				cfg.PreviousLogKey = nil // not needed any more
				if w, err = Open(cfg); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				closeWriter(t, w)
			}
		}
	}
}
