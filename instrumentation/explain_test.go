package instrumentation_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/identity"
	in "iapi/instrumentation"
	it "iapi/instrumentation/instrumentationtest"
	"iapi/inventory"
)

func codes(e in.Explanation) []string {
	var out []string
	for _, c := range e.Causes {
		out = append(out, c.Code)
	}
	return out
}

func TestExplainNamesTheDecidingCauseFirst(t *testing.T) {
	type place struct{ host, vm uuid.UUID }
	scope := in.Scope{And: []in.Scope{tag("role", "db"), not(in.Scope{VMAlias: "spare"}), {Or: []in.Scope{tag("env", "prod"), tag("env", "test")}}}}
	vm := inventory.VM{UUID: vmA, Owner: alice, Alias: "db0", State: "running", Host: hostA, Tags: map[string]string{"role": "db", "env": "prod"}}
	agent := in.AgentInfo{Online: true}
	tests := []struct {
		name   string
		change func(w *it.World, rec *in.Instrumentation, vm *inventory.VM, agent **in.AgentInfo)
		after  func(w *it.World, rec in.Instrumentation)
		ask    place
		placed bool
		want   []string
		says   string
	}{
		{name: "it runs", placed: true, want: []string{"RUNNING"}},
		{name: "wrong tag", change: func(_ *it.World, _ *in.Instrumentation, vm *inventory.VM, _ **in.AgentInfo) { vm.Tags["role"] = "web" },
			want: []string{"NOT_MATCHED"}, says: "The scope does not match: vm tag role in (db)"},
		{name: "spare", change: func(_ *it.World, _ *in.Instrumentation, vm *inventory.VM, _ **in.AgentInfo) { vm.Alias = "spare" },
			want: []string{"NOT_MATCHED"}, says: `The scope does not match: not vm alias "spare"`},
		{name: "no environment", change: func(_ *it.World, _ *in.Instrumentation, vm *inventory.VM, _ **in.AgentInfo) { delete(vm.Tags, "env") },
			want: []string{"NOT_MATCHED"}, says: "The scope does not match: vm tag env in (prod) or vm tag env in (test)"},
		{name: "no agent", change: func(_ *it.World, _ *in.Instrumentation, _ *inventory.VM, a **in.AgentInfo) { *a = nil },
			placed: true, want: []string{"NO_AGENT"}},
		{name: "offline", change: func(_ *it.World, _ *in.Instrumentation, _ *inventory.VM, a **in.AgentInfo) { (*a).Online = false },
			placed: true, want: []string{"OFFLINE"}},
		{name: "paused", change: func(w *it.World, rec *in.Instrumentation, _ *inventory.VM, _ **in.AgentInfo) {
			rec.PausedAt = w.Clock.Now()
		},
			want: []string{"PAUSED"}},
		{name: "expired and paused", change: func(w *it.World, rec *in.Instrumentation, _ *inventory.VM, _ **in.AgentInfo) {
			rec.PausedAt, rec.ExpiresAt = w.Clock.Now(), w.Clock.Now()
		}, want: []string{"EXPIRED", "PAUSED"}},
		{name: "destroyed", change: func(_ *it.World, _ *in.Instrumentation, vm *inventory.VM, _ **in.AgentInfo) { vm.State = "destroyed" },
			want: []string{"NOT_PLACED"}},
		{name: "stopped", change: func(_ *it.World, _ *in.Instrumentation, vm *inventory.VM, _ **in.AgentInfo) { vm.State = "stopped" },
			placed: true, want: []string{"RUNNING"}},
		{name: "another owner", change: func(_ *it.World, _ *in.Instrumentation, vm *inventory.VM, _ **in.AgentInfo) { vm.Owner = bob },
			want: []string{"OTHER_OWNER"}},
		{name: "unknown machine", ask: place{vm: vmB}, want: []string{"UNKNOWN_VM"}},
		{name: "unknown host", ask: place{host: vmB}, want: []string{"UNKNOWN_HOST"}},
		{name: "its host", ask: place{host: hostA}, placed: true, want: []string{"RUNNING"}},
		{name: "a host without a zone of it", ask: place{host: hostA}, change: func(_ *it.World, _ *in.Instrumentation, vm *inventory.VM, _ **in.AgentInfo) { vm.Owner = bob },
			want: []string{"NOT_MATCHED"}},
		{name: "not evaluated", after: func(w *it.World, rec in.Instrumentation) {
			rec.Revision++
			w.Store.Put(rec)
			moved := vm
			moved.UUID = vmB
			w.Store.PutVMs(moved)
		}, ask: place{vm: vmB}, want: []string{"NOT_EVALUATED"}},
		{name: "not in the document yet", after: func(w *it.World, _ in.Instrumentation) {
			moved := vm
			moved.UUID = vmB
			w.Store.PutVMs(moved)
		}, ask: place{vm: vmB}, want: []string{"NOT_IN_DOCUMENT"}},
		{name: "not acknowledged", after: func(w *it.World, rec in.Instrumentation) {
			w.Store.PutPlacement(rec.ID, in.HostPlacement{Host: inventory.Host{UUID: hostA}, VMs: []uuid.UUID{vmA}, Status: in.StatusPending})
		}, placed: true, want: []string{"NOT_ACKNOWLEDGED"}},
		{name: "unsupported", after: func(w *it.World, rec in.Instrumentation) {
			w.Store.PutPlacement(rec.ID, in.HostPlacement{Host: inventory.Host{UUID: hostA}, VMs: []uuid.UUID{vmA}, Status: in.StatusRunning,
				Failures: map[uuid.UUID]in.SourceFailure{vmA: {Status: in.StatusUnsupported, Message: "kernel 4.4 of cn-7"}}})
		}, placed: true, want: []string{"UNSUPPORTED"}, says: "kernel 4.4 of cn-7"},
		{name: "over budget", after: func(w *it.World, rec in.Instrumentation) {
			w.Store.PutPlacement(rec.ID, in.HostPlacement{Host: inventory.Host{UUID: hostA}, VMs: []uuid.UUID{vmA}, Status: in.StatusOverBudget})
		}, placed: true, want: []string{"OVER_BUDGET"}},
		{name: "a target is down", after: func(w *it.World, rec in.Instrumentation) {
			w.Store.PutPlacement(rec.ID, in.HostPlacement{Host: inventory.Host{UUID: hostA}, VMs: []uuid.UUID{vmA}, Status: in.StatusRunning,
				Targets: []in.TargetStatus{{Target: 0, Connected: true}, {Target: 1, Dropped: 7, LastError: "dial from cn-7: refused"}, {Target: 2}}})
		}, placed: true, want: []string{"TARGET_DOWN", "RUNNING"}, says: "The data cannot be sent to target 1, and 7 points are lost: dial from cn-7: refused"},
		{name: "denied, and a target is down", after: func(w *it.World, rec in.Instrumentation) {
			w.Store.PutPlacement(rec.ID, in.HostPlacement{Host: inventory.Host{UUID: hostA}, VMs: []uuid.UUID{vmA}, Status: in.StatusDenied,
				Targets: []in.TargetStatus{{LastError: "dial from cn-7: refused"}}})
		}, placed: true, want: []string{"DENIED", "TARGET_DOWN"}},
		{name: "retagged, and still in place", after: func(w *it.World, _ in.Instrumentation) {
			retagged := vm
			retagged.Tags = nil
			w.Store.PutVMs(retagged)
		}, placed: true, want: []string{"NOT_MATCHED", "REMOVING"}},
		{name: "stale", change: func(w *it.World, rec *in.Instrumentation, _ *inventory.VM, _ **in.AgentInfo) {
			rec.StaleFrom = w.Clock.Now()
		},
			placed: true, want: []string{"RUNNING", "STALE_INVENTORY"}},
		{name: "whole hosts", ask: place{vm: vmA}, change: func(_ *it.World, rec *in.Instrumentation, _ *inventory.VM, _ **in.AgentInfo) {
			rec.Owner, rec.Scope = uuid.Nil, in.Scope{EveryHost: true}
		}, placed: true, want: []string{"RUNNING", "WHOLE_HOST"}},
		{name: "other racks", ask: place{host: hostA}, change: func(_ *it.World, rec *in.Instrumentation, _ *inventory.VM, _ **in.AgentInfo) {
			rec.Owner, rec.Scope = uuid.Nil, in.Scope{HostTag: &in.TagMatch{Key: "rack", In: []string{"r2"}}}
		}, want: []string{"NOT_MATCHED"}, says: "The scope does not match: host tag rack in (r2)"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := it.NewWorld(t)
			made := create(t, w, it.Tenant(alice), counter(func(c *in.CreateInput) { c.Scope = scope }))
			rec, _ := w.Store.Stored(made.ID)
			vm, info := vm, agent
			vm.Tags = map[string]string{"role": "db", "env": "prod"}
			a := &info
			if test.change != nil {
				test.change(w, &rec, &vm, &a)
			}
			w.Store.Put(rec)
			w.Store.PutVMs(vm)
			w.Store.PutHosts(in.FleetHost{Host: inventory.Host{UUID: hostA, Name: "cn-7", Traits: map[string]string{"rack": "r1"}}, Agent: a})
			w.Store.Settle()
			rec, _ = w.Store.Stored(made.ID)
			if test.after != nil {
				test.after(w, rec)
			}
			ask := test.ask
			if ask == (place{}) {
				ask.vm = vmA
			}
			got, err := w.Explain(t.Context(), it.Operator(), made.ID, ask.host, ask.vm)
			require.NoError(t, err)
			require.Equal(t, test.want, codes(got), "%+v", got)
			require.Equal(t, test.placed, got.Placed)
			if test.says != "" {
				require.Equal(t, test.says, got.Causes[0].Message)
			}
			if rec.Owner != alice || ask.vm == uuid.Nil {
				return
			}
			got, err = w.Explain(t.Context(), it.Tenant(alice), made.ID, uuid.Nil, ask.vm)
			require.NoError(t, err)
			for _, c := range got.Causes {
				require.NotContains(t, c.Message, "cn-7")
				require.NotContains(t, c.Message, hostA.String())
			}
		})
	}
}

