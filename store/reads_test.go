package store_test

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/instrumentation"
	"iapi/store"
	"iapi/store/storetest"
)

// counter counts commands and round trips.
type counter struct{ commands, trips atomic.Int64 }

func (*counter) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (c *counter) note(cmds ...redis.Cmder) {
	if len(cmds) > 0 && strings.HasPrefix(cmds[0].Name(), "x") {
		return // those who wait at a stream
	}
	c.trips.Add(1)
	c.commands.Add(int64(len(cmds)))
}

func (c *counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { c.note(cmd); return next(ctx, cmd) }
}

func (c *counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { c.note(cmds...); return next(ctx, cmds) }
}

// What it takes to read a coverage does not grow with the hosts that it counts.
func TestACoverageIsOneRoundTripHoweverManyHosts(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		for i := range 60 {
			host := uid(1000 + i)
			items := []assignment.Item{item("many", 1)}
			if i == 0 {
				items = append(items, item("one", 1))
			}
			v := assign(t, s, host, items...)
			report(t, s, host, 1, v, status("many", 1, running), status("one", 1, running))
		}
		coverage(t, s, "one") // the script is loaded
		count := &counter{}
		s.Client().AddHook(count)
		read := func(id instrumentation.ID, running int) (commands, trips int64) {
			count.commands.Store(0)
			count.trips.Store(0)
			require.Equal(t, instrumentation.Coverage{Expected: running, Running: running}, coverage(t, s, id))
			return count.commands.Load(), count.trips.Load()
		}
		commands, trips := read("one", 1)
		require.EqualValues(t, 1, trips)
		again, trips := read("many", 60)
		require.EqualValues(t, 1, trips)
		require.Equal(t, commands, again)
	})
}
