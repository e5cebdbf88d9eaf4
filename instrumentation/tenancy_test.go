package instrumentation_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/identity"
	in "iapi/instrumentation"
	it "iapi/instrumentation/instrumentationtest"
	"iapi/inventory"
)

// TestTenantsSeeOnlyTheirOwn is I4: fifty tenants call everything at random with ids of their own, of others and of
// nothing, while machines change hands; nothing that they get holds what is not theirs, and nothing names a host.
func TestTenantsSeeOnlyTheirOwn(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	w := it.NewWorld(t, func(o *in.Options) { o.Policy.Instrumentations = 10_000 })
	var owners []uuid.UUID
	for range 50 {
		owners = append(owners, uuid.New())
	}
	hosts, placed := w.Fleet(6)
	_ = placed
	hostIDs := make([]uuid.UUID, len(hosts))
	names := map[string]bool{}
	for i, h := range hosts {
		hostIDs[i] = h.UUID
		names[h.Name], names[h.UUID.String()] = true, true
	}
	var vmIDs []uuid.UUID
	owns := map[uuid.UUID]uuid.UUID{}
	put := func(id uuid.UUID) {
		vm := inventory.VM{UUID: id, Owner: owners[r.IntN(50)], Alias: fmt.Sprint("alias", r.IntN(3)), State: "running", Host: hostIDs[r.IntN(6)], Tags: randomTags(r)}
		owns[id] = vm.Owner
		w.Store.PutVMs(vm)
	}
	for range 300 {
		vmIDs = append(vmIDs, uuid.New())
		put(vmIDs[len(vmIDs)-1])
	}
	recs := map[in.ID]uuid.UUID{}
	var ids []in.ID
	// Operators have their own, and make some for tenants whose scopes name hosts.
	for i := range 40 {
		owner := &owners[i%50]
		if i%4 == 0 {
			owner = nil
		}
		rec, err := w.Create(t.Context(), it.Operator(), counter(func(c *in.CreateInput) {
			c.Owner, c.Name = owner, "made by an operator"
			c.Scope = in.Scope{Or: []in.Scope{{Hosts: hostIDs[:1+r.IntN(3)]}, {HostTag: &in.TagMatch{Key: "rack", In: []string{hosts[0].Name}}}, tag("a")}}
		}))
		require.NoError(t, err)
		recs[rec.ID] = rec.Owner
		ids = append(ids, rec.ID)
	}
	for step := range 1500 {
		me := owners[r.IntN(50)]
		c := it.Tenant(me)
		if r.IntN(5) == 0 {
			c = identity.Caller{ID: "service:portal", Kind: identity.Service, Owner: me}
		}
		id := ids[r.IntN(len(ids))]
		mine := recs[id] == me
		vm := vmIDs[r.IntN(len(vmIDs))]
		if step%50 == 0 {
			w.Store.Settle()
			put(vm) // may change hands after it was placed
		}
		ctx := t.Context()
		scope := randomScope(r, 3, vmIDs, nil)
		var got any
		var err error
		call := r.IntN(17)
		switch call {
		case 0:
			var rec *in.Instrumentation
			if rec, err = w.Create(ctx, c, counter(func(c *in.CreateInput) { c.Scope = scope })); err == nil {
				require.Equal(t, me, rec.Owner)
				recs[rec.ID] = me
				ids = append(ids, rec.ID)
			}
			got = rec
		case 1:
			got, err = w.Create(ctx, c, counter(func(c *in.CreateInput) { c.Owner = &owners[(r.IntN(49)+1+step)%50] }))
			if err == nil {
				rec := got.(*in.Instrumentation)
				require.Equal(t, me, rec.Owner)
				recs[rec.ID] = me
				ids = append(ids, rec.ID)
			}
		case 2:
			got, err = w.Update(ctx, c, in.UpdateInput{ID: id, Scope: in.Some(scope)})
			require.False(t, err == nil && !mine)
		case 3:
			got, err = w.Get(ctx, c, ids...)
		case 4:
			got, err = w.List(ctx, c, in.Filter{VM: vm}, in.Page{})
		case 5:
			got, err = w.List(ctx, c, in.Filter{Owner: &owners[r.IntN(50)], Text: "operator"}, in.Page{First: 500})
		case 6:
			got, err = of(ctx, w, c, id, w.CoverageOf)
			require.True(t, mine || errors.Is(err, in.ErrNotFound))
		case 7:
			got, err = of(ctx, w, c, id, w.ProblemsOf)
		case 8:
			got, err = vmsOf(ctx, w, c, id, in.Page{First: 100})
		case 9:
			got, err = hostsOf(ctx, w, c, id, in.Page{})
		case 10:
			got, err = w.Preview(ctx, c, in.PreviewInput{Scope: scope})
			if err == nil {
				got.(*in.Previewed).Token = ""
			}
		case 11:
			got, err = w.Explain(ctx, c, id, uuid.Nil, vm)
		case 12:
			got, err = w.Explain(ctx, c, id, hostIDs[0], uuid.Nil)
		case 13:
			var found []*inventory.VM
			found, err = w.Machines(ctx, c, vm, vm)
			require.Equal(t, owns[vm] == me, found[1] != nil)
			got = found
		case 14:
			got, err = w.Clone(ctx, c, in.CloneInput{ID: id})
			if rec := got.(*in.Instrumentation); err == nil {
				require.Equal(t, me, rec.Owner)
				recs[rec.ID] = me
				ids = append(ids, rec.ID)
			}
		case 15:
			switch r.IntN(3) {
			case 0:
				got, err = w.Pause(ctx, c, id)
			case 1:
				got, err = w.Refresh(ctx, c, id)
			default:
				err = w.Delete(ctx, c, id)
			}
		case 16:
			fleet, e1 := w.Service.Fleet(ctx, c, nil, in.Page{})
			host, e2 := w.Service.Hosts(ctx, c, hostIDs[0])
			audit, e3 := w.Audit(ctx, c, "", 10)
			for _, e := range []error{e1, e2, e3} {
				require.ErrorIs(t, e, in.ErrForbidden)
			}
			got = []any{fleet.Items, host, audit}
		}
		text, encodeErr := json.Marshal(got)
		require.NoError(t, encodeErr)
		all := string(text) + fmt.Sprint(err)
		for name := range names {
			require.NotContains(t, all, name, "call %d names a host", call)
		}
		if call == 10 || call == 8 {
			for id, owner := range owns {
				if owner != me {
					require.NotContains(t, all, id.String(), "call %d shows a foreign machine", call)
				}
			}
		}
		for _, owner := range owners {
			if owner != me && call != 5 && call != 1 {
				require.NotContains(t, all, owner.String(), "call %d shows a foreign owner", call)
			}
		}
		for id, owner := range recs {
			if owner != me && strings.Contains(string(text), string(id)) {
				t.Fatalf("call %d shows a foreign instrumentation", call)
			}
		}
	}
}

