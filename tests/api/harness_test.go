// Package api tests the whole API over HTTP and websockets as its callers meet it: every operation of the schema on both
// stores, with a real worker and a simulated inventory behind it.
package api

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/graph"
	"iapi/identity"
	"iapi/instrumentation"
	"iapi/inventory/cnapi"
	"iapi/inventory/vmapi"
	"iapi/inventory/vmapitest"
	"iapi/measure"
	"iapi/store"
	"iapi/wiring"
	"iapi/worker"
)

const (
	issuer   = "https://id.example.com"
	audience = "iapi"
)

// system is an API on a store, and behind it a worker and an inventory, all in this process.
type system struct {
	url    string
	client *http.Client
	store  *store.Store
	cloud  *vmapitest.Server
	server *graph.Server
	key    ed25519.PrivateKey
	log    *buffer
	fields sync.Map // the root fields that were asked for
}

// serve starts a system. change may alter what the API is made of; nil changes nothing.
func serve(t testing.TB, st *store.Store, change func(*graph.Options)) *system {
	t.Helper()
	s, w := front(t, st, change)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = w.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return s
}

// front starts a system whose worker does not run.
func front(t testing.TB, st *store.Store, change func(*graph.Options)) (*system, *worker.Worker) {
	t.Helper()
	s := &system{store: st, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}, log: &buffer{}}
	log := slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s.cloud = vmapitest.New(vmapitest.Options{FeedLatency: 50 * time.Millisecond})
	inventory := httptest.NewServer(s.cloud.Handler())
	vms, err := vmapi.New(vmapi.Options{URL: inventory.URL, Logger: log})
	require.NoError(t, err)
	hosts, err := cnapi.New(cnapi.Options{URL: inventory.URL, Logger: log})
	require.NoError(t, err)
	definitions, err := catalog.Embedded()
	require.NoError(t, err)
	w, err := worker.New(worker.Options{
		Store: st, VMAPI: vms, CNAPI: hosts, Catalog: definitions, Redis: st.Client(), Feed: vms, Logger: log, GuardShare: 1,
		Tick: 200 * time.Millisecond,
	})
	require.NoError(t, err)
	policy := instrumentation.DefaultPolicy()
	policy.Instrumentations = 1_000_000
	policy.DefaultTargets = []measure.Target{{Kind: measure.Statsd, Address: "stats.example.com:8125"}}
	api, err := wiring.New(t.Context(), wiring.Options{Store: st, Previewer: w, Catalog: definitions, Policy: policy, Logger: log},
		func(o *graph.Options) {
			o.Authenticator = identity.Chain(log, operators{}, identity.AgentToken{Tokens: wiring.Credentials{Store: st}}, s.issuer(t, log))
			if change != nil {
				change(o)
			}
		})
	require.NoError(t, err)
	s.server = api.Server
	door := httptest.NewUnstartedServer(s.server)
	door.Config.BaseContext = func(net.Listener) context.Context { return context.WithValue(context.Background(), asking{}, true) }
	door.Start()
	s.url = door.URL
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = api.Run(ctx) })
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		shut, done := context.WithTimeout(context.Background(), 5*time.Second)
		defer done()
		_ = s.server.Shutdown(shut)
		door.Close()
		cancel()
		running.Wait()
		s.cloud.Close()
		inventory.Close()
		if t.Failed() {
			t.Log(s.log.String())
		}
	})
	return s, w
}

// operators takes one word for an operator's token.
type operators struct{}

func (operators) Authenticate(r *http.Request) (identity.Caller, error) {
	if r.Header.Get("Authorization") != "Bearer operator" {
		return identity.Caller{}, identity.ErrNoCredentials
	}
	return identity.Caller{ID: "operator:test", Kind: identity.Operator}, nil
}

func (s *system) issuer(t testing.TB, log *slog.Logger) *identity.JWT {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	s.key = private
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: public, KeyID: "k", Use: "sig"}}})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "keys.json")
	require.NoError(t, os.WriteFile(path, set, 0o600))
	keys, err := identity.OpenKeyFile(path, log)
	require.NoError(t, err)
	reader, err := identity.NewJWT(keys, identity.JWTOptions{Issuer: issuer, Audience: audience, Leeway: time.Millisecond})
	require.NoError(t, err)
	return reader
}

