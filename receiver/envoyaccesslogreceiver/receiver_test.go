package envoyaccesslogreceiver

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/config/configtls"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
	"github.com/meshaudit/meshaudit/internal/evidence/otlp"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/internal/spiffemtls"
	"github.com/meshaudit/meshaudit/receiver/envoyaccesslogreceiver/internal/metadata"
	"github.com/meshaudit/meshaudit/receiver/envoyaccesslogreceiver/internal/metadatatest"
)

// A sink is the next consumer: answer, if set, decides on each offer; what it
// accepts is kept, and then cleared to show that it owns what it was given.
type sink struct {
	answer func(offer int, records []string) error

	mu      sync.Mutex
	offers  int
	got     []evidence.Evidence
	gaps    []plog.LogRecord
	clients []client.Info
	changed chan struct{}
}

func newSink() *sink { return &sink{changed: make(chan struct{}, 1000)} }

func (*sink) Capabilities() consumer.Capabilities { return consumer.Capabilities{MutatesData: true} }

func (s *sink) ConsumeLogs(ctx context.Context, logs plog.Logs) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.changed <- struct{}{} }()
	defer func() { plog.NewLogs().CopyTo(logs) }()
	s.offers++
	var paths []string
	records := logs.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
	for _, lr := range records.All() {
		path, ok := lr.Attributes().Get(semconv.URLPath)
		if !ok {
			path, _ = lr.Attributes().Get(semconv.GapReason)
		}
		paths = append(paths, path.Str())
	}
	if s.answer != nil {
		if err := s.answer(s.offers, paths); err != nil {
			return err
		}
	}
	for _, lr := range records.All() {
		e, ok := otlp.Decode(lr)
		if !ok {
			gap := plog.NewLogRecord()
			lr.CopyTo(gap)
			s.gaps = append(s.gaps, gap)
			continue
		}
		s.got = append(s.got, e)
		s.clients = append(s.clients, client.FromContext(ctx))
	}
	return nil
}

// wait polls until ok holds of the sink.
func (s *sink) wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		s.mu.Lock()
		done := ok()
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-s.changed:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (s *sink) paths() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var paths []string
	for _, e := range s.got {
		paths = append(paths, e.Path)
	}
	return paths
}

// message has one entry for each path.
func message(node string, paths ...string) *alsv3.StreamAccessLogsMessage {
	entries := &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{}
	for _, path := range paths {
		entries.LogEntry = append(entries.LogEntry, &accesslogv3.HTTPAccessLogEntry{Request: &accesslogv3.HTTPRequestProperties{Path: path}})
	}
	m := &alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: entries}}
	if node != "" {
		m.Identifier = &alsv3.StreamAccessLogsMessage_Identifier{Node: &corev3.Node{Id: node}}
	}
	return m
}

