package graph_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/graph"
	"iapi/graph/agentdoc"
	"iapi/identity"
	"iapi/instrumentation"
)

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
	j.err = fmt.Errorf("redis-7: %w", instrumentation.ErrNotReady)
	require.Equal(t, "NOT_READY", a.ask(t, "", agentdoc.ExchangeJoinToken, vars).code())
	j.err = errors.New("redis-7: broken")
	require.Equal(t, "INTERNAL", a.ask(t, "", agentdoc.ExchangeJoinToken, vars).code())
	malformed := map[string]any{"input": map[string]any{"token": token, "host": host.String(), "credential": "iapia_x"}}
	require.Equal(t, "TYPE_MISMATCH", at(t, a.must(t, "", agentdoc.ExchangeJoinToken, malformed), "exchangeJoinToken", "userErrors", 0, "code"))
	log := a.must(t, "operator", `{ auditLog(first: 6) { nodes { caller action result } } }`, nil)
	require.Equal(t, []any{
		map[string]any{"caller": "nobody", "action": "exchangeJoinToken", "result": "TYPE_MISMATCH"},
		map[string]any{"caller": "nobody", "action": "exchangeJoinToken", "result": "FAILED"},
		map[string]any{"caller": "nobody", "action": "exchangeJoinToken", "result": "NOT_READY"},
		map[string]any{"caller": "nobody", "action": "exchangeJoinToken", "result": "NOT_FOUND"},
		map[string]any{"caller": "nobody", "action": "exchangeJoinToken", "result": "NOT_FOUND"},
		map[string]any{"caller": "agent:" + host.String(), "action": "exchangeJoinToken", "result": "ok"},
	}, at(t, log, "auditLog", "nodes"))
	closed := newAPI(t)
	require.Equal(t, "FORBIDDEN", closed.ask(t, "", agentdoc.ExchangeJoinToken, vars).code())
	require.Equal(t, "exchangeJoinToken FORBIDDEN", closed.Store.Entries()[0].Action+" "+closed.Store.Entries()[0].Result)
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
