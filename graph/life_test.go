package graph_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/graph/agentdoc"
)

const fragment = `fragment f on Instrumentation { __typename id name owner metric { id name label interval unit collectors
  fields { name label arity unit } maxTtlSeconds definition { digest document signature keyId } }
  predicate { json text } decompositions { name } scope { json text } targets { __typename
    ... on DataApiTarget { url transport streamUrl } ... on StatsdTarget { address prefix }
    ... on GraphiteTarget { address prefix } ... on OtlpTarget { endpoint } }
  tags { key value } granularitySeconds state revision createdAt updatedAt expiresAt
  coverage { expected running pending failed offline } problems { status message sources exampleVm }
  vms(first: 2) { edges { cursor node { id uuid alias owner host state tags { key value } } status message } nodes { uuid }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor } totalCount }
  hosts(first: 2) { edges { cursor node { id name agent { version online lastSeenAt applied { epoch } capabilities } } vms status message since }
    nodes { uuid } pageInfo { hasNextPage } totalCount } }`

const create = `mutation($input: CreateInstrumentationInput!) { createInstrumentation(input: $input) {
  instrumentation { ...f } userErrors { message path code } } } ` + fragment

func (a *api) created(t testing.TB, token string, input map[string]any) map[string]any {
	t.Helper()
	data := a.must(t, token, create, map[string]any{"input": input})
	require.Empty(t, at(t, data, "createInstrumentation", "userErrors"))
	return at(t, data, "createInstrumentation", "instrumentation").(map[string]any)
}

func wish(change ...func(map[string]any)) map[string]any {
	in := map[string]any{"metric": "cpu.usage", "scope": map[string]any{"all": true}, "name": "one"}
	for _, fn := range change {
		fn(in)
	}
	return in
}

func TestCreateReadAndSearch(t *testing.T) {
	a := newAPI(t)
	a.Fleet(3, alice, bob)
	made := a.created(t, "alice", wish(func(in map[string]any) {
		in["tags"] = []any{map[string]any{"key": "b", "value": "2"}, map[string]any{"key": "a", "value": "1"}}
		in["targets"] = []any{
			map[string]any{"dataApi": map[string]any{"url": "http://data.example.com:1234/x", "headers": []any{map[string]any{"name": "X-Key", "value": "top-secret"}}}},
			map[string]any{"statsd": map[string]any{"address": "stats.example.com:8125", "prefix": "p"}},
			map[string]any{"graphite": map[string]any{"address": "g.example.com:2003"}},
			map[string]any{"otlp": map[string]any{"endpoint": "http://o.example.com:4318"}},
		}
		in["ttlSeconds"] = 3600
	}))
	a.Store.Settle()
	id := made["id"].(string)
	require.Equal(t, "one", made["name"])
	require.Equal(t, alice.String(), made["owner"])
	require.Equal(t, "CREATED", made["state"])
	require.Equal(t, "a", at(t, made, "tags", 0, "key"))
	require.Equal(t, "http://data.example.com:1234/x/"+id, at(t, made, "targets", 0, "streamUrl"))
	require.Equal(t, "HTTP", at(t, made, "targets", 0, "transport"))
	require.Equal(t, map[string]any{"all": true}, at(t, made, "scope", "json"))
	require.Nil(t, made["hosts"], "tenants see no hosts")

	got := a.ask(t, "alice", `query($id: ID!) { instrumentation(id: $id) { ...f } node(id: $id) { ...f } } `+fragment, map[string]any{"id": id})
	require.Empty(t, got.Errors)
	require.NotContains(t, got.raw, "top-secret")
	require.Equal(t, got.Data["instrumentation"], got.Data["node"])
	one := got.Data["instrumentation"]
	require.EqualValues(t, 3, at(t, one, "coverage", "expected"))
	require.EqualValues(t, 3, at(t, one, "vms", "totalCount"))
	require.Equal(t, true, at(t, one, "vms", "pageInfo", "hasNextPage"))
	require.Nil(t, at(t, one, "vms", "nodes", 0, "host"), "tenants see no hosts")

	operator := a.must(t, "operator", `query($id: ID!) { instrumentation(id: $id) { ...f } } `+fragment, map[string]any{"id": id})
	require.NotNil(t, at(t, operator, "instrumentation", "hosts", "edges", 0, "node", "name"))
	require.EqualValues(t, 3, at(t, operator, "instrumentation", "hosts", "totalCount"))

	list := `query($filter: InstrumentationFilter) { instrumentations(filter: $filter) { nodes { id } totalCount } }`
	require.EqualValues(t, 1, at(t, a.must(t, "alice", list, nil), "instrumentations", "totalCount"))
	require.EqualValues(t, 0, at(t, a.must(t, "bob", list, nil), "instrumentations", "totalCount"))
	for name, c := range map[string]struct {
		filter map[string]any
		want   int
	}{
		"owner":        {map[string]any{"owner": alice.String()}, 1},
		"null owner":   {map[string]any{"owner": nil}, 0},
		"metric":       {map[string]any{"metric": "cpu.usage"}, 1},
		"other metric": {map[string]any{"metric": "disk.physio_ops"}, 0},
		"tags":         {map[string]any{"tags": []any{map[string]any{"key": "a", "value": "1"}}}, 1},
		"state":        {map[string]any{"state": []any{"PAUSED"}}, 0},
		"text":         {map[string]any{"text": "ON"}, 1},
		"another text": {map[string]any{"text": "two"}, 0},
	} {
		require.EqualValues(t, c.want, at(t, a.must(t, "operator", list, map[string]any{"filter": c.filter}), "instrumentations", "totalCount"), name)
	}
	require.Nil(t, a.must(t, "bob", `query($id: ID!) { node(id: $id) { id } }`, map[string]any{"id": id})["node"], "what another owns does not exist")
}

