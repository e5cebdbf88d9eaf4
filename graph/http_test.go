package graph_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/delivery"
	"iapi/graph"
	"iapi/graph/agentdoc"
	"iapi/instrumentation"
	it "iapi/instrumentation/instrumentationtest"
)

func (a *api) do(t testing.TB, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, a.http.URL+path, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	raw, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp, string(raw)
}

// node prepares a directory with the clients of testdata/node. Without node or npm the test is skipped, but not in CI.
func node(t testing.TB) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing", program)
			}
			t.Skipf("%s is not installed", program)
		}
	}
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "node"))))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	install := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline")
	install.Dir = dir
	out, err := install.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return dir
}

// script runs one of the clients and returns the lines that it writes. Each is given to on as soon as it is written.
func script(t testing.TB, dir string, on func(line int), args ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "node", args...)
	var problems strings.Builder
	c.Dir, c.Stderr = dir, &problems
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	var lines []string
	for in := bufio.NewScanner(out); in.Scan(); {
		lines = append(lines, in.Text())
		on(len(lines))
	}
	require.NoError(t, c.Wait(), "%s %s", lines, &problems)
	return lines
}

func TestClientsOfOthers(t *testing.T) {
	dir := node(t)
	t.Run("all audits of graphql-http pass", func(t *testing.T) {
		a := newAPI(t, func(o *graph.Options) { o.Dev = true })
		lines := script(t, dir, func(int) {}, "audit.mjs", a.http.URL+"/graphql")
		require.Equal(t, []string{"61 of 61 audits pass"}, lines)
	})
	t.Run("graphql-ws", func(t *testing.T) {
		a := newAPI(t)
		host, session := uuid.New(), uuid.New()
		a.serve(host, items())
		second := func(line int) { // once the client has the first: a newer one takes the place of one that is not sent yet
			if line == 2 {
				a.serve(host, nil)
			}
		}
		address := "ws" + strings.TrimPrefix(a.http.URL, "http") + "/graphql"
		lines := script(t, dir, second, "subscribe.mjs", address, a.agent(host), host.String(), session.String())
		require.Len(t, lines, 4, "%v", lines)
		require.JSONEq(t, `{"data":{"__typename":"Query"}}`, lines[0])
		require.JSONEq(t, `{"data":{"assignments":{"version":{"generation":1}}}}`, lines[1])
		require.JSONEq(t, `{"data":{"assignments":{"version":{"generation":2}}}}`, lines[2])
		require.JSONEq(t, `{"refused":"BAD_REQUEST"}`, lines[3])
	})
	t.Run("graphql-ws follows an instrumentation", func(t *testing.T) {
		a := newAPI(t)
		id := a.created(t, "alice", wish())["id"].(string)
		update := func(line int) { // once the client has the state before it
			if line == 1 {
				_, err := a.Service.Update(t.Context(), it.Tenant(alice), instrumentation.UpdateInput{ID: instrumentation.ID(id), Name: instrumentation.Some("two")})
				require.NoError(t, err)
				a.record.changes <- []instrumentation.ID{instrumentation.ID(id)}
			}
		}
		address := "ws" + strings.TrimPrefix(a.http.URL, "http") + "/graphql"
		lines := script(t, dir, update, "follow.mjs", address, "alice", id)
		require.Len(t, lines, 2, "%v", lines)
		require.JSONEq(t, `{"data":{"instrumentationUpdated":{"revision":1,"name":"one"}}}`, lines[0])
		require.JSONEq(t, `{"data":{"instrumentationUpdated":{"revision":2,"name":"two"}}}`, lines[1])
	})
}

func TestTooMuchIsAClearAnswer(t *testing.T) {
	a := newAPI(t)
	post := func(query string) answer { return a.ask(t, "operator", query, nil) }

	tokens := post("{" + strings.Repeat(" __typename", 5001) + "}")
	require.Equal(t, http.StatusBadRequest, tokens.status)
	require.Equal(t, "TOO_LARGE", tokens.code())

	deep := post("query { " + strings.Repeat("instrumentation(id: \"x\") { problems { ", 1) + strings.Repeat("... { ", 60) + "message" + strings.Repeat(" }", 60) + " } } }")
	require.Empty(t, deep.code(), "inline fragments are not depth: %s", deep.raw)
	schema := post(`{ __schema { types { fields { type { ofType { ofType { ofType { ofType { ofType { ofType { ofType { name } } } } } } } } } } } }`)
	require.Empty(t, schema.Errors, "introspection has a limit of its own")

	nested := "message"
	for range 60 {
		nested = "node(id: \"x\") { " + nested + " }"
	}
	require.Equal(t, "BAD_REQUEST", post("{ "+nested+" }").code(), "such nesting is not even valid here")

	wide := post(`{ instrumentations(first: 500) { nodes { vms(first: 500) { nodes { uuid } } } } }`)
	require.Equal(t, "COMPLEXITY_LIMIT_EXCEEDED", wide.code())
	require.Equal(t, http.StatusBadRequest, wide.status)

	large, body := a.do(t, http.MethodPost, "/graphql", `{"query":"{ __typename }","variables":{"x":"`+strings.Repeat("secret", 2<<20)+`"}}`, "Content-Type", "application/json")
	require.Equal(t, http.StatusRequestEntityTooLarge, large.StatusCode)
	require.Contains(t, body, "TOO_LARGE")
	require.NotContains(t, body, "secret")
	broken, body := a.do(t, http.MethodPost, "/graphql", `{"query": secret`, "Content-Type", "application/json")
	require.Equal(t, http.StatusBadRequest, broken.StatusCode)
	require.NotContains(t, body, "secret", "a body is never echoed")
}

