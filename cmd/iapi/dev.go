//go:build !illumos

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"iapi/agent/session"
	"iapi/collectors/zone"
	"iapi/dataapi"
	"iapi/identity"
	"iapi/instrumentation"
	"iapi/inventory/vmapitest"
	"iapi/measure"
	"iapi/store"
	"iapi/wiring"
)

type devCmd struct {
	logging
	hostPolicyFlags `kong:"set='trusting=Publish and run only definitions that one of these public keys (Ed25519, PEM) has signed, beside those that come with the program. Without: all that operators publish.'"`
	policyFlags     `kong:"set='allow_private=true',set='default_target=Without: to the Data API of this process.'"`
	Listen          string `default:"127.0.0.1:8080" help:"Serve the API, the explorer and the Data API here." placeholder:"ADDR"`
	DataDir         string `default:"${data_dir}" type:"path" help:"Keeps the store, tokens and the agent's files."`
	Fleet           string `help:"Serve the VMs and hosts of this JSON file instead of this machine. The agent then stands for one of its hosts." placeholder:"FILE"`
	Host            string `help:"The host of the fleet that this machine's agent stands for; without: the first." placeholder:"UUID"`
	Redis           string `help:"Use this store instead of the embedded one." placeholder:"URL"`
}

// Help is what "iapi dev --help" adds.
func (devCmd) Help() string {
	return `The fleet is this machine: the host, and its containers as its VMs, with their labels as tags. All of them belong to the
account ` + devOwner.String() + `.

Whoever calls from this machine is an operator, on a loopback listener; over the network the token in the data directory
is needed. The store is embedded: what was answered survives a crash, what can be measured again may not.

  iapi dev
  iapi dev --listen 127.0.0.1:9090 --data-dir /var/tmp/iapi
  iapi dev --fleet examples/fleet.json`
}

// devParts are what runs in one process.
type devParts struct {
	cmd    devCmd
	log    *slog.Logger
	out    io.Writer
	store  *store.Store
	sim    *vmapitest.Server
	zones  *zone.Resolver
	host   uuid.UUID
	fleet  *localFleet // nil: the fleet of a file
	about  string
	tokens *identity.TokenFile
	policy instrumentation.Policy
}

func (c devCmd) Run(ctx context.Context, s streams) error {
	log := c.logger(s.err)
	p := devParts{cmd: c, log: log, out: s.out}
	// Whatever can be refused is refused before anything is written.
	var file vmapitest.Fleet
	var err error
	if p.policy, err = c.policy(); err != nil {
		return err
	}
	if c.Fleet != "" {
		if file, err = p.readFleet(); err != nil {
			return err
		}
	} else if c.Host != "" {
		return usageError("--host goes with --fleet")
	}
	l, err := listen("listen", c.Listen)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := writableDir(c.DataDir); err != nil {
		return err
	}
	if p.tokens, err = identity.OpenTokenFile(c.DataDir); err != nil {
		return err
	}
	if c.Redis != "" {
		p.store, err = redisFlags{c.Redis}.open(ctx, c.AuditEntries, log)
	} else {
		p.store, err = store.Open(ctx, store.Options{
			Embedded: &store.Embedded{Dir: filepath.Join(c.DataDir, "store")}, AuditEntries: int(c.AuditEntries), Logger: log,
		})
	}
	if err != nil {
		return err
	}
	defer func() {
		if err := p.store.Close(); err != nil {
			log.Error("the store did not close cleanly", "error", err)
		}
	}()
	p.sim = vmapitest.New(vmapitest.Options{Logger: log, FeedLatency: 200 * time.Millisecond, Datacenter: "dev"})
	defer p.sim.Close()
	if err := p.inventory(ctx, file); err != nil {
		return err
	}
	if err := p.run(ctx, l); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	fmt.Fprintln(s.out, "IAPI has stopped.")
	return nil
}

