// Package rest asks Triton's HTTP services politely: few requests at once, each with a deadline and a bound on its
// answer, and repeated only when repeating can help. It knows no route and no object; it sorts failures into
// inventory.ErrUnavailable, inventory.ErrNotFound and the rest, which are permanent.
package rest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"iapi/inventory"
)

const (
	defaultTimeout  = 30 * time.Second
	defaultParallel = 4
	defaultMaxBody  = 64 << 20
	attempts        = 3
	firstPause      = 100 * time.Millisecond
	maxURL          = 7500    // the services drop a connection whose request line and headers exceed 8 KiB
	keepBuffer      = 4 << 20 // a larger buffer is not kept for the next answer
)

// Options say whom to ask and how much. Only Service and URL must be given.
type Options struct {
	Service    string        // "VMAPI", for errors and logs
	URL        string        // http(s)://host[:port][/prefix]
	HTTPClient *http.Client  // nil: one without proxies and redirects
	Timeout    time.Duration // of one attempt, with its body; 0: 30 s
	Parallel   int           // requests at once; 0: 4
	MaxBody    int64         // bytes of one answer; 0: 64 MiB
	UserAgent  string        // "": iapi. It must not begin with curl, which the services treat apart
	Logger     *slog.Logger  // nil: silent
}

// Client asks one service. It is safe for concurrent use.
type Client struct {
	opts  Options
	base  *url.URL
	slots chan *bytes.Buffer // one token for each request that may run, with the buffer that it reads into

	requests, retries, failures atomic.Int64
}

// New checks the options.
func New(o Options) (*Client, error) {
	base, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("url of %s: %w", o.Service, err)
	}
	if (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" {
		return nil, fmt.Errorf("url of %s: %q is not of the form http://host[:port]", o.Service, o.URL)
	}
	if base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("url of %s: %q has a query or a fragment", o.Service, o.URL)
	}
	if o.Timeout < 0 || o.Parallel < 0 || o.MaxBody < 0 {
		return nil, fmt.Errorf("options of %s: timeout, parallel and maximal body cannot be negative", o.Service)
	}
	o.Timeout = orElse(o.Timeout, defaultTimeout)
	o.Parallel = orElse(o.Parallel, defaultParallel)
	o.MaxBody = orElse(o.MaxBody, defaultMaxBody)
	o.UserAgent = orElse(o.UserAgent, "iapi")
	if strings.HasPrefix(strings.ToLower(o.UserAgent), "curl") || strings.ContainsFunc(o.UserAgent, isControl) {
		return nil, fmt.Errorf("user agent for %s: %q begins with curl or has control characters", o.Service, o.UserAgent)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.HTTPClient == nil {
		o.HTTPClient = newHTTPClient(o.Parallel)
	}
	c := &Client{opts: o, base: base, slots: make(chan *bytes.Buffer, o.Parallel)}
	for range o.Parallel {
		c.slots <- new(bytes.Buffer)
	}
	return c, nil
}

func orElse[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

// newHTTPClient makes a client for an admin network: no proxy, no compression (it costs more than it saves there).
func newHTTPClient(parallel int) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout: 5 * time.Second,
			MaxIdleConnsPerHost: parallel,
			IdleConnTimeout:     90 * time.Second,
			DisableCompression:  true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// HTTPClient is the client that requests are made with.
func (c *Client) HTTPClient() *http.Client { return c.opts.HTTPClient }

// Logger is the logger of the options, never nil.
func (c *Client) Logger() *slog.Logger { return c.opts.Logger }

// Timeout is the deadline of one attempt.
func (c *Client) Timeout() time.Duration { return c.opts.Timeout }

// UserAgent is what the client calls itself.
func (c *Client) UserAgent() string { return c.opts.UserAgent }

// URL is the address of a path with a query.
func (c *Client) URL(path string, query url.Values) string {
	u := *c.base.JoinPath(path)
	u.RawQuery = query.Encode()
	return u.String()
}

// Stats counts what a client has done since it was made.
type Stats struct {
	Requests int64 // attempts, repeated ones included
	Retries  int64
	Failures int64 // calls of Get that returned an error
}

// Stats returns the counts.
func (c *Client) Stats() Stats {
	return Stats{Requests: c.requests.Load(), Retries: c.retries.Load(), Failures: c.failures.Load()}
}

// Get asks for a path and gives the body of a 200 answer to decode, which must not keep it. An error of decode means
// that the answer made no sense: it counts as ErrUnavailable and is retried, so decode may run more than once.
//
// The error is ErrUnavailable after the last attempt, ErrNotFound for a 404 that the service itself wrote, the
// context's error when the caller gave up, and anything else for a request that can never succeed.
func (c *Client) Get(ctx context.Context, path string, query url.Values, decode func(body []byte) error) error {
	target := c.URL(path, query)
	if len(target) > maxURL {
		return fmt.Errorf("asking %s: the address has %d bytes, more than %d", c.opts.Service, len(target), maxURL)
	}
	id := uuid.NewString()
	pause := firstPause
	for attempt := 1; ; attempt++ {
		err := c.attempt(ctx, target, id, decode)
		if err == nil {
			return nil
		}
		if attempt == attempts || ctx.Err() != nil || !errors.Is(err, inventory.ErrUnavailable) {
			c.failures.Add(1)
			return fmt.Errorf("asking %s for %s: %w", c.opts.Service, path, err)
		}
		c.retries.Add(1)
		c.opts.Logger.DebugContext(ctx, "asking again", "service", c.opts.Service, "path", path, "attempt", attempt, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
		pause *= 2
	}
}

func (c *Client) attempt(ctx context.Context, target, id string, decode func([]byte) error) error {
	var buf *bytes.Buffer
	select {
	case buf = <-c.slots:
	case <-ctx.Done():
		return givenUp(ctx)
	}
	defer func() {
		if buf.Cap() > keepBuffer {
			buf = new(bytes.Buffer)
		}
		c.slots <- buf
	}()
	c.requests.Add(1)
	once, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(once, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.opts.UserAgent)
	req.Header.Set("X-Request-Id", id)
	resp, err := c.opts.HTTPClient.Do(req)
	if err != nil {
		return unreachable(ctx, err)
	}
	defer resp.Body.Close()
	buf.Reset()
	n, err := buf.ReadFrom(io.LimitReader(resp.Body, c.opts.MaxBody+1))
	if err != nil {
		return unreachable(ctx, err)
	}
	if n > c.opts.MaxBody {
		return fmt.Errorf("the answer is larger than %d bytes", c.opts.MaxBody)
	}
	if resp.StatusCode != http.StatusOK {
		return newError(resp.StatusCode, buf.Bytes())
	}
	if err := decode(buf.Bytes()); err != nil {
		return fmt.Errorf("%w: %w", inventory.ErrUnavailable, err)
	}
	return nil
}

// unreachable classifies a failure of the network. The caller's own cancellation says nothing of the service.
func unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return givenUp(ctx)
	}
	return fmt.Errorf("%w: %w", inventory.ErrUnavailable, err)
}

func givenUp(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", inventory.ErrUnavailable, ctx.Err())
	}
	return ctx.Err()
}
