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
	documentScript = load("mark", "counts", "changes", "try", "document")
	rebaseScript   = load("mark", "rebase")
)

// firstEpoch is the epoch of a host that has no history.
const firstEpoch = "0000000000000001"

const (
	// maxEpoch is the greatest epoch that can be; see assignment.Version.
	maxEpoch = 1<<63 - 1
	// maxLost is how many epochs a store can have lost at most: each was begun by one loss before. Who claims more is not believed,
	// so that no agent can use up the epochs of its host.
	maxLost = 1 << 32
)

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

// zonesOf packs the uuids of VMs, sorted.
func zonesOf(vms []assignment.VM) []byte {
	byUUID := func(a, b assignment.VM) int { return bytes.Compare(a.UUID[:], b.UUID[:]) }
	if !slices.IsSortedFunc(vms, byUUID) {
		vms = slices.SortedFunc(slices.Values(vms), byUUID)
	}
	zones := make([]byte, 0, 16*len(vms))
	for i := range vms {
		zones = append(zones, vms[i].UUID[:]...)
	}
	return zones
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

// decodeItems reads as much of a document's body as places needs.
func decodeItems(body []byte) ([]assignment.Item, error) {
	var some []struct {
		ID        string          `json:"id"`
		Revision  int             `json:"revision"`
		WholeHost bool            `json:"wholeHost"`
		VMs       []assignment.VM `json:"vms"`
	}
	if err := json.Unmarshal(body, &some); err != nil {
		return nil, fmt.Errorf("decode the document: %w", err)
	}
	items := make([]assignment.Item, len(some))
	for i, s := range some {
		items[i] = assignment.Item{ID: s.ID, Revision: s.Revision, WholeHost: s.WholeHost, VMs: s.VMs}
	}
	return items, nil
}

// places works out what a document places: its items, and what is expected beyond them because there was no room.
func places(items []assignment.Item, counts []Counts) (map[instrumentation.ID]place, error) {
	out := make(map[instrumentation.ID]place, len(items))
	for i := range items {
		item := &items[i]
		if item.Revision < 0 {
			return nil, fmt.Errorf("the document's %s has a revision below zero", item.ID)
		}
		p := place{revision: item.Revision, expected: 1}
		if !item.WholeHost {
			p.expected = len(item.VMs)
			p.zones = zonesOf(item.VMs)
		}
		out[instrumentation.ID(item.ID)] = p
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

// Documents returns the document of each host, in their order. Where none was ever committed, Version is zero. Hosts of which
// what is kept is damaged are told by an error that is Damage, beside the documents of the others.
func (s *Store) Documents(ctx context.Context, hosts ...uuid.UUID) ([]assignment.Stored, error) {
	cmds := make([]*redis.SliceCmd, len(hosts))
	err := s.undamaged(ctx, "read documents", func(p redis.Pipeliner) {
		for i, h := range hosts {
			cmds[i] = p.HMGet(ctx, shardOf(h).key("fact:"+h.String()), "epoch", "gen", "hash", "body")
		}
	})
	if err != nil {
		return nil, err
	}
	out, bad := make([]assignment.Stored, len(hosts)), Damage{}
	for i, h := range hosts {
		out[i].Host = h
		if bad.add(h, cmds[i].Err()) {
			continue
		}
		if v := cmds[i].Val(); text(v[2]) != "" {
			out[i].Version = assignment.Version{Epoch: text(v[0]), Generation: number(v[1]), Hash: text(v[2])}
			out[i].Body = json.RawMessage(text(v[3]))
		}
	}
	return out, bad.err()
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

// Versions returns the version of each host's document, in their order; zero where none was ever committed. Damage is told as
// by Documents.
func (s *Store) Versions(ctx context.Context, hosts ...uuid.UUID) ([]assignment.Version, error) {
	out, bad := make([]assignment.Version, 0, len(hosts)), Damage{}
	for chunk := range slices.Chunk(hosts, 2000) {
		cmds := make([]*redis.SliceCmd, len(chunk))
		err := s.undamaged(ctx, "read versions", func(p redis.Pipeliner) {
			for i, h := range chunk {
				cmds[i] = p.HMGet(ctx, shardOf(h).key("fact:"+h.String()), "epoch", "gen", "hash")
			}
		})
		if err != nil {
			return nil, err
		}
		for i, c := range cmds {
			var version assignment.Version
			if bad.add(chunk[i], c.Err()) {
				// It has none that could be told.
			} else if v := c.Val(); text(v[2]) != "" {
				version = assignment.Version{Epoch: text(v[0]), Generation: number(v[1]), Hash: text(v[2])}
			}
			out = append(out, version)
		}
	}
	return out, bad.err()
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
		if theirs > ours && theirs-ours > maxLost || max(ours, theirs) >= maxEpoch {
			return assignment.Version{}, fmt.Errorf("rebase %s: epoch %s cannot have come after %q", host, known.Epoch, standing.Epoch)
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
	if err != nil || len(epoch) != 16 || strings.ToLower(epoch) != epoch || n > maxEpoch {
		return 0, fmt.Errorf("epoch %q is not 16 lower-case hex digits, or greater than any can be", epoch)
	}
	return n, nil
}
