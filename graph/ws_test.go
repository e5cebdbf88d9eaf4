package graph_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	gws "github.com/gobwas/ws"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/delivery"
	"iapi/graph"
	"iapi/graph/agentdoc"
	"iapi/instrumentation"
	it "iapi/instrumentation/instrumentationtest"
)

func TestCloseCodes(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t, func(o *graph.Options) { o.Websocket.MaxMessage = 10_000 })
		const begin, forever = `{"type":"connection_init"}`, `{"id":"1","type":"subscribe","payload":{"query":"subscription { instrumentationUpdated(id: \"ID\") { id } }"}}`
		id := a.created(t, "alice", wish())["id"].(string)
		for name, c := range map[string]struct {
			token string
			say   []string
			code  int
		}{
			"subscribe before init":         {"alice", []string{forever}, 4401},
			"second init":                   {"alice", []string{begin, begin}, 4429},
			"init without credentials":      {"", []string{begin}, 4403},
			"init with bad credentials":     {"", []string{`{"type":"connection_init","payload":{"authorization":"Bearer nobody"}}`}, 4403},
			"init with a payload of a list": {"", []string{`{"type":"connection_init","payload":[]}`}, 4400},
			"no JSON":                       {"alice", []string{begin, `nonsense`}, 4400},
			"unknown type":                  {"alice", []string{begin, `{"type":"start"}`}, 4400},
			"no type":                       {"alice", []string{begin, `{}`}, 4400},
			"next from the client":          {"alice", []string{begin, `{"id":"1","type":"next","payload":{}}`}, 4400},
			"empty id":                      {"alice", []string{begin, `{"id":"","type":"subscribe","payload":{"query":"{ __typename }"}}`}, 4400},
			"no payload":                    {"alice", []string{begin, `{"id":"1","type":"subscribe"}`}, 4400},
			"no query":                      {"alice", []string{begin, `{"id":"1","type":"subscribe","payload":{}}`}, 4400},
			"same id twice":                 {"alice", []string{begin, strings.Replace(forever, "ID", id, 1), strings.Replace(forever, "ID", id, 1)}, 4409},
			"too large":                     {"alice", []string{begin, `{"type":"ping","payload":{"x":"` + strings.Repeat("x", 20_000) + `"}}`}, 1009},
			"not UTF-8":                     {"alice", []string{begin, "\"\xff\""}, 1007},
		} {
			t.Run(name, func(t *testing.T) {
				p := a.dial(t, c.token)
				for _, message := range c.say {
					p.say(message)
				}
				code, reason := p.closes()
				require.Equal(t, c.code, code, reason)
			})
		}
		t.Run("no init", func(t *testing.T) {
			a := newAPI(t, func(o *graph.Options) { o.Websocket.InitTimeout = 200 * time.Millisecond })
			code, reason := a.dial(t, "alice").closes()
			require.Equal(t, 4408, code, reason)
		})
		t.Run("another subprotocol", func(t *testing.T) {
			code, _ := a.dial(t, "alice", "graphql-ws").closes()
			require.Equal(t, 4406, code)
		})
		t.Run("binary", func(t *testing.T) {
			p := a.ready(t, "alice")
			require.NoError(t, p.Write(t.Context(), websocket.MessageBinary, []byte(begin)))
			code, _ := p.closes()
			require.Equal(t, 1003, code)
		})
		require.Eventually(t, func() bool { return a.sockets(t) == 0 }, patience, 10*time.Millisecond)
	})
}

func TestHandshakeRefusals(t *testing.T) {
	a := newAPI(t)
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}
	resp, _ := a.do(t, http.MethodGet, "/graphql", "", append(upgrade, "Authorization", "Bearer nobody")...)
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	resp, _ = a.do(t, http.MethodGet, "/graphql", "", append(upgrade, "Authorization", "Bearer alice", "Origin", "https://evil.example.com")...)
	require.Equal(t, http.StatusForbidden, resp.StatusCode)
}

