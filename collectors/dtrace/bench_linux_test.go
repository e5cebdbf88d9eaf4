package dtrace

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"iapi/collectors/collect"
	"iapi/collectors/dtrace/program"
)

// The cost of one traced event to whoever causes it: calls of getppid while a program counts system calls, beside no
// program and one that counts nothing.
func BenchmarkEvent(b *testing.B) {
	needTracer(b)
	for _, c := range []struct {
		name, predicate string
		by              []string
	}{
		{"none", "", nil},
		{"nothing matches", `{"eq":["execname","nobody"]}`, nil},
		{"count", `{}`, nil},
		{"by execname", `{}`, []string{"execname"}},
		{"by execname and syscall", `{}`, []string{"execname", "syscall"}},
		{"latency by execname", `{}`, []string{"execname", "latency"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			if c.predicate != "" {
				open(b, newEngine(b, Options{}), wish(definition(b, "syscall.syscalls"), c.predicate, c.by...))
			}
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			before := threadTime(b)
			for b.Loop() {
				_, _, _ = syscall.RawSyscall(syscall.SYS_GETPPID, 0, 0, 0)
			}
			b.ReportMetric(float64(threadTime(b)-before)/float64(b.N), "cpu-ns/op") // the machine may be busy
		})
	}
}

// threadTime is the CPU time of the calling thread.
func threadTime(b *testing.B) time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		b.Fatal(err)
	}
	return time.Duration(now.Nano())
}

// From the wish to the program's text.
func BenchmarkCompile(b *testing.B) {
	d := definition(b, "syscall.syscalls")
	v := variant(b, d, true)
	r := wish(d, `{"and":[{"ne":["execname","redis-server"]},{"ge":["latency",1000]}]}`, "execname", "latency")
	for b.Loop() {
		p, err := program.Compile(program.Wish{Definition: d, Variant: v, Predicate: r.Predicate, Decompositions: r.Decompositions, Whole: true})
		if err != nil {
			b.Fatal(err)
		}
		p.Text(program.Clock{Offset: time.Hour})
	}
}

// The cost of the programs of each metric, as the kernel measures it: for each event that a metric counts, which may be of
// two probes, beside programs on the same probes that drop every event at once.
func BenchmarkMetric(b *testing.B) {
	needTracer(b)
	null, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
	require.NoError(b, err)
	defer null.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer listener.Close()
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_ = c.Close() // the test is about its beginning
		}
	}()
	guest, db := newGuest(b), psql(b)
	file, err := os.Create(filepath.Join(b.TempDir(), "file"))
	require.NoError(b, err)
	defer file.Close()
	block := make([]byte, 4096)
	getppid := func() { _, _, _ = syscall.RawSyscall(syscall.SYS_GETPPID, 0, 0, 0) }
	write := func() { _, _ = syscall.Write(int(null.Fd()), []byte{0}) }
	run := func() { _ = exec.Command("/bin/true").Run() }
	connect := func() {
		if c, err := net.Dial("tcp", listener.Addr().String()); err == nil {
			_ = c.Close()
		}
	}
	spin := func() { // until the next sample
		for began := time.Now(); time.Since(began) < time.Second/99; {
		}
	}
	thread := func() { // a goroutine that ends while it is locked takes its thread with it
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
		}()
		<-done
	}
	sync := func() {
		_, err := file.WriteAt(block, 0)
		require.NoError(b, err)
		require.NoError(b, file.Sync())
	}
	exit := func() { guest.do(1, 1) }
	for _, c := range []struct {
		metric, drop string
		by           []string
		event        func()
	}{
		{"cpu.thread_samples", `{"eq":["execname","nobody"]}`, []string{"execname", "subsecond"}, spin},
		{"cpu.thread_samples", `{"eq":["execname","nobody"]}`, []string{"execname", "kstack", "ustack"}, spin},
		{"unix.thr_creates", `{"eq":["execname","nobody"]}`, []string{"execname", "subsecond"}, thread},
		{"disk.physio_ops", `{"eq":["disk","nobody"]}`, []string{"optype", "latency"}, sync},
		{"vm.exits", `{"eq":["vcpuid","99"]}`, []string{"vleavereason", "vcpuid"}, exit},
		{"vm.irqs", `{"eq":["irqvector","99"]}`, []string{"irqvector"}, exit},
		{"postgres.queries", `{"eq":["pid","1"]}`, []string{"querysubstr", "latency"}, db},
		{"postgres.queries", `{"eq":["pid","1"]}`, []string{"query", "latency"}, db},
		{"syscall.syscalls", `{"eq":["execname","nobody"]}`, []string{"execname", "syscall"}, getppid},
		{"syscall.syscalls", `{"eq":["execname","nobody"]}`, []string{"execname", "latency"}, getppid},
		{"syscall.syscalls", `{"eq":["execname","nobody"]}`, []string{"pexecname", "errno", "subsecond"}, getppid},
		{"fs.logical_rwops", `{"eq":["execname","nobody"]}`, []string{"optype", "fstype", "latency"}, write},
		{"fs.logical_ops", `{"eq":["execname","nobody"]}`, []string{"optype", "latency"}, write},
		{"fs.logical_rwbytes", `{"eq":["execname","nobody"]}`, []string{"optype"}, write},
		{"cpu.thread_executions", `{"eq":["execname","nobody"]}`, []string{"leavereason", "runtime"}, func() { time.Sleep(time.Microsecond) }},
		{"unix.proc_execs", `{"eq":["execname","nobody"]}`, []string{"execname"}, run},
		{"unix.proc_forks", `{"eq":["execname","nobody"]}`, []string{"execname"}, run},
		{"unix.proc_exits", `{"eq":["execname","nobody"]}`, []string{"execname", "walltime"}, run},
		{"tcp.connects", `{"eq":["rport","1"]}`, []string{"raddr", "rport"}, connect},
		{"tcp.connects", `{"eq":["execname","nobody"]}`, []string{"execname", "latency"}, connect},
		{"tcp.accepts", `{"eq":["rport","1"]}`, []string{"raddr"}, connect},
		{"tcp.accepts", `{"eq":["execname","nobody"]}`, []string{"execname", "pid"}, connect},
		{"cpu.waittime", `{}`, nil, func() { time.Sleep(time.Microsecond) }}, // nothing can be dropped of it
		{"vm.thread_samples", `{"lt":["subsecond",0]}`, []string{"subsecond"}, spin},
	} {
		if c.metric[:3] == "vm." && guest == nil || c.event == nil {
			continue
		}
		for _, way := range []struct{ name, predicate string }{{" dropped", c.drop}, {"", `{}`}} {
			b.Run(fmt.Sprintf("%s by %s%s", c.metric, strings.Join(c.by, " "), way.name), func(b *testing.B) {
				p := chosen(b, newEngine(b, Options{}), wish(definition(b, c.metric), way.predicate, c.by...)).(*probe)
				began := programTime(b, p)
				for b.Loop() {
					c.event()
				}
				ns, runs := programTime(b, p).since(began)
				b.ReportMetric(ns, "bpf-ns/event")
				b.ReportMetric(float64(runs), "events")
			})
		}
	}
}

