package meshauditprocessor

import (
	"context"

	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/meshaudit/meshaudit/internal/clerk"
	"github.com/meshaudit/meshaudit/internal/evidence"
)

// reporterOf is what a receiver of ours saw of its peer.
func reporterOf(ctx context.Context) *evidence.Reporter {
	if r, ok := client.FromContext(ctx).Auth.(evidence.Reporter); ok {
		return &r
	}
	return nil
}

// tracesFace is the processor in a traces pipeline.
type tracesFace struct {
	face
	next consumer.Traces
}

func (*tracesFace) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: true}
}

func (f *tracesFace) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	c, err := f.Clerk()
	if err != nil {
		return err
	}
	return c.Traces(ctx, reporterOf(ctx), td, f.next.ConsumeTraces)
}

// logsFace is the processor in a logs pipeline. Records leave through it.
type logsFace struct {
	face
	next    consumer.Logs
	replay  clerk.Replay
	records bool // leave through this one
}

func (*logsFace) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: true}
}

func (f *logsFace) Start(ctx context.Context, _ component.Host) error {
	c, err := f.open()
	if err != nil {
		return err
	}
	if f.cfg.tags() {
		return nil // no records come of it
	}
	if !c.Record(ctx, f.next.ConsumeLogs, f.replay) {
		f.Close()
		return errTwoLogs(f.set.ID)
	}
	f.records = true
	return nil
}

func (f *logsFace) Shutdown(ctx context.Context) error {
	c, err := f.Clerk()
	if err != nil {
		return nil // never started, or stopped already
	}
	if f.records {
		err = c.Stop(ctx)
	}
	f.Close()
	return err
}

func (f *logsFace) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	c, err := f.Clerk()
	if err != nil {
		return err
	}
	return c.Logs(ctx, reporterOf(ctx), ld, f.next.ConsumeLogs)
}

// metricsFace is the processor in a metrics pipeline: it reads the counters of
// the proxies' access loggers and passes everything on as it is.
type metricsFace struct {
	face
	next consumer.Metrics
}

func (*metricsFace) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: false}
}

func (f *metricsFace) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	c, err := f.Clerk()
	if err != nil {
		return err
	}
	return c.Metrics(ctx, md, f.next.ConsumeMetrics)
}
