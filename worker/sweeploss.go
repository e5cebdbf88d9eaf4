package worker

import (
	"context"
	"maps"
	"slices"

	"github.com/google/uuid"

	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/placement"
	"iapi/store"
)

// loss is what would be removed if everything were taken over. At most that is every placement of the VMs that differ; how many
// really go is only worked out where that is too much.
func (c *comparison) loss(seen *walked, facts map[uuid.UUID]store.HostDigest, known []uuid.UUID) loss {
	differs := make(map[uuid.UUID]bool, len(c.changed)+len(c.missing))
	for _, vms := range c.differs {
		for _, vm := range vms {
			differs[vm] = true
		}
	}
	return loss{
		guard: GuardVMs, what: "VMAPI no longer lists %d of %d VMs on any host", gone: len(c.lost), of: sum(facts), empty: sum(seen.Sums) == 0,
		hosts: c.differing(), known: known,
		most: func(ctx context.Context, hosts []uuid.UUID) (of, gone int, err error) {
			return c.Store.Placements(ctx, func(_ instrumentation.ID, vm uuid.UUID) bool { return differs[vm] }, hosts...)
		},
		sure: c.sure,
		others: func() (n int) {
			for _, loses := range c.loses {
				if loses {
					n++
				}
			}
			return n
		},
	}
}

// differing returns the hosts where VMs differ.
func (c *comparison) differing() []uuid.UUID { return unique(slices.Collect(maps.Keys(c.differs))) }

// sure counts the placements on some hosts, and those that really go: all of the VMs that are lost, and of the others as many as
// they will have less, by what VMAPI says of them. It is the matching by which documents are computed.
func (c *comparison) sure(ctx context.Context, hosts []uuid.UUID) (of, gone int, err error) {
	set, err := c.live.sync(ctx)
	if err != nil {
		return 0, 0, err
	}
	meant, err := c.meant(ctx, set, hosts)
	if err != nil {
		return 0, 0, err
	}
	less := make(map[uuid.UUID]int)
	of, gone, err = c.Store.Placements(ctx, func(id instrumentation.ID, vm uuid.UUID) bool {
		if c.lost[vm] {
			return true
		}
		switch now, named := meant[vm]; {
		case !named || set.Get(id) == nil: // what is not live any more goes for that reason
		case slices.Contains(now.ids, id):
			now.kept[id] = true
		default:
			less[vm]++
		}
		return false
	}, hosts...)
	if err != nil {
		return 0, 0, err
	}
	if c.loses == nil {
		c.loses = make(map[uuid.UUID]bool)
	}
	for vm, now := range meant {
		n := less[vm] - (len(now.ids) - len(now.kept))
		c.loses[vm] = c.loses[vm] || n > 0
		gone += max(0, n)
	}
	return of, gone, nil
}

// wishes are the instrumentations that mean a VM, and those of them that documents place already.
type wishes struct {
	ids  []instrumentation.ID
	kept map[instrumentation.ID]bool
}

// meant asks VMAPI for the VMs that differ on some hosts, but those that are lost, and returns what would be placed in each.
func (c *comparison) meant(ctx context.Context, set *placement.Set, hosts []uuid.UUID) (map[uuid.UUID]wishes, error) {
	var ids []uuid.UUID
	for _, host := range hosts {
		for _, vm := range c.differs[host] {
			if !c.lost[vm] {
				ids = append(ids, vm)
			}
		}
	}
	parts, err := c.askForVMs(ctx, unique(ids))
	if err != nil {
		return nil, err
	}
	meant := make(map[uuid.UUID]wishes)
	known := make(map[uuid.UUID]*inventory.Host)
	var found []*instrumentation.Instrumentation
	for _, p := range parts {
		if err := c.hostsOf(ctx, known, p.vms); err != nil {
			return nil, err
		}
		for i := range p.vms {
			vm := &p.vms[i]
			found = set.ForVM(found[:0], vm, known[vm.Host])
			now := wishes{make([]instrumentation.ID, len(found)), make(map[instrumentation.ID]bool)}
			for k, rec := range found {
				now.ids[k] = rec.ID
			}
			meant[vm.UUID] = now
		}
	}
	return meant, nil
}

// harmless works out which of the VMs that differ lose no placements, when it cannot be told how much would be lost.
func (c *comparison) harmless(ctx context.Context) error {
	_, _, err := c.placesLost(ctx, loss{hosts: c.differing()}, false, c.sure)
	if err != nil {
		clear(c.loses)
	}
	return wrap("look for what loses nothing", err)
}
