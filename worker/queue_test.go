package worker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"iapi/store"
)

func TestTasksThatWaitTogetherBecomeOneAndOneThatRunsIsFollowed(t *testing.T) {
	s := open(t, store.Options{URL: startRedis(t)})
	q := NewQueue(s.Client(), s)
	ctx := context.Background()
	for range 5 {
		require.NoError(t, q.Evaluate(ctx, "i1", 1))
	}
	require.NoError(t, q.Evaluate(ctx, "i1", 2))
	waiting, err := q.inspector.ListPendingTasks(queueTasks)
	require.NoError(t, err)
	require.Len(t, waiting, 2, "one for each revision")

	m, registry := newMetrics(), prometheus.NewPedanticRegistry()
	require.NoError(t, m.register(registry, s, s.Client()))
	families, err := registry.Gather()
	require.NoError(t, err)
	told := false
	for _, f := range families {
		for _, v := range f.GetMetric() {
			told = told || f.GetName() == "iapi_queue_tasks" && v.GetGauge().GetValue() == 2
		}
	}
	require.True(t, told, "what waits is exported")

	var runs atomic.Int64
	running, finish := make(chan struct{}, 10), make(chan struct{})
	server := asynq.NewServerFromRedisClient(s.Client(), asynq.Config{
		Concurrency: 4, Queues: map[string]int{queueSweep: 1}, TaskCheckInterval: 20 * time.Millisecond, LogLevel: asynq.FatalLevel,
	})
	require.NoError(t, server.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error {
		runs.Add(1)
		running <- struct{}{}
		<-finish
		return nil
	})))
	defer server.Shutdown()
	end := sync.OnceFunc(func() { close(finish) })
	defer end()
	begins := func() {
		t.Helper()
		select {
		case <-running:
		case <-time.After(patience):
			require.Fail(t, "no sweep begins")
		}
	}
	require.NoError(t, q.Sweep(ctx))
	begins()
	require.NoError(t, q.Sweep(ctx), "the one that runs began before this was asked")
	begins()
	end()
	eventually(t, func() bool {
		info, err := q.inspector.GetQueueInfo(queueSweep)
		return err == nil && info.Size == 0
	})
	require.Equal(t, int64(2), runs.Load())
}

func TestATaskThatFailedForGoodMakesRoom(t *testing.T) {
	s := open(t, store.Options{URL: startRedis(t)})
	q := NewQueue(s.Client(), s)
	ctx := context.Background()
	server := asynq.NewServerFromRedisClient(s.Client(), asynq.Config{
		Queues: map[string]int{queueTasks: 1}, TaskCheckInterval: 20 * time.Millisecond, LogLevel: asynq.FatalLevel,
	})
	require.NoError(t, server.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error {
		return errors.Join(errors.New("for good"), asynq.SkipRetry)
	})))
	require.NoError(t, q.Evaluate(ctx, "i1", 1))
	eventually(t, func() bool {
		info, err := q.inspector.GetTaskInfo(queueTasks, "i1:1")
		return err == nil && info.State == asynq.TaskStateArchived
	})
	server.Shutdown()
	require.NoError(t, q.Evaluate(ctx, "i1", 1))
	info, err := q.inspector.GetTaskInfo(queueTasks, "i1:1")
	require.NoError(t, err)
	require.Equal(t, asynq.TaskStatePending, info.State)
}
