package graph_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/validator/rules"

	"iapi/assignment"
	"iapi/graph"
	"iapi/graph/agentdoc"
	"iapi/identity"
	"iapi/instrumentation"
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

func TestOperatorsSeeTheFleet(t *testing.T) {
	a := newAPI(t)
	hosts, vms := a.Fleet(3, alice)
	a.Store.PutGuard(instrumentation.Guard{ID: "g1", Reason: "too much", WouldRemove: 9, Since: a.Clock.Now()})
	data := a.must(t, "operator", `query($h: UUID!) { hosts(first: 2) { nodes { id uuid name traits { key value } agent { version online } } totalCount pageInfo { hasNextPage } }
	  host(uuid: $h) { name } guards { id reason wouldRemove since } limits { instrumentations instrumentationsUsed tracingInstrumentations tracingInstrumentationsUsed } }`,
		map[string]any{"h": hosts[0].UUID.String()})
	require.EqualValues(t, 3, at(t, data, "hosts", "totalCount"))
	require.Equal(t, true, at(t, data, "hosts", "pageInfo", "hasNextPage"))
	require.Equal(t, hosts[0].Name, at(t, data, "host", "name"))
	require.EqualValues(t, 9, at(t, data, "guards", 0, "wouldRemove"))
	id := at(t, data, "hosts", "nodes", 0, "id").(string)
	require.NotNil(t, a.must(t, "operator", `query($id: ID!) { node(id: $id) { id ... on Host { name } } }`, map[string]any{"id": id})["node"])
	require.Nil(t, a.must(t, "alice", `query($id: ID!) { node(id: $id) { id } }`, map[string]any{"id": id})["node"])
	for _, q := range []string{`{ hosts { totalCount } }`, `{ guards { id } }`, `{ auditLog { nodes { id } } }`} {
		require.Equal(t, "FORBIDDEN", a.ask(t, "alice", q, nil).code(), q)
		require.Equal(t, "UNAUTHENTICATED", a.ask(t, "", q, nil).code(), q)
	}
	made := a.created(t, "operator", wish(func(in map[string]any) { in["scope"] = map[string]any{"everyHost": true} }))
	why := a.must(t, "operator", `query($i: ID!, $h: UUID, $v: UUID) { explainPlacement(instrumentation: $i, host: $h, vm: $v) { placed causes { code message } } }`,
		map[string]any{"i": made["id"], "h": hosts[0].UUID.String()})
	require.NotEmpty(t, at(t, why, "explainPlacement", "causes"))
	both := a.ask(t, "operator", `query($i: ID!, $h: UUID, $v: UUID) { explainPlacement(instrumentation: $i, host: $h, vm: $v) { placed } }`,
		map[string]any{"i": made["id"], "h": hosts[0].UUID.String(), "v": vms[0][0].UUID.String()})
	require.Equal(t, "BAD_REQUEST", both.code())
	vmNode := a.must(t, "alice", `query($v: UUID!) { instrumentations(filter: {vm: $v}) { totalCount } }`, map[string]any{"v": vms[0][0].UUID.String()})
	require.EqualValues(t, 0, at(t, vmNode, "instrumentations", "totalCount"))
}

func TestWhatOperatorsAndWorkflowsDo(t *testing.T) {
	a := newAPI(t)
	a.Store.PutGuard(instrumentation.Guard{ID: "g1"})
	vm, host := uuid.New().String(), uuid.New().String()
	accepted := map[string]struct{ token, mutation string }{
		"notifyVmChanged": {"workflow", `notifyVmChanged(input: {vm: "` + vm + `", kind: TAGS_UPDATED, requestId: "r"})`},
		"refreshAll":      {"workflow", `refreshAll`},
		"stopTracing":     {"operator", `stopTracing(input: {everywhere: true, reason: "fire"})`},
		"confirmGuard":    {"operator", `confirmGuard(id: "g1")`},
		"revokeAgent":     {"operator", `revokeAgent(host: "` + host + `")`},
	}
	for name, c := range accepted {
		data := a.must(t, c.token, `mutation { `+c.mutation+` { accepted userErrors { code message path } } }`, nil)
		require.Equal(t, true, at(t, data, name, "accepted"), "%s: %v", name, data)
		require.Equal(t, "FORBIDDEN", a.ask(t, a.agent(uuid.New()), `mutation { `+c.mutation+` { accepted } }`, nil).code(), name)
	}
	token := a.must(t, "operator", `mutation { createJoinToken(input: {host: "`+host+`"}) { token userErrors { code } } }`, nil)
	require.NotEmpty(t, at(t, token, "createJoinToken", "token"))
	wrong := a.must(t, "operator", `mutation { stopTracing(input: {reason: ""}) { accepted userErrors { code path } } }`, nil)
	require.Equal(t, false, at(t, wrong, "stopTracing", "accepted"))
	log := a.must(t, "operator", `{ auditLog(first: 3) { nodes { id at caller kind action subject detail result owner } edges { cursor } pageInfo { hasNextPage endCursor } } }`, nil)
	require.Len(t, at(t, log, "auditLog", "nodes"), 3)
	older := a.must(t, "operator", `query($a: String) { auditLog(first: 3, after: $a) { nodes { id } } }`, map[string]any{"a": at(t, log, "auditLog", "pageInfo", "endCursor")})
	require.NotEqual(t, at(t, log, "auditLog", "nodes", 0, "id"), at(t, older, "auditLog", "nodes", 0, "id"))
}

