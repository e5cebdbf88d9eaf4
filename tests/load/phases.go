package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"iapi/tests/load/cloud"
	"iapi/tests/load/debugport"
)

// patience is how long an acknowledgement may take before a measurement fails.
const patience = time.Minute

// meter watches all processes of the service.
func (l *load) meter() *meter {
	pids := []int{l.cloud.VMAPI.PID()}
	if l.cloud.Redis != nil {
		pids = append(pids, l.cloud.Redis.PID())
	}
	for _, w := range l.cloud.Workers {
		pids = append(pids, w.PID())
	}
	for _, a := range l.cloud.APIs {
		pids = append(pids, a.PID())
	}
	return newMeter(pids...)
}

// connect starts the agents, and measures how they come and what they cost when they are there.
func (l *load) connect(ctx context.Context) error {
	api := l.cloud.APIs[0].Process
	before, err := api.Usage(ctx, "free&reset")
	if err != nil {
		return err
	}
	used, err := l.used(ctx)
	if err != nil {
		return err
	}
	l.say("connecting %d agents", l.Count)
	profiled := l.profileCPU(ctx, "connect")
	m, start := l.meter(), time.Now()
	if err := l.startFleet(ctx); err != nil {
		return err
	}
	if err := ready(ctx, l.fleet, l.say); err != nil {
		return err
	}
	took := time.Since(start)
	if err := profiled(); err != nil {
		return err
	}
	there, err := api.Usage(ctx, "")
	if err != nil {
		return err
	}
	usedThen, err := l.used(ctx)
	if err != nil {
		return err
	}
	l.result.Others["connect"] = m.others()
	// What follows is measured on agents that are quiet: each has reported once.
	if err := l.quiet(ctx); err != nil {
		return err
	}
	steady, err := api.Usage(ctx, "")
	if err != nil {
		return err
	}
	if l.wants("connect") {
		c := connectOf(l.Count, took, before, there, steady)
		for i, into := range []*float64{&c.CPUWorker, &c.CPUStore, &c.CPUAgents} {
			*into = ms(usedThen[i+1]-used[i+1]) / float64(l.Count)
		}
		l.result.Connect = &c
	}
	if !l.wants("idle") {
		return nil
	}
	l.say("watching idle agents for %v", l.Idle)
	m = l.meter()
	idle, err := watchIdle(ctx, api.Usage, l.Count, l.Idle, before)
	if err != nil {
		return err
	}
	l.result.Others["idle"] = m.others()
	l.result.Idle = &idle
	return l.profile(ctx, api, "heap", "api-idle.heap")
}

func (l *load) profile(ctx context.Context, p *cloud.Process, kind, file string) error {
	if l.Profile == "" {
		return nil
	}
	return p.Profile(ctx, kind, filepath.Join(l.Profile, file))
}

// quiet waits until no agent has anything to report.
func (l *load) quiet(ctx context.Context) error {
	l.ledger.begin()
	_, err := l.ledger.await(ctx, 2*time.Second, l.Count+1, time.Now(), func(event) bool { return true })
	if ctx.Err() != nil {
		return err
	}
	return nil // that nothing more came is what was waited for
}

func connectOf(n int, took time.Duration, before, there, steady debugport.Usage) Connect {
	return Connect{
		Last: ms(took), PerSecond: float64(n) / took.Seconds(), CPUPerAgent: ms(there.CPU-before.CPU) / float64(n),
		PeakOverSteady:  float64(there.PeakRSS) / float64(max(steady.RSS, 1)),
		ResidentAtFirst: float64(there.RSS-before.RSS) / float64(n),
	}
}

func watchIdle(ctx context.Context, usage func(context.Context, string) (debugport.Usage, error), n int, long time.Duration, before debugport.Usage) (Idle, error) {
	freed, err := usage(ctx, "free")
	if err != nil {
		return Idle{}, err
	}
	first, err := usage(ctx, "")
	if err != nil {
		return Idle{}, err
	}
	select {
	case <-ctx.Done():
		return Idle{}, ctx.Err()
	case <-time.After(long):
	}
	last, err := usage(ctx, "")
	if err != nil {
		return Idle{}, err
	}
	each := func(of func(debugport.Usage) int64) float64 { return float64(of(freed)-of(before)) / float64(n) }
	return Idle{
		Resident:     each(func(u debugport.Usage) int64 { return u.RSS }),
		Heap:         each(func(u debugport.Usage) int64 { return u.Heap }),
		Stack:        each(func(u debugport.Usage) int64 { return u.Stack }),
		Goroutines:   each(func(u debugport.Usage) int64 { return int64(u.Goroutines) }),
		CPUPerSecond: ms(last.CPU-first.CPU) / long.Seconds(),
	}, nil
}

