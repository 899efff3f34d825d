package correlate

import (
	"crypto/sha256"
	"slices"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// RecordID names a record: SHA-256 of its anchor's evidence id, or for an
// amendment of the amended record's id and the evidence ids it adds.
type RecordID [32]byte

func (id RecordID) String() string { return evidence.ID(id).String() }

// State says how much of what was expected is in a record.
type State uint8

const (
	Complete State = iota
	Partial
	Ambiguous // a join is in doubt
)

func (s State) String() string { return [...]string{"complete", "partial", "ambiguous"}[s] }

// Reasons for a state other than complete.
const (
	ReasonDeadline   = "deadline"
	ReasonOverload   = "overload"
	ReasonShutdown   = "shutdown"
	ReasonCandidates = "several_candidates"
)

// Outcome of an action.
type Outcome uint8

const (
	Unknown Outcome = iota
	Success
	Failure
)

func (o Outcome) String() string { return [...]string{"unknown", "success", "failure"}[o] }

// Party is the caller or the callee as the record states it.
type Party struct {
	ID       spiffeid.ID // zero: not known
	Proof    evidence.Proof
	From     string // where the identity was stated
	Workload evidence.Workload
	// Configured names the fields of Workload, by their attributes' suffixes, that
	// no evidence states but the configuration.
	Configured []string
	Address    string
	Port       uint16
	Cluster    string // of the source: its own reporter's, which is not written
}

// Attestation cites one piece of evidence.
type Attestation struct {
	ID       evidence.ID
	Digest   [32]byte
	Source   evidence.Source
	Role     evidence.Role
	Reporter evidence.Reporter
	Time     int64 // unix nanoseconds, when the reporter says it began
	Joined   Tier
	Final    bool
}

// Conflict is a statement that disagrees with what the record states. Neither is
// dropped.
type Conflict struct {
	Field      string // the record's attribute that it is about
	Kept       string // what the record states, "" if nothing
	KeptProof  evidence.Proof
	Other      string // bounded
	OtherProof evidence.Proof
	From       string // where the other was stated
	Evidence   evidence.ID
}

// Outside says that a certificate names a peer of no mesh, or of one without SPIFFE: that
// says nothing else than what nobody says.
func (c *Conflict) Outside() bool {
	return c.Kept == "" && c.OtherProof > evidence.ProofClaimed && !strings.HasPrefix(strings.ToLower(c.Other), "spiffe:")
}

// Hop is one station of the action, in order from the caller.
type Hop struct {
	ID       spiffeid.ID
	Role     string // source, waypoint, destination
	Node     string // the reporting proxy's name for itself; a claim
	StreamID string
}

// PolicyChange is the last known change of the policy that decided: who made
// that decision possible.
type PolicyChange struct {
	Record RecordID // the mesh.config.change
	By     string   // user.id, "" if not known
	Time   int64    // unix nanoseconds
}

// Record is one audit record. Zero fields are not stated.
type Record struct {
	EventName string
	ID        RecordID
	Amends    RecordID // of a mesh.amendment

	Start, End int64 // unix nanoseconds; End equals Start if unknown
	TraceID    evidence.TraceID
	SpanID     evidence.SpanID

	Source, Destination Party
	User                string
	Actor               *evidence.Actor
	Act                 *evidence.Act
	Initiator           *Initiator // nil: not known
	Cluster             string

	Method, Path, Route, Host        string
	RPCSystem, RPCService, RPCMethod string
	Topic, MessagingSystem           string
	Protocol, GRPCStatus             string
	Status, ResendCount              int
	Outcome                          Outcome

	TLS          evidence.TLS
	Peer         string // the address that TLS was spoken with, which is not written
	PeerAddress  string // of who connected to the callee, where it is not the client that a header names
	PeerPort     uint16
	Verdict      *evidence.Verdict
	PolicyChange *PolicyChange // not of the correlator: who knows the changes sets it

	Join struct {
		Method                          Tier
		Confidence                      float64 // 0 to 1
		RequestID, StreamID, DecisionID string
	}
	Attestations []Attestation
	Conflicts    []Conflict
	Hops         []Hop
	State        State
	Reason       string

	// Upshot is that of the record and its amendments up to this one, as Fold adds
	// them up; Before that of those before this one.
	Upshot, Before Upshot

	// Examined is of whoever looks at each record once, though it may be handed
	// over more than once.
	Examined bool
}

// Fold adds what those before it said to what the record says.
func (r *Record) Fold(before Upshot) { r.Before, r.Upshot = before, before.and(r.Upshot) }

// amended is the record that r amends, or r itself.
func (r *Record) amended() RecordID {
	if r.Amends != (RecordID{}) {
		return r.Amends
	}
	return r.ID
}

// bytes estimates what a record costs while it waits for the consumer.
func (r *Record) bytes() int { return 1024 + 256*len(r.Attestations) + 128*len(r.Conflicts) }

// statement is a piece's content, for merging.
type statement struct {
	*evidence.Evidence
	place place
	tier  Tier
}

// maxConflicts bounds the conflicts of one record; what is beyond is told by the
// evidence it cites.
const maxConflicts = 16

// merge makes the fields of a record out of statements, strongest place first.
// kept are identities that a record already out states: an amendment is
// compared with those too.
func merge(r *Record, all []statement, kept *stated) {
	anchor := all[0].Evidence
	r.Start, r.End = anchor.Start, max(anchor.Start, anchor.End)
	r.Attestations = make([]Attestation, 0, len(all))

	var buf [8]statement
	calleeFirst, callerFirst := all, byCaller(buf[:0], all)
	// What is said of the destination.
	called := slices.ContainsFunc(all, func(s statement) bool { return s.place.callee() })
	via, toWorkload, to := waypoint(all), calleeFirst, callerFirst
	if via.by != nil {
		toWorkload, to = beyond(all), beyond(all)
	}
	connected := false
	for _, s := range calleeFirst {
		e := s.Evidence
		keep(&r.TraceID, e.TraceID)
		if s.place != decision {
			keep(&r.SpanID, e.SpanID)
		}
		keep(&r.Method, e.Method)
		keep(&r.Path, e.Path)
		keep(&r.Route, e.Route)
		keep(&r.RPCSystem, e.RPCSystem)
		keep(&r.RPCService, e.RPCService)
		keep(&r.RPCMethod, e.RPCMethod)
		keep(&r.Topic, e.Topic)
		keep(&r.MessagingSystem, e.MessagingSystem)
		keep(&r.Protocol, e.Protocol)
		keep(&r.Status, e.Status)
		keep(&r.GRPCStatus, e.GRPCStatus)
		if !called || !s.place.caller() { // who tells of the last attempt, and not of this one
			keep(&r.ResendCount, e.ResendCount)
		}
		keep(&r.User, e.User)
		// A caller's proxy may tell of the token that came to it, and have got another.
		if r.isUser(e) && (r.Actor == nil || !s.place.caller()) {
			mergeActor(&r.Actor, e.Actor)
		}
		keep(&r.Act, e.Act)
		keep(&r.Cluster, e.Cluster)
		keep(&r.Join.RequestID, e.RequestID)
		if s.place != decision {
			keep(&r.Join.StreamID, e.StreamID)
		}
		keep(&r.Join.DecisionID, e.DecisionID)
		// What a caller's proxy tells of TLS is of the hop before this one, but
		// for why it could not connect.
		if !r.TLS.Known && (s.place.callee() && e.TLS.Known || e.TLS.FailureReason != "") {
			r.TLS = e.TLS
			r.TLS.Known = true
			if s.place.callee() {
				if r.Peer = e.PeerAddress; r.Peer == "" {
					r.Peer = e.From.Address
				}
			}
		}
		if s.place.callee() && !connected && (e.From.Address != "" || e.PeerAddress != "") {
			// Who connects to what stands behind the callee's proxy is the proxy.
			connected = true
			r.PeerAddress, r.PeerPort = e.PeerAddress, e.PeerPort
		}
		r.Attestations = append(r.Attestations, Attestation{
			ID: e.ID, Digest: e.Digest, Source: e.Source, Role: e.Role, Reporter: e.Reporter,
			Time: e.Start, Joined: s.tier, Final: e.Final,
		})
	}
	for _, s := range callerFirst {
		keep(&r.Host, s.Host)
		if s.place.caller() {
			keep(&r.Source.Cluster, s.Cluster)
		}
		mergeWorkload(&r.Source.Workload, &s.From.Workload)
	}
	for _, s := range toWorkload {
		mergeWorkload(&r.Destination.Workload, &s.To.Workload)
	}
	mergeAddress(&r.Source, calleeFirst, func(e *evidence.Evidence) *evidence.Party { return &e.From })
	mergeAddress(&r.Destination, to, func(e *evidence.Evidence) *evidence.Party { return &e.To })
	if kept != nil {
		r.Source.ID, r.Source.Proof = value(kept.source), kept.sourceProof
		r.Destination.ID, r.Destination.Proof = value(kept.destination), kept.destinationProof
	}
	// Who terminated the connection saw the peer's certificate: the callee's
	// word counts for the source, the caller's for the destination.
	r.identity(&r.Source, semconv.SourceSPIFFEID, calleeFirst, func(e *evidence.Evidence) []evidence.Identity { return e.From.Identities })
	r.identity(&r.Destination, semconv.DestinationSPIFFEID, to, func(e *evidence.Evidence) []evidence.Identity { return e.To.Identities })
	r.verdict(all, kept)
	r.disagree(all)
	r.hops(all, via)
	r.Upshot = upshot(all)
	r.Upshot.Ambiguous = r.State == Ambiguous
	r.Outcome = outcome(r, all, kept)
}

// keep sets dst if nobody stronger did.
func keep[T comparable](dst *T, v T) {
	var zero T
	if *dst == zero {
		*dst = v
	}
}

// byCaller appends statements to dst, caller first.
func byCaller(dst, all []statement) []statement {
	for _, caller := range [...]bool{true, false} {
		for _, s := range all {
			if s.place.caller() == caller {
				dst = append(dst, s)
			}
		}
	}
	return dst
}

// isUser says whether a statement names the record's user, or nobody. Istio calls
// the subject of a token ISSUER/SUBJECT.
func (r *Record) isUser(e *evidence.Evidence) bool {
	if e.User == "" || e.User == r.User {
		return true
	}
	for _, a := range [...]*evidence.Actor{r.Actor, e.Actor} {
		if a != nil && a.Token.Issuer != "" && (r.User == a.Token.Issuer+"/"+e.User || e.User == a.Token.Issuer+"/"+r.User) {
			return true
		}
	}
	return false
}

// mergeActor adds what another statement says of who acts. Fields of two tokens must
// not mix: one that differs in any adds nothing. To what a token is bound, who knows
// judges the proof.
func mergeActor(dst **evidence.Actor, a *evidence.Actor) {
	if *dst == nil || a == nil {
		keep(dst, a)
		return
	}
	sum, proof := **dst, a.Token.Proof
	if sum.Token.Proof != "" && (proof == "" || sum.Token.Bound != "" || a.Token.Bound == "") {
		proof = sum.Token.Proof
	}
	sum.Token.Proof = proof
	for i, s := range actorFields(&sum) {
		other := *actorFields(a)[i]
		if s != &sum.Token.Proof && *s != "" && other != "" && *s != other {
			return
		}
		keep(s, other)
	}
	if len(sum.Roles) == 0 {
		sum.Roles = a.Roles
	}
	if len(sum.Delegation) == 0 {
		sum.Delegation = a.Delegation
	}
	if len(a.Roles) > 0 && !slices.Equal(sum.Roles, a.Roles) || len(a.Delegation) > 0 && !slices.Equal(sum.Delegation, a.Delegation) {
		return
	}
	*dst = &sum
}

func mergeWorkload(dst, w *evidence.Workload) {
	// Fields of two workloads must not mix: after the first that gives a name
	// only statements about the same one add to it. Nor those of two versions. One pod
	// is of one workload and version, whatever they are called.
	if differ(dst.Namespace, w.Namespace) || differ(dst.PodName, w.PodName) || differ(dst.PodUID, w.PodUID) {
		return
	}
	named := !differ(dst.Name, w.Name)
	pod := dst.PodName != "" && dst.PodName == w.PodName || dst.PodUID != "" && dst.PodUID == w.PodUID
	if !pod && (!named || differ(dst.Version, w.Version) || differ(dst.Revision, w.Revision) || differ(dst.ImageDigest, w.ImageDigest)) {
		return
	}
	keep(&dst.Name, w.Name)
	keep(&dst.Namespace, w.Namespace)
	if named {
		keep(&dst.Kind, w.Kind)
	}
	keep(&dst.Version, w.Version)
	keep(&dst.Revision, w.Revision)
	keep(&dst.PodName, w.PodName)
	keep(&dst.PodUID, w.PodUID)
	keep(&dst.Node, w.Node)
	keep(&dst.ImageDigest, w.ImageDigest)
}

func mergeAddress(dst *Party, all []statement, of func(*evidence.Evidence) *evidence.Party) {
	for _, s := range all {
		if p := of(s.Evidence); p.Address != "" {
			dst.Address, dst.Port = p.Address, p.Port
			break
		}
	}
	if dst.Port != portHBONE {
		return
	}
	for _, there := range [...]bool{true, false} { // a tunnel's end is not what was called, nor a waypoint's port
		for _, s := range all {
			if p := of(s.Evidence); p.Address != "" && (p.Address == dst.Address || !there) && p.Port != 0 && p.Port != portHBONE {
				dst.Address, dst.Port = p.Address, p.Port
				return
			}
		}
	}
}

// identity settles who a party is: the strongest proof wins, then the order of
// all. Whatever names someone else, or nobody, is a conflict.
func (r *Record) identity(p *Party, field string, all []statement, of func(*evidence.Evidence) []evidence.Identity) {
	settled := !p.ID.IsZero()
	for _, s := range all {
		for _, id := range of(s.Evidence) {
			if id.ID.IsZero() || !p.ID.IsZero() && id.Proof <= p.Proof {
				continue
			}
			if settled && id.ID != p.ID {
				r.conflict(Conflict{Field: field, Kept: id.ID.String(), KeptProof: id.Proof,
					Other: p.ID.String(), OtherProof: p.Proof, From: "amended record", Evidence: s.ID})
				settled = false
			}
			p.ID, p.Proof, p.From = id.ID, id.Proof, id.From
		}
	}
	for _, s := range all {
		for _, id := range of(s.Evidence) {
			switch {
			case id.ID.IsZero():
				r.conflict(Conflict{Field: field, Kept: p.ID.String(), KeptProof: p.Proof,
					Other: id.Invalid, OtherProof: id.Proof, From: id.From, Evidence: s.ID})
			case id.ID != p.ID:
				r.conflict(Conflict{Field: field, Kept: p.ID.String(), KeptProof: p.Proof,
					Other: id.ID.String(), OtherProof: id.Proof, From: id.From, Evidence: s.ID})
			}
		}
	}
}

// AddConflict adds what disagrees with the record and is not of its evidence.
func (r *Record) AddConflict(c Conflict) { r.conflict(c) }

func (r *Record) conflict(c Conflict) {
	for _, have := range r.Conflicts {
		if have.Field == c.Field && have.Other == c.Other && have.From == c.From && have.Evidence == c.Evidence {
			return
		}
	}
	if len(r.Conflicts) < maxConflicts {
		r.Conflicts = append(r.Conflicts, c)
	}
}

// verdict settles what was decided: field by field the policy engine's own
// word before that of a proxy. What a dry run would have decided counts where nothing
// was enforced, and is nothing that contradicts what was.
func (r *Record) verdict(all []statement, kept *stated) {
	var ordered []statement
	for _, enforced := range [...]bool{true, false} {
		if !enforced && len(ordered) > 0 {
			break
		}
		for _, own := range [...]bool{true, false} {
			for _, s := range all {
				if v := s.Verdict; v != nil && v.Enforced == enforced && (s.place == decision) == own {
					ordered = append(ordered, s)
				}
			}
		}
	}
	if len(ordered) == 0 {
		return
	}
	v := *ordered[0].Verdict
	r.Verdict = &v
	if kept == nil {
		kept = new(stated)
	}
	if kept.decided != "" && kept.decided != v.Decision && !kept.dryRun && v.Enforced {
		r.conflict(Conflict{Field: semconv.AuthzDecision, Kept: string(v.Decision),
			Other: string(kept.decided), From: "amended record", Evidence: ordered[0].ID})
	}
	for _, s := range ordered[1:] {
		w := s.Verdict
		if w.Decision != v.Decision && w.Decision != "" {
			r.conflict(Conflict{Field: semconv.AuthzDecision, Kept: string(v.Decision),
				Other: string(w.Decision), From: w.Engine, Evidence: s.ID})
			continue // nothing of a verdict that says otherwise is mixed in
		}
		if w.DecisionID != "" && v.DecisionID != "" && w.DecisionID != v.DecisionID {
			r.conflict(Conflict{Field: semconv.AuthzDecisionID, Kept: v.DecisionID,
				Other: w.DecisionID, From: w.Engine, Evidence: s.ID})
			continue
		}
		keep(&v.Engine, w.Engine)
		keep(&v.Reason, w.Reason)
		keep(&v.DecisionID, w.DecisionID)
		if keep(&v.PolicyID, w.PolicyID); v.PolicyID == w.PolicyID { // else it is another's namespace
			keep(&v.PolicyNamespace, w.PolicyNamespace)
			keep(&v.PolicyRevision, w.PolicyRevision)
		}
	}
	*r.Verdict = v
}

// disagree finds other statements that differ: method, user, and the status,
// unless a retry lies between the two reports.
func (r *Record) disagree(all []statement) {
	retried := false
	for _, s := range all {
		retried = retried || s.ResendCount > 0
	}
	for _, s := range all {
		e := s.Evidence
		if e.Method != "" && e.Method != r.Method {
			r.conflict(Conflict{Field: semconv.HTTPRequestMethod, Kept: r.Method, Other: e.Method, From: string(e.Source), Evidence: e.ID})
		}
		if !r.isUser(e) {
			r.conflict(Conflict{Field: semconv.UserID, Kept: r.User, Other: e.User, From: string(e.Source), Evidence: e.ID})
		}
		if e.Status != 0 && e.Status != r.Status && s.place != decision && !retried && e.Final {
			r.conflict(Conflict{Field: semconv.HTTPResponseStatusCode, Kept: itoa(r.Status), Other: itoa(e.Status), From: string(e.Source), Evidence: e.ID})
		}
	}
}

// A waypoint stands between the caller and the callee: it is asked in the
// callee's place and asks the callee itself.
type via struct {
	by *evidence.Evidence // its report, nil if there is none or nothing is known of what lies beyond
	id spiffeid.ID        // its own, zero if not stated
}

// atWaypoint: Istio's waypoints say that they are in their node id.
func (s statement) atWaypoint() bool {
	return s.place.callee() && strings.HasPrefix(s.Reporter.Node, waypointNode)
}

// atCallee: the callee's own, which may be behind a waypoint.
func (s statement) atCallee() bool { return s.place.callee() && !s.atWaypoint() }

// waypoint finds the report of a waypoint in an action in which the callee
// behind it reports too.
func waypoint(all []statement) (v via) {
	i := slices.IndexFunc(all, statement.atWaypoint)
	if i < 0 || !slices.ContainsFunc(all, statement.atCallee) {
		return v
	}
	v.by, v.id = all[i].Evidence, all[i].Reporter.SPIFFEID
	for _, id := range all[i].To.Identities {
		keep(&v.id, id.ID)
	}
	return v
}

// beyond gives the callee's own statements when a waypoint stands before it:
// the caller and the waypoint speak of the waypoint as the destination.
func beyond(all []statement) []statement {
	var out []statement
	for _, s := range all {
		if s.atCallee() {
			out = append(out, s)
		}
	}
	return out
}

// hops tells the stations with the proxy that reported each.
func (r *Record) hops(all []statement, via via) {
	source := Hop{ID: r.Source.ID, Role: "source"}
	destination := Hop{ID: r.Destination.ID, Role: "destination"}
	for _, s := range all {
		var h *Hop
		switch {
		case via.by != nil && s.atWaypoint():
			continue
		case s.place.caller():
			h = &source
		case s.place.callee():
			h = &destination
		default:
			continue
		}
		keep(&h.Node, s.Reporter.Node)
		keep(&h.StreamID, s.StreamID)
	}
	if via.by == nil {
		r.Hops = []Hop{source, destination}
		return
	}
	r.Hops = []Hop{source, {ID: via.id, Role: "waypoint", Node: via.by.Reporter.Node, StreamID: via.by.StreamID}, destination}
}

// outcome is what came of an action: of a call what its callee's side says before what
// was decided.
func outcome(r *Record, all []statement, kept *stated) Outcome {
	if r.Act != nil {
		switch r.Act.Outcome {
		case Success.String():
			return Success
		case Failure.String():
			return Failure
		}
	}
	if v := r.Verdict; v != nil && v.Enforced && v.Decision == evidence.Deny {
		u := r.Upshot
		if kept != nil {
			u = kept.upshot.and(u)
		}
		if u.Answer == Served && u.By > Caller {
			return Success
		}
		return Failure
	}
	for _, s := range all {
		if s.Failed && !s.place.caller() {
			return Failure
		}
	}
	switch {
	case r.GRPCStatus != "" && r.GRPCStatus != "0", r.Status >= 400:
		return Failure
	case r.GRPCStatus == "0", r.Status >= 100:
		return Success
	}
	for _, s := range all {
		if s.Failed {
			return Failure
		}
	}
	return Unknown
}

// recordID of a new record, or of an amendment with what it adds.
func recordID(anchor evidence.ID) RecordID { return sha256.Sum256(anchor[:]) }

func amendmentID(amends RecordID, adds []statement) RecordID {
	h := sha256.New()
	h.Write(amends[:])
	for _, s := range adds {
		h.Write(s.ID[:])
	}
	return RecordID(h.Sum(nil))
}

func itoa(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}
