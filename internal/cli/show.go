package cli

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshaudit/meshaudit/internal/query"
	"github.com/meshaudit/meshaudit/seal"
)

func newShow(s *streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "show STORE",
		Short: "List the entries of a store's logs",
		Long: `Lists what was sealed, entry by entry, in the order of sealing, through the last
checkpoint. It needs no key and proves nothing; meshaudit verify does.`,
		Example: `  meshaudit show run/store
  meshaudit show run/store --from 4700 --to 4710 -o json`,
		Args: oneStore,
	}
	origins := c.Flags().StringSlice("origin", nil, "only logs of this `ORIGIN`; * matches any run of characters")
	from := c.Flags().Uint64("from", 0, "first entry `NUMBER`")
	to := c.Flags().Uint64("to", math.MaxUint64, "last entry `NUMBER`")
	c.Flags().Lookup("to").DefValue = "the last"
	form := output(c, "table", "json")
	c.RunE = func(c *cobra.Command, args []string) error {
		if *from > *to {
			return usage(c, fmt.Errorf("--from %d is after --to %d", *from, *to))
		}
		globs, err := parseAll("origin", *origins, query.ParseGlob)
		if err != nil {
			return usage(c, err)
		}
		store, err := openStore(c.Context(), args[0])
		if err != nil {
			return err
		}
		logs, err := query.Origins(store, globs)
		if err != nil {
			return err
		}
		t := entryTable(s, len(logs) > 1)
		noSections := func(*seal.Header) bool { return true }
		err = query.Entries(c.Context(), store, logs, noSections, func(e *seal.Entry) error {
			switch {
			case e.Header.Entry < *from || e.Header.Entry > *to:
				return nil
			case form.value == "json":
				return writeJSON(s.out, entryJSON(e), false)
			}
			return t.row(entryRow(e, len(logs) > 1)...)
		})
		return errors.Join(t.flush(), err)
	}
	return c
}

// parseAll parses every value of a flag.
func parseAll[T any](flag string, values []string, parse func(string) (T, error)) ([]T, error) {
	var all []T
	for _, v := range values {
		t, err := parse(v)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", flag, err)
		}
		all = append(all, t)
	}
	return all, nil
}

func entryTable(s *streams, severalLogs bool) *table {
	t := &table{s: s, columns: []column{
		{title: "ENTRY", right: true}, {title: "KIND"}, {title: "EPOCH", right: true, spare: 1},
		{title: "RECORDS", right: true}, {title: "SEALED (UTC)"}, {title: "EVENTS", spare: 3}, {title: "SIZE", right: true, spare: 2},
		{title: "DETAILS", min: 12},
	}}
	if severalLogs {
		t.columns = append([]column{{title: "LOG", min: 12, middle: true}}, t.columns...)
	}
	return t
}

func entryRow(e *seal.Entry, severalLogs bool) []cell {
	records := ""
	if e.Header.Records > 0 {
		records = count(e.Header.Records)
	}
	row := []cell{
		{text: strconv.FormatUint(e.Header.Entry, 10)}, {text: string(e.Kind), style: kindStyles[e.Kind]}, {text: strconv.FormatUint(e.Epoch, 10)},
		{text: records}, {text: stamp(unixNano(e.Sealed))}, {text: eventRange(e.Header)}, {text: size(e.Size)}, {text: printable(entryDetails(e.Header))},
	}
	if severalLogs {
		row = append([]cell{{text: e.Origin}}, row...)
	}
	return row
}

var kindStyles = map[seal.Kind]style{seal.KindOpen: bold, seal.KindClose: bold, seal.KindBeat: dim, seal.KindErase: yellow, seal.KindPrune: yellow}

// eventRange is when a batch's events happened: the first one's time, with its
// date unless it was sealed on the same day, and how long until the last one.
func eventRange(h *seal.Header) string {
	if h.TimeMin == 0 {
		return ""
	}
	first := unixNano(h.TimeMin)
	text := stamp(first)
	if y, m, d := unixNano(h.Sealed).Date(); first.Year() == y && first.Month() == m && first.Day() == d {
		text = text[len("2006-01-02 "):]
	}
	if h.TimeMax > h.TimeMin {
		text += " +" + span(time.Duration(h.TimeMax-h.TimeMin))
	}
	return text
}

