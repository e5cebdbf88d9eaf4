package rows

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/collectors/collect"
)

// Feed reads all records of a host at once, as commands print them.
type Feed interface {
	// Read gives every record of every table to the function: the place of its table, its columns, what tells it from
	// others, when it was read in ns of a monotonic clock, and the zone that it belongs to, uuid.Nil for none.
	Read(ctx context.Context, row func(table int, cols [][]byte, id []byte, at int64, zone uuid.UUID)) error
	Close()
}

// Probe measures a request with a Feed. It implements collect.Probe.
type Probe struct {
	plan     *Plan
	request  collect.Request
	zones    collect.Zones
	hostname string
	feed     Feed

	sources map[uuid.UUID]*Source
	order   []uuid.UUID
	primed  bool
	result  collect.Result
	close   sync.Once
}

// NewProbe makes a Probe, which closes the feed when it is closed.
func NewProbe(r collect.Request, plan *Plan, zones collect.Zones, hostname string, feed Feed) *Probe {
	p := &Probe{plan: plan, request: r, zones: zones, hostname: hostname, feed: feed, sources: map[uuid.UUID]*Source{}}
	if r.WholeHost {
		p.setZones([]uuid.UUID{uuid.Nil})
	} else {
		p.setZones(withoutNil(r.Zones))
	}
	return p
}

func withoutNil(zones []uuid.UUID) []uuid.UUID {
	return slices.DeleteFunc(slices.Clone(zones), func(id uuid.UUID) bool { return id == uuid.Nil })
}

// SetZones implements collect.Probe.
func (p *Probe) SetZones(_ context.Context, zones []uuid.UUID) error {
	if p.request.WholeHost {
		return collect.Errorf(collect.Failed, "set the zones of %s: it measures the whole host", p.request.ID)
	}
	p.setZones(withoutNil(zones))
	return nil
}

func (p *Probe) setZones(zones []uuid.UUID) {
	keep := make(map[uuid.UUID]*Source, len(zones))
	p.order = p.order[:0]
	for _, id := range zones {
		if keep[id] != nil {
			continue
		}
		if keep[id] = p.sources[id]; keep[id] == nil {
			keep[id] = p.plan.NewSource(id, p.hostname)
		}
		p.order = append(p.order, id)
	}
	p.sources = keep
}

// Collect implements collect.Probe.
func (p *Probe) Collect(ctx context.Context, _ time.Time) (collect.Result, error) {
	p.result.Samples, p.result.Failures, p.result.Primed = p.result.Samples[:0], p.result.Failures[:0], !p.primed
	active := make(map[uuid.UUID]*Source, len(p.order))
	for _, id := range p.order {
		s := p.sources[id]
		if id != uuid.Nil {
			z, err := p.request.Lookup(p.zones, id)
			if err != nil {
				p.fail(id, err)
			}
			if err != nil || !z.IsRunning() && p.plan.Differential {
				s.Forget()
				continue
			}
		}
		s.Begin()
		active[id] = s
	}
	if len(active) > 0 {
		host := active[uuid.Nil]
		err := p.feed.Read(ctx, func(table int, cols [][]byte, id []byte, at int64, zone uuid.UUID) {
			s := host
			if s == nil && zone != uuid.Nil {
				s = active[zone]
			}
			if s != nil {
				s.Row(table, cols, id, at)
			}
		})
		if err != nil {
			return collect.Result{}, collect.Refusal(err)
		}
	}
	for _, id := range p.order {
		s := active[id]
		if s == nil {
			continue
		}
		var err error
		if p.result.Samples, err = s.End(p.result.Samples); err != nil {
			if id == uuid.Nil {
				return collect.Result{}, collect.Refusal(err)
			}
			p.fail(id, err)
		}
	}
	if !p.primed {
		p.result.Samples = p.result.Samples[:0]
		p.primed = true
	}
	return p.result, nil
}

func (p *Probe) fail(id uuid.UUID, err error) {
	e := collect.Refusal(err)
	p.result.Failures = append(p.result.Failures, collect.ZoneFailure{Zone: id, Code: e.Code, Message: e.Message})
}

// Close implements collect.Probe.
func (p *Probe) Close() error {
	p.close.Do(p.feed.Close)
	return nil
}

// NoDevices is for sources that know no block devices.
type NoDevices struct{}

// IsPartition implements Devices.
func (NoDevices) IsPartition(string) bool { return false }

// Name implements Devices.
func (NoDevices) Name(string) (string, bool) { return "", false }
