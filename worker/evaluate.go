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
	hosts = unique(hosts)
	if err := w.Store.MarkHosts(ctx, !live, hosts...); err != nil {
		return fmt.Errorf("evaluate %s: mark its hosts: %w", id, err)
	}
	if len(hosts) > 0 {
		if err := w.settle(ctx, hosts); err != nil {
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
	known := map[uuid.UUID]*inventory.Host{}
	concerned := map[uuid.UUID]bool{}
	err := w.ask(ctx, q, func(asOf time.Time, page []inventory.VM) error {
		if _, err := w.putVMs(ctx, asOf, page); err != nil {
			return fmt.Errorf("put VMs: %w", err)
		}
		if err := w.hostsOf(ctx, known, page); err != nil {
			return err
		}
		for i := range page {
			if m.Match(&page[i], known[page[i].Host]) {
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

// hostsOf adds what is known of the hosts of some VMs to known, where nil stands for nothing. Hosts that are in it already
// are not read again.
func (w *Worker) hostsOf(ctx context.Context, known map[uuid.UUID]*inventory.Host, vms []inventory.VM) error {
	var ids []uuid.UUID
	for i := range vms {
		if _, ok := known[vms[i].Host]; !ok && vms[i].Host != uuid.Nil {
			ids = append(ids, vms[i].Host)
		}
	}
	found, err := w.fleet(ctx, unique(ids))
	if err != nil {
		return err
	}
	for _, id := range ids {
		known[id] = nil
		if h := found[id]; h != nil {
			known[id] = &h.Host
		}
	}
	return nil
}

// fleet returns what is known of hosts and their agents, without those of which nothing is.
func (w *Worker) fleet(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]*instrumentation.FleetHost, error) {
	known := make(map[uuid.UUID]*instrumentation.FleetHost, len(ids))
	for some := range slices.Chunk(ids, 1000) {
		hosts, err := w.Store.FleetHosts(ctx, some...)
		if err != nil {
			return nil, fmt.Errorf("read hosts: %w", err)
		}
		for i, h := range hosts {
			if h != nil {
				known[some[i]] = h
			}
		}
	}
	return known, nil
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

func unique(ids []uuid.UUID) []uuid.UUID {
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(ids)
}
