// Package yardstick measures how long something takes by what the machine gets done meanwhile. A promise about time is made
// for a machine that has time: where everything takes three times as long, because others use the processors too, three seconds
// count as one. On a machine that is idle the watch goes as any other does.
package yardstick

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

const (
	// length is how many rounds of work make a measure, and nominal how long they take on a processor of 2 GHz that has
	// nothing else to do. It is longer than the slice of time that a processor gives to a thread, so that waiting for a turn
	// shows as it does for those who are measured.
	length  = 3_000_000
	nominal = 10 * time.Millisecond
	// every is the time between two measures: the yardstick itself takes a tenth of one processor.
	every = 90 * time.Millisecond
)

// Watch is a running watch.
type Watch struct {
	began time.Time
	stop  func() // and wait

	mu      sync.Mutex
	elapsed time.Duration
}

// Start starts a watch that runs until it is stopped, or the test ends.
func Start(t testing.TB) *Watch {
	w := &Watch{began: time.Now()}
	stop, stopped := make(chan struct{}), make(chan struct{})
	w.stop = sync.OnceFunc(func() { close(stop); <-stopped })
	go func() {
		defer close(stopped)
		for from := w.began; ; {
			select {
			case <-stop:
				return
			case <-time.After(every):
			}
			begun := time.Now()
			runtime.KeepAlive(work())
			to := time.Now()
			w.add(to.Sub(from), to.Sub(begun))
			from = to
		}
	}()
	t.Cleanup(w.stop)
	return w
}

// add counts some time in which the measure took that long.
func (w *Watch) add(passed, measured time.Duration) {
	if measured > nominal {
		passed = time.Duration(float64(passed) * float64(nominal) / float64(measured))
	}
	w.mu.Lock()
	w.elapsed += passed
	w.mu.Unlock()
}

// Elapsed is how long it would have taken on a machine that has time. It goes by steps of about a tenth of a second, and is
// never ahead of the clock on the wall.
func (w *Watch) Elapsed() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.elapsed
}

// Stop has it take no more of the processor. It may be called again.
func (w *Watch) Stop() { w.stop() }

// Wall is how long it has taken.
func (w *Watch) Wall() time.Duration { return time.Since(w.began) }

// work takes nominal time. It touches no memory, so that neither caches nor the race detector matter.
//
//go:noinline
func work() uint64 {
	x := uint64(88172645463325252)
	for range length {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	return x
}