func TestExplainIsForOnePlaceOfOnesOwn(t *testing.T) {
	w := it.NewWorld(t)
	hosts, vms := w.Fleet(1, alice, bob)
	rec := create(t, w, it.Tenant(alice), counter())
	w.Store.Settle()
	ask := func(c identity.Caller, host, vm uuid.UUID) error {
		_, err := w.Explain(t.Context(), c, rec.ID, host, vm)
		return err
	}
	require.ErrorIs(t, ask(it.Operator(), uuid.Nil, uuid.Nil), in.ErrBadRequest)
	require.ErrorIs(t, ask(it.Operator(), hosts[0].UUID, vms[0][0].UUID), in.ErrBadRequest)
	require.ErrorIs(t, ask(it.Tenant(alice), hosts[0].UUID, uuid.Nil), in.ErrForbidden)
	require.ErrorIs(t, ask(it.Cloudapi(), hosts[0].UUID, uuid.Nil), in.ErrForbidden)
	require.ErrorIs(t, ask(it.Tenant(bob), uuid.Nil, vms[0][1].UUID), in.ErrNotFound)
	foreign, err := w.Explain(t.Context(), it.Tenant(alice), rec.ID, uuid.Nil, vms[0][1].UUID)
	require.NoError(t, err)
	unknown, err := w.Explain(t.Context(), it.Tenant(alice), rec.ID, uuid.Nil, uuid.New())
	require.NoError(t, err)
	require.Equal(t, unknown, foreign, "another's machine looks like none")
}

