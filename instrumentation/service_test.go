package instrumentation_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/identity"
	in "iapi/instrumentation"
	it "iapi/instrumentation/instrumentationtest"
	"iapi/measure"
)

func TestCreateStoresTheWishAndHasItEvaluated(t *testing.T) {
	w := it.NewWorld(t)
	secret := map[string]string{"Authorization": "Bearer s3cret"}
	rec := create(t, w, it.Tenant(alice), tracing(func(c *in.CreateInput) {
		c.Name, c.Predicate, c.Decompositions = "slow reads", eq("optype", "read"), []string{"execname", "latency"}
		c.Tags = []in.Tag{{Key: "b", Value: "2"}, {Key: "a", Value: "1"}}
		c.Targets = []measure.Target{{Kind: measure.DataAPI, Transport: measure.HTTP, Address: "https://data.example.com/v1", Headers: secret}}
		c.Granularity, c.TTL = ptr(10), ptr(600)
	}))
	require.Equal(t, 1, rec.Revision)
	require.Equal(t, in.Created, rec.State)
	require.Equal(t, alice, rec.Owner)
	require.Equal(t, []in.Tag{{Key: "a", Value: "1"}, {Key: "b", Value: "2"}}, rec.Tags)
	require.Equal(t, w.Clock.Now().Add(10*time.Minute), rec.ExpiresAt)
	require.Nil(t, rec.Targets[0].Headers, "headers are write-only")
	require.Empty(t, rec.CreatedBy)
	require.Equal(t, []it.Evaluation{{ID: rec.ID, Revision: 1}}, w.Queue.Evaluated)
	stored, _ := w.Store.Stored(rec.ID)
	require.Equal(t, secret, stored.Targets[0].Headers)
	require.Equal(t, "tenant:"+alice.String(), stored.CreatedBy)
	audit := last(w)
	require.Equal(t, "createInstrumentation ok "+string(rec.ID), audit.Action+" "+audit.Result+" "+audit.Subject)
	require.Equal(t, alice, audit.Owner)
}

func TestWhatIsCommittedStandsWhenTheQueueIsAway(t *testing.T) {
	w := it.NewWorld(t)
	w.Queue.FailWith(errBroken)
	rec := create(t, w, it.Tenant(alice), counter())
	_, ok := w.Store.Stored(rec.ID)
	require.True(t, ok)
	_, err := w.Refresh(t.Context(), it.Tenant(alice), rec.ID)
	require.ErrorIs(t, err, errBroken, "no tick makes up for a refresh")
}

func TestFaultsOfTheStoreAreNoMistakesOfTheCaller(t *testing.T) {
	w := it.NewWorld(t)
	rec := create(t, w, it.Tenant(alice), counter())
	for _, fault := range []error{fmt.Errorf("%w: loading", in.ErrNotReady), errBroken, in.ErrNotDurable} {
		w.Store.FailWith(fault)
		calls := map[string]func() error{
			"create": func() error { _, err := w.Create(t.Context(), it.Tenant(alice), counter()); return err },
			"get":    func() error { _, err := w.Get(t.Context(), it.Tenant(alice), rec.ID); return err },
			"list":   func() error { _, err := w.List(t.Context(), it.Tenant(alice), in.Filter{}, in.Page{}); return err },
			"delete": func() error { return w.Delete(t.Context(), it.Tenant(alice), rec.ID) },
			"vms":    func() error { _, err := vmsOf(t.Context(), w, it.Tenant(alice), rec.ID, in.Page{}); return err },
			"preview": func() error {
				_, err := w.Preview(t.Context(), it.Tenant(alice), in.PreviewInput{Scope: in.Scope{All: true}})
				return err
			},
		}
		for name, call := range calls {
			err := call()
			require.ErrorIs(t, err, fault, name)
			require.False(t, errors.As(err, new(in.UserErrors)), name)
			require.NotErrorIs(t, err, in.ErrNotFound, name)
		}
	}
	require.Contains(t, w.Queue.Evaluated, it.Evaluation{ID: rec.ID, Revision: 1})
	require.Greater(t, len(w.Queue.Evaluated), 1, "a change that no replica confirmed stands, so it is evaluated")
}

