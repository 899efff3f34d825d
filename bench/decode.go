package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/transformprocessor"
	"github.com/open-telemetry/opentelemetry-collector-contrib/receiver/envoyalsreceiver"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/processor/processortest"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/envoy"
	"github.com/meshaudit/meshaudit/internal/evidence/otlp"
	"github.com/meshaudit/meshaudit/receiver/envoyaccesslogreceiver"
)

// decoded is what decoding the same input costs, ours and the alternative's.
type decoded struct {
	what, unit, ours, other string
	bytes                   int          // of one
	our, others             []cpuPerUnit // rounds, taking turns
}

type cpuPerUnit = time.Duration

const (
	entriesInMessage = 100
	messages         = 300
	linesInRequest   = 1000
	requests         = 20
)

// benchDecode measures both sides in this process, in turns.
func benchDecode(ctx context.Context, s settings) ([]decoded, error) {
	progress("decoding: access log service")
	als, err := decodeALS(ctx, s)
	if err != nil {
		return nil, err
	}
	progress("decoding: JSON lines")
	lines, err := decodeLines(ctx, s)
	if err != nil {
		return nil, err
	}
	return []decoded{*als, *lines}, nil
}

// turns measures ours and other by turns: the CPU time of the process for n
// units each.
func (d *decoded) turns(rounds, n int, ours, other func() error) error {
	for range rounds {
		for _, side := range []struct {
			run func() error
			to  *[]cpuPerUnit
		}{{ours, &d.our}, {other, &d.others}} {
			before := cpuTime()
			if err := side.run(); err != nil {
				return err
			}
			*side.to = append(*side.to, (cpuTime()-before)/time.Duration(n))
		}
	}
	return nil
}

// An entry of an ordinary request, as a sidecar reports it.
const entryJSON = `{
 "common_properties": {"downstream_remote_address": {"socket_address": {"address": "10.44.2.56", "port_value": 43842}},
  "downstream_local_address": {"socket_address": {"address": "10.44.6.66", "port_value": 9080}},
  "upstream_remote_address": {"socket_address": {"address": "127.0.0.1", "port_value": 9080}},
  "tls_properties": {"tls_version": "TLSv1_3", "tls_cipher_suite": 4866,
   "peer_certificate_properties": {"subject_alt_name": [{"uri": "spiffe://cluster.local/ns/default/sa/bookinfo-productpage"}]},
   "local_certificate_properties": {"subject_alt_name": [{"uri": "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"}]}},
  "start_time": "2025-11-23T10:00:00.123456Z", "time_to_last_rx_byte": "0.000070s", "time_to_last_downstream_tx_byte": "0.001500s",
  "upstream_cluster": "inbound|9080|http|reviews.default.svc.cluster.local", "stream_id": "0c3e-77a1", "access_log_type": "DownstreamEnd"},
 "protocol_version": "HTTP11",
 "request": {"request_method": "GET", "scheme": "http", "authority": "reviews:9080", "path": "/reviews/0",
  "request_id": "d0df1a44-8ba2-9d55-9ac9-4d2b5d3cd3b2", "request_headers": {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}},
 "response": {"response_code": 200, "response_code_details": "via_upstream"}}`

func decodeALS(ctx context.Context, s settings) (*decoded, error) {
	var entry accesslogv3.HTTPAccessLogEntry
	if err := protojson.Unmarshal([]byte(entryJSON), &entry); err != nil {
		return nil, err
	}
	logs := &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{}
	for range entriesInMessage {
		logs.LogEntry = append(logs.LogEntry, &entry)
	}
	message, err := proto.Marshal(&alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: logs}})
	if err != nil {
		return nil, err
	}
	d := &decoded{what: "Envoy ALS entries, over gRPC, to log records", unit: "entry",
		ours: "envoy_access_log", other: "envoyals", bytes: len(message) / entriesInMessage}
	ours, err := alsSide(ctx, envoyaccesslogreceiver.NewFactory(), message)
	if err != nil {
		return nil, err
	}
	defer ours.close()
	other, err := alsSide(ctx, envoyalsreceiver.NewFactory(), message)
	if err != nil {
		return nil, err
	}
	defer other.close()
	return d, d.turns(2*s.rounds, messages*entriesInMessage, ours.run, other.run)
}

// side is one running receiver and its client.
type side struct {
	run   func() error
	close func()
}

// alsSide starts a receiver whose records are counted and dropped. The client
// sends bytes that were encoded beforehand.
func alsSide(ctx context.Context, f receiver.Factory, message []byte) (*side, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	cfg := f.CreateDefaultConfig()
	if err := confmap.NewFromStringMap(map[string]any{"endpoint": addr}).Unmarshal(cfg); err != nil {
		return nil, err
	}
	arrived := make(chan int, 1000)
	next, err := consumer.NewLogs(func(_ context.Context, ld plog.Logs) error {
		arrived <- ld.LogRecordCount()
		return nil
	})
	if err != nil {
		return nil, err
	}
	r, err := f.CreateLogs(ctx, receivertest.NewNopSettings(f.Type()), cfg, next)
	if err != nil {
		return nil, err
	}
	if err := r.Start(ctx, componenttest.NewNopHost()); err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
	if err != nil {
		return nil, err
	}
	desc := alsv3.AccessLogService_ServiceDesc
	run := func() error {
		stream, err := conn.NewStream(ctx, &desc.Streams[0], "/"+desc.ServiceName+"/"+desc.Streams[0].StreamName)
		if err != nil {
			return err
		}
		got := 0
		for range messages {
			if err := stream.SendMsg(message); err != nil {
				return err
			}
			got += <-arrived
		}
		if err := stream.CloseSend(); err != nil {
			return err
		}
		if got != messages*entriesInMessage {
			return fmt.Errorf("%s made %d records of %d entries", f.Type(), got, messages*entriesInMessage)
		}
		return nil
	}
	return &side{run, func() {
		_ = conn.Close()
		_ = r.Shutdown(context.WithoutCancel(ctx))
	}}, nil
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rawCodec) Unmarshal(mem.BufferSlice, any) error { return nil }

