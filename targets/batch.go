package targets

import (
	"slices"

	"iapi/measure"
)

// batch is what is being sent: parts that stand or fall alone.
type batch struct {
	parts []part
	taken bool // it is the spool's oldest record, and is to be acknowledged there
	begun bool // something of it was dealt with already
}

func (b *batch) items() []item {
	var all []item
	for _, p := range b.parts {
		all = append(all, p.items...)
	}
	return all
}

// part is sent under one key for as long as it exists.
type part struct {
	key   string
	items []item
}

func pointsOf(items []item) []measure.Point {
	points := make([]measure.Point, 0, len(items))
	for _, it := range items {
		if it.news == nil {
			points = append(points, it.point)
		}
	}
	return points
}

func countPoints(items []item) (n int64) {
	for _, it := range items {
		if it.news == nil {
			n++
		}
	}
	return n
}

// batchOf makes parts by stream, in the order in which the streams first come.
func batchOf(key string, items []item) *batch {
	if len(items) == 0 {
		return nil
	}
	b := &batch{}
	if !slices.ContainsFunc(items, func(it item) bool { return it.stream != items[0].stream }) {
		b.parts = []part{{key: key, items: items}}
		return b
	}
	at := map[string]int{}
	for _, it := range items {
		i, ok := at[it.stream]
		if !ok {
			i = len(b.parts)
			at[it.stream] = i
			b.parts = append(b.parts, part{key: key})
		}
		b.parts[i].items = append(b.parts[i].items, it)
	}
	return b
}