// entryDetails are the lines that a kind alone has, in words.
func entryDetails(h *seal.Header) string {
	var d []string
	add := func(format string, args ...any) { d = append(d, fmt.Sprintf(format, args...)) }
	switch {
	case h.Open != nil:
		o := h.Open
		add("after %s", o.After)
		for _, t := range o.Torn {
			add("%s cut off and kept", size(int64(t.Bytes)))
		}
		if o.Fresh {
			add("a fresh chain")
		}
		add("heartbeat %ds", o.HeartbeatSeconds)
		ids := make([]string, len(o.Escrows))
		for i, e := range o.Escrows {
			ids[i] = e.Recipient
		}
		add("%s %s", strings.TrimPrefix(counted(len(ids), "auditor"), "1 "), strings.Join(ids, " "))
	case h.Erase != nil:
		add("%s of entry %d", ranges(h.Erase.Erased), h.Erase.Target)
		add("by %s", h.Erase.By)
		add("%s", h.Erase.Reason)
	case h.Prune != nil:
		add("keeps from entry %d on", h.Prune.First)
		add("%s", h.Prune.Policy)
	case h.Kind == seal.KindBatch:
		signal, _, _ := strings.Cut(strings.TrimPrefix(h.Sections[len(h.Sections)-1].Encoding, "otlp-"), "+")
		if h.Records == 1 {
			add("%s, record %d", signal, h.FirstRecord)
		} else {
			add("%s, records %d to %d", signal, h.FirstRecord, h.FirstRecord+h.Records-1)
		}
	}
	return strings.Join(d, ", ")
}

func ranges(rs []seal.Range) string {
	var b strings.Builder
	for i, r := range rs {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(strconv.FormatUint(r.First, 10))
		if r.Last != r.First {
			b.WriteString("-" + strconv.FormatUint(r.Last, 10))
		}
	}
	return b.String()
}

// entryAnswer is show's JSON, see docs/cli.md.
type entryAnswer struct {
	Origin      string `json:"origin"`
	Entry       uint64 `json:"entry"`
	Kind        string `json:"kind"`
	Epoch       uint64 `json:"epoch"`
	FirstRecord uint64 `json:"first_record"`
	Records     uint64 `json:"records"`
	Sealed      string `json:"sealed"`
	EventsFrom  string `json:"events_from,omitempty"`
	EventsTo    string `json:"events_to,omitempty"`
	Segment     string `json:"segment"`
	Offset      int64  `json:"offset"`
	Bytes       int64  `json:"bytes"`
	PlainBytes  uint64 `json:"plain_bytes"` // of the sections, uncompressed

	Open  *openAnswer  `json:"open,omitempty"`
	Erase *eraseAnswer `json:"erase,omitempty"`
	Prune *pruneAnswer `json:"prune,omitempty"`
}

type openAnswer struct {
	After            string       `json:"after"`
	Signer           string       `json:"signer"`
	Fresh            bool         `json:"fresh"`
	HeartbeatSeconds uint64       `json:"heartbeat_seconds"`
	Auditors         []string     `json:"auditors"`
	Torn             []tornAnswer `json:"torn,omitempty"`
}

type tornAnswer struct {
	Bytes  uint64 `json:"bytes"`
	SHA256 string `json:"sha256"`
}

type eraseAnswer struct {
	Target uint64 `json:"target"`
	Erased string `json:"erased"`
	By     string `json:"by"`
	Reason string `json:"reason"`
}

type pruneAnswer struct {
	First  uint64 `json:"first"`
	Policy string `json:"policy"`
}

func entryJSON(e *seal.Entry) *entryAnswer {
	h := e.Header
	a := &entryAnswer{
		Origin: e.Origin, Entry: h.Entry, Kind: string(h.Kind), Epoch: h.Epoch, FirstRecord: h.FirstRecord, Records: h.Records,
		Sealed: moment(unixNano(h.Sealed)), Segment: e.Segment, Offset: e.Offset, Bytes: e.Size,
	}
	if h.TimeMin != 0 {
		a.EventsFrom, a.EventsTo = moment(unixNano(h.TimeMin)), moment(unixNano(h.TimeMax))
	}
	for i := range h.Sections {
		a.PlainBytes += h.Sections[i].Plain
	}
	if o := h.Open; o != nil {
		a.Open = &openAnswer{After: string(o.After), Signer: o.Signer, Fresh: o.Fresh, HeartbeatSeconds: o.HeartbeatSeconds, Auditors: []string{}}
		for _, e := range o.Escrows {
			a.Open.Auditors = append(a.Open.Auditors, e.Recipient)
		}
		for _, t := range o.Torn {
			a.Open.Torn = append(a.Open.Torn, tornAnswer{t.Bytes, fmt.Sprintf("%x", t.SHA256)})
		}
	}
	if r := h.Erase; r != nil {
		a.Erase = &eraseAnswer{r.Target, ranges(r.Erased), r.By, r.Reason}
	}
	if p := h.Prune; p != nil {
		a.Prune = &pruneAnswer{p.First, p.Policy}
	}
	return a
}
