package graph_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"

	"iapi/graph"
)

func TestPagesMeetWithoutGapsInBothDirections(t *testing.T) {
	a := newAPI(t)
	var all []any
	for range 7 {
		a.Clock.Advance(time.Second)
		all = append([]any{a.created(t, "alice", wish())["id"]}, all...)
	}
	page := `query($first: Int, $after: String, $last: Int, $before: String) { instrumentations(first: $first, after: $after, last: $last, before: $before) {
	  edges { cursor node { id } } nodes { id } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }`
	walk := func(size, from, more, cursor string) (found []any) {
		vars := map[string]any{size: 3}
		for {
			data := at(t, a.must(t, "alice", page, vars), "instrumentations")
			var ids []any
			for _, n := range at(t, data, "nodes").([]any) {
				ids = append(ids, at(t, n, "id"))
			}
			if size == "first" {
				found = append(found, ids...)
			} else {
				found = append(ids, found...)
			}
			if at(t, data, "pageInfo", more) != true {
				return found
			}
			vars[from] = at(t, data, "pageInfo", cursor)
		}
	}
	require.Equal(t, all, walk("first", "after", "hasNextPage", "endCursor"))
	require.Equal(t, all, walk("last", "before", "hasPreviousPage", "startCursor"))
	for _, vars := range []map[string]any{
		{"first": 0}, {"first": 501}, {"first": -1}, {"first": 1, "last": 1}, {"after": "nonsense"}, {"after": strings.Repeat("A", 400)},
	} {
		require.Equal(t, "BAD_REQUEST", a.ask(t, "alice", page, vars).code(), "%v", vars)
	}
}

func TestListsAskOnceForAllItems(t *testing.T) {
	a := newAPI(t)
	for range 50 {
		a.created(t, "operator", wish(func(in map[string]any) { in["scope"] = map[string]any{"everyHost": true} }))
	}
	before := a.calls()
	a.must(t, "operator", `{ instrumentations(first: 50) { nodes { id name tags { key value } scope { text } coverage { expected running } metric { name label } } } }`, nil)
	after := a.calls()
	require.Equal(t, map[string]int{"Search": 1, "Coverage": 1}, difference(before, after))
	before = after
	a.must(t, "operator", `{ instrumentations(first: 50) { totalCount nodes { id } } }`, nil)
	require.Equal(t, map[string]int{"Search": 1, "Count": 1}, difference(before, a.calls()))
}

func TestNoFieldOfAListAsksForEachItem(t *testing.T) {
	a := newAPI(t, func(o *graph.Options) { o.Limits.Complexity = 1 << 30 })
	a.Fleet(20, alice)
	for range 10 {
		a.created(t, "operator", wish(func(in map[string]any) { in["scope"] = map[string]any{"everyHost": true} }))
		a.created(t, "alice", wish())
	}
	a.Store.Settle()
	for _, token := range []string{"operator", "alice"} {
		for _, list := range []string{`nodes { ...f }`, `edges { node { ...f } }`} {
			before := a.calls()
			data := a.must(t, token, `{ instrumentations(first: 50) { `+list+` } } `+everything(t, "Instrumentation"), nil)
			asked := difference(before, a.calls())
			require.NotEmpty(t, data)
			delete(asked, "Machines") // the owners of the problems' examples, all together
			want := map[string]int{"Search": 1, "Coverage": 1, "Problems": 1, "VMs": 1, "Hosts": 1}
			if token != "operator" {
				delete(want, "Hosts")
			}
			if asked["Coverage"] == 2 { // once more for the problems
				asked["Coverage"] = 1
			}
			require.Equal(t, want, asked, "%s, %s", token, list)
		}
	}
	nodes := at(t, a.must(t, "operator", `{ instrumentations(first: 1) { nodes { hosts { totalCount nodes { agent { online } } } vms { totalCount } } } }`, nil),
		"instrumentations", "nodes", 0)
	require.EqualValues(t, 20, at(t, nodes, "hosts", "totalCount"))
	require.Equal(t, true, at(t, nodes, "hosts", "nodes", 19, "agent", "online"))

	for list, want := range map[string]map[string]int{
		`{ hosts(first: 20) { nodes { ...f } } }`:                                          {"Fleet": 1},
		`{ hosts(first: 20) { edges { node { ...f } } } }`:                                 {"Fleet": 1},
		`{ previewScope(scope: {everyHost: true}) { hosts { edges { node { ...f } } } } }`: {"FleetHosts": 1},
	} {
		before := a.calls()
		a.must(t, "operator", list+everything(t, "Host"), nil)
		require.Equal(t, want, difference(before, a.calls()), list)
	}

	var ids []string
	for _, query := range []string{`{ hosts(first: 5) { nodes { id } } }`, `{ previewScope(scope: {all: true}, owner: "` + alice.String() + `") { vms(first: 5) { nodes { id } } } }`} {
		data := a.must(t, "operator", query, nil)
		list := data["hosts"]
		if list == nil {
			list = at(t, data, "previewScope", "vms")
		}
		for _, n := range at(t, list, "nodes").([]any) {
			ids = append(ids, at(t, n, "id").(string))
		}
	}
	before := a.calls()
	data := a.must(t, "operator", `query($ids: [ID!]!) { nodes(ids: $ids) { __typename id } }`, map[string]any{"ids": ids})
	require.Len(t, data["nodes"], 10)
	require.NotContains(t, data["nodes"], nil)
	require.Equal(t, map[string]int{"Machines": 1, "FleetHosts": 1}, difference(before, a.calls()))
}

// everything is a fragment f that selects every field of a type that needs no argument, and every field of those, down to
// the scalars.
func everything(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../schema.graphql")
	require.NoError(t, err)
	schema, err := gqlparser.LoadSchema(&ast.Source{Name: "schema.graphql", Input: string(text)})
	require.NoError(t, err)
	var fields func(def *ast.Definition) string
	fields = func(def *ast.Definition) string {
		out := "__typename "
		for _, f := range def.Fields {
			switch of := schema.Types[f.Type.Name()]; {
			case strings.HasPrefix(f.Name, "__"):
			case of.IsCompositeType():
				out += f.Name + " { " + fields(of) + "} "
			default:
				out += f.Name + " "
			}
		}
		return out
	}
	return "fragment f on " + name + " { " + fields(schema.Types[name]) + "}"
}

func difference(before, after map[string]int) map[string]int {
	out := make(map[string]int)
	for name, n := range after {
		if n > before[name] {
			out[name] = n - before[name]
		}
	}
	return out
}
