// Package instrumentationtest has an honest store in memory and the other parts that an instrumentation.Service needs, for
// the tests of everything that is built on one.
package instrumentationtest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	in "iapi/instrumentation"
	"iapi/inventory"
)

// Store keeps everything in memory. It does what instrumentation.Store promises; what workers and agents would do to it
// is done by Settle and the Put methods. It is safe for use from several goroutines.
type Store struct {
	clock func() time.Time

	mu         sync.Mutex
	err        error
	records    map[in.ID]in.Instrumentation
	keys       map[string]usedKey
	audit      []in.Audit
	vms        map[uuid.UUID]inventory.VM
	hosts      map[uuid.UUID]in.FleetHost
	placements map[in.ID]map[uuid.UUID]in.HostPlacement
	guards     map[string]in.Guard
	beforeNext func()
}

type usedKey struct {
	digest string
	id     in.ID
	until  time.Time
}

var _ in.Store = (*Store)(nil)

// NewStore makes an empty store.
func NewStore(clock func() time.Time) *Store {
	return &Store{
		clock: clock, records: map[in.ID]in.Instrumentation{}, keys: map[string]usedKey{},
		vms: map[uuid.UUID]inventory.VM{}, hosts: map[uuid.UUID]in.FleetHost{},
		placements: map[in.ID]map[uuid.UUID]in.HostPlacement{}, guards: map[string]in.Guard{},
	}
}

// FailWith makes every call fail with the error, until it is nil again.
func (s *Store) FailWith(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// BeforeCommit has fn run once, before the next commit: what somebody else does in between.
func (s *Store) BeforeCommit(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beforeNext = fn
}

// PutVMs puts machines into the inventory, or changes them.
func (s *Store) PutVMs(vms ...inventory.VM) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, vm := range vms {
		s.vms[vm.UUID] = vm
	}
}

// RemoveVM takes a machine out of the inventory.
func (s *Store) RemoveVM(vm uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.vms, vm)
}

// PutHosts puts hosts into the inventory, or changes them.
func (s *Store) PutHosts(hosts ...in.FleetHost) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range hosts {
		s.hosts[h.Host.UUID] = h
	}
}

// PutPlacement says how one host of an instrumentation fares.
func (s *Store) PutPlacement(id in.ID, p in.HostPlacement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.placements[id] == nil {
		s.placements[id] = map[uuid.UUID]in.HostPlacement{}
	}
	s.placements[id][p.Host.UUID] = p
}

// PutGuard lets something wait for a decision.
func (s *Store) PutGuard(g in.Guard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.guards[g.ID] = g
}

// Put stores a record as it is, without any rule.
func (s *Store) Put(rec in.Instrumentation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[rec.ID] = rec
}

// Stored returns a record as it is stored.
func (s *Store) Stored(id in.ID) (in.Instrumentation, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec, ok := s.records[id]
	return rec, ok
}

// Entries returns the audit log, oldest first.
func (s *Store) Entries() []in.Audit {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.audit)
}

// Settle does what workers and agents do in the end: every record is evaluated against the inventory, hosts with an
// agent that is online run what they should, the rest is pending or offline, states are judged, and what is deleted is
// gone.
func (s *Store) Settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock()
	for id, rec := range s.records {
		delete(s.placements, id)
		if !rec.DeletedAt.IsZero() {
			delete(s.records, id)
			continue
		}
		if rec.Live(now) {
			s.placements[id] = s.place(rec.Owner, rec.Scope, now)
		}
		rec.Evaluated = rec.Revision
		rec.State = in.Judge(rec, s.coverage(id), now)
		if rec.State == in.Enabled && rec.EnabledAt.IsZero() {
			rec.EnabledAt = now
		}
		s.records[id] = rec
	}
}

