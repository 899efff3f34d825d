package opadecisionlogreceiver

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/config/configtls"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
	"github.com/meshaudit/meshaudit/internal/evidence/opa"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/internal/spiffemtls"
	"github.com/meshaudit/meshaudit/internal/upload"
	"github.com/meshaudit/meshaudit/receiver/internal/endpoint/endpointtest"
)

func decisionIDs(s *endpointtest.Sink) []string {
	var ids []string
	for _, e := range s.Got {
		ids = append(ids, e.DecisionID)
	}
	return ids
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

// serve starts a receiver on a free port and returns its URL.
func serve(t *testing.T, next consumer.Logs, change func(*Config)) string {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	if change != nil {
		change(cfg)
	}
	return endpointtest.Serve(t, NewFactory(), cfg, &cfg.Config, next)
}

func TestUpload(t *testing.T) {
	next := &endpointtest.Sink{}
	url := serve(t, next, nil)
	for i, path := range []string{"/logs", "/logs/partition", "/logs/"} {
		code, _ := endpointtest.Post(t, url+path, endpointtest.Zip(t, body(fmt.Sprint("gzip-", i))))
		require.Equal(t, http.StatusOK, code)
		code, _ = endpointtest.Post(t, url+path, body(fmt.Sprint("plain-", i)))
		require.Equal(t, http.StatusOK, code)
	}
	code, _ := endpointtest.Post(t, url+"/logs", "[]")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, []string{"gzip-0", "plain-0", "gzip-1", "plain-1", "gzip-2", "plain-2"}, decisionIDs(next))
	require.Equal(t, "opa-1", next.Got[0].Reporter.Node)
	require.Equal(t, "127.0.0.1", next.Got[0].Reporter.Address)
	require.False(t, next.Got[0].Reporter.Authenticated)
}

func TestEnvelope(t *testing.T) {
	next := &endpointtest.Sink{}
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
		code, _ := endpointtest.Post(t, url+tt.path, body("d"), tt.headers...)
		require.Equal(t, tt.want, code, "%s %v", tt.path, tt.headers)
	}
	resp, err := http.Get(url + "/v1/opa")
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
	require.Equal(t, http.MethodPost, resp.Header.Get("Allow"))
	require.Len(t, next.Got, 2)
	require.True(t, next.Got[0].Reporter.Authenticated, "the token authenticates")
}

func TestBatches(t *testing.T) {
	next := &endpointtest.Sink{}
	url := serve(t, next, func(c *Config) { c.BatchSize = 3 })
	var ids []string
	for i := range 8 {
		ids = append(ids, fmt.Sprint("d-", i))
	}
	code, _ := endpointtest.Post(t, url+"/logs", endpointtest.Zip(t, body(ids...)))
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, []int{3, 3, 2}, next.Batches)
	require.Equal(t, ids, decisionIDs(next))
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
		"gzip cut off":      {endpointtest.Zip(t, body("a"))[:20], "cut off", ``, 0},
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
			next := &endpointtest.Sink{}
			url := serve(t, next, func(c *Config) { c.MaxEventBytes = 1024 })
			code, _ := endpointtest.Post(t, url+"/logs", tt.content)
			require.Equal(t, http.StatusOK, code)
			require.Len(t, next.Got, tt.decisions)
			require.Len(t, next.Raw, 1)
			lr := next.Raw[0]
			require.Equal(t, "true", endpointtest.Attr(lr, semconv.EvidenceRaw))
			require.Contains(t, endpointtest.Attr(lr, semconv.EvidenceError), tt.err)
			require.Len(t, endpointtest.Attr(lr, semconv.EvidenceBodySHA256), 64)
			require.Equal(t, tt.text, lr.Body().AsString())
			for _, v := range lr.Attributes().All() {
				require.NotContains(t, v.AsString(), "SECRET")
			}
		})
	}
}

// TestHostile: bounded memory, a clear reason, counted, and neighbours are kept.
func TestHostile(t *testing.T) {
	next := &endpointtest.Sink{}
	url := serve(t, next, func(c *Config) { c.MaxEventBytes = 1 << 20 }) + "/logs"
	endpointtest.Hostile(t, url, next, func(id, member string) string {
		if member != "" {
			member = "," + member
		}
		return strings.TrimSuffix(event(id), "}") + member + "}"
	}, func(events ...string) string { return "[" + strings.Join(events, ",") + "]" })
}

