package graph

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/99designs/gqlgen/graphql/executor"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"iapi/delivery"
	"iapi/graph/explorer"
	"iapi/graph/generated"
	"iapi/graph/ws"
	"iapi/identity"
	"iapi/instrumentation"
)

// Limits bound what one request may ask for. The zero value of each member means its default.
type Limits struct {
	BodyBytes  int           // of a POST; 1 MiB
	Tokens     int           // of a query's text; 5,000
	Depth      int           // of nested fields; 12
	Complexity int           // about the number of fields in the answer; 25,000
	Timeout    time.Duration // of a query or mutation; 30 s
}

// Limiter bounds what a caller may ask for in a while, in units of complexity. It must not refuse because it fails.
type Limiter interface {
	Allow(ctx context.Context, caller string, cost int) (ok bool, retryAfter time.Duration, err error)
}

// Options are what a Server is made of. Service, Delivery and Authenticator are required.
type Options struct {
	Service       *instrumentation.Service
	Delivery      Delivery
	Authenticator identity.Authenticator
	Records       RecordWatcher       // nil: instrumentationUpdated is not served
	Recheck       time.Duration       // between looks for what no event tells those who follow an instrumentation; 15 s
	JoinTokens    identity.JoinTokens // nil: exchangeJoinToken is refused
	Admission     *delivery.Admission // of agents; nil: all are admitted
	Limits        Limits
	Limiter       Limiter                     // nil: no limit
	Ready         func(context.Context) error // nil: always ready
	Dev           bool                        // introspection for everybody
	Origins       []string                    // other origins that may use the API from a browser, as scheme://host
	Websocket     ws.Options                  // the timings and bounds of connections; the rest is filled in
	Logger        *slog.Logger                // nil: nothing is logged
	Clock         func() time.Time            // nil: time.Now
	Registry      *prometheus.Registry        // nil: one of its own. /metrics serves it
}

// Server is the whole door, as a handler: /graphql, the agents' GET, the explorer, health and metrics.
type Server struct {
	opts     Options
	log      *slog.Logger
	mux      *http.ServeMux
	exec     *executor.Executor
	present  presenter
	sockets  *ws.Server
	feed     *feed
	records  *recordFeed
	measures *measures
}

// New makes a Server. Run must be running for instrumentationUpdated; Shutdown must be called in the end.
func New(o Options) (*Server, error) {
	switch {
	case o.Service == nil:
		return nil, errors.New("make the API: Options.Service is missing")
	case o.Delivery == nil:
		return nil, errors.New("make the API: Options.Delivery is missing")
	case o.Authenticator == nil:
		return nil, errors.New("make the API: Options.Authenticator is missing")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	if o.Recheck <= 0 {
		o.Recheck = 15 * time.Second
	}
	o.Limits = o.Limits.withDefaults()

	s := &Server{opts: o, log: o.Logger, mux: http.NewServeMux(), present: presenter{o.Logger}, feed: &feed{o.Delivery}}
	if o.Records != nil {
		s.records = newRecordFeed(o.Records, o.Recheck, o.Logger)
	}
	schema := generated.NewExecutableSchema(generated.Config{
		Resolvers:  &resolver{rules: o.Service, feed: s.feed, records: s.records, join: o.JoinTokens, clock: o.Clock},
		Complexity: complexityOf(),
	})
	s.exec = executor.New(schema)
	s.exec.SetErrorPresenter(s.present.present)
	s.exec.SetRecoverFunc(recovered)
	s.exec.SetParserTokenLimit(o.Limits.Tokens)
	s.exec.SetDisableSuggestion(!o.Dev)
	s.exec.SetQueryCache(newQueryCache())
	s.exec.Use(pages{o.Service})
	s.exec.Use(variables{schema.Schema()})
	s.exec.Use(&gate{schema: schema, limits: o.Limits, limiter: o.Limiter, open: o.Dev, log: o.Logger})

	sockets := o.Websocket
	sockets.Executor, sockets.Authenticator, sockets.Feed, sockets.Present = s.exec, o.Authenticator, s.feed, s.present.present
	sockets.Report, sockets.Origins, sockets.Logger, sockets.Clock = s.feed.report, o.Origins, o.Logger, o.Clock
	sockets.Timeout = o.Limits.Timeout
	s.sockets = ws.New(sockets)
	o.Delivery.OnRevoke(s.sockets.Revoke)

	var err error
	if s.measures, err = newMeasures(o.Registry, o.Delivery, s.sockets); err != nil {
		return nil, errors.Join(fmt.Errorf("make the API: %w", err), s.sockets.Shutdown(context.Background()))
	}
	s.routes()
	return s, nil
}

func (s *Server) routes() {
	s.mux.HandleFunc("/graphql", s.graphql)
	s.mux.HandleFunc("GET /agents/{host}/assignment", s.assignment)
	s.mux.Handle("GET /{$}", explorer.Page())
	s.mux.Handle("GET /explorer/", http.StripPrefix("/explorer/", explorer.Files()))
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "alive") })
	s.mux.HandleFunc("GET /readyz", s.readiness)
	s.mux.Handle("GET /metrics", promhttp.HandlerFor(s.opts.Registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelError),
	}))
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	s.mux.ServeHTTP(w, r)
}

