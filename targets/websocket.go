package targets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/coder/websocket"
)

// dataSocket sends batches over websockets, one for each stream. A batch is one text message: a line with its sequence
// number and key, then the events. It is settled when the other side acknowledges the number.
type dataSocket struct {
	renderer
	base   *url.URL
	header http.Header
	conns  map[string]*socket
}

type socket struct {
	conn *websocket.Conn
	seq  int64
	used time.Time
}

// maxSockets bounds the connections of one queue; the one that was not used for longest makes room.
const maxSockets = 16

// batchHead is the first line of a message.
type batchHead struct {
	Seq int64  `json:"seq"`
	Key string `json:"key"`
}

// batchAck is the answer to one.
type batchAck struct {
	Seq int64 `json:"seq"`
	batchOutcome
}

func (d *dataSocket) send(ctx context.Context, key string, items []item) (result, error) {
	stream := items[0].stream
	s, fresh, err := d.socket(ctx, stream)
	if err != nil {
		return result{}, err
	}
	ack, err := s.exchange(ctx, key, items)
	if err != nil && !fresh && ctx.Err() == nil {
		// It may have been closed for being idle. The key makes a repeat harmless.
		d.drop(stream)
		if s, _, err = d.socket(ctx, stream); err != nil {
			return result{}, err
		}
		ack, err = s.exchange(ctx, key, items)
	}
	if err != nil {
		d.drop(stream)
		return result{}, err
	}
	s.used = d.opts.Clock.Now()
	if err := ack.failure(s.used); err != nil {
		return result{}, err
	}
	return result{done: len(items)}, nil
}

func (d *dataSocket) socket(ctx context.Context, stream string) (s *socket, fresh bool, err error) {
	if s, ok := d.conns[stream]; ok {
		return s, false, nil
	}
	if len(d.conns) >= maxSockets {
		oldest := ""
		for name, s := range d.conns {
			if oldest == "" || s.used.Before(d.conns[oldest].used) {
				oldest = name
			}
		}
		d.drop(oldest)
	}
	conn, resp, err := websocket.Dial(ctx, d.base.JoinPath(stream, "data").String(), &websocket.DialOptions{
		HTTPClient: d.opts.HTTPClient, HTTPHeader: d.header.Clone(), CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols && resp.StatusCode >= 300 {
			return nil, false, httpFailure(resp.StatusCode, resp.Header, "no websocket", d.opts.Clock.Now())
		}
		return nil, false, fmt.Errorf("connect: %w", err)
	}
	conn.SetReadLimit(64 << 10)
	s = &socket{conn: conn, used: d.opts.Clock.Now()}
	d.conns[stream] = s
	return s, true, nil
}

func (s *socket) exchange(ctx context.Context, key string, items []item) (batchAck, error) {
	s.seq++
	message, err := json.Marshal(batchHead{s.seq, key})
	if err != nil {
		return batchAck{}, fmt.Errorf("encode the batch: %w", err)
	}
	for _, it := range items {
		message = append(append(message, '\n'), it.lines[0]...)
	}
	if err := s.conn.Write(ctx, websocket.MessageText, message); err != nil {
		return batchAck{}, fmt.Errorf("write: %w", err)
	}
	for {
		_, answer, err := s.conn.Read(ctx)
		if code := websocket.CloseStatus(err); code == websocket.StatusMessageTooBig {
			return batchAck{batchOutcome: batchOutcome{Status: http.StatusRequestEntityTooLarge}}, nil
		}
		if err != nil {
			return batchAck{}, fmt.Errorf("read the answer: %w", err)
		}
		var ack batchAck
		if json.Unmarshal(answer, &ack) != nil {
			return batchAck{}, errors.New("read the answer: it is not an acknowledgement")
		}
		if ack.Seq == s.seq {
			return ack, nil
		}
	}
}

func (d *dataSocket) drop(stream string) {
	if s, ok := d.conns[stream]; ok {
		_ = s.conn.CloseNow() // every batch was settled or comes again
		delete(d.conns, stream)
	}
}

func (d *dataSocket) close() {
	for stream := range d.conns {
		d.drop(stream)
	}
	d.opts.HTTPClient.CloseIdleConnections()
}
