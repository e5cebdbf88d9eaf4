package worker

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/catalog"
	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/inventory/vmapi"
	"iapi/placement"
)

// cloud is the inventory: VMAPI and CNAPI in one, which can be made to fail and to lie.
type cloud struct {
	mu    sync.Mutex
	vms   map[uuid.UUID]inventory.VM
	hosts map[uuid.UUID]inventory.Host
	page  int
	// Set before use, under mu:
	fault  func() error            // of each request
	hide   func(inventory.VM) bool // left out of lists, as if forgotten
	cut    func(inventory.VM) bool // left out of the lists of single hosts
	during func()                  // called in the middle of each list, with nothing locked
}

func newCloud() *cloud {
	return &cloud{vms: map[uuid.UUID]inventory.VM{}, hosts: map[uuid.UUID]inventory.Host{}, page: 5}
}

func (c *cloud) set(fn func()) { c.mu.Lock(); defer c.mu.Unlock(); fn() }

func (c *cloud) failing() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fault != nil {
		return c.fault()
	}
	return nil
}

func (c *cloud) VM(_ context.Context, id uuid.UUID) (inventory.VM, error) {
	if err := c.failing(); err != nil {
		return inventory.VM{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if vm, ok := c.vms[id]; ok {
		return vm, nil
	}
	return inventory.VM{}, inventory.ErrNotFound
}

func (c *cloud) Each(ctx context.Context, q vmapi.Query, fn func([]inventory.VM) error) error {
	return c.EachFrom(ctx, q, uuid.Nil, func(p []inventory.VM, _ uuid.UUID) error { return fn(p) })
}

func (c *cloud) EachFrom(_ context.Context, q vmapi.Query, marker uuid.UUID, fn func([]inventory.VM, uuid.UUID) error) error {
	for {
		if err := c.failing(); err != nil {
			return err
		}
		c.mu.Lock()
		ids := slices.SortedFunc(maps.Keys(c.vms), func(a, b uuid.UUID) int { return bytes.Compare(b[:], a[:]) })
		var page []inventory.VM
		for _, id := range ids {
			vm := c.vms[id]
			if marker != uuid.Nil && bytes.Compare(id[:], marker[:]) >= 0 || len(page) == c.page ||
				q.Active && (vm.State == "destroyed" || vm.State == "failed") ||
				q.Owner != uuid.Nil && vm.Owner != q.Owner || q.Host != uuid.Nil && vm.Host != q.Host ||
				q.UUIDs != nil && !slices.Contains(q.UUIDs, id) || c.hide != nil && c.hide(vm) || q.Host != uuid.Nil && c.cut != nil && c.cut(vm) {
				continue
			}
			page = append(page, vm)
		}
		during := c.during
		c.mu.Unlock()
		if during != nil {
			during()
		}
		if len(page) == 0 {
			return nil
		}
		marker = page[len(page)-1].UUID
		if err := fn(page, marker); err != nil {
			return err
		}
	}
}

// ChangedSince gives everything: what has not changed changes nothing.
func (c *cloud) ChangedSince(ctx context.Context, _ time.Time, fn func([]inventory.VM) error) error {
	return c.Each(ctx, vmapi.Query{}, fn)
}

func (c *cloud) Hosts(context.Context) ([]inventory.Host, error) {
	if err := c.failing(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.hosts)), nil
}

// metrics that tests measure.
type fakeCatalog struct{}

func (fakeCatalog) Metric(name string) (*catalog.Metric, bool) {
	return &catalog.Metric{Name: name, Digest: "digest-of-" + name}, true
}

// tasks is a queue that remembers what is asked for.
type tasks struct {
	mu       sync.Mutex
	evaluate []instrumentation.ID
	sweeps   int
}

func (q *tasks) Evaluate(_ context.Context, id instrumentation.ID, _ int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.evaluate = append(q.evaluate, id)
	return nil
}
func (q *tasks) NotifyVM(context.Context, uuid.UUID) error              { return nil }
func (q *tasks) StopTracing(context.Context, []uuid.UUID, string) error { return nil }
func (q *tasks) Sweep(context.Context) error                            { q.mu.Lock(); q.sweeps++; q.mu.Unlock(); return nil }
func (q *tasks) take() (ids []instrumentation.ID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ids, q.evaluate = q.evaluate, nil
	return ids
}

// whole is a store that tests can also read documents and guards from.
type whole interface {
	Store
	Document(ctx context.Context, host uuid.UUID) (assignment.Stored, error)
	ConfirmGuard(ctx context.Context, id string, a instrumentation.Audit) error
}

// bench is a cloud, a store, and what tests do with them.
type bench struct {
	t     testing.TB
	r     *rand.Rand
	cloud *cloud
	store whole
	queue *tasks
	share float64 // that a sweep may remove unasked; 0: the default
	n     int
}

func newBench(t testing.TB, seed uint64, s whole) *bench {
	b := &bench{t: t, r: rand.New(rand.NewPCG(seed, 7)), cloud: newCloud(), store: s, queue: &tasks{}}
	for i := range 5 {
		b.cloud.hosts[hostID(i)] = b.randomHost(i)
	}
	for i := range 16 {
		b.cloud.vms[vmID(i)] = b.randomVM(i)
	}
	return b
}

func numbered(kind byte, n int) uuid.UUID {
	return uuid.UUID{kind, 6: 0x40, 8: 0x80, 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)}
}
func ownerID(n int) uuid.UUID { return numbered(1, n) }
func hostID(n int) uuid.UUID  { return numbered(2, n) }
func vmID(n int) uuid.UUID    { return numbered(3, n) }