func TestAnothersIDIsAnUnknownID(t *testing.T) {
	w := it.NewWorld(t)
	_, vms := w.Fleet(1, alice, bob)
	foreign := create(t, w, it.Tenant(bob), counter()).ID
	operators := create(t, w, it.Operator(), counter(func(c *in.CreateInput) { c.Scope = tag("role") })).ID
	w.Store.Settle()
	unknown, err := in.NewID(w.Clock.Now(), strings.NewReader("123456"))
	require.NoError(t, err)
	for _, c := range []identity.Caller{it.Tenant(alice), {ID: "service:portal", Kind: identity.Service, Owner: alice}} {
		answers := func(id in.ID) []string {
			var out []string
			say := func(got any, err error) { out = append(out, fmt.Sprintf("%v %v", got, err)) }
			ctx := t.Context()
			say(w.Get(ctx, c, id))
			say(w.Update(ctx, c, in.UpdateInput{ID: id, ExpectedRevision: ptr(9)}))
			say(w.Clone(ctx, c, in.CloneInput{ID: id}))
			say(w.Pause(ctx, c, id))
			say(w.Resume(ctx, c, id))
			say(w.Refresh(ctx, c, id))
			say(nil, w.Delete(ctx, c, id))
			say(of(ctx, w, c, id, w.CoverageOf))
			say(of(ctx, w, c, id, w.ProblemsOf))
			say(vmsOf(ctx, w, c, id, in.Page{}))
			say(hostsOf(ctx, w, c, id, in.Page{}))
			say(w.Explain(ctx, c, id, uuid.Nil, vms[0][0].UUID))
			return out
		}
		want := answers(unknown)
		require.Equal(t, want, answers(foreign))
		require.Equal(t, want, answers(operators))
		require.Equal(t, want, answers("not an id at all"))
	}
	stolen, _ := w.Store.Stored(foreign) // what List and Get would never have given
	for _, err := range []error{
		second(w.CoverageOf(t.Context(), it.Tenant(alice), []in.Instrumentation{stolen})),
		second(w.ProblemsOf(t.Context(), it.Tenant(alice), []in.Instrumentation{stolen})),
		second(w.VMsOf(t.Context(), it.Tenant(alice), []in.Instrumentation{stolen}, in.Page{})),
		second(w.HostsOf(t.Context(), it.Tenant(alice), []in.Instrumentation{stolen}, in.Page{})),
	} {
		require.ErrorIs(t, err, in.ErrForbidden)
	}
	got, err := w.Get(t.Context(), it.Cloudapi(), operators, foreign)
	require.NoError(t, err)
	require.Nil(t, got[0], "no service has the operators' own")
	require.NotNil(t, got[1])
}

