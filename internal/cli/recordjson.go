package cli

import (
	"encoding/base64"
	"io"
	"math"
	"strconv"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/meshaudit/meshaudit/internal/query"
	"github.com/meshaudit/meshaudit/seal"
)

// recordAnswer is query's JSON, one object a line, see docs/cli.md.
type recordAnswer struct {
	Time       string         `json:"time"`
	Event      string         `json:"event"`
	Origin     string         `json:"origin"`
	Entry      uint64         `json:"entry"`
	Record     uint64         `json:"record"`
	Sealed     string         `json:"sealed"`
	Signal     string         `json:"signal"`
	TraceID    string         `json:"trace_id,omitempty"`
	SpanID     string         `json:"span_id,omitempty"`
	Observed   string         `json:"observed,omitempty"`
	End        string         `json:"end,omitempty"`  // of a span
	Name       string         `json:"name,omitempty"` // of a span or metric
	Severity   string         `json:"severity,omitempty"`
	Body       any            `json:"body,omitempty"`
	Attributes map[string]any `json:"attributes"`
	Resource   map[string]any `json:"resource,omitempty"`
	Scope      string         `json:"scope,omitempty"`
}

type jsonSink struct{ w io.Writer }

func (j *jsonSink) flush() error { return nil }

func (j *jsonSink) record(r *query.Record) error { return writeJSON(j.w, recordJSON(r), false) }

func recordJSON(r *query.Record) *recordAnswer {
	a := &recordAnswer{
		Time: moment(r.Time), Event: r.Event, Origin: r.Entry.Origin, Entry: r.Entry.Header.Entry, Record: r.Number,
		Sealed: moment(unixNano(r.Entry.Sealed)), Signal: r.Signal.String(),
		Attributes: mapJSON(r.Attributes), Resource: mapJSON(r.Under.Resource.Attributes()), Scope: r.Under.Scope.Name(),
	}
	if !r.TraceID.IsEmpty() {
		a.TraceID = r.TraceID.String()
	}
	if !r.SpanID.IsEmpty() {
		a.SpanID = r.SpanID.String()
	}
	switch r.Signal {
	case seal.SignalLogs:
		if t := r.Log.ObservedTimestamp(); t != 0 {
			a.Observed = moment(t.AsTime())
		}
		if a.Severity = r.Log.SeverityText(); a.Severity == "" && r.Log.SeverityNumber() != plog.SeverityNumberUnspecified {
			a.Severity = r.Log.SeverityNumber().String()
		}
		a.Body = valueJSON(r.Log.Body())
	case seal.SignalTraces:
		a.Name = r.Span.Name()
		if t := r.Span.EndTimestamp(); t != 0 {
			a.End = moment(t.AsTime())
		}
	case seal.SignalMetrics:
		a.Name = r.Metric.Name()
	}
	return a
}

func mapJSON(m pcommon.Map) map[string]any {
	out := make(map[string]any, m.Len())
	for k, v := range m.All() {
		out[k] = valueJSON(v)
	}
	return out
}

// valueJSON: bytes become base64, numbers that JSON does not have become text.
func valueJSON(v pcommon.Value) any {
	switch v.Type() {
	case pcommon.ValueTypeStr:
		return v.Str()
	case pcommon.ValueTypeBool:
		return v.Bool()
	case pcommon.ValueTypeInt:
		return v.Int()
	case pcommon.ValueTypeDouble:
		if d := v.Double(); math.IsNaN(d) || math.IsInf(d, 0) {
			return strconv.FormatFloat(d, 'g', -1, 64)
		}
		return v.Double()
	case pcommon.ValueTypeBytes:
		return base64.StdEncoding.EncodeToString(v.Bytes().AsRaw())
	case pcommon.ValueTypeMap:
		return mapJSON(v.Map())
	case pcommon.ValueTypeSlice:
		out := make([]any, 0, v.Slice().Len())
		for _, e := range v.Slice().All() {
			out = append(out, valueJSON(e))
		}
		return out
	}
	return nil
}

// otlpSink writes the records of each batch as one export request in OTLP's
// JSON form on one line, which the Collector's otlp_json_file receiver reads.
type otlpSink struct {
	w     io.Writer
	entry *seal.Entry  // the batch at hand
	under *query.Under // and what its last record was reported under

	signal  seal.Signal
	logs    plog.Logs
	spans   ptrace.Traces
	metrics pmetric.Metrics

	scopeLogs    plog.ScopeLogs
	scopeSpans   ptrace.ScopeSpans
	scopeMetrics pmetric.ScopeMetrics
}

func (o *otlpSink) record(r *query.Record) error {
	if o.entry != r.Entry {
		if err := o.flush(); err != nil {
			return err
		}
		o.entry, o.under, o.signal = r.Entry, nil, r.Signal
		o.logs, o.spans, o.metrics = plog.NewLogs(), ptrace.NewTraces(), pmetric.NewMetrics()
	}
	if o.under != r.Under {
		o.under = r.Under
		o.startScope()
	}
	switch r.Signal {
	case seal.SignalLogs:
		r.Log.CopyTo(o.scopeLogs.LogRecords().AppendEmpty())
	case seal.SignalTraces:
		r.Span.CopyTo(o.scopeSpans.Spans().AppendEmpty())
	case seal.SignalMetrics:
		r.Metric.CopyTo(o.scopeMetrics.Metrics().AppendEmpty())
	}
	return nil
}

func (o *otlpSink) startScope() {
	u := o.under
	switch o.signal {
	case seal.SignalLogs:
		res := o.logs.ResourceLogs().AppendEmpty()
		u.Resource.CopyTo(res.Resource())
		res.SetSchemaUrl(u.ResourceSchemaURL)
		o.scopeLogs = res.ScopeLogs().AppendEmpty()
		u.Scope.CopyTo(o.scopeLogs.Scope())
		o.scopeLogs.SetSchemaUrl(u.ScopeSchemaURL)
	case seal.SignalTraces:
		res := o.spans.ResourceSpans().AppendEmpty()
		u.Resource.CopyTo(res.Resource())
		res.SetSchemaUrl(u.ResourceSchemaURL)
		o.scopeSpans = res.ScopeSpans().AppendEmpty()
		u.Scope.CopyTo(o.scopeSpans.Scope())
		o.scopeSpans.SetSchemaUrl(u.ScopeSchemaURL)
	case seal.SignalMetrics:
		res := o.metrics.ResourceMetrics().AppendEmpty()
		u.Resource.CopyTo(res.Resource())
		res.SetSchemaUrl(u.ResourceSchemaURL)
		o.scopeMetrics = res.ScopeMetrics().AppendEmpty()
		u.Scope.CopyTo(o.scopeMetrics.Scope())
		o.scopeMetrics.SetSchemaUrl(u.ScopeSchemaURL)
	}
}

// flush writes the batch at hand.
func (o *otlpSink) flush() error {
	if o.entry == nil {
		return nil
	}
	o.entry = nil
	var b []byte
	var err error
	switch o.signal {
	case seal.SignalLogs:
		b, err = new(plog.JSONMarshaler).MarshalLogs(o.logs)
	case seal.SignalTraces:
		b, err = new(ptrace.JSONMarshaler).MarshalTraces(o.spans)
	case seal.SignalMetrics:
		b, err = new(pmetric.JSONMarshaler).MarshalMetrics(o.metrics)
	}
	if err != nil {
		return err
	}
	_, err = o.w.Write(append(b, '\n'))
	return err
}
