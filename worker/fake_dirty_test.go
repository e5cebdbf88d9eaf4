package worker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"iapi/assignment"
	"iapi/instrumentation"
	"iapi/store"
)

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

func (s *fakeStore) DoneVM(_ context.Context, claims ...store.VMClaim) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range claims {
		d := s.vms[c.VM]
		if d == nil || d.token != c.Token {
			err = store.ErrClaimLost
			continue
		}
		if d.until = (time.Time{}); d.wanted == c.Mark {
			delete(s.vms, c.VM)
		}
	}
	return err
}

func (s *fakeStore) AwaitWork(ctx context.Context, _ string, _ store.Work, most time.Duration) error {
	sleep(ctx, min(most, time.Millisecond))
	return ctx.Err()
}

func (s *fakeStore) Time() time.Time { return time.Now() }

func (s *fakeStore) WakeForTasks(context.Context, redis.Pipeliner) {}

func (s *fakeStore) Marked(context.Context, ...uuid.UUID) (store.Marked, error) {
	return store.Marked{time.Now()}, nil
}

func (s *fakeStore) Waiting(_ context.Context, by store.Marked, hosts ...uuid.UUID) (waiting []uuid.UUID, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range hosts {
		if h := s.host(id); h.marks > 0 && !h.since.After(by[0]) {
			waiting = append(waiting, id)
		}
	}
	return waiting, nil
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

func (s *fakeStore) CommitDocuments(_ context.Context, drafts []store.Draft) []store.Committed {
	out := make([]store.Committed, len(drafts))
	for i, d := range drafts {
		out[i] = s.commitDocument(d)
	}
	return out
}

func (s *fakeStore) commitDocument(d store.Draft) store.Committed {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hosts[d.Claim.Host]
	if h.token != d.Claim.Token {
		return store.Committed{Err: store.ErrClaimLost}
	}
	if h.wanted != d.Facts.Wanted || h.version != d.Facts.Version {
		return store.Committed{Version: h.version}
	}
	if h.version.Hash != d.Hash {
		h.version = assignment.Version{Epoch: assignment.FirstEpoch, Generation: h.version.Generation + 1, Hash: d.Hash}
		h.body = d.Body
		s.commits++
	}
	h.placed = map[instrumentation.ID]int{}
	for _, p := range d.Placed {
		h.placed[p.ID] = p.Expected
		s.judge[p.ID] = true
	}
	h.dirt = dirt{wanted: h.wanted}
	return store.Committed{Version: h.version, Done: true}
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

func (s *fakeStore) Placements(_ context.Context, goes func(instrumentation.ID, uuid.UUID) bool, hosts ...uuid.UUID) (all, gone int, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counted += len(hosts)
	for _, id := range hosts {
		h := s.hosts[id]
		if h == nil || h.body == nil {
			continue
		}
		items, err := assignment.Decode(h.body)
		if err != nil {
			return 0, 0, err
		}
		for _, it := range items {
			sources := it.VMs
			if it.WholeHost {
				sources = []assignment.VM{{}}
			}
			all += len(sources)
			for _, vm := range sources {
				if goes != nil && goes(instrumentation.ID(it.ID), vm.UUID) {
					gone++
				}
			}
		}
	}
	return all, gone, nil
}
