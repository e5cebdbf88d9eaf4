package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"iapi/instrumentation"
	"iapi/store"
)

// The guards that a sweep puts up when the inventory has lost too much to be believed.
const (
	GuardVMs   = "sweep-vms"
	GuardHosts = "sweep-hosts"
)

const (
	// floor is how many VMs or hosts a sweep may remove whatever share that is: small clouds change by large shares.
	floor = 10
	// rotate is how many hosts a sweep reads and reconciles although nothing differs.
	rotate = 8
	// manySwept is how many hosts are compared at once.
	manySwept = 64
	// pageTries is how often the walk goes on behind its last good page before it is given up.
	pageTries = 5
)

// Sweep compares everything that is known with the inventory, and makes it true.
//
// It walks the list of VMs once and sums up the VMs of each host. Of hosts whose sum differs from that of the facts, those
// VMs are looked up that are not known as the walk has seen them, or that it has not seen where they are known: what the
// walk has read is by then too old to be written. A host loses a VM when VMAPI says where else it is or that it is
// destroyed; one that VMAPI does not know any more, only when a reading of the whole host agrees with the walk. When the
// walk fails it goes on behind its last good page; when that does not help either, what could be read is not acted upon.
// When more would be removed than the guard's share, everything is added that is new and nothing removed until an operator
// confirms the guard.
func (w *Worker) Sweep(ctx context.Context) error { return w.sweep(ctx, uuid.NewString()) }

// sweep is Sweep with a name for its walk. How far the walk has come is kept in the store, so that whoever runs a sweep by
// the same name again, after an error or when its worker was killed, goes on behind what was seen. The sums that it takes
// over may be older than the rest: they only say which hosts to read anew.
func (w *Worker) sweep(ctx context.Context, name string) error {
	begun := time.Now()
	hostsErr := w.sweepHosts(ctx)
	if hostsErr != nil {
		hostsErr = fmt.Errorf("sweep the hosts: %w", hostsErr)
	}
	swept, err := w.sweepVMs(ctx, name)
	if err != nil {
		err = fmt.Errorf("sweep the VMs: %w", err)
	}
	w.metrics.sweepSeconds.Observe(time.Since(begun).Seconds())
	if err = errors.Join(hostsErr, err); err != nil {
		return err
	}
	if swept.Stale, err = w.refreshStale(ctx); err != nil {
		return err
	}
	if swept.At, err = w.Store.Now(ctx); err != nil {
		return fmt.Errorf("note the end of a sweep: %w", err)
	}
	w.log.InfoContext(ctx, "the inventory was swept", "seconds", time.Since(begun).Seconds(), "vms", swept.VMs, "differing_hosts", swept.Differing)
	return w.Store.EndSweep(ctx, swept)
}

// sweepHosts takes over what CNAPI says of hosts. A host that CNAPI does not list leaves, unless VMs are known to be on it.
func (w *Worker) sweepHosts(ctx context.Context) error {
	asOf, err := w.Store.Now(ctx)
	if err != nil {
		return err
	}
	hosts, err := w.CNAPI.Hosts(ctx)
	if err != nil {
		return err
	}
	if _, err := w.Store.PutHosts(ctx, asOf, hosts); err != nil {
		return fmt.Errorf("put hosts: %w", err)
	}
	known, err := w.Store.HostIDs(ctx)
	if err != nil {
		return err
	}
	listed := make(map[uuid.UUID]bool, len(hosts))
	for _, h := range hosts {
		listed[h.UUID] = true
	}
	missing := slices.DeleteFunc(slices.Clone(known), func(id uuid.UUID) bool { return listed[id] })
	if len(missing) > 0 {
		digests, err := w.Store.Digests(ctx)
		if err != nil {
			return err
		}
		missing = slices.DeleteFunc(missing, func(id uuid.UUID) bool { return digests[id].VMs > 0 })
	}
	ok, err := w.may(ctx, GuardHosts, "CNAPI no longer lists %d of %d hosts", len(missing), len(known), len(hosts) == 0)
	if err != nil || !ok {
		return err
	}
	for _, id := range missing {
		if err := w.Store.RemoveHost(ctx, asOf, id); err != nil {
			return fmt.Errorf("remove host %s: %w", id, err)
		}
	}
	return nil
}

