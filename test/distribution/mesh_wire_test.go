package distribution

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	alv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type span struct {
	headers // what it passes on
	parent  string
	pod     *pod
	kind    string
	start   time.Time
	at      time.Duration
}

// begins makes a span of an application or a proxy, beneath what h names.
func (w *world) begins(p *pod, kind string, h headers, at time.Duration) *span {
	s := &span{pod: p, kind: kind, parent: h.span, at: at, start: w.begin.Add(at + p.node.off)}
	if h.trace == "" {
		h.trace, h.sampled, s.parent = w.hex(16), w.chance(0.3), ""
	}
	h.span = w.hex(8)
	s.headers = h
	return s
}

// ends sends the span, if it is sampled.
func (w *world) ends(s *span, r *report, at time.Duration, actions ...*action) {
	if !s.sampled || len(actions) == 0 {
		return
	}
	p := w.piece("span "+s.kind, "span "+s.trace+"/"+s.span, actions...)
	p.trace = s.trace
	if strings.HasPrefix(s.kind, "proxy") {
		p.request = r.request
	}
	end := s.start.Add(at - s.at)
	w.send(p, w.flush(at, 2*time.Second), "spans", s.pod, func(t ptrace.Span) {
		t.SetTraceID(pcommon.TraceID(unhex(s.trace)))
		t.SetSpanID(spanID(s.span))
		if s.parent != "" {
			t.SetParentSpanID(spanID(s.parent))
		}
		t.SetKind(ptrace.SpanKindServer)
		if strings.HasSuffix(s.kind, "client") {
			t.SetKind(ptrace.SpanKindClient)
		}
		t.SetStartTimestamp(pcommon.NewTimestampFromTime(s.start))
		t.SetEndTimestamp(pcommon.NewTimestampFromTime(end))
		a := t.Attributes()
		if proxy := strings.HasPrefix(s.kind, "proxy"); !proxy {
			t.SetName(r.method)
			a.PutStr("http.request.method", r.method)
			if strings.HasSuffix(s.kind, "client") {
				a.PutStr("url.full", "http://"+r.authority+":8080"+r.path)
				a.PutStr("server.address", r.authority)
				a.PutInt("server.port", 8080)
			} else {
				a.PutStr("url.path", r.path)
			}
			a.PutInt("http.response.status_code", int64(r.status))
			return
		}
		t.SetName(r.authority + "/*")
		for k, v := range map[string]string{
			"component": "proxy", "node_id": s.pod.nodeID(), "http.method": r.method, "http.url": "http://" + r.authority + r.path,
			"http.protocol": "HTTP/1.1", "http.status_code": strconv.Itoa(r.status), "upstream_cluster": r.cluster, "upstream_cluster.name": r.cluster,
			"response_flags": dash(r.flags), "guid:x-request-id": r.request, "downstream_cluster": "-", "user_agent": "Go-http-client/1.1",
			"peer.address": host(r.remote), "istio.canonical_service": s.pod.service.name, "istio.canonical_revision": "v1",
			"istio.namespace": s.pod.namespace, "istio.mesh_id": "cluster.local", "request_size": "0", "response_size": "12", "net.host.ip": s.pod.ip,
		} {
			a.PutStr(k, v)
		}
	})
}

func resource(a pcommon.Map, p *pod, proxy bool) {
	if proxy {
		a.PutStr("service.name", p.service.name+"."+p.namespace)
		return
	}
	a.PutStr("service.name", p.service.name)
	a.PutStr("service.namespace", p.namespace)
	a.PutStr("service.version", "v1")
	a.PutStr("k8s.pod.name", p.name)
	a.PutStr("k8s.namespace.name", p.namespace)
}