func TestLifeOfAnInstrumentation(t *testing.T) {
	a := newAPI(t)
	a.Fleet(2, alice)
	id := a.created(t, "alice", wish())["id"].(string)
	payload := ` { instrumentation { ...f } userErrors { code path message } } } ` + fragment
	run := func(mutation string, input map[string]any) any {
		kind := map[string]string{"update": "UpdateInstrumentationInput", "clone": "CloneInstrumentationInput"}[mutation]
		if kind == "" {
			kind = "InstrumentationIdInput"
		}
		data := a.must(t, "alice", `mutation($input: `+kind+`!) { `+mutation+`Instrumentation(input: $input)`+payload, map[string]any{"input": input})
		require.Empty(t, at(t, data, mutation+"Instrumentation", "userErrors"), mutation)
		return at(t, data, mutation+"Instrumentation", "instrumentation")
	}
	updated := run("update", map[string]any{"id": id, "expectedRevision": 1, "name": nil, "tags": []any{map[string]any{"key": "k", "value": "v"}}, "granularitySeconds": 10})
	require.Nil(t, at(t, updated, "name"), "null clears")
	require.EqualValues(t, 10, at(t, updated, "granularitySeconds"))
	require.EqualValues(t, 2, at(t, updated, "revision"))
	again := run("update", map[string]any{"id": id, "granularitySeconds": 5})
	require.Equal(t, "k", at(t, again, "tags", 0, "key"), "absent leaves as it is")

	conflict := a.must(t, "alice", `mutation($input: UpdateInstrumentationInput!) { updateInstrumentation(input: $input)`+payload,
		map[string]any{"input": map[string]any{"id": id, "expectedRevision": 1, "name": "x"}})
	require.Equal(t, "REVISION_CONFLICT", at(t, conflict, "updateInstrumentation", "userErrors", 0, "code"))

	require.Equal(t, "PAUSED", at(t, run("pause", map[string]any{"id": id}), "state"))
	require.NotEqual(t, "PAUSED", at(t, run("resume", map[string]any{"id": id}), "state"))
	require.NotNil(t, run("refresh", map[string]any{"id": id}))
	clone := run("clone", map[string]any{"id": id, "name": "two", "scope": map[string]any{"vmAlias": "x"}})
	require.NotEqual(t, id, at(t, clone, "id"))
	require.Equal(t, "two", at(t, clone, "name"))

	deleted := a.must(t, "alice", `mutation($input: InstrumentationIdInput!) { deleteInstrumentation(input: $input) { deletedId userErrors { code } } }`,
		map[string]any{"input": map[string]any{"id": id}})
	require.Equal(t, id, at(t, deleted, "deleteInstrumentation", "deletedId"))
	many := `mutation($n: Int!) { deleteInstrumentations(input: {filter: {}, expectedCount: $n}) { deletedCount userErrors { code } } }`
	require.Equal(t, "COUNT_MISMATCH", at(t, a.must(t, "alice", many, map[string]any{"n": 7}), "deleteInstrumentations", "userErrors", 0, "code"))
	require.EqualValues(t, 1, at(t, a.must(t, "alice", many, map[string]any{"n": 1}), "deleteInstrumentations", "deletedCount"))
	missing := a.must(t, "bob", `mutation($input: InstrumentationIdInput!) { deleteInstrumentation(input: $input) { deletedId userErrors { code } } }`,
		map[string]any{"input": map[string]any{"id": id}})
	require.Equal(t, "NOT_FOUND", at(t, missing, "deleteInstrumentation", "userErrors", 0, "code"))
}

