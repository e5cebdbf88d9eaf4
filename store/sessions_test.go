package store_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/store"
	"iapi/store/storetest"
)

func TestARevokedSessionIsNotTheAgentUntilOneBegins(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		host, other := uid(1000), uid(1001)
		v := assign(t, s, host, item("a", 1, uid(1)))
		assign(t, s, other)
		require.NoError(t, s.BeginSession(ctx, host, uid(7)))
		report := store.Report{Host: host, Session: uid(7), Sequence: 1, Applied: v}
		result, err := s.Report(ctx, report)
		require.NoError(t, err)
		require.True(t, result.Accepted)
		sessions, err := s.Sessions(ctx, host, other, uid(1002))
		require.NoError(t, err)
		require.Equal(t, []uuid.UUID{uid(7), uuid.Nil, uuid.Nil}, sessions)

		require.NoError(t, s.RevokeAgent(ctx, host))
		require.NoError(t, s.RevokeAgent(ctx, uid(1002)), "a host that was never seen")
		sessions, err = s.Sessions(ctx, host, other, uid(1002))
		require.NoError(t, err)
		require.Equal(t, []uuid.UUID{uuid.Max, uuid.Nil, uuid.Nil}, sessions)
		report.Sequence = 2
		result, err = s.Report(ctx, report)
		require.NoError(t, err)
		require.Equal(t, store.ReportResult{Superseded: true, Judge: result.Judge}, result)
		require.Empty(t, result.Judge)
		require.Error(t, s.BeginSession(ctx, host, uuid.Max))

		require.NoError(t, s.BeginSession(ctx, host, uid(8)))
		report.Session = uid(8)
		result, err = s.Report(ctx, report)
		require.NoError(t, err)
		require.True(t, result.Accepted)
	})
}