func unhex(s string) (b [16]byte) {
	x, _ := hex.DecodeString(s)
	copy(b[:], x)
	return b
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func host(addr string) string {
	h, _, _ := strings.Cut(addr, ":")
	return h
}

func (p *pod) nodeID() string {
	kind := "sidecar"
	if p.gateway {
		kind = "router"
	} else if p.port == 15008 {
		kind = "waypoint"
	}
	return kind + "~" + p.ip + "~" + p.name + "." + p.namespace + "~" + p.namespace + ".svc.cluster.local"
}

func (p *pod) envoyNode() *corev3.Node {
	md, _ := structpb.NewStruct(map[string]any{
		"NAME": p.name, "NAMESPACE": p.namespace, "NODE_NAME": p.node.name, "CLUSTER_ID": "Kubernetes", "MESH_ID": "cluster.local",
		"SERVICE_ACCOUNT": p.service.name, "WORKLOAD_NAME": p.service.name, "INSTANCE_IPS": p.ip, "INTERCEPTION_MODE": "REDIRECT", "ISTIO_VERSION": "1.27.3",
		"OWNER":  "kubernetes://apis/apps/v1/namespaces/" + p.namespace + "/deployments/" + p.service.name,
		"LABELS": map[string]any{"app": p.service.name, "version": "v1", "service.istio.io/canonical-name": p.service.name, "service.istio.io/canonical-revision": "v1"},
	})
	return &corev3.Node{Id: p.nodeID(), Cluster: p.service.name + "." + p.namespace, Metadata: md, UserAgentName: "envoy"}
}

func address(s string) *corev3.Address {
	if s == "" {
		return nil
	}
	if rest, ok := strings.CutPrefix(s, "envoy://"); ok {
		listener, endpoint, _ := strings.Cut(rest, "/")
		return &corev3.Address{Address: &corev3.Address_EnvoyInternalAddress{EnvoyInternalAddress: &corev3.EnvoyInternalAddress{
			AddressNameSpecifier: &corev3.EnvoyInternalAddress_ServerListenerName{ServerListenerName: listener}, EndpointId: endpoint}}}
	}
	ap := netip.MustParseAddrPort(s)
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: ap.Addr().String(),
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(ap.Port())}}}}
}

func sans(uri string) *alv3.TLSProperties_CertificateProperties {
	return &alv3.TLSProperties_CertificateProperties{SubjectAltName: []*alv3.TLSProperties_CertificateProperties_SubjectAltName{
		{San: &alv3.TLSProperties_CertificateProperties_SubjectAltName_Uri{Uri: uri}}}}
}

// als is the entry that Envoy sends to its access log service.
func (r *report) als() proto.Message {
	c := &alv3.AccessLogCommon{
		DownstreamRemoteAddress: address(r.remote), DownstreamLocalAddress: address(r.local), DownstreamDirectRemoteAddress: address(r.remote),
		UpstreamRemoteAddress: address(r.upstream), UpstreamLocalAddress: address(r.upstreamLocal),
		// Istio gives every cluster an alternative name that ends so, which Envoy logs.
		UpstreamCluster: r.cluster + ";",
		StartTime:       timestamppb.New(r.start), Duration: durationpb.New(r.duration), TimeToLastDownstreamTxByte: durationpb.New(r.duration),
		StreamId: r.request, RouteName: "default", UpstreamRequestAttemptCount: uint32(r.attempts), ResponseFlags: &alv3.ResponseFlags{},
		AccessLogType: alv3.AccessLogType_DownstreamEnd, Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{}},
		FilterStateObjects: map[string]*anypb.Any{},
	}
	if r.direct != "" {
		c.DownstreamDirectRemoteAddress = address(r.direct)
	}
	if r.interim {
		c.AccessLogType = alv3.AccessLogType_DownstreamPeriodic
	}
	if r.peerSAN != "" {
		c.TlsProperties = &alv3.TLSProperties{TlsVersion: alv3.TLSProperties_TLSv1_3, TlsCipherSuite: wrapperspb.UInt32(0x1302),
			TlsSniHostname: "outbound_.8080_._." + r.pod.host(), PeerCertificateProperties: sans(r.peerSAN), LocalCertificateProperties: sans(r.localSAN)}
	}
	if r.peer != nil {
		key := "upstream_peer"
		if r.inbound && r.pod.port != 15008 {
			key = "downstream_peer"
		}
		md, _ := structpb.NewStruct(map[string]any{"namespace": r.peer.namespace, "workload": r.peer.service.name, "name": r.peer.name, "cluster": "Kubernetes",
			"service": r.peer.service.name, "revision": "v1", "app": r.peer.service.name, "version": "v1", "type": "deployment"})
		c.FilterStateObjects[key], _ = anypb.New(md)
	}
	if r.principal != "" {
		c.FilterStateObjects["io.istio.peer_principal"], _ = anypb.New(wrapperspb.String(r.principal))
		c.FilterStateObjects["io.istio.local_principal"], _ = anypb.New(wrapperspb.String(r.pod.id()))
	}
	metadata := func(filter string, v map[string]any) {
		c.Metadata.FilterMetadata[filter], _ = structpb.NewStruct(v)
	}
	if r.decision != "" {
		metadata("envoy.filters.http.ext_authz", map[string]any{"decision_id": r.decision, "ext_authz_duration": 1.0})
	}
	if r.user != "" {
		metadata("envoy.filters.http.jwt_authn", map[string]any{"payload": map[string]any{"sub": r.user, "iss": "https://id.example"}})
	}
	switch r.flags {
	case "UAEX":
		c.ResponseFlags.UnauthorizedDetails = &alv3.ResponseFlags_Unauthorized{Reason: alv3.ResponseFlags_Unauthorized_EXTERNAL_SERVICE}
	case "URX":
		c.ResponseFlags.UpstreamRetryLimitExceeded = true
	case "UT":
		c.ResponseFlags.UpstreamRequestTimeout = true
	case "DC":
		c.ResponseFlags.DownstreamConnectionTermination = true
	}
	if r.tcp {
		c.AccessLogType, c.StreamId, c.UpstreamRequestAttemptCount = alv3.AccessLogType_TcpConnectionEnd, "", 0
		return &alv3.TCPAccessLogEntry{CommonProperties: c, ConnectionProperties: &alv3.ConnectionProperties{ReceivedBytes: 12, SentBytes: 34}}
	}
	e := &alv3.HTTPAccessLogEntry{CommonProperties: c, ProtocolVersion: alv3.HTTPAccessLogEntry_HTTP11,
		Request: &alv3.HTTPRequestProperties{RequestMethod: corev3.RequestMethod(corev3.RequestMethod_value[r.method]), Scheme: "http", Authority: r.authority,
			Path: r.path + "?q=1", UserAgent: "Go-http-client/1.1", RequestId: r.request, RequestHeaders: map[string]string{}},
		Response: &alv3.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(uint32(r.status)), ResponseCodeDetails: r.details}}
	if r.traceparent != "" {
		e.Request.RequestHeaders["traceparent"] = r.traceparent
	}
	if r.attempt > 0 {
		e.Request.RequestHeaders["x-envoy-attempt-count"] = strconv.Itoa(r.attempt)
	}
	if r.grpc != 0 {
		e.ProtocolVersion = alv3.HTTPAccessLogEntry_HTTP2
		e.Response.ResponseTrailers = map[string]string{"grpc-status": "0"}
		e.Request.RequestHeaders["content-type"] = "application/grpc"
	}
	return e
}

