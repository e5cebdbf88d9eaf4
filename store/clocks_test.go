package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/store"
	"iapi/store/storetest"
)

// otherClocks has whoever asks any node of a Cluster for the time be told another than that of the shards.
type otherClocks struct{ by time.Duration }

func (otherClocks) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (otherClocks) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (o otherClocks) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, c := range cmds {
			if c, ok := c.(*redis.TimeCmd); ok {
				c.SetVal(c.Val().Add(o.by))
			}
		}
		return err
	}
}

// In a Cluster the shards' masters have clocks of their own.
func TestClaimsLapseAndMarksAgeByTheClockThatGaveThem(t *testing.T) {
	for _, by := range []time.Duration{time.Hour, -time.Hour} {
		storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
			s.Client().(interface{ AddHook(redis.Hook) }).AddHook(otherClocks{by})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			hosts := []uuid.UUID{uid(1000), uid(1001)}
			require.NoError(t, s.MarkHosts(ctx, false, hosts...))
			long, err := s.ClaimHosts(ctx, "alive", 1, time.Hour)
			require.NoError(t, err)
			require.Len(t, long, 1)
			held, err := s.ClaimHosts(ctx, "dead", 1, 50*time.Millisecond)
			require.NoError(t, err)
			require.Len(t, held, 1)
			require.NotEqual(t, held[0].Host, long[0].Host)
			eventually(t, func() bool { // the one that lapses, when it does
				again, err := s.ClaimHosts(ctx, "alive", 2, time.Hour)
				require.NoError(t, err)
				return len(again) == 1 && again[0].Host == held[0].Host
			})
			b, err := s.Backlog(ctx)
			require.NoError(t, err)
			require.Equal(t, 2, b.DirtyHosts)
			require.Positive(t, b.OldestHost, "what is claimed waits too")
			require.Less(t, b.OldestHost, time.Minute)
		})
	}
}
