package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"iapi/assignment"
	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/placement"
	"iapi/store"
)

// batch is how many hosts or VMs are claimed at once.
const batch = 64

// repeats is how often a commit is tried again before the host goes back to the end of the line.
const repeats = 4

// reconcileLoop waits for work and does all that there is, until ctx ends.
func (w *Worker) reconcileLoop(ctx context.Context) {
	pause := time.Duration(0) // after a failure, growing while it lasts
	for ctx.Err() == nil {
		if err := w.Store.AwaitWork(ctx, w.name, w.Tick); err != nil {
			w.failed(ctx, "wait for work", err)
			sleep(ctx, 500*time.Millisecond)
			continue
		}
		if err := w.drain(ctx); err != nil {
			w.failed(ctx, "reconcile", err)
			pause = min(max(2*pause, 100*time.Millisecond), 5*time.Second)
			sleep(ctx, pause)
			continue
		}
		pause = 0
	}
}

// drain looks up the VMs and reconciles the hosts that wait, and judges what is to be judged, until nothing is left that
// this worker can claim.
func (w *Worker) drain(ctx context.Context) error {
	for ctx.Err() == nil {
		vms, err := w.lookUp(ctx)
		if err != nil {
			return err
		}
		hosts, err := w.reconcile(ctx)
		if err != nil {
			return err
		}
		judged, err := w.judge(ctx)
		if err != nil {
			return err
		}
		if vms+hosts+judged == 0 {
			return nil
		}
	}
	return ctx.Err()
}

// lookUp asks VMAPI for VMs that are said to have changed, and takes over what it says. A VM that VMAPI could not be asked
// about is asked about again when its claim lapses. One that VMAPI does not know changes nothing: VMAPI keeps the VMs that
// it destroyed, and what it has really lost is for the sweep to find, which sees how much is missing.
func (w *Worker) lookUp(ctx context.Context) (int, error) {
	claims, err := w.Store.ClaimVMs(ctx, w.name, batch, w.Lease)
	if err != nil || len(claims) == 0 {
		return 0, wrap("claim VMs", err)
	}
	asOf, err := w.Store.Now(ctx)
	if err != nil {
		return 0, fmt.Errorf("look up VMs: %w", err)
	}
	found := make([]*inventory.VM, len(claims))
	errs := make([]error, len(claims))
	order := make([]int, len(claims))
	for i := range order {
		order[i] = i
	}
	actx, cancel := context.WithTimeout(ctx, w.Lease)
	defer cancel()
	each(w, order, func(i int) {
		vm, err := w.VMAPI.VM(actx, claims[i].VM)
		if errs[i] = err; err == nil {
			found[i] = &vm
		}
	})
	vms := make([]inventory.VM, 0, len(claims))
	for _, vm := range found {
		if vm != nil {
			vms = append(vms, *vm)
		}
	}
	if len(vms) > 0 {
		if _, err := w.Store.PutVMs(ctx, asOf, vms); err != nil {
			return 0, fmt.Errorf("put VMs: %w", err)
		}
	}
	each(w, order, func(i int) {
		if errs[i] != nil && !errors.Is(errs[i], inventory.ErrNotFound) {
			w.failed(ctx, "look up a VM", errs[i], "vm", claims[i].VM)
			return
		}
		if err := w.Store.DoneVM(ctx, claims[i]); err != nil && !errors.Is(err, store.ErrClaimLost) {
			w.failed(ctx, "note that a VM was looked up", err, "vm", claims[i].VM)
		}
	})
	w.metrics.lookups.Add(float64(len(claims)))
	return len(claims), nil
}

// work is one claimed host on its way to its document.
type work struct {
	claim store.Claim
	facts store.Facts
	err   error
	done  bool
}

// reconcile claims hosts and writes their documents.
//
// The order is what makes a commit right: first the facts are read, and with them how often the host was wanted; then the
// set of live instrumentations takes over what is committed. Whoever changes either marks the host afterwards, so a
// change that was missed has moved the counter, and the commit is refused and repeated.
func (w *Worker) reconcile(ctx context.Context) (int, error) {
	claims, err := w.Store.ClaimHosts(ctx, w.name, batch, w.Lease)
	if err != nil || len(claims) == 0 {
		return 0, wrap("claim hosts", err)
	}
	begun := time.Now()
	todo := make([]*work, len(claims))
	for i, c := range claims {
		todo[i] = &work{claim: c}
	}
	for range repeats {
		if err := w.attempt(ctx, todo); err != nil {
			return 0, err
		}
		left := todo[:0]
		for _, t := range todo {
			if !t.done {
				left = append(left, t)
			}
		}
		if todo = left; len(todo) == 0 {
			break
		}
	}
	each(w, todo, func(t *work) {
		w.failed(ctx, "reconcile a host", t.err, "host", t.claim.Host)
		if t.err == nil { // marked again and again: others first
			w.failed(ctx, "release a host", w.Store.ReleaseHost(ctx, t.claim), "host", t.claim.Host)
		}
	})
	w.metrics.reconciled.Add(float64(len(claims) - len(todo)))
	w.metrics.batches.Observe(time.Since(begun).Seconds())
	return len(claims), nil
}

