package instrumentation_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	in "iapi/instrumentation"
	it "iapi/instrumentation/instrumentationtest"
)

// faulty is a store whose commits fail once it has made some, and which does nothing for those who have gone.
type faulty struct {
	in.Store
	fault error
	good  int // commits that are made before
}

func (f *faulty) Commit(ctx context.Context, c in.Change) (in.Instrumentation, error) {
	if f.fault != nil {
		if f.good == 0 {
			return in.Instrumentation{}, f.fault
		}
		f.good--
	}
	return f.Store.Commit(ctx, c)
}

func (f *faulty) Record(ctx context.Context, a in.Audit) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return f.Store.Record(ctx, a)
}

func TestFaultsAreOnRecord(t *testing.T) {
	store := &faulty{}
	w := it.NewWorld(t, func(o *in.Options) { store.Store, o.Store = o.Store, store })
	c := it.Operator()
	hosts, _ := w.Fleet(1, alice)
	var ids []in.ID
	for range 3 {
		ids = append(ids, create(t, w, c, counter(func(c *in.CreateInput) { c.Owner = &alice })).ID)
	}
	calls := map[string]func(context.Context) error{
		"createInstrumentation": func(ctx context.Context) error {
			_, err := w.Create(ctx, it.Tenant(alice), counter())
			return err
		},
		"cloneInstrumentation": func(ctx context.Context) error {
			_, err := w.Clone(ctx, c, in.CloneInput{ID: ids[0]})
			return err
		},
		"pauseInstrumentation":   func(ctx context.Context) error { _, err := w.Pause(ctx, c, ids[0]); return err },
		"refreshInstrumentation": func(ctx context.Context) error { _, err := w.Refresh(ctx, c, ids[0]); return err },
		"deleteInstrumentation":  func(ctx context.Context) error { return w.Delete(ctx, c, ids[0]) },
		"deleteInstrumentations": func(ctx context.Context) error { _, err := w.DeleteMany(ctx, c, in.Filter{}, 3); return err },
		"notifyVmChanged":        func(ctx context.Context) error { return w.NotifyVM(ctx, c, vmA, "", "") },
		"refreshAll":             func(ctx context.Context) error { return w.RefreshAll(ctx, c) },
		"stopTracing": func(ctx context.Context) error {
			return w.StopTracing(ctx, c, []uuid.UUID{hosts[0].UUID}, false, "why")
		},
	}
	for code, fault := range map[string]error{"NOT_READY": fmt.Errorf("%w: loading", in.ErrNotReady), "NOT_DURABLE": in.ErrNotDurable, "FAILED": errBroken} {
		store.fault = fault
		w.Queue.FailWith(fault)
		for action, call := range calls {
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // whoever called has gone
			before := len(w.Store.Entries())
			require.ErrorIs(t, call(ctx), fault, action)
			require.Greater(t, len(w.Store.Entries()), before, action)
			require.Equal(t, action+" "+code, last(w).Action+" "+last(w).Result)
			if action == "createInstrumentation" {
				require.NotEmpty(t, last(w).Subject, "it may have been made")
			}
		}
	}

	store.fault, store.good = errBroken, 2
	gone, err := w.DeleteMany(t.Context(), c, in.Filter{}, 3)
	require.Len(t, mistakes(t, err), 1)
	require.Len(t, gone, 2)
	require.Equal(t, "deleteInstrumentations UNAVAILABLE deleted 2 of 3", last(w).Action+" "+last(w).Result+" "+last(w).Detail)
}

func TestWhatCannotBeRecordedIsLogged(t *testing.T) {
	var log bytes.Buffer
	w := it.NewWorld(t, func(o *in.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	w.Store.FailWith(errBroken)
	_, err := w.Create(t.Context(), it.Tenant(alice), counter())
	require.ErrorIs(t, err, errBroken)
	require.Contains(t, log.String(), "an audit entry is lost")
	require.Contains(t, log.String(), "result=FAILED")
}
