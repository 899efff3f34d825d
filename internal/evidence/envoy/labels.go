package envoy

import (
	"encoding/json"
	"net"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/resource"
	"github.com/meshaudit/meshaudit/internal/evidence/token"
)

// labels is what an operator's access log format gives, by the names of
// README.md: Istio's default JSON format and those of our reference
// configurations. "-" and "" mean absent; names that are not known are dropped.
type labels struct {
	method, path, authority, protocol   string
	status, details, flags, termination string
	grpcStatus, grpcStatusNumber        string
	startTime, duration                 string
	cluster, upstreamHost, route        string
	upstreamLocal                       string
	downstreamRemote, downstreamLocal   string
	downstreamDirect                    string
	requestID, streamID                 string
	traceID, spanID                     string
	serverName                          string
	peerURI, localURI                   string
	peerPrincipal, localPrincipal       string // of the tunnel that the request came out of
	peerDNS, peerSubject                string
	upstreamPeerURI, upstreamLocalURI   string
	upstreamPeerDNS                     string
	upstreamPeerSubject                 string
	upstreamTLSVersion                  string
	upstreamTLSCipher                   string
	peerSHA256, peerNotAfter            string
	peerSerial, peerIssuer              string
	peerCert                            string
	tlsVersion, tlsCipher               string
	downstreamFailure, upstreamFailure  string
	rbac                                [maxRBAC]rbacLabels
	extAuthz, decision                  string
	listenerDirection, logType          string
	attempts, podName, podNamespace     string
	headers                             Headers
	user, principal, azp                string
	start                               int64 // unix nanoseconds, instead of startTime
	tlsStated                           bool  // a TLS label was there, be it empty
	flagsStated                         bool  // that of the flags was, be it for none
	unfinished                          bool  // the duration was there and has no value yet
}

// maxRBAC is how many sets of rules may have labels: of two filters what was
// enforced, Istio's two dry runs, and one more.
const maxRBAC = 8

// rbacLabels are those of one set of rules: what it is called, its result, and its
// policy, "-" where it is stated that none decided.
type rbacLabels struct{ rules, result, policy string }

// set takes one label and reports whether its name is known.
func (l *labels) set(name, value string) bool {
	dst := l.field(name)
	if dst == nil {
		return l.header(name, value) || l.decided(name, value)
	}
	switch {
	case dst == &l.flags && value != "":
		l.flagsStated = true
	case dst == &l.duration:
		l.unfinished = value == "" || value == "-"
	}
	switch dst {
	case &l.tlsVersion, &l.peerURI, &l.peerDNS, &l.peerSubject, &l.peerSHA256, &l.peerSerial, &l.peerIssuer, &l.peerCert:
		l.tlsStated = true
	}
	if value != "-" {
		*dst = value
	}
	return true
}

// known reports whether set takes the name.
func (l *labels) known(name string) bool {
	if l.field(name) != nil || l.header(name, "-") {
		return true
	}
	_, _, ok := rbacLabel(name)
	return ok
}

// rbacLabel takes apart a label that is named like a key of an RBAC filter's
// metadata, of which filter may stand before it.
func rbacLabel(name string) (rules string, policy, ok bool) {
	switch name {
	case "rbac_shadow_result":
		return rulesShadow, false, true
	case "rbac_shadow_policy":
		return rulesShadow, true, true
	}
	return rbacKey(name)
}

func (l *labels) decided(name, value string) bool {
	rules, policy, ok := rbacLabel(name)
	if !ok {
		return false
	}
	for i := range l.rbac {
		of := &l.rbac[i]
		if of.rules != "" && of.rules != rules {
			continue
		}
		of.rules = rules
		if policy {
			of.policy = first(value, "-")
		} else {
			of.result = value
		}
		break
	}
	return true
}

