package store_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/inventory"
	"iapi/store"
	"iapi/store/storetest"
)

func TestAJoinTokenTellsItsHostWithoutBeingUsed(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		host := uid(1)
		_, err := s.JoinHost(t.Context(), "unknown")
		require.ErrorIs(t, err, store.ErrToken)
		require.NoError(t, s.PutJoinToken(t.Context(), "join", host, time.Minute))
		for range 2 {
			of, err := s.JoinHost(t.Context(), "join")
			require.NoError(t, err)
			require.Equal(t, host, of)
		}
		_, err = s.Redeem(t.Context(), "join", "agent")
		require.NoError(t, err)
		_, err = s.JoinHost(t.Context(), "join")
		require.ErrorIs(t, err, store.ErrToken)
	})
}

func TestCertificatesAreVoidFromTheirRevocationBack(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		at, err := s.CertificatesRevoked(t.Context(), uid(1))
		require.NoError(t, err)
		require.Zero(t, at)
		before, err := s.Now(t.Context())
		require.NoError(t, err)
		require.NoError(t, s.RevokeCertificates(t.Context(), uid(1)))
		require.NoError(t, s.RevokeCertificates(t.Context(), uid(1)), "again")
		at, err = s.CertificatesRevoked(t.Context(), uid(1))
		require.NoError(t, err)
		require.False(t, at.Before(before.Truncate(time.Millisecond)))
		other, err := s.CertificatesRevoked(t.Context(), uid(2))
		require.NoError(t, err)
		require.Zero(t, other)
	})
}

func TestAgentsOfManyHostsAreReadTogether(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		v := assign(t, s, uid(1000))
		_, err := s.ReportBatch(t.Context(), []store.Report{{Host: uid(1000), Session: uid(77), Sequence: 1, AgentVersion: "1.2", Applied: v}})
		require.NoError(t, err)
		_, err = s.PutHosts(t.Context(), time.Now(), []inventory.Host{{UUID: uid(1000), Name: "h"}})
		require.NoError(t, err)
		found, err := s.FleetHosts(t.Context(), uid(1), uid(1000))
		require.NoError(t, err)
		require.Len(t, found, 2)
		require.Nil(t, found[0], "a host that nothing is known of")
		require.Equal(t, "1.2", found[1].Agent.Version)
		require.True(t, found[1].Agent.Online)
	})
}
