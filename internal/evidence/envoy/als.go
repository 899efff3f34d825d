package envoy

import (
	"crypto/tls"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	als "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/protobuf/proto"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/token"
)

// Where an identity was stated.
const (
	fromPeerSAN       = "tls.peer.san"
	fromLocalSAN      = "tls.local.san"
	fromPeerDNS       = "tls.peer.dns_san"
	fromPeerSubject   = "tls.peer.subject"
	fromUpstreamLocal = "tls.upstream.local.san"

	fromUpstreamPeer    = "tls.upstream.peer.san"
	fromUpstreamDNS     = "tls.upstream.peer.dns_san"
	fromUpstreamSubject = "tls.upstream.peer.subject"
	fromIstioAuthn      = "istio_authn.source.principal"

	fromPeerPrincipal  = "istio.peer_principal"
	fromLocalPrincipal = "istio.local_principal"
)

// waypoint is the type of a node whose requests come out of a tunnel (HBONE): its
// access log sees no TLS, though the tunnel had it.
const waypoint = "waypoint"

// Filter states in which Istio keeps who the ends of a tunnel are.
const (
	peerPrincipal  = "io.istio.peer_principal"
	localPrincipal = "io.istio.local_principal"
)

// An Entry is one access log entry as evidence, and its access log type by
// Envoy's name.
type Entry struct {
	evidence.Evidence
	Type string
}

// Kinds of entries.
const (
	KindHTTP = "http"
	KindTCP  = "tcp"
)

// maxBatch bounds how many entries stand in memory at a time: on the wire one may
// be of two bytes.
const maxBatch = 1000

// Decode reads a serialized StreamAccessLogsMessage. node is the stream's, which
// the message may state anew. take is given the entries in their order, some of
// one kind at a time; it must not keep them, but may keep their strings. The
// positions are left to the caller, who knows the stream.
//
// Of a message that is malformed nothing is taken, unless it is so long that
// entries before the fault were.
func Decode(node *Node, message string, take func(kind string, entries []Entry)) error {
	d := decoders.Get().(*decoder)
	defer decoders.Put(d)
	d.node, d.take = node, take
	defer d.reset()
	w := wire{s: message}
	for w.more() {
		switch f := w.next(); f.tag {
		case 1<<3 | bytesType:
			if err := identifier(node, f.s); err != nil {
				return err
			}
		case 2<<3 | bytesType:
			w.require(d.entries(KindHTTP, f.s))
		case 3<<3 | bytesType:
			w.require(d.entries(KindTCP, f.s))
		}
	}
	if w.bad {
		return errWire
	}
	d.flush()
	return nil
}

// A decoder is the memory that reading messages takes. Between messages it holds
// on to none of them: all is zero but the identities, which are copies.
type decoder struct {
	node  *Node
	take  func(kind string, entries []Entry)
	kind  string
	batch []Entry
	tags  labels
	ids   evidence.KnownIDs
}

var decoders = sync.Pool{New: func() any { return new(decoder) }}

func (d *decoder) reset() {
	d.clear()
	d.tags = labels{}
	d.node, d.take = nil, nil
}

// flush hands on what was read.
func (d *decoder) flush() {
	if len(d.batch) > 0 {
		d.take(d.kind, d.batch)
		d.clear()
	}
}

// clear keeps the lists of identities as memory.
func (d *decoder) clear() {
	for i := range d.batch {
		e := &d.batch[i]
		from, to := e.From.Identities, e.To.Identities
		*e = Entry{}
		clear(from)
		clear(to)
		e.From.Identities, e.To.Identities = from[:0], to[:0]
	}
	d.batch = d.batch[:0]
}

// next is the place of an entry that is to be read.
func (d *decoder) next(kind string) *Entry {
	if d.kind != kind || len(d.batch) == maxBatch {
		d.flush()
		d.kind = kind
	}
	if len(d.batch) < cap(d.batch) {
		d.batch = d.batch[:len(d.batch)+1] // zero, with its lists' memory
	} else {
		d.batch = append(d.batch, Entry{})
	}
	return &d.batch[len(d.batch)-1]
}

