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
}

// Limits is what an owner may use and has used.
type Limits struct {
	Instrumentations, InstrumentationsUsed               int
	TracingInstrumentations, TracingInstrumentationsUsed int
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
		items[i] = s.show(c, items[i])
	}
	return Found[Instrumentation]{items, next, previous}, nil
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

// restrict compiles the caller's account into a filter. empty: nothing that the caller may see can match.
func (s *Service) restrict(ctx context.Context, c identity.Caller, f Filter) (_ Filter, empty bool, err error) {
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
		vm, err := s.VM(ctx, c, f.VM)
		if err != nil {
			return f, false, err
		}
		if vm == nil || vm.Owner != *f.Owner {
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

// CoverageOf is Coverage for records that List or Get has just given the same caller, so that they need not be read again.
func (s *Service) CoverageOf(ctx context.Context, c identity.Caller, of []Instrumentation) ([]Coverage, error) {
	if err := caller(c); err != nil || len(of) == 0 {
		return nil, err
	}
	ids := make([]ID, len(of))
	for i, rec := range of {
		if !sees(c, rec.Owner) {
			return nil, ErrForbidden
		}
		ids[i] = rec.ID
	}
	found, err := s.store.Coverage(ctx, ids...)
	if err != nil {
		return nil, fmt.Errorf("read coverage: %w", err)
	}
	return found, nil
}

// Problems counts the sources that do not run, by kind, those of most sources first. A problem that no source has, such
// as a scope that matches nothing, has no sources.
func (s *Service) Problems(ctx context.Context, c identity.Caller, id ID) ([]Problem, error) {
	rec, err := s.readOne(ctx, c, id)
	if err != nil {
		return nil, err
	}
	found, err := s.store.Problems(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read problems: %w", err)
	}
	found, err = s.showProblems(ctx, c, rec.Owner, found)
	if err != nil {
		return nil, err
	}
	note := func(text string) { found = append(found, Problem{Status: StatusPending, Message: text}) }
	if !rec.StaleFrom.IsZero() {
		note("The inventory could not be asked since " + rec.StaleFrom.UTC().Format("2006-01-02T15:04:05Z") + "; what was in place stays.")
	}
	if rec.Evaluated >= rec.Revision && rec.Live(s.now()) {
		coverage, err := s.store.Coverage(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("read coverage: %w", err)
		}
		if coverage[0].Expected == 0 {
			note("The scope matches nothing at present.")
		}
	}
	return found, nil
}

// showProblems makes problems fit for the caller: for all but operators one for each status, with its sentence, and with
// an example that is the owner's.
func (s *Service) showProblems(ctx context.Context, c identity.Caller, owner uuid.UUID, found []Problem) ([]Problem, error) {
	if !isOperator(c) {
		var merged []Problem
		for _, p := range found {
			if p.ExampleVM != uuid.Nil {
				vm, err := s.store.VM(ctx, p.ExampleVM)
				if err != nil {
					return nil, fmt.Errorf("read a machine: %w", err)
				}
				if vm == nil || vm.Owner != owner {
					p.ExampleVM = uuid.Nil
				}
			}
			p.Message = sentences[p.Status]
			if i := slices.IndexFunc(merged, func(m Problem) bool { return m.Status == p.Status }); i >= 0 {
				merged[i].Sources += p.Sources
				if merged[i].ExampleVM == uuid.Nil {
					merged[i].ExampleVM = p.ExampleVM
				}
				continue
			}
			merged = append(merged, p)
		}
		found = merged
	}
	out := slices.Clone(found)
	for i, p := range out {
		out[i].Message = showMessage(c, p.Status, p.Message)
	}
	slices.SortStableFunc(out, func(a, b Problem) int { return b.Sources - a.Sources })
	return out, nil
}

// VMs pages through the zones of an instrumentation by uuid. Tenants get no hosts, and no machine that has left them.
func (s *Service) VMs(ctx context.Context, c identity.Caller, id ID, p Page) (Found[VMPlacement], error) {
	none := Found[VMPlacement]{}
	rec, err := s.readOne(ctx, c, id)
	if err != nil {
		return none, err
	}
	if p, err = page(p); err != nil {
		return none, err
	}
	items, next, err := s.store.VMs(ctx, id, p)
	if err != nil {
		return none, fmt.Errorf("read the machines of %s: %w", id, err)
	}
	if !isOperator(c) {
		items = slices.DeleteFunc(items, func(v VMPlacement) bool { return v.VM.Owner != rec.Owner })
	}
	for i, v := range items {
		items[i].VM = showVM(c, v.VM)
		items[i].Message = showMessage(c, v.Status, v.Message)
	}
	return Found[VMPlacement]{Items: items, Next: next, Previous: p.After != ""}, nil
}

// Hosts pages through the hosts of an instrumentation by uuid. It returns nil to all but operators.
func (s *Service) Hosts(ctx context.Context, c identity.Caller, id ID, p Page) (*Found[HostPlacement], error) {
	if _, err := s.readOne(ctx, c, id); err != nil {
		return nil, err
	}
	if !isOperator(c) {
		return nil, nil
	}
	p, err := page(p)
	if err != nil {
		return nil, err
	}
	items, next, err := s.store.Hosts(ctx, id, p)
	if err != nil {
		return nil, fmt.Errorf("read the hosts of %s: %w", id, err)
	}
	return &Found[HostPlacement]{Items: items, Next: next, Previous: p.After != ""}, nil
}

// CountPlaces counts the hosts and the zones of an instrumentation. All but operators get 0 hosts.
func (s *Service) CountPlaces(ctx context.Context, c identity.Caller, id ID) (hosts, vms int, err error) {
	if _, err := s.readOne(ctx, c, id); err != nil {
		return 0, 0, err
	}
	if hosts, vms, err = s.store.CountPlaces(ctx, id); err != nil {
		return 0, 0, fmt.Errorf("count the places of %s: %w", id, err)
	}
	if !isOperator(c) {
		hosts = 0
	}
	return hosts, vms, nil
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
	return Limits{all, used.Live, tracing, used.Tracing}, nil
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

// VM returns what is known of a machine, nil where it does not exist for the caller.
func (s *Service) VM(ctx context.Context, c identity.Caller, id uuid.UUID) (*inventory.VM, error) {
	if err := caller(c); err != nil {
		return nil, err
	}
	vm, err := s.store.VM(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read a machine: %w", err)
	}
	if vm == nil || !sees(c, vm.Owner) {
		return nil, nil
	}
	shown := showVM(c, *vm)
	return &shown, nil
}

// Host returns what is known of a host and its agent, nil where nothing is. Operators only.
func (s *Service) Host(ctx context.Context, c identity.Caller, id uuid.UUID) (*FleetHost, error) {
	if err := only(c, identity.Operator); err != nil {
		return nil, err
	}
	host, err := s.store.Host(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read a host: %w", err)
	}
	return host, nil
}

// Agents returns what is known of the agents of hosts, one for each, nil where none has ever reported. Operators only.
func (s *Service) Agents(ctx context.Context, c identity.Caller, hosts ...uuid.UUID) ([]*AgentInfo, error) {
	if err := only(c, identity.Operator); err != nil {
		return nil, err
	}
	found, err := s.store.Agents(ctx, hosts...)
	if err != nil {
		return nil, fmt.Errorf("read agents: %w", err)
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