// corpus reads a file of the corpus: protojson with comments, one with a
// closing brace too many.
func corpus(t *testing.T, path string) *alsv3.StreamAccessLogsMessage {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var uncommented []byte
	for line := range bytes.Lines(text) {
		if trimmed := bytes.TrimSpace(line); !bytes.HasPrefix(trimmed, []byte("#")) && !bytes.HasPrefix(trimmed, []byte("//")) {
			uncommented = append(uncommented, line...)
		}
	}
	var first json.RawMessage
	require.NoError(t, json.NewDecoder(bytes.NewReader(uncommented)).Decode(&first))
	var m alsv3.StreamAccessLogsMessage
	require.NoError(t, (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(first, &m))
	return &m
}

// serve starts a receiver on a free port and returns a connection to it.
func serve(t *testing.T, next consumer.Logs, change func(*Config), creds credentials.TransportCredentials) (*alsReceiver, alsv3.AccessLogServiceClient) {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	cfg.NetAddr.Endpoint = freePort(t)
	cfg.RetryOnFailure.InitialInterval = time.Millisecond
	if change != nil {
		change(cfg)
	}
	r, err := newReceiver(cfg, receivertest.NewNopSettings(metadata.Type), next)
	require.NoError(t, err)
	require.NoError(t, r.Start(context.Background(), componenttest.NewNopHost()))
	t.Cleanup(func() { require.NoError(t, r.Shutdown(context.Background())) })

	conn, err := grpc.NewClient(cfg.NetAddr.Endpoint, grpc.WithTransportCredentials(creds))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return r, alsv3.NewAccessLogServiceClient(conn)
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

func open(t *testing.T, c alsv3.AccessLogServiceClient) alsv3.AccessLogService_StreamAccessLogsClient {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	s, err := c.StreamAccessLogs(ctx)
	require.NoError(t, err)
	return s
}

// takes is take of a message as it comes over the wire.
func (s *stream) takes(t *testing.T, m *alsv3.StreamAccessLogsMessage) {
	b, err := proto.Marshal(m)
	require.NoError(t, err)
	require.NoError(t, s.take(string(b)))
}

func TestCorpus(t *testing.T) {
	files, err := filepath.Glob("testdata/*.msg.json")
	require.NoError(t, err)
	require.Len(t, files, 4)
	next := newSink()
	_, c := serve(t, next, nil, insecure.NewCredentials())
	for _, file := range files {
		s := open(t, c)
		require.NoError(t, s.Send(corpus(t, file)))
		_, err := s.CloseAndRecv()
		require.NoError(t, err)
	}
	positions := map[string]bool{}
	for _, e := range next.got {
		require.Equal(t, evidence.SourceEnvoyALS, e.Source)
		require.Equal(t, "0ac1feff-84ae-4d3a-8b15-890da2b194c5", e.RequestID)
		require.False(t, e.Reporter.Authenticated)
		require.Equal(t, "127.0.0.1", e.Reporter.Address)
		positions[e.Position] = true
	}
	require.Len(t, positions, 4, "positions are not unique")
}

func TestNodeIsKeptForTheStream(t *testing.T) {
	next := newSink()
	_, c := serve(t, next, nil, insecure.NewCredentials())
	s := open(t, c)
	for i, node := range []string{"sidecar~10.0.0.1~a.shop~x", "", "sidecar~10.0.0.2~b.shop~x", ""} {
		require.NoError(t, s.Send(message(node, fmt.Sprint("/", i))))
	}
	require.NoError(t, s.Send(&alsv3.StreamAccessLogsMessage{}))
	require.NoError(t, s.Send(&alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_TcpLogs{
		TcpLogs: &alsv3.StreamAccessLogsMessage_TCPAccessLogEntries{LogEntry: []*accesslogv3.TCPAccessLogEntry{{}}},
	}}))
	_, err := s.CloseAndRecv()
	require.NoError(t, err)
	var pods []string
	for _, e := range next.got {
		pods = append(pods, e.To.Workload.PodName)
	}
	require.Equal(t, []string{"a", "a", "b", "b", "b"}, pods)
}

// byFiles and bySPIFFE are the two ways to take mTLS.
func byFiles(t *testing.T, ca *evidencetest.CA) func(*Config) {
	certFile, keyFile := ca.Files(t, ca.Issue(t, "spiffe://example.org/collector"))
	return func(cfg *Config) {
		cfg.TLS = configoptional.Some(configtls.ServerConfig{
			Config:       configtls.Config{CertFile: certFile, KeyFile: keyFile},
			ClientCAFile: ca.File(t),
		})
	}
}

func bySPIFFE(t *testing.T, ca *evidencetest.CA) func(*Config) {
	api := evidencetest.NewWorkloadAPI(t, ca, "spiffe://example.org/collector", nil)
	return func(cfg *Config) {
		cfg.SPIFFE = &spiffemtls.Config{WorkloadAPI: api.Addr, IDs: []string{"spiffe://example.org/ns/*/sa/orders"}}
	}
}

func TestReporterIsTheVerifiedPeer(t *testing.T) {
	t.Run("by files", func(t *testing.T) { testVerifiedPeer(t, byFiles) })
	t.Run("by SPIFFE", func(t *testing.T) { testVerifiedPeer(t, bySPIFFE) })
}

func testVerifiedPeer(t *testing.T, by func(*testing.T, *evidencetest.CA) func(*Config)) {
	const id = "spiffe://example.org/ns/shop/sa/orders"
	ca := evidencetest.NewCA(t)
	next := newSink()
	_, c := serve(t, next, by(t, ca), credentials.NewTLS(&tls.Config{
		RootCAs: ca.Pool(), ServerName: "localhost", Certificates: []tls.Certificate{ca.Issue(t, id)},
	}))
	s := open(t, c)
	require.NoError(t, s.Send(message("node-1", "/a")))
	_, err := s.CloseAndRecv()
	require.NoError(t, err)

	require.Len(t, next.got, 1)
	reporter := next.got[0].Reporter
	require.True(t, reporter.Authenticated)
	require.Equal(t, id, reporter.SPIFFEID.String())
	require.Len(t, reporter.CertSHA256, 64)
	require.Equal(t, "node-1", reporter.Node)
	auth := next.clients[0].Auth
	require.Equal(t, id, auth.GetAttribute(semconv.EvidenceReporterSPIFFEID))
	require.NotNil(t, next.clients[0].Addr)
}

func TestForeignCertificateIsRefused(t *testing.T) {
	t.Run("by files", func(t *testing.T) { testForeignCertificate(t, byFiles) })
	t.Run("by SPIFFE", func(t *testing.T) { testForeignCertificate(t, bySPIFFE) })
}

func testForeignCertificate(t *testing.T, by func(*testing.T, *evidencetest.CA) func(*Config)) {
	ca, foreign := evidencetest.NewCA(t), evidencetest.NewCA(t)
	next := newSink()
	_, c := serve(t, next, by(t, ca), credentials.NewTLS(&tls.Config{
		RootCAs: ca.Pool(), ServerName: "localhost", Certificates: []tls.Certificate{foreign.Issue(t, "spiffe://example.org/orders")},
	}))
	s, err := c.StreamAccessLogs(context.Background())
	if err == nil {
		_, err = s.CloseAndRecv()
	}
	require.Error(t, err)
	require.Empty(t, next.got)
}

// A message that is no protobuf ends its stream, and that something was lost is
// sealed.
func TestMalformedMessage(t *testing.T) {
	next := newSink()
	r, _ := serve(t, next, nil, insecure.NewCredentials())
	conn, err := grpc.NewClient(r.cfg.NetAddr.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{})))
	require.NoError(t, err)
	defer conn.Close()
	s, err := conn.NewStream(t.Context(), &service.Streams[0], "/"+service.ServiceName+"/StreamAccessLogs")
	require.NoError(t, err)
	require.NoError(t, s.SendMsg([]byte("\x12\x05abc")))
	var answer []byte
	require.Equal(t, codes.InvalidArgument, status.Code(s.RecvMsg(&answer)))
	r.gaps.retry()
	<-next.changed
	require.Equal(t, reasonMalformed, value(next.gaps[0], semconv.GapReason))
}

