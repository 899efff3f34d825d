package trustbundle

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	td      = spiffeid.RequireTrustDomainFromString("example.org")
	partner = spiffeid.RequireTrustDomainFromString("partner.example")
	quick   = intervals{first: 10 * time.Second, file: 5 * time.Millisecond, refresh: 5 * time.Millisecond, retry: 5 * time.Millisecond,
		oldest: 5 * time.Millisecond, soonest: time.Millisecond}
)

func TestValidate(t *testing.T) {
	good := Config{
		WorkloadAPI: "unix:///run/agent.sock",
		Files:       []File{{"example.org", "/b.pem"}, {"partner.example", "/p.json"}},
		Endpoints: []Endpoint{
			{TrustDomain: "partner.example", URL: "https://partner.example/bundle", SPIFFEID: "spiffe://partner.example/spire/server"},
			{TrustDomain: "other.example", URL: "https://other.example/bundle", CAFile: "/ca.pem"},
		},
	}
	require.NoError(t, good.Validate())
	require.NoError(t, (&Config{}).Validate())
	require.True(t, (&Config{}).Empty())
	err := (&Config{
		WorkloadAPI: "agent.sock",
		Files:       []File{{"Not/One", ""}, {"example.org", "a"}, {"example.org", "b"}},
		Endpoints:   []Endpoint{{TrustDomain: "example.org", URL: "http://x/y", SPIFFEID: "x", CAFile: "y"}},
	}).Validate()
	for _, want := range []string{"`workload_api`", "`files::0::trust_domain`", "`files::0::path`", "`files::2::trust_domain`: example.org is in the list already",
		"`endpoints::0::url`", "`endpoints::0::spiffe_id`", "`endpoints::0`: `ca_file`"} {
		require.ErrorContains(t, err, want)
	}
}

// reports keeps what was told of sources.
type reports struct {
	mu   sync.Mutex
	told []string
}

func (r *reports) report(source string, err error) {
	kind, _, _ := strings.Cut(source, " ")
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		kind += ": " + err.Error()
	}
	r.told = append(r.told, kind)
}

func (r *reports) all() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.told, "\n")
}

func start(t *testing.T, cfg Config, wait intervals) (*Bundles, *reports) {
	t.Helper()
	require.NoError(t, cfg.Validate())
	var r reports
	b, err := open(t.Context(), cfg, r.report, wait)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()); require.NoError(t, b.Close()) })
	return b, &r
}

// has reports whether the bundle of a trust domain is ca's and no other's.
func has(b *Bundles, td spiffeid.TrustDomain, ca *evidencetest.CA) bool {
	x, err := b.GetX509BundleForTrustDomain(td)
	return err == nil && len(x.X509Authorities()) == 1 && bytes.Equal(x.X509Authorities()[0].Raw, ca.Raw())
}

func knows(b *Bundles, td spiffeid.TrustDomain) bool {
	j, err := b.GetJWTBundleForTrustDomain(td)
	return err == nil && len(j.JWTAuthorities()) == 1
}

func eventually(t *testing.T, what func() bool) {
	t.Helper()
	require.Eventually(t, what, 20*time.Second, 2*time.Millisecond)
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, b, 0o600))
}

func inPEM(ca *evidencetest.CA) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw()})
}

func inJSON(t *testing.T, ca *evidencetest.CA, td spiffeid.TrustDomain) []byte {
	t.Helper()
	b, err := ca.Bundle(t, td.Name()).Marshal()
	require.NoError(t, err)
	return b
}

func TestFiles(t *testing.T) {
	first, second, other := evidencetest.NewCA(t), evidencetest.NewCA(t), evidencetest.NewCA(t)
	dir := t.TempDir()
	one, two := filepath.Join(dir, "bundle"), filepath.Join(dir, "partner.json")
	write(t, one, inPEM(first))
	write(t, two, inJSON(t, other, partner))
	b, told := start(t, Config{Files: []File{{td.Name(), one}, {partner.Name(), two}}}, quick)
	require.True(t, has(b, td, first) && has(b, partner, other))
	require.True(t, !knows(b, td) && knows(b, partner), "PEM holds no keys of JWT-SVIDs")
	_, err := b.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString("nobody.example"))
	require.Error(t, err)

	generation := b.Generation()
	write(t, one, inJSON(t, second, td))
	eventually(t, func() bool { return has(b, td, second) && knows(b, td) })
	require.Greater(t, b.Generation(), generation)

	write(t, one, []byte("{"))
	eventually(t, func() bool { return strings.Contains(told.all(), "file: ") })
	require.True(t, has(b, td, second), "what was there last stays in force")
	require.NoError(t, os.Remove(one))
	write(t, one, inPEM(first))
	eventually(t, func() bool { return has(b, td, first) && strings.HasSuffix(told.all(), "\nfile") })
}

func TestFilesThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	var told reports // a source beside the files may already tell
	for name, content := range map[string]string{"empty": "", "text": "x", "no keys": `{"keys": []}`, "json": `{"keys": [{"use":"x509-svid"}]}`, "long": strings.Repeat(" ", maxBundle+1)} {
		path := filepath.Join(dir, name)
		write(t, path, []byte(content))
		_, err := Open(t.Context(), Config{Files: []File{{td.Name(), path}}}, told.report)
		require.ErrorContains(t, err, "trust bundle of example.org, "+path)
	}
	_, err := Open(t.Context(), Config{Files: []File{{td.Name(), filepath.Join(dir, "none")}}, WorkloadAPI: "unix:///none"}, told.report)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// An endpoint of either profile: it need not be there at first, a hostile one
