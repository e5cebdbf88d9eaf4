package store_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/store"
	"iapi/store/storetest"
)

// clocked is a store whose clock stands still until it is set.
type clocked struct {
	*store.Store
	at atomic.Int64
}

const (
	clockPatience = 900 * time.Millisecond
	clockOutage   = clockPatience / 3 // beats that are further apart are an outage
)

func newClocked(t *testing.T) *clocked {
	t.Parallel()
	c := &clocked{}
	c.at.Store(created.UnixNano())
	c.Store = storetest.Embedded(t, store.Options{OfflineAfter: clockPatience, Clock: func() time.Time { return time.Unix(0, c.at.Load()) }})
	return c
}

// set moves the clock and waits until the server has taken it over.
func (c *clocked) set(t *testing.T, by time.Duration) {
	t.Helper()
	want := c.at.Add(int64(by))
	eventually(t, func() bool {
		now, err := c.Client().Time(t.Context()).Result()
		return err == nil && now.UnixMicro() == want/1000
	})
}

// serve has the store believe that agents are served, until the test ends.
func (c *clocked) serve(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	begun, done := make(chan struct{}), make(chan struct{})
	var once sync.Once
	go func() {
		defer close(done)
		_ = c.WatchDocuments(ctx, func([]store.DocChange, bool) { once.Do(func() { close(begun) }) })
	}()
	<-begun
	t.Cleanup(func() { cancel(); <-done })
}

// noticed waits until those who serve have seen what the clock says.
func (c *clocked) noticed(t *testing.T) {
	t.Helper()
	eventually(t, func() bool {
		beat, err := c.Client().HGet(t.Context(), "iapi:{i}:serving", "beat").Int64()
		return err == nil && beat == c.at.Load()/int64(time.Millisecond)
	})
}

// Whichever way the store's clock jumps: who is heard of stays online, and who is not heard of is offline a patience and a
// grace later, and not when that time of day comes again.
func TestAJumpOfTheStoresClockMakesNobodyOfflineAndKeepsNobodyOnline(t *testing.T) {
	for name, jumps := range map[string][]time.Duration{
		"forwards": {time.Hour}, "back": {-time.Hour}, "forwards and back": {time.Hour, -time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClocked(t)
			here, gone := uid(1000), uid(1001)
			report(t, c.Store, here, 1, assign(t, c.Store, here, item("here", 1)), status("here", 1, running))
			report(t, c.Store, gone, 1, assign(t, c.Store, gone, item("gone", 1)), status("gone", 1, running))
			c.serve(t)
			online := func(id string) {
				t.Helper()
				require.Equal(t, instrumentation.Coverage{Expected: 1, Running: 1}, coverage(t, c.Store, instrumentation.ID(id)))
			}
			for _, by := range jumps {
				touch(t, c.Store, here, gone)
				c.set(t, by)
				online("here")
				online("gone")
				c.noticed(t)
				online("here")
				online("gone")
			}
			const step = clockOutage * 8 / 10
			for passed := time.Duration(0); passed < 2*clockPatience+step; passed += step {
				touch(t, c.Store, here)
				c.set(t, step)
				c.noticed(t)
				online("here")
			}
			require.Equal(t, instrumentation.Coverage{Expected: 1, Offline: 1}, coverage(t, c.Store, "gone"))
		})
	}
}

// Claims and leases of those that have died lapse in their time, whichever way the clock jumps.
func TestLeasesOfTheDeadLapseWhenTheClockIsSetBack(t *testing.T) {
	c := newClocked(t)
	c.serve(t)
	host, vm := uid(1000), uid(1)
	require.NoError(t, c.MarkHosts(t.Context(), false, host))
	require.NoError(t, c.MarkVMs(t.Context(), vm))
	require.Len(t, claim(t, c.Store, 1, time.Second), 1)
	vms, err := c.ClaimVMs(t.Context(), "dead", 1, time.Second)
	require.NoError(t, err)
	require.Len(t, vms, 1)
	c.set(t, -time.Hour)
	c.noticed(t)
	c.set(t, 1500*time.Millisecond)
	eventually(t, func() bool { return len(claim(t, c.Store, 1, time.Minute)) == 1 })
	eventually(t, func() bool {
		vms, err := c.ClaimVMs(t.Context(), "alive", 1, time.Minute)
		return err == nil && len(vms) == 1
	})
}

