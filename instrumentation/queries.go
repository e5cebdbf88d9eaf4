package instrumentation

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"iapi/catalog"
	"iapi/identity"
	"iapi/inventory"
)

// Pages are 50 items by default and 500 at most.
const (
	DefaultPage = 50
	MaxPage     = 500
)

// Found is a page of what was searched for.
type Found[T any] struct {
	Items    []T
	Next     bool // there are more behind it
	Previous bool // there are more before it
	Total    int  // in all pages, where that is known with the page: of the places of an instrumentation
}

// Limits is what an owner may use and has used, and the policy that each of its instrumentations has to keep.
type Limits struct {
	Instrumentations, InstrumentationsUsed               int
	TracingInstrumentations, TracingInstrumentationsUsed int

	Policy Policy // without its targets; its numbers of instrumentations are not those of every owner
}

// Get returns one instrumentation for each id, nil for those that do not exist for the caller.
func (s *Service) Get(ctx context.Context, c identity.Caller, ids ...ID) ([]*Instrumentation, error) {
	records, err := s.read(ctx, c, ids...)
	if err != nil {
		return nil, err
	}
	for i, rec := range records {
		if rec != nil {
			shown := s.show(c, *rec)
			records[i] = &shown
		}
	}
	return records, nil
}

// List returns a page of the caller's instrumentations, newest first. A service that is not bound to an account names
// the owner in the filter.
func (s *Service) List(ctx context.Context, c identity.Caller, f Filter, p Page) (Found[Instrumentation], error) {
	none := Found[Instrumentation]{}
	f, empty, err := s.restrict(ctx, c, f)
	if err != nil || empty {
		return none, err
	}
	if p, err = page(p); err != nil {
		return none, err
	}
	items, next, previous, err := s.store.Search(ctx, f, p)
	if err != nil {
		return none, fmt.Errorf("search instrumentations: %w", err)
	}
	items = slices.DeleteFunc(items, func(rec Instrumentation) bool { return !sees(c, rec.Owner) })
	for i := range items {
		items[i] = s.showAt(c, items[i], f.Now) // as they were found
	}
	return Found[Instrumentation]{Items: items, Next: next, Previous: previous}, nil
}

// Count returns how many instrumentations List would find.
func (s *Service) Count(ctx context.Context, c identity.Caller, f Filter) (int, error) {
	f, empty, err := s.restrict(ctx, c, f)
	if err != nil || empty {
		return 0, err
	}
	n, err := s.store.Count(ctx, f)
	if err != nil {
		return 0, fmt.Errorf("count instrumentations: %w", err)
	}
	return n, nil
}

// restrict compiles the caller's account and the time into a filter. empty: nothing that the caller may see can match.
func (s *Service) restrict(ctx context.Context, c identity.Caller, f Filter) (_ Filter, empty bool, err error) {
	f.Now = s.now()
	if f.Owner != nil || !isOperator(c) {
		owner, err := actsFor(c, f.Owner)
		if err != nil {
			return f, false, err
		}
		f.Owner = &owner
	}
	if f.Host != uuid.Nil && !isOperator(c) {
		return f, false, fmt.Errorf("%w: only operators search by host", ErrForbidden)
	}
	switch {
	case len(f.Tags) > s.policy.Tags:
		return f, false, badRequest("filter: more than %d tags", s.policy.Tags)
	case len(f.States) > len(states):
		return f, false, badRequest("filter: more than %d states", len(states))
	case len(f.Text) > s.policy.NameBytes:
		return f, false, badRequest("filter: the text is longer than %d bytes", s.policy.NameBytes)
	case len(f.Metric) > maxMetricBytes:
		return f, true, nil
	}
	for _, t := range f.Tags {
		if len(t.Key) > s.policy.TagKeyBytes || len(t.Value) > s.policy.TagValueBytes {
			return f, true, nil
		}
	}
	for _, st := range f.States {
		if !slices.Contains(states, st) {
			return f, false, badRequest("filter: there is no state %q", clip(string(st)))
		}
	}
	// A machine that has another owner now may still be in the placements of its former one.
	if f.VM != uuid.Nil && !isOperator(c) {
		found, err := s.Machines(ctx, c, f.VM)
		if err != nil {
			return f, false, err
		}
		if vm := found[0]; vm == nil || vm.Owner != *f.Owner {
			return f, true, nil
		}
	}
	return f, false, nil
}

