package opadecisionlogreceiver

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/config/configtls"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
	"github.com/meshaudit/meshaudit/internal/evidence/otlp"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/internal/spiffemtls"
	"github.com/meshaudit/meshaudit/internal/upload"
	"github.com/meshaudit/meshaudit/receiver/opadecisionlogreceiver/internal/metadata"
)

// A sink is the next consumer: answer, if set, decides on each offer.
type sink struct {
	answer func(records []plog.LogRecord) error

	mu      sync.Mutex
	got     []evidence.Evidence
	raw     []plog.LogRecord
	gaps    []plog.LogRecord
	batches []int
	clients []client.Info
}

func (*sink) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (s *sink) ConsumeLogs(ctx context.Context, logs plog.Logs) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var records []plog.LogRecord
	for _, lr := range logs.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
		records = append(records, lr)
	}
	if s.answer != nil {
		if err := s.answer(records); err != nil {
			return err
		}
	}
	s.batches = append(s.batches, len(records))
	s.clients = append(s.clients, client.FromContext(ctx))
	for _, lr := range records {
		switch e, ok := otlp.Decode(lr); {
		case ok:
			s.got = append(s.got, e)
		case lr.EventName() == semconv.EventEvidenceGap:
			s.gaps = append(s.gaps, lr)
		default:
			s.raw = append(s.raw, lr)
		}
	}
	return nil
}

func (s *sink) decisions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for _, e := range s.got {
		ids = append(ids, e.DecisionID)
	}
	return ids
}

func attr(lr plog.LogRecord, name string) string {
	v, ok := lr.Attributes().Get(name)
	if !ok {
		return ""
	}
	return v.AsString()
}

func event(id string) string {
	return fmt.Sprintf(`{"decision_id":%q,"path":"mesh/authz","result":{"allow":true},"labels":{"id":"opa-1"},"input":{"method":"GET","path":"/"}}`, id)
}

func body(ids ...string) string {
	events := make([]string, len(ids))
	for i, id := range ids {
		events[i] = event(id)
	}
	return "[" + strings.Join(events, ",") + "]"
}

func zip(tb testing.TB, s string) string {
	tb.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := io.WriteString(z, s)
	require.NoError(tb, err)
	require.NoError(tb, z.Close())
	return b.String()
}

// serve starts a receiver on a free port and returns its URL.
func serve(t *testing.T, next consumer.Logs, change func(*Config)) string {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	l, err := net.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	cfg.NetAddr.Endpoint = l.Addr().String()
	require.NoError(t, l.Close())
	if change != nil {
		change(cfg)
	}
	r, err := newReceiver(cfg, receivertest.NewNopSettings(metadata.Type), next)
	require.NoError(t, err)
	require.NoError(t, r.Start(context.Background(), componenttest.NewNopHost()))
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		require.NoError(t, r.Shutdown(context.Background()))
		require.NoError(t, r.Shutdown(context.Background()), "a second Shutdown")
	})
	return "http://" + cfg.NetAddr.Endpoint
}

// post uploads as OPA does and returns the answer's code and headers.
func post(t *testing.T, url, content string, headers ...string) (int, http.Header) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(content))
	require.NoError(t, err)
	if strings.HasPrefix(content, "\x1f\x8b") {
		req.Header.Set("Content-Encoding", "gzip")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, resp.Header
}

func TestUpload(t *testing.T) {
	next := &sink{}
	url := serve(t, next, nil)
	for i, path := range []string{"/logs", "/logs/partition", "/logs/"} {
		code, _ := post(t, url+path, zip(t, body(fmt.Sprint("gzip-", i))))
		require.Equal(t, http.StatusOK, code)
		code, _ = post(t, url+path, body(fmt.Sprint("plain-", i)))
		require.Equal(t, http.StatusOK, code)
	}
	code, _ := post(t, url+"/logs", "[]")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, []string{"gzip-0", "plain-0", "gzip-1", "plain-1", "gzip-2", "plain-2"}, next.decisions())
	require.Equal(t, "opa-1", next.got[0].Reporter.Node)
	require.Equal(t, "127.0.0.1", next.got[0].Reporter.Address)
	require.False(t, next.got[0].Reporter.Authenticated)
}

