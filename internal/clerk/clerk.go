// Package clerk does what the meshaudit components do: it redacts and names
// evidence on its way, and derives audit records from what was accepted. It
// knows no collector beyond pdata; components give it their pipelines as
// functions.
package clerk

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/envoy"
	"github.com/meshaudit/meshaudit/internal/evidence/otlp"
	"github.com/meshaudit/meshaudit/internal/evidence/span"
	"github.com/meshaudit/meshaudit/internal/inventory"
	"github.com/meshaudit/meshaudit/internal/ledger"
	"github.com/meshaudit/meshaudit/internal/redact"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/internal/svid"
)

// Clerk is one correlator and what stands before and behind it. It is safe for
// concurrent use.
type Clerk struct {
	cfg        *Config
	scope      string
	tag        bool
	enrich     bool
	permanent  func(error) bool
	redactor   *redact.Redactor
	recognised *sources
	correlator *correlate.Correlator
	telemetry  Telemetry
	logger     *zap.Logger
	wake       chan struct{} // tells the recorder that evidence came
	ledger     *ledger.Ledger
	gaps       gapQueue
	finder     *finder
	prover     prover
	inventory  *inventory.Inventory // nil: the configuration says nothing of workloads

	refusedProofs refusedProofs

	// recording is true between Record and Stop: only then records have
	// somewhere to go.
	recording      atomic.Bool
	recorder       *recorder
	refusedForGood atomic.Int64 // records
	holder         atomic.Pointer[holder]

	idle sync.Pool // of *scratch
}

// Setup is what a component gives its clerk.
type Setup struct {
	Config    *Config
	Scope     string // the instrumentation scope of records
	Logger    *zap.Logger
	Telemetry Telemetry
	// Permanent tells a refusal for good from one after which records are
	// offered again.
	Permanent func(error) bool
	// Tag names evidence and says which gateway it belongs to; no records are
	// made.
	Tag bool
	// Enrich writes on each span that passes what is known of its call.
	Enrich bool
}

// Telemetry are a component's instruments, as mdatagen makes them of its
// metadata.yaml.
type Telemetry struct {
	Amendments, Credentials, EnrichedSpans, Evidence, Findings, Records, RecordsRefused, Redacted, RefusedLines metric.Int64Counter
	// DroppedSpans is of who holds spans.
	DroppedSpans metric.Int64Counter
	Lag          metric.Float64Histogram
	// Observed are those that are asked; the clerk shuts them down.
	Observed interface {
		RegisterMeshauditDuplicatesCallback(metric.Int64Callback) error
		RegisterMeshauditForgottenCallback(metric.Int64Callback) error
		RegisterMeshauditLeftEarlyCallback(metric.Int64Callback) error
		RegisterMeshauditPendingCallback(metric.Int64Callback) error
		RegisterMeshauditPendingBytesCallback(metric.Int64Callback) error
		RegisterMeshauditRecordsDroppedCallback(metric.Int64Callback) error
		RegisterMeshauditUnjoinedCallback(metric.Int64Callback) error
		Shutdown()
	}
}

