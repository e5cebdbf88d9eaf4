package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"iapi/assignment"
	"iapi/instrumentation"
)

var (
	documentScript = load("mark", "counts", "changes", "document")
	rebaseScript   = load("mark", "rebase")
	announceScript = load("changes", "announce")
)

// firstEpoch is the epoch of a host that has no history.
const firstEpoch = "0000000000000001"

// refused is the revision of a place that the document has no room for: it is expected, and it has failed.
const refused = -1

// place is an instrumentation on one host.
type place struct {
	revision int // refused: counted only
	expected int
	zones    []byte // 16 bytes each, sorted; none: the whole host
	added    []byte // those that no applied document has had yet
}

func (p place) has(vm uuid.UUID) bool { return hasZone(p.zones, vm[:]) }

func hasZone(zones, vm []byte) bool {
	for i := 0; i+16 <= len(zones); i += 16 {
		if bytes.Equal(zones[i:i+16], vm) {
			return true
		}
	}
	return false
}

// zoneIDs unpacks a list of zones.
func zoneIDs(zones []byte) []uuid.UUID {
	out := make([]uuid.UUID, 0, len(zones)/16)
	for i := 0; i+16 <= len(zones); i += 16 {
		out = append(out, uuid.UUID(zones[i:i+16]))
	}
	return out
}

// parsePlace reads revision|epoch|generation|expected and the zones.
func parsePlace(meta, zones, added string) (place, error) {
	parts := strings.Split(meta, "|")
	if len(parts) != 4 || len(zones)%16 != 0 || len(added)%16 != 0 {
		return place{}, errors.New("the place is not valid")
	}
	revision, err := strconv.Atoi(parts[0])
	if err != nil {
		return place{}, errors.New("the place's revision is not valid")
	}
	return place{revision: revision, expected: int(number(parts[3])), zones: []byte(zones), added: []byte(added)}, nil
}

// places works out what a document places: its items, and what is expected beyond them because there was no room.
func places(body []byte, counts []Counts) (map[instrumentation.ID]place, error) {
	var items []struct {
		ID        instrumentation.ID `json:"id"`
		Revision  int                `json:"revision"`
		WholeHost bool               `json:"wholeHost"`
		VMs       []struct {
			UUID uuid.UUID `json:"uuid"`
		} `json:"vms"`
	}
	if err := json.Unmarshal(body, &items); err != nil {
		return nil, fmt.Errorf("decode the document: %w", err)
	}
	out := make(map[instrumentation.ID]place, len(items))
	for _, i := range items {
		if i.Revision < 0 {
			return nil, fmt.Errorf("the document's %s has a revision below zero", i.ID)
		}
		p := place{revision: i.Revision, expected: 1}
		if !i.WholeHost {
			p.expected = len(i.VMs)
			slices.SortFunc(i.VMs, func(a, b struct {
				UUID uuid.UUID `json:"uuid"`
			}) int {
				return bytes.Compare(a.UUID[:], b.UUID[:])
			})
			for _, vm := range i.VMs {
				p.zones = append(p.zones, vm.UUID[:]...)
			}
		}
		out[i.ID] = p
	}
	for _, c := range counts {
		p, has := out[c.ID]
		if has && p.expected != c.Expected {
			return nil, fmt.Errorf("the document has %d sources of %s, and %d are said to be expected", p.expected, c.ID, c.Expected)
		}
		if !has && c.Expected > 0 {
			out[c.ID] = place{revision: refused, expected: c.Expected}
		}
	}
	return out, nil
}

// follows tells what has become of a place: the same, or the new place with the zones that no applied document has had.
func (p place) follows(old place, was bool) (place, bool) {
	if was && old.revision == p.revision && old.expected == p.expected && bytes.Equal(old.zones, p.zones) {
		return old, true
	}
	p.added = nil
	if p.revision == refused {
		return p, false
	}
	known := make(map[uuid.UUID]bool, len(old.zones)/16)
	for _, z := range zoneIDs(old.zones) {
		known[z] = true
	}
	for _, z := range zoneIDs(old.added) {
		delete(known, z)
	}
	for _, z := range zoneIDs(p.zones) {
		if !known[z] {
			p.added = append(p.added, z[:]...)
		}
	}
	return p, false
}