// results adds what the labels tell of RBAC.
func (l *labels) results(r *rbac) {
	for i := range l.rbac {
		of := &l.rbac[i]
		if of.rules == "" {
			return
		}
		r.add(of.rules, of.result, strings.TrimPrefix(of.policy, "-"), of.policy != "")
	}
}

// decisionID is that of the external authorizer, "" if there is none.
func (l *labels) decisionID() string {
	return evidence.Text(first(l.decision, decisionIDIn(l.extAuthz)), evidence.MaxName)
}

func (l *labels) header(name, value string) bool {
	switch name {
	case "traceparent", "b3":
	case "x_b3_traceid", "x_b3_spanid", "x_spiffe_id", "x_forwarded_client_cert", "x_envoy_attempt_count":
		name = strings.ReplaceAll(name, "_", "-")
	case "x-b3-traceid", "x-b3-spanid", "x-spiffe-id", "x-forwarded-client-cert", "x-envoy-attempt-count":
	default:
		return false
	}
	if value != "-" {
		l.headers.Add(name, value)
	}
	return true
}

func (l *labels) field(name string) *string {
	switch name {
	case "method", "request_method":
		return &l.method
	case "path", "request_path", "x-envoy-origin-path":
		return &l.path
	case "authority", ":authority":
		return &l.authority
	case "protocol":
		return &l.protocol
	case "response_code":
		return &l.status
	case "response_code_details":
		return &l.details
	case "response_flags":
		return &l.flags
	case "connection_termination_details":
		return &l.termination
	case "grpc_status":
		return &l.grpcStatus
	case "grpc_status_number":
		return &l.grpcStatusNumber
	case "start_time", "@timestamp":
		return &l.startTime
	case "duration":
		return &l.duration
	case "upstream_cluster":
		return &l.cluster
	case "upstream_host":
		return &l.upstreamHost
	case "upstream_local_address":
		return &l.upstreamLocal
	case "route_name":
		return &l.route
	case "downstream_remote_address":
		return &l.downstreamRemote
	case "downstream_direct_remote_address":
		return &l.downstreamDirect
	case "downstream_local_address":
		return &l.downstreamLocal
	case "request_id", "x_request_id", "x-request-id":
		return &l.requestID
	case "stream_id":
		return &l.streamID
	case "trace_id":
		return &l.traceID
	case "span_id":
		return &l.spanID
	case "requested_server_name":
		return &l.serverName
	case "peer_spiffe_id", "downstream_peer_uri_san":
		return &l.peerURI
	case "local_spiffe_id", "downstream_local_uri_san":
		return &l.localURI
	case "peer_principal":
		return &l.peerPrincipal
	case "local_principal":
		return &l.localPrincipal
	case "upstream_peer_spiffe_id", "upstream_peer_uri_san":
		return &l.upstreamPeerURI
	case "downstream_peer_dns_san":
		return &l.peerDNS
	case "downstream_peer_subject":
		return &l.peerSubject
	case "upstream_peer_dns_san":
		return &l.upstreamPeerDNS
	case "upstream_peer_subject":
		return &l.upstreamPeerSubject
	case "upstream_tls_version":
		return &l.upstreamTLSVersion
	case "upstream_tls_cipher":
		return &l.upstreamTLSCipher
	case "upstream_local_spiffe_id", "upstream_local_uri_san":
		return &l.upstreamLocalURI
	case "peer_cert_sha256", "downstream_peer_fingerprint_256":
		return &l.peerSHA256
	case "peer_cert_serial", "downstream_peer_serial":
		return &l.peerSerial
	case "peer_cert_issuer", "downstream_peer_issuer":
		return &l.peerIssuer
	case "peer_cert", "downstream_peer_cert":
		return &l.peerCert
	case "peer_cert_not_after", "downstream_peer_cert_v_end":
		return &l.peerNotAfter
	case "tls_version", "downstream_tls_version":
		return &l.tlsVersion
	case "tls_cipher", "downstream_tls_cipher":
		return &l.tlsCipher
	case "downstream_transport_failure_reason":
		return &l.downstreamFailure
	case "upstream_transport_failure_reason":
		return &l.upstreamFailure
	case "ext_authz":
		return &l.extAuthz
	case "decision_id":
		return &l.decision
	case "listener_direction", "traffic_direction":
		return &l.listenerDirection
	case "access_log_type":
		return &l.logType
	case "upstream_request_attempt_count":
		return &l.attempts
	case "user", "user.id":
		return &l.user
	case "request_auth_principal":
		return &l.principal
	case "azp":
		return &l.azp
	case "pod_name":
		return &l.podName
	case "pod_namespace":
		return &l.podNamespace
	}
	return nil
}

