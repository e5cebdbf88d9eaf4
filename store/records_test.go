package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/measure"
	"iapi/store"
	"iapi/store/storetest"
)

// serial makes ids that sort by creation.
var serial atomic.Int64

func newID() instrumentation.ID {
	return instrumentation.ID(fmt.Sprintf("00000000-0000-7000-8000-%012x", serial.Add(1)))
}

func uid(n int) uuid.UUID { return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "%d", n)) }

var created = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func newRecord(owner uuid.UUID, name string) instrumentation.Instrumentation {
	return instrumentation.Instrumentation{
		ID: newID(), Revision: 1, Name: name, Owner: owner, Metric: "cpu.thread_executions", Granularity: 1,
		Predicate: measure.Predicate{Op: measure.Eq, Field: "execname", Value: measure.String("mysqld")},
		Scope:     instrumentation.Scope{All: true}, CreatedBy: "operator:alice", CreatedAt: created, UpdatedAt: created,
		State: instrumentation.Created,
	}
}

func change(r instrumentation.Instrumentation, expect int) instrumentation.Change {
	return instrumentation.Change{Record: r, Expect: expect, Audit: instrumentation.Audit{
		At: created, Caller: "operator:alice", Kind: "operator", Owner: r.Owner, Action: "create", Subject: string(r.ID), Result: "ok",
	}}
}

func commit(t testing.TB, s *store.Store, r instrumentation.Instrumentation) instrumentation.Instrumentation {
	t.Helper()
	got, err := s.Commit(t.Context(), change(r, 0))
	require.NoError(t, err)
	return got
}

func get(t testing.TB, s *store.Store, id instrumentation.ID) *instrumentation.Instrumentation {
	t.Helper()
	found, err := s.Get(t.Context(), id)
	require.NoError(t, err)
	return found[0]
}

func TestCommitKeepsTheWholeRecord(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		r := newRecord(uid(1), "Ünï \x01 \"name\"")
		r.Targets = []measure.Target{{Kind: measure.Statsd, Address: "h:1", Headers: map[string]string{"a": "b"}}}
		r.Tags = []instrumentation.Tag{{Key: "k=", Value: "=v"}, {Key: "k", Value: ""}}
		commit(t, s, r)
		require.Equal(t, &r, get(t, s, r.ID))
		found, err := s.Get(t.Context(), "none", r.ID)
		require.NoError(t, err)
		require.Nil(t, found[0])
		require.NotNil(t, found[1])
	})
}

func TestCommitHoldsOnlyForTheExpectedRevision(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		r := commit(t, s, newRecord(uid(1), "a"))
		other := r
		other.Name = "other"
		_, err := s.Commit(t.Context(), change(other, 0))
		require.ErrorIs(t, err, instrumentation.ErrRevision)
		r.Revision, r.Name = 2, "b"
		_, err = s.Commit(t.Context(), change(r, 1))
		require.NoError(t, err)
		r.Revision, r.Name = 2, "late"
		_, err = s.Commit(t.Context(), change(r, 1))
		require.ErrorIs(t, err, instrumentation.ErrRevision)
		require.Equal(t, "b", get(t, s, r.ID).Name)
		_, err = s.Commit(t.Context(), change(newRecord(uid(1), "x"), 3))
		require.ErrorIs(t, err, instrumentation.ErrNotFound)
	})
}

func TestUpdatesOfOneRecordNeverLoseEachOther(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		r := commit(t, s, newRecord(uid(1), "0"))
		var writers sync.WaitGroup
		for range 8 {
			writers.Go(func() {
				for done := 0; done < 10; {
					now := *get(t, s, r.ID)
					next := now
					next.Revision++
					next.Name = fmt.Sprint(next.Revision - 1)
					_, err := s.Commit(t.Context(), change(next, now.Revision))
					if err == nil {
						done++
					} else if !errors.Is(err, instrumentation.ErrRevision) {
						t.Error(err)
						return
					}
				}
			})
		}
		writers.Wait()
		last := get(t, s, r.ID)
		require.Equal(t, 81, last.Revision)
		require.Equal(t, "80", last.Name)
	})
}

