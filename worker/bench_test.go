package worker

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/inventory/vmapi"
	"iapi/store"
)

// big is an inventory of many VMs that answers at once. VMs are made when they are asked for: VM i is on host i/100 and
// belongs to owner i/20, and its version grows by retagging.
type big struct {
	vms, hosts int
	retagged   map[int]int
}

func (c *big) vm(i int) inventory.VM {
	return inventory.VM{
		UUID: numbered(3, i), Owner: numbered(1, i/20), Host: numbered(2, i*c.hosts/c.vms), Alias: "vm", State: "running",
		Tags: map[string]string{"role": []string{"db", "web", "cache", "app"}[i%4], "version": fmt.Sprint(c.retagged[i])},
	}
}

func number(id uuid.UUID) int { return int(id[13])<<16 | int(id[14])<<8 | int(id[15]) }

func (c *big) VM(_ context.Context, id uuid.UUID) (inventory.VM, error) { return c.vm(number(id)), nil }

func (c *big) Each(ctx context.Context, q vmapi.Query, fn func([]inventory.VM) error) error {
	return c.EachFrom(ctx, q, uuid.Nil, func(p []inventory.VM, _ uuid.UUID) error { return fn(p) })
}

func (c *big) EachFrom(_ context.Context, q vmapi.Query, _ uuid.UUID, fn func([]inventory.VM, uuid.UUID) error) error {
	if q.UUIDs != nil {
		page := make([]inventory.VM, len(q.UUIDs))
		for i, id := range q.UUIDs {
			page[i] = c.vm(number(id))
		}
		return fn(page, page[len(page)-1].UUID)
	}
	from, to := 0, c.vms
	switch each := c.vms / c.hosts; {
	case q.Host != uuid.Nil:
		from, to = number(q.Host)*each, (number(q.Host)+1)*each
	case q.Owner != uuid.Nil:
		from, to = number(q.Owner)*20, (number(q.Owner)+1)*20
	}
	page := make([]inventory.VM, 0, 1000)
	for i := to - 1; i >= from; i-- {
		if page = append(page, c.vm(i)); len(page) == 1000 || i == from {
			if err := fn(page, page[len(page)-1].UUID); err != nil {
				return err
			}
			page = page[:0]
		}
	}
	return nil
}

func (c *big) ChangedSince(context.Context, time.Time, func([]inventory.VM) error) error { return nil }

func (c *big) Hosts(context.Context) ([]inventory.Host, error) {
	hosts := make([]inventory.Host, c.hosts)
	for i := range hosts {
		hosts[i] = inventory.Host{UUID: numbered(2, i), Name: fmt.Sprint("cn", i)}
	}
	return hosts, nil
}

// fill makes a store whose facts are those of an inventory, with some instrumentations of single owners.
func fill(b testing.TB, s *store.Store, c *big, instrumentations int) *Worker {
	ctx := context.Background()
	w, err := New(Options{Store: s, VMAPI: c, CNAPI: c, Catalog: fakeCatalog{}, Redis: s.Client(), NoSchedule: true, Lease: 30 * time.Second})
	require.NoError(b, err)
	w.queue = &tasks{}
	for i := range instrumentations {
		now := time.Now().UTC()
		_, err := s.Commit(ctx, instrumentation.Change{Record: instrumentation.Instrumentation{
			ID: instrumentation.ID(fmt.Sprintf("i%06d", i)), Revision: 1, Owner: numbered(1, i%(c.vms/20)), Metric: "cpu.usage", Granularity: 1,
			Scope: instrumentation.Scope{All: true}, CreatedAt: now, UpdatedAt: now, State: instrumentation.Created,
		}})
		require.NoError(b, err)
	}
	require.NoError(b, w.Sweep(ctx))
	require.NoError(b, w.drain(ctx))
	return w
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail for oneself
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkVmEvent is one VM's retagging: from the hint to the committed document, by a running worker on a real server.
func BenchmarkVmEvent(b *testing.B) {
	s := open(b, store.Options{URL: startRedis(b)})
	c := &big{vms: 10_000, hosts: 100, retagged: map[int]int{}}
	fill(b, s, c, 500)
	ctx := context.Background()
	scope := instrumentation.Scope{And: []instrumentation.Scope{{Hosts: []uuid.UUID{numbered(2, 50)}}, tag("version")}}
	now := time.Now().UTC()
	vm := c.vm(5000)
	_, err := s.Commit(ctx, instrumentation.Change{Record: instrumentation.Instrumentation{
		ID: "i999999", Revision: 1, Metric: "cpu.usage", Granularity: 1, CreatedAt: now, UpdatedAt: now, State: instrumentation.Created,
		Scope: instrumentation.Scope{And: []instrumentation.Scope{scope, {VMTag: &instrumentation.TagMatch{Key: "version", In: []string{"1"}}}}},
	}})
	require.NoError(b, err)
	running(b, &bench{}, s, func(o *Options) { o.VMAPI, o.CNAPI, o.NoSchedule = c, c, true })
	written := documents(b, s)
	var took, floor []time.Duration
	b.ResetTimer()
	used, before := cpu(), commands(b, s)
	for i := range b.N {
		c.retagged[5000] = (i + 1) % 2 // nobody reads it between the hints
		begun := time.Now()
		require.NoError(b, s.MarkVMs(ctx, vm.UUID))
		<-written
		took = append(took, time.Since(begun))
	}
	b.StopTimer()
	b.ReportMetric(float64(cpu()-used)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(commands(b, s)-before)/float64(b.N), "commands/op")
	for range b.N { // beside them, what the machine needs for so many round trips one after the other
		begun := time.Now()
		for range eventTrips {
			require.NoError(b, s.Client().Ping(ctx).Err())
		}
		floor = append(floor, time.Since(begun))
	}
	report(b, "", took)
	report(b, "floor-", floor)
}

// eventTrips is how often a VM's event goes to Redis and back until it is written: the mark; the wake; of the VM the queue, the
// claim, the time, two scripts of facts, and the end of the claim; the wake; of the host the queue, the claim, the facts, the
// log and the commit; and the change that is read here.
const eventTrips = 15

// documents returns a channel that has something whenever a document was written.
func documents(b testing.TB, s *store.Store) <-chan struct{} {
	written, begun := make(chan struct{}, 1), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.WatchDocuments(ctx, func(changes []store.DocChange, gap bool) { // it ends with ctx
			if gap && len(changes) == 0 {
				close(begun)
				return
			}
			select {
			case written <- struct{}{}:
			default:
			}
		})
	}()
	b.Cleanup(func() { cancel(); <-done })
	<-begun
	return written
}

