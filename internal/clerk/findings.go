package clerk

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/ottl"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/ottl/contexts/ottllog"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/ottl/ottlfuncs"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/expression"
	"github.com/meshaudit/meshaudit/internal/findings"
	"github.com/meshaudit/meshaudit/internal/query"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

const (
	maxOpenFindings  = 10_000
	maxReadyFindings = 1024    // that wait to be taken
	maxWaits         = 1 << 21 // 3500 requests a second for ten minutes, and 200 MB
)

func (f *FindingsConfig) validate(fault func(string, ...any)) {
	for kind, c := range f.Kinds {
		if _, known := findings.Kinds[kind]; !known {
			fault("`findings::kinds` knows %v, got %q", slices.Sorted(maps.Keys(findings.Kinds)), kind)
		}
		if c.Severity != "" && !slices.Contains(findings.Severities, c.Severity) {
			fault("`findings::kinds::%s::severity` must be one of %v, got %q", kind, findings.Severities, c.Severity)
		}
		if kind == findings.EvidenceGap && c.Condition != "" {
			fault("`findings::kinds::evidence_gap::condition`: a gap has no record that a condition could look at; `off` and `severity` hold for all of them")
		}
		if _, err := parseCondition(c.Condition, zap.NewNop()); err != nil {
			fault("`findings::kinds::%s::condition`: %w", kind, err)
		}
	}
	for _, p := range f.MustDecide {
		if _, err := query.ParseGlob(p); err != nil {
			fault("`findings::must_decide`: %w", err)
		} else if p[0] != '/' && p[0] != '*' {
			fault("`findings::must_decide`: a path begins with / or *, got %q", p)
		}
	}
	for _, td := range f.TrustDomains {
		if got, err := spiffeid.TrustDomainFromString(td); err != nil {
			fault("`findings::trust_domains`: %q is none: %w", td, err)
		} else if got.Name() != td {
			fault("`findings::trust_domains`: write %s, got %q", got.Name(), td)
		}
	}
	if f.Repeat <= 0 {
		fault("`findings::repeat` must be positive, got %v", f.Repeat)
	}
	if f.DecisionWait < 0 {
		fault("`findings::decision_wait` must not be negative, got %v", f.DecisionWait)
	}
	if f.MaxCredentials <= 0 {
		fault("`findings::max_credentials` must be positive, got %d", f.MaxCredentials)
	}
}

type recordCondition = ottl.Condition[expression.Record]

// parseCondition is nil for no condition.
func parseCondition(s string, logger *zap.Logger) (*recordCondition, error) {
	if s == "" {
		return nil, nil
	}
	parser, err := expression.NewParser(ottlfuncs.StandardConverters[expression.Record](), logger)
	if err != nil {
		return nil, err
	}
	return parser.ParseCondition(s)
}

// finder looks for findings in the records that leave.
type finder struct {
	*Clerk
	off        map[findings.Kind]bool
	severity   map[findings.Kind]findings.Severity
	conditions map[findings.Kind]*recordCondition

	mu       sync.Mutex // guards all below
	detector *findings.Detector
	ready    []findings.Finding

	delivering sync.Mutex // held while findings are handed over: whoever comes after has them out

	seen sync.Mutex
	gaps []evidence.Gap // that came as evidence, to be looked at
}

func newFinder(c *Clerk) (*finder, error) {
	cfg := &c.cfg.Findings
	f := &finder{Clerk: c, off: map[findings.Kind]bool{}, severity: maps.Clone(findings.Kinds), conditions: map[findings.Kind]*recordCondition{}}
	for kind, k := range cfg.Kinds {
		f.off[kind] = k.Off
		if k.Severity != "" {
			f.severity[kind] = k.Severity
		}
		var err error
		if f.conditions[kind], err = parseCondition(k.Condition, c.logger); err != nil {
			return nil, err
		}
	}
	dc := findings.Config{TrustDomains: cfg.TrustDomains, DecisionWait: cfg.DecisionWait, Repeat: cfg.Repeat, MaxOpen: maxOpenFindings, MaxWaits: maxWaits, MaxCredentials: cfg.MaxCredentials}
	for _, p := range cfg.MustDecide {
		g, err := query.ParseGlob(p)
		if err != nil {
			return nil, err
		}
		dc.MustDecide = append(dc.MustDecide, g)
	}
	f.detector = findings.New(dc)
	// A counter that first appears with 1 has not increased: no alert would hear of
	// the first finding of a kind, which may be the only one.
	for kind := range findings.Kinds {
		for _, doubt := range [...]string{"", "any"} {
			f.counted(&findings.Finding{Kind: kind, Doubt: doubt}, 0)
		}
	}
	return f, nil
}

// examine looks at records that were not looked at before, and at gaps.
func (f *finder) examine(batch []*correlate.Record, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range batch {
		if r.Examined {
			continue
		}
		r.Examined = true
		f.detector.Observe(r, now, f.accept(r), f.report)
	}
	if n := f.detector.Missed(); n > 0 {
		f.telemetry.FindingsMissed.Add(context.Background(), int64(n))
	}
	f.seen.Lock()
	gaps := f.gaps
	f.gaps = nil
	f.seen.Unlock()
	for i := range gaps {
		if !f.off[findings.EvidenceGap] {
			f.detector.Gap(&gaps[i], now, f.report)
		}
	}
	f.detector.Advance(now, f.report)
}

