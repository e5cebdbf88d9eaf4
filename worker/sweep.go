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

const (
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
// When more placements would be removed than the guard's share, see may, because VMs are gone or are not what they were, everything
// else is taken over and nothing removed until an operator confirms the guard.
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
	ok, err := w.may(ctx, loss{
		guard: GuardHosts, what: "CNAPI no longer lists %d of %d hosts", gone: len(missing), of: len(known), empty: len(hosts) == 0,
		hosts: missing, known: known, most: func(ctx context.Context, hosts []uuid.UUID) (of, gone int, err error) {
			return w.Store.Placements(ctx, func(instrumentation.ID, uuid.UUID) bool { return true }, hosts...)
		},
	})
	if err != nil || !ok {
		return err
	}
	var failed error
	for _, id := range missing {
		if err := w.Store.RemoveHost(ctx, asOf, id); err != nil {
			failed = errors.Join(failed, fmt.Errorf("remove host %s: %w", id, err))
		}
	}
	return failed
}

// sweepVMs compares the VMs of every host. What would be lost is known before anything is written.
func (w *Worker) sweepVMs(ctx context.Context, name string) (store.Swept, error) {
	seen, err := w.walk(ctx, name)
	if err != nil {
		return store.Swept{}, err
	}
	facts, err := w.Store.Digests(ctx)
	if err != nil {
		return store.Swept{}, fmt.Errorf("read the digests: %w", err)
	}
	known, err := w.Store.HostIDs(ctx)
	if err != nil {
		return store.Swept{}, fmt.Errorf("list the hosts: %w", err)
	}
	differing, same := seen.against(facts, known)
	swept := store.Swept{VMs: seen.Seen, Differing: len(differing)}
	few := w.fewOf(same)
	c := comparison{Worker: w}
	failures := []error{c.differ(ctx, seen, differing, few)}
	if failures[0] == nil { // what could not be compared cannot be judged
		ok, err := w.may(ctx, c.loss(seen, facts, known))
		c.shrink, failures[0] = ok && err == nil, err
		if err != nil {
			clear(c.loses)
		}
	} else {
		failures = append(failures, c.harmless(ctx))
	}
	failures = append(failures, c.mend(ctx, seen))
	doubtful, err := c.lookUpVMs(ctx)
	failures = append(failures, err)
	if c.shrink {
		for batch := range slices.Chunk(doubtful, manySwept) {
			failures = append(failures, c.compare(ctx, batch))
		}
	}
	if err := w.Store.MarkHosts(ctx, false, few...); err != nil {
		return swept, fmt.Errorf("mark hosts: %w", err)
	}
	return swept, errors.Join(failures...)
}

// sum counts the VMs of all hosts.
func sum(hosts map[uuid.UUID]store.HostDigest) (vms int) {
	for _, h := range hosts {
		vms += h.VMs
	}
	return vms
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
