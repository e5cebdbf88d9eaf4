package dtrace

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/collectors/collect"
)

// listen accepts connections until the test ends, and gives its port.
func listen(t *testing.T) (address, port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	_, port, err = net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return l.Addr().String(), port
}

// chosen opens a probe of the variant that the catalog chooses for the fields.
func chosen(t testing.TB, e *Engine, r collect.Request) collect.Probe {
	t.Helper()
	v, err := r.Definition.Select(catalog.Platform{
		OS: "linux", Arch: "amd64", Kernel: "6.18", Cgroup: "hybrid", Bpftrace: "0.17.0",
		Tracepoint: func(string) bool { return true }, USDT: collect.HasUSDT, // and no files, of which no tracing is asked
	}, catalog.Host, r.Fields())
	require.NoError(t, err)
	p, err := e.Open(t.Context(), r, v)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	_, err = p.Collect(t.Context(), time.Now())
	require.NoError(t, err)
	return p
}

// What is driven is counted exactly, by every kind of field.
func TestFieldsAreExact(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	h := newHelper(t)
	h.do("exec") // the runtime of Go tries something out at its first start of a process
	pid, name := h.cmd.Process.Pid, filepath.Base(os.Args[0])[:min(15, len(filepath.Base(os.Args[0])))]
	self := fmt.Sprintf(`{"eq":["pid","%d"]}`, pid)
	address, port := listen(t)
	file := filepath.Join(t.TempDir(), "data")
	for _, c := range []struct {
		metric, predicate, do string
		by                    []string
		want                  map[string]float64
	}{
		{"syscall.syscalls", `{"and":[` + self + `,{"eq":["syscall","close"]},{"ne":["errno","none"]}]}`, "closenothing 40", []string{"syscall", "errno", "ppid"}, map[string]float64{fmt.Sprintf("close|EBADF|%d", os.Getpid()): 40}},
		{"syscall.syscalls", `{"and":[` + self + `,{"eq":["errno","EBADF"]}]}`, "closenothing 7", []string{"pexecname", "pid"}, map[string]float64{fmt.Sprintf("%s|%d", name, pid): 7}},
		{"syscall.syscalls", `{"and":[` + self + `,{"eq":["syscall","getppid"]}]}`, "getppid 500", []string{"subsecond"}, map[string]float64{"": 500}},
		{"unix.proc_execs", fmt.Sprintf(`{"eq":["ppid","%d"]}`, pid), "exec", []string{"execname", "ppid"}, map[string]float64{fmt.Sprintf("true|%d", pid): 1}},
		{"unix.proc_exits", fmt.Sprintf(`{"and":[{"eq":["ppid","%d"]},{"lt":["walltime",60000000000]}]}`, pid), "exec", []string{"execname", "walltime"}, map[string]float64{"true": 1}},
		{"tcp.connects", fmt.Sprintf(`{"and":[%s,{"eq":["rport","%s"]}]}`, self, port), "connect " + address, []string{"execname", "rport", "raddr", "latency"}, map[string]float64{name + "|" + port + "|127.0.0.1": 1}},
		{"tcp.accepts", fmt.Sprintf(`{"eq":["lport","%s"]}`, port), "connect " + address, []string{"lport", "raddr"}, map[string]float64{port + "|127.0.0.1": 1}},
		{"fs.logical_rwops", `{"and":[` + self + `,{"eq":["size",4097]},{"eq":["optype","write"]}]}`, "write4097 " + file, []string{"optype", "fstype", "size"}, map[string]float64{"write|" + fsTypeOf(t, filepath.Dir(file)): 5}},
		{"fs.logical_rwops", `{"and":[` + self + `,{"eq":["fstype","pipefs"]},{"eq":["size",4098]}]}`, "pipe4098", []string{"optype", "fstype"}, map[string]float64{"write|pipefs": 1, "read|pipefs": 1}},
		{"fs.logical_ops", `{"and":[` + self + `,{"eq":["optype","mkdir"]}]}`, "mkdir " + file + ".d", []string{"optype", "latency"}, map[string]float64{"mkdir": 1}},
	} {
		t.Run(c.metric+" by "+strings.Join(c.by, " "), func(t *testing.T) {
			p := chosen(t, e, wish(definition(t, c.metric), c.predicate, c.by...))
			h.do(c.do)
			sum := drained(t, p)
			require.Zero(t, sum.other)
			require.Equal(t, c.want, sum.sums)
			require.NoError(t, p.Close())
		})
	}
}

