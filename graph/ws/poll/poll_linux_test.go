package poll_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/graph/ws/poll"
)

// pair makes the two ends of a TCP connection.
func pair(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	theirs, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	ours, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	return ours, theirs
}

func newPoller(t *testing.T) *poll.Poller {
	t.Helper()
	p, err := poll.New()
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

// handler passes on what it is told.
type handler struct {
	conn     *poll.Conn
	arrived  chan string // "" for the end
	writable func()
}

func (h *handler) Readable(buf []byte) {
	n, err := h.conn.Read(buf)
	if err != nil {
		_ = h.conn.WatchRead(false)
		h.arrived <- ""
		return
	}
	if n > 0 {
		h.arrived <- string(buf[:n])
	}
}

func (h *handler) Writable() { h.writable() }

func take(t *testing.T, p *poll.Poller, nc net.Conn) *handler {
	t.Helper()
	h := &handler{arrived: make(chan string, 100)}
	var err error
	h.conn, err = p.Take(nc, h)
	require.NoError(t, err)
	return h
}

func (h *handler) hear(t *testing.T) string {
	t.Helper()
	select {
	case s := <-h.arrived:
		return s
	case <-time.After(5 * time.Second):
		require.Fail(t, "nothing was told")
		return ""
	}
}

func TestReadingIsToldWhileItIsWatched(t *testing.T) {
	p := newPoller(t)
	ours, theirs := pair(t)
	h := take(t, p, ours)
	_, err := theirs.Write([]byte("before"))
	require.NoError(t, err)
	require.NoError(t, h.conn.WatchRead(true))
	require.Equal(t, "before", h.hear(t))
	require.NoError(t, h.conn.WatchRead(false))
	_, err = theirs.Write([]byte("meanwhile"))
	require.NoError(t, err)
	other, their := pair(t) // whatever is told about the first comes before what is told about this one
	o := take(t, p, other)
	_, err = their.Write([]byte("other"))
	require.NoError(t, err)
	require.NoError(t, o.conn.WatchRead(true))
	require.Equal(t, "other", o.hear(t))
	require.Empty(t, h.arrived)
	require.NoError(t, h.conn.WatchRead(true))
	require.Equal(t, "meanwhile", h.hear(t))
	n, err := h.conn.Read(make([]byte, 1))
	require.NoError(t, err)
	require.Zero(t, n, "there is nothing")
	require.NoError(t, theirs.Close())
	require.Empty(t, h.hear(t))
	_, err = h.conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

func TestWritingNeverWaits(t *testing.T) {
	p := newPoller(t)
	ours, theirs := pair(t)
	h := take(t, p, ours)
	text := []byte(strings.Repeat("0123456789", 2<<20))
	rest, done := text, make(chan error, 1)
	h.writable = func() {
		n, err := h.conn.Write(rest)
		if rest = rest[n:]; err != nil || len(rest) == 0 {
			_ = h.conn.WatchWrite(false)
			done <- err
		}
	}
	n, err := h.conn.Write(rest)
	require.NoError(t, err)
	require.Less(t, n, len(rest))
	rest = rest[n:]
	require.NoError(t, h.conn.WatchWrite(true))
	got := make([]byte, len(text))
	_, err = io.ReadFull(theirs, got)
	require.NoError(t, err)
	require.NoError(t, <-done)
	require.Equal(t, string(text), string(got))
}

func TestAConnectionThatIsClosedIsNobodys(t *testing.T) {
	p := newPoller(t)
	ours, theirs := pair(t)
	h := take(t, p, ours)
	require.NoError(t, h.conn.WatchRead(true))
	h.conn.Close()
	h.conn.Close()
	_, err := h.conn.Write([]byte("x"))
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = h.conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, h.conn.WatchWrite(true), net.ErrClosed)
	n, err := theirs.Read(make([]byte, 1))
	require.Zero(t, n)
	require.ErrorIs(t, err, io.EOF)
}

func TestOnlyPlainConnectionsAreTaken(t *testing.T) {
	p := newPoller(t)
	ours, theirs := pair(t)
	for _, nc := range []net.Conn{tls.Server(ours, &tls.Config{}), struct{ net.Conn }{ours}, struct{ *net.TCPConn }{ours.(*net.TCPConn)}} {
		_, err := p.Take(nc, &handler{})
		require.ErrorIs(t, err, errors.ErrUnsupported)
	}
	_, err := ours.Write([]byte("as before"))
	require.NoError(t, err)
	buf := make([]byte, 9)
	_, err = io.ReadFull(theirs, buf)
	require.NoError(t, err)
	require.NoError(t, ours.Close())
	_, err = p.Take(ours, &handler{})
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestAPollerTakesItsConnectionsWithIt(t *testing.T) {
	p, err := poll.New()
	require.NoError(t, err)
	ours, theirs := pair(t)
	h := take(t, p, ours)
	require.NoError(t, h.conn.WatchRead(true))
	p.Close()
	p.Close()
	_, err = theirs.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.ErrorIs(t, h.conn.WatchRead(true), net.ErrClosed)
	late, _ := pair(t)
	l := take(t, p, late)
	require.ErrorIs(t, l.conn.WatchRead(true), net.ErrClosed)
	l.conn.Close()
}

// echo sends back what arrives, and is sure that it is its own.
type echo struct {
	conn *poll.Conn
	name byte
	bad  func(string)
}

func (e *echo) Writable() {}

func (e *echo) Readable(buf []byte) {
	n, err := e.conn.Read(buf)
	if err != nil {
		e.conn.Close()
		return
	}
	for _, b := range buf[:n] {
		if b != e.name {
			e.bad("got what another connection was sent")
		}
	}
	_, _ = e.conn.Write(buf[:n])
}

// Descriptors are used again as soon as they are closed, from any side and amid calls. Nobody ever reads or writes what is
// another's.
func TestDescriptorsThatAreUsedAgain(t *testing.T) {
	p := newPoller(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var running sync.WaitGroup
	defer running.Wait()
	defer func() { require.NoError(t, l.Close()) }()
	bad := func(s string) { t.Error(s) }
	running.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				name := make([]byte, 1)
				if _, err := io.ReadFull(nc, name); err != nil {
					_ = nc.Close()
					return
				}
				e := &echo{name: name[0], bad: bad}
				if e.conn, err = p.Take(nc, e); err != nil {
					_ = nc.Close()
					return
				}
				_ = e.conn.WatchRead(true)
				if name[0]%3 == 0 { // closed from here as well, at any time
					running.Go(e.conn.Close)
					_, _ = e.conn.Write(name)
				}
			})
		}
	})
	var clients sync.WaitGroup
	for c := range byte(8) {
		clients.Go(func() {
			for i := range 300 {
				nc, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				name := c*30 + byte(i%30)
				_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
				_, _ = nc.Write([]byte{name, name, name})
				got := make([]byte, 2)
				if n, err := io.ReadFull(nc, got); err != nil && name%3 != 0 {
					t.Errorf("no echo: %v", err)
				} else if n > 0 && got[0] != name {
					t.Error("got another's answer")
				}
				_ = nc.Close()
			}
		})
	}
	clients.Wait()
}
