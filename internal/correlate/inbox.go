package correlate

import (
	"sync"
	"time"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// parcel is evidence of one Add, hashed and packed without any lock.
type parcel struct {
	now       int64
	pieces    []piece // their content as it lies in content
	content   []byte
	unrelated int
}

// parcels that were looked at, for the next.
var parcels = sync.Pool{New: func() any { return new(parcel) }}

// parcel makes one of the evidence in a batch for which mine holds, or of all.
func (h hasher) parcel(now time.Time, batch []evidence.Evidence, mine func(i int) bool) *parcel {
	p := parcels.Get().(*parcel)
	*p = parcel{now: now.UnixNano(), pieces: p.pieces[:0], content: p.content[:0]}
	for i := range batch {
		if mine != nil && !mine(i) {
			continue
		}
		e := &batch[i]
		at := placeOf(e)
		if at == noPlace {
			p.unrelated++
			continue
		}
		p.pieces = append(p.pieces, piece{})
		q := &p.pieces[len(p.pieces)-1]
		h.read(q, e, at)
		q.content = uint32(len(p.content))
		p.content = pack(p.content, e)
		q.size = uint32(len(p.content)) - q.content
	}
	return p
}

// maxInbox bounds the pieces in the inbox: beyond it Add waits for the pass
// that is under way.
const maxInbox = 1 << 14

// inbox holds parcels until somebody makes a pass.
type inbox struct {
	mu      sync.Mutex
	taken   sync.Cond
	parcels []*parcel
	pieces  int
}

func (in *inbox) init() { in.taken.L = &in.mu }

func (in *inbox) put(p *parcel) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.pieces > 0 && in.pieces+len(p.pieces) > maxInbox {
		in.taken.Wait()
	}
	in.parcels = append(in.parcels, p)
	in.pieces += len(p.pieces)
}

func (in *inbox) waiting() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.parcels) > 0
}

// take moves all parcels to dst.
func (in *inbox) take(dst []*parcel) []*parcel {
	in.mu.Lock()
	defer in.mu.Unlock()
	dst = append(dst, in.parcels...)
	clear(in.parcels)
	in.parcels, in.pieces = in.parcels[:0], 0
	in.taken.Broadcast()
	return dst
}
