package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
)

var (
	dirtyScript   = load("mark", "dirty")
	lapseScript   = load("mark", "lapse")
	claimScript   = load("mark", "claim")
	unclaimScript = load("mark", "unclaim")
	waitingScript = load("waiting")
)

// The kinds of dirty things, as the keys' names have them.
const (
	kindHost = ""
	kindVM   = "v"
)

// later is added to the score of what is not urgent, so that all that is urgent comes first.
const later = 1e15

// byShard sorts ids into their shards.
func byShard(ids []uuid.UUID) map[shard][]uuid.UUID {
	out := make(map[shard][]uuid.UUID)
	for _, id := range ids {
		out[shardOf(id)] = append(out[shardOf(id)], id)
	}
	return out
}

func (s *Store) mark(ctx context.Context, kind string, urgent bool, ids []uuid.UUID) error {
	var calls []*call
	for sh, ids := range byShard(ids) {
		for chunk := range slices.Chunk(ids, 500) {
			args := []any{kind, flag(urgent)}
			for _, id := range chunk {
				args = append(args, id.String())
			}
			calls = append(calls, &call{script: dirtyScript, key: sh.prefix(), args: args})
		}
	}
	return s.doAll(ctx, calls)
}

// MarkHosts marks hosts to be reconciled and wakes workers. What is urgent is done first.
func (s *Store) MarkHosts(ctx context.Context, urgent bool, hosts ...uuid.UUID) error {
	return s.mark(ctx, kindHost, urgent, hosts)
}

// MarkVMs marks VMs to be looked up in the inventory and wakes workers.
func (s *Store) MarkVMs(ctx context.Context, vms ...uuid.UUID) error {
	return s.mark(ctx, kindVM, false, vms)
}

type claimed struct {
	id    uuid.UUID
	token string
	mark  int64
}

// claim takes up to n from the heads of all shards' queues. Another worker may be quicker, so fewer than n says nothing of
// how many there are; none says that nothing was free.
func (s *Store) claim(ctx context.Context, kind, worker string, n int, lease time.Duration) ([]claimed, error) {
	if n <= 0 {
		return nil, nil
	}
	token := strings.ReplaceAll(worker, "|", "_") + "." + uuid.NewString()
	for range 4 {
		best, err := s.first(ctx, kind, n)
		if err != nil || len(best) == 0 {
			return nil, err
		}
		var calls []*call
		for sh, ids := range byShard(best) {
			args := []any{kind, token, lease.Milliseconds()}
			for _, id := range ids {
				args = append(args, id.String())
			}
			calls = append(calls, &call{script: claimScript, key: sh.prefix(), args: args})
		}
		if err := s.doAll(ctx, calls); err != nil {
			return nil, err
		}
		got := make(map[uuid.UUID]int64)
		for _, c := range calls {
			reply := texts(c.reply)
			for i := 0; i+1 < len(reply); i += 2 {
				id, err := uuid.Parse(reply[i])
				if err != nil {
					return nil, fmt.Errorf("claim: %w", err)
				}
				got[id] = number(reply[i+1])
			}
		}
		var out []claimed
		for _, id := range best { // in the order of the queue
			if m, ok := got[id]; ok {
				out = append(out, claimed{id, token, m})
			}
		}
		if len(out) > 0 {
			return out, nil
		}
	}
	return nil, nil
}

// first returns up to n members from the heads of all shards' queues, after lapsed claims went back: none that is not urgent
// while one that is waits, and of the others those that have waited longest. A shard gives no more than twice its share, so
// that a long queue is not read again and again.
func (s *Store) first(ctx context.Context, kind string, n int) ([]uuid.UUID, error) {
	share := max(8, 2*(n+shards-1)/shards)
	for {
		var now *redis.TimeCmd
		queues, leases := make([]*redis.ZSliceCmd, shards), make([]*redis.ZSliceCmd, shards)
		err := s.pipelined(ctx, "read the queue", func(p redis.Pipeliner) {
			now = p.Time(ctx)
			for sh := range shard(shards) {
				queues[sh] = p.ZRangeWithScores(ctx, sh.key(kind+"dirty"), 0, int64(min(n, share)-1))
				leases[sh] = p.ZRangeWithScores(ctx, sh.key(kind+"leased"), 0, 0)
			}
		})
		if err != nil {
			return nil, err
		}
		var lapsed []*call
		var all []redis.Z
		moreUrgent := false
		var next time.Duration // until a claim lapses
		for sh := range shard(shards) {
			q := queues[sh].Val()
			all = append(all, q...)
			moreUrgent = moreUrgent || len(q) == share && q[len(q)-1].Score < later
			for _, l := range leases[sh].Val() {
				in := time.UnixMilli(int64(l.Score) + 1).Sub(now.Val())
				if in <= time.Millisecond {
					lapsed = append(lapsed, &call{script: lapseScript, key: sh.prefix(), args: []any{kind}})
				} else if next == 0 || in < next {
					next = in
				}
			}
		}
		if len(lapsed) > 0 {
			if err := s.doAll(ctx, lapsed); err != nil {
				return nil, err
			}
			continue
		}
		s.waker.lapses(Work(kind), next)
		slices.SortFunc(all, func(a, b redis.Z) int { return cmp.Compare(a.Score, b.Score) })
		ids := make([]string, 0, min(n, len(all)))
		for _, z := range all[:cap(ids)] {
			if moreUrgent && z.Score >= later {
				break
			}
			id, _ := z.Member.(string)
			ids = append(ids, id)
		}
		return parseIDs(ids)
	}
}

