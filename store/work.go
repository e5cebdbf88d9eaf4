package store

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"iapi/instrumentation"
)

var (
	judgeScript = load("judge")
	faresScript = load("fares")
)

// maxLog is how many entries of the change log one call of Log reads.
const maxLog = 1000

// Log reads the change log of records after a position without waiting: the ids that have changed, each as often as it has,
// and the position to go on from. gap says that entries after the position are gone, or that the position is not of this
// log, because the store has lost its last writes; everything must then be read again from the position returned. An empty
// position is such a gap. When there is more than fits into one answer, the next call has it.
func (s *Store) Log(ctx context.Context, after string) (ids []instrumentation.ID, pos string, gap bool, err error) {
	known, nonce, err := parseLogPosition(after)
	if err != nil {
		return nil, "", false, fmt.Errorf("read the change log: %w", err)
	}
	var entries, last *redis.XMessageSliceCmd
	err = s.pipelined(ctx, "read the change log", func(p redis.Pipeliner) {
		entries = p.XRangeN(ctx, record+"log", itoa(known)+"-0", "+", maxLog+1)
		last = p.XRevRangeN(ctx, record+"log", "+", "-", 1)
	})
	if err != nil {
		return nil, "", false, err
	}
	end := "0" // of a log that has nothing yet
	for _, e := range last.Val() {
		end = logPosition(e)
	}
	news := entries.Val()
	if known > 0 { // the entry that was read last is there still, and is the same
		if len(news) == 0 || logPosition(news[0]) != itoa(known)+":"+nonce {
			return nil, end, true, nil
		}
		news = news[1:]
	}
	if after == "" {
		return nil, end, true, nil
	}
	pos = after
	for i, e := range news {
		if position(e.ID) != known+1+int64(i) {
			return nil, end, true, nil
		}
		ids, pos = append(ids, instrumentation.ID(text(e.Values["id"]))), logPosition(e)
	}
	return ids, pos, false, nil
}

// logPosition names an entry by its number and by the nonce of its commit: a store that has lost its last writes gives out
// the same numbers again.
func logPosition(e redis.XMessage) string { return itoa(position(e.ID)) + ":" + text(e.Values["n"]) }

func parseLogPosition(pos string) (n int64, nonce string, err error) {
	if pos == "" {
		return 0, "", nil
	}
	number, nonce, _ := strings.Cut(pos, ":")
	if n, err = strconv.ParseInt(number, 10, 64); err != nil || n < 0 {
		return 0, "", fmt.Errorf("position %q is not valid", pos)
	}
	return n, nonce, nil
}

// position is the number of an entry of one of our streams, whose ids are numbers without gaps.
func position(id string) int64 {
	for i := range len(id) {
		if id[i] == '-' {
			id = id[:i]
			break
		}
	}
	n, _ := strconv.ParseInt(id, 10, 64)
	return n
}

// AllLive calls fn with everything that is not deleted, paused or expired, in pieces, oldest first, and returns the position
// in the change log at which the walk began. What changes meanwhile is in the log after it.
func (s *Store) AllLive(ctx context.Context, fn func([]instrumentation.Instrumentation) error) (pos string, err error) {
	if _, pos, _, err = s.Log(ctx, ""); err != nil {
		return "", err
	}
	now, err := s.clock(ctx)
	if err != nil {
		return "", err
	}
	for from := "-"; ; {
		ids, err := s.walk(ctx, from, 500)
		if err != nil {
			return "", err
		}
		if len(ids) == 0 {
			return pos, nil
		}
		records, err := s.Get(ctx, ids...)
		if err != nil {
			return "", err
		}
		live := make([]instrumentation.Instrumentation, 0, len(records))
		for _, r := range records {
			if r != nil && r.Live(now) {
				live = append(live, *r)
			}
		}
		if len(live) > 0 {
			if err := fn(live); err != nil {
				return "", err
			}
		}
		from = "(" + string(ids[len(ids)-1])
	}
}

