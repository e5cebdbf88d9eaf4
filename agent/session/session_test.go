package session

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/graph/agentdoc"
)

var testHost = uuid.MustParse("7b1f2c3d-0000-4000-8000-000000000001")

// api is a server that speaks the agents' protocol as the test tells it to.
type api struct {
	*httptest.Server
	// conversation handles one subscription; the connection ends when it returns. nil: websockets do not pass.
	conversation atomic.Pointer[func(c *conversation)]
	polls        atomic.Pointer[http.HandlerFunc]
	reports      chan agentdoc.StatusReport
	upgrades     atomic.Int64
}

// conversation is the server's end of one subscription.
type conversation struct {
	t         *testing.T
	ctx       context.Context
	conn      *websocket.Conn
	variables agentdoc.AssignmentsVariables
	header    http.Header
}

func (c *conversation) send(raw string) {
	_ = c.conn.Write(c.ctx, websocket.MessageText, []byte(raw))
}

func (c *conversation) assign(epoch string, generation int64, hash string) {
	c.send(fmt.Sprintf(`{"id":"a","type":"next","payload":{"data":{"assignments":{"__typename":"Assignment","host":%q,
		"version":{"epoch":%q,"generation":%d,"hash":%q},"sentAt":"2026-01-01T00:00:00.000Z","instrumentations":[]}}}}`,
		testHost, epoch, generation, hash))
}

// hold keeps the connection, answering what the agent sends, until it ends.
func (c *conversation) hold(reports chan<- agentdoc.StatusReport) {
	for {
		_, raw, err := c.conn.Read(c.ctx)
		if err != nil {
			return
		}
		var f frame
		_ = json.Unmarshal(raw, &f)
		switch f.Type {
		case "ping":
			c.send(`{"type":"pong"}`)
		case "subscribe":
			var op struct {
				Variables agentdoc.ReportVariables `json:"variables"`
			}
			_ = json.Unmarshal(f.Payload, &op)
			reports <- op.Variables.Input
			c.send(`{"id":"` + f.ID + `","type":"next","payload":{"data":{"reportAgentStatus":{"accepted":true,"superseded":false,"nextReportSeconds":7}}}}`)
			c.send(`{"id":"` + f.ID + `","type":"complete"}`)
		}
	}
}

func newAPI(t *testing.T, handle func(c *conversation)) *api {
	a := &api{reports: make(chan agentdoc.StatusReport, 100)}
	if handle != nil {
		a.conversation.Store(&handle)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /graphql", func(w http.ResponseWriter, r *http.Request) {
		a.upgrades.Add(1)
		handle := a.conversation.Load()
		if handle == nil {
			http.Error(w, "no websockets here", http.StatusBadGateway)
			return
		}
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{agentdoc.Subprotocol}})
		if err != nil {
			return
		}
		defer conn.CloseNow()
		c := &conversation{t: t, ctx: r.Context(), conn: conn, header: r.Header}
		if _, _, err := conn.Read(c.ctx); err != nil { // connection_init
			return
		}
		c.send(`{"type":"connection_ack"}`)
		_, raw, err := conn.Read(c.ctx)
		if err != nil {
			return
		}
		var f struct {
			Payload struct {
				Query     string                        `json:"query"`
				Variables agentdoc.AssignmentsVariables `json:"variables"`
			} `json:"payload"`
		}
		_ = json.Unmarshal(raw, &f)
		if f.Payload.Query != agentdoc.Assignments {
			t.Errorf("the agent subscribes with another document: %s", f.Payload.Query)
		}
		c.variables = f.Payload.Variables
		(*handle)(c)
	})
	mux.HandleFunc("GET /agents/{host}/assignment", func(w http.ResponseWriter, r *http.Request) {
		if h := a.polls.Load(); h != nil {
			(*h)(w, r)
			return
		}
		http.NotFound(w, r)
	})
	a.Server = httptest.NewServer(mux)
	t.Cleanup(a.Server.Close)
	return a
}

// start runs a session against servers until the test ends, and returns the assignments that it hands over.
func start(t *testing.T, o Options, know Version) (*Session, chan Assignment) {
	o.Host = testHost
	s, err := New(o)
	require.NoError(t, err)
	s.Know(know)
	got := make(chan Assignment, 100)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx, func(a Assignment) { got <- a })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return s, got
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(time.Minute):
		t.Fatal("nothing arrived")
		panic("unreachable")
	}
}

