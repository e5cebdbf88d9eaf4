package delivery_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/delivery"
	"iapi/delivery/deliverytest"
)

func TestOnlyAgentsThatWereHeardOfAreTouched(t *testing.T) {
	w := start(t, deliverytest.New(), func(o *delivery.Options) { o.TouchEvery = 5 * time.Millisecond })
	quiet, alive := uuid.New(), uuid.New()
	w.source.Commit(quiet, `[1]`)
	w.source.Commit(alive, `[1]`)
	w.subscribe(t, quiet, uuid.New(), assignment.Version{})
	s := w.subscribe(t, alive, uuid.New(), assignment.Version{})
	count := func(host uuid.UUID) (n int) {
		for _, h := range w.source.Touched() {
			if h == host {
				n++
			}
		}
		return n
	}
	require.Eventually(t, func() bool { s.Alive(); return count(alive) > 3 }, patience, time.Millisecond)
	require.Equal(t, 1, count(quiet), "its subscription alone is a sign of life, once")
}

// Who was heard of while the source was away is recorded when it is back, though he says nothing more; and that it was away is
// told.
func TestWhoIsHeardOfDuringAnOutageIsTouchedAfterIt(t *testing.T) {
	w := start(t, deliverytest.New(), func(o *delivery.Options) { o.TouchEvery = 2 * time.Millisecond })
	host := uuid.New()
	w.source.Commit(host, `[1]`)
	s := w.subscribe(t, host, uuid.New(), assignment.Version{})
	event(t, s)
	require.Eventually(t, func() bool { return len(w.source.Touched()) == 1 }, patience, time.Millisecond)
	w.source.FailWith(errDown)
	s.Alive()
	require.Eventually(t, func() bool { return w.Stats().Failures > 2 }, patience, time.Millisecond)
	w.source.FailWith(nil)
	require.Eventually(t, func() bool { return len(w.source.Touched()) == 2 }, patience, time.Millisecond)
}

// forgetful is a source that cannot record that the agent of one host is alive.
type forgetful struct {
	*deliverytest.Source
	of    uuid.UUID
	fails atomic.Bool
}

func (f *forgetful) Touch(ctx context.Context, hosts ...uuid.UUID) ([]uuid.UUID, error) {
	if !f.fails.Load() || !slices.Contains(hosts, f.of) {
		return f.Source.Touch(ctx, hosts...)
	}
	_, err := f.Source.Touch(ctx, slices.DeleteFunc(slices.Clone(hosts), func(h uuid.UUID) bool { return h == f.of })...)
	return []uuid.UUID{f.of}, errors.Join(err, errDown)
}

// Where it cannot be recorded of some that they are alive, the others are recorded once, and not again without a sign of life.
func TestOnlyThoseThatWereMissedAreTouchedAgain(t *testing.T) {
	f := &forgetful{Source: deliverytest.New(), of: uuid.New()}
	f.fails.Store(true)
	hub := delivery.New(f, delivery.Options{TouchEvery: 2 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = hub.Run(ctx) }()
	defer func() { cancel(); <-done }()
	well := uuid.New()
	for _, host := range []uuid.UUID{f.of, well} {
		f.Commit(host, `[1]`)
		s, err := hub.Subscribe(ctx, host, uuid.New(), assignment.Version{})
		require.NoError(t, err)
		defer s.Close()
	}
	require.Eventually(t, func() bool { return len(f.Touched()) > 0 && hub.Stats().Failures > 5 }, patience, time.Millisecond)
	require.Equal(t, []uuid.UUID{well}, f.Touched())
	f.fails.Store(false)
	require.Eventually(t, func() bool { return len(f.Touched()) > 1 }, patience, time.Millisecond)
	require.Equal(t, []uuid.UUID{well, f.of}, f.Touched())
}

// An agent that polls is alive as long as it does.
func TestPollingIsASignOfLife(t *testing.T) {
	w := start(t, deliverytest.New(), func(o *delivery.Options) { o.TouchEvery = 2 * time.Millisecond })
	host := uuid.New()
	v := w.source.Commit(host, `[1]`)
	for n := range 3 {
		_, current, err := w.Poll(t.Context(), host, uuid.Nil, v)
		require.NoError(t, err)
		require.True(t, current)
		require.Eventually(t, func() bool { return len(w.source.Touched()) > n }, patience, time.Millisecond)
		require.Len(t, w.source.Touched(), n+1)
	}
}

func TestHeartbeatGrowsWithTheFleet(t *testing.T) {
	w := start(t, deliverytest.New(), func(o *delivery.Options) {
		o.ReportsPerSecond, o.MinHeartbeat, o.MaxHeartbeat = 2, 2*time.Second, 5*time.Second
	})
	for n, period := range []time.Duration{4: 2 * time.Second, 6: 3 * time.Second, 10: 5 * time.Second, 20: 5 * time.Second} {
		for w.Stats().Connected < n {
			host := uuid.New()
			w.source.Commit(host, `[]`)
			event(t, w.subscribe(t, host, uuid.New(), assignment.Version{}))
		}
		if period > 0 {
			require.Equal(t, period, w.Heartbeat(), "%d agents", n)
		}
	}
}
