package instrumentation

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"iapi/inventory"
)

type scopeMember struct {
	name  string
	value any
}

// members returns those that are set, in the schema's order.
func (s Scope) members() []scopeMember {
	var out []scopeMember
	set := func(is bool, name string, value any) {
		if is {
			out = append(out, scopeMember{name, value})
		}
	}
	set(s.All, "all", true)
	set(s.EveryHost, "everyHost", true)
	set(s.VMs != nil, "vms", s.VMs)
	set(s.VMAlias != "", "vmAlias", s.VMAlias)
	set(s.VMTag != nil, "vmTag", s.VMTag)
	set(s.Hosts != nil, "hosts", s.Hosts)
	set(s.HostTag != nil, "hostTag", s.HostTag)
	set(s.And != nil, "and", s.And)
	set(s.Or != nil, "or", s.Or)
	set(s.Not != nil, "not", s.Not)
	return out
}

// Matches reports whether a place is in the scope: a zone, or a whole host where vm is nil. host is the zone's host.
// It says nothing about owners: what belongs to an owner concerns only the zones of that owner.
func (s Scope) Matches(vm *inventory.VM, host inventory.Host) bool {
	matches := func(t Scope) bool { return t.Matches(vm, host) }
	switch {
	case s.All:
		return vm != nil
	case s.EveryHost:
		return true
	case s.VMs != nil:
		return vm != nil && slices.Contains(s.VMs, vm.UUID)
	case s.VMAlias != "":
		return vm != nil && vm.Alias == s.VMAlias
	case s.VMTag != nil:
		return vm != nil && s.VMTag.Matches(vm.Tags)
	case s.Hosts != nil:
		return slices.Contains(s.Hosts, host.UUID)
	case s.HostTag != nil:
		return s.HostTag.Matches(host.Traits)
	case s.And != nil:
		return !slices.ContainsFunc(s.And, func(t Scope) bool { return !matches(t) })
	case s.Or != nil:
		return slices.ContainsFunc(s.Or, matches)
	case s.Not != nil:
		return !matches(*s.Not)
	}
	return false
}

// Matches reports whether one of the tags is meant. Values are compared by their JSON text, without the quotes.
func (t TagMatch) Matches(tags map[string]string) bool {
	value, ok := tags[t.Key]
	return ok && (t.In == nil || slices.Contains(t.In, value))
}

// failing returns the smallest term because of which a place is not in the scope.
func (s Scope) failing(vm *inventory.VM, host inventory.Host) Scope {
	for _, t := range s.And {
		if !t.Matches(vm, host) {
			return t.failing(vm, host)
		}
	}
	if len(s.Or) == 1 {
		return s.Or[0].failing(vm, host)
	}
	return s
}

// namesHosts reports whether a term is about hosts, which only operators may write and read.
func (s Scope) namesHosts() bool {
	return s.EveryHost || s.Hosts != nil || s.HostTag != nil || s.Not != nil && s.Not.namesHosts() ||
		slices.ContainsFunc(s.And, Scope.namesHosts) || slices.ContainsFunc(s.Or, Scope.namesHosts)
}

// WithoutHosts returns the scope as a tenant may see it: terms about hosts name none. It is for showing only; it does
// not match what the scope matches.
func (s Scope) WithoutHosts() Scope {
	if !s.namesHosts() {
		return s
	}
	if s.Hosts != nil || s.HostTag != nil {
		s.Hosts, s.HostTag = []uuid.UUID{}, nil
	}
	s.And, s.Or = mapScopes(s.And, Scope.WithoutHosts), mapScopes(s.Or, Scope.WithoutHosts)
	if s.Not != nil {
		not := s.Not.WithoutHosts()
		s.Not = &not
	}
	return s
}

// mapScopes keeps nil apart from empty.
func mapScopes(terms []Scope, fn func(Scope) Scope) []Scope {
	if terms == nil {
		return nil
	}
	out := make([]Scope, len(terms))
	for i, t := range terms {
		out[i] = fn(t)
	}
	return out
}

// Canonical returns a scope of the same meaning in which lists are sorted and name everything once, nested ands and ors
// of the same kind are one, and neither a single member nor a double not is wrapped.
func (s Scope) Canonical() Scope {
	s.VMs, s.Hosts = canonicalUUIDs(s.VMs), canonicalUUIDs(s.Hosts)
	s.VMTag, s.HostTag = s.VMTag.canonical(), s.HostTag.canonical()
	if s.Not != nil {
		not := s.Not.Canonical()
		if not.Not != nil {
			return *not.Not
		}
		s.Not = &not
	}
	s.And = canonicalTerms(s.And, func(t Scope) []Scope { return t.And })
	s.Or = canonicalTerms(s.Or, func(t Scope) []Scope { return t.Or })
	if len(s.And) == 1 {
		return s.And[0]
	}
	if len(s.Or) == 1 {
		return s.Or[0]
	}
	return s
}

