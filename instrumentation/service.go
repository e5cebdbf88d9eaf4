package instrumentation

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"iapi/catalog"
)

// Catalog knows the metrics.
type Catalog interface {
	// Metrics returns all, sorted by name.
	Metrics() []*catalog.Metric
	Metric(name string) (*catalog.Metric, bool)
	// Definition returns the definition with a digest.
	Definition(digest string) (*catalog.Definition, bool)
}

// Options are what a Service is made of. Store, Queue, Previewer, Agents and Catalog are required.
type Options struct {
	Store     Store
	Queue     Queue
	Previewer Previewer
	Agents    Agents
	Catalog   Catalog
	Publisher Publisher // nil: nothing can be published
	// TrustedKeys are those of which one must have signed what is published; nil: it need not be signed.
	TrustedKeys catalog.Keys
	Policy      Policy           // zero members: DefaultPolicy's
	Clock       func() time.Time // nil: time.Now
	Entropy     io.Reader        // nil: crypto/rand
	// Secret signs preview tokens. Every process that serves the API needs the same one; nil makes a random one, good
	// for a single process.
	Secret []byte
	Logger *slog.Logger // nil: nothing is logged
}

// Service is the use cases. Who may do what is decided here and nowhere else: whoever calls a method passes on what it
// returns. Methods may be called at the same time.
//
// A tenant sees and touches only what it owns; what another owns looks like what does not exist. Nothing that a tenant or
// a service acting for one gets names a host. Errors are UserErrors for what the caller can mend, or wrap one of
// ErrUnauthenticated, ErrForbidden, ErrBadRequest, ErrNotFound, ErrNotReady and ErrNotDurable; anything else is a fault
// whose text is not for the caller.
type Service struct {
	store     Store
	queue     Queue
	previewer Previewer
	agents    Agents
	catalog   Catalog
	publisher Publisher
	keys      catalog.Keys
	policy    Policy
	clock     func() time.Time
	entropy   io.Reader
	secret    []byte
	log       *slog.Logger
}

// New makes a Service.
func New(o Options) (*Service, error) {
	for _, part := range []struct {
		name string
		is   bool
	}{
		{"Store", o.Store != nil}, {"Queue", o.Queue != nil}, {"Previewer", o.Previewer != nil},
		{"Agents", o.Agents != nil}, {"Catalog", o.Catalog != nil},
	} {
		if !part.is {
			return nil, fmt.Errorf("make the instrumentation service: Options.%s is missing", part.name)
		}
	}
	s := &Service{
		store: o.Store, queue: o.Queue, previewer: o.Previewer, agents: o.Agents, catalog: o.Catalog, publisher: o.Publisher, keys: o.TrustedKeys,
		policy: o.Policy.withDefaults(), clock: o.Clock, entropy: o.Entropy, secret: o.Secret, log: o.Logger,
	}
	if s.clock == nil {
		s.clock = time.Now
	}
	if s.entropy == nil {
		s.entropy = rand.Reader
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if len(s.secret) == 0 {
		s.secret = make([]byte, 32)
		if _, err := io.ReadFull(s.entropy, s.secret); err != nil {
			return nil, fmt.Errorf("make a secret for preview tokens: %w", err)
		}
	}
	if err := s.policy.validate(); err != nil {
		return nil, fmt.Errorf("make the instrumentation service: %w", err)
	}
	return s, nil
}

// now is the time to the millisecond, which is what the API shows.
func (s *Service) now() time.Time { return s.clock().UTC().Truncate(time.Millisecond) }

// evaluate hands a committed change to the workers. Their tick finds what is lost here, so failing is only logged.
func (s *Service) evaluate(ctx context.Context, rec Instrumentation) {
	if err := s.queue.Evaluate(ctx, rec.ID, rec.Revision); err != nil {
		s.log.WarnContext(ctx, "a change waits for the workers' tick", "instrumentation", rec.ID, "revision", rec.Revision, "error", err)
	}
}

// commit makes a change. A change that no replica has confirmed stands all the same, so the workers are told of it too.
func (s *Service) commit(ctx context.Context, c Change) (Instrumentation, error) {
	rec, err := s.store.Commit(ctx, c)
	switch {
	case err == nil:
		s.evaluate(ctx, rec)
	case errors.Is(err, ErrNotDurable):
		s.evaluate(ctx, c.Record)
	}
	return rec, err
}
