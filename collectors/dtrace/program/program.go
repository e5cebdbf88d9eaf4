// Package program compiles what is asked of a tracer into the text of a bpftrace or D program, and reads the rows that
// such a program gives.
//
// Text is written from typed trees only. Of what users say two kinds of token reach it: integers printed by strconv, and
// string constants of which every byte outside a small set is escaped. Fields are replaced by the definition's own
// expressions, operators come from a table, every sub-expression stands in parentheses, and the scope is always the first
// and outermost condition.
package program

import (
	"cmp"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/measure"
)

// Language is what a program is written in.
type Language int

// The languages.
const (
	Bpftrace Language = iota
	D
)

// HostZone is the value of zonename for a whole host.
const HostZone = "global"

const (
	defaultMaxKeys = 500
	defaultRuntime = time.Hour
	// A bpftrace map holds at least this many keys: what is saved for each thread is in maps of the same size. A program tells
	// what finds no room.
	minMapKeys = 8 << 10
	maxMapKeys = 64 << 10
	maxRows    = 16 << 10 // of one interval
	perKey     = 64       // rows that one key is expected to have when it is counted by buckets
	perStack   = 16       // the same functions are called from several places
)

// Wish is what a program is compiled for.
type Wish struct {
	Definition     *catalog.Definition
	Variant        *catalog.Variant
	Predicate      measure.Predicate
	Decompositions []string
	Whole          bool        // one source, the host; else it is kept to zones
	Zones          []uuid.UUID // of a D program, whose text holds them; none means nothing
	Hostname       string      // the value of the builtin field hostname
	Arch           string      // whose system calls are meant; default this machine's
	Threads        int         // that this machine has, which may all be remembered at once; 0: it is not known
	Devices        Devices     // nil: block devices have no names here
}

// Devices names block devices.
type Devices interface {
	Number(name string) (dev uint64, found bool) // the kernel's own number: major<<20 | minor
	Name(dev uint64) (name string, found bool)
}

// Program is a compiled wish. It does not change.
type Program struct {
	Language Language
	// MaxKeys bounds the combinations of discrete fields that one source has.
	MaxKeys int
	// MapKeys is how many keys each map of a bpftrace program holds, MaxRows how many rows one interval has at most.
	MapKeys, MaxRows int
	// Runtime is how long the program may run.
	Runtime time.Duration
	// Zones is what the predicate says of zonename, which the program's text does not: a zone for which it is false is to
	// be kept out of the scope.
	Zones measure.Predicate

	wish    Wish
	clauses []clause
	cleans  []clean
	keys    []key // in the order of the rows; the zone, which is the first of each row, is not among them
	decoded []int // the place among keys of each discrete decomposition; -1: builtin
	fields  []catalog.Field
	numeric *catalog.Field // the decomposition that is counted by buckets, the first of keys
}

// key is one part of a row's key.
type key struct {
	field catalog.Field
	trace catalog.TraceField // of the first clause that counts; all give the same type
	kind  kind
}

// kind orders the parts of a key. bpftrace joins them by commas, so that only the last may hold any text.
type kind int

const (
	bucketKey kind = iota
	numberKey
	letterKey
	addressKey
	stackKey // lines, of which only a stack's own begin with a tab
	textKey
)

// clause is a definition's clause made ready to be printed.
type clause struct {
	probes  []string
	role    catalog.Role
	own     string // the definition's own condition, "" for none
	saves   []save
	require []save
	early   []cond // conjuncts of the predicate that need no numeric field, or that an entry can evaluate
	late    []cond // those that need one
	locals  []local
	// The conditions compare the arguments of the process.
	arguments bool
	bucket    *bucketing
	keys      []string // expressions in the order of Program.keys, without the bucket
	value     string   // what is added up, "" for a count
}

// save is what a definition remembers between clauses.
type save struct {
	name   string
	keys   []string
	thread bool
	of     string // the thread that an entry saves it for, "" for the current one
	ctype  catalog.CType
	expr   string
}

// local is a numeric field, which is evaluated once: the time that it may depend on passes.
type local struct {
	name   string
	signed bool
	expr   string
}

