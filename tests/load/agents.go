package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"iapi/tests/load/cloud"
	"iapi/tests/load/light"
	"iapi/tests/load/sim"
)

// The phases, in their order.
var phases = []string{"connect", "idle", "one", "vm", "all", "kill", "rolling"}

type agentsCmd struct {
	Count    int           `default:"1000" help:"Agents, and hosts. Each needs a descriptor in this process and one in the API."`
	Store    string        `help:"Use this store instead of a redis-server of its own. It must be on this machine, and empty; what is written there is removed in the end." placeholder:"URL"`
	JSON     bool          `name:"json" help:"Print what was measured as JSON."`
	Seed     uint64        `default:"1" help:"Decides which hosts change and which agents fail; the same seed gives the same run."`
	Phases   []string      `default:"connect,idle,one,vm,all,kill,rolling" help:"What to measure, of: connect, idle, one, vm, all, kill, rolling; none for the comparison alone."`
	Changes  int           `default:"200" help:"Changes of one host, and of one VM, to measure."`
	Rounds   int           `default:"3" help:"Changes of all hosts to measure; with --peer also how often each side is measured."`
	Idle     time.Duration `default:"10s" help:"How long to watch idle agents."`
	VMs      int           `name:"vms" default:"2" help:"VMs on each host."`
	Base     int           `default:"4" help:"Instrumentations of every host that are there from the start, so that documents have some size."`
	InFlight int           `default:"500" help:"Agents that connect for the first time at the same time; 0: all of them."`
	Admit    float64       `default:"0" help:"The API's --admit: how many websockets may connect in one second. 0: all."`
	Light    bool          `help:"Agents that do no more than the protocol needs and do not come back: the processors are the servers'. Not for kill and rolling, --tls and failures."`
	TLS      bool          `name:"tls" help:"Measure connect, idle and all once more over TLS, with an authority of its own, and print both."`
	Peer     string        `enum:",gqlgen" default:"" help:"Compare the push with that of a stock server: gqlgen. Both serve the same documents from memory to the same agents." placeholder:"gqlgen"`
	Profile  string        `type:"existingdir" help:"Write CPU and heap profiles of the servers here." placeholder:"DIR"`

	Refuse  float64       `default:"0" group:"Failures:" help:"The chance that an agent cannot measure an instrumentation."`
	Slow    float64       `default:"0" group:"Failures:" help:"The chance that an agent takes --slow-for to apply an assignment."`
	SlowFor time.Duration `default:"1s" group:"Failures:" help:"How slow a slow agent is."`
	Drop    float64       `default:"0" group:"Failures:" help:"The chance, in each second, that an agent's connection breaks."`
}

// Help is what "load agents --help" adds.
func (agentsCmd) Help() string {
	return `Starts a store, an inventory, a worker and an API, each a process of its own, and in this process the agents: the real
session of an agent, with made-up collectors. Then it measures, in this order:

  connect   until the last agent has its assignment
  idle      memory, goroutines and CPU for each agent that says nothing
  one       an instrumentation of one host is created, updated, deleted → the agent's report of it was taken
  vm        a VM's tag changes in the inventory, the hint arrives → the same
  all       an instrumentation of every host is created → the same for all hosts
  kill      the API is killed and started again → every agent has reported a change made meanwhile
  rolling   two APIs are restarted one after the other

With --tls, connect, idle and all follow once more on an API that speaks TLS, with handshakes in full: no agent resumes a
session. Each phase ends by itself, at the latest after ten minutes.

Memory is what the API has more than before the agents came, after a garbage collection. Agents and servers share the
processors, so compare only what comes from one run; "others" is the share that neither of them used. With --light they leave
nearly all of it to the servers, as agents do that have machines of their own.

Examples:

  go run ./tests/load agents --count 10000 --json
  go run ./tests/load agents --count 10000 --peer gqlgen --phases none
  go run ./tests/load agents --count 10000 --light --phases connect,idle,one,vm,all
  go run ./tests/load agents --count 2000 --drop 0.01 --refuse 0.05 --phases connect,all`
}

