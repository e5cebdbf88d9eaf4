package yardstick

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTimeInWhichLittleGetsDoneCountsLess(t *testing.T) {
	w := &Watch{}
	w.add(time.Second, nominal)
	require.Equal(t, time.Second, w.Elapsed())
	w.add(time.Second, nominal/2)
	require.Equal(t, 2*time.Second, w.Elapsed(), "a faster machine is given no less")
	w.add(time.Second, 4*nominal)
	require.Equal(t, 2250*time.Millisecond, w.Elapsed())
}

func TestAWatchGoesAndIsNeverAheadOfTheClock(t *testing.T) {
	w := Start(t)
	for last := time.Duration(0); last < 300*time.Millisecond; {
		is := w.Elapsed()
		require.GreaterOrEqual(t, is, last)
		require.LessOrEqual(t, is, w.Wall())
		last = is
	}
}

func BenchmarkWork(b *testing.B) {
	for b.Loop() {
		runtime.KeepAlive(work())
	}
}
