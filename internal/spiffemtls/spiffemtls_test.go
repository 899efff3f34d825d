package spiffemtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
)

func TestValidate(t *testing.T) {
	good := Config{WorkloadAPI: "unix:///run/agent.sock", TrustDomains: []string{"example.org"}}
	require.NoError(t, good.Validate())
	err := (&Config{WorkloadAPI: "agent.sock", TrustDomains: []string{"Not/One"}, IDs: []string{"example.org/x", "spiffe://["}}).Validate()
	for _, want := range []string{"`workload_api`", `"Not/One"`, `"example.org/x"`, `"spiffe://["`} {
		require.ErrorContains(t, err, want)
	}
	require.ErrorContains(t, (&Config{WorkloadAPI: good.WorkloadAPI}).Validate(), "who may connect")
}

// server accepts connections and tells what it saw of their peers.
func server(t *testing.T, s *Source) (addr string, peers chan evidence.Reporter) {
	l, err := tls.Listen("tcp", "127.0.0.1:0", s.ServerConfig())
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	peers = make(chan evidence.Reporter, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if c.(*tls.Conn).Handshake() == nil {
					state := c.(*tls.Conn).ConnectionState()
					peers <- evidence.PeerReporter(&state, "peer")
					_, _ = io.WriteString(c, "hello")
				}
			}()
		}
	}()
	return l.Addr().String(), peers
}

// dial reads the server's greeting; with TLS 1.3 a refusal comes after the
// client's own handshake.
func dial(addr string, roots *x509.CertPool, svid *tls.Certificate) error {
	cfg := &tls.Config{RootCAs: roots, ServerName: "localhost"}
	if svid != nil {
		cfg.Certificates = []tls.Certificate{*svid}
	}
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", addr, cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.ReadFull(c, make([]byte, 5))
	return err
}

func TestWhoMayConnect(t *testing.T) {
	own, foreign, stranger := evidencetest.NewCA(t), evidencetest.NewCA(t), evidencetest.NewCA(t)
	api := evidencetest.NewWorkloadAPI(t, own, "spiffe://example.org/meshaudit", map[string]*evidencetest.CA{"partner.example": foreign})
	s, err := Open(t.Context(), Config{WorkloadAPI: api.Addr, TrustDomains: []string{"partner.example"}, IDs: []string{"spiffe://example.org/ns/*/sa/proxy"}})
	require.NoError(t, err)
	defer s.Close()
	require.Equal(t, "spiffe://example.org/meshaudit", s.ID())
	addr, peers := server(t, s)
	for name, tc := range map[string]struct {
		ca *evidencetest.CA
		id string
		ok bool
	}{
		"by pattern":                           {own, "spiffe://example.org/ns/shop/sa/proxy", true},
		"another account":                      {own, "spiffe://example.org/ns/shop/sa/orders", false},
		"deeper than the pattern":              {own, "spiffe://example.org/ns/a/b/sa/proxy", false},
		"a federated trust domain":             {foreign, "spiffe://partner.example/anything", true},
		"a partner's authority for our domain": {foreign, "spiffe://example.org/ns/shop/sa/proxy", false},
		"our authority for a partner's domain": {own, "spiffe://partner.example/x", false},
		"an authority that nobody knows":       {stranger, "spiffe://example.org/ns/shop/sa/proxy", false},
	} {
		t.Run(name, func(t *testing.T) {
			svid := tc.ca.Issue(t, tc.id)
			err := dial(addr, own.Pool(), &svid)
			if !tc.ok {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			r := <-peers
			require.True(t, r.Authenticated)
			require.Equal(t, tc.id, r.SPIFFEID.String())
		})
	}
	require.Error(t, dial(addr, own.Pool(), nil), "without a certificate")
}

// A rotation of SVID and bundle needs no restart.
func TestRotation(t *testing.T) {
	before, after := evidencetest.NewCA(t), evidencetest.NewCA(t)
	api := evidencetest.NewWorkloadAPI(t, before, "spiffe://example.org/meshaudit", nil)
	s, err := Open(t.Context(), Config{WorkloadAPI: api.Addr, TrustDomains: []string{"example.org"}})
	require.NoError(t, err)
	defer s.Close()
	addr, _ := server(t, s)
	old, renewed := before.Issue(t, "spiffe://example.org/a"), after.Issue(t, "spiffe://example.org/a")
	require.NoError(t, dial(addr, before.Pool(), &old))
	require.Error(t, dial(addr, before.Pool(), &renewed))
	api.Rotate(t, after, "spiffe://example.org/meshaudit", nil)
	require.Eventually(t, func() bool { return dial(addr, after.Pool(), &renewed) == nil }, 10*time.Second, 10*time.Millisecond)
	require.Error(t, dial(addr, after.Pool(), &old), "the old authority is not trusted any more")
}

func TestNoWorkloadAPI(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := Open(ctx, Config{WorkloadAPI: "unix://" + t.TempDir() + "/none.sock", TrustDomains: []string{"example.org"}})
	require.ErrorContains(t, err, "is the agent there")
	require.True(t, strings.Contains(err.Error(), "none.sock"))
}