var states = []State{Created, Enabled, Updating, Degraded, Paused, Expired, Deleting}

// page applies the bounds of pages.
func page(p Page) (Page, error) {
	switch {
	case p.First < 0 || p.Last < 0:
		return p, badRequest("first and last cannot be negative")
	case p.First > 0 && p.Last > 0:
		return p, badRequest("give first or last, not both")
	case p.First > MaxPage || p.Last > MaxPage:
		return p, badRequest("a page has at most %d items", MaxPage)
	case p.First == 0 && p.Last == 0:
		p.First = DefaultPage
	}
	return p, nil
}

// Coverage returns one for each id, zero for those that do not exist for the caller.
func (s *Service) Coverage(ctx context.Context, c identity.Caller, ids ...ID) ([]Coverage, error) {
	if err := caller(c); err != nil {
		return nil, err
	}
	out := make([]Coverage, len(ids))
	var wanted []ID
	var at []int
	records := make([]*Instrumentation, len(ids))
	if !isOperator(c) {
		var err error
		if records, err = s.read(ctx, c, ids...); err != nil {
			return nil, err
		}
	}
	for i, id := range ids {
		if _, err := ParseID(string(id)); err == nil && (isOperator(c) || records[i] != nil) {
			wanted, at = append(wanted, id), append(at, i)
		}
	}
	if len(wanted) == 0 {
		return out, nil
	}
	found, err := s.store.Coverage(ctx, wanted...)
	if err != nil {
		return nil, fmt.Errorf("read coverage: %w", err)
	}
	for i, one := range found {
		out[at[i]] = one
	}
	return out, nil
}

// Limits returns what an owner may use and has used. owner nil: the caller's own, for operators the operators' own.
func (s *Service) Limits(ctx context.Context, c identity.Caller, owner *uuid.UUID) (Limits, error) {
	of, err := actsFor(c, owner)
	if err != nil {
		return Limits{}, err
	}
	used, err := s.store.Usage(ctx, of)
	if err != nil {
		return Limits{}, fmt.Errorf("read usage: %w", err)
	}
	all, tracing := s.policy.quota(of)
	policy := s.policy
	policy.DefaultTargets = nil
	return Limits{all, used.Live, tracing, used.Tracing, policy}, nil
}

// quota returns how many instrumentations, and how many tracing ones, an owner may have.
func (p Policy) quota(owner uuid.UUID) (all, tracing int) {
	if owner == uuid.Nil {
		return p.OperatorInstrumentations, p.OperatorTracing
	}
	return p.Instrumentations, p.TracingInstrumentations
}

// Metrics returns the metrics that the caller may use, sorted by name; to all but operators without the fields that only
// operators may use. module and collector select, "" selects all.
func (s *Service) Metrics(_ context.Context, c identity.Caller, module, collector string) ([]*catalog.Metric, error) {
	if err := caller(c); err != nil {
		return nil, err
	}
	var out []*catalog.Metric
	for _, m := range s.catalog.Metrics() {
		if module != "" && m.Module != module || collector != "" && !slices.Contains(m.Collectors, collector) {
			continue
		}
		if shown := showMetric(m, !isOperator(c)); shown != nil {
			out = append(out, shown)
		}
	}
	return out, nil
}

// Metric returns a metric as Metrics would, nil where the caller may not use it or there is none.
func (s *Service) Metric(_ context.Context, c identity.Caller, name string) (*catalog.Metric, error) {
	if err := caller(c); err != nil {
		return nil, err
	}
	m, ok := s.catalog.Metric(name)
	if !ok {
		return nil, nil
	}
	return showMetric(m, !isOperator(c)), nil
}

