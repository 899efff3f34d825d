package distribution

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// entry is a line of `meshaudit query -o json`.
type entry struct {
	Time       time.Time      `json:"time"`
	Event      string         `json:"event"`
	Signal     string         `json:"signal"`
	TraceID    string         `json:"trace_id"`
	SpanID     string         `json:"span_id"`
	Attributes map[string]any `json:"attributes"`
	Body       any            `json:"body"`
}

func (e *entry) str(name string) string { s, _ := e.Attributes[name].(string); return s }
func (e *entry) list(name string) []any { l, _ := e.Attributes[name].([]any); return l }

// readStore gives all that is in a store, in the order in which it was sealed.
func readStore(t *testing.T, store string, each func(*entry)) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary(t, "MESHAUDIT_CLI", "bin/meshaudit"), "query", store, "--event", "*", "-o", "json")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		e := new(entry)
		if err := json.Unmarshal(lines.Bytes(), e); err != nil {
			t.Fatal(err)
		}
		each(e)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

// A record, and what its amendments add.
type folded struct {
	entry
	pieces map[*piece]string // and by what each joined
}

// add folds a record or an amendment into f. Of the destination the callee's word
// counts: of a retry the caller names the last.
func (f *folded) add(e *entry, pieces map[string]*piece) {
	callee := strings.Contains(fmt.Sprint(e.list("mesh.attestations")), "role:callee")
	for name, v := range e.Attributes {
		if _, stated := f.Attributes[name]; !stated || callee || !strings.HasPrefix(name, "mesh.destination.") {
			f.Attributes[name] = v
		}
	}
	if e.TraceID != "" {
		f.TraceID = e.TraceID
	}
	for _, a := range e.list("mesh.attestations") {
		a, _ := a.(map[string]any)
		id, _ := a["id"].(string)
		join, _ := a["join"].(string)
		if p := pieces[id]; p != nil {
			f.pieces[p] = join
		}
	}
}

func (f *folded) has(p *piece) bool { _, ok := f.pieces[p]; return p != nil && ok }
func (f *folded) marked() bool      { return f.str("mesh.evidence.state") != "complete" }

// A judge compares what was sealed with what was true.
type judge struct {
	*world
	t        *testing.T
	evidence map[string]*piece  // by evidence id
	records  map[string]*folded // by their ids, and their amendments'
	findings []*entry
	changes  int
	cited    map[*piece][]*folded
	of       map[*folded]*action   // what a record is about
	told     map[*action][]*folded // the records about it

	right, wrong, missing int            // joins
	faults, marked        map[string]int // by what is wrong; the latter are said to be in doubt
}

func newJudge(t *testing.T, w *world) *judge {
	return &judge{world: w, t: t, evidence: map[string]*piece{}, records: map[string]*folded{}, cited: map[*piece][]*folded{},
		of: map[*folded]*action{}, told: map[*action][]*folded{}, faults: map[string]int{}, marked: map[string]int{}}
}

// read reads the store.
func (j *judge) read(store string) {
	keys := map[string]*piece{}
	for _, p := range j.pieces {
		if !p.lost && p.key != "" {
			keys[p.key] = p
		}
	}
	var amendments []*entry
	readStore(j.t, store, func(e *entry) {
		if id := e.str("mesh.evidence.id"); id != "" {
			key := fmt.Sprint("at ", e.Time.UnixNano())
			switch source := e.str("mesh.evidence.source"); {
			case e.Attributes["mesh.evidence.final"] == false || e.str("access_log_type") == "DownstreamPeriodic":
				return // it tells nothing that the final entry does not
			case e.Signal == "traces":
				key = "span " + e.TraceID + "/" + e.SpanID
			case source == "opa_decision":
				key = "opa " + e.str("mesh.join.decision_id")
			case source == "envoy_text" || source == "ztunnel":
				key = "line " + e.str("mesh.evidence.position")
			case source == "k8s_audit":
				return
			}
			if j.evidence[id] = keys[key]; keys[key] == nil {
				j.fault(false, "evidence that nobody sent: "+key, nil, nil)
			}
			return
		}
		switch e.Event {
		case "mesh.amendment":
			amendments = append(amendments, e)
		case "mesh.finding":
			j.findings = append(j.findings, e)
		case "mesh.config.change":
			j.changes++
		default:
			f := &folded{entry: entry{Event: e.Event, Attributes: map[string]any{}}, pieces: map[*piece]string{}}
			f.add(e, j.evidence)
			j.records[e.str("audit.record.id")] = f
		}
	})
	for _, e := range amendments {
		f := j.records[e.str("mesh.amends")]
		if f == nil {
			j.fault(false, "an amendment of nothing", nil, nil)
			continue
		}
		f.add(e, j.evidence)
		j.records[e.str("audit.record.id")] = f
	}
}

