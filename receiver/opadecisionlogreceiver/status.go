package opadecisionlogreceiver

import (
	"net/http"
	"sync"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/opa"
	"github.com/meshaudit/meshaudit/internal/upload"
)

// maxKnown bounds the activations that are remembered. Beyond it all are
// forgotten, and reported once more with the evidence ids that they had.
const maxKnown = 65536

// known remembers which activations were sealed: OPA reports with every poll
// what has not changed.
type known struct {
	mu        sync.Mutex
	positions map[string]struct{}
}

func (k *known) has(position string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.positions[position]
	return ok
}

func (k *known) add(positions []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.positions == nil || len(k.positions)+len(positions) > maxKnown {
		k.positions = make(map[string]struct{})
	}
	for _, p := range positions {
		k.positions[p] = struct{}{}
	}
}

// report takes one report of OPA's status plugin.
func (r *opaReceiver) report(w http.ResponseWriter, req *http.Request) {
	var offered []string
	format := upload.Format{
		Source: evidence.SourceOPAStatus,
		Decode: func(report []byte) ([]evidence.Evidence, error) {
			all, err := opa.DecodeStatus(report)
			news := all[:0]
			for _, e := range all {
				if !r.known.has(e.Position) {
					news, offered = append(news, e), append(offered, e.Position)
				}
			}
			return news, err
		},
		Kept: opa.StatusKept,
	}
	if r.Take(w, req, &format) {
		r.known.add(offered)
	}
}
