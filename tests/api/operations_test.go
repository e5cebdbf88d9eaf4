package api

import (
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/parser"

	"iapi/assignment"
	"iapi/graph/agentdoc"
	"iapi/identity"
	"iapi/instrumentation"
	"iapi/inventory/vmapitest"
	"iapi/store"
	"iapi/store/storetest"
)

// used notes which root fields a document asks for.
func (s *system) used(t testing.TB, query string) {
	t.Helper()
	doc, err := parser.ParseQuery(&ast.Source{Input: query})
	require.NoError(t, err, query)
	for _, op := range doc.Operations {
		for _, selection := range op.SelectionSet {
			if f, ok := selection.(*ast.Field); ok {
				s.fields.Store(string(op.Operation)+" "+f.Name, true)
			}
		}
	}
}

// requireAllUsed fails unless every operation of the contract was asked for.
func (s *system) requireAllUsed(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile("../schema/contract.graphql")
	require.NoError(t, err)
	schema, err := gqlparser.LoadSchema(&ast.Source{Input: string(text)})
	require.NoError(t, err)
	for kind, root := range map[string]*ast.Definition{"query": schema.Query, "mutation": schema.Mutation, "subscription": schema.Subscription} {
		for _, f := range root.Fields {
			if len(f.Name) > 2 && f.Name[:2] == "__" {
				continue
			}
			_, ok := s.fields.Load(kind + " " + f.Name)
			require.True(t, ok, "%s %s was never asked for", kind, f.Name)
		}
	}
}

const whole = `id name owner wishDigest metric { id name } predicate { json text } decompositions { name } scope { json text } targets { __typename }
  tags { key value } granularitySeconds state revision createdAt updatedAt expiresAt coverage { expected running pending failed offline }
  problems { status message sources exampleVm }
  vms(first: 10) { edges { cursor node { id uuid host owner tags { key value } } status message } nodes { uuid } pageInfo { hasNextPage endCursor } totalCount }
  hosts(first: 10) { edges { node { id uuid name agent { online capabilities } } vms status message since } nodes { uuid } totalCount }`

// TestWhoFollowsSeesHowSourcesFareWhileTheStateStands follows an instrumentation that is enabled because no agent is there,
// so that an agent's report changes how its sources fare and nothing else.
func TestWhoFollowsSeesHowSourcesFareWhileTheStateStands(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, st *store.Store) {
		s := serve(t, st, nil)
		owner, host := uuid.New(), uuid.New()
		require.NoError(t, s.cloud.PutHost(vmapitest.Host{UUID: host, Hostname: "cn"}))
		vm := placedVM(owner, host, "web", nil)
		require.NoError(t, s.cloud.Put(vm))
		tenant := s.tenant(t, owner)
		id := s.create(t, tenant, map[string]any{"metric": "cpu.usage", "scope": map[string]any{"vms": []any{vm.UUID.String()}}})
		follow := s.subscribe(t, tenant, `subscription($id: ID!) { instrumentationUpdated(id: $id) { state coverage { expected running offline } } }`, map[string]any{"id": id})
		is := func(running, offline float64) func(map[string]any) bool {
			return func(data map[string]any) bool {
				now := at(t, data, "instrumentationUpdated")
				return at(t, now, "state") == "ENABLED" && at(t, now, "coverage", "running") == running && at(t, now, "coverage", "offline") == offline
			}
		}
		follow.until("its source is offline", is(0, 1))

		join := s.mutate(t, "operator", "createJoinToken", "CreateJoinTokenInput", "token", map[string]any{"host": host.String()})["token"]
		agent := at(t, s.must(t, "", agentdoc.ExchangeJoinToken, map[string]any{"input": map[string]any{"token": join, "host": host.String()}}), "exchangeJoinToken", "token").(string)
		version := at(t, s.must(t, agent, `query($h: UUID!) { assignment(host: $h) { version { epoch generation hash } } }`, map[string]any{"h": host.String()}), "assignment", "version").(map[string]any)
		s.must(t, agent, agentdoc.Report, map[string]any{"input": agentdoc.StatusReport{
			Host: host, Session: uuid.New(), Sequence: 1, AgentVersion: "test", Capabilities: []string{"PROCFS"},
			Applied:          &assignment.Version{Epoch: version["epoch"].(string), Generation: int64(version["generation"].(float64)), Hash: version["hash"].(string)},
			Instrumentations: []agentdoc.InstrumentationStatus{{ID: id, Revision: 1, Status: "RUNNING"}},
		}})
		follow.until("its source runs", is(1, 0))
	})
}

