package envoy

import (
	"crypto/tls"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	als "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/token"
)

// Where an identity was stated.
const (
	fromPeerSAN       = "tls.peer.san"
	fromLocalSAN      = "tls.local.san"
	fromUpstreamPeer  = "tls.upstream.peer.san"
	fromUpstreamLocal = "tls.upstream.local.san"
	fromIstioAuthn    = "istio_authn.source.principal"
)

// HTTP reads one HTTP entry of the node's stream. The position is left to the
// caller, who knows the stream.
func HTTP(node *Node, entry *als.HTTPAccessLogEntry) evidence.Evidence {
	request, response := entry.GetRequest(), entry.GetResponse()
	var e evidence.Evidence
	e.Method = method(request.GetRequestMethod())
	e.Path = evidence.PathOnly(first(request.GetOriginalPath(), request.GetPath()))
	e.Host = evidence.Authority(request.GetAuthority())
	e.RequestID = evidence.Text(request.GetRequestId(), evidence.MaxName)
	e.Protocol = httpVersions[entry.GetProtocolVersion()]
	e.Status = int(response.GetResponseCode().GetValue())
	e.StatusDetail = evidence.Text(response.GetResponseCodeDetails(), evidence.MaxDetail)

	var h Headers
	for name, value := range request.GetRequestHeaders() {
		h.Add(name, value)
	}
	if e.RequestID == "" {
		e.RequestID = h.RequestID
	}
	grpcStatus := first(response.GetResponseTrailers()["grpc-status"], response.GetResponseHeaders()["grpc-status"])
	if e.GRPCStatus = decimal(grpcStatus); e.GRPCStatus != "" || h.GRPC {
		RPC(&e)
	}
	common(node, entry.GetCommonProperties(), &e)
	h.Claims(&e.From)
	applyTrace(&e, h.Trace())
	if e.Role == evidence.RoleCallee && h.AttemptCount > 1 {
		e.ResendCount = h.AttemptCount - 1
	}
	h.Proof(&e)
	return e
}

// TCP reads one TCP entry of the node's stream: who spoke with whom, and
// whether that was allowed, without method and path.
func TCP(node *Node, entry *als.TCPAccessLogEntry) evidence.Evidence {
	e := evidence.Evidence{Event: evidence.EventConnection}
	c := entry.GetCommonProperties()
	e.Protocol = "tcp"
	e.StatusDetail = evidence.Text(c.GetConnectionTerminationDetails(), evidence.MaxDetail)
	e.Host = evidence.Authority(c.GetTlsProperties().GetTlsSniHostname())
	common(node, c, &e)
	return e
}

func common(node *Node, c *als.AccessLogCommon, e *evidence.Evidence) {
	e.Source = evidence.SourceEnvoyALS
	e.Reporter.Node = node.ID
	e.Cluster = node.Cluster
	e.Final = final(c)
	e.ResponseFlags = responseFlags(c.GetResponseFlags())
	e.Failed = e.Status == 0 && e.ResponseFlags != ""
	e.Route = routeTemplate(c.GetRouteName())
	times(c, e)
	if id := evidence.Text(c.GetStreamId(), evidence.MaxName); id != e.RequestID {
		e.StreamID = id
	}
	e.Verdict = verdictOf(e.StatusDetail, e.ResponseFlags)
	filterMetadata(c.GetMetadata().GetFilterMetadata(), e)

	var tags labels
	for name, value := range c.GetCustomTags() {
		tags.set(name, value)
	}
	s := stand{
		node: node, cluster: c.GetUpstreamCluster(), details: e.StatusDetail,
		hasUpstream:     c.GetUpstreamRemoteAddress() != nil,
		peerCertificate: c.GetTlsProperties().GetPeerCertificateProperties() != nil,
		localAddress:    c.GetDownstreamLocalAddress().GetSocketAddress().GetAddress(),
		listener:        tags.direction(),
	}
	e.Role = s.role()
	if e.Role == evidence.RoleCaller {
		caller(node, c, e)
	} else {
		callee(node, c, e)
	}
	peers(c, e)
	tags.apply(e)
	setEvent(e)
}

