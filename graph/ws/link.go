package ws

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"syscall"

	"iapi/graph/ws/poll"
)

// link is how the bytes of a connection travel.
type link interface {
	// start has all that arrives given to conn.receive, in order, until that refuses. It may take as long as the connection
	// lives. It is called again when conn.receive accepts again.
	start()
	// write writes what the peer takes now, which may be less than all. With wait it may wait until the peer has taken all.
	write(b []byte, wait bool) (int, error)
	// awaitWrite has conn.writable called once, when more may be written.
	awaitWrite()
	// close ends all of this. It does not wait.
	close()
}

// connect gives the connection its link: a poller's where there is one and it takes the connection, else a goroutine's.
func (c *conn) connect(p *poll.Poller, nc net.Conn) error {
	if p != nil {
		l := &polled{conn: c}
		var err error
		if l.pc, err = p.Take(nc, l); err == nil {
			c.link = l
			return nil
		}
		if !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	c.link = &stream{conn: c, nc: nc, raw: rawConn(nc)}
	return nil
}

// polled is the link of a plain TCP connection where the system tells which ones are ready. It has no goroutine.
type polled struct {
	conn *conn
	pc   *poll.Conn
}

func (l *polled) start() {
	for !l.conn.receive(nil) {
		if l.conn.park() {
			return
		}
	}
	if l.pc.WatchRead(true) != nil {
		l.conn.cut()
	}
}

// Readable implements poll.Handler.
func (l *polled) Readable(buf []byte) {
	n, err := l.pc.Read(buf)
	switch {
	case err != nil:
		l.conn.cut()
	case n > 0 && !l.conn.receive(buf[:n]):
		if l.pc.WatchRead(false) == nil {
			l.start()
		}
	}
}

func (l *polled) write(b []byte, _ bool) (int, error) { return l.pc.Write(b) }

func (l *polled) awaitWrite() {
	if l.pc.WatchWrite(true) != nil {
		l.conn.cut()
	}
}

// Writable implements poll.Handler.
func (l *polled) Writable() {
	if l.pc.WatchWrite(false) == nil {
		l.conn.writable(false)
	}
}

func (l *polled) close() { l.pc.Close() }

// stream is the link of any other connection: with TLS, or where the system does not tell. A goroutine reads, and another
// one writes while the peer does not take all at once.
type stream struct {
	conn *conn
	nc   net.Conn
	raw  syscall.RawConn // nil where a write cannot be tried, as with TLS
	buf  [96]byte        // just large enough for the small messages of an idle peer
}

// Buffers for the rest of messages that are larger.
var large = sync.Pool{New: func() any { return new([16 << 10]byte) }}

func (l *stream) start() {
	for more := l.deliver(nil); more; {
		n, err := 0, error(nil)
		if l.conn.in.held == nil {
			n, err = l.nc.Read(l.buf[:])
			more = l.deliver(l.buf[:n])
		} else {
			buf := large.Get().(*[16 << 10]byte)
			n, err = l.nc.Read(buf[:])
			more = l.deliver(buf[:n])
			large.Put(buf)
		}
		if err != nil {
			l.conn.cut()
			return
		}
	}
}

// deliver reports whether more is to be read. If not, somebody else may call start already.
func (l *stream) deliver(b []byte) bool {
	for !l.conn.receive(b) {
		if l.conn.park() {
			return false
		}
		b = nil
	}
	return true
}

func (l *stream) write(b []byte, wait bool) (int, error) {
	if wait {
		return l.nc.Write(b)
	}
	return tryWrite(l.raw, b)
}

func (l *stream) awaitWrite() {
	l.conn.spawn(func() { l.conn.writable(true) })
}

func (l *stream) close() {
	if _, ok := l.nc.(*tls.Conn); ok { // which says goodbye to the peer first
		l.conn.server.running.Go(func() { _ = l.nc.Close() })
		return
	}
	_ = l.nc.Close()
}
