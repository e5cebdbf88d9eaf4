package graph_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	gws "github.com/gobwas/ws"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/graph"
	"iapi/graph/agentdoc"
)

// bytesOf is what frames of a client are on the wire.
func bytesOf(t testing.TB, frames ...gws.Frame) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, f := range frames {
		require.NoError(t, gws.WriteFrame(&b, gws.MaskFrame(f)))
	}
	return b.Bytes()
}

// hearFrames reads frames, and returns each as its opcode and payload.
func hearFrames(t testing.TB, conn net.Conn, n int) []string {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	out := make([]string, n)
	for i := range out {
		f, err := gws.ReadFrame(conn)
		require.NoError(t, err)
		out[i] = fmt.Sprint(f.Header.OpCode, string(f.Payload))
	}
	return out
}

// closesWith reads up to a close frame and returns its code.
func closesWith(t testing.TB, conn net.Conn) int {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	for {
		f, err := gws.ReadFrame(conn)
		require.NoError(t, err)
		if f.Header.OpCode == gws.OpClose {
			code, _ := gws.ParseCloseFrameData(f.Payload)
			return int(code)
		}
	}
}

func ended(t testing.TB, conn net.Conn) {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	_, err := io.Copy(io.Discard, conn)
	require.NoError(t, err, "the connection should end, and in order")
}

// unheard says something after a close frame that the server sent, and ends its side. What it says is taken and not answered.
func unheard(t testing.TB, conn net.Conn) {
	t.Helper()
	_, err := conn.Write(bytesOf(t, gws.NewTextFrame([]byte("more"))))
	require.NoError(t, err)
	require.NoError(t, conn.(interface{ CloseWrite() error }).CloseWrite())
	ended(t, conn)
}

func TestFragmentsAndPipelinedFrames(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t)
		conn := a.raw(t, "alice")
		_, err := conn.Write(bytesOf(t,
			gws.NewFrame(gws.OpText, false, []byte(`{"type":`)),
			gws.NewPingFrame([]byte("between")),
			gws.NewFrame(gws.OpContinuation, false, nil),
			gws.NewPongFrame(nil),
			gws.NewFrame(gws.OpContinuation, true, []byte(`"ping"}`)),
			gws.NewTextFrame([]byte(`{"type":"ping"}`))))
		require.NoError(t, err)
		require.Equal(t, []string{`10between`, `1{"type":"pong"}`, `1{"type":"pong"}`}, hearFrames(t, conn, 3))
	})
}

// Control frames are no part of the message amid which they come.
func TestAPingAmidTheLargestMessage(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		message := []byte(`{"type":"ping","payload":{"x":"` + strings.Repeat("x", 20_000) + `"}}`) // so large that it is dealt with apart
		a := newAPI(t, func(o *graph.Options) { o.Websocket.MaxMessage = len(message) })
		conn := a.raw(t, "alice")
		_, err := conn.Write(bytesOf(t,
			gws.NewFrame(gws.OpText, false, message[:len(message)-1]),
			gws.NewPingFrame([]byte("amid")),
			gws.NewFrame(gws.OpContinuation, true, message[len(message)-1:]),
			gws.NewPingFrame([]byte("after"))))
		require.NoError(t, err)
		require.Equal(t, []string{`10amid`, `1{"type":"pong"}`, `10after`}, hearFrames(t, conn, 3))
	})
}

