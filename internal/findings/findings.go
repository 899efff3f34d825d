// Package findings says what someone should act on now, from the records as
// they leave the correlator.
//
// A finding is about a kind of fault and a subject (a pair of workloads, a
// credential, a policy). The first record that shows it gives a finding at once;
// further ones are counted, and the count is stated again after Repeat, and
// when the fault has ended. So a fault that every request shows is one finding
// an hour, not one a request. Each finding cites the records that it rests on,
// a bounded number of them.
//
// The package knows no collector and no wall clock: time is an argument. Its
// state is bounded; what is forgotten for lack of room is found anew.
package findings

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/query"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// Kind is what is wrong.
type Kind string

const (
	DeniedButServed       Kind = "denied_but_served"       // a policy said deny, the request succeeded
	ServedWithoutDecision Kind = "served_without_decision" // a path that must be decided was not
	IdentityConflict      Kind = "identity_conflict"       // two statements about who a party is
	Plaintext             Kind = "plaintext"               // a call without TLS
	SharedCredential      Kind = "shared_credential"       // one certificate used by several at once
	UnknownTrustDomain    Kind = "unknown_trust_domain"
	ExpiredCertificate    Kind = "expired_certificate"
	EvidenceGap           Kind = "evidence_gap"
	PolicyChanged         Kind = "policy_changed"
)

// Kinds are all kinds with their default severity.
var Kinds = map[Kind]Severity{
	DeniedButServed: Critical, ServedWithoutDecision: High, IdentityConflict: High, Plaintext: Medium,
	SharedCredential: Critical, UnknownTrustDomain: High, ExpiredCertificate: High, EvidenceGap: Medium, PolicyChanged: Info,
}

// Severity says how urgent a finding is.
type Severity string

const (
	Info     Severity = "info"
	Low      Severity = "low"
	Medium   Severity = "medium"
	High     Severity = "high"
	Critical Severity = "critical"
)

// Severities are all severities, rising.
var Severities = []Severity{Info, Low, Medium, High, Critical}

// Config of a Detector.
type Config struct {
	// TrustDomains are those that are known. None: every one is.
	TrustDomains []string
	// MustDecide are patterns of paths for which there must be a verdict. None:
	// no path must.
	MustDecide []query.Glob
	// DecisionWait is how long after its record a decision may come.
	DecisionWait time.Duration
	Repeat       time.Duration // between two statements of one finding
	MaxOpen      int           // findings that are remembered
	MaxWaits     int           // requests for whose decision is waited
	// MaxCredentials bounds the certificates that are remembered, in each of
	// two generations.
	MaxCredentials int
}

// A Finding is one statement.
type Finding struct {
	Kind        Kind
	ID          [32]byte // of kind and subject: the same each time it is stated
	Subject     string
	What        string // for a person
	Count       uint64 // of records that showed it, since First
	First, Last time.Time
	Records     []correlate.RecordID // that it rests on, at most maxCited
	// Doubt is why it may be none, "" if nothing speaks against it. One in doubt is
	// another finding than one that is not.
	Doubt string
	// Who and what, as What from the first record.
	Source, Destination spiffeid.ID
	User                string
	TraceID             evidence.TraceID
}

// StatementID names this statement of the finding, among those of its kind and
// subject, by the record that showed it first. The same records give the same.
func (f *Finding) StatementID() correlate.RecordID {
	b := append(f.ID[:], f.Records[0][:]...)
	return sha256.Sum256(binary.BigEndian.AppendUint64(b, f.Count))
}

// Doubts.
const (
	ambiguous = "the record is ambiguous"
	pooled    = "the connection may have begun before"
)

// clocks is how far those of who issued a certificate and of who saw it used may
// be apart.
const clocks = 30 * time.Second

// maxCited bounds the records that a finding cites; its count tells of all.
const maxCited = 8

// Detector is not safe for concurrent use: records come in one order.
type Detector struct {
	cfg         Config
	domains     map[string]bool
	open        map[[32]byte]*list.Element
	byLast      list.List // of *state
	waits       waits
	missed      uint64
	swept       time.Time
	credentials credentials
	policies    policies
}

