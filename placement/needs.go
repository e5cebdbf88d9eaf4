package placement

import (
	"slices"

	"github.com/google/uuid"

	"iapi/instrumentation"
)

// Query is what must be asked of the inventory to find every VM that a scope may match, in the terms that VMAPI answers
// reliably: the owner, VMs and hosts by uuid, and only active VMs. Nothing else of a scope is ever pushed down; who
// reads the answer evaluates the scope on it.
type Query struct {
	None  bool        // no VM need be asked for: the places are whole hosts (Hosts bounds them), or there are none
	Owner uuid.UUID   // Nil: any
	VMs   []uuid.UUID // nil: any; sorted
	Hosts []uuid.UUID // nil: any; sorted
}

// Needs returns the narrowest Query that leaves out no VM of the scope.
func Needs(s instrumentation.Scope, owner uuid.UUID) Query {
	e := compile(s, owner)
	vms, hosts := e.only(isVM), e.only(isHost)
	if !s.Zones(owner) {
		return Query{None: true, Hosts: hosts.ids}
	}
	if vms.none() || hosts.none() {
		return Query{None: true}
	}
	return Query{Owner: owner, VMs: vms.ids, Hosts: hosts.ids}
}

// among is a set of ids outside of which nothing matches.
type among struct {
	bounded bool
	ids     []uuid.UUID // sorted
}

func (a among) none() bool { return a.bounded && len(a.ids) == 0 }

func (e *expr) only(k kind) among {
	switch e.op {
	case literal:
		if e.not || e.term.kind != k {
			return among{}
		}
		return among{true, []uuid.UUID{e.term.id}}
	case and:
		var out among
		for i := range e.args {
			a := e.args[i].only(k)
			switch {
			case !a.bounded:
			case !out.bounded:
				out = a
			default:
				out.ids = intersect(out.ids, a.ids)
			}
		}
		return out
	}
	out := among{bounded: true}
	for i := range e.args {
		a := e.args[i].only(k)
		if !a.bounded {
			return among{}
		}
		out.ids = append(out.ids, a.ids...)
	}
	out.ids = sortedIDs(out.ids)
	return out
}

// intersect returns what two sorted lists have in common.
func intersect(a, b []uuid.UUID) []uuid.UUID {
	var both []uuid.UUID
	for _, id := range a {
		if _, ok := slices.BinarySearchFunc(b, id, func(x, y uuid.UUID) int { return slices.Compare(x[:], y[:]) }); ok {
			both = append(both, id)
		}
	}
	return both
}