func TestFramesArriveInAnyPieces(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t)
		host := uuid.New()
		a.serve(host, nil)
		stream := bytesOf(t,
			gws.NewTextFrame([]byte(`{"type":"ping"}`)),
			gws.NewTextFrame([]byte(subscription("a", known(host, uuid.New(), nil)))),
			gws.NewFrame(gws.OpText, false, []byte(`{"type":"ping","payload":{"x":"`+strings.Repeat("x", 40_000))),
			gws.NewPingFrame([]byte("p")),
			gws.NewFrame(gws.OpContinuation, true, []byte(`"}}`)),
		)
		for _, size := range []int{1, 3, 1000, len(stream)} {
			conn := a.raw(t, a.agent(host))
			go func() {
				if size == 1 { // each byte in a packet of its own
					for i := range stream[:2000] {
						_, _ = conn.Write(stream[i : i+1])
					}
					_, _ = conn.Write(stream[2000:])
					return
				}
				for b := stream; len(b) > 0; b = b[min(size, len(b)):] {
					_, _ = conn.Write(b[:min(size, len(b))])
				}
			}()
			got := hearFrames(t, conn, 4)
			require.Contains(t, got, `1{"type":"pong"}`)
			require.Contains(t, got, `10p`)
			require.Contains(t, strings.Join(got, "\n"), agentdoc.TypeAssignment)
			_ = conn.Close()
		}
	})
}

func TestBrokenFramesEndTheConnection(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t, func(o *graph.Options) { o.Websocket.MaxMessage, o.Websocket.CloseTimeout = 1000, time.Hour })
		masked := func(first, length byte, more ...byte) []byte { return append([]byte{first, 0x80 | length}, more...) }
		fragment := gws.NewFrame(gws.OpText, false, []byte("x"))
		broken, want := map[string]net.Conn{}, map[string]int{}
		for name, c := range map[string]struct {
			send []byte
			code int
		}{
			"not masked":                    {[]byte{0x81, 0x02, '{', '}'}, 1002},
			"not masked, by its header":     {[]byte{0x81, 0x02}, 1002},
			"unknown opcode":                {masked(0x83, 0, 0, 0, 0, 0), 1002},
			"unknown control opcode":        {masked(0x8b, 0, 0, 0, 0, 0), 1002},
			"reserved bit":                  {masked(0xc1, 0, 0, 0, 0, 0), 1002},
			"continues nothing":             {bytesOf(t, gws.NewFrame(gws.OpContinuation, true, nil)), 1002},
			"begins amid fragments":         {bytesOf(t, fragment, gws.NewTextFrame(nil)), 1002},
			"fragmented ping":               {bytesOf(t, gws.NewFrame(gws.OpPing, false, nil)), 1002},
			"large ping":                    {bytesOf(t, gws.NewPingFrame(make([]byte, 126))), 1002},
			"length of 64 bits":             {masked(0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4), 1002},
			"too large, by its header":      {masked(0x81, 126, 0x10, 0, 1, 2, 3, 4), 1009},
			"huge, by its header":           {masked(0x81, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4), 1009},
			"too large in fragments":        {bytesOf(t, fragment, gws.NewFrame(gws.OpContinuation, true, make([]byte, 1000))), 1009},
			"binary":                        {bytesOf(t, gws.NewBinaryFrame([]byte("{}"))), 1003},
			"not UTF-8":                     {bytesOf(t, gws.NewTextFrame([]byte("\"\xff\""))), 1007},
			"not UTF-8, over two fragments": {bytesOf(t, gws.NewFrame(gws.OpText, false, []byte("\xc3")), gws.NewFrame(gws.OpContinuation, true, []byte("x"))), 1007},
			"after a good one":              {append(bytesOf(t, gws.NewTextFrame([]byte(`{"type":"pong"}`))), 0x81, 0x00), 1002},
		} {
			conn := a.raw(t, "alice")
			_, err := conn.Write(c.send)
			require.NoError(t, err, name)
			broken[name] = conn
			want[name] = c.code
		}
		for name, conn := range broken { // each is waited for while the others are, too
			require.Equal(t, want[name], closesWith(t, conn), name)
			unheard(t, conn)
		}
		require.Eventually(t, func() bool { return a.sockets(t) == 0 }, patience, 10*time.Millisecond)
	})
}