// fault notes what is wrong, and shows the first of each.
func (j *judge) fault(marked bool, what string, f *folded, a *action) {
	if marked {
		j.marked[what]++
		return
	}
	if j.faults[what]++; j.faults[what] > 2 {
		return
	}
	j.t.Logf("%s", what)
	if a != nil {
		j.t.Logf("  %s %s %s: %v -> %v at %v, retried %v, parallel %v", a.kind, a.method, a.path, a.from, a.to, a.start, a.retried, a.parallel)
		for _, p := range a.pieces {
			j.t.Logf("    %-20s lost %v, trace %q request %q: %s", p.what, p.lost, p.trace, p.request, p.key)
			for _, f := range j.cited[p] {
				j.t.Logf("      in %.8s %s by %s", f.str("audit.record.id"), f.str("mesh.evidence.state"), f.pieces[p])
			}
		}
	}
	if f != nil {
		shown := maps.Clone(f.Attributes)
		delete(shown, "mesh.attestations")
		b, _ := json.Marshal(shown)
		j.t.Logf("    record %s", b)
	}
}

// judge says what is wrong.
func (j *judge) judge() {
	var records []*folded
	for _, id := range slices.Sorted(maps.Keys(j.records)) {
		f := j.records[id]
		if !slices.Contains(records, f) {
			records = append(records, f)
			for p := range f.pieces {
				j.cited[p] = append(j.cited[p], f)
			}
		}
	}
	for _, f := range records {
		j.record(f)
	}
	for _, a := range j.actions {
		j.action(a)
	}
	j.found()
}

// record: a record is about the action of its callee's report, else about that of
// which it has most.
func (j *judge) record(f *folded) {
	votes := map[*action]int{}
	for p := range f.pieces {
		for _, a := range p.actions {
			votes[a]++
			if a.callee == p {
				votes[a] += 100
			}
		}
	}
	var best *action
	for a, n := range votes {
		if best == nil || n > votes[best] || n == votes[best] && a.n < best.n {
			best = a
		}
	}
	if best == nil {
		return
	}
	j.of[f] = best
	j.told[best] = append(j.told[best], f)
	for p, by := range f.pieces {
		if slices.Contains(p.actions, best) {
			j.right++
			continue
		}
		j.wrong++
		j.fault(f.marked(), "wrong join: "+p.what+" by "+by, f, best)
	}
}

