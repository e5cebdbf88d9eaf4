package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"iapi/assignment"
	"iapi/instrumentation"
)

// FactsRead is what the reading of one host's facts has come to.
type FactsRead struct {
	Facts
	Err error // what is kept of this host is damaged
}

// FactsOf reads what is known of hosts, in their order, in one round trip for each server. A host of which something kept is
// damaged has its error and spoils none of the others. The counts of marks are read before all else, so a commit with these facts
// fails if any of them has changed meanwhile.
func (s *Store) FactsOf(ctx context.Context, hosts ...uuid.UUID) ([]FactsRead, error) {
	type read struct {
		fact         *redis.SliceCmd
		on, add, vms *redis.MapStringStringCmd
	}
	reads := make([]read, len(hosts))
	per := make(map[shard][]int)
	for i, h := range hosts {
		per[shardOf(h)] = append(per[shardOf(h)], i)
	}
	wanted := make(map[shard]*redis.SliceCmd, len(per))
	err := s.undamaged(ctx, "read the facts", func(p redis.Pipeliner) {
		for sh, of := range per {
			ids := make([]string, len(of))
			for k, i := range of {
				ids[k] = hosts[i].String()
			}
			wanted[sh] = p.HMGet(ctx, sh.key("wanted"), ids...)
			for k, i := range of {
				id := ids[k]
				reads[i] = read{
					fact: p.HMGet(ctx, sh.key("fact:"+id), "host", "status", "read", "epoch", "gen", "hash"),
					on:   p.HGetAll(ctx, sh.key("on:"+id)), add: p.HGetAll(ctx, sh.key("add:"+id)),
					vms: p.HGetAll(ctx, sh.key("vms:"+id)),
				}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	out := make([]FactsRead, len(hosts))
	var d vmDecoder
	for sh, of := range per {
		for k, i := range of {
			f, r := &out[i], &reads[i]
			if f.Err = damaged("read the facts of host "+hosts[i].String(), wanted[sh], r.fact, r.on, r.add, r.vms); f.Err != nil {
				continue
			}
			f.Err = f.decode(&d, hosts[i], r.fact.Val(), r.on.Val(), r.add.Val(), r.vms.Val())
			f.Wanted = number(wanted[sh].Val()[k])
		}
	}
	return out, nil
}

// Facts is FactsOf for one host.
func (s *Store) Facts(ctx context.Context, host uuid.UUID) (Facts, error) {
	read, err := s.FactsOf(ctx, host)
	if err == nil {
		err = read[0].Err
	}
	if err != nil {
		return Facts{}, err
	}
	return read[0].Facts, nil
}

// decode takes what is kept of a host. After an error the facts cannot be committed with.
func (f *Facts) decode(d *vmDecoder, host uuid.UUID, fact []any, on, add, vms map[string]string) (err error) {
	if f.Host, f.Known, err = decodeHost(host, text(fact[0]), text(fact[1])); err != nil {
		return err
	}
	f.AsOf = fromMicros(text(fact[2]))
	f.Version = assignment.Version{Epoch: text(fact[3]), Generation: number(fact[4]), Hash: text(fact[5])}
	if f.placed, err = parsePlaces(on, add); err != nil {
		return fmt.Errorf("read the places of host %s: %w", host, err)
	}
	if f.VMs, err = d.vms(vms); err != nil {
		return err
	}
	f.id, f.complete = host, true
	return nil
}

// Draft is a document that waits to be committed, with the facts that it was computed from. Body is the canonical JSON of
// its Items, Hash theirs. Placed says how many sources of each instrumentation are expected on the host, including those
// that the document has no room for, which count as failed.
type Draft struct {
	Claim  Claim
	Facts  Facts
	Items  []assignment.Item
	Body   []byte
	Hash   string
	Placed []Counts
}

// Committed is what has become of a Draft. Without an error and not Done, the facts have moved on since they were read: the
// claim stands, Version is the one that stands, and the caller reads them again. With ErrClaimLost the caller drops the work.
type Committed struct {
	Version assignment.Version
	Done    bool
	Err     error
}

// CommitDocuments stores documents in one round trip for each server and returns what has become of each; one that fails
// spoils none of the others. A version grows if the hash differs. After a commit the claim and the mark are gone, and what
// has changed is marked to be judged.
func (s *Store) CommitDocuments(ctx context.Context, drafts []Draft) []Committed {
	out := make([]Committed, len(drafts))
	parts := make([]part, 0, len(drafts))
	of := make([]int, 0, len(drafts))
	for i := range drafts {
		p, v, err := drafts[i].part()
		if err != nil {
			out[i].Err = fmt.Errorf("commit the document of %s: %w", drafts[i].Claim.Host, err)
			continue
		}
		out[i].Version = v
		parts, of = append(parts, p), append(of, i)
	}
	replies, errs := s.doParts(ctx, documentScript, parts)
	judge := make(map[instrumentation.ID]bool)
	for k, reply := range replies {
		o, err := &out[of[k]], errs[k]
		switch text(at(reply, 0)) {
		case "OK":
			o.Done = true
			for _, id := range texts(at(reply, 1)) {
				judge[instrumentation.ID(id)] = true
			}
		case "MOVED":
			o.Version = assignment.Version{Epoch: text(at(reply, 1)), Generation: number(at(reply, 2)), Hash: text(at(reply, 3))}
		case "LOST":
			err = ErrClaimLost
		default:
			err = cmp.Or(err, badReply(documentScript, reply))
		}
		if err != nil {
			*o = Committed{Err: fmt.Errorf("commit the document of %s: %w", parts[k].host, err)}
		}
	}
	if len(judge) > 0 {
		s.judgeLater(ctx, slices.Sorted(maps.Keys(judge)))
	}
	return out
}

// CommitDocument is CommitDocuments for one, of which the items are read from the body.
func (s *Store) CommitDocument(ctx context.Context, c Claim, f Facts, body []byte, hash string, placed []Counts) (v assignment.Version, committed bool, err error) {
	items, err := decodeItems(body)
	if err != nil {
		return assignment.Version{}, false, fmt.Errorf("commit the document of %s: %w", c.Host, err)
	}
	r := s.CommitDocuments(ctx, []Draft{{Claim: c, Facts: f, Items: items, Body: body, Hash: hash, Placed: placed}})[0]
	return r.Version, r.Done, r.Err
}

// part works out what the commit changes, and the version that it leads to.
func (d *Draft) part() (part, assignment.Version, error) {
	f := &d.Facts
	if !f.complete || f.id != d.Claim.Host {
		return part{}, assignment.Version{}, errors.New("the facts are not the claimed host's")
	}
	if d.Hash == "" {
		return part{}, assignment.Version{}, errors.New("the hash is missing")
	}
	now, err := places(d.Items, d.Placed)
	if err != nil {
		return part{}, assignment.Version{}, err
	}
	v := f.Version
	if v.Epoch == "" {
		v.Epoch = firstEpoch
	}
	send := ""
	if d.Hash != v.Hash {
		v.Generation++
		v.Hash = d.Hash
		send = string(d.Body)
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
	args := make([]any, 0, 13+len(changed)+len(removed))
	args = append(args, d.Claim.Host.String(), d.Claim.Token, f.Wanted, f.Version.Epoch, f.Version.Generation, f.Version.Hash,
		v.Epoch, v.Generation, v.Hash, send, kind, n, len(removed))
	args = append(append(args, changed...), removed...)
	return part{host: d.Claim.Host, args: args, weight: n + len(removed)}, v, nil
}

// judgeLater marks what has changed. It is a hint: what is lost is found by the workers' tick.
func (s *Store) judgeLater(ctx context.Context, ids []instrumentation.ID) {
	if err := s.MarkJudge(ctx, ids...); err != nil {
		s.log.Warn("instrumentations could not be marked to be judged; the next tick finds them", "count", len(ids), "error", err)
	}
}
