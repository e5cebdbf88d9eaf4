package dtrace

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"iapi/collectors/collect"
	"iapi/collectors/dtrace/output"
	"iapi/collectors/dtrace/program"
)

// renamed is how many processes a test has of which another thread than the first executes a program, and so takes the first
// one's place and number.
const renamed = 10

// A process ends once, also when its first thread ends because another one executes a program. Each way to count exits that this
// kernel has is tried, whatever kernels it is for.
func TestExitsAreThoseOfProcesses(t *testing.T) {
	needTracer(t)
	h := newHelper(t)
	h.do("exec") // the runtime of Go tries something out at its first start of a process
	d := definition(t, "unix.proc_exits")
	e := newEngine(t, Options{})
	var probes []collect.Probe
	for i := range d.Variants {
		v := &d.Variants[i]
		if v.Source.Bpftrace == nil {
			continue
		}
		r := wish(d, fmt.Sprintf(`{"eq":["ppid","%d"]}`, h.cmd.Process.Pid), "execname")
		p, err := e.Open(t.Context(), r, v)
		if err != nil && v.When.Kernel != "" {
			require.Equal(t, collect.Unsupported, collect.Refusal(err).Code, "%s: %v", v.ID, err)
			continue
		}
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, p.Close()) })
		_, err = p.Collect(t.Context(), time.Now())
		require.NoError(t, err)
		probes = append(probes, p)
	}
	require.NotEmpty(t, probes)
	h.do("become " + strconv.Itoa(renamed))
	for _, p := range probes {
		require.Equal(t, map[string]float64{"true": renamed}, drained(t, p).sums, p.(*probe).variant.ID)
	}
}

// What is saved for a thread goes with it when it takes the number of its process's first one: nothing is left under the old
// number, and the call by which it does so is counted.
func TestWhatIsSavedForAThreadTakesItsNewNumber(t *testing.T) {
	needTracer(t)
	h := newHelper(t)
	self := fmt.Sprintf(`{"and":[{"eq":["ppid","%d"]},{"eq":["syscall","execve"]}]}`, h.cmd.Process.Pid)
	p := open(t, newEngine(t, Options{}), wish(definition(t, "syscall.syscalls"), self, "execname", "latency"))
	h.do("become " + strconv.Itoa(renamed))
	sum := drained(t, p)
	require.Equal(t, map[string]float64{"true": renamed, filepath.Base(os.Args[0])[:min(15, len(filepath.Base(os.Args[0])))]: renamed}, sum.sums)
	require.Zero(t, keysOf(t, p, "s_t0"))
}

// Where there is no room to remember that calls have begun, they are not in the data, which is told; and what needs nothing
// remembered is exact.
func TestWhatFindsNoRoomIsTold(t *testing.T) {
	needTracer(t)
	h := newHelper(t)
	self := fmt.Sprintf(`{"and":[{"eq":["pid","%d"]},{"eq":["syscall","getppid"]}`, h.cmd.Process.Pid)
	e := newEngine(t, Options{})
	timed := open(t, e, wish(definition(t, "syscall.syscalls"), self+`,{"ge":["latency",0]}]}`))
	plain := open(t, e, wish(definition(t, "syscall.syscalls"), self+`]}`))
	m := mapOf(t, timed, "s_t0")
	for i := range uint64(timed.run.compiled.MapKeys) { // as if so many other threads waited
		if err := m.Put(1<<32+i, uint64(1)); err != nil {
			require.ErrorIs(t, err, unix.E2BIG)
			break
		}
	}
	h.do("getppid 1000")
	end := time.Now().Truncate(time.Second).Add(time.Second)
	counted, lost, partial := 0.0, 0, false
	for latest := int64(0); latest < end.Unix(); latest, _, _, _ = timed.run.progress() {
		res, err := timed.Collect(t.Context(), end)
		require.NoError(t, err)
		for _, s := range res.Samples {
			counted += s.Value
			partial = partial || s.Partial
		}
		n := 0
		_, err = fmt.Sscanf(res.Notice, "%d events are not in the data", &n)
		require.Equal(t, res.Notice == "", err != nil, res.Notice)
		lost += n
	}
	require.EqualValues(t, 1000, counted+float64(lost))
	require.Positive(t, lost)
	require.True(t, partial)
	require.Equal(t, map[string]float64{"": 1000}, drained(t, plain).sums)
}

// DTrace says by itself when its variables have no room.
func TestWhatDTraceDropsIsTold(t *testing.T) {
	d := definition(t, "syscall.syscalls")
	compiled, err := program.Compile(program.Wish{Definition: d, Variant: variant(t, d, false), Whole: true})
	require.NoError(t, err)
	r := newRunning(&Engine{}, "key", &probe{request: collect.Request{Definition: d}}, compiled)
	r.proc = &process{says: &tail{flow: newFlow(1 << 20)}}
	p := &probe{engine: r.engine, request: collect.Request{Definition: d, WholeHost: true}, run: r, primed: true}
	r.add(p)
	for second, says := range []string{"", "dtrace: 5 dynamic variable drops with non-empty dirty list"} {
		r.proc.says.note(says + "\n")
		r.deliver(output.Interval{Second: int64(second + 1), Totals: map[string]int64{"": 1}})
		res, err := p.Collect(t.Context(), time.Unix(int64(second+1), 0))
		require.NoError(t, err)
		require.Equal(t, says, res.Notice)
	}
}

// mapOf opens a map of a program that runs.
func mapOf(t *testing.T, p *probe, name string) *ebpf.Map {
	t.Helper()
	var found *ebpf.Map
	require.NoError(t, eachFD("/proc", p.run.proc.pid, func(text []byte) error {
		id, has := fdValue(text, "map_id:")
		if !has || found != nil {
			return nil
		}
		m, err := ebpf.NewMapFromID(ebpf.MapID(id))
		if err != nil {
			return err
		}
		if info, err := m.Info(); err == nil && info.Name == "AT_"+name {
			found = m
			return nil
		}
		return m.Close()
	}))
	require.NotNil(t, found, "the program has no map %s", name)
	t.Cleanup(func() { found.Close() })
	return found
}