func TestDepthIsLimited(t *testing.T) {
	a := newAPI(t, func(o *graph.Options) { o.Limits.Depth = 4 })
	require.Empty(t, a.ask(t, "operator", `{ instrumentations { nodes { tags { key } } } }`, nil).Errors)
	for _, query := range []string{
		`{ instrumentations { edges { node { tags { key } } } } }`,
		`{ instrumentations { edges { ...e } } } fragment e on InstrumentationEdge { node { ...n } } fragment n on Instrumentation { tags { key } }`,
	} {
		require.Equal(t, "COMPLEXITY_LIMIT_EXCEEDED", a.ask(t, "operator", query, nil).code(), query)
	}
}

func TestIntrospectionNeedsACaller(t *testing.T) {
	const query = `{ __schema { queryType { name } } }`
	a := newAPI(t)
	require.Empty(t, a.ask(t, "alice", query, nil).Errors)
	for _, token := range []string{"", a.agent(uuid.New())} {
		require.Equal(t, "FORBIDDEN", a.ask(t, token, query, nil).code())
		require.Equal(t, "FORBIDDEN", a.ask(t, token, `{ ...f } fragment f on Query { ... { __type(name: "Vm") { name } } }`, nil).code())
	}
	require.Empty(t, newAPI(t, func(o *graph.Options) { o.Dev = true }).ask(t, "", query, nil).Errors)
}

type limiter struct {
	left int
	err  error
}

func (l *limiter) Allow(_ context.Context, _ string, cost int) (bool, time.Duration, error) {
	l.left -= cost
	return l.left >= 0, 1500 * time.Millisecond, l.err
}

func TestRateLimitByComplexity(t *testing.T) {
	l := &limiter{left: 3}
	a := newAPI(t, func(o *graph.Options) { o.Limiter = l })
	require.Empty(t, a.ask(t, "alice", `{ limits { instrumentations } }`, nil).Errors)
	out := a.ask(t, "alice", `{ limits { instrumentations instrumentationsUsed } }`, nil)
	require.Equal(t, "RATE_LIMITED", out.code())
	require.Equal(t, http.StatusTooManyRequests, out.status)
	require.Equal(t, 1.5, out.Errors[0].Extensions["retryAfterSeconds"])
	l.err = errors.New("down")
	require.Empty(t, a.ask(t, "alice", `{ limits { instrumentations } }`, nil).Errors, "a limiter that fails lets everybody in")
}

func TestBadCredentialsAreRefusedAtTheDoor(t *testing.T) {
	a := newAPI(t)
	out := a.post(t, "wrong", `{"query":"{ __typename }"}`, "application/json")
	require.Equal(t, http.StatusUnauthorized, out.status)
	require.Equal(t, "UNAUTHENTICATED", out.code())
}

func TestMutationsAndSubscriptionsNeedTheirTransport(t *testing.T) {
	a := newAPI(t)
	get := func(query string) (*http.Response, string) {
		return a.do(t, http.MethodGet, "/graphql?query="+url.QueryEscape(query), "", "Authorization", "Bearer operator")
	}
	resp, _ := get(`mutation { refreshAll { accepted } }`)
	require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
	require.Equal(t, "POST", resp.Header.Get("Allow"))
	require.Zero(t, a.Queue.Sweeps)
	resp, body := get(`subscription { instrumentationUpdated(id: "i-1") { id } }`)
	require.Equal(t, http.StatusBadRequest, resp.StatusCode)
	require.Contains(t, body, "graphql-transport-ws")
	resp, body = get(`{ limits { instrumentations } }`)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Contains(t, body, `"data"`)
	resp, _ = a.do(t, http.MethodOptions, "/graphql", "")
	require.Equal(t, http.StatusNoContent, resp.StatusCode)
}

func TestOtherOriginsOnlyIfListed(t *testing.T) {
	a := newAPI(t, func(o *graph.Options) { o.Origins = []string{"https://portal.example.com"} })
	for origin, want := range map[string]string{"https://portal.example.com": "https://portal.example.com", "https://evil.example.com": ""} {
		resp, _ := a.do(t, http.MethodOptions, "/graphql", "", "Origin", origin)
		require.Equal(t, want, resp.Header.Get("Access-Control-Allow-Origin"))
	}
}

