//go:build unix && !solaris && !illumos && !aix

package store

import (
	"os"

	"golang.org/x/sys/unix"
)

// lockFile locks a file until it is closed, and fails at once if somebody else has.
func lockFile(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
