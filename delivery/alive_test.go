package delivery_test

import (
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