// setEvent tells a refused token and a failed handshake from a request and a
// connection.
func setEvent(e *evidence.Evidence) {
	switch {
	case e.TLS.FailureReason != "":
		e.Event = evidence.EventHandshake
	case e.Verdict != nil && e.Verdict.Engine == engineJWT:
		e.Event = evidence.EventAuthn
	}
}

// callee reads the parties of a report from the called side: everything is said
// of the downstream connection.
func callee(node *Node, c *als.AccessLogCommon, e *evidence.Evidence) {
	socket(c.GetDownstreamRemoteAddress(), &e.From.Address, &e.From.Port)
	socket(c.GetDownstreamDirectRemoteAddress(), &e.PeerAddress, &e.PeerPort)
	if e.PeerAddress == e.From.Address && e.PeerPort == e.From.Port {
		e.PeerAddress, e.PeerPort = "", 0
	}
	socket(c.GetDownstreamLocalAddress(), &e.To.Address, &e.To.Port)
	e.To.Workload = node.Workload

	e.TLS.Known = c != nil
	e.TLS.FailureReason = evidence.Text(c.GetDownstreamTransportFailureReason(), evidence.MaxDetail)
	p := c.GetTlsProperties()
	if p == nil {
		return
	}
	e.TLS.Established = e.TLS.FailureReason == ""
	e.TLS.Version = tlsVersions[p.GetTlsVersion()]
	if suite := p.GetTlsCipherSuite(); suite != nil {
		e.TLS.Cipher = tls.CipherSuiteName(uint16(suite.GetValue()))
	}
	e.TLS.Mutual = p.GetPeerCertificateProperties() != nil
	sans(p.GetPeerCertificateProperties(), &e.From, fromPeerSAN)
	sans(p.GetLocalCertificateProperties(), &e.To, fromLocalSAN)
}

// caller reads the parties of a report from the calling side. The protocol
// says nothing of the upstream connection's TLS but why it failed; identities
// come from custom tags, if at all.
func caller(node *Node, c *als.AccessLogCommon, e *evidence.Evidence) {
	e.From.Workload = node.Workload
	socket(c.GetUpstreamLocalAddress(), &e.From.Address, &e.From.Port)
	if e.From.Address == "" {
		e.From.Address = node.IP
	}
	if node.Type == "router" {
		socket(c.GetDownstreamRemoteAddress(), &e.PeerAddress, &e.PeerPort)
	}
	parseCluster(c.GetUpstreamCluster()).destination(&e.To.Workload)
	socket(c.GetUpstreamRemoteAddress(), &e.To.Address, &e.To.Port)
	e.TLS.FailureReason = evidence.Text(c.GetUpstreamTransportFailureReason(), evidence.MaxDetail)
	if n := c.GetUpstreamRequestAttemptCount(); n > 1 {
		e.ResendCount = int(n - 1)
	}
}

// final tells whether the entry is the last word on its request or connection.
func final(c *als.AccessLogCommon) bool {
	//lint:ignore SA1019 Envoys before access_log_type say only this
	if c.GetIntermediateLogEntry() {
		return false
	}
	switch c.GetAccessLogType() {
	case als.AccessLogType_NotSet, als.AccessLogType_DownstreamEnd, als.AccessLogType_UpstreamEnd,
		als.AccessLogType_TcpConnectionEnd, als.AccessLogType_UdpSessionEnd:
		return true
	}
	return false
}