type bucketing struct {
	local  string
	signed bool
	by     measure.Bucketer
}

type clean struct {
	probe string
	own   string // the definition's own condition, "" for none
	save  save
	keys  []string
}

// Compile makes a Program of a variant whose source traces. Its errors are *collect.Error.
func Compile(w Wish) (*Program, error) {
	c := compiler{wish: w, saves: map[string]save{}}
	switch {
	case w.Variant.Source.Bpftrace != nil:
		c.source, c.lang = w.Variant.Source.Bpftrace, Bpftrace
	case w.Variant.Source.DTrace != nil:
		c.source, c.lang = w.Variant.Source.DTrace, D
	default:
		return nil, collect.Errorf(collect.Failed, "compile %s: the variant %s does not trace", w.Definition.Metric.Name, w.Variant.ID)
	}
	c.wish.Arch = cmp.Or(w.Arch, runtime.GOARCH)
	p, err := c.compile()
	if err != nil {
		refusal := *collect.Refusal(err)
		refusal.Message = fmt.Sprintf("compile %s for %s: %s", w.Definition.Metric.Name, w.Variant.ID, refusal.Message)
		return nil, &refusal
	}
	return p, nil
}

type compiler struct {
	wish      Wish
	lang      Language
	source    *catalog.TraceSource
	predicate measure.Predicate
	saves     map[string]save
	p         *Program
}

func (c *compiler) compile() (*Program, error) {
	limits := c.wish.Definition.Limits
	c.p = &Program{Language: c.lang, wish: c.wish, MaxKeys: cmp.Or(limits.MaxKeys, defaultMaxKeys), Runtime: defaultRuntime}
	if limits.MaxRuntime > 0 {
		c.p.Runtime = time.Duration(limits.MaxRuntime) * time.Second
	}
	if err := c.checkWish(); err != nil {
		return nil, err
	}
	if err := c.splitPredicate(); err != nil {
		return nil, err
	}
	if err := c.readSaves(); err != nil {
		return nil, err
	}
	if err := c.decomposeKeys(); err != nil {
		return nil, err
	}
	rows := c.p.MaxKeys
	if c.p.numeric != nil {
		rows *= perKey
	}
	if c.p.StackParts() > 0 {
		rows *= perStack
	}
	if !c.wish.Whole {
		rows *= 4 // several zones share a program
	}
	c.p.MaxRows = min(rows, maxRows)
	if err := c.compileClauses(); err != nil {
		return nil, err
	}
	keys := max(minMapKeys, 2*c.p.MaxRows)
	if c.lang == Bpftrace && c.p.remembers() {
		keys = max(keys, 2*c.wish.Threads) // there may be more of them tomorrow
	}
	c.p.MapKeys = min(keys, maxMapKeys)
	return c.p, nil
}

// checkWish checks again what the control plane and the registry of collectors have checked.
func (c *compiler) checkWish() error {
	m := &c.wish.Definition.Metric
	if err := c.wish.Predicate.Validate(); err != nil {
		return collect.Errorf(collect.Failed, "%w", err)
	}
	if errs := c.wish.Predicate.Check(m.FieldTypes(true)); len(errs) > 0 {
		return collect.Errorf(collect.Failed, "%w", errs[0])
	}
	for _, name := range append(c.wish.Predicate.Fields(), c.wish.Decompositions...) {
		f, found := m.Field(name)
		if !found || !f.Builtin && !slices.Contains(c.wish.Variant.Fields, name) {
			return collect.Errorf(collect.Unsupported, "it has no field %q", name)
		}
	}
	return nil
}

