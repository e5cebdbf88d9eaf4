// Package output reads what tracing programs print: for each interval a begin mark, totals, rows and an end mark. What is
// outside of the marks is ignored, and so is every line that the program's own text cannot have printed: the names in
// rows are chosen by whoever runs on the host.
package output

import (
	"bufio"
	"errors"
	"io"
	"strconv"
	"strings"
)

// Interval is what a program gave out at the end of one interval.
type Interval struct {
	Second int64            // since 1970, at which it ended
	Totals map[string]int64 // by zone
	Rows   []Row
	Lost   int64 // events that are not counted, because there was no room to remember that they began
}

// Row is one row of an interval.
type Row struct {
	Zone   string // as in Totals
	Keys   []string
	Amount int64
}

// Bounds of what is read.
const (
	maxLine     = 4 << 20
	maxInterval = 8 << 20 // bytes; rows beyond are not read, and so count as "other"
	maxMark     = 64
)

// Handler takes what is read.
type Handler struct {
	Keys     int // parts of a row's key, without the zone
	Stacks   int // how many of them are stacks: the last ones, or those before one text if Text
	Text     bool
	Started  func()
	Interval func(Interval)
}

// reader gathers one interval at a time.
type reader struct {
	Handler
	begun   bool
	bytes   int
	current Interval
}

// read calls line for each line, without its end, until the stream ends. Of a line that is too long the start is given.
func (r *reader) read(stream io.Reader, line func(text []byte)) error {
	in := bufio.NewReaderSize(stream, 64<<10)
	var text []byte
	for {
		part, err := in.ReadSlice('\n')
		room := max(0, maxLine-len(text))
		text = append(text, part[:min(len(part), room)]...)
		r.bytes += len(part)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if n := len(text); n > 0 && text[n-1] == '\n' {
			text = text[:n-1]
		}
		if len(text) > 0 {
			line(text)
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if cap(text) > 1<<20 {
			text = nil
		}
		text = text[:0]
	}
}

// begin starts an interval; one that had no end is forgotten.
func (r *reader) begin(second string) {
	n, err := strconv.ParseInt(second, 10, 64)
	r.begun = err == nil && n > 0
	r.bytes = 0
	r.current = Interval{Second: n, Totals: map[string]int64{}}
}

func (r *reader) end() {
	if r.begun {
		r.begun = false
		r.Interval(r.current)
		r.current = Interval{}
	}
}

// mark takes a line of printf.
func (r *reader) mark(text string) {
	text = strings.TrimSuffix(text, "\n")
	second, isBegin := strings.CutPrefix(text, "B ")
	switch {
	case len(text) > maxMark:
	case text == "S":
		r.Started()
	case text == "E":
		r.end()
	case isBegin:
		r.begin(second)
	}
}
