package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"iapi/tests/yardstick"
)

// driverEnv makes the test binary a program whose doings are known exactly.
const driverEnv = "IAPI_E2E_DRIVER"

// needTracing leaves a test out where this machine cannot trace.
func needTracing(t testing.TB) {
	t.Helper()
	need(t, os.Geteuid() == 0, "root, to trace")
	_, err := exec.LookPath("bpftrace")
	need(t, err == nil, "bpftrace")
	if !exists("/sys/kernel/tracing/events") {
		err := unix.Mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, "")
		need(t, err == nil, "tracefs")
	}
}

// drive is what the driver does: one order after the other, each answered by a line.
func drive() {
	runtime.LockOSThread()
	orders := bufio.NewScanner(os.Stdin)
	for orders.Scan() {
		order, number, _ := strings.Cut(orders.Text(), " ")
		n, _ := strconv.Atoi(number)
		switch order {
		case "name": // is what execname shows
			_ = os.WriteFile("/proc/thread-self/comm", []byte(number), 0o600)
		case "getppid":
			for range n {
				_, _, _ = syscall.RawSyscall(syscall.SYS_GETPPID, 0, 0, 0)
			}
		case "connect": // to this port
			c, err := net.Dial("tcp", "127.0.0.1:"+number)
			if err != nil {
				panic(err)
			}
			c.Close()
		}
		fmt.Println("done")
	}
}

type driver struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startDriver(t testing.TB) *driver {
	t.Helper()
	d := &driver{t: t, cmd: exec.Command(os.Args[0])}
	d.cmd.Env = append(os.Environ(), driverEnv+"=1")
	d.cmd.Stderr = os.Stderr
	var err error
	d.in, err = d.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := d.cmd.StdoutPipe()
	require.NoError(t, err)
	d.out = bufio.NewReader(out)
	require.NoError(t, d.cmd.Start())
	t.Cleanup(func() {
		d.in.Close()
		_ = d.cmd.Wait() // it has no errors to tell
	})
	return d
}

func (d *driver) do(orders ...string) {
	d.t.Helper()
	for _, order := range orders {
		_, err := fmt.Fprintln(d.in, order)
		require.NoError(d.t, err)
		answer, err := d.out.ReadString('\n')
		require.NoError(d.t, err)
		require.Equal(d.t, "done\n", answer)
	}
}

// buckets adds up a numeric decomposition.
func (e event) buckets(field string) (n int64) {
	for _, b := range e.Dist[field] {
		n += int64(b.Count)
	}
	return n
}

// awaitEvents reads a stream from its beginning until enough is there.
func (a api) awaitEvents(id string, enough func([]event) bool) []event {
	a.t.Helper()
	var all []event
	ok := wait(patience, func() bool {
		all = parseEvents(a.t, a.run("watch", id, "--since", "3m", "--for", "100ms", "-o", "json"))
		return enough(all)
	})
	require.True(a.t, ok, "%s is %+v and has given %d events: %+v", id, a.get(id), len(all), all[max(0, len(all)-5):])
	return all
}

func (a api) awaitTotal(id string, n float64) []event {
	a.t.Helper()
	all := a.awaitEvents(id, func(all []event) bool { return total(a.t, all) >= n })
	require.Equal(a.t, n, total(a.t, all))
	return all
}

func total(t testing.TB, all []event) (sum float64) {
	for _, e := range all {
		sum += e.value(t)
	}
	return sum
}

// tracers are the tracing programs that a process runs, by process id, with the kernel's programs of each.
func tracers(parent int) map[int][]ebpf.ProgramID {
	found := map[int][]ebpf.ProgramID{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is right
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		name, rest, _ := strings.Cut(string(text), ")")
		fields := strings.Fields(rest)
		if !strings.HasSuffix(name, "(bpftrace") || fields[0] == "Z" || fields[1] != strconv.Itoa(parent) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		found[pid] = nil
		infos, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "fdinfo/*"))
		for _, info := range infos {
			text, _ := os.ReadFile(info) // it may have been closed
			for line := range strings.Lines(string(text)) {
				if id, is := strings.CutPrefix(line, "prog_id:"); is {
					n, _ := strconv.ParseUint(strings.TrimSpace(id), 10, 32)
					found[pid] = append(found[pid], ebpf.ProgramID(n))
				}
			}
		}
	}
	return found
}

func isLoaded(id ebpf.ProgramID) bool {
	p, err := ebpf.NewProgramFromID(id)
	if err == nil {
		p.Close()
	}
	return err == nil
}

// gone reports whether tracers and what they had in the kernel are gone.
func gone(traced map[int][]ebpf.ProgramID) bool {
	for pid, programs := range traced {
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(text), ") Z ") {
			return false
		}
		if slices.ContainsFunc(programs, isLoaded) {
			return false
		}
	}
	return true
}

