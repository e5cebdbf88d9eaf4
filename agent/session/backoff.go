package session

import (
	"math/rand/v2"
	"time"
)

// Backoff gives waits with full jitter: anything up to a bound that doubles from a quarter second to half a minute, so that
// agents that lost the same server do not come back together.
type Backoff struct{ tries int }

// Next returns the next wait.
func (b *Backoff) Next() time.Duration {
	const first, most = 250 * time.Millisecond, 30 * time.Second
	bound := most
	if b.tries < 7 {
		bound = min(most, first<<b.tries)
	}
	b.tries++
	return 10*time.Millisecond + time.Duration(rand.Int64N(int64(bound)))
}

// Reset starts over, after a connection that held.
func (b *Backoff) Reset() { b.tries = 0 }

// Jitter returns something between half of d and d.
func Jitter(d time.Duration) time.Duration {
	if d <= 1 {
		return max(d, 0)
	}
	return d/2 + time.Duration(rand.Int64N(int64(d/2)+1))
}
