package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"iapi/instrumentation"
)

// The tasks and their queues. Stops overtake everything; sweeps have a queue of their own, so that they never take the
// slots of evaluations.
const (
	taskEvaluate = "instrumentation:evaluate"
	taskSweep    = "inventory:sweep"
	taskStop     = "tracing:stop"

	queueUrgent = "urgent"
	queueTasks  = "default"
	queueSweep  = "sweep"
)

// Waker marks VMs to be looked at, wakes workers for tasks, and has the time by which records are created; *store.Store is one.
type Waker interface {
	Time() time.Time
	MarkVMs(ctx context.Context, vms ...uuid.UUID) error
	WakeForTasks(ctx context.Context, pipe redis.Pipeliner)
}

// Queue hands work to the workers. It implements instrumentation.Queue.
type Queue struct {
	client    *asynq.Client
	inspector *asynq.Inspector
	waker     Waker
}

var _ instrumentation.Queue = (*Queue)(nil)

// NewQueue makes a Queue on the store's Redis. The client stays the caller's to close.
func NewQueue(client redis.UniversalClient, waker Waker) *Queue {
	return &Queue{asynq.NewClientFromRedisClient(wakingClient{client, waker}), asynq.NewInspectorFromRedisClient(client), waker}
}

// sweepPayload names the walk, so that a sweep that is run again goes on where it was, and no other does.
type sweepPayload struct {
	Walk string `json:"walk"`
}

type evaluatePayload struct {
	ID       instrumentation.ID `json:"id"`
	Revision int                `json:"revision"`
}

type stopPayload struct {
	At     time.Time   `json:"at"`
	Hosts  []uuid.UUID `json:"hosts,omitempty"` // none: all
	Reason string      `json:"reason"`
}

// Evaluate implements instrumentation.Queue. Calls for the same revision that wait together become one.
func (q *Queue) Evaluate(ctx context.Context, id instrumentation.ID, revision int) error {
	return q.once(ctx, taskEvaluate, evaluatePayload{id, revision}, queueTasks, string(id)+":"+strconv.Itoa(revision), true,
		asynq.MaxRetry(20), asynq.Timeout(evaluateTimeout))
}

// NotifyVM implements instrumentation.Queue.
func (q *Queue) NotifyVM(ctx context.Context, vm uuid.UUID) error { return q.waker.MarkVMs(ctx, vm) }

// Sweep implements instrumentation.Queue. Sweeps that wait together become one, but for one that has begun and waits to
// go on: what it has read is older than this call.
func (q *Queue) Sweep(ctx context.Context) error {
	return q.once(ctx, taskSweep, sweepPayload{uuid.NewString()}, queueSweep, "sweep", false, asynq.MaxRetry(3), asynq.Timeout(sweepTimeout))
}

// StopTracing implements instrumentation.Queue.
func (q *Queue) StopTracing(ctx context.Context, hosts []uuid.UUID, reason string) error {
	body, err := json.Marshal(stopPayload{q.waker.Time().UTC(), hosts, reason})
	if err != nil {
		return fmt.Errorf("encode the task %s: %w", taskStop, err)
	}
	_, err = q.client.EnqueueContext(ctx, asynq.NewTask(taskStop, body), asynq.Queue(queueUrgent), asynq.MaxRetry(100), asynq.Timeout(evaluateTimeout))
	return wrap("enqueue "+taskStop, err)
}

// beside is how many tasks for the same thing there may be, of which one waits and the others run. Those of workers that
// were killed count as running until asynq gives them back, after a minute and more.
const beside = 8

// once adds a task unless one with the id waits already. Beside one that runs, which may have looked at the world before
// this was asked, another waits; so it does beside one that waits to be tried again, unless retried says that this will
// do. One that has failed for good makes room.
func (q *Queue) once(ctx context.Context, kind string, payload any, queue, id string, retried bool, opts ...asynq.Option) error {
	body, err := json.Marshal(payload)
	if err != nil {
		return fmt.Errorf("encode the task %s: %w", kind, err)
	}
	for n := range beside {
		id := id
		if n > 0 {
			id += ":" + strconv.Itoa(n)
		}
		for range 2 {
			_, err := q.client.EnqueueContext(ctx, asynq.NewTask(kind, body), append(opts, asynq.Queue(queue), asynq.TaskID(id))...)
			if !errors.Is(err, asynq.ErrTaskIDConflict) {
				return wrap("enqueue "+kind, err)
			}
			info, err := q.inspector.GetTaskInfo(queue, id)
			switch {
			case errors.Is(err, asynq.ErrTaskNotFound):
				continue
			case err != nil:
				return fmt.Errorf("look at the task %s: %w", kind, err)
			case info.State == asynq.TaskStateArchived:
				if err := q.inspector.DeleteTask(queue, id); err != nil && !errors.Is(err, asynq.ErrTaskNotFound) {
					return fmt.Errorf("make room for the task %s: %w", kind, err)
				}
				continue
			case info.State != asynq.TaskStateActive && (retried || info.State != asynq.TaskStateRetry):
				return nil
			}
			break
		}
	}
	return nil
}

func wrap(doing string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}
