package correlate

import (
	"slices"
	"sync"
)

// outbox holds records in order until they are handed over.
type outbox struct {
	mu      sync.Mutex
	records []*Record
	away    map[RecordID]bool // of what take gave, the records that they are or amend
	bytes   int               // what is away included
}

// add takes the records that were written.
func (o *outbox) add(drafts []draft) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range drafts {
		if r := drafts[i].record; r != nil {
			o.records = append(o.records, r)
			o.bytes += r.bytes()
		}
	}
}

func (o *outbox) size() (records, bytes int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.records), o.bytes
}

// take gives the oldest records, at most limit, and what they cost, until the
// batch is back. What amends a record that is away stays, and so follows it.
func (o *outbox) take(limit int) (batch []*Record, bytes int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var stay []*Record
	n := 0
	for ; n < len(o.records) && len(batch) < limit; n++ {
		if r := o.records[n]; o.away[r.amended()] {
			stay = append(stay, r)
		} else {
			batch = append(batch, r)
		}
	}
	n -= len(stay)
	clear(o.records[:n])
	o.records = o.records[n:]
	copy(o.records, stay)
	for _, r := range batch {
		o.away[r.amended()] = true
		bytes += r.bytes()
	}
	return batch, bytes
}

// back ends a take. Records that were refused are the oldest again.
func (o *outbox) back(batch []*Record, bytes int, refused bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bytes -= bytes
	for _, r := range batch {
		delete(o.away, r.amended())
		if refused {
			o.bytes += r.bytes()
		}
	}
	if refused {
		o.records = slices.Insert(o.records, 0, batch...)
	}
}

// drop gives up the oldest record that is not away.
func (o *outbox) drop() (dropped bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.records) == 0 {
		return false
	}
	o.bytes -= o.records[0].bytes()
	o.records[0] = nil
	o.records = o.records[1:]
	return true
}