func TestIdempotencyKeyGivesTheFirstRecord(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		var mu sync.Mutex
		given := map[instrumentation.ID]bool{}
		var callers sync.WaitGroup
		for range 8 {
			callers.Go(func() {
				c := change(newRecord(uid(1), "a"), 0)
				c.IdempotencyKey, c.InputDigest = "key", "digest"
				got, err := s.Commit(t.Context(), c)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				given[got.ID] = true
				mu.Unlock()
			})
		}
		callers.Wait()
		require.Len(t, given, 1)
		n, err := s.Count(t.Context(), instrumentation.Filter{})
		require.NoError(t, err)
		require.Equal(t, 1, n)

		c := change(newRecord(uid(1), "a"), 0)
		c.IdempotencyKey, c.InputDigest = "key", "another"
		_, err = s.Commit(t.Context(), c)
		require.ErrorIs(t, err, instrumentation.ErrIdempotency)
		c.Audit.Caller = "operator:bob" // the key is bound to the caller
		_, err = s.Commit(t.Context(), c)
		require.NoError(t, err)
		c = change(newRecord(uid(2), "a"), 0) // and to the owner
		c.IdempotencyKey, c.InputDigest = "key", "another"
		_, err = s.Commit(t.Context(), c)
		require.NoError(t, err)
	})
}

func TestQuotaHoldsUnderRaces(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		var ok atomic.Int64
		var callers sync.WaitGroup
		for range 12 {
			callers.Go(func() {
				c := change(newRecord(uid(1), "a"), 0)
				c.Record.Tracing = true
				c.MaxLive, c.MaxTracing = 10, 5
				switch _, err := s.Commit(t.Context(), c); {
				case err == nil:
					ok.Add(1)
				case !errors.Is(err, instrumentation.ErrQuota):
					t.Error(err)
				}
			})
		}
		callers.Wait()
		require.EqualValues(t, 5, ok.Load())
		u, err := s.Usage(t.Context(), uid(1))
		require.NoError(t, err)
		require.Equal(t, instrumentation.Usage{Live: 5, Tracing: 5}, u)

		// What is deleted or has expired is given back.
		found, _, _, err := s.Search(t.Context(), instrumentation.Filter{}, instrumentation.Page{First: 2})
		require.NoError(t, err)
		r := found[0]
		r.Revision, r.DeletedAt, r.State = 2, created, instrumentation.Deleting
		_, err = s.Commit(t.Context(), change(r, 1))
		require.NoError(t, err)
		require.NoError(t, s.SetState(t.Context(), found[1].ID, 1, instrumentation.Expired, time.Time{}))
		u, err = s.Usage(t.Context(), uid(1))
		require.NoError(t, err)
		require.Equal(t, instrumentation.Usage{Live: 3, Tracing: 3}, u)
		require.NoError(t, s.Remove(t.Context(), r.ID))
		require.NoError(t, s.Remove(t.Context(), r.ID))
		u, err = s.Usage(t.Context(), uid(1))
		require.NoError(t, err)
		require.Equal(t, instrumentation.Usage{Live: 3, Tracing: 3}, u)
	})
}

func TestEvaluationMarksStayUntilTheirRevisionIsEvaluated(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		r := commit(t, s, newRecord(uid(1), "a"))
		waiting, err := s.Unevaluated(ctx, 0, 10)
		require.NoError(t, err)
		require.Equal(t, []store.Pending{{ID: r.ID, Revision: 1}}, waiting)
		waiting, err = s.Unevaluated(ctx, time.Hour, 10)
		require.NoError(t, err)
		require.Empty(t, waiting)

		r.Revision = 2
		_, err = s.Commit(ctx, change(r, 1))
		require.NoError(t, err)
		require.NoError(t, s.Evaluated(ctx, r.ID, 1, time.Time{})) // late
		waiting, err = s.Unevaluated(ctx, 0, 10)
		require.NoError(t, err)
		require.Equal(t, []store.Pending{{ID: r.ID, Revision: 2}}, waiting)
		require.NoError(t, s.Evaluated(ctx, r.ID, 2, created))
		waiting, err = s.Unevaluated(ctx, 0, 10)
		require.NoError(t, err)
		require.Empty(t, waiting)
		require.Equal(t, 2, get(t, s, r.ID).Evaluated)
		require.Equal(t, created, get(t, s, r.ID).StaleFrom)
		require.NoError(t, s.Evaluated(ctx, "none", 1, time.Time{}))
	})
}

