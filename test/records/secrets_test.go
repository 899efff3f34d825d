package records

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processortest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meshaudit/meshaudit/exporter/sealedlogexporter"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/processor/meshauditprocessor"
	"github.com/meshaudit/meshaudit/receiver/envoyaccesslogreceiver"
	"github.com/meshaudit/meshaudit/receiver/k8sauditreceiver"
	"github.com/meshaudit/meshaudit/receiver/opadecisionlogreceiver"
	"github.com/meshaudit/meshaudit/seal"
)

// A sealed is a pipeline that ends in a sealed log.
type sealed struct {
	dir    string
	logs   processor.Logs
	traces processor.Traces
	stop   func()
}

func startSealed(t *testing.T) *sealed {
	t.Helper()
	ctx := context.Background()
	s := &sealed{dir: filepath.Join(t.TempDir(), "store")}
	ef := sealedlogexporter.NewFactory()
	ec := ef.CreateDefaultConfig().(*sealedlogexporter.Config)
	ec.Directory, ec.Origin, ec.Keys.Create = s.dir, "example.org/secrets", true
	el, err := ef.CreateLogs(ctx, exportertest.NewNopSettings(ef.Type()), ec)
	require.NoError(t, err)
	et, err := ef.CreateTraces(ctx, exportertest.NewNopSettings(ef.Type()), ec)
	require.NoError(t, err)

	pf := meshauditprocessor.NewFactory()
	pc := pf.CreateDefaultConfig()
	require.NoError(t, confmap.NewFromStringMap(map[string]any{"window": "200ms", "settle": "10ms", "sources": []any{map[string]any{
		"match": map[string]any{"path": "/mapped"}, "decoder": "mapped", "mapping": []any{map[string]any{"fields": map[string]any{
			"event": `"mesh.authz"`, "role": `"decision"`, "position": `body["id"]`, "from.identity": `body["subject"]`, "path": `body["path"]`,
			"verdict.engine": `body["engine"]`, "verdict.decision": `body["ok"]`, "verdict.reason": `body["why"]`, "user.id": `body["user"]`,
			"tls.failure_reason": `body["why"]`, "actor.delegation": `body["user"]`, "actor.token.jti": `body["user"]`,
			"actor.token.azp": `body["user"]`, "actor.token.x5t": `body["user"]`, "messaging.destination": `body["path"]`,
		}}},
	}}}).Unmarshal(pc))
	s.logs, err = pf.CreateLogs(ctx, processortest.NewNopSettings(pf.Type()), pc, el)
	require.NoError(t, err)
	s.traces, err = pf.CreateTraces(ctx, processortest.NewNopSettings(pf.Type()), pc, et)
	require.NoError(t, err)
	require.NoError(t, el.Start(ctx, componenttest.NewNopHost()))
	require.NoError(t, et.Start(ctx, componenttest.NewNopHost()))
	require.NoError(t, s.logs.Start(ctx, componenttest.NewNopHost()))
	require.NoError(t, s.traces.Start(ctx, componenttest.NewNopHost()))
	s.stop = func() {
		require.NoError(t, s.traces.Shutdown(ctx))
		require.NoError(t, s.logs.Shutdown(ctx))
		require.NoError(t, et.Shutdown(ctx))
		require.NoError(t, el.Shutdown(ctx))
	}
	return s
}

// scan looks for the secret in every file and in every decompressed batch of
// the store, and for what must be there: source, and at least n pieces.
func (s *sealed) scan(t *testing.T, source string, n int) {
	t.Helper()
	leaks := 0
	clean := func(where string, b []byte) {
		b = bytes.ToLower(b)
		for from := 0; ; {
			i := bytes.Index(b[from:], []byte(evidencetest.Secret))
			if i < 0 {
				return
			}
			from += i
			if leaks++; leaks <= 20 {
				t.Errorf("%s: a secret was sealed: %q", where, b[max(0, from-120):min(len(b), from+30)])
			}
			from += len(evidencetest.Secret)
		}
	}
	require.NoError(t, filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		clean(path, b)
		return err
	}))
	log, err := seal.OpenLog(s.dir, "example.org/secrets")
	require.NoError(t, err)
	found := 0
	require.NoError(t, log.Entries(context.Background(), nil, func(e *seal.Entry) error {
		if e.Kind != seal.KindBatch {
			return nil
		}
		_, msg, err := e.Body()
		if err != nil {
			return err
		}
		clean("a batch", msg)
		found += bytes.Count(msg, []byte(semconv.EvidenceID))
		if source != "" && bytes.Contains(msg, []byte(source)) {
			source = ""
		}
		return nil
	}))
	require.Empty(t, source, "not one piece of that source was sealed")
	require.GreaterOrEqual(t, found, n, "pieces of evidence")
}

