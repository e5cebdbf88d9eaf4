package agent

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"iapi/catalog"
	"iapi/collectors"
	"iapi/collectors/collect"
	"iapi/collectors/dtrace"
	"iapi/measure"
)

// needTracer makes sure that this machine can trace: it skips the test where it cannot, but fails where CI=true.
func needTracer(t *testing.T) {
	t.Helper()
	missing := ""
	switch {
	case os.Geteuid() != 0:
		missing = "tracing needs root"
	case collect.Command("bpftrace") == "":
		missing = "bpftrace is not installed"
	default:
		if _, err := os.Stat("/sys/kernel/tracing/events"); err != nil {
			if err := unix.Mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
				missing = "tracefs cannot be mounted: " + err.Error()
			}
		}
	}
	if missing == "" {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(missing)
	}
	t.Skip(missing)
}

// tracers are the processes of bpftrace that this one has started and that live.
func tracers(t *testing.T) (pids []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/children")
	require.NoError(t, err)
	for _, file := range files {
		text, _ := os.ReadFile(file) // the thread may have ended
		for _, field := range strings.Fields(string(text)) {
			stat, _ := os.ReadFile("/proc/" + field + "/stat") // and so may the process
			if _, state, found := strings.Cut(string(stat), "(bpftrace) "); found && !strings.HasPrefix(state, "Z") {
				pid, err := strconv.Atoi(field)
				require.NoError(t, err)
				pids = append(pids, pid)
			}
		}
	}
	slices.Sort(pids)
	return pids
}

// I5 with all that is real but the API and the wall clock: the one is gone and the other is set while a program traces. It
// measures on as the clock says, is never restarted, and ends when its time to live has passed by the clock that nobody sets.
func TestATracerOutlivesItsTimeByNoClockAndWithoutTheAPI(t *testing.T) {
	needTracer(t)
	r := newRig(t)
	r.clock = &wallClock{}
	engine, err := dtrace.New(dtrace.Options{StartTimeout: time.Minute, Wall: r.clock.now})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, engine.Close()) })
	r.collectors = collectors.New(collectors.Options{Tracer: engine})
	embedded, err := catalog.Embedded()
	require.NoError(t, err)
	d, found := embedded.DefinitionOf("syscall.syscalls")
	require.True(t, found)
	r.session.documents[d.Digest] = d.Document
	r.start()
	item := r.item("i-1")
	item.Metric, item.DefinitionDigest = d.Metric.Name, d.Digest
	r.assign(1, item)
	// counted tells whether system calls of whole intervals were counted that began within a minute of a time.
	counted := func(since time.Time) func() bool {
		return func() bool {
			r.queue.mu.Lock()
			defer r.queue.mu.Unlock()
			return slices.ContainsFunc(r.queue.points, func(p measure.Point) bool {
				return p.Value > 0 && !p.Partial && p.Start.After(since.Add(-time.Second)) && p.Start.Before(since.Add(time.Minute))
			})
		}
	}
	require.Eventually(t, counted(r.clock.now()), time.Minute, 5*time.Millisecond, "it measures")
	running := tracers(t)
	require.Len(t, running, 1)

	r.session.mu.Lock()
	r.session.reportErr = errors.New("the API is gone")
	r.session.mu.Unlock()
	r.clock.step(-time.Hour)
	require.Eventually(t, counted(r.clock.now()), 30*time.Second, 5*time.Millisecond, "it measures at the new time")
	require.Equal(t, running, tracers(t))

	const left = 1500 * time.Millisecond
	given := time.Now()
	expires := given.Add(left)
	item.ExpiresAt, item.Revision = &expires, 2
	r.assign(2, item) // the last that is heard of the API
	r.clock.step(-24 * time.Hour)
	require.Eventually(t, func() bool { return len(tracers(t)) == 0 }, 30*time.Second, 5*time.Millisecond, "it ends")
	require.WithinRange(t, time.Now(), given.Add(left), given.Add(left+2*time.Second), "a second, and another one for a busy machine")
}