func TestStateMovesTheIndexAndWakesWatchers(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		r := commit(t, s, newRecord(uid(1), "a"))
		_, pos, gap, err := s.Log(ctx, "")
		require.NoError(t, err)
		require.True(t, gap)
		require.NoError(t, s.SetState(ctx, r.ID, 1, instrumentation.Enabled, created))
		require.NoError(t, s.SetState(ctx, r.ID, 1, instrumentation.Enabled, created)) // no change, no entry
		require.ErrorIs(t, s.SetState(ctx, r.ID, 2, instrumentation.Enabled, created), instrumentation.ErrRevision)
		require.ErrorIs(t, s.SetState(ctx, "none", 1, instrumentation.Enabled, created), instrumentation.ErrNotFound)
		ids, _, gap, err := s.Log(ctx, pos)
		require.NoError(t, err)
		require.False(t, gap)
		require.Equal(t, []instrumentation.ID{r.ID}, ids)
		ids, err = s.NextByState(ctx, instrumentation.Enabled, "", 5)
		require.NoError(t, err)
		require.Equal(t, []instrumentation.ID{r.ID}, ids)
		ids, err = s.NextByState(ctx, instrumentation.Enabled, r.ID, 5)
		require.NoError(t, err)
		require.Empty(t, ids)
		ids, err = s.NextByState(ctx, instrumentation.Created, "", 5)
		require.NoError(t, err)
		require.Empty(t, ids)
		require.Equal(t, created, get(t, s, r.ID).EnabledAt)
	})
}

func TestExpiringTellsWhatHasNotExpiredYet(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		soon, late := newRecord(uid(1), "soon"), newRecord(uid(1), "late")
		soon.ExpiresAt, late.ExpiresAt = created.Add(time.Minute), created.Add(time.Hour)
		commit(t, s, soon)
		commit(t, s, late)
		commit(t, s, newRecord(uid(1), "never"))
		ids, err := s.Expiring(ctx, created.Add(2*time.Minute), 10)
		require.NoError(t, err)
		require.Equal(t, []instrumentation.ID{soon.ID}, ids)
		require.NoError(t, s.SetState(ctx, soon.ID, 1, instrumentation.Expired, time.Time{}))
		ids, err = s.Expiring(ctx, created.Add(2*time.Hour), 10)
		require.NoError(t, err)
		require.Equal(t, []instrumentation.ID{late.ID}, ids)
		late.Revision, late.ExpiresAt = 2, created.Add(24*time.Hour) // an extension
		_, err = s.Commit(ctx, change(late, 1))
		require.NoError(t, err)
		ids, err = s.Expiring(ctx, created.Add(2*time.Hour), 10)
		require.NoError(t, err)
		require.Empty(t, ids)
	})
}

func TestAllLiveAndTheLogTogetherMissNothing(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		paused := newRecord(uid(1), "paused")
		paused.PausedAt = created
		commit(t, s, paused)
		want := map[instrumentation.ID]bool{}
		for range 20 {
			want[commit(t, s, newRecord(uid(1), "a")).ID] = true
		}
		got := map[instrumentation.ID]bool{}
		var during instrumentation.ID
		pos, err := s.AllLive(ctx, func(rs []instrumentation.Instrumentation) error {
			if during == "" {
				during = commit(t, s, newRecord(uid(1), "during")).ID
			}
			for _, r := range rs {
				got[r.ID] = true
			}
			return nil
		})
		require.NoError(t, err)
		ids, next, gap, err := s.Log(ctx, pos)
		require.NoError(t, err)
		require.False(t, gap)
		require.Equal(t, []instrumentation.ID{during}, ids)
		delete(got, during)
		require.Equal(t, want, got)
		ids, again, gap, err := s.Log(ctx, next)
		require.NoError(t, err)
		require.False(t, gap)
		require.Empty(t, ids)
		require.Equal(t, next, again)
	})
}

func TestLogTellsOfEntriesThatAreGone(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		var at []string // the positions after each commit
		for range 5 {
			commit(t, s, newRecord(uid(1), "a"))
			_, pos, _, err := s.Log(ctx, "")
			require.NoError(t, err)
			at = append(at, pos)
		}
		require.NoError(t, s.Client().XTrimMaxLen(ctx, "iapi:{i}:log", 3).Err())
		_, pos, gap, err := s.Log(ctx, at[0])
		require.NoError(t, err)
		require.True(t, gap)
		require.Equal(t, at[4], pos)
		ids, _, gap, err := s.Log(ctx, at[2])
		require.NoError(t, err)
		require.False(t, gap)
		require.Len(t, ids, 2)
		for _, bad := range []string{"x", "-1", "x:y", ":"} {
			_, _, _, err = s.Log(ctx, bad)
			require.Error(t, err, bad)
		}
	})
}

