package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/meshaudit/meshaudit/seal"
)

// writeJSON writes one JSON value and a newline.
func writeJSON(w io.Writer, v any, indent bool) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if indent {
		e.SetIndent("", "  ")
	}
	return e.Encode(v)
}

// page collects lines of text; the first failed write ends it.
type page struct {
	s   *streams
	err error
}

func (p *page) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.s.out, format, args...)
	}
}

var answerStyles = map[string]style{isProven: green, isTampering: red, isIncomplete: yellow, isUnproven: yellow, isNone: dim}

// axisWords say what an axis that is proven means, and one on which there is
// nothing to check.
var axisWords = map[seal.Axis]map[string]string{
	seal.Integrity:    {isProven: "every byte is what was sealed"},
	seal.Order:        {isProven: "every entry is where it was sealed"},
	seal.Completeness: {isProven: "nothing that was sealed is missing"},
	seal.Freshness:    {isProven: "it reaches up to the time asked for"},
	seal.Witnessed:    {isNone: "the trust file names no witness"},
	seal.Erasures:     {isProven: "nothing was erased"},
}

// writeAnswer writes verify's text: the first line is the answer.
func (s *streams) writeAnswer(a *storeAnswer) error {
	p := &page{s: s}
	word, rest := headline(a)
	p.printf("%s %s\n", s.paint(answerStyles[a.Answer]+";1", word), rest)
	for i := range a.Findings {
		f := &a.Findings[i]
		p.printf("\n%s  %s\n", s.paint(answerStyles[f.Class], f.Class), printable(f.What))
		if f.Next != "" {
			p.printf("  next: %s\n", printableLines(f.Next, "        "))
		}
	}
	for i := range a.Logs {
		s.writeLog(p, a, &a.Logs[i])
	}
	p.printf("\nverified in %s, as of %s UTC\n", span(a.took), stamp(a.asOf))
	return p.err
}

// headline is the answer in one line.
func headline(a *storeAnswer) (word, rest string) {
	var records, bad uint64
	var first *logAnswer
	for i := range a.Logs {
		l := &a.Logs[i]
		records += l.Counts.Records
		if l.Answer == a.Answer {
			if bad++; first == nil {
				first = l
			}
		}
	}
	logs := counted(len(a.Logs), "log")
	switch a.Answer {
	case isProven:
		return "Proven:", fmt.Sprintf("%s in %s of %s, exactly as sealed.", counted(records, "record"), logs, a.Store)
	case isTampering:
		rest = fmt.Sprintf("%s is not as it was sealed", a.Store)
		if first != nil && first.FirstBad != nil && first.FirstBad.File != "" {
			switch bad := first.FirstBad; {
			case bad.Offset > 0:
				rest = fmt.Sprintf("%s: the frame at byte %d is not as it was sealed", bad.File, bad.Offset)
			case strings.HasSuffix(bad.File, ".seal"):
				rest = bad.File + " is not as it was sealed"
			default: // it may be right, and what it is set against wrong
				rest = bad.File + ": " + printable(bad.What)
			}
		}
		if len(a.Logs) > 1 && bad > 0 {
			rest += fmt.Sprintf(" (%d of %s)", bad, logs)
		}
		return "Tampering:", rest + "."
	case isUnproven:
		return "Unproven:", fmt.Sprintf("nothing contradicts the %s in %s, and no trusted key vouches for them.", counted(records, "record"), logs)
	}
	switch {
	case len(a.Logs) == 0:
		return "Incomplete:", "nothing was found in " + a.Store + "."
	case first == nil:
		return "Incomplete:", "what is here is proven, but not everything is here."
	}
	return "Incomplete:", fmt.Sprintf("nothing was tampered with, but not all is proven of %s.", logs)
}

