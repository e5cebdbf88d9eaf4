package graph_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/graph"
	"iapi/graph/agentdoc"
	it "iapi/instrumentation/instrumentationtest"
)

// Whichever way the API's clock jumps, agents stay connected and are served, for nothing but a credential has an end by that
// clock; and who has one is told to go when it is time, and only then.
func TestAClockThatJumpsEndsCredentialsAndNothingElse(t *testing.T) {
	var off atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
	a := newAPI(t, func(o *graph.Options) { o.Clock = clock }).door()
	host := uuid.New()
	a.serve(host, nil)
	agent := a.ready(t, a.agent(host))
	agent.subscribe("a", agentdoc.Assignments, known(host, uuid.New(), nil))
	require.Contains(t, agent.hear(), `"generation":1`)
	c := it.Tenant(alice)
	c.Expires = clock().Add(time.Hour)
	portal := a.ready(t, a.tokens.put("an hour", c))
	for _, by := range []time.Duration{-24 * time.Hour, 24*time.Hour + 30*time.Minute, -20 * time.Minute} {
		off.Add(int64(by))
		a.serve(host, items()[:1])
		require.Contains(t, agent.hear(), agentdoc.TypeAssignment)
		a.serve(host, nil)
		require.Contains(t, agent.hear(), agentdoc.TypeAssignment)
		portal.say(`{"type":"ping"}`)
		require.JSONEq(t, `{"type":"pong"}`, portal.hear())
	}
	off.Add(int64(2 * time.Hour))
	code, _ := portal.closes()
	require.Equal(t, agentdoc.CloseExpired, code)
	off.Add(int64(-2 * time.Hour))
	a.serve(host, items()[:1])
	require.Contains(t, agent.hear(), agentdoc.TypeAssignment)
	require.Equal(t, 1, a.sockets(t))
}
