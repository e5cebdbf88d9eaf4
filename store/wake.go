package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"iapi/instrumentation"
)

// Work is a kind of work that workers are woken for.
type Work string

// The kinds of work, as entries of the wake streams have them.
const (
	HostWork  Work = kindHost // hosts to be reconciled
	VMWork    Work = kindVM   // VMs to be looked up
	JudgeWork Work = "j"      // instrumentations to be judged
	TaskWork  Work = "t"      // tasks in asynq's queues
)

// waker reads the wake streams for all workers of the process.
type waker struct {
	once sync.Once
	mu   sync.Mutex
	work map[Work]*wakes
}

// wakes are those for one kind of work.
type wakes struct {
	seen map[string]uint64 // of each worker
	now  uint64            // grows with every wake
	next chan struct{}     // closed by it
	// lapse is when the first of the claims lapses that were seen with the last look at the queue; zero: there was none.
	lapse time.Time
}

func newWaker() *waker {
	w := &waker{work: make(map[Work]*wakes)}
	for _, k := range []Work{HostWork, VMWork, JudgeWork, TaskWork} {
		w.work[k] = &wakes{seen: make(map[string]uint64), next: make(chan struct{})}
	}
	return w
}

// AwaitWork returns when there is work of a kind that this worker has not been woken for, when a claim lapses that stood when
// this process last looked for work, or when most has passed. What is marked after a worker has looked and before it waits
// wakes it too. Worker names are few: each takes a little memory.
func (s *Store) AwaitWork(ctx context.Context, worker string, kind Work, most time.Duration) error {
	s.waker.once.Do(s.watchWakes)
	s.waker.mu.Lock()
	w := s.waker.work[kind]
	seen, known := w.seen[worker]
	woken := !known || seen != w.now
	w.seen[worker] = w.now
	next := w.next
	if left := time.Until(w.lapse); left > 0 {
		most = min(most, left)
	}
	s.waker.mu.Unlock()
	if woken {
		return ctx.Err()
	}
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return fmt.Errorf("await work: %w: the store is closed", instrumentation.ErrNotReady)
	case <-next:
		s.waker.mu.Lock()
		w.seen[worker] = w.now
		s.waker.mu.Unlock()
	case <-t.C:
	}
	return nil
}

// WakeForTasks has what is sent by the pipeline wake the workers for what it puts into asynq's queues. It is a hint: workers
// look by themselves too.
func (s *Store) WakeForTasks(ctx context.Context, pipe redis.Pipeliner) {
	pipe.XAdd(ctx, &redis.XAddArgs{Stream: record + "wake", MaxLen: wakesKept, Approx: true, Values: []string{"w", string(TaskWork)}})
}

// lapses notes in what time the next claim lapses; 0: there is none.
func (w *waker) lapses(kind Work, in time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.work[kind].lapse = time.Time{}
	if in > 0 {
		w.work[kind].lapse = time.Now().Add(in)
	}
}

// wake wakes for some kinds of work; one that is not known, of another version of this program, means all.
func (w *waker) wake(kinds ...Work) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range kinds {
		if of, known := w.work[k]; known {
			of.wake()
			continue
		}
		for _, of := range w.work {
			of.wake()
		}
	}
}

func (w *wakes) wake() {
	w.now++
	close(w.next)
	w.next = make(chan struct{})
}

const (
	// anyWork is no kind of work, so it wakes for all.
	anyWork Work = "*"
	// wakesKept is how many entries a wake stream keeps at least.
	wakesKept = 16
)

// watchWakes reads the wake streams until the store is closed.
func (s *Store) watchWakes() {
	keys := []string{record + "wake"}
	for sh := range shard(shards) {
		keys = append(keys, sh.key("wake"))
	}
	if !s.clustered() {
		s.jobs.Go(func() { s.watchSomeWakes(keys) })
		return
	}
	for _, k := range keys {
		s.jobs.Go(func() { s.watchSomeWakes([]string{k}) })
	}
}

func (s *Store) watchSomeWakes(keys []string) {
	var ids []string
	for s.ctx.Err() == nil {
		if ids == nil {
			last, err := s.lastIDs(s.ctx, keys)
			if err != nil {
				s.unreadable(s.ctx, err)
				continue
			}
			ids = last
			s.waker.wake(anyWork) // for what came before
		}
		streams := append(append(make([]string, 0, 2*len(keys)), keys...), ids...)
		reply, err := s.readers.XRead(s.ctx, &redis.XReadArgs{Streams: streams, Count: 100, Block: blockFor}).Result()
		if errors.Is(err, redis.Nil) {
			continue
		}
		if err != nil {
			s.unreadable(s.ctx, err)
			ids = nil
			continue
		}
		kinds := make(map[Work]bool)
		for _, stream := range reply {
			for i, k := range keys {
				if k == stream.Stream {
					ids[i] = stream.Messages[len(stream.Messages)-1].ID
				}
			}
			if len(stream.Messages) >= wakesKept { // others may have been trimmed before they were read
				kinds[anyWork] = true
			}
			for _, m := range stream.Messages {
				kinds[Work(text(m.Values["w"]))] = true
			}
		}
		s.waker.wake(slices.Collect(maps.Keys(kinds))...)
	}
}

// lastIDs returns the last id of each stream.
func (s *Store) lastIDs(ctx context.Context, keys []string) ([]string, error) {
	cmds := make([]*redis.XMessageSliceCmd, len(keys))
	err := s.pipelined(ctx, "read the ends of streams", func(p redis.Pipeliner) {
		for i, k := range keys {
			cmds[i] = p.XRevRangeN(ctx, k, "+", "-", 1)
		}
	})
	if err != nil {
		return nil, err
	}
	out := make([]string, len(keys))
	for i, c := range cmds {
		out[i] = "0-0"
		for _, m := range c.Val() {
			out[i] = m.ID
		}
	}
	return out, nil
}
