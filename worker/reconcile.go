package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/assignment"
	"iapi/instrumentation"
	"iapi/placement"
	"iapi/store"
)

const (
	// How much is claimed at once. Hosts are read and committed in pipelines.
	manyHosts  = 256
	manyJudged = 64
	// repeats is how often a commit is tried again before the host goes back to the end of the line.
	repeats = 4
	// judgeEvery is the time between judgements, which each read sums over all shards. What is marked meanwhile, again and
	// again while reports come in, is judged once.
	judgeEvery = 100 * time.Millisecond
	// Work that has a rest takes one part in restShare of the time at most, but rests no longer than longRest: sums over many
	// hosts that are offline cost the store the more the more there are.
	restShare = 5
	longRest  = time.Second
)

// reconcileLoops look up the VMs, reconcile the hosts, and judge the instrumentations that wait, until ctx ends. Each kind
// of work has a loop of its own, so that an inventory that is slow to answer holds up no host.
func (w *Worker) reconcileLoops(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { w.workLoop(ctx, "look up VMs", store.VMWork, 0, w.lookUp) })
	running.Go(func() { w.workLoop(ctx, "reconcile", store.HostWork, 0, w.reconcile) })
	running.Go(func() { w.workLoop(ctx, "judge", store.JudgeWork, judgeEvery, w.judge) })
}

// workLoop waits for work of a kind and does all that there is. work returns how much it did; after some, rest passes, or
// more where the work took long.
func (w *Worker) workLoop(ctx context.Context, doing string, kind store.Work, rest time.Duration, work func(context.Context) (int, error)) {
	pause := time.Duration(0) // after a failure, growing while it lasts
	for ctx.Err() == nil {
		if err := w.Store.AwaitWork(ctx, w.name, kind, w.Tick); err != nil {
			w.failed(ctx, "wait for work", err)
			sleep(ctx, 500*time.Millisecond)
			continue
		}
		for done := 1; done > 0 && ctx.Err() == nil; {
			var err error
			begun := time.Now()
			if done, err = work(ctx); err != nil {
				w.failed(ctx, doing, err)
				pause = min(max(2*pause, 100*time.Millisecond), 5*time.Second)
				sleep(ctx, pause)
				break
			}
			pause = 0
			if done > 0 && rest > 0 {
				sleep(ctx, max(rest, min((restShare-1)*time.Since(begun), longRest)))
			}
		}
	}
}

// work is one claimed host on its way to its document.
type work struct {
	claim store.Claim
	err   error
	done  bool
}

// reconcile claims hosts and writes their documents.
//
// The order is what makes a commit right: first the facts are read, and with them how often the host was wanted; then the
// set of live instrumentations takes over what is committed. Whoever changes either marks the host afterwards, so a
// change that was missed has moved the counter, and the commit is refused and repeated.
func (w *Worker) reconcile(ctx context.Context) (int, error) {
	claims, err := w.Store.ClaimHosts(ctx, w.name, manyHosts, w.Lease)
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
		if todo = slices.DeleteFunc(todo, func(t *work) bool { return t.done }); len(todo) == 0 {
			break
		}
	}
	each(w, todo, func(t *work) {
		if t.err == nil { // marked again and again: others first
			w.failed(ctx, "release a host", w.Store.ReleaseHost(ctx, t.claim), "host", t.claim.Host)
		} else if w.damage.due(t.claim.Host) {
			w.failed(ctx, "reconcile a host", t.err, "host", t.claim.Host)
		}
	})
	w.metrics.reconciled.Add(float64(len(claims) - len(todo)))
	w.metrics.batches.Observe(time.Since(begun).Seconds())
	return len(claims), nil
}

