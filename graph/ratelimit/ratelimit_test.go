package ratelimit_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/graph/ratelimit"
	"iapi/store"
	"iapi/store/storetest"
)

func TestEachCallerHasABudget(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		l := ratelimit.New(s.Client(), 10, 100)
		ok, _, err := l.Allow(t.Context(), "alice", 90)
		require.NoError(t, err)
		require.True(t, ok)
		ok, after, err := l.Allow(t.Context(), "alice", 50)
		require.NoError(t, err)
		require.False(t, ok)
		require.InDelta(t, 4, after.Seconds(), 1, "40 units at 10 in a second")
		ok, _, err = l.Allow(t.Context(), "bob", 1000)
		require.NoError(t, err)
		require.True(t, ok, "more than the burst can be paid with the burst")
	})
}

func TestAStoreThatIsAwayIsAnErrorAndNoRefusal(t *testing.T) {
	server := storetest.Start(t)
	s, err := store.Open(t.Context(), store.Options{URL: server.URL()})
	require.NoError(t, err)
	defer s.Close()
	l := ratelimit.New(s.Client(), 10, 100)
	server.Kill()
	_, _, err = l.Allow(t.Context(), "bob", 1)
	require.Error(t, err)
}