// attempt tries once to commit the documents of the hosts.
func (w *Worker) attempt(ctx context.Context, todo []*work) error {
	each(w, todo, func(t *work) { t.facts, t.err = w.Store.Facts(ctx, t.claim.Host) })
	set, err := w.live.sync(ctx)
	if err != nil {
		return err
	}
	if err := w.syncCatalog(ctx); err != nil {
		return err
	}
	each(w, todo, func(t *work) {
		if t.err == nil {
			t.done, t.err = w.commit(ctx, set, t.claim, t.facts)
		}
		if errors.Is(t.err, store.ErrClaimLost) { // another worker has taken it over
			t.done, t.err = true, nil
		}
	})
	return nil
}

// commit computes a host's document and commits it; false says that a mark or another document came in between.
func (w *Worker) commit(ctx context.Context, set *placement.Set, c store.Claim, f store.Facts) (bool, error) {
	body, hash, counts := w.document(set, c.Host, f)
	_, committed, err := w.Store.CommitDocument(ctx, c, f, body, hash, counts)
	return committed, err
}

// document is the pure function from facts and live instrumentations to a document.
func (w *Worker) document(set *placement.Set, id uuid.UUID, f store.Facts) (body []byte, hash string, counts []store.Counts) {
	host := f.Host
	host.UUID = id
	now := w.Clock()
	placed := set.ForHost(&host, f.Known, f.VMs)
	live := placed[:0]
	for _, p := range placed {
		if p.Instrumentation.Live(now) {
			live = append(live, p)
		}
	}
	doc, over := assignment.Build(id, live, w.digest)
	body, hash = assignment.Encode(doc)
	for _, p := range live { // what there was no room for is expected all the same
		counts = append(counts, store.Counts{ID: p.Instrumentation.ID, Expected: p.Sources()})
	}
	if len(over) > 0 {
		w.metrics.overBudget.Add(float64(len(over)))
		w.log.Warn("a host's document is full", "host", id, "refused", len(over), "first", over[0])
	}
	return body, hash, counts
}

func (w *Worker) digest(metric string) string {
	if m, ok := w.Catalog.Metric(metric); ok {
		return m.Digest
	}
	return ""
}

// judge notes how instrumentations fare whose counts have changed.
func (w *Worker) judge(ctx context.Context) (int, error) {
	ids, err := w.Store.ClaimJudge(ctx, batch)
	if err != nil || len(ids) == 0 {
		return 0, wrap("claim what is to be judged", err)
	}
	if err := w.judgeAll(ctx, ids); err != nil {
		// The marks are gone; put them back, and if that fails too the tick finds them by their state.
		return 0, errors.Join(err, w.Store.MarkJudge(context.WithoutCancel(ctx), ids...))
	}
	return len(ids), nil
}

func (w *Worker) judgeAll(ctx context.Context, ids []instrumentation.ID) error {
	recs, err := w.Store.Get(ctx, ids...)
	if err != nil {
		return fmt.Errorf("judge: %w", err)
	}
	coverage, err := w.Store.Coverage(ctx, ids...)
	if err != nil {
		return fmt.Errorf("judge: %w", err)
	}
	now := w.Clock()
	for i, rec := range recs {
		if rec == nil {
			continue
		}
		state := instrumentation.Judge(*rec, coverage[i], now)
		var enabled time.Time
		if state == instrumentation.Enabled && rec.EnabledAt.IsZero() {
			enabled = now
		}
		if state == rec.State && enabled.IsZero() || state == instrumentation.Expired {
			continue // what has expired is the tick's, which first has the documents drop it
		}
		err := w.Store.SetState(ctx, rec.ID, rec.Revision, state, enabled)
		// A new revision is judged when it has been evaluated.
		if err != nil && !errors.Is(err, instrumentation.ErrRevision) && !errors.Is(err, instrumentation.ErrNotFound) {
			return fmt.Errorf("judge: %w", err)
		}
	}
	return nil
}