// Run follows the changes of instrumentations until ctx ends, and returns ctx's error.
func (s *Server) Run(ctx context.Context) error {
	if s.records != nil {
		s.records.run(ctx)
	}
	<-ctx.Done()
	return ctx.Err()
}

// Shutdown tells all websockets when to come back, spread over a while, and waits for them to go; when ctx ends it cuts
// the rest. Requests over HTTP are the http.Server's to wait for.
func (s *Server) Shutdown(ctx context.Context) error { return s.sockets.Shutdown(ctx) }

// correlate gives a request the id that its errors and the log have, and the answer a header with it.
func correlate(w http.ResponseWriter, r *http.Request) *http.Request {
	ctx := withCorrelation(r.Context())
	w.Header().Set(identity.CorrelationHeader, correlationID(ctx))
	return r.WithContext(ctx)
}

// graphql is /graphql: a websocket, or a request.
func (s *Server) graphql(w http.ResponseWriter, r *http.Request) {
	r = correlate(w, r)
	if r.Header.Get("Upgrade") != "" {
		if ok, after := s.opts.Admission.Admit(); !ok {
			retryLater(w, after)
			text(w, http.StatusTooManyRequests, "Too many come at the same time.")
			return
		}
		s.sockets.ServeHTTP(w, r)
		return
	}
	s.http(w, r)
}

// authenticated finds out who calls, or refuses the request, which is correlated. Nobody is a caller too; the rules refuse what needs one.
func (s *Server) authenticated(w http.ResponseWriter, r *http.Request, refuse func(status int, err error)) (context.Context, bool) {
	ctx := withRemote(r.Context(), r)
	who, err := s.opts.Authenticator.Authenticate(r.WithContext(ctx))
	switch {
	case err == nil:
		return identity.WithCaller(ctx, who), true
	case errors.Is(err, identity.ErrNoCredentials):
		return ctx, true
	case errors.Is(err, identity.ErrBadCredentials):
		w.Header().Set("WWW-Authenticate", "Bearer")
		refuse(http.StatusUnauthorized, err)
	case errors.Is(err, identity.ErrUnavailable):
		retryLater(w, time.Second)
		refuse(http.StatusServiceUnavailable, err)
	default:
		refuse(http.StatusInternalServerError, err)
	}
	return ctx, false
}

func (s *Server) readiness(w http.ResponseWriter, r *http.Request) {
	if s.opts.Ready != nil {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if err := s.opts.Ready(ctx); err != nil {
			s.log.WarnContext(ctx, "not ready", "error", err)
			retryLater(w, time.Second)
			text(w, http.StatusServiceUnavailable, "not ready")
			return
		}
	}
	text(w, http.StatusOK, "ready")
}

func text(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body + "\n")) // a client that has gone is no error
}

// retryLater sets Retry-After, in whole seconds, rounded up.
func retryLater(w http.ResponseWriter, after time.Duration) {
	w.Header().Set("Retry-After", fmt.Sprint(int64((after+time.Second-1)/time.Second)))
}
