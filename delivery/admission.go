package delivery

import (
	"math/rand/v2"
	"sync"
	"time"
)

// longest bounds how long anybody is told to stay away, but for the jitter. A flood must not keep agents away long after it.
const longest = time.Minute

// Admission is a token bucket for newcomers, to be asked before anything is spent on them. Who is refused learns when to
// come back: the number of those who wait, divided by the rate, so that a whole fleet that comes at once is spread evenly.
type Admission struct {
	rate, burst float64
	clock       func() time.Time

	mu      sync.Mutex
	tokens  float64
	waiting float64 // refused, and not yet due to be back
	last    time.Time
}

// NewAdmission admits rate newcomers in a second, and burst at once. A rate of 0 admits everybody.
func NewAdmission(rate float64, burst int, clock func() time.Time) *Admission {
	if clock == nil {
		clock = time.Now
	}
	return &Admission{rate: rate, burst: float64(burst), tokens: float64(burst), clock: clock, last: clock()}
}

// Admit reports whether a newcomer may enter, or else after what time it should try again. That time has a jitter of up to
// a quarter.
func (a *Admission) Admit() (ok bool, retryAfter time.Duration) {
	if a == nil || a.rate <= 0 {
		return true, 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.clock()
	fresh := max(now.Sub(a.last).Seconds(), 0) * a.rate
	a.last = now
	a.tokens = min(a.tokens+fresh, a.burst)
	a.waiting = max(a.waiting-fresh, 0)
	if a.tokens >= 1 {
		a.tokens--
		return true, 0
	}
	a.waiting = min(a.waiting+1, a.rate*longest.Seconds())
	after := time.Duration(a.waiting / a.rate * float64(time.Second))
	return false, after + time.Duration(rand.Int64N(int64(after)/4+1))
}