func (b *bench) randomHost(i int) inventory.Host {
	return inventory.Host{UUID: hostID(i), Name: fmt.Sprint("cn", i), Traits: map[string]string{"ssd": fmt.Sprint(b.r.IntN(2) == 0)}}
}

func (b *bench) randomVM(i int) inventory.VM {
	return inventory.VM{
		UUID: vmID(i), Owner: ownerID(b.r.IntN(3)), Host: hostID(b.r.IntN(5)), Alias: fmt.Sprint("vm", i),
		State: []string{"running", "running", "running", "stopped", "destroyed"}[b.r.IntN(5)],
		Tags:  map[string]string{"role": []string{"db", "web"}[b.r.IntN(2)]},
	}
}

func tag(k string, in ...string) instrumentation.Scope {
	return instrumentation.Scope{VMTag: &instrumentation.TagMatch{Key: k, In: in}}
}

func (b *bench) randomScope() instrumentation.Scope {
	web := tag("role", "web")
	return []instrumentation.Scope{
		{All: true}, {EveryHost: true}, tag("role", "db"), {Not: &web}, {VMs: []uuid.UUID{vmID(b.r.IntN(16)), vmID(b.r.IntN(16))}},
		{HostTag: &instrumentation.TagMatch{Key: "ssd", In: []string{"true"}}}, {Hosts: []uuid.UUID{hostID(b.r.IntN(5))}},
		{And: []instrumentation.Scope{{Hosts: []uuid.UUID{hostID(b.r.IntN(5)), hostID(b.r.IntN(5))}}, tag("role")}},
		{Or: []instrumentation.Scope{{VMAlias: "vm3"}, tag("role", "db")}},
	}[b.r.IntN(9)]
}

// create commits a new record, as a use case does.
func (b *bench) create(owner uuid.UUID, scope instrumentation.Scope, change ...func(*instrumentation.Instrumentation)) instrumentation.ID {
	b.n++
	now := time.Now().UTC()
	rec := instrumentation.Instrumentation{
		ID: instrumentation.ID(fmt.Sprintf("i%05d", b.n)), Revision: 1, Owner: owner, Scope: scope, Metric: "cpu.usage", Granularity: 1,
		CreatedBy: "operator:test", CreatedAt: now, UpdatedAt: now, State: instrumentation.Created,
	}
	for _, fn := range change {
		fn(&rec)
	}
	b.commit(rec, 0)
	return rec.ID
}

func (b *bench) commit(rec instrumentation.Instrumentation, expect int) {
	_, err := b.store.Commit(context.Background(), instrumentation.Change{Record: rec, Expect: expect})
	require.NoError(b.t, err)
}

// update changes a record that stands; one that does not is left alone.
func (b *bench) update(id instrumentation.ID, fn func(*instrumentation.Instrumentation)) {
	for {
		rec := b.get(id)
		if rec == nil || !rec.DeletedAt.IsZero() {
			return
		}
		stands := rec.Revision
		fn(rec)
		rec.Revision++
		_, err := b.store.Commit(context.Background(), instrumentation.Change{Record: *rec, Expect: stands})
		if err == nil {
			return
		}
		require.ErrorIs(b.t, err, instrumentation.ErrRevision)
	}
}