// TestHostileMessages: what is too large, also only once it is decompressed,
// ends its stream, is not built in memory, and its loss is sealed and counted.
func TestHostileMessages(t *testing.T) {
	huge := make([]byte, 256<<20)
	for name, options := range map[string][]grpc.CallOption{
		"huge":          {grpc.MaxCallSendMsgSize(1 << 30)},
		"a gzip bomb":   {grpc.MaxCallSendMsgSize(1 << 30), grpc.UseCompressor("gzip")},
		"a snappy bomb": {grpc.MaxCallSendMsgSize(1 << 30), grpc.UseCompressor("snappy")},
		"a zstd bomb":   {grpc.MaxCallSendMsgSize(1 << 30), grpc.UseCompressor("zstd")},
	} {
		t.Run(name, func(t *testing.T) {
			next := newSink()
			r, _ := serve(t, next, nil, insecure.NewCredentials())
			conn, err := grpc.NewClient(r.cfg.NetAddr.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithDefaultCallOptions(append(options, grpc.ForceCodecV2(bytesCodec{}))...))
			require.NoError(t, err)
			defer conn.Close()
			s, err := conn.NewStream(t.Context(), &service.Streams[0], "/"+service.ServiceName+"/StreamAccessLogs")
			require.NoError(t, err)
			code := codes.OK
			evidencetest.HeapStaysBelow(t, 64<<20, func() { // the sender's heap too
				_ = s.SendMsg(huge) // may find the stream ended
				var answer []byte
				code = status.Code(s.RecvMsg(&answer))
			})
			require.Equal(t, codes.ResourceExhausted, code)
			r.gaps.retry()
			<-next.changed
			require.Equal(t, reasonTooLarge, value(next.gaps[0], semconv.GapReason))
		})
	}
}

// TestEndlessStream: a stream that never ends holds one message at a time.
func TestEndlessStream(t *testing.T) {
	_, c := serve(t, discard{}, nil, insecure.NewCredentials())
	s := open(t, c)
	m := message("n", make([]string, 50)...)
	evidencetest.HeapStaysBelow(t, 32<<20, func() {
		for range 4000 { // 30 MiB of messages, a hundred times that of evidence
			require.NoError(t, s.Send(m))
		}
		_, err := s.CloseAndRecv()
		require.NoError(t, err)
	})
}