func TestCredentialsMayComeWithInit(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t)
		for _, payload := range []string{`{"authorization":"Bearer alice"}`, `{"Authorization":"Bearer alice"}`, `{"token":"alice"}`} {
			p := a.dial(t, "")
			p.say(`{"type":"connection_init","payload":` + payload + `}`)
			require.JSONEq(t, `{"type":"connection_ack"}`, p.hear())
			p.subscribe("q", `{ limits { instrumentationsUsed } }`, nil)
			require.JSONEq(t, `{"id":"q","type":"next","payload":{"data":{"limits":{"instrumentationsUsed":0}}}}`, p.hear())
			require.JSONEq(t, `{"id":"q","type":"complete"}`, p.hear())
		}
	})
}

func TestAnyOperationRunsOnAWebsocket(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t)
		p := a.ready(t, "alice")
		p.say(`{"type":"ping"}`)
		require.JSONEq(t, `{"type":"pong"}`, p.hear())
		p.say(`{ "type": "ping", "payload": {"a": 1} }`)
		require.JSONEq(t, `{"type":"pong"}`, p.hear())
		p.say(`{"type":"pong"}`)

		p.subscribe(`"quoted"`, create, map[string]any{"input": wish()})
		require.Contains(t, p.hear(), `"type":"next"`)
		require.Equal(t, `{"id":"\"quoted\"","type":"complete"}`, p.hear())

		p.subscribe("v", `{ nothing }`, nil)
		require.Contains(t, p.hear(), `"type":"error"`)
		p.subscribe("v", `{ hosts { totalCount } }`, nil) // the id is free again, and nothing came after the error
		forbidden := p.hear()
		require.Contains(t, forbidden, `"type":"next"`)
		require.Contains(t, forbidden, `FORBIDDEN`)
		require.JSONEq(t, `{"id":"v","type":"complete"}`, p.hear())
		p.say(`{"id":"none","type":"complete"}`)
		p.say(`{"type":"ping"}`)
		require.JSONEq(t, `{"type":"pong"}`, p.hear())
	})
}

func TestFollowingAnInstrumentation(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t)
		id := a.created(t, "alice", wish())["id"].(string)
		p := a.ready(t, "alice")
		const query = `subscription($id: ID!) { instrumentationUpdated(id: $id) { name } }`
		p.subscribe("1", query, map[string]any{"id": id})
		require.Contains(t, p.hear(), `"name":"one"`)
		a.must(t, "alice", `mutation($i: UpdateInstrumentationInput!) { updateInstrumentation(input: $i) { userErrors { code } } }`,
			map[string]any{"i": map[string]any{"id": id, "name": "two"}})
		a.record.changes <- []instrumentation.ID{instrumentation.ID(id)}
		require.Contains(t, p.hear(), `"name":"two"`)
		a.record.changes <- nil // a gap
		require.Contains(t, p.hear(), `"name":"two"`)

		other := a.ready(t, "bob")
		other.subscribe("1", query, map[string]any{"id": id})
		refused := other.hear()
		require.Contains(t, refused, `"type":"error"`)
		require.Contains(t, refused, `NOT_FOUND`)

		p.say(`{"id":"1","type":"complete"}`)
		p.subscribe("1", query, map[string]any{"id": id})
		require.Contains(t, p.hear(), `"name":"two"`)
	})
}

// TestWhoFollowsIsToldOfWhatNoEventTells changes an instrumentation without an event, as when an agent goes offline.
func TestWhoFollowsIsToldOfWhatNoEventTells(t *testing.T) {
	a := newAPI(t, func(o *graph.Options) { o.Recheck = 2 * time.Millisecond })
	id := a.created(t, "alice", wish())["id"].(string)
	p := a.ready(t, "alice")
	p.subscribe("1", `subscription($id: ID!) { instrumentationUpdated(id: $id) { name } }`, map[string]any{"id": id})
	require.Contains(t, p.hear(), `"name":"one"`)
	looks := a.calls()["Get"] + 3
	require.Eventually(t, func() bool { return a.calls()["Get"] > looks }, patience, time.Millisecond)
	p.say(`{"type":"ping"}`)
	require.Contains(t, p.hear(), `"pong"`, "nothing has changed, so nothing was told")
	a.must(t, "alice", `mutation($i: UpdateInstrumentationInput!) { updateInstrumentation(input: $i) { userErrors { code } } }`,
		map[string]any{"i": map[string]any{"id": id, "name": "two"}})
	require.Contains(t, p.hear(), `"name":"two"`)
}

