package dtrace

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/collectors/collect"
	"iapi/collectors/dtrace/program"
	"iapi/measure"
)

const getppid = `{"and":[{"eq":["syscall","getppid"]},{"eq":["execname","%s"]}]}`

func TestEveryCallIsCounted(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	h := newHelper(t)
	h.do("name exactly")
	p := open(t, e, wish(definition(t, "syscall.syscalls"), fmt.Sprintf(getppid, "exactly")))
	h.do("getppid 300000")
	sum := drained(t, p)
	require.Equal(t, map[string]float64{"": 300000}, sum.sums)
	require.Zero(t, sum.other)
}

// Two writers go on while intervals are given out: nothing is lost and nothing counted twice, in the total, by key and by
// bucket.
func TestIntervalsGivenOutLoseNothing(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	d := definition(t, "syscall.syscalls")
	total := open(t, e, wish(d, fmt.Sprintf(getppid, "writer")))
	byLatency := open(t, e, wish(d, fmt.Sprintf(getppid, "writer"), "execname", "latency"))
	const n = 1_500_000
	done := make(chan struct{}, 2)
	for range 2 {
		h := newHelper(t)
		h.do("name writer")
		go func() {
			h.do(fmt.Sprint("getppid ", n))
			done <- struct{}{}
		}()
	}
	var totals, keyed tally
	for left := 2; left > 0; {
		drain(t, total, &totals)
		drain(t, byLatency, &keyed)
		select {
		case <-done:
			left--
		default:
		}
	}
	drain(t, total, &totals)
	drain(t, byLatency, &keyed)
	require.Equal(t, map[string]float64{"": 2 * n}, totals.sums)
	require.Equal(t, map[string]float64{"writer": 2 * n}, keyed.sums)
	require.Zero(t, totals.other+keyed.other)
	var buckets int64
	for _, c := range keyed.buckets {
		buckets += c
	}
	require.Equal(t, int64(2*n), buckets)
}

func TestMoreKeysThanAllowedBecomeOther(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	h := newHelper(t)
	h.do("name ppid")
	p := open(t, e, wish(definition(t, "syscall.syscalls", "max_keys: 300", "max_keys: 20"), fmt.Sprintf(`{"and":[{"eq":["syscall","getppid"]},{"eq":["pid","%d"]}]}`, h.cmd.Process.Pid), "execname"))
	began := time.Now()
	h.do("names 500")
	intervals := int(time.Since(began)/time.Second) + 2 // in which it happened, at most
	sum := drained(t, p)
	total := sum.other
	for _, n := range sum.sums {
		total += n
	}
	require.Equal(t, 1500.0, total)
	require.LessOrEqual(t, len(sum.sums), 20*intervals, "twenty for each interval")
	require.GreaterOrEqual(t, sum.other, 1500-3*20.0*float64(intervals))
}

// What a program's maps have no room for is in the total all the same.
func TestWhatMapsCannotHoldBecomesOther(t *testing.T) {
	compiled, err := program.Compile(program.Wish{
		Definition: definition(t, "syscall.syscalls"), Variant: variant(t, definition(t, "syscall.syscalls"), true),
		Decompositions: []string{"execname", "latency"}, Whole: true,
	})
	require.NoError(t, err)
	c := newCounts(compiled, program.HostZone, 100)
	add := func(execname, latency string, n int64) {
		row, ok := compiled.Decode(program.HostZone, []string{latency, execname})
		require.True(t, ok)
		g := c.group(row.Fields)
		g.amount += n
		g.buckets.Add(compiled.Numeric().Buckets, row.Value, n)
	}
	add("a", "1100", 40)
	add("b", "0", 30)
	samples := c.samples(nil, compiled, [16]byte{})
	require.Len(t, samples, 3)
	require.Equal(t, collect.Sample{Value: 30, Other: true}, samples[2])
	require.Equal(t, []measure.Bucket{{Low: 1100, High: 1199, Count: 40}}, samples[0].Distribution.Buckets)
}

