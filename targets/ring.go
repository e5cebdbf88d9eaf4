package targets

import "iapi/measure"

// ring is a bounded first-in first-out of points in memory.
type ring struct {
	points []measure.Point // circular
	head   int
	n      int
	bytes  int
}

func (r *ring) grow() {
	if r.n < len(r.points) {
		return
	}
	bigger := make([]measure.Point, max(64, 2*len(r.points)))
	for i := range r.n {
		bigger[i] = r.points[(r.head+i)%len(r.points)]
	}
	r.points, r.head = bigger, 0
}

func (r *ring) push(p measure.Point) {
	r.grow()
	r.points[(r.head+r.n)%len(r.points)] = p
	r.n++
	r.bytes += size(p)
}

func (r *ring) pushFront(p measure.Point) {
	r.grow()
	r.head = (r.head - 1 + len(r.points)) % len(r.points)
	r.points[r.head] = p
	r.n++
	r.bytes += size(p)
}

func (r *ring) pop() measure.Point {
	p := r.points[r.head]
	r.points[r.head] = measure.Point{}
	r.head = (r.head + 1) % len(r.points)
	r.n--
	r.bytes -= size(p)
	if r.n == 0 && len(r.points) > 1024 {
		r.points, r.head = nil, 0 // a burst is over
	}
	return p
}

// popBatch takes up to n points of up to the given size together, at least one.
func (r *ring) popBatch(n, bytes int) []measure.Point {
	if r.n == 0 {
		return nil
	}
	batch := make([]measure.Point, 0, min(n, r.n))
	for total := 0; r.n > 0 && len(batch) < n; {
		if total += size(r.points[r.head]); total > bytes && len(batch) > 0 {
			break
		}
		batch = append(batch, r.pop())
	}
	return batch
}

// size estimates what a point takes in memory, in bytes.
func size(p measure.Point) int {
	n := 240 + len(p.Instrumentation) + len(p.Metric)
	for _, f := range p.Fields {
		n += 32 + len(f.Name) + len(f.Value)
	}
	if d := p.Distribution; d != nil {
		n += 64 + len(d.Field) + len(d.Unit) + 24*len(d.Buckets)
	}
	return n
}
