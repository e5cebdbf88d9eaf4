package identity_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/identity"
)

var host = uuid.MustParse("00000000-0000-4000-8000-0000000000aa")

// request is one that came over loopback, as net/http makes it.
func request(headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1:8080/graphql", nil)
	r.RemoteAddr = "127.0.0.1:55555"
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080}))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func bearer(token string) *http.Request { return request("Authorization", "Bearer "+token) }

func TestLocalCallersAreOperatorsOnlyWhereNobodyElseCanBe(t *testing.T) {
	local, err := identity.NewLocal(&net.TCPAddr{IP: net.IPv6loopback, Port: 8080})
	require.NoError(t, err)
	host := func(h string) *http.Request { r := request(); r.Host = h; return r }
	for name, r := range map[string]*http.Request{
		"plain":       request(),
		"name":        host("localhost:8080"),
		"IPv6":        host("[::1]:8080"),
		"no port":     host("127.0.0.1"),
		"explorer":    request("Origin", "http://127.0.0.1:8080", "Sec-Fetch-Site", "same-origin"),
		"address bar": request("Sec-Fetch-Site", "none"),
	} {
		c, err := local.Authenticate(r)
		require.NoError(t, err, name)
		require.Equal(t, identity.Operator, c.Kind)
	}
	from := func(addr string) *http.Request { r := request(); r.RemoteAddr = addr; return r }
	certificate := request()
	certificate.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{}}}
	elsewhere := request()
	elsewhere = elsewhere.WithContext(context.WithValue(elsewhere.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(192, 168, 1, 2), Port: 8080}))
	unknown := request().WithContext(context.Background())
	for name, r := range map[string]*http.Request{
		"DNS rebinding":         host("evil.example"),
		"DNS rebinding, port":   host("evil.example:8080"),
		"looks like loopback":   host("127.0.0.1.evil.example"),
		"localhost's domain":    host("localhost.evil.example"),
		"subdomain":             host("evil.localhost"),
		"no host":               host(""),
		"other address":         host("192.168.1.2:8080"),
		"foreign origin":        request("Origin", "https://evil.example"),
		"other port":            request("Origin", "http://127.0.0.1:3000"),
		"other name":            request("Origin", "http://localhost:8080"),
		"null origin":           request("Origin", "null"),
		"extension":             request("Origin", "chrome-extension://127.0.0.1:8080"),
		"empty origin":          request("Origin", ""),
		"cross-site navigation": request("Sec-Fetch-Site", "cross-site"),
		"same-site":             request("Sec-Fetch-Site", "same-site"),
		"forwarded for":         request("X-Forwarded-For", "127.0.0.1"),
		"forwarded host":        request("x-forwarded-host", "localhost"),
		"forwarded empty":       request("X-Forwarded-Proto", ""),
		"forwarded":             request("Forwarded", "for=127.0.0.1"),
		"real ip":               request("X-Real-IP", "127.0.0.1"),
		"via":                   request("Via", "1.1 proxy"),
		"other credentials":     request("Authorization", "Basic Og=="),
		"a certificate":         certificate,
		"from elsewhere":        from("192.168.1.9:4711"),
		"arrived elsewhere":     elsewhere,
		"arrived nowhere":       unknown,
		"no address":            from("@"),
	} {
		_, err := local.Authenticate(r)
		require.ErrorIs(t, err, identity.ErrNoCredentials, name)
	}
	_, err = identity.NewLocal(&net.TCPAddr{IP: net.IPv4zero, Port: 8080})
	require.Error(t, err)
	_, err = identity.NewLocal(&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 8080})
	require.Error(t, err)
}

func TestOperatorsTokenIsInAFileThatOnlyItsUserReads(t *testing.T) {
	dir := t.TempDir()
	made := make([]*identity.TokenFile, 8)
	var all sync.WaitGroup
	for i := range made {
		all.Go(func() {
			f, err := identity.OpenTokenFile(dir)
			if err == nil {
				made[i] = f
			}
		})
	}
	all.Wait()
	token, err := identity.ReadTokenFile(dir)
	require.NoError(t, err)
	require.Regexp(t, `^iapio_[a-z2-7]{52}$`, token)
	for _, f := range made {
		require.NotNil(t, f, "several processes may start at once")
		c, err := f.Authenticate(bearer(token))
		require.NoError(t, err)
		require.Equal(t, identity.Operator, c.Kind)
	}
	f := made[0]
	require.Equal(t, filepath.Join(dir, identity.TokenName), f.Path())
	info, err := os.Stat(f.Path())
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing is left lying about")

	for _, wrong := range []string{token[:len(token)-1] + "x", token + "a", "iapio_", token[:20]} {
		_, err := f.Authenticate(bearer(wrong))
		require.ErrorIs(t, err, identity.ErrBadCredentials)
		require.NotContains(t, err.Error(), wrong)
	}
	for _, other := range []*http.Request{request(), bearer("iapia_x"), request("Authorization", token), request("Authorization", "Bearer")} {
		_, err := f.Authenticate(other)
		require.ErrorIs(t, err, identity.ErrNoCredentials)
	}
	_, err = f.Authenticate(request("Authorization", "Bearer "+token, "Authorization", "Bearer "+token))
	require.ErrorIs(t, err, identity.ErrBadCredentials)

	require.NoError(t, os.Chmod(f.Path(), 0o640))
	_, err = identity.OpenTokenFile(dir)
	require.ErrorContains(t, err, "0600")
	require.NoError(t, os.WriteFile(f.Path(), []byte("hunter2"), 0o600))
	require.NoError(t, os.Chmod(f.Path(), 0o600))
	_, err = identity.OpenTokenFile(dir)
	require.ErrorContains(t, err, "does not hold one")
	require.NotContains(t, err.Error(), "hunter2")
}

