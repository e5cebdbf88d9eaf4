// Package kill ends workers in the middle of their work, as a crash does, loses what the changefeed should tell, and compares
// every document afterwards with what the inventory and the records come to.
package kill

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"iapi/assignment"
	"iapi/catalog"
	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/inventory/cnapi"
	"iapi/inventory/vmapi"
	"iapi/placement"
	"iapi/tests/load/cloud"
	"iapi/tests/yardstick"
	"iapi/worker"
)

var program string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "iapi-kill-*")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if program, err = cloud.Build(ctx, dir, false); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

const (
	hosts       = 500
	vms         = 2 // on each host
	evaluations = 500
)

// service is a running service and what its documents are compared with.
type service struct {
	*cloud.Cloud
	t         *testing.T
	ctx       context.Context
	api       *cloud.API
	inventory string
	vms       *vmapi.Client
	hosts     *cnapi.Client
	catalog   *catalog.Catalog
}

// start starts a service until the test ends. Without a redis-server the test is left out; in CI it fails instead.
func start(t *testing.T, flags ...string) *service {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, err := cloud.New(ctx, cloud.Options{Binary: program, Dir: t.TempDir(), Hosts: hosts, VMs: vms, WorkerFlags: flags})
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	if errors.Is(err, cloud.ErrNoRedis) && os.Getenv("CI") != "true" {
		t.Skip("left out: redis-server is missing")
	}
	require.NoError(t, err)
	s := &service{Cloud: c, t: t, ctx: t.Context()}
	s.api, err = c.AddAPI(ctx)
	require.NoError(t, err)
	s.inventory, err = c.VMAPI.Expect(ctx, `at (http://[0-9.]+:[0-9]+)`)
	require.NoError(t, err)
	s.vms, err = vmapi.New(vmapi.Options{URL: s.inventory})
	require.NoError(t, err)
	s.hosts, err = cnapi.New(cnapi.Options{URL: s.inventory})
	require.NoError(t, err)
	s.catalog, err = catalog.Embedded()
	require.NoError(t, err)
	return s
}

// wrong counts the hosts whose documents are not what the inventory and the records come to, and tells of one.
func (s *service) wrong() (n int, which string, err error) {
	var live []instrumentation.Instrumentation
	if _, err := s.Store.AllLive(s.ctx, func(recs []instrumentation.Instrumentation) error {
		live = append(live, recs...)
		return nil
	}); err != nil {
		return 0, "", err
	}
	all, err := s.hosts.Hosts(s.ctx)
	if err != nil {
		return 0, "", err
	}
	on := map[uuid.UUID][]inventory.VM{}
	if err := s.vms.Each(s.ctx, vmapi.Query{Active: true}, func(page []inventory.VM) error {
		for _, vm := range page {
			on[vm.Host] = append(on[vm.Host], vm)
		}
		return nil
	}); err != nil {
		return 0, "", err
	}
	documents, err := s.Store.Documents(s.ctx, s.Hosts...)
	if err != nil {
		return 0, "", err
	}
	is := map[uuid.UUID]string{}
	for _, d := range documents {
		is[d.Host] = string(d.Body)
	}
	matchers := make([]*placement.Matcher, len(live))
	for i := range live {
		matchers[i] = placement.Compile(live[i].Scope, live[i].Owner)
	}
	for _, host := range all {
		var placed []placement.Placed
		for i, m := range matchers {
			p := placement.Placed{Instrumentation: &live[i], Whole: m.MatchHost(&host)}
			for _, vm := range on[host.UUID] {
				if m.Match(&vm, &host) {
					p.VMs = append(p.VMs, placement.Zone{UUID: vm.UUID, Owner: vm.Owner})
				}
			}
			if p.Whole || len(p.VMs) > 0 {
				placed = append(placed, p)
			}
		}
		doc, over := assignment.Build(host.UUID, placed, s.digest)
		if len(over) > 0 {
			return 0, "", fmt.Errorf("host %s has no room for %d", host.UUID, len(over))
		}
		if body, _ := assignment.Encode(doc); string(body) != is[host.UUID] {
			n++
			which = fmt.Sprintf("host %s, which should have %d instrumentations", host.UUID, len(placed))
		}
	}
	return n, which, nil
}

func (s *service) digest(metric string) string {
	m, ok := s.catalog.Metric(metric)
	require.True(s.t, ok)
	return m.Digest
}

// untilAsynqHelps is less than asynq takes to give back the tasks of a worker that was killed. What is right only then has not
// been made right by us, however slow the machine is.
const untilAsynqHelps = 75 * time.Second

// rightWithin requires every document to be right in time, and returns how long it took. The time is that of a machine that
// has time.
func (s *service) rightWithin(most time.Duration, since *yardstick.Watch) time.Duration {
	s.t.Helper()
	inTime := func() bool { return since.Elapsed() < most && since.Wall() < untilAsynqHelps }
	for {
		// The comparison takes a while, so it waits until there is nothing left that makes documents right.
		for back, err := s.Store.Backlog(s.ctx); back.DirtyHosts+back.DirtyVMs > 0 && inTime(); back, err = s.Store.Backlog(s.ctx) {
			require.NoError(s.t, err)
			time.Sleep(20 * time.Millisecond)
		}
		asked := since.Elapsed()
		n, which, err := s.wrong()
		require.NoError(s.t, err)
		if n == 0 {
			return asked
		}
		require.True(s.t, inTime(), "after %v, %v on the wall, %d hosts are wrong, among them %s", since.Elapsed(), since.Wall(), n, which)
	}
}

