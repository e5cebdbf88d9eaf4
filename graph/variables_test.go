package graph_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/graph"
	"iapi/identity"
	"iapi/instrumentation"
	it "iapi/instrumentation/instrumentationtest"
)

const createTwo = `mutation($i: CreateInstrumentationInput!, $j: CreateInstrumentationInput!) {
  a: createInstrumentation(input: $i) { userErrors { code } } b: createInstrumentation(input: $j) { userErrors { code } } }`

func TestAWrongLeafInAVariableRefusesTheWholeOperation(t *testing.T) {
	a := newAPI(t)
	for path, wrong := range map[string]func(map[string]any){
		"metric":         func(in map[string]any) { in["metric"] = 5 },
		"decompositions": func(in map[string]any) { in["decompositions"] = []any{"a", true} },
		"scope":          func(in map[string]any) { in["scope"] = map[string]any{"vmAlias": 5} },
	} {
		out := a.ask(t, "alice", createTwo, map[string]any{"i": wish(), "j": wish(wrong)})
		require.Equal(t, http.StatusBadRequest, out.status, out.raw)
		require.Equal(t, "BAD_REQUEST", out.code(), out.raw)
		require.NotContains(t, out.raw, `"data"`)
		require.Subset(t, out.Errors[0].Path, []any{"variable", "j", path}, out.raw)
	}
	body, err := json.Marshal(map[string]any{"query": createTwo, "variables": map[string]any{
		"i": wish(), "j": wish(func(in map[string]any) { in["metric"] = 5 }),
	}})
	require.NoError(t, err)
	p := a.ready(t, "alice")
	p.say(`{"id":"1","type":"subscribe","payload":` + string(body) + `}`)
	require.Contains(t, p.hear(), `"type":"error"`)
	found, err := a.List(t.Context(), it.Operator(), instrumentation.Filter{}, instrumentation.Page{})
	require.NoError(t, err)
	require.Empty(t, found.Items)
}

func TestAnIntegralNumberIsAnInt(t *testing.T) {
	a := newAPI(t)
	const list = `query($n: Int) { instrumentations(first: $n) { nodes { id } } }`
	for number, code := range map[string]string{"2.0": "", "2e0": "", "2.5": "BAD_REQUEST", "1e300": "BAD_REQUEST", `"2"`: "BAD_REQUEST"} {
		out := a.ask(t, "alice", list, map[string]any{"n": json.RawMessage(number)})
		require.Equal(t, code, out.code(), "%s: %s", number, out.raw)
	}
}

func TestIntrospectionIsCounted(t *testing.T) {
	a := newAPI(t)
	one := `__schema { types { fields { type { name } } } } `
	require.Empty(t, a.ask(t, "operator", `{ `+one+` }`, nil).code())
	var many strings.Builder
	for i := range 90 {
		many.WriteString("a" + string(rune('a'+i/26)) + string(rune('a'+i%26)) + ": " + one)
	}
	require.Equal(t, "COMPLEXITY_LIMIT_EXCEEDED", a.ask(t, "operator", `{ `+many.String()+` }`, nil).code())
}

func TestTheIntrospectionOfToolsIsAllowed(t *testing.T) {
	a := newAPI(t)
	const query = `query IntrospectionQuery { __schema { description queryType { name kind } mutationType { name kind } subscriptionType { name kind }
  types { ...FullType } directives { name description isRepeatable locations args(includeDeprecated: true) { ...InputValue } } } }
fragment FullType on __Type { kind name description specifiedByURL isOneOf
  fields(includeDeprecated: true) { name description args(includeDeprecated: true) { ...InputValue } type { ...TypeRef } isDeprecated deprecationReason }
  inputFields(includeDeprecated: true) { ...InputValue } interfaces { ...TypeRef }
  enumValues(includeDeprecated: true) { name description isDeprecated deprecationReason } possibleTypes { ...TypeRef } }
fragment InputValue on __InputValue { name description type { ...TypeRef } defaultValue isDeprecated deprecationReason }
fragment TypeRef on __Type { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name
  ofType { kind name ofType { kind name ofType { kind name ofType { kind name } } } } } } } } } }`
	out := a.ask(t, "operator", query, nil)
	require.Empty(t, out.Errors)
	require.NotEmpty(t, at(t, out.Data, "__schema", "types"))
}

func TestEveryAnswerWithACorrelationIDIsInTheLog(t *testing.T) {
	a := newAPI(t)
	for query, token := range map[string]string{`{ auditLog { nodes { id } } }`: "alice", `{ instrumentations { nodes { id } } }`: "", `{ nothing }`: "alice", `{ __typename }`: "stranger"} {
		out := a.ask(t, token, query, nil)
		require.NotEmpty(t, out.Errors, query)
		id, _ := out.Errors[0].Extensions["correlationId"].(string)
		require.Equal(t, 1, strings.Count(a.log.String(), "correlationId="+id), "%s: %s", query, out.raw)
	}
}

func TestTheLogOfRefusedCredentialsHasTheIDOfTheAnswer(t *testing.T) {
	log := &buffer{}
	a := newAPI(t, func(o *graph.Options) {
		o.Authenticator = identity.Chain(slog.New(slog.NewTextHandler(log, nil)), o.Authenticator)
	})
	out := a.ask(t, "stranger", `{ __typename }`, nil)
	require.Equal(t, http.StatusUnauthorized, out.status)
	id, _ := out.Errors[0].Extensions["correlationId"].(string)
	require.Len(t, id, 16)
	require.Contains(t, log.String(), "correlationId="+id)
}
