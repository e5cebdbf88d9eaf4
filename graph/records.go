package graph

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"iapi/instrumentation"
)

// RecordWatcher tells which instrumentations have changed. It is a *store.Store.
type RecordWatcher interface {
	// WatchRecords calls fn until ctx ends or the stream fails. gap says that changes were missed.
	WatchRecords(ctx context.Context, fn func(ids []instrumentation.ID, gap bool)) error
}

// recordFeed wakes those who follow an instrumentation. There is one reader of the stream for the process, however many
// follow; who is slow is woken once for many changes.
type recordFeed struct {
	source  RecordWatcher
	log     *slog.Logger
	recheck time.Duration // between looks at what no event tells

	mu        sync.Mutex
	followers map[instrumentation.ID]map[chan struct{}]struct{}
}

func newRecordFeed(source RecordWatcher, recheck time.Duration, log *slog.Logger) *recordFeed {
	return &recordFeed{source: source, log: log, recheck: recheck, followers: make(map[instrumentation.ID]map[chan struct{}]struct{})}
}

// follow returns what is signalled after changes, and how to end it.
func (f *recordFeed) follow(id instrumentation.ID) (changed <-chan struct{}, stop func()) {
	wake := make(chan struct{}, 1)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.followers[id] == nil {
		f.followers[id] = make(map[chan struct{}]struct{})
	}
	f.followers[id][wake] = struct{}{}
	return wake, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.followers[id], wake)
		if len(f.followers[id]) == 0 {
			delete(f.followers, id)
		}
	}
}

func (f *recordFeed) apply(ids []instrumentation.ID, gap bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	wakeAll := func(followers map[chan struct{}]struct{}) {
		for wake := range followers {
			select {
			case wake <- struct{}{}:
			default: // it has not looked yet
			}
		}
	}
	if gap {
		for _, followers := range f.followers {
			wakeAll(followers)
		}
		return
	}
	for _, id := range ids {
		wakeAll(f.followers[id])
	}
}

// run reads the stream until ctx ends.
func (f *recordFeed) run(ctx context.Context) {
	const first, most = 100 * time.Millisecond, 5 * time.Second
	wait := first
	for ctx.Err() == nil {
		began := time.Now()
		err := f.source.WatchRecords(ctx, f.apply)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > most {
			wait = first
		}
		f.log.Error("the stream of changed instrumentations cannot be read", "error", err, "retryIn", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, most)
		f.apply(nil, true)
	}
}
