package ws

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"iapi/graph/agentdoc"
	"iapi/identity"
)

// Close codes of graphql-transport-ws and of RFC 6455.
const (
	closeNormal         = 1000
	closeProtocol       = 1002
	closeUnsupported    = 1003
	closeBadText        = 1007
	closeTooLarge       = 1009
	closeInternal       = 4500
	closeBadRequest     = 4400
	closeUnauthorized   = 4401
	closeForbidden      = 4403
	closeBadSubprotocol = 4406
	closeInitTimeout    = 4408
	closeDuplicate      = 4409
	closeTooManyInits   = 4429
)

// lingering is how long a peer has to answer a close frame.
const lingering = time.Second

// conn is one websocket. Its reader is the only one that reads; see write.go for who writes.
type conn struct {
	server *Server
	nc     net.Conn
	raw    syscall.RawConn // nil where a write cannot be tried, as with TLS
	ctx    context.Context // of all operations
	cancel context.CancelFunc
	in     input

	opened  int64        // Unix milliseconds
	heard   atomic.Int64 // the same: when the peer last said something
	pinged  atomic.Int64 // the same
	ready   atomic.Bool  // connection_ack was sent
	closing atomic.Bool  // a close frame was queued, or the connection is cut

	request *http.Request    // of the handshake, until the caller is known
	caller  *identity.Caller // set before ready

	mu      sync.Mutex
	writing bool // somebody is in drain
	again   bool // something was put in since it looked last
	queue   []outgoing
	ops     []*operation
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{server: s, nc: nc, opened: s.opts.Clock().UnixMilli()}
	c.heard.Store(c.opened)
	c.in.nc = nc
	c.ctx, c.cancel = context.WithCancel(s.ctx)
	c.raw = rawConn(nc)
	return c
}

// check is called about once a second.
func (c *conn) check(now time.Time) {
	if c.closing.Load() {
		return
	}
	ms := now.UnixMilli()
	opts := &c.server.opts
	silent := time.Duration(ms-c.heard.Load()) * time.Millisecond
	switch {
	case !c.ready.Load():
		if time.Duration(ms-c.opened)*time.Millisecond >= opts.InitTimeout {
			c.close(closeInitTimeout, "Connection initialisation timeout")
		}
	case !c.caller.Expires.IsZero() && !now.Before(c.caller.Expires):
		c.close(agentdoc.CloseExpired, "The credential has expired")
	case silent >= opts.PingEvery*5/2:
		c.cut()
	case silent >= opts.PingEvery && time.Duration(ms-c.pinged.Load())*time.Millisecond >= opts.PingEvery:
		c.pinged.Store(ms)
		c.send(frame(opPing, nil))
	}
}

// hear records that the peer is alive.
func (c *conn) hear() {
	c.heard.Store(c.server.opts.Clock().UnixMilli())
	c.mu.Lock()
	for _, op := range c.ops {
		if op.sub != nil {
			op.sub.Alive()
		}
	}
	c.mu.Unlock()
}

// close sends a close frame as the last thing. The reader ends when the peer answers, or after a while.
func (c *conn) close(code int, reason string) {
	c.closeThen(code, reason, nil)
}

// closeThen is close, and closes done when the frame was written or never will be.
func (c *conn) closeThen(code int, reason string, done chan struct{}) {
	o := outgoing{frame: closeFrame(code, reason), done: done, last: true}
	if c.closing.Swap(true) {
		o.written() // another close frame is under way
		return
	}
	c.enqueue(o)
	c.wake()
}

// cut ends the connection at once, and with it all that wait for it.
func (c *conn) cut() {
	c.closing.Store(true)
	c.cancel()
	_ = c.nc.Close()
}

// teardown runs when the reader has ended.
func (c *conn) teardown() {
	c.cut()
	c.server.remove(c)
	c.mu.Lock()
	ops, queue := c.ops, c.queue
	c.ops, c.queue = nil, nil
	c.mu.Unlock()
	for _, op := range ops {
		op.end()
	}
	for _, o := range queue {
		o.written()
	}
	c.server.running.Done()
}
