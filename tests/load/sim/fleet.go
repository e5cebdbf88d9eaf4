package sim

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/agent/session"
)

// perSource is how many agents share a source address: well below the 28,000 ports that one has.
const perSource = 10_000

// Source is the loopback address that the n-th agent connects from.
func Source(n int) net.IP { return net.IPv4(127, 0, 1, byte(1+n/perSource)) }

// FleetOptions are what a fleet is made of.
type FleetOptions struct {
	Hosts    []uuid.UUID
	Tokens   []string // of the hosts, in their order; nil: none
	Servers  []string
	TLS      *tls.Config // see Options
	Seed     uint64
	Faults   Faults
	Mute     bool
	Pace     Pace
	InFlight int // agents that are connecting for the first time at the same time; 0: all
	Observer Observer
}

// Fleet is many agents that run.
type Fleet struct {
	Agents []*Agent

	cancel context.CancelFunc
	all    sync.WaitGroup
	first  chan struct{} // closed when each has had its first assignment

	mu      sync.Mutex
	waiting int
}

// StartFleet starts an agent for each host. Stop must be called.
func StartFleet(ctx context.Context, o FleetOptions) (*Fleet, error) {
	f := &Fleet{Agents: make([]*Agent, len(o.Hosts)), first: make(chan struct{}), waiting: len(o.Hosts)}
	arrived := make([]chan struct{}, len(o.Hosts))
	for i, host := range o.Hosts {
		arrived[i] = make(chan struct{})
		once := sync.OnceFunc(func() { close(arrived[i]); f.arrive() })
		observer := o.Observer
		observer.Received = func(a *Agent, doc session.Assignment) {
			if o.Observer.Received != nil {
				o.Observer.Received(a, doc)
			}
			once()
		}
		options := Options{Host: host, Servers: o.Servers, TLS: o.TLS, Source: Source(i), Seed: o.Seed, Faults: o.Faults, Mute: o.Mute, Pace: o.Pace,
			Observer: observer}
		if o.Tokens != nil {
			options.Token = o.Tokens[i]
		}
		var err error
		if f.Agents[i], err = New(options); err != nil {
			return nil, fmt.Errorf("agent %d: %w", i, err)
		}
	}
	ctx, f.cancel = context.WithCancel(ctx)
	inFlight := o.InFlight
	if inFlight <= 0 {
		inFlight = len(o.Hosts)
	}
	gate := make(chan struct{}, max(inFlight, 1))
	f.all.Go(func() {
		for i, a := range f.Agents {
			select {
			case <-ctx.Done():
				return
			case gate <- struct{}{}:
			}
			f.all.Go(func() { _ = a.Run(ctx) }) // ends with ctx's error
			f.all.Go(func() {
				defer func() { <-gate }()
				select {
				case <-ctx.Done():
				case <-arrived[i]:
				case <-time.After(5 * time.Second): // it was told to come back later, and makes room
				}
			})
		}
	})
	return f, nil
}

func (f *Fleet) arrive() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waiting--; f.waiting == 0 {
		close(f.first)
	}
}

// Waiting is how many agents have had no assignment yet.
func (f *Fleet) Waiting() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waiting
}

// Ready is closed when every agent has had its first assignment.
func (f *Fleet) Ready() <-chan struct{} { return f.first }

// Dials is how often all agents have connected, or tried to.
func (f *Fleet) Dials() (sum int64) {
	for _, a := range f.Agents {
		sum += a.Dials()
	}
	return sum
}

// Err is nil: agents come back by themselves from whatever happens.
func (f *Fleet) Err() error { return nil }

// Stop ends all agents and waits for them.
func (f *Fleet) Stop() {
	f.cancel()
	f.all.Wait()
}
