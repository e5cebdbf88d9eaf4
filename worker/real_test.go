package worker

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/store"
)

// startRedis starts a redis-server for the test and returns its URL. Where none is installed the test is skipped, but not
// in CI.
func startRedis(t testing.TB) string {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("redis-server is not installed")
		}
		t.Skip("redis-server is not installed")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())
	cmd := exec.Command(bin, "--port", fmt.Sprint(port), "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir(), "--maxmemory-policy", "noeviction")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()
	require.Eventually(t, func() bool { return client.Ping(context.Background()).Err() == nil }, 10*time.Second, 20*time.Millisecond)
	return "redis://" + addr
}

func open(t testing.TB, o store.Options) *store.Store {
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
				b := newBench(t, 100+seed, open(t))
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
			case <-time.After(20 * time.Second):
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
		require.Eventually(t, swept, 10*time.Second, 5*time.Millisecond, "the one that holds the schedule sweeps at its start")

		id := b.create(uuid.Nil, instrumentation.Scope{EveryHost: true})
		require.NoError(t, queue.Evaluate(ctx, id, 1))
		require.NoError(t, queue.Evaluate(ctx, id, 1), "asking twice is no error")
		require.Eventually(t, func() bool { return b.places() == 5 }, 5*time.Second, 5*time.Millisecond)
		require.Eventually(t, func() bool { return b.get(id).Evaluated == 1 }, 5*time.Second, 5*time.Millisecond)

		lost := b.create(uuid.Nil, tag("role"))
		require.Eventually(t, func() bool { return b.get(lost).Evaluated == 1 }, 15*time.Second, 20*time.Millisecond, "the tick finds what was never enqueued")

		vm := b.randomVM(50)
		vm.State, vm.Host = "running", hostID(3)
		b.cloud.set(func() { b.cloud.vms[vm.UUID] = vm })
		require.NoError(t, queue.NotifyVM(ctx, vm.UUID))
		in := func() bool { return strings.Contains(b.document(hostID(3)), vm.UUID.String()) }
		require.Eventually(t, in, 5*time.Second, 2*time.Millisecond)

		b.update(id, func(r *instrumentation.Instrumentation) {
			r.DeletedAt, r.State = time.Now().UTC(), instrumentation.Deleting
		})
		require.NoError(t, queue.Evaluate(ctx, id, 2))
		require.Eventually(t, func() bool { return !strings.Contains(b.document(hostID(1)), string(id)) }, 5*time.Second, 5*time.Millisecond)

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
		killed := time.Now()
		running(t, b, s)
		require.Eventually(t, func() bool { return b.places() == 5 }, 10*time.Second, 10*time.Millisecond)
		require.Less(t, time.Since(killed), 10*time.Second)
	})
}
