package dtrace

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"iapi/collectors/dtrace/program"
)

// sinceBoot is the clock of a program's nsecs. bpftrace takes the time since boot from every kernel that tells it (5.8 and
// later); on older ones the two differ after the machine has slept.
func sinceBoot() time.Duration { return clock(unix.CLOCK_BOOTTIME) }

// wallOffset is what is added to sinceBoot to give the time since 1970.
func wallOffset() time.Duration { return clock(unix.CLOCK_REALTIME) - sinceBoot() }

func clock(id int32) time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(id, &now); err != nil {
		panic("the kernel has no clock: " + err.Error())
	}
	return time.Duration(now.Nano())
}

// meterPrograms has the kernel measure the time of BPF programs until the function that it gives is called.
func meterPrograms(log *slog.Logger) func() {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		log.Debug("the kernel does not measure BPF programs; only the tracers' own time counts", "error", err)
		return func() {}
	}
	return func() { _ = stats.Close() }
}

// liveMaps are the maps of a running program that are changed from outside.
type liveMaps struct {
	mu   sync.Mutex
	maps map[string]*ebpf.Map
}

// open finds the maps by the names that bpftrace gives them.
func (l *liveMaps) open(proc string, pid int) error {
	found := map[string]*ebpf.Map{}
	err := eachFD(proc, pid, func(text []byte) error {
		id, has := fdValue(text, "map_id:")
		if !has {
			return nil
		}
		m, err := ebpf.NewMapFromID(ebpf.MapID(id))
		if err != nil {
			return fmt.Errorf("open map %d: %w", id, err)
		}
		if info, err := m.Info(); err == nil {
			if name, is := strings.CutPrefix(info.Name, "AT_"); is && wantsMap(name) && found[name] == nil {
				found[name] = m
				return nil
			}
		}
		return m.Close()
	})
	l.mu.Lock()
	l.maps = found
	l.mu.Unlock()
	if err != nil {
		l.close()
	}
	return err
}

func wantsMap(name string) bool {
	return name == program.ScopeMap || name == program.OffsetMap || name == program.EndMap || name == program.EveryMap
}

func (l *liveMaps) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.maps {
		_ = m.Close() // nothing is kept in a descriptor
	}
	l.maps = nil
}

var errNoMap = errors.New("the program has no such map, or has ended")

// set stores a value of 64 bits under a key of 64 bits.
func (l *liveMaps) set(name string, key, value uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.maps[name]
	if m == nil {
		return fmt.Errorf("%s: %w", name, errNoMap)
	}
	return m.Put(key, value)
}

// put stores the value of a map that has no keys for the program, and the key 0 for the kernel.
func (l *liveMaps) put(name string, value uint64) error { return l.set(name, 0, value) }

func (l *liveMaps) remove(name string, key uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.maps[name]
	if m == nil {
		return fmt.Errorf("%s: %w", name, errNoMap)
	}
	if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

// eachFD calls fn for what the kernel tells of each descriptor of a process.
func eachFD(proc string, pid int, fn func(text []byte) error) error {
	dir := filepath.Join(proc, strconv.Itoa(pid), "fdinfo")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list the tracer's descriptors: %w", err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read the tracer's descriptor: %w", err)
		}
		if err := fn(text); err != nil {
			return err
		}
	}
	return nil
}

// fdValue finds a line such as "map_id:	12".
func fdValue(text []byte, name string) (uint64, bool) {
	for line := range bytes.Lines(text) {
		if rest, is := bytes.CutPrefix(line, []byte(name)); is {
			n, err := strconv.ParseUint(string(bytes.TrimSpace(rest)), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// ticksPerSecond is USER_HZ, which Linux fixes for all that it tells to programs.
const ticksPerSecond = 100

// cost is the CPU time that a tracer has used so far: its own, and that of its programs in whatever they interrupted.
func cost(proc string, pid int) (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, fmt.Errorf("read the tracer's time: %w", err)
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 13 {
		return 0, errors.New("read the tracer's time: the line is too short")
	}
	var total time.Duration
	for _, field := range fields[11:13] { // user and system time
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the tracer's time: %w", err)
		}
		total += time.Duration(ticks) * time.Second / ticksPerSecond
	}
	err = eachFD(proc, pid, func(text []byte) error {
		if ns, has := fdValue(text, "run_time_ns:"); has {
			total += time.Duration(ns)
		}
		return nil
	})
	return total, err
}
