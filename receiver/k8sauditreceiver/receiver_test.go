package k8sauditreceiver

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/internal/spiffemtls"
	"github.com/meshaudit/meshaudit/receiver/internal/endpoint/endpointtest"
)

func ids(s *endpointtest.Sink) (ids []string) {
	for _, e := range s.Got {
		ids = append(ids, e.StreamID)
	}
	return ids
}

func serve(t *testing.T, next consumer.Logs, change func(*Config)) string {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	if change != nil {
		change(cfg)
	}
	return endpointtest.Serve(t, NewFactory(), cfg, &cfg.Config, next) + defaultPath
}

func post(t *testing.T, url, content string, headers ...string) int {
	t.Helper()
	code, _ := endpointtest.Post(t, url, content, headers...)
	return code
}

func event(id string) string {
	return fmt.Sprintf(`{"auditID":%q,"stage":"ResponseComplete","verb":"get","user":{"username":"alice"}}`, id)
}

func list(items ...string) string {
	return `{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[` + strings.Join(items, ",") + `]}`
}

func TestForms(t *testing.T) {
	next := &endpointtest.Sink{}
	url := serve(t, next, func(c *Config) { c.Cluster = "east" })
	for _, content := range []string{
		list(event("a"), event("b")), endpointtest.Zip(t, list(event("c"))), event("d"), "[" + event("e") + "]", list(),
		`{"items":[` + event("f") + `],"kind":"EventList","apiVersion":"audit.k8s.io/v1beta1"}`,
	} {
		require.Equal(t, http.StatusOK, post(t, url, content), content)
	}
	require.Equal(t, []string{"a", "b", "c", "d", "e", "f"}, ids(next))
	require.Equal(t, "east", next.Got[0].Cluster)
	require.Equal(t, "127.0.0.1", next.Got[0].Reporter.Address)
	require.False(t, next.Got[0].Reporter.Authenticated)
	require.Empty(t, next.Raw)
}

// TestRealEventList: what a kube-apiserver posted.
func TestRealEventList(t *testing.T) {
	b, err := os.ReadFile("../../internal/evidence/k8saudit/testdata/apiserver-1.37.json")
	require.NoError(t, err)
	next := &endpointtest.Sink{}
	require.Equal(t, http.StatusOK, post(t, serve(t, next, nil), string(b)))
	require.Len(t, next.Got, 127)
	require.Empty(t, next.Raw)
}

func TestEnvelope(t *testing.T) {
	next := &endpointtest.Sink{}
	url := serve(t, next, func(c *Config) { c.Token = "right" })
	good := []string{"Authorization", "Bearer right"}
	require.Equal(t, http.StatusUnauthorized, post(t, url, list(event("a"))))
	require.Equal(t, http.StatusUnauthorized, post(t, url, list(event("a")), "Authorization", "Bearer wrong"))
	require.Equal(t, http.StatusNotFound, post(t, url+"x", list(event("a")), good...))
	resp, err := http.Get(url)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
	require.Equal(t, http.StatusOK, post(t, url+"/east?timeout=30s", list(event("a")), good...))
	require.Len(t, next.Got, 1)
	require.True(t, next.Got[0].Reporter.Authenticated)
}