type joins struct {
	host uuid.UUID
	err  error
	used bool
}

func (j *joins) Redeem(_ context.Context, host uuid.UUID, _, _ string) (bool, error) {
	ok := !j.used && host == j.host
	j.used = j.used || ok
	return ok, j.err
}

func TestAnAgentJoinsWithoutCredentials(t *testing.T) {
	host := uuid.New()
	j := &joins{host: host}
	a := newAPI(t, func(o *graph.Options) { o.JoinTokens = j })
	token, _ := identity.NewJoinToken()
	vars := map[string]any{"input": map[string]any{"token": token, "host": host.String()}}
	data := a.must(t, "", agentdoc.ExchangeJoinToken, vars)
	require.NotEmpty(t, at(t, data, "exchangeJoinToken", "token"))
	again := a.must(t, "", agentdoc.ExchangeJoinToken, vars)
	require.Nil(t, at(t, again, "exchangeJoinToken", "token"))
	require.Equal(t, "NOT_FOUND", at(t, again, "exchangeJoinToken", "userErrors", 0, "code"))
	j.used, j.host = false, uuid.New()
	other := a.must(t, "", agentdoc.ExchangeJoinToken, vars)
	require.Nil(t, at(t, other, "exchangeJoinToken", "token"), "a token of another host")
	require.False(t, j.used, "which that does not use up")
	log := a.must(t, "operator", `{ auditLog(first: 3) { nodes { caller action result } } }`, nil)
	require.Equal(t, []any{
		map[string]any{"caller": "nobody", "action": "exchangeJoinToken", "result": "NOT_FOUND"},
		map[string]any{"caller": "nobody", "action": "exchangeJoinToken", "result": "NOT_FOUND"},
		map[string]any{"caller": "agent:" + host.String(), "action": "exchangeJoinToken", "result": "ok"},
	}, at(t, log, "auditLog", "nodes"))
	require.Equal(t, "FORBIDDEN", newAPI(t).ask(t, "", agentdoc.ExchangeJoinToken, vars).code())
}

func TestAgentsAskForTheirOwnHostOnly(t *testing.T) {
	a := newAPI(t)
	host := uuid.New()
	v := a.serve(host, items())
	q := `query($h: UUID!) { assignment(host: $h) { host version { epoch generation hash } sentAt instrumentations { id targets { headers } vms { uuid } } } }`
	vars := map[string]any{"h": host.String()}
	data := a.must(t, a.agent(host), q, vars)
	require.EqualValues(t, v.Generation, at(t, data, "assignment", "version", "generation"))
	require.Equal(t, "s<e>cret", at(t, data, "assignment", "instrumentations", 0, "targets", 0, "headers", "X-B"))
	shown := a.ask(t, "operator", q, vars)
	require.Empty(t, shown.Errors)
	require.NotContains(t, shown.raw, "cret", "only agents get secrets")
	require.Equal(t, "FORBIDDEN", a.ask(t, a.agent(uuid.New()), q, vars).code())
	require.Equal(t, "FORBIDDEN", a.ask(t, "alice", q, vars).code())
	require.Equal(t, "UNAUTHENTICATED", a.ask(t, "", q, vars).code())
	unknown := uuid.New()
	require.Equal(t, "NOT_FOUND", a.ask(t, a.agent(unknown), q, map[string]any{"h": unknown.String()}).code())
	a.source.Know(unknown)
	cold := a.ask(t, a.agent(unknown), q, map[string]any{"h": unknown.String()})
	require.Equal(t, "NOT_READY", cold.code())
	require.Positive(t, cold.Errors[0].Extensions["retryAfterSeconds"])
}