// accept decides by configuration and condition whether a kind is looked for. A
// condition sees the record as it will be written; it is written for it only
// once.
func (f *finder) accept(r *correlate.Record) func(findings.Kind) bool {
	var written plog.Logs
	return func(k findings.Kind) bool {
		c := f.conditions[k]
		switch {
		case f.off[k]:
			return false
		case c == nil:
			return true
		}
		if written == (plog.Logs{}) {
			written = f.recordsToLogs([]*correlate.Record{r}, time.Now())
		}
		rl := written.ResourceLogs().At(0)
		t := ottllog.NewTransformContextPtr(rl, rl.ScopeLogs().At(0), rl.ScopeLogs().At(0).LogRecords().At(0))
		defer t.Close()
		ok, err := c.Eval(context.Background(), t)
		return ok || err != nil // what can't be judged is not hidden
	}
}

// report keeps a finding until it is taken, if there is room.
func (f *finder) report(found findings.Finding) bool {
	if len(f.ready) == maxReadyFindings {
		return false
	}
	f.ready = append(f.ready, found)
	f.counted(&found, 1)
	return true
}

func (f *finder) counted(found *findings.Finding, n int64) {
	f.telemetry.Findings.Add(context.Background(), n, metric.WithAttributeSet(attribute.NewSet(
		attribute.String("kind", string(found.Kind)), attribute.String("severity", string(f.severityOf(found))))))
}

// sawGap takes a gap that came as evidence.
func (f *finder) sawGap(g evidence.Gap) {
	f.seen.Lock()
	defer f.seen.Unlock()
	if len(f.gaps) < maxGaps {
		f.gaps = append(f.gaps, g)
	}
}

// end states and offers all that was not stated yet.
func (f *finder) end(ctx context.Context, offer offer) error {
	for {
		f.mu.Lock()
		f.detector.End(time.Now(), f.report)
		f.mu.Unlock()
		if len(f.untaken()) == 0 {
			return nil
		}
		if err := f.deliver(ctx, offer); err != nil {
			return err
		}
	}
}

// deliver offers what was found, in one request. What will never be taken is
// dropped, alone.
func (f *finder) deliver(ctx context.Context, offer offer) error {
	if len(f.untaken()) == 0 {
		return nil
	}
	f.delivering.Lock()
	defer f.delivering.Unlock()
	ready := f.untaken()
	switch err := f.offer(ctx, offer, ready); {
	case err == nil:
		f.taken(len(ready))
		return nil
	case !f.permanent(err):
		return err
	}
	for i := range ready {
		err := f.offer(ctx, offer, ready[i:i+1])
		if err != nil && !f.permanent(err) {
			return err
		}
		if err != nil {
			f.refusedForGood.Add(1)
			f.logger.Error("a finding was refused for good and is dropped", zap.Error(err))
		}
		f.taken(1)
	}
	return nil
}

// untaken is what is ready, what is under way included.
func (f *finder) untaken() []findings.Finding {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ready
}

// taken drops the first of what is ready.
func (f *finder) taken(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ready = slices.Clone(f.ready[n:])
}

func (f *finder) offer(ctx context.Context, offer offer, found []findings.Finding) error {
	if len(found) == 0 {
		return nil
	}
	ld, records := f.newRecords()
	for i := range found {
		f.write(&found[i], records.AppendEmpty())
	}
	return offer(ctx, ld)
}

func (f *finder) write(found *findings.Finding, lr plog.LogRecord) {
	lr.SetEventName(semconv.EventFinding)
	lr.SetTimestamp(pcommon.NewTimestampFromTime(found.Last))
	lr.SetObservedTimestamp(pcommon.NewTimestampFromTime(time.Now()))
	lr.SetTraceID(pcommon.TraceID(found.TraceID))
	severity := f.severityOf(found)
	lr.SetSeverityText(string(severity))
	lr.SetSeverityNumber(severityNumbers[severity])
	lr.Body().SetStr(found.What)
	w := writer{lr.Attributes()}
	w.PutStr(semconv.AuditRecordID, found.StatementID().String())
	w.PutInt(semconv.AuditSchemaVersion, semconv.SchemaVersion)
	w.PutStr(semconv.MeshFindingKind, string(found.Kind))
	w.PutStr(semconv.FindingID, correlate.RecordID(found.ID).String())
	w.PutStr(semconv.FindingSubject, found.Subject)
	w.PutStr(semconv.FindingSeverity, string(severity))
	w.PutInt(semconv.FindingCount, int64(found.Count))
	w.PutInt(semconv.FindingFirst, found.First.UnixNano())
	w.PutInt(semconv.FindingLast, found.Last.UnixNano())
	w.str(semconv.SourceSPIFFEID, found.Source.String())
	w.str(semconv.DestinationSPIFFEID, found.Destination.String())
	w.str(semconv.UserID, found.User)
	w.str(semconv.MeshCluster, f.cfg.Cluster)
	if found.Doubt != "" {
		w.PutStr(semconv.MeshEvidenceState, correlate.Ambiguous.String())
	}
	cited := w.PutEmptySlice(semconv.FindingRecords)
	for _, id := range found.Records {
		cited.AppendEmpty().SetStr(id.String())
	}
}

// severityOf is as configured; nobody is woken for what is in doubt.
func (f *finder) severityOf(found *findings.Finding) findings.Severity {
	severity := f.severity[found.Kind]
	if found.Doubt != "" && severityNumbers[severity] > severityNumbers[findings.Low] {
		return findings.Low
	}
	return severity
}

var severityNumbers = map[findings.Severity]plog.SeverityNumber{
	findings.Info: plog.SeverityNumberInfo, findings.Low: plog.SeverityNumberInfo3, findings.Medium: plog.SeverityNumberWarn,
	findings.High: plog.SeverityNumberError, findings.Critical: plog.SeverityNumberFatal,
}