// validate refuses what cannot be measured; the error names the flag.
func (c *agentsCmd) validate() error {
	switch {
	case c.Count < 1:
		return errors.New("--count: at least 1")
	case c.Rounds < 1 || c.Changes < 1:
		return errors.New("--rounds and --changes: at least 1")
	case c.VMs < 1:
		return errors.New("--vms: at least 1")
	case c.Base < 0:
		return errors.New("--base: not below 0")
	}
	for _, chance := range []struct {
		flag string
		is   float64
	}{{"refuse", c.Refuse}, {"slow", c.Slow}, {"drop", c.Drop}} {
		if chance.is < 0 || chance.is > 1 {
			return fmt.Errorf("--%s: a chance is between 0 and 1", chance.flag)
		}
	}
	if len(c.Phases) == 1 && c.Phases[0] == "none" {
		c.Phases = nil
	}
	for _, p := range c.Phases {
		if !slices.Contains(phases, p) {
			return fmt.Errorf("--phases: there is no %q; there are %s", p, strings.Join(phases, ", "))
		}
	}
	if c.Light && (slices.Contains(c.Phases, "kill") || slices.Contains(c.Phases, "rolling") || c.TLS || c.Refuse+c.Slow+c.Drop > 0) {
		return errors.New("--light: not for the phases kill and rolling, --tls and failures; add --phases connect,idle,one,vm,all")
	}
	if len(c.Phases) == 0 && c.Peer == "" {
		return errors.New("--phases none: nothing is left to do without --peer")
	}
	if c.Store != "" {
		u, err := url.Parse(c.Store)
		if err != nil || u.Scheme != "redis" {
			return errors.New("--store: want redis://127.0.0.1:PORT/DB")
		}
		if ip := net.ParseIP(u.Hostname()); ip == nil || !ip.IsLoopback() {
			return errors.New("--store: it must be on this machine, at a loopback address")
		}
	}
	return c.descriptors()
}

// descriptors makes sure that there can be as many connections: each is a descriptor here, and one in the API.
func (c *agentsCmd) descriptors() error {
	const others = 500
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of descriptors: %w", err)
	}
	if need := uint64(c.Count + others); uint64(limit.Max) < need {
		return fmt.Errorf("--count %d needs %d descriptors in one process, and the limit here is %d: at most %d agents",
			c.Count, need, limit.Max, max(int64(limit.Max)-others, 0))
	}
	return nil
}

// load is a running measurement.
type load struct {
	agentsCmd
	errs   io.Writer
	dir    string
	cloud  *cloud.Cloud
	tokens []string
	fleet  fleet
	ledger ledger
	result Result
	tagged string // the instrumentation of VMs with the tag load=on
}

func (c agentsCmd) Run(ctx context.Context, s streams) (err error) {
	if err := c.validate(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "iapi-load-*")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer os.RemoveAll(dir)
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // the agents' memory is not measured, and what they use the servers lack
	l := &load{agentsCmd: c, errs: s.errs, dir: dir}
	l.result = newResult(c)
	if len(c.Phases) > 0 {
		err = l.service(ctx)
	}
	if err == nil && c.Peer != "" {
		err = l.compare(ctx)
	}
	// What was measured before something failed is shown too.
	if c.JSON {
		e := json.NewEncoder(s.out)
		e.SetIndent("", "  ")
		return errors.Join(err, e.Encode(l.result))
	}
	return errors.Join(err, l.result.print(s.out))
}

