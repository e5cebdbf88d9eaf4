// Package rows turns the records of a source (the lines of a file, processes, kstats, datasets) into samples as a
// definition's tables say: it selects records, evaluates expressions against their last reading, applies the predicate
// to each value, and adds values up by the discrete fields asked for, or counts them by the buckets of a numeric one.
package rows

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/measure"
)

// defaultMaxKeys bounds the combinations of discrete fields of one source where the definition does not.
const defaultMaxKeys = 500

// Devices answers what definitions ask of block devices.
type Devices interface {
	IsPartition(name string) bool
	Name(majorMinor string) (string, bool) // 8:0 is sda
}

// Table is a definition's table with the columns that tell its records apart besides those that it reads as text.
type Table struct {
	catalog.Table
	Identity []string
}

// Plan is a request compiled for one variant's tables. It never changes and serves all sources of a probe.
type Plan struct {
	tables    []table
	predicate measure.Predicate
	fields    []catalog.Field // what the predicate and the decompositions use
	place     map[string]int
	discrete  []int // the fields that values are broken down by, in their order
	numeric   int   // the field whose values are counted by buckets; -1: none
	varying   bool  // the predicate uses a numeric field
	maxKeys   int
	devices   Devices

	// Differential tells that some value is compared with the last reading.
	Differential bool
}

type table struct {
	slots   map[string]int
	pasts   int
	selects []filter
	exclude []filter
	from    []fromColumn
	ids     []int // the columns that tell a record from others
	rows    []rowSpec
}

type fromColumn struct {
	catalog.ColumnRef
	field int // its place among the fields used, -1: not used
	slot  int
}

type rowSpec struct {
	value   node
	numeric []node   // by the fields used; no operation: not that field
	set     []string // by the fields used
	isSet   []bool
}

type filter struct {
	catalog.Filter
	slot  int
	match *regexp.Regexp
}

// Compile makes a Plan. It fails when the definition contradicts itself or the request asks for what no source can
// answer; the error is a *collect.Error.
func Compile(r collect.Request, tables []Table, devices Devices) (*Plan, error) {
	p := &Plan{
		predicate: r.Predicate.Simplify(), place: map[string]int{}, numeric: -1, devices: devices,
		maxKeys: r.Definition.Limits.MaxKeys,
	}
	if p.maxKeys <= 0 {
		p.maxKeys = defaultMaxKeys
	}
	for _, name := range r.Fields() {
		f, found := r.Definition.Metric.Field(name)
		if !found {
			return nil, collect.Errorf(collect.Unsupported, "%s has no field %q", r.Definition.Metric.Name, name)
		}
		p.place[name] = len(p.fields)
		p.fields = append(p.fields, f)
	}
	for _, name := range r.Predicate.Fields() {
		p.varying = p.varying || p.fields[p.place[name]].Arity == catalog.Numeric
	}
	for _, name := range r.Decompositions {
		i := p.place[name]
		switch {
		case p.fields[i].Arity != catalog.Numeric:
			p.discrete = append(p.discrete, i)
		case p.numeric >= 0:
			return nil, collect.Errorf(collect.Unsupported, "two numeric decompositions, %s and %s: one is the most", p.fields[p.numeric].Name, name)
		case p.fields[i].Buckets == nil:
			return nil, collect.Errorf(collect.Unsupported, "the numeric field %s has no buckets", name)
		default:
			p.numeric = i
		}
	}
	for _, t := range tables {
		compiled, err := p.compile(t)
		if err != nil {
			return nil, collect.Errorf(collect.Failed, "compile the definition of %s: %w", r.Definition.Metric.Name, err)
		}
		p.tables = append(p.tables, compiled)
	}
	return p, nil
}

// Slots gives each column that a table reads its place in a row.
func (p *Plan) Slots(table int) map[string]int { return p.tables[table].slots }

func (p *Plan) compile(t Table) (table, error) {
	c := compiler{slots: map[string]int{}}
	out := table{slots: c.slots}
	var err error
	if out.selects, err = c.filters(t.Select); err != nil {
		return table{}, err
	}
	if out.exclude, err = c.filters(t.Exclude); err != nil {
		return table{}, err
	}
	for _, name := range slices.Sorted(maps.Keys(t.From)) {
		ref := t.From[name]
		out.from = append(out.from, fromColumn{ColumnRef: ref, field: p.index(name), slot: c.slot(ref.Column)})
	}
	for _, column := range t.Identity {
		c.slot(column)
	}
	for i := range len(c.slots) {
		out.ids = append(out.ids, i)
	}
	for _, r := range t.Rows {
		row := rowSpec{numeric: make([]node, len(p.fields)), set: make([]string, len(p.fields)), isSet: make([]bool, len(p.fields))}
		if row.value, err = c.compile(r.Value); err != nil {
			return table{}, err
		}
		p.Differential = p.Differential || r.Value.Differential()
		for name, value := range r.Set {
			if i := p.index(name); i >= 0 {
				row.set[i], row.isSet[i] = value, true
			}
		}
		for name, e := range r.Numeric {
			i := p.index(name)
			if i < 0 {
				continue
			}
			if row.numeric[i], err = c.compile(e); err != nil {
				return table{}, err
			}
			p.Differential = p.Differential || e.Differential()
		}
		out.rows = append(out.rows, row)
	}
	out.pasts = c.pasts
	return out, nil
}

func (p *Plan) index(field string) int {
	if i, used := p.place[field]; used {
		return i
	}
	return -1
}

func (c *compiler) filters(list []catalog.Filter) ([]filter, error) {
	var out []filter
	for _, f := range list {
		compiled := filter{Filter: f, slot: c.slot(f.Column)}
		if f.Match != "" {
			var err error
			if compiled.match, err = regexp.Compile(`^(?:` + f.Match + `)$`); err != nil {
				return nil, fmt.Errorf("the filter of %s: %w", f.Column, err)
			}
		}
		out = append(out, compiled)
	}
	return out, nil
}

// holds reports whether a record fulfils the condition.
func (f *filter) holds(cols [][]byte, devices Devices) bool {
	text := cols[f.slot]
	if text == nil {
		return false
	}
	if f.Decode == catalog.DecodeMajorMinor {
		if name, known := devices.Name(string(text)); known {
			text = []byte(name)
		}
	}
	for _, want := range f.Equal {
		if string(text) == want {
			return true
		}
	}
	for _, prefix := range f.Prefix {
		if len(text) >= len(prefix) && string(text[:len(prefix)]) == prefix {
			return true
		}
	}
	return f.match != nil && f.match.Match(text) || f.Partition && devices.IsPartition(string(text))
}

// value gives the text of a column as a field has it; false if the definition's map lacks it.
func (f *fromColumn) value(text []byte, devices Devices) (string, bool) {
	s := string(text)
	if f.Decode == catalog.DecodeMajorMinor {
		if name, known := devices.Name(s); known {
			s = name
		}
	}
	if f.Map != nil {
		mapped, known := f.Map[s]
		return mapped, known
	}
	// What leaves this machine is text; a process may call itself anything.
	return strings.ToValidUTF8(s, "\ufffd"), true
}