// times reads start and end; the end is the last moment the entry knows of.
func times(c *als.AccessLogCommon, e *evidence.Evidence) {
	start := c.GetStartTime()
	if start == nil || start.CheckValid() != nil {
		return
	}
	e.Start = unixNano(start.GetSeconds(), start.GetNanos())
	for _, d := range []interface{ AsDuration() time.Duration }{
		c.GetTimeToLastDownstreamTxByte(), c.GetDuration(), c.GetTimeToLastUpstreamRxByte(), c.GetTimeToLastRxByte(),
	} {
		if length := d.AsDuration(); length > 0 {
			e.End = e.Start + int64(length)
			return
		}
	}
}

// unixNano is 0 for times that do not fit (before 1677, after 2262).
func unixNano(seconds int64, nanos int32) int64 {
	const limit = 9_223_372_035
	if seconds < -limit || seconds > limit {
		return 0
	}
	return seconds*int64(time.Second) + int64(nanos)
}

func socket(a *corev3.Address, address *string, port *uint16) {
	if s := a.GetSocketAddress(); s != nil && s.GetAddress() != "" {
		*address = evidence.Text(s.GetAddress(), evidence.MaxName)
		*port = uint16(min(s.GetPortValue(), 65535))
		return
	}
	if p := a.GetPipe(); p != nil {
		*address, *port = evidence.Text(p.GetPath(), evidence.MaxName), 0
	}
}

func sans(p *als.TLSProperties_CertificateProperties, party *evidence.Party, from string) {
	for _, san := range p.GetSubjectAltName() {
		party.AddIdentity(evidence.ParseIdentity(san.GetUri(), evidence.ProofMTLSSAN, from))
	}
}

// Filters whose dynamic metadata is read.
const (
	filterExtAuthz   = "envoy.filters.http.ext_authz"
	filterRBAC       = "envoy.filters.http.rbac"
	filterNetRBAC    = "envoy.filters.network.rbac"
	filterJWT        = "envoy.filters.http.jwt_authn"
	filterIstioAuthn = "istio_authn"
)

func filterMetadata(md map[string]*structpb.Struct, e *evidence.Evidence) {
	if s := md[filterExtAuthz]; s != nil {
		setExtAuthz(e, decisionID(s, 4))
	}
	for _, filter := range [...]string{filterRBAC, filterNetRBAC} {
		if s := md[filter]; s != nil && e.Verdict == nil {
			e.Verdict = shadowVerdict(s)
		}
	}
	if s := md[filterJWT]; s != nil {
		claims(payload(s), e)
	}
	if s := md[filterIstioAuthn]; s != nil {
		e.From.AddIdentity(evidence.ParseIdentity(text(s, "source.principal"), evidence.ProofMTLSSAN, fromIstioAuthn))
		claims(s.GetFields()["request.auth.claims"].GetStructValue(), e)
		set(&e.User, text(s, "request.auth.principal"))
	}
}

// claims states what a verified token's payload says of who acts.
func claims(s *structpb.Struct, e *evidence.Evidence) {
	if s == nil {
		return
	}
	b, err := s.MarshalJSON()
	if err != nil {
		return // a number that JSON does not have
	}
	if c, err := token.Parse(b); err == nil {
		c.Apply(e)
	}
}

// setExtAuthz names the decision that the external authorization service gave,
// and reads the verdict from what became of the request.
func setExtAuthz(e *evidence.Evidence, id string) {
	if id == "" {
		return
	}
	e.DecisionID = id
	if e.Verdict == nil {
		e.Verdict = &evidence.Verdict{Engine: engineExtAuthz, Decision: evidence.Allow, Enforced: true}
	}
	if e.Verdict.Engine == engineExtAuthz {
		e.Verdict.DecisionID = id
	}
}

// decisionID finds the decision's id in the service's dynamic metadata, at the
// top or in a nested object, at most depth levels down.
func decisionID(s *structpb.Struct, depth int) string {
	for _, key := range [...]string{"decision_id", "decisionId", "decision-id", "opa_decision_id"} {
		if id := text(s, key); id != "" {
			return id
		}
	}
	if depth <= 1 {
		return ""
	}
	// The least one of several, not whichever the map gives first: a resend
	// must read the same.
	least := ""
	for _, v := range s.GetFields() {
		if inner := v.GetStructValue(); inner != nil {
			if id := decisionID(inner, depth-1); id != "" && (least == "" || id < least) {
				least = id
			}
		}
	}
	return least
}

