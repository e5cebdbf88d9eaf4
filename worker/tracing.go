package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"iapi/instrumentation"
)

// stopTracing stops every tracing instrumentation that was created before the stop was asked for, by a change of its
// record, so that documents stay a function of records and facts: everywhere it is paused, and on some hosts its scope
// becomes "the scope and not those hosts". Both show in the API, and both are lifted by who may update it. What is created
// later runs. The hosts are marked as urgent at once.
func (w *Worker) stopTracing(ctx context.Context, p stopPayload) error {
	var ids []instrumentation.ID
	if _, err := w.Store.AllLive(ctx, func(recs []instrumentation.Instrumentation) error {
		for _, rec := range recs {
			if rec.Tracing && !rec.CreatedAt.After(p.At) {
				ids = append(ids, rec.ID)
			}
		}
		return nil
	}); err != nil {
		return fmt.Errorf("stop tracing: %w", err)
	}
	failures := make([]error, len(ids))
	order := make([]int, len(ids))
	for i := range order {
		order[i] = i
	}
	each(w, order, func(i int) { failures[i] = wrap("stop "+string(ids[i]), w.stop(ctx, ids[i], p)) })
	return errors.Join(failures...)
}

func (w *Worker) stop(ctx context.Context, id instrumentation.ID, p stopPayload) error {
	for {
		rec, err := w.record(ctx, id)
		if err != nil || rec == nil || !rec.Live(w.Clock()) {
			return err
		}
		next, changed := stopped(*rec, p, w.Clock())
		if changed {
			if next, err = w.Store.Commit(ctx, instrumentation.Change{
				Record: next, Expect: rec.Revision,
				Audit: instrumentation.Audit{
					At: next.UpdatedAt, Caller: "worker", Kind: "worker", Owner: rec.Owner,
					Action: "stopTracing", Subject: string(id), Detail: p.Reason, Result: "ok",
				},
			}); errors.Is(err, instrumentation.ErrRevision) {
				continue
			}
			if err != nil && !errors.Is(err, instrumentation.ErrNotDurable) {
				return err
			}
		}
		hosts, err := w.Store.PlacedHosts(ctx, id)
		if err != nil {
			return err
		}
		if len(p.Hosts) > 0 {
			hosts = slices.DeleteFunc(hosts, func(h uuid.UUID) bool { return !slices.Contains(p.Hosts, h) })
		}
		if err := w.Store.MarkHosts(ctx, true, hosts...); err != nil {
			return err
		}
		if !changed {
			return nil
		}
		return w.queue.Evaluate(ctx, id, next.Revision)
	}
}

// stopped returns the record as it stands once it is stopped, and false if it is so already.
func stopped(rec instrumentation.Instrumentation, p stopPayload, now time.Time) (instrumentation.Instrumentation, bool) {
	if len(p.Hosts) > 0 {
		not := instrumentation.Scope{Hosts: unique(slices.Clone(p.Hosts))}
		if last := len(rec.Scope.And) - 1; last >= 0 && rec.Scope.And[last].Not != nil && slices.Equal(rec.Scope.And[last].Not.Hosts, not.Hosts) {
			return rec, false
		}
		rec.Scope = instrumentation.Scope{And: []instrumentation.Scope{rec.Scope, {Not: &not}}}
	} else {
		rec.PausedAt, rec.State = now.UTC().Truncate(time.Millisecond), instrumentation.Paused
	}
	rec.Revision++
	rec.UpdatedAt = now.UTC().Truncate(time.Millisecond)
	return rec, true
}
