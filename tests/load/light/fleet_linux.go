package light

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/gobwas/ws"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"iapi/graph/agentdoc"
	"iapi/tests/load/sim"
)

// Fleet is many agents that run.
type Fleet struct {
	opts   Options
	server unix.SockaddrInet4
	poll   int
	conns  []conn
	byFD   map[int32]*conn
	in     []byte       // what was read; of run alone, as all above
	out    bytes.Buffer // one frame that is written
	text   []byte       // one report that is written
	again  []*conn      // whose reports were refused
	dialed int

	cancel  context.CancelFunc
	running sync.WaitGroup
	first   chan struct{}

	mu   sync.Mutex
	come int
	err  error
}

// state is how far a connection is.
type state int

const (
	connecting state = iota
	upgrading
	greeting
	subscribed
)

type conn struct {
	agent
	fd    int
	state state
	token string
	come  bool
	rest  []byte // of a message that has not come whole
}

// Start starts an agent for each host. Stop must be called.
func Start(ctx context.Context, o Options) (*Fleet, error) {
	server, err := resolve(o.Server)
	if err != nil {
		return nil, err
	}
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	if o.InFlight <= 0 {
		o.InFlight = len(o.Hosts)
	}
	f := &Fleet{opts: o, server: server, poll: poll, conns: make([]conn, len(o.Hosts)), byFD: make(map[int32]*conn, len(o.Hosts)),
		in: make([]byte, 1<<20), first: make(chan struct{})}
	for i, host := range o.Hosts {
		f.conns[i].agent = agent{host: host, session: uuid.New()}
		if o.Tokens != nil {
			f.conns[i].token = o.Tokens[i]
		}
	}
	ctx, f.cancel = context.WithCancel(ctx)
	f.running.Go(func() { f.run(ctx) })
	return f, nil
}

func resolve(server string) (a unix.SockaddrInet4, err error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "http" {
		return a, fmt.Errorf("server %q: want http://ADDRESS:PORT", server)
	}
	ip := net.ParseIP(u.Hostname()).To4()
	port, err := strconv.Atoi(u.Port())
	if ip == nil || err != nil {
		return a, fmt.Errorf("server %q: want http://ADDRESS:PORT, an address of IPv4", server)
	}
	return unix.SockaddrInet4{Port: port, Addr: [4]byte(ip)}, nil
}

// Ready is closed when every agent has had its first assignment.
func (f *Fleet) Ready() <-chan struct{} { return f.first }

// Waiting is how many agents have had no assignment yet.
func (f *Fleet) Waiting() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns) - f.come
}

// Dials is how often the agents have connected, or tried to.
func (f *Fleet) Dials() int64 { return int64(len(f.conns)) }

// Err is why an agent is not there any more.
func (f *Fleet) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Stop ends all agents and waits for them.
func (f *Fleet) Stop() {
	f.cancel()
	f.running.Wait()
}

func (f *Fleet) run(ctx context.Context) {
	const look = 50 // ms, after which it is looked whether to end, and refused reports are sent again
	defer func() {
		for fd := range f.byFD {
			_ = unix.Close(int(fd))
		}
		_ = unix.Close(f.poll)
	}()
	events := make([]unix.EpollEvent, 256)
	for ctx.Err() == nil {
		for f.dialed < len(f.conns) && f.dialed-f.come < f.opts.InFlight {
			c := &f.conns[f.dialed]
			f.dialed++
			if err := f.dial(c); err != nil {
				f.lose(c, err)
			}
		}
		n, err := unix.EpollWait(f.poll, events, look)
		if err != nil && !errors.Is(err, unix.EINTR) {
			f.fail(fmt.Errorf("wait for events: %w", err))
			return
		}
		for _, e := range events[:max(n, 0)] {
			if c := f.byFD[e.Fd]; c != nil {
				if err := f.event(c); err != nil {
					f.lose(c, err)
				}
			}
		}
		if n == 0 {
			again := f.again
			f.again = nil
			for _, c := range again {
				if err := f.tell(c); err != nil {
					f.lose(c, err)
				}
			}
		}
	}
}

func (f *Fleet) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

// lose ends a connection that is of no use any more.
func (f *Fleet) lose(c *conn, err error) {
	f.fail(fmt.Errorf("the agent of %s: %w", c.host, err))
	if c.fd > 0 {
		delete(f.byFD, int32(c.fd))
		_ = unix.Close(c.fd)
		c.fd = 0
	}
}

func (f *Fleet) dial(c *conn) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	c.fd = fd
	f.byFD[int32(fd)] = c
	source := unix.SockaddrInet4{Addr: [4]byte(sim.Source(f.dialed - 1).To4())}
	err = errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1), unix.Bind(fd, &source))
	if err != nil {
		return fmt.Errorf("set up a socket: %w", err)
	}
	if err := unix.Connect(fd, &f.server); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect: %w", err)
	}
	return f.watch(c, unix.EPOLL_CTL_ADD, unix.EPOLLOUT)
}

func (f *Fleet) watch(c *conn, op int, events uint32) error {
	if err := unix.EpollCtl(f.poll, op, c.fd, &unix.EpollEvent{Events: events, Fd: int32(c.fd)}); err != nil {
		return fmt.Errorf("watch a socket: %w", err)
	}
	return nil
}