func TestBodyTooLarge(t *testing.T) {
	next := &endpointtest.Sink{}
	url := serve(t, next, func(c *Config) { c.MaxRequestBodySize = 4096 })
	code, _ := endpointtest.Post(t, url+"/logs", "["+event("a")+","+strings.Repeat(" ", 8192)+event("b")+"]")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, []string{"a"}, decisionIDs(next))
	require.Len(t, next.Gaps, 1)
}

var errBusy = errors.New("busy")

// TestRefusedIsAnswered503: what was accepted before comes again with the
// repeat, as the same evidence.
func TestRefusedIsAnswered503(t *testing.T) {
	next := &endpointtest.Sink{}
	offers := 0
	next.Answer = func([]plog.LogRecord) error {
		if offers++; offers == 2 {
			return errBusy
		}
		return nil
	}
	url := serve(t, next, func(c *Config) { c.BatchSize = 1 })
	code, headers := endpointtest.Post(t, url+"/logs", body("a", "b"))
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.NotEmpty(t, headers.Get("Retry-After"))
	require.Equal(t, []string{"a"}, decisionIDs(next))

	code, _ = endpointtest.Post(t, url+"/logs", body("a", "b"))
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, []string{"a", "a", "b"}, decisionIDs(next))
	require.Equal(t, next.Got[0], next.Got[1])
}

// TestPermanentlyRefused: only the event at fault is lost, 2xx follows the
// sealed gap, and a refused gap is answered 503.
func TestPermanentlyRefused(t *testing.T) {
	next := &endpointtest.Sink{}
	gapRefused := true
	next.Answer = func(records []plog.LogRecord) error {
		for _, lr := range records {
			if lr.EventName() == semconv.EventEvidenceGap && gapRefused {
				return errBusy
			}
			if endpointtest.Attr(lr, semconv.JoinDecisionID) == "poison" {
				return consumererror.NewPermanent(errors.New("too large"))
			}
		}
		return nil
	}
	url := serve(t, next, nil)
	code, _ := endpointtest.Post(t, url+"/logs", body("a", "b", "poison", "c"))
	require.Equal(t, http.StatusServiceUnavailable, code)

	gapRefused = false
	next.Got = nil
	code, _ = endpointtest.Post(t, url+"/logs", body("a", "b", "poison", "c"))
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, []string{"a", "b", "c"}, decisionIDs(next))
	require.Len(t, next.Gaps, 1)
	require.Equal(t, "1", endpointtest.Attr(next.Gaps[0], semconv.GapCount))
	require.Equal(t, upload.GapPermanent, endpointtest.Attr(next.Gaps[0], semconv.GapReason))
	require.Equal(t, "gap/poison", endpointtest.Attr(next.Gaps[0], semconv.EvidencePosition))
}

// TestConnectionThatBreaks: nothing is sealed as undecodable, for it comes
// again whole.
func TestConnectionThatBreaks(t *testing.T) {
	next := &endpointtest.Sink{}
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
	require.Empty(t, next.Raw)
	require.Empty(t, next.Gaps)
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
	next := &endpointtest.Sink{}
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
	require.Equal(t, id, next.Got[0].Reporter.SPIFFEID.String())
	require.True(t, next.Got[0].Reporter.Authenticated)
	require.Equal(t, id, next.Clients[0].Auth.GetAttribute(semconv.EvidenceReporterSPIFFEID))
}

func TestTokenIsNotLogged(t *testing.T) {
	cfg := createDefaultConfig().(*Config)
	cfg.Token = configopaque.String("SECRET")
	require.NotContains(t, fmt.Sprintf("%v %+v", cfg, cfg), "SECRET")
}

