package findings

import (
	"hash/maphash"
	"time"

	"github.com/meshaudit/meshaudit/internal/correlate"
)

// together is how close in time two holders must use a credential in turns.
const together = 10 * time.Minute

// credentials remembers which holders a certificate was used by. A credential
// is shared if one holder uses it, then another, then the first again, within
// together: a workload that moves (a rolling restart, a new node) takes its
// credential along and never comes back to the old place. Holders are nodes where
// those are known, since workloads of one node may get one credential from one
// agent; else pods; else addresses.
//
// Two generations bound it: what was not used for a whole generation is
// forgotten. A credential costs about 60 bytes.
type credentials struct {
	max          int
	seed         maphash.Seed
	newer, older map[uint64]use
	names        map[uint64]string // of holders of credentials that two have used
}

// use is who used a credential, and when: seconds since 1970.
type use struct {
	one, other         uint64 // holders; other is the one before one
	oneLast, otherLast uint32
}

func newCredentials(limit int) credentials {
	return credentials{max: max(limit, 1), seed: maphash.MakeSeed(), newer: map[uint64]use{}, older: map[uint64]use{}, names: map[uint64]string{}}
}

// use notes one use and says whether the credential is used by two at once, and
// by whom.
func (c *credentials) use(fingerprint, by string, now time.Time) (one, other string, shared bool) {
	if by == "" {
		return "", "", false
	}
	key, holder, at := maphash.String(c.seed, fingerprint), maphash.String(c.seed, by), uint32(now.Unix())
	u, ok := c.newer[key]
	if !ok {
		u = c.older[key]
	}
	switch {
	case u.one == holder || u.one == 0:
		u.one = holder
	case u.other == holder && at-u.otherLast <= uint32(together.Seconds()) && u.oneLast >= u.otherLast:
		// The first again, after another. Both names are said.
		shared = true
		one, other = by, c.names[u.one]
		u.one, u.other, u.otherLast = holder, u.one, u.oneLast
	default:
		u.one, u.other, u.otherLast = holder, u.one, u.oneLast
	}
	u.oneLast = at
	if u.other != 0 && len(c.names) < c.max {
		c.names[holder] = by
	}
	if !ok && len(c.newer) >= c.max {
		c.older, c.newer, c.names = c.newer, map[uint64]use{}, map[uint64]string{}
	}
	c.newer[key] = u
	if shared && other == "" {
		other = "another"
	}
	return one, other, shared
}

// holder is where a party runs, as exactly as it is known.
func holder(p *correlate.Party) string {
	w := &p.Workload
	switch {
	case w.Node != "":
		return "node " + w.Node
	case w.PodUID != "":
		return "pod " + w.PodUID
	case w.PodName != "":
		return "pod " + w.Namespace + "/" + w.PodName
	case p.Address != "":
		return "address " + p.Address
	}
	return ""
}
