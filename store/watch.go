package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"iapi/assignment"
	"iapi/instrumentation"
)

const (
	// blockFor is how long one read of a stream waits. It bounds how long the end of a context goes unnoticed.
	blockFor = 500 * time.Millisecond
	// checkEvery is the time between checks that a stream that is silent has not gone back.
	checkEvery = 5 * time.Second
	// readRetry is the time before a failed read of a stream is tried again.
	readRetry = 200 * time.Millisecond
)

// WatchDocuments calls fn with the changes of documents, in the order of each host, until ctx ends, and returns its error.
// gap says that entries were missed, or may have been: because the stream was trimmed, the connection failed, or the watch
// has just begun; the caller then compares all that it serves. fn is not called twice at a time and must not block. While it
// runs, this process counts as one that serves agents: when no process did for a while, agents have a grace.
func (s *Store) WatchDocuments(ctx context.Context, fn func(changes []DocChange, gap bool)) error {
	if err := s.beat(ctx); err != nil {
		return err
	}
	var jobs sync.WaitGroup
	defer jobs.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	jobs.Go(func() {
		for sleep(ctx, s.beatEvery()) {
			if err := s.beat(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("it cannot be noted that agents are served", "error", err)
			}
		}
	})
	keys := make([]string, shards)
	for sh := range shard(shards) {
		keys[sh] = sh.key("change")
	}
	return s.follow(ctx, keys, func(entries []redis.XMessage, gap bool) {
		changes := make([]DocChange, 0, len(entries))
		for _, e := range entries {
			c, err := docChange(e)
			if err != nil {
				s.log.Error("an entry of the stream of documents is not valid", "entry", e.ID, "error", err)
				gap = true
				continue
			}
			changes = append(changes, c)
		}
		fn(changes, gap)
	})
}

func docChange(e redis.XMessage) (c DocChange, err error) {
	if c.Host, err = uuid.Parse(text(e.Values["h"])); err != nil {
		return c, fmt.Errorf("host: %w", err)
	}
	c.Kind = text(e.Values["k"])
	c.Version = assignment.Version{
		Epoch: text(e.Values["e"]), Generation: number(e.Values["g"]), Hash: text(e.Values["d"]),
	}
	if t := text(e.Values["s"]); t != "" {
		if c.Session, err = uuid.Parse(t); err != nil {
			return c, fmt.Errorf("session: %w", err)
		}
	}
	return c, nil
}

// WatchRecords calls fn with the ids of records as they change, until ctx ends, and returns its error. gap is as for
// WatchDocuments.
func (s *Store) WatchRecords(ctx context.Context, fn func(ids []instrumentation.ID, gap bool)) error {
	return s.follow(ctx, []string{record + "log"}, func(entries []redis.XMessage, gap bool) {
		ids := make([]instrumentation.ID, len(entries))
		for i, e := range entries {
			ids[i] = instrumentation.ID(text(e.Values["id"]))
		}
		fn(ids, gap)
	})
}

// clustered reports whether streams of several shards cannot be read by one command.
func (s *Store) clustered() bool {
	_, is := s.client.(*redis.ClusterClient)
	return is
}

// follow reads streams whose ids are dense until ctx ends: by one command, or on a Cluster each by its own.
func (s *Store) follow(ctx context.Context, keys []string, fn func(entries []redis.XMessage, gap bool)) error {
	if !s.clustered() || len(keys) == 1 {
		return s.followSome(ctx, keys, fn)
	}
	var jobs sync.WaitGroup
	var mu sync.Mutex
	for _, key := range keys {
		jobs.Go(func() {
			_ = s.followSome(ctx, []string{key}, func(entries []redis.XMessage, gap bool) { // it ends with ctx
				mu.Lock()
				defer mu.Unlock()
				fn(entries, gap)
			})
		})
	}
	jobs.Wait()
	return ctx.Err()
}