// TestNoSecretIsSealed plants credentials in every field of every source and
// reads all that was sealed: the source's own bytes go through the receiver, or
// as file_log sends them, the processor and the exporter.
func TestNoSecretIsSealed(t *testing.T) {
	for _, tt := range []struct {
		name, source string
		send         func(*testing.T, *sealed) int
	}{
		{"Envoy's access log service", "envoy_als", sendALS},
		{"Envoy's access log service, malformed", "envoy_als", sendBrokenALS},
		{"Envoy's OTLP logs", "envoy_otlp", func(t *testing.T, s *sealed) int { return sendLogs(t, s, envoyLog) }},
		{"logs that nobody knows", "opaque", func(t *testing.T, s *sealed) int { return sendLogs(t, s, opaqueLog) }},
		{"spans", "", sendSpans},
		{"OPA's decisions", "opa", sendDecisions},
		{"OPA's status", "opa", sendStatus},
		{"Kubernetes' webhook", "k8s_audit", sendAudit},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := startSealed(t)
			n := tt.send(t, s)
			s.stop()
			s.scan(t, tt.source, n)
		})
	}
	for decoder, lines := range plantedLines(t) {
		t.Run("lines of "+decoder, func(t *testing.T) {
			s := startSealed(t)
			n := sendLines(t, s, decoder, lines)
			s.stop()
			source := decoder
			if decoder == "pomerium" || decoder == "oauth2_proxy" {
				source = "mapped"
			}
			s.scan(t, source, n)
		})
	}
}

// ---- Envoy's access log service

// alsEntry is an entry in which what the decoder reads is set.
const alsEntry = `{
	"common_properties": {
		"downstream_remote_address": {"socket_address": {"address": "192.0.2.1", "port_value": 4711}},
		"downstream_local_address": {"socket_address": {"address": "10.0.0.1", "port_value": 8080}},
		"upstream_remote_address": {"pipe": {"path": "/run/app.sock"}},
		"start_time": "2026-11-24T10:00:00Z", "upstream_cluster": "inbound|8080||", "route_name": "default", "stream_id": "7d0f",
		"upstream_transport_failure_reason": "TLS error", "downstream_transport_failure_reason": "TLS error", "connection_termination_details": "x",
		"response_flags": {"unauthorized_details": {"reason": "EXTERNAL_SERVICE"}},
		"metadata": {"filter_metadata": {
			"envoy.filters.http.rbac": {"shadow_effective_policy_id": "x", "shadow_engine_result": "allowed", "shadow_rules_prefix": "y"},
			"envoy.filters.http.jwt_authn": {"payload": {"sub": "alice", "iss": "https://idp", "aud": ["orders"], "azp": "web", "email": "a", "act": {"sub": "b", "iss": "c"}, "cnf": {"jkt": "d"}, "jti": "e"}},
			"envoy.filters.http.ext_authz": {"decision_id": "d-1", "reason": "x"}, "istio_authn": {"source.principal": "a"}, "other": {"x": ["y", {"z": "w"}]}}},
		"filter_state_objects": {"downstream_peer": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "x"}},
		"custom_tags": {"peer_cert_sha256": "ab", "decision_id": "d-2", "other": "x"},
		"tls_properties": {"tls_sni_hostname": "orders", "tls_session_id": "x", "ja3_fingerprint": "y",
			"peer_certificate_properties": {"subject": "CN=a,O=b", "subject_alt_name": [{"uri": "spiffe://example.org/ns/shop/sa/web"}, {"dns": "web"}], "issuer": "CN=ca"},
			"local_certificate_properties": {"subject": "CN=o", "subject_alt_name": [{"uri": "spiffe://example.org/ns/shop/sa/orders"}]}}},
	"request": {"request_method": "GET", "scheme": "https", "authority": "orders:8080", "path": "/orders/1", "user_agent": "curl", "referer": "https://a/b",
		"forwarded_for": "192.0.2.1", "request_id": "b1", "original_path": "/o",
		"request_headers": {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "b3": "x", "cookie": "a=b", "authorization": "x", "dpop": "y",
			"x-forwarded-client-cert": "By=spiffe://example.org/o;URI=spiffe://example.org/w;Subject=\"CN=a\"", "x-spiffe-id": "a", "x-request-id": "b", ":method": "GET", ":path": "/", "x-b3-traceid": "c", "x-envoy-attempt-count": "1", "x-forwarded-for": "1.2.3.4", "user-agent": "d"}},
	"response": {"response_code": 403, "response_code_details": "rbac_access_denied_matched_policy[ns[shop]-policy[deny[all]]-rule[0]]",
		"response_headers": {"set-cookie": "a=b", "location": "/x", "x": "y"}, "response_trailers": {"grpc-status": "7", "grpc-message": "no", "x": "y"}}
}`

const alsNode = `{"node": {"id": "sidecar~10.0.0.1~orders-1.shop~shop.svc.cluster.local", "cluster": "orders.shop", "user_agent_name": "envoy",
	"metadata": {"NAME": "orders-1", "NAMESPACE": "shop", "CLUSTER_ID": "east", "SERVICE_ACCOUNT": "orders", "WORKLOAD_NAME": "orders", "LABELS": {"app": "a", "version": "v1"}, "OWNER": "kubernetes://apis/apps/v1/namespaces/shop/deployments/orders", "x": "y"},
	"locality": {"region": "r", "zone": "z"}}, "log_name": "audit"}`

