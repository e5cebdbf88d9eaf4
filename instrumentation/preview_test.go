package instrumentation_test

import (
	"context"
	"encoding/base64"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/identity"
	in "iapi/instrumentation"
	it "iapi/instrumentation/instrumentationtest"
	"iapi/inventory"
)

func preview(t testing.TB, w *it.World, c identity.Caller, p in.PreviewInput) *in.Previewed {
	t.Helper()
	got, err := w.Preview(t.Context(), c, p)
	require.NoError(t, err)
	return got
}

func TestPreviewShowsWhatACreateWouldMeasure(t *testing.T) {
	w := it.NewWorld(t)
	hosts, vms := w.Fleet(2, alice, bob)
	w.Store.PutHosts(in.FleetHost{Host: hosts[1]}) // no agent

	got := preview(t, w, it.Operator(), in.PreviewInput{Scope: in.Scope{All: true}, Owner: &alice})
	require.Len(t, got.VMs, 2)
	require.Len(t, got.Hosts, 2)
	require.Len(t, got.Problems, 1)
	require.Contains(t, got.Problems[0].Message, hosts[1].Name)
	require.True(t, got.Zones)

	got = preview(t, w, it.Tenant(alice), in.PreviewInput{Scope: in.Scope{VMs: []uuid.UUID{vms[0][0].UUID, vms[0][1].UUID}}, Metric: "test.ops"})
	require.Nil(t, got.Hosts)
	require.Len(t, got.VMs, 1)
	require.Equal(t, vms[0][0].UUID, got.VMs[0].UUID)
	require.Equal(t, uuid.Nil, got.VMs[0].Host)

	got = preview(t, w, it.Operator(), in.PreviewInput{Scope: in.Scope{EveryHost: true}})
	require.False(t, got.Zones)
	require.Empty(t, got.VMs)
	require.Len(t, got.Hosts, 2)

	_, err := w.Preview(t.Context(), it.Tenant(alice), in.PreviewInput{Scope: in.Scope{EveryHost: true}, Metric: "test.secret"})
	require.Equal(t, []string{"UNKNOWN_METRIC metric", "SCOPE_FORBIDDEN scope.everyHost"}, mistakes(t, err))
}