// A real server keeps when a key ends by its clock, so a lease outlives its holder by as much as the clock was set back.
func TestALeaseThatLastsLongerThanItCanIsFree(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		held, err := s.Lease(ctx, "schedule", "dead", time.Hour+time.Minute) // as if the clock had been set back by an hour
		require.NoError(t, err)
		require.True(t, held)
		held, err = s.Lease(ctx, "schedule", "alive", time.Minute)
		require.NoError(t, err)
		require.True(t, held)
		held, err = s.Lease(ctx, "schedule", "another", time.Minute)
		require.NoError(t, err)
		require.False(t, held)
	})
}

// A read of the inventory that begins after the clock was set back is newer than those before it all the same.
func TestFactsAreTakenAfterTheClockWasSetBack(t *testing.T) {
	c := newClocked(t)
	ctx := t.Context()
	host := uid(1000)
	put := func(vm inventory.VM) {
		t.Helper()
		asOf, err := c.Now(ctx)
		require.NoError(t, err)
		_, err = c.PutVMs(ctx, asOf, []inventory.VM{vm})
		require.NoError(t, err)
		f, err := c.Facts(ctx, host)
		require.NoError(t, err)
		require.Len(t, f.VMs, 1)
		require.Equal(t, vm.Alias, f.VMs[0].Alias)
	}
	vm := newVM(1, host)
	vm.Alias = "before"
	put(vm)
	var last time.Time
	for _, by := range []time.Duration{-time.Hour, 0, time.Hour, -2 * time.Hour, 0} {
		c.set(t, by)
		vm.Alias = "after " + by.String()
		put(vm)
		now, err := c.Now(ctx)
		require.NoError(t, err)
		require.True(t, now.After(last), "%s is not after %s", now, last)
		last = now
	}
}

// A change whose task was lost is found again in seconds, also when it was made by a clock that was ahead.
func TestALostTaskIsFoundAfterTheClockWasSetBack(t *testing.T) {
	c := newClocked(t)
	c.serve(t)
	r := commit(t, c.Store, newRecord(uid(1), "a"))
	require.NoError(t, c.MarkJudge(t.Context(), r.ID))
	c.set(t, -time.Hour)
	c.noticed(t)
	c.set(t, time.Second)
	eventually(t, func() bool {
		pending, err := c.Unevaluated(t.Context(), 300*time.Millisecond, 10)
		return err == nil && len(pending) == 1 && pending[0].ID == r.ID
	})
	ids, err := c.ClaimJudge(t.Context(), 10)
	require.NoError(t, err)
	require.Equal(t, []instrumentation.ID{r.ID}, ids)
}

// The end of one of several processes that serve agents gives those that it served a grace. One that leaves in an orderly way
// gives none, and those that end again and again keep nobody online.
func TestTheOutageOfOneProcessOfSeveralGivesAGrace(t *testing.T) {
	const step = clockOutage * 8 / 10
	for name, c := range map[string]struct {
		ends                 func(t *testing.T, c *clocked, passed time.Duration) // the other process, after each step
		stillOnline, offline time.Duration
	}{
		"none ends": {func(*testing.T, *clocked, time.Duration) {}, clockPatience - step, clockPatience + step},
		"without a word": {func(t *testing.T, c *clocked, passed time.Duration) {
			if passed == 0 {
				c.beatOf(t, "other")
			}
		}, clockPatience + step, 2*clockPatience + 2*step},
		"in an orderly way": {func(t *testing.T, c *clocked, passed time.Duration) {
			if passed > 0 {
				return
			}
			ctx, cancel := context.WithCancel(t.Context())
			_ = c.WatchDocuments(ctx, func([]store.DocChange, bool) { cancel() })
		}, clockPatience - step, clockPatience + step},
		"again and again": {func(t *testing.T, c *clocked, passed time.Duration) { c.beatOf(t, passed.String()) },
			clockPatience, 2*clockPatience + 2*step},
	} {
		t.Run(name, func(t *testing.T) {
			s := newClocked(t)
			gone := uid(1001)
			report(t, s.Store, gone, 1, assign(t, s.Store, gone, item("gone", 1)), status("gone", 1, running))
			s.serve(t)
			for passed := time.Duration(0); passed < c.offline; {
				c.ends(t, s, passed)
				if passed <= c.stillOnline {
					require.Equal(t, 1, coverage(t, s.Store, "gone").Running, "after %s", passed)
				}
				s.set(t, step)
				s.noticed(t)
				passed += step
			}
			require.Equal(t, 1, coverage(t, s.Store, "gone").Offline)
		})
	}
}

// beatOf is the beat of a process that ends after it.
func (c *clocked) beatOf(t *testing.T, process string) {
	t.Helper()
	require.NoError(t, c.Client().HSet(t.Context(), "iapi:{i}:serving", "p:"+process, c.at.Load()/int64(time.Millisecond)).Err())
}
