package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"iapi/graph/agentdoc"
)

const (
	subscriptionID = "a"
	maxFrame       = 4 << 20 // an assignment is at most 1 MiB
	writeWithin    = 10 * time.Second
	connectWithin  = 20 * time.Second
)

// frame is a message of graphql-transport-ws.
type frame struct {
	ID      string          `json:"id,omitempty"`
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

// link is an open websocket. Its reader is stream; answers to single operations go to who waits for them.
type link struct {
	conn   *websocket.Conn
	closed chan struct{}
	in     bytes.Buffer // the message at hand; of the reader alone, as is begun
	begun  time.Time    // when it began to arrive

	out   sync.Mutex  // held by who writes
	stuck *time.Timer // cuts the connection of a write that does not end; runs only while out is held

	mu      sync.Mutex
	serial  int
	waiting map[string]chan frame
}

func newLink(conn *websocket.Conn) *link {
	l := &link{conn: conn, closed: make(chan struct{}), waiting: make(map[string]chan frame)}
	l.stuck = time.AfterFunc(writeWithin, l.cut)
	l.stuck.Stop()
	return l
}

// cut ends the connection at once. The reader ends with it and says why.
func (l *link) cut() { l.conn.CloseNow() }

// stream opens a websocket and reads it until it ends. The error says why it did; it is an errWebsocket if nothing of the
// subscription has come, though the server is there. passes is called when something has.
func (s *Session) stream(ctx context.Context, receive func(Assignment), passes func()) error {
	l, err := s.dial(ctx)
	if err != nil {
		return blocked(err)
	}
	defer l.cut()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer l.close()

	if err := s.subscribe(l); err != nil {
		return blocked(err)
	}
	wg.Go(func() { s.keepAlive(ctx, l) })
	defer s.setLink(nil)
	// The end of ctx and silence cut the connection: a context for each read would cost more than the read.
	defer context.AfterFunc(ctx, l.cut)()
	var silent atomic.Bool
	silence := time.AfterFunc(s.opts.Silence, func() {
		silent.Store(true)
		l.cut()
	})
	defer silence.Stop()
	reading := context.WithoutCancel(ctx)
	open := false
	for {
		f, err := l.read(reading)
		if err != nil && silent.Load() {
			err = errSilent
		}
		if err != nil && !open {
			return blocked(err)
		}
		if err != nil {
			return err
		}
		silence.Reset(s.opts.Silence)
		switch {
		case f.Type == "ping":
			if err := l.write(frame{Type: "pong", Payload: f.Payload}); err != nil {
				return err
			}
		case f.ID == subscriptionID:
			passes()
			if err := s.event(f, l.begun, receive); err != nil {
				return err
			}
			if !open { // from now on the API knows the session, and reports may go this way
				open = true
				s.setLink(l)
				s.begin()
				s.log.Info("connected to the API", "server", s.base())
			}
		case f.ID != "":
			l.answer(f)
		}
	}
}

// dial opens the websocket and completes the handshake of graphql-transport-ws.
func (s *Session) dial(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	header := s.header()
	conn, resp, err := websocket.Dial(ctx, s.base()+"/graphql", &websocket.DialOptions{
		HTTPClient: s.http, HTTPHeader: header, Subprotocols: []string{agentdoc.Subprotocol},
	})
	if err != nil {
		if resp != nil {
			if later := retryAfter(resp); later != nil {
				return nil, later
			}
			return nil, fmt.Errorf("the server answered %s", resp.Status)
		}
		return nil, fmt.Errorf("connect: %w", err)
	}
	if conn.Subprotocol() != agentdoc.Subprotocol {
		conn.CloseNow()
		return nil, errors.New("the server does not speak graphql-transport-ws")
	}
	conn.SetReadLimit(maxFrame)
	l := newLink(conn)
	if err := l.write(frame{Type: "connection_init"}); err != nil {
		conn.CloseNow()
		return nil, err
	}
	for {
		f, err := l.read(ctx)
		if err != nil {
			conn.CloseNow()
			return nil, err
		}
		if f.Type == "connection_ack" {
			return l, nil
		}
	}
}

func (s *Session) subscribe(l *link) error {
	variables := agentdoc.AssignmentsVariables{Host: s.opts.Host, Session: s.name}
	if v := s.version(); v != (Version{}) {
		variables.Known = &v
	}
	payload, err := json.Marshal(operation{Query: agentdoc.Assignments, Variables: variables})
	if err != nil {
		return fmt.Errorf("encode the subscription: %w", err)
	}
	return l.write(frame{ID: subscriptionID, Type: "subscribe", Payload: payload})
}

// arrived makes up for the time that an assignment took to arrive: its times to live are counted from when it was sent.
func arrived(a Assignment, begun time.Time) Assignment {
	a.SentAt = a.SentAt.Add(time.Since(begun))
	return a
}

// event handles a frame of the subscription, which began to arrive at the given time.
func (s *Session) event(f frame, begun time.Time, receive func(Assignment)) error {
	switch f.Type {
	case "next":
		e, err := s.last.readEvent(f.Payload)
		if err != nil {
			return err
		}
		if e.TypeName == agentdoc.TypeAssignment {
			s.offer(arrived(e.Assignment, begun), receive)
		}
		return nil
	case "error":
		var errs []agentdoc.Error
		if err := json.Unmarshal(f.Payload, &errs); err != nil || len(errs) == 0 {
			return errors.New("the API refused the subscription")
		}
		return asError(errs[0])
	case "complete":
		return errors.New("the API ended the subscription")
	}
	return nil
}

// keepAlive pings, so that a connection that is dead in either direction is noticed.
func (s *Session) keepAlive(ctx context.Context, l *link) {
	ticker := time.NewTicker(s.opts.Silence / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if l.write(frame{Type: "ping"}) != nil {
				l.cut()
				return
			}
		}
	}
}

