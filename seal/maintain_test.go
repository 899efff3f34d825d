package seal

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// clock is a writer's clock that a test sets.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

// prunedLog lives ten epochs of a day each and keeps what retention says.
func prunedLog(t *testing.T, r Retention) (*testKeys, *memFS, *clock) {
	k, m := newTestKeys(t), newMemFS()
	c := &clock{time.Unix(1_800_000_000, 0)}
	for day := range 10 {
		cfg := k.memConfig(m)
		cfg.Now, cfg.Retention, cfg.SegmentMaxBytes = c.now, r, 2000
		w := openWriter(t, cfg)
		for i := range 3 {
			if err := w.Append(context.Background(), SignalLogs, testRequest(20, fmt.Sprintf("d%d-%d", day, i))); err != nil {
				t.Fatal(err)
			}
		}
		closeWriter(t, w)
		c.t = c.t.Add(24 * time.Hour)
	}
	return k, m, c
}

// What retention does not keep is gone, with an order in the log that says so;
// the rest is proven as before, and what is missing beyond the order is not.
func TestPrune(t *testing.T) {
	for _, tc := range []struct {
		r    Retention
		days int // that are kept
	}{
		{Retention{MaxAge: 72 * time.Hour}, 4}, // the day in which the bound lies stays whole
		{Retention{MaxBytes: 1}, 2},            // at the last start: the newest epoch, and the one it follows
		{Retention{MaxAge: 1000 * time.Hour, MaxBytes: 1 << 30}, 10},
		{Retention{}, 10},
	} {
		t.Run(fmt.Sprint(tc.r), func(t *testing.T) {
			k, m, c := prunedLog(t, tc.r)
			opts := VerifyOptions{Trust: k.trust, Auditor: &k.auditor, AsOf: c.t.Add(-24 * time.Hour)}
			verify := func() *Report {
				r, err := verifyStore(context.Background(), m, "/store", opts)
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			r := verify()
			if r.ExitCode() != ExitProven {
				t.Fatalf("%v", r.Logs[0].Findings)
			}
			days := map[string]bool{}
			for _, id := range recordIDsOf(t, &Log{Origin: testOrigin, dir: logDir, fs: m}) {
				days[id[:2]] = true
			}
			if want := min(tc.days, 10); len(days) > want || len(days) < want-1 {
				t.Fatalf("%d days are kept: %v", len(days), days)
			}
			firsts, _, err := segments(m, logDir)
			if err != nil {
				t.Fatal(err)
			}
			delete(m.files, logDir+"/"+segmentDir+"/"+segmentName(firsts[0]))
			if r := verify(); r.ExitCode() != ExitTampering {
				t.Fatalf("a segment that no prune ordered away is missing: %v", r.Logs[0].Findings)
			}
		})
	}
}

// A pruned log is written on after a crash, with its tiles and without them
// where that is possible.
func TestPrunedLogRestarts(t *testing.T) {
	k, m, _ := prunedLog(t, Retention{MaxAge: 72 * time.Hour})
	w := openWriter(t, k.memConfig(m))
	closeWriter(t, w)
	for name := range m.files {
		if strings.Contains(name, "/tile/") {
			delete(m.files, name)
		}
	}
	if _, err := Open(k.memConfig(m)); err == nil || !strings.Contains(err.Error(), "tiles") {
		t.Fatalf("without tiles nothing says what was pruned: %v", err)
	}
}

// Epochs follow each other while the writer lives, each under its own key.
func TestEpochRotation(t *testing.T) {
	k, m := newTestKeys(t), newMemFS()
	cfg := k.memConfig(m)
	cfg.EpochMaxAge, cfg.maintainEvery = time.Nanosecond, time.Millisecond
	w := openWriter(t, cfg)
	for i := range 50 {
		if err := w.Append(context.Background(), SignalLogs, testRequest(3, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	closeWriter(t, w)
	r, err := verifyStore(context.Background(), m, "/store", VerifyOptions{Trust: k.trust, Auditor: &k.auditor})
	if err != nil {
		t.Fatal(err)
	}
	l := r.Logs[0]
	if r.ExitCode() != ExitProven || l.Records != 150 || l.Epochs < 2 || !l.TagsProven {
		t.Fatalf("%+v", l)
	}
}
