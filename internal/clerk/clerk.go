// Package clerk does what the meshaudit components do: it redacts and names
// evidence on its way, and derives audit records from what was accepted. It
// knows no collector beyond pdata; components give it their pipelines as
// functions.
//
// The way of a request: a clerk (clerk.go) takes it in (intake.go), where decoders turn
// lines into evidence (sources.go, lines.go), what evidence says of its reporter is
// made true (reporter.go) and raised by certificates (identity.go), and each piece gets its
// id (digest.go) and route (tag.go). What was accepted is correlated, and the recorder
// (recorder.go) hands on the records (records.go), findings (findings.go) and gaps
// (gaps.go). Spans that pass are written on or held (spans.go).
package clerk

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/inventory"
	"github.com/meshaudit/meshaudit/internal/ledger"
	"github.com/meshaudit/meshaudit/internal/redact"
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
	correlator *correlate.Sharded
	telemetry  Telemetry
	logger     *zap.Logger
	wake       chan struct{} // tells the recorder that evidence came
	ledger     *ledger.Ledger
	gaps       gapQueue
	finder     *finder
	prover     prover
	inventory  *inventory.Inventory // nil: the configuration says nothing of workloads

	refusedProofs refusedProofs
	told          sync.Map // refusals of lines that the log has told of
	strays        [strayPath + 1]atomic.Bool

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
	Amendments, Credentials, EnrichedSpans, Evidence, Findings, FindingsMissed, Records, RecordsRefused, Redacted, RefusedLines metric.Int64Counter
	// DroppedSpans is of who holds spans.
	DroppedSpans metric.Int64Counter
	Lag          metric.Float64Histogram
	// Observed are those that are asked; the clerk shuts them down.
	Observed interface {
		RegisterMeshauditDuplicatesCallback(metric.Int64Callback) error
		RegisterMeshauditForgottenCallback(metric.Int64Callback) error
		RegisterMeshauditLeftEarlyCallback(metric.Int64Callback) error
		RegisterMeshauditMaxPendingCallback(metric.Int64Callback) error
		RegisterMeshauditMaxPendingBytesCallback(metric.Int64Callback) error
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
		correlator: correlate.NewSharded(cfg.correlator(), cfg.Shards), telemetry: set.Telemetry, logger: set.Logger,
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
	observe(t.RegisterMeshauditMaxPendingCallback, func(correlate.Stats) int64 { return int64(cfg.MaxPending) })
	observe(t.RegisterMeshauditMaxPendingBytesCallback, func(correlate.Stats) int64 { return int64(cfg.MaxPendingBytes) })
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
	for _, counter := range [...]metric.Int64Counter{set.Telemetry.FindingsMissed, set.Telemetry.RecordsRefused, set.Telemetry.DroppedSpans} {
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
// reads again what `recover_from` names, with replay, and offers the records that
// are due of that: no evidence comes before they are out, however often we
// crash. It is false if records are made already.
func (c *Clerk) Record(ctx context.Context, out func(context.Context, plog.Logs) error, replay Replay) bool {
	if !c.recording.CompareAndSwap(false, true) {
		return false
	}
	c.recorder = newRecorder(c, out)
	if from := c.cfg.RecoverFrom; from.Directory != "" {
		// Records can be derived again later, evidence can't be had again:
		// a log that can't be read must not keep us from sealing.
		if n, err := c.recover(ctx, replay); err != nil {
			c.logger.Error("records from before the restart may be missing: the sealed log could not be re-read",
				zap.String("directory", from.Directory), zap.String("origin", from.Origin), zap.Error(err))
		} else if n > 0 {
			c.logger.Info("re-read evidence from before the restart", zap.Int("evidence", n))
		}
		_ = c.recorder.together(func() error { return c.recorder.deliver(ctx) }) // what is refused is kept
	}
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
