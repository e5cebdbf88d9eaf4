package identity_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/identity"
)

const (
	issuer   = "https://id.example.com"
	audience = "iapi"
)

var (
	now   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	owner = uuid.MustParse("00000000-0000-4000-8000-00000000a11c")
)

// signer is a key of an issuer.
type signer struct {
	kid    string
	method jwt.SigningMethod
	key    crypto.Signer
}

func newSigner(t testing.TB, kid, alg string) signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch alg {
	case "RS256", "PS256":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "EdDSA":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	}
	require.NoError(t, err)
	return signer{kid, jwt.GetSigningMethod(alg), key}
}

func (s signer) jwk() jose.JSONWebKey {
	return jose.JSONWebKey{Key: s.key.Public(), KeyID: s.kid, Use: "sig"}
}

func (s signer) sign(t testing.TB, change ...func(jwt.MapClaims, map[string]any)) string {
	t.Helper()
	claims := jwt.MapClaims{
		"iss": issuer, "aud": audience, "sub": "olga", "iapi_kind": "operator",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	token := jwt.NewWithClaims(s.method, claims)
	if s.kid != "" {
		token.Header["kid"] = s.kid
	}
	for _, fn := range change {
		fn(claims, token.Header)
	}
	raw, err := token.SignedString(s.key)
	require.NoError(t, err)
	return raw
}

func claim(name string, value any) func(jwt.MapClaims, map[string]any) {
	return func(c jwt.MapClaims, _ map[string]any) {
		if c[name] = value; value == nil {
			delete(c, name)
		}
	}
}

func header(name string, value any) func(jwt.MapClaims, map[string]any) {
	return func(_ jwt.MapClaims, h map[string]any) { h[name] = value }
}

func writeKeys(t testing.TB, path string, keys ...jose.JSONWebKey) {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path+".new", text, 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

func fromFile(t testing.TB, path string, change ...func(*identity.JWTOptions)) *identity.JWT {
	t.Helper()
	keys, err := identity.OpenKeyFile(path, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	return believing(t, keys, change...)
}

func believing(t testing.TB, keys identity.Keys, change ...func(*identity.JWTOptions)) *identity.JWT {
	t.Helper()
	o := identity.JWTOptions{Issuer: issuer, Audience: audience, Leeway: 10 * time.Second, Clock: func() time.Time { return now }}
	for _, fn := range change {
		fn(&o)
	}
	auth, err := identity.NewJWT(keys, o)
	require.NoError(t, err)
	return auth
}

func TestTokensOfEveryKindOfKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	var keys []jose.JSONWebKey
	var signers []signer
	for _, alg := range identity.DefaultAlgorithms {
		s := newSigner(t, "key-"+alg, alg)
		signers, keys = append(signers, s), append(keys, s.jwk())
	}
	writeKeys(t, path, keys...)
	auth := fromFile(t, path)
	for _, s := range signers {
		c, err := auth.Authenticate(bearer(s.sign(t)))
		require.NoError(t, err, s.kid)
		require.Equal(t, identity.Caller{ID: "operator:olga", Kind: identity.Operator, Expires: now.Add(time.Hour)}, c)
	}
}

func TestTokensThatDoNotHold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	s, second := newSigner(t, "one", "RS256"), newSigner(t, "two", "ES256")
	forEncryption := s.jwk()
	forEncryption.KeyID, forEncryption.Algorithm = "ps", "PS256"
	writeKeys(t, path, s.jwk(), second.jwk(), forEncryption)
	auth := fromFile(t, path)
	_, err := auth.Authenticate(bearer(s.sign(t)))
	require.NoError(t, err)

	stranger := newSigner(t, "one", "RS256")
	unsigned := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"iss": issuer, "aud": audience, "sub": "x", "exp": now.Add(time.Hour).Unix(), "iapi_kind": "operator"})
	unsigned.Header["kid"] = "one"
	none, err := unsigned.SignedString(jwt.UnsafeAllowNoneSignatureType)
	require.NoError(t, err)
	// The public key as the secret of an HMAC, in the forms in which somebody may have it.
	confused := func(secret []byte) string {
		token := jwt.NewWithClaims(jwt.SigningMethodHS256, unsigned.Claims)
		token.Header["kid"] = "one"
		raw, err := token.SignedString(secret)
		require.NoError(t, err)
		return raw
	}
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	require.NoError(t, err)
	good := s.sign(t)
	parts := strings.Split(good, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	require.NoError(t, err)
	altered := parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(payload), "olga", "evil", 1))) + "." + parts[2]

	for name, raw := range map[string]string{
		"expired":             s.sign(t, claim("exp", now.Add(-11*time.Second).Unix())),
		"no end":              s.sign(t, claim("exp", nil)),
		"not yet":             s.sign(t, claim("nbf", now.Add(11*time.Second).Unix())),
		"made tomorrow":       s.sign(t, claim("iat", now.Add(time.Hour).Unix())),
		"wrong audience":      s.sign(t, claim("aud", "another")),
		"no audience":         s.sign(t, claim("aud", nil)),
		"wrong issuer":        s.sign(t, claim("iss", issuer+"/")),
		"no issuer":           s.sign(t, claim("iss", nil)),
		"no subject":          s.sign(t, claim("sub", nil)),
		"no kind":             s.sign(t, claim("iapi_kind", nil)),
		"kind of an agent":    s.sign(t, claim("iapi_kind", "agent")),
		"kind of its own":     s.sign(t, claim("iapi_kind", "root")),
		"kind of a list":      s.sign(t, claim("iapi_kind", []string{"operator"})),
		"tenant of nothing":   s.sign(t, claim("iapi_kind", "tenant")),
		"tenant of nobody":    s.sign(t, claim("iapi_kind", "tenant"), claim("iapi_owner", uuid.Nil.String())),
		"tenant of a name":    s.sign(t, claim("iapi_kind", "tenant"), claim("iapi_owner", "alice")),
		"end that is a text":  s.sign(t, claim("exp", "tomorrow")),
		"alg none":            none,
		"HS256 with PEM":      confused(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		"HS256 with DER":      confused(der),
		"stranger's key":      stranger.sign(t),
		"key of another type": signer{"two", s.method, s.key}.sign(t),
		"key for another alg": signer{"ps", s.method, s.key}.sign(t),
		"unknown key":         signer{"three", s.method, s.key}.sign(t),
		"names no key":        signer{"", s.method, s.key}.sign(t),
		"alg not pinned":      signer{"one", jwt.SigningMethodRS512, s.key}.sign(t),
		"critical extension":  s.sign(t, header("crit", []string{"exp"})),
		"altered":             altered,
		"cut":                 good[:len(good)-10],
		"no JSON":             "a.b.c",
		"huge":                parts[0] + "." + strings.Repeat("A", 20_000) + "." + parts[2],
	} {
		_, err := auth.Authenticate(bearer(raw))
		require.ErrorIs(t, err, identity.ErrBadCredentials, name)
	}
	for _, other := range []*http.Request{request(), bearer("iapio_x"), request("Authorization", "Basic "+good)} {
		_, err := auth.Authenticate(other)
		require.ErrorIs(t, err, identity.ErrNoCredentials)
	}
	for name, raw := range map[string]string{
		"lapsed within the leeway": s.sign(t, claim("exp", now.Add(-9*time.Second).Unix())),
		"early within the leeway":  s.sign(t, claim("nbf", now.Add(9*time.Second).Unix())),
		"one of its audiences":     s.sign(t, claim("aud", []string{"another", audience})),
	} {
		_, err := auth.Authenticate(bearer(raw))
		require.NoError(t, err, name)
	}
}

