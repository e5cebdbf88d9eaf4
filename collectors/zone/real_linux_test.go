package zone_test

import (
	"context"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/collectors/internal/cgrouptest"
	"iapi/collectors/zone"
)

func TestRealCgroupsAppearAndGo(t *testing.T) {
	c := cgrouptest.NewContainer(t)
	pid := c.Run(t, "while :; do sleep 60; done")
	nested := c.Nested(t, "inner")

	r := resolver(t, zone.Options{Interval: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	id := byHash(c.ID)
	require.Eventually(t, func() bool { _, ok := r.Lookup(id); return ok }, time.Minute, time.Millisecond)
	z, _ := r.Lookup(id)
	require.Equal(t, "docker", z.Runtime)
	require.Equal(t, pid, z.InitPID)
	require.Equal(t, zone.StartTime("/proc", pid), z.InitTime)
	if nested != "" {
		info, err := os.Stat(nested)
		require.NoError(t, err)
		require.Contains(t, z.Cgroups.IDs, info.Sys().(*syscall.Stat_t).Ino)
		require.Len(t, z.Cgroups.IDs, 2)
	}

	later := cgrouptest.NewContainer(t)
	require.Eventually(t, func() bool { _, ok := r.Lookup(byHash(later.ID)); return ok }, time.Minute, time.Millisecond)
	later.Remove(t)
	require.Eventually(t, func() bool { _, ok := r.Lookup(byHash(later.ID)); return !ok }, time.Minute, time.Millisecond)
	cancel()
	require.NoError(t, <-done)
}