// Report takes a finding that is to be stated now. It is false if there is no
// room for it; then the finding is stated later.
type Report func(Finding) bool

// state is a finding that may go on.
type state struct {
	Finding
	stated  time.Time // last
	counted uint64    // then
}

// New makes a Detector.
func New(cfg Config) *Detector {
	d := &Detector{
		cfg: cfg, domains: map[string]bool{}, open: map[[32]byte]*list.Element{},
		waits: newWaits(cfg.MaxWaits, cfg.MaxOpen), credentials: newCredentials(cfg.MaxCredentials), policies: newPolicies(),
	}
	for _, td := range cfg.TrustDomains {
		d.domains[td] = true
	}
	return d
}

// Observe looks at a record and calls report for every finding that is to be
// stated now. accept decides, by the record, whether a kind is looked for at all.
func (d *Detector) Observe(r *correlate.Record, now time.Time, accept func(Kind) bool, report Report) {
	finding := func(k Kind, subject, what string) Finding {
		f := Finding{
			Kind: k, Subject: subject, What: what, First: now, Last: now, Count: 1, Records: []correlate.RecordID{r.ID},
			Source: r.Source.ID, Destination: r.Destination.ID, User: r.User, TraceID: r.TraceID,
		}
		if r.Amends != (correlate.RecordID{}) {
			f.Records = []correlate.RecordID{r.Amends, r.ID}
		}
		switch k {
		case DeniedButServed, ServedWithoutDecision, IdentityConflict:
			// What one report says against another, of what may be another call.
			if r.Upshot.Ambiguous {
				f.Doubt = ambiguous
			}
		}
		return f
	}
	found := func(k Kind, subject, what string) {
		if accept(k) {
			d.count(finding(k, subject, what), now, report)
		}
	}
	route := name(&r.Source) + " to " + name(&r.Destination)
	request := strings.TrimSpace(r.Method + " " + r.Path)

	if against(r.Upshot) && !against(r.Before) {
		policy, by := "", "a policy"
		if v := r.Verdict; v != nil && v.Enforced && v.Decision == evidence.Deny {
			policy, by = v.PolicyID, first(v.PolicyID, v.Engine)
		}
		found(DeniedButServed, route+" "+policy, fmt.Sprintf("%s: %s was denied by %s, and served%s", route, request, by, status(r)))
	}
	switch p := d.mustDecide(r.Path); {
	case !undecided(r.Upshot):
		d.waits.drop(r.Amends) // the decision came, late
	case undecided(r.Before):
		if r.Upshot.Ambiguous {
			d.waits.doubt(r.Amends)
		}
	case p != "" && accept(ServedWithoutDecision):
		f := finding(ServedWithoutDecision, route+" "+p, fmt.Sprintf("%s: what %s stands for was served, and nobody decided on it", route, p))
		f.User = "" // of many; the record says who
		if !d.waits.add(f, now.Add(d.cfg.DecisionWait)) {
			d.missed++
		}
	}
	for _, c := range r.Conflicts {
		if !c.Outside() && (c.Field == semconv.SourceSPIFFEID || c.Field == semconv.DestinationSPIFFEID) {
			// What is only claimed anybody may make up anew with each request.
			other := c.Other
			if c.OtherProof <= evidence.ProofClaimed {
				other = c.From
			}
			found(IdentityConflict, c.Field+" "+c.Kept+" "+other,
				fmt.Sprintf("%s: %s is %s (%s), and %s says %s (%s)", request, party(c.Field), first(c.Kept, "not known"), c.KeptProof, c.From, c.Other, c.OtherProof))
		}
		if who := workload(c.Field); who != "" {
			found(IdentityConflict, c.Field+" "+c.Kept+" "+c.Other,
				fmt.Sprintf("%s: %s says that it is %s, and its identity is of %s (%s)", request, who, c.Kept, c.Other, c.From))
		}
	}
	if r.TLS.Known && !r.TLS.Established && r.TLS.FailureReason == "" && !local(r) {
		found(Plaintext, route, route+" talk without TLS")
	}
	if len(d.domains) > 0 {
		for _, p := range [...]*correlate.Party{&r.Source, &r.Destination} {
			if td := p.ID.TrustDomain().Name(); td != "" && !d.domains[td] {
				subject := td
				if p.Proof <= evidence.ProofClaimed {
					subject = p.From // as above
				}
				found(UnknownTrustDomain, subject, fmt.Sprintf("%s is of the trust domain %s, which is not configured", p.ID, td))
			}
		}
	}
	on := notNew
	certificate := credential(r)
	if certificate != "" {
		var one, other string
		on, one, other = d.credentials.use(certificate, r, now, !r.Upshot.Ambiguous && accept(SharedCredential))
		if other != "" {
			found(SharedCredential, certificate,
				fmt.Sprintf("one certificate of %s is used by %s and by %s at once: %s", name(&r.Source), one, other, certificate))
		}
	}
	if r.EventName == semconv.EventConnection && !tunnelled(r) {
		on = certainlyNew
	}
	if end := r.TLS.ClientNotAfter; end != 0 && on != notNew && r.Start > end*int64(time.Second)+int64(clocks) && accept(ExpiredCertificate) {
		f := finding(ExpiredCertificate, name(&r.Source)+" "+certificate,
			fmt.Sprintf("%s began a connection with a certificate that had expired at %s", name(&r.Source), time.Unix(end, 0).UTC().Format(time.RFC3339)))
		if on == maybeNew {
			f.Doubt = pooled
		}
		d.count(f, now, report)
	}
	if c := d.policies.observe(r); c != nil {
		who := first(c.by, "nobody known")
		if r.Actor != nil && r.Actor.Impersonator != "" {
			who = r.Actor.Impersonator + " as " + who
		}
		did := first(c.action, "changed")
		if c.Group == "opa" && c.Revision != "" { // others count every change of any object
			did += " revision " + c.Revision
		}
		what := fmt.Sprintf("%s: %s by %s", c.what, did, who)
		found(PolicyChanged, what, what)
	}
}

