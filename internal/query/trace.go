package query

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/seal"
)

// Trace is what was done under one trace id, as a tree of calls.
type Trace struct {
	ID    pcommon.TraceID
	Calls []*Call // that nobody in the trace made, in the order in which they began
}

// Call is an action of a trace and what it led to.
type Call struct {
	Record
	ID    string // of the record
	Calls []*Call
	// ByTime: no span says from which call this one was made. It began while that one was
	// under way, at the workload that it called.
	ByTime bool
	Said   []*Record // what amends the record, and findings that rest on it, as stated last
}

// End is when it was over; of what has no duration, when it began.
func (c *Call) End() time.Time { return c.Time.Add(time.Duration(c.number(semconv.MeshDuration))) }

// maxTraceRecords bounds what is kept of a trace: of longer ones only the beginning is told.
const maxTraceRecords = 100_000

// TraceOf finds the trace of an id: a trace id, or a record's or piece of evidence's, or the
// beginning of one.
func TraceOf(ctx context.Context, store seal.Store, origins []Glob, id string) (t pcommon.TraceID, err error) {
	if decodeID(t[:], id) {
		return t, nil
	}
	found := map[pcommon.TraceID]string{}
	untraced := ""
	q := Query{Origins: origins, IDs: []string{id}}
	_, err = q.Run(ctx, store, func(r *Record) error {
		whole := cmp.Or(r.Str(semconv.AuditRecordID), r.Str(semconv.EvidenceID))
		switch {
		case !strings.HasPrefix(whole, id): // it amends the record
		case r.TraceID.IsEmpty():
			untraced = whole
		default:
			found[r.TraceID] = whole
		}
		return nil
	})
	switch {
	case len(found) == 1:
		for t = range found {
			return t, nil // what is damaged is told by who reads the trace
		}
	case err != nil:
		return t, err
	case len(found) > 1:
		return t, fmt.Errorf("%s is the beginning of ids in %d traces: write more of it", id, len(found))
	case untraced != "":
		return t, fmt.Errorf("%s names no trace id: meshaudit query STORE --id %s shows it", untraced, id)
	}
	return t, fmt.Errorf("there is no trace, record or evidence %s", id)
}

// ReadTrace reads what was done under a trace id. Which call led to which the spans of the
// evidence say, which is sealed beside the records; else parties and time do.
// Otherwise see Query.Run for the errors; the tree is of what could be read. Without
// records it has no calls.
func ReadTrace(ctx context.Context, store seal.Store, origins []Glob, id pcommon.TraceID) (*Trace, error) {
	tr := &tree{parents: map[pcommon.SpanID]pcommon.SpanID{}, evidence: map[string]pcommon.SpanID{}, byID: map[string]*Call{}}
	q := Query{Origins: origins, Traces: []pcommon.TraceID{id}, Events: []Glob{{}}, Limit: maxTraceRecords}
	q.Events[0], _ = ParseGlob("*")
	_, err := q.Run(ctx, store, func(r *Record) error {
		tr.add(r)
		return nil
	})
	return &Trace{ID: id, Calls: tr.grow()}, err
}

// tree is a trace as it is read.
type tree struct {
	parents  map[pcommon.SpanID]pcommon.SpanID // of the spans that evidence tells of
	evidence map[string]pcommon.SpanID         // on which a piece of it stands, by id
	calls    []*Call
	byID     map[string]*Call
	said     []*Record
}

func (tr *tree) add(r *Record) {
	if id := r.Str(semconv.EvidenceID); id != "" {
		var above pcommon.SpanID
		if r.Event == EventSpan {
			above = r.Span.ParentSpanID()
		} else {
			decodeID(above[:], r.Str(semconv.EvidenceParentSpanID))
		}
		tr.evidence[id] = r.SpanID
		if !above.IsEmpty() && above != r.SpanID {
			tr.parents[r.SpanID] = above
		}
		return
	}
	id := r.Str(semconv.AuditRecordID)
	if id == "" {
		return
	}
	kept := *r // its batch is decoded anew for each
	switch r.Event {
	case semconv.EventAmendment, semconv.EventFinding:
		tr.said = append(tr.said, &kept)
	default:
		if tr.byID[id] == nil { // else it was handed on twice
			c := &Call{Record: kept, ID: id}
			tr.byID[id] = c
			tr.calls = append(tr.calls, c)
		}
	}
}