// TestUndecodable: one bad event does not take its neighbours along, the answer
// is 2xx, and no secret is kept.
func TestUndecodable(t *testing.T) {
	const secret = `"Bearer SECRET"`
	for name, tt := range map[string]struct {
		content, err string
		events       int
	}{
		"no audit id":     {list(event("a"), `{"requestObject":{"data":`+secret+`}}`, event("b")), "no auditID", 2},
		"another kind":    {list(`{"kind":"Pod","apiVersion":"v1","x":` + secret + `}`), "no audit event", 0},
		"bad JSON":        {list(event("a"), `{"x":SECRET}`, event("b")), "not valid JSON", 2},
		"duplicate":       {list(`{"auditID":"a","user":` + secret + `,"user":{}}`), "duplicate", 0},
		"deep":            {list(`{"auditID":"a","x":` + strings.Repeat("[", 10000) + strings.Repeat("]", 10000) + `}`), "nested too deeply", 0},
		"large":           {list(`{"auditID":"big","x":"`+strings.Repeat("SECRET", 1<<18)+`"}`, event("b")), "larger", 1},
		"cut off":         {`{"kind":"EventList","items":[` + event("a") + `,{"auditID":` + secret, "cut off", 1},
		"two lists":       {`{"items":[` + event("a") + `],"items":[` + secret + `]}`, "second member", 1},
		"not JSON":        {`SECRET`, "unexpected", 0},
		"empty":           {``, "empty", 0},
		"gzip damaged":    {"\x1f\x8bSECRET", "decompress", 0},
		"gzip cut off":    {endpointtest.Zip(t, list(event("a")))[:30], "cut off", 0},
		"invalid UTF-8":   {list("{\"x\":\"\xff SECRET\"}"), "no auditID", 0},
		"scalar elements": {list(`"SECRET"`, event("b")), "not an object", 1},
	} {
		t.Run(name, func(t *testing.T) {
			next := &endpointtest.Sink{}
			url := serve(t, next, func(c *Config) { c.MaxEventBytes = 1 << 20 })
			require.Equal(t, http.StatusOK, post(t, url, tt.content))
			require.Len(t, next.Got, tt.events)
			require.Len(t, next.Raw, 1)
			lr := next.Raw[0]
			require.Contains(t, endpointtest.Attr(lr, semconv.EvidenceError), tt.err)
			require.Equal(t, "k8s_audit", endpointtest.Attr(lr, semconv.EvidenceSource))
			require.NotContains(t, lr.Body().AsString(), "SECRET")
			for _, v := range lr.Attributes().All() {
				require.NotContains(t, v.AsString(), "SECRET")
			}
		})
	}
}

// TestHostile: bounded memory, a clear reason, counted, and neighbours are kept.
func TestHostile(t *testing.T) {
	next := &endpointtest.Sink{}
	url := serve(t, next, func(c *Config) { c.MaxEventBytes = 1 << 20 })
	endpointtest.Hostile(t, url, next, func(id, member string) string {
		if member != "" {
			member = "," + member
		}
		return strings.TrimSuffix(event(id), "}") + member + "}"
	}, list)
}

var errBusy = errors.New("busy")

// TestRefused: what was accepted before comes again with the repeat, as the
// same evidence; a permanent refusal costs one event, which a gap stands for.
func TestRefused(t *testing.T) {
	next := &endpointtest.Sink{}
	offers := 0
	next.Answer = func(records []plog.LogRecord) error {
		if offers++; offers == 2 {
			return errBusy
		}
		for _, lr := range records {
			if endpointtest.Attr(lr, semconv.JoinStreamID) == "poison" {
				return consumererror.NewPermanent(errors.New("too large"))
			}
		}
		return nil
	}
	url := serve(t, next, func(c *Config) { c.BatchSize = 1 })
	content := list(event("a"), event("b"), event("poison"), event("c"))
	require.Equal(t, http.StatusServiceUnavailable, post(t, url, content))
	require.Equal(t, http.StatusOK, post(t, url, content))
	require.Equal(t, []string{"a", "a", "b", "c"}, ids(next))
	require.Equal(t, next.Got[0], next.Got[1])
	require.Len(t, next.Gaps, 1)
	require.Equal(t, "gap/poison/ResponseComplete", endpointtest.Attr(next.Gaps[0], semconv.EvidencePosition))
}

func TestReporterBySPIFFE(t *testing.T) {
	const id = "spiffe://example.org/kube-apiserver"
	ca := evidencetest.NewCA(t)
	api := evidencetest.NewWorkloadAPI(t, ca, "spiffe://example.org/collector", nil)
	next := &endpointtest.Sink{}
	url := serve(t, next, func(c *Config) {
		c.SPIFFE = &spiffemtls.Config{WorkloadAPI: api.Addr, TrustDomains: []string{"example.org"}}
	})
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: ca.Pool(), ServerName: "localhost", Certificates: []tls.Certificate{ca.Issue(t, id)},
	}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Post(
		strings.Replace(url, "http://", "https://", 1), "application/json", strings.NewReader(list(event("a"))))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, id, next.Got[0].Reporter.SPIFFEID.String())
}

func TestTokenIsNotLogged(t *testing.T) {
	cfg := createDefaultConfig().(*Config)
	cfg.Token = configopaque.String("SECRET")
	require.NotContains(t, fmt.Sprintf("%v %+v", cfg, cfg), "SECRET")
}
