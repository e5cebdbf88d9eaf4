package placement

import (
	"math"
	"slices"
	"sync/atomic"

	"iapi/instrumentation"
)

// index finds, among many scopes, those that a place passes. Each scope is filed under the rarest set of terms one of
// which a place must pass, with the rest of the scope in the entry itself where it is a short conjunction: a place then
// costs little more than the matches it has. Scopes without such terms (complements only) are tried for every place.
//
// How rare a term is, is learnt from the places that are looked up: see rate and refile.
type index struct {
	dict   *dictionary
	posts  [][]entry // by term
	always []entry   // scopes without a required term
	nots   []not     // those of them that are the complement of one term
	slots  []slot
	free   []uint32
	recs   []*instrumentation.Instrumentation // by slot

	seen  []atomic.Uint32 // by term: how many of the places that were counted passed it
	since []uint32        // by term: how many had been counted when it was named first
	count atomic.Uint32   // places counted
	next  uint32          // the count at which the scopes are filed anew
}

type slot struct {
	prog    node
	anchors []uint32
	always  bool
}

// entry is a scope in the list of one of its anchors.
type entry struct {
	rec  *instrumentation.Instrumentation
	slot uint32
	n    uint8           // how many of lits hold; tooBig: evaluate the slot's program
	many bool            // it is filed under several terms, so it may come up twice
	lits [inlined]uint32 // what must hold beside the anchor: term number << 1 | complement
}

// not is a scope that holds wherever its term does not.
type not struct {
	rec        *instrumentation.Instrumentation
	slot, term uint32
}

const (
	inlined = 3
	tooBig  = 255
)

// node is an expr over term numbers.
type node struct {
	op   op
	lit  uint32 // term number << 1 | complement
	args []node
}

// firstRefile is how many places are counted before the scopes are filed anew for the first time; then each time that four times as many were.
const firstRefile = 1024

func newIndex() *index {
	return &index{dict: newDictionary(), posts: make([][]entry, 1), seen: make([]atomic.Uint32, 1), since: make([]uint32, 1), next: firstRefile}
}

// scratch is the room that one look-up needs. It belongs to one goroutine at a time.
type scratch struct {
	mark  []uint32 // by term: equal to now if the place passes it
	found []uint32 // by slot: equal to now if it is in out already
	group []int32  // by slot: where a ForHost keeps its places; see Set
	now   uint32
	terms []uint32
	out   []uint32
}

func (s *scratch) begin(x *index) {
	s.mark, s.found, s.group = grown(s.mark, len(x.posts)), grown(s.found, len(x.slots)), grown(s.group, len(x.slots))
	if s.now == math.MaxUint32 {
		clear(s.mark)
		clear(s.found)
		s.now = 0
	}
	s.now++
	s.terms, s.out = s.terms[:0], s.out[:0]
}

func grown[T any](s []T, n int) []T {
	if len(s) >= n {
		return s
	}
	return append(s, make([]T, n-len(s)+n/4)...)
}

// lookup appends to dst the instrumentations whose scopes the place passes, in no order, and leaves their slots in s.out,
// in the same order.
func (x *index) lookup(dst []*instrumentation.Instrumentation, s *scratch, p place) []*instrumentation.Instrumentation {
	s.begin(x)
	s.terms = x.dict.passed(s.terms, p)
	for _, t := range s.terms {
		s.mark[t] = s.now
	}
	x.observe(s.terms)
	dst = s.nots(dst, x.nots)
	dst = s.scan(dst, x.always, x.slots)
	for _, t := range s.terms {
		dst = s.scan(dst, x.posts[t], x.slots)
	}
	return dst
}

// scan adds the scopes of a list that hold.
func (s *scratch) scan(dst []*instrumentation.Instrumentation, list []entry, slots []slot) []*instrumentation.Instrumentation {
	mark, now, out := s.mark, s.now, s.out
next:
	for i := range list {
		e := &list[i]
		if e.n == tooBig {
			if !slots[e.slot].prog.holds(s) {
				continue
			}
		} else {
			for _, l := range e.lits[:e.n] {
				if (mark[l>>1] == now) == (l&1 == 1) {
					continue next
				}
			}
		}
		if e.many {
			if s.found[e.slot] == now {
				continue
			}
			s.found[e.slot] = now
		}
		dst, out = append(dst, e.rec), append(out, e.slot)
	}
	s.out = out
	return dst
}

