package ws

import (
	"encoding/binary"
	"sync"
	"time"
)

// Who writes: whoever has put something into the queue, or has been told that a subscription has an event, calls wake. If
// nobody is writing, it becomes the writer and drains what there is, each frame by a write that does not wait. When the
// peer does not take all of a frame, a goroutine takes over until there is nothing left; each of its writes has a deadline.
// So nobody who delivers ever waits for a peer, and at most one frame for each operation is held for a slow one.

const (
	opText  = 0x1
	opClose = 0x8
	opPing  = 0x9
	opPong  = 0xA
)

// maxQueued bounds what the reader may have queued in answers before it stops reading.
const maxQueued = 32

// outgoing is a frame that waits to be written.
type outgoing struct {
	frame []byte
	done  chan struct{} // closed when it was written or never will be; nil: nobody waits
	last  bool          // nothing follows
}

func (o outgoing) written() {
	if o.done != nil {
		close(o.done)
	}
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
	select {
	case <-done:
	case <-c.ctx.Done():
	}
}

// answer is send for the reader, which waits when the peer asks faster than it listens.
func (c *conn) answer(frame []byte) {
	c.mu.Lock()
	full := len(c.queue) >= maxQueued
	c.mu.Unlock()
	if full {
		c.sendAndWait(frame)
		return
	}
	c.send(frame)
}

func (c *conn) enqueue(o outgoing) {
	c.mu.Lock()
	c.queue = append(c.queue, o)
	c.mu.Unlock()
}

// wake writes what there is, unless somebody does already.
func (c *conn) wake() {
	c.mu.Lock()
	c.again = true
	if c.writing {
		c.mu.Unlock()
		return
	}
	c.writing = true
	c.mu.Unlock()
	c.drain(false)
}

// drain writes until there is nothing left. slow says that it may wait for the peer, up to the write deadline.
func (c *conn) drain(slow bool) {
	for {
		o, pooled := c.next()
		if o.frame == nil {
			return
		}
		n, err := 0, error(nil)
		if !slow {
			n, err = c.tryWrite(o.frame)
		}
		if err == nil && n < len(o.frame) {
			if !slow {
				c.server.running.Add(1) // the reader still runs, so Shutdown has not returned
				go func() {
					defer c.server.running.Done()
					if c.finish(o, n, pooled) {
						c.drain(true)
					}
				}()
				return
			}
			if !c.finish(o, n, pooled) {
				return
			}
			continue
		}
		if !c.wrote(o, pooled, err) {
			return
		}
	}
}

// finish writes the rest of a frame, waiting for the peer.
func (c *conn) finish(o outgoing, n int, pooled *[]byte) bool {
	_ = c.nc.SetWriteDeadline(time.Now().Add(c.server.opts.WriteTimeout))
	_, err := c.nc.Write(o.frame[n:])
	if err == nil {
		_ = c.nc.SetWriteDeadline(time.Time{})
	}
	return c.wrote(o, pooled, err)
}

// wrote tells those concerned how a write has ended, and reports whether to go on.
func (c *conn) wrote(o outgoing, pooled *[]byte, err error) bool {
	o.written()
	release(pooled)
	switch {
	case err != nil:
		c.server.log.Debug("a websocket does not take what it is sent", "peer", c.nc.RemoteAddr(), "error", err)
		c.cut() // the reader notices; writing stays set, so that nobody tries again
		return false
	case o.last:
		c.cancel()
		_ = c.nc.SetReadDeadline(time.Now().Add(lingering))
		return false
	}
	return true
}

// next takes what is to be written: queued frames first, then an event of a subscription. With nothing left, it gives up
// the writer's role.
func (c *conn) next() (o outgoing, pooled *[]byte) {
	for {
		c.mu.Lock()
		c.again = false
		if len(c.queue) > 0 {
			o = c.queue[0]
			c.queue[0] = outgoing{}
			if c.queue = c.queue[1:]; len(c.queue) == 0 {
				c.queue = nil
			}
			c.mu.Unlock()
			return o, nil
		}
		ops := c.ops // replaced, never changed in place
		c.mu.Unlock()
		if !c.closing.Load() {
			for _, op := range ops {
				if frame, pooled := c.event(op); frame != nil {
					return outgoing{frame: frame}, pooled
				}
			}
		}
		c.mu.Lock()
		if !c.again && len(c.queue) == 0 {
			c.writing = false
			c.mu.Unlock()
			return outgoing{}, nil
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
