package measure

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// Bucketer says which bucket a value belongs to. The buckets of one Bucketer cover every int64 and do not overlap.
type Bucketer interface {
	// Bucket returns the bounds of the value's bucket, both included.
	Bucket(v int64) (low, high int64)
}

// LogLinear divides each power of Base, from Base^Low to Base^(High+1), into buckets of equal width, as DTrace's
// llquantize does: in the decade of 10^k with 100 steps a bucket is 10^(k-1) wide, and never narrower than 1. Below
// Base^Low there is one bucket from 0, at Base^(High+1) and above one without end, and one for what is negative.
type LogLinear struct {
	Base  int64 `json:"base" yaml:"base"`
	Low   int64 `json:"low" yaml:"low"`
	High  int64 `json:"high" yaml:"high"`
	Steps int64 `json:"steps" yaml:"steps"`
}

// Validate checks that the buckets are whole numbers that fit into 64 bits.
func (l LogLinear) Validate() error {
	switch {
	case l.Base < 2 || l.Base > 1000:
		return fmt.Errorf("base is %d; it is from 2 to 1000", l.Base)
	case l.Low < 0 || l.High < l.Low || l.High > 62:
		return fmt.Errorf("powers from %d to %d; they start at 0 or above and do not fall", l.Low, l.High)
	case l.Steps < 1 || l.Steps > 10_000:
		return fmt.Errorf("steps is %d; it is from 1 to 10000", l.Steps)
	}
	floor := int64(1)
	for k := int64(0); k <= l.High; k++ {
		if floor > math.MaxInt64/l.Base {
			return fmt.Errorf("%d to the power of %d does not fit into 64 bits", l.Base, l.High+1)
		}
		top := floor * l.Base
		if step := max(1, top/l.Steps); k >= l.Low && (top >= l.Steps && top%l.Steps != 0 || (top-floor)%step != 0) {
			return fmt.Errorf("%d steps do not divide the range from %d to %d evenly", l.Steps, floor, top)
		}
		floor = top
	}
	return nil
}

// Bucket implements Bucketer for a valid LogLinear.
func (l LogLinear) Bucket(v int64) (low, high int64) {
	if v < 0 {
		return math.MinInt64, -1
	}
	floor := int64(1)
	for range l.Low {
		floor *= l.Base
	}
	if v < floor {
		return 0, floor - 1
	}
	for k := l.Low; k <= l.High; k++ {
		top := floor * l.Base
		if v < top {
			step := max(1, top/l.Steps)
			low = floor + (v-floor)/step*step
			return low, low + step - 1
		}
		floor = top
	}
	return floor, math.MaxInt64
}

// Linear has buckets of Step from Low up to High, which is excluded; below and from High on there is one bucket each.
// A High of 0 means no end.
type Linear struct {
	Low  int64 `json:"low" yaml:"low"`
	High int64 `json:"high" yaml:"high"`
	Step int64 `json:"step" yaml:"step"`
}

// Validate checks that the steps divide the range evenly.
func (l Linear) Validate() error {
	high := l.high()
	switch {
	case l.Step < 1:
		return fmt.Errorf("step is %d; it is at least 1", l.Step)
	case l.Low < 0 || high <= l.Low:
		return fmt.Errorf("from %d to %d; it starts at 0 or above and rises", l.Low, high)
	case l.High != 0 && (high-l.Low)%l.Step != 0:
		return fmt.Errorf("a step of %d does not divide the range from %d to %d evenly", l.Step, l.Low, high)
	}
	return nil
}

func (l Linear) high() int64 {
	if l.High == 0 {
		return math.MaxInt64
	}
	return l.High
}

// Bucket implements Bucketer for a valid Linear.
func (l Linear) Bucket(v int64) (low, high int64) {
	switch {
	case v < l.Low:
		return math.MinInt64, l.Low - 1
	case v >= l.high():
		return l.high(), math.MaxInt64
	}
	low = l.Low + (v-l.Low)/l.Step*l.Step
	if low > l.high()-l.Step { // only without an end, where the last bucket may be narrower
		return low, l.high() - 1
	}
	return low, low + l.Step - 1
}

// MarshalJSON writes [[low,high],count].
func (b Bucket) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "[[%d,%d],%d]", b.Low, b.High, b.Count), nil
}

// UnmarshalJSON reads [[low,high],count].
func (b *Bucket) UnmarshalJSON(data []byte) error {
	var outer []json.RawMessage
	if err := json.Unmarshal(data, &outer); err != nil || len(outer) != 2 {
		return fmt.Errorf("a bucket is [[low,high],count]")
	}
	var bounds []int64
	if err := json.Unmarshal(outer[0], &bounds); err != nil || len(bounds) != 2 || bounds[0] > bounds[1] {
		return fmt.Errorf("a bucket's bounds are two integers that do not fall")
	}
	count, err := strconv.ParseInt(string(outer[1]), 10, 64)
	if err != nil {
		return fmt.Errorf("a bucket's count is an integer")
	}
	*b = Bucket{Low: bounds[0], High: bounds[1], Count: count}
	return nil
}

// Add counts the value n times. Nothing happens for an n of 0. One Distribution takes one Bucketer.
func (d *Distribution) Add(by Bucketer, v, n int64) {
	low, high := by.Bucket(v)
	d.AddBucket(Bucket{Low: low, High: high, Count: n})
}

// AddBucket adds a bucket's count. Its bounds must be those of a bucket that is there already, or overlap none.
func (d *Distribution) AddBucket(b Bucket) {
	if b.Count == 0 {
		return
	}
	i, found := slices.BinarySearchFunc(d.Buckets, b.Low, func(have Bucket, low int64) int {
		switch {
		case have.Low < low:
			return -1
		case have.Low > low:
			return 1
		}
		return 0
	})
	if !found {
		d.Buckets = slices.Insert(d.Buckets, i, b)
		return
	}
	if d.Buckets[i].Count += b.Count; d.Buckets[i].Count == 0 {
		d.Buckets = slices.Delete(d.Buckets, i, i+1)
	}
}

// Merge adds the counts of another distribution. It fails, and changes nothing, when their buckets overlap without
// being the same: they were divided differently, and no sum of them is right.
func (d *Distribution) Merge(o *Distribution) error {
	if o == nil {
		return nil
	}
	for i, j := 0, 0; i < len(d.Buckets) && j < len(o.Buckets); {
		a, b := d.Buckets[i], o.Buckets[j]
		switch {
		case a.High < b.Low:
			i++
		case b.High < a.Low:
			j++
		case a.Low == b.Low && a.High == b.High:
			i++
			j++
		default:
			return fmt.Errorf("merge distributions of %s: buckets [%d, %d] and [%d, %d] overlap", d.Field, a.Low, a.High, b.Low, b.High)
		}
	}
	for _, b := range o.Buckets {
		d.AddBucket(b)
	}
	return nil
}

// Count returns how many values were counted.
func (d *Distribution) Count() int64 {
	var n int64
	for _, b := range d.Buckets {
		n += b.Count
	}
	return n
}
