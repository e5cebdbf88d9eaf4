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

	"iapi/instrumentation"
)

var (
	coverageScript = load("coverage")
	beatScript     = load("beat")
)

// beatEvery is how often a process that serves agents says so. Three missed beats are an outage of ours.
func (s *Store) beatEvery() time.Duration { return min(s.opts.OfflineAfter/9, 5*time.Second) }

// beat notes that this process serves agents.
func (s *Store) beat(ctx context.Context) error {
	gap := 3 * s.beatEvery()
	_, err := s.do(ctx, beatScript, record, gap.Milliseconds(), s.opts.OfflineAfter.Milliseconds())
	return err
}

// offlineBefore returns the time, in milliseconds of the store's clock, such that agents that were last heard of at or before
// it are offline. It stands still while nobody serves agents, and for a grace afterwards, so our own outage makes no agent
// offline that was not before.
func (s *Store) offlineBefore(ctx context.Context) (int64, error) {
	var now *redis.TimeCmd
	var serving *redis.SliceCmd
	err := s.pipelined(ctx, "read who serves agents", func(p redis.Pipeliner) {
		now, serving = p.Time(ctx), p.HMGet(ctx, record+"serving", "beat", "from", "until")
	})
	if err != nil {
		return 0, err
	}
	at, v := now.Val().UnixMilli(), serving.Val()
	patience := s.opts.OfflineAfter.Milliseconds()
	cut := at - patience
	if beat := number(v[0]); beat != 0 && at-beat > 3*s.beatEvery().Milliseconds() {
		cut = min(cut, beat-patience)
	}
	if from, until := number(v[1]), number(v[2]); at < until {
		cut = min(cut, from-patience)
	}
	return max(cut, 0), nil // 0: never heard of
}

// Coverage implements instrumentation.Store.
func (s *Store) Coverage(ctx context.Context, ids ...instrumentation.ID) ([]instrumentation.Coverage, error) {
	out := make([]instrumentation.Coverage, len(ids))
	if len(ids) == 0 {
		return out, nil
	}
	cut, err := s.offlineBefore(ctx)
	if err != nil {
		return nil, err
	}
	for from := 0; from < len(ids); from += 500 {
		part := ids[from:min(from+500, len(ids))]
		var calls []*call
		for sh := range shard(shards) {
			calls = append(calls, &call{script: coverageScript, key: sh.prefix(), args: append([]any{cut}, anys(part)...)})
		}
		if err := s.doAll(ctx, calls); err != nil {
			return nil, err
		}
		for _, c := range calls {
			n := list(c.reply)
			if len(n) != 5*len(part) {
				return nil, badReply(coverageScript, c.reply)
			}
			for i := range part {
				o := &out[from+i]
				o.Expected += int(number(n[5*i]))
				o.Running += int(number(n[5*i+1]))
				o.Pending += int(number(n[5*i+2]))
				o.Failed += int(number(n[5*i+3]))
				o.Offline += int(number(n[5*i+4]))
			}
		}
	}
	return out, nil
}

// hostCounts is how the sources of one instrumentation fare on one host, but for whether the host is offline.
type hostCounts struct {
	host                               uuid.UUID
	expected, running, pending, failed int
	removed                            bool // nothing is placed any more; the agent has not acknowledged that
}

// hostsOf returns the hosts of an instrumentation, sorted.
func (s *Store) hostsOf(ctx context.Context, id instrumentation.ID) ([]hostCounts, error) {
	cmds := make([]*redis.MapStringStringCmd, shards)
	err := s.pipelined(ctx, "read the hosts of an instrumentation", func(p redis.Pipeliner) {
		for sh := range shard(shards) {
			cmds[sh] = p.HGetAll(ctx, sh.key("p:"+string(id)))
		}
	})
	if err != nil {
		return nil, err
	}
	var out []hostCounts
	for _, c := range cmds {
		for host, v := range c.Val() {
			h := hostCounts{removed: v == "x"}
			if h.host, err = uuid.Parse(host); err != nil {
				return nil, fmt.Errorf("read the hosts of %s: %w", id, err)
			}
			if !h.removed {
				n := strings.Split(v, ",")
				if len(n) != 4 {
					return nil, fmt.Errorf("read the counts of %s on host %s: %q is not valid", id, host, v)
				}
				h.expected, h.running, h.pending, h.failed = int(number(n[0])), int(number(n[1])), int(number(n[2])), int(number(n[3]))
			}
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b hostCounts) int { return strings.Compare(string(a.host[:]), string(b.host[:])) })
	return out, nil
}