func TestSameKeySameInputSameInstrumentation(t *testing.T) {
	w := it.NewWorld(t)
	wish := tracing(func(c *in.CreateInput) {
		c.IdempotencyKey = ptr("k")
		c.Scope = in.Scope{And: []in.Scope{tag("role", "db", "web"), {VMs: []uuid.UUID{vmA, vmB}}}}
		c.Tags = []in.Tag{{Key: "a"}, {Key: "b"}}
	})
	first := create(t, w, it.Tenant(alice), wish)
	w.Clock.Advance(23 * time.Hour)
	wish.Scope = in.Scope{And: []in.Scope{{VMs: []uuid.UUID{vmB, vmA}}, tag("role", "web", "db")}}
	wish.Tags = []in.Tag{{Key: "b"}, {Key: "a"}}
	wish.Granularity = ptr(1)
	require.Equal(t, first.ID, create(t, w, it.Tenant(alice), wish).ID, "said differently, meaning the same")
	require.NotEqual(t, first.ID, create(t, w, it.Tenant(bob), wish).ID, "another's key is another key")

	changes := map[string]func(*in.CreateInput){
		"name":   func(c *in.CreateInput) { c.Name = "x" },
		"ttl":    func(c *in.CreateInput) { c.TTL = ptr(3600) },
		"scope":  func(c *in.CreateInput) { c.Scope = in.Scope{All: true} },
		"target": func(c *in.CreateInput) { c.Targets = []measure.Target{it.Target()} },
	}
	for name, change := range changes {
		other := wish
		change(&other)
		_, err := w.Create(t.Context(), it.Tenant(alice), other)
		require.Equal(t, []string{"IDEMPOTENCY_CONFLICT idempotencyKey"}, mistakes(t, err), name)
		require.ErrorIs(t, err, in.ErrIdempotency)
	}
	_, err := w.Clone(t.Context(), it.Tenant(alice), in.CloneInput{ID: first.ID, IdempotencyKey: ptr("k")})
	require.Equal(t, []string{"IDEMPOTENCY_CONFLICT idempotencyKey"}, mistakes(t, err), "a clone is not a create")
	source := create(t, w, it.Tenant(alice), counter())
	again := in.CloneInput{ID: source.ID, IdempotencyKey: ptr("c"), TTL: in.Some(ptr(3600))}
	cloned, err := w.Clone(t.Context(), it.Tenant(alice), again)
	require.NoError(t, err)
	_, err = w.Update(t.Context(), it.Tenant(alice), in.UpdateInput{ID: source.ID, Name: in.Some("renamed since")})
	require.NoError(t, err)
	repeated, err := w.Clone(t.Context(), it.Tenant(alice), again)
	require.NoError(t, err)
	require.Equal(t, cloned.ID, repeated.ID, "what is cloned may change")
	again.TTL = in.Some(ptr(60))
	_, err = w.Clone(t.Context(), it.Tenant(alice), again)
	require.Equal(t, []string{"IDEMPOTENCY_CONFLICT idempotencyKey"}, mistakes(t, err), "what is asked for may not")
	w.Clock.Advance(2 * time.Hour)
	require.NotEqual(t, first.ID, create(t, w, it.Tenant(alice), wish).ID, "keys are remembered for a day")
}

