package instrumentation_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/identity"
	in "iapi/instrumentation"
	it "iapi/instrumentation/instrumentationtest"
)

var (
	alice = uuid.MustParse("00000000-0000-4000-8000-00000000a11c")
	bob   = uuid.MustParse("00000000-0000-4000-8000-000000000b0b")
)

func ptr[T any](v T) *T { return &v }

// counter is a wish that nothing is wrong with.
func counter(change ...func(*in.CreateInput)) in.CreateInput {
	wish := in.CreateInput{Metric: "cpu.usage", Scope: in.Scope{All: true}}
	for _, fn := range change {
		fn(&wish)
	}
	return wish
}

// tracing is a wish to trace that nothing is wrong with.
func tracing(change ...func(*in.CreateInput)) in.CreateInput {
	return counter(append([]func(*in.CreateInput){func(w *in.CreateInput) { w.Metric = "test.ops" }}, change...)...)
}

// mistakes returns code and path of each mistake, sorted as they came: "INVALID_SCOPE scope.and.0".
func mistakes(t testing.TB, err error) []string {
	t.Helper()
	var found in.UserErrors
	if err == nil {
		return nil
	}
	require.ErrorAs(t, err, &found)
	out := make([]string, len(found))
	for i, e := range found {
		require.NotEmpty(t, e.Message)
		out[i] = strings.TrimSpace(fmt.Sprintf("%s %s", e.Code, strings.Join(e.Path, ".")))
	}
	return out
}

func create(t testing.TB, w *it.World, c identity.Caller, wish in.CreateInput) *in.Instrumentation {
	t.Helper()
	rec, err := w.Create(t.Context(), c, wish)
	require.NoError(t, err)
	return rec
}

// last returns the newest audit entry.
func last(w *it.World) in.Audit {
	entries := w.Store.Entries()
	if len(entries) == 0 {
		return in.Audit{}
	}
	return entries[len(entries)-1]
}

var errBroken = errors.New("dial redis-7.internal:6379: connection refused")

// of reads an instrumentation for a caller and asks what is told of it, as the API does.
func of[T any](
	ctx context.Context, w *it.World, c identity.Caller, id in.ID,
	ask func(context.Context, identity.Caller, []in.Instrumentation) ([]T, error),
) (T, error) {
	var none T
	found, err := w.Get(ctx, c, id)
	if err != nil {
		return none, err
	}
	if found[0] == nil {
		return none, in.ErrNotFound
	}
	out, err := ask(ctx, c, []in.Instrumentation{*found[0]})
	if err != nil {
		return none, err
	}
	return out[0], nil
}

func vmsOf(ctx context.Context, w *it.World, c identity.Caller, id in.ID, p in.Page) (in.Found[in.VMPlacement], error) {
	return of(ctx, w, c, id, func(ctx context.Context, c identity.Caller, of []in.Instrumentation) ([]in.Found[in.VMPlacement], error) {
		return w.VMsOf(ctx, c, of, p)
	})
}

func hostsOf(ctx context.Context, w *it.World, c identity.Caller, id in.ID, p in.Page) (*in.Found[in.HostPlacement], error) {
	return of(ctx, w, c, id, func(ctx context.Context, c identity.Caller, of []in.Instrumentation) ([]*in.Found[in.HostPlacement], error) {
		return w.HostsOf(ctx, c, of, p)
	})
}
