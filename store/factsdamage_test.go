package store_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/store"
	"iapi/store/storetest"
)

// sums is what a read of the inventory says of a host.
func sums(host uuid.UUID, vms ...inventory.VM) store.HostVMs {
	out := store.HostVMs{Host: host}
	for _, vm := range vms {
		out.VMs = append(out.VMs, store.VMSum{UUID: vm.UUID, Digest: store.VMDigest(vm)})
	}
	return out
}

// Whatever is kept of one host and is not valid: the others are read, compared and counted, and it alone is told of.
func TestADamagedHostSpoilsTheReadingOfNoOther(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		two := together(t, 2)
		bad, good := two[0], two[1]
		vms := []inventory.VM{newVM(1, bad), newVM(2, good)}
		_, err := s.PutVMs(ctx, at(1), vms)
		require.NoError(t, err)
		for i, h := range two {
			assign(t, s, h, item("x", 1, vms[i].UUID))
		}
		for _, name := range []string{"fact:", "on:", "add:", "vms:"} {
			repair := set(t, s, store.HostKey(bad, name))
			read, err := s.FactsOf(ctx, bad, good)
			require.NoError(t, err, name)
			require.ErrorContains(t, read[0].Err, "WRONGTYPE", name)
			require.ErrorContains(t, read[0].Err, bad.String(), name)
			require.NoError(t, read[1].Err, name)
			require.Equal(t, vms[1:], read[1].VMs, name)
			repair()
		}
		sessions, err := s.Sessions(ctx, bad, good)
		require.NoError(t, err)
		versions, err := s.Versions(ctx, bad, good)
		require.NoError(t, err)
		documents, err := s.Documents(ctx, bad, good)
		require.NoError(t, err)
		repairFacts := set(t, s, store.HostKey(bad, "fact:"))
		for name, read := range map[string]func() (any, any, error){
			"Sessions":  func() (any, any, error) { got, err := s.Sessions(ctx, bad, good); return sessions[1], got[1], err },
			"Versions":  func() (any, any, error) { got, err := s.Versions(ctx, bad, good); return versions[1], got[1], err },
			"Documents": func() (any, any, error) { got, err := s.Documents(ctx, bad, good); return documents[1], got[1], err },
		} {
			want, got, err := read()
			var damage store.Damage
			require.ErrorAs(t, err, &damage, name)
			require.ErrorContains(t, damage.Of(bad), "WRONGTYPE", name)
			require.NoError(t, damage.Of(good), name)
			require.Equal(t, want, got, name)
		}
		repairFacts()
		require.NoError(t, s.Client().HSet(ctx, store.HostKey(bad, "fact:"), "session", "none").Err())
		got, err := s.Sessions(ctx, bad, good)
		var damage store.Damage
		require.ErrorAs(t, err, &damage)
		require.ErrorContains(t, damage.Of(bad), "UUID")
		require.Equal(t, sessions[1], got[1])
		repair := set(t, s, store.HostKey(bad, "vms:"))
		differences, err := s.Differences(ctx, []store.HostVMs{sums(bad, vms[0]), sums(good)})
		require.NoError(t, err)
		require.ErrorContains(t, differences[0].Err, "WRONGTYPE")
		require.Equal(t, store.Difference{Missing: []uuid.UUID{vms[1].UUID}}, differences[1])
		repair()
		repair = set(t, s, store.HostKey(bad, "on:"))
		all, gone, err := s.Placements(ctx, func(instrumentation.ID, uuid.UUID) bool { return true }, two...)
		require.NoError(t, err)
		require.Equal(t, []int{1, 1}, []int{all, gone})
		repair()
		require.NoError(t, s.Client().HSet(ctx, store.ShardKey(bad, "digests"), bad.String(), "none").Err())
		digests, err := s.Digests(ctx)
		require.NoError(t, err)
		require.Equal(t, map[uuid.UUID]store.HostDigest{bad: {VMs: 1}, good: {Digest: store.VMDigest(vms[1]), VMs: 1}}, digests)

		other := uid(2001)
		require.NotEqual(t, store.ShardKey(other, ""), store.ShardKey(bad, ""))
		set(t, s, store.ShardKey(bad, "wanted"))
		read, err := s.FactsOf(ctx, bad, other, good)
		require.NoError(t, err)
		require.Error(t, read[0].Err)
		require.NoError(t, read[1].Err)
		require.Error(t, read[2].Err)
	})
}

