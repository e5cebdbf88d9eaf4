package store_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
