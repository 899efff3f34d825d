package query

import (
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/seal"
)

// Names under which an event pattern finds what is no log record and so has no
// event name.
const (
	EventSpan   = "span"
	EventMetric = "metric"
)

// Record is one record as it was sealed. It is valid until the callback that
// got it returns.
type Record struct {
	Entry  *seal.Entry // the batch that it is in; names the log
	Number uint64      // in its log
	Under  *Under

	Event      string // the event name of a log record, EventSpan or EventMetric
	Time       time.Time
	TraceID    pcommon.TraceID
	SpanID     pcommon.SpanID
	Attributes pcommon.Map // of a metric: empty

	// The record itself, of the signal that it is.
	Signal seal.Signal
	Log    plog.LogRecord
	Span   ptrace.Span
	Metric pmetric.Metric
}

// Under is what a record was reported under, which is inside its seal. Records
// of one scope share one Under.
type Under struct {
	Resource          pcommon.Resource
	ResourceSchemaURL string
	Scope             pcommon.InstrumentationScope
	ScopeSchemaURL    string
}

// clone is a copy to keep, which holds on to nothing of the batch.
func (r *Record) clone() *Record {
	c := *r
	c.Entry = &seal.Entry{Header: r.Entry.Header, Segment: r.Entry.Segment, Offset: r.Entry.Offset, Size: r.Entry.Size, Erasure: r.Entry.Erasure}
	c.Under = &Under{pcommon.NewResource(), r.Under.ResourceSchemaURL, pcommon.NewInstrumentationScope(), r.Under.ScopeSchemaURL}
	r.Under.Resource.CopyTo(c.Under.Resource)
	r.Under.Scope.CopyTo(c.Under.Scope)
	switch r.Signal {
	case seal.SignalLogs:
		c.Log = plog.NewLogRecord()
		r.Log.CopyTo(c.Log)
		c.Attributes = c.Log.Attributes()
	case seal.SignalTraces:
		c.Span = ptrace.NewSpan()
		r.Span.CopyTo(c.Span)
		c.Attributes = c.Span.Attributes()
	case seal.SignalMetrics:
		c.Metric = pmetric.NewMetric()
		r.Metric.CopyTo(c.Metric)
	}
	return &c
}

// Str is a string attribute, "" if there is none.
func (r *Record) Str(name string) string {
	if v, ok := r.Attributes.Get(name); ok && v.Type() == pcommon.ValueTypeStr {
		return v.Str()
	}
	return ""
}

// Int is an integer attribute, 0 if there is none.
func (r *Record) Int(name string) int64 {
	if v, ok := r.Attributes.Get(name); ok && v.Type() == pcommon.ValueTypeInt {
		return v.Int()
	}
	return 0
}

// Slice is an array attribute, empty if there is none.
func (r *Record) Slice(name string) pcommon.Slice {
	if v, ok := r.Attributes.Get(name); ok && v.Type() == pcommon.ValueTypeSlice {
		return v.Slice()
	}
	return pcommon.NewSlice()
}

// Path is what was asked for: the URL's path, else the route, else the method
// of a remote procedure call in the form that gRPC gives it, /service/method.
func (r *Record) Path() string {
	if p := r.Str(semconv.URLPath); p != "" {
		return p
	}
	if p := r.Str(semconv.HTTPRoute); p != "" {
		return p
	}
	if m := r.Str(semconv.RPCMethod); m != "" {
		return "/" + r.Str(semconv.RPCService) + "/" + m
	}
	return ""
}

// at is a record's own time, else that of sealing.
func at(e *seal.Entry, times ...pcommon.Timestamp) time.Time {
	for _, t := range times {
		if t != 0 {
			return t.AsTime()
		}
	}
	return time.Unix(0, int64(e.Sealed)).UTC()
}

// decode calls fn for every record of an OTLP export request, in the order in
// which they are numbered.
func decode(e *seal.Entry, sig seal.Signal, msg []byte, fn func(*Record) error) error {
	r := Record{Entry: e, Signal: sig}
	i := 0
	next := func() error {
		r.Number = e.Number(i)
		i++
		return fn(&r)
	}
	switch sig {
	case seal.SignalLogs:
		d, err := new(plog.ProtoUnmarshaler).UnmarshalLogs(msg)
		if err != nil {
			return err
		}
		for _, res := range d.ResourceLogs().All() {
			for _, scope := range res.ScopeLogs().All() {
				r.Under = &Under{res.Resource(), res.SchemaUrl(), scope.Scope(), scope.SchemaUrl()}
				for _, l := range scope.LogRecords().All() {
					r.Log, r.Event, r.Attributes = l, eventOf(l), l.Attributes()
					r.Time = at(e, l.Timestamp(), l.ObservedTimestamp())
					r.TraceID, r.SpanID = l.TraceID(), l.SpanID()
					if err := next(); err != nil {
						return err
					}
				}
			}
		}
	case seal.SignalTraces:
		d, err := new(ptrace.ProtoUnmarshaler).UnmarshalTraces(msg)
		if err != nil {
			return err
		}
		for _, res := range d.ResourceSpans().All() {
			for _, scope := range res.ScopeSpans().All() {
				r.Under = &Under{res.Resource(), res.SchemaUrl(), scope.Scope(), scope.SchemaUrl()}
				for _, s := range scope.Spans().All() {
					r.Span, r.Event, r.Attributes = s, EventSpan, s.Attributes()
					r.Time = at(e, s.StartTimestamp())
					r.TraceID, r.SpanID = s.TraceID(), s.SpanID()
					if err := next(); err != nil {
						return err
					}
				}
			}
		}
	case seal.SignalMetrics:
		d, err := new(pmetric.ProtoUnmarshaler).UnmarshalMetrics(msg)
		if err != nil {
			return err
		}
		r.Event, r.Attributes, r.Time = EventMetric, pcommon.NewMap(), at(e)
		for _, res := range d.ResourceMetrics().All() {
			for _, scope := range res.ScopeMetrics().All() {
				r.Under = &Under{res.Resource(), res.SchemaUrl(), scope.Scope(), scope.SchemaUrl()}
				for _, m := range scope.Metrics().All() {
					r.Metric = m
					if err := next(); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// eventOf is a log record's event name. Evidence is what it is called only by
// our receivers, which say who delivered it: a sender's own "mesh.request" is
// evidence that somebody sent that, not an audit record.
func eventOf(l plog.LogRecord) string {
	name := l.EventName()
	if !strings.HasPrefix(name, "mesh.") {
		return name
	}
	if _, isEvidence := l.Attributes().Get(semconv.EvidenceID); !isEvidence {
		return name
	}
	if _, ours := l.Attributes().Get(semconv.EvidenceReporterAuthenticated); !ours {
		return semconv.EventEvidence
	}
	return name
}

// Proven is the record that a proof is of, as query gives it.
func Proven(p *seal.Proof) (*Record, error) {
	var found *Record
	err := decode(&seal.Entry{Header: p.Header}, p.Signal, p.Request(), func(r *Record) error {
		found = r
		found.Number = p.Number
		return seal.ErrStop
	})
	if err != seal.ErrStop {
		return nil, fmt.Errorf("the proven record cannot be decoded: %w", err)
	}
	return found, nil
}
