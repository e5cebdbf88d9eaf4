package store_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/measure"
	"iapi/store"
	"iapi/store/storetest"
)

func TestADigesterAgreesWithVMDigest(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	var d store.Digester
	sets := []map[string]string{nil, {}, {"a": "b"}, {"a": "b", "c": "d"}}
	for i := range 40_000 { // more sets than are remembered
		vm := newVM(i, uid(7))
		if rng.IntN(2) == 0 {
			vm.Tags = sets[rng.IntN(len(sets))]
		} else {
			vm.Tags = map[string]string{"n": fmt.Sprint(rng.IntN(100))}
		}
		require.Equal(t, store.VMDigest(vm), d.Digest(&vm))
	}
}

func TestDifferencesAreWhatANaiveComparisonFinds(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		rng := rand.New(rand.NewPCG(7, 8))
		hosts := []uuid.UUID{uid(100), uid(101), uid(102), uid(103)}
		for step := range 20 {
			known := map[uuid.UUID]map[uuid.UUID]inventory.VM{}
			for i, h := range hosts {
				known[h] = map[uuid.UUID]inventory.VM{}
				var vms []inventory.VM
				for n := range rng.IntN(8) {
					vm := newVM(1000*i+n, h)
					vm.Alias = fmt.Sprint(rng.IntN(3))
					vms, known[h][vm.UUID] = append(vms, vm), vm
				}
				_, err := s.ReplaceHostVMs(ctx, at(step), h, vms)
				require.NoError(t, err)
			}
			var reads []store.HostVMs
			var want []store.Difference
			for i, h := range hosts {
				r, d, read := store.HostVMs{Host: h}, store.Difference{}, map[uuid.UUID]bool{}
				for n := range 8 {
					vm := newVM(1000*i+n, h)
					vm.Alias = fmt.Sprint(rng.IntN(3))
					if rng.IntN(4) == 0 {
						continue
					}
					if old, ok := known[h][vm.UUID]; !ok || !old.Equal(vm) {
						d.Changed = append(d.Changed, len(r.VMs))
					}
					r.VMs, read[vm.UUID] = append(r.VMs, store.VMSum{UUID: vm.UUID, Digest: store.VMDigest(vm)}), true
				}
				for id := range known[h] {
					if !read[id] {
						d.Missing = append(d.Missing, id)
					}
				}
				reads, want = append(reads, r), append(want, d)
			}
			got, err := s.Differences(ctx, reads)
			require.NoError(t, err)
			for i := range want {
				require.Equal(t, want[i].Changed, got[i].Changed)
				require.ElementsMatch(t, want[i].Missing, got[i].Missing)
			}
		}
		none, err := s.Differences(ctx, nil)
		require.NoError(t, err)
		require.Empty(t, none)
	})
}

func TestVMsAreTakenOffTheHostsThatAreNamedUnlessANewerReadHasPutThemThere(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx, here, there := t.Context(), uid(100), uid(101)
		vms := []inventory.VM{newVM(1, here), newVM(2, here), newVM(3, there)}
		_, err := s.PutVMs(ctx, at(5), vms)
		require.NoError(t, err)
		off := map[uuid.UUID][]uuid.UUID{here: {vms[0].UUID, vms[2].UUID}, there: {vms[1].UUID}}
		require.NoError(t, s.TakeVMs(ctx, at(4), off))
		require.ElementsMatch(t, vms[:2], facts(t, s, here).VMs, "an older read takes nothing away")
		require.NoError(t, s.TakeVMs(ctx, at(6), off))
		require.Equal(t, vms[1:2], facts(t, s, here).VMs)
		require.Equal(t, vms[2:], facts(t, s, there).VMs, "those that are not there are not taken off")
		digests, err := s.Digests(ctx)
		require.NoError(t, err)
		require.Equal(t, store.HostDigest{Digest: store.VMDigest(vms[1]), VMs: 1}, digests[here])
		require.NoError(t, s.TakeVMs(ctx, at(7), nil))
	})
}

func TestHostsAreWrittenByTheHundred(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		var hosts []inventory.Host
		for n := range 1000 { // more than one script takes
			hosts = append(hosts, newHost(n))
		}
		changed, err := s.PutHosts(ctx, at(1), hosts)
		require.NoError(t, err)
		require.Len(t, changed, len(hosts))
		changed, err = s.PutHosts(ctx, at(2), hosts)
		require.NoError(t, err)
		require.Empty(t, changed)
		hosts[17].Name, hosts[900].Traits = "renamed", nil
		hosts[18].Status = "rebooting"
		changed, err = s.PutHosts(ctx, at(3), hosts)
		require.NoError(t, err)
		require.ElementsMatch(t, []uuid.UUID{hosts[17].UUID, hosts[900].UUID}, changed)
		f := facts(t, s, hosts[18].UUID)
		require.Equal(t, hosts[18], f.Host)
		require.Equal(t, at(3), f.AsOf)
		older := hosts[17]
		older.Name = "older"
		changed, err = s.PutHosts(ctx, at(2), []inventory.Host{older})
		require.NoError(t, err)
		require.Empty(t, changed)
		ids, err := s.HostIDs(ctx)
		require.NoError(t, err)
		require.Len(t, ids, len(hosts))
	})
}

func TestStaleInstrumentationsAreFound(t *testing.T) {
	for name, c := range map[string]struct {
		open    func(testing.TB, store.Options) *store.Store
		records int
	}{"embedded": {storetest.Embedded, 60}, "redis, in several pieces": {storetest.Real, 1203}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, ctx := c.open(t, store.Options{}), t.Context()
			want := map[instrumentation.ID]int{}
			for n := range c.records {
				r := newRecord(uid(1), `"staleFrom":1`)
				r.Targets = []measure.Target{{Kind: measure.Statsd, Address: "h:1", Headers: map[string]string{"staleFrom": "x"}}}
				switch n % 50 {
				case 1:
					r.StaleFrom = created
					want[r.ID] = r.Revision
				case 2: // stale, but not live
					r.StaleFrom, r.PausedAt = created, created
				}
				commit(t, s, r)
			}
			stale, err := s.Stale(ctx)
			require.NoError(t, err)
			got := map[instrumentation.ID]int{}
			for _, p := range stale {
				got[p.ID] = p.Revision
			}
			require.Equal(t, want, got)
			require.Len(t, stale, len(want))
			for id, revision := range want {
				require.NoError(t, s.Evaluated(ctx, id, revision, time.Time{}))
			}
			stale, err = s.Stale(ctx)
			require.NoError(t, err)
			require.Empty(t, stale)
		})
	}
}

// BenchmarkDigest takes the digest of a VM whose tags many share, as a sweep does a million times.
func BenchmarkDigest(b *testing.B) {
	vm := newVM(1, uid(100))
	maps.Copy(vm.Tags, map[string]string{"env": "prod", "service": "shop-17", "triton.cns.services": "shop"})
	b.Run("each", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			store.VMDigest(vm)
		}
	})
	b.Run("shared tags", func(b *testing.B) {
		b.ReportAllocs()
		var d store.Digester
		for b.Loop() {
			d.Digest(&vm)
		}
	})
}
