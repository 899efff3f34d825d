package correlate

import (
	"bytes"
	"encoding/hex"
	"hash/maphash"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// MaxShards bounds the shards of a Sharded.
const MaxShards = 64

// Sharded is several correlators that know nothing of each other: each has the evidence of its
// routes (evidence.Evidence.AppendRoute), and a part of the bounds. So they take as much as there
// are cores for; and evidence that names a trace id does not meet what names none. One
// is a Correlator. It is safe for concurrent use.
type Sharded struct {
	shards []*Correlator
	seed   maphash.Seed
	turns  atomic.Uint32 // so that not all begin with the same
	routes sync.Pool     // *routing
	before before
}

// routing is which evidence of a batch goes where.
type routing struct {
	to    []uint8
	route []byte
}

// NewSharded makes so many correlators, from 1 to MaxShards.
func NewSharded(cfg Config, shards int) *Sharded {
	s := &Sharded{seed: maphash.MakeSeed(), routes: sync.Pool{New: func() any { return new(routing) }}}
	cfg.MaxPending = (cfg.MaxPending + shards - 1) / shards
	cfg.MaxPendingBytes = (cfg.MaxPendingBytes + shards - 1) / shards
	for range shards {
		c := New(cfg)
		c.workers.n = min(c.workers.n, max(1, runtime.GOMAXPROCS(0)/shards))
		s.shards = append(s.shards, c)
	}
	return s
}

// of gives the shard of a route.
func (s *Sharded) of(route []byte) uint8 {
	return uint8(maphash.Bytes(s.seed, route) % uint64(len(s.shards)))
}

// each calls f for every shard, until it fails.
func (s *Sharded) each(f func(n uint8, c *Correlator) error) error {
	first := int(s.turns.Add(1) % MaxShards)
	for i := range s.shards {
		n := (first + i) % len(s.shards)
		if err := f(uint8(n), s.shards[n]); err != nil {
			return err
		}
	}
	return nil
}

// Add is Correlator.Add.
func (s *Sharded) Add(now time.Time, batch []evidence.Evidence) {
	if len(s.shards) == 1 {
		s.shards[0].Add(now, batch)
		return
	}
	r := s.routes.Get().(*routing)
	defer s.routes.Put(r)
	r.to = r.to[:0]
	for i := range batch {
		r.route = batch[i].AppendRoute(r.route[:0])
		r.to = append(r.to, s.of(r.route))
	}
	if s.before.some.Load() {
		s.before.tell(s.shards, batch, r.to)
	}
	_ = s.each(func(n uint8, c *Correlator) error {
		if bytes.IndexByte(r.to, n) >= 0 {
			c.add(c.hash.parcel(now, batch, func(i int) bool { return r.to[i] == n }))
		}
		return nil
	})
}

// Advance is Correlator.Advance, of all shards at the same time.
func (s *Sharded) Advance(now time.Time) { s.together(func(c *Correlator) { c.Advance(now) }) }

// Flush is Correlator.Flush, of all shards at the same time.
func (s *Sharded) Flush() { s.together((*Correlator).Flush) }

func (s *Sharded) together(f func(*Correlator)) {
	workers{}.each(len(s.shards), func(n int) { f(s.shards[n]) })
}

// Recover is Correlator.Recover.
func (s *Sharded) Recover(past Past) {
	if len(s.shards) == 1 {
		s.shards[0].Recover(past)
		return
	}
	s.before.add(s.shards, past)
}

// Recovered is Correlator.Recovered.
func (s *Sharded) Recovered() {
	s.before.forget()
	s.together((*Correlator).Recovered)
}

// before is what was out before a restart. To which shards the evidence of a record goes is not
// known before that is there; they are told of it then, for all of it would not be within the bounds of each.
type before struct {
	some    atomic.Bool
	mu      sync.Mutex // guards all below
	records map[RecordID]*outBefore
	citing  map[evidence.ID][]*outBefore
}

// outBefore is a record and its amendments, and which shards know of it, a bit each.
type outBefore struct {
	all  []Past
	told uint64
}

func (b *before) add(shards []*Correlator, past Past) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.records == nil {
		b.records, b.citing = make(map[RecordID]*outBefore), make(map[evidence.ID][]*outBefore)
		b.some.Store(true)
	}
	r := b.records[past.ID]
	if r == nil {
		r = new(outBefore)
		b.records[past.ID] = r
	}
	r.all = append(r.all, past)
	for _, id := range past.Cites {
		if !slices.Contains(b.citing[id], r) {
			b.citing[id] = append(b.citing[id], r)
		}
	}
	for n, c := range shards {
		if r.told>>n&1 != 0 {
			c.Recover(past)
		}
	}
}

func (b *before) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records, b.citing = nil, nil
	b.some.Store(false)
}

// tell tells the shards to which a batch goes of what cites it.
func (b *before) tell(shards []*Correlator, batch []evidence.Evidence, to []uint8) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, n := range to {
		for _, r := range b.citing[batch[i].ID] {
			if r.told>>n&1 != 0 {
				continue
			}
			r.told |= 1 << n
			for _, past := range r.all {
				shards[n].Recover(past)
			}
		}
	}
}

// Known is Correlator.Known.
func (s *Sharded) Known(spans []Node) []Known {
	if len(s.shards) == 1 {
		return s.shards[0].Known(spans)
	}
	parts := make([][]Node, len(s.shards))
	at := make([][]int, len(s.shards))
	var route [2 * len(evidence.TraceID{})]byte
	for i := range spans {
		hex.Encode(route[:], spans[i].Trace[:])
		n := s.of(route[:])
		parts[n], at[n] = append(parts[n], spans[i]), append(at[n], i)
	}
	var all []Known
	for n, c := range s.shards {
		if len(parts[n]) == 0 {
			continue
		}
		for i, k := range c.Known(parts[n]) {
			if all == nil {
				all = make([]Known, len(spans))
			}
			all[at[n][i]] = k
		}
	}
	return all
}

// Deliver is Correlator.Deliver, a batch of each shard after the other.
func (s *Sharded) Deliver(limit int, send func([]*Record) error) (taken int, err error) {
	for before := -1; before < taken && err == nil; {
		before = taken
		err = s.each(func(_ uint8, c *Correlator) error {
			n, err := c.deliver(limit, send)
			taken += n
			return err
		})
	}
	return taken, err
}

// Ready is Correlator.Ready.
func (s *Sharded) Ready() (n int) {
	for _, c := range s.shards {
		n += c.Ready()
	}
	return n
}

// Stats is Correlator.Stats, of all.
func (s *Sharded) Stats() (all Stats) {
	for _, c := range s.shards {
		one := c.Stats()
		all.Evidence += one.Evidence
		all.Duplicates += one.Duplicates
		all.Unrelated += one.Unrelated
		all.Unjoined += one.Unjoined
		all.LeftEarly += one.LeftEarly
		all.Forgotten += one.Forgotten
		all.Dropped += one.Dropped
		all.Pending += one.Pending
		all.Kept += one.Kept
		all.Ready += one.Ready
		all.Bytes += one.Bytes
	}
	return all
}