func sendALS(t *testing.T, s *sealed) int {
	endpoint := strings.TrimPrefix(serve(t, envoyaccesslogreceiver.NewFactory(), s.logs, map[string]any{}), "http://")
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	sent := 0
	stream := func(id *alsv3.StreamAccessLogsMessage_Identifier, https []*accesslogv3.HTTPAccessLogEntry) {
		var tcp []*accesslogv3.TCPAccessLogEntry
		for _, e := range https {
			tcp = append(tcp, &accesslogv3.TCPAccessLogEntry{CommonProperties: e.CommonProperties})
		}
		c, err := alsv3.NewAccessLogServiceClient(conn).StreamAccessLogs(t.Context())
		require.NoError(t, err)
		require.NoError(t, c.Send(&alsv3.StreamAccessLogsMessage{Identifier: id, LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{
			HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: https}}}))
		require.NoError(t, c.Send(&alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_TcpLogs{
			TcpLogs: &alsv3.StreamAccessLogsMessage_TCPAccessLogEntries{LogEntry: tcp}}}))
		_, err = c.CloseAndRecv()
		require.NoError(t, err)
		sent += 2 * len(https)
	}
	json := protojson.UnmarshalOptions{DiscardUnknown: true}
	var node alsv3.StreamAccessLogsMessage_Identifier
	require.NoError(t, json.Unmarshal([]byte(alsNode), &node))
	var entries []*accesslogv3.HTTPAccessLogEntry
	for _, planted := range evidencetest.PlantJSON(t, []byte(alsEntry)) {
		e := new(accesslogv3.HTTPAccessLogEntry)
		if json.Unmarshal(planted, e) == nil { // a time or an enumeration can hold no text
			entries = append(entries, e)
		}
	}
	require.Greater(t, len(entries), 400)
	stream(&node, entries)

	// Every string of the messages, whatever the decoder reads, with each
	// alternative of the oneofs.
	entries = nil
	for _, shape := range evidencetest.SecretShapes {
		for alternative := range 5 {
			e := new(accesslogv3.HTTPAccessLogEntry)
			require.Greater(t, fill(e.ProtoReflect(), shape, alternative, 0), 30)
			entries = append(entries, e)
		}
	}
	stream(&node, entries)
	var one accesslogv3.HTTPAccessLogEntry
	require.NoError(t, json.Unmarshal([]byte(alsEntry), &one))
	for _, planted := range evidencetest.PlantJSON(t, []byte(alsNode)) {
		id := new(alsv3.StreamAccessLogsMessage_Identifier)
		require.NoError(t, json.Unmarshal(planted, id))
		stream(id, []*accesslogv3.HTTPAccessLogEntry{&one})
	}
	return sent
}

// A wire is a message that is sent as it is.
type wire []byte

type wireCodec struct{}

func (wireCodec) Name() string { return "proto" }
func (wireCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.(wire))}, nil
}
func (wireCodec) Unmarshal(mem.BufferSlice, any) error { return nil }

// sendBrokenALS sends messages that end anywhere, and each whole.
func sendBrokenALS(t *testing.T, s *sealed) int {
	endpoint := strings.TrimPrefix(serve(t, envoyaccesslogreceiver.NewFactory(), s.logs, map[string]any{}), "http://")
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wireCodec{})))
	require.NoError(t, err)
	defer conn.Close()
	json := protojson.UnmarshalOptions{DiscardUnknown: true}
	refused := 0
	send := func(message []byte) {
		c, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, alsv3.AccessLogService_StreamAccessLogs_FullMethodName)
		require.NoError(t, err)
		require.NoError(t, c.SendMsg(wire(message)))
		require.NoError(t, c.CloseSend())
		if c.RecvMsg(nil) != nil {
			refused++
		}
	}
	planted := evidencetest.PlantJSON(t, []byte(alsEntry))
	for i := 0; i < len(planted); i += len(planted) / 100 {
		e := new(accesslogv3.HTTPAccessLogEntry)
		if json.Unmarshal(planted[i], e) != nil {
			continue
		}
		message, err := proto.Marshal(&alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{
			HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: []*accesslogv3.HTTPAccessLogEntry{e, e}}}})
		require.NoError(t, err)
		for part := range 8 {
			send(message[:1+(i*7919+part*len(message)/8)%len(message)])
		}
		send(message)
	}
	require.Greater(t, refused, 50)
	return 1
}

// fill sets every text of a message to shape, and returns how many.
func fill(m protoreflect.Message, shape string, alternative, depth int) (n int) {
	if depth > 12 {
		return 0
	}
	switch v := m.Interface().(type) {
	case *structpb.Struct:
		v.Fields = map[string]*structpb.Value{}
		for _, name := range []string{"payload", "sub", "decision_id", "shadow_effective_policy_id", "shadow_engine_result", "x"} {
			v.Fields[name] = structpb.NewStringValue(shape)
		}
		return len(v.Fields)
	case *anypb.Any:
		if err := v.MarshalFrom(wrapperspb.String(shape)); err != nil {
			panic(err)
		}
		return 1
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() && o.Fields().Get(alternative%o.Fields().Len()) != f {
			continue
		}
		value := func(one func() protoreflect.Value) (v protoreflect.Value, ok bool) {
			switch f.Kind() {
			case protoreflect.StringKind:
				n++
				return protoreflect.ValueOfString(shape), true
			case protoreflect.BytesKind:
				n++
				return protoreflect.ValueOfBytes([]byte(shape)), true
			case protoreflect.MessageKind:
				v = one()
				n += fill(v.Message(), shape, alternative, depth+1)
				return v, true
			}
			return v, false
		}
		switch {
		case f.IsMap():
			values := m.Mutable(f).Map()
			for _, key := range []string{"envoy.filters.http.rbac", "envoy.filters.http.jwt_authn", "traceparent", "x-forwarded-client-cert", "cookie", "decision_id", "x-request-id", "grpc-message", shape} {
				if f.MapValue().Kind() == protoreflect.MessageKind {
					v := values.NewValue()
					n += fill(v.Message(), shape, alternative, depth+1)
					values.Set(protoreflect.ValueOfString(key).MapKey(), v)
				} else {
					n++
					values.Set(protoreflect.ValueOfString(key).MapKey(), protoreflect.ValueOfString(shape))
				}
			}
		case f.IsList():
			list := m.Mutable(f).List()
			if v, ok := value(list.NewElement); ok {
				list.Append(v)
			}
		default:
			if v, ok := value(func() protoreflect.Value { return m.NewField(f) }); ok {
				m.Set(f, v)
			}
		}
	}
	return n
}

