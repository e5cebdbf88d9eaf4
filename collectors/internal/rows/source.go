package rows

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/google/uuid"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/measure"
)

// HostZone is the value of zonename in a sample of a whole host.
const HostZone = "global"

// Source adds up the records of one source, a zone or the whole host, interval by interval: Begin, then Row for each
// record, then End. It keeps what is needed for differences. A Source serves one goroutine.
type Source struct {
	plan     *Plan
	zone     uuid.UUID
	zonename string
	hostname string

	tick   uint64
	states []map[string]*state // by table
	seen   []int
	groups map[string]*group
	order  []*group // of groups, in the order in which they came
	other  group

	absent  bool  // a value was not known at this reading
	problem error // the first column that is no number
	unknown bool  // a value was lost to a counter's reset, and it is not known where it belongs

	key     []byte
	cell    *cell    // the row whose predicate is evaluated
	spec    *rowSpec // the same in the definition
	numbers []int64  // the numeric fields of that row
	get     func(string) (measure.Value, bool)
}

// state is what is remembered of one record.
type state struct {
	tick  uint64
	at    int64 // when it was read, in ns of a monotonic clock
	pasts []past
	from  []byte   // the texts that fields are made of, to see them change
	texts []string // the values of the discrete fields used, by field; those of the definition's rows are added by cells
	known []bool
	drop  bool // a column's value is not in the definition's map
	cells []cell
}

// cell is one row of the definition for one record.
type cell struct {
	texts []string
	known []bool
	group *group
	fixed int8 // the predicate, where it cannot change: 1 true, -1 false, 0 not evaluated
}

// group adds up the values of equal discrete fields.
type group struct {
	key     string
	fields  []measure.Field
	cells   int // that add to it; without any it goes
	tick    uint64
	value   float64
	values  int  // that were added up
	partial bool // some were not known
	buckets measure.Distribution
}

// NewSource makes the Source of a zone, or with uuid.Nil of the whole host.
func (p *Plan) NewSource(zone uuid.UUID, hostname string) *Source {
	s := &Source{
		plan: p, zone: zone, zonename: HostZone, hostname: hostname,
		states: make([]map[string]*state, len(p.tables)), seen: make([]int, len(p.tables)),
		groups: map[string]*group{}, numbers: make([]int64, len(p.fields)),
	}
	if zone != uuid.Nil {
		s.zonename = zone.String()
	}
	for i := range s.states {
		s.states[i] = map[string]*state{}
	}
	s.get = s.field
	return s
}

// Forget drops what is remembered, so that the next reading is a first one.
func (s *Source) Forget() {
	for i := range s.states {
		clear(s.states[i])
	}
	clear(s.groups)
	s.order, s.other, s.tick = nil, group{}, 0
}

// Begin starts a reading.
func (s *Source) Begin() {
	s.tick++
	clear(s.seen)
	s.absent, s.problem, s.unknown = false, nil, false
}

// Row takes a record of a table, read at a time in ns of a monotonic clock. Id tells it from others where its columns do
// not; records that cannot be told apart are numbered.
func (s *Source) Row(index int, cols [][]byte, id []byte, at int64) {
	t := &s.plan.tables[index]
	for i := range t.selects {
		if !t.selects[i].holds(cols, s.plan.devices) {
			return
		}
	}
	for i := range t.exclude {
		if t.exclude[i].holds(cols, s.plan.devices) {
			return
		}
	}
	st := s.state(index, cols, id)
	if st.drop {
		return
	}
	elapsed := float64(at - st.at)
	st.at = at
	for i := range t.rows {
		s.row(t, &t.rows[i], &st.cells[i], st, cols, elapsed)
	}
}

// state finds what is remembered of the record.
func (s *Source) state(index int, cols [][]byte, id []byte) *state {
	t := &s.plan.tables[index]
	s.key = append(s.key[:0], id...)
	if len(id) == 0 {
		for _, slot := range t.ids {
			s.key = binary.AppendUvarint(s.key, uint64(len(cols[slot])))
			s.key = append(s.key, cols[slot]...)
		}
	}
	st := s.states[index][string(s.key)]
	for st != nil && st.tick == s.tick {
		s.key = append(s.key, '+')
		st = s.states[index][string(s.key)]
	}
	if st == nil {
		st = &state{pasts: make([]past, t.pasts), cells: make([]cell, len(t.rows))}
		s.states[index][string(s.key)] = st
		s.fill(t, st, cols)
	} else if !st.current(t, cols) {
		s.release(st)
		s.fill(t, st, cols)
	}
	st.tick = s.tick
	s.seen[index]++
	return st
}

