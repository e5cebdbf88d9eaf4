package worker

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/assignment"
	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/store"
)

// fakeStore keeps in memory what the store promises, so that thousands of interleavings can be tried in a second.
type fakeStore struct {
	mu      sync.Mutex
	tokens  int
	hosts   map[uuid.UUID]*fakeHost
	where   map[uuid.UUID]uuid.UUID // VM → host
	gone    map[uuid.UUID]time.Time // VM → asOf of its removal
	vms     map[uuid.UUID]*dirt     // dirty VMs
	records map[instrumentation.ID]instrumentation.Instrumentation
	log     []instrumentation.ID
	trimmed int // entries of the log that are gone
	waiting map[instrumentation.ID]time.Time
	judge   map[instrumentation.ID]bool
	guards  map[string]instrumentation.Guard
	granted map[string]bool
	leases  map[string]string
	commits int
}

type dirt struct {
	marks, wanted int64
	since         time.Time
	urgent        bool
	token         string
	until         time.Time
}

type fakeVM struct {
	vm   inventory.VM
	asOf time.Time
}

type fakeHost struct {
	dirt
	host    inventory.Host
	known   bool
	asOf    time.Time
	vms     map[uuid.UUID]fakeVM
	version assignment.Version
	body    []byte
	placed  map[instrumentation.ID]int
}

func newFakeStore() *fakeStore {
	return &fakeStore{
		hosts: map[uuid.UUID]*fakeHost{}, where: map[uuid.UUID]uuid.UUID{}, gone: map[uuid.UUID]time.Time{}, vms: map[uuid.UUID]*dirt{},
		records: map[instrumentation.ID]instrumentation.Instrumentation{}, waiting: map[instrumentation.ID]time.Time{},
		judge: map[instrumentation.ID]bool{}, guards: map[string]instrumentation.Guard{}, granted: map[string]bool{}, leases: map[string]string{},
	}
}

func (s *fakeStore) host(id uuid.UUID) *fakeHost {
	h := s.hosts[id]
	if h == nil {
		h = &fakeHost{vms: map[uuid.UUID]fakeVM{}, host: inventory.Host{UUID: id}}
		s.hosts[id] = h
	}
	return h
}

func (d *dirt) mark(urgent bool) {
	d.marks++
	d.wanted++
	d.urgent = d.urgent || urgent
	if d.marks == 1 {
		d.since = time.Now()
	}
}

func (s *fakeStore) token() string { s.tokens++; return strconv.Itoa(s.tokens) }

func (s *fakeStore) Now(context.Context) (time.Time, error) { return time.Now().UTC(), nil }

func (s *fakeStore) Facts(_ context.Context, id uuid.UUID) (store.Facts, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.host(id)
	f := store.Facts{Host: h.host, Known: h.known, Wanted: h.wanted, Version: h.version}
	for _, v := range h.vms {
		f.VMs = append(f.VMs, v.vm)
	}
	slices.SortFunc(f.VMs, func(a, b inventory.VM) int { return bytes.Compare(a.UUID[:], b.UUID[:]) })
	return f, nil
}

// put applies one VM as it was read at asOf, and returns the hosts that change.
func (s *fakeStore) put(asOf time.Time, vm inventory.VM) (changed []uuid.UUID) {
	if at, ok := s.gone[vm.UUID]; ok && asOf.Before(at) {
		return nil
	}
	if on, ok := s.where[vm.UUID]; ok {
		was := s.hosts[on].vms[vm.UUID]
		if asOf.Before(was.asOf) {
			return nil
		}
		if !vm.Placed() || vm.Host != on {
			delete(s.hosts[on].vms, vm.UUID)
			delete(s.where, vm.UUID)
			s.gone[vm.UUID] = asOf
			changed = append(changed, on)
		} else if was.vm.Equal(vm) {
			s.hosts[on].vms[vm.UUID] = fakeVM{vm, asOf}
			return nil
		}
	}
	if vm.Placed() {
		s.host(vm.Host).vms[vm.UUID] = fakeVM{vm, asOf}
		s.where[vm.UUID] = vm.Host
		delete(s.gone, vm.UUID)
		changed = append(changed, vm.Host)
	}
	for _, id := range changed {
		s.host(id).mark(false)
	}
	return changed
}

