package query

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/seal"
)

// VerdictNone asks for records on which no verdict is stated.
const VerdictNone = "none"

// Verdicts are the values that Query.Verdicts knows.
var Verdicts = []string{"allow", "deny", "error", "not_evaluated", VerdictNone}

// Query says which records are wanted. Within a field one match is enough,
// every field that is set must match. The zero Query finds every audit record.
type Query struct {
	// Since is included, Until is not; a zero time is no bound. A record
	// counts at its own time, or, if it states none, when it was sealed.
	Since, Until time.Time

	Origins  []Glob // of the logs to read
	Traces   []pcommon.TraceID
	From, To []Glob // the SPIFFE IDs of source and destination
	Paths    []Glob // see Record.Path
	Verdicts []string

	// Events are patterns for event names. None: every audit record, that
	// is, all events below "mesh." but mesh.evidence; if IDs are given,
	// every event.
	Events []Glob

	// IDs name records, records that they amend, or pieces of evidence:
	// lower-case hexadecimal, or the beginning of it.
	IDs []string

	// Changes ask for the decisions that were made under a change of their policy, or
	// may have been (policy.Change.MayGovern): the ids of its mesh.config.change, as IDs.
	Changes []string

	// PolicyOf asks for the changes of the policies by which records were or may have
	// been decided, up to then: the ids of those records, as IDs.
	PolicyOf []string

	Users     []string // values of user.id, exactly
	Decisions []string // ids that a policy engine gave its decisions, exactly

	Limit int // stop after this many records; 0: never

	whole      map[string]bool // of IDs, for Run
	beginnings []string        // the others
	reigns     []reign         // of Changes
	decisions  []decided
}

// Validate reports every fault of a query.
func (q *Query) Validate() error {
	var errs []error
	for _, v := range q.Verdicts {
		if !slices.Contains(Verdicts, v) {
			errs = append(errs, fmt.Errorf("%q is no verdict: there are %s", v, strings.Join(Verdicts, ", ")))
		}
	}
	if !q.Since.IsZero() && !q.Until.IsZero() && !q.Since.Before(q.Until) {
		errs = append(errs, fmt.Errorf("nothing lies between %s and %s: until must be after since", q.Since.Format(time.RFC3339), q.Until.Format(time.RFC3339)))
	}
	if q.Limit < 0 {
		errs = append(errs, fmt.Errorf("the limit must not be negative, got %d", q.Limit))
	}
	return errors.Join(errs...)
}

// idDigits is the length of a whole record or evidence id.
const idDigits = 64

// maySkip reports whether a batch's header rules out that it holds a match.
func (q *Query) maySkip(h *seal.Header) bool {
	if h.Kind != seal.KindBatch {
		return true
	}
	within := func(lo, hi uint64) bool {
		return (q.Since.IsZero() || hi >= uint64(q.Since.UnixNano())) && (q.Until.IsZero() || lo < uint64(q.Until.UnixNano()))
	}
	// A record without a time of its own counts when it was sealed, and the
	// header does not tell whether there is one beside others.
	timed := h.TimeMax != 0 && within(h.TimeMin, h.TimeMax)
	return !timed && !within(h.Sealed, h.Sealed)
}

// filterKeys are what a batch's filter is asked for: at least one key of every
// list must be there.
func (q *Query) filterKeys() (all [][]uint64) {
	var keys []uint64
	for _, t := range q.Traces {
		keys = append(keys, seal.FilterKey("trace_id", hex.EncodeToString(t[:])))
	}
	all = append(all, keys)
	for _, globs := range [...][]Glob{q.From, q.To} {
		keys = nil
		for _, g := range globs {
			id, ok := g.Exact()
			if !ok {
				keys = nil
				break
			}
			keys = append(keys, seal.FilterKey("spiffe_id", id))
		}
		all = append(all, keys)
	}
	keys = nil
	for _, id := range q.IDs {
		if len(id) != idDigits {
			keys = nil
			break
		}
		keys = append(keys, seal.FilterKey("record_id", id), seal.FilterKey("evidence_id", id))
	}
	all = append(all, keys)
	keys = nil
	for _, u := range q.Users {
		keys = append(keys, seal.FilterKey("user_id", u))
	}
	all = append(all, keys)
	return slices.DeleteFunc(all, func(keys []uint64) bool { return len(keys) == 0 })
}

// mayContain asks a batch's filter.
func mayContain(f seal.Filter, all [][]uint64) bool {
	for _, keys := range all {
		if !slices.ContainsFunc(keys, f.MayContain) {
			return false
		}
	}
	return true
}

func (q *Query) match(r *Record) bool {
	return q.matchEvent(r.Event) &&
		(q.Since.IsZero() || !r.Time.Before(q.Since)) &&
		(q.Until.IsZero() || r.Time.Before(q.Until)) &&
		(len(q.Traces) == 0 || slices.Contains(q.Traces, r.TraceID)) &&
		(len(q.IDs) == 0 || q.matchID(r)) &&
		(len(q.Changes) == 0 || q.matchChange(r)) &&
		(len(q.PolicyOf) == 0 || q.matchPolicy(r)) &&
		(len(q.Users) == 0 || slices.Contains(q.Users, r.Str(semconv.UserID))) &&
		(len(q.Decisions) == 0 || slices.Contains(q.Decisions, r.Str(semconv.AuthzDecisionID)) || slices.Contains(q.Decisions, r.Str(semconv.JoinDecisionID))) &&
		matchText(q.From, func() string { return r.Str(semconv.SourceSPIFFEID) }) &&
		matchText(q.To, func() string { return r.Str(semconv.DestinationSPIFFEID) }) &&
		matchText(q.Paths, r.Path) &&
		(len(q.Verdicts) == 0 || q.matchVerdict(r.Str(semconv.AuthzDecision)))
}

// matchText: what a record does not state matches no pattern.
func matchText(globs []Glob, text func() string) bool {
	if len(globs) == 0 {
		return true
	}
	s := text()
	return s != "" && matchAny(globs, s)
}

func (q *Query) matchEvent(name string) bool {
	switch {
	case len(q.Events) > 0:
		return matchAny(q.Events, name)
	case len(q.IDs) > 0:
		return true
	}
	return strings.HasPrefix(name, "mesh.") && name != semconv.EventEvidence
}

func (q *Query) matchID(r *Record) bool {
	for _, name := range [...]string{semconv.AuditRecordID, semconv.MeshAmends, semconv.EvidenceID} {
		have := r.Str(name)
		if have == "" {
			continue
		}
		if q.whole[have] {
			return true
		}
		for _, id := range q.beginnings {
			if strings.HasPrefix(have, id) {
				return true
			}
		}
	}
	return false
}

func (q *Query) matchVerdict(decision string) bool {
	if decision == "" {
		decision = VerdictNone
	}
	return slices.Contains(q.Verdicts, decision)
}
