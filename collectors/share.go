package collectors

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/measure"
)

// shares lets equal wishes of one owner use one probe, which measures the zones of all of them; each sees its own. Wishes of
// different owners never share, so that one's keys cannot push out another's. The zero shares is ready for use.
type shares struct {
	mu     sync.Mutex
	probes map[string]*shared
}

// shared is a probe with those that use it.
type shared struct {
	shares *shares
	key    string
	parts  map[*part]struct{} // guarded by shares.mu

	turn   sync.Mutex // one use of the probe at a time; guards what follows
	probe  Probe      // nil until it is open, then always the same
	zones  []uuid.UUID
	primed bool
	last   [2]reading // the newest first: a part may be late by one interval
}

// reading is what the probe gave for one interval.
type reading struct {
	at  time.Time
	res Result
	err error
}

// part is one wish's share of a probe.
type part struct {
	of     *shared
	whole  bool
	closed bool        // guarded by shares.mu
	zones  []uuid.UUID // guarded by shares.mu
	primed bool
	result Result
}

var _ Probe = (*part)(nil)

// open joins the probe of equal wishes, or opens the first.
func (s *shares) open(ctx context.Context, engine Engine, q Request, v *catalog.Variant) (Probe, error) {
	key, err := shareKey(q, v)
	if err != nil {
		return nil, err
	}
	p := s.join(key, q)
	p.of.turn.Lock()
	defer p.of.turn.Unlock()
	if p.of.probe == nil {
		q.Zones = p.of.wanted()
		probe, err := engine.Open(ctx, q, v)
		if err != nil {
			s.leave(p)
			return nil, err
		}
		p.of.probe, p.of.zones = probe, q.Zones
	}
	return p, nil
}

// shareKey names what a probe is for, but for its zones.
func shareKey(q Request, v *catalog.Variant) (string, error) {
	key, err := json.Marshal(struct {
		Definition, Variant string
		Predicate           measure.Predicate
		Decompositions      []string
		Owner               uuid.UUID
		Whole               bool
		Granularity         time.Duration
	}{q.Definition.Digest, v.ID, q.Predicate.Canonical(), q.Decompositions, q.Owner, q.WholeHost, q.Granularity})
	if err != nil {
		return "", fmt.Errorf("name the probe: %w", err)
	}
	return string(key), nil
}

func (s *shares) join(key string, q Request) *part {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.probes == nil {
		s.probes = make(map[string]*shared)
	}
	of := s.probes[key]
	if of == nil {
		of = &shared{shares: s, key: key, parts: make(map[*part]struct{})}
		s.probes[key] = of
	}
	p := &part{of: of, whole: q.WholeHost}
	p.zones = sortedZones(q.Zones)
	of.parts[p] = struct{}{}
	return p
}

// leave takes a part from its probe, and reports whether it was the last: then nothing joins the probe any more.
func (s *shares) leave(p *part) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.closed {
		return false
	}
	p.closed = true
	delete(p.of.parts, p)
	if len(p.of.parts) > 0 {
		return false
	}
	delete(s.probes, p.of.key)
	return true
}

// wanted are the zones of all parts, sorted, each once.
func (of *shared) wanted() []uuid.UUID {
	of.shares.mu.Lock()
	defer of.shares.mu.Unlock()
	var all []uuid.UUID
	for p := range of.parts {
		if len(of.parts) == 1 {
			return p.zones
		}
		all = append(all, p.zones...)
	}
	return sortedZones(all)
}

func sortedZones(zones []uuid.UUID) []uuid.UUID {
	zones = slices.Clone(zones)
	slices.SortFunc(zones, compareZones)
	return slices.Compact(zones)
}

func compareZones(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) }

// Collect implements Probe. The first part that asks for an interval has the probe measure it for all.
func (p *part) Collect(ctx context.Context, at time.Time) (Result, error) {
	of := p.of
	of.turn.Lock()
	defer of.turn.Unlock()
	if !p.primed {
		if !of.primed {
			if err := of.push(ctx); err != nil {
				return Result{}, err
			}
			if _, err := of.probe.Collect(ctx, at); err != nil {
				return Result{}, err
			}
			of.primed = true
		}
		p.primed = true
		return Result{Primed: true}, nil
	}
	r := of.read(ctx, at)
	if r.err != nil {
		return Result{}, r.err
	}
	p.show(&r.res)
	return p.result, nil
}

// read gives what was measured for an interval, or measures it. The caller has the turn.
func (of *shared) read(ctx context.Context, at time.Time) *reading {
	for i := range of.last {
		if of.last[i].at.Equal(at) {
			return &of.last[i]
		}
	}
	of.last[0], of.last[1] = of.last[1], of.last[0]
	r := &of.last[0]
	r.at, r.err = at, of.push(ctx)
	if r.err == nil {
		var res Result
		res, r.err = of.probe.Collect(ctx, at)
		r.res = Result{
			Samples: append(r.res.Samples[:0], res.Samples...), Failures: append(r.res.Failures[:0], res.Failures...),
			Primed: res.Primed, Notice: res.Notice, Every: res.Every,
		}
	}
	if ctx.Err() != nil {
		r.at = time.Time{} // it failed for this part, which ends, and not for the others
	}
	return r
}

// push gives the probe the zones that its parts have now. The caller has the turn.
func (of *shared) push(ctx context.Context) error {
	zones := of.wanted()
	if slices.Equal(zones, of.zones) {
		return nil
	}
	if err := of.probe.SetZones(ctx, zones); err != nil {
		return err
	}
	of.zones = zones
	return nil
}

// show takes from a reading what is the part's own.
func (p *part) show(res *Result) {
	p.of.shares.mu.Lock()
	zones := p.zones // which are replaced, never changed
	p.of.shares.mu.Unlock()
	mine := func(id uuid.UUID) bool {
		_, found := slices.BinarySearchFunc(zones, id, compareZones)
		return found || p.whole
	}
	p.result = Result{Samples: p.result.Samples[:0], Failures: p.result.Failures[:0], Primed: res.Primed, Notice: res.Notice, Every: res.Every}
	for _, s := range res.Samples {
		if mine(s.Zone) {
			p.result.Samples = append(p.result.Samples, s)
		}
	}
	for _, f := range res.Failures {
		if mine(f.Zone) {
			p.result.Failures = append(p.result.Failures, f)
		}
	}
}

// SetZones implements Probe. The probe hears of it before it measures the next interval.
func (p *part) SetZones(_ context.Context, zones []uuid.UUID) error {
	if p.whole {
		return collect.Errorf(Failed, "set the zones of a probe: it measures the whole host")
	}
	p.of.shares.mu.Lock()
	defer p.of.shares.mu.Unlock()
	p.zones = sortedZones(zones)
	return nil
}

// Close implements Probe. The last part closes the probe.
func (p *part) Close() error {
	if !p.of.shares.leave(p) {
		return nil
	}
	return p.of.probe.Close()
}
