package delivery

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// OnRevoke sets what is called, from any goroutine and under no lock, when the credential of a host's agent was revoked. The
// function must not block.
func (h *Hub) OnRevoke(fn func(host uuid.UUID)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.revoked = fn
}

func (h *Hub) tellRevoked(host uuid.UUID) {
	h.mu.Lock()
	fn := h.revoked
	h.mu.Unlock()
	if fn != nil {
		fn(host)
	}
}

// supersede ends a subscription because another session is the host's agent.
func (h *Hub) supersede(s *Subscription) {
	h.ban(s.session)
	h.superseded.Add(1)
	s.finish(ErrSuperseded)
}

// verifyLoop compares sessions whenever versions are compared, until ctx ends: an entry of the stream that tells that a
// session was superseded or revoked may have been among those that were missed.
func (h *Hub) verifyLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.verify:
		}
		for wait := h.opts.RetryFirst; ; wait = min(2*wait, h.opts.RetryMost) {
			err := h.verifySessions(ctx)
			if err == nil || ctx.Err() != nil {
				break
			}
			h.failures.Add(1)
			h.log.Error("sessions cannot be compared", "error", err, "retryIn", wait)
			if !sleep(ctx, wait) {
				return
			}
		}
	}
}

// verifySessions ends the subscriptions whose session is not the host's agent any more. The source knew all that are
// registered before it is asked, so another session that it names began later. One that it has forgotten may stay.
func (h *Hub) verifySessions(ctx context.Context) error {
	var subs []*Subscription
	for _, s := range h.all() {
		s.mu.Lock()
		if s.err == nil {
			subs = append(subs, s)
		}
		s.mu.Unlock()
	}
	for chunk := range slices.Chunk(subs, 1000) {
		hosts := make([]uuid.UUID, len(chunk))
		for i, s := range chunk {
			hosts[i] = s.host
		}
		ctx, cancel := context.WithTimeout(ctx, h.opts.SourceTimeout)
		sessions, err := h.source.Sessions(ctx, hosts...)
		cancel()
		if err != nil {
			return fmt.Errorf("read sessions: %w", err)
		}
		for i, s := range chunk {
			switch sessions[i] {
			case s.session, uuid.Nil:
			case Revoked:
				s.finish(ErrRevoked)
				h.tellRevoked(s.host)
			default:
				h.supersede(s)
			}
		}
	}
	return nil
}
