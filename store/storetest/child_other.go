//go:build !linux

package storetest

import "syscall"

// child is nothing special where a child process cannot be made to end with the test's.
func child() *syscall.SysProcAttr { return nil }
