package agent

import (
	"context"
	"sync"
)

// turns lets one at a time do something about a key, such as fetching what all then find on disk. The zero turns is ready for
// use.
type turns struct {
	mu  sync.Mutex
	all map[string]*turn
}

// turn is there for as long as somebody has it or waits for it.
type turn struct {
	free chan struct{} // capacity 1, full while nobody has it
	of   int
}

// take waits for the turn, which done gives back, unless ctx ends before.
func (t *turns) take(ctx context.Context, key string) (done func(), err error) {
	t.mu.Lock()
	mine := t.all[key]
	if mine == nil {
		mine = &turn{free: make(chan struct{}, 1)}
		mine.free <- struct{}{}
		if t.all == nil {
			t.all = make(map[string]*turn)
		}
		t.all[key] = mine
	}
	mine.of++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if mine.of--; mine.of == 0 {
			delete(t.all, key)
		}
	}
	select {
	case <-mine.free:
		return func() { mine.free <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
