package store_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/store"
	"iapi/store/storetest"
)

func TestWhatLeavesTheAuditLogIsInTheLog(t *testing.T) {
	var mu sync.Mutex
	var log bytes.Buffer
	o := store.Options{AuditEntries: 200, Logger: slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(b)
	}), nil))}
	storetest.Each(t, o, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		commit(t, s, newRecord(uid(1), "a"))
		_, err := s.PutGuard(ctx, instrumentation.Guard{ID: "g"})
		require.NoError(t, err)
		require.NoError(t, s.ConfirmGuard(ctx, "g", instrumentation.Audit{Caller: t.Name(), Action: "confirm"}))
		for i := range 500 {
			require.NoError(t, s.Record(ctx, instrumentation.Audit{Caller: t.Name(), Action: fmt.Sprint("n|", i), Detail: "100|{", Result: "ok"}))
		}
		kept, err := s.AuditLog(ctx, "", 1000)
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(kept), 200)
		require.LessOrEqual(t, len(kept), 400)
		require.Equal(t, "n|499 100|{", kept[0].Action+" "+kept[0].Detail)
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, 501, strings.Count(log.String(), "msg=audit caller="+t.Name()+" "))
		require.Contains(t, log.String(), " action=create ")
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestTheAuditLogIsReadBackwards(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		commit(t, s, newRecord(uid(1), "a"))
		for i := range 5 {
			require.NoError(t, s.Record(ctx, instrumentation.Audit{At: at(i), Action: fmt.Sprint(i), Owner: uid(1), Result: "ok"}))
		}
		var got []string
		for before := ""; ; {
			page, err := s.AuditLog(ctx, before, 2)
			require.NoError(t, err)
			if len(page) == 0 {
				break
			}
			for _, a := range page {
				got = append(got, a.Action)
			}
			before = page[len(page)-1].ID
		}
		require.Equal(t, []string{"4", "3", "2", "1", "0", "create"}, got)
		_, err := s.AuditLog(ctx, "x", 1)
		require.Error(t, err)
	})
}

func TestAGuardWaitsForAnOperator(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		g := instrumentation.Guard{ID: "sweep", Reason: "would remove too much", WouldRemove: 10, Since: created}
		confirmed, err := s.PutGuard(ctx, g)
		require.NoError(t, err)
		require.False(t, confirmed)
		later := g
		later.Since, later.WouldRemove = at(60), 12
		_, err = s.PutGuard(ctx, later)
		require.NoError(t, err)
		all, err := s.Guards(ctx)
		require.NoError(t, err)
		require.Len(t, all, 1)
		require.Equal(t, created, all[0].Since, "it has waited since the first time")
		require.Equal(t, 12, all[0].WouldRemove)
		require.ErrorIs(t, s.ConfirmGuard(ctx, "none", instrumentation.Audit{}), instrumentation.ErrNotFound)
		require.NoError(t, s.ConfirmGuard(ctx, "sweep", instrumentation.Audit{Action: "confirmGuard"}))
		require.ErrorIs(t, s.ConfirmGuard(ctx, "sweep", instrumentation.Audit{}), instrumentation.ErrNotFound)
		audit, err := s.AuditLog(ctx, "", 5)
		require.NoError(t, err)
		require.Len(t, audit, 1)
		more := g
		more.WouldRemove = 13
		confirmed, err = s.PutGuard(ctx, more)
		require.NoError(t, err)
		require.False(t, confirmed, "more than was confirmed")
		require.NoError(t, s.ConfirmGuard(ctx, "sweep", instrumentation.Audit{}))
		confirmed, err = s.PutGuard(ctx, more)
		require.NoError(t, err)
		require.True(t, confirmed)
		confirmed, err = s.PutGuard(ctx, more)
		require.NoError(t, err)
		require.False(t, confirmed, "once")
		require.NoError(t, s.DropGuard(ctx, "sweep"))
		require.NoError(t, s.DropGuard(ctx, "sweep"))
		all, err = s.Guards(ctx)
		require.NoError(t, err)
		require.Empty(t, all)
	})
}

func TestALeaseHasOneHolder(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		var holders atomic.Int64
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				held, err := s.Lease(ctx, "n", fmt.Sprint(i), time.Minute)
				if err != nil {
					t.Error(err)
				}
				if held {
					holders.Add(1)
				}
			})
		}
		all.Wait()
		require.EqualValues(t, 1, holders.Load())
		lease := func(name, holder string, ttl time.Duration) bool {
			t.Helper()
			held, err := s.Lease(ctx, name, holder, ttl)
			require.NoError(t, err)
			return held
		}
		require.True(t, lease("long", "a", 50*time.Millisecond))
		require.NoError(t, s.ReleaseLease(ctx, "long", "b"))
		require.True(t, lease("long", "a", time.Minute), "extended")
		require.False(t, lease("long", "b", time.Minute))
		require.True(t, lease("short", "a", 50*time.Millisecond))
		eventually(t, func() bool { return lease("short", "b", time.Minute) })
		require.False(t, lease("long", "b", time.Minute), "what was extended lasts")
		require.NoError(t, s.ReleaseLease(ctx, "long", "a"))
		require.True(t, lease("long", "b", time.Minute))
		_, err := s.Lease(ctx, "n", "", time.Minute)
		require.Error(t, err)
	})
}

func hashOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func TestAJoinTokenWorksOnceAndForItsHost(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		host := uid(1000)
		require.Error(t, s.PutJoinToken(ctx, hashOf("j"), host, 0))
		require.NoError(t, s.PutJoinToken(ctx, hashOf("j"), host, time.Minute))
		var won atomic.Int64
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				got, err := s.Redeem(ctx, hashOf("j"), hashOf(fmt.Sprint("agent", i)))
				if err == nil && got == host {
					won.Add(1)
				}
			})
		}
		all.Wait()
		require.EqualValues(t, 1, won.Load())
		valid := 0
		for i := range 8 {
			if got, err := s.AgentHost(ctx, hashOf(fmt.Sprint("agent", i))); err == nil && got == host {
				valid++
			}
		}
		require.Equal(t, 1, valid)

		// A new token replaces the one before, and a token that has lapsed is worth nothing.
		require.NoError(t, s.PutJoinToken(ctx, hashOf("k"), host, time.Minute))
		_, err := s.Redeem(ctx, hashOf("k"), hashOf("second"))
		require.NoError(t, err)
		for i := range 8 {
			_, err := s.AgentHost(ctx, hashOf(fmt.Sprint("agent", i)))
			require.ErrorIs(t, err, store.ErrToken)
		}
		require.NoError(t, s.PutJoinToken(ctx, hashOf("l"), host, time.Nanosecond))
		_, err = s.Redeem(ctx, hashOf("l"), hashOf("third"))
		require.ErrorIs(t, err, store.ErrToken)

		require.NoError(t, s.PutJoinToken(ctx, hashOf("m"), host, time.Minute))
		require.NoError(t, s.RevokeAgent(ctx, host))
		_, err = s.AgentHost(ctx, hashOf("second"))
		require.ErrorIs(t, err, store.ErrToken)
		_, err = s.Redeem(ctx, hashOf("m"), hashOf("fourth"))
		require.ErrorIs(t, err, store.ErrToken)
		require.NoError(t, s.RevokeAgent(ctx, host))
	})
}

// twice is a client that had no answer to its first write, and has made it again.
type twice struct{ done atomic.Bool }

func (*twice) DialHook(next redis.DialHook) redis.DialHook { return next }

func (*twice) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h *twice) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		writes := slices.Contains(cmd.Args(), any("tokenof"))
		err := next(ctx, cmd)
		if err == nil && writes && !h.done.Swap(true) {
			err = next(ctx, cmd)
		}
		return err
	}
}

func TestAJoinWhoseAnswerWasLostOnTheWayFromTheServerHasHappened(t *testing.T) {
	s := storetest.Real(t, store.Options{})
	require.NoError(t, s.PutJoinToken(t.Context(), hashOf("j"), uid(1000), time.Minute))
	lossy := &twice{}
	s.Client().AddHook(lossy)
	host, err := s.Redeem(t.Context(), hashOf("j"), hashOf("agent"))
	require.NoError(t, err)
	require.Equal(t, uid(1000), host)
	require.True(t, lossy.done.Load())
}

func TestCredentialsAndGuardsSurviveAKill(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir, time.Hour)
	ctx := t.Context()
	require.NoError(t, s.PutJoinToken(ctx, hashOf("j"), uid(1000), time.Minute))
	_, err := s.Redeem(ctx, hashOf("j"), hashOf("agent"))
	require.NoError(t, err)
	require.NoError(t, s.PutJoinToken(ctx, hashOf("k"), uid(1001), time.Minute))
	_, err = s.PutGuard(ctx, instrumentation.Guard{ID: "g", WouldRemove: 1})
	require.NoError(t, err)
	require.NoError(t, s.Record(ctx, instrumentation.Audit{Action: "x"}))
	left := crash(t, dir)
	require.NoError(t, s.Close())
	s = openDir(t, left, time.Hour)
	defer s.Close()
	host, err := s.AgentHost(context.WithoutCancel(ctx), hashOf("agent"))
	require.NoError(t, err)
	require.Equal(t, uid(1000), host)
	_, err = s.Redeem(ctx, hashOf("j"), hashOf("again"))
	require.ErrorIs(t, err, store.ErrToken)
	_, err = s.Redeem(ctx, hashOf("k"), hashOf("other"))
	require.NoError(t, err)
	guards, err := s.Guards(ctx)
	require.NoError(t, err)
	require.Len(t, guards, 1)
	audit, err := s.AuditLog(ctx, "", 5)
	require.NoError(t, err)
	require.Len(t, audit, 1)
}
