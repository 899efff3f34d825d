package findings

import (
	"encoding/binary"
	"time"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/evidence"
)

// waits are of requests on which nobody decided and somebody may yet: until the
// decision comes or the wait is over. OPA uploads its decisions every ten minutes,
// and so there may be a million of them: each takes 64 bytes, and up to 40 more to be
// found by. There is no room for more than max, nor for more subjects than
// maxSubjects.
type waits struct {
	max, maxSubjects int
	n                int
	pages            []*[waitsPage]wait
	slots            map[uint64]uint32 // by record
	free             uint32
	first, last      uint32 // in the order in which they began

	subjects  []subject // the first is none
	unused    []uint32
	bySubject map[string]uint32
}

// wait is one of them, in a slot; slots are counted from 1.
type wait struct {
	record     correlate.RecordID
	trace      evidence.TraceID
	due        uint32 // unix seconds
	subject    uint32 // with doubtful
	prev, next uint32
}

// subject is what those of one pair of workloads and one pattern of paths state.
type subject struct {
	Finding
	waits int
}

const (
	waitsPage = 1024
	doubtful  = 1 << 31 // the record is ambiguous
)

func newWaits(limit, subjects int) waits {
	return waits{
		max: limit, maxSubjects: subjects, slots: map[uint64]uint32{},
		subjects: make([]subject, 1), bySubject: map[string]uint32{},
	}
}

func (w *waits) slot(n uint32) *wait { return &w.pages[(n-1)/waitsPage][(n-1)%waitsPage] }

// key is as good as the whole id, which is a hash; find compares the rest.
func (*waits) key(id correlate.RecordID) uint64 { return binary.LittleEndian.Uint64(id[:]) }

func (w *waits) find(id correlate.RecordID) uint32 {
	if n := w.slots[w.key(id)]; n != 0 && w.slot(n).record == id {
		return n
	}
	return 0
}

// add begins a wait, of the first record that f cites. It is false if there is no
// room.
func (w *waits) add(f Finding, due time.Time) bool {
	id := f.Records[0]
	if w.slots[w.key(id)] != 0 {
		return true
	}
	s := w.bySubject[f.Subject]
	if w.n >= w.max || s == 0 && len(w.bySubject) >= w.maxSubjects {
		return false
	}
	if s == 0 {
		if len(w.unused) == 0 {
			w.subjects, w.unused = append(w.subjects, subject{}), append(w.unused, uint32(len(w.subjects)))
		}
		s = w.unused[len(w.unused)-1]
		w.unused = w.unused[:len(w.unused)-1]
		w.subjects[s].Finding, w.bySubject[f.Subject] = f, s
	}
	w.subjects[s].waits++
	if w.free == 0 {
		w.pages = append(w.pages, new([waitsPage]wait))
		for n := uint32(len(w.pages) * waitsPage); n > uint32((len(w.pages)-1)*waitsPage); n-- {
			w.slot(n).next, w.free = w.free, n
		}
	}
	n := w.free
	p := w.slot(n)
	w.free = p.next
	*p = wait{record: id, trace: f.TraceID, due: uint32(due.Add(time.Second - 1).Unix()), subject: s, prev: w.last}
	if f.Doubt != "" {
		p.subject |= doubtful
	}
	if w.last == 0 {
		w.first = n
	} else {
		w.slot(w.last).next = n
	}
	w.last = n
	w.slots[w.key(id)] = n
	w.n++
	return true
}

// doubt notes that a record for which it is waited is ambiguous.
func (w *waits) doubt(id correlate.RecordID) {
	if n := w.find(id); n != 0 {
		w.slot(n).subject |= doubtful
	}
}

// drop ends the wait for a record, if there is one.
func (w *waits) drop(id correlate.RecordID) {
	if n := w.find(id); n != 0 {
		w.remove(n)
	}
}

func (w *waits) remove(n uint32) {
	p := w.slot(n)
	if p.prev == 0 {
		w.first = p.next
	} else {
		w.slot(p.prev).next = p.next
	}
	if p.next == 0 {
		w.last = p.prev
	} else {
		w.slot(p.next).prev = p.prev
	}
	s := p.subject &^ doubtful
	if w.subjects[s].waits--; w.subjects[s].waits == 0 {
		delete(w.bySubject, w.subjects[s].Subject)
		w.subjects[s], w.unused = subject{}, append(w.unused, s)
	}
	delete(w.slots, w.key(p.record))
	*p = wait{next: w.free}
	w.free = n
	w.n--
}

// over takes the first wait that is over, false if none is. That was First.
func (w *waits) over(now time.Time) (f Finding, ok bool) {
	if w.first == 0 {
		return f, false
	}
	p := w.slot(w.first)
	if int64(p.due) > now.Unix() {
		return f, false
	}
	f = w.subjects[p.subject&^doubtful].Finding
	f.Records, f.TraceID, f.Doubt = []correlate.RecordID{p.record}, p.trace, ""
	if p.subject&doubtful != 0 {
		f.Doubt = ambiguous
	}
	f.First = time.Unix(int64(p.due), 0)
	w.remove(w.first)
	return f, true
}