func second[T any](_ T, err error) error { return err }

func TestServicesActForTheOwnerThatTheyName(t *testing.T) {
	w := it.NewWorld(t)
	_, err := w.Create(t.Context(), it.Cloudapi(), counter())
	require.ErrorIs(t, err, in.ErrBadRequest)
	_, err = w.Create(t.Context(), it.Cloudapi(), counter(func(c *in.CreateInput) { c.Owner = &uuid.Nil }))
	require.ErrorIs(t, err, in.ErrForbidden, "nor for the operators")
	_, err = w.List(t.Context(), it.Cloudapi(), in.Filter{}, in.Page{})
	require.ErrorIs(t, err, in.ErrBadRequest)
	rec := create(t, w, it.Cloudapi(), counter(func(c *in.CreateInput) { c.Owner = &alice }))
	found, err := w.List(t.Context(), it.Cloudapi(), in.Filter{Owner: &alice}, in.Page{})
	require.NoError(t, err)
	require.Equal(t, rec.ID, found.Items[0].ID)
	_, err = w.List(t.Context(), it.Tenant(alice), in.Filter{Host: hostA}, in.Page{})
	require.ErrorIs(t, err, in.ErrForbidden)
	portal := identity.Caller{ID: "service:portal", Kind: identity.Service, Owner: bob}
	_, err = w.Create(t.Context(), portal, counter(func(c *in.CreateInput) { c.Owner = &alice }))
	require.ErrorIs(t, err, in.ErrForbidden)
	require.Equal(t, bob, create(t, w, portal, counter()).Owner)
}

func TestWhoHasNoBusinessHereGetsNothing(t *testing.T) {
	w := it.NewWorld(t)
	for want, callers := range map[error][]identity.Caller{
		in.ErrForbidden:       {it.Workflow(), it.AgentOf(hostA)},
		in.ErrUnauthenticated: {{}, {Kind: "admin", ID: "x"}, {Kind: identity.Tenant, ID: "tenant:nobody"}},
	} {
		for _, c := range callers {
			ctx := t.Context()
			_, err := w.Create(ctx, c, counter())
			require.ErrorIs(t, err, want)
			_, err = w.Get(ctx, c, "i-00000000040000000000")
			require.ErrorIs(t, err, want)
			_, err = w.List(ctx, c, in.Filter{}, in.Page{})
			require.ErrorIs(t, err, want)
			_, err = of(ctx, w, c, "i-00000000040000000000", w.CoverageOf)
			require.ErrorIs(t, err, want)
			_, err = w.Preview(ctx, c, in.PreviewInput{Scope: in.Scope{All: true}})
			require.ErrorIs(t, err, want)
			_, err = w.Machines(ctx, c, vmA)
			require.ErrorIs(t, err, want)
			_, err = w.Limits(ctx, c, nil)
			require.ErrorIs(t, err, want)
			require.ErrorIs(t, w.Delete(ctx, c, "i-00000000040000000000"), want)
			_, err = w.DeleteMany(ctx, c, in.Filter{}, 0)
			require.ErrorIs(t, err, want)
		}
	}
}

