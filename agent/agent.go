// Package agent is what runs on each host: it holds the host's session with the API, keeps running exactly what the
// assignment says, and reports how it fares. It measures through collectors and sends straight to targets.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"iapi/agent/session"
	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/measure"
	"iapi/targets"
)

// Collectors opens probes; *collectors.Registry is one.
type Collectors interface {
	Open(ctx context.Context, r collect.Request) (collect.Probe, error)
}

// Queue takes points and sends them on; *targets.Queue is one.
type Queue interface {
	Enqueue(points []measure.Point)
	Stats() targets.Stats
	Close(ctx context.Context) error
}

// Session is the agent's side of the conversation with the API; *session.Session is one.
type Session interface {
	// Run keeps the session until ctx ends, and hands each newer assignment to receive.
	Run(ctx context.Context, receive func(session.Assignment)) error
	// Know tells what the agent runs already, before Run.
	Know(v session.Version)
	// Returned signals that the API, which was away, may have lost what it was told.
	Returned() <-chan struct{}
	Report(ctx context.Context, r session.Report) (session.ReportResult, error)
	Definition(ctx context.Context, digest string) (catalog.Publication, error)
}

// Options say what an agent is made of. All but Dir, Logger, Clock, SinceBoot, Owner, TrustedKeys and Catalog are required.
type Options struct {
	Host       uuid.UUID
	Version    string
	Session    Session
	Collectors Collectors
	// OpenTarget makes the queue to one target of one instrumentation.
	OpenTarget func(instrumentation string, t measure.Target) (Queue, error)
	// Owner tells who owns a zone as this host sees it; Nil: the host does not know. A zone whose owner is not the
	// instrumentation's is refused.
	Owner        func(vm uuid.UUID) uuid.UUID
	Capabilities []string
	// TrustedKeys are those that definitions must be signed with; those that come with the agent need no signature. Nil:
	// whatever the API serves is trusted.
	TrustedKeys catalog.Keys
	// Catalog has the definitions that come with the agent; nil: those of the program. They count only where keys are
	// trusted: they need no signature, and of their metrics no older definition is run.
	Catalog *catalog.Catalog
	Dir     string // for the last good assignment and fetched definitions; "": nothing is kept
	Logger  *slog.Logger
	Clock   func() time.Time // the wall clock, for the times of samples; nil: time.Now
	// SinceBoot is the clock that times to live are counted by, which nobody sets; nil: the kernel's, with time asleep.
	SinceBoot func() time.Duration
}

// Agent is one host's agent.
type Agent struct {
	opts     Options
	log      *slog.Logger
	disk     disk
	reporter *reporter
	sup      *supervisor
}

// New makes an agent. It fails when its directory cannot be used.
func New(o Options) (*Agent, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Owner == nil {
		o.Owner = func(uuid.UUID) uuid.UUID { return uuid.Nil }
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.SinceBoot == nil {
		o.SinceBoot = boottime
	}
	d, err := openDisk(o.Dir, o.Host)
	if err != nil {
		return nil, err
	}
	t, err := newTrust(o.TrustedKeys, o.Catalog, d, o.Logger)
	if err != nil {
		return nil, err
	}
	a := &Agent{opts: o, log: o.Logger, disk: d}
	a.reporter = newReporter(o)
	a.sup = newSupervisor(o, d, t, a.reporter)
	return a, nil
}

// Run measures until ctx ends, then stops every probe and returns. What it ran last is resumed from disk at once, so that
// an API that is away stops no measurement.
func (a *Agent) Run(ctx context.Context) error {
	last, ok, err := a.disk.load()
	switch {
	case err != nil:
		a.log.Warn("the saved assignment cannot be used; waiting for the API", "error", err)
	case ok:
		known := last.Version
		if !a.sup.resume(last) {
			known.Generation-- // so that this very version is sent again, and nothing before it
		}
		a.opts.Session.Know(known)
		a.log.Info("resumed the saved assignment", "instrumentations", len(last.Items),
			"generation", last.Version.Generation)
	}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.sup.run(ctx) })
	g.Go(func() error { return a.sup.expiry.run(ctx) })
	g.Go(func() error { return a.reporter.run(ctx) })
	g.Go(func() error { return a.opts.Session.Run(ctx, a.sup.receive) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("run the agent: %w", err)
	}
	return nil
}
