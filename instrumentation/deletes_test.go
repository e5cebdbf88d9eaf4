package instrumentation_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	in "iapi/instrumentation"
	it "iapi/instrumentation/instrumentationtest"
)

func TestDeleteIsSaidOnceAndMayBeRepeated(t *testing.T) {
	w := it.NewWorld(t)
	c := it.Tenant(alice)
	rec := create(t, w, c, counter())
	require.NoError(t, w.Delete(t.Context(), c, rec.ID))
	require.NoError(t, w.Delete(t.Context(), c, rec.ID))
	shown, err := w.Get(t.Context(), c, rec.ID)
	require.NoError(t, err)
	require.Equal(t, in.Deleting, shown[0].State)
	require.Equal(t, 2, shown[0].Revision)
	require.Equal(t, []it.Evaluation{{ID: rec.ID, Revision: 1}, {ID: rec.ID, Revision: 2}}, w.Queue.Evaluated)
	_, err = w.Update(t.Context(), c, in.UpdateInput{ID: rec.ID, Name: in.Some("x")})
	require.Equal(t, []string{"NOT_FOUND id"}, mistakes(t, err))
	w.Store.Settle()
	err = w.Delete(t.Context(), c, rec.ID)
	require.Equal(t, []string{"NOT_FOUND id"}, mistakes(t, err))
	require.ErrorIs(t, err, in.ErrNotFound)
}

func TestDeleteManyDeletesWhatWasCountedOrNothing(t *testing.T) {
	w := it.NewWorld(t, func(o *in.Options) { o.Policy.Instrumentations = 2000 })
	close := func(c *in.CreateInput) { c.Tags = []in.Tag{{Key: "app", Value: "x"}} }
	for range 3 {
		create(t, w, it.Tenant(alice), counter(close))
		create(t, w, it.Tenant(bob), counter(close))
	}
	create(t, w, it.Tenant(alice), counter())
	old := create(t, w, it.Tenant(alice), counter(close))
	require.NoError(t, w.Delete(t.Context(), it.Tenant(alice), old.ID))
	filter := in.Filter{Tags: []in.Tag{{Key: "app", Value: "x"}}}
	for _, expected := range []int{2, 4, 0, -1, 1 << 40} {
		gone, err := w.DeleteMany(t.Context(), it.Tenant(alice), filter, expected)
		require.Equal(t, []string{"COUNT_MISMATCH expectedCount"}, mistakes(t, err))
		require.Empty(t, gone)
	}
	deleted, err := w.DeleteMany(t.Context(), it.Tenant(alice), filter, 3)
	require.NoError(t, err)
	require.Len(t, deleted, 3)
	deleted, err = w.DeleteMany(t.Context(), it.Tenant(alice), in.Filter{States: []in.State{in.Deleting}}, 0)
	require.NoError(t, err)
	require.Empty(t, deleted)
	count, err := w.Count(t.Context(), it.Operator(), in.Filter{States: []in.State{in.Created}})
	require.NoError(t, err)
	require.Equal(t, 4, count, "bob's three and alice's other one")
	_, err = w.DeleteMany(t.Context(), it.Tenant(alice), in.Filter{Owner: &bob}, 3)
	require.ErrorIs(t, err, in.ErrForbidden)
	require.Equal(t, "FORBIDDEN", last(w).Result)

	for range 510 {
		create(t, w, it.Tenant(alice), counter())
	}
	deleted, err = w.DeleteMany(t.Context(), it.Operator(), in.Filter{Owner: &alice}, 511)
	require.NoError(t, err)
	require.Len(t, deleted, 511, "more than a page")
}

// stubborn is a Store in which some records cannot be changed.
type stubborn struct {
	in.Store
	fault map[in.ID]error
}

func (s *stubborn) Commit(ctx context.Context, c in.Change) (in.Instrumentation, error) {
	if err := s.fault[c.Record.ID]; err != nil {
		return in.Instrumentation{}, err
	}
	return s.Store.Commit(ctx, c)
}

