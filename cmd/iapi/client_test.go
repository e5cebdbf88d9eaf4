package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/validator/rules"

	"iapi/graph/agentdoc"
	"iapi/identity"
)

// runCLI runs the program as a user would, and returns what it printed.
func runCLI(t *testing.T, stdin string, args ...string) (code int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(context.Background(), args, strings.NewReader(stdin), &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func TestDocumentsAreValidAgainstTheSchema(t *testing.T) {
	text, err := os.ReadFile("../../schema.graphql")
	require.NoError(t, err)
	schema, err := gqlparser.LoadSchema(&ast.Source{Name: "schema.graphql", Input: string(text)})
	require.NoError(t, err)
	for name, document := range map[string]string{
		"metrics": metricsDocument, "publish": publishDocument, "retire": retireDocument, "create": createDocument, "check create": checkCreateDocument, "check update": checkUpdateDocument, "update": updateDocument, "list": listDocument, "get": getDocument,
		"preview": previewDocument, "refresh": refreshDocument, "refreshAll": refreshAllDocument, "delete": deleteDocument,
		"explain": explainDocument, "clone": cloneDocument, "pause": pauseDocument, "resume": resumeDocument, "count": countDocument,
		"placed vms": placedVMsDocument, "placed hosts": placedHostsDocument, "delete all": deleteAllDocument, "limits": limitsDocument,
		"notify": notifyDocument, "stop tracing": stopTracingDocument, "guards": guardsDocument, "confirm": confirmDocument,
		"revoke": revokeDocument, "host": hostDocument, "fleet": fleetDocument, "join": joinDocument, "audit": auditDocument,
		"agent: assignments": agentdoc.Assignments, "agent: report": agentdoc.Report, "agent: definition": agentdoc.Definition,
		"agent: join": agentdoc.ExchangeJoinToken,
	} {
		_, errs := gqlparser.LoadQueryWithRules(schema, document, rules.NewDefaultRules())
		require.Empty(t, errs, name)
	}
}

func TestScopeFlags(t *testing.T) {
	for name, c := range map[string]struct {
		flags scopeFlags
		want  string
	}{
		"every host":                     {scopeFlags{placeFlags: placeFlags{EveryHost: true}}, `{"everyHost":true}`},
		"all of an owner":                {scopeFlags{placeFlags: placeFlags{All: true}, Owner: "o"}, `{"all":true}`},
		"the same flag again means or":   {scopeFlags{placeFlags: placeFlags{VM: []uuidText{"a", "b"}}}, `{"vms":["a","b"]}`},
		"different flags mean and":       {scopeFlags{placeFlags: placeFlags{VM: []uuidText{"a"}, Host: []uuidText{"h"}}}, `{"and":[{"vms":["a"]},{"hosts":["h"]}]}`},
		"the same tag key means or":      {scopeFlags{placeFlags: placeFlags{VMTag: []string{"role=db", "role=web"}}}, `{"vmTag":{"in":["db","web"],"key":"role"}}`},
		"another tag key means and":      {scopeFlags{placeFlags: placeFlags{VMTag: []string{"role=db", "env=prod"}}}, `{"and":[{"vmTag":{"in":["db"],"key":"role"}},{"vmTag":{"in":["prod"],"key":"env"}}]}`},
		"a key alone: the tag exists":    {scopeFlags{placeFlags: placeFlags{VMTag: []string{"role"}}}, `{"vmTag":{"key":"role"}}`},
		"a value may hold = and a comma": {scopeFlags{placeFlags: placeFlags{VMTag: []string{"a=b=c,d"}}}, `{"vmTag":{"in":["b=c,d"],"key":"a"}}`},
		"aliases":                        {scopeFlags{placeFlags: placeFlags{VMAlias: []string{"a", "b"}}}, `{"or":[{"vmAlias":"a"},{"vmAlias":"b"}]}`},
		"any scope":                      {scopeFlags{placeFlags: placeFlags{Scope: `{"not":{"vmAlias":"x"}}`, EveryHost: true}}, `{"and":[{"everyHost":true},{"not":{"vmAlias":"x"}}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.flags.input()
			require.NoError(t, err)
			require.JSONEq(t, c.want, canonicalJSON(got))
		})
	}
}

func TestWrongUsageIsOneSentenceAndExitCodeTwo(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"create", "cpu.usage"}, "say what to instrument"},
		{[]string{"create", "cpu.usage", "--all"}, "--all needs --owner"},
		{[]string{"create", "cpu.usage", "--every-host", "--vm-tag", "=x"}, "want KEY=VALUE"},
		{[]string{"create", "cpu.usage", "--every-host", "--where", `{"eq":["cpumode"]}`}, "--where"},
		{[]string{"create", "cpu.usage", "--every-host", "--where", `nonsense`}, "--where"},
		{[]string{"create", "cpu.usage", "--every-host", "--target", "ftp://x"}, "--target"},
		{[]string{"create", "cpu.usage", "--every-host", "--granularity", "100ms"}, "--granularity"},
		{[]string{"create", "cpu.usage", "--every-host", "--ttl", "-1h"}, "--ttl"},
		{[]string{"create", "cpu.usage", "--every-host", "--scope", "{"}, "--scope"},
		{[]string{"create", "cpu.usage", "--nonsense"}, "unknown flag --nonsense"},
		{[]string{"nonsense"}, "unexpected argument nonsense"},
		{[]string{"refresh"}, "give an id, or --all"},
		{[]string{"list", "-o", "xml"}, "must be one of"},
	} {
		code, _, errs := runCLI(t, "", c.args...)
		require.Equal(t, exitUsage, code, "%v: %s", c.args, errs)
		require.Contains(t, errs, c.want, c.args)
	}
}

func TestAServerThatIsAwayHasItsOwnExitCode(t *testing.T) {
	code, _, errs := runCLI(t, "", "list", "--server", "http://127.0.0.1:1")
	require.Equal(t, exitUnreachable, code)
	require.Contains(t, errs, "cannot reach the API at http://127.0.0.1:1")
}

func TestHelpOfEveryCommandTeaches(t *testing.T) {
	for _, command := range []string{"dev", "api", "worker", "agent", "vmapi", "metrics", "create", "update", "clone", "list", "get", "places",
		"preview", "watch", "pause", "resume", "refresh", "delete", "explain", "apply", "fleet", "join", "revoke", "guards", "confirm",
		"stop-tracing", "notify", "limits", "audit", "completion", "version"} {
		code, out, errs := runCLI(t, "", command, "--help")
		require.Zero(t, code, errs)
		require.Contains(t, out, "Usage: iapi "+command)
		if command != "version" {
			_, text, _ := strings.Cut(out, "Usage: ")
			require.Regexp(t, `(?m)(^ *|")iapi `+command, text, "an example")
		}
	}
	_, out, _ := runCLI(t, "")
	require.Contains(t, out, "iapi create cpu.usage --by cpumode --every-host")
}

// answer is a server that answers operations by their name.
type answer map[string]func(variables map[string]any) string

func (a answer) serve(t *testing.T) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var op struct {
			Query     string         `json:"query"`
			Variables map[string]any `json:"variables"`
		}
		if err := json.NewDecoder(r.Body).Decode(&op); err != nil {
			t.Error(err)
		}
		name := strings.FieldsFunc(op.Query, func(r rune) bool { return r == ' ' || r == '(' || r == '{' })[1]
		handle, ok := a[name]
		if !ok {
			t.Errorf("unexpected operation %s", name)
			return
		}
		w.Header().Set("Content-Type", "application/graphql-response+json")
		_, _ = w.Write([]byte(handle(op.Variables)))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestErrorsOfTheAPIAreExitCodes(t *testing.T) {
	for _, c := range []struct {
		answer string
		code   int
		want   string
	}{
		{`{"data":{"instrumentation":null}}`, exitNotFound, "there is no instrumentation"},
		{`{"errors":[{"message":"not ready","extensions":{"code":"NOT_READY"}}]}`, exitUnreachable, "not ready"},
		{`{"errors":[{"message":"who?","extensions":{"code":"UNAUTHENTICATED"}}]}`, exitFailed, "--token"},
		{`{"errors":[{"message":"internal","extensions":{"code":"INTERNAL","correlationId":"c-1"}}]}`, exitFailed, "c-1"},
		{`<html>`, exitFailed, "is http"},
	} {
		url := answer{"Get": func(map[string]any) string { return c.answer }}.serve(t)
		code, _, errs := runCLI(t, "", "get", "i-x", "--server", url, "--data-dir", t.TempDir())
		require.Equal(t, c.code, code, errs)
		require.Contains(t, errs, c.want)
	}
}

func TestTheTokenInTheDataDirectoryIsSent(t *testing.T) {
	dir := t.TempDir()
	_, err := identity.OpenTokenFile(dir)
	require.NoError(t, err)
	token, err := identity.ReadTokenFile(dir)
	require.NoError(t, err)
	var got string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("Authorization")
		_, _ = w.Write([]byte(`{"data":{"metrics":[]}}`))
	}))
	defer server.Close()
	code, _, errs := runCLI(t, "", "metrics", "--server", server.URL, "--data-dir", dir)
	require.Zero(t, code, errs)
	require.Equal(t, "Bearer "+token, got)
}