// ---- OTLP

const envoyLog = `{"resourceLogs":[{"resource":{"attributes":[
	{"key":"log_name","value":{"stringValue":"mesh-audit"}},{"key":"zone_name","value":{"stringValue":"-"}},{"key":"cluster_name","value":{"stringValue":"orders.shop"}},
	{"key":"node_name","value":{"stringValue":"sidecar~10.0.0.1~orders-1.shop~shop.svc.cluster.local"}},{"key":"k8s.pod.name","value":{"stringValue":"orders-1"}},{"key":"x","value":{"stringValue":"y"}}]},
	"scopeLogs":[{"scope":{"name":"envoy","version":"1","attributes":[{"key":"x","value":{"stringValue":"y"}}]},"logRecords":[{"timeUnixNano":"1763856000000000005","severityText":"INFO","body":{"stringValue":"GET /orders 200"},
	"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331","attributes":[
	{"key":"request_id","value":{"stringValue":"b1"}},{"key":"traceparent","value":{"stringValue":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}},
	{"key":"peer_spiffe_id","value":{"stringValue":"spiffe://example.org/ns/shop/sa/web"}},{"key":"local_spiffe_id","value":{"stringValue":"spiffe://example.org/ns/shop/sa/orders"}},
	{"key":"peer_cert_sha256","value":{"stringValue":"ab"}},{"key":"peer_cert_serial","value":{"stringValue":"12"}},{"key":"tls_version","value":{"stringValue":"TLSv1.3"}},
	{"key":"method","value":{"stringValue":"GET"}},{"key":"path","value":{"stringValue":"/orders"}},{"key":"authority","value":{"stringValue":"orders"}},{"key":"response_code","value":{"stringValue":"200"}},
	{"key":"response_code_details","value":{"stringValue":"via_upstream"}},{"key":"response_flags","value":{"stringValue":"-"}},{"key":"rbac_shadow_result","value":{"stringValue":"denied"}},
	{"key":"rbac_shadow_policy","value":{"stringValue":"p"}},{"key":"ext_authz","value":{"stringValue":"{\"decision_id\":\"d-1\"}"}},{"key":"stream_id","value":{"stringValue":"7d0f"}},
	{"key":"xfcc","value":{"stringValue":"URI=spiffe://example.org/a"}},{"key":"x_forwarded_client_cert","value":{"stringValue":"URI=spiffe://example.org/a"}},
	{"key":"user_agent","value":{"stringValue":"u"}},{"key":"upstream_cluster","value":{"stringValue":"inbound|8080||"}},{"key":"upstream_host","value":{"stringValue":"10.0.0.2:80"}},{"key":"downstream_remote_address","value":{"stringValue":"10.0.0.3:1"}},
	{"key":"upstream_transport_failure_reason","value":{"stringValue":"TLS"}},{"key":"requested_server_name","value":{"stringValue":"o"}},{"key":"route_name","value":{"stringValue":"r"}},{"key":"x","value":{"stringValue":"y"}}]}]}]}]}`

const opaqueLog = `{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"app"}},{"key":"host.name","value":{"stringValue":"h"}},{"key":"process.command_line","value":{"stringValue":"x"}}]},
	"scopeLogs":[{"scope":{"name":"a","version":"1"},"logRecords":[{"eventName":"e","severityText":"INFO","body":{"stringValue":"hello"},"attributes":[
	{"key":"url.path","value":{"stringValue":"/a"}},{"key":"url.full","value":{"stringValue":"http://a/b"}},{"key":"user.id","value":{"stringValue":"u"}},{"key":"http.route","value":{"stringValue":"/a"}},
	{"key":"server.address","value":{"stringValue":"s"}},{"key":"log.file.path","value":{"stringValue":"/x"}},{"key":"log.record.uid","value":{"stringValue":"1"}},
	{"key":"mesh.source.spiffe.id","value":{"stringValue":"spiffe://a/b"}},{"key":"mesh.evidence.source","value":{"stringValue":"x"}},{"key":"http.request.header.cookie","value":{"arrayValue":{"values":[{"stringValue":"c"}]}}},
	{"key":"x","value":{"kvlistValue":{"values":[{"key":"y","value":{"stringValue":"z"}}]}}}]}]},
	{"logRecords":[{"body":{"kvlistValue":{"values":[{"key":"authorization","value":{"stringValue":"z"}},{"key":"x","value":{"arrayValue":{"values":[{"stringValue":"y"}]}}}]}}}]}]}]}`

