//go:build !illumos

package main

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"iapi/catalog"
	"iapi/inventory/cnapi"
	"iapi/inventory/vmapi"
	"iapi/store"
	"iapi/worker"
)

// workerFlags tune a worker. Their zero value means the worker's own defaults.
type workerFlags struct {
	Concurrency count  `default:"8" help:"Hosts, VMs and tasks at once, each."`
	SweepEvery  period `default:"10m" help:"Time between comparisons of everything with the inventory."`
	DeltaEvery  pause  `default:"0s" help:"Also ask VMAPI this often which of its records have changed, in case the changefeed says nothing. The clocks must agree to within a minute. 0s: never."`
	GuardShare  share  `default:"0.2" help:"A sweep that would remove more than this share of all VMs, of all hosts, or of all placements (instrumentations of VMs and of whole hosts), and more than 10 of them, waits for an operator: more than 0, up to 1. 1: only an inventory that is suddenly empty waits."`
}

func newWorker(f workerFlags, st *store.Store, vms *vmapi.Client, hosts *cnapi.Client, published publications, reg prometheus.Registerer, log *slog.Logger) (*worker.Worker, error) {
	return worker.New(worker.Options{
		Store: st, VMAPI: vms, CNAPI: hosts, Catalog: catalog.Assigned{Live: published.Live}, Publications: published, Redis: st.Client(), Feed: vms, Logger: log, Registerer: reg,
		Concurrency: int(f.Concurrency), SweepEvery: time.Duration(f.SweepEvery), DeltaEvery: time.Duration(f.DeltaEvery), GuardShare: float64(f.GuardShare),
	})
}

type workerCmd struct {
	logging
	redisFlags
	inventoryFlags
	workerFlags
	trustFlags    `kong:"set='trusting=The public keys (Ed25519, PEM) of which one must have signed the bundle.'"`
	DataDir       string `default:"${data_dir}" type:"path" help:"Keeps the last good bundle."`
	MetricsListen string `help:"Serve Prometheus metrics and /healthz here; without: nowhere." placeholder:"ADDR"`
}

// Help is what "iapi worker --help" adds.
func (workerCmd) Help() string {
	return `Run as many as the work needs, also none: what waits, waits in the store. One of them holds the schedule and the changefeed.

  iapi worker --redis redis://127.0.0.1:6379/0 --vmapi http://127.0.0.1:8088`
}

func (c workerCmd) Run(ctx context.Context, s streams) error {
	log := c.logger(s.err)
	vms, hosts, err := c.clients(log)
	if err != nil {
		return err
	}
	st, err := c.open(ctx, 0, log)
	if err != nil {
		return err
	}
	defer st.Close()
	own, _, err := c.catalog(c.DataDir, log)
	if err != nil {
		return err
	}
	published, err := openPublications(ctx, st, own, log)
	if err != nil {
		return err
	}
	registry := newRegistry()
	w, err := newWorker(c.workerFlags, st, vms, hosts, published, registry, log)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	if c.MetricsListen != "" {
		l, err := listen("metrics-listen", c.MetricsListen)
		if err != nil {
			return err
		}
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
		mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
		g.Go(func() error {
			return serve(ctx, l, &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}, nil)
		})
	}
	g.Go(func() error { return published.Run(ctx) })
	g.Go(func() error { return w.Run(ctx) })
	log.Info("the worker is running")
	return g.Wait()
}