func (s *fakeStore) PutVMs(_ context.Context, asOf time.Time, vms []inventory.VM) (changed []uuid.UUID, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, vm := range vms {
		changed = append(changed, s.put(asOf, vm)...)
	}
	return unique(changed), nil
}

func (s *fakeStore) ReplaceHostVMs(_ context.Context, asOf time.Time, host uuid.UUID, vms []inventory.VM) (changed bool, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	named := map[uuid.UUID]bool{}
	for _, vm := range vms {
		named[vm.UUID] = true
		changed = len(s.put(asOf, vm)) > 0 || changed
	}
	for id, v := range s.host(host).vms {
		if !named[id] && !asOf.Before(v.asOf) {
			delete(s.host(host).vms, id)
			delete(s.where, id)
			s.gone[id] = asOf
			s.host(host).mark(false)
			changed = true
		}
	}
	return changed, nil
}

func (s *fakeStore) PutHosts(_ context.Context, asOf time.Time, hosts []inventory.Host) (changed []uuid.UUID, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range hosts {
		h := s.host(n.UUID)
		if asOf.Before(h.asOf) {
			continue
		}
		if !h.known || !h.host.Equal(n) {
			h.mark(false)
			changed = append(changed, n.UUID)
		}
		h.host, h.known, h.asOf = n, true, asOf
	}
	return changed, nil
}

func (s *fakeStore) RemoveHost(_ context.Context, asOf time.Time, id uuid.UUID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.host(id); h.known && !asOf.Before(h.asOf) {
		h.known, h.host, h.asOf = false, inventory.Host{UUID: id}, asOf
		h.mark(true)
	}
	return nil
}

