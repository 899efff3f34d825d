package correlate

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
	"strings"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// A waiting piece's content is packed: a tenth of the memory of an Evidence with
// its eighty mostly empty fields, nothing that the garbage collector must follow,
// and a copy, so that nothing of the sender's buffers is retained.

// Bounds of what is kept of one piece, in bytes and in statements. What is
// longer is cut; the sealed evidence has all of it.
const (
	maxString     = evidence.MaxName
	maxPath       = evidence.MaxPath // path, reason and detail
	maxSPIFFEID   = 2048             // the SPIFFE ID standard's own limit
	maxIdentities = evidence.MaxIdentities
)

var errPacked = errors.New("correlate: packed evidence is damaged")

// stringFields lists every string of e that is packed, in a fixed order.
func stringFields(e *evidence.Evidence) [50]*string {
	return [50]*string{
		&e.StreamID, &e.RequestID, &e.DecisionID, &e.Position,
		&e.Method, &e.Path, &e.Route, &e.Host,
		&e.RPCSystem, &e.RPCService, &e.RPCMethod, &e.Topic, &e.MessagingSystem, &e.Protocol,
		&e.GRPCStatus, &e.StatusDetail, &e.ResponseFlags, &e.User, &e.Cluster,
		&e.Reporter.CertSHA256, &e.Reporter.Address, &e.Reporter.Node,
		&e.TLS.Version, &e.TLS.Cipher, &e.TLS.ClientSHA256, &e.TLS.ClientSerial, &e.TLS.ClientIssuer, &e.TLS.FailureReason,
		(*string)(&e.Source),
		&e.From.Address, &e.To.Address, &e.PeerAddress,
		&e.From.Workload.Name, &e.From.Workload.Namespace, &e.From.Workload.Kind,
		&e.From.Workload.Version, &e.From.Workload.Revision, &e.From.Workload.PodName,
		&e.From.Workload.PodUID, &e.From.Workload.Node, &e.From.Workload.ImageDigest,
		&e.To.Workload.Name, &e.To.Workload.Namespace, &e.To.Workload.Kind,
		&e.To.Workload.Version, &e.To.Workload.Revision, &e.To.Workload.PodName,
		&e.To.Workload.PodUID, &e.To.Workload.Node, &e.To.Workload.ImageDigest,
	}
}

