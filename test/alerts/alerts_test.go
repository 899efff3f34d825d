// Package alerts evaluates the alert rules that are shipped with Prometheus' own
// engine: each fires when it should, and not otherwise.
package alerts

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

const rules = "../../distributions/otelcol-meshaudit/observe/alerts.yaml"

var cases = []struct {
	alert, when string
	// One a line, a value a minute, as promtool's unit tests write them.
	series string
	fires  string // label values of what fires, in order
}{
	{"MeshauditSealedLogFault", "a write failed", `otelcol_sealed_log_faults_total 0x10 1x20`, "fires"},
	{"MeshauditSealedLogFault", "none did", `otelcol_sealed_log_faults_total 0x30`, ""},

	{"MeshauditCriticalFinding", "the first of a kind, on a collector that adds no suffix", `
		otelcol_meshaudit_findings{kind="denied_but_served",severity="critical"} 0x10 1x20
		otelcol_meshaudit_findings{kind="shared_credential",severity="critical"} 0x30`, "denied_but_served"},
	{"MeshauditCriticalFinding", "severities are configured", `
		otelcol_meshaudit_findings_total{kind="denied_but_served",severity="medium"} 0x10 1x20
		otelcol_meshaudit_findings_total{kind="plaintext",severity="critical"} 0x10 1x20`, "plaintext"},
	{"MeshauditCriticalFinding", "none", `otelcol_meshaudit_findings_total{kind="denied_but_served",severity="critical"} 3x30`, ""},

	{"MeshauditHighFinding", "each that is high by default", `
		otelcol_meshaudit_findings_total{kind="served_without_decision",severity="high"} 0x10 1x20
		otelcol_meshaudit_findings_total{kind="identity_conflict",severity="high"} 0x10 1x20
		otelcol_meshaudit_findings_total{kind="unknown_trust_domain",severity="high"} 0x10 1x20
		otelcol_meshaudit_findings_total{kind="expired_certificate",severity="high"} 0x10 1x20`,
		"expired_certificate identity_conflict served_without_decision unknown_trust_domain"},
	{"MeshauditHighFinding", "others", `
		otelcol_meshaudit_findings_total{kind="policy_changed",severity="info"} 0+1x30
		otelcol_meshaudit_findings_total{kind="identity_conflict",severity="high"} 3x30`, ""},

	{"MeshauditEvidenceLost", "a gap", `otelcol_meshaudit_findings_total{kind="evidence_gap",severity="medium"} 0x10 1x20`, "fires"},
	{"MeshauditEvidenceLost", "another finding", `otelcol_meshaudit_findings_total{kind="plaintext",severity="medium"} 0x10 1x20`, ""},

	{"MeshauditNearlyFull", "memory, of one of two collectors", `
		otelcol_meshaudit_pending_bytes{instance="a"} 100e6x10 220e6x20
		otelcol_meshaudit_max_pending_bytes{instance="a"} 268435456x30
		otelcol_meshaudit_pending_bytes{instance="b"} 220e6x30
		otelcol_meshaudit_max_pending_bytes{instance="b"} 536870912x30`, "a"},
	{"MeshauditNearlyFull", "pieces", `
		otelcol_meshaudit_pending{instance="a"} 0x10 90000x20
		otelcol_meshaudit_max_pending{instance="a"} 100000x30
		otelcol_meshaudit_pending_bytes{instance="a"} 1e6x30
		otelcol_meshaudit_max_pending_bytes{instance="a"} 268435456x30`, "a"},
	{"MeshauditNearlyFull", "only for three minutes", `
		otelcol_meshaudit_pending{instance="a"} 0x10 90000x3 0x20
		otelcol_meshaudit_max_pending{instance="a"} 100000x40`, ""},

	{"MeshauditLeavesEarly", "actions do", `otelcol_meshaudit_left_early_total 0x10 0+5x20`, "fires"},
	{"MeshauditLeavesEarly", "evidence is forgotten", `otelcol_meshaudit_forgotten_total 0x10 0+5x20`, "fires"},
	{"MeshauditLeavesEarly", "records are dropped", `otelcol_meshaudit_records_dropped_total 0x10 0+5x20`, "fires"},
	{"MeshauditLeavesEarly", "none", `otelcol_meshaudit_left_early_total 7x30`, ""},

	{"MeshauditSpansDropped", "some are", `otelcol_meshaudit_dropped_spans_total 0x10 0+5x20`, "fires"},
	{"MeshauditSpansDropped", "none", `otelcol_meshaudit_dropped_spans_total 7x30`, ""},

	{"MeshauditRecordsRefused", "they are", `otelcol_meshaudit_records_refused_total 0x10 0+5x20`, "fires"},
	{"MeshauditRecordsRefused", "once", `otelcol_meshaudit_records_refused_total 0x10 1 2x30`, ""},

	{"MeshauditNoTrustBundle", "in the processor", `otelcol_meshaudit_credentials_total{outcome="unknown_trust_domain"} 0x10 0+5x40`, "fires"},
	{"MeshauditNoTrustBundle", "in a receiver", `otelcol_receiver_envoy_access_log_credentials_total{outcome="unknown_trust_domain"} 0x10 0+5x40`, "fires"},
	{"MeshauditNoTrustBundle", "all is proven", `otelcol_meshaudit_credentials_total{outcome="proven"} 0+5x50`, ""},

	{"MeshauditSlow", "it takes minutes", `
		otelcol_meshaudit_lag_seconds_bucket{le="60"} 0x60
		otelcol_meshaudit_lag_seconds_bucket{le="300"} 0+100x60
		otelcol_meshaudit_lag_seconds_bucket{le="+Inf"} 0+100x60`, "fires"},
	{"MeshauditSlow", "it takes seconds", `
		otelcol_meshaudit_lag_seconds_bucket{le="60"} 0+100x60
		otelcol_meshaudit_lag_seconds_bucket{le="300"} 0+100x60
		otelcol_meshaudit_lag_seconds_bucket{le="+Inf"} 0+100x60`, ""},

	{"MeshauditSilent", "one of two is", `
		otelcol_meshaudit_evidence_total{source="envoy_als"} 0+100x180
		otelcol_meshaudit_evidence_total{source="opa_decision"} 0+100x60 6000x120`, "opa_decision"},
	{"MeshauditSilent", "a restart, and nothing since", `
		otelcol_meshaudit_evidence_total{source="envoy_als"} 0+100x60 0+100x120
		otelcol_meshaudit_evidence_total{source="opa_decision"} 0+100x60 _x120`, "opa_decision"},
	{"MeshauditSilent", "a restart in the silence, under another name", `
		otelcol_meshaudit_evidence_total{source="opa_decision",instance="a"} 0+100x60 6000x20 _x100
		otelcol_meshaudit_evidence_total{source="envoy_als",instance="b"} _x80 0+100x100`, "opa_decision"},
	{"MeshauditSilent", "a restart, and one piece each 25 minutes since", `
		otelcol_meshaudit_evidence_total{source="spire",instance="a"} 0+100x60 _x150
		otelcol_meshaudit_evidence_total{source="spire",instance="b"} _x65 1x25 2x25 3x25 4x25 5x25`, ""},
	{"MeshauditSilent", "one of two gateways still has it", `
		otelcol_meshaudit_evidence_total{source="opa_decision",instance="a"} 0+100x60 6000x120
		otelcol_meshaudit_evidence_total{source="opa_decision",instance="b"} 0+100x180`, ""},
	{"MeshauditSilent", "a scrape is missed", `otelcol_meshaudit_evidence_total{source="opa_decision"} 0+100x60 _x10 7000+100x60`, ""},
}

