package worker

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"iapi/inventory/vmapi"
	"iapi/store"
)

// feed is a changefeed that tells who begins and who ends listening.
type feed struct{ began, ended chan struct{} }

func newFeed() feed { return feed{make(chan struct{}, 10), make(chan struct{}, 10)} }

func (f feed) Listen(ctx context.Context, _ vmapi.ListenOptions, _ vmapi.Handler) error {
	f.began <- struct{}{}
	<-ctx.Done()
	f.ended <- struct{}{}
	return ctx.Err()
}

// severed is a store that cannot be asked for leases any more once it is cut off.
type severed struct {
	Store
	cut atomic.Bool
}

func (s *severed) Lease(ctx context.Context, name, holder string, ttl time.Duration) (bool, error) {
	if s.cut.Load() {
		return false, errors.New("the store cannot be reached")
	}
	return s.Store.Lease(ctx, name, holder, ttl)
}

func (s *severed) ReleaseLease(ctx context.Context, name, holder string) error {
	if s.cut.Load() {
		return errors.New("the store cannot be reached")
	}
	return s.Store.ReleaseLease(ctx, name, holder)
}

func happens(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		require.Fail(t, what)
	}
}

func TestOneHolderListensAndSweepsAndAnotherTakesOver(t *testing.T) {
	stores(t, func(t *testing.T, open func(t testing.TB) *store.Store) {
		// A holder that does not come to extend its lease in time loses it: then the machine is too slow for that term.
		for term := time.Second; !holdsAndIsFollowed(t, open(t), term); term *= 2 {
			require.Less(t, term, patience, "nobody holds it for a term")
		}
	})
}

// holdsAndIsFollowed returns false when a holder lost its lease before it was meant to.
func holdsAndIsFollowed(t *testing.T, s *store.Store, term time.Duration) bool {
	b := newBench(t, 31, s)
	start := func(f feed, st Store) (q *tasks, stop func()) {
		w, err := New(Options{
			Store: st, VMAPI: b.cloud, CNAPI: b.cloud, Catalog: fakeCatalog{}, Redis: s.Client(), Feed: f, Registerer: prometheus.NewRegistry(),
		})
		require.NoError(t, err)
		q = &tasks{}
		w.queue, w.term = q, term
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); w.scheduleLoop(ctx) }()
		stop = func() { cancel(); <-done }
		t.Cleanup(stop)
		return q, stop
	}
	sweeps := func(q *tasks) int { q.mu.Lock(); defer q.mu.Unlock(); return q.sweeps }
	first, second, third := newFeed(), newFeed(), newFeed()
	cut := &severed{Store: s}
	one, _ := start(first, cut)
	happens(t, first.began, "the first listens")
	two, stop := start(second, s)
	eventually(t, func() bool { return sweeps(one) >= 1 })
	if len(second.began) > 0 || sweeps(two) > 0 {
		happens(t, first.ended, "one of them does it")
		return false
	}

	cut.cut.Store(true) // as if it were dead: it gives nothing back
	happens(t, first.ended, "the first stops by itself")
	happens(t, second.began, "the second takes over")
	eventually(t, func() bool { return sweeps(two) >= 1 })

	_, _ = start(third, s)
	if len(third.began) > 0 {
		happens(t, second.ended, "one of them listens")
		return false
	}
	stop() // as an operator would end it: it gives the schedule back
	happens(t, second.ended, "the second stops")
	happens(t, third.began, "the third takes over")
	return true
}
