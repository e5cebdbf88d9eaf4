package ws

import (
	"encoding/binary"
	"sync"
	"time"
)

// Who writes: whoever has put something into the queue, or has been told that a subscription has an event, calls wake. If
// nobody is writing, it becomes the writer and drains what there is, each frame by a write that does not wait. When the
// peer does not take all of a frame, the rest is kept and the writer's role waits with it, until the link says that more
// may be written; the keeper cuts the connection if the peer has not taken the frame by its deadline. So nobody who
// delivers ever waits for a peer, and at most one frame for each operation is held for a slow one.

const (
	opText  = 0x1
	opClose = 0x8
	opPing  = 0x9
	opPong  = 0xA
)

// outgoing is a frame that waits to be written, or the rest of one.
type outgoing struct {
	frame  []byte
	pooled *[]byte       // where the frame lies, to be released
	done   chan struct{} // closed when it was written or never will be; nil: nobody waits
	last   bool          // nothing follows
}

// written is called when a frame was written, or never will be.
func (o outgoing) written() {
	if o.done != nil {
		close(o.done)
	}
	release(o.pooled)
}

// send queues a frame without waiting.
func (c *conn) send(frame []byte) {
	if c.closing.Load() {
		return
	}
	c.enqueue(outgoing{frame: frame})
	c.wake()
}

// sendAndWait queues a frame and waits until it was written, or never will be.
func (c *conn) sendAndWait(frame []byte) {
	if c.closing.Load() {
		return
	}
	done := make(chan struct{})
	c.enqueue(outgoing{frame: frame, done: done})
	c.wake()
	<-done
}

func (c *conn) enqueue(o outgoing) {
	c.mu.Lock()
	if !c.dead {
		c.queue = append(c.queue, o)
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	o.written()
}

// wake writes what there is, unless somebody does already.
func (c *conn) wake() {
	c.mu.Lock()
	c.again = true
	if c.writing || c.dead {
		c.mu.Unlock()
		return
	}
	c.writing = true
	c.mu.Unlock()
	c.drain(false)
}

// drain writes until there is nothing left. With wait it may wait for the peer.
func (c *conn) drain(wait bool) {
	for {
		o, ok := c.next()
		if !ok || !c.put(o, wait) {
			return
		}
	}
}

// writable is called by the link when the peer takes more than it did.
func (c *conn) writable(wait bool) {
	c.mu.Lock()
	rest := c.blocked
	c.blocked = nil
	c.mu.Unlock()
	if rest != nil && c.put(*rest, wait) {
		c.drain(wait)
	}
}

// put writes a frame and reports whether more may follow.
func (c *conn) put(o outgoing, wait bool) bool {
	if wait {
		c.mustEnd(c.server.opts.WriteTimeout)
	}
	n, err := c.link.write(o.frame, wait)
	if err != nil {
		c.server.log.Debug("a websocket does not take what it is sent", "peer", c.peer, "error", err)
		o.written()
		c.cut()
		return false
	}
	if n < len(o.frame) {
		o.frame = o.frame[n:]
		c.block(o)
		return false
	}
	c.cutAt.Store(0)
	o.written()
	if !o.last {
		return true
	}
	c.mustEnd(c.server.opts.CloseTimeout)
	c.mu.Lock()
	c.said = true
	over := c.leaving
	c.mu.Unlock()
	if over {
		c.cut()
	}
	return false // and nobody becomes the writer after this one
}

// block keeps the rest of a frame until the link calls writable.
func (c *conn) block(rest outgoing) {
	c.mustEnd(c.server.opts.WriteTimeout)
	c.mu.Lock()
	dead := c.dead
	if !dead {
		c.blocked = &rest
	}
	c.mu.Unlock()
	if dead {
		rest.written()
		return
	}
	c.link.awaitWrite()
}

// mustEnd has the connection cut after a while, if that was not settled before.
func (c *conn) mustEnd(after time.Duration) {
	c.cutAt.CompareAndSwap(0, c.server.now()+max(after.Milliseconds(), 1))
}

// next takes what is to be written: queued frames first, then an event of a subscription. With nothing left, it gives up
// the writer's role.
func (c *conn) next() (outgoing, bool) {
	for {
		c.mu.Lock()
		c.again = false
		if len(c.queue) > 0 {
			o := c.queue[0]
			c.queue[0] = outgoing{}
			if c.queue = c.queue[1:]; len(c.queue) == 0 {
				c.queue = nil
				c.unpark()
			}
			c.mu.Unlock()
			return o, true
		}
		ops := c.ops // replaced, never changed in place
		c.mu.Unlock()
		if !c.closing.Load() {
			for _, op := range ops {
				if o, ok := c.event(op); ok {
					return o, true
				}
			}
		}
		c.mu.Lock()
		if !c.again && len(c.queue) == 0 {
			c.writing = false
			c.mu.Unlock()
			return outgoing{}, false
		}
		c.mu.Unlock()
	}
}

// frame makes a whole unmasked frame.
func frame(op byte, payload []byte) []byte {
	return append(appendHeader(make([]byte, 0, 10+len(payload)), op, len(payload)), payload...)
}

func appendHeader(b []byte, op byte, length int) []byte {
	b = append(b, 0x80|op)
	switch {
	case length < 126:
		return append(b, byte(length))
	case length < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(length))
	}
	return binary.BigEndian.AppendUint64(append(b, 127), uint64(length))
}

func closeFrame(code int, reason string) []byte {
	payload := binary.BigEndian.AppendUint16(nil, uint16(code))
	return frame(opClose, append(payload, reason[:min(len(reason), 123)]...))
}

// Buffers for events are shared by all connections. Large ones are not kept.
const maxPooled = 64 << 10

var buffers = sync.Pool{New: func() any { return new([]byte) }}

func release(b *[]byte) {
	if b == nil || cap(*b) > maxPooled {
		return
	}
	*b = (*b)[:0]
	buffers.Put(b)
}
