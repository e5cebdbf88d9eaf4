package procfs

import (
	"bytes"
	"cmp"
	"strconv"
	"strings"

	"iapi/catalog"
)

// format is a form of file with what is particular to it.
type format struct {
	parser     catalog.Parser
	columns    []string // table: the columns' names; none: the first line after those skipped has them
	skip       int      // table: lines at the start that are no data
	separators string   // table: what is between columns; "": spaces and tabs
}

// sink takes the rows of a file. The values are only good during the call; a row lacks the columns that are nil.
type sink interface {
	row(cols [][]byte)
}

// parser takes from files of one format the columns that are asked for, and nothing else. It keeps its buffers, so that
// a file of the same form costs no allocation. It accepts any text: what does not look as it should gives no column.
type parser struct {
	format
	slots map[string]int // a column's place in a row
	order []int          // table: the place of each column, or -1
	cols  [][]byte       // the row at hand; those beyond slots are the caller's
	names [][]byte       // the names in the line that gives them
	name  []byte         // snmp: "Key.name"
}

// valueColumn is the column of a single value, keyColumn the first word of a line that is nested keyed.
var valueColumn, keyColumn = []byte("value"), []byte("key")

func newParser(f format, slots map[string]int) *parser {
	p := &parser{format: f, slots: slots, cols: make([][]byte, len(slots))}
	p.setOrder(len(f.columns), func(i int) string { return f.columns[i] })
	return p
}

func (p *parser) setOrder(n int, name func(int) string) {
	p.order = p.order[:0]
	for i := range n {
		slot, ok := p.slots[name(i)]
		if !ok {
			slot = -1
		}
		p.order = append(p.order, slot)
	}
}

// parse gives each row of the text to the sink. What fixed gives stays in every row.
func (p *parser) parse(text []byte, fixed func(cols [][]byte), to sink) {
	p.reset(fixed)
	switch p.parser {
	case catalog.ParseSingle:
		p.set(valueColumn, bytes.TrimSpace(text))
		to.row(p.cols)
	case catalog.ParseKeyValue, catalog.ParseFlatKeyed, catalog.ParseSPLKstat:
		p.parseKeyed(text)
		to.row(p.cols)
	case catalog.ParseNestedKeyed:
		p.parseNested(text, fixed, to)
	case catalog.ParseTable:
		p.parseTable(text, fixed, to)
	case catalog.ParseSNMP:
		p.parseSNMP(text)
		to.row(p.cols)
	}
}

// fix gives every row what the wildcards of the file's path stood for.
func (p *parser) fix(parts [][]byte) func(cols [][]byte) {
	return func(cols [][]byte) {
		for i, part := range parts {
			if slot, used := p.slots["path."+strconv.Itoa(i+1)]; used {
				cols[slot] = part
			}
		}
	}
}

func (p *parser) reset(fixed func([][]byte)) {
	clear(p.cols)
	if fixed != nil {
		fixed(p.cols)
	}
}

func (p *parser) set(name, value []byte) {
	if slot, ok := p.slots[string(name)]; ok && len(value) > 0 {
		p.cols[slot] = value
	}
}

func (p *parser) parseKeyed(text []byte) {
	for n := 0; len(text) > 0; n++ {
		var line, key, value []byte
		line, text = cutLine(text)
		switch {
		case p.parser == catalog.ParseSPLKstat && n < 2: // a header of numbers, and one of names
			continue
		case p.parser == catalog.ParseKeyValue:
			i := bytes.IndexByte(line, ':')
			if i < 0 {
				continue
			}
			key = bytes.TrimSpace(line[:i])
			value, _ = cutWord(line[i+1:], blanks)
		default:
			key, line = cutWord(line, blanks)
			value, line = cutWord(line, blanks)
			if p.parser == catalog.ParseSPLKstat {
				value, _ = cutWord(line, blanks)
			}
		}
		p.set(key, value)
	}
}

func (p *parser) parseNested(text []byte, fixed func([][]byte), to sink) {
	for len(text) > 0 {
		var line, word []byte
		line, text = cutLine(text)
		p.reset(fixed)
		if word, line = cutWord(line, blanks); len(word) == 0 {
			continue
		}
		p.set(keyColumn, word)
		for {
			if word, line = cutWord(line, blanks); len(word) == 0 {
				break
			}
			if i := bytes.IndexByte(word, '='); i > 0 {
				p.set(word[:i], word[i+1:])
			}
		}
		to.row(p.cols)
	}
}

func (p *parser) parseTable(text []byte, fixed func([][]byte), to sink) {
	separators := cmp.Or(p.separators, blanks)
	for n := 0; len(text) > 0; n++ {
		var line []byte
		line, text = cutLine(text)
		if n < p.skip {
			continue
		}
		if len(p.columns) == 0 && n == p.skip {
			p.names = p.names[:0]
			for word, rest := cutWord(line, separators); len(word) > 0; word, rest = cutWord(rest, separators) {
				p.names = append(p.names, word)
			}
			p.setOrder(len(p.names), func(i int) string { return string(p.names[i]) })
			continue
		}
		p.reset(fixed)
		i := 0
		for word, rest := cutWord(line, separators); len(word) > 0; word, rest = cutWord(rest, separators) {
			if i < len(p.order) && p.order[i] >= 0 {
				p.cols[p.order[i]] = word
			}
			i++
		}
		if i > 0 {
			to.row(p.cols)
		}
	}
}

func (p *parser) parseSNMP(text []byte) {
	p.names = p.names[:0]
	for len(text) > 0 {
		var line []byte
		line, text = cutLine(text)
		key, rest := cutWord(line, blanks)
		if len(p.names) == 0 || !bytes.Equal(p.names[0], key) {
			p.names = p.names[:0]
			for word, rest := cutWord(line, blanks); len(word) > 0; word, rest = cutWord(rest, blanks) {
				p.names = append(p.names, word)
			}
			continue
		}
		for _, name := range p.names[1:] {
			var value []byte
			if value, rest = cutWord(rest, blanks); len(value) == 0 {
				break
			}
			p.name = append(p.name[:0], bytes.TrimSuffix(key, []byte(":"))...)
			p.name = append(append(p.name, '.'), name...)
			p.set(p.name, value)
		}
		p.names = p.names[:0]
	}
}

// cutLine takes a line from the text, without its end.
func cutLine(text []byte) (line, rest []byte) {
	if i := bytes.IndexByte(text, '\n'); i >= 0 {
		return text[:i], text[i+1:]
	}
	return text, nil
}

// blanks are between words where nothing else is said.
const blanks = " \t"

// cutWord takes a word from the line: what is between any number of separators. It is empty at the end only.
func cutWord(line []byte, separators string) (word, rest []byte) {
	i := 0
	for i < len(line) && isSeparator(line[i], separators) {
		i++
	}
	j := i
	for j < len(line) && !isSeparator(line[j], separators) {
		j++
	}
	return line[i:j], line[j:]
}

func isSeparator(c byte, separators string) bool {
	if separators == blanks { // nearly always, and for every byte that is read
		return c == ' ' || c == '\t'
	}
	return strings.IndexByte(separators, c) >= 0
}