func TestAgentsReport(t *testing.T) {
	a := newAPI(t)
	host, session := uuid.New(), uuid.New()
	report := agentdoc.StatusReport{
		Host: host, Session: session, Sequence: 7, AgentVersion: "1.2", Capabilities: []string{"PROCFS"},
		Applied: &assignment.Version{Epoch: "0000000000000001", Generation: 4, Hash: "x"},
		Instrumentations: []agentdoc.InstrumentationStatus{{
			ID: "i-1", Revision: 2, Status: "FAILED", Message: strings.Repeat("ä", 4000),
			VMFailures: []agentdoc.VMFailure{{VM: bob, Status: "DENIED", Message: "no"}},
		}},
		Targets: []agentdoc.TargetStatus{{Instrumentation: "i-1", Target: 1, Connected: true, Queued: 5, Dropped: 6}},
	}
	vars := map[string]any{"input": report}
	data := a.must(t, a.agent(host), agentdoc.Report, vars)
	require.Equal(t, map[string]any{"accepted": true, "superseded": false, "nextReportSeconds": 10.0}, data["reportAgentStatus"])
	got := a.source.Reports()[0][0]
	require.Equal(t, host, got.Host)
	require.Equal(t, session, got.Session)
	require.EqualValues(t, 7, got.Sequence)
	require.Equal(t, *report.Applied, got.Applied)
	require.Equal(t, instrumentation.StatusFailed, got.Instrumentations[0].Status)
	require.Len(t, got.Instrumentations[0].Message, 4096)
	require.Equal(t, "no", got.Instrumentations[0].VMs[bob].Message)
	require.EqualValues(t, 6, got.Targets[0].Dropped)
	require.Equal(t, "FORBIDDEN", a.ask(t, a.agent(uuid.New()), agentdoc.Report, vars).code())
	require.Equal(t, "FORBIDDEN", a.ask(t, "alice", agentdoc.Report, vars).code())
	a.source.FailWith(errors.New("down"))
	require.Equal(t, "NOT_READY", a.ask(t, a.agent(host), agentdoc.Report, vars).code())
}

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

	a.Fleet(20, alice)
	id := a.created(t, "operator", wish(func(in map[string]any) { in["scope"] = map[string]any{"everyHost": true} }))["id"]
	a.Store.Settle()
	before = a.calls()
	data := a.must(t, "operator", `query($id: ID!) { instrumentation(id: $id) { hosts { nodes { agent { version } } } } }`, map[string]any{"id": id})
	require.Len(t, at(t, data, "instrumentation", "hosts", "nodes"), 20)
	require.Equal(t, 1, difference(before, a.calls())["Agents"])
	require.Zero(t, difference(before, a.calls())["Host"])
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

func TestDocumentsOfAgentsAreValid(t *testing.T) {
	text, err := os.ReadFile("../schema.graphql")
	require.NoError(t, err)
	schema, err := gqlparser.LoadSchema(&ast.Source{Name: "schema.graphql", Input: string(text)})
	require.NoError(t, err)
	for name, document := range map[string]string{
		"assignments": agentdoc.Assignments, "report": agentdoc.Report, "definition": agentdoc.Definition, "join": agentdoc.ExchangeJoinToken,
	} {
		_, errs := gqlparser.LoadQueryWithRules(schema, document, rules.NewDefaultRules())
		require.Empty(t, errs, name)
	}
	for name, def := range schema.Types {
		if def.BuiltIn {
			continue
		}
		require.NotEmpty(t, def.Description, name)
		for _, f := range def.Fields {
			if strings.HasPrefix(f.Name, "__") {
				continue
			}
			require.NotEmpty(t, f.Description, name+"."+f.Name)
			for _, arg := range f.Arguments {
				require.NotEmpty(t, arg.Description, name+"."+f.Name+"."+arg.Name)
			}
		}
		for _, v := range def.EnumValues {
			require.NotEmpty(t, v.Description, name+"."+v.Name)
		}
	}
}

func TestOperatorsLookAtAssignmentsWithoutTakingThem(t *testing.T) {
	a := newAPI(t)
	host, session, other := uuid.New(), uuid.New(), uuid.New()
	v := a.serve(host, items())
	agent := a.ready(t, a.agent(host))
	agent.subscribe("a", agentdoc.Assignments, agentdoc.AssignmentsVariables{Host: host, Session: session})
	require.Contains(t, agent.hear(), "s<e>cret")

	looker := a.ready(t, "operator")
	looker.subscribe("a", agentdoc.Assignments, agentdoc.AssignmentsVariables{Host: host, Session: other, Known: &v})
	require.Contains(t, looker.hear(), agentdoc.TypeBookmark)
	resp, _ := a.do(t, http.MethodGet, "/agents/"+host.String()+"/assignment?session="+other.String(), "",
		"Authorization", "Bearer operator", "If-None-Match", `"ffffffffffffffff.9.zzz"`)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Contains(t, resp.Header.Get("ETag"), v.Epoch+".1.", "what an operator claims to know moves no version")
	report := agentdoc.StatusReport{Host: host, Session: other, Sequence: 1, Capabilities: []string{}, Instrumentations: []agentdoc.InstrumentationStatus{}}
	require.Equal(t, "FORBIDDEN", a.ask(t, "operator", agentdoc.Report, map[string]any{"input": report}).code())

	a.serve(host, items()[:1])
	shown := looker.hear()
	require.Contains(t, shown, `"generation":2`)
	require.NotContains(t, shown, "cret", "only agents get secrets")
	require.Contains(t, agent.hear(), `"generation":2`, "the agent goes on")
	require.Equal(t, session, a.source.Session(host))
}
