package worker

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"iapi/store"
)

const (
	// taskCheck is how long asynq sleeps after a look at its queues that found nothing, about. It bounds how often wakes make
	// it look.
	taskCheck = 2 * time.Millisecond
	// unwoken is the time between looks at the queues without a wake, for tasks that asynq has put into them by itself:
	// those that are to be tried again, and those of workers that ended.
	unwoken = time.Second
	// lookRetry is the time after a look that failed.
	lookRetry = 100 * time.Millisecond
)

// wokenClient is the client through which asynq's server takes tasks. That server asks its queues again and again; this
// client answers for queues that were found empty only when workers have been woken for tasks since, or after a while. A
// task is so taken up at once, and an idle process asks nearly nothing.
//
// It knows of asynq only which command takes a task, and that one goroutine runs it for each queue in turn. Were that to
// change, asynq would look every taskCheck: tests count the commands.
type wokenClient struct {
	redis.UniversalClient
	ctx    context.Context // of the worker; when it has ended there are no tasks
	await  func(context.Context) error
	queues int
	empty  int // queues in a row that were found empty
}

func (w *Worker) wokenClient(ctx context.Context, queues int) *wokenClient {
	return &wokenClient{UniversalClient: w.Redis, ctx: ctx, queues: queues, await: func(ctx context.Context) error {
		return w.Store.AwaitWork(ctx, w.name, store.TaskWork, unwoken)
	}}
}

// EvalSha runs a script, and waits before it where that is to take a task.
func (c *wokenClient) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	return c.run(keys, func() *redis.Cmd { return c.UniversalClient.EvalSha(ctx, sha, keys, args...) })
}

// Eval runs a script that the server does not know yet.
func (c *wokenClient) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	return c.run(keys, func() *redis.Cmd { return c.UniversalClient.Eval(ctx, script, keys, args...) })
}

func (c *wokenClient) run(keys []string, script func() *redis.Cmd) *redis.Cmd {
	if len(keys) != 4 || !strings.HasSuffix(keys[0], ":pending") || !strings.HasSuffix(keys[1], ":paused") {
		return script()
	}
	if c.empty == c.queues {
		c.empty = 0
		if c.await(c.ctx) != nil {
			sleep(c.ctx, lookRetry)
		}
	}
	if c.ctx.Err() != nil {
		none := redis.NewCmd(c.ctx)
		none.SetErr(redis.Nil)
		return none
	}
	cmd := script()
	switch err := cmd.Err(); {
	case errors.Is(err, redis.Nil):
		c.empty++
	case err != nil && !redis.HasErrorPrefix(err, "NOSCRIPT"):
		c.empty = 0
		sleep(c.ctx, lookRetry) // asynq itself would ask again at once
	case err == nil:
		c.empty = 0
	}
	return cmd
}

// wakingClient is the client through which asynq adds tasks. It sends the wake with the script that adds one, so that waking
// costs no round trip. Where the two go to different servers of a Cluster and the wake comes first, the task may be found
// only by the next look without one.
type wakingClient struct {
	redis.UniversalClient
	waker Waker
}

// EvalSha runs a script, and wakes the workers.
func (c wakingClient) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	return c.run(ctx, func(p redis.Pipeliner) *redis.Cmd { return p.EvalSha(ctx, sha, keys, args...) })
}

// Eval runs a script that the server does not know yet.
func (c wakingClient) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	return c.run(ctx, func(p redis.Pipeliner) *redis.Cmd { return p.Eval(ctx, script, keys, args...) })
}

func (c wakingClient) run(ctx context.Context, script func(redis.Pipeliner) *redis.Cmd) *redis.Cmd {
	pipe := c.UniversalClient.Pipeline()
	cmd := script(pipe)
	c.waker.WakeForTasks(ctx, pipe)
	_, _ = pipe.Exec(ctx) // the script's error is in its command, and a wake that fails is no error
	return cmd
}