// CommitDocument stores the document that was computed from f. body is the canonical JSON of its items, hash theirs; placed
// says how many sources of each instrumentation are expected on the host, including those that the document has no room
// for, which count as failed. The version grows if the hash differs. committed is false when the facts have moved on since
// they were read: the claim stands, and the caller reads them again. With ErrClaimLost the caller drops the work. After a
// commit the claim and the mark are gone, and what has changed is marked to be judged.
func (s *Store) CommitDocument(ctx context.Context, c Claim, f Facts, body []byte, hash string, placed []Counts) (v assignment.Version, committed bool, err error) {
	if !f.complete || f.id != c.Host {
		return v, false, errors.New("commit a document: the facts are not the claimed host's")
	}
	if hash == "" {
		return v, false, errors.New("commit a document: the hash is missing")
	}
	now, err := places(body, placed)
	if err != nil {
		return v, false, fmt.Errorf("commit the document of %s: %w", c.Host, err)
	}
	v = f.Version
	if v.Epoch == "" {
		v.Epoch = firstEpoch
	}
	send := ""
	if hash != v.Hash {
		v.Generation++
		v.Hash = hash
		send = string(body)
	}
	var changed, removed []any
	n, shrinks := 0, false
	for id, p := range now {
		old, was := f.placed[id]
		next, same := p.follows(old, was)
		if same {
			continue
		}
		for _, z := range zoneIDs(old.zones) {
			shrinks = shrinks || !next.has(z)
		}
		n++
		changed = append(changed, string(id), next.revision, next.expected, string(next.zones), string(next.added))
	}
	for id := range f.placed {
		if _, still := now[id]; !still {
			removed = append(removed, string(id))
			shrinks = true
		}
	}
	kind := ChangeDocument
	if shrinks {
		kind = ChangeStop
	}
	args := []any{
		c.Host.String(), c.Token, f.Wanted, f.Version.Epoch, f.Version.Generation, f.Version.Hash,
		v.Epoch, v.Generation, v.Hash, send, kind, n,
	}
	reply, err := s.do(ctx, documentScript, shardOf(c.Host).prefix(), append(append(args, changed...), removed...)...)
	if err != nil {
		return assignment.Version{}, false, err
	}
	switch text(at(reply, 0)) {
	case "OK":
		s.judgeLater(ctx, toIDs(texts(at(reply, 1))))
		return v, true, nil
	case "MOVED":
		return assignment.Version{Epoch: text(at(reply, 1)), Generation: number(at(reply, 2)), Hash: text(at(reply, 3))}, false, nil
	case "LOST":
		return assignment.Version{}, false, fmt.Errorf("commit the document of %s: %w", c.Host, ErrClaimLost)
	}
	return assignment.Version{}, false, badReply(documentScript, reply)
}

// judgeLater marks what has changed. It is a hint: what is lost is found by the workers' tick.
func (s *Store) judgeLater(ctx context.Context, ids []instrumentation.ID) {
	if err := s.MarkJudge(ctx, ids...); err != nil {
		s.log.Warn("instrumentations could not be marked to be judged; the next tick finds them", "count", len(ids), "error", err)
	}
}

// Documents returns the document of each host, in their order. Where none was ever committed, Version is zero.
func (s *Store) Documents(ctx context.Context, hosts ...uuid.UUID) ([]assignment.Stored, error) {
	cmds := make([]*redis.SliceCmd, len(hosts))
	err := s.pipelined(ctx, "read documents", func(p redis.Pipeliner) {
		for i, h := range hosts {
			cmds[i] = p.HMGet(ctx, shardOf(h).key("fact:"+h.String()), "epoch", "gen", "hash", "body")
		}
	})
	if err != nil {
		return nil, err
	}
	out := make([]assignment.Stored, len(hosts))
	for i, h := range hosts {
		out[i].Host = h
		if v := cmds[i].Val(); text(v[2]) != "" {
			out[i].Version = assignment.Version{Epoch: text(v[0]), Generation: number(v[1]), Hash: text(v[2])}
			out[i].Body = json.RawMessage(text(v[3]))
		}
	}
	return out, nil
}

// Document returns a host's document, or ErrNoDocument.
func (s *Store) Document(ctx context.Context, host uuid.UUID) (assignment.Stored, error) {
	docs, err := s.Documents(ctx, host)
	if err != nil {
		return assignment.Stored{}, err
	}
	if docs[0].Version == (assignment.Version{}) {
		return assignment.Stored{}, fmt.Errorf("read the document of %s: %w", host, ErrNoDocument)
	}
	return docs[0], nil
}

