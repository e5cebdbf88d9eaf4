package agent

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/measure"
)

// A probe that is to cost less gives something more rarely. What is told of it then is of longer intervals.
func TestAProbeThatGivesDataMoreRarelyHasLongerIntervals(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		c := &tracing{}
		traced(r, c)
		told := func(every time.Duration) func() bool {
			c.mu.Lock()
			c.every = every
			c.mu.Unlock()
			r.queue.mu.Lock()
			before := len(r.queue.points)
			r.queue.mu.Unlock()
			return func() bool { // whole intervals of such a length
				r.queue.mu.Lock()
				defer r.queue.mu.Unlock()
				return slices.ContainsFunc(r.queue.points[before:], func(p measure.Point) bool { return p.Interval == max(every, time.Second) && !p.Partial })
			}
		}
		r.assign(1, r.item("i-1"))
		r.eventually("at each second", told(0))
		r.eventually("at every tenth second", told(10*time.Second))
		r.eventually("at each second again", told(time.Second))
		r.queue.mu.Lock()
		defer r.queue.mu.Unlock()
		for i, p := range r.queue.points {
			require.Zero(t, p.Start.Unix()%int64(p.Interval.Seconds()), "on multiples of its length")
			if i > 0 && p.Interval != r.queue.points[i-1].Interval {
				require.True(t, p.Partial, "the first of another length is not whole")
			}
		}
		opened, _, _ := c.seen()
		require.Equal(t, 1, opened)
		require.Equal(t, 20*time.Second, atLeast(15*time.Second, 10*time.Second))
		require.Equal(t, 15*time.Second, atLeast(15*time.Second, time.Second))
		require.Equal(t, time.Second, atLeast(time.Second, 0))
	})
}