// Processes call themselves what they like; each name comes back as it was, as text.
func TestNamesComeBack(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	h := newHelper(t)
	p := open(t, e, wish(definition(t, "syscall.syscalls"), fmt.Sprintf(`{"and":[{"eq":["syscall","getppid"]},{"eq":["pid","%d"]}]}`, h.cmd.Process.Pid), "execname"))
	names := []string{"a,b", `q"uo\te`, "new\nline", "café", "\xff\xfe", "}]", "\t", " lead", "trail ", "\x01\x1b[31m", "", "exactly15bytes!",
		"1000,bash", "E", "R\t1\tx\t1", `", "0,x": 9`, `\uffffffc3`}
	want := map[string]float64{}
	for i, name := range names {
		h.do("name "+name, fmt.Sprint("getppid ", i+1))
		want[strings.ToValidUTF8(name, "�")] += float64(i + 1)
	}
	sum := drained(t, p)
	require.Equal(t, want, sum.sums)
	require.Zero(t, sum.other)
}

// Constants of predicates select the process that has exactly this name, and no other.
func TestConstantsSelectNamesExactly(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	names := []string{`q"uo\te`, "café", "new\nline", "a,b", "}]", "%s%n%d", "ab", "abc", "a", "exactly15bytes!"}
	d := definition(t, "syscall.syscalls")
	h := newHelper(t)
	var leaves []measure.Predicate
	for _, name := range append(names[:8:8], "exactly15bytes") {
		leaves = append(leaves, measure.Predicate{Op: measure.Eq, Field: "execname", Value: measure.String(name)})
	}
	r := wish(d, `{}`, "execname")
	r.Predicate = measure.Predicate{Op: measure.And, Args: []measure.Predicate{
		{Op: measure.Eq, Field: "syscall", Value: measure.String("getppid")},
		{Op: measure.Ne, Field: "execname", Value: measure.String("ab")},
		{Op: measure.Or, Args: leaves},
	}}
	p := open(t, e, r)
	for _, name := range names {
		h.do("name "+name, "getppid 7")
	}
	sum := drained(t, p)
	want := map[string]float64{}
	for _, name := range names[:8] {
		if name != "ab" {
			want[name] = 7
		}
	}
	require.Equal(t, want, sum.sums)
}

func TestAPredicateOfFullSizeRuns(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	h := newHelper(t)
	h.do("name leaf60")
	var leaves []measure.Predicate
	for i := range 62 {
		leaves = append(leaves, measure.Predicate{Op: measure.Eq, Field: "execname", Value: measure.String(fmt.Sprint("leaf", i))})
	}
	r := wish(definition(t, "syscall.syscalls"), `{}`)
	r.Predicate = measure.Predicate{Op: measure.And, Args: []measure.Predicate{
		{Op: measure.Eq, Field: "syscall", Value: measure.String("getppid")}, {Op: measure.Or, Args: leaves},
	}}
	p := open(t, e, r)
	h.do("getppid 1000", "name none", "getppid 500")
	sum := drained(t, p)
	require.Equal(t, map[string]float64{"": 1000}, sum.sums)
}

func TestALateIntervalIsPartOfTheNext(t *testing.T) {
	p := &probe{run: &running{compiled: &program.Program{}, changed: make(chan struct{}), begun: time.Now(), every: 1}, primed: true, request: collect.Request{WholeHost: true}}
	res, err := p.Collect(t.Context(), time.Now().Add(time.Hour))
	require.NoError(t, err)
	for _, s := range res.Samples {
		require.True(t, s.Partial)
	}
	p.run.begun = time.Now().Add(-time.Minute)
	_, err = p.Collect(t.Context(), time.Now().Add(time.Hour))
	require.ErrorContains(t, err, "given nothing")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = p.Collect(ctx, time.Now().Add(time.Hour))
	require.ErrorIs(t, err, context.Canceled)
}
