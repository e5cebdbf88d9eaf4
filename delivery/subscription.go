package delivery

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"iapi/assignment"
)

// maxBanned bounds what is remembered of superseded sessions.
const maxBanned = 10_000

// Event is what a subscriber learns: a document, or, with a nil Document, that the version it knows still stands.
type Event struct {
	Host     uuid.UUID
	Version  assignment.Version
	Document *assignment.Stored
}

// Subscription is one session's claim to be a host's agent, and the slot that keeps what it was not told yet.
type Subscription struct {
	hub           *Hub
	host, session uuid.UUID
	number        atomic.Int64 // of the beginning of the session

	mu       sync.Mutex
	ready    func()
	known    assignment.Version // the newest that was put into the slot, or that the agent came with
	pending  *assignment.Stored
	bookmark bool  // known stands, and the agent has to be told
	first    bool  // the first event is still due
	alive    bool  // heard of since the last touch
	err      error // why it has ended
}

// Subscribe makes the session the agent of the host: the one before it, wherever it is connected, is told ErrSuperseded.
// known is the version that the agent runs already, zero for none. The first event follows soon; until there is one the
// subscription may still end with ErrNotReady or ErrUnknownHost. The subscription must be closed.
func (h *Hub) Subscribe(ctx context.Context, host, session uuid.UUID, known assignment.Version) (*Subscription, error) {
	s := &Subscription{hub: h, host: host, session: session, known: known, first: true, alive: true}
	previous, err := h.start(ctx, s)
	if err != nil {
		return nil, err
	}
	if previous != nil {
		if previous.session != session {
			h.ban(previous.session)
		}
		h.superseded.Add(1)
		previous.end(ErrSuperseded)
	}
	// The first read follows the registration, so what changed before it is not missed.
	h.laneOf(host).add(host, known == (assignment.Version{}), false)
	return s, nil
}

// turn is that of a subscription to begin.
type turn struct {
	of    *Subscription
	doubt bool          // meanwhile the stream has told of another session
	over  chan struct{} // closed at its end
}

// start has a subscription begin when it is its turn, and registers it. It returns the one before it. One that could not
// begin, or that has ended meanwhile, leaves the one before it in place.
func (h *Hub) start(ctx context.Context, s *Subscription) (previous *Subscription, err error) {
	within, cancel := context.WithTimeout(ctx, h.opts.SourceTimeout)
	defer cancel()
	t := &turn{of: s, over: make(chan struct{})}
	if err := h.await(within, t); err != nil {
		return nil, err
	}
	number, err := h.begin(within, s.host, s.session)
	s.number.Store(number)
	h.mu.Lock()
	delete(h.starting, s.host)
	close(t.over)
	ended := s.ended()
	switch {
	case err == nil && ended != nil:
		err = ended
	case err == nil && h.closed:
		err = ErrClosed
	case err == nil:
		previous, h.hosts[s.host] = h.hosts[s.host], s
		delete(h.pollers, s.host)
	}
	h.mu.Unlock()
	if t.doubt {
		h.doubt(s.host)
	}
	return previous, err
}

// await waits until no other subscription of the host begins.
func (h *Hub) await(ctx context.Context, t *turn) error {
	for {
		h.mu.Lock()
		other := h.starting[t.of.host]
		if other == nil {
			h.starting[t.of.host] = t
		}
		h.mu.Unlock()
		if other == nil {
			return nil
		}
		select {
		case <-other.over:
		case <-ctx.Done():
			return fmt.Errorf("%w: wait for the session before: %w", ErrNotReady, ctx.Err())
		}
	}
}

// begin makes the session the host's agent, unless it has to wait because it was superseded. It returns the number of the beginning.
func (h *Hub) begin(ctx context.Context, host, session uuid.UUID) (number int64, err error) {
	h.mu.Lock()
	until, banned := h.banned[session]
	if banned && !h.opts.Clock().Before(until) {
		delete(h.banned, session)
		banned = false
	}
	h.mu.Unlock()
	if banned {
		return 0, fmt.Errorf("%w: come back in %s", ErrSuperseded, until.Sub(h.opts.Clock()).Round(time.Second))
	}
	ctx, cancel := context.WithTimeout(ctx, h.opts.SourceTimeout)
	defer cancel()
	if number, err = h.source.BeginSession(ctx, host, session, 0); err != nil {
		h.failures.Add(1)
		return 0, fmt.Errorf("%w: begin a session: %w", ErrNotReady, err)
	}
	return number, nil
}

