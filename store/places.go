package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"iapi/assignment"
	"iapi/instrumentation"
	"iapi/inventory"
)

// noRoom is the message of a place that the host's document has no room for.
const noRoom = "the host runs as many instrumentations as it may"

// view is one instrumentation on one host as readers see it.
type view struct {
	host     inventory.Host
	placed   bool
	place    place
	reported bool
	revision int    // that was reported
	was      Status // as reported; ID and Revision are not set
	wasSince time.Time
	status   instrumentation.Status // with what the document and the last contact say
	message  string
	since    time.Time
	others   map[uuid.UUID]instrumentation.SourceFailure // placed zones that fare otherwise
	seen     time.Time                                   // zero: never
	online   bool
}

// views reads one instrumentation on several hosts in one round trip for each server.
func (s *Store) views(ctx context.Context, id instrumentation.ID, hosts []uuid.UUID, cut int64) ([]view, error) {
	type reply struct {
		fact, on    *redis.SliceCmd
		add, status *redis.StringCmd
		seen        *redis.FloatCmd
	}
	replies := make([]reply, len(hosts))
	err := s.pipelined(ctx, "read places", func(p redis.Pipeliner) {
		for i, h := range hosts {
			sh, name := shardOf(h), h.String()
			replies[i] = reply{
				fact:   p.HMGet(ctx, sh.key("fact:"+name), "host", "status"),
				on:     p.HMGet(ctx, sh.key("on:"+name), "m"+string(id), "v"+string(id)),
				add:    p.HGet(ctx, sh.key("add:"+name), string(id)),
				status: p.HGet(ctx, sh.key("st:"+name), string(id)),
				seen:   p.ZScore(ctx, sh.key("seen"), name),
			}
		}
	})
	if err != nil {
		return nil, err
	}
	out := make([]view, len(hosts))
	for i, r := range replies {
		v := &out[i]
		if v.host, _, err = decodeHost(hosts[i], text(r.fact.Val()[0]), text(r.fact.Val()[1])); err != nil {
			return nil, err
		}
		if meta := text(r.on.Val()[0]); meta != "" {
			v.placed = true
			if v.place, err = parsePlace(meta, text(r.on.Val()[1]), r.add.Val()); err != nil {
				return nil, fmt.Errorf("read %s on host %s: %w", id, hosts[i], err)
			}
		}
		if ms := int64(r.seen.Val()); ms > 0 {
			v.seen = time.UnixMilli(ms).UTC()
			v.online = ms > cut
		}
		if err := v.judge(r.status.Val()); err != nil {
			return nil, fmt.Errorf("read how %s fares on host %s: %w", id, hosts[i], err)
		}
	}
	return out, nil
}

// judge works out how a place fares, by the rules that the counts follow too. entry is since|revision|status|n|zones JSON.
func (v *view) judge(entry string) error {
	var kept statusJSON
	if entry != "" {
		parts := strings.SplitN(entry, "|", 5)
		if len(parts) != 5 || int64(len(parts[4])) < 17*number(parts[3]) {
			return errors.New("the status is not valid")
		}
		if err := json.Unmarshal([]byte(parts[4][17*number(parts[3]):]), &kept); err != nil {
			return fmt.Errorf("decode the status: %w", err)
		}
		v.reported, v.revision = true, int(number(parts[1]))
		v.wasSince = time.UnixMilli(number(parts[0])).UTC()
		v.was = Status{Status: instrumentation.Status(parts[2]), Message: kept.Message, LastSample: kept.LastSample}
	}
	switch {
	case !v.online:
		v.status, v.since = instrumentation.StatusOffline, v.seen
	case v.place.revision == refused:
		v.status, v.message = instrumentation.StatusOverBudget, noRoom
	case !v.reported || v.revision != v.place.revision:
		v.status = instrumentation.StatusPending
	default:
		v.status, v.message, v.since = v.was.Status, v.was.Message, v.wasSince
		v.others = make(map[uuid.UUID]instrumentation.SourceFailure)
		for vm, f := range kept.VMs {
			if v.place.has(vm) {
				v.others[vm] = instrumentation.SourceFailure{Status: f.Status, Message: f.Message}
			}
		}
		for _, z := range zoneIDs(v.place.added) {
			v.others[z] = instrumentation.SourceFailure{Status: instrumentation.StatusPending}
		}
	}
	return nil
}

