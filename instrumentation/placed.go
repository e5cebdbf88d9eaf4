package instrumentation

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"iapi/identity"
)

// This file tells how instrumentations fare and where. It is about records that List or Get has just given the same
// caller, so that they need not be read again, and answers for all of them in a number of round trips that does not grow with theirs.

// theirs returns the ids of records, or ErrForbidden if the caller may not see one of them.
func theirs(c identity.Caller, of []Instrumentation) ([]ID, error) {
	if err := caller(c); err != nil {
		return nil, err
	}
	ids := make([]ID, len(of))
	for i, rec := range of {
		if !sees(c, rec.Owner) {
			return nil, ErrForbidden
		}
		ids[i] = rec.ID
	}
	return ids, nil
}

// CoverageOf counts the sources of each.
func (s *Service) CoverageOf(ctx context.Context, c identity.Caller, of []Instrumentation) ([]Coverage, error) {
	ids, err := theirs(c, of)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	found, err := s.store.Coverage(ctx, ids...)
	if err != nil {
		return nil, fmt.Errorf("read coverage: %w", err)
	}
	return found, nil
}

// ProblemsOf counts the sources of each that do not run, by kind, those of most sources first. A problem that no source
// has, such as a scope that matches nothing, has no sources.
func (s *Service) ProblemsOf(ctx context.Context, c identity.Caller, of []Instrumentation) ([][]Problem, error) {
	ids, err := theirs(c, of)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	found, err := s.store.Problems(ctx, ids...)
	if err != nil {
		return nil, fmt.Errorf("read problems: %w", err)
	}
	owners := make([]uuid.UUID, len(of))
	var settled []ID // what is evaluated and should run
	var at []int
	for i, rec := range of {
		owners[i] = rec.Owner
		if rec.Evaluated >= rec.Revision && rec.Live(s.now()) {
			settled, at = append(settled, rec.ID), append(at, i)
		}
	}
	if found, err = s.showProblems(ctx, c, owners, found); err != nil {
		return nil, err
	}
	note := func(i int, text string) {
		found[i] = append(found[i], Problem{Status: StatusPending, Message: text})
	}
	for i, rec := range of {
		if !rec.StaleFrom.IsZero() {
			note(i, "The inventory could not be asked since "+rec.StaleFrom.UTC().Format("2006-01-02T15:04:05Z")+"; what was in place stays.")
		}
	}
	if len(settled) > 0 {
		coverage, err := s.store.Coverage(ctx, settled...)
		if err != nil {
			return nil, fmt.Errorf("read coverage: %w", err)
		}
		for n, i := range at {
			if coverage[n].Expected == 0 {
				note(i, "The scope matches nothing at present.")
			}
		}
	}
	return found, nil
}

// showProblems makes the problems of several owners fit for the caller: for all but operators one for each status, with its
// sentence, and with an example that is the owner's.
func (s *Service) showProblems(ctx context.Context, c identity.Caller, owners []uuid.UUID, found [][]Problem) ([][]Problem, error) {
	out := make([][]Problem, len(found))
	var strangers map[uuid.UUID]uuid.UUID // the owners of the examples
	if !isOperator(c) {
		var err error
		if strangers, err = s.ownersOf(ctx, found); err != nil {
			return nil, err
		}
	}
	for i, problems := range found {
		for _, p := range problems {
			if p.Status == StatusRunning && !isOperator(c) {
				continue // what an agent says of what it measures all the same is for operators
			}
			p.Message = showMessage(c, p.Status, p.Message)
			if isOperator(c) {
				out[i] = append(out[i], p)
				continue
			}
			if owner, known := strangers[p.ExampleVM]; !known || owner != owners[i] {
				p.ExampleVM = uuid.Nil
			}
			n := slices.IndexFunc(out[i], func(m Problem) bool { return m.Status == p.Status })
			if n < 0 {
				out[i] = append(out[i], p)
				continue
			}
			out[i][n].Sources += p.Sources
			if out[i][n].ExampleVM == uuid.Nil {
				out[i][n].ExampleVM = p.ExampleVM
			}
		}
		slices.SortStableFunc(out[i], func(a, b Problem) int { return b.Sources - a.Sources })
	}
	return out, nil
}

