package placement

import (
	"github.com/google/uuid"

	"iapi/inventory"
)

// dictionary gives each term that some scope names a small number, and finds the numbers of the terms that a VM or a
// host passes. Numbers of terms that no scope names any more are used again.
type dictionary struct {
	ids     map[term]uint32 // isVM, isOwner, isHost, isAlias, hostKnown
	tags    map[string]*keyTerms
	traits  map[string]*keyTerms
	names   []term   // by number
	users   []uint32 // by number: how often scopes name it
	free    []uint32
	aliases int // how many alias terms there are
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
		if t.kind == isAlias {
			d.aliases++
		}
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
		if t.kind == isAlias {
			d.aliases--
		}
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
	add := func(t term) {
		if n := d.ids[t]; n != 0 {
			dst = append(dst, n)
		}
	}
	if p.hostID != uuid.Nil {
		add(term{kind: isHost, id: p.hostID})
	}
	if p.host != nil {
		add(term{kind: hostKnown})
		dst = passedTags(dst, d.traits, p.host.Traits)
	}
	if vm := p.vm; vm != nil {
		dst = d.passedVM(dst, vm)
	}
	return dst
}

func (d *dictionary) passedVM(dst []uint32, vm *inventory.VM) []uint32 {
	for _, t := range [...]term{{kind: isVM, id: vm.UUID}, {kind: isOwner, id: vm.Owner}} {
		if n := d.ids[t]; n != 0 {
			dst = append(dst, n)
		}
	}
	if d.aliases > 0 && vm.Alias != "" {
		if n := d.ids[term{kind: isAlias, value: vm.Alias}]; n != 0 {
			dst = append(dst, n)
		}
	}
	return passedTags(dst, d.tags, vm.Tags)
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
