// Package dataapi is the receiving end of the Data API (RFD 17), small and bounded: it keeps the latest events of each
// stream in memory, for development, tests and sites that have no other. It also has the client that follows a stream.
//
// A stream begins with its first use. Over HTTP:
//
//	POST /{stream}/data    NDJSON, one event on a line; see package event
//	POST /data             batches of several streams in one body, each behind a line that is its head
//	GET  /{stream}/data    NDJSON of what is kept: since (RFC 3339, inclusive), after (a position), limit
//	GET  /{stream}/live    the same without an end, as envelopes: see Line
//	GET  /{stream}/info    one stream
//	GET  /, /streams       all of them
//
// A batch is stored whole or not at all: one bad line refuses it, and the answer names every bad line by its number.
// A batch with an Idempotency-Key that the stream has seen is answered as it was the first time and not stored again;
// the latest keys are remembered.
//
// A head is {"stream": "a", "key": "…", "events": 100}, and so many lines follow it. Each batch of such a body stands for
// itself: the answer has one outcome for each, in their order, {"accepted": 100}, or status and error if nothing of that
// batch was stored. Only a body that cannot be taken apart is refused as a whole.
//
// GET /{stream}/data with an Upgrade is a websocket. A text message is one batch: a line {"seq": 1, "key": "…"}, then
// events. It is answered with {"seq": 1, "accepted": 100}, or with status and error if nothing was stored.
//
// ServeUDP takes one event, which names its stream, in each datagram.
package dataapi

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"iapi/dataapi/event"
)

// Event is one event; see package event.
type Event = event.Event

// Options are the bounds of a server. The zero value of each has a default.
type Options struct {
	MaxStreams         int           // default 1,024; then the one that is idle for longest makes room, or none
	MaxEventsPerStream int           // the latest are kept; default 10,000
	MaxBytes           int64         // of all events together; default 256 MiB
	MaxBody            int64         // of one batch, unpacked; default 4 MiB
	MaxKeys            int           // idempotency keys that are remembered, of all streams; default 65,536
	MaxReaders         int           // live readers and websockets; default 256
	IdleAfter          time.Duration // without events or readers, a stream may be dropped for a new one; default 1 minute
	ForgetAfter        time.Duration // and is dropped in any case; default 24 h
	Heartbeat          time.Duration // between signs of life on a live stream; default 15 s
	Timeout            time.Duration // to read a request, and for each write; default 30 s
	Logger             *slog.Logger  // default: discards
	Now                func() time.Time
}

// Server receives events and shows them. Close ends what its handler has open.
type Server struct {
	opts    Options
	log     *slog.Logger
	streams *streams
	mux     http.Handler

	readers chan struct{} // a place for each live reader and websocket
	mu      sync.Mutex
	closed  bool
	open    sync.WaitGroup
	ctx     context.Context // of everything that is open
	cancel  context.CancelFunc
}

// New makes a server, which starts nothing by itself.
func New(o Options) *Server {
	o.MaxStreams = cmp.Or(o.MaxStreams, 1024)
	o.MaxEventsPerStream = cmp.Or(o.MaxEventsPerStream, 10_000)
	o.MaxBytes = cmp.Or(o.MaxBytes, 256<<20)
	o.MaxBody = cmp.Or(o.MaxBody, 4<<20)
	o.MaxKeys = cmp.Or(o.MaxKeys, 1<<16)
	o.MaxReaders = cmp.Or(o.MaxReaders, 256)
	o.IdleAfter = cmp.Or(o.IdleAfter, time.Minute)
	o.ForgetAfter = cmp.Or(o.ForgetAfter, 24*time.Hour)
	o.Heartbeat = cmp.Or(o.Heartbeat, 15*time.Second)
	o.Timeout = cmp.Or(o.Timeout, 30*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{
		opts: o, log: o.Logger, streams: newStreams(o), readers: make(chan struct{}, o.MaxReaders), ctx: ctx, cancel: cancel,
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{stream}/data", s.post)
	mux.HandleFunc("POST /data", s.together)
	mux.HandleFunc("GET /{stream}/data", s.get)
	mux.HandleFunc("GET /{stream}/live", s.live)
	mux.HandleFunc("GET /{stream}/info", s.info)
	mux.HandleFunc("GET /streams", s.list)
	mux.HandleFunc("GET /{$}", s.list)
	// A page in somebody's browser must not write here just because this listens on the same machine.
	s.mux = http.NewCrossOriginProtection().Handler(s.bounded(mux))
	return s
}

// Handler serves the API at its root; use http.StripPrefix to have it elsewhere.
func (s *Server) Handler() http.Handler { return s.mux }

// Close ends live readers and websockets and waits for them. http.Server.Shutdown waits for live readers, so call
// Close from RegisterOnShutdown or before it.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.open.Wait()
	return nil
}

// enter takes a place for something that stays open; false: there is none.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	select {
	case s.readers <- struct{}{}:
		s.open.Add(1)
		return true
	default:
		return false
	}
}

func (s *Server) leave() {
	<-s.readers
	s.open.Done()
}

// Receipt is the answer to a batch that was taken.
type Receipt struct {
	Accepted  int  `json:"accepted"`
	Duplicate bool `json:"duplicate,omitempty"` // was stored before
}

// LineError says what is wrong with one line of a batch, which counts from 1.
type LineError struct {
	Line  int    `json:"line"`
	Error string `json:"error"`
}

// Refusal is the answer to anything that was not done.
type Refusal struct {
	Error string      `json:"error"`
	Lines []LineError `json:"lines,omitempty"` // the first 100

	status     int
	retryAfter int // seconds
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that has left needs no answer
}
