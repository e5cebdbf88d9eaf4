package store

import (
	"hash/fnv"
	"strconv"

	"github.com/google/uuid"
)

// shards is how many slots hosts and VMs are spread over. It can never change for existing data.
const shards = 16

// shard names one of the slots.
type shard int

// shardOf returns the shard of a host, and of a VM for what is kept by VM.
func shardOf(id uuid.UUID) shard {
	h := fnv.New32a()
	h.Write(id[:])
	return shard(h.Sum32() % shards)
}

// prefix begins every key of the shard. Scripts take it as their one key, which also routes them in a Cluster, and make the
// names of the keys that they touch from it; all are in its slot.
//
//	hosts                zset  host, 0            hosts in the inventory, by name
//	fact:<host>          hash  host, asof (of host), vmasof, gone, epoch, gen, hash, body, session, begun, seq, agent,
//	                           caps, aepoch, agen, ahash, targets
//	vms:<host>           hash  VM → asof|digest|VM; see appendVM
//	digests              hash  host → high|low|count
//	vmhost               hash  VM → asof|host     a hint; host is empty once the VM is gone
//	vmleft               hash  VM → hosts         that it may still be on, until a note's facts are confirmed to be written
//	vmgone               zset  VM, time           hints that can be forgotten
//	wanted, vwanted      hash  host or VM → count of marks
//	dirty, vdirty        zset  host or VM, when marked; without urgency plus 10^15
//	leased, vleased      zset  host or VM, when the lease lapses
//	claims, vclaims      hash  host or VM → token|score in dirty
//	wake                 stream of marks: w is the kind, see Work
//	change, changeseq    stream of documents; its ids are dense. c has a line for each change:
//	                     host|kind|epoch|generation|session|hash; first marks the first entry, whose id is the time
//	on:<host>            hash  m<id> → revision|epoch|generation (changed at)|expected, v<id> → its VMs, 16 bytes each
//	add:<host>           hash  id → VMs that no applied document has had yet
//	rm:<host>            set   ids whose removal the agent has not acknowledged
//	st:<host>            hash  id → since|revision|status|n|n failed VMs of 16 bytes|JSON
//	p:<id>               hash  host → expected,running,pending,failed; or x: removed, not acknowledged
//	tot                  hash  <id>:e, :r, :p, :f sums of p:<id>, :h its hosts
//	seen                 zset  host, last contact in ms; 0: never
func (s shard) prefix() string {
	const digits = "0123456789"
	return "iapi:{h" + string(digits[s/10]) + string(digits[s%10]) + "}:"
}

func (s shard) key(name string) string { return s.prefix() + name }

// record is the prefix of the keys of records and all else that is not kept by host.
//
//	seq                  number of mutations
//	rec, nonce           hash  id → JSON, and which write was the last
//	ix:…                 zset  id, 0              see indexes
//	expires              zset  id, when in ms
//	quota                hash  <owner>:live, <owner>:tracing
//	idem:<digest>        input digest|id, for 24 hours
//	unevaluated, judge   zset  id, since when
//	log, logseq          stream of changed records; its ids are dense
//	audit, auditseq      stream of what was done; its ids are dense
//	wake                 stream of marks to judge, and of tasks in asynq's queues
//	guards               hash  id → JSON
//	sweep                hash  walk, at: see Walk; ended, vms, differing, stale: see Swept
//	lease:<name>         holder
//	clock                the last answer of Now, in µs
//	joins                hash  SHA-256 of the token → expiry|host
//	tokens, tokenof      hash  SHA-256 of the token → host, and back
//	catalog              hash  revision of what is published, a random name
//	metrics              hash  metric → JSON: what was last published of it
//	definitions          hash  digest → JSON: the document and its signature
//	spread               hash  metric whose hosts are to be told → revision, or revision|when they were marked
//	serving              hash  beat, from, until; partfrom, partuntil; p:<process> → its beat: see beat.lua
const record = "iapi:{i}:"

func itoa[T ~int | ~int64](n T) string { return strconv.FormatInt(int64(n), 10) }
