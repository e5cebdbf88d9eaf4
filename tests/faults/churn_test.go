package faults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/agent/session"
	"iapi/assignment"
	"iapi/tests/load/cloud"
	"iapi/tests/load/sim"
	"iapi/tests/yardstick"
)

// wish is what the model knows of an instrumentation.
type wish struct {
	everywhere bool
	hosts      []int // their numbers
	tagged     bool  // VMs with load=on
}

// churn changes a service and breaks it, and knows what must come of it.
type churn struct {
	*service
	h       *history
	proxies []*proxy

	mu      sync.Mutex
	agents  []*sim.Agent // by host
	stops   []func()
	live    map[string]wish
	dying   map[string]bool // deleted, and perhaps not gone yet
	unsure  int             // creates that were not answered
	deleted int
	tags    map[uuid.UUID]string
	faults  map[string]int
}

// TestChurnUnderFaults changes instrumentations and VMs while parts are killed, the store is paused, connections break and
// frames are harmed. Then everything must be as a simple model says, and the history must be lawful.
func TestChurnUnderFaults(t *testing.T) {
	t.Parallel()
	long, hosts, soon := time.Minute, 40, 40*time.Second
	if proving() {
		long, hosts, soon = 10*time.Minute, 200, 2*time.Minute
	}
	const seed = 20_26
	c := &churn{
		service: start(t, hosts, 2, cloud.Options{Workers: 2, WorkerFlags: []string{"--sweep-every", "5s"}}), h: newHistory(),
		live: map[string]wish{}, dying: map[string]bool{}, tags: map[uuid.UUID]string{}, faults: map[string]int{},
	}
	for _, a := range c.APIs {
		p := startProxy(t, a.URL, seed, c.h.document)
		c.proxies = append(c.proxies, p)
	}
	c.agents, c.stops = make([]*sim.Agent, hosts), make([]func(), hosts)
	for i := range hosts {
		c.startAgent(i, session.Assignment{})
	}
	t.Cleanup(func() {
		for _, stop := range c.stops {
			stop()
		}
	})
	c.durable()
	c.settle(soon)
	before := c.measure()
	c.h.note(entry{kind: sized, size: before})

	ctx, cancel := context.WithTimeout(c.ctx, long)
	var running sync.WaitGroup
	running.Go(func() { c.mutate(ctx, rand.New(rand.NewPCG(seed, 1))) })
	running.Go(func() { c.count(ctx) })
	c.damage(ctx, rand.New(rand.NewPCG(seed, 2)))
	running.Wait()
	cancel()
	t.Logf("faults: %v; %d live, %d deleted, %d creates unanswered", c.faults, len(c.live), c.deleted, c.unsure)
	require.Greater(t, len(c.live)+c.deleted, 10, "there was churn")

	c.settle(soon)
	c.lawful(c.h)

	for id := range maps.Clone(c.live) {
		c.h.note(entry{kind: deleted, id: id})
		require.NoError(t, c.APIs[0].Delete(c.ctx, id))
		delete(c.live, id)
		c.dying[id] = true
	}
	c.settle(soon)
	// What is about to end, such as connections of agents that have polled, is not left behind.
	after := c.measure()
	for begun := time.Now(); len(before.grown(after)) > 0 && time.Since(begun) < patience; after = c.measure() {
		time.Sleep(time.Second)
	}
	c.t.Logf("%+v, %+v", before, after)
	c.h.note(entry{kind: sized, size: after})
	c.lawful(c.h)
}

// startAgent starts the agent of a host, with what it ran before.
func (c *churn) startAgent(i int, known session.Assignment) {
	a, err := sim.New(sim.Options{Host: c.Hosts[i], Token: c.tokens[i], Servers: []string{c.proxies[0].URL, c.proxies[1].URL},
		Seed: 1, Known: known, Observer: c.h.observer(), Pace: pace})
	require.NoError(c.t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.ctx))
	var running sync.WaitGroup
	running.Go(func() { _ = a.Run(ctx) })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.agents[i], c.stops[i] = a, func() { cancel(); running.Wait() }
}

// mutate makes changes until ctx ends. A mutation that is not answered is not counted on, either way.
func (c *churn) mutate(ctx context.Context, dice *rand.Rand) {
	for ctx.Err() == nil {
		api := c.api(dice.IntN(2))
		within, cancel := context.WithTimeout(c.ctx, 5*time.Second)
		switch n := dice.IntN(10); {
		case n < 4:
			c.create(within, api, dice)
		case n < 6 && len(c.live) > 3:
			c.remove(within, api, dice)
		case n < 8 && len(c.live) > 0:
			id := c.any(dice)
			_, _ = api.Update(within, id, 1+dice.IntN(60)) // a new revision, or none
		default:
			c.retag(within, api, dice)
		}
		cancel()
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(dice.IntN(100)) * time.Millisecond):
		}
	}
}

func (c *churn) api(i int) *cloud.API {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.APIs[i]
}

