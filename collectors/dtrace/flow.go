package dtrace

import (
	"errors"
	"io"
	"sync"
	"time"
)

// burst is for how long a program that has printed little may print more than its rate, if it prints at twice of it: what
// has waited comes at once.
const burst = 4 * time.Second

var errTooMuch = errors.New("it prints more than it may")

// flow meters what a tracer prints, of both its outputs together, so that reading it cannot take the agent's time without
// bound.
type flow struct {
	rate int64         // bytes per second
	over chan struct{} // closed when it is too much, for good

	mu   sync.Mutex
	room float64 // bytes
	at   time.Time
}

func newFlow(rate int64) *flow {
	return &flow{rate: rate, over: make(chan struct{}), room: float64(rate) * burst.Seconds(), at: time.Now()}
}

// take counts bytes. From the first that are too many on it fails.
func (f *flow) take(n int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isOver() {
		return errTooMuch
	}
	now := time.Now()
	rate := float64(f.rate)
	f.room = min(rate*burst.Seconds(), f.room+rate*now.Sub(f.at).Seconds()) - float64(n)
	f.at = now
	if f.room < 0 {
		close(f.over)
		return errTooMuch
	}
	return nil
}

func (f *flow) isOver() bool {
	select {
	case <-f.over:
		return true
	default:
		return false
	}
}

// of meters a stream.
func (f *flow) of(stream io.Reader) io.Reader { return metered{stream, f} }

type metered struct {
	stream io.Reader
	flow   *flow
}

// Read implements io.Reader.
func (m metered) Read(p []byte) (int, error) {
	n, err := m.stream.Read(p)
	if over := m.flow.take(n); over != nil {
		return 0, over
	}
	return n, err
}
