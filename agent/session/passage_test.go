package session

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// polled answers polls with one assignment, and counts them.
func polled(generation int64) (http.HandlerFunc, *atomic.Int64) {
	polls := &atomic.Int64{}
	return func(w http.ResponseWriter, r *http.Request) {
		polls.Add(1)
		etag := fmt.Sprintf(`"0000000000000001.%d.h"`, generation)
		w.Header().Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Fprintf(w, `{"host":%q,"version":{"epoch":"0000000000000001","generation":%d,"hash":"h"},
			"sentAt":"2026-01-01T00:00:00.000Z","instrumentations":[]}`, testHost, generation)
	}, polls
}

// Whatever a middlebox does to websockets, an agent that can reach the API by plain requests has its assignment.
func TestSessionPollsWhateverKeepsWebsocketsFromPassing(t *testing.T) {
	large := strings.Repeat(`"x",`, 4<<10)
	for name, broken := range map[string]func(w http.ResponseWriter, r *http.Request, on http.Handler){
		"the upgrade is taken out": func(w http.ResponseWriter, r *http.Request, on http.Handler) {
			r.Header.Del("Upgrade")
			r.Header.Del("Connection")
			on.ServeHTTP(w, r)
		},
		"the upgrade is answered with a page": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			_, _ = w.Write([]byte("<html>Welcome to the proxy</html>"))
		},
		"the upgrade is forbidden": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			http.Error(w, "no websockets", http.StatusForbidden)
		},
		"the connection is closed": func(http.ResponseWriter, *http.Request, http.Handler) {
			panic(http.ErrAbortHandler)
		},
		"the upgrade is never answered": func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
			<-r.Context().Done()
		},
		"the connection is cut after some bytes": func(w http.ResponseWriter, r *http.Request, on http.Handler) {
			on.ServeHTTP(&cutting{ResponseWriter: w, left: 1000}, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t, func(c *conversation) {
				c.send(strings.Replace(fmt.Sprintf(`{"id":"a","type":"next","payload":{"data":{"assignments":{"__typename":"Assignment","host":%q,
					"version":{"epoch":"0000000000000001","generation":9,"hash":"h"},"sentAt":"2026-01-01T00:00:00.000Z","instrumentations":[],
					"more":[LARGE1]}}}}`, testHost), "LARGE", large, 1))
				c.hold(make(chan Report, 100))
			})
			answer, polls := polled(9)
			a.polls.Store(&answer)
			target, err := url.Parse(a.URL)
			require.NoError(t, err)
			through := httputil.NewSingleHostReverseProxy(target)
			proxy := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Upgrade") != "" {
					broken(w, r, through)
					return
				}
				through.ServeHTTP(w, r)
			}))
			proxy.Config.ErrorLog = log.New(io.Discard, "", 0)
			through.ErrorLog = proxy.Config.ErrorLog
			proxy.Start()
			t.Cleanup(proxy.Close)
			transport := &http.Transport{}
			if name == "the upgrade is never answered" {
				transport.ResponseHeaderTimeout = time.Second
			}
			client := &http.Client{Transport: transport}
			t.Cleanup(client.CloseIdleConnections)
			_, got := start(t, Options{Servers: []string{proxy.URL}, Client: client, PollEvery: 20 * time.Millisecond}, Version{})
			require.Equal(t, int64(9), receive(t, got).Version.Generation)
			require.Positive(t, polls.Load())
		})
	}
}

// A server that is dead does not keep the session from learning that another one's websockets do not pass.
func TestSessionPollsTheServerThatIsThere(t *testing.T) {
	a := newAPI(t, nil)
	answer, _ := polled(2)
	a.polls.Store(&answer)
	_, got := start(t, Options{Servers: []string{"http://127.0.0.1:1", a.URL}}, Version{})
	require.Equal(t, int64(2), receive(t, got).Version.Generation)
}

func TestSessionReturnsToWebsocketsWhenTheyPassAgain(t *testing.T) {
	a := newAPI(t, nil)
	answer, polls := polled(3)
	a.polls.Store(&answer)
	_, got := start(t, Options{Servers: []string{a.URL}, PollEvery: 10 * time.Millisecond, PollFor: 50 * time.Millisecond}, Version{})
	require.Equal(t, int64(3), receive(t, got).Version.Generation)

	arrived := make(chan *Version, 10)
	handle := func(c *conversation) {
		arrived <- c.variables.Known
		c.assign("0000000000000001", 3, "h") // once more: it is not handed over twice
		c.assign("0000000000000001", 4, "h4")
		c.hold(a.reports)
	}
	a.conversation.Store(&handle)
	require.Equal(t, &Version{Epoch: "0000000000000001", Generation: 3, Hash: "h"}, receive(t, arrived), "it resumes with what it polled")
	require.Equal(t, int64(4), receive(t, got).Version.Generation)
	before := polls.Load()
	require.Never(t, func() bool { return polls.Load() > before+1 }, 200*time.Millisecond, 20*time.Millisecond, "it polls no more, but for one that was under way")
	require.Empty(t, got)
}

