package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"iapi/catalog"
	"iapi/instrumentation"
)

const (
	// maxDefinitions bounds how many published definitions are kept, replaced ones included.
	maxDefinitions = 1000
	// keptReplaced is how many replaced definitions of a metric are kept, for documents and agents that are behind.
	keptReplaced = 16
)

// publishedMetric is a metric as it is kept in the hash metrics.
type publishedMetric struct {
	catalog.Standing
	Replaced []string `json:",omitempty"` // digests, newest first
}

// publishedDefinition is a definition as it is kept in the hash definitions, by its digest.
type publishedDefinition struct {
	Metric    string
	Version   int
	Document  string
	Signature []byte `json:",omitempty"`
	KeyID     string `json:",omitempty"`
}

// PublishedRevision implements catalog.Source.
func (s *Store) PublishedRevision(ctx context.Context) (string, error) {
	return s.hget(ctx, "catalog", "revision")
}

// Published implements catalog.Source. What is published meanwhile may be in it, under the revision from before.
func (s *Store) Published(ctx context.Context) (catalog.Published, error) {
	var revision *redis.StringCmd
	var metrics, definitions *redis.MapStringStringCmd
	// The order matters: what a metric names was there before it.
	err := s.pipelined(ctx, "read the published definitions", func(p redis.Pipeliner) {
		revision = p.HGet(ctx, record+"catalog", "revision")
		metrics = p.HGetAll(ctx, record+"metrics")
		definitions = p.HGetAll(ctx, record+"definitions")
	})
	if err != nil {
		return catalog.Published{}, err
	}
	out := catalog.Published{
		Revision: revision.Val(), Metrics: make(map[string]catalog.Standing), Definitions: make(map[string]catalog.Publication),
	}
	for name, t := range metrics.Val() {
		var m publishedMetric
		if err := json.Unmarshal([]byte(t), &m); err != nil {
			return catalog.Published{}, fmt.Errorf("decode the published metric %s: %w", name, err)
		}
		out.Metrics[name] = m.Standing
	}
	for digest, t := range definitions.Val() {
		var d publishedDefinition
		if err := json.Unmarshal([]byte(t), &d); err != nil {
			return catalog.Published{}, fmt.Errorf("decode the published definition %s: %w", digest, err)
		}
		out.Definitions[digest] = catalog.Publication{Document: []byte(d.Document), Signature: d.Signature, KeyID: d.KeyID}
	}
	return out, nil
}

// PublishMetric makes a definition the one of its metric, if the published state is still the one that expect names: else
// instrumentation.ErrRevision. It is as durable as any mutation, and the metric waits to be spread to hosts. At most
// maxDefinitions are kept, else instrumentation.ErrQuota.
func (s *Store) PublishMetric(ctx context.Context, expect string, d *catalog.Definition, a instrumentation.Audit) error {
	b, err := json.Marshal(publishedDefinition{
		Metric: d.Metric.Name, Version: d.Version, Document: string(d.Document), Signature: d.Signature, KeyID: d.KeyID,
	})
	if err != nil {
		return fmt.Errorf("encode the definition: %w", err)
	}
	return s.changeMetric(ctx, expect, d.Metric.Name, a, func(m *publishedMetric, spreading bool) ([]field, error) {
		was, err := s.hget(ctx, "definitions", d.Digest)
		if err != nil {
			return nil, err
		}
		changes := []field{{"definitions", d.Digest, was, string(b)}}
		if m.Digest != "" && m.Digest != d.Digest {
			m.Replaced = slices.Insert(m.Replaced, 0, m.Digest)
		}
		m.Replaced = slices.DeleteFunc(m.Replaced, func(digest string) bool { return digest == d.Digest })
		// While hosts still have to be told of the last one, documents may name any.
		for len(m.Replaced) > keptReplaced && !spreading {
			last := m.Replaced[len(m.Replaced)-1]
			old, err := s.hget(ctx, "definitions", last)
			if err != nil {
				return nil, err
			}
			m.Replaced = m.Replaced[:len(m.Replaced)-1]
			if old != "" {
				changes = append(changes, field{"definitions", last, old, ""})
			}
		}
		if was == "" {
			if err := s.roomForDefinitions(ctx); err != nil {
				return nil, err
			}
		}
		m.Standing = catalog.Standing{Digest: d.Digest, Version: d.Version}
		return changes, nil
	})
}

