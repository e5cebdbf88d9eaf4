// Package session is an agent's conversation with the API: one subscription over a websocket, or a conditional GET where
// websockets do not pass. It resumes where it was, refuses anything older, and comes back by itself from every failure.
package session

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/assignment"
	"iapi/catalog"
	"iapi/graph/agentdoc"
)

// The words of the conversation.
type (
	// Version is the version of an assignment.
	Version = assignment.Version
	// Assignment is what the API wants this host to run.
	Assignment = agentdoc.Assignment
	// Report is how the host fares, whole: an instrumentation that it does not name does not run.
	Report = agentdoc.StatusReport
	// Status is how one instrumentation fares on this host.
	Status = agentdoc.InstrumentationStatus
	// VMFailure is why one zone is not measured.
	VMFailure = agentdoc.VMFailure
	// TargetStatus is how one target of an instrumentation takes this host's data.
	TargetStatus = agentdoc.TargetStatus
	// ReportResult is the API's answer to a report.
	ReportResult = agentdoc.ReportResult
)

// Options say how the API is reached.
type Options struct {
	Servers []string // base URLs, tried in turn; at least one
	Host    uuid.UUID
	Token   func() string // the credential for the next connection; nil or "": none
	TLS     *tls.Config
	// Client makes all requests, the websocket's handshake too; by default one of the session's own, with TLS.
	Client    *http.Client
	Logger    *slog.Logger
	UserAgent string
	PollEvery time.Duration // while websockets do not pass; 10 s by default
	Silence   time.Duration // after which a connection that says nothing is given up; 45 s by default
}

// Session is one agent's conversation. Its name stays the same across reconnects, so that a reconnect takes over from the
// connection before it.
type Session struct {
	opts Options
	log  *slog.Logger
	name uuid.UUID
	http *http.Client

	begun     chan struct{} // closed when the API first knows the session
	beginOnce sync.Once

	mu     sync.Mutex
	server int // index of the server in use
	known  Version
	link   *link // the websocket, while it is open
}

// Errors that decide when to come back.
var (
	// ErrSuperseded: another session is now the host's agent.
	ErrSuperseded = errors.New("another agent has taken over this host")
	errWebsocket  = errors.New("the websocket could not be opened")
)

// New makes a session; Run starts it.
func New(o Options) (*Session, error) {
	if len(o.Servers) == 0 {
		return nil, errors.New("no server is given")
	}
	servers := make([]string, 0, len(o.Servers))
	for _, s := range o.Servers {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return nil, fmt.Errorf("server %q: want http://host:port or https://host:port", s)
		}
		servers = append(servers, strings.TrimRight(s, "/"))
	}
	o.Servers = servers
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.PollEvery <= 0 {
		o.PollEvery = 10 * time.Second
	}
	if o.Silence <= 0 {
		o.Silence = 45 * time.Second
	}
	if o.Token == nil {
		o.Token = func() string { return "" }
	}
	client := o.Client
	if client == nil {
		client = &http.Client{Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: o.TLS, MaxIdleConnsPerHost: 2, IdleConnTimeout: 90 * time.Second,
			TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 20 * time.Second,
		}}
	}
	return &Session{opts: o, log: o.Logger, name: uuid.New(), http: client, begun: make(chan struct{}), server: rand.IntN(len(servers))}, nil
}

// Know tells what the agent runs already; the API then sends only what is newer.
func (s *Session) Know(v Version) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = v
}

// Run keeps the session until ctx ends. Each assignment that is newer than all before it is handed to receive, in order and
// one at a time; receive must not block.
func (s *Session) Run(ctx context.Context, receive func(Assignment)) error {
	var back Backoff
	refusals := 0 // of websockets, in a row
	for ctx.Err() == nil {
		began := time.Now()
		var err error
		if refusals >= 3 {
			err = s.pollFor(ctx, 5*time.Minute, receive)
			refusals = 2 // one try of a websocket, then polling again
		} else {
			err = s.stream(ctx, receive)
		}
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, errWebsocket) {
			refusals++
		} else if err != nil {
			refusals = 0
		}
		if time.Since(began) > time.Minute {
			back.Reset()
		}
		wait := back.Next()
		var later *laterError
		switch {
		case errors.As(err, &later):
			wait = later.after + Jitter(time.Second)
		case errors.Is(err, ErrSuperseded):
			wait = 30*time.Second + Jitter(30*time.Second)
			s.log.Error("another agent has taken over this host; is a second one running with the same host id?", "retryIn", wait)
		}
		s.log.Info("the connection to the API ended", "server", s.base(), "error", err, "retryIn", wait.Round(time.Millisecond))
		s.nextServer()
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return ctx.Err()
}

