package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
	// manyEntries in one read are a sign that more are on their way; they are awaited for gatherFor, so that a change of many
	// hosts is read in few large pieces and not in very many small ones.
	manyEntries = 16
	gatherFor   = 5 * time.Millisecond
	// readRetry is the time before a failed read of a stream is tried again.
	readRetry = 200 * time.Millisecond
	// logInvalidEvery is the least time between two words on entries that cannot be read, of which there may be very many.
	logInvalidEvery = time.Minute
)

// WatchDocuments calls fn with the changes of documents, in the order of each host, until ctx ends, and returns its error.
// gap says that entries were missed, or may have been: because the stream was trimmed, the connection failed, or the watch
// has just begun; the caller then compares all that it serves. fn is not called twice at a time and must not block. While it
// runs, this process counts as one that serves agents: when no process did for a while, agents have a grace.
func (s *Store) WatchDocuments(ctx context.Context, fn func(changes []DocChange, gap bool)) error {
	process := uuid.NewString()
	if err := s.beat(ctx, process); err != nil {
		return err
	}
	defer s.leave(process)
	var jobs sync.WaitGroup
	defer jobs.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	jobs.Go(func() {
		for sleep(ctx, s.beatEvery()) {
			if err := s.beat(ctx, process); err != nil && ctx.Err() == nil {
				s.log.Warn("it cannot be noted that agents are served", "error", err)
			}
		}
	})
	keys := make([]string, shards)
	for sh := range shard(shards) {
		keys[sh] = sh.key("change")
	}
	invalid, logged := 0, time.Time{} // since it was last logged, and when that was
	return s.follow(ctx, keys, func(entries []redis.XMessage, gap bool) {
		changes := make([]DocChange, 0, len(entries))
		for _, e := range entries {
			for line := range strings.SplitSeq(text(e.Values["c"]), "\n") {
				c, err := docChange(line)
				if err != nil {
					gap = true
					if invalid++; logged.IsZero() || time.Since(logged) >= logInvalidEvery {
						s.log.Error("entries of the stream of documents are not valid", "count", invalid, "last", e.ID, "error", err)
						invalid, logged = 0, time.Now()
					}
					continue
				}
				changes = append(changes, c)
			}
		}
		fn(changes, gap)
	})
}

// docChange reads host|kind|epoch|generation|session|hash.
func docChange(line string) (c DocChange, err error) {
	parts := strings.SplitN(line, "|", 6)
	if len(parts) != 6 {
		return c, fmt.Errorf("%q does not have six parts", line)
	}
	if c.Host, err = uuid.Parse(parts[0]); err != nil {
		return c, fmt.Errorf("host: %w", err)
	}
	c.Kind = parts[1]
	c.Version = assignment.Version{Epoch: parts[2], Generation: number(parts[3]), Hash: parts[5]}
	if parts[4] != "" {
		if c.Session, err = uuid.Parse(parts[4]); err != nil {
			return c, fmt.Errorf("session: %w", err)
		}
	}
	return c, nil
}

// WatchRecords calls fn with the ids of records as they change, and of those that TellFares names, until ctx ends, and returns
// its error. gap is as for WatchDocuments.
func (s *Store) WatchRecords(ctx context.Context, fn func(ids []instrumentation.ID, gap bool)) error {
	return s.follow(ctx, []string{record + "log", record + "fares"}, func(entries []redis.XMessage, gap bool) {
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

// followSome reads streams by one command. Ids count up by one, so what is missing shows. So does the first entry of a stream that
// has begun anew: only for one who knew of none does it follow on what was read.
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
					gap = gap || n != known[i]+1 && (known[i] != 0 || e.Values["first"] == nil)
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
		if len(entries) >= manyEntries {
			sleep(ctx, gatherFor)
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
