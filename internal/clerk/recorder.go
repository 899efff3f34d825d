package clerk

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

const (
	tick        = 100 * time.Millisecond // how late a record may leave
	longestWait = 5 * time.Second        // between offers of refused records
	batchSize   = 500                    // records in one request
)

// offer hands records on; an error keeps them for a later offer.
type offer func(context.Context, plog.Logs) error

// recorder moves the correlator's clock and hands its records on. It is one
// goroutine.
type recorder struct {
	*Clerk
	offer  offer
	ctx    context.Context // ends when the recorder is stopped
	cancel context.CancelFunc
	ended  chan struct{}
}

func newRecorder(c *Clerk, offer offer) *recorder {
	r := &recorder{Clerk: c, offer: offer, ended: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

func (r *recorder) start() { go r.run() }

func (r *recorder) run() {
	defer close(r.ended)
	r.deliverOften(r.ctx, r.wake, func(now time.Time) {
		r.correlator.Advance(now)
		r.finder.examine(nil, now)
	}, r.deliver, "records are refused; they are kept and offered again")
}

// stop lets all records leave and hands them on, as long as ctx allows.
func (r *recorder) stop(ctx context.Context) error {
	r.cancel()
	<-r.ended
	r.correlator.Flush()
	err := deliverAll(ctx, func(ctx context.Context) error {
		if err := r.deliver(ctx); err != nil {
			return err
		}
		return r.finder.end(ctx, r.offer)
	})
	if err != nil {
		return fmt.Errorf("records are left over, recover_from brings them back: %w", err)
	}
	return nil
}

// deliverOften delivers until ctx ends: at each tick and when it is woken, less
// often while that is refused. before comes first, each time.
func (c *Clerk) deliverOften(ctx context.Context, wake <-chan struct{}, before func(now time.Time), deliver func(context.Context) error, refused string) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var refusedUntil time.Time
	wait := tick
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-ticker.C:
		}
		now := time.Now()
		before(now)
		if now.Before(refusedUntil) {
			continue
		}
		if err := deliver(ctx); err != nil {
			if ctx.Err() == nil && wait == tick {
				c.logger.Warn(refused, zap.Error(err))
			}
			wait = min(2*wait, longestWait)
			refusedUntil = now.Add(wait)
			continue
		}
		wait, refusedUntil = tick, time.Time{}
	}
}

// deliverAll delivers until nothing is left, as long as ctx allows; without a
// deadline until it was refused for some seconds.
func deliverAll(ctx context.Context, deliver func(context.Context) error) error {
	for wait := tick; ; wait = min(2*wait, longestWait) {
		err := deliver(ctx)
		if err == nil {
			return nil
		}
		if _, bounded := ctx.Deadline(); !bounded && wait >= longestWait {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// deliver hands over what is ready. What the next consumer will never take is
// dropped, alone; its evidence is sealed.
func (r *recorder) deliver(ctx context.Context) error {
	if err := r.deliverGaps(ctx, r.offer); err != nil {
		return err
	}
	if err := r.finder.deliver(ctx, r.offer); err != nil {
		return err
	}
	_, err := r.correlator.Deliver(batchSize, func(batch []*correlate.Record) error {
		return r.send(ctx, batch)
	})
	return err
}

func (r *recorder) send(ctx context.Context, batch []*correlate.Record) error {
	for _, rec := range batch {
		if !rec.Examined {
			r.complete(rec)
		}
	}
	r.finder.examine(batch, time.Now())
	// Before the records: after a crash between the two they come out again.
	if err := r.finder.deliver(ctx, r.offer); err != nil {
		return err
	}
	err := r.offer(ctx, r.recordsToLogs(batch, time.Now()))
	switch {
	case err == nil:
		r.count(ctx, batch)
		if h := r.holder.Load(); h != nil {
			h.left(batch)
		}
		return nil
	case !r.permanent(err):
		r.telemetry.RecordsRefused.Add(ctx, 1)
		return err
	case len(batch) == 1:
		r.refusedForGood.Add(1)
		r.logger.Error("a record was refused for good and is dropped; its evidence is sealed", zap.Error(err))
		return nil
	}
	// One of them is at fault. A retryable refusal of a later one offers the
	// earlier ones again; records have ids.
	for i := range batch {
		if err := r.send(ctx, batch[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (r *recorder) count(ctx context.Context, batch []*correlate.Record) {
	type kind struct{ event, state, join string }
	counts := make(map[kind]int64)
	amendments := int64(0)
	now := time.Now().UnixNano()
	for _, rec := range batch {
		if rec.EventName != semconv.EventAmendment && rec.End > 0 {
			r.telemetry.Lag.Record(ctx, max(0, time.Duration(now-rec.End).Seconds()))
		}
		counts[kind{rec.EventName, rec.State.String(), rec.Join.Method.String()}]++
		if rec.EventName == semconv.EventAmendment {
			amendments++
		}
	}
	for k, n := range counts {
		r.telemetry.Records.Add(ctx, n, metric.WithAttributeSet(attribute.NewSet(
			attribute.String("event", k.event), attribute.String("state", k.state), attribute.String("join", k.join))))
	}
	if amendments > 0 {
		r.telemetry.Amendments.Add(ctx, amendments)
	}
}
