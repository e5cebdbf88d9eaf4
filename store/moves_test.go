package store_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/inventory"
	"iapi/store"
	"iapi/store/storetest"
)

// cut has the at-th pipeline since its beginning, and those after it, fail as when the process is killed; with a gate that
// one waits for it instead.
type cut struct {
	n    atomic.Int64
	at   atomic.Int64 // 0: never
	hit  chan struct{}
	gate chan struct{}
}

func (c *cut) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, n, a string) (net.Conn, error) { return next(ctx, n, a) }
}
func (c *cut) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (c *cut) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		n, last := c.n.Add(1), c.at.Load()
		if last > 0 && c.gate == nil && n >= last {
			err := errors.New("killed")
			for _, x := range cmds {
				x.SetErr(err)
			}
			return err
		}
		if c.gate != nil && n == last {
			close(c.hit)
			<-c.gate
		}
		return next(ctx, cmds)
	}
}

// A put that was cut short after the note, and done again by a later read.
func TestAMoveThatWasCutShortIsCompletedByTheNextRead(t *testing.T) {
	for step := int64(2); step <= 4; step++ {
		storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
			ctx := t.Context()
			a, b := uid(100), uid(101)
			_, err := s.PutVMs(ctx, at(1), []inventory.VM{newVM(1, a)})
			require.NoError(t, err)
			_, _ = s.PutVMs(ctx, at(1), []inventory.VM{newVM(9, b)}) // scripts are known
			c := &cut{}
			c.at.Store(step)
			s.Client().AddHook(c)
			_, err = s.PutVMs(ctx, at(2), []inventory.VM{newVM(1, b)})
			require.Error(t, err)
			c.at.Store(0)
			_, err = s.PutVMs(ctx, at(3), []inventory.VM{newVM(1, b)})
			require.NoError(t, err)
			require.Empty(t, facts(t, s, a).VMs, "cut at %d", step)
		})
	}
}

// A worker that read the VM on A stalls after its note; another reads it on B and writes it; then the first wakes.
func TestALateWriterLeavesNoVMBehind(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		a, b := uid(100), uid(101)
		_, err := s.PutVMs(ctx, at(1), []inventory.VM{newVM(8, a), newVM(9, b)})
		require.NoError(t, err)
		c := &cut{hit: make(chan struct{}), gate: make(chan struct{})}
		c.at.Store(2)
		s.Client().AddHook(c)
		done := make(chan error)
		go func() { _, err := s.PutVMs(ctx, at(2), []inventory.VM{newVM(1, a)}); done <- err }()
		<-c.hit
		_, err = s.PutVMs(ctx, at(3), []inventory.VM{newVM(1, b)})
		require.NoError(t, err)
		close(c.gate)
		require.NoError(t, <-done)
		require.Len(t, facts(t, s, b).VMs, 2)
		require.Len(t, facts(t, s, a).VMs, 1, "the VM is on two hosts")
	})
}
