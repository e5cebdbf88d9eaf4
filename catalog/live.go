package catalog

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// followEvery is how often Live looks for what was published.
const followEvery = 500 * time.Millisecond

// Publication is a definition that was published while IAPI runs.
type Publication struct {
	Document  []byte
	Signature []byte // Ed25519 over Document; nil: it is not signed
	KeyID     string // of the key that made it
}

// Standing is what was last published of a metric.
type Standing struct {
	Digest  string // of the definition; "": the one that comes with IAPI
	Version int    // of that definition
	Retired bool   // nothing new may measure it
}

// Published is all that was published, as it stood at a revision.
type Published struct {
	Revision    string                 // "": nothing ever was
	Metrics     map[string]Standing    // by name
	Definitions map[string]Publication // by digest, replaced ones included
}

// Publications has what was published; all processes of a datacenter share one.
type Publications interface {
	// PublishedRevision names what is published now. It is never the same for two different states.
	PublishedRevision(ctx context.Context) (string, error)
	Published(ctx context.Context) (Published, error)
}

// Live is a catalog that follows what is published: the definitions that come with IAPI, and over them those that were
// published with a higher version. It is safe for concurrent use, and no reader ever waits.
type Live struct {
	base   *Catalog
	source Publications
	log    *slog.Logger
	now    atomic.Pointer[state]
}

// state is what Live is at one moment. It never changes.
type state struct {
	revision string
	offered  *Catalog               // what may be asked for
	known    map[string]*Definition // by name; what was retired or cannot be read here is in it too
	retired  map[string]bool
	byDigest map[string]*Definition
}

// NewLive makes a Live of the definitions that come with IAPI. It has nothing else before the first Sync.
func NewLive(base *Catalog, source Publications, log *slog.Logger) *Live {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	l := &Live{base: base, source: source, log: log}
	l.now.Store(l.state(Published{}, nil))
	return l
}

// Run follows what is published until ctx ends, and returns its error.
func (l *Live) Run(ctx context.Context) error {
	ticker := time.NewTicker(followEvery)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		err := l.Sync(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			l.log.Warn("published definitions cannot be read; the known ones stay", "error", err)
		}
		failing = err != nil
	}
}

// Sync takes over everything that was published before the call.
func (l *Live) Sync(ctx context.Context) error {
	for {
		before := l.now.Load()
		revision, err := l.source.PublishedRevision(ctx)
		if err != nil {
			return fmt.Errorf("read the revision of the published definitions: %w", err)
		}
		if revision == before.revision {
			return nil
		}
		published, err := l.source.Published(ctx)
		if err != nil {
			return fmt.Errorf("read the published definitions: %w", err)
		}
		if l.now.CompareAndSwap(before, l.state(published, before)) {
			l.log.Info("took over the published definitions", "published", len(published.Metrics), "revision", published.Revision)
			return nil
		}
	}
}

// state makes the state of what is published. A definition that this program cannot read, because a newer one took it,
// is kept by its digest, so that documents and agents get it all the same; it is not offered here.
func (l *Live) state(p Published, before *state) *state {
	s := &state{revision: p.Revision, known: make(map[string]*Definition), retired: make(map[string]bool), byDigest: make(map[string]*Definition)}
	for name, d := range l.base.byName {
		s.known[name], s.byDigest[d.Digest] = d, d
	}
	unreadable := make(map[*Definition]bool)
	for digest, publication := range p.Definitions {
		d := before.published(digest, publication)
		if d == nil {
			var err error
			if d, err = Parse(publication.Document); err != nil {
				l.log.Warn("a published definition cannot be read by this program", "digest", digest, "error", err)
				d = &Definition{Digest: digest, Document: publication.Document}
			}
			d.Signature, d.KeyID = publication.Signature, publication.KeyID
		}
		unreadable[d] = d.Metric.Name == ""
		s.byDigest[digest] = d
	}
	for name, standing := range p.Metrics {
		s.retired[name] = standing.Retired
		d, ok := s.byDigest[standing.Digest]
		if have := s.known[name]; !ok || have != nil && have.Version > standing.Version {
			continue // what comes with this program is newer
		}
		if unreadable[d] {
			d = &Definition{Metric: Metric{Name: name, Digest: d.Digest}, Digest: d.Digest, Document: d.Document, Version: standing.Version,
				Signature: d.Signature, KeyID: d.KeyID}
			s.byDigest[d.Digest] = d
			unreadable[d] = true
		}
		s.known[name] = d
	}
	var offered []*Definition
	for name, d := range s.known {
		if !s.retired[name] && !unreadable[d] {
			offered = append(offered, d)
		}
	}
	s.offered = build(offered)
	return s
}

// published returns the definition as it was read before, nil if it has changed or could not be read.
func (s *state) published(digest string, p Publication) *Definition {
	if s == nil {
		return nil
	}
	d := s.byDigest[digest]
	if d == nil || len(d.Variants) == 0 || string(d.Signature) != string(p.Signature) || d.KeyID != p.KeyID {
		return nil
	}
	return d
}

// Revision names the published state that was taken over last.
func (l *Live) Revision() string { return l.now.Load().revision }

// Metrics returns all metrics that may be asked for, sorted by name.
func (l *Live) Metrics() []*Metric { return l.now.Load().offered.Metrics() }

// Metric returns the metric with the name, if it may be asked for.
func (l *Live) Metric(name string) (*Metric, bool) { return l.now.Load().offered.Metric(name) }

// Definition returns the definition whose document has the digest: those that are retired or were replaced too.
func (l *Live) Definition(digest string) (*Definition, bool) {
	d, ok := l.now.Load().byDigest[digest]
	return d, ok
}

// Known returns the newest definition of a metric and whether that was retired. One that this program cannot read has
// only its name, version, digest and document.
func (l *Live) Known(name string) (d *Definition, retired, ok bool) {
	s := l.now.Load()
	d, ok = s.known[name]
	return d, s.retired[name], ok
}

// Assigned is the view of a Live for those who write documents: what measures a retired metric goes on, so they know
// those too.
type Assigned struct{ *Live }

// Metric returns the metric with the name, also if it was retired.
func (a Assigned) Metric(name string) (*Metric, bool) {
	d, _, ok := a.Known(name)
	if !ok {
		return nil, false
	}
	return &d.Metric, true
}
