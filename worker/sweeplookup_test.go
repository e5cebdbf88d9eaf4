package worker

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/inventory"
	"iapi/inventory/vmapi"
	"iapi/store"
)

// overheard is a VMAPI whose lists of chosen VMs a test takes part in.
type overheard struct {
	VMAPI
	before func() error               // a list of chosen VMs
	after  func()                     // it was read, and before it is used
	host   func(host uuid.UUID) error // a list of a host's VMs
	mu     sync.Mutex
	asked  []uuid.UUID
	hosts  int // that were read whole
}

func (o *overheard) Each(ctx context.Context, q vmapi.Query, fn func([]inventory.VM) error) error {
	o.mu.Lock()
	o.asked = append(o.asked, q.UUIDs...)
	if q.Host != uuid.Nil {
		o.hosts++
	}
	o.mu.Unlock()
	if q.Host != uuid.Nil && o.host != nil {
		if err := o.host(q.Host); err != nil {
			return err
		}
	}
	if q.UUIDs == nil {
		return o.VMAPI.Each(ctx, q, fn)
	}
	if o.before != nil {
		if err := o.before(); err != nil {
			return err
		}
	}
	var vms []inventory.VM
	err := o.VMAPI.Each(ctx, q, func(page []inventory.VM) error { vms = append(vms, page...); return nil })
	if err != nil {
		return err
	}
	if o.after != nil {
		o.after()
	}
	return fn(vms)
}

// overhear has a worker ask by way of an overheard.
func overhear(w *Worker) *overheard {
	o := &overheard{VMAPI: w.VMAPI}
	w.VMAPI = o
	return o
}

// change changes VMs of the cloud, and tells nobody.
func (b *bench) change(fn func(vm *inventory.VM), vms ...int) {
	b.cloud.set(func() {
		for _, n := range vms {
			vm := b.cloud.vms[vmID(n)]
			fn(&vm)
			b.cloud.vms[vmID(n)] = vm
		}
	})
}

func rename(name string) func(*inventory.VM) { return func(vm *inventory.VM) { vm.Alias = name } }
func destroy(vm *inventory.VM)               { vm.State = "destroyed" }
func give(vm *inventory.VM)                  { vm.Owner = ownerID(2) }

// move moves a VM some hosts on.
func move(by int) func(*inventory.VM) {
	return func(vm *inventory.VM) { vm.Host = hostID((int(vm.Host[15]) + by) % 5) }
}

func TestASweepLooksUpNothingButWhatDiffers(t *testing.T) {
	b, w := standing(t, newFakeStore())
	o := overhear(w)
	b.change(rename("renamed"), 3)
	b.change(move(1), 17)
	b.change(destroy, 20)
	b.cloud.set(func() {
		vm := b.randomVM(80)
		vm.State = "running"
		b.cloud.vms[vm.UUID] = vm
	})
	require.NoError(t, w.Sweep(context.Background()))
	require.Equal(t, []uuid.UUID{vmID(3), vmID(17), vmID(20), vmID(80)}, unique(o.asked))
	require.Zero(t, o.hosts)
	b.settle(w)
	b.requireTrue()
}

func TestWhatHappensBetweenTheWalkAndTheLookUpIsTakenOver(t *testing.T) {
	test := func(t *testing.T, s whole) {
		b, w := standing(t, s)
		b.change(rename("first"), 0, 1, 2, 3, 4)
		b.change(move(1), 5, 6, 7, 8)
		overhear(w).before = func() error {
			b.change(rename("second"), 0, 5)
			b.change(destroy, 1, 6)
			b.change(move(1), 2, 7)
			b.change(give, 3)
			b.change(move(4), 8) // it is where it was
			return nil
		}
		require.NoError(t, w.Sweep(context.Background()))
		require.NoError(t, w.drain(context.Background()))
		b.requireTrue()
	}
	t.Run("fake", func(t *testing.T) { test(t, newFakeStore()) })
	stores(t, func(t *testing.T, open func(t testing.TB) *store.Store) { test(t, open(t)) })
}

func TestALookUpThatIsOvertakenByAHintChangesNothing(t *testing.T) {
	test := func(t *testing.T, s whole) {
		b, w := standing(t, s)
		ctx := context.Background()
		b.change(rename("first"), 0, 1, 2)
		b.change(move(1), 3)
		hinted := b.worker(0)
		overhear(w).after = func() {
			b.change(rename("second"), 0)
			b.change(destroy, 1)
			b.change(move(1), 2, 3)
			require.NoError(t, b.store.MarkVMs(ctx, vmID(0), vmID(1), vmID(2), vmID(3)))
			require.NoError(t, hinted.drain(ctx))
		}
		require.NoError(t, w.Sweep(ctx))
		require.NoError(t, w.drain(ctx))
		b.requireTrue()
	}
	t.Run("fake", func(t *testing.T) { test(t, newFakeStore()) })
	t.Run("redis", func(t *testing.T) { test(t, open(t, store.Options{URL: startRedis(t)})) })
}

func TestAVMThatIsForgottenBetweenTheWalkAndTheLookUpStaysUntilTheNextSweep(t *testing.T) {
	b, w := standing(t, newFakeStore())
	o := overhear(w)
	b.change(rename("first"), 0)
	o.before = func() error { b.cloud.set(func() { delete(b.cloud.vms, vmID(0)) }); return nil }
	require.NoError(t, w.Sweep(context.Background()))
	require.NoError(t, w.drain(context.Background()))
	require.Equal(t, 65, b.places())
	require.NoError(t, w.Sweep(context.Background()))
	require.NoError(t, w.drain(context.Background()))
	require.Equal(t, 64, b.places())
	b.requireTrue()
}

func TestALookUpThatFailsOrIsSilentTakesNothingAway(t *testing.T) {
	b, w := standing(t, newFakeStore())
	o := overhear(w)
	b.change(destroy, 0, 1)
	b.change(move(1), 2, 3)
	o.before = func() error { return inventory.ErrUnavailable }
	require.ErrorIs(t, w.Sweep(context.Background()), inventory.ErrUnavailable)
	require.NoError(t, w.drain(context.Background()))
	require.Equal(t, 65, b.places())

	o.before = func() error {
		b.cloud.set(func() { b.cloud.hide = func(inventory.VM) bool { return true } })
		return nil
	}
	require.NoError(t, w.Sweep(context.Background()))
	require.NotZero(t, o.hosts, "hosts are read whole")
	require.NoError(t, w.drain(context.Background()))
	require.Equal(t, 65, b.places(), "their readings lack more than the walk has")

	b.cloud.set(func() { b.cloud.hide = nil })
	o.before = nil
	require.NoError(t, w.Sweep(context.Background()))
	require.NoError(t, w.drain(context.Background()))
	b.requireTrue()
}

func TestAVMThatIsKnownOnTwoHostsLeavesTheWrongOne(t *testing.T) {
	s := newFakeStore()
	b, w := standing(t, s)
	vm := b.cloud.vms[vmID(7)]
	elsewhere := vm
	move(1)(&elsewhere)
	s.host(elsewhere.Host).vms[vm.UUID] = fakeVM{vm: elsewhere} // a writer that was killed has left it there
	require.NoError(t, w.Sweep(context.Background()))
	require.NoError(t, w.drain(context.Background()))
	b.requireTrue()
	facts, err := s.FactsOf(context.Background(), vm.Host, elsewhere.Host)
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(facts[0].VMs, vm.Equal))
	require.False(t, slices.ContainsFunc(facts[1].VMs, func(o inventory.VM) bool { return o.UUID == vm.UUID }))
}