func sendLogs(t *testing.T, s *sealed, message string) int {
	sent := 0
	for _, planted := range evidencetest.PlantJSON(t, []byte(message)) {
		ld, err := new(plog.JSONUnmarshaler).UnmarshalLogs(planted)
		if err != nil {
			continue // an id can hold no text
		}
		sent += ld.LogRecordCount()
		require.NoError(t, s.logs.ConsumeLogs(t.Context(), ld))
	}
	require.Greater(t, sent, 100)
	return sent
}

const spans = `{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"orders"}},{"key":"k8s.pod.name","value":{"stringValue":"orders-1"}},{"key":"process.command_args","value":{"stringValue":"x"}}]},
	"scopeSpans":[{"scope":{"name":"a","version":"1","attributes":[{"key":"x","value":{"stringValue":"y"}}]},"spans":[{"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331","name":"GET /orders","kind":2,
	"traceState":"a=b","startTimeUnixNano":"1763856000000000005","endTimeUnixNano":"1763856000000000009","status":{"code":2,"message":"failed"},
	"events":[{"name":"exception","attributes":[{"key":"exception.type","value":{"stringValue":"E"}},{"key":"exception.message","value":{"stringValue":"m"}},{"key":"exception.stacktrace","value":{"stringValue":"s"}}]}],
	"links":[{"traceId":"0af7651916cd43dd8448eb211c80319d","spanId":"b7ad6b7169203332","traceState":"a=b","attributes":[{"key":"x","value":{"stringValue":"y"}}]}],
	"attributes":[{"key":"http.request.method","value":{"stringValue":"GET"}},{"key":"http.method","value":{"stringValue":"GET"}},{"key":"url.path","value":{"stringValue":"/a"}},{"key":"url.full","value":{"stringValue":"http://a/b"}},{"key":"url.query","value":{"stringValue":"q"}},
	{"key":"http.url","value":{"stringValue":"http://a/b"}},{"key":"http.target","value":{"stringValue":"/b"}},{"key":"http.route","value":{"stringValue":"/b"}},{"key":"http.host","value":{"stringValue":"a"}},{"key":"server.address","value":{"stringValue":"a"}},{"key":"client.address","value":{"stringValue":"a"}},
	{"key":"user.id","value":{"stringValue":"u"}},{"key":"enduser.id","value":{"stringValue":"u"}},{"key":"user.roles","value":{"arrayValue":{"values":[{"stringValue":"r"}]}}},{"key":"rpc.service","value":{"stringValue":"s"}},{"key":"rpc.method","value":{"stringValue":"m"}},{"key":"messaging.destination.name","value":{"stringValue":"d"}},{"key":"messaging.system","value":{"stringValue":"kafka"}},
	{"key":"http.request.header.authorization","value":{"arrayValue":{"values":[{"stringValue":"x"}]}}},{"key":"http.request.header.dpop","value":{"arrayValue":{"values":[{"stringValue":"x"}]}}},{"key":"http.request.header.x-forwarded-client-cert","value":{"arrayValue":{"values":[{"stringValue":"URI=spiffe://a/b"}]}}},{"key":"http.request.header.x-request-id","value":{"stringValue":"r"}},
	{"key":"guid:x-request-id","value":{"stringValue":"r"}},{"key":"upstream_cluster","value":{"stringValue":"inbound|80||"}},{"key":"node_id","value":{"stringValue":"sidecar~10.0.0.1~a.b~c"}},{"key":"component","value":{"stringValue":"proxy"}},{"key":"response_flags","value":{"stringValue":"-"}},{"key":"peer_spiffe_id","value":{"stringValue":"spiffe://a/b"}},{"key":"istio.canonical_service","value":{"stringValue":"o"}},
	{"key":"error.type","value":{"stringValue":"e"}},{"key":"db.query.text","value":{"stringValue":"q"}},{"key":"user_agent.original","value":{"stringValue":"a"}},{"key":"x","value":{"kvlistValue":{"values":[{"key":"y","value":{"stringValue":"z"}}]}}}]}]}]}]}`

func sendSpans(t *testing.T, s *sealed) int {
	sent := 0
	for _, planted := range evidencetest.PlantJSON(t, []byte(spans)) {
		td, err := new(ptrace.JSONUnmarshaler).UnmarshalTraces(planted)
		if err != nil {
			continue // an id can hold no text
		}
		sent += td.SpanCount()
		require.NoError(t, s.traces.ConsumeTraces(t.Context(), td))
	}
	require.Greater(t, sent, 300)
	return sent
}

// ---- webhooks

