package envoyaccesslogreceiver

import (
	"crypto/tls"
	"testing"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
	"github.com/meshaudit/meshaudit/internal/spiffemtls"
)

// Certificates and tokens in entries are verified here, and go no further.
func TestCredentialsInEntries(t *testing.T) {
	const frontend, gateway = "spiffe://example.org/ns/shop/sa/frontend", "spiffe://example.org/ns/ingress/sa/gateway"
	ca := evidencetest.NewCA(t)
	api := evidencetest.NewWorkloadAPI(t, ca, "spiffe://example.org/collector", nil)
	identify := func(cfg *Config) {
		cfg.Identity.TrustBundles.WorkloadAPI = api.Addr
		cfg.Identity.JWTAudiences = []string{"orders"}
	}
	peer := evidencetest.PEM(ca.Issue(t, gateway).Certificate[0])
	forwarded := evidencetest.PEM(ca.Issue(t, frontend).Certificate[0])
	m := message("node-1", "/a")
	entry := m.GetHttpLogs().LogEntry[0]
	entry.CommonProperties = &accesslogv3.AccessLogCommon{StartTime: timestamppb.Now(), CustomTags: map[string]string{"downstream_peer_cert": peer}}
	entry.Request.RequestHeaders = map[string]string{
		"x-forwarded-client-cert": `Cert="` + forwarded + `"`,
		"authorization":           "Bearer " + ca.JWT(t, frontend, "orders", time.Now().Add(time.Minute), nil),
	}

	for name, tc := range map[string]struct {
		change func(*Config)
		creds  credentials.TransportCredentials
		want   []evidence.Identity // IDs by From
	}{
		"from a proxy that is known": {
			func(cfg *Config) {
				identify(cfg)
				cfg.SPIFFE = &spiffemtls.Config{WorkloadAPI: api.Addr, TrustDomains: []string{"example.org"}}
			},
			credentials.NewTLS(&tls.Config{RootCAs: ca.Pool(), ServerName: "localhost", Certificates: []tls.Certificate{ca.Issue(t, gateway)}}),
			[]evidence.Identity{
				{Proof: evidence.ProofSVID, From: "tls.peer.certificate"},
				{Proof: evidence.ProofJWTSVID, From: "jwt_svid"},
				{Proof: evidence.ProofClaimed, From: "header.x-forwarded-client-cert.certificate"},
			},
		},
		"from anybody": {
			identify, insecure.NewCredentials(),
			[]evidence.Identity{
				{Proof: evidence.ProofJWTSVID, From: "jwt_svid"},
				{Proof: evidence.ProofClaimed, From: "tls.peer.certificate: unauthenticated"},
				{Proof: evidence.ProofClaimed, From: "header.x-forwarded-client-cert.certificate"},
			},
		},
		"without bundles": {nil, insecure.NewCredentials(), nil},
	} {
		t.Run(name, func(t *testing.T) {
			next := newSink()
			_, c := serve(t, next, tc.change, tc.creds)
			s := open(t, c)
			require.NoError(t, s.Send(m))
			_, err := s.CloseAndRecv()
			require.NoError(t, err)
			require.Len(t, next.got, 1)
			var got []evidence.Identity
			for _, id := range next.got[0].From.Identities {
				if want := gateway; id.From[0] != 't' {
					require.Equal(t, frontend, id.ID.String())
				} else {
					require.Equal(t, want, id.ID.String())
				}
				id.ID = evidence.Identity{}.ID
				got = append(got, id)
			}
			require.Equal(t, tc.want, got)
			require.True(t, next.got[0].TLS.Mutual)
		})
	}
}