func TestOperationsOfAConnectionAreLimited(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t, func(o *graph.Options) { o.Websocket.MaxOperations = 2 })
		id := a.created(t, "alice", wish())["id"].(string)
		p := a.ready(t, "alice")
		for i := range 3 {
			p.subscribe(fmt.Sprint(i), `subscription($id: ID!) { instrumentationUpdated(id: $id) { name } }`, map[string]any{"id": id})
		}
		refused := 0
		for range 3 {
			if m := p.hear(); strings.Contains(m, "RATE_LIMITED") {
				require.Contains(t, m, `"id":"2"`)
				refused++
			}
		}
		require.Equal(t, 1, refused)
	})
}

// What agents get from stored bytes is byte for byte what the executor would answer.
func TestCanonicalBytesAreWhatTheExecutorAnswers(t *testing.T) {
	a := newAPI(t, func(o *graph.Options) {
		o.Clock = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC) }
	})
	all := items()
	for name, list := range map[string][]assignment.Item{"everything": all, "nothing": nil} {
		host := uuid.New()
		v := a.serve(host, list)
		for what, known := range map[string]*assignment.Version{"document": nil, "bookmark": &v} {
			t.Run(name+" "+what, func(t *testing.T) {
				frames := make(map[string]string)
				for path, query := range map[string]string{"stored": agentdoc.Assignments, "executor": agentdoc.Assignments + " "} {
					p := a.ready(t, a.agent(host))
					p.subscribe("op", query, agentdoc.AssignmentsVariables{Host: host, Session: uuid.New(), Known: known})
					frames[path] = p.hear()
					var message struct {
						Payload struct{ Data agentdoc.AssignmentsData }
					}
					require.NoError(t, json.Unmarshal([]byte(frames[path]), &message))
					event := message.Payload.Data.Assignments
					require.Equal(t, v, event.Version)
					if known == nil {
						require.Equal(t, agentdoc.TypeAssignment, event.TypeName)
						require.Len(t, event.Instrumentations, len(list))
						require.Contains(t, frames[path], `"sentAt":"2026-01-02T03:04:05.678Z"`)
					} else {
						require.Equal(t, agentdoc.TypeBookmark, event.TypeName)
					}
				}
				require.Equal(t, frames["executor"], frames["stored"])
			})
		}
	}
}

func TestAgentsAreFedAndResume(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t)
		host, session := uuid.New(), uuid.New()
		a.serve(host, items())
		p := a.ready(t, a.agent(host))
		p.subscribe("a", agentdoc.Assignments, known(host, session, nil))
		require.Contains(t, p.hear(), `"generation":1`)
		v := a.serve(host, nil)
		require.Contains(t, p.hear(), `"generation":2`)
		again := a.ready(t, a.agent(host))
		before := a.source.Calls("Documents")
		again.subscribe("a", agentdoc.Assignments, known(host, session, &v))
		frame := again.hear()
		require.Contains(t, frame, agentdoc.TypeBookmark)
		require.Less(t, len(frame), 300)
		require.Equal(t, before, a.source.Calls("Documents"))
		code, reason := p.closes()
		require.Equal(t, agentdoc.CloseSuperseded, code)
		require.Equal(t, agentdoc.ReasonSuperseded, reason)

		again.subscribe("r", agentdoc.Report, agentdoc.ReportVariables{Input: agentdoc.StatusReport{
			Host: host, Session: session, AgentVersion: "1", Capabilities: []string{}, Instrumentations: []agentdoc.InstrumentationStatus{},
		}})
		require.Contains(t, again.hear(), `"accepted":true`)
		require.JSONEq(t, `{"id":"r","type":"complete"}`, again.hear())
		again.say(`{"id":"a","type":"complete"}`)
		require.Eventually(t, func() bool { return a.hub.Stats().Connected == 0 }, patience, time.Millisecond)
	})
}

