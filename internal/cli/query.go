package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/meshaudit/meshaudit/internal/objectstore"
	"github.com/meshaudit/meshaudit/internal/query"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/seal"
)

// events are offered by shell completion.
var events = []string{
	semconv.EventRequest, semconv.EventConnection, semconv.EventHandshake, semconv.EventAuthn, semconv.EventAuthz,
	semconv.EventConfigChange, semconv.EventOperatorAction, semconv.EventIdentityIssue, semconv.EventEvidenceGap,
	semconv.EventFinding, semconv.EventAmendment, semconv.EventEvidence,
}

func newQuery(s *streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "query STORE",
		Short: "Find audit records in a store's logs",
		Long: `Finds audit records, in the order in which they were sealed. A flag may be given
more than once, or a list: one value must match. Different flags must all match.
In --from, --to, --path, --event and --origin, * matches any run of characters,
"/" included.

It needs no key and proves nothing; meshaudit verify does.

Exit code:
  0  the logs were read to their end; also if nothing matched
  1  a log is damaged; what could be read before that is on stdout
  3  the command could not do its work; also for bad usage`,
		Example: `  meshaudit query run/store --verdict deny --since 24h
  meshaudit query run/store --to '*/sa/payments' --path '/payments/*' -o json
  meshaudit query run/store --event mesh.finding,mesh.evidence.gap
  meshaudit query run/store --follow --since 5m --verdict deny
  meshaudit query run/store --policy-of 55816f96
  meshaudit query run/store --policy-change 9c41ab02
  meshaudit query run/store --event '*' -o otlp > all.jsonl`,
		Args: oneStore,
	}
	f := c.Flags()
	since := f.String("since", "", "not before this `TIME`: 2025-11-23, 2025-11-23T10:00:00Z, or ago: 15m, 24h, 7d")
	until := f.String("until", "", "before this `TIME`")
	traces := f.StringSlice("trace", nil, "trace `ID`, 32 hexadecimal digits")
	from := f.StringSlice("from", nil, "SPIFFE `ID` of the caller; '*/sa/frontend' for any that ends so")
	to := f.StringSlice("to", nil, "SPIFFE `ID` of the called workload")
	paths := f.StringSlice("path", nil, "`PATH` that was called: '/orders/*'; or /service/method")
	verdicts := f.StringSlice("verdict", nil, "`VERDICT`: "+strings.Join(query.Verdicts, ", "))
	names := f.StringSlice("event", nil, "event `NAME`: mesh.request, 'mesh.*', '*' for all that was sealed\n(default every audit record, without the evidence)")
	ids := f.StringSlice("id", nil, "record or evidence `ID`, or the beginning of one; also what amends that record")
	changes := f.StringSlice("policy-change", nil, "record `ID` of a mesh.config.change: the decisions made under it")
	policyOf := f.StringSlice("policy-of", nil, "record `ID` of a decision: the changes of its policy up to then")
	users := f.StringSlice("user", nil, "`NAME` of a person or client, user.id, exactly")
	decisions := f.StringSlice("decision", nil, "`ID` that a policy engine gave its decision, exactly")
	origins := f.StringSlice("origin", nil, "only logs of this `ORIGIN`")
	limit := f.Int("limit", 0, "stop after `N` records")
	follow := f.BoolP("follow", "f", false, "go on with what is sealed from now on, until interrupted")
	form := output(c, "table", "json", "otlp")
	complete(c, "verdict", query.Verdicts...)
	complete(c, "event", events...)

	c.RunE = func(c *cobra.Command, args []string) error {
		q := &query.Query{Verdicts: *verdicts, Users: *users, Decisions: *decisions, Limit: *limit}
		now := time.Now()
		var errs [9]error
		q.Traces, errs[0] = parseAll("trace", *traces, parseTrace)
		q.From, errs[1] = parseAll("from", *from, query.ParseIDGlob)
		q.To, errs[2] = parseAll("to", *to, query.ParseIDGlob)
		q.Paths, errs[3] = parseAll("path", *paths, parsePath)
		q.Events, errs[4] = parseAll("event", *names, query.ParseGlob)
		q.IDs, errs[5] = parseAll("id", *ids, parseID)
		q.Origins, errs[6] = parseAll("origin", *origins, query.ParseGlob)
		q.Changes, errs[7] = parseAll("policy-change", *changes, parseID)
		q.PolicyOf, errs[8] = parseAll("policy-of", *policyOf, parseID)
		err := errors.Join(errs[:]...)
		for _, bound := range []struct {
			flag, text string
			t          *time.Time
		}{{"since", *since, &q.Since}, {"until", *until, &q.Until}} {
			if bound.text == "" {
				continue
			}
			t, e := query.ParseTime(bound.text, now)
			if e != nil {
				err = errors.Join(err, fmt.Errorf("--%s: %w", bound.flag, e))
			}
			*bound.t = t
		}
		if *follow && (len(q.Changes)+len(q.PolicyOf) > 0 || *until != "") {
			err = errors.Join(err, errors.New("--follow goes on: leave out --until, --policy-of and --policy-change"))
		}
		if err = errors.Join(err, q.Validate()); err != nil {
			return usage(c, err)
		}
		store, err := openStore(c.Context(), args[0])
		if err != nil {
			return err
		}
		sink := newSink(s, form.value, *follow)
		var stats query.Stats
		if *follow {
			stats, err = s.follow(c.Context(), q, store, args[0], sink)
		} else {
			stats, err = q.Run(c.Context(), store, sink.record)
		}
		if e := sink.flush(); err == nil {
			err = e
		}
		if e := s.out.Flush(); err == nil {
			err = e
		}
		if stats.NoDecision {
			fmt.Fprintf(s.err, "--policy-of: no record with such an id states a decision: %s\n", strings.Join(q.PolicyOf, ", "))
		}
		if s.progress && !errors.Is(err, syscall.EPIPE) {
			summary(s, args[0], form.value, &stats)
		}
		return err
	}
	return c
}

