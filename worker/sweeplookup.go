package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"

	"iapi/inventory"
	"iapi/inventory/vmapi"
	"iapi/store"
)

// differ works out which VMs of hosts are not known as the walk has seen them, which are known where it has not seen them, and
// which of these it has not seen anywhere. A walk that somebody else began does not know all VMs of a host, so then the hosts
// are read whole. Nothing is written. Hosts that are damaged hold up nothing.
func (c *comparison) differ(ctx context.Context, seen *walked, differing, few []uuid.UUID) (failed error) {
	hosts := slices.Concat(differing, few)
	var now []store.HostVMs
	if seen.whole {
		now = seen.vmsOf(hosts)
	} else {
		for batch := range slices.Chunk(hosts, manySwept) {
			reads, err := c.read(ctx, batch)
			now, failed = append(now, vmsRead(reads)...), errors.Join(failed, err)
		}
	}
	c.missing, c.lost, c.differs = make(map[uuid.UUID][]uuid.UUID), make(map[uuid.UUID]bool), make(map[uuid.UUID][]uuid.UUID)
	unlike := make(map[uuid.UUID]bool, len(differing))
	for _, host := range differing {
		unlike[host] = true
	}
	damage := store.Damage{}
	for batch := range slices.Chunk(now, manySwept) {
		differences, err := c.Store.Differences(ctx, batch)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("compare hosts with their facts: %w", err))
			continue
		}
		for i, d := range differences {
			host := batch[i].Host
			switch {
			case d.Err != nil:
				damage[host] = d.Err
				c.odd = append(c.odd, host)
				continue
			case len(d.Changed)+len(d.Missing) == 0:
				if unlike[host] {
					c.odd = append(c.odd, host)
				}
				continue
			}
			vms := slices.Grow(slices.Clone(d.Missing), len(d.Changed))
			for _, k := range d.Changed {
				vms = append(vms, batch[i].VMs[k].UUID)
			}
			c.differs[host], c.changed = vms, append(c.changed, vms[len(d.Missing):]...)
			for _, vm := range d.Missing {
				c.missing[vm], c.lost[vm] = append(c.missing[vm], host), true
			}
		}
	}
	c.damaged(ctx, damage)
	if len(c.lost) == 0 {
		return failed
	}
	for _, host := range now {
		for _, vm := range host.VMs {
			delete(c.lost, vm.UUID)
		}
	}
	for _, page := range seen.pages {
		for _, one := range page {
			delete(c.lost, one.vm)
		}
	}
	return failed
}

// lookUpVMs looks up the VMs that are not known as they were seen, and those that are known where they were not seen, and takes
// over what VMAPI says of each. It returns the hosts of the latter of which VMAPI says nothing: a list may lack what is there,
// so that alone takes nothing away.
func (c *comparison) lookUpVMs(ctx context.Context) (doubtful []uuid.UUID, failed error) {
	ids := slices.AppendSeq(c.changed, maps.Keys(c.missing))
	silent := make(map[uuid.UUID]bool)
	for batch := range slices.Chunk(unique(ids), manyVMs) {
		failed = errors.Join(failed, c.takeOver(ctx, batch, silent))
	}
	return sortedKeys(silent), failed
}

// answer is what VMAPI says of some VMs.
type answer struct {
	ids []uuid.UUID
	vms []inventory.VM
	err error
}

// askForVMs asks VMAPI for VMs, and returns what it has answered, and why it has not.
func (c *comparison) askForVMs(ctx context.Context, ids []uuid.UUID) (good []*answer, failed error) {
	var parts []*answer
	for chunk := range slices.Chunk(ids, askedAtOnce) {
		parts = append(parts, &answer{ids: chunk})
	}
	each(c.Worker, parts, func(p *answer) {
		p.err = c.VMAPI.Each(ctx, vmapi.Query{UUIDs: p.ids}, func(page []inventory.VM) error {
			p.vms = append(p.vms, page...)
			return nil
		})
	})
	for _, p := range parts {
		if p.err != nil {
			failed = errors.Join(failed, fmt.Errorf("look up %d VMs: %w", len(p.ids), p.err))
			continue
		}
		good = append(good, p)
	}
	return good, failed
}

// takeOver asks VMAPI for VMs and writes what it says of them. Missing ones leave the hosts that VMAPI does not place them
// on; the hosts of those that it does not name become silent. Where nothing may be taken away, only those are written that
// were looked up before and lose nothing.
func (c *comparison) takeOver(ctx context.Context, ids []uuid.UUID, silent map[uuid.UUID]bool) error {
	asOf, err := c.Store.Now(ctx)
	if err != nil {
		return err
	}
	parts, failed := c.askForVMs(ctx, ids)
	var vms []inventory.VM
	off := make(map[uuid.UUID][]uuid.UUID)
	for _, p := range parts {
		named := make(map[uuid.UUID]bool, len(p.vms))
		for _, vm := range p.vms {
			named[vm.UUID] = true
			if loses, judged := c.loses[vm.UUID]; !c.shrink && (!vm.Placed() || loses || !judged) {
				continue
			}
			vms = append(vms, vm)
			for _, host := range c.missing[vm.UUID] {
				if host != vm.Host || !vm.Placed() {
					off[host] = append(off[host], vm.UUID)
				}
			}
		}
		for _, id := range p.ids {
			for _, host := range c.missing[id] {
				if !named[id] {
					silent[host] = true
				}
			}
		}
	}
	if len(vms) == 0 {
		return failed
	}
	// New places first, so that a VM that has moved is never nowhere.
	if _, err := c.putVMs(ctx, asOf, vms); err != nil {
		return errors.Join(failed, fmt.Errorf("put VMs: %w", err))
	}
	if err := c.beside(ctx, c.Store.TakeVMs(ctx, asOf, off)); err != nil {
		return errors.Join(failed, fmt.Errorf("take VMs off hosts: %w", err))
	}
	return failed
}
