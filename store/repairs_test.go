package store_test

import (
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/store"
	"iapi/store/storetest"
)

// together returns some hosts of one shard, so that one run of a script has them all.
func together(t *testing.T, n int) []uuid.UUID {
	t.Helper()
	var out []uuid.UUID
	for _, h := range hosts(500) {
		if store.ShardKey(h, "") == store.ShardKey(uid(1000), "") {
			out = append(out, h)
		}
	}
	require.GreaterOrEqual(t, len(out), n)
	return out[:n]
}

// set breaks a key, and returns what repairs it.
func set(t *testing.T, s *store.Store, key string) (repair func()) {
	t.Helper()
	ctx, kept := t.Context(), key+".kept"
	had, err := s.Client().Exists(ctx, key).Result()
	require.NoError(t, err)
	if had == 1 {
		require.NoError(t, s.Client().Rename(ctx, key, kept).Err())
	}
	require.NoError(t, s.Client().Set(ctx, key, "not what it should be", 0).Err())
	return func() {
		require.NoError(t, s.Client().Del(ctx, key).Err())
		if had == 1 {
			require.NoError(t, s.Client().Rename(ctx, kept, key).Err())
		}
	}
}

// again commits drafts again, with the claims that they have.
func again(t *testing.T, s *store.Store, drafts []store.Draft) {
	t.Helper()
	for i := range drafts {
		drafts[i].Facts = facts(t, s, drafts[i].Claim.Host)
	}
	for _, r := range s.CommitDocuments(t.Context(), drafts) {
		require.NoError(t, r.Err)
		require.True(t, r.Done)
	}
}

// Whatever a commit stumbles over: what it has answered as an error is right when it is committed again.
func TestACommitThatFailedIsWholeWhenItIsRepeated(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		names := []string{"st:", "rm:", "", "fact:", "add:", "", "fact:", "on:"} // none of the third and the sixth
		all := together(t, len(names))
		check := func(batch []store.Draft, expected int) {
			t.Helper()
			var repairs []func()
			for i, name := range names {
				if name != "" {
					repairs = append(repairs, set(t, s, store.HostKey(all[i], name)))
				}
			}
			var failed []store.Draft
			for i, r := range s.CommitDocuments(ctx, batch) {
				if names[i] != "" {
					require.ErrorContains(t, r.Err, "WRONGTYPE", names[i])
					failed = append(failed, batch[i])
				} else {
					require.NoError(t, r.Err)
					require.True(t, r.Done)
				}
			}
			for _, repair := range repairs {
				repair()
			}
			again(t, s, failed)
			sum := coverage(t, s, "a")
			require.Equal(t, expected, sum.Expected)
			require.Equal(t, expected, sum.Running+sum.Pending+sum.Failed+sum.Offline)
			b, err := s.Backlog(ctx)
			require.NoError(t, err)
			require.Zero(t, b.DirtyHosts)
		}
		check(drafts(t, s, all, "a"), 1+2+3+1+2+3+1+2)
		for i, h := range all {
			begin(t, s, h, uid(i))
		}
		check(drafts(t, s, all), 0)
		waiting, err := s.Unacknowledged(ctx, "a")
		require.NoError(t, err)
		require.ElementsMatch(t, all, waiting)
	})
}

func TestSumsThatAreNotValidHoldUpThoseAloneWhoCountThere(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		w := watch(t, s)
		two := together(t, 2)
		tot := store.ShardKey(two[0], "tot")
		a, b := drafts(t, s, two[:1], "a"), drafts(t, s, two[1:], "b")
		require.NoError(t, s.Client().HSet(ctx, tot, "a:e", "many").Err())
		r := s.CommitDocuments(ctx, append(a, b...))
		require.ErrorContains(t, r[0].Err, "a:e is not a number")
		require.NoError(t, r[1].Err)
		require.Equal(t, 1, coverage(t, s, "b").Expected)
		_, err := s.Document(ctx, two[0])
		require.ErrorIs(t, err, store.ErrNoDocument)
		require.NoError(t, s.Client().HDel(ctx, tot, "a:e").Err())
		again(t, s, a)
		require.Equal(t, 1, coverage(t, s, "a").Expected)
		eventually(t, func() bool { changes, _ := w.state(); return len(changes) == 2 })
		changes, _ := w.state()
		require.Equal(t, []uuid.UUID{two[1], two[0]}, []uuid.UUID{changes[0].Host, changes[1].Host})
	})
}