func (s *fakeStore) HostIDs(context.Context) (ids []uuid.UUID, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, h := range s.hosts {
		if h.known || len(h.vms) > 0 {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (s *fakeStore) Digests(context.Context) (map[uuid.UUID]store.HostDigest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[uuid.UUID]store.HostDigest{}
	for id, h := range s.hosts {
		for _, v := range h.vms {
			d := out[id]
			out[id] = store.HostDigest{Digest: d.Digest + store.VMDigest(v.vm), VMs: d.VMs + 1}
		}
	}
	return out, nil
}

func (s *fakeStore) Host(_ context.Context, id uuid.UUID) (*instrumentation.FleetHost, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.hosts[id]; h != nil && h.known {
		return &instrumentation.FleetHost{Host: h.host}, nil
	}
	return nil, nil
}

func (s *fakeStore) MarkHosts(_ context.Context, urgent bool, hosts ...uuid.UUID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range hosts {
		s.host(id).mark(urgent)
	}
	return nil
}

func (s *fakeStore) MarkVMs(_ context.Context, vms ...uuid.UUID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range vms {
		if s.vms[id] == nil {
			s.vms[id] = &dirt{}
		}
		s.vms[id].mark(false)
	}
	return nil
}

func (s *fakeStore) claim(d *dirt, lease time.Duration) bool {
	if d.marks == 0 || time.Now().Before(d.until) {
		return false
	}
	d.token, d.until = s.token(), time.Now().Add(lease)
	return true
}

func (s *fakeStore) ClaimHosts(_ context.Context, _ string, n int, lease time.Duration) (out []store.Claim, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := slices.SortedFunc(maps.Keys(s.hosts), func(a, b uuid.UUID) int {
		x, y := s.hosts[a], s.hosts[b]
		if x.urgent != y.urgent {
			if x.urgent {
				return -1
			}
			return 1
		}
		return x.since.Compare(y.since)
	})
	for _, id := range ids {
		if len(out) < n && s.claim(&s.hosts[id].dirt, lease) {
			out = append(out, store.Claim{Host: id, Token: s.hosts[id].token})
		}
	}
	return out, nil
}

func (s *fakeStore) ReleaseHost(_ context.Context, c store.Claim) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hosts[c.Host].token != c.Token {
		return store.ErrClaimLost
	}
	s.hosts[c.Host].until = time.Time{}
	return nil
}

func (s *fakeStore) ClaimVMs(_ context.Context, _ string, n int, lease time.Duration) (out []store.VMClaim, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, d := range s.vms {
		if len(out) < n && s.claim(d, lease) {
			out = append(out, store.VMClaim{VM: id, Token: d.token, Mark: d.wanted})
		}
	}
	return out, nil
}

func (s *fakeStore) DoneVM(_ context.Context, c store.VMClaim) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.vms[c.VM]
	if d == nil || d.token != c.Token {
		return store.ErrClaimLost
	}
	if d.until = (time.Time{}); d.wanted == c.Mark {
		delete(s.vms, c.VM)
	}
	return nil
}

func (s *fakeStore) AwaitWork(ctx context.Context, _ string, most time.Duration) error {
	sleep(ctx, min(most, time.Millisecond))
	return ctx.Err()
}

func (s *fakeStore) Backlog(context.Context) (b store.Backlog, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hosts {
		if h.marks > 0 {
			b.DirtyHosts++
			b.OldestHost = max(b.OldestHost, time.Since(h.since))
		}
	}
	b.DirtyVMs, b.Unevaluated, b.Judge = len(s.vms), len(s.waiting), len(s.judge)
	return b, nil
}

func (s *fakeStore) CommitDocument(_ context.Context, c store.Claim, f store.Facts, body []byte, hash string, placed []store.Counts) (assignment.Version, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hosts[c.Host]
	if h.token != c.Token {
		return assignment.Version{}, false, store.ErrClaimLost
	}
	if h.wanted != f.Wanted || h.version != f.Version {
		return h.version, false, nil
	}
	if h.version.Hash != hash {
		h.version = assignment.Version{Epoch: assignment.FirstEpoch, Generation: h.version.Generation + 1, Hash: hash}
		h.body = body
		s.commits++
	}
	h.placed = map[instrumentation.ID]int{}
	for _, p := range placed {
		h.placed[p.ID] = p.Expected
		s.judge[p.ID] = true
	}
	h.dirt = dirt{wanted: h.wanted}
	return h.version, true, nil
}

func (s *fakeStore) commit(rec instrumentation.Instrumentation) {
	s.records[rec.ID] = rec
	s.waiting[rec.ID] = time.Now()
	s.log = append(s.log, rec.ID)
}

func (s *fakeStore) Commit(_ context.Context, c instrumentation.Change) (instrumentation.Instrumentation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.records[c.Record.ID].Revision != c.Expect {
		return instrumentation.Instrumentation{}, instrumentation.ErrRevision
	}
	s.commit(c.Record)
	return c.Record, nil
}

func (s *fakeStore) Get(_ context.Context, ids ...instrumentation.ID) ([]*instrumentation.Instrumentation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*instrumentation.Instrumentation, len(ids))
	for i, id := range ids {
		if rec, ok := s.records[id]; ok {
			out[i] = &rec
		}
	}
	return out, nil
}

func (s *fakeStore) Coverage(_ context.Context, ids ...instrumentation.ID) ([]instrumentation.Coverage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]instrumentation.Coverage, len(ids))
	for i, id := range ids {
		for _, h := range s.hosts {
			out[i].Expected += h.placed[id]
		}
		out[i].Running = out[i].Expected
	}
	return out, nil
}

func (s *fakeStore) Log(_ context.Context, after string) ([]instrumentation.ID, string, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := strconv.Atoi(after)
	if err != nil || n < s.trimmed {
		return nil, strconv.Itoa(s.trimmed + len(s.log)), true, nil
	}
	return slices.Clone(s.log[n-s.trimmed:]), strconv.Itoa(s.trimmed + len(s.log)), false, nil
}

func (s *fakeStore) AllLive(_ context.Context, fn func([]instrumentation.Instrumentation) error) (string, error) {
	s.mu.Lock()
	pos := strconv.Itoa(s.trimmed + len(s.log))
	var all []instrumentation.Instrumentation
	for _, rec := range s.records {
		if rec.Live(time.Now()) {
			all = append(all, rec)
		}
	}
	s.mu.Unlock()
	return pos, fn(all)
}

