package instrumentationtest

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/identity"
	in "iapi/instrumentation"
	"iapi/inventory"
	"iapi/measure"
)

// World is a Service with everything around it.
type World struct {
	*in.Service
	Store  *Store
	Queue  *Queue
	Agents *Agents
	Clock  *Clock
}

// NewWorld makes a world with nothing in it. Its time stands still; its catalog is the embedded one and what Catalog
// adds; its default target is Target.
func NewWorld(t testing.TB, change ...func(*in.Options)) *World {
	t.Helper()
	clock := &Clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	w := &World{Store: NewStore(clock.Now), Queue: &Queue{}, Agents: &Agents{}, Clock: clock}
	o := in.Options{
		Store: w.Store, Queue: w.Queue, Previewer: w.Store, Agents: w.Agents, Catalog: Catalog(t), Clock: clock.Now,
		Policy: in.Policy{DefaultTargets: []measure.Target{Target()}}, Secret: []byte("the secret of a test"),
	}
	for _, fn := range change {
		fn(&o)
	}
	var err error
	w.Service, err = in.New(o)
	require.NoError(t, err)
	return w
}

// Target is one that tenants may use.
func Target() measure.Target {
	return measure.Target{Kind: measure.Statsd, Address: "statsd.example.com:8125"}
}

// Operator is a caller.
func Operator() identity.Caller { return identity.Caller{ID: "operator:olga", Kind: identity.Operator} }

// Tenant is a caller that is an account.
func Tenant(owner uuid.UUID) identity.Caller {
	return identity.Caller{ID: "tenant:" + owner.String(), Kind: identity.Tenant, Owner: owner}
}

// Cloudapi is a service that may act for every account.
func Cloudapi() identity.Caller {
	return identity.Caller{ID: "service:cloudapi", Kind: identity.Service}
}

// Workflow is a caller that may only hint.
func Workflow() identity.Caller {
	return identity.Caller{ID: "workflow:provision", Kind: identity.Workflow}
}

// AgentOf is the agent of a host.
func AgentOf(host uuid.UUID) identity.Caller {
	return identity.Caller{ID: "agent:" + host.String(), Kind: identity.Agent, Host: host}
}

// Fleet puts hosts with agents that are online into the inventory, each with one running machine of each owner. It
// returns them, hosts first to last, machines by host and owner.
func (w *World) Fleet(hosts int, owners ...uuid.UUID) ([]inventory.Host, [][]inventory.VM) {
	var made []inventory.Host
	var vms [][]inventory.VM
	for range hosts {
		h := inventory.Host{UUID: uuid.New(), Name: "cn-" + uuid.NewString()[:8], Traits: map[string]string{"rack": "r1"}}
		w.Store.PutHosts(in.FleetHost{Host: h, Agent: &in.AgentInfo{Version: "1", Online: true, LastSeen: w.Clock.Now()}})
		made = append(made, h)
		var here []inventory.VM
		for _, owner := range owners {
			here = append(here, inventory.VM{
				UUID: uuid.New(), Owner: owner, Alias: "vm", State: "running", Host: h.UUID, Tags: map[string]string{"role": "db"},
			})
		}
		w.Store.PutVMs(here...)
		vms = append(vms, here)
	}
	return made, vms
}

// Clock is a time that moves only when told to.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// Now returns the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the time.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Queue remembers what it was given.
type Queue struct {
	mu        sync.Mutex
	err       error
	Evaluated []Evaluation
	Notified  []uuid.UUID
	Sweeps    int
	Stops     []Stop
}

// Evaluation is one call of Evaluate.
type Evaluation struct {
	ID       in.ID
	Revision int
}

// Stop is one call of StopTracing.
type Stop struct {
	Hosts  []uuid.UUID
	Reason string
}

// FailWith makes every call fail with the error, until it is nil again.
func (q *Queue) FailWith(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err = err
}

// Evaluate implements instrumentation.Queue.
func (q *Queue) Evaluate(_ context.Context, id in.ID, revision int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.Evaluated = append(q.Evaluated, Evaluation{id, revision})
	}
	return q.err
}

// NotifyVM implements instrumentation.Queue.
func (q *Queue) NotifyVM(_ context.Context, vm uuid.UUID) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.Notified = append(q.Notified, vm)
	}
	return q.err
}

// Sweep implements instrumentation.Queue.
func (q *Queue) Sweep(context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.Sweeps++
	}
	return q.err
}

// StopTracing implements instrumentation.Queue.
func (q *Queue) StopTracing(_ context.Context, hosts []uuid.UUID, reason string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.Stops = append(q.Stops, Stop{hosts, reason})
	}
	return q.err
}

// Agents makes join tokens that nobody accepts, and remembers whom it revoked.
type Agents struct {
	mu      sync.Mutex
	Revoked []uuid.UUID
}

// CreateJoinToken implements instrumentation.Agents.
func (*Agents) CreateJoinToken(context.Context, uuid.UUID, time.Duration) (string, error) {
	token, _ := identity.NewJoinToken()
	return token, nil
}

// RevokeAgent implements instrumentation.Agents.
func (a *Agents) RevokeAgent(_ context.Context, host uuid.UUID) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.Revoked = append(a.Revoked, host)
	return nil
}

// Catalog returns the embedded catalog with two metrics more that do not depend on what is embedded: test.ops, which
// tenants may trace for two hours at most, and test.secret, which traces and is for operators.
func Catalog(t testing.TB) in.Catalog {
	t.Helper()
	known, err := embedded()
	require.NoError(t, err)
	fields := []catalog.Field{
		{Name: "hostname", Label: "host name", Arity: catalog.Discrete, Operator: true, Builtin: true},
		{Name: "zonename", Label: "zone name", Arity: catalog.Discrete, Builtin: true},
		{Name: "execname", Label: "program", Arity: catalog.Discrete},
		{Name: "optype", Label: "kind", Arity: catalog.Discrete, Values: []string{"read", "write"}},
		{Name: "pid", Label: "process", Arity: catalog.Discrete, Uint: true},
		{Name: "ppid", Label: "parent process", Arity: catalog.Discrete, Uint: true},
		{Name: "latency", Label: "latency", Arity: catalog.Numeric, Unit: "ns"},
		{Name: "size", Label: "size", Arity: catalog.Numeric, Unit: "bytes"},
	}
	return extended{known, []*catalog.Metric{
		{Name: "test.ops", Module: "test", Stat: "ops", Label: "operations", Interval: catalog.Interval, Unit: "operations",
			Collectors: []string{"DTRACE"}, Fields: fields, MaxTTL: 2 * time.Hour, Tracing: true, Tenant: true},
		{Name: "test.secret", Module: "test", Stat: "secret", Label: "secrets", Interval: catalog.Interval, Unit: "operations",
			Collectors: []string{"DTRACE"}, Fields: fields, Tracing: true},
	}}
}

// embedded is parsed once; nothing changes it.
var embedded = sync.OnceValues(catalog.Embedded)

type extended struct {
	in.Catalog
	more []*catalog.Metric
}

func (e extended) Metrics() []*catalog.Metric {
	all := append(e.Catalog.Metrics(), e.more...)
	slices.SortFunc(all, func(a, b *catalog.Metric) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return all
}

func (e extended) Metric(name string) (*catalog.Metric, bool) {
	for _, m := range e.more {
		if m.Name == name {
			return m, true
		}
	}
	return e.Catalog.Metric(name)
}