func (v *view) placement() instrumentation.HostPlacement {
	return instrumentation.HostPlacement{
		Host: v.host, VMs: zoneIDs(v.place.zones), Status: v.status, Message: v.message, Since: v.since, Failures: v.others,
	}
}

// HostPlacement implements instrumentation.Store.
func (s *Store) HostPlacement(ctx context.Context, id instrumentation.ID, host uuid.UUID) (*instrumentation.HostPlacement, error) {
	cut, err := s.offlineBefore(ctx)
	if err != nil {
		return nil, err
	}
	views, err := s.views(ctx, id, []uuid.UUID{host}, cut)
	if err != nil || !views[0].placed {
		return nil, err
	}
	p := views[0].placement()
	return &p, nil
}

// AgentStatus returns what a host's agent has last reported of one instrumentation, beside what the document says.
func (s *Store) AgentStatus(ctx context.Context, id instrumentation.ID, host uuid.UUID) (AgentStatus, error) {
	cut, err := s.offlineBefore(ctx)
	if err != nil {
		return AgentStatus{}, err
	}
	views, err := s.views(ctx, id, []uuid.UUID{host}, cut)
	if err != nil {
		return AgentStatus{}, err
	}
	var fact *redis.SliceCmd
	err = s.pipelined(ctx, "read an agent", func(p redis.Pipeliner) {
		fact = p.HMGet(ctx, shardOf(host).key("fact:"+host.String()), "epoch", "gen", "hash", "aepoch", "agen", "ahash", "targets")
	})
	if err != nil {
		return AgentStatus{}, err
	}
	v, f := views[0], fact.Val()
	a := AgentStatus{
		Placed: v.placed, Revision: v.place.revision, Reported: v.reported, ReportedRevision: v.revision, Status: v.was.Status,
		Message: v.was.Message, Since: v.wasSince, LastSample: v.was.LastSample, Seen: v.seen, Online: v.online,
		Current: assignment.Version{Epoch: text(f[0]), Generation: number(f[1]), Hash: text(f[2])},
		Applied: assignment.Version{Epoch: text(f[3]), Generation: number(f[4]), Hash: text(f[5])},
	}
	if t := text(f[6]); t != "" {
		var all []TargetStatus
		if err := json.Unmarshal([]byte(t), &all); err != nil {
			return AgentStatus{}, fmt.Errorf("decode the targets of host %s: %w", host, err)
		}
		for _, t := range all {
			if t.Instrumentation == id {
				a.Targets = append(a.Targets, t)
			}
		}
	}
	return a, nil
}

// first checks a page that only goes forward, and parses its cursor.
func first(p instrumentation.Page) (n int, after uuid.UUID, err error) {
	if p.First <= 0 || p.Last != 0 || p.Before != "" {
		return 0, uuid.Nil, errors.New("page: first must be above zero, and last and before are not supported")
	}
	if p.After != "" {
		if after, err = uuid.Parse(p.After); err != nil {
			return 0, uuid.Nil, fmt.Errorf("page: after: %w", err)
		}
	}
	return p.First, after, nil
}

// Hosts implements instrumentation.Store.
func (s *Store) Hosts(ctx context.Context, id instrumentation.ID, p instrumentation.Page) (found []instrumentation.HostPlacement, next bool, err error) {
	n, after, err := first(p)
	if err != nil {
		return nil, false, err
	}
	all, err := s.hostsOf(ctx, id)
	if err != nil {
		return nil, false, err
	}
	var hosts []uuid.UUID
	for _, h := range all {
		if !h.removed && (p.After == "" || strings.Compare(string(h.host[:]), string(after[:])) > 0) {
			hosts = append(hosts, h.host)
		}
	}
	next = len(hosts) > n
	cut, err := s.offlineBefore(ctx)
	if err != nil {
		return nil, false, err
	}
	views, err := s.views(ctx, id, hosts[:min(n, len(hosts))], cut)
	for _, v := range views {
		if v.placed {
			found = append(found, v.placement())
		}
	}
	return found, next, err
}

