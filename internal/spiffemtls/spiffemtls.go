// Package spiffemtls lets a server take mTLS by SPIFFE: its own certificate and
// the bundles that it trusts come from a Workload API (a SPIRE agent's socket)
// and rotate without a restart, and who may connect is said by trust domain or
// SPIFFE ID.
//
// A connection that is accepted has a peer whose SVID was verified against its
// own trust domain's bundle and was allowed. The peer's chain stands in the
// connection state's VerifiedChains, as with any other verified client.
package spiffemtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// Config says where identities come from and who may connect.
type Config struct {
	// WorkloadAPI is the socket's address, unix:///path or tcp://IP:PORT.
	WorkloadAPI string `mapstructure:"workload_api"`
	// TrustDomains may connect, whatever their path.
	TrustDomains []string `mapstructure:"trust_domains"`
	// IDs may connect: SPIFFE IDs in which * stands for any part of one path
	// segment, as in spiffe://example.org/ns/*/sa/proxy.
	IDs []string `mapstructure:"ids"`
}

// firstUpdate is how long Open waits for the Workload API's first answer.
const firstUpdate = 30 * time.Second

// Validate reports every fault.
func (c *Config) Validate() error {
	var errs []error
	if err := workloadapi.ValidateAddress(c.WorkloadAPI); err != nil {
		errs = append(errs, fmt.Errorf("`workload_api` must be a socket's address such as unix:///run/spire/agent.sock, got %q: %w", c.WorkloadAPI, err))
	}
	if len(c.TrustDomains) == 0 && len(c.IDs) == 0 {
		errs = append(errs, errors.New("`trust_domains` or `ids` must say who may connect"))
	}
	for _, td := range c.TrustDomains {
		if _, err := spiffeid.TrustDomainFromString(td); err != nil {
			errs = append(errs, fmt.Errorf("`trust_domains`: %q is none: %w", td, err))
		}
	}
	for _, p := range c.IDs {
		if _, err := path.Match(p, ""); err != nil || !strings.HasPrefix(p, "spiffe://") {
			errs = append(errs, fmt.Errorf("`ids`: %q is no pattern of SPIFFE IDs: it begins with spiffe://, and * stands for any part of one path segment", p))
		}
	}
	return errors.Join(errs...)
}

func (c *Config) allows(id spiffeid.ID) bool {
	return slices.ContainsFunc(c.TrustDomains, func(td string) bool {
		d, err := spiffeid.TrustDomainFromString(td)
		return err == nil && id.MemberOf(d)
	}) || slices.ContainsFunc(c.IDs, func(p string) bool {
		ok, err := path.Match(p, id.String())
		return err == nil && ok
	})
}

// identity is one update of the Workload API.
type identity struct {
	own     tls.Certificate
	bundles *x509bundle.Set
	pool    *x509.CertPool // of all bundles
}

// Source holds what the Workload API says now.
type Source struct {
	cfg    Config
	now    atomic.Pointer[identity]
	client *workloadapi.Client
	cancel context.CancelFunc
	done   chan struct{}

	first   sync.Once
	ready   chan struct{} // closed with the first update
	failure atomic.Pointer[error]
}

// Open connects to the Workload API and waits for its first answer.
func Open(ctx context.Context, cfg Config) (*Source, error) {
	watch, cancel := context.WithCancel(context.Background())
	s := &Source{cfg: cfg, cancel: cancel, done: make(chan struct{}), ready: make(chan struct{})}
	var err error
	if s.client, err = workloadapi.New(watch, workloadapi.WithAddr(cfg.WorkloadAPI)); err != nil {
		cancel()
		return nil, fmt.Errorf("workload API at %s: %w", cfg.WorkloadAPI, err)
	}
	go func() {
		defer close(s.done)
		_ = s.client.WatchX509Context(watch, s) // ends with watch alone
	}()
	wait, stop := context.WithTimeout(ctx, firstUpdate)
	defer stop()
	select {
	case <-s.ready:
		return s, nil
	case <-wait.Done():
		err := wait.Err()
		if last := s.failure.Load(); last != nil {
			err = *last
		}
		return nil, errors.Join(fmt.Errorf("workload API at %s gave no identity within %v: is the agent there, and is this workload registered? %w", cfg.WorkloadAPI, firstUpdate, err), s.Close())
	}
}

// OnX509ContextUpdate is called by the client.
func (s *Source) OnX509ContextUpdate(x *workloadapi.X509Context) {
	svid := x.DefaultSVID()
	i := &identity{bundles: x.Bundles, pool: x509.NewCertPool(), own: tls.Certificate{PrivateKey: svid.PrivateKey, Leaf: svid.Certificates[0]}}
	for _, c := range svid.Certificates {
		i.own.Certificate = append(i.own.Certificate, c.Raw)
	}
	for _, b := range x.Bundles.Bundles() {
		for _, c := range b.X509Authorities() {
			i.pool.AddCert(c)
		}
	}
	s.now.Store(i)
	s.first.Do(func() { close(s.ready) })
}

// OnX509ContextWatchError is called by the client, which goes on trying; what
// was given last stays in use until it expires.
func (s *Source) OnX509ContextWatchError(err error) { s.failure.Store(&err) }

// ID is the server's own SPIFFE ID.
func (s *Source) ID() string {
	id, err := x509svid.IDFromCert(s.now.Load().own.Leaf)
	if err != nil {
		return ""
	}
	return id.String()
}

// ServerConfig is for a server's listener. Every connection uses what is known
// when it begins.
func (s *Source) ServerConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			i := s.now.Load()
			return &tls.Config{
				MinVersion:   tls.VersionTLS12,
				Certificates: []tls.Certificate{i.own},
				ClientAuth:   tls.RequireAndVerifyClientCert,
				ClientCAs:    i.pool,
				NextProtos:   []string{"h2", "http/1.1"},
				// The pool holds the authorities of all trust domains; each
				// speaks for its own only.
				VerifyConnection: func(state tls.ConnectionState) error { return s.verify(i, state) },
			}, nil
		},
	}
}

func (s *Source) verify(i *identity, state tls.ConnectionState) error {
	id, _, err := x509svid.Verify(state.PeerCertificates, i.bundles)
	if err != nil {
		return err
	}
	if !s.cfg.allows(id) {
		return fmt.Errorf("%s may not connect: neither `trust_domains` nor `ids` allow it", id)
	}
	return nil
}

// Close stops watching. It may be called twice.
func (s *Source) Close() error {
	s.cancel()
	<-s.done
	return s.client.Close()
}
