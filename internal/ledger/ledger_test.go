package ledger

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const id = "sidecar~10.0.0.1~orders-1.shop~shop.svc.cluster.local"

var t0 = time.Unix(1_700_000_000, 0)

func sample(after time.Duration, written, dropped uint64) Sample {
	return Sample{Names: []string{"shop/orders-1"}, At: t0.Add(after), Written: written, Dropped: dropped}
}

func TestNothingIsMissing(t *testing.T) {
	l := New(5 * time.Second)
	l.Received(id, 10, t0)
	require.Empty(t, l.Count(sample(0, 1000, 3)), "what was before the first sample is not known")
	l.Received(id, 90, t0)
	require.Empty(t, l.Count(sample(15*time.Second, 1100, 3)), "10 of 100 in 15 s may be under way")
	l.Received(id, 10, t0)
	require.Empty(t, l.Count(sample(30*time.Second, 1100, 3)))
}

func TestMissing(t *testing.T) {
	l := New(5 * time.Second)
	l.Received(id, 1, t0)
	l.Count(sample(0, 1, 0))
	l.Received(id, 60, t0)
	require.Empty(t, l.Count(sample(15*time.Second, 91, 0)), "30 missing, 30 may be under way")
	gaps := l.Count(sample(30*time.Second, 91, 0))
	require.Len(t, gaps, 1, "and still missing when nothing is written any more")
	g := gaps[0]
	require.Equal(t, ReasonNotReceived, g.Reason)
	require.EqualValues(t, 30, g.Count)
	require.Equal(t, id, g.Reporter.Node)
	require.Equal(t, t0.UnixNano(), g.Since, "all was here at the first sample")
	require.Equal(t, t0.Add(30*time.Second).UnixNano(), g.Until)
	require.Empty(t, l.Count(sample(45*time.Second, 91, 0)), "each entry is missed once")
}

func TestDroppedByTheProxy(t *testing.T) {
	l := New(5 * time.Second)
	l.Count(sample(0, 0, 5))
	gaps := l.Count(sample(time.Minute, 0, 12))
	require.Len(t, gaps, 1)
	require.Equal(t, ReasonDropped, gaps[0].Reason)
	require.EqualValues(t, 7, gaps[0].Count)
	require.Equal(t, "shop/orders-1", gaps[0].Reporter.Node, "the name that its counters give: it has sent nothing")
}

// A proxy that starts anew counts from 0; one that delivers elsewhere is not
// judged.
func TestOtherProcesses(t *testing.T) {
	l := New(5 * time.Second)
	l.Received(id, 5, t0)
	l.Count(sample(0, 1000, 9))
	require.Empty(t, l.Count(sample(15*time.Second, 3, 0)))
	l.Received(id, 2, t0)
	require.Empty(t, l.Count(sample(time.Minute, 5, 0)))

	other := New(5 * time.Second)
	other.Count(sample(0, 0, 0))
	require.Empty(t, other.Count(sample(time.Minute, 500, 0)))
	require.Empty(t, other.Count(sample(2*time.Minute, 500, 0)))
}

func TestBounded(t *testing.T) {
	l := New(time.Second)
	for i := range maxNodes * 2 {
		l.Received(fmt.Sprintf("node-%d", i), 1, t0.Add(time.Duration(i)))
	}
	require.LessOrEqual(t, len(l.nodes), maxNodes)
	require.Contains(t, l.nodes, fmt.Sprintf("node-%d", maxNodes*2-1))
}

// Whatever the traffic: with entries that are late by less than the lag and a
// number of them lost, no more is ever called missing than was lost, and when
// the traffic ends all of it is.
func TestLossIsFoundExactly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := New(5 * time.Second)
		l.Received(id, 1, t0)
		l.Count(sample(0, 0, 0))
		var written, lost, found uint64
		type arrival struct{ at, n int }
		var late []arrival
		second := 0
		step := func(write bool) {
			second++
			if write {
				// A steady second: the rate between samples is what bounds
				// what is under way.
				n := rapid.IntRange(0, 1).Draw(t, "lost")
				written += 50
				lost += uint64(n)
				late = append(late, arrival{second + rapid.IntRange(0, 4).Draw(t, "late"), 50 - n})
			}
			for i := 0; i < len(late); {
				if late[i].at <= second {
					l.Received(id, late[i].n, t0)
					late = append(late[:i], late[i+1:]...)
				} else {
					i++
				}
			}
			if second%15 == 0 {
				for _, g := range l.Count(sample(time.Duration(second)*time.Second, written, 0)) {
					found += uint64(g.Count)
				}
				if found > lost {
					t.Fatalf("second %d: %d called missing, %d lost", second, found, lost)
				}
			}
		}
		for range rapid.IntRange(1, 200).Draw(t, "seconds") {
			step(true)
		}
		for range 45 {
			step(false)
		}
		if found != lost {
			t.Fatalf("%d called missing, %d lost", found, lost)
		}
	})
}
