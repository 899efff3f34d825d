package distribution

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	alv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
)

const meshConfig = `
extensions:
  health_check: {endpoint: "%[1]s"}
receivers:
  otlp: {protocols: {grpc: {endpoint: "%[2]s"}}}
  envoy_access_log: {endpoint: "%[3]s"}
  opa_decision_log: {endpoint: "%[4]s"}
  k8s_audit: {endpoint: "%[5]s", trust_domain: cluster.local}
  file_log/ztunnel: &container
    include: [%[6]s/istio-system_ztunnel-*/istio-proxy/*.log]
    include_file_path: true
    include_file_record_offset: true
    start_at: beginning
    poll_interval: 50ms
    retry_on_failure: {enabled: true, max_elapsed_time: 0s}
    operators: [{type: container}]
    attributes: {mesh.evidence.source: ztunnel}
  file_log/istio:
    <<: *container
    include: [%[6]s/*/istio-proxy/*.log]
    exclude: [%[6]s/istio-system_ztunnel-*/istio-proxy/*.log]
    attributes: {mesh.evidence.source: envoy_text}
processors:
  meshaudit:
    window: %[7]s
    settle: %[8]s
    max_pending: 1000000
    max_pending_bytes: 1000000000
    findings:
      trust_domains: [cluster.local]
      must_decide: ["/admin/*"]
      decision_wait: 10m
exporters:
  sealed_log:
    directory: %[9]s
    keys: {create: true}
service:
  extensions: [health_check]
  pipelines:
    traces: {receivers: [otlp], processors: [meshaudit], exporters: [sealed_log]}
    logs: {receivers: [otlp, envoy_access_log, opa_decision_log, k8s_audit, file_log/ztunnel, file_log/istio], processors: [meshaudit], exporters: [sealed_log]}
  telemetry: {metrics: {level: none}}
`

type alsStream = grpc.ClientStreamingClient[alsv3.StreamAccessLogsMessage, alsv3.StreamAccessLogsResponse]

// A player sends a world's events to a collector.
type player struct {
	t       *testing.T
	w       *world
	otlp    *grpc.ClientConn
	streams map[*pod]alsStream
	als     alsv3.AccessLogServiceClient
	opa     string
	k8s     string
	files   string
	offsets map[string]int // of files, how long they are
	sent    int
}

