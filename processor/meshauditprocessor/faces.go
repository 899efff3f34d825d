package meshauditprocessor

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/zap"

	"github.com/meshaudit/meshaudit/internal/objectstore"
	"github.com/meshaudit/meshaudit/seal"
)

// tracesFace is the processor in a traces pipeline.
type tracesFace struct {
	face
	next consumer.Traces
}

func (*tracesFace) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: true}
}

func (f *tracesFace) Start(context.Context, component.Host) error {
	_, err := f.start()
	return err
}

func (f *tracesFace) Shutdown(context.Context) error {
	f.stop()
	return nil
}

func (f *tracesFace) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	c, err := f.running()
	if err != nil {
		return err
	}
	in := c.intake(ctx)
	defer in.done()
	in.traces(td)
	if err := f.next.ConsumeTraces(ctx, td); err != nil {
		return err
	}
	in.accepted(ctx)
	return nil
}

// logsFace is the processor in a logs pipeline. Records leave through it.
type logsFace struct {
	face
	next     consumer.Logs
	recorder *recorder
	replay   replayFunc // nil: replayStore
}

type replayFunc func(ctx context.Context, dir, origin string, window time.Duration,
	fn func(sig seal.Signal, sealedAt time.Time, message []byte) error) error

func replayStore(ctx context.Context, dir, origin string, window time.Duration, fn func(seal.Signal, time.Time, []byte) error) error {
	store := seal.Dir(dir) // also if it is a journal: what is recent is in it
	if objectstore.IsName(dir) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var err error
		if store, err = objectstore.Open(ctx, dir); err != nil {
			return err
		}
	}
	return store.Replay(ctx, origin, window, fn)
}

func (*logsFace) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: true}
}

func (f *logsFace) Start(ctx context.Context, _ component.Host) error {
	c, err := f.start()
	if err != nil {
		return err
	}
	if f.cfg.tags() {
		return nil // no records come of it
	}
	if !c.recording.CompareAndSwap(false, true) {
		f.stop()
		return f.cfg.shared.errTwoLogs(f.set.ID)
	}
	if from := f.cfg.RecoverFrom; from.Directory != "" {
		replay := f.replay
		if replay == nil {
			replay = replayStore
		}
		// Records can be derived again later, evidence can't be had again:
		// a log that can't be read must not keep us from sealing.
		if n, err := c.recover(ctx, replay); err != nil {
			c.logger.Error("records from before the restart may be missing: the sealed log could not be re-read",
				zap.String("directory", from.Directory), zap.String("origin", from.Origin), zap.Error(err))
		} else if n > 0 {
			c.logger.Info("re-read evidence from before the restart", zap.Int("evidence", n))
		}
	}
	f.recorder = newRecorder(c, f.next)
	f.recorder.start()
	return nil
}

func (f *logsFace) Shutdown(ctx context.Context) error {
	c, err := f.running()
	if err != nil {
		return nil // never started, or stopped already
	}
	if f.recorder != nil {
		err = f.recorder.stop(ctx)
		c.recording.Store(false)
	}
	f.stop()
	return err
}

func (f *logsFace) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	c, err := f.running()
	if err != nil {
		return err
	}
	in := c.intake(ctx)
	defer in.done()
	in.logs(ld)
	if err := f.next.ConsumeLogs(ctx, ld); err != nil {
		return err
	}
	in.accepted(ctx)
	return nil
}