// direction reads the listener's direction: Envoy's name of it or its number.
func (l *labels) direction() direction {
	switch strings.ToUpper(l.listenerDirection) {
	case "INBOUND", "1":
		return inbound
	case "OUTBOUND", "2":
		return outbound
	}
	return unknownDirection
}

// apply adds to an evidence whose role is known what the access log service's
// own fields do not say. A label is the proxy's statement, as configured by its
// operator; so URI SANs here are mtls_san.
func (l *labels) apply(e *evidence.Evidence) {
	if id, ok := evidence.ParseTraceID(l.traceID); ok {
		e.TraceID = id
	}
	if id, ok := evidence.ParseSpanID(l.spanID); ok {
		e.SpanID = id
	}
	if e.RequestID == "" {
		e.RequestID = evidence.Text(l.requestID, evidence.MaxName)
	}
	proof := terminated(e)
	if e.Role == evidence.RoleCaller {
		// The callee is the upstream connection's peer.
		addURIs(&e.From, l.upstreamLocalURI, proof, fromUpstreamLocal)
		if !addURIs(&e.To, l.upstreamPeerURI, proof, fromUpstreamPeer) && !addDNS(&e.To, l.upstreamPeerDNS, proof, fromUpstreamDNS) {
			addName(&e.To, l.upstreamPeerSubject, proof, fromUpstreamSubject)
		}
		set(&e.TLS.Version, tlsVersion(l.upstreamTLSVersion))
		set(&e.TLS.Cipher, evidence.Text(l.upstreamTLSCipher, evidence.MaxName))
		if first(l.upstreamPeerURI, l.upstreamPeerDNS, l.upstreamPeerSubject, l.upstreamTLSVersion) != "" {
			e.TLS.Known, e.TLS.Established = true, e.TLS.FailureReason == ""
			e.TLS.Mutual = l.upstreamLocalURI != ""
		}
	} else {
		if l.peerURI == "" && l.peerPrincipal != "" {
			// Envoy quotes a filter state unless it is asked for PLAIN.
			addURIs(&e.From, strings.Trim(l.peerPrincipal, `"`), proof, fromPeerPrincipal)
			addURIs(&e.To, strings.Trim(l.localPrincipal, `"`), proof, fromLocalPrincipal)
		}
		addURIs(&e.To, l.localURI, proof, fromLocalSAN)
		if !addURIs(&e.From, l.peerURI, proof, fromPeerSAN) && !addDNS(&e.From, l.peerDNS, proof, fromPeerDNS) {
			addName(&e.From, l.peerSubject, proof, fromPeerSubject)
		}
		set(&e.TLS.ClientSHA256, fingerprint(l.peerSHA256))
		serial, _ := evidence.Serial(l.peerSerial)
		set(&e.TLS.ClientSerial, serial)
		set(&e.TLS.ClientIssuer, evidence.Text(l.peerIssuer, evidence.MaxName))
		set(&e.TLS.Version, tlsVersion(l.tlsVersion))
		set(&e.TLS.Cipher, evidence.Text(l.tlsCipher, evidence.MaxName))
		if l.peerCert != "" {
			e.TLS.Mutual = true
			if e.TLS.FailureReason == "" { // else it proves nothing
				shown(e).Peer = evidence.Certificate{Leaf: l.peerCert, Hash: e.TLS.ClientSHA256}
			}
		}
		if l.peerNotAfter != "" {
			if t, err := time.Parse(time.RFC3339Nano, l.peerNotAfter); err == nil {
				e.TLS.ClientNotAfter = t.Unix()
			}
		}
	}
	if e.User == "" {
		e.User = evidence.Text(l.user, evidence.MaxName)
	}
	token.ApplyPrincipal(e, l.principal)
	if azp := evidence.Text(l.azp, evidence.MaxName); azp != "" {
		// Who the user is another label would say: without one it need not be the client.
		if e.Actor == nil {
			e.Actor = new(evidence.Actor)
		}
		if t := &e.Actor.Token; t.AuthorizedParty == "" {
			t.AuthorizedParty = azp
		}
	}
}