// current reports whether the texts that the fields are made of are still the same.
func (st *state) current(t *table, cols [][]byte) bool {
	rest := st.from
	for _, f := range t.from {
		text := cols[f.slot]
		n, width := binary.Uvarint(rest)
		rest = rest[width:]
		if int(n) != len(text) || string(rest[:n]) != string(text) {
			return false
		}
		rest = rest[n:]
	}
	return true
}

// fill works out the discrete fields of a record, which are then kept.
func (s *Source) fill(t *table, st *state, cols [][]byte) {
	p := s.plan
	st.from, st.drop = st.from[:0], false
	st.texts, st.known = make([]string, len(p.fields)), make([]bool, len(p.fields))
	for i, f := range p.fields {
		switch {
		case f.Builtin && f.Name == catalog.BuiltinHost:
			st.texts[i], st.known[i] = s.hostname, true
		case f.Builtin && f.Name == catalog.BuiltinZone:
			st.texts[i], st.known[i] = s.zonename, true
		}
	}
	for i := range t.from {
		f := &t.from[i]
		text := cols[f.slot]
		st.from = binary.AppendUvarint(st.from, uint64(len(text)))
		st.from = append(st.from, text...)
		if text == nil {
			continue
		}
		value, known := f.value(text, p.devices)
		st.drop = st.drop || !known
		if f.field >= 0 {
			st.texts[f.field], st.known[f.field] = value, known
		}
	}
	for i := range t.rows {
		row := &t.rows[i]
		c := cell{texts: st.texts, known: st.known}
		for f, isSet := range row.isSet {
			if !isSet {
				continue
			}
			if &c.texts[0] == &st.texts[0] {
				c.texts, c.known = slices.Clone(st.texts), slices.Clone(st.known)
			}
			c.texts[f], c.known[f] = row.set[f], true
		}
		st.cells[i] = c
	}
}

// row evaluates one row of the definition for one record.
func (s *Source) row(t *table, spec *rowSpec, c *cell, st *state, cols [][]byte, elapsed float64) {
	p := s.plan
	value, worst := spec.value.eval(cols, st.pasts, elapsed)
	for i := range spec.numeric {
		if spec.numeric[i].op != "" {
			n, how := spec.numeric[i].eval(cols, st.pasts, elapsed)
			s.numbers[i], worst = whole(n), max(worst, how)
		}
	}
	switch worst {
	case missing:
		s.absent = true
		return
	case bad:
		s.absent = true
		if s.problem == nil {
			s.problem = spec.complain(t, cols)
		}
		return
	case reset:
		if p.varying { // it cannot be told whether the value would have counted
			s.unknown = true
			return
		}
	}
	if p.varying || c.fixed == 0 {
		s.cell, s.spec = c, spec
		c.fixed = -1
		if p.predicate.Match(s.get) {
			c.fixed = 1
		}
	}
	if c.fixed < 0 {
		return
	}
	g := s.groupOf(c, spec)
	if g == nil {
		return
	}
	if g.tick != s.tick {
		g.tick, g.value, g.values, g.partial = s.tick, 0, 0, false
		g.buckets.Buckets = g.buckets.Buckets[:0]
	}
	if worst == reset {
		g.partial = true
		return
	}
	g.value += value
	g.values++
	if p.numeric >= 0 {
		g.buckets.Add(p.fields[p.numeric].Buckets, s.numbers[p.numeric], whole(value))
	}
}

// field is what the predicate asks of the row at hand.
func (s *Source) field(name string) (measure.Value, bool) {
	i := s.plan.place[name]
	if s.plan.fields[i].Arity == catalog.Numeric {
		return measure.Int(s.numbers[i]), s.spec.numeric[i].op != ""
	}
	return measure.String(s.cell.texts[i]), s.cell.known[i]
}