// Versions returns the version of each host's document, in their order; zero where none was ever committed.
func (s *Store) Versions(ctx context.Context, hosts ...uuid.UUID) ([]assignment.Version, error) {
	out := make([]assignment.Version, 0, len(hosts))
	for chunk := range slices.Chunk(hosts, 2000) {
		cmds := make([]*redis.SliceCmd, len(chunk))
		err := s.pipelined(ctx, "read versions", func(p redis.Pipeliner) {
			for i, h := range chunk {
				cmds[i] = p.HMGet(ctx, shardOf(h).key("fact:"+h.String()), "epoch", "gen", "hash")
			}
		})
		if err != nil {
			return nil, err
		}
		for _, c := range cmds {
			var version assignment.Version
			if v := c.Val(); text(v[2]) != "" {
				version = assignment.Version{Epoch: text(v[0]), Generation: number(v[1]), Hash: text(v[2])}
			}
			out = append(out, version)
		}
	}
	return out, nil
}

// Knows reports whether the inventory has the host.
func (s *Store) Knows(ctx context.Context, host uuid.UUID) (bool, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	has, err := s.client.HExists(ctx, shardOf(host).key("fact:"+host.String()), "host").Result()
	return has, fault("look for a host", err)
}

// Rebase is told a version that an agent has. If the store cannot have given it out, because it is greater than the standing
// one or is the same with another hash, the store has lost history: the host begins an epoch that is greater than both, and
// is marked urgently. It then has no document until it is reconciled, for the one that stands is as old as what was lost;
// the next one has generation 1. Rebase returns the version that stands afterwards, or ErrNoDocument if there is none.
func (s *Store) Rebase(ctx context.Context, host uuid.UUID, known assignment.Version) (assignment.Version, error) {
	theirs, err := parseEpoch(known.Epoch)
	if err != nil {
		return assignment.Version{}, fmt.Errorf("rebase %s: known: %w", host, err)
	}
	sh := shardOf(host)
	for range racers {
		var cmd *redis.SliceCmd
		err := s.pipelined(ctx, "read the version", func(p redis.Pipeliner) {
			cmd = p.HMGet(ctx, sh.key("fact:"+host.String()), "epoch", "gen", "hash")
		})
		if err != nil {
			return assignment.Version{}, err
		}
		v := cmd.Val()
		standing := assignment.Version{Epoch: text(v[0]), Generation: number(v[1]), Hash: text(v[2])}
		if !lost(standing, known) {
			if standing.Hash == "" {
				return assignment.Version{}, fmt.Errorf("rebase %s: %w", host, ErrNoDocument)
			}
			return standing, nil
		}
		ours := uint64(0)
		if standing.Epoch != "" {
			if ours, err = parseEpoch(standing.Epoch); err != nil {
				return assignment.Version{}, fmt.Errorf("rebase %s: %w", host, err)
			}
		}
		next := fmt.Sprintf("%016x", max(ours, theirs)+1)
		reply, err := s.do(ctx, rebaseScript, sh.prefix(), host.String(), standing.Epoch, standing.Generation, standing.Hash, next)
		if err != nil {
			return assignment.Version{}, err
		}
		if number(reply) == 1 {
			s.log.Warn("an agent knows a version that the store has lost; its host begins a new epoch",
				"host", host, "known", known, "standing", standing, "epoch", next)
			return assignment.Version{}, fmt.Errorf("rebase %s: %w", host, ErrNoDocument)
		}
	}
	return assignment.Version{}, fmt.Errorf("rebase %s: too many writers at once", host)
}

// lost reports whether known proves that the store went back behind it.
func lost(standing, known assignment.Version) bool {
	if known.Epoch != standing.Epoch {
		return known.Epoch > standing.Epoch
	}
	return known.Generation > standing.Generation ||
		known.Generation == standing.Generation && standing.Hash != "" && known.Hash != standing.Hash
}

func parseEpoch(epoch string) (uint64, error) {
	n, err := strconv.ParseUint(epoch, 16, 64)
	if err != nil || len(epoch) != 16 || strings.ToLower(epoch) != epoch || n == 1<<64-1 {
		return 0, fmt.Errorf("epoch %q is not 16 lower-case hex digits", epoch)
	}
	return n, nil
}

// Announce puts an entry of the kind into the stream of changed documents for each host, with its standing version.
func (s *Store) Announce(ctx context.Context, kind string, hosts ...uuid.UUID) error {
	var calls []*call
	for sh, hosts := range byShard(hosts) {
		for chunk := range slices.Chunk(hosts, 500) {
			args := []any{kind}
			for _, h := range chunk {
				args = append(args, h.String())
			}
			calls = append(calls, &call{script: announceScript, key: sh.prefix(), args: args})
		}
	}
	return s.doAll(ctx, calls)
}