func value(lr plog.LogRecord, name string) string {
	v, _ := lr.Attributes().Get(name)
	return v.AsString()
}

// bytesCodec sends bytes as they are.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }
func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

var errBusy = errors.New("busy")

// TestRefusedIsOfferedAgain: in order, unchanged, and nothing further is read
// meanwhile.
func TestRefusedIsOfferedAgain(t *testing.T) {
	next := newSink()
	var offered []string
	next.answer = func(offer int, paths []string) error {
		offered = append(offered, paths...)
		if offer < 4 {
			return errBusy
		}
		return nil
	}
	_, c := serve(t, next, nil, insecure.NewCredentials())
	s := open(t, c)
	require.NoError(t, s.Send(message("n", "/1", "/2")))
	require.NoError(t, s.Send(message("", "/3")))
	_, err := s.CloseAndRecv()
	require.NoError(t, err)
	require.Equal(t, []string{"/1", "/2", "/1", "/2", "/1", "/2", "/1", "/2", "/3"}, offered)
	require.Equal(t, []string{"/1", "/2", "/3"}, next.paths())
	require.Empty(t, next.gaps)
}

// TestDisconnectedIsStillDelivered: a message that was read outlives its
// stream.
func TestDisconnectedIsStillDelivered(t *testing.T) {
	next := newSink()
	refused, gone := make(chan struct{}), make(chan struct{})
	next.answer = func(offer int, _ []string) error {
		if offer == 1 {
			close(refused)
		}
		select {
		case <-gone:
			return nil
		default:
			return errBusy
		}
	}
	_, c := serve(t, next, nil, insecure.NewCredentials())
	ctx, cancel := context.WithCancel(context.Background())
	s, err := c.StreamAccessLogs(ctx)
	require.NoError(t, err)
	require.NoError(t, s.Send(message("n", "/1")))
	<-refused
	cancel()
	close(gone)
	next.wait(t, "the message", func() bool { return len(next.got) == 1 })
}

// offline makes a receiver without a server, and a stream on it, for tests with
// a clock of their own.
func offline(t *testing.T, next consumer.Logs, change func(*Config)) (*alsReceiver, *stream) {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	if change != nil {
		change(cfg)
	}
	r, err := newReceiver(cfg, receivertest.NewNopSettings(metadata.Type), next)
	require.NoError(t, err)
	r.status.Host = componenttest.NewNopHost()
	r.gaps.start()
	return r, r.newStream(context.Background())
}

func TestGivenUpIsSealedAsAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newSink()
		accepting := time.Now().Add(12 * time.Minute)
		next.answer = func(int, []string) error {
			if time.Now().Before(accepting) {
				return errBusy
			}
			return nil
		}
		r, s := offline(t, next, nil)
		begun := time.Now()
		s.takes(t, message("node-1", "/1", "/2")) // given up after 5 minutes
		first := time.Now()
		s.takes(t, message("", "/3")) // after 10
		s.takes(t, message("", "/4")) // accepted in its third minute
		synctest.Wait()

		require.Equal(t, []string{"/4"}, next.paths())
		require.InDelta(t, 5*time.Minute, first.Sub(begun), float64(time.Minute))
		require.Len(t, next.gaps, 1)
		gap := next.gaps[0].Attributes().AsRaw()
		require.Equal(t, semconv.EventEvidenceGap, next.gaps[0].EventName())
		require.Equal(t, int64(3), gap[semconv.GapCount])
		require.Equal(t, reasonRetryExhausted, gap[semconv.GapReason])
		require.Equal(t, "node-1", gap[semconv.EvidenceReporterNode])
		require.Equal(t, first.UnixNano(), gap[semconv.GapSince])
		require.Greater(t, gap[semconv.GapUntil], gap[semconv.GapSince])
		require.NoError(t, r.Shutdown(context.Background()))
		r.gaps.stop()
	})
}

