package dtrace

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/collectors/collect"
	"iapi/collectors/dtrace/program"
	"iapi/collectors/internal/cgrouptest"
	"iapi/collectors/zone"
)

// container is a real cgroup with the zone that the resolver makes of it.
type container struct {
	*cgrouptest.Container
	id  uuid.UUID
	dir string
}

// realZones makes containers, each with an owner, and a resolver that knows them.
func realZones(t *testing.T, owners ...uuid.UUID) (*zone.Resolver, []container) {
	t.Helper()
	var all []container
	owner := map[uuid.UUID]uuid.UUID{}
	for _, o := range owners {
		c := cgrouptest.NewContainer(t)
		id := uuid.NewSHA1(zone.Namespace, []byte(c.ID))
		owner[id] = o
		all = append(all, container{Container: c, id: id})
	}
	r, err := zone.New(zone.Options{Sockets: []string{"/nonexistent"}, Owner: func(z zone.Zone) uuid.UUID { return owner[z.UUID] }})
	require.NoError(t, err)
	require.NoError(t, r.Refresh(t.Context()))
	for i, c := range all {
		z, found := r.Lookup(c.id)
		require.True(t, found)
		if z.Cgroups.Unified == "" {
			const missing = "this machine has no v2 cgroups, by which programs tell zones apart"
			if os.Getenv("CI") == "true" {
				t.Fatal(missing)
			}
			t.Skip(missing)
		}
		all[i].dir = z.Cgroups.Unified
	}
	return r, all
}

// leave takes a helper out of the containers, so that they can be removed.
func (h *helper) leave(c container) {
	h.t.Cleanup(func() { h.do("cgroup " + c.dir + "/../..") })
}

func (r *running) holds(cgroup uint64) bool {
	r.scoping.Lock()
	defer r.scoping.Unlock()
	return r.scope[cgroup] != 0
}

func TestAProgramIsKeptToItsZones(t *testing.T) {
	needTracer(t)
	resolver, c := realZones(t, uuid.Nil, uuid.Nil)
	e := newEngine(t, Options{Zones: resolver})
	h := newHelper(t)
	h.leave(c[0])
	h.do("name scoped")
	r := wish(definition(t, "syscall.syscalls"), fmt.Sprintf(getppid, "scoped"))
	r.WholeHost, r.Zones = false, nil
	p := open(t, e, r)
	a, b := c[0].id.String()+":", c[1].id.String()+":"

	h.do("cgroup "+c[0].dir, "getppid 11")
	require.Empty(t, drained(t, p).sums, "no zones means nothing")

	require.NoError(t, p.SetZones(t.Context(), []uuid.UUID{c[0].id}))
	h.do("getppid 100", "cgroup "+c[1].dir, "getppid 1000")
	require.Equal(t, map[string]float64{a: 100}, drained(t, p).sums)

	pid := p.run.proc.pid
	require.NoError(t, p.SetZones(t.Context(), []uuid.UUID{c[0].id, c[1].id}))
	h.do("getppid 70", "cgroup "+c[0].dir, "getppid 5")
	require.Equal(t, map[string]float64{a: 5, b: 70}, drained(t, p).sums)

	nested := c[0].Nested(t, "inner")
	info, err := os.Stat(nested)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return p.run.holds(inode(info)) }, time.Minute, 10*time.Millisecond, "what a zone makes within itself is part of it")
	h.do("cgroup "+nested, "getppid 30")
	require.Equal(t, map[string]float64{a: 30, b: 0}, drained(t, p).sums)

	require.NoError(t, p.SetZones(t.Context(), []uuid.UUID{c[1].id}))
	h.do("getppid 9")
	require.Equal(t, map[string]float64{b: 0}, drained(t, p).sums)
	var number uint64
	require.ErrorIs(t, p.run.maps.maps[program.ScopeMap].Lookup(inode(info), &number), ebpf.ErrKeyNotExist, "the kernel no longer lets it through")
	require.Equal(t, pid, p.run.proc.pid, "the program was never started again")
	h.do("cgroup " + c[0].dir)
}

