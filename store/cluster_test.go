package store_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/store"
	"iapi/store/storetest"
)

// openCluster opens a store on a Cluster. One node that has all slots refuses whatever spans two of them, as several would.
func openCluster(t *testing.T) *store.Store {
	t.Helper()
	server := storetest.Start(t, "--cluster-enabled", "yes")
	c := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer c.Close()
	require.NoError(t, c.ClusterAddSlotsRange(t.Context(), 0, 16383).Err())
	eventually(t, func() bool {
		info, err := c.ClusterInfo(t.Context()).Result()
		return err == nil && contains(info, "cluster_state:ok")
	})
	s, err := store.Open(t.Context(), store.Options{URL: server.URL() + "," + server.Addr, Timeout: time.Minute})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func TestNothingSpansTheSlotsOfACluster(t *testing.T) {
	ctx := t.Context()
	s := openCluster(t)
	w := watchBy(t, s, 16)
	r := newRecord(uid(1), "in a cluster")
	r.Tags = []instrumentation.Tag{{Key: "k", Value: "{v}"}}
	commit(t, s, r)
	found, _, _, err := s.Search(ctx, instrumentation.Filter{Text: "cluster", Tags: r.Tags}, instrumentation.Page{First: 5})
	require.NoError(t, err)
	require.Len(t, found, 1)

	var vms []inventory.VM
	for i := range 40 {
		vms = append(vms, newVM(i, uid(1000+i%20)))
	}
	changed, err := s.PutVMs(ctx, at(1), vms)
	require.NoError(t, err)
	require.Len(t, changed, 20)
	for i := range vms {
		vms[i].Host = uid(1000 + (i+1)%20) // all move
	}
	_, err = s.PutVMs(ctx, at(2), vms)
	require.NoError(t, err)
	require.NoError(t, s.AwaitWork(ctx, "w", store.HostWork, time.Minute))
	claims := claim(t, s, 100, time.Minute)
	require.Len(t, claims, 20)
	for _, c := range claims {
		f := facts(t, s, c.Host)
		require.Len(t, f.VMs, 2)
		b, hash, counts := body(item(string(r.ID), 1, f.VMs[0].UUID, f.VMs[1].UUID))
		v, committed, err := s.CommitDocument(ctx, c, f, b, hash, counts)
		require.NoError(t, err)
		require.True(t, committed)
		report(t, s, c.Host, 1, v, status(r.ID, 1, running))
	}
	require.Equal(t, instrumentation.Coverage{Expected: 40, Running: 40}, coverage(t, s, r.ID))
	eventually(t, func() bool { changes, _ := w.state(); return len(changes) == 20 })
	places, err := s.VMs(ctx, instrumentation.Page{First: 100}, r.ID)
	require.NoError(t, err)
	require.Len(t, places[0].Items, 40)
	require.Equal(t, [][]instrumentation.Problem{{}}, problemsOf(t, s, r.ID))
	_, err = s.Backlog(ctx)
	require.NoError(t, err)
	_, err = s.PutGuard(ctx, instrumentation.Guard{ID: "g"})
	require.NoError(t, err)
	judge, err := s.ClaimJudge(ctx, 5)
	require.NoError(t, err)
	require.Equal(t, []instrumentation.ID{r.ID}, judge)
	require.NoError(t, s.Remove(ctx, r.ID))
	left, err := s.PlacedHosts(ctx, r.ID)
	require.NoError(t, err)
	require.Empty(t, left)
}
