package store_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/inventory"
	"iapi/store"
	"iapi/store/storetest"
)

func newVM(n int, host uuid.UUID) inventory.VM {
	return inventory.VM{UUID: uid(n), Owner: uid(1), Alias: fmt.Sprint("vm", n), State: "running", Host: host,
		Tags: map[string]string{"role": `"db"`}}
}

func newHost(n int) inventory.Host {
	return inventory.Host{UUID: uid(n), Name: fmt.Sprint("host", n), Traits: map[string]string{"ssd": "true"}, Status: "running"}
}

func facts(t testing.TB, s *store.Store, host uuid.UUID) store.Facts {
	t.Helper()
	f, err := s.Facts(t.Context(), host)
	require.NoError(t, err)
	return f
}

func at(seconds int) time.Time { return created.Add(time.Duration(seconds) * time.Second) }

func TestAnOlderReadNeverOverwritesANewerOne(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		a, b := uid(100), uid(101)
		vm := newVM(1, a)
		changed, err := s.PutVMs(ctx, at(10), []inventory.VM{vm})
		require.NoError(t, err)
		require.Equal(t, []uuid.UUID{a}, changed)

		old := vm
		old.Alias = "old"
		changed, err = s.PutVMs(ctx, at(5), []inventory.VM{old})
		require.NoError(t, err)
		require.Empty(t, changed)
		old.Host = b
		changed, err = s.PutVMs(ctx, at(5), []inventory.VM{old})
		require.NoError(t, err)
		require.Empty(t, changed)
		is, err := s.ReplaceHostVMs(ctx, at(5), a, nil)
		require.NoError(t, err)
		require.False(t, is)
		require.Equal(t, []inventory.VM{vm}, facts(t, s, a).VMs)
		require.Equal(t, at(10), facts(t, s, a).AsOf)

		// A VM that a complete read did not show does not come back with an older read.
		is, err = s.ReplaceHostVMs(ctx, at(20), a, nil)
		require.NoError(t, err)
		require.True(t, is)
		_, err = s.PutVMs(ctx, at(15), []inventory.VM{vm})
		require.NoError(t, err)
		require.Empty(t, facts(t, s, a).VMs)
		// Nor one that was destroyed.
		gone := newVM(2, a)
		_, err = s.PutVMs(ctx, at(30), []inventory.VM{gone})
		require.NoError(t, err)
		dead := gone
		dead.State = "destroyed"
		_, err = s.PutVMs(ctx, at(40), []inventory.VM{dead})
		require.NoError(t, err)
		_, err = s.PutVMs(ctx, at(35), []inventory.VM{gone})
		require.NoError(t, err)
		require.Empty(t, facts(t, s, a).VMs)
		got, err := s.VM(ctx, gone.UUID)
		require.NoError(t, err)
		require.Nil(t, got)
	})
}

func TestAVMThatMovesIsOnOneHost(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		a, b := uid(100), uid(101)
		vm := newVM(1, a)
		_, err := s.PutVMs(ctx, at(1), []inventory.VM{vm})
		require.NoError(t, err)
		vm.Host = b
		changed, err := s.PutVMs(ctx, at(2), []inventory.VM{vm})
		require.NoError(t, err)
		require.ElementsMatch(t, []uuid.UUID{a, b}, changed)
		require.Empty(t, facts(t, s, a).VMs)
		require.Equal(t, []inventory.VM{vm}, facts(t, s, b).VMs)
		got, err := s.VM(ctx, vm.UUID)
		require.NoError(t, err)
		require.Equal(t, &vm, got)

		vm.Host = a
		before := facts(t, s, b).Wanted
		is, err := s.ReplaceHostVMs(ctx, at(3), a, []inventory.VM{vm})
		require.NoError(t, err)
		require.True(t, is)
		require.Empty(t, facts(t, s, b).VMs)
		require.Greater(t, facts(t, s, b).Wanted, before)
		// The sweep of the host that it has left does not take it from where it is.
		_, err = s.ReplaceHostVMs(ctx, at(4), b, nil)
		require.NoError(t, err)
		got, err = s.VM(ctx, vm.UUID)
		require.NoError(t, err)
		require.Equal(t, &vm, got)
		_, err = s.ReplaceHostVMs(ctx, at(4), b, []inventory.VM{vm})
		require.Error(t, err, "the VM says that it is on another host")
	})
}

func TestHostsAreMarkedWhenWhatDecidesAPlacementChanges(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		h := newHost(100)
		changed, err := s.PutHosts(ctx, at(1), []inventory.Host{h})
		require.NoError(t, err)
		require.Equal(t, []uuid.UUID{h.UUID}, changed)
		h.Status = "unknown"
		changed, err = s.PutHosts(ctx, at(2), []inventory.Host{h})
		require.NoError(t, err)
		require.Empty(t, changed)
		f := facts(t, s, h.UUID)
		require.True(t, f.Known)
		require.Equal(t, h, f.Host)
		older := newHost(100)
		older.Name = "older"
		_, err = s.PutHosts(ctx, at(1), []inventory.Host{older})
		require.NoError(t, err)
		require.Equal(t, h, facts(t, s, h.UUID).Host)
		h.Traits = nil
		changed, err = s.PutHosts(ctx, at(3), []inventory.Host{h})
		require.NoError(t, err)
		require.Equal(t, []uuid.UUID{h.UUID}, changed)
		ids, err := s.HostIDs(ctx)
		require.NoError(t, err)
		require.Equal(t, []uuid.UUID{h.UUID}, ids)
	})
}

