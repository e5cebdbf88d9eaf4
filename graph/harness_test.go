package graph_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/delivery"
	"iapi/delivery/deliverytest"
	"iapi/graph"
	"iapi/graph/ws"
	"iapi/identity"
	"iapi/instrumentation"
	it "iapi/instrumentation/instrumentationtest"
	"iapi/inventory"
	"iapi/measure"
)

// patience is how long a test waits for what must come, however slow the machine is.
const patience = time.Minute

var (
	alice = uuid.MustParse("00000000-0000-4000-8000-00000000a11c")
	bob   = uuid.MustParse("00000000-0000-4000-8000-000000000b0b")
)

// api is the whole door over fakes, behind a real listener on loopback.
type api struct {
	*it.World
	source *deliverytest.Source
	hub    *delivery.Hub
	server *graph.Server
	http   *httptest.Server
	tokens *tokens
	record *records
	log    *buffer
	counts *counts
}

// counts is a Store that counts what is read from it.
type counts struct {
	instrumentation.Store
	mu    sync.Mutex
	of    map[string]int
	holds bool // whoever counts records waits until his time is over
}

func (a *api) count(s instrumentation.Store) instrumentation.Store {
	a.counts = &counts{Store: s, of: make(map[string]int)}
	return a.counts
}

func (a *api) calls() map[string]int {
	a.counts.mu.Lock()
	defer a.counts.mu.Unlock()
	return maps.Clone(a.counts.of)
}

func (c *counts) add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of[name]++
}

func (c *counts) hold(holds bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holds = holds
}

func (c *counts) Get(ctx context.Context, ids ...instrumentation.ID) ([]*instrumentation.Instrumentation, error) {
	c.add("Get")
	return c.Store.Get(ctx, ids...)
}

func (c *counts) Search(ctx context.Context, f instrumentation.Filter, p instrumentation.Page) ([]instrumentation.Instrumentation, bool, bool, error) {
	c.add("Search")
	return c.Store.Search(ctx, f, p)
}

func (c *counts) Count(ctx context.Context, f instrumentation.Filter) (int, error) {
	c.add("Count")
	c.mu.Lock()
	holds := c.holds
	c.mu.Unlock()
	if holds {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return c.Store.Count(ctx, f)
}

func (c *counts) Coverage(ctx context.Context, ids ...instrumentation.ID) ([]instrumentation.Coverage, error) {
	c.add("Coverage")
	return c.Store.Coverage(ctx, ids...)
}

func (c *counts) Problems(ctx context.Context, ids ...instrumentation.ID) ([][]instrumentation.Problem, error) {
	c.add("Problems")
	return c.Store.Problems(ctx, ids...)
}

func (c *counts) Hosts(ctx context.Context, p instrumentation.Page, ids ...instrumentation.ID) ([]instrumentation.Places[instrumentation.HostPlacement], error) {
	c.add("Hosts")
	return c.Store.Hosts(ctx, p, ids...)
}

func (c *counts) VMs(ctx context.Context, p instrumentation.Page, ids ...instrumentation.ID) ([]instrumentation.Places[instrumentation.VMPlacement], error) {
	c.add("VMs")
	return c.Store.VMs(ctx, p, ids...)
}

func (c *counts) Machines(ctx context.Context, vms ...uuid.UUID) ([]*inventory.VM, error) {
	c.add("Machines")
	return c.Store.Machines(ctx, vms...)
}

func (c *counts) FleetHosts(ctx context.Context, hosts ...uuid.UUID) ([]*instrumentation.FleetHost, error) {
	c.add("FleetHosts")
	return c.Store.FleetHosts(ctx, hosts...)
}

func (c *counts) Fleet(ctx context.Context, online *bool, p instrumentation.Page) ([]instrumentation.FleetHost, bool, error) {
	c.add("Fleet")
	return c.Store.Fleet(ctx, online, p)
}

// tokens are the callers by their bearer tokens.
type tokens struct {
	mu sync.Mutex
	of map[string]identity.Caller
}

func (k *tokens) put(token string, c identity.Caller) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.of[token] = c
	return token
}

func (k *tokens) Authenticate(r *http.Request) (identity.Caller, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return identity.Caller{}, identity.ErrNoCredentials
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	c, ok := k.of[strings.TrimPrefix(header, "Bearer ")]
	if !ok {
		return identity.Caller{}, identity.ErrBadCredentials
	}
	return c, nil
}

// records is a RecordWatcher that a test drives.
type records struct{ changes chan []instrumentation.ID }

func (r *records) WatchRecords(ctx context.Context, fn func([]instrumentation.ID, bool)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case ids := <-r.changes:
			fn(ids, ids == nil)
		}
	}
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newAPI(t testing.TB, change ...func(*graph.Options)) *api {
	t.Helper()
	return newAPIWith(t, instrumentation.Policy{}, change...)
}

// narrowed is a listener whose connections have small buffers of a fixed size, so that how much the system keeps for them does not
// depend on the system.
type narrowed struct{ net.Listener }

func (l narrowed) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok && err == nil {
		err = errors.Join(tcp.SetReadBuffer(128<<10), tcp.SetWriteBuffer(128<<10))
	}
	return c, err
}

func narrow(s *httptest.Server) *httptest.Server {
	s.Listener = narrowed{s.Listener}
	return s
}

