package targets

import (
	"math"

	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"

	"iapi/measure"
)

const (
	maxExpBuckets = 160 // on either side of zero
	maxScale      = 20
	minScale      = -10
)

// exponential makes an exponential histogram of linear or log-linear buckets, of which it puts each at its geometric
// middle: at the largest scale at which 160 buckets span all of them. A bucket that reaches zero is the zero count, and
// what follows its upper end the zero threshold. The sum is left out, for buckets do not tell it. Values are multiplied
// by factor.
func exponential(buckets map[measure.Bucket]int64, factor float64) *metricspb.ExponentialHistogramDataPoint {
	p := &metricspb.ExponentialHistogramDataPoint{}
	positive, negative := map[float64]uint64{}, map[float64]uint64{}
	for b, n := range buckets {
		if n <= 0 {
			continue
		}
		count := uint64(n)
		p.Count += count
		switch {
		case b.Low > 0:
			positive[middle(b.Low, b.High)*factor] += count
		case b.High < 0:
			negative[middle(-b.High, -b.Low)*factor] += count
		default:
			p.ZeroCount += count
			if b.High > 0 || b.Low < 0 {
				reach := max(float64(b.High)+1, 1-float64(b.Low))
				p.ZeroThreshold = max(p.ZeroThreshold, reach*factor)
			}
		}
	}
	p.Scale = min(scaleFor(positive), scaleFor(negative))
	p.Positive, p.Negative = spread(positive, p.Scale), spread(negative, p.Scale)
	return p
}

// middle is the geometric middle of whole values from low to high, which fill [low, high+1).
func middle(low, high int64) float64 {
	return math.Sqrt(float64(low) * (float64(high) + 1))
}

// index is the bucket (base^i, base^(i+1)] of a value, where base is 2^(2^-scale).
func index(v float64, scale int32) int32 {
	return int32(math.Ceil(math.Ldexp(math.Log2(v), int(scale)))) - 1
}

func scaleFor(values map[float64]uint64) int32 {
	if len(values) == 0 {
		return maxScale
	}
	low, high := math.Inf(1), 0.0
	for v := range values {
		low, high = min(low, v), max(high, v)
	}
	scale := int32(maxScale)
	for scale > minScale && int64(index(high, scale))-int64(index(low, scale)) >= maxExpBuckets {
		scale--
	}
	return scale
}

func spread(values map[float64]uint64, scale int32) *metricspb.ExponentialHistogramDataPoint_Buckets {
	if len(values) == 0 {
		return nil
	}
	low, high := int32(math.MaxInt32), int32(math.MinInt32)
	for v := range values {
		i := index(v, scale)
		low, high = min(low, i), max(high, i)
	}
	b := &metricspb.ExponentialHistogramDataPoint_Buckets{Offset: low, BucketCounts: make([]uint64, high-low+1)}
	for v, n := range values {
		b.BucketCounts[index(v, scale)-low] += n
	}
	return b
}
