package trustbundle

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// --- files ---

// openFile reads a file now, and again whenever its content has changed: by
// content, as a mounted ConfigMap changes by its links.
func (b *Bundles) openFile(life context.Context, f File) error {
	td, err := spiffeid.TrustDomainFromString(f.TrustDomain)
	if err != nil {
		return err
	}
	source := "file " + f.Path
	var last []byte
	read := func() error {
		content, err := readFile(f.Path)
		if err != nil {
			return err
		}
		if last != nil && bytes.Equal(content, last) {
			return nil
		}
		bundle, err := Parse(td, content)
		if err != nil {
			return err
		}
		last = content
		b.give(ofFile, bundle)
		return nil
	}
	if err := read(); err != nil {
		return fmt.Errorf("trust bundle of %s, %s: %w", td.Name(), f.Path, err)
	}
	b.follow(life, b.wait.file, func() time.Duration {
		b.tell(source, read())
		return b.wait.file
	})
	return nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxBundle+1)) // Parse refuses what is longer
}

// --- bundle endpoints ---

// openEndpoint begins to fetch. go-spiffe's own federation.FetchBundle reads
// whatever an endpoint sends into memory, and follows it elsewhere; a federated
// endpoint belongs to somebody else.
func (b *Bundles) openEndpoint(life context.Context, e Endpoint, first *sync.WaitGroup) error {
	td, err := spiffeid.TrustDomainFromString(e.TrustDomain)
	if err != nil {
		return err
	}
	client, err := b.client(e)
	if err != nil {
		return fmt.Errorf("bundle endpoint of %s: %w", td.Name(), err)
	}
	source := "endpoint " + e.URL
	var last *spiffebundle.Bundle
	first.Add(1)
	answered := sync.OnceFunc(first.Done)
	b.done.Add(1)
	context.AfterFunc(life, func() { defer b.done.Done(); answered(); client.CloseIdleConnections() })
	b.follow(life, 0, func() time.Duration {
		defer answered()
		bundle, err := fetch(life, client, e.URL, td)
		if life.Err() != nil {
			return b.wait.oldest
		}
		b.tell(source, err)
		if err != nil {
			return b.wait.retry
		}
		if last == nil || !last.Equal(bundle) {
			last = bundle
			b.give(ofEndpoint, bundle)
		}
		if hint, ok := bundle.RefreshHint(); ok {
			return min(max(hint, b.wait.soonest), b.wait.oldest)
		}
		return b.wait.refresh
	})
	return nil
}

// fetchTimeout bounds one answer of an endpoint.
const fetchTimeout = 30 * time.Second

func (b *Bundles) client(e Endpoint) (*http.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	switch {
	case e.SPIFFEID != "":
		id, err := spiffeid.FromString(e.SPIFFEID)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = tlsconfig.TLSClientConfig(b, tlsconfig.AuthorizeID(id))
	case e.CAFile != "":
		pem, err := readFile(e.CAFile)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", e.CAFile)
		}
		transport.TLSClientConfig.RootCAs = roots
	}
	return &http.Client{
		Transport: transport, Timeout: fetchTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

func fetch(ctx context.Context, client *http.Client, url string, td spiffeid.TrustDomain) (*spiffebundle.Bundle, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the endpoint answered %s", resp.Status)
	}
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxBundle+1))
	if err != nil {
		return nil, err
	}
	return Parse(td, content)
}

// --- Workload API ---

// openWorkloadAPI begins to watch the agent's X.509 and JWT bundles.
func (b *Bundles) openWorkloadAPI(life context.Context, address string, first *sync.WaitGroup) error {
	client, err := workloadapi.New(life, workloadapi.WithAddr(address))
	if err != nil {
		return fmt.Errorf("workload API at %s: %w", address, err)
	}
	w := &agent{b: b, life: life, source: "workload_api " + address}
	var watching sync.WaitGroup
	for _, watch := range []func(context.Context, func()) error{
		func(ctx context.Context, answered func()) error {
			return client.WatchX509Bundles(ctx, x509Watcher{w, answered})
		},
		func(ctx context.Context, answered func()) error {
			return client.WatchJWTBundles(ctx, jwtWatcher{w, answered})
		},
	} {
		first.Add(1)
		answered := sync.OnceFunc(first.Done)
		context.AfterFunc(life, answered)
		watching.Go(func() {
			// It ends when the agent calls the request invalid, as an agent does
			// that does not know this workload yet.
			for life.Err() == nil {
				err := watch(life, answered)
				answered()
				if life.Err() == nil {
					b.tell(w.source, err)
				}
				select {
				case <-life.Done():
				case <-time.After(b.wait.retry):
				}
			}
		})
	}
	b.done.Go(func() {
		watching.Wait()
		_ = client.Close() // the connection to a local agent
	})
	return nil
}

// An agent gives X.509 and JWT bundles apart; each is one part of a trust
// domain's.
type agent struct {
	b      *Bundles
	life   context.Context
	source string

	mu   sync.Mutex
	x509 *x509bundle.Set
	jwt  *jwtbundle.Set
}

func (a *agent) update(set func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	set()
	all := make(map[spiffeid.TrustDomain]*spiffebundle.Bundle)
	if a.x509 != nil {
		for _, bundle := range a.x509.Bundles() {
			all[bundle.TrustDomain()] = spiffebundle.FromX509Bundle(bundle)
		}
	}
	if a.jwt != nil {
		for _, bundle := range a.jwt.Bundles() {
			if x := all[bundle.TrustDomain()]; x != nil {
				x.SetJWTAuthorities(bundle.JWTAuthorities())
			} else {
				all[bundle.TrustDomain()] = spiffebundle.FromJWTBundle(bundle)
			}
		}
	}
	a.b.change(func(given *[ranks]map[spiffeid.TrustDomain]*spiffebundle.Bundle) { given[ofWorkloadAPI] = all })
	a.b.tell(a.source, nil)
}

func (a *agent) failed(err error, answered func()) {
	defer answered()
	if a.life.Err() == nil { // else Close ended it
		a.b.tell(a.source, err)
	}
}

type x509Watcher struct {
	*agent
	answered func()
}

// OnX509BundlesUpdate implements workloadapi.X509BundleWatcher.
func (w x509Watcher) OnX509BundlesUpdate(s *x509bundle.Set) {
	defer w.answered()
	w.update(func() { w.x509 = s })
}

// OnX509BundlesWatchError implements workloadapi.X509BundleWatcher.
func (w x509Watcher) OnX509BundlesWatchError(err error) { w.failed(err, w.answered) }

type jwtWatcher struct {
	*agent
	answered func()
}

// OnJWTBundlesUpdate implements workloadapi.JWTBundleWatcher.
func (w jwtWatcher) OnJWTBundlesUpdate(s *jwtbundle.Set) {
	defer w.answered()
	w.update(func() { w.jwt = s })
}

// OnJWTBundlesWatchError implements workloadapi.JWTBundleWatcher.
func (w jwtWatcher) OnJWTBundlesWatchError(err error) { w.failed(err, w.answered) }