// groupOf finds where a row's values are added up; nil if the row lacks a field that they are broken down by. Beyond the
// limit on keys it is the one that takes all the rest, so that totals stay true.
func (s *Source) groupOf(c *cell, spec *rowSpec) *group {
	if c.group != nil {
		return c.group
	}
	p := s.plan
	if p.numeric >= 0 && spec.numeric[p.numeric].op == "" {
		return nil
	}
	s.key = s.key[:0]
	for _, i := range p.discrete {
		if !c.known[i] {
			return nil
		}
		s.key = binary.AppendUvarint(s.key, uint64(len(c.texts[i])))
		s.key = append(s.key, c.texts[i]...)
	}
	g := s.groups[string(s.key)]
	switch {
	case g != nil:
	case len(s.groups) >= p.maxKeys:
		g = &s.other
	default:
		g = &group{key: string(s.key)}
		for _, i := range p.discrete {
			g.fields = append(g.fields, measure.Field{Name: p.fields[i].Name, Value: c.texts[i]})
		}
		s.groups[g.key] = g
		s.order = append(s.order, g)
	}
	g.cells++
	c.group = g
	return g
}

// release takes a record's rows out of their groups; a group that has none left makes room for another.
func (s *Source) release(st *state) {
	for i := range st.cells {
		g := st.cells[i].group
		if g == nil {
			continue
		}
		st.cells[i].group = nil
		if g.cells--; g.cells == 0 && g != &s.other {
			delete(s.groups, g.key)
		}
	}
}

// End finishes a reading: it appends the samples to the list, and forgets the records that this reading lacked. The
// error tells of a column that holds no number; the samples are those of all others.
func (s *Source) End(samples []collect.Sample) ([]collect.Sample, error) {
	first := s.plan.Differential && s.tick == 1
	emitted := false
	for _, g := range s.order {
		if g.tick == s.tick && g.values > 0 {
			samples = append(samples, s.sample(g))
			emitted = true
		}
	}
	if s.other.tick == s.tick && s.other.values > 0 {
		o := s.sample(&s.other)
		o.Other = true
		samples = append(samples, o)
	}
	// Nothing happened is a value too, where there is one key only and nothing is unknown: a gap means loss.
	if !emitted && !first && !s.absent && !s.unknown && len(s.plan.discrete) == 0 && !s.hasReset() {
		samples = append(samples, s.sample(&group{}))
	}
	s.evict()
	return samples, s.problem
}

// hasReset reports whether all values of this reading were lost to counters that began anew.
func (s *Source) hasReset() bool {
	for _, g := range s.order {
		if g.tick == s.tick && g.partial {
			return true
		}
	}
	return false
}

func (s *Source) sample(g *group) collect.Sample {
	out := collect.Sample{Zone: s.zone, Fields: g.fields, Value: g.value, Partial: g.partial || s.unknown}
	if n := s.plan.numeric; n >= 0 {
		f := s.plan.fields[n]
		out.Distribution = &measure.Distribution{Field: f.Name, Unit: f.Unit, Buckets: slices.Clone(g.buckets.Buckets)}
	}
	return out
}

// evict forgets the records that were not seen in this reading, and the groups that nothing adds to any more.
func (s *Source) evict() {
	for i, states := range s.states {
		if s.seen[i] == len(states) {
			continue
		}
		for key, st := range states {
			if st.tick != s.tick {
				s.release(st)
				delete(states, key)
			}
		}
	}
	if len(s.order) != len(s.groups) {
		s.order = slices.DeleteFunc(s.order, func(g *group) bool { return g.cells == 0 })
	}
}

// complain names the column that holds no number.
func (r *rowSpec) complain(t *table, cols [][]byte) error {
	slot := r.value.badSlot(cols)
	for i := range r.numeric {
		if slot < 0 {
			slot = r.numeric[i].badSlot(cols)
		}
	}
	for name, at := range t.slots {
		if at == slot {
			text := cols[slot]
			return fmt.Errorf("column %s holds %q, which is no number", name, text[:min(len(text), 40)])
		}
	}
	return errors.New("a column holds no number")
}

// whole rounds to an integer; what is out of range becomes the nearest that is not.
func whole(v float64) int64 {
	switch {
	case v >= math.MaxInt64:
		return math.MaxInt64
	case v <= math.MinInt64:
		return math.MinInt64
	}
	return int64(math.Round(v))
}
