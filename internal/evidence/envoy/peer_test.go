package envoy

import (
	"slices"
	"testing"

	als "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
)

const refused = "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end"

func byName(name, from string) evidence.Identity {
	return evidence.Identity{Invalid: name, Proof: evidence.ProofMTLSSAN, From: from}
}

func dns(name string) *als.TLSProperties_CertificateProperties_SubjectAltName {
	return &als.TLSProperties_CertificateProperties_SubjectAltName{San: &als.TLSProperties_CertificateProperties_SubjectAltName_Dns{Dns: name}}
}

// TestPeersNames: a peer is named by its certificate's URI SANs, else by its DNS
// SANs, else by its subject; only a URI SAN is a SPIFFE ID.
func TestPeersNames(t *testing.T) {
	spiffe := evidence.ParseIdentity(frontend, evidence.ProofMTLSSAN, fromPeerSAN)
	type sans = []*als.TLSProperties_CertificateProperties_SubjectAltName
	for name, tt := range map[string]struct {
		peer   *als.TLSProperties_CertificateProperties
		mutual bool
		want   []evidence.Identity
	}{
		"everything":        {&als.TLSProperties_CertificateProperties{SubjectAltName: append(sans{dns("a.corp")}, certificateOf(frontend).SubjectAltName...), Subject: "CN=a"}, true, []evidence.Identity{spiffe}},
		"DNS names":         {&als.TLSProperties_CertificateProperties{SubjectAltName: sans{dns("a.corp"), dns("b.corp")}, Subject: "CN=a"}, true, []evidence.Identity{byName("a.corp", "tls.peer.dns_san"), byName("b.corp", "tls.peer.dns_san")}},
		"a subject":         {&als.TLSProperties_CertificateProperties{Subject: "CN=billing,O=Corp"}, true, []evidence.Identity{byName("CN=billing,O=Corp", "tls.peer.subject")}},
		"no SPIFFE ID":      {&als.TLSProperties_CertificateProperties{SubjectAltName: sans{dns(frontend)}}, true, []evidence.Identity{byName(frontend, "tls.peer.dns_san")}},
		"an issuer":         {&als.TLSProperties_CertificateProperties{Issuer: "CN=ca"}, true, nil},
		"none was asked of": {&als.TLSProperties_CertificateProperties{}, false, nil}, // so Envoy writes it
	} {
		e := changed(t, func(entry *als.HTTPAccessLogEntry, c *als.AccessLogCommon) {
			entry.Request.RequestHeaders = nil
			c.TlsProperties.PeerCertificateProperties = tt.peer
		})
		if !slices.Equal(e.From.Identities, tt.want) || e.TLS.Mutual != tt.mutual || !e.TLS.Established {
			t.Errorf("%s: %+v, TLS %+v", name, e.From.Identities, e.TLS)
		}
	}

	for name, tt := range map[string]struct {
		format, line string
		check        func(*evidence.Evidence) bool
	}{
		"a client's": {`%START_TIME% %RESPONSE_CODE% %DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_PEER_DNS_SAN% "%DOWNSTREAM_PEER_SUBJECT%"`,
			`2026-11-23T10:00:00.000Z 200 - a.corp,b.corp "CN=billing,O=My Corp"`, func(e *evidence.Evidence) bool {
				return e.TLS.Mutual && slices.Equal(e.From.Identities, []evidence.Identity{byName("a.corp", "tls.peer.dns_san"), byName("b.corp", "tls.peer.dns_san")})
			}},
		"a client's subject": {`%START_TIME% %RESPONSE_CODE% %DOWNSTREAM_PEER_DNS_SAN% "%DOWNSTREAM_PEER_SUBJECT%"`,
			`2026-11-23T10:00:00.000Z 200 - "CN=billing,O=My Corp"`, func(e *evidence.Evidence) bool {
				return e.TLS.Mutual && slices.Equal(e.From.Identities, []evidence.Identity{byName("CN=billing,O=My Corp", "tls.peer.subject")})
			}},
		"no client's": {`%START_TIME% %RESPONSE_CODE% %DOWNSTREAM_PEER_DNS_SAN% "%DOWNSTREAM_PEER_SUBJECT%"`,
			`2026-11-23T10:00:00.000Z 200 - "-"`, func(e *evidence.Evidence) bool {
				return e.TLS.Known && !e.TLS.Mutual && !e.TLS.Established && len(e.From.Identities) == 0
			}},
		"a server's": {`%START_TIME% %RESPONSE_CODE% %UPSTREAM_CLUSTER% %UPSTREAM_PEER_DNS_SAN% "%UPSTREAM_PEER_SUBJECT%" %UPSTREAM_TLS_VERSION% %UPSTREAM_TLS_CIPHER%`,
			`2026-11-23T10:00:00.000Z 200 outbound|443||a.corp a.corp "CN=a" TLSv1.3 TLS_AES_128_GCM_SHA256`, func(e *evidence.Evidence) bool {
				return e.TLS == evidence.TLS{Known: true, Established: true, Version: "1.3", Cipher: "TLS_AES_128_GCM_SHA256"} &&
					slices.Equal(e.To.Identities, []evidence.Identity{byName("a.corp", "tls.upstream.peer.dns_san")})
			}},
		"a server's subject": {`%START_TIME% %RESPONSE_CODE% %UPSTREAM_CLUSTER% "%UPSTREAM_PEER_SUBJECT%"`,
			`2026-11-23T10:00:00.000Z 200 outbound|443||a.corp "CN=a"`, func(e *evidence.Evidence) bool {
				return e.TLS.Established && slices.Equal(e.To.Identities, []evidence.Identity{byName("CN=a", "tls.upstream.peer.subject")})
			}},
	} {
		if e := oneLine(t, lines(t, tt.format, nil), tt.line); !tt.check(&e) {
			t.Errorf("%s: %s", name, evidencetest.Render(&e))
		}
	}
}