// ClaimHosts claims up to n dirty hosts for as long as the lease: urgent ones first, then those that have waited longest.
// Hosts that another has claimed are left out until its lease lapses.
func (s *Store) ClaimHosts(ctx context.Context, worker string, n int, lease time.Duration) ([]Claim, error) {
	got, err := s.claim(ctx, kindHost, worker, n, lease)
	out := make([]Claim, len(got))
	for i, c := range got {
		out[i] = Claim{Host: c.id, Token: c.token}
	}
	return out, err
}

// ReleaseHost gives a lease back and keeps the mark, so that the host is claimed again. It returns ErrClaimLost if the lease
// has lapsed and another may have the host.
func (s *Store) ReleaseHost(ctx context.Context, c Claim) error {
	reply, err := s.do(ctx, unclaimScript, shardOf(c.Host).prefix(), kindHost, c.Host.String(), c.Token, "")
	if err != nil {
		return err
	}
	if number(reply) != 1 {
		return fmt.Errorf("end the claim of %s: %w", c.Host, ErrClaimLost)
	}
	return nil
}

// ClaimVMs claims up to n dirty VMs for as long as the lease, those first that have waited longest.
func (s *Store) ClaimVMs(ctx context.Context, worker string, n int, lease time.Duration) ([]VMClaim, error) {
	got, err := s.claim(ctx, kindVM, worker, n, lease)
	out := make([]VMClaim, len(got))
	for i, c := range got {
		out[i] = VMClaim{VM: c.id, Token: c.token, Mark: c.mark}
	}
	return out, err
}

// DoneVM ends claims, in one round trip for each server, and removes their marks, but those of VMs that were marked again
// since. It returns ErrClaimLost if the lease of any has lapsed and another may have that VM; the others are done.
func (s *Store) DoneVM(ctx context.Context, claims ...VMClaim) error {
	calls := make([]*call, len(claims))
	for i, c := range claims {
		calls[i] = &call{
			script: unclaimScript, key: shardOf(c.VM).prefix(), args: []any{kindVM, c.VM.String(), c.Token, itoa(c.Mark)},
		}
	}
	if err := s.doAll(ctx, calls); err != nil {
		return err
	}
	for i, c := range calls {
		if number(c.reply) != 1 {
			return fmt.Errorf("end the claim of %s: %w", claims[i].VM, ErrClaimLost)
		}
	}
	return nil
}

// Waiting returns those of some hosts that were marked by a time of the store's clock and have not been reconciled since,
// claimed or not.
func (s *Store) Waiting(ctx context.Context, marked time.Time, hosts ...uuid.UUID) ([]uuid.UUID, error) {
	var calls []*call
	for sh, ids := range byShard(hosts) {
		for chunk := range slices.Chunk(ids, 500) {
			args := []any{marked.UnixMilli()}
			for _, id := range chunk {
				args = append(args, id.String())
			}
			calls = append(calls, &call{script: waitingScript, key: sh.prefix(), args: args})
		}
	}
	if err := s.doAll(ctx, calls); err != nil {
		return nil, err
	}
	var waiting []uuid.UUID
	for _, c := range calls {
		ids, err := parseIDs(texts(c.reply))
		if err != nil {
			return nil, fmt.Errorf("read which hosts wait: %w", err)
		}
		waiting = append(waiting, ids...)
	}
	return waiting, nil
}

// Backlog tells what waits to be done, claimed or not.
func (s *Store) Backlog(ctx context.Context) (Backlog, error) {
	type queue struct {
		dirty, leased *redis.IntCmd
		urgent, first *redis.ZSliceCmd
	}
	var b Backlog
	hosts, vms := make([]queue, shards), make([]queue, shards)
	var unevaluated, judge *redis.IntCmd
	var oldest, judged *redis.ZSliceCmd
	var now *redis.TimeCmd
	err := s.pipelined(ctx, "measure the backlog", func(p redis.Pipeliner) {
		now = p.Time(ctx)
		for sh := range shard(shards) {
			for kind, q := range map[string]*queue{kindHost: &hosts[sh], kindVM: &vms[sh]} {
				q.dirty, q.leased = p.ZCard(ctx, sh.key(kind+"dirty")), p.ZCard(ctx, sh.key(kind+"leased"))
				q.urgent = p.ZRangeWithScores(ctx, sh.key(kind+"dirty"), 0, 0)
				q.first = p.ZRangeByScoreWithScores(ctx, sh.key(kind+"dirty"), &redis.ZRangeBy{Min: "1e15", Max: "+inf", Count: 1})
			}
		}
		unevaluated, judge = p.ZCard(ctx, record+"unevaluated"), p.ZCard(ctx, record+"judge")
		oldest, judged = p.ZRangeWithScores(ctx, record+"unevaluated", 0, 0), p.ZRangeWithScores(ctx, record+"judge", 0, 0)
	})
	if err != nil {
		return b, err
	}
	age := func(into *time.Duration, z *redis.ZSliceCmd) {
		for _, m := range z.Val() {
			at := m.Score
			if at >= later {
				at -= later
			}
			*into = max(*into, now.Val().Sub(time.UnixMilli(int64(at))))
		}
	}
	for i := range shards {
		b.DirtyHosts += int(hosts[i].dirty.Val() + hosts[i].leased.Val())
		b.DirtyVMs += int(vms[i].dirty.Val() + vms[i].leased.Val())
		age(&b.OldestHost, hosts[i].urgent)
		age(&b.OldestHost, hosts[i].first)
		age(&b.OldestVM, vms[i].urgent)
		age(&b.OldestVM, vms[i].first)
	}
	b.Unevaluated, b.Judge = int(unevaluated.Val()), int(judge.Val())
	age(&b.OldestUnevaluated, oldest)
	age(&b.OldestJudged, judged)
	return b, nil
}
