package cli

import (
	"io"
	"strings"
	"unicode/utf8"
)

// cell is one field of a table, printable.
type cell struct {
	text  string
	style style
}

// column is one column of a table.
type column struct {
	title string
	right bool // aligned
	// min is the width below which the column is not cut; 0: it is never
	// cut.
	min int
	// middle: what is cut off is cut from the middle, so that both ends of
	// an identity can be seen.
	middle bool
	// live is how wide the column is at least in a table of rows that are
	// still to come, which nobody has seen.
	live int
	// spare columns are left out, highest first, where the width does not
	// even suffice for all columns at their min; 0: never.
	spare int
}

// tableWindow is how many rows are looked at to choose the widths.
const tableWindow = 500

const tableGap = 2 // blanks between columns

// table prints rows as they come, in columns whose widths the first rows
// decide. What does not fit is cut, and marked with an ellipsis.
type table struct {
	s       *streams
	columns []column
	live    bool // rows come for as long as it is looked at
	// preamble, if set, gives the lines above the titles, once the first
	// rows are known.
	preamble func() string

	window [][]cell // a single cell is a line of text
	widths []int    // once chosen; -1: left out
}

// row adds a row with a cell for each column.
func (t *table) row(cells ...cell) error { return t.add(cells) }

// line adds a line of text between rows.
func (t *table) line(text string, st style) error { return t.add([]cell{{text, st}}) }

func (t *table) add(cells []cell) error {
	if t.widths != nil {
		return t.print(cells)
	}
	t.window = append(t.window, cells)
	if len(t.window) >= tableWindow {
		return t.flush()
	}
	return nil
}

// flush prints what is held back. A table without rows prints nothing.
func (t *table) flush() error {
	if t.widths != nil || len(t.window) == 0 {
		return nil
	}
	t.choose()
	if t.preamble != nil {
		if _, err := io.WriteString(t.s.out, t.preamble()); err != nil {
			return err
		}
	}
	titles := make([]cell, len(t.columns))
	for i, c := range t.columns {
		titles[i] = cell{c.title, dim}
	}
	for _, cells := range append([][]cell{titles}, t.window...) {
		if err := t.print(cells); err != nil {
			return err
		}
	}
	t.window = nil
	return nil
}

// choose sets the widths: as wide as the cells of the window, cut where that
// is too much, the widest column first.
func (t *table) choose() {
	t.widths = make([]int, len(t.columns))
	for i, c := range t.columns {
		t.widths[i] = utf8.RuneCountInString(c.title)
		if t.live {
			t.widths[i] = max(t.widths[i], c.live)
		}
	}
	for _, cells := range t.window {
		if len(cells) != len(t.columns) {
			continue
		}
		for i, c := range cells {
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for t.least() > t.s.width && t.leaveOut() {
	}
	for t.total() > t.s.width {
		widest := -1
		for i, c := range t.columns {
			if c.min > 0 && t.widths[i] > c.min && (widest < 0 || t.widths[i] > t.widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		t.widths[widest]--
	}
}

// leaveOut leaves out the most spare column that is still there.
func (t *table) leaveOut() bool {
	most := -1
	for i, c := range t.columns {
		if c.spare > 0 && t.widths[i] >= 0 && (most < 0 || c.spare > t.columns[most].spare) {
			most = i
		}
	}
	if most < 0 {
		return false
	}
	t.widths[most] = -1
	return true
}

func (t *table) total() int { return t.sum(func(i int) int { return t.widths[i] }) }

// least is the width with every column cut as far as it may be.
func (t *table) least() int {
	return t.sum(func(i int) int {
		if m := t.columns[i].min; m > 0 {
			return min(m, t.widths[i])
		}
		return t.widths[i]
	})
}

func (t *table) sum(width func(int) int) int {
	n := -tableGap
	for i := range t.columns {
		if t.widths[i] >= 0 {
			n += width(i) + tableGap
		}
	}
	return n
}

func (t *table) print(cells []cell) error {
	var b strings.Builder
	if len(cells) != len(t.columns) {
		b.WriteString(t.s.paint(cells[0].style, cut(cells[0].text, t.s.width, false)))
	} else {
		blanks := 0
		for i, c := range cells {
			w := t.widths[i]
			if w < 0 {
				continue
			}
			text := c.text
			if t.columns[i].min > 0 {
				text = cut(text, w, t.columns[i].middle)
			}
			pad := max(0, w-utf8.RuneCountInString(text))
			if t.columns[i].right {
				blanks, pad = blanks+pad, 0
			}
			if text != "" {
				b.WriteString(strings.Repeat(" ", blanks))
				b.WriteString(t.s.paint(c.style, text))
				blanks = 0
			}
			blanks += pad + tableGap
		}
	}
	b.WriteByte('\n')
	_, err := t.s.out.WriteString(b.String())
	return err
}

// cut shortens text to width characters.
func cut(text string, width int, middle bool) string {
	runes := utf8.RuneCountInString(text)
	if runes <= width {
		return text
	}
	if width < 2 {
		return "…"
	}
	r := []rune(text)
	if middle {
		head := (width - 1) / 3
		return string(r[:head]) + "…" + string(r[len(r)-(width-1-head):])
	}
	return string(r[:width-1]) + "…"
}
