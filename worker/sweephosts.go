package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"iapi/inventory"
	"iapi/inventory/vmapi"
	"iapi/store"
)

// comparison makes the facts of hosts true after a walk, VM by VM (lookUpVMs) or by reading whole hosts (compare).
type comparison struct {
	*Worker
	listed, facts map[uuid.UUID]store.HostDigest // what the walk has seen, what was known
	shrink        bool                           // VMs may be taken away
	digester      store.Digester
}

// hostRead is one reading of a host's VMs.
type hostRead struct {
	store.HostVMs
	vms []inventory.VM // in the same order
	sum store.HostDigest
	err error
}

// compare reads the VMs of some hosts and writes what differs from the facts. VMs are only taken away when that is allowed
// and the walk saw the same. A host that cannot be read keeps what it has, and the others do not wait for it.
func (c *comparison) compare(ctx context.Context, hosts []uuid.UUID) error {
	asOf, err := c.Store.Now(ctx)
	if err != nil {
		return err
	}
	reads, failed := c.read(ctx, hosts)
	now := make([]store.HostVMs, len(reads))
	for i, r := range reads {
		now[i] = r.HostVMs
	}
	differences, err := c.Store.Differences(ctx, now)
	if err != nil {
		return errors.Join(failed, fmt.Errorf("compare hosts with their facts: %w", err))
	}
	var changed []inventory.VM
	var gone []hostRead
	for i, d := range differences {
		for _, k := range d.Changed {
			changed = append(changed, reads[i].vms[k])
		}
		if len(d.Missing) > 0 {
			gone = append(gone, reads[i])
		}
	}
	// New places first, so that a VM that has moved between these hosts is never nowhere.
	return errors.Join(failed, c.put(ctx, asOf, changed, reads), c.replace(ctx, asOf, gone))
}

// read asks the inventory for the VMs of each host by itself. It returns the readings that succeeded, and why the others
// failed.
func (c *comparison) read(ctx context.Context, hosts []uuid.UUID) (good []hostRead, failed error) {
	reads := make([]hostRead, len(hosts))
	all := make([]*hostRead, len(hosts))
	for i, id := range hosts {
		reads[i].Host, all[i] = id, &reads[i]
	}
	each(c.Worker, all, func(r *hostRead) {
		r.err = c.VMAPI.Each(ctx, vmapi.Query{Host: r.Host, Active: true}, func(page []inventory.VM) error {
			for i := range page {
				if vm := &page[i]; vm.Placed() && vm.Host == r.Host {
					r.vms = append(r.vms, *vm)
				}
			}
			return nil
		})
	})
	for _, r := range reads {
		if r.err != nil {
			failed = errors.Join(failed, fmt.Errorf("read the VMs of host %s: %w", r.Host, r.err))
			continue
		}
		r.VMs, r.sum.VMs = make([]store.VMSum, len(r.vms)), len(r.vms)
		for i := range r.vms {
			r.VMs[i] = store.VMSum{UUID: r.vms[i].UUID, Digest: c.digester.Digest(&r.vms[i])}
			r.sum.Digest += r.VMs[i].Digest
		}
		good = append(good, r)
	}
	return good, failed
}

// put writes VMs that are not known as they were read on their hosts. Of one that was read on two hosts nobody knows which
// reading is the newer, so it is looked up by itself.
func (c *comparison) put(ctx context.Context, asOf time.Time, vms []inventory.VM, reads []hostRead) error {
	times := make(map[uuid.UUID]int, len(vms))
	for i := range vms {
		times[vms[i].UUID] = 0
	}
	for _, r := range reads { // also where the reading says what is known: it may be the newer one
		for i := range r.vms {
			if n, changed := times[r.vms[i].UUID]; changed {
				times[r.vms[i].UUID] = n + 1
			}
		}
	}
	var once []inventory.VM
	var moving []uuid.UUID
	for _, vm := range vms {
		if times[vm.UUID] == 1 {
			once = append(once, vm)
		} else {
			moving = append(moving, vm.UUID)
		}
	}
	if len(moving) > 0 {
		if err := c.Store.MarkVMs(ctx, unique(moving)...); err != nil {
			return fmt.Errorf("mark VMs that move: %w", err)
		}
	}
	if len(once) > 0 {
		if _, err := c.Store.PutVMs(ctx, asOf, once); err != nil {
			return fmt.Errorf("put VMs: %w", err)
		}
	}
	return nil
}

// replace takes away the VMs of hosts that a reading lacks, where that may be believed: the walk has seen the same, or less.
func (c *comparison) replace(ctx context.Context, asOf time.Time, reads []hostRead) (failed error) {
	for _, r := range reads {
		listed := c.listed[r.Host]
		if !c.shrink || r.sum != listed && (r.sum.VMs < c.facts[r.Host].VMs || r.sum.VMs < listed.VMs) {
			continue
		}
		if _, err := c.Store.ReplaceHostVMs(ctx, asOf, r.Host, r.vms); err != nil {
			failed = errors.Join(failed, fmt.Errorf("replace the VMs of host %s: %w", r.Host, err))
		}
	}
	return failed
}

// rewriteUnreadable writes the VMs of those hosts anew of which the facts cannot be read.
func (c *comparison) rewriteUnreadable(ctx context.Context, hosts []uuid.UUID) error {
	known, err := c.Store.FactsOf(ctx, hosts...)
	if err != nil {
		return fmt.Errorf("read facts: %w", err)
	}
	var unreadable []uuid.UUID
	for i, f := range known {
		if f.Err != nil {
			unreadable = append(unreadable, hosts[i])
		}
	}
	if len(unreadable) == 0 {
		return nil
	}
	asOf, err := c.Store.Now(ctx)
	if err != nil {
		return err
	}
	reads, failed := c.read(ctx, unreadable)
	return errors.Join(failed, c.replace(ctx, asOf, reads))
}
