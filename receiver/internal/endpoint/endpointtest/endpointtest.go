// Package endpointtest helps the tests of receivers of uploads: a sender and a
// next consumer.
package endpointtest

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/otlp"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/receiver/internal/endpoint"
)

// A Sink is the next consumer: Answer, if set, decides on each offer. What was
// accepted may be read when the request that brought it is answered.
type Sink struct {
	Answer func(records []plog.LogRecord) error

	mu        sync.Mutex
	Got       []evidence.Evidence
	Raw, Gaps []plog.LogRecord
	Batches   []int // records of each offer
	Clients   []client.Info
}

// Capabilities says that nothing is changed.
func (*Sink) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

// ConsumeLogs is an offer.
func (s *Sink) ConsumeLogs(ctx context.Context, logs plog.Logs) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var records []plog.LogRecord
	for _, lr := range logs.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
		records = append(records, lr)
	}
	if s.Answer != nil {
		if err := s.Answer(records); err != nil {
			return err
		}
	}
	s.Batches = append(s.Batches, len(records))
	s.Clients = append(s.Clients, client.FromContext(ctx))
	for _, lr := range records {
		switch e, ok := otlp.Decode(lr); {
		case ok:
			s.Got = append(s.Got, e)
		case lr.EventName() == semconv.EventEvidenceGap:
			s.Gaps = append(s.Gaps, lr)
		default:
			s.Raw = append(s.Raw, lr)
		}
	}
	return nil
}

// Attr is a record's attribute as a string, "" if it has none of that name.
func Attr(lr plog.LogRecord, name string) string {
	v, ok := lr.Attributes().Get(name)
	if !ok {
		return ""
	}
	return v.AsString()
}

// Serve starts a receiver on a free port and returns its URL, without a path.
// Common is the part of cfg that all such receivers have.
func Serve(t testing.TB, f receiver.Factory, cfg component.Config, common *endpoint.Config, next consumer.Logs) string {
	t.Helper()
	l, err := net.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	common.NetAddr.Endpoint = l.Addr().String()
	require.NoError(t, l.Close())
	r, err := f.CreateLogs(context.Background(), receivertest.NewNopSettings(f.Type()), cfg, next)
	require.NoError(t, err)
	require.NoError(t, r.Start(context.Background(), componenttest.NewNopHost()))
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		require.NoError(t, r.Shutdown(context.Background()))
		require.NoError(t, r.Shutdown(context.Background()), "a second Shutdown")
	})
	return "http://" + common.NetAddr.Endpoint
}

// Post uploads and returns the answer's code and headers. What begins as gzip
// does is sent as that.
func Post(t testing.TB, url, content string, headers ...string) (int, http.Header) {
	t.Helper()
	if strings.HasPrefix(content, "\x1f\x8b") {
		headers = append(headers, "Content-Encoding", "gzip")
	}
	return Stream(t, url, strings.NewReader(content), headers...)
}

// Stream is Post of what is made while it is sent.
func Stream(t testing.TB, url string, content io.Reader, headers ...string) (int, http.Header) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url, content)
	require.NoError(t, err)
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

// Zip compresses s with gzip.
func Zip(t testing.TB, s string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := io.WriteString(z, s)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return b.String()
}
