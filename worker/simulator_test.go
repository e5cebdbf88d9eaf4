package worker

import (
	"context"
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/inventory/cnapi"
	"iapi/inventory/vmapi"
	"iapi/inventory/vmapitest"
	"iapi/store"
)

// simulated is a bench whose worker asks the simulator of VMAPI and CNAPI, through the real clients.
type simulated struct {
	*bench
	sim *vmapitest.Server
	url string
	w   *Worker
}

// simulate starts one with 5 hosts and 60 VMs of one owner, all measured, and every host whole.
func simulate(t *testing.T, s whole) *simulated {
	b := &simulated{bench: newBench(t, 11, s), sim: vmapitest.New(vmapitest.Options{FeedLatency: 5 * time.Millisecond})}
	server := httptest.NewServer(b.sim.Handler())
	t.Cleanup(func() { b.sim.Close(); server.Close() })
	b.url = server.URL
	clear(b.cloud.vms) // the cloud is what requireTrue compares with
	clear(b.cloud.hosts)
	for i := range 5 {
		b.cloud.hosts[hostID(i)] = inventory.Host{UUID: hostID(i), Name: fmt.Sprint("cn", i)}
		require.NoError(t, b.sim.PutHost(vmapitest.Host{UUID: hostID(i), Hostname: fmt.Sprint("cn", i), Status: "running"}))
	}
	for i := range 60 {
		b.put(inventory.VM{UUID: vmID(i), Owner: ownerID(0), Host: hostID(i % 5), Alias: fmt.Sprint("vm", i), State: "running", Tags: map[string]string{"role": "db"}})
	}
	b.w = b.worker(0)
	b.ask(patience)
	b.create(ownerID(0), instrumentation.Scope{All: true})
	b.create(uuid.Nil, instrumentation.Scope{EveryHost: true})
	require.NoError(t, b.w.Sweep(context.Background()))
	b.settle(b.w)
	b.requireTrue()
	require.Equal(t, 65, b.places())
	return b
}

// ask has the worker wait so long for an answer.
func (b *simulated) ask(timeout time.Duration) {
	vms, err := vmapi.New(vmapi.Options{URL: b.url, Timeout: timeout})
	require.NoError(b.t, err)
	hosts, err := cnapi.New(cnapi.Options{URL: b.url, Timeout: timeout})
	require.NoError(b.t, err)
	b.w.VMAPI, b.w.CNAPI = vms, hosts
}

// put writes a VM into the inventory; nobody is told.
func (b *simulated) put(vm inventory.VM) {
	b.cloud.vms[vm.UUID] = vm
	tags := map[string]any{}
	for k, v := range vm.Tags {
		tags[k] = v
	}
	require.NoError(b.t, b.sim.Put(vmapitest.VM{UUID: vm.UUID, Owner: vm.Owner, Host: vm.Host, Alias: vm.Alias, State: vm.State, Tags: tags}))
}

// TestNoFaultOfTheInventoryShrinksAPlacement is the whole matrix: each way in which the inventory fails, on each route, always
// and for a share of the requests.
func TestNoFaultOfTheInventoryShrinksAPlacement(t *testing.T) {
	modes := []vmapitest.FaultMode{
		vmapitest.FaultError, vmapitest.FaultUnavailable, vmapitest.FaultHang, vmapitest.FaultDrop,
		vmapitest.FaultTruncate, vmapitest.FaultWrongJSON, vmapitest.FaultEmptyList, vmapitest.FaultForget,
	}
	for _, mode := range modes {
		for _, path := range []string{"/vms", "/servers"} {
			if path == "/servers" && mode == vmapitest.FaultForget {
				continue // it forgets VMs
			}
			for _, how := range []vmapitest.Fault{{}, {Share: 0.4}} {
				how.Mode, how.Path = mode, path
				t.Run(fmt.Sprintf("%s %s share %v", mode, path, how.Share), func(t *testing.T) {
					t.Parallel()
					b := simulate(t, newFakeStore())
					ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
					defer cancel()
					require.NoError(t, b.sim.SetFaults(how))
					b.ask(200 * time.Millisecond)
					_ = b.w.Sweep(ctx) // what it says is not the point
					require.NoError(t, b.w.drain(ctx))
					require.Equal(t, 65, b.places(), "after a sweep")
					for _, id := range []instrumentation.ID{"i00001", "i00002"} {
						_ = b.w.evaluate(ctx, id)
					}
					require.NoError(t, b.w.drain(ctx))
					require.Equal(t, 65, b.places(), "after evaluating")
					require.NoError(t, b.store.MarkVMs(ctx, vmID(0), vmID(1), vmID(2)))
					_, _ = b.w.lookUp(ctx)
					_ = b.w.delta(ctx, time.Now().Add(-time.Hour))
					_, err := b.w.reconcile(ctx)
					require.NoError(t, err)
					require.Equal(t, 65, b.places(), "after hints and a delta poll")

					require.NoError(t, b.sim.SetFaults())
					b.ask(patience)
					b.w.Lease = time.Second // answers must come within it, also on a machine that is slow
					require.NoError(t, b.w.Sweep(ctx))
					b.settle(b.w)
					b.requireTrue()
					guards, err := b.store.Guards(ctx)
					require.NoError(t, err)
					require.Empty(t, guards, "guards fall when the inventory is back")
				})
			}
		}
	}
}

