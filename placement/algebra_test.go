package placement

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/inventory"
)

// TestAUnionHasWhatAnyArgHas has sets of every make: rare and frequent numbers, runs, and containers that are full.
func TestAUnionHasWhatAnyArgHas(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 1))
	for range 100 {
		const numbers = 200_000
		want := make([]bool, numbers)
		var args []*roaring.Bitmap
		for range 1 + r.IntN(8) {
			b := roaring.New()
			put := func(n uint32) {
				b.Add(n)
				want[n] = true
			}
			switch from := uint32(r.IntN(numbers)); r.IntN(4) {
			case 0: // rare
				for range r.IntN(20) {
					put(uint32(r.IntN(numbers)))
				}
			case 1: // some in a hundred
				for range r.IntN(9_000) {
					put(uint32(r.IntN(numbers)))
				}
			case 2: // frequent in one part
				for range 8_000 {
					put(min(numbers-1, from+uint32(r.IntN(10_000))))
				}
			case 3:
				for n := from; n < min(numbers, from+90_000); n++ {
					put(n)
				}
				b.RunOptimize()
			}
			args = append(args, b)
		}
		before := make([]*roaring.Bitmap, len(args))
		for i := range args {
			before[i] = args[i].Clone()
		}
		got := union(args)
		is := make([]bool, numbers)
		for it := got.Iterator(); it.HasNext(); {
			is[it.Next()] = true
		}
		require.True(t, slices.Equal(want, is))
		for i := range args {
			require.True(t, before[i].Equals(args[i]), "the args are the index's")
		}
		got.Add(numbers + 5) // and the union is the caller's
		require.True(t, roaring.AndNot(got, roaring.BitmapOf(numbers+5)).Equals(union(args)))
	}
}

// TestCountingSeesWhatIsNamedTwice has scopes whose parts do not exclude one another although they look alike.
func TestCountingSeesWhatIsNamedTwice(t *testing.T) {
	x := NewInventory()
	owner, host := numbered(1, 1), numbered(2, 1)
	for i := range 9 {
		x.PutVM(inventory.VM{UUID: numbered(3, i), Owner: owner, Host: host, State: "running", Tags: map[string]string{"a": []string{"1", "2", "3"}[i%3], "b": "1"}})
	}
	is := func(k string, v ...string) instrumentation.Scope {
		return instrumentation.Scope{VMTag: &instrumentation.TagMatch{Key: k, In: v}}
	}
	either := func(s ...instrumentation.Scope) instrumentation.Scope { return instrumentation.Scope{Or: s} }
	for _, c := range []struct {
		scope instrumentation.Scope
		want  int
	}{
		{is("a", "1", "2"), 6},
		{is("a", "1", "1"), 3},
		{either(is("a", "1"), is("a", "1", "3")), 6},
		{either(is("a", "1"), is("b", "1")), 9},
		{either(is("a", "1"), is("a")), 9},
		{either(is("a", "1"), instrumentation.Scope{Not: new(is("a", "1"))}), 9},
		{instrumentation.Scope{VMs: []uuid.UUID{numbered(3, 1), numbered(3, 2), numbered(3, 1)}}, 2},
	} {
		require.Equal(t, c.want, x.Count(c.scope, uuid.Nil), "%+v", c.scope)
		require.Len(t, x.Evaluate(c.scope, uuid.Nil), c.want)
	}
}