func (l *load) say(format string, args ...any) {
	fmt.Fprintf(l.errs, "%s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}

func (l *load) wants(phase string) bool { return slices.Contains(l.Phases, phase) }

// service measures the whole service.
func (l *load) service(ctx context.Context) (err error) {
	l.say("building the program")
	program, err := cloud.Build(ctx, l.dir, false)
	if err != nil {
		return err
	}
	setup, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	flags := []string{"--admit", fmt.Sprint(l.Admit)}
	l.cloud, err = cloud.New(setup, cloud.Options{
		Binary: program, Dir: l.dir, StoreURL: l.Store, Hosts: l.Count, VMs: l.VMs, APIFlags: flags,
		WorkerFlags: []string{"--sweep-every", "1h"}, Progress: l.say,
	})
	defer func() {
		l.stopFleet()
		l.say("stopping the servers")
		err = errors.Join(err, l.cloud.Close())
	}()
	if err != nil {
		return err
	}
	if _, err := l.cloud.AddAPI(setup); err != nil {
		return err
	}
	if err := l.base(setup); err != nil {
		return err
	}
	return l.measure(ctx)
}

// base creates what is there from the start.
func (l *load) base(ctx context.Context) error {
	l.say("creating %d instrumentations of every host, and credentials", l.Base)
	api := l.cloud.APIs[0]
	for range l.Base {
		if _, err := api.Create(ctx, cloud.Operators, cloud.EveryHost()); err != nil {
			return err
		}
	}
	tagged, err := api.Create(ctx, l.cloud.Owner, cloud.Tagged("load", "on"))
	if err != nil {
		return err
	}
	l.tagged = tagged.ID
	if l.tokens, err = l.cloud.Credentials(ctx); err != nil {
		return err
	}
	if err := l.cloud.Assigned(ctx, l.Base); err != nil {
		return err
	}
	l.say("waiting until the first sweep is over")
	return l.cloud.Settled(ctx)
}

func (l *load) measure(ctx context.Context) error {
	steps := []struct {
		phase string
		run   func(context.Context) error
	}{{"one", l.one}, {"vm", l.vm}, {"all", l.all}, {"kill", l.kill}, {"rolling", l.rolling}}
	if err := within(ctx, l.connect); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	for _, s := range steps {
		if !l.wants(s.phase) {
			continue
		}
		m := l.meter()
		if err := within(ctx, s.run); err != nil {
			return fmt.Errorf("%s: %w", s.phase, err)
		}
		if s.phase != "kill" && s.phase != "rolling" { // what a process that has ended has used is not known any more
			l.result.Others[s.phase] = m.others()
		}
		l.result.Refused = l.ledger.refusals()
	}
	if l.TLS {
		if err := within(ctx, l.overTLS); err != nil {
			return fmt.Errorf("over TLS: %w", err)
		}
	}
	return nil
}

// within gives a phase its time.
func within(ctx context.Context, run func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	return run(ctx)
}

// fleet is all agents.
type fleet interface {
	Ready() <-chan struct{} // closed when each has had its first assignment
	Waiting() int           // how many have had none yet
	Dials() int64           // how often they have connected, or tried to
	Err() error             // why one of them is not there any more
	Stop()
}

// startFleet starts agents that outlive the phase; stopFleet ends them.
func (l *load) startFleet(ctx context.Context) (err error) {
	ctx = context.WithoutCancel(ctx)
	if l.Light {
		l.fleet, err = light.Start(ctx, light.Options{Hosts: l.cloud.Hosts, Tokens: l.tokens, Server: l.cloud.Servers()[0], InFlight: l.InFlight,
			Observer: l.ledger.lightObserver()})
		return err
	}
	l.fleet, err = sim.StartFleet(ctx, sim.FleetOptions{
		Hosts: l.cloud.Hosts, Tokens: l.tokens, Servers: l.cloud.Servers(), TLS: l.cloud.TLS(), Seed: l.Seed, InFlight: l.InFlight,
		Faults:   sim.Faults{Refuse: l.Refuse, Slow: l.Slow, SlowFor: l.SlowFor, Drop: l.Drop},
		Observer: l.ledger.observer(),
	})
	return err
}

func (l *load) stopFleet() {
	if l.fleet != nil {
		l.fleet.Stop()
		l.fleet = nil
	}
}

// ready waits until every agent has an assignment, and says how far it is.
func ready(ctx context.Context, f fleet, say func(string, ...any)) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	ticker := time.NewTicker(2 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-f.Ready():
			return nil
		case <-ticker.C:
			if err := f.Err(); err != nil {
				return err
			}
			say("%d agents still wait for their first assignment", f.Waiting())
		case <-ctx.Done():
			return fmt.Errorf("%d agents have no assignment: %w", f.Waiting(), ctx.Err())
		}
	}
}