func TestADeltaPollFindsWhatTheChangefeedDidNotTell(t *testing.T) {
	b := simulate(t, newFakeStore())
	ctx := context.Background()
	begun := time.Now()
	retagged, moved, destroyed, fresh := b.cloud.vms[vmID(1)], b.cloud.vms[vmID(2)], b.cloud.vms[vmID(3)], b.cloud.vms[vmID(4)]
	retagged.Tags = map[string]string{"role": "web"}
	moved.Host = hostID(4)
	destroyed.State = "destroyed"
	fresh.UUID, fresh.Alias = vmID(100), "new"
	for _, vm := range []inventory.VM{retagged, moved, destroyed, fresh} {
		b.put(vm)
	}
	require.NoError(t, b.w.delta(ctx, begun.Add(time.Hour)))
	require.NoError(t, b.w.drain(ctx))
	require.Contains(t, b.document(destroyed.Host), destroyed.UUID.String(), "nothing was written since then")
	require.NoError(t, b.w.delta(ctx, begun.Add(-time.Millisecond)))
	require.NoError(t, b.w.drain(ctx))
	b.requireTrue()
	before := b.store.(*fakeStore).commits
	require.NoError(t, b.w.delta(ctx, begun.Add(-time.Hour)))
	require.NoError(t, b.w.drain(ctx))
	require.Equal(t, before, b.store.(*fakeStore).commits, "what is told again changes nothing")
}

func TestTheHolderOfTheScheduleAsksForWhatHasChangedUntilItIsAnswered(t *testing.T) {
	stores(t, func(t *testing.T, open func(t testing.TB) *store.Store) {
		s := open(t)
		b := simulate(t, s)
		running(t, b.bench, s, func(o *Options) { o.VMAPI, o.CNAPI, o.DeltaEvery = b.w.VMAPI, b.w.CNAPI, 20*time.Millisecond })
		require.NoError(t, b.sim.SetFaults(vmapitest.Fault{Mode: vmapitest.FaultError, Times: 20}))
		vm := b.cloud.vms[vmID(1)]
		vm.Host = hostID(0)
		b.put(vm)
		eventually(t, func() bool { return b.wrong() == "" })
	})
}

func TestASweepThatIsRunAgainGoesOnWhereItWasAndAnotherBeginsAnew(t *testing.T) {
	s := newFakeStore()
	b := newBench(t, 11, s)
	for i := range 60 {
		vm := b.randomVM(i)
		vm.State = "running"
		b.cloud.vms[vm.UUID] = vm
	}
	w := b.worker(0)
	ctx, kill := context.WithCancel(context.Background())
	pages := 0
	b.cloud.set(func() {
		b.cloud.during = func() {
			if pages++; pages == 8 {
				kill() // the page that it has just read is lost with it
			}
		}
		b.cloud.fault = func() error { return ctx.Err() }
	})
	require.Error(t, w.sweep(ctx, "one"))
	require.Equal(t, 8, s.walks)
	require.Equal(t, 40, s.walk.Seen)
	b.cloud.set(func() { b.cloud.fault, b.cloud.during = nil, nil })

	other := b.worker(0)
	require.NoError(t, other.sweep(context.Background(), "one"))
	require.Equal(t, 12, s.walks, "it has read the last 4 of 12 pages")
	require.Equal(t, 60, s.swept.VMs)
	require.Empty(t, s.walk.ID, "nothing is kept of a walk that has ended")
	b.settle(other)
	b.requireTrue()

	require.NoError(t, s.PutWalk(context.Background(), store.Walk{ID: "one", Marker: vmID(20), Seen: 40}))
	walk, err := other.walk(context.Background(), "two")
	require.NoError(t, err)
	require.Equal(t, 60, walk.Seen, "what another sweep has read may be older than this one was asked for")
}
