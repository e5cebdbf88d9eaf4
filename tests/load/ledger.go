package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/agent/session"
	"iapi/tests/load/light"
	"iapi/tests/load/sim"
)

// ledger is what the agents have had acknowledged, in the order of time.
type ledger struct {
	mu      sync.Mutex
	events  []event
	more    chan struct{} // closed at the next event; nil: nobody waits
	refused int64
}

// event is one change that the API has taken the report of.
type event struct {
	at   time.Time
	host uuid.UUID
	sim.Change
}

func (l *ledger) observer() sim.Observer {
	return sim.Observer{
		Acknowledged: func(a *sim.Agent, _ session.Assignment, changes []sim.Change) { l.acknowledged(a.Host(), changes) },
		Refused:      func(_ *sim.Agent, err error) { l.refuse(err) },
	}
}

func (l *ledger) lightObserver() light.Observer {
	return light.Observer{Acknowledged: l.acknowledged, Refused: l.refuse}
}

func (l *ledger) acknowledged(host uuid.UUID, changes []sim.Change) {
	at := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range changes {
		l.events = append(l.events, event{at: at, host: host, Change: c})
	}
	if l.more != nil && len(changes) > 0 {
		close(l.more)
		l.more = nil
	}
}

func (l *ledger) refuse(error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused++
}

// begin forgets what is past, so that the ledger does not grow.
func (l *ledger) begin() {
	l.mu.Lock()
	l.events = nil
	l.mu.Unlock()
}

func (l *ledger) refusals() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused
}

// await waits until n hosts have had an event that matches, since begin, and returns how long after from each had its first.
func (l *ledger) await(ctx context.Context, within time.Duration, n int, from time.Time, match func(event) bool) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	seen := make(map[uuid.UUID]struct{}, n)
	took := make([]time.Duration, 0, n)
	for next := 0; ; {
		l.mu.Lock()
		for ; next < len(l.events); next++ {
			e := l.events[next]
			if _, again := seen[e.host]; again || !match(e) {
				continue
			}
			seen[e.host] = struct{}{}
			took = append(took, e.at.Sub(from))
		}
		if l.more == nil {
			l.more = make(chan struct{})
		}
		more := l.more
		l.mu.Unlock()
		if len(took) >= n {
			slices.Sort(took)
			return took, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d hosts have acknowledged: %w", len(took), n, ctx.Err())
		}
	}
}
