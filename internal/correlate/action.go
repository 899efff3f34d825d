package correlate

import (
	"slices"
	"unsafe"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// action is what is kept of a record that has left: to what late evidence
// belongs, and what that is compared with. It lives as long as a piece points to
// it, or the workflow of its trace.
type action struct {
	id      RecordID
	start   int64
	members [7]uint64 // hashes of the evidence ids that it cites, 0: no more
	more    []uint64  // when there are more
	stated  stated
	// of before a restart: what else was known then is not
	recovered bool
	state     State
	reason    string

	users  uint32 // pieces that point here, and the workflow
	next   ref    // the next record of its trace that left
	draft  uint32 // the last of its drafts in this pass: its number and one
	callee bool   // has the callee's report
	traced bool   // is kept with its trace
	// hashes of its parties' SPIFFE IDs, as its strongest pieces state them; 0: not
	// known
	source, destination uint64
}

// stated is what a record and its amendments state of what late evidence is
// compared with.
type stated struct {
	source, destination           *spiffeid.ID // shared; nil: not known
	decided                       evidence.Decision
	dryRun                        bool   // decided was not enforced
	initiator                     uint64 // hash of who it is, 0: not known
	sourceProof, destinationProof evidence.Proof
	upshot                        Upshot
}

// actionBytes is what an action costs.
const actionBytes = int(unsafe.Sizeof(action{}))

// has says whether a record or its amendments cite the evidence with this hash.
func (a *action) has(id uint64) bool {
	return slices.Contains(a.members[:], id) || slices.Contains(a.more, id)
}

// awaits says whether a record is to be amended by who set its trace going. What
// one from before a restart names may rest on evidence that was not read again.
func (a *action) awaits(who uint64) bool {
	return a.stated.initiator != who && !(a.recovered && a.stated.initiator != 0)
}

// otherwise says whether two records are of other parties.
func (a *action) otherwise(b *action) bool {
	return differ(a.source, b.source) || differ(a.destination, b.destination)
}

// any says whether f is true for a member.
func (a *action) any(f func(id uint64) bool) bool {
	for _, id := range a.members {
		if id != 0 && f(id) {
			return true
		}
	}
	return slices.ContainsFunc(a.more, f)
}

// cite adds a member; it says how many more bytes that takes.
func (a *action) cite(id uint64) (bytes int) {
	if a.has(id) {
		return 0
	}
	if i := slices.Index(a.members[:], 0); i >= 0 {
		a.members[i] = id
		return 0
	}
	a.more = append(a.more, id)
	return int(unsafe.Sizeof(id))
}

func (a *action) bytes() int { return actionBytes + len(a.more)*int(unsafe.Sizeof(a.start)) }

// value is the ID that is kept, zero for none.
func value(id *spiffeid.ID) spiffeid.ID {
	if id == nil {
		return spiffeid.ID{}
	}
	return *id
}

func (c *Correlator) addAction() ref {
	c.bytes += actionBytes
	return c.actions.add()
}

// point makes p point to the action r.
func (c *Correlator) point(p *piece, r ref) {
	if p.action == r {
		return
	}
	if r != 0 {
		c.actions.at(r).users++
	}
	c.abandon(p.action)
	p.action = r
}

// abandon takes one user from an action. It is not gone before bury: its records
// may have to be written.
func (c *Correlator) abandon(r ref) {
	if r == 0 {
		return
	}
	a := c.actions.at(r)
	if a.users--; a.users == 0 {
		c.orphans = append(c.orphans, r)
	}
}

// bury removes the actions that nothing points to.
func (c *Correlator) bury() {
	for _, r := range c.orphans {
		c.bytes -= c.actions.at(r).bytes()
		c.actions.remove(r)
	}
	c.orphans = c.orphans[:0]
}

// ref names a value in an arena; 0 is none.
type ref uint32

// arena keeps values of which each lives for as long as it happens to be needed,
// in slabs, so that they do not move. It does not shrink until it is empty.
type arena[T any] struct {
	slabs []*[arenaSlab]T
	free  []ref
	used  int
}

const arenaSlab = 256

func (a *arena[T]) at(r ref) *T {
	if r == 0 {
		return nil
	}
	return &a.slabs[(r-1)/arenaSlab][(r-1)%arenaSlab]
}

// add makes room for a zero value.
func (a *arena[T]) add() ref {
	if len(a.free) == 0 {
		first := ref(len(a.slabs) * arenaSlab)
		a.slabs = append(a.slabs, new([arenaSlab]T))
		for i := ref(arenaSlab); i > 0; i-- {
			a.free = append(a.free, first+i)
		}
	}
	r := a.free[len(a.free)-1]
	a.free = a.free[:len(a.free)-1]
	a.used++
	return r
}

func (a *arena[T]) remove(r ref) {
	var zero T
	*a.at(r) = zero
	a.free = append(a.free, r)
	if a.used--; a.used == 0 && len(a.slabs) > maxSpare {
		*a = arena[T]{}
	}
}
