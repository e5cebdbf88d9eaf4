package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"iapi/instrumentation"
)

var (
	coverageScript = load("cut", "coverage")
	troubleScript  = load("cut", "trouble")
	beatScript     = load("beat")
	setbackScript  = load("setback")
	nowScript      = load("now")
)

// leaveWithin is how long the end of a process may wait for the store.
const leaveWithin = time.Second

// beatEvery is how often a process that serves agents says so. Three missed beats are an outage of ours.
func (s *Store) beatEvery() time.Duration { return min(s.opts.OfflineAfter/9, 5*time.Second) }

// beat notes that a process serves agents.
func (s *Store) beat(ctx context.Context, process string) error {
	gap := 3 * s.beatEvery()
	args := []any{gap.Milliseconds(), s.opts.OfflineAfter.Milliseconds(), flag(false), process}
	back, err := s.do(ctx, beatScript, record, args...)
	if err != nil || number(back) == 0 {
		return err
	}
	if err := s.setBack(ctx, number(back)); err != nil {
		return err
	}
	args[2] = flag(true)
	_, err = s.do(ctx, beatScript, record, args...)
	return err
}

// leave notes that a process serves agents no more, and that this is no outage. What is not noted counts as one.
func (s *Store) leave(process string) {
	ctx, cancel := context.WithTimeout(context.Background(), leaveWithin)
	defer cancel()
	if err := s.client.HDel(ctx, record+"serving", "p:"+process).Err(); err != nil {
		s.log.Warn("it cannot be noted that no agents are served any more", "error", err)
	}
}

// setBack corrects what was noted before the store's clock was set back by some milliseconds: else agents that have died since
// would count as heard of, leases of dead workers would last, and lost tasks would not be missed, until that time comes again.
func (s *Store) setBack(ctx context.Context, by int64) error {
	s.log.Warn("the store's clock was set back", "by", time.Duration(by)*time.Millisecond)
	calls := []*call{{script: setbackScript, key: record, args: []any{by, "unevaluated", "judge"}}}
	for sh := range shard(shards) {
		calls = append(calls, &call{script: setbackScript, key: sh.prefix(), args: []any{by, "seen", kindHost + "leased", kindVM + "leased"}})
	}
	return s.doAll(ctx, calls)
}

// serving reads, as a part of a pipeline, who serves agents.
type serving struct {
	now    *redis.Cmd // of the server that has what is compared with it
	fields *redis.SliceCmd
}

func (v *serving) read(ctx context.Context, p redis.Pipeliner) {
	v.now, v.fields = timeScript.run.Eval(ctx, p, []string{record}), p.HMGet(ctx, record+"serving", "beat", "from", "until", "partfrom", "partuntil")
}

func (v *serving) err() error {
	if err := errors.Join(v.now.Err(), v.fields.Err()); err != nil {
		return fault("read who serves agents", err)
	}
	return nil
}

// noCeiling is the ceiling of a time at which agents can reach us.
const noCeiling = math.MaxInt64

// ceiling is the time, in milliseconds of the store's clock, beyond which silence makes no agent offline. It stands still
// while nobody serves agents, and for a grace afterwards, so our own outage makes no agent offline that was not before. When one
// process of several has an outage there is a grace from when that is noticed.
func (s *Store) ceilingOf(v serving) int64 {
	at, f := saidTime(v.now.Val()).UnixMilli(), v.fields.Val()
	patience, ceiling := s.opts.OfflineAfter.Milliseconds(), int64(noCeiling)
	if beat := number(f[0]); beat != 0 && at-beat > 3*s.beatEvery().Milliseconds() {
		ceiling = min(ceiling, beat-patience)
	}
	for _, grace := range [][]any{f[1:3], f[3:5]} { // after an outage of all of us, and of a part
		if from, until := number(grace[0]), number(grace[1]); at < until {
			ceiling = min(ceiling, from-patience)
		}
	}
	return ceiling
}

// cutOf is the time such that agents that were last heard of at or before it are offline. At 0 stand those never heard of.
func (s *Store) cutOf(v serving) int64 {
	return max(min(saidTime(v.now.Val()).UnixMilli()-s.opts.OfflineAfter.Milliseconds(), s.ceilingOf(v)), 0)
}