// psql has a PostgreSQL execute queries, each with its own text; nil where it is not installed.
func psql(b *testing.B) func() {
	const bin = "/usr/lib/postgresql/15/bin"
	if !collect.HasUSDT(bin + "/postgres:postgresql:query__start") {
		b.Log("PostgreSQL 15 is not installed: its queries are left out")
		return nil
	}
	client := exec.Command(bin+"/psql", "-h", postgres(b, bin), "-U", "postgres", "-qAt", "postgres")
	in, err := client.StdinPipe()
	require.NoError(b, err)
	out, err := client.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, client.Start())
	b.Cleanup(func() {
		in.Close()
		_ = client.Wait() // it has nothing to say any more
	})
	lines := bufio.NewScanner(out)
	n := 0
	return func() {
		n++
		fmt.Fprintf(in, "SELECT %d;\n", n%100)
		if !lines.Scan() {
			b.Error("PostgreSQL has not answered")
		}
	}
}

// programs is what the kernel tells of each program of a probe but those of its frame.
type programs map[uint64]struct{ ns, runs uint64 }

func programTime(b *testing.B, p *probe) programs {
	b.Helper()
	all := programs{}
	require.NoError(b, eachFD("/proc", p.run.proc.pid, func(text []byte) error {
		id, isProgram := fdValue(text, "prog_id:")
		if isProgram && !ofFrame(b, ebpf.ProgramID(id)) {
			ns, _ := fdValue(text, "run_time_ns:")
			runs, _ := fdValue(text, "run_cnt:")
			all[id] = struct{ ns, runs uint64 }{ns, runs}
		}
		return nil
	}))
	return all
}

// ofFrame reports whether a program is at the beginning, the end or the ticks, which bpftrace 0.17 calls by their period.
func ofFrame(b *testing.B, id ebpf.ProgramID) bool {
	loaded, err := ebpf.NewProgramFromID(id)
	require.NoError(b, err)
	defer loaded.Close()
	info, err := loaded.Info()
	require.NoError(b, err)
	return info.Name == "10" || slices.ContainsFunc([]string{"BEGIN", "END", "interval"}, func(name string) bool { return strings.HasPrefix(info.Name, name) })
}

// since is the mean time of one event: what each program takes at a run, for as many programs as run at each event.
func (p programs) since(began programs) (mean float64, events uint64) {
	var ns, most uint64
	for id, now := range p {
		ns += now.ns - began[id].ns
		most = max(most, now.runs-began[id].runs)
	}
	return float64(ns) / float64(max(1, most)), most
}