// zoneOn is a zone and its host.
type zoneOn struct{ vm, host uuid.UUID }

// VMs implements instrumentation.Store. It reads the list of zones of every host of the instrumentation, 16 bytes a zone,
// and keeps only the page.
func (s *Store) VMs(ctx context.Context, id instrumentation.ID, p instrumentation.Page) (found []instrumentation.VMPlacement, next bool, err error) {
	n, after, err := first(p)
	if err != nil {
		return nil, false, err
	}
	all, err := s.hostsOf(ctx, id)
	if err != nil {
		return nil, false, err
	}
	var page []zoneOn
	for chunk := range slices.Chunk(all, 500) {
		lists := make([]*redis.StringCmd, len(chunk))
		err := s.pipelined(ctx, "read zones", func(p redis.Pipeliner) {
			for i, h := range chunk {
				lists[i] = p.HGet(ctx, shardOf(h.host).key("on:"+h.host.String()), "v"+string(id))
			}
		})
		if err != nil {
			return nil, false, err
		}
		for i, l := range lists {
			for _, z := range zoneIDs([]byte(l.Val())) {
				if p.After == "" || strings.Compare(string(z[:]), string(after[:])) > 0 {
					page = append(page, zoneOn{z, chunk[i].host})
				}
			}
		}
		slices.SortStableFunc(page, func(a, b zoneOn) int { return strings.Compare(string(a.vm[:]), string(b.vm[:])) })
		page = slices.CompactFunc(page, func(a, b zoneOn) bool { return a.vm == b.vm })
		page = page[:min(n+1, len(page))]
	}
	next = len(page) > n
	page = page[:min(n, len(page))]
	found, err = s.zonePlacements(ctx, id, page)
	return found, next, err
}

// zonePlacements reads how zones fare and what is known of them.
func (s *Store) zonePlacements(ctx context.Context, id instrumentation.ID, page []zoneOn) ([]instrumentation.VMPlacement, error) {
	if len(page) == 0 {
		return nil, nil
	}
	cut, err := s.offlineBefore(ctx)
	if err != nil {
		return nil, err
	}
	byHost := make(map[uuid.UUID]view)
	for _, z := range page {
		byHost[z.host] = view{}
	}
	hosts := slices.Collect(maps.Keys(byHost))
	views, err := s.views(ctx, id, hosts, cut)
	if err != nil {
		return nil, err
	}
	for i, h := range hosts {
		byHost[h] = views[i]
	}
	entries := make([]*redis.StringCmd, len(page))
	err = s.pipelined(ctx, "read VMs", func(p redis.Pipeliner) {
		for i, z := range page {
			entries[i] = p.HGet(ctx, shardOf(z.host).key("vms:"+z.host.String()), z.vm.String())
		}
	})
	if err != nil {
		return nil, err
	}
	out := make([]instrumentation.VMPlacement, len(page))
	for i, z := range page {
		v := byHost[z.host]
		out[i] = instrumentation.VMPlacement{VM: inventory.VM{UUID: z.vm, Host: z.host}, Status: v.status, Message: v.message}
		if e := entries[i].Val(); e != "" {
			if out[i].VM, err = decodeVM(z.vm.String(), e); err != nil {
				return nil, err
			}
		}
		if f, otherwise := v.others[z.vm]; otherwise {
			out[i].Status, out[i].Message = f.Status, f.Message
		}
	}
	return out, nil
}

// placedOn returns what a host's document places.
func (s *Store) placedOn(ctx context.Context, host uuid.UUID) (map[instrumentation.ID]place, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	on, err := s.client.HGetAll(ctx, shardOf(host).key("on:"+host.String())).Result()
	if err != nil {
		return nil, fault("read the places of a host", err)
	}
	return parsePlaces(on, nil)
}