// entries reads HTTPAccessLogEntries or TCPAccessLogEntries.
func (d *decoder) entries(kind, message string) bool {
	w := wire{s: message}
	in := entry{tags: &d.tags, ids: &d.ids}
	for w.more() {
		f := w.next()
		if f.tag != 1<<3|bytesType {
			continue
		}
		out := d.next(kind)
		if kind == KindHTTP {
			w.require(in.decodeHTTP(d.node, f.s, out))
		} else {
			w.require(in.decodeTCP(d.node, f.s, out))
		}
		in.reset()
	}
	return !w.bad
}

// identifier reads the message's Identifier, which comes once a stream.
func identifier(node *Node, message string) error {
	var id alsv3.StreamAccessLogsMessage_Identifier
	if err := proto.Unmarshal([]byte(message), &id); err != nil {
		return errWire
	}
	*node = ReadNode(id.GetNode())
	return nil
}

// decodeHTTP reads an HTTP entry into out, which is zero, as in is.
func (in *entry) decodeHTTP(node *Node, message string, out *Entry) bool {
	if !in.http(message) {
		return false
	}
	e := &out.Evidence
	out.Type = logTypes.name(in.logType)
	e.Method = methods.name(in.method)
	e.Path = evidence.PathOnly(first(in.originalPath, in.path))
	e.Host = evidence.Authority(in.authority)
	e.RequestID = evidence.Text(first(in.requestID, in.headers.RequestID), evidence.MaxName)
	e.Protocol = httpVersions.name(in.protocol)
	e.Status = int(uint32(in.code))
	e.StatusDetail = statusDetail(in.details)
	if e.GRPCStatus = decimal(first(in.grpcTrailer, in.grpcHeader)); e.GRPCStatus != "" || in.headers.GRPC {
		RPC(e)
	}
	in.apply(node, e)
	in.headers.Claims(e)
	applyTrace(e, in.headers.Trace())
	if e.Role == evidence.RoleCallee && in.headers.AttemptCount > 1 {
		e.ResendCount = in.headers.AttemptCount - 1
	}
	in.headers.Proof(e)
	return !in.broken
}

// decodeTCP: who spoke with whom, and whether that was allowed, without method
// and path.
func (in *entry) decodeTCP(node *Node, message string, out *Entry) bool {
	if !in.tcp(message) {
		return false
	}
	e := &out.Evidence
	out.Type = logTypes.name(in.logType)
	e.Event = evidence.EventConnection
	e.Protocol = "tcp"
	e.StatusDetail = statusDetail(in.termination)
	e.Host = evidence.Authority(in.tls.serverName)
	in.apply(node, e)
	return !in.broken
}

// apply states the common properties.
func (in *entry) apply(node *Node, e *evidence.Evidence) {
	e.Source = evidence.SourceEnvoyALS
	e.Reporter.Node = node.ID
	e.Cluster = node.Cluster
	e.Final = in.final()
	e.ResponseFlags = flagText(in.flags)
	e.Failed = e.Status == 0 && e.ResponseFlags != ""
	e.Route = routeTemplate(in.route)
	in.times(e)
	if id := evidence.Text(in.streamID, evidence.MaxName); id != e.RequestID {
		e.StreamID = id
	}
	e.Verdict = verdictOf(e.StatusDetail, e.ResponseFlags)
	in.applyMetadata(e)

	local, localPort := in.socket(in.local)
	s := stand{
		node: node, cluster: in.cluster, details: e.StatusDetail,
		hasUpstream:     in.upstreamRemote != "",
		peerCertificate: in.tls.peer.given,
		localAddress:    local,
		listener:        in.tags.direction(),
	}
	e.Role = s.role()
	if e.Role == evidence.RoleCaller {
		in.caller(node, e)
	} else {
		e.To.Address, e.To.Port = local, localPort
		in.callee(node, e)
	}
	peers(&in.peers, e)
	if in.tagged {
		in.tags.apply(e)
	}
	token.ApplyCertificate(e)
	setEvent(e)
}

