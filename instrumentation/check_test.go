package instrumentation_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	in "iapi/instrumentation"
	it "iapi/instrumentation/instrumentationtest"
)

func TestAChecksMistakesAreThoseOfTheDeed(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	w := it.NewWorld(t, func(o *in.Options) {
		o.Policy.Instrumentations, o.Policy.TracingInstrumentations = 3, 1
		o.Clock = func() time.Time { return now }
	})
	c := it.Tenant(alice)
	same := func(input in.CreateInput) {
		t.Helper()
		before, err := w.Store.Usage(t.Context(), alice)
		require.NoError(t, err)
		entries := len(w.Store.Entries())
		checked := w.CheckCreate(t.Context(), c, input)
		after, err := w.Store.Usage(t.Context(), alice)
		require.NoError(t, err)
		require.Equal(t, before, after, "nothing is made")
		require.Len(t, w.Store.Entries(), entries)
		_, done := w.Create(t.Context(), c, input)
		require.Equal(t, done, checked)
	}
	same(counter(func(c *in.CreateInput) { c.Metric, c.Name = "nope", string(make([]byte, 999)) }))
	same(counter(func(c *in.CreateInput) { c.Decompositions = []string{"nope"} }))
	same(counter(func(c *in.CreateInput) { c.Owner = &bob }))
	same(counter(func(c *in.CreateInput) { c.PreviewToken = ptr("nonsense") }))
	same(counter(func(c *in.CreateInput) { c.Metric, c.Decompositions = "test.ops", nil }))
	same(counter(func(c *in.CreateInput) { c.Metric, c.Decompositions = "test.ops", nil })) // one tracing at most
	same(counter())
	same(counter())
	same(counter()) // three at most
	require.ErrorIs(t, w.CheckCreate(t.Context(), it.Workflow(), counter()), in.ErrForbidden)

	found, err := w.List(t.Context(), c, in.Filter{Metric: "cpu.usage"}, in.Page{})
	require.NoError(t, err)
	require.Len(t, found.Items, 2)
	id := found.Items[0].ID
	update := func(change func(*in.UpdateInput)) {
		t.Helper()
		input := in.UpdateInput{ID: id}
		change(&input)
		entries := len(w.Store.Entries())
		checked := w.CheckUpdate(t.Context(), c, input)
		require.Len(t, w.Store.Entries(), entries)
		_, done := w.Update(t.Context(), c, input)
		require.Equal(t, done, checked)
	}
	update(func(u *in.UpdateInput) { u.ID = "i-none" })
	update(func(u *in.UpdateInput) { u.ExpectedRevision = ptr(9) })
	update(func(u *in.UpdateInput) { u.Granularity = in.Some(ptr(-1)) })
	update(func(u *in.UpdateInput) { u.Scope = in.Some(in.Scope{Hosts: []uuid.UUID{hostA}}) })
	update(func(u *in.UpdateInput) { u.TTL = in.Some(ptr(60)) })
	now = now.Add(time.Hour)
	update(func(u *in.UpdateInput) { u.Name = in.Some("expired") })
	require.NoError(t, w.Delete(t.Context(), c, id))
	update(func(u *in.UpdateInput) { u.Name = in.Some("deleted") })
}
