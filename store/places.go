package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	host     instrumentation.FleetHost
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

// spot is an instrumentation on a host. of is whatever its user knows it by.
type spot struct {
	of   int
	id   instrumentation.ID
	host uuid.UUID
}

// views reads how instrumentations fare on hosts, in one round trip for each server.
func (s *Store) views(ctx context.Context, spots []spot) ([]view, error) {
	if len(spots) == 0 {
		return nil, nil
	}
	type reply struct {
		fact, on    *redis.SliceCmd
		add, status *redis.StringCmd
		seen        *redis.FloatCmd
	}
	var who serving
	replies := make([]reply, len(spots))
	err := s.pipelined(ctx, "read places", func(p redis.Pipeliner) {
		who.read(ctx, p)
		for i, at := range spots {
			sh, name, id := shardOf(at.host), at.host.String(), at.id
			replies[i] = reply{
				fact:   p.HMGet(ctx, sh.key("fact:"+name), agentFields...),
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
	cut := s.cutOf(who)
	out := make([]view, len(spots))
	for i, r := range replies {
		id, host := spots[i].id, spots[i].host
		v := &out[i]
		if v.host, err = parseFleetHost(host, r.fact.Val(), int64(r.seen.Val()), cut); err != nil {
			return nil, err
		}
		if meta := text(r.on.Val()[0]); meta != "" {
			v.placed = true
			if v.place, err = parsePlace(meta, text(r.on.Val()[1]), r.add.Val()); err != nil {
				return nil, fmt.Errorf("read %s on host %s: %w", id, host, err)
			}
		}
		if ms := int64(r.seen.Val()); ms > 0 {
			v.seen = time.UnixMilli(ms).UTC()
			v.online = ms > cut
		}
		if err := v.judge(r.status.Val()); err != nil {
			return nil, fmt.Errorf("read how %s fares on host %s: %w", id, host, err)
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
		Host: v.host.Host, Agent: v.host.Agent, VMs: zoneIDs(v.place.zones), Status: v.status, Message: v.message, Since: v.since, Failures: v.others,
	}
}

// HostPlacement implements instrumentation.Store.
func (s *Store) HostPlacement(ctx context.Context, id instrumentation.ID, host uuid.UUID) (*instrumentation.HostPlacement, error) {
	views, err := s.views(ctx, []spot{{id: id, host: host}})
	if err != nil || !views[0].placed {
		return nil, err
	}
	p := views[0].placement()
	var targets *redis.StringCmd
	err = s.pipelined(ctx, "read the targets of a host", func(p redis.Pipeliner) {
		targets = p.HGet(ctx, shardOf(host).key("fact:"+host.String()), "targets")
	})
	if err != nil {
		return nil, err
	}
	reported, err := targetsOf(id, host, targets.Val())
	for _, t := range reported {
		p.Targets = append(p.Targets, instrumentation.TargetStatus{
			Target: t.Target, Connected: t.Connected, Dropped: t.Dropped, LastError: t.LastError,
		})
	}
	return &p, err
}

// targetsOf picks what an agent has reported of the targets of one instrumentation.
func targetsOf(id instrumentation.ID, host uuid.UUID, entry string) (out []TargetStatus, err error) {
	if entry == "" {
		return nil, nil
	}
	var all []TargetStatus
	if err := json.Unmarshal([]byte(entry), &all); err != nil {
		return nil, fmt.Errorf("decode the targets of host %s: %w", host, err)
	}
	return slices.DeleteFunc(all, func(t TargetStatus) bool { return t.Instrumentation != id }), nil
}

// AgentStatus returns what a host's agent has last reported of one instrumentation, beside what the document says.
func (s *Store) AgentStatus(ctx context.Context, id instrumentation.ID, host uuid.UUID) (AgentStatus, error) {
	views, err := s.views(ctx, []spot{{id: id, host: host}})
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
	a.Targets, err = targetsOf(id, host, text(f[6]))
	return a, err
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
func (s *Store) Hosts(ctx context.Context, p instrumentation.Page, ids ...instrumentation.ID) ([]instrumentation.Places[instrumentation.HostPlacement], error) {
	n, after, err := first(p)
	if err != nil {
		return nil, err
	}
	all, err := s.hostsOf(ctx, ids...)
	if err != nil {
		return nil, err
	}
	out := make([]instrumentation.Places[instrumentation.HostPlacement], len(ids))
	rest := make([][]uuid.UUID, len(ids)) // of the hosts of each, those behind the page so far
	for i, hosts := range all {
		for _, h := range hosts {
			if h.removed {
				continue
			}
			out[i].Total++
			if p.After == "" || strings.Compare(string(h.host[:]), string(after[:])) > 0 {
				rest[i] = append(rest[i], h.host)
			}
		}
	}
	for { // once, but for hosts that have dropped it since the lists were read: others fill their places
		var spots []spot
		for i := range rest {
			most := min(n-len(out[i].Items), len(rest[i]))
			for _, host := range rest[i][:most] {
				spots = append(spots, spot{of: i, id: ids[i], host: host})
			}
			rest[i] = rest[i][most:]
			out[i].Next = len(rest[i]) > 0
		}
		if len(spots) == 0 {
			return out, nil
		}
		for part := range slices.Chunk(spots, 500) {
			views, err := s.views(ctx, part)
			if err != nil {
				return nil, err
			}
			for k, v := range views {
				if v.placed {
					of := &out[part[k].of]
					of.Items = append(of.Items, v.placement())
				}
			}
		}
	}
}

// zoneOn is a zone of an instrumentation.
type zoneOn struct {
	spot
	vm uuid.UUID
}

// VMs implements instrumentation.Store. It reads the list of zones of every host of the instrumentations, 16 bytes a zone,
// and keeps only the pages.
func (s *Store) VMs(ctx context.Context, p instrumentation.Page, ids ...instrumentation.ID) ([]instrumentation.Places[instrumentation.VMPlacement], error) {
	n, after, err := first(p)
	if err != nil {
		return nil, err
	}
	all, err := s.hostsOf(ctx, ids...)
	if err != nil {
		return nil, err
	}
	out := make([]instrumentation.Places[instrumentation.VMPlacement], len(ids))
	var spots []spot
	for i, hosts := range all {
		for _, h := range hosts {
			out[i].Total += h.expected
			if !h.removed {
				spots = append(spots, spot{of: i, id: ids[i], host: h.host})
			}
		}
	}
	pages := make([][]zoneOn, len(ids))
	for chunk := range slices.Chunk(spots, 500) {
		lists := make([]*redis.StringCmd, len(chunk))
		err := s.pipelined(ctx, "read zones", func(p redis.Pipeliner) {
			for i, at := range chunk {
				lists[i] = p.HGet(ctx, shardOf(at.host).key("on:"+at.host.String()), "v"+string(at.id))
			}
		})
		if err != nil {
			return nil, err
		}
		for i, at := range chunk {
			for _, z := range zoneIDs([]byte(lists[i].Val())) {
				if p.After == "" || strings.Compare(string(z[:]), string(after[:])) > 0 {
					pages[at.of] = append(pages[at.of], zoneOn{at, z})
				}
			}
			if last := i == len(chunk)-1 || chunk[i+1].of != at.of; last {
				pages[at.of] = firstZones(pages[at.of], n+1)
			}
		}
	}
	var zones []zoneOn
	for i, page := range pages {
		out[i].Next = len(page) > n
		zones = append(zones, page[:min(n, len(page))]...)
	}
	for part := range slices.Chunk(zones, 500) {
		found, err := s.zonePlacements(ctx, part)
		if err != nil {
			return nil, err
		}
		for k, v := range found {
			of := &out[part[k].of]
			of.Items = append(of.Items, v)
		}
	}
	return out, nil
}

// firstZones returns the first n zones by uuid, each once: one that moves may be on two hosts for a moment.
func firstZones(page []zoneOn, n int) []zoneOn {
	slices.SortStableFunc(page, func(a, b zoneOn) int { return strings.Compare(string(a.vm[:]), string(b.vm[:])) })
	page = slices.CompactFunc(page, func(a, b zoneOn) bool { return a.vm == b.vm })
	return page[:min(n, len(page))]
}

// zonePlacements reads how zones fare and what is known of them.
func (s *Store) zonePlacements(ctx context.Context, page []zoneOn) ([]instrumentation.VMPlacement, error) {
	seen := make(map[spot]view)
	var spots []spot
	for _, z := range page {
		if _, known := seen[z.spot]; !known {
			seen[z.spot] = view{}
			spots = append(spots, z.spot)
		}
	}
	views, err := s.views(ctx, spots)
	if err != nil {
		return nil, err
	}
	for i, at := range spots {
		seen[at] = views[i]
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
		v := seen[z.spot]
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

// Placements counts what the documents of hosts place, and how much of that goes: each VM, and as uuid.Nil each host that is
// measured as a whole, once for each instrumentation. What a document has no room for is not counted, nor what is kept of a host
// and is damaged. It is one round trip for each server. goes is called for each placement, by one goroutine; nil: nothing goes.
func (s *Store) Placements(ctx context.Context, goes func(id instrumentation.ID, vm uuid.UUID) bool, hosts ...uuid.UUID) (all, gone int, err error) {
	if len(hosts) == 0 {
		return 0, 0, nil
	}
	cmds := make([]*redis.MapStringStringCmd, len(hosts))
	err = s.undamaged(ctx, "read the places of hosts", func(p redis.Pipeliner) {
		for i, host := range hosts {
			cmds[i] = p.HGetAll(ctx, shardOf(host).key("on:"+host.String()))
		}
	})
	if err != nil {
		return 0, 0, err
	}
	for _, c := range cmds {
		places, err := parsePlaces(c.Val(), nil)
		if err != nil {
			continue // whoever reconciles the host is told
		}
		for id, p := range places {
			if p.revision == refused {
				continue
			}
			all += p.expected
			if goes == nil {
				continue
			}
			if len(p.zones) == 0 && goes(id, uuid.Nil) {
				gone++
			}
			for at := 0; at < len(p.zones); at += 16 {
				if goes(id, uuid.UUID(p.zones[at:at+16])) {
					gone++
				}
			}
		}
	}
	return all, gone, nil
}
