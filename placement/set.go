package placement

import (
	"slices"
	"strings"
	"sync"

	"iapi/instrumentation"
	"iapi/inventory"
)

// Set holds many instrumentations and finds those that concern a VM or a host. It may be used by many goroutines: any
// number look up while none changes it. The zero Set is not usable; see NewSet.
type Set struct {
	mu     sync.RWMutex
	zones  *index
	hosts  *index
	where  map[instrumentation.ID]located
	rooms  sync.Pool // of *scratch, for zones
	hrooms sync.Pool // of *scratch, for hosts
}

type located struct {
	index *index
	slot  uint32
}

// SetStats says how large a Set is.
type SetStats struct {
	Scopes      int
	Unindexable int // scopes that must be tried for every VM or host, since they require nothing of it
	Terms       int
}

// NewSet makes an empty Set.
func NewSet() *Set {
	fresh := func() any { return new(scratch) }
	return &Set{
		zones: newIndex(), hosts: newIndex(), where: map[instrumentation.ID]located{},
		rooms: sync.Pool{New: fresh}, hrooms: sync.Pool{New: fresh},
	}
}

// Add puts an instrumentation in, in place of the one with its id. The caller does not change it afterwards.
func (s *Set) Add(i *instrumentation.Instrumentation) {
	e := compile(i.Scope, i.Owner)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(i.ID)
	x := s.hosts
	if i.Scope.Zones(i.Owner) {
		x = s.zones
	}
	s.where[i.ID] = located{x, x.add(&e, i)}
}

// Remove takes an instrumentation out, and says whether it was in.
func (s *Set) Remove(id instrumentation.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remove(id)
}

func (s *Set) remove(id instrumentation.ID) bool {
	at, in := s.where[id]
	if in {
		at.index.remove(at.slot)
		delete(s.where, id)
	}
	return in
}

// Get returns the instrumentation with the id, nil if it is not in.
func (s *Set) Get(id instrumentation.ID) *instrumentation.Instrumentation {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if at, in := s.where[id]; in {
		return at.index.recs[at.slot]
	}
	return nil
}

// Stats counts what is in the Set.
func (s *Set) Stats() SetStats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return SetStats{
		Scopes:      len(s.where),
		Unindexable: s.zones.unindexable() + s.hosts.unindexable(),
		Terms:       len(s.zones.dict.names) + len(s.hosts.dict.names) - len(s.zones.dict.free) - len(s.hosts.dict.free) - 2,
	}
}

// ForVM appends to dst the instrumentations that concern the VM, in no order. The host is the VM's own, nil where nothing
// is known of it. It allocates nothing but what dst lacks.
func (s *Set) ForVM(dst []*instrumentation.Instrumentation, vm *inventory.VM, host *inventory.Host) []*instrumentation.Instrumentation {
	if !vm.Placed() {
		return dst
	}
	room := s.rooms.Get().(*scratch)
	defer s.rooms.Put(room)
	s.mu.RLock()
	dst = s.zones.lookup(dst, room, place{vm: vm, hostID: vm.Host, host: knownHost(vm.Host, host)})
	due := s.zones.due()
	s.mu.RUnlock()
	if due {
		s.refile(s.zones)
	}
	return dst
}

// ForHost returns what is placed on a host, given all of its VMs: instrumentations sorted by id, zones by uuid. Where
// known is false nothing but the host's uuid is known, and nothing is placed on the whole of it.
func (s *Set) ForHost(host *inventory.Host, known bool, vms []inventory.VM) []Placed {
	room := s.rooms.Get().(*scratch)
	defer s.rooms.Put(room)
	hroom := s.hrooms.Get().(*scratch)
	defer s.hrooms.Put(hroom)
	traits := host
	if !known {
		traits = nil
	}
	s.mu.RLock()
	var placed []Placed
	var found []*instrumentation.Instrumentation
	if known {
		found = s.hosts.lookup(found, hroom, place{hostID: host.UUID, host: host})
		for _, rec := range found {
			placed = append(placed, Placed{Instrumentation: rec, Whole: true})
		}
	}
	var zoned []uint32 // the slots behind placed[whole:]
	whole := len(placed)
	for i := range vms {
		vm := &vms[i]
		if !vm.Placed() || vm.Host != host.UUID {
			continue
		}
		found = s.zones.lookup(found[:0], room, place{vm: vm, hostID: host.UUID, host: traits})
		for i, id := range room.out {
			at := int(room.group[id])
			if at >= len(zoned) || zoned[at] != id {
				at = len(zoned)
				room.group[id] = int32(at)
				zoned = append(zoned, id)
				placed = append(placed, Placed{Instrumentation: found[i]})
			}
			p := &placed[whole+at]
			p.VMs = append(p.VMs, Zone{vm.UUID, vm.Owner})
		}
	}
	dueZones, dueHosts := s.zones.due(), s.hosts.due()
	s.mu.RUnlock()
	if dueZones {
		s.refile(s.zones)
	}
	if dueHosts {
		s.refile(s.hosts)
	}
	slices.SortFunc(placed, func(a, b Placed) int {
		return strings.Compare(string(a.Instrumentation.ID), string(b.Instrumentation.ID))
	})
	for i := range placed {
		slices.SortFunc(placed[i].VMs, func(a, b Zone) int { return slices.Compare(a.UUID[:], b.UUID[:]) })
	}
	return placed
}

func (x *index) unindexable() int { return len(x.always) + len(x.nots) }

func (x *index) due() bool { return x.count.Load() >= x.next }

func (s *Set) refile(x *index) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.due() {
		x.refile()
	}
}
