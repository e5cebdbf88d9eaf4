// Package ws speaks graphql-transport-ws, and only that, over websockets of its own.
//
// A connection is a state machine that is told what arrives and when more may be written, and that never waits for its
// peer. On Linux a plain TCP connection costs no goroutine: few pollers watch them all. Anything else, such as TLS, has a
// small goroutine that reads, and one that writes while its peer is slow. A connection leaves net/http with its handshake,
// so that none of the buffers of a request stay behind.
//
// Every operation runs through the executor, but for one: the agents' subscription, recognised by its text, is fed from
// stored bytes.
package ws

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/gobwas/ws"
	"github.com/google/uuid"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"iapi/assignment"
	"iapi/delivery"
	"iapi/graph/agentdoc"
	"iapi/graph/ws/poll"
	"iapi/identity"
)

// Feed is where the agents' subscription is fed from.
type Feed interface {
	Subscribe(ctx context.Context, host, session uuid.UUID, known assignment.Version) (*delivery.Subscription, error)
}

// Options are what a Server is made of. Executor, Authenticator, Feed and Present are required; the zero value of any
// other member means its default.
type Options struct {
	Executor      graphql.GraphExecutor
	Authenticator identity.Authenticator
	Feed          Feed
	// Report stores an agent's report and tells when the next is wanted. Default: reports are left to the executor.
	Report func(ctx context.Context, r delivery.Report) (result delivery.ReportResult, next time.Duration, err error)
	// Present turns an error into what the peer may see of it.
	Present func(ctx context.Context, err error) *gqlerror.Error

	Origins        []string         // which other origins may connect, as scheme://host; "*": all
	Logger         *slog.Logger     // default: none
	Clock          func() time.Time // default: time.Now
	InitTimeout    time.Duration    // until connection_init must have come; 10 s
	PingEvery      time.Duration    // a silent peer is pinged; 30 s. After 2½ times that it is given up
	WriteTimeout   time.Duration    // for a frame that a peer does not take at once; 5 s. It is cut within a second more
	CloseTimeout   time.Duration    // for a peer to answer a close frame; 1 s. It is cut within a second more
	Farewell       time.Duration    // for what an agent subscribes to, to tell it that its credential was revoked; 500 ms
	MaxMessage     int              // bytes; 1 MiB
	Timeout        time.Duration    // of a query or mutation; 30 s
	MaxOperations  int              // on one connection at the same time; 64
	MaxConnections int              // 50,000
	RestartWindow  time.Duration    // over which a shutdown spreads the return of the peers; 10 s
	Goroutines     bool             // a goroutine for every connection, also where a poller could watch it
}

// Server holds the connections of one process.
type Server struct {
	opts Options
	log  *slog.Logger
	ctx  context.Context // of all operations
	stop context.CancelFunc

	started time.Time
	pollers []*poll.Poller // none where there are none
	turn    atomic.Uint32  // whose turn it is to take a connection

	running sync.WaitGroup // the keeper, every connection, and every goroutine of a connection

	mu       sync.Mutex
	conns    map[*conn]struct{}
	revoked  map[uuid.UUID]int64 // hosts whose agents' credentials were revoked of late, and when
	draining bool
}

// New makes a Server and starts the goroutines that keep watch over all connections. Shutdown ends them.
func New(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&o.InitTimeout, 10 * time.Second}, {&o.PingEvery, 30 * time.Second},
		{&o.WriteTimeout, 5 * time.Second}, {&o.CloseTimeout, time.Second}, {&o.Farewell, 500 * time.Millisecond},
		{&o.RestartWindow, 10 * time.Second}, {&o.Timeout, 30 * time.Second},
	} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	for _, n := range []struct {
		v   *int
		def int
	}{{&o.MaxMessage, 1 << 20}, {&o.MaxOperations, 64}, {&o.MaxConnections, 50_000}} {
		if *n.v <= 0 {
			*n.v = n.def
		}
	}
	s := &Server{opts: o, log: o.Logger, started: time.Now(), conns: make(map[*conn]struct{}), revoked: make(map[uuid.UUID]int64)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	for range runtime.GOMAXPROCS(0) {
		if o.Goroutines {
			break
		}
		p, err := poll.New()
		if err != nil {
			if !errors.Is(err, errors.ErrUnsupported) {
				s.log.Warn("connections will cost a goroutine each", "error", err)
			}
			break
		}
		s.pollers = append(s.pollers, p)
	}
	s.running.Go(s.keep)
	return s
}

// now is the time since the start in milliseconds, which no clock that is set can change. It is never 0.
func (s *Server) now() int64 { return time.Since(s.started).Milliseconds() + 1 }

