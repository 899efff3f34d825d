package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"github.com/google/uuid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// sidecar stands where Envoy stands in a real mesh: before and behind one
// application. It ends and begins mutual TLS, asks the policy about every
// request that comes in, and reports every request in both directions once it
// is over.
//
// It makes no spans of its own. It logs the traceparent that passes through
// it, so both sidecars of a call name the calling application's client span,
// which is the parent of the called application's server span.
type sidecar struct {
	workload workloadInfo
	source   *workloadapi.X509Source
	policy   *policyAgent
	log      *accessLog
	peers    map[string]*peer // by host:port as applications write it
}

// peer is a service that can be called.
type peer struct {
	name      string
	address   string // where it really listens
	transport *http.Transport
}

// loggedHeaders are the request headers that the access log keeps, as set with
// additional_request_headers_to_log in Envoy.
var loggedHeaders = []string{"traceparent", "x-spiffe-id", "x-forwarded-client-cert"}

// addPeer makes a service known to the applications behind this sidecar. The
// connection is refused unless the peer's certificate carries its SPIFFE ID.
func (s *sidecar) addPeer(w workloadInfo, address string) {
	s.peers[w.host()] = &peer{
		name:    w.name,
		address: address,
		transport: &http.Transport{
			TLSClientConfig:   tlsconfig.MTLSClientConfig(s.source, s.source, tlsconfig.AuthorizeID(spiffeID(w.name))),
			ForceAttemptHTTP2: true,
		},
	}
}

// inbound judges a request, passes it to the application if the policy allows
// it, and reports it either way.
func (s *sidecar) inbound(app http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		if r.Header.Get(requestIDHeader) == "" { // the edge of the mesh gives the request its id
			r.Header.Set(requestIDHeader, uuid.NewString())
		}
		entry := newEntry(r, start)
		entry.CommonProperties.DownstreamRemoteAddress = socketAddress(r.RemoteAddr)
		entry.CommonProperties.DownstreamDirectRemoteAddress = entry.CommonProperties.DownstreamRemoteAddress
		entry.CommonProperties.DownstreamLocalAddress = socketAddress(localAddress(r))
		entry.CommonProperties.UpstreamCluster = fmt.Sprintf("inbound|%d||", applicationPort)
		entry.CommonProperties.TlsProperties = s.tlsProperties(r.TLS)

		response := &response{ResponseWriter: w, status: http.StatusOK}
		switch verdict, err := s.policy.decide(r.Context(), s.policyInput(r, start)); {
		case err != nil:
			entry.Response.ResponseCodeDetails = "ext_authz_error"
			http.Error(response, "the policy could not be asked", http.StatusForbidden)
		case !verdict.allowed:
			entry.CommonProperties.Metadata = decisionMetadata(verdict.decisionID)
			entry.CommonProperties.ResponseFlags = &accesslogv3.ResponseFlags{
				UnauthorizedDetails: &accesslogv3.ResponseFlags_Unauthorized{
					Reason: accesslogv3.ResponseFlags_Unauthorized_EXTERNAL_SERVICE,
				},
			}
			entry.Response.ResponseCodeDetails = "ext_authz_denied"
			http.Error(response, "denied: "+verdict.reason, http.StatusForbidden)
		default:
			entry.CommonProperties.Metadata = decisionMetadata(verdict.decisionID)
			entry.CommonProperties.UpstreamRequestAttemptCount = 1
			entry.Response.ResponseCodeDetails = "via_upstream"
			app.ServeHTTP(response, r)
		}
		s.report(entry, start, response.status, response.bytes)
	})
}