// TestRefusedCertificates: what was shown in a handshake that failed proves nobody.
func TestRefusedCertificates(t *testing.T) {
	claimed := func(ids []evidence.Identity, id string) bool {
		return len(ids) == 1 && ids[0].ID.String() == id && ids[0].Proof == evidence.ProofClaimed
	}
	entry := TCP(sidecar(), &als.TCPAccessLogEntry{CommonProperties: &als.AccessLogCommon{
		DownstreamTransportFailureReason: refused, DownstreamRemoteAddress: socketAddress("192.0.2.1", 4711), DownstreamLocalAddress: socketAddress("10.0.0.1", 8443),
		TlsProperties: &als.TLSProperties{PeerCertificateProperties: certificateOf(frontend), LocalCertificateProperties: certificateOf(orders)},
		CustomTags:    map[string]string{"downstream_peer_uri_san": frontend, "downstream_peer_cert": "-----BEGIN%20CERTIFICATE-----"},
	}})
	format := lines(t, `%START_TIME% "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%" %DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_LOCAL_URI_SAN% %DOWNSTREAM_PEER_CERT% %DOWNSTREAM_REMOTE_ADDRESS%`, nil)
	line := oneLine(t, format, `2026-11-23T10:00:00.000Z "`+refused+`" `+frontend+` `+orders+` -----BEGIN%20CERTIFICATE----- 192.0.2.1:4711`)
	for name, e := range map[string]*evidence.Evidence{"entry": &entry, "line": &line} {
		if e.Event != evidence.EventHandshake || e.TLS.Established || !e.TLS.Mutual || e.TLS.FailureReason != refused || e.Shown != nil ||
			!claimed(e.To.Identities, orders) || e.From.Identities[0].ID.String() != frontend || e.From.Identities[0].Proof != evidence.ProofClaimed {
			t.Errorf("%s: %s%v", name, evidencetest.Render(e), e.Shown)
		}
	}

	caller := lines(t, `%START_TIME% %UPSTREAM_CLUSTER% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %UPSTREAM_PEER_URI_SAN% %UPSTREAM_LOCAL_URI_SAN%`, nil)
	e := oneLine(t, caller, `2026-11-23T10:00:00.000Z outbound|80||a "`+refused+`" `+orders+` `+frontend)
	if e.Event != evidence.EventHandshake || e.TLS.Established || !claimed(e.To.Identities, orders) || !claimed(e.From.Identities, frontend) {
		t.Errorf("upstream: %s", evidencetest.Render(&e))
	}
}
