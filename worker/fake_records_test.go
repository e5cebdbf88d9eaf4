package worker

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"iapi/instrumentation"
	"iapi/store"
)

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
		if out[i].Running = out[i].Expected; s.failing[id] {
			out[i].Running, out[i].Failed = 0, out[i].Expected
		}
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

func (s *fakeStore) Stale(context.Context) (stale []store.Pending, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rec := range s.records {
		if !rec.StaleFrom.IsZero() && rec.Live(time.Now()) {
			stale = append(stale, store.Pending{ID: rec.ID, Revision: rec.Revision})
		}
	}
	return stale, nil
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

func (s *fakeStore) TellFares(_ context.Context, ids ...instrumentation.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = append(s.told, ids...)
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

func (s *fakeStore) NextByState(_ context.Context, state instrumentation.State, after instrumentation.ID, n int) (ids []instrumentation.ID, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, rec := range s.records {
		if rec.State == state && id > after {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids[:min(n, len(ids))], nil
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

func (s *fakeStore) PutWalk(_ context.Context, w store.Walk) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.walks++
	w.Sums = maps.Clone(w.Sums)
	s.walk = w
	return nil
}

func (s *fakeStore) Walk(_ context.Context, id string) (store.Walk, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.walk.ID == id {
		w := s.walk
		w.Sums = maps.Clone(w.Sums)
		return w, nil
	}
	return store.Walk{ID: id, Sums: map[uuid.UUID]store.HostDigest{}}, nil
}

func (s *fakeStore) EndSweep(_ context.Context, e store.Swept) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.walk, s.swept = store.Walk{}, e
	return nil
}

func (s *fakeStore) LastSweep(context.Context) (store.Swept, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.swept, nil
}
