// Package trustbundle keeps the trust bundles of SPIFFE trust domains: from a
// Workload API, from files and from federated bundle endpoints. All of them are
// followed while it runs, so that a rotated authority needs no restart.
//
// A bundle is the authorities of one trust domain and speaks for it alone. Of
// several sources that know one trust domain a bundle endpoint that has answered
// counts before a file, and a file before the Workload API: what the configuration
// names is meant, and a file may be what an endpoint is authenticated by at
// first. A source that fails leaves what it gave last in force.
package trustbundle

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// Config says where trust bundles come from. Each part is optional.
type Config struct {
	// WorkloadAPI is a SPIRE agent's socket, unix:///path or tcp://IP:PORT: the
	// bundles of its trust domain and of those that it is federated with.
	WorkloadAPI string `mapstructure:"workload_api"`
	// Files are bundles in files, read again when they change.
	Files []File `mapstructure:"files"`
	// Endpoints are bundle endpoints (SPIFFE Federation).
	Endpoints []Endpoint `mapstructure:"endpoints"`
}

// A File holds the bundle of one trust domain: certificates in PEM, or a SPIFFE
// bundle in JSON, which alone can hold the keys of JWT-SVIDs.
type File struct {
	TrustDomain string `mapstructure:"trust_domain"`
	Path        string `mapstructure:"path"`
}

// An Endpoint serves the bundle of one trust domain.
type Endpoint struct {
	TrustDomain string `mapstructure:"trust_domain"`
	URL         string `mapstructure:"url"`
	// SPIFFEID is the endpoint's own, of the profile https_spiffe; the bundle of
	// its trust domain must be known from elsewhere at first. Default: the profile
	// https_web, a certificate of the Web PKI.
	SPIFFEID string `mapstructure:"spiffe_id"`
	// CAFile, in PEM, takes the place of the system's roots for https_web.
	CAFile string `mapstructure:"ca_file"`
}

// Empty reports whether there is no source at all.
func (c *Config) Empty() bool {
	return c.WorkloadAPI == "" && len(c.Files)+len(c.Endpoints) == 0
}

// Validate reports every fault.
func (c *Config) Validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.WorkloadAPI != "" {
		if err := workloadapi.ValidateAddress(c.WorkloadAPI); err != nil {
			fault("`workload_api` must be a socket's address such as unix:///run/spire/agent.sock, got %q: %w", c.WorkloadAPI, err)
		}
	}
	domain := func(field string, i int, name string, seen map[spiffeid.TrustDomain]bool) {
		td, err := spiffeid.TrustDomainFromString(name)
		switch {
		case err != nil:
			fault("`%s::%d::trust_domain` must be a trust domain such as example.org, got %q: %w", field, i, name, err)
		case seen[td]:
			fault("`%s::%d::trust_domain`: %s is in the list already; put all of its authorities into one bundle", field, i, td.Name())
		}
		seen[td] = true
	}
	seen := make(map[spiffeid.TrustDomain]bool)
	for i, f := range c.Files {
		domain("files", i, f.TrustDomain, seen)
		if f.Path == "" {
			fault("`files::%d::path` is missing", i)
		}
	}
	seen = make(map[spiffeid.TrustDomain]bool)
	for i, e := range c.Endpoints {
		domain("endpoints", i, e.TrustDomain, seen)
		if u, err := url.Parse(e.URL); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
			fault("`endpoints::%d::url` must be https://HOST/PATH, got %q", i, e.URL)
		}
		if e.SPIFFEID != "" {
			if _, err := spiffeid.FromString(e.SPIFFEID); err != nil {
				fault("`endpoints::%d::spiffe_id` must be the endpoint's SPIFFE ID, got %q: %w", i, e.SPIFFEID, err)
			}
			if e.CAFile != "" {
				fault("`endpoints::%d`: `ca_file` is of the profile https_web, `spiffe_id` of https_spiffe; give one of them", i)
			}
		}
	}
	return errors.Join(errs...)
}

// rank orders the sources that know one trust domain, the weakest first.
type rank uint8

const (
	ofWorkloadAPI rank = iota
	ofFile
	ofEndpoint
	ranks
)

// known is all that is known at a moment. It is not changed once it is there.
type known struct {
	bundles    map[spiffeid.TrustDomain]*spiffebundle.Bundle
	generation uint64
}

// Bundles are the bundles as they are now. It is safe for concurrent use.
type Bundles struct {
	now    atomic.Pointer[known]
	report func(source string, err error)
	wait   intervals
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu      sync.Mutex
	given   [ranks]map[spiffeid.TrustDomain]*spiffebundle.Bundle
	failing map[string]bool
}

// Sources of bundles go-spiffe knows.
var (
	_ x509bundle.Source = (*Bundles)(nil)
	_ jwtbundle.Source  = (*Bundles)(nil)
)

// intervals between two looks at a source.
type intervals struct {
	first                  time.Duration // for the first answers, at most
	file                   time.Duration
	refresh, retry, oldest time.Duration // of an endpoint: without a hint, after a failure, at most
	soonest                time.Duration
}

