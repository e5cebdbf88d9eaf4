package worker

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/inventory"
)

// crowded is a standing bench with 600 VMs more, which nobody measures.
func crowded(t *testing.T, s whole) (*bench, *Worker) {
	b, w := standing(t, s)
	b.cloud.set(func() { b.cloud.page = 200; b.appear(1000, 600, nil) })
	require.NoError(t, w.Sweep(t.Context()))
	require.NoError(t, w.drain(t.Context()))
	require.Equal(t, 65, b.places())
	return b, w
}

// appear adds VMs of an owner who measures nothing; the i-th of them where on says.
func (b *bench) appear(from, n int, on []uuid.UUID) {
	for i := range n {
		vm := b.randomVM(from + i)
		if vm.State, vm.Owner = "running", ownerID(2); on != nil {
			vm.Host = on[i]
		}
		b.cloud.vms[vm.UUID] = vm
	}
}

// forget has VMAPI forget VMs, and returns where they were.
func (b *bench) forget(vms int) (on []uuid.UUID) {
	for i := range vms {
		on = append(on, b.cloud.vms[vmID(i)].Host)
		delete(b.cloud.vms, vmID(i))
	}
	return on
}

// guard returns the guard that waits, the zero Guard if there is none.
func (b *bench) guard() (g instrumentation.Guard) {
	guards, err := b.store.Guards(context.Background())
	require.NoError(b.t, err)
	if len(guards) > 0 {
		g = guards[0]
	}
	return g
}

// TestAGuardCountsWhatIsRemoved has VMAPI forget more than a sweep may believe, in ways that the numbers of VMs do not tell.
func TestAGuardCountsWhatIsRemoved(t *testing.T) {
	cases := map[string]struct {
		bench func(*testing.T, whole) (*bench, *Worker)
		lose  func(*bench)
		guard instrumentation.Guard
		after int // placements when it is confirmed
	}{
		"as many new VMs are on the same hosts": {
			standing, func(b *bench) { b.appear(1000, 30, b.forget(30)) },
			instrumentation.Guard{WouldRemove: 30, Reason: "VMAPI no longer lists 30 of 60 VMs on any host, which have 30 of 65 placements"}, 35,
		},
		"few of the VMs have most of the placements": {
			crowded, func(b *bench) { b.forget(60) },
			instrumentation.Guard{WouldRemove: 60, Reason: "VMAPI no longer lists 60 of 660 VMs on any host, which have 60 of 65 placements"}, 5,
		},
		"many of the VMs have few of the placements": {
			crowded, func(b *bench) { b.cloud.hide = func(vm inventory.VM) bool { return vm.Owner == ownerID(2) } },
			instrumentation.Guard{WouldRemove: 600, Reason: "VMAPI no longer lists 600 of 660 VMs on any host, which have 0 of 65 placements"}, 65,
		},
		"fewer VMs than the floor have more placements": {
			func(t *testing.T, s whole) (*bench, *Worker) {
				b, w := standing(t, s)
				for range 10 {
					b.create(uuid.Nil, instrumentation.Scope{VMs: []uuid.UUID{vmID(0), vmID(1), vmID(2)}})
				}
				b.settle(w)
				require.Equal(t, 95, b.places())
				return b, w
			}, func(b *bench) { b.forget(3) },
			instrumentation.Guard{WouldRemove: 3, Reason: "VMAPI no longer lists 3 of 60 VMs on any host, which have 33 of 95 placements"}, 62,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b, w := c.bench(t, newFakeStore())
			before := b.places()
			b.cloud.set(func() { c.lose(b) })
			o := overhear(w)
			require.NoError(t, w.Sweep(t.Context()))
			c.guard.ID = GuardVMs
			require.Equal(t, c.guard, b.guard())
			require.NoError(t, w.Sweep(t.Context()))
			require.NoError(t, w.drain(t.Context()))
			require.Equal(t, before, b.places())
			require.Equal(t, c.guard.WouldRemove, b.guard().WouldRemove, "it waits")
			require.Zero(t, o.hosts, "no host is read whole for what may not be removed")
			require.NoError(t, b.store.ConfirmGuard(t.Context(), GuardVMs, instrumentation.Audit{}))
			require.NoError(t, w.Sweep(t.Context()))
			require.NoError(t, w.drain(t.Context()))
			require.Equal(t, c.after, b.places())
		})
	}
}

func TestAGuardIsNotMetByVMsThatMove(t *testing.T) {
	s := newFakeStore()
	b, w := standing(t, s)
	s.counted = 0
	require.NoError(t, w.Sweep(t.Context()))
	require.Zero(t, s.counted, "where nothing differs no placements are counted")
	for i := range 60 {
		b.change(move(1), i)
	}
	require.NoError(t, w.Sweep(t.Context()))
	require.NoError(t, w.drain(t.Context()))
	require.Zero(t, b.guard())
	b.requireTrue()
}