func canonicalTerms(terms []Scope, same func(Scope) []Scope) []Scope {
	if terms == nil {
		return nil
	}
	out := make([]Scope, 0, len(terms))
	for _, t := range mapScopes(terms, Scope.Canonical) {
		if inner := same(t); inner != nil {
			out = append(out, inner...)
		} else {
			out = append(out, t)
		}
	}
	compare := func(a, b Scope) int { return strings.Compare(a.json(), b.json()) }
	slices.SortFunc(out, compare)
	return slices.CompactFunc(out, func(a, b Scope) bool { return compare(a, b) == 0 })
}

// JSON is the schema's ScopeInput.
func (s Scope) JSON() json.RawMessage {
	text, _ := json.Marshal(s) // scopes hold nothing that cannot be encoded
	return text
}

func (s Scope) json() string { return string(s.JSON()) }

func (t *TagMatch) canonical() *TagMatch {
	if t == nil || t.In == nil {
		return t
	}
	in := slices.Clone(t.In)
	slices.Sort(in)
	return &TagMatch{Key: t.Key, In: slices.Compact(in)}
}

func canonicalUUIDs(ids []uuid.UUID) []uuid.UUID {
	ids = slices.Clone(ids)
	slices.SortFunc(ids, compareUUIDs)
	return slices.Compact(ids)
}

func compareUUIDs(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) }

// scopeRules are what a scope is checked against.
type scopeRules struct {
	Policy
	owner    uuid.UUID
	operator bool // host terms are allowed
}

// checkScope finds the mistakes of a scope, in order; paths begin at the scope.
func (r scopeRules) checkScope(s Scope) UserErrors {
	c := scopeChecker{scopeRules: r}
	c.term(s, nil, 1)
	if c.leaves > r.ScopeLeaves {
		c.add(CodeInvalidScope, nil, "it has more than %d terms", r.ScopeLeaves)
	}
	if c.uuids > r.ScopeUUIDs {
		c.add(CodeLimitExceeded, nil, "its lists name more than %d machines and hosts", r.ScopeUUIDs)
	}
	return c.found
}

type scopeChecker struct {
	scopeRules
	collector
	leaves, uuids int
}

func (c *scopeChecker) term(s Scope, path []string, depth int) {
	if c.leaves > c.ScopeLeaves {
		return
	}
	if depth > c.ScopeDepth {
		c.add(CodeInvalidScope, path, "it is nested deeper than %d levels", c.ScopeDepth)
		return
	}
	members := s.members()
	if len(members) != 1 {
		c.add(CodeInvalidScope, path, oneOfMessage, scopeNames)
		return
	}
	name := members[0].name
	path = append(path, name)
	switch name {
	case "and", "or":
		terms := s.And
		if name == "or" {
			terms = s.Or
		}
		if len(terms) == 0 {
			c.add(CodeInvalidScope, path, "the list is empty")
		}
		for i, t := range terms {
			c.term(t, append(path, strconv.Itoa(i)), depth+1)
		}
		return
	case "not":
		c.term(*s.Not, path, depth+1)
		return
	}
	c.leaves++
	switch name {
	case "all":
		if c.owner == uuid.Nil {
			c.add(CodeInvalidScope, path, "it means every machine of an owner, and there is no owner")
		}
	case "everyHost", "hosts", "hostTag":
		if !c.operator {
			c.add(CodeScopeForbidden, path, "only operators choose hosts")
			return
		}
	}
	c.list(s.VMs, path)
	c.list(s.Hosts, path)
	c.tagMatch(s.VMTag, path)
	c.tagMatch(s.HostTag, path)
	if s.VMAlias != "" {
		c.text(s.VMAlias, path)
	}
}

func (c *scopeChecker) list(ids []uuid.UUID, path []string) {
	if ids != nil && len(ids) == 0 {
		c.add(CodeInvalidScope, path, "the list is empty")
	}
	c.uuids += len(ids)
	if i := slices.Index(ids, uuid.Nil); i >= 0 {
		c.add(CodeInvalidScope, append(path, strconv.Itoa(i)), "it is not the uuid of anything")
	}
}

func (c *scopeChecker) tagMatch(t *TagMatch, path []string) {
	if t == nil {
		return
	}
	if t.Key == "" {
		c.add(CodeInvalidScope, append(path, "key"), "it is empty")
	}
	c.text(t.Key, append(path, "key"))
	if t.In != nil && len(t.In) == 0 {
		c.add(CodeInvalidScope, append(path, "in"), "the list is empty; leave it out for any value")
	}
	if len(t.In) > c.ScopeValues {
		c.add(CodeLimitExceeded, append(path, "in"), "it has more than %d values", c.ScopeValues)
		return
	}
	for i, v := range t.In {
		c.text(v, append(path, "in", strconv.Itoa(i)))
	}
}

func (c *scopeChecker) text(s string, path []string) {
	switch {
	case len(s) > c.ScopeTextBytes:
		c.add(CodeLimitExceeded, path, "it is longer than %d bytes", c.ScopeTextBytes)
	case !utf8.ValidString(s) || strings.ContainsRune(s, 0):
		c.add(CodeInvalidScope, path, "it must be valid UTF-8 without NUL")
	}
}

const oneOfMessage = "exactly one of %s is needed"

const scopeNames = "all, everyHost, vms, vmAlias, vmTag, hosts, hostTag, and, or, not"
