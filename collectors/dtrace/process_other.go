//go:build !linux

package dtrace

import "syscall"

// diesWithParent gives the tracer a process group of its own. A tracer prints each second, and dies of the signal that
// comes when nobody reads it any more.
func diesWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func limitProcess(int) {}
