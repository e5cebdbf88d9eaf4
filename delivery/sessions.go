package delivery

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
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
	for _, host := range hosts {
		h.laneOf(host).doubt(host)
	}
}

func (l *lane) doubt(host uuid.UUID) {
	l.mu.Lock()
	l.doubts[host] = struct{}{}
	l.mu.Unlock()
	select {
	case l.verify <- struct{}{}:
	default: // it will be done
	}
}

// doubted returns the hosts that there are doubts about, and forgets the doubts.
func (l *lane) doubted() []uuid.UUID {
	l.mu.Lock()
	defer l.mu.Unlock()
	hosts := make([]uuid.UUID, 0, len(l.doubts))
	for host := range l.doubts {
		hosts = append(hosts, host)
	}
	clear(l.doubts)
	return hosts
}

// subscriptions returns those of hosts that are served here.
func (h *Hub) subscriptions(hosts []uuid.UUID) []*Subscription {
	h.mu.Lock()
	defer h.mu.Unlock()
	subs := make([]*Subscription, 0, len(hosts))
	for _, host := range hosts {
		if s := h.hosts[host]; s != nil {
			subs = append(subs, s)
		}
	}
	return subs
}

// verifyLoop settles the doubts about the hosts of a lane until ctx ends: the stream has told that another session has begun; or
// an entry that tells of that, or that a credential was revoked, may have been among those that were missed; or the source may
// have lost what it was told.
func (h *Hub) verifyLoop(ctx context.Context, l *lane) {
	wait := h.opts.RetryFirst
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.verify:
		}
		err := h.verifySessions(ctx, h.subscriptions(l.doubted()))
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

// verifySessions ends the subscriptions whose session is not the host's agent any more, for one that began later is, or it was
// revoked. Where the source knows of an earlier beginning only, or of none, it has lost this one, and the session begins again.
// After an error there are doubts about the rest still.
func (h *Hub) verifySessions(ctx context.Context, subs []*Subscription) error {
	for len(subs) > 0 {
		chunk := subs[:min(len(subs), 1000)]
		hosts := make([]uuid.UUID, len(chunk))
		numbers := make([]int64, len(chunk)) // before the source is asked, for a session may begin again meanwhile
		for i, s := range chunk {
			hosts[i], numbers[i] = s.host, s.number.Load()
		}
		within, cancel := context.WithTimeout(ctx, h.opts.SourceTimeout)
		sessions, err := h.source.Sessions(within, hosts...)
		cancel()
		reads, err := readsOf(hosts, sessions, err)
		if err != nil {
			for _, s := range subs[len(chunk):] {
				hosts = append(hosts, s.host)
			}
			h.doubt(hosts...)
			return fmt.Errorf("read sessions: %w", err)
		}
		var lost []*Subscription
		for i, s := range chunk {
			switch stands := reads[i].is; {
			case reads[i].err != nil:
				h.unreadable(s, reads[i].err) // nothing is known of its agent, so it stays
			case stands.ID == s.session:
			case stands.Number < numbers[i]:
				lost = append(lost, s)
			case stands.ID == uuid.Nil: // nobody is kept at all
			case stands.ID == Revoked:
				s.finish(ErrRevoked)
				h.tellRevoked(s.host)
			default:
				h.supersede(s)
			}
		}
		subs = subs[len(chunk):]
		if err := h.restore(ctx, lost); err != nil {
			for _, s := range subs {
				h.doubt(s.host)
			}
			return err
		}
	}
	return nil
}

// restore has sessions begin again that the source has lost. About those that did not there are doubts still.
func (h *Hub) restore(ctx context.Context, lost []*Subscription) error {
	if len(lost) == 0 {
		return nil
	}
	h.log.Warn("the store has lost who the agents of some hosts are; their sessions begin again", "hosts", len(lost))
	var group errgroup.Group
	group.SetLimit(h.opts.BatchSize)
	for _, s := range lost {
		group.Go(func() error {
			is, err := h.beginAgain(ctx, s.host, s.session)
			if !is {
				h.doubt(s.host)
			}
			return err
		})
	}
	return group.Wait()
}

// beginAgain makes a session that has begun here the host's agent once more, if the source has lost that and no other has begun
// since. It reports whether it is the host's agent.
func (h *Hub) beginAgain(ctx context.Context, host, session uuid.UUID) (bool, error) {
	held, took := h.begun(host, session)
	if held == 0 {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, h.opts.SourceTimeout)
	defer cancel()
	number, err := h.source.BeginSession(ctx, host, session, held)
	if err != nil {
		return false, fmt.Errorf("begin a session again: %w", err)
	}
	if number == 0 {
		return false, nil
	}
	took(number)
	return true, nil
}

// begun returns the number of a session that has begun here and is the host's agent as far as this process knows, 0 for none, and
// what takes the number that it is given when it begins again.
func (h *Hub) begun(host, session uuid.UUID) (number int64, took func(number int64)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.hosts[host]; s != nil && s.session == session {
		return s.number.Load(), s.number.Store
	}
	if p := h.pollers[host]; p != nil && p.session == session {
		return p.number, func(number int64) {
			h.mu.Lock()
			defer h.mu.Unlock()
			p.number = number
		}
	}
	return 0, nil
}
