package placement

import (
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
)

// space gives places dense numbers and keeps, by term, which of them pass it. A place's own uuid is not a term of it:
// the number says that.
type space struct {
	numbers map[uuid.UUID]uint32
	ids     []uuid.UUID // by number
	termsOf [][]uint32  // by number
	free    []uint32
	all     *roaring.Bitmap

	termIDs  map[term]uint32
	terms    []term     // by term number
	passing  []postings // by term number
	freeTerm []uint32
}

// postings is a set of numbers: a short list while it is small, since most values of tags are rare.
type postings struct {
	few  []uint32
	many *roaring.Bitmap
}

const fewMax = 16

func newSpace() space {
	return space{numbers: map[uuid.UUID]uint32{}, termIDs: map[term]uint32{}, all: roaring.New()}
}

// put adds a place that is not in.
func (s *space) put(id uuid.UUID, terms []term) uint32 {
	var n uint32
	if last := len(s.free) - 1; last >= 0 {
		n, s.free = s.free[last], s.free[:last]
		s.ids[n] = id
	} else {
		n = uint32(len(s.ids))
		s.ids = append(s.ids, id)
		s.termsOf = append(s.termsOf, nil)
	}
	s.numbers[id] = n
	s.all.Add(n)
	own := make([]uint32, len(terms))
	for i, t := range terms {
		own[i] = s.termID(t)
		s.passing[own[i]].add(n)
	}
	s.termsOf[n] = own
	return n
}

func (s *space) remove(id uuid.UUID) {
	n, in := s.numbers[id]
	if !in {
		return
	}
	for _, t := range s.termsOf[n] {
		p := &s.passing[t]
		if p.remove(n); p.empty() {
			delete(s.termIDs, s.terms[t])
			s.terms[t], s.passing[t] = term{}, postings{}
			s.freeTerm = append(s.freeTerm, t)
		}
	}
	delete(s.numbers, id)
	s.all.Remove(n)
	s.ids[n], s.termsOf[n] = uuid.Nil, nil
	s.free = append(s.free, n)
}

func (s *space) termID(t term) uint32 {
	if id, ok := s.termIDs[t]; ok {
		return id
	}
	var id uint32
	if last := len(s.freeTerm) - 1; last >= 0 {
		id, s.freeTerm = s.freeTerm[last], s.freeTerm[:last]
		s.terms[id] = t
	} else {
		id = uint32(len(s.terms))
		s.terms = append(s.terms, t)
		s.passing = append(s.passing, postings{})
	}
	s.termIDs[t] = id
	return id
}

// lookup returns the numbers that pass a term. The caller does not change them.
func (s *space) lookup(t term) *roaring.Bitmap {
	if t.kind == isVM {
		if n, ok := s.numbers[t.id]; ok {
			return roaring.BitmapOf(n)
		}
		return empty
	}
	if id, ok := s.termIDs[t]; ok {
		return s.passing[id].bitmap()
	}
	return empty
}

func (p *postings) add(n uint32) {
	switch {
	case p.many != nil:
		p.many.Add(n)
	case len(p.few) < fewMax:
		p.few = append(p.few, n)
	default:
		p.many = roaring.BitmapOf(p.few...)
		p.many.Add(n)
		p.few = nil
	}
}

func (p *postings) remove(n uint32) {
	if p.many != nil {
		p.many.Remove(n)
		return
	}
	if i := slices.Index(p.few, n); i >= 0 {
		p.few = slices.Delete(p.few, i, i+1)
	}
}

func (p *postings) empty() bool {
	return len(p.few) == 0 && (p.many == nil || p.many.IsEmpty())
}

func (p *postings) bitmap() *roaring.Bitmap {
	if p.many != nil {
		return p.many
	}
	return roaring.BitmapOf(p.few...)
}