func (s *Store) roomForDefinitions(ctx context.Context) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	n, err := s.client.HLen(ctx, record+"definitions").Result()
	if err != nil {
		return fault("count the published definitions", err)
	}
	if n >= maxDefinitions {
		return fmt.Errorf("publish a definition: %w: %d definitions are kept", instrumentation.ErrQuota, n)
	}
	return nil
}

// RetireMetric takes a metric off what can be asked for; expect is as for PublishMetric. What measures it goes on.
func (s *Store) RetireMetric(ctx context.Context, expect string, d *catalog.Definition, a instrumentation.Audit) error {
	return s.changeMetric(ctx, expect, d.Metric.Name, a, func(m *publishedMetric, _ bool) ([]field, error) {
		m.Retired = true
		m.Version = max(m.Version, d.Version)
		return nil, nil
	})
}

// changeMetric changes a published metric, together with other fields, and gives what is published a new revision. edit
// is told whether hosts wait to be told of the metric's last definition.
func (s *Store) changeMetric(
	ctx context.Context, expect, name string, a instrumentation.Audit, edit func(m *publishedMetric, spreading bool) ([]field, error),
) error {
	for range racers {
		err := s.tryMetric(ctx, expect, name, a, edit)
		if !errors.Is(err, errMoved) {
			return err
		}
		// The workers note how far the metric was spread; only another publication is in the way.
		revision, err := s.PublishedRevision(ctx)
		if err != nil {
			return err
		}
		if revision != expect {
			return fmt.Errorf("publish %s: %w", name, instrumentation.ErrRevision)
		}
	}
	return fmt.Errorf("publish %s: too many writers at once", name)
}

// tryMetric tries changeMetric once; errMoved says that something has changed since it was read.
func (s *Store) tryMetric(
	ctx context.Context, expect, name string, a instrumentation.Audit, edit func(m *publishedMetric, spreading bool) ([]field, error),
) error {
	was, err := s.hget(ctx, "metrics", name)
	if err != nil {
		return err
	}
	waiting, err := s.hget(ctx, "spread", name)
	if err != nil {
		return err
	}
	var m publishedMetric
	if was != "" {
		if err := json.Unmarshal([]byte(was), &m); err != nil {
			return fmt.Errorf("decode the published metric %s: %w", name, err)
		}
	}
	digest := m.Digest
	changes, err := edit(&m, waiting != "")
	if err != nil {
		return err
	}
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode the published metric %s: %w", name, err)
	}
	revision := uuid.NewString()
	changes = append(changes, field{"metrics", name, was, string(b)}, field{"catalog", "revision", expect, revision})
	if m.Digest != digest {
		changes = append(changes, field{"spread", name, waiting, revision})
	}
	return s.setFields(ctx, &a, changes...)
}

// Spread is a metric whose new definition hosts have to be told of.
type Spread struct {
	Metric string
	Begun  time.Time // when its hosts were marked, by the store's clock; zero: not yet
	mark   string
}

// Unspread returns the metrics that wait to be spread, by name.
func (s *Store) Unspread(ctx context.Context) ([]Spread, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	all, err := s.client.HGetAll(ctx, record+"spread").Result()
	if err != nil {
		return nil, fault("read which definitions are to be spread", err)
	}
	out := make([]Spread, 0, len(all))
	for name, mark := range all {
		sp := Spread{Metric: name, mark: mark}
		if _, ms, begun := strings.Cut(mark, "|"); begun {
			sp.Begun = time.UnixMilli(number(ms)).UTC()
		}
		out = append(out, sp)
	}
	slices.SortFunc(out, func(a, b Spread) int { return strings.Compare(a.Metric, b.Metric) })
	return out, nil
}

// BeginSpread notes that the hosts of a metric were marked. Nothing happens if it was published again since.
func (s *Store) BeginSpread(ctx context.Context, sp Spread, now time.Time) error {
	revision, _, _ := strings.Cut(sp.mark, "|")
	return s.setSpread(ctx, sp, revision+"|"+itoa(now.UnixMilli()))
}

// EndSpread notes that every host of a metric has been told. Nothing happens if it was published again since.
func (s *Store) EndSpread(ctx context.Context, sp Spread) error { return s.setSpread(ctx, sp, "") }

func (s *Store) setSpread(ctx context.Context, sp Spread, mark string) error {
	err := s.setFields(ctx, nil, field{"spread", sp.Metric, sp.mark, mark})
	if errors.Is(err, errMoved) {
		return nil
	}
	return err
}
