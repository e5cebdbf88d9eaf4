package program

import (
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"iapi/catalog"
	"iapi/measure"
)

// number casts an expression of the definition to a number of 64 bits.
func (l Language) number(expr string, signed bool) string {
	name := "uint64"
	if signed {
		name = "int64"
	}
	if l == D {
		name += "_t"
	}
	return "(" + name + ")(" + expr + ")"
}

// typedArgument is a way from a probe's argument whose type D knows, where a definition reads a number.
var typedArgument = regexp.MustCompile(`\bargs *\[ *[0-9] *\]( *\[ *0 *\])?( *(->|\.) *[A-Za-z_][A-Za-z0-9_]*)+`)

// noAddress has the compiler of D refuse an address where a number is meant, before a cast makes one of it: an unary plus is
// for arithmetic types alone. bpftrace has no such operator; there the kernel is asked before a program is started.
func (l Language) noAddress(expr string) string {
	if l != D {
		return expr
	}
	return typedArgument.ReplaceAllString(expr, "(+$0)")
}

// local names the variable that holds a numeric field.
func (l Language) local(field string) string {
	if l == D {
		return "this->f_" + field
	}
	return "$f_" + field
}

// maxText is the longest text that a program has, in bytes without the NUL.
func (l Language) maxText() int {
	if l == D {
		return 127 // strsize
	}
	return 63 // BPFTRACE_STRLEN
}

// text is where the value is kept.
func (s save) text(l Language) string {
	switch {
	case l == D && s.thread:
		return "self->s_" + s.name
	case l == D:
		return "s_" + s.name + "[" + strings.Join(s.keys, ", ") + "]"
	}
	return "@s_" + s.name + "[" + strings.Join(s.keys, ", ") + "]"
}

// forOther is where an entry keeps the value of another thread than the current one.
func (s save) forOther() save {
	if s.of != "" {
		s.keys = []string{s.of}
	}
	return s
}

// isThere is true when the value was saved.
func (s save) isThere(l Language) string {
	switch {
	case l == Bpftrace && s.isText():
		return "(" + s.text(l) + ` != "")`
	case l == Bpftrace:
		return "(" + s.text(l) + ")"
	case s.ctype == catalog.CTypeStr:
		return "(" + s.text(l) + " != NULL)"
	}
	return "(" + s.text(l) + " != 0)"
}

// isText reports whether a text is saved, else it is a number.
func (s save) isText() bool {
	return slices.Contains([]catalog.CType{catalog.CTypeStr, catalog.CTypeChars, catalog.CTypeText}, s.ctype)
}

// nothing is what is found in bpftrace where nothing was saved.
func (s save) nothing() string {
	if s.isText() {
		return `""`
	}
	return "0"
}

// foreign reports whether an entry saves for another thread than the current one, so that the current one's fields and
// zone say nothing.
func (c clause) foreign() bool {
	return slices.ContainsFunc(c.saves, func(s save) bool { return s.of != "" })
}

// zone is where the zone is kept in which a value was saved. A thread is asked itself.
func (s save) zone(l Language) string {
	if l == D {
		return "z_" + s.name + "[" + strings.Join(s.keys, ", ") + "]"
	}
	return "@z_" + s.name + "[" + strings.Join(s.keys, ", ") + "]"
}

// step gives the width of the bucket of a value as one expression: a balanced tree of comparisons, with 0 for what is in
// no divided range. A bucket's lower bound is then the value divided by the width, times the width: widths divide the
// powers that they start from.
func (b bucketing) step(v string) string {
	l, ok := b.by.(measure.LogLinear)
	if !ok {
		linear := b.by.(measure.Linear)
		return "(" + outside(v, linear.Low, endOf(linear), b.signed) + " ? 0 : " + integer(linear.Step) + ")"
	}
	floor := int64(1)
	for range l.Low {
		floor *= l.Base
	}
	from, width := []int64{floor}, []int64{}
	for range l.High - l.Low + 1 {
		floor *= l.Base
		if next := max(1, floor/l.Steps); len(width) == 0 || width[len(width)-1] != next {
			width = append(width, next)
			from = append(from, floor)
		} else { // the same width goes on
			from[len(from)-1] = floor
		}
	}
	var tree func(lo, hi int) string
	tree = func(lo, hi int) string {
		if lo == hi {
			return integer(width[lo])
		}
		mid := (lo + hi + 1) / 2
		return "((" + v + " < " + integer(from[mid]) + ") ? " + tree(lo, mid-1) + " : " + tree(mid, hi) + ")"
	}
	return "(" + outside(v, from[0], floor, b.signed) + " ? 0 : " + tree(0, len(width)-1) + ")"
}