// An API that is restarted behind a proxy answers like one that websockets do not pass to. Agents must not poll for long then.
func TestSessionTriesAWebsocketAgainSoonAtFirst(t *testing.T) {
	s, err := New(Options{Servers: []string{"http://127.0.0.1:1"}, Host: testHost, PollEvery: time.Millisecond, PollFor: 100 * time.Millisecond})
	require.NoError(t, err)
	var polls []time.Duration
	for range 8 {
		s.passages[0].refusals = maxRefusals
		_ = s.once(t.Context(), func(Assignment) {}) // there is nobody
		polls = append(polls, s.passages[0].poll)
		require.Equal(t, maxRefusals-1, s.passages[0].refusals, "one more failure, and it polls again")
	}
	ms := time.Millisecond
	require.Equal(t, []time.Duration{3 * ms, 6 * ms, 12 * ms, 24 * ms, 48 * ms, 96 * ms, 100 * ms, 100 * ms}, polls)
}

func TestPollingEndsWhenAnotherAgentHasTakenOver(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a := newAPI(t, nil)
	answer, polls := polled(3)
	a.polls.Store(&answer)
	s, err := New(Options{Servers: []string{a.URL}, Host: testHost, PollEvery: 10 * time.Millisecond})
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- s.pollFor(ctx, time.Hour, func(Assignment) {}) }()
	require.Eventually(t, func() bool { return polls.Load() > 2 }, time.Minute, time.Millisecond)
	s.superseded <- struct{}{} // as Report does when the API says so
	require.ErrorIs(t, receive(t, ended), ErrSuperseded)

	conflict := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "20")
		w.WriteHeader(http.StatusConflict)
	})
	a.polls.Store(&conflict)
	require.ErrorIs(t, s.pollFor(ctx, time.Hour, func(Assignment) {}), ErrSuperseded)
}

func TestSessionReportsThatItWasSuperseded(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"data":{"reportAgentStatus":{"accepted":false,"superseded":true,"nextReportSeconds":7}}}`))
	}))
	t.Cleanup(server.Close)
	s, err := New(Options{Servers: []string{server.URL}, Host: testHost})
	require.NoError(t, err)
	s.begin()
	for range 2 { // the second finds the first still there, and waits for nobody
		result, err := s.Report(t.Context(), Report{})
		require.NoError(t, err)
		require.True(t, result.Superseded)
	}
	require.Len(t, s.superseded, 1)
}

func TestWhenToComeBackIsReadAsItIsSaid(t *testing.T) {
	const date = "Thu, 01 Jan 2026 12:00:00 GMT"
	for text, want := range map[string]time.Duration{
		"7": 7 * time.Second, "0": 0, "7200": time.Hour, "99999999999999999999": 0,
		"Thu, 01 Jan 2026 12:00:30 GMT": 30 * time.Second, "Thu, 01 Jan 2026 11:00:00 GMT": 0, "Fri, 02 Jan 2026 12:00:00 GMT": time.Hour,
		"": 0, "-1": 0, "soon": 0,
	} {
		resp := &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {text}, "Date": {date}}}
		require.Equal(t, want, RetryAfter(retryAfter(resp)), "%q", text)
	}
	require.NoError(t, retryAfter(&http.Response{StatusCode: 200, Header: http.Header{"Retry-After": {"7"}}}), "only refusals")
	require.Equal(t, time.Hour, RetryAfter(later(1e300, "")))
	require.Equal(t, time.Second, RetryAfter(later(-1, "")))
	require.Zero(t, RetryAfter(errors.New("another")))
}

// What could not be compared with anything that follows must not be taken, or nothing else ever is.
func TestSessionIgnoresWhatHasNoProperVersion(t *testing.T) {
	a := newAPI(t, func(c *conversation) {
		c.assign("zzz", 9, "h")
		c.assign("ZZZZZZZZZZZZZZZZ", 9, "h")
		c.assign("ffffffffffffffff0", 9, "h")
		c.assign("0000000000000001", 0, "h")
		c.assign("0000000000000001", -4, "h")
		c.assign("0000000000000009", 1, "")
		c.assign("0000000000000001", 1, "h")
		c.hold(make(chan Report, 100))
	})
	_, got := start(t, Options{Servers: []string{a.URL}}, Version{Epoch: "zzz", Generation: 12, Hash: "h"})
	require.Equal(t, Version{Epoch: "0000000000000001", Generation: 1, Hash: "h"}, receive(t, got).Version)
	require.Empty(t, got)
}

func TestSessionOutlivesADocumentOverTheFrameLimit(t *testing.T) {
	known := Version{Epoch: "0000000000000001", Generation: 1, Hash: "h"}
	resumed := make(chan Version, 10)
	var tries atomic.Int64
	a := newAPI(t, func(c *conversation) {
		resumed <- *c.variables.Known
		if tries.Add(1) == 1 {
			c.send(`{"id":"a","type":"next","payload":"` + strings.Repeat("x", maxFrame) + `"}`)
		} else {
			c.assign("0000000000000001", 2, "h2")
		}
		c.hold(make(chan Report, 100))
	})
	_, got := start(t, Options{Servers: []string{a.URL}}, known)
	require.Equal(t, known, receive(t, resumed))
	require.Equal(t, known, receive(t, resumed), "it comes back with what it had")
	require.Equal(t, int64(2), receive(t, got).Version.Generation)
}

// cutting is a response whose upgraded connection ends after some bytes.
type cutting struct {
	http.ResponseWriter
	left int
}

func (c *cutting) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := http.NewResponseController(c.ResponseWriter).Hijack()
	return &cutConn{Conn: nc, left: c.left}, rw, err
}

type cutConn struct {
	net.Conn
	left int
}

func (c *cutConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b[:min(len(b), c.left)])
	if c.left -= n; c.left == 0 && err == nil {
		c.Conn.Close()
		err = net.ErrClosed
	}
	return n, err
}