func TestEnvelope(t *testing.T) {
	next := &sink{}
	url := serve(t, next, func(c *Config) { c.Token = "right"; c.Path = "/v1/opa" })
	good := []string{"Authorization", "Bearer right"}
	for _, tt := range []struct {
		path    string
		headers []string
		want    int
	}{
		{"/v1/opa", nil, http.StatusUnauthorized},
		{"/v1/opa", []string{"Authorization", "Bearer wrong"}, http.StatusUnauthorized},
		{"/v1/opa", []string{"Authorization", "Basic right"}, http.StatusUnauthorized},
		{"/v1/opa", []string{"Authorization", "right"}, http.StatusUnauthorized},
		{"/v1/opa", []string{"Authorization", "Bearer right2"}, http.StatusUnauthorized},
		{"/v1/opaque", good, http.StatusNotFound},
		{"/logs", good, http.StatusNotFound},
		{"/", good, http.StatusNotFound},
		{"/v1/opa", good, http.StatusOK},
		{"/v1/opa/x", good, http.StatusOK},
	} {
		code, _ := post(t, url+tt.path, body("d"), tt.headers...)
		require.Equal(t, tt.want, code, "%s %v", tt.path, tt.headers)
	}
	resp, err := http.Get(url + "/v1/opa")
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
	require.Equal(t, http.MethodPost, resp.Header.Get("Allow"))
	require.Len(t, next.got, 2)
	require.True(t, next.got[0].Reporter.Authenticated, "the token authenticates")
}

func TestBatches(t *testing.T) {
	next := &sink{}
	url := serve(t, next, func(c *Config) { c.BatchSize = 3 })
	var ids []string
	for i := range 8 {
		ids = append(ids, fmt.Sprint("d-", i))
	}
	code, _ := post(t, url+"/logs", zip(t, body(ids...)))
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, []int{3, 3, 2}, next.batches)
	require.Equal(t, ids, next.decisions())
}

// TestUndecodableIsSealedRaw: one bad event does not take its neighbours
// along, the answer is 2xx, and no secret is kept.
func TestUndecodableIsSealedRaw(t *testing.T) {
	for name, tt := range map[string]struct {
		content, err, text string
		decisions          int
	}{
		"no decision id":    {`[` + event("a") + `,{"input":{"authorization":"SECRET"}},` + event("b") + `]`, "no decision_id", `{"input":{"authorization":"***"}}`, 2},
		"bad event":         {`[` + event("a") + `,{"x":SECRET},` + event("b") + `]`, "not valid JSON", `{"x":***}`, 2},
		"cut off":           {`[` + event("a") + `,{"decision_id":"d-1","secret":"SECR`, "cut off", `{"decision_id":"d-1","secret":***`, 1},
		"not an array":      {`SECRET`, "unexpected", `***`, 0},
		"empty":             {``, "empty", ``, 0},
		"gzip cut off":      {zip(t, body("a"))[:20], "cut off", ``, 0},
		"gzip damaged":      {"\x1f\x8bSECRET", "decompress", ``, 0},
		"too large":         {`[{"decision_id":"big","x":"` + strings.Repeat("SECRET", 1000) + `"},` + event("b") + `]`, "larger", `{"decision_id":"big","x":***`, 1},
		"nested deeply":     {`[` + strings.Repeat("[", 10000) + strings.Repeat("]", 10000) + `]`, "larger", strings.Repeat("[", 1024), 0},
		"duplicate keys":    {`[{"decision_id":"a","result":true,"result":false}]`, "duplicate", `{"decision_id":"a","result":true,"result":false}`, 0},
		"something behind":  {body("a") + `SECRET`, "unexpected", `***`, 1},
		"not UTF-8":         {"[{\"a\":\"\xff\"}]", "no decision_id", `{"a":"***"}`, 0},
		"foreign content":   {`<html>SECRET</html>`, "unexpected", `***`, 0},
		"numbers are exact": {`[{"a":12345678901234567890}]`, "no decision_id", `{"a":12345678901234567890}`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			next := &sink{}
			url := serve(t, next, func(c *Config) { c.MaxEventBytes = 1024 })
			code, _ := post(t, url+"/logs", tt.content)
			require.Equal(t, http.StatusOK, code)
			require.Len(t, next.got, tt.decisions)
			require.Len(t, next.raw, 1)
			lr := next.raw[0]
			require.Equal(t, "true", attr(lr, semconv.EvidenceRaw))
			require.Contains(t, attr(lr, semconv.EvidenceError), tt.err)
			require.Len(t, attr(lr, semconv.EvidenceBodySHA256), 64)
			require.Equal(t, tt.text, lr.Body().AsString())
			for _, v := range lr.Attributes().All() {
				require.NotContains(t, v.AsString(), "SECRET")
			}
		})
	}
}

