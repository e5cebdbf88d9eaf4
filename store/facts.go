package store

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"iapi/instrumentation"
	"iapi/inventory"
)

var (
	hintsScript   = load("hints")
	confirmScript = load("confirm")
	factsScript   = load("mark", "facts")
	hostScript    = load("mark", "host")
	goneScript    = load("mark", "gone")
)

// How many VMs and hosts one run of a script takes at most.
const (
	manyVMs   = 400
	manyHosts = 50
)

// micros is a time as facts carry it. It is a whole number that Lua's numbers hold exactly.
func micros(t time.Time) string { return itoa(t.UnixMicro()) }

func fromMicros(v string) time.Time {
	n := number(v)
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

// hex16 is a digest as scripts take it.
func hex16(digest uint64) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], digest)
	return hex.EncodeToString(b[:])
}

// vmArgs appends a VM as the facts script takes it.
func vmArgs(args []any, vm inventory.VM) []any {
	return append(args, vm.UUID.String(), hex16(VMDigest(vm)), string(appendVM(nil, vm)))
}

// hint is what is noted of a VM, and what was before.
type hint struct {
	vm      uuid.UUID
	host    string      // "": gone
	expect  string      // remove the note if it names this host
	before  []uuid.UUID // hosts that the VM may still be on
	refused bool        // a newer read has noted something else
}

// note writes hints in one round trip.
func (s *Store) note(ctx context.Context, asOf time.Time, hints []*hint) error {
	var calls []*call
	var parts [][]*hint
	per := make(map[shard][]*hint)
	for _, h := range hints {
		per[shardOf(h.vm)] = append(per[shardOf(h.vm)], h)
	}
	for sh, hs := range per {
		for chunk := range slices.Chunk(hs, manyVMs) {
			args := []any{micros(asOf)}
			for _, h := range chunk {
				args = append(args, h.vm.String(), h.host, h.expect)
			}
			calls = append(calls, &call{script: hintsScript, key: sh.prefix(), args: args})
			parts = append(parts, chunk)
		}
	}
	if err := s.doAll(ctx, calls); err != nil {
		return err
	}
	for i, c := range calls {
		reply := texts(c.reply)
		if len(reply) != len(parts[i]) {
			return badReply(hintsScript, c.reply)
		}
		for j, h := range parts[i] {
			h.refused = reply[j] == "!"
			if !h.refused && reply[j] != "" {
				before, err := parseIDs(strings.Split(reply[j], ","))
				if err != nil {
					return fmt.Errorf("read the host of VM %s: %w", h.vm, err)
				}
				h.before = before
			}
		}
	}
	return nil
}

// factCalls makes the calls that change VMs of a host, in pieces.
func factCalls(asOf time.Time, mode string, host uuid.UUID, vms []inventory.VM) []*call {
	var calls []*call
	for chunk := range slices.Chunk(vms, manyVMs) {
		args := []any{host.String(), micros(asOf), mode}
		for _, vm := range chunk {
			if mode == "remove" {
				args = append(args, vm.UUID.String())
				continue
			}
			args = vmArgs(args, vm)
		}
		calls = append(calls, &call{script: factsScript, key: shardOf(host).prefix(), args: args})
	}
	return calls
}

// PutVMs writes what a read of the inventory that began at asOf says of some VMs: they are put on their hosts, removed from
// those that they were on, and removed if they are not placed. It returns the hosts whose facts have changed; they are
// marked already. A VM of which a newer read told something is left alone. The error may be Damage, beside which the hosts are
// returned all the same.
func (s *Store) PutVMs(ctx context.Context, asOf time.Time, vms []inventory.VM) (changed []uuid.UUID, err error) {
	hints := make([]*hint, len(vms))
	for i, vm := range vms {
		if vm.UUID == uuid.Nil {
			return nil, errors.New("put VMs: a VM has no uuid")
		}
		hints[i] = &hint{vm: vm.UUID}
		if vm.Placed() {
			hints[i].host = vm.Host.String()
		}
	}
	if err := s.note(ctx, asOf, hints); err != nil {
		return nil, err
	}
	put, leave := make(map[uuid.UUID][]inventory.VM), make(map[uuid.UUID][]inventory.VM)
	for i, vm := range vms {
		h := hints[i]
		if h.refused {
			continue
		}
		if vm.Placed() {
			put[vm.Host] = append(put[vm.Host], vm)
		} else if vm.Host != uuid.Nil && !slices.Contains(h.before, vm.Host) {
			leave[vm.Host] = append(leave[vm.Host], vm)
		}
		for _, b := range h.before {
			if b != vm.Host || !vm.Placed() {
				leave[b] = append(leave[b], vm)
			}
		}
	}
	// New places first: a VM is never nowhere while it moves.
	hosts, damage := make(map[uuid.UUID]bool), Damage{}
	for _, step := range []struct {
		mode string
		vms  map[uuid.UUID][]inventory.VM
	}{{"upsert", put}, {"remove", leave}} {
		if err := s.changeFacts(ctx, asOf, step.mode, step.vms, hosts, damage); err != nil {
			return nil, err
		}
	}
	if err := s.confirm(ctx, asOf, vms, hints, hosts, damage); err != nil {
		return nil, err
	}
	return slices.Collect(maps.Keys(hosts)), damage.err()
}