// addURIs adds the URI SANs of one certificate; Envoy joins several with commas. It
// is false if there are none.
func addURIs(p *evidence.Party, uris string, proof evidence.Proof, from string) bool {
	for rest, n := uris, 0; rest != "" && n < evidence.MaxIdentities; n++ {
		var uri string
		uri, rest, _ = strings.Cut(rest, ",")
		p.AddIdentity(evidence.ParseIdentity(uri, proof, from))
	}
	return uris != ""
}

// addDNS adds its DNS SANs in the same way.
func addDNS(p *evidence.Party, names string, proof evidence.Proof, from string) bool {
	for rest, n := names, 0; rest != "" && n < evidence.MaxIdentities; n++ {
		var name string
		name, rest, _ = strings.Cut(rest, ",")
		addName(p, name, proof, from)
	}
	return names != ""
}

// fingerprint returns a SHA-256 in lower case hex without colons, or "".
func fingerprint(s string) string {
	const digits = 64
	if len(s) > digits {
		s = strings.ReplaceAll(s, ":", "")
	}
	s = strings.ToLower(s)
	if len(s) != digits || strings.Trim(s, "0123456789abcdef") != "" {
		return ""
	}
	return s
}

// tlsVersion reads Envoy's names, TLSv1.3, as 1.3.
func tlsVersion(s string) string {
	s = strings.TrimPrefix(s, "TLSv")
	switch s {
	case "1":
		return "1.0"
	case "1.0", "1.1", "1.2", "1.3":
		return s
	}
	return ""
}

// decisionIDIn reads a label that holds ext_authz's dynamic metadata as JSON.
func decisionIDIn(s string) string {
	const maxMetadataBytes = 64 << 10
	if len(s) < 2 || s[0] != '{' || len(s) > maxMetadataBytes {
		return ""
	}
	var fields map[string]any
	if json.Unmarshal([]byte(s), &fields) != nil {
		return ""
	}
	md, err := structpb.NewStruct(fields)
	if err != nil {
		return ""
	}
	serialized, err := proto.Marshal(md)
	if err != nil {
		return ""
	}
	return decisionID(protoStruct(serialized), 4)
}

