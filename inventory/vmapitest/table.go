package vmapitest

import (
	"bytes"
	"slices"

	"github.com/google/uuid"
)

// ordered holds records by ascending uuid. Additions gather and are merged when the order is next asked for, so that
// loading many costs one sort. The caller locks.
type ordered struct {
	rows, added []*record
}

func compareIDs(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) }

func (o *ordered) add(r *record) { o.added = append(o.added, r) }

// settled returns all rows; the slice is valid until the next change.
func (o *ordered) settled() []*record {
	if len(o.added) == 0 {
		return o.rows
	}
	if len(o.added) == 1 {
		at, _ := o.find(o.rows, o.added[0].id)
		o.rows = slices.Insert(o.rows, at, o.added[0])
	} else {
		o.rows = append(o.rows, o.added...)
		slices.SortFunc(o.rows, func(a, b *record) int { return compareIDs(a.id, b.id) })
	}
	o.added = nil
	return o.rows
}

func (o *ordered) find(rows []*record, id uuid.UUID) (int, bool) {
	return slices.BinarySearchFunc(rows, id, func(r *record, id uuid.UUID) int { return compareIDs(r.id, id) })
}

func (o *ordered) replace(r *record) {
	rows := o.settled()
	if at, ok := o.find(rows, r.id); ok {
		rows[at] = r
	}
}

func (o *ordered) remove(id uuid.UUID) {
	rows := o.settled()
	if at, ok := o.find(rows, id); ok {
		o.rows = slices.Delete(rows, at, at+1)
	}
}

// table is every VM, found by uuid, by owner and by host. The caller locks.
type table struct {
	byID    map[uuid.UUID]*record
	all     ordered
	byOwner map[uuid.UUID]*ordered
	byHost  map[uuid.UUID]*ordered
	tags    map[string]*tagSet
	shapes  map[shape]*shape
	counts  map[string]*counted
}

// counted is how many rows a filter's SQL stage matches, kept up to date from write to write: a walk over a million
// VMs asks for it a thousand times.
type counted struct {
	plan *filter
	n    int
}

const (
	maxCounts = 64
	maxShared = 1 << 20
)

func newTable() *table {
	return &table{
		byID: make(map[uuid.UUID]*record), byOwner: make(map[uuid.UUID]*ordered), byHost: make(map[uuid.UUID]*ordered),
		tags: make(map[string]*tagSet), shapes: make(map[shape]*shape), counts: make(map[string]*counted),
	}
}

// put adds a record or replaces the one with its uuid, which it returns.
func (t *table) put(r *record) (old *record) {
	old = t.byID[r.id]
	t.byID[r.id] = r
	t.recount(old, r)
	if old == nil {
		t.all.add(r)
		addTo(t.byOwner, r.owner, r)
		addTo(t.byHost, r.host, r)
		return nil
	}
	t.all.replace(r)
	moveIn(t.byOwner, old.owner, r.owner, r)
	moveIn(t.byHost, old.host, r.host, r)
	return old
}

func (t *table) remove(id uuid.UUID) bool {
	r := t.byID[id]
	if r == nil {
		return false
	}
	delete(t.byID, id)
	t.recount(r, nil)
	t.all.remove(id)
	t.byOwner[r.owner].remove(id)
	t.byHost[r.host].remove(id)
	return true
}

func addTo(index map[uuid.UUID]*ordered, key uuid.UUID, r *record) {
	o := index[key]
	if o == nil {
		o = new(ordered)
		index[key] = o
	}
	o.add(r)
}

func moveIn(index map[uuid.UUID]*ordered, from, to uuid.UUID, r *record) {
	if from == to {
		index[to].replace(r)
		return
	}
	index[from].remove(r.id)
	addTo(index, to, r)
}

func (t *table) recount(old, new *record) {
	for _, c := range t.counts {
		if old != nil && c.plan.match(old, true) {
			c.n--
		}
		if new != nil && c.plan.match(new, true) {
			c.n++
		}
	}
}

// count is the number of rows that a plan matches; key is the text of its filter.
func (t *table) count(key string, plan *filter) int {
	if c := t.counts[key]; c != nil {
		return c.n
	}
	n := 0
	for _, r := range t.candidates(plan) {
		if plan.match(r, true) {
			n++
		}
	}
	if len(t.counts) >= maxCounts {
		clear(t.counts)
	}
	t.counts[key] = &counted{plan: plan, n: n}
	return n
}

// candidates are rows, by ascending uuid, among which all that a plan matches are.
func (t *table) candidates(plan *filter) []*record {
	leaves := []*filter{plan}
	if plan.op == opAnd {
		leaves = plan.kids
	}
	for _, f := range leaves {
		if ids := f.uuids(); ids != nil {
			rows := make([]*record, 0, len(ids))
			for _, id := range ids {
				if r := t.byID[id]; r != nil {
					rows = append(rows, r)
				}
			}
			slices.SortFunc(rows, func(a, b *record) int { return compareIDs(a.id, b.id) })
			return slices.Compact(rows)
		}
	}
	for attr, index := range map[string]map[uuid.UUID]*ordered{"owner_uuid": t.byOwner, "server_uuid": t.byHost} {
		for _, f := range leaves {
			if f.op == opEqual && f.attr == attr && f.isID {
				if o := index[f.id]; o != nil {
					return o.settled()
				}
				return nil
			}
		}
	}
	return t.all.settled()
}

func (t *table) sharedTags(column string) *tagSet {
	if set := t.tags[column]; set != nil {
		return set
	}
	if len(t.tags) >= maxShared {
		clear(t.tags)
	}
	set := newTagSet(column)
	t.tags[column] = set
	return set
}

func (t *table) sharedShape(s shape) *shape {
	if shared := t.shapes[s]; shared != nil {
		return shared
	}
	if len(t.shapes) >= maxShared {
		clear(t.shapes)
	}
	t.shapes[s] = &s
	return &s
}
