package collectors

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/measure"
)

// counter is an engine whose probes give each of their zones, or the host, the number of the reading.
type counter struct {
	mu                   sync.Mutex // what follows is of all probes; what a probe has itself is used by one at a time
	opened, closed, read int
	zones                [][]uuid.UUID
	err                  error
}

type counterProbe struct {
	c      *counter
	whole  bool
	zones  []uuid.UUID
	primed bool
	result Result
}

func (c *counter) Open(_ context.Context, q Request, _ *catalog.Variant) (Probe, error) {
	if c.err != nil {
		return nil, c.err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opened++
	c.zones = append(c.zones, q.Zones)
	return &counterProbe{c: c, whole: q.WholeHost, zones: q.Zones}, nil
}

func (p *counterProbe) Collect(ctx context.Context, _ time.Time) (Result, error) {
	if ctx.Err() != nil {
		return Result{}, ctx.Err()
	}
	if !p.primed {
		p.primed = true
		return Result{Primed: true}, nil
	}
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.c.read++
	p.result.Samples = p.result.Samples[:0]
	if p.whole {
		p.result.Samples = append(p.result.Samples, Sample{Value: float64(p.c.read)})
	}
	for _, z := range p.zones {
		p.result.Samples = append(p.result.Samples, Sample{Zone: z, Value: float64(p.c.read)})
	}
	return p.result, nil
}

func (p *counterProbe) SetZones(_ context.Context, zones []uuid.UUID) error {
	p.zones = zones
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.c.zones = append(p.c.zones, zones)
	return nil
}

func (p *counterProbe) Close() error {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.c.closed++
	return nil
}

var (
	zone1, zone2 = uuid.MustParse("00000000-0000-4000-8000-000000000001"), uuid.MustParse("00000000-0000-4000-8000-000000000002")
	zone3        = uuid.MustParse("00000000-0000-4000-8000-000000000003")
	owner1       = uuid.MustParse("00000000-0000-4000-8000-0000000000f1")
	variant1     = &catalog.Variant{ID: "v"}
)

func wishFor(zones ...uuid.UUID) Request {
	return Request{Definition: &catalog.Definition{Digest: "d"}, Owner: owner1, Zones: zones, Granularity: time.Second}
}

func shareOf(t *testing.T, s *shares, c *counter, q Request) Probe {
	t.Helper()
	p, err := s.open(t.Context(), c, q, variant1)
	require.NoError(t, err)
	res, err := p.Collect(t.Context(), time.Unix(1, 0))
	require.NoError(t, err)
	require.True(t, res.Primed)
	require.Empty(t, res.Samples)
	return p
}

func values(t *testing.T, p Probe, second int64) map[uuid.UUID]float64 {
	t.Helper()
	res, err := p.Collect(t.Context(), time.Unix(second, 0))
	require.NoError(t, err)
	require.False(t, res.Primed)
	found := map[uuid.UUID]float64{}
	for _, s := range res.Samples {
		found[s.Zone] = s.Value
	}
	return found
}

func TestEqualWishesOfAnOwnerShareAProbe(t *testing.T) {
	var s shares
	c := &counter{}
	one, two := shareOf(t, &s, c, wishFor(zone1, zone2)), shareOf(t, &s, c, wishFor(zone2, zone3))
	require.Equal(t, 1, c.opened)
	require.Equal(t, map[uuid.UUID]float64{zone1: 1, zone2: 1}, values(t, one, 2))
	require.Equal(t, map[uuid.UUID]float64{zone2: 1, zone3: 1}, values(t, two, 2), "each sees its own zones, and the same reading")
	require.Equal(t, map[uuid.UUID]float64{zone2: 2, zone3: 2}, values(t, two, 3))
	require.Equal(t, map[uuid.UUID]float64{zone2: 3, zone3: 3}, values(t, two, 4))
	require.Equal(t, map[uuid.UUID]float64{zone1: 2, zone2: 2}, values(t, one, 3), "one that is late by an interval loses nothing")
	require.Equal(t, map[uuid.UUID]float64{zone1: 3, zone2: 3}, values(t, one, 4))

	require.NoError(t, two.SetZones(t.Context(), []uuid.UUID{zone3}))
	require.Equal(t, map[uuid.UUID]float64{zone3: 4}, values(t, two, 5))
	require.NoError(t, one.Close())
	require.NoError(t, one.Close())
	require.Zero(t, c.closed, "the other one needs it")
	require.Equal(t, map[uuid.UUID]float64{zone3: 5}, values(t, two, 6))
	require.Equal(t, [][]uuid.UUID{{zone1, zone2}, {zone1, zone2, zone3}, {zone3}}, c.zones, "what nobody wants is not measured")
	require.Equal(t, map[uuid.UUID]float64{zone3: 6}, values(t, two, 2), "a clock that is set back stops nothing")
	require.NoError(t, two.Close())
	require.Equal(t, 1, c.closed)
	require.Empty(t, s.probes)
}

func TestUnequalWishesShareNothing(t *testing.T) {
	var s shares
	c := &counter{}
	variations := []func(*Request){
		func(*Request) {},
		func(q *Request) { q.Owner = uuid.Nil },
		func(q *Request) { q.Granularity = time.Minute },
		func(q *Request) { q.Decompositions = []string{"cpumode"} },
		func(q *Request) { q.Definition = &catalog.Definition{Digest: "other"} },
		func(q *Request) { q.Owner, q.WholeHost, q.Zones = uuid.Nil, true, nil },
		func(q *Request) {
			q.Predicate = measure.Predicate{Op: measure.Eq, Field: "cpumode", Value: measure.String("user")}
		},
	}
	for i, vary := range variations {
		q := wishFor(zone1)
		vary(&q)
		p := shareOf(t, &s, c, q)
		defer p.Close()
		require.Equal(t, i+1, c.opened)
	}
	q := wishFor(zone1)
	q.Predicate = measure.Predicate{Op: measure.And, Args: []measure.Predicate{{}, {}}} // which says nothing
	defer shareOf(t, &s, c, q).Close()
	require.Equal(t, len(variations), c.opened)
}

func TestAPartThatEndsTakesNothingFromTheOthers(t *testing.T) {
	var s shares
	c := &counter{err: collect.Errorf(Unsupported, "not here")}
	_, err := s.open(t.Context(), c, wishFor(zone1), variant1)
	require.ErrorIs(t, err, c.err)
	require.Empty(t, s.probes)
	c.err = nil
	one, two := shareOf(t, &s, c, wishFor(zone1)), shareOf(t, &s, c, wishFor(zone1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = one.Collect(ctx, time.Unix(2, 0))
	require.True(t, errors.Is(err, context.Canceled))
	require.Equal(t, map[uuid.UUID]float64{zone1: 1}, values(t, two, 2))
}

// Run with the race detector.
func TestASharedProbeIsUsedByOneAtATime(t *testing.T) {
	var s shares
	c := &counter{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				p, err := s.open(context.Background(), c, wishFor(zone1, zone2), variant1)
				if err != nil {
					t.Error(err)
					return
				}
				for second := range 10 {
					res, err := p.Collect(context.Background(), time.Unix(int64(second), 0))
					if err != nil || len(res.Samples) > 0 && res.Samples[0].Value != res.Samples[1].Value {
						t.Errorf("%v %v", res, err)
					}
				}
				_ = p.SetZones(context.Background(), []uuid.UUID{zone2, zone3})
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, c.opened, c.closed)
	require.Empty(t, s.probes)
}