// Connections is how many there are now.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// ServeHTTP upgrades the request and returns; the connection lives on.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	full := s.draining || len(s.conns) >= s.opts.MaxConnections
	if !full {
		s.running.Add(1)
		defer s.running.Done()
	}
	s.mu.Unlock()
	switch {
	case full:
		w.Header().Set("Retry-After", "5")
		s.refuse(w, r, http.StatusServiceUnavailable, "No more connections at present.")
		return
	case !s.allowedOrigin(r):
		s.refuse(w, r, http.StatusForbidden, "This origin may not connect.")
		return
	}
	asked := s.now()
	caller, authenticated, err := authenticate(s.opts.Authenticator, r)
	switch {
	case errors.Is(err, identity.ErrUnavailable):
		w.Header().Set("Retry-After", "1")
		s.refuse(w, r, http.StatusServiceUnavailable, "Credentials cannot be checked at present.")
		return
	case err != nil:
		w.Header().Set("WWW-Authenticate", "Bearer")
		s.refuse(w, r, http.StatusUnauthorized, "The credentials are not valid.")
		return
	}
	accepted := false
	correlated := http.Header{identity.CorrelationHeader: {identity.CorrelationID(r.Context())}}
	upgrader := ws.HTTPUpgrader{Timeout: s.opts.WriteTimeout, Header: correlated, Protocol: func(p string) bool {
		accepted = accepted || p == agentdoc.Subprotocol
		return p == agentdoc.Subprotocol
	}}
	nc, rw, _, err := upgrader.Upgrade(r, w)
	if err != nil {
		if nc != nil {
			_ = nc.Close()
		}
		s.log.DebugContext(r.Context(), "a websocket was not opened", "peer", r.RemoteAddr, "error", err)
		return
	}
	_ = nc.SetDeadline(time.Time{})
	c := newConn(s, r)
	if n := rw.Reader.Buffered(); n > 0 {
		early, _ := rw.Reader.Peek(n)
		c.in.held = slices.Clone(early)
	}
	if authenticated {
		c.caller, c.asked = &caller, asked
	}
	if err := c.connect(s.poller(), nc); err != nil {
		_ = nc.Close()
		s.log.WarnContext(r.Context(), "a websocket was not opened", "peer", r.RemoteAddr, "error", err)
		return
	}
	s.mu.Lock()
	if s.draining {
		s.mu.Unlock()
		c.link.close()
		return
	}
	s.conns[c] = struct{}{}
	s.running.Add(1)
	s.mu.Unlock()
	if !accepted {
		c.close(closeBadSubprotocol, "Subprotocol not acceptable")
	}
	c.spawn(c.link.start)
}

// refuse answers a handshake. The id of the request, which the log has too, ends the answer.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, status int, why string) {
	id := identity.CorrelationID(r.Context())
	s.log.InfoContext(r.Context(), "a websocket was refused", "peer", r.RemoteAddr, "reason", why, "correlationId", id)
	http.Error(w, fmt.Sprintf("%s (correlationId: %s)", why, id), status)
}

// poller returns one of the pollers, nil if there are none.
func (s *Server) poller() *poll.Poller {
	if len(s.pollers) == 0 {
		return nil
	}
	return s.pollers[int(s.turn.Add(1))%len(s.pollers)]
}

// authenticate tells whether the request carries credentials; the error is for those that do not hold.
func authenticate(a identity.Authenticator, r *http.Request) (identity.Caller, bool, error) {
	caller, err := a.Authenticate(r)
	switch {
	case err == nil:
		return caller, true, nil
	case isNoCredentials(err):
		return identity.Caller{}, false, nil
	}
	return identity.Caller{}, false, fmt.Errorf("authenticate a websocket: %w", err)
}

// allowedOrigin lets in programs, which send no origin, and pages of our own or of a listed origin.
func (s *Server) allowedOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || slices.Contains(s.opts.Origins, "*") || slices.Contains(s.opts.Origins, origin) {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

// keep looks at every connection once a second: one goroutine instead of timers for each.
func (s *Server) keep() {
	period := min(time.Second, s.opts.PingEvery/4, s.opts.InitTimeout/4)
	ticker := time.NewTicker(max(period, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-ticker.C:
			s.attend()
		}
	}
}

// attend does for each connection what has become due.
func (s *Server) attend() {
	now, wall := s.now(), s.opts.Clock()
	late := make(map[*conn]duty)
	s.mu.Lock()
	for c := range s.conns {
		if d := c.due(now, wall); d != nothing {
			late[c] = d
		}
	}
	s.mu.Unlock()
	for c, d := range late {
		c.do(d, now)
	}
}

// Revoke closes the connections of a host's agent, because its credential was revoked. What it subscribes to has a moment to
// say so first.
func (s *Server) Revoke(host uuid.UUID) {
	now := s.now()
	s.mu.Lock()
	s.revoked[host] = now
	for old, at := range s.revoked { // who was let in before that is ready by now, or has gone
		if now-at > 2*(s.opts.InitTimeout+s.opts.WriteTimeout).Milliseconds() {
			delete(s.revoked, old)
		}
	}
	s.mu.Unlock()
	for _, c := range s.all() {
		if c.ready.Load() && c.caller.Kind == identity.Agent && c.caller.Host == host {
			c.revoked.Store(s.now() + s.opts.Farewell.Milliseconds())
		}
	}
}

// revokedSince reports whether the credential of a host's agent was revoked at or after some time.
func (s *Server) revokedSince(host uuid.UUID, asked int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, was := s.revoked[host]
	return was && at >= asked
}

func (s *Server) all() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		out = append(out, c)
	}
	return out
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// Shutdown refuses new connections, tells each peer when to come back, spread over the restart window, and waits until all
// have gone, for no longer than the window itself or what a close takes. Then, or when ctx ends, it cuts the rest. Nothing of the
// server runs afterwards.
func (s *Server) Shutdown(ctx context.Context) error {
	window, cancel := context.WithTimeout(ctx, max(s.opts.RestartWindow, 2*s.opts.CloseTimeout))
	defer cancel()
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	conns := s.all()
	for i, c := range conns {
		after := s.opts.RestartWindow * time.Duration(i+1) / time.Duration(len(conns))
		c.close(agentdoc.CloseRestarting, agentdoc.RetryPrefix+after.Round(time.Millisecond).String())
	}
	gone := make(chan struct{})
	go func() {
		s.running.Wait()
		close(gone)
	}()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for s.Connections() > 0 && window.Err() == nil {
		select {
		case <-window.Done():
		case <-ticker.C:
		}
	}
	err := ctx.Err()
	for _, c := range s.all() {
		c.cut()
	}
	s.stop()
	<-gone
	for _, p := range s.pollers {
		p.Close()
	}
	return err
}