// TestAGuardIsNotMetByVMsThatAreKnownWhereTheyAreToo has a writer leave VMs behind that have moved to a host that is as known.
func TestAGuardIsNotMetByVMsThatAreKnownWhereTheyAreToo(t *testing.T) {
	s := newFakeStore()
	b, w := standing(t, s)
	b.cloud.set(func() {
		for i := range 20 { // so many that few are read although nothing differs
			b.cloud.hosts[hostID(100+i)] = inventory.Host{UUID: hostID(100 + i)}
		}
	})
	for i := range 30 {
		b.change(func(vm *inventory.VM) { vm.Host = hostID(0) }, i)
	}
	require.NoError(t, w.Sweep(t.Context()))
	require.NoError(t, w.drain(t.Context()))
	for i := range 30 {
		vm := b.cloud.vms[vmID(i)]
		vm.Host = hostID(1)
		s.host(vm.Host).vms[vm.UUID] = fakeVM{vm: vm}
	}
	w.Clock = func() time.Time { return time.Unix(int64(w.SweepEvery/time.Second), 0) } // it is not the first hosts' turn
	require.NoError(t, w.Sweep(t.Context()))
	require.Zero(t, b.guard())
	for i := range 30 {
		require.NotContains(t, s.host(hostID(1)).vms, vmID(i))
		require.Contains(t, s.host(hostID(0)).vms, vmID(i))
	}
}

// TestPlacementsAreCountedOnlyUntilItIsClear has two of many VMs forgotten, which take more placements with them than the floor.
func TestPlacementsAreCountedOnlyUntilItIsClear(t *testing.T) {
	s := newFakeStore()
	b, w := standing(t, s)
	for range 10 {
		b.create(ownerID(0), instrumentation.Scope{All: true})
	}
	b.settle(w)
	require.Equal(t, 665, b.places())
	on := map[uuid.UUID]bool{b.cloud.vms[vmID(0)].Host: true, b.cloud.vms[vmID(1)].Host: true}
	b.cloud.set(func() { b.forget(2) })
	s.counted = 0
	require.NoError(t, w.Sweep(t.Context()))
	require.NoError(t, w.drain(t.Context()))
	require.Equal(t, len(on), s.counted)
	require.Equal(t, 643, b.places())
	b.requireTrue()
}

// TestASweepThatGoesOnWithAWalkMeetsTheSameGuard loses VMs while what is known of the walk is another worker's.
func TestASweepThatGoesOnWithAWalkMeetsTheSameGuard(t *testing.T) {
	everyStore(t, func(t *testing.T, open func(t testing.TB) whole) {
		b, w := standing(t, open(t))
		ctx := t.Context()
		walk := func(name string) {
			seen, err := w.walk(ctx, name)
			require.NoError(t, err)
			require.NoError(t, b.store.PutWalk(ctx, seen.Walk))
		}
		b.change(move(1), 59)
		b.cloud.set(func() { b.appear(1000, 30, b.forget(30)) })
		walk("one")
		require.NoError(t, w.sweep(ctx, "one"))
		require.NoError(t, w.drain(ctx))
		require.Equal(t, 65, b.places())
		require.Contains(t, b.guard().Reason, "30 of 60 VMs on any host, which have 30 of 65 placements")
		require.NoError(t, b.store.ConfirmGuard(ctx, GuardVMs, instrumentation.Audit{}))
		walk("two")
		require.NoError(t, w.sweep(ctx, "two"))
		require.NoError(t, w.drain(ctx))
		require.Equal(t, 35, b.places())
		b.requireTrue()
	})
}

// TestNothingIsLostWhileSomethingCannotBeCompared has one host's list fail for a sweep that must read hosts whole.
func TestNothingIsLostWhileSomethingCannotBeCompared(t *testing.T) {
	b, w := standing(t, newFakeStore())
	ctx := t.Context()
	b.cloud.set(func() { b.forget(8) })
	seen, err := w.walk(ctx, "one")
	require.NoError(t, err)
	require.NoError(t, b.store.PutWalk(ctx, seen.Walk))
	o := overhear(w)
	o.host = func(host uuid.UUID) error {
		if host == hostID(0) {
			return inventory.ErrUnavailable
		}
		return nil
	}
	require.ErrorIs(t, w.sweep(ctx, "one"), inventory.ErrUnavailable)
	require.NoError(t, w.drain(ctx))
	require.Equal(t, 65, b.places())
	o.host = nil
	require.NoError(t, w.sweep(ctx, "one"))
	require.NoError(t, w.drain(ctx))
	require.Equal(t, 57, b.places())
	b.requireTrue()
}

// TestHostsThatTakeTooManyPlacementsWithThemMeetAGuard has CNAPI forget hosts that are measured as a whole.
func TestHostsThatTakeTooManyPlacementsWithThemMeetAGuard(t *testing.T) {
	b := newBench(t, 1, newFakeStore())
	clear(b.cloud.vms)
	for i := range 100 {
		b.cloud.hosts[hostID(i)] = b.randomHost(i)
	}
	for range 12 {
		b.create(uuid.Nil, instrumentation.Scope{Hosts: []uuid.UUID{hostID(0), hostID(1)}})
	}
	w := b.worker(0)
	require.NoError(t, w.Sweep(t.Context()))
	b.settle(w)
	require.Equal(t, 24, b.places())
	b.cloud.set(func() { delete(b.cloud.hosts, hostID(1)) })
	require.NoError(t, w.Sweep(t.Context()))
	require.NoError(t, w.drain(t.Context()))
	require.Equal(t, 24, b.places())
	require.Equal(t, instrumentation.Guard{
		ID: GuardHosts, WouldRemove: 1, Reason: "CNAPI no longer lists 1 of 100 hosts, which have 12 of 24 placements",
	}, b.guard())
	require.NoError(t, b.store.ConfirmGuard(t.Context(), GuardHosts, instrumentation.Audit{}))
	require.NoError(t, w.Sweep(t.Context()))
	require.NoError(t, w.drain(t.Context()))
	require.Equal(t, 12, b.places())
}