// What this machine does is traced, each by "iapi create" alone.
func TestTracing(t *testing.T) {
	t.Parallel()
	needTracing(t)
	d := startDev(t, t.TempDir())
	on := func(t *testing.T) api { return api{t: t, server: d.server, dir: d.dir} }

	t.Run("all", func(t *testing.T) {
		t.Run("a runaway is stopped and quarantined", func(t *testing.T) { t.Parallel(); testRunaway(t, on(t)) })
		t.Run("system calls by name and latency, exactly", func(t *testing.T) {
			t.Parallel()
			a, driver := on(t), startDriver(t)
			driver.do("name e2e-driver")
			id := a.create("syscall.syscalls", "--by", "execname", "--by", "latency", "--every-host",
				"--where", fmt.Sprintf(`{"and":[{"eq":["syscall","getppid"]},{"eq":["pid","%d"]}]}`, driver.cmd.Process.Pid))
			a.becomes(id, "ENABLED")
			var v struct{ ExpiresAt, CreatedAt time.Time }
			require.NoError(t, json.Unmarshal([]byte(a.run("get", id, "-o", "json")), &v))
			require.Equal(t, time.Hour, v.ExpiresAt.Sub(v.CreatedAt), "tracing always has a time to live")
			const calls = 20_000
			for range 4 {
				driver.do(fmt.Sprint("getppid ", calls/4))
			}
			for _, e := range a.awaitTotal(id, calls) {
				require.Equal(t, "e2e-driver", e.Fields["execname"])
				require.EqualValues(t, e.value(t), e.buckets("latency"), "each is in a bucket")
				require.False(t, e.Partial)
			}
			a.run("delete", id)
		})
		t.Run("disk latency while dd runs", func(t *testing.T) {
			t.Parallel()
			a := on(t)
			id := a.create("disk.physio_ops", "--by", "optype", "--by", "latency", "--every-host")
			a.becomes(id, "ENABLED")
			began := time.Now()
			dd := exec.Command("dd", "if=/dev/zero", "of="+filepath.Join(t.TempDir(), "dd"), "bs=64k", "count=200", "conv=fsync")
			out, err := dd.CombinedOutput()
			require.NoError(t, err, string(out))
			var longest int64
			a.awaitEvents(id, func(all []event) bool {
				var writes, bytes float64
				for _, e := range all {
					if e.Fields["optype"] == "write" && e.Timestamp.After(began.Add(-2*time.Second)) {
						writes += e.value(t)
						bytes += float64(e.buckets("latency"))
						for _, b := range e.Dist["latency"] {
							longest = max(longest, b.High)
						}
					}
				}
				require.Equal(t, writes, bytes, "each is in a bucket")
				return writes >= 10 // 13 MB, by at most 1.3 MB at a time
			})
			require.Greater(t, longest, int64(1000), "no disk answers within a microsecond")
			a.run("delete", id)
		})
		t.Run("the stacks of a busy program", func(t *testing.T) {
			t.Parallel()
			a := on(t)
			// A program of its own, for "go test" leaves a test's symbols out.
			program := filepath.Join(t.TempDir(), "e2e-busy")
			out, err := exec.Command("go", "build", "-o", program, "./testdata/spin").CombinedOutput()
			require.NoError(t, err, string(out))
			id := a.create("cpu.thread_samples", "--by", "execname", "--by", "ustack", "--every-host", "--where", `{"eq":["execname","e2e-busy"]}`)
			a.becomes(id, "ENABLED")
			busy := start(t, program)
			t.Cleanup(busy.kill) // an interrupt may be ignored, as in the background of a shell, and it asks for none
			samples, known := 0.0, 0.0
			all := a.awaitEvents(id, func(all []event) bool {
				samples, known = 0, 0
				for _, e := range all {
					samples += e.value(t)
					if strings.Contains(e.Fields["ustack"], "main.spinInTheOpen") {
						known += e.value(t)
					}
				}
				return samples >= 60 // of 297 on an idle machine
			})
			require.Greater(t, known, 0.8*samples, "%+v", all)
			a.run("delete", id)
		})
		t.Run("connects to a local port", func(t *testing.T) {
			t.Parallel()
			a, driver := on(t), startDriver(t)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer l.Close()
			_, port, _ := net.SplitHostPort(l.Addr().String())
			id := a.create("tcp.connects", "--by", "raddr", "--by", "rport", "--every-host", "--where", fmt.Sprintf(`{"eq":["rport","%s"]}`, port))
			a.becomes(id, "ENABLED")
			const connects = 7
			for range connects {
				driver.do("connect " + port)
			}
			for _, e := range a.awaitTotal(id, connects) {
				require.Equal(t, "127.0.0.1", e.Fields["raddr"])
				require.Equal(t, port, e.Fields["rport"])
			}
			a.run("delete", id)
		})
		t.Run("PostgreSQL's queries by their text", func(t *testing.T) {
			t.Parallel()
			testPostgres(t, on(t))
		})
		t.Run("a definition that nobody knew is published and traced without a restart", func(t *testing.T) {
			t.Parallel()
			a, driver := on(t), startDriver(t)
			a.run("metrics", "publish", writeFile(t, getppids("calls", 2)))
			id := a.create("test.calls", "--by", "pid", "--every-host", "--where", fmt.Sprintf(`{"eq":["pid","%d"]}`, driver.cmd.Process.Pid))
			a.becomes(id, "ENABLED")
			driver.do("getppid 1234")
			a.awaitTotal(id, 1234)
			a.run("delete", id)
		})
	})

	t.Run("a delete ends the tracer before it is acknowledged", func(t *testing.T) {
		require.True(t, wait(patience, func() bool { return len(tracers(d.cmd.Process.Pid)) == 0 }), "%v", tracers(d.cmd.Process.Pid))
	})
	t.Run("stopTracing stops all at once", func(t *testing.T) { testStopTracing(t, on(t), d) })
	t.Run("nothing outlives an agent that is killed", func(t *testing.T) {
		id := on(t).create("syscall.syscalls", "--every-host")
		on(t).becomes(id, "ENABLED")
		traced := tracers(d.cmd.Process.Pid)
		require.Len(t, traced, 1)
		for _, programs := range traced {
			require.NotEmpty(t, programs)
			require.True(t, isLoaded(programs[0]))
		}
		d.kill()
		killed := yardstick.Start(t)
		require.True(t, wait(patience, func() bool { return gone(traced) }))
		took := killed.Elapsed()
		t.Logf("the tracer and its programs were gone after %d ms", killed.Wall().Milliseconds())
		require.Less(t, took, time.Second)
	})
}

