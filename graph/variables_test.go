package graph_test

import (
	"encoding/json"
	"fmt"
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

func TestAWrongLeafInALiteralRefusesTheWholeOperation(t *testing.T) {
	a := newAPI(t)
	const (
		good = `metric: "test.ops", scope: {all: true}`
		made = ` { userErrors { code } } `
		huge = "99999999999999999999"
	)
	create := func(alias, input string) string {
		return alias + `: createInstrumentation(input: {` + input + `})` + made
	}
	second := func(input string) string { return create("b", input) }
	where := func(value string) string {
		return good + `, predicate: {and: [{eq: {field: "execname", value: ` + value + `}}]}`
	}
	for name, q := range map[string]string{
		"a uuid":                   second(good + `, owner: "no"`),
		"a uuid in a list":         second(`metric: "test.ops", scope: {not: {or: [{vms: ["no"]}]}}`),
		"a uuid instead of a list": second(`metric: "test.ops", scope: {vms: "no"}`),
		"a fraction":               second(where("1.5")),
		"a truth":                  second(where("true")),
		"a name":                   second(where("NaN")),
		"a name of a variable":     second(good + `, owner: nobody`),
		"a list":                   second(where("[1]")),
		"too many digits":          second(where(huge)),
		"too large a fraction":     second(where("1e999")),
		"another field":            `b: revokeAgent(host: "no")` + ` { accepted }`,
		"in a fragment":            `...f`,
		"in an inline fragment":    `... on Mutation { ` + second(where("1.5")) + `}`,
		"skipped":                  `b: createInstrumentation(input: {` + where("1.5") + `}) @skip(if: true)` + made,
		"not included":             `... @include(if: $no) { ` + second(where("1.5")) + `}`,
		"below":                    `b: createInstrumentation(input: {` + good + `}) { instrumentation { vms(after: 5) { totalCount } } }`,
	} {
		t.Run(name, func(t *testing.T) {
			query := `mutation($no: Boolean = false, $m: String = "test.ops") { ` + create("a", `metric: $m, scope: {all: true}`) + q +
				` c: __typename @include(if: $no) }`
			if name == "in a fragment" {
				query += ` fragment f on Mutation { ...g } fragment g on Mutation { ` + second(where("1.5")) + ` }`
			}
			out := a.ask(t, "alice", query, nil)
			require.Equal(t, http.StatusBadRequest, out.status, out.raw)
			require.Equal(t, "BAD_REQUEST", out.code(), out.raw)
			require.NotContains(t, out.raw, `"data"`)
			p := a.ready(t, "alice")
			p.subscribe("1", query, nil)
			require.Contains(t, p.hear(), `"type":"error"`)
		})
	}
	found, err := a.List(t.Context(), it.Operator(), instrumentation.Filter{}, instrumentation.Page{})
	require.NoError(t, err)
	require.Empty(t, found.Items)

	out := a.ask(t, "alice", `mutation { `+second(good+`, predicate: {and: [{eq: {field: "execname", value: 1.5}}]}`)+` }`, nil)
	require.Equal(t, "The argument input.predicate.and[0].eq.value of createInstrumentation: a FieldValue must be a string or an integer of up to 64 bits.",
		out.Errors[0].Message)
	require.NotContains(t, out.raw, `"path"`)
}

func TestFragmentsThatHoldEachOtherTwiceAreCheckedOnce(t *testing.T) {
	a := newAPI(t)
	var query strings.Builder
	query.WriteString(`query { ...f0 } `)
	for i := range 200 {
		fmt.Fprintf(&query, "fragment f%d on Query { ...f%d ...f%d } ", i, i+1, i+1)
	}
	query.WriteString(`fragment f200 on Query { instrumentations(filter: {owner: "no"}) { nodes { id } } }`)
	require.Equal(t, "BAD_REQUEST", a.ask(t, "alice", query.String(), nil).code())
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