func (c *churn) any(dice *rand.Rand) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := slices.Sorted(maps.Keys(c.live))
	return ids[dice.IntN(len(ids))]
}

func (c *churn) create(ctx context.Context, api *cloud.API, dice *rand.Rand) {
	var w wish
	var owner uuid.UUID
	scope := cloud.EveryHost()
	switch dice.IntN(3) {
	case 0:
		w.everywhere = true
	case 1:
		w.hosts = dice.Perm(len(c.Hosts))[:1+dice.IntN(5)]
		var hosts []uuid.UUID
		for _, i := range w.hosts {
			hosts = append(hosts, c.Hosts[i])
		}
		scope = cloud.OnHosts(hosts...)
	default:
		w.tagged, owner, scope = true, c.Owner, cloud.Tagged("load", "on")
	}
	in, err := api.Create(ctx, owner, scope)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.unsure++
		return
	}
	c.live[in.ID] = w
	c.h.note(entry{kind: created, id: in.ID, moves: w.tagged})
}

func (c *churn) remove(ctx context.Context, api *cloud.API, dice *rand.Rand) {
	id := c.any(dice)
	c.h.note(entry{kind: deleted, id: id})
	err := api.Delete(ctx, id)
	for err != nil && c.ctx.Err() == nil { // it may have been done; once more makes it certain
		within, cancel := context.WithTimeout(c.ctx, 5*time.Second)
		var in *cloud.Instrumentation
		if in, err = c.api(1-dice.IntN(2)).Get(within, id); err == nil && in != nil && in.State != "DELETING" {
			err = c.api(dice.IntN(2)).Delete(within, id)
		}
		cancel()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.live, id)
	c.dying[id] = true
	c.deleted++
}

func (c *churn) retag(ctx context.Context, api *cloud.API, dice *rand.Rand) {
	vm := c.VM(dice.IntN(len(c.Hosts)), dice.IntN(2))
	tag := []string{"on", "off"}[dice.IntN(2)]
	if c.Retag(ctx, vm, map[string]string{"load": tag}) == nil {
		c.mu.Lock()
		c.tags[vm] = tag
		c.mu.Unlock()
	}
	_ = api.Notify(ctx, vm) // a hint that is lost is made up for by the sweep
}

// count reads the coverage of everything, again and again, and notes what is gone.
func (c *churn) count(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		c.countOnce(c.api(i % 2))
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (c *churn) countOnce(api *cloud.API) {
	c.mu.Lock()
	live, dying := slices.Collect(maps.Keys(c.live)), slices.Collect(maps.Keys(c.dying))
	c.mu.Unlock()
	within, cancel := context.WithTimeout(c.ctx, 5*time.Second)
	defer cancel()
	for _, id := range live {
		switch in, err := api.Get(within, id); {
		case err != nil:
		case in == nil:
			c.h.note(entry{kind: gone, id: id})
		default:
			c.h.note(entry{kind: counted, id: id, coverage: in.Coverage})
		}
	}
	for _, id := range dying {
		if in, err := api.Get(within, id); err == nil && in == nil {
			c.mu.Lock()
			delete(c.dying, id)
			c.mu.Unlock()
			c.h.note(entry{kind: gone, id: id})
		}
	}
}

// damage breaks one thing after the other until ctx ends, and leaves everything whole.
func (c *churn) damage(ctx context.Context, dice *rand.Rand) {
	plans := []faultPlan{
		{},
		{Replay: 0.3},
		{Reorder: 0.3},
		{CutAfter: 3000},
		{Delay: 0.5, DelayMost: 300 * time.Millisecond},
		{Halve: 0.3, Cut: 0.02},
		{Replay: 0.1, Reorder: 0.1, Delay: 0.1, DelayMost: 100 * time.Millisecond, Halve: 0.1, Cut: 0.01},
	}
	faults := []struct {
		name string
		do   func()
	}{
		{"frames", func() { c.proxies[dice.IntN(2)].plan.Store(&plans[dice.IntN(len(plans))]) }},
		{"api killed", func() { c.killAPI(dice.IntN(2)) }},
		{"worker killed", func() { c.killWorker(dice.IntN(2)) }},
		{"store paused", func() { c.pauseStore(ctx, time.Duration(200+dice.IntN(1500))*time.Millisecond) }},
		{"store killed", c.killStore},
		{"connections broken", func() { c.proxies[dice.IntN(2)].dropAll() }},
		{"websockets blocked", func() {
			p := c.proxies[dice.IntN(2)]
			p.plan.Store(&faultPlan{Blocked: true})
			p.dropAll()
		}},
		{"agents restarted", func() { c.restartAgents(dice) }},
	}
	for i := 0; ctx.Err() == nil; i++ {
		f := faults[i%len(faults)] // all of them, also in a short run
		c.faults[f.name]++
		f.do()
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(300+dice.IntN(1500)) * time.Millisecond):
		}
	}
	for _, p := range c.proxies {
		p.plan.Store(&faultPlan{})
	}
}

func (c *churn) killAPI(i int) {
	c.api(i).Kill()
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	require.NoError(c.t, c.Restart(ctx, i))
}