func TestPreviewTokenBindsACreateToWhatWasShown(t *testing.T) {
	w := it.NewWorld(t)
	_, vms := w.Fleet(3, alice, bob)
	c := it.Tenant(alice)
	scope := in.Scope{And: []in.Scope{tag("role", "db"), {All: true}}}
	token := preview(t, w, c, in.PreviewInput{Scope: scope, Metric: "cpu.usage"}).Token
	try := func(c identity.Caller, token string, change ...func(*in.CreateInput)) []string {
		wish := counter(append([]func(*in.CreateInput){func(in *in.CreateInput) { in.Scope, in.PreviewToken = scope, &token }}, change...)...)
		_, err := w.Create(t.Context(), c, wish)
		return mistakes(t, err)
	}
	stale := []string{"PREVIEW_STALE previewToken"}
	require.Nil(t, try(c, token))
	require.Nil(t, try(c, token), "it may be used again")

	same := func(wish *in.CreateInput) {
		wish.Scope = in.Scope{And: []in.Scope{{All: true}, {Or: []in.Scope{tag("role", "db", "db")}}}}
	}
	require.Nil(t, try(c, token, same), "the same scope in other words")
	require.Equal(t, stale, try(c, token, func(wish *in.CreateInput) { wish.Scope = in.Scope{All: true} }))
	require.Equal(t, stale, try(c, token, func(wish *in.CreateInput) { wish.Metric = "test.ops" }))
	require.Equal(t, stale, try(it.Cloudapi(), token, func(wish *in.CreateInput) { wish.Owner = &alice }), "another caller")
	require.Equal(t, stale, try(it.Tenant(bob), token))
	any := preview(t, w, c, in.PreviewInput{Scope: scope}).Token
	require.Equal(t, stale, try(c, any), "a preview of no metric binds no create")

	for _, forged := range []string{"", "x", "!", token[:len(token)-4], token + "AAAA", token[:40] + "A" + token[41:], base64.RawURLEncoding.EncodeToString(make([]byte, 100))} {
		if forged != token {
			require.Equal(t, stale, try(c, forged))
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	require.NoError(t, err)
	for i := range raw {
		raw[i] ^= 1
		require.Equal(t, stale, try(c, base64.RawURLEncoding.EncodeToString(raw)), "byte %d", i)
		raw[i] ^= 1
	}
	other := it.NewWorld(t, func(o *in.Options) { o.Secret = []byte("another") })
	_, err = other.Create(t.Context(), c, counter(func(in *in.CreateInput) { in.Scope, in.PreviewToken = scope, &token }))
	require.Equal(t, stale, mistakes(t, err))

	w.Store.RemoveVM(vms[0][0].UUID)
	require.Nil(t, try(c, token), "what has gone surprises nobody")
	joined := vms[0][0]
	joined.UUID = uuid.New()
	w.Store.PutVMs(joined)
	require.Equal(t, stale, try(c, token), "as many as before, but one of them was not shown")
	w.Store.RemoveVM(joined.UUID)
	require.Nil(t, try(c, token))
	bobs := vms[1][1]
	bobs.Owner = alice
	w.Store.PutVMs(bobs)
	require.Equal(t, stale, try(c, token), "an owner has changed")
	bobs.Owner = bob
	w.Store.PutVMs(bobs)

	keyed := func(in *in.CreateInput) { in.IdempotencyKey = ptr("k") }
	require.Nil(t, try(c, token, keyed))
	first := last(w).Subject
	w.Clock.Advance(10 * time.Minute)
	require.Nil(t, try(c, token))
	w.Clock.Advance(time.Millisecond)
	require.Equal(t, stale, try(c, token))
	require.Equal(t, "PREVIEW_STALE", last(w).Result)
	require.Empty(t, last(w).Subject, "nothing has been made")
	require.Nil(t, try(c, token, keyed), "the first answer to the key stands, though the preview has lapsed")
	require.Equal(t, first, last(w).Subject)
	require.Equal(t, []string{"IDEMPOTENCY_CONFLICT idempotencyKey"}, try(c, token, keyed, func(in *in.CreateInput) { in.Name = "another" }))
}

func TestPreviewTokenOfWholeHosts(t *testing.T) {
	w := it.NewWorld(t)
	w.Fleet(2)
	scope := in.Scope{EveryHost: true}
	token := preview(t, w, it.Operator(), in.PreviewInput{Scope: scope, Metric: "cpu.usage"}).Token
	wish := counter(func(in *in.CreateInput) { in.Scope, in.PreviewToken = scope, &token })
	create(t, w, it.Operator(), wish)
	w.Store.PutHosts(in.FleetHost{Host: inventory.Host{UUID: uuid.New(), Name: "new"}})
	_, err := w.Create(t.Context(), it.Operator(), wish)
	require.Equal(t, []string{"PREVIEW_STALE previewToken"}, mistakes(t, err))
}

func TestPreviewTokenOfManyPlacesStaysSmall(t *testing.T) {
	w := it.NewWorld(t)
	hosts, _ := w.Fleet(1)
	var last inventory.VM
	for range 2049 { // one more than are listed each
		last = inventory.VM{UUID: uuid.New(), Owner: alice, State: "running", Host: hosts[0].UUID}
		w.Store.PutVMs(last)
	}
	token := preview(t, w, it.Tenant(alice), in.PreviewInput{Scope: in.Scope{All: true}, Metric: "cpu.usage"}).Token
	require.Less(t, len(token), 200)
	wish := counter(func(in *in.CreateInput) { in.PreviewToken = &token })
	create(t, w, it.Tenant(alice), wish)
	last.UUID = uuid.New()
	w.Store.PutVMs(last)
	_, err := w.Create(t.Context(), it.Tenant(alice), wish)
	require.Equal(t, []string{"PREVIEW_STALE previewToken"}, mistakes(t, err))
	w.Store.RemoveVM(last.UUID)
	create(t, w, it.Tenant(alice), wish)
}

// careless is a Previewer that forgets about owners.
type careless struct{ vms []inventory.VM }

func (c careless) Preview(context.Context, uuid.UUID, in.Scope, string) (in.Preview, error) {
	return in.Preview{VMs: c.vms}, nil
}

func TestPreviewNeverShowsAForeignMachine(t *testing.T) {
	vms := []inventory.VM{{UUID: vmA, Owner: alice}, {UUID: vmB, Owner: bob}}
	w := it.NewWorld(t, func(o *in.Options) { o.Previewer = careless{vms} })
	for _, c := range []identity.Caller{it.Tenant(alice), it.Operator()} {
		got := preview(t, w, c, in.PreviewInput{Scope: in.Scope{All: true}, Owner: &alice})
		require.Equal(t, vms[:1], got.VMs)
	}
}

// asked counts how often the inventory is asked.
type asked struct {
	in.Previewer
	times int
}

func (a *asked) Preview(ctx context.Context, owner uuid.UUID, scope in.Scope, metric string) (in.Preview, error) {
	a.times++
	return a.Previewer.Preview(ctx, owner, scope, metric)
}

func TestWhoHasNoRoomIsToldSoBeforeTheInventoryIsAsked(t *testing.T) {
	inventory := &asked{}
	w := it.NewWorld(t, func(o *in.Options) {
		inventory.Previewer, o.Previewer = o.Previewer, inventory
		o.Policy.Instrumentations = 1
	})
	w.Fleet(1, alice)
	c := it.Tenant(alice)
	token := preview(t, w, c, in.PreviewInput{Scope: in.Scope{All: true}, Metric: "cpu.usage"}).Token
	wish := counter(func(in *in.CreateInput) { in.PreviewToken, in.IdempotencyKey = &token, ptr("k") })
	first := create(t, w, c, wish)
	require.Equal(t, 2, inventory.times)
	require.Equal(t, first.ID, create(t, w, c, wish).ID, "what is repeated needs no room")
	wish.IdempotencyKey = nil
	_, err := w.Create(t.Context(), c, wish)
	require.Equal(t, []string{"LIMIT_EXCEEDED metric"}, mistakes(t, err))
	require.Equal(t, []string{"LIMIT_EXCEEDED metric"}, mistakes(t, w.CheckCreate(t.Context(), c, wish)))
	require.Equal(t, 2, inventory.times, "nothing that cannot be made is compared with the inventory")
}