// verdictFields lists the strings of v that are packed, in a fixed order.
func verdictFields(v *evidence.Verdict) [7]*string {
	return [7]*string{
		&v.Engine, (*string)(&v.Decision), &v.Reason, &v.PolicyID,
		&v.PolicyNamespace, &v.PolicyRevision, &v.DecisionID,
	}
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// Flag bits of a packed piece.
const (
	flagFinal = 1 << iota
	flagFailed
	flagAuthenticated
	flagTLSKnown
	flagTLSEstablished
	flagTLSMutual
	flagVerdict
	flagEnforced
	flagDefaultDeny
	flagActor
	flagAct
	flagPeerPort
)

// pack appends e to b. Ids, times and span kind stand on the piece itself
// and are not packed.
func pack(b []byte, e *evidence.Evidence) []byte {
	var flags uint64
	flag := func(set bool, bit uint64) {
		if set {
			flags |= bit
		}
	}
	flag(e.Final, flagFinal)
	flag(e.Failed, flagFailed)
	flag(e.Reporter.Authenticated, flagAuthenticated)
	flag(e.TLS.Known, flagTLSKnown)
	flag(e.TLS.Established, flagTLSEstablished)
	flag(e.TLS.Mutual, flagTLSMutual)
	if e.Verdict != nil {
		flags |= flagVerdict
		flag(e.Verdict.Enforced, flagEnforced)
		flag(e.Verdict.DefaultDeny, flagDefaultDeny)
	}
	flag(e.Actor != nil, flagActor)
	flag(e.Act != nil, flagAct)
	flag(e.PeerPort != 0, flagPeerPort)
	b = binary.AppendUvarint(b, flags)
	b = append(b, byte(e.Event))
	b = binary.AppendVarint(b, int64(e.Status))
	b = binary.AppendVarint(b, int64(e.ResendCount))
	b = binary.AppendVarint(b, e.TLS.ClientNotAfter)
	b = binary.AppendUvarint(b, uint64(e.From.Port))
	b = binary.AppendUvarint(b, uint64(e.To.Port))
	if e.PeerPort != 0 {
		b = binary.AppendUvarint(b, uint64(e.PeerPort))
	}
	b = append(b, e.Digest[:]...)
	b = appendString(b, e.Reporter.SPIFFEID.String())
	b = appendIdentities(b, e.From.Identities)
	b = appendIdentities(b, e.To.Identities)

	// Most strings are empty: a bitmap says which are there.
	var set uint64
	at := len(b)
	b = append(b, make([]byte, 8)...)
	for i, s := range stringFields(e) {
		if *s == "" {
			continue
		}
		set |= 1 << i
		n := maxString
		if s == &e.Path || s == &e.StatusDetail {
			n = maxPath
		}
		b = appendString(b, clip(*s, n))
	}
	binary.LittleEndian.PutUint64(b[at:], set)
	if e.Verdict != nil {
		for _, s := range verdictFields(e.Verdict) {
			n := maxString
			if s == &e.Verdict.Reason {
				n = maxPath
			}
			b = appendString(b, clip(*s, n))
		}
	}
	if e.Actor != nil {
		b = appendActor(b, e.Actor)
	}
	if e.Act != nil {
		for _, s := range actFields(e.Act) {
			b = appendString(b, clip(*s, maxString))
		}
		b = binary.AppendVarint(b, e.Act.NotAfter)
	}
	return b
}

// actFields lists the strings of a that are packed, in a fixed order.
func actFields(a *evidence.Act) [11]*string {
	return [11]*string{
		&a.Action, &a.Outcome, &a.TargetID, &a.TargetType,
		&a.Change.Group, &a.Change.Resource, &a.Change.Namespace, &a.Change.Name,
		&a.Change.Verb, &a.Change.DiffSHA256, &a.Change.Revision,
	}
}

// actorFields lists the strings of a that are packed, lists aside.
func actorFields(a *evidence.Actor) [10]*string {
	return [10]*string{
		&a.Type, &a.Impersonator,
		&a.Token.Issuer, &a.Token.Audience, &a.Token.AuthorizedParty, &a.Token.JKT, &a.Token.X5T,
		&a.Token.IDHash, &a.Token.Bound, &a.Token.Proof,
	}
}

func appendActor(b []byte, a *evidence.Actor) []byte {
	for _, s := range actorFields(a) {
		b = appendString(b, clip(*s, maxString))
	}
	roles := a.Roles[:min(len(a.Roles), evidence.MaxRoles)]
	b = binary.AppendUvarint(b, uint64(len(roles)))
	for _, r := range roles {
		b = appendString(b, clip(r, maxString))
	}
	chain := a.Delegation[:min(len(a.Delegation), evidence.MaxDelegates)]
	b = binary.AppendUvarint(b, uint64(len(chain)))
	for _, d := range chain {
		b = appendString(b, clip(d.Issuer, maxString))
		b = appendString(b, clip(d.Subject, maxString))
	}
	return b
}

func (u *unpacker) actor() *evidence.Actor {
	a := new(evidence.Actor)
	for _, s := range actorFields(a) {
		*s = u.str()
	}
	for range u.count(evidence.MaxRoles) {
		a.Roles = append(a.Roles, u.str())
	}
	for range u.count(evidence.MaxDelegates) {
		a.Delegation = append(a.Delegation, evidence.Delegate{Issuer: u.str(), Subject: u.str()})
	}
	return a
}

// count reads the length of a list of at most limit.
func (u *unpacker) count(limit uint64) uint64 {
	n := u.uvarint()
	if n > limit {
		u.bad = true
		return 0
	}
	return n
}

func appendIdentities(b []byte, ids []evidence.Identity) []byte {
	ids = ids[:min(len(ids), maxIdentities)]
	b = binary.AppendUvarint(b, uint64(len(ids)))
	for _, id := range ids {
		b = append(b, byte(id.Proof))
		if s := id.ID.String(); s != "" && len(s) <= maxSPIFFEID {
			b = appendString(b, s)
			b = appendString(b, "")
		} else {
			b = appendString(b, "")
			b = appendString(b, clip(id.Invalid+s, maxString))
		}
		b = appendString(b, clip(id.From, maxString))
	}
	return b
}

// unpacker reads a packed piece; after the first error it returns zeros.
type unpacker struct {
	s   string
	ids *ids
	bad bool
}

func (u *unpacker) uvarint() uint64 {
	var v uint64
	for i := 0; i < min(len(u.s), binary.MaxVarintLen64); i++ {
		c := u.s[i]
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			u.s = u.s[i+1:]
			return v
		}
	}
	u.bad = true
	return 0
}