// setEvent tells a failed login and a failed handshake from a request and a
// connection.
func setEvent(e *evidence.Evidence) {
	switch {
	case e.TLS.FailureReason != "":
		e.Event = evidence.EventHandshake
	case e.Verdict != nil && authenticates(e.Verdict):
		e.Event = evidence.EventAuthn
	}
}

// transportFailure states why the handshake failed. Envoy gives the same field to a
// connection that could not be made at all.
func transportFailure(e *evidence.Evidence, reason string) {
	reason = evidence.Text(reason, evidence.MaxDetail)
	if strings.Contains(reason, "TLS") || strings.Contains(reason, "SSL") {
		e.TLS.FailureReason = reason
	} else if e.StatusDetail == "" {
		e.StatusDetail = reason
	}
}

// terminated is the proof of what certificates name. One of a handshake that
// failed was refused, or nobody showed that he has its key: it is a claim.
func terminated(e *evidence.Evidence) evidence.Proof {
	if e.TLS.FailureReason != "" {
		return evidence.ProofClaimed
	}
	return evidence.ProofMTLSSAN
}

// callee reads the parties of a report from the called side: everything is said
// of the downstream connection.
func (in *entry) callee(node *Node, e *evidence.Evidence) {
	e.From.Address, e.From.Port = in.socket(in.remote)
	if in.direct != in.remote {
		if e.PeerAddress, e.PeerPort = in.socket(in.direct); e.PeerAddress == e.From.Address && e.PeerPort == e.From.Port {
			e.PeerAddress, e.PeerPort = "", 0
		}
	}
	e.To.Workload = asked(node, in.cluster)

	e.TLS.Known = in.common && !behindTunnel(node, in.cluster)
	transportFailure(e, in.downstreamFailure)
	p := &in.tls
	if peer := stringOf(in.peerPrincipal); !p.given && peer != "" {
		e.TLS.Known, e.TLS.Established, e.TLS.Mutual = true, true, true
		e.From.AddIdentity(in.ids.ParseIdentity(peer, evidence.ProofMTLSSAN, fromPeerPrincipal))
		if own := stringOf(in.localPrincipal); own != "" {
			e.To.AddIdentity(in.ids.ParseIdentity(own, evidence.ProofMTLSSAN, fromLocalPrincipal))
		}
	}
	if !p.given {
		return
	}
	e.TLS.Known = true
	e.TLS.Established = e.TLS.FailureReason == ""
	e.TLS.Version = tlsVersions.name(p.version)
	if p.hasCipher {
		e.TLS.Cipher = cipherName(uint16(p.cipher))
	}
	e.TLS.Mutual = p.peer.given
	proof := terminated(e)
	if !p.peer.identities(&e.From, proof, fromPeerSAN, in.ids) {
		p.peer.otherNames(&e.From, proof)
	}
	p.own.identities(&e.To, proof, fromLocalSAN, in.ids)
}

// caller reads the parties of a report from the calling side. The protocol
// says nothing of the upstream connection's TLS but why it failed; identities
// come from custom tags, if at all.
func (in *entry) caller(node *Node, e *evidence.Evidence) {
	e.From.Workload = node.Workload
	if e.From.Address, e.From.Port = in.socket(in.upstreamLocal); e.From.Address == "" {
		e.From.Address = node.IP
	}
	if node.Type == "router" {
		e.PeerAddress, e.PeerPort = in.socket(in.remote)
	}
	parseCluster(in.cluster).destination(&e.To.Workload)
	e.To.Address, e.To.Port = in.socket(in.upstreamRemote)
	switch {
	case captured(in.cluster) && e.To.Address == "":
		// No upstream was connected to: the captured connection's own ends.
		e.From.Address, e.From.Port = in.socket(in.remote)
		e.To.Address, e.To.Port = in.socket(in.local)
		e.PeerAddress, e.PeerPort = "", 0
	case tunnel(in.cluster):
		if host, port := in.socket(in.local); host == e.To.Address {
			e.To.Port = port // the application's instead of HBONE's
		}
	}
	transportFailure(e, in.upstreamFailure)
	if in.attempts > 1 {
		e.ResendCount = int(in.attempts - 1)
	}
}

