package clerk

import (
	"context"
	"errors"
	"sync"
	"time"
)

// delivery delivers what is ready until it is ended: when it is woken, at each
// tick, and less often while that is refused.
type delivery struct {
	wake    <-chan struct{}
	atOnce  int                         // calls of deliver
	ready   func() int                  // records or spans
	before  func(now time.Time)         // comes before, each time
	deliver func(context.Context) error // until nothing is ready
	refused func(error)                 // is told of the first of several errors

	ending chan struct{}
	ended  chan struct{}
	cancel context.CancelFunc // of what is under way
}

func (d *delivery) start() {
	ctx, cancel := context.WithCancel(context.Background())
	d.ending, d.ended, d.cancel = make(chan struct{}), make(chan struct{}), cancel
	go d.run(ctx)
}

// end waits for what is under way, as long as ctx allows.
func (d *delivery) end(ctx context.Context) {
	defer d.cancel()
	defer context.AfterFunc(ctx, d.cancel)()
	close(d.ending)
	<-d.ended
}

func (d *delivery) run(ctx context.Context) {
	defer close(d.ended)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	results := make(chan error)
	underWay := 0
	var refusedUntil time.Time
	wait := tick
	for {
		ticked := false
		select {
		case <-d.ending:
			for ; underWay > 0; underWay-- {
				<-results
			}
			return
		case <-d.wake:
		case <-ticker.C:
			ticked = true
		case err := <-results:
			underWay--
			switch {
			case err == nil:
				wait, refusedUntil = tick, time.Time{}
			case !time.Now().Before(refusedUntil):
				if wait == tick {
					d.refused(err)
				}
				wait = min(2*wait, longestWait)
				refusedUntil = time.Now().Add(wait)
			}
		}
		now := time.Now()
		d.before(now)
		if now.Before(refusedUntil) {
			continue
		}
		// One more for each full request; for less only if none is under way,
		// or takes long.
		ready := d.ready()
		more := ready / batchSize
		if ticked || underWay == 0 && ready > 0 {
			more++
		}
		for ; more > 0 && underWay < d.atOnce; more-- {
			underWay++
			go func() { results <- d.deliver(ctx) }()
		}
	}
}

// deliverAll calls deliver until nothing is left, as long as ctx allows; without a
// deadline until it was refused for some seconds.
func (d *delivery) deliverAll(ctx context.Context, deliver func(context.Context) error) error {
	return d.together(func() error {
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
	})
}

// together calls f as often at once as what is ready asks for.
func (d *delivery) together(f func() error) error {
	errs := make([]error, min(d.ready()/batchSize+1, d.atOnce))
	var calls sync.WaitGroup
	for i := range errs {
		calls.Go(func() { errs[i] = f() })
	}
	calls.Wait()
	return errors.Join(errs...)
}