// getppids is a definition that counts one system call, with a budget in percent of all processors.
func getppids(stat string, budget float64) string {
	return fmt.Sprintf(`schema: iapi.metric/1
metric: {module: test, stat: %s}
version: 1
label: calls of getppid
kind: interval
value: {unit: calls}
visibility: operator
fields:
  hostname: {builtin: host, label: host name, visibility: operator}
  pid: {type: string, label: process identifier, match: uint}
limits: {max_keys: 100, max_runtime_s: 600, cpu_budget_pct: %g, max_concurrent: 1}
variants:
  - id: linux-syscalls
    cost: 5
    places: [host]
    scope: none
    when: {os: [linux], bpftrace: ">=0.17", tracepoints: ["raw_syscalls:sys_enter"]}
    fields: [pid]
    source:
      bpftrace:
        clauses:
          - probes: ["tracepoint:raw_syscalls:sys_enter"]
            role: event
            if: args->id == %d
            fields:
              pid: {ctype: uint, expr: pid}
`, stat, budget, syscall.SYS_GETPPID)
}

// testRunaway measures what costs more than its definition allows.
func testRunaway(t testing.TB, a api) {
	a.run("metrics", "publish", writeFile(t, getppids("runaway", 0.0001)))
	id := a.create("test.runaway", "--every-host")
	var v view
	require.True(t, wait(patience, func() bool { v = a.get(id); return v.Coverage.Failed == 1 }), "%+v", v)
	require.Equal(t, "OVER_BUDGET", v.Problems[0].Status)
	require.Contains(t, v.Problems[0].Message, "is its budget")
	again := a.create("test.runaway", "--every-host", "--by", "pid")
	require.True(t, wait(patience, func() bool { v = a.get(again); return v.Coverage.Failed == 1 }), "%+v", v)
	require.Equal(t, "OVER_BUDGET", v.Problems[0].Status)
	require.Contains(t, v.Problems[0].Message, "in quarantine until")
	a.run("delete", id)
	a.run("delete", again)
}

