// Package delivery is the feed of assignments to the agents that are connected to this process.
//
// Each connected host has one slot that keeps the latest document only, so a slow reader costs nothing and misses nothing
// that still matters. One reader follows the stream of changes; for each change the document is fetched once, in batches,
// and only for hosts that are connected here. Nothing is sent and nothing is called back under a lock.
//
// The package reads and writes through a Source, which it declares, and knows nothing of connections: a transport takes
// events from a Subscription when it is told that there are some.
package delivery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"iapi/assignment"
	"iapi/internal/batch"
)

// Errors that a caller sees, for errors.Is.
var (
	// ErrNotReady: the assignment cannot be read, or was never computed. It never means "empty"; coming back helps.
	ErrNotReady = errors.New("the assignment is not ready")
	// ErrUnknownHost: the inventory has no such host.
	ErrUnknownHost = errors.New("the host is not in the inventory")
	// ErrSuperseded: another session is the host's agent now. This one may come back only after a while.
	ErrSuperseded = errors.New("another session is the agent of this host now")
	// ErrRevoked: the credential of the host's agent was revoked.
	ErrRevoked = errors.New("the agent's credential was revoked")
	// ErrClosed: the subscription, or the whole feed, has ended.
	ErrClosed = errors.New("the feed has ended")
)

// Kind says what a Change is about.
type Kind string

// The kinds of changes. Any other text is treated as Changed, and all but Changed are dealt with first.
const (
	Changed    Kind = ""           // the host has a new document
	Stop       Kind = "stop"       // the same, to stop something at once
	Superseded Kind = "superseded" // Session has become the host's agent
	Revoke     Kind = "revoke"     // the host's agent must go
)

// Change is an entry of the change stream.
type Change struct {
	Host    uuid.UUID
	Version assignment.Version // zero where it is not known
	Kind    Kind
	Session uuid.UUID // of a Superseded
}

// Revoked stands for the session of a host whose agent's credential was revoked.
var Revoked = uuid.Max

// Session is who the agent of a host is.
type Session struct {
	ID     uuid.UUID // Nil where none is known, Revoked where the agent's credential was revoked since
	Number int64     // of its beginning
}

// Source is where assignments come from and reports go to.
type Source interface {
	// Part tells which part of the source has a host, and how many there are, which never changes. One part may not answer
	// while the others do, so nothing waits for two of them.
	Part(host uuid.UUID) (part, of int)
	// Documents and Versions return one for each host, in their order; where none was ever committed its Version is zero. An
	// error that is Unreadable is of some hosts only.
	Documents(ctx context.Context, hosts ...uuid.UUID) ([]assignment.Stored, error)
	Versions(ctx context.Context, hosts ...uuid.UUID) ([]assignment.Version, error)
	// Rebase is told a version that an agent has and that the source cannot have lost honestly: a greater one, or the same
	// one with another hash. It makes the host's version greater than that, if it is not already, and returns it; zero
	// while the host has no document, because it is to be computed anew.
	Rebase(ctx context.Context, host uuid.UUID, known assignment.Version) (assignment.Version, error)
	// WatchDocuments calls fn with what changes from now on, in the order of the stream, until ctx ends or the stream
	// fails. gap says that entries were missed.
	WatchDocuments(ctx context.Context, fn func(changes []Change, gap bool)) error
	// BeginSession makes a session the host's agent, puts a Superseded entry into the stream, and returns the number of this
	// beginning, which is greater than those of all before it. A session that was given one, held above 0, begins again only
	// where the source has lost that and nothing that began later stands; else the answer is 0.
	BeginSession(ctx context.Context, host, session uuid.UUID, held int64) (number int64, err error)
	// Sessions returns who is each host's agent, in their order. An error that is Unreadable is of some hosts only.
	Sessions(ctx context.Context, hosts ...uuid.UUID) ([]Session, error)
	// Knows reports whether the host is in the inventory.
	Knows(ctx context.Context, host uuid.UUID) (bool, error)
	// Touch records that the hosts' agents are alive. It returns those of which that could not be recorded, and why.
	Touch(ctx context.Context, hosts ...uuid.UUID) (missed []uuid.UUID, err error)
	// ReportBatch stores reports and returns one result for each, with an error of its own where only that was not stored.
	ReportBatch(ctx context.Context, reports []Report) ([]ReportResult, error)
}

