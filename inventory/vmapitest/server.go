// Package vmapitest simulates VMAPI with its changefeed, and CNAPI, for tests, for demonstrations and for whoever has
// no datacenter at hand. It answers as the real ones do, their faults included: strict parameters, tag searches that
// drop rows, messages that come twice or never, requests that end the process. It can also be told to fail.
package vmapitest

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Options say how the simulator behaves. The zero value behaves as the real services do, except that it survives.
type Options struct {
	Clock             func() time.Time // nil: time.Now
	Logger            *slog.Logger     // nil: silent
	FeedLatency       time.Duration    // between two looks of the changefeed's publisher; 0: 2 s
	DieOnBadRequest   bool             // a request that would end VMAPI's process also cuts every feed and calls Die
	Die               func(reason string)
	HostStatusOverlay bool   // a running VM on a host that is not running is shown with the host's status
	Datacenter        string // of hosts that name none; "": coal
	Seed              uint64 // of the dice for faults that strike a share
}

// maxHeader is what the real servers accept of a request line with its headers, in bytes. Beyond it they close the
// connection without an answer.
const maxHeader = 8 << 10

// Server is the simulator. It is safe for concurrent use.
type Server struct {
	opts    Options
	handler http.Handler
	faults  *faults
	feed    *feed
	started time.Time

	mu    sync.Mutex
	table *table
	hosts map[uuid.UUID]Host
	stats Stats
}

// Stats counts what the simulator has seen since it was made.
type Stats struct {
	VMs       int   `json:"vms"`       // destroyed ones included
	Hosts     int   `json:"hosts"`     //
	Listeners int   `json:"listeners"` // registered at the changefeed
	Requests  int64 `json:"requests"`  // to VMAPI's and CNAPI's routes
	Deaths    int64 `json:"deaths"`    // requests at which VMAPI's process would have ended
}

// New makes an empty simulator. Close ends what it starts.
func New(o Options) *Server {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Die == nil {
		o.Die = func(string) {}
	}
	o.FeedLatency = or(o.FeedLatency, 2*time.Second)
	o.Datacenter = or(o.Datacenter, "coal")
	s := &Server{
		opts: o, table: newTable(), hosts: make(map[uuid.UUID]Host), started: o.Clock(),
		faults: &faults{dice: rand.New(rand.NewPCG(o.Seed, 1))},
	}
	s.feed = newFeed(o, s.faults)
	s.handler = s.routes()
	return s
}

// Close ends the changefeed and waits for its goroutines, and lets go of requests that hang.
func (s *Server) Close() { s.feed.close() }

// Handler serves VMAPI, CNAPI and, below /sim/, the control of the simulator. It must be served over HTTP/1.1, for some
// answers are a closed connection. Whoever serves it calls Close before shutting the HTTP server down.
func (s *Server) Handler() http.Handler { return s.handler }

func (s *Server) routes() http.Handler {
	api := http.NewServeMux()
	for pattern, handler := range map[string]http.HandlerFunc{
		"/vms":                   s.listVMs,
		"/vms/{$}":               s.getNoVM,
		"/vms/{uuid}":            s.getVM,
		"/vms/{uuid}/tags":       s.getTags,
		"/vms/{uuid}/tags/{key}": s.getTag,
		"/statuses":              s.statuses,
		"/ping":                  s.ping,
		"/changefeeds":           s.feed.probe,
		"/changefeeds/stats":     s.feedStats,
		"/servers":               s.listServers,
		"/servers/{uuid}":        s.getServer,
	} {
		api.HandleFunc(pattern, readOnly(handler))
	}
	api.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeNotFound(w, r, r.URL.Path+" does not exist")
	})
	sim := s.control()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case headerSize(r) > maxHeader:
			s.hangUp(w)
		case r.URL.Path == "/sim" || strings.HasPrefix(r.URL.Path, "/sim/"):
			sim.ServeHTTP(w, r)
		case strings.EqualFold(r.Header.Get("Upgrade"), "websocket"): // on any path, as the real one
			s.feed.upgrade(w, r)
		default:
			s.mu.Lock()
			s.stats.Requests++
			s.mu.Unlock()
			s.answer(w, r, api)
		}
	})
}

