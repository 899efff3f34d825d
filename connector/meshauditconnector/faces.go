package meshauditconnector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pipeline"
	"go.opentelemetry.io/otel/metric"

	"github.com/meshaudit/meshaudit/connector/meshauditconnector/internal/metadata"
	"github.com/meshaudit/meshaudit/internal/clerk"
	"github.com/meshaudit/meshaudit/internal/evidence"
)

// The Collector makes one face for each pair of signals, whatever the number
// of pipelines: logs to logs, traces to traces, traces to logs, metrics to logs.
// Evidence passes through the first two. Records can leave through every face
// that ends in logs, so whichever of those starts first begins to make them, and
// the last to stop ends it: until then the pipelines behind them run. Spans that
// are held leave through the second, until that stops.

// shared is what the faces of one component id have in common.
type shared struct {
	clerk.Shared
	traces atomic.Bool // a face from traces to traces was created

	mu      sync.Mutex
	records int // faces that end in logs and are started
}

// face is one pair of signals' end of the clerk.
type face struct {
	clerk.Face
	set connector.Settings
	cfg *Config
}

func (f *face) open() (*clerk.Clerk, error) {
	return f.Open(&f.cfg.shared.Shared, func() (*clerk.Clerk, error) {
		t, err := metadata.NewTelemetryBuilder(f.set.TelemetrySettings)
		if err != nil {
			return nil, err
		}
		c, err := clerk.New(clerk.Setup{
			Config: &f.cfg.Config, Scope: metadata.ScopeName, Logger: f.set.Logger, Permanent: consumererror.IsPermanent,
			Telemetry: clerk.Telemetry{
				Amendments: t.MeshauditAmendments, Credentials: t.MeshauditCredentials, Evidence: t.MeshauditEvidence, Findings: t.MeshauditFindings, Lag: t.MeshauditLag,
				Records: t.MeshauditRecords, RecordsRefused: t.MeshauditRecordsRefused, Redacted: t.MeshauditRedacted,
				RefusedLines: t.MeshauditRefusedLines, FindingsMissed: t.MeshauditFindingsMissed, EnrichedSpans: t.MeshauditEnrichedSpans, DroppedSpans: t.MeshauditDroppedSpans, Observed: t,
			},
		})
		if err != nil {
			return nil, err
		}
		err = t.RegisterMeshauditHeldSpansBytesCallback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(c.HeldSpansBytes())
			return nil
		})
		if err != nil {
			c.Close()
			return nil, err
		}
		return c, nil
	})
}

// setting is a list of pipelines in the configuration.
type setting struct {
	name string
	ids  []pipeline.ID
}

// check compares the pipelines of a signal that the settings name with those
// that receive from the connector.
func (f *face) check(signal pipeline.Signal, receive []pipeline.ID, settings ...setting) error {
	var named []pipeline.ID
	var names []string
	for _, s := range settings {
		names = append(names, "`"+s.name+"`")
		for _, id := range s.ids {
			if id.Signal() == signal && !slices.Contains(receive, id) {
				return fmt.Errorf("`%s` names %s, which does not receive from %s: add %s to the receivers of that pipeline", s.name, id, f.set.ID, f.set.ID)
			}
		}
		named = append(named, s.ids...)
	}
	for _, id := range receive {
		if !slices.Contains(named, id) {
			return fmt.Errorf("%s receives from %s and would get nothing: name it in %s", id, f.set.ID, strings.Join(names, " or "))
		}
	}
	return nil
}

var errNoRouter = errors.New("meshaudit: this Collector does not let a connector choose between pipelines")

// reporterOf is what a receiver of ours saw of its peer.
func reporterOf(ctx context.Context) *evidence.Reporter {
	if r, ok := client.FromContext(ctx).Auth.(evidence.Reporter); ok {
		return &r
	}
	return nil
}

// recordsFace is a face that ends in logs.
type recordsFace struct {
	face
	next   consumer.Logs // a connector.LogsRouterAndConsumer
	replay clerk.Replay
}

func (f *recordsFace) start(ctx context.Context) error {
	router, ok := f.next.(connector.LogsRouterAndConsumer)
	if !ok {
		return errNoRouter
	}
	err := f.check(pipeline.SignalLogs, router.PipelineIDs(), setting{"evidence", f.cfg.Evidence}, setting{"records", f.cfg.Records})
	if err != nil {
		return err
	}
	if traces := append(f.cfg.evidence(pipeline.SignalTraces), f.cfg.Spans...); len(traces) > 0 && !f.cfg.shared.traces.Load() {
		return fmt.Errorf("%s is named, but no spans come: add %s to the exporters of a traces pipeline, or take it out", traces[0], f.set.ID)
	}
	records, err := router.Consumer(f.cfg.Records...)
	if err != nil {
		return err
	}
	c, err := f.open()
	if err != nil {
		return err
	}
	f.cfg.shared.mu.Lock()
	defer f.cfg.shared.mu.Unlock()
	if f.cfg.shared.records++; f.cfg.shared.records == 1 {
		c.Record(ctx, records.ConsumeLogs, f.replay)
	}
	return nil
}

