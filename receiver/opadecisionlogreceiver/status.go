package opadecisionlogreceiver

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/opa"
	"github.com/meshaudit/meshaudit/internal/upload"
)

// maxKnown bounds the activations that are remembered, and the OPAs whose
// counters are. Beyond it all are forgotten, and reported once more with the
// evidence ids that they had.
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

// dropped remembers what each OPA counted last of the decisions that it dropped.
type dropped struct {
	mu   sync.Mutex
	last map[string]counted // by labels.id
}

type counted struct {
	opa.Dropped
	restarts int // that were seen
	at       time.Time
}

// gaps are what was dropped since the last report. Of an OPA that was not heard
// before it is all since it was started: what it dropped while nobody listened
// must not be missed. A report that is repeated gives the same gaps.
func (d *dropped) gaps(now opa.Dropped, at time.Time) (counted, []evidence.Gap) {
	d.mu.Lock()
	defer d.mu.Unlock()
	last, heard := d.last[now.Node]
	if last.Restarted(now) {
		last.Dropped = opa.Dropped{}
		last.restarts++
	}
	since := at
	if heard {
		since = last.at
	}
	var gaps []evidence.Gap
	for _, l := range last.Losses(now) {
		gaps = append(gaps, evidence.Gap{
			Source: evidence.SourceOPA, Reporter: evidence.Reporter{Node: now.Node}, Reason: l.Reason,
			Position: fmt.Sprintf("gap/%s/%s/%d/%d-%d", now.Node, l.Reason, last.restarts, l.From, l.To),
			Count:    int64(l.Decisions), Since: since.UnixNano(),
		})
	}
	return counted{now, last.restarts, at}, gaps
}

func (d *dropped) add(c counted) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last == nil || len(d.last) > maxKnown {
		d.last = make(map[string]counted)
	}
	d.last[c.Node] = c
}

// report takes one report of OPA's status plugin.
func (r *opaReceiver) report(w http.ResponseWriter, req *http.Request) {
	var offered []string
	var counters []counted
	format := upload.Format{
		Source: evidence.SourceOPAStatus,
		Decode: func(report []byte) (upload.Decoded, error) {
			all, drops, err := opa.DecodeStatus(report)
			if err != nil {
				return upload.Decoded{}, err
			}
			d := upload.Decoded{Evidence: all[:0]}
			for _, e := range all {
				if !r.known.has(e.Position) {
					d.Evidence, offered = append(d.Evidence, e), append(offered, e.Position)
				}
			}
			var c counted
			c, d.Gaps = r.dropped.gaps(drops, time.Now())
			counters = append(counters, c)
			return d, nil
		},
		Kept: opa.StatusKept,
	}
	if r.Take(w, req, &format) {
		r.known.add(offered)
		for _, c := range counters {
			r.dropped.add(c)
		}
	}
}