// each does n things, some at once.
func (s *service) each(n int, do func(i int) error) {
	s.t.Helper()
	var g errgroup.Group
	g.SetLimit(8)
	for i := range n {
		g.Go(func() error { return do(i) })
	}
	require.NoError(s.t, g.Wait())
}

// put sends a command to the simulator.
func (s *service) put(path, body string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.ctx, http.MethodPut, s.inventory+path, strings.NewReader(body))
	require.NoError(s.t, err)
	answer, err := http.DefaultClient.Do(r)
	require.NoError(s.t, err)
	require.NoError(s.t, answer.Body.Close())
	require.Less(s.t, answer.StatusCode, 300)
}

func proving() bool { return os.Getenv("IAPI_PROVE") == "1" }

func TestAWorkerKilledAmongFiveHundredEvaluationsLeavesEveryHostRightInTenSeconds(t *testing.T) {
	s := start(t)
	for _, w := range s.Workers {
		w.Kill()
	}
	rounds := 3
	if proving() {
		rounds = 20
	}
	ids := make([]string, evaluations)
	var slowest time.Duration
	for round, done := 0, 0; done < rounds; round++ {
		require.Less(t, round, 3*rounds, "no worker was killed in the middle")
		// No worker runs: the API answers, and what is asked for waits.
		s.each(evaluations, func(i int) error {
			if round > 0 {
				_, err := s.api.Update(s.ctx, ids[i], 1+round%2)
				return err
			}
			owner, scope := s.Owner, cloud.OnHosts(s.Hosts[i%hosts])
			if i%3 == 1 {
				owner = cloud.Operators
			}
			in, err := s.api.Create(s.ctx, owner, scope)
			ids[i] = in.ID
			return err
		})
		for i := range 20 { // and some VMs change, of which workflows tell
			vm := s.VM((round*20+i)%hosts, i%vms)
			require.NoError(t, s.Retag(s.ctx, vm, map[string]string{"load": []string{"on", "off"}[(round+i)%2]}))
			require.NoError(t, s.api.Notify(s.ctx, vm))
		}
		back, err := s.Store.Backlog(s.ctx)
		require.NoError(t, err)
		require.Equal(t, evaluations, back.Unevaluated, "what was answered waits")

		w, err := s.StartWorker(s.ctx)
		require.NoError(t, err)
		least, most := evaluations/5, evaluations*4/5
		midst := least + rand.IntN(most-least)
		for back.Unevaluated > midst {
			back, err = s.Store.Backlog(s.ctx)
			require.NoError(t, err)
		}
		w.Kill()
		killed := yardstick.Start(t)
		back, err = s.Store.Backlog(s.ctx)
		require.NoError(t, err)
		wrong, _, err := s.wrong()
		require.NoError(t, err)
		successor, err := s.StartWorker(s.ctx)
		require.NoError(t, err)
		took := s.rightWithin(10*time.Second, killed)
		t.Logf("round %d: killed with %d of %d left and %d hosts wrong; every host right after %v, %v on the wall", round, back.Unevaluated,
			evaluations, wrong, took.Round(time.Millisecond), killed.Wall().Round(time.Millisecond))
		killed.Stop()
		require.Eventually(t, func() bool {
			b, err := s.Store.Backlog(s.ctx)
			return err == nil && b.Unevaluated == 0
		}, 2*time.Minute, 50*time.Millisecond, "every evaluation ends, also those that the dead one had begun")
		successor.Kill()
		if back.Unevaluated > 0 && wrong > 0 { // or else it was done before it was killed, and another round follows
			slowest = max(slowest, took)
			done++
		}
	}
	t.Logf("%d rounds, the slowest %v", rounds, slowest.Round(time.Millisecond))
}

func TestOneSweepRepairsWhatTheChangefeedLost(t *testing.T) {
	s := start(t)
	for _, scope := range []map[string]any{cloud.Tagged("load", "on"), cloud.Tagged("load", "off")} {
		_, err := s.api.Create(s.ctx, s.Owner, scope)
		require.NoError(t, err)
	}
	s.rightWithin(20*time.Second, yardstick.Start(t))
	s.put("/sim/faults", `[{"mode":"feed-loss","share":0.3}]`)
	s.each(hosts*vms, func(i int) error {
		return s.Retag(s.ctx, s.VM(i/vms, i%vms), map[string]string{"load": "on"})
	})
	// What the feed did tell arrives; what it lost does not: the number of wrong hosts falls and stands.
	left, since := hosts+1, time.Now()
	for time.Since(since) < 5*time.Second { // the feed is two seconds late
		n, _, err := s.wrong()
		require.NoError(t, err)
		if n != left {
			left, since = n, time.Now()
		}
	}
	require.Positive(t, left, "some hosts have lost messages")
	t.Logf("%d of %d hosts are wrong, for three messages in ten were lost", left, hosts)
	require.NoError(t, worker.NewQueue(s.Store.Client(), s.Store).Sweep(s.ctx))
	t.Logf("one sweep repaired them in %v", s.rightWithin(10*time.Second, yardstick.Start(t)).Round(time.Millisecond))
}
