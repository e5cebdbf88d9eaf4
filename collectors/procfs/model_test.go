package procfs_test

import (
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/collectors/collect"
	"iapi/collectors/procfs"
)

// by gives how many processes have each value of a field.
func by(t *testing.T, proc, field string) map[string]float64 {
	t.Helper()
	e := procfs.New(procfs.Options{Proc: proc})
	p := open(t, e, collect.Request{Definition: definition(t, "unix.processes"), WholeHost: true, Decompositions: []string{field}}, "linux-processes")
	collectOnce(t, p)
	out := map[string]float64{}
	for _, s := range collectOnce(t, p).Samples {
		out[s.Fields[0].Value] += s.Value
	}
	return out
}

// What the kernel tells a program at its start, as it was recorded from programs of 64 and of 32 bits, on a little-endian
// machine; of its own threads it tells nothing.
func TestTheModelOfAProcessIsThatOfItsAddresses(t *testing.T) {
	proc := t.TempDir()
	native := strconv.Itoa(strconv.IntSize) + "-bit"
	for pid, auxv := range map[int]string{
		10: "\x21\x00\x00\x00\x00\x00\x00\x00\x00\x70\x18\xe8\x0f\x7f\x00\x00", // AT_SYSINFO_EHDR
		11: "\x20\x00\x00\x00\x90\x25\xf9\xf7\x21\x00\x00\x00\x00\x20\xf9\xf7", // AT_SYSINFO, AT_SYSINFO_EHDR
		12: "\x21\x00\x00\x00\x00\x20\xf9\xf7\x10\x00\x00\x00\xff\xfb\xeb\xbf",
		13: "",
	} {
		process(t, proc, pid, 1, "p", "", "0::/\n", 1)
		put(t, filepath.Join(proc, strconv.Itoa(pid), "auxv"), auxv)
	}
	process(t, proc, 14, 1, "kernel", "", "0::/\n", 1) // newer kernels refuse to open theirs
	want := map[string]float64{"64-bit": 1, "32-bit": 2}
	want[native] += 2
	switch runtime.GOARCH {
	case "amd64", "arm64", "386", "arm", "riscv64", "ppc64le":
		require.Equal(t, want, by(t, proc, "pmodel"))
	}
	require.Positive(t, by(t, "/proc", "pmodel")[native], "this process is one of them")
}

func TestTheContractOfAProcessIsItsCgroup(t *testing.T) {
	proc := t.TempDir()
	deep := "/" + string(make([]byte, 300))
	for pid, cgroup := range map[int]string{
		10: "9:memory:/docker/a\n0::/system.slice/docker.service\n",
		11: "9:memory:/docker/b\n1:name=systemd:/docker/b\n",
		12: "9:memory:/docker/c\n0::/\n",
		13: "0::/\n",
		14: "0::" + deep + "\n",
	} {
		process(t, proc, pid, 1, "p", "", cgroup, 1)
	}
	require.Equal(t, map[string]float64{"/system.slice/docker.service": 1, "/docker/b": 1, "/docker/c": 1, "/": 1, deep[:255]: 1}, by(t, proc, "contract"))
	total := 0.0
	for _, n := range by(t, "/proc", "contract") {
		total += n
	}
	require.Positive(t, total, "every process has one")
}
