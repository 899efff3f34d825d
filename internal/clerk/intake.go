package clerk

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/envoy"
	"github.com/meshaudit/meshaudit/internal/evidence/otlp"
	"github.com/meshaudit/meshaudit/internal/evidence/span"
	"github.com/meshaudit/meshaudit/internal/redact"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// intake is one request on its way: what becomes evidence once the next
// consumer has accepted it.
type intake struct {
	*Clerk
	*scratch
	reporter *evidence.Reporter // what our own receiver saw of its peer, else nil
	sources  map[evidence.Source]int64
	proven   []evidence.ID  // by a certificate that was verified here
	lost     []evidence.Gap // what a receiver of this process gave up
	losses   []evidence.Gap // of which lines tell
	nodes    map[string]int // access log entries, by the proxy that wrote them
	redacted int64
	refused  map[refusal]int64
}

// scratch is memory that the next request uses again.
type scratch struct {
	hashed   []byte
	evidence []evidence.Evidence
	spans    []passing // if they are enriched or held
}

// maxScratch is how many pieces of evidence are kept room for, some 1 KiB each: more than the
// batch processor puts into a request by default, and what append makes of that.
const maxScratch = 10_240

func (c *Clerk) intake(reporter *evidence.Reporter) *intake {
	return &intake{Clerk: c, scratch: c.idle.Get().(*scratch), reporter: reporter, sources: make(map[evidence.Source]int64, 2)}
}

