package targets

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
)

// Shared has queues send in one request what they have at the same time for the same Data API over HTTP: an agent measures
// all that it counts in the same moment of a second. Each queue still hears for itself what became of its points. The zero
// Shared is ready for use, and is to be given to all of them in their Options.
type Shared struct {
	mu    sync.Mutex
	posts map[string]*post // by address and headers
}

// Bounds of a request that is shared.
const (
	gatherFor     = 20 * time.Millisecond // from the first batch of it
	gatherBytes   = 1 << 20
	gatherBatches = 256
	apartFor      = 10 * time.Minute // for which a target that takes no such request is spared it
)

// join gives the post to an address, which leave takes back.
func (s *Shared) join(base *url.URL, header http.Header, o Options) (*post, error) {
	text, err := json.Marshal([]any{base.String(), header})
	if err != nil {
		return nil, fmt.Errorf("name the target: %w", err)
	}
	key := string(text)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.posts[key]
	if p == nil {
		ctx, cancel := context.WithCancel(context.Background())
		p = &post{shared: s, key: key, to: base.JoinPath("data").String(), header: header, opts: o, ctx: ctx, cancel: cancel}
		if s.posts == nil {
			s.posts = make(map[string]*post)
		}
		s.posts[key] = p
	}
	p.mu.Lock()
	p.users++
	p.mu.Unlock()
	return p, nil
}

// post sends to one address for all queues that have joined it.
type post struct {
	shared *Shared
	key    string
	to     string
	header http.Header
	opts   Options // of the first queue
	ctx    context.Context
	cancel context.CancelFunc
	rounds sync.WaitGroup

	mu         sync.Mutex
	users      int
	box        *round    // that is being gathered; nil: none
	apartUntil time.Time // the target does not know such requests
}

// round is what goes with one request.
type round struct {
	letters []*letter
	bytes   int
	full    chan struct{} // closed when there is nothing to wait for
}

// letter is a batch of one queue.
type letter struct {
	key    string
	items  []item
	answer chan error // capacity 1; errApart: it is to be sent by itself
}

var errApart = errors.New("the batch is to be sent by itself")

// leave is called once for each join. After the last nothing of the post is left.
func (p *post) leave() {
	p.shared.mu.Lock()
	p.mu.Lock()
	p.users--
	last := p.users == 0
	if last {
		delete(p.shared.posts, p.key)
	}
	p.mu.Unlock()
	p.shared.mu.Unlock()
	if last {
		p.cancel()
		p.rounds.Wait()
		p.opts.HTTPClient.CloseIdleConnections()
	}
}

// send sends a batch with those of others, and gives what became of it.
func (p *post) send(ctx context.Context, key string, items []item) error {
	l := &letter{key: key, items: items, answer: make(chan error, 1)}
	if !p.put(l) {
		return errApart
	}
	select {
	case err := <-l.answer:
		return err
	case <-ctx.Done():
		return ctx.Err() // it may still arrive, and comes again under its key
	}
}

// put puts a letter into the round that is being gathered, and begins one if there is none; false: it would be alone.
func (p *post) put(l *letter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users < 2 || p.opts.Clock.Now().Before(p.apartUntil) {
		return false
	}
	if p.box == nil {
		r := &round{full: make(chan struct{})}
		p.box = r
		p.rounds.Go(func() { p.deliver(r) })
	}
	r := p.box
	r.letters = append(r.letters, l)
	for _, it := range l.items {
		r.bytes += len(it.lines[0]) + 1
	}
	if len(r.letters) >= min(p.users, gatherBatches) || r.bytes >= gatherBytes {
		close(r.full)
		p.box = nil
	}
	return true
}

// deliver waits until a round is gathered, sends it, and answers every letter of it.
func (p *post) deliver(r *round) {
	timer := time.NewTimer(gatherFor)
	defer timer.Stop()
	select {
	case <-r.full:
	case <-timer.C:
	}
	p.mu.Lock()
	if p.box == r {
		p.box = nil
	}
	p.mu.Unlock()
	outcomes, err := p.request(r)
	for i, l := range r.letters {
		if err != nil {
			l.answer <- err
			continue
		}
		l.answer <- outcomes[i].failure(p.opts.Clock.Now())
	}
}

// batchOutcome is what the target says of one batch.
type batchOutcome struct {
	Status     int    `json:"status"`
	Error      string `json:"error"`
	RetryAfter int    `json:"retryAfter"`
}

// failure is nil for a batch that was taken.
func (o batchOutcome) failure(now time.Time) error {
	if o.Status == 0 {
		return nil
	}
	f := httpFailure(o.Status, nil, o.Error, now)
	if f.kind == retryLater {
		f.after = min(maxRetryAfter, time.Duration(max(0, o.RetryAfter))*time.Second)
	}
	return f
}

// batchHeader is the line before each batch.
type batchHeader struct {
	Stream string `json:"stream"`
	Key    string `json:"key"`
	Events int    `json:"events"`
}

// request sends a round. An error is about all of it.
func (p *post) request(r *round) ([]batchOutcome, error) {
	if len(r.letters) == 1 {
		return nil, errApart // in the form that every Data API knows
	}
	body := make([]byte, 0, r.bytes+128*len(r.letters))
	for _, l := range r.letters {
		head, err := json.Marshal(batchHeader{l.items[0].stream, l.key, len(l.items)})
		if err != nil {
			return nil, fmt.Errorf("encode the batch: %w", err)
		}
		body = append(append(body, head...), '\n')
		for _, it := range l.items {
			body = append(append(body, it.lines[0]...), '\n')
		}
	}
	ctx, cancel := context.WithTimeout(p.ctx, maxSendTime-2*gatherFor) // before the queues give up
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.to, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	req.Header = p.header.Clone()
	req.Header.Set("Content-Type", "application/x-ndjson")
	resp, err := p.opts.HTTPClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("post: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return p.outcomes(r, resp, answer)
}

// outcomes reads the answer to a round. Where the target does not take several batches at once, or refuses them together,
// each is to be sent by itself: then it is told what is wrong with that one.
func (p *post) outcomes(r *round, resp *http.Response, answer []byte) ([]batchOutcome, error) {
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		var all struct {
			Batches []batchOutcome `json:"batches"`
		}
		if json.Unmarshal(answer, &all) == nil && len(all.Batches) == len(r.letters) {
			return all.Batches, nil
		}
		return nil, p.spare()
	}
	switch f := httpFailure(resp.StatusCode, resp.Header, string(answer), p.opts.Clock.Now()); {
	case resp.StatusCode == http.StatusRequestEntityTooLarge:
		return nil, errApart
	case f.kind == refused, slices.Contains(unknownTo, resp.StatusCode):
		return nil, p.spare()
	default:
		return nil, f
	}
}

// unknownTo are the answers of a server that knows nothing of the path or what is to be done there.
var unknownTo = []int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType, http.StatusNotImplemented}

// spare has all batches be sent by themselves for a while.
func (p *post) spare() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.apartUntil = p.opts.Clock.Now().Add(apartFor)
	return errApart
}