// How often a store that is followed is looked at.
const (
	lookAtDirectory = 500 * time.Millisecond
	lookAtBucket    = 5 * time.Second
)

// follow shows what is found as it comes, until it is interrupted.
func (s *streams) follow(ctx context.Context, q *query.Query, store seal.Store, name string, to sink) (query.Stats, error) {
	interval := lookAtDirectory
	if objectstore.IsName(name) {
		interval = lookAtBucket
	}
	if s.progress {
		fmt.Fprintln(s.err, "Following; Ctrl-C ends it.")
	}
	said := ""
	return q.Follow(ctx, store, interval, to.record, func(failed error) error {
		if now := fmt.Sprint(failed); failed != nil && now != said {
			said = now
			fmt.Fprintf(s.err, "meshaudit: %v; trying again\n", failed)
		}
		return errors.Join(to.flush(), s.out.Flush())
	})
}

func parseTrace(s string) (t pcommon.TraceID, err error) {
	if n, err := hex.Decode(t[:], []byte(s[:min(len(s), 2*len(t))])); err != nil || n != len(t) || len(s) != 2*len(t) || t.IsEmpty() {
		return t, fmt.Errorf("%q is no trace id: write 32 hexadecimal digits, not all zero", s)
	}
	return t, nil
}

func parseID(s string) (string, error) {
	s = strings.ToLower(s)
	if len(s) < 4 || len(s) > 64 || strings.Trim(s, "0123456789abcdef") != "" {
		return "", fmt.Errorf("%q is no record id: write 4 to 64 hexadecimal digits", s)
	}
	return s, nil
}

// parsePath refuses what no path can match.
func parsePath(s string) (query.Glob, error) {
	if s != "" && s[0] != '/' && s[0] != '*' {
		return query.Glob{}, fmt.Errorf("%q matches no path: one begins with / or *", s)
	}
	return query.ParseGlob(s)
}

// summary tells a person at a terminal how to read what was printed.
func summary(s *streams, store, form string, stats *query.Stats) {
	found := counted(stats.Records, "record")
	if stats.Limited {
		found += ", and there may be more (--limit)"
	}
	fmt.Fprintf(s.err, "\n%s; %d of %s had to be opened. Not verified: meshaudit verify %s --trust FILE\n", found, stats.Opened, counted(stats.Batches, "batch"), store)
	if form == "table" && stats.Records > 0 {
		fmt.Fprintln(s.err, legend)
	}
}

// sink writes records in one of the forms.
type sink interface {
	record(*query.Record) error
	flush() error
}

func newSink(s *streams, form string, live bool) sink {
	switch form {
	case "json":
		return &jsonSink{w: s.out}
	case "otlp":
		return &otlpSink{w: s.out}
	}
	t := newRecordTable(s)
	t.live = live
	return t
}
