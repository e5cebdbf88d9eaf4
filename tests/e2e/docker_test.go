package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/testcontainers/testcontainers-go"

	"iapi/collectors/zone"
)

// runContainer builds an image from nothing but a program, and runs it with labels.
func runContainer(t testing.TB, labels map[string]string) (vm uuid.UUID, stop func()) {
	t.Helper()
	ctx := context.Background()
	provider, err := testcontainers.NewDockerProvider()
	if err == nil {
		err = provider.Health(ctx)
		_ = provider.Close()
	}
	need(t, err == nil, "a Docker engine")
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "busy"), "./testdata/busy")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY busy /busy\nENTRYPOINT [\"/busy\"]\n"), 0o600))
	c, err := testcontainers.Run(ctx, "", testcontainers.WithDockerfile(testcontainers.FromDockerfile{Context: dir, Repo: "iapi-test-busy", Tag: "1"}),
		testcontainers.WithLabels(labels))
	testcontainers.CleanupContainer(t, c)
	require.NoError(t, err)
	return uuid.NewSHA1(zone.Namespace, []byte(c.GetContainerID())), func() {
		require.NoError(t, c.Stop(ctx, new(time.Duration)))
	}
}

// A container is a VM, its labels are its tags, and a scope by tag finds those that come later.
func TestContainersAreVMsAndTheirLabelsTags(t *testing.T) {
	t.Parallel()
	need(t, os.Getuid() == 0, "root")
	first, stopFirst := runContainer(t, map[string]string{"role": "worker"})
	d := startDev(t, t.TempDir())
	a := d.api()
	id := a.create("cpu.usage", "--vm-tag", "role=worker")
	v := a.becomes(id, "ENABLED")
	require.Equal(t, 1, v.Coverage.Expected)

	second, _ := runContainer(t, map[string]string{"role": "worker"})
	other, _ := runContainer(t, map[string]string{"role": "idler"})
	require.True(t, wait(patience, func() bool { return a.get(id).Coverage.Running == 2 }), "the container that came later is measured too")
	seen := map[string]float64{}
	wait(patience, func() bool {
		for _, e := range a.watch(id, "4s") {
			seen[e.VM] += e.value(t)
		}
		return seen[first.String()] > 20 && seen[second.String()] > 0
	})
	require.Contains(t, seen, first.String())
	require.Contains(t, seen, second.String())
	require.NotContains(t, seen, other.String())
	require.Greater(t, seen[first.String()], 20.0)

	stopFirst()
	require.True(t, wait(patience, func() bool {
		var vms []struct{ UUID, State string }
		var p struct {
			VMs struct {
				Nodes []struct{ UUID, State string }
			}
		}
		require.NoError(t, json.Unmarshal([]byte(a.run("preview", "--vm-tag", "role=worker", "-o", "json")), &p))
		vms = p.VMs.Nodes
		return len(vms) == 2 && (vms[0].State == "stopped" || vms[1].State == "stopped")
	}), "a stopped container is a stopped VM")
	require.Equal(t, 0, a.get(id).Coverage.Failed, "a stopped zone armed on its host counts as running")
}