// nots adds the scopes whose one term the place does not pass. Nearly all hold, so each is added first and kept or not:
// the processor has nothing to guess.
func (s *scratch) nots(dst []*instrumentation.Instrumentation, list []not) []*instrumentation.Instrumentation {
	mark, now, n, m := s.mark, s.now, 0, len(list)
	dst, s.out = slices.Grow(dst, m), slices.Grow(s.out, m)
	recs, out := dst[len(dst):len(dst)+m], s.out[len(s.out):len(s.out)+m]
	for i := range list {
		recs[n], out[n] = list[i].rec, list[i].slot
		if mark[list[i].term] != now {
			n++
		}
	}
	s.out = s.out[:len(s.out)+n]
	return dst[:len(dst)+n]
}

func (n *node) holds(s *scratch) bool {
	if n.op == literal {
		return (s.mark[n.lit>>1] == s.now) != (n.lit&1 == 1)
	}
	for i := range n.args {
		if n.args[i].holds(s) == (n.op == or) {
			return n.op == or
		}
	}
	return n.op == and
}

// observe counts one place in eight, and all until the scopes were filed anew once.
func (x *index) observe(terms []uint32) {
	n := x.count.Add(1)
	if n > firstRefile && n%8 != 0 {
		return
	}
	weight := uint32(1)
	if n > firstRefile {
		weight = 8
	}
	for _, t := range terms {
		x.seen[t].Add(weight)
	}
}

// add files a scope and returns its slot.
func (x *index) add(e *expr, rec *instrumentation.Instrumentation) uint32 {
	var id uint32
	if last := len(x.free) - 1; last >= 0 {
		id, x.free = x.free[last], x.free[:last]
	} else {
		id = uint32(len(x.slots))
		x.slots = append(x.slots, slot{})
		x.recs = append(x.recs, nil)
	}
	x.slots[id] = slot{prog: x.number(e)}
	x.recs[id] = rec
	x.file(id)
	return id
}

// number takes the terms of an expr.
func (x *index) number(e *expr) node {
	if e.op != literal {
		n := node{op: e.op, args: make([]node, len(e.args))}
		for i := range e.args {
			n.args[i] = x.number(&e.args[i])
		}
		return n
	}
	t := x.dict.take(e.term)
	if missing := len(x.dict.names) - len(x.posts); missing > 0 {
		x.posts = append(x.posts, make([][]entry, missing)...)
		x.since = append(x.since, make([]uint32, missing)...)
		if len(x.posts) > len(x.seen) {
			seen := make([]atomic.Uint32, len(x.posts)*5/4+64)
			for i := range x.seen {
				seen[i].Store(x.seen[i].Load())
			}
			x.seen = seen
		}
	}
	if x.dict.users[t] == 1 {
		x.seen[t].Store(0)
		x.since[t] = x.count.Load()
	}
	lit := t << 1
	if e.not {
		lit |= 1
	}
	return node{lit: lit}
}

func (x *index) remove(id uint32) {
	x.unfile(id)
	x.release(&x.slots[id].prog)
	x.slots[id], x.recs[id] = slot{}, nil
	x.free = append(x.free, id)
}

func (x *index) release(n *node) {
	if n.op == literal {
		x.dict.drop(n.lit >> 1)
	}
	for i := range n.args {
		x.release(&n.args[i])
	}
}

// file puts a scope into the lists of its anchors.
func (x *index) file(id uint32) {
	s := &x.slots[id]
	anchors, _ := x.anchors(&s.prog)
	if anchors == nil {
		s.anchors, s.always = nil, true
		if s.prog.op == literal {
			x.nots = append(x.nots, not{x.recs[id], id, s.prog.lit >> 1})
			return
		}
		e := inline(&s.prog, 0)
		e.rec, e.slot = x.recs[id], id
		x.always = append(x.always, e)
		return
	}
	slices.Sort(anchors)
	s.anchors = slices.Compact(anchors)
	for _, t := range s.anchors {
		e := inline(&s.prog, t)
		e.rec, e.slot, e.many = x.recs[id], id, len(s.anchors) > 1
		x.posts[t] = append(x.posts[t], e)
	}
}

func (x *index) unfile(id uint32) {
	s := &x.slots[id]
	switch {
	case s.always && s.prog.op == literal:
		x.nots = without(x.nots, func(n *not) bool { return n.slot == id })
	case s.always:
		x.always = without(x.always, func(e *entry) bool { return e.slot == id })
	}
	for _, t := range s.anchors {
		x.posts[t] = without(x.posts[t], func(e *entry) bool { return e.slot == id })
	}
	s.anchors, s.always = nil, false
}