// Gap states that evidence is missing.
func (d *Detector) Gap(g *evidence.Gap, now time.Time, report Report) {
	d.count(Finding{
		Kind: EvidenceGap, Subject: string(g.Source) + " " + g.Reporter.Node + " " + g.Reason, First: now, Last: now, Count: 1,
		What:    fmt.Sprintf("%s of %s lost %s entries: %s", g.Source, first(g.Reporter.Node, "a reporter that is not known"), count(g.Count), g.Reason),
		Records: []correlate.RecordID{sha256.Sum256([]byte(g.Position))},
	}, now, report)
}

// count adds to a finding, and states it if it is new or was stated long ago.
func (d *Detector) count(f Finding, now time.Time, report Report) {
	about := string(f.Kind) + "\x00" + f.Subject
	if f.Doubt != "" {
		about, f.What = about+"\x00in doubt", f.What+"; in doubt, for "+f.Doubt
	}
	f.ID = sha256.Sum256([]byte(about))
	e := d.open[f.ID]
	if e == nil {
		for d.byLast.Len() >= d.cfg.MaxOpen && d.byLast.Len() > 0 {
			d.forget(d.byLast.Front(), report)
		}
		s := &state{Finding: f}
		d.open[f.ID] = d.byLast.PushBack(s)
		s.state(now, report)
		return
	}
	d.byLast.MoveToBack(e)
	s := e.Value.(*state)
	s.Count++
	s.Last = now
	for _, id := range f.Records {
		if len(s.Records) < maxCited && !slices.Contains(s.Records, id) {
			s.Records = append(s.Records, id)
		}
	}
	if now.Sub(s.stated) >= d.cfg.Repeat {
		s.state(now, report)
	}
}

// state states a finding. One that is not taken is as if it was not stated.
func (s *state) state(now time.Time, report Report) bool {
	f := s.Finding
	f.Records = slices.Clone(f.Records)
	if !report(f) {
		return false
	}
	s.stated, s.counted = now, s.Count
	return true
}

// forget states what was not stated yet of a finding, if there is room.
func (d *Detector) forget(e *list.Element, report Report) {
	s := d.byLast.Remove(e).(*state)
	delete(d.open, s.ID)
	if s.Count > s.counted {
		s.state(s.Last, report)
	}
}

