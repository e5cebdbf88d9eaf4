package graph_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOnlyOperatorsPublishAndRetire(t *testing.T) {
	a := newAPI(t)
	for _, mutation := range []string{
		`mutation { publishMetric(input: {document: "x"}) { metric { name } userErrors { code path } } }`,
		`mutation { retireMetric(input: {name: "cpu.usage"}) { retiredName userErrors { code path } } }`,
	} {
		for _, who := range []string{"alice", "cloudapi", "workflow"} {
			got := a.ask(t, who, mutation, nil)
			require.Len(t, got.Errors, 1, who)
			require.Equal(t, "FORBIDDEN", got.Errors[0].Extensions["code"], who)
		}
	}
	got := a.ask(t, "operator", `mutation { publishMetric(input: {document: "}"}) { metric { name } userErrors { code path } } }`, nil)
	require.Empty(t, got.Errors)
	payload := got.Data["publishMetric"].(map[string]any)
	require.Nil(t, payload["metric"])
	mistake := payload["userErrors"].([]any)[0].(map[string]any)
	require.Equal(t, "INVALID_DEFINITION", mistake["code"])
	require.Equal(t, []any{"input", "document"}, mistake["path"])
}
