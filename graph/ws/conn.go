package ws

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"iapi/delivery"
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
	closeTryAgain       = 1013
	closeBadRequest     = 4400
	closeUnauthorized   = 4401
	closeForbidden      = 4403
	closeBadSubprotocol = 4406
	closeInitTimeout    = 4408
	closeDuplicate      = 4409
	closeTooManyInits   = 4429
)

// conn is one websocket. Its link tells it what arrives and when it may write; nothing it does then waits for the peer. See
// write.go for who writes. Times are those of Server.now.
type conn struct {
	server *Server
	link   link
	peer   string // its address, for the log

	opened int64
	heard  atomic.Int64 // when the peer last said something
	pinged atomic.Int64
	cutAt  atomic.Int64 // when to cut the connection unless the peer has taken or answered what it was sent; 0: never

	ready   atomic.Bool  // connection_ack was sent
	revoked atomic.Int64 // when it ends because its credential was revoked; 0: it was not
	closing atomic.Bool  // a close frame was queued, or the connection is cut

	request *http.Request    // of the handshake, until the caller is known
	caller  *identity.Caller // set before ready
	asked   int64            // when it was asked who the caller is; set before ready
	in      input

	mu      sync.Mutex
	dead    bool       // cut
	busy    int        // messages that are dealt with apart
	parked  bool       // nothing is received; see receive
	leaving bool       // the peer has sent a close frame
	said    bool       // our close frame was written
	writing bool       // somebody is the writer
	again   bool       // something was put in since the writer looked last
	blocked *outgoing  // what the peer has not taken yet of the frame that is written; its writer waits
	queue   []outgoing // frames to write
	ops     []*operation
	lasting int // operations that the peer has ended and that run still
}

func newConn(s *Server, r *http.Request) *conn {
	c := &conn{server: s, peer: r.RemoteAddr, opened: s.now()}
	c.heard.Store(c.opened)
	request := &http.Request{Method: r.Method, URL: r.URL, Host: r.Host, RemoteAddr: r.RemoteAddr, TLS: r.TLS, Header: r.Header.Clone()}
	// Of the handshake's context, which ends with the handshake, only the id is kept.
	c.request = request.WithContext(identity.WithCorrelationID(s.ctx, identity.CorrelationID(r.Context())))
	return c
}

// duty is something that time demands of a connection.
type duty int

const (
	nothing duty = iota
	toCut
	toPing
	toEndInit
	toExpire
	toRevoke
)

// due tells what has become due. It neither waits nor locks.
func (c *conn) due(now int64, wall time.Time) duty {
	opts := &c.server.opts
	every := opts.PingEvery.Milliseconds()
	heard, pinged := c.heard.Load(), c.pinged.Load()
	silent, asked := now-heard, now-pinged
	switch at := c.cutAt.Load(); {
	case at != 0 && now >= at:
		return toCut
	case c.closing.Load():
		return nothing
	case !c.ready.Load():
		if now-c.opened >= opts.InitTimeout.Milliseconds() {
			return toEndInit
		}
		return nothing
	case !c.caller.Expires.IsZero() && !wall.Before(c.caller.Expires):
		return toExpire
	case c.revoked.Load() != 0 && now >= c.revoked.Load():
		return toRevoke
	case silent >= every*5/2 && pinged > heard && asked >= every/2: // however late it was asked, it has had time to answer
		return toCut
	case silent >= every && asked >= every:
		return toPing
	}
	return nothing
}

// do does what is due.
func (c *conn) do(d duty, now int64) {
	switch d {
	case toCut:
		c.server.log.Debug("a websocket is given up", "peer", c.peer)
		c.cut()
	case toPing:
		c.pinged.Store(now)
		c.send(frame(opPing, nil))
	case toEndInit:
		c.close(closeInitTimeout, "Connection initialisation timeout")
	case toExpire:
		c.close(agentdoc.CloseExpired, "The credential has expired")
	case toRevoke:
		c.close(agentdoc.CloseExpired, "The credential was revoked")
	}
}

// hear records that the peer is alive.
func (c *conn) hear() {
	c.heard.Store(c.server.now())
	c.mu.Lock()
	ops := c.ops
	c.mu.Unlock()
	for _, op := range ops {
		for _, sub := range []*delivery.Subscription{op.sub.Load(), op.read.Load()} {
			if sub != nil {
				sub.Alive()
			}
		}
	}
}

// close sends a close frame as the last thing. The connection ends when the peer answers, or after a while.
func (c *conn) close(code int, reason string) {
	if c.closing.Swap(true) {
		return // another close frame is under way
	}
	c.enqueue(outgoing{frame: closeFrame(code, reason), last: true})
	c.wake()
}

// cut ends the connection at once, and with it all that wait for it. It does not wait itself, and may be called again.
func (c *conn) cut() {
	c.mu.Lock()
	if c.dead {
		c.mu.Unlock()
		return
	}
	c.dead = true
	ops, queue := c.ops, c.queue
	if c.blocked != nil {
		queue = append(queue, *c.blocked)
	}
	c.ops, c.queue, c.blocked = nil, nil, nil
	c.mu.Unlock()
	c.closing.Store(true)
	c.link.close()
	c.server.remove(c)
	for _, op := range ops {
		op.end()
	}
	for _, o := range queue {
		o.written()
	}
	c.server.running.Done()
}

// spawn starts a goroutine that Shutdown waits for, unless the connection has ended.
func (c *conn) spawn(fn func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.dead {
		c.server.running.Go(fn)
	}
	return !c.dead
}