// place evaluates a scope over all places, one by one.
func (s *Store) place(owner uuid.UUID, scope in.Scope, now time.Time) map[uuid.UUID]in.HostPlacement {
	out := map[uuid.UUID]in.HostPlacement{}
	add := func(host uuid.UUID, vm uuid.UUID) {
		h, known := s.hosts[host]
		p, ok := out[host]
		if !ok {
			p = in.HostPlacement{Host: inventory.Host{UUID: host}, Status: in.StatusPending, Since: now}
			if known {
				p.Host = h.Host
			}
			switch {
			case h.Agent != nil && h.Agent.Online:
				p.Status = in.StatusRunning
			case h.Agent != nil:
				p.Status = in.StatusOffline
			}
		}
		if vm != uuid.Nil {
			p.VMs = append(p.VMs, vm)
			slices.SortFunc(p.VMs, compare)
		}
		out[host] = p
	}
	if !scope.Zones(owner) {
		for id, h := range s.hosts {
			if scope.Matches(nil, h.Host) {
				add(id, uuid.Nil)
			}
		}
		return out
	}
	for _, vm := range s.vms {
		host := s.hosts[vm.Host].Host
		host.UUID = vm.Host
		if vm.Placed() && (owner == uuid.Nil || vm.Owner == owner) && scope.Matches(&vm, host) {
			add(vm.Host, vm.UUID)
		}
	}
	return out
}

func compare(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) }

// Commit implements instrumentation.Store.
func (s *Store) Commit(_ context.Context, c in.Change) (in.Instrumentation, error) {
	s.mu.Lock()
	before := s.beforeNext
	s.beforeNext = nil
	s.mu.Unlock()
	if before != nil {
		before()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return in.Instrumentation{}, s.err
	}
	now := s.clock()
	key := strings.Join([]string{c.Audit.Caller, c.Record.Owner.String(), c.IdempotencyKey}, "\x00")
	if used, ok := s.keys[key]; c.IdempotencyKey != "" && ok && now.Before(used.until) {
		if used.digest != c.InputDigest {
			return in.Instrumentation{}, fmt.Errorf("commit: %w", in.ErrIdempotency)
		}
		if rec, ok := s.records[used.id]; ok {
			return rec, nil
		}
		return in.Instrumentation{}, fmt.Errorf("commit: the idempotency key's %s: %w", used.id, in.ErrNotFound)
	}
	stands, exists := s.records[c.Record.ID]
	switch {
	case c.Expect == 0 && exists, c.Expect != 0 && exists && stands.Revision != c.Expect:
		return in.Instrumentation{}, fmt.Errorf("commit: %w", in.ErrRevision)
	case c.Expect != 0 && !exists:
		return in.Instrumentation{}, fmt.Errorf("commit: %w", in.ErrNotFound)
	}
	if c.Expect == 0 {
		used := s.usage(c.Record.Owner)
		if c.MaxLive > 0 && used.Live >= c.MaxLive || c.Record.Tracing && c.MaxTracing > 0 && used.Tracing >= c.MaxTracing {
			return in.Instrumentation{}, fmt.Errorf("commit: %w", &in.QuotaError{Has: used})
		}
	}
	s.records[c.Record.ID] = c.Record
	if c.IdempotencyKey != "" {
		s.keys[key] = usedKey{c.InputDigest, c.Record.ID, now.Add(24 * time.Hour)}
	}
	s.append(c.Audit)
	return c.Record, nil
}

func (s *Store) append(a in.Audit) {
	a.ID = fmt.Sprintf("%08d-0", len(s.audit)+1)
	s.audit = append(s.audit, a)
}

// Get implements instrumentation.Store.
func (s *Store) Get(_ context.Context, ids ...in.ID) ([]*in.Instrumentation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*in.Instrumentation, len(ids))
	for i, id := range ids {
		if rec, ok := s.records[id]; ok {
			out[i] = &rec
		}
	}
	return out, s.err
}

// Search implements instrumentation.Store.
func (s *Store) Search(_ context.Context, f in.Filter, p in.Page) (found []in.Instrumentation, next, previous bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, false, false, s.err
	}
	all := s.matching(f)
	slices.SortFunc(all, func(a, b in.Instrumentation) int { return cmp.Compare(b.ID, a.ID) })
	from, to := 0, len(all)
	for from < to && p.After != "" && string(all[from].ID) >= p.After {
		from++
	}
	for to > from && p.Before != "" && string(all[to-1].ID) <= p.Before {
		to--
	}
	if p.First > 0 {
		to = min(to, from+p.First)
	}
	if p.Last > 0 {
		from = max(from, to-p.Last)
	}
	return slices.Clone(all[from:to]), to < len(all), from > 0, nil
}