// FromOTLPLog reads a record of Envoy's OpenTelemetry access logger, as Istio's
// envoyOtelAls provider configures it, or Istio's JSON access log after a
// receiver parsed it into attributes or a map body. Labels are looked for in
// the attributes, then in a map body; if they say nothing of a request or a
// connection, in a text body of one of the formats that need no configuration.
//
// It is false unless the record is one: the resource has both log_name and
// node_name, which Envoy's logger adds; or the labels hold response_flags and
// one of response_code_details, upstream_cluster and
// connection_termination_details.
func FromOTLPLog(under pcommon.Resource, lr plog.LogRecord) (evidence.Evidence, bool) {
	if !labelled(under, lr) {
		return evidence.Evidence{}, false
	}
	var l labels
	collect(&l, lr.Attributes())
	switch body := lr.Body(); body.Type() {
	case pcommon.ValueTypeMap:
		collect(&l, body.Map())
	case pcommon.ValueTypeStr:
		l.line(body.Str())
	}

	// Istio without a format of one's own sends its text format as the body.
	textual := !l.stated() && lr.Body().Type() == pcommon.ValueTypeStr && len(lr.Body().Str()) <= evidence.MaxLine &&
		builtinLines().readText(strings.TrimSpace(lr.Body().Str()), &l)

	var node Node
	if id, ok := under.Attributes().Get("node_name"); ok {
		node = ParseNodeID(id.Str())
	}
	resourceWorkload(under, &node)
	if l.podName != "" && node.Workload.PodName == "" {
		node.Workload.PodName = evidence.Text(l.podName, evidence.MaxName)
		node.Workload.Namespace = evidence.Text(l.podNamespace, evidence.MaxName)
	}
	var e evidence.Evidence
	l.evidence(&node, &e)
	if textual {
		sane(&e)
	}
	// Envoy's logger states the start here, and %START_TIME% only its millisecond.
	if t := int64(lr.Timestamp()); t != 0 && (l.startTime == "" || t >= e.Start && t < e.Start+int64(time.Millisecond)) {
		move := t - e.Start
		if e.Start = t; e.End != 0 {
			e.End += move
		}
	}
	// The logger takes them from the proxy's active span.
	if id := evidence.TraceID(lr.TraceID()); id != (evidence.TraceID{}) {
		e.TraceID = id
	}
	if id := evidence.SpanID(lr.SpanID()); id != (evidence.SpanID{}) {
		e.SpanID = id
	}
	applyTrace(&e, l.headers.Trace())
	return e, true
}

// labelled says whether FromOTLPLog takes a record.
func labelled(under pcommon.Resource, lr plog.LogRecord) bool {
	if lr.EventName() != "" {
		return false // Envoy names no event; this is something else
	}
	_, named := under.Attributes().Get("log_name")
	_, ofNode := under.Attributes().Get("node_name")
	_, flags := label(lr, "response_flags")
	_, details := label(lr, "response_code_details")
	_, cluster := label(lr, "upstream_cluster")
	_, termination := label(lr, "connection_termination_details")
	return named && ofNode || flags && (details || cluster || termination)
}

// NameDecision states the decision's id, which a record that FromOTLPLog takes has in
// its label ext_authz, in a label of its own. The external authorizer may put anything
// beside it, which is not to be sealed.
func NameDecision(under pcommon.Resource, lr plog.LogRecord) {
	if lr.EventName() != "" {
		return
	}
	authz, ok := label(lr, "ext_authz")
	if !ok || !labelled(under, lr) {
		return
	}
	l := labels{extAuthz: authz.AsString()}
	if v, ok := label(lr, "decision_id"); ok {
		l.set("decision_id", v.AsString())
	}
	if id := l.decisionID(); id != "" {
		lr.Attributes().PutStr("decision_id", id)
	}
}

// PeerCertificate is the peer's certificate among the labels of a record that
// FromOTLPLog takes, "" if there is none. It is for a record of which what is
// not to be sealed will be taken away before that.
func PeerCertificate(lr plog.LogRecord) string {
	if lr.EventName() != "" {
		return ""
	}
	for _, name := range [...]string{"downstream_peer_cert", "peer_cert"} {
		if v, ok := label(lr, name); ok && v.Type() == pcommon.ValueTypeStr && v.Str() != "-" {
			return v.Str()
		}
	}
	return ""
}

func label(lr plog.LogRecord, name string) (pcommon.Value, bool) {
	if v, ok := lr.Attributes().Get(name); ok {
		return v, true
	}
	if lr.Body().Type() == pcommon.ValueTypeMap {
		return lr.Body().Map().Get(name)
	}
	return pcommon.Value{}, false
}

