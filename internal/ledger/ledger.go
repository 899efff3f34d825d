// Package ledger finds access log entries that a proxy wrote and that never came.
//
// Envoy's access log service is lossy by design: the proxy expects no answer and
// drops what it cannot send. But it counts: logs_written and logs_dropped. The
// ledger compares these counters, per proxy, with the entries that were
// received, and states the difference as gaps, each entry once.
//
// What a proxy has written and not yet sent is no loss, and nobody knows how
// much that is. So what it may have written within Lag, at the rate between its
// last two samples, is not called missing until a later sample still misses it:
// a loss under steady load is found when the load falls. Only what was written
// between two samples of one process is compared: a proxy that never delivered
// anything here delivers elsewhere, or its counters would be another's.
package ledger

import (
	"cmp"
	"crypto/rand"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/envoy"
)

// Reasons on gaps.
const (
	ReasonDropped     = "dropped_by_proxy" // counted by the proxy itself
	ReasonNotReceived = "not_received"     // counted as written, never came
)

const (
	// maxNodes bounds the proxies that are remembered; the one that was silent
	// for longest makes room.
	maxNodes = 1 << 16
	maxNames = 4 // by which one proxy is known
)

// Ledger is safe for concurrent use.
type Ledger struct {
	lag time.Duration
	id  string // of this process, in positions

	mu    sync.Mutex
	nodes map[string]*node // by each of their names
	gaps  uint64
}

// node is one proxy.
type node struct {
	names    []string
	reporter string // its node id, once it delivered something
	received uint64
	seen     time.Time // last entry or sample

	sampled     bool
	at          time.Time // of the last sample
	written     uint64
	dropped     uint64
	baseWritten uint64 // of the first sample of its process
	base        uint64 // received then
	missing     uint64 // stated as gaps so far
	whole       time.Time
}

// New makes a ledger. lag is how long a proxy may keep an entry before it comes
// here: its flush interval, the network, and how old a sample may be.
func New(lag time.Duration) *Ledger {
	return &Ledger{lag: lag, id: rand.Text(), nodes: map[string]*node{}}
}

// A Sample is what one proxy counted up to a time.
type Sample struct {
	// Names by which the proxy is known: its node id, "NAMESPACE/POD", its IP.
	// One that Received knows too is enough.
	Names            []string
	At               time.Time
	Written, Dropped uint64
}

// NamesOf are the names of the proxy with this node id.
func NamesOf(id string) []string {
	n := envoy.ParseNodeID(id)
	names := []string{id}
	if n.Workload.PodName != "" && n.Workload.Namespace != "" {
		names = append(names, n.Workload.Namespace+"/"+n.Workload.PodName)
	}
	if n.IP != "" {
		names = append(names, n.IP)
	}
	return names
}

// Received counts entries of the proxy with this node id.
func (l *Ledger) Received(id string, entries int, now time.Time) {
	if id == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[id]
	if n == nil {
		n = l.node(NamesOf(id), now)
	}
	n.reporter, n.seen = id, now
	n.received += uint64(entries)
}

// Count compares a sample with what was received and returns what is missing
// since the last time.
func (l *Ledger) Count(s Sample) []evidence.Gap {
	if len(s.Names) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.node(s.Names, s.At)
	n.seen = s.At
	last := *n
	n.sampled, n.at, n.written, n.dropped = true, s.At, s.Written, s.Dropped
	if !last.sampled || s.Written < last.written || s.Dropped < last.dropped {
		// The first sample, or the proxy was started anew.
		n.baseWritten, n.base, n.missing, n.whole = s.Written, n.received, 0, s.At
		return nil
	}
	var gaps []evidence.Gap
	if lost := s.Dropped - last.dropped; lost > 0 {
		gaps = append(gaps, l.gap(n, ReasonDropped, lost, last.at))
	}
	if n.reporter == "" {
		n.baseWritten, n.base, n.whole = s.Written, n.received, s.At
		return gaps
	}
	written, came := s.Written-n.baseWritten, n.received-n.base
	missing := written - min(came, written)
	under := l.underWay(s.Written-last.written, s.At.Sub(last.at))
	if missing <= n.missing {
		n.whole = s.At
	}
	if missing > under && missing-under > n.missing {
		lost := missing - under - n.missing
		n.missing += lost
		gaps = append(gaps, l.gap(n, ReasonNotReceived, lost, n.whole))
		n.whole = s.At
	}
	return gaps
}

// underWay is how much may be written and not yet here.
func (l *Ledger) underWay(written uint64, in time.Duration) uint64 {
	if in <= 0 || in <= l.lag {
		return written
	}
	return uint64(float64(written) * (float64(l.lag) / float64(in)))
}

func (l *Ledger) gap(n *node, reason string, count uint64, since time.Time) evidence.Gap {
	l.gaps++
	name := cmp.Or(n.reporter, n.names[0])
	return evidence.Gap{
		Source: evidence.SourceEnvoyALS, Reporter: evidence.Reporter{Node: name}, Reason: reason,
		Position: "ledger/" + l.id + "/" + strconv.FormatUint(l.gaps, 10),
		Count:    int64(count), Since: since.UnixNano(), Until: n.at.UnixNano(),
	}
}

// node finds a proxy by any of its names, or makes it, and adds the names.
func (l *Ledger) node(names []string, now time.Time) *node {
	names = names[:min(len(names), maxNames)]
	var n *node
	for _, name := range names {
		if n = l.nodes[name]; n != nil {
			break
		}
	}
	if n == nil {
		l.makeRoom()
		n = &node{seen: now}
	}
	for _, name := range names {
		if l.nodes[name] == nil && len(n.names) < 2*maxNames {
			l.nodes[name] = n
			n.names = append(n.names, name)
		}
	}
	return n
}

func (l *Ledger) makeRoom() {
	if len(l.nodes) < maxNodes {
		return
	}
	var all []*node
	for name, n := range l.nodes {
		if n.names[0] == name {
			all = append(all, n)
		}
	}
	slices.SortFunc(all, func(a, b *node) int { return a.seen.Compare(b.seen) })
	for _, n := range all[:1+len(all)/16] { // some at once: it is not done often
		for _, name := range n.names {
			delete(l.nodes, name)
		}
	}
}
