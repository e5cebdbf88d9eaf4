package store_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/store"
	"iapi/store/storetest"
)

// begin begins a session and returns its number.
func begin(t *testing.T, s *store.Store, host, session uuid.UUID) int64 {
	t.Helper()
	number, err := s.BeginSession(t.Context(), host, session, 0)
	require.NoError(t, err)
	require.Positive(t, number)
	return number
}

// agents are the sessions that are the agents of hosts.
func agents(t *testing.T, s *store.Store, hosts ...uuid.UUID) []uuid.UUID {
	t.Helper()
	sessions, err := s.Sessions(t.Context(), hosts...)
	require.NoError(t, err)
	out := make([]uuid.UUID, len(sessions))
	for i, one := range sessions {
		out[i] = one.ID
	}
	return out
}

func touch(t *testing.T, s *store.Store, hosts ...uuid.UUID) {
	t.Helper()
	missed, err := s.Touch(t.Context(), hosts...)
	require.NoError(t, err)
	require.Empty(t, missed)
}

func TestARevokedSessionIsNotTheAgentUntilOneBegins(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		host, other := uid(1000), uid(1001)
		v := assign(t, s, host, item("a", 1, uid(1)))
		assign(t, s, other)
		begin(t, s, host, uid(7))
		report := store.Report{Host: host, Session: uid(7), Sequence: 1, Applied: v}
		result, err := s.Report(ctx, report)
		require.NoError(t, err)
		require.True(t, result.Accepted)
		require.Equal(t, []uuid.UUID{uid(7), uuid.Nil, uuid.Nil}, agents(t, s, host, other, uid(1002)))

		require.NoError(t, s.RevokeAgent(ctx, host))
		require.NoError(t, s.RevokeAgent(ctx, uid(1002)), "a host that was never seen")
		require.Equal(t, []uuid.UUID{uuid.Max, uuid.Nil, uuid.Nil}, agents(t, s, host, other, uid(1002)))
		report.Sequence = 2
		result, err = s.Report(ctx, report)
		require.NoError(t, err)
		require.Equal(t, store.ReportResult{Superseded: true, Judge: result.Judge}, result)
		require.Empty(t, result.Judge)
		_, err = s.BeginSession(ctx, host, uuid.Max, 0)
		require.Error(t, err)

		begin(t, s, host, uid(8))
		report.Session = uid(8)
		result, err = s.Report(ctx, report)
		require.NoError(t, err)
		require.True(t, result.Accepted)
	})
}

func TestASessionBeginsAgainOnlyWhereTheStoreHasLostThat(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		host, mine, other := uid(1000), uid(7), uid(8)
		before := begin(t, s, host, other)
		held := begin(t, s, host, mine)
		require.Greater(t, held, before)
		again := func() int64 {
			t.Helper()
			number, err := s.BeginSession(ctx, host, mine, held)
			require.NoError(t, err)
			return number
		}
		require.Equal(t, held, again(), "nothing is lost")
		for _, key := range []string{"fact:", "another"} { // it has gone back to the one before, or knows of none
			if key == "fact:" {
				require.NoError(t, s.Client().HSet(ctx, store.HostKey(host, "fact:"), "session", other.String(), "begun", before).Err())
			} else {
				require.NoError(t, s.Client().HDel(ctx, store.HostKey(host, "fact:"), "session", "begun").Err())
			}
			number := again()
			require.Greater(t, number, held, "later ones know that they are")
			held = number
			require.Equal(t, []uuid.UUID{mine}, agents(t, s, host))
		}
		last := begin(t, s, host, other)
		require.Greater(t, last, held)
		require.Zero(t, again(), "another has begun since")
		require.Equal(t, []uuid.UUID{other}, agents(t, s, host))
		held = begin(t, s, host, mine)
		require.NoError(t, s.RevokeAgent(ctx, host))
		require.Zero(t, again(), "it was revoked")
	})
}