// bufferKept is how large a buffer is kept for the next message. Large documents are rare, and agents many.
const bufferKept = 64 << 10

// read returns the next message, whose payload is only good until the next read.
func (l *link) read(ctx context.Context) (frame, error) {
	_, message, err := l.conn.Reader(ctx)
	if err != nil {
		return frame{}, readError(err)
	}
	l.begun = time.Now()
	if l.in.Cap() > bufferKept {
		l.in = bytes.Buffer{}
	}
	l.in.Reset()
	if _, err := l.in.ReadFrom(message); err != nil {
		return frame{}, readError(err)
	}
	return readFrame(l.in.Bytes())
}

// blocked says whether an error before the subscription's first frame is a sign that websockets do not pass. It is none
// when there is no server, or when the API itself has said why.
func blocked(err error) error {
	var dialing *net.OpError
	var told *laterError
	var closed *closedError
	switch {
	case errors.As(err, &dialing) && dialing.Op == "dial",
		errors.As(err, &told), errors.As(err, &closed) && closed.code >= 4000, errors.Is(err, ErrSuperseded):
		return err
	}
	return fmt.Errorf("%w: %w", errWebsocket, err)
}

// closedError is the API's word on why it closed the websocket.
type closedError struct {
	code   int
	reason string
}

func (e *closedError) Error() string {
	return fmt.Sprintf("the API closed the connection: %d %s", e.code, e.reason)
}

var errSilent = errors.New("the API has been silent for too long")

func readError(err error) error {
	var closed websocket.CloseError
	if errors.As(err, &closed) {
		if after, ok := strings.CutPrefix(closed.Reason, agentdoc.RetryPrefix); ok {
			if d, perr := time.ParseDuration(after); perr == nil && d >= 0 {
				return later(d.Seconds(), "the API closed the connection")
			}
		}
		if closed.Code == agentdoc.CloseSuperseded && closed.Reason == agentdoc.ReasonSuperseded {
			return ErrSuperseded
		}
		return &closedError{code: int(closed.Code), reason: closed.Reason}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return errSilent
	}
	return fmt.Errorf("read: %w", err)
}

// write sends a message. One that cannot be written within writeWithin ends the connection.
func (l *link) write(f frame) error {
	raw := make([]byte, 0, 64+len(f.Payload))
	if f.ID != "" { // ids are numbers, or the subscription's
		raw = append(append(append(raw, `{"id":"`...), f.ID...), `","type":"`...)
	} else {
		raw = append(raw, `{"type":"`...)
	}
	raw = append(append(raw, f.Type...), '"')
	if len(f.Payload) > 0 {
		raw = append(append(raw, `,"payload":`...), f.Payload...)
	}
	l.out.Lock()
	defer l.out.Unlock()
	l.stuck.Reset(writeWithin)
	defer l.stuck.Stop()
	if err := l.conn.Write(context.Background(), websocket.MessageText, append(raw, '}')); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// execute runs one operation on the websocket and returns its response.
func (l *link) execute(ctx context.Context, request []byte) ([]byte, error) {
	answer := make(chan frame, 1)
	l.mu.Lock()
	l.serial++
	id := strconv.Itoa(l.serial)
	l.waiting[id] = answer
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.waiting, id)
		l.mu.Unlock()
	}()

	if err := l.write(frame{ID: id, Type: "subscribe", Payload: request}); err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.closed:
		return nil, errors.New("the connection ended")
	case f := <-answer:
		if f.Type == "error" {
			return append(append([]byte(`{"data":null,"errors":`), f.Payload...), '}'), nil
		}
		return f.Payload, nil
	}
}

// answer hands the first frame of an operation to who waits for it; the complete that follows finds nobody.
func (l *link) answer(f frame) {
	if f.Type != "next" && f.Type != "error" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if waiting, ok := l.waiting[f.ID]; ok {
		delete(l.waiting, f.ID)
		f.Payload = bytes.Clone(f.Payload)
		waiting <- f // has room for one, and gets one
	}
}

func (l *link) close() { close(l.closed) }