// labels are the values of Envoy's command operators, by the names of Istio's
// JSON access log; the OpenTelemetry log adds some.
func (r *report) labels() map[string]string {
	code, protocol := strconv.Itoa(r.status), "HTTP/1.1"
	if r.tcp {
		code, protocol = "0", ""
	}
	return map[string]string{
		"start_time": r.start.Format("2006-01-02T15:04:05.000Z"), "method": r.method, "path": r.path, "protocol": protocol, "response_code": code,
		"response_flags": r.flags, "response_code_details": r.details, "connection_termination_details": "", "upstream_transport_failure_reason": "",
		"bytes_received": "0", "bytes_sent": "12", "duration": strconv.FormatInt(r.duration.Milliseconds(), 10), "upstream_service_time": "3",
		"x_forwarded_for": "", "user_agent": "Go-http-client/1.1", "request_id": r.request, "authority": r.authority, "upstream_host": r.upstream,
		"upstream_cluster": r.cluster + ";", "upstream_local_address": r.upstreamLocal, "downstream_local_address": r.local,
		"downstream_remote_address": r.remote, "requested_server_name": "", "route_name": "default",
	}
}

func (r *report) otlp(rec plog.LogRecord) {
	l := r.labels()
	for k, v := range map[string]string{
		"downstream_peer_uri_san": r.peerSAN, "downstream_local_uri_san": r.localSAN, "stream_id": r.request, "trace_id": r.trace, "traceparent": r.traceparent,
		"x_envoy_attempt_count": "", "upstream_request_attempt_count": strconv.Itoa(r.attempts), "downstream_direct_remote_address": r.remote, "access_log_type": "DownstreamEnd",
		"downstream_tls_version": "", "downstream_tls_cipher": "", "grpc_status_number": "", "ext_authz": "",
	} {
		l[k] = v
	}
	if r.direct != "" {
		l["downstream_direct_remote_address"] = r.direct
	}
	if r.tcp {
		l["access_log_type"], l["stream_id"] = "TcpConnectionEnd", "3a0b8ee9-1f6c-4a60-9f5c-"+fmt.Sprintf("%012x", r.start.UnixNano()&0xffffffffffff)
	}
	if r.interim {
		l["access_log_type"] = "DownstreamPeriodic"
	}
	if r.attempt > 0 {
		l["x_envoy_attempt_count"] = strconv.Itoa(r.attempt)
	}
	if r.peerSAN != "" {
		l["downstream_tls_version"], l["downstream_tls_cipher"] = "TLSv1.3", "TLS_AES_256_GCM_SHA384"
	}
	if r.grpc != 0 {
		l["grpc_status_number"] = "0"
	}
	if r.decision != "" {
		l["ext_authz"] = `{"decision_id":"` + r.decision + `"}`
	}
	for k, v := range l {
		rec.Attributes().PutStr(k, dash(v))
	}
	rec.SetTimestamp(pcommon.NewTimestampFromTime(r.start))
	if r.trace != "" {
		rec.SetTraceID(pcommon.TraceID(unhex(r.trace)))
		rec.SetSpanID(spanID(r.span))
	}
}

