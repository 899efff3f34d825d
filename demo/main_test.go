package main

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// collector takes what the mesh reports, as the real one would.
type collector struct {
	alsv3.UnimplementedAccessLogServiceServer
	coltrace.UnimplementedTraceServiceServer

	refuse string // als, otlp or opa: this one fails

	mu        sync.Mutex
	streams   []nodeLog
	decisions []decision
	spans     []*tracev1.Span
}

type nodeLog struct {
	node    string
	entries []*accesslogv3.HTTPAccessLogEntry
}

type decision struct {
	ID      string `json:"decision_id"`
	Bundles map[string]struct {
		Revision string `json:"revision"`
	} `json:"bundles"`
	Result struct {
		Allowed bool   `json:"allowed"`
		Reason  string `json:"reason"`
	} `json:"result"`
	Input struct {
		Attributes struct {
			Source, Destination struct {
				Principal string `json:"principal"`
			}
			Request struct {
				HTTP struct {
					Method, Path string
				}
			}
		}
	} `json:"input"`
}

func startCollector(t *testing.T, refuse string) (*collector, endpoints) {
	t.Helper()
	c := &collector{refuse: refuse}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	alsv3.RegisterAccessLogServiceServer(server, c)
	coltrace.RegisterTraceServiceServer(server, c)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	web := httptest.NewServer(http.HandlerFunc(c.upload))
	t.Cleanup(func() {
		web.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return c, endpoints{otlp: listener.Addr().String(), als: listener.Addr().String(), opa: web.URL}
}

func (c *collector) StreamAccessLogs(stream grpc.ClientStreamingServer[alsv3.StreamAccessLogsMessage, alsv3.StreamAccessLogsResponse]) error {
	if c.refuse == "als" {
		return status.Error(codes.PermissionDenied, "no access logs today")
	}
	var log nodeLog
	for first := true; ; first = false {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.streams = append(c.streams, log)
			return stream.SendAndClose(&alsv3.StreamAccessLogsResponse{})
		}
		if err != nil {
			return err
		}
		if (message.Identifier != nil) != first {
			return status.Error(codes.InvalidArgument, "the node belongs into the first message and only there")
		}
		if first {
			log.node = message.Identifier.Node.Id
		}
		log.entries = append(log.entries, message.GetHttpLogs().GetLogEntry()...)
	}
}

func (c *collector) Export(_ context.Context, r *coltrace.ExportTraceServiceRequest) (*coltrace.ExportTraceServiceResponse, error) {
	if c.refuse == "otlp" {
		return nil, status.Error(codes.InvalidArgument, "no spans today")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range r.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
	return &coltrace.ExportTraceServiceResponse{}, nil
}

func (c *collector) upload(w http.ResponseWriter, r *http.Request) {
	if c.refuse == "opa" {
		http.Error(w, "no decisions today", http.StatusForbidden)
		return
	}
	var got []decision
	unzipped, err := gzip.NewReader(r.Body)
	if err == nil {
		err = json.NewDecoder(unzipped).Decode(&got)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.decisions = append(c.decisions, got...)
}

func runStory(t *testing.T, to endpoints) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out strings.Builder
	err := run(ctx, to, &out)
	return out.String(), err
}

// report is one access log entry with what the tests ask of it.
type report struct {
	*accesslogv3.HTTPAccessLogEntry
	node    string
	inbound bool
	traceID string
	spanID  string
	peer    string // SPIFFE ID in the certificate of who called
	verdict *decision
}

func (c *collector) reports(t *testing.T) []report {
	t.Helper()
	verdicts := map[string]*decision{}
	for i := range c.decisions {
		verdicts[c.decisions[i].ID] = &c.decisions[i]
	}
	var reports []report
	for _, stream := range c.streams {
		for _, entry := range stream.entries {
			common := entry.CommonProperties
			parts := strings.Split(entry.Request.RequestHeaders["traceparent"], "-")
			if len(parts) != 4 {
				t.Fatalf("entry without traceparent: %v", entry)
			}
			r := report{
				HTTPAccessLogEntry: entry,
				node:               stream.node,
				inbound:            strings.HasPrefix(common.UpstreamCluster, "inbound|"),
				traceID:            parts[1],
				spanID:             parts[2],
			}
			if names := common.GetTlsProperties().GetPeerCertificateProperties().GetSubjectAltName(); len(names) > 0 {
				r.peer = names[0].GetUri()
			}
			if ext := common.GetMetadata().GetFilterMetadata()["envoy.filters.http.ext_authz"]; ext != nil {
				r.verdict = verdicts[ext.Fields["decision_id"].GetStringValue()]
			}
			reports = append(reports, r)
		}
	}
	// In the order in which the calls began.
	slices.SortFunc(reports, func(a, b report) int {
		return a.CommonProperties.StartTime.AsTime().Compare(b.CommonProperties.StartTime.AsTime())
	})
	return reports
}

func (r report) status() int { return int(r.Response.ResponseCode.GetValue()) }

func TestStory(t *testing.T) {
	c, to := startCollector(t, "")
	out, err := runStory(t, to)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	reports := c.reports(t)

	// Eight requests from outside make 26 calls; the callee's sidecar reports
	// each, the caller's those that come from inside.
	const fromOutside, calls = 8, 26
	if got, want := len(reports), calls+calls-fromOutside; got != want {
		t.Errorf("got %d access log entries, want %d", got, want)
	}
	if got := len(c.decisions); got != calls {
		t.Errorf("got %d decisions, want %d", got, calls)
	}
	if got := strings.Count(out, " trace "); got != fromOutside {
		t.Errorf("the story tells of %d requests, want %d:\n%s", got, fromOutside, out)
	}

	clientSpans, serverParents := map[string]*tracev1.Span{}, map[string]*tracev1.Span{}
	for _, span := range c.spans {
		switch span.Kind {
		case tracev1.Span_SPAN_KIND_CLIENT:
			clientSpans[hex.EncodeToString(span.SpanId)] = span
		case tracev1.Span_SPAN_KIND_SERVER:
			serverParents[hex.EncodeToString(span.ParentSpanId)] = span
		}
	}

	var served, callers int
	streams := map[string]bool{}
	for _, r := range reports {
		if id := r.CommonProperties.StreamId; id == "" || streams[id] {
			t.Errorf("stream id %q is not unique", id)
		} else {
			streams[id] = true
		}
		if r.Request.RequestId == "" {
			t.Errorf("%s: no request id", r.Request.Path)
		}
		if !r.inbound {
			callers++
			if span := clientSpans[r.spanID]; span == nil || hex.EncodeToString(span.TraceId) != r.traceID {
				t.Errorf("%s %s: the caller's report names no client span", r.node, r.Request.Path)
			}
			continue
		}
		switch {
		case r.verdict == nil:
			t.Errorf("%s %s: the callee's report names no uploaded decision", r.node, r.Request.Path)
		case r.verdict.Input.Attributes.Source.Principal != r.peer:
			t.Errorf("decided for %q, the certificate says %q", r.verdict.Input.Attributes.Source.Principal, r.peer)
		case !r.verdict.Result.Allowed:
			if r.status() != http.StatusForbidden || r.Response.ResponseCodeDetails != "ext_authz_denied" {
				t.Errorf("denied, yet answered %d %s", r.status(), r.Response.ResponseCodeDetails)
			}
		default:
			served++
			if span := serverParents[r.spanID]; span == nil || hex.EncodeToString(span.TraceId) != r.traceID {
				t.Errorf("%s %s: no server span under the span that the callee's report names", r.node, r.Request.Path)
			}
		}
		if gateway := strings.Contains(r.node, "~gateway-"); gateway != (r.peer == "") {
			t.Errorf("%s: called by %q", r.node, r.peer)
		}
	}
	const denied = 3
	if served != calls-denied || callers != calls-fromOutside {
		t.Errorf("%d calls were served and %d reported by callers, want %d and %d", served, callers, calls-denied, calls-fromOutside)
	}
	if len(serverParents) != served || len(clientSpans) != callers {
		t.Errorf("got %d server and %d client spans, want %d and %d", len(serverParents), len(clientSpans), served, callers)
	}
}

func TestStoryTellsWhatItPromises(t *testing.T) {
	c, to := startCollector(t, "")
	if out, err := runStory(t, to); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const shop = "spiffe://shop.example/ns/shop/sa/"

	var spoofed, cancelled, charges []report
	for _, r := range c.reports(t) {
		if !r.inbound {
			continue
		}
		if r.Request.RequestHeaders["x-spiffe-id"] == shop+"orders" {
			spoofed = append(spoofed, r)
		}
		if r.Request.RequestMethod.String() == http.MethodDelete && strings.Contains(r.node, "~orders-") {
			cancelled = append(cancelled, r)
		}
		if r.Request.Path == "/charges" {
			charges = append(charges, r)
		}
	}

	var peers []string
	for _, r := range spoofed {
		peers = append(peers, r.peer)
	}
	if got, want := strings.Join(peers, " "), " "+shop+"gateway "+shop+"frontend"; got != want {
		t.Errorf("the spoofed header came from %q, want %q", got, want)
	}
	if last := spoofed[len(spoofed)-1]; last.status() != http.StatusForbidden {
		t.Errorf("payments answered the spoofed request with %d", last.status())
	}

	if len(cancelled) != 2 {
		t.Fatalf("got %d cancellations at orders, want 2", len(cancelled))
	}
	for i, want := range []struct {
		revision string
		allowed  bool
	}{{"revision-1", true}, {"revision-2", false}} {
		got := cancelled[i].verdict
		if got.Bundles["shop"].Revision != want.revision || got.Result.Allowed != want.allowed {
			t.Errorf("cancellation %d: decided %+v, want %+v", i, got, want)
		}
	}

	if len(charges) != 3 {
		t.Fatalf("got %d charges, want 3: one, and one with its retry", len(charges))
	}
	first, second := charges[1], charges[2]
	if first.status() != http.StatusServiceUnavailable || second.status() != http.StatusOK {
		t.Errorf("the attempts were answered %d and %d", first.status(), second.status())
	}
	if first.Request.RequestId != second.Request.RequestId || first.spanID == second.spanID {
		t.Error("a retry wants the same request id and another span")
	}
	var resent int
	for _, span := range c.spans {
		for _, attribute := range span.Attributes {
			if attribute.Key == "http.request.resend_count" {
				resent++
				if hex.EncodeToString(span.SpanId) != second.spanID || attribute.Value.GetIntValue() != 1 {
					t.Errorf("http.request.resend_count is on another span: %v", span)
				}
			}
		}
	}
	if resent != 1 {
		t.Errorf("%d spans carry http.request.resend_count, want 1", resent)
	}
}

// A report that is not taken must not look like success.
func TestRunFailsWhenReportsAreRefused(t *testing.T) {
	for refuse, want := range map[string]string{
		"als":  "no access logs today",
		"otlp": "no spans today",
		"opa":  "upload decisions to",
	} {
		t.Run(refuse, func(t *testing.T) {
			_, to := startCollector(t, refuse)
			_, err := runStory(t, to)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Fatalf("got %v, want an error with %q", err, want)
			}
		})
	}
}

func TestRunNamesTheEndpointThatDoesNotAnswer(t *testing.T) {
	_, to := startCollector(t, "")
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	for want, to := range map[string]endpoints{
		"--otlp: the collector does not answer": {otlp: nobody, als: to.als, opa: to.opa},
		"--als: the collector does not answer":  {otlp: to.otlp, als: nobody, opa: to.opa},
		"--opa: the collector does not answer":  {otlp: to.otlp, als: to.als, opa: "http://" + nobody},
		"--opa: \"here\" is not a URL":          {otlp: to.otlp, als: to.als, opa: "here"},
	} {
		_, err := runStory(t, to)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}
