package clerk

import (
	"context"
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
	longestWait = 5 * time.Second        // between offers of what is refused
	batchSize   = 500                    // records, or spans, in one request
	maxOffers   = 32                     // of records, under way at once
)

// offer hands records on; an error keeps them for a later offer.
type offer func(context.Context, plog.Logs) error

// recorder moves the correlator's clock and hands its records on, in several
// requests at once if they are taken slowly.
type recorder struct {
	*Clerk
	offer offer
	delivery
}

func newRecorder(c *Clerk, offer offer) *recorder {
	r := &recorder{Clerk: c, offer: offer}
	r.delivery = delivery{
		wake: c.wake, atOnce: maxOffers, ready: c.correlator.Ready, deliver: r.deliver,
		before: func(now time.Time) {
			c.correlator.Advance(now)
			c.finder.examine(nil, now)
		},
		refused: func(err error) { c.logger.Warn("records are refused; they are kept and offered again", zap.Error(err)) },
	}
	return r
}

// stop lets all records leave and hands them on, as long as ctx allows.
func (r *recorder) stop(ctx context.Context) error {
	r.end(ctx)
	r.correlator.Flush()
	err := r.deliverAll(ctx, r.deliver)
	if err == nil {
		err = r.deliverAll(ctx, func(ctx context.Context) error { return r.finder.end(ctx, r.offer) })
	}
	if err != nil {
		return fmt.Errorf("records are left over, recover_from brings them back: %w", err)
	}
	return nil
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
		return r.send(ctx, batch)
	})
	return err
}

func (r *recorder) send(ctx context.Context, batch []*correlate.Record) error {
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
	half := len(batch) / 2
	if err := r.send(ctx, batch[:half]); err != nil {
		return err
	}
	return r.send(ctx, batch[half:])
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
