package placement

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/inventory"
)

func TestMatcherAgreesWithTheOracle(t *testing.T) {
	w := newWorld(1)
	matches := 0
	for range 10_000 {
		s, owner := w.scope(4), pick(w, w.owners)
		m := Compile(s, owner)
		for _, vm := range w.vms {
			want := oracleZone(s, owner, vm, w.hosts)
			require.Equal(t, want, m.Match(&vm, w.knownHost(vm.Host)), "scope %+v owner %s vm %+v", s, owner, vm)
			if want {
				matches++
			}
		}
		for _, h := range w.hosts {
			require.Equal(t, oracleHost(s, owner, h), m.MatchHost(&h), "scope %+v owner %s host %+v", s, owner, h)
		}
	}
	require.Greater(t, matches, 10_000, "the scopes match too little to prove anything")
}

func TestNoScopeReachesTheVMOfAnotherOwner(t *testing.T) {
	w := newWorld(2)
	for range 100_000 {
		s, owner := w.scope(4), pick(w, w.owners[1:])
		m := Compile(s, owner)
		vm := w.vms[pick(w, w.vmID)]
		if vm.Owner != owner {
			require.False(t, m.Match(&vm, w.knownHost(vm.Host)), "scope %+v owner %s vm %+v", s, owner, vm)
		}
		require.False(t, m.MatchHost(&inventory.Host{UUID: w.hostID[1]}), "an owner never has a whole host: %+v", s)
	}
}

func TestWhatIsUnknownNeitherMatchesNorIsItsComplementMatched(t *testing.T) {
	vm := inventory.VM{UUID: numbered(3, 1), Host: numbered(2, 1), State: "running"}
	trait := instrumentation.Scope{HostTag: &instrumentation.TagMatch{Key: "ssd"}}
	all := instrumentation.Scope{All: true}
	with := func(s instrumentation.Scope) *Matcher {
		return Compile(instrumentation.Scope{And: []instrumentation.Scope{all, s}}, uuid.Nil)
	}
	not := instrumentation.Scope{Not: &trait}
	invalid := instrumentation.Scope{}
	require.False(t, with(trait).Match(&vm, nil))
	require.False(t, with(not).Match(&vm, nil))
	require.False(t, with(not).Match(&vm, &inventory.Host{UUID: numbered(2, 9)}), "another host says nothing")
	require.True(t, with(not).Match(&vm, &inventory.Host{UUID: vm.Host}))
	require.False(t, with(instrumentation.Scope{Not: &invalid}).Match(&vm, nil))
	require.False(t, with(instrumentation.Scope{All: true, EveryHost: true}).Match(&vm, nil), "two members at once")
}

func TestNeedsLeavesOutNoVMOfTheScope(t *testing.T) {
	w := newWorld(3)
	narrowed := 0
	for range 20_000 {
		s, owner := w.scope(4), pick(w, w.owners)
		q := Needs(s, owner)
		if q.VMs != nil || q.Hosts != nil || q.None {
			narrowed++
		}
		for _, vm := range w.vms {
			if !oracleZone(s, owner, vm, w.hosts) {
				continue
			}
			require.False(t, q.None, "%+v", s)
			require.True(t, q.Owner == uuid.Nil || q.Owner == vm.Owner)
			require.True(t, q.VMs == nil || slices.Contains(q.VMs, vm.UUID), "%+v", s)
			require.True(t, q.Hosts == nil || slices.Contains(q.Hosts, vm.Host), "%+v", s)
		}
	}
	require.Greater(t, narrowed, 1000)
}

func TestNeedsPushesDownOwnerVMsAndHostsOnly(t *testing.T) {
	owner, a, b, h := numbered(1, 1), numbered(3, 1), numbered(3, 2), numbered(2, 1)
	tag := instrumentation.Scope{VMTag: &instrumentation.TagMatch{Key: "role", In: []string{"db"}}}
	vms := instrumentation.Scope{VMs: []uuid.UUID{b, a, a}}
	hosts := instrumentation.Scope{Hosts: []uuid.UUID{h}}
	and := func(s ...instrumentation.Scope) instrumentation.Scope { return instrumentation.Scope{And: s} }
	or := func(s ...instrumentation.Scope) instrumentation.Scope { return instrumentation.Scope{Or: s} }
	require.Equal(t, Query{Owner: owner}, Needs(tag, owner))
	require.Equal(t, Query{Owner: owner, VMs: []uuid.UUID{a, b}}, Needs(and(tag, vms), owner))
	require.Equal(t, Query{VMs: []uuid.UUID{a, b}, Hosts: []uuid.UUID{h}}, Needs(and(hosts, vms), uuid.Nil))
	require.Equal(t, Query{}, Needs(or(tag, vms), uuid.Nil))
	require.Equal(t, Query{}, Needs(instrumentation.Scope{Not: &vms}, uuid.Nil))
	require.Equal(t, Query{None: true}, Needs(and(vms, instrumentation.Scope{VMs: []uuid.UUID{numbered(3, 9)}}), uuid.Nil))
	require.Equal(t, Query{None: true, Hosts: []uuid.UUID{h}}, Needs(hosts, uuid.Nil), "whole hosts need no VMs")
	require.Equal(t, Query{None: true}, Needs(instrumentation.Scope{EveryHost: true}, uuid.Nil))
}

