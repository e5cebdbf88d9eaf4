package store_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/store"
	"iapi/store/storetest"
)

func hosts(n int) []uuid.UUID {
	out := make([]uuid.UUID, n)
	for i := range out {
		out[i] = uid(1000 + i)
	}
	return out
}

func claim(t testing.TB, s *store.Store, n int, lease time.Duration) []store.Claim {
	t.Helper()
	got, err := s.ClaimHosts(t.Context(), "worker", n, lease)
	require.NoError(t, err)
	return got
}

func TestUrgentHostsAreClaimedFirstAndThenTheOldest(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		h := hosts(4)
		for i := range 3 {
			require.NoError(t, s.MarkHosts(ctx, false, h[i]))
			time.Sleep(2 * time.Millisecond) // the store's clock decides the order
		}
		require.NoError(t, s.MarkHosts(ctx, false, h[0])) // a second mark does not send it back
		require.NoError(t, s.MarkHosts(ctx, true, h[3], h[2]))
		got := claim(t, s, 10, time.Minute)
		require.Len(t, got, 4)
		require.ElementsMatch(t, []uuid.UUID{h[2], h[3]}, []uuid.UUID{got[0].Host, got[1].Host})
		require.Equal(t, []uuid.UUID{h[0], h[1]}, []uuid.UUID{got[2].Host, got[3].Host})
		require.Empty(t, claim(t, s, 10, time.Minute))
		b, err := s.Backlog(ctx)
		require.NoError(t, err)
		require.Equal(t, 4, b.DirtyHosts)
	})
}

func TestEachHostHasOneClaimAtATime(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		h := hosts(60)
		require.NoError(t, s.MarkHosts(t.Context(), false, h...))
		var mu sync.Mutex
		got := map[uuid.UUID]int{}
		var workers sync.WaitGroup
		for range 8 {
			workers.Go(func() {
				for {
					claims, err := s.ClaimHosts(t.Context(), "w", 5, time.Minute)
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					for _, c := range claims {
						got[c.Host]++
					}
					all := len(got) == len(h)
					mu.Unlock()
					if all || err != nil {
						return
					}
				}
			})
		}
		workers.Wait()
		for _, host := range h {
			require.Equal(t, 1, got[host])
		}
	})
}

func TestLapsedLeasesAreTakenOverAndLateWorkersAreFenced(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		host := uid(1000)
		require.NoError(t, s.MarkHosts(ctx, false, host))
		late := claim(t, s, 1, 20*time.Millisecond)[0]
		f := facts(t, s, host)
		var again []store.Claim
		require.Eventually(t, func() bool {
			got, err := s.ClaimHosts(ctx, "other", 1, time.Minute)
			again = got
			return err == nil && len(got) == 1
		}, time.Minute, 5*time.Millisecond)
		_, _, err := s.CommitDocument(ctx, late, f, []byte("[]"), "h", nil)
		require.ErrorIs(t, err, store.ErrClaimLost)
		require.ErrorIs(t, s.ReleaseHost(ctx, late), store.ErrClaimLost)
		require.NoError(t, s.ReleaseHost(ctx, again[0]))
		require.Len(t, claim(t, s, 1, time.Minute), 1, "released hosts stay marked")
	})
}

func TestAWaitingWorkerIsWokenWhenAClaimLapses(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, s.MarkHosts(ctx, false, uid(1000)))
		require.Len(t, claim(t, s, 1, 300*time.Millisecond), 1) // by one that dies
		for got := []store.Claim(nil); len(got) == 0; {
			require.NoError(t, s.AwaitWork(ctx, "other", store.HostWork, time.Hour))
			var err error
			got, err = s.ClaimHosts(ctx, "other", 1, time.Minute)
			require.NoError(t, err)
		}
	})
}

