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
// are read whole. Nothing is written.
func (c *comparison) differ(ctx context.Context, seen *walked, hosts []uuid.UUID) (failed error) {
	var now []store.HostVMs
	if seen.whole {
		now = seen.vmsOf(hosts)
	} else {
		for batch := range slices.Chunk(hosts, manySwept) {
			reads, err := c.read(ctx, batch)
			now, failed = append(now, vmsRead(reads)...), errors.Join(failed, err)
		}
	}
	c.missing, c.lost = make(map[uuid.UUID][]uuid.UUID), make(map[uuid.UUID]bool)
	for batch := range slices.Chunk(now, manySwept) {
		differences, err := c.Store.Differences(ctx, batch)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("compare hosts with their facts: %w", err))
			continue
		}
		for i, d := range differences {
			for _, k := range d.Changed {
				c.changed = append(c.changed, batch[i].VMs[k].UUID)
			}
			for _, vm := range d.Missing {
				c.missing[vm], c.lost[vm] = append(c.missing[vm], batch[i].Host), true
			}
		}
	}
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

// lostOn returns the hosts where the lost VMs are known.
func (c *comparison) lostOn() []uuid.UUID {
	hosts := make(map[uuid.UUID]bool)
	for vm := range c.lost {
		for _, host := range c.missing[vm] {
			hosts[host] = true
		}
	}
	return sortedKeys(hosts)
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

// takeOver asks VMAPI for VMs and writes what it says of them. Missing ones leave the hosts that VMAPI does not place them
// on; the hosts of those that it does not name become silent.
func (c *comparison) takeOver(ctx context.Context, ids []uuid.UUID, silent map[uuid.UUID]bool) error {
	asOf, err := c.Store.Now(ctx)
	if err != nil {
		return err
	}
	type part struct {
		ids []uuid.UUID
		vms []inventory.VM
		err error
	}
	var parts []*part
	for chunk := range slices.Chunk(ids, askedAtOnce) {
		parts = append(parts, &part{ids: chunk})
	}
	each(c.Worker, parts, func(p *part) {
		p.err = c.VMAPI.Each(ctx, vmapi.Query{UUIDs: p.ids}, func(page []inventory.VM) error {
			p.vms = append(p.vms, page...)
			return nil
		})
	})
	var failed error
	var vms []inventory.VM
	off := make(map[uuid.UUID][]uuid.UUID)
	for _, p := range parts {
		if p.err != nil {
			failed = errors.Join(failed, fmt.Errorf("look up %d VMs: %w", len(p.ids), p.err))
			continue
		}
		named := make(map[uuid.UUID]bool, len(p.vms))
		for _, vm := range p.vms {
			named[vm.UUID] = true
			if !vm.Placed() && !c.shrink {
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
	if _, err := c.Store.PutVMs(ctx, asOf, vms); err != nil {
		return errors.Join(failed, fmt.Errorf("put VMs: %w", err))
	}
	if err := c.Store.TakeVMs(ctx, asOf, off); err != nil {
		return errors.Join(failed, fmt.Errorf("take VMs off hosts: %w", err))
	}
	return failed
}
