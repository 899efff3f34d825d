package query

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/meshaudit/meshaudit/seal"
)

// DamageError: a log could not be read on from some place.
type DamageError struct {
	Origin string
	Err    error // names the place
}

func (e *DamageError) Error() string { return fmt.Sprintf("log of %s: %v", e.Origin, e.Err) }
func (e *DamageError) Unwrap() error { return e.Err }

// Origins lists the logs of a store that one of the patterns matches; no
// pattern matches all. It is an error if there is none.
func Origins(store seal.Store, patterns []Glob) ([]string, error) {
	return originsSince(store, patterns, nil)
}

// originsSince is Origins, where the logs that were read have to be there still.
func originsSince(store seal.Store, patterns []Glob, read places) ([]string, error) {
	all, err := store.Origins()
	if err != nil {
		return nil, fmt.Errorf("cannot read the store: %w", err)
	}
	for o := range read {
		if !slices.Contains(all, o) {
			return nil, &DamageError{o, errors.New("it was there, and is gone; run: meshaudit verify")}
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no log in %s: a store is the `directory` that the sealed_log exporter was given, or its bucket, s3://BUCKET/PREFIX", store)
	}
	if len(patterns) == 0 {
		return all, nil
	}
	var some []string
	for _, o := range all {
		if matchAny(patterns, o) {
			some = append(some, o)
		}
	}
	if len(some) == 0 {
		return nil, fmt.Errorf("no log of that origin in %s; it holds %s", store, strings.Join(all, ", "))
	}
	return some, nil
}

// Entries calls fn for the entries of the given logs, in the order in which
// they were sealed; those for which skip returns true come without their
// sections. The error of fn ends the walk. Errors of a log end that log alone,
// and are returned at the end, as *DamageError if it is the log's content that
// cannot be read.
func Entries(ctx context.Context, store seal.Store, origins []string, skip func(*seal.Header) bool, fn func(*seal.Entry) error) error {
	return merge(ctx, store, origins, places{}, skip, func(*seal.Entry) bool { return true }, fn)
}

// places are how far logs were read, by origin.
type places map[string]seal.Place

// merge is Entries for those entries alone that keep wants, from where each log was read
// to on.
func merge(ctx context.Context, store seal.Store, origins []string, read places, skip func(*seal.Header) bool, keep func(*seal.Entry) bool, fn func(*seal.Entry) error) error {
	type log struct {
		origin string
		head   *seal.Entry
		next   func() (*seal.Entry, error, bool)
	}
	var logs []*log
	var failed []error
	advance := func(l *log) (more bool) {
		e, err, ok := l.next()
		if err != nil {
			failed = append(failed, classify(l.origin, err))
			return false
		}
		l.head = e
		return ok
	}
	for _, o := range origins {
		opened, err := store.OpenLog(o)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		next, stop := iter.Pull2(entries(ctx, opened, read, skip, keep))
		defer stop()
		if l := (&log{origin: o, next: next}); advance(l) {
			logs = append(logs, l)
		}
	}
	for len(logs) > 0 {
		oldest := 0
		for i, l := range logs {
			if l.head.Sealed < logs[oldest].head.Sealed {
				oldest = i
			}
		}
		l := logs[oldest]
		if err := fn(l.head); err != nil {
			var damage *DamageError
			if !errors.As(err, &damage) {
				return err
			}
			failed = append(failed, err)
			logs = append(logs[:oldest], logs[oldest+1:]...)
		} else if !advance(l) {
			logs = append(logs[:oldest], logs[oldest+1:]...)
		}
	}
	return errors.Join(failed...)
}

// entries turns a walk into a sequence; an error ends it.
func entries(ctx context.Context, l *seal.Log, read places, skip func(*seal.Header) bool, keep func(*seal.Entry) bool) iter.Seq2[*seal.Entry, error] {
	return func(yield func(*seal.Entry, error) bool) {
		stopped := false
		to, err := l.EntriesFrom(ctx, read[l.Origin], skip, func(e *seal.Entry) error {
			if keep(e) && !yield(e, nil) {
				stopped = true
				return seal.ErrStop
			}
			return nil
		})
		read[l.Origin] = to
		if err != nil && !stopped {
			yield(nil, err)
		}
	}
}

// classify tells a log that is damaged from one that cannot be got at.
func classify(origin string, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("log of %s: %w", origin, err)
	}
	return &DamageError{origin, err}
}

