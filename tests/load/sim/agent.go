// Package sim has agents for tests: real in how they talk with the API, which is the agents' own session, and made up in what
// they measure. An agent applies an assignment by remembering it, and acknowledges it by a report before it takes the next.
package sim

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"iapi/agent/session"
	"iapi/assignment"
)

// The statuses that the agents report.
const (
	running = "RUNNING"
	failed  = "FAILED"
)

// Faults are what goes wrong with an agent, by itself. The zero value is an agent that is always well.
type Faults struct {
	Refuse  float64       // the chance that an instrumentation cannot be measured on a host
	Slow    float64       // the chance that an assignment takes SlowFor to be applied
	SlowFor time.Duration //
	Drop    float64       // the chance, in each second, that the connection breaks
}

// Pace is how fast an agent comes back; see the options of session.Session. The zero value is how agents do.
type Pace struct{ PollEvery, PollFor, RetryMost time.Duration }

// Change is what an acknowledged assignment has changed for one instrumentation.
type Change struct {
	ID       string
	Revision int
	VMs      int
	Gone     bool // the host does not run it any more
}

// Observer is told what an agent does. Its functions are called by the agent's goroutines and must not block; each may be nil.
type Observer struct {
	// Received: the session has handed over an assignment.
	Received func(a *Agent, doc session.Assignment)
	// Applied: the agent runs it from now on.
	Applied func(a *Agent, doc session.Assignment)
	// Acknowledged: the API has taken the report of it. Reports that change nothing are told too, without changes.
	Acknowledged func(a *Agent, doc session.Assignment, changes []Change)
	// Refused: the API did not take a report.
	Refused func(a *Agent, err error)
}

// Options are what an agent is made of. Host and Servers must be given.
type Options struct {
	Host     uuid.UUID
	Token    string
	Servers  []string
	Source   net.IP      // the address to connect from; nil: any
	TLS      *tls.Config // whom to believe to be a server; nil: as the system does
	Seed     uint64      // decides, with the host, what goes wrong and when
	Faults   Faults
	Mute     bool // never reports
	Pace     Pace
	Known    session.Assignment // what it runs from the start, as after a restart
	Observer Observer
	Logger   *slog.Logger // nil: silent
}

// Agent is one simulated agent.
type Agent struct {
	opts    Options
	session *session.Session
	http    *http.Transport
	dice    *rand.Rand // of Run's goroutine alone
	wake    chan struct{}
	dials   atomic.Int64

	mu       sync.Mutex
	conns    map[*tracked]struct{}
	latest   *session.Assignment // received, not applied yet
	applied  session.Assignment
	acked    map[string]Change
	sequence int64
}

// New makes an agent; Run starts it.
func New(o Options) (*Agent, error) {
	a := &Agent{
		opts: o, wake: make(chan struct{}, 1), conns: make(map[*tracked]struct{}), acked: make(map[string]Change),
		dice:    rand.New(rand.NewPCG(o.Seed, hash(o.Host.String()))),
		applied: o.Known,
	}
	a.http = &http.Transport{
		DialContext: a.dial, ReadBufferSize: 1 << 10, WriteBufferSize: 1 << 10, MaxIdleConnsPerHost: 1,
		IdleConnTimeout: 5 * time.Second, ResponseHeaderTimeout: 20 * time.Second, TLSClientConfig: o.TLS,
	}
	var err error
	a.session, err = session.New(session.Options{
		Servers: o.Servers, Host: o.Host, Token: func() string { return o.Token }, Client: &http.Client{Transport: a.http},
		Logger: o.Logger, UserAgent: "iapi-agent/simulated", PollEvery: o.Pace.PollEvery, PollFor: o.Pace.PollFor, RetryMost: o.Pace.RetryMost,
	})
	if err != nil {
		return nil, fmt.Errorf("make an agent: %w", err)
	}
	a.session.Know(o.Known.Version)
	return a, nil
}

// Host is the host that the agent stands for.
func (a *Agent) Host() uuid.UUID { return a.opts.Host }

// Applied is what the agent runs now.
func (a *Agent) Applied() session.Assignment {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.applied
}

// Dials is how often the agent has connected, or tried to.
func (a *Agent) Dials() int64 { return a.dials.Load() }

// Drop breaks the agent's connections as a network would.
func (a *Agent) Drop() {
	a.mu.Lock()
	conns := slices.Collect(maps.Keys(a.conns))
	a.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

// Run lives until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer a.http.CloseIdleConnections()
	defer all.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	all.Go(func() { a.work(ctx) })
	return a.session.Run(ctx, a.receive)
}