// outbound is the transport that applications call through. They speak plain
// HTTP to names such as orders.shop:8080; on the wire it is mutual TLS.
func (s *sidecar) outbound() http.RoundTripper {
	return roundTripperFunc(func(r *http.Request) (*http.Response, error) {
		peer, ok := s.peers[r.URL.Host]
		if !ok {
			return nil, fmt.Errorf("no service %s in the mesh", r.URL.Host)
		}
		start := time.Now()
		entry := newEntry(r, start)
		entry.CommonProperties.UpstreamRemoteAddress = socketAddress(peer.address)
		entry.CommonProperties.UpstreamCluster = fmt.Sprintf("outbound|%d||%s.%s.svc.cluster.local",
			applicationPort, peer.name, namespace)
		entry.CommonProperties.UpstreamRequestAttemptCount = 1

		onWire := r.Clone(r.Context())
		onWire.Host = r.URL.Host
		onWire.URL.Scheme = "https"
		onWire.URL.Host = peer.address
		resp, body, err := s.exchange(peer, onWire)
		if err != nil {
			entry.CommonProperties.ResponseFlags = &accesslogv3.ResponseFlags{UpstreamConnectionFailure: true}
			entry.CommonProperties.UpstreamTransportFailureReason = err.Error()
			entry.Response.ResponseCodeDetails = "upstream_reset_before_response_started{connection_failure}"
			s.report(entry, start, http.StatusServiceUnavailable, 0)
			return nil, err
		}
		entry.Response.ResponseCodeDetails = "via_upstream"
		s.report(entry, start, resp.StatusCode, len(body))
		resp.Body = io.NopCloser(bytes.NewReader(body))
		return resp, nil
	})
}

// exchange reads the whole answer, because a report is due only when the
// request is over. The shop's answers are one line long.
func (s *sidecar) exchange(to *peer, r *http.Request) (*http.Response, []byte, error) {
	resp, err := to.transport.RoundTrip(r)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp, body, err
}

func (s *sidecar) report(entry *accesslogv3.HTTPAccessLogEntry, start time.Time, status, bodyBytes int) {
	took := durationpb.New(time.Since(start))
	entry.CommonProperties.Duration = took
	entry.CommonProperties.TimeToLastDownstreamTxByte = took
	entry.Response.ResponseCode = wrapperspb.UInt32(uint32(status))
	entry.Response.ResponseBodyBytes = uint64(bodyBytes)
	s.log.write(entry)
}

// newEntry holds what both directions report alike.
func newEntry(r *http.Request, start time.Time) *accesslogv3.HTTPAccessLogEntry {
	version := accesslogv3.HTTPAccessLogEntry_HTTP11
	if r.ProtoMajor == 2 {
		version = accesslogv3.HTTPAccessLogEntry_HTTP2
	}
	authority := r.Host
	if authority == "" {
		authority = r.URL.Host
	}
	headers := map[string]string{}
	for _, name := range loggedHeaders {
		if value := r.Header.Get(name); value != "" {
			headers[name] = value
		}
	}
	return &accesslogv3.HTTPAccessLogEntry{
		ProtocolVersion: version,
		CommonProperties: &accesslogv3.AccessLogCommon{
			StartTime:     timestamppb.New(start),
			StreamId:      uuid.NewString(),
			AccessLogType: accesslogv3.AccessLogType_DownstreamEnd,
		},
		Request: &accesslogv3.HTTPRequestProperties{
			RequestMethod:  corev3.RequestMethod(corev3.RequestMethod_value[r.Method]),
			Scheme:         "http", // what the application speaks
			Authority:      authority,
			Path:           r.URL.RequestURI(),
			UserAgent:      r.UserAgent(),
			RequestId:      r.Header.Get(requestIDHeader),
			RequestHeaders: headers,
		},
		Response: &accesslogv3.HTTPResponseProperties{},
	}
}

