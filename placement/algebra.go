package placement

import (
	"cmp"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
)

// sets is the algebra of the numbers that pass scopes: all of them, and those that pass a term. What lookup returns may
// be a part of an index, so nothing here changes it.
type sets struct {
	all    *roaring.Bitmap
	lookup func(term) *roaring.Bitmap
}

var empty = roaring.New()

// eval returns the numbers that pass. The bitmap may be one of the index: the caller does not change it.
func (x sets) eval(e *expr) *roaring.Bitmap {
	switch {
	case e.op == literal && e.not:
		return roaring.AndNot(x.all, x.lookup(e.term))
	case e.op == literal:
		return x.lookup(e.term)
	case e.op == or:
		args := make([]*roaring.Bitmap, len(e.args))
		for i := range e.args {
			args[i] = x.eval(&e.args[i])
		}
		return union(args)
	}
	with, without := x.split(e)
	out := with[0]
	for i, b := range with[1:] {
		if i == 0 {
			out = roaring.And(out, b)
		} else {
			out.And(b)
		}
	}
	for _, b := range without {
		out = roaring.AndNot(out, b)
	}
	return out
}

// count says how many numbers pass. The last step of an and only counts, and what excludes one another only adds up: most
// scopes are counted without making any set.
func (x sets) count(e *expr) uint64 {
	switch {
	case e.op == literal && e.not:
		return x.all.GetCardinality() - x.lookup(e.term).GetCardinality()
	case e.op == literal:
		return x.lookup(e.term).GetCardinality()
	case e.op == or:
		if !exclusive(e.args) {
			return x.eval(e).GetCardinality()
		}
		n := uint64(0)
		for i := range e.args {
			n += x.lookup(e.args[i].term).GetCardinality()
		}
		return n
	}
	with, without := x.split(e)
	out := with[0]
	for _, b := range with[1:max(1, len(with)-1)] {
		out = roaring.And(out, b)
	}
	last := with[len(with)-1]
	switch {
	case len(without) == 0 && len(with) == 1:
		return out.GetCardinality()
	case len(without) == 0:
		return out.AndCardinality(last)
	case len(with) > 1:
		out = roaring.And(out, last)
	}
	for _, b := range without[1:] {
		out = roaring.AndNot(out, b)
	}
	return out.GetCardinality() - out.AndCardinality(without[0])
}

// split evaluates the args of an and: those to be in, the smallest first and at least one, and those not to be in.
func (x sets) split(e *expr) (with, without []*roaring.Bitmap) {
	for i := range e.args {
		if a := &e.args[i]; a.op == literal && a.not {
			without = append(without, x.lookup(a.term))
		} else {
			with = append(with, x.eval(a))
		}
	}
	if len(with) == 0 {
		return []*roaring.Bitmap{x.all}, without
	}
	slices.SortFunc(with, func(a, b *roaring.Bitmap) int { return cmp.Compare(a.GetCardinality(), b.GetCardinality()) })
	return with, without
}

// exclusive reports whether no place can pass two of the args: they ask for different values of the same thing.
func exclusive(args []expr) bool {
	const most = 32 // above which comparing all with all takes longer than it saves
	if len(args) > most {
		return false
	}
	for i := range args {
		a := &args[i]
		if a.op != literal || a.not || a.term.kind == hasTag || a.term.kind == hasTrait || a.term.kind == hostKnown {
			return false
		}
		for j := range args[:i] {
			if b := &args[j].term; b.kind != a.term.kind || b.key != a.term.key || *b == a.term {
				return false
			}
		}
	}
	return true
}

// fewInAll is up to how many numbers a union is made by Roaring's own merging.
const fewInAll = 2048

// union makes one set of many. The union of many middling sets, such as those of some values of a tag, is made in a plain
// field of bits, into which each is written as it is; Roaring's own would make several sets on the way.
func union(args []*roaring.Bitmap) *roaring.Bitmap {
	var numbers, words uint64
	for _, b := range args {
		numbers += b.GetCardinality()
		words = max(words, b.DenseSize())
	}
	if numbers <= fewInAll || numbers < words {
		return roaring.FastOr(args...)
	}
	const container = 1 << 16 / 64 // words; a full last one need not be copied
	field := make([]uint64, (words+container-1)/container*container)
	var dense, sparse []*roaring.Bitmap
	for _, b := range args {
		if b.Stats().BitmapContainers > 0 {
			dense = append(dense, b)
		} else {
			sparse = append(sparse, b)
		}
	}
	if len(dense) > 0 {
		roaring.FastOr(dense...).WriteDenseTo(field) // copies containers that are bitmaps, so it comes first
	}
	for _, b := range sparse {
		b.WriteDenseTo(field) // adds the bits of containers that are lists or runs
	}
	return roaring.FromDense(field, false)
}
