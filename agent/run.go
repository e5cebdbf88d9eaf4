package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/agent/session"
	"iapi/assignment"
	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/measure"
)

// run measures one instrumentation on this host. What needs a new probe makes a new run; zones, targets, the time to live and
// the revision change in place, so that an extension never restarts a probe.
type run struct {
	sup    *supervisor
	log    *slog.Logger
	wish   string
	cancel context.CancelFunc
	wake   chan struct{} // capacity 1: item or deadline changed

	item assignment.Item // as it was at the start; for what a wish fixes

	mu       sync.Mutex
	current  assignment.Item
	deadline time.Duration
	limited  bool
}

// wishOf is what a probe is made for: two items with the same wish can share a run one after the other.
func wishOf(i assignment.Item) string {
	wish, err := json.Marshal(struct {
		Definition     string
		Predicate      *measure.Predicate
		Decompositions []string
		Whole          bool
		Owner          *uuid.UUID
		Granularity    int
	}{i.DefinitionDigest, i.Predicate, i.Decompositions, i.WholeHost, i.Owner, i.Granularity})
	if err != nil {
		return i.ID + " " + err.Error() // cannot be equal to another, so the probe is made anew
	}
	return string(wish)
}

func newRun(s *supervisor, item assignment.Item, deadline time.Duration, limited bool, cancel context.CancelFunc) *run {
	return &run{
		sup: s, log: s.log.With("instrumentation", item.ID, "metric", item.Metric), wish: wishOf(item), cancel: cancel,
		wake: make(chan struct{}, 1), item: item, current: item, deadline: deadline, limited: limited,
	}
}

// update takes a new item of the same wish, and reports whether anything in it is new.
func (r *run) update(item assignment.Item, deadline time.Duration, limited bool) bool {
	r.sup.expiry.set(r, deadline, limited)
	r.mu.Lock()
	defer r.mu.Unlock()
	same := r.current.Revision == item.Revision && sameVMs(r.current.VMs, item.VMs) && sameTargets(r.current.Targets, item.Targets)
	r.current, r.deadline, r.limited = item, deadline, limited
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return !same
}

func (r *run) now() (item assignment.Item, deadline time.Duration, limited bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current, r.deadline, r.limited
}

// expire ends the run, for its time to live has passed.
func (r *run) expire() {
	r.log.Info("its time to live has passed")
	r.cancel()
}

// lifetime is what is left to live, 0 without an end.
func (r *run) lifetime() time.Duration {
	_, deadline, limited := r.now()
	if !limited {
		return 0
	}
	return max(deadline-r.sup.opts.SinceBoot(), time.Nanosecond)
}

func (r *run) pending(why string) session.Status {
	item, _, _ := r.now()
	return statusOf(item.ID, item.Revision, statusPending, why)
}

// loop measures until ctx ends, as it does when the time to live has passed. When it returns, nothing of the instrumentation runs.
func (r *run) loop(ctx context.Context) {
	def, ok := r.definition(ctx)
	if !ok {
		return
	}
	zones, denied := r.zones()
	probe, err := r.sup.opts.Collectors.Open(ctx, collect.Request{
		ID: r.item.ID, Definition: def, Predicate: predicateOf(r.item), Decompositions: r.item.Decompositions,
		WholeHost: r.item.WholeHost, Zones: zones, Granularity: r.granularity(), Owner: ownerOf(r.item), Lifetime: r.lifetime(),
	})
	if err != nil {
		r.refused(ctx, err)
		return
	}
	out := newOutlet(r)
	defer func() {
		if err := probe.Close(); err != nil {
			r.log.Warn("the probe did not close cleanly", "error", err)
		}
		out.close()
	}()
	r.sup.reporter.watchTargets(r, out.health)
	r.measure(ctx, probe, out, def.Metric.Interval == "POINT", zones, denied)
}

// patience is by how much the wall clock may be set back without an interval being told twice. Until it has caught up,
// nothing is told.
const patience = 10 * time.Second

// wall is the wall clock, which may be set at any time.
func (r *run) wall() time.Time { return r.sup.opts.Clock().Round(0) }