func TestForeignZonesAreNotTraced(t *testing.T) {
	needTracer(t)
	mine, theirs := uuid.New(), uuid.New()
	resolver, c := realZones(t, mine, theirs)
	e := newEngine(t, Options{Zones: resolver})
	h := newHelper(t)
	h.leave(c[0])
	h.do("name foreign")
	r := wish(definition(t, "syscall.syscalls"), fmt.Sprintf(getppid, "foreign"), "zonename")
	r.WholeHost, r.Owner, r.Zones = false, mine, []uuid.UUID{c[0].id, c[1].id, uuid.New()}
	p := open(t, e, r)
	h.do("cgroup "+c[1].dir, "getppid 50", "cgroup "+c[0].dir, "getppid 20")
	sum := drained(t, p)
	require.Equal(t, map[string]float64{c[0].id.String() + ":" + c[0].id.String(): 20}, sum.sums)
	require.NotEmpty(t, sum.failures)
	for _, f := range sum.failures {
		require.NotEqual(t, c[0].id, f.Zone)
		require.Equal(t, collect.Failed, f.Code)
	}
}

// Wishes that are equal but for their zones share a program, and each gets its own zones.
func TestZonesOfASharedProgramStayApart(t *testing.T) {
	needTracer(t)
	resolver, c := realZones(t, uuid.Nil, uuid.Nil)
	e := newEngine(t, Options{Zones: resolver, MaxPrograms: 1})
	h := newHelper(t)
	h.leave(c[0])
	h.do("name shared")
	r := wish(definition(t, "syscall.syscalls"), fmt.Sprintf(getppid, "shared"))
	r.WholeHost, r.Zones = false, []uuid.UUID{c[0].id}
	first := open(t, e, r)
	r.Zones = []uuid.UUID{c[1].id}
	second := open(t, e, r)
	require.Same(t, first.run, second.run)
	h.do("cgroup "+c[0].dir, "getppid 3", "cgroup "+c[1].dir, "getppid 4")
	require.Equal(t, map[string]float64{c[0].id.String() + ":": 3}, drained(t, first).sums)
	require.Equal(t, map[string]float64{c[1].id.String() + ":": 4}, drained(t, second).sums)
	require.NoError(t, second.Close())
	h.do("getppid 8", "cgroup "+c[0].dir, "getppid 2")
	require.Equal(t, map[string]float64{c[0].id.String() + ":": 2}, drained(t, first).sums, "the other's zone has left the scope")

	r.Predicate.Args = r.Predicate.Args[:1]
	_, err := e.Open(t.Context(), r, variant(t, r.Definition, true))
	require.Equal(t, collect.OverBudget, collect.Refusal(err).Code, "another wish would be another program")
}

// A predicate on zonename keeps zones out of the scope.
func TestZonesThatThePredicateExcludesHaveNothing(t *testing.T) {
	needTracer(t)
	resolver, c := realZones(t, uuid.Nil, uuid.Nil)
	e := newEngine(t, Options{Zones: resolver})
	h := newHelper(t)
	h.leave(c[0])
	h.do("name excluded")
	r := wish(definition(t, "syscall.syscalls"), fmt.Sprintf(`{"and":[{"eq":["syscall","getppid"]},{"eq":["execname","excluded"]},{"ne":["zonename","%s"]}]}`, c[0].id))
	r.WholeHost, r.Zones = false, []uuid.UUID{c[0].id, c[1].id}
	p := open(t, e, r)
	h.do("cgroup "+c[0].dir, "getppid 3", "cgroup "+c[1].dir, "getppid 4")
	require.Equal(t, map[string]float64{c[0].id.String() + ":": 0, c[1].id.String() + ":": 4}, drained(t, p).sums)
}
