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
	"iapi/collectors/dtrace"
	"iapi/collectors/zone"
	"iapi/instrumentation"
	"iapi/inventory/cnapi"
	"iapi/inventory/vmapi"
	"iapi/measure"
	"iapi/store"
	"iapi/targets"
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

// open opens the store. audit is how many entries its audit log keeps, 0 where none are added.
func (f redisFlags) open(ctx context.Context, audit count, log *slog.Logger) (*store.Store, error) {
	st, err := store.Open(ctx, store.Options{URL: f.Redis, AuditEntries: int(audit), Logger: log})
	switch {
	case errors.Is(err, instrumentation.ErrNotReady):
		return nil, &exitError{code: exitUnreachable, err: fmt.Errorf("--redis: %w", err)}
	case err != nil:
		return nil, usageError("--redis: %w", err)
	}
	return st, nil
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

	policy hostPolicyFlags
}

// hostAgent is an agent with its tracer, which ends with it.
type hostAgent struct {
	*agent.Agent
	tracer *dtrace.Engine
	log    *slog.Logger
}

// Run measures until ctx ends. When it returns, nothing is traced any more.
func (a hostAgent) Run(ctx context.Context) error {
	err := a.Agent.Run(ctx)
	if cerr := a.tracer.Close(); cerr != nil {
		a.log.Error("tracing did not end cleanly", "error", cerr)
	}
	return err
}

// newAgent makes this host's agent on a session. It is to be run, which also ends what it has begun.
func newAgent(ctx context.Context, p agentParts, s *session.Session) (*hostAgent, error) {
	hostname, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("find this host's name: %w", err)
	}
	if err := p.policy.check(); err != nil {
		return nil, err
	}
	keys, err := p.policy.keys()
	var own *catalog.Catalog // without keys an agent trusts all, and needs none of its own
	if keys != nil && err == nil {
		own, _, err = p.policy.catalog(p.dir, p.log)
	}
	if err != nil {
		return nil, err
	}
	tracer, err := dtrace.New(dtrace.Options{Zones: p.zones, Hostname: hostname, Dir: p.dir, MaxPrograms: p.policy.MaxTracing, Logger: p.log})
	if err != nil {
		return nil, err
	}
	registry := measuring.New(measuring.Options{Zones: p.zones, HostID: p.host, Hostname: hostname, Allowed: p.policy.Collectors, Tracer: tracer, Logger: p.log})
	spool := ""
	if p.dir != "" {
		spool = filepath.Join(p.dir, "spool")
	}
	shared := &targets.Shared{}
	a, err := agent.New(agent.Options{
		Host: p.host, Version: version(), Session: s, Collectors: registry, Dir: p.dir, Logger: p.log,
		Capabilities: registry.Collectors(ctx), TrustedKeys: keys, Catalog: own,
		OpenTarget: func(instrumentation string, t measure.Target) (agent.Queue, error) {
			return targets.Open(t, targets.Options{Dir: spool, Name: instrumentation, HostID: p.host, Hostname: hostname,
				Version: version(), Shared: shared, Logger: p.log.With("instrumentation", instrumentation)})
		},
		Owner: func(vm uuid.UUID) uuid.UUID {
			z, _ := p.zones.Lookup(vm)
			return z.Owner
		},
	})
	if err != nil {
		return nil, errors.Join(err, tracer.Close())
	}
	if _, refusal := tracer.Ready(ctx); refusal != nil && ctx.Err() == nil {
		p.log.Info("nothing is traced on this host", "reason", refusal.Message)
	}
	return &hostAgent{Agent: a, tracer: tracer, log: p.log}, nil
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
