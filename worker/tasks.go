package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/hibiken/asynq"
)

// The longest that one run of a task may take. A task that is cut short runs again.
const (
	evaluateTimeout = 2 * time.Minute
	sweepTimeout    = 2 * time.Hour
)

func (w *Worker) newServer(ctx context.Context) *asynq.Server {
	queues := map[string]int{queueUrgent: 100, queueTasks: 10, queueSweep: 1}
	return asynq.NewServerFromRedisClient(w.wokenClient(ctx, len(queues)), asynq.Config{
		Concurrency:              w.Concurrency + 1, // one for a sweep
		Queues:                   queues,
		TaskCheckInterval:        taskCheck,
		DelayedTaskCheckInterval: time.Second,
		RetryDelayFunc: func(n int, err error, _ *asynq.Task) time.Duration {
			if errors.Is(err, asynq.ErrLeaseExpired) {
				return 0
			}
			d := min(time.Second<<min(n, 6), time.Minute)
			return d/2 + rand.N(d)
		},
		// A worker that was killed or stopped has not failed at the task.
		IsFailure: func(err error) bool {
			return err != nil && !errors.Is(err, asynq.ErrLeaseExpired) && !errors.Is(err, context.Canceled)
		},
		ErrorHandler: asynq.ErrorHandlerFunc(func(ctx context.Context, t *asynq.Task, err error) {
			w.failed(ctx, t.Type(), err)
		}),
		Logger:          asynqLog{w.log},
		LogLevel:        asynq.WarnLevel,
		ShutdownTimeout: 5 * time.Second,
		BaseContext:     func() context.Context { return ctx },
	})
}

// handler dispatches tasks and measures them.
func (w *Worker) handler() asynq.Handler {
	mux := asynq.NewServeMux()
	mux.Use(func(next asynq.Handler) asynq.Handler {
		return asynq.HandlerFunc(func(ctx context.Context, t *asynq.Task) error {
			begun := time.Now()
			err := next.ProcessTask(ctx, t)
			w.metrics.tasks.WithLabelValues(t.Type(), result(err)).Observe(time.Since(begun).Seconds())
			return err
		})
	})
	mux.HandleFunc(taskEvaluate, func(ctx context.Context, t *asynq.Task) error {
		var p evaluatePayload
		if err := payload(t, &p); err != nil {
			return err
		}
		return w.evaluate(ctx, p.ID)
	})
	mux.HandleFunc(taskSweep, func(ctx context.Context, t *asynq.Task) error {
		var p sweepPayload
		if err := payload(t, &p); err != nil {
			return err
		}
		return w.sweep(ctx, p.Walk)
	})
	mux.HandleFunc(taskStop, func(ctx context.Context, t *asynq.Task) error {
		var p stopPayload
		if err := payload(t, &p); err != nil {
			return err
		}
		return w.stopTracing(ctx, p)
	})
	return mux
}

func payload(t *asynq.Task, into any) error {
	if err := json.Unmarshal(t.Payload(), into); err != nil {
		return fmt.Errorf("decode the task %s: %w: %w", t.Type(), err, asynq.SkipRetry)
	}
	return nil
}

func result(err error) string {
	if err != nil {
		return "error"
	}
	return "ok"
}

// asynqLog gives asynq's messages to the log.
type asynqLog struct{ log *slog.Logger }

func (l asynqLog) Debug(args ...any) { l.log.Debug("asynq: " + fmt.Sprint(args...)) }
func (l asynqLog) Info(args ...any)  { l.log.Info("asynq: " + fmt.Sprint(args...)) }
func (l asynqLog) Warn(args ...any)  { l.log.Warn("asynq: " + fmt.Sprint(args...)) }
func (l asynqLog) Error(args ...any) { l.log.Error("asynq: " + fmt.Sprint(args...)) }

// Fatal logs an error: what asynq cannot go on without ends that part of it, never the process.
func (l asynqLog) Fatal(args ...any) { l.log.Error("asynq: " + fmt.Sprint(args...)) }
