// Package faults breaks what can break, on real parts, and checks afterwards and meanwhile what must always hold: that no agent
// goes back, that nothing runs after it was deleted, that counts add up, that nothing loops and nothing grows.
package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/tests/load/cloud"
	"iapi/tests/load/sim"
	"iapi/tests/yardstick"
)

// program is what is under test.
var program string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "iapi-faults-*")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if program, err = cloud.Build(ctx, dir, raced); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// proving reports whether the tests run at full counts.
func proving() bool { return os.Getenv("IAPI_PROVE") == "1" }

// service is a running service, with agents that the test adds.
type service struct {
	*cloud.Cloud
	t      *testing.T
	ctx    context.Context
	tokens []string
}

// start starts a service until the test ends. Without a redis-server the test is left out; in CI it fails instead.
func start(t *testing.T, hosts, apis int, o cloud.Options) *service {
	t.Helper()
	o.Binary, o.Dir, o.Hosts = program, t.TempDir(), hosts
	if o.VMs == 0 {
		o.VMs = 2
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, err := cloud.New(ctx, o)
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		for _, p := range processes(c) {
			if t.Failed() {
				t.Logf("%s said:\n%s", p.Name, p.Output())
			}
			require.NotContains(t, p.Output(), "DATA RACE", "%s has a race", p.Name)
		}
	})
	if errors.Is(err, cloud.ErrNoRedis) && os.Getenv("CI") != "true" {
		t.Skip("left out: redis-server is missing")
	}
	require.NoError(t, err)
	for range apis {
		_, err := c.AddAPI(ctx)
		require.NoError(t, err)
	}
	tokens, err := c.Credentials(ctx)
	require.NoError(t, err)
	return &service{Cloud: c, t: t, ctx: t.Context(), tokens: tokens}
}

func processes(c *cloud.Cloud) []*cloud.Process {
	all := append([]*cloud.Process{c.VMAPI, c.Redis}, c.Workers...)
	for _, a := range c.APIs {
		all = append(all, a.Process)
	}
	out := all[:0]
	for _, p := range all {
		if p != nil {
			out = append(out, p)
		}
	}
	return out
}

// pace is that of agents in a test, which has little time.
var pace = sim.Pace{PollEvery: 300 * time.Millisecond, PollFor: 2 * time.Second, RetryMost: 5 * time.Second}

// connect starts an agent for each host until the test ends, and waits until each has an assignment.
func (s *service) connect(servers []string, observer sim.Observer) *sim.Fleet {
	s.t.Helper()
	f, err := sim.StartFleet(s.ctx, sim.FleetOptions{Hosts: s.Hosts, Tokens: s.tokens, Servers: servers, Seed: 1, Observer: observer,
		Pace: pace})
	require.NoError(s.t, err)
	s.t.Cleanup(f.Stop)
	select {
	case <-f.Ready():
	case <-time.After(patience):
		require.FailNow(s.t, "agents have no assignment", "%d of %d", f.Waiting(), len(s.Hosts))
	}
	return f
}

// everywhere creates an instrumentation of every host, trying again while the service is not there.
func (s *service) everywhere(api int) string {
	s.t.Helper()
	var id string
	s.eventually(patience, "create an instrumentation", func() error {
		in, err := s.APIs[api].Create(s.ctx, cloud.Operators, cloud.EveryHost())
		id = in.ID
		return err
	})
	return id
}

// patience is how long tests wait for what must come, and for which no time is promised. What comes ends the wait.
const patience = 2 * time.Minute

// eventually waits until try succeeds.
func (s *service) eventually(within time.Duration, what string, try func() error) {
	s.t.Helper()
	for begun, err := time.Now(), try(); err != nil; err = try() {
		require.Less(s.t, time.Since(begun), within, "%s: %v", what, err)
		time.Sleep(20 * time.Millisecond)
	}
}

// promptly waits until try succeeds, which is promised within a time of a machine that has time. However slow the machine is, it
// waits for less than it takes asynq to give back by itself what a worker had that was killed, or at most twice the time.
func (s *service) promptly(within time.Duration, since *yardstick.Watch, what string, try func() error) {
	s.t.Helper()
	defer since.Stop()
	most := max(75*time.Second, 2*within)
	for err := try(); err != nil; err = try() {
		require.Less(s.t, since.Elapsed(), within, "%s: %v; %v have passed on the wall", what, err, since.Wall())
		require.Less(s.t, since.Wall(), most, "%s: %v", what, err)
		time.Sleep(20 * time.Millisecond)
	}
}

// current reports an agent that does not run exactly what the store has for its host.
func (s *service) current(f *sim.Fleet) error {
	versions, err := s.Store.Versions(s.ctx, s.Hosts...)
	if err != nil {
		return err
	}
	for i, a := range f.Agents {
		if is := a.Applied().Version; is != versions[i] {
			return fmt.Errorf("host %s runs %v, and the store has %v", a.Host(), is, versions[i])
		}
	}
	return nil
}

// everybodyRuns reports an agent that does not run an instrumentation.
func everybodyRuns(f *sim.Fleet, id string) error {
	for _, a := range f.Agents {
		if !runs(a, id) {
			return fmt.Errorf("host %s does not run %s", a.Host(), id)
		}
	}
	return nil
}

func runs(a *sim.Agent, id string) bool {
	for _, item := range a.Applied().Instrumentations {
		if item.ID == id {
			return true
		}
	}
	return false
}

// lawful fails the test if the history breaks what must always hold.
func (s *service) lawful(h *history) {
	s.t.Helper()
	versions, err := s.Store.Versions(s.ctx, s.Hosts...)
	require.NoError(s.t, err)
	end := make(standing, len(versions))
	for i, v := range versions {
		end[s.Hosts[i]] = v
	}
	found := violations(h.all(), end)
	require.Empty(s.t, found, strings.Join(found[:min(len(found), 10)], "\n"))
}

// flag is set once.
type flag struct {
	once sync.Once
	ch   chan struct{}
}

func newFlag() *flag { return &flag{ch: make(chan struct{})} }

func (f *flag) set() { f.once.Do(func() { close(f.ch) }) }
