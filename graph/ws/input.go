package ws

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// violation is a breach of a protocol by the peer.
type violation struct {
	code   int
	reason string
}

func (v *violation) Error() string { return fmt.Sprintf("%d %s", v.code, v.reason) }

// input is what has arrived and was not dealt with. It has one user at a time: see link.start.
type input struct {
	held       []byte // frames, or the beginning of one, that could not be dealt with yet
	message    []byte // the fragments of a message so far
	fragmented bool   // the message goes on
	deaf       bool   // what follows is not understood, or not of interest
}

// maxQueued bounds how many answers wait to be written before nothing more is received.
const maxQueued = 32

// handledAtOnce is how large a message may be, in bytes, that is dealt with while other connections wait for the poller.
const handledAtOnce = 16 << 10

// accepts reports whether a message may be dealt with now. The mutex is held.
func (c *conn) accepts() bool {
	return !c.dead && c.busy == 0 && len(c.queue) < maxQueued
}

// receive deals with what has arrived, in whatever pieces, and keeps nothing of b. When it refuses, what is left is held;
// then nothing more may be given to it until park says so or link.start is called.
func (c *conn) receive(b []byte) bool {
	in := &c.in
	if in.deaf {
		return true
	}
	holding := len(in.held) > 0
	if holding {
		in.held = append(in.held, b...)
		b = in.held
	}
	for {
		c.mu.Lock()
		accepts := c.accepts()
		c.mu.Unlock()
		var n int
		var err error
		if accepts {
			n, err = c.frame(b)
		}
		var v *violation
		if errors.As(err, &v) {
			c.breach(v)
			in.deaf = in.deaf || v.code < 4000 // what follows cannot be understood
		}
		if in.deaf {
			in.held, in.message = nil, nil
			return true
		}
		if n > 0 {
			b, holding = b[n:], false
			continue
		}
		switch {
		case len(b) == 0:
			in.held = nil
		case !holding:
			in.held = slices.Clone(b)
		}
		return accepts
	}
}

// park is called when receive has refused. If it still would, then nobody receives until link.start is called, and park
// reports true.
func (c *conn) park() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.parked = !c.accepts()
	return c.parked
}

// unpark starts receiving anew if that has become possible. The mutex is held.
func (c *conn) unpark() {
	if c.parked && c.accepts() {
		c.parked = false
		c.server.running.Go(c.link.start) // the connection still counts as running, so Shutdown has not returned
	}
}

// frame deals with the frame at the beginning of b and returns its length, 0 if it is not there as a whole. What is wrong
// with it is found as early as possible: a peer that announces more than it may send is not listened to.
func (c *conn) frame(b []byte) (int, error) {
	r := bytes.NewReader(b)
	h, err := ws.ReadHeader(r)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return 0, nil
	case err != nil:
		return 0, &violation{closeProtocol, "Protocol error"}
	}
	state := ws.StateServerSide
	if c.in.fragmented {
		state = state.Set(ws.StateFragmented)
	}
	if err := ws.CheckHeader(h, state); err != nil {
		return 0, &violation{closeProtocol, "Protocol error"}
	}
	if !h.OpCode.IsControl() && h.Length > int64(c.server.opts.MaxMessage-len(c.in.message)) {
		return 0, &violation{closeTooLarge, "Message too big"}
	}
	if h.Length > int64(r.Len()) {
		return 0, nil
	}
	start := len(b) - r.Len()
	end := start + int(h.Length)
	payload := b[start:end]
	ws.Cipher(payload, h.Mask, 0)
	c.hear()
	return end, c.take(h, payload)
}

// take deals with a frame that is whole and allowed.
func (c *conn) take(h ws.Header, payload []byte) error {
	in := &c.in
	switch h.OpCode {
	case ws.OpPing:
		c.send(frame(opPong, payload))
		return nil
	case ws.OpPong:
		return nil
	case ws.OpClose:
		in.deaf = true
		c.farewell(payload)
		return nil
	case ws.OpBinary:
		return &violation{closeUnsupported, "Only text is understood"}
	}
	if in.fragmented || !h.Fin {
		in.message = append(in.message, payload...)
		if in.fragmented = !h.Fin; in.fragmented {
			return nil
		}
		payload, in.message = in.message, nil
	}
	if !utf8.Valid(payload) {
		return &violation{closeBadText, "The text is not UTF-8"}
	}
	if c.closing.Load() {
		return nil
	}
	if len(payload) <= handledAtOnce {
		return c.handle(payload)
	}
	payload = bytes.Clone(payload)
	c.apart(func() {
		var v *violation
		if errors.As(c.handle(payload), &v) {
			c.breach(v)
		}
	})
	return nil
}

// breach ends the connection because of what the peer did.
func (c *conn) breach(v *violation) {
	c.server.log.Debug("a websocket is closed", "peer", c.peer, "code", v.code, "reason", v.reason)
	c.close(v.code, v.reason)
}

// apart does what may take a while in a goroutine. What arrives meanwhile has to wait.
func (c *conn) apart(fn func()) {
	c.mu.Lock()
	c.busy++
	c.mu.Unlock()
	c.spawn(func() {
		fn()
		c.mu.Lock()
		c.busy--
		c.unpark()
		c.mu.Unlock()
	})
}

// farewell answers the peer's close frame, or takes it as the answer to ours. Then the connection ends.
func (c *conn) farewell(payload []byte) {
	code := closeNormal
	switch {
	case len(payload) == 1:
		code = closeProtocol
	case len(payload) > 1:
		code = int(binary.BigEndian.Uint16(payload))
		if !validCloseCode(code) {
			code = closeProtocol
		} else if !utf8.Valid(payload[2:]) {
			code = closeBadText
		}
	}
	c.mu.Lock()
	c.leaving = true
	over := c.said
	c.mu.Unlock()
	if over {
		c.cut()
		return
	}
	c.close(code, "")
}

func validCloseCode(code int) bool {
	return code >= 1000 && code <= 1011 && code != 1004 && code != 1005 && code != 1006 || code >= 3000 && code <= 4999
}
