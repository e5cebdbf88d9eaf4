package worker

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"iapi/inventory"
)

const (
	scheduleLease = "schedule"
	// leaseFor is how long the schedule is held: a dead holder's successor listens to the feed again at most 7 s later.
	leaseFor = 5 * time.Second
)

// scheduleLoop holds the schedule whenever nobody else does, until ctx ends.
func (w *Worker) scheduleLoop(ctx context.Context) {
	for ctx.Err() == nil {
		held, err := w.Store.Lease(ctx, scheduleLease, w.name, w.term)
		w.failed(ctx, "take the schedule's lease", err)
		if held {
			w.hold(ctx)
			continue
		}
		sleep(ctx, w.term/5+rand.N(w.term/5))
	}
}

// hold does what only one process at a time should do, as long as it has the lease: periodic sweeps, listening to
// VMAPI's changefeed, and asking what has changed. It stops before the lease can have lapsed; that two do it for a moment would harm nothing.
func (w *Worker) hold(ctx context.Context) {
	w.log.InfoContext(ctx, "this process holds the schedule", "worker", w.name)
	var g errgroup.Group
	held, stop := context.WithCancel(ctx)
	g.Go(func() error {
		defer stop()
		for until := time.Now().Add(w.term); sleep(held, w.term/5); {
			asked := time.Now()
			inTime, cancel := context.WithDeadline(held, until)
			ok, err := w.Store.Lease(inTime, scheduleLease, w.name, w.term)
			cancel()
			w.failed(held, "extend the schedule's lease", err)
			switch {
			case err == nil && !ok:
				return nil
			case err == nil:
				until = asked.Add(w.term)
			case time.Until(until) < w.term/3:
				return nil
			}
		}
		return nil
	})
	g.Go(func() error {
		for {
			w.failed(held, "ask for a sweep", w.queue.Sweep(held))
			if !sleep(held, w.SweepEvery*9/10+rand.N(w.SweepEvery/5+1)) {
				return nil
			}
		}
	})
	if w.Feed != nil {
		g.Go(func() error {
			w.failed(held, "listen to the changefeed", w.Feed.Listen(held, w.Listen, feedHandler{w}))
			return nil
		})
	}
	if w.DeltaEvery > 0 {
		g.Go(func() error { w.deltaLoop(held); return nil })
	}
	_ = g.Wait() // none of them returns an error
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	w.failed(ctx, "give the schedule's lease back", w.Store.ReleaseLease(ctx, scheduleLease, w.name))
}

// feedHandler turns what the changefeed says into hints. A message is never taken for the truth: messages come in any
// order, and the VM's own record can be asked for.
type feedHandler struct{ *Worker }

// Connected has everything compared, since the feed tells nothing of what happened before.
func (h feedHandler) Connected(ctx context.Context) error { return h.queue.Sweep(ctx) }

// Changed marks the VM to be looked up. A mark that is lost is made up for by the next sweep.
func (h feedHandler) Changed(ctx context.Context, vm uuid.UUID, _ *inventory.VM, _ bool) {
	h.failed(ctx, "mark a VM of the changefeed", h.Store.MarkVMs(ctx, vm), "vm", vm)
}