// token signs a token of a kind of caller. owner Nil: none.
func (s *system) token(t testing.TB, kind identity.Kind, sub string, owner uuid.UUID, life time.Duration) string {
	t.Helper()
	now := time.Now()
	claims := jwt.MapClaims{
		"iss": issuer, "aud": audience, "sub": sub, "iapi_kind": string(kind), "iat": now.Add(-time.Hour).Unix(), "exp": now.Add(life).Unix(),
	}
	if owner != uuid.Nil {
		claims["iapi_owner"] = owner.String()
	}
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims)
	token.Header["kid"] = "k"
	raw, err := token.SignedString(s.key)
	require.NoError(t, err)
	return raw
}

func (s *system) tenant(t testing.TB, owner uuid.UUID) string {
	return s.token(t, identity.Tenant, owner.String(), owner, time.Hour)
}

// answer is a response of GraphQL.
type answer struct {
	Data   map[string]any
	Errors []struct {
		Message    string
		Path       []any
		Extensions map[string]any
	}
	status int
	raw    string
}

func (r answer) code() string {
	if len(r.Errors) == 0 {
		return ""
	}
	code, _ := r.Errors[0].Extensions["code"].(string)
	return code
}

func (s *system) ask(t testing.TB, token, query string, variables map[string]any) answer {
	t.Helper()
	body, err := json.Marshal(map[string]any{"query": query, "variables": variables})
	require.NoError(t, err)
	if utf8.ValidString(query) && len(query) < 10_000 {
		s.used(t, query)
	}
	return s.post(t, token, body)
}

func (s *system) post(t testing.TB, token string, body []byte) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, s.url+"/graphql", bytes.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/graphql-response+json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := s.client.Do(r)
	require.NoError(t, err)
	raw, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	out := answer{status: resp.StatusCode, raw: string(raw)}
	require.NoError(t, json.Unmarshal(raw, &out), "%s", raw)
	for _, e := range out.Errors {
		require.NotEmpty(t, e.Extensions["code"], out.raw)
		require.NotEmpty(t, e.Extensions["correlationId"], out.raw)
	}
	return out
}

// must is ask for what has to work.
func (s *system) must(t testing.TB, token, query string, variables map[string]any) map[string]any {
	t.Helper()
	out := s.ask(t, token, query, variables)
	require.Empty(t, out.Errors, out.raw)
	return out.Data
}

// mutate is must for a mutation of one field with an input, and returns its payload.
func (s *system) mutate(t testing.TB, token, field, inputType, selection string, input map[string]any) map[string]any {
	t.Helper()
	data := s.must(t, token, `mutation($input: `+inputType+`!) { `+field+`(input: $input) { `+selection+` userErrors { code message path } } }`,
		map[string]any{"input": input})
	return data[field].(map[string]any)
}

// create makes an instrumentation and returns its id.
func (s *system) create(t testing.TB, token string, input map[string]any) string {
	t.Helper()
	p := s.mutate(t, token, "createInstrumentation", "CreateInstrumentationInput", "instrumentation { id }", input)
	require.Empty(t, p["userErrors"])
	return at(t, p, "instrumentation", "id").(string)
}

// at walks into JSON: at(t, data, "a", 0, "b").
func at(t testing.TB, v any, path ...any) any {
	t.Helper()
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, ok := v.(map[string]any)
			require.True(t, ok, "%v is no object at %q", v, p)
			v = m[p]
		case int:
			l, ok := v.([]any)
			require.True(t, ok && p < len(l), "%v has no item %d", v, p)
			v = l[p]
		}
	}
	return v
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// placedVM is a machine of an owner on a host.
func placedVM(owner, host uuid.UUID, alias string, tags map[string]any) vmapitest.VM {
	return vmapitest.VM{UUID: uuid.New(), Owner: owner, Host: host, Alias: alias, Tags: tags}
}