// tokens are the credentials of agents, in memory.
type tokens struct {
	agents, joins map[string]uuid.UUID
	err           error
}

func (s *tokens) Lookup(_ context.Context, hash string) (uuid.UUID, bool, error) {
	h, ok := s.agents[hash]
	return h, ok, s.err
}

func (s *tokens) Redeem(_ context.Context, of uuid.UUID, join, agent string) (bool, error) {
	h, ok := s.joins[join]
	if ok = ok && h == of; ok {
		delete(s.joins, join)
		s.agents[agent] = h
	}
	return ok, s.err
}

func TestAnAgentJoinsOnceAndIsBoundToItsHost(t *testing.T) {
	join, hash := identity.NewJoinToken()
	require.Regexp(t, `^iapij_[a-z2-7]{52}$`, join)
	require.Equal(t, hash, identity.HashToken(join))
	known := &tokens{joins: map[string]uuid.UUID{hash: host}, agents: map[string]uuid.UUID{}}
	for _, of := range []uuid.UUID{uuid.New(), uuid.Nil} {
		_, err := identity.Join(t.Context(), known, of, join, "")
		require.ErrorIs(t, err, identity.ErrBadCredentials, "a token of another host, which is not used up by that")
	}
	token, err := identity.Join(t.Context(), known, host, join, "")
	require.NoError(t, err)
	require.Regexp(t, `^iapia_[a-z2-7]{52}$`, token)
	for _, again := range []string{join, token, "", "iapij_x"} {
		_, err := identity.Join(t.Context(), known, host, again, "")
		require.ErrorIs(t, err, identity.ErrBadCredentials)
	}

	known.joins[hash] = host
	made, _ := identity.NewAgentToken()
	for _, malformed := range []string{made[1:], made + "a", "iapia_1", join} {
		_, err := identity.Join(t.Context(), known, host, join, malformed)
		require.ErrorIs(t, err, identity.ErrBadCredentials)
	}
	own, err := identity.Join(t.Context(), known, host, join, made)
	require.NoError(t, err)
	require.Equal(t, made, own, "the agent may have made it")

	auth := identity.AgentToken{Tokens: known}
	c, err := auth.Authenticate(bearer(token))
	require.NoError(t, err)
	require.Equal(t, identity.Caller{ID: "agent:" + host.String(), Kind: identity.Agent, Host: host}, c)
	require.True(t, c.CanServe(host))
	require.False(t, c.CanServe(uuid.New()))
	require.False(t, identity.Caller{Kind: identity.Agent}.CanServe(uuid.Nil))
	require.False(t, identity.Caller{Kind: identity.Operator, Host: host}.CanServe(host))

	delete(known.agents, identity.HashToken(token))
	_, err = auth.Authenticate(bearer(token))
	require.ErrorIs(t, err, identity.ErrBadCredentials)
	_, err = auth.Authenticate(bearer("iapia_short"))
	require.ErrorIs(t, err, identity.ErrBadCredentials)
	_, err = auth.Authenticate(bearer(join))
	require.ErrorIs(t, err, identity.ErrNoCredentials, "a join token is no credential")
	known.err = errors.New("redis is away")
	_, err = auth.Authenticate(bearer(token))
	require.ErrorIs(t, err, known.err)
	require.NotErrorIs(t, err, identity.ErrBadCredentials)
}