// A value that is not 1 is added up: the bytes of five writes, and of the helper's answers.
func TestBytesAreAddedUp(t *testing.T) {
	needTracer(t)
	h := newHelper(t)
	p := chosen(t, newEngine(t, Options{}), wish(definition(t, "fs.logical_rwbytes"), fmt.Sprintf(`{"and":[{"eq":["pid","%d"]},{"eq":["optype","write"]}]}`, h.cmd.Process.Pid), "optype"))
	h.do("write4097 "+filepath.Join(t.TempDir(), "data"), "name another")
	rest := int(drained(t, p).sums["write"]) - 5*4097 - len("done\n")
	if rest%8 == len("done\n") { // the last answer is heard before its write has ended, which may be later than we count
		rest -= len("done\n")
	}
	require.True(t, rest >= 0 && rest <= 64 && rest%8 == 0, "the runtime of Go wakes itself by eight bytes, but %d are left", rest)
}

// keysOf counts the keys of a map of a probe's program.
func keysOf(t *testing.T, p *probe, name string) int {
	t.Helper()
	n, found := 0, false
	require.NoError(t, eachFD("/proc", p.run.proc.pid, func(text []byte) error {
		id, has := fdValue(text, "map_id:")
		if !has || found {
			return nil
		}
		m, err := ebpf.NewMapFromID(ebpf.MapID(id))
		if err != nil {
			return err
		}
		defer m.Close()
		info, err := m.Info()
		if err != nil || info.Name != "AT_"+name {
			return err
		}
		found = true
		var key, next []byte
		for next = make([]byte, m.KeySize()); ; n++ {
			var from any = key
			if key == nil {
				from = nil
			}
			if m.NextKey(from, next) != nil {
				return nil
			}
			key = bytes.Clone(next)
		}
	}))
	require.True(t, found, name)
	return n
}