func collect(l *labels, m pcommon.Map) {
	for name, v := range m.All() {
		switch v.Type() {
		case pcommon.ValueTypeStr:
			l.set(name, v.Str())
		case pcommon.ValueTypeInt, pcommon.ValueTypeDouble:
			l.set(name, v.AsString())
		case pcommon.ValueTypeMap:
			if name == "ext_authz" {
				l.extAuthz = v.AsString()
			}
		}
	}
}

// line reads the body of our reference format, METHOD SP PATH SP CODE; any
// other text is left alone.
func (l *labels) line(s string) {
	fields := strings.Fields(evidence.Text(s, 2*evidence.MaxPath))
	if len(fields) != 3 || !strings.HasPrefix(fields[1], "/") || len(decimal(fields[2])) != 3 ||
		strings.Trim(fields[0], "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") != "" {
		return
	}
	l.method, l.path, l.status = fields[0], fields[1], fields[2]
}

func resourceWorkload(r pcommon.Resource, n *Node) {
	set(&n.Cluster, resource.Read(r.Attributes(), &n.Workload))
	for _, name := range [...]string{"service.name", "cluster_name"} {
		// Istio's Envoy service cluster is NAME.NAMESPACE.
		if v, ok := r.Attributes().Get(name); ok && n.Workload.Name == "" {
			n.Workload.Name = strings.TrimSuffix(evidence.Text(v.Str(), evidence.MaxName), "."+n.Workload.Namespace)
		}
	}
}

// evidence fills in e, which is zero.
func (l *labels) evidence(node *Node, e *evidence.Evidence) {
	e.Source, e.Final = evidence.SourceEnvoyOTLP, finalName(l.logType)
	e.Reporter.Node, e.Cluster = node.ID, node.Cluster
	e.Method = evidence.Text(l.method, evidence.MaxName)
	e.Path = evidence.PathOnly(l.path)
	e.Host = evidence.Authority(first(l.authority, l.serverName))
	e.Protocol = evidence.Text(l.protocol, evidence.MaxName)
	e.Route = routeTemplate(l.route)
	e.StatusDetail = statusDetail(first(l.details, l.termination))
	e.ResponseFlags = evidence.Text(l.flags, evidence.MaxName)
	if n, err := strconv.ParseUint(l.status, 10, 10); err == nil {
		e.Status = int(n)
	}
	e.Failed = e.Status == 0 && e.ResponseFlags != ""
	e.User = evidence.Text(l.user, evidence.MaxName)
	e.GRPCStatus = first(grpcNumber(l.grpcStatusNumber), grpcNumber(l.grpcStatus))
	if e.GRPCStatus != "" {
		RPC(e)
	}
	e.RequestID = evidence.Text(l.requestID, evidence.MaxName)
	if id := evidence.Text(l.streamID, evidence.MaxName); id != e.RequestID {
		e.StreamID = id
	}
	if e.Start = l.start; e.Start == 0 {
		if t, err := time.Parse(time.RFC3339Nano, l.startTime); err == nil {
			e.Start = unixNano(t.Unix(), int32(t.Nanosecond()))
		}
	}
	if ms, err := strconv.ParseUint(l.duration, 10, 40); err == nil {
		e.End = e.Start + int64(ms)*int64(time.Millisecond)
	}
	e.Verdict = verdictOf(e.StatusDetail, e.ResponseFlags)
	var r rbac
	l.results(&r)
	decide(e, &r, l.decisionID(), l.flagsStated || e.StatusDetail == detailUpstream)

	localAddress, localPort := SplitAddress(l.downstreamLocal)
	s := stand{
		node: node, cluster: l.cluster, details: e.StatusDetail, hasUpstream: l.upstreamHost != "",
		peerCertificate: l.presented(), localAddress: localAddress, listener: l.direction(),
	}
	e.Role = s.role()
	l.parties(node, e, localAddress, localPort)
	l.apply(e)
	l.headers.Claims(e)
	if e.Method == "" && e.Path == "" && e.Status == 0 {
		e.Event = evidence.EventConnection
		if e.Protocol == "" {
			e.Protocol = "tcp"
		}
		// A connection has no duration while it is open, and may be reported all the while.
		e.Final = e.Final && !l.unfinished
	}
	setEvent(e)
}

