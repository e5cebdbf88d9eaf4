package zone

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// eventsFile tells whether a v2 cgroup has processes; the kernel notifies of it.
const eventsFile = "cgroup.events"

// maxSmallFile bounds what is read of a /proc or cgroup file that tells of one process or one cgroup.
const maxSmallFile = 256 << 10

// initProcess finds the zone's first process: the one that is pid 1 in a pid namespace of its own, else the oldest
// number. It looks at the first processes only, so that its cost does not grow with the zone.
func initProcess(proc string, c Cgroups) (pid int, start uint64) {
	for _, dir := range c.dirs() {
		pids := processes(dir, 0)
		if len(pids) == 0 {
			continue
		}
		first := pids[0]
		for _, p := range pids[:min(len(pids), 32)] {
			if isNamespaceInit(proc, p) {
				first = p
				break
			}
			first = min(first, p)
		}
		return first, StartTime(proc, first)
	}
	return 0, 0
}

// processes lists the pids of a cgroup, or of the first cgroup below it that has any.
func processes(dir string, depth int) []int {
	text, err := readBounded(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for line := range bytes.Lines(text) {
		if pid, err := strconv.Atoi(string(bytes.TrimSpace(line))); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	if len(pids) > 0 || depth >= maxDepth {
		return pids
	}
	names, err := subdirectories(dir)
	if err != nil {
		return nil
	}
	for _, name := range names {
		if pids = processes(filepath.Join(dir, name), depth+1); len(pids) > 0 {
			return pids
		}
	}
	return nil
}

// isEmpty reports whether the kernel says that no process is in a v2 cgroup, nor below it.
func isEmpty(dir string) bool {
	if dir == "" {
		return false
	}
	text, err := readBounded(filepath.Join(dir, eventsFile))
	return err == nil && bytes.Contains(append([]byte{'\n'}, text...), []byte("\npopulated 0\n"))
}

// namespacePIDs gives the numbers that a process has in our pid namespace and in each one below it that it is in.
func namespacePIDs(proc string, pid int) [][]byte {
	text, err := readBounded(filepath.Join(proc, strconv.Itoa(pid), "status"))
	if err != nil {
		return nil
	}
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte("NSpid:")); ok {
			return bytes.Fields(rest)
		}
	}
	return nil
}

func isNamespaceInit(proc string, pid int) bool {
	ids := namespacePIDs(proc, pid)
	return len(ids) > 1 && string(ids[len(ids)-1]) == "1"
}

// StartTime tells when a process began, in ticks since boot; 0 if there is no such process. Root is usually /proc.
func StartTime(root string, pid int) uint64 {
	start, err := strconv.ParseUint(statField(root, pid, 22), 10, 64)
	if err != nil {
		return 0
	}
	return start
}

// parentOf tells the parent of a process; 0 if it has none here.
func parentOf(root string, pid int) int {
	parent, err := strconv.Atoi(statField(root, pid, 4))
	if err != nil {
		return 0
	}
	return parent
}

// statField gives a field of a process's stat file, by its number in proc(5) from 3 on; "" if there is no such process.
func statField(root string, pid, number int) string {
	text, err := readBounded(filepath.Join(root, strconv.Itoa(pid), "stat"))
	if err != nil {
		return ""
	}
	// The command is in parentheses and may hold anything, so that only what follows the last one can be counted on.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) <= number-3 {
		return ""
	}
	return fields[number-3]
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSmallFile))
}