// New makes a clerk, to be closed.
func New(set Setup) (*Clerk, error) {
	cfg, t := set.Config, set.Telemetry.Observed
	c := &Clerk{
		cfg: cfg, scope: set.Scope, tag: set.Tag, enrich: set.Enrich, permanent: set.Permanent, redactor: cfg.redactor(),
		correlator: correlate.New(cfg.correlator()), telemetry: set.Telemetry, logger: set.Logger,
		wake: make(chan struct{}, 1), ledger: ledger.New(cfg.Ledger.Lag),
		idle: sync.Pool{New: func() any { return &scratch{hashed: make([]byte, 0, 4096)} }},
	}
	var err error
	observe := func(register func(metric.Int64Callback) error, value func(correlate.Stats) int64) {
		if err == nil {
			err = register(func(_ context.Context, o metric.Int64Observer) error {
				o.Observe(value(c.correlator.Stats()))
				return nil
			})
		}
	}
	observe(t.RegisterMeshauditDuplicatesCallback, func(s correlate.Stats) int64 { return int64(s.Duplicates) })
	observe(t.RegisterMeshauditForgottenCallback, func(s correlate.Stats) int64 { return int64(s.Forgotten) })
	observe(t.RegisterMeshauditLeftEarlyCallback, func(s correlate.Stats) int64 { return int64(s.LeftEarly) })
	observe(t.RegisterMeshauditPendingCallback, func(s correlate.Stats) int64 { return int64(s.Pending) })
	observe(t.RegisterMeshauditPendingBytesCallback, func(s correlate.Stats) int64 { return int64(s.Bytes) })
	observe(t.RegisterMeshauditUnjoinedCallback, func(s correlate.Stats) int64 { return int64(s.Unjoined) })
	observe(t.RegisterMeshauditRecordsDroppedCallback, func(s correlate.Stats) int64 {
		return int64(s.Dropped) + c.refusedForGood.Load()
	})
	if err == nil {
		c.recognised, err = compileSources(cfg.Sources)
	}
	if err == nil {
		c.prover, err = newProver(cfg.Identity.XFCCTrusted)
	}
	if err == nil {
		c.finder, err = newFinder(c)
	}
	for _, counter := range [...]metric.Int64Counter{set.Telemetry.RecordsRefused, set.Telemetry.DroppedSpans} {
		if counter != nil {
			counter.Add(context.Background(), 0) // as of findings
		}
	}
	if err == nil {
		if c.inventory, err = inventory.Open(cfg.Identity.Workloads, cfg.Identity.WorkloadsFile, c.inventoryRead); err != nil {
			err = fmt.Errorf("`identity::workloads_file`: %w", err)
		}
	}
	if err == nil {
		c.prover.fromAnybody = cfg.Identity.UnauthenticatedCertificates
		c.prover.svids, err = svid.Open(context.Background(), cfg.Identity.Config, svid.NewObserver(set.Telemetry.Credentials, set.Logger))
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close ends a clerk that is not recording.
func (c *Clerk) Close() {
	_ = c.prover.svids.Close() // there is nothing to lose
	c.inventory.Close()
	c.telemetry.Observed.Shutdown()
}

// Logs redacts and names the evidence in ld and hands it to next. What next
// accepts is correlated; an error is next's, and then nothing is. from is what
// a receiver of this process saw of its peer, nil if it is another's.
func (c *Clerk) Logs(ctx context.Context, from *evidence.Reporter, ld plog.Logs, next func(context.Context, plog.Logs) error) error {
	in := c.intake(from)
	defer in.done()
	in.logs(ld)
	if err := next(ctx, ld); err != nil {
		c.refusedProofs.add(in.proven)
		return err
	}
	in.accepted(ctx)
	return nil
}

// Traces does with spans what Logs does. They carry what is known of their calls,
// or a copy of them is held until it is; see Setup.Enrich and HoldSpans.
func (c *Clerk) Traces(ctx context.Context, from *evidence.Reporter, td ptrace.Traces, next func(context.Context, ptrace.Traces) error) error {
	in := c.intake(from)
	defer in.done()
	in.traces(td)
	var copies []*held
	h := c.holder.Load()
	if h != nil {
		copies = in.copies() // now: next may change what it gets
	}
	enriched := in.enriched()
	if err := next(ctx, td); err != nil {
		return err
	}
	if h != nil {
		h.hold(copies, time.Now()) // first, for its record may leave at once
	}
	if enriched > 0 {
		c.telemetry.EnrichedSpans.Add(ctx, enriched)
	}
	in.accepted(ctx)
	return nil
}

// Record begins to make records and offers them to out, until Stop. First it
// reads again what `recover_from` names, with replay. It is false if records
// are made already.
func (c *Clerk) Record(ctx context.Context, out func(context.Context, plog.Logs) error, replay Replay) bool {
	if !c.recording.CompareAndSwap(false, true) {
		return false
	}
	if from := c.cfg.RecoverFrom; from.Directory != "" {
		// Records can be derived again later, evidence can't be had again:
		// a log that can't be read must not keep us from sealing.
		if n, err := c.recover(ctx, replay); err != nil {
			c.logger.Error("records from before the restart may be missing: the sealed log could not be re-read",
				zap.String("directory", from.Directory), zap.String("origin", from.Origin), zap.Error(err))
		} else if n > 0 {
			c.logger.Info("re-read evidence from before the restart", zap.Int("evidence", n))
		}
	}
	c.recorder = newRecorder(c, out)
	c.recorder.start()
	return true
}

// Stop lets all records leave and hands them on, as long as ctx allows. It is
// for who was told true by Record.
func (c *Clerk) Stop(ctx context.Context) error {
	err := c.recorder.stop(ctx)
	c.recording.Store(false)
	return err
}

// intake is one request on its way: what becomes evidence once the next
// consumer has accepted it.
type intake struct {
	*Clerk
	*scratch
	reporter *evidence.Reporter // what our own receiver saw of its peer, else nil
	sources  map[evidence.Source]int64
	spans    []passing      // if they are enriched or held
	proven   []evidence.ID  // by a certificate that was verified here
	lost     []evidence.Gap // what a receiver of this process gave up
	nodes    map[string]int // access log entries, by the proxy that wrote them
	redacted int64
	refused  map[refusal]int64
}

// scratch is memory that the next request uses again.
type scratch struct {
	hashed   []byte
	evidence []evidence.Evidence
}

// maxScratch is how many pieces of evidence are kept room for, some 1 KiB each.
const maxScratch = 1024

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
	for _, g := range in.lost {
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
	if in.evidence = in.evidence[:0]; cap(in.evidence) > maxScratch {
		in.evidence = nil
	}
	in.idle.Put(in.scratch)
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
					n = 0
					continue
				}
				before, again := in.refusedProofs.has(lr.Attributes())
				n += in.report(lr.Attributes(), again)
				certificate := in.prover.show(lr)
				n += in.redactor.LogRecord(lr)
				e, known := readLog(rl.Resource(), lr)
				body := in.body(lr, known)
				if !known && in.reporter != nil {
					e.Source = ownSource(lr.Attributes())
					if g, ok := otlp.DecodeGap(lr); ok {
						in.lost = append(in.lost, g)
					}
				}
				if known && in.reporter != nil && in.prover.raise(&e, in.reporter.SPIFFEID) {
					otlp.Encode(&e, lr)
				}
				if known && in.prover.prove(&e, certificate) {
					otlp.Encode(&e, lr)
				}
				if m := in.redactor.LogBody(lr, body); m > 0 {
					n += m
					if body == redact.LabelBody {
						e, known = readLog(rl.Resource(), lr) // what is sealed is what counts
					}
				}
				digest := func() [32]byte {
					return in.digest(func(b []byte) []byte { return appendLog(append(b, under[:]...), lr) })
				}
				e.Digest = digest()
				if again && evidenceID(&e) != before { // it bears another's id
					n += capProofs(lr.Attributes())
					e, known = readLog(rl.Resource(), lr)
					e.Digest = digest()
				}
				in.take(&e, known, lr.Attributes(), n)
				in.route(&e, lr.TraceID(), lr.Attributes())
				n = 0
			}
		}
	}
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