// walk returns ids of records in their order.
func (s *Store) walk(ctx context.Context, from string, n int64) ([]instrumentation.ID, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	ids, err := s.client.ZRangeByLex(ctx, record+"ix:all", &redis.ZRangeBy{Min: from, Max: "+", Count: n}).Result()
	if err != nil {
		return nil, fault("read the ids of records", err)
	}
	return toIDs(ids), nil
}

func toIDs(in []string) []instrumentation.ID {
	out := make([]instrumentation.ID, len(in))
	for i, v := range in {
		out[i] = instrumentation.ID(v)
	}
	return out
}

// Unevaluated returns up to n revisions that have waited to be evaluated for longer than olderThan, the oldest first.
func (s *Store) Unevaluated(ctx context.Context, olderThan time.Duration, n int) ([]Pending, error) {
	now, err := s.clock(ctx)
	if err != nil {
		return nil, err
	}
	ids, err := s.upTo(ctx, "unevaluated", now.Add(-olderThan).UnixMilli(), n)
	if err != nil {
		return nil, err
	}
	records, err := s.Get(ctx, ids...)
	if err != nil {
		return nil, err
	}
	var out []Pending
	for _, r := range records {
		if r != nil {
			out = append(out, Pending{ID: r.ID, Revision: r.Revision})
		}
	}
	return out, nil
}

// Expiring returns up to n instrumentations that have expired by now and do not have state EXPIRED yet, the oldest first.
func (s *Store) Expiring(ctx context.Context, now time.Time, n int) ([]instrumentation.ID, error) {
	return s.upTo(ctx, "expires", now.UnixMilli(), n)
}

// upTo returns the members of a zset of records with scores up to a time.
func (s *Store) upTo(ctx context.Context, name string, ms int64, n int) ([]instrumentation.ID, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	ids, err := s.client.ZRangeByScore(ctx, record+name, &redis.ZRangeBy{Min: "-inf", Max: itoa(ms), Count: int64(n)}).Result()
	if err != nil {
		return nil, fault("read "+name, err)
	}
	return toIDs(ids), nil
}

// NextByState returns up to n instrumentations in a state that come after an id, oldest first; fewer than n are the last.
func (s *Store) NextByState(ctx context.Context, state instrumentation.State, after instrumentation.ID, n int) ([]instrumentation.ID, error) {
	from := "-"
	if after != "" {
		from = "(" + string(after)
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	ids, err := s.client.ZRangeByLex(ctx, record+stateIndex(state), &redis.ZRangeBy{Min: from, Max: "+", Count: int64(n)}).Result()
	if err != nil {
		return nil, fault("read ids by state", err)
	}
	return toIDs(ids), nil
}

// MarkJudge marks instrumentations to have their state judged, and wakes a worker.
func (s *Store) MarkJudge(ctx context.Context, ids ...instrumentation.ID) error {
	for chunk := range slices.Chunk(ids, 1000) {
		if _, err := s.do(ctx, judgeScript, record, anys(chunk)...); err != nil {
			return err
		}
	}
	return nil
}

// TellFares has WatchRecords tell of instrumentations whose sources fare otherwise, while their records stand as they are.
func (s *Store) TellFares(ctx context.Context, ids ...instrumentation.ID) error {
	for chunk := range slices.Chunk(ids, 1000) {
		if _, err := s.do(ctx, faresScript, record, anys(chunk)...); err != nil {
			return err
		}
	}
	return nil
}

// ClaimJudge takes up to n instrumentations that are to be judged, the oldest marks first. Their marks are gone: if the
// worker dies, its peers find them again by their state.
func (s *Store) ClaimJudge(ctx context.Context, n int) ([]instrumentation.ID, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	popped, err := s.client.ZPopMin(ctx, record+"judge", int64(n)).Result()
	if err != nil {
		return nil, fault("claim what is to be judged", err)
	}
	var ids []instrumentation.ID
	for _, z := range popped {
		id, _ := z.Member.(string)
		ids = append(ids, instrumentation.ID(id))
	}
	return ids, nil
}
