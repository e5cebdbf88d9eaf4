package store_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
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

// A master that does not answer holds up nobody whose host another one has.
func TestAMasterThatDoesNotAnswerHoldsUpItsOwnHostsOnly(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	servers := []*storetest.Server{storetest.Start(t, "--cluster-enabled", "yes"), storetest.Start(t, "--cluster-enabled", "yes")}
	var nodes []*redis.Client
	for i, server := range servers {
		node := redis.NewClient(&redis.Options{Addr: server.Addr})
		defer node.Close()
		nodes = append(nodes, node)
		require.NoError(t, node.ClusterAddSlotsRange(ctx, i*8192, i*8192+8191).Err())
	}
	address := strings.Split(servers[1].Addr, ":")
	require.NoError(t, nodes[0].ClusterMeet(ctx, address[0], address[1]).Err())
	eventually(t, func() bool {
		for _, node := range nodes {
			info, err := node.ClusterInfo(ctx).Result()
			if err != nil || !contains(info, "cluster_state:ok") || !contains(info, "cluster_size:2") {
				return false
			}
		}
		return true
	})
	s, err := store.Open(ctx, store.Options{URL: servers[0].URL() + "," + servers[1].Addr, Timeout: 3 * time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	of := make([]uuid.UUID, 2) // a host of each
	for i := 0; of[0] == uuid.Nil || of[1] == uuid.Nil; i++ {
		slot, err := nodes[0].ClusterKeySlot(ctx, store.HostKey(uid(i), "fact:")).Result()
		require.NoError(t, err)
		of[slot/8192] = uid(i)
	}
	record, err := nodes[0].ClusterKeySlot(ctx, "iapi:{i}:").Result()
	require.NoError(t, err)
	well, ill := of[record/8192], of[1-record/8192]
	eventually(t, func() bool { // both are known to the client
		missed, err := s.Touch(ctx, well, ill)
		return err == nil && len(missed) == 0
	})
	begin(t, s, well, uid(7))
	begin(t, s, ill, uid(8))

	paused := nodes[1-record/8192]
	require.NoError(t, paused.ClientPause(ctx, time.Minute).Err())
	var waiting sync.WaitGroup
	var missed []uuid.UUID
	var results []store.ReportResult
	var touching, reporting, beginning error
	waiting.Go(func() { missed, touching = s.Touch(ctx, well, ill) })
	waiting.Go(func() {
		results, reporting = s.ReportBatch(ctx, []store.Report{{Host: ill, Session: uid(8)}, {Host: well, Session: uid(7)}})
	})
	waiting.Go(func() { _, beginning = s.BeginSession(ctx, ill, uid(9), 0) })
	ended := make(chan struct{})
	go func() { waiting.Wait(); close(ended) }()
	for number, over := int64(0), false; !over; { // many, one after the other, while those wait
		select {
		case <-ended:
			require.Positive(t, number, "none has begun meanwhile")
			over = true
		case <-time.After(20 * time.Millisecond):
			number = begin(t, s, well, uid(7))
		}
	}
	require.ErrorIs(t, touching, instrumentation.ErrNotReady)
	require.Equal(t, []uuid.UUID{ill}, missed)
	require.NoError(t, reporting)
	require.ErrorIs(t, results[0].Err, instrumentation.ErrNotReady)
	require.True(t, results[1].Accepted)
	require.ErrorIs(t, beginning, instrumentation.ErrNotReady)
}
