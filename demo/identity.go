package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

var trustDomain = spiffeid.RequireTrustDomainFromString("shop.example")

// spiffeID is the identity of a service of the shop, in the form that Istio
// gives to Kubernetes service accounts.
func spiffeID(service string) spiffeid.ID {
	return spiffeid.RequireFromPath(trustDomain, "/ns/"+namespace+"/sa/"+service)
}

// svidLifetime is far longer than the demo runs, so nothing is rotated.
const svidLifetime = time.Hour

// authority is the trust domain's certificate authority. Its key is in memory
// only and ends with the process.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "demo authority of " + trustDomain.Name()},
		URIs:                  []*url.URL{trustDomain.ID().URL()},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(2 * svidLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key}, nil
}

// mint issues an X.509-SVID: a key and a leaf certificate whose only URI name
// is the SPIFFE ID. Both are DER.
func (a *authority) mint(id spiffeid.ID) (cert, key []byte, err error) {
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	cert, err = x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          serial,
		URIs:                  []*url.URL{id.URL()},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(svidLifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}, a.cert, leafKey.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	key, err = x509.MarshalPKCS8PrivateKey(leafKey)
	return cert, key, err
}

// workloadAPI serves the SPIFFE Workload API to one workload. A real agent has
// one socket and finds out who is calling; here all workloads are one process,
// so each has a socket of its own.
type workloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer

	id        spiffeid.ID
	authority *authority
	socket    string
	server    *grpc.Server
	served    sync.WaitGroup
}

// startWorkloadAPI serves id on a unix socket in dir.
func startWorkloadAPI(a *authority, id spiffeid.ID, dir string) (*workloadAPI, error) {
	w := &workloadAPI{
		id:        id,
		authority: a,
		socket:    filepath.Join(dir, filepath.Base(id.Path())+".sock"),
		server:    grpc.NewServer(),
	}
	listener, err := net.Listen("unix", w.socket)
	if err != nil {
		return nil, err
	}
	workload.RegisterSpiffeWorkloadAPIServer(w.server, w)
	w.served.Go(func() { _ = w.server.Serve(listener) }) // ends with close; a failure before shows at the client
	return w, nil
}

func (w *workloadAPI) close() {
	w.server.Stop()
	w.served.Wait()
}

// source fetches the workload's SVID and bundle, as any SPIFFE workload does.
func (w *workloadAPI) source(ctx context.Context) (*workloadapi.X509Source, error) {
	source, err := workloadapi.NewX509Source(ctx,
		workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+w.socket)))
	if err != nil {
		return nil, fmt.Errorf("fetch the SVID of %s: %w", w.id, err)
	}
	return source, nil
}

// FetchX509SVID sends one SVID and keeps the stream open: rotation would be
// another message on it.
func (w *workloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	// The standard wants this header, so that a workload cannot be tricked
	// into fetching its keys for somebody else.
	md, _ := metadata.FromIncomingContext(stream.Context())
	if values := md.Get("workload.spiffe.io"); len(values) != 1 || values[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	cert, key, err := w.authority.mint(w.id)
	if err != nil {
		return status.Errorf(codes.Internal, "mint the SVID of %s: %v", w.id, err)
	}
	if err := stream.Send(&workload.X509SVIDResponse{Svids: []*workload.X509SVID{{
		SpiffeId:    w.id.String(),
		X509Svid:    cert,
		X509SvidKey: key,
		Bundle:      w.authority.cert.Raw,
	}}}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}
