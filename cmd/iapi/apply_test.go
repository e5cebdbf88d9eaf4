package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func listed(nodes ...string) string {
	return `{"data":{"instrumentations":{"nodes":[` + strings.Join(nodes, ",") + `],"pageInfo":{"hasNextPage":false,"endCursor":null}}}}`
}

func made(id, name string) string {
	one := strings.NewReplacer("i-1", id, "web-cpu", name).Replace(standing)
	return `{"data":{"createInstrumentation":{"instrumentation":` + one + `,"userErrors":[]}}}`
}

func notMade(code, member string) string {
	return fmt.Sprintf(`{"data":{"createInstrumentation":{"instrumentation":null,"userErrors":[{"message":"no","path":["input",%q],"code":%q}]}}}`, member, code)
}

func applyTo(t *testing.T, server answer, manifest string) (int, string, string) {
	t.Helper()
	return runCLI(t, manifest, "apply", "-f", "-", "--yes", "--server", server.serve(t), "--data-dir", t.TempDir(), "--timeout", "5s")
}

func TestApplyLooksOnlyAtTheNamesInTheFileOfTheirOwner(t *testing.T) {
	var asked []map[string]any
	other := strings.ReplaceAll(standing, "web-cpu", "other")
	server := answer{"List": func(v map[string]any) string {
		asked = append(asked, v)
		return listed(standing, other, strings.ReplaceAll(other, "i-1", "i-2"))
	}}
	code, _, errs := applyTo(t, server, manifestText)
	require.Zero(t, code, errs)
	require.Equal(t, []map[string]any{{"first": float64(100), "filter": map[string]any{"owner": nil, "text": "web-cpu"}}}, asked)

	server["List"] = func(map[string]any) string { return listed(standing, strings.ReplaceAll(standing, "i-1", "i-2")) }
	code, _, errs = applyTo(t, server, manifestText)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, `two instrumentations named "web-cpu" (i-1 and i-2)`)
}

func TestApplyOfABoundCallerMeansItsOwnAccount(t *testing.T) {
	code, out, errs := applyTo(t, answer{"List": func(v map[string]any) string {
		if _, named := v["filter"].(map[string]any)["owner"]; named {
			return `{"errors":[{"message":"no","extensions":{"code":"FORBIDDEN"}}]}`
		}
		return listed(strings.Replace(standing, `"owner":null`, `"owner":"930896af-bf8c-48d4-885c-6573a94b1853"`, 1))
	}}, manifestText)
	require.Zero(t, code, errs)
	require.Contains(t, out, "1 unchanged")
}

func TestCreatesOfTheSameApplyHaveTheSameKey(t *testing.T) {
	var keys []string
	answers := []string{made("i-1", "web-cpu"), made("i-1", "web-cpu"), notMade("NOT_FOUND", "idempotencyKey"), made("i-2", "web-cpu")}
	server := answer{
		"List": func(map[string]any) string { return listed() },
		"Create": func(v map[string]any) string {
			keys = append(keys, v["input"].(map[string]any)["idempotencyKey"].(string))
			return answers[len(keys)-1]
		},
	}
	for range 3 {
		code, out, errs := applyTo(t, server, manifestText)
		require.Zero(t, code, errs)
		require.Contains(t, out, "created web-cpu\n1 created\n")
	}
	require.Len(t, keys, 4)
	require.Equal(t, keys[0], keys[1])
	require.Equal(t, keys[0], keys[2])
	require.NotEqual(t, keys[0], keys[3], "what the key made is deleted")
}

func TestApplyGoesOnAfterARefusal(t *testing.T) {
	code, out, errs := applyTo(t, answer{
		"List": func(map[string]any) string { return listed() },
		"Create": func(v map[string]any) string {
			if name := v["input"].(map[string]any)["name"].(string); name != "b" {
				return made("i-"+name, name)
			}
			return notMade("UNKNOWN_METRIC", "metric")
		},
	}, `instrumentations:
  - {name: a, metric: m, scope: {everyHost: true}}
  - {name: b, metric: m, scope: {everyHost: true}}
  - {name: c, metric: m, scope: {everyHost: true}}`)
	require.Equal(t, exitFailed, code)
	require.Contains(t, out, "created a\ncreated c\n")
	require.Equal(t, "iapi: create b: metric: no (UNKNOWN_METRIC)\niapi: 2 created, 1 refused\n", errs)
}

func TestWhatTheRateLimitRefusesIsAskedAgain(t *testing.T) {
	after, lists, creates := 0.01, 0, 0
	limited := func() string {
		return fmt.Sprintf(`{"errors":[{"message":"Too much.","extensions":{"code":"RATE_LIMITED","retryAfterSeconds":%g}}]}`, after)
	}
	server := answer{
		"List": func(map[string]any) string {
			if lists++; lists == 1 {
				return limited()
			}
			return listed()
		},
		"Create": func(map[string]any) string {
			if creates++; creates == 1 {
				after = 1.1
				return limited()
			}
			return made("i-1", "web-cpu")
		},
	}
	code, out, errs := applyTo(t, server, manifestText)
	require.Zero(t, code, errs)
	require.Contains(t, out, "1 created")
	require.Equal(t, "The API's rate limit is reached; waiting 1.1s.\n", errs)

	lists, after = 0, 3600
	code, _, errs = applyTo(t, server, manifestText)
	require.Equal(t, exitUnreachable, code, "--timeout bounds the waiting")
	require.Contains(t, errs, "Too much.")
}