// text is Istio's default format, json its JSON.
func (r *report) text() string {
	l := r.labels()
	for k, v := range l {
		l[k] = dash(v)
	}
	first := l["method"] + " " + l["path"] + " " + l["protocol"]
	if r.tcp {
		first = "- - -"
	}
	return fmt.Sprintf("[%s] %q %s %s %s - %q %s %s %s %s %q %q %q %q %q %s %s %s %s - %s\n", l["start_time"], first, l["response_code"], l["response_flags"],
		l["response_code_details"], "-", "0", "12", l["duration"], "3", "-", l["user_agent"], l["request_id"], l["authority"], l["upstream_host"],
		strings.TrimSuffix(l["upstream_cluster"], ";"), l["upstream_local_address"], l["downstream_local_address"], l["downstream_remote_address"], l["route_name"])
}

func (r *report) json() string {
	o := map[string]any{}
	for k, v := range r.labels() {
		switch {
		case k == "response_code" || k == "duration" || k == "bytes_sent" || k == "bytes_received":
			n, _ := strconv.Atoi(v)
			o[k] = n
		case v == "" && k == "response_flags":
			o[k] = "-"
		case v == "":
			o[k] = nil
		default:
			o[k] = v
		}
	}
	b, _ := json.Marshal(o)
	return string(b) + "\n"
}

type logLine struct {
	piece *piece
	line  string
	at    time.Time
}

// cri is a line as the kubelet keeps it.
func (l logLine) cri() string { return l.at.UTC().Format(time.RFC3339Nano) + " stdout F " + l.line }

func fileOf(p *pod, container string) string {
	return fmt.Sprintf("%s_%s_%08x-0000-4000-8000-000000000000/%s/0.log", p.namespace, p.name, len(p.name), container)
}

func ztunnelFile(n *node) string {
	return "istio-system_ztunnel-" + n.name + "_00000000-0000-4000-8000-000000000000/istio-proxy/0.log"
}

func ztunnelLine(c *tunnel, inbound bool, end time.Time, d time.Duration, asJSON bool) string {
	src, dst := fmt.Sprintf("%s:%d", c.from.ip, c.port), fmt.Sprintf("%s:15008", c.to.ip)
	hbone := fmt.Sprintf("%s:%d", c.to.ip, c.service.port)
	if c.to.port == 15008 {
		hbone = fmt.Sprintf("%s:%d", c.service.vip, c.service.port)
	}
	direction := "outbound"
	if inbound {
		src, dst, direction = fmt.Sprintf("%s:%d", c.from.ip, c.hbone), hbone, "inbound"
	}
	fields := [][2]string{{"src.addr", src}, {"src.workload", c.from.name}, {"src.namespace", c.from.namespace}, {"src.identity", c.from.id()},
		{"dst.addr", dst}, {"dst.hbone_addr", hbone}, {"dst.service", c.service.host()}, {"dst.workload", c.to.name}, {"dst.namespace", c.to.namespace},
		{"dst.identity", c.to.id()}, {"direction", direction}, {"bytes_sent", "200"}, {"bytes_recv", "603"}, {"duration", strconv.FormatInt(d.Milliseconds(), 10) + "ms"}}
	at := end.UTC().Format("2006-01-02T15:04:05.000000Z")
	if asJSON {
		o := map[string]string{"level": "info", "time": at, "scope": "access", "message": "connection complete"}
		for _, f := range fields {
			o[f[0]] = f[1]
		}
		b, _ := json.Marshal(o)
		return string(b) + "\n"
	}
	var b strings.Builder
	b.WriteString(at + "\tinfo\taccess\tconnection complete\t")
	for i, f := range fields {
		if i > 0 {
			b.WriteByte(' ')
		}
		v := f[1]
		if strings.HasSuffix(f[0], "identity") || f[0] == "direction" || f[0] == "duration" {
			v = strconv.Quote(v)
		}
		b.WriteString(f[0] + "=" + v)
	}
	b.WriteByte('\n')
	return b.String()
}

