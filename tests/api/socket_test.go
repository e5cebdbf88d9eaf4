package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"iapi/graph/agentdoc"
)

// patience is how long tests wait for what must come.
const patience = time.Minute

// socket is a client of graphql-transport-ws with one operation.
type socket struct {
	*websocket.Conn
	t testing.TB
}

func (s *system) subscribe(t testing.TB, token, query string, variables any) *socket {
	t.Helper()
	s.used(t, query)
	conn, _, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(s.url, "http")+"/graphql", &websocket.DialOptions{
		Subprotocols: []string{agentdoc.Subprotocol}, HTTPHeader: http.Header{"Authorization": {"Bearer " + token}},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.CloseNow() })
	conn.SetReadLimit(8 << 20)
	c := &socket{conn, t}
	c.say(map[string]any{"type": "connection_init"})
	require.Contains(t, string(c.hear()), "connection_ack")
	c.say(map[string]any{"id": "1", "type": "subscribe", "payload": map[string]any{"query": query, "variables": variables}})
	return c
}

func (c *socket) say(v any) {
	c.t.Helper()
	raw, err := json.Marshal(v)
	require.NoError(c.t, err)
	require.NoError(c.t, c.Write(c.t.Context(), websocket.MessageText, raw))
}

func (c *socket) hear() []byte {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	_, raw, err := c.Read(ctx)
	require.NoError(c.t, err)
	return raw
}

// until reads events until one has what is wanted, and returns its data.
func (c *socket) until(what string, is func(data map[string]any) bool) map[string]any {
	c.t.Helper()
	deadline := time.Now().Add(2 * patience)
	for time.Now().Before(deadline) {
		var m struct {
			Type    string
			Payload json.RawMessage
		}
		raw := c.hear()
		require.NoError(c.t, json.Unmarshal(raw, &m))
		if m.Type == "ping" {
			c.say(map[string]any{"type": "pong"})
			continue
		}
		require.Equal(c.t, "next", m.Type, "%s", raw)
		var payload struct{ Data map[string]any }
		require.NoError(c.t, json.Unmarshal(m.Payload, &payload))
		if is(payload.Data) {
			return payload.Data
		}
	}
	require.Fail(c.t, "no event: "+what)
	return nil
}

// closed reads until the server closes the connection, and returns the code.
func (c *socket) closed() int {
	c.t.Helper()
	for {
		ctx, cancel := context.WithTimeout(c.t.Context(), patience)
		_, _, err := c.Read(ctx)
		cancel()
		if err == nil {
			continue
		}
		var e websocket.CloseError
		require.ErrorAs(c.t, err, &e)
		return int(e.Code)
	}
}