// zeros is a gzip bomb's content.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestGzipBomb(t *testing.T) {
	var bomb bytes.Buffer
	z, err := gzip.NewWriterLevel(&bomb, gzip.BestSpeed)
	require.NoError(t, err)
	_, err = io.WriteString(z, "["+event("before")+`,{"x":"`)
	require.NoError(t, err)
	_, err = io.CopyN(z, zeros{}, 64<<20)
	require.NoError(t, err)
	require.NoError(t, z.Close())

	next := &sink{}
	url := serve(t, next, func(c *Config) { c.MaxUploadBytes = 8 << 20 })
	code, _ := post(t, url+"/logs", bomb.String())
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, []string{"before"}, next.decisions())
	require.Len(t, next.raw, 1)
	require.Contains(t, attr(next.raw[0], semconv.EvidenceError), "max_upload_bytes")
	require.Len(t, next.gaps, 1)
	require.Equal(t, upload.GapTooLarge, attr(next.gaps[0], semconv.GapReason))
	require.Empty(t, attr(next.gaps[0], semconv.GapCount), "it is not known how many")
}

func TestBodyTooLarge(t *testing.T) {
	next := &sink{}
	url := serve(t, next, func(c *Config) { c.MaxRequestBodySize = 4096 })
	code, _ := post(t, url+"/logs", "["+event("a")+","+strings.Repeat(" ", 8192)+event("b")+"]")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, []string{"a"}, next.decisions())
	require.Len(t, next.gaps, 1)
}

var errBusy = errors.New("busy")

// TestRefusedIsAnswered503: what was accepted before comes again with the
// repeat, as the same evidence.
func TestRefusedIsAnswered503(t *testing.T) {
	next := &sink{}
	offers := 0
	next.answer = func([]plog.LogRecord) error {
		if offers++; offers == 2 {
			return errBusy
		}
		return nil
	}
	url := serve(t, next, func(c *Config) { c.BatchSize = 1 })
	code, headers := post(t, url+"/logs", body("a", "b"))
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.NotEmpty(t, headers.Get("Retry-After"))
	require.Equal(t, []string{"a"}, next.decisions())

	code, _ = post(t, url+"/logs", body("a", "b"))
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, []string{"a", "a", "b"}, next.decisions())
	require.Equal(t, next.got[0], next.got[1])
}

// TestPermanentlyRefused: only the event at fault is lost, 2xx follows the
// sealed gap, and a refused gap is answered 503.
func TestPermanentlyRefused(t *testing.T) {
	next := &sink{}
	gapRefused := true
	next.answer = func(records []plog.LogRecord) error {
		for _, lr := range records {
			if lr.EventName() == semconv.EventEvidenceGap && gapRefused {
				return errBusy
			}
			if attr(lr, semconv.JoinDecisionID) == "poison" {
				return consumererror.NewPermanent(errors.New("too large"))
			}
		}
		return nil
	}
	url := serve(t, next, nil)
	code, _ := post(t, url+"/logs", body("a", "b", "poison", "c"))
	require.Equal(t, http.StatusServiceUnavailable, code)

	gapRefused = false
	next.got = nil
	code, _ = post(t, url+"/logs", body("a", "b", "poison", "c"))
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, []string{"a", "b", "c"}, next.decisions())
	require.Len(t, next.gaps, 1)
	require.Equal(t, "1", attr(next.gaps[0], semconv.GapCount))
	require.Equal(t, upload.GapPermanent, attr(next.gaps[0], semconv.GapReason))
	require.Equal(t, "gap/poison", attr(next.gaps[0], semconv.EvidencePosition))
}