func testStopTracing(t testing.TB, a api, d *dev) {
	ids := []string{a.create("syscall.syscalls", "--every-host", "--by", "execname"), a.create("unix.proc_forks", "--every-host")}
	counted := a.create("cpu.loadavg1", "--every-host")
	for _, id := range append(ids, counted) {
		a.becomes(id, "ENABLED")
	}
	traced := tracers(d.cmd.Process.Pid)
	require.Len(t, traced, 2)
	body := []byte(`{"query":"mutation { stopTracing(input: {everywhere: true, reason: \"enough\"}) { accepted userErrors { code message } } }"}`)
	asked := time.Now()
	resp, err := http.Post(a.server+"/graphql", "application/json", bytes.NewReader(body))
	require.NoError(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Contains(t, string(answer), `"accepted":true`)
	require.True(t, wait(patience, func() bool { return gone(traced) }))
	t.Logf("all tracing had stopped %d ms after it was asked for", time.Since(asked).Milliseconds())
	for _, id := range ids {
		a.becomes(id, "PAUSED")
	}
	require.Equal(t, "ENABLED", a.get(counted).State, "what only counts goes on")
}

// Who is not root traces nothing, is told what to do about it, and measures the rest.
func TestWithoutRootTracingIsDenied(t *testing.T) {
	t.Parallel()
	needTracing(t)
	const nobody = 65534
	dir, err := os.MkdirTemp("", "iapi-e2e-nobody-*")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chown(dir, nobody, nobody))
	setpriv, err := exec.LookPath("setpriv")
	need(t, err == nil, "setpriv")
	p := start(t, setpriv, fmt.Sprintf("--reuid=%d", nobody), fmt.Sprintf("--regid=%d", nobody), "--clear-groups",
		binary, "dev", "--listen", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "data"))
	a := api{t: t, server: p.expect(`API and explorer\s+(http://\S+)`), dir: filepath.Join(dir, "data")}
	id, other := a.create("syscall.syscalls", "--every-host"), a.create("cpu.usage", "--by", "cpumode", "--every-host")
	a.becomes(other, "ENABLED")
	var v view
	require.True(t, wait(patience, func() bool { v = a.get(id); return v.Coverage.Failed == 1 }), "%+v", v)
	require.Equal(t, "DENIED", v.Problems[0].Status)
	require.Contains(t, v.Problems[0].Message, "tracing is for root only: run the agent as root")
}

// I5, with everything but the agent gone.
func TestTracingEndsInTimeWithoutTheAPI(t *testing.T) {
	t.Parallel()
	needTracing(t)
	c := startCloud(t)
	a := c.apis[0]
	sd := startStatsd(t)
	var v struct {
		State     string
		ExpiresAt time.Time
	}
	for ttl := 15; v.State != "ENABLED"; ttl *= 2 { // a machine that is slow needs more until it traces
		require.Less(t, ttl, 500, "%+v", v)
		id := a.create("syscall.syscalls", "--by", "execname", "--every-host", "--ttl", fmt.Sprint(ttl, "s"), "--target", "statsd://"+sd.address)
		require.True(t, wait(time.Duration(ttl)*time.Second+patience, func() bool {
			require.NoError(t, json.Unmarshal([]byte(a.run("get", id, "-o", "json")), &v))
			return v.State == "ENABLED" && time.Until(v.ExpiresAt) > 5*time.Second || v.State == "EXPIRED"
		}), "%+v", v)
	}
	agent := c.processes["agent"]
	traced := tracers(agent.cmd.Process.Pid)
	require.Len(t, traced, 1)
	for name, p := range c.processes {
		if name != "agent" {
			p.kill()
		}
	}
	has := !gone(traced)
	require.True(t, has || time.Until(v.ExpiresAt) < time.Second, "an API that is away stops no measurement")
	wait(time.Until(v.ExpiresAt), func() bool { return gone(traced) })
	late := yardstick.Start(t)
	require.True(t, wait(patience, func() bool { return gone(traced) }))
	t.Logf("it was gone %.2f s after its end", time.Since(v.ExpiresAt).Seconds())
	require.Less(t, time.Until(v.ExpiresAt), time.Second, "it has lived for as long as it should")
	require.Less(t, late.Elapsed(), time.Second)
}

// A definition that went over its budget stays in quarantine when the agent is killed and comes back, until a version that
// has mended it is published.
func TestQuarantineSurvivesARestartOfTheAgent(t *testing.T) {
	t.Parallel()
	needTracing(t)
	home := t.TempDir()
	d := startDev(t, home)
	a := d.api()
	a.run("metrics", "publish", writeFile(t, getppids("greedy", 0.0001)))
	id := a.create("test.greedy", "--every-host", "--target", "statsd://"+startStatsd(t).address) // which is still there after a restart
	var v view
	failed := func() bool { v = a.get(id); return v.Coverage.Failed == 1 }
	require.True(t, wait(patience, failed), "%+v", v)
	require.Equal(t, "OVER_BUDGET", v.Problems[0].Status)
	require.Empty(t, tracers(d.cmd.Process.Pid))
	d.kill()

	d = startDev(t, home)
	a = d.api()
	require.True(t, wait(patience, func() bool {
		return failed() && strings.Contains(v.Problems[0].Message, "in quarantine until")
	}), "%+v", v)
	require.Equal(t, "OVER_BUDGET", v.Problems[0].Status)
	require.Empty(t, tracers(d.cmd.Process.Pid), "it was not even tried")
	// The next version of the definition has mended it.
	a.run("metrics", "publish", writeFile(t, strings.Replace(getppids("greedy", 50), "version: 1", "version: 2", 1)))
	a.becomes(id, "ENABLED")
}