// Options tune a Hub. The zero value of each member means its default.
type Options struct {
	Logger           *slog.Logger     // default: none
	Clock            func() time.Time // default: time.Now
	SourceTimeout    time.Duration    // of each call to the Source; 5 s
	BatchSize        int              // hosts in one pipeline; 256
	Lanes            int              // pipelines at the same time; 4. A Source of several parts has one for each instead
	CompareEvery     time.Duration    // between comparisons of all versions served, in case a change was lost; 1 min
	TouchEvery       time.Duration    // between records of who is alive; 5 s
	RetryFirst       time.Duration    // after a failed read, doubling up to RetryMost; 100 ms
	RetryMost        time.Duration    // 5 s
	SupersededFor    time.Duration    // how long a superseded session is refused; 20 s
	ReportsPerSecond int              // what heartbeats may cost this process; 200
	MinHeartbeat     time.Duration    // 10 s
	MaxHeartbeat     time.Duration    // 5 min
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	duration := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	number := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	duration(&o.SourceTimeout, 5*time.Second)
	number(&o.BatchSize, 256)
	number(&o.Lanes, 4)
	duration(&o.CompareEvery, time.Minute)
	duration(&o.TouchEvery, 5*time.Second)
	duration(&o.RetryFirst, 100*time.Millisecond)
	duration(&o.RetryMost, 5*time.Second)
	duration(&o.SupersededFor, 20*time.Second)
	number(&o.ReportsPerSecond, 200)
	duration(&o.MinHeartbeat, 10*time.Second)
	duration(&o.MaxHeartbeat, 5*time.Minute)
	return o
}

// Hub is the feed of one process. Run must be running for events to flow.
type Hub struct {
	source Source
	opts   Options
	log    *slog.Logger
	lanes  []*lane

	reports   []*batch.Batcher[Report, ReportResult] // by part of the source, as are the next two
	documents []*batch.Batcher[uuid.UUID, read[assignment.Stored]]
	versions  []*batch.Batcher[uuid.UUID, read[assignment.Version]]

	mu    sync.Mutex
	hosts map[uuid.UUID]*Subscription // the authoritative subscription of each host connected here
	// starting has the turn of the one subscription of a host that begins now, so that they are registered in the order in
	// which the source has heard of them.
	starting map[uuid.UUID]*turn
	pollers  map[uuid.UUID]*poller   // agents that were heard of without a subscription
	banned   map[uuid.UUID]time.Time // superseded sessions, and until when they are refused
	closed   bool
	revoked  func(host uuid.UUID) // nil: nobody wants to know
	observers

	delivered, resumed, superseded, failures atomic.Int64
}

// New makes a Hub.
func New(source Source, o Options) *Hub {
	o = o.withDefaults()
	h := &Hub{
		source: source, opts: o, log: o.Logger,
		hosts: make(map[uuid.UUID]*Subscription), banned: make(map[uuid.UUID]time.Time),
		starting: make(map[uuid.UUID]*turn), pollers: make(map[uuid.UUID]*poller), observers: make(observers),
	}
	_, parts := source.Part(uuid.Nil)
	lanes := parts
	if parts == 1 {
		lanes = o.Lanes
	}
	for range lanes {
		h.lanes = append(h.lanes, newLane())
	}
	for range parts {
		h.reports = append(h.reports, batch.New(o.BatchSize, 2, o.SourceTimeout, source.ReportBatch))
		h.documents = append(h.documents, batch.New(o.BatchSize, 2, o.SourceTimeout,
			func(ctx context.Context, hosts []uuid.UUID) ([]read[assignment.Stored], error) {
				docs, err := source.Documents(ctx, hosts...)
				return readsOf(hosts, docs, err)
			}))
		h.versions = append(h.versions, batch.New(o.BatchSize, 2, o.SourceTimeout,
			func(ctx context.Context, hosts []uuid.UUID) ([]read[assignment.Version], error) {
				versions, err := source.Versions(ctx, hosts...)
				return readsOf(hosts, versions, err)
			}))
	}
	return h
}

// part is that of the source which has the host.
func (h *Hub) part(host uuid.UUID) int {
	part, _ := h.source.Part(host)
	return part
}

// Run follows the change stream and feeds the subscriptions until ctx ends. It then ends them all with ErrClosed, waits for
// everything it has started, and returns ctx's error. It runs once.
func (h *Hub) Run(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(func() { h.watch(ctx) })
	running.Go(func() { h.every(ctx, h.opts.CompareEvery, func() { h.compareAll() }) })
	running.Go(func() { h.every(ctx, h.opts.TouchEvery, func() { h.touchAll(ctx) }) })
	for _, l := range h.lanes {
		running.Go(func() { h.serve(ctx, l) })
		running.Go(func() { h.verifyLoop(ctx, l) })
	}
	<-ctx.Done()
	h.Close()
	running.Wait()
	return ctx.Err()
}