func TestClaimsSayWhoCalls(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	s := newSigner(t, "", "EdDSA")
	writeKeys(t, path, s.jwk())
	auth := fromFile(t, path, func(o *identity.JWTOptions) {
		o.Claims = identity.ClaimNames{Owner: "account.uuid", Roles: "realm_access.roles", Kinds: map[string]identity.Kind{
			"dc-admin": identity.Operator, "customer": identity.Tenant, "portal": identity.Service, "wf": identity.Workflow,
		}}
	})
	roles := func(names ...string) func(jwt.MapClaims, map[string]any) {
		return func(c jwt.MapClaims, _ map[string]any) {
			delete(c, "iapi_kind")
			c["realm_access"] = map[string]any{"roles": names}
		}
	}
	account := claim("account", map[string]any{"uuid": owner.String()})
	for name, test := range map[string]struct {
		raw  string
		want identity.Caller
	}{
		"role":             {s.sign(t, roles("else", "dc-admin")), identity.Caller{ID: "operator:olga", Kind: identity.Operator}},
		"mightiest role":   {s.sign(t, roles("customer", "dc-admin"), account), identity.Caller{ID: "operator:olga", Kind: identity.Operator}},
		"customer":         {s.sign(t, roles("customer"), account), identity.Caller{ID: "tenant:olga", Kind: identity.Tenant, Owner: owner}},
		"portal":           {s.sign(t, roles("portal")), identity.Caller{ID: "service:olga", Kind: identity.Service}},
		"portal of one":    {s.sign(t, roles("portal"), account), identity.Caller{ID: "service:olga", Kind: identity.Service, Owner: owner}},
		"workflow":         {s.sign(t, roles("wf"), account), identity.Caller{ID: "workflow:olga", Kind: identity.Workflow}},
		"kind before role": {s.sign(t, roles("dc-admin"), claim("iapi_kind", "tenant"), account), identity.Caller{ID: "tenant:olga", Kind: identity.Tenant, Owner: owner}},
		"scopes":           {s.sign(t, claim("scope", "read write")), identity.Caller{ID: "operator:olga", Kind: identity.Operator, Scopes: []string{"read", "write"}}},
	} {
		c, err := auth.Authenticate(bearer(test.raw))
		require.NoError(t, err, name)
		test.want.Expires = now.Add(time.Hour)
		require.Equal(t, test.want, c, name)
	}
	_, err := auth.Authenticate(bearer(s.sign(t, roles("else"))))
	require.ErrorIs(t, err, identity.ErrBadCredentials)
}

func TestKeysAreRotatedByReplacingTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	before, after := newSigner(t, "2025", "ES256"), newSigner(t, "2026", "ES256")
	writeKeys(t, path, before.jwk())
	auth := fromFile(t, path)
	holds := func(s signer) bool {
		_, err := auth.Authenticate(bearer(s.sign(t)))
		return err == nil
	}
	require.True(t, holds(before))
	require.False(t, holds(after))
	writeKeys(t, path, before.jwk(), after.jwk())
	require.True(t, holds(before))
	require.True(t, holds(after))
	writeKeys(t, path, after.jwk())
	require.False(t, holds(before))
	require.True(t, holds(after))
	require.NoError(t, os.WriteFile(path, []byte(`{"keys":[`), 0o600))
	require.True(t, holds(after), "half a file takes nobody's access")
	require.NoError(t, os.Remove(path))
	_, err := auth.Authenticate(bearer(after.sign(t)))
	require.Error(t, err)
	require.NotErrorIs(t, err, identity.ErrBadCredentials, "the token may be good")
}

func TestKeySetsThatMustNotBeUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	s := newSigner(t, "k", "ES256")
	for name, key := range map[string]jose.JSONWebKey{
		"weak":       {Key: weak.Public(), KeyID: "k"},
		"private":    {Key: s.key, KeyID: "k"},
		"symmetric":  {Key: []byte("secret"), KeyID: "k"},
		"encryption": {Key: s.key.Public(), KeyID: "k", Use: "enc"},
	} {
		writeKeys(t, path, key)
		_, err := identity.OpenKeyFile(path, slog.New(slog.DiscardHandler))
		require.Error(t, err, name)
	}
	writeKeys(t, path)
	_, err = identity.OpenKeyFile(path, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "no keys")
	writeKeys(t, path, s.jwk())
	keys, err := identity.OpenKeyFile(path, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	for name, o := range map[string]identity.JWTOptions{
		"no issuer":   {Audience: audience},
		"no audience": {Issuer: issuer},
		"none":        {Issuer: issuer, Audience: audience, Algorithms: []string{"none"}},
		"HS256":       {Issuer: issuer, Audience: audience, Algorithms: []string{"RS256", "HS256"}},
		"agents":      {Issuer: issuer, Audience: audience, Claims: identity.ClaimNames{Kinds: map[string]identity.Kind{"x": identity.Agent}}},
	} {
		_, err := identity.NewJWT(keys, o)
		require.Error(t, err, name)
	}
}

