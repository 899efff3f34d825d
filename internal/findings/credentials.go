package findings

import (
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/evidence"
)

// together is how close in time two holders must use a credential in turns.
const together = 10 * time.Minute

// credentials remembers where certificates were used. One is shared if one
// place uses it, then another, then the first again, within together: a workload
// that moves (a rolling restart, a new node) takes its credential along and
// never comes back to the old place. What counts is when it was used, not when
// that was reported.
//
// Places are nodes where those are known, since workloads of one node may get one
// credential from one agent; else pods; else addresses. One pod is reported by
// several, of whom not all know its node: the place of an address or a pod is
// what anybody said it is.
//
// Two generations bound it: what was not used for a whole generation is
// forgotten. A credential costs about 100 bytes.
type credentials struct {
	max          int
	base         int64 // unix milliseconds; all is forgotten when baseLasts is over
	seed         maphash.Seed
	newer, older map[uint64]uses
	names        map[uint64]string // of places that used a credential of another
	places       places
}

// uses are those of a credential by two places, each for as long as it goes on
// using it. A third is not kept beside them.
type uses [2]use

// use is by a place, from first to last: milliseconds since the base.
type use struct {
	place       uint64 // 0: none
	first, last uint32
}

// baseLasts keeps those milliseconds within 32 bits.
const baseLasts = 40 * 24 * time.Hour

// since is a time in milliseconds since the base, which a clock that is wrong
// cannot move.
func (c *credentials) since(start int64, now time.Time) uint32 {
	at := min(start/int64(time.Millisecond), now.UnixMilli())
	if now.UnixMilli()-c.base > baseLasts.Milliseconds() {
		c.base = now.Add(-time.Hour).UnixMilli()
		c.newer, c.older, c.names = map[uint64]uses{}, map[uint64]uses{}, map[uint64]string{}
	}
	return uint32(max(at-c.base, 0))
}

func newCredentials(limit int) credentials {
	limit = max(limit, 1)
	return credentials{
		max: limit, seed: maphash.MakeSeed(), newer: map[uint64]uses{}, older: map[uint64]uses{}, names: map[uint64]string{},
		places: places{max: min(limit, maxPlaces), newer: map[uint64]uint64{}, older: map[uint64]uint64{}},
	}
}

// use notes the use of a credential that a record shows. other is "" unless it
// was used by two places at once.
func (c *credentials) use(r *correlate.Record, now time.Time) (one, other string) {
	one, place := c.place(r)
	if place == 0 {
		return "", ""
	}
	at := c.since(r.Start, now)
	key := maphash.String(c.seed, r.TLS.ClientSHA256)
	u, ok := c.newer[key]
	if !ok {
		u = c.older[key]
		if len(c.newer) >= c.max {
			c.older, c.newer, c.names = c.newer, map[uint64]uses{}, map[uint64]string{}
		}
	}
	mine, theirs := u.by(place, at)
	if mine != nil {
		c.newer[key] = u
	}
	if theirs == nil {
		return "", ""
	}
	if len(c.names) < c.max {
		c.names[place] = one
	}
	if mine == nil || mine.first >= theirs.last || theirs.first >= mine.last {
		return "", "" // one after the other
	}
	if other = c.names[theirs.place]; other == "" {
		other = "another"
	}
	return one, other
}

// by notes a use. It gives that of the place, nil if there is no room for it, and
// that of the other place, nil if there is none about then.
func (u *uses) by(place uint64, at uint32) (mine, theirs *use) {
	free := -1
	ended := func(u *use) bool { return int64(at)-int64(u.last) > together.Milliseconds() }
	for i := range u {
		switch {
		case u[i].place == place:
			mine = &u[i]
		case u[i].place == 0 || ended(&u[i]):
			free = i
		default:
			theirs = &u[i]
		}
	}
	switch {
	case mine == nil && free >= 0:
		mine = &u[free]
		*mine = use{place, at, at}
	case mine == nil:
	case ended(mine):
		mine.first, mine.last = at, at
	default:
		mine.first, mine.last = min(mine.first, at), max(mine.last, at)
	}
	return mine, theirs
}

// place is where the source runs, as exactly as the record says, and where that is
// by all that is known; 0 if it says nothing that tells places apart.
func (c *credentials) place(r *correlate.Record) (name string, place uint64) {
	w := &r.Source.Workload
	node, pod, address := "", "", ""
	if w.Node != "" {
		node = "node " + w.Node
	}
	if w.PodName != "" {
		pod = "pod " + strings.TrimPrefix(w.Namespace+"/"+w.PodName, "/")
	}
	if r.Peer != "" {
		address = "address " + r.Peer
	}
	hash := func(s string, node uint64) uint64 {
		if s == "" {
			return 0
		}
		return maphash.String(c.seed, s)&^isNode | node
	}
	place = c.places.of(hash(node, isNode), hash(pod, 0), hash(address, 0))
	if place&isNode == 0 && tunnelled(r) {
		return "", 0
	}
	return first(node, pod, address), place
}

// tunnelled tells a call through HBONE: its certificate is of the caller's node
// proxy, which has one for all pods of an account.
func tunnelled(r *correlate.Record) bool {
	return r.Destination.Port == portHBONE || slices.ContainsFunc(r.Attestations, func(a correlate.Attestation) bool {
		return a.Role == evidence.RoleCallee && strings.HasPrefix(a.Reporter.Node, "waypoint~")
	})
}

const portHBONE = 15008

// isNode is set in the hash of a node's name, and of nothing else.
const isNode = 1

// maxPlaces bounds the addresses and pods of which it is remembered where they
// are, in each of two generations.
const maxPlaces = 1 << 17

// places knows by hashes on which node a pod is, and of which pod or node an
// address is.
type places struct {
	max          int
	newer, older map[uint64]uint64
}

// of is the most exact place that is known, and notes what is said.
func (p *places) of(node, pod, address uint64) uint64 {
	place := node
	for _, at := range [...]uint64{pod, address} {
		if place == 0 && at != 0 {
			place = p.at(at)
		}
	}
	if place == 0 {
		if place = pod; place == 0 {
			place = address
		}
	}
	p.note(pod, place)
	p.note(address, place)
	return place
}

// at is 0 if nothing is known. An address may be of a pod, and that on a node.
func (p *places) at(at uint64) (place uint64) {
	for range 2 {
		next, ok := p.newer[at]
		if !ok {
			next = p.older[at]
		}
		if next == 0 {
			break
		}
		place, at = next, next
	}
	return place
}

func (p *places) note(at, place uint64) {
	if at == 0 || at == place || p.newer[at] == place {
		return
	}
	if _, ok := p.newer[at]; !ok && len(p.newer) >= p.max {
		p.older, p.newer = p.newer, map[uint64]uint64{}
	}
	p.newer[at] = place
}
