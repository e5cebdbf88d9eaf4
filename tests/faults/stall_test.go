package faults

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/99designs/gqlgen/graphql/executor"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"iapi/agent/session"
	"iapi/delivery"
	"iapi/delivery/deliverytest"
	"iapi/graph/agentdoc"
	sockets "iapi/graph/ws"
	"iapi/identity"
	"iapi/tests/load/peer/graph"
	"iapi/tests/load/sim"
	"iapi/tests/yardstick"
)

type anybody struct{}

func (anybody) Authenticate(*http.Request) (identity.Caller, error) {
	return identity.Caller{ID: "test", Kind: identity.Agent}, nil
}

// An agent that answers one ping, then reads nothing and keeps saying that it lives, is gone within the write deadline and two
// seconds; meanwhile others are served as ever.
func TestAnAgentThatStopsReadingIsGone(t *testing.T) {
	t.Parallel()
	const deadline = 2 * time.Second
	stalledHost, healthyHost := uuid.New(), uuid.New()
	source := deliverytest.New()
	source.Commit(stalledHost, "[]")
	source.Commit(healthyHost, "[]")
	hub := delivery.New(source, delivery.Options{})
	server := sockets.New(sockets.Options{
		Executor: executor.New(graph.NewExecutableSchema(graph.Config{})), Authenticator: anybody{}, Feed: hub,
		Present:   func(_ context.Context, err error) *gqlerror.Error { return gqlerror.Wrap(err) },
		PingEvery: time.Second, WriteTimeout: deadline, // its silence is noticed later than that it does not read
	})
	var running sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	running.Go(func() { _ = hub.Run(ctx) })
	front := httptest.NewServer(server)
	t.Cleanup(func() {
		front.Close()
		within, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(within) // cuts who is left
		stop()
		running.Wait()
	})
	healthy, arrivals := connectHealthy(t, ctx, front.URL, healthyHost)
	running.Go(func() { _ = healthy.Run(ctx) })
	arrive(t, arrivals)
	stalled := connectStalling(t, front.URL, stalledHost)
	require.Equal(t, 2, hub.Stats().Connected)

	// The peer's silence cannot give it away, for it is not silent.
	cut := make(chan struct{})
	running.Go(func() {
		defer close(cut)
		for wsutil.WriteClientMessage(stalled, ws.OpPong, nil) == nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	began := yardstick.Start(t)
	large := `["` + strings.Repeat("x", 900_000) + `"]`
	slowest := time.Duration(0)
	isCut := func() bool {
		select {
		case <-cut:
			return true
		default:
			return false
		}
	}
	for i := 0; hub.Stats().Connected > 1 || !isCut(); i++ {
		require.Less(t, began.Elapsed(), deadline+2*time.Second, "the stalled agent is still there")
		source.Commit(stalledHost, strings.Replace(large, "x", fmt.Sprint(i), 1))
		asked := began.Elapsed()
		source.Commit(healthyHost, "[]")
		arrive(t, arrivals)
		slowest = max(slowest, began.Elapsed()-asked)
		time.Sleep(20 * time.Millisecond) // the pace of changes, not a wait for anything
	}
	require.GreaterOrEqual(t, began.Wall(), deadline/2, "it was given the time to read")
	require.Less(t, slowest, deadline, "the other agent was served meanwhile")
}

func connectHealthy(t *testing.T, ctx context.Context, url string, host uuid.UUID) (*sim.Agent, chan struct{}) {
	arrivals := make(chan struct{}, 1000)
	a, err := sim.New(sim.Options{Host: host, Servers: []string{url}, Mute: true, Observer: sim.Observer{
		Received: func(*sim.Agent, session.Assignment) { arrivals <- struct{}{} },
	}})
	require.NoError(t, err)
	return a, arrivals
}

func arrive(t *testing.T, arrivals <-chan struct{}) {
	t.Helper()
	select {
	case <-arrivals:
	case <-time.After(patience):
		require.FailNow(t, "no document arrives")
	}
}

// connectStalling subscribes, reads the first document and answers one ping, and then reads nothing any more.
func connectStalling(t *testing.T, url string, host uuid.UUID) net.Conn {
	d := ws.Dialer{Protocols: []string{agentdoc.Subprotocol}, NetDial: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil {
			err = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		}
		return c, err
	}}
	c, buffered, _, err := d.Dial(t.Context(), "ws"+strings.TrimPrefix(url, "http"))
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	r := io.Reader(c)
	if buffered != nil {
		r = buffered
	}
	in := bufio.NewReader(r)
	say := func(text string) {
		require.NoError(t, wsutil.WriteClientText(c, []byte(text)))
	}
	say(`{"type":"connection_init"}`)
	hear(t, in, "connection_ack")
	payload, err := json.Marshal(map[string]any{"query": agentdoc.Assignments, "variables": agentdoc.AssignmentsVariables{Host: host, Session: uuid.New()}})
	require.NoError(t, err)
	say(`{"id":"a","type":"subscribe","payload":` + string(payload) + `}`)
	hear(t, in, "__typename")
	for {
		f, err := readFrame(in)
		require.NoError(t, err)
		if f.op == ws.OpPing {
			require.NoError(t, wsutil.WriteClientMessage(c, ws.OpPong, f.payload))
			return c
		}
	}
}

// hear reads until a text that contains something.
func hear(t *testing.T, in *bufio.Reader, something string) {
	for {
		f, err := readFrame(in)
		require.NoError(t, err)
		if f.op == ws.OpText && strings.Contains(string(f.payload), something) {
			return
		}
	}
}
