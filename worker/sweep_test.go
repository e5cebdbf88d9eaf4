package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/store"
)

// standing makes a bench whose documents have settled: 60 VMs of one owner, all measured, and every host whole.
func standing(t *testing.T, s whole) (*bench, *Worker) {
	b := newBench(t, 11, s)
	for i := range 60 {
		vm := b.randomVM(i)
		vm.State, vm.Owner = "running", ownerID(0)
		b.cloud.vms[vm.UUID] = vm
	}
	b.create(ownerID(0), instrumentation.Scope{All: true})
	b.create(uuid.Nil, instrumentation.Scope{EveryHost: true})
	w := b.worker(0)
	require.NoError(t, w.Sweep(context.Background()))
	b.settle(w)
	b.requireTrue()
	require.Equal(t, 65, b.places())
	return b, w
}

func TestErrorsNeverShrinkAPlacement(t *testing.T) {
	calls := 0
	unavailable := fmt.Errorf("listing VMs: %w", inventory.ErrUnavailable)
	wrong := errors.New("the answer is not JSON")
	after := func(n int, err error) func() error {
		return func() error {
			if calls++; calls > n {
				return err
			}
			return nil
		}
	}
	cases := map[string]func(*cloud){
		"unavailable at once":       func(c *cloud) { c.fault = after(0, unavailable) },
		"unavailable in the middle": func(c *cloud) { c.fault = after(4, unavailable) },
		"unavailable at the end":    func(c *cloud) { c.fault = after(13, unavailable) },
		"wrong JSON at once":        func(c *cloud) { c.fault = after(0, wrong) },
		"wrong JSON in the middle":  func(c *cloud) { c.fault = after(3, wrong) },
		"an empty list":             func(c *cloud) { c.hide = func(inventory.VM) bool { return true } },
		"half of the VMs forgotten": func(c *cloud) { c.hide = func(vm inventory.VM) bool { return vm.UUID[15]%2 == 0 } },
		"hosts forgotten":           func(c *cloud) { clear(c.hosts) },
		"a page cut short once": func(c *cloud) {
			cut := 0
			c.hide = func(vm inventory.VM) bool { cut++; return cut > 30 && cut < 45 }
		},
	}
	for name, fault := range cases {
		t.Run(name, func(t *testing.T) {
			b, w := standing(t, newFakeStore())
			calls = 0
			b.cloud.set(func() { fault(b.cloud) })
			for range 3 {
				_ = w.Sweep(context.Background()) // what it says is not the point
				require.NoError(t, w.drain(context.Background()))
				require.Equal(t, 65, b.places())
			}
			// Evaluating keeps what is there too.
			for _, id := range []instrumentation.ID{"i00001", "i00002"} {
				_ = w.evaluate(context.Background(), id)
			}
			require.NoError(t, w.drain(context.Background()))
			require.Equal(t, 65, b.places())
		})
	}
}

func TestAFailedEvaluationIsNotedAsStaleAndMadeUpFor(t *testing.T) {
	b, w := standing(t, newFakeStore())
	ctx := context.Background()
	b.cloud.set(func() { b.cloud.fault = func() error { return inventory.ErrUnavailable } })
	id := b.create(ownerID(0), instrumentation.Scope{All: true})
	require.ErrorIs(t, w.evaluate(ctx, id), inventory.ErrUnavailable)
	require.NoError(t, w.drain(ctx))
	rec := b.get(id)
	require.False(t, rec.StaleFrom.IsZero())
	require.Equal(t, 1, rec.Evaluated)
	require.Equal(t, 125, b.places(), "it is placed by what is known")
	b.cloud.set(func() { b.cloud.fault = nil })
	b.queue.take()
	require.NoError(t, w.Sweep(ctx))
	require.Equal(t, []instrumentation.ID{id}, b.queue.take(), "the sweep has it evaluated again")
	require.NoError(t, w.evaluate(ctx, id))
	require.True(t, b.get(id).StaleFrom.IsZero())
}

