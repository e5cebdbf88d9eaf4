package instrumentation_test

import (
	"encoding/json"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/identity"
	in "iapi/instrumentation"
	it "iapi/instrumentation/instrumentationtest"
	"iapi/inventory"
	"iapi/measure"
)

// A metric is measured of whole hosts, of machines, or of both, and some fields only of one of them.
func TestPlacesThatAMetricIsNotMeasuredOfAreRefused(t *testing.T) {
	w, _ := publishingWorld(t)
	host := uuid.New()
	everyHost, machines := in.Scope{EveryHost: true}, in.Scope{VMs: []uuid.UUID{uuid.New()}}
	for name, c := range map[string]struct {
		metric, predicate string
		by                []string
		owner             uuid.UUID
		scope             in.Scope
		says              string // "": nothing is wrong
	}{
		"machines of a host's metric":  {"cpu.cpus", `{}`, nil, uuid.Nil, machines, "cpu.cpus is measured of whole hosts, and this scope means machines"},
		"a tag of machines":            {"zfs.pool_free", `{}`, nil, uuid.Nil, in.Scope{And: []in.Scope{{Hosts: []uuid.UUID{host}}, {Not: &in.Scope{VMTag: &in.TagMatch{Key: "role"}}}}}, "whole hosts"},
		"hosts of a host's metric":     {"cpu.cpus", `{}`, nil, uuid.Nil, in.Scope{Hosts: []uuid.UUID{host}}, ""},
		"hosts of a machines' metric":  {"nic.vnic_bytes", `{}`, nil, uuid.Nil, everyHost, "nic.vnic_bytes is measured of machines, and this scope means whole hosts"},
		"an owner's hosts":             {"nic.vnic_bytes", `{}`, nil, alice, everyHost, ""},
		"fields of hosts, of machines": {"disk.physio_ops", `{}`, []string{"latency"}, uuid.Nil, machines, "physio_ops"},
		"fields of hosts, of hosts":    {"disk.physio_ops", `{"gt":["latency",1000]}`, []string{"optype"}, uuid.Nil, everyHost, ""},
		"machines of both":             {"cpu.usage", `{}`, []string{"cpumode"}, alice, in.Scope{All: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := measure.ParsePredicate([]byte(c.predicate))
			require.NoError(t, err)
			_, err = w.Create(t.Context(), it.Operator(), counter(func(w *in.CreateInput) {
				w.Owner, w.Metric, w.Predicate, w.Decompositions, w.Scope = &c.owner, c.metric, p, c.by, c.scope
			}))
			if c.says == "" {
				require.NoError(t, err)
				return
			}
			require.Equal(t, []string{"INVALID_SCOPE scope"}, mistakes(t, err))
			require.ErrorContains(t, err, c.says)
		})
	}

	rec := create(t, w, it.Operator(), counter(func(w *in.CreateInput) { w.Metric, w.Scope = "cpu.cpus", everyHost }))
	_, err := w.Update(t.Context(), it.Operator(), in.UpdateInput{ID: rec.ID, Scope: in.Some(machines)})
	require.Equal(t, []string{"INVALID_SCOPE scope"}, mistakes(t, err), "nor can it become one")
	_, err = w.Update(t.Context(), it.Operator(), in.UpdateInput{ID: rec.ID, Scope: in.Some(in.Scope{Hosts: []uuid.UUID{host}})})
	require.NoError(t, err)
}

// Where a definition names all values that a field has, no other can be asked for.
func TestValuesThatAFieldNeverHasAreRefused(t *testing.T) {
	w, _ := publishingWorld(t)
	for predicate, want := range map[string][]string{
		`{"eq":["cpumode","user"]}`:                                      nil,
		`{"eq":["cpumode","users"]}`:                                     {"TYPE_MISMATCH predicate.eq"},
		`{"or":[{"eq":["cpumode","user"]},{"ne":["cpumode","Kernel"]}]}`: {"TYPE_MISMATCH predicate.or.1.ne"},
	} {
		p, err := measure.ParsePredicate([]byte(predicate))
		require.NoError(t, err)
		_, err = w.Create(t.Context(), it.Tenant(alice), counter(func(w *in.CreateInput) { w.Predicate = p }))
		if want == nil {
			require.NoError(t, err)
			continue
		}
		require.Equal(t, want, mistakes(t, err), predicate)
		require.ErrorContains(t, err, "it is one of")
	}
}

// What an agent has to say of what it measures all the same is about its host, so that only operators read it.
func TestWhatIsSaidOfASourceThatRunsIsForOperators(t *testing.T) {
	w := it.NewWorld(t)
	hosts, vms := w.Fleet(1, alice, bob)
	vm := vms[0][0]
	rec := create(t, w, it.Tenant(alice), counter())
	w.Store.Settle()
	const said = "target 1 does not take data: dial from cn-7: refused; the spool takes no more"
	put := func(status in.Status, message string) {
		w.Store.PutPlacement(rec.ID, in.HostPlacement{Host: inventory.Host{UUID: hosts[0].UUID, Name: "cn-7"}, VMs: []uuid.UUID{vm.UUID}, Status: status, Message: message,
			Targets: []in.TargetStatus{{Target: 1, Dropped: 3, LastError: "dial from cn-7: refused"}}})
	}
	everything := func(c identity.Caller) (problems []in.Problem, why in.Explanation, all string) {
		t.Helper()
		problems, err := of(t.Context(), w, c, rec.ID, w.ProblemsOf)
		require.NoError(t, err)
		why, err = w.Explain(t.Context(), c, rec.ID, uuid.Nil, vm.UUID)
		require.NoError(t, err)
		places, err := vmsOf(t.Context(), w, c, rec.ID, in.Page{First: 10})
		require.NoError(t, err)
		text, err := json.Marshal([]any{problems, why, places})
		require.NoError(t, err)
		return problems, why, string(text)
	}

	put(in.StatusRunning, said)
	problems, why, all := everything(it.Operator())
	require.Equal(t, []in.Problem{{Status: in.StatusRunning, Message: said, Sources: 1, ExampleVM: vm.UUID}}, problems)
	require.Contains(t, all, "3 points are lost: dial from cn-7: refused")
	for _, c := range []identity.Caller{it.Tenant(alice), {ID: "service:portal", Kind: identity.Service, Owner: alice}} {
		problems, why, all = everything(c)
		require.Empty(t, problems, "it is no problem of theirs")
		require.NotContains(t, all, "cn-7")
		require.NotContains(t, all, "spool")
		require.Equal(t, []in.Cause{
			{Code: "TARGET_DOWN", Message: "The data cannot be sent to target 1 at present."},
			{Code: "RUNNING", Message: "It is being measured."},
		}, why.Causes, "but that their data do not come they are told")
	}

	put(in.StatusPending, "no target has taken data yet: dial from cn-7: refused")
	problems, _, all = everything(it.Tenant(alice))
	require.Len(t, problems, 1)
	require.Equal(t, in.StatusPending, problems[0].Status)
	require.Equal(t, vm.UUID, problems[0].ExampleVM)
	require.NotContains(t, all, "cn-7")
	problems, _, _ = everything(it.Operator())
	require.Contains(t, problems[0].Message, "cn-7")
}
