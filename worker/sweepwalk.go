package worker

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"iapi/inventory"
	"iapi/inventory/vmapi"
	"iapi/store"
)

// walked is what a walk through the list of VMs has seen: the sums of the hosts, and of each VM where it is and its digest,
// in 32 bytes.
type walked struct {
	store.Walk
	whole bool // every VM is in pages; otherwise the first were seen by whoever began the walk
	hosts map[uuid.UUID]int32
	sums  []store.HostDigest // by the places of the hosts
	pages [][]sighting
}

// sighting is a VM on a host. It has no pointers, so that a million of them cost the garbage collector nothing.
type sighting struct {
	vm     uuid.UUID
	digest uint64
	host   int32 // its place
}

// walk lists every active VM once.
func (w *Worker) walk(ctx context.Context, name string) (*walked, error) {
	at, err := w.Store.Walk(ctx, name)
	if err != nil {
		w.failed(ctx, "read how far the sweep had come", err) // it begins again
		at = store.Walk{ID: name, Sums: map[uuid.UUID]store.HostDigest{}}
	}
	seen := &walked{Walk: at, whole: at.Marker == uuid.Nil, hosts: make(map[uuid.UUID]int32, len(at.Sums))}
	for host, sum := range at.Sums {
		seen.sums[seen.place(host)] = sum
	}
	var digester store.Digester
	kept := time.Now()
	w.metrics.sweepVMs.Set(float64(seen.Seen))
	for tries := 0; ; tries++ {
		err := w.VMAPI.EachFrom(ctx, vmapi.Query{Active: true}, seen.Marker, func(page []inventory.VM, last uuid.UUID) error {
			seen.add(page, &digester)
			seen.Marker, tries = last, 0
			w.metrics.sweepVMs.Set(float64(seen.Seen))
			if time.Since(kept) >= w.keep {
				seen.sumUp()
				w.failed(ctx, "keep how far the sweep has come", w.Store.PutWalk(ctx, seen.Walk))
				kept = time.Now()
			}
			return nil
		})
		if err == nil {
			seen.sumUp()
			return seen, nil
		}
		if !errors.Is(err, inventory.ErrUnavailable) || tries == pageTries {
			return nil, err
		}
		w.failed(ctx, "read a page of VMs", err, "behind", seen.Marker)
		if !sleep(ctx, min(w.Tick, time.Second<<tries)) {
			return nil, ctx.Err()
		}
	}
}

// place returns the place of a host.
func (s *walked) place(host uuid.UUID) int32 {
	at, ok := s.hosts[host]
	if !ok {
		at = int32(len(s.sums))
		s.hosts[host], s.sums = at, append(s.sums, store.HostDigest{})
	}
	return at
}

// add takes a page of the list.
func (s *walked) add(page []inventory.VM, digester *store.Digester) {
	s.Seen += len(page)
	sightings := make([]sighting, 0, len(page))
	for i := range page {
		if vm := &page[i]; vm.Placed() {
			at, digest := s.place(vm.Host), digester.Digest(vm)
			s.sums[at].Digest += digest
			s.sums[at].VMs++
			sightings = append(sightings, sighting{vm.UUID, digest, at})
		}
	}
	s.pages = append(s.pages, sightings)
}

// sumUp brings the sums up to date.
func (s *walked) sumUp() {
	for host, at := range s.hosts {
		s.Sums[host] = s.sums[at]
	}
}

// against returns the hosts whose sums differ from those of the facts, and those whose do not, hosts without VMs included.
func (s *walked) against(facts map[uuid.UUID]store.HostDigest, known []uuid.UUID) (differing, same []uuid.UUID) {
	for id, sum := range s.Sums {
		if facts[id] != sum {
			differing = append(differing, id)
		} else {
			same = append(same, id)
		}
	}
	for id, f := range facts {
		if _, ok := s.Sums[id]; !ok && f.VMs > 0 {
			differing = append(differing, id)
		}
	}
	for _, id := range known {
		if _, ok := s.Sums[id]; !ok && facts[id].VMs == 0 {
			same = append(same, id)
		}
	}
	return differing, same
}

// vmsOf returns the VMs of some hosts.
func (s *walked) vmsOf(hosts []uuid.UUID) []store.HostVMs {
	out := make([]store.HostVMs, len(hosts))
	wanted := make([]*store.HostVMs, len(s.sums))
	for i, host := range hosts {
		out[i].Host = host
		if at, ok := s.hosts[host]; ok {
			out[i].VMs = make([]store.VMSum, 0, s.sums[at].VMs)
			wanted[at] = &out[i]
		}
	}
	for _, page := range s.pages {
		for _, one := range page {
			if of := wanted[one.host]; of != nil {
				of.VMs = append(of.VMs, store.VMSum{UUID: one.vm, Digest: one.digest})
			}
		}
	}
	return out
}
