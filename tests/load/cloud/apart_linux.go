package cloud

import "syscall"

// apart keeps Ctrl-C from the children, which are stopped in order, and ends them with their parent at the latest.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
