package instrumentationtest

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"

	in "iapi/instrumentation"
	"iapi/inventory"
)

// cut takes a page out of items that are sorted by their uuids.
func cut[T any](items []T, key func(T) uuid.UUID, p in.Page) (page []T, next bool) {
	items = slices.DeleteFunc(items, func(item T) bool {
		id := key(item).String()
		return p.After != "" && id <= p.After || p.Before != "" && id >= p.Before
	})
	slices.SortFunc(items, func(a, b T) int { return compare(key(a), key(b)) })
	if p.First > 0 && len(items) > p.First {
		return items[:p.First], true
	}
	if p.Last > 0 && len(items) > p.Last {
		return items[len(items)-p.Last:], false
	}
	return items, false
}

// Hosts implements instrumentation.Store.
func (s *Store) Hosts(_ context.Context, p in.Page, ids ...in.ID) ([]in.Places[in.HostPlacement], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]in.Places[in.HostPlacement], len(ids))
	for i, id := range ids {
		found := slices.Collect(maps.Values(s.placements[id]))
		for n := range found {
			found[n].Agent = s.hosts[found[n].Host.UUID].Agent
		}
		out[i].Total = len(found)
		out[i].Items, out[i].Next = cut(found, func(h in.HostPlacement) uuid.UUID { return h.Host.UUID }, p)
	}
	return out, s.err
}

// VMs implements instrumentation.Store.
func (s *Store) VMs(_ context.Context, p in.Page, ids ...in.ID) ([]in.Places[in.VMPlacement], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]in.Places[in.VMPlacement], len(ids))
	for i, id := range ids {
		var found []in.VMPlacement
		s.sources(id, func(vm uuid.UUID, status in.Status, message string) {
			out[i].Total++
			if known, ok := s.vms[vm]; ok {
				found = append(found, in.VMPlacement{VM: known, Status: status, Message: message})
			}
		})
		out[i].Items, out[i].Next = cut(found, func(v in.VMPlacement) uuid.UUID { return v.VM.UUID }, p)
	}
	return out, s.err
}

// HostPlacement implements instrumentation.Store.
func (s *Store) HostPlacement(_ context.Context, id in.ID, host uuid.UUID) (*in.HostPlacement, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.placements[id][host]; ok {
		return &p, s.err
	}
	return nil, s.err
}

// Machines implements instrumentation.Store.
func (s *Store) Machines(_ context.Context, vms ...uuid.UUID) ([]*inventory.VM, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*inventory.VM, len(vms))
	for i, vm := range vms {
		if v, ok := s.vms[vm]; ok {
			out[i] = &v
		}
	}
	return out, s.err
}

// Fleet implements instrumentation.Store.
func (s *Store) Fleet(_ context.Context, online *bool, p in.Page) ([]in.FleetHost, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	page, next := cut(s.fleet(online), func(h in.FleetHost) uuid.UUID { return h.Host.UUID }, p)
	return page, next, s.err
}

// FleetSize implements instrumentation.Store.
func (s *Store) FleetSize(_ context.Context, online *bool) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.fleet(online)), s.err
}

func (s *Store) fleet(online *bool) []in.FleetHost {
	var out []in.FleetHost
	for _, h := range s.hosts {
		if is := h.Agent != nil && h.Agent.Online; online == nil || *online == is {
			out = append(out, h)
		}
	}
	return out
}

// FleetHosts implements instrumentation.Store.
func (s *Store) FleetHosts(_ context.Context, hosts ...uuid.UUID) ([]*in.FleetHost, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*in.FleetHost, len(hosts))
	for i, host := range hosts {
		if h, ok := s.hosts[host]; ok {
			out[i] = &h
		}
	}
	return out, s.err
}

// Guards implements instrumentation.Store.
func (s *Store) Guards(context.Context) ([]in.Guard, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]in.Guard, 0, len(s.guards))
	for _, id := range slices.Sorted(maps.Keys(s.guards)) {
		out = append(out, s.guards[id])
	}
	return out, s.err
}

// ConfirmGuard implements instrumentation.Store.
func (s *Store) ConfirmGuard(_ context.Context, id string, a in.Audit) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if _, ok := s.guards[id]; !ok {
		return fmt.Errorf("confirm guard %s: %w", id, in.ErrNotFound)
	}
	delete(s.guards, id)
	s.append(a)
	return nil
}

// Record implements instrumentation.Store.
func (s *Store) Record(_ context.Context, a in.Audit) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.append(a)
	}
	return s.err
}

// AuditLog implements instrumentation.Store.
func (s *Store) AuditLog(_ context.Context, before string, n int) ([]in.Audit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []in.Audit
	for _, a := range slices.Backward(s.audit) {
		if (before == "" || a.ID < before) && len(out) < n {
			out = append(out, a)
		}
	}
	return out, s.err
}

// Preview makes the store a Previewer: it evaluates a scope over all places, one by one.
func (s *Store) Preview(_ context.Context, owner uuid.UUID, scope in.Scope, _ string) (in.Preview, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return in.Preview{}, s.err
	}
	now := s.clock()
	out := in.Preview{AsOf: now}
	placed := s.place(owner, scope, now)
	for _, host := range slices.SortedFunc(maps.Keys(placed), compare) {
		p := placed[host]
		out.Hosts = append(out.Hosts, p.Host)
		for _, vm := range p.VMs {
			out.VMs = append(out.VMs, s.vms[vm])
		}
		if p.Status != in.StatusRunning {
			out.Problems = append(out.Problems, in.Problem{
				Status: p.Status, Message: "no agent on host " + p.Host.Name, Sources: max(1, len(p.VMs)),
			})
		}
	}
	slices.SortFunc(out.VMs, func(a, b inventory.VM) int { return compare(a.UUID, b.UUID) })
	return out, nil
}
