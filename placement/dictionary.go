package placement

import (
	"github.com/google/uuid"

	"iapi/inventory"
)

// dictionary gives each term that some scope names a small number, and finds the numbers of the terms that a VM or a
// host passes. Numbers of terms that no scope names any more are used again.
type dictionary struct {
	ids    map[term]uint32 // isVM, isOwner, isHost, isAlias, hostKnown
	tags   map[string]*keyTerms
	traits map[string]*keyTerms
	names  []term   // by number
	users  []uint32 // by number: how often scopes name it
	free   []uint32
	named  [hostKnown + 1]int // by kind: how many of the terms in ids are of it
}

// keyTerms holds the terms about one key. Number 0 is never given, so that it means none.
type keyTerms struct {
	has    uint32
	values map[string]uint32
}

func newDictionary() *dictionary {
	return &dictionary{
		ids: map[term]uint32{}, tags: map[string]*keyTerms{}, traits: map[string]*keyTerms{},
		names: make([]term, 1), users: make([]uint32, 1),
	}
}

func (d *dictionary) keys(k kind) map[string]*keyTerms {
	switch k {
	case hasTag, isTag:
		return d.tags
	case hasTrait, isTrait:
		return d.traits
	}
	return nil
}

// take returns the number of a term, which one more user holds from now on.
func (d *dictionary) take(t term) uint32 {
	n := d.find(t)
	if n == 0 {
		n = d.give(t)
	}
	d.users[n]++
	return n
}

func (d *dictionary) find(t term) uint32 {
	keys := d.keys(t.kind)
	if keys == nil {
		return d.ids[t]
	}
	switch kt := keys[t.key]; {
	case kt == nil:
		return 0
	case t.kind == hasTag || t.kind == hasTrait:
		return kt.has
	default:
		return kt.values[t.value]
	}
}

func (d *dictionary) give(t term) uint32 {
	var n uint32
	if last := len(d.free) - 1; last >= 0 {
		n, d.free = d.free[last], d.free[:last]
		d.names[n] = t
	} else {
		n = uint32(len(d.names))
		d.names = append(d.names, t)
		d.users = append(d.users, 0)
	}
	keys := d.keys(t.kind)
	if keys == nil {
		d.ids[t] = n
		d.named[t.kind]++
		return n
	}
	kt := keys[t.key]
	if kt == nil {
		kt = &keyTerms{values: map[string]uint32{}}
		keys[t.key] = kt
	}
	if t.kind == hasTag || t.kind == hasTrait {
		kt.has = n
	} else {
		kt.values[t.value] = n
	}
	return n
}

// drop gives back what take returned.
func (d *dictionary) drop(n uint32) {
	if d.users[n]--; d.users[n] > 0 {
		return
	}
	t := d.names[n]
	d.names[n] = term{}
	d.free = append(d.free, n)
	keys := d.keys(t.kind)
	if keys == nil {
		delete(d.ids, t)
		d.named[t.kind]--
		return
	}
	kt := keys[t.key]
	if t.kind == hasTag || t.kind == hasTrait {
		kt.has = 0
	} else {
		delete(kt.values, t.value)
	}
	if kt.has == 0 && len(kt.values) == 0 {
		delete(keys, t.key)
	}
}

// passed appends the numbers of the named terms that a place passes.
func (d *dictionary) passed(dst []uint32, p place) []uint32 {
	if p.hostID != uuid.Nil {
		dst = d.passedID(dst, isHost, p.hostID)
	}
	if p.host != nil {
		dst = d.passedID(dst, hostKnown, uuid.Nil)
		dst = passedTags(dst, d.traits, p.host.Traits)
	}
	if vm := p.vm; vm != nil {
		dst = d.passedVM(dst, vm)
	}
	return dst
}

func (d *dictionary) passedVM(dst []uint32, vm *inventory.VM) []uint32 {
	dst = d.passedID(dst, isVM, vm.UUID)
	dst = d.passedID(dst, isOwner, vm.Owner)
	if d.named[isAlias] > 0 && vm.Alias != "" {
		if n := d.ids[term{kind: isAlias, value: vm.Alias}]; n != 0 {
			dst = append(dst, n)
		}
	}
	return passedTags(dst, d.tags, vm.Tags)
}

// passedID looks for a term only where some scope names one of its kind: most clouds name no VM, and a look-up costs more
// than all else that is asked about an identifier.
func (d *dictionary) passedID(dst []uint32, k kind, id uuid.UUID) []uint32 {
	if d.named[k] > 0 {
		if n := d.ids[term{kind: k, id: id}]; n != 0 {
			dst = append(dst, n)
		}
	}
	return dst
}

func passedTags(dst []uint32, keys map[string]*keyTerms, tags map[string]string) []uint32 {
	if len(keys) == 0 {
		return dst
	}
	for k, v := range tags {
		kt := keys[k]
		if kt == nil {
			continue
		}
		if kt.has != 0 {
			dst = append(dst, kt.has)
		}
		if n := kt.values[v]; n != 0 {
			dst = append(dst, n)
		}
	}
	return dst
}
