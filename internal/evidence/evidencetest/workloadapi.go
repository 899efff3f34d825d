package evidencetest

import (
	"crypto/x509"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A WorkloadAPI is the SPIFFE Workload API on a socket, as an agent serves it,
// for tests: it gives every caller one X.509-SVID and pushes a new one on
// Rotate.
type WorkloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	Addr string // unix:///…

	mu      sync.Mutex
	now     *workload.X509SVIDResponse
	x509    *workload.X509BundlesResponse
	jwt     *workload.JWTBundlesResponse
	changed chan struct{} // closed by the next Rotate
}

// NewWorkloadAPI serves id, issued by ca, until the test ends. federated maps
// further trust domains to their authorities.
func NewWorkloadAPI(tb testing.TB, ca *CA, id string, federated map[string]*CA) *WorkloadAPI {
	tb.Helper()
	socket := filepath.Join(tb.TempDir(), "agent.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	w := &WorkloadAPI{Addr: "unix://" + socket, changed: make(chan struct{})}
	w.Rotate(tb, ca, id, federated)
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, w)
	go func() { _ = server.Serve(listener) }() // ends with Stop
	tb.Cleanup(server.Stop)
	return w
}

// Rotate gives a new SVID, issued by ca, and ca's bundle alone.
func (w *WorkloadAPI) Rotate(tb testing.TB, ca *CA, id string, federated map[string]*CA) {
	tb.Helper()
	svid := ca.Issue(tb, id)
	key, err := x509.MarshalPKCS8PrivateKey(svid.PrivateKey)
	if err != nil {
		tb.Fatal(err)
	}
	response := &workload.X509SVIDResponse{
		Svids:            []*workload.X509SVID{{SpiffeId: id, X509Svid: svid.Certificate[0], X509SvidKey: key, Bundle: ca.cert.Raw}},
		FederatedBundles: map[string][]byte{},
	}
	td := spiffeid.RequireFromString(id).TrustDomain().Name()
	x509 := &workload.X509BundlesResponse{Bundles: map[string][]byte{"spiffe://" + td: ca.cert.Raw}}
	jwt := &workload.JWTBundlesResponse{Bundles: map[string][]byte{"spiffe://" + td: jwks(tb, ca, td)}}
	for domain, other := range federated {
		response.FederatedBundles["spiffe://"+domain] = other.cert.Raw
		x509.Bundles["spiffe://"+domain] = other.cert.Raw
		jwt.Bundles["spiffe://"+domain] = jwks(tb, other, domain)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now, w.x509, w.jwt = response, x509, jwt
	close(w.changed)
	w.changed = make(chan struct{})
}

func jwks(tb testing.TB, ca *CA, td string) []byte {
	tb.Helper()
	b, err := ca.Bundle(tb, td).JWTBundle().Marshal()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// FetchX509SVID implements the service.
func (w *WorkloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	return push(w, stream, func() *workload.X509SVIDResponse { return w.now })
}

// FetchX509Bundles implements the service.
func (w *WorkloadAPI) FetchX509Bundles(_ *workload.X509BundlesRequest, stream workload.SpiffeWorkloadAPI_FetchX509BundlesServer) error {
	return push(w, stream, func() *workload.X509BundlesResponse { return w.x509 })
}

// FetchJWTBundles implements the service.
func (w *WorkloadAPI) FetchJWTBundles(_ *workload.JWTBundlesRequest, stream workload.SpiffeWorkloadAPI_FetchJWTBundlesServer) error {
	return push(w, stream, func() *workload.JWTBundlesResponse { return w.jwt })
}

// push sends what there is now, and again on each Rotate.
func push[R any](w *WorkloadAPI, stream grpc.ServerStreamingServer[R], of func() *R) error {
	if md, _ := metadata.FromIncomingContext(stream.Context()); len(md.Get("workload.spiffe.io")) == 0 {
		return status.Error(codes.InvalidArgument, "the security header is missing")
	}
	for {
		w.mu.Lock()
		now, changed := of(), w.changed
		w.mu.Unlock()
		if err := stream.Send(now); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}