// confirm ends the notes of VMs whose facts have been written, so not of those that are, or were, on damaged hosts. Where a
// newer read has noted something meanwhile, what was written is taken back: that read may have looked before it was there.
// What changed nothing needs no confirmation.
func (s *Store) confirm(ctx context.Context, asOf time.Time, vms []inventory.VM, hints []*hint, hosts map[uuid.UUID]bool, damage Damage) error {
	var calls []*call
	var parts [][]int
	per := make(map[shard][]int)
	for i, vm := range vms {
		moved := slices.ContainsFunc(hints[i].before, func(b uuid.UUID) bool { return b != vm.Host || !vm.Placed() })
		unwritten := damage[vm.Host] != nil || slices.ContainsFunc(hints[i].before, func(b uuid.UUID) bool { return damage[b] != nil })
		if !hints[i].refused && !unwritten && (moved || hosts[vm.Host]) {
			per[shardOf(vm.UUID)] = append(per[shardOf(vm.UUID)], i)
		}
	}
	for sh, all := range per {
		for chunk := range slices.Chunk(all, manyVMs) {
			args := []any{micros(asOf)}
			for _, i := range chunk {
				args = append(args, vms[i].UUID.String(), hints[i].host)
			}
			calls = append(calls, &call{script: confirmScript, key: sh.prefix(), args: args})
			parts = append(parts, chunk)
		}
	}
	if err := s.doAll(ctx, calls); err != nil {
		return err
	}
	back := make(map[uuid.UUID][]inventory.VM)
	for i, c := range calls {
		for j, v := range texts(c.reply) {
			if vm := vms[parts[i][j]]; v == "!" && vm.Placed() {
				back[vm.Host] = append(back[vm.Host], vm)
			}
		}
	}
	return s.changeFacts(ctx, asOf, "remove", back, hosts, damage)
}

// changeFacts changes VMs of several hosts, and adds those that have changed to hosts and those that are damaged to damage.
func (s *Store) changeFacts(ctx context.Context, asOf time.Time, mode string, vms map[uuid.UUID][]inventory.VM, hosts map[uuid.UUID]bool, damage Damage) error {
	var calls []*call
	var of []uuid.UUID
	for host, vms := range vms {
		part := factCalls(asOf, mode, host, vms)
		for range part {
			of = append(of, host)
		}
		calls = append(calls, part...)
	}
	for i := 0; i < len(calls); i += 200 {
		if err := s.doAll(ctx, calls[i:min(i+200, len(calls))]); err != nil && !isDamage(err) {
			return err
		}
	}
	for i, c := range calls {
		if c.err != nil && !damage.add(of[i], c.err) {
			return fault(c.script.name, c.err)
		}
		if number(at(c.reply, 0)) == 1 {
			hosts[of[i]] = true
		}
	}
	return nil
}

// ReplaceHostVMs writes what a read of the inventory that began at asOf says of all VMs of one host; those that it does not
// name, or that are not placed, are removed from the host, and so is what is damaged. It reports whether anything has changed;
// the host is marked then. VMs of which a newer read told something are left alone. The error may be Damage of hosts that VMs
// have come from.
func (s *Store) ReplaceHostVMs(ctx context.Context, asOf time.Time, host uuid.UUID, vms []inventory.VM) (changed bool, err error) {
	if host == uuid.Nil {
		return false, errors.New("replace a host's VMs: the host is missing")
	}
	var hints []*hint
	var here []inventory.VM
	for _, vm := range vms {
		if vm.UUID == uuid.Nil || vm.Placed() && vm.Host != host {
			return false, fmt.Errorf("replace a host's VMs: VM %s is not on host %s", vm.UUID, host)
		}
		if vm.Placed() {
			here = append(here, vm)
			hints = append(hints, &hint{vm: vm.UUID, host: host.String()})
		}
	}
	if err := s.note(ctx, asOf, hints); err != nil {
		return false, err
	}
	leave := make(map[uuid.UUID][]inventory.VM)
	args := []any{host.String(), micros(asOf), "replace"}
	for i, h := range hints {
		if h.refused {
			continue
		}
		args = vmArgs(args, here[i])
		for _, b := range h.before {
			if b != host {
				leave[b] = append(leave[b], here[i])
			}
		}
	}
	reply, err := s.do(ctx, factsScript, shardOf(host).prefix(), args...)
	if err != nil {
		return false, err
	}
	changed = number(at(reply, 0)) == 1
	damage := Damage{}
	if err := s.changeFacts(ctx, asOf, "remove", leave, make(map[uuid.UUID]bool), damage); err != nil {
		return false, err
	}
	if err := s.confirm(ctx, asOf, here, hints, map[uuid.UUID]bool{host: changed}, damage); err != nil {
		return false, err
	}
	if err := s.forgetHints(ctx, asOf, host, texts(at(reply, 1))); err != nil {
		return false, err
	}
	return changed, damage.err()
}