// ownersOf returns the owners of the machines that are examples of problems.
func (s *Service) ownersOf(ctx context.Context, found [][]Problem) (map[uuid.UUID]uuid.UUID, error) {
	owners := make(map[uuid.UUID]uuid.UUID)
	var examples []uuid.UUID
	for _, problems := range found {
		for _, p := range problems {
			if _, asked := owners[p.ExampleVM]; !asked && p.ExampleVM != uuid.Nil {
				owners[p.ExampleVM] = uuid.Nil
				examples = append(examples, p.ExampleVM)
			}
		}
	}
	machines, err := s.store.Machines(ctx, examples...)
	if err != nil {
		return nil, fmt.Errorf("read machines: %w", err)
	}
	for i, vm := range machines {
		if vm != nil {
			owners[examples[i]] = vm.Owner
		}
	}
	return owners, nil
}

// VMsOf returns the same page of the zones of each, by uuid. Tenants get no hosts, and no machine that has left them.
func (s *Service) VMsOf(ctx context.Context, c identity.Caller, of []Instrumentation, p Page) ([]Found[VMPlacement], error) {
	ids, err := theirs(c, of)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	if p, err = page(p); err != nil {
		return nil, err
	}
	found, err := s.store.VMs(ctx, p, ids...)
	if err != nil {
		return nil, fmt.Errorf("read the machines of instrumentations: %w", err)
	}
	out := make([]Found[VMPlacement], len(of))
	for i, places := range found {
		if !isOperator(c) {
			if places, err = s.ownVMs(ctx, of[i], p, places); err != nil {
				return nil, err
			}
		}
		items := places.Items
		for n, v := range items {
			items[n].VM = showVM(c, v.VM)
			items[n].Message = showMessage(c, v.Status, v.Message)
		}
		out[i] = Found[VMPlacement]{Items: items, Next: places.Next, Previous: p.After != "", Total: places.Total}
		if !of[i].Scope.Zones(of[i].Owner) {
			out[i].Total = 0 // what it counts are whole hosts
		}
	}
	return out, nil
}

// ownVMs takes the machines out of a page that belong to others, and fills it with those that follow. A machine that was sold
// leaves the placements within seconds, so there is hardly ever anything to fill.
func (s *Service) ownVMs(ctx context.Context, of Instrumentation, p Page, places Places[VMPlacement]) (Places[VMPlacement], error) {
	var own []VMPlacement
	for {
		for _, v := range places.Items {
			if v.VM.Owner == of.Owner {
				own = append(own, v)
			}
		}
		if len(own) >= p.First || !places.Next || len(places.Items) == 0 {
			break
		}
		last := places.Items[len(places.Items)-1].VM.UUID.String()
		more, err := s.store.VMs(ctx, Page{First: MaxPage, After: last}, of.ID)
		if err != nil {
			return places, fmt.Errorf("read the machines of an instrumentation: %w", err)
		}
		places = more[0]
	}
	if len(own) > p.First {
		own, places.Next = own[:p.First], true
	}
	places.Items = own
	return places, nil
}

// HostsOf returns the same page of the hosts of each, by uuid; nil to all but operators.
func (s *Service) HostsOf(ctx context.Context, c identity.Caller, of []Instrumentation, p Page) ([]*Found[HostPlacement], error) {
	ids, err := theirs(c, of)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	out := make([]*Found[HostPlacement], len(of))
	if !isOperator(c) {
		return out, nil
	}
	if p, err = page(p); err != nil {
		return nil, err
	}
	found, err := s.store.Hosts(ctx, p, ids...)
	if err != nil {
		return nil, fmt.Errorf("read the hosts of instrumentations: %w", err)
	}
	for i, places := range found {
		out[i] = &Found[HostPlacement]{Items: places.Items, Next: places.Next, Previous: p.After != "", Total: places.Total}
	}
	return out, nil
}