// without takes what is one slot's out of a list; the last takes its place. A list that has become much too long is cut.
func without[T any](list []T, is func(*T) bool) []T {
	last := len(list) - 1
	for i := range list {
		if is(&list[i]) {
			list[i] = list[last]
			break
		}
	}
	list = list[:last]
	switch {
	case last == 0:
		return nil
	case cap(list) > 64 && last < cap(list)/4:
		return slices.Clone(list)
	}
	return list
}

// refile files every scope anew, by what has been learnt of the terms since.
func (x *index) refile() {
	for t := range x.posts {
		x.posts[t] = x.posts[t][:0]
	}
	x.always, x.nots = x.always[:0], x.nots[:0]
	for id := range x.slots {
		if x.recs[id] != nil {
			x.file(uint32(id))
		}
	}
	if n := x.count.Load(); n < 1<<30 {
		x.next = max(n*4, firstRefile)
		return
	}
	// Long before the counts overflow all are halved, which also lets what was seen last weigh more.
	for t := range x.seen {
		x.seen[t].Store(x.seen[t].Load() / 2)
	}
	for t := range x.since {
		x.since[t] /= 2
	}
	x.count.Store(x.count.Load() / 2)
	x.next = 1 << 30
}

// anchors returns the cheapest set of terms one of which must be passed, nil if there is none, and what it costs: the
// share of places that pass it, times the effort of trying the rest.
func (x *index) anchors(n *node) ([]uint32, float64) {
	switch n.op {
	case literal:
		if n.lit&1 == 1 {
			return nil, 0
		}
		return []uint32{n.lit >> 1}, x.rate(n.lit >> 1)
	case and:
		var best []uint32
		cost := math.Inf(1)
		for i := range n.args {
			if a, c := x.anchors(&n.args[i]); a != nil && c*n.effort(i) < cost {
				best, cost = a, c*n.effort(i)
			}
		}
		return best, cost
	}
	all, sum := []uint32{}, 0.0
	for i := range n.args {
		a, c := x.anchors(&n.args[i])
		if a == nil {
			return nil, 0
		}
		all, sum = append(all, a...), sum+c
	}
	return all, sum
}

// effort is about how many times dearer it is to try the rest of an and when it is filed under arg i than to try an
// entry that has the rest in itself.
func (n *node) effort(i int) float64 {
	terms, plain := 0, true
	for j := range n.args {
		if j != i {
			terms += n.args[j].size()
			plain = plain && n.args[j].op == literal
		}
	}
	if plain && terms <= inlined {
		return 1
	}
	return 4 + float64(terms)
}

// size counts the literals.
func (n *node) size() int {
	if n.op == literal {
		return 1
	}
	terms := 0
	for i := range n.args {
		terms += n.args[i].size()
	}
	return terms
}

// guess is the share of places that pass a term of each kind, before anything is known. The order is what matters.
var guess = [...]float64{
	isVM: 1e-6, isAlias: 1e-5, isOwner: 1e-4, isHost: 2e-4, isTag: 0.01, isTrait: 0.05, hasTag: 0.2, hasTrait: 0.5, hostKnown: 1,
}

// rate estimates the share of places that pass a term: what was counted since it was named, and the guess, which weighs
// as much as guessWeight places.
func (x *index) rate(t uint32) float64 {
	const guessWeight = 64
	counted := float64(x.count.Load() - x.since[t])
	return (float64(x.seen[t].Load()) + guess[x.dict.names[t].kind]*guessWeight) / (counted + guessWeight)
}

// inline makes the entry of a scope in the list of one of its anchors; anchor 0 is none.
func inline(n *node, anchor uint32) entry {
	args := []node{*n}
	if n.op == and {
		args = n.args
	}
	var e entry
	for i := range args {
		switch a := &args[i]; a.op {
		case literal:
			if anchor != 0 && a.lit == anchor<<1 {
				continue
			}
			if e.n == inlined {
				return entry{n: tooBig}
			}
			e.lits[e.n] = a.lit
			e.n++
		case or:
			// An or of which the anchor is an arg holds already.
			if anchor == 0 || !slices.ContainsFunc(a.args, func(o node) bool { return o.op == literal && o.lit == anchor<<1 }) {
				return entry{n: tooBig}
			}
		default:
			return entry{n: tooBig}
		}
	}
	return e
}
