package agent

import (
	"context"
	"sync"
	"time"
)

// lookAgain is how often the time since boot is read while something has a time to live: timers stand still while the
// machine sleeps, and that clock does not.
const lookAgain = 250 * time.Millisecond

// expiry ends runs when their time to live has passed, whatever they wait for at that moment and whatever else is stuck.
type expiry struct {
	boot func() time.Duration
	wake chan struct{} // capacity 1

	mu        sync.Mutex
	deadlines map[*run]time.Duration // since boot
}

func newExpiry(boot func() time.Duration) *expiry {
	return &expiry{boot: boot, wake: make(chan struct{}, 1), deadlines: make(map[*run]time.Duration)}
}

// set has a run end at a time since boot, or never, in place of what was set before.
func (e *expiry) set(r *run, deadline time.Duration, limited bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !limited {
		delete(e.deadlines, r)
		return
	}
	e.deadlines[r] = deadline
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// forget drops a run that ends.
func (e *expiry) forget(r *run) { e.set(r, 0, false) }

// run ends what is due until ctx ends.
func (e *expiry) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-e.wake:
		case <-timer.C:
		}
		if wait, some := e.end(); some {
			timer.Reset(wait)
		}
	}
}

// end ends what is due, and says when to look again, if there is anything left to look for.
func (e *expiry) end() (wait time.Duration, some bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.boot()
	wait = lookAgain
	for r, deadline := range e.deadlines {
		if deadline <= now {
			delete(e.deadlines, r)
			r.expire()
			continue
		}
		wait = min(wait, deadline-now)
	}
	return wait, len(e.deadlines) > 0
}