const decision = `{"labels":{"id":"opa-1","version":"1.22.2","cluster":"east","app":"x","namespace":"shop","pod_name":"p"},"decision_id":"d-1","trace_id":"0af7651916cd43dd8448eb211c80319c","span_id":"b7ad6b7169203331",
	"revision":"r","bundles":{"authz":{"revision":"git-1"}},"path":"mesh/authz/allow","query":"data.x","requested_by":"10.0.0.1:1","timestamp":"2026-11-24T10:00:00Z","req_id":7,"batch_decision_id":"b-1",
	"input":{"attributes":{"request":{"time":"2026-11-24T10:00:00Z","http":{"id":"r-1","method":"GET","path":"/admin","host":"orders","scheme":"https","protocol":"HTTP/1.1","body":"b","raw_body":"eA==","query":"q",
		"headers":{"authorization":"x","cookie":"a=b","x-request-id":"r-1","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","x-forwarded-client-cert":"URI=spiffe://a/b","dpop":"x","x-custom":"y"}}},
		"source":{"principal":"spiffe://example.org/ns/shop/sa/web","service":"web","address":{"socketAddress":{"address":"10.0.0.1","portValue":1}},"certificate":"x","labels":{"a":"b"}},
		"destination":{"principal":"spiffe://example.org/ns/shop/sa/orders","address":{"socketAddress":{"address":"10.0.0.2","portValue":2}}},
		"contextExtensions":{"a":"b"},"metadataContext":{"filterMetadata":{"envoy.filters.http.jwt_authn":{"verified_jwt":{"sub":"alice","iss":"https://idp","aud":"orders","email":"e"}}}}},
		"parsed_path":["admin"],"parsed_query":{"q":["v"]},"parsed_body":{"password":"p"},"user":"alice","token":"t","method":"GET","path":["a","b"],"truncated_body":false},
	"result":{"allowed":false,"allow":false,"headers":{"x":"y"},"body":"b","http_status":403,"reason":"no","reasons":["a"],"deny":["why"],"response_headers_to_add":{"set-cookie":"x"},"dynamic_metadata":{"decision":"d"},"policy":"p"},
	"mapped_result":{"x":"y"},"nd_builtin_cache":{"http.send":{"[{\"url\":\"x\"}]":{"body":"b"}},"opa.runtime":{"x":{"env":{"HOME":"h"}}}},"erased":["/input/x"],"masked":["/input/y"],
	"rule_labels":[{"name":"a","id":"b"}],"custom":{"rule":"x"},"intermediate_results":{"x":"y"},"error":{"code":"eval_error","message":"m","errors":[{"message":"n","location":{"file":"f"}}]},"metrics":{"x":1}}`

// broken gives an event whole and cut off in the middle and at the end.
func broken(events [][]byte) (out []string) {
	for _, e := range events {
		out = append(out, string(e), string(e[:len(e)-1])+"]", string(e[:len(e)-1])+`x}`)
	}
	return out
}

func sendDecisions(t *testing.T, s *sealed) int {
	url := serve(t, opadecisionlogreceiver.NewFactory(), s.logs, map[string]any{}) + "/logs"
	planted := evidencetest.PlantJSON(t, []byte(decision))
	require.Greater(t, len(planted), 300)
	for i, e := range broken(planted) {
		if i%3 == 0 {
			post(t, url, "["+e+"]")
			continue
		}
		post(t, url, "["+e+"]")
		post(t, url, "["+e[:len(e)*2/3])
	}
	return len(planted)
}

func sendStatus(t *testing.T, s *sealed) int {
	url := serve(t, opadecisionlogreceiver.NewFactory(), s.logs, map[string]any{}) + "/status"
	planted := evidencetest.PlantJSON(t, []byte(`{"labels":{"id":"opa-1","cluster":"east","version":"1","x":"y"},"bundles":{"authz":{"name":"authz","active_revision":"git-1","type":"snapshot","size":7,"last_successful_activation":"2026-11-24T10:00:00Z"},
		"broken":{"name":"broken","code":"bundle_error","message":"m","http_code":"404","errors":[{"message":"n","code":"c"}]}},"bundle":{"name":"b","active_revision":"r","last_successful_activation":"2026-11-24T10:00:00Z"},
		"discovery":{"name":"d","active_revision":"r2","last_successful_activation":"2026-11-24T10:00:00Z"},"decision_logs":{"code":"c","message":"m"},"plugins":{"bundle":{"state":"OK","message":"m"}},"metrics":{"prometheus":{"a":"b"}}}`))
	for _, e := range broken(planted) {
		post(t, url, e)
	}
	return 1
}

const auditEvent = `{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"RequestResponse","auditID":"c","stage":"ResponseComplete","requestURI":"/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/orders","verb":"patch",
	"user":{"username":"system:serviceaccount:ops:deployer","uid":"u","groups":["g"],"extra":{"authentication.kubernetes.io/pod-name":["deployer-1"],"authentication.kubernetes.io/pod-uid":["p"],"authentication.kubernetes.io/node-name":["n"],"authentication.kubernetes.io/credential-id":["JTI=x"],"x":["y"]}},
	"impersonatedUser":{"username":"alice","uid":"v","groups":["admins"],"extra":{"x":["y"]}},"sourceIPs":["10.0.0.1"],"userAgent":"kubectl/v1","objectRef":{"resource":"authorizationpolicies","namespace":"shop","name":"orders","uid":"o","apiGroup":"security.istio.io","apiVersion":"v1","resourceVersion":"6","subresource":"status"},
	"responseStatus":{"metadata":{"x":"y"},"status":"Failure","message":"m","reason":"Forbidden","details":{"name":"n","causes":[{"message":"c"}]},"code":403},
	"requestObject":{"kind":"Secret","data":{"password":"cA=="},"stringData":{"a":"b"},"spec":{"token":"t"}},"responseObject":{"kind":"TokenRequest","metadata":{"name":"orders","resourceVersion":"7","annotations":{"a":"b"}},"status":{"token":"t"},"data":{"x":"y"}},
	"requestReceivedTimestamp":"2026-11-24T10:00:00.000001Z","stageTimestamp":"2026-11-24T10:00:00.000002Z",
	"annotations":{"authorization.k8s.io/decision":"forbid","authorization.k8s.io/reason":"RBAC: allowed by ClusterRoleBinding \"admins\" of ClusterRole \"admin\" to Group \"admins\"","authentication.k8s.io/error":"e","mutation.webhook.admission.k8s.io/round_0_index_0":"{}","x":"y"}}`

