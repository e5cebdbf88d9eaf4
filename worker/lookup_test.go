package worker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/inventory"
	"iapi/inventory/vmapi"
	"iapi/store"
)

// asked counts the questions to an inventory.
type asked struct {
	VMAPI
	lists, single atomic.Int64
	short         bool // lists have nothing in them
	fail          error
}

func (a *asked) VM(ctx context.Context, id uuid.UUID) (inventory.VM, error) {
	a.single.Add(1)
	if a.fail != nil {
		return inventory.VM{}, a.fail
	}
	return a.VMAPI.VM(ctx, id)
}

func (a *asked) Each(ctx context.Context, q vmapi.Query, fn func([]inventory.VM) error) error {
	a.lists.Add(1)
	if a.short || a.fail != nil {
		return a.fail
	}
	return a.VMAPI.Each(ctx, q, fn)
}

func TestHintsAreLookedUpTogetherAndOnceMoreWhatTheListLacks(t *testing.T) {
	s := newFakeStore()
	b := newBench(t, 21, s)
	var ids []uuid.UUID
	for i := range 300 {
		vm := b.randomVM(i)
		vm.State, vm.Host = "running", hostID(i%5)
		b.cloud.vms[vm.UUID] = vm
		ids = append(ids, vm.UUID)
	}
	a := &asked{VMAPI: b.cloud}
	w := b.worker(0)
	w.VMAPI = a
	ctx := context.Background()
	known := func() (n int) {
		for i := range 5 {
			n += len(s.host(hostID(i)).vms)
		}
		return n
	}
	require.NoError(t, s.MarkVMs(ctx, append(ids, vmID(7777))...))
	n, err := w.lookUp(ctx)
	require.NoError(t, err)
	require.Equal(t, 301, n)
	require.Equal(t, 300, known())
	require.Less(t, a.lists.Load()+a.single.Load(), int64(6), "some requests, not one for each VM")

	s2 := newFakeStore() // a server that has just started lists nothing: that is no answer
	w.Store, a.short = s2, true
	require.NoError(t, s2.MarkVMs(ctx, ids...))
	_, err = w.lookUp(ctx)
	require.NoError(t, err)
	s = s2
	require.Equal(t, 300, known())
}

func TestAnInventoryThatFailsIsAskedLessAndLess(t *testing.T) {
	s := open(t, store.Options{Embedded: &store.Embedded{Dir: t.TempDir()}})
	b := newBench(t, 22, s)
	a := &asked{VMAPI: b.cloud, fail: fmt.Errorf("%w: refused", inventory.ErrUnavailable)}
	ctx := context.Background()
	require.NoError(t, s.MarkVMs(ctx, vmID(1), vmID(2)))
	begun := time.Now()
	// The claims lapse at once, so nothing but the pause keeps the worker from asking without end.
	running(t, b, s, func(o *Options) { o.VMAPI, o.NoSchedule, o.Lease = a, true, time.Millisecond })
	eventually(t, func() bool { return a.lists.Load() >= 4 })
	require.Greater(t, time.Since(begun), 600*time.Millisecond, "it pauses 100, 200 and 400 ms, and so on")
	require.Less(t, a.lists.Load(), int64(8))
}

// counting counts the documents that are committed.
type counting struct {
	*store.Store
	documents int
}

func (c *counting) CommitDocuments(ctx context.Context, drafts []store.Draft) []store.Committed {
	c.documents += len(drafts)
	return c.Store.CommitDocuments(ctx, drafts)
}

// commands is how many commands a server has carried out, those of its scripts included.
func commands(t testing.TB, s *store.Store) (n int) {
	return int(told(t, s, "stats", "total_commands_processed"))
}

// serverCPU is the processor time that a server has used.
func serverCPU(t testing.TB, s *store.Store) time.Duration {
	return time.Duration(1e9 * (told(t, s, "cpu", "used_cpu_user") + told(t, s, "cpu", "used_cpu_sys")))
}

// told is what a server tells of itself.
func told(t testing.TB, s *store.Store, section, name string) (n float64) {
	info, err := s.Client().Info(context.Background(), section).Result()
	require.NoError(t, err)
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			_, err := fmt.Sscan(v, &n)
			require.NoError(t, err)
		}
	}
	return n
}

// TestABurstCostsByTheHostsItTouches changes 10,000 VMs of a cloud at once, on few hosts and on many.
func TestABurstCostsByTheHostsItTouches(t *testing.T) {
	const changes = 10_000
	cost := func(hosts int) (documents, used, requests int) {
		s := open(t, store.Options{URL: startRedis(t), Timeout: 2 * patience})
		c := &big{vms: changes, hosts: hosts, retagged: map[int]int{}}
		w := fill(t, s, c, 100)
		a, counts := &asked{VMAPI: c}, &counting{Store: s}
		w.VMAPI, w.Store = a, counts
		ids := make([]uuid.UUID, changes)
		for i := range ids {
			ids[i] = c.vm(i).UUID
			c.retagged[i]++
		}
		rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		before := commands(t, s)
		require.NoError(t, s.MarkVMs(t.Context(), ids...))
		require.NoError(t, w.drain(t.Context()))
		used = commands(t, s) - before
		for host := range hosts {
			f, err := s.FactsOf(t.Context(), numbered(2, host))
			require.NoError(t, err)
			require.NoError(t, f[0].Err)
			require.Len(t, f[0].VMs, changes/hosts)
			for _, vm := range f[0].VMs {
				require.Equal(t, "1", vm.Tags["version"])
			}
		}
		return counts.documents, used, int(a.lists.Load() + a.single.Load())
	}
	fewDocuments, fewCommands, fewRequests := cost(50)
	manyDocuments, manyCommands, manyRequests := cost(500)
	t.Logf("10,000 changes on  50 hosts: %5d documents, %6d commands of Redis, %d requests to VMAPI", fewDocuments, fewCommands, fewRequests)
	t.Logf("10,000 changes on 500 hosts: %5d documents, %6d commands of Redis, %d requests to VMAPI", manyDocuments, manyCommands, manyRequests)
	batches := (changes + manyVMs - 1) / manyVMs
	require.LessOrEqual(t, fewDocuments, (batches+1)*50, "each host once for each batch of hints")
	require.LessOrEqual(t, manyDocuments, (batches+1)*500)
	require.Less(t, fewRequests, changes/50)
	require.Less(t, manyRequests, changes/50)
}
