//go:build !linux

package sim

import "syscall"

func bindLate(string, string, syscall.RawConn) error { return nil }