// offer hands an assignment over if it is newer than all before it.
func (s *Session) offer(a Assignment, receive func(Assignment)) {
	if a.Host != s.opts.Host {
		s.log.Error("the API sent another host's assignment; it is ignored", "host", a.Host)
		return
	}
	s.mu.Lock()
	newer := newer(a.Version, s.known)
	if newer {
		s.known = a.Version
	}
	known := s.known
	s.mu.Unlock()
	if !newer {
		if a.Version != known {
			s.log.Warn("the API sent an assignment that is not newer; it is ignored",
				"sent", a.Version.Generation, "known", known.Generation)
		}
		return
	}
	receive(a)
}

// newer reports whether an agent that knows one version takes the other.
func newer(sent, known Version) bool {
	if sent.Epoch != known.Epoch {
		return sent.Epoch > known.Epoch
	}
	return sent.Generation > known.Generation
}

func (s *Session) version() Version {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known
}

func (s *Session) base() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opts.Servers[s.server]
}

func (s *Session) nextServer() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server = (s.server + 1) % len(s.opts.Servers)
}

func (s *Session) setLink(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.link = l
}

func (s *Session) begin() { s.beginOnce.Do(func() { close(s.begun) }) }

// Report sends a report, on the websocket where one is open, else by POST. Before the session has begun it waits.
func (s *Session) Report(ctx context.Context, r Report) (ReportResult, error) {
	select {
	case <-ctx.Done():
		return ReportResult{}, ctx.Err()
	case <-s.begun:
	}
	r.Session = s.name
	r.Host = s.opts.Host
	if r.Capabilities == nil {
		r.Capabilities = []string{}
	}
	if r.Instrumentations == nil {
		r.Instrumentations = []Status{}
	}
	var data agentdoc.ReportData
	if err := s.execute(ctx, agentdoc.Report, agentdoc.ReportVariables{Input: r}, &data); err != nil {
		return ReportResult{}, fmt.Errorf("report the status: %w", err)
	}
	return data.Result, nil
}

// Definition fetches a metric's definition. The caller verifies its digest and its signature.
func (s *Session) Definition(ctx context.Context, digest string) (catalog.Publication, error) {
	var p catalog.Publication
	var data agentdoc.DefinitionData
	if err := s.execute(ctx, agentdoc.Definition, map[string]any{"digest": digest}, &data); err != nil {
		return p, fmt.Errorf("fetch a definition: %w", err)
	}
	if data.Definition == nil {
		return p, fmt.Errorf("the API has no definition with the digest %.12s…", digest)
	}
	p.Document = []byte(data.Definition.Document)
	if data.Definition.Signature != nil && data.Definition.KeyID != nil {
		var err error
		if p.Signature, err = base64.StdEncoding.DecodeString(*data.Definition.Signature); err != nil {
			return p, fmt.Errorf("decode the definition's signature: %w", err)
		}
		p.KeyID = *data.Definition.KeyID
	}
	return p, nil
}

func (s *Session) execute(ctx context.Context, document string, variables, data any) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	request, err := json.Marshal(operation{Query: document, Variables: variables})
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	s.mu.Lock()
	l := s.link
	s.mu.Unlock()
	var raw []byte
	if l != nil {
		raw, err = l.execute(ctx, request)
	} else {
		raw, err = s.post(ctx, request)
	}
	if err != nil {
		return err
	}
	return decode(raw, data)
}

type operation struct {
	Query     string `json:"query"`
	Variables any    `json:"variables"`
}

// refusal is an error that the API answered.
type refusal struct{ code, message string }

func (e *refusal) Error() string {
	if e.code == "" {
		return e.message
	}
	return e.code + ": " + e.message
}

// laterError says when to come back.
type laterError struct {
	after time.Duration
	cause string
}

func (e *laterError) Error() string {
	return fmt.Sprintf("%s (asked to come back in %s)", e.cause, e.after)
}

func decode(raw []byte, data any) error {
	var response struct {
		Data   json.RawMessage  `json:"data"`
		Errors []agentdoc.Error `json:"errors"`
	}
	if err := json.Unmarshal(raw, &response); err != nil {
		return fmt.Errorf("decode the API's answer: %w", err)
	}
	if len(response.Errors) > 0 {
		return asError(response.Errors[0])
	}
	if err := json.Unmarshal(response.Data, data); err != nil {
		return fmt.Errorf("decode the API's answer: %w", err)
	}
	return nil
}

func asError(e agentdoc.Error) error {
	err := &refusal{code: e.Extensions.Code, message: e.Message}
	switch {
	case e.Extensions.Code == "SUPERSEDED":
		return ErrSuperseded
	case e.Extensions.RetryAfterSeconds > 0:
		return &laterError{after: time.Duration(e.Extensions.RetryAfterSeconds * float64(time.Second)), cause: err.Error()}
	default:
		return err
	}
}