// play sends them as they happened, at the pace that scaled gives; what is due after
// the end (decisions that OPA keeps for minutes) at once.
func (p *player) play(scaled func(time.Duration) time.Duration) {
	begin := time.Now()
	for events := p.w.events; len(events) > 0; {
		at := events[0].at
		if wait := time.Until(begin.Add(scaled(at))); wait > 0 && at < p.w.length {
			select {
			case <-time.After(wait):
			case <-p.t.Context().Done():
				p.t.Fatal(p.t.Context().Err())
			}
		}
		n := 0
		for n < len(events) && scaled(events[n].at-at) < 50*time.Millisecond {
			n++
		}
		p.tick(events[:n])
		events = events[n:]
	}
	for _, s := range p.streams {
		if _, err := s.CloseAndRecv(); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *player) tick(events []event) {
	type to struct {
		channel string
		sender  any
	}
	var order []to
	loads := map[to][]any{}
	for _, e := range events {
		k := to{e.channel, e.sender}
		if loads[k] == nil {
			order = append(order, k)
		}
		loads[k] = append(loads[k], e.load)
	}
	for _, k := range order {
		switch k.channel {
		case byALS:
			p.sendALS(k.sender.(*pod), loads[k])
		case byOTLP:
			p.sendOTLP(k.sender.(*pod), loads[k])
		case "spans":
			p.sendSpans(k.sender.(*pod), loads[k])
		case "file":
			p.write(k.sender.(string), loads[k])
		case "opa":
			p.post(p.opa+"/logs", loads[k])
		case "k8s":
			p.post(p.k8s+"/k8s-audit", map[string]any{"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": loads[k]})
		}
		p.sent += len(loads[k])
	}
}

func (p *player) sendALS(from *pod, entries []any) {
	m := &alsv3.StreamAccessLogsMessage{}
	s := p.streams[from]
	if s == nil {
		var err error
		if s, err = p.als.StreamAccessLogs(p.t.Context()); err != nil {
			p.t.Fatal(err)
		}
		p.streams[from] = s
		m.Identifier = &alsv3.StreamAccessLogsMessage_Identifier{Node: from.envoyNode(), LogName: "meshaudit"}
	}
	var tcp []*alv3.TCPAccessLogEntry
	var http []*alv3.HTTPAccessLogEntry
	for _, e := range entries {
		switch e := e.(type) {
		case *alv3.TCPAccessLogEntry:
			tcp = append(tcp, e)
		case *alv3.HTTPAccessLogEntry:
			http = append(http, e)
		}
	}
	if len(http) > 0 {
		m.LogEntries = &alsv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: http}}
		if err := s.Send(m); err != nil {
			p.t.Fatal(err)
		}
		m = &alsv3.StreamAccessLogsMessage{}
	}
	if len(tcp) > 0 {
		m.LogEntries = &alsv3.StreamAccessLogsMessage_TcpLogs{TcpLogs: &alsv3.StreamAccessLogsMessage_TCPAccessLogEntries{LogEntry: tcp}}
		if err := s.Send(m); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *player) sendOTLP(from *pod, loads []any) {
	logs := plog.NewLogs()
	rl := logs.ResourceLogs().AppendEmpty()
	a := rl.Resource().Attributes()
	a.PutStr("log_name", "meshaudit")
	a.PutStr("zone_name", "")
	a.PutStr("cluster_name", from.service.name+"."+from.namespace)
	a.PutStr("node_name", from.nodeID())
	records := rl.ScopeLogs().AppendEmpty().LogRecords()
	for _, l := range loads {
		l.(func(plog.LogRecord))(records.AppendEmpty())
	}
	if _, err := plogotlp.NewGRPCClient(p.otlp).Export(p.t.Context(), plogotlp.NewExportRequestFromLogs(logs)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *player) sendSpans(from *pod, loads []any) {
	traces := ptrace.NewTraces()
	for _, l := range loads {
		rs := traces.ResourceSpans().AppendEmpty()
		s := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		l.(func(ptrace.Span))(s)
		_, proxy := s.Attributes().Get("component")
		resource(rs.Resource().Attributes(), from, proxy)
	}
	if _, err := ptraceotlp.NewGRPCClient(p.otlp).Export(p.t.Context(), ptraceotlp.NewExportRequestFromTraces(traces)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *player) write(file string, loads []any) {
	path := filepath.Join(p.files, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		p.t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	for _, l := range loads {
		l := l.(logLine)
		l.piece.key = fmt.Sprintf("line %s:%d", path, p.offsets[file])
		n, err := f.WriteString(l.cri())
		if err != nil {
			p.t.Fatal(err)
		}
		p.offsets[file] += n
	}
}

func (p *player) post(url string, v any) {
	var body bytes.Buffer
	z := gzip.NewWriter(&body)
	if err := json.NewEncoder(z).Encode(v); err != nil {
		p.t.Fatal(err)
	}
	z.Close()
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, url, &body)
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Content-Encoding", "gzip")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		p.t.Fatalf("%s answers %s", url, resp.Status)
	}
}

var (
	meshServices = flag.Int("mesh.services", 60, "services of the simulated mesh")
	meshTime     = flag.Duration("mesh.time", time.Minute, "how long it works")
	meshSpeed    = flag.Float64("mesh.speed", 6, "how many times faster it is sent")
	meshRate     = flag.Float64("mesh.rate", 15, "trees of calls that begin each second")
	meshSeed     = flag.Uint64("mesh.seed", 1, "its seed")
)

// A simulated mesh speaks to the collector as real ones do: sidecars, waypoints and
// gateways by the access log service, OpenTelemetry logs and lines, ztunnels, OPA,
// the Kubernetes API server, spans. What is sealed is compared with what
// happened. A join may be missing or wrong only where the record says that it is in
// doubt, and no identity, verdict, initiator or finding may be wrong at all, but for
// one in a thousand.
func TestMesh(t *testing.T) {
	w := newWorld(*meshSeed, *meshServices, *meshTime)
	w.run(*meshRate)
	t.Logf("%d actions, %d pieces of evidence, traps %v", len(w.actions), len(w.pieces), w.traps)

	dir := t.TempDir()
	store, files := filepath.Join(dir, "store"), filepath.Join(dir, "pods")
	ports := freePorts(t, 5)
	scaled := func(d time.Duration) time.Duration { return time.Duration(float64(d) / *meshSpeed) }
	config := writeFile(t, "mesh.yaml", meshConfig, ports[0], ports[1], ports[2], ports[3], ports[4], files,
		scaled(10*time.Second), scaled(time.Second), store)
	c := start(t, collectorBinary(t), config, ports[0])
	p := &player{t: t, w: w, otlp: dial(t, ports[1]), als: alsv3.NewAccessLogServiceClient(dial(t, ports[2])), streams: map[*pod]alsStream{},
		opa: "http://" + ports[3], k8s: "http://" + ports[4], files: files, offsets: map[string]int{}}
	p.play(scaled)
	eventually(t, time.Minute, func() string {
		sealed := 0
		readStore(t, store, func(e *entry) {
			if e.str("mesh.evidence.id") != "" {
				sealed++
			}
		})
		if sealed < p.sent {
			return fmt.Sprintf("%d of %d pieces are sealed", sealed, p.sent)
		}
		return ""
	})
	c.stop(t)

	j := newJudge(t, w)
	j.read(store)
	j.judge()
	all := j.right + j.missing
	t.Logf("precision %.5f, recall %.5f of %d; in doubt: %v", float64(j.right)/float64(j.right+j.wrong), float64(j.right)/float64(all), all, j.marked)
	if j.wrong > all/200 || j.missing > all/100 {
		t.Errorf("%d of %d joins are wrong and %d missing, though in doubt", j.wrong, all, j.missing)
	}
	faults := 0
	for _, n := range j.faults {
		faults += n
	}
	t.Logf("%d faults that no state shows: %v", faults, j.faults)
	if faults > all/1000 {
		t.Errorf("%d faults in %d joins", faults, all)
	}
}