func TestQuotas(t *testing.T) {
	w := it.NewWorld(t, func(o *in.Options) { o.Policy.Instrumentations, o.Policy.TracingInstrumentations = 3, 1 })
	create(t, w, it.Tenant(alice), tracing())
	_, err := w.Create(t.Context(), it.Tenant(alice), tracing())
	require.Equal(t, []string{"LIMIT_EXCEEDED metric"}, mistakes(t, err))
	require.ErrorContains(t, err, "tracing")
	create(t, w, it.Tenant(alice), counter())
	third := create(t, w, it.Cloudapi(), counter(func(c *in.CreateInput) { c.Owner = &alice }))
	_, err = w.Create(t.Context(), it.Tenant(alice), counter())
	require.ErrorIs(t, err, in.ErrQuota)
	create(t, w, it.Tenant(bob), counter())
	limits, err := w.Limits(t.Context(), it.Tenant(alice), nil)
	require.NoError(t, err)
	require.Equal(t, 3, limits.Policy.Instrumentations)
	limits.Policy = in.Policy{}
	require.Equal(t, in.Limits{Instrumentations: 3, InstrumentationsUsed: 3, TracingInstrumentations: 1, TracingInstrumentationsUsed: 1}, limits)
	require.NoError(t, w.Delete(t.Context(), it.Tenant(alice), third.ID))
	create(t, w, it.Tenant(alice), counter())
	limits, err = w.Limits(t.Context(), it.Operator(), nil)
	require.NoError(t, err)
	require.Equal(t, 10_000, limits.Instrumentations)
	_, err = w.Limits(t.Context(), it.Tenant(alice), &bob)
	require.ErrorIs(t, err, in.ErrForbidden)
}

func TestUpdateChangesWhatIsSetAndNothingElse(t *testing.T) {
	w := it.NewWorld(t)
	c := it.Tenant(alice)
	first := create(t, w, c, tracing(func(in *in.CreateInput) { in.Name, in.Granularity = "one", ptr(10) }))
	w.Clock.Advance(time.Minute)

	same, err := w.Update(t.Context(), c, in.UpdateInput{ID: first.ID, Name: in.Some("one")})
	require.NoError(t, err)
	require.Equal(t, first, same, "nothing changed, no revision")

	rec, err := w.Update(t.Context(), c, in.UpdateInput{ID: first.ID, ExpectedRevision: ptr(1), Name: in.Some("two")})
	require.NoError(t, err)
	want := *first
	want.Name, want.Revision, want.UpdatedAt = "two", 2, w.Clock.Now()
	require.Equal(t, &want, rec)

	rec, err = w.Update(t.Context(), c, in.UpdateInput{
		ID: first.ID, Name: in.Some(""), Granularity: in.Some[*int](nil), TTL: in.Some[*int](nil), Targets: in.Some[[]measure.Target](nil),
		Tags: in.Some([]in.Tag{{Key: "k", Value: "v"}}), Scope: in.Some(tag("role")),
	})
	require.NoError(t, err)
	require.Equal(t, 3, rec.Revision)
	require.Empty(t, rec.Name)
	require.Equal(t, 1, rec.Granularity)
	require.Equal(t, w.Clock.Now().Add(time.Hour), rec.ExpiresAt, "a time to live counts from now, and tracing always has one")
	require.Equal(t, []measure.Target{it.Target()}, rec.Targets)
	require.Equal(t, tag("role"), rec.Scope)
	require.Equal(t, it.Evaluation{ID: rec.ID, Revision: 3}, w.Queue.Evaluated[len(w.Queue.Evaluated)-1])
	w.Store.Settle()
	rec, err = w.Update(t.Context(), c, in.UpdateInput{ID: first.ID, Scope: in.Some(in.Scope{All: true})})
	require.NoError(t, err)
	require.Equal(t, in.Updating, rec.State, "it was in place before")

	_, err = w.Update(t.Context(), c, in.UpdateInput{
		ID: first.ID, Name: in.Some("a\x00"), TTL: in.Some(ptr(7201)), Granularity: in.Some(ptr(0)), Scope: in.Some(in.Scope{}),
		Tags: in.Some([]in.Tag{{}}), Targets: in.Some([]measure.Target{{}}),
	})
	require.Equal(t, []string{
		"TYPE_MISMATCH name", "TYPE_MISMATCH tags.0.key", "INVALID_SCOPE scope", "INVALID_TARGET targets.0", "LIMIT_EXCEEDED granularitySeconds", "TTL_EXCEEDED ttlSeconds",
	}, mistakes(t, err))
	require.Equal(t, "updateInstrumentation TYPE_MISMATCH", last(w).Action+" "+last(w).Result)
}