// errLimit ends a walk that has given enough records.
var errLimit = errors.New("limit")

// Stats say how a query went.
type Stats struct {
	Records uint64 // found
	Batches uint64 // in the logs, as far as they were read
	Opened  uint64 // of those: decompressed and searched
	Limited bool   // the limit was reached

	NoDecision bool // none of the records in PolicyOf is a decision, or is there
}

// Run calls fn for every record that matches, in the order in which they were
// sealed. The error of fn ends it. Otherwise see Entries for the errors; what
// could be read has been given to fn by then.
func (q *Query) Run(ctx context.Context, store seal.Store, fn func(*Record) error) (stats Stats, err error) {
	origins, err := Origins(store, q.Origins)
	if err != nil {
		return stats, err
	}
	if err := q.policies(ctx, store); err != nil {
		return stats, err
	}
	stats.NoDecision = len(q.PolicyOf) > 0 && len(q.decisions) == 0
	_, err = q.run(ctx, store, origins, places{}, &stats, fn)
	return stats, err
}

// Follow is Run, and goes on with what is sealed then and with logs that begin, until ctx
// is done, which is no error, or the limit is reached. It looks for more at each
// interval, and calls idle before, when fn has been given all that is there: with an
// error if the store could not be read, which it tries again. An error
// of fn or idle ends it, and so does a damaged log. Changes and PolicyOf are of what is sealed
// already, and not asked for here.
func (q *Query) Follow(ctx context.Context, store seal.Store, interval time.Duration, fn func(*Record) error, idle func(error) error) (stats Stats, err error) {
	read := places{}
	var damage *DamageError
	for first := true; ; first = false {
		origins, err := originsSince(store, q.Origins, read)
		ended := false
		if err == nil {
			ended, err = q.run(ctx, store, origins, read, &stats, fn)
		}
		if ctx.Err() != nil {
			return stats, nil
		}
		if ended || stats.Limited || err != nil && (first || errors.As(err, &damage)) {
			return stats, err
		}
		if err := idle(err); err != nil {
			return stats, err
		}
		select {
		case <-ctx.Done():
			return stats, nil
		case <-time.After(interval):
		}
	}
}

// run is Run for what follows the places that were read; ended says that fn returned the
// error.
func (q *Query) run(ctx context.Context, store seal.Store, origins []string, read places, stats *Stats, fn func(*Record) error) (ended bool, err error) {
	q.whole, q.beginnings = map[string]bool{}, nil
	for _, id := range q.IDs {
		if len(id) == idDigits {
			q.whole[id] = true
		} else {
			q.beginnings = append(q.beginnings, id)
		}
	}
	keys := q.filterKeys()
	keep := func(e *seal.Entry) bool {
		if e.Kind != seal.KindBatch {
			return false
		}
		stats.Batches++
		return !q.maySkip(e.Header) && mayContain(e.Filter(), keys)
	}
	err = merge(ctx, store, origins, read, q.maySkip, keep, func(e *seal.Entry) error {
		stats.Opened++
		sig, msg, err := e.Body()
		if err != nil {
			return damaged(e, err)
		}
		var fromCaller error
		err = decode(e, sig, msg, func(r *Record) error {
			if !q.match(r) {
				return nil
			}
			stats.Records++
			if fromCaller = fn(r); fromCaller == nil && q.Limit > 0 && stats.Records == uint64(q.Limit) {
				fromCaller, stats.Limited = errLimit, true
			}
			return fromCaller
		})
		if fromCaller != nil {
			ended = true
			return fromCaller
		}
		if err != nil {
			return damaged(e, fmt.Errorf("entry %d: %w", e.Header.Entry, err))
		}
		return nil
	})
	if err == errLimit {
		err = nil
	}
	return ended, err
}

func damaged(e *seal.Entry, err error) error {
	return &DamageError{e.Origin, fmt.Errorf("segment %s, offset %d: %w; run: meshaudit verify", e.Segment, e.Offset, err)}
}
