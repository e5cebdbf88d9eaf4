package graph_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/graph/agentdoc"
	"iapi/instrumentation"
)

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
	hosts, _ := a.Fleet(1, alice)
	vm, host := uuid.New().String(), hosts[0].UUID.String()
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
	for path, mutation := range map[string]string{
		"host":          `revokeAgent(host: "` + vm + `")`,
		"input hosts 1": `stopTracing(input: {hosts: ["` + host + `", "` + vm + `"], reason: "fire"})`,
	} {
		name, _, _ := strings.Cut(mutation, "(")
		unknown := a.must(t, "operator", `mutation { `+mutation+` { accepted userErrors { code message path } } }`, nil)[name]
		require.Equal(t, false, at(t, unknown, "accepted"))
		require.Equal(t, "NOT_FOUND", at(t, unknown, "userErrors", 0, "code"))
		require.Equal(t, "["+path+"]", fmt.Sprint(at(t, unknown, "userErrors", 0, "path")))
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
