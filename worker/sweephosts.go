package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"iapi/inventory"
	"iapi/inventory/vmapi"
	"iapi/store"
)

// comparison makes the facts of hosts true after a walk, VM by VM (lookUpVMs), and by reading whole hosts (compare) where VMAPI
// does not know a VM any more, or what is kept of a host is damaged.
type comparison struct {
	*Worker
	changed  []uuid.UUID               // VMs that are not known as they were seen
	missing  map[uuid.UUID][]uuid.UUID // VMs that are known on hosts where they were not seen → those hosts
	lost     map[uuid.UUID]bool        // those of them that were not seen on any host
	differs  map[uuid.UUID][]uuid.UUID // hosts → the VMs that differ there, changed or missing
	odd      []uuid.UUID               // hosts that differ although no VM does, or are damaged
	loses    map[uuid.UUID]bool        // VMs that were looked up before anything was written → whether they lose placements
	shrink   bool                      // placements may be taken away
	digester store.Digester
}

// hostRead is one reading of a host's VMs.
type hostRead struct {
	store.HostVMs
	vms     []inventory.VM // in the same order
	differs store.Difference
	err     error
}

// compare reads the VMs of some hosts and writes what differs from the facts. VMs are only taken away when that is allowed
// and the walk has not seen them either. A host that cannot be read keeps what it has, and the others do not wait for it.
func (c *comparison) compare(ctx context.Context, hosts []uuid.UUID) error {
	asOf, reads, failed := c.reread(ctx, hosts)
	var changed []inventory.VM
	var gone []hostRead
	for _, r := range reads { // of those that are damaged no difference is known
		for _, k := range r.differs.Changed {
			changed = append(changed, r.vms[k])
		}
		if len(r.differs.Missing) > 0 {
			gone = append(gone, r)
		}
	}
	// New places first, so that a VM that has moved between these hosts is never nowhere.
	return errors.Join(failed, c.put(ctx, asOf, changed, reads), c.replace(ctx, asOf, gone))
}

// reread reads hosts and tells how they differ from their facts.
func (c *comparison) reread(ctx context.Context, hosts []uuid.UUID) (asOf time.Time, reads []hostRead, failed error) {
	if asOf, failed = c.Store.Now(ctx); failed != nil {
		return asOf, nil, failed
	}
	reads, failed = c.read(ctx, hosts)
	differences, err := c.Store.Differences(ctx, vmsRead(reads))
	if err != nil {
		return asOf, nil, errors.Join(failed, fmt.Errorf("compare hosts with their facts: %w", err))
	}
	for i, d := range differences {
		reads[i].differs = d
	}
	return asOf, reads, failed
}

func vmsRead(reads []hostRead) []store.HostVMs {
	out := make([]store.HostVMs, len(reads))
	for i, r := range reads {
		out[i] = r.HostVMs
	}
	return out
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
		r.VMs = make([]store.VMSum, len(r.vms))
		for i := range r.vms {
			r.VMs[i] = store.VMSum{UUID: r.vms[i].UUID, Digest: c.digester.Digest(&r.vms[i])}
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
		if _, err := c.putVMs(ctx, asOf, once); err != nil {
			return fmt.Errorf("put VMs: %w", err)
		}
	}
	return nil
}

// replace writes what readings say of hosts, where that takes nothing away that may not be taken.
func (c *comparison) replace(ctx context.Context, asOf time.Time, reads []hostRead) (failed error) {
	for _, r := range reads {
		if !c.mayLose(r.differs.Missing) {
			continue
		}
		if _, err := c.Store.ReplaceHostVMs(ctx, asOf, r.Host, r.vms); c.beside(ctx, err) != nil {
			failed = errors.Join(failed, fmt.Errorf("replace the VMs of host %s: %w", r.Host, err))
		}
	}
	return failed
}

// mayLose reports whether VMs may be taken away that a reading lacks: the guard has judged them, for the walk lacks them too.
func (c *comparison) mayLose(vms []uuid.UUID) bool {
	return !slices.ContainsFunc(vms, func(vm uuid.UUID) bool { return !c.shrink || !c.lost[vm] })
}

// mend writes hosts anew whose facts are damaged, if that may take something away: what there was cannot be known. A reading
// that lacks what the walk has seen is not believed; the next sweep tries again.
func (c *comparison) mend(ctx context.Context, seen *walked) (failed error) {
	if !c.shrink || !seen.whole {
		return nil
	}
	for hosts := range slices.Chunk(c.odd, manySwept) {
		asOf, err := c.Store.Now(ctx)
		if err != nil {
			return errors.Join(failed, err)
		}
		reads, err := c.read(ctx, hosts)
		failed = errors.Join(failed, err)
		walk := make(map[uuid.UUID][]store.VMSum, len(hosts))
		for _, host := range seen.vmsOf(hosts) {
			walk[host.Host] = host.VMs
		}
		for _, r := range reads {
			read := make(map[uuid.UUID]bool, len(r.vms))
			for i := range r.vms {
				read[r.vms[i].UUID] = true
			}
			if slices.ContainsFunc(walk[r.Host], func(vm store.VMSum) bool { return !read[vm.UUID] }) {
				continue
			}
			if _, err := c.Store.ReplaceHostVMs(ctx, asOf, r.Host, r.vms); c.beside(ctx, err) != nil {
				failed = errors.Join(failed, fmt.Errorf("write host %s anew: %w", r.Host, err))
			}
		}
	}
	return failed
}