func TestAGuardHoldsBackWhatAnOperatorMustConfirm(t *testing.T) {
	for name, lose := range map[string]func(*cloud, uuid.UUID){
		"forgotten": func(c *cloud, id uuid.UUID) { delete(c.vms, id) },
		"destroyed": func(c *cloud, id uuid.UUID) {
			vm := c.vms[id]
			vm.State = "destroyed"
			c.vms[id] = vm
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, w := standing(t, newFakeStore())
			ctx := context.Background()
			b.cloud.set(func() {
				for i := range 30 {
					lose(b.cloud, vmID(i))
				}
				vm := b.randomVM(100)
				vm.State, vm.Owner = "running", ownerID(0)
				b.cloud.vms[vm.UUID] = vm
			})
			for range 2 {
				require.NoError(t, w.Sweep(ctx))
				require.NoError(t, w.drain(ctx))
				require.Equal(t, 66, b.places(), "what is new gets in, what is missing stays")
			}
			guards, err := b.store.Guards(ctx)
			require.NoError(t, err)
			require.Len(t, guards, 1)
			require.Equal(t, GuardVMs, guards[0].ID)
			require.GreaterOrEqual(t, guards[0].WouldRemove, 25)
			require.NoError(t, b.store.ConfirmGuard(ctx, GuardVMs, instrumentation.Audit{}))
			require.NoError(t, w.Sweep(ctx))
			require.NoError(t, w.drain(ctx))
			require.Equal(t, 36, b.places())
			b.requireTrue()
			require.NoError(t, w.Sweep(ctx))
			guards, err = b.store.Guards(ctx)
			require.NoError(t, err)
			require.Empty(t, guards)
		})
	}
}

func TestFewLossesNeedNoConfirmation(t *testing.T) {
	b, w := standing(t, newFakeStore())
	b.cloud.set(func() {
		for i := range 8 {
			delete(b.cloud.vms, vmID(i))
		}
	})
	require.NoError(t, w.Sweep(context.Background()))
	require.NoError(t, w.drain(context.Background()))
	require.Equal(t, 57, b.places())
	b.requireTrue()
}

func TestAWalkGoesOnBehindItsLastGoodPage(t *testing.T) {
	b, w := standing(t, newFakeStore())
	requests := 0
	b.cloud.set(func() {
		b.cloud.fault = func() error {
			if requests++; requests%3 == 0 {
				return inventory.ErrUnavailable
			}
			return nil
		}
	})
	walk, err := w.walk(context.Background(), "a")
	require.NoError(t, err)
	n := 0
	for _, d := range walk.Sums {
		n += d.VMs
	}
	require.Equal(t, 60, n)
	require.Less(t, requests, 26, "no page is read twice")
}

func TestAHostLosesForgottenVMsOnlyWhenBothReadingsAgree(t *testing.T) {
	b, w := standing(t, newFakeStore())
	b.cloud.set(func() {
		for i := range 5 { // their hosts are read by themselves
			delete(b.cloud.vms, vmID(i))
		}
		b.cloud.cut = func(vm inventory.VM) bool { return vm.UUID[15]%3 == 0 }
	})
	require.NoError(t, w.Sweep(context.Background()))
	require.NoError(t, w.drain(context.Background()))
	require.GreaterOrEqual(t, b.places(), 60, "what the second reading lacks is not believed to be gone")
	b.cloud.set(func() { b.cloud.cut = nil })
	require.NoError(t, w.Sweep(context.Background()))
	require.NoError(t, w.drain(context.Background()))
	require.Equal(t, 60, b.places())
	b.requireTrue()
}

func TestAVMThatIsReadOnTwoHostsIsLookedUp(t *testing.T) {
	b, w := standing(t, newFakeStore())
	ctx := context.Background()
	here, there, other := b.cloud.vms[vmID(1)], b.cloud.vms[vmID(1)], b.cloud.vms[vmID(2)]
	here.Host, there.Host, other.Alias = hostID(1), hostID(2), "renamed"
	reads := []hostRead{{vms: []inventory.VM{here}}, {vms: []inventory.VM{there}}, {vms: []inventory.VM{other}}}
	for _, changed := range [][]inventory.VM{{here, other, there}, {there, here, other}, {there, other}, {other, here}} {
		for _, truth := range []inventory.VM{here, there} {
			b.cloud.set(func() { b.cloud.vms[vmID(1)], b.cloud.vms[vmID(2)] = truth, other })
			c := comparison{Worker: w}
			require.NoError(t, c.put(ctx, time.Now(), changed, reads))
			require.NoError(t, w.drain(ctx))
			b.requireTrue()
			for _, host := range []uuid.UUID{hostID(1), hostID(2)} {
				f, err := b.store.FactsOf(ctx, host)
				require.NoError(t, err)
				has := slices.ContainsFunc(f[0].VMs, func(vm inventory.VM) bool { return vm.UUID == vmID(1) })
				require.Equal(t, host == truth.Host, has)
			}
		}
	}
}

// unreadable is a store that cannot read the facts of a host until they are written anew.
type unreadable struct {
	Store
	host uuid.UUID
	bad  bool
}

