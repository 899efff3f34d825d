package cli

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// defaultWidth is the width of a table that does not go to a terminal.
const defaultWidth = 160

func newStreams(out, err *os.File) *streams {
	s := &streams{out: bufio.NewWriterSize(out, 64<<10), err: err, width: defaultWidth}
	if term.IsTerminal(int(out.Fd())) {
		s.color = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		if w, _, err := term.GetSize(int(out.Fd())); err == nil && w > 0 {
			s.width = w
		}
	} else if w, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && w > 0 {
		s.width = w
	}
	s.progress = term.IsTerminal(int(err.Fd()))
	return s
}

// style is an ANSI graphic rendition.
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
)

// paint is text in a style, where the terminal takes one.
func (s *streams) paint(st style, text string) string {
	if !s.color || st == plain || text == "" {
		return text
	}
	return "\x1b[" + string(st) + "m" + text + "\x1b[0m"
}

// printable is s without anything that a terminal obeys instead of showing:
// what stands in a log was written by others.
func printable(s string) string {
	ok := func(r rune) bool { return unicode.IsPrint(r) }
	if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !ok(r) }) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if ok(r) {
			return r
		}
		return utf8.RuneError
	}, s)
}

// printableLines is printable for text of several lines, those after the first
// indented.
func printableLines(s, indent string) string {
	lines := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	for i, l := range lines {
		lines[i] = printable(l)
	}
	return strings.Join(lines, "\n"+indent)
}
