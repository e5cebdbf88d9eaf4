package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"iapi/instrumentation"
)

var (
	fleetScript     = load("fleet")
	fleetSizeScript = load("fleetsize")
)

// Fleet implements instrumentation.Store: the hosts of the inventory by uuid. A host without an agent is not online.
func (s *Store) Fleet(ctx context.Context, online *bool, p instrumentation.Page) (found []instrumentation.FleetHost, next bool, err error) {
	n, after, err := first(p)
	if err != nil {
		return nil, false, err
	}
	cut, err := s.offlineBefore(ctx)
	if err != nil {
		return nil, false, err
	}
	which := "a"
	if online != nil {
		which = "f"
		if *online {
			which = "n"
		}
	}
	start := "-"
	if p.After != "" {
		start = "(" + after.String()
	}
	var hosts []string
	from := make(map[shard]string)
	for sh := range shard(shards) {
		from[sh] = start
	}
	for len(from) > 0 { // each shard until it has given a page or has no more
		var calls []*call
		var of []shard
		for sh, f := range from {
			calls = append(calls, &call{script: fleetScript, key: sh.prefix(), args: []any{f, n + 1, which, cut}})
			of = append(of, sh)
		}
		if err := s.doAll(ctx, calls); err != nil {
			return nil, false, err
		}
		for i, c := range calls {
			got := texts(at(c.reply, 1))
			hosts = append(hosts, got...)
			last := text(at(c.reply, 0))
			if last == "" || len(got) > n {
				delete(from, of[i])
			} else {
				from[of[i]] = "(" + last
			}
		}
	}
	slices.Sort(hosts)
	next = len(hosts) > n
	ids, err := parseIDs(hosts[:min(n, len(hosts))])
	if err != nil {
		return nil, false, err
	}
	found, err = s.fleetHosts(ctx, ids, cut)
	return found, next, err
}

// fleetHosts reads hosts and their agents.
func (s *Store) fleetHosts(ctx context.Context, ids []uuid.UUID, cut int64) ([]instrumentation.FleetHost, error) {
	facts, seen := make([]*redis.SliceCmd, len(ids)), make([]*redis.FloatCmd, len(ids))
	err := s.pipelined(ctx, "read hosts", func(p redis.Pipeliner) {
		for i, h := range ids {
			facts[i] = p.HMGet(ctx, shardOf(h).key("fact:"+h.String()),
				"host", "status", "session", "agent", "caps", "aepoch", "agen", "ahash")
			seen[i] = p.ZScore(ctx, shardOf(h).key("seen"), h.String())
		}
	})
	if err != nil {
		return nil, err
	}
	out := make([]instrumentation.FleetHost, len(ids))
	for i, id := range ids {
		v := facts[i].Val()
		if out[i].Host, _, err = decodeHost(id, text(v[0]), text(v[1])); err != nil {
			return nil, err
		}
		ms := int64(seen[i].Val())
		if ms == 0 {
			continue
		}
		a := &instrumentation.AgentInfo{
			Version: text(v[3]), Online: ms > cut, LastSeen: time.UnixMilli(ms).UTC(),
			Epoch: text(v[5]), Generation: number(v[6]), Hash: text(v[7]),
		}
		if caps := text(v[4]); caps != "" {
			if err := json.Unmarshal([]byte(caps), &a.Capabilities); err != nil {
				return nil, fmt.Errorf("decode the capabilities of host %s: %w", id, err)
			}
		}
		out[i].Agent = a
	}
	return out, nil
}

// FleetSize implements instrumentation.Store.
func (s *Store) FleetSize(ctx context.Context, online *bool) (int, error) {
	total, up := 0, 0
	cards := make([]*redis.IntCmd, shards)
	err := s.pipelined(ctx, "count the hosts", func(p redis.Pipeliner) {
		for sh := range shard(shards) {
			cards[sh] = p.ZCard(ctx, sh.key("hosts"))
		}
	})
	if err != nil {
		return 0, err
	}
	for _, c := range cards {
		total += int(c.Val())
	}
	if online == nil {
		return total, nil
	}
	cut, err := s.offlineBefore(ctx)
	if err != nil {
		return 0, err
	}
	var calls []*call
	for sh := range shard(shards) {
		calls = append(calls, &call{script: fleetSizeScript, key: sh.prefix(), args: []any{cut}})
	}
	if err := s.doAll(ctx, calls); err != nil {
		return 0, err
	}
	for _, c := range calls {
		up += int(number(c.reply))
	}
	if *online {
		return up, nil
	}
	return max(total-up, 0), nil
}

// Host implements instrumentation.Store.
func (s *Store) Host(ctx context.Context, host uuid.UUID) (*instrumentation.FleetHost, error) {
	known, err := s.Knows(ctx, host)
	if err != nil || !known {
		return nil, err
	}
	cut, err := s.offlineBefore(ctx)
	if err != nil {
		return nil, err
	}
	found, err := s.fleetHosts(ctx, []uuid.UUID{host}, cut)
	if err != nil {
		return nil, err
	}
	return &found[0], nil
}

var _ instrumentation.Store = (*Store)(nil)