// What follows the documents of all hosts of a run fails: they keep their claims, and nothing stands that nobody is told of.
func TestWhatCannotBeToldIsCommittedAgain(t *testing.T) {
	for _, name := range []string{"change", "seen", "leased"} {
		t.Run(name, func(t *testing.T) {
			storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
				ctx := t.Context()
				w := watch(t, s)
				two := together(t, 2)
				batch := drafts(t, s, two, "a")
				repair := set(t, s, store.ShardKey(two[0], name))
				for _, r := range s.CommitDocuments(ctx, batch) {
					require.ErrorContains(t, r.Err, "WRONGTYPE")
				}
				repair()
				again(t, s, batch)
				require.Equal(t, 3, coverage(t, s, "a").Expected)
				for _, h := range two {
					doc, err := s.Document(ctx, h)
					require.NoError(t, err)
					eventually(t, func() bool {
						changes, _ := w.state()
						for _, c := range changes {
							if c.Host == h && c.Version == doc.Version {
								return true
							}
						}
						return false
					})
				}
			})
		})
	}
}

// A report that has failed has changed nothing, so it is not too old when it comes again.
func TestAReportThatFailedCountsWhenItComesAgain(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		for i, name := range []string{"fact:", "st:", "add:", "on:", "rm:", "p:", "tot", "seen"} {
			id := instrumentation.ID(name + "i")
			host := uid(1000 + i)
			r := store.Report{
				Host: host, Session: uid(77), Sequence: 1, Applied: assign(t, s, host, item(string(id), 1, uid(1))),
				Instrumentations: []store.Status{status(id, 1, running)},
			}
			key := store.HostKey(host, name)
			if !strings.HasSuffix(name, ":") {
				key = store.ShardKey(host, name)
			} else if name == "p:" {
				key = store.ShardKey(host, name+string(id))
			}
			repair := set(t, s, key)
			_, err := s.Report(ctx, r)
			require.ErrorContains(t, err, "WRONGTYPE", name)
			repair()
			result, err := s.Report(ctx, r)
			require.NoError(t, err)
			require.Equal(t, store.ReportResult{Accepted: true, Judge: []instrumentation.ID{id}}, result, name)
			require.Equal(t, instrumentation.Coverage{Expected: 1, Running: 1}, coverage(t, s, id), name)
		}
	})
}

// Reports that are stored although another of the same run fails are judged: they would be too old if they came again.
func TestReportsAreJudgedWhenAnotherFails(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		two := together(t, 2)
		reports := make([]store.Report, len(two))
		for i, id := range []instrumentation.ID{"a", "b"} {
			reports[i] = store.Report{
				Host: two[i], Session: uid(77), Sequence: 1, Applied: assign(t, s, two[i], item(string(id), 1, uid(i))),
				Instrumentations: []store.Status{status(id, 1, running)},
			}
		}
		for {
			ids, err := s.ClaimJudge(ctx, 10) // of the commits
			require.NoError(t, err)
			if len(ids) == 0 {
				break
			}
		}
		set(t, s, store.HostKey(two[0], "rm:"))
		results, err := s.ReportBatch(ctx, reports)
		require.NoError(t, err)
		require.ErrorContains(t, results[0].Err, "WRONGTYPE")
		require.NoError(t, results[1].Err)
		require.Equal(t, instrumentation.Coverage{Expected: 1, Running: 1}, coverage(t, s, "b"))
		ids, err := s.ClaimJudge(ctx, 10)
		require.NoError(t, err)
		require.Equal(t, []instrumentation.ID{"b"}, ids)
	})
}

func TestSessionsThatBeginTogetherFareEachByItself(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		all := together(t, 3)
		sessions := []uuid.UUID{uid(1), uid(2), uid(3)}
		repair := set(t, s, store.HostKey(all[1], "fact:"))
		for i, err := range s.BeginSessions(ctx, all, sessions) {
			if i == 1 {
				require.ErrorContains(t, err, "WRONGTYPE")
			} else {
				require.NoError(t, err)
			}
		}
		repair()
		require.Equal(t, []uuid.UUID{uid(1), uuid.Nil, uid(3)}, agents(t, s, all...))
		begin(t, s, all[1], uid(2))
		require.Equal(t, sessions, agents(t, s, all...))
	})
}

// Entries of others, as of another version of us, have all that is served compared, and are told of once and not each.
func TestEntriesThatCannotBeReadAreLoggedOnce(t *testing.T) {
	for name, open := range map[string]func(testing.TB, store.Options) *store.Store{"embedded": storetest.Embedded, "redis": storetest.Real} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var logged atomic.Int64
			s := open(t, store.Options{Logger: slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
				if strings.Contains(string(b), "entries of the stream of documents are not valid") {
					logged.Add(1)
				}
				return len(b), nil
			}), nil))})
			ctx, host := t.Context(), uid(1000)
			w := watch(t, s)
			for gaps := 1; gaps < 4; gaps++ {
				n, err := s.Client().Incr(ctx, store.ShardKey(host, "changeseq")).Result()
				require.NoError(t, err)
				require.NoError(t, s.Client().XAdd(ctx, &redis.XAddArgs{
					Stream: store.ShardKey(host, "change"), ID: fmt.Sprint(n, "-0"), Values: []string{"h", host.String()},
				}).Err())
				eventually(t, func() bool { _, now := w.state(); return now > gaps })
			}
			require.Equal(t, int64(1), logged.Load())
		})
	}
}