// one measures changes of one host, one after the other.
func (l *load) one(ctx context.Context) error {
	l.say("changing one host, %d times", l.Changes)
	dice := rand.New(rand.NewPCG(l.Seed, 1))
	api := l.cloud.APIs[0]
	var create, update, remove []time.Duration
	step := func(into *[]time.Duration, change func() (string, error), match func(event) bool) (string, error) {
		l.ledger.begin()
		start := time.Now()
		id, err := change()
		if err != nil {
			return "", err
		}
		took, err := l.ledger.await(ctx, patience, 1, start, func(e event) bool { return e.ID == id && match(e) })
		*into = append(*into, took...)
		return id, err
	}
	for range l.Changes {
		host := l.cloud.Hosts[dice.IntN(l.Count)]
		id, err := step(&create, func() (string, error) {
			in, err := api.Create(ctx, cloud.Operators, cloud.OnHosts(host))
			return in.ID, err
		}, func(e event) bool { return !e.Gone })
		if err != nil {
			return err
		}
		if _, err := step(&update, func() (string, error) {
			_, err := api.Update(ctx, id, 2)
			return id, err
		}, func(e event) bool { return e.Revision == 2 && !e.Gone }); err != nil {
			return err
		}
		if _, err := step(&remove, func() (string, error) { return id, api.Delete(ctx, id) }, func(e event) bool { return e.Gone }); err != nil {
			return err
		}
	}
	for _, list := range [][]time.Duration{create, update, remove} {
		slices.Sort(list)
	}
	l.result.One = &One{Create: summarize(create), Update: summarize(update), Delete: summarize(remove)}
	return nil
}

// vm measures changes of a VM's tags: the inventory has them, then the hint arrives.
func (l *load) vm(ctx context.Context) error {
	l.say("retagging one VM, %d times", l.Changes)
	dice := rand.New(rand.NewPCG(l.Seed, 2))
	tags := make(map[int]string)
	var all []time.Duration
	for range l.Changes {
		host := dice.IntN(l.Count)
		vm := l.cloud.VM(host, 0)
		if tags[host] == "on" {
			tags[host] = "off"
		} else {
			tags[host] = "on"
		}
		if err := l.cloud.Retag(ctx, vm, map[string]string{"load": tags[host]}); err != nil {
			return err
		}
		l.ledger.begin()
		start := time.Now()
		if err := l.cloud.APIs[0].Notify(ctx, vm); err != nil {
			return err
		}
		took, err := l.ledger.await(ctx, patience, 1, start, func(e event) bool {
			return e.host == l.cloud.Hosts[host] && e.ID == l.tagged && e.Gone == (tags[host] == "off")
		})
		if err != nil {
			return err
		}
		all = append(all, took...)
	}
	slices.Sort(all)
	sum := summarize(all)
	l.result.VM = &sum
	return nil
}

// all measures changes of all hosts.
func (l *load) all(ctx context.Context) error {
	var create, remove []Latency
	var cpu [4][]float64
	for round := range l.Rounds {
		l.say("changing all hosts, round %d of %d", round+1, l.Rounds)
		profiled := func() error { return nil }
		if round == 0 {
			profiled = l.profileCPU(ctx, "all")
		}
		before, err := l.used(ctx)
		if err != nil {
			return err
		}
		id, took, err := l.everywhere(ctx, l.cloud.APIs[0])
		if err != nil {
			return err
		}
		after, err := l.used(ctx)
		if err != nil {
			return err
		}
		if err := profiled(); err != nil {
			return err
		}
		create = append(create, summarize(took))
		for i := range cpu {
			cpu[i] = append(cpu[i], (after[i]-before[i]).Seconds()/float64(l.Count)*1000)
		}
		if took, err = l.nowhere(ctx, l.cloud.APIs[0], id); err != nil {
			return err
		}
		remove = append(remove, summarize(took))
	}
	l.result.All = &All{Rounds: l.Rounds, Create: medians(create), Delete: medians(remove),
		CPUAPI: median(cpu[0]), CPUWorker: median(cpu[1]), CPUStore: median(cpu[2]), CPUAgents: median(cpu[3])}
	return nil
}

// profileCPU profiles API, worker and agents for a few seconds, into files that are named after the phase.
func (l *load) profileCPU(ctx context.Context, phase string) (wait func() error) {
	if l.Profile == "" {
		return func() error { return nil }
	}
	const long = 3
	var all errgroup.Group
	for name, p := range map[string]*cloud.Process{"api": l.cloud.APIs[0].Process, "worker": l.cloud.Workers[0]} {
		all.Go(func() error { return l.profile(ctx, p, fmt.Sprintf("profile?seconds=%d", long), name+"-"+phase+".cpu") })
	}
	all.Go(func() error {
		f, err := os.Create(filepath.Join(l.Profile, "agents-"+phase+".cpu"))
		if err != nil {
			return fmt.Errorf("profile the agents: %w", err)
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return fmt.Errorf("profile the agents: %w", err)
		}
		defer pprof.StopCPUProfile()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(long * time.Second):
			return nil
		}
	})
	return all.Wait
}