func TestSessionResumesWithWhatItKnows(t *testing.T) {
	variables := make(chan agentdoc.AssignmentsVariables, 10)
	a := newAPI(t, nil)
	handle := func(c *conversation) {
		variables <- c.variables
		if c.variables.Known == nil {
			c.assign("0000000000000001", 4, "h4")
			return // cut: the agent comes back
		}
		c.send(`{"id":"a","type":"next","payload":{"data":{"assignments":{"__typename":"AssignmentBookmark","version":{"epoch":"0000000000000001","generation":4,"hash":"h4"}}}}}`)
		c.hold(a.reports)
	}
	a.conversation.Store(&handle)
	_, got := start(t, Options{Servers: []string{a.URL}}, Version{})

	first := receive(t, variables)
	require.Nil(t, first.Known)
	require.Equal(t, int64(4), receive(t, got).Version.Generation)
	second := receive(t, variables)
	require.Equal(t, &Version{Epoch: "0000000000000001", Generation: 4, Hash: "h4"}, second.Known)
	require.Equal(t, first.Session, second.Session, "the session keeps its name, so that a reconnect takes over")
	require.Empty(t, got)
}

// Nomad issue 18267: a lagging server answered with an older assignment, and the agent stopped its work.
func TestSessionRefusesWhatIsNotNewer(t *testing.T) {
	a := newAPI(t, nil)
	handle := func(c *conversation) {
		for _, v := range []struct {
			epoch string
			gen   int64
		}{{"0000000000000002", 5}, {"0000000000000002", 4}, {"0000000000000001", 9}, {"0000000000000002", 5}, {"0000000000000002", 6}, {"0000000000000003", 1}} {
			c.assign(v.epoch, v.gen, "h")
		}
		c.hold(a.reports)
	}
	a.conversation.Store(&handle)
	_, got := start(t, Options{Servers: []string{a.URL}}, Version{})
	var seen []string
	for range 3 {
		v := receive(t, got).Version
		seen = append(seen, fmt.Sprintf("%s.%d", v.Epoch[15:], v.Generation))
	}
	require.Equal(t, []string{"2.5", "2.6", "3.1"}, seen)
	require.Empty(t, got)
}

func TestSessionIgnoresAnotherHostsAssignment(t *testing.T) {
	a := newAPI(t, nil)
	handle := func(c *conversation) {
		c.send(`{"id":"a","type":"next","payload":{"data":{"assignments":{"__typename":"Assignment","host":"` + uuid.NewString() + `",
			"version":{"epoch":"0000000000000009","generation":9,"hash":"x"},"sentAt":"2026-01-01T00:00:00.000Z","instrumentations":[]}}}}`)
		c.assign("0000000000000001", 1, "h")
		c.hold(a.reports)
	}
	a.conversation.Store(&handle)
	_, got := start(t, Options{Servers: []string{a.URL}}, Version{})
	require.Equal(t, testHost, receive(t, got).Host)
	require.Empty(t, got)
}

func TestSessionReportsOnTheWebsocketOnceTheAPIKnowsIt(t *testing.T) {
	release := make(chan struct{})
	a := newAPI(t, nil)
	handle := func(c *conversation) {
		<-release
		c.assign("0000000000000001", 1, "h")
		c.hold(a.reports)
	}
	a.conversation.Store(&handle)
	s, got := start(t, Options{Servers: []string{a.URL}}, Version{})

	type answer struct {
		r   ReportResult
		err error
	}
	answered := make(chan answer, 1)
	go func() {
		r, err := s.Report(context.Background(), Report{Sequence: 1, AgentVersion: "v"})
		answered <- answer{r, err}
	}()
	require.Never(t, func() bool { return len(answered) > 0 }, 100*time.Millisecond, 10*time.Millisecond)
	close(release)
	receive(t, got)
	result := receive(t, answered)
	require.NoError(t, result.err)
	require.Equal(t, ReportResult{Accepted: true, NextReportSeconds: 7}, result.r)
	report := receive(t, a.reports)
	require.Equal(t, testHost, report.Host)
	require.NotEqual(t, uuid.Nil, report.Session)
}