// followSome reads streams by one command. Ids count up by one, so what is missing shows.
func (s *Store) followSome(ctx context.Context, keys []string, fn func(entries []redis.XMessage, gap bool)) error {
	var known []int64 // the last id seen of each stream; nil: to be read
	var checked time.Time
	for ctx.Err() == nil {
		if known == nil {
			ends, err := s.ends(ctx, keys)
			if err != nil {
				s.unreadable(ctx, err)
				continue
			}
			known, checked = ends, time.Now()
			fn(nil, true)
		}
		streams := make([]string, 0, 2*len(keys))
		streams = append(streams, keys...)
		for _, n := range known {
			streams = append(streams, itoa(n)+"-0")
		}
		reply, err := s.readers.XRead(ctx, &redis.XReadArgs{Streams: streams, Count: 1000, Block: blockFor}).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			s.unreadable(ctx, err)
			known = nil
			continue
		}
		var entries []redis.XMessage
		gap := false
		for _, stream := range reply {
			for i, key := range keys {
				if key != stream.Stream {
					continue
				}
				for _, e := range stream.Messages {
					n := position(e.ID)
					gap = gap || n != known[i]+1
					known[i] = n
				}
			}
			entries = append(entries, stream.Messages...)
		}
		if time.Since(checked) > checkEvery {
			// A store that was restored or emptied gives out smaller ids than those that we wait for.
			ends, err := s.ends(ctx, keys)
			if err != nil {
				s.unreadable(ctx, err)
				known = nil
				continue
			}
			for i := range ends {
				if ends[i] < known[i] {
					known[i], gap = ends[i], true
				}
			}
			checked = time.Now()
		}
		if len(entries) > 0 || gap {
			fn(entries, gap)
		}
	}
	return ctx.Err()
}

// unreadable waits a little after a failed read.
func (s *Store) unreadable(ctx context.Context, err error) {
	if ctx.Err() == nil {
		s.log.Warn("a stream of changes cannot be read", "error", err, "retryIn", readRetry)
		sleep(ctx, readRetry)
	}
}

// ends returns the last id that each stream has given out.
func (s *Store) ends(ctx context.Context, keys []string) ([]int64, error) {
	cmds := make([]*redis.StringCmd, len(keys))
	err := s.pipelined(ctx, "read the ends of streams", func(p redis.Pipeliner) {
		for i, k := range keys {
			cmds[i] = p.Get(ctx, k+"seq")
		}
	})
	if err != nil {
		return nil, err
	}
	out := make([]int64, len(keys))
	for i, c := range cmds {
		out[i] = number(c.Val())
	}
	return out, nil
}

// sleep waits and reports whether ctx still stands.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// waker reads the wake streams for all workers of the process.
type waker struct {
	once sync.Once
	mu   sync.Mutex
	seen map[string]uint64 // of each worker
	now  uint64            // grows with every wake
	next chan struct{}     // closed by it
}

// AwaitWork returns when something was marked that this worker has not been woken for, or when most has passed. A mark that
// is made after a worker has looked and before it waits wakes it too. Worker names are few: each takes a little memory.
func (s *Store) AwaitWork(ctx context.Context, worker string, most time.Duration) error {
	w := &s.waker
	w.once.Do(func() {
		w.mu.Lock()
		w.seen, w.next = make(map[string]uint64), make(chan struct{})
		w.mu.Unlock()
		s.watchWakes()
	})
	w.mu.Lock()
	seen, known := w.seen[worker]
	woken := !known || seen != w.now
	w.seen[worker] = w.now
	next := w.next
	w.mu.Unlock()
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
		w.mu.Lock()
		w.seen[worker] = w.now
		w.mu.Unlock()
	case <-t.C:
	}
	return nil
}

func (w *waker) wake() {
	w.mu.Lock()
	w.now++
	close(w.next)
	w.next = make(chan struct{})
	w.mu.Unlock()
}

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
			s.waker.wake() // for what came before
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
		for _, stream := range reply {
			for i, k := range keys {
				if k == stream.Stream {
					ids[i] = stream.Messages[len(stream.Messages)-1].ID
				}
			}
		}
		s.waker.wake()
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
