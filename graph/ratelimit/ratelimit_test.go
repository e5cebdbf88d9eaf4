package ratelimit_test

import (
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/graph/ratelimit"
)

func TestEachCallerHasABudget(t *testing.T) {
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { _ = client.Close() })
	l := ratelimit.New(client, 10, 100)
	ok, _, err := l.Allow(t.Context(), "alice", 90)
	require.NoError(t, err)
	require.True(t, ok)
	ok, after, err := l.Allow(t.Context(), "alice", 50)
	require.NoError(t, err)
	require.False(t, ok)
	require.InDelta(t, 4, after.Seconds(), 0.5, "40 units at 10 in a second")
	ok, _, err = l.Allow(t.Context(), "bob", 1000)
	require.NoError(t, err)
	require.True(t, ok, "more than the burst can be paid with the burst")
	server.Close()
	_, _, err = l.Allow(t.Context(), "bob", 1)
	require.Error(t, err)
}
