package worker

import (
	"bytes"
	"context"
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
	failing map[instrumentation.ID]bool // what does not run anywhere
	told    []instrumentation.ID
	guards  map[string]instrumentation.Guard
	granted map[string]bool
	leases  map[string]string
	commits int
	counted int // hosts whose placements were counted
	walk    store.Walk
	walks   int // how often one was kept
	swept   store.Swept
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
	doubt   bool
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

func (s *fakeStore) FactsOf(ctx context.Context, hosts ...uuid.UUID) ([]store.FactsRead, error) {
	out := make([]store.FactsRead, len(hosts))
	for i, h := range hosts {
		out[i].Facts, out[i].Err = s.Facts(ctx, h)
	}
	return out, nil
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
	s.host(host).doubt = false
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
		if h.doubt {
			out[id] = store.HostDigest{VMs: max(1, out[id].VMs)}
		}
	}
	return out, nil
}

func (s *fakeStore) Differences(_ context.Context, hosts []store.HostVMs) ([]store.Difference, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]store.Difference, len(hosts))
	for i, h := range hosts {
		read := map[uuid.UUID]bool{}
		for k, vm := range h.VMs {
			read[vm.UUID] = true
			if old, ok := s.host(h.Host).vms[vm.UUID]; !ok || store.VMDigest(old.vm) != vm.Digest {
				out[i].Changed = append(out[i].Changed, k)
			}
		}
		for id := range s.host(h.Host).vms {
			if !read[id] {
				out[i].Missing = append(out[i].Missing, id)
			}
		}
	}
	return out, nil
}

func (s *fakeStore) TakeVMs(_ context.Context, asOf time.Time, off map[uuid.UUID][]uuid.UUID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for host, ids := range off {
		for _, id := range ids {
			if was, ok := s.host(host).vms[id]; ok && !asOf.Before(was.asOf) {
				delete(s.host(host).vms, id)
				if s.where[id] == host {
					delete(s.where, id)
				}
				s.host(host).mark(false)
			}
		}
	}
	return nil
}

func (s *fakeStore) Doubt(_ context.Context, hosts ...uuid.UUID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range hosts {
		s.host(id).doubt = true
	}
	return nil
}

func (s *fakeStore) FleetHosts(_ context.Context, ids ...uuid.UUID) ([]*instrumentation.FleetHost, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*instrumentation.FleetHost, len(ids))
	for i, id := range ids {
		if h := s.hosts[id]; h != nil && h.known {
			out[i] = &instrumentation.FleetHost{Host: h.host}
		}
	}
	return out, nil
}
