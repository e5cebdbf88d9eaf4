package graph_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/coder/websocket"
	gws "github.com/gobwas/ws"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/graph"
	"iapi/graph/agentdoc"
)

// peer is a raw client of graphql-transport-ws.
type peer struct {
	*websocket.Conn
	t testing.TB
}

// door is an api and how to get a websocket from it.
type door struct {
	*api
	url    string      // with ws or wss
	buffer int         // of what it connects, for reading; 4096
	secure *tls.Config // for wss
}

func (a *api) door() *door {
	return &door{api: a, url: "ws" + strings.TrimPrefix(a.http.URL, "http") + "/graphql"}
}

type newDoor func(t testing.TB, change ...func(*graph.Options)) *door

// eachLink runs a test over every way in which a connection's bytes may travel. What holds must hold for all.
func eachLink(t *testing.T, test func(t *testing.T, newAPI newDoor)) {
	t.Run("poller", func(t *testing.T) {
		test(t, func(t testing.TB, change ...func(*graph.Options)) *door { return newAPI(t, change...).door() })
	})
	t.Run("goroutine", func(t *testing.T) {
		test(t, func(t testing.TB, change ...func(*graph.Options)) *door {
			return newAPI(t, append(change, func(o *graph.Options) { o.Websocket.Goroutines = true })...).door()
		})
	})
	t.Run("TLS", func(t *testing.T) {
		test(t, func(t testing.TB, change ...func(*graph.Options)) *door {
			a := newAPI(t, change...)
			front := narrow(httptest.NewUnstartedServer(a.server))
			front.StartTLS()
			t.Cleanup(front.Close)
			roots := x509.NewCertPool()
			roots.AddCert(front.Certificate())
			return &door{api: a, url: "wss" + strings.TrimPrefix(front.URL, "https") + "/graphql", secure: &tls.Config{RootCAs: roots}}
		})
	})
}

func (a *api) ready(t testing.TB, token string) *peer {
	t.Helper()
	return a.door().ready(t, token)
}

func (a *door) dial(t testing.TB, token string, protocols ...string) *peer {
	t.Helper()
	if len(protocols) == 0 {
		protocols = []string{agentdoc.Subprotocol}
	}
	client := &http.Transport{TLSClientConfig: a.secure}
	o := &websocket.DialOptions{Subprotocols: protocols, HTTPHeader: http.Header{}, HTTPClient: &http.Client{Transport: client}}
	if token != "" {
		o.HTTPHeader.Set("Authorization", "Bearer "+token)
	}
	conn, _, err := websocket.Dial(t.Context(), a.url, o)
	require.NoError(t, err)
	conn.SetReadLimit(8 << 20)
	t.Cleanup(func() { _ = conn.CloseNow() })
	return &peer{conn, t}
}

// ready is dial, up to connection_ack.
func (a *door) ready(t testing.TB, token string) *peer {
	t.Helper()
	p := a.dial(t, token)
	p.say(`{"type":"connection_init"}`)
	require.JSONEq(t, `{"type":"connection_ack"}`, p.hear())
	return p
}

func (p *peer) say(message string) {
	p.t.Helper()
	require.NoError(p.t, p.Write(p.t.Context(), websocket.MessageText, []byte(message)))
}

func (p *peer) read() (string, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	_, raw, err := p.Read(ctx)
	return string(raw), err
}

func (p *peer) hear() string {
	p.t.Helper()
	raw, err := p.read()
	require.NoError(p.t, err)
	return raw
}

// closes reads until the connection is closed, and returns how.
func (p *peer) closes() (code int, reason string) {
	p.t.Helper()
	for {
		_, err := p.read()
		if err == nil {
			continue
		}
		var closed websocket.CloseError
		require.ErrorAs(p.t, err, &closed)
		return int(closed.Code), closed.Reason
	}
}

// subscription is the message that begins the agents' subscription.
func subscription(id string, variables agentdoc.AssignmentsVariables) string {
	raw, err := json.Marshal(map[string]any{"id": id, "type": "subscribe", "payload": map[string]any{"query": agentdoc.Assignments, "variables": variables}})
	if err != nil {
		panic(err) // cannot happen
	}
	return string(raw)
}

// say sends a message as one frame.
func say(t testing.TB, conn net.Conn, message string) {
	t.Helper()
	require.NoError(t, gws.WriteFrame(conn, gws.MaskFrame(gws.NewTextFrame([]byte(message)))))
}

func (p *peer) subscribe(id, query string, variables any) {
	p.t.Helper()
	raw, err := json.Marshal(map[string]any{"id": id, "type": "subscribe", "payload": map[string]any{"query": query, "variables": variables}})
	require.NoError(p.t, err)
	p.say(string(raw))
}

func known(host, session uuid.UUID, v *assignment.Version) agentdoc.AssignmentsVariables {
	return agentdoc.AssignmentsVariables{Host: host, Session: session, Known: v}
}

// connect opens a connection with a small buffer, to be closed at the end of the test.
func (a *door) connect(t testing.TB) net.Conn {
	t.Helper()
	conn := a.tcp(t)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (a *door) tcp(t testing.TB) net.Conn {
	u, err := url.Parse(a.url)
	require.NoError(t, err)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", u.Host)
	require.NoError(t, err)
	require.NoError(t, conn.(*net.TCPConn).SetReadBuffer(max(a.buffer, 4096)))
	if a.secure == nil {
		return conn
	}
	config := a.secure.Clone()
	config.ServerName = u.Hostname()
	return tls.Client(conn, config)
}

// raw opens a websocket without a library's reader, so that nothing is read unless the test does.
func (a *door) raw(t testing.TB, token string) net.Conn {
	t.Helper()
	conn := a.open(t, token)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// open is raw for who closes the connection.
func (a *door) open(t testing.TB, token string) net.Conn {
	t.Helper()
	conn := a.tcp(t)
	u, err := url.Parse(a.url)
	require.NoError(t, err)
	d := gws.Dialer{Protocols: []string{agentdoc.Subprotocol}, Header: gws.HandshakeHeaderHTTP{"Authorization": {"Bearer " + token}}}
	br, _, err := d.Upgrade(conn, u)
	require.NoError(t, err)
	require.Nil(t, br)
	say(t, conn, `{"type":"connection_init"}`)
	f, err := gws.ReadFrame(conn)
	require.NoError(t, err)
	require.Contains(t, string(f.Payload), "connection_ack")
	return conn
}

// sockets is how many connections there are, as the metrics tell.
func (a *api) sockets(t testing.TB) (n int) {
	_, body := a.do(t, http.MethodGet, "/metrics", "")
	_, rest, _ := strings.Cut(body, "\niapi_websockets ")
	_, err := fmt.Sscan(rest, &n)
	require.NoError(t, err)
	return n
}