func TestDeleteManyTellsWhatIsDeletedAndWhatIsNot(t *testing.T) {
	store := &stubborn{fault: map[in.ID]error{}}
	w := it.NewWorld(t, func(o *in.Options) { store.Store, o.Store = o.Store, store })
	c := it.Tenant(alice)
	var ids []in.ID // the newest first, as they are deleted
	for range 5 {
		ids = append([]in.ID{create(t, w, c, counter()).ID}, ids...)
		w.Clock.Advance(time.Second)
	}
	store.fault[ids[1]], store.fault[ids[3]] = errBroken, in.ErrNotDurable
	gone, err := w.DeleteMany(t.Context(), c, in.Filter{}, 5)
	require.Equal(t, []in.ID{ids[0], ids[2], ids[4]}, gone, "one that fails does not keep the others")
	require.Equal(t, []string{"UNAVAILABLE filter." + string(ids[1]), "UNAVAILABLE filter." + string(ids[3])}, mistakes(t, err))
	require.NotContains(t, err.Error(), "redis")
	require.Equal(t, "deleteInstrumentations UNAVAILABLE deleted 3 of 5", last(w).Action+" "+last(w).Result+" "+last(w).Detail)
	results := map[string]string{}
	for _, e := range w.Store.Entries() {
		if e.Action == "deleteInstrumentation" {
			results[e.Subject] = e.Result
		}
	}
	require.Equal(t, map[string]string{
		string(ids[0]): "ok", string(ids[1]): "FAILED", string(ids[2]): "ok", string(ids[3]): "NOT_DURABLE", string(ids[4]): "ok",
	}, results)

	_, err = w.DeleteMany(t.Context(), c, in.Filter{}, 2)
	require.ErrorIs(t, err, errBroken, "a fault, for nothing is deleted")
	delete(store.fault, ids[1])
	store.fault[ids[3]] = in.ErrNotReady
	gone, err = w.DeleteMany(t.Context(), c, in.Filter{}, 2)
	require.Equal(t, []in.ID{ids[1]}, gone)
	require.Equal(t, []string{"UNAVAILABLE filter." + string(ids[3])}, mistakes(t, err))
}

func TestDeleteManyStopsWhereNothingCanBeDeleted(t *testing.T) {
	store := &stubborn{fault: map[in.ID]error{}}
	w := it.NewWorld(t, func(o *in.Options) { store.Store, o.Store = o.Store, store })
	c := it.Tenant(alice)
	var ids []in.ID
	for range 150 {
		ids = append([]in.ID{create(t, w, c, counter()).ID}, ids...)
		w.Clock.Advance(time.Second)
	}
	store.fault[ids[1]] = in.ErrNotReady
	gone, err := w.DeleteMany(t.Context(), c, in.Filter{}, 150)
	require.Equal(t, ids[:1], gone)
	require.Len(t, mistakes(t, err), 100, "enough to see what it is about")
	require.Contains(t, err.Error(), string(ids[2])+": it was not tried")
}

func TestADeletePrevailsOverThoseWhoChange(t *testing.T) {
	w := it.NewWorld(t)
	c := it.Tenant(alice)
	rec := create(t, w, c, counter())
	changes := 0
	var change func()
	change = func() { // somebody else, each time before the delete is committed
		_, err := w.Update(t.Context(), c, in.UpdateInput{ID: rec.ID, Tags: in.Some([]in.Tag{{Key: "n", Value: uuid.NewString()}})})
		require.NoError(t, err)
		if changes++; changes%50 != 0 {
			w.Store.BeforeCommit(change)
		}
	}
	w.Store.BeforeCommit(change)
	require.NoError(t, w.Delete(t.Context(), c, rec.ID))
	require.Equal(t, 50, changes)

	endless := create(t, w, c, counter())
	rec = endless
	change = func() {
		_, err := w.Update(t.Context(), c, in.UpdateInput{ID: rec.ID, Tags: in.Some([]in.Tag{{Key: "n", Value: uuid.NewString()}})})
		require.NoError(t, err)
		w.Store.BeforeCommit(change)
	}
	w.Store.BeforeCommit(change)
	require.Equal(t, []string{"REVISION_CONFLICT id"}, mistakes(t, w.Delete(t.Context(), c, rec.ID)), "and not a fault")
	require.Equal(t, "REVISION_CONFLICT", last(w).Result)
}