// TestEveryOperationOfTheContract goes once through all that the API can do, as its callers would, on both stores.
func TestEveryOperationOfTheContract(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, st *store.Store) {
		s := serve(t, st, nil)
		alice, bob, host, other := uuid.New(), uuid.New(), uuid.New(), uuid.New()
		require.NoError(t, s.cloud.PutHost(vmapitest.Host{UUID: host, Hostname: "cn-secret-1"}, vmapitest.Host{UUID: other, Hostname: "cn-secret-2"}))
		web, db := placedVM(alice, host, "web", map[string]any{"role": "web"}), placedVM(alice, host, "db", map[string]any{"role": "db"})
		foreign := placedVM(bob, host, "foreign", map[string]any{"role": "web"})
		require.NoError(t, s.cloud.Put(web, db, foreign))
		tenant, workflow := s.tenant(t, alice), s.token(t, identity.Workflow, "provision", uuid.Nil, time.Hour)
		cloudapi := s.token(t, identity.Service, "cloudapi", uuid.Nil, time.Hour)
		accepted := func(token, mutation string) {
			t.Helper()
			data := s.must(t, token, `mutation { m: `+mutation+` { accepted userErrors { code message } } }`, nil)
			require.Equal(t, true, at(t, data, "m", "accepted"), "%s: %v", mutation, data)
		}
		accepted("operator", `refreshAll`)
		require.Eventually(t, func() bool {
			data := s.must(t, "operator", `{ hosts { totalCount } }`, nil)
			return at(t, data, "hosts", "totalCount") == 2.0
		}, patience, 20*time.Millisecond)

		// The agent joins; an attempt for another host does not use the token up.
		join := s.mutate(t, "operator", "createJoinToken", "CreateJoinTokenInput", "token", map[string]any{"host": host.String()})["token"]
		exchange := func(of uuid.UUID) any {
			return at(t, s.must(t, "", agentdoc.ExchangeJoinToken, map[string]any{"input": map[string]any{"token": join, "host": of.String()}}), "exchangeJoinToken", "token")
		}
		require.Nil(t, exchange(other))
		agent, _ := exchange(host).(string)
		require.NotEmpty(t, agent)
		require.Nil(t, exchange(host), "once")

		metrics := s.must(t, tenant, `{ metrics(module: "cpu") { id name definition { digest } fields { name arity } } metric(name: "cpu.usage") { id name definition { digest } } limits { instrumentations instrumentationsUsed } }`, nil)
		require.NotEmpty(t, metrics["metrics"])
		digest := at(t, metrics, "metric", "definition", "digest")
		require.NotNil(t, s.must(t, agent, agentdoc.Definition, map[string]any{"digest": digest})["metricDefinition"])

		// What is shown is what is made, once for each key.
		scope := map[string]any{"vmTag": map[string]any{"key": "role", "in": []any{"web"}}}
		preview := s.must(t, tenant, `query($s: ScopeInput!) { previewScope(scope: $s, metric: "cpu.usage") { vmCount hostCount token inventoryAsOf
		  vms { nodes { uuid host } totalCount } hosts { totalCount } problems { message sources } } }`, map[string]any{"s": scope})["previewScope"]
		require.Equal(t, 1.0, at(t, preview, "vmCount"))
		require.Equal(t, web.UUID.String(), at(t, preview, "vms", "nodes", 0, "uuid"))
		require.Nil(t, at(t, preview, "hostCount"))
		input := map[string]any{
			"idempotencyKey": "k", "metric": "cpu.usage", "name": "Web CPU", "decompositions": []any{"cpumode"},
			"predicate": map[string]any{"eq": map[string]any{"field": "cpumode", "value": "user"}}, "scope": scope,
			"tags": []any{map[string]any{"key": "team", "value": "core"}}, "previewToken": at(t, preview, "token"), "ttlSeconds": 3600,
		}
		require.Empty(t, s.must(t, tenant, `query($i: CreateInstrumentationInput!) { checkCreate(input: $i) { code message path } }`, map[string]any{"i": input})["checkCreate"])
		id := s.create(t, tenant, input)
		require.Equal(t, "REVISION_CONFLICT", at(t, s.must(t, tenant, `query($i: UpdateInstrumentationInput!) { checkUpdate(input: $i) { code message path } }`,
			map[string]any{"i": map[string]any{"id": id, "expectedRevision": 9}}), "checkUpdate", 0, "code"))
		require.Equal(t, id, s.create(t, tenant, input), "the same key and content")

		session := uuid.New()
		feed := s.subscribe(t, agent, agentdoc.Assignments, agentdoc.AssignmentsVariables{Host: host, Session: session})
		vmsOf := func(data map[string]any, id string) (out []string, has bool) {
			items, _ := at(t, data, "assignments", "instrumentations").([]any)
			for _, item := range items {
				if at(t, item, "id") == id {
					for _, vm := range at(t, item, "vms").([]any) {
						out = append(out, at(t, vm, "uuid").(string))
					}
					return out, true
				}
			}
			return nil, false
		}
		assigned := feed.until("the assignment", func(data map[string]any) bool { _, has := vmsOf(data, id); return has })
		placed, _ := vmsOf(assigned, id)
		require.Equal(t, []string{web.UUID.String()}, placed)
		current := s.must(t, agent, `query($h: UUID!) { assignment(host: $h) { version { epoch generation hash } instrumentations { id revision } } }`, map[string]any{"h": host.String()})["assignment"]
		version := at(t, current, "version").(map[string]any)

		follow := s.subscribe(t, tenant, `subscription($id: ID!) { instrumentationUpdated(id: $id) { state coverage { expected running } } }`, map[string]any{"id": id})
		sequence := int64(0)
		report := func(status string) {
			t.Helper()
			sequence++
			data := s.must(t, agent, agentdoc.Report, map[string]any{"input": agentdoc.StatusReport{
				Host: host, Session: session, Sequence: sequence, AgentVersion: "test", Capabilities: []string{"PROCFS"},
				Applied:          &assignment.Version{Epoch: version["epoch"].(string), Generation: int64(version["generation"].(float64)), Hash: version["hash"].(string)},
				Instrumentations: []agentdoc.InstrumentationStatus{{ID: id, Revision: 1, Status: status, Message: "on cn-secret-1: /proc is away"}},
			}})
			require.Equal(t, true, at(t, data, "reportAgentStatus", "accepted"))
		}
		report("RUNNING")
		follow.until("it is enabled", func(data map[string]any) bool {
			return at(t, data, "instrumentationUpdated", "state") == "ENABLED" && at(t, data, "instrumentationUpdated", "coverage", "running") == 1.0
		})
		report("FAILED")
		follow.until("it is degraded", func(data map[string]any) bool { return at(t, data, "instrumentationUpdated", "state") == "DEGRADED" })

		// What is shown to whom.
		one := `query($id: ID!) { instrumentation(id: $id) { ` + whole + ` } }`
		seen := s.ask(t, tenant, one, map[string]any{"id": id})
		require.Empty(t, seen.Errors, seen.raw)
		require.NotContains(t, seen.raw, "cn-secret", "tenants read no host's name")
		require.NotContains(t, seen.raw, host.String())
		require.Equal(t, "Measuring failed.", at(t, seen.Data, "instrumentation", "problems", 0, "message"))
		require.Equal(t, web.UUID.String(), at(t, seen.Data, "instrumentation", "problems", 0, "exampleVm"))
		require.Nil(t, at(t, seen.Data, "instrumentation", "hosts"))
		full := s.must(t, "operator", one, map[string]any{"id": id})["instrumentation"]
		require.Contains(t, at(t, full, "problems", 0, "message"), "/proc is away")
		require.Equal(t, "cn-secret-1", at(t, full, "hosts", "edges", 0, "node", "name"))
		why := `query($i: ID!, $h: UUID, $v: UUID) { explainPlacement(instrumentation: $i, host: $h, vm: $v) { placed causes { code message } } }`
		causeOf := func(token string, place map[string]any) any {
			place["i"] = id
			return at(t, s.must(t, token, why, place), "explainPlacement", "causes", 0, "code")
		}
		require.Equal(t, "FAILED", causeOf(tenant, map[string]any{"v": web.UUID.String()}))
		require.Equal(t, "NOT_MATCHED", causeOf(tenant, map[string]any{"v": db.UUID.String()}))
		require.Equal(t, "UNKNOWN_VM", causeOf(tenant, map[string]any{"v": foreign.UUID.String()}))
		require.Equal(t, "OTHER_OWNER", causeOf("operator", map[string]any{"v": foreign.UUID.String()}))
		require.Equal(t, "NOT_MATCHED", causeOf("operator", map[string]any{"h": other.String()}))

		for name, c := range map[string]struct {
			token  string
			filter map[string]any
			want   float64
		}{
			"owner": {cloudapi, map[string]any{"owner": alice.String()}, 1}, "another owner": {cloudapi, map[string]any{"owner": bob.String()}, 0},
			"metric": {tenant, map[string]any{"metric": "cpu.usage"}, 1}, "state": {tenant, map[string]any{"state": []any{"DEGRADED"}}, 1},
			"tags": {tenant, map[string]any{"tags": []any{map[string]any{"key": "team", "value": "core"}}}, 1}, "text": {tenant, map[string]any{"text": "web c"}, 1},
			"vm": {tenant, map[string]any{"vm": web.UUID.String()}, 1}, "another vm": {tenant, map[string]any{"vm": db.UUID.String()}, 0},
			"host": {"operator", map[string]any{"host": host.String()}, 1}, "another host": {"operator", map[string]any{"host": other.String()}, 0},
		} {
			data := s.must(t, c.token, `query($f: InstrumentationFilter) { instrumentations(filter: $f) { nodes { id } totalCount } }`, map[string]any{"f": c.filter})
			require.Equal(t, c.want, at(t, data, "instrumentations", "totalCount"), name)
			require.Len(t, at(t, data, "instrumentations", "nodes"), int(c.want), name)
		}
		ids := []any{id, at(t, metrics, "metric", "id"), at(t, full, "vms", "edges", 0, "node", "id"), at(t, full, "hosts", "edges", 0, "node", "id"), "x-nothing"}
		nodes := s.must(t, tenant, `query($ids: [ID!]!, $id: ID!) { nodes(ids: $ids) { __typename id } node(id: $id) { id } }`, map[string]any{"ids": ids, "id": id})
		require.Nil(t, at(t, nodes, "nodes", 3), "hosts do not exist for tenants")
		require.Nil(t, at(t, nodes, "nodes", 4))
		for i, kind := range []string{"Instrumentation", "Metric", "Vm"} {
			require.Equal(t, kind, at(t, nodes, "nodes", i, "__typename"))
		}
		all := s.must(t, "operator", `query($ids: [ID!]!, $h: UUID!) { nodes(ids: $ids) { __typename } host(uuid: $h) { name agent { version } } guards { id } }`, map[string]any{"ids": ids, "h": host.String()})
		require.Equal(t, "Host", at(t, all, "nodes", 3, "__typename"))
		require.Equal(t, "test", at(t, all, "host", "agent", "version"))

		// Its life.
		update := func(field, kind string, in map[string]any) map[string]any {
			t.Helper()
			p := s.mutate(t, tenant, field, kind, "instrumentation { id revision state name expiresAt }", in)
			require.Empty(t, p["userErrors"])
			return p["instrumentation"].(map[string]any)
		}
		require.Equal(t, 2.0, update("updateInstrumentation", "UpdateInstrumentationInput", map[string]any{"id": id, "expectedRevision": 1, "scope": map[string]any{"all": true}, "ttlSeconds": 7200})["revision"])
		feed.until("all of alice's", func(data map[string]any) bool { vms, _ := vmsOf(data, id); return len(vms) == 2 })
		require.NoError(t, s.cloud.Destroy(db.UUID))
		accepted(workflow, `notifyVmChanged(input: {vm: "`+db.UUID.String()+`", kind: DEPROVISIONED, requestId: "r"})`)
		feed.until("one has gone", func(data map[string]any) bool { vms, has := vmsOf(data, id); return has && len(vms) == 1 })
		require.Equal(t, "PAUSED", update("pauseInstrumentation", "InstrumentationIdInput", map[string]any{"id": id})["state"])
		feed.until("it is paused", func(data map[string]any) bool { _, has := vmsOf(data, id); return !has })
		require.NotEqual(t, "PAUSED", update("resumeInstrumentation", "InstrumentationIdInput", map[string]any{"id": id})["state"])
		feed.until("it is resumed", func(data map[string]any) bool { _, has := vmsOf(data, id); return has })
		update("refreshInstrumentation", "InstrumentationIdInput", map[string]any{"id": id})
		clone := s.mutate(t, tenant, "cloneInstrumentation", "CloneInstrumentationInput", "instrumentation { id name }", map[string]any{"id": id, "name": "another"})
		require.Equal(t, "another", at(t, clone, "instrumentation", "name"))

		// Operators.
		_, err := st.PutGuard(t.Context(), instrumentation.Guard{ID: "g", Reason: "too much", WouldRemove: 9})
		require.NoError(t, err)
		require.Equal(t, "g", at(t, s.must(t, "operator", `{ guards { id reason wouldRemove since } }`, nil), "guards", 0, "id"))
		accepted("operator", `confirmGuard(id: "g")`)
		accepted("operator", `stopTracing(input: {everywhere: true, reason: "test"})`)

		// The end.
		deleted := s.mutate(t, tenant, "deleteInstrumentation", "InstrumentationIdInput", "deletedId", map[string]any{"id": id})
		require.Equal(t, id, deleted["deletedId"])
		feed.until("it is deleted", func(data map[string]any) bool { _, has := vmsOf(data, id); return !has })
		many := func(n int) map[string]any {
			return s.mutate(t, cloudapi, "deleteInstrumentations", "DeleteInstrumentationsInput", "deletedCount", map[string]any{"filter": map[string]any{"owner": alice.String()}, "expectedCount": n})
		}
		require.Equal(t, "COUNT_MISMATCH", at(t, many(5), "userErrors", 0, "code"))
		require.Equal(t, 1.0, many(1)["deletedCount"])
		accepted("operator", `revokeAgent(host: "`+host.String()+`")`)
		require.Equal(t, agentdoc.CloseExpired, feed.closed())
		require.Equal(t, http.StatusUnauthorized, s.ask(t, agent, `{ __typename }`, nil).status)

		// Who did it.
		log := s.must(t, "operator", `{ auditLog(first: 100) { nodes { action caller kind owner subject result at } } }`, nil)
		actions := map[any]bool{}
		for _, e := range at(t, log, "auditLog", "nodes").([]any) {
			actions[at(t, e, "action")] = true
			require.NotEmpty(t, at(t, e, "caller"))
		}
		for _, action := range []string{
			"createInstrumentation", "updateInstrumentation", "cloneInstrumentation", "pauseInstrumentation", "resumeInstrumentation", "refreshInstrumentation",
			"deleteInstrumentation", "deleteInstrumentations", "notifyVmChanged", "refreshAll", "stopTracing", "confirmGuard", "createJoinToken", "exchangeJoinToken", "revokeAgent",
		} {
			require.True(t, actions[action], "%s is not in the audit log", action)
		}
		s.requireAllUsed(t)
	})
}