// grow joins the calls, and gives those that none led to.
func (tr *tree) grow() (roots []*Call) {
	slices.SortFunc(tr.calls, func(a, b *Call) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID)) })
	// Spans at which something was called, and who was.
	called := map[pcommon.SpanID][]*Call{}
	for _, c := range tr.calls {
		for _, s := range tr.spans(c, "callee") {
			called[s] = append(called[s], c)
		}
	}
	parent := map[*Call]*Call{}
	for _, c := range tr.calls {
		from, byTime := tr.madeFrom(c, called), false
		if from == nil {
			from, byTime = tr.underWay(c), true
		}
		for above := from; above != nil; above = parent[above] {
			if above == c { // clocks that are apart made it lead to itself
				from = nil
				break
			}
		}
		if from == nil {
			roots = append(roots, c)
			continue
		}
		parent[c], c.ByTime = from, byTime
		from.Calls = append(from.Calls, c)
	}
	for i, r := range tr.said {
		if id := r.Str(semconv.FindingID); id != "" && slices.ContainsFunc(tr.said[i+1:], func(later *Record) bool { return later.Str(semconv.FindingID) == id }) {
			continue // it is stated again, with its count
		}
		about := []string{r.Str(semconv.MeshAmends)}
		if v, ok := r.Attributes.Get(semconv.FindingRecords); ok && v.Type() == pcommon.ValueTypeSlice {
			for _, id := range v.Slice().All() {
				about = append(about, id.AsString())
			}
		}
		for _, id := range about {
			if c := tr.byID[id]; c != nil {
				c.Said = append(c.Said, r)
			}
		}
	}
	return roots
}

// spans are those on which a call's evidence of a role stands.
func (tr *tree) spans(c *Call, role string) (all []pcommon.SpanID) {
	v, ok := c.Attributes.Get(semconv.MeshAttestations)
	if !ok || v.Type() != pcommon.ValueTypeSlice {
		return nil
	}
	for _, a := range v.Slice().All() {
		if a.Type() != pcommon.ValueTypeMap {
			continue
		}
		id, _ := a.Map().Get("id")
		if as, ok := a.Map().Get("role"); !ok || as.AsString() != role {
			continue
		}
		if s := tr.evidence[id.AsString()]; !s.IsEmpty() && !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

// maxClimb bounds the way up from a span.
const maxClimb = 64

// madeFrom finds the call from which spans lead to c: up from the caller's, else from the
// callee's.
func (tr *tree) madeFrom(c *Call, called map[pcommon.SpanID][]*Call) *Call {
	for _, role := range [...]string{"caller", "callee"} {
		for _, s := range tr.spans(c, role) {
			for range maxClimb {
				for _, above := range called[s] {
					if above != c && goesOn(above, c) != apart {
						return above
					}
				}
				var more bool
				if s, more = tr.parents[s]; !more {
					break
				}
			}
		}
	}
	return nil
}

// underWay finds the call that was under way at c's caller when c began, or may have been if
// it does not say how long it took: of several the last to begin.
func (tr *tree) underWay(c *Call) (from *Call) {
	for _, above := range tr.calls {
		over := above.number(semconv.MeshDuration) != 0 && above.End().Before(c.Time)
		if above != c && !above.Time.After(c.Time) && !over && goesOn(above, c) == same {
			from = above
		}
	}
	return from
}

// Whether one call was made where another went to.
type likeness int

const (
	unknown likeness = iota
	same
	apart
)

// goesOn compares whom a call went to with whom another came from, by the strongest thing that
// both state.
func goesOn(above, c *Call) likeness {
	for _, suffix := range [...]string{semconv.SuffixSPIFFEID, semconv.SuffixPodName, semconv.SuffixWorkloadName} {
		to, from := above.Str(semconv.DestinationPrefix+suffix), c.Str(semconv.SourcePrefix+suffix)
		switch {
		case to == "" || from == "":
		case to == from:
			return same
		default:
			return apart
		}
	}
	return unknown
}

// decodeID reads a whole id in hexadecimal.
func decodeID(id []byte, s string) bool {
	if len(s) != 2*len(id) {
		return false
	}
	_, err := hex.Decode(id, []byte(s))
	return err == nil
}

func (r *Record) number(name string) int64 {
	if v, ok := r.Attributes.Get(name); ok && v.Type() == pcommon.ValueTypeInt {
		return v.Int()
	}
	return 0
}
