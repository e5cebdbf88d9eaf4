package main

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// tick is what /proc counts processor time in.
const tick = 10 * time.Millisecond

// meter watches how much of the processors is used by others than the given processes, this one included.
type meter struct {
	pids             []int
	busy, total, own time.Duration
}

func newMeter(pids ...int) *meter {
	m := &meter{pids: append(pids, os.Getpid())}
	m.busy, m.total, m.own = m.read()
	return m
}

// others is the share since the start, 0 where /proc does not tell.
func (m *meter) others() float64 {
	busy, total, own := m.read()
	if total <= m.total {
		return 0
	}
	return max(0, float64((busy-m.busy)-(own-m.own))/float64(total-m.total))
}

func (m *meter) read() (busy, total, own time.Duration) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line)[1:] {
		n, _ := strconv.ParseInt(field, 10, 64)
		if i > 7 { // guests are counted with the users already
			break
		}
		total += time.Duration(n) * tick
		if i != 3 && i != 4 { // idle, and waiting for disks
			busy += time.Duration(n) * tick
		}
	}
	for _, pid := range m.pids {
		own += cpuOf(pid)
	}
	return busy, total, own
}

// cpuOf is the processor time that a process has used, 0 if it is gone.
func cpuOf(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * tick
}

// storeCPU is the processor time that the store has used, as it says itself.
func storeCPU(ctx context.Context, client redis.UniversalClient) (time.Duration, error) {
	text, err := client.Info(ctx, "cpu").Result()
	if err != nil {
		return 0, fmt.Errorf("ask the store for its processor time: %w", err)
	}
	var sum float64
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_user" || name == "used_cpu_sys" {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return 0, fmt.Errorf("ask the store for its processor time: %w", err)
			}
			sum += n
		}
	}
	return time.Duration(sum * float64(time.Second)), nil
}

func keys[V any](m map[string]V) iter.Seq[string] { return maps.Keys(m) }