// may decides whether so much may be removed. An inventory that lists nothing at all is never believed unasked.
func (w *Worker) may(ctx context.Context, guard, reason string, gone, of int, empty bool) (bool, error) {
	refuse := gone > 0 && (empty || gone > floor && float64(gone) > w.GuardShare*float64(of))
	if !refuse {
		return true, w.Store.DropGuard(ctx, guard)
	}
	confirmed, err := w.Store.PutGuard(ctx, instrumentation.Guard{ID: guard, Reason: fmt.Sprintf(reason, gone, of), WouldRemove: gone})
	if err != nil {
		return false, fmt.Errorf("put up a guard: %w", err)
	}
	if confirmed {
		w.log.WarnContext(ctx, "an operator has confirmed a guard", "guard", guard, "removing", gone)
		return true, nil
	}
	w.log.ErrorContext(ctx, "a guard waits for an operator", "guard", guard, "would_remove", gone, "of", of)
	return false, nil
}

// sweepVMs compares the VMs of every host.
func (w *Worker) sweepVMs(ctx context.Context, name string) (store.Swept, error) {
	seen, err := w.walk(ctx, name)
	if err != nil {
		return store.Swept{}, err
	}
	listed := seen.Sums
	facts, err := w.Store.Digests(ctx)
	if err != nil {
		return store.Swept{}, fmt.Errorf("read the digests: %w", err)
	}
	var total, found, shrinking int
	for id, f := range facts {
		total += f.VMs
		shrinking += max(0, f.VMs-listed[id].VMs)
	}
	var differing, same []uuid.UUID
	for id, l := range listed {
		found += l.VMs
		if facts[id] != l {
			differing = append(differing, id)
		} else {
			same = append(same, id)
		}
	}
	for id, f := range facts {
		if _, ok := listed[id]; !ok && f.VMs > 0 {
			differing = append(differing, id)
		}
	}
	known, err := w.Store.HostIDs(ctx)
	if err != nil {
		return store.Swept{}, fmt.Errorf("list the hosts: %w", err)
	}
	for _, id := range known { // hosts without VMs have their turn too
		if _, ok := listed[id]; !ok && facts[id].VMs == 0 {
			same = append(same, id)
		}
	}
	swept := store.Swept{VMs: seen.Seen, Differing: len(differing)}
	shrink, err := w.may(ctx, GuardVMs, "VMAPI no longer lists %d of %d machines where they were", shrinking, total, found == 0)
	if err != nil {
		return swept, err
	}
	few := w.fewOf(same)
	c := comparison{Worker: w, listed: listed, facts: facts, shrink: shrink}
	failures := []error{c.rewriteUnreadable(ctx, few)}
	doubtful := append(differing, few...)
	if seen.whole {
		doubtful, err = c.lookUpVMs(ctx, seen.vmsOf(doubtful))
		failures = append(failures, err)
	}
	for batch := range slices.Chunk(doubtful, manySwept) {
		failures = append(failures, c.compare(ctx, batch))
	}
	if err := w.Store.MarkHosts(ctx, false, few...); err != nil {
		return swept, fmt.Errorf("mark hosts: %w", err)
	}
	return swept, errors.Join(failures...)
}

// fewOf returns the hosts whose turn it is to be looked at although nothing differs. All have had their turn after as
// many sweeps as there are hosts divided by rotate.
func (w *Worker) fewOf(hosts []uuid.UUID) []uuid.UUID {
	if len(hosts) <= rotate {
		return hosts
	}
	hosts = unique(hosts)
	start := int(w.Clock().Unix()/max(1, int64(w.SweepEvery/time.Second))) * rotate % len(hosts)
	few := make([]uuid.UUID, rotate)
	for i := range few {
		few[i] = hosts[(start+i)%len(hosts)]
	}
	return few
}

// refreshStale has those evaluated again about which the inventory could not be asked, now that it answers, and
// returns how many they are.
func (w *Worker) refreshStale(ctx context.Context) (int, error) {
	stale, err := w.Store.Stale(ctx)
	if err != nil {
		return 0, fmt.Errorf("look for stale instrumentations: %w", err)
	}
	for _, p := range stale {
		if err := w.queue.Evaluate(ctx, p.ID, p.Revision); err != nil {
			return 0, err
		}
	}
	return len(stale), nil
}

// sortedKeys returns the keys of a set, sorted.
func sortedKeys(set map[uuid.UUID]bool) []uuid.UUID { return unique(slices.Collect(maps.Keys(set))) }