// inventory fills the simulated inventory: with this machine, or with a file.
func (p *devParts) inventory(ctx context.Context, file vmapitest.Fleet) error {
	agentDir := filepath.Join(p.cmd.DataDir, "agent")
	if err := os.MkdirAll(agentDir, 0o700); err != nil {
		return fmt.Errorf("make the agent's directory: %w", err)
	}
	if p.cmd.Fleet != "" {
		return p.fileFleet(file)
	}
	host, err := hostID(agentDir)
	if err != nil {
		return err
	}
	p.host = host
	p.zones, err = zone.New(zone.Options{Host: host, Owner: zone.FixedOwner(devOwner), Interval: 2 * time.Second, Logger: p.log})
	if err != nil {
		return err
	}
	if err := p.zones.Refresh(ctx); err != nil {
		p.log.Warn("this machine's containers cannot be listed yet", "error", err)
	}
	p.fleet = &localFleet{host: host, zones: p.zones, sim: p.sim, log: p.log}
	if err := p.fleet.start(ctx); err != nil {
		return err
	}
	p.about = fmt.Sprintf("this machine and its %d container(s)", len(p.fleet.seen))
	return nil
}

// readFleet reads the file, and decides which of its hosts the agent stands for.
func (p *devParts) readFleet() (vmapitest.Fleet, error) {
	fleet, err := vmapitest.LoadFleet(p.cmd.Fleet)
	if err != nil {
		return fleet, usageError("--fleet: %w", err)
	}
	if len(fleet.Hosts) == 0 {
		return fleet, usageError("--fleet: %s has no host for this machine's agent to stand for", p.cmd.Fleet)
	}
	p.host = fleet.Hosts[0].UUID
	if p.cmd.Host != "" {
		if p.host, err = uuid.Parse(p.cmd.Host); err != nil {
			return fleet, usageError("--host %q: not a uuid", p.cmd.Host)
		}
	}
	for _, h := range fleet.Hosts {
		if h.UUID == p.host {
			p.about = fmt.Sprintf("%d VMs on %d hosts; this machine's agent stands for %s", len(fleet.VMs), len(fleet.Hosts), h.Hostname)
			return fleet, nil
		}
	}
	return fleet, usageError("--host: %s has no host %s", p.cmd.Fleet, p.host)
}

// fileFleet fills the inventory with a fleet.
func (p *devParts) fileFleet(fleet vmapitest.Fleet) error {
	if err := p.sim.Load(fleet); err != nil {
		return err
	}
	var err error
	p.zones, err = zone.New(zone.Options{Host: p.host, Logger: p.log})
	return err
}

// run starts every part and waits for them.
func (p *devParts) run(ctx context.Context, l net.Listener) error {
	simListener, err := listen("listen", "127.0.0.1:0")
	if err != nil {
		return err
	}
	base := "http://" + reachable(l.Addr())
	inventory := inventoryFlags{VMAPI: "http://" + simListener.Addr().String()}
	vms, hosts, err := inventory.clients(p.log)
	if err != nil {
		return err
	}
	own, keys, err := p.cmd.catalog(p.cmd.DataDir, p.log)
	if err != nil {
		return err
	}
	published, err := openPublications(ctx, p.store, own, p.log)
	if err != nil {
		return err
	}
	registry := newRegistry()
	w, err := newWorker(workerFlags{Concurrency: 8, SweepEvery: period(time.Minute), GuardShare: 0.2}, p.store, vms, hosts, published, registry, p.log)
	if err != nil {
		return err
	}
	data := dataapi.New(dataapi.Options{Logger: p.log})
	authenticators := []identity.Authenticator{p.tokens, identity.AgentToken{Tokens: wiring.Credentials{Store: p.store}}}
	if local, err := identity.NewLocal(l.Addr()); err == nil {
		authenticators = append(authenticators, local)
	} else {
		p.log.Warn("others can reach this listener, so the token in the data directory is needed", "listen", l.Addr())
	}
	api := apiPart{
		store: p.store, published: published, keys: keys, policy: p.policyAt(base), previewer: w,
		authenticator: identity.Chain(p.log, authenticators...), drain: time.Second, dev: true, log: p.log, registry: registry,
	}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return serve(ctx, simListener, &http.Server{Handler: p.sim.Handler(), ReadHeaderTimeout: 10 * time.Second},
			func(context.Context) { p.sim.Close() })
	})
	g.Go(func() error {
		defer data.Close()
		door := guarded(api.authenticator, http.StripPrefix(strings.TrimSuffix(dataPath, "/"), data.Handler()))
		return api.run(ctx, l, map[string]http.Handler{dataPath: door})
	})
	g.Go(func() error { <-ctx.Done(); return data.Close() }) // ends live readers, which the server would wait for
	g.Go(func() error { return w.Run(ctx) })
	g.Go(func() error { return p.zones.Run(ctx) })
	if p.fleet != nil {
		g.Go(func() error { return p.fleet.run(ctx) })
	}
	g.Go(func() error { return p.agent(ctx, base) })
	g.Go(func() error { return pruneSpools(ctx, filepath.Join(p.cmd.DataDir, "agent"), p.log) })
	p.greet(base, simListener.Addr())
	return g.Wait()
}

