package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/inventory/vmapi"
	"iapi/placement"
)

// evaluate carries out a record as it stands now: whatever was asked (create, update, pause, delete, refresh), what
// follows is read from the record. It takes over what the inventory says of the scope's VMs, marks every host that the
// scope matches now or that has the instrumentation, waits until they are reconciled, and notes that it is done.
//
// When the inventory cannot be asked, what is known stays, the hosts are reconciled by it, the record is noted as stale,
// and the error is returned so that the task runs again.
func (w *Worker) evaluate(ctx context.Context, id instrumentation.ID) error {
	rec, err := w.record(ctx, id)
	if err != nil || rec == nil {
		return err
	}
	hosts, err := w.Store.PlacedHosts(ctx, id)
	if err != nil {
		return fmt.Errorf("evaluate %s: %w", id, err)
	}
	begun, err := w.Store.Now(ctx)
	if err != nil {
		return fmt.Errorf("evaluate %s: %w", id, err)
	}
	var asking error
	live := rec.Live(w.Clock())
	if live {
		var found []uuid.UUID
		found, asking = w.survey(ctx, rec)
		if asking != nil && !errors.Is(asking, inventory.ErrUnavailable) {
			return fmt.Errorf("evaluate %s: %w", id, asking)
		}
		hosts = append(hosts, found...)
	}
	if err := w.Store.MarkHosts(ctx, !live, unique(hosts)...); err != nil {
		return fmt.Errorf("evaluate %s: mark its hosts: %w", id, err)
	}
	if len(hosts) > 0 {
		if err := w.settle(ctx); err != nil {
			return fmt.Errorf("evaluate %s: %w", id, err)
		}
	}
	var stale time.Time
	if asking != nil {
		if stale = rec.StaleFrom; stale.IsZero() {
			stale = begun
		}
	}
	if err := w.Store.Evaluated(ctx, id, rec.Revision, stale); err != nil {
		return fmt.Errorf("evaluate %s: %w", id, err)
	}
	if err := w.Store.MarkJudge(ctx, id); err != nil {
		return fmt.Errorf("evaluate %s: %w", id, err)
	}
	return wrap("evaluate "+string(id), asking)
}

// record returns a record, nil where there is none.
func (w *Worker) record(ctx context.Context, id instrumentation.ID) (*instrumentation.Instrumentation, error) {
	recs, err := w.Store.Get(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read the record %s: %w", id, err)
	}
	return recs[0], nil
}

// survey takes over what the inventory says of the VMs that a record may concern, and returns the hosts to reconcile.
// With an error that is inventory.ErrUnavailable the hosts are those that may be concerned by what is known already.
//
// A scope that names neither an owner nor VMs nor hosts would mean to read the whole inventory. That is what the sweep
// does and what the facts are for, so then every host is reconciled by its facts.
func (w *Worker) survey(ctx context.Context, rec *instrumentation.Instrumentation) ([]uuid.UUID, error) {
	q := placement.Needs(rec.Scope, rec.Owner)
	if q.None && rec.Scope.Zones(rec.Owner) {
		return nil, nil
	}
	if q.None && q.Hosts != nil {
		return q.Hosts, nil
	}
	if q.None || q.Owner == uuid.Nil && q.VMs == nil && q.Hosts == nil {
		return w.Store.HostIDs(ctx)
	}
	m := placement.Compile(rec.Scope, rec.Owner)
	known := w.knownHosts()
	concerned := map[uuid.UUID]bool{}
	err := w.ask(ctx, q, func(asOf time.Time, page []inventory.VM) error {
		if _, err := w.Store.PutVMs(ctx, asOf, page); err != nil {
			return fmt.Errorf("put VMs: %w", err)
		}
		for i := range page {
			host, err := known(ctx, page[i].Host)
			if err != nil {
				return err
			}
			if m.Match(&page[i], host) {
				concerned[page[i].Host] = true
			}
		}
		return nil
	})
	if errors.Is(err, inventory.ErrUnavailable) {
		all, knownErr := w.Store.HostIDs(ctx)
		if knownErr != nil {
			return nil, knownErr
		}
		return all, err
	}
	return slices.Collect(maps.Keys(concerned)), err
}

// knownHosts returns a function that looks up what is known of a host, each once; nil where nothing is.
func (w *Worker) knownHosts() func(context.Context, uuid.UUID) (*inventory.Host, error) {
	seen := map[uuid.UUID]*inventory.Host{}
	return func(ctx context.Context, id uuid.UUID) (*inventory.Host, error) {
		if h, ok := seen[id]; ok || id == uuid.Nil {
			return h, nil
		}
		fh, err := w.Store.Host(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("read host %s: %w", id, err)
		}
		seen[id] = nil
		if fh != nil {
			seen[id] = &fh.Host
		}
		return seen[id], nil
	}
}

// ask gives every VM of a query to fn, in pages, each with the time by the store's clock at which its reading began. fn
// is never called twice at once. VMs named by uuid are given even if they are not active, since that is news.
func (w *Worker) ask(ctx context.Context, q placement.Query, fn func(asOf time.Time, page []inventory.VM) error) error {
	if q.None {
		return nil
	}
	query := vmapi.Query{Owner: q.Owner, UUIDs: q.VMs, Active: q.VMs == nil}
	if q.Hosts == nil || q.VMs != nil {
		return w.pages(ctx, query, fn)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	turn := make(chan struct{}, 1)
	for _, h := range q.Hosts {
		perHost := query
		perHost.Host = h
		g.Go(func() error {
			return w.pages(gctx, perHost, func(asOf time.Time, page []inventory.VM) error {
				turn <- struct{}{}
				defer func() { <-turn }()
				return fn(asOf, page)
			})
		})
	}
	return g.Wait()
}

// pages reads one list. The reading of a page begins when the one before it has been dealt with.
func (w *Worker) pages(ctx context.Context, q vmapi.Query, fn func(asOf time.Time, page []inventory.VM) error) error {
	return w.timed(ctx, fn, func(fn func([]inventory.VM) error) error { return w.VMAPI.Each(ctx, q, fn) })
}

// timed walks through pages and tells fn when the reading of each began.
func (w *Worker) timed(ctx context.Context, fn func(asOf time.Time, page []inventory.VM) error, walk func(func([]inventory.VM) error) error) error {
	asOf, err := w.Store.Now(ctx)
	if err != nil {
		return err
	}
	return walk(func(page []inventory.VM) error {
		if err := fn(asOf, page); err != nil {
			return err
		}
		asOf, err = w.Store.Now(ctx)
		return err
	})
}

// settle waits until every host that is marked by now is reconciled, so that what is noted afterwards is true of the
// documents. It loses patience in the end: a host that cannot be reconciled must not hold up the others.
func (w *Worker) settle(ctx context.Context) error {
	marked, err := w.Store.Now(ctx)
	if err != nil {
		return err
	}
	for pause, now := 2*time.Millisecond, marked; now.Sub(marked) < w.patience; pause = min(2*pause, 100*time.Millisecond) {
		b, err := w.Store.Backlog(ctx)
		if err != nil {
			return fmt.Errorf("wait for hosts: %w", err)
		}
		if now, err = w.Store.Now(ctx); err != nil {
			return fmt.Errorf("wait for hosts: %w", err)
		}
		if b.DirtyHosts == 0 || now.Add(-b.OldestHost).After(marked) {
			return nil
		}
		if !sleep(ctx, pause) {
			return ctx.Err()
		}
	}
	return nil
}

func unique(ids []uuid.UUID) []uuid.UUID {
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(ids)
}