// PlacedHosts returns every host whose document has the instrumentation, or whose agent has not acknowledged its removal.
func (s *Store) PlacedHosts(ctx context.Context, id instrumentation.ID) ([]uuid.UUID, error) {
	all, err := s.hostsOf(ctx, id)
	out := make([]uuid.UUID, len(all))
	for i, h := range all {
		out[i] = h.host
	}
	return out, err
}

// Unacknowledged returns the hosts whose document does not have the instrumentation any more, and whose agent has not said
// that it has applied that.
func (s *Store) Unacknowledged(ctx context.Context, id instrumentation.ID) ([]uuid.UUID, error) {
	all, err := s.hostsOf(ctx, id)
	var out []uuid.UUID
	for _, h := range all {
		if h.removed {
			out = append(out, h.host)
		}
	}
	return out, err
}

// CountPlaces implements instrumentation.Store.
func (s *Store) CountPlaces(ctx context.Context, id instrumentation.ID) (hosts, vms int, err error) {
	records, err := s.Get(ctx, id)
	if err != nil {
		return 0, 0, err
	}
	cmds := make([]*redis.SliceCmd, shards)
	err = s.pipelined(ctx, "count the places", func(p redis.Pipeliner) {
		for sh := range shard(shards) {
			cmds[sh] = p.HMGet(ctx, sh.key("tot"), string(id)+":h", string(id)+":e")
		}
	})
	if err != nil {
		return 0, 0, err
	}
	for _, c := range cmds {
		hosts += int(number(c.Val()[0]))
		vms += int(number(c.Val()[1]))
	}
	if r := records[0]; r != nil && !r.Scope.Zones(r.Owner) {
		vms = 0
	}
	return hosts, vms, nil
}

// maxProblems is how many kinds of problems are told.
const maxProblems = 20

// Problems implements instrumentation.Store. The kinds with the most sources are told.
func (s *Store) Problems(ctx context.Context, id instrumentation.ID) ([]instrumentation.Problem, error) {
	hosts, err := s.hostsOf(ctx, id)
	if err != nil {
		return nil, err
	}
	cut, err := s.offlineBefore(ctx)
	if err != nil {
		return nil, err
	}
	type kind struct {
		status  instrumentation.Status
		message string
	}
	found := make(map[kind]*instrumentation.Problem)
	note := func(status instrumentation.Status, message string, sources int, example uuid.UUID) {
		if status == instrumentation.StatusRunning || sources <= 0 {
			return
		}
		p := found[kind{status, message}]
		if p == nil {
			p = &instrumentation.Problem{Status: status, Message: message, ExampleVM: example}
			found[kind{status, message}] = p
		}
		p.Sources += sources
	}
	hosts = slices.DeleteFunc(hosts, func(h hostCounts) bool { return h.removed })
	for chunk := range slices.Chunk(hosts, 500) {
		ids := make([]uuid.UUID, len(chunk))
		for i, h := range chunk {
			ids[i] = h.host
		}
		views, err := s.views(ctx, id, ids, cut)
		if err != nil {
			return nil, err
		}
		for _, v := range views {
			if !v.placed {
				continue
			}
			rest := v.place.expected - len(v.others)
			example := uuid.Nil
			for _, z := range zoneIDs(v.place.zones) {
				if f, otherwise := v.others[z]; otherwise {
					note(f.Status, f.Message, 1, z)
				} else if example == uuid.Nil {
					example = z
				}
			}
			note(v.status, v.message, rest, example)
		}
	}
	out := make([]instrumentation.Problem, 0, len(found))
	for _, p := range found {
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b instrumentation.Problem) int {
		return cmp.Or(cmp.Compare(b.Sources, a.Sources), cmp.Compare(a.Status, b.Status), strings.Compare(a.Message, b.Message))
	})
	return out[:min(len(out), maxProblems)], nil
}