// Five minutes is what the SPIFFE Federation standard proposes for a bundle
// without a hint.
var standard = intervals{
	first: 5 * time.Second, file: 10 * time.Second,
	refresh: 5 * time.Minute, retry: 30 * time.Second, oldest: time.Hour, soonest: 10 * time.Second,
}

// Open reads the files and begins to follow all sources. A file that cannot be
// read is an error; a Workload API or an endpoint that does not answer is not:
// it is tried again. Open waits a few seconds for their first answers.
//
// report is called when a source begins to fail and, with nil, when it works
// again. It is called by several goroutines.
func Open(ctx context.Context, cfg Config, report func(source string, err error)) (*Bundles, error) {
	return open(ctx, cfg, report, standard)
}

func open(ctx context.Context, cfg Config, report func(string, error), wait intervals) (*Bundles, error) {
	life, cancel := context.WithCancel(context.Background())
	b := &Bundles{report: report, wait: wait, cancel: cancel, failing: make(map[string]bool)}
	for i := range b.given {
		b.given[i] = make(map[spiffeid.TrustDomain]*spiffebundle.Bundle)
	}
	b.now.Store(&known{})
	var errs []error
	for _, f := range cfg.Files {
		if err := b.openFile(life, f); err != nil {
			errs = append(errs, err)
		}
	}
	var first sync.WaitGroup
	for _, e := range cfg.Endpoints {
		if err := b.openEndpoint(life, e, &first); err != nil {
			errs = append(errs, err)
		}
	}
	if cfg.WorkloadAPI != "" {
		if err := b.openWorkloadAPI(life, cfg.WorkloadAPI, &first); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	answered := make(chan struct{})
	go func() { first.Wait(); close(answered) }()
	timer := time.NewTimer(wait.first)
	defer timer.Stop()
	select {
	case <-answered:
	case <-timer.C:
	case <-ctx.Done():
	}
	return b, nil
}

// Close stops following. It may be called twice.
func (b *Bundles) Close() error {
	b.cancel()
	b.done.Wait()
	return nil
}

// Generation grows with every change of a bundle.
func (b *Bundles) Generation() uint64 { return b.now.Load().generation }

// GetX509BundleForTrustDomain implements x509bundle.Source.
func (b *Bundles) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	if bundle := b.now.Load().bundles[td]; bundle != nil {
		return bundle.X509Bundle(), nil
	}
	return nil, fmt.Errorf("no trust bundle of %q", td.Name())
}

// GetJWTBundleForTrustDomain implements jwtbundle.Source.
func (b *Bundles) GetJWTBundleForTrustDomain(td spiffeid.TrustDomain) (*jwtbundle.Bundle, error) {
	if bundle := b.now.Load().bundles[td]; bundle != nil {
		return bundle.JWTBundle(), nil
	}
	return nil, fmt.Errorf("no trust bundle of %q", td.Name())
}

// change lets a source set what it knows, and puts all together anew.
func (b *Bundles) change(set func(given *[ranks]map[spiffeid.TrustDomain]*spiffebundle.Bundle)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	set(&b.given)
	next := &known{bundles: make(map[spiffeid.TrustDomain]*spiffebundle.Bundle), generation: b.now.Load().generation + 1}
	for _, bundles := range b.given { // the later take the earlier's place
		for td, bundle := range bundles {
			next.bundles[td] = bundle
		}
	}
	b.now.Store(next)
}

func (b *Bundles) give(r rank, bundle *spiffebundle.Bundle) {
	b.change(func(given *[ranks]map[spiffeid.TrustDomain]*spiffebundle.Bundle) {
		given[r][bundle.TrustDomain()] = bundle
	})
}

// tell reports what has changed in how a source does.
func (b *Bundles) tell(source string, err error) {
	b.mu.Lock()
	changed := b.failing[source] != (err != nil)
	b.failing[source] = err != nil
	b.mu.Unlock()
	if changed {
		b.report(source, err)
	}
}

// follow runs once at once, and then again and again after what it says.
func (b *Bundles) follow(ctx context.Context, after time.Duration, look func() time.Duration) {
	b.done.Add(1)
	go func() {
		defer b.done.Done()
		timer := time.NewTimer(after)
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
				timer.Reset(look())
			}
		}
	}()
}

// maxBundle bounds a bundle's bytes: a hundred times that of a large trust
// domain.
const maxBundle = 1 << 20

// Parse reads a bundle: a SPIFFE bundle in JSON, or certificates in PEM.
func Parse(td spiffeid.TrustDomain, b []byte) (*spiffebundle.Bundle, error) {
	if len(b) > maxBundle {
		return nil, fmt.Errorf("a bundle of more than %d bytes", maxBundle)
	}
	var bundle *spiffebundle.Bundle
	if strings.HasPrefix(strings.TrimSpace(string(b)), "{") {
		var err error
		if bundle, err = spiffebundle.Parse(td, b); err != nil {
			return nil, err
		}
	} else {
		x509, err := x509bundle.Parse(td, b)
		if err != nil {
			return nil, err
		}
		bundle = spiffebundle.FromX509Bundle(x509)
	}
	if len(bundle.X509Authorities())+len(bundle.JWTAuthorities()) == 0 {
		return nil, errors.New("no authority in it, neither certificates in PEM nor a SPIFFE bundle in JSON")
	}
	return bundle, nil
}