func TestAMarkDuringAClaimIsNotLost(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		host := uid(1000)
		require.NoError(t, s.MarkHosts(ctx, false, host))
		c := claim(t, s, 1, time.Minute)[0]
		f := facts(t, s, host)
		require.NoError(t, s.MarkHosts(ctx, false, host))
		_, committed, err := s.CommitDocument(ctx, c, f, []byte("[]"), "h", nil)
		require.NoError(t, err)
		require.False(t, committed)
		v, committed, err := s.CommitDocument(ctx, c, facts(t, s, host), []byte("[]"), "h", nil)
		require.NoError(t, err)
		require.True(t, committed)
		require.EqualValues(t, 1, v.Generation)
		b, err := s.Backlog(ctx)
		require.NoError(t, err)
		require.Zero(t, b.DirtyHosts)

		vm := uid(1)
		require.NoError(t, s.MarkVMs(ctx, vm))
		first, err := s.ClaimVMs(ctx, "w", 5, time.Minute)
		require.NoError(t, err)
		require.Len(t, first, 1)
		require.NoError(t, s.MarkVMs(ctx, vm))
		require.NoError(t, s.DoneVM(ctx, first[0]))
		second, err := s.ClaimVMs(ctx, "w", 5, time.Minute)
		require.NoError(t, err)
		require.Len(t, second, 1)
		require.ErrorIs(t, s.DoneVM(ctx, first[0]), store.ErrClaimLost)
		require.NoError(t, s.DoneVM(ctx, second[0]))
		b, err = s.Backlog(ctx)
		require.NoError(t, err)
		require.Zero(t, b.DirtyVMs)
	})
}

func TestHostsWaitUntilTheyAreReconciledClaimedOrNot(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		a, b, c := uid(1000), uid(1001), uid(1002)
		require.NoError(t, s.MarkHosts(ctx, false, a))
		require.NoError(t, s.MarkHosts(ctx, true, b))
		now, err := s.Marked(ctx, a, b, c)
		require.NoError(t, err)
		earlier := func(by time.Duration) store.Marked {
			then := now
			for i, at := range now {
				then[i] = at.Add(-by)
			}
			return then
		}
		waiting := func(by store.Marked) []uuid.UUID {
			ids, err := s.Waiting(ctx, by, a, b, c)
			require.NoError(t, err)
			return ids
		}
		require.ElementsMatch(t, []uuid.UUID{a, b}, waiting(now))
		require.Empty(t, waiting(earlier(time.Minute)), "they were marked later")
		claims := claim(t, s, 10, time.Minute)
		require.ElementsMatch(t, []uuid.UUID{a, b}, waiting(now), "claimed is not reconciled")
		for _, c := range claims {
			f := facts(t, s, c.Host)
			text, hash, counts := body()
			_, done, err := s.CommitDocument(ctx, c, f, text, hash, counts)
			require.NoError(t, err)
			require.True(t, done)
		}
		require.Empty(t, waiting(now))
		require.NoError(t, s.MarkHosts(ctx, false, a))
		require.Empty(t, waiting(earlier(time.Millisecond)), "that mark is another one")
	})
}

func TestAMarkWakesAWaitingWorker(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		judged := 0 // what is marked already wakes nobody
		marks := map[store.Work]func() error{
			store.HostWork:  func() error { return s.MarkHosts(ctx, false, uid(1000)) },
			store.VMWork:    func() error { return s.MarkVMs(ctx, uid(1)) },
			store.JudgeWork: func() error { judged++; return s.MarkJudge(ctx, instrumentation.ID(fmt.Sprint(judged))) },
			store.TaskWork: func() error {
				_, err := s.Client().Pipelined(ctx, func(p redis.Pipeliner) error { s.WakeForTasks(ctx, p); return nil })
				return err
			},
		}
		settle := func(kind store.Work) {
			for range 20 { // until nothing is left that has not been noticed
				began := time.Now()
				require.NoError(t, s.AwaitWork(ctx, "w", kind, 100*time.Millisecond))
				if time.Since(began) >= 100*time.Millisecond {
					return
				}
			}
		}
		for kind, mark := range marks {
			require.NoError(t, s.AwaitWork(ctx, "w", kind, time.Minute)) // the first call looks at once
			woken := make(chan error, 1)
			for tries := 1; ; tries++ { // what is woken late by what was marked before is not woken again
				settle(kind)
				go func() { woken <- s.AwaitWork(ctx, "w", kind, 10*time.Minute) }()
				for other, mark := range marks {
					if other != kind {
						require.NoError(t, mark())
					}
				}
				select {
				case <-woken:
					require.Less(t, tries, 5, "work of another kind wakes for %q", kind)
					continue
				case <-time.After(100 * time.Millisecond):
				}
				break
			}
			require.NoError(t, mark())
			select {
			case err := <-woken:
				require.NoError(t, err)
			case <-time.After(time.Minute):
				t.Fatalf("the worker was not woken for %q", kind)
			}
		}
	})
}