func TestAlerts(t *testing.T) {
	p := parser.NewParser(parser.Options{})
	groups, errs := rulefmt.ParseFile(rules, false, model.UTF8Validation, p, slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Hour, Parser: p})
	t.Cleanup(func() { engine.Close() })
	of, fired, quiet := map[string]rulefmt.Rule{}, map[string]bool{}, map[string]bool{}
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			of[r.Alert] = r
		}
	}
	for _, tc := range cases {
		fired[tc.alert] = fired[tc.alert] || tc.fires != ""
		quiet[tc.alert] = quiet[tc.alert] || tc.fires == ""
		t.Run(tc.alert+"/"+tc.when, func(t *testing.T) {
			rule, ok := of[tc.alert]
			if !ok {
				t.Fatal("no such alert")
			}
			got := evaluate(t, engine, p, rule, tc.series)
			if want := strings.Fields(tc.fires); !slices.Equal(got, want) {
				t.Errorf("%q fire, want %q", got, want)
			}
		})
	}
	for name := range of {
		if !fired[name] || !quiet[name] {
			t.Errorf("%s: fires in a test: %v, is quiet in one: %v", name, fired[name], quiet[name])
		}
	}
}

// evaluate gives the label values of the alerts that fire, for as long as the rule
// says; "fires" for one without labels.
func evaluate(t *testing.T, engine *promql.Engine, p parser.Parser, rule rulefmt.Rule, series string) (firing []string) {
	var all db
	var end int64
	for line := range strings.Lines(strings.TrimSpace(series)) {
		l, values, err := p.ParseSeriesDesc(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		s := promql.Series{Metric: l}
		for minute, v := range values {
			end = max(end, int64(minute))
			if !v.Omitted {
				s.Floats = append(s.Floats, promql.FPoint{T: int64(minute) * time.Minute.Milliseconds(), F: v.Value})
			}
		}
		all = append(all, s)
	}
	q, err := engine.NewRangeQuery(t.Context(), all, nil, rule.Expr, time.UnixMilli(0), time.UnixMilli(0).Add(time.Duration(end)*time.Minute), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	result := q.Exec(t.Context())
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	matrix, err := result.Matrix()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range matrix {
		var since int64 // of a run of minutes without a break
		for i, point := range s.Floats {
			if i == 0 || point.T-s.Floats[i-1].T > time.Minute.Milliseconds() {
				since = point.T
			}
			if point.T-since >= time.Duration(rule.For).Milliseconds() {
				name := "fires"
				s.Metric.Range(func(l labels.Label) { name = l.Value })
				firing = append(firing, name)
				break
			}
		}
	}
	slices.Sort(firing)
	return firing
}

// db are series in memory.
type db []promql.Series

func (d db) Querier(int64, int64) (storage.Querier, error) {
	return &storage.MockQuerier{SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
		found := &set{at: -1}
		for _, s := range d {
			if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.Metric.Get(m.Name)) }) {
				found.series = append(found.series, s)
			}
		}
		return found
	}}, nil
}

type set struct {
	series []promql.Series
	at     int
}

func (s *set) Next() bool                      { s.at++; return s.at < len(s.series) }
func (s *set) At() storage.Series              { return promql.NewStorageSeries(s.series[s.at]) }
func (*set) Err() error                        { return nil }
func (*set) Warnings() annotations.Annotations { return nil }