// presented: the peer authenticated itself by a certificate.
func (l *labels) presented() bool {
	return first(l.peerURI, l.peerDNS, l.peerSubject, l.peerSHA256, l.peerSerial, l.peerIssuer, l.peerCert, l.peerPrincipal) != ""
}

// parties reads both ends of the call; the local address is the downstream
// connection's.
func (l *labels) parties(node *Node, e *evidence.Evidence, localAddress string, localPort uint16) {
	if e.Role == evidence.RoleCaller {
		e.From.Workload = node.Workload
		if e.From.Address, e.From.Port = SplitAddress(l.upstreamLocal); e.From.Address == "" {
			e.From.Address = node.IP
		}
		// A sidecar's client is of its own pod; another is a gateway's.
		if host, port := SplitAddress(l.downstreamRemote); node.Type == "router" || host != e.From.Address {
			e.PeerAddress, e.PeerPort = host, port
		}
		parseCluster(l.cluster).destination(&e.To.Workload)
		e.To.Address, e.To.Port = SplitAddress(l.upstreamHost)
		switch {
		case captured(l.cluster) && l.upstreamHost == "":
			// No upstream was connected to: the captured connection's own ends.
			e.From.Address, e.From.Port = SplitAddress(l.downstreamRemote)
			e.To.Address, e.To.Port = localAddress, localPort
			e.PeerAddress, e.PeerPort = "", 0
		case tunnel(l.cluster) && localAddress == e.To.Address:
			e.To.Port = localPort // the application's instead of HBONE's
		}
		transportFailure(e, l.upstreamFailure)
		if n, err := strconv.ParseUint(l.attempts, 10, 16); err == nil && n > 1 {
			e.ResendCount = int(n - 1)
		}
		return
	}
	e.From.Address, e.From.Port = SplitAddress(l.downstreamRemote)
	if e.PeerAddress, e.PeerPort = SplitAddress(l.downstreamDirect); e.PeerAddress == e.From.Address && e.PeerPort == e.From.Port {
		e.PeerAddress, e.PeerPort = "", 0
	}
	e.To.Address, e.To.Port = localAddress, localPort
	e.To.Workload = asked(node, l.cluster)
	transportFailure(e, l.downstreamFailure)
	// A format that has TLS labels and leaves them empty says plaintext; one
	// without them says nothing.
	e.TLS.Known = l.tlsStated && !behindTunnel(node, l.cluster) || l.presented()
	e.TLS.Mutual = l.presented()
	e.TLS.Established = (e.TLS.Mutual || l.tlsVersion != "") && e.TLS.FailureReason == ""
	if n := l.headers.AttemptCount; n > 1 {
		e.ResendCount = n - 1
	}
}

func finalName(logType string) bool {
	switch logType {
	case "", "NotSet", "DownstreamEnd", "UpstreamEnd", "TcpConnectionEnd", "UdpSessionEnd":
		return true
	}
	return false
}

// SplitAddress reads HOST:PORT or [IPv6]:PORT, of old proxies with tcp:// before
// it, of Envoy's own listeners (envoy://LISTENER/HOST:PORT) the endpoint behind;
// anything else that has no character that none has is an address without port.
func SplitAddress(s string) (string, uint16) {
	s = strings.TrimPrefix(s, "tcp://")
	if internal, ok := strings.CutPrefix(s, "envoy://"); ok {
		_, s, _ = strings.Cut(internal, "/")
	}
	if s == "" || strings.ContainsAny(s, " \t\"'<>=;,?&") {
		return "", 0
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return evidence.Text(s, evidence.MaxName), 0
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return evidence.Text(s, evidence.MaxName), 0
	}
	return evidence.Text(host, evidence.MaxName), uint16(n)
}
