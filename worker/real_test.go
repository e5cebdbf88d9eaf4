package worker

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/store"
	"iapi/store/storetest"
)

// startRedis starts a redis-server that keeps nothing on disk, and returns its URL.
func startRedis(t testing.TB) string { return storetest.Start(t, "--appendonly", "no").URL() }

// patience is how long tests wait for what must come. What comes in time ends the wait, so that only a test that fails is
// slow; how soon things come is for the benchmarks.
const patience = time.Minute

// eventually waits until something is so. It is asked in the test's own goroutine.
func eventually(t testing.TB, so func() bool, told ...any) {
	t.Helper()
	for begun := time.Now(); !so(); time.Sleep(2 * time.Millisecond) {
		require.Less(t, time.Since(begun), patience, told...)
	}
}

func open(t testing.TB, o store.Options) *store.Store {
	if o.Timeout == 0 {
		o.Timeout = patience // a machine that is slow is no reason to fail
	}
	s, err := store.Open(context.Background(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// stores runs a test on the embedded store and on a real server.
func stores(t *testing.T, fn func(t *testing.T, open func(t testing.TB) *store.Store)) {
	t.Run("embedded", func(t *testing.T) {
		fn(t, func(t testing.TB) *store.Store {
			return open(t, store.Options{Embedded: &store.Embedded{Dir: t.TempDir()}})
		})
	})
	t.Run("redis", func(t *testing.T) {
		fn(t, func(t testing.TB) *store.Store { return open(t, store.Options{URL: startRedis(t)}) })
	})
}

func TestEverythingConvergesOnTheRealStore(t *testing.T) {
	stores(t, func(t *testing.T, open func(t testing.TB) *store.Store) {
		for seed := range uint64(3) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				b := newBench(t, 100+seed, open(t))
				b.share = 1
				b.chaos(25)
				w := b.worker(0)
				require.NoError(t, w.Sweep(context.Background()))
				b.settle(w)
				b.requireTrue()
			})
		}
	})
}

// running starts a worker on a real store, and stops it when the test ends or stop is called.
func running(t testing.TB, b *bench, s *store.Store, change ...func(*Options)) (w *Worker, stop func()) {
	o := Options{Store: s, VMAPI: b.cloud, CNAPI: b.cloud, Catalog: fakeCatalog{}, Redis: s.Client(), Lease: time.Second}
	for _, fn := range change {
		fn(&o)
	}
	w, err := New(o)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			select {
			case err := <-done:
				require.NoError(t, err)
			case <-time.After(patience):
				t.Error("the worker does not end")
			}
		}
	}
	t.Cleanup(stop)
	return w, stop
}

func TestARunningWorkerCarriesOutWhatIsAsked(t *testing.T) {
	stores(t, func(t *testing.T, open func(t testing.TB) *store.Store) {
		s := open(t)
		b := newBench(t, 12, s)
		w, stop := running(t, b, s)
		queue := NewQueue(s.Client(), s)
		ctx := context.Background()
		swept := func() bool { ids, _ := s.HostIDs(ctx); return len(ids) == 5 }
		eventually(t, swept, "the one that holds the schedule sweeps at its start")

		id := b.create(uuid.Nil, instrumentation.Scope{EveryHost: true})
		require.NoError(t, queue.Evaluate(ctx, id, 1))
		require.NoError(t, queue.Evaluate(ctx, id, 1), "asking twice is no error")
		eventually(t, func() bool { return b.places() == 5 })
		eventually(t, func() bool { return b.get(id).Evaluated == 1 })

		lost := b.create(uuid.Nil, tag("role"))
		eventually(t, func() bool { return b.get(lost).Evaluated == 1 }, "the tick finds what was never enqueued")

		vm := b.randomVM(50)
		vm.State, vm.Host = "running", hostID(3)
		b.cloud.set(func() { b.cloud.vms[vm.UUID] = vm })
		require.NoError(t, queue.NotifyVM(ctx, vm.UUID))
		in := func() bool { return strings.Contains(b.document(hostID(3)), vm.UUID.String()) }
		eventually(t, in)

		b.update(id, func(r *instrumentation.Instrumentation) {
			r.DeletedAt, r.State = time.Now().UTC(), instrumentation.Deleting
		})
		require.NoError(t, queue.Evaluate(ctx, id, 2))
		eventually(t, func() bool { return !strings.Contains(b.document(hostID(1)), string(id)) })

		p, err := w.Preview(ctx, uuid.Nil, tag("role"), "cpu.usage")
		require.NoError(t, err)
		require.NotEmpty(t, p.VMs)
		stop()
		held, err := s.Lease(ctx, scheduleLease, "another", time.Second)
		require.NoError(t, err)
		require.True(t, held, "a worker that ends gives the schedule back")
	})
}

func TestAnotherWorkerTakesOverWhatADeadOneHeld(t *testing.T) {
	stores(t, func(t *testing.T, open func(t testing.TB) *store.Store) {
		s := open(t)
		b := newBench(t, 13, s)
		w := b.worker(0)
		ctx := context.Background()
		require.NoError(t, w.Sweep(ctx))
		b.settle(w)
		b.create(uuid.Nil, instrumentation.Scope{EveryHost: true})
		ids, err := s.HostIDs(ctx)
		require.NoError(t, err)
		require.NoError(t, s.MarkHosts(ctx, false, ids...))
		claims, err := s.ClaimHosts(ctx, "dead", 100, time.Second)
		require.NoError(t, err)
		require.Len(t, claims, 5)
		running(t, b, s)
		eventually(t, func() bool { return b.places() == 5 })
	})
}