// forgetHints removes what is noted of VMs that are not on a host any more, unless the note names another host.
func (s *Store) forgetHints(ctx context.Context, asOf time.Time, host uuid.UUID, vms []string) error {
	hints := make([]*hint, 0, len(vms))
	for _, vm := range vms {
		id, err := uuid.Parse(vm)
		if err != nil {
			return fmt.Errorf("forget a VM: %w", err)
		}
		hints = append(hints, &hint{vm: id, expect: host.String()})
	}
	return s.note(ctx, asOf, hints)
}

// PutHosts writes what a read of the inventory that began at asOf says of some hosts, and returns those whose name or traits
// have changed; they are marked already.
func (s *Store) PutHosts(ctx context.Context, asOf time.Time, hosts []inventory.Host) (changed []uuid.UUID, err error) {
	per := make(map[shard][]any)
	for _, h := range hosts {
		if h.UUID == uuid.Nil {
			return nil, errors.New("put hosts: a host has no uuid")
		}
		status := h.Status
		h.Status = ""
		b, err := json.Marshal(h)
		if err != nil {
			return nil, fmt.Errorf("encode host %s: %w", h.UUID, err)
		}
		sh := shardOf(h.UUID)
		per[sh] = append(per[sh], h.UUID.String(), string(b), status)
	}
	var calls []*call
	for sh, args := range per {
		for chunk := range slices.Chunk(args, 3*manyHosts) {
			calls = append(calls, &call{script: hostScript, key: sh.prefix(), args: append([]any{micros(asOf)}, chunk...)})
		}
	}
	for chunk := range slices.Chunk(calls, 10) {
		if err := s.doAll(ctx, chunk); err != nil {
			return nil, err
		}
	}
	for _, c := range calls {
		ids, err := parseIDs(texts(c.reply))
		if err != nil {
			return nil, err
		}
		changed = append(changed, ids...)
	}
	return changed, nil
}

// RemoveHost notes that a host has left the inventory, by a read that began at asOf, and marks it urgently: its document
// becomes empty, and nobody waits for its agent any more.
func (s *Store) RemoveHost(ctx context.Context, asOf time.Time, host uuid.UUID) error {
	reply, err := s.do(ctx, goneScript, shardOf(host).prefix(), host.String(), micros(asOf))
	if err != nil {
		return err
	}
	return s.forgetHints(ctx, asOf, host, texts(reply))
}

// HostIDs returns every host that the inventory has, or that has VMs.
func (s *Store) HostIDs(ctx context.Context) ([]uuid.UUID, error) {
	hosts, digests := make([]*redis.StringSliceCmd, shards), make([]*redis.StringSliceCmd, shards)
	err := s.pipelined(ctx, "read the hosts", func(p redis.Pipeliner) {
		for sh := range shard(shards) {
			hosts[sh], digests[sh] = p.ZRange(ctx, sh.key("hosts"), 0, -1), p.HKeys(ctx, sh.key("digests"))
		}
	})
	if err != nil {
		return nil, err
	}
	var all []string
	for i := range shards {
		all = append(append(all, hosts[i].Val()...), digests[i].Val()...)
	}
	slices.Sort(all)
	return parseIDs(slices.Compact(all))
}

func parseIDs(in []string) ([]uuid.UUID, error) {
	out := make([]uuid.UUID, len(in))
	for i, v := range in {
		id, err := uuid.Parse(v)
		if err != nil {
			return nil, fmt.Errorf("read a uuid: %w", err)
		}
		out[i] = id
	}
	return out, nil
}

func decodeHost(id uuid.UUID, entry, status string) (h inventory.Host, known bool, err error) {
	if entry == "" {
		return inventory.Host{UUID: id}, false, nil
	}
	if err := json.Unmarshal([]byte(entry), &h); err != nil {
		return h, false, fmt.Errorf("decode host %s: %w", id, err)
	}
	h.Status = status
	return h, true, nil
}

// hostOf returns the host that a VM was last seen on, Nil if none is noted. It is a hint.
func (s *Store) hostOf(ctx context.Context, vm uuid.UUID) (uuid.UUID, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	v, err := s.client.HGet(ctx, shardOf(vm).key("vmhost"), vm.String()).Result()
	if errors.Is(err, redis.Nil) {
		return uuid.Nil, nil
	}
	if err != nil {
		return uuid.Nil, fault("find the host of a VM", err)
	}
	_, host, _ := strings.Cut(v, "|")
	if host == "" {
		return uuid.Nil, nil
	}
	id, err := uuid.Parse(host)
	if err != nil {
		return uuid.Nil, fmt.Errorf("find the host of VM %s: %w", vm, err)
	}
	return id, nil
}

// parsePlaces reads what a host's document places, from the hashes on and add.
func parsePlaces(on, add map[string]string) (map[instrumentation.ID]place, error) {
	out := make(map[instrumentation.ID]place)
	for name, v := range on {
		if name == "" || name[0] != 'm' {
			continue
		}
		p, err := parsePlace(v, on["v"+name[1:]], add[name[1:]])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name[1:], err)
		}
		out[instrumentation.ID(name[1:])] = p
	}
	return out, nil
}
