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

// Marker marks VMs to be looked at; *store.Store is one.
type Marker interface {
	MarkVMs(ctx context.Context, vms ...uuid.UUID) error
}

// Queue hands work to the workers. It implements instrumentation.Queue.
type Queue struct {
	client    *asynq.Client
	inspector *asynq.Inspector
	marker    Marker
}

var _ instrumentation.Queue = (*Queue)(nil)

// NewQueue makes a Queue on the store's Redis. The client stays the caller's to close.
func NewQueue(client redis.UniversalClient, marker Marker) *Queue {
	return &Queue{asynq.NewClientFromRedisClient(client), asynq.NewInspectorFromRedisClient(client), marker}
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
	return q.enqueue(ctx, taskEvaluate, evaluatePayload{id, revision},
		asynq.Queue(queueTasks), asynq.TaskID(string(id)+":"+strconv.Itoa(revision)), asynq.MaxRetry(20), asynq.Timeout(evaluateTimeout))
}

// NotifyVM implements instrumentation.Queue.
func (q *Queue) NotifyVM(ctx context.Context, vm uuid.UUID) error { return q.marker.MarkVMs(ctx, vm) }

// Sweep implements instrumentation.Queue. A sweep that is asked for while one waits or runs is that one.
func (q *Queue) Sweep(ctx context.Context) error {
	return q.enqueue(ctx, taskSweep, struct{}{}, asynq.Queue(queueSweep), asynq.TaskID("sweep"), asynq.MaxRetry(3), asynq.Timeout(sweepTimeout))
}

// StopTracing implements instrumentation.Queue.
func (q *Queue) StopTracing(ctx context.Context, hosts []uuid.UUID, reason string) error {
	return q.enqueue(ctx, taskStop, stopPayload{time.Now().UTC(), hosts, reason}, asynq.Queue(queueUrgent), asynq.MaxRetry(100), asynq.Timeout(evaluateTimeout))
}

// enqueue adds a task. One with the same id that waits or runs does its work; one that has failed for good makes room.
func (q *Queue) enqueue(ctx context.Context, kind string, payload any, opts ...asynq.Option) error {
	body, err := json.Marshal(payload)
	if err != nil {
		return fmt.Errorf("encode the task %s: %w", kind, err)
	}
	task := asynq.NewTask(kind, body, opts...)
	_, err = q.client.EnqueueContext(ctx, task)
	if !errors.Is(err, asynq.ErrTaskIDConflict) {
		return wrap("enqueue "+kind, err)
	}
	var queue, id string
	for _, o := range opts {
		switch v, _ := o.Value().(string); o.Type() {
		case asynq.QueueOpt:
			queue = v
		case asynq.TaskIDOpt:
			id = v
		}
	}
	info, err := q.inspector.GetTaskInfo(queue, id)
	switch {
	case errors.Is(err, asynq.ErrTaskNotFound):
	case err != nil:
		return fmt.Errorf("look at the task %s: %w", kind, err)
	case info.State != asynq.TaskStateArchived:
		return nil
	default:
		if err := q.inspector.DeleteTask(queue, id); err != nil && !errors.Is(err, asynq.ErrTaskNotFound) {
			return fmt.Errorf("make room for the task %s: %w", kind, err)
		}
	}
	if _, err = q.client.EnqueueContext(ctx, task); errors.Is(err, asynq.ErrTaskIDConflict) {
		return nil // somebody else was faster
	}
	return wrap("enqueue "+kind, err)
}

func wrap(doing string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}