func TestATenantNeverReadsTheHostsInAnOperatorsScope(t *testing.T) {
	w := it.NewWorld(t)
	rec := create(t, w, it.Operator(), counter(func(c *in.CreateInput) {
		c.Owner, c.Scope = &alice, in.Scope{And: []in.Scope{{All: true}, {Hosts: []uuid.UUID{hostA}}}}
	}))
	require.Equal(t, []uuid.UUID{hostA}, rec.Scope.And[1].Hosts)
	got, err := w.Get(t.Context(), it.Tenant(alice), rec.ID)
	require.NoError(t, err)
	require.Equal(t, "every zone and hosts chosen by the operators", got[0].Scope.Text())
	_, err = w.Clone(t.Context(), it.Tenant(alice), in.CloneInput{ID: rec.ID})
	require.Equal(t, []string{"SCOPE_FORBIDDEN scope.and.1.hosts"}, mistakes(t, err))
	_, err = w.Update(t.Context(), it.Tenant(alice), in.UpdateInput{ID: rec.ID, Name: in.Some("mine")})
	require.NoError(t, err)
	stored, _ := w.Store.Stored(rec.ID)
	require.Equal(t, []uuid.UUID{hostA}, stored.Scope.And[1].Hosts, "what is shown blank is not stored blank")
}

func TestAMachineThatWasSoldIsNotSearchedBy(t *testing.T) {
	w := it.NewWorld(t)
	_, vms := w.Fleet(1, alice)
	rec := create(t, w, it.Tenant(alice), counter())
	w.Store.Settle()
	search := func(c identity.Caller) int {
		f := in.Filter{Owner: &alice, VM: vms[0][0].UUID}
		found, err := w.List(t.Context(), c, f, in.Page{})
		require.NoError(t, err)
		n, err := w.Count(t.Context(), c, f)
		require.NoError(t, err)
		require.Len(t, found.Items, n)
		return n
	}
	require.Equal(t, 1, search(it.Tenant(alice)))
	require.Equal(t, 1, search(it.Cloudapi()))
	sold := vms[0][0]
	sold.Owner = bob
	w.Store.PutVMs(sold)
	require.Zero(t, search(it.Tenant(alice)))
	require.Zero(t, search(it.Cloudapi()))
	require.Equal(t, 1, search(it.Operator()), "until it is revoked, operators see it in place: "+string(rec.ID))
}

func TestPagesOfATenantAreFull(t *testing.T) {
	w := it.NewWorld(t)
	_, vms := w.Fleet(700, alice)
	rec := create(t, w, it.Tenant(alice), counter())
	w.Store.Settle()
	var kept []uuid.UUID
	for _, of := range vms {
		kept = append(kept, of[0].UUID)
	}
	slices.SortFunc(kept, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	for i, id := range kept[:690] { // those that come first are sold
		if i%100 != 50 {
			w.Store.PutVMs(inventory.VM{UUID: id, Owner: bob, State: "running", Host: vms[0][0].Host})
		}
	}
	kept = append([]uuid.UUID{kept[50], kept[150], kept[250], kept[350], kept[450], kept[550], kept[650]}, kept[690:]...)
	var seen []uuid.UUID
	for p := (in.Page{First: 5}); ; {
		found, err := vmsOf(t.Context(), w, it.Tenant(alice), rec.ID, p)
		require.NoError(t, err)
		for _, v := range found.Items {
			seen = append(seen, v.VM.UUID)
		}
		if !found.Next {
			break
		}
		require.Len(t, found.Items, 5, "a page is full while there is another")
		p.After = seen[len(seen)-1].String()
	}
	require.Equal(t, kept, seen)
}
