package correlate

import (
	"slices"
	"sync"
)

// outbox holds records in order until they are handed over.
type outbox struct {
	delivering sync.Mutex // held while records are handed over: keeps their order

	mu      sync.Mutex
	records []*Record
	bytes   int
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

// take gives the oldest records, at most limit.
func (o *outbox) take(limit int) []*Record {
	o.mu.Lock()
	defer o.mu.Unlock()
	batch := slices.Clone(o.records[:min(limit, len(o.records))])
	clear(o.records[:len(batch)])
	o.records = o.records[len(batch):]
	for _, r := range batch {
		o.bytes -= r.bytes()
	}
	return batch
}

func (o *outbox) putBack(batch []*Record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.records = slices.Insert(o.records, 0, batch...)
	for _, r := range batch {
		o.bytes += r.bytes()
	}
}
