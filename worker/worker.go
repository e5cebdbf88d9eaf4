// Package worker does what the rest only asks for: it evaluates instrumentations against the inventory, reconciles the
// documents of hosts, compares everything with the inventory now and then, and judges how instrumentations fare.
//
// Named work (an instrumentation to evaluate, a sweep) comes as asynq tasks; hosts and VMs to look at come from the
// store's dirty sets. Everything may run twice, late, or on another worker: a task only ever makes facts true and marks
// hosts, and a host's document is a pure function of its facts and the live instrumentations, committed only if neither
// has moved. A process holds nothing that cannot be rebuilt.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"iapi/instrumentation"
	"iapi/inventory/vmapi"
)

// Options are what a Worker is made of. Store, VMAPI, CNAPI, Catalog and Redis must be given.
type Options struct {
	Store   Store
	VMAPI   VMAPI
	CNAPI   CNAPI
	Catalog Catalog
	Redis   redis.UniversalClient // for asynq; the store's client

	Publications Publications // what operators publish while it runs; nil: the catalog never changes

	Feed        Feed                // the changefeed; nil: none is listened to
	Listen      vmapi.ListenOptions // how Feed is listened to
	Clock       func() time.Time    // nil: the store's
	Logger      *slog.Logger        // nil: silent
	Registerer  prometheus.Registerer
	Concurrency int           // hosts, VMs and tasks at once, each; 0: 8
	Lease       time.Duration // of a claimed host or VM, after which another worker takes it over; 0: 5 s
	Tick        time.Duration // between looks for what was lost; 0: 2 s
	SweepEvery  time.Duration // between comparisons with the inventory; 0: 10 min
	DeltaEvery  time.Duration // between questions for what VMAPI's records say has changed; 0: never asked
	GuardShare  float64       // the share of all VMs, hosts and placements, each, that a sweep may remove unasked; 0: 0.2
	NoSchedule  bool          // never hold the schedule: neither periodic sweeps nor the changefeed
}

// Worker does the work. See New.
type Worker struct {
	Options
	name     string // of this process, for leases
	queue    instrumentation.Queue
	live     *live
	metrics  *metrics
	log      *slog.Logger
	batch    int                                          // how much one tick looks at
	turns    map[instrumentation.State]instrumentation.ID // the one of each state that the tick has looked at last
	patience time.Duration                                // how long an evaluation waits for the documents of its hosts
	keep     time.Duration                                // how often a sweep keeps how far it has come
	term     time.Duration                                // for which the schedule is held at a time
	damage   damage
}

// New makes a Worker. It does nothing until Run.
func New(o Options) (*Worker, error) {
	for _, part := range []struct {
		name  string
		given bool
	}{
		{"Store", o.Store != nil}, {"VMAPI", o.VMAPI != nil}, {"CNAPI", o.CNAPI != nil},
		{"Catalog", o.Catalog != nil}, {"Redis", o.Redis != nil},
	} {
		if !part.given {
			return nil, fmt.Errorf("make a worker: Options.%s is missing", part.name)
		}
	}
	if o.GuardShare < 0 || o.GuardShare > 1 {
		return nil, fmt.Errorf("make a worker: Options.GuardShare %v is not between 0 and 1", o.GuardShare)
	}
	if o.Clock == nil {
		o.Clock = o.Store.Time
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	orDefault(&o.Concurrency, 8)
	orDefault(&o.Lease, 5*time.Second)
	orDefault(&o.Tick, 2*time.Second)
	orDefault(&o.SweepEvery, 10*time.Minute)
	orDefault(&o.GuardShare, 0.2)
	w := &Worker{
		Options: o, name: uuid.NewString(), queue: NewQueue(o.Redis, o.Store), batch: many, turns: map[instrumentation.State]instrumentation.ID{},
		patience: 10 * time.Second, keep: 5 * time.Second, term: leaseFor,
		live: &live{store: o.Store, clock: o.Clock}, metrics: newMetrics(), log: o.Logger,
	}
	if o.Registerer != nil {
		if err := w.metrics.register(o.Registerer, o.Store, o.Redis); err != nil {
			return nil, fmt.Errorf("make a worker: %w", err)
		}
	}
	return w, nil
}

func orDefault[T int | float64 | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Run works until ctx ends, and returns when everything that it started has ended. Claims that it holds then lapse by
// themselves. The error is nil unless the tasks' server could not be started.
func (w *Worker) Run(ctx context.Context) error {
	server := w.newServer(ctx)
	if err := server.Start(w.handler()); err != nil {
		return fmt.Errorf("start the tasks' server: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { w.reconcileLoops(ctx); return nil })
	g.Go(func() error { w.tickLoop(ctx); return nil })
	if w.Publications != nil {
		g.Go(func() error { w.spreadLoop(ctx); return nil })
	}
	if !w.NoSchedule {
		g.Go(func() error { w.scheduleLoop(ctx); return nil })
	}
	<-ctx.Done()
	server.Shutdown()
	err := g.Wait()
	w.log.Info("the worker has stopped", "worker", w.name)
	return err
}

// each runs fn for every item, w.Concurrency at once, and returns when all have ended.
func each[T any](w *Worker, items []T, fn func(T)) {
	if len(items) == 1 {
		fn(items[0])
		return
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, w.Concurrency)
	for _, it := range items {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			fn(it)
		})
	}
	wg.Wait()
}

// sleep waits, and reports false when ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// failed logs an error that is dealt with by trying again later. The end of ctx is no error.
func (w *Worker) failed(ctx context.Context, doing string, err error, args ...any) {
	if err == nil || ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return
	}
	w.metrics.errors.WithLabelValues(doing).Inc()
	w.log.WarnContext(ctx, doing+" failed", append(args, "error", err)...)
}
