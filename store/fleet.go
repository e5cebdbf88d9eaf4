package store

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"iapi/instrumentation"
	"iapi/inventory"
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
	if len(ids) == 0 {
		return nil, next, nil
	}
	found, _, err = s.fleetHosts(ctx, ids)
	return found, next, err
}

// agentFields are what parseFleetHost takes, of the facts of a host.
var agentFields = []string{"host", "status", "session", "agent", "caps", "aepoch", "agen", "ahash"}

// fleetHosts reads hosts and their agents. Those that the inventory does not have come without anything but their uuid, and so do
// those of which what is kept is damaged: they spoil none of the others.
func (s *Store) fleetHosts(ctx context.Context, ids []uuid.UUID) (found []instrumentation.FleetHost, known []bool, err error) {
	var who serving
	facts, seen := make([]*redis.SliceCmd, len(ids)), make([]*redis.FloatCmd, len(ids))
	err = s.undamaged(ctx, "read hosts", func(p redis.Pipeliner) {
		who.read(ctx, p)
		for i, h := range ids {
			facts[i] = p.HMGet(ctx, shardOf(h).key("fact:"+h.String()), agentFields...)
			seen[i] = p.ZScore(ctx, shardOf(h).key("seen"), h.String())
		}
	})
	if err = cmp.Or(err, damaged("read hosts", who.now, who.fields)); err != nil {
		return nil, nil, err
	}
	cut := s.cutOf(who)
	found, known = make([]instrumentation.FleetHost, len(ids)), make([]bool, len(ids))
	for i, id := range ids {
		if damaged("read hosts", facts[i], seen[i]) != nil {
			found[i].Host.UUID = id
			continue
		}
		if found[i], err = parseFleetHost(id, facts[i].Val(), int64(seen[i].Val()), cut); err != nil {
			return nil, nil, err
		}
		known[i] = facts[i].Val()[0] != nil
	}
	return found, known, nil
}

// parseFleetHost makes a host and its agent of agentFields and of the last contact (ms; 0: never).
func parseFleetHost(id uuid.UUID, v []any, seen, cut int64) (h instrumentation.FleetHost, err error) {
	if h.Host, _, err = decodeHost(id, text(v[0]), text(v[1])); err != nil || seen == 0 {
		return h, err
	}
	h.Agent = &instrumentation.AgentInfo{
		Version: text(v[3]), Online: seen > cut, LastSeen: time.UnixMilli(seen).UTC(),
		Epoch: text(v[5]), Generation: number(v[6]), Hash: text(v[7]),
	}
	if caps := text(v[4]); caps != "" {
		if err := json.Unmarshal([]byte(caps), &h.Agent.Capabilities); err != nil {
			return h, fmt.Errorf("decode the capabilities of host %s: %w", id, err)
		}
	}
	return h, nil
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

// Host returns a host of the inventory and its agent, nil where the inventory has none of that uuid.
func (s *Store) Host(ctx context.Context, host uuid.UUID) (*instrumentation.FleetHost, error) {
	found, err := s.FleetHosts(ctx, host)
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

// FleetHosts implements instrumentation.Store.
func (s *Store) FleetHosts(ctx context.Context, hosts ...uuid.UUID) ([]*instrumentation.FleetHost, error) {
	if len(hosts) == 0 {
		return nil, nil
	}
	found, known, err := s.fleetHosts(ctx, hosts)
	if err != nil {
		return nil, err
	}
	out := make([]*instrumentation.FleetHost, len(hosts))
	for i := range hosts {
		if known[i] {
			out[i] = &found[i]
		}
	}
	return out, nil
}

// VM returns what is known of a machine, nil where nothing is.
func (s *Store) VM(ctx context.Context, vm uuid.UUID) (*inventory.VM, error) {
	found, err := s.Machines(ctx, vm)
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

// Machines implements instrumentation.Store.
func (s *Store) Machines(ctx context.Context, vms ...uuid.UUID) ([]*inventory.VM, error) {
	out := make([]*inventory.VM, len(vms))
	if len(vms) == 0 {
		return out, nil
	}
	cmds := make([]*redis.StringCmd, len(vms))
	err := s.pipelined(ctx, "find the hosts of VMs", func(p redis.Pipeliner) {
		for i, vm := range vms {
			cmds[i] = p.HGet(ctx, shardOf(vm).key("vmhost"), vm.String())
		}
	})
	if err != nil {
		return nil, err
	}
	hosts := make([]string, len(vms))
	for i := range vms {
		_, hosts[i], _ = strings.Cut(cmds[i].Val(), "|")
	}
	if !slices.ContainsFunc(hosts, func(h string) bool { return h != "" }) {
		return out, nil
	}
	err = s.pipelined(ctx, "read VMs", func(p redis.Pipeliner) {
		for i, vm := range vms {
			cmds[i] = nil
			if id, err := uuid.Parse(hosts[i]); err == nil {
				cmds[i] = p.HGet(ctx, shardOf(id).key("vms:"+id.String()), vm.String())
			}
		}
	})
	if err != nil {
		return nil, err
	}
	for i, vm := range vms {
		if cmds[i] == nil || cmds[i].Val() == "" {
			continue
		}
		v, err := decodeVM(vm.String(), cmds[i].Val())
		if err != nil {
			return nil, err
		}
		out[i] = &v
	}
	return out, nil
}

var _ instrumentation.Store = (*Store)(nil)
