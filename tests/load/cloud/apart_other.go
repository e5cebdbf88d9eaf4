//go:build !linux

package cloud

import "syscall"

// apart keeps Ctrl-C from the children, which are stopped in order.
func apart() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
