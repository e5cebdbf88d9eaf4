package graph_test

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	gws "github.com/gobwas/ws"
	"github.com/stretchr/testify/require"

	"iapi/graph"
	"iapi/instrumentation"
	it "iapi/instrumentation/instrumentationtest"
)

// follows subscribes to an instrumentation by a connection of which nothing is read unless the test does. An event is large, so
// that few fit into what lies between the server and a peer that does not read.
func (a *door) follows(t *testing.T, id instrumentation.ID) net.Conn {
	const large = 64 << 10
	document := len(at(t, a.must(t, "alice", `query($id: ID!) { instrumentation(id: $id) { metric { definition { document } } } }`,
		map[string]any{"id": id}), "instrumentation", "metric", "definition", "document").(string))
	var query strings.Builder
	query.WriteString(`subscription($id: ID!) { instrumentationUpdated(id: $id) { revision name`)
	for i := range large/document + 1 {
		fmt.Fprintf(&query, ` d%d: metric { definition { document } }`, i)
	}
	query.WriteString(` } }`)
	payload, err := json.Marshal(map[string]any{"query": query.String(), "variables": map[string]any{"id": id}})
	require.NoError(t, err)
	a.buffer = 8 * large
	conn := a.raw(t, "alice")
	say(t, conn, `{"id":"f","type":"subscribe","payload":`+string(payload)+`}`)
	return conn
}

// heard reads a message of a connection of follows: an event, with the revision and the name that it tells, or a pong.
func heard(t *testing.T, conn net.Conn) (kind string, revision int, name string) {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	for {
		f, err := gws.ReadFrame(conn)
		require.NoError(t, err)
		if f.Header.OpCode != gws.OpText {
			continue
		}
		var m struct {
			Type    string
			Payload struct {
				Data struct {
					InstrumentationUpdated struct {
						Revision int
						Name     string
					}
				}
			}
		}
		require.NoError(t, json.Unmarshal(f.Payload, &m), "%s", f.Payload)
		now := m.Payload.Data.InstrumentationUpdated
		return m.Type, now.Revision, now.Name
	}
}

// A portal that reads nothing while an instrumentation changes a thousand times is told of few of the changes, in their order,
// and of the last of them. Meanwhile another that reads is told at once.
func TestASlowPortalIsToldTheNewestState(t *testing.T) {
	const changes = 1000
	a := newAPI(t, func(o *graph.Options) { o.Websocket.WriteTimeout, o.Websocket.PingEvery = time.Hour, time.Hour }).door() // it is slow, and not gone
	id := instrumentation.ID(a.created(t, "alice", wish())["id"].(string))
	slow := a.follows(t, id)
	_, first, _ := heard(t, slow)
	reads := a.ready(t, "alice")
	reads.subscribe("1", `subscription($id: ID!) { instrumentationUpdated(id: $id) { name } }`, map[string]any{"id": id})
	require.Contains(t, reads.hear(), `"name":"one"`)

	name := ""
	for i := range changes {
		name = fmt.Sprintf("name %d", i)
		_, err := a.Service.Update(t.Context(), it.Tenant(alice), instrumentation.UpdateInput{ID: id, Name: instrumentation.Some(name)})
		require.NoError(t, err)
		a.record.changes <- []instrumentation.ID{id}
		if i%100 == 0 {
			for !strings.Contains(reads.hear(), `"`+name+`"`) { // it may be told of those before as well
			}
		}
	}
	told, last, newest := 0, first, ""
	for newest != name {
		var revision int
		_, revision, newest = heard(t, slow)
		require.GreaterOrEqual(t, revision, last, "never back")
		last = revision
		told++
	}
	require.Equal(t, first+changes, last)
	require.Less(t, told, changes/4, "changes that wait together are told together")
	again := 0
	for range 20 {
		say(t, slow, `{"type":"ping"}`)
		kind, _, _ := heard(t, slow)
		for ; kind != "pong"; again++ {
			kind, _, _ = heard(t, slow)
		}
	}
	require.LessOrEqual(t, again, 2, "then it is quiet, but for a change that came while the newest state was read")
}