// Count implements instrumentation.Store.
func (s *Store) Count(_ context.Context, f in.Filter) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.matching(f)), s.err
}

func (s *Store) matching(f in.Filter) []in.Instrumentation {
	var out []in.Instrumentation
	for _, rec := range s.records {
		if s.matches(f, rec) {
			out = append(out, rec)
		}
	}
	return out
}

func (s *Store) matches(f in.Filter, rec in.Instrumentation) bool {
	for _, t := range f.Tags {
		if !slices.Contains(rec.Tags, t) {
			return false
		}
	}
	covers := f.VM == uuid.Nil
	for _, p := range s.placements[rec.ID] {
		covers = covers || slices.Contains(p.VMs, f.VM)
	}
	_, on := s.placements[rec.ID][f.Host]
	return covers && (f.Host == uuid.Nil || on) &&
		(f.Owner == nil || *f.Owner == rec.Owner) &&
		(f.Metric == "" || f.Metric == rec.Metric) &&
		(len(f.States) == 0 || slices.Contains(f.States, rec.StateAt(f.Now))) &&
		strings.Contains(strings.ToLower(rec.Name), strings.ToLower(f.Text))
}

// Usage implements instrumentation.Store.
func (s *Store) Usage(_ context.Context, owner uuid.UUID) (in.Usage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usage(owner), s.err
}

func (s *Store) usage(owner uuid.UUID) in.Usage {
	var u in.Usage
	for _, rec := range s.records {
		if rec.Owner != owner || !rec.DeletedAt.IsZero() {
			continue
		}
		u.Live++
		if rec.Tracing {
			u.Tracing++
		}
	}
	return u
}

// sources calls fn for each source of an instrumentation; vm is Nil for a whole host.
func (s *Store) sources(id in.ID, fn func(vm uuid.UUID, status in.Status, message string)) {
	hosts := s.placements[id]
	for _, host := range slices.SortedFunc(maps.Keys(hosts), compare) {
		p := hosts[host]
		if len(p.VMs) == 0 {
			fn(uuid.Nil, p.Status, p.Message)
		}
		for _, vm := range p.VMs {
			if f, ok := p.Failures[vm]; ok {
				fn(vm, f.Status, f.Message)
			} else {
				fn(vm, p.Status, p.Message)
			}
		}
	}
}

// Coverage implements instrumentation.Store.
func (s *Store) Coverage(_ context.Context, ids ...in.ID) ([]in.Coverage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]in.Coverage, len(ids))
	for i, id := range ids {
		out[i] = s.coverage(id)
	}
	return out, s.err
}

func (s *Store) coverage(id in.ID) (c in.Coverage) {
	s.sources(id, func(_ uuid.UUID, status in.Status, _ string) {
		c.Expected++
		switch status {
		case in.StatusRunning:
			c.Running++
		case in.StatusPending:
			c.Pending++
		case in.StatusOffline:
			c.Offline++
		default:
			c.Failed++
		}
	})
	return c
}

// Problems implements instrumentation.Store.
func (s *Store) Problems(_ context.Context, ids ...in.ID) ([][]in.Problem, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([][]in.Problem, len(ids))
	for n, id := range ids {
		s.sources(id, func(vm uuid.UUID, status in.Status, message string) {
			if status == in.StatusRunning && message == "" {
				return
			}
			i := slices.IndexFunc(out[n], func(p in.Problem) bool { return p.Status == status && p.Message == message })
			if i < 0 {
				i = len(out[n])
				out[n] = append(out[n], in.Problem{Status: status, Message: message, ExampleVM: vm})
			}
			out[n][i].Sources++
		})
	}
	return out, s.err
}
