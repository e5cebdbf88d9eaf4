package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"iapi/instrumentation"
)

var staleScript = load("stale")

// Walk is how far a sweep has come on its way through the inventory's list of VMs: what it would lose if it ended now. It
// takes 28 bytes for each host, however many VMs there are.
type Walk struct {
	ID     string    // of the sweep
	Marker uuid.UUID // the last VM that was seen; Nil: none
	Seen   int       // VMs
	Sums   map[uuid.UUID]HostDigest
}

// Swept tells of the last sweep that compared everything. The zero Swept says that there was none.
type Swept struct {
	At        time.Time // when it ended, by the store's clock
	VMs       int       // that it has read
	Differing int       // hosts whose facts were not what the inventory says
	Stale     int       // instrumentations that were noted as stale at its end
}

const (
	walkHead = 8 + 16     // VMs seen, marker
	walkRow  = 16 + 8 + 4 // host, digest, VMs
)

// PutWalk keeps how far a sweep has come, in place of what was kept. One Walk is kept at a time: sweeps that run at once
// displace each other's, which costs no more than beginning again.
func (s *Store) PutWalk(ctx context.Context, w Walk) error {
	b := make([]byte, 0, walkHead+walkRow*len(w.Sums))
	b = binary.BigEndian.AppendUint64(b, uint64(w.Seen))
	b = append(b, w.Marker[:]...)
	for host, d := range w.Sums {
		b = append(b, host[:]...)
		b = binary.BigEndian.AppendUint64(b, d.Digest)
		b = binary.BigEndian.AppendUint32(b, uint32(d.VMs))
	}
	return s.pipelined(ctx, "keep how far a sweep has come", func(p redis.Pipeliner) {
		p.HSet(ctx, record+"sweep", "walk", w.ID, "at", string(b))
	})
}

// Walk returns how far a sweep has come; a Walk that has seen nothing when nothing is kept of it.
func (s *Store) Walk(ctx context.Context, id string) (Walk, error) {
	w := Walk{ID: id, Sums: make(map[uuid.UUID]HostDigest)}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	v, err := s.client.HMGet(ctx, record+"sweep", "walk", "at").Result()
	if err != nil {
		return w, fault("read how far a sweep has come", err)
	}
	b := []byte(text(v[1]))
	if text(v[0]) != id || len(b) == 0 {
		return w, nil
	}
	if len(b) < walkHead || (len(b)-walkHead)%walkRow != 0 {
		return w, fmt.Errorf("read how far a sweep has come: %d bytes are not valid", len(b))
	}
	w.Seen = int(binary.BigEndian.Uint64(b))
	copy(w.Marker[:], b[8:])
	for b = b[walkHead:]; len(b) > 0; b = b[walkRow:] {
		w.Sums[uuid.UUID(b[:16])] = HostDigest{Digest: binary.BigEndian.Uint64(b[16:]), VMs: int(binary.BigEndian.Uint32(b[24:]))}
	}
	return w, nil
}

// EndSweep notes that a sweep has compared everything, and forgets how far any had come.
func (s *Store) EndSweep(ctx context.Context, e Swept) error {
	return s.pipelined(ctx, "note the end of a sweep", func(p redis.Pipeliner) {
		p.HDel(ctx, record+"sweep", "walk", "at")
		p.HSet(ctx, record+"sweep", "ended", micros(e.At), "vms", e.VMs, "differing", e.Differing, "stale", e.Stale)
	})
}

// LastSweep tells of the last sweep that compared everything.
func (s *Store) LastSweep(ctx context.Context) (Swept, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	v, err := s.client.HMGet(ctx, record+"sweep", "ended", "vms", "differing", "stale").Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return Swept{}, fault("read of the last sweep", err)
	}
	if text(v[0]) == "" {
		return Swept{}, nil
	}
	return Swept{
		At: fromMicros(text(v[0])), VMs: int(number(v[1])), Differing: int(number(v[2])), Stale: int(number(v[3])),
	}, nil
}

// Stale returns the live instrumentations that are noted as stale. They are found where they are kept: there are many
// records and seldom a stale one.
func (s *Store) Stale(ctx context.Context) (stale []Pending, err error) {
	now, err := s.Now(ctx)
	if err != nil {
		return nil, err
	}
	for from := "-"; from != ""; {
		reply, err := s.do(ctx, staleScript, record, from)
		if err != nil {
			return nil, err
		}
		if from = text(at(reply, 0)); from != "" {
			from = "(" + from
		}
		for _, found := range texts(at(reply, 1)) {
			id, rec, _ := strings.Cut(found, "|")
			r, err := decode(instrumentation.ID(id), rec)
			if err != nil {
				return nil, err
			}
			if r.Live(now) && !r.StaleFrom.IsZero() {
				stale = append(stale, Pending{ID: r.ID, Revision: r.Revision})
			}
		}
	}
	return stale, nil
}
