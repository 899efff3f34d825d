package sealedlogexporter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/meshaudit/meshaudit/exporter/sealedlogexporter/internal/metadata"
	"github.com/meshaudit/meshaudit/internal/erasure"
	"github.com/meshaudit/meshaudit/internal/objectstore"
	"github.com/meshaudit/meshaudit/seal"
)

// writer is the log of one component id, shared by the exporters of its
// signals: the first face to start opens it, the last to shut down closes it.
type writer struct {
	cfg *Config
	set component.TelemetrySettings

	mu           sync.Mutex
	users        int
	log          *seal.Writer
	stopErasures func()
	identity     *identity // nil: no SPIFFE identity
	keys         *keys
	telemetry    *metadata.TelemetryBuilder

	bucket  *objectstore.Bucket  // nil: the store is a directory
	journal *objectstore.Journal // nil: nothing is in front of the bucket

	status struct { // told from several goroutines
		mu          sync.Mutex
		forked      error // for good
		fault       error // of the store
		unsent      error // to the bucket
		unwitnessed error
		unstamped   error
	}
}

func newWriter(cfg *Config, set component.TelemetrySettings) *writer {
	return &writer{cfg: cfg, set: set}
}

// face is one signal's exporter; it uses the writer between its start and its
// first shutdown.
type face struct {
	*writer
	started bool
}

func (f *face) start(ctx context.Context, host component.Host) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.users == 0 {
		if err := f.open(ctx, host); err != nil {
			return err
		}
	}
	f.users++
	f.started = true
	return nil
}

// shutdown works unstarted and more than once.
func (f *face) shutdown(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.started {
		return nil
	}
	f.started = false
	if f.users--; f.users > 0 {
		return nil
	}
	f.stopErasures()
	err := f.log.Close(ctx)
	err = errors.Join(err, f.closeStore(ctx), f.identity.close(), f.keys.close())
	f.telemetry.Shutdown()
	return err
}

func (w *writer) open(ctx context.Context, host component.Host) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, w.identity.close(), w.keys.close())
		}
	}()
	origin, err := w.cfg.origin()
	if err != nil {
		return err
	}
	k, err := w.cfg.loadKeys(origin, w.set.Logger)
	if err != nil {
		return err
	}
	w.keys = k
	policy, err := w.cfg.Witnesses.policy()
	if err != nil {
		return err
	}
	client, err := w.cfg.Witnesses.client(ctx, host, w.set)
	if err != nil {
		return err
	}
	if w.telemetry, err = metadata.NewTelemetryBuilder(w.set); err != nil {
		return err
	}
	w.telemetry.SealedLogFaults.Add(ctx, 0) // so that the first one is an increase
	var svid seal.Identity                  // nil, not a nil *identity
	if w.cfg.SPIFFE.WorkloadAPI != "" {
		if w.identity, err = w.cfg.SPIFFE.connect(ctx); err != nil {
			w.telemetry.Shutdown()
			return err
		}
		svid = w.identity
	}
	cfg := seal.Config{
		Root:            w.cfg.Directory,
		Origin:          origin,
		LogKey:          k.log,
		PreviousLogKey:  k.previous,
		Identity:        svid,
		Rotated:         w.rotated,
		Chain:           k.chain,
		FreshChain:      w.cfg.Keys.Chain == chainFresh,
		Auditors:        k.auditors,
		Heartbeat:       w.cfg.Heartbeat,
		EpochMaxAge:     w.cfg.EpochMaxAge,
		Retention:       seal.Retention{MaxAge: w.cfg.Retention.MaxAge, MaxBytes: w.cfg.Retention.MaxBytes},
		SegmentMaxBytes: w.cfg.SegmentMaxBytes,
		SegmentMaxAge:   w.cfg.SegmentMaxAge,
		MaxPendingBytes: w.cfg.MaxPendingBytes,
		Quarantine:      w.cfg.OnDamagedTail == damageQuarantine,
		Witnesses:       policy,
		WitnessClient:   client,
		WitnessTimeout:  w.cfg.Witnesses.Timeout,
		AckWitnessed:    w.cfg.Witnesses.Ack == ackWitnessed,
		Witnessed:       func(r seal.Witnessing) { w.witnessed(host, r) },
		Observe:         w.observe,
		Fault:           w.faults(host, &w.status.fault, "Sealed log cannot be written; senders are told to try again until it can"),
	}
	if dir := w.cfg.EraseRequests; dir != "" {
		if err := erasure.CheckDir(dir); err != nil {
			w.telemetry.Shutdown()
			return fmt.Errorf("`erase_requests`: %w", err)
		}
	}
	if err := w.stampBy(ctx, host, &cfg); err != nil {
		w.telemetry.Shutdown()
		return err
	}
	if err := w.openStore(&cfg, host); err != nil {
		w.telemetry.Shutdown()
		return err
	}
	if w.log, err = seal.Open(cfg); err != nil {
		err = errors.Join(err, w.closeStore(context.Background()))
		w.telemetry.Shutdown()
		return err
	}
	if w.journal != nil {
		w.journal.Start(w.log.Closed, w.log.Stop)
		if err := w.telemetry.RegisterSealedLogJournalBytesCallback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(w.journal.Pending())
			return nil
		}); err != nil {
			return err
		}
	}
	w.serveErasures(origin)
	w.set.Logger.Info("Sealed log is open", zap.String("origin", origin), zap.String("directory", w.cfg.Directory))
	return nil
}