func TestPollingAgents(t *testing.T) {
	a := newAPI(t)
	host, session := uuid.New(), uuid.New()
	path := "/agents/" + host.String() + "/assignment"
	auth := []string{"Authorization", "Bearer " + a.agent(host)}

	resp, _ := a.do(t, http.MethodGet, path, "", auth...)
	require.Equal(t, http.StatusNotFound, resp.StatusCode, "a host that the inventory does not have")
	a.source.Know(host)
	resp, _ = a.do(t, http.MethodGet, path, "", auth...)
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode, "not computed yet")
	require.Equal(t, "1", resp.Header.Get("Retry-After"))

	v := a.serve(host, items())
	resp, body := a.do(t, http.MethodGet, path+"?session="+session.String(), "", auth...)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, `"`+v.Epoch+`.1.`+v.Hash+`"`, resp.Header.Get("ETag"))
	var doc agentdoc.Assignment
	require.NoError(t, json.Unmarshal([]byte(body), &doc))
	require.Equal(t, v, doc.Version)
	require.Equal(t, host, doc.Host)
	require.Equal(t, items(), doc.Instrumentations)
	require.NotZero(t, doc.SentAt)
	require.Equal(t, session, a.source.Session(host))

	resp, body = a.do(t, http.MethodGet, path, "", append(auth, "If-None-Match", resp.Header.Get("ETag"))...)
	require.Equal(t, http.StatusNotModified, resp.StatusCode)
	require.Empty(t, body)
	resp, _ = a.do(t, http.MethodGet, path, "", append(auth, "If-None-Match", `"`+v.Epoch+`.9.zzz"`)...)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Contains(t, resp.Header.Get("ETag"), "0000000000000002.1.", "an agent that knows more starts a new epoch")

	for token, status := range map[string]int{"": 401, "wrong": 401, "alice": 403, a.agent(uuid.New()): 403, "operator": 200} {
		header := []string{}
		if token != "" {
			header = []string{"Authorization", "Bearer " + token}
		}
		resp, body := a.do(t, http.MethodGet, path, "", header...)
		require.Equal(t, status, resp.StatusCode, token)
		if token == "operator" {
			require.NotContains(t, body, "cret", "only agents get secrets")
		}
	}
	a.source.FailWith(errors.New("down"))
	resp, _ = a.do(t, http.MethodGet, path, "", auth...)
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
}

func TestNewcomersAreAdmittedAtARate(t *testing.T) {
	a := newAPI(t, func(o *graph.Options) { o.Admission = delivery.NewAdmission(0.001, 1, nil) })
	host := uuid.New()
	a.serve(host, nil)
	path := "/agents/" + host.String() + "/assignment"
	resp, _ := a.do(t, http.MethodGet, path, "", "Authorization", "Bearer "+a.agent(host))
	require.Equal(t, http.StatusOK, resp.StatusCode)
	resp, _ = a.do(t, http.MethodGet, path, "", "Authorization", "Bearer wrong")
	require.Equal(t, http.StatusTooManyRequests, resp.StatusCode, "before anything is spent on credentials")
	require.NotEmpty(t, resp.Header.Get("Retry-After"))
}

func TestTheExplorerNeedsNoNetwork(t *testing.T) {
	a := newAPI(t)
	resp, page := a.do(t, http.MethodGet, "/", "")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Contains(t, resp.Header.Get("Content-Security-Policy"), "script-src 'self'")
	require.NotContains(t, page, "http")
	for _, line := range strings.Split(page, "\n") {
		for _, attribute := range []string{`src="`, `href="`} {
			if _, rest, ok := strings.Cut(line, attribute); ok {
				file, _, _ := strings.Cut(rest, `"`)
				resp, body := a.do(t, http.MethodGet, file, "")
				require.Equal(t, http.StatusOK, resp.StatusCode, file)
				require.NotEmpty(t, body, file)
			}
		}
	}
	resp, _ = a.do(t, http.MethodGet, "/nothing", "")
	require.Equal(t, http.StatusNotFound, resp.StatusCode)
}

func TestHealthAndMetrics(t *testing.T) {
	ready := errors.New("the store is away at redis-7.internal")
	a := newAPI(t, func(o *graph.Options) { o.Ready = func(context.Context) error { return ready } })
	resp, _ := a.do(t, http.MethodGet, "/healthz", "")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	resp, body := a.do(t, http.MethodGet, "/readyz", "")
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	require.NotContains(t, body, "redis")
	ready = nil
	resp, _ = a.do(t, http.MethodGet, "/readyz", "")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	a.ask(t, "operator", `{ limits { instrumentations } }`, nil)
	_, body = a.do(t, http.MethodGet, "/metrics", "")
	for _, name := range []string{"iapi_websockets 0", "iapi_agents_connected 0", `iapi_graphql_seconds_count{code="OK",kind="query"} 1`} {
		require.Contains(t, body, name)
	}
}

func TestCanonicalBytesSurviveTheRoundTrip(t *testing.T) {
	body, _ := assignment.Encode(assignment.Document{Instrumentations: items()})
	decoded, err := assignment.Decode(body)
	require.NoError(t, err)
	again, _ := assignment.Encode(assignment.Document{Instrumentations: decoded})
	require.True(t, bytes.Equal(body, again))
}