func (f *recordsFace) Shutdown(ctx context.Context) (err error) {
	c, stopped := f.Clerk()
	if stopped != nil {
		return nil // never started, or stopped already
	}
	f.cfg.shared.mu.Lock()
	defer f.cfg.shared.mu.Unlock()
	if f.cfg.shared.records--; f.cfg.shared.records == 0 {
		err = c.Stop(ctx)
	}
	f.Close()
	return err
}

// logsFace passes evidence from logs pipelines on.
type logsFace struct {
	recordsFace
	evidence consumer.Logs
}

func (*logsFace) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: true}
}

func (f *logsFace) Start(ctx context.Context, _ component.Host) error {
	ids := f.cfg.evidence(pipeline.SignalLogs)
	if len(ids) == 0 {
		return fmt.Errorf("logs come to %s, but `evidence` names no logs pipeline to seal them", f.set.ID)
	}
	if err := f.start(ctx); err != nil {
		return err
	}
	var err error
	f.evidence, err = f.next.(connector.LogsRouterAndConsumer).Consumer(ids...)
	return err
}

func (f *logsFace) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	c, err := f.Clerk()
	if err != nil {
		return err
	}
	return c.Logs(ctx, reporterOf(ctx), ld, f.evidence.ConsumeLogs)
}

// tracesFace passes evidence from traces pipelines on.
type tracesFace struct {
	face
	next     consumer.Traces // a connector.TracesRouterAndConsumer
	evidence consumer.Traces
}

func (*tracesFace) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: true}
}

func (f *tracesFace) Start(context.Context, component.Host) error {
	router, ok := f.next.(connector.TracesRouterAndConsumer)
	if !ok {
		return errNoRouter
	}
	ids := f.cfg.evidence(pipeline.SignalTraces)
	if len(ids) == 0 {
		return fmt.Errorf("spans come to %s, but `evidence` names no traces pipeline to seal them", f.set.ID)
	}
	err := f.check(pipeline.SignalTraces, router.PipelineIDs(), setting{"evidence", f.cfg.Evidence}, setting{"spans", f.cfg.Spans})
	if err != nil {
		return err
	}
	if f.evidence, err = router.Consumer(ids...); err != nil {
		return err
	}
	var spans consumer.Traces
	if len(f.cfg.Spans) > 0 {
		if spans, err = router.Consumer(f.cfg.Spans...); err != nil {
			return err
		}
	}
	c, err := f.open()
	if err == nil && spans != nil {
		c.HoldSpans(spans.ConsumeTraces, f.cfg.MaxHeldSpansBytes)
	}
	return err
}

func (f *tracesFace) Shutdown(ctx context.Context) error {
	c, stopped := f.Clerk()
	if stopped != nil {
		return nil // never started, or stopped already
	}
	err := c.ReleaseSpans(ctx)
	f.Close()
	return err
}

func (f *tracesFace) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	c, err := f.Clerk()
	if err != nil {
		return err
	}
	return c.Traces(ctx, reporterOf(ctx), td, f.evidence.ConsumeTraces)
}

// tracesRecordsFace is where records can leave if there are spans alone; the
// spans themselves pass through tracesFace.
type tracesRecordsFace struct{ recordsFace }

func (*tracesRecordsFace) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (f *tracesRecordsFace) Start(ctx context.Context, _ component.Host) error {
	if !f.cfg.shared.traces.Load() {
		return fmt.Errorf("spans come to %s, but it is the receiver of no traces pipeline to seal them: name one in `evidence`", f.set.ID)
	}
	return f.start(ctx)
}

func (*tracesRecordsFace) ConsumeTraces(context.Context, ptrace.Traces) error { return nil }

// metricsFace reads the counters of the proxies' access loggers. Metrics end
// here.
type metricsFace struct{ recordsFace }

func (*metricsFace) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (f *metricsFace) Start(ctx context.Context, _ component.Host) error { return f.start(ctx) }

func (f *metricsFace) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	c, err := f.Clerk()
	if err != nil {
		return err
	}
	return c.Metrics(ctx, md, func(context.Context, pmetric.Metrics) error { return nil })
}