// offlineBefore reads what cutOf returns.
func (s *Store) offlineBefore(ctx context.Context) (int64, error) {
	var v serving
	if err := s.pipelined(ctx, "read who serves agents", func(p redis.Pipeliner) { v.read(ctx, p) }); err != nil {
		return 0, err
	}
	return s.cutOf(v), nil
}

// judged runs a script that takes the patience and the ceiling in every shard, in one round trip: the ceiling is taken to be
// what it was last, is read beside, and if it is another now the scripts run again.
func (s *Store) judged(ctx context.Context, sc *script, ids []instrumentation.ID) ([]*call, error) {
	for range racers {
		is := s.ceiling.Load()
		limit := ""
		if is != noCeiling {
			limit = itoa(is)
		}
		var calls []*call
		for sh := range shard(shards) {
			calls = append(calls, &call{script: sc, key: sh.prefix(), args: append([]any{s.opts.OfflineAfter.Milliseconds(), limit}, anys(ids)...)})
		}
		var v serving
		if err := s.doAll(ctx, calls, func(p redis.Pipeliner) { v.read(ctx, p) }); err != nil {
			return nil, err
		}
		if err := v.err(); err != nil {
			return nil, err
		}
		if now := s.ceilingOf(v); now != is {
			s.ceiling.Store(now)
			continue
		}
		return calls, nil
	}
	return nil, fmt.Errorf("%s: %w: who serves agents changes all the time", sc.name, instrumentation.ErrNotReady)
}

