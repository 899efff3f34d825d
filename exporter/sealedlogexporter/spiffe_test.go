package sealedlogexporter

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshaudit/meshaudit/exporter/sealedlogexporter/internal/metadata"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
	"github.com/meshaudit/meshaudit/seal"
)

// agent serves the SPIFFE Workload API to one workload, as a SPIRE agent does.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	address string
	ca      []byte

	mu      sync.Mutex
	svid    *workload.X509SVID
	changed chan struct{} // closed at the next rotation
}

func startAgent(t *testing.T, ca *evidencetest.CA, id string) *agent {
	t.Helper()
	b, err := os.ReadFile(ca.File(t))
	require.NoError(t, err)
	block, _ := pem.Decode(b)
	a := &agent{address: filepath.Join(t.TempDir(), "agent.sock"), ca: block.Bytes, changed: make(chan struct{})}
	a.rotate(t, id, ca.Issue(t, id))
	l, err := net.Listen("unix", a.address)
	require.NoError(t, err)
	s := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(s, a)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return a
}

// rotate gives the workload another SVID.
func (a *agent) rotate(t *testing.T, id string, c tls.Certificate) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	require.NoError(t, err)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.svid = &workload.X509SVID{SpiffeId: id, X509Svid: c.Certificate[0], X509SvidKey: key, Bundle: a.ca}
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	for {
		a.mu.Lock()
		svid, changed := a.svid, a.changed
		a.mu.Unlock()
		if svid == nil {
			return status.Error(codes.PermissionDenied, "no identity issued")
		}
		if err := stream.Send(&workload.X509SVIDResponse{Svids: []*workload.X509SVID{svid}}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// The writer's SVID, from the Workload API and as it is at each start, takes
// the place of pinned keys.
func TestSPIFFEIdentityVouches(t *testing.T) {
	const id = "spiffe://example.org/ns/mesh/sa/collector"
	ca := evidencetest.NewCA(t)
	a := startAgent(t, ca, id)
	cfg := testConfig(t)
	cfg.SPIFFE.WorkloadAPI = "unix://" + a.address
	cfg.Keys.Chain = "fresh"
	require.NoError(t, cfg.Validate())
	run(t, cfg)
	a.rotate(t, id, ca.Issue(t, id))
	run(t, cfg)

	trusting := func(pattern string) *seal.Report {
		line := "spiffe " + pattern + " " + ca.File(t)
		must(t, os.WriteFile(filepath.Join(cfg.keysDirectory(), seal.TrustFile), []byte(line), 0o600))
		return verify(t, cfg)
	}
	r := trusting("spiffe://example.org/ns/*/sa/collector")
	assert.Equal(t, seal.ExitProven, r.ExitCode(), "%v", r.Logs[0].Findings)
	assert.Equal(t, []string{id}, r.Logs[0].Identities)
	assert.Equal(t, seal.ExitTampering, trusting("spiffe://example.org/ns/shop/*").ExitCode())

	// The SVID of another workload is another writer.
	other := "spiffe://example.org/ns/shop/sa/orders"
	a.rotate(t, other, ca.Issue(t, other))
	run(t, cfg)
	assert.Equal(t, seal.ExitTampering, trusting(id).ExitCode())

	a.mu.Lock()
	a.svid = nil
	a.mu.Unlock()
	defer func(d time.Duration) { firstSVIDTimeout = d }(firstSVIDTimeout)
	firstSVIDTimeout = time.Second
	l, err := NewFactory().CreateLogs(context.Background(), exportertest.NewNopSettings(metadata.Type), cfg)
	must(t, err)
	err = l.Start(context.Background(), componenttest.NewNopHost())
	assert.ErrorContains(t, err, "`spiffe::workload_api`")
	assert.ErrorContains(t, err, "is this workload registered?")
}
