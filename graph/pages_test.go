package graph_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// selections is every field of the types that a list is written without resolvers for.
var selections = map[string][]string{
	"InstrumentationConnection": {"__typename", "nodes:Instrumentation", "edges:InstrumentationEdge", "pageInfo:PageInfo"},
	"InstrumentationEdge":       {"__typename", "cursor", "node:Instrumentation"},
	"PageInfo":                  {"__typename", "hasNextPage", "hasPreviousPage", "startCursor", "endCursor"},
	"Instrumentation": {"__typename", "id", "name", "owner", "metric:Metric", "predicate:Predicate", "decompositions:MetricField", "scope:Scope",
		"tags:Tag", "targets:Target", "granularitySeconds", "state", "revision", "createdAt", "updatedAt", "expiresAt", "coverage:Coverage"},
	"Metric": {"__typename", "id", "name", "label", "interval", "unit"}, "MetricField": {"__typename", "name", "label", "arity", "unit"},
	"Predicate": {"__typename", "json", "text"}, "Scope": {"__typename", "json", "text"}, "Tag": {"__typename", "key", "value"},
	"Coverage":      {"__typename", "expected", "running", "pending", "failed", "offline"},
	"DataApiTarget": {"__typename", "url", "transport", "streamUrl"}, "StatsdTarget": {"__typename", "address", "prefix"},
	"GraphiteTarget": {"__typename", "address", "prefix"}, "OtlpTarget": {"__typename", "endpoint"},
}

func randomSelection(r *rand.Rand, of string) string {
	var b strings.Builder
	if of == "Target" {
		b.WriteString("__typename")
		for _, t := range []string{"DataApiTarget", "StatsdTarget", "GraphiteTarget", "OtlpTarget"} {
			if r.IntN(4) > 0 {
				fmt.Fprintf(&b, " ... on %s { %s }", t, randomSelection(r, t))
			}
		}
		return b.String()
	}
	fields := selections[of]
	for range 1 + r.IntN(len(fields)) {
		field, kind, _ := strings.Cut(fields[r.IntN(len(fields))], ":")
		if r.IntN(4) == 0 {
			fmt.Fprintf(&b, "x%d: ", r.IntN(1000))
		}
		text := field
		if kind != "" {
			text += " { " + randomSelection(r, kind) + " }"
		}
		if r.IntN(8) == 0 {
			text += " @skip(if: $yes)"
			text = strings.Replace(text, field+" {", field+" @include(if: $yes) {", 1)
			text = strings.TrimSuffix(text, " @skip(if: $yes)")
		}
		if r.IntN(8) == 0 && !strings.Contains(b.String()[max(0, b.Len()-6):], ":") {
			text = "... on " + of + " { " + text + " }"
		}
		b.WriteString(text + " ")
	}
	return b.String()
}

// TestPagesAreWhatTheExecutorWrites asks for random selections twice: as they are, which needs no resolver, and with a total
// count beside them, which needs one. The bytes are the same but for that count.
func TestPagesAreWhatTheExecutorWrites(t *testing.T) {
	a := newAPI(t)
	a.Fleet(3, alice, bob)
	for i := range 5 {
		a.created(t, "alice", wish(func(in map[string]any) {
			in["name"] = []string{"one", "", `a "quoted" \ name`, "täg <&> \u2028", "five"}[i]
			in["tags"] = []any{map[string]any{"key": "k", "value": strings.Repeat("ü", i)}}
			if i%2 == 0 {
				in["predicate"] = map[string]any{"eq": map[string]any{"field": "cpumode", "value": "user"}}
				in["decompositions"] = []any{"cpumode"}
				in["ttlSeconds"] = 60
			}
			in["targets"] = []any{
				map[string]any{"dataApi": map[string]any{"url": "http://data.example.com:1234/x"}}, map[string]any{"statsd": map[string]any{"address": "stats.example.com:8125", "prefix": "p"}},
				map[string]any{"graphite": map[string]any{"address": "g.example.com:2003"}}, map[string]any{"otlp": map[string]any{"endpoint": "http://o.example.com:4318"}},
			}[:i%4+1]
		}))
	}
	a.created(t, "operator", wish(func(in map[string]any) { in["scope"] = map[string]any{"hosts": []any{uuid.NewString()}} }))
	a.Store.Settle()
	r := rand.New(rand.NewPCG(1, 1))
	arguments := []string{"", "(first: 2)", "(last: 3)", `(filter: {owner: "` + alice.String() + `"})`, `(filter: {text: "E", state: [CREATED, ENABLED]})`,
		`(filter: {tags: [{key: "k", value: "ü"}]})`, `(first: 1, filter: {metric: "cpu.usage"})`, `(filter: {metric: "no.such"})`, `(filter: {state: CREATED})`, "(filter: {owner: null})"}
	compared := 0
	for range 400 {
		selection, args := randomSelection(r, "InstrumentationConnection"), arguments[r.IntN(len(arguments))]
		query := func(extra string) string {
			return "query($yes: Boolean!) { __typename @skip(if: $yes) instrumentations" + args + " { " + selection + extra + " } }"
		}
		token := []string{"alice", "operator"}[r.IntN(2)]
		quick := a.ask(t, token, query(""), map[string]any{"yes": true})
		slow := a.ask(t, token, query(" total: totalCount"), map[string]any{"yes": true})
		if quick.code() != "" { // one alias for two things, or a tenant who asks for the operators'
			require.Equal(t, quick.code(), slow.code())
			continue
		}
		require.Empty(t, quick.Errors, quick.raw)
		require.Empty(t, slow.Errors, slow.raw)
		count, err := json.Marshal(at(t, slow.Data, "instrumentations", "total"))
		require.NoError(t, err)
		require.Equal(t, strings.NewReplacer(`,"total":`+string(count), "", `"total":`+string(count), "").Replace(slow.raw), quick.raw, query(""))
		compared++
	}
	require.Greater(t, compared, 200)
	for query, code := range map[string]string{
		`{ instrumentations(first: 0) { nodes { id } } }`: "BAD_REQUEST", `{ instrumentations(after: "x") { nodes { id } } }`: "BAD_REQUEST",
		`{ instrumentations(filter: {owner: "` + bob.String() + `"}) { nodes { id } } }`: "FORBIDDEN",
	} {
		require.Equal(t, code, a.ask(t, "alice", query, nil).code(), query)
	}
}