func (s *fakeStore) Evaluated(_ context.Context, id instrumentation.ID, revision int, stale time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rec, ok := s.records[id]; ok && rec.Revision == revision {
		rec.Evaluated, rec.StaleFrom = revision, stale
		s.records[id] = rec
		delete(s.waiting, id)
	}
	return nil
}

func (s *fakeStore) Unevaluated(_ context.Context, _ time.Duration, _ int) (out []store.Pending, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.waiting {
		out = append(out, store.Pending{ID: id, Revision: s.records[id].Revision})
	}
	return out, nil
}

func (s *fakeStore) MarkJudge(_ context.Context, ids ...instrumentation.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		s.judge[id] = true
	}
	return nil
}

func (s *fakeStore) ClaimJudge(_ context.Context, n int) (ids []instrumentation.ID, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.judge {
		if len(ids) < n {
			ids = append(ids, id)
			delete(s.judge, id)
		}
	}
	return ids, nil
}

func (s *fakeStore) SetState(_ context.Context, id instrumentation.ID, revision int, state instrumentation.State, enabledAt time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec, ok := s.records[id]
	if !ok {
		return instrumentation.ErrNotFound
	}
	if rec.Revision != revision {
		return instrumentation.ErrRevision
	}
	rec.State = state
	if !enabledAt.IsZero() {
		rec.EnabledAt = enabledAt
	}
	s.records[id] = rec
	s.log = append(s.log, id)
	return nil
}

func (s *fakeStore) Expiring(_ context.Context, now time.Time, _ int) (ids []instrumentation.ID, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, rec := range s.records {
		if !rec.ExpiresAt.IsZero() && !now.Before(rec.ExpiresAt) && rec.State != instrumentation.Expired {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (s *fakeStore) ByState(_ context.Context, _ int, states ...instrumentation.State) (ids []instrumentation.ID, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, rec := range s.records {
		if slices.Contains(states, rec.State) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (s *fakeStore) PlacedHosts(_ context.Context, id instrumentation.ID) (hosts []uuid.UUID, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for h, fh := range s.hosts {
		if _, ok := fh.placed[id]; ok {
			hosts = append(hosts, h)
		}
	}
	return hosts, nil
}

func (s *fakeStore) Unacknowledged(context.Context, instrumentation.ID) ([]uuid.UUID, error) {
	return nil, nil
}

func (s *fakeStore) Remove(_ context.Context, id instrumentation.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records, id)
	delete(s.waiting, id)
	s.log = append(s.log, id)
	return nil
}

func (s *fakeStore) PutGuard(_ context.Context, g instrumentation.Guard) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.granted[g.ID] && g.WouldRemove <= s.guards[g.ID].WouldRemove {
		delete(s.granted, g.ID)
		delete(s.guards, g.ID)
		return true, nil
	}
	s.guards[g.ID] = g
	return false, nil
}

func (s *fakeStore) DropGuard(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.guards, id)
	return nil
}

func (s *fakeStore) Guards(context.Context) (out []instrumentation.Guard, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, g := range s.guards {
		if !s.granted[id] {
			out = append(out, g)
		}
	}
	return out, nil
}

func (s *fakeStore) ConfirmGuard(_ context.Context, id string, _ instrumentation.Audit) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.guards[id]; !ok {
		return instrumentation.ErrNotFound
	}
	s.granted[id] = true
	return nil
}

func (s *fakeStore) Lease(_ context.Context, name, holder string, _ time.Duration) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases[name] == "" {
		s.leases[name] = holder
	}
	return s.leases[name] == holder, nil
}

func (s *fakeStore) ReleaseLease(_ context.Context, name, holder string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases[name] == holder {
		delete(s.leases, name)
	}
	return nil
}

func (s *fakeStore) Document(_ context.Context, host uuid.UUID) (assignment.Stored, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hosts[host]
	if h == nil || h.body == nil {
		return assignment.Stored{}, fmt.Errorf("host %s: %w", host, store.ErrNoDocument)
	}
	return assignment.Stored{Host: host, Version: h.version, Body: h.body}, nil
}