// accepted takes the evidence: the next consumer has it. Evidence that was
// refused must not be correlated; its sender will send it again.
func (in *intake) accepted(ctx context.Context) {
	for source, n := range in.sources {
		in.telemetry.Evidence.Add(ctx, n, metric.WithAttributeSet(attribute.NewSet(attribute.String("source", string(source)))))
	}
	for r, n := range in.refused {
		in.telemetry.RefusedLines.Add(ctx, n, metric.WithAttributeSet(attribute.NewSet(
			attribute.String("source", string(r.source)), attribute.String("reason", r.reason))))
	}
	if in.redacted > 0 {
		in.telemetry.Redacted.Add(ctx, in.redacted)
	}
	if in.tag {
		return // the gateways keep count and correlate
	}
	for node, n := range in.nodes {
		in.ledger.Received(node, n, time.Now())
	}
	in.gaps.add(in.losses)
	for _, g := range append(in.lost, in.losses...) {
		in.finder.sawGap(g)
	}
	if len(in.evidence) == 0 || !in.recording.Load() {
		return
	}
	in.correlator.Add(time.Now(), in.evidence)
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

func (in *intake) done() {
	clear(in.evidence) // it holds the request's strings
	clear(in.spans)
	in.evidence, in.spans = in.evidence[:0], in.spans[:0]
	if max(cap(in.evidence), cap(in.spans)) > maxScratch {
		in.evidence, in.spans = nil, nil
	}
	in.idle.Put(in.scratch)
}

func (in *intake) logs(ld plog.Logs) {
	for _, rl := range ld.ResourceLogs().All() {
		decoded := in.lines(rl)
		n := in.redactor.Resource(rl.Resource()) + in.unroute(rl.Resource().Attributes())
		for s, sl := range rl.ScopeLogs().All() {
			n += in.redactor.Scope(sl.Scope()) + in.unroute(sl.Scope().Attributes())
			under := in.under(rl.Resource(), sl.Scope())
			for i, lr := range sl.LogRecords().All() {
				if decoded != nil && decoded[s] != nil && decoded[s][i] != nil {
					in.line(decoded[s][i], lr, under, n)
				} else {
					in.record(rl.Resource(), lr, under, n)
				}
				n = 0 // the resource's and scope's count goes to the first record
			}
		}
	}
}

// record takes a log record that is evidence as it comes: what our receivers made, or
// a proxy's OTLP log. Anything else is opaque. n is what was cut above it.
func (in *intake) record(res pcommon.Resource, lr plog.LogRecord, under [32]byte, n int) {
	// What it says of its reporter, and of what that proved, becomes what we saw.
	before, again := in.refusedProofs.has(lr.Attributes())
	n += in.report(lr.Attributes(), again)

	certificate := in.prover.show(lr)
	envoy.NameDecision(res, lr)
	n += in.redactor.LogRecord(lr)
	e, known := readLog(res, lr)
	body := in.body(lr, known)
	if !known && in.reporter != nil {
		e.Source = ownSource(lr.Attributes())
		if g, ok := otlp.DecodeGap(lr); ok {
			in.lost = append(in.lost, g)
		}
	}

	// What a certificate proves is sealed with it.
	if known && in.reporter != nil && in.prover.raise(&e, in.reporter.SPIFFEID) {
		otlp.Encode(&e, lr)
	}
	if known && in.prover.prove(&e, certificate) {
		otlp.Encode(&e, lr)
	}
	if m := in.redactor.LogBody(lr, body); m > 0 {
		n += m
		if body == redact.LabelBody {
			e, known = readLog(res, lr) // what is sealed is what counts
		}
	}

	digest := func() [32]byte {
		return in.digest(func(b []byte) []byte { return appendLog(append(b, under[:]...), lr) })
	}
	e.Digest = digest()
	if again && evidenceID(&e) != before { // it bears another's id
		n += capProofs(lr.Attributes())
		e, known = readLog(res, lr)
		e.Digest = digest()
	}
	in.take(&e, known, lr.Attributes(), n)
	in.route(&e, lr.TraceID(), lr.Attributes())
}

// line takes a record that a source's decoder has read.
func (in *intake) line(l *line, lr plog.LogRecord, under [32]byte, n int) {
	e := &l.evidence
	if m := in.redactor.LogRecord(lr); m > 0 {
		n += m
		if l.known { // what is sealed is what counts
			*e, l.known = otlp.Decode(lr)
		}
	}
	if l.known {
		pcommon.NewValueEmpty().CopyTo(lr.Body())
	} else {
		n += in.redactor.LogBody(lr, redact.HashBody)
	}
	e.Digest = in.digest(func(b []byte) []byte { return appendLog(append(b, under[:]...), lr) })
	in.take(e, l.known, lr.Attributes(), n)
	in.route(e, lr.TraceID(), lr.Attributes())
}

func (in *intake) traces(td ptrace.Traces) {
	for _, rs := range td.ResourceSpans().All() {
		n := in.redactor.Resource(rs.Resource()) + in.unroute(rs.Resource().Attributes())
		for _, ss := range rs.ScopeSpans().All() {
			n += in.redactor.Scope(ss.Scope()) + in.unroute(ss.Scope().Attributes())
			under := in.under(rs.Resource(), ss.Scope())
			for _, s := range ss.Spans().All() {
				stripReporter(s.Attributes())
				stripCall(s.Attributes())
				n += in.redactor.Span(s)
				e, known := readSpan(rs.Resource(), s)
				e.Digest = in.digest(func(b []byte) []byte { return appendSpan(append(b, under[:]...), s) })
				correlated := in.take(&e, known, s.Attributes(), n)
				in.pass(rs, ss, s, &e, correlated)
				in.route(&e, s.TraceID(), s.Attributes())
				n = 0 // the resource's and scope's count goes to the first span
			}
		}
	}
}

func (in *intake) body(lr plog.LogRecord, known bool) redact.Body {
	switch {
	case isOwn(lr.EventName()):
		if in.reporter != nil {
			return redact.TrustBody // what our receiver could not decode, redacted there
		}
	case known:
		return redact.LabelBody
	}
	return redact.HashBody
}

// readSpan reads a span as evidence.
func readSpan(res pcommon.Resource, s ptrace.Span) (evidence.Evidence, bool) {
	e, ok := span.FromSpan(res, s)
	if !ok {
		e = evidence.Evidence{Source: evidence.SourceOpaque}
	}
	return e, ok
}

// readLog reads a log record as evidence: one that our receivers made, or a
// proxy's. Anything else is opaque.
func readLog(res pcommon.Resource, lr plog.LogRecord) (evidence.Evidence, bool) {
	if lr.EventName() == semconv.EventEvidence {
		if e, ok := otlp.Decode(lr); ok {
			e.ID = evidence.ID{}
			return e, true
		}
	} else if e, ok := envoy.FromOTLPLog(res, lr); ok {
		return e, true
	}
	return evidence.Evidence{Source: evidence.SourceOpaque}, false
}

// ownSource is what our own receiver says of a record that is no decoded
// evidence: a gap, or what it could not decode.
func ownSource(m pcommon.Map) evidence.Source {
	if v, ok := m.Get(semconv.EvidenceSource); ok && evidence.Source(v.Str()).Known() {
		return evidence.Source(v.Str())
	}
	return evidence.SourceOpaque
}

// take names the evidence and remembers it for the correlator; it says whether
// it is for that.
func (in *intake) take(e *evidence.Evidence, known bool, m pcommon.Map, redacted int) (correlated bool) {
	e.Shown = nil
	if !known {
		e.Role = evidence.RoleNone
	}
	e.ID = evidenceID(e)
	m.EnsureCapacity(m.Len() + 4)
	m.PutStr(semconv.EvidenceID, e.ID.String())
	m.PutStr(semconv.EvidenceSource, string(e.Source))
	m.PutStr(semconv.EvidenceRole, e.Role.String())
	if redacted > 0 {
		in.redacted += int64(redacted)
		total := int64(redacted)
		if before, ok := m.Get(semconv.EvidenceRedacted); ok && before.Type() == pcommon.ValueTypeInt && before.Int() > 0 {
			total += before.Int() // what an earlier hop cut
		}
		m.PutInt(semconv.EvidenceRedacted, total)
	}
	if in.reporter == nil && len(e.From.Identities) > 0 && e.From.Identities[0].Proof == evidence.ProofSVID {
		in.proven = append(in.proven, e.ID)
	}
	in.sources[e.Source]++
	if known && in.reporter != nil && e.Source == evidence.SourceEnvoyALS { // from our own receiver
		if in.nodes == nil {
			in.nodes = make(map[string]int, 1)
		}
		in.nodes[e.Reporter.Node]++
	}
	if known && e.Role != evidence.RoleNone {
		if e.Cluster == "" {
			e.Cluster = in.cfg.Cluster
		}
		in.evidence = append(in.evidence, *e)
		return true
	}
	return false
}