func TestErrorsOfTheFeed(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t, func(o *graph.Options) { o.Websocket.Farewell = time.Hour }) // the feed has to say why
		for _, query := range []string{agentdoc.Assignments, agentdoc.Assignments + " "} {
			host := uuid.New() // who comes while a revocation is still being told is refused, too
			subscribe := func(token string, host uuid.UUID) (*peer, string) {
				p := a.ready(t, token)
				p.subscribe("a", query, known(host, uuid.New(), nil))
				return p, p.hear()
			}
			for token, code := range map[string]string{a.agent(uuid.New()): "FORBIDDEN", "alice": "FORBIDDEN"} {
				_, frame := subscribe(token, host)
				require.Contains(t, frame, `"type":"error"`)
				require.Contains(t, frame, code)
			}
			cold := uuid.New()
			_, frame := subscribe(a.agent(cold), cold)
			require.Contains(t, frame, "NOT_FOUND")
			a.source.Know(cold)
			_, frame = subscribe(a.agent(cold), cold)
			require.Contains(t, frame, "NOT_READY")
			require.Contains(t, frame, "retryAfterSeconds")

			a.serve(host, nil)
			old, _ := subscribe(a.agent(host), host)
			_, frame = subscribe(a.agent(host), host)
			require.Contains(t, frame, `"type":"next"`)
			require.Contains(t, old.hear(), "SUPERSEDED")
			code, _ := old.closes()
			require.Equal(t, agentdoc.CloseSuperseded, code)
			revoked, frame := subscribe(a.agent(host), host)
			require.Contains(t, frame, `"type":"next"`)
			a.source.Publish(delivery.Change{Host: host, Kind: delivery.Revoke})
			require.Contains(t, revoked.hear(), "FORBIDDEN")
			code, _ = revoked.closes()
			require.Equal(t, agentdoc.CloseExpired, code)
		}
		p := a.ready(t, a.agent(uuid.New()))
		p.subscribe("a", agentdoc.Assignments, map[string]any{"host": "nonsense", "session": uuid.New()})
		require.Contains(t, p.hear(), "BAD_REQUEST")
	})
}

func TestAnExpiredCredentialEndsTheConnection(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		var late atomic.Bool
		a := newAPI(t, func(o *graph.Options) {
			o.Clock = func() time.Time {
				if late.Load() {
					return time.Now().Add(2 * time.Hour)
				}
				return time.Now()
			}
		})
		c := it.Tenant(alice)
		c.Expires = time.Now().Add(time.Hour)
		p := a.ready(t, a.tokens.put("short", c))
		p.say(`{"type":"ping"}`)
		require.JSONEq(t, `{"type":"pong"}`, p.hear())
		late.Store(true)
		code, _ := p.closes()
		require.Equal(t, agentdoc.CloseExpired, code)
	})
}

