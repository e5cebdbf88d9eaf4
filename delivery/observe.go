package delivery

import "github.com/google/uuid"

// observers are those who look at hosts without being their agents.
type observers map[uuid.UUID]map[chan struct{}]struct{}

// Observe returns what is signalled after the document of a host may have changed, and how to end it. Who observes claims
// nothing: the host's agent stays what it is. Who is slow is signalled once for many changes.
func (h *Hub) Observe(host uuid.UUID) (changed <-chan struct{}, stop func()) {
	wake := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.observers[host] == nil {
		h.observers[host] = make(map[chan struct{}]struct{})
	}
	h.observers[host][wake] = struct{}{}
	return wake, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.observers[host], wake)
		if len(h.observers[host]) == 0 {
			delete(h.observers, host)
		}
	}
}

// wakeObservers signals those of one host; uuid.Nil: all.
func (h *Hub) wakeObservers(host uuid.UUID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	signal := func(of map[chan struct{}]struct{}) {
		for wake := range of {
			select {
			case wake <- struct{}{}:
			default: // it has not looked yet
			}
		}
	}
	if host != uuid.Nil {
		signal(h.observers[host])
		return
	}
	for _, of := range h.observers {
		signal(of)
	}
}