// guarded lets through what comes from this machine, as agents and who watches do, and who has a credential. The Data API
// itself has no door, and must not be read by a web page whose name resolves to this machine.
func guarded(authenticator identity.Authenticator, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := (identity.Local{}).Authenticate(r); err != nil {
			if _, err := authenticator.Authenticate(r); err != nil {
				w.Header().Set("WWW-Authenticate", "Bearer")
				http.Error(w, `{"error":"credentials are needed"}`, http.StatusUnauthorized)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// dataPath is where the Data API is, beside the API.
const dataPath = "/data-api/"

// agent runs this machine's agent, with a credential of its own as on any host.
func (p *devParts) agent(ctx context.Context, base string) error {
	token, hash := identity.NewAgentToken()
	if err := p.store.SetAgentToken(ctx, p.host, hash); err != nil {
		return err
	}
	if err := p.awaitHost(ctx); err != nil {
		return err
	}
	sess, err := session.New(session.Options{Servers: []string{base}, Host: p.host, Token: func() string { return token },
		Logger: p.log, UserAgent: "iapi-agent/" + version()})
	if err != nil {
		return err
	}
	a, err := newAgent(ctx, agentParts{host: p.host, dir: filepath.Join(p.cmd.DataDir, "agent"), zones: p.zones, log: p.log, policy: p.cmd.hostPolicyFlags}, sess)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// awaitHost waits until the first sweep has brought the host into the store, for agents of unknown hosts are turned away.
func (p *devParts) awaitHost(ctx context.Context) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		facts, err := p.store.Facts(ctx, p.host)
		if err != nil {
			return fmt.Errorf("wait for this host to be known: %w", err)
		}
		if facts.Known {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

func (p *devParts) greet(base string, inventory net.Addr) {
	program := os.Args[0]
	server := "" // the flags without which the client would look elsewhere
	if base != "http://127.0.0.1:8080" {
		server = " --server " + base
	}
	if p.cmd.DataDir != defaultDataDir() {
		server += " --data-dir " + p.cmd.DataDir
	}
	fmt.Fprintf(p.out, `IAPI is running: API, worker, agent, inventory, Data API and store, all in this process.

  API and explorer  %s
  Data API          %s
  Inventory         http://%s  (VMAPI and CNAPI, simulated: %s)
  Data directory    %s

Try, from another terminal:

  %s metrics%s
  %s create cpu.usage --by cpumode --every-host%s
  %s watch ID%s

Ctrl-C stops it.
`, base, base+strings.TrimSuffix(dataPath, "/"), inventory, p.about, p.cmd.DataDir, program, server, program, server, program, server)
}

// reachable is an address of this machine that a listener can be reached at.
func reachable(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return a.String()
	}
	return net.JoinHostPort("127.0.0.1", fmt.Sprint(tcp.Port))
}

// policyAt sends the data of whoever names no target to the Data API of this process, unless --default-target says otherwise.
func (p *devParts) policyAt(base string) instrumentation.Policy {
	policy := p.policy
	if len(policy.DefaultTargets) == 0 {
		policy.DefaultTargets = []measure.Target{{Kind: measure.DataAPI, Address: base + strings.TrimSuffix(dataPath, "/"), Transport: measure.HTTP}}
	}
	return policy
}