func TestCloseHandshake(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t, func(o *graph.Options) { o.Websocket.CloseTimeout = time.Hour })
		for name, c := range map[string]struct {
			payload []byte
			code    int
		}{
			"no code":              {nil, 1000},
			"normal":               {gws.NewCloseFrameBody(1000, "bye"), 1000},
			"of the application":   {gws.NewCloseFrameBody(4321, ""), 4321},
			"half a code":          {[]byte{3}, 1002},
			"code that is no code": {gws.NewCloseFrameBody(1005, ""), 1002},
			"reason not UTF-8":     {gws.NewCloseFrameBody(1000, "\xff"), 1007},
		} {
			t.Run(name, func(t *testing.T) {
				conn := a.raw(t, "alice")
				_, err := conn.Write(bytesOf(t, gws.NewCloseFrame(c.payload), gws.NewPingFrame([]byte("too late"))))
				require.NoError(t, err)
				require.Equal(t, c.code, closesWith(t, conn))
				ended(t, conn)
			})
		}
		closed := func(t *testing.T, a *door) net.Conn {
			conn := a.raw(t, "alice")
			say(t, conn, "nonsense")
			require.Equal(t, 4400, closesWith(t, conn))
			return conn
		}
		t.Run("answered", func(t *testing.T) { // an answer is enough
			conn := closed(t, a)
			_, err := conn.Write(bytesOf(t, gws.NewCloseFrame(gws.NewCloseFrameBody(4400, ""))))
			require.NoError(t, err)
			ended(t, conn)
		})
		t.Run("answered with something else", func(t *testing.T) { unheard(t, closed(t, a)) })
		t.Run("never answered", func(t *testing.T) {
			a := newAPI(t, func(o *graph.Options) {
				o.Websocket.CloseTimeout, o.Websocket.PingEvery = 100*time.Millisecond, time.Hour
			})
			ended(t, closed(t, a))
		})
		require.Eventually(t, func() bool { return a.sockets(t) == 0 }, patience, 10*time.Millisecond)
	})
}

// A peer that asks faster than it listens gets all its answers, in order, and is not listened to meanwhile.
func TestAPeerThatAsksFasterThanItListens(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t, func(o *graph.Options) { o.Websocket.WriteTimeout = patience })
		a.buffer = 1 << 20
		conn := a.raw(t, "alice")
		const n = 80_000 // more than the system keeps for both sides
		padding := strings.Repeat(".", 100)
		var all bytes.Buffer
		for i := range n {
			gws.MustWriteFrame(&all, gws.MaskFrameInPlace(gws.NewPingFrame(fmt.Appendf(nil, "%d%s", i, padding))))
		}
		wrote := make(chan error, 1)
		go func() { _, err := conn.Write(all.Bytes()); wrote <- err }()
		select {
		case <-wrote:
			require.Fail(t, "the server takes more than it can answer")
		case <-time.After(300 * time.Millisecond):
		}
		in := bufio.NewReader(conn)
		for i := range n {
			if i%1000 == 0 {
				require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
			}
			f, err := gws.ReadFrame(in)
			require.NoError(t, err)
			if want := fmt.Sprintf("%d%s", i, padding); string(f.Payload) != want {
				require.Equal(t, want, string(f.Payload))
			}
		}
		require.NoError(t, <-wrote)
	})
}

func TestMessagesThatComeWithTheHandshake(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t)
		conn := a.connect(t)
		_, err := fmt.Fprintf(conn, "GET /graphql HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: %s\r\nAuthorization: Bearer alice\r\n\r\n%s",
			agentdoc.Subprotocol, bytesOf(t, gws.NewTextFrame([]byte(`{"type":"connection_init"}`)), gws.NewTextFrame([]byte(`{"type":"ping"}`))))
		require.NoError(t, err)
		want := []byte(`{"type":"connection_ack"}` + "\x81\x0f" + `{"type":"pong"}`)
		var got []byte
		buf := make([]byte, 1024)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
		for !bytes.HasSuffix(got, want) {
			n, err := conn.Read(buf)
			require.NoError(t, err)
			got = append(got, buf[:n]...)
		}
	})
}
