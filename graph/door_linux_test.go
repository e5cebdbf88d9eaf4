package graph_test

import (
	"net"
	"net/http"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	gws "github.com/gobwas/ws"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

func descriptors(t testing.TB) int {
	open, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(open)
}

// However connections end, after very many the process holds as many descriptors and goroutines as before.
func TestConnectionsThatComeAndGoLeaveNothing(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t)
		cycles := 10_000
		switch { // where each costs many times as much
		case os.Getenv("IAPI_PROVE") == "1": // however long it takes
		case a.secure != nil:
			cycles = 300
		case raceEnabled:
			cycles = 1000
		}
		host := uuid.New()
		a.serve(host, items())
		token := a.agent(host)
		ways := []func(conn net.Conn){
			func(net.Conn) {},
			func(conn net.Conn) { // as the protocol says
				_, _ = conn.Write(bytesOf(t, gws.NewCloseFrame(gws.NewCloseFrameBody(1000, ""))))
				_, _ = gws.ReadFrame(conn)
			},
			func(conn net.Conn) { // with a reset
				if tcp, ok := conn.(*net.TCPConn); ok {
					_ = tcp.SetLinger(0)
				}
			},
			func(conn net.Conn) { _, _ = conn.Write([]byte{0x81, 0xfe, 0x10}) },                   // amid a frame
			func(conn net.Conn) { _, _ = conn.Write([]byte{0x81, 0x00}) },                         // while it is closed by us
			func(conn net.Conn) { say(t, conn, subscription("a", known(host, uuid.New(), nil))) }, // while it subscribes
		}
		run := func(n int) {
			var going errgroup.Group
			var next atomic.Int64
			for range 8 {
				going.Go(func() error {
					for {
						i := int(next.Add(1))
						if i > n {
							return nil
						}
						conn := a.open(t, token)
						ways[i%len(ways)](conn)
						_ = conn.Close()
					}
				})
			}
			require.NoError(t, going.Wait())
			require.Eventually(t, func() bool { return a.sockets(t) == 0 && a.hub.Stats().Connected == 0 }, patience, 10*time.Millisecond)
		}
		held := func() (fds, goroutines int) {
			http.DefaultClient.CloseIdleConnections()
			return descriptors(t), runtime.NumGoroutine()
		}
		run(100) // whatever is made once
		var fds, goroutines int
		require.Eventually(t, func() bool { // until what has ended is gone
			lastFDs, lastGoroutines := fds, goroutines
			fds, goroutines = held()
			return fds == lastFDs && goroutines == lastGoroutines
		}, patience, 200*time.Millisecond)
		run(cycles)
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			nowFDs, nowGoroutines := held()
			assert.LessOrEqual(c, nowFDs, fds, "descriptors")
			assert.LessOrEqual(c, nowGoroutines, goroutines+1, "goroutines, and the one that counts them")
		}, patience, 50*time.Millisecond)
	})
}
