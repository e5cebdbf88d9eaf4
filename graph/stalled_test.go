package graph_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	gws "github.com/gobwas/ws"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/delivery"
	"iapi/graph"
	"iapi/graph/agentdoc"
	"iapi/instrumentation"
)

// Agents and a portal that read nothing, whose frames are stuck half sent, hold up nobody: everything that the API does beside
// them is done as ever, long before they are given up.
func TestPeersThatReadNothingHoldUpNobody(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		const lanes = 4 // of the feed; a host's last byte decides
		a := newAPI(t, func(o *graph.Options) { o.Websocket.WriteTimeout, o.Websocket.PingEvery = 3*time.Minute, time.Hour })
		large := fmt.Sprintf(`["%s"]`, strings.Repeat("x", 2<<20))
		in := func(lane byte) uuid.UUID {
			host := uuid.New()
			host[15] = lane
			return host
		}
		id := instrumentation.ID(a.created(t, "alice", wish())["id"].(string))
		a.follows(t, id)
		var stalled, healthy []uuid.UUID
		var peers []*peer
		for lane := range byte(lanes) {
			host := in(lane)
			a.source.Commit(host, `[]`)
			a.buffer = 4096
			conn := a.raw(t, a.agent(host))
			say(t, conn, subscription("a", known(host, uuid.New(), nil)))
			_, err := gws.ReadFrame(conn) // and nothing after it
			require.NoError(t, err)
			stalled = append(stalled, host)

			host = in(lane)
			a.source.Commit(host, `[]`)
			p := a.ready(t, a.agent(host))
			p.subscribe("a", agentdoc.Assignments, known(host, uuid.New(), nil))
			p.hear()
			healthy, peers = append(healthy, host), append(peers, p)
		}
		for range 4 { // more than lies between the server and a peer
			before := a.hub.Stats().Delivered
			a.source.CommitAll(stalled, large)
			require.Eventually(t, func() bool { return a.hub.Stats().Delivered >= before+lanes }, patience, time.Millisecond)
			a.record.changes <- []instrumentation.ID{id}
		}

		for range 3 {
			a.source.CommitAll(healthy, `["news"]`)
			for _, p := range peers {
				require.Contains(t, p.hear(), "news")
				p.say(`{"type":"ping"}`)
				require.JSONEq(t, `{"type":"pong"}`, p.hear())
			}
		}
		newcomer := in(0)
		a.source.Commit(newcomer, `["first"]`)
		p := a.ready(t, a.agent(newcomer))
		p.subscribe("a", agentdoc.Assignments, known(newcomer, uuid.New(), nil))
		require.Contains(t, p.hear(), "first")
		report := map[string]any{"input": agentdoc.StatusReport{Host: newcomer, Session: a.source.Session(newcomer), AgentVersion: "1",
			Capabilities: []string{}, Instrumentations: []agentdoc.InstrumentationStatus{}}}
		require.Equal(t, true, at(t, a.must(t, a.agent(newcomer), agentdoc.Report, report), "reportAgentStatus", "accepted"))
		a.must(t, "operator", `{ hosts(first: 1) { totalCount } instrumentations(first: 1) { totalCount } }`, nil)
		follower := a.ready(t, "alice")
		follower.subscribe("1", `subscription($id: ID!) { instrumentationUpdated(id: $id) { name } }`, map[string]any{"id": id})
		require.Contains(t, follower.hear(), `"name":"one"`)

		// They are superseded and revoked as ever, too.
		heir := a.ready(t, a.agent(stalled[0]))
		heir.subscribe("a", agentdoc.Assignments, known(stalled[0], uuid.New(), nil))
		require.Contains(t, heir.hear(), "xxx")
		connected := a.hub.Stats().Connected
		a.source.Publish(delivery.Change{Host: stalled[1], Kind: delivery.Revoke})
		require.Eventually(t, func() bool { return a.hub.Stats().Connected == connected-1 }, patience, time.Millisecond)
	})
}

// A shutdown lasts no longer than the window over which it spreads the agents, however long one that reads nothing has to take a
// frame.
func TestAStalledPeerDoesNotProlongAShutdown(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t, func(o *graph.Options) {
			o.Websocket.WriteTimeout, o.Websocket.PingEvery, o.Websocket.CloseTimeout = time.Hour, time.Hour, 50*time.Millisecond
		})
		host := uuid.New()
		a.source.Commit(host, `[]`)
		a.buffer = 4096
		conn := a.raw(t, a.agent(host))
		say(t, conn, subscription("a", known(host, uuid.New(), nil)))
		_, err := gws.ReadFrame(conn) // and nothing after it
		require.NoError(t, err)
		large := fmt.Sprintf(`["%s"]`, strings.Repeat("x", 2<<20))
		for range 4 { // more than lies between the server and a peer
			before := a.hub.Stats().Delivered
			a.source.CommitAll([]uuid.UUID{host}, large)
			require.Eventually(t, func() bool { return a.hub.Stats().Delivered > before }, patience, time.Millisecond)
		}
		done := make(chan error, 1)
		go func() { done <- a.server.Shutdown(t.Context()) }()
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(patience):
			require.Fail(t, "it does not end")
		}
	})
}
