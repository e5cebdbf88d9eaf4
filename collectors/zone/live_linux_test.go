package zone_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/collectors"
	"iapi/collectors/internal/cgrouptest"
	"iapi/collectors/zone"
)

// patience is how long is waited for what a runtime does.
const patience = 2 * time.Minute

// busy keeps a CPU busy, with a process beside it: two processes in all.
const busy = "sleep 3600 & while :; do :; done"

// need skips a test without a part, but fails it where everything must be there.
func need(t *testing.T, there bool, what string) {
	t.Helper()
	switch {
	case there:
	case os.Getenv("CI") == "true":
		t.Fatalf("this needs %s", what)
	default:
		t.Skipf("this needs %s", what)
	}
}

// needToProve skips a test that is run only where somebody wants all proven and has the parts for it.
func needToProve(t *testing.T, programs ...string) {
	t.Helper()
	if os.Getenv("IAPI_PROVE") != "1" {
		t.Skip("run with IAPI_PROVE=1, as root, with " + strings.Join(programs, ", "))
	}
	for _, p := range append([]string{"sh"}, programs...) {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip("this needs " + p)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("this needs root")
	}
}

// needSystemd skips a test where systemd is not the init of this machine.
func needSystemd(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		t.Skip("this needs systemd as the init of this machine")
	}
}

// run runs a command to its end and gives what it prints.
func run(t *testing.T, command string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.WaitDelay = time.Second // what a command leaves running may hold its output
	out, err := cmd.CombinedOutput()
	if err != nil && !strings.Contains(err.Error(), "WaitDelay") {
		require.NoError(t, err, "%s: %s", strings.Join(cmd.Args, " "), out)
	}
	return strings.TrimSpace(string(out))
}

// try is run for clean-up: what is gone already is no failure.
func try(command string, args ...string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.WaitDelay = time.Second
	_ = cmd.Run()
}

// daemon starts a program and stops it by its id when the test ends.
func daemon(t *testing.T, env []string, command string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	cmd := exec.Command(command, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s: %s", command, text[max(0, len(text)-4000):])
		}
	})
}

// shortDir makes a directory whose path is short enough for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "iapi")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// removeCgroups removes a cgroup, which must be without processes, from all trees.
func removeCgroups(t *testing.T, path string) {
	t.Helper()
	for _, pattern := range []string{path, "/*" + path} {
		dirs, err := filepath.Glob(cgrouptest.Root + pattern)
		require.NoError(t, err)
		for _, dir := range dirs {
			require.Eventually(t, func() bool { err := os.Remove(dir); return err == nil || os.IsNotExist(err) }, patience, 5*time.Millisecond, dir)
		}
	}
}

// tidy removes empty cgroups that a runtime leaves behind for the next time, when the test ends.
func tidy(t *testing.T, paths ...string) {
	t.Helper()
	t.Cleanup(func() {
		for _, path := range paths {
			for _, pattern := range []string{path, "/*" + path} {
				dirs, _ := filepath.Glob(cgrouptest.Root + pattern)
				for _, dir := range dirs {
					_ = os.Remove(dir) // it may be in use
				}
			}
		}
	})
}

// following gives a resolver that follows this machine's zones until the test ends.
func following(t *testing.T, o zone.Options) *zone.Resolver {
	t.Helper()
	o.Host = host
	if o.Sockets == nil {
		o.Sockets = []string{}
	}
	r, err := zone.New(o)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	return r
}

// becomes waits until a zone is in a state, "" being none, and gives it.
func becomes(t *testing.T, r *zone.Resolver, id uuid.UUID, state string) zone.Zone {
	t.Helper()
	var z zone.Zone
	if !wait(func() bool {
		z, _ = r.Lookup(id)
		return z.State == state && (state != zone.Running || z.InitPID != 0)
	}) {
		all, _ := r.List(t.Context())
		require.Fail(t, "the zone does not become as it should", "%s is %q, not %q, of %+v", id, z.State, state, all)
	}
	return z
}

func wait(until func() bool) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if until() {
			return true
		}
	}
	return false
}

// isBusy checks that a zone's processes are those of busy, with others before them, and that they are measured.
func isBusy(t *testing.T, r *zone.Resolver, z zone.Zone, others int) {
	t.Helper()
	require.True(t, wait(func() bool { // a runtime's own process may have been the first one, for a moment
		z, _ = r.Lookup(z.UUID)
		pids := processesOf(t, z)
		return len(pids) == others+2 && slices.Contains(pids, z.InitPID)
	}), "%v of %+v", processesOf(t, z), z)
	require.Equal(t, zone.StartTime("/proc", z.InitPID), z.InitTime)

	known, err := catalog.Embedded()
	require.NoError(t, err)
	registry := collectors.New(collectors.Options{Zones: r})
	measure := func(metric string, enough func(float64) bool) {
		d, found := known.DefinitionOf(metric)
		require.True(t, found)
		p, err := registry.Open(t.Context(), collectors.Request{ID: metric, Definition: d, Zones: []uuid.UUID{z.UUID}, Owner: uuid.New()})
		require.NoError(t, err)
		defer p.Close()
		last := collectors.Result{}
		require.True(t, wait(func() bool {
			last, err = p.Collect(t.Context(), time.Now())
			require.NoError(t, err)
			return len(last.Samples) == 1 && last.Samples[0].Zone == z.UUID && enough(last.Samples[0].Value)
		}), "%s: %+v", metric, last)
	}
	measure("cpu.usage", func(v float64) bool { return v > 10 })
	measure("unix.processes", func(v float64) bool { return v == float64(others+2) })
}

// processesOf finds a zone's processes by what each says of itself.
func processesOf(t *testing.T, z zone.Zone) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	require.NoError(t, err)
	var pids []int
	for _, file := range files {
		text, _ := os.ReadFile(file) // a process may have ended
		if slices.ContainsFunc(strings.Split(strings.TrimSpace(string(text)), "\n"), func(line string) bool {
			parts := strings.SplitN(line, ":", 3)
			return len(parts) == 3 && z.Cgroups.Holds(parts[2])
		}) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			require.NoError(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}
