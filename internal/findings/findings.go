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
	Repeat     time.Duration // between two statements of one finding
	MaxOpen    int           // findings that are remembered
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
	// Who and what, from the first record.
	Source, Destination spiffeid.ID
	User                string
	TraceID             evidence.TraceID
}

// StatementID names this statement of the finding, among those of its kind and
// subject.
func (f *Finding) StatementID() correlate.RecordID {
	b := binary.BigEndian.AppendUint64(f.ID[:], uint64(f.First.UnixNano()))
	return sha256.Sum256(binary.BigEndian.AppendUint64(b, f.Count))
}

// maxCited bounds the records that a finding cites; its count tells of all.
const maxCited = 8

// Detector is not safe for concurrent use: records come in one order.
type Detector struct {
	cfg         Config
	domains     map[string]bool
	open        map[[32]byte]*state
	credentials credentials
	policies    policies
}

// state is a finding that was stated and may go on.
type state struct {
	Finding
	stated  time.Time
	counted uint64 // when it was stated last
}

// New makes a Detector.
func New(cfg Config) *Detector {
	d := &Detector{
		cfg: cfg, domains: map[string]bool{}, open: map[[32]byte]*state{},
		credentials: newCredentials(cfg.MaxCredentials), policies: policies{last: map[string]*change{}},
	}
	for _, td := range cfg.TrustDomains {
		d.domains[td] = true
	}
	return d
}

// Observe looks at a record and calls report for every finding that is to be
// stated now. accept decides, by the record, whether a kind is looked for at all.
func (d *Detector) Observe(r *correlate.Record, now time.Time, accept func(Kind) bool, report func(Finding)) {
	found := func(k Kind, subject, what string) {
		if !accept(k) {
			return
		}
		f := Finding{
			Kind: k, Subject: subject, What: what, First: now, Last: now, Count: 1, Records: []correlate.RecordID{r.ID},
			Source: r.Source.ID, Destination: r.Destination.ID, User: r.User, TraceID: r.TraceID,
		}
		d.count(f, now, report)
	}
	route := name(&r.Source) + " to " + name(&r.Destination)
	request := strings.TrimSpace(r.Method + " " + r.Path)

	if v := r.Verdict; v != nil && v.Enforced && v.Decision == evidence.Deny && served(r) {
		found(DeniedButServed, route+" "+v.PolicyID, fmt.Sprintf("%s: %s was denied by %s, and served with %s", route, request, first(v.PolicyID, v.Engine), status(r)))
	}
	if r.Verdict == nil && r.State == correlate.Complete && served(r) && d.mustDecide(r.Path) {
		found(ServedWithoutDecision, route+" "+r.Path, fmt.Sprintf("%s: %s was served and nobody decided on it", route, request))
	}
	for _, c := range r.Conflicts {
		if c.Field == semconv.SourceSPIFFEID || c.Field == semconv.DestinationSPIFFEID {
			found(IdentityConflict, c.Field+" "+c.Kept+" "+c.Other,
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
	if end := r.TLS.ClientNotAfter; end != 0 && r.Start > end*int64(time.Second) {
		found(ExpiredCertificate, name(&r.Source)+" "+r.TLS.ClientSHA256,
			fmt.Sprintf("%s used a certificate that expired at %s", name(&r.Source), time.Unix(end, 0).UTC().Format(time.RFC3339)))
	}
	if len(d.domains) > 0 {
		for _, p := range [...]*correlate.Party{&r.Source, &r.Destination} {
			if td := p.ID.TrustDomain().Name(); td != "" && !d.domains[td] {
				found(UnknownTrustDomain, td, fmt.Sprintf("%s is of the trust domain %s, which is not configured", p.ID, td))
			}
		}
	}
	if r.TLS.ClientSHA256 != "" && accept(SharedCredential) {
		if one, other, shared := d.credentials.use(r.TLS.ClientSHA256, holder(&r.Source), now); shared {
			found(SharedCredential, r.TLS.ClientSHA256,
				fmt.Sprintf("the certificate %s of %s is used by %s and by %s at once", r.TLS.ClientSHA256, name(&r.Source), one, other))
		}
	}
	if c := d.policies.observe(r); c != nil {
		found(PolicyChanged, c.object, fmt.Sprintf("%s: %s by %s", c.object, first(c.action, "changed"), first(c.by, "nobody known")))
	}
}

// Gap states that evidence is missing.
func (d *Detector) Gap(g *evidence.Gap, now time.Time, accept func(Kind) bool, report func(Finding)) {
	if !accept(EvidenceGap) {
		return
	}
	d.count(Finding{
		Kind: EvidenceGap, Subject: string(g.Source) + " " + g.Reporter.Node + " " + g.Reason, First: now, Last: now, Count: 1,
		What:    fmt.Sprintf("%s of %s lost %s entries: %s", g.Source, first(g.Reporter.Node, "a reporter that is not known"), count(g.Count), g.Reason),
		Records: []correlate.RecordID{sha256.Sum256([]byte(g.Position))},
	}, now, report)
}

// count adds to a finding, and states it if it is new or was stated long ago.
func (d *Detector) count(f Finding, now time.Time, report func(Finding)) {
	f.ID = sha256.Sum256([]byte(string(f.Kind) + "\x00" + f.Subject))
	s := d.open[f.ID]
	if s == nil {
		d.makeRoom()
		s = &state{Finding: f, stated: now, counted: 1}
		d.open[f.ID] = s
		report(s.Finding)
		return
	}
	s.Count++
	s.Last, s.What = now, f.What
	if len(s.Records) < maxCited && !slices.Contains(s.Records, f.Records[0]) {
		s.Records = append(s.Records, f.Records[0])
	}
	if now.Sub(s.stated) >= d.cfg.Repeat {
		d.state(s, now, report)
	}
}

func (d *Detector) state(s *state, now time.Time, report func(Finding)) {
	s.stated, s.counted = now, s.Count
	f := s.Finding
	f.Records = slices.Clone(f.Records)
	report(f)
}

// Advance states again what went on since it was stated, and forgets what has
// ended. Call it once in a while.
func (d *Detector) Advance(now time.Time, report func(Finding)) {
	for id, s := range d.open {
		if now.Sub(s.stated) < d.cfg.Repeat {
			continue
		}
		if s.Count > s.counted {
			d.state(s, now, report)
		} else {
			delete(d.open, id)
		}
	}
}

// makeRoom forgets the finding that was quiet for longest.
func (d *Detector) makeRoom() {
	if len(d.open) < d.cfg.MaxOpen {
		return
	}
	var oldest *state
	for _, s := range d.open {
		if oldest == nil || s.Last.Before(oldest.Last) {
			oldest = s
		}
	}
	if oldest != nil {
		delete(d.open, oldest.ID)
	}
}

func (d *Detector) mustDecide(path string) bool {
	return slices.ContainsFunc(d.cfg.MustDecide, func(p query.Glob) bool { return p.Match(path) })
}

// served: something other than the policy's own denial was answered.
func served(r *correlate.Record) bool {
	if r.GRPCStatus != "" {
		return r.GRPCStatus == "0"
	}
	return r.Status >= 100 && r.Status < 400
}

func status(r *correlate.Record) string {
	if r.GRPCStatus != "" {
		return "gRPC status " + r.GRPCStatus
	}
	return fmt.Sprint(r.Status)
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
