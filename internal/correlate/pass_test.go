package correlate

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// drawMixed draws calls, connections and events, some with users, verdicts and
// interim reports.
func drawMixed(t *rapid.T) []evidence.Evidence {
	oneOf := func(n int, what string) bool { return rapid.IntRange(1, n).Draw(t, what) == n }
	all := append(drawMesh(t, rapid.Bool().Draw(t, "equal calls")), drawConnections(t)...)
	for i := range all {
		e := &all[i]
		if oneOf(6, "user?") {
			e.User = rapid.SampledFrom([]string{"alice", "bob"}).Draw(t, "user")
		}
		if oneOf(10, "stream?") {
			e.StreamID = rapid.SampledFrom([]string{"s1", "s2"}).Draw(t, "stream")
			e.Reporter.Node = "n"
			e.Final = rapid.Bool().Draw(t, "final")
		}
		if oneOf(10, "flow?") && e.Source == evidence.SourceEnvoyALS {
			e.Source, e.StreamID = evidence.SourceHubble, rapid.SampledFrom([]string{"f1", "f2"}).Draw(t, "flow")
			e.Final = rapid.Bool().Draw(t, "response")
		}
		if oneOf(10, "verdict?") {
			verdict(rapid.SampledFrom([]evidence.Decision{evidence.Allow, evidence.Deny, "of its own"}).Draw(t, "verdict"), "envoy_rbac")(e)
		}
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "stages") {
		e := change(fmt.Sprint("change ", i), "audit-1")
		e.Final = rapid.Bool().Draw(t, "final")
		all = append(all, e)
	}
	return all
}

// However many workers there are, the same records come out in the same order.
// Evidence comes over a time in which some is late, some is sent again, and some
// leaves early because of a bound.
func TestWorkersDoNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := drawMixed(t)
		cfg := testConfig()
		cfg.Settle = time.Duration(rapid.IntRange(0, 3).Draw(t, "settle")) * time.Second
		cfg.LateWindow = time.Duration(rapid.IntRange(0, 10).Draw(t, "late")) * time.Second
		cfg.ExpectCaller, cfg.ExpectVerdict = rapid.Bool().Draw(t, "caller"), rapid.Bool().Draw(t, "verdict")
		if rapid.Bool().Draw(t, "bounded") {
			cfg.MaxPending = rapid.IntRange(1, 20).Draw(t, "pending")
		}
		one, three := New(cfg), New(cfg)
		one.workers, three.workers = workers{n: 1, share: 1}, workers{n: 3, share: 1}
		same := func(do func(*Correlator)) {
			var out [2][]*Record
			for i, c := range []*Correlator{one, three} {
				do(c)
				_, _ = c.Deliver(7, func(rs []*Record) error { out[i] = append(out[i], rs...); return nil })
			}
			require.Equal(t, out[0], out[1])
			require.Equal(t, one.Stats(), three.Stats())
		}
		now := t0
		for sent := shuffle(t, all); len(sent) > 0; {
			n := rapid.IntRange(1, len(sent)).Draw(t, "batch")
			batch := slices.Clone(sent[:n])
			sent = sent[n:]
			if rapid.IntRange(0, 4).Draw(t, "resend") == 0 {
				batch = append(batch, all[:rapid.IntRange(0, len(all)).Draw(t, "again")]...)
			}
			now = now.Add(time.Duration(rapid.IntRange(0, 12_000*n/len(all)).Draw(t, "wait")) * time.Millisecond)
			same(func(c *Correlator) { c.Add(now, batch) })
		}
		if rapid.Bool().Draw(t, "flush") {
			same((*Correlator).Flush)
		}
		for range 3 {
			now = now.Add(10 * time.Second)
			same(func(c *Correlator) { c.Advance(now) })
		}
		assertForgotten(t, one)
		assertForgotten(t, three)
	})
}

// Many senders at once, two of which send the same: each piece of evidence is
// cited by one record, and an action's by the same.
func TestManySenders(t *testing.T) {
	for _, shards := range []int{1, 3} {
		t.Run(fmt.Sprint("shards=", shards), func(t *testing.T) { manySenders(t, shards) })
	}
}

func manySenders(t *testing.T, shards int) {
	const senders, batches, size = 5, 40, 200
	cfg := testConfig()
	cfg.MaxPending = shards * senders * batches * size
	c := NewSharded(cfg, shards)
	for _, one := range c.shards {
		one.workers = workers{n: 3, share: 1}
	}
	var sending, taking sync.WaitGroup
	cited := map[evidence.ID]int{}
	records := 0
	sent := make(chan struct{})
	taking.Go(func() {
		for again := true; again; {
			select {
			case <-sent:
				again = false
				c.Advance(t0.Add(time.Minute))
			default:
			}
			_, _ = c.Deliver(100, func(rs []*Record) error {
				for _, r := range rs {
					records++
					for _, a := range r.Attestations {
						cited[a.ID]++
					}
				}
				return nil
			})
		}
	})
	for s := range senders {
		load := newLoad()
		load.next = uint64(max(s, 1)) << 32
		sending.Go(func() {
			for i := range batches {
				c.Add(t0.Add(time.Duration(i)*time.Millisecond), load.take(size))
			}
		})
	}
	sending.Wait()
	close(sent)
	taking.Wait()
	require.Len(t, cited, (senders-1)*batches*size)
	for _, n := range cited {
		require.Equal(t, 1, n)
	}
	require.Equal(t, len(cited)/4, records, "no amendments")
	s := c.Stats()
	require.EqualValues(t, len(cited), s.Evidence)
	require.EqualValues(t, batches*size, s.Duplicates)
	c.Advance(t0.Add(time.Hour))
	for _, one := range c.shards {
		assertForgotten(t, one)
	}
}

// While somebody is at work evidence is taken without waiting, up to a bound; then
// it waits, and nothing is refused.
func TestFullInbox(t *testing.T) {
	cfg := testConfig()
	cfg.MaxPending = 2 * maxInbox
	c := New(cfg)
	load := newLoad()
	c.mu.Lock()
	for range maxInbox / 1024 {
		c.Add(t0, load.take(1024))
	}
	last := load.take(1024)
	added := make(chan struct{})
	go func() {
		c.Add(t0, last)
		close(added)
	}()
	select {
	case <-added:
		t.Fatal("the inbox is full")
	case <-time.After(20 * time.Millisecond):
	}
	c.unlock()
	<-added
	c.Advance(t0)
	require.EqualValues(t, maxInbox+1024, c.Stats().Evidence)
}
