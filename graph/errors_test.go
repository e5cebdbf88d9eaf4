package graph_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
)

func TestFaultsAreLoggedOnceAndNeverShown(t *testing.T) {
	a := newAPI(t)
	a.Store.FailWith(errors.New("dial redis-7.internal:6379: connection refused"))
	out := a.ask(t, "alice", `{ instrumentations { nodes { id } } }`, nil)
	require.Equal(t, "INTERNAL", out.code())
	require.NotContains(t, out.raw, "redis-7")
	id, _ := out.Errors[0].Extensions["correlationId"].(string)
	require.Len(t, id, 16)
	require.Equal(t, 1, strings.Count(a.log.String(), "redis-7.internal"))
	require.Contains(t, a.log.String(), "correlationId="+id)
	for err, code := range map[error]string{
		instrumentation.ErrNotReady: "NOT_READY", instrumentation.ErrNotDurable: "NOT_DURABLE", context.DeadlineExceeded: "NOT_READY",
	} {
		a.Store.FailWith(err)
		require.Equal(t, code, a.ask(t, "alice", create, map[string]any{"input": wish()}).code())
	}
}

func TestUserErrorsNameTheInput(t *testing.T) {
	a := newAPI(t)
	for name, c := range map[string]struct {
		change func(map[string]any)
		code   string
		path   []any
	}{
		"two members":      {func(in map[string]any) { in["scope"] = map[string]any{"all": true, "vmAlias": "x"} }, "INVALID_SCOPE", []any{"input", "scope"}},
		"no member":        {func(in map[string]any) { in["scope"] = map[string]any{} }, "INVALID_SCOPE", []any{"input", "scope"}},
		"a null member":    {func(in map[string]any) { in["scope"] = map[string]any{"all": nil} }, "INVALID_SCOPE", []any{"input", "scope", "all"}},
		"a scope of hosts": {func(in map[string]any) { in["scope"] = map[string]any{"everyHost": true} }, "SCOPE_FORBIDDEN", []any{"input", "scope", "everyHost"}},
		"two predicates": {func(in map[string]any) {
			in["predicate"] = map[string]any{"eq": map[string]any{"field": "a", "value": 1}, "ne": map[string]any{"field": "a", "value": 1}}
		}, "INVALID_PREDICATE", []any{"input", "predicate"}},
		"no such metric": {func(in map[string]any) { in["metric"] = "no.such" }, "UNKNOWN_METRIC", []any{"input", "metric"}},
		"two targets in one": {func(in map[string]any) {
			in["targets"] = []any{map[string]any{"statsd": map[string]any{"address": "a:1"}, "graphite": map[string]any{"address": "a:1"}}}
		}, "INVALID_TARGET", []any{"input", "targets", "0"}},
	} {
		data := a.must(t, "alice", create, map[string]any{"input": wish(c.change)})
		require.Nil(t, at(t, data, "createInstrumentation", "instrumentation"), name)
		require.Equal(t, c.code, at(t, data, "createInstrumentation", "userErrors", 0, "code"), name)
		require.Subset(t, at(t, data, "createInstrumentation", "userErrors", 0, "path"), c.path[:2], name)
	}
	out := a.ask(t, "alice", `{ previewScope(scope: {and: []}) { vmCount } }`, nil)
	require.Equal(t, "BAD_REQUEST", out.code())
	require.Equal(t, "INVALID_SCOPE", at(t, out.Errors[0].Extensions["userErrors"], 0, "code"))
}