// costs nothing, and what it says takes the file's place.
func TestEndpoints(t *testing.T) {
	bootstrap, rotated, web, server := evidencetest.NewCA(t), evidencetest.NewCA(t), evidencetest.NewCA(t), evidencetest.NewCA(t)
	const serverID = "spiffe://example.org/spire/server"
	var mu sync.Mutex
	handlers := map[string]http.HandlerFunc{}
	set := func(path string, h http.HandlerFunc) { mu.Lock(); handlers[path] = h; mu.Unlock() }
	serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		h := handlers[r.URL.Path]
		mu.Unlock()
		if h == nil {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
			return
		}
		h(w, r)
	})
	serveTLS := func(cert tls.Certificate) *httptest.Server {
		s := httptest.NewUnstartedServer(serve)
		s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
		s.Config.ErrorLog = nil
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	spiffeServer := serveTLS(bootstrap.Issue(t, serverID))
	webServer := serveTLS(web.Issue(t, "https://localhost/"))
	imposter := serveTLS(server.Issue(t, serverID))
	file := filepath.Join(t.TempDir(), "bundle.pem")
	write(t, file, inPEM(bootstrap))
	at := func(s *httptest.Server, path string) string {
		return strings.Replace(s.URL, "127.0.0.1", "localhost", 1) + path
	}
	evil := spiffeid.RequireTrustDomainFromString("evil.example")
	b, told := start(t, Config{
		Files: []File{{td.Name(), file}},
		Endpoints: []Endpoint{
			{TrustDomain: td.Name(), URL: at(spiffeServer, "/spiffe"), SPIFFEID: serverID},
			{TrustDomain: partner.Name(), URL: at(webServer, "/web"), CAFile: web.File(t)},
			{TrustDomain: evil.Name(), URL: at(imposter, "/spiffe"), SPIFFEID: serverID},
		},
	}, quick)
	require.True(t, has(b, td, bootstrap), "the file's, until the endpoint answers")
	require.Contains(t, told.all(), "503")

	handler, err := federation.NewHandler(td, spiffebundle.NewSet(rotated.Bundle(t, td.Name())))
	require.NoError(t, err)
	set("/spiffe", handler.ServeHTTP)
	set("/web", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(inJSON(t, server, partner)) })
	eventually(t, func() bool { return has(b, td, rotated) && has(b, partner, server) && knows(b, partner) })
	require.False(t, has(b, evil, rotated), "its certificate is by an authority that is not the trust domain's")

	for name, h := range map[string]http.HandlerFunc{
		"more than 1048576 bytes": func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < 64; i++ {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
					return
				}
			}
		},
		"302":          func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/other", http.StatusFound) },
		"no authority": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"keys": []}`)) },
	} {
		set("/web", h)
		eventually(t, func() bool { return strings.Contains(told.all(), name) })
		require.True(t, has(b, partner, server))
		set("/web", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(inJSON(t, server, partner)) })
		eventually(t, func() bool { return strings.HasSuffix(told.all(), "\nendpoint") })
	}
	set("/web", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(inJSON(t, rotated, partner)) })
	eventually(t, func() bool { return has(b, partner, rotated) })
}

// Nothing that is down keeps Open from returning.
func TestNobodyAnswers(t *testing.T) {
	wait := quick
	wait.first = 50 * time.Millisecond
	down := httptest.NewServer(http.NotFoundHandler())
	down.Close()
	b, told := start(t, Config{
		WorkloadAPI: "unix://" + t.TempDir() + "/none.sock",
		Endpoints:   []Endpoint{{TrustDomain: td.Name(), URL: strings.Replace(down.URL, "http:", "https:", 1)}},
	}, wait)
	require.False(t, has(b, td, evidencetest.NewCA(t)))
	eventually(t, func() bool {
		return strings.Contains(told.all(), "workload_api: ") && strings.Contains(told.all(), "endpoint: ")
	})
	time.Sleep(50 * time.Millisecond)
	require.Equal(t, 1, strings.Count(told.all(), "endpoint: "), "told once")
}

func TestWorkloadAPI(t *testing.T) {
	before, after, other := evidencetest.NewCA(t), evidencetest.NewCA(t), evidencetest.NewCA(t)
	const id = "spiffe://example.org/meshaudit"
	api := evidencetest.NewWorkloadAPI(t, before, id, map[string]*evidencetest.CA{partner.Name(): other})
	b, _ := start(t, Config{WorkloadAPI: api.Addr}, quick)
	require.True(t, has(b, td, before) && knows(b, td) && has(b, partner, other) && knows(b, partner), "Open waited for the first answer")
	api.Rotate(t, after, id, nil)
	eventually(t, func() bool { return has(b, td, after) })
	eventually(t, func() bool { _, err := b.GetX509BundleForTrustDomain(partner); return err != nil })
}

func FuzzParse(f *testing.F) {
	ca := evidencetest.NewCA(f)
	f.Add(inPEM(ca))
	json, err := ca.Bundle(f, td.Name()).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(json)
	f.Add([]byte(`{"keys":[{"use":"jwt-svid","kty":"EC"}],"spiffe_refresh_hint":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		bundle, err := Parse(td, b)
		if err != nil {
			return
		}
		if bundle.TrustDomain() != td || len(bundle.X509Authorities())+len(bundle.JWTAuthorities()) == 0 {
			t.Fatal(errors.New("a bundle without authorities"))
		}
	})
}
