package assignment

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/uuid"

	"iapi/placement"
)

// BenchmarkDelta measures what the simplest delta between two documents would save and cost: what the canonical bytes of both
// begin and end with is left out, for which nothing is decoded. The floor is what the whole costs: its bytes are copied once.
func BenchmarkDelta(b *testing.B) {
	body := func(placed []placement.Placed) []byte {
		d, _ := Build(host, placed, digest)
		text, _ := Encode(d)
		return text
	}
	more := func(p placement.Placed) placement.Placed { // a VM that was tagged
		p.Whole, p.VMs = false, append(slices.Clone(p.VMs), placement.Zone{UUID: uuid.Max, Owner: uuid.Max})
		return p
	}
	for _, n := range []int{1, 20, 255} { // and one more is the most that a host has
		placed := randomPlaced(rand.New(rand.NewPCG(1, 1)), n+1)
		before := placed[:n]
		tagged, spread := slices.Clone(before), slices.Clone(before)
		tagged[n/2] = more(tagged[n/2])
		spread[0], spread[n-1] = more(spread[0]), more(spread[n-1])
		old := body(before)
		for _, c := range []struct {
			name  string
			after []placement.Placed
		}{
			{"created", placed}, {"deleted", slices.Delete(slices.Clone(before), n/2, n/2+1)}, {"tagged", tagged},
			{"tagged for the first and the last", spread},
		} {
			fresh := body(c.after)
			b.Run(fmt.Sprintf("%d/%s/delta", n, c.name), func(b *testing.B) {
				var changed int
				for b.Loop() {
					changed = len(differing(old, fresh))
				}
				b.ReportMetric(float64(len(fresh)), "whole_B")
				b.ReportMetric(float64(changed), "delta_B")
			})
			b.Run(fmt.Sprintf("%d/%s/floor", n, c.name), func(b *testing.B) {
				buffer := make([]byte, 0, len(fresh))
				for b.Loop() {
					buffer = append(buffer[:0], fresh...)
				}
			})
		}
	}
}

// differing returns what of b is neither at the beginning nor at the end of a.
func differing(a, b []byte) []byte {
	most := min(len(a), len(b))
	front := 0
	for front < most && a[front] == b[front] {
		front++
	}
	back := 0
	for back < most-front && a[len(a)-1-back] == b[len(b)-1-back] {
		back++
	}
	return b[front : len(b)-back]
}