func TestExplainAgreesWithTheMatcherAndNamesACause(t *testing.T) {
	w := newWorld(4)
	for range 10_000 {
		s, owner := w.scope(4), pick(w, w.owners)
		m := Compile(s, owner)
		vm := w.vms[pick(w, w.vmID)]
		host := w.knownHost(vm.Host)
		placed, causes := Explain(s, owner, &vm, host)
		require.Equal(t, m.Match(&vm, host), placed, "scope %+v owner %s vm %+v", s, owner, vm)
		require.NotEmpty(t, causes)
		for id, h := range w.hosts {
			placed, causes = Explain(s, owner, nil, &h)
			require.Equal(t, m.MatchHost(&h), placed, "%s", id)
			require.NotEmpty(t, causes)
		}
	}
}

func TestExplainNamesTheDecidingTerm(t *testing.T) {
	owner := numbered(1, 1)
	vm := inventory.VM{UUID: numbered(3, 1), Owner: owner, Host: numbered(2, 1), State: "running", Tags: map[string]string{"role": "web"}}
	db := instrumentation.Scope{VMTag: &instrumentation.TagMatch{Key: "role", In: []string{"db", "cache"}}}
	alias := instrumentation.Scope{VMAlias: "x"}
	both := instrumentation.Scope{And: []instrumentation.Scope{{All: true}, db}}
	either := instrumentation.Scope{Or: []instrumentation.Scope{db, alias}}
	cases := []struct {
		scope  instrumentation.Scope
		change func(*inventory.VM)
		placed bool
		causes []instrumentation.Cause
	}{
		{both, nil, false, []instrumentation.Cause{{Code: CodeMismatch, Message: `The zone's tag "role" is "web", not "db" or "cache".`}}},
		{either, nil, false, []instrumentation.Cause{
			{Code: CodeMismatch, Message: `The zone's tag "role" is "web", not "db" or "cache".`},
			{Code: CodeMismatch, Message: `The zone's alias is not "x".`},
		}},
		{instrumentation.Scope{Not: &db}, nil, true, []instrumentation.Cause{{Code: CodeMatches, Message: `The zone's tag "role" is "web", not "db" or "cache".`}}},
		{both, func(v *inventory.VM) { v.Owner = numbered(1, 2) }, false, []instrumentation.Cause{{Code: CodeOwner, Message: "The zone does not belong to the owner of the instrumentation."}}},
		{both, func(v *inventory.VM) { v.State = "destroyed" }, false, []instrumentation.Cause{{Code: CodeNotPlaced, Message: "The zone is destroyed."}}},
		{instrumentation.Scope{And: []instrumentation.Scope{{All: true}, {HostTag: &instrumentation.TagMatch{Key: "ssd"}}}}, nil, false,
			[]instrumentation.Cause{{Code: CodeUnknown, Message: "Nothing is known of the host's traits."}}},
	}
	for i, c := range cases {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			v := vm
			if c.change != nil {
				c.change(&v)
			}
			placed, causes := Explain(c.scope, owner, &v, nil)
			require.Equal(t, c.placed, placed)
			require.Equal(t, c.causes, causes)
		})
	}
}

func record(w *world, n int) *instrumentation.Instrumentation {
	return &instrumentation.Instrumentation{ID: instrumentation.ID(fmt.Sprintf("i%04d", n)), Owner: pick(w, w.owners), Scope: w.scope(4)}
}

func TestSetAgreesWithTheOracleWhileItChanges(t *testing.T) {
	w := newWorld(5)
	set := NewSet()
	live := map[instrumentation.ID]*instrumentation.Instrumentation{}
	for step := range 6_000 {
		if rec := record(w, w.r.IntN(150)); w.r.IntN(3) == 0 {
			_, in := live[rec.ID]
			require.Equal(t, in, set.Remove(rec.ID))
			delete(live, rec.ID)
		} else {
			set.Add(rec)
			live[rec.ID] = rec
		}
		vm := w.vms[pick(w, w.vmID)]
		var want, got []string
		for id, rec := range live {
			if oracleZone(rec.Scope, rec.Owner, vm, w.hosts) {
				want = append(want, string(id))
			}
		}
		for _, rec := range set.ForVM(nil, &vm, w.knownHost(vm.Host)) {
			require.Same(t, live[rec.ID], rec)
			got = append(got, string(rec.ID))
		}
		require.ElementsMatch(t, want, got, "step %d vm %+v", step, vm)
		if step%50 == 0 {
			for _, h := range w.hostID {
				requireHost(t, w, set, live, h)
			}
		}
	}
	require.Equal(t, len(live), set.Stats().Scopes)
	for id := range live {
		set.Remove(id)
	}
	require.Equal(t, SetStats{}, set.Stats(), "nothing is left of what was removed")
}

