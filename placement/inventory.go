package placement

import (
	"sync"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"

	"iapi/instrumentation"
	"iapi/inventory"
)

// Inventory holds the placed VMs and the hosts of a datacenter in memory, so that a scope over a million of them is
// evaluated in microseconds: for each term a Roaring bitmap of the places that pass it. It may be used by many
// goroutines: any number evaluate while none changes it.
type Inventory struct {
	mu       sync.RWMutex
	vms      space
	hosts    space
	hostOf   map[uuid.UUID]inventory.Host // for the traits of the VMs on it
	vmTraits map[term]*roaring.Bitmap     // VMs by what their hosts pass
}

// NewInventory makes an empty Inventory.
func NewInventory() *Inventory {
	return &Inventory{vms: newSpace(), hosts: newSpace(), hostOf: map[uuid.UUID]inventory.Host{}, vmTraits: map[term]*roaring.Bitmap{}}
}

// PutVM adds a VM or takes over what has changed of it. A VM that is not placed is removed.
func (x *Inventory) PutVM(vm inventory.VM) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.removeVM(vm.UUID)
	if !vm.Placed() {
		return
	}
	var terms []term
	ownTerms(&vm, func(t term) {
		if t.kind != isVM {
			terms = append(terms, t)
		}
	})
	n := x.vms.put(vm.UUID, terms)
	if h, ok := x.hostOf[vm.Host]; ok {
		traitTerms(&h, func(t term) { x.traitOf(t).Add(n) })
	}
}

// RemoveVM takes a VM out.
func (x *Inventory) RemoveVM(id uuid.UUID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.removeVM(id)
}

func (x *Inventory) removeVM(id uuid.UUID) {
	n, in := x.vms.numbers[id]
	if !in {
		return
	}
	for _, t := range x.vms.termsOf[n] {
		at := x.vms.terms[t]
		if at.kind != isHost {
			continue
		}
		if h, ok := x.hostOf[at.id]; ok {
			traitTerms(&h, func(t term) { x.dropTrait(t, func(b *roaring.Bitmap) { b.Remove(n) }) })
		}
	}
	x.vms.remove(id)
}

// PutHost adds a host or takes over what has changed of it.
func (x *Inventory) PutHost(h inventory.Host) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.removeHost(h.UUID)
	terms := []term{{kind: isHost, id: h.UUID}}
	traitTerms(&h, func(t term) { terms = append(terms, t) })
	x.hosts.put(h.UUID, terms)
	x.hostOf[h.UUID] = h
	on := x.vms.lookup(term{kind: isHost, id: h.UUID})
	if on.IsEmpty() {
		return
	}
	traitTerms(&h, func(t term) { x.traitOf(t).Or(on) })
}

// RemoveHost takes a host out. Its VMs stay, as VMs of a host of which nothing is known.
func (x *Inventory) RemoveHost(id uuid.UUID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.removeHost(id)
}

func (x *Inventory) removeHost(id uuid.UUID) {
	h, in := x.hostOf[id]
	if !in {
		return
	}
	on := x.vms.lookup(term{kind: isHost, id: id})
	traitTerms(&h, func(t term) { x.dropTrait(t, func(b *roaring.Bitmap) { b.AndNot(on) }) })
	delete(x.hostOf, id)
	x.hosts.remove(id)
}

func (x *Inventory) traitOf(t term) *roaring.Bitmap {
	b := x.vmTraits[t]
	if b == nil {
		b = roaring.New()
		x.vmTraits[t] = b
	}
	return b
}

func (x *Inventory) dropTrait(t term, drop func(*roaring.Bitmap)) {
	if b := x.vmTraits[t]; b != nil {
		if drop(b); b.IsEmpty() {
			delete(x.vmTraits, t)
		}
	}
}

// Len counts the placed VMs and the hosts.
func (x *Inventory) Len() (vms, hosts int) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.vms.numbers), len(x.hosts.numbers)
}

// Count says how many places a scope has now: zones, or whole hosts.
func (x *Inventory) Count(s instrumentation.Scope, owner uuid.UUID) int {
	e := compile(s, owner)
	x.mu.RLock()
	defer x.mu.RUnlock()
	return int(x.sets(s.Zones(owner)).count(&e))
}

// Evaluate returns the places that a scope has now, in no order: zones, or whole hosts.
func (x *Inventory) Evaluate(s instrumentation.Scope, owner uuid.UUID) []uuid.UUID {
	e := compile(s, owner)
	x.mu.RLock()
	defer x.mu.RUnlock()
	sp := &x.hosts
	if s.Zones(owner) {
		sp = &x.vms
	}
	b := x.sets(s.Zones(owner)).eval(&e)
	ids := make([]uuid.UUID, 0, b.GetCardinality())
	var buf [512]uint32
	for it := b.ManyIterator(); ; {
		n := it.NextMany(buf[:])
		if n == 0 {
			return ids
		}
		for _, num := range buf[:n] {
			ids = append(ids, sp.ids[num])
		}
	}
}

// sets is what scopes about zones, or about whole hosts, are evaluated over.
func (x *Inventory) sets(zones bool) sets {
	if !zones {
		return sets{x.hosts.all, x.hosts.lookup}
	}
	return sets{x.vms.all, func(t term) *roaring.Bitmap {
		switch t.kind {
		case hasTrait, isTrait, hostKnown:
			if b := x.vmTraits[t]; b != nil {
				return b
			}
			return empty
		}
		return x.vms.lookup(t)
	}}
}
