package graph_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/graph"
	"iapi/instrumentation"
)

// turnstile is a Limiter that holds operations up, whether or not anybody still wants their answers.
type turnstile struct {
	inside  atomic.Int64
	release chan struct{}
}

func (h *turnstile) Allow(context.Context, string, int) (bool, time.Duration, error) {
	h.inside.Add(1)
	<-h.release
	return true, 0, nil
}

// Who ends an operation that does not stop at once has not got its place back for another.
func TestAnOperationHoldsItsPlaceUntilItHasReturned(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		hold := &turnstile{release: make(chan struct{})}
		a := newAPI(t, func(o *graph.Options) { o.Websocket.MaxOperations, o.Limiter = 2, hold })
		p := a.ready(t, "alice")
		const query = `{ limits { instrumentationsUsed } }`
		for i := range 2 {
			p.subscribe(fmt.Sprint(i), query, nil)
		}
		require.Eventually(t, func() bool { return hold.inside.Load() == 2 }, patience, time.Millisecond)
		for i := range 2 {
			p.say(fmt.Sprintf(`{"id":"%d","type":"complete"}`, i))
		}
		p.subscribe("more", query, nil)
		require.Contains(t, p.hear(), "RATE_LIMITED")
		require.EqualValues(t, 2, hold.inside.Load())

		close(hold.release)
		both := func() bool { // whoever waits for the answers has a place for each
			refused := false
			for n := range 2 {
				p.subscribe(fmt.Sprint("again ", n), query, nil)
			}
			for ended := 0; ended < 2; {
				said := p.hear()
				refused = refused || strings.Contains(said, "RATE_LIMITED")
				if strings.Contains(said, `"complete"`) || strings.Contains(said, `"error"`) {
					ended++
				}
			}
			return !refused
		}
		for !both() { // those that were held have not returned yet
		}
		for range 10 {
			require.True(t, both())
		}
	})
}

func TestAQueryHasTheSameTimeOnAWebsocket(t *testing.T) {
	a := newAPI(t, func(o *graph.Options) { o.Limits.Timeout = 50 * time.Millisecond })
	a.counts.hold(true)
	const query = `{ instrumentations { totalCount } }`
	over := a.ask(t, "alice", query, nil)
	require.Equal(t, "NOT_READY", over.code(), over.raw)
	p := a.ready(t, "alice")
	p.subscribe("q", query, nil)
	said := p.hear()
	require.Contains(t, said, `"NOT_READY"`)
	require.Contains(t, said, "This took too long")
	require.JSONEq(t, `{"id":"q","type":"complete"}`, p.hear())

	a.counts.hold(false)
	id := a.created(t, "alice", wish())["id"].(string)
	p.subscribe("s", `subscription($id: ID!) { instrumentationUpdated(id: $id) { name } }`, map[string]any{"id": id})
	require.Contains(t, p.hear(), `"name":"one"`)
	a.counts.hold(true)
	require.Equal(t, "NOT_READY", a.ask(t, "alice", query, nil).code(), "the time has passed once more")
	a.must(t, "alice", `mutation($i: UpdateInstrumentationInput!) { updateInstrumentation(input: $i) { userErrors { code } } }`,
		map[string]any{"i": map[string]any{"id": id, "name": "two"}})
	a.record.changes <- []instrumentation.ID{instrumentation.ID(id)}
	for !strings.Contains(p.hear(), `"name":"two"`) { // the subscription has not ended
	}
	p.say(`{"id":"s","type":"complete"}`)
}
