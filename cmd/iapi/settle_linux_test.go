package main

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// fileMemory is how much of this process's memory is of files, in kB.
func fileMemory(t *testing.T) int {
	text, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "RssFile:")
	require.True(t, found)
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(t, err)
	return n
}

// written is in a part of the program's file that is not as it is in the file any more.
var written = "in the file"

const settleEnv = "IAPI_TEST_SETTLE"

func TestAnAgentGivesBackWhatOnlyStartingNeeded(t *testing.T) {
	if os.Getenv(settleEnv) == "" { // in a process of its own, where nothing else goes on
		cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), settleEnv+"=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		return
	}
	written = t.Name()
	program, err := os.Readlink("/proc/self/exe")
	require.NoError(t, err)
	smaps, err := os.Open("/proc/self/smaps")
	require.NoError(t, err)
	defer smaps.Close()
	size := 0
	for _, m := range cleanMappings(smaps, program) {
		size += int(m.end-m.begin) >> 10
		const populateRead = 22 // brings all of it into memory, from Linux 5.14 on
		_, _, errno := syscall.Syscall(syscall.SYS_MADVISE, m.begin, m.end-m.begin, populateRead)
		require.Zero(t, errno)
	}
	require.Greater(t, size, 5<<10, "the program's code is found")
	before := fileMemory(t)
	require.GreaterOrEqual(t, before, size)
	giveBack()
	require.Less(t, fileMemory(t), before/2)
	require.Equal(t, t.Name(), written)
	_, err = exec.Command("/bin/true").CombinedOutput() // what is used again is there
	require.NoError(t, err)
}

func TestOnlyWhatIsAsInTheFileIsGivenBack(t *testing.T) {
	const smaps = `00400000-01c00000 r-xp 00000000 fe:00 123                                /usr/bin/iapi
Rss:                6144 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
01c00000-03000000 r--p 01800000 fe:00 123                                /usr/bin/iapi
Anonymous:             0 kB
03000000-03010000 r--p 02c00000 fe:00 123                                /usr/bin/iapi
Anonymous:            12 kB
03010000-03100000 rw-p 02c10000 fe:00 123                                /usr/bin/iapi
Anonymous:             0 kB
7f0000000000-7f0000100000 r-xp 00000000 fe:00 124                        /usr/lib/other/iapi
Anonymous:             0 kB
7f0000200000-7f0000300000 r--p 00000000 00:00 0
Anonymous:             0 kB
`
	require.Equal(t, []mapping{{0x400000, 0x1c00000}, {0x1c00000, 0x3000000}}, cleanMappings(strings.NewReader(smaps), "/usr/bin/iapi"))
}
