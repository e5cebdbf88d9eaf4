package ws

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"testing"

	gws "github.com/gobwas/ws"
	"github.com/stretchr/testify/require"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"iapi/identity"
)

// tape is a link that keeps what is written. What is given to it arrives in pieces.
type tape struct {
	conn    *conn
	written bytes.Buffer
	closed  bool
	resumed chan struct{}
}

func (l *tape) start()                              { l.resumed <- struct{}{} }
func (l *tape) write(b []byte, _ bool) (int, error) { return l.written.Write(b) }
func (l *tape) awaitWrite()                         {}
func (l *tape) close()                              { l.closed = true }
func (l *tape) arrive(t testing.TB, b []byte, most int) {
	for !l.closed {
		before := bytes.Clone(b)
		accepted := l.conn.receive(b)
		for i := range b {
			b[i] = 0xee // nothing of it may be kept
		}
		if held := len(l.conn.in.held); held > most+len(before)+14 || len(l.conn.in.message) > most {
			t.Fatalf("%d bytes are held", held)
		}
		if accepted {
			return
		}
		if l.conn.park() {
			if l.closed {
				return
			}
			<-l.resumed
		}
		b = nil
	}
}

type strangers struct{}

func (strangers) Authenticate(r *http.Request) (identity.Caller, error) {
	if r.Header.Get("Authorization") == "" {
		return identity.Caller{}, identity.ErrNoCredentials
	}
	return identity.Caller{}, identity.ErrBadCredentials
}

func newTape(t testing.TB, s *Server) *tape {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/graphql", nil)
	require.NoError(t, err)
	l := &tape{conn: newConn(s, r), resumed: make(chan struct{}, 1)}
	l.conn.link = l
	l.conn.caller = &identity.Caller{ID: "tenant:x", Kind: identity.Tenant}
	s.running.Add(1) // but unknown to the keeper: time plays no part
	return l
}

// FuzzFrames: whatever a peer sends, the answer depends on the bytes alone and not on the pieces in which they arrive, no
// more is held than a message, and nothing panics.
func FuzzFrames(f *testing.F) {
	frames := func(frames ...gws.Frame) []byte {
		var b bytes.Buffer
		for _, frame := range frames {
			gws.MustWriteFrame(&b, gws.MaskFrame(frame))
		}
		return b.Bytes()
	}
	text := func(s string) gws.Frame { return gws.NewTextFrame([]byte(s)) }
	f.Add(frames(text(`{"type":"connection_init"}`), text(`{"type":"ping"}`), gws.NewPingFrame([]byte("x"))), uint8(1))
	f.Add(frames(text(`{"type":"connection_init","payload":{"token":"x"}}`), text(`{"type":"ping"}`)), uint8(3))
	f.Add(frames(gws.NewFrame(gws.OpText, false, []byte(`{"type":`)), gws.NewPongFrame(nil), gws.NewFrame(gws.OpContinuation, true, []byte(`"ping"}`))), uint8(2))
	f.Add(frames(text(`{"type":"ping","payload":{"x":"`+strings.Repeat("x", 1500)+`"}}`), gws.NewCloseFrame(gws.NewCloseFrameBody(1000, "bye"))), uint8(200))
	f.Add(frames(text(`{"id":"1","type":"complete"}`), text(`{"id":"1","type":"subscribe"}`), gws.NewBinaryFrame(nil)), uint8(7))
	f.Add([]byte{0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0}, uint8(5))
	f.Add([]byte{0xc1, 0x85, 1, 2, 3, 4}, uint8(1))
	const most = 2000
	s := New(Options{
		Authenticator: strangers{}, MaxMessage: most,
		Present: func(_ context.Context, err error) *gqlerror.Error { return gqlerror.Wrap(err) },
	})
	f.Cleanup(func() { _ = s.Shutdown(context.Background()) })
	f.Fuzz(func(t *testing.T, stream []byte, step uint8) {
		if bytes.Contains(stream, []byte("subscribe")) && bytes.Contains(stream, []byte("query")) {
			return // operations end in their own order
		}
		whole, pieces := newTape(t, s), newTape(t, s)
		defer whole.conn.cut()
		defer pieces.conn.cut()
		whole.arrive(t, bytes.Clone(stream), most)
		for b := stream; len(b) > 0; {
			n := min(int(step)+1, len(b))
			pieces.arrive(t, bytes.Clone(b[:n]), most)
			b = b[n:]
		}
		require.Equal(t, whole.written.Bytes(), pieces.written.Bytes())
		require.Equal(t, whole.closed, pieces.closed)
	})
}

func TestTextIsQuotedAsJSON(t *testing.T) {
	for _, s := range []string{"", "0000000000000001", "aZ09", `"`, `\`, "<&>", "\x00", "\u00e9", "\xff", "@", "[", "`", "{", "\u2028", "/", ":"} {
		require.Equal(t, string(quote(s)), string(appendQuoted(nil, s)), "%q", s)
	}
}
