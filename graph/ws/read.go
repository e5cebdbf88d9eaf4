package ws

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// input reads from the connection through a buffer that is just large enough for the small messages of an idle peer.
type input struct {
	nc    net.Conn
	early []byte // came with the handshake
	r, w  uint8
	buf   [96]byte
}

func (i *input) Read(b []byte) (int, error) {
	if len(i.early) > 0 {
		n := copy(b, i.early)
		if i.early = i.early[n:]; len(i.early) == 0 {
			i.early = nil
		}
		return n, nil
	}
	if i.r == i.w {
		if len(b) >= len(i.buf) {
			return i.nc.Read(b)
		}
		n, err := i.nc.Read(i.buf[:])
		if n == 0 {
			return 0, err
		}
		i.r, i.w = 0, uint8(n)
	}
	n := copy(b, i.buf[i.r:i.w])
	i.r += uint8(n)
	return n, nil
}

// violation is a breach of a protocol by the peer.
type violation struct {
	code   int
	reason string
}

func (v *violation) Error() string { return fmt.Sprintf("%d %s", v.code, v.reason) }

// read is the connection's goroutine.
func (c *conn) read() {
	defer c.teardown()
	for {
		message, err := c.message()
		if err == nil && !c.closing.Load() {
			err = c.handle(message)
		}
		var v *violation
		switch {
		case errors.As(err, &v):
			c.server.log.Debug("a websocket is closed", "peer", c.nc.RemoteAddr(), "code", v.code, "reason", v.reason)
			c.close(v.code, v.reason)
			if v.code < 4000 { // what follows cannot be understood
				_, _ = io.Copy(io.Discard, c.nc) // until the peer goes or lingering is over
				return
			}
		case err != nil:
			return
		}
	}
}

// message reads one text message, dealing with control frames on the way.
func (c *conn) message() ([]byte, error) {
	var message []byte
	started := false
	for {
		h, err := ws.ReadHeader(&c.in)
		if err != nil {
			return nil, err
		}
		state := ws.StateServerSide
		if started {
			state = state.Set(ws.StateFragmented)
		}
		if err := ws.CheckHeader(h, state); err != nil {
			return nil, &violation{closeProtocol, "Protocol error"}
		}
		if h.Length > int64(c.server.opts.MaxMessage-len(message)) {
			return nil, &violation{closeTooLarge, "Message too big"}
		}
		payload, err := c.payload(h)
		if err != nil {
			return nil, err
		}
		c.hear()
		switch h.OpCode {
		case ws.OpPing:
			c.answer(frame(opPong, payload))
		case ws.OpPong:
		case ws.OpClose:
			code := closeNormal
			if len(payload) >= 2 {
				code = int(binary.BigEndian.Uint16(payload))
			}
			if !validCloseCode(code) {
				code = closeProtocol
			}
			done := make(chan struct{})
			c.closeThen(code, "", done)
			select { // somebody else may be writing it
			case <-done:
			case <-c.ctx.Done():
			}
			return nil, io.EOF
		case ws.OpBinary:
			return nil, &violation{closeUnsupported, "Only text is understood"}
		default:
			if started = !h.Fin; !started && message == nil {
				message = payload
			} else {
				message = append(message, payload...)
			}
			if h.Fin {
				if !utf8.Valid(message) {
					return nil, &violation{closeBadText, "The text is not UTF-8"}
				}
				return message, nil
			}
		}
	}
}

// payload reads a frame's payload. A peer that announces more than it sends holds only what it has sent.
func (c *conn) payload(h ws.Header) ([]byte, error) {
	const step = 32 << 10
	payload := make([]byte, 0, min(int(h.Length), step))
	for len(payload) < int(h.Length) {
		if len(payload) == cap(payload) {
			grown := make([]byte, len(payload), min(int(h.Length), 2*cap(payload)))
			copy(grown, payload)
			payload = grown
		}
		n, err := c.in.Read(payload[len(payload):cap(payload)])
		payload = payload[:len(payload)+n]
		if err != nil {
			return nil, err
		}
	}
	if h.Masked {
		ws.Cipher(payload, h.Mask, 0)
	}
	return payload, nil
}

func validCloseCode(code int) bool {
	return code >= 1000 && code <= 1011 && code != 1004 && code != 1005 && code != 1006 || code >= 3000 && code <= 4999
}
