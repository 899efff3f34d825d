package meshauditprocessor

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/ledger"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/processor/meshauditprocessor/internal/metadata"
)

const envoyNode = "sidecar~10.0.0.1~orders-1.shop~shop.svc.cluster.local"

// counters are a proxy's, as a Prometheus scrape gives them.
func counters(at time.Time, written, dropped int64) pmetric.Metrics {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("k8s.namespace.name", "shop")
	rm.Resource().Attributes().PutStr("k8s.pod.name", "orders-1")
	metrics := rm.ScopeMetrics().AppendEmpty().Metrics()
	for name, v := range map[string]int64{
		"envoy_access_logs_grpc_access_log_logs_written_total": written,
		"access_logs.grpc_access_log.logs_dropped":             dropped,
		"envoy_cluster_upstream_rq_total":                      7,
	} {
		m := metrics.AppendEmpty()
		m.SetName(name)
		sum := m.SetEmptySum()
		sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		p := sum.DataPoints().AppendEmpty()
		p.SetTimestamp(pcommon.NewTimestampFromTime(at))
		p.SetIntValue(v)
	}
	return md
}

// What a proxy counts and what never came is sealed as gaps, also if the
// pipeline refuses them at first; what came is not.
func TestLedgerSealsGaps(t *testing.T) {
	p := newPair(t, createDefaultConfig())
	metricsSink := new(consumertest.MetricsSink)
	set := processortest.NewNopSettings(metadata.Type)
	set.ID = testID
	metrics, err := NewFactory().CreateMetrics(t.Context(), set, p.cfg, metricsSink)
	require.NoError(t, err)
	p.start(t)
	require.NoError(t, metrics.Start(t.Context(), componenttest.NewNopHost()))
	defer func() {
		require.NoError(t, metrics.Shutdown(t.Context()))
		p.stop(t)
	}()
	receive := func(n int, auth client.AuthData) {
		var all []evidence.Evidence
		for range n {
			all = append(all, evidence.Evidence{Source: evidence.SourceEnvoyALS, Role: evidence.RoleCallee, Reporter: evidence.Reporter{Node: envoyNode}})
		}
		ctx := client.NewContext(t.Context(), client.Info{Auth: auth})
		require.NoError(t, p.logs.ConsumeLogs(ctx, logOf(all...)))
	}
	now := time.Now()
	receive(10, evidence.Reporter{Node: envoyNode})
	require.NoError(t, metrics.ConsumeMetrics(t.Context(), counters(now, 10, 2)))
	receive(15, evidence.Reporter{Node: envoyNode})
	receive(100, nil) // says over OTLP to be Envoy's: does not count
	refused := make(chan struct{}, 100)
	p.sink.refusing(func(plog.Logs) error { refused <- struct{}{}; return errors.New("busy") })
	require.NoError(t, metrics.ConsumeMetrics(t.Context(), counters(now.Add(15*time.Second), 30, 5)))
	require.NoError(t, metrics.ConsumeMetrics(t.Context(), counters(now.Add(30*time.Second), 30, 5)))
	<-refused
	p.sink.refusing(nil)

	gaps := map[string]plog.LogRecord{}
	require.Eventually(t, func() bool {
		for _, lr := range p.sink.records() {
			if lr.EventName() == semconv.EventEvidenceGap {
				gaps[attr(t, lr, semconv.GapReason)] = lr
			}
		}
		return len(gaps) == 2
	}, 20*time.Second, 10*time.Millisecond)
	require.Equal(t, "3", attr(t, gaps[ledger.ReasonDropped], semconv.GapCount))
	require.Equal(t, "5", attr(t, gaps[ledger.ReasonNotReceived], semconv.GapCount))
	require.Equal(t, envoyNode, attr(t, gaps[ledger.ReasonNotReceived], semconv.EvidenceReporterNode))
	require.Len(t, attr(t, gaps[ledger.ReasonNotReceived], semconv.AuditRecordID), 64)
	require.Len(t, metricsSink.AllMetrics(), 3, "metrics pass through")
}
