package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"iapi/instrumentation"
	"iapi/store"
)

// spreadEvery is how often a worker looks for published definitions that hosts have to be told of.
const spreadEvery = 500 * time.Millisecond

// Publications is what operators publish while the workers run.
type Publications interface {
	// Sync makes the Catalog all that was published before the call.
	Sync(ctx context.Context) error
	Unspread(ctx context.Context) ([]store.Spread, error)
	BeginSpread(ctx context.Context, sp store.Spread, now time.Time) error
	EndSpread(ctx context.Context, sp store.Spread) error
}

// syncCatalog is the part of an attempt that makes digests right: as with the live instrumentations, what was published
// before the facts were read is in the catalog, and what is published later marks the host.
func (w *Worker) syncCatalog(ctx context.Context) error {
	if w.Publications == nil {
		return nil
	}
	return w.Publications.Sync(ctx)
}

// spreadLoop tells hosts of published definitions until ctx ends.
func (w *Worker) spreadLoop(ctx context.Context) {
	for sleep(ctx, spreadEvery) {
		w.failed(ctx, "spread published definitions", w.spread(ctx))
	}
}

// spread marks every host that runs an instrumentation of a metric whose definition is new. It does so twice: the second
// time when every claim of the first has lapsed, for a document that was on its way then may have put an instrumentation
// on a host that nobody could know of yet.
func (w *Worker) spread(ctx context.Context) error {
	waiting, err := w.Publications.Unspread(ctx)
	if err != nil || len(waiting) == 0 {
		return err
	}
	now, err := w.Store.Now(ctx)
	if err != nil {
		return err
	}
	due := make(map[string]bool)
	for _, sp := range waiting {
		if sp.Begun.IsZero() || now.Sub(sp.Begun) >= 2*w.Lease {
			due[sp.Metric] = true
		}
	}
	if len(due) == 0 {
		return nil
	}
	if err := w.markMetrics(ctx, due); err != nil {
		return err
	}
	for _, sp := range waiting {
		switch {
		case !due[sp.Metric]:
		case sp.Begun.IsZero():
			err = w.Publications.BeginSpread(ctx, sp, now)
		default:
			err = w.Publications.EndSpread(ctx, sp)
		}
		if err != nil {
			return fmt.Errorf("note that %s was spread: %w", sp.Metric, err)
		}
	}
	return nil
}

// markMetrics marks the hosts that run instrumentations of the metrics.
func (w *Worker) markMetrics(ctx context.Context, metrics map[string]bool) error {
	var ids []instrumentation.ID
	if _, err := w.Store.AllLive(ctx, func(recs []instrumentation.Instrumentation) error {
		for i := range recs {
			if metrics[recs[i].Metric] {
				ids = append(ids, recs[i].ID)
			}
		}
		return nil
	}); err != nil {
		return fmt.Errorf("read the live instrumentations: %w", err)
	}
	var hosts []uuid.UUID
	for _, id := range ids {
		placed, err := w.Store.PlacedHosts(ctx, id)
		if err != nil {
			return err
		}
		hosts = append(hosts, placed...)
	}
	return w.Store.MarkHosts(ctx, false, unique(hosts)...)
}
