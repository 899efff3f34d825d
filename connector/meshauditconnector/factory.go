package meshauditconnector

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer"

	"github.com/meshaudit/meshaudit/connector/meshauditconnector/internal/metadata"
	"github.com/meshaudit/meshaudit/internal/clerk"
)

// NewFactory returns the factory of the meshaudit connector.
func NewFactory() connector.Factory {
	return connector.NewFactory(
		metadata.Type,
		func() component.Config { return createDefaultConfig() },
		connector.WithLogsToLogs(createLogsToLogs, metadata.LogsToLogsStability),
		connector.WithTracesToTraces(createTracesToTraces, metadata.TracesToTracesStability),
		connector.WithTracesToLogs(createTracesToLogs, metadata.TracesToLogsStability),
		connector.WithMetricsToLogs(createMetricsToLogs, metadata.MetricsToLogsStability),
	)
}

func createLogsToLogs(_ context.Context, set connector.Settings, cfg component.Config, next consumer.Logs) (connector.Logs, error) {
	return &logsFace{recordsFace: recordsOf(set, cfg, next)}, nil
}

func createTracesToTraces(_ context.Context, set connector.Settings, cfg component.Config, next consumer.Traces) (connector.Traces, error) {
	c := cfg.(*Config)
	c.shared.traces.Store(true)
	return &tracesFace{face: face{set: set, cfg: c}, next: next}, nil
}

func createTracesToLogs(_ context.Context, set connector.Settings, cfg component.Config, next consumer.Logs) (connector.Traces, error) {
	return &tracesRecordsFace{recordsOf(set, cfg, next)}, nil
}

func createMetricsToLogs(_ context.Context, set connector.Settings, cfg component.Config, next consumer.Logs) (connector.Metrics, error) {
	return &metricsFace{recordsOf(set, cfg, next)}, nil
}

func recordsOf(set connector.Settings, cfg component.Config, next consumer.Logs) recordsFace {
	return recordsFace{face: face{set: set, cfg: cfg.(*Config)}, next: next, replay: clerk.ReplayStore}
}