// TestStatus: what OPA reports of a bundle is sealed once, also if it was
// refused before, and a report that cannot be read is sealed raw.
func TestStatus(t *testing.T) {
	next := &endpointtest.Sink{}
	refuse := true
	next.Answer = func([]plog.LogRecord) error {
		if refuse {
			return errBusy
		}
		return nil
	}
	url := serve(t, next, nil) + "/status"
	report := func(revision, polled string) string {
		return fmt.Sprintf(`{"labels":{"id":"opa-1"},"bundles":{"authz":{"name":"authz","active_revision":%q,"last_successful_activation":"2026-11-24T10:00:00Z","last_request":%q}}}`, revision, polled)
	}
	code, _ := endpointtest.Post(t, url, report("r1", "a"))
	require.Equal(t, http.StatusServiceUnavailable, code)
	refuse = false
	for _, r := range []string{report("r1", "b"), endpointtest.Zip(t, report("r1", "c")), report("r2", "d"), report("r1", "e")} {
		code, _ := endpointtest.Post(t, url+"/partition", r)
		require.Equal(t, http.StatusOK, code)
	}
	require.Len(t, next.Got, 2)
	require.Equal(t, "r1", next.Got[0].Act.Change.Revision)
	require.Equal(t, "r2", next.Got[1].Act.Change.Revision)
	require.Equal(t, evidence.EventConfigChange, next.Got[0].Event)
	require.Equal(t, "opa-1", next.Got[0].Reporter.Node)

	code, _ = endpointtest.Post(t, url, `{"labels":{"id":"opa-1"},"message":"SECRET"`)
	require.Equal(t, http.StatusOK, code)
	require.Len(t, next.Raw, 1)
	require.Equal(t, "opa_status", endpointtest.Attr(next.Raw[0], semconv.EvidenceSource))
	require.NotContains(t, next.Raw[0].Body().AsString(), "SECRET")
}

// TestDropped: what OPA counts as dropped is a gap, once, also if the report of
// it was refused, and what was dropped before anybody listened.
func TestDropped(t *testing.T) {
	next := &endpointtest.Sink{}
	refuse := false
	next.Answer = func([]plog.LogRecord) error {
		if refuse {
			return errBusy
		}
		return nil
	}
	url := serve(t, next, nil) + "/status"
	for _, n := range []struct{ total, code, gaps int }{
		{0, http.StatusOK, 0}, {3, http.StatusServiceUnavailable, 0}, {3, http.StatusOK, 1}, {3, http.StatusOK, 1},
		{5, http.StatusOK, 2}, {1, http.StatusOK, 3}, {1, http.StatusOK, 3},
	} {
		refuse = n.code != http.StatusOK
		code, _ := endpointtest.Post(t, url, fmt.Sprintf(
			`{"labels":{"id":"opa-1"},"metrics":{"prometheus":{"counter_decision_logs_dropped_rate_limit_exceeded":%d}}}`, n.total))
		require.Equal(t, n.code, code)
		require.Len(t, next.Gaps, n.gaps)
	}
	var got []string
	for _, g := range next.Gaps {
		require.Equal(t, string(evidence.SourceOPA), endpointtest.Attr(g, semconv.EvidenceSource))
		require.Equal(t, "opa-1", endpointtest.Attr(g, semconv.EvidenceReporterNode))
		require.Equal(t, "127.0.0.1", endpointtest.Attr(g, semconv.EvidenceReporterAddress))
		since, until := endpointtest.Attr(g, semconv.GapSince), endpointtest.Attr(g, semconv.GapUntil)
		require.LessOrEqual(t, since, until)
		got = append(got, endpointtest.Attr(g, semconv.EvidencePosition)+" "+endpointtest.Attr(g, semconv.GapCount))
	}
	require.Equal(t, []string{
		"gap/opa-1/dropped_rate_limit/0/0-3 3", "gap/opa-1/dropped_rate_limit/0/3-5 2", "gap/opa-1/dropped_rate_limit/1/0-1 1",
	}, got)
	code, _ := endpointtest.Post(t, url, `{"labels":{"id":"opa-2"},"metrics":{"<built-in>":{"counter_decision_logs_dropped_buffer_size_limit_exceeded":2,"counter_decision_logs_dropped_buffer_size_limit_bytes_exceeded":2}}}`)
	require.Equal(t, http.StatusOK, code)
	require.Len(t, next.Gaps, 4)
	require.Equal(t, opa.DroppedBuffer, endpointtest.Attr(next.Gaps[3], semconv.GapReason))
	require.Empty(t, endpointtest.Attr(next.Gaps[3], semconv.GapCount), "chunks of decisions")
}
