package findings

import (
	"hash/maphash"
	"net/netip"
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
// credential from one agent; else pods; else addresses. Two places are two only if
// they cannot be one: two nodes, two pods, two addresses of one family as one cluster
// sees them; see places.
//
// A use after an hour without one is on a new connection, for proxies close those that
// are idle for so long. So is perhaps the first that is known of, if uses before may
// have been forgotten, or be from before this began.
//
// Two generations bound it: what was not used for a whole generation is
// forgotten. A credential costs less than 120 bytes.
type credentials struct {
	max               int
	base              int64  // unix milliseconds; all is forgotten when baseLasts is over
	complete, rotated uint32 // all uses since then are in the two generations; in the newer
	seed              maphash.Seed
	newer, older      map[uint64]uses
	names             map[place]string // of places that used a credential of another
	places            places
}

// uses are those of a credential by two places, each for as long as it goes on
// using it. A third is not kept beside them.
type uses struct {
	by   [2]use
	last uint32 // by anybody
}

// use is by a place, from first to last: milliseconds since the base.
type use struct {
	place       place // 0: none
	first, last uint32
}

const (
	baseLasts = 40 * 24 * time.Hour // keeps those milliseconds within 32 bits
	idle      = time.Hour           // Envoy closes connections that are not used for so long
)

func newCredentials(limit int) credentials {
	limit = max(limit, 1)
	return credentials{
		max: limit, seed: maphash.MakeSeed(), newer: map[uint64]uses{}, older: map[uint64]uses{}, names: map[place]string{},
		places: places{max: min(limit, maxPlaces), newer: map[place]place{}, older: map[place]place{}},
	}
}

// since is a time in milliseconds since the base, which a clock that is wrong
// cannot move.
func (c *credentials) since(start int64, now time.Time) uint32 {
	at := min(start/int64(time.Millisecond), now.UnixMilli())
	if now.UnixMilli()-c.base > baseLasts.Milliseconds() {
		c.base = now.Add(-time.Hour).UnixMilli()
		c.newer, c.older, c.names = map[uint64]uses{}, map[uint64]uses{}, map[place]string{}
		c.complete = uint32(now.UnixMilli() - c.base)
		c.rotated = c.complete
	}
	return uint32(max(at-c.base, 0))
}

// opening is whether a use is on a new connection.
type opening uint8

const (
	notNew opening = iota
	maybeNew
	certainlyNew
)

// credential names the certificate that a record shows, "" if it cannot. A serial
// number is unique for its issuer only; where that is not stated, the SPIFFE ID in the
// certificate tells one issuer's 01 from another's.
func credential(r *correlate.Record) string {
	t := &r.TLS
	switch {
	case t.ClientSHA256 != "" || t.ClientSerial == "":
		return t.ClientSHA256
	case t.ClientIssuer != "":
		return "serial number " + t.ClientSerial + " of " + t.ClientIssuer
	case !r.Source.ID.IsZero() && r.Source.Proof >= evidence.ProofMTLSSAN: // else it is not of the certificate
		return "serial number " + t.ClientSerial + " for " + r.Source.ID.String()
	}
	return ""
}

// use notes the use of the certificate that a record shows. other is "" unless it was
// used by two places at once, if shared asks for that.
func (c *credentials) use(certificate string, r *correlate.Record, now time.Time, shared bool) (on opening, one, other string) {
	at := c.since(r.Start, now)
	key := maphash.String(c.seed, certificate)
	u, ok := c.newer[key]
	if !ok {
		u, ok = c.older[key]
		if len(c.newer) >= c.max {
			c.older, c.newer, c.names = c.newer, map[uint64]uses{}, map[place]string{}
			c.complete, c.rotated = c.rotated, uint32(now.UnixMilli()-c.base)
		}
	}
	switch {
	case int64(at)-int64(max(u.last, c.complete)) >= idle.Milliseconds():
		on = certainlyNew
	case !ok:
		on = maybeNew
	}
	u.last = max(u.last, at)
	defer func() { c.newer[key] = u }()
	if !shared {
		return on, "", ""
	}
	one, where := c.place(r)
	if where == 0 {
		return on, "", ""
	}
	mine, theirs := u.note(where, at)
	if mine == nil || theirs == nil {
		return on, "", ""
	}
	if len(c.names) < c.max {
		c.names[where] = one
	}
	if mine.first >= theirs.last || theirs.first >= mine.last || !c.places.differ(mine.place, theirs.place) {
		return on, "", "" // one after the other, or perhaps the same
	}
	if other = c.names[theirs.place]; other == "" {
		other = "another"
	}
	return on, one, other
}

// note notes a use. It gives that of the place, nil if there is no room for it or
// both may be meant, and that of the other place, nil if there is none about then.
func (u *uses) note(where place, at uint32) (mine, theirs *use) {
	free := -1
	ended := func(u *use) bool { return int64(at)-int64(u.last) > together.Milliseconds() }
	for i := range u.by {
		switch b := &u.by[i]; {
		case b.place.same(where) && mine != nil:
			return nil, nil
		case b.place.same(where):
			mine = b
		case b.place == 0 || ended(b):
			free = i
		default:
			theirs = b
		}
	}
	switch {
	case mine == nil && free >= 0:
		mine = &u.by[free]
		*mine = use{where, at, at}
	case mine == nil:
	case ended(mine):
		mine.first, mine.last = at, at
	default:
		mine.first, mine.last = min(mine.first, at), max(mine.last, at)
	}
	return mine, theirs
}

// place is where the source runs, as exactly as the record says, and where that is
// by all that is known; 0 if it says nothing that tells places apart. Nodes and pods
// are of the caller's cluster, as its own report says; an address is as the callee's
// cluster sees it.
func (c *credentials) place(r *correlate.Record) (name string, where place) {
	w := &r.Source.Workload
	var node, pod, address string
	if w.Node != "" {
		node = "node " + w.Node
	}
	if w.PodName != "" {
		pod = "pod " + strings.TrimPrefix(w.Namespace+"/"+w.PodName, "/")
	}
	family := placeAddress
	if a, err := netip.ParseAddr(r.Peer); err == nil && a.Unmap().IsGlobalUnicast() {
		a = a.Unmap().WithZone("")
		if address = "address " + a.String(); a.Is6() {
			family |= placeIPv6
		}
	}
	where = c.places.of(c.named(placeNode, r.Source.Cluster, node), c.named(placePod, r.Source.Cluster, pod), c.named(family, r.Cluster, address))
	if where.kind() != placeNode && tunnelled(r) {
		return "", 0
	}
	return first(node, pod, address), where
}

func (c *credentials) named(kind place, cluster, name string) place {
	if name == "" {
		return 0
	}
	p := place(maphash.String(c.seed, name))&^placeScope | kind
	if cluster != "" {
		in := place(maphash.String(c.seed, cluster)) & placeCluster
		p |= max(in, placeCluster&-placeCluster)
	}
	return p
}

// tunnelled tells a call through HBONE: its certificate is of the caller's node
// proxy, which has one for all pods of an account.
func tunnelled(r *correlate.Record) bool {
	return r.Destination.Port == portHBONE || slices.ContainsFunc(r.Attestations, func(a correlate.Attestation) bool {
		return a.Role == evidence.RoleCallee && strings.HasPrefix(a.Reporter.Node, "waypoint~")
	})
}

const portHBONE = 15008

// A place is the hash of a node's, a pod's or an address's name, with what kind it
// is of and a hash of the cluster it is in; 0 is none.
type place uint64

const (
	placeNode place = 1 + iota
	placePod
	placeAddress
	placeKind    = 3
	placeIPv6    = 4
	placeCluster = 0xfff8 // 0: not known
	placeScope   = 0xffff // all of these

	// several is where a name is that was of two places, and so tells of none: pods of
	// two clusters have one name or address, a pod of a StatefulSet moves, an address
	// is given to the next pod.
	several place = placeIPv6
)

func (p place) kind() place { return p & placeKind }

// same: p and q are one. If the cluster of one is not known, it may be the other's.
func (p place) same(q place) bool {
	return p == q || p.kind() != placeAddress && (p^q)&^placeCluster == 0 && (p&placeCluster == 0 || q&placeCluster == 0)
}

// maxPlaces bounds the addresses and pods of which it is remembered where they
// are, in each of two generations.
const maxPlaces = 1 << 17

// places knows on which node a pod is, and of which pod or node an address is. One
// pod is reported by several, of whom not all know its node: what anybody said
// holds for all.
type places struct {
	max          int
	newer, older map[place]place
}

// of is the most exact place that is known, and notes what is said.
func (p *places) of(node, pod, address place) place {
	where := node
	for _, at := range [...]place{pod, address} {
		if where == 0 && at != 0 {
			if where = p.at(at); where == 0 {
				where = at
			}
		}
	}
	if where == several {
		return 0
	}
	p.note(pod, where)
	p.note(pod&^placeCluster, where) // to whoever does not say of which cluster it is
	p.note(address, where)
	if where != 0 && where.kind() != placeAddress && address != 0 {
		p.set(where.in(address), where)
	}
	return where
}

// in is the name under which it is noted that an address of p is known: of its
// family, and as its cluster sees it.
func (p place) in(address place) place { return p&^placeScope | address&placeScope }

// at is 0 if nothing is known. An address may be of a pod, and that on a node.
func (p *places) at(at place) (where place) {
	for range 2 {
		next := p.get(at)
		if next == 0 {
			break
		}
		where, at = next, next
	}
	return where
}

func (p *places) get(at place) place {
	if where, ok := p.newer[at]; ok {
		return where
	}
	return p.older[at]
}

func (p *places) note(at, where place) {
	if at == 0 || at.same(where) {
		return
	}
	switch known := p.at(at); {
	case known == 0, known.same(where), known.kind() == placePod && where.kind() == placeNode:
		p.set(at, where)
	default:
		p.set(at, several)
	}
}

func (p *places) set(at, where place) {
	have, ok := p.newer[at]
	if ok && have == where {
		return
	}
	if !ok && len(p.newer) >= p.max {
		p.older, p.newer = p.newer, map[place]place{}
	}
	p.newer[at] = where
}

// differ: a and b cannot be one pod, nor on one node. Of a node or pod that is to
// differ from an address, an address must be known that could be the same: the
// other's family, as the same cluster sees it.
func (p *places) differ(a, b place) bool {
	for _, at := range [...]*place{&a, &b} {
		if where := p.at(*at); where != 0 {
			*at = where
		}
	}
	switch {
	case a == several || b == several || a.same(b):
		return false
	case a.kind() == placeAddress && b.kind() == placeAddress:
		return (a^b)&placeScope == 0
	case a.kind() == placeAddress:
		return p.get(b.in(a)) != 0
	case b.kind() == placeAddress:
		return p.get(a.in(b)) != 0
	}
	return a.kind() == b.kind()
}
