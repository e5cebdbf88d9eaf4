package worker

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/store"
)

// looks counts how often asynq asks for a task.
type looks struct {
	redis.UniversalClient
	n *atomic.Int64
}

func (l looks) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	if strings.HasSuffix(keys[0], ":pending") {
		l.n.Add(1)
	}
	return l.UniversalClient.EvalSha(ctx, sha, keys, args...)
}

// held is a store that wakes for tasks only when a test says so.
type held struct {
	*store.Store
	waits, wake chan struct{}
}

func (h held) AwaitWork(ctx context.Context, worker string, kind store.Work, most time.Duration) error {
	if kind != store.TaskWork {
		return h.Store.AwaitWork(ctx, worker, kind, most)
	}
	select {
	case h.waits <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-h.wake:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestAnIdleWorkerAsksForTasksOnlyWhenItIsWoken(t *testing.T) {
	stores(t, func(t *testing.T, open func(t testing.TB) *store.Store) {
		s := open(t)
		b := newBench(t, 32, s)
		ctx := context.Background()
		var asked atomic.Int64
		h := held{s, make(chan struct{}), make(chan struct{})}
		_, stop := running(t, b, s, func(o *Options) {
			o.Store, o.Redis, o.NoSchedule, o.Tick = h, looks{s.Client(), &asked}, true, time.Hour
		})
		happens(t, h.waits, "it waits when all queues are empty")
		before := asked.Load()
		require.LessOrEqual(t, before, int64(6))
		for range 5 { // woken for nothing, it looks once at each queue
			h.wake <- struct{}{}
			happens(t, h.waits, "it waits again")
		}
		require.Equal(t, before+15, asked.Load())

		id := b.create(uuid.Nil, instrumentation.Scope{EveryHost: true})
		require.NoError(t, NewQueue(s.Client(), s).Evaluate(ctx, id, 1))
		require.Equal(t, before+15, asked.Load(), "nobody has woken it")
		h.wake <- struct{}{}
		eventually(t, func() bool { return b.get(id).Evaluated == 1 })
		happens(t, h.waits, "it waits again")
		require.LessOrEqual(t, asked.Load(), before+21)
		stop() // also while it waits
	})
}

func TestATaskWakesAnIdleWorker(t *testing.T) {
	stores(t, func(t *testing.T, open func(t testing.TB) *store.Store) {
		s := open(t)
		ctx := context.Background()
		require.NoError(t, s.AwaitWork(ctx, "w", store.TaskWork, time.Hour)) // it begins with a look
		require.NoError(t, s.AwaitWork(ctx, "w", store.TaskWork, time.Second))
		queue := NewQueue(s.Client(), s)
		for _, enqueue := range []func() error{
			func() error { return queue.Evaluate(ctx, "i1", 1) },
			func() error { return queue.Sweep(ctx) },
			func() error { return queue.StopTracing(ctx, nil, "too hot") },
		} {
			woken := make(chan struct{})
			go func() { defer close(woken); _ = s.AwaitWork(ctx, "w", store.TaskWork, time.Hour) }()
			require.NoError(t, enqueue())
			happens(t, woken, "the worker is woken")
		}
	})
}
