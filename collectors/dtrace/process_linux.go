package dtrace

import (
	"syscall"

	"golang.org/x/sys/unix"
)

func diesWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Setpgid: true, // a terminal's signals are for the agent, which then ends its tracers
		// The kernel sends it even when this process is killed by -9.
		Pdeathsig: syscall.SIGKILL,
	}
}

// maxAddressSpace is what a tracer may map; bpftrace needs about 400 MiB.
const maxAddressSpace = 2 << 30

// limitProcess keeps a tracer from taking memory without bound. A tracer that is gone already needs no limit.
func limitProcess(pid int) {
	_ = unix.Prlimit(pid, unix.RLIMIT_AS, &unix.Rlimit{Cur: maxAddressSpace, Max: maxAddressSpace}, nil)
	_ = unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil)
}