// used is the processor time that the first API, the worker, the store and the agents have used.
func (l *load) used(ctx context.Context) (out [4]time.Duration, err error) {
	for i, p := range []*cloud.Process{l.cloud.APIs[0].Process, l.cloud.Workers[0]} {
		u, err := p.Usage(ctx, "")
		if err != nil {
			return out, err
		}
		out[i] = u.CPU
	}
	out[3] = cpuOf(os.Getpid())
	out[2], err = storeCPU(ctx, l.cloud.Store.Client())
	return out, err
}

// everywhere creates an instrumentation of all hosts, and waits for all reports.
func (l *load) everywhere(ctx context.Context, api *cloud.API) (id string, took []time.Duration, err error) {
	l.ledger.begin()
	start := time.Now()
	in, err := api.Create(ctx, cloud.Operators, cloud.EveryHost())
	if err != nil {
		return "", nil, err
	}
	took, err = l.ledger.await(ctx, patience, l.Count, start, func(e event) bool { return e.ID == in.ID && !e.Gone })
	return in.ID, took, err
}

// nowhere deletes it, and waits for all reports.
func (l *load) nowhere(ctx context.Context, api *cloud.API, id string) ([]time.Duration, error) {
	l.ledger.begin()
	start := time.Now()
	if err := api.Delete(ctx, id); err != nil {
		return nil, err
	}
	return l.ledger.await(ctx, patience, l.Count, start, func(e event) bool { return e.ID == id && e.Gone })
}

// kill kills the API and starts it again where it was.
func (l *load) kill(ctx context.Context) error {
	l.say("killing the API")
	start := time.Now()
	l.cloud.APIs[0].Kill()
	if err := l.cloud.Restart(ctx, 0); err != nil {
		return err
	}
	back := make(chan error, 1)
	var connected time.Duration
	go func() {
		err := l.connected(ctx, l.Count)
		connected = time.Since(start)
		back <- err
	}()
	change := time.Now()
	id, took, err := l.everywhere(ctx, l.cloud.APIs[0])
	if berr := <-back; err == nil {
		err = berr
	}
	if err != nil {
		return err
	}
	l.result.Kill = &Kill{Back: ms(connected), Last: ms(change.Sub(start) + took[len(took)-1])}
	_, err = l.nowhere(ctx, l.cloud.APIs[0], id)
	return err
}

// connected waits until so many agents are connected.
func (l *load) connected(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		sum, err := l.count(ctx)
		if err != nil {
			return err
		}
		if sum >= n {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d agents are connected: %w", sum, n, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (l *load) count(ctx context.Context) (sum int, err error) {
	for _, a := range l.cloud.APIs {
		n, err := a.Connected(ctx)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// rolling restarts two APIs, one after the other, each when everybody is connected.
func (l *load) rolling(ctx context.Context) error {
	l.say("adding an API, and connecting the agents to both")
	l.stopFleet()
	if _, err := l.cloud.AddAPI(ctx); err != nil {
		return err
	}
	if err := l.startFleet(ctx); err != nil {
		return err
	}
	if err := ready(ctx, l.fleet, l.say); err != nil {
		return err
	}
	if err := l.connected(ctx, l.Count); err != nil {
		return err
	}
	refused := l.ledger.refusals()
	watching, stop := context.WithCancel(ctx)
	var watch dialWatch
	var running sync.WaitGroup
	running.Go(func() { watch.run(watching, l.fleet.Dials) })
	start := time.Now()
	back, err := l.restartEach(ctx)
	took := time.Since(start)
	stop()
	running.Wait()
	if err != nil {
		return err
	}
	id, all, err := l.everywhere(ctx, l.cloud.APIs[0])
	if err != nil {
		return err
	}
	l.result.Rolling = &Rolling{Took: ms(took), Back: ms(slices.Max(back)), DialsPerSecond: watch.worst,
		Refused: l.ledger.refusals() - refused, Last: ms(all[len(all)-1])}
	_, err = l.nowhere(ctx, l.cloud.APIs[1], id)
	return err
}

// restartEach returns how long it took each time until everybody was connected again.
func (l *load) restartEach(ctx context.Context) (back []time.Duration, err error) {
	for i := range l.cloud.APIs {
		l.say("restarting API %d", i+1)
		start := time.Now()
		if err := l.cloud.APIs[i].Stop(time.Minute); err != nil {
			return nil, err
		}
		if err := l.cloud.Restart(ctx, i); err != nil {
			return nil, err
		}
		if err := l.connected(ctx, l.Count); err != nil {
			return nil, err
		}
		back = append(back, time.Since(start))
	}
	return back, nil
}

// dialWatch finds the second with the most dials.
type dialWatch struct{ worst float64 }

func (w *dialWatch) run(ctx context.Context, dials func() int64) {
	const step, steps = 100 * time.Millisecond, 10
	var last []int64
	ticker := time.NewTicker(step)
	defer ticker.Stop()
	for {
		last = append(last, dials())
		if len(last) > steps {
			w.worst = max(w.worst, float64(last[len(last)-1]-last[len(last)-1-steps]))
			last = last[1:]
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