func TestIdempotencyKey(t *testing.T) {
	a := newAPI(t)
	keyed := func(name string) map[string]any {
		return wish(func(in map[string]any) { in["idempotencyKey"], in["name"] = "k", name })
	}
	first := a.created(t, "alice", keyed("one"))
	require.Equal(t, first["id"], a.created(t, "alice", keyed("one"))["id"])
	other := a.must(t, "alice", create, map[string]any{"input": keyed("two")})
	require.Equal(t, "IDEMPOTENCY_CONFLICT", at(t, other, "createInstrumentation", "userErrors", 0, "code"))
}

func TestPreviewAndItsToken(t *testing.T) {
	a := newAPI(t)
	a.Fleet(4, alice, bob)
	preview := `query($scope: ScopeInput!, $after: String) { previewScope(scope: $scope, metric: "cpu.usage") { vmCount hostCount inventoryAsOf token
	  vms(first: 3, after: $after) { edges { cursor } nodes { uuid owner host } totalCount pageInfo { hasNextPage hasPreviousPage endCursor } }
	  hosts(first: 3) { nodes { uuid name } totalCount } problems { status message sources exampleVm } } }`
	vars := map[string]any{"scope": map[string]any{"all": true}}
	data := at(t, a.must(t, "alice", preview, vars), "previewScope")
	require.EqualValues(t, 4, at(t, data, "vmCount"))
	require.Nil(t, at(t, data, "hostCount"))
	require.Nil(t, at(t, data, "hosts"))
	require.Len(t, at(t, data, "vms", "nodes"), 3)
	vars["after"] = at(t, data, "vms", "pageInfo", "endCursor")
	rest := at(t, a.must(t, "alice", preview, vars), "previewScope")
	require.Len(t, at(t, rest, "vms", "nodes"), 1)
	require.Equal(t, false, at(t, rest, "vms", "pageInfo", "hasNextPage"))
	require.Equal(t, true, at(t, rest, "vms", "pageInfo", "hasPreviousPage"))
	made := a.created(t, "alice", wish(func(in map[string]any) { in["previewToken"] = at(t, data, "token") }))
	require.NotEmpty(t, made["id"])

	operator := at(t, a.must(t, "operator", preview, map[string]any{"scope": map[string]any{"everyHost": true}}), "previewScope")
	require.EqualValues(t, 4, at(t, operator, "hostCount"))
	require.EqualValues(t, 0, at(t, operator, "vmCount"))
	require.EqualValues(t, 4, at(t, operator, "hosts", "totalCount"))
}

