package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestUpdateMergesTagsWithTheRevisionThatTheyWereReadAt(t *testing.T) {
	var sent map[string]any
	url := answer{
		"Get": func(map[string]any) string { return `{"data":{"instrumentation":` + standing + `}}` },
		"Update": func(v map[string]any) string {
			sent = v["input"].(map[string]any)
			return `{"data":{"updateInstrumentation":{"instrumentation":` + standing + `,"userErrors":[]}}}`
		},
	}.serve(t)
	update := func(args ...string) (int, string) {
		code, _, errs := runCLI(t, "", append([]string{"update", "i-1", "--server", url, "--data-dir", t.TempDir()}, args...)...)
		return code, errs
	}
	code, errs := update("--tag", "a=b")
	require.Zero(t, code, errs)
	require.Equal(t, float64(3), sent["expectedRevision"])
	require.Equal(t, []any{map[string]any{"key": "a", "value": "b"}, map[string]any{"key": "team", "value": "core"}}, sent["tags"])

	code, errs = update("--untag", "team", "--no-name", "--no-ttl")
	require.Zero(t, code, errs)
	require.Equal(t, []any{}, sent["tags"])
	require.Contains(t, sent, "name", "null clears; absent would leave it")
	require.Nil(t, sent["name"])
	require.Contains(t, sent, "ttlSeconds")
	require.Nil(t, sent["ttlSeconds"])

	code, errs = update("--untag", "nope")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "--untag nope: it has no such tag")
}

func TestOneThatFailsDoesNotKeepTheOthersFromBeingDone(t *testing.T) {
	url := answer{"Delete": func(v map[string]any) string {
		if id := v["input"].(map[string]any)["id"]; id != "i-2" {
			return `{"data":{"deleteInstrumentation":{"deletedId":"` + id.(string) + `","userErrors":[]}}}`
		}
		return `{"data":{"deleteInstrumentation":{"deletedId":null,"userErrors":[{"message":"none","path":["input","id"],"code":"NOT_FOUND"}]}}}`
	}}.serve(t)
	remove := func(args ...string) (int, string, string) {
		return runCLI(t, "", append([]string{"delete", "i-1", "i-2", "i-3", "--server", url, "--data-dir", t.TempDir()}, args...)...)
	}
	code, out, errs := remove()
	require.Equal(t, exitNotFound, code)
	require.Equal(t, "i-1\ni-3\n", out)
	require.Equal(t, "iapi: i-2: id: none (NOT_FOUND)\n", errs)
	_, out, _ = remove("-o", "json")
	require.JSONEq(t, `[{"deletedId":"i-1"},{"deletedId":"i-3"}]`, out)
}

func TestDeletingManyTellsWhatIsDeletedAndWhatIsNot(t *testing.T) {
	url := answer{"DeleteAll": func(map[string]any) string {
		return `{"data":{"deleteInstrumentations":{"deletedCount":1,"deletedIds":["i-1"],"userErrors":[
		  {"message":"i-2: it could not be deleted now; ask again","path":["input","filter","i-2"],"code":"UNAVAILABLE"}]}}}`
	}}.serve(t)
	remove := func(args ...string) (int, string, string) {
		return runCLI(t, "", append([]string{"delete", "--tag", "a=b", "--expect", "2", "--server", url, "--data-dir", t.TempDir()}, args...)...)
	}
	code, out, errs := remove()
	require.Equal(t, exitFailed, code)
	require.Equal(t, "1 deleted\n", out)
	require.Contains(t, errs, "i-2: it could not be deleted now; ask again (UNAVAILABLE)")
	_, out, _ = remove("-o", "json")
	require.JSONEq(t, `{"deletedCount":1,"deletedIds":["i-1"]}`, out)
}

func TestAReplacementThatIsRefusedLosesNothing(t *testing.T) {
	url := answer{
		"List": func(map[string]any) string {
			return `{"data":{"instrumentations":{"nodes":[` + standing + `],"pageInfo":{"hasNextPage":false,"endCursor":null}}}}`
		},
		"Create": func(map[string]any) string {
			return `{"data":{"createInstrumentation":{"instrumentation":null,"userErrors":[{"message":"no","path":["input","metric"],"code":"UNKNOWN_METRIC"}]}}}`
		},
	}.serve(t) // a delete would be an unexpected operation
	manifest := "instrumentations: [{name: web-cpu, metric: nope, scope: {everyHost: true}}]"
	code, _, errs := runCLI(t, manifest, "apply", "-f", "-", "--yes", "--server", url, "--data-dir", t.TempDir())
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "replace web-cpu: metric: no")
}

func TestAListThatGoesOnSaysHow(t *testing.T) {
	url := answer{"List": func(v map[string]any) string {
		if v["after"] != nil {
			return `{"data":{"instrumentations":{"nodes":[],"pageInfo":{"hasNextPage":false,"endCursor":null}}}}`
		}
		return `{"data":{"instrumentations":{"nodes":[` + standing + `],"pageInfo":{"hasNextPage":true,"endCursor":"c1"}}}}`
	}}.serve(t)
	code, out, errs := runCLI(t, "", "list", "--limit", "1", "--server", url, "--data-dir", t.TempDir())
	require.Zero(t, code, errs)
	require.Contains(t, out, "i-1")
	require.Contains(t, errs, "--after c1 goes on")
	code, _, errs = runCLI(t, "", "list", "--limit", "1", "--after", "c1", "--server", url, "--data-dir", t.TempDir())
	require.Zero(t, code, errs)
	require.Empty(t, errs)
}
