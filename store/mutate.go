package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"iapi/instrumentation"
)

// mutate runs a script on the records and returns when the change is as durable as the store can make it: on the embedded
// server it is in the journal, with replicas one has confirmed it. The script's first arguments, the time and whether to do
// it unconditionally, are put before args. ErrNotDurable says that the change was made but not confirmed.
func (s *Store) mutate(ctx context.Context, sc *script, args ...any) (any, error) {
	args = append([]any{0, 0}, args...)
	if s.embedded != nil && s.embedded.disk != nil {
		ctx, cancel := s.bound(ctx)
		defer cancel()
		return s.embedded.mutate(ctx, sc, args)
	}
	if s.replicas == 0 {
		return s.do(ctx, sc, record, args...)
	}
	return s.confirmed(ctx, sc, args)
}

// confirmed runs a script and WAIT on the same connection, for WAIT is about the writes of its own.
func (s *Store) confirmed(ctx context.Context, sc *script, args []any) (any, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	var node redis.Cmdable = s.client
	if cluster, ok := s.client.(*redis.ClusterClient); ok {
		master, err := cluster.MasterForKey(ctx, record)
		if err != nil {
			return nil, fault("find the server of the records", err)
		}
		node = master
	}
	patience := 2 * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline)/2)
	}
	if patience < time.Millisecond {
		return nil, fault(sc.name, context.DeadlineExceeded)
	}
	var reply *redis.Cmd
	var wait *redis.Cmd
	for attempt := range 2 {
		_, _ = node.Pipelined(ctx, func(p redis.Pipeliner) error { // each command has its error
			if attempt == 0 {
				reply = p.EvalSha(ctx, sc.run.Hash(), []string{record}, args...)
			} else {
				reply = sc.run.Eval(ctx, p, []string{record}, args...)
			}
			wait = p.Do(ctx, "WAIT", s.replicas, patience.Milliseconds())
			return nil
		})
		if !redis.HasErrorPrefix(reply.Err(), "NOSCRIPT") {
			break
		}
	}
	if err := reply.Err(); err != nil && !errors.Is(err, redis.Nil) {
		return nil, fault(sc.name, err)
	}
	if text(at(reply.Val(), 0)) != "OK" {
		return reply.Val(), nil // nothing was changed
	}
	if err := wait.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", sc.name, instrumentation.ErrNotDurable, err)
	}
	if n := number(wait.Val()); n < int64(s.replicas) {
		return nil, fmt.Errorf("%s: %w: %d of %d answered", sc.name, instrumentation.ErrNotDurable, n, s.replicas)
	}
	return reply.Val(), nil
}