// fsTypeOf is the type of the file system that a directory is on, as the kernel itself tells.
func fsTypeOf(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("findmnt", "-n", "-o", "FSTYPE", "-T", dir).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

// An execution is from getting on a CPU to leaving it. A thread that sleeps a hundred times has left it a hundred times.
func TestExecutionsOfAThread(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	h := newHelper(t)
	h.do("name sleeper")
	p := chosen(t, e, wish(definition(t, "cpu.thread_executions"), `{"and":[{"eq":["execname","sleeper"]},{"eq":["leavereason","sleeping"]}]}`, "leavereason", "runtime"))
	h.do("sleep 100")
	sum := drained(t, p)
	require.GreaterOrEqual(t, sum.sums["sleeping"], 100.0)
	require.Less(t, sum.sums["sleeping"], 110.0, "besides those only its waiting for commands")
	var n int64
	for _, count := range sum.buckets {
		n += count
	}
	require.Equal(t, sum.sums["sleeping"], float64(n))
}

// A busy program's stacks are those of a flame graph: functions from the outermost in, joined by semicolons.
func TestStacksOfABusyProgram(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	busy := exec.Command(builtProgram(t, "testdata/busy.go"))
	require.NoError(t, busy.Start())
	t.Cleanup(func() {
		_ = busy.Process.Kill()
		_ = busy.Wait() // it was killed
	})
	p := chosen(t, e, wish(definition(t, "cpu.thread_samples"), `{"eq":["execname","busybody"]}`, "execname", "ustack", "kstack"))
	deadline := time.Now().Add(30 * time.Second)
	for sum := (tally{}); ; {
		drain(t, p, &sum)
		user, kernel := false, false
		for key := range sum.sums {
			parts := strings.Split(key, "|")
			require.Equal(t, "busybody", parts[0])
			user = user || strings.Contains(parts[1], "runtime.main;main.main;main.outer;main.inner;")
			kernel = kernel || strings.Contains(parts[2], "entry_SYSCALL_64_after_hwframe;do_syscall_64")
		}
		if user && kernel {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("there are no such stacks in %v", sum.sums)
		}
	}
}

// builtProgram builds a program with its symbols, which a test binary has not.
func builtProgram(t *testing.T, source string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "busybody")
	out, err := exec.Command("go", "build", "-o", path, source).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// Sampling sees a program that is always busy 99 times a second.
func TestSamplesOfABusyProgram(t *testing.T) {
	needTracer(t)
	h := newHelper(t)
	p := open(t, newEngine(t, Options{}), wish(definition(t, "cpu.thread_samples"), fmt.Sprintf(`{"eq":["pid","%d"]}`, h.cmd.Process.Pid), "subsecond"))
	before := h.cpuTime()
	h.do("getppid 5000000")
	used := h.cpuTime() - before
	sum := drained(t, p)
	want := 99 * used.Seconds()
	require.InDelta(t, want, sum.sums[""], 0.25*want+10, "of %s on a CPU", used)
}

// cpuTime is what the helper has used of a CPU.
func (h *helper) cpuTime() time.Duration {
	h.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.cmd.Process.Pid))
	require.NoError(h.t, err)
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')'):]))
	var ticks int
	for _, field := range fields[12:14] {
		n, err := strconv.Atoi(field)
		require.NoError(h.t, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// What is saved of connections that never come about is forgotten.
func TestFailedConnectsAreForgotten(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	h := newHelper(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	p := chosen(t, e, wish(definition(t, "tcp.connects"), fmt.Sprintf(`{"eq":["pid","%d"]}`, h.cmd.Process.Pid), "latency")).(*probe)
	h.do("refused "+address, "refused "+address, "refused "+address)
	require.Equal(t, map[string]float64{"": 0}, drained(t, p).sums)
	require.Zero(t, keysOf(t, p, "s_t0"))
	require.Zero(t, keysOf(t, p, "s_name"))
}

// Scope: what one zone's threads do is not seen by the other, also where the entry runs in anybody's context.
func TestExecutionsBelongToTheirZone(t *testing.T) {
	needTracer(t)
	resolver, c := realZones(t, uuid.Nil, uuid.Nil)
	e := newEngine(t, Options{Zones: resolver})
	inside, outside := newHelper(t), newHelper(t)
	inside.leave(c[0])
	inside.do("cgroup "+c[0].dir, "name inside")
	outside.do("name outside")
	r := wish(definition(t, "cpu.thread_executions"), `{"eq":["leavereason","sleeping"]}`, "execname", "runtime")
	r.WholeHost, r.Zones = false, []uuid.UUID{c[0].id}
	p := open(t, e, r)
	outside.do("sleep 50")
	inside.do("sleep 50")
	sum := drained(t, p)
	for key := range sum.sums {
		require.NotContains(t, key, "outside")
	}
	require.GreaterOrEqual(t, sum.sums[c[0].id.String()+":inside"], 50.0)
}

// Queries of a real PostgreSQL, by their text.
func TestQueriesByTheirText(t *testing.T) {
	needTracer(t)
	const bin = "/usr/lib/postgresql/15/bin"
	if !collect.HasUSDT(bin + "/postgres:postgresql:query__start") {
		if os.Getenv("CI") == "true" {
			t.Fatal("PostgreSQL 15 is not installed")
		}
		t.Skip("PostgreSQL 15 is not installed")
	}
	dir := postgres(t, bin)
	e := newEngine(t, Options{})
	p := chosen(t, e, wish(definition(t, "postgres.queries"), `{"and":[{"ne":["query","SELECT 'not this'"]},{"gt":["latency",0]}]}`, "query", "latency"))
	short := chosen(t, e, wish(definition(t, "postgres.queries", "max_concurrent: 1", "max_concurrent: 2"), `{"eq":["querysubstr","SELECT 'a,"]}`, "querysubstr"))
	attack := `SELECT 'a,b"}]\n' || E'\x01' || '@a[0] = 1; %s', repeat('x', 300)`
	for _, query := range []string{"SELECT 1", "SELECT 1", "SELECT 'not this'", attack} {
		out, err := exec.Command(bin+"/psql", "-h", dir, "-U", "postgres", "-Atc", query, "postgres").CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	sum := drained(t, p)
	delete(sum.sums, "")
	require.Equal(t, map[string]float64{"SELECT 1": 2, attack[:63]: 1}, sum.sums)
	require.Equal(t, map[string]float64{"SELECT 'a,": 1}, drained(t, short).sums)
}

// postgres starts a server of its own and gives its socket's directory.
func postgres(t testing.TB, bin string) string {
	t.Helper()
	account, err := user.Lookup("postgres")
	require.NoError(t, err)
	uid, _ := strconv.ParseUint(account.Uid, 10, 32)
	gid, _ := strconv.ParseUint(account.Gid, 10, 32)
	dir, err := os.MkdirTemp("/tmp", "iapi-pg-") // a socket's path is short
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chown(dir, int(uid), int(gid)))
	as := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	init := exec.Command(bin+"/initdb", "-D", dir+"/data", "-A", "trust", "-N")
	init.SysProcAttr, init.Dir = as, dir
	out, err := init.CombinedOutput()
	require.NoError(t, err, "%s", out)
	ctx, cancel := context.WithCancel(context.Background())
	server := exec.CommandContext(ctx, bin+"/postgres", "-D", dir+"/data", "-k", dir, "-c", "listen_addresses=", "-c", "fsync=off")
	server.SysProcAttr, server.Dir = as, dir
	server.Cancel = func() error { return server.Process.Signal(syscall.SIGINT) }
	require.NoError(t, server.Start())
	t.Cleanup(func() {
		cancel()
		_ = server.Wait() // it was told to end
	})
	require.Eventually(t, func() bool {
		return exec.Command(bin+"/psql", "-h", dir, "-U", "postgres", "-c", "", "postgres").Run() == nil
	}, time.Minute, 100*time.Millisecond)
	return dir
}
