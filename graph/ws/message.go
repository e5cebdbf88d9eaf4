package ws

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"iapi/graph/agentdoc"
	"iapi/graph/internal/wire"
	"iapi/identity"
)

// message is a message of graphql-transport-ws, from the peer.
type message struct {
	ID      *string         `json:"id"`
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload"`
}

var (
	ping = []byte(`{"type":"ping"}`)
	pong = []byte(`{"type":"pong"}`)
	ack  = []byte(`{"type":"connection_ack"}`)
)

// handle deals with one message of the peer, and keeps nothing of its bytes.
func (c *conn) handle(raw []byte) error {
	if bytes.Equal(raw, ping) { // what an idle peer says most
		c.send(frame(opText, pong))
		return nil
	}
	if c.ready.Load() && c.caller.Kind == identity.Agent { // what a busy agent says most
		if id, payload, ok := plainSubscribe(raw); ok {
			if run := c.known(payload); run != nil {
				return c.start(id, run)
			}
		}
	}
	var m message
	if err := json.Unmarshal(raw, &m); err != nil {
		return &violation{closeBadRequest, "Invalid message"}
	}
	switch m.Type {
	case "connection_init":
		return c.init(m.Payload)
	case "ping":
		c.send(frame(opText, pong))
		return nil
	case "pong":
		return nil
	case "subscribe":
		return c.subscribe(m)
	case "complete":
		if m.ID == nil || *m.ID == "" {
			return &violation{closeBadRequest, "Invalid message: an operation has an id"}
		}
		if op := c.removeID(*m.ID); op != nil {
			op.end()
		}
		return nil
	}
	return &violation{closeBadRequest, "Invalid message: unknown type"}
}

// init finds out who the peer is and lets it begin. Credentials in the payload, which is all that a browser can send, go
// before those of the handshake.
func (c *conn) init(payload json.RawMessage) error {
	if c.ready.Load() {
		return &violation{closeTooManyInits, "Too many initialisation requests"}
	}
	var credentials struct {
		Authorization string `json:"authorization"` // in any case
		Token         string `json:"token"`
	}
	if len(payload) > 0 && string(payload) != "null" {
		if payload[0] != '{' || json.Unmarshal(payload, &credentials) != nil {
			return &violation{closeBadRequest, "Invalid message: the payload of connection_init is an object"}
		}
	}
	value := credentials.Authorization
	if value == "" && credentials.Token != "" {
		value = "Bearer " + credentials.Token
	}
	if value == "" && c.caller != nil {
		c.begin()
		return nil
	}
	r := c.request
	if value != "" {
		r.Header = http.Header{"Authorization": {value}, "Origin": r.Header["Origin"]}
	}
	c.apart(func() {
		asked := c.server.now()
		caller, authenticated, err := authenticate(c.server.opts.Authenticator, r)
		switch {
		case errors.Is(err, identity.ErrUnavailable):
			c.refuse(r, closeTryAgain, "Credentials cannot be checked at present")
		case err != nil, !authenticated:
			c.refuse(r, closeForbidden, "Forbidden")
		default:
			c.caller, c.asked = &caller, asked
			c.begin()
		}
	})
	return nil
}

// refuse closes the connection of a peer that is not let in. The id of its handshake, which the log has too, ends the reason.
func (c *conn) refuse(r *http.Request, code int, why string) {
	id := identity.CorrelationID(r.Context())
	c.server.log.Info("a websocket was refused", "peer", c.peer, "reason", why, "correlationId", id)
	c.close(code, fmt.Sprintf("%s (correlationId: %s)", why, id))
}

// begin lets the peer begin, now that it is known. A credential may have been revoked since it was looked up: either this is
// seen here, or Revoke finds a connection that is ready.
func (c *conn) begin() {
	c.request = nil
	c.ready.Store(true)
	if c.caller.Kind == identity.Agent && c.server.revokedSince(c.caller.Host, c.asked) {
		c.close(agentdoc.CloseExpired, "The credential was revoked")
		return
	}
	c.send(frame(opText, ack))
}

func isNoCredentials(err error) bool { return errors.Is(err, identity.ErrNoCredentials) }

// subscribe begins an operation that any peer asks for.
func (c *conn) subscribe(m message) error {
	if !c.ready.Load() {
		return &violation{closeUnauthorized, "Unauthorized"}
	}
	if m.ID == nil || *m.ID == "" || len(*m.ID) > 256 {
		return &violation{closeBadRequest, "Invalid message: an operation has an id of at most 256 bytes"}
	}
	if len(m.Payload) == 0 || m.Payload[0] != '{' {
		return &violation{closeBadRequest, "Invalid message: an operation has a payload"}
	}
	run := c.operation(m.Payload)
	if run == nil {
		return &violation{closeBadRequest, "Invalid message: the payload is no operation"}
	}
	return c.start(*m.ID, run)
}