// judge counts those for which the wait is over.
func (d *Detector) judge(now time.Time, report Report) {
	for f, ok := d.waits.over(now); ok; f, ok = d.waits.over(now) {
		f.First, f.Last = f.First.Add(-d.cfg.DecisionWait), now
		d.count(f, now, report)
	}
}

// Missed is how many requests since it was last asked nobody decided on and could
// not be waited for, for lack of room.
func (d *Detector) Missed() (n uint64) {
	n, d.missed = d.missed, 0
	return n
}

// sweep is how often findings are looked at that go on.
const sweep = time.Minute

// Advance states again what went on since it was stated, forgets what has
// ended, and states what waited for a decision that did not come. Call it often.
func (d *Detector) Advance(now time.Time, report Report) {
	d.judge(now, report)
	if now.Sub(d.swept) < sweep {
		return
	}
	d.swept = now
	for e := d.byLast.Front(); e != nil; {
		s, next := e.Value.(*state), e.Next()
		switch {
		case now.Sub(s.stated) < d.cfg.Repeat:
		case s.Count > s.counted:
			s.state(now, report)
		default:
			d.forget(e, report)
		}
		e = next
	}
}

// End states all that was not stated yet, as far as there is room. A wait that is
// not over says nothing.
func (d *Detector) End(now time.Time, report Report) {
	d.judge(now, report)
	for e := d.byLast.Front(); e != nil; e = e.Next() {
		if s := e.Value.(*state); s.Count > s.counted && !s.state(now, report) {
			return
		}
	}
}

// mustDecide is the pattern of paths like this one, "" if nobody must decide. A
// finding for each path would be one for each order, account and the like.
func (d *Detector) mustDecide(path string) string {
	for _, p := range d.cfg.MustDecide {
		if p.Match(path) {
			return p.String()
		}
	}
	return ""
}

// undecided tells a call that the callee says was served, and nobody decided on.
func undecided(u correlate.Upshot) bool {
	return (u.Answer == correlate.Served || u.Answer == correlate.Answered) && u.Callee && !u.Decided()
}

// against tells a call that was served against a policy. Its verdict may come
// after its record, and its record after the verdict.
func against(u correlate.Upshot) bool { return u.Denied && u.Answer == correlate.Served }

// status is with what a request was served, "" if the record does not tell: the
// status of who denied it is not that of who served it.
func status(r *correlate.Record) string {
	switch {
	case r.GRPCStatus == "0":
		return " with gRPC status 0"
	case r.GRPCStatus == "" && correlate.AnswerOf(r.Status, "", false) == correlate.Served:
		return fmt.Sprintf(" with %d", r.Status)
	}
	return ""
}

// local: a call that never left its pod needs no TLS.
func local(r *correlate.Record) bool {
	a, b := r.Source.Address, r.Destination.Address
	return a != "" && a == b || strings.HasPrefix(a, "127.") || a == "::1"
}

// workload is the party that a field says the name of, as the configuration knows it by its
// identity. Its version is none: two of them run during every rollout.
func workload(field string) string {
	switch field {
	case semconv.SourcePrefix + semconv.SuffixWorkloadName, semconv.SourcePrefix + semconv.SuffixWorkloadNamespace:
		return "the source"
	case semconv.DestinationPrefix + semconv.SuffixWorkloadName, semconv.DestinationPrefix + semconv.SuffixWorkloadNamespace:
		return "the destination"
	}
	return ""
}

func party(field string) string {
	if field == semconv.SourceSPIFFEID {
		return "the source"
	}
	return "the destination"
}

// name is how a person knows a party.
func name(p *correlate.Party) string {
	switch {
	case !p.ID.IsZero():
		return p.ID.String()
	case p.Workload.Name != "" && p.Workload.Namespace != "":
		return p.Workload.Namespace + "/" + p.Workload.Name
	}
	return first(p.Workload.Name, p.Address, "somebody")
}

// count is of a gap, which may not know it.
func count(n int64) string {
	if n == 0 {
		return "an unknown number of"
	}
	return strconv.FormatInt(n, 10)
}

func first(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}