// report makes a record's word about its reporter true: what our own receiver
// saw, or nothing. Proofs that come over the wire are capped: nobody else
// verified a certificate for us, unless it is what we wrote ourselves, offered
// again. It returns how many values it changed.
func (in *intake) report(m pcommon.Map, again bool) int {
	switch {
	case in.reporter == nil && again:
		return stripReporter(m)
	case in.reporter == nil:
		return stripReporter(m) + capProofs(m)
	}
	r := in.reporter
	m.PutBool(semconv.EvidenceReporterAuthenticated, r.Authenticated)
	put(m, semconv.EvidenceReporterSPIFFEID, r.SPIFFEID.String())
	put(m, semconv.EvidenceReporterCertSHA256, r.CertSHA256)
	put(m, semconv.EvidenceReporterAddress, r.Address)
	return 0
}

func put(m pcommon.Map, name, v string) {
	if v == "" {
		m.Remove(name)
		return
	}
	m.PutStr(name, v)
}

var reporterNames = evidence.Reporter{}.GetAttributeNames()

func stripReporter(m pcommon.Map) int {
	n := 0
	for _, name := range reporterNames {
		if m.Remove(name) {
			n++
		}
	}
	return n
}

func capProofs(m pcommon.Map) int {
	n := 0
	for _, name := range [...]string{semconv.SourceIdentityProof, semconv.DestinationIdentityProof} {
		if v, ok := m.Get(name); ok {
			n += capProof(v)
		}
	}
	claims, ok := m.Get(semconv.EvidenceClaims)
	if !ok || claims.Type() != pcommon.ValueTypeSlice {
		return n
	}
	for _, claim := range claims.Slice().All() {
		if claim.Type() == pcommon.ValueTypeMap {
			if v, ok := claim.Map().Get(semconv.ClaimProof); ok {
				n += capProof(v)
			}
		}
	}
	return n
}

