// Package erasure finds what belongs to a record or a person in sealed logs, and
// carries the request to erase it to whoever writes the log.
//
// It promises that a plan names every sealed copy of what was asked for: the
// records, what amends them and, unless told otherwise, the evidence that they
// cite. A request names batches by their record roots, so that it can be carried
// out later, and on no other batch.
package erasure

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/meshaudit/meshaudit/internal/query"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/seal"
)

// Plan is what is to be erased, by log.
type Plan struct {
	Logs    []Log
	Records int // audit records, amendments included, and other records of a user
	Pieces  int // of evidence
}

// Log is what is to be erased of one log.
type Log struct {
	Origin   string
	Erasures []seal.Erasure // by entry
}

// Select says what to look for. At least one of its lists must name something.
type Select struct {
	IDs          []string // of records or evidence, or their beginnings
	Users        []string // values of user.id
	KeepEvidence bool
}

// Make finds what is selected in a store. show is called once for every record
// that is to be erased, in the order in which they were found.
func (s Select) Make(ctx context.Context, store seal.Store, show func(*query.Record) error) (*Plan, error) {
	p := &plan{erase: map[string]map[uint64]*seal.Erasure{}, ids: map[string]bool{}, show: show}
	begin := make([]string, len(s.IDs)) // the whole id that each stands for
	find := func(q *query.Query, wanted func(*query.Record) bool) error {
		_, err := q.Run(ctx, store, func(r *query.Record) error {
			if !wanted(r) {
				return nil
			}
			return p.add(r, s.KeepEvidence)
		})
		return err
	}
	if len(s.IDs) > 0 {
		named := func(r *query.Record) error {
			for _, have := range [...]string{r.Str(semconv.AuditRecordID), r.Str(semconv.EvidenceID)} {
				for i, id := range s.IDs {
					switch {
					case !strings.HasPrefix(have, id):
					case begin[i] == "":
						begin[i] = have
					case begin[i] != have:
						return fmt.Errorf("%s and %s begin with %s: give more digits", begin[i], have, id)
					}
				}
			}
			return nil
		}
		q := &query.Query{IDs: s.IDs}
		if _, err := q.Run(ctx, store, named); err != nil {
			return nil, err
		}
		for i, whole := range begin {
			if whole == "" {
				return nil, fmt.Errorf("no record %s in this store: it was never here, or is erased already", s.IDs[i])
			}
			p.ids[whole] = false
		}
	}
	if len(s.Users) > 0 {
		if err := find(&query.Query{Users: s.Users, Events: everything}, func(*query.Record) bool { return true }); err != nil {
			return nil, err
		}
	}
	// What is found cites and names more, until nothing new is found.
	for {
		var next []string
		for id, done := range p.ids {
			if !done {
				next = append(next, id)
				p.ids[id] = true
			}
		}
		if len(next) == 0 {
			return p.done(), nil
		}
		slices.Sort(next)
		if err := find(&query.Query{IDs: next, Events: everything}, func(r *query.Record) bool {
			return p.ids[r.Str(semconv.AuditRecordID)] || p.ids[r.Str(semconv.MeshAmends)] || p.ids[r.Str(semconv.EvidenceID)]
		}); err != nil {
			return nil, err
		}
	}
}

var everything = func() []query.Glob {
	g, err := query.ParseGlob("*")
	if err != nil {
		panic(err) // the pattern is good
	}
	return []query.Glob{g}
}()

// plan is a Plan in the making.
type plan struct {
	Plan
	erase map[string]map[uint64]*seal.Erasure
	ids   map[string]bool // to be erased; true: looked for
	show  func(*query.Record) error
}

func (p *plan) add(r *query.Record, keepEvidence bool) error {
	log := p.erase[r.Entry.Origin]
	if log == nil {
		log = map[uint64]*seal.Erasure{}
		p.erase[r.Entry.Origin] = log
	}
	e := log[r.Entry.Header.Entry]
	if e == nil {
		e = &seal.Erasure{Entry: r.Entry.Header.Entry, Root: r.Entry.Root}
		log[e.Entry] = e
	}
	position := r.Number - r.Entry.FirstRecord
	if slices.Contains(e.Positions, position) {
		return nil
	}
	e.Positions = append(e.Positions, position)
	want := func(id string) {
		if _, known := p.ids[id]; !known && id != "" {
			p.ids[id] = false
		}
	}
	want(r.Str(semconv.AuditRecordID))
	if r.Str(semconv.EvidenceID) != "" {
		p.Pieces++
	} else {
		p.Records++
	}
	if cited, ok := r.Attributes.Get(semconv.MeshAttestations); ok && !keepEvidence && cited.Type() == pcommon.ValueTypeSlice {
		for _, v := range cited.Slice().All() {
			if v.Type() != pcommon.ValueTypeMap {
				continue
			}
			if id, ok := v.Map().Get(semconv.AttestationID); ok {
				want(id.AsString())
			}
		}
	}
	return p.show(r)
}

func (p *plan) done() *Plan {
	for _, origin := range slices.Sorted(maps.Keys(p.erase)) {
		l := Log{Origin: origin}
		for _, e := range p.erase[origin] {
			slices.Sort(e.Positions)
			l.Erasures = append(l.Erasures, *e)
		}
		slices.SortFunc(l.Erasures, func(a, b seal.Erasure) int { return cmp.Compare(a.Entry, b.Entry) })
		p.Logs = append(p.Logs, l)
	}
	return &p.Plan
}
