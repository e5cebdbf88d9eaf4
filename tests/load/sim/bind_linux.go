package sim

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// bindLate lets the kernel choose the port when it knows the other end, so that each source address has all of its ports for
// each server.
func bindLate(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	}); cerr != nil {
		return cerr
	}
	return err
}
