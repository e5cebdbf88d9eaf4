package delivery

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/assignment"
)

// lane is a queue of hosts to look at. A host is always in the same lane, and a lane is served by one goroutine, so the
// documents of one host are never overtaken by older ones.
type lane struct {
	wake chan struct{} // capacity 1

	mu     sync.Mutex
	urgent []uuid.UUID
	normal []uuid.UUID
	// waiting has the hosts in the queues. Its value says that the document has changed for certain; else versions are
	// compared first.
	waiting map[uuid.UUID]bool

	verify chan struct{} // capacity 1: there are doubts
	// doubts has the hosts whose agent may be another session now: the source is to be asked.
	doubts map[uuid.UUID]struct{}
}

func newLane() *lane {
	return &lane{wake: make(chan struct{}, 1), waiting: make(map[uuid.UUID]bool),
		verify: make(chan struct{}, 1), doubts: make(map[uuid.UUID]struct{})}
}

// add puts a host into the queue. A host that waits already is not queued twice; if it has become urgent it moves ahead.
func (l *lane) add(host uuid.UUID, changed, urgent bool) {
	l.mu.Lock()
	was, waits := l.waiting[host]
	l.waiting[host] = changed || was
	switch {
	case urgent:
		l.urgent = append(l.urgent, host) // its other entry finds nothing left to do
	case !waits:
		l.normal = append(l.normal, host)
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// take removes up to n hosts, urgent ones first, and tells which have changed for certain.
func (l *lane) take(n int) (changed, unsure []uuid.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, queue := range []*[]uuid.UUID{&l.urgent, &l.normal} {
		for len(*queue) > 0 && len(changed)+len(unsure) < n {
			host := (*queue)[0]
			*queue = (*queue)[1:]
			sure, waits := l.waiting[host]
			if !waits {
				continue
			}
			delete(l.waiting, host)
			if sure {
				changed = append(changed, host)
			} else {
				unsure = append(unsure, host)
			}
		}
		if len(*queue) == 0 {
			*queue = nil
		}
	}
	return changed, unsure
}

// laneOf returns the lane of a host, which has hosts of one part of the source only.
func (h *Hub) laneOf(host uuid.UUID) *lane {
	if part, of := h.source.Part(host); of > 1 {
		return h.lanes[part]
	}
	return h.lanes[int(host[15])%len(h.lanes)]
}

// watch keeps reading the change stream.
func (h *Hub) watch(ctx context.Context) {
	wait := h.opts.RetryFirst
	for ctx.Err() == nil {
		began := time.Now()
		err := h.source.WatchDocuments(ctx, h.apply)
		if ctx.Err() != nil {
			return
		}
		h.failures.Add(1)
		if time.Since(began) > h.opts.RetryMost {
			wait = h.opts.RetryFirst
		}
		h.log.Error("the stream of changes cannot be read", "error", err, "retryIn", wait)
		if !sleep(ctx, wait) {
			return
		}
		wait = min(2*wait, h.opts.RetryMost)
		h.compareAll()
	}
}

// apply takes entries of the change stream. It only notes what has to be done.
func (h *Hub) apply(changes []Change, gap bool) {
	if gap {
		h.compareAll()
	}
	for _, c := range changes {
		if c.Kind == Changed || c.Kind == Stop {
			h.wakeObservers(c.Host)
		}
		s, starts := h.concerned(c)
		switch c.Kind {
		case Superseded:
			// The stream may be behind, so an entry says no more than that the source is to be asked.
			if s != nil && s.session != c.Session {
				h.doubt(c.Host)
			}
		case Revoke:
			if starts != nil {
				starts.end(ErrRevoked)
			}
			if s != nil {
				s.finish(ErrRevoked)
			}
			h.tellRevoked(c.Host)
		default:
			if s != nil && s.wants(c.Version) {
				h.laneOf(c.Host).add(c.Host, true, c.Kind != Changed)
			}
		}
	}
}

// concerned returns the subscription that an entry of the stream is about, and the one that is about to begin there.
func (h *Hub) concerned(c Change) (s, starts *Subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.starting[c.Host]; t != nil {
		starts = t.of
		t.doubt = t.doubt || c.Kind == Superseded && c.Session != starts.session
	}
	return h.hosts[c.Host], starts
}

// wants reports whether a version is news.
func (s *Subscription) wants(v assignment.Version) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err == nil && (v == (assignment.Version{}) || v != s.known)
}

// compareAll has the versions and sessions of all hosts that are served compared, and those who observe look again.
func (h *Hub) compareAll() {
	h.wakeObservers(uuid.Nil)
	all := h.all()
	hosts := make([]uuid.UUID, len(all))
	for i, s := range all {
		hosts[i] = s.host
		h.laneOf(s.host).add(s.host, false, false)
	}
	h.doubt(hosts...)
}

func (h *Hub) all() []*Subscription {
	h.mu.Lock()
	defer h.mu.Unlock()
	subs := make([]*Subscription, 0, len(h.hosts))
	for _, s := range h.hosts {
		subs = append(subs, s)
	}
	return subs
}

// serve works through a lane until ctx ends.
func (h *Hub) serve(ctx context.Context, l *lane) {
	wait := h.opts.RetryFirst
	for {
		changed, unsure := l.take(h.opts.BatchSize)
		if len(changed)+len(unsure) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-l.wake:
			}
			continue
		}
		behind, err := h.bring(ctx, changed, unsure)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			wait = h.opts.RetryFirst
			if behind && !sleep(ctx, wait) { // some are in the lane again; the others wait no longer than this for them
				return
			}
			continue
		}
		h.failures.Add(1)
		h.log.Error("assignments cannot be read", "hosts", len(changed)+len(unsure), "error", err, "retryIn", wait)
		for _, host := range changed {
			h.retry(l, host, true)
		}
		for _, host := range unsure {
			h.retry(l, host, false)
		}
		if !sleep(ctx, wait) {
			return
		}
		wait = min(2*wait, h.opts.RetryMost)
	}
}

