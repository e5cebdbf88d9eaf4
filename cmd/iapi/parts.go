package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"iapi/agent"
	"iapi/agent/session"
	"iapi/catalog"
	measuring "iapi/collectors"
	"iapi/collectors/zone"
	"iapi/inventory/cnapi"
	"iapi/inventory/vmapi"
	"iapi/measure"
	"iapi/store"
	"iapi/targets"
	"iapi/worker"
)

// inventoryFlags say where the inventory is.
type inventoryFlags struct {
	VMAPI string `name:"vmapi" required:"" help:"VMAPI's address." placeholder:"URL"`
	CNAPI string `name:"cnapi" help:"CNAPI's address. Without: the same as VMAPI's." placeholder:"URL"`
}

func (f inventoryFlags) clients(log *slog.Logger) (*vmapi.Client, *cnapi.Client, error) {
	vms, err := vmapi.New(vmapi.Options{URL: f.VMAPI, Logger: log})
	if err != nil {
		return nil, nil, usageError("--vmapi: %w", err)
	}
	if f.CNAPI == "" {
		f.CNAPI = f.VMAPI
	}
	hosts, err := cnapi.New(cnapi.Options{URL: f.CNAPI, Logger: log})
	if err != nil {
		return nil, nil, usageError("--cnapi: %w", err)
	}
	return vms, hosts, nil
}

// redisFlags say where the store is.
type redisFlags struct {
	Redis string `required:"" help:"The store: redis://host:port/db, rediss:// with TLS, several hosts separated by commas for a Cluster, redis+sentinel://host:port,…/master for Sentinel. It should keep an append-only file and must not evict." placeholder:"URL"`
}

func (f redisFlags) open(ctx context.Context, log *slog.Logger) (*store.Store, error) {
	st, err := store.Open(ctx, store.Options{URL: f.Redis, Logger: log})
	if err != nil {
		return nil, &exitError{code: exitUnreachable, err: fmt.Errorf("--redis: %w", err)}
	}
	return st, nil
}

// workerFlags tune a worker.
type workerFlags struct {
	Concurrency int           `default:"8" help:"Hosts, VMs and tasks at once, each."`
	SweepEvery  time.Duration `default:"10m" help:"Time between comparisons of everything with the inventory."`
	DeltaEvery  time.Duration `default:"0s" help:"Also ask VMAPI this often which of its records have changed, in case the changefeed says nothing. The clocks must agree to within a minute. 0: never."`
	GuardShare  float64       `default:"0.2" help:"A sweep that would remove more than this share of all VMs or hosts waits for an operator."`
}

func newWorker(f workerFlags, st *store.Store, vms *vmapi.Client, hosts *cnapi.Client, published publications, reg prometheus.Registerer, log *slog.Logger) (*worker.Worker, error) {
	return worker.New(worker.Options{
		Store: st, VMAPI: vms, CNAPI: hosts, Catalog: catalog.Assigned{Live: published.Live}, Publications: published, Redis: st.Client(), Feed: vms, Logger: log, Registerer: reg,
		Concurrency: f.Concurrency, SweepEvery: f.SweepEvery, DeltaEvery: f.DeltaEvery, GuardShare: f.GuardShare,
	})
}

func newRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// agentParts are what an agent needs beside its session.
type agentParts struct {
	host  uuid.UUID
	dir   string
	zones *zone.Resolver
	log   *slog.Logger

	collectors []string     // that this host's policy allows; nil: all
	keys       catalog.Keys // that definitions must be signed with; nil: any
}

// newAgent makes this host's agent on a session.
func newAgent(p agentParts, s *session.Session) (*agent.Agent, error) {
	hostname, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("find this host's name: %w", err)
	}
	registry := measuring.New(measuring.Options{Zones: p.zones, HostID: p.host, Hostname: hostname, Allowed: p.collectors, Logger: p.log})
	spool := ""
	if p.dir != "" {
		spool = filepath.Join(p.dir, "spool")
	}
	return agent.New(agent.Options{
		Host: p.host, Version: version(), Session: s, Collectors: registry, Dir: p.dir, Logger: p.log,
		Capabilities: registry.Collectors(), TrustedKeys: p.keys,
		OpenTarget: func(instrumentation string, t measure.Target) (agent.Queue, error) {
			return targets.Open(t, targets.Options{Dir: spool, Name: instrumentation, HostID: p.host, Hostname: hostname,
				Version: version(), Logger: p.log.With("instrumentation", instrumentation)})
		},
		Owner: func(vm uuid.UUID) uuid.UUID {
			z, _ := p.zones.Lookup(vm)
			return z.Owner
		},
	})
}

// writableDir makes a directory and makes sure that it can be written.
func writableDir(dir string) error {
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		var probe *os.File
		if probe, err = os.CreateTemp(dir, ".writable-*"); err == nil {
			err = errors.Join(probe.Close(), os.Remove(probe.Name()))
		}
	}
	if err != nil {
		return fmt.Errorf("the data directory %s cannot be written (--data-dir names another): %w", dir, err)
	}
	return nil
}

// listen opens a listener; the error says which flag to change.
func listen(flag, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, &exitError{code: exitFailed, err: fmt.Errorf("cannot listen on %s (--%s names another address): %w", address, flag, err)}
	}
	return l, nil
}

// serve runs an HTTP server until ctx ends, then shuts it down in an orderly way.
func serve(ctx context.Context, l net.Listener, server *http.Server, shutdown func(context.Context)) error {
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if shutdown != nil {
		shutdown(within)
	}
	if err := server.Shutdown(within); err != nil {
		_ = server.Close() // who is left is cut off
	}
	<-failed
	return ctx.Err()
}

// pruneSpools removes the spools of instrumentations that are gone, at the start and each hour, until ctx ends.
func pruneSpools(ctx context.Context, agentDir string, log *slog.Logger) error {
	const age = 24 * time.Hour // as long as a spool keeps data
	ticker := time.NewTicker(time.Hour)
	defer ticker.Stop()
	for {
		if err := targets.PruneSpools(filepath.Join(agentDir, "spool"), age, time.Now()); err != nil {
			log.Warn("old spools cannot be removed", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}
