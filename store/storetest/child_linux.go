package storetest

import "syscall"

// child makes a child process end with the test's.
func child() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
