package dtrace

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/collectors/collect"
)

// The arguments of a process are read where it keeps them, and compared as they are shown.
func TestArgumentsOfProcesses(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	long := strings.Repeat("0123456789", 8)
	h := newHelper(t, "helper", "a,b", `c "d}`, "", "é", "last")
	self := `helper a,b c "d}  é last`
	h.do("exec") // the runtime of Go tries something out at its first start of a process
	pid := h.cmd.Process.Pid
	cases := []struct {
		metric, predicate string
		want              map[string]float64
		probe             collect.Probe
	}{
		{metric: "unix.proc_execs", predicate: fmt.Sprintf(`{"and":[{"eq":["ppid","%d"]},{"ne":["psargs","not this"]}]}`, pid), want: map[string]float64{
			`true x,"y z\u00ff`: 1, long[:64]: 1, "": 1, "not": 2, "not this one": 1, "no": 1,
		}},
		{metric: "unix.proc_exits", predicate: fmt.Sprintf(`{"and":[{"eq":["ppid","%d"]},{"or":[{"eq":["psargs","%s"]},{"eq":["psargs","not"]}]}]}`, pid, long[:64]), want: map[string]float64{long[:64]: 1, "not": 2}},
		{metric: "syscall.syscalls", predicate: fmt.Sprintf(`{"and":[{"eq":["pid","%d"]},{"eq":["syscall","getppid"]},{"or":[{"eq":["psargs",%s]},{"eq":["psargs","a daemon: at work"]}]}]}`, pid, strconv.Quote(self)), want: map[string]float64{
			self: 41, "a daemon: at work": 43,
		}},
	}
	for i, c := range cases {
		cases[i].probe = chosen(t, e, wish(definition(t, c.metric), c.predicate, "psargs"))
	}
	h.do(`run true|x,"y z\u00ff`, "run "+long, "run ", "run not|this", "run not", "run not|", "run not|this|one", "run no")
	h.do("getppid 41", "title a daemon: at", "getppid 42", "title a daemon: at work", "getppid 43", "title a daemon: at works", "getppid 44")
	for _, c := range cases {
		sum := drained(t, c.probe)
		require.Zero(t, sum.other, c.metric)
		require.Equal(t, c.want, sum.sums, c.metric)
	}
}

// What a thread sleeps within a call is no CPU time, and what it works is.
func TestCPUTimeOfCalls(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	h := newHelper(t)
	p := chosen(t, e, wish(definition(t, "syscall.syscalls"), fmt.Sprintf(`{"and":[{"eq":["pid","%d"]},{"or":[{"eq":["syscall","nanosleep"]},{"eq":["syscall","getrandom"]}]},{"gt":["cputime",0]}]}`, h.cmd.Process.Pid), "syscall", "cputime")).(*probe)
	h.do("sleep 300")
	used, err := strconv.ParseInt(h.ask("getrandom 40"), 10, 64)
	require.NoError(t, err)
	sum := drained(t, p)
	low, high := map[string]int64{}, map[string]int64{} // what they have used at least and at most, in ns
	for bucket, n := range sum.buckets {
		var from, to int64
		call, bounds, _ := strings.Cut(bucket, "[")
		_, err := fmt.Sscanf(bounds, "%d,%d]", &from, &to)
		require.NoError(t, err)
		low[call], high[call] = low[call]+n*from, high[call]+n*to
	}
	t.Logf("the calls used %d ns, by their buckets %d to %d", used, low["getrandom"], high["getrandom"])
	require.GreaterOrEqual(t, sum.sums["nanosleep"], 300.0)
	require.Less(t, low["nanosleep"], int64(150e6), "they have slept for 300 ms")
	require.GreaterOrEqual(t, sum.sums["getrandom"], 40.0)
	require.Greater(t, high["getrandom"], used*9/10)
	require.Zero(t, keysOf(t, p, "w_v0"), "nothing is left of threads that have come back")
}

// Reads and writes have the place in the file at which they began.
func TestOffsetsOfReadsAndWrites(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	h := newHelper(t)
	file := filepath.Join(t.TempDir(), "data")
	all := chosen(t, e, wish(definition(t, "fs.logical_rwops"), fmt.Sprintf(`{"and":[{"eq":["pid","%d"]},{"eq":["fstype","%s"]}]}`, h.cmd.Process.Pid, fsTypeOf(t, filepath.Dir(file))), "optype", "offset"))
	h.do("offsets " + file)
	sum := drained(t, all)
	require.Equal(t, map[string]float64{"read": 7, "write": 6}, sum.sums)
	require.Equal(t, map[string]int64{
		"read[0,0]": 2, "read[77,77]": 1, "read[85,85]": 1, "read[7000,7099]": 2, "read[9000,9099]": 1,
		"write[0,0]": 1, "write[4000,4099]": 1, "write[7000,7099]": 1, "write[8100,8199]": 1, "write[9000,9099]": 1, "write[12000,12999]": 1,
	}, sum.buckets)
}
