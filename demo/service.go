package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const (
	namespace       = "shop"
	applicationPort = 8080 // the port that applications write in the names they call
	requestIDHeader = "X-Request-Id"
)

// workloadInfo names the exact workload version behind a service.
type workloadInfo struct {
	name    string
	version string
	podHash string
}

func (w workloadInfo) deployment() string { return w.name + "-" + w.version }
func (w workloadInfo) pod() string        { return w.deployment() + "-" + w.podHash }
func (w workloadInfo) host() string {
	return fmt.Sprintf("%s.%s:%d", w.name, namespace, applicationPort)
}

// service is one workload of the mesh: an application with its sidecar, its
// identity, its policy agent and its tracing.
type service struct {
	workloadInfo

	identity *workloadAPI
	source   *workloadapi.X509Source
	policy   *policyAgent
	tracing  *tracing
	sidecar  *sidecar

	address string // host:port where the sidecar listens
	server  *http.Server
	served  sync.WaitGroup
	app     *http.ServeMux
	client  *http.Client
}

// startService brings up everything but the application's handlers, see handle.
// edge services take plain HTTP from outside the mesh, all others mutual TLS.
func startService(ctx context.Context, m *mesh, w workloadInfo, edge bool) (_ *service, err error) {
	s := &service{workloadInfo: w, app: http.NewServeMux()}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s: %w", w.name, err), s.close(ctx))
		}
	}()

	if s.identity, err = startWorkloadAPI(m.authority, spiffeID(w.name), m.socketDir); err != nil {
		return nil, err
	}
	if s.source, err = s.identity.source(ctx); err != nil {
		return nil, err
	}
	if s.policy, err = startPolicyAgent(ctx, w, m.bundles, m.reportTo.opa); err != nil {
		return nil, err
	}
	if s.tracing, err = startTracing(ctx, w, m.reportTo.otlp); err != nil {
		return nil, err
	}
	log, err := openAccessLog(w, m.reportTo.als)
	if err != nil {
		return nil, err
	}
	s.sidecar = &sidecar{workload: w, source: s.source, policy: s.policy, log: log, peers: map[string]*peer{}}
	s.client = &http.Client{Transport: s.tracing.client(s.sidecar.outbound())}

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.address = listener.Addr().String()
	s.server = &http.Server{
		Handler:           s.sidecar.inbound(s.app),
		ReadHeaderTimeout: 5 * time.Second,
	}
	if edge {
		s.served.Go(func() { _ = s.server.Serve(listener) })
		return s, nil
	}
	s.server.TLSConfig = tlsconfig.MTLSServerConfig(s.source, s.source, tlsconfig.AuthorizeMemberOf(trustDomain))
	s.served.Go(func() { _ = s.server.ServeTLS(listener, "", "") })
	return s, nil
}

// handle makes h a part of the application, traced.
func (s *service) handle(pattern string, h http.HandlerFunc) {
	s.app.Handle(pattern, s.tracing.server(h))
}

// stop takes no more calls, waits until those under way are reported, and hangs
// up on the services that were called for them.
func (s *service) stop(ctx context.Context) error {
	if s.server == nil {
		return nil
	}
	err := s.server.Shutdown(ctx)
	s.served.Wait()
	s.sidecar.hangUp()
	return err
}

// close delivers what is not delivered yet and ends the service. It works on a
// service that is half started.
func (s *service) close(ctx context.Context) error {
	errs := []error{s.stop(ctx)}
	if s.sidecar != nil {
		errs = append(errs, s.sidecar.log.close(ctx))
	}
	if s.policy != nil {
		errs = append(errs, s.policy.close(ctx))
	}
	if s.tracing != nil {
		errs = append(errs, s.tracing.close(ctx))
	}
	if s.source != nil {
		errs = append(errs, s.source.Close())
	}
	if s.identity != nil {
		s.identity.close()
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	return nil
}