// attempt tries once to commit the documents of the hosts.
func (w *Worker) attempt(ctx context.Context, todo []*work) error {
	hosts := make([]uuid.UUID, len(todo))
	for i, t := range todo {
		hosts[i] = t.claim.Host
	}
	facts, err := w.Store.FactsOf(ctx, hosts...)
	if err != nil {
		return err
	}
	set, err := w.live.sync(ctx)
	if err != nil {
		return err
	}
	if err := w.syncCatalog(ctx); err != nil {
		return err
	}
	drafts := make([]store.Draft, len(todo))
	all := make([]int, len(todo))
	for i := range all {
		all[i] = i
	}
	each(w, all, func(i int) {
		if facts[i].Err == nil {
			drafts[i] = w.draft(set, todo[i].claim, facts[i].Facts)
		}
	})
	ready, of, bad := drafts[:0], all[:0], store.Damage{}
	for i, t := range todo {
		if t.err = facts[i].Err; t.err != nil {
			bad[t.claim.Host] = t.err
			continue
		}
		ready, of = append(ready, drafts[i]), append(of, i)
	}
	w.damaged(ctx, bad)
	for i, r := range w.Store.CommitDocuments(ctx, ready) {
		t := todo[of[i]]
		t.done, t.err = r.Done, r.Err
		if errors.Is(t.err, store.ErrClaimLost) { // another worker has taken it over
			t.done, t.err = true, nil
		}
	}
	return nil
}

// draft computes the document of a claimed host.
func (w *Worker) draft(set *placement.Set, c store.Claim, f store.Facts) store.Draft {
	items, body, hash, counts := w.document(set, c.Host, f)
	return store.Draft{Claim: c, Facts: f, Items: items, Body: body, Hash: hash, Placed: counts}
}

// document is the pure function from facts and live instrumentations to a document.
func (w *Worker) document(set *placement.Set, id uuid.UUID, f store.Facts) (items []assignment.Item, body []byte, hash string, counts []store.Counts) {
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
	return doc.Instrumentations, body, hash, counts
}

func (w *Worker) digest(metric string) string {
	if m, ok := w.Catalog.Metric(metric); ok {
		return m.Digest
	}
	return ""
}

// judge notes how instrumentations fare whose counts have changed.
func (w *Worker) judge(ctx context.Context) (int, error) {
	ids, err := w.Store.ClaimJudge(ctx, manyJudged)
	if err != nil || len(ids) == 0 {
		return 0, wrap("claim what is to be judged", err)
	}
	if err := w.judgeAll(ctx, ids); err != nil {
		// The marks are gone; put them back, and if that fails too the tick finds them by their state.
		return 0, errors.Join(err, w.Store.MarkJudge(context.WithoutCancel(ctx), ids...))
	}
	return len(ids), nil
}

// judgeAll notes in which state instrumentations are, and tells those who follow them how their sources fare.
func (w *Worker) judgeAll(ctx context.Context, ids []instrumentation.ID) error {
	now := w.Clock()
	verdicts, err := w.verdicts(ctx, now, ids)
	if err != nil {
		return fmt.Errorf("judge: %w", err)
	}
	var told []instrumentation.ID
	for _, v := range verdicts {
		if !v.news() {
			told = append(told, v.rec.ID)
			continue
		}
		var enabled time.Time
		if v.state == instrumentation.Enabled && v.rec.EnabledAt.IsZero() {
			enabled = now
		}
		err := w.Store.SetState(ctx, v.rec.ID, v.rec.Revision, v.state, enabled) // which tells as well
		// A new revision is judged when it has been evaluated.
		if err != nil && !gone(err) {
			return fmt.Errorf("judge: %w", err)
		}
	}
	if err := w.Store.TellFares(ctx, told...); err != nil {
		return fmt.Errorf("tell how instrumentations fare: %w", err)
	}
	return nil
}

// verdict is which state a record should be in.
type verdict struct {
	rec   *instrumentation.Instrumentation
	state instrumentation.State
}

// news reports whether that is to be noted. What has expired is the tick's, which first has the documents drop it.
func (v verdict) news() bool {
	first := v.state == instrumentation.Enabled && v.rec.EnabledAt.IsZero()
	return v.state != instrumentation.Expired && (v.state != v.rec.State || first)
}

// verdicts judges those of the instrumentations that there are.
func (w *Worker) verdicts(ctx context.Context, now time.Time, ids []instrumentation.ID) ([]verdict, error) {
	recs, err := w.Store.Get(ctx, ids...)
	if err != nil {
		return nil, err
	}
	coverage, err := w.Store.Coverage(ctx, ids...)
	if err != nil {
		return nil, err
	}
	out := make([]verdict, 0, len(recs))
	for i, rec := range recs {
		if rec != nil {
			out = append(out, verdict{rec, instrumentation.Judge(*rec, coverage[i], now)})
		}
	}
	return out, nil
}
