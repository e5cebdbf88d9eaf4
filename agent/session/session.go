// Package session is an agent's conversation with the API: one subscription over a websocket, or a conditional GET where
// websockets do not pass. It resumes where it was, refuses anything older, and comes back by itself from every failure.
package session

import (
	"cmp"
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
	PollFor   time.Duration // at most, before a websocket is tried again; 5 min by default
	Silence   time.Duration // after which a connection that says nothing is given up; 30 s by default
	RetryMost time.Duration // bounds the wait before another try, where the API does not ask for more; 30 s by default
}

// Session is one agent's conversation. Its name stays the same across reconnects, so that a reconnect takes over from the
// connection before it.
type Session struct {
	opts Options
	log  *slog.Logger
	name uuid.UUID
	http *http.Client

	begun      chan struct{} // closed when the API first knows the session
	beginOnce  sync.Once
	superseded chan struct{} // capacity 1: a report was refused because of another session
	returned   chan struct{} // capacity 1: see Returned

	passages []passage // by server; of Run alone, as is
	last     items     // of the last document

	mu     sync.Mutex
	server int // index of the server in use
	known  Version
	link   *link // the websocket, while it is open
}

// Errors that decide how and when to come back.
var (
	// ErrSuperseded: another session is now the host's agent.
	ErrSuperseded = errors.New("another agent has taken over this host")
	// errWebsocket: the server is there, but nothing of the subscription came through a websocket.
	errWebsocket = errors.New("the websocket does not pass")
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
		o.Silence = 30 * time.Second
	}
	if o.Token == nil {
		o.Token = func() string { return "" }
	}
	if o.PollFor <= 0 {
		o.PollFor = 5 * time.Minute
	}
	client := o.Client
	if client == nil {
		client = &http.Client{Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: o.TLS, MaxIdleConnsPerHost: 2, IdleConnTimeout: 90 * time.Second,
			TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 20 * time.Second,
		}}
	}
	return &Session{
		opts: o, log: o.Logger, name: uuid.New(), http: client, begun: make(chan struct{}), superseded: make(chan struct{}, 1), returned: make(chan struct{}, 1),
		passages: make([]passage, len(servers)), server: rand.IntN(len(servers)),
	}, nil
}

// Know tells what the agent runs already; the API then sends only what is newer. What is no version is not known.
func (s *Session) Know(v Version) {
	if v.Validate() != nil {
		v = Version{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = v
}

// passage is what the session has learnt about websockets to one server.
type passage struct {
	refusals int           // in a row
	poll     time.Duration // how long to poll before the next try of a websocket; grows
}

// maxRefusals is how many websockets in a row must have failed before the session polls.
const maxRefusals = 3

// Run keeps the session until ctx ends. Each assignment that is newer than all before it is handed to receive, in order and
// one at a time; receive must not block. Assignments share what has not changed between them, so nobody may change them.
func (s *Session) Run(ctx context.Context, receive func(Assignment)) error {
	const held = 10 * time.Second // what breaks sooner, again and again, comes back more and more slowly
	back := Backoff{Most: s.opts.RetryMost}
	for tries := 1; ctx.Err() == nil; tries++ {
		began := time.Now()
		err := s.once(ctx, receive)
		if ctx.Err() != nil {
			break
		}
		if err == nil { // polling went well, and it is time to try a websocket again
			tries = 0
			back.Reset()
			continue
		}
		if time.Since(began) > held {
			tries = 1
			back.Reset()
		}
		wait := new(Backoff).Next() // the next server may be well
		if tries%len(s.opts.Servers) == 0 {
			wait = back.Next() // none was
		}
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

// once talks with the server in use until the conversation ends: over a websocket, or by polling while those do not pass. It
// ends without an error when the server has been polled for as long as it should.
func (s *Session) once(ctx context.Context, receive func(Assignment)) error {
	s.mu.Lock()
	p := &s.passages[s.server]
	s.mu.Unlock()
	if p.refusals >= maxRefusals {
		p.refusals = maxRefusals - 1 // the next try is a websocket's, and one is enough
		p.poll = min(max(2*p.poll, 3*s.opts.PollEvery), s.opts.PollFor)
		return s.pollFor(ctx, p.poll, receive)
	}
	err := s.stream(ctx, receive, func() { *p = passage{} })
	if errors.Is(err, errWebsocket) {
		p.refusals++
	}
	return err
}

// offer hands an assignment over if it is newer than all before it.
func (s *Session) offer(a Assignment, receive func(Assignment)) {
	if a.Host != s.opts.Host {
		s.log.Error("the API sent another host's assignment; it is ignored", "host", a.Host)
		return
	}
	if a.Version.Validate() != nil { // nothing could ever be newer or older than it
		s.log.Error("the API sent an assignment without a proper version; it is ignored", "version", a.Version)
		return
	}
	s.mu.Lock()
	newer := a.Version.Newer(s.known)
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

// begin notes that the API knows the session, by a conversation that was not there before.
func (s *Session) begin() {
	first := false
	s.beginOnce.Do(func() { first = true; close(s.begun) })
	if first {
		return
	}
	select {
	case s.returned <- struct{}{}:
	default: // nobody has taken the one before
	}
}

// Returned signals when the session has come back after a time without a conversation, in which the API may have lost what it was
// told of this host.
func (s *Session) Returned() <-chan struct{} { return s.returned }

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

func asError(e agentdoc.Error) error {
	err := &refusal{code: e.Extensions.Code, message: cmp.Or(e.Message, "the API refused, and did not say why")}
	switch {
	case e.Extensions.Code == "SUPERSEDED":
		return ErrSuperseded
	case e.Extensions.RetryAfterSeconds > 0:
		return later(e.Extensions.RetryAfterSeconds, err.Error())
	default:
		return err
	}
}
