package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"iapi/dataapi"
	"iapi/measure"
)

// watchTable shows events as rows, an interval at a time. A column is as wide as the widest cell that it has had; when one
// grows, the header stands again above it.
type watchTable struct {
	w               io.Writer
	instrumentation instrumentationView
	top             int
	widths          []int // of all columns but the last
	at              time.Time
	rows            []dataapi.Event
}

// maxCell is where a cell is cut off, in characters.
const maxCell = 60

func (t *watchTable) add(e dataapi.Event) error {
	if len(t.rows) > 0 && !e.Timestamp.Equal(t.at) {
		if err := t.flush(); err != nil {
			return err
		}
	}
	t.at = e.Timestamp
	t.rows = append(t.rows, e)
	return nil
}

func (t *watchTable) flush() error {
	if len(t.rows) == 0 {
		return nil
	}
	rows := t.rows
	t.rows = nil
	slices.SortStableFunc(rows, func(a, b dataapi.Event) int { return cmp.Compare(countOf(b), countOf(a)) })
	more := 0
	if t.top > 0 && len(rows) > t.top {
		more = len(rows) - t.top
		rows = rows[:t.top]
	}
	header := t.header()
	lines := make([][]string, 0, len(rows)+1)
	for _, e := range rows {
		lines = append(lines, t.cells(e))
	}
	if t.widen(append(lines, header)) {
		lines = append([][]string{header}, lines...)
	}
	for _, cells := range lines {
		if err := t.print(cells); err != nil {
			return err
		}
	}
	if more > 0 {
		if _, err := fmt.Fprintf(t.w, "%10s… and %d more; --top 0 shows all\n", "", more); err != nil {
			return err
		}
	}
	return nil
}

func (t *watchTable) header() []string {
	cells := []string{"TIME", "SOURCE"}
	for _, d := range t.instrumentation.Decompositions {
		cells = append(cells, d.Name)
	}
	return append(cells, strings.ToUpper(cmp.Or(t.instrumentation.Metric.Unit, "value")))
}

// cells are those of one value.
func (t *watchTable) cells(e dataapi.Event) []string {
	cells := []string{e.Timestamp.Local().Format(time.TimeOnly), sourceOf(e)}
	for _, d := range t.instrumentation.Decompositions {
		text := e.Fields[d.Name]
		if buckets, ok := e.Dist[d.Name]; ok {
			text = quantiles(buckets)
		} else if e.Other {
			text = "(other)"
		}
		cells = append(cells, text)
	}
	v := countOf(e)
	number := strconv.FormatFloat(v, 'f', -1, 64)
	if v != float64(int64(v)) {
		number = strconv.FormatFloat(v, 'f', 2, 64)
	}
	switch {
	case e.Gap:
		number += " lost"
	case e.Partial:
		number += " (in part)"
	}
	cells = append(cells, number)
	for i, c := range cells {
		c = printable(c)
		if utf8.RuneCountInString(c) > maxCell {
			c = string([]rune(c)[:maxCell-1]) + "…"
		}
		cells[i] = c
	}
	return cells
}

// widen makes room for the cells, and tells whether it had to.
func (t *watchTable) widen(lines [][]string) bool {
	grown := t.widths == nil
	if grown {
		t.widths = make([]int, 2+len(t.instrumentation.Decompositions))
	}
	for _, cells := range lines {
		for i := range t.widths {
			if n := utf8.RuneCountInString(cells[i]); n > t.widths[i] {
				t.widths[i], grown = n, true
			}
		}
	}
	return grown
}

func (t *watchTable) print(cells []string) error {
	var line strings.Builder
	for i, width := range t.widths {
		fmt.Fprintf(&line, "%-*s", width+2, cells[i])
	}
	_, err := fmt.Fprintln(t.w, line.String()+cells[len(t.widths)])
	return err
}

func countOf(e dataapi.Event) float64 {
	v, err := e.Count.Float64()
	if err != nil {
		return 0
	}
	return v
}

// sourceOf names who was measured: a zone, or a whole host.
func sourceOf(e dataapi.Event) string {
	if e.VM != uuid.Nil {
		return e.VM.String()
	}
	return orDash(e.Host)
}

// quantiles sums up a distribution in one cell.
func quantiles(buckets []measure.Bucket) string {
	var total int64
	for _, b := range buckets {
		total += b.Count
	}
	at := func(q float64) int64 {
		want, seen := int64(q*float64(total-1))+1, int64(0)
		for _, b := range buckets {
			if seen += b.Count; seen >= want {
				return b.High
			}
		}
		return 0
	}
	return fmt.Sprintf("p50≤%d p99≤%d", at(0.5), at(0.99))
}
