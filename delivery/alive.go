package delivery

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// poller is an agent that was heard of without a subscription here.
type poller struct {
	session uuid.UUID // that has begun here; Nil: none has
	number  int64     // of that beginning
	alive   bool      // heard of since the last touch
	last    time.Time // when it was heard of
}

// pollerFor is how long an agent that polls is remembered after it was last heard of.
const pollerFor = time.Minute

// polls records that a session which polls is the agent of the host.
func (h *Hub) polls(host, session uuid.UUID, number int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.pollers[host]; p != nil && p.number > number {
		return // one that has begun later was quicker
	}
	h.pollers[host] = &poller{session: session, number: number, last: h.opts.Clock()}
}

// hear records that the agent of a host was heard of. Whoever has a subscription is recorded by that.
func (h *Hub) hear(host uuid.UUID) {
	h.mu.Lock()
	s := h.hosts[host]
	if s == nil {
		p := h.pollers[host]
		if p == nil {
			p = &poller{}
			h.pollers[host] = p
		}
		p.alive, p.last = true, h.opts.Clock()
	}
	h.mu.Unlock()
	if s != nil {
		s.Alive()
	}
}

// heard returns the hosts whose agents were heard of since the last time, and forgets pollers that have ceased to come.
func (h *Hub) heard() []uuid.UUID {
	var hosts []uuid.UUID
	for _, s := range h.all() {
		s.mu.Lock()
		if s.alive && s.err == nil {
			hosts = append(hosts, s.host)
		}
		s.alive = false
		s.mu.Unlock()
	}
	now := h.opts.Clock()
	h.mu.Lock()
	defer h.mu.Unlock()
	for host, p := range h.pollers {
		if p.alive {
			hosts = append(hosts, host)
		} else if now.Sub(p.last) > pollerFor {
			delete(h.pollers, host)
		}
		p.alive = false
	}
	return hosts
}

// touchAll records which agents were heard of since the last time. Those for whom that fails are recorded the next time.
func (h *Hub) touchAll(ctx context.Context) {
	hosts := h.heard()
	if len(hosts) == 0 {
		return
	}
	within, cancel := context.WithTimeout(ctx, h.opts.SourceTimeout)
	defer cancel()
	missed, err := h.source.Touch(within, hosts...)
	if err == nil {
		return
	}
	for _, host := range missed {
		h.hear(host)
	}
	if ctx.Err() == nil {
		h.failures.Add(1)
		h.log.Error("it cannot be recorded which agents are alive", "hosts", len(missed), "of", len(hosts), "error", err)
	}
}