// retry puts a host back into its lane; but an agent that has no first event yet is told that we are not ready.
func (h *Hub) retry(l *lane, host uuid.UUID, changed bool) {
	s := h.subscription(host)
	if s == nil {
		return
	}
	s.mu.Lock()
	first := s.first
	s.mu.Unlock()
	if first {
		s.finish(ErrNotReady)
		return
	}
	l.add(host, changed, false)
}

// bring reads what the hosts need and offers it to their subscriptions. behind tells of hosts that stay behind their agents,
// and are in their lane again.
func (h *Hub) bring(ctx context.Context, changed, unsure []uuid.UUID) (behind bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, h.opts.SourceTimeout)
	defer cancel()
	fetch := h.connected(changed)
	if unsure = h.connected(unsure); len(unsure) > 0 {
		versions, err := h.source.Versions(ctx, unsure...)
		reads, err := readsOf(unsure, versions, err)
		if err != nil {
			return false, fmt.Errorf("read versions: %w", err)
		}
		for i, host := range unsure {
			switch s := h.subscription(host); {
			case s == nil:
			case reads[i].err != nil:
				h.unreadable(s, reads[i].err)
			case !s.confirm(reads[i].is) && s.wants(reads[i].is):
				fetch = append(fetch, host)
			}
		}
	}
	if len(fetch) == 0 {
		return false, nil
	}
	documents, err := h.source.Documents(ctx, fetch...)
	reads, err := readsOf(fetch, documents, err)
	if err != nil {
		return false, fmt.Errorf("read documents: %w", err)
	}
	for i := range reads {
		if err := reads[i].err; err == nil {
			behind = !h.offer(ctx, fetch[i], &reads[i].is) || behind
		} else if s := h.subscription(fetch[i]); s != nil {
			h.unreadable(s, err)
		}
	}
	return behind, nil
}

// offer hands a document to its host's subscription, in a new epoch if the agent would refuse it. It is false if there is none
// yet, and the host is in its lane again.
func (h *Hub) offer(ctx context.Context, host uuid.UUID, doc *assignment.Stored) bool {
	s := h.subscription(host)
	if s == nil {
		return true
	}
	if doc.Version == (assignment.Version{}) {
		// A document that was there before is not taken away because it cannot be found.
		s.mu.Lock()
		first := s.first
		s.mu.Unlock()
		if first {
			s.finish(h.missing(ctx, host))
		}
		return true
	}
	one := *doc // so that a slot does not keep the whole batch
	if s.offer(&one) {
		return true
	}
	s.mu.Lock()
	known := s.known
	s.mu.Unlock()
	if err := h.rebase(ctx, host, known); err != nil {
		h.log.Error("a host stays behind its agent", "host", host, "error", err)
		h.retry(h.laneOf(host), host, true)
		return false
	}
	h.laneOf(host).add(host, true, false)
	return true
}

func (h *Hub) subscription(host uuid.UUID) *Subscription {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.hosts[host]
}

// connected keeps the hosts that have a subscription here.
func (h *Hub) connected(hosts []uuid.UUID) []uuid.UUID {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := hosts[:0]
	for _, host := range hosts {
		if h.hosts[host] != nil {
			out = append(out, host)
		}
	}
	return out
}

// sleep waits, and reports whether ctx still runs.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