// splitPredicate takes the builtin fields out of the predicate: hostname is known now, zonename is known of each zone.
func (c *compiler) splitPredicate() error {
	p := fold(c.wish.Predicate, func(leaf measure.Predicate) (bool, bool) {
		value, known := "", false
		switch f, _ := c.wish.Definition.Metric.Field(leaf.Field); {
		case f.Builtin && f.Name == catalog.BuiltinHost:
			value, known = c.wish.Hostname, true
		case f.Builtin && f.Name == catalog.BuiltinZone && c.wish.Whole:
			value, known = HostZone, true
		}
		return known && (value == leaf.Value.Str()) == (leaf.Op == measure.Eq), known
	})
	var zones, rest []measure.Predicate
	for _, conjunct := range conjuncts(p) {
		fields := conjunct.Fields()
		switch {
		case !slices.Contains(fields, catalog.BuiltinZone):
			rest = append(rest, conjunct)
		case len(fields) == 1:
			zones = append(zones, conjunct)
		default:
			return collect.Errorf(collect.Unsupported, "a tracer cannot compare zonename in one or with other fields")
		}
	}
	c.predicate, c.p.Zones = all(rest), all(zones)
	return nil
}

// readSaves collects what entries remember. An exit reads it by the same keys, so there is one way to save each name.
func (c *compiler) readSaves() error {
	for _, clause := range c.source.Clauses {
		for _, name := range slices.Sorted(maps.Keys(clause.Save)) {
			s := clause.Save[name]
			made := save{name: name, keys: s.Key, thread: s.Thread || c.lang == Bpftrace && slices.Equal(s.Key, []string{"tid"}), of: s.Of, ctype: s.CType}
			if c.lang == Bpftrace && s.Thread {
				made.keys = []string{"tid"}
			}
			if old, twice := c.saves[name]; twice && !slices.Equal(old.keys, made.keys) {
				return collect.Errorf(collect.Failed, "the definition saves %s by different keys", name)
			}
			c.saves[name] = made
		}
	}
	return nil
}

// decomposeKeys says what a row is keyed by.
func (c *compiler) decomposeKeys() error {
	i := slices.IndexFunc(c.source.Clauses, func(clause catalog.Clause) bool { return clause.Role != catalog.Entry })
	if i < 0 {
		return collect.Errorf(collect.Failed, "the definition counts nothing")
	}
	for _, name := range c.wish.Decompositions {
		f, _ := c.wish.Definition.Metric.Field(name)
		if slices.ContainsFunc(c.p.keys, func(k key) bool { return k.field.Name == name }) ||
			slices.ContainsFunc(c.p.fields, func(have catalog.Field) bool { return have.Name == name }) {
			return collect.Errorf(collect.Unsupported, "the decomposition %s is there twice", name)
		}
		t := c.source.Clauses[i].Fields[name]
		switch {
		case f.Arity == catalog.Numeric && c.p.numeric != nil:
			return collect.Errorf(collect.Unsupported, "two numeric decompositions, %s and %s: one is the most", c.p.numeric.Name, name)
		case f.Arity == catalog.Numeric && f.Buckets == nil:
			return collect.Errorf(collect.Unsupported, "the numeric field %s has no buckets", name)
		case f.Arity == catalog.Numeric:
			c.p.numeric = &f
			c.p.keys = append(c.p.keys, key{field: f, trace: t, kind: bucketKey})
		case f.Builtin:
			c.p.fields = append(c.p.fields, f)
		default:
			c.p.fields = append(c.p.fields, f)
			c.p.keys = append(c.p.keys, key{field: f, trace: t, kind: kindOf(t)})
		}
	}
	slices.SortStableFunc(c.p.keys, func(a, b key) int { return cmp.Compare(a.kind, b.kind) })
	if n := len(c.p.keys); c.lang == Bpftrace && n > 1 && c.p.keys[n-2].kind == textKey {
		return collect.Errorf(collect.Unsupported, "a tracer here breaks down by one field of free text, and not by both %s and %s",
			c.p.keys[n-2].field.Name, c.p.keys[n-1].field.Name)
	}
	for _, f := range c.p.fields {
		c.p.decoded = append(c.p.decoded, slices.IndexFunc(c.p.keys, func(k key) bool { return k.field.Name == f.Name }))
	}
	return nil
}

func kindOf(t catalog.TraceField) kind {
	switch {
	case slices.Contains([]catalog.CType{catalog.CTypeInt, catalog.CTypeUint, catalog.CTypeFSType, catalog.CTypeSubsecond}, t.CType):
		return numberKey
	case t.CType == catalog.CTypeIP:
		return addressKey
	case t.CType == catalog.CTypeStack:
		return stackKey
	case t.Decode == "firstletter":
		return letterKey
	}
	return textKey
}

