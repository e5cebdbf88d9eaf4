package measure

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// The bucketings that CA 1.0 used.
var logLinears = []LogLinear{
	{10, 3, 11, 100}, {10, 0, 11, 100}, {10, 0, 12, 100}, {2, 0, 25, 32}, {10, 7, 15, 100}, {10, 0, 7, 100}, {10, 1, 6, 1000}, {2, 9, 25, 2},
}

var linears = []Linear{{0, 1000, 10}, {0, 101, 1}, {0, 0, 1}, {5, 0, 7}}

func bucketers(t *testing.T) []Bucketer {
	var all []Bucketer
	for _, l := range logLinears {
		require.NoError(t, l.Validate(), "%+v", l)
		all = append(all, l)
	}
	for _, l := range linears {
		require.NoError(t, l.Validate(), "%+v", l)
		all = append(all, l)
	}
	return all
}

func TestLogLinearBucketsAreThoseOfCA(t *testing.T) {
	l := LogLinear{10, 3, 11, 100}
	for v, want := range map[int64][2]int64{
		1_234_567: {1_200_000, 1_299_999}, 53_950: {53_000, 53_999}, 1191: {1100, 1199}, 1100: {1100, 1199}, 1000: {1000, 1099},
		999: {0, 999}, 0: {0, 999}, -1: {math.MinInt64, -1}, 9999: {9900, 9999}, 10_000: {10_000, 10_999},
		999_999_999_999: {990_000_000_000, 999_999_999_999}, 1_000_000_000_000: {1_000_000_000_000, math.MaxInt64}, math.MaxInt64: {1_000_000_000_000, math.MaxInt64},
	} {
		low, high := l.Bucket(v)
		require.Equal(t, want, [2]int64{low, high}, v)
	}
	seen := map[int64]bool{}
	for v := int64(10_000); v < 100_000; v++ {
		low, _ := l.Bucket(v)
		seen[low] = true
	}
	require.Len(t, seen, 90, "buckets in a decade")

	for v, want := range map[int64][2]int64{0: {0, 9}, 999: {990, 999}, 1000: {1000, math.MaxInt64}} {
		low, high := Linear{0, 1000, 10}.Bucket(v)
		require.Equal(t, want, [2]int64{low, high}, v)
	}
}

// Every value is in its bucket, every value of the bucket is in the same one, and the next begins where it ends.
func TestBucketsCoverEverythingOnce(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, by := range bucketers(t) {
		check := func(v int64) {
			low, high := by.Bucket(v)
			require.True(t, low <= v && v <= high, "%+v: %d in [%d, %d]", by, v, low, high)
			for _, other := range []int64{low, high, low + int64((uint64(high)-uint64(low))/2)} {
				l, h := by.Bucket(other)
				require.Equal(t, [2]int64{low, high}, [2]int64{l, h}, "%+v: %d and %d", by, v, other)
			}
			if high < math.MaxInt64 {
				next, _ := by.Bucket(high + 1)
				require.Equal(t, high+1, next, "%+v", by)
			}
			if low > math.MinInt64 {
				_, before := by.Bucket(low - 1)
				require.Equal(t, low-1, before, "%+v", by)
			}
		}
		for _, v := range []int64{math.MinInt64, -1, 0, 1, math.MaxInt64 - 1, math.MaxInt64} {
			check(v)
		}
		for range 2000 {
			check(int64(r.Uint64() >> r.IntN(64)))
		}
		for v := int64(1); v < math.MaxInt64/10; v *= 10 {
			check(v - 1)
			check(v)
			check(v + 1)
		}
	}
}

func TestInvalidBucketsAreRefused(t *testing.T) {
	for _, l := range []LogLinear{
		{}, {1, 0, 1, 10}, {10, -1, 3, 100}, {10, 4, 3, 100}, {10, 0, 18, 100}, {10, 0, 3, 37}, {10, 0, 3, 0}, {2, 0, 62, 2}, {10, 2, 3, 300}, {10, 1, 1, 30},
	} {
		require.Error(t, l.Validate(), "%+v", l)
	}
	for _, l := range []Linear{{}, {0, 10, 0}, {0, 10, 3}, {10, 5, 1}, {-5, 5, 1}} {
		require.Error(t, l.Validate(), "%+v", l)
	}
}

func TestDistributionAgreesWithCountingOneByOne(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, by := range bucketers(t) {
		var one, two, whole Distribution
		naive := map[[2]int64]int64{}
		for range 500 {
			v, n := int64(r.Uint64()>>(16+r.IntN(48))), int64(r.IntN(4))
			low, high := by.Bucket(v)
			naive[[2]int64{low, high}] += n
			whole.Add(by, v, n)
			if r.IntN(2) == 0 {
				one.Add(by, v, n)
			} else {
				two.Add(by, v, n)
			}
		}
		require.NoError(t, one.Merge(&two))
		require.NoError(t, one.Merge(nil))
		require.Equal(t, whole, one)
		var total int64
		for key, n := range naive {
			if n == 0 {
				delete(naive, key)
			}
			total += n
		}
		require.Equal(t, total, whole.Count())
		require.Len(t, whole.Buckets, len(naive))
		for i, b := range whole.Buckets {
			require.Equal(t, naive[[2]int64{b.Low, b.High}], b.Count)
			if i > 0 {
				require.Greater(t, b.Low, whole.Buckets[i-1].High, "sorted, and no overlap")
			}
		}
	}
}

func TestDifferentlyDividedDistributionsAreNotMerged(t *testing.T) {
	var fine, coarse Distribution
	fine.Add(LogLinear{10, 3, 11, 100}, 5432, 2)
	coarse.Add(LogLinear{10, 3, 11, 10}, 5432, 3)
	before := fine.Buckets[0]
	require.ErrorContains(t, fine.Merge(&coarse), "overlap")
	require.Equal(t, []Bucket{before}, fine.Buckets)
}

func TestBucketTravelsAsBoundsAndCount(t *testing.T) {
	var d Distribution
	d.Add(LogLinear{10, 3, 11, 100}, 1_234_567, 4)
	d.Add(LogLinear{10, 3, 11, 100}, 12, 1)
	d.Add(LogLinear{10, 3, 11, 100}, 99, 0)
	text, err := json.Marshal(d.Buckets)
	require.NoError(t, err)
	require.Equal(t, `[[[0,999],1],[[1200000,1299999],4]]`, string(text))
	var back []Bucket
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, d.Buckets, back)
	for _, text := range []string{`[]`, `[[1,2]]`, `[[1],2]`, `[[2,1],3]`, `[[1,2],1.5]`, `[[1,2],"3"]`, `{}`, `[[1,2],3,4]`} {
		var b Bucket
		require.Error(t, json.Unmarshal([]byte(text), &b), text)
	}
}
