package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"iapi/instrumentation"
)

const (
	// kept is how long a record that has expired, and one whose removal some host does not acknowledge, is kept.
	kept = 7 * 24 * time.Hour
	// lost is how old a mark must be before its task counts as lost.
	lost = 3 * time.Second
	// many bounds what one tick looks at, of each kind.
	many = 1000
)

// tickLoop makes up for whatever was lost, at once and again and again, until ctx ends.
func (w *Worker) tickLoop(ctx context.Context) {
	for n := 0; n == 0 || sleep(ctx, w.Tick); n++ {
		for _, step := range []struct {
			name string
			do   func(context.Context) error
		}{
			{"look for lost evaluations", w.requeue},
			{"expire", w.expire},
			{"finish deletes", w.finishDeletes},
			{"remove what has expired", w.removeExpired},
		} {
			w.failed(ctx, step.name, step.do(ctx))
		}
		if n%5 == 4 {
			w.failed(ctx, "look for lost judgements", w.rejudge(ctx))
		}
	}
}

// requeue enqueues the evaluations whose task was never enqueued, or was lost.
func (w *Worker) requeue(ctx context.Context) error {
	pending, err := w.Store.Unevaluated(ctx, lost, w.batch)
	if err != nil {
		return err
	}
	for _, p := range pending {
		if err := w.queue.Evaluate(ctx, p.ID, p.Revision); err != nil {
			return err
		}
	}
	return nil
}

// next returns the instrumentations of a state whose turn it is: those that come after the last turn's, and after the end the
// first again. So however many there are, and whatever becomes of the first, each has its turn.
func (w *Worker) next(ctx context.Context, state instrumentation.State) ([]instrumentation.ID, error) {
	ids, err := w.Store.NextByState(ctx, state, w.turns[state], w.batch)
	if err != nil {
		return nil, err
	}
	w.turns[state] = ""
	if len(ids) == w.batch {
		w.turns[state] = ids[len(ids)-1]
	}
	return ids, nil
}

// rejudge has those judged again that should be in another state, in case their mark was lost with a process.
func (w *Worker) rejudge(ctx context.Context) error {
	var ids []instrumentation.ID
	for _, state := range []instrumentation.State{
		instrumentation.Created, instrumentation.Updating, instrumentation.Degraded, instrumentation.Enabled,
	} {
		some, err := w.next(ctx, state)
		if err != nil {
			return err
		}
		ids = append(ids, some...)
	}
	if len(ids) == 0 {
		return nil
	}
	verdicts, err := w.verdicts(ctx, w.Clock(), ids)
	if err != nil {
		return err
	}
	var marked []instrumentation.ID
	for _, v := range verdicts {
		if v.news() {
			marked = append(marked, v.rec.ID)
		}
	}
	return w.Store.MarkJudge(ctx, marked...)
}

// expire has the documents drop what has expired. Agents have ended it by themselves. The state is set last, so that a
// worker that dies in between leaves it to be found again.
func (w *Worker) expire(ctx context.Context) error {
	now := w.Clock()
	ids, err := w.Store.Expiring(ctx, now, w.batch)
	if err != nil || len(ids) == 0 {
		return err
	}
	recs, err := w.Store.Get(ctx, ids...)
	if err != nil {
		return err
	}
	for _, rec := range recs {
		if rec == nil || !rec.DeletedAt.IsZero() || rec.ExpiresAt.IsZero() || now.Before(rec.ExpiresAt) {
			continue
		}
		hosts, err := w.Store.PlacedHosts(ctx, rec.ID)
		if err != nil {
			return err
		}
		if err := w.Store.MarkHosts(ctx, true, hosts...); err != nil {
			return err
		}
		if err := w.Store.SetState(ctx, rec.ID, rec.Revision, instrumentation.Expired, time.Time{}); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

// finishDeletes removes the deleted records that no host runs any more, and those that were deleted too long ago.
func (w *Worker) finishDeletes(ctx context.Context) error {
	return w.forEach(ctx, instrumentation.Deleting, func(rec *instrumentation.Instrumentation) error {
		if rec.DeletedAt.IsZero() {
			return nil
		}
		if w.Clock().Sub(rec.DeletedAt) < kept {
			if rec.Evaluated < rec.Revision {
				return nil
			}
			placed, err := w.Store.PlacedHosts(ctx, rec.ID)
			if err != nil || len(placed) > 0 {
				return err
			}
			hosts, err := w.Store.Unacknowledged(ctx, rec.ID)
			if err != nil || len(hosts) > 0 {
				return err
			}
		}
		return w.Store.Remove(ctx, rec.ID)
	})
}

// removeExpired removes what has been expired for long enough.
func (w *Worker) removeExpired(ctx context.Context) error {
	return w.forEach(ctx, instrumentation.Expired, func(rec *instrumentation.Instrumentation) error {
		if rec.ExpiresAt.IsZero() || w.Clock().Sub(rec.ExpiresAt) < kept {
			return nil
		}
		return w.Store.Remove(ctx, rec.ID)
	})
}

// forEach calls fn for the records of a state whose turn it is.
func (w *Worker) forEach(ctx context.Context, state instrumentation.State, fn func(*instrumentation.Instrumentation) error) error {
	ids, err := w.next(ctx, state)
	if err != nil || len(ids) == 0 {
		return err
	}
	recs, err := w.Store.Get(ctx, ids...)
	if err != nil {
		return err
	}
	var errs []error
	for _, rec := range recs {
		if rec != nil {
			if err := fn(rec); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", rec.ID, err))
			}
		}
	}
	return errors.Join(errs...)
}

func gone(err error) bool {
	return errors.Is(err, instrumentation.ErrNotFound) || errors.Is(err, instrumentation.ErrRevision)
}