func TestUserErrorsNameTheirPlace(t *testing.T) {
	url := answer{"Create": func(map[string]any) string {
		return `{"data":{"createInstrumentation":{"instrumentation":null,"userErrors":[
			{"message":"cpu.usage has no field cpumod; did you mean cpumode?","path":["input","decompositions","0"],"code":"UNKNOWN_FIELD"}]}}}`
	}}.serve(t)
	code, out, errs := runCLI(t, "", "create", "cpu.usage", "--by", "cpumod", "--every-host", "--server", url, "--data-dir", t.TempDir())
	require.Equal(t, exitFailed, code)
	require.Empty(t, out)
	require.Equal(t, "iapi: by.0: cpu.usage has no field cpumod; did you mean cpumode? (UNKNOWN_FIELD)\n", errs)
}

const standing = `{"id":"i-1","name":"web-cpu","owner":null,"metric":{"name":"cpu.usage","unit":"percent"},"predicate":null,
	"decompositions":[{"name":"cpumode"}],"scope":{"json":{"everyHost":true},"text":"every host"},
	"targets":[{"__typename":"StatsdTarget","address":"127.0.0.1:8125","prefix":"x"}],"tags":[{"key":"team","value":"core"}],
	"granularitySeconds":10,"state":"ENABLED","revision":3,"createdAt":"2026-01-01T00:00:00.000Z","updatedAt":"2026-01-01T00:00:00.000Z",
	"expiresAt":null,"coverage":{"expected":1,"running":1,"pending":0,"failed":0,"offline":0}}`