func TestTokensOfAnOIDCIssuer(t *testing.T) {
	s, rotated := newSigner(t, "one", "RS256"), newSigner(t, "two", "ES256")
	var current atomic.Pointer[jose.JSONWebKeySet]
	current.Store(&jose.JSONWebKeySet{Keys: []jose.JSONWebKey{s.jwk()}})
	var fetched atomic.Int32
	var down atomic.Bool
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	defer server.Close()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": server.URL, "jwks_uri": server.URL + "/keys", "id_token_signing_alg_values_supported": []string{"RS256"},
		})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		fetched.Add(1)
		if down.Load() {
			http.Error(w, "down", http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(current.Load())
	})
	keys, err := identity.OpenOIDC(t.Context(), server.URL, server.Client())
	require.NoError(t, err)
	iss := claim("iss", server.URL)
	auth := believing(t, keys, func(o *identity.JWTOptions) { o.Issuer = server.URL })

	down.Store(true)
	_, err = auth.Authenticate(bearer(s.sign(t, iss)))
	require.Error(t, err)
	require.NotErrorIs(t, err, identity.ErrBadCredentials, "an issuer that is down says nothing about a token")
	down.Store(false)
	require.Eventually(t, func() bool {
		_, err := auth.Authenticate(bearer(s.sign(t, iss)))
		return err == nil
	}, time.Minute, 50*time.Millisecond)

	before, began := fetched.Load(), time.Now()
	for range 20 {
		_, err = auth.Authenticate(bearer(signer{"made-up", s.method, s.key}.sign(t, iss)))
		require.ErrorIs(t, err, identity.ErrBadCredentials)
	}
	often := int32(time.Since(began)/(2*time.Second)) + 2 // however long it took
	require.LessOrEqual(t, fetched.Load()-before, often, "made-up keys do not make us a burden to the issuer")
	for name, raw := range map[string]string{
		"expired":        s.sign(t, iss, claim("exp", now.Add(-time.Minute).Unix())),
		"wrong audience": s.sign(t, iss, claim("aud", "another")),
		"wrong issuer":   s.sign(t),
		"not pinned":     signer{"one", jwt.SigningMethodRS512, s.key}.sign(t, iss),
	} {
		_, err := auth.Authenticate(bearer(raw))
		require.ErrorIs(t, err, identity.ErrBadCredentials, name)
	}
	current.Store(&jose.JSONWebKeySet{Keys: []jose.JSONWebKey{rotated.jwk()}})
	require.Eventually(t, func() bool {
		_, err := auth.Authenticate(bearer(rotated.sign(t, iss)))
		return err == nil
	}, time.Minute, 50*time.Millisecond)
	_, err = auth.Authenticate(bearer(s.sign(t, iss)))
	require.ErrorIs(t, err, identity.ErrBadCredentials, "the old key is forgotten")

	server.Close()
	_, err = identity.OpenOIDC(t.Context(), server.URL, nil)
	require.Error(t, err)
}
