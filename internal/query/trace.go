package query

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/meshaudit/meshaudit/internal/evidence"
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
	ID     string // of the record
	Calls  []*Call
	Parent *Call // that led to it, nil if none did
	// ByTime: no span says from which call this one was made. It began while that one was
	// under way, at the workload that it called.
	ByTime bool
	Said   []*Record // what amends the record, and findings that rest on it, as stated last

	to, from parties
	above    *Call // Parent or what led to that, nearer to the first: see first
}

// End is when it was over; of what has no duration, when it began.
func (c *Call) End() time.Time { return c.Time.Add(time.Duration(c.Int(semconv.MeshDuration))) }

// maxTraceRecords bounds what is kept of a trace.
const maxTraceRecords = 100_000

// TraceOf finds the trace of an id: a trace id, or a record's or piece of evidence's, or the
// beginning of one.
func TraceOf(ctx context.Context, store seal.Store, origins []Glob, id string) (t pcommon.TraceID, err error) {
	if decodeID(t[:], id) && !t.IsEmpty() {
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
// Otherwise see Query.Run for the errors; the tree is of what could be read, and it is an error
// if that is not all because it is too much. Without records it has no calls.
func ReadTrace(ctx context.Context, store seal.Store, origins []Glob, id pcommon.TraceID) (*Trace, error) {
	return readBeginning(ctx, store, origins, id, maxTraceRecords)
}

func readBeginning(ctx context.Context, store seal.Store, origins []Glob, id pcommon.TraceID, most int) (*Trace, error) {
	tr := &tree{parents: map[pcommon.SpanID]pcommon.SpanID{}, evidence: map[string]pcommon.SpanID{}, byID: map[string]*Call{}}
	q := Query{Origins: origins, Traces: []pcommon.TraceID{id}, Events: []Glob{{}}, Limit: most}
	q.Events[0], _ = ParseGlob("*")
	stats, err := q.Run(ctx, store, func(r *Record) error {
		tr.add(r)
		return nil
	})
	if stats.Limited {
		err = errors.Join(err, fmt.Errorf("trace %s has %d records and pieces of evidence or more: the rest is not shown", id, most))
	}
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
	switch r.Event {
	case semconv.EventAmendment, semconv.EventFinding:
		tr.said = append(tr.said, r.clone())
	default:
		if tr.byID[id] == nil { // else it was handed on twice
			c := &Call{Record: *r.clone(), ID: id, to: partiesOf(r, semconv.DestinationPrefix), from: partiesOf(r, semconv.SourcePrefix)}
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
		for _, s := range tr.spans(c, evidence.RoleCallee) {
			if n := len(called[s]); n == 0 || called[s][n-1] != c {
				called[s] = append(called[s], c)
			}
		}
	}
	began := 0
	open := underWay{}
	for _, c := range tr.calls {
		for ; began < len(tr.calls) && !tr.calls[began].Time.After(c.Time); began++ {
			open.add(tr.calls[began])
		}
		from, byTime := tr.madeFrom(c, called), false
		if from == nil {
			from, byTime = open.at(c), true
		}
		if from == nil || from.first() == c { // clocks that are apart made it lead to itself
			roots = append(roots, c)
			continue
		}
		c.Parent, c.above, c.ByTime = from, from, byTime
		from.Calls = append(from.Calls, c)
	}
	last := map[string]*Record{} // findings, as stated last
	for _, r := range tr.said {
		if id := r.Str(semconv.FindingID); id != "" {
			last[id] = r
		}
	}
	for _, r := range tr.said {
		if id := r.Str(semconv.FindingID); id != "" && last[id] != r {
			continue // it is stated again, with its count
		}
		about := []string{r.Str(semconv.MeshAmends)}
		for _, id := range r.Slice(semconv.FindingRecords).All() {
			about = append(about, id.AsString())
		}
		for _, id := range about {
			if c := tr.byID[id]; c != nil && (len(c.Said) == 0 || c.Said[len(c.Said)-1] != r) {
				c.Said = append(c.Said, r)
			}
		}
	}
	return roots
}

// first is the call at the top of what led to c. It halves the way up for the next who asks.
func (c *Call) first() *Call {
	for c.above != nil {
		if c.above.above != nil {
			c.above = c.above.above
		}
		c = c.above
	}
	return c
}

// spans are those on which a call's evidence of a role stands.
func (tr *tree) spans(c *Call, role evidence.Role) (all []pcommon.SpanID) {
	for _, a := range c.Slice(semconv.MeshAttestations).All() {
		if a.Type() != pcommon.ValueTypeMap {
			continue
		}
		id, _ := a.Map().Get(semconv.AttestationID)
		if as, ok := a.Map().Get(semconv.AttestationRole); !ok || as.AsString() != role.String() {
			continue
		}
		if s := tr.evidence[id.AsString()]; !s.IsEmpty() {
			all = append(all, s)
		}
	}
	return all
}

const (
	maxClimb = 64   // spans on the way up from one
	maxAlike = 1000 // spans and calls that are looked at to find the one that led to a call
)

// madeFrom finds the call from which spans lead to c: up from the caller's, else from the
// callee's. On its callee's own span may stand other attempts of c as well, so there the
// parties must agree.
func (tr *tree) madeFrom(c *Call, called map[pcommon.SpanID][]*Call) *Call {
	own := tr.spans(c, evidence.RoleCallee)
	left := maxAlike
	for _, from := range [...][]pcommon.SpanID{tr.spans(c, evidence.RoleCaller), own} {
		for _, s := range from {
			for range maxClimb {
				shared := slices.Contains(own, s)
				if left--; left < 0 {
					return nil
				}
				for _, above := range called[s] {
					if left--; left < 0 {
						return nil
					}
					if like := goesOn(above, c); above != c && (like == same || like == unknown && !shared) {
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

// underWay has calls by whom they went to, those that began last at the end, without such as
// were over before the last to begin.
type underWay [len(partySuffixes)]map[string][]*Call

func (u *underWay) add(c *Call) {
	for i, to := range c.to {
		if to == "" {
			continue
		}
		if u[i] == nil {
			u[i] = map[string][]*Call{}
		}
		u[i][to] = append(u[i][to], c)
	}
}

// at finds the call that was under way at c's caller when c began, or may have been if it does
// not say how long it took: of several the last to begin. Later calls of at are about calls that
// begin no earlier.
func (u *underWay) at(c *Call) (from *Call) {
	over := func(above *Call) bool {
		return above.Int(semconv.MeshDuration) != 0 && above.End().Before(c.Time)
	}
	left := maxAlike
	for i, who := range c.from {
		all := u[i][who]
		for len(all) > 0 && over(all[len(all)-1]) {
			all = all[:len(all)-1]
			u[i][who] = all
		}
		for _, above := range slices.Backward(all) {
			if left--; left < 0 {
				return from
			}
			if above != c && !over(above) && goesOn(above, c) == same {
				if from == nil || above.Time.After(from.Time) || above.Time.Equal(from.Time) && above.ID > from.ID {
					from = above
				}
				break
			}
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

// parties are what a record states of one side, the strongest first; "" is nothing.
type parties [len(partySuffixes)]string

var partySuffixes = [...]string{semconv.SuffixSPIFFEID, semconv.SuffixPodName, semconv.SuffixWorkloadName}

func partiesOf(r *Record, prefix string) (p parties) {
	for i, suffix := range partySuffixes {
		p[i] = r.Str(prefix + suffix)
	}
	return p
}

// goesOn compares whom a call went to with whom another came from, by the strongest thing that
// both state.
func goesOn(above, c *Call) likeness {
	for i, to := range above.to {
		switch from := c.from[i]; {
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