// final tells whether the entry is the last word on its request or connection.
func (in *entry) final() bool {
	if in.intermediate { // Envoys before access_log_type say only this
		return false
	}
	switch als.AccessLogType(in.logType) {
	case als.AccessLogType_NotSet, als.AccessLogType_DownstreamEnd, als.AccessLogType_UpstreamEnd,
		als.AccessLogType_TcpConnectionEnd, als.AccessLogType_UdpSessionEnd:
		return true
	}
	return false
}

// times reads start and end; the end is the last moment the entry knows of.
func (in *entry) times(e *evidence.Evidence) {
	const first, last = -62135596800, 253402300799 // years 1 to 9999, as a Timestamp's
	if !in.started || in.seconds < first || in.seconds > last || in.nanos < 0 || in.nanos >= 1e9 {
		return
	}
	e.Start = unixNano(in.seconds, in.nanos)
	w := wire{}
	for _, since := range [...]string{in.lastDownstreamTx, in.duration, in.lastUpstreamRx, in.lastRx} {
		if length := w.length(since); length > 0 {
			e.End = e.Start + length
			break
		}
	}
	in.broken = in.broken || w.bad
}

// unixNano is 0 for times that do not fit (before 1677, after 2262).
func unixNano(seconds int64, nanos int32) int64 {
	const limit = 9_223_372_035
	if seconds < -limit || seconds > limit {
		return 0
	}
	return seconds*int64(time.Second) + int64(nanos)
}

// Filters whose dynamic metadata is read.
const (
	filterExtAuthz = iota
	filterRBAC
	filterNetRBAC
	filterJWT
	filterIstioAuthn
)

var filters = [...]string{
	filterExtAuthz:   "envoy.filters.http.ext_authz",
	filterRBAC:       "envoy.filters.http.rbac",
	filterNetRBAC:    "envoy.filters.network.rbac",
	filterJWT:        "envoy.filters.http.jwt_authn",
	filterIstioAuthn: "istio_authn",
}

// applyMetadata states what filters tell in dynamic metadata: the verdict, and who acts.
func (in *entry) applyMetadata(e *evidence.Evidence) {
	md := &in.metadata
	var r rbac
	id := ""
	if o := md[filterExtAuthz]; o != "" {
		id = decisionID(o, 4)
	}
	for _, filter := range [...]int{filterRBAC, filterNetRBAC} {
		if o := md[filter]; o != "" {
			r.read(o)
		}
	}
	if in.tagged {
		in.tags.results(&r)
		id = first(in.tags.decisionID(), id)
	}
	// Envoy states no flags where it has none to state, but then the details.
	decide(e, &r, id, e.StatusDetail != "" || in.flags != 0)
	if o := md[filterJWT]; o != "" {
		claims(payload(o), e)
	}
	if o := md[filterIstioAuthn]; o != "" {
		e.From.AddIdentity(evidence.ParseIdentity(o.text("source.principal"), evidence.ProofMTLSSAN, fromIstioAuthn))
		claims(o.object("request.auth.claims"), e)
		token.ApplyPrincipal(e, o.text("request.auth.principal"))
	}
}

// claims states what a verified token's payload says of who acts.
func claims(o protoStruct, e *evidence.Evidence) {
	if o == "" {
		return
	}
	payload, ok := o.appendJSON(make([]byte, 0, 2*len(o)), 0)
	if !ok {
		return
	}
	if c, err := token.Parse(payload); err == nil {
		c.Apply(e)
	}
}

// decisionID finds the decision's id in the service's dynamic metadata, at the
// top or in a nested object, at most depth levels down.
func decisionID(o protoStruct, depth int) string {
	for _, key := range [...]string{"decision_id", "decisionId", "decision-id", "opa_decision_id"} {
		if id := o.text(key); id != "" {
			return id
		}
	}
	if depth <= 1 {
		return ""
	}
	// The least one of several, not whichever comes first: the proxy's map has no
	// order, and a resend must read the same.
	least := ""
	o.fields(func(_ string, v protoValue) {
		if inner := v.object(); inner != "" {
			if id := decisionID(inner, depth-1); id != "" && (least == "" || id < least) {
				least = id
			}
		}
	})
	return least
}