// A store that has lost its last writes gives out their numbers again. A reader that took them for what it knows already would
// keep what is lost, and miss what has come instead.
func TestLogTellsThatTheStoreWentBack(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		log := func() (count int64) {
			n, err := s.Client().XLen(ctx, "iapi:{i}:log").Result()
			require.NoError(t, err)
			return n
		}
		commit(t, s, newRecord(uid(1), "kept"))
		before := log()
		commit(t, s, newRecord(uid(1), "lost"))
		_, known, _, err := s.Log(ctx, "")
		require.NoError(t, err)

		last, err := s.Client().XRevRangeN(ctx, "iapi:{i}:log", "+", "-", 1).Result()
		require.NoError(t, err)
		require.NoError(t, s.Client().Del(ctx, "iapi:{i}:log").Err()) // a stream takes no smaller id than it had
		require.NoError(t, s.Client().Set(ctx, "iapi:{i}:logseq", before, 0).Err())
		_, pos, gap, err := s.Log(ctx, known)
		require.NoError(t, err)
		require.True(t, gap, "the log ends before what is known")
		require.Equal(t, "0", pos)

		for range 3 {
			commit(t, s, newRecord(uid(1), "instead"))
			_, end, _, err := s.Log(ctx, "")
			require.NoError(t, err)
			_, pos, gap, err := s.Log(ctx, known)
			require.NoError(t, err)
			require.True(t, gap, "the log has the number %s, and another entry", last[0].ID)
			require.Equal(t, end, pos)
			ids, again, gap, err := s.Log(ctx, end)
			require.NoError(t, err)
			require.False(t, gap)
			require.Empty(t, ids)
			require.Equal(t, end, again)
		}
	})
}

func TestJudgeMarksAreTakenOnce(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		require.NoError(t, s.MarkJudge(ctx, "a", "b", "a"))
		got, err := s.ClaimJudge(ctx, 1)
		require.NoError(t, err)
		require.Len(t, got, 1)
		more, err := s.ClaimJudge(ctx, 10)
		require.NoError(t, err)
		require.ElementsMatch(t, []instrumentation.ID{"a", "b"}, append(got, more...))
		none, err := s.ClaimJudge(ctx, 10)
		require.NoError(t, err)
		require.Empty(t, none)
	})
}

func TestAnUnreachableServerIsNotReady(t *testing.T) {
	server := storetest.Start(t)
	s, err := store.Open(t.Context(), store.Options{URL: server.URL(), Timeout: 2 * time.Second})
	require.NoError(t, err)
	defer s.Close()
	r := commit(t, s, newRecord(uid(1), "a"))
	server.Kill()
	ctx := context.WithoutCancel(t.Context())
	require.ErrorIs(t, s.Ready(ctx), instrumentation.ErrNotReady)
	_, err = s.Get(ctx, r.ID)
	require.ErrorIs(t, err, instrumentation.ErrNotReady)
	_, err = s.Commit(ctx, change(newRecord(uid(1), "b"), 0))
	require.ErrorIs(t, err, instrumentation.ErrNotReady)
	_, _, _, err = s.Search(ctx, instrumentation.Filter{}, instrumentation.Page{First: 1})
	require.ErrorIs(t, err, instrumentation.ErrNotReady)
	_, err = s.Coverage(ctx, r.ID)
	require.ErrorIs(t, err, instrumentation.ErrNotReady)
	_, err = s.Facts(ctx, uid(1))
	require.ErrorIs(t, err, instrumentation.ErrNotReady)
	server.Run()
	require.Eventually(t, func() bool { return s.Ready(ctx) == nil }, time.Minute, 10*time.Millisecond)
	require.NotNil(t, get(t, s, r.ID))
}

func TestMutationsWaitForAReplica(t *testing.T) {
	primary := storetest.Start(t, "--repl-diskless-sync-delay", "0")
	host, port := "127.0.0.1", primary.Addr[len("127.0.0.1:"):]
	replica := storetest.Start(t, "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0")
	ctx := t.Context()
	watch := redis.NewClient(&redis.Options{Addr: primary.Addr})
	defer watch.Close()
	require.Eventually(t, func() bool {
		info, err := watch.Info(ctx, "replication").Result()
		return err == nil && contains(info, "state=online")
	}, time.Minute, 50*time.Millisecond)
	s, err := store.Open(ctx, store.Options{URL: primary.URL()})
	require.NoError(t, err)
	defer s.Close()
	commit(t, s, newRecord(uid(1), "b"))
	replica.Kill()
	_, err = s.Commit(ctx, change(newRecord(uid(1), "c"), 0))
	require.ErrorIs(t, err, instrumentation.ErrNotDurable)
}
