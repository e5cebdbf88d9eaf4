package graph_test

import (
	"bytes"
	"context"
	"net/http"
	"testing"
	"time"

	gws "github.com/gobwas/ws"
	"github.com/stretchr/testify/require"

	"iapi/graph"
	"iapi/identity"
)

// gate is an Authenticator that lets a test decide when it answers to one token, and how.
type gate struct {
	identity.Authenticator
	asked, open chan struct{}
	err         error
}

func (g *gate) Authenticate(r *http.Request) (identity.Caller, error) {
	if r.Header.Get("Authorization") != "Bearer slow" {
		return g.Authenticator.Authenticate(r)
	}
	g.asked <- struct{}{}
	<-g.open
	return identity.Caller{ID: "slow", Kind: identity.Operator}, g.err
}

// While it takes a while to find out who a peer is, what it says waits, and nobody else does.
func TestASlowAuthenticatorHoldsUpItsPeerOnly(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		for name, c := range map[string]struct {
			err  error
			code int
		}{
			"good":             {nil, 0},
			"bad":              {identity.ErrBadCredentials, 4403},
			"cannot be tested": {identity.ErrUnavailable, 1013},
		} {
			t.Run(name, func(t *testing.T) {
				g := &gate{asked: make(chan struct{}), open: make(chan struct{}), err: c.err}
				a := newAPI(t, func(o *graph.Options) { g.Authenticator, o.Authenticator = o.Authenticator, g })
				p := a.dial(t, "")
				p.say(`{"type":"connection_init","payload":{"token":"slow"}}`)
				p.subscribe("1", `{ __typename }`, nil)
				p.say(`{"type":"ping"}`)
				<-g.asked
				for range 4 { // more than there are pollers
					other := a.ready(t, "alice")
					other.say(`{"type":"ping"}`)
					require.JSONEq(t, `{"type":"pong"}`, other.hear())
				}
				close(g.open)
				if c.code != 0 {
					code, reason := p.closes()
					require.Equal(t, c.code, code, reason)
					return
				}
				require.JSONEq(t, `{"type":"connection_ack"}`, p.hear())
				got := []string{p.hear(), p.hear(), p.hear()}
				require.Contains(t, got, `{"type":"pong"}`)
				require.Contains(t, got, `{"id":"1","type":"complete"}`)
			})
		}
	})
}

func TestAHandshakeThatCannotBeAuthenticatedNowIsToldToComeBack(t *testing.T) {
	g := &gate{asked: make(chan struct{}, 1), open: make(chan struct{}), err: identity.ErrUnavailable}
	close(g.open)
	a := newAPI(t, func(o *graph.Options) { g.Authenticator, o.Authenticator = o.Authenticator, g })
	resp, _ := a.do(t, http.MethodGet, "/graphql", "", "Connection", "Upgrade", "Upgrade", "websocket",
		"Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==", "Authorization", "Bearer slow")
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	require.NotEmpty(t, resp.Header.Get("Retry-After"))
}

// Shutdown ends also those that neither answer nor take anything, when its time is over.
func TestShutdownCutsWhoDoesNotGo(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t, func(o *graph.Options) { o.Websocket.WriteTimeout, o.Websocket.CloseTimeout = time.Hour, time.Hour })
		conn := a.raw(t, "alice")
		many := bytes.Repeat(bytesOf(t, gws.NewPingFrame(make([]byte, 100))), 100_000)
		require.NoError(t, conn.SetWriteDeadline(time.Now().Add(300*time.Millisecond)))
		_, err := conn.Write(many)
		require.Error(t, err, "the server takes more than it can answer")
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- a.server.Shutdown(ctx) }()
		select {
		case err := <-ended:
			require.Error(t, err)
		case <-time.After(patience):
			require.Fail(t, "it waits for one that does not go")
		}
		require.Zero(t, a.sockets(t))
	})
}