// plainSubscribe takes a message apart that is written as agents write it: with a simple id, and with nothing but its payload
// after that. It looks neither into the payload nor whether there is one.
func plainSubscribe(raw []byte) (id string, payload []byte, ok bool) {
	raw, begins := bytes.CutPrefix(raw, []byte(`{"id":"`))
	raw, ends := bytes.CutSuffix(raw, []byte(`}`))
	name, payload, has := bytes.Cut(raw, []byte(`","type":"subscribe","payload":`))
	if !begins || !ends || !has || len(name) == 0 || len(name) > 36 {
		return "", nil, false
	}
	for _, c := range name {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' {
			return "", nil, false
		}
	}
	return string(name), payload, true
}

// start begins an operation. A peer whose credential was revoked begins nothing any more in the moment until it is closed.
func (c *conn) start(id string, run func(context.Context, *operation)) error {
	if c.revoked.Load() != 0 {
		c.close(agentdoc.CloseExpired, "The credential was revoked")
		return nil
	}
	ctx, cancel := context.WithCancel(c.server.ctx)
	op := &operation{id: id, cancel: cancel, quoted: quote(id)}
	switch added, exists := c.add(op); {
	case exists:
		cancel()
		return &violation{closeDuplicate, fmt.Sprintf("Subscriber for %s already exists", op.id)}
	case !added:
		cancel()
		c.send(c.errorFrame(op.id, gqlerror.List{c.tooMany()}))
		return nil
	}
	c.spawn(func() {
		defer c.returned(op)
		run(ctx, op)
	}) // or else the connection has ended, and the operation with it
	return nil
}

// operation reads the payload of a subscribe and returns what runs it, nil if it is not one. It keeps nothing of the payload.
func (c *conn) operation(payload []byte) func(context.Context, *operation) {
	if c.caller.Kind == identity.Agent {
		if run := c.known(payload); run != nil {
			return run
		}
	}
	var params graphql.RawParams
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.UseNumber()
	if err := decoder.Decode(&params); err != nil || params.Query == "" {
		return nil
	}
	return func(ctx context.Context, op *operation) { c.execute(ctx, op, &params) }
}

// known recognises what agents ask for all the time, nil for anything else. It keeps nothing of the payload.
func (c *conn) known(payload []byte) func(context.Context, *operation) {
	if c.server.opts.Report != nil {
		if r, ok := knownReport(payload); ok {
			return func(ctx context.Context, op *operation) { c.report(ctx, op, r) }
		}
	}
	if v, ok := knownDocument(payload); ok {
		return func(ctx context.Context, op *operation) { c.feed(ctx, op, v) }
	}
	return nil
}

func (c *conn) tooMany() *gqlerror.Error {
	return &gqlerror.Error{
		Message:    fmt.Sprintf("At most %d operations run on one connection at the same time.", c.server.opts.MaxOperations),
		Extensions: map[string]any{"code": "RATE_LIMITED"},
	}
}

// The frames of an operation. Ids are arbitrary text, so they are encoded as such.

func (c *conn) nextFrame(id string, r *graphql.Response) []byte {
	b := append([]byte(`{"id":`), quote(id)...)
	b = append(b, `,"type":"next","payload":`...)
	b, err := wire.Append(b, r, true)
	if err != nil {
		return c.errorFrame(id, gqlerror.List{c.server.opts.Present(c.server.ctx, err)})
	}
	return frame(opText, append(b, '}'))
}

func (c *conn) errorFrame(id string, errs gqlerror.List) []byte {
	b := append([]byte(`{"id":`), quote(id)...)
	b = append(b, `,"type":"error","payload":`...)
	b, err := wire.AppendErrors(b, errs)
	if err != nil {
		c.server.log.Error("an error cannot be encoded", "error", err)
		b = append(b, `[{"message":"Internal error."}]`...)
	}
	return frame(opText, append(b, '}'))
}

func completeFrame(id string) []byte {
	b := append([]byte(`{"id":`), quote(id)...)
	return frame(opText, append(b, `,"type":"complete"}`...))
}

// appendQuoted is quote for what is hardly ever anything but letters and digits.
func appendQuoted(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i] | 0x20; (c < 'a' || c > 'z') && (s[i] < '0' || s[i] > '9') {
			return append(b, quote(s)...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

func quote(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		return []byte(`""`) // cannot happen: every string can be encoded
	}
	return b
}
