package main

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
)

type workerCmd struct {
	logging
	redisFlags
	inventoryFlags
	workerFlags
	MetricsListen string `help:"Serve Prometheus metrics and /healthz here; without: nowhere." placeholder:"ADDR"`
}

// Help is what "iapi worker --help" adds.
func (workerCmd) Help() string {
	return `Run as many as the work needs, also none: what waits, waits in the store. One of them holds the schedule and the changefeed.`
}

func (c workerCmd) Run(ctx context.Context, s streams) error {
	log := c.logger(s.err)
	vms, hosts, err := c.clients(log)
	if err != nil {
		return err
	}
	st, err := c.open(ctx, log)
	if err != nil {
		return err
	}
	defer st.Close()
	published, err := openPublications(ctx, st, log)
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
