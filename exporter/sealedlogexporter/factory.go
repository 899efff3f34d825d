package sealedlogexporter

import (
	"context"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/meshaudit/meshaudit/exporter/sealedlogexporter/internal/metadata"
	"github.com/meshaudit/meshaudit/seal"
)

// NewFactory creates the factory of the sealed_log exporter.
func NewFactory() exporter.Factory {
	f := &factory{writers: map[*Config]*writer{}}
	return exporter.NewFactory(
		metadata.Type,
		func() component.Config { return createDefaultConfig() },
		exporter.WithLogs(f.createLogs, metadata.LogsStability),
		exporter.WithTraces(f.createTraces, metadata.TracesStability),
		exporter.WithMetrics(f.createMetrics, metadata.MetricsStability),
	)
}

// factory hands the same writer to the exporters of one component id, which
// the collector creates one for each signal, with one configuration.
type factory struct {
	mu      sync.Mutex
	writers map[*Config]*writer
}

func (f *factory) writer(set exporter.Settings, cfg component.Config) *writer {
	c := cfg.(*Config)
	f.mu.Lock()
	defer f.mu.Unlock()
	w, ok := f.writers[c]
	if !ok {
		w = newWriter(c, set.TelemetrySettings)
		f.writers[c] = w
	}
	return w
}

// options: no queue, no retry and no timeout. Callers wait in the writer's own
// group commit, and each is told how its own request ended.
func options(w *writer) []exporterhelper.Option {
	f := &face{writer: w}
	return []exporterhelper.Option{
		exporterhelper.WithCapabilities(consumer.Capabilities{MutatesData: false}),
		exporterhelper.WithTimeout(exporterhelper.TimeoutConfig{Timeout: 0}),
		exporterhelper.WithStart(f.start),
		exporterhelper.WithShutdown(f.shutdown),
	}
}

func (f *factory) createLogs(ctx context.Context, set exporter.Settings, cfg component.Config) (exporter.Logs, error) {
	w := f.writer(set, cfg)
	m := &plog.ProtoMarshaler{}
	return exporterhelper.NewLogs(ctx, set, cfg, func(ctx context.Context, d plog.Logs) error {
		msg, err := m.MarshalLogs(d)
		return w.append(ctx, seal.SignalLogs, msg, err)
	}, options(w)...)
}

func (f *factory) createTraces(ctx context.Context, set exporter.Settings, cfg component.Config) (exporter.Traces, error) {
	w := f.writer(set, cfg)
	m := &ptrace.ProtoMarshaler{}
	return exporterhelper.NewTraces(ctx, set, cfg, func(ctx context.Context, d ptrace.Traces) error {
		msg, err := m.MarshalTraces(d)
		return w.append(ctx, seal.SignalTraces, msg, err)
	}, options(w)...)
}

func (f *factory) createMetrics(ctx context.Context, set exporter.Settings, cfg component.Config) (exporter.Metrics, error) {
	w := f.writer(set, cfg)
	m := &pmetric.ProtoMarshaler{}
	return exporterhelper.NewMetrics(ctx, set, cfg, func(ctx context.Context, d pmetric.Metrics) error {
		msg, err := m.MarshalMetrics(d)
		return w.append(ctx, seal.SignalMetrics, msg, err)
	}, options(w)...)
}