func (u *unpacker) varint() int64 {
	v := u.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

func (u *unpacker) take(n uint64) string {
	if u.bad || n > uint64(len(u.s)) {
		u.bad = true
		return ""
	}
	s := u.s[:n]
	u.s = u.s[n:]
	return s
}

func (u *unpacker) str() string { return u.take(u.uvarint()) }

func (u *unpacker) spiffeID() spiffeid.ID {
	s := u.str()
	if s == "" {
		return spiffeid.ID{}
	}
	id, err := u.ids.parse(s)
	if err != nil {
		u.bad = true
	}
	return id
}

// ids keeps SPIFFE IDs that were parsed, so that the same few are not parsed, and
// kept, for each record. They must not be changed.
type ids struct {
	known map[string]*spiffeid.ID
	list  []evidence.Identity // what unpacked evidence has, until it is cut
}

const maxIDs = 1 << 12 // of which one is, with what it keeps, some 200 bytes

func (all *ids) parse(s string) (spiffeid.ID, error) {
	if id := all.known[s]; id != nil {
		return *id, nil
	}
	id, err := spiffeid.FromString(strings.Clone(s))
	if err != nil {
		return id, err
	}
	return *all.shared(id), nil
}

func (all *ids) shared(id spiffeid.ID) *spiffeid.ID {
	if known := all.known[id.String()]; known != nil {
		return known
	}
	if all.known == nil || len(all.known) == maxIDs {
		all.known = make(map[string]*spiffeid.ID)
	}
	kept := id
	all.known[id.String()] = &kept
	return &kept
}

func (u *unpacker) identities() []evidence.Identity {
	n := u.uvarint()
	if n == 0 || n > maxIdentities {
		u.bad = u.bad || n != 0
		return nil
	}
	from := len(u.ids.list)
	u.ids.list = append(u.ids.list, make([]evidence.Identity, n)...)
	ids := u.ids.list[from:len(u.ids.list):len(u.ids.list)]
	for i := range ids {
		if proof := u.take(1); proof != "" {
			ids[i].Proof = evidence.Proof(proof[0])
		}
		ids[i].ID, ids[i].Invalid, ids[i].From = u.spiffeID(), u.str(), u.str()
	}
	return ids
}

// unpack reads what pack wrote into e. The strings of e share packed's memory, its
// SPIFFE IDs that of ids.
func unpack(packed string, e *evidence.Evidence, ids *ids) error {
	u := &unpacker{s: packed, ids: ids}
	flags := u.uvarint()
	if event := u.take(1); event != "" {
		e.Event = evidence.Event(event[0])
	}
	e.Final = flags&flagFinal != 0
	e.Failed = flags&flagFailed != 0
	status, resends := u.varint(), u.varint()
	if status < math.MinInt32 || status > math.MaxInt32 || resends < math.MinInt32 || resends > math.MaxInt32 {
		return errPacked
	}
	e.Status, e.ResendCount = int(status), int(resends)
	e.TLS.ClientNotAfter = u.varint()
	e.From.Port, e.To.Port = uint16(u.uvarint()), uint16(u.uvarint())
	if flags&flagPeerPort != 0 {
		e.PeerPort = uint16(u.uvarint())
	}
	copy(e.Digest[:], u.take(uint64(len(e.Digest))))
	e.Reporter.SPIFFEID = u.spiffeID()
	e.From.Identities, e.To.Identities = u.identities(), u.identities()

	var set uint64
	if s := u.take(8); s != "" {
		set = binary.LittleEndian.Uint64([]byte(s))
	}
	fields := stringFields(e)
	for ; set != 0; set &= set - 1 {
		i := bits.TrailingZeros64(set)
		if i >= len(fields) {
			return errPacked
		}
		*fields[i] = u.str()
	}
	e.Reporter.Authenticated = flags&flagAuthenticated != 0
	e.TLS.Known = flags&flagTLSKnown != 0
	e.TLS.Established = flags&flagTLSEstablished != 0
	e.TLS.Mutual = flags&flagTLSMutual != 0
	if flags&flagVerdict != 0 {
		e.Verdict = &evidence.Verdict{
			Enforced:    flags&flagEnforced != 0,
			DefaultDeny: flags&flagDefaultDeny != 0,
		}
		for _, s := range verdictFields(e.Verdict) {
			*s = u.str()
		}
	}
	if flags&flagActor != 0 {
		e.Actor = u.actor()
	}
	if flags&flagAct != 0 {
		e.Act = new(evidence.Act)
		for _, s := range actFields(e.Act) {
			*s = u.str()
		}
		e.Act.NotAfter = u.varint()
	}
	if u.bad || u.s != "" {
		return errPacked
	}
	return nil
}