// endOf is where the last bucket of a Linear begins.
func endOf(l measure.Linear) int64 {
	if l.High == 0 {
		return math.MaxInt64
	}
	return l.High
}

// outside is true where no bucket is divided.
func outside(v string, low, high int64, signed bool) string {
	var parts []string
	if low > 0 || signed {
		parts = append(parts, "("+v+" < "+integer(low)+")")
	}
	parts = append(parts, "("+v+" >= "+integer(high)+")")
	return "(" + strings.Join(parts, " || ") + ")"
}

// low gives one value of the bucket that a value is in, by which the bucket is then known: its lower bound where it has
// one. step is the variable with what step gave.
func (b bucketing) low(v, step string) string {
	var first, end, offset int64
	below := "0"
	switch by := b.by.(type) {
	case measure.LogLinear:
		if b.signed { // the negative values have a bucket of their own
			below = "((" + v + " < 0) ? (-1) : 0)"
		}
		first, end = 1, 1
		for range by.Low {
			first *= by.Base
		}
		for range by.High + 1 {
			end *= by.Base
		}
	case measure.Linear:
		first, end, offset = by.Low, endOf(by), by.Low
		below = integer(by.Low - 1) // where it is 0 and the value unsigned, nothing is below
	}
	inside := "((" + v + " / " + step + ") * " + step + ")"
	if offset > 0 {
		inside = "((((" + v + " - " + integer(offset) + ") / " + step + ") * " + step + ") + " + integer(offset) + ")"
	}
	return "((" + step + " > 0) ? " + inside + " : ((" + v + " < " + integer(first) + ") ? " + below + " : " + integer(end) + "))"
}

// amount is the aggregating action of a clause.
func (c clause) amount(l Language) string {
	if c.value == "" {
		return "count()"
	}
	return "sum(" + l.number(c.value, true) + ")"
}

// scopeText is what a bpftrace program looks up in its scope.
func scopeText(rule catalog.ScopeRule) string {
	if rule == catalog.ScopeSocketCgroup {
		return "@scope[((struct sock *)args->skaddr)->sk_cgrp_data.cgroup->kn->id]"
	}
	return "@scope[cgroup]"
}

// savedZone is the save whose zone an exit counts for, where the exit may run in anybody's context; false if it can ask
// for itself.
func (p *Program) savedZone(c clause) (save, bool) {
	if p.wish.Whole || p.wish.Variant.Scope == catalog.ScopeSocketCgroup {
		return save{}, false
	}
	for _, s := range c.require {
		if !s.thread {
			return s, true
		}
	}
	return save{}, false
}

// writer writes lines.
type writer struct{ strings.Builder }

func (w *writer) line(parts ...string) {
	for _, part := range parts {
		w.WriteString(part)
	}
	w.WriteByte('\n')
}

// filter joins conditions into a probe's predicate; what is empty is left out.
func filter(parts ...string) string {
	kept := parts[:0:0]
	for _, part := range parts {
		if part != "" {
			kept = append(kept, part)
		}
	}
	if len(kept) == 0 {
		return ""
	}
	return " /" + strings.Join(kept, " && ") + "/"
}

func paren(s string) string {
	if s == "" {
		return ""
	}
	return "(" + s + ")"
}

func number(n int64) string { return strconv.FormatInt(n, 10) }
