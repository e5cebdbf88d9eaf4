package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

// settleAfter is when an agent has read its definitions and opened its probes.
const settleAfter = 10 * time.Second

// settle gives back, once, the memory that only starting needed: the heap's, and the pages of this program's own file that
// the kernel has mapped. Those are clean, and what is used again comes back from the page cache by itself. An agent is a
// guest on its host, and most of the program is the API's.
func settle(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settleAfter):
	}
	debug.FreeOSMemory()
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil // nothing is lost
	}
	defer maps.Close()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		line := lines.Text()
		var begin, end uintptr
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &begin, &end, &mode); n < 3 || mode[0] != 'r' || mode[1] != '-' || !strings.HasSuffix(line, program) {
			continue
		}
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, begin, end-begin, syscall.MADV_DONTNEED) // advice: that it is not taken harms nothing
	}
	return nil
}
