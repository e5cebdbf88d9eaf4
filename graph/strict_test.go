package graph_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	it "iapi/instrumentation/instrumentationtest"
)

// TestAStringIsAString: the library's own reads numbers and truth values as texts.
func TestAStringIsAString(t *testing.T) {
	a := newAPI(t)
	for _, wrong := range []any{5, 1.5, true, []any{"a", "b"}, map[string]any{}} {
		for name, ask := range map[string]func() answer{
			"in an input": func() answer {
				return a.ask(t, "alice", create, map[string]any{"input": wish(func(in map[string]any) { in["metric"] = wrong })})
			},
			"in a list": func() answer {
				return a.ask(t, "alice", create, map[string]any{"input": wish(func(in map[string]any) { in["decompositions"] = []any{wrong} })})
			},
			"in a tag": func() answer {
				return a.ask(t, "alice", create, map[string]any{"input": wish(func(in map[string]any) { in["tags"] = []any{map[string]any{"key": wrong, "value": "v"}} })})
			},
			"as an argument": func() answer {
				return a.ask(t, "alice", `query($n: String!) { metric(name: $n) { name } }`, map[string]any{"n": wrong})
			},
		} {
			out := ask()
			require.Equal(t, "BAD_REQUEST", out.code(), "%v %s: %s", wrong, name, out.raw)
			require.NotEmpty(t, out.Errors[0].Message)
		}
	}
	for _, wrong := range []string{"5", "1.5", "true", "ENUM", "{}"} {
		out := a.ask(t, "alice", `mutation { createInstrumentation(input: {metric: `+wrong+`, scope: {all: true}}) { userErrors { code } } }`, nil)
		require.Equal(t, "BAD_REQUEST", out.code(), "%s: %s", wrong, out.raw)
		out = a.ask(t, "alice", `{ previewScope(scope: {vmAlias: `+wrong+`}) { vmCount } }`, nil)
		require.Equal(t, "BAD_REQUEST", out.code(), "%s: %s", wrong, out.raw)
	}
	for _, member := range []map[string]any{{"vmAlias": 5}, {"vmTag": map[string]any{"key": 5}}, {"vmTag": map[string]any{"key": "k", "in": []any{5}}}} {
		out := a.ask(t, "alice", create, map[string]any{"input": wish(func(in map[string]any) { in["scope"] = member })})
		if out.code() == "" {
			require.Equal(t, "INVALID_SCOPE", at(t, out.Data, "createInstrumentation", "userErrors", 0, "code"), out.raw)
		} else {
			require.Equal(t, "BAD_REQUEST", out.code(), out.raw)
		}
	}
	found, err := a.List(t.Context(), it.Operator(), instrumentation.Filter{}, instrumentation.Page{})
	require.NoError(t, err)
	require.Empty(t, found.Items)
}

// TestLimitsTellThePolicy sets every number of the policy to another, and finds all of them in the answer.
func TestLimitsTellThePolicy(t *testing.T) {
	policy := instrumentation.DefaultPolicy()
	v := reflect.ValueOf(&policy).Elem()
	want := map[string]float64{}
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		switch f := v.Field(i); f.Interface().(type) {
		case int:
			n := int64(1000 + i)
			if strings.HasPrefix(name, "Predicate") {
				n = int64(i) - 8
			}
			f.SetInt(n)
			want[name] = float64(n)
		case time.Duration:
			f.SetInt(int64(time.Duration(1000+i) * time.Second))
			want[name] = float64(1000 + i)
		}
	}
	a := newAPIWith(t, policy)
	for _, token := range []string{"alice", "operator"} {
		limits := a.must(t, token, `{ limits { ...f } } `+everything(t, "Limits"), nil)["limits"].(map[string]any)
		told := map[float64]bool{}
		for _, n := range limits {
			if n, ok := n.(float64); ok {
				told[n] = true
			}
		}
		for name, n := range want {
			own := strings.HasPrefix(name, "Operator") == (token == "operator")
			if strings.Contains(name, "nstrumentations") || name == "OperatorTracing" {
				require.Equal(t, own, told[n], "%s for %s: %v", name, token, limits)
				continue
			}
			require.True(t, told[n], "%s for %s: %v", name, token, limits)
		}
	}
}
