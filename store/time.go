package store

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

var timeScript = load("time")

const (
	readClockEvery = 5 * time.Second // so that a clock of the store that is set is followed soon
	firstReadings  = 3               // of which the one counts that was answered soonest
)

// reading is what the store's clock said, and when that was by this process's own clock.
type reading struct {
	said, at time.Time
	within   time.Duration // how far from that moment it may have been said
}

// Time returns the store's clock without asking it: what it last said, and what has passed since. That is counted by this
// process's monotonic clock, so that all processes have one time, whatever their wall clocks say and however those are set.
//
// It goes on evenly while the clock that it follows does. When that is set, or another server with another clock takes over,
// as after a failover of Sentinel or in a Cluster, Time steps once in each process, forwards or back, within readClockEvery and
// the time that a reading takes; until then it goes on as before. So it can go back. What must not is ordered by Now.
func (s *Store) Time() time.Time {
	if s.embedded != nil {
		return s.embedded.clock().UTC()
	}
	r := s.reading.Load()
	return r.said.Add(time.Since(r.at)).UTC()
}

// beginTime reads the clock for the first time.
func (s *Store) beginTime(ctx context.Context) error {
	for range firstReadings {
		r, err := s.readClock(ctx)
		if err != nil {
			return err
		}
		if best := s.reading.Load(); best == nil || r.within < best.within {
			s.reading.Store(&r)
		}
	}
	s.jobs.Go(s.keepTime)
	return nil
}

// keepTime reads the clock again and again until the store is closed. While it cannot be read, time goes on.
func (s *Store) keepTime() {
	for sleep(s.ctx, readClockEvery) {
		if r, err := s.readClock(s.ctx); err == nil {
			s.correct(r)
		}
	}
}

// correct takes a reading over that differs by more than it may be wrong, so that time goes on evenly where nobody has set a
// clock.
func (s *Store) correct(r reading) {
	last := s.reading.Load()
	if off := r.said.Sub(last.said) - r.at.Sub(last.at); off.Abs() > r.within {
		s.reading.Store(&r)
	}
}

// readClock asks the store for the time.
func (s *Store) readClock(ctx context.Context) (reading, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	asked := time.Now()
	said, err := askTime(ctx, s.readers)
	if err != nil {
		return reading{}, err
	}
	within := time.Since(asked) / 2
	return reading{said: said, at: asked.Add(within), within: within}, nil
}

// askTime asks for the time. In a Cluster it is always the master of the records that is asked: other nodes have other clocks,
// and the command that has no key goes to any of them.
func askTime(ctx context.Context, client redis.UniversalClient) (time.Time, error) {
	reply, err := timeScript.run.Run(ctx, client, []string{record}).Result()
	if err != nil {
		return time.Time{}, fault("read the store's clock", err)
	}
	if len(list(reply)) != 2 {
		return time.Time{}, fmt.Errorf("read the store's clock: %w", badReply(timeScript, reply))
	}
	return saidTime(reply), nil
}

// saidTime is the time that the script answers.
func saidTime(reply any) time.Time {
	return time.Unix(number(at(reply, 0)), number(at(reply, 1))*int64(time.Microsecond)).UTC()
}
