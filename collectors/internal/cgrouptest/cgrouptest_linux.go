// Package cgrouptest makes real cgroups as a container runtime would, with real processes in them.
package cgrouptest

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/collectors/zone"
)

// Root is where this machine's cgroup trees are.
const Root = "/sys/fs/cgroup"

// Container is a cgroup named as Docker names it, in every tree of this machine.
type Container struct {
	ID   string
	dirs []string
}

// NewContainer makes the cgroups /docker/<64 hex> and removes them when the test ends. It needs root: without it the
// test is skipped, but fails where CI=true.
func NewContainer(t testing.TB) *Container {
	t.Helper()
	layout, err := zone.ReadLayout(Root)
	require.NoError(t, err)
	if os.Geteuid() != 0 || layout.Mode == zone.None {
		if os.Getenv("CI") == "true" {
			t.Fatal("making cgroups needs root and a cgroup tree")
		}
		t.Skip("making cgroups needs root and a cgroup tree")
	}
	roots := map[string]bool{}
	for dir := range maps.Values(layout.V1) {
		roots[dir] = true
	}
	if layout.Unified != "" {
		roots[layout.Unified] = true
	}
	c := &Container{ID: RandomID()}
	for root := range roots {
		parent := filepath.Join(root, "docker")
		dir := filepath.Join(parent, c.ID)
		if layout.Mode == zone.V2 {
			enableControllers(root)
		}
		made := os.Mkdir(parent, 0o755) == nil
		if layout.Mode == zone.V2 {
			enableControllers(parent)
		}
		require.NoError(t, os.Mkdir(dir, 0o755))
		c.dirs = append(c.dirs, dir)
		t.Cleanup(func() {
			// A cgroup can be removed once the kernel has buried its last process, a moment after it was killed.
			require.Eventually(t, func() bool {
				err := os.Remove(dir)
				return err == nil || errors.Is(err, fs.ErrNotExist)
			}, time.Minute, 5*time.Millisecond)
			if made {
				_ = os.Remove(parent) // another test may be using it
			}
		})
	}
	return c
}

// enableControllers passes on what a v2 cgroup can; which ones it has differs from machine to machine.
func enableControllers(dir string) {
	for _, c := range []string{"+cpu", "+memory", "+pids", "+io"} {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(c), 0o644)
	}
}

// RandomID makes a container id.
func RandomID() string {
	raw := make([]byte, 32)
	for i := range raw {
		raw[i] = byte(rand.Uint32())
	}
	return hex.EncodeToString(raw)
}

// Run starts a shell script in the container and returns its process id. It is killed, with its children, when the
// test ends.
func (c *Container) Run(t testing.TB, script string) int {
	t.Helper()
	// The shell waits for a line, so that everything it does is done inside the cgroup.
	cmd := exec.Command("/bin/sh", "-c", "read go\n"+script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	for _, dir := range c.dirs {
		if filepath.Base(filepath.Dir(filepath.Dir(dir))) == "cpuset" {
			continue // takes no process until it was given CPUs
		}
		pid := []byte(strconv.Itoa(cmd.Process.Pid))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), pid, 0o644))
	}
	_, err = in.Write([]byte("go\n"))
	require.NoError(t, err)
	return cmd.Process.Pid
}

// Nested makes a cgroup inside the container's v2 cgroup, "" if there is no v2 tree.
func (c *Container) Nested(t testing.TB, name string) string {
	t.Helper()
	for _, dir := range c.dirs {
		root := filepath.Dir(filepath.Dir(dir))
		if _, err := os.Lstat(filepath.Join(root, "cgroup.controllers")); err != nil {
			continue
		}
		nested := filepath.Join(dir, name)
		require.NoError(t, os.Mkdir(nested, 0o755))
		t.Cleanup(func() { _ = os.Remove(nested) })
		return nested
	}
	return ""
}

// Remove removes the container's cgroups, which must have no process.
func (c *Container) Remove(t testing.TB) {
	t.Helper()
	for _, dir := range c.dirs {
		require.NoError(t, os.Remove(dir))
	}
}