// decision is what opa-envoy-plugin uploads.
func (w *world) decision(p *piece, a *action, r *report, h headers, id string, at time.Duration, allow bool) map[string]any {
	start := w.begin.Add(at + a.to.node.off)
	p.request = r.request
	if p.trace = h.trace; a.to.forwards && a.to.proxyTraces {
		p.trace = a.trace
	}
	headers := map[string]any{":method": r.method, ":path": r.path, ":authority": r.authority, "x-request-id": r.request, "x-forwarded-proto": "http",
		"x-envoy-attempt-count": strconv.Itoa(r.attempt)}
	if h.trace != "" {
		headers["traceparent"] = h.traceparent()
	}
	if h.spoofs != "" {
		headers["x-spiffe-id"] = h.spoofs
	}
	peer := func(addr, principal string) map[string]any {
		ip, port, _ := strings.Cut(addr, ":")
		n, _ := strconv.Atoi(port)
		m := map[string]any{"address": map[string]any{"socketAddress": map[string]any{"address": ip, "portValue": n}}}
		if principal != "" {
			m["principal"] = principal
		}
		return m
	}
	source := peer(r.direct, r.peerSAN)
	if r.peerSAN != "" {
		headers["x-forwarded-client-cert"] = "By=" + a.to.id() + ";Hash=0a1b;Subject=\"\";URI=" + r.peerSAN
	}
	e := map[string]any{
		"decision_id": id, "path": "istio/authz/allow", "result": allow, "timestamp": start.Add(time.Millisecond).Format(time.RFC3339Nano),
		"labels":  map[string]any{"id": "opa-" + a.to.name, "version": "1.9.0"},
		"bundles": map[string]any{"authz": map[string]any{"revision": "r1"}},
		"metrics": map[string]any{"timer_rego_query_eval_ns": 41000},
		"input": map[string]any{
			"attributes": map[string]any{
				"source": source, "destination": peer(r.local, r.localSAN),
				"request": map[string]any{"time": start.Format(time.RFC3339Nano), "http": map[string]any{
					"id": strconv.FormatUint(w.Uint64(), 10), "method": r.method, "path": r.path, "host": r.authority, "scheme": "http", "protocol": "HTTP/1.1", "headers": headers}},
				"metadataContext": map[string]any{"filterMetadata": map[string]any{}},
			},
			"parsed_path": strings.Split(strings.Trim(r.path, "/"), "/"), "parsed_query": map[string]any{},
			"version": map[string]any{"encoding": "protojson", "ext_authz": "v3"}, "truncated_body": false,
		},
	}
	if a.to.forwards { // with distributed tracing
		if a.to.proxyTraces {
			e["trace_id"], e["span_id"] = a.trace, w.hex(8)
		}
	}
	return e
}

func (w *world) auditEvent(p *policy) map[string]any {
	at := w.begin.Add(-time.Hour).Format("2006-01-02T15:04:05.000000Z")
	return map[string]any{
		"kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": w.uuid(), "stage": "ResponseComplete", "verb": "update",
		"requestURI": "/apis/security.istio.io/v1/namespaces/" + p.namespace + "/authorizationpolicies/" + p.name,
		"user":       map[string]any{"username": p.by, "groups": []string{"system:authenticated"}}, "sourceIPs": []string{"198.51.100.4"},
		"objectRef":      map[string]any{"resource": "authorizationpolicies", "namespace": p.namespace, "name": p.name, "apiGroup": "security.istio.io", "apiVersion": "v1"},
		"responseStatus": map[string]any{"code": 200}, "requestReceivedTimestamp": at, "stageTimestamp": at,
	}
}

func spanID(s string) pcommon.SpanID { b := unhex(s); return pcommon.SpanID(b[:8]) }