func TestRevisionConflicts(t *testing.T) {
	w := it.NewWorld(t)
	c := it.Tenant(alice)
	rec := create(t, w, c, counter())
	_, err := w.Update(t.Context(), c, in.UpdateInput{ID: rec.ID, ExpectedRevision: ptr(7), Name: in.Some("x")})
	require.Equal(t, []string{"REVISION_CONFLICT expectedRevision"}, mistakes(t, err))

	meanwhile := func(name string) func() {
		return func() {
			_, err := w.Update(t.Context(), c, in.UpdateInput{ID: rec.ID, Name: in.Some(name)})
			require.NoError(t, err)
		}
	}
	w.Store.BeforeCommit(meanwhile("theirs"))
	_, err = w.Update(t.Context(), c, in.UpdateInput{ID: rec.ID, ExpectedRevision: ptr(1), Granularity: in.Some(ptr(5))})
	require.Equal(t, []string{"REVISION_CONFLICT expectedRevision"}, mistakes(t, err))
	require.ErrorIs(t, err, in.ErrRevision)

	w.Store.BeforeCommit(meanwhile("theirs again"))
	got, err := w.Update(t.Context(), c, in.UpdateInput{ID: rec.ID, Granularity: in.Some(ptr(5))})
	require.NoError(t, err, "who names no revision means whatever stands")
	require.Equal(t, "theirs again", got.Name)
	require.Equal(t, 5, got.Granularity)
	require.Equal(t, 4, got.Revision)

	w.Store.BeforeCommit(meanwhile("last words"))
	require.NoError(t, w.Delete(t.Context(), c, rec.ID))
}

func TestPauseAndResume(t *testing.T) {
	w := it.NewWorld(t)
	c := it.Tenant(alice)
	w.Fleet(1, alice)
	rec := create(t, w, c, counter())
	w.Store.Settle()
	paused, err := w.Pause(t.Context(), c, rec.ID)
	require.NoError(t, err)
	require.Equal(t, in.Paused, paused.State)
	require.Equal(t, 2, paused.Revision)
	again, err := w.Pause(t.Context(), c, rec.ID)
	require.NoError(t, err)
	require.Equal(t, paused, again)
	changed, err := w.Update(t.Context(), c, in.UpdateInput{ID: rec.ID, Name: in.Some("still paused")})
	require.NoError(t, err)
	require.Equal(t, in.Paused, changed.State)
	resumed, err := w.Resume(t.Context(), c, rec.ID)
	require.NoError(t, err)
	require.Equal(t, in.Updating, resumed.State)
	require.True(t, resumed.Live(w.Clock.Now()))
}

func TestWhatHasExpiredIsClonedAndNotRevived(t *testing.T) {
	w := it.NewWorld(t)
	c := it.Tenant(alice)
	headers := map[string]string{"X-Key": "s3cret"}
	rec := create(t, w, c, tracing(func(c *in.CreateInput) {
		c.Name, c.TTL, c.Predicate, c.Decompositions = "n", ptr(60), eq("execname", "x"), []string{"execname"}
		c.Targets = []measure.Target{{Kind: measure.DataAPI, Transport: measure.HTTP, Address: "https://data.example.com/", Headers: headers}}
	}))
	w.Clock.Advance(time.Minute)
	shown, err := w.Get(t.Context(), c, rec.ID)
	require.NoError(t, err)
	require.Equal(t, in.Expired, shown[0].State, "before any worker has seen it")
	_, err = w.Update(t.Context(), c, in.UpdateInput{ID: rec.ID, TTL: in.Some(ptr(60))})
	require.Equal(t, []string{"TTL_EXCEEDED id"}, mistakes(t, err))
	_, err = w.Resume(t.Context(), c, rec.ID)
	require.Equal(t, []string{"TTL_EXCEEDED id"}, mistakes(t, err))

	clone, err := w.Clone(t.Context(), c, in.CloneInput{ID: rec.ID, Name: in.Some("again"), Decompositions: in.Some([]string{"optype"})})
	require.NoError(t, err)
	require.NotEqual(t, rec.ID, clone.ID)
	require.Equal(t, "again", clone.Name)
	require.Equal(t, []string{"optype"}, clone.Decompositions)
	require.Equal(t, eq("execname", "x"), clone.Predicate)
	require.Equal(t, w.Clock.Now().Add(time.Minute), clone.ExpiresAt)
	stored, _ := w.Store.Stored(clone.ID)
	require.Equal(t, headers, stored.Targets[0].Headers)
	_, err = w.Clone(t.Context(), it.Tenant(bob), in.CloneInput{ID: rec.ID})
	require.Equal(t, []string{"NOT_FOUND id"}, mistakes(t, err))
}