// measure collects at each boundary of the granularity. Each loop handles what has changed since the last.
func (r *run) measure(ctx context.Context, probe collect.Probe, out *outlet, gauge bool, zones []uuid.UUID, denied []session.VMFailure) {
	item, deadline, _ := r.now()
	out.retarget(item.Targets)
	granularity := r.granularity()
	last := r.wall().Truncate(granularity)
	res, err := r.collect(ctx, probe, r.wall()) // primes what needs two readings
	if err != nil {
		r.report(out, res, err, denied, false, time.Time{})
	}
	next := last.Add(granularity)
	good, stepped := false, false
	var lastSample time.Time
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(r.untilNext(next))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-r.wake:
			item, _, _ := r.now()
			out.retarget(item.Targets)
			now, nowDenied := r.zones()
			denied = nowDenied
			if !equalZones(zones, now) {
				if err := probe.SetZones(ctx, now); err != nil {
					r.log.Warn("the probe did not take its new zones", "error", err)
				}
				zones = now
			}
			deadline = r.prolong(probe, deadline)
			r.report(out, res, err, denied, good, lastSample)
		}
		now := r.wall()
		if last.Sub(now) > max(granularity, patience) {
			r.log.Warn("the wall clock was set back; measuring goes on from there", "by", last.Sub(now))
			if res, err = r.collect(ctx, probe, now); ctx.Err() != nil { // it belongs to no interval that can be told
				return
			}
			last, stepped = now.Truncate(granularity), true
			next = last.Add(granularity)
		}
		stepped = stepped || now.Before(last)
		if now.Before(next) { // after a smaller step back too, so that no interval is told twice
			continue
		}
		at := now.Truncate(granularity)
		res, err = r.collect(ctx, probe, at)
		if ctx.Err() != nil {
			return
		}
		if err == nil && !res.Primed {
			good, lastSample = true, at
			out.send(r.points(res, at, granularity, gauge, stepped || at.Sub(last) > granularity))
			stepped = false
		}
		r.report(out, res, err, denied, good, lastSample)
		if can := atLeast(r.granularity(), res.Every); err == nil && can != granularity {
			granularity, stepped = can, true // what follows has had a part of its interval told, or not been measured for all of it
		}
		last, next = at, at.Truncate(granularity).Add(granularity)
	}
}

// atLeast is the granularity of a probe that gives something only at the multiples of every.
func atLeast(granularity, every time.Duration) time.Duration {
	if every <= 0 {
		return granularity
	}
	return (granularity + every - 1) / every * every
}

// prolong tells the probe, where something of it runs by itself, when its end is not what it was.
func (r *run) prolong(probe collect.Probe, was time.Duration) (deadline time.Duration) {
	_, deadline, _ = r.now()
	if lasting, is := probe.(collect.Lasting); is && deadline != was {
		if err := lasting.SetLifetime(r.lifetime()); err != nil {
			r.log.Warn("the probe did not take its new time to live", "error", err)
		}
	}
	return deadline
}

// untilNext is never longer than it takes to notice in time that the clock was set.
func (r *run) untilNext(next time.Time) time.Duration {
	const slack = 20 * time.Millisecond // sources that close an interval at the second need a moment
	return max(min(next.Sub(r.wall())+slack, time.Second), time.Millisecond)
}

func (r *run) collect(ctx context.Context, probe collect.Probe, at time.Time) (collect.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, max(5*time.Second, r.granularity()))
	defer cancel()
	res, err := probe.Collect(ctx, at)
	if err != nil {
		return collect.Result{}, fmt.Errorf("collect: %w", err)
	}
	return res, nil
}

// report tells how it fares. Running means that a good sample has left this host: until a target has taken one, and where there
// was one to take, it is pending.
func (r *run) report(out *outlet, res collect.Result, err error, denied []session.VMFailure, good bool, last time.Time) {
	item, _, _ := r.now()
	status, message := statusRunning, sentences(res.Notice, out.trouble())
	switch {
	case err != nil:
		status, message = statusOfError(err)
	case !good:
		status, message = statusPending, "waiting for the first sample"
	case !out.delivered():
		status, message = statusPending, out.why()
	}
	s := statusOf(item.ID, item.Revision, status, message)
	if !last.IsZero() {
		last = last.UTC()
		s.LastSampleAt = &last
	}
	s.VMFailures = append(s.VMFailures, denied...)
	for _, f := range res.Failures {
		s.VMFailures = append(s.VMFailures, session.VMFailure{VM: f.Zone, Status: string(f.Code), Message: f.Message})
	}
	r.sup.reporter.set(r, s)
}

// refused reports a typed refusal and waits: it is not tried again until the assignment changes.
func (r *run) refused(ctx context.Context, err error) {
	status, message := statusOfError(err)
	r.log.Warn("the instrumentation is refused", "status", status, "error", err)
	for {
		item, _, _ := r.now()
		r.sup.reporter.set(r, statusOf(item.ID, item.Revision, status, message))
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
	}
}

