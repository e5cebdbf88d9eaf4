package dataapi

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/coder/websocket"
)

// socketIdle is how long a websocket may be silent. Its client connects again when it has something to send.
const socketIdle = 10 * time.Minute

// batchHead is the first line of a message.
type batchHead struct {
	Seq *int64 `json:"seq"`
	Key string `json:"key"`
}

// batchAck answers one message.
type batchAck struct {
	Seq int64 `json:"seq"`
	Outcome
}

func (s *Server) socket(w http.ResponseWriter, r *http.Request) {
	name, ok := s.begin(w, r)
	if !ok {
		return
	}
	if !s.enter() {
		s.refuse(w, tooManyReaders)
		return
	}
	defer s.leave()
	// The deadlines of the request must not end the socket.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(time.Time{})
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return // it has answered
	}
	defer conn.CloseNow()
	conn.SetReadLimit(s.opts.MaxBody)
	for {
		// The socket is hijacked, so that the request's context tells nothing of it.
		ctx, cancel := context.WithTimeout(s.ctx, socketIdle)
		kind, message, err := conn.Read(ctx)
		cancel()
		if err != nil {
			_ = conn.Close(websocket.StatusGoingAway, "")
			return
		}
		if kind != websocket.MessageText {
			_ = conn.Close(websocket.StatusUnsupportedData, "a batch is a text message")
			return
		}
		ack, ok := s.batch(name, message)
		if !ok {
			_ = conn.Close(websocket.StatusPolicyViolation, `a batch begins with a line {"seq": number, "key": text}`)
			return
		}
		raw, err := json.Marshal(ack)
		if err != nil {
			s.log.Error("an acknowledgement cannot be encoded", "error", err)
			return
		}
		ctx, cancel = context.WithTimeout(s.ctx, s.opts.Timeout)
		err = conn.Write(ctx, websocket.MessageText, raw)
		cancel()
		if err != nil {
			return
		}
	}
}

func (s *Server) batch(name string, message []byte) (batchAck, bool) {
	first, rest, _ := bytes.Cut(message, []byte("\n"))
	var head batchHead
	if json.Unmarshal(first, &head) != nil || head.Seq == nil || len(head.Key) > maxKey {
		return batchAck{}, false
	}
	return batchAck{*head.Seq, s.taken(name, head.Key, rest, 2)}, true
}