func TestAHostThatLeavesTakesItsVMsAlong(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		h := newHost(100)
		_, err := s.PutHosts(ctx, at(1), []inventory.Host{h})
		require.NoError(t, err)
		_, err = s.PutVMs(ctx, at(3), []inventory.VM{newVM(1, h.UUID)})
		require.NoError(t, err)
		require.NoError(t, s.RemoveHost(ctx, at(2), h.UUID))
		require.True(t, facts(t, s, h.UUID).Known, "a newer read shows a VM on it")
		require.NoError(t, s.RemoveHost(ctx, at(4), h.UUID))
		f := facts(t, s, h.UUID)
		require.False(t, f.Known)
		require.Empty(t, f.VMs)
		_, err = s.PutVMs(ctx, at(3), []inventory.VM{newVM(2, h.UUID)})
		require.NoError(t, err)
		require.Empty(t, facts(t, s, h.UUID).VMs)
		ids, err := s.HostIDs(ctx)
		require.NoError(t, err)
		require.Empty(t, ids)
		_, err = s.PutHosts(ctx, at(5), []inventory.Host{h})
		require.NoError(t, err)
		require.True(t, facts(t, s, h.UUID).Known)
	})
}

// TestFactsAndDigestsAgreeWithANaiveModel applies random reads, some of them late, and compares with maps.
func TestFactsAndDigestsAgreeWithANaiveModel(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		rng := rand.New(rand.NewPCG(3, 4))
		hosts := []uuid.UUID{uid(100), uid(101), uid(102)}
		truth := map[uuid.UUID]inventory.VM{}
		for step := range 120 {
			vm := newVM(rng.IntN(12), hosts[rng.IntN(3)])
			vm.Alias = fmt.Sprint(rng.IntN(3))
			vm.State = pick(rng, "running", "stopped", "destroyed")
			if vm.Placed() {
				truth[vm.UUID] = vm
			} else {
				delete(truth, vm.UUID)
			}
			now := at(2 * step)
			if rng.IntN(3) > 0 {
				_, err := s.PutVMs(ctx, now, []inventory.VM{vm})
				require.NoError(t, err)
			} else {
				for _, h := range hosts { // a sweep, in any order
					var there []inventory.VM
					for _, v := range truth {
						if v.Host == h {
							there = append(there, v)
						}
					}
					_, err := s.ReplaceHostVMs(ctx, now, h, there)
					require.NoError(t, err)
				}
			}
			late := newVM(rng.IntN(12), hosts[rng.IntN(3)])
			if _, known := truth[late.UUID]; known { // its truth came from a newer read
				_, err := s.PutVMs(ctx, at(-1), []inventory.VM{late})
				require.NoError(t, err)
			}
			want := map[uuid.UUID]store.HostDigest{}
			for _, v := range truth {
				d := want[v.Host]
				d.Digest += store.VMDigest(v)
				d.VMs++
				want[v.Host] = d
			}
			got, err := s.Digests(ctx)
			require.NoError(t, err)
			require.Equal(t, want, got)
			for _, h := range hosts {
				f := facts(t, s, h)
				for _, v := range f.VMs {
					require.Equal(t, truth[v.UUID], v)
				}
				require.Len(t, f.VMs, want[h].VMs)
				require.True(t, slices.IsSortedFunc(f.VMs, func(a, b inventory.VM) int {
					return strings.Compare(a.UUID.String(), b.UUID.String())
				}))
			}
		}
	})
}

func TestTheDigestKnowsEverythingThatIsKnownOfAVM(t *testing.T) {
	vm := newVM(1, uid(100))
	seen := map[uint64]bool{store.VMDigest(vm): true}
	for _, change := range []func(v *inventory.VM){
		func(v *inventory.VM) { v.UUID = uid(2) },
		func(v *inventory.VM) { v.Owner = uid(2) },
		func(v *inventory.VM) { v.Host = uid(2) },
		func(v *inventory.VM) { v.Alias = "x" },
		func(v *inventory.VM) { v.State = "stopped" },
		func(v *inventory.VM) { v.Tags = nil },
		func(v *inventory.VM) { v.Tags["role"] = `"web"` },
		func(v *inventory.VM) { v.Tags["other"] = "" },
		func(v *inventory.VM) { v.Tags = map[string]string{"rol": `e"db"`} },
	} {
		v := vm
		v.Tags = maps.Clone(vm.Tags)
		change(&v)
		require.False(t, seen[store.VMDigest(v)])
		seen[store.VMDigest(v)] = true
	}
}

// TestBytesPerVM measures what a VM's facts take on Redis.
func TestBytesPerVM(t *testing.T) {
	s := storetest.Real(t, store.Options{})
	ctx := t.Context()
	used := func() int64 {
		info, err := s.Client().Info(ctx, "memory").Result()
		require.NoError(t, err)
		for line := range strings.Lines(info) {
			if v, ok := strings.CutPrefix(line, "used_memory_dataset:"); ok {
				var n int64
				_, err := fmt.Sscan(v, &n)
				require.NoError(t, err)
				return n
			}
		}
		t.Fatal("Redis does not tell its memory")
		return 0
	}
	before := used()
	const hosts, each = 100, 100
	for h := range hosts {
		var vms []inventory.VM
		for i := range each {
			vm := newVM(h*each+i, uid(1_000_000+h))
			vm.Tags["env"], vm.Tags["tier"] = `"production"`, `"gold"`
			vms = append(vms, vm)
		}
		_, err := s.ReplaceHostVMs(ctx, created, uid(1_000_000+h), vms)
		require.NoError(t, err)
	}
	per := (used() - before) / (hosts * each)
	t.Logf("%d bytes per VM", per)
	require.Less(t, per, int64(800))
	n := s.Client().(*redis.Client).DBSize(ctx).Val()
	require.Less(t, n, int64(hosts*3+16*8), "there is no key for each VM")
}