func (h *Hub) ban(session uuid.UUID) {
	now := h.opts.Clock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.banned) >= maxBanned {
		for id, until := range h.banned {
			if !now.Before(until) {
				delete(h.banned, id)
			}
		}
		if len(h.banned) >= maxBanned {
			return
		}
	}
	h.banned[session] = now.Add(h.opts.SupersededFor)
}

// Take returns what waits, without blocking: an event, or false for none. After the end it returns the reason.
func (s *Subscription) Take() (Event, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return Event{}, false, s.err
	case s.pending != nil:
		e := Event{Host: s.host, Version: s.pending.Version, Document: s.pending}
		s.pending, s.bookmark = nil, false
		return e, true, nil
	case s.bookmark:
		s.bookmark = false
		return Event{Host: s.host, Version: s.known}, true, nil
	}
	return Event{}, false, nil
}

// OnReady sets what is called, from any goroutine and under no lock, whenever Take may have something to return; at once
// if it has. The function must not block. There is one at a time.
func (s *Subscription) OnReady(fn func()) {
	s.mu.Lock()
	s.ready = fn
	now := s.err != nil || s.pending != nil || s.bookmark
	s.mu.Unlock()
	if now && fn != nil {
		fn()
	}
}

// Next waits for an event. It is for those who can afford a goroutine, and not to be mixed with OnReady.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	wake := make(chan struct{}, 1)
	s.OnReady(func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	})
	for {
		if e, ok, err := s.Take(); ok || err != nil {
			return e, err
		}
		select {
		case <-ctx.Done():
			return Event{}, ctx.Err()
		case <-wake:
		}
	}
}

// Alive records that the agent was heard of.
func (s *Subscription) Alive() {
	s.mu.Lock()
	s.alive = true
	s.mu.Unlock()
}

// Close ends the subscription. It removes its own registration only, never that of one that has superseded it.
func (s *Subscription) Close() { s.finish(ErrClosed) }

// finish removes the registration and ends the subscription.
func (s *Subscription) finish(err error) {
	h := s.hub
	h.mu.Lock()
	if h.hosts[s.host] == s {
		delete(h.hosts, s.host)
	}
	h.mu.Unlock()
	s.end(err)
}

func (s *Subscription) end(err error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err, s.pending, s.bookmark = err, nil, false
	ready := s.ready
	s.mu.Unlock()
	if ready != nil {
		ready()
	}
}

func (s *Subscription) ended() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// confirm tells the agent that what it knows still stands, if that is what it has to be told.
func (s *Subscription) confirm(v assignment.Version) (first bool) {
	s.mu.Lock()
	if s.err != nil || !s.first || s.known != v {
		s.mu.Unlock()
		return false
	}
	s.first, s.bookmark = false, true
	ready := s.ready
	s.mu.Unlock()
	s.hub.resumed.Add(1)
	if ready != nil {
		ready()
	}
	return true
}

// offer puts a document into the slot if it is newer than all before it. It returns false for one that an agent would
// refuse, which means that the source has gone back.
func (s *Subscription) offer(doc *assignment.Stored) bool {
	s.mu.Lock()
	switch {
	case s.err != nil:
		s.mu.Unlock()
		return true
	case doc.Version == s.known:
		s.mu.Unlock()
		s.confirm(doc.Version)
		return true
	case wentBack(doc.Version, s.known):
		s.mu.Unlock()
		return false
	}
	s.pending, s.known, s.first, s.bookmark = doc, doc.Version, false, false
	ready := s.ready
	s.mu.Unlock()
	s.hub.delivered.Add(1)
	if ready != nil {
		ready()
	}
	return true
}