// fold replaces the comparisons that are known and simplifies. What is always false becomes an or without members.
func fold(p measure.Predicate, known func(leaf measure.Predicate) (value, ok bool)) measure.Predicate {
	never := measure.Predicate{Op: measure.Or}
	if p.Op.IsComparison() {
		switch value, ok := known(p); {
		case !ok:
			return p
		case value:
			return measure.Predicate{}
		}
		return never
	}
	var args []measure.Predicate
	for _, arg := range p.Args {
		arg = fold(arg, known)
		isNever := arg.Op == measure.Or && len(arg.Args) == 0
		switch {
		case arg.IsZero() && p.Op == measure.Or:
			return measure.Predicate{}
		case isNever && p.Op == measure.And:
			return never
		case arg.IsZero() || isNever:
		default:
			args = append(args, arg)
		}
	}
	switch {
	case len(args) == 1:
		return args[0]
	case len(args) == 0 && p.Op == measure.And:
		return measure.Predicate{}
	}
	return measure.Predicate{Op: p.Op, Args: args}
}

func conjuncts(p measure.Predicate) []measure.Predicate {
	switch {
	case p.IsZero():
		return nil
	case p.Op != measure.And:
		return []measure.Predicate{p}
	}
	var list []measure.Predicate
	for _, arg := range p.Args {
		list = append(list, conjuncts(arg)...)
	}
	return list
}

func all(list []measure.Predicate) measure.Predicate {
	switch len(list) {
	case 0:
		return measure.Predicate{}
	case 1:
		return list[0]
	}
	return measure.Predicate{Op: measure.And, Args: list}
}

// HasZone reports whether the predicate lets a zone's events count.
func (p *Program) HasZone(id uuid.UUID) bool {
	return p.Zones.Match(func(string) (measure.Value, bool) { return measure.String(id.String()), true })
}

// InText reports whether the text holds the zones that the program is kept to, so that others need another program. A
// bpftrace program has them in a map.
func (p *Program) InText() bool { return p.Language == D && !p.wish.Whole }

// Keyed reports whether the program gives rows besides totals.
func (p *Program) Keyed() bool { return len(p.keys) > 0 }

// Numeric is the field whose values are counted by buckets, nil for none.
func (p *Program) Numeric() *catalog.Field { return p.numeric }

// Discrete says whether a source can have several combinations of discrete fields.
func (p *Program) Discrete() bool {
	return slices.ContainsFunc(p.decoded, func(at int) bool { return at >= 0 })
}

// texts joins conditions; nothing is true.
func texts(conds []cond, l Language) string {
	parts := make([]string, len(conds))
	for i, c := range conds {
		parts[i] = c.text(l)
	}
	return strings.Join(parts, " && ")
}

// KeyParts is how many parts the key of a row has after its zone.
func (p *Program) KeyParts() int { return len(p.keys) }

// StackParts is how many of the parts are stacks; they are the last ones, or stand before one text.
func (p *Program) StackParts() int {
	n := 0
	for _, k := range p.keys {
		if k.kind == stackKey {
			n++
		}
	}
	return n
}

// EndsInText reports whether the last part is a text that may hold anything.
func (p *Program) EndsInText() bool {
	n := len(p.keys)
	return n > 0 && p.keys[n-1].kind == textKey
}

// Whole reports whether the program measures the whole host.
func (p *Program) Whole() bool { return p.wish.Whole }

// Constant gives the fields of a source that has no others than builtin ones.
func (p *Program) Constant(zone uuid.UUID) []measure.Field {
	name := HostZone
	if zone != uuid.Nil {
		name = zone.String()
	}
	fields := make([]measure.Field, 0, len(p.fields))
	for _, f := range p.fields {
		fields = append(fields, measure.Field{Name: f.Name, Value: p.builtin(f, name)})
	}
	return fields
}

func (p *Program) builtin(f catalog.Field, zone string) string {
	if f.Name == catalog.BuiltinHost {
		return p.wish.Hostname
	}
	return zone
}