// tlsProperties reports the TLS connection that a request came in on; nil for
// a plain one.
func (s *sidecar) tlsProperties(state *tls.ConnectionState) *accesslogv3.TLSProperties {
	if state == nil {
		return nil
	}
	properties := &accesslogv3.TLSProperties{
		TlsCipherSuite:            wrapperspb.UInt32(uint32(state.CipherSuite)),
		TlsSniHostname:            state.ServerName,
		PeerCertificateProperties: certificateProperties(state.PeerCertificates),
	}
	switch state.Version {
	case tls.VersionTLS13:
		properties.TlsVersion = accesslogv3.TLSProperties_TLSv1_3
	case tls.VersionTLS12:
		properties.TlsVersion = accesslogv3.TLSProperties_TLSv1_2
	}
	if own, err := s.source.GetX509SVID(); err == nil {
		properties.LocalCertificateProperties = certificateProperties(own.Certificates)
	}
	return properties
}

func certificateProperties(chain []*x509.Certificate) *accesslogv3.TLSProperties_CertificateProperties {
	if len(chain) == 0 {
		return nil
	}
	properties := &accesslogv3.TLSProperties_CertificateProperties{
		Subject: chain[0].Subject.String(),
		Issuer:  chain[0].Issuer.String(),
	}
	for _, uri := range chain[0].URIs {
		properties.SubjectAltName = append(properties.SubjectAltName,
			&accesslogv3.TLSProperties_CertificateProperties_SubjectAltName{
				San: &accesslogv3.TLSProperties_CertificateProperties_SubjectAltName_Uri{Uri: uri.String()},
			})
	}
	return properties
}

// decisionMetadata is how the access log names the policy's decision: as the
// dynamic metadata that external authorization leaves on a request.
func decisionMetadata(id string) *corev3.Metadata {
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
		"envoy.filters.http.ext_authz": {Fields: map[string]*structpb.Value{
			"decision_id": structpb.NewStringValue(id),
		}},
	}}
}

// policyInput describes a request as Envoy's external authorization describes
// it to OPA. Who calls is taken from the certificate.
func (s *sidecar) policyInput(r *http.Request, start time.Time) map[string]any {
	headers := map[string]any{":authority": r.Host, ":method": r.Method, ":path": r.URL.RequestURI()}
	for name, values := range r.Header {
		headers[strings.ToLower(name)] = strings.Join(values, ",")
	}
	source := map[string]any{"address": policyAddress(r.RemoteAddr)}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && len(r.TLS.PeerCertificates[0].URIs) > 0 {
		source["principal"] = r.TLS.PeerCertificates[0].URIs[0].String()
	}
	return map[string]any{
		"version": map[string]any{"ext_authz": "v3", "encoding": "protojson"},
		"attributes": map[string]any{
			"source": source,
			"destination": map[string]any{
				"address":   policyAddress(localAddress(r)),
				"principal": spiffeID(s.workload.name).String(),
			},
			"request": map[string]any{
				"time": start.UTC().Format(time.RFC3339Nano),
				"http": map[string]any{
					"id":       r.Header.Get(requestIDHeader),
					"method":   r.Method,
					"scheme":   "http",
					"host":     r.Host,
					"path":     r.URL.RequestURI(),
					"protocol": r.Proto,
					"headers":  headers,
				},
			},
		},
	}
}

func policyAddress(hostPort string) map[string]any {
	address, err := netip.ParseAddrPort(hostPort)
	if err != nil {
		return nil
	}
	return map[string]any{"socketAddress": map[string]any{
		"address": address.Addr().String(), "portValue": int(address.Port()),
	}}
}

func socketAddress(hostPort string) *corev3.Address {
	address, err := netip.ParseAddrPort(hostPort)
	if err != nil {
		return nil
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       address.Addr().String(),
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(address.Port())},
	}}}
}

// localAddress is the address that the request's connection came in on.
func localAddress(r *http.Request) string {
	address, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return ""
	}
	return address.String()
}

// response notes what the application answers.
type response struct {
	http.ResponseWriter
	status, bytes int
}

func (r *response) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *response) Write(b []byte) (int, error) {
	n, err := r.ResponseWriter.Write(b)
	r.bytes += n
	return n, err
}

// hangUp closes the connections to other services.
func (s *sidecar) hangUp() {
	for _, peer := range s.peers {
		peer.transport.CloseIdleConnections()
	}
}
