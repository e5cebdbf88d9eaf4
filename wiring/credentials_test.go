package wiring

import (
	"crypto/tls"
	"crypto/x509"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/identity"
	"iapi/store"
	"iapi/store/storetest"
)

func TestCredentialsOfAgents(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		c, host, other := Credentials{s}, uuid.New(), uuid.New()
		join, err := c.CreateJoinToken(t.Context(), host, time.Minute)
		require.NoError(t, err)
		_, err = identity.Join(t.Context(), c, other, join, "")
		require.ErrorIs(t, err, identity.ErrBadCredentials)
		token, _ := identity.NewAgentToken()
		for range 2 { // an agent that had no answer asks again
			joined, err := identity.Join(t.Context(), c, host, join, token)
			require.NoError(t, err, "an attempt for another host has not used it up")
			require.Equal(t, token, joined)
		}
		stolen, _ := identity.NewAgentToken()
		for _, thief := range []string{"", stolen} {
			_, err = identity.Join(t.Context(), c, host, join, thief)
			require.ErrorIs(t, err, identity.ErrBadCredentials, "once, for whoever has not made the credential")
		}
		_, err = identity.Join(t.Context(), c, other, join, token)
		require.ErrorIs(t, err, identity.ErrBadCredentials, "a credential is bound to its host")

		bearer := httptest.NewRequest("GET", "/", nil)
		bearer.Header.Set("Authorization", "Bearer "+token)
		cert := &x509.Certificate{URIs: []*url.URL{{Scheme: "urn", Opaque: "uuid:" + host.String()}}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
		presented := httptest.NewRequest("GET", "/", nil)
		presented.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert}}}
		tokens, certificates := identity.AgentToken{Tokens: c}, identity.MTLS{Revoked: s.CertificatesRevoked}
		for _, ok := range []bool{true, false} {
			_, err1 := tokens.Authenticate(bearer)
			_, err2 := certificates.Authenticate(presented)
			if ok {
				require.NoError(t, err1)
				require.NoError(t, err2)
				require.NoError(t, c.RevokeAgent(t.Context(), host))
				continue
			}
			require.ErrorIs(t, err1, identity.ErrBadCredentials)
			require.ErrorIs(t, err2, identity.ErrBadCredentials)
		}
		_, err = identity.Join(t.Context(), c, host, join, token)
		require.ErrorIs(t, err, identity.ErrBadCredentials, "what was revoked does not come back by repeating")
		cert.NotBefore = time.Now().Add(time.Minute)
		_, err = certificates.Authenticate(presented)
		require.NoError(t, err, "a certificate that was issued later")
	})
}