// auditEvents are of each kind that the decoder tells apart.
func auditEvents(t *testing.T) (out [][]byte) {
	for _, as := range [][2]string{
		{}, {`"resource":"authorizationpolicies"`, `"resource":"secrets"`}, {`"subresource":"status"`, `"subresource":"token"`},
		{`"resource":"authorizationpolicies","namespace":"shop","name":"orders","uid":"o","apiGroup":"security.istio.io","apiVersion":"v1","resourceVersion":"6","subresource":"status"`, `"resource":"pods","subresource":"exec","name":"p"`},
		{`"reason":"Forbidden"`, `"reason":"Unauthorized"`}, {`"code":403`, `"code":200`}, {`"code":403`, `"code":401`},
	} {
		out = append(out, evidencetest.PlantJSON(t, []byte(strings.Replace(auditEvent, as[0], as[1], 1)))...)
	}
	return out
}

func sendAudit(t *testing.T, s *sealed) int {
	url := serve(t, k8sauditreceiver.NewFactory(), s.logs, map[string]any{"cluster": "east", "trust_domain": "cluster.local", "config_maps": []any{"*/*"}}) + "/k8s-audit"
	events := auditEvents(t)
	require.Greater(t, len(events), 1000)
	for chunk := range len(events)/100 + 1 {
		part := events[chunk*100 : min(len(events), chunk*100+100)]
		post(t, url, `{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[`+string(bytes.Join(part, []byte(",")))+"]}")
		if chunk > len(events)/700 {
			continue // broken ones of the first kind of event only
		}
		for i, e := range broken(part) {
			if i%3 != 0 {
				post(t, url, `{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[`+e+"]}")
			} else if i%5 == 0 {
				post(t, url, `{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[`+e[:len(e)/2])
			}
		}
	}
	return len(events)
}

// ---- lines