func capProof(v pcommon.Value) int {
	if p, ok := evidence.ParseProof(v.Str()); ok && p > evidence.ProofMTLSSAN {
		v.SetStr(evidence.ProofMTLSSAN.String())
		return 1
	}
	return 0
}

// take names the evidence and remembers it for the correlator; it says whether
// it is for that.
func (in *intake) take(e *evidence.Evidence, known bool, m pcommon.Map, redacted int) (correlated bool) {
	e.Shown = nil
	if !known {
		e.Role = evidence.RoleNone
	}
	e.ID = evidenceID(e)
	m.PutStr(semconv.EvidenceID, hex.EncodeToString(e.ID[:]))
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

// evidenceID is SHA-256 over the source, its own position and the digest of the
// content.
func evidenceID(e *evidence.Evidence) evidence.ID {
	b := make([]byte, 0, 256)
	b = redact.AppendString(b, string(e.Source))
	b = redact.AppendString(b, e.Position)
	return sha256.Sum256(append(b, e.Digest[:]...))
}

func (in *intake) digest(appendTo func([]byte) []byte) [32]byte {
	b := appendTo(in.hashed[:0])
	in.hashed = b
	return sha256.Sum256(b)
}

// under is a digest of what records are reported under.
func (in *intake) under(r pcommon.Resource, s pcommon.InstrumentationScope) [32]byte {
	return in.digest(func(b []byte) []byte {
		b = redact.AppendMap(b, r.Attributes(), nil)
		b = redact.AppendString(b, s.Name())
		b = redact.AppendString(b, s.Version())
		return redact.AppendMap(b, s.Attributes(), nil)
	})
}

// notContent tells the attributes that are written here and so are no part
// of what the source said.
func notContent(name string) bool {
	if !strings.HasPrefix(name, semconv.EvidencePrefix) {
		return false
	}
	switch name {
	case semconv.EvidenceID, semconv.EvidenceSource, semconv.EvidenceRole, semconv.EvidenceRedacted, semconv.EvidenceRoute:
		return true
	}
	return strings.HasPrefix(name, semconv.EvidencePrefix+"reporter.")
}

// appendSpan appends all of a span that is sealed, in one form.
func appendSpan(b []byte, s ptrace.Span) []byte {
	t, id, parent := s.TraceID(), s.SpanID(), s.ParentSpanID()
	b = append(append(append(b, t[:]...), id[:]...), parent[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(s.StartTimestamp()))
	b = binary.BigEndian.AppendUint64(b, uint64(s.EndTimestamp()))
	b = append(b, byte(s.Kind()), byte(s.Status().Code()))
	b = redact.AppendString(b, s.Name())
	b = redact.AppendMap(b, s.Attributes(), notContent)
	for _, e := range s.Events().All() {
		b = binary.BigEndian.AppendUint64(b, uint64(e.Timestamp()))
		b = redact.AppendString(b, e.Name())
		b = redact.AppendMap(b, e.Attributes(), nil)
	}
	for _, l := range s.Links().All() {
		t, id := l.TraceID(), l.SpanID()
		b = append(append(b, t[:]...), id[:]...)
	}
	return b
}

// appendLog appends all of a log record that is sealed, but when it was
// observed, in one form.
func appendLog(b []byte, lr plog.LogRecord) []byte {
	t, id := lr.TraceID(), lr.SpanID()
	b = append(append(b, t[:]...), id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(lr.Timestamp()))
	b = binary.BigEndian.AppendUint32(b, uint32(lr.SeverityNumber()))
	b = redact.AppendString(b, lr.SeverityText())
	b = redact.AppendString(b, lr.EventName())
	b = redact.AppendMap(b, lr.Attributes(), notContent)
	return redact.AppendValue(b, lr.Body())
}