// What is damaged is not written bit by bit, for then its host would seem to have nothing else; a reading of the whole replaces it.
func TestADamagedHostIsWrittenWholeOrNotAtAll(t *testing.T) {
	damages := map[string]func(*testing.T, *store.Store, uuid.UUID, inventory.VM){
		"no hash": func(t *testing.T, s *store.Store, host uuid.UUID, _ inventory.VM) {
			set(t, s, store.HostKey(host, "vms:"))
		},
		"no hash of the host": func(t *testing.T, s *store.Store, host uuid.UUID, _ inventory.VM) {
			set(t, s, store.HostKey(host, "fact:"))
		},
		"an entry": func(t *testing.T, s *store.Store, host uuid.UUID, vm inventory.VM) {
			require.NoError(t, s.Client().HSet(t.Context(), store.HostKey(host, "vms:"), vm.UUID.String(), "none").Err())
		},
		"the digest": func(t *testing.T, s *store.Store, host uuid.UUID, vm inventory.VM) {
			require.NoError(t, s.Client().HSet(t.Context(), store.ShardKey(host, "digests"), host.String(), "none").Err())
		},
	}
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		n := 0
		for name, damage := range damages {
			ctx := t.Context()
			n += 10
			bad, good := uid(1000+n), uid(1001+n)
			stays, comes, goes := newVM(n, bad), newVM(n+1, good), newVM(n+2, bad)
			_, err := s.PutVMs(ctx, at(1), []inventory.VM{stays, comes, goes})
			require.NoError(t, err)
			damage(t, s, bad, stays)
			stays.Alias, comes.Host, goes.Host = "renamed", bad, good
			_, err = s.PutVMs(ctx, at(2), []inventory.VM{stays, comes, goes})
			var told store.Damage
			require.ErrorAs(t, err, &told, name)
			require.Len(t, told, 1, name)
			require.Contains(t, told, bad, name)
			require.Equal(t, []inventory.VM{goes}, facts(t, s, good).VMs, name)

			changed, err := s.ReplaceHostVMs(ctx, at(3), bad, []inventory.VM{stays, comes})
			require.NoError(t, err, name)
			require.True(t, changed, name)
			require.ElementsMatch(t, []inventory.VM{stays, comes}, facts(t, s, bad).VMs, name)
			digests, err := s.Digests(ctx)
			require.NoError(t, err)
			require.Equal(t, store.HostDigest{Digest: store.VMDigest(stays) + store.VMDigest(comes), VMs: 2}, digests[bad], name)
			waiting, err := s.Waiting(ctx, marked(t, s, bad), bad)
			require.NoError(t, err)
			require.Equal(t, []uuid.UUID{bad}, waiting, "it is to be reconciled")
			goes.Host = bad // and no note of the move that was cut short is in the way of the next
			_, err = s.PutVMs(ctx, at(4), []inventory.VM{goes})
			require.NoError(t, err, name)
			require.Empty(t, facts(t, s, good).VMs, name)
		}
	})
}

func marked(t testing.TB, s *store.Store, hosts ...uuid.UUID) store.Marked {
	t.Helper()
	by, err := s.Marked(t.Context(), hosts...)
	require.NoError(t, err)
	return by
}

func TestHostsAreTakenOverAndLeaveWhateverWasKeptOfThem(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		two := together(t, 2)
		set(t, s, store.HostKey(two[0], "fact:"))
		hosts := []inventory.Host{{UUID: two[0], Name: "a"}, {UUID: two[1], Name: "b"}}
		changed, err := s.PutHosts(ctx, at(1), hosts)
		require.NoError(t, err)
		require.Equal(t, two, changed)
		require.Equal(t, hosts[0], facts(t, s, two[0]).Host)
		set(t, s, store.HostKey(two[1], "vms:"))
		require.NoError(t, s.RemoveHost(ctx, at(2), two[1]))
		require.False(t, facts(t, s, two[1]).Known)
	})
}

func TestAHostInDoubtDiffersUntilItIsWrittenWhole(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		vms := []inventory.VM{newVM(1, uid(1000)), newVM(2, uid(1000))}
		_, err := s.PutVMs(ctx, at(1), vms)
		require.NoError(t, err)
		require.NoError(t, s.Doubt(ctx, uid(1000), uid(1001)))
		digests, err := s.Digests(ctx)
		require.NoError(t, err)
		require.Equal(t, map[uuid.UUID]store.HostDigest{uid(1000): {VMs: 2}, uid(1001): {VMs: 1}}, digests)
		for _, h := range []uuid.UUID{uid(1000), uid(1001)} {
			var is []inventory.VM
			if h == uid(1000) {
				is = vms
			}
			changed, err := s.ReplaceHostVMs(ctx, at(2), h, is)
			require.NoError(t, err)
			require.False(t, changed, "it is what was known")
		}
		digests, err = s.Digests(ctx)
		require.NoError(t, err)
		require.Equal(t, map[uuid.UUID]store.HostDigest{uid(1000): {Digest: store.VMDigest(vms[0]) + store.VMDigest(vms[1]), VMs: 2}}, digests)
	})
}
