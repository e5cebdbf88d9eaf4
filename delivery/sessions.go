package delivery

import (
	"context"
	"fmt"

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

// doubt has the source asked who the agents of hosts are.
func (h *Hub) doubt(hosts ...uuid.UUID) {
	h.mu.Lock()
	for _, host := range hosts {
		h.doubts[host] = struct{}{}
	}
	h.mu.Unlock()
	select {
	case h.verify <- struct{}{}:
	default: // it will be done
	}
}

// doubted returns the subscriptions that there are doubts about, and forgets the doubts.
func (h *Hub) doubted() []*Subscription {
	h.mu.Lock()
	defer h.mu.Unlock()
	subs := make([]*Subscription, 0, len(h.doubts))
	for host := range h.doubts {
		if s := h.hosts[host]; s != nil {
			subs = append(subs, s)
		}
	}
	clear(h.doubts)
	return subs
}

// verifyLoop settles doubts until ctx ends: the stream has told that another session has begun; or an entry that tells of
// that, or that a credential was revoked, may have been among those that were missed.
func (h *Hub) verifyLoop(ctx context.Context) {
	wait := h.opts.RetryFirst
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.verify:
		}
		err := h.verifySessions(ctx, h.doubted())
		if err == nil {
			wait = h.opts.RetryFirst
			continue
		}
		if ctx.Err() != nil {
			return
		}
		h.failures.Add(1)
		h.log.Error("sessions cannot be compared", "error", err, "retryIn", wait)
		if !sleep(ctx, wait) {
			return
		}
		wait = min(2*wait, h.opts.RetryMost)
	}
}

// verifySessions ends the subscriptions whose session is not the host's agent any more. The source knew all that are
// registered before it is asked, so another session that it names began later. One that it has forgotten may stay. After an
// error there are doubts about the rest still.
func (h *Hub) verifySessions(ctx context.Context, subs []*Subscription) error {
	for len(subs) > 0 {
		chunk := subs[:min(len(subs), 1000)]
		hosts := make([]uuid.UUID, len(chunk))
		for i, s := range chunk {
			hosts[i] = s.host
		}
		within, cancel := context.WithTimeout(ctx, h.opts.SourceTimeout)
		sessions, err := h.source.Sessions(within, hosts...)
		cancel()
		if err != nil {
			for _, s := range subs[len(chunk):] {
				hosts = append(hosts, s.host)
			}
			h.doubt(hosts...)
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
		subs = subs[len(chunk):]
	}
	return nil
}
