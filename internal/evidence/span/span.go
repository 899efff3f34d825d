// Package span reads OpenTelemetry spans as evidence: an application's server
// and client spans by the HTTP and RPC conventions, old and new, and the spans
// of Envoy and Istio proxies by their own tags.
//
// An application says of itself what it likes: identities on a span are
// claims. service.name is a workload's name, never an identity. A message is a
// call from who publishes it to who processes it. Internal spans, and spans of
// messaging that do neither, are evidence without a role: they report no call
// of the kinds that become mesh.request records. Query strings, bodies and all
// attributes that are not named in README.md are dropped unread.
package span

import (
	"strconv"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/envoy"
	"github.com/meshaudit/meshaudit/internal/evidence/resource"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

const requestHeaderPrefix = "http.request.header."

// Below this are Istio's tags of what its dry-run policies would have done.
const dryRunPrefix = "istio.authorization.dry_run."

// FromSpan reads one span. It is false only for a span that states nothing to
// hold on to: no span id.
func FromSpan(under pcommon.Resource, s ptrace.Span) (evidence.Evidence, bool) {
	if s.SpanID().IsEmpty() {
		return evidence.Evidence{}, false
	}
	var r reader // holds the evidence itself: so it stays on the stack
	e := &r.e
	e.Source = evidence.SourceSpan
	e.Final = true
	e.TraceID = evidence.TraceID(s.TraceID())
	e.SpanID = evidence.SpanID(s.SpanID())
	e.ParentSpanID = evidence.SpanID(s.ParentSpanID())
	e.Start, e.End = int64(s.StartTimestamp()), int64(s.EndTimestamp())
	e.Failed = s.Status().Code() == ptrace.StatusCodeError
	e.Position = position(s)
	e.SpanKind, e.Role = kind(s.Kind())

	r.resource(under.Attributes())
	for name, v := range s.Attributes().All() {
		r.attribute(name, v)
	}
	r.finish()
	return r.e, true
}

// position is the span's ids: unique, and the same when it is sent again.
func position(s ptrace.Span) string {
	t, id := s.TraceID(), s.SpanID()
	return t.String() + "/" + id.String()
}

func kind(k ptrace.SpanKind) (evidence.SpanKind, evidence.Role) {
	switch k {
	case ptrace.SpanKindServer:
		return evidence.SpanServer, evidence.RoleCallee
	case ptrace.SpanKindClient:
		return evidence.SpanClient, evidence.RoleCaller
	case ptrace.SpanKindInternal:
		return evidence.SpanInternal, evidence.RoleNone
	case ptrace.SpanKindProducer:
		return evidence.SpanProducer, evidence.RoleNone
	case ptrace.SpanKindConsumer:
		return evidence.SpanConsumer, evidence.RoleNone
	}
	return evidence.SpanUnset, evidence.RoleNone
}

// A reader gathers what one span says. "self" is the span's own workload,
// "peer" the other side of its call.
type reader struct {
	e    evidence.Evidence
	self evidence.Workload

	// Names and versions by how exactly they name the workload.
	service, canonicalService, istioNamespace string
	canonicalRevision                         string

	selfClaims, peerClaims        evidence.Party
	sourceClaims, destClaims      evidence.Party
	headers                       envoy.Headers
	url, target, path             string
	peerAddress, serverAddress    string
	clientAddress                 string
	peerPort, serverPort          uint16
	clientPort                    uint16
	peerService, peerNamespace    string
	netPeerAddress                string
	netPeerPort                   uint16
	protocolName, protocolVersion string
	rpcStatus                     string
	component, nodeID, cluster    string
	requestGUID, upstreamAddress  string
	selfAddress                   string
	errorType                     string
	requestHost                   string
	operation                     string // of messaging
	dryDeny, dryAllow             dryRun
}

// A dryRun is what one of Istio's two filters tells of its dry-run policies.
type dryRun struct{ policy, result string }

func (r *reader) resource(m pcommon.Map) {
	r.e.Cluster = resource.Read(m, &r.self)
	for name, v := range m.All() {
		switch name {
		case "service.name":
			r.service = text(v)
		case "service.namespace":
			set(&r.self.Namespace, text(v), false)
		default:
			r.identity(name, v)
		}
	}
}

// identity reads attributes by which a workload names itself or its peer.
func (r *reader) identity(name string, v pcommon.Value) bool {
	var p *evidence.Party
	switch name {
	case "spiffe.id", "spiffe_id", "service.spiffe.id", "workload.spiffe.id":
		p = &r.selfClaims
	case "peer.spiffe.id", "peer.spiffe_id", "peer_spiffe_id":
		p = &r.peerClaims
	case semconv.SourceSPIFFEID:
		p = &r.sourceClaims
	case semconv.DestinationSPIFFEID:
		p = &r.destClaims
	default:
		return false
	}
	p.AddIdentity(evidence.ParseIdentity(v.AsString(), evidence.ProofClaimed, name))
	return true
}

func (r *reader) attribute(name string, v pcommon.Value) {
	e := &r.e
	switch name {
	// What was asked.
	case "http.request.method", "http.method":
		e.Method = text(v)
	case "url.path":
		r.path = evidence.PathOnly(v.Str())
	case "url.full", "http.url":
		r.url = v.Str()
	case "http.target":
		r.target = v.Str()
	case "http.route":
		e.Route = text(v)
	case "http.host":
		r.requestHost = v.Str()
	case "http.request.resend_count", "http.resend_count":
		e.ResendCount = int(number(v, 1<<16))
	case "rpc.system", "rpc.system.name":
		e.RPCSystem = text(v)
	case "rpc.service":
		e.RPCService = text(v)
	case "rpc.method":
		e.RPCMethod = text(v)
	case "messaging.system":
		e.MessagingSystem = text(v)
	case "messaging.destination.name":
		e.Topic = evidence.PathOnly(v.Str())
	case "messaging.destination.template":
		e.Route = text(v)
	case "messaging.operation.type", "messaging.operation":
		r.operation = text(v)

	// What came of it.
	case "http.response.status_code", "http.status_code":
		e.Status = int(number(v, 999))
	case "rpc.grpc.status_code", "grpc.status_code", "rpc.response.status_code":
		r.rpcStatus = v.AsString()
	case "error.type":
		r.errorType = evidence.Text(v.AsString(), evidence.MaxDetail)
	case "error":
		e.Failed = e.Failed || v.AsString() == "true"

	// Over which connection.
	case "network.protocol.name", "net.protocol.name":
		r.protocolName = text(v)
	case "network.protocol.version", "net.protocol.version", "http.flavor":
		r.protocolVersion = text(v)
	case "http.protocol": // Envoy: HTTP/1.1
		e.Protocol = text(v)
	case "server.address", "net.host.name":
		r.serverAddress = text(v)
	case "server.port", "net.host.port":
		r.serverPort = uint16(number(v, 65535))
	case "client.address", "http.client_ip":
		r.clientAddress = text(v)
	case "client.port":
		r.clientPort = uint16(number(v, 65535))
	case "network.peer.address", "net.sock.peer.addr", "net.peer.ip":
		r.netPeerAddress = text(v)
	case "network.peer.port", "net.sock.peer.port":
		r.netPeerPort = uint16(number(v, 65535))
	case "net.peer.name":
		r.peerAddress = text(v)
	case "net.peer.port":
		r.peerPort = uint16(number(v, 65535))
	case "peer.address":
		set(&r.netPeerAddress, text(v), false)
	case "net.host.ip":
		r.selfAddress = text(v)

	// Who.
	case "enduser.id", "user.id":
		e.User = text(v)
	case "peer.service", "service.peer.name":
		r.peerService = text(v)
	case "service.peer.namespace":
		r.peerNamespace = text(v)

	default:
		r.proxy(name, v)
	}
}

// proxy reads the tags of Envoy and Istio, and headers.
func (r *reader) proxy(name string, v pcommon.Value) {
	e := &r.e
	switch name {
	case "component":
		r.component = text(v)
	case "node_id":
		r.nodeID = text(v)
	case "upstream_cluster":
		r.cluster = text(v)
	case "upstream_cluster.name":
		set(&r.cluster, text(v), false)
	case "upstream_address":
		r.upstreamAddress = text(v)
	case "guid:x-request-id", "guid.x-request-id", "x-request-id", "request_id":
		r.requestGUID = text(v)
	case "response_flags":
		if s := text(v); s != "-" {
			e.ResponseFlags = s
		}
	case "istio.canonical_service":
		r.canonicalService = text(v)
	case "istio.canonical_revision":
		r.canonicalRevision = text(v)
	case "istio.namespace":
		r.istioNamespace = text(v)
	case "istio.cluster_id":
		set(&e.Cluster, text(v), false)
	case dryRunPrefix + "deny_policy.name":
		r.dryDeny.policy = text(v)
	case dryRunPrefix + "deny_policy.result":
		r.dryDeny.result = text(v)
	case dryRunPrefix + "allow_policy.name":
		r.dryAllow.policy = text(v)
	case dryRunPrefix + "allow_policy.result":
		r.dryAllow.result = text(v)
	default:
		header, ok := strings.CutPrefix(name, requestHeaderPrefix)
		if !ok {
			r.identity(name, v)
			return
		}
		header = strings.ReplaceAll(header, "_", "-")
		if v.Type() != pcommon.ValueTypeSlice {
			r.headers.Add(header, v.Str())
		} else if v.Slice().Len() > 0 {
			r.headers.Add(header, v.Slice().At(0).Str())
		}
	}
}

func (r *reader) finish() {
	e := &r.e
	if r.netPeerPort == 0 {
		r.netPeerPort = r.peerPort // net.peer.port goes with net.peer.ip too
	}
	if r.component == "proxy" && (r.nodeID != "" || r.cluster != "" || r.requestGUID != "") {
		e.Source = evidence.SourceProxySpan
		e.Verdict = r.dryRun()
	}
	e.Path = r.requestPath()
	e.Host = r.host()
	e.RequestID = r.requestGUID
	set(&e.RequestID, r.headers.RequestID, false)
	e.GRPCStatus = grpcStatus(r.rpcStatus)
	set(&e.StatusDetail, r.errorType, false)
	r.rpc()
	r.messaging()
	r.protocol()
	r.workload()
	r.parties()
}

// dryRun is what Istio's dry-run policies would have decided: a denial of either
// filter is the answer. A denial of the one for policies that allow names no
// policy, as none matched.
func (r *reader) dryRun() *evidence.Verdict {
	for _, result := range [...]string{"denied", "allowed"} {
		for _, d := range [...]*dryRun{&r.dryDeny, &r.dryAllow} {
			if d.result != result {
				continue
			}
			v := &evidence.Verdict{Engine: envoy.EngineRBAC, Decision: evidence.Allow}
			if result == "denied" {
				v.Decision, v.DefaultDeny = evidence.Deny, d == &r.dryAllow && d.policy == ""
			}
			envoy.SetPolicy(v, d.policy)
			return v
		}
	}
	return nil
}

func (r *reader) requestPath() string {
	switch {
	case r.path != "":
		return r.path
	case r.target != "":
		return evidence.PathOnly(r.target)
	}
	return evidence.PathOnly(r.url)
}

func (r *reader) host() string {
	if r.requestHost != "" {
		return evidence.Authority(r.requestHost)
	}
	if strings.Contains(r.url, "://") {
		return evidence.Authority(r.url)
	}
	return ""
}

// rpc splits the newer rpc.method, SERVICE/METHOD, and says grpc where only the
// status does.
func (r *reader) rpc() {
	e := &r.e
	if e.RPCService == "" {
		if service, method, ok := strings.Cut(e.RPCMethod, "/"); ok {
			e.RPCService, e.RPCMethod = service, method
		}
	}
	if e.RPCSystem == "" && e.GRPCStatus != "" {
		e.RPCSystem = "grpc"
	}
	if e.RPCSystem == "grpc" && e.Path == "" && e.RPCService != "" && e.RPCMethod != "" {
		// What a proxy sees of the same call.
		e.Path = "/" + e.RPCService + "/" + e.RPCMethod
		set(&e.Method, "POST", false)
	}
}

// messaging tells who publishes and who processes; who polls a broker or
// settles a message makes no call of ours.
func (r *reader) messaging() {
	if r.e.MessagingSystem == "" || r.e.Topic == "" {
		return
	}
	switch r.e.SpanKind {
	case evidence.SpanProducer:
		r.e.Role = evidence.RoleCaller
	case evidence.SpanConsumer:
		if r.operation != "receive" && r.operation != "settle" {
			r.e.Role = evidence.RoleCallee
		}
	case evidence.SpanClient:
		if r.operation == "receive" || r.operation == "settle" {
			r.e.Role = evidence.RoleNone
		}
	}
}

func (r *reader) protocol() {
	if r.e.Protocol != "" {
		return
	}
	switch {
	case r.protocolVersion != "" && (r.protocolName == "" || r.protocolName == "http"):
		r.e.Protocol = "HTTP/" + strings.TrimSuffix(r.protocolVersion, ".0")
		if r.protocolVersion == "1.0" {
			r.e.Protocol = "HTTP/1.0"
		}
	default:
		r.e.Protocol = r.protocolName
	}
}

// workload names the span's own workload. An Istio proxy's service.name is
// NAME.NAMESPACE.
func (r *reader) workload() {
	w := &r.self
	proxied := r.e.Source == evidence.SourceProxySpan
	if proxied {
		node := envoy.ParseNodeID(r.nodeID)
		r.e.Reporter.Node = node.ID
		set(&w.PodName, node.Workload.PodName, false)
		set(&w.Namespace, node.Workload.Namespace, false)
		set(&r.selfAddress, node.IP, false)
	}
	set(&w.Namespace, r.istioNamespace, false)
	set(&w.Name, r.canonicalService, false)
	if proxied {
		set(&w.Name, strings.TrimSuffix(r.service, "."+w.Namespace), false)
	} else {
		set(&w.Name, r.service, false)
	}
	set(&w.Revision, r.canonicalRevision, false)
}

func (r *reader) parties() {
	e := &r.e
	if e.Role == evidence.RoleNone && e.Source == evidence.SourceProxySpan && e.SpanKind == evidence.SpanUnset {
		// Tracers of old say the direction only by the cluster.
		e.Role = envoy.RoleOfCluster(r.cluster)
	}
	self, peer := &e.From, &e.To
	if e.Role == evidence.RoleCallee {
		self, peer = &e.To, &e.From
	}
	self.Workload = r.self
	for _, id := range r.selfClaims.Identities {
		self.AddIdentity(id)
	}
	for _, id := range r.peerClaims.Identities {
		peer.AddIdentity(id)
	}
	for _, id := range r.sourceClaims.Identities {
		e.From.AddIdentity(id)
	}
	for _, id := range r.destClaims.Identities {
		e.To.AddIdentity(id)
	}
	switch e.Role {
	case evidence.RoleCallee:
		r.calleeAddresses()
		r.headers.Claims(e)
	case evidence.RoleCaller:
		r.callerAddresses()
	}
}

func (r *reader) calleeAddresses() {
	e := &r.e
	e.From.Address, e.From.Port = r.clientAddress, r.clientPort
	if e.From.Address == "" {
		e.From.Address, e.From.Port = r.netPeerAddress, r.netPeerPort
	} else if r.netPeerAddress != e.From.Address {
		e.PeerAddress, e.PeerPort = r.netPeerAddress, r.netPeerPort
	}
	if r.selfAddress != "" {
		e.To.Address, e.To.Port = r.selfAddress, 0
	} else {
		e.To.Address, e.To.Port = r.serverAddress, r.serverPort
	}
}

func (r *reader) callerAddresses() {
	e := &r.e
	e.From.Address = r.selfAddress
	if e.Source == evidence.SourceProxySpan {
		// An Envoy span's peer.address is its downstream's.
		e.To.Address, e.To.Port = envoy.SplitAddress(r.upstreamAddress)
		envoy.Destination(r.cluster, &e.To.Workload)
		return
	}
	e.To.Address, e.To.Port = r.serverAddress, r.serverPort
	if e.To.Address == "" {
		e.To.Address, e.To.Port = r.peerAddress, r.peerPort
	}
	if e.To.Address == "" {
		e.To.Address, e.To.Port = r.netPeerAddress, r.netPeerPort
	} else if r.netPeerAddress != "" && r.netPeerAddress != e.To.Address {
		e.PeerAddress, e.PeerPort = r.netPeerAddress, r.netPeerPort
	}
	if r.peerService != "" {
		e.To.Workload.Name, e.To.Workload.Namespace = r.peerService, r.peerNamespace
	}
}

// text reads a string of at most a name's length; numbers and the like are
// rendered.
func text(v pcommon.Value) string {
	if v.Type() == pcommon.ValueTypeStr {
		return evidence.Text(v.Str(), evidence.MaxName)
	}
	return evidence.Text(v.AsString(), evidence.MaxName)
}

// number reads an integer from 0 to most, also from a string, which is what
// Envoy's tags are; anything else is 0.
func number(v pcommon.Value, most int64) int64 {
	var n int64
	switch v.Type() {
	case pcommon.ValueTypeInt:
		n = v.Int()
	case pcommon.ValueTypeStr:
		parsed, err := strconv.ParseInt(v.Str(), 10, 64)
		if err != nil {
			return 0
		}
		n = parsed
	case pcommon.ValueTypeDouble:
		if d := v.Double(); d >= 0 && d <= float64(most) {
			n = int64(d)
		}
	}
	if n < 0 || n > most {
		return 0
	}
	return n
}

func set(dst *string, v string, overwrite bool) {
	if v != "" && (overwrite || *dst == "") {
		*dst = v
	}
}

// grpcStatuses are the names of the codes 0 to 16.
var grpcStatuses = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
	"UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// grpcStatus renders a code or its name as the decimal code.
func grpcStatus(s string) string {
	for code, name := range grpcStatuses {
		if s == name {
			return strconv.Itoa(code)
		}
	}
	if n, err := strconv.ParseUint(s, 10, 8); err == nil {
		return strconv.FormatUint(n, 10)
	}
	return ""
}