// answer adds what every answer has, and the faults.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, api http.Handler) {
	begun := time.Now()
	h := w.Header()
	h.Set("Server", "VMAPI/9.16.0")
	if strings.HasPrefix(r.URL.Path, "/servers") {
		h.Set("Server", "CNAPI/1.26.6")
	}
	h.Set("X-Server-Name", "vmapitest")
	h.Set("X-Request-Id", or(r.Header.Get("X-Request-Id"), uuid.NewString()))
	if strings.HasPrefix(r.UserAgent(), "curl") {
		h.Set("Connection", "close")
	}
	if v := r.Header.Get("Accept-Version"); v != "" && v != "*" && !strings.HasPrefix(r.URL.Path, "/changefeeds") &&
		!strings.HasPrefix(strings.TrimLeft(v, "~^="), "9") {
		writeJSON(w, r, http.StatusBadRequest, problem{Code: "InvalidVersion", Message: "~" + v + " is not supported by " + r.Method + " " + r.URL.Path})
		return
	}
	if !acceptable(r.Header.Get("Accept")) {
		writeJSON(w, r, http.StatusNotAcceptable, problem{Code: "NotAcceptableError", Message: "Server accepts: application/json,text/plain,application/octet-stream,application/x-json-stream"})
		return
	}
	h.Set("X-Response-Time", strconv.FormatInt(time.Since(begun).Milliseconds(), 10))
	s.strike(w, r, api)
}

func acceptable(accept string) bool {
	if accept == "" {
		return true
	}
	for each := range strings.SplitSeq(accept, ",") {
		kind, _, _ := strings.Cut(strings.TrimSpace(each), ";")
		switch kind {
		case "*/*", "application/*", "application/json", "text/plain", "text/*", "application/octet-stream", "application/x-json-stream":
			return true
		}
	}
	return false
}

func readOnly(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			writeJSON(w, r, http.StatusMethodNotAllowed, problem{Code: "MethodNotAllowedError", Message: r.Method + " is not allowed"})
			return
		}
		next(w, r)
	}
}

// headerSize is how many bytes a request's line and headers had on the wire.
func headerSize(r *http.Request) int {
	n := len(r.Method) + 1 + len(r.RequestURI) + 1 + len(r.Proto) + 2 + len("Host: ") + len(r.Host) + 2 + 2
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + 2 + len(v) + 2
		}
	}
	return n
}

// getNoVM answers GET /vms/: an empty body, or death when fields are asked for.
func (s *Server) getNoVM(w http.ResponseWriter, r *http.Request) {
	for _, p := range splitQuery(r.URL.RawQuery) {
		if p.key == "fields" {
			s.die(w, fmt.Errorf("%w: GET /vms/?fields", errDies))
			return
		}
	}
	w.WriteHeader(http.StatusOK)
}

// feedStats answers GET /changefeeds/stats, at which VMAPI dies if anyone is registered.
func (s *Server) feedStats(w http.ResponseWriter, r *http.Request) {
	if s.feed.registered() > 0 {
		s.die(w, fmt.Errorf("%w: GET /changefeeds/stats with a listener", errDies))
		return
	}
	writeJSON(w, r, http.StatusOK, map[string]any{"listeners": map[string]any{}})
}

func (s *Server) ping(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, r, http.StatusOK, map[string]any{
		"pid": 1, "status": "OK", "healthy": true, "pingErrors": map[string]any{},
		"services": map[string]string{"moray": "online", "wfapi": "online"},
	})
}

// die does what VMAPI does at a request that ends its process: there is no answer.
func (s *Server) die(w http.ResponseWriter, reason error) {
	s.opts.Logger.Warn("a request that would end VMAPI", "reason", reason)
	s.mu.Lock()
	s.stats.Deaths++
	s.mu.Unlock()
	s.hangUp(w)
	if s.opts.DieOnBadRequest {
		s.feed.cut()
		s.opts.Die(reason.Error())
	}
}

// hangUp closes the connection without an answer.
func (s *Server) hangUp(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.opts.Logger.Error("cannot hang up", "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	conn.Close()
}

// Stats returns the counts.
func (s *Server) Stats() Stats {
	listeners := s.feed.registered()
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.stats
	stats.VMs, stats.Hosts, stats.Listeners = len(s.table.byID), len(s.hosts), listeners
	return stats
}

// problem is the body of an error.
type problem struct {
	Code      string        `json:"code,omitempty"`
	Message   string        `json:"message"`
	Errors    []*fieldError `json:"errors,omitempty"`
	InitError string        `json:"lastInitError,omitempty"`
}

func writeInvalid(w http.ResponseWriter, errs ...*fieldError) {
	writeJSON(w, nil, http.StatusConflict, problem{Code: "ValidationFailed", Message: "Invalid Parameters", Errors: errs})
}

func writeNotFound(w http.ResponseWriter, r *http.Request, message string) {
	writeJSON(w, r, http.StatusNotFound, problem{Code: "ResourceNotFound", Message: message})
}

func writeJSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeBody(w, r, status, body)
}

// writeBody answers; to a HEAD with the length that a GET would have had, unless it came from curl.
func writeBody(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	head := r != nil && r.Method == http.MethodHead
	w.Header().Set("Content-Type", "application/json")
	if !head || !strings.HasPrefix(r.UserAgent(), "curl") {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(status)
	if !head {
		_, _ = w.Write(body) // a client that has gone needs no answer
	}
}

// wait returns when the request or the server ends.
func (s *Server) wait(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-s.feed.ctx.Done():
	}
}