// TestConnectionThatBreaks: nothing is sealed as undecodable, for it comes
// again whole.
func TestConnectionThatBreaks(t *testing.T) {
	next := &sink{}
	url := serve(t, next, nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	require.NoError(t, err)
	_, err = io.WriteString(conn, "POST /logs HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n["+event("a")+",{\"decision_id\":")
	require.NoError(t, err)
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(answer), "400")
	require.NoError(t, conn.Close())
	require.Empty(t, next.raw)
	require.Empty(t, next.gaps)
}

func TestReporterIsTheVerifiedPeer(t *testing.T) {
	const id = "spiffe://example.org/ns/opa/sa/opa"
	ca := evidencetest.NewCA(t)
	certFile, keyFile := ca.Files(t, ca.Issue(t, "spiffe://example.org/collector"))
	api := evidencetest.NewWorkloadAPI(t, ca, "spiffe://example.org/collector", nil)
	for name, configure := range map[string]func(*Config){
		"by files": func(c *Config) {
			c.TLS = configoptional.Some(configtls.ServerConfig{
				Config: configtls.Config{CertFile: certFile, KeyFile: keyFile}, ClientCAFile: ca.File(t),
			})
		},
		"by SPIFFE": func(c *Config) {
			c.SPIFFE = &spiffemtls.Config{WorkloadAPI: api.Addr, TrustDomains: []string{"example.org"}}
		},
	} {
		t.Run(name, func(t *testing.T) { testVerifiedPeer(t, ca, id, configure) })
	}
}

func testVerifiedPeer(t *testing.T, ca *evidencetest.CA, id string, configure func(*Config)) {
	next := &sink{}
	url := serve(t, next, configure)
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: ca.Pool(), ServerName: "localhost", Certificates: []tls.Certificate{ca.Issue(t, id)},
	}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Post(
		strings.Replace(url, "http://", "https://", 1)+"/logs", "application/json", strings.NewReader(body("a")))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, id, next.got[0].Reporter.SPIFFEID.String())
	require.True(t, next.got[0].Reporter.Authenticated)
	require.Equal(t, id, next.clients[0].Auth.GetAttribute(semconv.EvidenceReporterSPIFFEID))
}

func TestTokenIsNotLogged(t *testing.T) {
	cfg := createDefaultConfig().(*Config)
	cfg.Token = configopaque.String("SECRET")
	require.NotContains(t, fmt.Sprintf("%v %+v", cfg, cfg), "SECRET")
}

// TestStatus: what OPA reports of a bundle is sealed once, also if it was
// refused before, and a report that cannot be read is sealed raw.
func TestStatus(t *testing.T) {
	next := &sink{}
	refuse := true
	next.answer = func([]plog.LogRecord) error {
		if refuse {
			return errBusy
		}
		return nil
	}
	url := serve(t, next, nil) + "/status"
	report := func(revision, polled string) string {
		return fmt.Sprintf(`{"labels":{"id":"opa-1"},"bundles":{"authz":{"name":"authz","active_revision":%q,"last_successful_activation":"2026-11-24T10:00:00Z","last_request":%q}}}`, revision, polled)
	}
	code, _ := post(t, url, report("r1", "a"))
	require.Equal(t, http.StatusServiceUnavailable, code)
	refuse = false
	for _, r := range []string{report("r1", "b"), zip(t, report("r1", "c")), report("r2", "d"), report("r1", "e")} {
		code, _ := post(t, url+"/partition", r)
		require.Equal(t, http.StatusOK, code)
	}
	require.Len(t, next.got, 2)
	require.Equal(t, "r1", next.got[0].Act.Change.Revision)
	require.Equal(t, "r2", next.got[1].Act.Change.Revision)
	require.Equal(t, evidence.EventConfigChange, next.got[0].Event)
	require.Equal(t, "opa-1", next.got[0].Reporter.Node)

	code, _ = post(t, url, `{"labels":{"id":"opa-1"},"message":"SECRET"`)
	require.Equal(t, http.StatusOK, code)
	require.Len(t, next.raw, 1)
	require.Equal(t, "opa_status", attr(next.raw[0], semconv.EvidenceSource))
	require.NotContains(t, next.raw[0].Body().AsString(), "SECRET")
}