func TestProblemsAreForTheCallerToRead(t *testing.T) {
	w := it.NewWorld(t)
	hosts, vms := w.Fleet(2, alice)
	rec := create(t, w, it.Tenant(alice), counter())
	found, err := of(t.Context(), w, it.Tenant(alice), rec.ID, w.ProblemsOf)
	require.NoError(t, err)
	require.Empty(t, found, "nothing is known before it is evaluated")
	w.Store.Settle()
	sold := vms[1][0]
	sold.Owner = bob
	w.Store.PutVMs(sold)
	for i, text := range []string{"bpftrace: /proc of " + hosts[0].Name, "bpftrace: other text"} {
		w.Store.PutPlacement(rec.ID, in.HostPlacement{Host: hosts[i], VMs: []uuid.UUID{vms[i][0].UUID}, Status: in.StatusFailed, Message: text})
	}
	found, err = of(t.Context(), w, it.Operator(), rec.ID, w.ProblemsOf)
	require.NoError(t, err)
	require.Len(t, found, 2)
	found, err = of(t.Context(), w, it.Tenant(alice), rec.ID, w.ProblemsOf)
	require.NoError(t, err)
	require.Equal(t, []in.Problem{{Status: in.StatusFailed, Message: "Measuring failed.", Sources: 2, ExampleVM: vms[0][0].UUID}}, found)

	places, err := vmsOf(t.Context(), w, it.Tenant(alice), rec.ID, in.Page{})
	require.NoError(t, err)
	require.Len(t, places.Items, 1, "a machine that has been sold is not shown")
	require.Equal(t, "Measuring failed.", places.Items[0].Message)

	nothing := create(t, w, it.Tenant(alice), counter(func(c *in.CreateInput) { c.Scope = tag("nobody has this") }))
	w.Store.Settle()
	stored, _ := w.Store.Stored(nothing.ID)
	stored.StaleFrom = w.Clock.Now().Add(-time.Hour)
	w.Store.Put(stored)
	found, err = of(t.Context(), w, it.Tenant(alice), nothing.ID, w.ProblemsOf)
	require.NoError(t, err)
	require.Len(t, found, 2)
	require.Contains(t, found[0].Message, "since 2026-03-01T11:00:00Z")
	require.Equal(t, "The scope matches nothing at present.", found[1].Message)
}
