package dtrace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/google/uuid"

	"iapi/collectors/dtrace/program"
	"iapi/collectors/zone"
)

// pushScope makes the program's scope equal to the cgroups that the zones of its probes have now. Whatever cannot be read
// or is not allowed is not in scope.
func (r *running) pushScope() error {
	if r.compiled.Whole() || r.compiled.Language != program.Bpftrace {
		return nil
	}
	r.scoping.Lock()
	defer r.scoping.Unlock()
	want := r.wantedScope()
	for id := range r.scope { // first what must no longer be seen
		if _, stays := want[id]; !stays {
			if err := r.maps.remove(program.ScopeMap, id); err != nil {
				return fmt.Errorf("take a cgroup out of scope: %w", err)
			}
			delete(r.scope, id)
		}
	}
	for id, number := range want {
		if r.scope[id] == number {
			continue
		}
		if err := r.maps.set(program.ScopeMap, id, number); err != nil {
			return fmt.Errorf("put a cgroup into scope: %w", err)
		}
		r.scope[id] = number
	}
	return nil
}

// wantedScope lists the cgroups of all zones that a probe may see, with the zones' numbers.
func (r *running) wantedScope() map[uint64]uint64 {
	want := map[uint64]uint64{}
	refused := map[uuid.UUID]bool{}
	room := r.compiled.MapKeys - 16
	for _, z := range r.allowedZones() {
		ids := cgroupIDs(z)
		if len(want)+len(ids) > room {
			refused[z.UUID] = true
			continue
		}
		number := r.number(z.UUID)
		for _, id := range ids {
			if id != 0 && want[id] == 0 {
				want[id] = number
			}
		}
	}
	r.mu.Lock()
	r.refused = refused
	r.mu.Unlock()
	return want
}

// allowedZones gives the zones of all probes, each once, in their order.
func (r *running) allowedZones() []zone.Zone {
	r.mu.Lock()
	probes := make([]*probe, 0, len(r.probes))
	for p := range r.probes {
		probes = append(probes, p)
	}
	r.mu.Unlock()
	var zones []zone.Zone
	seen := map[uuid.UUID]bool{}
	for _, p := range probes {
		for _, id := range p.allowed() {
			if seen[id] || !r.compiled.HasZone(id) {
				continue
			}
			if z, err := p.request.Lookup(r.engine.opts.Zones, id); err == nil {
				seen[id] = true
				zones = append(zones, z)
			}
		}
	}
	slices.SortFunc(zones, func(a, b zone.Zone) int { return slices.Compare(a.UUID[:], b.UUID[:]) })
	return zones
}

// number gives a zone its number in this program.
func (r *running) number(id uuid.UUID) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.numbers[id] == 0 {
		r.zones = append(r.zones, id)
		r.numbers[id] = uint64(len(r.zones))
	}
	return r.numbers[id]
}

// Bounds of the walk through a zone's cgroups.
const (
	maxCgroupDepth = 16
	maxCgroups     = 32 << 10
)

// cgroupIDs gives the ids of a zone's cgroups as they are now: what the zone itself has made since the resolver looked is
// part of it at once.
func cgroupIDs(z zone.Zone) []uint64 {
	if z.Cgroups.Unified == "" {
		return z.Cgroups.IDs
	}
	var ids []uint64
	var walk func(dir string, depth int) error
	walk = func(dir string, depth int) error {
		info, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && len(ids) < maxCgroups {
			ids = append(ids, st.Ino)
		}
		if depth == maxCgroupDepth {
			return nil
		}
		entries, err := os.ReadDir(dir)
		for _, e := range entries {
			if e.IsDir() {
				err = errors.Join(err, walk(filepath.Join(dir, e.Name()), depth+1))
			}
		}
		return err
	}
	// A cgroup that goes while it is looked at is no longer there; for any other error the resolver's ids stand.
	if err := walk(z.Cgroups.Unified, 0); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENODEV) {
		return z.Cgroups.IDs
	}
	return ids
}
