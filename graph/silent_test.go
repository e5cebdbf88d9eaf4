package graph_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	gws "github.com/gobwas/ws"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/graph"
	"iapi/graph/agentdoc"
)

func TestASilentPeerIsPingedAndThenGivenUp(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t, func(o *graph.Options) { o.Websocket.PingEvery = 100 * time.Millisecond })
		conn := a.raw(t, a.agent(uuid.New()))
		pings := 0
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
		for {
			f, err := gws.ReadFrame(conn)
			if err != nil {
				require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
				break
			}
			if f.Header.OpCode == gws.OpPing {
				pings++
			}
		}
		require.Positive(t, pings)
		require.Eventually(t, func() bool { return a.sockets(t) == 0 }, patience, 5*time.Millisecond)

		// One that answers pings, as this client does by itself, stays. How often it has to is settled by how fast the machine is.
		for every := 100 * time.Millisecond; ; every *= 2 {
			a := newAPI(t, func(o *graph.Options) { o.Websocket.PingEvery = every })
			alive := a.ready(t, "alice")
			ctx, cancel := context.WithTimeout(t.Context(), 10*every)
			_, _, err := alive.Read(ctx)
			cancel()
			if errors.Is(err, context.DeadlineExceeded) {
				break
			}
			require.Less(t, every, 4*time.Second, "it is given up all the same: %v", err)
		}
	})
}

func TestAStalledReaderIsCutAndHoldsNobodyUp(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		big := fmt.Sprintf(`["%s"]`, strings.Repeat("x", 1<<20))
		stalled, healthy := uuid.New(), uuid.New()
		stall := func(timeout time.Duration) *door { // with the one that reads nothing
			a := newAPI(t, func(o *graph.Options) { o.Websocket.WriteTimeout, o.Websocket.PingEvery = timeout, time.Hour })
			a.source.Commit(stalled, big)
			conn := a.raw(t, a.agent(stalled))
			say(t, conn, subscription("a", known(stalled, uuid.New(), nil)))
			require.Eventually(t, func() bool { return a.hub.Stats().Delivered == 1 }, patience, time.Millisecond)
			return a
		}
		a := stall(time.Hour) // what waited for it would wait as long
		a.source.Commit(healthy, `[]`)
		p := a.ready(t, a.agent(healthy))
		p.subscribe("a", agentdoc.Assignments, known(healthy, uuid.New(), nil))
		p.hear()
		for range 10 { // far more than the system keeps for both sides
			a.source.CommitAll([]uuid.UUID{stalled, healthy}, big)
			p.hear()
		}
		require.Equal(t, 2, a.hub.Stats().Connected)
		require.Equal(t, 2, a.sockets(t))

		a = stall(100 * time.Millisecond)
		require.Eventually(t, func() bool {
			a.source.CommitAll([]uuid.UUID{stalled}, big)
			return a.hub.Stats().Connected == 0 && a.sockets(t) == 0
		}, patience, 50*time.Millisecond)
	})
}
