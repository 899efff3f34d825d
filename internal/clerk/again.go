package clerk

import (
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// maxRefused bounds the evidence that is remembered to have been refused, 32
// bytes each.
const maxRefused = 10_000

// A refusedProofs remembers evidence whose certificates were verified here and
// that the next consumer refused: a receiver that is told no offers what we have
// written on already once more, and that would be taken for anybody's word. What
// has the same id has the same content.
type refusedProofs struct {
	some atomic.Bool
	mu   sync.Mutex
	ids  map[evidence.ID]bool
}

func (r *refusedProofs) add(ids []evidence.ID) {
	if len(ids) == 0 {
		return
	}
	r.some.Store(true)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ids == nil || len(r.ids)+len(ids) > maxRefused {
		r.ids = make(map[evidence.ID]bool)
	}
	for _, id := range ids[:min(len(ids), maxRefused)] {
		r.ids[id] = true
	}
}

// has gives the id that a record bears, if it was refused under that. Whether it
// is that record its content must show.
func (r *refusedProofs) has(m pcommon.Map) (id evidence.ID, ok bool) {
	if !r.some.Load() {
		return id, false
	}
	v, ok := m.Get(semconv.EvidenceID)
	if !ok || !fromHex(id[:], v.Str()) {
		return id, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return id, r.ids[id]
}