func (s *streams) writeLog(p *page, a *storeAnswer, l *logAnswer) {
	p.printf("\n%s\n", s.paint(bold, l.Origin))
	for _, axis := range seal.Axes() {
		state := l.Axes[axis.String()]
		p.printf("  %-13s %s %s\n", axis, s.paint(answerStyles[state], fmt.Sprintf("%-11s", state)), axisText(l, axis, state))
	}

	p.printf("\n  %-26s %s\n", "without any secret", s.withoutSecret(l))
	p.printf("  %-26s %s\n", "with the auditor's key", s.withAuditor(l))

	c := &l.Counts
	p.printf("\n  %s in %s, %s, %s, %s, %s\n", counted(c.Records, "record"), counted(c.Entries, "entry"), counted(c.Epochs, "epoch"),
		counted(c.Checkpoints, "checkpoint"), counted(c.Segments, "segment"), size(c.Bytes))
	what := "last proven"
	if l.Answer == isUnproven {
		what = "intact up to"
	}
	switch last := l.LastProven; {
	case last == nil:
		p.printf("  %s: nothing\n", what)
	case last.Record == nil:
		p.printf("  %s: entry %d, sealed %s UTC\n", what, last.Entry, stamp(last.sealed))
	default:
		p.printf("  %s: entry %d, record %d, sealed %s UTC\n", what, last.Entry, *last.Record, stamp(last.sealed))
	}

	if t := l.Timestamped; t != nil {
		p.printf("  timestamped: %s existed at %s UTC, by %s\n", counted(t.Entries, "entry"), stamp(t.time), printable(t.By))
	}

	const shown = 10
	var next []string
	for i := range l.Findings {
		f := &l.Findings[i]
		if i == shown {
			p.printf("\n  and %s; all with: -o json\n", counted(len(l.Findings)-shown+l.Omitted, "more finding"))
			break
		}
		p.printf("\n  %s  %s\n", s.paint(answerStyles[f.Class], f.Class), printable(f.What))
		if a := f.Accepted; a != nil {
			p.printf("    accepted by %s: %s\n", printable(a.By), printable(a.Reason))
		}
		if f.File != "" {
			p.printf("    at    %s, offset %d\n", f.File, f.Offset)
		}
		if f.Next != "" && !strings.Contains(strings.Join(next, "\n"), f.Next) {
			p.printf("    next  %s\n", printableLines(f.Next, "          "))
			next = append(next, f.Next)
		}
	}
}

// axisText says what a state means for this log.
func axisText(l *logAnswer, axis seal.Axis, state string) string {
	if axis == seal.Erasures && state == isProven && l.Counts.Erased > 0 {
		return counted(l.Counts.Erased, "record") + " erased, as ordered, and the rest proven"
	}
	if state == isProven && slices.ContainsFunc(l.Findings, func(f findingAnswer) bool { return f.Axis == axis.String() && f.Accepted != nil }) {
		return "but for what was reviewed and accepted, see below"
	}
	if words := axisWords[axis][state]; words != "" {
		return words
	}
	if w := l.Witnessed; axis == seal.Witnessed && state == isProven {
		return fmt.Sprintf("%d of %s cosigned all of it, at %s UTC", len(w.By), counted(w.Of, "witness"), stamp(w.time))
	}
	n := 0
	for i := range l.Findings {
		if l.Findings[i].Axis == axis.String() {
			n++
		}
	}
	switch {
	case n > 0:
		return counted(n, "finding") + ", see below"
	case l.Answer == isTampering:
		return "nothing found, but tampering leaves it open"
	}
	return "nothing found, and no trusted key to prove it"
}

func (s *streams) withoutSecret(l *logAnswer) string {
	text := s.paint(answerStyles[l.WithoutSecret], l.WithoutSecret)
	switch {
	case l.WithoutSecret == isProven && len(l.SPIFFEIDs) > 0:
		return text + ": hashes, order and " + counted(l.Counts.Checkpoints, "signature") + " of log keys that the SVIDs of " + printable(strings.Join(l.SPIFFEIDs, ", ")) + " vouch for"
	case l.WithoutSecret == isProven && l.Pinned:
		return text + ": hashes, order and " + counted(l.Counts.Checkpoints, "signature") + " of the trusted log key, from the pinned beginning on"
	case l.WithoutSecret == isProven:
		return text + ": hashes, order and " + counted(l.Counts.Checkpoints, "signature") + " of the trusted log key"
	case l.Answer == isUnproven:
		return text + ": whoever can write here could have made all of it; give --trust"
	}
	return text + ": see below"
}

func (s *streams) withAuditor(l *logAnswer) string {
	text := s.paint(answerStyles[l.WithAuditor], l.WithAuditor)
	switch l.WithAuditor {
	case isProven:
		if l.FreshChains > 0 {
			return text + ": the HMAC of " + counted(l.Counts.Entries, "entry") + ", in " + counted(l.FreshChains, "chain") + "; a stolen log key could have replaced whole chains"
		}
		return text + ": the HMAC of " + counted(l.Counts.Entries, "entry") + "; not even a stolen log key could have rewritten them"
	case isNone:
		return "not checked: a rewrite with a stolen log key would not show; give --auditor"
	}
	return text + ": see below"
}