// Close ends all subscriptions with ErrClosed and refuses new ones.
func (h *Hub) Close() {
	h.mu.Lock()
	h.closed = true
	subs := make([]*Subscription, 0, len(h.hosts))
	for _, s := range h.hosts {
		subs = append(subs, s)
	}
	clear(h.hosts)
	h.mu.Unlock()
	for _, s := range subs {
		s.end(ErrClosed)
	}
}

// Stats are counts since the start, but for Connected.
type Stats struct {
	Connected  int   // hosts that have a subscription here
	Delivered  int64 // documents handed to subscriptions
	Resumed    int64 // subscriptions that were answered with a bookmark
	Superseded int64 // subscriptions that another session has ended
	Failures   int64 // failed calls to the Source
}

// Stats returns the counts.
func (h *Hub) Stats() Stats {
	h.mu.Lock()
	connected := len(h.hosts)
	h.mu.Unlock()
	return Stats{
		Connected: connected, Delivered: h.delivered.Load(), Resumed: h.resumed.Load(),
		Superseded: h.superseded.Load(), Failures: h.failures.Load(),
	}
}

// Current returns a host's document. Errors are ErrNotReady and ErrUnknownHost, wrapped.
func (h *Hub) Current(ctx context.Context, host uuid.UUID) (assignment.Stored, error) {
	r, err := h.documents[h.part(host)].Do(ctx, host)
	doc := r.is
	if err = cmp.Or(err, r.err); err != nil {
		h.failures.Add(1)
		return assignment.Stored{}, fmt.Errorf("%w: read the document: %w", ErrNotReady, err)
	}
	if doc.Version == (assignment.Version{}) {
		return assignment.Stored{}, h.missing(ctx, host)
	}
	return doc, nil
}

// Poll is Current for an agent that knows a version already: current tells that it still stands, and then nothing but
// the version was read. A session that is given becomes the host's agent, as by Subscribe. Each call counts as hearing of the agent.
func (h *Hub) Poll(ctx context.Context, host, session uuid.UUID, known assignment.Version) (doc assignment.Stored, current bool, err error) {
	if session != uuid.Nil {
		number, err := h.begin(ctx, host, session)
		if err != nil {
			return assignment.Stored{}, false, err
		}
		h.polls(host, session, number)
	}
	h.hear(host)
	if known != (assignment.Version{}) {
		r, err := h.versions[h.part(host)].Do(ctx, host)
		v := r.is
		if err = cmp.Or(err, r.err); err != nil {
			h.failures.Add(1)
			return assignment.Stored{}, false, fmt.Errorf("%w: read the version: %w", ErrNotReady, err)
		}
		switch {
		case v == known:
			return assignment.Stored{Host: host, Version: v}, true, nil
		case v != (assignment.Version{}) && wentBack(v, known):
			if err := h.rebase(ctx, host, known); err != nil {
				return assignment.Stored{}, false, fmt.Errorf("%w: %w", ErrNotReady, err)
			}
		}
	}
	doc, err = h.Current(ctx, host)
	return doc, false, err
}

// missing tells an unknown host from one whose document was not computed yet.
func (h *Hub) missing(ctx context.Context, host uuid.UUID) error {
	ctx, cancel := context.WithTimeout(ctx, h.opts.SourceTimeout)
	defer cancel()
	known, err := h.source.Knows(ctx, host)
	switch {
	case err != nil:
		h.failures.Add(1)
		return fmt.Errorf("%w: look for the host: %w", ErrNotReady, err)
	case !known:
		return ErrUnknownHost
	}
	return ErrNotReady
}

func (h *Hub) rebase(ctx context.Context, host uuid.UUID, known assignment.Version) error {
	ctx, cancel := context.WithTimeout(ctx, h.opts.SourceTimeout)
	defer cancel()
	v, err := h.source.Rebase(ctx, host, known)
	if err != nil {
		h.failures.Add(1)
		return fmt.Errorf("move the host to a new epoch: %w", err)
	}
	h.log.Warn("an agent knew more than the store; its host begins a new epoch",
		"host", host, "known", known.Generation, "epoch", v.Epoch)
	return nil
}

// wentBack reports whether a version that stands is one that an agent which knows another would refuse.
func wentBack(stands, known assignment.Version) bool {
	return stands != known && !newer(stands, known)
}

// newer reports whether an agent that knows one version takes the other.
func newer(v, known assignment.Version) bool {
	if v.Epoch != known.Epoch {
		return v.Epoch > known.Epoch
	}
	return v.Generation > known.Generation
}

func (h *Hub) every(ctx context.Context, d time.Duration, fn func()) {
	ticker := time.NewTicker(d)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			fn()
		}
	}
}
