package cli

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshaudit/meshaudit/internal/query"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

func newTrace(s *streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "trace STORE ID",
		Short: "Show a trace as a tree: who set it going, and what each call led to",
		Long: `Shows all that was done under one trace id, as a tree of calls. ID is a trace id, or
that of a record or a piece of evidence, or the beginning of one.

Which call led to which the spans of the evidence say, which is sealed beside the
records (└─); where none says so the parties and the time do (└┄).

It needs no key and proves nothing; meshaudit verify does.

Exit code:
  0  the trace was read
  1  a log is damaged; what could be read before that is on stdout
  3  there is no such trace, it is too long to show all of it, or the command could not
     do its work; also for bad usage`,
		Example: `  meshaudit trace run/store 55816f96
  meshaudit trace run/store ee935bc8a2f24620ef65f49b50c032ba -o json`,
	}
	origins := c.Flags().StringSlice("origin", nil, "only logs of this `ORIGIN`")
	form := output(c, "table", "json")
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) != 2 || args[0] == "" {
			return usage(c, fmt.Errorf("expected a STORE and an ID, got %d arguments", len(args)))
		}
		return nil
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		id, err := parseID(args[1])
		logs, e := parseAll("origin", *origins, query.ParseGlob)
		if err = errors.Join(err, e); err != nil {
			return usage(c, err)
		}
		store, err := openStore(c.Context(), args[0])
		if err != nil {
			return err
		}
		t, err := query.TraceOf(c.Context(), store, logs, id)
		if err != nil {
			return err
		}
		trace, err := query.ReadTrace(c.Context(), store, logs, t)
		if len(trace.Calls) == 0 {
			return errors.Join(err, fmt.Errorf("no record of trace %s is in %s", t, args[0]))
		}
		show := s.traceTable
		if form.value == "json" {
			show = s.traceJSON
		}
		if e := show(trace); e != nil {
			return e
		}
		return err
	}
	return c
}

// walk calls f for every call of a tree, the ones that led to others first, with how deep it is.
func walk(calls []*query.Call, depth int, f func(c *query.Call, depth int) error) error {
	for _, c := range calls {
		if err := f(c, depth); err != nil {
			return err
		}
		if err := walk(c.Calls, depth+1, f); err != nil {
			return err
		}
	}
	return nil
}

// maxIndent is how deep a call is shown; the depth of what is deeper still is a number.
const maxIndent = 8

// traceTable is the tree for people.
func (s *streams) traceTable(t *query.Trace) error {
	out := newRecordTable(s)
	out.columns = []column{
		{title: "AFTER", right: true},
		{title: "TOOK", right: true, spare: 3},
		{title: "CALL", min: 24},
		{title: "REQUEST", min: 12},
		{title: "RESULT"},
		{title: "VERDICT"},
		{title: "POLICY", min: 10, middle: true, spare: 4},
		{title: "EVIDENCE", spare: 2},
		{title: "RECORD", spare: 1},
	}
	first := t.Calls[0]
	out.preamble = func() string { return traceHead(out, t, first) }
	err := walk(t.Calls, 0, func(c *query.Call, depth int) error {
		from, to := out.parties(&c.Record)
		call := from + " → " + to
		if depth > 0 {
			if _, above := out.parties(&c.Parent.Record); above == from {
				call = to
			}
			line := "└─ "
			if c.ByTime {
				line = "└┄ "
			}
			if depth > maxIndent {
				line += fmt.Sprintf("[%d] ", depth)
			}
			call = strings.Repeat("   ", min(depth, maxIndent)-1) + line + call
		}
		conflicts := c.Slice(semconv.MeshConflicts)
		if err := out.row(
			cell{span(c.Time.Sub(first.Time)), dim},
			cell{text: took(c)},
			cell{text: call},
			cell{text: request(&c.Record)},
			result(&c.Record),
			verdict(&c.Record),
			cell{text: policy(&c.Record)},
			state(&c.Record, conflicts.Len()),
			cell{short(c.ID), dim},
		); err != nil {
			return err
		}
		lines := out.conflicts(conflicts)
		for _, r := range c.Said {
			lines = append(lines, "              → "+saidOf(r))
		}
		for _, l := range lines {
			if err := out.line(l, yellow); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return out.table.flush()
}

// took is how long a call took.
func took(c *query.Call) string {
	if c.End().Equal(c.Time) {
		return "-"
	}
	return span(c.End().Sub(c.Time))
}

// saidOf is a finding, or what an amendment adds.
func saidOf(r *query.Record) string {
	if r.Event == semconv.EventFinding {
		return printable(request(r) + " " + r.Str(semconv.FindingSeverity) + ": " + r.Log.Body().AsString())
	}
	text := "amended by " + shortID(r)
	if v := verdict(r); v.text != "-" {
		text += ", " + v.text + " by " + policy(r)
	}
	if who := r.Str(semconv.InitiatorID); who != "" {
		text += ", the initiator is " + printable(who)
	}
	if n := r.Slice(semconv.MeshAttestations).Len(); n > 0 {
		text += ", " + counted(n, "piece") + " of evidence more"
	}
	return text
}

// traceHead says what the trace is, and who set it going, as its records state.
func traceHead(out *recordTable, t *query.Trace, first *query.Call) string {
	out.fixed = true
	var head strings.Builder
	fmt.Fprintf(&head, "Trace %s, %s UTC", t.ID, first.Time.UTC().Format(time.DateTime+".000"))
	if !out.home.IsZero() {
		head.WriteString(", identities in " + out.home.String())
	}
	head.WriteByte('\n')
	said := map[string]bool{}
	_ = walk(t.Calls, 0, func(c *query.Call, _ int) error {
		who := printable(c.Str(semconv.InitiatorID))
		if how := printable(c.Str(semconv.InitiatorDerived)); who != "" && !said[who] {
			said[who] = true
			if ambiguous, _ := flag(&c.Record, semconv.InitiatorAmbiguous); ambiguous {
				how += ", ambiguous"
			}
			fmt.Fprintf(&head, "Set going by %s (%s at %s)\n", who, how, short(c.ID))
		}
		return nil
	})
	return head.String()
}

// traceAnswer is trace's JSON, one call a line, see docs/cli.md.
type traceAnswer struct {
	Depth  int             `json:"depth"`
	Parent string          `json:"parent,omitempty"`
	By     string          `json:"by,omitempty"`
	Record *recordAnswer   `json:"record"`
	Said   []*recordAnswer `json:"said,omitempty"`
}

func (s *streams) traceJSON(t *query.Trace) error {
	return walk(t.Calls, 0, func(c *query.Call, depth int) error {
		a := traceAnswer{Depth: depth, Record: recordJSON(&c.Record)}
		if p := c.Parent; p != nil {
			a.Parent, a.By = p.ID, "span"
			if c.ByTime {
				a.By = "time"
			}
		}
		for _, r := range c.Said {
			a.Said = append(a.Said, recordJSON(r))
		}
		return writeJSON(s.out, &a, false)
	})
}