const manifestText = `
instrumentations:
  - name: web-cpu
    metric: cpu.usage
    by: [cpumode]
    scope: {everyHost: true}
    targets: ["statsd://127.0.0.1:8125/x"]
    tags: {team: core}
    granularity: 10s
`

func TestApplyIsIdempotentAndShowsTheDifference(t *testing.T) {
	var updated map[string]any
	server := answer{
		"List": func(map[string]any) string {
			return `{"data":{"instrumentations":{"nodes":[` + standing + `],"pageInfo":{"hasNextPage":false,"endCursor":null}}}}`
		},
		"Update": func(v map[string]any) string {
			updated = v["input"].(map[string]any)
			return `{"data":{"updateInstrumentation":{"instrumentation":` + standing + `,"userErrors":[]}}}`
		},
		"Create": func(v map[string]any) string {
			return `{"data":{"createInstrumentation":{"instrumentation":` + standing + `,"userErrors":[]}}}`
		},
		"Delete": func(v map[string]any) string {
			return `{"data":{"deleteInstrumentation":{"deletedId":"i-1","userErrors":[]}}}`
		},
	}.serve(t)
	apply := func(manifest string, args ...string) (int, string, string) {
		return runCLI(t, manifest, append([]string{"apply", "-f", "-", "--server", server, "--data-dir", t.TempDir()}, args...)...)
	}

	code, out, errs := apply(manifestText)
	require.Zero(t, code, errs)
	require.Equal(t, "= web-cpu\n1 unchanged\n", out)

	code, out, errs = apply(strings.Replace(manifestText, "core", "edge", 1))
	require.Zero(t, code, errs)
	require.Contains(t, out, `~ web-cpu
    - tags: {"team":"core"}
    + tags: {"team":"edge"}
`)
	require.Equal(t, float64(3), updated["expectedRevision"])
	require.Equal(t, []any{map[string]any{"key": "team", "value": "edge"}}, updated["tags"])
	require.NotContains(t, updated, "scope")

	code, _, errs = apply(strings.Replace(manifestText, "[cpumode]", "[]", 1))
	require.Equal(t, exitUsage, code, "replacing asks first")
	require.Contains(t, errs, "--yes")
	code, out, errs = apply(strings.Replace(manifestText, "[cpumode]", "[]", 1), "--yes")
	require.Zero(t, code, errs)
	require.Contains(t, out, "± web-cpu\n    - by: cpumode\n    + by: -\n")
}

func TestManifestsAreReadStrictly(t *testing.T) {
	for text, want := range map[string]string{
		"instrumentations: [{metric: cpu.usage, scope: {everyHost: true}}]":                                      "name is missing",
		"instrumentations: [{name: a, scope: {everyHost: true}}]":                                                "metric is missing",
		"instrumentations: [{name: a, metric: b}]":                                                               "scope is missing",
		"instrumentations: [{name: a, metrics: b}]":                                                              "metrics",
		"instrumentation: []":                                                                                    "instrumentation",
		"instrumentations: []\n---\ninstrumentations: []":                                                        "one document",
		"instrumentations: [{name: a, metric: b, scope: {all: true}}, {name: a, metric: b, scope: {all: true}}]": "stands twice",
		"[": "the file",
	} {
		_, err := parseManifest([]byte(text))
		require.ErrorContains(t, err, want, text)
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(manifestText))
	f.Fuzz(func(t *testing.T, raw []byte) {
		wishes, err := parseManifest(raw)
		if err != nil {
			return
		}
		for _, w := range wishes {
			if w.Name == "" || w.Metric == "" || len(w.Scope) == 0 {
				t.Fatalf("accepted an incomplete wish: %+v", w)
			}
			_, _ = w.createInput()
		}
	})
}

func TestOutputNeverSteersTheTerminal(t *testing.T) {
	require.Equal(t, "a·[31mred·b", printable("a\x1b[31mred\nb"))
}