func requireHost(t *testing.T, w *world, set *Set, live map[instrumentation.ID]*instrumentation.Instrumentation, id uuid.UUID) {
	t.Helper()
	vms := make([]inventory.VM, 0, len(w.vms))
	for _, vmID := range w.vmID {
		vms = append(vms, w.vms[vmID]) // those of other hosts too: they are none of this host's
	}
	host, known := w.hosts[id]
	host.UUID = id
	want := map[instrumentation.ID]Placed{}
	for _, rec := range live {
		p := Placed{Instrumentation: rec, Whole: known && oracleHost(rec.Scope, rec.Owner, host)}
		for _, vm := range vms {
			if vm.Host == id && oracleZone(rec.Scope, rec.Owner, vm, w.hosts) {
				p.VMs = append(p.VMs, Zone{vm.UUID, vm.Owner})
			}
		}
		if p.Whole || len(p.VMs) > 0 {
			want[rec.ID] = p
		}
	}
	got := set.ForHost(&host, known, vms)
	require.Len(t, got, len(want))
	for i, p := range got {
		require.Equal(t, want[p.Instrumentation.ID], p)
		require.True(t, i == 0 || got[i-1].Instrumentation.ID < p.Instrumentation.ID, "sorted by id")
	}
}

func TestSetIsReadWhileItChanges(t *testing.T) {
	w := newWorld(6)
	set := NewSet()
	recs := make([]*instrumentation.Instrumentation, 200)
	for i := range recs {
		recs[i] = record(w, i)
	}
	fixed := &instrumentation.Instrumentation{ID: "fixed", Scope: instrumentation.Scope{All: true}}
	set.Add(fixed)
	vm := inventory.VM{UUID: numbered(3, 1), Host: numbered(2, 1), State: "running", Tags: map[string]string{"key0": "db"}}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 3_000 {
				got := set.ForVM(nil, &vm, nil)
				if !slices.Contains(got, fixed) {
					t.Error("the scope that always matches was missed")
					return
				}
			}
		})
	}
	for i := range 2_000 {
		rec := recs[i%len(recs)]
		if !set.Remove(rec.ID) {
			set.Add(rec)
		}
	}
	wg.Wait()
}

func TestInventoryAgreesWithTheOracleWhileItChanges(t *testing.T) {
	w := newWorld(7)
	x := NewInventory()
	for _, h := range w.hosts {
		x.PutHost(h)
	}
	for _, vm := range w.vms {
		x.PutVM(vm)
	}
	for step := range 4_000 {
		i, h := w.r.IntN(len(w.vmID)), 1+w.r.IntN(len(w.hostID)-1)
		switch w.r.IntN(8) {
		case 0:
			x.RemoveVM(w.vmID[i])
			delete(w.vms, w.vmID[i])
		case 1:
			x.RemoveHost(w.hostID[h])
			delete(w.hosts, w.hostID[h])
		case 2:
			w.hosts[w.hostID[h]] = w.host(h)
			x.PutHost(w.hosts[w.hostID[h]])
		default:
			w.vms[w.vmID[i]] = w.vm(i)
			x.PutVM(w.vms[w.vmID[i]])
		}
		s, owner := w.scope(4), pick(w, w.owners)
		want := []uuid.UUID{}
		for _, vm := range w.vms {
			if oracleZone(s, owner, vm, w.hosts) {
				want = append(want, vm.UUID)
			}
		}
		for _, host := range w.hosts {
			if oracleHost(s, owner, host) {
				want = append(want, host.UUID)
			}
		}
		require.ElementsMatch(t, want, x.Evaluate(s, owner), "step %d scope %+v", step, s)
		require.Equal(t, len(want), x.Count(s, owner))
	}
	for id := range w.vms {
		x.RemoveVM(id)
	}
	for id := range w.hosts {
		x.RemoveHost(id)
	}
	vms, hosts := x.Len()
	require.Zero(t, vms+hosts)
	require.Empty(t, x.vmTraits)
	require.Empty(t, x.vms.termIDs)
}