// TestGapNeedsNoFurtherMessage: it is offered again by itself.
func TestGapNeedsNoFurtherMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newSink()
		accepting := time.Now().Add(time.Minute)
		next.answer = func(int, []string) error {
			if time.Now().Before(accepting) {
				return errBusy
			}
			return nil
		}
		r, s := offline(t, next, func(cfg *Config) { cfg.RetryOnFailure.Enabled = false })
		s.takes(t, message("node-1", "/1"))
		time.Sleep(2 * time.Minute) // of the bubble's clock
		synctest.Wait()
		require.Len(t, next.gaps, 1)
		require.NoError(t, r.Shutdown(context.Background()))
		r.gaps.stop()
	})
}

// TestOnePoisonEntry: of a message that is refused permanently only the entry
// at fault is lost.
func TestOnePoisonEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newSink()
		next.answer = func(_ int, paths []string) error {
			for _, p := range paths {
				if p == "/poison" {
					return consumererror.NewPermanent(errors.New("too large"))
				}
			}
			return nil
		}
		r, s := offline(t, next, nil)
		s.takes(t, message("n", "/1", "/2", "/poison", "/4", "/5", "/6", "/7"))
		synctest.Wait()
		require.Equal(t, []string{"/1", "/2", "/4", "/5", "/6", "/7"}, next.paths())
		require.Len(t, next.gaps, 1)
		gap := next.gaps[0].Attributes().AsRaw()
		require.Equal(t, int64(1), gap[semconv.GapCount])
		require.Equal(t, reasonPermanent, gap[semconv.GapReason])
		require.NoError(t, r.Shutdown(context.Background()))
		r.gaps.stop()
	})
}

// TestShutdownIsBounded: a consumer that refuses for ever does not hold it up;
// the loss is counted, and its gap offered a last time.
func TestShutdownIsBounded(t *testing.T) {
	tel := componenttest.NewTelemetry()
	next := newSink()
	refused := make(chan struct{})
	var once sync.Once
	next.answer = func(_ int, paths []string) error {
		if paths[0] == reasonShutdown {
			return nil // the gap
		}
		once.Do(func() { close(refused) })
		return errBusy
	}
	cfg := createDefaultConfig().(*Config)
	cfg.NetAddr.Endpoint = freePort(t)
	set := metadatatest.NewSettings(tel)
	r, err := newReceiver(cfg, set, next)
	require.NoError(t, err)
	require.NoError(t, r.Start(context.Background(), componenttest.NewNopHost()))
	conn, err := grpc.NewClient(cfg.NetAddr.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	s := open(t, alsv3.NewAccessLogServiceClient(conn))
	require.NoError(t, s.Send(message("n", "/1", "/2")))
	<-refused

	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	require.NoError(t, r.Shutdown(ctx))
	require.Len(t, next.gaps, 1)
	count, _ := next.gaps[0].Attributes().Get(semconv.GapCount)
	require.Equal(t, int64(2), count.Int())
	metadatatest.AssertEqualReceiverEnvoyAccessLogGaps(t, tel,
		[]metricdata.DataPoint[int64]{{Value: 1}}, metricdatatest.IgnoreTimestamp())
	require.NoError(t, r.Shutdown(context.Background()), "a second Shutdown")
	require.NoError(t, tel.Shutdown(context.Background()))
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	defer l.Close()
	cfg := createDefaultConfig().(*Config)
	cfg.NetAddr.Endpoint = l.Addr().String()
	r, err := newReceiver(cfg, receivertest.NewNopSettings(metadata.Type), newSink())
	require.NoError(t, err)
	require.ErrorContains(t, r.Start(context.Background(), componenttest.NewNopHost()), "listen for access logs")
	require.NoError(t, r.Shutdown(context.Background()))
}

// BenchmarkReceive is the receiver's own cost: entries of one message decoded,
// encoded and handed over.
func BenchmarkReceive(b *testing.B) {
	cfg := createDefaultConfig().(*Config)
	r, err := newReceiver(cfg, receivertest.NewNopSettings(metadata.Type), discard{})
	require.NoError(b, err)
	s := r.newStream(context.Background())
	m, err := proto.Marshal(message("sidecar~10.0.0.1~a.shop~x", make([]string, 100)...))
	require.NoError(b, err)
	b.ReportAllocs()
	defer evidencetest.Rate(b, len(m))()
	for b.Loop() {
		if err := s.take(string(m)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*100/b.Elapsed().Seconds(), "entries/s")
}

type discard struct{}

func (discard) Capabilities() consumer.Capabilities          { return consumer.Capabilities{} }
func (discard) ConsumeLogs(context.Context, plog.Logs) error { return nil }
