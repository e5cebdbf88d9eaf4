package dtrace

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/google/uuid"

	"iapi/collectors/collect"
	"iapi/collectors/dtrace/output"
	"iapi/collectors/dtrace/program"
	"iapi/measure"
)

// snapshot is what a program counted until a second. It is shared by probes and not changed.
type snapshot struct {
	second int64
	zones  map[uuid.UUID]*counts
	lost   int64 // events of any zone that were not counted, for want of room
}

// counts is what one zone, or the host, has. A nil one has nothing.
type counts struct {
	total  int64
	groups map[string]*group
}

// group is one combination of discrete fields.
type group struct {
	key     string
	fields  []measure.Field
	amount  int64
	buckets measure.Distribution
}

// newCounts makes the counts of a zone with a total. Of a program without rows the total is all there is.
func newCounts(compiled *program.Program, zonename string, total int64) *counts {
	c := &counts{total: total, groups: map[string]*group{}}
	if !compiled.Keyed() {
		c.add(compiled, zonename, output.Row{Amount: total})
	}
	return c
}

// add counts a row. One that cannot be read stays in the total, and so becomes part of "other".
func (c *counts) add(compiled *program.Program, zonename string, r output.Row) {
	row, ok := compiled.Decode(zonename, r.Keys)
	if !ok {
		return
	}
	g := c.group(row.Fields)
	g.amount += r.Amount
	if f := compiled.Numeric(); f != nil {
		g.buckets.Add(f.Buckets, row.Value, r.Amount)
	}
}

func (c *counts) group(fields []measure.Field) *group {
	var key []byte
	for _, f := range fields {
		key = binary.AppendUvarint(key, uint64(len(f.Value)))
		key = append(key, f.Value...)
	}
	g := c.groups[string(key)]
	if g == nil {
		g = &group{key: string(key), fields: fields}
		c.groups[g.key] = g
	}
	return g
}

// merge adds intervals up. The result is the only one itself, or a new one with the second of the last.
func merge(all []*snapshot, compiled *program.Program) *snapshot {
	switch len(all) {
	case 0:
		return &snapshot{}
	case 1:
		return all[0]
	}
	sum := &snapshot{second: all[len(all)-1].second, zones: map[uuid.UUID]*counts{}}
	for _, s := range all {
		sum.lost += s.lost
		for id, c := range s.zones {
			into := sum.zones[id]
			if into == nil {
				into = &counts{groups: make(map[string]*group, len(c.groups))}
				sum.zones[id] = into
			}
			into.total += c.total
			for key, g := range c.groups {
				have := into.groups[key]
				if have == nil {
					have = &group{key: key, fields: g.fields}
					into.groups[key] = have
				}
				have.amount += g.amount
				for _, b := range g.buckets.Buckets { // one program has one way to divide
					have.buckets.AddBucket(b)
				}
			}
		}
	}
	return sum
}

// samples appends what a source has: its greatest groups up to the limit on keys, and in one sum all else that was
// counted, whether it was beyond that limit or beyond what the program's maps hold.
func (c *counts) samples(list []collect.Sample, compiled *program.Program, id uuid.UUID) []collect.Sample {
	if c == nil {
		c = &counts{}
	}
	groups := make([]*group, 0, len(c.groups))
	known := int64(0)
	for _, g := range c.groups {
		groups = append(groups, g)
		known += g.amount
	}
	slices.SortFunc(groups, func(a, b *group) int {
		return cmp.Or(cmp.Compare(magnitude(b.amount), magnitude(a.amount)), strings.Compare(a.key, b.key))
	})
	shown := groups[:min(len(groups), compiled.MaxKeys)]
	for _, g := range shown {
		list = append(list, sample(compiled, id, g))
	}
	if len(shown) == 0 && !compiled.Discrete() {
		list = append(list, sample(compiled, id, &group{fields: compiled.Constant(id)})) // nothing happened is a value too: a gap means loss
	}
	lost := c.total - known
	rest := &group{fields: nil, amount: lost}
	for _, g := range groups[len(shown):] {
		rest.amount += g.amount
		for _, b := range g.buckets.Buckets {
			rest.buckets.AddBucket(b)
		}
	}
	if rest.amount == 0 {
		return list
	}
	other := sample(compiled, id, rest)
	other.Other = true
	if lost != 0 {
		other.Distribution = nil // nobody knows how the lost ones were distributed
	}
	return append(list, other)
}

func magnitude(n int64) int64 {
	if n < 0 {
		return -n
	}
	return n
}

func sample(compiled *program.Program, id uuid.UUID, g *group) collect.Sample {
	out := collect.Sample{Zone: id, Fields: g.fields, Value: float64(g.amount)}
	if f := compiled.Numeric(); f != nil {
		out.Distribution = &measure.Distribution{Field: f.Name, Unit: f.Unit, Buckets: slices.Clone(g.buckets.Buckets)}
	}
	return out
}
