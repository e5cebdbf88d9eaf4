package placement

import (
	"fmt"
	"math/rand/v2"

	"github.com/google/uuid"

	"iapi/instrumentation"
	"iapi/inventory"
)

// The oracle evaluates a scope as its documentation says it, by three-valued logic and with no regard for speed.

func oracleZone(s instrumentation.Scope, owner uuid.UUID, vm inventory.VM, hosts map[uuid.UUID]inventory.Host) bool {
	if owner == uuid.Nil && !names(s) {
		return false
	}
	if vm.Host == uuid.Nil || vm.State == "destroyed" || vm.State == "failed" {
		return false
	}
	if owner != uuid.Nil && vm.Owner != owner {
		return false
	}
	h, known := hosts[vm.Host]
	return three(s, &vm, vm.Host, h, known) == 1
}

func oracleHost(s instrumentation.Scope, owner uuid.UUID, h inventory.Host) bool {
	return owner == uuid.Nil && !names(s) && three(s, nil, h.UUID, h, true) == 1
}

// names reports whether any VM term occurs.
func names(s instrumentation.Scope) bool {
	if s.All || len(s.VMs) > 0 || s.VMAlias != "" || s.VMTag != nil {
		return true
	}
	for _, t := range append(append([]instrumentation.Scope{}, s.And...), s.Or...) {
		if names(t) {
			return true
		}
	}
	return s.Not != nil && names(*s.Not)
}

func three(s instrumentation.Scope, vm *inventory.VM, hostID uuid.UUID, h inventory.Host, known bool) int {
	b := func(v bool) int {
		if v {
			return 1
		}
		return -1
	}
	in := func(ids []uuid.UUID, id uuid.UUID) int {
		for _, i := range ids {
			if i == id {
				return 1
			}
		}
		return -1
	}
	tag := func(t *instrumentation.TagMatch, tags map[string]string) int {
		v, ok := tags[t.Key]
		if !ok {
			return -1
		}
		for _, i := range t.In {
			if i == v {
				return 1
			}
		}
		return b(len(t.In) == 0)
	}
	switch {
	case s.All, s.EveryHost:
		return 1
	case len(s.VMs) > 0:
		return in(s.VMs, vm.UUID)
	case s.VMAlias != "":
		return b(vm.Alias == s.VMAlias)
	case s.VMTag != nil:
		return tag(s.VMTag, vm.Tags)
	case len(s.Hosts) > 0:
		return in(s.Hosts, hostID)
	case s.HostTag != nil:
		if !known {
			return 0
		}
		return tag(s.HostTag, h.Traits)
	case len(s.And) > 0:
		out := 1
		for _, t := range s.And {
			out = min(out, three(t, vm, hostID, h, known))
		}
		return out
	case len(s.Or) > 0:
		out := -1
		for _, t := range s.Or {
			out = max(out, three(t, vm, hostID, h, known))
		}
		return out
	case s.Not != nil:
		return -three(*s.Not, vm, hostID, h, known)
	}
	return 0
}

// world is a small random datacenter in which terms meet often.
type world struct {
	r      *rand.Rand
	owners []uuid.UUID // the first is Nil
	hosts  map[uuid.UUID]inventory.Host
	hostID []uuid.UUID // known and unknown ones
	vmID   []uuid.UUID
	vms    map[uuid.UUID]inventory.VM
}

func numbered(kind byte, n int) uuid.UUID {
	u := uuid.UUID{kind}
	u[14], u[15] = byte(n>>8), byte(n)
	u[6], u[8] = 0x40, 0x80
	return u
}

func newWorld(seed uint64) *world {
	w := &world{r: rand.New(rand.NewPCG(seed, 1)), hosts: map[uuid.UUID]inventory.Host{}, vms: map[uuid.UUID]inventory.VM{}, owners: []uuid.UUID{uuid.Nil}}
	for i := range 3 {
		w.owners = append(w.owners, numbered(1, i))
	}
	for i := range 6 {
		w.hostID = append(w.hostID, numbered(2, i))
		if i > 0 {
			w.hosts[w.hostID[i]] = w.host(i)
		}
	}
	for i := range 40 {
		w.vmID = append(w.vmID, numbered(3, i))
		w.vms[w.vmID[i]] = w.vm(i)
	}
	return w
}

var values = []string{"db", "web", "5", "true", "", "1.5", `ä"\`}

func (w *world) tags(prefix string) map[string]string {
	tags := map[string]string{}
	for range w.r.IntN(4) {
		tags[fmt.Sprint(prefix, w.r.IntN(3))] = pick(w, values)
	}
	return tags
}

func (w *world) host(i int) inventory.Host {
	return inventory.Host{UUID: w.hostID[i], Name: fmt.Sprint("cn", i), Traits: w.tags("trait")}
}

func (w *world) vm(i int) inventory.VM {
	vm := inventory.VM{
		UUID: w.vmID[i], Owner: pick(w, w.owners), Host: pick(w, w.hostID), Tags: w.tags("key"),
		State: pick(w, []string{"running", "running", "running", "stopped", "provisioning", "destroyed", "failed"}),
	}
	if w.r.IntN(4) > 0 {
		vm.Alias = fmt.Sprint("vm", w.r.IntN(10))
	}
	if vm.State == "provisioning" && w.r.IntN(2) == 0 {
		vm.Host = uuid.Nil
	}
	return vm
}

func pick[T any](w *world, of []T) T { return of[w.r.IntN(len(of))] }

func some[T any](w *world, of []T) []T {
	out := make([]T, 1+w.r.IntN(3))
	for i := range out {
		out[i] = pick(w, of)
	}
	return out
}

func (w *world) match(prefix string) *instrumentation.TagMatch {
	t := &instrumentation.TagMatch{Key: fmt.Sprint(prefix, w.r.IntN(3))}
	if w.r.IntN(3) > 0 {
		t.In = some(w, values)
	}
	return t
}

// scope makes a random scope, now and then one that is not valid.
func (w *world) scope(depth int) instrumentation.Scope {
	n := 11
	if depth <= 0 {
		n = 8
	}
	switch w.r.IntN(n) {
	case 0:
		return instrumentation.Scope{All: true}
	case 1:
		return instrumentation.Scope{EveryHost: true}
	case 2:
		return instrumentation.Scope{VMs: some(w, w.vmID)}
	case 3:
		return instrumentation.Scope{VMAlias: fmt.Sprint("vm", w.r.IntN(10))}
	case 4:
		return instrumentation.Scope{VMTag: w.match("key")}
	case 5:
		return instrumentation.Scope{Hosts: some(w, w.hostID)}
	case 6, 7:
		if w.r.IntN(40) == 0 {
			return instrumentation.Scope{}
		}
		return instrumentation.Scope{HostTag: w.match("trait")}
	case 8:
		return instrumentation.Scope{And: w.scopes(depth)}
	case 9:
		return instrumentation.Scope{Or: w.scopes(depth)}
	default:
		s := w.scope(depth - 1)
		return instrumentation.Scope{Not: &s}
	}
}

func (w *world) scopes(depth int) []instrumentation.Scope {
	out := make([]instrumentation.Scope, 1+w.r.IntN(3))
	for i := range out {
		out[i] = w.scope(depth - 1)
	}
	return out
}

func (w *world) knownHost(id uuid.UUID) *inventory.Host {
	if h, ok := w.hosts[id]; ok {
		return &h
	}
	return nil
}
