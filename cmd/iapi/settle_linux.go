package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
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
	giveBack()
	return nil
}

// giveBack does so now. Where it cannot, nothing is lost.
func giveBack() {
	debug.FreeOSMemory()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer maps.Close()
	for _, m := range cleanMappings(maps, program) {
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, m.begin, m.end-m.begin, syscall.MADV_DONTNEED) // advice: that it is not taken harms nothing
	}
}

type mapping struct{ begin, end uintptr }

// cleanMappings finds in the kernel's account of a process the parts of a file that are mapped as they are in the file. A
// part that can only be read may yet differ from it: a loader writes addresses into it first.
func cleanMappings(smaps io.Reader, file string) []mapping {
	var all []mapping
	var current *mapping // of the file, and for reading only
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		line := lines.Text()
		var m mapping
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &m.begin, &m.end, &mode); n == 3 {
			current = nil
			if len(mode) > 1 && mode[0] == 'r' && mode[1] == '-' && strings.HasSuffix(line, " "+file) {
				current = &m
			}
			continue
		}
		if anonymous, is := strings.CutPrefix(line, "Anonymous:"); is && current != nil && strings.TrimSpace(anonymous) == "0 kB" {
			all = append(all, *current)
		}
	}
	return all
}
