package placement

import (
	"slices"

	"github.com/google/uuid"

	"iapi/instrumentation"
	"iapi/inventory"
)

// kind says what a term tests.
type kind uint8

const (
	isVM      kind = iota // id
	isOwner               // id
	isHost                // id
	isAlias               // value
	hasTag                // key
	isTag                 // key, value
	hasTrait              // key
	isTrait               // key, value
	hostKnown             // whether anything is known of the host
)

// term is a test that a place passes or not.
type term struct {
	kind       kind
	id         uuid.UUID
	key, value string
}

type op uint8

const (
	literal op = iota
	and        // true without args
	or         // false without args
)

// expr is a scope in negation normal form: complements stand only at terms. An and has no and among its args, an or no
// or, and neither has exactly one.
//
// A complement of a trait also requires that the host is known. With that, and with complements at the terms only,
// plain boolean evaluation gives what three-valued logic would: nothing that depends on the unknown holds.
type expr struct {
	op   op
	not  bool // of a literal
	term term
	args []expr
}

func compile(s instrumentation.Scope, owner uuid.UUID) expr {
	e := normal(s, false)
	if owner == uuid.Nil {
		return e
	}
	return join(and, []expr{{term: term{kind: isOwner, id: owner}}, e})
}

// normal compiles a scope or its complement. What is not a valid scope becomes false either way.
func normal(s instrumentation.Scope, not bool) expr {
	if members(s) != 1 {
		return expr{op: or}
	}
	every, some := and, or
	if not {
		every, some = or, and
	}
	switch {
	case s.All, s.EveryHost:
		return expr{op: every}
	case len(s.VMs) > 0:
		return anyID(some, isVM, s.VMs, not)
	case len(s.Hosts) > 0:
		return anyID(some, isHost, s.Hosts, not)
	case s.VMAlias != "":
		return expr{not: not, term: term{kind: isAlias, value: s.VMAlias}}
	case s.VMTag != nil:
		return tagMatch(some, hasTag, isTag, *s.VMTag, not)
	case s.HostTag != nil:
		e := tagMatch(some, hasTrait, isTrait, *s.HostTag, not)
		if not {
			return join(and, []expr{{term: term{kind: hostKnown}}, e})
		}
		return e
	case s.Not != nil:
		return normal(*s.Not, !not)
	}
	o, list := every, s.And
	if len(s.Or) > 0 {
		o, list = some, s.Or
	}
	args := make([]expr, len(list))
	for i, t := range list {
		args[i] = normal(t, not)
	}
	return join(o, args)
}

// members counts the members of a scope that are set.
func members(s instrumentation.Scope) int {
	n := 0
	for _, set := range [...]bool{
		s.All, s.EveryHost, len(s.VMs) > 0, s.VMAlias != "", s.VMTag != nil,
		len(s.Hosts) > 0, s.HostTag != nil, len(s.And) > 0, len(s.Or) > 0, s.Not != nil,
	} {
		if set {
			n++
		}
	}
	return n
}

func anyID(o op, k kind, ids []uuid.UUID, not bool) expr {
	args := make([]expr, len(ids))
	for i, id := range ids {
		args[i] = expr{not: not, term: term{kind: k, id: id}}
	}
	return join(o, args)
}

func tagMatch(o op, has, is kind, t instrumentation.TagMatch, not bool) expr {
	if len(t.In) == 0 {
		return expr{not: not, term: term{kind: has, key: t.Key}}
	}
	args := make([]expr, len(t.In))
	for i, v := range t.In {
		args[i] = expr{not: not, term: term{kind: is, key: t.Key, value: v}}
	}
	return join(o, args)
}

// join makes one expr of many, without nesting the same operator.
func join(o op, args []expr) expr {
	flat := make([]expr, 0, len(args))
	for _, a := range args {
		if a.op == o {
			flat = append(flat, a.args...)
		} else {
			flat = append(flat, a)
		}
	}
	if len(flat) == 1 {
		return flat[0]
	}
	return expr{op: o, args: flat}
}

// holds evaluates the expr for one place.
func (e *expr) holds(p place) bool {
	if e.op == literal {
		return e.term.holds(p) != e.not
	}
	for i := range e.args {
		if e.args[i].holds(p) == (e.op == or) {
			return e.op == or
		}
	}
	return e.op == and
}

func (t *term) holds(p place) bool {
	switch t.kind {
	case isHost:
		return p.hostID == t.id
	case hasTrait, isTrait:
		return p.host != nil && t.in(p.host.Traits)
	case hostKnown:
		return p.host != nil
	}
	if p.vm == nil {
		return false
	}
	switch t.kind {
	case isVM:
		return p.vm.UUID == t.id
	case isOwner:
		return p.vm.Owner == t.id
	case isAlias:
		return p.vm.Alias == t.value
	default:
		return t.in(p.vm.Tags)
	}
}

func (t *term) in(tags map[string]string) bool {
	v, ok := tags[t.key]
	return ok && (t.kind == hasTag || t.kind == hasTrait || v == t.value)
}

// ownTerms calls fn with every term that a VM passes by itself, tagTerms with those of a host that is known.
func ownTerms(vm *inventory.VM, fn func(term)) {
	fn(term{kind: isVM, id: vm.UUID})
	fn(term{kind: isOwner, id: vm.Owner})
	fn(term{kind: isHost, id: vm.Host})
	if vm.Alias != "" {
		fn(term{kind: isAlias, value: vm.Alias})
	}
	for k, v := range vm.Tags {
		fn(term{kind: hasTag, key: k})
		fn(term{kind: isTag, key: k, value: v})
	}
}

func traitTerms(host *inventory.Host, fn func(term)) {
	fn(term{kind: hostKnown})
	for k, v := range host.Traits {
		fn(term{kind: hasTrait, key: k})
		fn(term{kind: isTrait, key: k, value: v})
	}
}

// sortedIDs returns the ids sorted and without repeats, in a new slice.
func sortedIDs(ids []uuid.UUID) []uuid.UUID {
	s := slices.Clone(ids)
	slices.SortFunc(s, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(s)
}
