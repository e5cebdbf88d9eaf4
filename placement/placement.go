// Package placement says where an instrumentation runs: it evaluates scopes over VMs and hosts. A Matcher answers for
// one place, a Set finds which of many live instrumentations one VM or host concerns, and an Inventory finds the places
// of one scope among very many. All three evaluate the same compiled form, so they cannot disagree. It is pure.
//
// Two rules are compiled into every scope. The owner of the instrumentation is required of the VM, whatever the scope
// says, so that no scope reaches the VM of somebody else. And what is not known is neither true nor false: a term about
// the traits of a host of which nothing is known does not match, and its complement does not either.
package placement

import (
	"github.com/google/uuid"

	"iapi/instrumentation"
	"iapi/inventory"
)

// Zone is a VM in which something is measured, and who owns it.
type Zone struct {
	UUID  uuid.UUID
	Owner uuid.UUID // Nil: the inventory names none
}

// Placed is one instrumentation on one host: whole, or in some of the host's zones.
type Placed struct {
	Instrumentation *instrumentation.Instrumentation
	Whole           bool
	VMs             []Zone // sorted by UUID; empty exactly when Whole is set
}

// Sources is how many sources the instrumentation has on the host: one for each zone, one for the whole host.
func (p Placed) Sources() int {
	if p.Whole {
		return 1
	}
	return len(p.VMs)
}

// Matcher is a compiled scope. It is immutable and may be used by many goroutines.
type Matcher struct {
	zones bool
	expr  expr
}

// Compile makes the matcher of a scope whose instrumentation belongs to owner, Nil for the operators. A scope that is
// not valid (a member too many or none) matches nothing, and neither does its complement.
func Compile(s instrumentation.Scope, owner uuid.UUID) *Matcher {
	return &Matcher{zones: s.Zones(owner), expr: compile(s, owner)}
}

// Zones reports whether the places are zones rather than whole hosts.
func (m *Matcher) Zones() bool { return m.zones }

// Match reports whether the zone is a place of the scope. The host is the VM's own, nil where nothing is known of it.
// A VM that is not placed never matches.
func (m *Matcher) Match(vm *inventory.VM, host *inventory.Host) bool {
	return m.zones && vm.Placed() && m.expr.holds(place{vm: vm, hostID: vm.Host, host: knownHost(vm.Host, host)})
}

// MatchHost reports whether the whole host is a place of the scope.
func (m *Matcher) MatchHost(host *inventory.Host) bool {
	return !m.zones && m.expr.holds(place{hostID: host.UUID, host: host})
}

// place is what a scope is evaluated over.
type place struct {
	vm     *inventory.VM // nil: the whole host
	hostID uuid.UUID
	host   *inventory.Host // nil: nothing is known of it
}

// knownHost returns host if it is the one that is asked about. What is known of another host says nothing.
func knownHost(id uuid.UUID, host *inventory.Host) *inventory.Host {
	if host != nil && host.UUID == id {
		return host
	}
	return nil
}