func TestATenantClonesWhatTheConfiguredTargetGets(t *testing.T) {
	private := measure.Target{Kind: measure.Statsd, Address: "127.0.0.1:8125"}
	w := it.NewWorld(t, func(o *in.Options) { o.Policy.DefaultTargets = []measure.Target{private} })
	c := it.Tenant(alice)
	rec := create(t, w, c, counter())
	clone, err := w.Clone(t.Context(), c, in.CloneInput{ID: rec.ID})
	require.NoError(t, err, "nobody has named the target, so it need not be one that tenants may name")
	require.Equal(t, []measure.Target{private}, clone.Targets)
	_, err = w.Create(t.Context(), c, counter(func(c *in.CreateInput) { c.Targets = []measure.Target{private} }))
	require.Equal(t, []string{"INVALID_TARGET targets.0"}, mistakes(t, err))

	named := create(t, w, it.Operator(), counter(func(c *in.CreateInput) { c.Owner, c.Targets = &alice, []measure.Target{private} }))
	_, err = w.Clone(t.Context(), c, in.CloneInput{ID: named.ID})
	require.Equal(t, []string{"INVALID_TARGET targets.0"}, mistakes(t, err), "what an operator has named is for operators to name")
	updated, err := w.Update(t.Context(), c, in.UpdateInput{ID: named.ID, Targets: in.Some([]measure.Target(nil))})
	require.NoError(t, err)
	_, err = w.Clone(t.Context(), c, in.CloneInput{ID: updated.ID})
	require.NoError(t, err, "back to the configured one")
}

func TestStatesAreSearchedAsTheyAreShown(t *testing.T) {
	w := it.NewWorld(t)
	c := it.Tenant(alice)
	ends := create(t, w, c, counter(func(c *in.CreateInput) { c.TTL = ptr(60) }))
	w.Clock.Advance(time.Second)
	stays := create(t, w, c, counter())
	has := func(state in.State, want ...in.ID) {
		t.Helper()
		f := in.Filter{States: []in.State{state}}
		found, err := w.List(t.Context(), c, f, in.Page{})
		require.NoError(t, err)
		var ids []in.ID
		for _, rec := range found.Items {
			require.Equal(t, state, rec.State)
			ids = append(ids, rec.ID)
		}
		require.Equal(t, want, ids)
		n, err := w.Count(t.Context(), c, f)
		require.NoError(t, err)
		require.Len(t, want, n)
	}
	has(in.Created, stays.ID, ends.ID)
	w.Clock.Advance(time.Minute)
	has(in.Created, stays.ID)
	has(in.Expired, ends.ID) // before any worker has noted it
}

func TestPages(t *testing.T) {
	w := it.NewWorld(t)
	var ids []in.ID
	for range 60 {
		ids = append(ids, create(t, w, it.Tenant(alice), counter()).ID)
		w.Clock.Advance(time.Second)
	}
	found, err := w.List(t.Context(), it.Tenant(alice), in.Filter{}, in.Page{})
	require.NoError(t, err)
	require.Len(t, found.Items, in.DefaultPage)
	require.Equal(t, ids[59], found.Items[0].ID, "newest first")
	require.True(t, found.Next)
	require.False(t, found.Previous)
	for _, p := range []in.Page{{First: -1}, {Last: -1}, {First: 1, Last: 1}, {First: 501}, {Last: 501}} {
		_, err := w.List(t.Context(), it.Tenant(alice), in.Filter{}, p)
		require.ErrorIs(t, err, in.ErrBadRequest)
	}
	for _, f := range []in.Filter{{Tags: make([]in.Tag, 33)}, {States: []in.State{"GONE"}}, {Text: string(make([]byte, 200))}} {
		_, err := w.List(t.Context(), it.Tenant(alice), f, in.Page{})
		require.ErrorIs(t, err, in.ErrBadRequest)
	}
}

