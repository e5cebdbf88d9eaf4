package dtrace

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestABudgetIsSoftBeforeItIsHard(t *testing.T) {
	const budget = 2.0
	for name, windows := range map[string][]struct {
		percent     float64
		above, stop bool
	}{
		"below":                 {{0, false, false}, {2, false, false}, {1.9, false, false}},
		"above":                 {{2.1, true, false}, {4, true, false}, {3.9, true, false}, {2.1, true, false}},
		"and below again":       {{2.1, true, false}, {1.9, true, false}, {1.1, true, false}, {1, false, false}, {1.9, false, false}},
		"far above":             {{5, true, false}, {4.1, true, true}},
		"far above for once":    {{5, true, false}, {3, true, false}, {5, true, false}, {0.5, false, false}, {9, true, false}, {9, true, true}},
		"lowered, and too much": {{3, true, false}, {5, true, false}, {5, true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			var u usage
			for i, w := range windows {
				stop := u.judge(w.percent, budget)
				require.Equal(t, w.stop, stop, "window %d", i)
				require.Equal(t, w.above, u.above, "window %d", i)
			}
		})
	}
}

// A program that is to cost less gives out its intervals more rarely, and loses and repeats nothing.
func TestIntervalsThatComeMoreRarelyAreExact(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{Window: time.Hour}) // within which nothing else tells the program
	h := newHelper(t)
	pid := strconv.Itoa(h.cmd.Process.Pid)
	p := open(t, e, wish(definition(t, "syscall.syscalls"), `{"and":[{"eq":["syscall","getppid"]},{"eq":["pid","`+pid+`"]}]}`, "execname"))
	const every = int64(2)
	sum, told := 0.0, 0.0
	// collected takes what the program gives out, at multiples of so many seconds, until that is all that was counted before.
	collected := func(every int64) int64 {
		t.Helper()
		end := time.Now().Unix()
		for {
			latest, _, _, err := p.run.progress()
			require.NoError(t, err)
			at := latest + every - latest%every
			res, err := p.Collect(t.Context(), time.Unix(at, 0))
			require.NoError(t, err)
			for _, s := range res.Samples {
				sum += s.Value
			}
			latest, _, _, err = p.run.progress()
			require.NoError(t, err)
			if at > end && latest >= at {
				return latest
			}
		}
	}
	burst := func() {
		h.do("getppid 1000")
		told += 1000
	}
	burst()
	require.NoError(t, p.run.setEvery(every))
	burst()
	collected(every)
	for range 2 {
		burst()
		latest := collected(every)
		require.Zero(t, latest%every)
		began := time.Now()
		res, err := p.Collect(t.Context(), time.Unix(latest+1, 0))
		require.NoError(t, err)
		require.Empty(t, res.Samples)
		require.Equal(t, 2*time.Second, res.Every)
		require.Less(t, time.Since(began), time.Second, "nothing is waited for within an interval")
	}
	require.NoError(t, p.run.setEvery(1))
	burst()
	odd := false
	for began := time.Now(); !odd && time.Since(began) < 20*time.Second; {
		odd = collected(1)%every != 0
	}
	require.True(t, odd, "at each second again")
	collected(1)
	require.Equal(t, told, sum)
}
