package poll

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	batch   = 128      // events taken at a time
	scratch = 64 << 10 // bytes of the buffer that all connections of a Poller read into
)

// Poller watches the connections that were given to it. Close ends it.
type Poller struct {
	// The epoll instance is a file of the runtime, which watches it as it watches sockets. So waiting occupies no thread,
	// and closing the file ends the wait.
	file  *os.File
	ended chan struct{}

	mu     sync.Mutex // for the registrations too, but never while anything is read or written
	fd     int        // of the epoll instance; -1 when closed
	conns  map[int32]*Conn
	closed bool
}

// New makes a Poller and starts its goroutine.
func New() (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll instance: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // or else the runtime would not watch it
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make an epoll instance: %w", err)
	}
	p := &Poller{file: os.NewFile(uintptr(fd), "epoll"), fd: fd, ended: make(chan struct{}), conns: make(map[int32]*Conn)}
	raw, err := p.file.SyscallConn()
	if err != nil {
		_ = p.file.Close()
		return nil, fmt.Errorf("watch an epoll instance: %w", err)
	}
	go p.run(raw.Read)
	return p, nil
}

// Take makes a plain TCP connection one of the Poller's. The net.Conn is closed, which the peer does not notice: the socket
// lives on in the Conn. On error the net.Conn is as it was; any other kind of connection is errors.ErrUnsupported. Nothing
// is told about the Conn until that is asked for.
func (p *Poller) Take(nc net.Conn, h Handler) (*Conn, error) {
	tcp, ok := nc.(*net.TCPConn) // and nothing that wraps one, for its methods would be passed over
	if !ok {
		return nil, fmt.Errorf("take over a %T: %w", nc, errors.ErrUnsupported)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("take over a connection: %w", err)
	}
	var fd int
	var dup error
	err = raw.Control(func(from uintptr) { fd, dup = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 3) })
	if err = errors.Join(err, dup); err != nil {
		return nil, fmt.Errorf("take over a connection: %w", err)
	}
	_ = nc.Close() // this end has another descriptor for the socket
	return &Conn{poller: p, handler: h, fd: fd}, nil
}

// Close closes all connections that are watched, ends the goroutine and waits for it. A Handler must not call it.
func (p *Poller) Close() {
	p.mu.Lock()
	p.closed = true
	left := make([]*Conn, 0, len(p.conns))
	for _, c := range p.conns {
		left = append(left, c)
	}
	p.mu.Unlock()
	for _, c := range left {
		c.Close()
	}
	p.mu.Lock()
	p.fd = -1
	p.mu.Unlock()
	_ = p.file.Close()
	<-p.ended
}

func (p *Poller) run(wait func(func(fd uintptr) bool) error) {
	defer close(p.ended)
	events, buf := make([]unix.EpollEvent, batch), make([]byte, scratch)
	for {
		var n int
		var failed error
		closed := wait(func(fd uintptr) bool {
			for {
				n, failed = unix.EpollWait(int(fd), events, 0)
				if !errors.Is(failed, unix.EINTR) {
					return n != 0
				}
			}
		})
		if closed != nil || failed != nil {
			return
		}
		for _, e := range events[:n] {
			p.tell(e, buf)
		}
	}
}

// tell passes an event on. While a batch is worked through, the descriptor of an event may have been closed and given to
// another connection; that one then looks in vain, for neither reading nor writing waits.
func (p *Poller) tell(e unix.EpollEvent, buf []byte) {
	p.mu.Lock()
	c := p.conns[e.Fd]
	if c == nil {
		p.mu.Unlock()
		return
	}
	interest := c.interest
	p.mu.Unlock()
	const broken = unix.EPOLLERR | unix.EPOLLHUP // told in any case; the next call finds the error
	if e.Events&(unix.EPOLLOUT|broken) != 0 && interest&unix.EPOLLOUT != 0 {
		c.handler.Writable()
	}
	if e.Events&(unix.EPOLLIN|broken) != 0 && interest&unix.EPOLLIN != 0 {
		c.handler.Readable(buf)
	}
}

// Conn is a socket that never waits. Its methods may be called from any goroutine.
type Conn struct {
	poller   *Poller
	handler  Handler
	fd       int
	users    atomic.Int32 // twice how many calls use the descriptor, and one more when it is to be closed after them
	interest uint32       // under the Poller's mutex; 0: not registered
}

// WatchRead sets whether the Handler is told about reading; at once, if there is something to read. When it is switched off,
// the Poller's goroutine may still be about to tell.
func (c *Conn) WatchRead(on bool) error { return c.watch(unix.EPOLLIN, on) }

// WatchWrite is WatchRead for writing.
func (c *Conn) WatchWrite(on bool) error { return c.watch(unix.EPOLLOUT, on) }

func (c *Conn) watch(what uint32, on bool) error {
	p := c.poller
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || c.users.Load()&1 != 0 {
		return net.ErrClosed
	}
	want := c.interest &^ what
	if on {
		want |= what
	}
	if want == c.interest {
		return nil
	}
	if err := c.register(want); err != nil {
		return fmt.Errorf("watch a connection: %w", err)
	}
	return nil
}

// register tells the system what is wanted. With nothing wanted the descriptor must go from the epoll instance, for a broken
// connection would be told on and on. The Poller's mutex is held.
func (c *Conn) register(want uint32) error {
	p, op := c.poller, unix.EPOLL_CTL_MOD
	switch {
	case want == 0:
		op = unix.EPOLL_CTL_DEL
	case c.interest == 0:
		op = unix.EPOLL_CTL_ADD
	}
	err := unix.EpollCtl(p.fd, op, c.fd, &unix.EpollEvent{Events: want, Fd: int32(c.fd)})
	if err != nil {
		return err
	}
	if c.interest = want; want == 0 {
		delete(p.conns, int32(c.fd))
	} else {
		p.conns[int32(c.fd)] = c
	}
	return nil
}

// Read reads what is there; 0 without an error means nothing. The end is io.EOF.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.use(unix.Read, b)
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	if errors.Is(err, unix.EAGAIN) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read from a connection: %w", err)
	}
	return n, nil
}

// Write writes what the peer takes now, which may be less than all, or nothing.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.use(unix.Write, b)
	if errors.Is(err, unix.EAGAIN) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("write to a connection: %w", err)
	}
	return n, nil
}

// use makes a call with the descriptor, which is not closed meanwhile, so that it cannot be another connection's.
func (c *Conn) use(call func(int, []byte) (int, error), b []byte) (n int, err error) {
	for users := c.users.Load(); ; users = c.users.Load() {
		if users&1 != 0 {
			return 0, net.ErrClosed
		}
		if c.users.CompareAndSwap(users, users+2) {
			break
		}
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		n, err = call(c.fd, b)
	}
	if c.users.Add(-2) == 1 {
		_ = unix.Close(c.fd)
	}
	return n, err
}

// Close closes the connection, when the calls that use it have returned. It may be called again.
func (c *Conn) Close() {
	p := c.poller
	p.mu.Lock()
	if c.users.Load()&1 != 0 {
		p.mu.Unlock()
		return
	}
	if c.interest != 0 {
		_ = c.register(0) // closing the descriptor would do it too, but not while a child of this process has a copy
	}
	last := c.users.Add(1) == 1
	p.mu.Unlock()
	if last {
		_ = unix.Close(c.fd)
	}
}
