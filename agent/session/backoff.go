package session

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// Backoff gives waits with full jitter: anything up to a bound that doubles from a quarter second to the most, so that
// agents that lost the same server do not come back together.
type Backoff struct {
	Most  time.Duration // half a minute by default
	tries int
}

// Next returns the next wait.
func (b *Backoff) Next() time.Duration {
	const first = 250 * time.Millisecond
	most := cmp.Or(b.Most, 30*time.Second)
	bound := most
	if b.tries < 16 { // far beyond any bound, and no overflow
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

// laterError says when to come back.
type laterError struct {
	after time.Duration
	cause string
}

func (e *laterError) Error() string {
	return fmt.Sprintf("%s (asked to come back in %s)", e.cause, e.after)
}

// RetryAfter is how long the API has asked to be left alone, as an error of this package says; 0 if it has not.
func RetryAfter(err error) time.Duration {
	var told *laterError
	if errors.As(err, &told) {
		return told.after
	}
	return 0
}

// maxAway is how long a server can send an agent away.
const maxAway = time.Hour

// later makes a laterError.
func later(seconds float64, cause string) error {
	if !(seconds >= 0) { // not a number, too
		seconds = 1
	}
	return &laterError{after: time.Duration(min(seconds, maxAway.Seconds()) * float64(time.Second)), cause: cause}
}

// retryAfter reads when a server that refuses wants to be asked again, nil if it does not say. It may say so in seconds or
// as a date, which is compared with the server's own clock where it tells that.
func retryAfter(resp *http.Response) error {
	text := resp.Header.Get("Retry-After")
	if text == "" || resp.StatusCode < 400 {
		return nil
	}
	cause := "the API answered " + resp.Status
	if n, err := strconv.ParseUint(text, 10, 64); err == nil {
		return later(float64(n), cause)
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return nil
	}
	now, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return later(max(at.Sub(now), 0).Seconds(), cause)
}