// plantedLines are those of each decoder: of the corpora and of what is rare in
// them.
func plantedLines(t *testing.T) map[string][]string {
	lines := map[string][]string{
		"pomerium": {
			`{"level":"info","service":"authorize","request-id":"r-1","check-request-id":"c","method":"GET","path":"/admin","query":"q","host":"app","ip":"192.0.2.7","session-id":"s","user":"google/1","email":"eve@example.org","allow":false,"deny-why-true":["user-unauthorized"],"headers":{"Cookie":"x"},"time":"2026-11-23T10:00:00.5Z","message":"authorize check"}`,
			`{"level":"info","service":"envoy","upstream-cluster":"app","method":"GET","authority":"app","path":"/a","user-agent":"x","referer":"r","forwarded-for":"192.0.2.7","request-id":"r-1","duration":12.5,"size":9,"response-code":200,"response-code-details":"via_upstream","time":"2026-11-23T10:00:00.5Z","message":"http-request"}`,
		},
		"oauth2_proxy": {
			`192.0.2.7:4000 - 3fb1 - eve@example.org [2026/11/23 10:00:00] [AuthFailure] Invalid authentication via OAuth2: unauthorized`,
			`192.0.2.7:4000 - 3fb1 - eve@example.org [2026/11/23 10:00:00] app.example.org GET - "/oauth2/auth" HTTP/1.1 "curl/8" 202 0 0.001`,
		},
		"mapped": {`{"id":"1","subject":"spiffe://example.org/a","path":"/a","engine":"pdp","ok":"deny","why":"no","user":"u","headers":{"authorization":"x"}}`},
		"ztunnel": {
			"2025-03-01T10:00:00.000001Z\terror\taccess\tconnection complete\tsrc.addr=10.0.0.1:40000 src.workload=\"a\" src.namespace=\"x\" src.identity=\"spiffe://cluster.local/ns/x/sa/a\" dst.addr=10.0.0.2:15008 dst.hbone_addr=10.0.0.2:80 dst.service=\"s\" dst.workload=\"b\" dst.namespace=\"y\" dst.identity=\"spiffe://cluster.local/ns/y/sa/b\" direction=\"inbound\" bytes_sent=0 bytes_recv=0 duration=\"0ms\" error=\"connection closed due to policy rejection: explicitly denied by: y/no-a\"",
			"2025-03-01T10:00:00.000001Z\tinfo\tstate:inbound{id=5 peer=10.0.0.1:40000}\tdry-run: deny policy match\tpolicy=\"y/no-a\"",
			`{"level":"error","time":"2025-03-01T10:00:00.000001Z","scope":"access","message":"connection complete","src.addr":"10.0.0.1:1","src.workload":"a","src.identity":"spiffe://a/b","dst.addr":"10.0.0.2:2","dst.service":"s","dst.identity":"spiffe://a/c","direction":"inbound","error":"tls error: x"}`,
		},
		"linkerd": {`{"timestamp":"2025-03-01T10:00:00.5Z","level":"INFO","fields":{"message":"Request denied","server.group":"policy.linkerd.io","server.kind":"server","server.name":"web","route.group":"","route.kind":"default","route.name":"default","client.tls":"Some(Established { client_id: Some(ClientId(Dns(Name(\"a.x.serviceaccount.identity.linkerd.cluster.local\")))), negotiated_protocol: None })","client.ip":"10.0.0.1"},"target":"linkerd_app_inbound::policy::http"}`},
		"spire_audit": {
			`time="2026-11-24T10:00:00Z" level=info msg="API accessed" type=audit service=agent.v1.Agent method=AttestAgent status=error status_code=PermissionDenied status_message="failed to attest: agent is banned" caller_addr="10.0.0.1:4711" agent_id="spiffe://example.org/spire/agent/x" csr="x" token="y"`,
			`{"type":"audit","msg":"API accessed","level":"info","time":"2026-11-24T10:00:00Z","service":"entry.v1.Entry","method":"BatchCreateEntry","status":"success","spiffe_id":"spiffe://a/b","parent_id":"spiffe://a/c","selectors":"unix:uid:0","caller_path":"/bin/x","caller_addr":"10.0.0.1:1","dns_name":"d","hint":"h","federates_with":"f","csr":"x","jwt":"y"}`,
		},
		"hubble": {
			`{"flow":{"time":"2025-03-01T10:00:00.5Z","uuid":"u","verdict":"DROPPED","drop_reason_desc":"POLICY_DENY","IP":{"source":"10.0.0.1","destination":"10.0.0.2"},"l4":{"TCP":{"source_port":4,"destination_port":80,"flags":{"SYN":true}}},"event_type":{"type":5},"traffic_direction":"INGRESS","node_name":"n","ingress_denied_by":[{"name":"a","namespace":"y","labels":["l"],"revision":"12","kind":"CiliumNetworkPolicy"},{"name":"b","kind":"CiliumClusterwideNetworkPolicy"}]}}`,
		},
		"opaque": {`an application's line`, `{"msg":"x","user":"y"}`},
	}
	for decoder, corpora := range map[string][]string{
		"envoy_text":  {"envoy/testdata/istio_text.log"},
		"ztunnel":     {"ztunnel/testdata/kiali_ztunnel.log"},
		"linkerd":     {"linkerd/testdata/linkerd_json.jsonl", "linkerd/testdata/linkerd_apache.log"},
		"hubble":      {"hubble/testdata/flows_http.jsonl", "hubble/testdata/flows_tcp.jsonl"},
		"spire_audit": {"spire/testdata/server-1.13.jsonl", "spire/testdata/agent-1.13.log"},
	} {
		for _, corpus := range corpora {
			all := strings.Split(strings.TrimSpace(file(t, corpus)), "\n")
			for i := 0; i < len(all); i += max(1, len(all)/12) {
				lines[decoder] = append(lines[decoder], all[i])
			}
		}
	}
	out := map[string][]string{}
	for decoder, list := range lines {
		for _, line := range list {
			var planted []string
			if strings.HasPrefix(line, "{") {
				for _, b := range evidencetest.PlantJSON(t, []byte(line)) {
					planted = append(planted, string(b))
				}
			} else {
				planted = evidencetest.PlantText(line)
			}
			for _, p := range planted {
				out[decoder] = append(out[decoder], p, p[:len(p)-1], "x"+p)
			}
		}
	}
	events := auditEvents(t)
	for _, e := range events[:len(events)/7] {
		out["k8s_audit"] = append(out["k8s_audit"], string(e), string(e[:len(e)-1]), "x"+string(e))
	}
	return out
}

// sendLines gives the lines as file_log does, with a secret where else it may
// stand.
func sendLines(t *testing.T, s *sealed, decoder string, lines []string) int {
	path, source := "/x", decoder
	if decoder == "mapped" {
		path, source = "/mapped", ""
	}
	for from := 0; from < len(lines); from += 500 {
		ld := plog.NewLogs()
		rl := ld.ResourceLogs().AppendEmpty()
		rl.Resource().Attributes().PutStr("k8s.pod.name", "pod-1")
		rl.Resource().Attributes().PutStr("authorization", evidencetest.Secret)
		records := rl.ScopeLogs().AppendEmpty().LogRecords()
		for i, line := range lines[from:min(len(lines), from+500)] {
			lr := records.AppendEmpty()
			lr.SetObservedTimestamp(1)
			lr.Body().SetStr(line)
			lr.Attributes().PutStr("log.file.path", path)
			lr.Attributes().PutInt("log.file.record_offset", int64(from+i))
			lr.Attributes().PutStr("cookie", evidencetest.Secret)
			if source != "" {
				lr.Attributes().PutStr(semconv.EvidenceSource, source)
			}
		}
		require.NoError(t, s.logs.ConsumeLogs(t.Context(), ld))
	}
	return len(lines)
}