func (c *churn) killWorker(i int) {
	c.Workers[i].Kill()
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	w, err := c.StartWorker(ctx)
	require.NoError(c.t, err)
	c.Workers[i] = w
}

func (c *churn) pauseStore(ctx context.Context, long time.Duration) {
	require.NoError(c.t, c.Redis.Pause())
	select {
	case <-ctx.Done():
	case <-time.After(long):
	}
	require.NoError(c.t, c.Redis.Resume())
}

// durable has the store write before it answers, so that no answer is lost when it is killed.
func (c *churn) durable() {
	c.eventually(patience, "the store writes at once", func() error {
		return c.Store.Client().ConfigSet(c.ctx, "appendfsync", "always").Err()
	})
}

func (c *churn) killStore() {
	c.Redis.Kill()
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	require.NoError(c.t, c.StartRedis(ctx))
	c.durable()
}

func (c *churn) restartAgents(dice *rand.Rand) {
	for range 1 + len(c.Hosts)/10 {
		i := dice.IntN(len(c.Hosts))
		c.stops[i]()
		known := c.agents[i].Applied()
		c.h.note(entry{kind: restarted, host: c.Hosts[i], version: known.Version})
		c.startAgent(i, known)
	}
}

// settle waits until everything is as the model says: I1 and I3.
func (c *churn) settle(within time.Duration) {
	c.t.Helper()
	c.promptly(within, yardstick.Start(c.t), "everything is as it should be", func() error {
		c.countOnce(c.api(0))
		for id := range c.live {
			in, err := c.APIs[0].Get(c.ctx, id)
			if err != nil {
				return err
			}
			if in == nil {
				return fmt.Errorf("I3: %s was answered, and is lost", id)
			}
		}
		if n := len(c.dying); n > 0 {
			return fmt.Errorf("%d deleted instrumentations are still there", n)
		}
		return errors.Join(c.asWished(), c.current(&sim.Fleet{Agents: c.agents}))
	})
}

// asWished compares what each agent runs with the model.
func (c *churn) asWished() error {
	for i, a := range c.agents {
		want := map[string]bool{}
		for id, w := range c.live {
			on := w.everywhere || slices.Contains(w.hosts, i)
			if w.tagged {
				on = c.tags[c.VM(i, 0)] == "on" || c.tags[c.VM(i, 1)] == "on"
			}
			if on {
				want[id] = true
			}
		}
		for _, item := range a.Applied().Instrumentations {
			if _, known := c.live[item.ID]; !known && c.unsure > 0 {
				continue // a create that was not answered may have been done
			}
			if !want[item.ID] {
				return fmt.Errorf("I1: host %d runs %s, which it should not", i, item.ID)
			}
			if err := c.zones(i, item); err != nil {
				return err
			}
			delete(want, item.ID)
		}
		for id := range want {
			return lacking{c, i, id}
		}
	}
	return nil
}

// lacking is a host whose agent does not run what it should. What has led there is looked up when it is told.
type lacking struct {
	c    *churn
	host int
	id   string
}

func (l lacking) Error() string {
	c, of := l.c, l.c.Hosts[l.host]
	doc, err := c.Store.Document(c.ctx, of)
	sessions, sessionErr := c.Store.Sessions(c.ctx, of)
	back, backErr := c.Store.Backlog(c.ctx)
	var trail []string
	for _, e := range c.h.all() {
		if e.host == of {
			trail = append(trail, e.String())
		}
	}
	return fmt.Sprintf("I1: host %d does not run %s, for its agent has %v; the store has %v, in which that is: %v; its session: %v; what waits: %+v (%v)\n%s",
		l.host, l.id, c.agents[l.host].Applied().Version, doc.Version, strings.Contains(string(doc.Body), l.id), sessions, back,
		errors.Join(err, sessionErr, backErr), strings.Join(trail[max(0, len(trail)-12):], "\n"))
}

// zones compares the zones of an instrumentation that follows tags.
func (c *churn) zones(host int, item assignment.Item) error {
	if !c.live[item.ID].tagged {
		return nil
	}
	for n := range 2 {
		vm := c.VM(host, n)
		has := slices.ContainsFunc(item.VMs, func(v assignment.VM) bool { return v.UUID == vm })
		if want := c.tags[vm] == "on"; has != want {
			return fmt.Errorf("I1: host %d measures VM %d for %s: %v, and should: %v", host, n, item.ID, has, want)
		}
	}
	return nil
}

// measure tells what the service takes.
func (c *churn) measure() (out size) {
	var err error
	out.keys, err = c.Store.Client().DBSize(c.ctx).Result()
	require.NoError(c.t, err)
	for _, a := range c.APIs {
		u, err := a.Usage(c.ctx, "free")
		require.NoError(c.t, err)
		out.goroutines += int64(u.Goroutines)
		out.descriptors += int64(u.Descriptors)
		out.memory += int64(u.Heap)
	}
	out.unsure = c.unsure
	return out
}