func TestMetricsAndTheirDefinitions(t *testing.T) {
	a := newAPI(t)
	data := a.must(t, "operator", `{ metrics { id name module: name collectors definition { digest document } } }`, nil)
	list := data["metrics"].([]any)
	require.NotEmpty(t, list)
	first := list[0]
	one := a.must(t, "operator", `query($n: String!, $d: String!, $id: ID!) { metric(name: $n) { id } none: metric(name: "no.such") { id }
	  metricDefinition(digest: $d) { document } node(id: $id) { ... on Metric { name } } }`,
		map[string]any{"n": at(t, first, "name"), "d": at(t, first, "definition", "digest"), "id": at(t, first, "id")})
	require.Equal(t, at(t, first, "id"), at(t, one, "metric", "id"))
	require.Nil(t, one["none"])
	require.Equal(t, at(t, first, "definition", "document"), at(t, one, "metricDefinition", "document"))
	require.Equal(t, at(t, first, "name"), at(t, one, "node", "name"))
	host := uuid.New()
	agent := a.must(t, a.agent(host), agentdoc.Definition, map[string]any{"digest": at(t, first, "definition", "digest")})
	require.Equal(t, at(t, first, "definition", "document"), at(t, agent, "metricDefinition", "document"))
	disks := a.must(t, "operator", `{ metrics(module: "cpu") { name } }`, nil)["metrics"].([]any)
	require.NotEmpty(t, disks)
	for _, m := range disks {
		require.True(t, strings.HasPrefix(at(t, m, "name").(string), "cpu."))
	}
}

func TestEqualWishesHaveTheSameDigest(t *testing.T) {
	a := newAPI(t)
	digest := func(token string, change ...func(map[string]any)) any {
		id := a.created(t, token, wish(change...))["id"]
		return at(t, a.must(t, token, `query($id: ID!) { instrumentation(id: $id) { wishDigest } }`, map[string]any{"id": id}), "instrumentation", "wishDigest")
	}
	where := func(terms ...string) func(map[string]any) {
		return func(in map[string]any) {
			and := make([]any, len(terms))
			for i, mode := range terms {
				and[i] = map[string]any{"ne": map[string]any{"field": "cpumode", "value": mode}}
			}
			in["predicate"] = map[string]any{"and": and}
		}
	}
	one := digest("alice", where("user", "kernel"))
	require.Len(t, one, 64)
	require.Equal(t, one, digest("alice", where("kernel", "user")))
	require.Equal(t, one, digest("bob", where("kernel", "user", "user"), func(in map[string]any) { in["name"], in["granularitySeconds"] = "two", 5 }))
	require.NotEqual(t, one, digest("alice", where("kernel")))
	require.NotEqual(t, one, digest("alice", where("user", "kernel"), func(in map[string]any) { in["decompositions"] = []any{"cpumode"} }))
}

func TestAnInputCanBeCheckedWithoutADeed(t *testing.T) {
	a := newAPI(t)
	check := func(token, field, kind string, input map[string]any) any {
		return a.must(t, token, `query($i: `+kind+`!) { `+field+`(input: $i) { message path code } }`, map[string]any{"i": input})[field]
	}
	create := func(input map[string]any) any {
		return check("alice", "checkCreate", "CreateInstrumentationInput", input)
	}
	require.Empty(t, create(wish()))
	bad := create(wish(func(in map[string]any) { in["metric"], in["granularitySeconds"] = "nope", 0 }))
	require.Equal(t, "UNKNOWN_METRIC [input metric]", fmt.Sprint(at(t, bad, 0, "code"), " ", at(t, bad, 0, "path")))
	require.Equal(t, "[input granularitySeconds]", fmt.Sprint(at(t, bad, 1, "path")))
	require.EqualValues(t, 0, at(t, a.must(t, "alice", `{ limits { instrumentationsUsed } }`, nil), "limits", "instrumentationsUsed"))

	id := a.created(t, "alice", wish())["id"]
	update := func(token string, input map[string]any) any {
		input["id"] = id
		return check(token, "checkUpdate", "UpdateInstrumentationInput", input)
	}
	require.Empty(t, update("alice", map[string]any{"name": "two"}))
	require.Equal(t, "REVISION_CONFLICT", at(t, update("alice", map[string]any{"expectedRevision": 7}), 0, "code"))
	require.Equal(t, "NOT_FOUND", at(t, update("bob", map[string]any{"name": "two"}), 0, "code"))
	require.Contains(t, fmt.Sprint(a.must(t, "alice", `query($id: ID!) { instrumentation(id: $id) { name revision } }`, map[string]any{"id": id})), "name:one")
	out := a.ask(t, "workflow", `query($i: CreateInstrumentationInput!) { checkCreate(input: $i) { code } }`, map[string]any{"i": wish()})
	require.Equal(t, "FORBIDDEN", out.code())
}