func (u *unreadable) FactsOf(ctx context.Context, hosts ...uuid.UUID) ([]store.FactsRead, error) {
	facts, err := u.Store.FactsOf(ctx, hosts...)
	for i, h := range hosts {
		if u.bad && err == nil && h == u.host {
			facts[i] = store.FactsRead{Err: errors.New("the entry is not valid")}
		}
	}
	return facts, err
}

func (u *unreadable) ReplaceHostVMs(ctx context.Context, asOf time.Time, host uuid.UUID, vms []inventory.VM) (bool, error) {
	u.bad = u.bad && host != u.host
	return u.Store.ReplaceHostVMs(ctx, asOf, host, vms)
}

func TestFactsThatCannotBeReadAreWrittenAnew(t *testing.T) {
	b, w := standing(t, newFakeStore())
	s := &unreadable{Store: w.Store, host: hostID(2), bad: true}
	w.Store = s
	b.cloud.set(func() { b.cloud.fault = func() error { return inventory.ErrUnavailable } })
	require.Error(t, w.Sweep(context.Background()))
	require.True(t, s.bad, "not by what could not be read")
	b.cloud.set(func() { b.cloud.fault = nil })
	require.NoError(t, s.MarkHosts(context.Background(), false, s.host))
	require.NoError(t, w.drain(context.Background())) // which is when it is found
	require.NoError(t, w.Sweep(context.Background()))
	require.False(t, s.bad)
	b.settle(w)
	b.requireTrue()
	require.Equal(t, 65, b.places())
}

func TestAHostThatLeavesIsForgottenAndOneWithVMsIsNot(t *testing.T) {
	b, w := standing(t, newFakeStore())
	ctx := context.Background()
	b.cloud.set(func() {
		delete(b.cloud.hosts, hostID(1))
		b.cloud.hosts[hostID(5)] = inventory.Host{UUID: hostID(5)}
	})
	require.NoError(t, w.Sweep(ctx))
	require.NoError(t, w.drain(ctx))
	require.Contains(t, b.document(hostID(1)), `"wholeHost":true`, "its VMs are still there, so it is too")
	require.Contains(t, b.document(hostID(5)), `"wholeHost":true`)
	b.cloud.set(func() {
		for id, vm := range b.cloud.vms {
			if vm.Host == hostID(1) {
				vm.Host = hostID(2)
				b.cloud.vms[id] = vm
			}
		}
	})
	require.NoError(t, w.Sweep(ctx)) // the VMs move
	require.NoError(t, w.Sweep(ctx)) // the host goes
	require.NoError(t, w.drain(ctx))
	require.Equal(t, "[]", b.document(hostID(1)))
	b.requireTrue()
}

func TestWhatFollowsFromARecordIsReadFromIt(t *testing.T) {
	b, w := standing(t, newFakeStore())
	ctx := context.Background()
	b.settle(w)
	require.NoError(t, w.judgeAll(ctx, []instrumentation.ID{"i00001"}))
	rec := b.get("i00001")
	require.Equal(t, instrumentation.Enabled, rec.State)
	require.False(t, rec.EnabledAt.IsZero())

	b.update("i00001", func(r *instrumentation.Instrumentation) { r.PausedAt = w.Clock() })
	b.settle(w)
	require.Equal(t, instrumentation.Paused, b.get("i00001").State)
	require.Equal(t, 5, b.places())

	b.update("i00001", func(r *instrumentation.Instrumentation) { r.PausedAt = rec.PausedAt })
	b.settle(w)
	require.Equal(t, instrumentation.Enabled, b.get("i00001").State)

	b.update("i00001", func(r *instrumentation.Instrumentation) { r.DeletedAt = w.Clock() })
	b.settle(w)
	require.Equal(t, instrumentation.Deleting, b.get("i00001").State)
	require.NoError(t, w.finishDeletes(ctx))
	require.Nil(t, b.get("i00001"), "no host has it any more")
	require.Equal(t, 5, b.places())
}

func TestAJudgementThatIsNoNewsIsToldToThoseWhoFollow(t *testing.T) {
	fake := newFakeStore()
	b, w := standing(t, fake)
	b.settle(w)
	require.NoError(t, w.judgeAll(t.Context(), []instrumentation.ID{"i00001"}))
	require.Equal(t, instrumentation.Enabled, b.get("i00001").State)
	fake.told = nil
	require.NoError(t, w.judgeAll(t.Context(), []instrumentation.ID{"i00001"}))
	require.Equal(t, []instrumentation.ID{"i00001"}, fake.told)
}