// event deals with a connection on which something has happened.
func (f *Fleet) event(c *conn) error {
	if c.state == connecting {
		if errno, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || errno != 0 {
			return fmt.Errorf("connect: %w", errors.Join(err, unix.Errno(errno)))
		}
		c.state = upgrading
		if err := f.watch(c, unix.EPOLL_CTL_MOD, unix.EPOLLIN); err != nil {
			return err
		}
		request := "GET /graphql HTTP/1.1\r\nHost: " + f.opts.Server[len("http://"):] + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: " + agentdoc.Subprotocol + "\r\n"
		if c.token != "" {
			request += "Authorization: Bearer " + c.token + "\r\n"
		}
		return f.write(c, []byte(request+"\r\n"))
	}
	had := copy(f.in, c.rest)
	if had == len(f.in) {
		return errors.New("a message is too long")
	}
	n, err := unix.Read(c.fd, f.in[had:])
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil
	case err != nil:
		return fmt.Errorf("read: %w", err)
	case n == 0:
		return errors.New("the server has closed the connection")
	}
	left, err := f.read(c, f.in[:had+n])
	c.rest = append(c.rest[:0], left...)
	if len(left) == 0 {
		c.rest = nil
	}
	return err
}

// read deals with all messages that have come whole, and gives what is left.
func (f *Fleet) read(c *conn, in []byte) (left []byte, err error) {
	if c.state == upgrading {
		head, rest, whole := bytes.Cut(in, []byte("\r\n\r\n"))
		if !whole {
			return in, nil
		}
		if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
			return nil, fmt.Errorf("the server answered %q", until(head, '\r'))
		}
		c.state, in = greeting, rest
		if err := f.send(c, ws.OpText, []byte(`{"type":"connection_init"}`)); err != nil {
			return nil, err
		}
	}
	for len(in) > 0 {
		from := bytes.NewReader(in)
		h, err := ws.ReadHeader(from)
		begin := len(in) - from.Len()
		if err != nil || h.Length > int64(len(in)-begin) {
			return in, nil
		}
		message := in[begin : begin+int(h.Length)]
		in = in[begin+int(h.Length):]
		switch {
		case h.OpCode == ws.OpPing:
			err = f.send(c, ws.OpPong, message)
		case h.OpCode == ws.OpClose:
			err = fmt.Errorf("the server closed the connection: %q", message)
		case h.OpCode == ws.OpText && h.Fin:
			err = f.message(c, message)
		default:
			err = errors.New("the server sent what these agents do not read")
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

var (
	anAck, aPing     = []byte(`"type":"connection_ack"`), []byte(`"type":"ping"`)
	anEvent, anError = []byte(`"type":"next"`), []byte(`"type":"error"`)
	accepted         = []byte(`"accepted":true`)
	ofSubscription   = []byte(`"id":"a"`)
)

// message deals with one message of graphql-transport-ws.
func (f *Fleet) message(c *conn, message []byte) error {
	// The id and the type stand at the beginning, or at the end.
	const near = 48
	says := func(text []byte) bool {
		return bytes.Contains(message[:min(len(message), near)], text) || bytes.Contains(message[max(len(message)-near, 0):], text)
	}
	switch {
	case c.state == greeting:
		if !says(anAck) {
			return fmt.Errorf("instead of an acknowledgement came %q", message)
		}
		c.state = subscribed
		text, err := c.subscribe()
		if err != nil {
			return err
		}
		return f.send(c, ws.OpText, text)
	case says(aPing):
		return f.send(c, ws.OpText, []byte(`{"type":"pong"}`))
	case says(ofSubscription):
		if !c.assigned(message) {
			if says(anEvent) {
				return nil // a bookmark
			}
			return fmt.Errorf("the subscription ended: %q", message)
		}
		f.received(c)
		return f.tell(c)
	case says(anEvent), says(anError):
		return f.answered(c, message)
	}
	return nil // a report is complete
}

func (f *Fleet) received(c *conn) {
	if fn := f.opts.Observer.Received; fn != nil {
		fn(c.host)
	}
	if c.come {
		return
	}
	c.come = true
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.come++; f.come == len(f.conns) {
		close(f.first)
	}
}

// tell reports what there is to report, one report at a time.
func (f *Fleet) tell(c *conn) error {
	if f.opts.Mute || c.asking || !c.fresh || c.fd == 0 {
		return nil
	}
	f.text = c.report(f.text[:0], time.Now().UTC())
	return f.send(c, ws.OpText, f.text)
}

func (f *Fleet) answered(c *conn, message []byte) error {
	c.asking = false
	if !bytes.Contains(message, accepted) {
		if fn := f.opts.Observer.Refused; fn != nil {
			fn(fmt.Errorf("the API did not take a report: %q", message))
		}
		c.fresh = true
		f.again = append(f.again, c)
		return nil
	}
	changes := c.taken()
	if fn := f.opts.Observer.Acknowledged; fn != nil {
		fn(c.host, changes)
	}
	return f.tell(c)
}

// send writes one frame. Its mask is zero, which is one of the masks that there are.
func (f *Fleet) send(c *conn, op ws.OpCode, message []byte) error {
	f.out.Reset()
	if err := ws.WriteHeader(&f.out, ws.Header{Fin: true, OpCode: op, Masked: true, Length: int64(len(message))}); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	f.out.Write(message)
	return f.write(c, f.out.Bytes())
}

// write writes what always finds room: no agent has more than one report under way.
func (f *Fleet) write(c *conn, raw []byte) error {
	if n, err := unix.Write(c.fd, raw); err != nil || n < len(raw) {
		return fmt.Errorf("write %d of %d bytes: %w", n, len(raw), err)
	}
	return nil
}
