package vmapi_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/inventory"
	"iapi/inventory/vmapi"
	"iapi/inventory/vmapitest"
)

type event struct {
	vm        uuid.UUID
	seen      *inventory.VM
	destroyed bool
}

// ear hands on what it is told.
type ear struct {
	connected chan context.Context
	changed   chan event
	onConnect func(context.Context) error
}

func (e *ear) Connected(ctx context.Context) error {
	select {
	case e.connected <- ctx:
	case <-ctx.Done():
		return ctx.Err()
	}
	if e.onConnect != nil {
		return e.onConnect(ctx)
	}
	return nil
}

func (e *ear) Changed(ctx context.Context, vm uuid.UUID, seen *inventory.VM, destroyed bool) {
	select {
	case e.changed <- event{vm, seen, destroyed}:
	case <-ctx.Done():
	}
}

func await[T any](t *testing.T, c chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(time.Minute):
		require.Fail(t, "waited in vain for "+what)
		panic("unreachable")
	}
}

var briskly = vmapi.ListenOptions{
	MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond, PingEvery: 20 * time.Millisecond, PingWait: time.Minute,
}

// listen listens until the test ends, and requires that it then ends.
func listen(t *testing.T, c *vmapi.Client, o vmapi.ListenOptions, e *ear) {
	t.Helper()
	e.connected, e.changed = make(chan context.Context), make(chan event)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Listen(ctx, o, e) }()
	t.Cleanup(func() {
		cancel()
		require.ErrorIs(t, await(t, done, "the end of Listen"), context.Canceled)
	})
}

func TestListenerTellsEachChangeOnce(t *testing.T) {
	s, c, _ := connect(t, 20, vmapi.Options{})
	vms := s.VMs()
	e := &ear{}
	listen(t, c, briskly, e)
	await(t, e.connected, "the connection")
	require.NoError(t, s.SetTags(vms[1].UUID, map[string]any{"a": 1, "b": 2, "c": 3})) // sent at least three times
	got := await(t, e.changed, "the tags")
	require.Equal(t, vms[1].UUID, got.vm)
	require.Equal(t, map[string]string{"a": "1", "b": "2", "c": "3"}, got.seen.Tags)
	require.Equal(t, vms[1].Host, got.seen.Host)
	require.False(t, got.destroyed)
	require.NoError(t, s.Destroy(vms[2].UUID))
	got = await(t, e.changed, "the destruction, and no copy of the change before")
	require.Equal(t, vms[2].UUID, got.vm)
	require.True(t, got.destroyed)
	require.NoError(t, s.DestroyInBulk(vms[3].UUID))
	got = await(t, e.changed, "the destruction without a time")
	require.Equal(t, vms[3].UUID, got.vm)
	require.True(t, got.destroyed)
	owner := uuid.New()
	require.NoError(t, s.SetOwner(vms[4].UUID, owner))
	require.Equal(t, owner, await(t, e.changed, "the owner").seen.Owner)
}

func TestMessagesQueueWhileTheListIsRead(t *testing.T) {
	s, c, _ := connect(t, 20, vmapi.Options{})
	vms := s.VMs()
	listed := make(chan struct{})
	e := &ear{onConnect: func(context.Context) error { <-listed; return nil }}
	listen(t, c, briskly, e)
	await(t, e.connected, "the connection")
	require.NoError(t, s.SetTags(vms[5].UUID, map[string]any{"first": true}))
	require.NoError(t, s.SetState(vms[1].UUID, "stopped"))
	require.NoError(t, s.Destroy(vms[1].UUID))
	// Whoever registers later is told after this listener's frames were queued, and in the same order.
	marker := &ear{}
	listen(t, c, briskly, marker)
	await(t, marker.connected, "the second listener")
	require.NoError(t, s.Destroy(vms[9].UUID))
	for await(t, marker.changed, "the last change").vm != vms[9].UUID {
	}
	close(listed)
	require.Equal(t, vms[5].UUID, await(t, e.changed, "the first VM").vm)
	for destroyed := false; !destroyed; { // its two messages are told together, unless one was still on its way
		got := await(t, e.changed, "the second VM")
		require.Equal(t, vms[1].UUID, got.vm)
		destroyed = got.destroyed
	}
}

func TestListenerConnectsAnewAndHasTheListReadAgain(t *testing.T) {
	s, c, _ := connect(t, 20, vmapi.Options{})
	vms := s.VMs()
	e := &ear{}
	listen(t, c, briskly, e)
	first := await(t, e.connected, "the connection")
	s.CutFeeds()
	await(t, e.connected, "the second connection") // nothing is replayed, so the list is read again
	require.Error(t, first.Err(), "the context of a connection ends with it")
	require.NoError(t, s.Destroy(vms[1].UUID))
	require.Equal(t, vms[1].UUID, await(t, e.changed, "a change on the second connection").vm)
	require.Equal(t, 1, s.Stats().Listeners)
}

func TestAFailedListBeginsTheConnectionAnew(t *testing.T) {
	_, c, _ := connect(t, 5, vmapi.Options{})
	e := &ear{onConnect: func(context.Context) error { return errors.New("no list") }}
	listen(t, c, briskly, e)
	for range 3 {
		await(t, e.connected, "another try")
	}
}

func TestASilentConnectionIsGivenUp(t *testing.T) {
	s, c, _ := connect(t, 5, vmapi.Options{})
	e := &ear{}
	o := briskly
	o.PingWait = 50 * time.Millisecond
	listen(t, c, o, e)
	await(t, e.connected, "the connection")
	require.NoError(t, s.SetFaults(vmapitest.Fault{Mode: vmapitest.FaultFeedFrozen}))
	await(t, e.connected, "another connection when pings are not answered")
}

func TestATooFastFeedBeginsAnew(t *testing.T) {
	s, c, _ := connect(t, 30, vmapi.Options{})
	never := make(chan struct{})
	e := &ear{onConnect: func(ctx context.Context) error {
		select {
		case <-never:
		case <-ctx.Done():
		}
		return ctx.Err()
	}}
	o := briskly
	o.Queue = 10
	listen(t, c, o, e)
	await(t, e.connected, "the connection")
	for _, vm := range s.VMs()[:15] {
		require.NoError(t, s.Destroy(vm.UUID))
	}
	await(t, e.connected, "another connection after the overflow")
}

func TestListenerOutlastsAnOutage(t *testing.T) {
	s, c, _ := connect(t, 5, vmapi.Options{Timeout: 100 * time.Millisecond})
	s.Close() // from now on every upgrade fails
	e := &ear{}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, c.Listen(ctx, briskly, e), context.DeadlineExceeded)
}
