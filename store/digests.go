package store

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"iapi/inventory"
)

var compareScript = load("compare")

// VMDigest is a hash of everything that IAPI knows of a VM. It allocates nothing. The tags are summed up, so their order
// does not matter.
func VMDigest(vm inventory.VM) uint64 { return digest(&vm, tagsDigest(vm.Tags)) }

func digest(vm *inventory.VM, tags uint64) uint64 {
	var fixed [3*16 + 3*8]byte
	copy(fixed[:], vm.UUID[:])
	copy(fixed[16:], vm.Owner[:])
	copy(fixed[32:], vm.Host[:])
	binary.BigEndian.PutUint64(fixed[48:], xxhash.Sum64String(vm.Alias))
	binary.BigEndian.PutUint64(fixed[56:], xxhash.Sum64String(vm.State))
	binary.BigEndian.PutUint64(fixed[64:], tags)
	return xxhash.Sum64(fixed[:])
}

func tagsDigest(tags map[string]string) (sum uint64) {
	for k, v := range tags {
		var pair [16]byte
		binary.BigEndian.PutUint64(pair[:], xxhash.Sum64String(k))
		binary.BigEndian.PutUint64(pair[8:], xxhash.Sum64String(v))
		sum += xxhash.Sum64(pair[:])
	}
	return sum
}

// Digester takes the VMDigest of many VMs. It remembers the tags that it has seen by the map that holds them, so VMs that
// share one, as those of vmapi.Client do, cost little; the maps must not be changed while it is in use. The zero Digester
// is ready. Not safe for concurrent use.
type Digester struct{ seen map[uintptr]summed }

type summed struct {
	tags map[string]string // kept, so that no other map takes its address
	sum  uint64
}

// manyTags is how many maps a Digester remembers. At the bound it forgets them all.
const manyTags = 1 << 14

// Digest returns the VMDigest of a VM.
func (d *Digester) Digest(vm *inventory.VM) uint64 {
	if len(vm.Tags) == 0 {
		return digest(vm, 0)
	}
	at := reflect.ValueOf(vm.Tags).Pointer()
	s, ok := d.seen[at]
	if !ok {
		if d.seen == nil || len(d.seen) >= manyTags {
			d.seen = make(map[uintptr]summed)
		}
		s = summed{vm.Tags, tagsDigest(vm.Tags)}
		d.seen[at] = s
	}
	return digest(vm, s.sum)
}

// Digests returns the digest of the VMs of each host that has any; of one whose digest is damaged, what it has in doubt.
func (s *Store) Digests(ctx context.Context) (map[uuid.UUID]HostDigest, error) {
	cmds := make([]*redis.MapStringStringCmd, shards)
	err := s.pipelined(ctx, "read the digests", func(p redis.Pipeliner) {
		for sh := range shard(shards) {
			cmds[sh] = p.HGetAll(ctx, sh.key("digests"))
		}
	})
	if err != nil {
		return nil, err
	}
	out := make(map[uuid.UUID]HostDigest)
	for _, c := range cmds {
		for host, v := range c.Val() {
			id, err := uuid.Parse(host)
			high, rest, _ := strings.Cut(v, "|")
			low, vms, ok := strings.Cut(rest, "|")
			if err != nil {
				return nil, fmt.Errorf("read the digests: host %q: %w", host, err)
			}
			if !ok {
				high, low, vms = "", "", "1" // as of a host in doubt
			}
			out[id] = HostDigest{Digest: uint64(number(high))<<32 | uint64(number(low)), VMs: int(number(vms))}
		}
	}
	return out, nil
}

// VMSum is the VMDigest of a VM.
type VMSum struct {
	UUID   uuid.UUID
	Digest uint64
}

// HostVMs is what a read of the inventory says of one host: all its VMs that are placed.
type HostVMs struct {
	Host uuid.UUID
	VMs  []VMSum
}

// Difference is what the facts of a host lack to be what was read of it.
type Difference struct {
	Changed []int       // places in HostVMs.VMs of those that are not known, or not so
	Missing []uuid.UUID // known, and not read
	Err     error       // what is kept of this host is damaged
}

// Differences compares what was read of hosts with their facts, by the digests of the VMs, in one round trip for each
// server. A host of which something kept is damaged has its error and spoils none of the others. A VM that has changed is taken for the same if its digest is: one change in 2^64.
func (s *Store) Differences(ctx context.Context, hosts []HostVMs) ([]Difference, error) {
	calls := make([]*call, len(hosts))
	for i, h := range hosts {
		now := make([]byte, 0, (36+16)*len(h.VMs))
		for _, vm := range h.VMs {
			now = appendUUID(now, vm.UUID)
			now = hex.AppendEncode(now, binary.BigEndian.AppendUint64(nil, vm.Digest))
		}
		calls[i] = &call{script: compareScript, key: shardOf(h.Host).prefix(), args: []any{h.Host.String(), now}}
	}
	_ = s.doAll(ctx, calls) // each call has its error
	out := make([]Difference, len(hosts))
	for i, c := range calls {
		if c.err != nil {
			if out[i].Err = fault(compareScript.name, c.err); !isDamage(c.err) {
				return nil, out[i].Err
			}
			continue
		}
		for _, place := range list(at(c.reply, 0)) {
			k := number(place)
			if k < 0 || k >= int64(len(hosts[i].VMs)) {
				return nil, badReply(compareScript, c.reply)
			}
			out[i].Changed = append(out[i].Changed, int(k))
		}
		missing := texts(at(c.reply, 1))
		if len(missing) == 0 {
			continue
		}
		var err error
		if out[i].Missing, err = parseIDs(missing); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// appendUUID appends the text of a uuid.
func appendUUID(b []byte, id uuid.UUID) []byte {
	for i, part := range [...][]byte{id[:4], id[4:6], id[6:8], id[8:10], id[10:]} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, part)
	}
	return b
}

// TakeVMs takes VMs off hosts that a read of the inventory that began at asOf has not found them on. Where the VMs are, if
// anywhere, is for PutVMs to tell, and to be told first. VMs that a newer read has put there stay. The
// error may be Damage.
func (s *Store) TakeVMs(ctx context.Context, asOf time.Time, off map[uuid.UUID][]uuid.UUID) error {
	leave := make(map[uuid.UUID][]inventory.VM, len(off))
	for host, ids := range off {
		for _, id := range ids {
			leave[host] = append(leave[host], inventory.VM{UUID: id})
		}
	}
	damage := Damage{}
	if err := s.changeFacts(ctx, asOf, "remove", leave, make(map[uuid.UUID]bool), damage); err != nil {
		return err
	}
	return damage.err()
}
