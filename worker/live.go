package worker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"iapi/instrumentation"
	"iapi/placement"
)

// live is the set of live instrumentations, compiled: a cache of this process that follows the change log of records and
// knows its position. It never answers from a part: while it cannot be read whole, there is none.
type live struct {
	store Store
	clock func() time.Time
	mu    sync.Mutex
	set   *placement.Set // nil: not read yet
	pos   string
}

// sync takes over what has been committed until now, and returns the set. Every record whose commit was answered before
// the call is in it.
func (l *live) sync(ctx context.Context) (*placement.Set, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for gaps := 0; gaps < 3; {
		if l.set == nil {
			if err := l.read(ctx); err != nil {
				return nil, err
			}
		}
		ids, pos, gap, err := l.store.Log(ctx, l.pos)
		switch {
		case err != nil:
			return nil, fmt.Errorf("follow the change log: %w", err)
		case gap:
			l.set = nil
			gaps++
		case len(ids) == 0:
			return l.set, nil
		default:
			if err := l.update(ctx, ids); err != nil {
				return nil, err
			}
			l.pos = pos
		}
	}
	return nil, fmt.Errorf("follow the change log: %w: it is trimmed faster than it can be read", instrumentation.ErrNotReady)
}

// read reads everything anew.
func (l *live) read(ctx context.Context) error {
	set := placement.NewSet()
	pos, err := l.store.AllLive(ctx, func(recs []instrumentation.Instrumentation) error {
		for i := range recs {
			set.Add(&recs[i])
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the live instrumentations: %w", err)
	}
	l.set, l.pos = set, pos
	return nil
}

// update reads records again. One that expires later stays in until the log tells: whoever uses the set looks at the time.
func (l *live) update(ctx context.Context, ids []instrumentation.ID) error {
	latest := map[instrumentation.ID]bool{}
	for _, id := range ids {
		latest[id] = true
	}
	ids = ids[:0]
	for id := range latest {
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil
	}
	recs, err := l.store.Get(ctx, ids...)
	if err != nil {
		return fmt.Errorf("read changed records: %w", err)
	}
	for i, rec := range recs {
		if rec == nil || !rec.Live(l.clock()) {
			l.set.Remove(ids[i])
			continue
		}
		if was := l.set.Get(rec.ID); was == nil || was.Revision != rec.Revision {
			l.set.Add(rec)
		}
	}
	return nil
}