func TestNothingStaysBehind(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t)
		id := a.created(t, "alice", wish())["id"].(string)
		visit := func() {
			host := uuid.New()
			a.serve(host, items())
			p := a.ready(t, a.agent(host))
			p.subscribe("a", agentdoc.Assignments, known(host, uuid.New(), nil))
			p.hear()
			generic := a.ready(t, a.agent(host))
			generic.subscribe("b", agentdoc.Assignments+" ", known(host, uuid.New(), nil))
			generic.hear()
			follower := a.ready(t, "alice")
			follower.subscribe("c", `subscription($id: ID!) { instrumentationUpdated(id: $id) { name } }`, map[string]any{"id": id})
			follower.hear()
			_ = p.CloseNow()
			_ = generic.CloseNow()
			require.NoError(t, follower.Close(1000, ""))
		}
		// What the hub or the first visitors start for all may start late, once. What visitors leave behind comes with each
		// round. It is counted here rather than by require.Eventually, which has a goroutine of its own.
		report := ""
		for round := range 3 {
			visit()
			require.Eventually(t, func() bool { return a.sockets(t) == 0 && a.hub.Stats().Connected == 0 }, patience, 5*time.Millisecond)
			http.DefaultClient.CloseIdleConnections()
			before, were := runtime.NumGoroutine(), goroutines()
			for range 20 {
				visit()
			}
			if assertEventually(func() bool {
				http.DefaultClient.CloseIdleConnections()
				return runtime.NumGoroutine() <= before && a.hub.Stats().Connected == 0
			}) {
				return
			}
			report += fmt.Sprintf("round %d: %d goroutines before, then %d, %d connected\n\nbefore: %s\n\nthen: %s\n\n", round, before,
				runtime.NumGoroutine(), a.hub.Stats().Connected, were, goroutines())
		}
		require.Fail(t, "something stays behind", report)
	})
}

// goroutines are the stacks of all goroutines, equal ones counted.
func goroutines() string {
	var b strings.Builder
	_ = pprof.Lookup("goroutine").WriteTo(&b, 1) // a Builder never fails
	return b.String()
}

func TestAnIdleAgentCostsAtMostOneGoroutine(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t)
		const n, shared = 50, 5 // the hub and the server may start some for all late
		before := 0
		for i := range n + 1 {
			host := uuid.New()
			a.serve(host, nil)
			conn := a.raw(t, a.agent(host))
			say(t, conn, subscription("a", known(host, uuid.New(), nil)))
			_, err := gws.ReadFrame(conn)
			require.NoError(t, err)
			if i == 0 {
				before = runtime.NumGoroutine()
			}
		}
		most := n + shared
		if runtime.GOOS == "linux" && strings.HasSuffix(t.Name(), "/poller") {
			most = shared
		}
		if !assertEventually(func() bool { return runtime.NumGoroutine()-before <= most }) {
			require.Fail(t, "too many goroutines", "%d before, now %d\n%s", before, runtime.NumGoroutine(), goroutines())
		}
	})
}

func assertEventually(ok func() bool) bool {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return false
}

func TestShutdownTellsEachPeerWhenToComeBack(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t, func(o *graph.Options) { o.Websocket.RestartWindow, o.Websocket.CloseTimeout = time.Second, patience })
		const n = 10
		peers := make([]*peer, n)
		for i := range peers {
			peers[i] = a.ready(t, "alice")
		}
		done := make(chan error)
		go func() { done <- a.server.Shutdown(t.Context()) }()
		seen := make(map[time.Duration]bool)
		for _, p := range peers {
			code, reason := p.closes()
			require.Equal(t, agentdoc.CloseRestarting, code)
			after, err := time.ParseDuration(strings.TrimPrefix(reason, agentdoc.RetryPrefix))
			require.NoError(t, err)
			require.LessOrEqual(t, after, time.Second)
			seen[after] = true
		}
		require.Len(t, seen, n, "spread over the window")
		require.NoError(t, <-done)
		resp, _ := a.do(t, http.MethodGet, "/graphql", "", "Connection", "Upgrade", "Upgrade", "websocket")
		require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	})
}

func TestAgentsAreSentAwayWhenTheFeedEnds(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t)
		host := uuid.New()
		a.serve(host, nil)
		p := a.ready(t, a.agent(host))
		p.subscribe("a", agentdoc.Assignments, known(host, uuid.New(), nil))
		p.hear()
		a.hub.Close()
		code, reason := p.closes()
		require.Equal(t, agentdoc.CloseRestarting, code)
		require.Contains(t, reason, agentdoc.RetryPrefix)
	})
}

func TestABodyThatTricklesInIsGivenUp(t *testing.T) {
	a := newAPI(t, func(o *graph.Options) { o.Limits.Timeout = 200 * time.Millisecond })
	conn, err := net.Dial("tcp", a.http.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	raw, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(raw), "400 Bad Request")
}
