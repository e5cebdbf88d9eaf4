package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"iapi/inventory"
	"iapi/inventory/vmapi"
	"iapi/store"
)

const (
	// manyVMs is how many VMs are claimed at once. After a burst the VMs of a host should come together, for each time that
	// some have come the host is reconciled.
	manyVMs = 1500
	// askedAtOnce is how many of them VMAPI is asked about in one request.
	askedAtOnce = 150
)

// lookUp asks VMAPI for VMs that are said to have changed, and takes over what it says. One that VMAPI does not know
// changes nothing: VMAPI keeps the VMs that it destroyed, and what it has really lost is for the sweep to find, which sees
// how much is missing. When VMAPI cannot be asked about some, the error says so, and they are claimed again when their
// claims lapse.
func (w *Worker) lookUp(ctx context.Context) (int, error) {
	claims, err := w.Store.ClaimVMs(ctx, w.name, manyVMs, w.Lease)
	if err != nil || len(claims) == 0 {
		return 0, wrap("claim VMs", err)
	}
	asOf, err := w.Store.Now(ctx)
	if err != nil {
		return 0, fmt.Errorf("look up VMs: %w", err)
	}
	type part struct {
		claims []store.VMClaim
		vms    []inventory.VM
		err    error
	}
	var parts []*part
	for chunk := range slices.Chunk(claims, askedAtOnce) {
		parts = append(parts, &part{claims: chunk})
	}
	actx, cancel := context.WithTimeout(ctx, w.Lease)
	defer cancel()
	each(w, parts, func(p *part) { p.vms, p.err = w.askFor(actx, p.claims) })
	var vms []inventory.VM
	var done []store.VMClaim
	for _, p := range parts {
		if err = errors.Join(err, p.err); p.err == nil {
			vms, done = append(vms, p.vms...), append(done, p.claims...)
		}
	}
	if err != nil {
		err = fmt.Errorf("look up VMs: %d of %d: %w", len(claims)-len(done), len(claims), err)
	}
	if len(vms) > 0 {
		if _, putErr := w.putVMs(ctx, asOf, vms); putErr != nil {
			return 0, errors.Join(err, fmt.Errorf("put VMs: %w", putErr))
		}
	}
	if doneErr := w.Store.DoneVM(ctx, done...); doneErr != nil && !errors.Is(doneErr, store.ErrClaimLost) {
		w.failed(ctx, "note that VMs were looked up", doneErr)
	}
	w.metrics.lookups.Add(float64(len(done)))
	return len(done), err
}

// askFor returns those of some VMs that VMAPI knows. It asks for all in one request, and once more for each that the answer
// lacks: a list may be short because VMAPI has just started.
func (w *Worker) askFor(ctx context.Context, claims []store.VMClaim) ([]inventory.VM, error) {
	var vms []inventory.VM
	missing := make(map[uuid.UUID]bool, len(claims))
	ids := make([]uuid.UUID, len(claims))
	for i, c := range claims {
		ids[i], missing[c.VM] = c.VM, true
	}
	if len(ids) > 1 {
		if err := w.VMAPI.Each(ctx, vmapi.Query{UUIDs: ids}, func(page []inventory.VM) error {
			vms = append(vms, page...)
			for i := range page {
				delete(missing, page[i].UUID)
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	for id := range missing {
		switch vm, err := w.VMAPI.VM(ctx, id); {
		case err == nil:
			vms = append(vms, vm)
		case !errors.Is(err, inventory.ErrNotFound):
			return nil, err
		}
	}
	return vms, nil
}