// A line of Istio's default JSON access log.
const istioLine = `{"authority":"reviews:9080","bytes_received":0,"bytes_sent":375,"connection_termination_details":null,` +
	`"downstream_local_address":"10.44.6.66:9080","downstream_remote_address":"10.44.2.56:43842","duration":1,"method":"GET",` +
	`"path":"/reviews/0","protocol":"HTTP/1.1","request_id":"d0df1a44-8ba2-9d55-9ac9-4d2b5d3cd3b2",` +
	`"requested_server_name":"outbound_.9080_._.reviews.default.svc.cluster.local","response_code":200,` +
	`"response_code_details":"via_upstream","response_flags":"-","route_name":"default","start_time":"2025-11-23T10:00:00.123Z",` +
	`"upstream_cluster":"inbound|9080||","upstream_host":"10.44.6.66:9080","upstream_local_address":"127.0.0.6:44567",` +
	`"upstream_service_time":"1","upstream_transport_failure_reason":null,"user_agent":"curl/8","x_forwarded_for":null}`

func decodeLines(ctx context.Context, s settings) (*decoded, error) {
	d := &decoded{what: "Istio JSON access log lines, to log records", unit: "line",
		ours: "decoder", other: "transform, ParseJSON", bytes: len(istioLine)}
	lines, err := envoy.NewLines("", nil)
	if err != nil {
		return nil, err
	}
	ours := func() error {
		var out []evidence.Evidence
		line := []byte(istioLine)
		for range requests {
			ld := plog.NewLogs()
			records := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
			records.EnsureCapacity(linesInRequest)
			for range linesInRequest {
				var err error
				if out, err = lines.Decode(out[:0], &evidence.Origin{}, line); err != nil || len(out) != 1 {
					return fmt.Errorf("the line gave %d pieces: %w", len(out), err)
				}
				otlp.Encode(&out[0], records.AppendEmpty())
			}
		}
		return nil
	}
	f := transformprocessor.NewFactory()
	cfg := f.CreateDefaultConfig()
	if err := confmap.NewFromStringMap(map[string]any{"error_mode": "propagate", "log_statements": []any{
		`merge_maps(log.attributes, ParseJSON(log.body), "upsert")`,
	}}).Unmarshal(cfg); err != nil {
		return nil, err
	}
	var sink consumertest.Consumer = consumertest.NewNop()
	p, err := f.CreateLogs(ctx, processortest.NewNopSettings(f.Type()), cfg, sink)
	if err != nil {
		return nil, err
	}
	if err := p.Start(ctx, componenttest.NewNopHost()); err != nil {
		return nil, err
	}
	defer func(c component.Component) { _ = c.Shutdown(context.WithoutCancel(ctx)) }(p)
	other := func() error {
		for range requests {
			ld := plog.NewLogs()
			records := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
			records.EnsureCapacity(linesInRequest)
			for range linesInRequest {
				records.AppendEmpty().Body().SetStr(istioLine)
			}
			if err := p.ConsumeLogs(ctx, ld); err != nil {
				return err
			}
			if records.At(0).Attributes().Len() < 10 {
				return fmt.Errorf("transform read %d attributes", records.At(0).Attributes().Len())
			}
		}
		return nil
	}
	return d, d.turns(2*s.rounds, linesInRequest*requests, ours, other)
}

func (r *report) writeDecode(b *bytes.Buffer) {
	fmt.Fprintf(b, "\n## Decoding\n\nCPU time of the process; for the access log service the sender's too. Medians of the rounds.\n\n")
	fmt.Fprintf(b, "| what | ours | per second and core | | alternative | ratio |\n|---|--:|--:|--:|---|--:|\n")
	for i := range r.decode {
		d := &r.decode[i]
		ours, other := middle(d.our), middle(d.others)
		rate := float64(time.Second) / float64(ours)
		fmt.Fprintf(b, "| %s of %d B | %s: %.2f µs | %.0f %s | %.0f MB | %s: %.2f µs | %.1f × |\n", d.what, d.bytes, d.ours, float64(ours)/1e3,
			rate, plural(d.unit), rate*float64(d.bytes)/1e6, d.other, float64(other)/1e3, float64(other)/float64(ours))
	}
}

func plural(unit string) string {
	if s, ok := strings.CutSuffix(unit, "y"); ok {
		return s + "ies"
	}
	return unit + "s"
}

func middle(d []cpuPerUnit) cpuPerUnit {
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)/2]
}