func TestOperationsAreForThoseWhoRunTheDatacenter(t *testing.T) {
	w := it.NewWorld(t)
	hosts, _ := w.Fleet(2, alice)
	w.Store.PutGuard(in.Guard{ID: "g1", Reason: "a sweep would remove much", WouldRemove: 900})
	op := it.Operator()
	everyone := []identity.Caller{op, it.Cloudapi(), it.Tenant(alice), it.Workflow(), it.AgentOf(hosts[0].UUID)}
	calls := []struct {
		name string
		call func(c identity.Caller) error
		may  string
	}{
		{"notifyVmChanged", func(c identity.Caller) error { return w.NotifyVM(t.Context(), c, vmA, "MOVED", "r-1") }, "operator service workflow"},
		{"refreshAll", func(c identity.Caller) error { return w.RefreshAll(t.Context(), c) }, "operator workflow"},
		{"stopTracing", func(c identity.Caller) error { return w.StopTracing(t.Context(), c, nil, true, "fire") }, "operator"},
		{"createJoinToken", func(c identity.Caller) error {
			_, err := w.CreateJoinToken(t.Context(), c, hostA, time.Hour)
			return err
		}, "operator"},
		{"revokeAgent", func(c identity.Caller) error { return w.RevokeAgent(t.Context(), c, hosts[0].UUID) }, "operator"},
		{"confirmGuard", func(c identity.Caller) error { return w.ConfirmGuard(t.Context(), c, "g1") }, "operator"},
	}
	for _, one := range calls {
		for _, c := range everyone {
			before := len(w.Store.Entries())
			err := one.call(c)
			want := "ok"
			if slices.Contains(strings.Fields(one.may), string(c.Kind)) {
				require.NoError(t, err, "%s as %s", one.name, c.Kind)
			} else {
				require.ErrorIs(t, err, in.ErrForbidden, "%s as %s", one.name, c.Kind)
				want = "FORBIDDEN"
			}
			require.Len(t, w.Store.Entries(), before+1)
			require.Equal(t, one.name+" "+want+" "+c.ID, last(w).Action+" "+last(w).Result+" "+last(w).Caller)
		}
		require.ErrorIs(t, one.call(identity.Caller{}), in.ErrUnauthenticated)
	}
	require.Len(t, w.Queue.Notified, 3)
	require.Equal(t, 2, w.Queue.Sweeps)
	require.Len(t, w.Queue.Stops, 1)
	require.Len(t, w.Agents.Revoked, 1)

	for want, call := range map[string]func() error{
		"INVALID_SCOPE hosts":       func() error { return w.StopTracing(t.Context(), op, nil, false, "r") },
		"INVALID_SCOPE hosts both":  func() error { return w.StopTracing(t.Context(), op, []uuid.UUID{hostA}, true, "r") },
		"LIMIT_EXCEEDED hosts":      func() error { return w.StopTracing(t.Context(), op, make([]uuid.UUID, 10_001), false, "r") },
		"TYPE_MISMATCH reason":      func() error { return w.StopTracing(t.Context(), op, nil, true, " ") },
		"LIMIT_EXCEEDED reason":     func() error { return w.StopTracing(t.Context(), op, nil, true, string(make([]byte, 513))) },
		"TYPE_MISMATCH vm":          func() error { return w.NotifyVM(t.Context(), op, uuid.Nil, "OTHER", "") },
		"TYPE_MISMATCH host":        func() error { _, err := w.CreateJoinToken(t.Context(), op, uuid.Nil, time.Hour); return err },
		"TTL_EXCEEDED ttlSeconds":   func() error { _, err := w.CreateJoinToken(t.Context(), op, hostA, time.Second); return err },
		"TTL_EXCEEDED ttlSeconds 2": func() error { _, err := w.CreateJoinToken(t.Context(), op, hostA, 25*time.Hour); return err },
		"NOT_FOUND host":            func() error { return w.RevokeAgent(t.Context(), op, hostA) },
		"NOT_FOUND hosts.1":         func() error { return w.StopTracing(t.Context(), op, []uuid.UUID{hosts[0].UUID, hostA}, false, "r") },
		"NOT_FOUND id":              func() error { return w.ConfirmGuard(t.Context(), op, "g1") },
	} {
		got := mistakes(t, call())
		require.Len(t, got, 1, want)
		require.Contains(t, want, got[0])
		require.Contains(t, want, last(w).Result)
	}

	fleet, err := w.Service.Fleet(t.Context(), op, ptr(true), in.Page{First: 1})
	require.NoError(t, err)
	require.Len(t, fleet.Items, 1)
	require.True(t, fleet.Next)
	entries, err := w.Audit(t.Context(), op, "", 3)
	require.NoError(t, err)
	require.Len(t, entries, 3)
	older, err := w.Audit(t.Context(), op, entries[2].ID, 1)
	require.NoError(t, err)
	require.Less(t, older[0].ID, entries[2].ID)
}