// definition gets the metric's definition from disk or from the API, for as long as it takes. One that this host does not
// trust is refused.
func (r *run) definition(ctx context.Context) (*catalog.Definition, bool) {
	digest := r.item.DefinitionDigest
	found, ok := r.sup.disk.definition(digest)
	ok = ok && r.sup.trust.signed(found) == nil // it may have been signed since
	for wait := time.Duration(0); !ok; wait = min(max(time.Second, wait*2), 30*time.Second) {
		select {
		case <-ctx.Done():
			return nil, false
		case <-time.After(session.Jitter(wait)):
		}
		var err error
		if found, err = r.sup.fetch(ctx, digest); err != nil {
			r.log.Debug("cannot get the metric's definition yet", "error", err)
			r.sup.reporter.set(r, r.pending("waiting for the metric's definition"))
			continue
		}
		ok = true
		if err := r.sup.trust.signed(found); err != nil {
			r.refused(ctx, err)
			return nil, false
		}
	}
	def, err := r.sup.parsed.parse(digest, found.Document)
	if err != nil {
		r.refused(ctx, &collect.Error{Code: collect.Unsupported, Message: "this agent cannot read the metric's definition: " + err.Error()})
		return nil, false
	}
	if err := r.sup.trust.take(def); err != nil {
		r.refused(ctx, err)
		return nil, false
	}
	return def, true
}

// fetch gets a definition from the API, and keeps it on disk if this host trusts it. Of all that want one at the same time the
// first fetches it, and the others find it there.
func (s *supervisor) fetch(ctx context.Context, digest string) (catalog.Publication, error) {
	done, err := s.fetching.take(ctx, digest)
	if err != nil {
		return catalog.Publication{}, err
	}
	defer done()
	if kept, ok := s.disk.definition(digest); ok && s.trust.signed(kept) == nil {
		return kept, nil
	}
	found, err := s.opts.Session.Definition(ctx, digest)
	if err == nil {
		err = verify(found.Document, digest)
	}
	if err != nil {
		return catalog.Publication{}, err
	}
	if s.trust.signed(found) == nil {
		if err := s.disk.saveDefinition(digest, found); err != nil {
			s.log.Warn("the definition could not be kept on disk", "digest", digest, "error", err)
		}
	}
	return found, nil
}

// zones are those that may be measured. A zone whose owner is not the instrumentation's, by the assignment or as this host
// sees it, is denied.
func (r *run) zones() (allowed []uuid.UUID, denied []session.VMFailure) {
	item, _, _ := r.now()
	owner := ownerOf(item)
	for _, vm := range item.VMs {
		if owner != uuid.Nil {
			seen := r.sup.opts.Owner(vm.UUID)
			if vm.Owner == nil || *vm.Owner != owner || (seen != uuid.Nil && seen != owner) {
				denied = append(denied, session.VMFailure{VM: vm.UUID, Status: string(collect.Denied),
					Message: "the zone does not belong to the instrumentation's owner"})
				continue
			}
		}
		allowed = append(allowed, vm.UUID)
	}
	return allowed, denied
}

func (r *run) granularity() time.Duration {
	return time.Duration(max(r.item.Granularity, 1)) * time.Second
}

func (r *run) points(res collect.Result, at time.Time, granularity time.Duration, gauge, gap bool) []measure.Point {
	points := make([]measure.Point, 0, len(res.Samples))
	for _, s := range res.Samples {
		points = append(points, measure.Point{
			Instrumentation: r.item.ID, Metric: r.item.Metric, Owner: ownerOf(r.item), Host: r.sup.opts.Host, VM: s.Zone,
			Start: at.Add(-granularity).UTC(), Interval: granularity, Gauge: gauge, Fields: s.Fields, Value: s.Value,
			Distribution: s.Distribution, Other: s.Other, Partial: gap || s.Partial,
		})
	}
	return points
}

func statusOfError(err error) (string, string) {
	// The codes of refusals are the statuses' own names.
	if refusal, ok := errors.AsType[*collect.Error](err); ok {
		return string(refusal.Code), refusal.Message
	}
	return string(collect.Failed), err.Error()
}

func ownerOf(i assignment.Item) uuid.UUID {
	if i.Owner == nil {
		return uuid.Nil
	}
	return *i.Owner
}

func predicateOf(i assignment.Item) measure.Predicate {
	if i.Predicate == nil {
		return measure.Predicate{}
	}
	return *i.Predicate
}
