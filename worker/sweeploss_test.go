package worker

import (
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/inventory"
)

func untag(vm *inventory.VM) { vm.Tags = nil }
func retag(vm *inventory.VM) { vm.Tags = map[string]string{"role": "other"} }

// swap makes a db of what is a web, and the other way round.
func swap(vm *inventory.VM) {
	vm.Tags = map[string]string{"role": map[string]string{"db": "web", "web": "db"}[vm.Tags["role"]]}
}

// numbers are the first n.
func numbers(n int) (out []int) {
	for i := range n {
		out = append(out, i)
	}
	return out
}

// tagged is a standing bench of 60 VMs whose documents place them by their owner and by their role, which is db or web.
func tagged(t *testing.T, s whole) (*bench, *Worker) {
	b, w := standing(t, s)
	for range 3 {
		b.create(ownerID(0), tag("role", "db", "web"))
	}
	b.settle(w)
	require.Equal(t, 245, b.places())
	return b, w
}

// TestAGuardCountsWhatOtherTagsAndOwnersTakeAway has VMAPI tell otherwise of VMs than it did.
func TestAGuardCountsWhatOtherTagsAndOwnersTakeAway(t *testing.T) {
	const otherwise = "VMAPI no longer lists 0 of 60 VMs on any host and "
	cases := map[string]struct {
		change      func(*bench)
		would       int
		reason      string
		held, after int // placements while the guard holds, and when it is confirmed
	}{
		"all tags are gone": {
			func(b *bench) { b.change(untag, numbers(60)...) },
			60, otherwise + "60 others are not what they were, which takes 180 of 245 placements away", 245, 65,
		},
		"tags that scopes ask for are others": {
			func(b *bench) { b.change(retag, numbers(18)...) },
			18, otherwise + "18 others are not what they were, which takes 54 of 245 placements away", 245, 191,
		},
		"owners are others": {
			func(b *bench) { b.change(give, numbers(20)...) },
			20, otherwise + "20 others are not what they were, which takes 80 of 245 placements away", 245, 165,
		},
		"some are gone, some are others": {
			func(b *bench) { b.change(retag, numbers(60)[10:20]...); b.forget(8) },
			18, "VMAPI no longer lists 8 of 60 VMs on any host and 10 others are not what they were, which takes 62 of 245 placements away", 245, 183,
		},
		"they have moved as well": {
			func(b *bench) { b.change(move(2), numbers(60)...); b.change(untag, numbers(20)...) },
			20, otherwise + "20 others are not what they were, which takes 60 of 245 placements away", 245, 185,
		},
		"others are new": {
			func(b *bench) { b.change(untag, numbers(30)...); b.appearTagged(100, 2) },
			30, otherwise + "30 others are not what they were, which takes 90 of 245 placements away", 245 + 2*4, 245 + 2*4 - 90,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b, w := tagged(t, newFakeStore())
			b.cloud.set(func() { b.cloud.page = 50 })
			c.change(b)
			for i := range 2 {
				require.NoError(t, w.Sweep(t.Context()))
				require.NoError(t, w.drain(t.Context()))
				require.Equal(t, c.held, b.places())
				require.Equal(t, c.would, b.guard().WouldRemove)
				if i == 0 {
					require.Equal(t, c.reason, b.guard().Reason)
				}
			}
			require.NoError(t, b.store.ConfirmGuard(t.Context(), GuardVMs, instrumentation.Audit{}))
			require.NoError(t, w.Sweep(t.Context()))
			require.NoError(t, w.drain(t.Context()))
			require.Equal(t, c.after, b.places())
			b.requireTrue()
		})
	}
}

// appearTagged adds VMs that all scopes of a tagged bench mean.
func (b *bench) appearTagged(from, n int) {
	b.cloud.set(func() {
		for i := range n {
			vm := b.randomVM(from + i)
			vm.State, vm.Owner = "running", ownerID(0)
			b.cloud.vms[vm.UUID] = vm
		}
	})
}

func TestWhatTakesLittleAwayMeetsNoGuard(t *testing.T) {
	for name, change := range map[string]func(*bench){
		"few placements":                func(b *bench) { b.change(untag, numbers(15)...) },
		"tags that nobody asks for":     func(b *bench) { b.change(func(vm *inventory.VM) { vm.Tags["more"] = "" }, numbers(60)...) },
		"other tags that are asked for": func(b *bench) { b.change(swap, numbers(60)...) },
		"names":                         func(b *bench) { b.change(rename("renamed"), numbers(60)...) },
		"what had no placements is untagged": func(b *bench) {
			b.update("i00003", func(r *instrumentation.Instrumentation) { r.PausedAt = r.CreatedAt }) // and is not evaluated yet
			b.update("i00004", func(r *instrumentation.Instrumentation) { r.PausedAt = r.CreatedAt })
			b.change(untag, numbers(30)...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, w := tagged(t, newFakeStore())
			b.create(ownerID(0), tag("role", "db"))
			b.create(ownerID(0), tag("role", "web"))
			b.settle(w)
			for i := range 60 { // each has tags of its own
				b.change(func(vm *inventory.VM) { vm.Tags = map[string]string{"role": vm.Tags["role"]} }, i)
			}
			change(b)
			require.NoError(t, w.Sweep(t.Context()))
			require.Zero(t, b.guard())
			b.settle(w)
			b.requireTrue()
		})
	}
}

// TestHintsMeetNoGuard has somebody say of each VM that it was retagged, as workflows do.
func TestHintsMeetNoGuard(t *testing.T) {
	b, w := tagged(t, newFakeStore())
	b.change(retag, numbers(60)...)
	for i := range 60 {
		require.NoError(t, b.store.MarkVMs(t.Context(), vmID(i)))
	}
	b.settle(w)
	b.requireTrue()
	require.NoError(t, w.Sweep(t.Context()))
	require.Zero(t, b.guard())
}

// TestNothingIsTakenAwayWhileItCannotBeJudged has lists answer while VMs are not found by their uuids.
func TestNothingIsTakenAwayWhileItCannotBeJudged(t *testing.T) {
	b, w := tagged(t, newFakeStore())
	b.change(untag, numbers(60)...)
	o := overhear(w)
	looks := 0
	o.before = func() error {
		if looks++; looks == 1 {
			return inventory.ErrUnavailable
		}
		return nil
	}
	require.ErrorIs(t, w.Sweep(t.Context()), inventory.ErrUnavailable)
	require.NoError(t, w.drain(t.Context()))
	require.Equal(t, 245, b.places())
}