func TestStatesFollowFromTimesRevisionAndCoverage(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	base := in.Instrumentation{Revision: 2, Evaluated: 2}
	for name, test := range map[string]struct {
		change   func(*in.Instrumentation)
		coverage in.Coverage
		want     in.State
	}{
		"all run":               {nil, in.Coverage{Expected: 2, Running: 2}, in.Enabled},
		"none at all":           {nil, in.Coverage{}, in.Enabled},
		"some offline":          {nil, in.Coverage{Expected: 2, Running: 1, Offline: 1}, in.Enabled},
		"some pending":          {nil, in.Coverage{Expected: 2, Running: 1, Pending: 1}, in.Created},
		"some pending again":    {func(i *in.Instrumentation) { i.EnabledAt = now }, in.Coverage{Expected: 2, Pending: 1}, in.Updating},
		"some failed":           {nil, in.Coverage{Expected: 3, Failed: 1, Pending: 1}, in.Degraded},
		"not evaluated":         {func(i *in.Instrumentation) { i.Evaluated = 1 }, in.Coverage{Expected: 1, Running: 1}, in.Created},
		"not evaluated, failed": {func(i *in.Instrumentation) { i.Evaluated, i.EnabledAt = 1, now }, in.Coverage{Failed: 1}, in.Updating},
		"paused":                {func(i *in.Instrumentation) { i.PausedAt = now }, in.Coverage{Failed: 1}, in.Paused},
		"paused and expired":    {func(i *in.Instrumentation) { i.PausedAt, i.ExpiresAt = now, now }, in.Coverage{}, in.Expired},
		"lives a moment more":   {func(i *in.Instrumentation) { i.ExpiresAt = now.Add(1) }, in.Coverage{}, in.Enabled},
		"deleted and expired":   {func(i *in.Instrumentation) { i.DeletedAt, i.ExpiresAt = now, now }, in.Coverage{}, in.Deleting},
	} {
		rec := base
		if test.change != nil {
			test.change(&rec)
		}
		require.Equal(t, test.want, in.Judge(rec, test.coverage, now), name)
	}
}

func TestEqualWishesHaveOneDigest(t *testing.T) {
	and := func(args ...measure.Predicate) measure.Predicate {
		return measure.Predicate{Op: measure.And, Args: args}
	}
	a := in.Instrumentation{ID: "a", Metric: "m", Predicate: and(eq("x", "1"), eq("y", "2")), Decompositions: []string{"x"}, Name: "one"}
	b := in.Instrumentation{ID: "b", Metric: "m", Predicate: and(eq("y", "2"), and(eq("x", "1"))), Decompositions: []string{"x"}, Owner: alice}
	require.Equal(t, in.WishDigest(a), in.WishDigest(b))
	b.Decompositions = nil
	none := in.WishDigest(b)
	require.NotEqual(t, in.WishDigest(a), none)
	b.Decompositions = []string{}
	require.Equal(t, none, in.WishDigest(b))
	b.Predicate = measure.Predicate{}
	require.NotEqual(t, none, in.WishDigest(b))
	b.Metric = "n"
	require.NotEqual(t, in.WishDigest(in.Instrumentation{Metric: "m"}), in.WishDigest(b))
}