// Coverage implements instrumentation.Store.
func (s *Store) Coverage(ctx context.Context, ids ...instrumentation.ID) ([]instrumentation.Coverage, error) {
	out := make([]instrumentation.Coverage, len(ids))
	for from := 0; from < len(ids); from += 500 {
		part := ids[from:min(from+500, len(ids))]
		calls, err := s.judged(ctx, coverageScript, part)
		if err != nil {
			return nil, err
		}
		for _, c := range calls {
			for n := range slices.Chunk(list(c.reply), 6) {
				if len(n) < 6 || number(n[0]) >= int64(len(part)) {
					return nil, badReply(coverageScript, c.reply)
				}
				o := &out[from+int(number(n[0]))]
				o.Expected += int(number(n[1]))
				o.Running += int(number(n[2]))
				o.Pending += int(number(n[3]))
				o.Failed += int(number(n[4]))
				o.Offline += int(number(n[5]))
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

// hostsOf returns the hosts of each instrumentation, sorted.
func (s *Store) hostsOf(ctx context.Context, ids ...instrumentation.ID) ([][]hostCounts, error) {
	out := make([][]hostCounts, 0, len(ids))
	for part := range slices.Chunk(ids, 100) {
		cmds := make([][shards]*redis.MapStringStringCmd, len(part))
		err := s.pipelined(ctx, "read the hosts of instrumentations", func(p redis.Pipeliner) {
			for i, id := range part {
				for sh := range shard(shards) {
					cmds[i][sh] = p.HGetAll(ctx, sh.key("p:"+string(id)))
				}
			}
		})
		if err != nil {
			return nil, err
		}
		for i, id := range part {
			var hosts []hostCounts
			for _, c := range cmds[i] {
				for host, v := range c.Val() {
					h, err := parseHostCounts(host, v)
					if err != nil {
						return nil, fmt.Errorf("read the hosts of %s: %w", id, err)
					}
					hosts = append(hosts, h)
				}
			}
			slices.SortFunc(hosts, func(a, b hostCounts) int { return strings.Compare(string(a.host[:]), string(b.host[:])) })
			out = append(out, hosts)
		}
	}
	return out, nil
}

func parseHostCounts(host, v string) (h hostCounts, err error) {
	if h.host, err = uuid.Parse(host); err != nil {
		return h, fmt.Errorf("a host's name: %w", err)
	}
	if h.removed = v == "x"; h.removed {
		return h, nil
	}
	n := strings.Split(strings.TrimSuffix(v, ",n"), ",")
	if len(n) != 4 {
		return h, fmt.Errorf("the counts on host %s: %q is not valid", host, v)
	}
	h.expected, h.running, h.pending, h.failed = int(number(n[0])), int(number(n[1])), int(number(n[2])), int(number(n[3]))
	return h, nil
}

// PlacedHosts returns every host whose document has the instrumentation, or whose agent has not acknowledged its removal.
func (s *Store) PlacedHosts(ctx context.Context, id instrumentation.ID) ([]uuid.UUID, error) {
	all, err := s.hostsOf(ctx, id)
	if err != nil {
		return nil, err
	}
	out := make([]uuid.UUID, len(all[0]))
	for i, h := range all[0] {
		out[i] = h.host
	}
	return out, nil
}

// Unacknowledged returns the hosts whose document does not have the instrumentation any more, and whose agent has not said
// that it has applied that.
func (s *Store) Unacknowledged(ctx context.Context, id instrumentation.ID) ([]uuid.UUID, error) {
	all, err := s.hostsOf(ctx, id)
	if err != nil {
		return nil, err
	}
	var out []uuid.UUID
	for _, h := range all[0] {
		if h.removed {
			out = append(out, h.host)
		}
	}
	return out, nil
}

// maxProblems is how many kinds of problems are told.
const maxProblems = 20

// Problems implements instrumentation.Store. It looks only at the hosts on which something is to be told, all of them in a
// number of round trips that grows with the hosts and not with the ids. The kinds with the most sources are told.
func (s *Store) Problems(ctx context.Context, ids ...instrumentation.ID) ([][]instrumentation.Problem, error) {
	found := make([]problems, len(ids))
	var spots []spot
	for from := 0; from < len(ids); from += 500 {
		part := ids[from:min(from+500, len(ids))]
		calls, err := s.judged(ctx, troubleScript, part)
		if err != nil {
			return nil, err
		}
		for _, c := range calls {
			for n := range slices.Chunk(list(c.reply), 2) {
				if len(n) < 2 || number(n[0]) >= int64(len(part)) {
					return nil, badReply(troubleScript, c.reply)
				}
				host, err := uuid.Parse(text(n[1]))
				if err != nil {
					return nil, fmt.Errorf("%s: %w", troubleScript.name, err)
				}
				i := from + int(number(n[0]))
				spots = append(spots, spot{of: i, id: ids[i], host: host})
			}
		}
	}
	for part := range slices.Chunk(spots, 500) {
		views, err := s.views(ctx, part)
		if err != nil {
			return nil, err
		}
		for i, v := range views {
			if v.placed {
				found[part[i].of].note(v)
			}
		}
	}
	out := make([][]instrumentation.Problem, len(ids))
	for i := range found {
		out[i] = found[i].worst()
	}
	return out, nil
}

// problems gathers those of one instrumentation.
type problems map[problemKind]*instrumentation.Problem

type problemKind struct {
	status  instrumentation.Status
	message string
}

// note adds what does not run on one host, and what its agent says of what does.
func (p *problems) note(v view) {
	rest, example := v.place.expected-len(v.others), uuid.Nil
	for _, z := range zoneIDs(v.place.zones) {
		if f, otherwise := v.others[z]; otherwise {
			p.add(f.Status, f.Message, 1, z)
		} else if example == uuid.Nil {
			example = z
		}
	}
	p.add(v.status, v.message, rest, example)
}

func (p *problems) add(status instrumentation.Status, message string, sources int, example uuid.UUID) {
	if status == instrumentation.StatusRunning && message == "" || sources <= 0 {
		return
	}
	if *p == nil {
		*p = make(problems)
	}
	kind := problemKind{status, message}
	one := (*p)[kind]
	if one == nil {
		one = &instrumentation.Problem{Status: status, Message: message, ExampleVM: example}
		(*p)[kind] = one
	}
	if example != uuid.Nil && (one.ExampleVM == uuid.Nil || strings.Compare(string(example[:]), string(one.ExampleVM[:])) < 0) {
		one.ExampleVM = example
	}
	one.Sources += sources
}

func (p *problems) worst() []instrumentation.Problem {
	out := make([]instrumentation.Problem, 0, len(*p))
	for _, one := range *p {
		out = append(out, *one)
	}
	slices.SortFunc(out, func(a, b instrumentation.Problem) int {
		return cmp.Or(cmp.Compare(b.Sources, a.Sources), cmp.Compare(a.Status, b.Status), strings.Compare(a.Message, b.Message))
	})
	return out[:min(len(out), maxProblems)]
}
