package dtrace

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/catalog"
	"iapi/collectors/collect"
)

// Bounds of waiting for a program's interval, and of what is kept for a probe that does not collect.
const (
	patience   = 2 * time.Second
	silence    = 15 * time.Second // without any interval a program is as good as dead
	maxPending = 64               // seconds, beyond which older ones are put together
)

// probe measures one request with a program that it may share.
type probe struct {
	engine  *Engine
	request collect.Request
	variant *catalog.Variant
	convict string // what is quarantined when it costs too much
	run     *running

	mu      sync.Mutex
	zones   []uuid.UUID
	pending []*snapshot   // in the order of their seconds
	end     time.Duration // since boot, when it is not to be measured any more
	closed  bool

	primed bool
	result collect.Result
}

var (
	_ collect.Probe   = (*probe)(nil)
	_ collect.Lasting = (*probe)(nil)
)

func (p *probe) setZones(zones []uuid.UUID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.zones = nil
	for _, id := range zones {
		if id != uuid.Nil && !slices.Contains(p.zones, id) {
			p.zones = append(p.zones, id)
		}
	}
	if p.request.WholeHost {
		p.zones = nil
	}
}

// allowed gives the zones that the probe may see.
func (p *probe) allowed() []uuid.UUID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.zones)
}

// setLifetime notes when the probe ends: not after the definition's longest time.
func (p *probe) setLifetime(left, longest time.Duration) {
	if left <= 0 || left > longest {
		left = longest
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end = sinceBoot() + left
}

// ending is when the probe ends, since boot.
func (p *probe) ending() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end
}

// SetLifetime implements collect.Lasting. The program goes on, and ends by itself at the new time.
func (p *probe) SetLifetime(left time.Duration) error {
	run := p.run
	p.setLifetime(left, run.compiled.Runtime)
	if err := run.pushEnd(); err != nil && run.failure() == nil {
		return collect.Errorf(collect.Failed, "set the time to live of %s: %w", p.request.ID, err)
	}
	return nil
}

// rewind puts what is kept no later than a second: the wall clock has gone back, and what came before is part of the next
// interval.
func (p *probe) rewind(second int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, s := range p.pending {
		if s.second > second {
			p.pending[i] = &snapshot{second: second, zones: s.zones, lost: s.lost}
		}
	}
}

// take keeps an interval until it is collected. A program that the probe only waits for gives nothing yet.
func (p *probe) take(from *running, s *snapshot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run != nil && p.run != from {
		return
	}
	p.pending = append(p.pending, s)
	if len(p.pending) > maxPending {
		p.pending[1] = merge(p.pending[:2], from.compiled)
		p.pending = slices.Delete(p.pending, 0, 1)
	}
}

// SetZones implements collect.Probe. The program goes on; only one in D, whose text has the zones, is replaced.
func (p *probe) SetZones(ctx context.Context, zones []uuid.UUID) error {
	if p.request.WholeHost {
		return collect.Errorf(collect.Failed, "set the zones of %s: it measures the whole host", p.request.ID)
	}
	p.setZones(zones)
	if !p.run.compiled.InText() {
		if err := p.run.pushScope(); err != nil && p.run.failure() == nil {
			return collect.Errorf(collect.Failed, "set the zones of %s: %w", p.request.ID, err)
		}
		return nil
	}
	next, err := p.engine.acquire(ctx, p)
	if err != nil {
		return collect.Refusal(err)
	}
	old := p.run
	if next == old {
		return nil
	}
	p.mu.Lock()
	p.run = next
	p.mu.Unlock()
	return p.engine.release(old, p)
}

// Collect implements collect.Probe. It waits for a moment for the program's interval; what comes later is part of the next
// one.
func (p *probe) Collect(ctx context.Context, at time.Time) (collect.Result, error) {
	p.result.Samples, p.result.Failures, p.result.Primed = p.result.Samples[:0], p.result.Failures[:0], !p.primed
	var every int64
	p.result.Notice, every = p.run.noticed()
	p.result.Notice = joined(p.result.Notice, p.run.dropped())
	p.result.Every = time.Duration(every) * time.Second
	end := at.Unix()
	late := false
	if p.primed {
		if end%every != 0 && p.run.failure() == nil {
			return p.result, nil // what has been counted comes with the interval's end
		}
		var err error
		if late, err = p.await(ctx, end); err != nil {
			return collect.Result{}, err
		}
	} else if err := p.run.failure(); err != nil {
		return collect.Result{}, err
	}
	all := p.until(end)
	if !p.primed {
		p.primed = true
		return p.result, nil
	}
	merged := merge(all, p.run.compiled)
	if merged.lost > 0 {
		p.result.Notice = joined(p.result.Notice, fmt.Sprintf("%d events are not in the data: more were under way at once than the program can remember, which is %d", merged.lost, p.run.compiled.MapKeys))
	}
	if p.request.WholeHost {
		p.sample(merged, uuid.Nil, late)
		return p.result, nil
	}
	for _, id := range p.allowed() {
		if _, err := p.request.Lookup(p.engine.opts.Zones, id); err != nil {
			p.refuse(id, collect.Refusal(err))
			continue
		}
		if p.run.lacksRoom(id) {
			p.refuse(id, collect.Errorf(collect.OverBudget, "the zones of this program have more cgroups than it can hold"))
			continue
		}
		p.sample(merged, id, late)
	}
	return p.result, nil
}

// joined puts what there is to tell into one text.
func joined(texts ...string) string {
	return strings.Join(slices.DeleteFunc(texts, func(text string) bool { return text == "" }), "; ")
}

func (r *running) lacksRoom(id uuid.UUID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused[id]
}

func (p *probe) refuse(id uuid.UUID, e *collect.Error) {
	p.result.Failures = append(p.result.Failures, collect.ZoneFailure{Zone: id, Code: e.Code, Message: e.Message})
}

func (p *probe) sample(s *snapshot, id uuid.UUID, late bool) {
	before := len(p.result.Samples)
	p.result.Samples = s.zones[id].samples(p.result.Samples, p.run.compiled, id)
	if late || s.lost > 0 {
		for i := before; i < len(p.result.Samples); i++ {
			p.result.Samples[i].Partial = true
		}
	}
}

// await waits until the program has given out the interval that ends at the second. late tells that it has not.
func (p *probe) await(ctx context.Context, end int64) (late bool, err error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		latest, heard, changed, err := p.run.progress()
		switch {
		case err != nil:
			return false, err
		case latest >= end:
			return false, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			if time.Since(heard) > silence {
				return false, collect.Errorf(collect.Failed, "the tracer has given nothing for %s", silence)
			}
			return true, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

func (r *running) progress() (latest int64, heard time.Time, changed <-chan struct{}, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return 0, time.Time{}, nil, r.err
	}
	if heard = r.heard; heard.IsZero() {
		heard = r.begun
	}
	return r.latest, heard, r.changed, nil
}

// until takes what ended at the second or before.
func (p *probe) until(end int64) []*snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for n < len(p.pending) && p.pending[n].second <= end {
		n++
	}
	all := slices.Clone(p.pending[:n])
	p.pending = slices.Delete(p.pending, 0, n)
	return all
}

// Close implements collect.Probe. When it returns, nothing of the probe runs any more.
func (p *probe) Close() error {
	p.mu.Lock()
	closed, run := p.closed, p.run
	p.closed = true
	p.mu.Unlock()
	if closed {
		return nil
	}
	return p.engine.release(run, p)
}
