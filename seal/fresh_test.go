package seal

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// A writer without a chain key of its own begins a chain at every start, under
// the next epoch; what follows in its life is chained to that.
func TestFreshChain(t *testing.T) {
	k, m := newTestKeys(t), newMemFS()
	fresh := func() Config {
		cfg := k.memConfig(m)
		cfg.Chain, cfg.FreshChain = nil, true
		return cfg
	}
	for i := range 3 {
		cfg := fresh()
		if i == 1 { // an epoch ends while the writer lives
			cfg.EpochMaxAge, cfg.maintainEvery = time.Nanosecond, time.Hour // once, as it begins
		}
		w := openWriter(t, cfg)
		if err := w.Append(context.Background(), SignalLogs, testRequest(1, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		closeWriter(t, w)
	}
	verify := func(lines string) *LogReport {
		t.Helper()
		trust, err := ParseTrust([]byte("log " + k.log.VerifierKey() + "\n" + lines))
		if err != nil {
			t.Fatal(err)
		}
		r, err := verifyStore(context.Background(), m, "/store", VerifyOptions{Trust: trust, Auditor: &k.auditor})
		if err != nil {
			t.Fatal(err)
		}
		return r.Logs[0]
	}
	l := verify("chain " + testOrigin + " fresh\n")
	if worst(l) != Note || !l.TagsProven || l.Pinned || l.Epochs != 4 || l.FreshChains != 3 {
		t.Fatalf("%+v", l)
	}
	if !strings.Contains(fmt.Sprint(l.Findings), "the HMAC proof begins anew at entry") {
		t.Fatalf("%v", l.Findings)
	}
	l = verify("")
	if worst(l) != Incomplete || l.Axis(Integrity) != Note || !strings.Contains(l.First().Next, "chain "+testOrigin+" fresh") {
		t.Fatalf("%v", l.Findings)
	}

	// A kept chain that is not taken up any more is news, too.
	kept := newVictim(t)
	k, m = kept.testKeys, kept.fs
	closeWriter(t, openWriter(t, fresh()))
	r := kept.expect(t, "a chain that was kept before", ExitIncomplete, func(*memFS) {})
	if f := r.Logs[0].First(); f.Axis != Completeness || !strings.Contains(f.What, "begins anew") {
		t.Fatalf("%v", r.Logs[0].Findings)
	}
}

func TestFreshChainSurvivesCrashes(t *testing.T) {
	k := newTestKeys(t)
	trust, err := ParseTrust([]byte("log " + k.log.VerifierKey() + "\nchain " + testOrigin + " fresh\n"))
	if err != nil {
		t.Fatal(err)
	}
	life := func(m *memFS) {
		for i := range 2 {
			cfg := k.memConfig(m)
			cfg.Chain, cfg.FreshChain = nil, true
			w, err := Open(cfg)
			if err != nil {
				return
			}
			_ = w.Append(context.Background(), SignalLogs, testRequest(2, fmt.Sprint(i)))
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			_ = w.Close(ctx)
			cancel()
		}
	}
	whole := newMemFS()
	life(whole)
	for at := 1; at <= whole.ops; at++ {
		for _, crash := range []bool{false, true} {
			m := newMemFS()
			m.at, m.persist, m.crash = at, true, crash
			life(m)
			m = m.restart(loseSome, rand.New(rand.NewPCG(uint64(at), 7)))
			life(m)
			r, err := verifyStore(context.Background(), m, "/store", VerifyOptions{Trust: trust, Auditor: &k.auditor})
			if err != nil || len(r.Logs) != 1 {
				t.Fatalf("operation %d, crash %v: %v %v", at, crash, err, r)
			}
			if l := r.Logs[0]; worst(l) == Tampering || !l.TagsProven {
				t.Fatalf("operation %d, crash %v: %v", at, crash, l.Findings)
			}
		}
	}
}