// report reports the median and the 99th percentile.
func report(b *testing.B, name string, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), name+"p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), name+"p99-µs")
}

// handled is a store that tells when a handler begins, with the record that it reads.
type handled struct {
	*store.Store
	begun chan time.Time
}

func (h handled) Get(ctx context.Context, ids ...instrumentation.ID) ([]*instrumentation.Instrumentation, error) {
	select {
	case h.begun <- time.Now():
	default: // other reads
	}
	return h.Store.Get(ctx, ids...)
}

// BenchmarkTaskPickUp is the time from enqueueing a task to the start of its handler, and to the end of what it does, by an
// idle worker.
func BenchmarkTaskPickUp(b *testing.B) {
	url := startRedis(b)
	s := open(b, store.Options{URL: url})
	o, err := redis.ParseURL(url)
	require.NoError(b, err)
	client := redis.NewClient(o)
	defer client.Close()
	c := &big{vms: 100, hosts: 1, retagged: map[int]int{}}
	h := handled{s, make(chan time.Time, 1)}
	running(b, &bench{}, s, func(o *Options) { o.Store, o.VMAPI, o.CNAPI, o.NoSchedule = h, c, c, true })
	queue := NewQueue(client, s)
	ctx := context.Background()
	var pickedUp, done []time.Duration
	for i := range b.N {
		now := time.Now().UTC()
		rec := instrumentation.Instrumentation{
			ID: instrumentation.ID(fmt.Sprintf("i%06d", i)), Revision: 1, Metric: "cpu.usage", Granularity: 1, CreatedAt: now, UpdatedAt: now,
			State: instrumentation.Created, Scope: instrumentation.Scope{Hosts: []uuid.UUID{numbered(2, 0)}},
		}
		_, err := s.Commit(ctx, instrumentation.Change{Record: rec})
		require.NoError(b, err)
		select {
		case <-h.begun: // of the tick
		default:
		}
		begun := time.Now()
		require.NoError(b, queue.Evaluate(ctx, rec.ID, 1))
		pickedUp = append(pickedUp, (<-h.begun).Sub(begun))
		for {
			recs, err := s.Get(ctx, rec.ID)
			require.NoError(b, err)
			if recs[0].Evaluated == 1 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		done = append(done, time.Since(begun))
	}
	report(b, "handler-", pickedUp)
	report(b, "evaluated-", done)
}

// BenchmarkIdleWorker is what a worker costs while nothing happens, in its process and in Redis: one op is a second.
func BenchmarkIdleWorker(b *testing.B) {
	s := open(b, store.Options{URL: startRedis(b)})
	c := &big{vms: 100, hosts: 1, retagged: map[int]int{}}
	fill(b, s, c, 10)
	running(b, &bench{}, s, func(o *Options) { o.VMAPI, o.CNAPI, o.NoSchedule = c, c, true })
	eventually(b, func() bool { // what is left of its start passes
		back, err := s.Backlog(context.Background())
		return err == nil && back.DirtyHosts+back.Unevaluated+back.Judge == 0
	})
	before, used, served := commands(b, s), cpu(), serverCPU(b, s)
	b.ResetTimer()
	for range b.N {
		time.Sleep(time.Second)
	}
	b.ReportMetric(float64(commands(b, s)-before)/float64(b.N), "commands/op")
	b.ReportMetric(float64(cpu()-used)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(serverCPU(b, s)-served)/float64(b.N), "redis-cpu-ns/op")
}
