package vmapi

import (
	"bytes"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"iapi/inventory"
)

const (
	pageLimit = 1000 // VMAPI's maximum
	maxUUIDs  = 150  // in one request; about 218 fit into VMAPI's 8 KiB of request line and headers
	wanted    = "uuid,owner_uuid,alias,state,tags,server_uuid"
)

// Query says which VMs to list; what is given is combined by and. The zero Query lists every VM that VMAPI ever knew.
type Query struct {
	Owner  uuid.UUID   // Nil: any
	Host   uuid.UUID   // Nil: any
	UUIDs  []uuid.UUID // nil: any. Empty but not nil: none, so that an empty choice never becomes everything
	Active bool        // neither destroyed nor failed
}

// part is one walk over pages: a query of at most maxUUIDs uuids, in descending order.
type part struct {
	Query
	changedSince time.Time // zero: whenever
}

// parts cuts a query into walks that, one after the other, go down through the uuids below the marker.
func (q Query) parts(marker uuid.UUID) []part {
	if q.UUIDs == nil {
		return []part{{Query: q}}
	}
	ids := make([]uuid.UUID, 0, len(q.UUIDs))
	for _, id := range q.UUIDs {
		if id != uuid.Nil && (marker == uuid.Nil || less(id, marker)) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return bytes.Compare(b[:], a[:]) })
	ids = slices.Compact(ids)
	var parts []part
	for chunk := range slices.Chunk(ids, maxUUIDs) {
		p := part{Query: q}
		p.UUIDs = chunk
		parts = append(parts, p)
	}
	return parts
}

// values builds the request's parameters: each at most once, nothing but lower-case uuids, fixed words and numbers,
// no sort (with one, a marker silently drops VMs).
func (p part) values(marker uuid.UUID) url.Values {
	v := url.Values{"fields": {wanted}, "limit": {strconv.Itoa(pageLimit)}}
	if p.Owner != uuid.Nil {
		v.Set("owner_uuid", p.Owner.String())
	}
	if p.Host != uuid.Nil {
		v.Set("server_uuid", p.Host.String())
	}
	if p.Active {
		v.Set("state", "active")
	}
	if len(p.UUIDs) > 0 {
		texts := make([]string, len(p.UUIDs))
		for i, id := range p.UUIDs {
			texts[i] = id.String()
		}
		v.Set("uuids", strings.Join(texts, ","))
	}
	if !p.changedSince.IsZero() {
		v.Set("query", "(_mtime>="+strconv.FormatInt(max(p.changedSince.UnixMilli(), 0), 10)+")")
	}
	if marker != uuid.Nil {
		v.Set("marker", `{"uuid":"`+marker.String()+`"}`)
	}
	return v
}

// asked reports whether a row is one that was asked for. A server that ignores a filter must not widen anything.
func (p part) asked(vm *inventory.VM) bool {
	if (p.Owner != uuid.Nil && vm.Owner != p.Owner) || (p.Host != uuid.Nil && vm.Host != p.Host) {
		return false
	}
	if p.Active && (vm.State == "destroyed" || vm.State == "failed") {
		return false
	}
	if p.UUIDs == nil {
		return true
	}
	_, found := slices.BinarySearchFunc(p.UUIDs, vm.UUID, func(a, b uuid.UUID) int { return bytes.Compare(b[:], a[:]) })
	return found
}

func less(a, b uuid.UUID) bool { return bytes.Compare(a[:], b[:]) < 0 }
