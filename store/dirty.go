package store

import (
	"cmp"
	"context"
	"fmt"
	"maps"
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
const later = 1_000_000_000_000_000

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
// while one that is waits, and of the others those that have waited longest. A shard gives little more than its share, so
// that a long queue is not read again and again.
//
// In a Cluster each shard has the clock of its own master. Claims lapse by the one that has given them; which of two shards'
// members has waited longer is true to within what their clocks differ by.
func (s *Store) first(ctx context.Context, kind string, n int) ([]uuid.UUID, error) {
	share := n/shards + 8
	for {
		queues, leases := make([]*redis.ZSliceCmd, shards), make([]*redis.IntCmd, shards)
		err := s.pipelined(ctx, "read the queue", func(p redis.Pipeliner) {
			for sh := range shard(shards) {
				queues[sh] = p.ZRangeWithScores(ctx, sh.key(kind+"dirty"), 0, int64(min(n, share)-1))
				leases[sh] = p.ZCard(ctx, sh.key(kind+"leased"))
			}
		})
		if err != nil {
			return nil, err
		}
		var all []redis.Z
		moreUrgent := false
		var claims []*call
		for sh := range shard(shards) {
			q := queues[sh].Val()
			all = append(all, q...)
			moreUrgent = moreUrgent || len(q) == share && q[len(q)-1].Score < later
			if leases[sh].Val() > 0 {
				claims = append(claims, &call{script: lapseScript, key: sh.prefix(), args: []any{kind}})
			}
		}
		if err := s.doAll(ctx, claims); err != nil {
			return nil, err
		}
		lapsed := false
		var next time.Duration // until a claim lapses
		for _, c := range claims {
			lapsed = lapsed || number(at(c.reply, 0)) > 0
			if in := time.Duration(number(at(c.reply, 1))) * time.Millisecond; in > 0 && (next == 0 || in < next) {
				next = in
			}
		}
		if lapsed {
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

// Marked is a moment by the clocks that hosts are marked by: in a Cluster each shard has that of its own master.
type Marked [shards]time.Time

// Marked returns the present moment by the clocks of some hosts; what they are marked for later is later by these.
func (s *Store) Marked(ctx context.Context, hosts ...uuid.UUID) (at Marked, err error) {
	of := slices.Collect(maps.Keys(byShard(hosts)))
	keys := make([]string, len(of))
	for i, sh := range of {
		keys[i] = sh.prefix()
	}
	times, err := s.clocks(ctx, keys)
	for i, t := range times {
		at[of[i]] = t
	}
	return at, err
}

// clocks reads the clocks of those who have some keys, with plain commands in the same round trip, which each have their error.
func (s *Store) clocks(ctx context.Context, keys []string, also ...func(p redis.Pipeliner)) ([]time.Time, error) {
	calls := make([]*call, len(keys))
	for i, key := range keys {
		calls[i] = &call{script: timeScript, key: key}
	}
	if err := s.doAll(ctx, calls, also...); err != nil {
		return nil, err
	}
	times := make([]time.Time, len(calls))
	for i, c := range calls {
		times[i] = saidTime(c.reply)
	}
	return times, nil
}

// Waiting returns those of some hosts that were marked by a moment and have not been reconciled since, claimed or not.
func (s *Store) Waiting(ctx context.Context, by Marked, hosts ...uuid.UUID) ([]uuid.UUID, error) {
	var calls []*call
	for sh, ids := range byShard(hosts) {
		for chunk := range slices.Chunk(ids, 500) {
			args := []any{by[sh].UnixMilli()}
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

// Backlog tells what waits to be done, claimed or not. In a Cluster each age is by the clock that what waits was noted by.
func (s *Store) Backlog(ctx context.Context) (Backlog, error) {
	type queue struct {
		dirty         *redis.IntCmd
		urgent, first *redis.ZSliceCmd
		claims        *redis.StringSliceCmd
	}
	var b Backlog
	var cmds []redis.Cmder
	hosts, vms := make([]queue, shards), make([]queue, shards)
	var unevaluated, judge *redis.IntCmd
	var oldest, judged *redis.ZSliceCmd
	keys := []string{record}
	for sh := range shard(shards) {
		keys = append(keys, sh.prefix())
	}
	times, err := s.clocks(ctx, keys, func(p redis.Pipeliner) {
		for sh := range shard(shards) {
			for kind, q := range map[string]*queue{kindHost: &hosts[sh], kindVM: &vms[sh]} {
				q.dirty, q.claims = p.ZCard(ctx, sh.key(kind+"dirty")), p.HVals(ctx, sh.key(kind+"claims"))
				q.urgent = p.ZRangeWithScores(ctx, sh.key(kind+"dirty"), 0, 0)
				q.first = p.ZRangeByScoreWithScores(ctx, sh.key(kind+"dirty"), &redis.ZRangeBy{Min: "1e15", Max: "+inf", Count: 1})
				cmds = append(cmds, q.dirty, q.claims, q.urgent, q.first)
			}
		}
		unevaluated, judge = p.ZCard(ctx, record+"unevaluated"), p.ZCard(ctx, record+"judge")
		oldest, judged = p.ZRangeWithScores(ctx, record+"unevaluated", 0, 0), p.ZRangeWithScores(ctx, record+"judge", 0, 0)
		cmds = append(cmds, unevaluated, judge, oldest, judged)
	})
	for _, c := range cmds {
		err = cmp.Or(err, fault("measure the backlog", c.Err()))
	}
	if err != nil {
		return b, err
	}
	since := func(into *time.Duration, now time.Time, score int64) {
		*into = max(*into, now.Sub(time.UnixMilli(score%later)))
	}
	age := func(into *time.Duration, now time.Time, z *redis.ZSliceCmd) {
		for _, m := range z.Val() {
			since(into, now, int64(m.Score))
		}
	}
	add := func(n *int, into *time.Duration, now time.Time, q queue) {
		*n += int(q.dirty.Val()) + len(q.claims.Val())
		age(into, now, q.urgent)
		age(into, now, q.first)
		for _, claim := range q.claims.Val() {
			since(into, now, number(claim[strings.LastIndexByte(claim, '|')+1:]))
		}
	}
	for i := range shards {
		add(&b.DirtyHosts, &b.OldestHost, times[1+i], hosts[i])
		add(&b.DirtyVMs, &b.OldestVM, times[1+i], vms[i])
	}
	b.Unevaluated, b.Judge = int(unevaluated.Val()), int(judge.Val())
	age(&b.OldestUnevaluated, times[0], oldest)
	age(&b.OldestJudged, times[0], judged)
	return b, nil
}
