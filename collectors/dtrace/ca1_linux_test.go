package dtrace

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// waits is how long threads have waited for a CPU, in ns by their numbers.
type waits map[string]float64

// waited is how long those of helpers have, as the kernel itself tells.
func waited(t *testing.T, helpers ...*helper) waits {
	t.Helper()
	all := waits{}
	for _, h := range helpers {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", h.cmd.Process.Pid))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			all[file], err = strconv.ParseFloat(strings.Fields(string(text))[1], 64)
			require.NoError(t, err)
		}
	}
	return all
}

// since gives how much each thread has waited more than before.
func (w waits) since(before waits) (most, sum float64) {
	for thread, ns := range w {
		most, sum = max(most, ns-before[thread]), sum+ns-before[thread]
	}
	return most, sum
}

// pin keeps a helper's threads to one CPU.
func (h *helper) pin(cpu int) {
	h.t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", h.cmd.Process.Pid))
	require.NoError(h.t, err)
	var set unix.CPUSet
	set.Set(cpu)
	for _, task := range tasks {
		tid, err := strconv.Atoi(filepath.Base(task))
		require.NoError(h.t, err)
		require.NoError(h.t, unix.SchedSetaffinity(tid, &set))
	}
}

// Three programs want the same CPU. What the two of the zone wait, by the kernel's own account, is the zone's waiting, from
// when the program knows a thread; the third's is not.
func TestAZonesThreadsWaitForACPU(t *testing.T) {
	needTracer(t)
	resolver, c := realZones(t, uuid.Nil)
	var allowed unix.CPUSet
	require.NoError(t, unix.SchedGetaffinity(0, &allowed))
	cpu := 0
	for !allowed.IsSet(cpu) {
		cpu++
	}
	inside, outside := []*helper{newHelper(t), newHelper(t)}, newHelper(t)
	for _, h := range inside {
		h.leave(c[0])
		h.do("cgroup " + c[0].dir)
		h.pin(cpu)
	}
	outside.pin(cpu)
	e := newEngine(t, Options{Zones: resolver})
	r := wish(definition(t, "cpu.waittime"), `{}`)
	r.WholeHost, r.Zones = false, []uuid.UUID{c[0].id}

	first := waited(t, inside...)
	p := open(t, e, r)
	var least float64
	before := make([]waits, len(inside))
	for i, h := range inside {
		h.do("sleep 2") // from here on the program knows the thread that works
		before[i] = waited(t, h)
	}
	done := make(chan struct{}, 3)
	for _, h := range append(inside, outside) {
		go func() {
			h.do("getppid 500000")
			done <- struct{}{}
		}()
	}
	for range 3 {
		<-done
	}
	for i, h := range inside {
		working, _ := waited(t, h).since(before[i])
		require.Greater(t, working, 5e6, "it has had to wait")
		least += working
	}
	sum := drained(t, p)
	_, most := waited(t, inside...).since(first)
	require.Len(t, sum.sums, 1)
	got := sum.sums[c[0].id.String()+":"]
	require.GreaterOrEqual(t, got, least)
	require.LessOrEqual(t, got, most)
}

// A process accepts by TCP of either version, and by another protocol, which does not count.
func TestAcceptsByProcess(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	p := chosen(t, e, wish(definition(t, "tcp.accepts"), fmt.Sprintf(`{"eq":["pid","%d"]}`, os.Getpid()), "execname", "pid", "ppid"))
	for _, l := range []struct {
		network, address string
		times            int
	}{{"tcp4", "127.0.0.1:0", 5}, {"tcp6", "[::1]:0", 2}, {"unix", filepath.Join(t.TempDir(), "s"), 3}} {
		listener, err := net.Listen(l.network, l.address)
		require.NoError(t, err)
		for range l.times {
			out, err := net.Dial(l.network, listener.Addr().String())
			require.NoError(t, err)
			in, err := listener.Accept()
			require.NoError(t, err)
			require.NoError(t, out.Close())
			require.NoError(t, in.Close())
		}
		require.NoError(t, listener.Close())
	}
	name, err := os.ReadFile("/proc/thread-self/comm")
	require.NoError(t, err)
	want := fmt.Sprintf("%s|%d|%d", strings.TrimSpace(string(name)), os.Getpid(), os.Getppid())
	require.Equal(t, map[string]float64{want: 7}, drained(t, p).sums)
}

// The threads of a program of a zone that has the name of one that runs virtual machines are sampled 99 times a second, those
// of others never.
func TestSamplesOfVirtualMachines(t *testing.T) {
	needTracer(t)
	resolver, c := realZones(t, uuid.Nil)
	dir, err := os.Open(c[0].dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, dir.Close()) })
	link := filepath.Join(t.TempDir(), "qemu-kvm")
	require.NoError(t, os.Symlink("/bin/sh", link))
	r := wish(definition(t, "vm.thread_samples"), `{}`, "subsecond")
	r.WholeHost, r.Zones = false, []uuid.UUID{c[0].id}
	p := open(t, newEngine(t, Options{Zones: resolver}), r)
	run := func(path string) float64 {
		cmd := exec.Command(path, "-c", "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done")
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
		require.NoError(t, cmd.Run())
		return (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	}
	want := 99 * run(link)
	run("/bin/sh")
	require.InDelta(t, want, drained(t, p).sums[c[0].id.String()+":"], 0.25*want+10)
}

// A virtual machine that QEMU runs without the processor's help computes in QEMU's own threads, and they are sampled in the zone
// that they are in.
func TestSamplesOfAGuest(t *testing.T) {
	if os.Getenv("IAPI_PROVE") != "1" {
		t.Skip("run with IAPI_PROVE=1, as root, with qemu-system-x86_64")
	}
	needTracer(t)
	resolver, c := realZones(t, uuid.Nil)
	dir, err := os.Open(c[0].dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, dir.Close()) })
	boot := make([]byte, 512)
	copy(boot, "\xeb\xfe") // jumps to itself
	copy(boot[510:], "\x55\xaa")
	disk := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(disk, boot, 0o600))
	r := wish(definition(t, "vm.thread_samples"), `{}`, "subsecond")
	r.WholeHost, r.Zones = false, []uuid.UUID{c[0].id}
	p := open(t, newEngine(t, Options{Zones: resolver}), r)

	qemu := exec.Command("qemu-system-x86_64", "-accel", "tcg", "-m", "16", "-nodefaults", "-display", "none", "-drive", "format=raw,if=ide,file="+disk)
	qemu.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	require.NoError(t, qemu.Start())
	t.Cleanup(func() { _ = qemu.Process.Kill() }) // it may have been already
	require.Eventually(t, func() bool {
		spent, err := cost("/proc", qemu.Process.Pid)
		return err != nil || spent > 3*time.Second
	}, 5*time.Minute, 10*time.Millisecond)
	require.NoError(t, qemu.Process.Kill())
	require.Error(t, qemu.Wait(), "it was killed, and had not ended by itself")
	spent := (qemu.ProcessState.UserTime() + qemu.ProcessState.SystemTime()).Seconds()
	require.Greater(t, spent, 2.5)
	require.InDelta(t, 99*spent, drained(t, p).sums[c[0].id.String()+":"], 25*spent+10)
}
