package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/agent/session"
	"iapi/tests/load/cloud"
	"iapi/tests/load/debugport"
	"iapi/tests/load/light"
	"iapi/tests/load/peer"
	"iapi/tests/load/sim"
)

// compare measures the push of both kinds of servers, in turns.
func (l *load) compare(ctx context.Context) error {
	l.result.Peers = make(map[string][]Push)
	for round := range l.Rounds {
		for _, kind := range []string{peer.Ours, peer.Gqlgen} {
			l.say("push from memory: %s, round %d of %d", kind, round+1, l.Rounds)
			p, err := l.push(ctx, kind)
			if err != nil {
				return fmt.Errorf("push of %s: %w", kind, err)
			}
			l.result.Peers[kind] = append(l.result.Peers[kind], p)
		}
	}
	return nil
}

// arrivals is when which host was handed its newest assignment.
type arrivals struct {
	mu    sync.Mutex
	at    map[uuid.UUID]time.Time
	left  int
	all   chan struct{} // closed when nobody is left
	begun time.Time
}

func (a *arrivals) begin(n int) <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at, a.left, a.all, a.begun = make(map[uuid.UUID]time.Time, n), n, make(chan struct{}), time.Now()
	return a.all
}

func (a *arrivals) received(host uuid.UUID) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, again := a.at[host]; again || a.left == 0 {
		return
	}
	a.at[host] = now
	if a.left--; a.left == 0 {
		close(a.all)
	}
}

// took returns the sorted times since begin.
func (a *arrivals) took() []time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]time.Duration, 0, len(a.at))
	for _, at := range a.at {
		out = append(out, at.Sub(a.begun))
	}
	slices.Sort(out)
	return out
}

// push measures one server, from its start to its end.
func (l *load) push(ctx context.Context, kind string) (out Push, err error) {
	self, err := os.Executable()
	if err != nil {
		return out, fmt.Errorf("find this program: %w", err)
	}
	child, err := cloud.Start(kind, "", self, "serve-peer", "--kind", kind, "--hosts", fmt.Sprint(l.Count))
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, child.Stop(20*time.Second)) }()
	setup, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	agents, err := child.Expect(setup, `agents at (\S+)`)
	if err != nil {
		return out, err
	}
	control, err := child.Expect(setup, `control at (\S+)`)
	if err != nil {
		return out, err
	}
	usage := func(ctx context.Context, query string) (debugport.Usage, error) {
		return cloud.Usage(ctx, control, query)
	}
	m := newMeter(child.PID())
	before, err := usage(ctx, "free&reset")
	if err != nil {
		return out, err
	}
	var arrived arrivals
	arrived.begin(l.Count)
	start := time.Now()
	fleet, err := l.listeners(ctx, agents, &arrived)
	if err != nil {
		return out, err
	}
	defer fleet.Stop()
	if err := ready(ctx, fleet, l.say); err != nil {
		return out, err
	}
	took := time.Since(start)
	there, err := usage(ctx, "")
	if err != nil {
		return out, err
	}
	out.Connect = connectOf(l.Count, took, before, there, there)
	if out.Idle, err = watchIdle(ctx, usage, l.Count, min(l.Idle, 5*time.Second), before); err != nil {
		return out, err
	}
	if err := l.pushes(ctx, &out, control, &arrived, usage); err != nil {
		return out, err
	}
	out.Others = m.others()
	return out, nil
}

// listeners start agents that report nothing.
func (l *load) listeners(ctx context.Context, server string, arrived *arrivals) (fleet, error) {
	hosts := peer.Hosts(l.Count)
	if l.Light {
		return light.Start(ctx, light.Options{Hosts: hosts, Server: server, Mute: true, InFlight: l.InFlight,
			Observer: light.Observer{Received: arrived.received}})
	}
	return sim.StartFleet(ctx, sim.FleetOptions{Hosts: hosts, Servers: []string{server}, Seed: l.Seed, Mute: true, InFlight: l.InFlight,
		Observer: sim.Observer{Received: func(a *sim.Agent, _ session.Assignment) { arrived.received(a.Host()) }}})
}

// pushes measures pushes to one host and to all.
func (l *load) pushes(ctx context.Context, out *Push, control string, arrived *arrivals, usage func(context.Context, string) (debugport.Usage, error)) error {
	const toAll = 5
	dice := rand.New(rand.NewPCG(l.Seed, 3))
	var one []time.Duration
	for range l.Changes {
		if err := publish(ctx, arrived, 1, fmt.Sprintf("%s/publish?host=%d", control, dice.IntN(l.Count))); err != nil {
			return err
		}
		one = append(one, arrived.took()...)
	}
	slices.Sort(one)
	out.One = summarize(one)
	var all []Latency
	before, err := usage(ctx, "")
	if err != nil {
		return err
	}
	for range toAll {
		if err := publish(ctx, arrived, l.Count, control+"/publish"); err != nil {
			return err
		}
		all = append(all, summarize(arrived.took()))
	}
	after, err := usage(ctx, "")
	if err != nil {
		return err
	}
	out.All = medians(all)
	out.CPU = (after.CPU - before.CPU).Seconds() / toAll / float64(l.Count) * 1000
	return nil
}

// publish has new documents published, and waits until n hosts have them.
func publish(ctx context.Context, arrived *arrivals, n int, url string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	all := arrived.begin(n)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(""))
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("publish: %s", resp.Status)
	}
	select {
	case <-all:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for what was published: %w", ctx.Err())
	}
}