func (b *bench) get(id instrumentation.ID) *instrumentation.Instrumentation {
	recs, err := b.store.Get(context.Background(), id)
	require.NoError(b.t, err)
	return recs[0]
}

// nowhere is a client for workers whose tasks are handed to them. Each client has goroutines, and chaos makes thousands of workers.
var nowhere = sync.OnceValue(func() *redis.Client { return redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) })

// worker makes a worker that lives for some calls of the store; 0: for ever.
func (b *bench) worker(calls int64) *Worker {
	var s Store = b.store
	if calls > 0 {
		d := &dying{Store: s}
		d.left.Store(calls)
		s = d
	}
	w, err := New(Options{
		Store: s, VMAPI: b.cloud, CNAPI: b.cloud, Catalog: fakeCatalog{}, Redis: nowhere(),
		Lease: 20 * time.Millisecond, Tick: time.Millisecond, Concurrency: 4, GuardShare: b.share,
	})
	require.NoError(b.t, err)
	w.queue, w.patience, w.keep = b.queue, 0, 0
	return w
}

// settle has a healthy worker do everything that waits, leases of the dead included.
func (b *bench) settle(w *Worker) {
	ctx := context.Background()
	eventually(b.t, func() bool {
		require.NoError(b.t, w.requeue(ctx))
		for _, id := range b.queue.take() {
			require.NoError(b.t, w.evaluate(ctx, id))
		}
		pending, err := b.store.Unevaluated(ctx, 0, 1000)
		require.NoError(b.t, err)
		for _, p := range pending {
			require.NoError(b.t, w.evaluate(ctx, p.ID))
		}
		require.NoError(b.t, w.drain(ctx))
		back, err := b.store.Backlog(ctx)
		require.NoError(b.t, err)
		return back.DirtyHosts+back.DirtyVMs+back.Unevaluated == 0
	})
}

// requireTrue requires every document to be what the inventory and the records come to.
func (b *bench) requireTrue() {
	b.t.Helper()
	require.Empty(b.t, b.wrong())
}

// wrong tells of a host whose document is not what the inventory and the records come to, "" if there is none.
func (b *bench) wrong() string {
	b.t.Helper()
	ctx := context.Background()
	var live []*instrumentation.Instrumentation
	_, err := b.store.AllLive(ctx, func(recs []instrumentation.Instrumentation) error {
		for _, rec := range recs {
			live = append(live, &rec)
		}
		return nil
	})
	require.NoError(b.t, err)
	for i := range 6 {
		id := hostID(i)
		host, known := b.cloud.hosts[id]
		var placed []placement.Placed
		for _, rec := range live {
			m := placement.Compile(rec.Scope, rec.Owner)
			p := placement.Placed{Instrumentation: rec, Whole: known && m.MatchHost(&host)}
			for _, vm := range b.cloud.vms {
				if vm.Host == id && m.Match(&vm, &host) {
					p.VMs = append(p.VMs, placement.Zone{UUID: vm.UUID, Owner: vm.Owner})
				}
			}
			if p.Whole || len(p.VMs) > 0 {
				placed = append(placed, p)
			}
		}
		doc, over := assignment.Build(id, placed, func(m string) string { return "digest-of-" + m })
		require.Empty(b.t, over)
		want, _ := assignment.Encode(doc)
		if is := b.document(id); is != string(want) {
			return fmt.Sprintf("host %d has\n%s\nand should have\n%s", i, is, want)
		}
	}
	return ""
}

// document returns the body of a host's document, "[]" where none was ever committed.
func (b *bench) document(host uuid.UUID) string {
	d, err := b.store.Document(context.Background(), host)
	if err != nil {
		return "[]"
	}
	return string(d.Body)
}

// places counts what all documents place.
func (b *bench) places() (n int) {
	for i := range 6 {
		items, err := assignment.Decode([]byte(b.document(hostID(i))))
		require.NoError(b.t, err)
		for _, it := range items {
			n += len(it.VMs)
			if it.WholeHost {
				n++
			}
		}
	}
	return n
}