// action looks for what is missing in an action's record, and what is not as it was.
func (j *judge) action(a *action) {
	var f *folded // that with the callee's report, else with most
	for _, g := range j.told[a] {
		if f == nil || g.has(a.callee) || !f.has(a.callee) && len(g.pieces) > len(f.pieces) {
			f = g
		}
	}
	for _, p := range a.pieces {
		switch {
		case p.lost || p.interim:
		case len(j.cited[p]) == 0:
			j.fault(false, "no record: "+p.what, nil, a)
		case f != nil && !f.has(p) && joinable(a, p):
			j.missing++
			j.fault(f.marked() || slices.ContainsFunc(j.cited[p], (*folded).marked), "missing join: "+p.what, f, a)
		}
	}
	if f == nil || !f.has(a.callee) {
		if f != nil && !f.marked() && !slices.ContainsFunc(a.pieces, func(p *piece) bool { return f.has(p) && strings.HasSuffix(p.what, "server") }) {
			j.fault(false, "complete without the callee", f, a)
		}
		return
	}
	states := strings.HasPrefix(a.callee.what, byALS) || strings.HasPrefix(a.callee.what, byOTLP)
	waypoint := strings.HasSuffix(a.callee.what, "waypoint")
	is := func(name, want string, marked bool) {
		if got := f.str(name); got != want {
			j.fault(marked || f.marked(), fmt.Sprintf("%s, of %s", name, a.callee.what), f, a)
		}
	}
	decided := a.lone("opa")
	if f.str("mesh.evidence.state") == "partial" && len(j.told[a]) == 1 && !(decided != nil && decided.lost) {
		j.fault(false, "partial with the callee", f, a)
	}
	if a.peer != "" {
		is("mesh.source.spiffe.id", a.peer, false)
		is("mesh.source.identity.proof", "mtls_san", false)
		if !waypoint {
			is("mesh.destination.spiffe.id", a.to.id(), false)
		}
	}
	if states && !waypoint {
		is("mesh.destination.workload.name", a.to.service.name, false)
		is("mesh.destination.pod.name", a.to.name, false)
	}
	if len(f.list("mesh.hops")) < 2 {
		j.fault(false, "too few hops", f, a)
	}
	if a.kind != "request" {
		return
	}
	if a.engine == "opa" && !f.has(decided) {
		is("mesh.authz.decision", a.decided, decided.lost || slices.ContainsFunc(j.cited[decided], (*folded).marked))
	} else {
		is("mesh.authz.decision", a.decided, false)
	}
	if a.engine == "rbac" {
		is("mesh.authz.policy.change.by", a.to.rbac.by, false)
	}
	if a.callee.trace == "" {
		return
	}
	if f.TraceID != a.trace {
		j.fault(false, "trace id", f, a)
	}
	if by := j.entered[a.trace]; by == nil || !by.lost {
		is("mesh.initiator.id", a.initiator, false)
	}
}

func (a *action) lone(what string) *piece {
	i := slices.IndexFunc(a.pieces, func(p *piece) bool { return p.what == what })
	if i < 0 {
		return nil
	}
	return a.pieces[i]
}

// joinable: another piece of the action states a trace or request id of p's, or it is
// a connection; and it is not what lines in the default format do not tell
// (docs/sources/envoy.md).
func joinable(a *action, p *piece) bool {
	if a.kind == "connection" {
		return true
	}
	line := func(p *piece) bool {
		return p != nil && (strings.HasPrefix(p.what, byText) || strings.HasPrefix(p.what, byJSON))
	}
	if a.entry && line(a.callee) || a.retried && line(a.caller) {
		return false
	}
	if strings.HasPrefix(p.what, "span ") && a.callee != nil && a.callee.trace == "" {
		if proxy := a.lone("span proxy server"); proxy == nil || proxy.lost {
			return false // that alone ties the callee's line to spans
		}
	}
	return slices.ContainsFunc(a.pieces, func(o *piece) bool {
		return o != p && !o.lost && (o.trace != "" && o.trace == p.trace || o.request != "" && o.request == p.request)
	})
}

// found compares the findings with what was wrong in the mesh.
func (j *judge) found() {
	wrong := map[string]func(*action) bool{
		"plaintext":         func(a *action) bool { return a.plaintext },
		"denied_but_served": func(a *action) bool { return a.deniedButServed },
		"identity_conflict": func(a *action) bool { return a.spoofed },
		// served_without_decision never is: the collector stops before it has waited
		// for a decision long enough.
	}
	got := map[string]int{}
	for _, e := range j.findings {
		kind := e.str("mesh.finding.kind")
		got[kind]++
		for _, id := range e.list("mesh.finding.records") {
			id, _ := id.(string)
			f := j.records[id]
			if kind != "policy_changed" && (f == nil || j.of[f] == nil || wrong[kind] == nil || !wrong[kind](j.of[f])) {
				j.fault(false, fmt.Sprintf("a finding %s: %v", kind, e.Body), f, j.of[f])
			}
		}
	}
	for kind, is := range wrong {
		clear := func(a *action) bool {
			decided := a.lone("opa")
			return is(a) && slices.ContainsFunc(j.told[a], func(f *folded) bool {
				return !f.marked() && f.has(a.callee) && (decided == nil || f.has(decided))
			})
		}
		if got[kind] == 0 && slices.ContainsFunc(j.actions, clear) {
			j.fault(false, "no finding "+kind, nil, nil)
		}
	}
	if n := len(j.policies); j.changes != n || got["policy_changed"] != n {
		j.t.Errorf("%d changes and %d findings of %d policies that were changed", j.changes, got["policy_changed"], n)
	}
	j.t.Logf("findings %v", got)
}
