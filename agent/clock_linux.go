package agent

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// boottime is the time since boot, suspended time included, so that no step of the wall clock moves it.
func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Duration(0)
	}
	return time.Duration(ts.Nano())
}

// bootID names this boot; times since boot compare only within one.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}