// Definition returns the definition with a digest, nil where the caller may not use its metric or there is none. Agents
// get every definition.
func (s *Service) Definition(_ context.Context, c identity.Caller, digest string) (*catalog.Definition, error) {
	if c.Kind != identity.Agent {
		if err := caller(c); err != nil {
			return nil, err
		}
	}
	d, ok := s.catalog.Definition(digest)
	if !ok || !d.Metric.Tenant && c.Kind != identity.Agent && !isOperator(c) {
		return nil, nil
	}
	return d, nil
}

// showMetric returns what tenants, or operators, may use of a metric: nil for nothing.
func showMetric(m *catalog.Metric, tenant bool) *catalog.Metric {
	if !tenant {
		return m
	}
	if !m.Tenant {
		return nil
	}
	shown := *m
	shown.Fields = slices.DeleteFunc(slices.Clone(m.Fields), func(f catalog.Field) bool { return f.Operator })
	return &shown
}

// Machines returns what is known of each, nil for what does not exist for the caller.
func (s *Service) Machines(ctx context.Context, c identity.Caller, ids ...uuid.UUID) ([]*inventory.VM, error) {
	if err := caller(c); err != nil {
		return nil, err
	}
	found, err := s.store.Machines(ctx, ids...)
	if err != nil {
		return nil, fmt.Errorf("read machines: %w", err)
	}
	out := make([]*inventory.VM, len(found))
	for i, vm := range found {
		if vm != nil && sees(c, vm.Owner) {
			shown := showVM(c, *vm)
			out[i] = &shown
		}
	}
	return out, nil
}

// Hosts returns what is known of hosts and their agents, nil where nothing is. Operators only.
func (s *Service) Hosts(ctx context.Context, c identity.Caller, ids ...uuid.UUID) ([]*FleetHost, error) {
	if err := only(c, identity.Operator); err != nil {
		return nil, err
	}
	found, err := s.store.FleetHosts(ctx, ids...)
	if err != nil {
		return nil, fmt.Errorf("read hosts: %w", err)
	}
	return found, nil
}

// Fleet pages through the hosts by uuid. online nil: all. Operators only.
func (s *Service) Fleet(ctx context.Context, c identity.Caller, online *bool, p Page) (Found[FleetHost], error) {
	none := Found[FleetHost]{}
	if err := only(c, identity.Operator); err != nil {
		return none, err
	}
	p, err := page(p)
	if err != nil {
		return none, err
	}
	items, next, err := s.store.Fleet(ctx, online, p)
	if err != nil {
		return none, fmt.Errorf("read the fleet: %w", err)
	}
	return Found[FleetHost]{Items: items, Next: next, Previous: p.After != ""}, nil
}

// FleetSize counts the hosts that Fleet pages through. Operators only.
func (s *Service) FleetSize(ctx context.Context, c identity.Caller, online *bool) (int, error) {
	if err := only(c, identity.Operator); err != nil {
		return 0, err
	}
	n, err := s.store.FleetSize(ctx, online)
	if err != nil {
		return 0, fmt.Errorf("count the fleet: %w", err)
	}
	return n, nil
}

// Guards returns what waits for a decision. Operators only.
func (s *Service) Guards(ctx context.Context, c identity.Caller) ([]Guard, error) {
	if err := only(c, identity.Operator); err != nil {
		return nil, err
	}
	found, err := s.store.Guards(ctx)
	if err != nil {
		return nil, fmt.Errorf("read guards: %w", err)
	}
	return found, nil
}

// Audit returns up to n entries, newest first, before the entry with the given id ("": the newest). Operators only.
func (s *Service) Audit(ctx context.Context, c identity.Caller, before string, n int) ([]Audit, error) {
	if err := only(c, identity.Operator); err != nil {
		return nil, err
	}
	p, err := page(Page{First: n})
	if err != nil {
		return nil, err
	}
	found, err := s.store.AuditLog(ctx, before, p.First)
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	return found, nil
}