// serveErasures looks for requests to erase until stopErasures.
func (w *writer) serveErasures(origin string) {
	w.stopErasures = func() {}
	if w.cfg.EraseRequests == "" {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		erasure.Serve(ctx, w.cfg.EraseRequests, origin, w.log.Erase, func(r *erasure.Request, err error) {
			switch {
			case r == nil:
				w.set.Logger.Error("A request to erase cannot be read", zap.Error(err))
			case err != nil:
				w.set.Logger.Error("Records were not erased", zap.String("by", r.By), zap.Error(err))
			default:
				w.set.Logger.Warn("Records were erased", zap.Int("records", r.Count()), zap.String("by", r.By), zap.String("reason", r.Reason))
			}
		})
	})
	w.stopErasures = func() { cancel(); serving.Wait() }
}

// rotatedFile, in the directory of keys, has the trust lines of the last
// rotation, if they can be written there.
const rotatedFile = "trust.rotated"

func (w *writer) rotated(r seal.Rotation) {
	file := filepath.Join(w.cfg.keysDirectory(), rotatedFile)
	if err := os.WriteFile(file, []byte(r.TrustLines()), 0o644); err != nil {
		file = ""
	}
	w.set.Logger.Warn("The log key was replaced. Put these lines in the place of the old key's in every trust file, then remove the previous key.",
		zap.String("trust", r.TrustLines()), zap.String("file", file))
}

func (w *writer) observe(c seal.Commit) {
	ctx := context.Background()
	w.telemetry.SealedLogCommitDuration.Record(ctx, c.Took.Seconds())
	if c.Err != nil {
		return
	}
	w.telemetry.SealedLogCommits.Add(ctx, 1)
	w.telemetry.SealedLogEntries.Add(ctx, int64(c.Entries))
	w.telemetry.SealedLogRecords.Add(ctx, int64(c.Records))
	w.telemetry.SealedLogStoredBytes.Add(ctx, c.StoredBytes)
	if w.journal != nil {
		w.journal.Written(c.StoredBytes)
	}
}

// faults is a callback for one part of the writer. It is told of every error that
// the part goes on from by itself, and nil when it works again; part is where the
// error that holds is kept.
func (w *writer) faults(host component.Host, part *error, message string) func(error) {
	return func(err error) {
		w.status.mu.Lock()
		defer w.status.mu.Unlock()
		var locked *seal.LockedError
		switch {
		case errors.As(err, &locked):
			w.set.Logger.Warn("A lock still keeps what is to be pruned or erased", zap.Error(err))
			return
		case isFork(err):
			w.status.forked = err
			w.telemetry.SealedLogFaults.Add(context.Background(), 1)
			w.set.Logger.Error("Another writer is at this sealed log: this one has stopped for good, and refuses everything", zap.Error(err))
		case err != nil:
			*part = err
			w.telemetry.SealedLogFaults.Add(context.Background(), 1)
			w.set.Logger.Error(message, zap.Error(err))
		case *part == nil:
			return
		default:
			*part = nil
			w.set.Logger.Info("Sealed log has recovered")
		}
		w.report(host)
	}
}

// append seals one marshaled request. Failures of disk, lock and fsync are
// retryable; what no retry can help is permanent.
func (w *writer) append(ctx context.Context, sig seal.Signal, msg []byte, err error) error {
	if err != nil {
		return consumererror.NewPermanent(err)
	}
	if w.journal != nil {
		if err := w.journal.Full(); err != nil {
			return err
		}
	}
	err = w.log.Append(ctx, sig, msg)
	var fault *seal.FaultError
	if err == nil || errors.As(err, &fault) || errors.Is(err, seal.ErrClosed) || ctx.Err() != nil {
		return err
	}
	return consumererror.NewPermanent(err)
}
