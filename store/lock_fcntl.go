//go:build solaris || illumos || aix

package store

import (
	"os"

	"golang.org/x/sys/unix"
)

// lockFile locks a file until it is closed, and fails at once if another process has.
func lockFile(f *os.File) error {
	return unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
}