// payload finds the verified token's payload, which the filter stores below a
// configured key. Of several it is that of the least subject, and of those without
// one that of the least client: a resend must read the same.
func payload(o protoStruct) (found protoStruct) {
	for _, claim := range [...]string{"sub", "azp", "client_id"} {
		if o.text(claim) != "" {
			return o
		}
		least := ""
		o.fields(func(_ string, v protoValue) {
			inner := v.object()
			if who := inner.text(claim); who != "" && (least == "" || who < least) {
				found, least = inner, who
			}
		})
		if found != "" {
			break
		}
	}
	return found
}

// Filter states in which Istio proxies keep what they told each other.
var peerStates = [...]string{"downstream_peer", "wasm.downstream_peer", "upstream_peer", "wasm.upstream_peer"}

// peers reads the other side's workload, where filter state is logged as a
// Struct.
func peers(states *[len(peerStates)]string, e *evidence.Evidence) {
	w, of := &e.From.Workload, states[:2]
	if e.Role == evidence.RoleCaller {
		w, of = &e.To.Workload, states[2:]
	}
	for _, state := range of {
		if state == "" {
			continue
		}
		if o, ok := anyOf(state, "Struct"); ok {
			var peer evidence.Workload
			if workload(protoStruct(o), &peer); peer != (evidence.Workload{}) {
				*w = peer
			}
		}
	}
}

// stringOf reads a filter state that is a string, "" if it is none.
func stringOf(state string) (s string) {
	v, _ := anyOf(state, "StringValue")
	w := wire{s: v}
	for w.more() {
		if f := w.next(); f.tag == 1<<3|bytesType {
			s = f.s
		}
	}
	if w.bad {
		return ""
	}
	return s
}

// names are those of an enum's numbers; a number that is not known has none.
type names []string

// name reads the number as protobuf does: of a varint the low 32 bits.
func (n names) name(number uint64) string {
	if i := uint32(number); i < uint32(len(n)) {
		return n[i]
	}
	return ""
}

// methods and logTypes are Envoy's names.
var (
	methods      = named(corev3.RequestMethod_name, int32(corev3.RequestMethod_METHOD_UNSPECIFIED))
	logTypes     = named(als.AccessLogType_name, -1)
	httpVersions = names{
		als.HTTPAccessLogEntry_HTTP10: "HTTP/1.0",
		als.HTTPAccessLogEntry_HTTP11: "HTTP/1.1",
		als.HTTPAccessLogEntry_HTTP2:  "HTTP/2",
		als.HTTPAccessLogEntry_HTTP3:  "HTTP/3",
	}
	tlsVersions = names{
		als.TLSProperties_TLSv1:   "1.0",
		als.TLSProperties_TLSv1_1: "1.1",
		als.TLSProperties_TLSv1_2: "1.2",
		als.TLSProperties_TLSv1_3: "1.3",
	}
)

// cipherNames are made once; crypto/tls makes its list anew for each question. A
// map of 32 bits is looked up faster than one of 16.
var cipherNames = func() map[uint32]string {
	names := make(map[uint32]string)
	for _, c := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		names[uint32(c.ID)] = c.Name
	}
	return names
}()

func cipherName(id uint16) string {
	if name, ok := cipherNames[uint32(id)]; ok {
		return name
	}
	return tls.CipherSuiteName(id) // the number
}

func named(of map[int32]string, without int32) names {
	n := make(names, slices.Max(slices.Collect(maps.Keys(of)))+1)
	for number, name := range of {
		if number != without {
			n[number] = name
		}
	}
	return n
}

// decimal returns s if it is a decimal number of at most three digits.
func decimal(s string) string {
	s = strings.TrimSpace(s)
	if len(s) == 0 || len(s) > 3 || strings.Trim(s, "0123456789") != "" {
		return ""
	}
	return s
}
