package cli

import (
	"cmp"
	"container/heap"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/query"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// legend explains the marks in the table of records.
const legend = "Identities: ✓✓ certificate verified  ✓ seen in mTLS  ~ forwarded or looked up  ? only claimed.  ⚠ sources disagree.  The RECORD is for --id."

// proofMarks say at a glance how well an identity is proven.
var proofMarks = map[evidence.Proof]string{
	evidence.ProofSVID:    " ✓✓",
	evidence.ProofMTLSSAN: " ✓",
	evidence.ProofXFCC:    " ~",
	evidence.ProofJWTSVID: " ~",
	evidence.ProofIP:      " ~",
	evidence.ProofClaimed: " ?",
}

// recordTable is the table for people. Each record is a row, and each
// disagreement between its sources a line beneath it.
//
// Records are sealed when their evidence is together, which is not the order in
// which things happened. Rows come in that order as long as no more than
// reorderWindow records lie between.
//
// Identities of the trust domain that comes first are written short; the line
// above the table names it, and all others are written in full.
type recordTable struct {
	table
	home  spiffeid.TrustDomain
	fixed bool   // home is printed
	day   string // of the last row
	first string // of the first row

	waiting rowHeap
	seq     int // of the last row
}

const reorderWindow = 500

// recordRow is a record, rendered.
type recordRow struct {
	at    time.Time
	seq   int // keeps rows of one time in the order in which they came
	cells []cell
	lines []string // beneath the row
}

// rowHeap has the earliest row on top.
type rowHeap []*recordRow

func (h rowHeap) Len() int      { return len(h) }
func (h rowHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h rowHeap) Less(i, j int) bool {
	return cmp.Or(h[i].at.Compare(h[j].at), cmp.Compare(h[i].seq, h[j].seq)) < 0
}
func (h *rowHeap) Push(x any) { *h = append(*h, x.(*recordRow)) }
func (h *rowHeap) Pop() any {
	last := len(*h) - 1
	r := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return r
}

func newRecordTable(s *streams) *recordTable {
	t := &recordTable{table: table{s: s, columns: []column{
		{title: "TIME"},
		{title: "SOURCE", min: 10, live: 24, middle: true},
		{title: "DESTINATION", min: 10, live: 24, middle: true},
		{title: "REQUEST", min: 12, live: 36},
		{title: "RESULT", live: 10},
		{title: "VERDICT", live: 14},
		{title: "POLICY", min: 10, live: 32, middle: true, spare: 4},
		{title: "EVIDENCE", live: 12, spare: 2},
		{title: "JOIN", live: 11, spare: 3},
		{title: "RECORD", live: 8, spare: 1},
	}}}
	t.preamble = func() string {
		t.fixed = true
		if t.home.IsZero() {
			return t.first + " UTC\n"
		}
		return fmt.Sprintf("%s UTC, identities in %s\n", t.first, t.home)
	}
	return t
}

func (t *recordTable) record(r *query.Record) error {
	conflicts := r.Slice(semconv.MeshConflicts)
	source, destination := t.parties(r)
	at := r.Time.UTC()
	t.seq++
	heap.Push(&t.waiting, &recordRow{at, t.seq, []cell{
		{at.Format("15:04:05.000"), dim},
		{text: source},
		{text: destination},
		{text: request(r)},
		result(r),
		verdict(r),
		{text: policy(r)},
		state(r, conflicts.Len()),
		{text: joined(r)},
		{shortID(r), dim},
	}, append(t.conflicts(conflicts), said(r)...)})
	if t.waiting.Len() > reorderWindow {
		return t.emit()
	}
	return nil
}

// emit prints the earliest row that waits.
func (t *recordTable) emit() error {
	r := heap.Pop(&t.waiting).(*recordRow)
	if day := r.at.Format(time.DateOnly); day != t.day {
		if t.day == "" {
			t.first = day
		} else if err := t.line(day+" UTC", dim); err != nil {
			return err
		}
		t.day = day
	}
	if err := t.row(r.cells...); err != nil {
		return err
	}
	for _, l := range r.lines {
		if err := t.line(l, yellow); err != nil {
			return err
		}
	}
	return nil
}

func (t *recordTable) flush() error {
	for t.waiting.Len() > 0 {
		if err := t.emit(); err != nil {
			return err
		}
	}
	return t.table.flush()
}

// parties are who did something, and to whom.
func (t *recordTable) parties(r *query.Record) (source, destination string) {
	// The called workload's trust domain is the more likely to be ours.
	destination = t.party(r, semconv.DestinationPrefix, semconv.ServerAddress)
	source = t.party(r, semconv.SourcePrefix, semconv.ClientAddress)
	if user := printable(r.Str(semconv.UserID)); user != "" && source == nobody {
		source = user
	} else if user != "" {
		source = user + " by " + source
	}
	if target := r.Str(semconv.AuditTargetID); target != "" && destination == nobody {
		destination = printable(target)
	}
	return source, destination
}

// party is one side of an action: its identity and how well that is proven,
// else what it calls itself, else its address.
func (t *recordTable) party(r *query.Record, prefix, address string) string {
	if id := r.Str(prefix + semconv.SuffixSPIFFEID); id != "" {
		proof, _ := evidence.ParseProof(r.Str(prefix + semconv.SuffixIdentityProof))
		return t.identity(id) + proofMarks[proof]
	}
	if name := r.Str(prefix + semconv.SuffixWorkloadName); name != "" {
		if ns := r.Str(prefix + semconv.SuffixWorkloadNamespace); ns != "" {
			name = ns + "/" + name
		}
		return printable(name) + proofMarks[evidence.ProofClaimed]
	}
	if a := r.Str(address); a != "" {
		return printable(a)
	}
	return nobody
}

// nobody stands where a party is not stated.
const nobody = "-"

// said is what a finding says, in words, and who an amendment says set its trace going.
func said(r *query.Record) []string {
	const line = "              → "
	switch {
	case r.Event == semconv.EventFinding && r.Log.Body().Type() == pcommon.ValueTypeStr:
		return []string{line + printable(r.Log.Body().Str())}
	case r.Event == semconv.EventAmendment && r.Str(semconv.InitiatorID) != "" && r.Slice(semconv.MeshAttestations).Len() == 0:
		return []string{line + "the initiator is " + printable(r.Str(semconv.InitiatorID))} // it says nothing else
	}
	return nil
}

// identity writes a SPIFFE ID short: namespace/account for what follows
// Istio's convention, /path for other IDs of the same trust domain. No two IDs
// look the same.
func (t *recordTable) identity(s string) string {
	id, err := spiffeid.FromString(s)
	if err != nil {
		return printable(s)
	}
	if t.home.IsZero() && !t.fixed {
		t.home = id.TrustDomain()
	}
	if id.TrustDomain() != t.home {
		return s
	}
	if ns, account, ok := evidence.KubernetesName(id); ok {
		return ns + "/" + account
	}
	if id.Path() == "" {
		return s
	}
	return id.Path()
}

// request is what was done.
func request(r *query.Record) string {
	call := strings.TrimSpace(r.Str(semconv.HTTPRequestMethod) + " " + r.Path())
	if n := r.Int(semconv.HTTPRequestResendCount); n > 0 {
		call += fmt.Sprintf(" (retry %d)", n)
	}
	var text, refused string
	if reason := r.Str(semconv.EvidenceError); reason != "" {
		refused = ", refused: " + reason
	}
	switch r.Event {
	case semconv.EventRequest:
		text = call
	case semconv.EventAmendment:
		text = "amends " + short(r.Str(semconv.MeshAmends)) + " " + call
	case semconv.EventFinding:
		text = "finding " + r.Str(semconv.MeshFindingKind)
		if n := r.Int(semconv.FindingCount); n > 1 {
			text += fmt.Sprintf(" (%d times)", n)
		}
	case semconv.EventEvidenceGap:
		text = "evidence lost"
		if n := r.Int(semconv.GapCount); n > 0 {
			text = counted(n, "piece") + " of evidence lost"
		}
		text += " by " + r.Str(semconv.EvidenceSource) + ": " + r.Str(semconv.GapReason)
	case semconv.EventEvidence, query.EventSpan:
		text = strings.TrimPrefix(r.Event, "mesh.") + " " + r.Str(semconv.EvidenceSource) + refused + " " + call
	case query.EventMetric:
		text = "metric " + r.Metric.Name()
	default:
		event := strings.TrimPrefix(r.Event, "mesh.")
		if event == "" {
			event = "log record"
		}
		if refused != "" {
			event += " " + r.Str(semconv.EvidenceSource) + refused
		}
		text = strings.TrimSpace(event + " " + r.Str(semconv.AuditAction))
		if reason := r.Str(semconv.MTLSFailureReason); reason != "" {
			text += ": " + reason
		}
	}
	return printable(strings.Join(strings.Fields(text), " "))
}

// result is the status and the outcome, or a finding's severity.
func result(r *query.Record) cell {
	if severity := r.Str(semconv.FindingSeverity); severity != "" {
		c := cell{text: printable(severity)}
		switch severity {
		case "high", "critical":
			c.style = red
		case "medium":
			c.style = yellow
		}
		return c
	}
	c := cell{text: r.Str(semconv.AuditOutcome)}
	switch c.text {
	case "success":
		c.text = "ok"
	case "failure":
		c = cell{"failed", yellow}
	}
	status := ""
	if n := r.Int(semconv.HTTPResponseStatusCode); n != 0 {
		status = fmt.Sprint(n)
	}
	if v, ok := r.Attributes.Get(semconv.RPCGRPCStatusCode); ok {
		status = "grpc " + v.AsString()
	}
	c.text = printable(strings.TrimSpace(status + " " + c.text))
	if c.text == "" {
		c.text = "-"
	}
	return c
}

// verdict is the decision.
func verdict(r *query.Record) cell {
	c := cell{text: r.Str(semconv.AuthzDecision)}
	switch c.text {
	case "":
		return cell{"-", dim}
	case string(evidence.Deny), string(evidence.Error):
		c.style = red
	}
	if enforced, stated := flag(r, semconv.AuthzEnforced); stated && !enforced {
		c = cell{text: c.text + " (dry run)"}
	} else if byDefault, _ := flag(r, semconv.AuthzDefaultDeny); byDefault {
		c.text += " (default)"
	}
	c.text = printable(c.text)
	return c
}

// policy is what the decision was made under, at which revision.
func policy(r *query.Record) string {
	p := r.Str(semconv.AuthzPolicyID)
	if ns := r.Str(semconv.AuthzPolicyNamespace); ns != "" {
		p = ns + "/" + p
	}
	if p == "" {
		p = r.Str(semconv.AuthzEngine)
	}
	if revision := r.Str(semconv.AuthzPolicyRevision); revision != "" {
		p += "@" + revision
	}
	return printable(p)
}

// state is how many pieces of evidence there are, and whether those are all.
func state(r *query.Record, conflicts int) cell {
	c := cell{text: r.Str(semconv.MeshEvidenceState)}
	if c.text != "" && c.text != "complete" {
		c.style = yellow
	}
	if n := r.Slice(semconv.MeshAttestations).Len(); n > 0 {
		c.text = fmt.Sprintf("%d %s", n, c.text)
	}
	if conflicts > 0 {
		c.text, c.style = c.text+" ⚠", yellow
	}
	c.text = printable(strings.TrimSpace(c.text))
	return c
}

// joined is how the evidence was joined.
func joined(r *query.Record) string {
	method := r.Str(semconv.JoinMethod)
	if method == "" || method == "none" {
		return ""
	}
	if v, ok := r.Attributes.Get(semconv.JoinConfidence); ok && v.Type() == pcommon.ValueTypeDouble && v.Double() > 0 && v.Double() < 1 {
		method += fmt.Sprintf(" %.0f%%", 100*v.Double())
	}
	return printable(method)
}

const shortIDDigits = 8

func short(id string) string { return printable(id[:min(len(id), shortIDDigits)]) }

func shortID(r *query.Record) string {
	if id := r.Str(semconv.AuditRecordID); id != "" {
		return short(id)
	}
	return short(r.Str(semconv.EvidenceID))
}

// Keys of the maps in mesh.conflicts.
const (
	conflictField      = "field"
	conflictKept       = "kept"
	conflictKeptProof  = "kept.proof"
	conflictOther      = "other"
	conflictOtherProof = "other.proof"
	conflictFrom       = "from"
)

// maxConflictLines bounds what is said under one row.
const maxConflictLines = 4

// conflicts are the lines that say where a record's sources disagree.
func (t *recordTable) conflicts(all pcommon.Slice) (lines []string) {
	type conflict struct{ field, kept, other string }
	said := map[conflict]bool{} // many pieces of evidence may say the same
	for _, v := range all.All() {
		if v.Type() != pcommon.ValueTypeMap {
			continue
		}
		get := func(key string) string {
			if s, ok := v.Map().Get(key); ok {
				return s.AsString()
			}
			return ""
		}
		statement := func(key, proof string) string {
			what := get(key)
			if what == "" {
				return "nothing"
			}
			what = t.identity(what)
			if p := get(proof); p != "" {
				what += " (" + p + ")"
			}
			return what
		}
		field := strings.TrimSuffix(strings.TrimPrefix(get(conflictField), "mesh."), ".spiffe.id")
		c := conflict{field, statement(conflictKept, conflictKeptProof), statement(conflictOther, conflictOtherProof)}
		if said[c] {
			continue
		}
		said[c] = true
		if len(said) > maxConflictLines {
			return append(lines, "              ⚠ and more: -o json")
		}
		from := get(conflictFrom)
		if from == "" {
			from = "another source"
		}
		lines = append(lines, printable(fmt.Sprintf("              ⚠ %s is %s, but %s says %s", c.field, c.kept, from, c.other)))
	}
	return lines
}

// flag is a boolean attribute, and whether there is one.
func flag(r *query.Record, name string) (value, stated bool) {
	if v, ok := r.Attributes.Get(name); ok && v.Type() == pcommon.ValueTypeBool {
		return v.Bool(), true
	}
	return false, false
}