func TestSessionAnswersPings(t *testing.T) {
	ponged := make(chan struct{}, 1)
	a := newAPI(t, nil)
	handle := func(c *conversation) {
		c.assign("0000000000000001", 1, "h")
		c.send(`{"type":"ping"}`)
		for {
			_, raw, err := c.conn.Read(c.ctx)
			if err != nil {
				return
			}
			if strings.Contains(string(raw), `"pong"`) {
				ponged <- struct{}{}
			}
		}
	}
	a.conversation.Store(&handle)
	start(t, Options{Servers: []string{a.URL}}, Version{})
	receive(t, ponged)
}

func TestSessionLeavesASilentServer(t *testing.T) {
	back := make(chan struct{}, 10)
	a := newAPI(t, nil)
	handle := func(c *conversation) {
		back <- struct{}{}
		c.assign("0000000000000001", 1, "h")
		for { // reads, and never says anything
			if _, _, err := c.conn.Read(c.ctx); err != nil {
				return
			}
		}
	}
	a.conversation.Store(&handle)
	start(t, Options{Servers: []string{a.URL}, Silence: 300 * time.Millisecond}, Version{})
	receive(t, back)
	receive(t, back)
}

func TestSessionPollsWhereWebsocketsDoNotPass(t *testing.T) {
	a := newAPI(t, nil)
	var mu sync.Mutex
	var asked []string
	generation := 3
	polls := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.URL.RawQuery+" "+r.Header.Get("If-None-Match"))
		etag := fmt.Sprintf(`"0000000000000001.%d.h"`, generation)
		w.Header().Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Fprintf(w, `{"host":%q,"version":{"epoch":"0000000000000001","generation":%d,"hash":"h"},"sentAt":"2026-01-01T00:00:00.000Z","instrumentations":[]}`, testHost, generation)
	})
	a.polls.Store(&polls)
	s, got := start(t, Options{Servers: []string{a.URL}, PollEvery: 20 * time.Millisecond}, Version{})
	require.Equal(t, int64(3), receive(t, got).Version.Generation)
	require.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(asked) >= 3 }, time.Minute, 5*time.Millisecond)
	mu.Lock()
	require.Equal(t, "session="+s.name.String()+" ", asked[0], "the first poll makes the session the host's agent")
	require.Equal(t, ` "0000000000000001.3.h"`, asked[1])
	generation = 4
	mu.Unlock()
	require.Equal(t, int64(4), receive(t, got).Version.Generation)
}

func TestSessionComesBackWhenItIsTold(t *testing.T) {
	var calls atomic.Int64
	arrived := make(chan time.Time, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		arrived <- time.Now()
		if calls.Add(1) == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		http.Error(w, "no", http.StatusBadGateway)
	}))
	t.Cleanup(server.Close)
	start(t, Options{Servers: []string{server.URL}}, Version{})
	first, second := receive(t, arrived), receive(t, arrived)
	require.GreaterOrEqual(t, second.Sub(first), time.Second)
}

func TestSessionTriesTheNextServer(t *testing.T) {
	a := newAPI(t, nil)
	handle := func(c *conversation) {
		c.assign("0000000000000001", 1, "h")
		c.hold(a.reports)
	}
	a.conversation.Store(&handle)
	_, got := start(t, Options{Servers: []string{"http://127.0.0.1:1", a.URL}}, Version{})
	receive(t, got)
}

func TestSessionTellsSupersededFromOtherEnds(t *testing.T) {
	require.ErrorIs(t, readError(websocket.CloseError{Code: agentdoc.CloseSuperseded, Reason: agentdoc.ReasonSuperseded}), ErrSuperseded)
	var later *laterError
	require.ErrorAs(t, readError(websocket.CloseError{Code: agentdoc.CloseRestarting, Reason: agentdoc.RetryPrefix + "1.5s"}), &later)
	require.Equal(t, 1500*time.Millisecond, later.after)
	require.NotErrorIs(t, readError(websocket.CloseError{Code: 4409, Reason: "Subscriber for a already exists"}), ErrSuperseded)
}

func TestServersAreCheckedBeforeAnythingStarts(t *testing.T) {
	for _, bad := range []string{"", "127.0.0.1:8080", "ws://x", "http://"} {
		_, err := New(Options{Servers: []string{bad}})
		require.ErrorContains(t, err, "want http", bad)
	}
	_, err := New(Options{})
	require.ErrorContains(t, err, "no server")
}
