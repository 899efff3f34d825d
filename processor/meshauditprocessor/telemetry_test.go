package meshauditprocessor

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/findings"
	"github.com/meshaudit/meshaudit/processor/meshauditprocessor/internal/metadatatest"
)

func TestTelemetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel := componenttest.NewTelemetry()
		f := NewFactory()
		cfg := createDefaultConfig()
		cfg.MaxPending = 1
		s := new(sink)
		set := metadatatest.NewSettings(tel)
		logs, err := f.CreateLogs(t.Context(), set, cfg, s)
		require.NoError(t, err)
		require.NoError(t, logs.Start(t.Context(), componenttest.NewNopHost()))

		first := calleeReport("1", func(e *evidence.Evidence) { e.DecisionID = "d" })
		require.NoError(t, logs.ConsumeLogs(t.Context(), logOf(first)))
		require.NoError(t, logs.ConsumeLogs(t.Context(), logOf(first)))
		ignore := []metricdatatest.Option{metricdatatest.IgnoreTimestamp()}
		sum := func(n int64, kv ...attribute.KeyValue) []metricdata.DataPoint[int64] {
			return []metricdata.DataPoint[int64]{{Value: n, Attributes: attribute.NewSet(kv...)}}
		}
		// What alerts wait for is there before it happens.
		var none []metricdata.DataPoint[int64]
		for kind, severity := range findings.Kinds {
			none = append(none, sum(0, attribute.String("kind", string(kind)), attribute.String("severity", string(severity)))...)
			if severity != findings.Info { // in doubt
				none = append(none, sum(0, attribute.String("kind", string(kind)), attribute.String("severity", "low"))...)
			}
		}
		metadatatest.AssertEqualMeshauditFindings(t, tel, none, ignore...)
		metadatatest.AssertEqualMeshauditRecordsRefused(t, tel, sum(0), ignore...)
		metadatatest.AssertEqualMeshauditMaxPending(t, tel, sum(1), ignore...)
		metadatatest.AssertEqualMeshauditMaxPendingBytes(t, tel, sum(256<<20), ignore...)
		metadatatest.AssertEqualMeshauditPending(t, tel, sum(1), ignore...)
		metadatatest.AssertEqualMeshauditDuplicates(t, tel, sum(1), ignore...)
		time.Sleep(11 * time.Second)
		require.NoError(t, logs.ConsumeLogs(t.Context(), logOf(decisionReport("d"))))
		time.Sleep(2 * time.Second)

		metadatatest.AssertEqualMeshauditEvidence(t, tel, []metricdata.DataPoint[int64]{
			{Value: 2, Attributes: attribute.NewSet(attribute.String("source", "envoy_als"))},
			{Value: 1, Attributes: attribute.NewSet(attribute.String("source", "opa_decision"))},
		}, ignore...)
		metadatatest.AssertEqualMeshauditRecords(t, tel, []metricdata.DataPoint[int64]{
			{Value: 1, Attributes: attribute.NewSet(attribute.String("event", "mesh.request"), attribute.String("state", "partial"), attribute.String("join", "none"))},
			{Value: 1, Attributes: attribute.NewSet(attribute.String("event", "mesh.amendment"), attribute.String("state", "complete"), attribute.String("join", "decision_id"))},
		}, ignore...)
		metadatatest.AssertEqualMeshauditAmendments(t, tel, sum(1), ignore...)
		metadatatest.AssertEqualMeshauditPending(t, tel, sum(0), ignore...)
		// From the end of the call to its record, which waited for the window; an amendment's counts not.
		lag, err := tel.GetMetric("otelcol_meshaudit_lag")
		require.NoError(t, err)
		points := lag.Data.(metricdata.Histogram[float64]).DataPoints
		require.Len(t, points, 1)
		require.EqualValues(t, 1, points[0].Count)
		require.InDelta(t, 10, points[0].Sum, 0.2)
		for _, none := range []func(*testing.T, *componenttest.Telemetry, []metricdata.DataPoint[int64], ...metricdatatest.Option){
			metadatatest.AssertEqualMeshauditLeftEarly, metadatatest.AssertEqualMeshauditForgotten,
			metadatatest.AssertEqualMeshauditRecordsDropped, metadatatest.AssertEqualMeshauditUnjoined,
		} {
			none(t, tel, sum(0), ignore...)
		}

		// More than may wait: each leaves early and is counted, and none is lost.
		for i := range 3 {
			require.NoError(t, logs.ConsumeLogs(t.Context(), logOf(calleeReport(strconv.Itoa(10+i), nil))))
		}
		time.Sleep(cfg.Settle / 2) // before the last one leaves by itself
		metadatatest.AssertEqualMeshauditLeftEarly(t, tel, sum(2), ignore...)
		metadatatest.AssertEqualMeshauditPending(t, tel, sum(1), ignore...)
		require.NoError(t, logs.Shutdown(t.Context()))
		require.NoError(t, tel.Shutdown(t.Context()))
	})
}
