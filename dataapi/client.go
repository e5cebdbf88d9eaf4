package dataapi

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"iapi/dataapi/event"
)

// Client reads from a Data API.
type Client struct {
	URL  string       // of the server's root
	HTTP *http.Client // default: http.DefaultClient; a Timeout would end Watch each time
	// Missed is told when Watch came too late for so many events, if it is set.
	Missed func(n uint64)
	// Broken is told why Watch connects again, if it is set.
	Broken func(err error)

	silence, firstRetry time.Duration
}

// ErrNoStream says that a stream does not exist (yet).
var ErrNoStream = errors.New("there is no such stream")

// statusError is an answer that is worth no repeat.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the Data API answered %d: %s", e.status, e.text)
}

// Is makes a 404 be ErrNoStream.
func (e *statusError) Is(target error) bool {
	return target == ErrNoStream && e.status == http.StatusNotFound
}

const (
	callTimeout  = 10 * time.Second
	maxSilence   = 60 * time.Second // four heartbeats
	maxRetryWait = 10 * time.Second
	givenKept    = 4096
)

// Info tells of one stream.
func (c Client) Info(ctx context.Context, stream string) (Info, error) {
	var info Info
	if err := event.CheckStream(stream); err != nil {
		return info, err
	}
	err := c.call(ctx, &info, stream, "info")
	return info, err
}

// Streams lists all streams by name.
func (c Client) Streams(ctx context.Context) ([]Info, error) {
	var all struct{ Streams []Info }
	err := c.call(ctx, &all, "streams")
	return all.Streams, err
}

func (c Client) call(ctx context.Context, into any, path ...string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.get(ctx, nil, path...)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<20)).Decode(into); err != nil {
		return fmt.Errorf("decode the Data API's answer: %w", err)
	}
	return nil
}

func (c Client) get(ctx context.Context, query url.Values, path ...string) (*http.Response, error) {
	base, err := url.Parse(c.URL)
	if err != nil || base.Host == "" {
		return nil, &statusError{0, "its URL is not absolute"}
	}
	switch base.Scheme {
	case "ws":
		base.Scheme = "http"
	case "wss":
		base.Scheme = "https"
	}
	u := base.JoinPath(path...)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	resp, err := cmp.Or(c.HTTP, http.DefaultClient).Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the Data API: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		var refusal Refusal
		if json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&refusal) != nil {
			refusal.Error = http.StatusText(resp.StatusCode)
		}
		return nil, &statusError{resp.StatusCode, refusal.Error}
	}
	return resp, nil
}

// Watch hands every event of a stream that is kept or arrives, and is not older than since (zero: all), to fn, in the
// order of arrival and each once, also across reconnects and restarts of the server. It waits for a stream that does not
// exist yet. It returns the error of fn or of ctx, or that the server refuses.
func (c Client) Watch(ctx context.Context, stream string, since time.Time, fn func(Event) error) error {
	if err := event.CheckStream(stream); err != nil {
		return err
	}
	w := watch{c: c, stream: stream, since: since, fn: fn, seed: maphash.MakeSeed(), given: map[uint64]bool{}}
	for failures := 0; ; failures++ {
		before := w.position
		err := w.once(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if stop, ok := errors.AsType[*stopError](err); ok {
			return stop.err
		}
		if refused, ok := errors.AsType[*statusError](err); ok && refused.status < 500 && refused.status != http.StatusTooManyRequests {
			return err
		}
		if c.Broken != nil {
			c.Broken(err)
		}
		if w.position != before {
			failures = 0
		}
		wait := min(maxRetryWait, cmp.Or(c.firstRetry, 250*time.Millisecond)<<min(failures, 8))
		select {
		case <-time.After(rand.N(wait) + wait/10):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watch is what Watch remembers from one connection to the next.
type watch struct {
	c        Client
	stream   string
	since    time.Time
	fn       func(Event) error
	position string

	// What was handed over last, by hash: after a restart of the server, senders that got no answer send again.
	seed    maphash.Seed
	given   map[uint64]bool // in this life of the server
	order   []uint64        // of given, oldest first
	earlier map[uint64]bool // in earlier ones, and not given again yet
}

// stopError ends a watch.
type stopError struct{ err error }

func (e *stopError) Error() string { return e.err.Error() }

// once follows the stream for as long as one connection lasts.
func (w *watch) once(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := cmp.Or(w.c.silence, maxSilence)
	dead := time.AfterFunc(silence, func() { cancel(errors.New("the Data API has fallen silent")) })
	defer dead.Stop()

	query := url.Values{}
	if !w.since.IsZero() {
		query.Set("since", w.since.UTC().Format(time.RFC3339Nano))
	}
	if w.position != "" {
		query.Set("after", w.position)
	}
	resp, err := w.c.get(ctx, query, w.stream, "live")
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 2*event.MaxLine)
	for lines.Scan() {
		dead.Reset(silence)
		var l Line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return fmt.Errorf("decode a line of the live stream: %w", err)
		}
		if err := w.line(l); err != nil {
			return err
		}
	}
	if err := cmp.Or(context.Cause(ctx), lines.Err()); err != nil {
		return fmt.Errorf("follow the stream: %w", err)
	}
	return errors.New("follow the stream: the Data API ended it")
}

func (w *watch) line(l Line) error {
	if boot, _, _ := strings.Cut(w.position, "."); w.position != "" && !strings.HasPrefix(l.Position, boot+".") {
		w.earlier, w.given, w.order = w.given, map[uint64]bool{}, nil
	}
	if l.Missed > 0 && w.c.Missed != nil {
		w.c.Missed(l.Missed)
	}
	if l.Event != nil {
		e, err := event.Decode(l.Event)
		if err != nil {
			return fmt.Errorf("decode an event of the live stream: %w", err)
		}
		hash := maphash.Bytes(w.seed, l.Event)
		if w.earlier[hash] {
			delete(w.earlier, hash)
		} else if err := w.fn(e); err != nil {
			return &stopError{err}
		}
		w.remember(hash)
	}
	if !olderPosition(l.Position, w.position) {
		w.position = l.Position
	}
	return nil
}

// olderPosition reports whether a is before b in the same life of the server.
func olderPosition(a, b string) bool {
	bootA, atA, _ := strings.Cut(a, ".")
	bootB, atB, _ := strings.Cut(b, ".")
	if bootA != bootB {
		return false
	}
	x, errX := strconv.ParseUint(atA, 10, 64)
	y, errY := strconv.ParseUint(atB, 10, 64)
	return errX == nil && errY == nil && x < y
}

func (w *watch) remember(hash uint64) {
	if w.given[hash] {
		return
	}
	w.given[hash] = true
	w.order = append(w.order, hash)
	if len(w.order) > givenKept {
		delete(w.given, w.order[0])
		w.order = w.order[1:]
	}
}