func (a *Agent) receive(doc session.Assignment) {
	a.mu.Lock()
	a.latest = &doc
	a.mu.Unlock()
	if fn := a.opts.Observer.Received; fn != nil {
		fn(a, doc)
	}
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// work applies what comes and reports it, one after the other. Without news it reports when the API wants to hear of it.
func (a *Agent) work(ctx context.Context) {
	const firstBeat = 10 * time.Second
	beat := time.NewTimer(firstBeat)
	defer beat.Stop()
	drops := make(<-chan time.Time)
	if a.opts.Faults.Drop > 0 {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		drops = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-drops:
			if a.dice.Float64() < a.opts.Faults.Drop {
				a.Drop()
			}
			continue
		case <-a.wake:
		case <-beat.C:
		}
		if !a.apply(ctx) {
			return
		}
		if a.opts.Mute {
			continue
		}
		next, ok := a.report(ctx)
		if !ok {
			return
		}
		beat.Reset(session.Jitter(next))
	}
}

// apply makes the latest assignment the one that runs.
func (a *Agent) apply(ctx context.Context) bool {
	a.mu.Lock()
	fresh := a.latest != nil
	a.mu.Unlock()
	if !fresh {
		return true
	}
	if a.opts.Faults.Slow > 0 && a.dice.Float64() < a.opts.Faults.Slow {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(a.opts.Faults.SlowFor):
		}
	}
	a.mu.Lock()
	doc := *a.latest
	a.applied, a.latest = doc, nil
	a.mu.Unlock()
	if fn := a.opts.Observer.Applied; fn != nil {
		fn(a, doc)
	}
	return true
}

// report tells the API what runs until it has taken it, and returns when it wants to hear again.
func (a *Agent) report(ctx context.Context) (next time.Duration, ok bool) {
	const retryFirst, retryMost = 200 * time.Millisecond, 5 * time.Second
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		doc, report := a.status()
		result, err := a.session.Report(ctx, report)
		if ctx.Err() != nil {
			return 0, false
		}
		if err == nil && result.Superseded {
			err = session.ErrSuperseded
		}
		if err == nil && !result.Accepted {
			err = errors.New("the API did not accept the report")
		}
		if err == nil {
			if fn := a.opts.Observer.Acknowledged; fn != nil {
				fn(a, doc, a.changes(doc))
			}
			return time.Duration(max(result.NextReportSeconds, 1)) * time.Second, true
		}
		if fn := a.opts.Observer.Refused; fn != nil {
			fn(a, err)
		}
		select {
		case <-ctx.Done():
			return 0, false
		case <-time.After(wait):
		}
	}
}

func (a *Agent) status() (session.Assignment, session.Report) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sequence++
	r := session.Report{Sequence: a.sequence, AgentVersion: "simulated", Capabilities: []string{"procfs"}}
	doc := a.applied
	if doc.Version != (session.Version{}) {
		v := doc.Version
		r.Applied = &v
	}
	now := time.Now().UTC()
	for _, item := range doc.Instrumentations {
		s := session.Status{ID: item.ID, Revision: item.Revision, Status: running, LastSampleAt: &now}
		if a.refuses(item.ID) {
			s.Status, s.Message, s.LastSampleAt = failed, "this agent was told to refuse it", nil
		}
		r.Instrumentations = append(r.Instrumentations, s)
	}
	return doc, r
}

// refuses is the same for the same seed, host and instrumentation.
func (a *Agent) refuses(id string) bool {
	if a.opts.Faults.Refuse <= 0 {
		return false
	}
	dice := rand.New(rand.NewPCG(a.opts.Seed, hash(a.opts.Host.String()+id)))
	return dice.Float64() < a.opts.Faults.Refuse
}

// changes compares what was acknowledged now with what was before.
func (a *Agent) changes(doc session.Assignment) []Change {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []Change
	now := make(map[string]Change, len(doc.Instrumentations))
	for _, item := range doc.Instrumentations {
		c := changeOf(item)
		now[item.ID] = c
		if a.acked[item.ID] != c {
			out = append(out, c)
		}
	}
	for id, c := range a.acked {
		if _, still := now[id]; !still {
			c.Gone = true
			out = append(out, c)
		}
	}
	a.acked = now
	return out
}

func changeOf(item assignment.Item) Change {
	return Change{ID: item.ID, Revision: item.Revision, VMs: len(item.VMs)}
}

func hash(text string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text)) // never fails
	return h.Sum64()
}

// tracked is a connection that Drop can find.
type tracked struct {
	net.Conn
	of   *Agent
	once sync.Once
}

func (a *Agent) dial(ctx context.Context, network, address string) (net.Conn, error) {
	a.dials.Add(1)
	d := net.Dialer{Timeout: 20 * time.Second, KeepAlive: -1, Control: bindLate}
	if a.opts.Source != nil {
		d.LocalAddr = &net.TCPAddr{IP: a.opts.Source}
	}
	nc, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &tracked{Conn: nc, of: a}
	a.mu.Lock()
	a.conns[c] = struct{}{}
	a.mu.Unlock()
	return c, nil
}

// Close implements net.Conn.
func (c *tracked) Close() error {
	c.once.Do(func() {
		c.of.mu.Lock()
		delete(c.of.conns, c)
		c.of.mu.Unlock()
	})
	return c.Conn.Close()
}
