// Package gateways tests agents and gateways with the real load_balancing
// exporter, and what the documentation shows of contrib's components that are not
// in this distribution.
package gateways

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/connector/routingconnector"
	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/loadbalancingexporter"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/yamlprovider"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/otlpexporter"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"

	"github.com/meshaudit/meshaudit/exporter/sealedlogexporter"
	"github.com/meshaudit/meshaudit/processor/meshauditprocessor"
	"github.com/meshaudit/meshaudit/receiver/envoyaccesslogreceiver"
	"github.com/meshaudit/meshaudit/receiver/opadecisionlogreceiver"
)

// factories are what the tests need of this distribution's components, and
// contrib's that are not in it.
func factories() (otelcol.Factories, error) {
	receivers, err := otelcol.MakeFactoryMap[receiver.Factory](otlpreceiver.NewFactory(), envoyaccesslogreceiver.NewFactory(), opadecisionlogreceiver.NewFactory())
	if err != nil {
		return otelcol.Factories{}, err
	}
	processors, err := otelcol.MakeFactoryMap[processor.Factory](meshauditprocessor.NewFactory())
	if err != nil {
		return otelcol.Factories{}, err
	}
	exporters, err := otelcol.MakeFactoryMap[exporter.Factory](sealedlogexporter.NewFactory(), otlpexporter.NewFactory(), loadbalancingexporter.NewFactory())
	if err != nil {
		return otelcol.Factories{}, err
	}
	connectors, err := otelcol.MakeFactoryMap[connector.Factory](routingconnector.NewFactory())
	return otelcol.Factories{Receivers: receivers, Processors: processors, Exporters: exporters, Connectors: connectors,
		Telemetry: otelconftelemetry.NewFactory()}, err
}

// collector makes a collector of configurations in YAML, each of which is merged
// over those before it.
func collector(t *testing.T, configs ...string) *otelcol.Collector {
	t.Helper()
	uris := make([]string, len(configs))
	for i, c := range configs {
		uris[i] = "yaml:" + c
	}
	col, err := otelcol.NewCollector(otelcol.CollectorSettings{
		BuildInfo: component.NewDefaultBuildInfo(), Factories: factories, DisableGracefulShutdown: true,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			URIs: uris, ProviderFactories: []confmap.ProviderFactory{yamlprovider.NewFactory()},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return col
}

// A process is a running collector.
type process struct {
	*otelcol.Collector
	done chan error
}

func run(t *testing.T, configs ...string) *process {
	t.Helper()
	p := &process{collector(t, configs...), make(chan error, 1)}
	go func() { p.done <- p.Run(context.Background()) }()
	for p.GetState() != otelcol.StateRunning {
		select {
		case err := <-p.done:
			t.Fatalf("the collector ended: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	t.Cleanup(func() { p.stop(t) })
	return p
}

// stop shuts down as SIGTERM does.
func (p *process) stop(t *testing.T) {
	t.Helper()
	if p.done == nil {
		return
	}
	p.Shutdown()
	if err := <-p.done; err != nil {
		t.Error(err)
	}
	p.done = nil
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