// shadowVerdict reads a dry run: what the shadow rules would have done. Istio
// prefixes the keys with istio_dry_run_allow_ or istio_dry_run_deny_, one for
// each of its two filters; a denial of either is the answer.
func shadowVerdict(s *structpb.Struct) *evidence.Verdict {
	var v *evidence.Verdict
	for _, prefix := range [...]string{"istio_dry_run_deny_", "istio_dry_run_allow_", ""} {
		result := text(s, prefix+"shadow_engine_result")
		next := shadow(result, text(s, prefix+"shadow_effective_policy_id"))
		if next != nil && (v == nil || v.Decision == evidence.Allow && next.Decision == evidence.Deny) {
			v = next
		}
	}
	return v
}

func shadow(result, policy string) *evidence.Verdict {
	v := &evidence.Verdict{Engine: engineRBAC}
	switch result {
	case "allowed":
		v.Decision = evidence.Allow
	case "denied":
		v.Decision = evidence.Deny
		v.DefaultDeny = policy == ""
	default:
		return nil
	}
	if policy != "" {
		setPolicy(v, policy)
	}
	return v
}

// payload finds the verified token's payload, which the filter stores below a
// configured key. Of several it is that of the least subject: a resend must read
// the same.
func payload(s *structpb.Struct) *structpb.Struct {
	if text(s, "sub") != "" {
		return s
	}
	var found *structpb.Struct
	least := ""
	for _, v := range s.GetFields() {
		if sub := text(v.GetStructValue(), "sub"); sub != "" && (least == "" || sub < least) {
			found, least = v.GetStructValue(), sub
		}
	}
	return found
}

// peers reads the workloads that Istio proxies tell each other, where filter
// state is logged as a Struct.
func peers(c *als.AccessLogCommon, e *evidence.Evidence) {
	for name, object := range c.GetFilterStateObjects() {
		var w *evidence.Workload
		switch {
		case e.Role == evidence.RoleCaller && (name == "upstream_peer" || name == "wasm.upstream_peer"):
			w = &e.To.Workload
		case e.Role == evidence.RoleCallee && (name == "downstream_peer" || name == "wasm.downstream_peer"):
			w = &e.From.Workload
		default:
			continue
		}
		var s structpb.Struct
		if object.MessageIs(&s) && object.UnmarshalTo(&s) == nil {
			var peer evidence.Workload
			if workload(&s, &peer); peer != (evidence.Workload{}) {
				*w = peer
			}
		}
	}
}

func method(m corev3.RequestMethod) string {
	if m == corev3.RequestMethod_METHOD_UNSPECIFIED {
		return ""
	}
	return m.String()
}

var httpVersions = map[als.HTTPAccessLogEntry_HTTPVersion]string{
	als.HTTPAccessLogEntry_HTTP10: "HTTP/1.0",
	als.HTTPAccessLogEntry_HTTP11: "HTTP/1.1",
	als.HTTPAccessLogEntry_HTTP2:  "HTTP/2",
	als.HTTPAccessLogEntry_HTTP3:  "HTTP/3",
}

var tlsVersions = map[als.TLSProperties_TLSVersion]string{
	als.TLSProperties_TLSv1:   "1.0",
	als.TLSProperties_TLSv1_1: "1.1",
	als.TLSProperties_TLSv1_2: "1.2",
	als.TLSProperties_TLSv1_3: "1.3",
}

// decimal returns s if it is a decimal number of at most three digits.
func decimal(s string) string {
	s = strings.TrimSpace(s)
	if len(s) == 0 || len(s) > 3 || strings.Trim(s, "0123456789") != "" {
		return ""
	}
	return s
}
