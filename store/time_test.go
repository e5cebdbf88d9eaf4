package store

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// wall is a clock that goes on, and can be set.
type wall struct{ off atomic.Int64 }

func (w *wall) now() time.Time { return time.Now().Round(0).Add(time.Duration(w.off.Load())) }

// lines keeps what is logged, also while it is read.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// apart is a store of another process, as far as time goes, whose clock is w.
func apart(t *testing.T, w *wall) (server, client *Store) {
	t.Helper()
	log := &lines{}
	server, err := Open(t.Context(), Options{Embedded: &Embedded{Listen: "127.0.0.1:0"}, Clock: w.now, Logger: slog.New(slog.NewTextHandler(log, nil))})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	_, url, _ := strings.Cut(log.String(), "url=")
	client, err = Open(t.Context(), Options{URL: strings.TrimSpace(url)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return server, client
}

// Every process has the store's time, however wrong its own clock is, and follows when the store's clock is set.
func TestEverybodysTimeIsTheStores(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{5 * 365 * 24 * time.Hour, -5 * 365 * 24 * time.Hour} {
		w := &wall{}
		w.off.Store(int64(off))
		server, client := apart(t, w)
		agree := func(s *Store) {
			t.Helper()
			require.Eventually(t, func() bool { // the embedded server takes its clock over a few times a second
				r, err := client.readClock(t.Context())
				require.NoError(t, err)
				client.correct(r)
				return s.Time().Sub(w.now()).Abs() < time.Second
			}, 10*time.Second, 10*time.Millisecond)
		}
		require.Less(t, client.Time().Sub(w.now()).Abs(), time.Minute, "from the beginning")
		for _, jump := range []time.Duration{0, time.Hour, -2 * time.Hour, time.Hour} {
			w.off.Add(int64(jump))
			agree(client)
			agree(server)
		}
	}
}

// A reading that may be as wrong as it differs changes nothing, so that time goes on evenly; and no wall clock has a say in it.
func TestTimeGoesOnEvenlyUnlessAClockWasSet(t *testing.T) {
	s := &Store{}
	now := time.Now()
	first := reading{said: time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC), at: now, within: time.Millisecond}
	s.reading.Store(&first)
	later := func(off, within time.Duration) reading {
		return reading{said: first.said.Add(time.Minute + off), at: now.Add(time.Minute), within: within}
	}
	for _, r := range []reading{later(0, time.Millisecond), later(300*time.Millisecond, 400*time.Millisecond), later(-time.Second, time.Second)} {
		s.correct(r)
		require.Equal(t, first, *s.reading.Load())
	}
	for _, r := range []reading{later(10*time.Millisecond, 2*time.Millisecond), later(-time.Hour, time.Second), later(time.Hour, time.Second)} {
		s.reading.Store(&first)
		s.correct(r)
		require.Equal(t, r, *s.reading.Load())
	}
}

// A join token lapses by the store's clock, and one that has lapsed by a clock that was wrong is valid when it is right again.
func TestAJoinTokenLapsesByTheStoresClock(t *testing.T) {
	t.Parallel()
	w := &wall{}
	_, client := apart(t, w)
	ctx, host := t.Context(), uuid.New()
	require.NoError(t, client.PutJoinToken(ctx, "join", host, time.Hour))
	set := func(off time.Duration) {
		t.Helper()
		w.off.Store(int64(off))
		require.Eventually(t, func() bool {
			now, err := client.clock(ctx)
			return err == nil && now.Sub(w.now()).Abs() < time.Minute
		}, 10*time.Second, 5*time.Millisecond)
	}
	set(2 * time.Hour)
	_, err := client.Redeem(ctx, "join", "agent")
	require.ErrorIs(t, err, ErrToken)
	set(-2 * time.Hour)
	set(30 * time.Minute)
	of, err := client.Redeem(ctx, "join", "agent")
	require.NoError(t, err)
	require.Equal(t, host, of)
	_, err = client.Redeem(ctx, "join", "another")
	require.ErrorIs(t, err, ErrToken, "once, whatever the clock says")
}

// In a Cluster one node's clock counts, whichever of them is asked for other things.
func TestTimeIsThatOfOneNodeOfACluster(t *testing.T) {
	t.Parallel()
	ctx, addrs := t.Context(), [2]string{}
	for i := range addrs {
		w := &wall{}
		w.off.Store(int64(time.Duration(i) * 24 * time.Hour))
		_, node := apart(t, w)
		addrs[i] = node.client.(*redis.Client).Options().Addr
	}
	cluster := redis.NewClusterClient(&redis.ClusterOptions{ClusterSlots: func(context.Context) ([]redis.ClusterSlot, error) {
		return []redis.ClusterSlot{
			{Start: 0, End: 8191, Nodes: []redis.ClusterNode{{Addr: addrs[0]}}},
			{Start: 8192, End: 16383, Nodes: []redis.ClusterNode{{Addr: addrs[1]}}},
		}, nil
	}})
	defer cluster.Close()
	s := &Store{client: cluster, readers: cluster, opts: Options{Timeout: time.Minute}}
	first, err := s.Now(ctx) // by the clock of those who have the records
	require.NoError(t, err)
	for range 20 {
		r, err := s.readClock(ctx)
		require.NoError(t, err)
		require.Less(t, r.said.Sub(first).Abs(), time.Hour)
		now, err := s.clock(ctx)
		require.NoError(t, err)
		require.Less(t, now.Sub(first).Abs(), time.Hour)
		at, err := s.servingNow(ctx)
		require.NoError(t, err)
		require.Less(t, at.Sub(first).Abs(), time.Hour)
	}
}

// servingNow is the time by which it is told who serves agents.
func (s *Store) servingNow(ctx context.Context) (time.Time, error) {
	var v serving
	err := s.pipelined(ctx, "read who serves agents", func(p redis.Pipeliner) { v.read(ctx, p) })
	return saidTime(v.now.Val()), err
}