// newAPIWith is newAPI with a policy. No default target of it is used.
func newAPIWith(t testing.TB, policy instrumentation.Policy, change ...func(*graph.Options)) *api {
	t.Helper()
	a := &api{
		source: deliverytest.New(), record: &records{changes: make(chan []instrumentation.ID)}, log: &buffer{},
		tokens: &tokens{of: map[string]identity.Caller{
			"operator": it.Operator(), "alice": it.Tenant(alice), "bob": it.Tenant(bob), "cloudapi": it.Cloudapi(), "workflow": it.Workflow(),
		}},
	}
	a.World = it.NewWorld(t, func(o *instrumentation.Options) {
		o.Store = a.count(o.Store)
		policy.DefaultTargets = o.Policy.DefaultTargets
		o.Policy = policy
	})
	a.hub = delivery.New(a.source, delivery.Options{RetryFirst: time.Millisecond, RetryMost: 5 * time.Millisecond, TouchEvery: 20 * time.Millisecond})
	o := graph.Options{
		Service: a.Service, Delivery: a.hub, Authenticator: a.tokens, Records: a.record,
		Logger: slog.New(slog.NewTextHandler(a.log, nil)),
		// What is slow to speak is a test on a busy machine, neither to be pinged amid what it awaits nor to be given up.
		Websocket: ws.Options{RestartWindow: 50 * time.Millisecond, InitTimeout: patience, PingEvery: time.Hour},
	}
	for _, fn := range change {
		fn(&o)
	}
	var err error
	a.server, err = graph.New(o)
	require.NoError(t, err)
	a.http = narrow(httptest.NewUnstartedServer(a.server))
	a.http.Start()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = a.hub.Run(ctx) })
	running.Go(func() { _ = a.server.Run(ctx) })
	t.Cleanup(func() {
		shut, done := context.WithTimeout(context.Background(), patience)
		defer done()
		require.NoError(t, a.server.Shutdown(shut))
		a.http.Close()
		cancel()
		running.Wait()
	})
	require.Eventually(t, func() bool { return a.source.Watching() > 0 }, patience, time.Millisecond)
	return a
}

// agent makes a token for the agent of a host.
func (a *api) agent(host uuid.UUID) string {
	return a.tokens.put("agent-"+host.String(), it.AgentOf(host))
}

// answer is a response of GraphQL.
type answer struct {
	Data   map[string]any
	Errors []struct {
		Message    string
		Path       []any
		Extensions map[string]any
	}
	status int
	raw    string
}

func (r answer) code() string {
	if len(r.Errors) == 0 {
		return ""
	}
	code, _ := r.Errors[0].Extensions["code"].(string)
	return code
}

// ask sends a query or mutation. token "" sends no credentials.
func (a *api) ask(t testing.TB, token, query string, variables map[string]any) answer {
	t.Helper()
	body, err := json.Marshal(map[string]any{"query": query, "variables": variables})
	require.NoError(t, err)
	return a.post(t, token, string(body), "application/graphql-response+json")
}

func (a *api) post(t testing.TB, token, body, accept string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.http.URL+"/graphql", strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", accept)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	out := answer{status: resp.StatusCode, raw: string(raw)}
	require.NoError(t, json.Unmarshal(raw, &out), "%s", raw)
	return out
}

// must is ask for what has to work.
func (a *api) must(t testing.TB, token, query string, variables map[string]any) map[string]any {
	t.Helper()
	out := a.ask(t, token, query, variables)
	require.Empty(t, out.Errors, out.raw)
	return out.Data
}

// at walks into JSON: at(t, data, "a", 0, "b").
func at(t testing.TB, v any, path ...any) any {
	t.Helper()
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, ok := v.(map[string]any)
			require.True(t, ok, "%v is no object at %q", v, p)
			v = m[p]
		case int:
			l, ok := v.([]any)
			require.True(t, ok && p < len(l), "%v has no item %d", v, p)
			v = l[p]
		}
	}
	return v
}

// items is a document with one of everything that travels.
func items() []assignment.Item {
	owner, expires := alice, time.Date(2026, 11, 22, 12, 0, 0, 123e6, time.UTC)
	prefix, transport := "a.b", "HTTP"
	predicate := measure.Predicate{Op: measure.And, Args: []measure.Predicate{
		{Op: measure.Eq, Field: "execname", Value: measure.String(`my"sql<&>` + "\u00e4\n\x01")},
		{Op: measure.Gt, Field: "latency", Value: measure.Int(1 << 40)},
	}}
	return []assignment.Item{
		{
			ID: "i-00000000000000000001", Revision: 3, Owner: &owner, Metric: "disk.physio_ops", DefinitionDigest: "ab", Predicate: &predicate,
			Decompositions: []string{"execname", "latency"}, VMs: []assignment.VM{{UUID: bob, Owner: &owner}, {UUID: uuid.MustParse("10000000-0000-4000-8000-000000000000")}},
			Targets: []assignment.Target{
				{Kind: "dataapi", Address: "http://127.0.0.1:1/?a=b&c=<d>", Transport: &transport, Headers: map[string]string{"X-B": "s<e>cret", "X-A": "1"}},
				{Kind: "statsd", Address: "127.0.0.1:2", Prefix: &prefix},
			},
			Granularity: 1, ExpiresAt: &expires,
		},
		{ID: "i-00000000000000000002", Revision: 1, Metric: "cpu.usage", DefinitionDigest: "cd", Decompositions: []string{}, WholeHost: true, VMs: []assignment.VM{}, Targets: []assignment.Target{}, Granularity: 60},
	}
}

// serve commits a document for a host.
func (a *api) serve(host uuid.UUID, items []assignment.Item) assignment.Version {
	body, _ := assignment.Encode(assignment.Document{Host: host, Instrumentations: items})
	return a.source.Commit(host, string(body))
}