// TestAJudgementThatWasLostIsMadeUpFor has what is enabled fare otherwise, and loses the mark.
func TestAJudgementThatWasLostIsMadeUpFor(t *testing.T) {
	fake := newFakeStore()
	b, w := standing(t, fake)
	b.settle(w)
	require.NoError(t, w.drain(t.Context()))
	require.NoError(t, w.rejudge(t.Context()))
	require.Empty(t, fake.judge, "all is as it should be")
	fake.failing = map[instrumentation.ID]bool{"i00001": true}
	require.NoError(t, w.rejudge(t.Context()))
	require.NoError(t, w.drain(t.Context()))
	require.Equal(t, instrumentation.Degraded, b.get("i00001").State)
}

func TestWhatExpiresIsDroppedAndRemovedAfterSevenDays(t *testing.T) {
	b, w := standing(t, newFakeStore())
	ctx := context.Background()
	id := b.create(ownerID(0), instrumentation.Scope{All: true}, func(r *instrumentation.Instrumentation) { r.ExpiresAt = w.Clock().Add(3600e9) })
	b.settle(w)
	require.Equal(t, 125, b.places())
	clock := w.Clock
	w.Clock = func() time.Time { return clock().Add(3601e9) }
	w.live.clock = w.Clock
	require.NoError(t, w.expire(ctx))
	require.NoError(t, w.drain(ctx))
	require.Equal(t, 65, b.places())
	require.Equal(t, instrumentation.Expired, b.get(id).State)
	require.NoError(t, w.removeExpired(ctx))
	require.NotNil(t, b.get(id))
	w.Clock = func() time.Time { return clock().Add(kept + 3601e9) }
	require.NoError(t, w.removeExpired(ctx))
	require.Nil(t, b.get(id))
}

func TestStoppingTracingStopsWhatTracesAndNothingThatIsCreatedLater(t *testing.T) {
	tracing := func(r *instrumentation.Instrumentation) { r.Tracing = true }
	setUp := func(t *testing.T) (*bench, *Worker, instrumentation.ID) {
		b, w := standing(t, newFakeStore())
		id := b.create(uuid.Nil, instrumentation.Scope{EveryHost: true}, tracing)
		b.settle(w)
		require.Equal(t, 70, b.places())
		return b, w, id
	}
	t.Run("everywhere", func(t *testing.T) {
		b, w, id := setUp(t)
		stop := stopPayload{At: w.Clock(), Reason: "too hot"}
		later := b.create(uuid.Nil, instrumentation.Scope{Hosts: []uuid.UUID{hostID(0)}}, tracing)
		for range 2 { // running it twice changes nothing
			require.NoError(t, w.stopTracing(context.Background(), stop))
			b.settle(w)
			require.Equal(t, 66, b.places())
			require.Equal(t, instrumentation.Paused, b.get(id).State)
			require.Equal(t, 2, b.get(id).Revision)
			require.Contains(t, b.document(hostID(0)), string(later))
		}
	})
	t.Run("on some hosts", func(t *testing.T) {
		b, w, id := setUp(t)
		stop := stopPayload{At: w.Clock(), Reason: "too hot", Hosts: []uuid.UUID{hostID(2), hostID(1)}}
		for range 2 {
			require.NoError(t, w.stopTracing(context.Background(), stop))
			b.settle(w)
			require.Equal(t, 68, b.places())
			require.NotContains(t, b.document(hostID(1)), string(id))
			require.Contains(t, b.document(hostID(3)), string(id))
			require.Equal(t, 2, b.get(id).Revision)
		}
		b.requireTrue()
	})
}

func TestPreviewIsWhatACreateComesTo(t *testing.T) {
	for seed := range uint64(30) {
		b := newBench(t, seed, newFakeStore())
		w := b.worker(0)
		require.NoError(t, w.Sweep(context.Background()))
		owner, scope := b.anyOwner(), b.randomScope()
		p, err := w.Preview(context.Background(), owner, scope, "cpu.usage")
		require.NoError(t, err)
		id := b.create(owner, scope)
		b.settle(w)
		b.requireTrue()
		want := len(p.VMs)
		if !scope.Zones(owner) {
			want = len(p.Hosts)
		}
		require.Equal(t, want, b.places(), "scope %+v", scope)
		hosts, err := b.store.PlacedHosts(context.Background(), id)
		require.NoError(t, err)
		require.Len(t, p.Hosts, len(hosts))
		if want > 0 {
			require.Len(t, p.Problems, 1, "no agent has reported yet")
			require.Equal(t, want, p.Problems[0].Sources)
		}
		b.cloud.set(func() { b.cloud.fault = func() error { return inventory.ErrUnavailable } })
		_, err = w.Preview(context.Background(), owner, scope, "")
		require.ErrorIs(t, err, instrumentation.ErrNotReady)
	}
}