func TestCertificatesNameOneHost(t *testing.T) {
	uri := func(text string) *url.URL {
		u, err := url.Parse(text)
		require.NoError(t, err)
		return u
	}
	lapses := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	with := func(cert x509.Certificate) *http.Request {
		cert.NotAfter = lapses
		r := request()
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{&cert}, VerifiedChains: [][]*x509.Certificate{{&cert}}}
		return r
	}
	other := uuid.New().String()
	for _, cert := range []x509.Certificate{
		{URIs: []*url.URL{uri("urn:uuid:" + host.String())}},
		{URIs: []*url.URL{uri("URN:UUID:" + host.String()), uri("spiffe://x/y")}},
		{DNSNames: []string{"cn-7.example.com", host.String() + ".agents.example.com"}},
		{DNSNames: []string{host.String()}, URIs: []*url.URL{uri("urn:uuid:" + host.String())}},
	} {
		c, err := identity.MTLS{}.Authenticate(with(cert))
		require.NoError(t, err)
		require.Equal(t, host, c.Host)
		require.Equal(t, identity.Agent, c.Kind)
		require.False(t, c.Lapsed(lapses.Add(-1)))
		require.True(t, c.Lapsed(lapses))
	}
	for name, cert := range map[string]x509.Certificate{
		"no host":      {DNSNames: []string{"cn-7.example.com"}},
		"nothing":      {},
		"two hosts":    {DNSNames: []string{host.String(), other}},
		"two kinds":    {DNSNames: []string{host.String()}, URIs: []*url.URL{uri("urn:uuid:" + other)}},
		"nil":          {DNSNames: []string{uuid.Nil.String()}},
		"braces":       {URIs: []*url.URL{uri("urn:uuid:%7B" + host.String() + "%7D")}},
		"another urn":  {URIs: []*url.URL{uri("urn:oid:" + host.String())}},
		"another host": {URIs: []*url.URL{uri("https://" + host.String())}},
	} {
		_, err := identity.MTLS{}.Authenticate(with(cert))
		require.ErrorIs(t, err, identity.ErrBadCredentials, name)
	}
	good := x509.Certificate{DNSNames: []string{host.String()}}
	unverified := with(good)
	unverified.TLS.VerifiedChains = nil
	_, err := identity.MTLS{}.Authenticate(unverified)
	require.ErrorIs(t, err, identity.ErrBadCredentials)
	_, err = identity.MTLS{}.Authenticate(request())
	require.ErrorIs(t, err, identity.ErrNoCredentials)
	at := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	revoked := identity.MTLS{Revoked: func(_ context.Context, h uuid.UUID) (time.Time, error) {
		require.Equal(t, host, h)
		return at, nil
	}}
	good.NotBefore = at.Add(-time.Second)
	_, err = revoked.Authenticate(with(good))
	require.ErrorIs(t, err, identity.ErrBadCredentials)
	good.NotBefore = at
	_, err = revoked.Authenticate(with(good))
	require.NoError(t, err, "a certificate that was issued after the revocation")
	away := identity.MTLS{Revoked: func(context.Context, uuid.UUID) (time.Time, error) { return time.Time{}, errors.New("away") }}
	_, err = away.Authenticate(with(good))
	require.Error(t, err)
	require.NotErrorIs(t, err, identity.ErrBadCredentials)
}

type says struct {
	caller identity.Caller
	err    error
}

func (s says) Authenticate(*http.Request) (identity.Caller, error) { return s.caller, s.err }

func TestTheFirstThatReadsCredentialsDecidesAndOnlyTheLogLearnsWhy(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	none := says{err: identity.ErrNoCredentials}
	alice := says{caller: identity.Caller{ID: "alice"}}
	why := errors.New("signed by evil")
	bad := says{err: errors.Join(identity.ErrBadCredentials, why)}
	broken := says{err: errors.New("redis-7 is away")}

	c, err := identity.Chain(log, none, alice, bad).Authenticate(request())
	require.NoError(t, err)
	require.Equal(t, "alice", c.ID)
	_, err = identity.Chain(log, none, bad, alice).Authenticate(bearer("s3cret"))
	require.Equal(t, identity.ErrBadCredentials, err)
	require.Contains(t, out.String(), "signed by evil")
	require.NotContains(t, out.String(), "s3cret")
	_, err = identity.Chain(log, broken, alice).Authenticate(request())
	require.Equal(t, identity.ErrUnavailable, err)
	_, err = identity.Chain(log, none, none).Authenticate(request())
	require.Equal(t, identity.ErrNoCredentials, err)
	_, err = identity.Chain(log, none).Authenticate(bearer("x"))
	require.Equal(t, identity.ErrBadCredentials, err, "what nobody reads is not nothing")
	local, err := identity.NewLocal(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1})
	require.NoError(t, err)
	_, err = identity.Chain(log, none, local).Authenticate(bearer("x"))
	require.Equal(t, identity.ErrBadCredentials, err)
	_, err = identity.Chain(log, none, local).Authenticate(request("X-Forwarded-For", "10.0.0.1"))
	require.Equal(t, identity.ErrNoCredentials, err)
}
