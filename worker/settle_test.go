package worker

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/store"
)

// asking is a store that says which hosts wait as a test wants it, and counts how often each was asked after.
type asking struct {
	Store
	looks map[uuid.UUID]int
	waits func(host uuid.UUID) bool
}

func (a *asking) Waiting(_ context.Context, _ store.Marked, hosts ...uuid.UUID) (waiting []uuid.UUID, _ error) {
	for _, host := range hosts {
		a.looks[host]++
		if a.waits(host) {
			waiting = append(waiting, host)
		}
	}
	return waiting, nil
}

// settling makes a worker that has an asking store, and hosts for three times what it asks after at once.
func settling(t *testing.T, waits func(a *asking, host uuid.UUID) bool) (*Worker, *asking, []uuid.UUID) {
	w := newBench(t, 1, newFakeStore()).worker(0)
	a := &asking{Store: w.Store, looks: make(map[uuid.UUID]int)}
	a.waits = func(host uuid.UUID) bool { return waits(a, host) }
	w.Store = a
	hosts := make([]uuid.UUID, 3*settleAtOnce)
	for i := range hosts {
		hosts[i] = hostID(i)
	}
	return w, a, hosts
}

func TestEveryHostIsAskedAfterWhenPatienceIsOut(t *testing.T) {
	w, a, hosts := settling(t, func(_ *asking, host uuid.UUID) bool { return host[15]%2 == 0 })
	require.NoError(t, w.settle(t.Context(), hosts))
	require.Len(t, a.looks, len(hosts))
}

func TestHostsThatStayUnreconciledDoNotKeepOthersFromBeingWaitedFor(t *testing.T) {
	stuck := func(host uuid.UUID) bool { return host[14] == 0 && host[15] < 100 }
	// They are done at the second look, and those that are stuck when all were asked after.
	w, a, hosts := settling(t, func(a *asking, host uuid.UUID) bool {
		return a.looks[host] < 2 || stuck(host) && len(a.looks) < 3*settleAtOnce
	})
	w.patience = patience
	require.NoError(t, w.settle(t.Context(), hosts)) // when all are done, long before patience is out
	for _, host := range hosts {
		require.GreaterOrEqual(t, a.looks[host], 2, "it was waited for")
	}
}
